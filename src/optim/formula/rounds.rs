//! A graph cut into rounds: sums end a pass over the vectors, and so does another gradient.
//!
//! A value that later passes need is kept in a vector of its own, or computed again from what is there; a vector of the
//! state gets its new value at once, or later, where its old one is still needed. [`Layout::search`] takes what moves the
//! fewest bytes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::graph::{Graph, Id, Leaf, Live, Node};
use super::plan::{
    Cell, Code, Element, Host, HostInput, Instruction, Number, Numbers, Orthogonalize, Pass,
    PassSum, Plan, Round,
};
use super::syntax::{Kind, Over};

/// Nodes that a search looks at, or about this many, from each place where it starts: a step of many sums takes no longer
/// than others, and may move more bytes than it must.
const LOOKED_AT: usize = 300_000;

/// Makes a plan of a step.
pub fn plan(graph: &Graph) -> Plan {
    let live = graph.live();
    let facts = Facts::new(graph, &live);
    let layout = Layout::search(&facts);
    Emitter::new(&facts, &layout).plan()
}

/// What follows from a graph alone.
struct Facts<'a> {
    graph: &'a Graph,
    live: &'a Live,
    /// Does it follow from what the host knows?
    on_host: Vec<bool>,
    /// The first round that can compute it.
    level: Vec<usize>,
    /// Gradients and the rounds that have them, in order.
    gradients: Vec<(Id, usize)>,
    /// The vectors that a step leaves: the parameters, and the state that is live.
    finals: Vec<(Leaf, Id)>,
    /// In which round kept numbers, of the method and of tensors, get their next values.
    scalar_round: Vec<usize>,
    tensor_round: Vec<usize>,
    rounds: usize,
}

impl<'a> Facts<'a> {
    fn new(graph: &'a Graph, live: &'a Live) -> Facts<'a> {
        let ids = || (0..graph.nodes.len()).filter(|id| live.nodes[*id]);
        let mut level = vec![0; graph.nodes.len()];
        let mut gradients = Vec::new();
        for id in ids() {
            let node = &graph.nodes[id];
            let above = node.arguments().iter().map(|id| level[*id]).max();
            let above = above.unwrap_or(0);
            level[id] = match node {
                Node::Sum(..) | Node::Orthogonalize(..) => above + 1,
                Node::Gradient(..) => {
                    let before = gradients.last().map_or(0, |(_, round)| *round);
                    gradients.push((id, (above + 1).max(before + 1)));
                    gradients[gradients.len() - 1].1
                }
                _ => above,
            };
        }
        let states = graph.vectors.iter().enumerate();
        let states = states.filter(|(i, _)| live.vectors[*i]);
        let finals = [(Leaf::Parameters, graph.parameters)].into_iter();
        let finals: Vec<_> = finals
            .chain(states.map(|(i, (_, id))| (Leaf::State(i), *id)))
            .collect();
        let last = ids().map(|id| level[id]).max().unwrap_or(0);
        Facts {
            graph,
            live,
            on_host: on_host(graph, live),
            scalar_round: graph.scalars.iter().map(|(_, id)| level[*id]).collect(),
            tensor_round: graph.tensors.iter().map(|id| level[*id]).collect(),
            level,
            gradients,
            finals,
            rounds: last + 1,
        }
    }

    fn live_ids(&self) -> impl Iterator<Item = Id> {
        (0..self.graph.nodes.len()).filter(|id| self.live.nodes[*id])
    }

    fn is_vector(&self, id: Id) -> bool {
        self.graph.kinds[id] == Kind::Vector
    }

    fn is_leaf(&self, id: Id) -> bool {
        matches!(self.graph.nodes[id], Node::Vector(_))
    }

    /// The sums that a pass makes.
    fn sums(&self, pass: usize) -> Vec<Id> {
        let sums = self.live_ids();
        sums.filter(|id| {
            matches!(self.graph.nodes[*id], Node::Sum(..)) && self.level[*id] == pass + 1
        })
        .collect()
    }

    /// The vectors that come out of a Newton-Schulz iteration behind a pass.
    fn orthogonal_behind(&self, pass: usize) -> impl Iterator<Item = Id> {
        let orthogonal = self.live_ids().filter(|id| self.is_orthogonal(*id));
        orthogonal.filter(move |id| self.level[*id] == pass + 1)
    }

    fn is_orthogonal(&self, id: Id) -> bool {
        matches!(self.graph.nodes[id], Node::Orthogonalize(..))
    }

    /// The vector at which a gradient is computed behind a pass.
    fn asked_behind(&self, pass: usize) -> Option<Id> {
        let (id, _) = self
            .gradients
            .iter()
            .find(|(_, round)| *round == pass + 1)?;
        Some(self.graph.nodes[*id].arguments()[0])
    }
}

