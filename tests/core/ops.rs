//! Every op of the table: its gradient against finite differences, its forward repeated bit for bit.

use stepback_native::device::Device;
use stepback_native::ops::{Case, Example, ROWS};

fn example(case: &Case, seed: u64) -> Example {
    case.example(seed, Device::Cpu)
}

/// <upstream, y(values)>.
fn objective(example: &Example, values: &[f32]) -> f64 {
    let y = example.on_cpu(values).0;
    let terms = y.iter().zip(&example.upstream);
    terms.map(|(y, u)| f64::from(*y) * f64::from(*u)).sum()
}

#[test]
fn gradients_are_the_slopes() {
    for (row, case) in ROWS
        .iter()
        .flat_map(|r| r.cases.iter().map(move |c| (r, c)))
    {
        let example = example(case, 11);
        let (_, grad) = example.on_cpu(&example.params.values);
        let scale = grad.iter().fold(0.1f32, |m, g| m.max(g.abs()));
        for i in 0..grad.len() {
            // Richardson's extrapolation of two central differences.
            let slope = |h: f32| {
                let mut values = example.params.values.clone();
                let at = values[i];
                values[i] = at + h;
                let (up, high) = (objective(&example, &values), values[i]);
                values[i] = at - h;
                let (down, low) = (objective(&example, &values), values[i]);
                (up - down) / f64::from(high - low)
            };
            let expected = (4.0 * slope(0.02) - slope(0.04)) / 3.0;
            let error = (f64::from(grad[i]) - expected).abs() / f64::from(scale);
            assert!(
                error < 1e-3,
                "{} ({}): d/dx[{i}] is {}, the slope {expected}",
                row.name,
                case.about,
                grad[i]
            );
        }
    }
}

#[test]
fn a_second_run_gives_the_same_bits() {
    for case in ROWS.iter().flat_map(|r| r.cases) {
        let example = example(case, 12);
        let first = example.on_cpu(&example.params.values);
        let second = example.on_cpu(&example.params.values);
        assert_eq!(first, second, "{}", case.about);
    }
}

#[test]
fn every_op_has_cases() {
    assert!(ROWS.iter().all(|r| !r.cases.is_empty()));
    let mut names: Vec<_> = ROWS.iter().map(|r| r.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ROWS.len());
}
