//! The stack machine that a pickle is a program for, as far as plain data need it.

use super::strings::{decimal, latin1, quoted, raw_unicode};
use super::{Global, Id, Layout, Node, Outcome, Pickle, text};
use std::collections::HashMap;

/// Most operations of one pickle. A batch of the image sets has a few hundred thousand; at 4 million the
/// tables stay below 300 MB whatever the file says.
const MAX_OPERATIONS: usize = 1 << 22;

const GLOBALS: [(&str, &str, Global); 9] = [
    ("numpy", "ndarray", Global::Ndarray),
    ("numpy", "dtype", Global::Dtype),
    ("numpy.core.multiarray", "_reconstruct", Global::Reconstruct),
    (
        "numpy._core.multiarray",
        "_reconstruct",
        Global::Reconstruct,
    ),
    ("numpy.core.multiarray", "scalar", Global::Scalar),
    ("numpy._core.multiarray", "scalar", Global::Scalar),
    ("numpy.core.numeric", "_frombuffer", Global::FromBuffer),
    ("numpy._core.numeric", "_frombuffer", Global::FromBuffer),
    ("_codecs", "encode", Global::Encode),
];

/// Runs the pickle to its end.
pub fn run(bytes: &[u8]) -> Result<Pickle<'_>, String> {
    let mut machine = Machine {
        bytes,
        at: 0,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        encoded: 0,
    };
    for _ in 0..MAX_OPERATIONS {
        let start = machine.at;
        match machine.step() {
            Ok(false) => {}
            Ok(true) => {
                let root = machine.pop().map_err(|why| at(start, &why))?;
                let nodes = machine.nodes;
                return Ok(Pickle { nodes, root });
            }
            Err(why) => return Err(at(start, &why)),
        }
    }
    Err(format!("it has more than {MAX_OPERATIONS} operations"))
}

fn at(place: usize, why: &str) -> String {
    format!("at byte {place} of the pickle: {why}")
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Length of all texts that were turned into bytes.
    encoded: usize,
}

