//! Tables: the best setting of every method, experiments as rows.

use super::identity::beside_opt;
use super::record::{Cutoff, Record, Setting, Stat};
use super::{escape, measure, names};
use crate::error::{Error, Result};

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

    fn of(&self, setting: &Setting) -> Option<String> {
        self.mean(setting).map(format_small)
    }

    /// The mean over a setting's runs, in the title's unit; none where a run does not say.
    fn mean(&self, setting: &Setting) -> Option<f64> {
        let costs = setting
            .runs
            .iter()
            .map(|run| run.summary.get(self.key)?.as_f64());
        let costs: Vec<f64> = costs.collect::<Option<_>>()?;
        let mean = costs.iter().sum::<f64>() / costs.len() as f64;
        (!costs.is_empty()).then_some(self.factor * mean)
    }
}

/// Characters of a line, where nobody says how many there are.
pub const WIDTH: usize = 80;
/// Points of a line in LaTeX for every character: [`WIDTH`] of them are the text's width in an article.
const POINTS: f64 = 345.0 / WIDTH as f64;

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
    /// The column by which methods are sorted, best first; by name if none.
    pub sort: Option<Column>,
}

/// Header and rows of plain text; `bold` cells are the best of their experiment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    pub header: Vec<String>,
    pub rows: Vec<Vec<Cell>>,
    pub kind: Kind,
    /// The first columns that say what a row is: a table that is cut has them in every part.
    pub keys: usize,
    /// What the numbers are: metric, unit, seeds.
    pub caption: String,
    /// What the rows leave out.
    pub notes: Vec<String>,
}

/// What may be done to show a table. All that are too wide are cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Nothing else.
    #[default]
    Plain,
    /// Columns that say the same in all rows are left out, but for those with the best in bold.
    Attributes,
    /// Columns are things as rows are: one that is too wide is turned on its side.
    Matrix,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cell {
    pub text: String,
    pub bold: bool,
}

