//! A step as a graph: every name resolved, keys replaced by their values, constants folded, equal parts merged.

use std::collections::HashMap;

use super::plan::{Adding, Given, MOST_STEPS, Shape};
use super::syntax::{Default, Definition, Expr, Kind, Operator, Over, Statement, Sum};

/// A node's number; its arguments have smaller ones.
pub type Id = usize;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// A double, by its bits.
    Constant(u64),
    Given(Given),
    Loss,
    /// What is kept from the step before: a number, one of each tensor.
    Scalar(usize),
    Tensor(usize),
    Shape(Shape),
    Vector(Leaf),
    /// The gradient at a vector; the first one is 0.
    Gradient(Id, usize),
    /// Of a vector whose matrices have norms of at most 1; with the number of steps, 0 if it is none, and the coefficients' bits.
    Orthogonalize(Id, usize, [u64; 3]),
    Sum(Adding, Over, Id),
    Apply(Operator, Vec<Id>),
}

/// A vector as it is before a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leaf {
    Parameters,
    Gradient,
    Start,
    State(usize),
}

/// A method's step and what it leaves.
#[derive(Debug, Default)]
pub struct Graph {
    pub nodes: Vec<Node>,
    pub kinds: Vec<Kind>,
    ids: HashMap<Node, Id>,
    pub parameters: Id,
    /// State before the first step, and the nodes that are its next values.
    pub vectors: Vec<(f64, Id)>,
    pub scalars: Vec<(f64, Id)>,
    /// The next values of numbers of tensors, which are kept as 0 before the first step.
    pub tensors: Vec<Id>,
    pub reports: Vec<Id>,
    /// The weights to be evaluated.
    pub evaluated: Option<Id>,
    gradients: usize,
}

/// A key's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    Number(f64),
    List(Vec<f64>),
}

/// What keys are in a run, by name.
pub type Settings = HashMap<String, Setting>;

/// The values of a file's keys where a config sets some of them.
pub fn settings(definition: &Definition, set: impl Fn(&str) -> Option<Setting>) -> Settings {
    let mut settings = Settings::new();
    // Formulas may name keys behind them: as many rounds as there are keys resolve all.
    let mut left: Vec<_> = definition.keys.iter().collect();
    for _ in 0..=left.len() {
        left.retain(|key| {
            let value = match (set(&key.name), &key.default) {
                (Some(value), _) => Some(value),
                (None, Default::Number(x)) => Some(Setting::Number(*x)),
                (None, Default::Flag(flag)) => Some(Setting::Number(f64::from(u8::from(*flag)))),
                (None, Default::List(list)) => Some(Setting::List(list.clone())),
                (None, Default::Formula(expr)) => number(expr, &settings).map(Setting::Number),
            };
            let open = value.is_none();
            settings.extend(value.map(|value| (key.name.clone(), value)));
            open
        });
    }
    settings
}

/// The value of a formula of keys, if all of these are known.
pub fn number(expr: &Expr, settings: &Settings) -> Option<f64> {
    let mut scratch = Graph::default();
    let names = settings.iter().filter_map(|(name, setting)| match setting {
        Setting::Number(x) => Some((name.clone(), scratch.constant(*x))),
        Setting::List(_) => None,
    });
    let names = names.collect();
    let id = scratch.expression(expr, &names, settings)?;
    scratch.value(id)
}

/// What names stand for.
type Names = HashMap<String, Id>;

