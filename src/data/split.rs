//! One half of a data set: samples and targets by index, batch by batch.

use super::shard::{Features, Shard};
use crate::error::Result;
use rayon::prelude::*;

/// Numbers per batch from which it pays to gather on several threads.
const PARALLEL: usize = 1 << 15;

/// The training or the validation half of a data set.
pub struct Split {
    storage: Storage,
    len: usize,
    input_shape: Vec<usize>,
    target_shape: Vec<usize>,
    classes: Option<usize>,
}

enum Storage {
    /// (samples, features) and (samples, targets).
    Memory { x: Vec<f32>, y: Vec<f32> },
    Shard {
        shard: Shard,
        /// The number that stands for a byte, per channel (shards of bytes only).
        tables: Vec<[f32; 256]>,
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
    pub fn in_memory(
        x: Vec<f32>,
        y: Vec<f32>,
        input_shape: Vec<usize>,
        target_shape: Vec<usize>,
    ) -> Split {
        let len = y.len() / target_shape.iter().product::<usize>();
        assert_eq!(x.len(), len * input_shape.iter().product::<usize>());
        Split {
            storage: Storage::Memory { x, y },
            len,
            input_shape,
            target_shape,
            classes: None,
        }
    }

    /// A shard of images or of vectors; `input_shape` is PyTorch's, which puts the channels first.
    /// `tables` holds one table per channel, of which there are one or three, for a shard of bytes, and
    /// nothing for any other.
    pub fn of_shard(shard: Shard, input_shape: Vec<usize>, tables: Vec<[f32; 256]>) -> Split {
        let header = shard.header();
        let stored: usize = header.sample.iter().map(|d| *d as usize).product();
        assert_eq!(stored, input_shape.iter().product::<usize>());
        match header.features {
            Features::Bytes => {
                assert!([1, 3].contains(&tables.len()) && stored.is_multiple_of(tables.len()))
            }
            _ => assert!(tables.is_empty()),
        }
        Split {
            len: header.samples as usize,
            input_shape,
            target_shape: header.target.iter().map(|d| *d as usize).collect(),
            classes: header.classes.map(|c| c as usize),
            storage: Storage::Shard { shard, tables },
        }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// PyTorch's shape of one sample: (channels, rows, columns) or (features,).
    pub fn input_shape(&self) -> &[usize] {
        &self.input_shape
    }

    /// Shape of one target: `[1]` for labels and scalars.
    pub fn target_shape(&self) -> &[usize] {
        &self.target_shape
    }

    /// Number of classes if the targets are class indices.
    pub fn classes(&self) -> Option<usize> {
        self.classes
    }

    /// Writes the samples at `indices` into `x` and their targets into `y`, row by row: x is
    /// (batch, features), an image in (row, column, channel) order; y is (batch, targets), a class as the
    /// float that equals it. Does not allocate.
    pub fn gather(&self, indices: &[u32], x: &mut [f32], y: &mut [f32]) {
        let features: usize = self.input_shape.iter().product();
        let targets: usize = self.target_shape.iter().product();
        assert_eq!(x.len(), indices.len() * features);
        assert_eq!(y.len(), indices.len() * targets);
        let one = |((index, x), y): ((&u32, &mut [f32]), &mut [f32])| {
            self.sample(*index as usize, x);
            self.target(*index as usize, y);
        };
        if x.len() < PARALLEL {
            let rows = x.chunks_exact_mut(features);
            let rows = indices.iter().zip(rows).zip(y.chunks_exact_mut(targets));
            rows.for_each(one);
        } else {
            let rows = x.par_chunks_exact_mut(features);
            let rows = indices.par_iter().zip(rows);
            rows.zip(y.par_chunks_exact_mut(targets))
                .with_min_len((PARALLEL / 4).div_ceil(features))
                .for_each(one);
        }
    }

    fn sample(&self, index: usize, out: &mut [f32]) {
        let place = index * out.len()..(index + 1) * out.len();
        match &self.storage {
            Storage::Memory { x, .. } => out.copy_from_slice(&x[place]),
            Storage::Shard { shard, tables } => match shard.header().features {
                Features::Bytes => match tables.len() {
                    1 => look_up::<1>(&shard.byte_features()[place], tables, out),
                    _ => look_up::<3>(&shard.byte_features()[place], tables, out),
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
            },
        }
    }

    fn target(&self, index: usize, out: &mut [f32]) {
        let place = index * out.len()..(index + 1) * out.len();
        match &self.storage {
            Storage::Memory { y, .. } => out.copy_from_slice(&y[place]),
            Storage::Shard { shard, .. } => match self.classes {
                Some(_) => out[0] = shard.class_targets()[index] as f32,
                None => out.copy_from_slice(&shard.float_targets()[place]),
            },
        }
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

    /// An error if the file behind the split was damaged since it was opened: what was gathered in
    /// between is not to be trusted. Cheap; call it after every epoch.
    pub fn check(&self) -> Result<()> {
        match &self.storage {
            Storage::Memory { .. } => Ok(()),
            Storage::Shard { shard, .. } => shard.check(),
        }
    }
}

/// With the number of channels known to the compiler this runs five times as fast.
fn look_up<const CHANNELS: usize>(bytes: &[u8], tables: &[[f32; 256]], out: &mut [f32]) {
    let tables: &[[f32; 256]; CHANNELS] = tables.try_into().expect("a table per channel");
    let (out, _) = out.as_chunks_mut::<CHANNELS>();
    let (pixels, _) = bytes.as_chunks::<CHANNELS>();
    for (out, pixel) in out.iter_mut().zip(pixels) {
        for channel in 0..CHANNELS {
            out[channel] = tables[channel][usize::from(pixel[channel])];
        }
    }
}
