//! Tables: the best setting of every method, experiments as rows.

use super::identity::beside_opt;
use super::record::{Cutoff, Record, Setting, Stat};
use super::{escape, measure};
use crate::error::Result;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Markdown,
    Latex,
    Csv,
}

/// A column of the long table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Column {
    /// Final score, mean ± std over the seeds
    Score,
    /// Hyper-parameters of the best setting
    Setting,
    /// First epoch that reaches the target
    Epochs,
    /// Seconds of training until then
    Time,
    /// Area under the score's curve, divided by the epochs
    Area,
    /// Decades of learning rate within one point of the best score
    Robustness,
    /// What the best setting costs: state, passes, time of the update, its share of a step, peak memory
    Cost,
}

impl Column {
    fn titles(self) -> Vec<&'static str> {
        let title = match self {
            Column::Score => "score",
            Column::Setting => "setting",
            Column::Epochs => "epochs to target",
            Column::Time => "seconds to target",
            Column::Area => "area",
            Column::Robustness => "robustness (decades)",
            Column::Cost => return COSTS.iter().map(|cost| cost.title).collect(),
        };
        vec![title]
    }
}

/// What summaries say of a run's costs.
struct Cost {
    title: &'static str,
    key: &'static str,
    /// From the summary's unit to the title's.
    factor: f64,
}

const COSTS: [Cost; 5] = [
    Cost::new("state (bytes/parameter)", "state_bytes_per_parameter", 1.0),
    Cost::new("passes", "update_passes", 1.0),
    Cost::new("update (ms)", "update_seconds", 1e3),
    Cost::new("of a step (%)", "update_share", 1e2),
    Cost::new("peak memory (MB)", "peak_memory_bytes", 1e-6),
];

impl Cost {
    const fn new(title: &'static str, key: &'static str, factor: f64) -> Cost {
        Cost { title, key, factor }
    }

    /// The mean over a setting's runs; none where a run does not say.
    fn of(&self, setting: &Setting) -> Option<String> {
        let costs = setting
            .runs
            .iter()
            .map(|run| run.summary.get(self.key)?.as_f64());
        let costs: Vec<f64> = costs.collect::<Option<_>>()?;
        let mean = costs.iter().sum::<f64>() / costs.len() as f64;
        (!costs.is_empty()).then(|| format_small(self.factor * mean))
    }
}

/// What to show of which experiments.
#[derive(Clone, Debug)]
pub struct Query<'a> {
    pub score: &'a str,
    /// Average over these epochs; the last epoch if none.
    pub cutoff: Option<Cutoff>,
    /// Empty for the wide table: methods as columns, each with its score.
    pub columns: &'a [Column],
    /// For the columns that need one.
    pub target: Option<f64>,
}

/// Header and rows of plain text; `bold` cells are the best of their experiment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    pub header: Vec<String>,
    pub rows: Vec<Vec<Cell>>,
    /// What the rows leave out.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cell {
    pub text: String,
    pub bold: bool,
}

/// `97.84 ± 0.05` in per cent for accuracies, three significant digits for losses.
pub fn format_stat(stat: Stat, accuracy: bool) -> String {
    let Stat { mean, std } = stat;
    match (mean.is_finite(), accuracy) {
        (false, _) => "diverged".into(),
        (true, true) if std.is_nan() => format!("{:.2}", 100.0 * mean),
        (true, true) => format!("{:.2} ± {:.2}", 100.0 * mean, 100.0 * std),
        (true, false) if std.is_nan() => format_small(mean),
        (true, false) => format!("{} ± {}", format_small(mean), format_small(std)),
    }
}

/// Three significant digits.
pub fn format_small(x: f64) -> String {
    let magnitude = x.abs().log10().floor();
    if x == 0.0 {
        "0".into()
    } else if !x.is_finite() {
        "diverged".into()
    } else if (-4.0..5.0).contains(&magnitude) {
        format!("{:.*}", (2.0 - magnitude).max(0.0) as usize, x)
    } else {
        format!("{x:.2e}")
    }
}

