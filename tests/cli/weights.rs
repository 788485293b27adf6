//! `train --save-weights` and `--init-weights`.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::common::draws::{Draws, build, cifar};
use crate::common::program::{Folder, without_times};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use stepback_native::error::Kind;
use stepback_native::graph::Params;
use stepback_native::results::identity::Identity;
use stepback_native::train::weights::{Weights, take_folder};

/// Matrix factorisation: layers "0.weight" of (4, 6) and "1.weight" of (10, 4).
fn config(epochs: usize, rank: usize) -> Value {
    json!({
        "dataset": "synthetic_matrix_fac",
        "dataset_kwargs": {"p": 6, "q": 10, "n_samples": 60},
        "model": "matrix_fac",
        "model_kwargs": {"rank": rank},
        "loss_func": "squared",
        "score_func": "squared",
        "opt": {"name": "sgd", "lr": [0.01, 0.1], "lr_schedule": "constant"},
        "batch_size": 8,
        "max_epoch": epochs,
        "n_runs": 1,
    })
}

const FILE: &str = "output/weights/small/name=sgd:lr=0.1:lr_schedule=constant:run_id=0.safetensors";

fn history(folder: &Folder) -> Value {
    let runs: Value = serde_json::from_str(&folder.read("output/small.json")).unwrap();
    runs[0]["history"].clone()
}

