//! What tells runs, settings and problems apart.

use serde_json::{Map, Value, json};

use stepback_native::results::identity::{Identity, Varying};

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// A run whose config and summary have these keys in place of the usual ones.
fn run(config: Value, summary: Value) -> Identity {
    let mut whole = map(json!({
        "dataset": "mnist", "model": "mlp", "loss_func": "cross_entropy", "score_func": "cross_entropy_accuracy",
        "opt": {"name": "sgd", "lr": 1}, "max_epoch": 2,
    }));
    whole.extend(map(config));
    Identity::new(&whole, &map(summary))
}

#[test]
fn spelling_and_defaults_do_not_matter_and_everything_chosen_does() {
    let plain = run(json!({}), json!({}));
    for same in [
        json!({"opt": {"lr": 1.0, "name": "sgd"}, "run_id": 0}),
        json!({"opt": {"name": "sgd", "lr": 1, "weight_decay": 0, "lr_schedule": "constant"}}),
        json!({"batch_size": 1, "model_kwargs": {}, "dataset_kwargs": {"normalize": true}}),
        json!({"groups": []}),
    ] {
        let other = run(same.clone(), json!({}));
        assert_eq!(plain.hash(), other.hash(), "{same}");
        assert!(plain.agrees_with(&other));
    }
    let known = json!({"data": "a", "device": "cpu", "init_weights": null, "precision": "fp32"});
    let whole = run(json!({}), known);
    for (config, summary) in [
        (
            json!({"opt": {"name": "sgd", "lr": 1.0000000001}}),
            json!({}),
        ),
        (
            json!({"opt": {"name": "sgd", "lr": 1, "nonsense": 0}}),
            json!({}),
        ),
        (json!({"batch_size": 2}), json!({})),
        (json!({"max_epoch": 1}), json!({})),
        (json!({"run_id": 1}), json!({})),
        (json!({"groups": [{"match": "bias", "lr": 1}]}), json!({})),
        (json!({"dataset_kwargs": {"normalize": false}}), json!({})),
        (json!({}), json!({"init_weights": "x"})),
        (json!({}), json!({"data": "b"})),
        (json!({}), json!({"device": "cuda"})),
        (json!({}), json!({"precision": "tf32"})),
    ] {
        let other = run(config.clone(), summary.clone());
        assert_ne!(whole.hash(), other.hash(), "{config} {summary}");
        assert!(!whole.agrees_with(&other), "{config} {summary}");
    }
}

#[test]
fn what_is_not_known_agrees_with_anything_but_other_weights() {
    let old = run(json!({}), json!({}));
    let new = |weights: Value| {
        run(
            json!({}),
            json!({"data": "a", "device": "cpu", "init_weights": weights}),
        )
    };
    assert!(old.agrees_with(&new(json!(null))));
    assert!(!old.agrees_with(&new(json!("x"))));
    assert!(old.other_problem(&new(json!("x"))).is_empty());
    let loss = run(
        json!({"loss_func": "squared", "model_kwargs": {"k": 2}, "batch_size": 8}),
        json!({}),
    );
    assert_eq!(
        old.other_problem(&loss),
        [
            "loss_func=cross_entropy instead of squared",
            "model_kwargs.k=nothing instead of 2"
        ]
    );
    let data = run(json!({}), json!({"data": "b"}));
    assert_eq!(
        new(json!(null)).other_problem(&data),
        ["data=a instead of b"]
    );
}

#[test]
fn settings_are_told_apart_by_what_differs_and_only_that() {
    let known =
        |data: &str, device: &str| json!({"data": data, "device": device, "precision": "fp32"});
    let runs = [
        run(json!({"batch_size": 8}), known("a", "cpu")),
        run(json!({"batch_size": 8, "run_id": 1}), json!({})),
        run(json!({"batch_size": 16, "run_id": 1}), known("a", "cpu")),
        run(
            json!({"batch_size": 16.0, "opt": {"name": "adam", "lr": 1}}),
            known("a", "cuda"),
        ),
    ];
    let varying = Varying::among(runs.iter());
    let beside = |run| varying.beside_opt(run);
    let pairs = |size: &str, device: &str| {
        [("batch_size", size), ("device", device)].map(|(k, v)| (k.to_owned(), v.to_owned()))
    };
    assert_eq!(beside(&runs[0]), pairs("8", "cpu"));
    assert_eq!(beside(&runs[1]), pairs("8", "unknown"));
    assert_eq!(beside(&runs[3]), pairs("16", "cuda"));
    assert_ne!(varying.setting(&runs[0]), varying.setting(&runs[1]));
    // All that say where they ran say the same: then so did the one that does not say.
    let varying = Varying::among(runs[..3].iter());
    assert_eq!(varying.setting(&runs[0]), varying.setting(&runs[1]));
    assert_ne!(varying.setting(&runs[1]), varying.setting(&runs[2]));
}
