//! Schedules' names and the table of optimizers. Their numbers are in the suites of `verify`, see verify.rs.

use serde_json::{Value, json};
use stepback_native::device::Target;
use stepback_native::optim::schedule::{ENTRIES, Schedule, named};
use stepback_native::optim::{COMMON_KEYS, ROWS, Stepper, row};

#[test]
fn schedules_that_are_none() {
    for text in [
        "",
        "Constant",
        "exponential",
        "exponential_",
        "exponential_30",
        "exponential_0_0.5",
        "exponential_-1_0.5",
        "exponential_1.5_0.5",
        "exponential_2_0",
        "exponential_2_nan",
        "exponential_2_inf",
        "exponential_2_0.5_1",
        "linear ",
    ] {
        assert!(named(text).is_none(), "{text:?}");
    }
    assert!(named("exponential_S_G").is_none());
    let names: Vec<&str> = ENTRIES.iter().map(|entry| entry.name).collect();
    assert_eq!(names.len(), 9);
    for name in names.into_iter().filter(|name| *name != "exponential_S_G") {
        assert_eq!(named(name).unwrap().name, name);
    }
    assert_eq!(named("exponential_2_0.5").unwrap().name, "exponential_S_G");
}

fn schedule(more: Value, epochs: usize, steps: usize) -> Schedule {
    let mut opt = json!({"name": "sgd", "lr": 0.5});
    let map = opt.as_object_mut().unwrap();
    map.extend(more.as_object().unwrap().clone());
    Schedule::new(map, epochs, steps).unwrap()
}

/// All learning rates of a run, epoch by epoch.
fn rates(more: Value, epochs: usize, steps: usize) -> Vec<Vec<f64>> {
    let mut schedule = schedule(more, epochs, steps);
    let epoch = |_| schedule.next_epoch().iter().map(|rate| rate.lr).collect();
    (0..epochs).map(epoch).collect()
}

#[test]
fn ticks_are_epochs_or_steps() {
    let wsd =
        |stepwise| json!({"lr_schedule": "wsd", "stepwise_schedule": stepwise, "cooldown": 0.5});
    assert_eq!(
        rates(wsd(false), 4, 2),
        [[0.5; 2], [0.5; 2], [0.5; 2], [0.25; 2]]
    );
    let steps = [[0.5, 0.5], [0.5, 0.5], [0.5, 0.375], [0.25, 0.125]];
    assert_eq!(rates(wsd(true), 4, 2), steps);
    let warm = json!({"warmup_steps": 3, "stepwise_schedule": true});
    let warm = rates(warm, 2, 2);
    assert!(warm[0][0] < 1e-9 && (warm[0][1] - 0.5 / 3.0).abs() < 1e-9);
    assert!((warm[1][0] - 1.0 / 3.0).abs() < 1e-9 && warm[1][1] == 0.5);
}

#[test]
fn as_given_is_what_nothing_was_computed_of() {
    let given = |more: Value| -> Vec<bool> {
        let mut schedule = schedule(more, 4, 1);
        (0..4).map(|_| schedule.next_epoch()[0].as_given).collect()
    };
    assert_eq!(given(json!({})), [true; 4]);
    assert_eq!(
        given(json!({"warmup_steps": 2})),
        [false, false, true, true]
    );
    let drops = "exponential_2_1.0";
    assert_eq!(
        given(json!({"lr_schedule": drops})),
        [true, true, false, false]
    );
    assert_eq!(
        given(json!({"lr_schedule": drops, "warmup_steps": 1})),
        [false; 4]
    );
    assert_eq!(given(json!({"lr_schedule": "linear"})), [false; 4]);
}

#[test]
fn runs_that_are_too_short_are_refused() {
    let refused = |more: Value| schedule(more, 5, 10).check().err().map(|e| e.message);
    let fits = [
        json!({"warmup_steps": 5}),
        json!({"warmup_steps": 50, "stepwise_schedule": true}),
        json!({"lr_schedule": "wsd", "warmup_steps": 3, "cooldown": 0.4}),
        json!({"lr_schedule": "wsd", "cooldown": 1.0}),
    ];
    for fits in fits {
        assert_eq!(refused(fits), None);
    }
    for (more, words) in [
        (json!({"warmup_steps": 6}), ["6 epochs", "has 5"]),
        (
            json!({"warmup_steps": 51, "stepwise_schedule": true}),
            ["51 steps", "has 50"],
        ),
        (
            json!({"lr_schedule": "wsd", "warmup_steps": 4, "cooldown": 0.4}),
            ["4 epochs and a cooldown of 2", "has 5"],
        ),
    ] {
        let message = refused(more).unwrap();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
}

#[test]
fn table_is_consistent() {
    assert_eq!(ROWS.len(), 13);
    for row in ROWS {
        let known: Vec<_> = row.entry.keys.iter().chain(COMMON_KEYS).collect();
        for (i, key) in known.iter().enumerate() {
            assert!(
                known[..i].iter().all(|k| k.name != key.name),
                "{}",
                key.name
            );
            let default = serde_json::from_str(key.default.unwrap()).unwrap();
            assert!(
                key.kind.accepts(&default),
                "{} of {}",
                key.name,
                row.entry.name
            );
        }
    }
    let error = Stepper::new(json!({"name": "sdg"}).as_object().unwrap(), 1, Target::CPU)
        .err()
        .unwrap();
    assert!(error.message.contains("\"sdg\"") && error.message.contains("sgd-m"));
}

#[test]
fn momentum_keys_accept_what_pytorch_accepts() {
    let accepts = |name, key, value: Value| {
        let keys = row(name).unwrap().entry.keys;
        keys.iter()
            .find(|k| k.name == key)
            .unwrap()
            .kind
            .accepts(&value)
    };
    for (value, heavy_ball, nesterov) in [
        (json!(0), true, true),
        (json!(0.0), true, true),
        (json!(0.9), true, false),
        (json!("momentum"), true, false),
        (json!("Momentum"), false, false),
        (json!([0]), false, false),
    ] {
        assert_eq!(
            accepts("sgd-m", "dampening", value.clone()),
            heavy_ball,
            "{value}"
        );
        assert_eq!(
            accepts("sgd-nesterov", "dampening", value.clone()),
            nesterov,
            "{value}"
        );
    }
    for (value, heavy_ball, nesterov) in [
        (json!(-0.1), false, false),
        (json!(0), true, false),
        (json!(1), true, true),
        (json!(2.5), true, true),
    ] {
        assert_eq!(accepts("sgd-m", "momentum", value.clone()), heavy_ball);
        assert_eq!(accepts("sgd-nesterov", "momentum", value), nesterov);
    }
}