#[test]
fn weights_are_saved_under_pytorchs_names() {
    let folder = Folder::new();
    folder.config("small", &config(3, 4));
    folder.run("train -q small.json --save-weights").code(0);
    let names = fs::read_dir(folder.path("output/weights/small")).unwrap();
    assert_eq!(names.count(), 2, "a file for each run");
    let bytes = fs::read(folder.path(FILE)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut names = file.names();
    names.sort_unstable();
    assert_eq!(names, ["0.weight", "1.weight"]);
    let (first, second) = (
        file.tensor("0.weight").unwrap(),
        file.tensor("1.weight").unwrap(),
    );
    assert_eq!(
        (first.dtype(), first.shape(), second.shape()),
        (Dtype::F32, &[4, 6][..], &[10, 4][..])
    );
    // The norm of the last epoch is theirs.
    let values = [first.data(), second.data()].concat();
    let squares = values
        .chunks(4)
        .map(|v| f32::from_le_bytes(v.try_into().unwrap()).powi(2));
    let norm = squares.map(f64::from).sum::<f64>().sqrt();
    let runs: Value = serde_json::from_str(&folder.read("output/small.json")).unwrap();
    let stored = runs[1]["history"][2]["model_norm"].as_f64().unwrap();
    assert!((norm - stored).abs() < 1e-5 * stored, "{norm} for {stored}");
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let about = metadata.metadata().as_ref().unwrap();
    let config: Value = serde_json::from_str(&about["config"]).unwrap();
    assert_eq!(
        (about["format"].as_str(), &config["opt"]["lr"]),
        ("pt", &json!(0.1))
    );
    let mode = |path: &str| {
        let meta = fs::metadata(folder.path(path)).unwrap();
        meta.permissions().mode()
    };
    // Others may read it, as the umask allows.
    assert_eq!(mode(FILE), mode("small.json"));
}

/// An average is what is evaluated and saved; below it training is the same.
#[test]
fn raw_weights_are_those_that_were_trained() {
    let saved = |opt: Value, save: &str, dir: &str| {
        let folder = Folder::new();
        let mut config = config(2, 4);
        config["opt"] = opt;
        folder.config("small", &config);
        folder.run(&format!("train -q small.json {save}")).code(0);
        let names = folder.names(dir);
        let file = names.iter().find(|name| name.ends_with(".safetensors"));
        let bytes = fs::read(folder.path(dir).join(file.unwrap())).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let loss = history(&folder)[1]["train_loss"].clone();
        (file.tensor("0.weight").unwrap().data().to_vec(), loss)
    };
    let sgd = json!({"name": "sgd", "lr": 0.1});
    let averaged = json!({"name": "sgd", "lr": 0.1, "ema_decay": 0.9});
    let (plain, plain_loss) = saved(sgd, "--save-weights", "output/weights/small");
    let (average, loss) = saved(averaged.clone(), "--save-weights", "output/weights/small");
    let (raw, _) = saved(
        averaged.clone(),
        "--save-weights=raw",
        "output/weights/small",
    );
    let (elsewhere, _) = saved(averaged, "--save-weights=raw:kept", "kept/small");
    assert!(raw == plain && elsewhere == plain && average != plain);
    assert_ne!(loss, plain_loss);
}

#[test]
fn the_same_command_saves_the_same_bytes() {
    let saved = || {
        let folder = Folder::new();
        folder.config("small", &config(1, 4));
        folder.run("train -q small.json --save-weights").code(0);
        fs::read(folder.path(FILE)).unwrap()
    };
    let first = saved();
    let (_, metadata) = SafeTensors::read_metadata(&first).unwrap();
    let about = metadata.metadata().clone().unwrap();
    assert_eq!(about["format"], "pt");
    let config: Value = serde_json::from_str(&about["config"]).unwrap();
    assert_eq!(config["opt"]["lr"], 0.1);
    // Two entries in an order that changes would pass once in 64 times.
    for _ in 0..6 {
        assert!(saved() == first);
    }
}

#[test]
fn weights_of_other_runs_stay() {
    let folder = Folder::new();
    let mut config = config(1, 4);
    config["opt"]["lr"] = json!(0.1);
    folder.config("small", &config);
    let save = "train -q small.json --save-weights";
    let names = || folder.names("output/weights/small");
    let read = |name: &str| fs::read(folder.path(format!("output/weights/small/{name}"))).unwrap();
    folder.run(save).code(0);
    let plain = names().remove(0);
    let first = read(&plain);
    // The file says whose weights it has, as the output distinguishes its runs.
    let runs: Value = serde_json::from_str(&folder.read("output/small.json")).unwrap();
    let map = |key: &str| runs[0][key].as_object().unwrap();
    let identity = Identity::new(map("config"), map("summary"));
    let (_, metadata) = SafeTensors::read_metadata(&first).unwrap();
    assert_eq!(
        metadata.metadata().as_ref().unwrap()["run"],
        identity.hash()
    );
    // A run of more epochs goes beside it, and so does one from other initial weights; each has one file, however often
    // it is trained.
    let others = [
        format!("{save} --epochs 2"),
        format!("{save} --init-weights {FILE}"),
    ];
    for (command, files) in others.iter().zip([2, 3]) {
        folder.run(command).code(0);
        let (there, before) = (names(), names().iter().map(|n| read(n)).collect::<Vec<_>>());
        assert_eq!(there.len(), files, "{there:?}");
        for again in [save, command] {
            folder.run(&format!("{again} --overwrite")).code(0);
        }
        assert_eq!(names(), there);
        assert!(names().iter().map(|n| read(n)).collect::<Vec<_>>() == before);
    }
    assert!(read(&plain) == first);
    let beside = format!("{}:run=", plain.strip_suffix(".safetensors").unwrap());
    let suffixed = names().iter().filter(|n| n.starts_with(&beside)).count();
    assert_eq!(suffixed, 2);
}

#[test]
fn runs_of_one_label_and_files_of_nobody() {
    let folder = Folder::new();
    let mut two = config(1, 4);
    two["opt"]["lr"] = json!(0.1);
    two["batch_size"] = json!([4, 8]);
    folder.config("small", &two);
    let save = "train -q small.json --save-weights";
    folder.run(&format!("{save} --only batch_size=4")).code(0);
    folder.run(save).code(0);
    let names = folder.names("output/weights/small");
    assert_eq!(names.len(), 2);
    assert!(names.iter().all(|name| name.contains(":run=")), "{names:?}");
    // Files that do not say whose they are: of older versions, or of others.
    two["batch_size"] = json!(8);
    folder.config("old", &two);
    let plain = "kept/old/name=sgd:lr=0.1:lr_schedule=constant:run_id=0.safetensors";
    folder.write(plain, "old");
    let save = "train -q old.json --overwrite --save-weights=kept";
    folder.run(save).code(0);
    assert_eq!(folder.read(plain), "old");
    let names = folder.names("kept/old");
    let own = names.iter().find(|name| name.contains(":run=")).unwrap();
    folder.write(&format!("kept/old/{own}"), "not weights");
    let ran = folder.run(save).code(73);
    ran.says(&["kept/old", "lr=0.1", "--save-weights=DIR"]);
    assert_eq!(folder.read(&format!("kept/old/{own}")), "not weights");
}

#[test]
fn what_a_killed_save_left_goes_and_a_folder_is_of_one_output() {
    let folder = Folder::new();
    folder.config("small", &config(1, 4));
    folder.write("output/weights/small/.tmp-weights-AbCdEf", "");
    let save = "train -q small.json --save-weights";
    folder.run(save).code(0);
    let weights = folder.names("output/weights/small");
    assert_eq!(weights.len(), 2, "{weights:?}");
    // Other outputs, the same weights.
    let other = folder.path("other.json");
    let at_work = take_folder(&folder.path("output/weights/small"), &other, || Ok(())).unwrap();
    let ran = folder.run(&format!("{save} --overwrite")).code(11);
    ran.says(&["output/weights/small", "--save-weights=DIR"]);
    let ran = folder.run("train -q small.json --save-weights=output/weights --output-dir new");
    ran.code(11);
    assert!(!folder.exists("new"));
    drop(at_work);
    folder.run(&format!("{save} --overwrite")).code(0);
}

#[test]
fn a_folder_of_its_own_and_its_failures() {
    let folder = Folder::new();
    folder.config("small", &config(1, 4));
    folder.write("file", "");
    let ran = folder.run("train -q small.json --save-weights=file/below");
    ran.code(73).says(&["file/below", "--save-weights=DIR"]);
    let ran = folder.run("train -q small.json --save-weights kept");
    ran.code(2).says(&["kept: ", "--save-weights=kept"]);
    assert!(!folder.exists("output/small.json"), "nothing was trained");
    assert!(
        folder.names(".") == ["file", "small.json"],
        "no folder stays"
    );
    folder
        .run("train -q small.json --save-weights=kept --only lr=0.1")
        .code(0);
    assert!(folder.exists("kept/small/name=sgd:lr=0.1:lr_schedule=constant:run_id=0.safetensors"));
    assert!(!folder.exists("output/weights"));
}

#[test]
fn a_run_goes_on_from_saved_weights() {
    // A method without state, and epochs that visit the samples in the same order: the second epoch of a run
    // of full batches is one step from where the first one ended.
    let full = |epochs| {
        let mut config = config(epochs, 4);
        config["batch_size"] = json!(60);
        config["opt"]["lr"] = json!(0.1);
        config
    };
    let folder = Folder::new();
    folder.config("small", &full(2));
    folder.run("train -q small.json").code(0);
    let through = history(&folder);
    folder.config("small", &full(1));
    folder
        .run("train -q small.json --overwrite --save-weights")
        .code(0);
    let before = without_times(&folder.read("output/small.json"));
    folder
        .run(&format!(
            "train -q small.json --overwrite --init-weights {FILE}"
        ))
        .code(0);
    let on = history(&folder);
    for key in ["train_loss", "val_loss", "model_norm"] {
        let (a, b) = (
            through[1][key].as_f64().unwrap(),
            on[0][key].as_f64().unwrap(),
        );
        assert!((a - b).abs() < 1e-6 * a, "{key}: {b} for {a}");
    }
    assert_ne!(before, without_times(&folder.read("output/small.json")));
}

#[test]
fn what_does_not_fit_is_listed_in_whole() {
    let folder = Folder::new();
    let zeros = vec![0; 1000];
    let floats = |shape: &[usize]| {
        let n: usize = shape.iter().product();
        TensorView::new(Dtype::F32, shape.to_vec(), &zeros[..4 * n]).unwrap()
    };
    let doubles = TensorView::new(Dtype::F64, vec![10, 4], &zeros[..320]).unwrap();
    let files: [(HashMap<&str, TensorView>, &[&str]); 3] = [
        (
            HashMap::from([
                ("0.weight", floats(&[6, 4])),
                ("bias", floats(&[3])),
                ("a", floats(&[2])),
            ]),
            &[
                "matrix_fac",
                "0.weight: [6, 4] of F32 in the file, [4, 6] of F32 in the model",
                "1.weight: missing in the file",
                "bias: not in the model",
                "a: not in the model",
            ],
        ),
        (
            HashMap::from([("0.weight", floats(&[4, 6])), ("1.weight", doubles)]),
            &["1.weight: [10, 4] of F64 in the file"],
        ),
        (HashMap::new(), &["0.weight: missing", "1.weight: missing"]),
    ];
    for (tensors, parts) in files {
        folder.write(
            "w.safetensors",
            safetensors::serialize(tensors, None).unwrap(),
        );
        folder.config("small", &config(1, 4));
        let ran = folder.run("train -q small.json --init-weights w.safetensors");
        ran.code(2).says(parts).says(&["w.safetensors"]);
        assert!(!folder.exists("output/small.json"), "nothing was trained");
    }
}

#[test]
fn damaged_files_of_weights_are_named() {
    let folder = Folder::new();
    folder.config("small", &config(1, 4));
    folder.run("train -q small.json --save-weights").code(0);
    let good = fs::read(folder.path(FILE)).unwrap();
    let longer = [&good[..], b"x"].concat();
    let mut header = good.clone();
    header[9] = b'?';
    for bytes in [&good[..good.len() - 1], &good[..40], b"", &longer, &header] {
        folder.write("w.safetensors", bytes);
        let ran = folder.run("train -q small.json --overwrite --init-weights w.safetensors");
        ran.code(65).says(&["w.safetensors", "safetensors file"]);
    }
    folder
        .run("train -q small.json --init-weights nowhere")
        .code(74)
        .says(&["nowhere"]);
}

/// A ResNet's parameters and running averages in a file, as they are named, stored and typed there.
fn written(
    folder: &Folder,
    params: &Params,
    prefix: &str,
    dtype: Dtype,
    counts: bool,
) -> std::path::PathBuf {
    let convert = |values: &[f32]| -> Vec<u8> {
        let bytes = values.iter().map(|v| match dtype {
            Dtype::F16 => half::f16::from_f32(*v).to_le_bytes().to_vec(),
            Dtype::BF16 => half::bf16::from_f32(*v).to_le_bytes().to_vec(),
            _ => v.to_le_bytes().to_vec(),
        });
        bytes.flatten().collect()
    };
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (list, vector) in [
        (&params.tensors, &params.values),
        (&params.buffers, &params.buffer_values),
    ] {
        for t in list {
            let bytes = convert(t.of(vector));
            tensors.push((format!("{prefix}{}", t.name), dtype, t.shape.clone(), bytes));
            if let Some(layer) = t.name.strip_suffix("running_mean").filter(|_| counts) {
                let name = format!("{prefix}{layer}num_batches_tracked");
                tensors.push((name, Dtype::I64, Vec::new(), 7i64.to_le_bytes().to_vec()));
            }
        }
    }
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    let bytes = safetensors::serialize(views, None).unwrap();
    folder.write("w.safetensors", bytes)
}

#[test]
fn files_are_taken_as_pytorch_takes_them() {
    let folder = Folder::new();
    let fresh = || build("resnet20", &json!({}), &cifar(10)).unwrap().0;
    let mut params = fresh();
    let mut draws = Draws::new(3);
    params.values = draws.normal(params.values.len());
    params.buffer_values = draws.normal(params.buffer_values.len());
    let rounded = |dtype, v: f32| match dtype {
        Dtype::F16 => half::f16::from_f32(v).to_f32(),
        Dtype::BF16 => half::bf16::from_f32(v).to_f32(),
        _ => v,
    };
    for (prefix, dtype, counts) in [
        ("", Dtype::F32, true),
        ("", Dtype::F32, false),
        ("", Dtype::F16, true),
        ("module.", Dtype::BF16, false),
        ("_orig_mod.", Dtype::F32, true),
        ("module._orig_mod.", Dtype::F16, false),
    ] {
        let path = written(&folder, &params, prefix, dtype, counts);
        let mut loaded = fresh();
        Weights::read(&path)
            .and_then(|file| file.load_into(&mut loaded, "resnet20"))
            .unwrap();
        assert_eq!(loaded.batches_tracked, if counts { 7 } else { 0 });
        let wanted =
            |vector: &[f32]| -> Vec<f32> { vector.iter().map(|v| rounded(dtype, *v)).collect() };
        assert_eq!(loaded.values, wanted(&params.values), "{prefix} {dtype}");
        assert_eq!(loaded.buffer_values, wanted(&params.buffer_values));
    }
}

#[test]
fn what_all_tensors_have_in_common_is_said_once() {
    let folder = Folder::new();
    let params = build("resnet20", &json!({}), &cifar(10)).unwrap().0;
    let problems = |prefix: &str, dtype, other: &str| {
        let path = written(&folder, &params, prefix, dtype, true);
        let mut other = build(other, &json!({}), &cifar(10)).unwrap().0;
        let before = other.values.clone();
        let file = Weights::read(&path).unwrap();
        let e = file.load_into(&mut other, "other").unwrap_err();
        assert!(e.kind == Kind::Usage && other.values == before, "{e}");
        e.message
    };
    let names = problems("net.", Dtype::F32, "resnet20");
    assert_eq!(names.lines().count(), 2, "{names}");
    assert!(
        names.contains("none of its") && names.contains("\"net."),
        "{names}"
    );
    // A deeper model of the same family has more than the file; its own tensors fit.
    let deeper = problems("", Dtype::F32, "resnet32");
    assert!(deeper.lines().count() < 12, "{deeper}");
    assert!(
        deeper.contains("more that are missing in the file"),
        "{deeper}"
    );
}

#[test]
fn a_file_of_torch_save_is_told_how_to_become_one() {
    let folder = Folder::new();
    folder.config("small", &config(1, 4));
    folder.write("w.pt", b"PK\x03\x04 and so on");
    folder
        .run("train -q small.json --init-weights w.pt")
        .code(65)
        .says(&["w.pt", "torch.save made it", "safetensors.torch.save_file"]);
}
