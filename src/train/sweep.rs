//! A sweep: all runs of an experiment that the output does not have yet, and that no other process trains.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value};

use super::checkpoint::Checkpoints;
use super::network::{Plans, steps_per_epoch};
use super::optimum;
use super::run::{Watch, run_plans};
use super::step_log::LogSteps;
use super::trainer::Trainer;
use super::weights::{Place, Snapshot, Weights};
use crate::config::RunConfig;
use crate::data::{Library, Pair};
use crate::device::{Device, Machine, SharedDevice, Target};
use crate::error::{Error, Kind, Result};
use crate::models;
use crate::optim::schedule::Schedule;
use crate::optim::{self, Optimizer};
use crate::results::identity::Identity;
use crate::results::store::{Finished, Store, Turn};
use crate::results::timestamp::timestamp;
use crate::results::writers::{Claim, UnderWay, lock};
use crate::results::{Epoch, RunResult, provenance};

/// A training step of fewer floating-point operations than this does not fill several threads: such
/// runs are trained side by side, each on one thread.
const SMALL_STEP: usize = 10_000_000;

/// Follows a sweep. Runs are named by their place among the pending ones.
pub trait Progress: Sync {
    fn started(&self, _run: usize, _config: &RunConfig) {}
    /// The run goes on from a checkpoint: how many epochs are done, and how many steps of the next one.
    fn resumed(&self, _run: usize, _epochs: usize, _steps: usize) {}
    /// This part, from 0 to 1, of an epoch's steps is trained. Said after every step, so it must be quick.
    fn part(&self, _run: usize, _epoch: usize, _part: f64) {}
    fn epoch(&self, _run: usize, _done: &Epoch) {}
    /// The run is on disk.
    fn finished(&self, _run: usize, _result: RunResult) {}
    /// Something went wrong, and the run goes on.
    fn warned(&self, _run: usize, _what: &str) {}
    /// The run could not be trained to its end; the others go on.
    fn failed(&self, _run: usize, _error: &Error) {}
    /// Another process has it.
    fn elsewhere(&self, _run: usize, _what: Elsewhere) {}
}

/// What another process has done with a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    Finished,
    Failed,
    /// It is training the run, and was alive a moment ago.
    UnderWay,
}

/// A run that is to be trained.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Its place in the experiment.
    pub index: usize,
    pub config: RunConfig,
    pub identity: Identity,
}

/// What distinguishes a run from others, with the checksum of its data if that is known. `chosen` is what [`chosen()`] says.
pub fn identity(run: &RunConfig, chosen: &Map<String, Value>, data: Option<Value>) -> Identity {
    let mut summary = chosen.clone();
    summary.extend(data.map(|sum| ("data".to_owned(), sum)));
    summary.extend(of_methods(run));
    Identity::new(&run.to_json(), &summary)
}

/// What is chosen for all runs of a sweep beside their configs.
#[derive(Default)]
pub struct Choices {
    /// In place of the initial weights that a run draws (it draws them all the same: what follows in the
    /// stream stays where it is).
    pub init: Option<Weights>,
    /// For each run the file that its final weights go to.
    pub save: Option<Vec<Place>>,
    /// Save the weights that were trained, even where others were evaluated?
    pub save_trained: bool,
    /// Loss and gradient of every n-th step of an epoch are logged.
    pub log: Option<LogSteps>,
    /// Those of the runs, which go on from them.
    pub checkpoints: Option<Checkpoints>,
    /// Runs that are trained side by side: on a processor sharing its threads, where it otherwise goes by the size of their
    /// steps, on each GPU in parallel branches of one graph.
    pub jobs: Option<NonZeroUsize>,
}

/// Optimal values by problem, shared by the runs of a sweep.
type Optima = Mutex<HashMap<String, Option<f64>>>;

/// What is chosen for all runs of a sweep beside their configs, as their summaries say it.
pub fn chosen(target: Target, choices: &Choices) -> Map<String, Value> {
    let hash = choices.init.as_ref().map(Weights::hash);
    Map::from_iter([
        ("device".to_owned(), target.device.name().into()),
        ("precision".to_owned(), target.precision_name().into()),
        ("init_weights".to_owned(), hash.into()),
    ])
}

