//! Which method of an experiment is better, and whether the seeds say that this is more than chance.

use super::profile::Clock;
use super::record::{Cutoff, Record, Setting, Stat};
use super::statistics::{
    Lead, TTest, Z, bootstrap_differences, bootstrap_means, holm, mean_interval, paired,
    percentile_interval, reached, welch,
};
use crate::error::{Error, Result};

/// How differences are tested.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Testing {
    /// Pair the runs of one seed, which see the same batches; otherwise Welch's test.
    pub paired: bool,
    /// What p has to stay below; intervals are of level 1 - alpha.
    pub alpha: f64,
    /// Take intervals from the percentiles of as many resamples instead of Student's distribution.
    pub resamples: Option<usize>,
}

impl Testing {
    pub fn level(&self) -> f64 {
        1.0 - self.alpha
    }

    /// `Welch's t-test` or `paired t-test`.
    pub fn name(&self) -> &'static str {
        match self.paired {
            true => "paired t-test",
            false => "Welch's t-test",
        }
    }

    /// The difference between the final values of two settings, given by seed.
    pub fn difference(&self, a: &[(i64, f64)], b: &[(i64, f64)]) -> Tested {
        let pairs: Vec<(f64, f64)> = a
            .iter()
            .filter_map(|(seed, x)| Some((*x, b.iter().find(|(other, _)| other == seed)?.1)))
            .collect();
        if a.is_empty() || b.is_empty() {
            return Tested::Not("no single runs");
        }
        let (a, b): (Vec<f64>, Vec<f64>) = match self.paired {
            true if pairs.is_empty() => return Tested::Not(NO_PAIRS),
            true => pairs.into_iter().unzip(),
            false => (values(a), values(b)),
        };
        if !a.iter().chain(&b).all(|x| x.is_finite()) {
            return Tested::Not("diverged");
        }
        let test = match self.paired {
            true => paired(&a, &b, self.level()),
            false => welch(&a, &b, self.level()),
        };
        let Some(mut test) = test else {
            return Tested::Not(match self.paired {
                true => "one common seed",
                false => "one seed",
            });
        };
        if let Some(resamples) = self.resamples {
            let drawn = match self.paired {
                true => {
                    let differences = a.iter().zip(&b).map(|(a, b)| a - b);
                    bootstrap_means(&differences.collect::<Vec<_>>(), resamples)
                }
                false => bootstrap_differences(&a, &b, resamples),
            };
            test.interval = percentile_interval(&drawn, self.level());
        }
        let corrected = test.p;
        Tested::Test { test, corrected }
    }

    /// The interval of a setting's mean; none for one seed, or where a run diverged.
    fn interval(&self, finals: &[(i64, f64)]) -> Option<[f64; 2]> {
        let all = values(finals);
        if !all.iter().all(|x| x.is_finite()) {
            return None;
        }
        let by_t = mean_interval(&all, self.level())?;
        Some(self.resamples.map_or(by_t, |resamples| {
            percentile_interval(&bootstrap_means(&all, resamples), self.level())
        }))
    }
}

fn values(finals: &[(i64, f64)]) -> Vec<f64> {
    finals.iter().map(|(_, x)| *x).collect()
}

const NO_PAIRS: &str = "no common seeds";

/// A difference and its test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tested {
    Test {
        test: TTest,
        /// p, corrected for all tests of the family.
        corrected: f64,
    },
    /// Why there is no test.
    Not(&'static str),
}

impl Tested {
    /// Whether the difference is more than chance. Equal values (p is NaN) are not.
    pub fn significant(&self, alpha: f64) -> bool {
        matches!(self, Tested::Test { corrected, .. } if *corrected < alpha)
    }
}

/// Corrects the p-values of a family of tests.
///
/// # Errors
/// A usage error if pairs were wanted and no test found any.
pub fn correct<'a>(tests: impl Iterator<Item = &'a mut Tested>) -> Result<()> {
    let mut all: Vec<&mut Tested> = tests.collect();
    if !all.is_empty() && all.iter().all(|test| **test == Tested::Not(NO_PAIRS)) {
        return Err(Error::usage(
            "no seeds in common: nothing can be paired (leave out --paired for Welch's test)",
        ));
    }
    let p: Vec<f64> = all
        .iter()
        .map(|tested| match tested {
            Tested::Test { test, .. } => test.p,
            Tested::Not(_) => f64::NAN,
        })
        .collect();
    for (tested, p) in all.iter_mut().zip(holm(&p)) {
        if let Tested::Test { corrected, .. } = tested {
            *corrected = p;
        }
    }
    Ok(())
}

