//! My runs beside a record: what agrees within the spread of the seeds, and what does not.

use super::record::{Record, Setting, Stat, all_settings};
use super::significance::{Tested, Testing, correct};
use crate::error::{Error, Result};

/// Differences above this many pooled standard deviations count as different.
pub const LIMIT: f64 = 3.0;
/// Where neither side has a spread: relative differences above this count as different.
pub const RELATIVE_LIMIT: f64 = 0.01;

/// A setting's final value in both.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: String,
    /// The method and what sets the setting apart: `adam, lr=0.1`.
    pub label: String,
    pub metric: String,
    pub mine: Stat,
    pub theirs: Stat,
    pub deviation: Deviation,
    /// Is the metric an accuracy?
    pub accuracy: bool,
    /// Seeds behind both, where they are known and not the same.
    pub seeds: Option<[usize; 2]>,
    /// Mine less theirs, where a test was asked for.
    pub tested: Option<Tested>,
}

/// How far two final values are apart: 0 if the means agree to 1e-6 relative or both diverged, infinite if one did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Deviation {
    /// (mine - theirs) / sqrt((std_mine^2 + std_theirs^2) / 2). One seed has no spread: the other side's is taken.
    Pooled(f64),
    /// (mine - theirs) / |theirs|: neither side has a spread.
    Relative(f64),
}

impl Row {
    pub fn agrees(&self) -> bool {
        match self.deviation {
            Deviation::Pooled(d) => d.abs() <= LIMIT,
            Deviation::Relative(d) => d.abs() <= RELATIVE_LIMIT,
        }
    }

    pub fn verdict(&self) -> &'static str {
        if self.agrees() { "agrees" } else { "differs" }
    }
}

#[derive(Clone, Debug)]
pub struct Comparison {
    pub rows: Vec<Row>,
    pub only_mine: Vec<String>,
    pub only_theirs: Vec<String>,
}

/// Compares the last epochs, metric by metric, of all settings that both have.
///
/// Outputs are compared by everything that was chosen but the device. A record says less: there ids match letter
/// for letter or, failing that, with numbers compared as numbers (`1` and `1.0`). With `testing` each difference is tested
/// as well, with p corrected for all of them.
///
/// # Errors
/// A usage error if nothing is in common but settings of different lengths, if no record has one of the metrics, or if pairs
/// were wanted and there are none.
pub fn compare(
    mine: &[Record],
    theirs: &[Record],
    metrics: &[&str],
    testing: Option<&Testing>,
) -> Result<Comparison> {
    for records in [mine, theirs] {
        for metric in metrics {
            let places: Vec<_> = records.iter().map(|r| r.metric(metric)).collect();
            if places.iter().all(Result::is_err) {
                places
                    .into_iter()
                    .next()
                    .expect("no experiment without a record")?;
            }
        }
    }
    let mut out = Comparison {
        rows: Vec::new(),
        only_mine: Vec::new(),
        only_theirs: Vec::new(),
    };
    let all: Vec<(&Record, &Setting)> = all_settings(theirs).collect();
    let mut met = vec![false; all.len()];
    let mut lengths = None;
    for (record, setting) in all_settings(mine) {
        let twins = |same: fn(&Setting, &Setting) -> bool| {
            let places = 0..all.len();
            places
                .filter(|&at| same(setting, all[at].1))
                .collect::<Vec<_>>()
        };
        let twins = twins(same_id).into_iter().chain(twins(same_numbers));
        let (fitting, others): (Vec<usize>, Vec<usize>) =
            twins.partition(|&at| all[at].1.end() == setting.end());
        let Some(&twin) = fitting.first() else {
            lengths = lengths.or(others.first().map(|&at| (setting.end(), all[at].1.end())));
            out.only_mine.push(setting.id.clone());
            continue;
        };
        met[twin] = true;
        let (their_record, twin) = all[twin];
        for &metric in metrics {
            let last = |record: &Record, setting: &Setting| {
                let place = record.metric(metric).ok().filter(|&m| setting.has(m))?;
                let last = record.last(setting, place, None);
                Some((last, record.finals(setting, place, None)))
            };
            let (Some((a, mine)), Some((b, theirs))) =
                (last(record, setting), last(their_record, twin))
            else {
                continue;
            };
            let seeds = [setting.runs.len(), twin.runs.len()];
            out.rows.push(Row {
                id: setting.id.clone(),
                label: setting.name(),
                metric: metric.to_owned(),
                mine: a,
                theirs: b,
                deviation: deviation(a, b),
                accuracy: record.higher_is_better(metric),
                seeds: (seeds[0] != seeds[1] && !seeds.contains(&0)).then_some(seeds),
                tested: testing.map(|testing| testing.difference(&mine, &theirs)),
            });
        }
    }
    correct(out.rows.iter_mut().filter_map(|row| row.tested.as_mut()))?;
    let missed = all.iter().zip(met).filter(|(_, met)| !met);
    out.only_theirs = missed.map(|((_, s), _)| s.id.clone()).collect();
    match lengths {
        Some((a, b)) if out.rows.is_empty() => Err(Error::usage(format!(
            "my runs ({}) end with epoch {a}, those of the record ({}) with epoch {b}: their last values cannot be \
             compared",
            mine[0].name, theirs[0].name
        ))),
        _ => Ok(out),
    }
}

fn same_id(a: &Setting, b: &Setting) -> bool {
    match (a.runs.first(), b.runs.first()) {
        (Some(a), Some(b)) => a.identity.same_setting(&b.identity),
        _ => a.id == b.id,
    }
}

fn same_numbers(a: &Setting, b: &Setting) -> bool {
    let known = a.runs.is_empty() || b.runs.is_empty();
    known && normal(&a.options) == normal(&b.options)
}

/// Options in an order of their own. How many epochs there were, the record itself says.
fn normal(options: &[(String, String)]) -> Vec<(&str, String)> {
    let number = |v: &str| {
        v.parse::<f64>()
            .map_or_else(|_| v.to_owned(), |x| x.to_string())
    };
    let options = options.iter().filter(|o| o.0 != "max_epoch");
    let mut all: Vec<_> = options.map(|(k, v)| (k.as_str(), number(v))).collect();
    all.sort();
    all
}

fn deviation(a: Stat, b: Stat) -> Deviation {
    match (a.mean.is_finite(), b.mean.is_finite()) {
        (false, false) => return Deviation::Pooled(0.0),
        (true, true) => {}
        _ => return Deviation::Pooled(f64::INFINITY),
    }
    let difference = a.mean - b.mean;
    if difference.abs() <= 1e-6 * b.mean.abs() {
        return Deviation::Pooled(0.0);
    }
    let spreads: Vec<f64> = [a.std, b.std].into_iter().filter(|s| !s.is_nan()).collect();
    if spreads.is_empty() {
        return Deviation::Relative(difference / b.mean.abs());
    }
    let variance = spreads.iter().map(|s| s * s).sum::<f64>() / spreads.len() as f64;
    Deviation::Pooled(difference / variance.sqrt())
}
