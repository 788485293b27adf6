//! `train`: from config files to output files.

mod progress;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::UnknownArgumentValueParser;
use serde_json::{Map, Value, json};

use self::progress::Report;
use super::config::Runs;
use super::json_lines::Lines;
use super::print::{self, count};
use super::{signals, use_threads, vocabulary};
use crate::config::{self, Experiment, RunConfig};
use crate::data::{Library, fetch};
use crate::device::Target;
use crate::error::{Error, Kind, Result};
use crate::results::file::Shared;
use crate::results::identity::{Identity, Index};
use crate::results::progress::{Planned, Watch};
use crate::results::store::{Options, Overwrite, Store};
use crate::results::{RunResult, output};
use crate::stop;
use crate::train::LogSteps;
use crate::train::checkpoint::Checkpoints;
use crate::train::sweep::{self, Choices, Pending, identity};
use crate::train::weights::{self, Place, Weights};

/// What `--save-weights` says: which weights, and where.
#[derive(Clone, Debug)]
struct SaveWeights {
    trained: bool,
    dir: Option<PathBuf>,
}

impl From<OsString> for SaveWeights {
    fn from(text: OsString) -> SaveWeights {
        let trained = match text.to_str() {
            Some("raw") => Some(None),
            Some(text) => text.strip_prefix("raw:").map(|dir| Some(dir.into())),
            None => None,
        };
        match trained {
            Some(dir) => SaveWeights { trained: true, dir },
            None => SaveWeights {
                trained: false,
                dir: Some(text.into()),
            },
        }
    }
}

/// Train all runs of configs
///
/// A config names a data set, a model and optimizers; its lists are choices, and every combination is one run, for every seed. All
/// results go to output/<the config's name>.json. Runs that are there already are not trained again, and Ctrl-C is safe: the
/// same command goes on where it was.
///
/// To try your own grid: copy configs/test.json, change it, look at its runs with --dry-run, and take a quick look with
/// --epochs 1.
#[derive(Args)]
pub struct Train {
    /// Experiment configs (see configs/README.md)
    #[arg(required = true, value_name = "CONFIG.json")]
    configs: Vec<PathBuf>,
    /// Where results go: DIR/<config's name>.json
    #[arg(long, value_name = "DIR", default_value = "output")]
    output_dir: PathBuf,
    /// Where data sets are
    #[arg(long, value_name = "DIR", default_value = "data")]
    data_dir: PathBuf,
    /// Where their shards are [default: shards in the data folder]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    #[command(flatten)]
    device: super::device::Choice,
    /// Train for N epochs, whatever the configs say
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    epochs: Option<u32>,
    #[command(flatten)]
    runs: Runs,
    #[arg(long = "lr", hide = true, value_parser = UnknownArgumentValueParser::suggest_arg("--only lr=VALUE"))]
    _lr: Option<String>,
    /// Start from the weights in this safetensors file instead of drawing them
    #[arg(long, value_name = "FILE")]
    init_weights: Option<PathBuf>,
    /// Write every run's final weights, those that were evaluated, to DIR/<config's name>/<run>.safetensors [default DIR:
    /// weights in the output folder]. raw or raw:DIR: those that were trained, where averages of them were evaluated
    #[arg(long, value_name = "DIR", require_equals = true)]
    save_weights: Option<Option<SaveWeights>>,
    /// Keep the loss and the norm of the gradient of every K-th step of each epoch, and its learning rate where the
    /// schedule goes by steps
    #[arg(long, value_name = "K")]
    log_every_k_steps: Option<NonZeroUsize>,
    /// Keep of these steps what they do to every tensor of the parameters: norms of weights, gradients and updates, and the
    /// angle that the weights turn by (`plot ID layers`)
    #[arg(long, requires = "log_every_k_steps")]
    log_layers: bool,
    /// Write losses, scores, norms and learning rates of every epoch as they come: tensorboard[=DIR], event files [default DIR:
    /// tensorboard in the output folder], or jsonl[=FILE], a JSON object in a line, added to FILE [default: stdout, instead of the
    /// table]; may be repeated
    #[arg(long, value_name = "FORMAT", value_parser = log_format)]
    log: Vec<LogFormat>,
    /// Write a checkpoint of every run that is under way, from which the same command goes on: at most once in this number of
    /// seconds and when interrupted; "never" writes none
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = interval)]
    checkpoint_every: Interval,
    /// Go on with the runs of a process on another machine that has shown no sign of life for this time, in seconds: it
    /// shows one every 5 seconds, but file systems may hold them back
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = seconds)]
    takeover_after: Duration,
    /// Print the runs and stop
    #[arg(long)]
    dry_run: bool,
    /// Train runs again that the output has: all, or those that --only selects. The output that is there is kept as
    /// DIR/<name>.json.bak
    #[arg(long)]
    overwrite: bool,
    /// Download nothing
    #[arg(long)]
    offline: bool,
    /// Threads to use [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Runs to train side by side: on the CPU each on its part of the threads, on each GPU in parallel branches of one graph
    /// [default: on the CPU as many as there are threads where steps are small, else one after the other]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Write null for NaN and Infinity, which strict JSON does not have
    #[arg(long)]
    strict_json: bool,
    /// One JSON object per finished run on stdout instead of the table
    #[arg(long)]
    json: bool,
    /// No progress and no messages but errors
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// A line per epoch on stderr instead of the progress bar
    #[arg(short, long)]
    verbose: bool,
}