/// Which numbers follow from what the host knows before a step: a kept one does if its next value does.
fn on_host(graph: &Graph, live: &Live) -> Vec<bool> {
    let mut kept = live.scalars.clone();
    // What evaluation reads lies on the device.
    let mut open: Vec<Id> = graph.evaluated.into_iter().collect();
    while let Some(id) = open.pop() {
        match &graph.nodes[id] {
            Node::Scalar(i) => kept[*i] = false,
            node => open.extend(node.arguments()),
        }
    }
    loop {
        let mut host = vec![false; graph.nodes.len()];
        for (id, node) in graph.nodes.iter().enumerate() {
            host[id] = match node {
                Node::Constant(_) | Node::Given(_) => true,
                Node::Scalar(i) => kept[*i],
                Node::Apply(_, arguments) => arguments.iter().all(|id| host[*id]),
                _ => false,
            };
        }
        let before = kept.clone();
        for (kept, (_, next)) in kept.iter_mut().zip(&graph.scalars) {
            *kept &= host[*next];
        }
        if kept == before {
            return host;
        }
    }
}

/// When vectors get their new values, and what is kept beside them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Layout {
    /// The pass that writes each of [`Facts::finals`].
    written: Vec<usize>,
    /// Values that are kept from the pass that can first compute them.
    kept: BTreeSet<Id>,
}

/// Where values are found before a pass: in the state, the parameters, the gradient, or kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Place {
    Leaf(usize),
    Kept(Id),
    /// Where the iteration that makes a vector has every other X.
    Other(Id),
    /// What such iterations work in.
    Workspace(usize),
}

/// Where the iteration that makes a vector begins, and where its second X goes: the last one is the vector.
fn iterates(id: Id, steps: usize) -> [Place; 2] {
    match steps % 2 {
        0 => [Place::Kept(id), Place::Other(id)],
        _ => [Place::Other(id), Place::Kept(id)],
    }
}

const PARAMETERS: Place = Place::Leaf(0);
const GRADIENT: Place = Place::Leaf(1);
const START: Place = Place::Leaf(2);

fn place(leaf: Leaf) -> Place {
    match leaf {
        Leaf::Parameters => PARAMETERS,
        Leaf::Gradient => GRADIENT,
        Leaf::Start => START,
        Leaf::State(i) => Place::Leaf(3 + i),
    }
}

