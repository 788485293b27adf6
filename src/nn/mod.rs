//! Layers made of ops, with PyTorch's initial values and parameter names; losses and scores.