/// What epochs are written as while they come, and where.
#[derive(Clone)]
enum LogFormat {
    TensorBoard(Option<PathBuf>),
    Lines(Option<PathBuf>),
}

fn log_format(text: &str) -> std::result::Result<LogFormat, String> {
    let (format, place) = match text.split_once('=') {
        None => (text, None),
        Some((format, place)) => (format, Some(PathBuf::from(place))),
    };
    match format {
        _ if place.as_ref().is_some_and(|p| p.as_os_str().is_empty()) => {}
        "tensorboard" => return Ok(LogFormat::TensorBoard(place)),
        "jsonl" => return Ok(LogFormat::Lines(place)),
        _ => {}
    }
    Err("expected tensorboard, tensorboard=DIR, jsonl or jsonl=FILE".into())
}

/// A time that passes between two of something, or none if there is to be nothing.
#[derive(Clone, Copy)]
struct Interval(Option<Duration>);

fn interval(text: &str) -> std::result::Result<Interval, String> {
    match text {
        "never" => Ok(Interval(None)),
        _ => match seconds(text) {
            Ok(every) => Ok(Interval(Some(every))),
            Err(what) => Err(format!("{what}, or never")),
        },
    }
}

pub(super) fn seconds(text: &str) -> std::result::Result<Duration, String> {
    let seconds = || Duration::try_from_secs_f64(text.parse().ok()?).ok();
    seconds().ok_or_else(|| "expected a number of seconds, 0 or more".into())
}

/// An experiment with its output, and what is left of it.
struct Job {
    experiment: Experiment,
    pending: Vec<Pending>,
    checkpoints: Option<Checkpoints>,
    /// Given up before the store: its folder may lie in the store's.
    weights: Option<WeightFiles>,
    store: Store,
}

/// What an output lacks of a config's runs.
pub(super) struct Left {
    pub runs: usize,
    /// Training of one, as far as it is known from finished ones.
    pub seconds_each: Option<f64>,
}

/// Given up in reverse order: the folder that was made for the first one goes last, if nothing is in it.
#[derive(Default)]
struct Jobs(VecDeque<Job>);

/// The files that the weights of pending runs go to, in a folder that processes of other outputs leave alone.
struct WeightFiles {
    places: Vec<Place>,
    _folder: Arc<Shared>,
}

