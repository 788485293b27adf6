//! The language of formulas as text: read here, and written.
//!
//! A descent by levels of binding, which stops at a depth and at a number of operations, so that no text takes the stack.

use std::fmt;

use super::mistakes::Mistakes;
use super::syntax::{Expr, Operator, Over, Statement, Sum};
use crate::config::suggestion;

/// Of all code of a file.
pub(super) const MAX_OPERATIONS: usize = 400;

/// Brackets, functions and signs inside one another.
const MAX_DEPTH: usize = 50;

/// What is written `name(a, b)`, with what a reader calls its arguments.
const FUNCTIONS: [(&str, &str, Function); 21] = [
    ("sqrt", "x", Function::Apply(Operator::Sqrt)),
    ("abs", "x", Function::Apply(Operator::Abs)),
    ("sign", "x", Function::Apply(Operator::Sign)),
    ("exp", "x", Function::Apply(Operator::Exp)),
    ("log", "x", Function::Apply(Operator::Log)),
    ("floor", "x", Function::Apply(Operator::Floor)),
    ("min", "a, b", Function::Apply(Operator::Min)),
    ("max", "a, b", Function::Apply(Operator::Max)),
    ("clip", "x, low, high", Function::Clip),
    ("where", "condition, a, b", Function::Apply(Operator::Where)),
    ("fma", "a, b, c", Function::Apply(Operator::MultiplyAdd)),
    ("sum", "x", Function::Sum(Sum::Sum, Over::All)),
    ("mean", "x", Function::Sum(Sum::Mean, Over::All)),
    ("norm", "x", Function::Sum(Sum::Norm, Over::All)),
    ("absmax", "x", Function::Sum(Sum::AbsMax, Over::All)),
    ("tensor_sum", "x", Function::Sum(Sum::Sum, Over::Tensor)),
    ("tensor_mean", "x", Function::Sum(Sum::Mean, Over::Tensor)),
    ("tensor_norm", "x", Function::Sum(Sum::Norm, Over::Tensor)),
    (
        "tensor_absmax",
        "x",
        Function::Sum(Sum::AbsMax, Over::Tensor),
    ),
    ("gradient", "x", Function::Gradient),
    (
        "orthogonalize",
        "x, steps, coefficients",
        Function::Orthogonalize,
    ),
];

/// What stands between two values, by how strongly it binds.
const INFIX: [(&str, Operator, u8); 13] = [
    ("or", Operator::Or, 1),
    ("and", Operator::And, 2),
    ("<", Operator::Less, COMPARISON),
    ("<=", Operator::LessEqual, COMPARISON),
    (">", Operator::Greater, COMPARISON),
    (">=", Operator::GreaterEqual, COMPARISON),
    ("==", Operator::Equal, COMPARISON),
    ("!=", Operator::NotEqual, COMPARISON),
    ("+", Operator::Add, 5),
    ("-", Operator::Subtract, 5),
    ("*", Operator::Multiply, 6),
    ("/", Operator::Divide, 6),
    ("^", Operator::Power, POWER),
];

/// What stands before a value.
const PREFIX: [(&str, Operator, u8); 2] =
    [("not", Operator::Not, 3), ("-", Operator::Negate, MINUS)];

const COMPARISON: u8 = 4;
const MINUS: u8 = 7;
const POWER: u8 = 8;
const ATOM: u8 = 9;

/// Words that are values.
const VALUES: [(&str, f64); 3] = [("true", 1.0), ("false", 0.0), ("inf", f64::INFINITY)];

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Function {
    Apply(Operator),
    Clip,
    Sum(Sum, Over),
    Gradient,
    Orthogonalize,
}

pub(super) fn is_function(name: &str) -> bool {
    FUNCTIONS.iter().any(|(known, ..)| *known == name)
}

/// Is it a word of the language, and so no name?
pub(super) fn is_reserved(name: &str) -> bool {
    matches!(name, "or" | "and" | "not") || VALUES.iter().any(|(word, _)| *word == name)
}

pub(super) fn is_name(text: &str) -> bool {
    let mut letters = text.chars();
    letters.next().is_some_and(begins_name) && letters.all(goes_on_name)
}

fn begins_name(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

fn goes_on_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// `name = value`, not yet checked. `at` are places in the file.
pub(super) struct Assignment<'t> {
    pub name: &'t str,
    pub at: usize,
    pub value: Node<'t>,
}

pub(super) struct Node<'t> {
    pub at: usize,
    pub what: What<'t>,
}

