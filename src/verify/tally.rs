//! Counting: what was compared, and how far off the worst of it is.

use super::ensemble::{Number, Numbers, sizes};
use super::goldens::Digest;
use super::goldens::number;
use crate::error::{Error, Kind, Result};

/// One line of the report.
#[derive(Clone, Debug)]
pub struct Check {
    pub about: String,
    pub cases: usize,
    pub numbers: usize,
    /// The largest error, and where it is.
    pub worst: f64,
    pub at: String,
    pub tolerance: f64,
    /// Why cases, or all of it, were left out.
    pub skipped: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    Failed,
    Skipped,
}

impl Check {
    /// Errors above `tolerance` fail.
    pub fn new(about: impl Into<String>, tolerance: f64) -> Check {
        Check {
            about: about.into(),
            cases: 0,
            numbers: 0,
            worst: 0.0,
            at: String::new(),
            tolerance,
            skipped: Vec::new(),
        }
    }

    pub fn skip(about: impl Into<String>, why: impl Into<String>) -> Check {
        let mut check = Check::new(about, 0.0);
        check.skipped.push(why.into());
        check
    }

    pub fn verdict(&self) -> Verdict {
        if self.numbers == 0 {
            Verdict::Skipped
        } else if self.worst <= self.tolerance {
            Verdict::Passed
        } else {
            Verdict::Failed
        }
    }

    /// Compares a number; the error is relative to `scale`. Numbers that are not finite must be the same.
    pub fn compare(&mut self, ours: f64, theirs: f64, scale: f64, at: impl FnOnce() -> String) {
        let same = ours == theirs || (ours.is_nan() && theirs.is_nan());
        let error = match (same, (ours - theirs).abs() / scale) {
            (true, _) => 0.0,
            (false, error) if error.is_nan() => f64::INFINITY,
            (false, error) => error,
        };
        self.count(error, || format!("{}: {ours} for {theirs}", at()));
    }

    /// Counts a number that is so far off.
    pub fn count(&mut self, error: f64, at: impl FnOnce() -> String) {
        self.numbers += 1;
        if error > self.worst || (self.at.is_empty() && error == self.worst) {
            self.worst = error;
            self.at = at();
        }
    }

    /// Compares those numbers that are `wanted`; errors are relative to the size of the tensor they belong to, or to
    /// `floor` where that is larger.
    pub fn compare_numbers(
        &mut self,
        name: &str,
        ours: &Numbers,
        theirs: &Numbers,
        floor: f64,
        wanted: impl Fn(&Number) -> bool,
    ) {
        self.cases += 1;
        let sizes = sizes(theirs.values().map(|number| (number, number.value)));
        for (at, number) in theirs.iter().filter(|(_, number)| wanted(number)) {
            let found = ours.get(at);
            let at = || format!("{name} {at}");
            match found {
                None => self.fail(format!("{}: missing", at())),
                Some(ours) => {
                    let size = sizes[&number.place()].max(floor);
                    self.compare(ours.value, number.value, size, at);
                }
            }
        }
        let extra = ours
            .iter()
            .find(|(at, number)| wanted(number) && !theirs.contains_key(*at));
        if let Some((at, _)) = extra {
            self.fail(format!("{name} {at}: not in the reference"));
        }
    }

    /// Compares numbers one by one, errors relative to each number.
    pub fn compare_all(&mut self, ours: &[f64], theirs: &[f64], at: &str) {
        self.compare_all_by(ours, theirs, f64::abs, at);
    }

    /// Compares numbers one by one, errors relative to what `scale` makes of each number.
    pub fn compare_all_by(
        &mut self,
        ours: &[f64],
        theirs: &[f64],
        scale: impl Fn(f64) -> f64,
        at: &str,
    ) {
        if ours.len() != theirs.len() {
            self.fail(format!("{at}: {} numbers for {}", ours.len(), theirs.len()));
        }
        for (i, (o, t)) in ours.iter().zip(theirs).enumerate() {
            self.compare(*o, *t, scale(*t), || format!("{at}[{i}]"));
        }
    }

    /// Compares a tensor's digest. Errors of values are relative to the tensor's root mean square, so that
    /// an entry near 0 counts as what it is; that of the sum to the sum of that many such values.
    pub fn compare_digest(&mut self, ours: &[f32], theirs: &Digest, at: &str) {
        if ours.len() != theirs.len() {
            self.fail(format!("{at}: {} values for {}", ours.len(), theirs.len()));
            return;
        }
        let l2 = number(&theirs.l2).unwrap_or(f64::NAN);
        let size = (l2 / (ours.len() as f64).sqrt()).max(f64::MIN_POSITIVE);
        let sum: f64 = ours.iter().map(|x| f64::from(*x)).sum();
        let squares: f64 = ours.iter().map(|x| f64::from(*x).powi(2)).sum();
        let total = number(&theirs.sum).unwrap_or(f64::NAN);
        let n = ours.len() as f64;
        self.compare(sum, total, size * n, || format!("{at} sum"));
        self.compare(squares.sqrt(), l2, size * n.sqrt(), || format!("{at} l2"));
        for (i, value) in theirs.shown() {
            self.compare(f64::from(ours[i]), value, size, || format!("{at}[{i}]"));
        }
    }

    /// Leaves out a case because of what is not here: data, a model, a method. Other errors end the command.
    pub fn skip_for(&mut self, error: Error) -> Result<()> {
        match error.kind {
            Kind::Io | Kind::Usage => self.skipped.push(error.message),
            _ => return Err(error),
        }
        Ok(())
    }

    /// A difference that no number can express.
    pub fn fail(&mut self, why: String) {
        self.numbers += 1;
        self.worst = f64::INFINITY;
        self.at = why;
    }
}
