//! `compare`: my runs beside the published record, or methods beside each other.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::print::{self, print};
use super::sources::{Sources, finite, note_cutoff};
use super::table::Shape;
use crate::error::{Error, Result};
use crate::results::compare::{Comparison, Deviation, LIMIT, RELATIVE_LIMIT, Row, compare};
use crate::results::profile::Clock;
use crate::results::record::{Cutoff, Record};
use crate::results::significance::{
    Arrivals, Contest, Query, Race, Tested, Testing, contest, race,
};
use crate::results::statistics::{TTest, Z};
use crate::results::table::{Cell, Kind, Table, format_small, format_stat};

/// Set final losses and scores beside a record, or beside those of other methods
///
/// Without more than ids each setting is set beside the same one of a record, in units of the pooled standard deviation. With
/// --methods, --baseline, --paired, --alpha, --bootstrap or --cutoff, and no --against, the best settings of an experiment's
/// methods are tested against each other, with --target by when they reach it. docs/statistics.md says which test to use when.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Experiments: their output files are compared
    #[arg(required = true)]
    ids: Vec<String>,
    /// The record, as an id or a path [default: ID in the folder of records]
    #[arg(long, value_name = "RECORD")]
    against: Option<String>,
    #[command(flatten)]
    sources: Sources,
    /// Quantities to compare [default: train_loss and val_score; with --target val_score]
    #[arg(long = "metric", value_name = "METRIC")]
    metrics: Vec<String>,
    /// Compare these methods of the experiment with each other, `all` for all
    #[arg(
        long,
        value_name = "METHOD",
        value_delimiter = ',',
        conflicts_with = "against"
    )]
    methods: Vec<String>,
    /// The method that the others are tested against [default: the best]
    #[arg(long, value_name = "METHOD", conflicts_with = "against")]
    baseline: Option<String>,
    /// Pair the runs of one seed, which see the same batches; otherwise Welch's test
    #[arg(long)]
    paired: bool,
    /// Test differences at this level; p is corrected by Holm for all tests of a table [default: 0.05]
    #[arg(long, value_name = "X", value_parser = share)]
    alpha: Option<f64>,
    /// Intervals from N resamples of the seeds instead of Student's t
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    bootstrap: Option<u32>,
    /// Methods by the average over the epochs from A on, or from A to B, instead of the last
    #[arg(long, value_name = "A[:B]", conflicts_with = "against")]
    cutoff: Option<Cutoff>,
    /// Methods by when they reach this score (a fraction) or loss
    #[arg(long, value_name = "X", value_parser = finite, conflicts_with_all = ["against", "baseline", "paired", "bootstrap", "cutoff"])]
    target: Option<f64>,
    /// Standard deviation of one run, for --target [default: pooled over the seeds]
    #[arg(long, value_name = "X", value_parser = positive, requires = "target")]
    sigma: Option<f64>,
    /// What the time to the target is counted in
    #[arg(long, value_enum, default_value = "epochs", requires = "target")]
    clock: Clock,
    #[command(flatten)]
    shape: Shape,
    /// One JSON object instead of tables
    #[arg(long, conflicts_with_all = ["format", "width"])]
    json: bool,
    /// Exit 1 if any setting differs from the record by more than 3 pooled standard deviations (1 % where there is one seed
    /// only), or if nothing was compared
    #[arg(long, conflicts_with_all = ["methods", "baseline", "cutoff", "target"])]
    strict: bool,
}

/// A number between 0 and 1, both excluded.
fn share(text: &str) -> std::result::Result<f64, String> {
    let number = text.parse().ok().filter(|x: &f64| *x > 0.0 && *x < 1.0);
    number.ok_or_else(|| "expected a number between 0 and 1".into())
}

fn positive(text: &str) -> std::result::Result<f64, String> {
    let number = finite(text)?;
    (number > 0.0)
        .then_some(number)
        .ok_or_else(|| "not above 0".into())
}

