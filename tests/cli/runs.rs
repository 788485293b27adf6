//! Whole runs through `train`: what stands in the output file.

use crate::common::program::{Folder, runs_in, without_times};
use serde_json::{Value, json};

/// Eight runs on the matrix factorisation, which has two layers, and steps that are reported.
fn small() -> Value {
    json!({
        "dataset": "synthetic_matrix_fac",
        "dataset_kwargs": {"p": 6, "q": 10, "n_samples": 60},
        "model": "matrix_fac",
        "model_kwargs": {"rank": 4},
        "loss_func": "squared",
        "score_func": "squared",
        "opt": [
            {"name": "momo", "lr": [0.01, 1], "lr_schedule": "sqrt"},
            {"name": "adam", "lr": [0.001, 0.01]},
        ],
        "batch_size": 8,
        "max_epoch": 4,
        "n_runs": 2,
    })
}

fn trained(folder: &Folder, arguments: &str) -> String {
    folder.run(&format!("train -q {arguments}")).code(0);
    folder.read("output/small.json")
}

fn undisturbed() -> String {
    let folder = Folder::new();
    folder.config("small", &small());
    without_times(&trained(&folder, "small.json"))
}

#[test]
fn results_do_not_depend_on_threads_or_luck() {
    let expected = undisturbed();
    assert_eq!(expected.matches("\"run_id\"").count(), 8);
    for arguments in ["--threads 1", "--threads 1", "--threads 2", "--threads 5"] {
        let folder = Folder::new();
        folder.config("small", &small());
        let text = trained(&folder, &format!("small.json {arguments}"));
        assert!(without_times(&text) == expected, "{arguments}");
    }
}

#[test]
fn a_second_train_adds_what_is_missing() {
    let folder = Folder::new();
    folder.config("small", &small());
    let first = trained(&folder, "small.json --only name=adam --only lr=0.01");
    assert_eq!(runs_in(&first), 2);
    let ran = folder.run("train small.json --json").code(0);
    assert_eq!(ran.stdout.lines().count(), 6);
    assert!(ran.stderr.contains("2 of 8 runs"), "{}", ran.stderr);
    let all = folder.read("output/small.json");
    assert!(without_times(&all) == undisturbed());
    // Kept with their times, not trained again.
    for line in first.lines().filter(|line| line.contains("_time\"")) {
        assert!(all.contains(line.trim()), "{line}");
    }
    let ran = folder.run("train small.json --json").code(0);
    assert_eq!(ran.stdout, "");
    assert_eq!(folder.read("output/small.json"), all);
}

#[test]
fn epochs_and_runs_are_told_in_lines() {
    let folder = Folder::new();
    folder.config("small", &small());
    let ran = folder
        .run("train small.json -q --log jsonl --log jsonl=epochs.jsonl --json")
        .code(0);
    let lines = |text: &str| -> Vec<Value> {
        let parsed = text.lines().map(serde_json::from_str);
        parsed.collect::<Result<_, _>>().unwrap()
    };
    let told = lines(&ran.stdout);
    assert!(told.iter().all(|line| line["schema"] == 1));
    let (runs, epochs): (Vec<Value>, Vec<Value>) =
        told.into_iter().partition(|line| line["event"] == "run");
    assert_eq!(runs.len(), 8);
    // Runs go side by side.
    let sorted = |lines: &[Value]| {
        let mut lines: Vec<String> = lines.iter().map(Value::to_string).collect();
        lines.sort();
        lines
    };
    let file = lines(&folder.read("epochs.jsonl"));
    assert!(sorted(&file) == sorted(&epochs));
    let output: Value = serde_json::from_str(&folder.read("output/small.json")).unwrap();
    let history = |run: &Value| run["history"].as_array().unwrap().len();
    let all = output.as_array().unwrap().iter();
    assert_eq!(epochs.len(), all.map(history).sum::<usize>());
    // The last line of a run has the numbers that its own line repeats.
    for run in &runs {
        let last = run["last_epoch"].as_object().unwrap();
        let mut same = epochs.iter().filter(|line| {
            line["event"] == "epoch"
                && line["id"] == "small"
                && last.iter().all(|(key, value)| line[key] == *value)
        });
        assert!(
            same.next().unwrap()["run"]
                .as_str()
                .unwrap()
                .starts_with("name=")
        );
    }
    // Without --json there is no table among them, and a file is added to.
    let ran = folder.run("train small.json -q --overwrite --log jsonl");
    assert_eq!(lines(&ran.code(0).stdout).len(), epochs.len());
    folder
        .run("train small.json -q --overwrite --log jsonl=epochs.jsonl")
        .code(0);
    assert_eq!(lines(&folder.read("epochs.jsonl")).len(), 2 * epochs.len());
    folder
        .run("train small.json --overwrite --log jsonl=nowhere/epochs.jsonl")
        .code(73)
        .says(&["nowhere/epochs.jsonl"]);
}

