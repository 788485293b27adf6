//! The output file under kills, full disks, second processes and damaged files.

use crate::common::files;
use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};
use stepback_native::config::Choice;
use stepback_native::error::{Error, Kind};
use stepback_native::results::edit::filter;
use stepback_native::results::file::{self, Existing};
use stepback_native::results::identity::Identity;
use stepback_native::results::progress::{Planned, Watch};
use stepback_native::results::store::{Finished, Turn};
use stepback_native::results::writers::Claim;
use stepback_native::results::{Epoch, Options, Overwrite, RunResult, Store, json as python};

fn config(index: usize) -> Map<String, Value> {
    let config = json!({"opt": {"name": "sgd", "lr": 0.1}, "run_id": index});
    config.as_object().unwrap().clone()
}

fn identity(config: &Map<String, Value>) -> Identity {
    Identity::new(config, &Map::new())
}

fn identities(indices: impl IntoIterator<Item = usize>) -> Vec<Identity> {
    let indices = indices.into_iter();
    indices.map(|index| identity(&config(index))).collect()
}

/// All runs of an experiment have been selected.
fn settle(store: &Store, indices: impl IntoIterator<Item = usize>) -> Vec<bool> {
    let all = identities(indices);
    store.settle(&all, &(0..all.len()).collect::<Vec<_>>())
}

/// A run that its index determines. Every third one diverges.
fn run(index: usize) -> RunResult {
    let epochs = (0..5).map(|epoch| Epoch {
        epoch,
        learning_rate: python::Json::Float(0.1),
        train_epoch_time: 0.25,
        model_norm: 0.1,
        grad_norm: if index.is_multiple_of(3) {
            f32::INFINITY
        } else {
            1.5
        },
        train_loss: if index.is_multiple_of(3) {
            f64::NAN
        } else {
            index as f64 / 3.0
        },
        series: vec![("step_size_list".into(), vec![1e-5; 20])],
        ..Epoch::default()
    });
    RunResult {
        config: config(index),
        history: epochs.collect(),
        summary: json!({"num_workers": 0}).as_object().unwrap().clone(),
    }
}

fn open(dir: &Path) -> Store {
    Store::open(dir, "x", Options::default()).unwrap()
}

/// Adds a run that was trained alone.
fn add(store: &Store, index: usize, run: &RunResult) -> Result<(), Error> {
    add_all(store, &[(index, run)])
}

fn add_all(store: &Store, runs: &[(usize, &RunResult)]) -> Result<(), Error> {
    let identities = runs
        .iter()
        .map(|(_, run)| Identity::new(&run.config, &run.summary));
    let identities: Vec<Identity> = identities.collect();
    let finished = runs
        .iter()
        .zip(&identities)
        .map(|(&(index, result), identity)| Finished {
            index,
            identity,
            result,
        });
    store.add(&finished.collect::<Vec<_>>())
}

/// Claims one run.
fn claim(store: &Store, index: usize) -> (Turn, Option<Claim>) {
    let (mut turns, claim) = claim_all(store, [index]);
    (turns.remove(0), claim)
}

fn claim_all(
    store: &Store,
    indices: impl IntoIterator<Item = usize>,
) -> (Vec<Turn>, Option<Claim>) {
    let all = identities(indices);
    store.claim(&all.iter().collect::<Vec<_>>()).unwrap()
}

fn read(dir: &Path) -> String {
    fs::read_to_string(dir.join("x.json")).unwrap()
}

/// What a reading command finds: the file's runs and those beside it.
fn seen(dir: &Path) -> String {
    filter(&dir.join("x.json"), &Choice::default(), &[])
        .unwrap()
        .0
}

/// What Python would print for these runs.
fn file_of(runs: &[usize]) -> String {
    let runs: Vec<RunResult> = runs.iter().map(|&i| run(i)).collect();
    python::dumps(
        &python::Json::List(runs.iter().map(RunResult::to_json).collect()),
        false,
    )
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

// ---- Child processes: this executable again, running the test `child` in a role. ----

const RUNS: usize = 300;

fn spawn(role: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["store::child", "--exact", "--ignored", "--nocapture"])
        .envs([
            ("STORE_ROLE", role.as_ref()),
            ("STORE_DIR", dir.as_os_str()),
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "not a test: what the child processes of the others do"]
fn child() {
    let Ok(role) = std::env::var("STORE_ROLE") else {
        return;
    };
    let dir = std::path::PathBuf::from(std::env::var_os("STORE_DIR").unwrap());
    // Kills fall on files of runs and on outputs that are being written.
    let options = Options {
        interval: match role.as_str() {
            "fill" => Duration::from_millis(2),
            _ => Options::default().interval,
        },
        ..Options::default()
    };
    let store = Store::open(&dir, "x", options).unwrap();
    match role.as_str() {
        "fill" => {
            let done = settle(&store, 0..RUNS);
            std::thread::scope(|scope| {
                for thread in 0..3 {
                    let (store, done) = (&store, &done);
                    scope.spawn(move || {
                        for i in (thread..RUNS).step_by(3).filter(|&i| !done[i]) {
                            add(store, i, &run(i)).unwrap();
                            println!("\nadded {i}");
                        }
                    });
                }
            });
        }
        "hold" => {
            println!("\nholding");
            std::thread::sleep(Duration::from_secs(60));
        }
        "leave" => {
            (0..3).for_each(|i| add(&store, i, &run(i)).unwrap());
            std::process::exit(0);
        }
        // Short runs, of which the last were under way.
        "bundle" => {
            let _claim = claim_all(&store, 0..6).1.unwrap();
            let runs = [0, 1, 2].map(run);
            // The first one that comes goes into the output.
            add(&store, 6, &run(6)).unwrap();
            add_all(&store, &[(0, &runs[0]), (1, &runs[1])]).unwrap();
            // Of the version before: each run has a file.
            add(&store, 2, &runs[2]).unwrap();
            println!("\nclaimed");
            std::thread::sleep(Duration::from_secs(60));
        }
        "full" => {
            let noted = std::sync::Arc::<std::sync::atomic::AtomicBool>::default();
            signal_hook::flag::register(libc::SIGXFSZ, noted).unwrap();
            limit_file_size(100);
            let error = add(&store, 3, &run(3)).unwrap_err();
            println!("\nerror {:?} {error}", error.kind);
            limit_file_size(1 << 30);
            println!("\ntemps {:?}", names(&dir));
            fs::copy(dir.join("x.json"), dir.join("after-error")).unwrap();
            add(&store, 4, &run(4)).unwrap();
        }
        other => panic!("no role {other}"),
    }
}

fn limit_file_size(bytes: u64) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls read or write the struct given, which outlives them.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_FSIZE, &mut limit), 0);
        limit.rlim_cur = bytes;
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
    }
}

