//! Sixteen `f32` lanes at a time, on AVX-512 where the machine has it.
//!
//! The crate is compiled for AVX2. A hot loop is written once, as an `#[inline(always)]` function that is
//! generic over [`Simd`]; [`multiversion!`] wraps it in a function that picks the instruction set at run
//! time. Both versions do the same operations in the same order on the same sixteen lanes (fused
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

/// Whatever the crate was compiled for: the compiler makes vector instructions out of loops over 16.
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

#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{LANES, Simd, Vector};
    use std::arch::x86_64::*;
    use std::ops::{Add, Div, Mul, Sub};
    /// Made by [`Avx512::detect`] only.
    #[derive(Clone, Copy)]
    pub struct Avx512(());

    impl Avx512 {
        /// # Panics
        /// If the environment chooses an instruction set that is not here, which programs ask before.
        #[inline(always)]
        pub fn detect() -> Option<Avx512> {
            let used = super::avx512().unwrap_or_else(|e| panic!("{e}"));
            used.then_some(Avx512(()))
        }
    }

    #[derive(Clone, Copy)]
    pub struct Avx512V(__m512);

    // SAFETY (of every block below): an `Avx512` or a vector made from one proves that `avx512f` was
    // detected, and loads and stores go through references to 16 values.
    operators!(Avx512V,
        Add add |a: Self, b: Self| Avx512V(unsafe { _mm512_add_ps(a.0, b.0) });
        Sub sub |a: Self, b: Self| Avx512V(unsafe { _mm512_sub_ps(a.0, b.0) });
        Mul mul |a: Self, b: Self| Avx512V(unsafe { _mm512_mul_ps(a.0, b.0) });
        Div div |a: Self, b: Self| Avx512V(unsafe { _mm512_div_ps(a.0, b.0) });
    );

    impl Simd for Avx512 {
        type V = Avx512V;
        const WIDE: bool = true;

        #[inline(always)]
        fn splat(self, x: f32) -> Avx512V {
            Avx512V(unsafe { _mm512_set1_ps(x) })
        }

        #[inline(always)]
        fn load(self, x: &[f32; LANES]) -> Avx512V {
            Avx512V(unsafe { _mm512_loadu_ps(x.as_ptr()) })
        }
    }

    impl Vector for Avx512V {
        #[inline(always)]
        fn store(self, to: &mut [f32; LANES]) {
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self.0) }
        }

        #[inline(always)]
        fn mul_add(self, b: Self, c: Self) -> Self {
            Avx512V(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
        }

        #[inline(always)]
        fn max(self, b: Self) -> Self {
            Avx512V(unsafe { _mm512_max_ps(self.0, b.0) })
        }

        #[inline(always)]
        fn abs(self) -> Self {
            Avx512V(unsafe { _mm512_abs_ps(self.0) })
        }

        #[inline(always)]
        fn round(self) -> Self {
            Avx512V(unsafe {
                _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)
            })
        }

        #[inline(always)]
        fn scale(self, n: Self) -> Self {
            Avx512V(unsafe { _mm512_scalef_ps(self.0, n.0) })
        }

        #[inline(always)]
        fn where_le(self, a: Self, b: Self, other: Self) -> Self {
            Avx512V(unsafe {
                let le = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(a.0, b.0);
                _mm512_mask_blend_ps(le, other.0, self.0)
            })
        }
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
            $body($crate::cpu::simd::Portable, $($arg),*)
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
