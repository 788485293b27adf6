//! Tables on lines of limited length, as text and in LaTeX.

use std::process::Command;

use crate::common::{files, skip::skip};
use stepback_native::optim::ROWS;
use stepback_native::results::record::{Record, from_outputs, read_csv};
use stepback_native::results::table::{Cell, Column, Format, Kind, Query, Table};

/// A record of an experiment with these methods and final scores.
fn record(id: &str, methods: &[(&str, f64)]) -> Record {
    let mut csv = "id,epoch,val_score,val_score_std,name,lr,weight_decay\n".to_owned();
    for (method, score) in methods {
        for decay in [0.0, 0.1] {
            let score = score - decay;
            csv += &format!(
                "name={method}:lr=0.1:weight_decay={decay},0,0.1,0.01,{method},0.1,{decay}\n"
            );
            csv += &format!(
                "name={method}:lr=0.1:weight_decay={decay},1,{score},0.01,{method},0.1,{decay}\n"
            );
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("{id}.csv"));
    std::fs::write(&path, csv).unwrap();
    read_csv(&path).unwrap().remove(0)
}

/// The names of thirteen methods.
fn methods() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|row| row.entry.name).take(13)
}

fn many(ids: &[&str]) -> Vec<Record> {
    let scored = methods().enumerate();
    let scored: Vec<(&str, f64)> = scored.map(|(at, m)| (m, 0.9 - 0.01 * at as f64)).collect();
    ids.iter().map(|id| record(id, &scored)).collect()
}

const QUERY: Query = Query {
    score: "val_score",
    cutoff: None,
    columns: &[],
    target: None,
    sort: None,
};

const LONG: Query = Query {
    columns: &[
        Column::Score,
        Column::Setting,
        Column::Epochs,
        Column::Time,
        Column::Area,
        Column::Robustness,
    ],
    target: Some(0.5),
    ..QUERY
};

fn widest(text: &str) -> usize {
    text.lines().map(|line| line.chars().count()).max().unwrap()
}

#[test]
fn text_keeps_to_its_lines() {
    let six = ["one", "two", "three", "four", "five", "six"];
    for (records, query) in [
        (many(&six[..1]), QUERY),
        (many(&six), QUERY),
        (many(&six[..2]), LONG),
    ] {
        let table = Table::new(&records, &query).unwrap();
        for width in [40, 80, 120] {
            let text = table.render_within(Format::Text, width);
            assert!(widest(&text) <= width, "{width}:\n{text}");
            assert!(methods().all(|m| text.contains(m)), "{text}");
        }
    }
    // A name that is longer than a line is broken.
    let long = "x".repeat(100);
    let table = Table {
        header: vec!["run".into(), long.clone()],
        rows: vec![vec![Cell::plain(&long), Cell::plain("1")]],
        keys: 1,
        ..Table::default()
    };
    let text = table.render_within(Format::Text, 80);
    assert!(widest(&text) <= 80, "{text}");
}

#[test]
fn many_methods_stand_below_each_other() {
    let table = Table::new(&many(&["one"]), &QUERY).unwrap();
    let text = table.render(Format::Text);
    let line = text
        .lines()
        .find(|line| line.contains("momo-star "))
        .unwrap();
    assert!(line.contains("84.00 ± 1.00"), "{text}");
    assert_eq!(text.matches("one").count(), 1, "{text}");
    // Where there is room, experiments do.
    assert!(
        table
            .render_within(Format::Text, 300)
            .lines()
            .nth(1)
            .unwrap()
            .contains("adabelief")
    );
}

#[test]
fn parts_of_a_table_have_its_keys() {
    let table = Table {
        header: ["run", "first column", "b", "c"].map(str::to_owned).into(),
        rows: vec![["first", "1", "2", "3"].map(Cell::plain).into()],
        keys: 1,
        ..Table::default()
    };
    let text = table.render_within(Format::Text, 23);
    assert_eq!(text.matches("│ first").count(), 2, "{text}");
    let places: Vec<usize> = ["1", "2", "3"]
        .iter()
        .map(|cell| text.find(cell).unwrap())
        .collect();
    assert!(places.is_sorted(), "{text}");
}

#[test]
fn what_is_the_same_in_all_rows_is_said_once() {
    let records = many(&["one"]);
    let table = Table::new(&records, &LONG).unwrap();
    let text = table.render(Format::Text);
    let said = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let constant = "In all rows: experiment one, setting lr=0.1, weight_decay=0, epochs to target 2, robustness (decades) 0.0. In no row: seconds to target.";
    assert!(said.contains(constant), "{text}");
    assert!(
        said.contains("Validation accuracy (%)") && said.contains("target 0.5"),
        "{text}"
    );
    // All columns are in the CSV.
    let csv = table.render(Format::Csv);
    assert!(
        csv.starts_with("experiment,method,score,setting,epochs to target,"),
        "{csv}"
    );
    let plain = Table {
        kind: Kind::Plain,
        ..table
    };
    assert!(!plain.render(Format::Text).contains("In all rows"));
}

