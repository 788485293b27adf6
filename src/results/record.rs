//! Records: the runs of an experiment averaged over their seeds, as the CSV files of `records/` hold them.

use std::collections::HashMap;
use std::path::Path;

use super::escape;
use super::json::repr;
use super::output::{self, Run};
use crate::error::{Error, Result};

/// An experiment: every setting's curves, averaged over the seeds.
#[derive(Clone, Debug)]
pub struct Record {
    /// The experiment's id.
    pub name: String,
    /// The averaged quantities, in order of first appearance.
    pub metrics: Vec<String>,
    /// The optimizers' keys, in order of first appearance, `name` first.
    pub keys: Vec<String>,
    /// The same for all settings.
    pub epochs: Vec<usize>,
    /// Sorted by id.
    pub settings: Vec<Setting>,
    /// Is the score an accuracy (in [0, 1], higher is better)? Records do not say, and are taken so.
    pub accuracy: bool,
}

/// One method with one choice of hyper-parameters.
#[derive(Clone, Debug)]
pub struct Setting {
    /// `name=..:key=value:..`, values as Python prints them.
    pub id: String,
    /// The id's pairs, `name` first.
    pub options: Vec<(String, String)>,
    /// One curve per metric of the record.
    pub curves: Vec<Curve>,
    /// The runs behind the averages; none if the record was read from a CSV file.
    pub runs: Vec<Run>,
}

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

    /// The id without the name, for labels: `lr=0.1, weight_decay=0`.
    pub fn label(&self) -> String {
        let rest = self.options.iter().filter(|o| o.0 != "name");
        let rest: Vec<String> = rest.map(|(k, v)| format!("{k}={v}")).collect();
        rest.join(", ")
    }
}

impl Record {
    /// Finds an experiment: a path to a `.json` or `.csv` file, else `ID.json`, `ID-1.json`, ... in the
    /// output folder, else `ID.csv` in the folder of records.
    pub fn load(id: &str, output_dir: &Path, records_dir: &Path) -> Result<Record> {
        let path = Path::new(id);
        let stem = || path.file_stem().unwrap_or_default().to_string_lossy();
        match path.extension().and_then(|e| e.to_str()) {
            Some("csv") => return Record::read_csv(path),
            Some("json") => return Record::from_runs(&stem(), output::read(path)?),
            _ => {}
        }
        if !output::files(output_dir, id).is_empty() {
            return Record::from_outputs(id, output_dir);
        }
        let csv = records_dir.join(format!("{id}.csv"));
        if csv.exists() {
            return Record::read_csv(&csv);
        }
        let list = |dir: &Path, extension| {
            let stems: Vec<String> = output::stems(dir, extension).into_iter().collect();
            let stems = if stems.is_empty() {
                "nothing".into()
            } else {
                stems.join(", ")
            };
            format!("{} has {stems}", dir.display())
        };
        Err(Error::usage(format!(
            "no output and no record of {id:?}: {}; {}",
            list(output_dir, "json"),
            list(records_dir, "csv")
        )))
    }

    /// Collects `ID.json`, `ID-1.json`, ... of a folder.
    pub fn from_outputs(id: &str, dir: &Path) -> Result<Record> {
        let files = output::files(dir, id);
        if files.is_empty() {
            let there = output::stems(dir, "json").into_iter();
            let there: Vec<String> = there.collect();
            return Err(Error::usage(format!(
                "no {id}.json in {}: there is {}",
                dir.display(),
                if there.is_empty() {
                    "no output at all".into()
                } else {
                    there.join(", ")
                }
            )));
        }
        let mut runs = Vec::new();
        for file in &files {
            runs.extend(output::read(file)?);
        }
        Record::from_runs(id, runs)
    }

