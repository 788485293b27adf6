use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use stepback_native::config::{self, Changes, MAX_RUNS, RunConfig};

use super::{dict, listed, opt, parse, refused, runs, vocabulary};

#[test]
fn shipped_configs_have_as_many_runs_as_the_readme_says() {
    let expected = [
        ("cifar100_resnet110", 90),
        ("cifar100_resnet110-2", 48),
        ("cifar100_resnet110-3", 18),
        ("cifar100_resnet110-5", 18),
        ("cifar10_methods", 45),
        ("cifar10_resnet20", 69),
        ("cifar10_resnet20-2", 48),
        ("cifar10_resnet20-3", 42),
        ("cifar10_resnet20-4", 21),
        ("cifar10_vgg16", 129),
        ("cifar10_vgg16-2", 60),
        ("cifar10_vit", 24),
        ("cifar10_vit-2", 30),
        ("cifar10_vit-3", 24),
        ("cifar10_vit-4", 12),
        ("dna_logreg", 81),
        ("imagenet32_resnet18", 160),
        ("mnist_methods", 45),
        ("mnist_mlp", 75),
        ("mnist_mlp-2", 48),
        ("sensor_matrix", 60),
        ("shakespeare", 12),
        ("shakespeare-2", 12),
        ("shakespeare-3", 12),
        ("shakespeare_glu_adamw", 18),
        ("shakespeare_llama", 18),
        ("synthetic_small", 129),
        ("test", 24),
        ("test_shakespeare", 1),
    ];
    let readme = fs::read_to_string("configs/README.md").unwrap();
    for (id, count) in expected {
        let path = format!("configs/{id}.json");
        let vocabulary = stepback_native::cli::vocabulary();
        let experiment =
            config::load(Path::new(&path), &vocabulary, &Changes::default(), MAX_RUNS).unwrap();
        assert_eq!(experiment.id, id);
        assert_eq!(experiment.runs.len(), count, "{id}");
        assert!(experiment.warnings.is_empty(), "{:?}", experiment.warnings);
        let row = format!("| `{id}.json` | {count} |");
        assert!(readme.contains(&row), "{id}");
    }
    let files = fs::read_dir("configs").unwrap().flatten();
    let json = files.filter(|file| file.path().extension().is_some_and(|e| e == "json"));
    assert_eq!(json.count(), expected.len());
}

#[test]
fn the_readme_names_everything_that_exists() {
    let readme = fs::read_to_string("configs/README.md").unwrap();
    let words = vocabulary();
    let entries = [&words.datasets, &words.models, &words.optimizers];
    let entries = entries.into_iter().flatten();
    let names = entries.clone().map(|entry| entry.name);
    let keys = entries.flat_map(|entry| entry.keys);
    let keys = keys.chain(words.optimizer_keys).map(|key| key.name);
    let functions = words.losses.iter().chain(&words.scores).copied();
    for word in names.chain(keys).chain(functions) {
        assert!(readme.contains(&format!("`{word}`")), "{word}");
    }
}

#[test]
fn the_readme_example_has_the_runs_that_it_says() {
    let readme = fs::read_to_string("configs/README.md").unwrap();
    let example = readme.split("```").nth(1).unwrap();
    let runs = runs(example.strip_prefix("json").unwrap());
    assert_eq!(runs.len(), 16);
    assert!(readme.contains("= 16 runs"));
}

/// The values of `keys` in every run, in one string each.
fn columns(text: &str, keys: &[&str]) -> Vec<String> {
    let find = |run: &RunConfig, key: &str| {
        let own = run.opt.get(key).cloned();
        let value = own.or_else(|| run.to_json().remove(key));
        value.map_or("-".into(), |value| value.to_string().replace('"', ""))
    };
    let line = |run: &RunConfig| {
        let values: Vec<String> = keys.iter().map(|key| find(run, key)).collect();
        values.join(" ")
    };
    runs(text).iter().map(line).collect()
}

#[test]
fn the_last_key_runs_fastest_inside_opt_and_seeds_run_fastest_of_all() {
    let opts = r#"[
        {"weight_decay": [0, 1], "name": "sgd", "lr": [0.1, 0.2]},
        {"name": "adam", "lr": 3}
    ]"#;
    let text = dict(&[("opt", opts), ("n_runs", "2")]);
    assert_eq!(
        columns(&text, &["name", "weight_decay", "lr", "run_id"]),
        [
            "sgd 0 0.1 0",
            "sgd 0 0.1 1",
            "sgd 0 0.2 0",
            "sgd 0 0.2 1",
            "sgd 1 0.1 0",
            "sgd 1 0.1 1",
            "sgd 1 0.2 0",
            "sgd 1 0.2 1",
            "adam - 3 0",
            "adam - 3 1",
        ]
    );
}

