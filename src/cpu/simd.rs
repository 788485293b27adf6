//! Sixteen `f32` lanes at a time: one vector of AVX-512 where the machine has it, two of AVX2 elsewhere.
//!
//! The crate is compiled for AVX2. A hot loop is written once, as an `#[inline(always)]` function that is
//! generic over [`Simd`]; [`multiversion!`] wraps it in a function that picks the instruction set at run
//! time. All versions do the same operations in the same order on the same sixteen lanes (fused
//! multiply-adds included, on machines that have them), so they agree bit for bit; convolutions, which leave out some
//! products with the zeros around images, for finite numbers.

use std::env;
use std::ops::{Add, Div, Mul, Sub};
use std::sync::OnceLock;

use crate::error::{Error, Result};

/// The variable of the environment that chooses the instruction set: `avx2`, or `avx512` where that is there.
const VARIABLE: &str = "STEPBACK_SIMD";

/// Whether AVX-512 is used, the same for the whole process: where it is there, unless the environment says otherwise.
///
/// # Errors
/// A usage error if the environment wants what this machine does not have.
pub fn avx512() -> Result<bool> {
    static CHOSEN: OnceLock<Result<bool>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        let there = avx512_is_there();
        match env::var_os(VARIABLE) {
            None => Ok(there),
            Some(set) if set.is_empty() => Ok(there),
            Some(set) if set == "avx2" => Ok(false),
            Some(set) if set == "avx512" && there => Ok(true),
            Some(set) => {
                let sets = if there { "avx2 and avx512" } else { "avx2" };
                Err(Error::usage(format!(
                    "{VARIABLE}={}: this machine has {sets} (leave it unset for the best)",
                    set.to_string_lossy().escape_debug()
                )))
            }
        }
    });
    chosen.clone()
}

/// Whether this machine has AVX-512, used or not.
pub fn avx512_is_there() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Lanes of a vector.
pub const LANES: usize = 16;

/// The right to use an instruction set. Vectors are only made through it, so having one proves it.
pub trait Simd: Copy {
    type V: Vector;
    /// Are there 32 registers of 16 lanes? Register blocking depends on it.
    const WIDE: bool;

    fn splat(self, x: f32) -> Self::V;

    fn load(self, x: &[f32; LANES]) -> Self::V;

    /// Loads up to 16 values; the lanes beyond hold zero.
    #[inline(always)]
    fn load_partial(self, x: &[f32]) -> Self::V {
        match x.as_array() {
            Some(x) => self.load(x),
            None => {
                let mut all = [0.0; LANES];
                all[..x.len()].copy_from_slice(x);
                self.load(&all)
            }
        }
    }

    /// # Safety
    /// `x` is valid for reading 16 values.
    #[inline(always)]
    unsafe fn load_ptr(self, x: *const f32) -> Self::V {
        // SAFETY: the caller's promise; arrays of f32 need no more alignment than f32.
        self.load(unsafe { &*x.cast::<[f32; LANES]>() })
    }

    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }
}

/// Sixteen lanes.
pub trait Vector:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    fn store(self, to: &mut [f32; LANES]);

    /// `self * b + c`, rounded once where the machine can.
    fn mul_add(self, b: Self, c: Self) -> Self;

    /// `self > b ? self : b`: `b` if either is NaN.
    fn max(self, b: Self) -> Self;

    fn abs(self) -> Self;

    /// To the nearest integer, ties to even.
    fn round(self) -> Self;

    /// `self * 2^n` for integral `n` in -252..=254.
    fn scale(self, n: Self) -> Self;

    /// Lane by lane `a <= b ? self : other` (`other` if either is NaN).
    fn where_le(self, a: Self, b: Self, other: Self) -> Self;

    #[inline(always)]
    fn to_array(self) -> [f32; LANES] {
        let mut all = [0.0; LANES];
        self.store(&mut all);
        all
    }

    /// Stores the first lanes into up to 16 places.
    #[inline(always)]
    fn store_partial(self, to: &mut [f32]) {
        match to.as_mut_array() {
            Some(to) => self.store(to),
            None => to.copy_from_slice(&self.to_array()[..to.len()]),
        }
    }

    /// Sum of the lanes: the upper half onto the lower half, four times.
    #[inline(always)]
    fn sum(self) -> f32 {
        fold(self.to_array(), |a, b| a + b)
    }

    /// Largest lane; NaN lanes may be lost.
    #[inline(always)]
    fn largest(self) -> f32 {
        fold(self.to_array(), f32::max)
    }
}

