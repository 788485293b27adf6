//! Any bytes as a config: read or refused, never a panic, and what is read survives being stored.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stepback_native::config::{self, Entry, Key, Kind, RunConfig, Vocabulary};

const fn key(name: &'static str, kind: Kind, default: Option<&'static str>) -> Key {
    Key {
        name,
        kind,
        default,
        about: "",
    }
}

const fn entry(name: &'static str, keys: &'static [Key]) -> Entry {
    Entry {
        name,
        about: "",
        paper: "",
        keys,
    }
}

// Short names, so that the fuzzer finds them; every way to check a key is there once.
const DATA: Entry = entry("d", &[key("p", Kind::Count, None)]);
const BARE_DATA: Entry = entry("e", &[]);
const MODEL: Entry = entry(
    "m",
    &[
        key("sizes", Kind::Counts, Some("[]")),
        key("dim", Kind::CountPair, Some("[1, 1]")),
        key("pool", Kind::Choice(&["cls", "mean"]), Some("\"cls\"")),
    ],
);
const SGD: Entry = entry("sgd", &[key("damp", Kind::Real, Some("0"))]);
const ADAM: Entry = entry("adam", &[key("betas", Kind::FractionPair, Some("[0, 0]"))]);
const COMMON: &[Key] = &[
    key("lr", Kind::NonNegative, Some("1e-3")),
    key("flag", Kind::Flag, Some("true")),
];

const GROUP: &[Key] = &[
    key("match", Kind::Checked("a text", |value| value.is_string()), None),
    key("lr_factor", Kind::Real, Some("1")),
];

fn vocabulary() -> Vocabulary {
    Vocabulary {
        datasets: vec![DATA, BARE_DATA],
        models: vec![MODEL],
        optimizers: vec![SGD, ADAM],
        find_optimizer: |_, _| Ok(vocabulary().optimizers),
        optimizer_keys: COMMON,
        group_keys: GROUP,
        group_match: |text| match text {
            "(" => Err("an open group".into()),
            _ => Ok(()),
        },
        schedules: &[],
        schedule: |_| None,
        losses: vec!["l"],
        scores: vec!["l", "s"],
    }
}

fuzz_target!(|bytes: &[u8]| {
    match config::parse("id", "f", bytes, &vocabulary(), 1000) {
        Ok(experiment) => {
            assert!((1..=1000).contains(&experiment.runs.len()));
            for run in &experiment.runs {
                let stored = RunConfig::from_json(&run.to_json());
                assert!(stored.is_some_and(|stored| stored == *run && stored.same_run(run)));
            }
        }
        Err(error) => {
            assert_eq!(error.kind.exit_code(), 2);
            assert!(error.message.lines().all(|line| line.starts_with("f:")));
            assert!(error.message.len() < 100_000);
        }
    }
});
