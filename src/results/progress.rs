//! How far a sweep is, as seen from outside.
//!
//! Processes that train leave beside the output what they mean to do (`.<id>.runs/plan`); what has come of it they see, and
//! others too, by the files of runs that are finished, claimed or have failed. So nothing here reads the output itself
//! as long as somebody is at work on it, or has more to do.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::file::Stamp;
use super::loose::Loose;
use super::writers::{self, About, UnderWay};
use super::{file, output};
use crate::error::{Error, Result};

/// What processes at an output mean to do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// Runs that the output has, of those that are wanted.
    pub done: usize,
    /// The others, some of which may be finished since.
    pub left: Vec<Planned>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Planned {
    /// The hash of its identity.
    pub run: String,
    pub label: String,
    pub epochs: usize,
}

/// A sweep at a moment.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub output: PathBuf,
    pub done: usize,
    pub running: Vec<Running>,
    pub failed: Vec<Failed>,
    /// Runs that nobody has.
    pub to_go: usize,
    /// Until all are done, at the pace of those who are at work; none if that is not known.
    pub seconds_left: Option<f64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Running {
    pub run: String,
    pub pid: u32,
    pub host: String,
    /// When it last said that it is there, by its own clock; none of a process of this machine, which is there.
    pub heard: Option<String>,
    /// Not known in the first seconds of a run.
    #[serde(flatten)]
    pub under_way: Option<UnderWay>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Failed {
    pub run: String,
    pub error: String,
}

/// Looks at sweeps again and again. What has not changed since is not read again.
#[derive(Debug, Default)]
pub struct Watch {
    /// The runs of outputs that nobody is adding to.
    known: HashMap<PathBuf, (Stamp, usize)>,
}

impl Watch {
    /// How far a sweep is.
    ///
    /// # Errors
    /// A usage error if there is no such output, and none under way.
    pub fn status(&mut self, path: &Path) -> Result<Status> {
        let nothing = || {
            let path = path.display();
            Error::usage(format!("{path}: no such output, and nobody is training it"))
        };
        let target = file::target(path).map_err(|_| nothing())?;
        let loose = Loose::of(&target);
        if let Some(plan) = loose.plan()? {
            self.known.remove(path);
            return under_way(path, &target, &loose, plan);
        }
        // Nothing is left to do.
        let failed = |e| Error::io("read", path, &e);
        let stamp = Stamp::of(&target).map_err(failed)?.ok_or_else(nothing)?;
        let done = match self.known.get(path) {
            Some((before, done)) if *before == stamp => *done,
            _ => self.count(path, &loose, stamp)?,
        };
        Ok(Status {
            output: path.to_owned(),
            done,
            running: Vec::new(),
            failed: Vec::new(),
            to_go: 0,
            seconds_left: Some(0.0),
        })
    }

    fn count(&mut self, path: &Path, loose: &Loose, stamp: Stamp) -> Result<usize> {
        let done = output::count_runs(path, loose)?;
        let beside = loose.files();
        if beside.is_ok_and(|runs| runs.is_empty()) {
            self.known.insert(path.to_owned(), (stamp, done));
        }
        Ok(done)
    }

    /// All sweeps of a folder, by their ids.
    ///
    /// # Errors
    /// If the folder cannot be read. A sweep that cannot has an error of its own.
    pub fn folder(&mut self, dir: &Path) -> Result<Vec<(String, Result<Status>)>> {
        let under_way = Loose::outputs(dir).map_err(|e| Error::io("read", dir, &e))?;
        let mut ids = output::stems(dir, "json")?;
        ids.extend(under_way);
        let mut all = Vec::new();
        for id in ids {
            let path = dir.join(format!("{id}.json"));
            let status = self.status(&path);
            // Others may have ended, or removed it, in between.
            let gone = status.is_err() && !path.exists();
            all.extend((!gone).then_some((id, status)));
        }
        self.known.retain(|path, _| path.exists());
        Ok(all)
    }
}

fn under_way(path: &Path, target: &Path, loose: &Loose, plan: Plan) -> Result<Status> {
    let failed = |e| Error::io("read what is beside", path, &e);
    let at_work = writers::at_work(&file::beside(target, "writers")).map_err(failed)?;
    let claims = loose.claims().map_err(failed)?;
    let failures: BTreeSet<String> = loose.failed().map_err(failed)?.into_iter().collect();
    let finished = loose.finished().map_err(failed)?;
    let mut status = Status {
        output: path.to_owned(),
        done: plan.done,
        running: Vec::new(),
        failed: Vec::new(),
        to_go: 0,
        seconds_left: None,
    };
    let mut epochs = 0;
    for planned in &plan.left {
        let owner = || {
            let name = claims.get(&planned.run)?;
            at_work.iter().find(|(other, _)| other == name)
        };
        if finished.contains(&planned.run) {
            status.done += 1;
        } else if let Some((_, about)) = owner() {
            let under_way = about.runs.get(&planned.run).cloned();
            let trained = under_way.as_ref().map_or(0, |run| run.epochs);
            epochs += planned.epochs.saturating_sub(trained);
            status.running.push(Running {
                run: planned.label.clone(),
                pid: about.pid,
                host: about.host.clone(),
                heard: about.lives().is_none().then(|| about.beat.clone()),
                under_way,
            });
        } else if failures.contains(&planned.run) {
            status.failed.push(Failed {
                run: planned.label.clone(),
                error: loose.why(&planned.run),
            });
        } else {
            status.to_go += 1;
            epochs += planned.epochs;
        }
    }
    status.seconds_left = seconds_left(epochs, at_work.iter().map(|(_, about)| about));
    Ok(status)
}

fn seconds_left<'a>(epochs: usize, at_work: impl Iterator<Item = &'a About>) -> Option<f64> {
    let pace = at_work.filter(|about| about.seconds > 0.0);
    let pace: f64 = pace.map(|about| about.epochs as f64 / about.seconds).sum();
    match epochs {
        0 => Some(0.0),
        _ => (pace > 0.0).then(|| epochs as f64 / pace),
    }
}

/// A time for people: `2 h 5 min`, `3 min`, `20 s`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    let (days, hours, minutes) = (whole / 86400, whole / 3600 % 24, whole / 60 % 60);
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{minutes} min"),
        3600..86400 => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_for_people() {
        let all = [
            0.4,
            59.4,
            59.6,
            3599.0,
            3600.0,
            90_061.0,
            1e9,
            f64::INFINITY,
        ];
        let all = all.map(duration);
        let last = &all[7];
        assert_eq!(
            all[..7],
            [
                "0 s",
                "59 s",
                "1 min",
                "59 min",
                "1 h 0 min",
                "1 d 1 h",
                "11574 d 1 h"
            ]
        );
        assert!(last.ends_with("h"), "{last}");
    }

    #[test]
    fn time_is_left_by_the_pace_of_all() {
        let at = |epochs, seconds| About {
            epochs,
            seconds,
            ..About::default()
        };
        let all = [at(10, 5.0), at(10, 10.0), at(0, 0.0)];
        assert_eq!(seconds_left(30, all.iter()), Some(10.0));
        assert_eq!(seconds_left(30, all[2..].iter()), None);
        assert_eq!(seconds_left(0, all[2..].iter()), Some(0.0));
    }
}
