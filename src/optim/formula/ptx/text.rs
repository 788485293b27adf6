//! The text of an entry of PTX while it is written: registers, instructions, labels.
//!
//! Every instruction writes a new register, unless a loop needs one that it changes: the driver's compiler makes few of them.

use std::fmt::{self, Display, Formatter, Write};

/// Kinds of registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Predicate,
    Bits32,
    Bits64,
    Single,
    Double,
}

impl Class {
    const ALL: [(Class, &'static str, &'static str); 5] = [
        (Class::Predicate, "pred", "%p"),
        (Class::Bits32, "b32", "%r"),
        (Class::Bits64, "b64", "%rd"),
        (Class::Single, "f32", "%f"),
        (Class::Double, "f64", "%fd"),
    ];
}

/// What an instruction reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operand {
    Register(Class, usize),
    Integer(i64),
    Single(f32),
    Double(f64),
    /// A register that the machine has set, or an array in shared memory.
    Named(&'static str),
}

impl Operand {
    /// As mnemonics end for a number.
    pub fn suffix(self) -> &'static str {
        match self {
            Operand::Single(_) | Operand::Register(Class::Single, _) => "f32",
            _ => "f64",
        }
    }

    pub fn class(self) -> Class {
        match self {
            Operand::Register(class, _) => class,
            Operand::Single(_) => Class::Single,
            Operand::Double(_) => Class::Double,
            Operand::Integer(_) => Class::Bits64,
            Operand::Named(_) => Class::Bits32,
        }
    }
}

impl Display for Operand {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Operand::Register(class, i) => write!(f, "{}{i}", Class::ALL[*class as usize].2),
            Operand::Integer(value) => write!(f, "{value}"),
            Operand::Single(value) => write!(f, "0f{:08X}", value.to_bits()),
            Operand::Double(value) => write!(f, "0d{:016X}", value.to_bits()),
            Operand::Named(name) => f.write_str(name),
        }
    }
}

/// A place in the code.
#[derive(Clone, Copy)]
pub struct Label(usize);

/// An entry while it is written.
#[derive(Default)]
pub struct Text {
    /// Parameters, all of 64 bits, and the instructions that load them.
    parameters: Vec<String>,
    head: String,
    body: String,
    counts: [usize; Class::ALL.len()],
    labels: usize,
    pub instructions: usize,
}

impl Text {
    pub fn register(&mut self, class: Class) -> Operand {
        let count = &mut self.counts[class as usize];
        *count += 1;
        Operand::Register(class, *count - 1)
    }

    /// A parameter's value, loaded before all else.
    pub fn parameter(&mut self, name: String) -> Operand {
        let to = self.register(Class::Bits64);
        writeln!(self.head, "    ld.param.u64 {to}, [{name}];").expect("a string grows");
        self.parameters.push(format!("    .param .u64 {name}"));
        to
    }

    /// An instruction as it is written.
    pub fn line(&mut self, line: fmt::Arguments<'_>) {
        self.instructions += 1;
        writeln!(self.body, "    {line};").expect("a string grows");
    }

    /// An instruction whose result is a new register.
    pub fn put(&mut self, class: Class, mnemonic: &str, from: &[Operand]) -> Operand {
        let to = self.register(class);
        self.set(to, mnemonic, from);
        to
    }

    /// The same into a register that is there.
    pub fn set(&mut self, to: Operand, mnemonic: &str, from: &[Operand]) {
        let from: Vec<String> = from.iter().map(Operand::to_string).collect();
        self.line(format_args!("{mnemonic} {to}, {}", from.join(", ")));
    }

    /// Arithmetic in the precision of the first operand.
    pub fn float(&mut self, mnemonic: &str, from: &[Operand]) -> Operand {
        let mnemonic = format!("{mnemonic}.{}", from[0].suffix());
        self.put(from[0].class(), &mnemonic, from)
    }

