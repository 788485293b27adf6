//! `config check`, `expand` and `split`, and the way from a split back to one record.

use crate::common::files;
use std::path::PathBuf;

use crate::common::program::{Folder, without_times};
use serde_json::{Value, json};

/// 14 runs: seven settings, two seeds.
fn sweep() -> Value {
    json!({
        "dataset": "synthetic_linear",
        "dataset_kwargs": {"p": 10, "n_samples": 50},
        "model": "linear",
        "loss_func": "logistic",
        "score_func": "logistic_accuracy",
        "opt": [
            {"name": "momo", "lr": [1e-5, 0.1, 1.0], "bias_correction": [true, false]},
            {"name": "adam", "lr": 0.01, "betas": [[0.9, 0.99]]},
        ],
        "batch_size": 5,
        "max_epoch": 2,
        "n_runs": 2,
    })
}

fn with_sweep() -> Folder {
    let folder = Folder::new();
    folder.config("exp", &sweep());
    folder
}

fn list(text: &str) -> Vec<Value> {
    serde_json::from_str(text).unwrap()
}

/// The JSON files of a folder, by name.
fn parts(folder: &Folder, dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder.path(dir)).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn checks_count_runs_and_tell_all_mistakes_of_all_files() {
    let folder = with_sweep();
    let warned = sweep().to_string().replace("\"lr\":0.01,", "");
    folder.write("warned.json", warned);
    let ran = folder.run("config check exp.json warned.json").code(0);
    assert_eq!(
        ran.stdout,
        "exp.json: OK, 14 runs\nwarned.json: OK, 14 runs\n"
    );
    assert!(ran.stderr.contains("warning: warned.json: opt[1]: no lr"));

    let mut wrong = sweep();
    wrong["opt"][1]["name"] = json!("adamm");
    wrong["batch_size"] = json!(0);
    folder.config("wrong", &wrong);
    folder.write("broken.json", "{");
    let all = "wrong.json exp.json broken.json";
    let ran = folder.run(&format!("config check {all}")).code(2);
    assert_eq!(ran.stdout, "exp.json: OK, 14 runs\n");
    let ran = ran.says(&["wrong.json: batch_size: ", "\"adamm\"", "broken.json:1:"]);
    assert_eq!(ran.stderr.lines().count(), 3, "{}", ran.stderr);

    let ran = folder.run(&format!("config check --json {all}")).code(2);
    let entries = list(&ran.stdout);
    assert_eq!(
        entries[1],
        json!({"file": "exp.json", "runs": 14, "warnings": [], "errors": [], "untried": [], "groups": []})
    );
    let errors = |i: usize| entries[i]["errors"].as_array().unwrap().len();
    assert_eq!((entries.len(), errors(0), errors(2)), (3, 2, 1));
    assert_eq!(entries[0]["runs"], Value::Null);
    folder
        .run("config check exp.json --max-runs 13")
        .code(2)
        .says(&["14 runs"]);
    assert_eq!(parts(&folder, "").len(), 4, "checking writes nothing");
}

#[test]
fn what_train_would_refuse_at_once_is_refused() {
    let folder = Folder::new();
    let mut config = sweep();
    config["dataset"] = json!("synthetic_linear");
    config["dataset_kwargs"] = json!({"p": 5, "n_samples": 40});
    let changed = |key: &str, value: Value| {
        let mut config = config.clone();
        config[key] = value;
        config
    };
    folder.config("batch", &changed("batch_size", json!(1_000_000_000)));
    let wide = json!({"output_size": 1, "hidden_sizes": [1u64 << 40]});
    let mut mlp = changed("model_kwargs", wide);
    mlp["model"] = json!("mlp");
    folder.config("wide", &mlp);
    mlp["dataset"] = json!("mnist");
    mlp["dataset_kwargs"] = json!({});
    folder.config("mnist", &mlp);
    let ran = folder
        .run("config check batch.json wide.json mnist.json")
        .code(2);
    let ran = ran.says(&[
        "batch.json: batch_size: 1000000000",
        "wide.json: model mlp",
        "too large",
    ]);
    assert_eq!(ran.stderr.lines().count(), 2, "{}", ran.stderr);
    // Of these nothing is known before their files are read.
    assert!(
        ran.stdout.starts_with("mnist.json: OK, 14 runs; "),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("mnist\n") && !folder.exists("data"));
    let json = folder.run("config check mnist.json --json").code(0).stdout;
    assert_eq!(list(&json)[0]["untried"], json!(["mnist"]));
}