impl Layout {
    fn search(facts: &Facts) -> Layout {
        let level = |id: &Id| facts.level[*id];
        let last_gradient = facts.gradients.last().map_or(0, |(_, round)| *round);
        let earliest: Vec<usize> = facts
            .finals
            .iter()
            .map(|(leaf, id)| match leaf {
                Leaf::Parameters => level(id).max(last_gradient),
                _ => level(id),
            })
            .collect();
        let latest = facts.rounds - 1;
        // What is needed behind a sum, or behind a gradient that overwrites it.
        let mut candidates = BTreeSet::new();
        for id in facts.live_ids() {
            let vectors = facts.graph.nodes[id].arguments().iter();
            let vectors = vectors.filter(|x| facts.is_vector(**x) && level(x) < level(&id));
            // A sum is made where its argument is, and an iteration begins there.
            if !matches!(
                facts.graph.nodes[id],
                Node::Sum(..) | Node::Orthogonalize(..)
            ) {
                candidates.extend(vectors);
            }
        }
        let finals = facts.finals.iter().zip(&earliest);
        candidates.extend(
            finals
                .filter(|((_, id), pass)| level(id) < **pass)
                .map(|((_, id), _)| *id),
        );
        candidates.extend(facts.live_ids().filter(|id| facts.is_leaf(*id)));
        // These have a place anyway.
        candidates.retain(|id| !facts.is_orthogonal(*id));
        let starts = [
            Layout {
                written: earliest.clone(),
                kept: candidates.clone(),
            },
            Layout {
                written: vec![latest; facts.finals.len()],
                kept: BTreeSet::new(),
            },
            Layout {
                written: earliest.clone(),
                kept: BTreeSet::new(),
            },
        ];
        let nodes = facts.rounds * facts.live_ids().count();
        let descend = |start: Layout| {
            let mut left = LOOKED_AT / nodes.max(1);
            let (mut cost, mut layout) = (start.cost(facts)?, start);
            loop {
                let moves = layout.moves(&candidates, &earliest, latest);
                let moves = moves.take(left).inspect(|_| left -= 1);
                let moves = moves.filter_map(|moved| Some((moved.cost(facts)?, moved)));
                match moves.min_by_key(|(cost, _)| *cost) {
                    Some((less, moved)) if less < cost => (cost, layout) = (less, moved),
                    _ => return Some((cost, layout)),
                }
            }
        };
        let found = starts.into_iter().filter_map(descend);
        let best = found.min_by_key(|(cost, _)| *cost);
        best.expect("what is kept can be had").1
    }

