//! What the codes of a text's tokens stand for.

use serde::{Deserialize, Serialize};

/// A character, or a byte, for every code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vocabulary {
    /// In the order of their codes, which is their own; at most 256.
    Characters(Vec<char>),
    /// All 256, each its own code.
    Bytes,
}

impl Vocabulary {
    /// How many codes there are.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        match self {
            Vocabulary::Characters(characters) => characters.len(),
            Vocabulary::Bytes => 256,
        }
    }

    /// All characters in the order of their codes, unless codes are bytes.
    pub fn characters(&self) -> Option<String> {
        match self {
            Vocabulary::Characters(characters) => Some(characters.iter().collect()),
            Vocabulary::Bytes => None,
        }
    }

    /// The codes of a text, and how many of its characters were left out, for they have none.
    pub fn encode(&self, text: &str) -> (Vec<u8>, u64) {
        let Vocabulary::Characters(characters) = self else {
            return (text.as_bytes().to_vec(), 0);
        };
        let mut skipped = 0;
        let codes = text.chars().filter_map(|character| {
            let code = characters.binary_search(&character).ok();
            skipped += u64::from(code.is_none());
            code.map(|code| u8::try_from(code).expect("at most 256 characters"))
        });
        (codes.collect(), skipped)
    }

    /// What such codes spell, in UTF-8 unless codes are bytes; nothing for those that stand for nothing.
    pub fn decode(&self, codes: &[u8]) -> Vec<u8> {
        let Vocabulary::Characters(characters) = self else {
            return codes.to_vec();
        };
        let spelled = codes
            .iter()
            .filter_map(|code| characters.get(*code as usize));
        spelled.collect::<String>().into_bytes()
    }
}