/// Waits until the child prints the line.
fn await_line(child: &mut Child, line: &str) {
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(
        lines.any(|l| l.unwrap() == line),
        "the child never said {line:?}"
    );
}

#[test]
fn no_kill_loses_a_run() {
    let undisturbed = file_of(&(0..RUNS).collect::<Vec<_>>());
    let dir = tempfile::tempdir().unwrap();
    let mut draws = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut added: Vec<usize> = Vec::new();
    let mut finished = 0;
    for round in 0..100 {
        let mut child = spawn("fill", dir.path());
        std::thread::sleep(Duration::from_micros(draws.random_range(0..40_000)));
        let ended = child
            .try_wait()
            .unwrap()
            .is_some_and(|status| status.success());
        child.kill().unwrap();
        child.wait().unwrap();
        let mut said = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        // A line cut by the kill names no run.
        let whole = said.split_inclusive('\n').filter(|l| l.ends_with('\n'));
        added.extend(whole.filter_map(|l| l.trim().strip_prefix("added ")?.parse::<usize>().ok()));
        if added.is_empty() {
            continue;
        }
        let text = seen(dir.path());
        let runs = match python::parse(&text) {
            Ok(python::Json::List(runs)) => runs,
            other => panic!("round {round}: {other:?}"),
        };
        let runs: HashSet<String> = runs.iter().map(|r| python::dumps(r, false)).collect();
        for &i in &added {
            let there = runs.contains(&python::dumps(&run(i).to_json(), false));
            assert!(there, "round {round}: run {i} was lost");
        }
        if ended {
            assert_eq!(read(dir.path()), undisturbed);
            fs::remove_file(dir.path().join("x.json")).unwrap();
            added.clear();
            finished += 1;
        }
    }
    assert!(
        spawn("fill", dir.path())
            .wait_with_output()
            .unwrap()
            .status
            .success()
    );
    assert_eq!(read(dir.path()), undisturbed);
    assert_eq!(names(dir.path()), ["x.json"]);
    eprintln!(
        "{} runs before the last start, {finished} sweeps finished",
        added.len()
    );
}

fn refused(dir: &Path, id: &str, overwrite: Option<Overwrite>) -> Error {
    let options = Options {
        overwrite,
        ..Options::default()
    };
    Store::open(dir, id, options).unwrap_err()
}