impl Train {
    pub fn run(self) -> Result<u8> {
        let experiments = self.read_configs()?;
        if self.dry_run {
            return self.print_runs(&experiments);
        }
        // Not "auto" before the kernels have been seen on a GPU.
        let targets = self.device.targets("cpu")?;
        let target = targets[0];
        use_threads(self.threads)?;
        let init = self.init_weights.as_deref().map(Weights::read);
        let mut choices = Choices {
            init: init.transpose()?,
            save: None,
            save_trained: matches!(&self.save_weights, Some(Some(save)) if save.trained),
            log: self.log_steps(),
            checkpoints: None,
            jobs: self.jobs.and_then(|jobs| NonZeroUsize::new(jobs.into())),
        };
        let lines = self.lines()?;
        // From here on there is something to tidy up.
        signals::listen()?;
        let library = self.library(self.offline).telling(match self.quiet {
            true => |_| {},
            false => |text| print::note(text),
        });
        let prepared = self.prepare(experiments, &library, target, &choices);
        // Whatever has failed then has failed for it.
        if let Some(code) = signals::received() {
            if !self.quiet {
                print::note("interrupted before the first run");
            }
            return Ok(code);
        }
        let mut jobs = prepared?;
        let mut failure = None;
        while let Some(mut job) = jobs.0.pop_front() {
            choices.checkpoints = job.checkpoints.take();
            choices.save = job.weights.as_ref().map(|files| files.places.clone());
            let outcome = self.train(&job, &library, &targets, &choices, &lines)?;
            failure = failure.or(outcome);
            if let Some(code) = signals::received() {
                return Ok(code);
            }
        }
        Ok(failure.map_or(0, Kind::exit_code))
    }

    /// What the output of the one config lacks, by its files; `unclaimed`: without what processes are training.
    pub(super) fn left(&self, unclaimed: bool) -> Result<(String, Left)> {
        let experiments = self.read_configs()?;
        let [Experiment { id, runs, .. }] = &experiments[..] else {
            return Err(Error::usage("one config at a time"));
        };
        let path = self.output_dir.join(format!("{id}.json"));
        let (mut done, mut times) = (Index::default(), Vec::new());
        if path.exists() {
            for run in output::read(&path)? {
                times.push(run.train_time());
                done.insert(run.identity, ());
            }
        }
        let nothing = Map::new();
        let missing = |run: &&RunConfig| done.get(&identity(run, &nothing, None)).is_none();
        let left = runs.iter().filter(missing).count();
        let running = match unclaimed {
            true => Watch::default()
                .status(&path)
                .map_or(0, |status| status.running.len()),
            false => 0,
        };
        times.retain(|time| time.is_finite());
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        let left = Left {
            runs: left.saturating_sub(running),
            seconds_each: (!times.is_empty()).then_some(mean),
        };
        Ok((id.clone(), left))
    }

    pub(super) fn output_dir(&self) -> &Path {
        &self.output_dir
    }

    /// Takes every output, and reports what is wrong with any of them, before anything is trained.
    fn prepare(
        &self,
        experiments: Vec<Experiment>,
        library: &Library,
        target: Target,
        choices: &Choices,
    ) -> Result<Jobs> {
        let chosen = sweep::chosen(target, choices);
        let mut jobs = Jobs::default();
        for experiment in experiments {
            jobs.0.push_back(self.open(experiment, &chosen)?);
        }
        jobs.check(library, target, choices)?;
        for job in &mut jobs.0 {
            let all = job.identities(self, library, &chosen);
            for run in &mut job.pending {
                run.identity = all[run.index].clone();
            }
            job.store.check_problems(&all)?;
            job.plan()?;
            let checkpoints = self.checkpoints(job, &all)?;
            job.weights = self.weight_files(job)?;
            job.checkpoints = Some(checkpoints);
        }
        Ok(jobs)
    }

    /// Where lines on epochs go.
    fn lines(&self) -> Result<Vec<Lines>> {
        let places = self.log.iter().filter_map(|log| match log {
            LogFormat::Lines(place) => Some(place.as_deref()),
            LogFormat::TensorBoard(_) => None,
        });
        places.map(Lines::open).collect()
    }

