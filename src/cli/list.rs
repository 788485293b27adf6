//! `list`: what configs can name.

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::completions::Names;
use super::print;
use crate::config::{self, Entry, Key, RunConfig};
use crate::data::{self, Library, fetch};
use crate::error::{Error, Result};
use crate::nn::loss::{LOSSES, SCORES};
use crate::optim::schedule;
use crate::train::parameters;
use crate::{models, optim};

/// Print what configs can name: optimizers, models, data sets, schedules, losses
#[derive(Args)]
pub struct List {
    what: What,
    /// This one alone; of a model its parameters, too, with the data set and the keys of an experiment
    #[arg(value_parser = Names(names), hide_possible_values = true)]
    name: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Everything that has a name.
fn names() -> Vec<PossibleValue> {
    let optimizers = optim::rows().map(|row| row.entry.name);
    let models = models::ROWS.iter().map(|row| row.entry.name);
    let datasets = data::ROWS.iter().map(|row| row.entry.name);
    let schedules = schedule::ENTRIES.iter().map(|entry| entry.name);
    let losses = LOSSES.iter().chain(SCORES).map(|row| row.name);
    let all = optimizers.chain(models).chain(datasets);
    let mut names: Vec<&str> = all.chain(schedules).chain(losses).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(PossibleValue::new).collect()
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    Optimizers,
    Models,
    Datasets,
    Schedules,
    Losses,
}

/// A named thing with its keys.
struct Item {
    name: String,
    about: String,
    paper: &'static str,
    keys: Vec<Key>,
}

impl Item {
    fn new(name: &str, about: &str) -> Item {
        Item {
            name: name.into(),
            about: about.into(),
            paper: "",
            keys: Vec::new(),
        }
    }

    fn of(entry: &Entry, common: &[Key]) -> Item {
        Item {
            name: entry.name.into(),
            about: entry.about.into(),
            paper: entry.paper,
            keys: [common, entry.keys].concat(),
        }
    }

    fn json(&self) -> Value {
        let keys = self.keys.iter().map(|key| {
            let default = key.default.and_then(|text| serde_json::from_str(text).ok());
            json!({
                "name": key.name,
                "type": key.kind.describe(),
                "required": key.default.is_none(),
                "default": default.unwrap_or(Value::Null),
                "about": key.about,
            })
        });
        json!({
            "name": self.name,
            "about": self.about,
            "paper": self.paper,
            "keys": keys.collect::<Vec<_>>(),
        })
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n    {}\n", self.name, self.about);
        if !self.paper.is_empty() {
            text += &format!("    {}\n", self.paper);
        }
        for key in &self.keys {
            let default = match key.default {
                None => "required".into(),
                Some(default) => format!("default {default}"),
            };
            text += &format!(
                "      {:<17} {} ({}; {default})\n",
                key.name,
                key.about,
                key.kind.describe()
            );
        }
        text
    }
}

impl List {
    pub fn run(self) -> Result<u8> {
        let mut items: Vec<Item> = match self.what {
            What::Optimizers => {
                let rows = optim::rows();
                rows.map(|row| Item::of(&row.entry, optim::COMMON_KEYS))
                    .collect()
            }
            What::Models => models::ROWS
                .iter()
                .map(|row| Item::of(&row.entry, &[]))
                .collect(),
            What::Datasets => data::ROWS
                .iter()
                .map(|row| Item::of(&row.entry, &[]))
                .collect(),
            What::Schedules => schedule::ENTRIES
                .iter()
                .map(|entry| Item::of(entry, &[]))
                .collect(),
            What::Losses => {
                let losses = LOSSES.iter().map(|row| Item::new(row.name, row.about));
                let scores = SCORES
                    .iter()
                    .map(|row| Item::new(row.name, &format!("{} (score_func only)", row.about)));
                losses.chain(scores).collect()
            }
        };
        if let Some(name) = &self.name {
            let known: Vec<&str> = items.iter().map(|item| &*item.name).collect();
            if !known.contains(&&**name) {
                let hint = config::suggestion(name, &known);
                return Err(Error::usage(format!("unknown name {name:?} {hint}")));
            }
            if let What::Models = self.what {
                return self.parameters(name);
            }
            items.retain(|item| item.name == *name);
        }
        if self.json {
            let items: Vec<Value> = items.iter().map(Item::json).collect();
            return print::json(&items.into()).map(|()| 0);
        }
        let texts: Vec<String> = items.iter().map(Item::text).collect();
        print::print(&texts.join("\n")).map(|()| 0)
    }

    /// What a model's parameters are: what groups of a config can match.
    fn parameters(&self, model: &str) -> Result<u8> {
        let row = models::row(model).expect("a known model");
        let mut run =
            json!({"model": model, "loss_func": "", "score_func": "", "opt": {}, "max_epoch": 1});
        let example: Map<String, Value> = serde_json::from_str(row.example).expect("JSON");
        run.as_object_mut().expect("an object").extend(example);
        let run = run
            .as_object()
            .and_then(RunConfig::from_json)
            .expect("a run");
        let library = Library::new("", true, fetch::Options::new(Vec::new(), true));
        let data = match data::blank(&run)? {
            Some(data) => data,
            None => library.load(&run)?,
        };
        let params = parameters(&run, &data)?;
        let numbers = params.values.len();
        let keys = [
            ("dataset_kwargs", &run.dataset_kwargs),
            ("model_kwargs", &run.model_kwargs),
        ];
        if self.json {
            let tensors = params.tensors.iter().map(|tensor| {
                json!({
                    "name": tensor.name, "shape": tensor.shape, "numbers": tensor.range.len, "role": tensor.role.name(),
                })
            });
            let about = json!({
                "name": model, "dataset": run.dataset, "dataset_kwargs": run.dataset_kwargs,
                "model_kwargs": run.model_kwargs, "numbers": numbers, "parameters": tensors.collect::<Vec<_>>(),
            });
            return print::println(about).map(|()| 0);
        }
        let keys = keys.iter().filter(|(_, map)| !map.is_empty());
        let keys: String = keys
            .map(|(key, map)| format!(", {key} {}", json!(map)))
            .collect();
        let mut table = print::table(&["parameter", "shape", "numbers", "role"]);
        for tensor in &params.tensors {
            let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
            let (name, numbers) = (tensor.name.clone(), tensor.range.len.to_string());
            table.add_row([
                name,
                shape.join("x"),
                numbers,
                tensor.role.name().to_owned(),
            ]);
        }
        print::println(format_args!(
            "{model} on {}{keys}: {numbers} numbers\n{table}",
            run.dataset
        ))?;
        Ok(0)
    }
}