impl Table {
    pub fn new(records: &[Record], query: &Query) -> Result<Table> {
        let mut table = if query.columns.is_empty() {
            let mut table = Table::wide(records, query)?;
            table.notes = records.iter().filter_map(hidden).collect();
            table
        } else {
            Table::long(records, query)?
        };
        table.notes.extend(records.iter().filter_map(left_out));
        Ok(table)
    }

    fn wide(records: &[Record], query: &Query) -> Result<Table> {
        let mut methods: Vec<&str> = records.iter().flat_map(Record::methods).collect();
        methods.sort_unstable();
        methods.dedup();
        let mut table = Table {
            header: std::iter::once("experiment")
                .chain(methods.iter().copied())
                .map(str::to_owned)
                .collect(),
            ..Table::default()
        };
        for record in records {
            let best = best_settings(record, query)?;
            let mut row = vec![Cell {
                text: record.title(),
                bold: false,
            }];
            row.extend(methods.iter().map(|method| {
                let mine = best.iter().find(|b| b.setting.method() == *method);
                mine.map_or_else(Cell::default, |b| b.cell(record, query))
            }));
            table.rows.push(row);
        }
        Ok(table)
    }

    fn long(records: &[Record], query: &Query) -> Result<Table> {
        let titles = query.columns.iter().flat_map(|c| c.titles());
        let header = ["experiment", "method"].into_iter().chain(titles);
        let mut table = Table {
            header: header.map(str::to_owned).collect(),
            ..Table::default()
        };
        for record in records {
            let metric = record.metric(query.score)?;
            for best in best_settings(record, query)? {
                let setting = best.setting;
                let plain = |text: Option<String>| Cell {
                    text: text.unwrap_or_else(|| "–".into()),
                    bold: false,
                };
                let cells = |column: &Column| match column {
                    Column::Score => vec![best.cell(record, query)],
                    Column::Setting => vec![plain(Some(setting.label()))],
                    Column::Epochs => vec![plain(query.target.and_then(|target| {
                        measure::epochs_to(record, setting, metric, target).map(|e| e.to_string())
                    }))],
                    Column::Time => vec![plain(query.target.and_then(|target| {
                        measure::time_to(record, setting, metric, target).map(format_small)
                    }))],
                    Column::Area => vec![plain(measure::area(setting, metric).map(format_small))],
                    Column::Robustness => vec![plain(
                        measure::robustness(record, setting.method(), metric, query.cutoff)
                            .map(|decades| format!("{decades:.1}")),
                    )],
                    Column::Cost => COSTS.iter().map(|cost| plain(cost.of(setting))).collect(),
                };
                let start = [
                    plain(Some(record.title())),
                    plain(Some(setting.method().to_owned())),
                ];
                table.rows.push(
                    start
                        .into_iter()
                        .chain(query.columns.iter().flat_map(cells))
                        .collect(),
                );
            }
        }
        Ok(table)
    }

    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Text => self.text(),
            Format::Markdown => self.markdown(),
            Format::Latex => self.latex(),
            Format::Csv => self.csv(),
        }
    }

    fn text(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::UTF8_BORDERS_ONLY);
        table.set_header(self.header.iter().map(|h| escape::printable(h)));
        for row in &self.rows {
            table.add_row(row.iter().map(|c| {
                let star = if c.bold { " *" } else { "" };
                format!("{}{star}", escape::printable(&c.text))
            }));
        }
        let marked = self.rows.iter().flatten().any(|c| c.bold);
        let note = if marked {
            "* best of its experiment\n"
        } else {
            ""
        };
        format!("{table}\n{note}")
    }

    fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut out = line(self.header.iter().map(|h| escape::markdown(h)).collect());
        out += &line(vec!["---".into(); self.header.len()]);
        for row in &self.rows {
            let cell = |c: &Cell| {
                if c.bold {
                    format!("**{}**", escape::markdown(&c.text))
                } else {
                    escape::markdown(&c.text)
                }
            };
            out += &line(row.iter().map(cell).collect());
        }
        out
    }

    /// Needs no package: bold is `\textbf`, ± is `$\pm$`.
    fn latex(&self) -> String {
        let line = |cells: Vec<String>| format!("{} \\\\\n", cells.join(" & "));
        let mut out = format!(
            "\\begin{{tabular}}{{l{}}}\n\\hline\n",
            "c".repeat(self.header.len() - 1)
        );
        out += &line(self.header.iter().map(|h| escape::latex(h)).collect());
        out += "\\hline\n";
        for row in &self.rows {
            let cell = |c: &Cell| {
                let text = escape::latex(&c.text);
                if c.bold {
                    format!("\\textbf{{{text}}}")
                } else {
                    text
                }
            };
            out += &line(row.iter().map(cell).collect());
        }
        out + "\\hline\n\\end{tabular}\n"
    }

    fn csv(&self) -> String {
        let mut out = csv::Writer::from_writer(Vec::new());
        let header = self.header.iter().map(|h| escape::csv(h));
        out.write_record(header).expect("writing to memory");
        for row in &self.rows {
            out.write_record(row.iter().map(|c| escape::csv(&c.text)))
                .expect("writing to memory");
        }
        String::from_utf8(out.into_inner().expect("writing to memory")).expect("from strings")
    }
}