    fn log_steps(&self) -> Option<LogSteps> {
        let log = |every| LogSteps {
            every,
            layers: self.log_layers,
        };
        self.log_every_k_steps.map(log)
    }

    fn library(&self, offline: bool) -> Library {
        let fetch = fetch::Options::new(Vec::new(), self.quiet);
        Library::new(&self.data_dir, offline, fetch).cached_in(self.cache_dir.clone())
    }

    fn read_configs(&self) -> Result<Vec<Experiment>> {
        let vocabulary = vocabulary();
        let (mut experiments, mut problems) = (Vec::new(), Vec::new());
        for path in &self.configs {
            match self.runs.load(path, &vocabulary) {
                Ok(experiment) => experiments.push(experiment),
                Err(error) => problems.push(error.message + &self.equals_sign(path)),
            }
        }
        let mut ids = BTreeSet::new();
        for experiment in &mut experiments {
            if !ids.insert(experiment.id.clone()) {
                problems.push(format!(
                    "two configs are named {0}.json and would share the output {0}.json: train them one after the other",
                    experiment.id
                ));
            }
            if let Some(epochs) = self.epochs {
                let runs = experiment.runs.iter_mut();
                let runs = runs.chain(&mut experiment.all);
                runs.for_each(|run| run.max_epoch = epochs as usize);
            }
        }
        if !problems.is_empty() {
            return Err(Error::usage(problems.join("\n")));
        }
        if !self.quiet {
            let warnings = experiments.iter().flat_map(|e| &e.warnings);
            warnings.for_each(|text| print::note(format_args!("warning: {text}")));
        }
        Ok(experiments)
    }

    /// What to write instead, where a folder for weights was taken for a config.
    fn equals_sign(&self, path: &Path) -> String {
        match &self.save_weights {
            Some(None) if path.extension().is_none() && !path.is_file() => format!(
                "; as the folder for weights: --save-weights={}",
                path.display()
            ),
            _ => String::new(),
        }
    }

    /// `chosen` is what is chosen beside the configs.
    fn open(&self, experiment: Experiment, chosen: &Map<String, Value>) -> Result<Job> {
        let overwrite = match self.runs.only.is_empty() {
            true => Overwrite::All,
            false => Overwrite::Selected,
        };
        let options = Options {
            overwrite: self.overwrite.then_some(overwrite),
            strict_json: self.strict_json,
            silence: self.takeover_after,
            ..Options::default()
        };
        let store = Store::open(&self.output_dir, &experiment.id, options)?;
        let identities = |run: &RunConfig| identity(run, chosen, None);
        let all: Vec<Identity> = experiment.all.iter().map(identities).collect();
        let selected = experiment.selected();
        let done = store.settle(&all, &selected);
        store.check_problems(&all)?;
        let left = selected.iter().zip(done).filter(|(_, done)| !done);
        let pending = |(&index, _): (&usize, bool)| Pending {
            index,
            config: experiment.all[index].clone(),
            identity: all[index].clone(),
        };
        let pending = left.map(pending).collect();
        Ok(Job {
            experiment,
            pending,
            checkpoints: None,
            weights: None,
            store,
        })
    }

    fn print_runs(&self, experiments: &[Experiment]) -> Result<u8> {
        for Experiment { id, runs, .. } in experiments {
            for run in runs {
                if self.json {
                    print::json(&run.to_json().into())?;
                } else {
                    print::println(format!("{id} {}", run.label()))?;
                }
            }
            if !self.quiet {
                print::note(format_args!("{id}: {}", count(runs.len(), "run")));
            }
        }
        Ok(0)
    }