impl Args {
    pub fn run(self) -> Result<u8> {
        let tests = self.paired || self.alpha.is_some() || self.bootstrap.is_some();
        let testing = Testing {
            paired: self.paired,
            alpha: self.alpha.unwrap_or(0.05),
            resamples: self.bootstrap.map(|n| n as usize),
        };
        let among = !self.methods.is_empty()
            || self.baseline.is_some()
            || self.cutoff.is_some()
            || self.target.is_some()
            || tests && self.against.is_none() && !self.strict;
        if among {
            return self.among_methods(testing);
        }
        if self.against.is_some() && self.ids.len() > 1 {
            return Err(Error::usage("--against: one record is for one experiment"));
        }
        let mut code = 0;
        for id in &self.ids {
            code |= self.with_record(id, tests.then_some(testing))?;
        }
        Ok(code)
    }

    fn metrics(&self) -> Vec<&str> {
        match (self.metrics.is_empty(), self.target) {
            (true, None) => vec!["train_loss", "val_score"],
            (true, Some(_)) => vec!["val_score"],
            _ => self.metrics.iter().map(String::as_str).collect(),
        }
    }

    fn with_record(&self, id: &str, testing: Option<Testing>) -> Result<u8> {
        let mine = self.sources.outputs(id)?;
        let theirs = self.sources.record(self.against.as_deref().unwrap_or(id))?;
        let comparison = compare(&mine, &theirs, &self.metrics(), testing.as_ref())?;
        let rows = &comparison.rows;
        if self.json {
            print::json(&record_json(id, &comparison))?;
        } else {
            let whole = record_table(rows, testing.as_ref());
            let tables = match self.shape.is_csv() {
                true => vec![whole],
                false => by_metric(&whole),
            };
            print(&self.shape.render(&tables, true))?;
        }
        if rows.is_empty() {
            print::note("nothing was compared: no setting is in both");
        }
        let relative = |row: &&Row| matches!(row.deviation, Deviation::Relative(_));
        let one_seed = rows.iter().filter(relative).count();
        if one_seed > 0 {
            print::note(format_args!(
                "{one_seed} of {} have one seed on both sides and so no spread: relative differences, which agree \
                 within {} %",
                rows.len(),
                100.0 * RELATIVE_LIMIT
            ));
        }
        if let Some(testing) = testing {
            let significant = |row: &&Row| row.tested.is_some_and(|t| t.significant(testing.alpha));
            let tested = |row: &&Row| matches!(row.tested, Some(Tested::Test { .. }));
            print::note(format_args!(
                "{}: {} of {} differences are significant at alpha = {}, p corrected by Holm; {} could not be tested",
                testing.name(),
                rows.iter().filter(significant).count(),
                rows.iter().filter(tested).count(),
                testing.alpha,
                rows.iter().filter(|row| !tested(row)).count(),
            ));
        }
        let agreeing = rows.iter().filter(|r| r.agrees()).count();
        let differing = rows.len() - agreeing;
        print::note(format_args!(
            "{agreeing} of {} agree within {LIMIT} pooled standard deviations, {differing} differ; \
             {} settings only in the output, {} only in the record",
            rows.len(),
            comparison.only_mine.len(),
            comparison.only_theirs.len(),
        ));
        Ok(u8::from(self.strict && (differing > 0 || rows.is_empty())))
    }

    fn among_methods(self, testing: Testing) -> Result<u8> {
        let records = self.sources.load(&self.ids)?;
        let methods = match self.methods.as_slice() {
            [all] if all == "all" => &[],
            some => some,
        };
        let mut parts = Vec::new();
        for record in &records {
            for metric in self.metrics() {
                parts.push(match self.target {
                    None => self.contest(record, metric, methods, testing)?,
                    Some(target) => self.race(record, metric, methods, target)?,
                });
            }
        }
        let (tables, found): (Vec<Table>, Vec<Value>) = parts.into_iter().unzip();
        match self.json {
            true => print::json(&json!({"experiments": found}))?,
            false => print(&self.shape.render(&tables, true))?,
        }
        let notes = tables.iter().flat_map(|table| &table.notes);
        notes.collect::<BTreeSet<_>>().iter().for_each(print::note);
        note_cutoff(&records, self.cutoff);
        Ok(0)
    }