#[test]
fn who_overwrites_is_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut holder = spawn("hold", dir.path());
    await_line(&mut holder, "holding");
    let error = refused(dir.path(), "x", Some(Overwrite::All));
    assert_eq!(error.kind, Kind::Locked);
    let who = format!("pid {} on ", holder.id());
    assert!(error.message.contains(&who), "{error}");
    assert!(error.message.contains("since 2"), "{error}");
    assert!(error.message.contains("without --overwrite"), "{error}");
    // Others may come, and other experiments in the same folder are free.
    open(dir.path());
    overwrite_in(dir.path(), "x-1", Overwrite::All);
    holder.kill().unwrap();
    holder.wait().unwrap();
    let store = overwrite(dir.path(), Overwrite::Selected);
    assert_eq!(refused(dir.path(), "x", None).kind, Kind::Locked);
    drop(store);
    open(dir.path());
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn only_one_has_the_output_alone_while_others_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let (holders, held) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let options = Options {
                    overwrite: Some(Overwrite::All),
                    ..Options::default()
                };
                while held.load(Ordering::Relaxed) < 200 {
                    let Ok(store) = Store::open(dir.path(), "x", options) else {
                        continue;
                    };
                    assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                    std::thread::yield_now();
                    holders.fetch_sub(1, Ordering::SeqCst);
                    held.fetch_add(1, Ordering::Relaxed);
                    drop(store);
                }
            });
        }
    });
    assert_eq!(names(dir.path()), [""; 0], "nothing stays");
    // A folder that was made for nothing goes too.
    open(&dir.path().join("new"));
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn a_run_is_claimed_once_and_what_all_have_finished_is_in_the_output() {
    let dir = tempfile::tempdir().unwrap();
    let all = identities(0..200);
    let claimed: Vec<AtomicUsize> = (0..200).map(AtomicUsize::new).collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (all, claimed, dir) = (&all, &claimed, dir.path());
            scope.spawn(move || {
                let options = Options {
                    interval: Duration::from_millis(thread),
                    ..Options::default()
                };
                let store = Store::open(dir, "x", options).unwrap();
                let done = settle(&store, 0..200);
                let left = all.iter().enumerate().filter(|(i, _)| !done[*i]);
                for (i, identity) in left {
                    let Some(claim) = store.claim(&[identity]).unwrap().1 else {
                        continue;
                    };
                    if i % 50 == 7 && claimed[i].fetch_add(1, Ordering::Relaxed) == i {
                        // Given up: others may have it.
                        continue;
                    }
                    add(&store, i, &run(i)).unwrap();
                    claimed[i].fetch_add(1000, Ordering::Relaxed);
                    claim.done();
                }
                // Those that were given up, when nobody else has them any more.
                for i in [7, 57, 107, 157].into_iter().filter(|i| !done[*i]) {
                    if let Some(_claim) = store.claim(&[&all[i]]).unwrap().1 {
                        add(&store, i, &run(i)).unwrap();
                        claimed[i].fetch_add(1000, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let times = claimed.iter().map(|n| n.load(Ordering::Relaxed) / 1000);
    assert!(times.into_iter().all(|n| n == 1), "trained once");
    assert_eq!(read(dir.path()), file_of(&(0..200).collect::<Vec<_>>()));
    assert_eq!(names(dir.path()), ["x.json"]);
}

#[test]
fn processes_that_claim_several_runs_leave_each_other_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (open(dir.path()), open(dir.path()));
    for store in [&first, &second] {
        settle(store, 0..10);
    }
    let name = |turn: &Turn| match turn {
        Turn::Held(name) => name.clone(),
        turn => panic!("{turn:?}"),
    };
    let (turns, several) = claim_all(&first, 2..6);
    assert_eq!(turns, [Turn::Mine, Turn::Mine, Turn::Mine, Turn::Mine]);
    let alone = claim(&second, 7).1;
    // A part of both, one with the same first run.
    let (turns, none) = claim_all(&second, [2, 3]);
    assert!(turns.iter().all(|turn| name(turn) == name(&turns[0])) && none.is_none());
    let (turns, rest) = claim_all(&second, [1, 5, 6]);
    assert_eq!((&turns[0], &turns[2]), (&Turn::Mine, &Turn::Mine));
    let holder = name(&turns[1]);
    assert_eq!(name(&claim(&second, 4).0), holder);
    let (turns, more) = claim_all(&first, [6, 7, 8]);
    assert_eq!(turns[2], Turn::Mine);
    assert!(name(&turns[0]) == name(&turns[1]) && name(&turns[0]) != holder);
    // What is finished, in whatever file, is known before the claim ends.
    let runs: Vec<RunResult> = (0..10).map(run).collect();
    let of = |indices: &[usize]| -> Vec<_> { indices.iter().map(|&i| (i, &runs[i])).collect() };
    add_all(&first, &of(&[2, 3, 4, 5])).unwrap();
    several.unwrap().done();
    add_all(&second, &of(&[7])).unwrap();
    alone.unwrap().done();
    assert_eq!(claim(&second, 5).0, Turn::Finished);
    let (turns, last) = claim_all(&second, [3, 0, 4]);
    assert_eq!(turns, [Turn::Finished, Turn::Mine, Turn::Finished]);
    // Given up.
    drop((rest, more, last));
    let (turns, all) = claim_all(&first, [0, 1, 6, 7, 8, 9]);
    assert_eq!(turns.iter().filter(|turn| **turn == Turn::Mine).count(), 5);
    assert_eq!(turns[3], Turn::Finished);
    add_all(&first, &of(&[0, 1, 6, 8, 9])).unwrap();
    all.unwrap().done();
    drop((first, second));
    assert_eq!(read(dir.path()), file_of(&(0..10).collect::<Vec<_>>()));
    assert_eq!(names(dir.path()), ["x.json"]);
}

/// Who looks for other claims only before making one may see none.
#[test]
fn claims_that_are_made_at_the_same_time_share_no_run() {
    let dir = tempfile::tempdir().unwrap();
    let stores = [open(dir.path()), open(dir.path())];
    let turn = Barrier::new(2);
    let mine = |store: &Store, first: usize| -> Vec<Vec<usize>> {
        let claim_at_once = |_| {
            turn.wait();
            let (turns, claim) = claim_all(store, first..first + 4);
            turn.wait();
            drop(claim);
            let mine = (first..).zip(turns).filter(|(_, turn)| *turn == Turn::Mine);
            mine.map(|(run, _)| run).collect()
        };
        (0..200).map(claim_at_once).collect()
    };
    let [ours, theirs] = std::thread::scope(|scope| {
        let threads = [0, 1].map(|i| {
            let (mine, store) = (&mine, &stores[i]);
            scope.spawn(move || mine(store, 2 * i))
        });
        threads.map(|thread| thread.join().unwrap())
    });
    for (round, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        let both: Vec<_> = ours.iter().filter(|run| theirs.contains(run)).collect();
        assert!(both.is_empty(), "round {round}: {both:?}");
    }
}

#[test]
fn a_claim_of_several_runs_some_of_which_are_done_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut owner = spawn("bundle", dir.path());
    await_line(&mut owner, "claimed");
    let other = open(dir.path());
    let done = settle(&other, 0..7);
    assert_eq!(done, [true, true, true, false, false, false, true]);
    let status = || Watch::default().status(&dir.path().join("x.json"));
    let planned = |index: usize| Planned {
        run: identity(&config(index)).hash().to_owned(),
        label: format!("run {index}"),
        epochs: 5,
    };
    other.plan(1, (0..6).map(planned).collect()).unwrap();
    let before = status().unwrap();
    assert_eq!((before.done, before.running.len(), before.to_go), (4, 3, 0));
    let (turns, none) = claim_all(&other, [3, 4]);
    assert!(turns.iter().all(|turn| matches!(turn, Turn::Held(_))) && none.is_none());
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert_eq!(status().unwrap().to_go, 3);
    assert_eq!(seen(dir.path()).matches("run_id").count(), 4);
    let (turns, taken) = claim_all(&other, 0..6);
    let [finished, mine] = [Turn::Finished, Turn::Mine].map(|turn| vec![turn; 3]);
    assert_eq!(turns, [finished, mine].concat());
    let runs = [3, 4, 5].map(run);
    add_all(&other, &[(3, &runs[0]), (4, &runs[1]), (5, &runs[2])]).unwrap();
    taken.unwrap().done();
    // Both bundles are there until the output has them.
    assert_eq!(names(&dir.path().join(".x.runs/bundles")).len(), 2);
    assert_eq!(seen(dir.path()).matches("run_id").count(), 7);
    drop(other);
    assert_eq!(read(dir.path()), file_of(&(0..7).collect::<Vec<_>>()));
    assert_eq!(names(dir.path()), ["x.json"]);
}

#[test]
fn the_folder_of_a_claim_that_is_done_becomes_the_next_ones_unless_others_have_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let writers = dir.path().join(".x.writers");
    let file = writers.join(&names(&writers)[0]);
    let other = open(dir.path());
    for store in [&store, &other] {
        settle(store, 0..4);
    }
    let claimed = |store: &Store, index| claim(store, index).1.expect("it is free");
    let folder = |index| {
        let name = format!("{}.claim", identity(&config(index)).hash());
        dir.path().join(".x.runs").join(name)
    };
    let inode = |index| fs::metadata(folder(index)).unwrap().ino();
    let claim = claimed(&store, 0);
    let first = inode(0);
    add(&store, 0, &run(0)).unwrap();
    claim.done();
    assert!(!folder(0).exists());
    let claim = claimed(&store, 1);
    assert_eq!(inode(1), first);
    // The other one thinks that the first is dead.
    fs::remove_file(&file).unwrap();
    let taken = claimed(&other, 1);
    add(&store, 1, &run(1)).unwrap();
    claim.done();
    let claim = claimed(&store, 2);
    assert!(claim.is_there());
    let own = file.file_stem().unwrap().to_str().unwrap();
    assert_eq!(names(&folder(2)), [own]);
    drop((taken, claim, store, other));
    assert_eq!(names(dir.path()), ["x.json"]);
}

#[test]
fn whoever_looks_sees_how_far_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let planned = |index: usize| Planned {
        run: identity(&config(index)).hash().to_owned(),
        label: format!("run {index}"),
        epochs: 5,
    };
    let status = || {
        let status = Watch::default().status(&dir.path().join("x.json")).unwrap();
        let running: Vec<String> = status.running.iter().map(|run| run.run.clone()).collect();
        let failed = status
            .failed
            .iter()
            .map(|run| format!("{}: {}", run.run, run.error));
        (
            status.done,
            running,
            failed.collect::<Vec<_>>(),
            status.to_go,
        )
    };
    let first = open(dir.path());
    settle(&first, 0..6);
    first.plan(0, (0..6).map(planned).collect()).unwrap();
    add(&first, 0, &run(0)).unwrap();
    let held = claim(&first, 1).1.expect("it is free");
    assert_eq!(status(), (1, vec!["run 1".into()], vec![], 4));
    // One that comes later, with another config.
    let second = open(dir.path());
    settle(&second, 0..8);
    second.plan(1, (1..8).map(planned).collect()).unwrap();
    assert_eq!(status(), (1, vec!["run 1".into()], vec![], 6));
    add(&second, 2, &run(2)).unwrap();
    second.fail(&identity(&config(3)), &Error::usage("no memory"));
    assert_eq!(claim(&first, 3).0, Turn::Failed);
    assert_eq!(
        status(),
        (2, vec!["run 1".into()], vec!["run 3: no memory".into()], 4)
    );
    drop((held, first, second));
    assert_eq!(read(dir.path()), file_of(&[0, 2]));
    assert_eq!(status(), (2, vec![], vec!["run 3: no memory".into()], 5));
    // Who comes then tries it again.
    let third = open(dir.path());
    settle(&third, 0..8);
    third.plan(2, [1, 3].map(planned).into()).unwrap();
    assert_eq!(status(), (2, vec![], vec![], 2));
    for i in [1, 3] {
        assert_eq!(claim(&third, i).0, Turn::Mine);
        add(&third, i, &run(i)).unwrap();
    }
    drop(third);
    assert_eq!(status(), (4, vec![], vec![], 0));
    assert_eq!(names(dir.path()), ["x.json"]);
}

/// As if it had been suspended for long, on another machine.
#[test]
fn a_process_that_was_counted_as_dead_loses_nothing_of_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let writers = dir.path().join(".x.writers");
    let late = open(dir.path());
    let file = writers.join(&names(&writers)[0]);
    let other = open(dir.path());
    for store in [&late, &other] {
        settle(store, 0..5);
    }
    add(&late, 0, &run(0)).unwrap();
    let claimed = claim(&late, 4).1.expect("it is free");
    fs::remove_file(file).unwrap();
    let taken = claim(&other, 4).1.expect("its owner is dead");
    assert!(!claimed.is_there());
    // Not that of the new owner.
    drop(claimed);
    let beside = names(&dir.path().join(".x.runs"));
    assert!(
        beside.iter().any(|name| name.ends_with(".claim")),
        "{beside:?}"
    );
    for i in [1, 2] {
        add(&other, i, &run(i)).unwrap();
    }
    other.finish().unwrap();
    assert_eq!(read(dir.path()), file_of(&[0, 1, 2]));
    add(&late, 3, &run(3)).unwrap();
    late.finish().unwrap();
    assert_eq!(read(dir.path()), file_of(&[0, 1, 2, 3]));
    drop((taken, late, other));
    assert_eq!(names(dir.path()), ["x.json"]);
}

