//! What a file's formulas mean: every name known, every kind fitting, everything assigned before it is read and read once
//! it is assigned.

use std::collections::BTreeMap;

use super::code::{Assignment, Function, Node, What, is_function, is_name, is_reserved};
use super::mistakes::Mistakes;
use super::syntax::{Expr, Kind, Operator, Over, Statement};
use crate::config::suggestion;
use crate::optim::groups::AUX;
use crate::optim::{COMMON_KEYS, LR, WEIGHT_DECAY};

/// What the history has of every epoch, by name.
const HISTORY: [&str; 11] = [
    "epoch",
    "learning_rate",
    "train_epoch_time",
    "eval_epoch_time",
    "model_norm",
    "grad_norm",
    "train_loss",
    "train_score",
    "val_loss",
    "val_score",
    "step_logs",
];

/// What a step is given, and whether it is known where weights are evaluated.
const GIVEN: [(&str, Kind, bool); 15] = [
    ("w", Kind::Vector, true),
    ("g", Kind::Vector, false),
    ("w0", Kind::Vector, true),
    ("loss", Kind::Scalar, false),
    ("lr", Kind::Scalar, false),
    ("lr0", Kind::Scalar, false),
    ("k", Kind::Scalar, false),
    ("steps", Kind::Scalar, false),
    ("epoch", Kind::Scalar, false),
    ("batch_size", Kind::Scalar, false),
    ("size", Kind::Tensor, true),
    ("rows", Kind::Tensor, true),
    ("cols", Kind::Tensor, true),
    ("ndim", Kind::Tensor, true),
    ("head", Kind::Tensor, true),
];

/// What is updated, and the one given name that may be assigned.
const WEIGHTS: &str = "w";

/// What a file declares a name to be.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Meaning {
    Key,
    /// A key that is a list of this many numbers.
    List(usize),
    State(Kind),
}

struct Declared {
    /// Where; keys that every method has are nowhere.
    at: Option<usize>,
    meaning: Meaning,
    read: bool,
    assigned: bool,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Section {
    /// Formulas of keys, before any step.
    Keys,
    Step,
    Evaluate,
}

impl Section {
    fn name(self) -> &'static str {
        match self {
            Section::Keys => "a formula of keys",
            Section::Step => "[step]",
            Section::Evaluate => "[evaluate]",
        }
    }
}

pub(super) struct Checker<'t> {
    pub mistakes: Mistakes<'t>,
    /// Could all code be read? What could not may read anything.
    pub complete: bool,
    declared: BTreeMap<&'t str, Declared>,
    section: Section,
    /// What the section has assigned so far beside state. A kind is unknown behind a mistake.
    locals: BTreeMap<&'t str, Option<Kind>>,
    /// Where the section assigns such names first, all of it.
    assigned: BTreeMap<&'t str, usize>,
    /// Assignments that nothing has read yet.
    unread: BTreeMap<&'t str, usize>,
    /// What [step] has assigned beside state.
    step: BTreeMap<&'t str, Option<Kind>>,
    /// Where the first matrices are made orthogonal.
    orthogonalized: Option<usize>,
}

