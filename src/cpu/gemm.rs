//! Matrix products, by the crate `gemm-f32`: the single precision of `gemm`.

use super::simd;
use gemm_common::Parallelism;
use gemm_common::cache::CACHE_INFO;
use gemm_f32::gemm::f32::get_gemm_fn;
use rayon::prelude::*;

/// A matrix that is read: entry (i, j) is `data[i * rows + j * columns]`.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    pub data: &'a [f32],
    /// Floats from one row to the next, and from one column to the next.
    pub strides: (usize, usize),
}

impl<'a> Matrix<'a> {
    /// Row after row, each `width` long.
    pub fn new(data: &'a [f32], width: usize) -> Matrix<'a> {
        Matrix {
            data,
            strides: (width, 1),
        }
    }

    /// The transpose.
    pub fn t(self) -> Matrix<'a> {
        Matrix {
            strides: (self.strides.1, self.strides.0),
            ..self
        }
    }

    /// Does it have this many rows and columns, one at least?
    pub(super) fn has(&self, rows: usize, columns: usize) -> bool {
        self.data.len() >= self.len(rows, columns)
    }

    fn len(&self, rows: usize, columns: usize) -> usize {
        1 + (rows - 1) * self.strides.0 + (columns - 1) * self.strides.1
    }
}

/// What products know of the processor's caches, by which they cut their operands: bytes and ways of each level. Other
/// caches, other last digits.
pub fn caches() -> String {
    let levels = CACHE_INFO.iter();
    let levels = levels.map(|level| format!("{}/{}", level.cache_bytes, level.associativity));
    levels.collect::<Vec<_>>().join(" ")
}

/// Rows and columns of a block of the result, the unit of parallel work: large blocks use packed operands
/// more often (packing is 7 % of a ViT at 256 rows, and more than half of the gradient of a weight of 384 rows at 64),
/// small ones give several threads something to do where there are few rows. A product of one head's attention is one
/// block.
fn block_shape((m, k, n): (usize, usize, usize)) -> (usize, usize) {
    match m {
        _ if m * k * n <= 1 << 19 => (m, n),
        0..=128 => (64, n.min(1024)),
        // Multiples of the crate's tiles of 6.
        129..=512 => (m.div_ceil(2).next_multiple_of(6), n.min(384)),
        _ => (
            m.div_ceil(8).next_multiple_of(6).clamp(252, 1020),
            n.min(768),
        ),
    }
}

/// `C = alpha A B + beta C` for A (m, k), B (k, n) and C (m, n), whose rows are `c_stride` floats apart.
/// With `beta == 0` C is not read.
///
/// Blocks of the result do not depend on the number of threads, nor does a block's order of summation. The
/// crate allocates a buffer for packed operands per block.
#[allow(clippy::too_many_arguments)]
pub fn gemm(
    (m, k, n): (usize, usize, usize),
    alpha: f32,
    a: Matrix,
    b: Matrix,
    beta: f32,
    c: &mut [f32],
    c_stride: usize,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(c_stride >= n && c.len() > (m - 1) * c_stride + n - 1);
    assert!(k == 0 || a.has(m, k) && b.has(k, n));
    let (height, width) = block_shape((m, k, n));
    let (down, across) = (m.div_ceil(height), n.div_ceil(width));
    let c = SharedMut(c.as_mut_ptr());
    #[cfg(target_arch = "x86_64")]
    let product = match simd::avx512_is_there() && !simd::wide() {
        true => by_avx2,
        false => get_gemm_fn(),
    };
    #[cfg(not(target_arch = "x86_64"))]
    let product = get_gemm_fn();
    let block = |index: usize| {
        let c = &c;
        let (i, j) = (index / across * height, index % across * width);
        let (rows, columns) = (height.min(m - i), width.min(n - j));
        let left = (a.data.as_ptr().wrapping_add(i * a.strides.0), a.strides);
        let right = (b.data.as_ptr().wrapping_add(j * b.strides.1), b.strides);
        let transposed = |(data, (down, right))| (data, (right, down));
        // Its kernels want C by columns: they compute the transpose, which lies there.
        let (m, n, c_strides, (a, a_strides), (b, b_strides)) = match c_stride {
            1 => (rows, columns, (1, 1), left, right),
            _ => (
                columns,
                rows,
                (1, c_stride),
                transposed(right),
                transposed(left),
            ),
        };
        // SAFETY: the assertions above; blocks of C are disjoint, so no two threads share an entry.
        unsafe {
            product(
                m,
                n,
                k,
                c.0.add(i * c_stride + j),
                c_strides.1 as isize,
                c_strides.0 as isize,
                beta != 0.0,
                a,
                a_strides.1 as isize,
                a_strides.0 as isize,
                b,
                b_strides.1 as isize,
                b_strides.0 as isize,
                beta,
                alpha,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    };
    if down * across == 1 {
        block(0);
    } else {
        (0..down * across).into_par_iter().for_each(block);
    }
}

/// A pointer whose users write to disjoint places.
struct SharedMut(*mut f32);

// SAFETY: see `gemm`, the only user.
unsafe impl Sync for SharedMut {}

/// What [`get_gemm_fn`] is on a processor without AVX-512. The crate goes by what is there; this names the kernels that it
/// takes where that is AVX2. How it cuts a product still follows the caches.
///
/// # Safety
/// All entries that sizes and strides reach are there.
#[cfg(target_arch = "x86_64")]
#[allow(clippy::too_many_arguments)]
unsafe fn by_avx2(
    m: usize,
    n: usize,
    k: usize,
    c: *mut f32,
    c_columns: isize,
    c_rows: isize,
    read_c: bool,
    a: *const f32,
    a_columns: isize,
    a_rows: isize,
    b: *const f32,
    b_columns: isize,
    b_rows: isize,
    beta: f32,
    alpha: f32,
    conj_c: bool,
    conj_a: bool,
    conj_b: bool,
    parallelism: Parallelism,
) {
    use gemm_common::gemm::gemm_basic_generic;
    use gemm_common::simd::{MixedSimd, V3};
    use gemm_f32::microkernel::fma::f32::{H_M, H_N, H_UKR, MR_DIV_N, NR, UKR};
    const LANES: usize = 8;
    let avx2 = <V3 as MixedSimd<f32, f32, f32, f32>>::try_new().expect("AVX-512 comes with AVX2");
    // SAFETY: the caller's promise.
    unsafe {
        gemm_basic_generic::<_, f32, LANES, { MR_DIV_N * LANES }, NR, MR_DIV_N, H_M, H_N>(
            avx2,
            m,
            n,
            k,
            c,
            c_columns,
            c_rows,
            read_c,
            a,
            a_columns,
            a_rows,
            b,
            b_columns,
            b_rows,
            beta,
            alpha,
            conj_c,
            conj_a,
            conj_b,
            |a, b, c| a * b + c,
            &UKR,
            &H_UKR,
            false,
            parallelism,
        );
    }
}