impl Cell {
    pub fn plain(text: impl Into<String>) -> Cell {
        Cell {
            text: text.into(),
            bold: false,
        }
    }
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
        table.caption = caption(records, query)?;
        table.notes.extend(records.iter().filter_map(left_out));
        Ok(table)
    }

    fn wide(records: &[Record], query: &Query) -> Result<Table> {
        if query.sort.is_some_and(|column| column != Column::Score) {
            return Err(Error::usage(
                "without --columns a table has scores alone to sort by",
            ));
        }
        let mut methods: Vec<&str> = records.iter().flat_map(Record::methods).collect();
        methods.sort_unstable();
        methods.dedup();
        let bests = records.iter().map(|record| best_settings(record, query));
        let bests: Vec<Vec<Best>> = bests.collect::<Result<_>>()?;
        if query.sort.is_some() {
            // By the mean of their places, where there are several experiments.
            let place = |method: &str| {
                let places = bests.iter().filter_map(|best| {
                    let at = best.iter().position(|b| b.setting.method() == method)?;
                    Some(at as f64)
                });
                let n = places.clone().count() as f64;
                places.sum::<f64>() / n
            };
            methods.sort_by(|a, b| place(a).total_cmp(&place(b)));
        }
        let header = ["experiment"].iter().chain(&methods);
        let mut table = Table {
            header: header.map(|&title| title.to_owned()).collect(),
            kind: Kind::Matrix,
            keys: 1,
            ..Table::default()
        };
        for (record, best) in records.iter().zip(&bests) {
            let mut row = vec![Cell::plain(record.title())];
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
            kind: Kind::Attributes,
            keys: 2,
            ..Table::default()
        };
        for record in records {
            let metric = record.metric(query.score)?;
            for best in best_settings(record, query)? {
                let setting = best.setting;
                let plain = |text: Option<String>| Cell::plain(text.unwrap_or_else(|| "–".into()));
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

    /// As [`Table::render_within`] renders it, in lines of 80 characters.
    pub fn render(&self, format: Format) -> String {
        self.render_within(format, WIDTH)
    }

    /// The table in lines of at most `width` characters. For LaTeX 80 of them are the text's width in an article. Markdown
    /// and CSV have one line for each row, and CSV has all columns.
    pub fn render_within(&self, format: Format, width: usize) -> String {
        match format {
            Format::Text => self.text(width),
            Format::Markdown => self.markdown(),
            Format::Latex => self.latex(width),
            Format::Csv => self.csv(),
        }
    }

    /// Tables with the same columns, one after the other; in CSV they are one.
    pub fn render_all(tables: &[Table], format: Format, width: usize) -> String {
        if let (Format::Csv, Some(first)) = (format, tables.first()) {
            let rows = tables.iter().flat_map(|table| table.rows.clone());
            let rows = rows.collect();
            return Table {
                rows,
                ..first.clone()
            }
            .csv();
        }
        let texts = tables
            .iter()
            .map(|table| table.render_within(format, width));
        texts.collect::<Vec<_>>().join("\n")
    }

    /// Without the columns that say the same in all rows, which the caption says instead.
    fn varying(&self) -> Table {
        if self.kind != Kind::Attributes || self.rows.len() < 2 {
            return self.clone();
        }
        let column = |at: usize| self.rows.iter().map(move |row| &row[at]);
        let varies = |at: &usize| {
            let first = &self.rows[0][*at];
            column(*at).any(|cell| cell.bold || cell.text != first.text)
        };
        let (kept, constant): (Vec<usize>, Vec<usize>) =
            (0..self.header.len()).partition(|at| varies(at));
        if kept.is_empty() || constant.is_empty() {
            return self.clone();
        }
        let (filled, empty): (Vec<usize>, Vec<usize>) = constant
            .into_iter()
            .partition(|&at| !["", "–"].contains(&self.rows[0][at].text.as_str()));
        let said = |words: &str, columns: Vec<usize>| {
            let texts = columns.into_iter().map(|at| {
                let text = format!("{} {}", self.header[at], self.rows[0][at].text);
                text.trim_end_matches(['–', ' ']).to_owned()
            });
            let texts: Vec<String> = texts.collect();
            (!texts.is_empty()).then(|| format!("{words}: {}.", texts.join(", ")))
        };
        let caption = Some(self.caption.clone()).filter(|text| !text.is_empty());
        let caption = caption.into_iter();
        let caption = caption.chain(said("In all rows", filled));
        let caption = caption.chain(said("In no row", empty));
        Table {
            keys: kept.iter().filter(|&&at| at < self.keys).count(),
            caption: caption.collect::<Vec<_>>().join(" "),
            ..self.of_columns(&kept)
        }
    }

    /// With the names that people write, as figures have them.
    fn printed(&self) -> Table {
        let mut table = self.clone();
        let keys = table.rows.iter_mut().flat_map(|row| &mut row[..self.keys]);
        let mut names: Vec<&mut String> = keys.map(|cell| &mut cell.text).collect();
        if self.kind == Kind::Matrix {
            names.extend(&mut table.header[self.keys..]);
        }
        for name in names {
            *name = names::printed(name);
        }
        table
    }

    fn of_columns(&self, columns: &[usize]) -> Table {
        let row = |row: &Vec<Cell>| columns.iter().map(|&at| row[at].clone()).collect();
        Table {
            header: columns.iter().map(|&at| self.header[at].clone()).collect(),
            rows: self.rows.iter().map(row).collect(),
            ..self.clone()
        }
    }

    /// Rows as columns.
    fn turned(&self) -> Table {
        let titles = self.rows.iter().map(|row| row[0].text.clone());
        let header = std::iter::once("method".to_owned()).chain(titles);
        let row = |at: usize| {
            let cells = self.rows.iter().map(|row| row[at].clone());
            let title = Cell::plain(self.header[at].clone());
            std::iter::once(title).chain(cells).collect()
        };
        Table {
            header: header.collect(),
            rows: (1..self.header.len()).map(row).collect(),
            ..self.clone()
        }
    }

    /// The table, turned on its side or cut into several, so that none is wider than `limit`, where a column takes what
    /// `widths` says. A column that alone is too wide stays so.
    fn fitted(&self, limit: f64, widths: fn(&Table) -> Vec<f64>) -> Vec<Table> {
        let fits = |table: &Table| widths(table).iter().sum::<f64>() <= limit;
        if fits(self) {
            return vec![self.clone()];
        }
        let table = match self.kind {
            Kind::Matrix => self.turned(),
            _ => self.clone(),
        };
        let widths = widths(&table);
        let keys: Vec<usize> = (0..table.keys).collect();
        // Long keys are broken rather than all other columns left alone.
        let taken: f64 = keys.iter().map(|&at| widths[at].min(limit / 3.0)).sum();
        let cut = |limit: f64| {
            let mut parts = vec![keys.clone()];
            let mut left = limit - taken;
            for (at, width) in widths.iter().enumerate().skip(keys.len()) {
                if *width > left && parts[parts.len() - 1].len() > keys.len() {
                    parts.push(keys.clone());
                    left = limit - taken;
                }
                parts.last_mut().expect("one at least").push(at);
                left -= width;
            }
            parts
        };
        // Parts of about the same width: the narrowest that are no more than there have to be.
        let mut parts = cut(limit);
        let least = parts.len();
        let limits = (1..100).map(|percent| limit * f64::from(100 - percent) / 100.0);
        for narrower in limits.map(cut).take_while(|parts| parts.len() == least) {
            parts = narrower;
        }
        parts.iter().map(|part| table.of_columns(part)).collect()
    }

    fn comfy(&self) -> comfy_table::Table {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::UTF8_BORDERS_ONLY);
        table.set_header(self.header.iter().map(|h| escape::printable(h)));
        for row in &self.rows {
            table.add_row(row.iter().map(|c| {
                let star = if c.bold { " *" } else { "" };
                format!("{}{star}", escape::printable(&c.text))
            }));
        }
        // Two blanks between columns: one of them stands for the line that this style does not draw.
        table.column_iter_mut().skip(1).for_each(|column| {
            column.set_padding((0, 1));
        });
        table
    }

    fn text(&self, width: usize) -> String {
        let widths = |table: &Table| {
            let widths = table.comfy().column_max_content_widths().into_iter();
            widths.map(|width| f64::from(width) + 2.0).collect()
        };
        let whole = self.varying();
        let mut out = String::new();
        for part in whole.fitted(width as f64 - 2.0, widths) {
            let mut table = part.comfy();
            table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
            table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
            out += &format!("{table}\n");
        }
        let marked = self.rows.iter().flatten().any(|c| c.bold);
        let star = if marked {
            "* best of its experiment"
        } else {
            ""
        };
        for text in [&*escape::printable(&whole.caption), star] {
            if !text.is_empty() {
                out += &wrapped(text, width);
            }
        }
        out
    }

    fn markdown(&self) -> String {
        let table = self.varying();
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut out = line(table.header.iter().map(|h| escape::markdown(h)).collect());
        out += &line(vec!["---".into(); table.header.len()]);
        for row in &table.rows {
            let cell = |c: &Cell| {
                if c.bold {
                    format!("**{}**", escape::markdown(&c.text))
                } else {
                    escape::markdown(&c.text)
                }
            };
            out += &line(row.iter().map(cell).collect());
        }
        if !table.caption.is_empty() {
            out += &format!("\n{}\n", escape::markdown(&table.caption));
        }
        out
    }

    /// A float with its caption. A cell that is wider than a line is a paragraph.
    fn latex(&self, width: usize) -> String {
        let limit = width as f64 * POINTS;
        let widths = |table: &Table| {
            let column = |at: usize| {
                let cells = table
                    .rows
                    .iter()
                    .map(|row| (row[at].text.as_str(), row[at].bold));
                let cells = cells.chain([(table.header[at].as_str(), false)]);
                cells
                    .map(|(text, bold)| points(text, bold))
                    .fold(0.0, f64::max)
                    + GAP
            };
            (0..table.header.len()).map(column).collect::<Vec<f64>>()
        };
        let whole = self.printed().varying();
        let mut out = "% Needs \\usepackage{booktabs}.\n\\begin{table}\n\\centering\n".to_owned();
        let bold = self.rows.iter().flatten().any(|c| c.bold);
        let bold = if bold {
            " Bold: best of its experiment."
        } else {
            ""
        };
        let caption = format!("{}{bold}", whole.caption);
        if !caption.is_empty() {
            out += &format!("\\caption{{{}}}\n", escape::latex(caption.trim()));
        }
        for (at, part) in whole.fitted(limit, widths).iter().enumerate() {
            if at > 0 {
                out += "\\par\\bigskip\n";
            }
            out += &part.tabular(&widths(part), limit);
        }
        out + "\\end{table}\n"
    }

    fn tabular(&self, widths: &[f64], limit: f64) -> String {
        let total: f64 = widths.iter().sum();
        let widest = (0..widths.len()).max_by(|&a, &b| widths[a].total_cmp(&widths[b]));
        // What all other columns leave to the widest.
        let room = widest.map(|at| (limit - total + widths[at] - GAP).max(MIN_PARAGRAPH));
        let paragraph = widest.zip(room).filter(|_| total > limit);
        let spec = (0..widths.len()).map(|at| match paragraph {
            Some((place, room)) if place == at => format!("p{{{room:.0}pt}}"),
            _ if at < self.keys.max(1) => "l".into(),
            _ => "c".into(),
        });
        let spec: String = spec.collect();
        let cell = |at: usize, text: &str, bold: bool| {
            let mut text = escape::latex(text);
            if paragraph.is_some_and(|(place, _)| place == at) {
                // Names are long words: they may end a line at their signs.
                for sign in ["=", ",", "\\_", ":"] {
                    text = text.replace(sign, &format!("{sign}\\allowbreak{{}}"));
                }
                let series = if bold { "\\bfseries" } else { "" };
                return format!("{{\\raggedright{series} {text}\\par}}");
            }
            match bold {
                true => format!("\\textbf{{{text}}}"),
                false => text,
            }
        };
        let line = |cells: Vec<String>| format!("{} \\\\\n", cells.join(" & "));
        let mut out = format!("\\begin{{tabular}}{{{spec}}}\n\\toprule\n");
        let header = self.header.iter().enumerate();
        out += &line(header.map(|(at, text)| cell(at, text, false)).collect());
        out += "\\midrule\n";
        for row in &self.rows {
            let row = row.iter().enumerate();
            out += &line(row.map(|(at, c)| cell(at, &c.text, c.bold)).collect());
        }
        out + "\\bottomrule\n\\end{tabular}\n"
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
    /// Where it stands by a column: the smaller, the earlier.
    fn place(&self, column: Column, record: &Record, metric: usize, query: &Query) -> Option<f64> {
        let setting = self.setting;
        let sign = match record.higher_is_better(query.score) {
            true => -1.0,
            false => 1.0,
        };
        match column {
            Column::Score => (!self.diverged).then_some(sign * self.stat.mean),
            Column::Setting => setting.lr(),
            Column::Epochs => {
                let epochs = measure::epochs_to(record, setting, metric, query.target?);
                epochs.map(|e| e as f64)
            }
            Column::Time => measure::time_to(record, setting, metric, query.target?),
            Column::Area => measure::area(setting, metric).map(|area| sign * area),
            Column::Robustness => {
                measure::robustness(record, setting.method(), metric, query.cutoff).map(|x| -x)
            }
            Column::Cost => COSTS[0].mean(setting),
        }
    }

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
    let best = finite.reduce(if up { f64::max } else { f64::min });
    if let Some(best) = best {
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
    if let Some(column) = query.sort {
        // What there is no number for comes last.
        let place = |best: &Best| {
            let place = best.place(column, record, metric, query);
            place.filter(|x| !x.is_nan()).unwrap_or(f64::INFINITY)
        };
        all.sort_by(|a, b| place(a).total_cmp(&place(b)));
    }
    Ok(all)
}

/// What the scores of a table are.
fn caption(records: &[Record], query: &Query) -> Result<String> {
    let mut metrics: Vec<String> = Vec::new();
    let mut seeds: Vec<usize> = Vec::new();
    for record in records {
        let accuracy = record.higher_is_better(query.score);
        let unit = if accuracy { " (%)" } else { "" };
        let metric = format!("{}{unit}", names::metric(query.score, accuracy));
        if !metrics.contains(&metric) {
            metrics.push(metric);
        }
        let best = best_settings(record, query)?;
        seeds.extend(best.iter().map(|best| best.setting.runs.len()));
    }
    let scored = query.columns.is_empty() || query.columns.contains(&Column::Score);
    let when = match query.cutoff {
        None => "last epoch".into(),
        Some(Cutoff { from, to: None }) => format!("average from epoch {from} on"),
        Some(Cutoff { from, to: Some(to) }) => format!("average of epochs {from} to {to}"),
    };
    let (least, most) = (seeds.iter().min(), seeds.iter().max());
    let seeds = match (least.copied().unwrap_or(0), most.copied().unwrap_or(0)) {
        (_, 1) => "one seed".into(),
        (0, _) => "mean ± std over the seeds".into(),
        (least, most) if least < most => format!("mean ± std over {least} to {most} seeds"),
        (n, _) => format!("mean ± std over {n} seeds"),
    };
    let mut caption = format!("{}, best setting of every method", metrics.join(" or "));
    if scored {
        caption += &format!(", {when}, {seeds}");
    }
    if let Some(target) = query.target {
        caption += &format!("; target {target}");
    }
    Ok(caption + ".")
}

/// Words in lines of at most `width` characters, where words are not longer.
fn wrapped(text: &str, width: usize) -> String {
    let mut out = String::new();
    let mut line = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if line > 0 && line + 1 + length > width {
            out.push('\n');
            line = 0;
        } else if line > 0 {
            out.push(' ');
            line += 1;
        }
        out += word;
        line += length;
    }
    out + "\n"
}

/// Between two columns of a tabular.
const GAP: f64 = 12.0;
const MIN_PARAGRAPH: f64 = 60.0;

/// No less than the width of a text in Computer Modern, in points at a size of 10.
fn points(text: &str, bold: bool) -> f64 {
    let character = |c: char| match c {
        ' ' | '.' | ',' | ':' | ';' | '\'' | 'i' | 'j' | 'l' | 'f' | 'r' | 't' | 'I' | '('
        | ')' | '-' => 4.0,
        'm' | 'w' | 'M' | 'W' | '%' | '@' | '±' | '+' | '=' | '<' | '>' | '&' => 10.3,
        'A'..='Z' => 8.0,
        c if c.is_ascii() => 5.6,
        _ => 10.3,
    };
    let shown = escape::printable(text);
    let width: f64 = shown.chars().map(character).sum();
    if bold { 1.16 * width } else { width }
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