#[test]
fn overwrite_keeps_the_old_file_as_bak() {
    let folder = Folder::new();
    folder.config("small", &small());
    let old = trained(&folder, "small.json");
    let new = trained(&folder, "small.json --overwrite --epochs 1");
    assert_eq!(runs_in(&new), 8);
    assert_eq!(folder.read("output/small.json.bak"), old);
}

#[test]
fn overwrite_replaces_what_only_selects() {
    let folder = Folder::new();
    folder.config("small", &small());
    let old = trained(&folder, "small.json");
    let ran = folder.run("train small.json --overwrite --only name=momo --json");
    assert_eq!(ran.code(0).stdout.lines().count(), 4);
    let new = folder.read("output/small.json");
    assert_eq!(runs_in(&new), 8);
    let sorted = |text: &str| {
        let text = without_times(text);
        let mut lines: Vec<String> = text
            .lines()
            .map(|l| l.trim_matches([' ', ',']).into())
            .collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&new), sorted(&old));
    trained(&folder, "small.json --overwrite --only name=adam");
    assert_eq!(folder.read("output/small.json.bak"), old);
    assert_eq!(folder.read("output/small.json.bak.1"), new);
    let kept = old.lines().filter(|line| line.contains("_time\""));
    let times = |text: &str| {
        kept.clone()
            .filter(|line| text.contains(line.trim()))
            .count()
    };
    assert!(times(&new) < times(&old), "momo was not trained again");
}

#[test]
fn overwrite_keeps_the_old_file_in_place_until_there_is_a_new_one() {
    let folder = Folder::new();
    folder.config("small", &small());
    let old = trained(&folder, "small.json");
    let mut wrong = small();
    wrong["batch_size"] = 1000.into();
    folder.config("small", &wrong);
    folder.run("train -q small.json --overwrite").code(2);
    assert_eq!(folder.read("output/small.json"), old);
    assert!(!folder.exists("output/small.json.bak"));
}

#[test]
fn epochs_replaces_the_configs_number() {
    let folder = Folder::new();
    folder.config("small", &small());
    let text = trained(&folder, "small.json --epochs 2 --only run_id=0");
    let runs: Value = serde_json::from_str(&text).unwrap();
    for run in runs.as_array().unwrap() {
        assert_eq!(run["config"]["max_epoch"], 2);
        let history = run["history"].as_array().unwrap();
        let epochs: Vec<u64> = (history.iter())
            .map(|e| e["epoch"].as_u64().unwrap())
            .collect();
        assert_eq!(epochs, [0, 1]);
    }
}

#[test]
fn a_diverging_run_is_a_run() {
    let folder = Folder::new();
    let mut config = small();
    config["opt"] = json!({"name": "sgd", "lr": 1000});
    config["n_runs"] = 1.into();
    folder.config("small", &config);
    let ran = folder.run("train small.json").code(0);
    assert!(ran.stdout.contains("in epoch 0"), "{}", ran.stdout);
    let text = folder.read("output/small.json");
    assert!(text.contains("\"train_loss\": NaN") || text.contains("\"train_loss\": Infinity"));
    assert!(text.contains("\"diverged_epoch\": 0"), "{text}");
    assert_eq!(text.matches("\"epoch\":").count(), 4);
    assert!(serde_json::from_str::<Value>(&text).is_err());

    let strict = trained(&folder, "small.json --overwrite --strict-json");
    let runs: Value = serde_json::from_str(&strict).unwrap();
    let last = &runs[0]["history"][3];
    assert_eq!(last["train_loss"], Value::Null);
    assert!(last["learning_rate"].is_number());
    let json = folder.run("train small.json --overwrite --json").code(0);
    let line: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(line["summary"]["diverged_epoch"], 0);
    assert_eq!(line["last_epoch"]["train_loss"], Value::Null);
}

