//! Names come from configs and files, and may hold anything. Here they are made safe for what shows them: one
//! function per kind of text. In all of them characters that cannot be seen are spelled out, ESC as `\u{1b}`.

use std::borrow::Cow;

/// One line for a terminal or a figure.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(hidden) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match hidden(c) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out.into()
}

/// Several lines for a terminal.
pub fn printable_lines(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(printable).collect();
    lines.join("\n")
}

/// JSON for a terminal: such characters are in its texts alone, where it has a spelling for them.
pub fn json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match hidden(c) {
            true => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => out.push(c),
        }
    }
    out
}

/// What controls a terminal, ends a line, turns the direction of writing, or is no character of XML.
fn hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            | '\u{fffe}' | '\u{ffff}')
}

/// Text of HTML and XML, attributes included.
pub fn xml(text: &str) -> String {
    replace(text, |c, out| match c {
        '&' => out.push_str("&amp;"),
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        '"' => out.push_str("&quot;"),
        '\'' => out.push_str("&#39;"),
        _ => out.push(c),
    })
}

/// Text of a Markdown table's cell.
pub fn markdown(text: &str) -> String {
    let chars: Vec<char> = printable(text).chars().collect();
    let letter = |at: Option<usize>| {
        at.and_then(|at| chars.get(at))
            .is_some_and(|c| c.is_alphanumeric())
    };
    let mut out = String::with_capacity(text.len() + 8);
    for (at, &c) in chars.iter().enumerate() {
        let special = match c {
            // Inside a word it is itself.
            '_' => !(letter(at.checked_sub(1)) && letter(Some(at + 1))),
            _ => matches!(c, '\\' | '`' | '*' | '[' | '<' | '|' | '&' | '~' | '$'),
        };
        if special {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Text of LaTeX.
pub fn latex(text: &str) -> String {
    replace(text, |c, out| match c {
        '±' => out.push_str("$\\pm$"),
        '–' => out.push_str("--"),
        '\\' => out.push_str("\\textbackslash{}"),
        '~' => out.push_str("\\textasciitilde{}"),
        '^' => out.push_str("\\textasciicircum{}"),
        '<' => out.push_str("\\textless{}"),
        '>' => out.push_str("\\textgreater{}"),
        '|' => out.push_str("\\textbar{}"),
        '_' | '%' | '&' | '#' | '$' | '{' | '}' => out.extend(['\\', c]),
        // At the start of a row these would belong to the `\\` before it.
        '[' | '*' => out.extend(['{', c, '}']),
        _ => out.push(c),
    })
}

/// A cell of CSV. A spreadsheet would run one that begins like a formula: an apostrophe in front makes it a
/// text, and [`from_csv`] takes it off again. Numbers, and two with ± between, stay as they are.
pub fn csv(text: &str) -> String {
    let text = printable(text);
    let number = |part: &str| part.parse::<f64>().is_ok();
    match like_a_formula(&text) && !text.split(" ± ").all(number) {
        true => format!("'{text}"),
        false => text.into_owned(),
    }
}

/// What [`csv()`] was given.
pub fn from_csv(cell: &str) -> &str {
    let rest = cell.strip_prefix('\'');
    rest.filter(|rest| like_a_formula(rest)).unwrap_or(cell)
}

fn like_a_formula(text: &str) -> bool {
    let start = text.trim_start_matches(|c: char| c == '\'' || c.is_whitespace());
    start.starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠'])
}

fn replace(text: &str, each: impl Fn(char, &mut String)) -> String {
    let text = printable(text);
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        each(c, &mut out);
    }
    out
}
