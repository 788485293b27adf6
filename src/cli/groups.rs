//! Which of a model's parameters fall into which group of a config.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::print::count;
use crate::config::{self, RunConfig};
use crate::data::{self, Library};
use crate::error::{Error, Result};
use crate::graph::Tensor;
use crate::optim::{self, Optimizer};
use crate::train::parameters;

/// Names that are shown of a group.
const SHOWN: usize = 3;

/// A choice of groups with what it makes of a model.
pub struct Choice {
    run: RunConfig,
    groups: Vec<Vec<Tensor>>,
}

/// All choices of groups of these runs, of the config or of a method for matrices, each with each model once. Models whose data must be read before they can be
/// built are left out.
///
/// # Errors
/// All that is wrong with groups.
pub fn choices(
    runs: &[RunConfig],
    library: &Library,
) -> std::result::Result<Vec<Choice>, Vec<Error>> {
    let mut models: HashMap<String, Option<Vec<Tensor>>> = HashMap::new();
    let mut tried: HashMap<String, HashSet<String>> = HashMap::new();
    let (mut choices, mut problems) = (Vec::new(), Vec::<Error>::new());
    for run in runs
        .iter()
        .filter(|run| !run.groups.is_empty() || left_to(run).is_some())
    {
        let model = json!([run.dataset, run.dataset_kwargs, run.model, run.model_kwargs]);
        let model = config::canonical(&model);
        let choice = model.clone() + &config::canonical(&json!(run.groups));
        let mut opt = run.opt.clone();
        opt.remove("lr");
        let opts = tried.entry(choice).or_default();
        let first = opts.is_empty();
        if !opts.insert(config::canonical(&Value::Object(opt))) {
            continue;
        }
        // What does not fit the data is told elsewhere.
        let tensors = models
            .entry(model)
            .or_insert_with(|| tensors(run, library).unwrap_or_default());
        match members(run, tensors.as_deref()) {
            Ok(Some(groups)) if first => choices.push(Choice {
                run: run.clone(),
                groups,
            }),
            Err(error) if problems.iter().all(|p| p.message != error.message) => {
                problems.push(error);
            }
            _ => {}
        }
    }
    match problems.is_empty() {
        true => Ok(choices),
        false => Err(problems),
    }
}

/// The method to which that of the run leaves what is no matrix.
fn left_to(run: &RunConfig) -> Option<&'static str> {
    let name = run.opt.get("name").and_then(Value::as_str);
    name.and_then(optim::row)?.rest
}

/// What a run's groups take of its model's parameters, if these are known.
fn members(run: &RunConfig, tensors: Option<&[Tensor]>) -> Result<Option<Vec<Vec<Tensor>>>> {
    let optimizer = Optimizer::new(&run.opt, &run.groups)?;
    let Some(tensors) = tensors else {
        return Ok(None);
    };
    let groups = optimizer.members(tensors)?.into_iter();
    let tensors = |group: Vec<usize>| group.iter().map(|i| tensors[*i].clone()).collect();
    Ok(Some(groups.map(tensors).collect()))
}

/// The parameters of a run's model, if they do not depend on what files hold.
fn tensors(run: &RunConfig, library: &Library) -> Result<Option<Vec<Tensor>>> {
    let data = match (data::blank(run)?, &data::row(&run.dataset)?.origin) {
        (Some(data), _) => data,
        (None, data::Origin::Computed(_)) => library.load(run)?,
        (None, data::Origin::Files(_) | data::Origin::Named(_)) => return Ok(None),
    };
    Ok(Some(parameters(run, &data)?.tensors))
}

impl Choice {
    /// Groups with what they say, the rest last. A method for matrices leaves a group to another method.
    fn groups(&self) -> impl Iterator<Item = (Option<Value>, &Vec<Tensor>)> {
        let said = self.run.groups.iter().map(|group| Some(json!(group)));
        let left = left_to(&self.run).map(|name| Some(json!({"name": name})));
        said.chain(left).chain([None]).zip(&self.groups)
    }

    pub fn json(&self) -> Value {
        let groups = self.groups().map(|(said, tensors)| {
            let names: Vec<&str> = tensors.iter().map(|tensor| &tensor.name[..]).collect();
            json!({"group": said, "numbers": numbers(tensors), "parameters": names})
        });
        json!({
            "dataset": self.run.dataset, "model": self.run.model, "model_kwargs": self.run.model_kwargs,
            "groups": groups.collect::<Vec<_>>(),
        })
    }

    /// Lines; of each group's names the first ones, or all.
    pub fn text(&self, all: bool) -> String {
        let mut text = format!("  {} on {}:", self.run.model, self.run.dataset);
        for (said, tensors) in self.groups() {
            let said = said.map_or("the rest".into(), |group| config::groups(&json!([group])));
            let shown = if all { tensors.len() } else { SHOWN };
            let names = tensors.iter().take(shown).map(|tensor| &tensor.name[..]);
            let mut names: Vec<&str> = names.collect();
            names.extend((tensors.len() > shown).then_some("..."));
            let (tensors, numbers) = (count(tensors.len(), "tensor"), numbers(tensors));
            let colon = if names.is_empty() { "" } else { ": " };
            text += &format!(
                "\n    {said}: {tensors} of {}{colon}{}",
                count(numbers, "number"),
                names.join(", ")
            );
        }
        text
    }
}

fn numbers(tensors: &[Tensor]) -> usize {
    tensors.iter().map(|tensor| tensor.range.len).sum()
}
