//! Reads Python pickles as data: dictionaries, lists, tuples, strings, integers and numpy arrays.
//!
//! A pickle is a program for a stack machine that may call anything. Here nothing is ever called: the few
//! globals with which numpy spells an array are understood as such, and any other is refused by its name.
//! Values live in one table and refer to one another by their place in it, so that neither nesting nor
//! values used many times nor cycles cost more than the bytes that make them.
//!
//! Protocols 0 to 5 are read, as Python 2 and 3 write them (`pickletools` of Python's library describes them).

use std::borrow::Cow;
use std::collections::HashMap;

/// Most operations of one pickle. A batch of the image sets has a few hundred thousand; at 4 million the
/// tables stay below 300 MB whatever the file says.
const MAX_OPERATIONS: usize = 1 << 22;

type Id = u32;

/// A value; parts of composite ones are places in the table.
#[derive(Clone, Debug)]
enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// A string of any kind. Python 2 does not tell text from bytes.
    Bytes(Cow<'a, [u8]>),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    /// Keys and values in turns.
    Dict(Vec<Id>),
    Global(Global),
    Dtype {
        name: Vec<u8>,
        big_endian: bool,
    },
    /// Until it is built an array has no contents.
    Array(Option<Layout>),
}

/// How an array lies in its bytes.
#[derive(Clone, Debug)]
struct Layout {
    shape: Vec<usize>,
    /// Without the byte order: `u1`, `i8`, `f4`.
    dtype: Vec<u8>,
    big_endian: bool,
    /// The first index runs fastest.
    fortran: bool,
    bytes: Id,
}

/// What may be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Global {
    /// `numpy.ndarray` and `numpy.core.multiarray._reconstruct(ndarray, (0,), b"b")`: an array to be built.
    Ndarray,
    Reconstruct,
    /// `numpy.dtype(name, align, copy)`.
    Dtype,
    /// `numpy.core.numeric._frombuffer(bytes, dtype, shape, order)`, protocol 5.
    FromBuffer,
    /// `_codecs.encode(text, "latin1")`: how Python 3 writes bytes in protocols 0 to 2.
    Encode,
}

const GLOBALS: [(&str, &str, Global); 7] = [
    ("numpy", "ndarray", Global::Ndarray),
    ("numpy", "dtype", Global::Dtype),
    ("numpy.core.multiarray", "_reconstruct", Global::Reconstruct),
    (
        "numpy._core.multiarray",
        "_reconstruct",
        Global::Reconstruct,
    ),
    ("numpy.core.numeric", "_frombuffer", Global::FromBuffer),
    ("numpy._core.numeric", "_frombuffer", Global::FromBuffer),
    ("_codecs", "encode", Global::Encode),
];

/// A numpy array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Array<'p> {
    pub shape: &'p [usize],
    /// Without the byte order: `u1`, `i8`, `f4`.
    pub dtype: &'p [u8],
    pub big_endian: bool,
    /// The first index runs fastest.
    pub fortran: bool,
    /// As many as shape and type ask for.
    pub bytes: &'p [u8],
}

/// A pickle that was read.
#[derive(Debug)]
pub struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    root: Id,
}

/// A value of a pickle.
#[derive(Clone, Copy)]
pub struct Item<'p, 'a> {
    pickle: &'p Pickle<'a>,
    id: Id,
}

impl<'a> Pickle<'a> {
    /// Reads the first pickle in `bytes`. The error says what was found where, or names the global that is
    /// no plain data.
    pub fn parse(bytes: &'a [u8]) -> Result<Pickle<'a>, String> {
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

    /// The value of a key of the outermost dictionary.
    pub fn get(&self, key: &str) -> Option<Item<'_, 'a>> {
        let Node::Dict(pairs) = &self.nodes[self.root as usize] else {
            return None;
        };
        // Of a key that is there twice Python keeps the last.
        let pairs = pairs.chunks_exact(2).rev();
        let named = |id: Id| match &self.nodes[id as usize] {
            Node::Bytes(name) => name.as_ref() == key.as_bytes(),
            _ => false,
        };
        let found = pairs.into_iter().find(|pair| named(pair[0]));
        found.map(|pair| Item {
            pickle: self,
            id: pair[1],
        })
    }
}

impl<'p, 'a> Item<'p, 'a> {
    fn node(self) -> &'p Node<'a> {
        &self.pickle.nodes[self.id as usize]
    }

    pub fn array(self) -> Option<Array<'p>> {
        let Node::Array(Some(layout)) = self.node() else {
            return None;
        };
        let Node::Bytes(bytes) = &self.pickle.nodes[layout.bytes as usize] else {
            return None;
        };
        Some(Array {
            shape: &layout.shape,
            dtype: &layout.dtype,
            big_endian: layout.big_endian,
            fortran: layout.fortran,
            bytes,
        })
    }

    /// The integers of a list or tuple, or of an array of one dimension.
    pub fn integers(self) -> Option<Vec<i64>> {
        match self.node() {
            Node::List(items) | Node::Tuple(items) => {
                let items = items.iter().map(|id| Item { id: *id, ..self });
                items.map(Item::integer).collect()
            }
            _ => self.array()?.integers(),
        }
    }

    fn integer(self) -> Option<i64> {
        match self.node() {
            Node::Int(value) => Some(*value),
            Node::Bool(value) => Some(i64::from(*value)),
            _ => None,
        }
    }
}

impl Array<'_> {
    fn integers(&self) -> Option<Vec<i64>> {
        if self.shape.len() != 1 {
            return None;
        }
        let signed = match self.dtype[..] {
            [b'i', _] => true,
            [b'u', _] => false,
            _ => return None,
        };
        let size = usize::from(self.dtype[1] - b'0');
        let value = |item: &[u8]| {
            let mut wide = [0; 8];
            wide[..size].copy_from_slice(item);
            if self.big_endian {
                wide[..size].reverse();
            }
            let (raw, unused) = (u64::from_le_bytes(wide), 64 - 8 * size);
            match signed {
                true => Some((raw << unused) as i64 >> unused),
                false => i64::try_from(raw).ok(),
            }
        };
        self.bytes.chunks_exact(size).map(value).collect()
    }
}

