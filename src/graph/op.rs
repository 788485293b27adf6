//! What an op is.

use crate::device::gpu::kernels::{DropoutMask, Step};
use crate::device::{Program, Slot, View};
use crate::error::{Error, Result};

pub const MAX_INPUTS: usize = 6;

/// An op that the one before it may do at the end of its own work, element by element of its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Batch norm in evaluation, which scales and shifts channels: further operands weight and bias, and the
    /// running averages as state.
    Norm,
    /// Adds a further operand of the same shape.
    Add,
    Relu,
}

/// What the kernels of an op can do for the op after it, in one launch, once a tile or some rows of theirs are done; in
/// backward, for the op before it, whose gradient comes next.
#[derive(Clone, Copy, Debug)]
pub enum Join {
    /// A step, which takes every number alone; as the next two.
    Activation(Activation),
    Dropout(DropoutMask),
    /// Of a further operand. Forward only, as what follows.
    Add,
    /// A linear layer, and ReLU behind it perhaps.
    Linear {
        outputs: usize,
        relu: bool,
    },
    RmsNorm {
        eps: f32,
    },
    LayerNorm {
        eps: f32,
    },
    /// Of one batch.
    CrossEntropy {
        smoothing: f32,
    },
    /// Backward of the last op whose forward comes before and has none yet.
    Backward {
        /// Does it give the gradient of `x[0]`?
        of_input: bool,
    },
}

impl Join {
    /// Between two steps nothing is stored, so the second is only joined where nobody else needs what lies between. What is
    /// before the first one has no place of its own in that case.
    pub fn is_step(self) -> bool {
        matches!(self, Join::Activation(_) | Join::Dropout(_) | Join::Add)
    }
}

/// By their numbers in `kernels/activation.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    Silu = 1,
    ReluSquared = 2,
    Gelu = 3,
}

/// A further op that a launch is to do, and its operands. Its first one is what the op before it writes, or has the length 0 if
/// that is not stored.
#[derive(Clone, Copy)]
pub struct Joined {
    pub join: Join,
    pub x: [Slot; MAX_INPUTS],
    /// Its output, or the gradient of `x[0]`.
    pub to: Slot,
    pub saved: Slot,
    pub dy: Slot,
    /// In backward, the gradients of all operands.
    pub dx: [Slot; MAX_INPUTS],
    pub work: Slot,
}

/// A tensor op with fixed shapes: what it needs beside inputs and output, and its bodies.
///
/// Bodies overwrite their outputs. The gradient buffer `dx[i]` is empty where input `i` needs no
/// gradient. Where a tensor has several consumers, the plan adds up their contributions, or lets ops do so that can
/// ([`Op::bwd_adds`]).
pub trait Op: Send + Sync {
    fn name(&self) -> &'static str;

    /// Floats that forward leaves for backward.
    fn saved(&self) -> usize {
        0
    }

    /// Floats of workspace in forward.
    fn fwd_work(&self) -> usize {
        0
    }

    /// Floats of workspace in backward.
    fn bwd_work(&self) -> usize {
        0
    }

    /// Does backward read the inputs? If not, `Bwd::x` holds empty slices.
    fn bwd_reads_inputs(&self) -> bool {
        true
    }

    /// Does backward read the output? If not, `Bwd::y` is empty.
    fn bwd_reads_output(&self) -> bool {
        false
    }

    /// Is the gradient of this input the output's gradient itself? Backward then writes a copy where it is asked for one;
    /// mostly the plan hands the gradient on.
    fn bwd_passes(&self, _input: usize) -> bool {
        false
    }

    /// Can backward add its share to what `dx[0]` holds, where [`Bwd::add`] asks for it?
    fn bwd_adds(&self) -> bool {
        false
    }

    /// Multiply-adds times two, in forward.
    fn flops(&self) -> usize {
        0
    }

    /// What this op is to the op before it.
    fn tail(&self) -> Option<Tail> {
        None
    }

    /// Takes over a tail: from now on this op does both, the tail's further operands stand behind its own
    /// ones, and a tail's state is its state. Returns false, having changed nothing, if it cannot.
    fn absorb(&mut self, _tail: Tail) -> bool {
        false
    }

    /// What this op is to the kernels of an op that can do its work with theirs.
    fn join(&self) -> Option<Join> {
        None
    }

    /// Can the kernels of forward do this too, one after the other?
    fn cuda_fwd_joins(&self, _further: &[Join]) -> bool {
        false
    }

    /// Can those of backward?
    fn cuda_bwd_joins(&self, _further: &[Join]) -> bool {
        false
    }

    /// Is it better to compute the output again in backward than to keep it for so long? On the CPU the plan then does.
    fn recomputed(&self) -> bool {
        false
    }