#[inline(always)]
fn fold(mut x: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            x[i] = f(x[i], x[i + half]);
        }
    }
    x[0]
}

macro_rules! operators {
    ($type:ty, $($trait:ident $method:ident $body:expr;)*) => {$(
        impl $trait for $type {
            type Output = Self;
            #[inline(always)]
            fn $method(self, b: Self) -> Self {
                $body(self, b)
            }
        }
    )*};
}

#[cfg(all(
    target_arch = "x86_64",
    target_feature = "avx2",
    target_feature = "fma"
))]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
// Tests compare the others with it.
#[cfg(any(
    test,
    not(all(
        target_arch = "x86_64",
        target_feature = "avx2",
        target_feature = "fma"
    ))
))]
mod portable;

#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;

std::cfg_select! {
    all(target_arch = "x86_64", target_feature = "avx2", target_feature = "fma") => {
        pub use avx2::BASE;
    }
    _ => {
        pub use portable::BASE;
    }
}

/// `multiversion!(pub fn f = body(x: T) -> R);` makes `f(x)` call `body(simd, x)` with the widest
/// instruction set that the machine has. `body` is `#[inline(always)]`, so that it is compiled for that set.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $([$($gen:tt)*])? = $body:ident ($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)?) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name $(<$($gen)*>)? ($($arg: $type),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f")]
                #[allow(clippy::too_many_arguments)]
                fn wide $(<$($gen)*>)? (s: $crate::cpu::simd::Avx512, $($arg: $type),*) $(-> $ret)? {
                    $body(s, $($arg),*)
                }
                if let Some(s) = $crate::cpu::simd::Avx512::detect() {
                    // SAFETY: `s` proves that the instruction set is there.
                    return unsafe { wide(s, $($arg),*) };
                }
            }
            $body($crate::cpu::simd::BASE, $($arg),*)
        }
    };
}
pub(crate) use multiversion;

multiversion! {
    /// Is it AVX-512, or whatever else is [`Simd::WIDE`], that functions run with now?
    pub fn wide = is_wide() -> bool
}

#[inline(always)]
fn is_wide<S: Simd>(_: S) -> bool {
    S::WIDE
}

#[cfg(test)]
mod tests {
    use super::portable::Portable;
    use super::*;

    const VALUES: [f32; LANES] = [
        0.0,
        -0.0,
        1.0,
        -2.5,
        0.1,
        3.7e-5,
        -8.0e6,
        1.5e-39,
        f32::MIN_POSITIVE,
        f32::MAX,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        0.5,
        -1.5,
        126.3,
    ];
    const EXPONENTS: [f32; LANES] = [
        0.0, 1.0, -1.0, 2.0, -126.0, -127.0, -149.0, 10.0, -20.0, 127.0, 128.0, -252.0, 254.0, 3.0,
        -3.0, 7.0,
    ];

    /// Every operation on every pair of values, as bits; one NaN is as good as another.
    fn results<S: Simd>(s: S) -> Vec<u32> {
        let a = s.load(&VALUES);
        let mut all = vec![
            a.abs(),
            a.round(),
            s.splat(2.5),
            s.load_partial(&VALUES[..5]),
        ];
        for turn in 0..LANES {
            let mut turned = VALUES;
            turned.rotate_left(turn);
            let b = s.load(&turned);
            let mut exponents = EXPONENTS;
            exponents.rotate_left(turn);
            all.extend([
                a + b,
                a - b,
                a * b,
                a / b,
                a.max(b),
                a.mul_add(b, s.splat(0.3)),
            ]);
            all.extend([a.where_le(b, s.splat(0.2), b), a.scale(s.load(&exponents))]);
        }
        let lanes = all.into_iter().flat_map(|v| v.to_array());
        let same_nan = |x: f32| if x.is_nan() { f32::NAN } else { x };
        lanes.map(|x| same_nan(x).to_bits()).collect()
    }

    #[test]
    fn all_instruction_sets_agree_bit_for_bit() {
        let expected = results(Portable);
        assert_eq!(results(BASE), expected);
        #[cfg(target_arch = "x86_64")]
        if let Some(s) = Avx512::detect() {
            #[target_feature(enable = "avx512f")]
            fn wide(s: Avx512) -> Vec<u32> {
                results(s)
            }
            // SAFETY: `s` proves that the instruction set is there.
            assert_eq!(unsafe { wide(s) }, expected);
        }
    }
}
