//! AVX2 with FMA, which the crate is compiled for on x86-64: two vectors.

use super::{LANES, Simd, Vector};
use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Sub};

#[derive(Clone, Copy)]
pub struct Avx2(());

/// The instruction set that the crate was compiled for.
pub const BASE: Avx2 = Avx2(());

/// The lower eight lanes and the upper eight.
#[derive(Clone, Copy)]
pub struct Avx2V(__m256, __m256);

impl Avx2V {
    #[inline(always)]
    fn map(self, f: impl Fn(__m256) -> __m256) -> Self {
        Avx2V(f(self.0), f(self.1))
    }

    #[inline(always)]
    fn zip(self, b: Self, f: impl Fn(__m256, __m256) -> __m256) -> Self {
        Avx2V(f(self.0, b.0), f(self.1, b.1))
    }
}

// SAFETY (of every block below): this module is there only if the whole crate is compiled for AVX2 and FMA, and loads
// and stores go through references to 16 values.
operators!(Avx2V,
    Add add |a: Self, b: Self| a.zip(b, |a, b| unsafe { _mm256_add_ps(a, b) });
    Sub sub |a: Self, b: Self| a.zip(b, |a, b| unsafe { _mm256_sub_ps(a, b) });
    Mul mul |a: Self, b: Self| a.zip(b, |a, b| unsafe { _mm256_mul_ps(a, b) });
    Div div |a: Self, b: Self| a.zip(b, |a, b| unsafe { _mm256_div_ps(a, b) });
);

impl Simd for Avx2 {
    type V = Avx2V;
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Avx2V {
        let x = unsafe { _mm256_set1_ps(x) };
        Avx2V(x, x)
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Avx2V {
        let x = x.as_ptr();
        unsafe { Avx2V(_mm256_loadu_ps(x), _mm256_loadu_ps(x.add(8))) }
    }
}

impl Vector for Avx2V {
    #[inline(always)]
    fn store(self, to: &mut [f32; LANES]) {
        let to = to.as_mut_ptr();
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }

    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        unsafe {
            Avx2V(
                _mm256_fmadd_ps(self.0, b.0, c.0),
                _mm256_fmadd_ps(self.1, b.1, c.1),
            )
        }
    }

    #[inline(always)]
    fn max(self, b: Self) -> Self {
        self.zip(b, |a, b| unsafe { _mm256_max_ps(a, b) })
    }

    #[inline(always)]
    fn abs(self) -> Self {
        self.map(|x| unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), x) })
    }

    #[inline(always)]
    fn round(self) -> Self {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        self.map(|x| unsafe { _mm256_round_ps::<NEAREST>(x) })
    }

    #[inline(always)]
    fn scale(self, n: Self) -> Self {
        // Half the exponent at a time reaches the subnormal results too.
        let half = n.map(|n| unsafe { _mm256_floor_ps(_mm256_mul_ps(n, _mm256_set1_ps(0.5))) });
        self * half.map(power_of_two) * (n - half).map(power_of_two)
    }

    #[inline(always)]
    fn where_le(self, a: Self, b: Self, other: Self) -> Self {
        let choose = |x, a, b, other| unsafe {
            _mm256_blendv_ps(other, x, _mm256_cmp_ps::<_CMP_LE_OQ>(a, b))
        };
        Avx2V(
            choose(self.0, a.0, b.0, other.0),
            choose(self.1, a.1, b.1, other.1),
        )
    }
}

/// As [`super::power_of_two`].
#[inline(always)]
fn power_of_two(n: __m256) -> __m256 {
    unsafe {
        let n = _mm256_add_ps(n, _mm256_set1_ps(8_388_608.0 + 127.0));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(n)))
    }
}