/// What a run's summary says of the methods that are files: the hashes of what they compute, and their texts.
pub fn of_methods(config: &RunConfig) -> Map<String, Value> {
    let files = optim::files(&config.opt, &config.groups);
    if files.is_empty() {
        return Map::new();
    }
    let hashes: Map<_, _> = files
        .iter()
        .map(|(name, file)| (name.clone(), file.hash.clone().into()))
        .collect();
    let texts: Map<_, _> = files
        .iter()
        .map(|(name, file)| (name.clone(), file.definition.text.clone().into()))
        .collect();
    Map::from_iter([
        ("optimizer_files".to_owned(), hashes.into()),
        ("optimizer_texts".to_owned(), texts.into()),
    ])
}

/// Tries what runs need before the first one is trained: their data, that models, losses, scores and batch sizes fit
/// them, memory, and that initial weights fit the models. Returns all that is wrong, or what was found until `stop` was set.
pub fn check<'r>(
    runs: impl IntoIterator<Item = &'r RunConfig>,
    library: &Library,
    target: Target,
    choices: &Choices,
    stop: &AtomicBool,
) -> Vec<Error> {
    const MOST: usize = 20;
    let mut tried = HashSet::new();
    let mut problems: Vec<Error> = Vec::new();
    for config in runs {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let fits = |data: Pair| {
            let mut alike = RunConfig {
                run_id: 0,
                max_epoch: 1,
                ..config.clone()
            };
            alike.opt.remove("lr");
            if tried.insert(alike.identity()) {
                let init = choices.init.as_ref();
                let plans = Plans::from_weights(init, config, &data, target.device)?;
                let optimizer = Optimizer::new(&config.opt, &config.groups)?;
                Trainer::new(plans, optimizer, &data, Machine::open(target)?, choices.log)?;
            }
            let steps = steps_per_epoch(config, data.train.len());
            Schedule::new(&config.opt, config.max_epoch, steps)?.check()
        };
        if let Err(mut error) = library.load(config).and_then(fits)
            && problems.iter().all(|p| p.message != error.message)
        {
            if error.kind == Kind::Device {
                error.message = format!("{}: {}", config.label(), error.message);
            }
            problems.push(error);
        }
        if problems.len() == MOST {
            break;
        }
    }
    problems
}

/// Who trains runs, one after the other.
enum Worker {
    Alone(Target),
    /// With others on the same device, who wait for one another at every program.
    Beside(SharedDevice),
}

impl Worker {
    /// For the next run.
    fn machine(&self) -> Result<Machine> {
        match self {
            Worker::Alone(target) => Machine::open(*target),
            Worker::Beside(device) => Ok(device.machine()),
        }
    }
}