impl<'a> Machine<'a> {
    /// One operation; true if it was the last.
    fn step(&mut self) -> Outcome<bool> {
        let code = self.take(1)?[0];
        match code {
            b'.' => return Ok(true),
            // PROTO, FRAME
            0x80 => match self.take(1)?[0] {
                0..=5 => {}
                other => return Err(format!("protocol {other}, which is not known here")),
            },
            0x95 => {
                self.take(8)?;
            }
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.pop_mark()?;
            }
            b'2' => {
                let top = self.peek()?;
                self.stack.push(top);
            }
            b'N' => self.push(Node::None),
            0x88 => self.push(Node::Bool(true)),
            0x89 => self.push(Node::Bool(false)),
            // Integers.
            b'I' => {
                let node = match self.line()? {
                    b"00" => Node::Bool(false),
                    b"01" => Node::Bool(true),
                    digits => Node::Int(decimal(digits)?),
                };
                self.push(node);
            }
            b'L' => {
                let line = self.line()?;
                let value = decimal(line.strip_suffix(b"L").unwrap_or(line))?;
                self.push(Node::Int(value));
            }
            b'J' => {
                let value = self.little_endian(4)? as u32 as i32;
                self.push(Node::Int(value.into()));
            }
            b'K' => self.small_integer(1)?,
            b'M' => self.small_integer(2)?,
            0x8a => self.long_integer(1)?,
            0x8b => self.long_integer(4)?,
            // Strings: lines, then those that start with their length.
            b'S' => {
                let content = quoted(self.line()?)?;
                self.push(Node::Bytes(content.into()));
            }
            b'V' => {
                let content = raw_unicode(self.line()?)?;
                self.push(Node::Bytes(content.into_bytes().into()));
            }
            b'U' | b'C' | 0x8c => self.string(1)?,
            b'T' | b'B' | b'X' => self.string(4)?,
            0x8d | 0x8e | 0x96 => self.string(8)?,
            // Lists, tuples and dictionaries.
            b']' => self.push(Node::List(Vec::new())),
            b'l' => self.collect(Node::List)?,
            b')' => self.push(Node::Tuple(Vec::new())),
            b't' => self.collect(Node::Tuple)?,
            0x85..=0x87 => {
                let start = self.below(usize::from(code - 0x84))?;
                let items = self.stack.split_off(start);
                self.push(Node::Tuple(items));
            }
            b'}' => self.push(Node::Dict(Vec::new())),
            b'd' => self.collect(Node::Dict)?,
            b'a' => self.extend(1)?,
            b's' => self.extend(2)?,
            b'e' | b'u' => {
                let items = self.pop_mark()?;
                self.extend_with(items)?;
            }
            // The memo.
            b'p' => {
                let key = memo_key(self.line()?)?;
                self.memoize(key)?;
            }
            b'q' => self.memoize_counted(1)?,
            b'r' => self.memoize_counted(4)?,
            0x94 => self.memoize(self.memo.len() as u32)?,
            b'g' => {
                let key = memo_key(self.line()?)?;
                self.recall(key)?;
            }
            b'h' => self.recall_counted(1)?,
            b'j' => self.recall_counted(4)?,
            // What elsewhere would be calls.
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (module, name) = (self.name(module)?, self.name(name)?);
                self.global(&module, &name)?;
            }
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
                return Err("an instance, which is no plain data".into());
            }
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            other => {
                return Err(format!(
                    "operation {:?}, which plain data do not need",
                    char::from(other)
                ));
            }
        }
        Ok(false)
    }

    fn take(&mut self, n: usize) -> Outcome<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..n).ok_or("it is cut short")?;
        self.at += n;
        Ok(taken)
    }

    fn line(&mut self) -> Outcome<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|b| *b == b'\n');
        let line = &rest[..end.ok_or("it is cut short")?];
        self.at += line.len() + 1;
        Ok(line.strip_suffix(b"\r").unwrap_or(line))
    }

    fn little_endian(&mut self, n: usize) -> Outcome<u64> {
        let mut wide = [0; 8];
        wide[..n].copy_from_slice(self.take(n)?);
        Ok(u64::from_le_bytes(wide))
    }

    fn push(&mut self, node: Node<'a>) {
        self.stack.push(self.nodes.len() as Id);
        self.nodes.push(node);
    }

    /// The lowest place on the stack that may be taken from: what lies under a mark is not.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    /// The place of the n-th value from the top.
    fn below(&self, n: usize) -> Outcome<usize> {
        let place = self.stack.len().checked_sub(n);
        let place = place.filter(|place| *place >= self.floor());
        place.ok_or_else(|| "a value is missing on the stack".into())
    }

    fn pop(&mut self) -> Outcome<Id> {
        let place = self.below(1)?;
        Ok(self.stack.remove(place))
    }

    fn peek(&self) -> Outcome<Id> {
        Ok(self.stack[self.below(1)?])
    }

    fn pop_mark(&mut self) -> Outcome<Vec<Id>> {
        let mark = self.marks.pop().ok_or("a mark is missing on the stack")?;
        Ok(self.stack.split_off(mark))
    }

    fn collect(&mut self, make: fn(Vec<Id>) -> Node<'a>) -> Outcome {
        let items = self.pop_mark()?;
        self.push(make(items));
        Ok(())
    }

    fn extend(&mut self, n: usize) -> Outcome {
        let start = self.below(n)?;
        let items = self.stack.split_off(start);
        self.extend_with(items)
    }

    fn extend_with(&mut self, items: Vec<Id>) -> Outcome {
        let top = self.peek()?;
        match &mut self.nodes[top as usize] {
            Node::List(list) => list.extend(items),
            Node::Dict(pairs) if items.len().is_multiple_of(2) => pairs.extend(items),
            _ => return Err("items for what is no list or dictionary".into()),
        }
        Ok(())
    }

    fn small_integer(&mut self, n: usize) -> Outcome {
        let value = self.little_endian(n)?;
        self.push(Node::Int(value as i64));
        Ok(())
    }

    /// Two's complement of as many bytes as the first `n` say.
    fn long_integer(&mut self, n: usize) -> Outcome {
        let length = self.little_endian(n)? as usize;
        if length > 8 {
            return Err("an integer of more than 64 bits".into());
        }
        let (raw, unused) = (self.little_endian(length)?, 64 - 8 * length as u32);
        let value = (raw.checked_shl(unused).unwrap_or(0) as i64)
            .checked_shr(unused)
            .unwrap_or(0);
        self.push(Node::Int(value));
        Ok(())
    }

    fn string(&mut self, n: usize) -> Outcome {
        let length = self.little_endian(n)?;
        let length = usize::try_from(length).map_err(|_| "it is cut short")?;
        let content = self.take(length)?;
        self.push(Node::Bytes(content.into()));
        Ok(())
    }

    fn memoize(&mut self, key: u32) -> Outcome {
        let top = self.peek()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn memoize_counted(&mut self, n: usize) -> Outcome {
        let key = self.little_endian(n)?;
        self.memoize(key as u32)
    }

    fn recall(&mut self, key: u32) -> Outcome {
        let known = self.memo.get(&key);
        let id = *known.ok_or_else(|| format!("value {key} was never stored"))?;
        self.stack.push(id);
        Ok(())
    }

    fn recall_counted(&mut self, n: usize) -> Outcome {
        let key = self.little_endian(n)?;
        self.recall(key as u32)
    }

    fn name(&self, id: Id) -> Outcome<Vec<u8>> {
        match &self.nodes[id as usize] {
            Node::Bytes(bytes) if bytes.len() < 256 => Ok(bytes.to_vec()),
            _ => Err("the name of a global that is no name".into()),
        }
    }

    /// The members of a tuple, of which only a few make sense.
    fn few(&self, tuple: Id) -> Outcome<Vec<(Id, &Node<'a>)>> {
        match &self.nodes[tuple as usize] {
            Node::Tuple(ids) if ids.len() <= 10 => Ok(ids
                .iter()
                .map(|id| (*id, &self.nodes[*id as usize]))
                .collect()),
            _ => Err("arguments that are not understood".into()),
        }
    }

    fn global(&mut self, module: &[u8], name: &[u8]) -> Outcome {
        let mut known = GLOBALS.iter();
        let found = known.find(|(m, n, _)| (m.as_bytes(), n.as_bytes()) == (module, name));
        match found {
            Some((_, _, global)) => {
                self.push(Node::Global(*global));
                Ok(())
            }
            None => Err(format!(
                "it asks for {}.{}, which is no plain data; nothing was run",
                text(module),
                text(name)
            )),
        }
    }

    fn reduce(&mut self) -> Outcome {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let Node::Global(callee) = self.nodes[callee as usize] else {
            return Err("a call of what is no global".into());
        };
        let arguments = self.few(arguments)?;
        let nodes: Vec<&Node> = arguments.iter().map(|(_, node)| *node).collect();
        let made = match (callee, &nodes[..]) {
            (Global::Reconstruct, [Node::Global(Global::Ndarray), ..]) => Node::Array(None),
            (Global::Dtype, [Node::Bytes(name), ..]) => {
                let (name, big_endian) = match name.split_first() {
                    Some((b'>', rest)) => (rest, true),
                    Some((b'<' | b'|' | b'=', rest)) => (rest, false),
                    _ => (&name[..], false),
                };
                // The types that are read here have names of two characters.
                let name = name[..name.len().min(8)].to_vec();
                Node::Dtype { name, big_endian }
            }
            (Global::Encode, [Node::Bytes(content), Node::Bytes(codec)])
                if [&b"latin1"[..], b"latin-1"].contains(&&**codec) =>
            {
                let content = latin1(content)?;
                // Each text is written once, at least a byte for each of its characters, so that all of them are no
                // longer than the file.
                self.encoded += content.len();
                if self.encoded > self.bytes.len() {
                    return Err("the same text turned into bytes again and again".into());
                }
                Node::Bytes(content.into())
            }
            (Global::Scalar, [Node::Dtype { name, big_endian }, Node::Bytes(bytes)]) => {
                let layout = Layout {
                    shape: Vec::new(),
                    dtype: name.clone(),
                    big_endian: *big_endian,
                    fortran: false,
                    bytes: arguments[1].0,
                };
                Node::Array(Some(layout.check(bytes.len())?))
            }
            (
                Global::FromBuffer,
                [
                    Node::Bytes(bytes),
                    Node::Dtype { name, big_endian },
                    Node::Tuple(shape),
                    Node::Bytes(order),
                ],
            ) => {
                let layout = Layout {
                    shape: self.shape(shape)?,
                    dtype: name.clone(),
                    big_endian: *big_endian,
                    fortran: **order == *b"F",
                    bytes: arguments[0].0,
                };
                Node::Array(Some(layout.check(bytes.len())?))
            }
            _ => return Err(format!("{callee:?} with arguments that are not understood")),
        };
        self.push(made);
        Ok(())
    }

    /// Gives the value below the top the state on top.
    fn build(&mut self) -> Outcome {
        let (state, target) = (self.pop()?, self.peek()?);
        let state = self.few(state)?;
        let nodes: Vec<&Node> = state.iter().map(|(_, node)| *node).collect();
        let built = match (&self.nodes[target as usize], &nodes[..]) {
            // (version, byte order, ...)
            (Node::Dtype { name, .. }, [Node::Int(_), Node::Bytes(order), ..]) => Node::Dtype {
                name: name.clone(),
                big_endian: **order == *b">",
            },
            // (version, shape, type, Fortran order, contents)
            (
                Node::Array(_),
                [
                    Node::Int(_),
                    Node::Tuple(shape),
                    Node::Dtype { name, big_endian },
                    fortran @ (Node::Bool(_) | Node::Int(_)),
                    Node::Bytes(bytes),
                ],
            ) => {
                let layout = Layout {
                    shape: self.shape(shape)?,
                    dtype: name.clone(),
                    big_endian: *big_endian,
                    fortran: matches!(fortran, Node::Bool(true) | Node::Int(1)),
                    bytes: state[4].0,
                };
                Node::Array(Some(layout.check(bytes.len())?))
            }
            _ => return Err("a state that is not understood".into()),
        };
        self.nodes[target as usize] = built;
        Ok(())
    }

    fn shape(&self, dims: &[Id]) -> Outcome<Vec<usize>> {
        let dim = |id: &Id| match self.nodes[*id as usize] {
            Node::Int(value) => usize::try_from(value).ok(),
            _ => None,
        };
        let few = dims.iter().take(9).map(dim).collect::<Option<Vec<_>>>();
        let shape = few.filter(|dims| dims.len() <= 8);
        shape.ok_or_else(|| "a shape that is not understood".into())
    }
}

fn memo_key(line: &[u8]) -> Outcome<u32> {
    u32::try_from(decimal(line)?).map_err(|_| "a key of the memo out of range".into())
}