#[test]
fn runs_are_claimed_where_the_folder_was_that_somebody_has_moved() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let store = open(&out);
    settle(&store, 0..4);
    add(&store, 0, &run(0)).unwrap();
    for (runs, moved) in [(vec![1], "once"), (vec![2, 3], "twice")] {
        fs::rename(&out, dir.path().join(moved)).unwrap();
        let (turns, claim) = claim_all(&store, runs.clone());
        assert!(turns.iter().all(|turn| *turn == Turn::Mine), "{turns:?}");
        let results: Vec<_> = runs.into_iter().map(|i| (i, run(i))).collect();
        let results: Vec<_> = results.iter().map(|(i, run)| (*i, run)).collect();
        add_all(&store, &results).unwrap();
        claim.unwrap().done();
    }
    drop(store);
    assert_eq!(read(&out), file_of(&[0, 1, 2, 3]));
    assert_eq!(names(&out), ["x.json"]);
}

#[test]
fn runs_of_two_problems_do_not_meet_even_before_the_first_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let of = |model: &str| {
        let mut config = config(0);
        config.insert("model".into(), model.into());
        [identity(&config)]
    };
    let (first, second) = (open(dir.path()), open(dir.path()));
    first.check_problems(&of("linear")).unwrap();
    let error = second.check_problems(&of("mlp")).unwrap_err();
    assert_eq!(error.kind, Kind::Usage);
    let who = format!("pid {}", std::process::id());
    for part in [&who, "model=mlp instead of linear"] {
        assert!(error.message.contains(part), "{error}");
    }
    drop(first);
    second.check_problems(&of("mlp")).unwrap();
}

