//! Data folders that may only be read, or not even that; downloads that are ended.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use crate::common::program::{Folder, Ran, send};
use crate::common::skip::skip;
use serde_json::json;

/// Two runs on six samples in LIBSVM's format.
fn folder() -> Folder {
    let folder = Folder::new();
    let text = "1 1:0.5\n-1 2:1\n1 1:2 3:1\n-1 2:0.5\n1 1:1\n-1 3:2\n";
    folder.write("data/libsvm/a1a", text);
    let config = json!({
        "dataset": "a1a", "model": "linear", "loss_func": "logistic", "score_func": "logistic_accuracy",
        "opt": {"name": "sgd", "lr": 0.1}, "batch_size": 2, "max_epoch": 1, "n_runs": 2,
    });
    folder.config("small", &config);
    for open in ["out", "home"] {
        fs::create_dir(folder.path(open)).unwrap();
        mode(&folder, open, 0o777);
    }
    mode(&folder, "", 0o755);
    folder
}

fn mode(folder: &Folder, path: &str, mode: u32) {
    fs::set_permissions(folder.path(path), fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs the program as somebody whom permissions bind; `None` where that cannot be arranged.
fn as_anybody(folder: &Folder, home: &str, arguments: &str) -> Option<Ran> {
    let plain = folder.command(arguments);
    let mut command = match fs::metadata("/proc/self").unwrap().uid() {
        0 => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
            command.arg(plain.get_program()).args(plain.get_args());
            command.current_dir(plain.get_current_dir().unwrap());
            command
        }
        _ => plain,
    };
    let command = command
        .env("HOME", folder.path(home))
        .env_remove("XDG_CACHE_HOME");
    let ran = command.output().ok().map(Ran::from);
    ran.filter(|ran| !ran.stderr.contains("setpriv:"))
}

const TRAIN: &str = "train small.json --offline --overwrite --output-dir out";

#[test]
fn a_data_folder_may_be_read_only() {
    let folder = folder();
    mode(&folder, "data", 0o555);
    let Some(ran) = as_anybody(&folder, "home", TRAIN) else {
        return skip("a_data_folder_may_be_read_only", "somebody else to be");
    };
    let told = |ran: Ran, place: &str| {
        let err = &ran.code(0).stderr;
        assert_eq!(err.matches("data may only be read").count(), 1, "{err}");
        assert!(err.contains(place) && err.contains("--cache-dir"), "{err}");
    };
    told(ran, "home/.cache/stepback-native/");
    let cache = folder.path("home/.cache/stepback-native");
    let cached = || {
        let folder = fs::read_dir(&cache)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        fs::metadata(folder.join("a1a-train.shard")).unwrap().ino()
    };
    let made = cached();
    told(as_anybody(&folder, "home", TRAIN).unwrap(), "home/.cache");
    assert_eq!(made, cached(), "not made a second time");
    told(as_anybody(&folder, "data", TRAIN).unwrap(), "in memory");
    fs::create_dir(folder.path("shut")).unwrap();
    mode(&folder, "shut", 0o000);
    told(as_anybody(&folder, "shut", TRAIN).unwrap(), "in memory");
    mode(&folder, "shut", 0o755);
    let chosen = format!("{TRAIN} --cache-dir out/shards");
    let ran = as_anybody(&folder, "home", &chosen).unwrap().code(0);
    assert!(!ran.stderr.contains("may only"), "{}", ran.stderr);
    assert!(folder.exists("out/shards/a1a-train.shard"));
    let refused = as_anybody(&folder, "home", &format!("{TRAIN} --cache-dir data/shards"));
    refused.unwrap().code(73).says(&["data/shards"]);

    // Shards that are there serve, even where the files were touched since.
    mode(&folder, "data", 0o755);
    folder.run("data check a1a").code(0);
    let file = fs::OpenOptions::new()
        .append(true)
        .open(folder.path("data/libsvm/a1a"));
    file.unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    mode(&folder, "data", 0o555);
    mode(&folder, "data/shards", 0o555);
    let ran = as_anybody(&folder, "data", TRAIN).unwrap().code(0);
    assert!(!ran.stderr.contains("may only"), "{}", ran.stderr);
    mode(&folder, "data", 0o755);
    mode(&folder, "data/shards", 0o755);
}

#[test]
fn what_cannot_be_read_is_not_missing() {
    let folder = folder();
    mode(&folder, "data/libsvm", 0o000);
    for arguments in [TRAIN, "data check a1a", "data fetch a1a"] {
        let Some(ran) = as_anybody(&folder, "home", arguments) else {
            return skip("what_cannot_be_read_is_not_missing", "somebody else to be");
        };
        let ran = ran.code(74).says(&["data/libsvm/a1a", "Permission denied"]);
        assert!(!ran.stderr.contains("missing"), "{}", ran.stderr);
    }
    let ran = as_anybody(&folder, "home", "data list").unwrap().code(0);
    let line = ran.stdout.lines().find(|line| line.starts_with("a1a"));
    assert!(line.unwrap().ends_with("not readable"), "{}", ran.stdout);
    mode(&folder, "data/libsvm", 0o755);
}

#[test]
fn a_shard_that_changes_during_a_run_spoils_it() {
    let folder = folder();
    // So many epochs that their lines do not fit into a pipe: the run waits until somebody reads them.
    let mut child = folder
        .command("train -v small.json --offline --threads 1 --only run_id=0 --epochs 3000")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    while !text.contains("epoch 0") {
        assert!(lines.read_line(&mut text).unwrap() > 0, "{text}");
    }
    mode(&folder, "data/shards/a1a-train.shard", 0o644);
    let shard = OpenOptions::new()
        .write(true)
        .open(folder.path("data/shards/a1a-train.shard"));
    // A last digit of the first value, behind the header and the value's place.
    shard.unwrap().write_all_at(&[1], 4096 + 4).unwrap();
    lines.read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(65), "{text}");
    let error = "a1a-train.shard changed while it was being read";
    assert!(text.contains(error), "{text}");
    assert!(!folder.exists("output/small.json"));
}

