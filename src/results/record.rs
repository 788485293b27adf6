//! Records: the runs of an experiment averaged over their seeds, as the CSV files of `records/` hold them.

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::{Map, Value};

use super::identity::{Varying, beside_opt, of_problem};
use super::json::repr;
use super::output::{self, Run};
use super::{TIMES, escape};
use crate::config::Choice;
use crate::error::{Error, Result};

/// The settings of an experiment that are of one problem, which alone can be ranked: every setting's curves,
/// averaged over the seeds.
#[derive(Clone, Debug)]
pub struct Record {
    /// The experiment's id.
    pub name: String,
    /// Where the experiment has several problems, what sets this one apart: `model=mlp, ...`.
    pub problem: String,
    /// The averaged quantities, in order of first appearance.
    pub metrics: Vec<String>,
    /// The settings' keys, in order of first appearance, `name` first, those beside the optimizer's last.
    pub keys: Vec<String>,
    /// Sorted by id.
    pub settings: Vec<Setting>,
    /// Is the score an accuracy (in [0, 1], higher is better)? Records that do not say are taken so.
    pub accuracy: bool,
    /// What was done so that its runs can be averaged, for those who read the results.
    pub notes: Vec<String>,
}

/// One method with one choice of everything but the seed.
#[derive(Clone, Debug)]
pub struct Setting {
    /// `name=..:key=value:..`, values as Python prints them.
    pub id: String,
    /// The id's pairs, `name` first: the optimizer's keys, then what else differs in the experiment.
    pub options: Options,
    /// What differs between this and other settings, but for the learning rate: `weight_decay=0.1`, or nothing.
    pub line: String,
    /// Ascending.
    pub epochs: Vec<usize>,
    /// One curve per metric of the record, without points where the method has no such metric.
    pub curves: Vec<Curve>,
    /// The runs behind the averages; none if the record was read from a CSV file.
    pub runs: Vec<Run>,
}

/// Keys and values.
pub type Options = Vec<(String, String)>;

/// Mean and standard deviation (ddof 1) over the seeds, per epoch.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    pub mean: Vec<f64>,
    pub std: Vec<f64>,
}

/// A mean and its standard deviation over the seeds, NaN for one seed.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    pub mean: f64,
    pub std: f64,
}

/// Epochs over which final values are averaged: `A:B`, both included, or `A` and all that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutoff {
    pub from: usize,
    pub to: Option<usize>,
}

impl std::str::FromStr for Cutoff {
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<Cutoff, Self::Err> {
        let number = |digits: &str| {
            digits
                .parse()
                .map_err(|_| "expected an epoch A, or two as A:B")
        };
        let (from, to) = match text.split_once(':') {
            Some((from, to)) => (number(from)?, Some(number(to)?)),
            None => (number(text)?, None),
        };
        if to.is_some_and(|to| to < from) {
            return Err("expected A:B with A at most B");
        }
        Ok(Cutoff { from, to })
    }
}

impl Setting {
    pub fn option(&self, key: &str) -> Option<&str> {
        let found = self.options.iter().find(|o| o.0 == key);
        found.map(|o| o.1.as_str())
    }

    pub fn method(&self) -> &str {
        self.option("name").unwrap_or("unnamed")
    }

    /// The learning rate.
    pub fn lr(&self) -> Option<f64> {
        self.option("lr")?.parse().ok()
    }

    /// The learning rate and what differs besides: `lr=0.1, weight_decay=0.1`.
    pub fn label(&self) -> String {
        let lr = self.option("lr").map(|lr| format!("lr={lr}"));
        let line = Some(self.line.clone()).filter(|line| !line.is_empty());
        lr.into_iter().chain(line).collect::<Vec<_>>().join(", ")
    }

    /// The method and the label: `adam, lr=0.1`.
    pub fn name(&self) -> String {
        let label = Some(self.label()).filter(|label| !label.is_empty());
        let parts = std::iter::once(self.method().to_owned()).chain(label);
        parts.collect::<Vec<_>>().join(", ")
    }

