//! `train` on small image sets in the formats of CIFAR-10, CIFAR-100 and ImageNet32, made here.

use std::fs;

use crate::common::cifar::{planes, write_cifar};
use crate::common::program::{Folder, without_times};
use safetensors::SafeTensors;
use serde_json::{Value, json};

/// A pickled batch of one image, as Python 3 writes protocol 2 but with a plain string for the bytes.
fn pickled(i: usize) -> Vec<u8> {
    let label = i * 7 % 10;
    let mut out = b"\x80\x02}(U\x06labels]K".to_vec();
    out.push(label as u8 + 1);
    out.extend(
        b"aU\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
    );
    out.extend(
        b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R\x89T\x00\x0c\x00\x00",
    );
    out.extend(planes(i, label));
    out.extend(b"tbu.");
    out
}

fn write_imagenet32(folder: &Folder) {
    for i in 0..10 {
        let name = format!("data/imagenet32/train/train_data_batch_{}", i + 1);
        folder.write(&name, pickled(i));
    }
    folder.write("data/imagenet32/val/val_data", pickled(10));
}

fn config(
    dataset: &str,
    model: &str,
    kwargs: Value,
    opt: Value,
    batch_size: usize,
    epochs: usize,
) -> Value {
    json!({
        "dataset": dataset,
        "model": model,
        "model_kwargs": kwargs,
        "loss_func": "cross_entropy",
        "score_func": "cross_entropy_accuracy",
        "opt": opt,
        "batch_size": batch_size,
        "max_epoch": epochs,
        "n_runs": 1,
    })
}

fn history(folder: &Folder, name: &str) -> Vec<Value> {
    let text = folder.read(&format!("output/{name}.json"));
    let runs: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(runs[0]["summary"]["input_dim"], json!([3, 32, 32]));
    runs[0]["history"].as_array().unwrap().clone()
}

#[test]
fn every_family_trains_on_its_images() {
    let folder = Folder::new();
    write_cifar(&folder.path("data"), 40, 12);
    write_imagenet32(&folder);
    let vit =
        json!({"patch_size": 8, "dim": 24, "depth": 1, "heads": 2, "mlp_dim": 32, "dim_head": 8});
    let cases = [
        ("cifar10", "resnet20", json!({}), 16),
        ("cifar100", "resnet20", json!({"batch_norm": false}), 16),
        ("cifar10", "vgg11", json!({"batch_norm": true}), 20),
        ("cifar100", "vit", vit, 16),
        ("imagenet32", "resnet18-kuangliu", json!({}), 5),
        ("imagenet32", "swint", json!({}), 5),
    ];
    for (dataset, model, kwargs, batch_size) in cases {
        let opt = json!({"name": "momo-adam", "lr": 0.001});
        folder.config("one", &config(dataset, model, kwargs, opt, batch_size, 1));
        let ran = folder.run("train -q --offline --overwrite one.json --save-weights");
        ran.code(0);
        let epochs = history(&folder, "one");
        for key in ["train_loss", "val_loss", "model_norm", "grad_norm"] {
            let value = epochs[0][key].as_f64();
            assert!(value.is_some_and(|v| v > 0.0), "{model} {key}: {value:?}");
        }
    }
}

#[test]
fn a_residual_network_learns_alike_on_every_number_of_threads() {
    let mut outputs = Vec::new();
    for threads in [1, 2] {
        let folder = Folder::new();
        write_cifar(&folder.path("data"), 40, 12);
        let opt = json!({"name": "adam", "lr": 0.003});
        folder.config("one", &config("cifar10", "resnet20", json!({}), opt, 10, 3));
        folder
            .run(&format!("train -q --offline one.json --threads {threads}"))
            .code(0);
        let loss = |epoch: usize| {
            history(&folder, "one")[epoch]["train_loss"]
                .as_f64()
                .unwrap()
        };
        assert!(loss(2) < 0.7 * loss(0), "{} after {}", loss(2), loss(0));
        outputs.push(without_times(&folder.read("output/one.json")));
    }
    assert!(outputs[0] == outputs[1], "threads change the result");
}

const WEIGHTS: &str = "output/weights/one/name=sgd:lr=0.01:run_id=0.safetensors";

#[test]
fn running_averages_go_out_and_in_with_their_counts() {
    let folder = Folder::new();
    write_cifar(&folder.path("data"), 40, 12);
    let with_lr = |lr: f64, epochs| {
        let opt = json!({"name": "sgd", "lr": lr});
        config("cifar10", "resnet20", json!({}), opt, 16, epochs)
    };
    folder.config("one", &with_lr(0.01, 3));
    folder
        .run("train -q --offline one.json --save-weights")
        .code(0);
    let norm = |epochs: &[Value]| epochs.last().unwrap()["model_norm"].clone();
    let trained = norm(&history(&folder, "one"));
    let first = fs::read(folder.path(WEIGHTS)).unwrap();
    let count = |bytes: &[u8], layer: &str| {
        let file = SafeTensors::deserialize(bytes).unwrap();
        let count = file
            .tensor(&format!("{layer}.num_batches_tracked"))
            .unwrap();
        assert!(count.shape().is_empty());
        i64::from_le_bytes(count.data().try_into().unwrap())
    };
    for layer in ["bn1", "layer1.0.bn2", "layer3.2.bn2"] {
        assert_eq!(count(&first, layer), 6, "two steps in each of three epochs");
    }
    let tensors = SafeTensors::deserialize(&first).unwrap().len();
    // 19 convolutions, a linear layer with bias, and five tensors in each of 19 batch norms.
    assert_eq!(tensors, 19 + 2 + 5 * 19);

    // A step size of 0 leaves the weights as they are and moves the averages on.
    folder.write("start.safetensors", &first);
    folder.config("one", &with_lr(0.0, 1));
    let ran =
        "train -q --offline one.json --overwrite --save-weights --init-weights start.safetensors";
    folder.run(ran).code(0);
    assert_eq!(norm(&history(&folder, "one")), trained);
    let second = fs::read(folder.path(WEIGHTS.replace("0.01", "0.0"))).unwrap();
    assert_eq!(count(&second, "bn1"), 8);
    let data = |bytes: &[u8], name: &str| {
        let file = SafeTensors::deserialize(bytes).unwrap();
        file.tensor(name).unwrap().data().to_vec()
    };
    assert_eq!(data(&first, "conv1.weight"), data(&second, "conv1.weight"));
    assert_ne!(
        data(&first, "bn1.running_mean"),
        data(&second, "bn1.running_mean")
    );
}

#[test]
fn what_does_not_fit_an_image_set_is_refused() {
    let folder = Folder::new();
    write_cifar(&folder.path("data"), 40, 12);
    let opt = json!({"name": "sgd", "lr": 0.01});
    for (dataset, model, kwargs) in [
        ("cifar10", "mlp", json!({"output_size": 10})),
        ("synthetic_linear", "resnet20", json!({})),
        (
            "cifar10",
            "vit",
            json!({"patch_size": 5, "dim": 24, "depth": 1, "heads": 2, "mlp_dim": 32}),
        ),
    ] {
        let mut config = config(dataset, model, kwargs, opt.clone(), 16, 1);
        if dataset == "synthetic_linear" {
            config["dataset_kwargs"] = json!({"p": 4, "n_samples": 30});
        }
        folder.config("one", &config);
        let ran = folder.run("train -q --offline one.json").code(2);
        ran.says(&[model, dataset]);
    }
}
