//! Names that hold anything, in everything that shows them.

use proptest::prelude::*;
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use stepback_native::results::escape;
use stepback_native::results::plot::chart::{Axis, Chart, Figure, Mark, Scale, Series, Style};
use stepback_native::results::plot::look;
use stepback_native::results::table::{Cell, Format, Table};

/// Any text, rich in characters that mean something somewhere.
fn name() -> impl Strategy<Value = String> {
    const SPECIAL: &str =
        "\0\t\n\r\u{1b}\u{7f}\u{9b}\u{202e}\u{2028}\u{fffe}\\`*_[](){}<>|&~$%#^\"'=+-@.,:;! 1eaé实";
    let special: Vec<char> = SPECIAL.chars().collect();
    let char = prop_oneof![
        4 => prop::sample::select(special),
        1 => any::<char>(),
    ];
    prop::collection::vec(char, 0..24).prop_map(|chars| chars.into_iter().collect())
}

/// A table of these names, the last row's in bold.
fn table(names: &[String]) -> Table {
    let row = |bold| {
        let cell = |name: &String| Cell {
            text: name.clone(),
            bold,
        };
        names.iter().map(cell).collect()
    };
    Table {
        header: names.to_vec(),
        rows: vec![row(false), row(true)],
        ..Table::default()
    }
}