    /// The last epoch.
    pub fn end(&self) -> usize {
        self.epochs[self.epochs.len() - 1]
    }

    /// Leaves the epochs up to this one.
    fn cut(&mut self, end: usize) {
        let rows = self.epochs.partition_point(|epoch| *epoch <= end);
        self.epochs.truncate(rows);
        for curve in &mut self.curves {
            curve.mean.truncate(rows);
            curve.std.truncate(rows);
        }
    }

    /// The config, as far as the options tell it: the optimizer's keys in `opt`, those beside it as paths say.
    fn config(&self) -> Map<String, Value> {
        let mut config = Map::new();
        for (key, text) in &self.options {
            let value = serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into());
            let (object, key) = match (beside_opt(key), key.split_once('.')) {
                (false, _) => (Some("opt"), key.as_str()),
                (true, Some((object, key))) => (Some(object), key),
                (true, None) => (None, key.as_str()),
            };
            let place = match object {
                Some(object) => {
                    let object = config.entry(object).or_insert_with(|| Map::new().into());
                    object.as_object_mut()
                }
                None => Some(&mut config),
            };
            if let Some(place) = place {
                place.insert(key.to_owned(), value);
            }
        }
        config
    }

    pub fn has(&self, metric: usize) -> bool {
        !self.curves[metric].mean.is_empty()
    }

    /// The rows of its curves over which final values are averaged.
    fn rows(&self, cutoff: Option<Cutoff>) -> RangeInclusive<usize> {
        let last = self.epochs.len() - 1;
        let Some(Cutoff { from, to }) = cutoff else {
            return last..=last;
        };
        let before = |end: usize| self.epochs.partition_point(|&e| e < end);
        let from = before(from).min(last);
        let to = to.map_or(last, |to| before(to.saturating_add(1)).saturating_sub(1));
        from..=to.max(from)
    }
}

/// An experiment before anything of it is averaged or ranked: what is not to be seen goes now.
#[derive(Debug)]
pub enum Found {
    Runs(String, Vec<Run>),
    /// Of a file of averages.
    Averages(Vec<Record>),
}

impl Found {
    /// Finds an experiment: a path to a `.json` or `.csv` file, else `ID.json`, `ID-1.json`, ... in the output folder,
    /// else `ID.csv` in the folder of records.
    pub fn find(id: &str, output_dir: &Path, records_dir: &Path) -> Result<Found> {
        let path = Path::new(id);
        let stem = || path.file_stem().unwrap_or_default().to_string_lossy();
        match path.extension().and_then(|e| e.to_str()) {
            Some("csv") => return read_csv(path).map(Found::Averages),
            Some("json") => return Ok(Found::Runs(stem().into_owned(), output::read(path)?)),
            _ => {}
        }
        if !output::files(output_dir, id)?.is_empty() {
            return Found::outputs(id, output_dir);
        }
        let csv = records_dir.join(format!("{id}.csv"));
        if csv.try_exists().map_err(|e| Error::io("read", &csv, &e))? {
            return read_csv(&csv).map(Found::Averages);
        }
        Err(Error::usage(format!(
            "no output and no record of {id:?}: {} has {}; {} has {}",
            output_dir.display(),
            listed(output_dir, "json")?,
            records_dir.display(),
            listed(records_dir, "csv")?
        )))
    }

    /// Collects `ID.json`, `ID-1.json`, ... of a folder.
    pub fn outputs(id: &str, dir: &Path) -> Result<Found> {
        let files = output::files(dir, id)?;
        if files.is_empty() {
            return Err(Error::usage(format!(
                "no {id}.json in {}: there is {}",
                dir.display(),
                listed(dir, "json")?
            )));
        }
        let mut runs = Vec::new();
        for file in &files {
            runs.extend(output::read(file)?);
        }
        Ok(Found::Runs(id.to_owned(), runs))
    }