#[test]
fn an_expansion_is_a_config_of_the_same_runs() {
    let folder = with_sweep();
    let labels = folder.run("config expand exp.json").code(0).stdout;
    assert_eq!(labels.lines().count(), 14);
    assert_eq!(labels, folder.run("config expand exp.json").code(0).stdout);
    let first = labels.lines().next().unwrap();
    assert_eq!(first, "name=momo:lr=0.00001:bias_correction=true:run_id=0");

    let text = folder.run("config expand exp.json --json").code(0).stdout;
    folder.write("list.json", &text);
    let again = folder.run("config expand list.json --json").code(0).stdout;
    assert_eq!(text, again);
    assert_eq!(folder.run("config expand list.json").code(0).stdout, labels);
    // One run on each line, for tools that work line by line.
    assert_eq!(text.lines().count(), 2 + 14);

    let some = "config expand exp.json --json --only lr=0.1 --only run_id=1";
    let runs = list(&folder.run(some).code(0).stdout);
    assert_eq!(runs.len(), 2);
    assert!(
        runs.iter()
            .all(|run| run["opt"]["lr"] == 0.1 && run["run_id"] == 1)
    );
    let none = folder.run("config expand exp.json --only lr=7").code(2);
    none.says(&["lr=7", "0.1"]);
}

#[test]
fn the_parts_together_are_the_expansion() {
    let folder = with_sweep();
    let whole = list(&folder.run("config expand exp.json --json").code(0).stdout);
    for n in [1, 2, 3, 5, 13, 14, 15, 99] {
        let into = format!("parts/{n}");
        let ran = folder.run(&format!("config split exp.json --parts {n} --into {into}"));
        let ran = ran.code(0);
        let names = parts(&folder, &into);
        assert_eq!(names.len(), n.min(14));
        assert_eq!(names[0], "exp-01.json");
        let printed: Vec<String> = names.iter().map(|f| format!("{into}/{f}\n")).collect();
        assert_eq!(ran.stdout, printed.concat());
        let each: Vec<Vec<Value>> = names
            .iter()
            .map(|name| list(&folder.read(&format!("{into}/{name}"))))
            .collect();
        let (short, long) = (14 / n, 14usize.div_ceil(n));
        let even = each
            .iter()
            .all(|part| (short.max(1)..=long).contains(&part.len()));
        assert!(
            even,
            "{n}: {:?}",
            each.iter().map(Vec::len).collect::<Vec<_>>()
        );
        assert_eq!(each.concat(), whole);
        let paths: Vec<String> = ran.stdout.lines().map(str::to_owned).collect();
        folder
            .run(&format!("config check {}", paths.join(" ")))
            .code(0);
    }
    // Names sort in the order of the runs.
    let mut many = sweep();
    many["n_runs"] = json!(60);
    folder.config("many", &many);
    folder
        .run("config split many.json --parts 120 --into many")
        .code(0);
    let names = parts(&folder, "many");
    assert_eq!((names.len(), names[0].as_str()), (120, "many-001.json"));
}