/// Trains those of `pending` that no other process trains, and stores each run as it finishes, on as many threads as
/// rayon's current pool has, or on several devices of a kind, each of which takes the next run. A run's weights are saved
/// before the run is stored. Returns early, with the runs finished so far stored, once `stop` is set. A run that fails
/// leaves the others alone, and the kind of the first failure is returned. Runs that others have begun and do not finish,
/// since they have died, are trained in the end.
///
/// # Errors
/// What would meet the other runs as well: nothing can be written, or a device failed.
pub fn sweep(
    pending: &[Pending],
    library: &Library,
    store: &Store,
    targets: &[Target],
    choices: &Choices,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<Option<Kind>> {
    let (Some(first), Some(target)) = (pending.first(), targets.first()) else {
        return store.finish().map(|()| None);
    };
    let init = choices.init.as_ref();
    let plans = |data: Pair| Plans::from_weights(init, &first.config, &data, target.device);
    // If there are none, the run itself says why.
    let first_plans = library.load(&first.config).and_then(plans).ok();
    let small = |plans: &Plans| plans.train.flops() < SMALL_STEP;
    let small = first_plans.as_ref().is_some_and(small);
    let first_plans = Mutex::new(first_plans);
    let threads = rayon::current_num_threads();
    let side_by_side = choices
        .jobs
        .map_or(if small { threads } else { 1 }, NonZeroUsize::get);
    let workers: Vec<Worker> = match (choices.jobs, targets, target.device) {
        (_, [target], Device::Cpu) | (None, [target], Device::Emulator) => {
            (0..side_by_side).map(|_| Worker::Alone(*target)).collect()
        }
        (Some(jobs), ..) if jobs.get() > 1 => {
            let shared = |target: &Target| Ok(SharedDevice::new(Machine::open(*target)?));
            let devices: Vec<SharedDevice> = targets.iter().map(shared).collect::<Result<_>>()?;
            let rounds = (0..jobs.get()).flat_map(|_| devices.iter().cloned());
            rounds.map(Worker::Beside).collect()
        }
        // A GPU has one queue.
        _ => targets.iter().copied().map(Worker::Alone).collect(),
    };
    let threads_each = match target.device {
        Device::Cpu | Device::Emulator => (threads / workers.len()).max(1),
        _ => 1,
    };
    let workers = &workers[..workers.len().min(pending.len())];
    let mut chosen = chosen(*target, choices);
    chosen.extend(provenance::of_process());
    let optima = Optima::default();
    let queue = Queue {
        pending,
        store,
        stop,
        progress,
        workers: workers.len(),
        next: Mutex::default(),
        held: Mutex::default(),
    };
    let (failure, end) = (Mutex::new(None), Mutex::new(None));
    let train = |worker: &Worker, turn: usize, claim: &Claim, alone: bool| {
        let Pending {
            config, identity, ..
        } = &pending[turn];
        let watch = RunWatch {
            turn,
            config,
            run: identity.hash(),
            choices,
            stop,
            progress,
            claim,
            since: alone.then(|| timestamp(SystemTime::now())),
        };
        watch.report(0, None);
        progress.started(turn, config);
        let data = library.load(config)?;
        let machine = worker.machine()?;
        let plans = match lock(&first_plans).take_if(|_| turn == 0) {
            Some(plans) => plans,
            None => Plans::from_weights(init, config, &data, target.device)?,
        };
        let mut result = one(plans, &data, machine, &optima, &watch)?;
        if let Some(result) = &mut result {
            let chosen = chosen.iter();
            result
                .summary
                .extend(chosen.map(|(key, value)| (key.clone(), value.clone())));
            result.summary.insert("threads".into(), threads.into());
        }
        Ok(result)
    };
    // Ends the sweep, unless it is the run's own fault.
    let fail = |turn: usize, mut error: Error| {
        let Pending {
            config, identity, ..
        } = &pending[turn];
        // A reader of the message must learn which run met it.
        error.message = format!("{}: {}", config.label(), error.message);
        let its_own = match error.kind {
            Kind::Io | Kind::CannotCreate => false,
            Kind::Device => target.device == Device::Cpu,
            _ => true,
        };
        if its_own {
            store.fail(identity, &error);
            progress.failed(turn, &error);
            lock(&failure).get_or_insert(error.kind);
        } else {
            lock(&end).get_or_insert(error);
        }
    };
    let ended = || stop.load(Ordering::Relaxed) || lock(&end).is_some();
    let work = |worker: &Worker| {
        let mut pace = None;
        while !ended() {
            let Taken { turns, held, claim } = match queue.next(pace.as_ref()) {
                Ok(Some(taken)) => taken,
                Ok(None) => break,
                Err(error) => {
                    lock(&end).get_or_insert(error);
                    break;
                }
            };
            let (begin, mut begun) = (Instant::now(), 0);
            let mut results: Vec<(usize, RunResult)> = Vec::new();
            for &turn in &turns {
                begun += 1;
                match train(worker, turn, &claim, turns.len() == 1) {
                    Ok(result) => results.extend(result.map(|result| (turn, result))),
                    Err(error) => fail(turn, error),
                }
                if ended() || claim.is_lost() || begin.elapsed() > 4 * WORTH {
                    break;
                }
            }
            let mean = begin.elapsed().as_secs_f64() / begun as f64;
            // Others thought that we were dead, and have taken the runs.
            if claim.is_lost() {
                drop(claim);
                lock(&queue.held).extend(turns.into_iter().chain(held));
                continue;
            }
            let finished = results.iter().map(|(turn, result)| Finished {
                index: pending[*turn].index,
                identity: &pending[*turn].identity,
                result,
            });
            if let Err(error) = store.add(&finished.collect::<Vec<_>>()) {
                lock(&end).get_or_insert(error);
                break;
            }
            if let Some(checkpoints) = &choices.checkpoints {
                for (turn, _) in &results {
                    checkpoints.place(*turn).remove();
                }
            }
            match results.len() == turns.len() {
                true => claim.done(),
                false => drop(claim),
            }
            // Of runs that have failed nothing is known, and those that went on from a checkpoint took longer than now.
            let epochs = results.iter().flat_map(|(_, result)| &result.history);
            let of_epochs = epochs.map(|e| e.train_epoch_time + e.eval_epoch_time);
            let of_epochs = of_epochs.sum::<f64>() / begun as f64;
            pace = (results.len() == begun).then(|| Pace {
                like: turns[0],
                seconds: mean.max(of_epochs),
            });
            for (turn, result) in results {
                progress.finished(turn, result);
            }
            // Only now: see `writers.rs`.
            lock(&queue.held).extend(turns[begun..].iter().copied().chain(held));
        }
    };
    if let [worker] = workers {
        // From inside the pool, so that ops do not have to wake it.
        rayon::scope(|_| work(worker));
    } else {
        // Each is a pool of its own, so that ops stay on it.
        let alone = |worker: &Worker| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads_each);
            let _pool = pool.use_current_thread().build();
            work(worker);
        };
        std::thread::scope(|scope| {
            let thread = |worker| {
                let builder = std::thread::Builder::new();
                builder.spawn_scoped(scope, move || alone(worker)).ok()
            };
            let started = workers.iter().map_while(thread).count();
            // The system may give fewer threads, or none.
            if started == 0 {
                rayon::scope(|_| work(&workers[0]));
            }
        });
    }
    let finished = store.finish();
    if let Some(checkpoints) = &choices.checkpoints {
        checkpoints.close();
    }
    match end.into_inner().unwrap_or(None) {
        Some(error) => Err(error),
        None => finished.map(|()| failure.into_inner().unwrap_or(None)),
    }
}

