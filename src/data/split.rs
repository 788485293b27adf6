//! One half of a data set: samples and targets by index, batch by batch.

use super::augment::{self, Placement, Recipe};
use super::shard::{Features, Shard};
use super::vocabulary::Vocabulary;
use crate::error::Result;
use crate::graph::Sample;
use crate::random::torch::Generator;
use rayon::prelude::*;

/// Numbers per batch from which it pays to gather on several threads.
const PARALLEL: usize = 1 << 15;

/// The training or the validation half of a data set.
pub struct Split {
    storage: Storage,
    len: usize,
    sample: Sample,
    target_shape: Vec<usize>,
    classes: Option<usize>,
    augmentation: Option<Recipe>,
    vocabulary: Option<Vocabulary>,
    published: Option<bool>,
}

enum Storage {
    /// (samples, features) and (samples, targets).
    Memory {
        x: Vec<f32>,
        y: Vec<f32>,
    },
    Shard {
        shard: Box<Shard>,
        /// The number that stands for a byte, per channel (shards of bytes only).
        tables: Vec<[f32; 256]>,
    },
    Text {
        tokens: Vec<u8>,
        sum: u32,
    },
}

/// What every channel's pixels become: `(value / 255 - mean) / std`, in f32 as torchvision computes it.
pub fn normalise(mean_and_std: &[(f32, f32)]) -> Vec<[f32; 256]> {
    let table = |&(mean, std): &(f32, f32)| {
        std::array::from_fn(|value| (value as f32 / 255.0 - mean) / std)
    };
    mean_and_std.iter().map(table).collect()
}

impl Split {
    /// Samples and targets as rows, one after the other.
    pub fn in_memory(x: Vec<f32>, y: Vec<f32>, sample: Sample, target_shape: Vec<usize>) -> Split {
        let len = y.len() / target_shape.iter().product::<usize>();
        assert_eq!(x.len(), len * sample.len());
        Split {
            storage: Storage::Memory { x, y },
            len,
            sample,
            target_shape,
            classes: None,
            augmentation: None,
            vocabulary: None,
            published: None,
        }
    }

    /// A shard of such samples. `tables` holds one table per channel, of which there are one or three, for a shard of bytes, and
    /// nothing for any other.
    pub fn of_shard(shard: Shard, sample: Sample, tables: Vec<[f32; 256]>) -> Split {
        let header = shard.header();
        let stored: usize = header.sample.iter().map(|d| *d as usize).product();
        assert_eq!(stored, sample.len());
        match header.features {
            Features::Bytes => {
                assert!([1, 3].contains(&tables.len()) && stored.is_multiple_of(tables.len()))
            }
            Features::Floats | Features::Sparse => assert!(tables.is_empty()),
            Features::Tokens => panic!("tokens come in windows"),
        }
        Split {
            len: header.samples as usize,
            sample,
            target_shape: header.target.iter().map(|d| *d as usize).collect(),
            classes: header.classes.map(|c| c as usize),
            augmentation: None,
            vocabulary: None,
            published: None,
            storage: Storage::Shard {
                shard: Box::new(shard),
                tables,
            },
        }
    }

    /// A shard of tokens in windows of `length`, each with the tokens one later as targets. What is left in the end is not used.
    ///
    /// # Panics
    /// If there is no window.
    pub fn of_tokens(shard: Shard, length: usize, vocabulary: Vocabulary) -> Split {
        let header = shard.header();
        assert_eq!(header.features, Features::Tokens);
        let (tokens, classes) = (header.samples as usize, header.classes);
        let storage = Storage::Shard {
            shard: Box::new(shard),
            tables: Vec::new(),
        };
        let classes = classes.map(|c| c as usize);
        Split::windows(storage, tokens, classes, length, vocabulary)
    }

    /// The same of tokens in memory, all of them below `classes`.
    pub fn of_text(
        tokens: Vec<u8>,
        classes: usize,
        length: usize,
        vocabulary: Vocabulary,
    ) -> Split {
        let count = tokens.len();
        let spelled = vocabulary.characters().unwrap_or_default();
        let sum = crc32c::crc32c_append(crc32c::crc32c(spelled.as_bytes()), &tokens);
        let storage = Storage::Text { tokens, sum };
        Split::windows(storage, count, Some(classes), length, vocabulary)
    }