    /// The configs that a choice goes by: of runs, or of settings as far as a record tells them.
    fn configs(&self) -> Vec<Map<String, Value>> {
        match self {
            Found::Runs(_, runs) => runs.iter().map(|run| run.config.clone()).collect(),
            Found::Averages(records) => all_settings(records).map(|(_, s)| s.config()).collect(),
        }
    }

    /// Runs, or settings where that is all there is.
    fn len(&self) -> usize {
        match self {
            Found::Runs(_, runs) => runs.len(),
            Found::Averages(records) => all_settings(records).count(),
        }
    }

    /// Leaves what a choice keeps.
    fn keep(&mut self, choice: &Choice) {
        match self {
            Found::Runs(_, runs) => runs.retain(|run| choice.stays(&run.config)),
            Found::Averages(records) => {
                for record in records.iter_mut() {
                    record.settings.retain(|s| choice.stays(&s.config()));
                    record.finish();
                }
                records.retain(|record| !record.settings.is_empty());
            }
        }
    }

    /// Cuts everything to the epochs that all have.
    pub fn cut(&mut self) {
        match self {
            Found::Runs(_, runs) => {
                let ends = runs.iter().filter_map(|run| run.epochs.last());
                if let Some(end) = ends.min().copied() {
                    runs.iter_mut().for_each(|run| run.cut(end));
                }
            }
            Found::Averages(records) => {
                let ends = all_settings(records).map(|(_, s)| s.end());
                if let Some(end) = ends.min() {
                    let settings = records.iter_mut().flat_map(|r| &mut r.settings);
                    settings.for_each(|setting| setting.cut(end));
                }
            }
        }
    }

    /// A record for each problem of the experiment, nearly always one; none where no run was left.
    pub fn records(self) -> Result<Vec<Record>> {
        match self {
            Found::Runs(name, runs) => from_runs(&name, runs),
            Found::Averages(records) => Ok(records),
        }
    }
}

/// Leaves what a choice keeps of several experiments, some of which may lose all.
///
/// # Errors
/// A usage error if the choice names a key or a value that is in none of them, or leaves nothing.
pub fn choose(found: &mut Vec<Found>, choice: &Choice) -> Result<()> {
    let configs: Vec<_> = found.iter().flat_map(Found::configs).collect();
    choice.check(&configs)?;
    found.retain_mut(|one| {
        let before = one.len();
        one.keep(choice);
        one.len() > 0 || before == 0
    });
    Ok(())
}

/// What there is of a kind of file.
fn listed(dir: &Path, extension: &str) -> Result<String> {
    let stems: Vec<String> = output::stems(dir, extension)?.into_iter().collect();
    Ok(match stems.is_empty() {
        true => "nothing".into(),
        false => stems.join(", "),
    })
}

/// The records of `ID.json`, `ID-1.json`, ... of a folder.
pub fn from_outputs(id: &str, dir: &Path) -> Result<Vec<Record>> {
    Found::outputs(id, dir)?.records()
}

/// Averages runs that differ in `run_id` only.
pub fn from_runs(name: &str, runs: Vec<Run>) -> Result<Vec<Record>> {
    if runs.is_empty() {
        return Err(Error::corrupt(format!("{name}: no runs")));
    }
    let varying = Varying::among(runs.iter().map(|run| &run.identity));
    let mut problems: Vec<(Options, Vec<Run>)> = Vec::new();
    let mut index: HashMap<String, usize> = HashMap::new();
    for run in runs {
        let at = *index
            .entry(varying.problem(&run.identity))
            .or_insert_with(|| {
                let pairs = varying.beside_opt(&run.identity).into_iter();
                problems.push((
                    pairs.filter(|(key, _)| of_problem(key)).collect(),
                    Vec::new(),
                ));
                problems.len() - 1
            });
        problems[at].1.push(run);
    }
    problems.sort_by(|a, b| a.0.cmp(&b.0));
    let records = problems.into_iter();
    records
        .map(|(problem, runs)| Record::new(name, &problem, runs, &varying))
        .collect()
}

