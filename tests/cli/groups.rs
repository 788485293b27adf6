//! Groups of parameters: shown and refused before training, and runs with them.

use std::fs;

use crate::common::cifar::write_cifar;
use crate::common::program::{Folder, without_times};
use safetensors::SafeTensors;
use serde_json::{Value, json};

/// A run of a network of four tensors for each choice of groups.
fn config(opt: Value, groups: Value) -> Value {
    json!({
        "dataset": "synthetic_linear",
        "dataset_kwargs": {"p": 6, "n_samples": 40},
        "model": "mlp",
        "model_kwargs": {"output_size": 1, "hidden_sizes": [5], "bias": true},
        "loss_func": "squared",
        "score_func": "squared",
        "opt": opt,
        "groups": groups,
        "batch_size": 10,
        "max_epoch": 3,
        "n_runs": 1,
    })
}

fn with(opt: Value, groups: Value) -> Folder {
    let folder = Folder::new();
    folder.config("g", &config(opt, groups));
    folder
}

fn adamw() -> Value {
    json!({"name": "adamw", "lr": 0.1, "weight_decay": 0.1})
}

#[test]
fn groups_are_shown_before_training() {
    let groups = json!([
        [],
        [{"match": "bias", "weight_decay": 0}, {"match": "ndim>=2", "lr_factor": 0.5}],
        [{"match": r"^2\.", "name": "momo", "beta": 0.8}],
    ]);
    let folder = with(json!([adamw(), {"name": "sgd", "lr": [1, 2]}]), groups);
    let ran = folder.run("config check g.json").code(0);
    let expected = "\
g.json: OK, 9 runs
  mlp on synthetic_linear:
    bias weight_decay 0: 2 tensors of 6 numbers: 0.bias, 2.bias
    ndim 2+ lr_factor 0.5: 2 tensors of 35 numbers: 0.weight, 2.weight
    the rest: 0 tensors of 0 numbers
  mlp on synthetic_linear:
    ^2\\. name momo, beta 0.8: 2 tensors of 6 numbers: 2.weight, 2.bias
    the rest: 2 tensors of 35 numbers: 0.weight, 0.bias
";
    assert_eq!(ran.stdout, expected);

    // Without the data's files, of which the form is known.
    let mut network = config(
        adamw(),
        json!([[{"match": "role==norm", "weight_decay": 0}]]),
    );
    let map = network.as_object_mut().unwrap();
    let changes = json!({
        "dataset": "cifar10", "dataset_kwargs": {}, "model": "resnet20", "model_kwargs": {},
        "loss_func": "cross_entropy", "score_func": "cross_entropy",
    });
    map.extend(changes.as_object().unwrap().clone());
    folder.config("network", &network);
    let ran = folder.run("config check network.json").code(0);
    let line = "norm weight_decay 0: 38 tensors of 1376 numbers: bn1.weight, bn1.bias, layer1.0.bn1.weight, ...\n";
    assert!(ran.stdout.contains(line), "{}", ran.stdout);
    let ran = folder.run("config check network.json -v").code(0);
    assert!(
        ran.stdout.contains(", layer3.2.bn2.bias\n"),
        "{}",
        ran.stdout
    );
    let ran = folder.run("config check network.json --json").code(0);
    let checked: Value = serde_json::from_str(&ran.stdout).unwrap();
    let groups = &checked[0]["groups"][0]["groups"];
    assert_eq!(
        groups[0]["group"],
        json!({"match": "role==norm", "weight_decay": 0})
    );
    assert_eq!(groups[0]["numbers"], 1376);
    assert_eq!(groups[1]["group"], Value::Null);
    assert_eq!(groups[1]["parameters"].as_array().unwrap().len(), 59 - 38);
}

#[test]
fn what_a_method_for_matrices_leaves_is_shown() {
    let muon = json!({"name": "muon", "lr": 0.02, "aux_lr": 0.01});
    let folder = with(muon, json!([[]]));
    let ran = folder.run("config check g.json").code(0);
    let expected = "\
g.json: OK, 1 run
  mlp on synthetic_linear:
    name adamw: 3 tensors of 11 numbers: 0.bias, 2.weight, 2.bias
    the rest: 1 tensor of 30 numbers: 0.weight
";
    assert_eq!(ran.stdout, expected);
    let ran = folder.run("train g.json").code(0);
    assert!(ran.stdout.contains("muon"), "{}", ran.stdout);
    let folder = with(
        json!({"name": "muon", "aux_beta": [[0.8, 0.9]]}),
        json!([[]]),
    );
    let ran = folder.run("config check g.json").code(2);
    ran.says(&["aux_beta", "did you mean \"aux_betas\"?"]);
}