fn without_spaces(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

/// The texts of a Markdown table's cells, row by row.
fn markdown_cells(text: &str) -> Vec<Vec<String>> {
    let mut rows = vec![Vec::new()];
    for event in Parser::new_ext(text, Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH) {
        match event {
            Event::Start(Tag::TableRow) => rows.push(Vec::new()),
            Event::Start(Tag::TableCell) => rows.last_mut().unwrap().push(String::new()),
            Event::Text(text) => rows.last_mut().unwrap().last_mut().unwrap().push_str(&text),
            Event::Start(Tag::Table(_) | Tag::TableHead | Tag::Strong) => {}
            Event::End(TagEnd::Table | TagEnd::TableHead | TagEnd::TableRow) => {}
            Event::End(TagEnd::TableCell | TagEnd::Strong) => {}
            other => panic!("{other:?} in {text:?}"),
        }
    }
    rows
}

proptest! {
    #[test]
    fn a_terminal_sees_no_control_characters(name in name()) {
        let shown = escape::printable(&name);
        prop_assert!(!shown.contains(char::is_control), "{shown:?}");
        prop_assert!(shown.chars().count() >= name.chars().count());
        let lines = escape::printable_lines(&name);
        prop_assert_eq!(lines.split('\n').count(), name.split('\n').count());
    }

    #[test]
    fn xml_is_well_formed_and_says_the_name(name in name()) {
        let safe = escape::xml(&name);
        let text = format!("<a b=\"{safe}\">{safe}</a>");
        let parsed = roxmltree::Document::parse(&text).unwrap();
        let shown = escape::printable(&name);
        prop_assert_eq!(parsed.root_element().text().unwrap_or_default(), &*shown);
        prop_assert_eq!(parsed.root_element().attribute("b").unwrap(), &*shown);
    }

    #[test]
    fn figures_are_well_formed(title in name(), label in name(), metric in name()) {
        let figure = Figure {
            title: title.clone(),
            ..Figure::from(Chart {
                title: String::new(),
                x: Axis::new("Epoch", Scale::Whole),
                y: Axis::new(metric, Scale::Log),
                series: vec![Series {
                    label,
                    look: look(&title),
                    nth: 0,
                    mark: Mark::LineAndMarkers,
                    points: vec![[0.0, 1.0, 1.0, 1.0], [1.0, 2.0, 2.0, 2.0]],
                    diverged: Vec::new(),
                }],
                diverged_on_top: false,
            })
        };
        // Wide enough for all of the title.
        let svg = figure.draw(&Style { width: 40.0, ..Style::default() }).svg();
        let parsed = roxmltree::Document::parse(&svg).unwrap();
        let shown = escape::printable(&title);
        let texts = parsed.descendants().filter(|node| node.has_tag_name("text"));
        let mut texts = texts.map(|node| node.text().unwrap_or_default());
        prop_assert!(title.is_empty() || texts.any(|text| text == shown), "{svg}");
    }

    #[test]
    fn text_tables_stay_rectangular(names in prop::collection::vec(name(), 1..4)) {
        let text = table(&names).render_within(Format::Text, 1000);
        let frame: Vec<&str> = text.lines().filter(|line| !line.starts_with('*')).collect();
        prop_assert!(!text.replace('\n', "").contains(char::is_control), "{text:?}");
        // Border, header, line, two rows, border.
        prop_assert_eq!(frame.len(), 6, "{}", text);
        for line in &frame {
            let last = line.chars().last().unwrap();
            prop_assert!("┐│╡┘".contains(last), "{}", text);
        }
    }

    #[test]
    fn markdown_tables_say_the_names(names in prop::collection::vec(name(), 1..4)) {
        let text = table(&names).render(Format::Markdown);
        prop_assert_eq!(text.lines().count(), 4);
        let wanted: Vec<String> = names.iter().map(|name| without_spaces(&escape::printable(name))).collect();
        let rows = markdown_cells(&text);
        prop_assert_eq!(rows.len(), 3, "{}", text);
        for row in rows.iter().take(2) {
            let row: Vec<String> = row.iter().map(|cell| without_spaces(cell)).collect();
            prop_assert_eq!(&row, &wanted, "{}", text);
        }
    }

    #[test]
    fn latex_rows_have_their_cells(names in prop::collection::vec(name(), 1..4)) {
        let text = table(&names).render_within(Format::Latex, 1000);
        let rows: Vec<&str> = text.lines().filter(|line| line.ends_with(" \\\\")).collect();
        prop_assert_eq!(rows.len(), 3, "{}", text);
        for row in rows {
            // What follows a backslash is no longer special.
            let mut plain = row.trim_end_matches(" \\\\").to_owned();
            for pair in ["\\&", "\\{", "\\}", "\\%", "\\#", "\\_", "\\$", "$\\pm$"] {
                plain = plain.replace(pair, "");
            }
            prop_assert_eq!(plain.matches('&').count(), names.len() - 1, "{}", row);
            prop_assert_eq!(plain.matches('{').count(), plain.matches('}').count(), "{}", row);
            prop_assert!(!plain.contains(['$', '%', '#', '_', '^', '~']), "{row}");
            prop_assert!(!plain.starts_with(['[', '*']), "{row}");
        }
    }

    #[test]
    fn csv_cells_are_no_formulas_and_can_be_read_back(name in name()) {
        let cell = escape::csv(&name);
        let shown = escape::printable(&name);
        prop_assert_eq!(escape::from_csv(&cell), &*shown);
        if cell.trim_start().starts_with(['=', '+', '-', '@']) {
            prop_assert!(cell.parse::<f64>().is_ok(), "{cell:?}");
        }
    }

    #[test]
    fn json_for_terminals_says_the_same_and_cannot_control_them(name in name()) {
        let value = serde_json::json!({&name: [&name]});
        let text = escape::json(&value.to_string());
        prop_assert_eq!(escape::printable(&text), &*text);
        prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn csv_leaves_numbers_alone(x in any::<f64>(), y in any::<f64>()) {
        for text in [format!("{x}"), format!("{x:e}"), format!("{x:.2} ± {y:.2}")] {
            prop_assert_eq!(escape::csv(&text), text);
        }
    }
}

#[test]
fn ordinary_names_are_themselves() {
    for name in [
        "momo-adam",
        "weight_decay",
        "name=sgd:lr=0.1",
        "Größe 10",
        "实验",
    ] {
        assert_eq!(escape::printable(name), name);
        assert_eq!(escape::xml(name), name);
        assert_eq!(escape::csv(name), name);
        assert_eq!(escape::markdown(name), name);
    }
    assert_eq!(escape::printable("a\u{1b}[31m\nb"), "a\\u{1b}[31m\\nb");
    assert_eq!(escape::csv("=1+1"), "'=1+1");
    assert_eq!(escape::csv("-0.5"), "-0.5");
}