#[test]
fn a_full_disk_leaves_the_last_whole_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    (0..3).for_each(|i| add(&store, i, &run(i)).unwrap());
    drop(store);
    let output = spawn("full", dir.path()).wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    let error = said.lines().find(|l| l.starts_with("error ")).unwrap();
    assert!(error.starts_with("error Io cannot save "), "{error}");
    assert!(error.contains("x.json: File too large"), "{error}");
    assert!(
        error.ends_with("the runs saved earlier are intact"),
        "{error}"
    );
    assert!(
        said.contains("\ntemps [\".x.runs\", \".x.writers\", \"x.json\"]\n"),
        "{said}"
    );
    let after = fs::read_to_string(dir.path().join("after-error")).unwrap();
    assert_eq!(after, file_of(&[0, 1, 2]));
    // The run that could not be saved comes with the next save.
    assert_eq!(read(dir.path()), file_of(&[0, 1, 2, 3, 4]));
}

#[test]
fn threads_add_side_by_side_and_the_file_is_in_config_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for i in (0..200).rev().filter(|i| i % 8 == thread) {
                    add(store, i, &run(i)).unwrap();
                    assert!(seen(dir_of(store)).contains(&format!("\"run_id\": {i}\n")));
                }
            });
        }
    });
    drop(store);
    assert_eq!(names(dir.path()), ["x.json"]);
    assert_eq!(read(dir.path()), file_of(&(0..200).collect::<Vec<_>>()));
}

fn dir_of(store: &Store) -> &Path {
    store.path().parent().unwrap()
}

#[test]
fn runs_of_the_reference_are_kept_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let published = std::fs::read_to_string(files::path(
        "records/reference/outputs/synthetic_small.json",
    ))
    .unwrap();
    fs::write(dir.path().join("x.json"), &published).unwrap();
    let store = open(dir.path());
    assert_eq!(read(dir.path()), published);
    add(&store, 0, &run(7)).unwrap();
    store.finish().unwrap();
    let added = file_of(&[7]);
    let [old, new] = [&published, &added].map(|s| s.strip_suffix("\n]").unwrap());
    let joined = format!("{old},{}\n]", new.strip_prefix('[').unwrap());
    assert_eq!(read(dir.path()), joined);
}

#[test]
fn finished_runs_are_found_and_take_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for i in [9, 4, 2] {
        add(&store, i, &run(i)).unwrap();
    }
    drop(store);
    let store = open(dir.path());
    assert!(store.contains(&identity(&config(4))));
    assert!(!store.contains(&identity(&config(0))));
    // 4 and 4.0 are the same to Python, as are keys in another order.
    let respelled = json!({"run_id": 4.0, "opt": {"lr": 0.1, "name": "sgd"}});
    assert!(store.contains(&identity(respelled.as_object().unwrap())));
    let other = json!({"run_id": 4, "opt": {"lr": 0.10000000000000002, "name": "sgd"}});
    assert!(!store.contains(&identity(other.as_object().unwrap())));
    let done = settle(&store, 0..5);
    assert_eq!(done, [false, false, true, false, true]);
    add(&store, 3, &run(3)).unwrap();
    store.finish().unwrap();
    assert_eq!(read(dir.path()), file_of(&[9, 2, 3, 4]));
}

