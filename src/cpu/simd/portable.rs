//! Any processor: the compiler makes vector instructions out of loops over 16, or does not.

use super::{LANES, Simd, Vector};
use std::ops::{Add, Div, Mul, Sub};

/// What the crate is compiled for.
#[cfg_attr(test, allow(dead_code))]
pub const BASE: Portable = Portable;

#[derive(Clone, Copy)]
pub struct Portable;

#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct PortableV([f32; LANES]);

impl PortableV {
    #[inline(always)]
    fn map(self, f: impl Fn(f32) -> f32) -> Self {
        PortableV(self.0.map(f))
    }

    #[inline(always)]
    fn zip(self, b: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        PortableV(std::array::from_fn(|i| f(self.0[i], b.0[i])))
    }
}

operators!(PortableV,
    Add add |a: Self, b: Self| a.zip(b, |x, y| x + y);
    Sub sub |a: Self, b: Self| a.zip(b, |x, y| x - y);
    Mul mul |a: Self, b: Self| a.zip(b, |x, y| x * y);
    Div div |a: Self, b: Self| a.zip(b, |x, y| x / y);
);

impl Simd for Portable {
    type V = PortableV;
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> PortableV {
        PortableV([x; LANES])
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> PortableV {
        PortableV(*x)
    }
}

/// 2^n for integral n in -126..=127.
#[inline(always)]
fn power_of_two(n: f32) -> f32 {
    // Behind 2^23, the last bits of a float count ones; what is above them is shifted out.
    f32::from_bits((n + (8_388_608.0 + 127.0)).to_bits() << 23)
}

impl Vector for PortableV {
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        *to = self.0;
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        PortableV(std::array::from_fn(|i| {
            // Without the instruction, `mul_add` would be a call of the C library.
            if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
                self.0[i].mul_add(b.0[i], c.0[i])
            } else {
                self.0[i] * b.0[i] + c.0[i]
            }
        }))
    }

    #[inline(always)]
    fn max(self, b: Self) -> Self {
        self.zip(b, |x, y| if x > y { x } else { y })
    }

    #[inline(always)]
    fn abs(self) -> Self {
        self.map(f32::abs)
    }

    #[inline(always)]
    fn round(self) -> Self {
        self.map(f32::round_ties_even)
    }

    #[inline(always)]
    fn scale(self, n: Self) -> Self {
        // Half the exponent at a time reaches the subnormal results too.
        let half = n.map(|n| (n * 0.5).floor());
        self * half.map(power_of_two) * (n - half).map(power_of_two)
    }

    #[inline(always)]
    fn where_le(self, a: Self, b: Self, other: Self) -> Self {
        PortableV(std::array::from_fn(|i| {
            if a.0[i] <= b.0[i] {
                self.0[i]
            } else {
                other.0[i]
            }
        }))
    }
}
