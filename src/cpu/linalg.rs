//! Bases from matrices. A square matrix of n columns, or its basis, is n^2 numbers here, one column after the other.

use super::gemm::{Matrix, gemm};
use super::sum_of;
use nalgebra::{DMatrix, SymmetricEigen};

/// Eigenvectors of a symmetric matrix, largest eigenvalue first, by the crate `nalgebra`: in double, on one thread. If the
/// matrix holds what is not finite, so do they.
pub fn eigenvectors(matrix: &[f32], n: usize) -> Vec<f32> {
    if !matrix.iter().all(|x| x.is_finite()) {
        return vec![f32::NAN; n * n];
    }
    let numbers = matrix.iter().map(|x| f64::from(*x));
    let SymmetricEigen {
        eigenvectors,
        eigenvalues,
    } = DMatrix::from_iterator(n, n, numbers).symmetric_eigen();
    let columns = descending(eigenvalues.as_slice()).into_iter();
    let columns = columns.flat_map(|i| eigenvectors.column(i).iter().copied().collect::<Vec<_>>());
    columns.map(|x| x as f32).collect()
}

/// Columns of a panel: their reflections are applied to all columns behind them together.
const PANEL: usize = 32;

/// Q of a matrix Q R, by Householder's reflections. Those of a panel are together I - V T V^T with a triangular T, so that
/// nearly all work is products of matrices (R. Schreiber, C. Van Loan, "A Storage-Efficient WY Representation for Products of
/// Householder Transformations", 1989).
pub fn orthonormal(mut columns: Vec<f32>, n: usize) -> Vec<f32> {
    let mut reflections = vec![0.0; n * n];
    let mut triangles = Vec::new();
    for start in (0..n).step_by(PANEL) {
        let (panel, behind) = columns[start * n..].split_at_mut(PANEL.min(n - start) * n);
        let v = &mut reflections[start * n..][..panel.len()];
        let t = reflect(panel, v, start, n);
        apply(v, Matrix::new(&t, v.len() / n), start, behind, n);
        triangles.push(t);
    }
    let mut q = columns;
    q.fill(0.0);
    q.iter_mut().step_by(n + 1).for_each(|x| *x = 1.0);
    for (i, t) in triangles.iter().enumerate().rev() {
        let start = i * PANEL;
        let v = &reflections[start * n..][..PANEL.min(n - start) * n];
        let t = Matrix::new(t, v.len() / n).t();
        apply(v, t, start, &mut q[start * n..], n);
    }
    q
}

/// Takes what lies below the diagonal, which begins at `start`, off a panel's columns: V, in whose place are zeros, and T.
fn reflect(panel: &mut [f32], v: &mut [f32], start: usize, n: usize) -> Vec<f32> {
    let count = panel.len() / n;
    let mut t = vec![0.0; count * count];
    for j in 0..count {
        let (column, others) = panel[j * n..].split_at_mut(n);
        let (earlier, v) = v.split_at_mut(j * n);
        let v = &mut v[start + j..n];
        let weight = reflection(&column[start + j..], v);
        for other in others.chunks_exact_mut(n) {
            let other = &mut other[start + j..];
            let along = weight * dot(v, other);
            other.iter_mut().zip(&*v).for_each(|(x, v)| *x -= along * v);
        }
        let earlier = earlier.chunks_exact(n);
        let along: Vec<f32> = earlier.map(|other| dot(&other[start + j..], v)).collect();
        for i in 0..j {
            let row = &t[i * count..][i..j];
            let sum: f32 = row.iter().zip(&along[i..]).map(|(t, x)| t * x).sum();
            t[i * count + j] = -weight * sum;
        }
        t[j * count + j] = weight;
    }
    t
}

/// The reflection I - weight v v^T, with v = (1, ...), that leaves of a vector nothing but its first entry.
fn reflection(x: &[f32], v: &mut [f32]) -> f32 {
    let (first, others) = (f64::from(x[0]), &x[1..]);
    let squares: f64 = others.iter().map(|x| f64::from(*x).powi(2)).sum();
    v[0] = 1.0;
    if squares == 0.0 {
        return 0.0;
    }
    let norm = (first * first + squares).sqrt().copysign(first);
    for (v, x) in v[1..].iter_mut().zip(others) {
        *v = (f64::from(*x) / (first + norm)) as f32;
    }
    ((first + norm) / norm) as f32
}