pub(super) enum What<'t> {
    Number(f64),
    Name(&'t str),
    Entry(&'t str, usize),
    Call(Function, Vec<Node<'t>>),
    /// Something was wrong, and is reported. What could be read of it.
    Broken(Vec<Node<'t>>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Token<'t> {
    Number(f64),
    Name(&'t str),
    Sign(&'t str),
    /// Of a line.
    Break,
    End,
    /// What is no token, and what to say of it.
    Wrong(&'t str, &'static str),
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Number(value) => write!(f, "the number {value:?}"),
            Token::Name(text) | Token::Sign(text) | Token::Wrong(text, _) => {
                write!(f, "{text:?}")
            }
            Token::Break => f.write_str("end of line"),
            Token::End => f.write_str("end of the code"),
        }
    }
}

/// The token at the beginning of a text that is not empty and begins with no space, and how many bytes it has.
fn token(text: &str) -> (Token<'_>, usize) {
    let first = text.chars().next().unwrap_or('\n');
    let run = |goes_on: fn(char) -> bool| text.find(|c| !goes_on(c)).unwrap_or(text.len());
    if first == '\n' {
        return (Token::Break, 1);
    }
    if begins_name(first) {
        let length = run(goes_on_name);
        return (Token::Name(&text[..length]), length);
    }
    if first.is_ascii_digit() || first == '.' {
        return number(text);
    }
    const TWO: [&str; 4] = ["<=", ">=", "==", "!="];
    const ONE: [&str; 13] = [
        "+", "-", "*", "/", "^", "<", ">", "(", ")", "[", "]", ",", "=",
    ];
    const WRONG: [(&str, &str); 9] = [
        ("**", "a power is written a^b"),
        ("&&", "it is written a and b"),
        ("||", "it is written a or b"),
        ("&", "it is written a and b"),
        ("|", "it is written a or b"),
        ("!", "it is written not a"),
        ("//", "comments begin with #, and floor(a/b) divides down"),
        ("%", "a remainder is written a - b*floor(a/b)"),
        ("\\", "code has no escapes"),
    ];
    let starting = |signs: &[&'static str]| signs.iter().copied().find(|s| text.starts_with(s));
    let wrong = WRONG.iter().find(|(sign, _)| text.starts_with(sign));
    if let Some(sign) = starting(&TWO) {
        (Token::Sign(sign), 2)
    } else if let Some((sign, hint)) = wrong {
        (Token::Wrong(sign, hint), sign.len())
    } else if let Some(sign) = starting(&ONE).or(starting(&[";"])) {
        (Token::Sign(sign), 1)
    } else {
        let length = first.len_utf8();
        let hint = "code consists of names, numbers, operators and brackets";
        (Token::Wrong(&text[..length], hint), length)
    }
}

/// As TOML or Python write them: `1`, `0.5`, `.5`, `5.`, `1e-3`, `1_000`.
fn number(text: &str) -> (Token<'_>, usize) {
    let bytes = text.as_bytes();
    let digits = |mut at: usize| {
        while bytes
            .get(at)
            .is_some_and(|b| b.is_ascii_digit() || *b == b'_')
        {
            at += 1;
        }
        at
    };
    let mut end = digits(0);
    if bytes.get(end) == Some(&b'.') {
        end = digits(end + 1);
    }
    if let Some(b'e' | b'E') = bytes.get(end) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        end = digits(end + 1 + sign);
    }
    let written = &text[..end];
    let between_digits = |at: usize| {
        let digit = |at: Option<usize>| {
            at.and_then(|at| bytes.get(at))
                .is_some_and(u8::is_ascii_digit)
        };
        digit(at.checked_sub(1)) && digit(Some(at + 1))
    };
    let sound = written.match_indices('_').all(|(at, _)| between_digits(at));
    let value = written.replace('_', "").parse::<f64>();
    let token = match value {
        Ok(value) if sound && value.is_infinite() => Token::Wrong(
            written,
            "a double is at most 1.8e308; infinity is written inf",
        ),
        Ok(value) if sound => Token::Number(value),
        _ => Token::Wrong(written, "a number is written 1, 0.5, 1e-3 or 1_000"),
    };
    (token, end)
}

/// A statement, or a formula, could not be read, and why is reported.
struct Stop;

/// Reads all code of a file, and counts its operations.
pub(super) struct Reader {
    operations: usize,
}

impl Reader {
    pub fn new() -> Reader {
        Reader { operations: 0 }
    }

    /// The statements of `code`, which begins at byte `at` of the file.
    pub fn statements<'t>(
        &mut self,
        code: &'t str,
        at: usize,
        mistakes: &mut Mistakes,
    ) -> Vec<Assignment<'t>> {
        let mut parser = Parser::new(self, code, at, mistakes);
        let mut statements = Vec::new();
        while let Some(token) = parser.next_statement() {
            let at = parser.at();
            let Some(name) = parser.target(token) else {
                parser.skip_statement();
                continue;
            };
            let value = parser.expression(0).and_then(|value| parser.end(value));
            let value = value.unwrap_or_else(|Stop| {
                parser.skip_statement();
                broken(at)
            });
            statements.push(Assignment { name, at, value });
        }
        statements
    }

    /// A single expression, such as a key's default.
    pub fn formula<'t>(&mut self, code: &'t str, at: usize, mistakes: &mut Mistakes) -> Node<'t> {
        let mut parser = Parser::new(self, code, at, mistakes);
        let value = parser.expression(0).and_then(|value| match parser.peek() {
            Token::End => Ok(value),
            _ => Err(parser.unexpected("the formula's end")),
        });
        value.unwrap_or_else(|Stop| broken(at))
    }
}