    /// The checkpoints of pending runs. Tells of those that are there and of no use. `all` are the experiment's runs.
    fn checkpoints(&self, job: &Job, all: &[Identity]) -> Result<Checkpoints> {
        let folder = job.store.checkpoints();
        let pending = job.pending.iter().map(|run| run.identity.clone()).collect();
        let Interval(every) = self.checkpoint_every;
        let checkpoints = Checkpoints::open(folder, every, self.log_steps(), pending)?;
        if self.overwrite {
            checkpoints.start_anew();
        }
        for text in checkpoints.settle(|run| job.store.contains(run), all) {
            if !self.quiet {
                print::note(format_args!("{}: {text}", job.experiment.id));
            }
        }
        Ok(checkpoints)
    }

    /// Where the weights of pending runs go, if they are to be saved.
    fn weight_files(&self, job: &Job) -> Result<Option<WeightFiles>> {
        let Some(dir) = &self.save_weights else {
            return Ok(None);
        };
        let Experiment { id, all, .. } = &job.experiment;
        let dir = dir.as_ref().and_then(|save| save.dir.clone());
        let default = || self.output_dir.join("weights");
        let folder = dir.unwrap_or_else(default).join(id);
        let pending = job
            .pending
            .iter()
            .map(|run| (&run.config, run.identity.clone()));
        let pending: Vec<_> = pending.collect();
        let find = || weights::places(&folder, &pending, all);
        let (shared, places) = weights::take_folder(&folder, job.store.target(), find)?;
        Ok(Some(WeightFiles {
            places,
            _folder: shared,
        }))
    }

    /// Trains what is left of an experiment. The kind of the first run's failure is returned if one failed.
    fn train(
        &self,
        job: &Job,
        library: &Library,
        targets: &[Target],
        choices: &Choices,
        lines: &[Lines],
    ) -> Result<Option<Kind>> {
        let (total, left) = (job.experiment.runs.len(), job.pending.len());
        let (id, path) = (&job.experiment.id, job.store.path().display());
        if !self.quiet && left < total {
            print::note(format_args!(
                "{id}: {} of {total} runs are in {path} already",
                total - left
            ));
        }
        let begin = Instant::now();
        let report = Report::new(self, job, lines);
        let outcome = sweep::sweep(
            &job.pending,
            library,
            &job.store,
            targets,
            choices,
            stop::flag(),
            &report,
        );
        report.bar.finish_and_clear();
        report.failure()?;
        let failed = report.failed.load(Ordering::Relaxed);
        let elsewhere = report.elsewhere();
        let results = report.into_results();
        if let Err(error) = outcome {
            if !self.quiet && !results.is_empty() {
                let done = count(results.len(), "run");
                print::note(format_args!(
                    "{id}: {done} of {left} before the error; they are in {path}, and the same command goes on from there"
                ));
            }
            return Err(error);
        }
        let table = !self.json && !lines.iter().any(|lines| matches!(lines, Lines::Stdout));
        if table && !results.is_empty() {
            print::println(results_table(&results))?;
        }
        if !self.quiet {
            let seconds = begin.elapsed().as_secs_f64();
            let done = count(results.len(), "run");
            let rest = match failed {
                0 => elsewhere,
                n => format!("; {n} failed{elsewhere}"),
            };
            match signals::received() {
                None => print::note(format_args!(
                    "{id}: {done} in {seconds:.1} s, in {path}{rest}"
                )),
                Some(_) if results.is_empty() => print::note(format_args!(
                    "{id}: interrupted before the first of {left} was finished; the same command goes on from there"
                )),
                Some(_) => print::note(format_args!(
                    "{id}: interrupted after {done} of {left}; they are in {path}, and the same command goes on from there"
                )),
            }
        }
        outcome
    }
}

impl Job {
    /// Lets other commands see what is to be done.
    fn plan(&self) -> Result<()> {
        let planned = |run: &Pending| Planned {
            run: run.identity.hash().to_owned(),
            label: run.config.label(),
            epochs: run.config.max_epoch,
        };
        let left: Vec<Planned> = self.pending.iter().map(planned).collect();
        self.store
            .plan(self.experiment.runs.len() - left.len(), left)
    }

