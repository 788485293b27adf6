//! Random methods, for tests that compare machines, and the reader with itself.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::syntax::Kind;

/// The text of a method that is right. `draw(n)` gives any number below n, and so decides on everything.
pub fn random_program(draw: impl FnMut(usize) -> usize) -> String {
    let mut program = Program {
        draw,
        names: Vec::new(),
        unread: BTreeSet::new(),
        fuel: 120,
        sums: true,
        gradients: 1,
        quintic: false,
        matrices: false,
    };
    program.text()
}

struct Program<D> {
    draw: D,
    /// What can be read, by kind.
    names: Vec<(String, Kind)>,
    /// What must be read still.
    unread: BTreeSet<String>,
    /// Operations that may still be made.
    fuel: usize,
    sums: bool,
    gradients: usize,
    /// May matrices be made orthogonal, with the key of that name, and are some?
    quintic: bool,
    matrices: bool,
}

impl<D: FnMut(usize) -> usize> Program<D> {
    fn text(&mut self) -> String {
        let mut text = "name = \"random\"\n[defaults]\nlr = 0.125\nweight_decay = 0.5\n".to_owned();
        self.know("lr", Kind::Scalar);
        self.know("weight_decay", Kind::Scalar);
        for (key, default) in [
            ("rho", "0.25"),
            ("on", "true"),
            ("list", "[0.5, 3]"),
            ("quintic", "[3, -3.2, 1.2]"),
            ("derived", "\"1 - sqrt(lr)/2\""),
        ] {
            if self.one_in(2) {
                _ = writeln!(text, "{key} = {default}");
                let name = match key {
                    "list" => "list[1]",
                    "quintic" => "quintic[2]",
                    _ => key,
                };
                self.know(name, Kind::Scalar);
                self.unread.insert(name.to_owned());
                self.quintic |= key == "quintic";
            }
        }
        let keys = self.names.clone();
        text += "[state]\n";
        let mut state = Vec::new();
        for (key, prefix, kind, most) in [
            ("vectors", "v", Kind::Vector, 4),
            ("tensors", "t", Kind::Tensor, 2),
            ("scalars", "s", Kind::Scalar, 3),
        ] {
            let names: Vec<String> = (0..self.below(most + 1))
                .map(|i| format!("{prefix}{i}"))
                .collect();
            let entries = names.iter().map(|name| {
                let initial = match self.below(3) {
                    0 => "0".to_owned(),
                    1 => "-1.5".to_owned(),
                    _ => format!("\"{}\"", self.leaf(Kind::Scalar)),
                };
                format!("{name} = {initial}")
            });
            let entries: Vec<String> = entries.collect();
            _ = writeln!(text, "{key} = {{{}}}", entries.join(", "));
            state.extend(names.into_iter().map(|name| (name, kind)));
        }
        self.names.extend(state.iter().cloned());
        for (name, kind) in [
            ("w", Kind::Vector),
            ("g", Kind::Vector),
            ("w0", Kind::Vector),
            ("loss", Kind::Scalar),
            ("lr0", Kind::Scalar),
            ("k", Kind::Scalar),
            ("steps", Kind::Scalar),
            ("epoch", Kind::Scalar),
            ("batch_size", Kind::Scalar),
            ("size", Kind::Tensor),
            ("rows", Kind::Tensor),
            ("cols", Kind::Tensor),
            ("ndim", Kind::Tensor),
            ("head", Kind::Tensor),
        ] {
            self.know(name, kind);
        }
        text += "[step]\ncode = \"\"\"\n";
        text += &self.step(&state);
        text += "\"\"\"\n";
        let reported = self.names.iter().filter(|(name, kind)| {
            *kind == Kind::Scalar && (name.starts_with('u') || state.iter().any(|(s, _)| s == name))
        });
        let reported: Vec<String> = reported.map(|(name, _)| format!("{name:?}")).collect();
        if self.one_in(2) {
            _ = writeln!(text, "[report]\nnames = [{}]", reported.join(", "));
        }
        if self.one_in(2) {
            self.names = keys.into_iter().filter(|(name, _)| name != "lr").collect();
            self.names.extend(state);
            for (name, kind) in [
                ("w", Kind::Vector),
                ("w0", Kind::Vector),
                ("rows", Kind::Tensor),
            ] {
                self.know(name, kind);
            }
            self.sums = false;
            self.fuel = 20;
            let value = self.any(Kind::Vector, 4);
            _ = writeln!(
                text,
                "[evaluate]\ncode = '''\nu = {value}\nw = w + 0.5*u'''"
            );
        }
        if self.matrices {
            text += "[apply]\nto = \"matrix\"\nrest = \"adamw\"\n";
        }
        text
    }

