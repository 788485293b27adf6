//! Every op: its gradient against finite differences, the same bits twice, its kernels against the CPU bodies.

use std::fmt::Display;

use crate::common::kernels::{ALL, machines, on, on_cpu};
use crate::trial;
use libtest_mimic::Trial;
use stepback_native::device::Device;
use stepback_native::device::gpu::Precision;
use stepback_native::ops::{Case, Data, Example, ROWS, distance};

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![trial("ops::every_op_has_cases".into(), every_op_has_cases)];
    let cases = || {
        ROWS.iter()
            .flat_map(|r| r.cases.iter().map(|c| (r.name, c)))
    };
    for (op, case) in cases() {
        trials.push(trial(name(op, "gradients_are_slopes", case), || {
            gradients_are_slopes(case);
        }));
        trials.push(trial(name(op, "same_bits_again", case), || {
            same_bits_again(case);
        }));
    }
    for (op, case) in cases().chain(LARGE.iter().map(|(op, case)| (*op, case))) {
        for (precision, tolerance) in [(Precision::Fp32, 1e-5), (Precision::Tf32, 2e-3)] {
            let what = format!("kernels_in_{}", precision.name());
            trials.push(trial(name(op, what, case), move || {
                kernels_agree(case, precision, tolerance);
            }));
        }
    }
    trials
}

fn name(op: &str, what: impl Display, case: &Case) -> String {
    format!("ops::{op}::{what} ({})", case.about)
}

fn every_op_has_cases() {
    assert!(ROWS.iter().all(|r| !r.cases.is_empty()));
    let mut names: Vec<_> = ROWS.iter().map(|r| r.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ROWS.len());
}

/// <upstream, y(values)>.
fn objective(example: &Example, values: &[f32]) -> f64 {
    let y = example.on_cpu(values).0;
    let terms = y.iter().zip(&example.upstream);
    terms.map(|(y, u)| f64::from(*y) * f64::from(*u)).sum()
}

fn gradients_are_slopes(case: &Case) {
    let example = case.example(11, Device::Cpu);
    let (_, grad) = on_cpu(&example);
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
            "d/dx[{i}] is {}, the slope {expected}",
            grad[i]
        );
    }
}

fn same_bits_again(case: &Case) {
    let example = case.example(12, Device::Cpu);
    assert_eq!(on_cpu(&example), on_cpu(&example));
}

/// Under several schedules of the emulator, and on a GPU where there is one.
fn kernels_agree(case: &Case, precision: Precision, tolerance: f32) {
    let (y, grad) = on_cpu(&case.example(21, Device::Cpu));
    for machine in machines(ALL) {
        let example = case.example(21, machine.device);
        let [first, second] = on(&example, &machine, precision);
        for (what, ours, expected) in [("y", &first.0, &y), ("gradient", &first.1, &grad)] {
            let error = distance(ours, expected);
            assert!(
                error <= tolerance,
                "{what} is {error:.1e} off, {:?}",
                machine.device
            );
        }
        let bits = |v: &(Vec<f32>, Vec<f32>)| -> Vec<u32> {
            v.0.iter().chain(&v.1).map(|x| x.to_bits()).collect()
        };
        assert!(
            bits(&first) == bits(&second),
            "a second run differs, {:?}",
            machine.device
        );
    }
}