/// Reads a record's CSV file.
pub fn read_csv(path: &Path) -> Result<Vec<Record>> {
    let text = output::read_text(path)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    parse_csv(&name, &text).map_err(|what| Error::corrupt(format!("{}: {what}", path.display())))
}

/// The CSV of an experiment as pandas' `to_csv(index=False)` writes it. Without `ids`, which the reference wants, settings are
/// distinguished by the columns of their keys alone.
pub fn to_csv(records: &[Record], ids: bool) -> String {
    let (mut metrics, mut keys) = (Vec::new(), Vec::new());
    for record in records {
        add_new(&mut metrics, record.metrics.iter());
        add_new(&mut keys, record.keys.iter());
    }
    let mut out = csv::Writer::from_writer(Vec::new());
    let std = metrics.iter().map(|m| format!("{m}_std"));
    let header = ["id", "epoch"].map(str::to_owned).into_iter();
    let header = header
        .skip(usize::from(!ids))
        .chain(metrics.iter().cloned())
        .chain(std);
    let header = header.chain(keys.iter().cloned());
    out.write_record(header.map(|column| escape::csv(&column)))
        .expect("writing to memory");
    let mut settings: Vec<(&Record, &Setting)> = all_settings(records).collect();
    settings.sort_by(|a, b| a.1.id.cmp(&b.1.id));
    for (record, setting) in settings {
        let places = metrics
            .iter()
            .map(|m| record.metrics.iter().position(|own| own == m));
        let curves: Vec<Option<&Curve>> =
            places.map(|place| Some(&setting.curves[place?])).collect();
        let cell = |values: Option<&Vec<f64>>, row: usize| {
            let x = values
                .and_then(|values| values.get(row))
                .filter(|x| !x.is_nan());
            x.map_or(String::new(), |x| repr(*x))
        };
        for (row, epoch) in setting.epochs.iter().enumerate() {
            let means = curves.iter().map(|c| cell(c.map(|c| &c.mean), row));
            let stds = curves.iter().map(|c| cell(c.map(|c| &c.std), row));
            let options = keys.iter();
            let options = options.map(|k| escape::csv(setting.option(k).unwrap_or("none")));
            let start = [escape::csv(&setting.id), epoch.to_string()].into_iter();
            let start = start.skip(usize::from(!ids));
            out.write_record(start.chain(means).chain(stds).chain(options))
                .expect("writing to memory");
        }
    }
    let bytes = out.into_inner().expect("writing to memory");
    String::from_utf8(bytes).expect("written from strings")
}

/// The settings of several records, each with its record.
pub fn all_settings(records: &[Record]) -> impl Iterator<Item = (&Record, &Setting)> {
    let records = records.iter();
    records.flat_map(|record| record.settings.iter().map(move |setting| (record, setting)))
}