/// What methods are compared by.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    pub metric: &'a str,
    pub cutoff: Option<Cutoff>,
    /// All methods if empty.
    pub methods: &'a [String],
    /// What the others are tested against; the best method if none.
    pub baseline: Option<&'a str>,
    pub testing: Testing,
}

/// The best settings of methods beside each other.
#[derive(Clone, Debug)]
pub struct Contest {
    /// The experiment.
    pub title: String,
    pub metric: String,
    /// Is the metric an accuracy?
    pub accuracy: bool,
    pub baseline: String,
    /// Best first.
    pub contestants: Vec<Contestant>,
}

#[derive(Clone, Debug)]
pub struct Contestant {
    pub method: String,
    /// The setting's label.
    pub setting: String,
    /// Runs behind its values; 0 where a record does not say.
    pub seeds: usize,
    pub last: Stat,
    pub interval: Option<[f64; 2]>,
    /// Its value less the baseline's; none for the baseline.
    pub tested: Option<Tested>,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Baseline,
    Better,
    Worse,
    /// The seeds do not tell.
    Open,
    /// There are too few seeds, or runs diverged.
    Untested,
}

impl Outcome {
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Baseline => "baseline",
            Outcome::Better => "better",
            Outcome::Worse => "worse",
            Outcome::Open => "open",
            Outcome::Untested => "not tested",
        }
    }
}

/// The methods that a query names, all if it names none.
fn methods<'a>(record: &'a Record, wanted: &[String]) -> Result<Vec<&'a str>> {
    let all = record.methods();
    if let Some(method) = wanted.iter().find(|m| !all.contains(&m.as_str())) {
        return Err(unknown(record, method));
    }
    let chosen = all.into_iter();
    Ok(chosen
        .filter(|m| wanted.is_empty() || wanted.iter().any(|w| w == m))
        .collect())
}

fn unknown(record: &Record, method: &str) -> Error {
    let (title, all) = (record.title(), record.methods().join(", "));
    Error::usage(format!("{title} has no method {method:?}: it has {all}"))
}

/// Tests the best setting of every method against that of the baseline, and corrects p by Holm.
///
/// # Errors
/// A usage error if the record lacks the metric or a method, or if pairs were wanted and there are none.
pub fn contest(record: &Record, query: &Query) -> Result<Contest> {
    let metric = record.metric(query.metric)?;
    let up = record.higher_is_better(query.metric);
    let mut wanted = query.methods.to_vec();
    if let Some(baseline) = query.baseline {
        if !record.methods().contains(&baseline) {
            return Err(unknown(record, baseline));
        }
        if !wanted.is_empty() {
            wanted.push(baseline.to_owned());
        }
    }
    let best = methods(record, &wanted)?.into_iter();
    let best = best.filter_map(|m| record.ranking(m, metric, query.cutoff).first().copied());
    let mut settings: Vec<(&Setting, Stat, bool)> = best
        .map(|s| {
            let last = record.last(s, metric, query.cutoff);
            let lost = record.diverged(s, query.cutoff) || !last.mean.is_finite();
            (s, last, lost)
        })
        .collect();
    settings.sort_by(|a, b| {
        let (x, y) = (a.1.mean, b.1.mean);
        let better = if up { y.total_cmp(&x) } else { x.total_cmp(&y) };
        a.2.cmp(&b.2).then(better)
    });
    let named = |s: &&(&Setting, Stat, bool)| Some(s.0.method()) == query.baseline;
    let baseline = settings.iter().find(named).or(settings.first());
    let Some(&(baseline, ..)) = baseline else {
        let title = record.title();
        return Err(Error::usage(format!(
            "{title}: no method has {} to the end",
            query.metric
        )));
    };
    let of_baseline = record.finals(baseline, metric, query.cutoff);
    let mut contestants: Vec<Contestant> = settings
        .into_iter()
        .map(|(setting, last, lost)| {
            let finals = record.finals(setting, metric, query.cutoff);
            let itself = setting.method() == baseline.method();
            Contestant {
                method: setting.method().to_owned(),
                setting: setting.label(),
                seeds: finals.len(),
                last,
                interval: query.testing.interval(&finals).filter(|_| !lost),
                tested: (!itself).then(|| match lost {
                    true => Tested::Not("diverged"),
                    false => query.testing.difference(&finals, &of_baseline),
                }),
                outcome: Outcome::Baseline,
            }
        })
        .collect();
    correct(contestants.iter_mut().filter_map(|c| c.tested.as_mut()))?;
    for one in &mut contestants {
        let Some(tested) = one.tested else { continue };
        one.outcome = match tested {
            Tested::Not(_) => Outcome::Untested,
            Tested::Test { .. } if !tested.significant(query.testing.alpha) => Outcome::Open,
            Tested::Test { test, .. } if (test.difference > 0.0) == up => Outcome::Better,
            Tested::Test { .. } => Outcome::Worse,
        };
    }
    Ok(Contest {
        title: record.title(),
        metric: query.metric.to_owned(),
        accuracy: up,
        baseline: baseline.method().to_owned(),
        contestants,
    })
}

