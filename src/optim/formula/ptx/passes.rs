//! Passes over vectors.

use std::mem::{offset_of, size_of};

use super::super::places::Piece;
use super::super::plan::{Adding, Element, Instruction, Number, Pass, Plan};
use super::text::{Class, Operand};
use super::writer::{At, DOUBLE, SINGLE, Writer, parts, places};
use super::{Given, THREADS};

/// A pass of more instructions takes elements one by one: four copies of it would take long to compile.
const MOST_UNROLLED: usize = 600;

/// What a pass goes over: `n` elements from `origin`, and which of them a thread takes.
struct Span {
    origin: Operand,
    n: Operand,
    start: Operand,
    stride: Operand,
}

/// The entry of a pass.
pub fn pass<'a>(plan: &'a Plan, pass: &Pass) -> Writer<'a> {
    let mut writer = Writer::new(plan);
    let w = &mut writer;
    let block = w
        .text
        .put(Class::Bits32, "mov.u32", &[Operand::Named("%ctaid.x")]);
    let block = w.bits64("cvt.u64.u32", &[block]);
    let threads = Operand::Integer(THREADS.into());
    let mut at = At::default();
    let span = if pass.by_tensor {
        let pieces = w.given(Given::Pieces);
        let piece = w.text.address(pieces, block, size_of::<Piece>() as i64);
        at.tensor = Some(w.field(piece, offset_of!(Piece, tensor)));
        Span {
            origin: w
                .text
                .load(Class::Bits64, "global.u64", piece, offset_of!(Piece, start)),
            n: w.field(piece, offset_of!(Piece, len)),
            start: w.thread_index,
            stride: threads,
        }
    } else {
        let first = w.bits64("mul.lo.s64", &[block, threads]);
        let blocks = w
            .text
            .put(Class::Bits32, "mov.u32", &[Operand::Named("%nctaid.x")]);
        let blocks = w.bits64("cvt.u64.u32", &[blocks]);
        Span {
            origin: Operand::Integer(0),
            n: w.given(Given::Length),
            start: w.bits64("add.s64", &[first, w.thread_index]),
            stride: w.bits64("mul.lo.s64", &[blocks, threads]),
        }
    };
    if pass
        .uniforms
        .iter()
        .any(|n| matches!(n, Number::Coefficient(_)))
    {
        at.coefficients = Some(w.step_slot());
    }
    let uniform = |number: &Number| match w.number(*number, &at) {
        Operand::Double(value) => Operand::Single(value as f32),
        value => w.text.put(Class::Single, "cvt.rn.f32.f64", &[value]),
    };
    let uniforms: Vec<Operand> = pass.uniforms.iter().map(uniform).collect();
    let sums = w.zeros(pass.sums.len());
    let body = Body {
        pass,
        uniforms,
        sums,
    };
    // How long the code of one element is says whether four are taken at once.
    let mut alone = Writer::new(plan);
    body.elements(&mut alone, span.origin, &[0]);
    body.all(w, &span, alone.text.instructions < MOST_UNROLLED);
    let (row, places) = (pass.sums.len(), places(pass));
    for (how, part) in parts(pass, |_| true) {
        let of_part: Vec<Operand> = part.iter().map(|i| body.sums[*i]).collect();
        w.reduce(&of_part, how, |w, total| {
            let partial = w.given(Given::ToPartial);
            let row = w.text.address(partial, block, row as i64 * DOUBLE);
            let own = w.text.address(row, w.thread_index, DOUBLE);
            w.text
                .store("global.f64", own, places[part[0]] * size_of::<f64>(), total);
        });
    }
    writer
}

/// The code of a pass with its uniforms, and the registers of its sums.
struct Body<'p> {
    pass: &'p Pass,
    uniforms: Vec<Operand>,
    sums: Vec<Operand>,
}