impl Record {
    /// Averages runs of one problem.
    fn new(
        name: &str,
        problem: &[(String, String)],
        runs: Vec<Run>,
        varying: &Varying,
    ) -> Result<Record> {
        let describe = |run: &Run| {
            let file = run.source.display();
            format!("{} (run_id {}, {file})", run.id(), run.run_id())
        };
        let score = runs[0].config.get("score_func").and_then(|v| v.as_str());
        let mut record = Record {
            name: name.to_owned(),
            problem: joined(problem, ", "),
            metrics: Vec::new(),
            keys: Vec::new(),
            settings: Vec::new(),
            accuracy: score.is_none_or(|s| s.ends_with("accuracy")),
            notes: Vec::new(),
        };
        let mut beside = Vec::new();
        let mut index: HashMap<String, usize> = HashMap::new();
        // Where a setting's run of a seed is.
        let mut seen = HashMap::new();
        for run in runs {
            if run.epochs.is_empty() {
                return Err(Error::corrupt(format!("{}: no epochs", describe(&run))));
            }
            // How long an epoch took depends on the machine: records leave it out.
            let names = run.metrics.iter().map(|m| &m.0);
            let names = names.filter(|m| !TIMES.contains(&m.as_str()));
            add_new(&mut record.metrics, names);
            let mut options = run.options();
            add_new(&mut record.keys, options.iter().map(|o| &o.0));
            let more = varying.beside_opt(&run.identity);
            add_new(&mut beside, more.iter().map(|o| &o.0));
            options.extend(more);
            let at = *index
                .entry(varying.setting(&run.identity))
                .or_insert_with(|| {
                    record.settings.push(Setting {
                        id: joined(&options, ":"),
                        options,
                        line: String::new(),
                        epochs: run.epochs.clone(),
                        curves: Vec::new(),
                        runs: Vec::new(),
                    });
                    record.settings.len() - 1
                });
            let runs = &mut record.settings[at].runs;
            if let Some(twin) = seen.insert((at, run.run_id()), runs.len()) {
                return Err(Error::corrupt(format!(
                    "the same run twice: {} and {}; drop one with `output filter` or `output merge`",
                    describe(&runs[twin]),
                    describe(&run)
                )));
            }
            runs.push(run);
        }
        let mut uneven = Vec::new();
        for setting in &mut record.settings {
            let ends = setting.runs.iter().filter_map(|run| run.epochs.last());
            let end = ends.min().copied().unwrap_or_default();
            let lengths = || setting.runs.iter().map(|run| run.epochs.len());
            if lengths().min() != lengths().max() {
                uneven.push(setting.id.clone());
            }
            setting.runs.iter_mut().for_each(|run| run.cut(end));
            setting.cut(end);
            let mut others = setting.runs.iter();
            if let Some(other) = others.find(|run| run.epochs != setting.epochs) {
                return Err(Error::corrupt(format!(
                    "seeds with different epochs: {} and {}; leave one out with `output filter`",
                    describe(&setting.runs[0]),
                    describe(other),
                )));
            }
            let curve = |metric: &String| average(&setting.runs, metric, setting.epochs.len());
            setting.curves = record.metrics.iter().map(curve).collect();
        }
        if let Some(first) = uneven.first() {
            record.notes.push(format!(
                "{}: {} of {} settings have seeds of different lengths and end with the shortest: {first}{}",
                record.title(),
                uneven.len(),
                record.settings.len(),
                if uneven.len() > 1 { ", ..." } else { "" }
            ));
        }
        record.keys.extend(beside);
        record.finish();
        Ok(record)
    }

    /// Sorts and labels the settings.
    fn finish(&mut self) {
        self.settings.sort_by(|a, b| a.id.cmp(&b.id));
        let line = |setting| joined(&self.differing(setting, &["lr"]), ", ");
        let lines: Vec<String> = self.settings.iter().map(line).collect();
        for (setting, line) in self.settings.iter_mut().zip(lines) {
            setting.line = line;
        }
    }

    /// The options, but for some keys, in which the setting differs from others of its method, or from others that have
    /// the key.
    pub fn differing(&self, setting: &Setting, without: &[&str]) -> Options {
        let differs = |(key, value): &&(String, String)| {
            let differs = self.settings.iter().any(|other| match other.option(key) {
                Some(theirs) => theirs != value,
                None => other.method() == setting.method(),
            });
            differs && key != "name" && !without.contains(&key.as_str())
        };
        setting.options.iter().filter(differs).cloned().collect()
    }

    /// The experiment and, where it has several, the problem.
    pub fn title(&self) -> String {
        match self.problem.is_empty() {
            true => self.name.clone(),
            false => format!("{} ({})", self.name, self.problem),
        }
    }

    /// How many seeds are behind these settings, `1 to 3 seeds`, where not all of the record have as many.
    pub fn seeds(&self, settings: &[&Setting]) -> Option<String> {
        let seeds = |s: &Setting| s.runs.len();
        let uneven = self
            .settings
            .windows(2)
            .any(|s| seeds(&s[0]) != seeds(&s[1]));
        let counts = settings.iter().map(|s| seeds(s));
        let (least, most) = (counts.clone().min()?, counts.max()?);
        uneven.then(|| match most {
            _ if least < most => format!("{least} to {most} seeds"),
            1 => "1 seed".into(),
            n => format!("{n} seeds"),
        })
    }

