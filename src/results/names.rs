//! Names as a person writes them, for figures and tables: `assets/names.toml` has them all.

use std::sync::LazyLock;

use toml::Spanned;
use toml::de::DeTable;

use super::record::Record;

static NAMES: LazyLock<Spanned<DeTable<'static>>> = LazyLock::new(|| {
    let text = include_str!("../../assets/names.toml");
    DeTable::parse(text).expect("the embedded names are TOML")
});

/// Every name of a kind (`methods`, `datasets`, `models`, `metrics` or `keys`) and what is written for it.
pub fn all(kind: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let table = NAMES.get_ref().get(kind).map(Spanned::get_ref);
    let table = table
        .and_then(|table| table.as_table())
        .expect("the file has tables alone");
    table.iter().map(|(name, shown)| {
        let shown = shown.get_ref().as_str().expect("tables of texts");
        (name.get_ref().as_ref(), shown)
    })
}

fn find(kind: &str, name: &str) -> Option<&'static str> {
    all(kind).find(|pair| pair.0 == name).map(|pair| pair.1)
}

/// A method: `MoMo-Adam` for `momo-adam`.
pub fn method(name: &str) -> &str {
    find("methods", name).unwrap_or(name)
}

/// A key of a config: `weight decay`.
pub fn key(name: &str) -> &str {
    find("keys", name).unwrap_or(name)
}

/// A key as the title of an axis: `Weight decay`.
pub fn axis(name: &str) -> String {
    // What it is as a metric, `Learning rate`, says it in full.
    let shown = find("metrics", name).unwrap_or(key(name));
    let mut letters = shown.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(letters.clone()).collect()
}

/// A metric: `Validation accuracy` where the score is one.
pub fn metric(name: &str, accuracy: bool) -> String {
    let shown = find("metrics", name).unwrap_or(name);
    match shown.strip_suffix("score") {
        Some(half) if accuracy => format!("{half}accuracy"),
        _ => shown.to_owned(),
    }
}

/// An experiment: `CIFAR-10, ViT`, from the config or, for a record without one, from an id such as `cifar10_vit`.
/// The problem, too, where the experiment has several.
pub fn experiment(record: &Record) -> String {
    let runs = record.settings.iter().flat_map(|setting| &setting.runs);
    let config = runs.map(|run| &run.config).next();
    let named = match config {
        Some(config) => {
            let text = |key: &str| config.get(key).and_then(serde_json::Value::as_str);
            text("dataset").zip(text("model"))
        }
        None => parts(&record.name),
    };
    match named.and_then(|(data, model)| both(data, model)) {
        Some(shown) if record.problem.is_empty() => shown,
        Some(shown) => format!("{shown} ({})", record.problem),
        None => record.title(),
    }
}

/// A method, or an experiment by its id: what tables are about.
pub fn printed(name: &str) -> String {
    match parts(name) {
        Some((data, model)) => both(data, model).expect("both have names"),
        None => method(name).to_owned(),
    }
}

/// Data set and model of an id like `cifar10_vit`.
fn parts(id: &str) -> Option<(&str, &str)> {
    let cuts = id.match_indices('_').map(|(at, _)| at);
    let mut parts = cuts.map(|at| (&id[..at], &id[at + 1..]));
    parts.find(|(data, model)| both(data, model).is_some())
}

fn both(dataset: &str, model: &str) -> Option<String> {
    let (dataset, model) = (find("datasets", dataset)?, find("models", model)?);
    Some(format!("{dataset}, {model}"))
}