/// Runs that are trained in less than this are claimed and stored several at a time, so that a claim is worth it: to claim a run,
/// to store it and to sync it takes longer than to train a tiny one. A process that is killed loses it.
const WORTH: Duration = Duration::from_millis(200);

/// How long a run has taken.
struct Pace {
    /// A run of which that is known, by its place among the pending ones.
    like: usize,
    seconds: f64,
}

/// Runs by their places among the pending ones.
struct Taken {
    /// Those that are to be trained, one after the other.
    turns: Vec<usize>,
    /// Those that others had. They are tried again in the end, once the claim has ended.
    held: Vec<usize>,
    claim: Claim,
}

/// Gives out pending runs, each once.
struct Queue<'a> {
    pending: &'a [Pending],
    store: &'a Store,
    stop: &'a AtomicBool,
    progress: &'a dyn Progress,
    workers: usize,
    next: Mutex<usize>,
    /// Those that another process had, when it was their turn.
    held: Mutex<Vec<usize>>,
}

impl Queue<'_> {
    /// The next runs that this process has claimed: several if they are short, as far as that is known.
    fn next(&self, pace: Option<&Pace>) -> Result<Option<Taken>> {
        while !self.stop.load(Ordering::Relaxed) {
            let mut turns = self.take(pace);
            let again = turns.is_empty();
            if again {
                turns.extend(lock(&self.held).pop());
            }
            if turns.is_empty() {
                break;
            }
            let runs = turns.iter().map(|turn| &self.pending[*turn].identity);
            let runs: Vec<&Identity> = runs.collect();
            let (mut mine, mut held) = (Vec::new(), Vec::new());
            let claim = loop {
                let (whose, claim) = self.store.claim(&runs)?;
                // Its owner may have died.
                if let ([Turn::Held(name)], true) = (&whose[..], again)
                    && !self.store.is_alive(name, self.stop)?
                {
                    continue;
                }
                for (turn, whose) in turns.iter().zip(whose) {
                    let what = match whose {
                        Turn::Mine => {
                            mine.push(*turn);
                            continue;
                        }
                        Turn::Held(_) if !again => {
                            held.push(*turn);
                            continue;
                        }
                        Turn::Held(_) => Elsewhere::UnderWay,
                        Turn::Finished => Elsewhere::Finished,
                        Turn::Failed => Elsewhere::Failed,
                    };
                    self.progress.elsewhere(*turn, what);
                }
                break claim;
            };
            match claim {
                Some(claim) => {
                    return Ok(Some(Taken {
                        turns: mine,
                        held,
                        claim,
                    }));
                }
                None => lock(&self.held).extend(held),
            }
        }
        Ok(None)
    }

    /// Whose turn it is: one run, or some that take as long as one that is known to be short.
    fn take(&self, pace: Option<&Pace>) -> Vec<usize> {
        let mut next = lock(&self.next);
        let begin = *next;
        let left = self.pending.len() - begin;
        let several = pace.map_or(1, |pace| {
            let worth = (WORTH.as_secs_f64() / pace.seconds) as usize;
            let time = what_takes_time(&self.pending[pace.like].config);
            let alike = self.pending[begin..].iter().take(worth);
            let alike = alike.take_while(|run| what_takes_time(&run.config) == time);
            // In the end there is something for everybody.
            alike.count().min(left / (2 * self.workers))
        });
        *next += several.max(1).min(left);
        (begin..*next).collect()
    }
}