    /// What all runs are distinguished by, now that their data can be had. Data are not downloaded for it: where those of runs
    /// that are done already are not there, nothing is known of them.
    fn identities(
        &self,
        options: &Train,
        library: &Library,
        chosen: &Map<String, Value>,
    ) -> Vec<Identity> {
        let offline = options.library(true);
        let all = self.experiment.runs.iter().map(|run| (&offline, run));
        let left = self.pending.iter().map(|run| (library, &run.config));
        let name = |run: &RunConfig| (run.dataset.clone(), json!(run.dataset_kwargs).to_string());
        let mut sums: HashMap<_, Option<Value>> = HashMap::new();
        for (library, run) in left.chain(all) {
            // As summaries say it: null where they are computed.
            let sum = || Some(library.load(run).ok()?.checksum().into());
            sums.entry(name(run)).or_insert_with(sum);
        }
        let sum = |run: &RunConfig| sums.get(&name(run)).cloned().flatten();
        let all = self.experiment.all.iter();
        all.map(|run| identity(run, chosen, sum(run))).collect()
    }
}

impl Jobs {
    /// An error with all that would keep any of them from training.
    fn check(&self, library: &Library, target: Target, choices: &Choices) -> Result<()> {
        let mut problems = Vec::new();
        for job in &self.0 {
            let runs = job.pending.iter().map(|run| &run.config);
            for error in sweep::check(runs, library, target, choices, stop::flag()) {
                problems.push((error.kind, format!("{}: {error}", job.experiment.id)));
            }
        }
        let Some((kind, _)) = problems.first() else {
            return Ok(());
        };
        let messages: Vec<&str> = problems.iter().map(|(_, text)| text.as_str()).collect();
        Err(Error::new(*kind, messages.join("\n")))
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        while self.0.pop_back().is_some() {}
    }
}

/// The last epoch of each run, with those keys of the optimizers, and groups, that differ between runs.
fn results_table(results: &[RunResult]) -> comfy_table::Table {
    let opts: Vec<&Map<String, Value>> = results
        .iter()
        .filter_map(|r| r.config.get("opt")?.as_object())
        .collect();
    let mut keys: Vec<&String> = Vec::new();
    for key in opts.iter().flat_map(|opt| opt.keys()) {
        if key != "name" && !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys.retain(|key| opts.iter().any(|opt| opt.get(*key) != opts[0].get(*key)));
    let mut header = vec!["name"];
    header.extend(keys.iter().map(|k| k.as_str()));
    let groups = |result: &RunResult| result.config.get("groups").map(config::groups);
    let grouped = results.iter().any(|r| groups(r) != groups(&results[0]));
    header.extend(grouped.then_some("groups"));
    header.extend([
        "run_id",
        "train_loss",
        "train_score",
        "val_loss",
        "val_score",
        "diverged",
    ]);
    let mut table = print::table(&header);
    for (result, opt) in results.iter().zip(&opts) {
        let cell = |value: Option<&Value>| match value {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
        };
        let mut row = vec![cell(opt.get("name"))];
        row.extend(keys.iter().map(|key| cell(opt.get(*key))));
        row.extend(grouped.then(|| groups(result).unwrap_or_default()));
        row.push(cell(result.config.get("run_id")));
        let last = result.history.last().cloned().unwrap_or_default();
        row.push(number(last.train_loss));
        row.push(number(last.train_score));
        row.push(number(last.val_loss));
        row.push(number(last.val_score));
        row.push(match result.summary.get("diverged_epoch") {
            Some(Value::Number(epoch)) => format!("in epoch {epoch}"),
            _ => String::new(),
        });
        table.add_row(row);
    }
    table
}

/// Six significant digits, with an exponent where that is shorter.
fn number(x: f64) -> String {
    if x == 0.0 || !x.is_finite() || (1e-3..1e6).contains(&x.abs()) {
        let digits = 5 - (x.abs().log10().floor().clamp(-3.0, 5.0) as i32);
        format!("{x:.*}", if x == 0.0 { 1 } else { digits as usize })
    } else {
        format!("{x:.5e}")
    }
}