    /// Layouts that differ in one decision: what is kept, or when a vector is written.
    fn moves<'m>(
        &'m self,
        candidates: &'m BTreeSet<Id>,
        earliest: &'m [usize],
        latest: usize,
    ) -> impl Iterator<Item = Layout> + 'm {
        let toggles = candidates.iter().map(|id| {
            let mut layout = self.clone();
            if !layout.kept.remove(id) {
                layout.kept.insert(*id);
            }
            layout
        });
        let times = earliest.iter().enumerate().flat_map(move |(i, first)| {
            (*first..=latest).map(move |pass| {
                let mut layout = self.clone();
                layout.written[i] = pass;
                layout
            })
        });
        toggles.chain(times)
    }

    /// What each place holds before a pass.
    fn before(&self, facts: &Facts, pass: usize) -> HashMap<Id, Place> {
        let mut held: BTreeMap<Place, Id> = BTreeMap::new();
        for id in facts.live_ids() {
            if let Node::Vector(leaf) = facts.graph.nodes[id] {
                held.insert(place(leaf), id);
            }
        }
        for earlier in 0..pass {
            for (leaf, id) in self.finals_of(facts, earlier) {
                held.insert(place(leaf), id);
            }
            if let Some(at) = facts.asked_behind(earlier) {
                held.insert(PARAMETERS, at);
                let gradient = facts
                    .gradients
                    .iter()
                    .find(|(_, round)| *round == earlier + 1);
                held.insert(GRADIENT, gradient.expect("asked for").0);
            }
        }
        let kept = self.kept.iter().filter(|id| facts.level[**id] < pass);
        held.extend(kept.map(|id| (Place::Kept(*id), *id)));
        let orthogonal = (0..pass).flat_map(|earlier| facts.orthogonal_behind(earlier));
        held.extend(orthogonal.map(|id| (Place::Kept(id), id)));
        // Of two places the one that is there anyway.
        held.into_iter()
            .rev()
            .map(|(place, id)| (id, place))
            .collect()
    }

    fn finals_of<'f>(
        &'f self,
        facts: &'f Facts,
        pass: usize,
    ) -> impl Iterator<Item = (Leaf, Id)> + 'f {
        let finals = facts.finals.iter().zip(&self.written);
        finals
            .filter(move |(_, written)| **written == pass)
            .map(|(last, _)| *last)
    }

    /// What a pass writes. A state that stays what it is is not written.
    fn stores(&self, facts: &Facts, pass: usize) -> Vec<(Place, Id)> {
        let before = self.before(facts, pass);
        let mut stores: Vec<_> = self
            .finals_of(facts, pass)
            .map(|(leaf, id)| (place(leaf), id))
            .filter(|(place, id)| before.get(id) != Some(place))
            .collect();
        let asked = facts.asked_behind(pass);
        stores.extend(asked.map(|id| (PARAMETERS, id)));
        let kept = self.kept.iter().filter(|id| facts.level[**id] == pass);
        stores.extend(kept.map(|id| (Place::Kept(*id), *id)));
        stores.extend(facts.orthogonal_behind(pass).map(|id| {
            let Node::Orthogonalize(of, steps, _) = facts.graph.nodes[id] else {
                unreachable!("iterations alone")
            };
            (iterates(id, steps)[0], of)
        }));
        stores
    }

    /// The values that a pass must have.
    fn roots(&self, facts: &Facts, pass: usize) -> Vec<Id> {
        let sums = facts.sums(pass).into_iter();
        let sums = sums.map(|id| facts.graph.nodes[id].arguments()[0]);
        sums.chain(self.stores(facts, pass).into_iter().map(|(_, id)| id))
            .collect()
    }

    /// Floats that a step moves for each parameter, then vectors that it keeps; `None` if something cannot be had.
    fn cost(&self, facts: &Facts) -> Option<(usize, usize)> {
        let mut moved = 0;
        for pass in 0..facts.rounds {
            let before = self.before(facts, pass);
            let mut read = BTreeSet::new();
            let mut seen = BTreeSet::new();
            let mut open = self.roots(facts, pass);
            moved += self.stores(facts, pass).len();
            while let Some(id) = open.pop() {
                if facts.level[id] > pass {
                    return None;
                }
                if !facts.is_vector(id) || !seen.insert(id) {
                    continue;
                }
                match (before.get(&id), &facts.graph.nodes[id]) {
                    (Some(place), _) => {
                        read.insert(*place);
                    }
                    (None, Node::Apply(_, arguments)) => open.extend(arguments),
                    _ => return None,
                }
            }
            moved += read.len();
        }
        Some((moved, self.kept.len()))
    }
}

/// Writes a plan.
struct Emitter<'a> {
    facts: &'a Facts<'a>,
    layout: &'a Layout,
    cells: Vec<Cell>,
    /// The cells of places.
    places: BTreeMap<Place, usize>,
    coefficients: Vec<Id>,
    /// Numbers that are left for later, by round: of groups and of tensors.
    group_slots: Slots,
    tensor_slots: Slots,
}

/// The places of numbers that one round leaves for others.
#[derive(Default)]
struct Slots {
    /// (node, round), by place.
    slots: Vec<(Id, usize)>,
}

impl Slots {
    fn place(&mut self, id: Id, round: usize) -> usize {
        let place = self.slots.iter().position(|slot| slot.0 == id);
        place.unwrap_or_else(|| {
            self.slots.push((id, round));
            self.slots.len() - 1
        })
    }

    fn of_round(&self, round: usize) -> Vec<(usize, Id)> {
        let slots = self.slots.iter().enumerate();
        slots
            .filter(|(_, slot)| slot.1 == round)
            .map(|(i, slot)| (i, slot.0))
            .collect()
    }
}