/// All of a run that decides how long it takes: what is beside learning rate and seed.
fn what_takes_time(run: &RunConfig) -> impl PartialEq + '_ {
    let RunConfig {
        dataset,
        dataset_kwargs,
        model,
        model_kwargs,
        loss_func,
        score_func,
        opt,
        groups,
        batch_size,
        max_epoch,
        run_id: _,
    } = run;
    let opt = opt.iter().filter(|(key, _)| *key != "lr");
    (
        [dataset, model, loss_func, score_func],
        [dataset_kwargs, model_kwargs],
        opt.collect::<Vec<_>>(),
        (groups, batch_size, max_epoch),
    )
}

/// One run, with the optimal value where there is one.
fn one(
    plans: Plans,
    data: &Pair,
    machine: Machine,
    optima: &Optima,
    watch: &RunWatch,
) -> Result<Option<RunResult>> {
    let &RunWatch {
        config,
        choices,
        turn,
        ..
    } = watch;
    let log = choices.log;
    let place = choices.checkpoints.as_ref().map(|all| all.place(turn));
    let Some(mut result) = run_plans(plans, config, data, machine, log, place, watch)? else {
        return Ok(None);
    };
    if models::row(&config.model).is_some_and(|row| row.linear)
        && let Some(value) = optimal_value(config, data, optima)
    {
        result.summary.insert("opt_val".into(), value.into());
    }
    result.summary.extend(of_methods(config));
    let (sum, published) = (data.checksum(), data.train.published());
    result.summary.insert("data".into(), sum.into());
    result
        .summary
        .insert("data_published".into(), published.into());
    Ok(Some(result))
}

fn optimal_value(config: &RunConfig, data: &Pair, optima: &Optima) -> Option<f64> {
    // Weights that decay differently have another objective.
    let decays = |group: &Map<String, Value>| group.contains_key("weight_decay");
    if config.groups.iter().any(decays) {
        return None;
    }
    let number = |key| config.opt.get(key).and_then(serde_json::Value::as_f64);
    let weight_decay = number("weight_decay").unwrap_or(0.0);
    let flag = |key: &str| config.model_kwargs.get(key) == Some(&true.into());
    let bias = flag("bias");
    let problem = format!(
        "{} {:?} {} {weight_decay} {bias}",
        config.dataset, config.dataset_kwargs, config.loss_func
    );
    *lock(optima)
        .entry(problem)
        .or_insert_with(|| optimum(&config.loss_func, &data.train, weight_decay, bias))
}

