//! The networks for images: they have the right size, and average what evaluation uses.

use crate::common::draws::{build, cifar};
use crate::common::networks::{Bench, small};
use serde_json::json;
use stepback_native::graph::{Role, Sample, Tensor};
use stepback_native::models::Data;

#[test]
fn sizes_that_no_machine_can_hold_are_refused() {
    let most = u64::MAX;
    for (name, kwargs) in [
        ("vit", json!({"dim": most})),
        ("vit", json!({"depth": 1u64 << 36})),
        ("vit", json!({"heads": 1u64 << 37, "dim_head": 1u64 << 37})),
        ("vit", json!({"mlp_dim": 1u64 << 62})),
        ("swint", json!({"hidden_dim": 1u64 << 40})),
        (
            "swint",
            json!({"head_dim": 1u64 << 37, "heads": [1, 1, 1, 1u64 << 37]}),
        ),
        ("swint", json!({"layers": [2, 2, 1u64 << 30, 2]})),
    ] {
        let refused = build(name, &kwargs, &cifar(10)).map(|_| ()).unwrap_err();
        assert!(refused.contains("too large"), "{name} {kwargs}: {refused}");
    }
}

/// The running averages follow the batch's, so that evaluation ends near training.
#[test]
fn evaluation_uses_what_training_averaged() {
    let mut bench = Bench::new("resnet20", &json!({}), 4);
    let before = bench.run(false);
    let train = bench.fit(0.0, |losses| losses.len() == 60)[59];
    let after = bench.run(false);
    assert!((before - train).abs() > 0.1, "{before} {train}");
    assert!((after - train).abs() < 1e-2 * train, "{after} {train}");
}

#[test]
fn sizes() {
    let cases = [
        ("resnet20", json!({}), 10, 269_722),
        ("resnet20", json!({"batch_norm": false}), 10, 268_346),
        ("resnet32", json!({}), 10, 464_154),
        ("resnet44", json!({}), 10, 658_586),
        ("resnet56", json!({}), 10, 853_018),
        ("resnet110", json!({}), 100, 1_733_812),
        ("resnet1202", json!({}), 10, 19_421_274),
        ("vgg11", json!({}), 10, 9_750_922),
        ("vgg13", json!({}), 10, 9_935_434),
        ("vgg16", json!({"batch_norm": true}), 10, 15_253_578),
        ("vgg19", json!({}), 10, 20_554_826),
        ("resnet18-kuangliu", json!({}), 10, 11_173_962),
        ("resnet34-kuangliu", json!({}), 10, 21_282_122),
        ("resnet50-kuangliu", json!({}), 10, 23_520_842),
        ("resnet101-kuangliu", json!({}), 10, 42_512_970),
        ("resnet152-kuangliu", json!({}), 10, 58_156_618),
    ];
    for (name, kwargs, classes, size) in cases {
        let (params, _) = build(name, &kwargs, &cifar(classes)).unwrap();
        assert_eq!(params.values.len(), size, "{name}");
    }
}

/// Roles agree with PyTorch's names, and all outputs come from one head.
#[test]
fn parameters_know_their_roles() {
    for (name, kwargs, _) in small() {
        let (params, _) = build(name, &kwargs, &cifar(7)).unwrap();
        let mut heads = Vec::new();
        for tensor in &params.tensors {
            let Tensor { name, shape, .. } = tensor;
            let expected = match tensor.role {
                Role::Hidden => name.ends_with(".weight") && shape.len() >= 2,
                Role::Bias => name.ends_with(".bias") && shape.len() == 1 || shape[0] == shape[1],
                Role::Norm => shape.len() == 1,
                Role::Embedding => ["embedding", "cls_token", "stage1.patch_partition"]
                    .iter()
                    .any(|word| name.contains(word)),
                Role::Head => {
                    heads.push(shape[0]);
                    shape.len() == 2
                }
            };
            assert!(expected, "{name} {shape:?}: {:?}", tensor.role);
        }
        assert_eq!(heads, [7], "{name}");
    }
}

#[test]
fn other_data_are_refused() {
    let shaped = |input: &[usize], classes| Data {
        sample: Sample::of_shape(input),
        classes,
        ..cifar(10)
    };
    for name in ["resnet20", "vgg16", "resnet18-kuangliu"] {
        for (data, why) in [
            (shaped(&[1, 28, 28], Some(10)), "1x28x28"),
            (shaped(&[784], Some(10)), "[784]"),
            (shaped(&[3, 32, 32], None), "labels"),
        ] {
            let error = build(name, &json!({}), &data).err().unwrap();
            assert!(error.contains(why), "{error}");
        }
    }
}