fn broken<'t>(at: usize) -> Node<'t> {
    Node {
        at,
        what: What::Broken(Vec::new()),
    }
}

struct Parser<'t, 'r, 'm> {
    reader: &'r mut Reader,
    mistakes: &'r mut Mistakes<'m>,
    tokens: Vec<(Token<'t>, usize)>,
    /// The next token; the last one is [`Token::End`].
    next: usize,
    /// Open brackets, inside which lines go on.
    brackets: usize,
    depth: usize,
}

impl<'t, 'r, 'm> Parser<'t, 'r, 'm> {
    fn new(
        reader: &'r mut Reader,
        code: &'t str,
        begin: usize,
        mistakes: &'r mut Mistakes<'m>,
    ) -> Self {
        let mut tokens = Vec::new();
        let mut at = 0;
        while at < code.len() {
            let rest = &code[at..];
            let length = match rest.as_bytes()[0] {
                b' ' | b'\t' | b'\r' => 1,
                b'#' => rest.find('\n').unwrap_or(rest.len()),
                _ => {
                    let (token, length) = token(rest);
                    tokens.push((token, begin + at));
                    length
                }
            };
            at += length;
        }
        tokens.push((Token::End, begin + code.len()));
        Parser {
            reader,
            mistakes,
            tokens,
            next: 0,
            brackets: 0,
            depth: 0,
        }
    }