    fn contest(
        &self,
        record: &Record,
        metric: &str,
        methods: &[String],
        testing: Testing,
    ) -> Result<(Table, Value)> {
        let query = Query {
            metric,
            cutoff: self.cutoff,
            methods,
            baseline: self.baseline.as_deref(),
            testing,
        };
        let found = contest(record, &query)?;
        let json = contest_json(&found, &testing);
        Ok((contest_table(&found, &testing), json))
    }

    fn race(
        &self,
        record: &Record,
        metric: &str,
        methods: &[String],
        target: f64,
    ) -> Result<(Table, Value)> {
        let query = Race {
            metric,
            target,
            methods,
            clock: self.clock,
            sigma: self.sigma,
        };
        let found = race(record, &query)?;
        Ok((race_table(&found, &query), race_json(&found, &query)))
    }
}

fn record_table(rows: &[Row], testing: Option<&Testing>) -> Table {
    let header = [
        "setting",
        "metric",
        "mine",
        "record",
        "deviation",
        "verdict",
    ];
    let mut header: Vec<String> = header.map(str::to_owned).into();
    header.extend(testing.map(|_| "p".to_owned()));
    let row = |row: &Row| {
        let of = |side: usize| {
            let seeds = row.seeds.map(|s| format!(" ({} seeds)", s[side]));
            seeds.unwrap_or_default()
        };
        let cells = [
            row.label.clone(),
            row.metric.clone(),
            format_stat(row.mine, row.accuracy) + &of(0),
            format_stat(row.theirs, row.accuracy) + &of(1),
            match row.deviation {
                Deviation::Pooled(d) => format!("{d:+.2}"),
                Deviation::Relative(d) => format!("{:+.2} %", 100.0 * d),
            },
            row.verdict().to_owned(),
        ];
        let p = row.tested.map(|tested| p_value(&tested));
        cells.into_iter().chain(p).map(Cell::plain).collect()
    };
    Table {
        header,
        rows: rows.iter().map(row).collect(),
        keys: 2,
        ..Table::default()
    }
}

/// A table for each metric, with the metric under it instead of in a column.
fn by_metric(whole: &Table) -> Vec<Table> {
    const METRIC: usize = 1;
    let mut metrics: Vec<&str> = whole
        .rows
        .iter()
        .map(|row| row[METRIC].text.as_str())
        .collect();
    let mut seen = BTreeSet::new();
    metrics.retain(|metric| seen.insert(*metric));
    let without = |mut row: Vec<Cell>| {
        row.remove(METRIC);
        row
    };
    let part = |metric: &str| {
        let rows = whole.rows.iter().filter(|row| row[METRIC].text == metric);
        let header = whole.header.iter().enumerate();
        let header = header.filter(|(at, _)| *at != METRIC);
        Table {
            header: header.map(|(_, title)| title.clone()).collect(),
            rows: rows.cloned().map(without).collect(),
            keys: 1,
            caption: format!("{metric}, last epoch, mean ± std over the seeds (accuracies in %)."),
            ..whole.clone()
        }
    };
    metrics.into_iter().map(part).collect()
}

/// p, or why there is none.
fn p_value(tested: &Tested) -> String {
    match tested {
        Tested::Not(why) => (*why).into(),
        Tested::Test { corrected, .. } if corrected.is_nan() => "equal".into(),
        Tested::Test { corrected, .. } if *corrected < 1e-4 => "< 0.0001".into(),
        Tested::Test { corrected, .. } => {
            let digits = if *corrected < 0.01 { 4 } else { 3 };
            format!("{corrected:.digits$}")
        }
    }
}