struct RunWatch<'a> {
    turn: usize,
    config: &'a RunConfig,
    /// The hash of its identity.
    run: &'a str,
    choices: &'a Choices,
    stop: &'a AtomicBool,
    progress: &'a dyn Progress,
    claim: &'a Claim,
    /// When it began; none if it is one of several short ones, which end before others hear of them.
    since: Option<String>,
}

impl RunWatch<'_> {
    /// Lets other processes see where the run stands.
    fn report(&self, epochs: usize, trained: Option<&Epoch>) {
        let under_way = self.since.clone().map(|since| UnderWay {
            since,
            epochs,
            of: self.config.max_epoch,
            loss: trained
                .map(|e| e.train_loss)
                .filter(|loss| loss.is_finite()),
        });
        self.claim.report(self.run, under_way, trained.is_some());
    }
}

impl Watch for RunWatch<'_> {
    fn stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.claim.is_lost()
    }

    fn resumed(&self, epochs: usize, steps: usize) {
        self.report(epochs, None);
        self.progress.resumed(self.turn, epochs, steps);
    }

    fn part(&self, epoch: usize, part: f64) {
        self.progress.part(self.turn, epoch, part);
    }

    fn epoch(&self, done: &Epoch) {
        self.report(done.epoch + 1, Some(done));
        self.progress.epoch(self.turn, done);
    }

    fn warned(&self, what: &str) {
        self.progress.warned(self.turn, what);
    }

    fn wants_trained_weights(&self) -> bool {
        self.choices.save_trained
    }

    fn trained(&self, weights: &Snapshot<'_>) -> Result<()> {
        match &self.choices.save {
            Some(places) => weights.save(self.config, &places[self.turn]),
            None => Ok(()),
        }
    }
}

