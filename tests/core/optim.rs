//! Schedules' names and the table of optimizers. Their numbers are in the suites of `verify`, see verify.rs.

use serde_json::{Value, json};
use stepback_native::device::Target;
use stepback_native::optim::schedule::{ENTRIES, Schedule};
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
        assert_eq!(Schedule::parse(text), None, "{text:?}");
    }
    assert_eq!(ENTRIES.len(), 4);
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