#[test]
fn nothing_is_mixed_or_overwritten() {
    let folder = with_sweep();
    let split = |arguments: &str| folder.run(&format!("config split exp.json {arguments}"));
    folder.write("d/exp-2.json", "another config");
    split("--parts 3 --into d").code(0);
    let before = folder.read("d/exp-01.json");
    split("--parts 3 --into d")
        .code(73)
        .says(&["d/exp-01.json", "--overwrite"]);
    split("--parts 3 --into d --overwrite").code(0);
    // Two of the three would be new, and the third a left-over with runs of both.
    split("--parts 2 --into d --overwrite")
        .code(73)
        .says(&["d/exp-03.json", "remove"]);
    assert_eq!(folder.read("d/exp-01.json"), before);
    assert_eq!(folder.read("d/exp-2.json"), "another config");
    split("--parts 4 --into d --overwrite").code(0);
    assert_eq!(parts(&folder, "d").len(), 5, "no temporary file is left");

    folder.write("file", "text");
    split("--parts 2 --into file/below")
        .code(73)
        .says(&["file/below"]);
    split("--parts 2 --into /proc/none")
        .code(73)
        .says(&["/proc/none"]);
    split("--parts 0 --into e").code(2).says(&["--parts"]);
    split("--into e").code(2).says(&["--parts"]);
    split("--parts 2 --into e --output-dir x")
        .code(2)
        .says(&["--only-new"]);
    folder.config("exp", &json!([]));
    split("--parts 2 --into e").code(2).says(&["no runs"]);
    assert!(!folder.exists("e"));
}

#[test]
fn split_train_merge_record_gives_what_one_sweep_gives() {
    let folder = with_sweep();
    folder.run("train -q exp.json --output-dir whole").code(0);
    folder
        .run("record exp --output-dir whole --out whole.csv")
        .code(0);

    folder
        .run("config split exp.json --parts 4 --into parts")
        .code(0);
    for name in parts(&folder, "parts") {
        folder
            .run(&format!("train -q parts/{name} --output-dir trained"))
            .code(0);
    }
    // The parts' outputs can be averaged as they are...
    folder
        .run("record exp --output-dir trained --out parts.csv")
        .code(0);
    assert_eq!(folder.read("parts.csv"), folder.read("whole.csv"));
    // ... or made one file, which is the one that the whole sweep writes.
    folder
        .run("output merge trained --out merged/exp.json")
        .code(0);
    assert_eq!(
        without_times(&folder.read("merged/exp.json")),
        without_times(&folder.read("whole/exp.json"))
    );
    folder
        .run("record exp --output-dir merged --out merged.csv")
        .code(0);
    assert_eq!(folder.read("merged.csv"), folder.read("whole.csv"));
    // The whole experiment finds nothing left to do in it.
    let ran = folder.run("train exp.json --output-dir merged").code(0);
    assert!(ran.stderr.contains("14 of 14 runs"), "{}", ran.stderr);
}

#[test]
fn only_what_is_new_is_split() {
    let folder = with_sweep();
    let split = |into: &str| {
        folder.run(&format!(
            "config split exp.json --parts 2 --into {into} --only-new"
        ))
    };
    // No output at all: everything is new.
    split("all").code(0);
    assert_eq!(list(&folder.read("all/exp-01.json")).len(), 7);

    folder
        .run("train -q exp.json --only name=momo --only run_id=1")
        .code(0);
    let ran = split("rest").code(0);
    assert!(
        ran.stderr.contains("6 of 14 runs are in output"),
        "{}",
        ran.stderr
    );
    let rest: Vec<Value> = ["rest/exp-01.json", "rest/exp-02.json"]
        .iter()
        .flat_map(|path| list(&folder.read(path)))
        .collect();
    assert_eq!(rest.len(), 8);
    assert!(
        !rest
            .iter()
            .any(|run| run["opt"]["name"] == "momo" && run["run_id"] == 1)
    );

    // Outputs of parts count, and training them beside the first output repeats nothing.
    folder.run("train -q rest/exp-01.json").code(0);
    split("last").code(0);
    assert_eq!(list(&folder.read("last/exp-01.json")).len(), 2);
    folder
        .run("train -q last/exp-01.json last/exp-02.json --output-dir more")
        .code(0);
    folder
        .run("output merge output more --out done/exp.json")
        .code(0);
    let none =
        folder.run("config split exp.json --parts 2 --into none --only-new --output-dir done");
    assert!(none.code(0).stderr.contains("nothing is left to train"));
    assert!(!folder.exists("none"));

    // An output that is not whole is not taken for none.
    folder.write("output/exp.json", "[{\"config\"");
    split("again")
        .code(65)
        .says(&["output/exp.json", "being written"]);
    assert!(!folder.exists("again"));
}