    fn windows(
        storage: Storage,
        tokens: usize,
        classes: Option<usize>,
        length: usize,
        vocabulary: Vocabulary,
    ) -> Split {
        let len = (tokens - 1) / length;
        assert!(len > 0);
        Split {
            storage,
            len,
            sample: Sample::Tokens { length },
            target_shape: vec![length],
            classes,
            augmentation: None,
            vocabulary: Some(vocabulary),
            published: None,
        }
    }

    /// The same images, augmented in this way.
    ///
    /// # Panics
    /// If the samples are not square images of three channels.
    pub fn augmented(self, recipe: Recipe) -> Split {
        let Storage::Shard { shard, tables } = &self.storage else {
            panic!("images are in shards");
        };
        let sample = &shard.header().sample;
        assert!(tables.len() == 3 && sample.len() == 3 && sample[0] == sample[1]);
        Split {
            augmentation: Some(recipe),
            ..self
        }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The same samples of two features, as pairs of indices if they are that.
    pub fn as_index_pairs(self) -> Split {
        let mut bounds = [0; 2];
        let mut x = vec![0.0; 2 * self.len];
        let mut y = vec![0.0; self.len * self.target_shape.iter().product::<usize>()];
        let all: Vec<u32> = (0..self.len as u32).collect();
        self.gather(&all, &[], &mut x, &mut y);
        for pair in x.chunks_exact(2) {
            for (bound, index) in bounds.iter_mut().zip(pair) {
                if *index < 0.0 || index.fract() != 0.0 {
                    return self;
                }
                *bound = (*bound).max(*index as usize + 1);
            }
        }
        Split {
            sample: Sample::IndexPair { bounds },
            ..self
        }
    }

    /// What one sample is.
    pub fn sample(&self) -> Sample {
        self.sample
    }

    /// Shape of one target: `[1]` for labels and scalars.
    pub fn target_shape(&self) -> &[usize] {
        &self.target_shape
    }

    /// Number of classes if the targets are class indices.
    pub fn classes(&self) -> Option<usize> {
        self.classes
    }

    /// What the codes of tokens stand for, where samples are windows of them. There may be more than [`Split::classes`].
    pub fn vocabulary(&self) -> Option<&Vocabulary> {
        self.vocabulary.as_ref()
    }

    /// How the reference augments these samples, if it does.
    pub fn augmentation(&self) -> Option<Recipe> {
        self.augmentation
    }

    /// Draws what becomes of the next `n` samples visited. Nothing is drawn, and the result is empty, for data that are
    /// not augmented.
    pub fn draw_placements(&self, n: usize, generator: &mut Generator) -> Vec<Placement> {
        let draw = |recipe: Recipe| (0..n).map(|_| recipe.draw(generator)).collect();
        self.augmentation.map(draw).unwrap_or_default()
    }

    /// Writes the samples at `indices` into `x` and their targets into `y`, row by row: x is
    /// (batch, features), an image in (row, column, channel) order; y is (batch, targets), a class as the
    /// float that equals it. `placements` has an entry for every index, or none: the images as they are.
    /// Does not allocate.
    pub fn gather(&self, indices: &[u32], placements: &[Placement], x: &mut [f32], y: &mut [f32]) {
        let features = self.sample.len();
        let targets: usize = self.target_shape.iter().product();
        assert_eq!(x.len(), indices.len() * features);
        assert_eq!(y.len(), indices.len() * targets);
        assert!(placements.is_empty() || placements.len() == indices.len());
        let one = |(i, (x, y)): (usize, (&mut [f32], &mut [f32]))| {
            let index = indices[i] as usize;
            self.copy_sample(index, placements.get(i), x);
            self.target(index, y);
        };
        if x.len() < PARALLEL {
            let rows = x.chunks_exact_mut(features);
            let rows = rows.zip(y.chunks_exact_mut(targets));
            rows.enumerate().for_each(one);
        } else {
            let rows = x.par_chunks_exact_mut(features);
            rows.zip(y.par_chunks_exact_mut(targets))
                .enumerate()
                .with_min_len((PARALLEL / 4).div_ceil(features))
                .for_each(one);
        }
    }

    fn copy_sample(&self, index: usize, placement: Option<&Placement>, out: &mut [f32]) {
        let place = index * out.len()..(index + 1) * out.len();
        match &self.storage {
            Storage::Memory { x, .. } => out.copy_from_slice(&x[place]),
            Storage::Text { tokens, .. } => floats(&tokens[place], out),
            Storage::Shard { shard, tables } => match shard.header().features {
                Features::Bytes => match tables.len() {
                    1 => pixels::<1>(&shard.byte_features()[place], tables, placement, out),
                    _ => pixels::<3>(&shard.byte_features()[place], tables, placement, out),
                },
                Features::Floats => out.copy_from_slice(&shard.float_features()[place]),
                Features::Sparse => {
                    out.fill(0.0);
                    for &[column, bits] in shard.sparse_features(index) {
                        // In range when the shard was opened; a file that was cut since says zero.
                        if let Some(value) = out.get_mut(column as usize) {
                            *value = f32::from_bits(bits);
                        }
                    }
                }
                Features::Tokens => floats(&shard.byte_features()[place], out),
            },
        }
    }

    fn target(&self, index: usize, out: &mut [f32]) {
        let place = index * out.len()..(index + 1) * out.len();
        match &self.storage {
            Storage::Memory { y, .. } => out.copy_from_slice(&y[place]),
            Storage::Text { tokens, .. } => floats(&tokens[place.start + 1..=place.end], out),
            Storage::Shard { shard, .. } => match self.classes {
                Some(_) if shard.header().features == Features::Tokens => {
                    floats(&shard.byte_features()[place.start + 1..=place.end], out);
                }
                Some(_) => out[0] = shard.class_targets()[index] as f32,
                None => out.copy_from_slice(&shard.float_targets()[place]),
            },
        }
    }

    /// All targets, (samples, targets).
    pub fn targets(&self) -> Vec<f32> {
        let width: usize = self.target_shape.iter().product();
        let mut all = vec![0.0; self.len * width];
        for (index, out) in all.chunks_exact_mut(width).enumerate() {
            self.target(index, out);
        }
        all
    }

    /// The features of all samples as bytes, and a table per channel of the numbers that they stand for, where that is
    /// how they are stored.
    pub fn bytes(&self) -> Option<(&[u8], &[[f32; 256]])> {
        match &self.storage {
            Storage::Shard { shard, tables } if shard.header().features == Features::Bytes => {
                Some((shard.byte_features(), tables))
            }
            _ => None,
        }
    }

    /// All tokens, where samples are windows of them.
    pub fn tokens(&self) -> Option<&[u8]> {
        match &self.storage {
            Storage::Text { tokens, .. } => Some(tokens),
            Storage::Shard { shard, .. } if shard.header().features == Features::Tokens => {
                Some(shard.byte_features())
            }
            _ => None,
        }
    }

    fn shard(&self) -> Option<&Shard> {
        match &self.storage {
            Storage::Memory { .. } | Storage::Text { .. } => None,
            Storage::Shard { shard, .. } => Some(shard),
        }
    }

    /// An error if the file behind the split was damaged since it was opened: what was gathered in
    /// between is not to be trusted. Cheap; call it after every epoch.
    pub fn check(&self) -> Result<()> {
        self.shard().map_or(Ok(()), Shard::check)
    }

    /// An error if the file behind the split is not, byte for byte, what it was when it was opened. Reads all of it; call
    /// it before results are kept.
    pub fn check_all(&self) -> Result<()> {
        self.shard().map_or(Ok(()), Shard::check_all)
    }

    /// A checksum of the samples, where they come from files: the same for the same samples, whatever their files are
    /// called and however they are packed.
    pub fn checksum(&self) -> Option<u32> {
        match &self.storage {
            Storage::Memory { .. } => None,
            Storage::Shard { shard, .. } => Some(shard.sum()),
            Storage::Text { sum, .. } => Some(*sum),
        }
    }

    /// Whether the raw files are those that their authors published; `None` if no sums are known of them, and for what
    /// is not made from files.
    pub fn published(&self) -> Option<bool> {
        self.published
    }

    pub(super) fn with_published(self, published: Option<bool>) -> Split {
        Split { published, ..self }
    }
}

/// Codes as the numbers that equal them.
fn floats(codes: &[u8], out: &mut [f32]) {
    for (out, code) in out.iter_mut().zip(codes) {
        *out = f32::from(*code);
    }
}

/// The bytes of an image or a vector as numbers.
fn pixels<const C: usize>(
    bytes: &[u8],
    tables: &[[f32; 256]],
    placement: Option<&Placement>,
    out: &mut [f32],
) {
    let tables: &[[f32; 256]; C] = tables.try_into().expect("a table per channel");
    let (out, _) = out.as_chunks_mut::<C>();
    let (pixels, _) = bytes.as_chunks::<C>();
    match placement {
        None => augment::look_up(pixels.iter(), tables, out),
        Some(placement) => {
            let side = pixels.len().isqrt();
            augment::place(pixels, tables, *placement, side, out);
        }
    }
}
