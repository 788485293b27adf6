//! What a run is the result of, as `train` sees it: what is there already, what is not, and what does not mix.

use std::process::Command;

use serde_json::{Value, json};

use crate::common::program::{Folder, runs_in};

fn linear() -> Value {
    json!({
        "dataset": "synthetic_linear", "dataset_kwargs": {"p": 5, "n_samples": 40}, "model": "linear",
        "loss_func": "squared", "score_func": "squared", "opt": {"name": "sgd", "lr": 0.1}, "batch_size": 4,
        "max_epoch": 2, "n_runs": 1,
    })
}

/// `linear` with these keys in place of others.
fn with(keys: Value) -> Value {
    let mut config = linear();
    let map = config.as_object_mut().unwrap();
    map.extend(keys.as_object().unwrap().clone());
    config
}

fn runs(folder: &Folder) -> Vec<Value> {
    serde_json::from_str(&folder.read("output/lin.json")).unwrap()
}

fn table(folder: &Folder) -> String {
    let command = "table lin --columns setting --format csv";
    folder.run(command).code(0).stdout
}

#[test]
fn sweeps_over_what_is_not_the_optimizer_have_tables() {
    let folder = Folder::new();
    folder.config(
        "lin",
        &with(json!({"batch_size": [4, 8], "max_epoch": [1, 2]})),
    );
    folder.run("train -q lin.json").code(0);
    assert_eq!(runs(&folder).len(), 4);
    let table = table(&folder);
    assert!(
        table.contains("batch_size=") && table.contains("max_epoch=2"),
        "{table}"
    );
    assert!(!table.contains("weight_decay"), "{table}");
}

#[test]
fn initial_weights_and_epochs_make_other_runs() {
    let folder = Folder::new();
    folder.config("lin", &linear());
    folder
        .run("train -q lin.json --epochs 1 --save-weights")
        .code(0);
    folder.run("train -q lin.json").code(0);
    let file = "output/weights/lin/name=sgd:lr=0.1:run_id=0.safetensors";
    let from = format!("train -q lin.json --init-weights {file}");
    folder.run(&from).code(0);
    assert_eq!(runs(&folder).len(), 3);
    // Now all of them are there, whatever stands in the config's place of a default.
    folder.config(
        "lin",
        &with(json!({"opt": {"lr": 0.1, "weight_decay": 0.0, "name": "sgd"}})),
    );
    for command in ["train -q lin.json --epochs 1", "train -q lin.json", &from] {
        folder.run(command).code(0);
        assert_eq!(runs(&folder).len(), 3, "{command}");
    }
    let all = runs(&folder);
    let hashes: Vec<&Value> = all
        .iter()
        .map(|run| &run["summary"]["init_weights"])
        .collect();
    assert_eq!(hashes.iter().filter(|hash| hash.is_null()).count(), 2);
    let hash = hashes.iter().find_map(|hash| hash.as_str()).unwrap();
    assert_eq!(hash.len(), 32);
    folder
        .run("output filter output/lin.json --keep max_epoch=2 --out output/long.json")
        .code(0);
    let long = folder
        .run("table long --columns setting --format csv")
        .code(0)
        .stdout;
    assert!(long.contains("init_weights="), "{long}");
    let wide = folder.run("table long").code(0).stderr;
    let note = "long: settings also differ in init_weights;";
    assert!(wide.contains(note), "{wide}");
}

#[test]
fn runs_of_another_problem_are_not_added() {
    let folder = Folder::new();
    folder.config("lin", &linear());
    folder.run("train -q lin.json").code(0);
    let before = folder.read("output/lin.json");
    let other = with(json!({"loss_func": "logistic", "score_func": "logistic_accuracy"}));
    folder.config("lin", &other);
    folder.run("train -q lin.json").code(2).says(&[
        "output/lin.json holds runs of another problem",
        "loss_func=logistic instead of squared",
        "score_func=logistic_accuracy instead of squared",
    ]);
    assert_eq!(folder.read("output/lin.json"), before);
    folder.run("train -q lin.json --overwrite").code(0);
    // A sweep over problems may be trained in parts.
    let both = json!({"loss_func": ["logistic", "squared"]});
    folder.config("lin", &with(both));
    for part in ["logistic", "squared"] {
        let command = format!("train -q lin.json --output-dir new --only loss_func={part}");
        folder.run(&command).code(0);
    }
    assert_eq!(runs_in(&folder.read("new/lin.json")), 2);
}

#[test]
fn what_is_no_run_is_refused_by_train_as_by_table() {
    let folder = Folder::new();
    folder.config("lin", &linear());
    folder.run("train -q lin.json").code(0);
    let mut all = runs(&folder);
    all[0].as_object_mut().unwrap().remove("history");
    folder.write("output/lin.json", serde_json::to_string(&all).unwrap());
    for command in ["table lin", "train lin.json"] {
        folder
            .run(command)
            .code(65)
            .says(&["lin.json", "no list \"history\""]);
    }
    all[0]["history"] = json!([]);
    folder.write("output/lin.json", serde_json::to_string(&all).unwrap());
    for command in ["table lin", "train lin.json"] {
        folder.run(command).code(65).says(&["lin.json", "epochs"]);
    }
    all[0]["history"] = json!([{"epoch": 0, "train_loss": 1.0}]);
    folder.write("output/lin.json", serde_json::to_string(&all).unwrap());
    let ran = folder.run("train lin.json").code(65);
    ran.says(&[
        "lin.json",
        "the history of name=sgd:lr=0.1",
        "has 1 of 2 epochs",
    ]);
}

#[test]
fn defaults_do_not_make_a_run_twice() {
    let folder = Folder::new();
    let opts = json!([{"name": "sgd", "lr": 0.1}, {"name": "sgd", "lr": 0.1, "weight_decay": 0}]);
    folder.config("lin", &with(json!({"opt": opts})));
    folder
        .run("train lin.json")
        .code(2)
        .says(&["opt[1]: the same as opt[0]"]);
}

#[test]
fn summaries_say_where_they_are_from() {
    let folder = Folder::new();
    folder.config("lin", &linear());
    folder.run("train -q lin.json --threads 2").code(0);
    let summary = &runs(&folder)[0]["summary"];
    assert_eq!(summary["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(summary["threads"], 2);
    for key in ["init_weights", "data", "data_published"] {
        assert_eq!(summary.get(key), Some(&Value::Null), "{key}");
    }
    for (key, part) in [
        ("command", "train -q lin.json --threads 2"),
        ("processor", std::env::consts::ARCH),
    ] {
        assert!(summary[key].as_str().unwrap().contains(part), "{summary}");
    }
    assert!(!summary["host"].as_str().unwrap().is_empty());
    // The build rebuilds when a commit is made.
    let git = Command::new("git")
        .args(["describe", "--always", "--abbrev=12"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    if let Ok(said) = git.map(|git| String::from_utf8(git.stdout).unwrap())
        && std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(".git")
            .exists()
        && !said.is_empty()
    {
        assert_eq!(summary["commit"], said.trim());
    }
}