fn idx(magic: u32, sizes: &[u32], bytes: &[u8]) -> Vec<u8> {
    let head = [magic]
        .into_iter()
        .chain(sizes.iter().copied())
        .flat_map(|n| n.to_be_bytes());
    head.chain(bytes.iter().copied()).collect()
}

/// `n` images of noise, brightened in rows that depend on the label.
pub fn write_digits(folder: &Folder, name: &str, n: usize) {
    let labels: Vec<u8> = (0..n).map(|i| (i * 7 % 10) as u8).collect();
    let pixels = labels.iter().enumerate().flat_map(|(i, label)| {
        (0..28 * 28).map(move |at| {
            let noise = (i * 7919 + at * 104_729) % 61;
            let bright = if at / 28 / 2 == *label as usize {
                150
            } else {
                0
            };
            (noise + bright) as u8
        })
    });
    let pixels: Vec<u8> = pixels.collect();
    let size = n as u32;
    folder.write(
        &format!("data/MNIST/raw/{name}-images-idx3-ubyte"),
        idx(0x803, &[size, 28, 28], &pixels),
    );
    folder.write(
        &format!("data/MNIST/raw/{name}-labels-idx1-ubyte"),
        idx(0x801, &[size], &labels),
    );
}

#[test]
fn what_a_run_costs_stands_in_the_output() {
    let folder = Folder::new();
    let mut config = small();
    config["n_runs"] = json!(1);
    config["opt"] = json!([
        {"name": "sgd", "lr": 0.001},
        {"name": "adam", "lr": 0.001},
        {"name": "adam", "lr": 0.001, "lookahead_k": 5},
    ]);
    folder.config("small", &config);
    let runs: Value = serde_json::from_str(&trained(&folder, "small.json")).unwrap();
    let cost = |run: usize, key: &str| runs[run]["summary"][key].as_f64().unwrap();
    let state = [0, 1, 2].map(|run| cost(run, "state_bytes_per_parameter"));
    assert_eq!(state, [0.0, 8.0, 12.0]);
    // (4, 6) and (10, 4), and buffers begin at cache lines.
    let parameters = 64.0;
    let memory = [0, 1, 2].map(|run| cost(run, "peak_memory_bytes"));
    assert!(memory[1] >= memory[0] + 8.0 * parameters, "{memory:?}");
    assert!(memory[2] >= memory[1] + 4.0 * parameters, "{memory:?}");
    // Parameters, gradient, and a batch of inputs and targets.
    assert!(memory[0] >= 8.0 * parameters + 4.0 * 8.0 * (6.0 + 10.0));
    assert!(memory[2] < 1e5, "{memory:?}");
    // The update of SGD and of Adam; what Lookahead does behind Adam's.
    let passes = [0, 1, 2].map(|run| cost(run, "update_passes"));
    assert_eq!(passes, [1.0, 1.0, 2.0]);
    for run in 0..3 {
        let (seconds, share) = (cost(run, "update_seconds"), cost(run, "update_share"));
        assert!(seconds > 0.0 && seconds < 1.0 && share > 0.0 && share < 1.0);
    }
    let table = folder.run("table small --columns cost --format csv").stdout;
    let rows: Vec<Vec<&str>> = table.lines().map(|row| row.split(',').collect()).collect();
    assert_eq!(rows[0].len(), 7, "{table}");
    assert_eq!(rows[0][2..4], ["state (bytes/parameter)", "passes"]);
    let sgd = rows.iter().find(|row| row[1] == "sgd").unwrap();
    assert_eq!(sgd[2..4], ["0", "1.00"]);
    let history = runs[0]["history"].as_array().unwrap();
    folder.run("record small").code(0);
    let record = folder.read("records/small.csv");
    let csv = folder.run("output export output/small.json --out -").stdout;
    for key in ["train_epoch_time", "eval_epoch_time"] {
        assert!(history.iter().all(|e| e[key].as_f64().unwrap() > 0.0));
        assert!(csv.contains(key) && !record.contains(key), "{key}");
    }
}