impl Graph {
    /// Wants a definition that was checked. `joins`: weight decay differs between groups that share the step.
    pub fn new(definition: &Definition, settings: &Settings, joins: bool) -> Graph {
        let mut graph = Graph::default();
        let mut names = Names::new();
        for (name, setting) in settings {
            if let Setting::Number(x) = setting {
                names.insert(name.clone(), graph.constant(*x));
            }
        }
        let given = [
            ("lr", Given::Rate),
            ("lr0", Given::InitialRate),
            ("k", Given::Step),
            ("steps", Given::Steps),
            ("epoch", Given::Epoch),
            ("batch_size", Given::BatchSize),
        ];
        for (name, given) in given {
            names.insert(name.into(), graph.node(Node::Given(given)));
        }
        if joins {
            names.insert(
                "weight_decay".into(),
                graph.node(Node::Given(Given::WeightDecay)),
            );
        }
        names.insert("loss".into(), graph.node(Node::Loss));
        let shapes = ["size", "rows", "cols", "ndim", "head"];
        for (name, shape) in shapes.into_iter().zip(Shape::ALL) {
            names.insert(name.into(), graph.node(Node::Shape(shape)));
        }
        let leaves = [
            ("w", Leaf::Parameters),
            ("g", Leaf::Gradient),
            ("w0", Leaf::Start),
        ];
        for (name, leaf) in leaves {
            names.insert(name.into(), graph.node(Node::Vector(leaf)));
        }
        for (i, state) in definition.vectors.iter().enumerate() {
            let id = graph.node(Node::Vector(Leaf::State(i)));
            names.insert(state.name.clone(), id);
        }
        let initial = |expr: &Expr| number(expr, settings).expect("a formula of keys");
        for (i, state) in definition.tensors.iter().enumerate() {
            let kept = graph.node(Node::Tensor(i));
            let first = graph.constant(initial(&state.initial));
            let id = graph.kept_from(first, kept);
            names.insert(state.name.clone(), id);
        }
        for (i, state) in definition.scalars.iter().enumerate() {
            names.insert(state.name.clone(), graph.node(Node::Scalar(i)));
        }
        let before = names.clone();
        graph.statements(&definition.step, &mut names, settings);
        graph.parameters = names["w"];
        let next = |states: &[super::syntax::State]| -> Vec<(f64, Id)> {
            let states = states.iter();
            states
                .map(|state| (initial(&state.initial), names[&state.name]))
                .collect()
        };
        graph.vectors = next(&definition.vectors);
        let tensors = definition.tensors.iter();
        graph.tensors = tensors.map(|state| names[&state.name]).collect();
        graph.scalars = next(&definition.scalars);
        graph.reports = definition.reports.iter().map(|name| names[name]).collect();
        if !definition.evaluate.is_empty() {
            let mut names = before;
            graph.statements(&definition.evaluate, &mut names, settings);
            graph.evaluated = Some(names["w"]);
        }
        graph
    }

    /// A number before the first step and a kept one later: numbers of tensors are kept as 0 at first.
    fn kept_from(&mut self, first: Id, kept: Id) -> Id {
        if self.value(first) == Some(0.0) {
            return kept;
        }
        let (k, one) = (self.node(Node::Given(Given::Step)), self.constant(1.0));
        let is_first = self.apply(Operator::Equal, &[k, one]);
        self.apply(Operator::Where, &[is_first, first, kept])
    }

    fn statements(&mut self, statements: &[Statement], names: &mut Names, settings: &Settings) {
        for Statement { name, value, .. } in statements {
            let id = self.expression(value, names, settings);
            names.insert(name.clone(), id.expect("names that were checked"));
        }
    }