impl<'a> Emitter<'a> {
    fn new(facts: &'a Facts<'a>, layout: &'a Layout) -> Emitter<'a> {
        let mut places = BTreeMap::from([(PARAMETERS, 0), (GRADIENT, 1)]);
        let mut cells = vec![Cell::Parameters, Cell::Gradient];
        let mut add = |place, cell| {
            places.insert(place, cells.len());
            cells.push(cell);
        };
        for (i, (initial, _)) in facts.graph.vectors.iter().enumerate() {
            if facts.live.vectors[i] {
                add(place(Leaf::State(i)), Cell::State(*initial));
            }
        }
        let start = |id: &Id| facts.graph.nodes[*id] == Node::Vector(Leaf::Start);
        if facts.live_ids().any(|id| start(&id)) {
            add(START, Cell::Start);
        }
        for id in &layout.kept {
            add(Place::Kept(*id), Cell::Work);
        }
        let orthogonal: Vec<Id> = (facts.live_ids())
            .filter(|id| facts.is_orthogonal(*id))
            .collect();
        for id in &orthogonal {
            add(Place::Kept(*id), Cell::Work);
            add(Place::Other(*id), Cell::Work);
        }
        if !orthogonal.is_empty() {
            add(Place::Workspace(0), Cell::Work);
            add(Place::Workspace(1), Cell::Work);
        }
        Emitter {
            facts,
            layout,
            cells,
            places,
            coefficients: Vec::new(),
            group_slots: Slots::default(),
            tensor_slots: Slots::default(),
        }
    }

    fn plan(mut self) -> Plan {
        let facts = self.facts;
        let evaluation = facts.graph.evaluated.map(|id| self.evaluation(id));
        let passes: Vec<_> = (0..facts.rounds).map(|round| self.pass(round)).collect();
        // What a round leaves for later ones is known once these are written.
        let mut rounds = Vec::new();
        for (round, pass) in passes.into_iter().enumerate().rev() {
            let tensor = self.tensor_numbers(round);
            let group = self.group_numbers(round);
            rounds.push(Round {
                group,
                tensor,
                pass,
                orthogonal: self.orthogonal(round),
                gradient: facts.asked_behind(round).is_some(),
            });
        }
        rounds.reverse();
        let live = |states: &[(f64, Id)], live: &[bool]| -> Vec<f64> {
            let states = states.iter().zip(live).filter(|(_, live)| **live);
            states.map(|((initial, _), _)| *initial).collect()
        };
        let sums = facts.live_ids().map(|id| &facts.graph.nodes[id]);
        let mut sums = sums.filter(|node| matches!(node, Node::Sum(_, Over::All, _)));
        Plan {
            joins_groups: sums.next().is_some() || !facts.gradients.is_empty(),
            scalars: live(&facts.graph.scalars, &self.device_scalars()),
            tensors: self.tensor(facts.live.tensors.len()),
            group_slots: self.group_slots.slots.len(),
            tensor_slots: self.tensor_slots.slots.len(),
            host: self.host(),
            cells: self.cells,
            rounds,
            evaluation,
        }
    }

    /// Which of the kept numbers lie on the device.
    fn device_scalars(&self) -> Vec<bool> {
        let nodes = self.facts.graph.nodes.iter().zip(&self.facts.on_host);
        let mut on_host = vec![false; self.facts.graph.scalars.len()];
        for (node, host) in nodes {
            if let Node::Scalar(i) = node {
                on_host[*i] |= host;
            }
        }
        let live = self.facts.live.scalars.iter().zip(on_host);
        live.map(|(live, host)| *live && !host).collect()
    }

    /// The place of a kept number on the device.
    fn scalar(&self, i: usize) -> usize {
        self.device_scalars()[..i]
            .iter()
            .filter(|there| **there)
            .count()
    }

    fn tensor(&self, i: usize) -> usize {
        self.facts.live.tensors[..i]
            .iter()
            .filter(|live| **live)
            .count()
    }

    fn coefficient(&mut self, id: Id) -> Number {
        if let Some(x) = self.facts.graph.value(id) {
            return Number::Constant(x);
        }
        let place = self.coefficients.iter().position(|other| *other == id);
        Number::Coefficient(place.unwrap_or_else(|| {
            self.coefficients.push(id);
            self.coefficients.len() - 1
        }))
    }

    /// A number as a pass, or numbers of tensors, of a round find it.
    fn number(&mut self, id: Id, round: usize) -> Number {
        let facts = self.facts;
        if facts.on_host[id] {
            return self.coefficient(id);
        }
        let level = facts.level[id];
        match facts.graph.nodes[id] {
            Node::Loss if !self.loss_is_another(round) => Number::Loss,
            Node::Loss => Number::Slot(self.group_slots.place(id, 0)),
            Node::Scalar(i) if facts.scalar_round[i] > round => Number::State(self.scalar(i)),
            Node::Scalar(i) => Number::Slot(self.group_slots.place(id, facts.scalar_round[i])),
            Node::Shape(shape) => Number::Shape(shape),
            Node::Tensor(i) if facts.tensor_round[i] > round => Number::TensorState(self.tensor(i)),
            Node::Tensor(i) => {
                Number::TensorSlot(self.tensor_slots.place(id, facts.tensor_round[i]))
            }
            _ if facts.graph.kinds[id] == Kind::Tensor => {
                Number::TensorSlot(self.tensor_slots.place(id, level))
            }
            _ => Number::Slot(self.group_slots.place(id, level)),
        }
    }

    /// Has another gradient replaced the batch's loss before a round?
    fn loss_is_another(&self, round: usize) -> bool {
        let mut gradients = self.facts.gradients.iter();
        gradients.any(|(_, gradient)| *gradient <= round)
    }

    fn pass(&mut self, round: usize) -> Option<Pass> {
        let facts = self.facts;
        let (sums, stores) = (facts.sums(round), self.layout.stores(facts, round));
        if sums.is_empty() && stores.is_empty() {
            return None;
        }
        let before = self.layout.before(facts, round);
        let mut writer = PassWriter::new(before);
        let sums = sums.iter().map(|id| {
            let Node::Sum(how, over, of) = facts.graph.nodes[*id] else {
                unreachable!("sums alone")
            };
            PassSum {
                how,
                by_tensor: over == Over::Tensor,
                value: writer.value(self, of, round),
            }
        });
        let sums = sums.collect();
        let stores = stores.into_iter().map(|(place, id)| {
            let value = writer.value(self, id, round);
            (self.places[&place], value)
        });
        let stores = stores.collect();
        Some(writer.pass(stores, sums))
    }

    fn orthogonal(&self, round: usize) -> Vec<Orthogonalize> {
        let facts = self.facts;
        let all = facts.orthogonal_behind(round).map(|id| {
            let Node::Orthogonalize(_, steps, coefficients) = facts.graph.nodes[id] else {
                unreachable!("iterations alone")
            };
            let [x, next] = iterates(id, steps);
            let [a, b] = [0, 1].map(Place::Workspace);
            Orthogonalize {
                steps,
                coefficients: coefficients.map(f64::from_bits),
                cells: [x, next, a, b].map(|place| self.places[&place]),
            }
        });
        all.collect()
    }

    /// The pass that computes the weights to be evaluated, into a vector of its own.
    fn evaluation(&mut self, id: Id) -> Pass {
        let before = Layout {
            written: Vec::new(),
            kept: BTreeSet::new(),
        };
        let mut writer = PassWriter::new(before.before(self.facts, 0));
        writer.alone = true;
        let value = writer.value(self, id, 0);
        self.cells.push(Cell::Work);
        writer.pass(vec![(self.cells.len() - 1, value)], Vec::new())
    }

    fn group_numbers(&mut self, round: usize) -> Numbers {
        let facts = self.facts;
        let mut writer = NumbersWriter::new(self, round, Kind::Scalar);
        let mut numbers = Numbers::default();
        let states = facts.graph.scalars.iter().enumerate();
        let on_device = writer.emitter.device_scalars();
        for (i, (_, next)) in states.filter(|(i, _)| on_device[*i]) {
            if facts.scalar_round[i] == round {
                let value = writer.value(*next);
                numbers.state.push((writer.emitter.scalar(i), value));
            }
        }
        for (i, id) in facts.graph.reports.iter().enumerate() {
            if facts.level[*id] == round {
                numbers.reports.push((i, writer.value(*id)));
            }
        }
        // Values add slots of rounds before, not of this one.
        for (slot, id) in writer.emitter.group_slots.of_round(round) {
            numbers.slots.push((slot, writer.value(id)));
        }
        numbers.code = writer.code;
        numbers
    }

    fn tensor_numbers(&mut self, round: usize) -> Numbers {
        let facts = self.facts;
        let mut writer = NumbersWriter::new(self, round, Kind::Tensor);
        let mut numbers = Numbers::default();
        let states = facts.graph.tensors.iter().enumerate();
        for (i, next) in states.filter(|(i, _)| facts.live.tensors[*i]) {
            if facts.tensor_round[i] == round {
                let value = writer.value(*next);
                numbers.state.push((writer.emitter.tensor(i), value));
            }
        }
        for (slot, id) in writer.emitter.tensor_slots.of_round(round) {
            numbers.slots.push((slot, writer.value(id)));
        }
        numbers.code = writer.code;
        numbers
    }

    fn host(&self) -> Host {
        let facts = self.facts;
        let graph = facts.graph;
        let on_device = self.device_scalars();
        let kept: Vec<usize> = (0..graph.scalars.len())
            .filter(|i| facts.live.scalars[*i] && !on_device[*i])
            .collect();
        let mut code = Code::default();
        let mut values: HashMap<Id, usize> = HashMap::new();
        let next: Vec<Id> = kept.iter().map(|i| graph.scalars[*i].1).collect();
        // Nodes are numbered in an order in which they can be computed.
        let mut needed = BTreeSet::new();
        let mut open: Vec<Id> = self.coefficients.iter().chain(&next).copied().collect();
        while let Some(id) = open.pop() {
            if needed.insert(id) {
                open.extend(graph.nodes[id].arguments());
            }
        }
        for id in needed {
            let instruction = match &graph.nodes[id] {
                Node::Constant(bits) => {
                    Instruction::Read(HostInput::Constant(f64::from_bits(*bits)))
                }
                Node::Given(given) => Instruction::Read(HostInput::Given(*given)),
                Node::Scalar(i) => {
                    let place = kept.iter().position(|k| k == i);
                    Instruction::Read(HostInput::State(place.expect("kept by the host")))
                }
                Node::Apply(operator, arguments) => {
                    Instruction::Apply(*operator, arguments.iter().map(|id| values[id]).collect())
                }
                node => unreachable!("{node:?} on the host"),
            };
            values.insert(id, code.push(instruction));
        }
        Host {
            code,
            coefficients: self.coefficients.iter().map(|id| values[id]).collect(),
            initial: kept.iter().map(|i| graph.scalars[*i].0).collect(),
            state: next.iter().map(|id| values[id]).collect(),
        }
    }
}

/// Writes the code of a pass.
struct PassWriter {
    /// Where values are before it.
    before: HashMap<Id, Place>,
    values: HashMap<Id, usize>,
    uniforms: Vec<Number>,
    code: Code<Element>,
    /// Are there no numbers of rounds, so that it computes them itself?
    alone: bool,
}

impl PassWriter {
    fn new(before: HashMap<Id, Place>) -> PassWriter {
        PassWriter {
            before,
            values: HashMap::new(),
            uniforms: Vec::new(),
            code: Code::default(),
            alone: false,
        }
    }