impl Body<'_> {
    /// All elements that the thread takes.
    fn all(&self, w: &mut Writer, span: &Span, unrolled: bool) {
        let Span {
            origin,
            n,
            start,
            stride,
        } = *span;
        if !unrolled {
            return w.strided(start, stride, n, |w, i| {
                let element = w.bits64("add.s64", &[i, origin]);
                self.elements(w, element, &[0]);
            });
        }
        // Up to an aligned address they go one by one, then in packs of four, then one by one.
        let (zero, two) = (Operand::Integer(0), Operand::Integer(2));
        let phase = w.given(Given::Phase);
        let aligned = w.text.put(Class::Predicate, "setp.ge.s64", &[phase, zero]);
        let head = w.bits64("add.s64", &[phase, origin]);
        let head = w.bits64("sub.s64", &[zero, head]);
        let head = w.bits64("and.b64", &[head, Operand::Integer(3)]);
        let head = w.bits64("min.s64", &[head, n]);
        let packs = w.bits64("sub.s64", &[n, head]);
        let packs = w.bits64("shr.s64", &[packs, two]);
        let packs = w.bits64("selp.b64", &[packs, zero, aligned]);
        let packed = w.bits64("shl.b64", &[packs, two]);
        let rest = w.bits64("sub.s64", &[n, packed]);
        w.strided(start, stride, rest, |w, i| {
            let before = w.text.put(Class::Predicate, "setp.lt.s64", &[i, head]);
            let behind = w.bits64("add.s64", &[i, packed]);
            let element = w.bits64("selp.b64", &[i, behind, before]);
            let element = w.bits64("add.s64", &[element, origin]);
            self.elements(w, element, &[0]);
        });
        let first = w.bits64("add.s64", &[head, origin]);
        w.strided(start, stride, packs, |w, i| {
            let element = w.bits64("shl.b64", &[i, two]);
            let element = w.bits64("add.s64", &[element, first]);
            self.elements(w, element, &[0, 1, 2, 3]);
        });
    }

    /// Some elements one behind the other: all are read before any is written.
    fn elements(&self, w: &mut Writer, element: Operand, lanes: &[usize]) {
        let bytes = w.bits64("mul.lo.s64", &[element, Operand::Integer(SINGLE)]);
        let address = |w: &mut Writer, given| {
            let base = w.given(given);
            w.bits64("add.s64", &[base, bytes])
        };
        let mut read: Vec<(usize, Vec<Operand>)> = Vec::new();
        for instruction in &self.pass.code.instructions {
            if let Instruction::Read(Element::Cell(cell)) = instruction
                && !read.iter().any(|(c, _)| c == cell)
            {
                let address = address(w, Given::Cell(*cell));
                read.push((*cell, w.text.load_lanes(address, lanes.len())));
            }
        }
        let mut values = Vec::new();
        for lane in lanes {
            let of_lane = w.code(&self.pass.code, |_, input| match input {
                Element::Cell(cell) => {
                    let (_, lanes) = read.iter().find(|(c, _)| *c == cell).expect("read above");
                    lanes[*lane]
                }
                Element::Uniform(i) => self.uniforms[i],
            });
            for (sum, register) in self.pass.sums.iter().zip(&self.sums) {
                self.sum(w, sum.how, *register, of_lane[sum.value]);
            }
            values.push(of_lane);
        }
        for (cell, value) in &self.pass.stores {
            let address = address(w, Given::ToCell(*cell));
            let values: Vec<Operand> = values.iter().map(|of_lane| of_lane[*value]).collect();
            w.text.store_lanes(address, &values);
        }
    }

    fn sum(&self, w: &mut Writer, how: Adding, sum: Operand, x: Operand) {
        let x = match x {
            Operand::Single(value) => Operand::Double(value.into()),
            x => w.text.double(x),
        };
        match how {
            Adding::Values => w.add(sum, how, x),
            // The square of a single is a double.
            Adding::Squares => w.text.set(sum, "fma.rn.f64", &[x, x, sum]),
            Adding::LargestAbsolute => {
                let x = w.text.float("abs", &[x]);
                w.add(sum, how, x);
            }
        }
    }
}
