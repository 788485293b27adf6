//! `stepback-native data`: what there is of each data set, and getting and checking the rest.

use super::print;
use crate::data::fetch::{self, Options};
use crate::data::raw::{Set, State};
use crate::data::{Origin, ROWS, Row, row};
use crate::error::{Error, Result};
use clap::Subcommand;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    /// Folder of the raw files; the shards made from them are in its subfolder `shards`
    #[arg(long, value_name = "DIR", default_value = "data", global = true)]
    data_dir: PathBuf,
    /// Print one JSON object per data set
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Show all data sets and what is there of them
    List,
    /// Download a data set's raw files and convert them
    Fetch {
        name: String,
        /// Web folder with the files, tried before the known ones (may be repeated)
        #[arg(long = "mirror", value_name = "URL")]
        mirrors: Vec<String>,
        /// No progress bar
        #[arg(short, long)]
        quiet: bool,
    },
    /// Copy a data set's raw files from a folder or an archive, check and convert them
    Import {
        name: String,
        /// Folder with the raw files or with an archive of them as it was published, or any .tar.gz of them
        #[arg(long, value_name = "PATH")]
        from: PathBuf,
    },
    /// Read raw files and shards in whole and compare all checksums
    Check {
        /// One data set; all that are there if left out
        name: Option<String>,
    },
}

/// Lines for a human, objects for a program.
struct Output {
    json: bool,
}

impl Output {
    fn line(&self, text: &str, object: &Value) -> Result<()> {
        match self.json {
            true => print::println(object),
            false => print::println(text),
        }
    }
}

pub fn run(args: &Args) -> Result<()> {
    let out = Output { json: args.json };
    let dir = &args.data_dir;
    match &args.action {
        Action::List => list(dir, &out),
        Action::Fetch {
            name,
            mirrors,
            quiet,
        } => {
            let set = files(name, dir)?;
            let fetched = fetch::missing(&set, &Options::new(mirrors.clone(), *quiet))?;
            let verb = match fetched.is_empty() {
                true => "was there already",
                false => "fetched",
            };
            report(&set, verb, &fetched, &out)
        }
        Action::Import { name, from } => {
            let set = files(name, dir)?;
            let copied = set.import(from)?;
            report(&set, "imported", &copied, &out)
        }
        Action::Check { name: Some(name) } => report(&files(name, dir)?, "ok", &[], &out),
        Action::Check { name: None } => check_all(dir, &out),
    }
}

/// The set of files called `name`; an error for one that has no files.
fn files<'a>(name: &str, dir: &'a Path) -> Result<Set<'a>> {
    let row = row(name)?;
    set_of(row, dir).ok_or_else(|| {
        Error::usage(format!(
            "{name} is computed from a seed: there are no files to fetch, import or check"
        ))
    })
}

fn set_of<'a>(row: &'static Row, dir: &'a Path) -> Option<Set<'a>> {
    match &row.origin {
        Origin::Computed(_) => None,
        Origin::Files(files) => Some(Set::new(row.entry.name, files, dir)),
    }
}

fn list(dir: &Path, out: &Output) -> Result<()> {
    for row in ROWS {
        let name = row.entry.name;
        let (state, missing) = match set_of(row, dir).map(|set| set.state()) {
            None => ("computed", Vec::new()),
            Some(Ok(State::Ready)) => ("ready", Vec::new()),
            Some(Ok(State::Unconverted)) => ("raw files there, not yet converted", Vec::new()),
            Some(Ok(State::Missing(names))) => ("missing", names),
            Some(Err(_)) => ("damaged", Vec::new()),
        };
        let missing: Vec<_> = missing.iter().map(|name| dir.join(name)).collect();
        let mut text = format!("{name:<22}{state}");
        for path in &missing {
            text += &format!("\n{:<22}  {}", "", path.display());
        }
        let missing: Vec<_> = missing.iter().map(|p| p.display().to_string()).collect();
        let object = json!({
            "name": name, "about": row.entry.about, "state": state, "missing": missing,
        });
        out.line(&text, &object)?;
    }
    Ok(())
}

/// Checks a set in whole and says what it holds.
fn report(set: &Set, verb: &str, files: &[&str], out: &Output) -> Result<()> {
    let [train, val] = set.check()?;
    let published = set.published()?;
    let (n, m) = (train.header().samples, val.header().samples);
    let mut text = format!("{}: {verb}, {n} and {m} samples", set.name);
    text += match published {
        Some(true) => ", the published files",
        Some(false) => ", not the published files",
        None => "",
    };
    let object = json!({
        "name": set.name, "result": verb, "files": files, "train_samples": n, "val_samples": m,
        "published": published,
    });
    out.line(&text, &object)
}

fn check_all(dir: &Path, out: &Output) -> Result<()> {
    let mut damaged = Vec::new();
    for set in ROWS.iter().filter_map(|row| set_of(row, dir)) {
        if !set.missing().is_empty() {
            out.line(
                &format!("{}: not there", set.name),
                &json!({"name": set.name, "result": "missing"}),
            )?;
        } else if let Err(e) = report(&set, "ok", &[], out) {
            out.line(
                &format!("{}: {e}", set.name),
                &json!({"name": set.name, "result": "damaged", "error": e.message}),
            )?;
            damaged.push((set.name, e.kind));
        }
    }
    let Some((_, kind)) = damaged.first() else {
        return Ok(());
    };
    let names: Vec<_> = damaged.iter().map(|(name, _)| *name).collect();
    Err(Error::new(
        *kind,
        format!("not in order: {}", names.join(", ")),
    ))
}
