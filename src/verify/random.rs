//! Suites `random` and `sampler`.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::goldens::numbers;
use super::{Check, Context};
use crate::data::Loader;
use crate::error::Result;
use crate::random::numpy::RandomState;
use crate::random::torch::Generator;

#[derive(Deserialize)]
struct RandomFile {
    torch_cpu_generator: Map<String, Value>,
    numpy_randomstate: Map<String, Value>,
}

/// Normals go through a logarithm, a square root, a sine and a cosine in f32, which PyTorch computes by other code on
/// every instruction set: absolute, since a sine near zero has lost digits.
const NORMAL_F32: f64 = 2e-6;
/// The same in f64 by numpy, relative.
const NORMAL_F64: f64 = 4.0 * f64::EPSILON;

pub fn generators(context: &Context) -> Result<Vec<Check>> {
    const FILE: &str = "rng.json";
    let Some(file) = context.goldens.read::<RandomFile>(FILE)? else {
        return Ok(vec![Check::skip("draws", format!("no {FILE}"))]);
    };
    let mut exact = Check::new("torch: integers, uniforms, permutations", 0.0);
    let mut normal = Check::new("torch: normals, absolute", NORMAL_F32);
    let mut numpy = Check::new("numpy", NORMAL_F64);
    let seed = |text: &str| {
        let parsed = text.parse::<u64>();
        parsed.map_err(|e| context.goldens.damaged(FILE, &format!("seed {text}: {e}")))
    };
    for (seed_text, cases) in &file.torch_cpu_generator {
        let generator = Generator::new(seed(seed_text)?);
        for (name, expected) in cases.as_object().into_iter().flatten() {
            let is_normal = name.contains("randn") || name.starts_with("normal");
            let check = if is_normal { &mut normal } else { &mut exact };
            let Some(ours) = torch_draws(name, expected, generator.clone()) else {
                check.skipped.push(format!("draw {name} is not known"));
                continue;
            };
            check.cases += 1;
            let (theirs, at) = (numbers(expected), format!("seed {seed_text} {name}"));
            match is_normal {
                true => check.compare_all_by(&ours, &theirs, |_| 1.0, &at),
                false => check.compare_all(&ours, &theirs, &at),
            }
        }
    }
    for (seed_text, cases) in &file.numpy_randomstate {
        let seed = seed(seed_text)? as u32;
        for (name, expected) in cases.as_object().into_iter().flatten() {
            match numpy_draws(name, RandomState::new(seed)) {
                None => numpy.skipped.push(format!("draw {name} is not known")),
                Some(ours) => {
                    numpy.cases += 1;
                    numpy.compare_all(
                        &ours,
                        &numbers(expected),
                        &format!("seed {seed_text} {name}"),
                    );
                }
            }
        }
    }
    Ok(vec![exact, normal, numpy])
}

/// What a golden case of torch's generator names: `rand_40`, `randn_7_then_randn_32`, ...
fn torch_draws(name: &str, expected: &Value, mut g: Generator) -> Option<Vec<f64>> {
    let floats = |values: &[f32]| values.iter().map(|x| f64::from(*x)).collect();
    let parts: Vec<&str> = name.split('_').collect();
    let times = |text: &str| text.strip_prefix('x')?.parse::<usize>().ok();
    match parts[..] {
        ["randint31", n] => Some((0..times(n)?).map(|_| g.randint(1 << 31) as f64).collect()),
        ["random64", n] => Some((0..times(n)?).map(|_| g.random64() as f64).collect()),
        ["randint", low, high, n] => {
            let (low, high): (i64, i64) = (low.parse().ok()?, high.parse().ok()?);
            let span = u64::try_from(high - low).ok()?;
            let draws = (0..times(n)?).map(|_| (low + g.randint(span) as i64) as f64);
            Some(draws.collect())
        }
        ["rand1", n] => Some((0..times(n)?).map(|_| f64::from(g.rand1())).collect()),
        ["normal", mean, std, shape] => {
            let mut values = vec![0.0; count(shape)?];
            g.normal(&mut values, decimal(mean)? as f32, decimal(std)? as f32);
            Some(floats(&values))
        }
        ["uniform", low, high, shape] => {
            let mut values = vec![0.0; count(shape)?];
            g.uniform(&mut values, decimal(low)? as f32, decimal(high)? as f32);
            Some(floats(&values))
        }
        ["randperm", n] => Some(integers(&g.randperm(n.parse().ok()?))),
        ["randperm", n, "weighted"] => Some(vec![weighted(&g.randperm(n.parse().ok()?))]),
        ["randperm", n, first] => {
            let first: usize = first.strip_prefix("first")?.parse().ok()?;
            Some(integers(g.randperm(n.parse().ok()?).get(..first)?))
        }
        // A layer's weight, then its bias, both uniform in ±1/sqrt(fan in).
        ["linear", inputs, outputs, "bias"] => layer(
            &mut g,
            inputs.parse().ok()?,
            outputs.parse().ok()?,
            expected,
        ),
        ["conv2d", inputs, outputs, kernel, "bias"] => {
            let (inputs, kernel): (usize, usize) = (inputs.parse().ok()?, kernel.parse().ok()?);
            layer(
                &mut g,
                inputs * kernel * kernel,
                outputs.parse().ok()?,
                expected,
            )
        }
        _ => {
            let mut values = Vec::new();
            for part in name.split("_then_") {
                let (kind, n) = part.split_once('_')?;
                let mut draws = vec![0.0; n.parse().ok()?];
                match kind {
                    "rand" => g.uniform(&mut draws, 0.0, 1.0),
                    "randn" => g.normal(&mut draws, 0.0, 1.0),
                    _ => return None,
                }
                values.extend(draws);
            }
            Some(floats(&values))
        }
    }
}