#[test]
fn parameters_of_models_are_listed() {
    let folder = Folder::new();
    let ran = folder.run("list models resnet20").code(0);
    let lines: Vec<Vec<&str>> = ran
        .stdout
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0].join(" "), "resnet20 on cifar10: 269722 numbers");
    assert_eq!(lines[2], ["conv1.weight", "16x3x3x3", "432", "hidden"]);
    assert_eq!(lines[60], ["linear.bias", "10", "10", "bias"]);
    for row in stepback_native::models::ROWS {
        let name = row.entry.name;
        // 78 MB of numbers.
        if name == "resnet1202" {
            continue;
        }
        let ran = folder.run(&format!("list models {name} --json")).code(0);
        let listed: Value = serde_json::from_str(&ran.stdout).unwrap();
        let parameters = listed["parameters"].as_array().unwrap();
        let numbers = parameters.iter().map(|p| p["numbers"].as_u64().unwrap());
        assert_eq!(numbers.sum::<u64>(), listed["numbers"], "{name}");
        let heads = parameters.iter().filter(|p| p["role"] == "head").count();
        assert_eq!(heads, usize::from(name != "matrix_completion"), "{name}");
    }
    folder
        .run("list models resnt20")
        .code(2)
        .says(&["did you mean \"resnet20\"?"]);
    // Of other things, what is said of all of them.
    let one = folder.run("list datasets mnist").code(0).stdout;
    let all = folder.run("list datasets").code(0).stdout;
    assert!(one.starts_with("mnist\n") && all.contains(&one) && one.len() < all.len());
    folder
        .run("list optimizers adm")
        .code(2)
        .says(&["did you mean \"adam\"?"]);
}

#[test]
fn groups_that_cannot_be_meant_are_refused() {
    for (opt, groups, fragments) in [
        (
            adamw(),
            json!([{"match": "^2\\.wait"}]),
            &[
                "groups[0].match: \"^2\\\\.wait\" takes no parameter",
                "2.weight",
            ][..],
        ),
        (
            adamw(),
            json!([{"match": "embeding"}]),
            &["did you mean \"embedding\"?"],
        ),
        (
            adamw(),
            json!([{"match": "embedding"}]),
            &[
                "\"embedding\" takes no parameter",
                "the first are 0.weight, 0.bias, 2.weight",
            ],
        ),
        (
            adamw(),
            json!([{"match": "weight"}, {"match": "ndim>=2"}]),
            &["groups[1].match: \"ndim>=2\" takes no parameter (groups before it take all"],
        ),
        (
            adamw(),
            json!([{"match": ".", "name": "sgd"}]),
            &["they leave no parameter to adamw"],
        ),
        (
            adamw(),
            json!([{"match": "bias"}, {"match": "0.(weight"}]),
            &["groups[0][1].match: ", "unclosed group at character 3"],
        ),
        (
            adamw(),
            json!([{"match": "role==nrom"}]),
            &["groups[0][0].match: unknown role", "\"norm\"?"],
        ),
        (
            adamw(),
            json!([{"match": "bias", "lookahead_k": 5}]),
            &["groups[0][0].lookahead_k: belongs in opt"],
        ),
        (
            json!({"name": "momo", "lr": 1}),
            json!([{"match": "bias", "lr": 2}, {"match": "head", "beta": 0.5}]),
            &[
                "groups[1]: all groups of momo share its sums",
                "lr, lr_factor and weight_decay",
            ],
        ),
    ] {
        let folder = with(opt, json!([groups]));
        let checked = folder.run("config check g.json").code(2).says(fragments);
        let trained = folder.run("train -q g.json").code(2).says(fragments);
        assert_eq!(checked.stderr.lines().count(), 1, "{}", checked.stderr);
        assert_eq!(trained.stderr.lines().count(), 1, "{}", trained.stderr);
        assert!(!folder.exists("output/g.json"));
    }
}