/// From a to b; accuracies in per cent.
fn interval(ends: [f64; 2], accuracy: bool, with_sign: bool) -> String {
    let [low, high] = ends.map(|x| match (accuracy, with_sign) {
        (_, true) => signed(x, accuracy),
        (true, false) => format!("{:.2}", 100.0 * x),
        (false, false) => format_small(x),
    });
    format!("{low} to {high}")
}

/// With a sign; accuracies in per cent.
fn signed(x: f64, accuracy: bool) -> String {
    match accuracy {
        true => format!("{:+.2}", 100.0 * x),
        false if x > 0.0 => format!("+{}", format_small(x)),
        false => format_small(x),
    }
}

fn contest_table(found: &Contest, testing: &Testing) -> Table {
    let level = format!("{} % interval", (1e4 * testing.level()).round() / 100.0);
    let unit = if found.accuracy { " (%)" } else { "" };
    let header = [
        "experiment".to_owned(),
        "metric".into(),
        "method".into(),
        "setting".into(),
        "seeds".into(),
        "mean ± std".into(),
        level.clone(),
        format!("difference ({level})"),
        "p".into(),
        "outcome".into(),
    ];
    let rows = found.contestants.iter().map(|one| {
        let none = || "–".to_owned();
        let difference = |test: &TTest| {
            let interval = interval(test.interval, found.accuracy, true);
            format!("{} ({interval})", signed(test.difference, found.accuracy))
        };
        let cells = [
            found.title.clone(),
            format!("{}{unit}", found.metric),
            one.method.clone(),
            one.setting.clone(),
            if one.seeds == 0 {
                none()
            } else {
                one.seeds.to_string()
            },
            format_stat(one.last, found.accuracy),
            one.interval
                .map_or_else(none, |i| interval(i, found.accuracy, false)),
            match &one.tested {
                Some(Tested::Test { test, .. }) => difference(test),
                _ => none(),
            },
            one.tested.as_ref().map_or_else(none, p_value),
            one.outcome.name().to_owned(),
        ];
        cells.map(Cell::plain).into()
    });
    let intervals = match testing.resamples {
        None => "Student's t".into(),
        Some(n) => format!("{n} resamples"),
    };
    let caption = format!(
        "The best setting of every method, beside {}. {}, p corrected by Holm for {}; intervals from {intervals}. \
         Conclusion: {}.",
        found.baseline,
        capital(testing.name()),
        print::count(found.tests(), "test"),
        found.conclusion(testing.alpha)
    );
    let mut notes = Vec::new();
    if found.contestants.iter().any(|one| one.seeds == 1) {
        notes.push("one seed has no interval and cannot be tested: train more of them".to_owned());
    }
    if found.contestants.iter().any(|one| one.seeds == 0) {
        let title = &found.title;
        notes.push(format!(
            "{title}: a record holds means; tests need the single runs of an output"
        ));
    }
    Table {
        header: header.into(),
        rows: rows.collect(),
        kind: Kind::Attributes,
        keys: 3,
        caption,
        notes,
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}

fn race_table(found: &Arrivals, query: &Race) -> Table {
    let unit = query.clock.unit();
    let header = [
        "experiment".to_owned(),
        "metric".into(),
        "method".into(),
        "setting".into(),
        "seeds".into(),
        format!("{unit} to {}", query.target),
        "significant".into(),
        "behind".into(),
    ];
    let time = |x: f64| match x.is_finite() {
        false => "never".to_owned(),
        true if query.clock == Clock::Seconds => format_small(x),
        true => x.to_string(),
    };
    let rows = found.runners.iter().map(|one| {
        let none = || "–".to_owned();
        let known = found.sigma.is_finite() && one.seeds > 0;
        let cells = [
            found.title.clone(),
            query.metric.to_owned(),
            one.method.clone(),
            one.setting.clone(),
            if one.seeds == 0 {
                none()
            } else {
                one.seeds.to_string()
            },
            time(one.first),
            if known { time(one.significant) } else { none() },
            one.behind.map_or_else(none, |b| {
                // A zero has no sign.
                format!("{:.2}", if b.abs() < 0.005 { 0.0 } else { b })
            }),
        ];
        cells.map(Cell::plain).into()
    });
    let rows: Vec<Vec<Cell>> = rows.collect();
    let mut notes = Vec::new();
    if found.sigma.is_nan() {
        notes.push(
            "no setting has several seeds, so nothing is known of chance: give --sigma".to_owned(),
        );
    }
    if found.runners.iter().all(|one| one.first.is_infinite()) {
        let (title, target) = (&found.title, query.target);
        notes.push(format!("{title}: no method reaches {target}"));
    }
    let sigma = match found.sigma.is_nan() {
        true => String::new(),
        false => format!(
            " Significant: the mean is past the target by {Z} standard errors; behind: standard errors behind the first \
             method when that one arrives. One run's standard deviation is {}.",
            format_small(found.sigma)
        ),
    };
    Table {
        header: header.into(),
        rows,
        kind: Kind::Attributes,
        keys: 3,
        caption: format!(
            "When the mean of each method's fastest setting reaches {}, in {unit} of training.{sigma}",
            query.target
        ),
        notes,
    }
}

/// Null for what JSON cannot say.
fn test_json(tested: Option<Tested>) -> Value {
    match tested {
        None => Value::Null,
        Some(Tested::Not(why)) => json!({"not_tested": why}),
        Some(Tested::Test { test, corrected }) => json!({
            "difference": test.difference, "interval": test.interval, "t": test.t, "df": test.df, "p": test.p,
            "p_holm": corrected,
        }),
    }
}

fn record_json(id: &str, found: &Comparison) -> Value {
    let rows = found.rows.iter().map(|row| {
        let (kind, deviation) = match row.deviation {
            Deviation::Pooled(d) => ("pooled", d),
            Deviation::Relative(d) => ("relative", d),
        };
        json!({
            "setting": row.id, "metric": row.metric, "agrees": row.agrees(),
            "mine": {"mean": row.mine.mean, "std": row.mine.std},
            "record": {"mean": row.theirs.mean, "std": row.theirs.std},
            "deviation": deviation, "deviation_is": kind, "test": test_json(row.tested),
        })
    });
    json!({
        "experiment": id, "rows": rows.collect::<Vec<_>>(), "only_mine": found.only_mine, "only_record": found.only_theirs,
    })
}

fn contest_json(found: &Contest, testing: &Testing) -> Value {
    let methods = found.contestants.iter().map(|one| {
        json!({
            "method": one.method, "setting": one.setting, "seeds": one.seeds, "mean": one.last.mean,
            "std": one.last.std, "interval": one.interval, "test": test_json(one.tested),
            "outcome": one.outcome.name(),
        })
    });
    json!({
        "experiment": found.title, "metric": found.metric, "baseline": found.baseline, "test": testing.name(),
        "alpha": testing.alpha, "resamples": testing.resamples, "methods": methods.collect::<Vec<_>>(),
        "conclusion": found.conclusion(testing.alpha),
    })
}

fn race_json(found: &Arrivals, query: &Race) -> Value {
    let methods = found.runners.iter().map(|one| {
        json!({
            "method": one.method, "setting": one.setting, "seeds": one.seeds, "first": one.first,
            "significant": one.significant, "behind": one.behind,
        })
    });
    json!({
        "experiment": found.title, "metric": query.metric, "target": query.target, "sigma": found.sigma,
        "time": query.clock.unit(), "methods": methods.collect::<Vec<_>>(),
    })
}
