//! Record once, run many: a model's forward pass records a [`Tape`] of ops with known shapes, and
//! [`Plan::record`] turns it into tasks over fixed slots of one arena, some ops taking others over on the way, and kernels further ones.

mod freeze;
mod fuse;
mod layout;
mod norm;
mod op;
mod params;
mod plan;
mod sample;
mod session;
mod tape;

pub use layout::Layout;
pub use op::{
    Activation, Bwd, BwdSlots, Finish, Fwd, FwdSlots, Join, Joined, MAX_INPUTS, Norm, NormGradient,
    Op, Statistics, Tail,
};
pub use params::{Param, Params, Range, Role, Tensor};
pub use plan::{Plan, Targets};
pub use sample::Sample;
pub use session::Session;
pub use tape::{Mode, Tape, Var};
