//! Tensor ops: one file each, a method on Var and its bodies.