    /// What was logged of steps, by names.
    pub fn logged(&self) -> Vec<&str> {
        let mut names = Vec::new();
        let runs = self.settings.iter().flat_map(|setting| &setting.runs);
        for (name, _) in runs.flat_map(|run| &run.step_logs) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names
    }

    /// The place of a metric among the curves.
    pub fn metric(&self, name: &str) -> Result<usize> {
        let found = self.metrics.iter().position(|m| m == name);
        found.ok_or_else(|| {
            let all = self.metrics.join(", ");
            Error::usage(format!(
                "{} has no metric {name:?}: it has {all}",
                self.name
            ))
        })
    }

    /// The value that a setting ends with: the last epoch's, or the average over the epochs of `cutoff` (of a setting
    /// that ends before them, the last one's).
    pub fn last(&self, setting: &Setting, metric: usize, cutoff: Option<Cutoff>) -> Stat {
        let rows = setting.rows(cutoff);
        let curve = &setting.curves[metric];
        Stat {
            mean: average_of(&curve.mean, &rows),
            std: average_of(&curve.std, &rows),
        }
    }

    /// The value that each run of a setting ends with, after its seed.
    pub fn finals(
        &self,
        setting: &Setting,
        metric: usize,
        cutoff: Option<Cutoff>,
    ) -> Vec<(i64, f64)> {
        let rows = setting.rows(cutoff);
        let name = &self.metrics[metric];
        let value = |run: &Run| average_of(run.metric(name).unwrap_or_default(), &rows);
        let runs = setting.runs.iter();
        runs.map(|run| (run.run_id(), value(run))).collect()
    }

    /// Whether a loss is not finite where the setting ends, of any of its seeds.
    pub fn diverged(&self, setting: &Setting, cutoff: Option<Cutoff>) -> bool {
        let losses = ["train_loss", "val_loss"].into_iter();
        let mut losses = losses.filter_map(|loss| self.metric(loss).ok());
        losses.any(|loss| setting.has(loss) && !self.last(setting, loss, cutoff).mean.is_finite())
    }

    /// The epoch in which a setting diverged: from there on a loss is not finite.
    pub fn diverged_at(&self, setting: &Setting) -> Option<usize> {
        if !self.diverged(setting, None) {
            return None;
        }
        let losses = ["train_loss", "val_loss"].into_iter();
        let losses = losses.filter_map(|loss| self.metric(loss).ok());
        let after_the_last_finite = |loss: usize| {
            let mean = &setting.curves[loss].mean;
            let last = mean.iter().rposition(|x| x.is_finite());
            Some(last.map_or(0, |row| row + 1)).filter(|row| *row < mean.len())
        };
        let row = losses.filter_map(after_the_last_finite).min();
        row.map(|row| setting.epochs[row])
    }

    /// The last epoch of the longest runs. What was trained for less is not ranked beside them.
    pub fn end(&self) -> usize {
        self.settings.iter().map(Setting::end).max().unwrap_or(0)
    }

    pub fn higher_is_better(&self, metric: &str) -> bool {
        metric.ends_with("score") && self.accuracy
    }

    /// The methods, in alphabetical order.
    pub fn methods(&self) -> Vec<&str> {
        let mut methods: Vec<&str> = self.settings.iter().map(Setting::method).collect();
        methods.sort_unstable();
        methods.dedup();
        methods
    }