impl Contest {
    /// How many tests were made.
    pub fn tests(&self) -> usize {
        let tested = |one: &&Contestant| matches!(one.tested, Some(Tested::Test { .. }));
        self.contestants.iter().filter(tested).count()
    }

    /// What came out, in plain words.
    pub fn conclusion(&self, alpha: f64) -> String {
        let baseline = &self.baseline;
        if self.contestants.len() == 1 {
            return format!("{baseline} is the only method");
        }
        if self.tests() == 0 {
            return "nothing could be tested".into();
        }
        let said = [
            (Outcome::Worse, format!("{baseline} is better than")),
            (Outcome::Better, format!("{baseline} is worse than")),
            (
                Outcome::Open,
                format!("{baseline} cannot be distinguished from"),
            ),
            (Outcome::Untested, "not tested:".to_owned()),
        ];
        let said = said.into_iter().filter_map(|(outcome, words)| {
            let some = self.contestants.iter().filter(|c| c.outcome == outcome);
            let some: Vec<&str> = some.map(|c| c.method.as_str()).collect();
            (!some.is_empty()).then(|| format!("{words} {}", some.join(", ")))
        });
        let said: Vec<String> = said.collect();
        format!("at alpha = {alpha}, {}", said.join("; "))
    }
}

/// What is asked of a race to a target.
#[derive(Clone, Copy, Debug)]
pub struct Race<'a> {
    pub metric: &'a str,
    pub target: f64,
    /// All methods if empty.
    pub methods: &'a [String],
    /// What time is counted in.
    pub clock: Clock,
    /// Standard deviation of one run; pooled over the seeds of the settings if none.
    pub sigma: Option<f64>,
}

/// When methods reach a target, first one first.
#[derive(Clone, Debug)]
pub struct Arrivals {
    pub title: String,
    pub accuracy: bool,
    /// Standard deviation of one run; NaN where no setting has several seeds.
    pub sigma: f64,
    pub runners: Vec<Runner>,
}

/// A method's setting whose mean reaches the target first.
#[derive(Clone, Debug)]
pub struct Runner {
    pub method: String,
    pub setting: String,
    pub seeds: usize,
    /// Time, in units of the clock, until the mean is at the target; infinite if it never is.
    pub first: f64,
    /// Time until it is past the target by 3.09 standard errors.
    pub significant: f64,
    /// How far it is behind the first runner when that one is at the target, in standard deviations of a difference; none
    /// for the first runner, or where sigma is not known. More than 3.09 is significant.
    pub behind: Option<f64>,
}