#[test]
fn captions_say_how_many_seeds() {
    let caption = |id: &str| {
        let folder = files::path("records/reference/outputs");
        let records = from_outputs(id, &folder);
        Table::new(&records.unwrap(), &QUERY).unwrap().caption
    };
    let said = caption("mnist_mlp-2");
    assert!(
        said.ends_with("last epoch, mean ± std over 3 seeds."),
        "{said}"
    );
    let cut = Query {
        cutoff: Some("0:1".parse().unwrap()),
        ..QUERY
    };
    let said = Table::new(&many(&["one"]), &cut).unwrap().caption;
    assert!(
        said.contains("average of epochs 0 to 1, mean ± std over the seeds"),
        "{said}"
    );
}

#[test]
fn methods_are_sorted_by_a_column() {
    let methods = [("a", 0.2), ("b", 0.9), ("c", 0.5)];
    let records = [record("one", &methods)];
    let sorted = |query: &Query| Table::new(&records, query).unwrap();
    let by_score = Query {
        sort: Some(Column::Score),
        ..QUERY
    };
    assert_eq!(sorted(&by_score).header, ["experiment", "b", "c", "a"]);
    let rows = |query: &Query| -> Vec<String> {
        sorted(query)
            .rows
            .iter()
            .map(|row| row[1].text.clone())
            .collect()
    };
    let by = |column| Query {
        sort: Some(column),
        ..LONG
    };
    assert_eq!(rows(&by(Column::Score)), ["b", "c", "a"]);
    assert_eq!(rows(&by(Column::Area)), ["b", "c", "a"]);
    // The first does not reach the target.
    assert_eq!(rows(&by(Column::Epochs)), ["b", "c", "a"]);
    let e = Table::new(
        &records,
        &Query {
            sort: Some(Column::Area),
            ..QUERY
        },
    )
    .unwrap_err();
    assert!(e.message.contains("--columns"), "{e}");
    // The mean of the places counts: b is first and third.
    let two = [
        record("one", &methods),
        record("two", &[("a", 0.6), ("b", 0.1), ("c", 0.7)]),
    ];
    let header = Table::new(&two, &by_score).unwrap().header;
    assert_eq!(header, ["experiment", "c", "b", "a"]);
}

/// A document of all kinds of tables has no box that is too wide.
#[test]
fn latex_compiles_without_overfull_boxes() {
    let compiler = Command::new("pdflatex").arg("--version").output();
    if compiler.is_err() {
        return skip("latex_compiles_without_overfull_boxes", "pdflatex");
    }
    let wide = "WMWM WMWM%".to_owned();
    let label =
        "lr=0.001, weight_decay=0.0001, momentum=0.9, some_other_key=123456, batch_size=128";
    let extreme = Table {
        header: vec![
            wide.clone(),
            "m_{x}^2".into(),
            "setting".into(),
            "±~<>|\\".into(),
            "digits".into(),
        ],
        rows: vec![
            ["a&b", "1 ± 2", label, "#$%", "0.123456789"]
                .map(Cell::plain)
                .into(),
            ["x", "1", label, "y", "-1.2e-10"]
                .map(|text| Cell {
                    text: text.into(),
                    bold: true,
                })
                .into(),
        ],
        keys: 1,
        caption: "Percent % and under_score, {braces} & more".into(),
        ..Table::default()
    };
    let ids = ["one", "two_words", "three", "four", "five"];
    let tables = [
        Table::new(&many(&ids[..1]), &QUERY).unwrap(),
        Table::new(&many(&ids), &QUERY).unwrap(),
        Table::new(&many(&ids[..2]), &LONG).unwrap(),
        extreme,
    ];
    let folder = tempfile::tempdir().unwrap();
    // The widths of an article's line and of a column of two, 3.3 inches.
    for (width, points) in [(80, 345.0), (55, 238.5)] {
        let tables = tables
            .iter()
            .map(|table| table.render_within(Format::Latex, width));
        let tables: String = tables.collect();
        let document = format!(
            "\\documentclass{{article}}\\usepackage{{booktabs}}\\textwidth={points}pt\\columnwidth={points}pt\
             \\hsize={points}pt\\begin{{document}}\n{tables}\\end{{document}}\n"
        );
        std::fs::write(folder.path().join("t.tex"), document).unwrap();
        let ran = Command::new("pdflatex")
            .args(["-interaction=nonstopmode", "-halt-on-error", "t.tex"])
            .current_dir(folder.path())
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success(), "{log}\n{tables}");
        assert!(!log.contains("Overfull"), "{log}\n{tables}");
    }
}