    /// A method's settings that have the metric and were trained to the end, best first; those that diverged come last.
    pub fn ranking(&self, method: &str, metric: usize, cutoff: Option<Cutoff>) -> Vec<&Setting> {
        let sign = if self.higher_is_better(&self.metrics[metric]) {
            -1.0
        } else {
            1.0
        };
        let end = self.end();
        let mine = self.settings.iter().filter(|s| s.method() == method);
        let mine = mine.filter(|s| s.has(metric) && s.end() == end);
        let mut ranked: Vec<(bool, f64, &Setting)> = mine
            .map(|s| {
                let value = sign * self.last(s, metric, cutoff).mean;
                (value.is_nan() || self.diverged(s, cutoff), value, s)
            })
            .collect();
        // NaN sorts last whatever its sign bit.
        ranked.sort_by(|a, b| {
            let nan = |x: &(bool, f64, _)| x.1.is_nan();
            (a.0.cmp(&b.0))
                .then(nan(a).cmp(&nan(b)))
                .then(a.1.total_cmp(&b.1))
        });
        ranked.into_iter().map(|(_, _, s)| s).collect()
    }
}

/// Over some rows; NaN where there are none.
fn average_of(values: &[f64], rows: &RangeInclusive<usize>) -> f64 {
    match values.get(rows.clone()) {
        Some(part) => part.iter().sum::<f64>() / part.len() as f64,
        None => f64::NAN,
    }
}

/// `key=value` of every pair.
fn joined(pairs: &[(String, String)], separator: &str) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join(separator)
}

