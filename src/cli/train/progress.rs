//! What `train` says of a sweep: a bar or lines on stderr, JSON lines on stdout or in files, TensorBoard's files.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Job, LogFormat, Train};
use crate::cli::json_lines::{self, Lines};
use crate::cli::print::{self, count};
use crate::config::RunConfig;
use crate::error::{Error, Result};
use crate::results::progress::duration;
use crate::results::table::format_small;
use crate::results::tensorboard::Board;
use crate::results::writers::lock;
use crate::results::{Epoch, RunResult, escape};
use crate::stop;
use crate::train::sweep::{self, Elsewhere};

/// Without a terminal, one epoch in this time has a line.
const PAUSE: Duration = Duration::from_secs(10);

/// The bar's units of an epoch.
const TICKS: u64 = 1000;

/// The bar is drawn this often.
const TICK: Duration = Duration::from_millis(200);

/// Follows a sweep: a bar or lines on stderr, JSON lines on stdout.
pub(super) struct Report<'a> {
    options: &'a Train,
    job: &'a Job,
    pub(super) bar: ProgressBar,
    finished: AtomicUsize,
    pub(super) failed: AtomicUsize,
    elsewhere: Mutex<Vec<Elsewhere>>,
    pace: Mutex<Pace>,
    /// When a line told of an epoch.
    told: Mutex<Instant>,
    /// When the bar's text was set.
    set: Mutex<Instant>,
    /// Is there a bar?
    shown: bool,
    boards: Vec<Board>,
    lines: &'a [Lines],
    results: Mutex<Vec<(usize, RunResult)>>,
    failure: Mutex<Option<Error>>,
}

impl<'a> Report<'a> {
    pub(super) fn new(options: &'a Train, job: &'a Job, lines: &'a [Lines]) -> Report<'a> {
        let shown = !options.quiet && !options.verbose && std::io::stderr().is_terminal();
        let of_all = job.experiment.runs.iter().map(|run| run.max_epoch);
        let of_pending = job.pending.iter().map(|run| run.config.max_epoch);
        let (all, left): (usize, usize) = (of_all.sum(), of_pending.sum());
        let target = if shown {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(all as u64 * TICKS), target);
        bar.set_position((all - left) as u64 * TICKS);
        let template = "{prefix} {bar:30} {percent} %, {elapsed}{wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        if shown {
            bar.enable_steady_tick(TICK);
        }
        let boards = options.log.iter().filter_map(|log| match log {
            LogFormat::TensorBoard(dir) => {
                let default = || options.output_dir.join("tensorboard");
                let dir = dir.clone().unwrap_or_else(default);
                Some(Board::new(dir.join(&job.experiment.id)))
            }
            LogFormat::Lines(_) => None,
        });
        let report = Report {
            options,
            job,
            bar,
            finished: AtomicUsize::new(0),
            failed: AtomicUsize::new(0),
            elsewhere: Mutex::default(),
            pace: Mutex::new(Pace::new(left, job.pending.len())),
            told: Mutex::new(Instant::now()),
            set: Mutex::new(Instant::now()),
            shown,
            boards: boards.collect(),
            lines,
            results: Mutex::default(),
            failure: Mutex::default(),
        };
        report.show_count();
        report
    }

    fn show_count(&self) {
        let id = escape::printable(&self.job.experiment.id);
        let (done, all) = (self.done(), self.job.experiment.runs.len());
        self.bar.set_prefix(format!("{id} {done}/{all} runs"));
    }

    /// Runs that the output has, those of earlier commands and of other processes too.
    fn done(&self) -> usize {
        let before = self.job.experiment.runs.len() - self.job.pending.len();
        let theirs = lock(&self.elsewhere);
        let theirs = theirs.iter().filter(|what| **what == Elsewhere::Finished);
        before + self.finished.load(Ordering::Relaxed) + theirs.count()
    }

    fn config(&self, run: usize) -> &RunConfig {
        &self.job.pending[run].config
    }

    /// The bar follows what is left.
    fn advance(&self, change: impl FnOnce(&mut Pace)) {
        let mut pace = lock(&self.pace);
        change(&mut pace);
        let left = pace.left * TICKS as f64;
        let all = self.bar.length().unwrap_or_default();
        self.bar.set_position(all.saturating_sub(left as u64));
    }

