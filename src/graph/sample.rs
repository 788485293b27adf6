//! What one sample of a data set is, for those who make samples and those who take them.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sample {
    /// So many features.
    Vector(usize),
    Image {
        channels: usize,
        height: usize,
        width: usize,
    },
    /// Two indices, each below a bound.
    IndexPair { bounds: [usize; 2] },
    /// A window of this many tokens, each its code; the targets are as many.
    Tokens { length: usize },
}

impl Sample {
    /// An image or a vector of this shape, as PyTorch has it.
    ///
    /// # Panics
    /// If it is neither.
    pub fn of_shape(shape: &[usize]) -> Sample {
        match *shape {
            [features] => Sample::Vector(features),
            [channels, height, width] => Sample::Image {
                channels,
                height,
                width,
            },
            _ => panic!("neither an image nor a vector: {shape:?}"),
        }
    }

    /// The shape that PyTorch gives it: (features), (channels, height, width) or (tokens).
    pub fn shape(self) -> Vec<usize> {
        match self {
            Sample::Vector(features) => vec![features],
            Sample::Image {
                channels,
                height,
                width,
            } => vec![channels, height, width],
            Sample::IndexPair { .. } => vec![2],
            Sample::Tokens { length } => vec![length],
        }
    }

    /// Its shape on a tape, where channels are last.
    pub fn shape_on_tape(self) -> Vec<usize> {
        let mut shape = self.shape();
        if let Sample::Image { .. } = self {
            shape.rotate_left(1);
        }
        shape
    }

    /// Numbers of a sample.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(self) -> usize {
        self.shape().iter().product()
    }

    /// What samples of both kinds are; indices lie below the larger of the bounds.
    pub fn and(self, other: Sample) -> Sample {
        match (self, other) {
            (Sample::IndexPair { bounds: [a, b] }, Sample::IndexPair { bounds: [c, d] }) => {
                Sample::IndexPair {
                    bounds: [a.max(c), b.max(d)],
                }
            }
            (Sample::IndexPair { .. }, _) => other,
            _ => self,
        }
    }
}