    fn cpu_fwd(&self, io: Fwd<'_>);

    fn cpu_bwd(&self, io: Bwd<'_>);

    /// Floats that the kernels' forward leaves for their backward.
    fn cuda_saved(&self) -> usize {
        self.saved()
    }

    /// Floats of workspace of the kernels in forward.
    fn cuda_fwd_work(&self) -> usize {
        0
    }

    /// Floats of workspace of the kernels in backward.
    fn cuda_bwd_work(&self) -> usize {
        0
    }

    /// Floats in which the kernels of forward add up what a batch norm behind this op needs; 0 if they cannot.
    fn cuda_counts(&self) -> usize {
        0
    }

    /// The same on the way back to a batch norm before this op.
    fn cuda_bwd_counts(&self) -> usize {
        0
    }

    /// Is it batch norm in training, which kernels of the ops around it can do in part (`norm.rs`)? Operands: x, gamma, beta,
    /// then the residual.
    fn batch_norm(&self) -> Option<Norm> {
        None
    }

    /// Can the kernels read `x[0]`, and `dy`, before they are finished ([`Finish`])?
    fn cuda_finishes(&self) -> [bool; 2] {
        [false; 2]
    }

    /// Adds the kernels of forward.
    ///
    /// # Errors
    /// If there are none, or the shapes do not fit the device.
    fn cuda_fwd(&self, _io: FwdSlots, _program: &mut Program) -> Result<()> {
        Err(no_kernel(self.name()))
    }

    /// Adds the kernels of backward.
    ///
    /// # Errors
    /// As forward.
    fn cuda_bwd(&self, _io: BwdSlots, _program: &mut Program) -> Result<()> {
        Err(no_kernel(self.name()))
    }
}

fn no_kernel(op: &str) -> Error {
    Error::usage(format!(
        "op {op} has no CUDA kernels; models that use it train with --device cpu"
    ))
}

/// What a batch norm in training is followed by.
#[derive(Clone, Copy)]
pub struct Norm {
    pub residual: bool,
    pub relu: bool,
}

/// A tensor t that is not finished: `lines[0] t + lines[1]`, plus `lines[2] other` if there is one, then max(., 0) if `relu`.
/// `lines` has a row of every channel's factors behind the other.
#[derive(Clone, Copy)]
pub struct Finish<T = Slot> {
    pub lines: T,
    pub other: T,
    pub relu: bool,
}

/// Where kernels find what they need to make the statistics of the batch norm behind.
#[derive(Clone, Copy, Default)]
pub struct Statistics<T = Slot> {
    pub gamma: T,
    pub beta: T,
    /// [`Op::cuda_saved`] of the batch norm.
    pub saved: T,
    /// Its state.
    pub averages: T,
    /// [`Op::cuda_counts`].
    pub partial: T,
}

/// Where kernels find what they need to make dgamma, dbeta and the lines of dx ([`Finish`]) of a batch norm, and to mask its dy.
#[derive(Clone, Copy, Default)]
pub struct NormGradient<T = Slot> {
    pub x: T,
    /// Empty where x tells what is masked.
    pub y: T,
    pub saved: T,
    pub dgamma: T,
    pub dbeta: T,
    pub lines: T,
    /// [`Op::cuda_bwd_counts`]; empty if all of it has been made.
    pub partial: T,
    /// Is dy masked by a ReLU?
    pub relu: bool,
}

/// Where a forward kernel finds its operands; as [`Fwd`].
pub struct FwdSlots {
    pub x: [Slot; MAX_INPUTS],
    pub y: Slot,
    pub saved: Slot,
    pub work: Slot,
    pub state: Slot,
    /// Of the batch norm behind, if there is one whose statistics are to be made.
    pub statistics: Option<Statistics>,
    /// Has the op before made those of this batch norm?
    pub has_statistics: bool,
    /// How to finish `x[0]`.
    pub finish_x: Option<Finish>,
    /// What is to be done in the same launch.
    pub joined: Vec<Joined>,
    /// The step at hand.
    pub now: View<Step>,
}

/// Where a backward kernel finds its operands; as [`Bwd`].
pub struct BwdSlots {
    pub x: [Slot; MAX_INPUTS],
    pub y: Slot,
    pub saved: Slot,
    pub dy: Slot,
    pub dx: [Slot; MAX_INPUTS],
    /// Add to `dx[0]` instead of overwriting it.
    pub add: bool,
    pub work: Slot,
    /// How to finish `x[0]` and `dy`.
    pub finish_x: Option<Finish>,
    pub finish_dy: Option<Finish>,
    /// The gradient of this batch norm, or of the one before, which takes the whole of `dx[0]`.
    pub norm: Option<NormGradient>,
    /// Of batch norm: dy where it is not masked, which may be `dy` itself.
    pub dz: Slot,
    /// The ops whose backward is to be done in the same launch.
    pub joined: Vec<Joined>,
    /// The step at hand.
    pub now: View<Step>,
}

/// What a forward body sees.
pub struct Fwd<'a> {
    pub x: [&'a [f32]; MAX_INPUTS],
    pub y: &'a mut [f32],
    pub saved: &'a mut [f32],
    pub work: &'a mut [f32],
    /// The buffers that the op was recorded with (running averages); empty where they are to stay as they are.
    pub state: &'a mut [f32],
    /// Where training is, for ops that draw random numbers.
    pub now: Step,
}

/// What a backward body sees.
pub struct Bwd<'a> {
    pub x: [&'a [f32]; MAX_INPUTS],
    pub y: &'a [f32],
    pub saved: &'a [f32],
    pub dy: &'a [f32],
    pub dx: [&'a mut [f32]; MAX_INPUTS],
    /// Add to `dx[0]` instead of overwriting it.
    pub add: bool,
    pub work: &'a mut [f32],
    /// Where training is, for ops that draw random numbers.
    pub now: Step,
}
