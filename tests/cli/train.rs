//! The command line: help, bad input with its exit code and message, and stdout that goes away.

use std::fs::{self, File};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::program::{Folder, Ran, runs_in};
use serde_json::{Value, json};

fn linear() -> Value {
    json!({
        "dataset": "synthetic_linear",
        "dataset_kwargs": {"p": 10, "n_samples": 50},
        "model": "linear",
        "model_kwargs": {},
        "loss_func": "squared",
        "score_func": "squared",
        "opt": [{"name": "adam", "lr": [0.01, 0.1]}],
        "batch_size": 5,
        "max_epoch": 2,
        "n_runs": 1,
    })
}

/// `linear` with one place of it changed.
fn with(place: &str, value: Value) -> Value {
    let mut config = linear();
    *config.pointer_mut(place).unwrap() = value;
    config
}

fn refused(folder: &Folder, arguments: &str, fragments: &[&str]) -> Ran {
    let ran = folder.run(arguments).code(2).says(fragments);
    assert!(!folder.exists("output"), "{arguments} wrote something");
    ran
}

#[test]
fn every_command_has_help() {
    let folder = Folder::new();
    for command in [
        "",
        "train",
        "verify",
        "data",
        "data list",
        "data fetch",
        "data import",
        "data check",
        "config",
        "config check",
        "config expand",
        "config split",
        "record",
        "table",
        "compare",
        "plot",
        "report",
        "output",
        "output list",
        "output merge",
        "output filter",
        "output export",
        "list",
        "completions",
    ] {
        let ran = folder.run(&format!("{command} --help")).code(0);
        assert!(ran.stdout.contains("Usage: stepback-native"), "{command}");
        assert_eq!(ran.stderr, "");
    }
    let version = folder.run("--version").code(0).stdout;
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    folder.run("").code(2);
    folder.run("trian x.json").code(2).says(&["train"]);
}