/// `train` tidies up first: tests/cli/interrupted.rs.
#[test]
fn a_signal_ends_a_download() {
    let folder = folder();
    // Answers nobody.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", mute.local_addr().unwrap());
    let mut command = folder.command(&format!("data fetch mnist --mirror {url}"));
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let (mut connection, _) = mute.accept().unwrap();
    connection.read_exact(&mut [0]).unwrap();
    send("TERM", child.id());
    let status = child.wait().unwrap();
    assert_eq!(status.signal(), Some(15), "{status}");
}

#[test]
fn a_full_disk_is_not_a_damaged_file() {
    let folder = folder();
    let lines = (0..2000).map(|i| format!("{} 1:{i} 2:0.5\n", i % 2));
    folder.write("from/a1a", lines.collect::<String>());
    let mut builder = tar::Builder::new(Vec::new());
    let file = folder.path("from/a1a");
    builder.append_path_with_name(file, "libsvm/a1a").unwrap();
    folder.write("from.tar", builder.into_inner().unwrap());
    for from in ["from", "from.tar"] {
        // A limit on the length of files, in blocks, fails as a full disk does.
        let command = format!(
            "ulimit -f 16; exec {} data import a1a --from {from} --data-dir new",
            env!("CARGO_BIN_EXE_stepback-native")
        );
        let mut shell = Command::new("sh");
        let ran = shell.args(["-c", &command]).current_dir(folder.path(""));
        let ran = Ran::from(ran.output().unwrap()).code(74);
        let ran = ran.says(&["cannot write", "File too large"]);
        assert!(!ran.stderr.contains("damaged"), "{}", ran.stderr);
        let left = fs::read_dir(folder.path("new/shards")).unwrap();
        assert_eq!(left.count(), 1, "the lock");
    }
    assert!(!folder.exists("new/libsvm/a1a"));
}