    /// A comparison, likewise.
    pub fn compare(&mut self, how: &str, a: Operand, b: Operand) -> Operand {
        let mnemonic = format!("setp.{how}.{}", a.suffix());
        self.put(Class::Predicate, &mnemonic, &[a, b])
    }

    /// a where the predicate holds, else b.
    pub fn select(&mut self, a: Operand, b: Operand, predicate: Operand) -> Operand {
        self.float("selp", &[a, b, predicate])
    }

    pub fn double(&mut self, x: Operand) -> Operand {
        match x.class() {
            Class::Single => self.put(Class::Double, "cvt.f64.f32", &[x]),
            _ => x,
        }
    }

    pub fn new_label(&mut self) -> Label {
        self.labels += 1;
        Label(self.labels - 1)
    }

    pub fn label(&mut self, label: Label) {
        writeln!(self.body, "L{}:", label.0).expect("a string grows");
    }

    pub fn branch(&mut self, to: Label) {
        self.line(format_args!("bra L{}", to.0));
    }

    pub fn branch_if(&mut self, predicate: Operand, to: Label) {
        self.line(format_args!("@{predicate} bra L{}", to.0));
    }

    pub fn barrier(&mut self) {
        self.line(format_args!("bar.sync 0"));
    }

    /// base + index * size, an address.
    pub fn address(&mut self, base: Operand, index: Operand, size: i64) -> Operand {
        let bytes = self.put(
            Class::Bits64,
            "mul.lo.s64",
            &[index, Operand::Integer(size)],
        );
        self.put(Class::Bits64, "add.s64", &[base, bytes])
    }

    /// `ld.{from} register, [address+offset]`
    pub fn load(&mut self, class: Class, from: &str, address: Operand, offset: usize) -> Operand {
        let to = self.register(class);
        self.line(format_args!("ld.{from} {to}, [{address}+{offset}]"));
        to
    }

    /// Singles that lie one behind the other: one, or four at an aligned address.
    pub fn load_lanes(&mut self, address: Operand, count: usize) -> Vec<Operand> {
        let lanes: Vec<Operand> = (0..count).map(|_| self.register(Class::Single)).collect();
        let (form, list) = listed(&lanes);
        self.line(format_args!("ld.global{form}.f32 {list}, [{address}]"));
        lanes
    }

    /// The other way round.
    pub fn store_lanes(&mut self, address: Operand, values: &[Operand]) {
        let values: Vec<Operand> = values
            .iter()
            .map(|value| match value {
                Operand::Register(..) => *value,
                constant => self.put(Class::Single, "mov.f32", &[*constant]),
            })
            .collect();
        let (form, list) = listed(&values);
        self.line(format_args!("st.global{form}.f32 [{address}], {list}"));
    }

    pub fn store(&mut self, to: &str, address: Operand, offset: usize, value: Operand) {
        self.line(format_args!("st.{to} [{address}+{offset}], {value}"));
    }

    /// The whole entry. `shared` are the bytes of the array `sums`.
    pub fn finish(mut self, name: &str, threads: u32, shared: usize) -> String {
        self.line(format_args!("ret"));
        let mut text = format!(".visible .entry {name}(\n");
        text += &self.parameters.join(",\n");
        write!(text, "\n)\n.maxntid {threads}, 1, 1\n{{\n").expect("a string grows");
        for ((_, kind, prefix), count) in Class::ALL.iter().zip(self.counts) {
            if count > 0 {
                writeln!(text, "    .reg .{kind} {prefix}<{count}>;").expect("a string grows");
            }
        }
        if shared > 0 {
            writeln!(text, "    .shared .align 8 .b8 sums[{shared}];").expect("a string grows");
        }
        text + &self.head + &self.body + "}\n"
    }
}

/// Registers as an access names them.
fn listed(registers: &[Operand]) -> (&'static str, String) {
    let names: Vec<String> = registers.iter().map(Operand::to_string).collect();
    match names.as_slice() {
        [one] => ("", one.clone()),
        _ => (".v4", format!("{{{}}}", names.join(", "))),
    }
}
