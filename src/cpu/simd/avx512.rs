//! AVX-512: one vector.

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
