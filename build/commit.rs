//! The commit that is built, which summaries of results name.

use std::path::Path;
use std::process::Command;

/// Sets `STEPBACK_COMMIT`, unless these files are no repository: a package lies inside of any folder.
pub fn tell() {
    if !Path::new(".git").exists() {
        return;
    }
    // Whatever moves with the commit: the branch's name, its place, or the file that all places are packed in.
    let head = git(&["symbolic-ref", "-q", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(head.as_deref()) {
        let path = git(&["rev-parse", "--git-path", name]);
        if let Some(path) = path.filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    if let Some(commit) = git(&["describe", "--always", "--abbrev=12"]) {
        println!("cargo::rustc-env=STEPBACK_COMMIT={commit}");
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
