//! Random number generators, bit for bit as the reference's: torch's CPU generator and numpy's
//! RandomState, and the counter-based Philox4x32-10.
