//! `list`: what configs can name.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::print;
use crate::config::{Entry, Key};
use crate::error::Result;
use crate::nn::loss::{LOSSES, SCORES};
use crate::optim::schedule;
use crate::{data, models, optim};

#[derive(Args)]
pub struct List {
    what: What,
    /// As JSON
    #[arg(long)]
    json: bool,
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
        let items: Vec<Item> = match self.what {
            What::Optimizers => {
                let rows = optim::ROWS.iter();
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
        if self.json {
            let items: Vec<Value> = items.iter().map(Item::json).collect();
            return print::println(Value::Array(items)).map(|()| 0);
        }
        let texts: Vec<String> = items.iter().map(Item::text).collect();
        print::print(&texts.join("\n")).map(|()| 0)
    }
}