    fn peek(&mut self) -> Token<'t> {
        while self.brackets > 0 && self.tokens[self.next].0 == Token::Break {
            self.next += 1;
        }
        self.tokens[self.next].0
    }

    /// Where the next token stands.
    fn at(&self) -> usize {
        self.tokens[self.next].1
    }

    fn advance(&mut self) {
        self.next = (self.next + 1).min(self.tokens.len() - 1);
    }

    fn takes(&mut self, sign: &str) -> bool {
        let there = self.peek() == Token::Sign(sign);
        if there {
            self.advance();
        }
        there
    }

    fn report(&mut self, at: usize, what: impl Into<String>) -> Stop {
        self.mistakes.add(at, what);
        Stop
    }

    fn unexpected(&mut self, expected: &str) -> Stop {
        let token = self.peek();
        let what = match token {
            Token::Wrong(_, hint) => format!("unexpected {token} ({hint})"),
            _ => format!("unexpected {token} (expected {expected})"),
        };
        self.report(self.at(), what)
    }

    /// The first token of the next statement, if there is one.
    fn next_statement(&mut self) -> Option<Token<'t>> {
        while matches!(self.peek(), Token::Break | Token::Sign(";")) {
            self.advance();
        }
        match self.peek() {
            Token::End => None,
            token => Some(token),
        }
    }

    /// `name =`
    fn target(&mut self, token: Token<'t>) -> Option<&'t str> {
        let name = match token {
            Token::Name(name) if !is_reserved(name) => name,
            _ => {
                self.unexpected("a statement, name = value");
                return None;
            }
        };
        self.advance();
        if self.takes("=") {
            return Some(name);
        }
        match (self.peek(), self.tokens.get(self.next + 1)) {
            (Token::Sign(sign @ ("+" | "-" | "*" | "/" | "^")), Some((Token::Sign("="), _))) => {
                let what = format!("unexpected \"{sign}=\" (write {name} = {name} {sign} ...)");
                self.report(self.at(), what);
            }
            _ => {
                self.unexpected("=, as in name = value");
            }
        }
        None
    }

    fn end(&mut self, value: Node<'t>) -> Result<Node<'t>, Stop> {
        match self.peek() {
            Token::Break | Token::Sign(";") | Token::End => Ok(value),
            Token::Sign("=") => Err(self.unexpected("the statement's end; equality is written ==")),
            _ => Err(self.unexpected("an operator, or the statement's end")),
        }
    }

    /// Behind a mistake, to the end of the statement. A line that begins like a statement is one, even where a bracket is
    /// open.
    fn skip_statement(&mut self) {
        self.brackets = 0;
        self.depth = 0;
        loop {
            let before = self.next.checked_sub(1).map(|at| self.tokens[at].0);
            let after = self.tokens.get(self.next + 1).map(|(token, _)| *token);
            match (before, self.peek(), after) {
                (_, Token::Break | Token::Sign(";") | Token::End, _) => return,
                (Some(Token::Break), Token::Name(name), Some(Token::Sign("=")))
                    if !is_reserved(name) =>
                {
                    return;
                }
                _ => self.advance(),
            }
        }
    }

    /// One level further in.
    fn deeper(&mut self, at: usize) -> Result<(), Stop> {
        self.depth += 1;
        match self.depth > MAX_DEPTH {
            false => Ok(()),
            true => {
                let what = format!(
                    "brackets, functions and signs nested deeper than {MAX_DEPTH} (give parts a name of their own)"
                );
                Err(self.report(at, what))
            }
        }
    }

    fn call(
        &mut self,
        at: usize,
        function: Function,
        arguments: Vec<Node<'t>>,
    ) -> Result<Node<'t>, Stop> {
        self.reader.operations += 1;
        if self.reader.operations > MAX_OPERATIONS {
            // Once. Nothing more is read: the last token says that the code ends.
            if self.reader.operations == MAX_OPERATIONS + 1 {
                let what = format!("more than {MAX_OPERATIONS} operations in a file");
                self.report(at, what);
            }
            self.next = self.tokens.len() - 1;
            return Err(Stop);
        }
        let what = What::Call(function, arguments);
        Ok(Node { at, what })
    }

    /// An expression of operators that bind at least so strongly.
    fn expression(&mut self, level: u8) -> Result<Node<'t>, Stop> {
        let mut left = self.operand(level)?;
        loop {
            let Some((operator, its)) = infix(self.peek()).filter(|(_, its)| *its >= level) else {
                return Ok(left);
            };
            let at = self.at();
            self.advance();
            let right = match its {
                // To the right of a power another one, or a sign, comes first.
                POWER => {
                    self.deeper(at)?;
                    let right = self.expression(MINUS)?;
                    self.depth -= 1;
                    right
                }
                _ => self.expression(its + 1)?,
            };
            left = self.call(at, Function::Apply(operator), vec![left, right])?;
            if its == COMPARISON && infix(self.peek()).is_some_and(|(_, next)| next == its) {
                return Err(self.unexpected("no second comparison; write a < b and b < c"));
            }
        }
    }

    fn operand(&mut self, level: u8) -> Result<Node<'t>, Stop> {
        let (token, at) = (self.peek(), self.at());
        if let Some((operator, its)) = prefix(token).filter(|(_, its)| *its >= level) {
            self.advance();
            self.deeper(at)?;
            let operand = self.expression(its)?;
            self.depth -= 1;
            return self.call(at, Function::Apply(operator), vec![operand]);
        }
        let node = |what| Ok(Node { at, what });
        match token {
            Token::Number(value) => {
                self.advance();
                node(What::Number(value))
            }
            Token::Sign("(") => {
                let mut inside = self.list(at, false)?;
                inside.pop().ok_or(Stop)
            }
            Token::Name(name) => {
                if let Some((_, value)) = VALUES.iter().find(|(word, _)| *word == name) {
                    self.advance();
                    return node(What::Number(*value));
                }
                if is_reserved(name) {
                    return Err(self.unexpected("a value; put brackets around what begins with it"));
                }
                self.advance();
                match self.peek() {
                    Token::Sign("(") => {
                        let arguments = self.list(self.at(), true)?;
                        self.function(name, at, arguments)
                    }
                    Token::Sign("[") => node(What::Entry(name, self.index()?)),
                    _ => node(What::Name(name)),
                }
            }
            _ => Err(self.unexpected("a number, a name, a function or \"(\"")),
        }
    }

    /// What stands in brackets, the next token being the opening one: one expression, or several with commas between them.
    fn list(&mut self, open: usize, several: bool) -> Result<Vec<Node<'t>>, Stop> {
        self.advance();
        self.deeper(open)?;
        self.brackets += 1;
        let mut inside = Vec::new();
        if !(several && self.peek() == Token::Sign(")")) {
            inside.push(self.expression(0)?);
            while several && self.takes(",") {
                inside.push(self.expression(0)?);
            }
        }
        if self.peek() != Token::Sign(")") {
            let line = self.mistakes.line(open);
            let comma = if several { "\",\" or " } else { "" };
            let expected = format!("an operator, {comma}\")\" for the bracket of line {line}");
            return Err(self.unexpected(&expected));
        }
        // Behind it lines count again, hence first.
        self.brackets -= 1;
        self.depth -= 1;
        self.advance();
        Ok(inside)
    }

    fn function(
        &mut self,
        name: &'t str,
        at: usize,
        arguments: Vec<Node<'t>>,
    ) -> Result<Node<'t>, Stop> {
        let given = arguments.len();
        let wrong = match FUNCTIONS.iter().find(|(known, ..)| *known == name) {
            None => {
                let known: Vec<&str> = FUNCTIONS.iter().map(|(known, ..)| *known).collect();
                format!("unknown function \"{name}\" {}", suggestion(name, &known))
            }
            Some((_, usage, function)) => {
                if given == usage.split(',').count() {
                    return self.call(at, *function, arguments);
                }
                let plural = if given == 1 { "" } else { "s" };
                format!("{given} argument{plural} of \"{name}\" (expected {name}({usage}))")
            }
        };
        self.report(at, wrong);
        let what = What::Broken(arguments);
        Ok(Node { at, what })
    }

    /// `[0]`
    fn index(&mut self) -> Result<usize, Stop> {
        self.advance();
        let index = match self.peek() {
            Token::Number(value) if value.fract() == 0.0 && value < 1e6 => value as usize,
            _ => return Err(self.unexpected("an index, 0, 1, 2 and so on")),
        };
        self.advance();
        match self.takes("]") {
            true => Ok(index),
            false => Err(self.unexpected("\"]\"")),
        }
    }
}