    /// Averages runs that differ in `run_id` only.
    pub fn from_runs(name: &str, runs: Vec<Run>) -> Result<Record> {
        let Some(first) = runs.first() else {
            return Err(Error::corrupt(format!("{name}: no runs")));
        };
        let describe = |run: &Run| {
            let file = run.source.display();
            format!("{} (run_id {}, {file})", run.id(), run.run_id())
        };
        if first.epochs.is_empty() {
            return Err(Error::corrupt(format!("{}: no epochs", describe(first))));
        }
        if let Some(other) = runs.iter().find(|run| run.epochs != first.epochs) {
            return Err(Error::corrupt(format!(
                "the runs have different numbers of epochs: {} has {}, {} has {}; \
                 leave one kind out with `output filter`",
                describe(first),
                first.epochs.len(),
                describe(other),
                other.epochs.len(),
            )));
        }
        let epochs = first.epochs.clone();
        let score = first.config.get("score_func").and_then(|v| v.as_str());
        let accuracy = score.is_none_or(|s| s.ends_with("accuracy"));

        let mut metrics: Vec<String> = Vec::new();
        let mut keys: Vec<String> = Vec::new();
        let mut groups: Vec<Setting> = Vec::new();
        let mut index: HashMap<String, usize> = HashMap::new();
        for run in runs {
            // How long an epoch took depends on the machine: records leave it out.
            let names = run.metrics.iter().map(|m| &m.0);
            add_new(&mut metrics, names.filter(|m| *m != "train_epoch_time"));
            let options = run.options();
            add_new(&mut keys, options.iter().map(|o| &o.0));
            let id = run.id();
            let at = *index.entry(id.clone()).or_insert(groups.len());
            if at == groups.len() {
                groups.push(Setting {
                    id,
                    options,
                    curves: Vec::new(),
                    runs: Vec::new(),
                });
            }
            let seeds = &mut groups[at].runs;
            if let Some(twin) = seeds.iter().find(|r| r.run_id() == run.run_id()) {
                return Err(Error::corrupt(format!(
                    "the same run twice: {} and {}; drop one with `output filter` or `output merge`",
                    describe(twin),
                    describe(&run)
                )));
            }
            seeds.push(run);
        }
        for setting in &mut groups {
            let curve = |metric: &String| average(&setting.runs, metric, epochs.len());
            setting.curves = metrics.iter().map(curve).collect();
        }
        groups.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(Record {
            name: name.to_owned(),
            metrics,
            keys,
            epochs,
            settings: groups,
            accuracy,
        })
    }

    /// Reads a record's CSV file.
    pub fn read_csv(path: &Path) -> Result<Record> {
        let text = output::read_text(path)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        parse_csv(&name, &text)
            .map_err(|what| Error::corrupt(format!("{}: {what}", path.display())))
    }