fn digits(model_kwargs: Value, batch_size: usize) -> Value {
    json!({
        "dataset": "mnist",
        "dataset_kwargs": {"as_image": false},
        "model": "mlp",
        "model_kwargs": model_kwargs,
        "loss_func": "cross_entropy",
        "score_func": "cross_entropy_accuracy",
        "opt": {"name": "adam", "lr": 0.003},
        "batch_size": batch_size,
        "max_epoch": 20,
        "n_runs": 1,
    })
}

#[test]
fn an_mlp_overfits_one_batch_of_images() {
    let folder = Folder::new();
    write_digits(&folder, "train", 32);
    write_digits(&folder, "t10k", 10);
    let kwargs = json!({"output_size": 10, "hidden_sizes": [40, 30]});
    folder.config("digits", &digits(kwargs, 32));
    folder.run("train -q --offline digits.json").code(0);
    let runs: Value = serde_json::from_str(&folder.read("output/digits.json")).unwrap();
    let loss = |epoch: usize| runs[0]["history"][epoch]["train_loss"].as_f64().unwrap();
    assert!(loss(0) > 1.0, "{}", loss(0));
    assert!(loss(19) < 0.1 * loss(0), "{} after {}", loss(19), loss(0));
    assert_eq!(runs[0]["history"][19]["train_score"], 1.0);
    let summary = &runs[0]["summary"];
    assert_eq!(summary["input_dim"], json!([784]));
    // They are called MNIST, and are not.
    assert_eq!(summary["data"].as_str().map(str::len), Some(16));
    assert_eq!(summary["data_published"], false);
}

#[test]
fn runs_on_other_data_are_not_added() {
    let folder = Folder::new();
    write_digits(&folder, "train", 20);
    write_digits(&folder, "t10k", 10);
    let mut config = digits(json!({"output_size": 10, "hidden_sizes": [4]}), 20);
    config["max_epoch"] = json!(1);
    folder.config("digits", &config);
    let train = "train -q --offline digits.json";
    folder.run(train).code(0);
    let before = folder.read("output/digits.json");
    folder.run(train).code(0);
    // What is there needs no data.
    folder.run(&format!("{train} --data-dir none")).code(0);
    std::fs::remove_dir_all(folder.path("data")).unwrap();
    write_digits(&folder, "train", 20);
    write_digits(&folder, "t10k", 11);
    for rest in ["", "--save-weights"] {
        let ran = folder.run(&format!("{train} {rest}")).code(2);
        ran.says(&["output/digits.json holds runs of another problem", "data="]);
    }
    config["opt"]["lr"] = json!([0.003, 0.1]);
    folder.config("digits", &config);
    folder.run(train).code(2).says(&["data="]);
    assert_eq!(folder.read("output/digits.json"), before);
    // Old outputs do not say what they were trained on.
    let mut old: Value = serde_json::from_str(&before).unwrap();
    old[0]["summary"].as_object_mut().unwrap().remove("data");
    folder.write("output/digits.json", old.to_string());
    folder.run(train).code(0);
}

#[test]
fn dropout_trains_alike_on_every_number_of_threads() {
    let folder = Folder::new();
    write_digits(&folder, "train", 100);
    write_digits(&folder, "t10k", 25);
    let kwargs = |dropout: bool| {
        json!({
            "output_size": 10, "hidden_sizes": [120, 80], "bias": true, "dropout": dropout,
        })
    };
    let mut outputs = Vec::new();
    for (dropout, threads) in [(true, 1), (true, 2), (false, 1)] {
        folder.config("digits", &digits(kwargs(dropout), 30));
        folder
            .run(&format!(
                "train -q --offline digits.json --overwrite --threads {threads}"
            ))
            .code(0);
        outputs.push(without_times(&folder.read("output/digits.json")));
    }
    assert!(outputs[0] == outputs[1], "threads change the result");
    let losses = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.contains("train_loss"));
        lines.map(str::to_owned).collect()
    };
    assert_ne!(losses(&outputs[0]), losses(&outputs[2]));
    let value = |line: &str| -> f64 {
        let number = line.split(": ").nth(1).unwrap();
        number.trim_end_matches(',').parse().unwrap()
    };
    let with = losses(&outputs[0]);
    assert!(value(&with[19]) < 0.5 * value(&with[0]), "{with:?}");
}