/// The bytes of all tensors by name.
fn weights(folder: &Folder, file: &str) -> Vec<(String, Vec<u8>)> {
    let bytes = fs::read(folder.path(file)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = (file.iter())
        .map(|(name, view)| (name.to_owned(), view.data().to_vec()))
        .collect();
    tensors.sort();
    tensors
}

#[test]
fn where_parameters_lie_changes_nothing() {
    let folder = with(
        adamw(),
        json!([[], [{"match": "^2"}, {"match": "bias"}], [{"match": "bias", "lr_factor": 0.5}]]),
    );
    folder.run("train -q g.json --save-weights").code(0);
    let names = folder.names("output/weights/g");
    let [grouped, slowed, plain] = &names[..] else {
        panic!("{names:?}");
    };
    assert_eq!(
        grouped,
        "name=adamw:lr=0.1:weight_decay=0.1:groups=^2; bias:run_id=0.safetensors"
    );
    let of = |name: &str| weights(&folder, &format!("output/weights/g/{name}"));
    assert_eq!(of(grouped), of(plain));
    assert_ne!(of(slowed), of(plain));

    // Weights go to their places by name.
    folder.config(
        "further",
        &config(adamw(), json!([[], [{"match": "^2"}, {"match": "bias"}]])),
    );
    let init =
        format!("train -q further.json --save-weights --init-weights output/weights/g/{plain}");
    folder.run(&init).code(0);
    let names = folder.names("output/weights/further");
    let of = |name: &str| weights(&folder, &format!("output/weights/further/{name}"));
    assert_eq!(of(&names[0]), of(&names[1]));
}

/// Convolutions, norms and fused ops find their parameters wherever they lie.
#[test]
fn networks_do_not_notice_groups() {
    let folder = Folder::new();
    write_cifar(&folder.path("data"), 15, 6);
    let config = json!({
        "dataset": "cifar10", "model": "resnet20", "loss_func": "cross_entropy", "score_func": "cross_entropy_accuracy",
        "opt": {"name": "adam", "lr": 0.01}, "groups": [[], [{"match": "bias"}, {"match": "norm"}, {"match": "layer2"}]],
        "batch_size": 5, "max_epoch": 1, "n_runs": 1,
    });
    folder.config("network", &config);
    folder
        .run("train -q network.json --offline --save-weights")
        .code(0);
    let names = folder.names("output/weights/network");
    let of = |name: &str| weights(&folder, &format!("output/weights/network/{name}"));
    assert_eq!(names.len(), 2);
    assert!(of(&names[0]) == of(&names[1]));
}

#[test]
fn runs_that_differ_in_groups_are_other_runs() {
    let groups = json!([[], [{"match": "bias", "weight_decay": 0}], [{"match": "ndim==1", "name": "sgd-m", "lr": 0.01}]]);
    let sam =
        json!({"name": "adam", "lr": 0.1, "sam_rho": 0.05, "grad_clip_norm": 1, "ema_decay": 0.9});
    let folder = with(
        json!([adamw(), {"name": "momo-star", "lr": 1}, sam]),
        groups,
    );
    let ran = folder.run("train g.json").code(0);
    assert!(
        ran.stdout.contains("groups") && ran.stdout.contains("bias weight_decay 0"),
        "{}",
        ran.stdout
    );
    let output = folder.read("output/g.json");
    assert_eq!(
        output.matches("\"groups\"").count(),
        6,
        "no word of groups where there are none"
    );
    let again = folder.run("train g.json").code(0);
    assert!(
        again.stderr.contains("9 of 9 runs are in"),
        "{}",
        again.stderr
    );
    assert_eq!(folder.read("output/g.json"), output);

    // Records, tables and lists of runs tell them apart.
    let record = folder.run("record g --out -").code(0).stdout;
    for id in [
        "name=adamw:lr=0.1:weight_decay=0.1:groups=none,0",
        "name=adamw:lr=0.1:weight_decay=0.1:groups=bias weight_decay 0,0",
        "\"name=momo-star:lr=1:groups=ndim 1 name sgd-m, lr 0.01\",2",
    ] {
        assert!(record.contains(id), "no {id} in {record}");
    }
    let listed = folder
        .run("output list output/g.json --format csv")
        .code(0)
        .stdout;
    assert!(
        listed.contains("\"momo-star, lr=1, groups=bias weight_decay 0\""),
        "{listed}"
    );
    let exported = folder.run("output export output/g.json").code(0).stdout;
    let id = "name=momo-star:lr=1:groups=bias weight_decay 0";
    assert!(
        exported.contains(id) && exported.contains(",1,none,bias weight_decay 0,"),
        "{exported}"
    );
    folder.write("g.csv", record);
    folder.run("table g.csv --columns score,setting").code(0);
    let text = folder.run("config expand g.json").code(0).stdout;
    assert!(
        text.contains("name=momo-star:lr=1:groups=bias weight_decay 0:run_id=0\n"),
        "{text}"
    );
    let single = folder.run("config expand g.json --json").code(0).stdout;
    folder.write("h.json", single);
    folder.run("train -q h.json").code(0);
    let (whole, parts) = (
        without_times(&output),
        without_times(&folder.read("output/h.json")),
    );
    assert_eq!(whole, parts);

    if stepback_native::device::emulator_usable().is_err() {
        return;
    }
    folder
        .run("train -q g.json --device emulator --output-dir emulated")
        .code(0);
    let [cpu, emulator] = ["output/g.json", "emulated/g.json"]
        .map(|path| serde_json::from_str::<Value>(&folder.read(path)).unwrap());
    for (ours, theirs) in emulator
        .as_array()
        .unwrap()
        .iter()
        .zip(cpu.as_array().unwrap())
    {
        for key in ["train_loss", "val_loss", "model_norm"] {
            let [x, y] = [ours, theirs].map(|run| run["history"][2][key].as_f64().unwrap());
            assert!(
                (x / y - 1.0).abs() < 1e-4,
                "{key}: {x} for {y} of {}",
                theirs["config"]
            );
        }
    }
}