/// When the mean curves of methods reach a target, and when it is more than chance that they did.
///
/// # Errors
/// A usage error if the record lacks the metric, a method, or the times that the clock counts.
pub fn race(record: &Record, race: &Race) -> Result<Arrivals> {
    let metric = record.metric(race.metric)?;
    let up = record.higher_is_better(race.metric);
    let gaps = |setting: &Setting| -> Vec<f64> {
        let mean = setting.curves[metric].mean.iter();
        mean.map(|m| if up { m - race.target } else { race.target - m })
            .collect()
    };
    // When the mean is at the target, if it ever is, and the times of all epochs.
    let timed = |setting| {
        let times = times(setting, race.clock).ok_or_else(|| {
            let (title, unit) = (record.title(), race.clock.unit());
            Error::usage(format!("{title}: {unit} are not known; count epochs"))
        })?;
        let row = gaps(setting).iter().position(|&gap| gap >= 0.0);
        Ok((row.map_or(f64::INFINITY, |row| times[row]), times, setting))
    };
    let mut fastest: Vec<(f64, Vec<f64>, &Setting)> = Vec::new();
    for method in methods(record, race.methods)? {
        let ranked = record.ranking(method, metric, None).into_iter();
        let ranked = ranked.map(timed).collect::<Result<Vec<_>>>()?;
        // The best of those that arrive at the same time, or never.
        fastest.extend(ranked.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)));
    }
    fastest.sort_by(|a, b| a.0.total_cmp(&b.0));
    let settings: Vec<&Setting> = fastest.iter().map(|one| one.2).collect();
    let sigma = race
        .sigma
        .unwrap_or_else(|| pooled(record, &settings, metric));
    // How far past the target a setting was at a time, by its last evaluation until then.
    let gap_at = |time: f64, times: &[f64], setting: &Setting| {
        let row = times.partition_point(|&t| t <= time).checked_sub(1)?;
        Some(gaps(setting)[row])
    };
    let first = fastest.first().filter(|first| first.0.is_finite());
    let behind = |times: &[f64], setting: &Setting| {
        let (arrival, their_times, leader) = first?;
        // Both at the same time: as many steps.
        let lead = Lead {
            loss: gap_at(*arrival, their_times, leader)? - gap_at(*arrival, times, setting)?,
            steps: 0.0,
            loss_per_100_steps: 0.0,
            runs: [leader.runs.len(), setting.runs.len()],
        };
        Some(lead.statistic() / sigma).filter(|behind| behind.is_finite())
    };
    let runner = |(at, (arrival, times, setting)): (usize, &(f64, Vec<f64>, &Setting))| {
        let n = setting.runs.len();
        let significant = reached(&gaps(setting), n, sigma, Z).significant;
        Runner {
            method: setting.method().to_owned(),
            setting: setting.label(),
            seeds: n,
            first: *arrival,
            significant: significant
                .filter(|_| n > 0)
                .map_or(f64::INFINITY, |row| times[row]),
            behind: behind(times, setting).filter(|_| at > 0),
        }
    };
    let runners = fastest.iter().enumerate().map(runner).collect();
    Ok(Arrivals {
        title: record.title(),
        accuracy: up,
        sigma,
        runners,
    })
}

/// The standard deviation of one run around its setting's mean at the end, over all settings with several seeds.
fn pooled(record: &Record, settings: &[&Setting], metric: usize) -> f64 {
    let (mut squares, mut freedom) = (0.0, 0.0);
    for setting in settings {
        let (n, std) = (setting.runs.len(), record.last(setting, metric, None).std);
        if n > 1 && std.is_finite() {
            squares += (n - 1) as f64 * std * std;
            freedom += (n - 1) as f64;
        }
    }
    f64::sqrt(squares / freedom)
}

/// The mean over the runs of the time at the end of each epoch. A record has epochs alone.
fn times(setting: &Setting, clock: Clock) -> Option<Vec<f64>> {
    if setting.runs.is_empty() {
        let epochs = setting.epochs.iter();
        return (clock == Clock::Epochs).then(|| epochs.map(|&e| (e + 1) as f64).collect());
    }
    let all: Vec<Vec<f64>> = setting
        .runs
        .iter()
        .map(|run| clock.times(run))
        .collect::<Option<_>>()?;
    let mean = |row: usize| all.iter().map(|times| times[row]).sum::<f64>() / all.len() as f64;
    Some((0..setting.epochs.len()).map(mean).collect())
}