#[test]
fn overwrite_keeps_the_old_file_until_the_first_save_and_then_as_backup() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("x.json"), "even { this").unwrap();
    let store = overwrite(dir.path(), Overwrite::All);
    assert_eq!(read(dir.path()), "even { this");
    add(&store, 0, &run(0)).unwrap();
    add(&store, 1, &run(1)).unwrap();
    drop(store);
    assert_eq!(read(dir.path()), file_of(&[0, 1]));
    let backup = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(backup("x.json.bak"), "even { this");
    // No backup is ever written over.
    add(&overwrite(dir.path(), Overwrite::All), 2, &run(2)).unwrap();
    assert_eq!(backup("x.json.bak"), "even { this");
    assert_eq!(backup("x.json.bak.1"), file_of(&[0, 1]));
    assert_eq!(read(dir.path()), file_of(&[2]));
}

fn overwrite(dir: &Path, which: Overwrite) -> Store {
    overwrite_in(dir, "x", which)
}

fn overwrite_in(dir: &Path, id: &str, which: Overwrite) -> Store {
    let options = Options {
        overwrite: Some(which),
        ..Options::default()
    };
    Store::open(dir, id, options).unwrap()
}

#[test]
fn only_selected_runs_are_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let old = file_of(&[0, 1, 2, 3]);
    fs::write(dir.path().join("x.json"), &old).unwrap();
    let store = overwrite(dir.path(), Overwrite::Selected);
    assert_eq!(settle(&store, [1, 3]), [false, false]);
    assert_eq!(read(dir.path()), old);
    let mut again = run(3);
    again.summary.insert("again".into(), true.into());
    add(&store, 1, &again).unwrap();
    // The run that has not been trained again yet is in the backup alone.
    let text = read(dir.path());
    assert_eq!(text.matches("run_id").count(), 3);
    assert!(text.starts_with(file_of(&[0, 2]).strip_suffix("\n]").unwrap()));
    assert!(text.contains("\"again\": true"));
    let backup = fs::read_to_string(dir.path().join("x.json.bak")).unwrap();
    assert_eq!(backup, old);
}

#[test]
fn a_finished_run_has_a_file_of_its_own_until_the_output_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    add(&store, 3, &run(3)).unwrap();
    let first = read(dir.path());
    assert_eq!(first, file_of(&[3]));
    for i in [2, 0, 1] {
        add(&store, i, &run(i)).unwrap();
        assert_eq!(
            read(dir.path()),
            first,
            "the output is not written for each run"
        );
    }
    assert_eq!(names(&dir.path().join(".x.runs")).len(), 3);
    assert_eq!(seen(dir.path()).matches("run_id").count(), 4);
    store.finish().unwrap();
    assert_eq!(read(dir.path()), file_of(&[0, 1, 2, 3]));
    assert_eq!(seen(dir.path()), read(dir.path()));
    drop(store);
    assert_eq!(names(dir.path()), ["x.json"]);
    // Written whenever the interval is over.
    let options = Options {
        interval: Duration::ZERO,
        ..Options::default()
    };
    let store = Store::open(dir.path(), "x", options).unwrap();
    add(&store, 4, &run(4)).unwrap();
    assert_eq!(read(dir.path()), file_of(&[0, 1, 2, 3, 4]));
    assert_eq!(names(dir.path()), [".x.runs", ".x.writers", "x.json"]);
}

#[test]
fn runs_that_a_killed_process_left_are_found_by_all() {
    for which in [None, Some(Overwrite::All), Some(Overwrite::Selected)] {
        let dir = tempfile::tempdir().unwrap();
        let left = || {
            let status = spawn("leave", dir.path()).wait().unwrap();
            assert!(status.success());
            assert_eq!(names(&dir.path().join(".x.runs")).len(), 2);
        };
        left();
        fs::write(dir.path().join(".x.runs/.tmp-AbCdEf"), "{").unwrap();
        let runs = stepback_native::results::output::read(&dir.path().join("x.json")).unwrap();
        assert_eq!(runs.len(), 3);
        let options = Options {
            overwrite: which,
            ..Options::default()
        };
        let store = Store::open(dir.path(), "x", options).unwrap();
        assert_eq!(seen(dir.path()).matches("run_id").count(), 3);
        let done = settle(&store, 0..4);
        assert_eq!(done[1], which.is_none());
        add(&store, 3, &run(3)).unwrap();
        drop(store);
        let backup = dir.path().join("x.json.bak");
        match which {
            None => {
                assert_eq!(read(dir.path()), file_of(&[0, 1, 2, 3]));
                assert_eq!(names(dir.path()), ["x.json"]);
            }
            Some(_) => {
                assert_eq!(read(dir.path()), file_of(&[3]));
                let runs = fs::read_to_string(backup).unwrap();
                assert_eq!(runs.matches("run_id").count(), 3);
            }
        }
    }
    // A file of a run that is no JSON is named.
    let dir = tempfile::tempdir().unwrap();
    add(&open(dir.path()), 0, &run(0)).unwrap();
    fs::create_dir(dir.path().join(".x.runs")).unwrap();
    fs::write(dir.path().join(".x.runs/abc.json"), "{").unwrap();
    let error = Store::open(dir.path(), "x", Options::default()).unwrap_err();
    assert_eq!(error.kind, Kind::Corrupt);
    assert!(error.message.contains("abc.json"), "{error}");
    // So is one of several that is no list, or lacks a run that it names.
    fs::remove_file(dir.path().join(".x.runs/abc.json")).unwrap();
    let bundle = dir.path().join(".x.runs/bundles/abc-0.json");
    fs::create_dir(bundle.parent().unwrap()).unwrap();
    for text in ["a b", "a b\n{}", "a b\n[{}]", "a\n[{}, {}]"] {
        fs::write(&bundle, text).unwrap();
        let error = Store::open(dir.path(), "x", Options::default()).unwrap_err();
        assert_eq!(error.kind, Kind::Corrupt);
        assert!(error.message.contains("abc-0.json"), "{error}");
    }
    // One that a power cut has left empty is none.
    fs::write(&bundle, "").unwrap();
    open(dir.path());
    assert_eq!(names(dir.path()), ["x.json"]);
}

