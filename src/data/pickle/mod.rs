//! Reads Python pickles as data: dictionaries, lists, tuples, strings, integers and numpy arrays.
//!
//! A pickle is a program for a stack machine that may call anything. Here nothing is ever called: the few
//! globals with which numpy spells an array are understood as such, and any other is refused by its name.
//! Values live in one table and refer to one another by their place in it, so that neither nesting nor
//! values used many times nor cycles cost more than the bytes that make them.
//!
//! Protocols 0 to 5 are read, as Python 2 and 3 write them (`pickletools` of Python's library describes them).

mod machine;
mod strings;

use std::borrow::Cow;

type Id = u32;

type Outcome<T = ()> = Result<T, String>;

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
    /// `numpy.core.multiarray.scalar(dtype, bytes)`: a number, an array without dimensions here.
    Scalar,
    /// `numpy.core.numeric._frombuffer(bytes, dtype, shape, order)`, protocol 5.
    FromBuffer,
    /// `_codecs.encode(text, "latin1")`: how Python 3 writes bytes in protocols 0 to 2.
    Encode,
}

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
        machine::run(bytes)
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
            _ => self
                .array()
                .filter(|array| array.shape.len() == 1)?
                .integers(),
        }
    }

    fn integer(self) -> Option<i64> {
        match self.node() {
            Node::Int(value) => Some(*value),
            Node::Bool(value) => Some(i64::from(*value)),
            // A number of numpy's.
            _ => self
                .array()
                .filter(|array| array.shape.is_empty())?
                .integers()?
                .pop(),
        }
    }
}

impl Array<'_> {
    fn integers(&self) -> Option<Vec<i64>> {
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
    fn check(self, length: usize) -> Outcome<Layout> {
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

/// Bytes of the file for a message: printable and not long.
fn text(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(80)];
    shown.escape_ascii().to_string()
}