    /// When the sweep will be done, and where a run of it stands.
    fn stands(&self, run: usize, epoch: usize, more: &str) -> String {
        let (config, left) = (self.config(run), lock(&self.pace).text());
        let (label, of) = (config.label(), config.max_epoch);
        let stands = format!("{left}: epoch {} of {of}, {more}: {label}", epoch + 1);
        escape::printable(&stands).into_owned()
    }

    fn tell(&self, run: usize, what: &str) {
        if !self.options.quiet {
            let (id, run) = (&self.job.experiment.id, self.config(run).label());
            let tell = || print::note(format_args!("{id}: {run}: {what}"));
            self.bar.suspend(tell);
        }
    }

    /// Without its readers, or room on the disk, the sweep ends.
    fn must(&self, outcome: Result<()>) {
        if let Err(error) = outcome {
            lock(&self.failure).get_or_insert(error);
            stop::flag().store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn failure(&self) -> Result<()> {
        match lock(&self.failure).take() {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    /// What has become of the runs of other processes.
    pub(super) fn elsewhere(&self) -> String {
        let all = lock(&self.elsewhere);
        let told = [
            (Elsewhere::Finished, "finished by other processes"),
            (Elsewhere::Failed, "failed in other processes"),
            (Elsewhere::UnderWay, "under way in other processes"),
        ];
        let told = told.map(
            |(what, text)| match all.iter().filter(|w| **w == what).count() {
                0 => String::new(),
                n => format!("; {n} {text}"),
            },
        );
        told.concat()
    }

    /// The results in the order of the config.
    pub(super) fn into_results(self) -> Vec<RunResult> {
        let mut results = std::mem::take(&mut *lock(&self.results));
        results.sort_by_key(|(run, _)| *run);
        results.into_iter().map(|(_, result)| result).collect()
    }
}

impl sweep::Progress for Report<'_> {
    fn started(&self, _: usize, config: &RunConfig) {
        let left = lock(&self.pace).text();
        self.bar
            .set_message(format!("{left}: {}", escape::printable(&config.label())));
    }

    fn resumed(&self, run: usize, epochs: usize, steps: usize) {
        self.advance(|pace| pace.skip(run, epochs as f64));
        self.tell(run, &format!("continues from epoch {epochs}, step {steps}"));
    }

    fn warned(&self, run: usize, what: &str) {
        self.tell(run, &format!("warning: {what}"));
    }

    fn part(&self, run: usize, epoch: usize, part: f64) {
        self.advance(|pace| pace.reach(run, epoch as f64 + part));
        if self.shown && is_due(&self.set, TICK) {
            let percent = format!("{:.0} %", part * 100.0);
            self.bar.set_message(self.stands(run, epoch, &percent));
        }
    }

    fn epoch(&self, run: usize, done: &Epoch) {
        let config = self.config(run);
        for board in &self.boards {
            if let Err(error) = board.epoch(config, done) {
                lock(&self.failure).get_or_insert(error);
            }
        }
        if !self.lines.is_empty() {
            let line = json_lines::epoch(&self.job.experiment.id, config, done);
            let mut lines = self.lines.iter();
            self.must(lines.try_for_each(|lines| lines.write(&line)));
        }
        self.advance(|pace| pace.reach(run, (done.epoch + 1) as f64));
        let lines = !self.shown && !self.options.verbose && !self.options.quiet;
        let due = lines && is_due(&self.told, PAUSE);
        if self.shown || due {
            let loss = format!("loss {}", format_small(done.train_loss));
            let stands = self.stands(run, done.epoch, &loss);
            self.bar.set_message(stands.clone());
            if due {
                let (id, runs) = (&self.job.experiment.id, self.job.experiment.runs.len());
                let so_far = format!("{} of {} done", self.done(), count(runs, "run"));
                print::note(format_args!("{id}: {so_far}{stands}"));
            }
        }
        if self.options.verbose {
            print::note(format_args!(
                "{} epoch {}: train_loss {:.6} train_score {:.4} val_loss {:.6} val_score {:.4} in {:.3} s",
                self.config(run).label(),
                done.epoch,
                done.train_loss,
                done.train_score,
                done.val_loss,
                done.val_score,
                done.train_epoch_time
            ));
        }
    }

    fn finished(&self, run: usize, result: RunResult) {
        self.finished.fetch_add(1, Ordering::Relaxed);
        self.show_count();
        if self.options.json {
            let line = json_lines::run(&self.job.experiment.id, &result);
            self.must(print::json(&line));
        }
        lock(&self.results).push((run, result));
    }

    fn elsewhere(&self, run: usize, what: Elsewhere) {
        lock(&self.elsewhere).push(what);
        if what == Elsewhere::Finished {
            self.advance(|pace| pace.skip(run, self.config(run).max_epoch as f64));
            self.show_count();
        }
    }

    fn failed(&self, run: usize, error: &Error) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.advance(|pace| pace.skip(run, self.config(run).max_epoch as f64));
        let tell = || print::note(format_args!("error: {}: {error}", self.job.experiment.id));
        self.bar.suspend(tell);
    }
}

/// Has this time gone by since then? If so, it begins again.
fn is_due(since: &Mutex<Instant>, time: Duration) -> bool {
    let mut since = lock(since);
    let due = since.elapsed() >= time;
    due.then(|| *since = Instant::now()).is_some()
}

/// At what pace epochs are trained, and how many are left. Epochs under way count by the part of them that is trained.
struct Pace {
    begin: Instant,
    trained: f64,
    left: f64,
    runs: Vec<Reached>,
}

/// Where a run is.
#[derive(Clone, Default)]
struct Reached {
    epochs: f64,
    /// Has it been heard of? It may begin where a checkpoint is.
    begun: bool,
}

impl Pace {
    fn new(left: usize, runs: usize) -> Pace {
        Pace {
            begin: Instant::now(),
            trained: 0.0,
            left: left as f64,
            runs: vec![Reached::default(); runs],
        }
    }

    /// A run was trained to this epoch.
    fn reach(&mut self, run: usize, epochs: f64) {
        if std::mem::replace(&mut self.runs[run].begun, true) {
            self.trained += epochs - self.runs[run].epochs;
        }
        self.skip(run, epochs);
    }

    /// A run is at this epoch, which others have done, or an earlier process, or which nobody will do.
    fn skip(&mut self, run: usize, epochs: f64) {
        let before = std::mem::replace(&mut self.runs[run].epochs, epochs);
        self.left = (self.left - (epochs - before)).max(0.0);
    }

    fn text(&self) -> String {
        remaining(self.begin.elapsed().as_secs_f64(), self.trained, self.left)
    }
}

/// `, about 5 min left`, or nothing as long as that would be a guess.
fn remaining(elapsed: f64, trained: f64, left: f64) -> String {
    match trained > 0.0 && elapsed >= 1.0 {
        true => format!(", about {} left", duration(elapsed / trained * left)),
        false => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_remains_is_told_once_it_is_known() {
        assert_eq!(remaining(100.0, 0.0, 50.0), "");
        assert_eq!(remaining(0.5, 3.0, 50.0), "");
        assert_eq!(remaining(60.0, 10.0, 50.0), ", about 5 min left");
        assert_eq!(remaining(60.0, 10.0, 0.0), ", about 0 s left");
    }

    #[test]
    fn the_work_of_others_is_no_work_of_this_process() {
        let mut pace = Pace::new(15, 3);
        pace.reach(0, 0.0);
        pace.reach(0, 0.25);
        assert_eq!((pace.trained, pace.left), (0.25, 14.75));
        // From a checkpoint in the third epoch.
        pace.skip(1, 2.0);
        pace.reach(1, 2.5);
        pace.reach(1, 3.0);
        assert_eq!((pace.trained, pace.left), (0.75, 11.75));
        // Another process has trained it.
        pace.skip(2, 5.0);
        assert_eq!((pace.trained, pace.left), (0.75, 6.75));
        // It has failed.
        pace.skip(0, 5.0);
        assert_eq!((pace.trained, pace.left), (0.75, 2.0));
    }
}
