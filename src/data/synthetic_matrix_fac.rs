//! `synthetic_matrix_fac`: an ill-conditioned linear map, to be learnt as a product of two matrices.

use super::{Origin, Part, Request, Row, Split, TARGET_SEED, in_bounds};
use crate::config::{Entry, Key, Kind, Values};
use crate::error::Result;
use crate::graph::Sample;
use crate::random::numpy::RandomState;

pub const ROW: Row = Row {
    entry: Entry {
        name: "synthetic_matrix_fac",
        about: "a random linear map with a prescribed condition number",
        paper: "",
        keys: KEYS,
    },
    origin: Origin::Computed(create),
};

const KEYS: &[Key] = &[
    Key {
        name: "p",
        kind: Kind::Count,
        default: None,
        about: "number of features",
    },
    Key {
        name: "q",
        kind: Kind::Count,
        default: None,
        about: "number of targets",
    },
    Key {
        name: "n_samples",
        kind: Kind::Count,
        default: None,
        about: "number of samples, of the training set and of the validation set",
    },
    Key {
        name: "noise",
        kind: Kind::Real,
        default: Some("0"),
        about: "relative noise of the training set's map, if above 0",
    },
    Key {
        name: "condition_number",
        kind: Kind::Positive,
        default: Some("1e-5"),
        about: "scale of the last row of the map, relative to the first",
    },
];

fn create(request: &Request, part: Part) -> Result<Split> {
    let values = Values::new(KEYS, request.kwargs);
    let (p, q, n) = (
        values.count("p"),
        values.count("q"),
        values.count("n_samples"),
    );
    // The columns and the map are of 64 bits, x and y of 32.
    in_bounds("synthetic_matrix_fac", n.max(q), p.max(q), 24)?;
    let map = map(&values, p, q, part);
    let mut rng = RandomState::new(part.seed(request.run_id) as u32);
    // (p, n): samples are the columns, and become the rows here.
    let columns = rng.randn_vec(p * n);
    let mut x = Vec::with_capacity(n * p);
    let mut y = Vec::with_capacity(n * q);
    for sample in 0..n {
        let column = || columns.iter().skip(sample).step_by(n);
        x.extend(column().map(|v| *v as f32));
        let products = map.chunks_exact(p);
        y.extend(
            products.map(|row| row.iter().zip(column()).map(|(t, x)| t * x).sum::<f64>() as f32),
        );
    }
    Ok(Split::in_memory(x, y, Sample::Vector(p), vec![q]))
}

/// The map, (q, p), row by row.
fn map(values: &Values, p: usize, q: usize, part: Part) -> Vec<f64> {
    let (noise, condition) = (values.real("noise"), values.real("condition_number"));
    let mut rng = RandomState::new(TARGET_SEED);
    let mut map = rng.rand_vec(q * p);
    for (row, scale) in map.chunks_exact_mut(p).zip(logspace(condition.log10(), q)) {
        row.iter_mut().for_each(|t| *t *= scale);
    }
    if part == Part::Train && noise > 0.0 {
        for t in &mut map {
            *t *= 1.0 + noise * (2.0 * rng.rand() - 1.0);
        }
    }
    map
}

/// numpy's `logspace(0, stop, count)`.
fn logspace(stop: f64, count: usize) -> impl Iterator<Item = f64> {
    let last = count - 1;
    let step = stop / last as f64;
    (0..count).map(move |i| match i {
        0 => 1.0,
        i if i == last => 10f64.powf(stop),
        i => 10f64.powf(i as f64 * step),
    })
}
