//! Which of a model's parameters fall into which group of a config.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::print::count;
use crate::config::{self, RunConfig};
use crate::data::{self, Library};
use crate::error::{Error, Result};
use crate::graph::Tensor;
use crate::optim::Optimizer;
use crate::train::parameters;

/// Names that are shown of a group.
const SHOWN: usize = 3;

/// A choice of groups with what it makes of a model.
pub struct Choice {
    run: RunConfig,
    groups: Vec<Vec<Tensor>>,
}

/// All choices of groups of these runs, each with each model once. Models whose data must be read before they can be
/// built are left out.
///
/// # Errors
/// All that is wrong with groups.
pub fn choices(
    runs: &[RunConfig],
    library: &Library,
) -> std::result::Result<Vec<Choice>, Vec<Error>> {
    let mut models: HashMap<String, Option<Vec<Tensor>>> = HashMap::new();
    let (mut tried, mut choices) = (HashMap::new(), Vec::new());
    let mut problems: Vec<Error> = Vec::new();
    for run in runs.iter().filter(|run| !run.groups.is_empty()) {
        let model = [
            json!(run.dataset),
            json!(run.dataset_kwargs),
            json!(run.model),
        ];
        let model = format!("{model:?} {:?}", run.model_kwargs);
        if !models.contains_key(&model) {
            // What does not fit is told elsewhere.
            let tensors = tensors(run, library).unwrap_or_default();
            models.insert(model.clone(), tensors);
        }
        let Some(tensors) = &models[&model] else {
            continue;
        };
        let (groups, mut opt) = (config::canonical(&json!(run.groups)), run.opt.clone());
        opt.remove("lr");
        let choice = format!("{model} {groups}");
        let opts: &mut Vec<String> = tried.entry(choice).or_default();
        let opt = config::canonical(&Value::Object(opt));
        if opts.contains(&opt) {
            continue;
        }
        let first = opts.is_empty();
        opts.push(opt);
        let members =
            Optimizer::new(&run.opt, &run.groups).and_then(|optimizer| optimizer.members(tensors));
        match members {
            Ok(members) if first => choices.push(Choice {
                run: run.clone(),
                groups: members
                    .iter()
                    .map(|group| group.iter().map(|i| tensors[*i].clone()).collect())
                    .collect(),
            }),
            Ok(_) => {}
            Err(error) if problems.iter().all(|p| p.message != error.message) => {
                problems.push(error);
            }
            Err(_) => {}
        }
    }
    match problems.is_empty() {
        true => Ok(choices),
        false => Err(problems),
    }
}

/// The parameters of a run's model, if they do not depend on what files hold.
fn tensors(run: &RunConfig, library: &Library) -> Result<Option<Vec<Tensor>>> {
    let data = match (data::blank(run)?, &data::row(&run.dataset)?.origin) {
        (Some(data), _) => data,
        (None, data::Origin::Computed(_)) => library.load(run)?,
        (None, data::Origin::Files(_)) => return Ok(None),
    };
    Ok(Some(parameters(run, &data)?.tensors))
}

impl Choice {
    /// Groups with what they say, the rest last.
    fn groups(&self) -> impl Iterator<Item = (Option<Value>, &Vec<Tensor>)> {
        let said = self.run.groups.iter().map(|group| Some(json!(group)));
        said.chain([None]).zip(&self.groups)
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
