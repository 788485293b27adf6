//! The transformers: their parameters, attention's dropout, errors of their keys.

use crate::common::draws::{build, cifar};
use serde_json::{Value, json};
use stepback_native::device::gpu::kernels::Step;
use stepback_native::device::{Device, Target};
use stepback_native::graph::{Mode, Params, Plan, Sample, Session, Targets};
use stepback_native::models::Data;
use stepback_native::random::torch::Generator;

const CLASSES: usize = 10;
fn step(seed: u64, batch: u64) -> Step {
    Step {
        seed,
        batch,
        ..Step::default()
    }
}

#[test]
fn parameters_are_those_of_the_reference() {
    let file: Value =
        serde_json::from_str(include_str!("../../records/goldens/init.json")).expect("JSON");
    let mut seen = 0;
    for case in file["cases"].as_array().unwrap() {
        let name = case["model"].as_str().unwrap();
        if !["vit", "swint"].contains(&name) {
            continue;
        }
        let listed = case["parameters"].as_array().unwrap().iter().map(|p| {
            let shape = p["shape"].as_array().unwrap().iter();
            let count: u64 = shape.map(|n| n.as_u64().unwrap()).product();
            (p["name"].as_str().unwrap(), count as usize)
        });
        let (params, _) = build(name, &case["model_kwargs"], &cifar(CLASSES)).unwrap();
        let trained = listed.clone().filter(|(name, _)| !name.ends_with("_mask"));
        let ours = params.tensors.iter().map(|t| (&t.name[..], t.range.len));
        assert!(trained.eq(ours), "{name}: names, order or sizes differ");
        let masks = listed.filter(|(name, _)| name.ends_with("_mask"));
        let ours = params.buffers.iter().map(|t| (&t.name[..], t.range.len));
        assert!(masks.eq(ours), "{name}: masks differ");
        seen += 1;
    }
    assert_eq!(seen, 3);
}

/// Attention whose probabilities are all 1 / T, whose values are the unit vectors, and which gets the unit
/// vectors as upstream gradient: its output is P . keep and the values' gradient is its transpose.
#[test]
fn attention_drops_the_same_probabilities_both_ways() {
    const T: usize = 33;
    const HEADS: usize = 2;
    const SEQUENCES: usize = 8;
    const RATE: f64 = 0.3;
    let mut params = Params::new(Generator::new(0));
    let qkv = params.constant("qkv", &[SEQUENCES, T, 3 * HEADS * T], 0.0);
    let plan = Plan::record(&params, Mode::Train, Device::Cpu, |tape| {
        let y = tape.param(qkv).attention(HEADS, None, RATE);
        Targets {
            outputs: vec![y],
            backward: Some(y),
        }
    });
    // Place of dimension d of head h in part q, k or v of token t of sequence b.
    let at = |b, t, part, h, d| (((b * T + t) * 3 + part) * HEADS + h) * T + d;
    let places = || {
        (0..SEQUENCES).flat_map(|b| (0..HEADS).flat_map(move |h| (0..T).map(move |t| (b, h, t))))
    };
    let mut upstream = vec![0.0; plan.seed.len];
    for (b, h, t) in places() {
        params.values[at(b, t, 2, h, t)] = 1.0;
        upstream[((b * T + t) * HEADS + h) * T + t] = 1.0;
    }
    let mut session = Session::new(&params, vec![plan], Target::CPU).unwrap();
    let mut masks: Vec<Vec<bool>> = Vec::new();
    for done in 0..2 {
        let outputs = session.run_from(0, &[], &upstream, step(5, done));
        let (outputs, grads) = (outputs.unwrap(), session.grads().unwrap());
        let mut kept = Vec::new();
        for (b, h, i) in places() {
            for j in 0..T {
                let y = outputs[0][((b * T + i) * HEADS + h) * T + j];
                assert_eq!(grads[at(b, j, 2, h, i)], y, "backward's mask");
                let scaled = 1.0 / (T as f64 * (1.0 - RATE));
                assert!(
                    y == 0.0 || (f64::from(y) / scaled - 1.0).abs() < 1e-6,
                    "{y}"
                );
                kept.push(y != 0.0);
            }
        }
        masks.push(kept);
    }
    let n = masks[0].len() as f64;
    for kept in &masks {
        let share = kept.iter().filter(|kept| **kept).count() as f64 / n;
        let deviation = (RATE * (1.0 - RATE) / n).sqrt();
        assert!((share - (1.0 - RATE)).abs() < 4.0 * deviation, "{share}");
    }
    // Independent masks agree at a share 1 - 2 rate (1 - rate) of all places: so must those of two steps, and those
    // of two heads.
    let agree = |a: &[bool], b: &[bool]| {
        let same = a.iter().zip(b).filter(|(a, b)| a == b).count();
        same as f64 / a.len() as f64
    };
    let expected = 1.0 - 2.0 * RATE * (1.0 - RATE);
    for share in [
        agree(&masks[0], &masks[1]),
        agree(&masks[0][..T * T], &masks[0][T * T..2 * T * T]),
    ] {
        assert!((share - expected).abs() < 0.06, "{share} for {expected}");
    }
}

#[test]
fn what_does_not_fit_is_said() {
    let with = |input: &[usize], classes| Data {
        sample: Sample::of_shape(input),
        classes,
        ..cifar(CLASSES)
    };
    let images = cifar(CLASSES);
    for (name, kwargs, data, expected) in [
        ("vit", json!({"patch_size": 5}), &images, "patch_size is 5"),
        (
            "vit",
            json!({"patch_size": 64}),
            &images,
            "patch_size is 64",
        ),
        ("vit", json!({}), &with(&[784], Some(10)), "takes images"),
        ("vit", json!({}), &with(&[1, 28, 28], Some(10)), "1x28x28"),
        ("vit", json!({}), &with(&[3, 32, 32], None), "class labels"),
        ("swint", json!({}), &with(&[2], None), "takes images"),
        (
            "swint",
            json!({"window_size": 3}),
            &images,
            "window_size is 3",
        ),
        (
            "swint",
            json!({"window_size": 8}),
            &images,
            "window_size is 8",
        ),
        ("swint", json!({"layers": [2, 2, 2]}), &images, "4 stages"),
        (
            "swint",
            json!({"heads": [1, 1, 1, 1, 1]}),
            &images,
            "4 stages",
        ),
        (
            "swint",
            json!({"layers": [2, 3, 2, 2]}),
            &images,
            "in pairs",
        ),
    ] {
        let why = build(name, &kwargs, data).err().expect("an error");
        assert!(why.contains(expected), "{name} {kwargs}: {why}");
    }
}
