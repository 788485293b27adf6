//! Sharpness-aware minimisation around any method: its gradient is the one at the worst weights nearby.
//!
//! Papers: P. Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", ICLR 2021,
//! arXiv:2010.01412; J. Kwon et al., "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep
//! Neural Networks", ICML 2021, arXiv:2102.11600.
//!
//! Before every step of the method, with s = 1, or s = |w| if adaptive, and the norm over all parameters:
//!
//! ```text
//! e = rho s^2 g / (|s g| + 1e-12)
//! f, g = loss and gradient of the same batch at w + e
//! ```
//!
//! State: start, the weights to come back to. Running averages of batch norm see the first pass alone.

use super::{AnyMethod, At, Memory, Method, StateVector, Update, Vectors};
use crate::config::{Key, Kind, Values};
use crate::device::Program;
use crate::device::gpu::{elementwise, kernels};
use crate::device::program::{floats, floats_mut};
use crate::error::Result;
use crate::graph::Tensor;

pub(super) const RHO: Key = Key {
    name: "sam_rho",
    kind: Kind::NonNegative,
    default: Some("0"),
    about: "how far SAM looks for worse weights (0.05 is usual); 0: no SAM (Foret et al. 2021, arXiv:2010.01412)",
};

pub(super) const ADAPTIVE: Key = Key {
    name: "sam_adaptive",
    kind: Kind::Flag,
    default: Some("false"),
    about: "SAM measures the way relative to the weights (Kwon et al. 2021, arXiv:2102.11600)",
};

struct Sam {
    rho: f32,
    adaptive: bool,
}

/// What a run's optimizer object asks for.
pub(super) fn wrapper(values: &Values) -> Option<Box<dyn AnyMethod>> {
    let (rho, adaptive) = (values.real(RHO.name) as f32, values.flag(ADAPTIVE.name));
    (rho > 0.0).then(|| Box::new(Sam { rho, adaptive }) as Box<dyn AnyMethod>)
}

impl Method for Sam {
    type Coefficients = ();
    type Scalars = ();

    fn memory(&self, _: &[Tensor]) -> Memory {
        Memory {
            vectors: StateVector::zeros(["start"]),
            ..Memory::default()
        }
    }

    fn coefficients(&mut self, _: At) {}

    fn changes_gradient(&self) -> bool {
        true
    }

    fn before(&self, u: &Update<Self>, program: &mut Program) -> Result<()> {
        let ([start], grid, n) = (u.vectors(), elementwise(u.w.len), u.n());
        match program.on_host() {
            true => self.ascend_on_host(u, program),
            false => {
                let (blocks, adaptive) = (u.sum_blocks(), i32::from(self.adaptive));
                kernels::sam_sums(program, blocks, u.w, u.g, u.partial, adaptive, n);
                let (sums, rho) = (blocks as i32, self.rho);
                kernels::sam_ascend(
                    program, grid, u.w, u.g, start, u.partial, sums, rho, adaptive, n,
                );
            }
        }
        u.gradient(program)?;
        if program.on_host() {
            let (from, to) = ([start.into()], [u.w.into()]);
            program.host("sam_return", from, to, |[start], [w]| {
                floats_mut(w).copy_from_slice(floats(start));
            });
        } else {
            kernels::sam_return(program, grid, start, u.w, n);
        }
        Ok(())
    }
}

impl Sam {
    fn ascend_on_host(&self, u: &Update<Self>, program: &mut Program) {
        let Sam { rho, adaptive } = *self;
        let scale = move |w: f32| if adaptive { w.abs() } else { 1.0 };
        u.host(program, "sam_ascend", move |mut step| {
            let [squares] = step
                .vectors()
                .sum_pieces(move |Vectors { w, g, state: [_] }| {
                    let terms = w.iter().zip(g).map(|(&w, &g)| scale(w) * g);
                    [terms.map(|x| f64::from(x * x)).sum()]
                });
            let length = rho / ((squares as f32).sqrt() + 1e-12);
            step.vectors().for_pieces(
                move |Vectors {
                          w,
                          g,
                          state: [start],
                      }| {
                    for ((w, g), start) in w.iter_mut().zip(g).zip(start) {
                        *start = *w;
                        let s = scale(*w);
                        *w += s * s * g * length;
                    }
                },
            );
        });
    }
}