fn add_new<'a>(list: &mut Vec<String>, items: impl Iterator<Item = &'a String>) {
    for item in items {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

/// Mean (NaN if a value is NaN) and standard deviation (of the values that are not NaN), as pandas
/// computes them: sums in the order of the runs, squares by Welford's recurrence.
pub(super) fn over_seeds(values: impl Iterator<Item = f64> + Clone) -> Stat {
    let (mut n, mut mean, mut squares) = (0.0, 0.0, 0.0);
    for x in values.clone().filter(|x| !x.is_nan()) {
        n += 1.0;
        let old = mean;
        mean += (x - old) / n;
        squares += (x - mean) * (x - old);
    }
    let std = if n > 1.0 {
        (squares / (n - 1.0)).sqrt()
    } else {
        f64::NAN
    };
    Stat {
        mean: values.clone().sum::<f64>() / values.count() as f64,
        std,
    }
}

/// A metric of every epoch [over the seeds](over_seeds). Empty if no run has it.
fn average(runs: &[Run], metric: &str, epochs: usize) -> Curve {
    let columns: Vec<Option<&[f64]>> = runs.iter().map(|run| run.metric(metric)).collect();
    let mut curve = Curve::default();
    if columns.iter().all(Option::is_none) {
        return curve;
    }
    for row in 0..epochs {
        let values = columns.iter().map(|c| c.map_or(f64::NAN, |c| c[row]));
        let Stat { mean, std } = over_seeds(values);
        curve.mean.push(mean);
        curve.std.push(std);
    }
    curve
}

fn parse_csv(name: &str, text: &str) -> std::result::Result<Vec<Record>, String> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().map_err(|e| e.to_string())?.clone();
    let header: Vec<&str> = header.iter().map(escape::from_csv).collect();
    let names = header.iter().position(|c| *c == "name");
    let (first, names) = match (header.as_slice(), names) {
        (["id", "epoch", ..], Some(names)) => (1, names),
        (["epoch", ..], Some(names)) => (0, names),
        _ => return Err("not a record: its columns should be id, epoch, ..., name, ...".into()),
    };
    let columns = first + 1..names;
    let place = |column: &str| {
        let place = header[columns.clone()].iter().position(|c| *c == column);
        place.map(|place| place + columns.start)
    };
    // A metric is a column with a `_std` of its own.
    let places: Vec<(usize, usize)> = (header[columns.clone()].iter().enumerate())
        .filter_map(|(at, metric)| Some((at + columns.start, place(&format!("{metric}_std"))?)))
        .collect();
    let metrics: Vec<String> = places.iter().map(|m| header[m.0].to_owned()).collect();
    let keys: Vec<String> = header[names..].iter().map(|k| (*k).to_owned()).collect();
    let mut settings: Vec<(Setting, Vec<Row>)> = Vec::new();
    let mut index: HashMap<String, usize> = HashMap::new();
    let mut row = csv::StringRecord::new();
    while reader.read_record(&mut row).map_err(|e| e.to_string())? {
        let line = row.position().map_or(0, csv::Position::line);
        let options = keys.iter().zip(row.iter().skip(names));
        let options = options.filter(|(_, value)| *value != "none");
        let options = options.map(|(k, v)| (k.clone(), escape::from_csv(v).to_owned()));
        let options: Options = options.collect();
        let id = match first {
            0 => joined(&options, ":"),
            _ => escape::from_csv(&row[0]).to_owned(),
        };
        let at = *index.entry(id.clone()).or_insert_with(|| {
            let setting = Setting {
                id,
                options,
                line: String::new(),
                epochs: Vec::new(),
                curves: vec![Curve::default(); metrics.len()],
                runs: Vec::new(),
            };
            settings.push((setting, Vec::new()));
            settings.len() - 1
        });
        let number = |column: usize| match &row[column] {
            "" => Ok(f64::NAN),
            text => text.parse::<f64>().map_err(|_| {
                format!(
                    "line {line}, column {}: {text:?} is not a number",
                    header[column]
                )
            }),
        };
        let epoch = row[first].parse();
        let epoch = epoch.map_err(|_| format!("line {line}: epoch {:?}", &row[first]))?;
        let pairs = places
            .iter()
            .map(|&(mean, std)| Ok((number(mean)?, number(std)?)));
        let pairs = pairs.collect::<std::result::Result<_, String>>()?;
        settings[at].1.push((epoch, pairs));
    }
    if settings.is_empty() {
        return Err("no rows".into());
    }
    for (setting, rows) in &mut settings {
        // Whatever the order of the lines, the last epoch is the largest.
        rows.sort_by_key(|row| row.0);
        if let Some(twice) = rows.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(format!("{} has epoch {} twice", setting.id, twice[0].0));
        }
        setting.epochs = rows.iter().map(|row| row.0).collect();
        for (at, curve) in setting.curves.iter_mut().enumerate() {
            (curve.mean, curve.std) = rows.iter().map(|(_, pairs)| pairs[at]).unzip();
        }
    }
    let mut settings: Vec<Setting> = settings.into_iter().map(|(setting, _)| setting).collect();
    for (at, metric) in metrics.iter().enumerate() {
        // What a method has nowhere it does not have at all, but for what all methods have.
        let shared = metric.ends_with("loss") || metric.ends_with("score");
        let filled = |s: &&Setting| shared || s.curves[at].mean.iter().any(|x| !x.is_nan());
        let having = settings.iter().filter(filled).map(Setting::method);
        let having: BTreeSet<String> = having.map(str::to_owned).collect();
        let lacking = settings.iter_mut().filter(|s| !having.contains(s.method()));
        lacking.for_each(|setting| setting.curves[at] = Curve::default());
    }
    let mut records: Vec<Record> = Vec::new();
    for setting in settings {
        let pairs = setting.options.iter().filter(|(key, _)| of_problem(key));
        let problem = joined(&pairs.cloned().collect::<Vec<_>>(), ", ");
        match records.iter_mut().find(|record| record.problem == problem) {
            Some(record) => record.settings.push(setting),
            None => records.push(Record {
                name: name.to_owned(),
                problem,
                metrics: metrics.clone(),
                keys: keys.clone(),
                accuracy: setting
                    .option("score_func")
                    .is_none_or(|s| s.ends_with("accuracy")),
                settings: vec![setting],
                notes: Vec::new(),
            }),
        }
    }
    records.iter_mut().for_each(Record::finish);
    records.sort_by(|a, b| a.problem.cmp(&b.problem));
    Ok(records)
}

/// An epoch of a CSV file, with mean and standard deviation of every metric.
type Row = (usize, Vec<(f64, f64)>);