#[test]
fn the_place_of_opt_and_of_other_keys_counts_and_that_of_n_runs_does_not() {
    let rest = r#""dataset": "sensor", "model": "linear", "loss_func": "squared", "score_func": "squared""#;
    let opt = r#""opt": [{"name": "sgd", "lr": [0.1, 0.2]}]"#;
    let keys = ["lr", "max_epoch", "run_id"];
    let first = format!(r#"{{{opt}, "n_runs": 1, "max_epoch": [3, 4], {rest}}}"#);
    assert_eq!(
        columns(&first, &keys),
        ["0.1 3 0", "0.1 4 0", "0.2 3 0", "0.2 4 0"]
    );
    let last = format!(r#"{{"n_runs": 2, "max_epoch": [3, 4], {rest}, {opt}}}"#);
    assert_eq!(
        columns(&last, &keys),
        [
            "0.1 3 0", "0.1 3 1", "0.2 3 0", "0.2 3 1", "0.1 4 0", "0.1 4 1", "0.2 4 0", "0.2 4 1",
        ]
    );
}

#[test]
fn names_and_kwargs_are_choices_and_lists_inside_kwargs_are_not() {
    let text = dict(&[
        ("model", r#""mlp""#),
        (
            "model_kwargs",
            r#"[{"output_size": 1, "hidden_sizes": [4, 4]}, {"output_size": 1, "hidden_sizes": []}]"#,
        ),
        (
            "opt",
            r#"{"name": ["adam", "adamw"], "lr": 1, "betas": [[0.9, 0.99], [0.8, 0.9]]}"#,
        ),
    ]);
    let all = runs(&text);
    assert_eq!(all.len(), 8);
    assert_eq!(all[0].model_kwargs["hidden_sizes"], json!([4, 4]));
    assert_eq!(all[1].model_kwargs["hidden_sizes"], json!([]));
    assert_eq!(
        columns(&text, &["name", "betas"])[..6],
        [
            "adam [0.9,0.99]",
            "adam [0.9,0.99]",
            "adam [0.8,0.9]",
            "adam [0.8,0.9]",
            "adamw [0.9,0.99]",
            "adamw [0.9,0.99]"
        ]
    );
}

#[test]
fn defaults_are_filled_in_and_spelling_survives() {
    let text = dict(&[
        ("batch_size", ""),
        ("dataset_kwargs", ""),
        ("dataset", r#""sensor""#),
        (
            "opt",
            r#"[{"lr": [1, 1e-05, 10.0], "name": "momo", "lb": -0.5}]"#,
        ),
    ]);
    let all = runs(&text);
    let expected = r#"{"dataset":"sensor","dataset_kwargs":{},"model":"linear","model_kwargs":{},"loss_func":"squared","score_func":"squared","opt":{"lr":1,"name":"momo","lb":-0.5},"batch_size":1,"max_epoch":2,"run_id":0}"#;
    assert_eq!(Value::Object(all[0].to_json()).to_string(), expected);
    let rates: Vec<&Value> = all.iter().map(|run| &run.opt["lr"]).collect();
    // A JSON integer and a double are different values here, even 1 and 1.0.
    assert_eq!(rates, [&json!(1), &json!(1e-5), &json!(10.0)]);
    assert_eq!(all[0].label(), "name=momo:lr=1:lb=-0.5:run_id=0");
}

#[test]
fn a_list_of_runs_is_taken_as_it_is() {
    let run = |id: &str, betas: &str| {
        let opt = format!(r#"{{"name": "adam", "lr": 0.1, "betas": {betas}}}"#);
        listed(&[("run_id", id), ("opt", &opt)])
    };
    let (first, second) = (run("7", "[0.9, 0.99]"), run("3", "[0.9, 0.9]"));
    let text = first.replace("}]", "}, ") + &second[1..];
    let all = runs(&text);
    assert_eq!(all.len(), 2);
    assert_eq!((all[0].run_id, all[1].run_id), (7, 3));
    assert_eq!(all[0].opt["betas"], json!([0.9, 0.99]));
}

#[test]
fn runs_are_compared_as_numbers_whatever_the_order_of_keys() {
    let one = |text: &str| runs(&opt(text)).remove(0);
    let run = one(r#"{"name": "momo", "lr": 1, "lb": 0.1}"#);
    assert!(run.same_run(&one(r#"{"lb": 1e-1, "lr": 1.0, "name": "momo"}"#)));
    assert!(!run.same_run(&one(r#"{"name": "momo", "lr": 1, "lb": 0.1000001}"#)));
    assert!(!run.same_run(&one(r#"{"name": "momo", "lr": 1}"#)));
    let rate = |number: &str| one(&format!(r#"{{"name": "sgd", "lr": {number}}}"#));
    assert!(rate("1e19").same_run(&rate("10000000000000000000")));
    // As doubles these would be equal.
    assert!(!rate("9007199254740993").same_run(&rate("9007199254740992")));
    assert!(rate("0").same_run(&rate("-0.0")));
}

#[test]
fn a_stored_run_that_is_not_ours_reads_as_none() {
    let run = runs(&dict(&[])).remove(0).to_json();
    let changed = |key: &str, value: Option<Value>| {
        let mut map = run.clone();
        match value {
            Some(value) => map.insert(key.into(), value),
            None => map.remove(key),
        };
        RunConfig::from_json(&map)
    };
    assert!(RunConfig::from_json(&run).is_some());
    for key in [
        "dataset",
        "model",
        "loss_func",
        "score_func",
        "opt",
        "max_epoch",
    ] {
        assert_eq!(changed(key, None), None, "{key}");
    }
    assert_eq!(changed("batch_size", Some(json!(1.5))), None);
    assert_eq!(changed("device", Some(json!("cpu"))), None);
    assert_eq!(changed("batch_size", None).unwrap().batch_size, 1);
}

#[test]
fn a_missing_learning_rate_and_a_vanishing_number_are_warned_of() {
    let text = opt(
        r#"[{"name": "sgd", "lr": 0.1}, {"name": "sgd"}, {"name": "momo", "lr": 1, "lb": 1e-400}]"#,
    );
    let column = text.find("1e-400").unwrap() + 1;
    assert_eq!(
        parse(&text).unwrap().warnings,
        [
            format!("e.json:1:{column}: 1e-400 is read as 0"),
            "e.json: opt[1]: no lr, so 1e-3 is used".into(),
        ]
    );
    let zeros = opt(r#"[{"name": "momo", "lr": [0, 1e-5, 4e-324], "lb": "\"1e-400"}]"#);
    assert!(refused(&zeros).contains("lb"));
    let zeros = zeros.replace(r#""\"1e-400""#, "0e5");
    assert_eq!(parse(&zeros).unwrap().warnings, [""; 0]);
}

/// The reference looks only for the keys that it wants.
#[test]
fn keys_of_other_optimizers_are_taken_with_a_warning() {
    let text = opt(r#"[{"name": "momo", "lr": 1, "dampening": [0.5, "x"]}]"#);
    let parsed = parse(&text).unwrap();
    assert_eq!(
        parsed.warnings,
        ["e.json: opt[0].dampening: has no effect on momo, which does not have it"]
    );
    let given: Vec<_> = parsed.runs.iter().map(|r| &r.opt["dampening"]).collect();
    assert!(given.contains(&&json!(0.5)) && given.contains(&&json!("x")));
}

#[test]
fn groups_are_choices_of_lists() {
    let groups = r#"[[], [{"match": "a", "betas": [0.8, 0.9]}, {"match": "b"}]]"#;
    let runs = runs(&dict(&[("groups", groups), ("n_runs", "2")]));
    let lengths: Vec<usize> = runs.iter().map(|run| run.groups.len()).collect();
    assert_eq!(lengths, [0, 0, 2, 2]);
    assert_eq!(runs[2].groups[0]["betas"], json!([0.8, 0.9]));
    let none = runs[0].to_json();
    assert!(
        !none.contains_key("groups"),
        "as in outputs of older versions"
    );
    assert_eq!(RunConfig::from_json(&none).unwrap(), runs[0]);
    assert_eq!(RunConfig::from_json(&runs[2].to_json()).unwrap(), runs[2]);
    assert_eq!(
        runs[2].label(),
        "name=sgd:lr=0.1:groups=a betas [0.8,0.9]; b:run_id=0"
    );
    assert!(!runs[2].same_run(&runs[0]));
    let listed = listed(&[("groups", r#"[{"match": "a"}]"#)]);
    assert_eq!(super::runs(&listed)[0].groups.len(), 1);
}