    fn value(&mut self, emitter: &mut Emitter, id: Id, round: usize) -> usize {
        if let Some(value) = self.values.get(&id) {
            return *value;
        }
        let (graph, node) = (emitter.facts.graph, &emitter.facts.graph.nodes[id]);
        let instruction = match (self.before.get(&id), node) {
            (Some(place), _) => Instruction::Read(Element::Cell(emitter.places[place])),
            (None, Node::Apply(operator, arguments))
                if graph.kinds[id] == Kind::Vector || self.alone && graph.value(id).is_none() =>
            {
                let arguments = arguments.iter();
                let values = arguments.map(|id| self.value(emitter, *id, round));
                Instruction::Apply(*operator, values.collect())
            }
            _ => {
                let number = match (self.alone, node) {
                    (true, Node::Scalar(i)) => Number::State(emitter.scalar(*i)),
                    (true, Node::Tensor(i)) => Number::TensorState(emitter.tensor(*i)),
                    _ => emitter.number(id, round),
                };
                let place = self.uniforms.iter().position(|other| *other == number);
                let place = place.unwrap_or_else(|| {
                    self.uniforms.push(number);
                    self.uniforms.len() - 1
                });
                Instruction::Read(Element::Uniform(place))
            }
        };
        let value = self.code.push(instruction);
        self.values.insert(id, value);
        value
    }

