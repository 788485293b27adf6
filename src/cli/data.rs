//! `stepback-native data`: what there is of each data set, and getting and checking the rest.

use super::completions::Names;
use super::print;
use crate::data::fetch::{self, Options};
use crate::data::raw::{Set, State};
use crate::data::{Origin, ROWS, Row, row};
use crate::error::{Error, Kind, Result};
use clap::Subcommand;
use clap::builder::PossibleValue;
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    /// Folder of the raw files; the shards made from them are in its subfolder `shards`
    #[arg(long, value_name = "DIR", default_value = "data", global = true)]
    data_dir: PathBuf,
    /// Folder of the shards instead
    #[arg(long, value_name = "DIR", global = true)]
    cache_dir: Option<PathBuf>,
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
        #[arg(value_parser = Names(names), hide_possible_values = true)]
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
        #[arg(value_parser = Names(names), hide_possible_values = true)]
        name: String,
        /// Folder with the raw files or with an archive of them as it was published, or any archive of them (.zip, or
        /// .tar, packed or not)
        #[arg(long, value_name = "PATH")]
        from: PathBuf,
    },
    /// Read raw files and shards in whole and compare all checksums
    Check {
        /// One data set; all that are there if left out
        #[arg(value_parser = Names(names), hide_possible_values = true)]
        name: Option<String>,
    },
}

/// Of data sets that have files.
fn names() -> Vec<PossibleValue> {
    let files = ROWS
        .iter()
        .filter(|row| matches!(row.origin, Origin::Files(_)));
    files.map(|row| row.entry.name.into()).collect()
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
    match &args.action {
        Action::List => args.list(&out),
        Action::Fetch {
            name,
            mirrors,
            quiet,
        } => {
            let set = args.files(name)?;
            let fetched = fetch::missing(&set, &Options::new(mirrors.clone(), *quiet))?;
            let verb = match fetched.is_empty() {
                true => "was there already",
                false => "fetched",
            };
            report(&set, verb, &fetched, &out)
        }
        Action::Import { name, from } => {
            let set = args.files(name)?;
            let copied = set.import(from)?;
            report(&set, "imported", &copied, &out)
        }
        Action::Check { name: Some(name) } => report(&args.files(name)?, "ok", &[], &out),
        Action::Check { name: None } => args.check_all(&out),
    }
}

impl Args {
    /// The set of files called `name`; an error for one that has no files.
    fn files(&self, name: &str) -> Result<Set<'_>> {
        let row = row(name)?;
        self.set(row).ok_or_else(|| {
            let why = match &row.origin {
                Origin::Named(_) => "read from the file that a run names",
                _ => "computed from a seed",
            };
            Error::usage(format!(
                "{name} is {why}: there are no files to fetch, import or check"
            ))
        })
    }

    fn set(&self, row: &'static Row) -> Option<Set<'_>> {
        match &row.origin {
            Origin::Computed(_) | Origin::Named(_) => None,
            Origin::Files(files) => Some(Set {
                cache: self.cache_dir.as_deref(),
                ..Set::new(row.entry.name, files, &self.data_dir)
            }),
        }
    }

    fn list(&self, out: &Output) -> Result<()> {
        for row in ROWS {
            let name = row.entry.name;
            let (state, details) = match self.set(row).map(|set| set.state()) {
                None if matches!(row.origin, Origin::Named(_)) => ("of any file", Vec::new()),
                None => ("computed", Vec::new()),
                Some(Ok(State::Ready)) => ("ready", Vec::new()),
                Some(Ok(State::Unconverted)) => ("raw files there, not yet converted", Vec::new()),
                Some(Ok(State::Missing(names))) => {
                    let paths = names.iter().map(|name| self.data_dir.join(name));
                    ("missing", paths.map(|p| p.display().to_string()).collect())
                }
                Some(Err(e)) if e.kind == Kind::Corrupt => ("damaged", vec![e.message]),
                Some(Err(e)) => ("not readable", vec![e.message]),
            };
            let mut text = format!("{name:<22}{state}");
            for detail in &details {
                text += &format!("\n{:<22}  {detail}", "");
            }
            let (missing, error) = match state {
                "missing" => (details, None),
                _ => (Vec::new(), details.into_iter().next()),
            };
            let object = json!({
                "name": name, "about": row.entry.about, "state": state, "missing": missing, "error": error,
            });
            out.line(&text, &object)?;
        }
        Ok(())
    }

    fn check_all(&self, out: &Output) -> Result<()> {
        let mut failed = Vec::new();
        for set in ROWS.iter().filter_map(|row| self.set(row)) {
            let checked = match set.missing() {
                Ok(files) if !files.is_empty() => {
                    let object = json!({"name": set.name, "result": "missing"});
                    out.line(&format!("{}: not there", set.name), &object)?;
                    continue;
                }
                Ok(_) => report(&set, "ok", &[], out),
                Err(e) => Err(e),
            };
            if let Err(e) = checked {
                let result = match e.kind {
                    Kind::Corrupt => "damaged",
                    _ => "not readable",
                };
                let object = json!({"name": set.name, "result": result, "error": e.message});
                out.line(&format!("{}: {e}", set.name), &object)?;
                failed.push((set.name, e.kind));
            }
        }
        let Some((_, kind)) = failed.first() else {
            return Ok(());
        };
        let names: Vec<_> = failed.iter().map(|(name, _)| *name).collect();
        Err(Error::new(
            *kind,
            format!("not in order: {}", names.join(", ")),
        ))
    }
}

/// Checks a set in whole and says what it holds.
fn report(set: &Set, verb: &str, files: &[&str], out: &Output) -> Result<()> {
    let shards = set.check()?;
    let (train, val) = (shards.train.header(), shards.val.header());
    let published = set.published(&train.sources)?;
    let (n, m) = (train.samples, val.samples);
    let mut text = format!("{}: {verb}, {n} and {m} samples", set.name);
    text += match published {
        Some(true) => ", the published files",
        Some(false) => ", not the published files",
        None => "",
    };
    let skipped = shards.skipped();
    if skipped > 0 {
        text += &format!(", {skipped} of its characters left out");
    }
    if let Some(place) = &shards.elsewhere {
        text += &format!(", shards {place}");
    }
    let object = json!({
        "name": set.name, "result": verb, "files": files, "train_samples": n, "val_samples": m,
        "published": published, "skipped": skipped,
    });
    out.line(&text, &object)
}
