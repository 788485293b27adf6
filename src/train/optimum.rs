//! The optimal training objective of linear models: mean loss plus wd/2 |w|^2, the bias included.
//!
//! Newton's method in f64, each direction by conjugate gradients on Hessian products, so that no
//! matrix is formed. For the squared loss one Newton step is the solution; for the logistic loss the step is
//! halved until the objective falls. Separable data without weight decay have the infimum 0, which the
//! iteration approaches until the gradient is below the tolerance.

use crate::data::Split;

/// The losses whose optimum is known how to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Squared,
    Logistic,
}

impl Loss {
    /// Value, first and second derivative in the output f, for the target y.
    fn at(self, f: f64, y: f64) -> (f64, f64, f64) {
        match self {
            Loss::Squared => ((f - y).powi(2), 2.0 * (f - y), 2.0),
            Loss::Logistic => {
                let m = -y * f;
                // ln(1 + exp(m)) without overflow.
                let value = m.max(0.0) + (-m.abs()).exp().ln_1p();
                let p = 1.0 / (1.0 + (-m).exp());
                (value, -y * p, p * (1.0 - p))
            }
        }
    }
}

/// Samples as rows, a column of ones behind the features if there is a bias.
struct Problem {
    loss: Loss,
    columns: usize,
    rows: Vec<f64>,
    targets: Vec<f64>,
    weight_decay: f64,
}

/// Newton steps at most. Each takes a separable logistic problem's objective down by a factor e.
const NEWTON_STEPS: usize = 60;

/// Larger problems are not solved: the rows are kept in memory as f64.
const MAX_ENTRIES: usize = 1 << 26;

/// The least value of the training objective of the model `linear`, or `None` for losses other than
/// `squared` and `logistic`, for class labels, and for problems too large to be solved on the side.
pub fn optimum(loss: &str, data: &Split, weight_decay: f64, bias: bool) -> Option<f64> {
    let loss = match loss {
        "squared" => Loss::Squared,
        "logistic" => Loss::Logistic,
        _ => return None,
    };
    let (n, features) = (data.len(), data.sample().len());
    let columns = features + usize::from(bias);
    if data.classes().is_some() || data.target_shape() != [1] || n * columns > MAX_ENTRIES {
        return None;
    }
    let (mut x, mut y) = (vec![0.0; features], vec![0.0; 1]);
    let mut problem = Problem {
        loss,
        columns,
        rows: Vec::with_capacity(n * columns),
        targets: Vec::with_capacity(n),
        weight_decay,
    };
    for i in 0..n as u32 {
        data.gather(&[i], &[], &mut x, &mut y);
        problem.rows.extend(x.iter().map(|x| f64::from(*x)));
        problem.rows.extend(bias.then_some(1.0));
        problem.targets.push(f64::from(y[0]));
    }
    Some(problem.minimum())
}

impl Problem {
    fn minimum(&self) -> f64 {
        let mut w = vec![0.0; self.columns];
        let (mut value, mut gradient, mut curvature) = self.expand(&w);
        for _ in 0..NEWTON_STEPS {
            if dot(&gradient, &gradient) < 1e-24 {
                break;
            }
            let direction = self.newton_direction(&gradient, &curvature);
            let mut step = 1.0;
            loop {
                let trial: Vec<f64> = std::iter::zip(&w, &direction)
                    .map(|(w, d)| w - step * d)
                    .collect();
                let next = self.expand(&trial);
                if next.0 < value {
                    w = trial;
                    (value, gradient, curvature) = next;
                    break;
                }
                step /= 2.0;
                if step < 1e-10 {
                    return value;
                }
            }
        }
        value
    }

    fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.rows.chunks_exact(self.columns)
    }

    /// Objective, gradient, and the second derivative of each sample's loss.
    fn expand(&self, w: &[f64]) -> (f64, Vec<f64>, Vec<f64>) {
        let n = self.targets.len() as f64;
        let mut value = 0.5 * self.weight_decay * dot(w, w);
        let mut gradient: Vec<f64> = w.iter().map(|w| self.weight_decay * w).collect();
        let mut curvature = Vec::with_capacity(self.targets.len());
        for (x, y) in self.rows().zip(&self.targets) {
            let (f, first, second) = self.loss.at(dot(x, w), *y);
            value += f / n;
            add_scaled(&mut gradient, first / n, x);
            curvature.push(second / n);
        }
        (value, gradient, curvature)
    }

    /// H^-1 g by conjugate gradients.
    fn newton_direction(&self, gradient: &[f64], curvature: &[f64]) -> Vec<f64> {
        let mut d = vec![0.0; self.columns];
        let mut r = gradient.to_vec();
        let mut p = r.clone();
        let mut rr = dot(&r, &r);
        let target = 1e-28 * rr;
        for _ in 0..4 * self.columns.max(25) {
            if rr <= target {
                break;
            }
            let mut hp: Vec<f64> = p.iter().map(|p| self.weight_decay * p).collect();
            for (x, c) in self.rows().zip(curvature) {
                add_scaled(&mut hp, c * dot(x, &p), x);
            }
            let curvature_along_p = dot(&p, &hp);
            if curvature_along_p <= 0.0 {
                break;
            }
            let alpha = rr / curvature_along_p;
            add_scaled(&mut d, alpha, &p);
            add_scaled(&mut r, -alpha, &hp);
            let next = dot(&r, &r);
            for (p, r) in p.iter_mut().zip(&r) {
                *p = r + next / rr * *p;
            }
            rr = next;
        }
        d
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    std::iter::zip(a, b).map(|(a, b)| a * b).sum()
}

fn add_scaled(y: &mut [f64], scale: f64, x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += scale * x);
}