#[cfg(all(test, emulator))]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use serde_json::json;

    use super::super::run::run;
    use super::*;
    use crate::data::fetch;
    use crate::device::Schedule;
    use crate::device::machine::failing;
    use crate::results::store::Options;

    #[derive(Default)]
    struct Counts {
        started: AtomicUsize,
        finished: AtomicUsize,
        failed: Mutex<Vec<String>>,
    }

    impl Progress for Counts {
        fn started(&self, _: usize, _: &RunConfig) {
            self.started.fetch_add(1, Ordering::Relaxed);
        }
        fn finished(&self, _: usize, _: RunResult) {
            self.finished.fetch_add(1, Ordering::Relaxed);
        }
        fn failed(&self, _: usize, error: &Error) {
            lock(&self.failed).push(error.to_string());
        }
    }

    fn configs(target: Target) -> Vec<Pending> {
        let chosen = chosen(target, &Choices::default());
        let one = |id: u64| {
            let config = json!({
                "dataset": "synthetic_linear", "dataset_kwargs": {"p": 5, "n_samples": 40}, "model": "linear",
                "loss_func": "squared", "score_func": "squared", "opt": {"name": "adam", "lr": 0.1},
                "batch_size": 4, "max_epoch": 2, "run_id": id,
            });
            let config = RunConfig::from_json(config.as_object().unwrap()).unwrap();
            Pending {
                index: id as usize,
                identity: identity(&config, &chosen, Some(Value::Null)),
                config,
            }
        };
        (0..4).map(one).collect()
    }

    /// Sweeps on the emulator and on one thread, which is the one that `prepare` prepares: how it ended, the number of
    /// runs in the output, and those that started.
    fn swept(prepare: impl FnOnce() + Send) -> (Result<Option<Kind>>, usize, usize) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), "faults", Options::default()).unwrap();
        let library = Library::new("data", true, fetch::Options::new(Vec::new(), true));
        let target = Target {
            device: Device::Emulator,
            precision: None,
        };
        let choices = Choices::default();
        let counts = Counts::default();
        let stop = AtomicBool::new(false);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
        let outcome = pool.build().unwrap().install(|| {
            prepare();
            let pending = configs(target);
            sweep(
                &pending,
                &library,
                &store,
                &[target],
                &choices,
                &stop,
                &counts,
            )
        });
        let text = std::fs::read_to_string(store.path()).unwrap_or_default();
        let runs = text.matches("\"run_id\"").count();
        assert_eq!(runs, counts.finished.into_inner());
        assert!(
            !text.contains("\"device\": \"cpu\""),
            "no other device steps in"
        );
        (outcome, runs, counts.started.into_inner())
    }

    #[test]
    fn a_fault_names_the_run_and_ends_the_sweep() {
        let (outcome, runs, started) = swept(|| {});
        assert_eq!(outcome.unwrap(), None);
        assert_eq!((runs, started), (4, 4));
        // A run: 2 epochs of all steps at once and norms, each with two evaluations of one program.
        let programs = 2 * (1 + 1 + 2);
        for (left, whole) in [(0, 0), (programs, 1), (2 * programs + 3, 2)] {
            let (outcome, runs, started) = swept(move || failing::fail_after(left));
            let error = outcome.unwrap_err();
            assert_eq!(error.kind.exit_code(), 1);
            let label = format!("name=adam:lr=0.1:run_id={whole}: a fault made to order");
            assert_eq!(error.message, label);
            assert_eq!(
                (runs, started),
                (whole, whole + 1),
                "no run after the fault"
            );
        }
    }

    /// One run alone, and two on a device that they share.
    #[test]
    fn a_run_that_fails_leaves_the_others_alone() {
        for (device, jobs) in [
            (Device::Cpu, None),
            (Device::Emulator, NonZeroUsize::new(2)),
        ] {
            one_of_four_fails(device.into(), jobs);
        }
    }

    fn one_of_four_fails(target: Target, jobs: Option<NonZeroUsize>) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), "one-bad", Options::default()).unwrap();
        let library = Library::new("data", true, fetch::Options::new(Vec::new(), true));
        let (counts, stop) = (Counts::default(), AtomicBool::new(false));
        let mut pending = configs(target);
        pending[1].config.batch_size = 41;
        let runs = pending.iter().map(|run| &run.config);
        let choices = Choices {
            jobs,
            ..Choices::default()
        };
        let found = check(runs, &library, target, &choices, &stop);
        assert_eq!(found.len(), 1);
        assert!(found[0].message.contains("batch_size: 41"), "{}", found[0]);
        let outcome = sweep(
            &pending,
            &library,
            &store,
            &[target],
            &choices,
            &stop,
            &counts,
        );
        assert_eq!(outcome.unwrap(), Some(Kind::Usage));
        assert_eq!(counts.finished.into_inner(), 3);
        let failed = counts.failed.into_inner().unwrap();
        assert!(
            failed[0].starts_with("name=adam:lr=0.1:run_id=1: batch_size: 41"),
            "{failed:?}"
        );
        assert_eq!(failed.len(), 1);
    }

    /// MLPs of several step sizes: one diverges, one ends before the others.
    #[test]
    fn runs_that_share_a_device_are_what_they_are_alone() {
        let config = |lr: f64, epochs: usize| {
            let config = json!({
                "dataset": "synthetic_linear", "dataset_kwargs": {"p": 5, "n_samples": 43}, "model": "mlp",
                "model_kwargs": {"output_size": 1, "hidden_sizes": [8], "dropout": true}, "loss_func": "squared",
                "score_func": "squared", "opt": {"name": "momo-adam", "lr": lr}, "batch_size": 4,
                "max_epoch": epochs, "run_id": 0,
            });
            RunConfig::from_json(config.as_object().unwrap()).unwrap()
        };
        let mut runs = [config(0.1, 3), config(0.01, 2), config(0.02, 3)];
        runs[2].opt = json!({"name": "sgd", "lr": 1e20})
            .as_object()
            .unwrap()
            .clone();
        let library = Library::new("data", true, fetch::Options::new(Vec::new(), true));
        let [.., shuffled] = Schedule::all();
        let trained = |config: &RunConfig, machine: Machine| {
            let data = library.load(config).unwrap();
            let result = run(config, &data, machine, None, None, &());
            let mut history = result.unwrap().unwrap().history;
            for epoch in &mut history {
                (epoch.train_epoch_time, epoch.eval_epoch_time) = (0.0, 0.0);
            }
            format!("{history:?}")
        };
        let device = || SharedDevice::new(Machine::emulator(shuffled, None).unwrap());
        let alone = runs.each_ref().map(|config| {
            let device = device();
            (trained(config, device.machine()), device.rounds())
        });
        assert!(alone[2].0.contains("NaN") && !alone[0].0.contains("NaN"));
        let device = device();
        let machines = runs.each_ref().map(|_| device.machine());
        std::thread::scope(|scope| {
            let threads = runs.iter().zip(machines);
            let threads = threads.map(|(run, machine)| scope.spawn(move || trained(run, machine)));
            let threads: Vec<_> = threads.collect();
            for (thread, (alone, _)) in threads.into_iter().zip(&alone) {
                assert!(&thread.join().unwrap() == alone);
            }
        });
        // What one run is asked to run, the others run beside it.
        assert_eq!(device.rounds(), alone[0].1);
    }

    #[test]
    fn as_many_short_runs_are_claimed_as_a_claim_is_worth() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), "short", Options::default()).unwrap();
        let [one, ..] = &configs(Device::Cpu.into())[..] else {
            panic!()
        };
        let run = |lr: f64, epochs: usize| {
            let mut run = one.clone();
            run.config.opt.insert("lr".into(), lr.into());
            run.config.max_epoch = epochs;
            run
        };
        let mut pending: Vec<Pending> = (1..=100).map(|i| run(i as f64, 2)).collect();
        pending.extend((1..=100).map(|i| run(i as f64, 3)));
        let (stop, progress) = (AtomicBool::new(false), Counts::default());
        let queue = Queue {
            pending: &pending,
            store: &store,
            stop: &stop,
            progress: &progress,
            workers: 2,
            next: Mutex::default(),
            held: Mutex::default(),
        };
        let taken = |like, seconds| queue.take(Some(&Pace { like, seconds })).len();
        assert_eq!(queue.take(None), [0]);
        assert_eq!(
            queue.take(Some(&Pace {
                like: 0,
                seconds: 0.06
            })),
            [1, 2, 3]
        );
        assert_eq!(taken(0, 0.4), 1);
        // A quarter of those that are left, and none that may take longer.
        assert_eq!(taken(0, 1e-9), (200 - 5) / 4);
        assert_eq!(taken(0, 1e-9), (200 - 53) / 4);
        assert_eq!(taken(0, 1e-9), 100 - 89);
        assert_eq!(taken(0, 1e-9), 1);
        assert_eq!(taken(100, 0.02), 10);
        let rest: usize = std::iter::repeat_with(|| taken(100, 2e-3)).take(50).sum();
        assert_eq!(rest, 200 - 111);
    }

    /// Begins runs in pairs only.
    struct Pairs(std::sync::Barrier);

    impl Progress for Pairs {
        fn started(&self, _: usize, _: &RunConfig) {
            self.0.wait();
        }
    }

    #[test]
    fn several_devices_share_the_runs() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), "two", Options::default()).unwrap();
        let library = Library::new("data", true, fetch::Options::new(Vec::new(), true));
        let target = Target {
            device: Device::Emulator,
            precision: None,
        };
        let (pairs, stop) = (Pairs(std::sync::Barrier::new(2)), AtomicBool::new(false));
        let (pending, choices) = (configs(target), Choices::default());
        let targets = [target; 2];
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let outcome = pool.unwrap().install(|| {
            sweep(
                &pending, &library, &store, &targets, &choices, &stop, &pairs,
            )
        });
        assert_eq!(outcome.unwrap(), None);
        let text = std::fs::read_to_string(store.path()).unwrap();
        let ids = (0..4).map(|id| text.find(&format!("\"run_id\": {id}")).unwrap());
        assert!(ids.is_sorted(), "runs are stored in the config's order");
    }

    #[test]
    fn a_run_without_memory_says_what_it_needs() {
        let (outcome, runs, _) = swept(|| failing::limit_memory(3 << 10));
        let error = outcome.unwrap_err();
        assert_eq!((error.kind.exit_code(), runs), (1, 0));
        for part in [
            "run_id=0: emulator: no memory for",
            "MiB are needed",
            "of 0 are free",
            "batch_size",
        ] {
            assert!(
                error.message.contains(part),
                "{}: no {part:?}",
                error.message
            );
        }
    }
}