#[test]
fn completions_know_the_commands() {
    let folder = Folder::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = folder.run(&format!("completions {shell}")).code(0).stdout;
        for word in ["train", "verify", "output-dir", "expand", "only-new"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

/// What bash offers for the last of these words.
fn completed(script: &str, words: &[&str]) -> Vec<String> {
    let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let (last, before) = words.split_last().unwrap();
    let press = format!(
        "{script}\nset -e\nfunction=$(complete -p stepback-native | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n\
         COMP_WORDS=({} {last}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
         $function stepback-native {last} {}\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
        before.join(" "),
        before.last().unwrap(),
    );
    let mut bash = Command::new("bash");
    // It warns of locales that are not there.
    bash.args(["-c", &press]).env("LC_ALL", "C");
    let output = bash.output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && errors.is_empty(), "{errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_at_every_level() {
    let script = Folder::new().run("completions bash").code(0).stdout;
    for (words, expected) in [
        (&["stepback-native", "tab"][..], &["table"][..]),
        (&["stepback-native", "config", "sh"], &["show-schedule"]),
        (
            &["stepback-native", "bench-kernels", "--base"],
            &["--baseline"],
        ),
        (&["stepback-native", "train", "--log-l"], &["--log-layers"]),
        (
            &["stepback-native", "plot", "mnist_mlp", "lay"],
            &["layers"],
        ),
        (
            &["stepback-native", "train", "--device", "emu"],
            &["emulator"],
        ),
        (
            &["stepback-native", "data", "fetch", "sha"],
            &["shakespeare"],
        ),
        (
            &["stepback-native", "list", "optimizers", "momo-adam-star"],
            &["momo-adam-star", "momo-adam-star-max"],
        ),
        (
            &["stepback-native", "output", "filter", "--dr"],
            &["--drop", "--drop-history"],
        ),
    ] {
        let mut found = completed(&script, words);
        found.sort();
        assert_eq!(found, expected, "{words:?}");
    }
}

#[test]
fn lists_are_complete_and_parse() {
    let folder = Folder::new();
    for (what, names) in [
        ("optimizers", ["momo", "adam", "prox-sps"]),
        ("models", ["linear", "mlp", "matrix_completion"]),
        ("datasets", ["mnist", "sensor", "synthetic_linear"]),
        ("schedules", ["constant", "linear", "sqrt"]),
        ("losses", ["squared", "cross_entropy", "logistic_accuracy"]),
    ] {
        let text = folder.run(&format!("list {what}")).code(0).stdout;
        let json = folder.run(&format!("list {what} --json")).code(0).stdout;
        let items: Vec<Value> = serde_json::from_str(&json).unwrap();
        for name in names {
            assert!(text.lines().any(|line| line == name), "{what}: {name}");
            assert!(items.iter().any(|item| item["name"] == name), "{name}");
        }
    }
}

#[test]
fn files_that_are_no_config() {
    let folder = Folder::new();
    fs::create_dir(folder.path("folder.json")).unwrap();
    let fifo = Command::new("mkfifo")
        .arg(folder.path("fifo.json"))
        .status();
    assert!(fifo.unwrap().success());
    File::create(folder.path("large.json"))
        .and_then(|file| file.set_len((16 << 20) + 1))
        .unwrap();
    let begin = Instant::now();
    for name in ["missing.json", "folder.json", "fifo.json", "large.json"] {
        refused(&folder, &format!("train {name}"), &[name]);
    }
    assert!(begin.elapsed() < Duration::from_secs(60));

    let deep = "[".repeat(100_000);
    let good = linear().to_string();
    let twice = good.replacen('{', "{\"batch_size\": 3,", 1);
    for (text, fragment) in [
        ("{\n  \"dataset\": }", "bad.json:2:14"),
        (&format!("\u{feff}{good}"), "BOM"),
        (&format!("{good} x"), "bad.json:1:"),
        ("3", "object"),
        ("\"text\"", "object"),
        ("null", "object"),
        ("", "bad.json:1:"),
        ("[]", "no runs"),
        (&twice, "batch_size"),
        (&deep, "nested"),
    ] {
        folder.write("bad.json", text);
        refused(&folder, "train bad.json", &["bad.json", fragment]);
    }
}

#[test]
fn configs_with_mistakes() {
    let folder = Folder::new();
    let cases = [
        ("/opt/0/name", json!("adamm"), vec!["adamm", "adam"]),
        ("/model", json!("liner"), vec!["liner", "linear"]),
        ("/dataset", json!("minst"), vec!["minst", "mnist"]),
        (
            "/dataset",
            json!("imagenet"),
            vec!["\"imagenet\" is step-back's, but left out here"],
        ),
        (
            "/model",
            json!("resnet18-pytorch"),
            vec!["resnet18-pytorch", "left out here"],
        ),
        ("/loss_func", json!("square"), vec!["square", "squared"]),
        ("/score_func", json!("square"), vec!["square", "squared"]),
        ("/opt/0/lr", json!(-0.1), vec!["opt[0].lr", "-0.1"]),
        ("/opt/0/lr", json!([]), vec!["opt[0].lr"]),
        ("/opt", json!([]), vec!["opt"]),
        ("/n_runs", json!(0), vec!["n_runs", "0"]),
        ("/n_runs", json!(-3), vec!["n_runs", "-3"]),
        ("/n_runs", json!(1.5), vec!["n_runs", "1.5"]),
        ("/batch_size", json!(0), vec!["batch_size", "0"]),
        ("/batch_size", json!("8"), vec!["batch_size"]),
        ("/max_epoch", json!(null), vec!["max_epoch"]),
        (
            "/dataset_kwargs",
            json!({"pp": 3}),
            vec!["dataset_kwargs.pp", "p"],
        ),
        (
            "/opt/0",
            json!({"name": "adam", "lr": 0.1, "betas": [0.9, 1]}),
            vec!["betas"],
        ),
        (
            "/opt/0",
            json!({"name": "adam", "lr": 0.1, "lr_schedule": "cosin"}),
            vec!["lr_schedule", "\"cosine\""],
        ),
        (
            "/opt/0",
            json!({"name": "adam", "lr_schedule": "cosine", "min_lr_ratio": 1.5}),
            vec!["min_lr_ratio", "1.5", "[0, 1]"],
        ),
        (
            "/opt/0",
            json!({"name": "adam", "lr_schedule": "step", "milestones": [[7, 3]]}),
            vec!["milestones", "[7,3]", "ascending"],
        ),
        (
            "/opt/0",
            json!({"name": "adam", "lr_schedule": "plateau", "stepwise_schedule": true}),
            vec!["stepwise_schedule", "plateau waits"],
        ),
        (
            "/opt/0",
            json!({"name": "adam", "lr_schedule": "plateau", "warmup_steps": 3}),
            vec!["warmup_steps", "plateau has no warm-up"],
        ),
        (
            "/opt/0",
            json!({"name": "adam", "lr_schedule": "cosine", "power": 2}),
            vec!["power", "polynomial"],
        ),
        (
            "/opt",
            json!([
                {"name": "adam", "lr_schedule": "cosine"},
                {"name": "adam", "lr_schedule": "cosine", "warmup_steps": 0, "min_lr_ratio": 0.0},
            ]),
            vec!["opt[1]", "identical"],
        ),
        (
            "/opt/0",
            json!({"name": "adam", "lr": [0.1, 0.1]}),
            vec!["opt[0].lr[1]", "identical"],
        ),
    ];
    for (place, value, fragments) in cases {
        folder.config("bad", &with(place, value));
        refused(&folder, "train bad.json", &fragments).says(&["bad.json"]);
    }
    for key in ["opt", "loss_func", "score_func", "n_runs"] {
        let mut config = linear();
        config.as_object_mut().unwrap().remove(key);
        folder.config("bad", &config);
        refused(&folder, "train bad.json", &["bad.json", key]);
    }
    for number in ["NaN", "1e400", "Infinity"] {
        let text = linear().to_string().replace("0.01", number);
        folder.write("bad.json", text);
        refused(&folder, "train bad.json", &["bad.json"]);
    }
    let mut many = with("/model", json!("liner"));
    many["batch_size"] = json!(0);
    many["learning_rate"] = json!(1);
    folder.config("bad", &many);
    let all = ["liner", "batch_size", "learning_rate"];
    refused(&folder, "train bad.json", &all);
    folder.config("a..b", &linear());
    refused(&folder, "train a..b.json", &["a..b"]);
}

#[test]
fn too_many_runs_are_counted_before_they_are_made() {
    let folder = Folder::new();
    let values: Vec<f64> = (1..=1000).map(|i| f64::from(i) / 1000.0).collect();
    let opt = json!([{"name": "adam", "lr": values, "weight_decay": values, "eps": values}]);
    let mut config = with("/opt", opt);
    config["n_runs"] = json!(1000);
    folder.config("many", &config);
    let begin = Instant::now();
    refused(&folder, "train many.json", &["1000000000000", "--max-runs"]);
    assert!(begin.elapsed() < Duration::from_secs(60));
    folder.config("two", &linear());
    refused(&folder, "train two.json --max-runs 1", &["2 runs"]);
    folder.run("train two.json --max-runs 2").code(0);
}

#[test]
fn models_and_batches_that_do_not_fit_the_data() {
    let folder = Folder::new();
    let mut completion = with("/model", json!("matrix_completion"));
    completion["model_kwargs"] = json!({"dim": [5, 6], "rank": 2});
    for (config, fragments) in [
        (completion, ["matrix_completion", "synthetic_linear"]),
        (
            with("/model", json!("resnet20")),
            ["resnet20", "synthetic_linear"],
        ),
        (with("/batch_size", json!(51)), ["batch_size", "50"]),
        (
            with("/loss_func", json!("cross_entropy")),
            ["cross_entropy", "synthetic_linear"],
        ),
        (
            with("/model_kwargs", json!({"output_size": 3})),
            ["linear", "synthetic_linear"],
        ),
    ] {
        folder.config("bad", &config);
        folder.run("train bad.json").code(2).says(&fragments);
        assert!(!folder.exists("output"), "something was left behind");
    }
}

#[test]
fn what_any_config_needs_is_checked_before_the_first_is_trained() {
    let folder = Folder::new();
    folder.config("a", &linear());
    let mut late = linear();
    late["batch_size"] = json!([5, 51]);
    folder.config("late", &late);
    let mut missing = with("/dataset", json!("mnist"));
    missing["dataset_kwargs"] = json!({"as_image": false});
    folder.config("missing", &missing);
    // Its second run asks for data that cannot be made.
    let mut run = linear();
    run.as_object_mut().unwrap().remove("n_runs");
    run["opt"] = json!({"name": "adam", "lr": 0.1});
    run["run_id"] = json!(0);
    let mut bad = run.clone();
    bad["dataset_kwargs"] = json!({"p": 30, "n_samples": 1000});
    folder.config("list", &json!([run, bad]));
    for (arguments, code, fragments) in [
        (
            "a.json late.json",
            2,
            ["late: batch_size: 51", "50 training samples"],
        ),
        (
            "a.json missing.json --offline",
            74,
            ["missing: ", "train-images-idx3-ubyte"],
        ),
        ("list.json", 2, ["list: ", "all zero"]),
        (
            "late.json list.json missing.json --offline",
            2,
            ["all zero", "train-images"],
        ),
    ] {
        let ran = folder.run(&format!("train {arguments}")).code(code);
        assert_eq!(ran.says(&fragments).stdout, "");
        assert!(!folder.exists("output"), "{arguments}");
    }
    let refused = "train a.json late.json --output-dir new/er --save-weights=deeper/weights";
    folder.run(refused).code(2);
    let left = [folder.exists("new"), folder.exists("deeper")];
    assert_eq!(left, [false; 2], "a refused start leaves folders");
    folder
        .run("train a.json --output-dir deep/er/est --only lr=0.1")
        .code(0);
}

#[test]
fn numbers_that_no_machine_can_hold() {
    let folder = Folder::new();
    let mlp = |widths: Value| {
        let mut config = with("/model", json!("mlp"));
        config["model_kwargs"] = json!({"output_size": 1, "hidden_sizes": widths});
        config
    };
    for width in [1u64 << 40, 1 << 62, u64::MAX, 100_000_000_000] {
        folder.config("wide", &mlp(json!([width])));
        refused(&folder, "train wide.json", &["wide: ", "mlp", "too large"]);
    }
    let mut config = linear();
    config["max_epoch"] = json!(1_000_000_000_000_000_000u64);
    folder.config("long", &config);
    for command in ["train", "config check"] {
        refused(
            &folder,
            &format!("{command} long.json"),
            &["max_epoch", "4294967295"],
        );
    }
    refused(
        &folder,
        "train long.json --epochs 4294967296",
        &["--epochs"],
    );
}

#[test]
fn memory_that_is_not_there() {
    let folder = Folder::new();
    let mut config = with("/model", json!("mlp"));
    config["dataset"] = json!("synthetic_matrix_fac");
    config["dataset_kwargs"] = json!({"p": 6, "q": 10, "n_samples": 4000});
    config["model_kwargs"] = json!({"output_size": 10, "hidden_sizes": [300_000]});
    config["batch_size"] = json!(4000);
    folder.config("big", &config);
    folder.config("small", &linear());
    let ran = folder
        .limited("ulimit -v 4000000", "train small.json big.json --threads 1")
        .code(1);
    ran.says(&[
        "big: name=adam:lr=0.01:run_id=0: cpu: no memory",
        " MiB are needed",
        "batch_size",
    ]);
    assert!(!folder.exists("output"));
    // Data of 2^28 numbers, in several shapes: samples and features each cost something of their own.
    let mut config = linear();
    for (samples, features) in [(1 << 14, 1 << 14), (1 << 26, 4), (8, 1 << 25)] {
        config["dataset_kwargs"] = json!({"p": features, "n_samples": samples});
        folder.config("large", &config);
        let ran = folder
            .limited("ulimit -v 1000000", "train large.json --threads 1")
            .code(1);
        let numbers = format!("of {samples} by {features} numbers: no memory");
        ran.says(&["large: ", "synthetic_linear", &numbers, " MiB are needed"]);
        assert!(!folder.exists("output"));
    }
}

#[test]
fn files_that_may_not_grow() {
    let folder = Folder::new();
    folder.config("good", &linear());
    folder.run("train good.json").code(0);
    for arguments in [
        "train good.json --overwrite",
        "output merge output/good.json --out all.json",
        "output export output/good.json --out all.csv",
        "record good --out good.csv",
        "report good",
    ] {
        let before = folder.names("");
        let ran = folder.limited("ulimit -f 1", arguments);
        assert!(
            matches!(ran.code, Some(73 | 74)),
            "{arguments}: {:?}",
            ran.code
        );
        ran.says(&["File too large"]);
        assert_eq!(folder.names(""), before, "{arguments}");
        assert_eq!(folder.names("output"), ["good.json"], "{arguments}");
    }
}

#[test]
fn wrong_arguments() {
    let folder = Folder::new();
    folder.config("good", &linear());
    for (arguments, fragments) in [
        ("--threads 0", ["--threads", "0"]),
        ("--epochs 0", ["--epochs", "0"]),
        ("--only lrr=0.1", ["lrr", "lr"]),
        ("--only lr=7", ["lr=7", "0.1"]),
        ("--only lr", ["lr", "KEY=VALUE"]),
        ("--device tpu", ["tpu", "cpu"]),
        ("--quiet --verbose", ["--quiet", "--verbose"]),
        ("folder/good.json", ["good", "output"]),
    ] {
        folder.config("folder/good", &linear());
        refused(&folder, &format!("train good.json {arguments}"), &fragments);
    }
    let dry = folder.run("train good.json --dry-run").code(0);
    assert_eq!(dry.stdout.lines().count(), 2);
    assert!(!folder.exists("output"));
}

#[test]
fn missing_data_is_named_within_seconds() {
    let folder = Folder::new();
    let mut config = with("/dataset", json!("mnist"));
    config["dataset_kwargs"] = json!({"as_image": false});
    config["model"] = json!("mlp");
    config["model_kwargs"] = json!({"output_size": 10, "hidden_sizes": [20]});
    config["loss_func"] = json!("cross_entropy");
    folder.config("digits", &config);
    let begin = Instant::now();
    folder
        .run("train digits.json --offline --data-dir d")
        .code(74)
        .says(&[
            "d/MNIST/raw/train-images-idx3-ubyte",
            "d/MNIST/raw/t10k-labels-idx1-ubyte",
            "data import mnist --from",
        ]);
    assert!(begin.elapsed() < Duration::from_secs(60));
    assert!(!folder.exists("output"), "something was left behind");
    folder.write("d/MNIST/raw/train-images-idx3-ubyte", b"\0\0\x08\x03");
    for half in ["train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"] {
        folder.write(&format!("d/MNIST/raw/{half}-ubyte"), b"");
    }
    folder
        .run("train digits.json --offline --data-dir d")
        .code(65)
        .says(&["d/MNIST/raw/train-"]);
}

#[test]
fn outputs_that_cannot_be_written() {
    let folder = Folder::new();
    folder.config("good", &linear());
    folder.write("file", "text");
    for place in ["file", "file/below", "/proc/none"] {
        folder
            .run(&format!("train good.json --output-dir {place}"))
            .code(73)
            .says(&[place, "--output-dir"]);
    }
    assert_eq!(folder.read("file"), "text");
    fs::create_dir_all(folder.path("output/good.json")).unwrap();
    folder.run("train good.json").code(73).says(&["good.json"]);
}

#[test]
fn nothing_is_replaced_without_being_asked() {
    let folder = Folder::new();
    folder.config("good", &linear());
    folder.run("train good.json").code(0);
    let output = folder.read("output/good.json");
    let fifo = Command::new("mkfifo")
        .arg(folder.path("fifo.json"))
        .status();
    assert!(fifo.unwrap().success());
    folder
        .run("output list fifo.json")
        .says(&["fifo.json", "regular"]);
    for command in [
        "report good --out",
        "table good --out",
        "record good --out",
        "output merge output/good.json --out",
        "output filter output/good.json --keep lr=0.1 --out",
        "output export output/good.json --out",
    ] {
        let ran = folder.run(&format!("{command} output/good.json")).code(73);
        ran.says(&["output/good.json", "--overwrite"]);
        assert_eq!(folder.read("output/good.json"), output);
        folder
            .run(&format!("{command} fifo.json --overwrite"))
            .code(73)
            .says(&["fifo.json", "regular"]);
        folder.run(&format!("{command} new --overwrite")).code(0);
    }
    folder.run("plot good curves --format png").code(0);
    fs::remove_file(folder.path("plots/good/curves_train_loss.png")).unwrap();
    folder
        .run("plot good curves --format png")
        .code(73)
        .says(&["curves_val_score.png", "--overwrite"]);
    assert_eq!(
        folder.names("plots/good"),
        ["curves_val_score.png"],
        "all or none"
    );
    folder
        .run("plot good curves --format png --overwrite")
        .code(0);
    assert_eq!(folder.names("output"), ["good.json"]);
}

#[test]
fn a_damaged_output_is_never_overwritten() {
    let folder = Folder::new();
    folder.config("good", &linear());
    folder.run("train good.json").code(0);
    let whole = folder.read("output/good.json");
    for damaged in [&whole[..whole.len() - 1], "", "{}", "[3]", "text"] {
        folder.write("output/good.json", damaged);
        let ran = folder.run("train good.json").code(65);
        ran.says(&["output/good.json", "--overwrite"]);
        assert_eq!(folder.read("output/good.json"), damaged);
    }
    folder.run("train good.json --overwrite").code(0);
    assert_eq!(runs_in(&folder.read("output/good.json")), 2);
    assert_eq!(folder.read("output/good.json.bak"), "text");
}

#[test]
fn a_full_disk_is_an_error() {
    let folder = Folder::new();
    folder.config("good", &linear());
    for arguments in [
        "list optimizers",
        "completions bash",
        "data list",
        "verify --suite schedules",
        "train good.json --json",
        "train good.json --overwrite",
    ] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut command = folder.command(arguments);
        let ran: Ran = command.stdout(full).output().unwrap().into();
        ran.code(74).says(&["stdout"]);
    }
}

/// What nobody reads any more, as a pipe whose other end is closed: that may still be open for a moment in a process that
/// another test starts.
fn closed() -> OwnedFd {
    let (other, ours) = UnixStream::pair().unwrap();
    other.shutdown(Shutdown::Both).unwrap();
    ours.into()
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let folder = Folder::new();
    folder.config("good", &linear());
    for arguments in [
        "list optimizers",
        "list losses --json",
        "completions zsh",
        "data list",
        "verify --suite schedules",
        "train -q good.json --json",
        "train -q good.json --overwrite",
        "train -q good.json --dry-run",
    ] {
        let mut command = folder.command(arguments);
        let ran: Ran = command.stdout(closed()).output().unwrap().into();
        assert_eq!(ran.code(141).stderr, "", "{arguments}");
    }
    // What was finished is kept.
    assert!(runs_in(&folder.read("output/good.json")) > 0);
}

#[test]
fn nobody_has_to_read_stderr() {
    let folder = Folder::new();
    folder.config("good", &linear());
    let full = || File::options().write(true).open("/dev/full").unwrap();
    for (arguments, code) in [
        ("train good.json -v --overwrite", 0),
        ("train none.json", 2),
    ] {
        for stderr in [Stdio::from(closed()), Stdio::from(full())] {
            let ran: Ran = (folder.command(arguments).stderr(stderr))
                .output()
                .unwrap()
                .into();
            ran.code(code);
        }
    }
    assert_eq!(runs_in(&folder.read("output/good.json")), 2);
}

#[test]
fn a_number_of_threads_that_no_machine_has() {
    let folder = Folder::new();
    folder.config("good", &linear());
    for n in ["100000", "99999999999999", "x"] {
        refused(
            &folder,
            &format!("train good.json --threads {n}"),
            &["--threads"],
        );
    }
}

#[test]
fn as_many_threads_as_a_variable_asks_for() {
    let folder = Folder::new();
    folder.config("good", &linear());
    for arguments in ["train good.json", "verify --suite schedules", "data list"] {
        let mut command = folder.command(arguments);
        let ran: Ran = command
            .env("RAYON_NUM_THREADS", "1000000")
            .output()
            .unwrap()
            .into();
        ran.code(2).says(&["RAYON_NUM_THREADS", "1024"]);
    }
    let mut command = folder.command("train good.json --threads 1");
    let ran: Ran = command
        .env("RAYON_NUM_THREADS", "1000000")
        .output()
        .unwrap()
        .into();
    ran.code(0);
}

#[test]
fn threads_that_the_system_does_not_give() {
    let strace = Command::new("strace").arg("--version").output();
    if !strace.is_ok_and(|output| output.status.success()) {
        return eprintln!("skipped: no strace");
    }
    let folder = Folder::new();
    folder.config("good", &linear());
    // Two threads of the pool, then one for each run at a time.
    for (k, code) in [(1, 74), (2, 74), (3, 0), (4, 0)] {
        let command = folder.command("train good.json -q --threads 2 --overwrite");
        let mut traced = Command::new("strace");
        traced.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=clone3"]);
        traced
            .arg("-e")
            .arg(format!("inject=clone3:error=EAGAIN:when={k}+"));
        traced.arg(command.get_program()).args(command.get_args());
        let ran = traced.current_dir(folder.path("")).output().unwrap();
        if ran.status.code() == Some(1) && String::from_utf8_lossy(&ran.stderr).contains("ptrace") {
            return eprintln!("skipped: strace may not trace here");
        }
        let ran = Ran::from(ran).code(code);
        match code {
            74 => drop(ran.says(&["--threads"])),
            _ => assert_eq!(
                runs_in(&folder.read("output/good.json")),
                2,
                "{}",
                ran.stderr
            ),
        }
    }
}

#[test]
fn colours_are_for_those_who_want_them() {
    let folder = Folder::new();
    let coloured = |no_color: &str| {
        let mut command = folder.command("--help");
        command.env("CLICOLOR_FORCE", "1").env("NO_COLOR", no_color);
        let ran: Ran = command.stderr(Stdio::piped()).output().unwrap().into();
        ran.code(0).stdout.contains('\u{1b}')
    };
    assert!(!coloured("1"));
    assert!(coloured(""));
}
