//! An interpreter of PTX: exactly the part of it that this crate writes, checked more strictly than a GPU does.
//!
//! Every instruction has types, a register is written before it is read, an access lies in a range that the launch names
//! and is aligned, a barrier is met by all threads, and no two threads touch a word, of which one writes it, without a
//! barrier between them. Warps of 32 threads run in step, each until it waits, in the order of the [`Schedule`].

use std::collections::HashMap;
use std::time::Instant;

use super::{Order, Schedule};

/// Threads of a warp.
const LANES: usize = 32;

/// What a text holds, by the names of its entries.
pub struct Module {
    pub entries: HashMap<String, Entry>,
}

/// A kernel, decoded.
pub struct Entry {
    /// Names and bytes of the parameters.
    pub parameters: Vec<(String, u32)>,
    pub threads: usize,
    code: Vec<Instruction>,
    /// By instruction: the line of the text, and may a branch lead there?
    lines: Vec<usize>,
    targets: Vec<bool>,
    registers: usize,
    /// Registers that hold constants and what a thread knows of itself.
    constants: Vec<(Register, u64)>,
    special: Vec<(Register, Special)>,
    shared: usize,
}

/// A place in a thread's registers of all kinds, which are 64 bits wide here.
type Register = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Special {
    Thread,
    Block,
    Blocks,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Predicate,
    Bits32,
    Bits64,
    Single,
    Double,
}

use Class::{Bits32, Bits64, Double, Predicate, Single};

impl Class {
    /// Of the type that a mnemonic ends with.
    fn of(kind: &str) -> Option<Class> {
        Some(match kind {
            "pred" => Predicate,
            "u32" | "s32" | "b32" => Bits32,
            "u64" | "s64" | "b64" => Bits64,
            "f32" => Single,
            "f64" => Double,
            _ => return None,
        })
    }

