//! From a checked config to its runs, in the reference's order.

use serde_json::Value;

use super::RunConfig;
use super::text::item;

/// The choices that a value stands for, each with its path: its items if it is a list and `lists` are
/// choices here, else the value itself.
pub(super) fn choices(path: String, value: &Value, lists: bool) -> Vec<(String, &Value)> {
    match value {
        Value::Array(items) if lists => {
            let items = items.iter().enumerate();
            items.map(|(i, value)| (item(&path, i), value)).collect()
        }
        _ => vec![(path, value)],
    }
}

/// How many runs a config has, without making them. An empty list counts as one choice, so that its
/// mistakes do not hide a number that is too large.
pub(super) fn count(config: &Value) -> u128 {
    let Value::Object(map) = config else {
        return length(config);
    };
    let lengths = map.iter().map(|(name, value)| match name.as_str() {
        "n_runs" => value.as_u64().unwrap_or(1).max(1).into(),
        "opt" => {
            let objects = choices(String::new(), value, true).into_iter();
            let expanded = objects.map(|(_, opt)| match opt {
                Value::Object(opt) => size_of_product(opt.values().map(length)),
                _ => 1,
            });
            expanded.fold(0, u128::saturating_add).max(1)
        }
        _ => length(value),
    });
    size_of_product(lengths)
}

fn length(value: &Value) -> u128 {
    value.as_array().map_or(1, |list| list.len().max(1) as u128)
}

/// The size of a product of sets of these sizes.
fn size_of_product(sizes: impl Iterator<Item = u128>) -> u128 {
    sizes.fold(1, u128::saturating_mul)
}

/// The runs of a config that has been checked.
pub(super) fn runs(config: &Value) -> Vec<RunConfig> {
    let maps = match config {
        Value::Object(map) => {
            let seeds = (0..map["n_runs"].as_u64().unwrap_or(0)).map(Value::from);
            let chosen = map.iter().filter(|(name, _)| *name != "n_runs");
            let axes = chosen.map(|(name, value)| match name.as_str() {
                "opt" => (
                    name.as_str(),
                    opts(value).into_iter().map(|(_, opt)| opt).collect(),
                ),
                _ => (name.as_str(), values(value)),
            });
            product(axes.chain([("run_id", seeds.collect())]))
        }
        _ => values(config),
    };
    maps.iter()
        .map(|run| run.as_object().and_then(RunConfig::from_json))
        .collect::<Option<_>>()
        .expect("only checked configs are expanded")
}

/// Every choice of every object in `opt`, with the object's index.
pub(super) fn opts(value: &Value) -> Vec<(usize, Value)> {
    let objects = choices(String::new(), value, true).into_iter().enumerate();
    objects
        .flat_map(|(index, (_, opt))| {
            let keys = opt.as_object().into_iter().flatten();
            let axes = keys.map(|(name, value)| (name.as_str(), values(value)));
            product(axes).into_iter().map(move |opt| (index, opt))
        })
        .collect()
}

fn values(value: &Value) -> Vec<Value> {
    let choices = choices(String::new(), value, true).into_iter();
    choices.map(|(_, value)| value.clone()).collect()
}

/// All objects that take one value of every axis, the last axis fastest.
fn product<'k>(axes: impl Iterator<Item = (&'k str, Vec<Value>)>) -> Vec<Value> {
    let axes: Vec<(&str, Vec<Value>)> = axes.collect();
    let total: usize = axes.iter().map(|(_, values)| values.len()).product();
    let object = |index: usize| {
        // How many objects in a row share their value of an axis.
        let mut row = total;
        let entries = axes.iter().map(|(name, values)| {
            row /= values.len();
            let value = &values[index / row % values.len()];
            ((*name).to_owned(), value.clone())
        });
        Value::Object(entries.collect())
    };
    (0..total).map(object).collect()
}
