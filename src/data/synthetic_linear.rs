//! `synthetic_linear`: a sparse design matrix with columns of equal norm and a linear target, or its sign.

use super::{Origin, Part, Request, Row, Split, TARGET_SEED, in_bounds};
use crate::config::{Entry, Key, Kind, Values};
use crate::error::{Error, Result};
use crate::graph::Sample;
use crate::random::numpy::RandomState;

pub const ROW: Row = Row {
    entry: Entry {
        name: "synthetic_linear",
        about: "random linear regression, or classification if the loss is logistic",
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
        name: "n_samples",
        kind: Kind::Count,
        default: None,
        about: "number of samples, of the training set and of the validation set",
    },
    Key {
        name: "noise",
        kind: Kind::Real,
        default: Some("0"),
        about: "standard deviation of the target's noise; if the loss is logistic, the share of labels flipped",
    },
    Key {
        name: "condition_number",
        kind: Kind::Checked("a finite number or null", |v| v.is_number() || v.is_null()),
        default: Some("null"),
        about: "has no effect, as in the reference",
    },
];

/// Every column of the design matrix gets this norm.
const COLUMN_NORM: f64 = 10.0;

fn create(request: &Request, part: Part) -> Result<Split> {
    let values = Values::new(KEYS, request.kwargs);
    let (p, n, noise) = (
        values.count("p"),
        values.count("n_samples"),
        values.real("noise"),
    );
    // Of 64 bits, then of 32.
    in_bounds("synthetic_linear", n, p, 12)?;
    let mut rng = RandomState::new(part.seed(request.run_id) as u32);
    let w = weights(p);
    let a = design(&mut rng, n, p)?;
    let mut b: Vec<f64> = a
        .chunks_exact(p)
        .map(|row| row.iter().zip(&w).map(|(a, w)| a * w).sum())
        .collect();
    if request.loss_func == "logistic" {
        for b in &mut b {
            let label = if *b >= 0.0 { 1.0 } else { -1.0 };
            *b = label * sign(rng.rand() - noise);
        }
    } else {
        for b in &mut b {
            *b += noise * rng.randn();
        }
    }
    let narrow = |v: Vec<f64>| v.into_iter().map(|x| x as f32).collect();
    Ok(Split::in_memory(
        narrow(a),
        narrow(b),
        Sample::Vector(p),
        vec![1],
    ))
}

/// The true weights, of norm 1 and the same for every run.
fn weights(p: usize) -> Vec<f64> {
    let mut rng = RandomState::new(TARGET_SEED);
    let mut w = rng.randn_vec(p);
    for w in &mut w {
        *w *= f64::from(u8::from(rng.rand() < 1.0));
    }
    let norm = w.iter().map(|w| w * w).sum::<f64>().sqrt();
    w.iter_mut().for_each(|w| *w /= norm);
    w
}

/// The design matrix, (n, p), row by row.
fn design(rng: &mut RandomState, n: usize, p: usize) -> Result<Vec<f64>> {
    let mut a = rng.randn_vec(n * p);
    a.iter_mut().for_each(|a| *a += 1.0);
    let scales: Vec<f64> = rng.randn_vec(p).into_iter().map(|s| 10.0 * s).collect();
    let density = 30.0 * (n as f64).ln() / n as f64;
    for row in a.chunks_exact_mut(p) {
        for (a, scale) in row.iter_mut().zip(&scales) {
            *a *= scale * f64::from(u8::from(rng.rand() < density));
        }
    }
    let mut norms = vec![0.0; p];
    for row in a.chunks_exact(p) {
        for (norm, a) in norms.iter_mut().zip(row) {
            *norm += a * a;
        }
    }
    for (i, row) in a.chunks_exact_mut(p).enumerate() {
        for (a, norm) in row.iter_mut().zip(&norms) {
            *a = COLUMN_NORM * *a / norm.sqrt().max(1e-6);
        }
        if row.iter().all(|a| *a == 0.0) {
            return Err(Error::usage(format!(
                "synthetic_linear with p = {p} and n_samples = {n}: sample {i} is all zero, because an \
                 entry is nonzero with probability {density:.3} only; use more features, or another n_samples"
            )));
        }
    }
    Ok(a)
}

/// numpy's sign, which is 0 for 0.
fn sign(x: f64) -> f64 {
    f64::from(u8::from(x > 0.0)) - f64::from(u8::from(x < 0.0))
}
