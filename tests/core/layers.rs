//! The import rule of src/lib.rs, read off the paths in every source file.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom up: a module may import what stands in earlier lines, and never its neighbours.
const LAYERS: &[&[&str]] = &[
    &["error", "files", "stop"],
    &["config", "random"],
    &["cpu"],
    &["device"],
    &["graph"],
    &["ops"],
    &["nn"],
    &["models", "optim", "data"],
    &["results"],
    &["train"],
    &["verify", "bench"],
    &["cli"],
];

/// Optimizers are kernels on flat buffers and know nothing of tensors.
const FORBIDDEN: &[(&str, &str)] = &[("optim", "ops"), ("optim", "nn")];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn allowed(from: &str, to: &str) -> bool {
    from == to || (layer(to) < layer(from) && !FORBIDDEN.contains(&(from, to)))
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// All Rust files below `dir`, with their paths inside src, such as `optim/adam.rs`.
fn files(dir: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.strip_prefix(source()).unwrap();
            let text = fs::read_to_string(&path).unwrap();
            found.push((name.to_str().unwrap().to_owned(), without_comments(&text)));
        }
    }
}

fn all_files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    files(&source(), &mut found);
    found.sort();
    found
}

fn without_comments(text: &str) -> String {
    let code = text.lines().map(|line| match line.find("//") {
        // A URL in a string is no comment.
        Some(at) if !line[..at].ends_with(':') => &line[..at],
        _ => line,
    });
    code.collect::<Vec<_>>().join("\n")
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_'));
    &text[..end.unwrap_or(text.len())]
}

/// The names that stand first in `a::b` or in each item of `{a, b::{c}}`.
fn heads(path: &str) -> Vec<&str> {
    if !path.starts_with('{') {
        return vec![word(path)];
    }
    let (mut depth, mut heads) = (0, Vec::new());
    for (at, c) in path.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && matches!(c, '{' | ',') {
            heads.push(word(path[at + 1..].trim_start()));
        }
    }
    heads
}

/// The top-level modules that a file's paths begin with. `depth` is the length of the file's own module
/// path: so many `super` lead to the crate's root.
fn imports(code: &str, depth: usize) -> BTreeSet<&str> {
    // A file at depth 0 is the root itself and has no `super`.
    let to_root = ["super::".repeat(depth), "crate::".to_owned()];
    let starts = to_root.iter().filter(|start| !start.is_empty());
    let paths: Vec<usize> = starts
        .flat_map(|start| code.match_indices(start.as_str()))
        .map(|(at, start)| at + start.len())
        .collect();
    paths
        .into_iter()
        .flat_map(|at| heads(&code[at..]))
        .filter(|name| layer(name).is_some())
        .collect()
}

/// `optim` and 2 for `optim/adam.rs`; `optim` and 1 for `optim/mod.rs`.
fn module(file: &str) -> (&str, usize) {
    let path = file.trim_end_matches(".rs").trim_end_matches("/mod");
    (path.split('/').next().unwrap(), path.split('/').count())
}

#[test]
fn every_module_is_in_the_rule() {
    let named: BTreeSet<&str> = LAYERS.iter().copied().flatten().copied().collect();
    let files = all_files();
    let there: BTreeSet<&str> = (files.iter().map(|(file, _)| module(file).0))
        .filter(|name| !["lib", "main"].contains(name))
        .collect();
    assert_eq!(there, named);
}

#[test]
fn modules_import_downwards_only() {
    let mut wrong = Vec::new();
    for (file, code) in &all_files() {
        let (own, depth) = module(file);
        if layer(own).is_none() {
            continue;
        }
        for other in imports(code, depth) {
            if !allowed(own, other) {
                wrong.push(format!("src/{file} imports {other}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_binary_uses_the_command_line_alone() {
    let files = all_files();
    let (_, main) = files.iter().find(|(file, _)| file == "main.rs").unwrap();
    let used = main.match_indices("stepback_native::");
    let used: BTreeSet<&str> = used
        .flat_map(|(at, m)| heads(&main[at + m.len()..]))
        .collect();
    assert_eq!(used, BTreeSet::from(["cli", "error"]));
}

#[test]
fn the_scan_sees_every_form_of_a_path() {
    let code =
        "use crate::data::Pair;\nuse crate::{graph::{Op, Var}, optim};\nlet x = crate::nn::loss();
        pub(crate) fn f() {}\nuse super::super::train::run;\nuse super::verify;";
    let seen: Vec<&str> = imports(code, 2).into_iter().collect();
    assert_eq!(seen, ["data", "graph", "nn", "optim", "train"]);
    let seen: Vec<&str> = imports("use super::verify;", 1).into_iter().collect();
    assert_eq!(seen, ["verify"]);
    assert_eq!(without_comments("a // crate::data::x\nb"), "a \nb");
}