    fn bytes(self) -> usize {
        match self {
            Predicate | Bits32 | Single => 4,
            Bits64 | Double => 8,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Space {
    Global,
    Shared,
}

enum Instruction {
    One(fn(u64) -> u64, Register, Register),
    Two(fn(u64, u64) -> u64, Register, [Register; 2]),
    Three(fn(u64, u64, u64) -> u64, Register, [Register; 3]),
    Parameter(Register, usize),
    /// Between memory and registers, each of this many bytes.
    Load(Access),
    Store(Access),
    /// Where the predicate has this value, if there is one.
    Branch(Option<(Register, bool)>, usize),
    Barrier,
    Return,
}

struct Access {
    space: Space,
    bytes: usize,
    registers: Vec<Register>,
    address: Register,
    offset: u64,
}

#[derive(Clone, Copy)]
enum Apply {
    One(fn(u64) -> u64),
    Two(fn(u64, u64) -> u64),
    Three(fn(u64, u64, u64) -> u64),
}

fn f(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

fn d(x: u64) -> f64 {
    f64::from_bits(x)
}

fn of_f(x: f32) -> u64 {
    x.to_bits().into()
}

fn of_d(x: f64) -> u64 {
    x.to_bits()
}

fn low(x: i32) -> u64 {
    u64::from(x as u32)
}

fn select(a: u64, b: u64, p: u64) -> u64 {
    if p != 0 { a } else { b }
}

/// What computes: the mnemonic, the kinds of result and operands, and the arithmetic.
#[rustfmt::skip]
const TABLE: &[(&str, &[Class], Apply)] = {
    use Apply::{One, Three, Two};
    &[
        ("add.rn.f32", &[Single, Single, Single], Two(|a, b| of_f(f(a) + f(b)))),
        ("sub.rn.f32", &[Single, Single, Single], Two(|a, b| of_f(f(a) - f(b)))),
        ("mul.rn.f32", &[Single, Single, Single], Two(|a, b| of_f(f(a) * f(b)))),
        ("div.rn.f32", &[Single, Single, Single], Two(|a, b| of_f(f(a) / f(b)))),
        ("fma.rn.f32", &[Single, Single, Single, Single], Three(|a, b, c| of_f(f(a).mul_add(f(b), f(c))))),
        ("sqrt.rn.f32", &[Single, Single], One(|a| of_f(f(a).sqrt()))),
        ("neg.f32", &[Single, Single], One(|a| of_f(-f(a)))),
        ("abs.f32", &[Single, Single], One(|a| of_f(f(a).abs()))),
        ("cvt.rmi.f32.f32", &[Single, Single], One(|a| of_f(f(a).floor()))),
        ("mov.f32", &[Single, Single], One(|a| a)),
        ("selp.f32", &[Single, Single, Single, Predicate], Three(select)),
        ("add.rn.f64", &[Double, Double, Double], Two(|a, b| of_d(d(a) + d(b)))),
        ("sub.rn.f64", &[Double, Double, Double], Two(|a, b| of_d(d(a) - d(b)))),
        ("mul.rn.f64", &[Double, Double, Double], Two(|a, b| of_d(d(a) * d(b)))),
        ("div.rn.f64", &[Double, Double, Double], Two(|a, b| of_d(d(a) / d(b)))),
        ("fma.rn.f64", &[Double, Double, Double, Double], Three(|a, b, c| of_d(d(a).mul_add(d(b), d(c))))),
        ("sqrt.rn.f64", &[Double, Double], One(|a| of_d(d(a).sqrt()))),
        ("neg.f64", &[Double, Double], One(|a| of_d(-d(a)))),
        ("abs.f64", &[Double, Double], One(|a| of_d(d(a).abs()))),
        ("cvt.rmi.f64.f64", &[Double, Double], One(|a| of_d(d(a).floor()))),
        ("cvt.rni.f64.f64", &[Double, Double], One(|a| of_d(d(a).round_ties_even()))),
        ("cvt.rzi.f64.f64", &[Double, Double], One(|a| of_d(d(a).trunc()))),
        ("mov.f64", &[Double, Double], One(|a| a)),
        ("selp.f64", &[Double, Double, Double, Predicate], Three(select)),
        ("cvt.f64.f32", &[Double, Single], One(|a| of_d(f(a).into()))),
        ("cvt.rn.f32.f64", &[Single, Double], One(|a| of_f(d(a) as f32))),
        ("cvt.rn.f64.s64", &[Double, Bits64], One(|a| of_d(a as i64 as f64))),
        ("cvt.rzi.s64.f64", &[Bits64, Double], One(|a| d(a) as i64 as u64)),
        ("mov.b64", &[Bits64, Double], One(|a| a)),
        ("mov.b64", &[Double, Bits64], One(|a| a)),
        ("setp.lt.f32", &[Predicate, Single, Single], Two(|a, b| (f(a) < f(b)).into())),
        ("setp.le.f32", &[Predicate, Single, Single], Two(|a, b| (f(a) <= f(b)).into())),
        ("setp.gt.f32", &[Predicate, Single, Single], Two(|a, b| (f(a) > f(b)).into())),
        ("setp.ge.f32", &[Predicate, Single, Single], Two(|a, b| (f(a) >= f(b)).into())),
        ("setp.eq.f32", &[Predicate, Single, Single], Two(|a, b| (f(a) == f(b)).into())),
        ("setp.neu.f32", &[Predicate, Single, Single], Two(|a, b| (f(a) != f(b)).into())),
        ("setp.nan.f32", &[Predicate, Single, Single], Two(|a, b| (f(a).is_nan() || f(b).is_nan()).into())),
        ("setp.lt.f64", &[Predicate, Double, Double], Two(|a, b| (d(a) < d(b)).into())),
        ("setp.le.f64", &[Predicate, Double, Double], Two(|a, b| (d(a) <= d(b)).into())),
        ("setp.gt.f64", &[Predicate, Double, Double], Two(|a, b| (d(a) > d(b)).into())),
        ("setp.ge.f64", &[Predicate, Double, Double], Two(|a, b| (d(a) >= d(b)).into())),
        ("setp.eq.f64", &[Predicate, Double, Double], Two(|a, b| (d(a) == d(b)).into())),
        ("setp.neu.f64", &[Predicate, Double, Double], Two(|a, b| (d(a) != d(b)).into())),
        ("setp.nan.f64", &[Predicate, Double, Double], Two(|a, b| (d(a).is_nan() || d(b).is_nan()).into())),
        ("setp.lt.s32", &[Predicate, Bits32, Bits32], Two(|a, b| ((a as i32) < b as i32).into())),
        ("setp.ge.s32", &[Predicate, Bits32, Bits32], Two(|a, b| (a as i32 >= b as i32).into())),
        ("setp.ne.s32", &[Predicate, Bits32, Bits32], Two(|a, b| (a as i32 != b as i32).into())),
        ("setp.lt.s64", &[Predicate, Bits64, Bits64], Two(|a, b| ((a as i64) < b as i64).into())),
        ("setp.ge.s64", &[Predicate, Bits64, Bits64], Two(|a, b| (a as i64 >= b as i64).into())),
        ("and.pred", &[Predicate, Predicate, Predicate], Two(|a, b| a & b)),
        ("or.pred", &[Predicate, Predicate, Predicate], Two(|a, b| a | b)),
        ("not.pred", &[Predicate, Predicate], One(|a| a ^ 1)),
        ("mov.u32", &[Bits32, Bits32], One(|a| a)),
        ("add.s32", &[Bits32, Bits32, Bits32], Two(|a, b| low((a as i32).wrapping_add(b as i32)))),
        ("sub.s32", &[Bits32, Bits32, Bits32], Two(|a, b| low((a as i32).wrapping_sub(b as i32)))),
        ("and.b32", &[Bits32, Bits32, Bits32], Two(|a, b| a & b)),
        ("shl.b32", &[Bits32, Bits32, Bits32], Two(|a, b| if b < 32 { a << b & 0xffff_ffff } else { 0 })),
        ("shr.u32", &[Bits32, Bits32, Bits32], Two(|a, b| if b < 32 { a >> b } else { 0 })),
        ("mov.u64", &[Bits64, Bits64], One(|a| a)),
        ("add.s64", &[Bits64, Bits64, Bits64], Two(u64::wrapping_add)),
        ("sub.s64", &[Bits64, Bits64, Bits64], Two(u64::wrapping_sub)),
        ("mul.lo.s64", &[Bits64, Bits64, Bits64], Two(u64::wrapping_mul)),
        ("min.s64", &[Bits64, Bits64, Bits64], Two(|a, b| (a as i64).min(b as i64) as u64)),
        ("and.b64", &[Bits64, Bits64, Bits64], Two(|a, b| a & b)),
        ("or.b64", &[Bits64, Bits64, Bits64], Two(|a, b| a | b)),
        ("shl.b64", &[Bits64, Bits64, Bits32], Two(|a, b| if b < 64 { a << b } else { 0 })),
        ("shr.s64", &[Bits64, Bits64, Bits32], Two(|a, b| ((a as i64) >> b.min(63)) as u64)),
        ("selp.b64", &[Bits64, Bits64, Bits64, Predicate], Three(select)),
        ("cvt.u64.u32", &[Bits64, Bits32], One(|a| a)),
        ("cvt.s64.s32", &[Bits64, Bits32], One(|a| i64::from(a as i32) as u64)),
    ]
};

/// What is wrong in a line.
type Wrong = String;

impl Module {
    /// # Errors
    /// The first line that is not of the part of PTX that is known here, and what is wrong with it.
    pub fn parse(text: &str) -> Result<Module, Wrong> {
        let lines = text.lines().enumerate();
        let lines = lines.map(|(i, line)| {
            let code = line.split("//").next().expect("a first part");
            (i + 1, code.trim())
        });
        let mut lines = lines.filter(|(_, line)| !line.is_empty());
        for wanted in [".version 7.8", ".target sm_80", ".address_size 64"] {
            match lines.next() {
                Some((_, line)) if line == wanted => {}
                _ => return Err(format!("the text does not say {wanted}")),
            }
        }
        let mut entries = HashMap::new();
        while let Some((line, first)) = lines.next() {
            let wrong = |what: Wrong| format!("line {line}: {what}");
            let name = first.strip_prefix(".visible .entry ");
            let name = name.and_then(|name| name.strip_suffix('('));
            let name = name.ok_or_else(|| wrong(format!("{first:?} begins no entry")))?;
            let mut parser = Parser::default();
            loop {
                let (line, text) = lines.next().ok_or("the text ends within an entry")?;
                let wrong = |what: Wrong| format!("line {line}: {what}, in {text:?}");
                if text == "}" {
                    break;
                }
                parser.line(line, text).map_err(wrong)?;
            }
            let entry = parser.finish().map_err(wrong)?;
            if entries.insert(name.to_owned(), entry).is_some() {
                return Err(wrong(format!("a second entry {name}")));
            }
        }
        Ok(Module { entries })
    }
}

/// An entry as far as it was read.
#[derive(Default)]
struct Parser {
    parameters: Vec<(String, Class)>,
    threads: usize,
    in_body: bool,
    /// By prefix: the kind of the registers, how many there are, and the first one's place.
    declared: HashMap<String, (Class, usize, usize)>,
    written: Vec<bool>,
    registers: usize,
    constants: HashMap<u64, Register>,
    special: HashMap<Special, Register>,
    shared: HashMap<String, usize>,
    shared_bytes: usize,
    labels: HashMap<String, usize>,
    /// Branches and the labels that they lead to.
    branches: Vec<(usize, String)>,
    code: Vec<Instruction>,
    lines: Vec<usize>,
}

impl Parser {
    fn line(&mut self, line: usize, text: &str) -> Result<(), Wrong> {
        if !self.in_body {
            return self.head(text);
        }
        if let Some(label) = text.strip_suffix(':') {
            return match self.labels.insert(label.to_owned(), self.code.len()) {
                None => Ok(()),
                Some(_) => Err("a second label of this name".to_owned()),
            };
        }
        let text = text.strip_suffix(';').ok_or("no semicolon at the end")?;
        if let Some(text) = text.strip_prefix(".reg .") {
            return self.declare(text);
        }
        if let Some(text) = text.strip_prefix(".shared .align 8 .b8 ") {
            let array = text.strip_suffix(']').and_then(|text| text.split_once('['));
            let (name, bytes) = array.ok_or("no array")?;
            let bytes: usize = number(bytes)?;
            self.shared.insert(name.to_owned(), self.shared_bytes);
            self.shared_bytes += bytes.next_multiple_of(8);
            return Ok(());
        }
        let instruction = self.instruction(text)?;
        self.code.push(instruction);
        self.lines.push(line);
        Ok(())
    }

    /// Between the entry's name and its body.
    fn head(&mut self, text: &str) -> Result<(), Wrong> {
        if let Some(text) = text.strip_prefix(".param .") {
            let parts = text.trim_end_matches(',').split_once(' ');
            let (kind, name) = parts.ok_or("no name")?;
            let class = Class::of(kind).ok_or("an unknown type")?;
            self.parameters.push((name.to_owned(), class));
        } else if let Some(text) = text.strip_prefix(".maxntid ") {
            self.threads = number(text.strip_suffix(", 1, 1").ok_or("two dimensions")?)?;
        } else if text == "{" {
            if self.threads == 0 || !self.threads.is_multiple_of(LANES) {
                return Err("no .maxntid of whole warps".to_owned());
            }
            self.in_body = true;
        } else if text != ")" {
            return Err("an unknown directive".to_owned());
        }
        Ok(())
    }

    fn declare(&mut self, text: &str) -> Result<(), Wrong> {
        let parts = text.strip_suffix('>').and_then(|text| text.split_once(' '));
        let (kind, registers) = parts.ok_or("no registers")?;
        let class = Class::of(kind).ok_or("an unknown type")?;
        let (prefix, count) = registers.split_once('<').ok_or("no number")?;
        let count = number(count)?;
        let declared = (class, count, self.registers);
        self.registers += count;
        self.written.resize(self.registers, false);
        match self.declared.insert(prefix.to_owned(), declared) {
            None => Ok(()),
            Some(_) => Err("declared twice".to_owned()),
        }
    }

    /// The register of this name and its kind.
    fn named(&self, text: &str) -> Result<(Register, Class), Wrong> {
        let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit());
        let (prefix, i) = (&text[..text.len() - digits.len()], number::<usize>(digits)?);
        match self.declared.get(prefix) {
            Some(&(class, count, first)) if i < count => Ok((first + i, class)),
            _ => Err(format!("{text} is not declared")),
        }
    }

    fn result(&mut self, text: &str, class: Class) -> Result<Register, Wrong> {
        let (register, is) = self.named(text)?;
        if is != class {
            return Err(format!("{text} is {is:?}, not {class:?}"));
        }
        self.written[register] = true;
        Ok(register)
    }

    fn constant(&mut self, value: u64) -> Register {
        let next = self.registers;
        let register = *self.constants.entry(value).or_insert(next);
        self.registers = next.max(register + 1);
        register
    }

    fn operand(&mut self, text: &str, class: Class) -> Result<Register, Wrong> {
        let special = match text {
            "%tid.x" => Some(Special::Thread),
            "%ctaid.x" => Some(Special::Block),
            "%nctaid.x" => Some(Special::Blocks),
            _ => None,
        };
        if let Some(special) = special {
            if class != Bits32 {
                return Err(format!("{text} is not {class:?}"));
            }
            let next = self.registers;
            let register = *self.special.entry(special).or_insert(next);
            self.registers = next.max(register + 1);
            return Ok(register);
        }
        if text.starts_with('%') {
            let (register, is) = self.named(text)?;
            if is != class {
                return Err(format!("{text} is {is:?}, not {class:?}"));
            }
            if !self.written[register] {
                return Err(format!("{text} is read before it is written"));
            }
            return Ok(register);
        }
        let hexadecimal = |text: &str, digits: usize| {
            let value = u64::from_str_radix(text, 16).ok();
            value.filter(|_| text.len() == digits)
        };
        let value = match class {
            Predicate => None,
            Single => text
                .strip_prefix("0f")
                .and_then(|text| hexadecimal(text, 8)),
            Double => text
                .strip_prefix("0d")
                .and_then(|text| hexadecimal(text, 16)),
            Bits32 => match self.shared.get(text) {
                Some(start) => Some(*start as u64),
                None => text.parse().ok().map(low),
            },
            Bits64 => text.parse::<i64>().ok().map(|value| value as u64),
        };
        let value = value.ok_or_else(|| format!("{text} is no {class:?}"))?;
        Ok(self.constant(value))
    }

    fn instruction(&mut self, text: &str) -> Result<Instruction, Wrong> {
        if let Some(text) = text.strip_prefix('@') {
            let (when, text) = text.split_once(' ').ok_or("a predicate alone")?;
            let label = text
                .strip_prefix("bra ")
                .ok_or("only branches depend on predicates")?;
            let name = when.trim_start_matches('!');
            let predicate = self.operand(name, Predicate)?;
            return Ok(self.branch(Some((predicate, name == when)), label));
        }
        let (mnemonic, operands) = text.split_once(' ').unwrap_or((text, ""));
        match (mnemonic, operands) {
            ("bra", label) => return Ok(self.branch(None, label)),
            ("bar.sync", "0") => return Ok(Instruction::Barrier),
            ("ret", "") => return Ok(Instruction::Return),
            _ => {}
        }
        let parts: Vec<&str> = mnemonic.split('.').collect();
        if let [moved @ ("ld" | "st"), space, rest @ ..] = parts.as_slice() {
            return self.access(*moved == "ld", space, rest, operands);
        }
        let operands: Vec<&str> = operands.split(", ").collect();
        let rows = TABLE.iter().filter(|row| row.0 == mnemonic);
        // Moves between kinds have a row for each direction.
        let (to, is) = self.named(operands[0])?;
        let row = rows
            .clone()
            .find(|row| row.1[0] == is)
            .or(rows.clone().next());
        let &(_, classes, apply) = row.ok_or("an unknown instruction")?;
        if classes.len() != operands.len() {
            return Err(format!("{} operands", operands.len()));
        }
        let mut from = [0; 3];
        for ((register, operand), class) in from.iter_mut().zip(&operands[1..]).zip(&classes[1..]) {
            *register = self.operand(operand, *class)?;
        }
        self.result(operands[0], classes[0])?;
        let [a, b, _] = from;
        Ok(match apply {
            Apply::One(of) => Instruction::One(of, to, a),
            Apply::Two(of) => Instruction::Two(of, to, [a, b]),
            Apply::Three(of) => Instruction::Three(of, to, from),
        })
    }

    fn branch(&mut self, when: Option<(Register, bool)>, label: &str) -> Instruction {
        self.branches.push((self.code.len(), label.to_owned()));
        Instruction::Branch(when, usize::MAX)
    }

    /// `ld.space.kind to, [from+offset]` and `st.space.kind [to+offset], from`.
    fn access(
        &mut self,
        load: bool,
        space: &str,
        kind: &[&str],
        operands: &str,
    ) -> Result<Instruction, Wrong> {
        let (count, kind) = match kind {
            ["v4", kind] => (4, kind),
            [kind] => (1, kind),
            _ => return Err("an unknown form of access".to_owned()),
        };
        let class = Class::of(kind).filter(|class| *class != Predicate);
        let class = class.ok_or("an unknown type")?;
        let parts = match load {
            true => operands.rsplit_once(", "),
            false => operands.split_once(", ").map(|(at, of)| (of, at)),
        };
        let (names, place) = parts.ok_or("no operands")?;
        let place = place
            .strip_prefix('[')
            .and_then(|place| place.strip_suffix(']'));
        let place = place.ok_or("no address")?;
        if (load, space, count) == (true, "param", 1) {
            let known = self.parameters.iter().position(|(name, _)| name == place);
            let i = known.ok_or_else(|| format!("no parameter {place}"))?;
            if self.parameters[i].1 != class {
                return Err(format!("{place} is {:?}", self.parameters[i].1));
            }
            return Ok(Instruction::Parameter(self.result(names, class)?, i));
        }
        let (space, width) = match space {
            "global" => (Space::Global, Bits64),
            "shared" => (Space::Shared, Bits32),
            _ => return Err("an unknown space".to_owned()),
        };
        let (address, offset) = match place.split_once('+') {
            Some((address, offset)) => (address, number(offset)?),
            None => (place, 0),
        };
        let address = self.operand(address, width)?;
        let names = match count {
            1 => names,
            _ => names.trim_start_matches('{').trim_end_matches('}'),
        };
        let registers = names.split(", ").map(|name| match load {
            true => self.result(name, class),
            false => self.operand(name, class),
        });
        let registers = registers.collect::<Result<Vec<_>, _>>()?;
        if registers.len() != count {
            return Err(format!("{} registers, not {count}", registers.len()));
        }
        let access = Access {
            space,
            bytes: class.bytes(),
            registers,
            address,
            offset,
        };
        Ok(match load {
            true => Instruction::Load(access),
            false => Instruction::Store(access),
        })
    }

    fn finish(mut self) -> Result<Entry, Wrong> {
        let mut targets = vec![false; self.code.len()];
        for (i, label) in &self.branches {
            let to = self.labels.get(label).filter(|to| **to < targets.len());
            let to = *to.ok_or_else(|| format!("no code behind label {label}"))?;
            targets[to] = true;
            if let Instruction::Branch(_, target) = &mut self.code[*i] {
                *target = to;
            }
        }
        if !matches!(self.code.last(), Some(Instruction::Return)) {
            return Err("the entry does not end with ret".to_owned());
        }
        let parameters = self.parameters.into_iter();
        Ok(Entry {
            parameters: parameters
                .map(|(name, class)| (name, class.bytes() as u32))
                .collect(),
            threads: self.threads,
            code: self.code,
            lines: self.lines,
            targets,
            registers: self.registers,
            constants: self
                .constants
                .into_iter()
                .map(|(value, r)| (r, value))
                .collect(),
            special: self.special.into_iter().map(|(of, r)| (r, of)).collect(),
            shared: self.shared_bytes,
        })
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, Wrong> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

/// A range of device memory that a launch names.
pub struct Named {
    pub name: String,
    pub start: u64,
    pub len: usize,
    pub written: bool,
}

impl Named {
    fn holds(&self, address: u64, bytes: usize) -> bool {
        address >= self.start && address + bytes as u64 <= self.start + self.len as u64
    }
}

/// Of larger ranges nobody notes who touched what, as they are not copied for compiled kernels.
const MOST_WATCHED: usize = 1 << 20;

/// Who touched a word last: a thread of a block, between two barriers. 0 is nobody.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Touch(u64);

/// In place of the thread where there were several.
const SEVERAL: u64 = 0xffff;

impl Touch {
    const NOBODY: Touch = Touch(0);

    fn new(block: u32, phase: u32, thread: usize) -> Touch {
        Touch((u64::from(block) + 1) << 40 | u64::from(phase & 0xff_ffff) << 16 | thread as u64)
    }

    /// Is nothing between the two that would order them?
    fn races(self, other: Touch) -> bool {
        let same = |shift: u32| self.0 >> shift == other.0 >> shift;
        self != Touch::NOBODY
            && (!same(40) || same(16) && (!same(0) || self.0 & SEVERAL == SEVERAL))
    }
}

/// Who wrote and who read the words of a range last.
struct Watch {
    words: Vec<[Touch; 2]>,
}

impl Watch {
    fn new(bytes: usize) -> Watch {
        Watch {
            words: vec![[Touch::NOBODY; 2]; bytes.div_ceil(4)],
        }
    }

    /// Notes an access. `false` if it races with an earlier one.
    fn touch(&mut self, start: usize, bytes: usize, by: Touch, writes: bool) -> bool {
        let mut alone = true;
        for [writer, reader] in &mut self.words[start / 4..(start + bytes) / 4] {
            alone &= !writer.races(by);
            if writes {
                alone &= !reader.races(by);
                *writer = by;
            } else if reader.0 >> 16 == by.0 >> 16 && *reader != by {
                reader.0 |= SEVERAL;
            } else {
                *reader = by;
            }
        }
        alone
    }

    fn is_written(&self, start: usize, bytes: usize) -> bool {
        let words = &self.words[start / 4..(start + bytes) / 4];
        words.iter().all(|[writer, _]| *writer != Touch::NOBODY)
    }
}

/// A launch under way.
struct Running<'a> {
    entry: &'a Entry,
    values: &'a [u64],
    ranges: &'a [Named],
    /// Of each range that is written and not too large: those of the same place share one.
    watched: Vec<Option<usize>>,
    watches: Vec<Watch>,
    block: u32,
    phase: u32,
    shared: Vec<u8>,
    shared_watch: Watch,
}

#[derive(Clone)]
struct Warp {
    registers: Vec<[u64; LANES]>,
    /// Where each lane goes on; `usize::MAX` if it has returned.
    next: [usize; LANES],
    waits: [bool; LANES],
}

const RETURNED: usize = usize::MAX;

/// Runs all blocks. `values` are the parameters, and `ranges` what the addresses among them point to.
///
/// # Safety
/// The ranges are memory that nobody else uses now.
///
/// # Errors
/// What went wrong, with block, thread and line.
pub unsafe fn run(
    entry: &Entry,
    blocks: u32,
    values: &[u64],
    ranges: &[Named],
    schedule: &Schedule,
) -> Result<(), String> {
    let mut watches = Vec::new();
    let mut places: HashMap<(u64, usize), usize> = HashMap::new();
    let watched = |range: &&Named| range.written && range.len <= MOST_WATCHED;
    for range in ranges.iter().filter(watched) {
        places.entry((range.start, range.len)).or_insert_with(|| {
            watches.push(Watch::new(range.len));
            watches.len() - 1
        });
    }
    let place = |range: &Named| places.get(&(range.start, range.len)).copied();
    let mut running = Running {
        entry,
        values,
        ranges,
        watched: ranges.iter().map(place).collect(),
        watches,
        block: 0,
        phase: 0,
        shared: Vec::new(),
        shared_watch: Watch::new(0),
    };
    let start = Instant::now();
    let mut order: Vec<u32> = (0..blocks).collect();
    if schedule.order != Order::Forward {
        order.reverse();
    }
    for block in order {
        running.block(block, blocks, schedule, start)?;
    }
    Ok(())
}

impl Running<'_> {
    fn block(
        &mut self,
        block: u32,
        blocks: u32,
        schedule: &Schedule,
        start: Instant,
    ) -> Result<(), String> {
        self.block = block;
        self.phase = 0;
        self.shared = vec![0xff; self.entry.shared];
        self.shared_watch = Watch::new(self.entry.shared);
        let mut registers = vec![[0; LANES]; self.entry.registers];
        for (register, value) in &self.entry.constants {
            registers[*register] = [*value; LANES];
        }
        let warp = |i: usize| {
            let mut registers = registers.clone();
            for (register, special) in &self.entry.special {
                registers[*register] = std::array::from_fn(|lane| match special {
                    Special::Thread => (i * LANES + lane) as u64,
                    Special::Block => block.into(),
                    Special::Blocks => blocks.into(),
                });
            }
            Warp {
                registers,
                next: [0; LANES],
                waits: [false; LANES],
            }
        };
        let mut warps: Vec<Warp> = (0..self.entry.threads / LANES).map(warp).collect();
        let mut order: Vec<usize> = (0..warps.len()).collect();
        let mut seed = u64::from(schedule.seed) << 32 | u64::from(block);
        loop {
            match schedule.order {
                Order::Forward => {}
                Order::Backward => order.sort_by_key(|i| std::cmp::Reverse(*i)),
                Order::Shuffled => order.sort_by_cached_key(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    seed >> 33
                }),
            }
            for &i in &order {
                self.warp(i, &mut warps[i], schedule, start)?;
            }
            let places: Vec<usize> = warps.iter().flat_map(|warp| warp.next).collect();
            if places.iter().all(|place| *place == RETURNED) {
                return Ok(());
            }
            if let Some(thread) = places.iter().position(|place| *place != places[0]) {
                return Err(self.fault(
                    thread,
                    places[0].min(places[thread]) - 1,
                    "not all threads of the block wait at the same barrier",
                ));
            }
            self.phase += 1;
            warps
                .iter_mut()
                .for_each(|warp| warp.waits = [false; LANES]);
        }
    }

    /// Runs a warp until all its lanes wait or have returned.
    fn warp(
        &mut self,
        number: usize,
        warp: &mut Warp,
        schedule: &Schedule,
        start: Instant,
    ) -> Result<(), String> {
        let entry = self.entry;
        let Warp {
            registers,
            next,
            waits,
        } = warp;
        let mut jumps = 0u32;
        loop {
            // Those that are behind go first, so that all meet again.
            let ready = (0..LANES).filter(|lane| !waits[*lane] && next[*lane] != RETURNED);
            let Some(mut at) = ready.clone().map(|lane| next[lane]).min() else {
                return Ok(());
            };
            let lanes: Vec<usize> = ready.filter(|lane| next[*lane] == at).collect();
            jumps += 1;
            if jumps.is_multiple_of(1024)
                && start.elapsed().as_millis() > u128::from(schedule.timeout_ms)
            {
                let why = format!("still running after {} ms", schedule.timeout_ms);
                return Err(self.fault(number * LANES + lanes[0], at, &why));
            }
            loop {
                match &entry.code[at] {
                    Instruction::One(of, to, a) => {
                        for &l in &lanes {
                            registers[*to][l] = of(registers[*a][l]);
                        }
                    }
                    Instruction::Two(of, to, [a, b]) => {
                        for &l in &lanes {
                            registers[*to][l] = of(registers[*a][l], registers[*b][l]);
                        }
                    }
                    Instruction::Three(of, to, [a, b, c]) => {
                        for &l in &lanes {
                            registers[*to][l] =
                                of(registers[*a][l], registers[*b][l], registers[*c][l]);
                        }
                    }
                    Instruction::Parameter(to, i) => {
                        for &l in &lanes {
                            registers[*to][l] = self.values[*i];
                        }
                    }
                    Instruction::Load(access) | Instruction::Store(access) => {
                        let writes = matches!(entry.code[at], Instruction::Store(_));
                        for &l in &lanes {
                            self.touch(access, writes, registers, l, number * LANES + l)
                                .map_err(|why| self.fault(number * LANES + l, at, &why))?;
                        }
                    }
                    Instruction::Branch(when, to) => {
                        for &l in &lanes {
                            let goes = when.is_none_or(|(p, is)| (registers[p][l] != 0) == is);
                            next[l] = if goes { *to } else { at + 1 };
                        }
                        break;
                    }
                    Instruction::Barrier => {
                        for &l in &lanes {
                            next[l] = at + 1;
                            waits[l] = true;
                        }
                        break;
                    }
                    Instruction::Return => {
                        lanes.iter().for_each(|l| next[*l] = RETURNED);
                        break;
                    }
                }
                at += 1;
                if entry.targets[at] {
                    // Others may wait here.
                    lanes.iter().for_each(|l| next[*l] = at);
                    break;
                }
            }
        }
    }

    /// A load or store of one thread.
    fn touch(
        &mut self,
        access: &Access,
        writes: bool,
        registers: &mut [[u64; LANES]],
        lane: usize,
        thread: usize,
    ) -> Result<(), String> {
        let bytes = access.bytes * access.registers.len();
        let address = registers[access.address][lane].wrapping_add(access.offset);
        let how = if writes { "write" } else { "read" };
        if !address.is_multiple_of(bytes as u64) {
            return Err(format!("misaligned {how} of {bytes} bytes"));
        }
        let by = Touch::new(self.block, self.phase, thread);
        let memory = match access.space {
            Space::Shared => {
                let start = address as usize;
                if start + bytes > self.shared.len() {
                    let have = self.shared.len();
                    return Err(format!(
                        "invalid {how} at byte {start} of {have} of shared memory"
                    ));
                }
                if !self.shared_watch.touch(start, bytes, by, writes) {
                    return Err(format!(
                        "this {how} of shared memory races with another thread"
                    ));
                }
                if !writes && !self.shared_watch.is_written(start, bytes) {
                    return Err("read of shared memory that nobody wrote".to_owned());
                }
                self.shared[start..].as_mut_ptr()
            }
            Space::Global => {
                let of = |range: &&Named| range.holds(address, bytes) && (!writes || range.written);
                let Some(i) = self.ranges.iter().position(|range| of(&range)) else {
                    return Err(self.outside(how, address, bytes));
                };
                if let Some(watch) = self.watched[i] {
                    let start = (address - self.ranges[i].start) as usize;
                    if !self.watches[watch].touch(start, bytes, by, writes) {
                        let name = &self.ranges[i].name;
                        return Err(format!("this {how} of {name} races with another thread"));
                    }
                }
                address as *mut u8
            }
        };
        for (i, register) in access.registers.iter().enumerate() {
            let value = &mut registers[*register][lane];
            // SAFETY: inside of shared memory or of a range, which the caller of `run` vouches for, as was just checked.
            // The host is little-endian as the GPU is, so the low bytes of a register are its value.
            unsafe {
                let memory = memory.add(i * access.bytes);
                let value = std::ptr::from_mut(value).cast::<u8>();
                match writes {
                    true => std::ptr::copy_nonoverlapping(value, memory, access.bytes),
                    false => {
                        value.cast::<u64>().write(0);
                        std::ptr::copy_nonoverlapping(memory, value, access.bytes);
                    }
                }
            }
        }
        Ok(())
    }

    /// Why an access is outside of all ranges that it may touch.
    fn outside(&self, how: &str, address: u64, bytes: usize) -> String {
        let inside = self.ranges.iter().find(|range| range.holds(address, bytes));
        if let Some(range) = inside {
            return format!("write of {}, which is only read", range.name);
        }
        let before = self.ranges.iter().filter(|range| range.start <= address);
        match before.max_by_key(|range| range.start) {
            Some(range) => format!(
                "invalid {how} {} bytes past the end of {} ({} bytes)",
                address as i64 - range.start as i64 - range.len as i64,
                range.name,
                range.len
            ),
            None => format!("invalid {how} before all that the launch names"),
        }
    }

    fn fault(&self, thread: usize, at: usize, why: &str) -> String {
        let (block, line) = (self.block, self.entry.lines[at]);
        format!("block {block}, thread {thread}, line {line}: {why}")
    }
}

#[cfg(test)]
mod tests;