#[test]
fn runs_of_the_reference_count_as_done() {
    let folder = Folder::new();
    let config = files::path("configs/test.json");
    let split = |outputs: PathBuf| {
        let (config, outputs) = (config.display(), outputs.display());
        let ran = folder.run(&format!(
            "config split {config} --parts 3 --into parts --only-new --output-dir {outputs}"
        ));
        ran.code(0).stderr
    };
    let none = split(files::path("records/reference/outputs"));
    assert!(none.contains("24 of 24 runs"), "{none}");
}

/// Odd, but the reference takes it.
#[test]
fn what_the_reference_takes_is_taken() {
    let folder = Folder::new();
    let mut odd = sweep();
    odd["dataset_kwargs"]["noise"] = json!(-0.1);
    odd["opt"] = json!([
        {"name": "sgd-m", "lr": 0.1, "momentum": [1, 1.5], "beta": 0.5},
        {"name": "sgd-nesterov", "lr": 0.1, "momentum": 1},
        {"name": "momo", "lr": 0.1, "beta": 1},
        {"name": "adamw", "lr": 0.1, "dampening": 0.5},
    ]);
    folder.config("odd", &odd);
    let ran = folder.run("train odd.json --only run_id=0").code(0);
    for idle in [
        "opt[0].beta: has no effect",
        "opt[3].dampening: has no effect",
    ] {
        assert!(ran.stderr.contains(idle), "{}", ran.stderr);
    }
    let text = folder.read("output/odd.json");
    assert!(text.contains("\"dampening\": 0.5") && text.contains("\"beta\": 0.5"));
    folder
        .run("train odd.json --lr 0.1")
        .code(2)
        .says(&["--only lr="]);
}

/// What a run is too short for is told by `config check`, as far as it can be known, and by `train` in any case.
#[test]
fn schedules_that_are_longer_than_the_run() {
    let folder = Folder::new();
    let mut config = sweep();
    config["opt"] = json!([
        {"name": "sgd", "lr": [0.1, 0.2], "warmup_steps": 21, "stepwise_schedule": true},
        {"name": "sgd", "lr": 0.1, "warmup_steps": 20, "stepwise_schedule": true},
        {"name": "sgd", "lr": 0.1, "lr_schedule": "wsd", "cooldown": 0.5, "warmup_steps": 2},
    ]);
    folder.config("long", &config);
    for command in ["config check", "train"] {
        let ran = folder.run(&format!("{command} long.json")).code(2);
        let ran = ran.says(&["a warm-up of 21 steps is longer than the run, which has 20"]);
        let ran = ran.says(&["2 epochs and a cooldown of 1 are longer than the run, which has 2"]);
        assert_eq!(ran.stderr.lines().count(), 2, "{}", ran.stderr);
    }
    config["opt"] = json!({"name": "sgd", "lr": 0.1, "warmup_steps": 2});
    folder.config("fits", &config);
    folder.run("config check fits.json").code(0);
    folder.run("train -q fits.json").code(0);
    let ran = folder.run("train fits.json --epochs 1 --overwrite").code(2);
    ran.says(&["2 epochs is longer than the run, which has 1"]);
}

/// What `show-schedule` must show: three schedules of two lengths, of which one goes by steps.
fn with_schedules() -> Folder {
    let folder = Folder::new();
    let mut config = sweep();
    config["max_epoch"] = json!(4);
    config["opt"] = json!([
        {"name": ["sgd", "adam"], "lr": [0.1, 1], "warmup_steps": 2, "weight_decay": [0, 0.1]},
        {"name": "sgd", "lr": 0.1, "lr_schedule": "wsd", "stepwise_schedule": true, "cooldown": 0.5},
        {"name": "sgd", "lr": 0.1, "lr_schedule": "plateau"},
    ]);
    folder.config("rates", &config);
    folder
}

