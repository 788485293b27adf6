use std::collections::HashSet;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value, json};
use stepback_native::config::{self, RunConfig};
use stepback_native::error::Kind;

use super::{dict, runs, vocabulary};

/// A config with choices in several places, its keys in any order.
#[derive(Clone, Debug)]
struct Choices {
    opts: Vec<Opt>,
    batch_sizes: usize,
    epochs: usize,
    seeds: usize,
    order: Vec<&'static str>,
}

/// How many choices an object of `opt` has, and which of its keys stands first.
#[derive(Clone, Copy, Debug)]
struct Opt {
    rates: usize,
    decays: usize,
    decay_first: bool,
}

fn any_choices() -> impl Strategy<Value = Choices> {
    let keys = "opt batch_size max_epoch n_runs dataset model loss_func score_func";
    let keys: Vec<&str> = keys.split(' ').collect();
    let opt = (1..4usize, 1..4usize, any::<bool>());
    let opt = opt.prop_map(|(rates, decays, decay_first)| Opt {
        rates,
        decays,
        decay_first,
    });
    let opts = prop::collection::vec(opt, 1..4);
    let parts = (
        opts,
        1..4usize,
        1..4usize,
        1..4usize,
        Just(keys).prop_shuffle(),
    );
    parts.prop_map(|(opts, batch_sizes, epochs, seeds, order)| Choices {
        opts,
        batch_sizes,
        epochs,
        seeds,
        order,
    })
}

/// Different in every object, so that no two runs are the same.
fn rate(object: usize, i: usize) -> Value {
    json!((object * 10 + i) as f64 / 16.0)
}

/// One choice is written bare, several as a list.
fn list(values: impl Iterator<Item = Value>) -> Value {
    let mut values: Vec<Value> = values.collect();
    match values.len() {
        1 => values.remove(0),
        _ => Value::Array(values),
    }
}

impl Choices {
    fn text(&self) -> String {
        let opts = self.opts.iter().enumerate().map(|(object, opt)| {
            let lr = list((0..opt.rates).map(|i| rate(object, i)));
            let decay = list((0..opt.decays).map(Value::from));
            match opt.decay_first {
                true => json!({"weight_decay": decay, "name": "sgd", "lr": lr}),
                false => json!({"lr": lr, "weight_decay": decay, "name": "sgd"}),
            }
        });
        let opts: Vec<Value> = opts.collect();
        let value = |key: &str| match key {
            "opt" => json!(opts),
            "batch_size" => list((1..=self.batch_sizes).map(Value::from)),
            "max_epoch" => list((1..=self.epochs).map(Value::from)),
            "n_runs" => json!(self.seeds),
            "dataset" => json!("cifar10"),
            "model" => json!("linear"),
            _ => json!("squared"),
        };
        let entries = self.order.iter().map(|key| (key.to_string(), value(key)));
        Value::Object(entries.collect()).to_string()
    }

    fn opts_in_all(&self) -> usize {
        self.opts.iter().map(|opt| opt.rates * opt.decays).sum()
    }

    /// The run at `index`, by dividing instead of enumerating: learning rate, weight decay, batch size,
    /// epochs, seed.
    fn at(&self, mut index: usize) -> (Value, Value, usize, usize, u64) {
        let mut digit = |size: usize| {
            let digit = index % size;
            index /= size;
            digit
        };
        let seed = digit(self.seeds) as u64;
        let (mut batch_size, mut epochs, mut rest) = (0, 0, 0);
        for key in self.order.iter().rev() {
            match *key {
                "batch_size" => batch_size = digit(self.batch_sizes) + 1,
                "max_epoch" => epochs = digit(self.epochs) + 1,
                "opt" => rest = digit(self.opts_in_all()),
                _ => {}
            }
        }
        let mut object = 0;
        while rest >= self.opts[object].rates * self.opts[object].decays {
            rest -= self.opts[object].rates * self.opts[object].decays;
            object += 1;
        }
        let opt = self.opts[object];
        let (i, decay) = match opt.decay_first {
            true => (rest % opt.rates, rest / opt.rates),
            false => (rest / opt.decays, rest % opt.decays),
        };
        (rate(object, i), json!(decay), batch_size, epochs, seed)
    }
}

proptest! {
    #[test]
    fn expansion_counts_like_an_odometer(choices in any_choices()) {
        let runs = runs(&choices.text());
        let count = choices.opts_in_all() * choices.batch_sizes * choices.epochs * choices.seeds;
        prop_assert_eq!(runs.len(), count);
        let unique: HashSet<String> = runs.iter().map(RunConfig::identity).collect();
        prop_assert_eq!(unique.len(), count);
        for (index, run) in runs.iter().enumerate() {
            let (lr, decay) = (run.opt["lr"].clone(), run.opt["weight_decay"].clone());
            let found = (lr, decay, run.batch_size, run.max_epoch, run.run_id);
            prop_assert_eq!(found, choices.at(index), "run {}", index);
        }
    }

    #[test]
    fn runs_survive_being_stored(choices in any_choices(), index in any::<Index>()) {
        let runs = runs(&choices.text());
        let run = index.get(&runs);
        let text = Value::Object(run.to_json()).to_string();
        let read: Map<String, Value> = serde_json::from_str(&text).unwrap();
        let read = RunConfig::from_json(&read).unwrap();
        prop_assert_eq!(&read, run);
        prop_assert_eq!(runs.iter().filter(|other| other.same_run(&read)).count(), 1);
    }

    #[test]
    fn a_list_of_all_runs_gives_the_same_runs(choices in any_choices()) {
        let expanded = runs(&choices.text());
        let list: Vec<Value> = expanded.iter().map(|run| Value::Object(run.to_json())).collect();
        prop_assert_eq!(runs(&Value::Array(list).to_string()), expanded);
    }

    /// Damaged files are read or refused, but never panic.
    #[test]
    fn damage_is_survived(
        choices in any_choices(),
        damage in prop::collection::vec(
            (any::<Index>(), prop::option::of(select(&b"[]{},:\"-0e.9nN\xff\\ a"[..]))), 1..6),
    ) {
        let mut bytes = choices.text().into_bytes();
        for (index, byte) in damage {
            let at = index.index(bytes.len());
            match byte {
                Some(byte) => bytes[at] = byte,
                None => drop(bytes.remove(at)),
            }
        }
        if let Err(error) = config::parse("e", "e.json", &bytes, &vocabulary(), 1000) {
            prop_assert_eq!(error.kind, Kind::Usage);
            prop_assert!(error.message.lines().all(|line| line.starts_with("e.json:")));
        }
    }

    #[test]
    fn only_plain_file_names_become_ids(id in "[a./\\\\\\n-]{0,6}") {
        let plain = !id.is_empty()
            && !id.starts_with(['.', '-'])
            && !id.contains(['/', '\\', '\n'])
            && !id.contains("..");
        let parsed = config::parse(&id, "e.json", dict(&[]).as_bytes(), &vocabulary(), 10);
        prop_assert_eq!(parsed.is_ok(), plain);
    }
}