    fn node(&mut self, node: Node) -> Id {
        if let Some(id) = self.ids.get(&node) {
            return *id;
        }
        let kind = match &node {
            Node::Constant(_) | Node::Given(_) | Node::Loss | Node::Scalar(_) => Kind::Scalar,
            Node::Tensor(_) | Node::Shape(_) => Kind::Tensor,
            Node::Vector(_) | Node::Gradient(..) | Node::Orthogonalize(..) => Kind::Vector,
            Node::Sum(_, Over::All, _) => Kind::Scalar,
            Node::Sum(_, Over::Tensor, _) => Kind::Tensor,
            Node::Apply(_, arguments) => {
                let kinds = arguments.iter().map(|id| self.kinds[*id]);
                kinds.max().expect("an argument")
            }
        };
        self.nodes.push(node.clone());
        self.kinds.push(kind);
        self.ids.insert(node, self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    fn constant(&mut self, x: f64) -> Id {
        self.node(Node::Constant(x.to_bits()))
    }

    /// The value of a constant.
    pub fn value(&self, id: Id) -> Option<f64> {
        match self.nodes[id] {
            Node::Constant(bits) => Some(f64::from_bits(bits)),
            _ => None,
        }
    }

    fn expression(&mut self, expr: &Expr, names: &Names, settings: &Settings) -> Option<Id> {
        Some(match expr {
            Expr::Number(x) => self.constant(*x),
            Expr::Name(name) => *names.get(name)?,
            Expr::Entry(name, i) => match settings.get(name)? {
                Setting::List(list) => self.constant(*list.get(*i)?),
                Setting::Number(_) => return None,
            },
            Expr::Apply(operator, arguments) => {
                let arguments = arguments.iter();
                let ids = arguments.map(|x| self.expression(x, names, settings));
                let ids = ids.collect::<Option<Vec<Id>>>()?;
                self.apply(*operator, &ids)
            }
            Expr::Clip(arguments) => {
                let [x, low, high] = &**arguments;
                let mut id = |expr| self.expression(expr, names, settings);
                let (x, low, high) = (id(x)?, id(low)?, id(high)?);
                let raised = self.apply(Operator::Max, &[x, low]);
                self.apply(Operator::Min, &[raised, high])
            }
            Expr::Sum(sum, over, x) => {
                let x = self.expression(x, names, settings)?;
                self.sum(*sum, *over, x)
            }
            Expr::Gradient(at) => {
                let at = self.expression(at, names, settings)?;
                self.gradients += 1;
                self.node(Node::Gradient(at, self.gradients - 1))
            }
            Expr::Orthogonalize(arguments) => {
                let [x, steps, Expr::Name(list)] = &**arguments else {
                    return None;
                };
                let x = self.expression(x, names, settings)?;
                let steps = self.expression(steps, names, settings)?;
                let Setting::List(list) = settings.get(list)? else {
                    return None;
                };
                let coefficients = <[f64; 3]>::try_from(&list[..]).ok()?;
                self.orthogonalize(x, self.value(steps)?, coefficients)
            }
        })
    }

    fn sum(&mut self, sum: Sum, over: Over, x: Id) -> Id {
        let adding = match sum {
            Sum::Sum | Sum::Mean => Adding::Values,
            Sum::Norm => Adding::Squares,
            Sum::AbsMax => Adding::LargestAbsolute,
        };
        let all = self.node(Node::Sum(adding, over, x));
        match (sum, over) {
            (Sum::Sum | Sum::AbsMax, _) => all,
            (Sum::Norm, _) => self.apply(Operator::Sqrt, &[all]),
            (Sum::Mean, Over::All) => {
                let n = self.node(Node::Given(Given::Parameters));
                self.apply(Operator::Divide, &[all, n])
            }
            (Sum::Mean, Over::Tensor) => {
                let n = self.node(Node::Shape(Shape::Size));
                self.apply(Operator::Divide, &[all, n])
            }
        }
    }

    fn orthogonalize(&mut self, x: Id, steps: f64, coefficients: [f64; 3]) -> Id {
        let norm = self.sum(Sum::Norm, Over::Tensor, x);
        let least = self.constant(1e-7);
        let divisor = self.apply(Operator::Max, &[norm, least]);
        let x = self.apply(Operator::Divide, &[x, divisor]);
        let possible = steps.fract() == 0.0 && (1.0..=MOST_STEPS as f64).contains(&steps);
        let steps = if possible { steps as usize } else { 0 };
        self.node(Node::Orthogonalize(
            x,
            steps,
            coefficients.map(f64::to_bits),
        ))
    }

    /// What an operator makes of nodes. A factor of 0 that is known makes 0 of everything, so that weight decay of 0, say,
    /// costs nothing and leaves infinite weights alone, as PyTorch's methods do.
    fn apply(&mut self, operator: Operator, ids: &[Id]) -> Id {
        use Operator::*;
        let values: Vec<Option<f64>> = ids.iter().map(|id| self.value(*id)).collect();
        if let Some(values) = values.iter().copied().collect::<Option<Vec<f64>>>() {
            return self.constant(operator.of_doubles(&values));
        }
        match (operator, &values[..], ids) {
            (Add, [Some(0.0), _], &[_, x]) | (Add | Subtract, [_, Some(0.0)], &[x, _]) => x,
            (Subtract, [Some(0.0), _], &[_, x]) => self.apply(Negate, &[x]),
            (Multiply, [Some(0.0), _], _) | (Multiply, [_, Some(0.0)], _) => self.constant(0.0),
            (Divide, [Some(0.0), _], _) => self.constant(0.0),
            (Multiply, [Some(1.0), _], &[_, x]) => x,
            (Multiply | Divide | Power, [_, Some(1.0)], &[x, _]) => x,
            (Multiply, [Some(-1.0), _], &[_, x]) => self.apply(Negate, &[x]),
            (Power, [_, Some(0.0)], _) => self.constant(1.0),
            (Power, [_, Some(2.0)], &[x, _]) => self.apply(Multiply, &[x, x]),
            (Power, [_, Some(3.0)], &[x, _]) => {
                let square = self.apply(Multiply, &[x, x]);
                self.apply(Multiply, &[square, x])
            }
            (Power, [_, Some(0.5)], &[x, _]) => self.apply(Sqrt, &[x]),
            (Power, [_, Some(-1.0)], &[x, _]) => {
                let one = self.constant(1.0);
                self.apply(Divide, &[one, x])
            }
            (Where, [Some(condition), ..], &[_, a, b]) => match *condition != 0.0 {
                true => a,
                false => b,
            },
            (Where, _, &[_, a, b]) if a == b => a,
            (And, [Some(0.0), _] | [_, Some(0.0)], _) => self.constant(0.0),
            (Or, [Some(x), _] | [_, Some(x)], _) if *x != 0.0 => self.constant(1.0),
            (MultiplyAdd, [Some(0.0), ..] | [_, Some(0.0), _], &[_, _, c]) => c,
            (Negate, _, &[x]) => match self.nodes[x] {
                Node::Apply(Negate, ref inner) => inner[0],
                _ => self.node(Node::Apply(Negate, ids.to_vec())),
            },
            _ => self.node(Node::Apply(operator, ids.to_vec())),
        }
    }

    /// The nodes that the step's results, and the state that these need, consist of; and which vectors, numbers of tensors and
    /// numbers of the state are among them.
    pub fn live(&self) -> Live {
        let mut live = Live {
            nodes: vec![false; self.nodes.len()],
            vectors: vec![false; self.vectors.len()],
            tensors: vec![false; self.tensors.len()],
            scalars: vec![false; self.scalars.len()],
        };
        let mut open = vec![self.parameters];
        open.extend(&self.reports);
        open.extend(self.evaluated);
        while let Some(id) = open.pop() {
            if std::mem::replace(&mut live.nodes[id], true) {
                continue;
            }
            match &self.nodes[id] {
                Node::Vector(Leaf::State(i)) => {
                    live.vectors[*i] = true;
                    open.push(self.vectors[*i].1);
                }
                Node::Tensor(i) => {
                    live.tensors[*i] = true;
                    open.push(self.tensors[*i]);
                }
                Node::Scalar(i) => {
                    live.scalars[*i] = true;
                    open.push(self.scalars[*i].1);
                }
                node => open.extend(node.arguments()),
            }
        }
        live
    }
}

/// See [`Graph::live`].
pub struct Live {
    pub nodes: Vec<bool>,
    pub vectors: Vec<bool>,
    pub tensors: Vec<bool>,
    pub scalars: Vec<bool>,
}

impl Node {
    pub fn arguments(&self) -> &[Id] {
        match self {
            Node::Apply(_, arguments) => arguments,
            Node::Sum(.., x) | Node::Gradient(x, _) | Node::Orthogonalize(x, ..) => {
                std::slice::from_ref(x)
            }
            _ => &[],
        }
    }
}
