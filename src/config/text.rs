//! Words for messages: paths, values cut to size, and the names that a misspelt word may have meant.

use serde_json::Value;

/// The path of a key inside the object at `path`.
pub(super) fn child(path: &str, key: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    if key.is_empty() || !key.chars().all(plain) {
        format!("{path}[\"{}\"]", shown_text(key))
    } else if path.is_empty() {
        shown_text(key)
    } else {
        format!("{path}.{}", shown_text(key))
    }
}

/// The path of an item of the list at `path`.
pub(super) fn item(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// A value as one types it on a command line: strings without quotes, the rest as JSON.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text),
        other => other.to_string(),
    }
}

/// A run's groups in one line: `bias weight_decay 0; ndim 2+ lr 0.1, beta 0.8`. Ids of settings are cut at `:` and `=`.
pub fn groups(groups: &Value) -> String {
    let group = |group: &Value| {
        let matches = group["match"].as_str().unwrap_or_default();
        let matches = match matches.split_once("==").or(matches.split_once(">=")) {
            Some(("role", role)) => role.to_owned(),
            Some(("ndim", n)) if matches.contains('>') => format!("ndim {n}+"),
            Some(("ndim", n)) => format!("ndim {n}"),
            _ => matches.to_owned(),
        };
        let pairs = group.as_object().into_iter().flatten();
        let mut pairs: Vec<_> = pairs.filter(|(key, _)| *key != "match").collect();
        // Output files have another order than configs.
        pairs.sort_by_key(|(key, _)| (*key != "name", *key));
        let pairs = pairs.iter().map(|(k, v)| format!("{k} {}", plain(v)));
        let pairs: Vec<String> = pairs.collect();
        format!("{matches} {}", pairs.join(", ")).trim().to_owned()
    };
    let groups: Vec<String> = groups.as_array().into_iter().flatten().map(group).collect();
    printable(&groups.join("; ").replace(':', ";"))
}

/// A value for a message: JSON, cut where it gets long.
pub(super) fn shown(value: &Value) -> String {
    shown_text(&value.to_string())
}

/// Text from a file for a message, cut where it gets long.
pub(super) fn shown_text(text: &str) -> String {
    let cut: String = text.chars().take(60).collect();
    let end = if cut.len() < text.len() { "…" } else { "" };
    printable(&cut) + end
}

/// Control characters escaped, so that what a file holds cannot drive the terminal.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Line and column, from 1, of what follows `before` in a text in UTF-8. Columns are characters.
pub fn position(before: &[u8]) -> (usize, usize) {
    let lines = before.split(|&byte| byte == b'\n');
    let last = lines.clone().next_back().unwrap_or(before);
    let begins = |byte: &&u8| **byte & 0xC0 != 0x80;
    (lines.count(), last.iter().filter(begins).count() + 1)
}

/// What other programs call a key, and its name here.
const SYNONYMS: [(&str, &str); 10] = [
    ("learning_rate", "lr"),
    ("step_size", "lr"),
    ("epochs", "max_epoch"),
    ("n_epochs", "max_epoch"),
    ("num_epochs", "max_epoch"),
    ("seeds", "n_runs"),
    ("seeds", "run_id"),
    ("seed", "run_id"),
    ("seed", "n_runs"),
    ("optimizer", "opt"),
];

/// Changes that make one word of the other. Punctuation and case count for nothing, any order of the same letters for one.
fn distance(word: &str, other: &str) -> usize {
    let plain = |text: &str| -> Vec<char> {
        let letters = text.chars().filter(|c| c.is_alphanumeric());
        letters.flat_map(char::to_lowercase).collect()
    };
    let (mut a, mut b) = (plain(word), plain(other));
    if a == b && !a.is_empty() {
        return 0;
    }
    let text = |letters: &[char]| letters.iter().collect::<String>();
    let changes = strsim::osa_distance(&text(&a), &text(&b));
    a.sort_unstable();
    b.sort_unstable();
    if a == b { changes.min(1) } else { changes }
}

/// The known word that `word` is probably a misspelling of, or another name for.
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // Longer than any name by far, and a comparison takes time in proportion to the length.
    if word.len() > 64 {
        return None;
    }
    let known: Vec<&str> = known.into_iter().collect();
    let meant = SYNONYMS.iter().filter(|(name, _)| *name == word);
    let meant = meant.filter_map(|(_, key)| known.iter().find(|other| *other == key));
    if let Some(key) = meant.copied().next() {
        return Some(key);
    }
    let limit = (word.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|other| (distance(word, other), other))
        // With nothing of the word left, any short name would be near.
        .filter(|(distance, other)| *distance <= limit && *distance < other.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, other)| other)
}

/// What an unknown word may have meant, for the end of a message.
pub fn suggestion(word: &str, known: &[&str]) -> String {
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("(did you mean {near:?}?)"),
        None if known.is_empty() => "(there are none)".into(),
        None => format!("(known: {})", known.join(", ")),
    }
}