/// A layer's weight and bias; of the weight, as many values as the golden file shows.
fn layer(g: &mut Generator, fan_in: usize, outputs: usize, expected: &Value) -> Option<Vec<f64>> {
    let bound = (1.0 / (fan_in as f64).sqrt()) as f32;
    let (mut weight, mut bias) = (vec![0.0; fan_in * outputs], vec![0.0; outputs]);
    g.uniform(&mut weight, -bound, bound);
    g.uniform(&mut bias, -bound, bound);
    let shown = |tensor: usize| numbers(&expected[tensor]).len();
    let values = weight.get(..shown(0))?.iter().chain(bias.get(..shown(1))?);
    Some(values.map(|x| f64::from(*x)).collect())
}

/// What a golden case of numpy's RandomState names: `randn_7`, `randn3_rand2_randn2_rand1`, ...
fn numpy_draws(name: &str, mut r: RandomState) -> Option<Vec<f64>> {
    if let Some(n) = name.strip_prefix("permutation_") {
        return Some(integers(&r.permutation(n.parse().ok()?)));
    }
    let joined = ["rand_", "randn_"].iter().find(|p| name.starts_with(*p));
    let parts: Vec<String> = match joined {
        Some(_) => vec![name.replacen('_', "", 1)],
        None => name.split('_').map(str::to_owned).collect(),
    };
    let mut values = Vec::new();
    for part in parts {
        let digits = part.find(|c: char| c.is_ascii_digit())?;
        let n: usize = part[digits..].parse().ok()?;
        match &part[..digits] {
            "rand" => values.extend(r.rand_vec(n)),
            "randn" => values.extend(r.randn_vec(n)),
            _ => return None,
        }
    }
    Some(values)
}

/// "m0p2" is -0.2.
fn decimal(text: &str) -> Option<f64> {
    text.replace('m', "-").replace('p', ".").parse().ok()
}

/// "3x7" is 21.
fn count(shape: &str) -> Option<usize> {
    shape.split('x').map(|d| d.parse::<usize>().ok()).product()
}

fn integers(values: &[u32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

/// The sum of order[i] (i mod 1009).
fn weighted(order: &[u32]) -> f64 {
    let terms = order.iter().enumerate();
    terms
        .map(|(i, v)| u64::from(*v) * (i as u64 % 1009))
        .sum::<u64>() as f64
}

#[derive(Deserialize)]
struct SamplerFile {
    cases: Vec<SamplerCase>,
}

#[derive(Deserialize)]
struct SamplerCase {
    n: usize,
    batch_size: usize,
    run_id: u64,
    epochs: Vec<SamplerEpoch>,
}

#[derive(Deserialize)]
struct SamplerEpoch {
    batches: usize,
    first: Vec<u32>,
    last: Vec<u32>,
    weighted: u64,
}

pub fn sampler(context: &Context) -> Result<Vec<Check>> {
    const FILE: &str = "sampler.json";
    let Some(file) = context.goldens.read::<SamplerFile>(FILE)? else {
        return Ok(vec![Check::skip("order of samples", format!("no {FILE}"))]);
    };
    let mut check = Check::new("order of samples", 0.0);
    for case in &file.cases {
        check.cases += 1;
        let mut loader = Loader::new(case.run_id, case.n, case.batch_size);
        for (e, epoch) in case.epochs.iter().enumerate() {
            let at = format!("n {} run {} epoch {e}", case.n, case.run_id);
            let batches = loader.batches();
            let order = &loader.next_epoch()[..batches * case.batch_size];
            let first = &order[..epoch.first.len().min(order.len())];
            let last = &order[order.len().saturating_sub(epoch.last.len())..];
            check.compare_all(
                &[batches as f64],
                &[epoch.batches as f64],
                &format!("{at} batches"),
            );
            check.compare_all(
                &integers(first),
                &integers(&epoch.first),
                &format!("{at} first"),
            );
            check.compare_all(
                &integers(last),
                &integers(&epoch.last),
                &format!("{at} last"),
            );
            check.compare_all(
                &[weighted(order)],
                &[epoch.weighted as f64],
                &format!("{at} weighted"),
            );
        }
    }
    Ok(vec![check])
}