#[test]
fn an_output_is_one_file_under_all_its_names() {
    let dir = tempfile::tempdir().unwrap();
    let (big, out) = (dir.path().join("big"), dir.path().join("out"));
    fs::create_dir(&big).unwrap();
    fs::create_dir(&out).unwrap();
    std::os::unix::fs::symlink("../big/y.json", out.join("x.json")).unwrap();
    let store = open(&out);
    let error = refused(&big, "y", Some(Overwrite::All));
    assert_eq!(error.kind, Kind::Locked);
    for i in 0..2 {
        add(&store, i, &run(i)).unwrap();
    }
    assert_eq!(seen(&out), file_of(&[0, 1]));
    drop(store);
    let link = fs::symlink_metadata(out.join("x.json")).unwrap();
    assert!(link.is_symlink());
    assert_eq!(
        fs::read_to_string(big.join("y.json")).unwrap(),
        file_of(&[0, 1])
    );
    file::write(&out.join("x.json"), b"[]", Existing::Replace).unwrap();
    assert_eq!(fs::read_to_string(big.join("y.json")).unwrap(), "[]");
    assert_eq!(
        (names(&out), names(&big)),
        (vec!["x.json".into()], vec!["y.json".into()])
    );
    // One that leads in circles.
    std::os::unix::fs::symlink("z.json", out.join("z.json")).unwrap();
    let error = Store::open(&out, "z", Options::default()).unwrap_err();
    assert_eq!(error.kind, Kind::CannotCreate);
}

#[test]
fn a_file_that_is_replaced_is_there_at_every_moment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    let text = |i: usize| vec![b'0' + i as u8; 10_000];
    file::write(&path, &text(0), Existing::Refuse).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let look = || {
            while !done.load(Ordering::Relaxed) {
                // Most looks are short ones, so that none of the moments is missed.
                assert!((0..100).all(|_| path.exists()), "it is gone");
                let bytes = fs::read(&path).unwrap();
                assert!(bytes == text(usize::from(bytes[0] - b'0')), "not whole");
            }
        };
        let looking = scope.spawn(look);
        for i in 1..=100 {
            file::write(&path, &text(i), Existing::Keep).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        looking.join().unwrap();
    });
    assert_eq!(names(dir.path()).len(), 1 + 100, "each is kept");
}

#[test]
fn a_lock_that_is_no_folder_of_ours_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (lock, precious) = (dir.path().join(".x.lock"), dir.path().join("precious"));
    let check = || {
        let error = refused(dir.path(), "x", None);
        assert_eq!(error.kind, Kind::CannotCreate);
        assert!(error.message.contains(".x.lock"), "{error}");
        assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "mine");
    };
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "mine").unwrap();
    std::os::unix::fs::symlink("precious", &lock).unwrap();
    check();
    fs::remove_file(&lock).unwrap();
    // As older versions had it.
    fs::write(&lock, "pid 1").unwrap();
    check();
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    fs::write(lock.join("file"), "").unwrap();
    check();
    fs::remove_dir_all(&lock).unwrap();
    open(dir.path());
}

#[test]
fn what_others_put_in_the_outputs_place_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    let other = |text: &str| {
        fs::remove_file(&path).unwrap_or(());
        fs::write(&path, text).unwrap();
    };
    let elsewhere = |store: &Store, index: usize, name: &str, runs: &[usize]| {
        let error = add(store, index, &run(index)).unwrap_err();
        assert_eq!(error.kind, Kind::Io);
        assert!(error.message.contains(name), "{error}");
        assert_eq!(
            fs::read_to_string(dir.path().join(name)).unwrap(),
            file_of(runs)
        );
    };
    // Before the first save, and after it.
    let store = open(dir.path());
    other("theirs");
    elsewhere(&store, 0, "x.json.bak", &[0]);
    drop(store);
    assert_eq!(read(dir.path()), "theirs");
    fs::remove_file(&path).unwrap();
    let store = open(dir.path());
    (0..3).for_each(|i| add(&store, i, &run(i)).unwrap());
    other("theirs");
    elsewhere(&store, 3, "x.json.bak.1", &[0, 1, 2, 3]);
    elsewhere(&store, 4, "x.json.bak.1", &[0, 1, 2, 3, 4]);
    drop(store);
    assert_eq!(read(dir.path()), "theirs");
    assert_eq!(names(dir.path()), ["x.json", "x.json.bak", "x.json.bak.1"]);
    // Removed.
    fs::remove_file(&path).unwrap();
    let store = open(dir.path());
    (0..2).for_each(|i| add(&store, i, &run(i)).unwrap());
    fs::remove_file(&path).unwrap();
    elsewhere(&store, 2, "x.json.bak.2", &[0, 1, 2]);
    drop(store);
    assert!(!path.exists());
}

