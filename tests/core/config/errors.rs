use std::time::{Duration, Instant};

use stepback_native::config::{self, Entry, Key, Kind, MAX_RUNS};

use super::{dict, listed, opt, refused, vocabulary};

/// Checks that each text is refused with all of its fragments, in lines that all name the file.
fn check(cases: &[(String, &[&str])]) {
    for (text, fragments) in cases {
        let message = refused(text);
        for fragment in *fragments {
            assert!(message.contains(fragment), "no {fragment:?} in\n{message}");
        }
        for line in message.lines() {
            assert!(line.starts_with("e.json:"), "{message}");
            assert!(line.len() < 400, "{message}");
        }
    }
}

fn one(key: &str, json: &str) -> String {
    dict(&[(key, json)])
}

#[test]
#[rustfmt::skip]
fn texts_that_are_no_json() {
    let deep = "[".repeat(100_000);
    let deep_lr = opt(&format!(r#"[{{"name": "sgd", "lr": {deep}"#));
    check(&[
        ("".into(), &["e.json:1:1: the file is empty"]),
        (" \n".into(), &["the file is empty"]),
        ("{\"a\": 1,\n  b: 2}".into(), &["e.json:2:3: invalid JSON: key must be a string"]),
        ("{\"a\": [1, 2}".into(), &["e.json:1:12: invalid JSON: expected `,` or `]`"]),
        ("{\"a\": 1".into(), &["e.json:1:7: invalid JSON: EOF while parsing an object"]),
        ("{\"a\": \"\u{1}\"}".into(), &["e.json:1:8: invalid JSON: control character"]),
        ("\u{feff}{}".into(), &["e.json:1:1:", "BOM"]),
        (dict(&[]) + "\n x", &["e.json:2:2: text after the end"]),
        (dict(&[]) + &dict(&[]), &["text after the end"]),
        (deep, &["e.json:1:128: [0][0][0][0]…[0][0]: nested too deep (expected at most 127"]),
        (deep_lr, &[": opt[0].lr[0]…[0][0]: nested too deep"]),
        (opt(r#"[{"name": "sgd", "lr": NaN}]"#), &["opt[0].lr: JSON has no NaN (expected a finite"]),
        (opt(r#"[{"name": "sgd", "lr": [1, nan]}]"#), &["opt[0].lr[1]: JSON has no nan"]),
        (opt(r#"[{"name": "sgd", "lr": Infinity}]"#), &["opt[0].lr: JSON has no Infinity"]),
        (opt(r#"[{"name": "sgd", "lr": -Infinity}]"#), &["opt[0].lr: JSON has no -Infinity"]),
        (opt(r#"[{"name": "sgd", "lr": 1e400}]"#), &["opt[0].lr: number out of range"]),
        (one("dataset_kwargs", r#"{"p": True}"#), &["kwargs.p: JSON has no True (did you mean true?)"]),
    ]);
}

#[test]
#[rustfmt::skip]
fn wrong_top_levels_and_missing_keys() {
    check(&[
        ("3".into(), &["e.json: wrong value 3 (expected an object, or a list of runs)"]),
        ("\"x\"".into(), &["wrong value \"x\""]),
        ("null".into(), &["wrong value null"]),
        ("[]".into(), &["no runs"]),
        ("[3]".into(), &["e.json: [0]: wrong value 3 (expected an object, one run)"]),
        ("{}".into(), &[
            "e.json: missing key \"dataset\" (expected a name",
            "missing key \"model\"",
            "missing key \"loss_func\"",
            "missing key \"score_func\"",
            "missing key \"opt\" (expected an object",
            "missing key \"max_epoch\" (expected an integer from 1 to 4294967295",
            "missing key \"n_runs\" (expected an integer of 1 or more: how many seeds)",
        ]),
        (listed(&[("run_id", "")]), &["[0]: missing key \"run_id\" (expected an integer from 0"]),
        (listed(&[("run_id", "-1")]), &["[0].run_id: wrong value -1"]),
        (listed(&[("run_id", "4294510507")]), &["[0].run_id: wrong value 4294510507"]),
        (listed(&[("n_runs", "1")]), &["[0].n_runs: unknown key \"n_runs\" (known: ", "run_id"]),
        (one("run_id", "1"), &["e.json: run_id: unknown key \"run_id\" (known: ", "n_runs"]),
        (listed(&[("batch_size", "[5, 6]")]),
            &["[0].batch_size: wrong value [5,6]", "a list is not a choice here"]),
        (listed(&[("opt", r#"{"name": "sgd", "lr": [0.1]}"#)]),
            &["[0].opt.lr: wrong value [0.1]", "a list is not a choice here"]),
        (listed(&[("opt", r#"[{"name": "sgd"}]"#)]),
            &["[0].opt: wrong value", "a list is not a choice here"]),
    ]);
}

#[test]
#[rustfmt::skip]
fn unknown_names_and_keys() {
    check(&[
        (one("batchsize", "5"),
            &["e.json: batchsize: unknown key \"batchsize\" (did you mean \"batch_size\"?)"]),
        (one("wholly\u{7f} else", "5"),
            &["e.json: [\"wholly\\u{7f} else\"]: unknown key", "(known: dataset, dataset_kwargs, model"]),
        (one("dataset", r#""mnits""#), &["dataset: unknown data set \"mnits\" (did you mean \"mnist\"?)"]),
        (one("model", r#"["linear", "Linaer"]"#),
            &["model[1]: unknown model \"Linaer\" (did you mean \"linear\"?)"]),
        (one("loss_func", r#""cross-entropi""#),
            &["loss_func: unknown loss \"cross-entropi\" (did you mean \"cross_entropy\"?)"]),
        (one("loss_func", r#""hinge""#),
            &["loss_func: unknown loss \"hinge\" (known: cross_entropy, logistic, squared)"]),
        (one("score_func", r#""acc""#), &["score_func: unknown score \"acc\" (known: "]),
        (opt(r#"[{"name": "SDG"}]"#),
            &["opt[0].name: unknown optimizer \"SDG\" (did you mean \"sgd\"?)"]),
        (opt(r#"[{"name": "sgdm"}]"#), &["unknown optimizer \"sgdm\" (did you mean \"sgd-m\"?)"]),
        (opt(r#"[{"name": "amda"}]"#), &["unknown optimizer \"amda\" (did you mean \"adam\"?)"]),
        (opt(r#"[{"name": "sgd", "learning_rate": 1}]"#), &["opt[0].learning_rate:", "(did you mean \"lr\"?)"]),
        (one("epochs", "1"), &["epochs: unknown key", "(did you mean \"max_epoch\"?)"]),
        (one("seeds", "1"), &["seeds: unknown key", "(did you mean \"n_runs\"?)"]),
        (opt(r#"[{"name": "rmsprop"}]"#), &["unknown optimizer \"rmsprop\" (known: sgd, sgd-m"]),
        (opt(r#"[{"lr": 1}]"#), &["opt[0]: missing key \"name\" (expected a name"]),
        (opt(r#"[{"name": "momo", "lr": 1, "betta": 1}]"#),
            &["opt[0].betta: unknown key of optimizer \"momo\" \"betta\" (did you mean \"beta\"?)"]),
        (opt(r#"[{"name": "sgd", "lr_schedule": "constnat"}]"#),
            &["opt[0].lr_schedule: wrong value \"constnat\"", "did you mean \"constant\"?"]),
        (opt(r#"[{"name": "sgd", "lr_schedule": "sqrt", "cooldown": 0.5}]"#),
            &["opt[0].cooldown: not a key of lr_schedule \"sqrt\" (it is of wsd;"]),
        (opt(r#"[{"name": "sgd", "lr_schedule": ["wsd", "sqrt"], "cooldown": 0.5}]"#),
            &["opt[0].cooldown: not a key of lr_schedule \"sqrt\" (it is of wsd;"]),
        (opt(r#"[{"name": "sgd", "patience": 5}]"#),
            &["opt[0].patience: not a key of lr_schedule \"constant\" (it is of plateau;"]),
        (opt(r#"[{"name": "sgd", "lr_schedule": "step"}]"#),
            &["opt[0]: missing key of lr_schedule \"step\" \"milestones\" (expected a list of integers"]),
        (opt(r#"[{"name": "sgd", "lr_schedule": "wsd", "cooldwon": 0.5}]"#),
            &["opt[0].cooldwon: unknown key", "(did you mean \"cooldown\"?)"]),
        (one("dataset_kwargs", r#"{"p": 3, "n_sample": 4}"#), &[
            "dataset_kwargs.n_sample: unknown key of data set \"synthetic_linear\" \"n_sample\" (did",
            "dataset_kwargs: missing key of data set \"synthetic_linear\" \"n_samples\" (exp",
        ]),
        (one("dataset_kwargs", ""),
            &["dataset_kwargs: missing key of data set \"synthetic_linear\" \"p\""]),
        (one("model_kwargs", r#"[{}, {"biass": true}]"#),
            &["model_kwargs[1].biass: unknown key of model \"linear\" \"biass\" (did you mean \"bias\"?)"]),
        (dict(&[("model", r#""swint""#), ("model_kwargs", r#"{"x": 1}"#)]),
            &["model_kwargs.x: unknown key of model \"swint\" \"x\" (there are none)"]),
        (one("batch_size", &format!("\"{}\"", "long".repeat(1000))), &["longlon… (exp"]),
    ]);
}

#[test]
#[rustfmt::skip]
fn wrong_types_and_ranges() {
    check(&[
        (one("model", "3"), &["e.json: model: wrong value 3 (expected a name)"]),
        (one("model_kwargs", "3"), &["model_kwargs: wrong value 3 (expected an object)"]),
        (one("model_kwargs", r#"{"output_size": [1, 2]}"#),
            &["model_kwargs.output_size: wrong value [1,2]", "a list is not a choice here"]),
        (dict(&[("model", r#""vit""#), ("model_kwargs", r#"{"pool": "maen"}"#)]),
            &["model_kwargs.pool: wrong value \"maen\" (expected one of cls, mean; did you mean \"mean\"?)"]),
        (one("max_epoch", "null"), &["max_epoch: wrong value null (expected an integer from 1 to 4294967295)"]),
        (one("max_epoch", "1000000000000000000"), &["max_epoch: wrong value 1000000000000000000 (expected an integer from"]),
        (opt("3"), &["opt: wrong value 3 (expected an object)"]),
        (opt(r#"[[{"name": "sgd"}]]"#), &["opt[0]: wrong value"]),
        (opt(r#"[{"name": 3}]"#), &["opt[0].name: wrong value 3 (expected a name)"]),
        (opt(r#"[{"name": "sgd", "lr": "0.1"}]"#),
            &["opt[0].lr: wrong value \"0.1\" (expected a finite number of 0 or more)"]),
        (opt(r#"[{"name": "sgd", "lr": [0.1, -1]}]"#),
            &["opt[0].lr[1]: wrong value -1 (expected a finite number of 0 or more)"]),
        (opt(r#"[{"name": "momo", "beta": 1}]"#),
            &["opt[0].beta: wrong value 1 (expected a number in [0, 1))"]),
        (opt(r#"[{"name": "momo", "beta": -0.1}]"#), &["opt[0].beta: wrong value -0.1"]),
        (opt(r#"[{"name": "adam", "betas": [[0.9, 1.0]]}]"#), &["opt[0].betas[0]: wrong value [0.9,1.0]"]),
        (opt(r#"[{"name": "adam", "betas": [0.9, 0.999]}]"#),
            &["opt[0].betas: [0.9,0.999] is a list of choices", "write a list of lists, [[0.9,0.999]]"]),
        (opt(r#"[{"name": "momo", "bias_correction": 0}]"#),
            &["opt[0].bias_correction: wrong value 0 (expected true or false)"]),
        (one("n_runs", "0"), &["n_runs: wrong value 0 (expected an integer of 1 or more)"]),
        (one("n_runs", "-3"), &["n_runs: wrong value -3"]),
        (one("n_runs", "1.5"), &["n_runs: wrong value 1.5"]),
        (one("n_runs", "1.0"), &["n_runs: wrong value 1.0"]),
        (one("n_runs", "\"3\""), &["n_runs: wrong value \"3\""]),
        (one("n_runs", "[1, 2]"), &["n_runs: wrong value [1,2]", "a list is not a choice here"]),
        (one("batch_size", "0"), &["batch_size: wrong value 0 (expected an integer of 1 or more)"]),
        (one("batch_size", "[4, 0]"), &["batch_size[1]: wrong value 0"]),
    ]);
}

#[test]
#[rustfmt::skip]
fn empty_lists_duplicate_keys_and_runs_that_are_the_same() {
    let twice = format!("[{0}, {0}]", listed(&[]).trim_matches(['[', ']']));
    let spelt = listed(&[("batch_size", "")]).replace("}]", "}, ") + &listed(&[("batch_size", "1")])[1..];
    check(&[
        (one("batch_size", "[]"), &["batch_size: empty list (expected at least one choice)"]),
        (opt("[]"), &["opt: empty list"]),
        (opt(r#"[{"name": "sgd", "lr": []}]"#), &["opt[0].lr: empty list"]),
        (opt(r#"[{"name": []}]"#), &["opt[0].name: empty list"]),
        (opt(r#"[{"name": "sgd", "lr": 1, "lr": 2}]"#), &["e.json: opt[0].lr: duplicate key"]),
        (opt(r#"[{"name": "sgd", "l\u0072": 1, "lr": 1}]"#), &["e.json: opt[0].lr: duplicate key"]),
        ("{\"opt\": 1,\"opt\": {\"a\": {\"b\": 1, \"b\": 2}}}".into(),
            &["e.json: opt: duplicate key", "e.json: opt.a.b: duplicate key"]),
        (one("batch_size", "[4, 5, 4]"), &["e.json: batch_size[2]: the same as batch_size[0]"]),
        (one("dataset_kwargs", r#"[{"p": 3, "n_samples": 2}, {"n_samples": 2, "p": 3}]"#),
            &["dataset_kwargs[1]: the same as dataset_kwargs[0]"]),
        (opt(r#"[{"name": "sgd", "lr": [1, 2, 1.0]}]"#), &["opt[0].lr[2]: the same as opt[0].lr[0]"]),
        (opt(r#"[{"name": "sgd", "lr": [1, 2]}, {"name": "sgd", "lr": 3}, {"lr": 2, "name": "sgd"}]"#),
            &["e.json: opt[2]: the same as opt[0]"]),
        (twice, &["e.json: [1]: the same as [0]"]),
        (spelt, &["e.json: [1]: the same as [0]"]),
    ]);
}

#[test]
fn one_mistake_gives_one_line() {
    for text in [
        dict(&[
            ("model", r#""liner""#),
            ("model_kwargs", r#"{"outputs": 3}"#),
        ]),
        dict(&[("dataset", "3"), ("dataset_kwargs", r#"{"a": 3}"#)]),
        dict(&[("dataset", "[]")]),
        opt(r#"[{"name": "sdg", "momentum": 3}]"#),
        opt(r#"[{"name": ["momo", "momo-star"], "beta": 2}]"#),
        opt(r#"[{"name": "sgd", "lr": [1, 1]}]"#),
        dict(&[
            ("model", r#"["linear", "matrix_fac"]"#),
            ("model_kwargs", r#""x""#),
        ]),
    ] {
        let message = refused(&text);
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn all_mistakes_of_a_file_are_told_at_once_but_not_thousands() {
    let text = dict(&[
        ("dataset", r#""nist""#),
        ("loss_func", ""),
        ("batch_size", "0"),
        ("colour", "1"),
        (
            "opt",
            r#"[{"name": "sgd", "lr": -1, "lr": -2}, {"name": "momo", "beta": 2, "x": 1}]"#,
        ),
    ]);
    let message = refused(&text);
    for fragment in [
        "opt[0].lr: duplicate key",
        "colour: unknown key",
        "missing key \"loss_func\"",
        "batch_size: wrong value 0",
        "dataset: unknown data set",
        "opt[0].lr: wrong value -2",
        "opt[1].x: unknown key",
        "opt[1].beta: wrong value 2",
    ] {
        assert!(message.contains(fragment), "no {fragment:?} in\n{message}");
    }
    assert_eq!(message.lines().count(), 8, "{message}");

    let many: Vec<String> = (0..10_000).map(|i| format!("{{\"name\": {i}}}")).collect();
    let message = refused(&opt(&format!("[{}]", many.join(","))));
    assert_eq!(message.lines().count(), 51);
    assert!(message.ends_with("and more mistakes"), "{message}");
}

#[test]
fn too_many_runs_are_counted_and_not_made() {
    let start = Instant::now();
    let items: Vec<String> = (1..=100).map(|i| format!("{i}e-4")).collect();
    let hundred = format!("[{}]", items.join(","));
    let opts = format!(
        r#"[{{"name": "momo", "lr": {hundred}, "weight_decay": {hundred}, "lb": {hundred}, "beta": {hundred}}}]"#
    );
    assert_eq!(
        refused(&dict(&[("opt", &opts), ("n_runs", "10000")])),
        "e.json: 1000000000000 runs (expected at most 100000; raise it with --max-runs)"
    );
    // 2^6 to the 22nd is 2^132, which would be 0 in 128 bits.
    let power_of_two = format!("[{}]", items[..64].join(","));
    let keys: Vec<String> = (0..22)
        .map(|i| format!("\"k{i}\": {power_of_two}"))
        .collect();
    let message = refused(&opt(&format!("[{{{}}}]", keys.join(","))));
    assert!(message.contains("more than 10^19 runs"), "{message}");
    let message = refused(&dict(&[("n_runs", "100001")]));
    assert!(message.contains("100001 runs"), "{message}");
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn the_limit_on_runs_is_exact() {
    let with = |text: &str, limit| {
        let parsed = config::parse("e", "e.json", text.as_bytes(), &vocabulary(), limit);
        parsed.map(|experiment| experiment.runs.len()).ok()
    };
    let opts = r#"[{"name": "sgd", "lr": [1, 2]}, {"name": "adam", "lr": [1, 2, 3]}]"#;
    let text = dict(&[
        ("opt", opts),
        ("n_runs", "3"),
        ("dataset", r#"["sensor", "cifar10"]"#),
        ("dataset_kwargs", ""),
    ]);
    assert_eq!(with(&text, 30), Some(30));
    assert_eq!(with(&text, 29), None);
    let second = listed(&[("run_id", "1")]);
    let pair = listed(&[]).replace("}]", "}, ") + &second[1..];
    assert_eq!(with(&pair, 2), Some(2));
    assert_eq!(with(&pair, 1), None);
}

/// A method's own key counts, and not its schedule's of the same name; with a schedule that was asked for, either could
/// be meant.
#[test]
fn a_key_of_the_method_and_of_the_schedule() {
    let mut vocabulary = vocabulary();
    vocabulary.optimizers.push(Entry {
        name: "free",
        about: "",
        paper: "",
        keys: &[Key {
            name: "warmup_steps",
            kind: Kind::Count,
            default: Some("1"),
            about: "",
        }],
    });
    let message = |more: &str| {
        let text = opt(&format!(r#"{{"name": "free", "lr": 1{more}}}"#));
        let parsed = config::parse("e", "e.json", text.as_bytes(), &vocabulary, MAX_RUNS);
        parsed.err().map_or(String::new(), |error| error.message)
    };
    assert_eq!(message(r#", "warmup_steps": 5"#), "");
    assert_eq!(message(r#", "lr_schedule": "wsd""#), "");
    let own = message(r#", "warmup_steps": 0"#);
    assert!(own.contains("expected an integer of 1 or more"), "{own}");
    let both = message(r#", "warmup_steps": 5, "lr_schedule": "wsd""#);
    let clash = "opt.warmup_steps: a key of optimizer \"free\" and of lr_schedule \"wsd\"";
    assert!(both.contains(clash), "{both}");
}

#[test]
#[rustfmt::skip]
fn groups() {
    let groups = |text: &str| one("groups", text);
    let in_list = |text: &str| listed(&[("groups", text)]);
    check(&[
        (groups(r#"{"match": "a"}"#), &["groups: wrong value", "a list of groups; where a list is a choice, a list of such lists"]),
        (groups(r#"[{"match": "a"}]"#), &["groups[0]: wrong value", "a list of such lists: [[{"]),
        (groups("[]"), &["groups: empty list (expected at least one choice)"]),
        (groups(r#"[["a"]]"#), &["groups[0][0]: wrong value \"a\" (expected an object, one group)"]),
        (groups("[[{}]]"), &["groups[0][0]: missing key of a group of optimizer \"sgd\" \"match\""]),
        (groups(r#"[[{"match": 3}]]"#), &["groups[0][0].match: wrong value 3"]),
        (groups(r#"[[], [{"match": "a"}, {"match": "("}]]"#), &["groups[1][1].match: an open group"]),
        (groups(r#"[[{"match": "a", "lr": [1]}]]"#), &["groups[0][0].lr: wrong value [1] (expected a finite number of 0"]),
        (groups(r#"[[{"match": "a", "lr": -1, "lr_factor": 2}]]"#),
            &["groups[0][0]: has both lr and lr_factor (give one of them)", "groups[0][0].lr: wrong value -1"]),
        (groups(r#"[[{"match": "a", "weight_deacy": 1}]]"#),
            &["groups[0][0].weight_deacy: unknown key of a group of optimizer \"sgd\"", "did you mean \"weight_decay\"?"]),
        (groups(r#"[[{"match": "a", "lr_schedule": "linear"}]]"#), &["groups[0][0].lr_schedule: belongs in opt"]),
        (groups(r#"[[{"match": "a", "cooldown": 0.5}]]"#), &["groups[0][0].cooldown: belongs in opt"]),
        (groups(r#"[[{"match": "a", "name": "adm"}]]"#), &["groups[0][0].name: unknown optimizer \"adm\" (did you mean \"adam\"?)"]),
        (groups(r#"[[{"match": "a", "name": "adam", "betas": [0.9]}]]"#), &["groups[0][0].betas: wrong value [0.9]"]),
        (groups(r#"[[{"match": "a"}], [{"match": "a"}]]"#), &["groups[1]: the same as groups[0]"]),
        (in_list(r#"[[{"match": "a"}]]"#), &["[0].groups[0]: wrong value", "an object, one group"]),
    ]);
}

#[test]
fn keys_of_groups_that_another_method_has() {
    let two = r#"[{"name": "sgd", "lr": 1}, {"name": "adam", "lr": 1}]"#;
    let groups = r#"[[{"match": "a", "betas": [0.8, 0.9]}]]"#;
    let experiment = super::parse(&dict(&[("opt", two), ("groups", groups)])).unwrap();
    assert_eq!(experiment.runs.len(), 2);
    let warning = "e.json: groups[0][0].betas: has no effect on sgd, which does not have it";
    assert_eq!(experiment.warnings, [warning]);
}
