//! Where the calls of a plan find what they read and write, and how they cut vectors.

use bytemuck::{Pod, Zeroable};

use super::plan::{Pass, Plan};
use crate::device::gpu::kernels::{Step, TensorRange};
use crate::device::{Slot, View};
use crate::graph::{Range, Tensor};
use crate::optim::update::sum_blocks;

/// A plan's memory and tables on a machine. Numbers lie row by row; a row is as long as the plan says.
pub struct Places<'a> {
    pub now: View<Step>,
    /// One number.
    pub loss: Slot,
    /// The vectors, in the order of [`Plan::cells`].
    pub cells: Vec<View<f32>>,
    /// Where each group lies in them, one behind the other.
    pub groups: &'a [Range],
    /// Of an epoch: entries of the tables of coefficients and of reports.
    pub steps: usize,
    /// (groups, steps, coefficients)
    pub coefficients: View<f64>,
    /// What is kept from step to step: (scalars), and (tensors, tensors' numbers)
    pub scalars: View<f64>,
    pub tensor_state: View<f64>,
    /// (groups, slots), and (tensors, slots)
    pub group_slots: View<f64>,
    pub tensor_slots: View<f64>,
    /// The parameters' tensors, and their ranges where matrices are made orthogonal.
    pub parameters: &'a [Tensor],
    pub ranges: View<TensorRange>,
    /// (tensors, [`Shape::ALL`](super::plan::Shape::ALL))
    pub shapes: View<f64>,
    /// How vectors are cut, here and on the machine.
    pub cuts: &'a Cuts,
    pub pieces: View<Piece>,
    pub tensors: View<TensorPlace>,
    /// Room for partial sums: [`Cuts::partial`].
    pub partial: View<f64>,
    /// (reports, steps)
    pub series: View<f64>,
}

/// A piece of a tensor, which one block takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Piece {
    /// From the start of its group.
    pub start: i64,
    pub len: i32,
    pub tensor: i32,
}

/// What is known of a tensor's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct TensorPlace {
    pub group: i32,
    /// Its pieces are `first..end`.
    pub first: i32,
    pub end: i32,
}

/// How passes cut vectors: what sums depend on, and nothing else is.
#[derive(Clone, Debug, Default)]
pub struct Cuts {
    pub pieces: Vec<Piece>,
    pub tensors: Vec<TensorPlace>,
    /// How many pieces each group has, and how many blocks sum over all of it.
    pub group_pieces: Vec<usize>,
    pub group_blocks: Vec<usize>,
}

impl Cuts {
    /// Pieces of a tensor, at most: one thread adds up their sums.
    const MOST: usize = 128;
    /// Elements of a piece, at least, where the tensor has this many.
    const PIECE: usize = 4096;

    /// The tensors lie one behind the other, and so do the groups.
    pub fn new(groups: &[Range], tensors: &[Tensor]) -> Cuts {
        let mut cuts = Cuts::default();
        for (g, group) in groups.iter().enumerate() {
            let before = cuts.pieces.len();
            let end = group.start + group.len;
            let of_group = tensors.iter().enumerate();
            for (t, tensor) in of_group.filter(|(_, t)| (group.start..end).contains(&t.range.start))
            {
                let Range { start, len } = tensor.range;
                let piece = len
                    .div_ceil(Cuts::MOST)
                    .next_multiple_of(4)
                    .max(Cuts::PIECE);
                let first = cuts.pieces.len();
                cuts.pieces.extend((0..len).step_by(piece).map(|at| Piece {
                    start: (start - group.start + at) as i64,
                    len: piece.min(len - at) as i32,
                    tensor: t as i32,
                }));
                cuts.tensors.push(TensorPlace {
                    group: g as i32,
                    first: first as i32,
                    end: cuts.pieces.len() as i32,
                });
            }
            cuts.group_pieces.push(cuts.pieces.len() - before);
            cuts.group_blocks.push(match group.len {
                0 => 0,
                len => sum_blocks(len),
            });
        }
        assert_eq!(
            cuts.tensors.len(),
            tensors.len(),
            "a tensor outside of all groups"
        );
        cuts
    }

    /// Blocks of a pass, for each group.
    pub fn blocks(&self, pass: &Pass) -> &[usize] {
        match pass.by_tensor {
            true => &self.group_pieces,
            false => &self.group_blocks,
        }
    }

    /// How many partial sums the plan's passes leave at most; on the host they go piece by piece, all of them.
    pub fn partial(&self, plan: &Plan) -> usize {
        let passes = plan.rounds.iter().filter_map(|round| round.pass.as_ref());
        let sums = passes.map(|pass| {
            let blocks: usize = self.blocks(pass).iter().sum();
            pass.sums.len() * blocks.max(self.pieces.len())
        });
        sums.max().unwrap_or(0)
    }
}