    /// The CSV as pandas' `to_csv(index=False)` writes it.
    pub fn to_csv(&self) -> String {
        let mut out = csv::Writer::from_writer(Vec::new());
        let std = self.metrics.iter().map(|m| format!("{m}_std"));
        let header = ["id", "epoch"].map(str::to_owned).into_iter();
        let header = header.chain(self.metrics.iter().cloned()).chain(std);
        let header = header.chain(self.keys.iter().cloned());
        out.write_record(header.map(|column| escape::csv(&column)))
            .expect("writing to memory");
        let cell = |x: f64| if x.is_nan() { String::new() } else { repr(x) };
        for setting in &self.settings {
            for (row, epoch) in self.epochs.iter().enumerate() {
                let means = setting.curves.iter().map(|c| cell(c.mean[row]));
                let stds = setting.curves.iter().map(|c| cell(c.std[row]));
                let options = self.keys.iter();
                let options = options.map(|k| escape::csv(setting.option(k).unwrap_or("none")));
                let start = [escape::csv(&setting.id), epoch.to_string()].into_iter();
                out.write_record(start.chain(means).chain(stds).chain(options))
                    .expect("writing to memory");
            }
        }
        let bytes = out.into_inner().expect("writing to memory");
        String::from_utf8(bytes).expect("written from strings")
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

    /// The value that a setting ends with: the last epoch's, or the average over the epochs from `cutoff` on.
    pub fn last(&self, setting: &Setting, metric: usize, cutoff: Option<usize>) -> Stat {
        let last = self.epochs[self.epochs.len() - 1];
        let cutoff = cutoff.unwrap_or(last).min(last);
        let rows = self.epochs.iter().take_while(|&&e| e < cutoff).count();
        let average = |values: &[f64]| {
            let tail = &values[rows..];
            tail.iter().sum::<f64>() / tail.len() as f64
        };
        let curve = &setting.curves[metric];
        Stat {
            mean: average(&curve.mean),
            std: average(&curve.std),
        }
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

    /// A method's settings, best first; those that diverged come last.
    pub fn ranking(&self, method: &str, metric: usize, cutoff: Option<usize>) -> Vec<&Setting> {
        let sign = if self.higher_is_better(&self.metrics[metric]) {
            -1.0
        } else {
            1.0
        };
        let mine = self.settings.iter().filter(|s| s.method() == method);
        let mut ranked: Vec<(f64, &Setting)> = mine
            .map(|s| (sign * self.last(s, metric, cutoff).mean, s))
            .collect();
        // NaN sorts last whatever its sign bit.
        ranked.sort_by(|a, b| (a.0.is_nan().cmp(&b.0.is_nan())).then(a.0.total_cmp(&b.0)));
        ranked.into_iter().map(|(_, s)| s).collect()
    }
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
fn average(runs: &[Run], metric: &str, epochs: usize) -> Curve {
    let columns: Vec<Option<&[f64]>> = runs.iter().map(|run| run.metric(metric)).collect();
    let mut curve = Curve::default();
    for row in 0..epochs {
        let values = columns.iter().map(|c| c.map_or(f64::NAN, |c| c[row]));
        curve
            .mean
            .push(values.clone().sum::<f64>() / runs.len() as f64);
        let (mut n, mut mean, mut squares) = (0.0, 0.0, 0.0);
        for x in values.filter(|x| !x.is_nan()) {
            n += 1.0;
            let old = mean;
            mean += (x - old) / n;
            squares += (x - mean) * (x - old);
        }
        curve.std.push(if n > 1.0 {
            (squares / (n - 1.0)).sqrt()
        } else {
            f64::NAN
        });
    }
    curve
}

fn parse_csv(name: &str, text: &str) -> std::result::Result<Record, String> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().map_err(|e| e.to_string())?.clone();
    let header: Vec<&str> = header.iter().map(escape::from_csv).collect();
    let names = header.iter().position(|c| *c == "name");
    let (["id", "epoch", ..], Some(names)) = (header.as_slice(), names) else {
        return Err("not a record: its columns should be id, epoch, ..., name, ...".into());
    };
    let columns = 2..names;
    let place = |column: &str| header[columns.clone()].iter().position(|c| *c == column);
    // A metric is a column with a `_std` of its own.
    let metrics: Vec<(usize, usize)> = (header[columns.clone()].iter().enumerate())
        .filter_map(|(at, metric)| Some((at + 2, place(&format!("{metric}_std"))? + 2)))
        .collect();
    let mut record = Record {
        name: name.to_owned(),
        metrics: metrics.iter().map(|m| header[m.0].to_owned()).collect(),
        keys: header[names..].iter().map(|k| (*k).to_owned()).collect(),
        epochs: Vec::new(),
        settings: Vec::new(),
        accuracy: true,
    };
    let mut epochs: Vec<Vec<usize>> = Vec::new();
    let mut index: HashMap<String, usize> = HashMap::new();
    let mut row = csv::StringRecord::new();
    while reader.read_record(&mut row).map_err(|e| e.to_string())? {
        let line = row.position().map_or(0, csv::Position::line);
        let at = match index.get(&row[0]) {
            Some(&at) => at,
            None => {
                let options = record.keys.iter().zip(row.iter().skip(names));
                let options = options.filter(|(_, value)| *value != "none");
                record.settings.push(Setting {
                    id: escape::from_csv(&row[0]).to_owned(),
                    options: options
                        .map(|(k, v)| (k.clone(), escape::from_csv(v).to_owned()))
                        .collect(),
                    curves: vec![Curve::default(); metrics.len()],
                    runs: Vec::new(),
                });
                epochs.push(Vec::new());
                index.insert(row[0].to_owned(), epochs.len() - 1);
                epochs.len() - 1
            }
        };
        let number = |column: usize| match &row[column] {
            "" => Ok(f64::NAN),
            text => text.parse::<f64>().map_err(|_| {
                format!(
                    "line {line}, column {}: {text:?} is not a number",
                    header[column]
                )
            }),
        };
        let epoch = row[1].parse();
        epochs[at].push(epoch.map_err(|_| format!("line {line}: epoch {:?}", &row[1]))?);
        for (curve, &(mean, std)) in record.settings[at].curves.iter_mut().zip(&metrics) {
            curve.mean.push(number(mean)?);
            curve.std.push(number(std)?);
        }
    }
    let Some(first) = epochs.first() else {
        return Err("no rows".into());
    };
    if let Some(other) = epochs.iter().position(|e| e != first) {
        let [a, b] =
            [0, other].map(|i| format!("{} has {}", record.settings[i].id, epochs[i].len()));
        return Err(format!(
            "settings with different numbers of epochs: {a}, {b}"
        ));
    }
    record.epochs.clone_from(first);
    record.settings.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(record)
}
