use std::fs;

use stepback_native::config::{self, Changes, Experiment, MAX_RUNS, RunConfig};
use stepback_native::error::Result;

use super::{dict, listed, opt, vocabulary};

/// A config in a file of this name, with assignments and seeds.
fn load(name: &str, text: &str, set: &[&str], seeds: &str) -> Result<Experiment> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    let changes = Changes {
        set: set.iter().map(|text| text.parse().unwrap()).collect(),
        seeds: (!seeds.is_empty()).then(|| seeds.parse().unwrap()),
    };
    config::load(&path, &vocabulary(), &changes, MAX_RUNS)
}

fn labels(text: &str, set: &[&str], seeds: &str) -> Vec<String> {
    let experiment = load("e.json", text, set, seeds).unwrap();
    let label = |runs: &[RunConfig]| runs.iter().map(RunConfig::label).collect::<Vec<_>>();
    assert_eq!(label(&experiment.runs), label(&experiment.all));
    label(&experiment.runs)
}

#[test]
fn values_take_the_place_of_the_configs() {
    let text = opt(r#"[{"name": "sgd", "lr": 0.1}, {"name": "momo", "lr": 1}]"#);
    for set in [&["lr=[3, 0.5]"][..], &["opt.lr=[3,0.5]"]] {
        assert_eq!(
            labels(&text, set, ""),
            [
                "name=sgd:lr=3:run_id=0",
                "name=sgd:lr=0.5:run_id=0",
                "name=momo:lr=3:run_id=0",
                "name=momo:lr=0.5:run_id=0",
            ]
        );
    }
    // A key of one method alone goes to that one.
    assert_eq!(
        labels(&text, &["bias_correction=true"], ""),
        [
            "name=sgd:lr=0.1:run_id=0",
            "name=momo:lr=1:bias_correction=true:run_id=0",
        ]
    );
    let set = ["max_epoch=7", "dataset_kwargs.p=4", "batch_size=2"];
    for text in [
        dict(&[]),
        listed(&[]),
        format!("[{}]", listed(&[]).trim_matches(['[', ']'])),
    ] {
        let run = load("e.json", &text, &set, "").unwrap().runs.remove(0);
        assert_eq!((run.max_epoch, run.batch_size), (7, 2));
        assert_eq!(run.dataset_kwargs["p"], 4);
        assert_eq!(run.dataset_kwargs["n_samples"], 20);
    }
}

#[test]
fn what_cannot_be_set_is_told_as_if_it_stood_in_the_file() {
    for (set, fragment) in [
        ("lrr=1", "opt[0]"),
        ("max_epoch=0", "max_epoch: wrong value 0"),
        ("max_epoch=many", "max_epoch: wrong value \"many\""),
        ("dataset_kwargs.q=1", "dataset_kwargs"),
        ("nothing.at=all", "nothing"),
    ] {
        let error = load("e.json", &dict(&[]), &[set], "").unwrap_err();
        assert!(error.message.contains(fragment), "{set}: {error}");
        assert!(error.message.contains("e.json: "), "{set}: {error}");
    }
    for text in ["", "lr", "=1", "lr=", " = "] {
        let mut changes = Changes::default();
        let parsed = text.parse().map(|one| changes.set.push(one));
        assert!(parsed.unwrap_err().contains("KEY=VALUE"), "{text}");
    }
}

#[test]
fn seeds_take_the_place_of_their_number() {
    let text = opt(r#"{"name": "sgd", "lr": [0.1, 1]}"#);
    let seeds = |seeds: &str| {
        let runs = load("e.json", &text, &[], seeds).unwrap().runs;
        let ids = runs.iter().map(|run| run.run_id);
        ids.collect::<Vec<_>>()
    };
    assert_eq!(seeds("3"), [3, 3]);
    assert_eq!(seeds("0..2"), [0, 1, 2, 0, 1, 2]);
    assert_eq!(seeds("8,2..3,0"), [0, 2, 3, 8, 0, 2, 3, 8]);
    for wrong in [
        "",
        "a",
        "2..1",
        "-1",
        "1.5",
        "0..",
        "99999999999",
        "1,0..3",
        "0..4294967296",
    ] {
        let parsed: std::result::Result<config::Seeds, String> = wrong.parse();
        assert!(parsed.is_err(), "{wrong}");
    }
    // Counted before they are made.
    let error = load("e.json", &text, &[], "0..4000000000").unwrap_err();
    assert!(error.message.contains("8000000002 runs"), "{error}");
    let error = load("e.json", &listed(&[]), &[], "1").unwrap_err();
    assert!(error.message.contains("a list of runs"), "{error}");
}

#[test]
fn configs_may_have_comments_or_be_toml() {
    let plain = labels(&opt(r#"[{"name": "sgd", "lr": [0.1, 1]}]"#), &[], "");
    let jsonc = "// What this is for.\n{\n\"dataset\": \"synthetic_linear\", /* small */\n\
        \"dataset_kwargs\": {\"p\": 3, \"n_samples\": 20},\n\"model\": \"linear\",\n\
        \"loss_func\": \"squared\", \"score_func\": \"squared\",\n\
        \"opt\": [{\"name\": \"sgd\", \"lr\": [0.1, 1,],}], // \"not\": read\n\
        \"batch_size\": 5, \"max_epoch\": 2, \"n_runs\": 1\n}\n";
    let toml = "# What this is for.\ndataset = \"synthetic_linear\"\nmodel = \"linear\"\nloss_func = \"squared\"\n\
        score_func = \"squared\"\nbatch_size = 5\nmax_epoch = 2\nn_runs = 1\n\n\
        [dataset_kwargs]\np = 3\nn_samples = 20\n\n[[opt]]\nname = \"sgd\"\nlr = [0.1, 1]\n";
    for (name, text) in [("e.jsonc", jsonc), ("e.toml", toml)] {
        let experiment = load(name, text, &[], "").unwrap();
        assert_eq!(experiment.id, "e");
        let labels: Vec<String> = experiment.runs.iter().map(RunConfig::label).collect();
        assert_eq!(labels, plain, "{name}");
    }
    // A comment in plain JSON is a mistake still, and mistakes have their places.
    for (name, text, place) in [
        ("e.json", jsonc, "e.json:1:1: "),
        ("e.jsonc", "// a\n/* b */ {\"dataset\": }", "e.jsonc:2:21: "),
        ("e.jsonc", "{ /* no end", "e.jsonc"),
        (
            "e.toml",
            "dataset = \"a\"\nmodel = linear\n",
            "e.toml:2:9: not TOML",
        ),
        (
            "e.toml",
            "dataset = \"a\"\ndataset = \"b\"\n",
            "e.toml:2:1: not TOML",
        ),
    ] {
        let error = load(name, text, &[], "").unwrap_err();
        assert!(error.message.contains(place), "{error}");
    }
}