    /// Every part of the state once and some values, in any order, then the weights.
    fn step(&mut self, state: &[(String, Kind)]) -> String {
        let mut text = String::new();
        let mut targets = state.to_vec();
        for i in 0..self.below(5) {
            let kind = [Kind::Scalar, Kind::Tensor, Kind::Vector][self.below(3)];
            targets.push((format!("u{i}"), kind));
        }
        while !targets.is_empty() {
            let next = self.below(targets.len());
            let (name, kind) = targets.swap_remove(next);
            let is_state = state.iter().any(|(known, _)| *known == name);
            let value = match is_state {
                true => self.any(kind, 4),
                false => self.exactly(kind, 4),
            };
            let end = if self.one_in(4) {
                "; "
            } else {
                "  # a comment\n"
            };
            _ = write!(text, "{name} = {value}{end}");
            self.unread.insert(name.clone());
            if !is_state {
                self.names.push((name, kind));
            }
        }
        if self.one_in(3) {
            let step = self.any(Kind::Vector, 3);
            _ = writeln!(text, "w = w - lr*{step}");
        }
        let step = self.any(Kind::Vector, 4);
        _ = write!(text, "w = w - lr*({step}");
        for name in std::mem::take(&mut self.unread) {
            _ = write!(text, " + {name}");
        }
        text + ")\n"
    }

    fn below(&mut self, n: usize) -> usize {
        (self.draw)(n)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn know(&mut self, name: &str, kind: Kind) {
        self.names.push((name.to_owned(), kind));
    }

    /// Of that kind or a narrower one.
    fn any(&mut self, kind: Kind, depth: usize) -> String {
        let kind = match (self.below(6), kind) {
            (0, _) => Kind::Scalar,
            (1, Kind::Vector) => Kind::Tensor,
            _ => kind,
        };
        self.exactly(kind, depth)
    }

    fn leaf(&mut self, kind: Kind) -> String {
        let numbers = ["1", "0.5", ".25", "2.", "1e-3", "1_0", "true"];
        let names: Vec<String> = (self.names.iter())
            .filter(|(_, its)| *its == kind)
            .map(|(name, _)| name.clone())
            .collect();
        if kind == Kind::Scalar && self.one_in(40) {
            return "inf".to_owned();
        }
        if kind == Kind::Scalar && (names.is_empty() || self.one_in(3)) {
            return numbers[self.below(numbers.len())].to_owned();
        }
        let name = names[self.below(names.len())].clone();
        self.unread.remove(&name);
        name
    }

    /// Every operation is in brackets of its own.
    fn exactly(&mut self, kind: Kind, depth: usize) -> String {
        if depth == 0 || self.fuel == 0 || self.one_in(6) {
            return self.leaf(kind);
        }
        self.fuel -= 1;
        let sums: &[&str] = match kind {
            Kind::Scalar => &["sum", "mean", "norm", "absmax"],
            Kind::Tensor => &["tensor_sum", "tensor_mean", "tensor_norm", "tensor_absmax"],
            Kind::Vector => &[],
        };
        if self.sums && !sums.is_empty() && self.one_in(4) {
            let sum = sums[self.below(sums.len())];
            return format!("{sum}({})", self.exactly(Kind::Vector, depth - 1));
        }
        if self.sums && kind == Kind::Vector && self.gradients > 0 && self.one_in(40) {
            self.gradients -= 1;
            // Not inside another one, nor twice.
            return format!("gradient(w + {})", self.exactly(Kind::Vector, depth - 1));
        }
        if self.sums && kind == Kind::Vector && self.quintic && self.one_in(20) {
            (self.quintic, self.matrices) = (false, true);
            let of = self.exactly(Kind::Vector, depth - 1);
            return format!("orthogonalize({of}, 2, quintic)");
        }
        let first = self.exactly(kind, depth - 1);
        match self.below(6) {
            0 => {
                let signs = ["-", "not "];
                format!("({}{first})", signs[self.below(signs.len())])
            }
            1 => {
                let functions = ["sqrt", "abs", "sign", "exp", "log", "floor"];
                let function = functions[self.below(functions.len())];
                match function {
                    // A NaN takes everything with it, and then hides mistakes.
                    "sqrt" | "log" if !self.one_in(8) => format!("{function}(abs({first}))"),
                    _ => format!("{function}({first})"),
                }
            }
            2 => {
                let (b, c) = (self.any(kind, depth - 1), self.any(kind, depth - 1));
                let arguments = match self.below(3) {
                    0 => [first, b, c],
                    1 => [b, first, c],
                    _ => [c, b, first],
                };
                let functions = ["clip", "where", "fma"];
                let function = functions[self.below(functions.len())];
                format!("{function}({})", arguments.join(", "))
            }
            _ => {
                let second = self.any(kind, depth - 1);
                let (mut a, mut b) = (first, second);
                if self.one_in(2) {
                    (a, b) = (b, a);
                }
                let signs = [
                    "+", "-", "*", "/", "^", "<", "<=", ">", ">=", "==", "!=", "and", "or", "min",
                    "max", "+", "*", "/",
                ];
                match signs[self.below(signs.len())] {
                    function @ ("min" | "max") => format!("{function}({a}, {b})"),
                    // A constant might be zero, and is refused.
                    "/" if !b.starts_with(|c: char| "uvtswg".contains(c)) => {
                        format!("({a} / (abs({b}) + 0.125))")
                    }
                    sign => format!("({a} {sign} {b})"),
                }
            }
        }
    }
}