struct Best<'a> {
    setting: &'a Setting,
    stat: Stat,
    diverged: bool,
    best: bool,
}

impl Best<'_> {
    fn cell(&self, record: &Record, query: &Query) -> Cell {
        let mut text = format_stat(self.stat, record.higher_is_better(query.score));
        if self.diverged && self.stat.mean.is_finite() {
            text += " (diverged)";
        }
        if let Some(seeds) = record.seeds(&[self.setting]) {
            text += &format!(" ({seeds})");
        }
        Cell {
            text,
            bold: self.best,
        }
    }
}

/// The best setting of every method that has the metric; `best` marks the best of all, and those that look the same.
fn best_settings<'a>(record: &'a Record, query: &Query) -> Result<Vec<Best<'a>>> {
    let metric = record.metric(query.score)?;
    let mut all: Vec<Best> = Vec::new();
    for method in record.methods() {
        let Some(&setting) = record.ranking(method, metric, query.cutoff).first() else {
            continue;
        };
        all.push(Best {
            setting,
            stat: record.last(setting, metric, query.cutoff),
            diverged: record.diverged(setting, query.cutoff),
            best: false,
        });
    }
    let up = record.higher_is_better(query.score);
    let trained = |b: &&mut Best| !b.diverged && b.stat.mean.is_finite();
    let finite = all.iter_mut().filter(trained).map(|b| b.stat.mean);
    if let Some(best) = finite.reduce(if up { f64::max } else { f64::min }) {
        // What reads the same is as good.
        let shown = |mean| {
            format_stat(
                Stat {
                    mean,
                    std: f64::NAN,
                },
                up,
            )
        };
        for one in all.iter_mut().filter(trained) {
            one.best = shown(one.stat.mean) == shown(best);
        }
    }
    Ok(all)
}

/// What the best settings may differ in beside the optimizer, for a table that does not show them.
fn hidden(record: &Record) -> Option<String> {
    let ranked = || record.settings.iter().filter(|s| s.end() == record.end());
    let differs = |key: &&String| {
        let mut values = ranked().map(|s| s.option(key));
        let first = values.next();
        beside_opt(key) && values.any(|value| Some(value) != first)
    };
    let keys: Vec<&str> = record
        .keys
        .iter()
        .filter(differs)
        .map(String::as_str)
        .collect();
    (!keys.is_empty()).then(|| {
        format!(
            "{}: settings also differ in {}; --columns score,setting shows which are the best",
            record.title(),
            keys.join(", ")
        )
    })
}

/// What is not ranked: runs that were trained for a look, say, and not to the end.
fn left_out(record: &Record) -> Option<String> {
    let end = record.end();
    let shorter = record.settings.iter().filter(|s| s.end() < end).count();
    (shorter > 0).then(|| {
        let (title, all) = (record.title(), record.settings.len());
        format!("{title}: {shorter} of {all} settings are left out, which end before epoch {end}")
    })
}