#[test]
fn schedules_are_shown_before_anything_is_trained() {
    let folder = with_schedules();
    let ran = folder.run("config show-schedule rates.json").code(0);
    for (part, times) in [
        ("warmup_steps=2", 2),
        ("wsd", 1),
        ("cooldown=0.5", 1),
        ("while val_loss falls", 1),
        (" 39 ", 1),
        ("1e-11", 1),
    ] {
        assert_eq!(
            ran.stdout.matches(part).count(),
            times,
            "{part}: {}",
            ran.stdout
        );
    }
    assert!(ran.stdout.lines().count() < 50, "{}", ran.stdout);
    let widest = ran.stdout.lines().map(str::len).max().unwrap();
    assert!(widest < 100, "{}", ran.stdout);
    let ran = folder.run("config show-schedule rates.json --json").code(0);
    let labels: Vec<Value> = list(&ran.stdout)
        .iter()
        .map(|line| line["label"].clone())
        .collect();
    let expected = [
        "lr=0.1, constant, warmup_steps=2",
        "lr=1, constant, warmup_steps=2",
        "lr=0.1, wsd, by steps, cooldown=0.5",
        "lr=0.1, plateau (while val_loss falls)",
    ];
    assert_eq!(labels, expected);

    let ran = folder.run("config show-schedule rates.json --json --only lr_schedule=wsd");
    let lines = list(&ran.code(0).stdout);
    assert_eq!(lines.len(), 1);
    let of = |key: &str| lines[0][key].clone();
    assert_eq!(of("tick"), "step");
    assert_eq!((of("epochs"), of("steps_per_epoch")), (json!(4), json!(10)));
    let rates: Vec<f64> = serde_json::from_value(of("learning_rates")).unwrap();
    assert_eq!(rates.len(), 40);
    assert_eq!(
        (rates[20], rates[30], rates[39]),
        (0.1, 0.05, 0.1 * (1.0 - 19.0 / 20.0))
    );

    for (name, start) in [("a.svg", "<svg"), ("a.png", "\u{89}PNG"), ("a.pdf", "%PDF")] {
        let ran = folder.run(&format!("config show-schedule rates.json --out {name}"));
        assert_eq!(ran.code(0).stdout, format!("{name}\n"));
        let bytes = std::fs::read(folder.path(name)).unwrap();
        let head: String = bytes.iter().take(4).map(|b| char::from(*b)).collect();
        assert_eq!(head, start);
    }
    let svg = folder.read("a.svg");
    assert!(svg.contains(">Learning rate<") && svg.contains("wsd, by steps, cooldown=0.5<"));
    let again = folder.run("config show-schedule rates.json --out a.svg");
    again.code(73).says(&["a.svg", "--overwrite"]);
    let other = folder.run("config show-schedule rates.json --out a.gif");
    other.code(2).says(&["a.gif", ".svg, .png or .pdf"]);
    assert!(!folder.exists("output"));
}

/// Steps are counted in the data; where these are not there, it can be said how many samples they have.
#[test]
fn schedules_by_steps_need_the_number_of_samples() {
    let folder = Folder::new();
    let mut config = sweep();
    config["dataset"] = json!("mnist");
    config["dataset_kwargs"] = json!({});
    config["opt"] =
        json!({"name": "sgd", "lr": 0.1, "lr_schedule": "cosine", "stepwise_schedule": true});
    folder.config("steps", &config);
    folder.run("config check steps.json").code(0);
    let ran = folder.run("config show-schedule steps.json").code(74);
    ran.says(&["mnist", "--samples N"]);
    let ran = folder
        .run("config show-schedule steps.json --samples 60 --json")
        .code(0);
    assert_eq!(list(&ran.stdout)[0]["steps_per_epoch"], 12);
    let ran = folder
        .run("config show-schedule steps.json --samples 600000000")
        .code(2);
    ran.says(&["240000000 learning rates"]);
}
