//! What a GPU would be asked for is on record: it does not grow unseen, and what became less is written down.

use serde_json::{Value, json};
use stepback_native::bench::{Gpu, Planned, plans};

/// Compares an experiment with its line of `records/launches.json`.
#[test]
fn launches_and_bytes_are_those_on_record() {
    let text = include_str!("../../records/launches.json");
    let record: Value = serde_json::from_str(text).unwrap();
    let recorded = record["experiments"].as_array().unwrap();
    let planned = plans(None, "", &Gpu::documented()).unwrap();
    let planned: Vec<_> = planned.iter().map(Planned::to_json).collect();
    assert_eq!(planned.len(), recorded.len());
    let mut now = Vec::new();
    for (planned, recorded) in planned.iter().zip(recorded) {
        let keys = recorded.as_object().unwrap().keys();
        let line = keys.map(|key| (key.clone(), planned[key].clone()));
        now.push(Value::from_iter(line));
    }
    let lines: Vec<String> = now.iter().map(Value::to_string).collect();
    assert!(
        json!(now) == json!(recorded),
        "records/launches.json says otherwise. If this is meant, its lines become\n{}",
        lines.join(",\n")
    );
}