/// Multiplies the transposes of columns by I - V T V^T from the right. V begins at `start`.
fn apply(v: &[f32], t: Matrix, start: usize, columns: &mut [f32], n: usize) {
    let (rows, count, width) = (columns.len() / n, v.len() / n, n - start);
    if rows == 0 {
        return;
    }
    let v = Matrix::new(&v[start..], n);
    let [mut along, mut turned] = [(); 2].map(|()| vec![0.0; rows * count]);
    let x = Matrix::new(&columns[start..], n);
    gemm((rows, width, count), 1.0, x, v.t(), 0.0, &mut along, count);
    let x = Matrix::new(&along, count);
    gemm((rows, count, count), 1.0, x, t, 0.0, &mut turned, count);
    let x = Matrix::new(&turned, count);
    gemm(
        (rows, count, width),
        -1.0,
        x,
        v,
        1.0,
        &mut columns[start..],
        n,
    );
}

fn dot(x: &[f32], y: &[f32]) -> f32 {
    sum_of(x, y, |x, y| x * y) as f32
}

/// The places of the values, largest first; of equal ones in their order.
pub fn descending(values: &[f64]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..values.len()).collect();
    places.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(x: &[f32], y: &[f32]) -> f64 {
        let terms = x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y));
        terms.sum()
    }

    fn is_basis(columns: &[f32], n: usize) -> bool {
        let columns: Vec<&[f32]> = columns.chunks_exact(n).collect();
        (0..n * n).all(|i| {
            let expected = f64::from(u8::from(i / n == i % n));
            (dot(columns[i / n], columns[i % n]) - expected).abs() < 1e-5
        })
    }

    /// G G^T for G (n, rank).
    fn gram(n: usize, rank: usize) -> Vec<f32> {
        let g = |i: usize, j: usize| ((i * rank + j) as f32).sin();
        let entry = |i: usize| (0..rank).map(|j| g(i / n, j) * g(i % n, j)).sum();
        (0..n * n).map(entry).collect()
    }

    #[test]
    fn eigenvectors_come_by_eigenvalue_and_are_a_basis_where_these_are_equal() {
        for (n, rank) in [(1, 1), (2, 1), (30, 50), (30, 3), (9, 0)] {
            let matrix = gram(n, rank);
            let vectors = eigenvectors(&matrix, n);
            assert!(is_basis(&vectors, n));
            let mut last = f64::INFINITY;
            let scale = dot(&matrix, &matrix).sqrt();
            for vector in vectors.chunks_exact(n) {
                let image = matrix.chunks_exact(n).map(|row| dot(row, vector) as f32);
                let image: Vec<f32> = image.collect();
                let value = dot(&image, vector);
                assert!(value <= last + 1e-5 * scale);
                last = value;
                for (x, y) in image.iter().zip(vector) {
                    assert!((f64::from(*x) - value * f64::from(*y)).abs() <= 1e-5 * scale);
                }
            }
        }
        assert!(eigenvectors(&[1.0, f32::NAN, 0.0, 1.0], 2)[0].is_nan());
    }

    /// The first columns span what they spanned before.
    #[test]
    fn orthonormal_columns_span_the_same() {
        for (n, rank) in [(1, 1), (30, 50), (70, 90), (70, 3), (4, 0)] {
            let matrix = gram(n, rank);
            let q = orthonormal(matrix.clone(), n);
            assert!(is_basis(&q, n));
            for (i, column) in matrix.chunks_exact(n).enumerate() {
                let within = q.chunks_exact(n).take(i + 1);
                let within: f64 = within.map(|q| dot(q, column).powi(2)).sum();
                assert!((within - dot(column, column)).abs() <= 1e-4 * dot(column, column));
            }
        }
    }

    #[test]
    fn places_go_by_value_and_keep_their_order() {
        assert_eq!(descending(&[1.0, 3.0, -1.0, 3.0]), [1, 3, 0, 2]);
    }
}