impl Layout {
    /// Refuses a shape that does not fit `length`, the number of bytes, and types without a fixed size.
    fn check(self, length: usize) -> Step<Layout> {
        let size = match self.dtype[..] {
            [b'b', b'1'] => Some(1),
            [b'u' | b'i' | b'f', digit @ (b'1' | b'2' | b'4' | b'8')] => Some(digit - b'0'),
            _ => None,
        };
        let size = size.ok_or_else(|| format!("an array of type {}", text(&self.dtype)))?;
        let mut dims = self.shape.iter();
        let wanted = dims.try_fold(usize::from(size), |n, dim| n.checked_mul(*dim));
        match wanted == Some(length) {
            true => Ok(self),
            false => Err(format!(
                "an array of shape {:?} and type {} in {length} bytes",
                self.shape,
                text(&self.dtype)
            )),
        }
    }
}

fn at(place: usize, why: &str) -> String {
    format!("at byte {place} of the pickle: {why}")
}

/// Bytes of the file for a message: printable and not long.
fn text(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(80)];
    shown.escape_ascii().to_string()
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

type Step<T = ()> = Result<T, String>;

impl<'a> Machine<'a> {
    /// One operation; true if it was the last.
    fn step(&mut self) -> Step<bool> {
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

    fn take(&mut self, n: usize) -> Step<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..n).ok_or("it is cut short")?;
        self.at += n;
        Ok(taken)
    }

    fn line(&mut self) -> Step<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|b| *b == b'\n');
        let line = &rest[..end.ok_or("it is cut short")?];
        self.at += line.len() + 1;
        Ok(line.strip_suffix(b"\r").unwrap_or(line))
    }

    fn little_endian(&mut self, n: usize) -> Step<u64> {
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
    fn below(&self, n: usize) -> Step<usize> {
        let place = self.stack.len().checked_sub(n);
        let place = place.filter(|place| *place >= self.floor());
        place.ok_or_else(|| "a value is missing on the stack".into())
    }

    fn pop(&mut self) -> Step<Id> {
        let place = self.below(1)?;
        Ok(self.stack.remove(place))
    }

    fn peek(&self) -> Step<Id> {
        Ok(self.stack[self.below(1)?])
    }

    fn pop_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or("a mark is missing on the stack")?;
        Ok(self.stack.split_off(mark))
    }

    fn collect(&mut self, make: fn(Vec<Id>) -> Node<'a>) -> Step {
        let items = self.pop_mark()?;
        self.push(make(items));
        Ok(())
    }

    fn extend(&mut self, n: usize) -> Step {
        let start = self.below(n)?;
        let items = self.stack.split_off(start);
        self.extend_with(items)
    }

    fn extend_with(&mut self, items: Vec<Id>) -> Step {
        let top = self.peek()?;
        match &mut self.nodes[top as usize] {
            Node::List(list) => list.extend(items),
            Node::Dict(pairs) if items.len().is_multiple_of(2) => pairs.extend(items),
            _ => return Err("items for what is no list or dictionary".into()),
        }
        Ok(())
    }

    fn small_integer(&mut self, n: usize) -> Step {
        let value = self.little_endian(n)?;
        self.push(Node::Int(value as i64));
        Ok(())
    }

    /// Two's complement of as many bytes as the first `n` say.
    fn long_integer(&mut self, n: usize) -> Step {
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

    fn string(&mut self, n: usize) -> Step {
        let length = self.little_endian(n)?;
        let length = usize::try_from(length).map_err(|_| "it is cut short")?;
        let content = self.take(length)?;
        self.push(Node::Bytes(content.into()));
        Ok(())
    }

    fn memoize(&mut self, key: u32) -> Step {
        let top = self.peek()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn memoize_counted(&mut self, n: usize) -> Step {
        let key = self.little_endian(n)?;
        self.memoize(key as u32)
    }

    fn recall(&mut self, key: u32) -> Step {
        let known = self.memo.get(&key);
        let id = *known.ok_or_else(|| format!("value {key} was never stored"))?;
        self.stack.push(id);
        Ok(())
    }

    fn recall_counted(&mut self, n: usize) -> Step {
        let key = self.little_endian(n)?;
        self.recall(key as u32)
    }

    fn name(&self, id: Id) -> Step<Vec<u8>> {
        match &self.nodes[id as usize] {
            Node::Bytes(bytes) if bytes.len() < 256 => Ok(bytes.to_vec()),
            _ => Err("the name of a global that is no name".into()),
        }
    }

    /// The members of a tuple, of which only a few make sense.
    fn few(&self, tuple: Id) -> Step<Vec<(Id, &Node<'a>)>> {
        match &self.nodes[tuple as usize] {
            Node::Tuple(ids) if ids.len() <= 10 => Ok(ids
                .iter()
                .map(|id| (*id, &self.nodes[*id as usize]))
                .collect()),
            _ => Err("arguments that are not understood".into()),
        }
    }

    fn global(&mut self, module: &[u8], name: &[u8]) -> Step {
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

    fn reduce(&mut self) -> Step {
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
                // Each text is written once, so that all of them are no longer than the file.
                let encoded = self.encoded + content.len();
                if encoded > self.bytes.len() {
                    return Err("the same text turned into bytes again and again".into());
                }
                let content = latin1(content)?;
                self.encoded = encoded;
                Node::Bytes(content.into())
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
    fn build(&mut self) -> Step {
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

    fn shape(&self, dims: &[Id]) -> Step<Vec<usize>> {
        let dim = |id: &Id| match self.nodes[*id as usize] {
            Node::Int(value) => usize::try_from(value).ok(),
            _ => None,
        };
        let few = dims.iter().take(9).map(dim).collect::<Option<Vec<_>>>();
        let shape = few.filter(|dims| dims.len() <= 8);
        shape.ok_or_else(|| "a shape that is not understood".into())
    }
}

fn decimal(digits: &[u8]) -> Step<i64> {
    let value = std::str::from_utf8(digits)
        .ok()
        .and_then(|d| d.parse().ok());
    value.ok_or_else(|| format!("{:?} where an integer is expected", text(digits)))
}

fn memo_key(line: &[u8]) -> Step<u32> {
    u32::try_from(decimal(line)?).map_err(|_| "a key of the memo out of range".into())
}

/// The content of a Python 2 string literal.
fn quoted(line: &[u8]) -> Step<Vec<u8>> {
    let inner = match line {
        [b'\'', inner @ .., b'\''] | [b'"', inner @ .., b'"'] => inner,
        _ => return Err("a string without quotes".into()),
    };
    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner.iter();
    while let Some(byte) = rest.next() {
        if *byte != b'\\' {
            out.push(*byte);
            continue;
        }
        out.push(match rest.next() {
            Some(same @ (b'\\' | b'\'' | b'"')) => *same,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'x') => hexadecimal(&mut rest, 2)? as u8,
            _ => return Err("an escape that is not understood".into()),
        });
    }
    Ok(out)
}

fn hexadecimal(rest: &mut std::slice::Iter<u8>, digits: usize) -> Step<u32> {
    let (now, later) = rest.as_slice().split_at_checked(digits).unwrap_or_default();
    *rest = later.iter();
    let all_digits = !now.is_empty() && now.iter().all(u8::is_ascii_hexdigit);
    let number = std::str::from_utf8(now).ok().filter(|_| all_digits);
    let number = number.and_then(|n| u32::from_str_radix(n, 16).ok());
    number.ok_or_else(|| "an escape that is not understood".into())
}

/// Text of protocol 0: Latin-1 with `\uXXXX` and `\UXXXXXXXX`.
fn raw_unicode(line: &[u8]) -> Step<String> {
    let mut out = String::with_capacity(line.len());
    let mut rest = line.iter();
    while let Some(byte) = rest.next() {
        let digits = match (byte, rest.as_slice().first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                out.push(char::from(*byte));
                continue;
            }
        };
        rest.next();
        let code = hexadecimal(&mut rest, digits)?;
        out.push(char::from_u32(code).ok_or("an escape that is no character")?);
    }
    Ok(out)
}

/// The bytes that a text of the first 256 characters stands for.
fn latin1(utf8: &[u8]) -> Step<Vec<u8>> {
    let text = std::str::from_utf8(utf8).map_err(|_| "text that is not UTF-8")?;
    let byte = |c: char| u8::try_from(c).map_err(|_| "text that is not Latin-1".to_owned());
    text.chars().map(byte).collect()
}
