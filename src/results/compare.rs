//! My runs beside a record: what agrees within the spread of the seeds, and what does not.

use super::record::{Record, Stat};
use crate::error::{Error, Result};

/// Differences above this many pooled standard deviations count as different.
pub const LIMIT: f64 = 3.0;

/// A setting's final value in both.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: String,
    pub metric: String,
    pub mine: Stat,
    pub theirs: Stat,
    /// (mine - theirs) / sqrt((std_mine^2 + std_theirs^2) / 2). One seed has no spread: the other side's
    /// is taken. NaN if neither has one, 0 if the means agree to 1e-6 relative or both diverged, infinite
    /// if one did.
    pub deviation: f64,
}

impl Row {
    pub fn agrees(&self) -> bool {
        self.deviation.abs() <= LIMIT
    }

    pub fn verdict(&self) -> &'static str {
        match self.deviation {
            d if d.is_nan() => "no spread",
            d if d.abs() <= LIMIT => "agrees",
            _ => "differs",
        }
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
/// Ids match letter for letter or, failing that, with numbers compared as numbers (`1` and `1.0`).
pub fn compare(mine: &Record, theirs: &Record, metrics: &[&str]) -> Result<Comparison> {
    let last = |r: &Record| r.epochs[r.epochs.len() - 1];
    if last(mine) != last(theirs) {
        return Err(Error::usage(format!(
            "{} ends with epoch {}, {} with epoch {}: their last values cannot be compared",
            mine.name,
            last(mine),
            theirs.name,
            last(theirs)
        )));
    }
    let mut out = Comparison {
        rows: Vec::new(),
        only_mine: Vec::new(),
        only_theirs: Vec::new(),
    };
    let mut met = vec![false; theirs.settings.len()];
    for setting in &mine.settings {
        let same = |exact: bool| {
            theirs.settings.iter().position(|s| {
                if exact {
                    s.id == setting.id
                } else {
                    normal(&s.options) == normal(&setting.options)
                }
            })
        };
        let Some(twin) = same(true).or_else(|| same(false)) else {
            out.only_mine.push(setting.id.clone());
            continue;
        };
        met[twin] = true;
        for &metric in metrics {
            let mine_stat = mine.last(setting, mine.metric(metric)?, None);
            let theirs_stat = theirs.last(&theirs.settings[twin], theirs.metric(metric)?, None);
            out.rows.push(Row {
                id: setting.id.clone(),
                metric: metric.to_owned(),
                mine: mine_stat,
                theirs: theirs_stat,
                deviation: deviation(mine_stat, theirs_stat),
            });
        }
    }
    let missed = theirs.settings.iter().zip(met).filter(|(_, met)| !met);
    out.only_theirs = missed.map(|(s, _)| s.id.clone()).collect();
    Ok(out)
}

fn normal(options: &[(String, String)]) -> Vec<(&str, String)> {
    let number = |v: &str| {
        v.parse::<f64>()
            .map_or_else(|_| v.to_owned(), |x| x.to_string())
    };
    let mut all: Vec<_> = options
        .iter()
        .map(|(k, v)| (k.as_str(), number(v)))
        .collect();
    all.sort();
    all
}

fn deviation(a: Stat, b: Stat) -> f64 {
    match (a.mean.is_finite(), b.mean.is_finite()) {
        (false, false) => return 0.0,
        (true, true) => {}
        _ => return f64::INFINITY,
    }
    let difference = a.mean - b.mean;
    if difference.abs() <= 1e-6 * b.mean.abs() {
        return 0.0;
    }
    let spreads = [a.std, b.std].into_iter().filter(|s| !s.is_nan());
    let variance = spreads.clone().map(|s| s * s).sum::<f64>() / spreads.count() as f64;
    difference / variance.sqrt()
}