/// The values of a key in an output, as spelled.
fn spelled<'t>(text: &'t str, key: &str) -> Vec<&'t str> {
    let values = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix(key));
    values.map(|v| v.trim_end_matches(',')).collect()
}

/// Python leaves an integer of the config an integer where it computes nothing with it; so do the published outputs.
#[test]
fn integers_that_stay_integers() {
    let folder = Folder::new();
    let mut config = small();
    config["opt"] = json!([
        {"name": "sgd", "lr": [1, 0.5], "lr_schedule": ["constant", "linear", "sqrt", "exponential_2_0.5"]},
        {"name": "momo-star", "lr": 1, "lb": [1000, 2000.0]},
    ]);
    config["max_epoch"] = json!(3);
    config["n_runs"] = json!(1);
    folder.config("int", &config);
    folder.run("train int.json --quiet").code(0);
    let text = folder.read("output/int.json");
    let rates = spelled(&text, "\"learning_rate\": ");
    let rates: Vec<&[&str]> = rates.chunks(3).collect();
    let sqrt = ["1.0", "0.7071067811865476", "0.5773502691896257"];
    assert_eq!(rates[0], ["1", "1", "1"]);
    assert_eq!(rates[1], ["1.0", "0.5", "0.3333333333333333"]);
    assert_eq!(rates[2], sqrt);
    assert_eq!(rates[3], ["1", "1", "0.5"]);
    assert_eq!(rates[4], ["0.5", "0.5", "0.5"]);
    // The lower bound is far above the loss, so it is what it was.
    let bounds = spelled(&text, "\"fstar\": ");
    assert_eq!(bounds[..3], ["1000"; 3]);
    assert_eq!(bounds[3..], ["2000.0"; 3]);
}

/// Class labels are numbers to the squared loss, as in the reference: 0 to 9, whose mean square is 28.5.
#[test]
fn the_squared_loss_takes_labels() {
    let folder = Folder::new();
    write_digits(&folder, "train", 30);
    write_digits(&folder, "t10k", 10);
    for outputs in [1, 10] {
        let mut config = digits(json!({"output_size": outputs, "hidden_sizes": [40]}), 30);
        config["loss_func"] = json!("squared");
        config["score_func"] = json!("squared");
        folder.config(&format!("to{outputs}"), &config);
    }
    folder.run("train -q --offline to1.json").code(0);
    let runs: Value = serde_json::from_str(&folder.read("output/to1.json")).unwrap();
    let loss = |epoch: usize| runs[0]["history"][epoch]["train_loss"].as_f64().unwrap();
    assert!((loss(0) / 28.5 - 1.0).abs() < 0.5, "{}", loss(0));
    assert!(loss(19) < 0.7 * loss(0), "{} after {}", loss(19), loss(0));
    let ran = folder.run("train -q --offline to10.json").code(2);
    ran.says(&["10 outputs per sample", "1 targets"]);
}

/// Nothing improves by 99 %: after the first epoch, of which there is nothing to compare with, every one reduces the rate.
#[test]
fn a_plateau_reduces_the_rate() {
    let folder = Folder::new();
    let mut config = small();
    config["opt"] = json!({"name": "sgd", "lr": 0.01, "lr_schedule": "plateau", "patience": 0, "threshold": 0.99});
    config["n_runs"] = json!(1);
    folder.config("small", &config);
    let text = trained(&folder, "small.json");
    let rates = spelled(&text, "\"learning_rate\": ");
    assert_eq!(rates, ["0.01", "0.01", "0.001", "0.0001"]);
}