fn infix(token: Token) -> Option<(Operator, u8)> {
    written(token, &INFIX)
}

fn prefix(token: Token) -> Option<(Operator, u8)> {
    written(token, &PREFIX)
}

fn written(token: Token, table: &[(&str, Operator, u8)]) -> Option<(Operator, u8)> {
    let (Token::Sign(text) | Token::Name(text)) = token else {
        return None;
    };
    let row = table.iter().find(|(sign, ..)| *sign == text);
    row.map(|(_, operator, level)| (*operator, *level))
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.name, self.value)
    }
}

/// As it is read, with the brackets that it needs.
impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(self, 0, f)
    }
}

/// An expression where operators bind that strongly.
fn write(expr: &Expr, level: u8, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let sign = |table: &'static [(&'static str, Operator, u8)], operator: Operator| {
        table.iter().find(move |row| row.1 == operator)
    };
    let (function, arguments) = match expr {
        Expr::Number(value) if value.is_sign_negative() => return write!(f, "({value:?})"),
        Expr::Number(value) => return write!(f, "{value:?}"),
        Expr::Name(name) => return f.write_str(name),
        Expr::Entry(name, index) => return write!(f, "{name}[{index}]"),
        Expr::Apply(operator, arguments) => {
            let (infix, prefix) = (sign(&INFIX, *operator), sign(&PREFIX, *operator));
            if infix.or(prefix).is_some_and(|row| row.2 < level) {
                f.write_str("(")?;
                write(expr, 0, f)?;
                return f.write_str(")");
            }
            if let Some((sign, _, its)) = infix {
                let (left, right) = match *its {
                    POWER => (ATOM, MINUS),
                    COMPARISON => (its + 1, its + 1),
                    _ => (*its, its + 1),
                };
                write(&arguments[0], left, f)?;
                write!(f, " {sign} ")?;
                return write(&arguments[1], right, f);
            }
            if let Some((sign, _, its)) = prefix {
                let space = if *its == MINUS { "" } else { " " };
                write!(f, "{sign}{space}")?;
                return write(&arguments[0], *its, f);
            }
            (Function::Apply(*operator), &arguments[..])
        }
        Expr::Clip(arguments) => (Function::Clip, &arguments[..]),
        Expr::Sum(sum, over, of) => (Function::Sum(*sum, *over), std::slice::from_ref(&**of)),
        Expr::Gradient(at) => (Function::Gradient, std::slice::from_ref(&**at)),
        Expr::Orthogonalize(arguments) => (Function::Orthogonalize, &arguments[..]),
    };
    let name = FUNCTIONS
        .iter()
        .find(|row| row.2 == function)
        .map(|row| row.0);
    write!(f, "{}(", name.unwrap_or_default())?;
    for (i, argument) in arguments.iter().enumerate() {
        if i > 0 {
            f.write_str(", ")?;
        }
        write(argument, 0, f)?;
    }
    f.write_str(")")
}