impl<'t> Checker<'t> {
    pub fn new(mistakes: Mistakes<'t>) -> Checker<'t> {
        let common = [LR.name, WEIGHT_DECAY.name].map(|name| {
            let declared = Declared {
                at: None,
                meaning: Meaning::Key,
                read: true,
                assigned: false,
            };
            (name, declared)
        });
        Checker {
            mistakes,
            complete: true,
            declared: BTreeMap::from(common),
            section: Section::Keys,
            locals: BTreeMap::new(),
            assigned: BTreeMap::new(),
            unread: BTreeMap::new(),
            step: BTreeMap::new(),
            orthogonalized: None,
        }
    }

    /// Makes a key or a part of the state known.
    pub fn declare(&mut self, name: &'t str, at: usize, meaning: Meaning) {
        let is_key = !matches!(meaning, Meaning::State(_));
        let common = COMMON_KEYS.iter().any(|key| key.name == name) || name == "name";
        let every = format!("\"{name}\" is a key of every method (choose another name)");
        let wrong = match self.declared.get_mut(name) {
            // A file may give these another default.
            Some(declared @ Declared { at: None, .. }) if is_key => {
                declared.at = Some(at);
                let list = matches!(meaning, Meaning::List(_));
                list.then(|| format!("\"{name}\" is a number of every method, and no list"))
            }
            Some(Declared { at: None, .. }) => Some(every),
            Some(Declared {
                at: Some(first), ..
            }) => {
                let line = self.mistakes.line(*first);
                Some(format!("\"{name}\" is declared in line {line} already"))
            }
            None if is_key && common => Some(every),
            None => taken(name),
        };
        let blamed = wrong.is_some();
        self.declared.entry(name).or_insert(Declared {
            at: Some(at),
            meaning,
            // One mistake makes no others.
            read: blamed,
            assigned: blamed,
        });
        if let Some(wrong) = wrong {
            self.mistakes.add(at, wrong);
        }
    }

    /// A key's default or the beginning of a part of the state.
    pub fn formula(&mut self, node: &Node<'t>) -> Expr {
        self.section = Section::Keys;
        self.expr(node).0
    }

    /// The statements of `section`, which begins at `at`.
    pub fn statements(
        &mut self,
        section: Section,
        at: usize,
        statements: &[Assignment<'t>],
    ) -> Vec<Statement> {
        self.section = section;
        self.locals.clear();
        self.unread.clear();
        self.assigned.clear();
        for statement in statements {
            let first = self.assigned.entry(statement.name);
            first.or_insert(statement.at);
        }
        if !self.assigned.contains_key(WEIGHTS) {
            let name = section.name();
            let what = match statements {
                [] => format!("no statement in {name} (expected code that assigns w)"),
                _ => format!("{name} never assigns w"),
            };
            self.mistakes.add(at, what);
        }
        let checked = statements.iter().map(|statement| {
            let (value, kind) = self.expr(&statement.value);
            self.assign(statement, kind);
            Statement {
                name: statement.name.to_owned(),
                value,
                kind: kind.unwrap_or(Kind::Vector),
            }
        });
        let checked = checked.collect();
        if section == Section::Step {
            self.step = self.locals.clone();
        }
        checked
    }

    fn assign(&mut self, statement: &Assignment<'t>, kind: Option<Kind>) {
        let (name, at) = (statement.name, statement.at);
        let holds = match self.declared.get_mut(name) {
            Some(Declared {
                meaning: Meaning::State(kind),
                assigned,
                ..
            }) if self.section == Section::Step => {
                *assigned = true;
                Some(*kind)
            }
            Some(declared) => {
                let what = match declared.meaning {
                    Meaning::State(_) => {
                        format!(
                            "[evaluate] assigns \"{name}\", which is state (it may assign w and names of its own)"
                        )
                    }
                    _ => format!(
                        "\"{name}\" is a key, which cannot be assigned (choose another name)"
                    ),
                };
                self.mistakes.add(at, what);
                return;
            }
            None if name == WEIGHTS => Some(Kind::Vector),
            None => {
                if let Some(wrong) = taken(name) {
                    self.mistakes.add(at, wrong);
                    return;
                }
                self.locals.insert(name, kind);
                None
            }
        };
        if let (Some(holds), Some(kind)) = (holds, kind)
            && kind > holds
        {
            let hint = match holds {
                Kind::Scalar => "sums such as mean and norm make a scalar of a vector",
                _ => "sums such as tensor_mean and tensor_norm make one per tensor of a vector",
            };
            let what = format!(
                "\"{name}\" is {}, and its value is {} ({hint})",
                a(holds),
                a(kind)
            );
            self.mistakes.add(at, what);
        }
        let before = self.unread.insert(name, at);
        if let Some(before) = before.filter(|_| self.complete) {
            let line = self.mistakes.line(at);
            let what = format!(
                "this value of \"{name}\" is never read before line {line} assigns another"
            );
            self.mistakes.add(before, what);
        }
    }

    /// A name of [report] and where it stands, once [step] is checked.
    pub fn report(&mut self, name: &str, at: usize) {
        if HISTORY.contains(&name) {
            let what = format!("{name:?} is in every history (give the scalar another name)");
            self.mistakes.add(at, what);
        }
        let declared = self.declared.get_mut(name);
        let kind = match (declared, self.step.get(name)) {
            (
                Some(Declared {
                    meaning: Meaning::State(kind),
                    read,
                    ..
                }),
                _,
            ) => {
                *read = true;
                Some(*kind)
            }
            (_, Some(kind)) => {
                self.unread.remove(name);
                *kind
            }
            _ => {
                let state = self.declared.iter();
                let state =
                    state.filter(|(_, known)| known.meaning == Meaning::State(Kind::Scalar));
                let known = self
                    .step
                    .iter()
                    .filter(|(_, kind)| **kind == Some(Kind::Scalar));
                let known: Vec<&str> = (known.map(|(name, _)| *name))
                    .chain(state.map(|(name, _)| *name))
                    .collect();
                let hint = suggestion(name, &known);
                let what = format!("{name:?} is no scalar that [step] assigns {hint}");
                return self.mistakes.add(at, what);
            }
        };
        if let Some(kind @ (Kind::Tensor | Kind::Vector)) = kind {
            let what = format!("\"{name}\" is {} (expected a scalar)", a(kind));
            self.mistakes.add(at, what);
        }
    }

    /// What is left over at the end of a section.
    pub fn unread(&mut self) {
        for (name, at) in std::mem::take(&mut self.unread) {
            if self.complete && self.locals.contains_key(name) {
                self.mistakes
                    .add(at, format!("\"{name}\" is never read behind this"));
            }
        }
    }

    /// What is declared and serves nothing, once all sections are checked. `rest`: another method updates some parameters,
    /// whose keys may have other defaults here.
    pub fn unused(&mut self, rest: bool) {
        if let Some(at) = self.orthogonalized.filter(|_| !rest) {
            let what = "orthogonalize of parameters that are no matrices (expected [apply] with to = \"matrix\", and a method for the rest)";
            self.mistakes.add(at, what);
        }
        let own = |name: &&&str| !(rest && name.starts_with(AUX));
        for (name, declared) in self.declared.iter().filter(|(name, _)| own(name)) {
            let Some(at) = declared.at.filter(|_| self.complete) else {
                continue;
            };
            let what = match declared.meaning {
                Meaning::State(_) if !declared.assigned => "is state that [step] never assigns",
                Meaning::State(_) if !declared.read => "is state that nothing reads",
                Meaning::Key | Meaning::List(_) if !declared.read => "is a key that nothing reads",
                _ => continue,
            };
            self.mistakes.add(at, format!("\"{name}\" {what}"));
        }
    }

    fn expr(&mut self, node: &Node<'t>) -> (Expr, Option<Kind>) {
        match &node.what {
            What::Number(value) => (Expr::Number(*value), Some(Kind::Scalar)),
            What::Name(name) => {
                let kind = self.read(name, node.at);
                (Expr::Name((*name).to_owned()), kind)
            }
            What::Entry(name, index) => {
                self.entry(name, *index, node.at);
                (Expr::Entry((*name).to_owned(), *index), Some(Kind::Scalar))
            }
            What::Broken(parts) => {
                for part in parts {
                    self.expr(part);
                }
                (Expr::Number(0.0), None)
            }
            What::Call(Function::Orthogonalize, arguments) => {
                self.orthogonalize(node.at, arguments)
            }
            What::Call(function, arguments) => {
                let arguments = arguments.iter().map(|argument| self.expr(argument));
                let (arguments, kinds): (Vec<Expr>, Vec<_>) = arguments.unzip();
                self.call(*function, node.at, arguments, &kinds)
            }
        }
    }

    fn call(
        &mut self,
        function: Function,
        at: usize,
        arguments: Vec<Expr>,
        kinds: &[Option<Kind>],
    ) -> (Expr, Option<Kind>) {
        let widest = kinds.iter().copied().collect::<Option<Vec<Kind>>>();
        let widest = widest.and_then(|kinds| kinds.into_iter().max());
        let (expr, kind) = match function {
            Function::Apply(operator) => {
                let by_zero = operator == Operator::Divide && constant(&arguments[1]) == Some(0.0);
                if by_zero {
                    self.mistakes.add(at, "division by zero");
                }
                return (Expr::Apply(operator, arguments), widest);
            }
            Function::Clip => {
                let Ok(arguments) = <[Expr; 3]>::try_from(arguments) else {
                    unreachable!("the reader counts arguments")
                };
                return (Expr::Clip(Box::new(arguments)), widest);
            }
            Function::Sum(sum, over) => {
                let of = arguments.into_iter().map(Box::new).next();
                let kind = match over {
                    Over::All => Kind::Scalar,
                    Over::Tensor => Kind::Tensor,
                };
                (of.map(|of| Expr::Sum(sum, over, of)), kind)
            }
            Function::Gradient => {
                if arguments.iter().any(asks_for_gradient) {
                    let what = "a gradient inside a gradient (give the inner one a name first)";
                    self.mistakes.add(at, what);
                }
                let of = arguments.into_iter().map(Box::new).next();
                (of.map(Expr::Gradient), Kind::Vector)
            }
            Function::Orthogonalize => unreachable!("it is checked by itself"),
        };
        let Some(expr) = expr else {
            unreachable!("the reader counts arguments")
        };
        let gradient = function == Function::Gradient;
        let wrong = match (self.section, widest) {
            (Section::Keys | Section::Evaluate, _) => {
                let name = self.section.name();
                let what = if gradient { "gradient" } else { "sum" };
                Some(format!("a {what} in {name} (expected in [step] alone)"))
            }
            (_, Some(kind)) if kind < Kind::Vector && gradient => Some(format!(
                "gradient of {} (expected weights, a vector)",
                a(kind)
            )),
            (_, Some(kind)) if kind < Kind::Vector => {
                Some(format!("a sum of {}, which is no vector", a(kind)))
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            self.mistakes.add(at, wrong);
        }
        (expr, Some(kind))
    }

    fn orthogonalize(&mut self, at: usize, arguments: &[Node<'t>]) -> (Expr, Option<Kind>) {
        let [x, steps, coefficients] = arguments else {
            unreachable!("the reader counts arguments")
        };
        let (of, kind) = self.expr(x);
        let wrong = match (self.section, kind) {
            (Section::Keys | Section::Evaluate, _) => {
                let name = self.section.name();
                Some(format!(
                    "orthogonalize in {name} (expected in [step] alone)"
                ))
            }
            (_, Some(kind)) if kind < Kind::Vector => Some(format!(
                "orthogonalize of {} (expected a vector, of whose matrices each is made orthogonal)",
                a(kind)
            )),
            _ => None,
        };
        if let Some(wrong) = wrong {
            self.mistakes.add(at, wrong);
        }
        self.orthogonalized.get_or_insert(at);
        // How many steps there are is known before any step.
        let section = std::mem::replace(&mut self.section, Section::Keys);
        let (steps, _) = self.expr(steps);
        self.section = section;
        let list = match coefficients.what {
            What::Name(name) => self.three(name),
            _ => false,
        };
        if !list {
            let what = "expected the name of a key that is a list of three numbers, such as [3.4445, -4.775, 2.0315]";
            self.mistakes.add(coefficients.at, what);
        }
        let coefficients = match coefficients.what {
            What::Name(name) => Expr::Name(name.to_owned()),
            _ => Expr::Number(0.0),
        };
        let expr = Expr::Orthogonalize(Box::new([of, steps, coefficients]));
        (expr, Some(Kind::Vector))
    }

    /// Is it a key that is a list of three numbers?
    fn three(&mut self, name: &str) -> bool {
        match self.declared.get_mut(name) {
            Some(declared) if declared.meaning == Meaning::List(3) => {
                declared.read = true;
                true
            }
            _ => false,
        }
    }

    /// The kind of what `name` holds.
    fn read(&mut self, name: &'t str, at: usize) -> Option<Kind> {
        if self.section != Section::Keys {
            if let Some(kind) = self.locals.get(name) {
                self.unread.remove(name);
                return *kind;
            }
            if let Some((_, kind, everywhere)) = GIVEN.iter().find(|(given, ..)| *given == name) {
                self.unread.remove(name);
                if self.section == Section::Evaluate && !everywhere {
                    let what = format!("\"{name}\" is not known in [evaluate] {}", self.known());
                    self.mistakes.add(at, what);
                }
                return Some(*kind);
            }
        }
        let what = match self.declared.get_mut(name) {
            Some(declared) => match declared.meaning {
                Meaning::Key => {
                    declared.read = true;
                    return Some(Kind::Scalar);
                }
                Meaning::List(_) => {
                    declared.read = true;
                    format!("\"{name}\" is a list (expected one of its numbers, such as {name}[0])")
                }
                Meaning::State(kind) => {
                    declared.read = true;
                    self.unread.remove(name);
                    if self.section != Section::Keys {
                        return Some(kind);
                    }
                    format!("\"{name}\" is state (expected keys and numbers)")
                }
            },
            None if is_function(name) => {
                format!("\"{name}\" is a function (expected its arguments in brackets)")
            }
            None => match self
                .assigned
                .get(name)
                .filter(|_| self.section != Section::Keys)
            {
                Some(later) => {
                    let line = self.mistakes.line(*later);
                    format!("\"{name}\" is read before line {line} assigns it")
                }
                None if self.section == Section::Evaluate && self.step.contains_key(name) => {
                    format!(
                        "\"{name}\" is not known outside of [step] (make it state to read it in [evaluate])"
                    )
                }
                None => format!("unknown name \"{name}\" {}", self.nearest(name)),
            },
        };
        self.mistakes.add(at, what);
        None
    }

    fn entry(&mut self, name: &'t str, index: usize, at: usize) {
        let what = match self.declared.get_mut(name) {
            Some(Declared {
                meaning: Meaning::List(length),
                read,
                ..
            }) => {
                *read = true;
                if index < *length {
                    return;
                }
                format!(
                    "\"{name}\" has {length} numbers (expected an index from 0 to {})",
                    *length - 1
                )
            }
            // Whatever else is wrong with the name comes first.
            _ => match self.read(name, at) {
                Some(_) => format!("\"{name}\" is no list, and has no entries"),
                None => return,
            },
        };
        self.mistakes.add(at, what);
    }

    /// What can be read in the section.
    fn names(&self) -> Vec<&str> {
        let keys_alone = self.section == Section::Keys;
        let given = GIVEN
            .iter()
            .filter(|(_, _, everywhere)| match self.section {
                Section::Keys => false,
                Section::Step => true,
                Section::Evaluate => *everywhere,
            });
        let given = given.map(|(name, ..)| *name);
        let declared = self.declared.iter().filter(|(name, declared)| {
            let is_key = !matches!(declared.meaning, Meaning::State(_));
            (is_key || !keys_alone) && (keys_alone || **name != LR.name)
        });
        let locals = self.locals.keys().filter(|_| !keys_alone);
        let declared = declared.map(|(name, _)| *name);
        given.chain(declared).chain(locals.copied()).collect()
    }

    fn known(&self) -> String {
        format!("(known: {})", self.names().join(", "))
    }

    fn nearest(&self, name: &str) -> String {
        suggestion(name, &self.names())
    }
}

/// Why no key, no state and no value can have this name.
fn taken(name: &str) -> Option<String> {
    if !is_name(name) {
        Some(format!(
            "{name:?} is no name (expected letters, digits and _, the first no digit)"
        ))
    } else if is_reserved(name) {
        Some(format!(
            "\"{name}\" is a word of the language (choose another name)"
        ))
    } else if is_function(name) {
        Some(format!("\"{name}\" is a function (choose another name)"))
    } else if GIVEN.iter().any(|(given, ..)| *given == name) {
        Some(format!(
            "\"{name}\" is given to every method and cannot be assigned (choose another name)"
        ))
    } else {
        None
    }
}

fn a(kind: Kind) -> String {
    match kind {
        Kind::Tensor => kind.to_string(),
        _ => format!("a {kind}"),
    }
}

/// The value of a formula of numbers alone, where it is a plain one.
fn constant(expr: &Expr) -> Option<f64> {
    match expr {
        Expr::Number(value) => Some(*value),
        Expr::Apply(operator, arguments) => {
            let numbers = arguments
                .iter()
                .map(constant)
                .collect::<Option<Vec<f64>>>()?;
            match (operator, &numbers[..]) {
                (Operator::Negate, [a]) => Some(-a),
                (Operator::Add, [a, b]) => Some(a + b),
                (Operator::Subtract, [a, b]) => Some(a - b),
                (Operator::Multiply, [a, b]) => Some(a * b),
                _ => None,
            }
        }
        _ => None,
    }
}

fn asks_for_gradient(expr: &Expr) -> bool {
    match expr {
        Expr::Number(_) | Expr::Name(_) | Expr::Entry(..) => false,
        Expr::Apply(_, arguments) => arguments.iter().any(asks_for_gradient),
        Expr::Clip(arguments) | Expr::Orthogonalize(arguments) => {
            arguments.iter().any(asks_for_gradient)
        }
        Expr::Sum(_, _, of) => asks_for_gradient(of),
        Expr::Gradient(_) => true,
    }
}
