//! `optimizer`: methods that are files, from the first draft to a path on two hard functions.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::print::{count, print, println};
use super::try_optimizer::Try;
use crate::config::suggestion;
use crate::error::{Error, Result};
use crate::optim::formula::plan::Plan;
use crate::optim::formula::syntax::{Default, Definition, Kind, Statement};
use crate::optim::formula::{self, FileMethod, StateBytes};
use crate::results::json::repr;

/// Optimizers as files: check them, print those that the program carries, try them
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Say what is wrong in files of optimizers, all of it, or what a step of theirs costs
    Check(Check),
    /// Print the file of an optimizer that the program carries, as a start for one's own
    Show(Show),
    /// Take steps on two small functions, and draw the path
    Try(Try),
}

#[derive(clap::Args, Debug)]
struct Check {
    /// Files of optimizers (see docs/optimizers.md)
    #[arg(required = true, value_name = "FILE.toml")]
    files: Vec<PathBuf>,
    /// One JSON array with an object per file
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
struct Show {
    name: String,
}

impl Args {
    pub fn run(self) -> Result<u8> {
        match self.command {
            Command::Check(command) => command.run(),
            Command::Show(command) => command.run(),
            Command::Try(command) => command.run(),
        }
    }
}

impl Show {
    fn run(&self) -> Result<u8> {
        let text = formula::texts().find(|(name, _)| *name == self.name);
        let (_, text) = text.ok_or_else(|| {
            let known: Vec<&str> = formula::texts().map(|(name, _)| name).collect();
            let hint = suggestion(&self.name, &known);
            Error::usage(format!("no file of optimizer {:?} {hint}", self.name))
        })?;
        print(text).map(|()| 0)
    }
}

impl Check {
    fn run(&self) -> Result<u8> {
        let (mut entries, mut problems) = (Vec::new(), Vec::new());
        for path in &self.files {
            let file = path.display().to_string();
            let loaded = formula::load(path);
            match loaded.and_then(|definition| Ok((plan(&definition)?, definition))) {
                Ok((plan, definition)) => {
                    if !self.json {
                        println(format_args!("{file}: OK, {}", text(&definition, &plan)))?;
                    }
                    entries.push(object(&file, &definition, &plan));
                }
                Err(error) => {
                    let errors: Vec<&str> = error.message.lines().collect();
                    entries.push(json!({"file": file, "errors": errors}));
                    problems.push(error.message);
                }
            }
        }
        if self.json {
            println(format_args!("{:#}", Value::Array(entries)))?;
        }
        match problems.is_empty() {
            true => Ok(0),
            false => Err(Error::usage(problems.join("\n"))),
        }
    }
}

/// What the method does where nobody sets a key.
fn plan(definition: &Definition) -> Result<Plan> {
    let decay = definition
        .keys
        .iter()
        .find(|key| key.name == "weight_decay");
    let decay = decay.and_then(|key| match key.default {
        Default::Number(decay) => Some(decay),
        _ => None,
    });
    let method = FileMethod::of(definition, |_| None, decay.unwrap_or(0.0));
    method.check()?;
    Ok(method.plan().clone())
}

/// Names and kinds of what the method keeps.
fn state(definition: &Definition) -> Vec<(&str, Kind)> {
    let kinds = [
        (Kind::Vector, &definition.vectors),
        (Kind::Tensor, &definition.tensors),
        (Kind::Scalar, &definition.scalars),
    ];
    let names = kinds.into_iter().flat_map(|(kind, states)| {
        let names = states.iter();
        names.map(move |state| (state.name.as_str(), kind))
    });
    names.collect()
}

/// The same of what a step computes besides, with the last kind of a name.
fn values(definition: &Definition) -> Vec<(&str, Kind)> {
    let kept = state(definition);
    let mut values: Vec<(&str, Kind)> = Vec::new();
    for Statement { name, kind, .. } in &definition.step {
        match values.iter_mut().find(|(known, _)| known == name) {
            Some((_, last)) => *last = *kind,
            None if name == "w" || kept.iter().any(|(known, _)| known == name) => {}
            None => values.push((name, *kind)),
        }
    }
    values
}

fn text(definition: &Definition, plan: &Plan) -> String {
    let mut text = definition.name.clone();
    let mut row = |title: &str, what: String| {
        if !what.is_empty() {
            text += &format!("\n  {title:<8}{what}");
        }
    };
    let keys = definition.keys.iter().map(|key| match &key.default {
        Default::Number(x) => format!("{} {}", key.name, repr(*x)),
        Default::Flag(flag) => format!("{} {flag}", key.name),
        Default::List(list) => {
            let list: Vec<String> = list.iter().map(|x| repr(*x)).collect();
            format!("{} [{}]", key.name, list.join(", "))
        }
        Default::Formula(formula) => format!("{} {formula}", key.name),
    });
    row("keys", keys.collect::<Vec<_>>().join(", "));
    let by_kind = |names: Vec<(&str, Kind)>| {
        let kinds = [Kind::Vector, Kind::Tensor, Kind::Scalar].into_iter();
        let lists = kinds.filter_map(|kind| {
            let of = names.iter().filter(|(_, its)| *its == kind);
            let of: Vec<&str> = of.map(|(name, _)| *name).collect();
            (!of.is_empty()).then(|| format!("{kind} {}", of.join(", ")))
        });
        lists.collect::<Vec<_>>().join("; ")
    };
    row("state", by_kind(state(definition)));
    row("values", by_kind(values(definition)));
    row("reports", definition.reports.join(", "));
    let passes = plan.passes().map(|pass| {
        let (reads, writes) = (pass.reads(), pass.writes());
        let sums = match pass.sums.len() {
            0 => String::new(),
            n => format!(", {}", count(n, "sum")),
        };
        format!("{} read, {writes} written{sums}", count(reads, "vector"))
    });
    for (nth, pass) in passes.enumerate() {
        row(&format!("pass {}", nth + 1), pass);
    }
    let StateBytes {
        per_parameter,
        per_tensor,
        others,
    } = plan.state_bytes();
    let mut cost = format!("{} bytes per parameter and step", plan.bytes());
    let more = [
        (plan.gradients(), "further gradient"),
        (plan.orthogonalizations(), "orthogonalization"),
    ];
    for (n, what) in more.into_iter().filter(|(n, _)| *n > 0) {
        cost += &format!(", and {}", count(n, what));
    }
    row("moves", cost);
    let mut kept = format!("{per_parameter} bytes per parameter");
    for (bytes, of) in [(per_tensor, "per tensor"), (others, "once")] {
        if bytes > 0 {
            kept += &format!(", {bytes} {of}");
        }
    }
    row("keeps", kept);
    text
}

fn object(file: &str, definition: &Definition, plan: &Plan) -> Value {
    let by_name = |names: Vec<(&str, Kind)>| -> BTreeMap<String, String> {
        let names = names.into_iter();
        let names = names.map(|(name, kind)| (name.to_owned(), kind.to_string()));
        names.collect()
    };
    let passes = plan.passes().map(|pass| {
        json!({
            "vectors_read": pass.reads(), "vectors_written": pass.writes(), "sums": pass.sums.len(),
            "bytes_per_parameter": pass.bytes(),
        })
    });
    let state = plan.state_bytes();
    json!({
        "file": file,
        "errors": [],
        "name": definition.name,
        "keys": definition.keys.iter().map(|key| &key.name).collect::<Vec<_>>(),
        "state": by_name(self::state(definition)),
        "values": by_name(values(definition)),
        "reports": definition.reports,
        "passes": passes.collect::<Vec<_>>(),
        "further_gradients": plan.gradients(),
        "orthogonalizations": plan.orthogonalizations(),
        "bytes_per_parameter_and_step": plan.bytes(),
        "state_bytes_per_parameter": state.per_parameter,
        "state_bytes_per_tensor": state.per_tensor,
        "state_bytes": state.others,
    })
}