/// Sizes at which finite differences would take too long: several blocks of everything, those of the experiments, and
/// one too long for the kernels that hold all in shared memory. And labels that are drawn, which have no slopes: others
/// are drawn at other values.
const LARGE: &[(&str, Case)] = &[
    (
        "cross_entropy",
        Case::new("7 rows, 5 classes, drawn", &[&[7, 5]], |x| {
            x[0].cross_entropy_of_draws(x[1])
        })
        .with_data(&[7, 1], Data::Targets(5)),
    ),
    (
        "cross_entropy",
        Case::new("300 rows, 35 classes, drawn", &[&[300, 35]], |x| {
            x[0].cross_entropy_of_draws(x[1])
        })
        .with_data(&[300, 1], Data::Indices(&[35])),
    ),
    (
        "layer_norm",
        Case::new("70 rows of 512", &[&[70, 512], &[512], &[512]], |x| {
            x[0].layer_norm(x[1], x[2])
        }),
    ),
    (
        "layer_norm",
        Case::new("19 rows of 768", &[&[19, 768], &[768], &[768]], |x| {
            x[0].layer_norm(x[1], x[2])
        }),
    ),
    (
        "layer_norm",
        Case::new("3 rows of 1100", &[&[3, 1100], &[1100], &[1100]], |x| {
            x[0].layer_norm(x[1], x[2])
        }),
    ),
    (
        "layer_norm",
        Case::new("4300 rows of 9", &[&[4300, 9], &[9], &[9]], |x| {
            x[0].layer_norm(x[1], x[2])
        }),
    ),
    (
        "rms_norm",
        Case::new("70 rows of 384", &[&[70, 384], &[384]], |x| {
            x[0].rms_norm(x[1], 1e-6)
        }),
    ),
    (
        "rms_norm",
        Case::new("19 rows of 768", &[&[19, 768], &[768]], |x| {
            x[0].rms_norm(x[1], 1e-6)
        }),
    ),
    (
        "rms_norm",
        Case::new("3 rows of 1100", &[&[3, 1100], &[1100]], |x| {
            x[0].rms_norm(x[1], 1e-6)
        }),
    ),
    (
        "rms_norm",
        Case::new("4300 rows of 9", &[&[4300, 9], &[9]], |x| {
            x[0].rms_norm(x[1], 1e-6)
        }),
    ),
    (
        "gelu",
        Case::new("5003 values", &[&[5003]], |x| x[0].gelu()),
    ),
    (
        "silu",
        Case::new("5003 values", &[&[5003]], |x| x[0].silu()),
    ),
    (
        "relu_squared",
        Case::new("5003 values", &[&[5003]], |x| x[0].relu_squared()),
    ),
    (
        "swiglu",
        Case::new("70 rows of twice 72", &[&[70, 144]], |x| x[0].swiglu()),
    ),
    (
        "token_embedding",
        Case::new("1200 tokens of 384, 92 codes", &[&[92, 384]], |x| {
            x[0].token_embedding(x[1])
        })
        .with_data(&[4, 300], Data::Indices(&[92])),
    ),
    (
        "token_embedding",
        Case::new("3000 tokens of 516, 7 codes", &[&[7, 516]], |x| {
            x[0].token_embedding(x[1])
        })
        .with_data(&[1, 3000], Data::Indices(&[7])),
    ),
    (
        "token_embedding",
        Case::new("1100 tokens of 131, 2200 codes", &[&[2200, 131]], |x| {
            x[0].token_embedding(x[1])
        })
        .with_data(&[11, 100], Data::Indices(&[2200])),
    ),
    (
        "cross_entropy",
        Case::new("300 rows, 92 classes, some left out", &[&[300, 92]], |x| {
            x[0].cross_entropy(x[1])
        })
        .with_data(&[300, 1], Data::Targets(92)),
    ),
    (
        "attention",
        Case::new("65 tokens, 2 heads of 64", &[&[1, 65, 384]], |x| {
            x[0].attention(2, None, 0.1)
        }),
    ),
    (
        "attention",
        Case::new(
            "windows of 16, 3 heads of 32",
            &[&[4, 16, 288], &[2, 16, 16]],
            |x| x[0].attention(3, Some(x[1]), 0.0),
        ),
    ),
    (
        "attention",
        Case::new(
            "40 tokens, 2 heads of 12, a bias",
            &[&[2, 40, 72], &[1, 40, 40]],
            |x| x[0].attention(2, Some(x[1]), 0.1),
        ),
    ),
    (
        "attention",
        Case::new("32 tokens of 20", &[&[1, 32, 60]], |x| {
            x[0].attention(1, None, 0.0)
        }),
    ),
    (
        "attention",
        Case::new("197 tokens of 8", &[&[1, 197, 24], &[1, 197, 197]], |x| {
            x[0].attention(1, Some(x[1]), 0.1)
        }),
    ),
    (
        "attention",
        Case::new("37 tokens of 5", &[&[2, 37, 15]], |x| {
            x[0].attention(1, None, 0.1)
        }),
    ),
    (
        "causal_attention",
        Case::new(
            "turned, 130 tokens, 2 heads of 64",
            &[&[1, 130, 384]],
            |x| x[0].causal_attention(2, Some(500_000.0)),
        ),
    ),
    (
        "causal_attention",
        Case::new("64 tokens, 3 heads of 8", &[&[2, 64, 72]], |x| {
            x[0].causal_attention(3, None)
        }),
    ),
    (
        "causal_attention",
        Case::new("turned, 129 tokens, a head of 22", &[&[1, 129, 66]], |x| {
            x[0].causal_attention(1, Some(10_000.0))
        }),
    ),
    (
        "causal_attention",
        Case::new("turned, 70 tokens, a head of 192", &[&[1, 70, 576]], |x| {
            x[0].causal_attention(1, Some(500_000.0))
        }),
    ),
    (
        "causal_attention",
        Case::new("66 tokens, a head of 250", &[&[1, 66, 750]], |x| {
            x[0].causal_attention(1, None)
        }),
    ),
    (
        "windows",
        Case::new("windows of 8x8 pixels of 96", &[&[3, 8, 8, 96]], |x| {
            x[0].windows(4, 2)
        }),
    ),
    (
        "windows",
        Case::new("700 images merged", &[&[700, 2, 2, 3]], |x| {
            x[0].merge_pixels(2)
        }),
    ),
    (
        "embed_tokens",
        Case::new(
            "tokens of 64 for 20 sequences of 65",
            &[&[20, 64, 64], &[1, 1, 64], &[1, 65, 64]],
            |x| x[0].embed_tokens(x[1], x[2]),
        ),
    ),
];
