//! Suite `catalogue`.

use serde::Deserialize;
use serde_json::json;

use super::follow::{Case, Problem, given};
use super::optimizers::{WRAPPERS, WrappersFile};
use super::{Check, Context};
use crate::error::Result;

const FILE: &str = "catalogue.json";

/// Paths of single methods on the problem of [`WRAPPERS`].
#[derive(Deserialize)]
struct CatalogueFile {
    cases: Vec<Case>,
    /// Of every step, for methods that want another gradient than the problem's.
    second_gradients: Vec<Vec<f32>>,
    square: Square,
}

/// One square matrix, whose gradients' products with themselves have full rank. The loss is 0.
#[derive(Deserialize)]
struct Square {
    shapes: Vec<Vec<usize>>,
    initial: Vec<f32>,
    gradients: Vec<Vec<f32>>,
    cases: Vec<Case>,
}

/// Methods that round differently than the reference by more than 1e-5, and by how much.
const EXCEPTIONS: [(&[&str], f64); 4] = [
    // Its d feeds rounding back into every step.
    (&["prodigy"], 3e-4),
    // Five products of matrices amplify it.
    (&["muon"], 2e-5),
    // So do its bases: the reference is 1.7e-5 from the path with products in double.
    (&["soap"], 3e-5),
    // The step size is a difference of larger numbers over a square: in single in the reference, in double here.
    (&["momo-star-max", "momo-adam-star-max"], 2e-5),
];

pub fn catalogue(context: &Context) -> Result<Vec<Check>> {
    of_methods(context, |_| true)
}

/// The paths of some methods, by name.
fn of_methods(context: &Context, wanted: fn(&str) -> bool) -> Result<Vec<Check>> {
    let file = context.goldens.read::<CatalogueFile>(FILE)?;
    let problem = context.goldens.read::<WrappersFile>(WRAPPERS)?;
    let (Some(file), Some(problem)) = (file, problem) else {
        let why = format!("no {FILE} or no {WRAPPERS}");
        return Ok(vec![Check::skip("catalogue", why)]);
    };
    let mut paths = Check::new("paths, evaluated weights too, relative to it or 0.01", 1e-5);
    let mut exceptions = EXCEPTIONS.map(|(methods, tolerance)| {
        let about = format!("those of {}, likewise", methods.join(" and "));
        Check::new(about, tolerance)
    });
    // Single entries are up to 0.15 off: each rounding to bfloat16 is of 4e-3, and products of matrices amplify it.
    let mut bfloat16 = Check::new("those in bfloat16: norms of tensors", 5e-3);
    // As in suite optimizers: PyTorch on other processors is up to 3e-4 off.
    let mut scalars = Check::new("what they report, relative to the largest so far", 3e-4);

    let problem = problem.given();
    let losses = vec![0.0; problem.steps];
    let problem = Problem {
        second: given(losses.clone(), file.second_gradients),
        ..problem
    };
    let gradient = given(losses, file.square.gradients);
    let square = Problem {
        shapes: file.square.shapes,
        initial: file.square.initial,
        steps: problem.steps,
        kept_steps: problem.kept_steps.clone(),
        second: gradient.clone(),
        gradient,
    };
    let cases = file.cases.iter().map(|case| (case, &problem));
    let squares = file.square.cases.iter().map(|case| (case, &square));
    let all = cases.chain(squares);
    for (case, problem) in all.filter(|(case, _)| wanted(case.name())) {
        let optimizer = match case.optimizer() {
            Ok(optimizer) => optimizer,
            Err(e) => {
                paths.skip_for(e)?;
                continue;
            }
        };
        let path = case.follow(optimizer, problem, context.target)?;
        case.compare_scalars(&path, &mut scalars);
        if case.opt.get("ns_dtype") == Some(&json!("bfloat16")) {
            case.compare_norms(&path, problem, &mut bfloat16);
            continue;
        }
        let excepted = |(methods, _): &(&[&str], f64)| methods.contains(&case.name());
        let check = match EXCEPTIONS.iter().position(excepted) {
            Some(i) => &mut exceptions[i],
            None => &mut paths,
        };
        case.compare_weights(&path, problem, check);
    }
    let mut checks = vec![paths];
    checks.extend(exceptions);
    checks.extend([bfloat16, scalars]);
    // What no case is for yet is not worth a line; the skipped cases are in the first.
    checks.retain(|check| check.cases > 0 || !check.skipped.is_empty());
    Ok(checks)
}

#[cfg(all(test, emulator))]
mod tests {
    use super::*;
    use crate::device::{Device, Target};
    use crate::verify::{Goldens, Verdict};

    /// Whose bases the host changes between two steps.
    #[test]
    fn soap_follows_its_paths_by_kernels() {
        let context = Context {
            goldens: Goldens::packed(),
            data_dir: "data".into(),
            target: Target {
                device: Device::Emulator,
                precision: None,
            },
        };
        let checks = of_methods(&context, |name| name == "soap").unwrap();
        let [check] = &checks[..] else {
            panic!("{checks:?}");
        };
        assert_eq!(check.cases, 7);
        assert_eq!(check.verdict(), Verdict::Passed, "{check:?}");
    }
}