    fn pass(self, stores: Vec<(usize, usize)>, sums: Vec<PassSum>) -> Pass {
        let of_tensor = |number: &Number| {
            matches!(
                number,
                Number::TensorState(_) | Number::TensorSlot(_) | Number::Shape(_)
            )
        };
        Pass {
            by_tensor: self.uniforms.iter().any(of_tensor) || sums.iter().any(|sum| sum.by_tensor),
            uniforms: self.uniforms,
            code: self.code,
            stores,
            sums,
        }
    }
}

/// Writes the numbers of a round.
struct NumbersWriter<'e, 'a> {
    emitter: &'e mut Emitter<'a>,
    round: usize,
    /// Of groups or of tensors.
    kind: Kind,
    values: HashMap<Id, usize>,
    code: Code<Number>,
}

impl<'e, 'a> NumbersWriter<'e, 'a> {
    fn new(emitter: &'e mut Emitter<'a>, round: usize, kind: Kind) -> Self {
        NumbersWriter {
            emitter,
            round,
            kind,
            values: HashMap::new(),
            code: Code::default(),
        }
    }

    fn value(&mut self, id: Id) -> usize {
        if let Some(value) = self.values.get(&id) {
            return *value;
        }
        let facts = self.emitter.facts;
        let here = facts.level[id] == self.round && facts.graph.kinds[id] == self.kind;
        let instruction = match &facts.graph.nodes[id] {
            Node::Apply(operator, arguments) if here && !facts.on_host[id] => {
                let values = arguments.iter().map(|id| self.value(*id)).collect();
                Instruction::Apply(*operator, values)
            }
            Node::Sum(..) if here => {
                let sums = facts.sums(self.round - 1);
                let place = sums.iter().position(|sum| *sum == id);
                let place = place.expect("a sum of the pass before");
                Instruction::Read(match self.kind {
                    Kind::Scalar => Number::Sum(place),
                    _ => Number::TensorSum(place),
                })
            }
            // What is kept is read before it is written.
            Node::Scalar(i)
                if self.kind == Kind::Scalar
                    && !facts.on_host[id]
                    && facts.scalar_round[*i] == self.round =>
            {
                Instruction::Read(Number::State(self.emitter.scalar(*i)))
            }
            Node::Tensor(i) if facts.tensor_round[*i] == self.round => {
                Instruction::Read(Number::TensorState(self.emitter.tensor(*i)))
            }
            Node::Loss if self.kind == Kind::Scalar && self.round == 0 => {
                Instruction::Read(Number::Loss)
            }
            _ => Instruction::Read(self.emitter.number(id, self.round)),
        };
        let value = self.code.push(instruction);
        self.values.insert(id, value);
        value
    }
}