#[test]
fn whoever_writes_an_output_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    let store = open(dir.path());
    (0..2).for_each(|i| add(&store, i, &run(i)).unwrap());
    let write = |existing| file::write(&path, b"[]", existing).unwrap_err();
    assert_eq!(write(Existing::Refuse).kind, Kind::CannotCreate);
    let error = write(Existing::Replace);
    assert_eq!(error.kind, Kind::Locked);
    assert!(error.message.contains("x.json"), "{error}");
    drop(store);
    // What takes the place of an output takes that of the runs beside it.
    assert!(spawn("leave", dir.path()).wait().unwrap().success());
    file::write(&path, b"[]", Existing::Replace).unwrap();
    assert_eq!(seen(dir.path()), "[]");
    assert_eq!(names(dir.path()), ["x.json"]);
    // All files or none.
    let files = ["a", "x.json"].map(|name| (dir.path().join(name), Vec::new()));
    let error = file::write_all(&files, Existing::Refuse).unwrap_err();
    assert_eq!(error.kind, Kind::CannotCreate);
    assert_eq!(names(dir.path()), ["x.json"]);
}

#[test]
fn strict_files_hold_null() {
    let dir = tempfile::tempdir().unwrap();
    add(&open(dir.path()), 0, &run(0)).unwrap();
    assert!(read(dir.path()).contains("NaN"));
    let options = Options {
        strict_json: true,
        ..Options::default()
    };
    let store = Store::open(dir.path(), "x", options).unwrap();
    settle(&store, [0]);
    add(&store, 3, &run(3)).unwrap();
    store.finish().unwrap();
    let runs: Value = serde_json::from_str(&read(dir.path())).unwrap();
    for i in 0..2 {
        assert_eq!(runs[i]["history"][0]["train_loss"], Value::Null);
    }
}

#[test]
fn damaged_files_are_refused_and_left_alone() {
    let whole = file_of(&[0, 1]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    let cuts = (0..whole.len())
        .step_by(7)
        .map(|n| whole.as_bytes()[..n].to_vec());
    let others = ["{}", "3", "null", "[3]", "[{\"history\": []}]", "[]]"];
    let others = others.map(|s| s.as_bytes().to_vec());
    let not_text = [b"[\xff]".to_vec()];
    for bytes in cuts.chain(others).chain(not_text) {
        fs::write(&path, &bytes).unwrap();
        let error = Store::open(dir.path(), "x", Options::default()).unwrap_err();
        assert_eq!(error.kind, Kind::Corrupt);
        assert!(error.message.contains("x.json: "), "{error}");
        assert!(error.message.contains("--overwrite"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    fs::write(&path, &whole[..whole.len() - 3]).unwrap();
    let error = Store::open(dir.path(), "x", Options::default()).unwrap_err();
    let line = format!("line {} column ", whole[..whole.len() - 3].lines().count());
    assert!(error.message.contains(&line), "{error}");
}

#[test]
fn left_over_temporary_files_go_and_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let stay = [
        ".tmp-x-1-AbCdEf",
        ".tmp-xy-AbCdEf",
        "x-1.json",
        ".tmp-y-AbCdEf",
    ];
    for name in stay.iter().chain(&[".tmp-x-AbCdEf"]) {
        fs::write(dir.path().join(name), "").unwrap();
    }
    open(dir.path());
    let mut expected: Vec<&str> = stay.into_iter().collect();
    expected.sort();
    assert_eq!(names(dir.path()), expected);
}

#[test]
fn the_mode_follows_the_umask() {
    let dir = tempfile::tempdir().unwrap();
    add(&open(dir.path()), 0, &run(0)).unwrap();
    fs::write(dir.path().join("plain"), "").unwrap();
    let mode = |name: &str| {
        fs::metadata(dir.path().join(name))
            .unwrap()
            .permissions()
            .mode()
    };
    assert_eq!(mode("x.json"), mode("plain"));
    // With a umask of 077 the two agree in any case.
    eprintln!("mode {:o}", mode("x.json"));
}

#[test]
fn folders_are_made_and_impossible_ones_named_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    add(&open(&dir.path().join("a/b")), 0, &run(0)).unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    fs::create_dir(dir.path().join("y.json")).unwrap();
    let refused = |folder: &str, id: &str| refused(&dir.path().join(folder), id, None);
    for folder in ["file", "file/below"] {
        let error = refused(folder, "x");
        assert_eq!(error.kind, Kind::CannotCreate);
        assert!(error.message.contains(folder), "{error}");
    }
    assert_eq!(refused("", "y").kind, Kind::CannotCreate);
    for id in ["", ".", "..", "a/b", "../a", "/a"] {
        assert_eq!(refused("", id).kind, Kind::Usage, "{id:?}");
    }
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(closed.join("probe"), "").is_ok() {
        eprintln!("skipped: this user (root?) writes into folders of mode 555");
    } else {
        assert_eq!(refused("closed", "x").kind, Kind::CannotCreate);
    }
}
