//! `train --log-every-k-steps`: what is kept of single steps, and who reads it.

use crate::common::files;
use crate::common::program::{Folder, without_times};
use serde_json::{Value, json};
use stepback_native::results::json::{Json, parse};
use stepback_native::results::output;

/// Two methods, one by steps, in batches of which the last is left out: six steps in each of three epochs.
fn config() -> Value {
    json!({
        "dataset": "synthetic_linear", "dataset_kwargs": {"p": 8, "n_samples": 92}, "model": "linear",
        "loss_func": "squared", "score_func": "squared",
        "opt": [
            {"name": "momo", "lr": 1, "lr_schedule": "sqrt", "warmup_steps": 5, "stepwise_schedule": true},
            {"name": "sgd", "lr": 0.1},
        ],
        "batch_size": 15, "max_epoch": 3, "n_runs": 2,
    })
}

fn trained(arguments: &str) -> Folder {
    let folder = Folder::new();
    folder.config("logs", &config());
    folder
        .run(&format!("train -q logs.json {arguments}"))
        .code(0);
    folder
}

/// Without what a log adds, which stands on lines of its own, and the memory that it takes.
fn without_logs(text: &str) -> String {
    let mut depth = 0;
    let mut kept = Vec::new();
    for line in text.lines() {
        let begins = line.trim() == "\"step_logs\": {";
        if begins || depth > 0 {
            depth += line.matches('{').count();
            depth -= line.matches('}').count();
        } else if !["\"peak_memory_bytes\"", "\"update_s"]
            .iter()
            .any(|key| line.contains(key))
        {
            kept.push(line);
        }
    }
    kept.join("\n")
}

#[test]
fn a_log_changes_nothing_else() {
    let plain = trained("").read("output/logs.json");
    assert!(!plain.contains("step_logs"));
    let logged = trained("--log-every-k-steps 2").read("output/logs.json");
    assert_eq!(logged.matches("\"step_logs\"").count(), 4 * 3);
    let [logged, plain] = [logged, plain].map(|text| without_times(&without_logs(&text)));
    assert!(logged == plain);
}

#[test]
fn a_log_holds_every_kth_step_of_each_epoch() {
    let folder = trained("--log-every-k-steps 4");
    let runs = output::read(&folder.path("output/logs.json")).unwrap();
    let steps = [0, 4, 6, 10, 12, 16];
    for run in &runs {
        let by_steps = run.id().contains("stepwise");
        let names: &[&str] = match by_steps {
            true => &["grad_norm", "loss", "lr"],
            false => &["grad_norm", "loss"],
        };
        let logged: Vec<&str> = run.step_logs.iter().map(|log| log.0.as_str()).collect();
        assert_eq!(logged, names);
        for (name, log) in &run.step_logs {
            let at: Vec<usize> = log.iter().map(|step| step.0).collect();
            assert_eq!(at, steps, "{name}");
            assert!(log.iter().all(|step| step.1 > 0.0), "{log:?}");
        }
        // Step 17 is the last, whose gradient the epoch has.
        let every = trained("--log-every-k-steps 1 --only run_id=0");
        let every = output::read(&every.path("output/logs.json")).unwrap();
        let same = every.iter().find(|other| other.identity == run.identity);
        if let Some(same) = same {
            let last = same.logged("grad_norm").last().unwrap();
            assert_eq!(
                *last,
                (17, *run.metric("grad_norm").unwrap().last().unwrap())
            );
            let of_run = |step: usize| same.logged("loss").iter().find(|s| s.0 == step).unwrap();
            assert!(run.logged("loss").iter().all(|step| step == of_run(step.0)));
        }
        if by_steps {
            let rates = run.logged("lr");
            assert_eq!(rates[2].1, 0.5f64.sqrt());
            assert_eq!(run.metric("learning_rate").unwrap()[1], rates[2].1);
        }
        let summary = |key: &str| run.summary[key].clone();
        assert_eq!(summary("num_batches_per_epoch"), 6);
        assert_eq!(summary("step_scheduler_on_epoch"), !by_steps);
        let last = *run.metric("model_norm").unwrap().last().unwrap();
        assert_eq!(summary("final_model_norm"), last);
        assert_ne!(summary("init_model_norm"), last);
    }
}

/// A line without its numbers, but for those that are keys, and without its comma.
fn form(line: &str) -> String {
    let line = line.trim_end_matches(',');
    let (key, value) = line.split_once(": ").unwrap_or((line, ""));
    let numbers = |text: &str| text.replace(|c: char| c.is_ascii_digit() || "-+.e".contains(c), "");
    match key.trim().starts_with('"') {
        true => format!("{key}: {}", numbers(value)),
        false => numbers(key),
    }
}

/// step-back's file of two runs and ours, letter by letter, but for the numbers' digits and what only ours says.
#[test]
fn the_file_is_that_of_the_reference() {
    let goldens = std::fs::read_to_string(files::path("records/goldens/next_steplogs.json"));
    let goldens: Value = serde_json::from_str(&goldens.unwrap()).unwrap();
    let theirs = goldens["raw_text_of_two_runs"].as_str().unwrap();
    let runs: Vec<Value> = serde_json::from_str(theirs).unwrap();
    let configs: Vec<&Value> = runs.iter().map(|run| &run["config"]).collect();
    let folder = Folder::new();
    folder.config("two", &json!(configs));
    folder
        .run("train -q two.json --log-every-k-steps 2")
        .code(0);
    let ours = folder.read("output/two.json");
    let only_ours = [
        "command",
        "commit",
        "data",
        "data_published",
        "device",
        "diverged_epoch",
        "eval_epoch_time",
        "host",
        "init_weights",
        "peak_memory_bytes",
        "precision",
        "processor",
        "state_bytes_per_parameter",
        "threads",
        "update_passes",
        "update_seconds",
        "update_share",
        "version",
    ];
    let shared = |line: &&str| {
        let key = line.trim().split('"').nth(1).unwrap_or_default();
        !only_ours.contains(&key)
    };
    let ours: Vec<String> = ours.lines().filter(shared).map(form).collect();
    let theirs: Vec<String> = theirs.lines().map(form).collect();
    assert_eq!(ours, theirs);
}

/// Python merges and filters dicts whose keys have become strings, and sorts them as such.
#[test]
fn steps_in_the_order_of_their_digits_are_read_alike() {
    let goldens = std::fs::read_to_string(files::path("records/goldens/next_steplogs.json"));
    let goldens: Value = serde_json::from_str(&goldens.unwrap()).unwrap();
    let text = goldens["raw_text_of_two_runs"].as_str().unwrap();
    let [six, eight, ten] = [
        ("6", 0.36293724179267883),
        ("8", 0.6026789546012878),
        ("10", 0.17940618097782135),
    ]
    .map(|(step, loss)| format!("\"{step}\": {loss}"));
    let gap = ",\n                        ";
    let sorted = text.replace(
        &[&six[..], &eight, &ten].join(gap),
        &[&ten[..], &six, &eight].join(gap),
    );
    assert_ne!(sorted, text);
    let folder = Folder::new();
    let read = |name: &str, text: &str| {
        let runs = output::read(&folder.write(name, text)).unwrap();
        runs.into_iter()
            .map(|run| run.step_logs)
            .collect::<Vec<_>>()
    };
    assert_eq!(read("sorted.json", &sorted), read("text.json", text));
    // And written again as they should be.
    let again = folder.run("output filter sorted.json --drop-history h --out again.json");
    again.code(2).says(&["no epoch has the key \"h\""]);
    folder
        .run("output filter sorted.json --drop-history val_loss --out again.json")
        .code(0);
    assert_eq!(
        read("again.json", &folder.read("again.json")),
        read("text.json", text)
    );
    assert!(
        folder.read("again.json").find("\"8\": ").unwrap()
            < folder.read("again.json").find("\"10\": ").unwrap()
    );
    let broken = text.replace("\"6\": 0.36", "\"six\": 0.36");
    folder.write("broken.json", broken);
    folder
        .run("table broken.json")
        .code(65)
        .says(&["epoch 1", "step_logs.loss"]);
}

#[test]
fn results_of_logs_are_shown() {
    let folder = trained("--log-every-k-steps 1");
    let ran = folder.run("plot logs stepwise").code(0);
    let names = ["grad_norm", "loss", "lr"];
    let paths = names.map(|name| format!("plots/logs/stepwise_{name}.svg"));
    assert_eq!(ran.stdout.lines().collect::<Vec<_>>(), paths);
    let rates = folder.read(&paths[2]);
    assert!(rates.contains(">Learning rate<") && rates.contains(">Step<"));
    assert!(
        rates.contains(">MoMo") && !rates.contains(">SGD"),
        "sgd goes by epochs"
    );
    assert!(folder.read(&paths[1]).contains(">Loss of the batch<"));
    let all = folder.run("plot logs --out-dir all").code(0);
    assert!(
        all.stdout.contains("all/logs/stepwise_lr.svg"),
        "{}",
        all.stdout
    );
    folder.run("report logs").code(0);
    let html = folder.read("report.html");
    assert!(html.contains("\"logged\":[\"grad_norm\",\"loss\",\"lr\"]"));
    folder.run("table logs").code(0);
    let record = folder.run("record logs --out -").code(0);
    assert!(!record.stdout.contains("step_logs"), "{}", record.stdout);

    let plain = trained("");
    plain
        .run("plot logs stepwise")
        .code(2)
        .says(&["no logged steps"]);
    let all = plain.run("plot logs").code(0);
    assert!(!all.stdout.contains("stepwise"), "{}", all.stdout);
}

#[test]
fn layers_of_the_same_steps_are_kept() {
    let folder = trained("--log-every-k-steps 2 --log-layers");
    let runs = output::read(&folder.path("output/logs.json")).unwrap();
    let plain = trained("--log-every-k-steps 2");
    let plain = output::read(&plain.path("output/logs.json")).unwrap();
    for (run, plain) in runs.iter().zip(&plain) {
        assert_eq!(run.summary["parameters"], json!(["0.weight"]));
        assert!(plain.summary.get("parameters").is_none() && plain.layer_logs.is_empty());
        assert_eq!(run.step_logs, plain.step_logs);
        for name in ["model_norm", "grad_norm", "train_loss", "val_loss"] {
            assert_eq!(run.metric(name), plain.metric(name));
        }
        let mut names: Vec<&str> = run.layer_logs.iter().map(|log| &*log.0).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["angular_update", "grad_norm", "update_norm", "weight_norm"]
        );
        let steps: Vec<usize> = run.logged("loss").iter().map(|step| step.0).collect();
        for (_, log) in &run.layer_logs {
            assert_eq!(log.iter().map(|step| step.0).collect::<Vec<_>>(), steps);
            assert!(
                log.iter()
                    .all(|(_, values)| values.len() == 1 && values[0] >= 0.0)
            );
        }
        // The one tensor is the whole network.
        let layers = run.layer_logs.iter().find(|log| log.0 == "grad_norm");
        for ((_, whole), (_, tensor)) in run.logged("grad_norm").iter().zip(&layers.unwrap().1) {
            assert!((tensor[0] / whole - 1.0).abs() < 1e-5);
        }
    }
    let ran = folder.run("train logs.json --log-layers").code(2);
    ran.says(&["--log-every-k-steps"]);
}

/// A heat map of the best setting of each method, and the numbers behind it.
#[test]
fn layers_are_drawn() {
    let folder = Folder::new();
    let mut config = config();
    config["model"] = json!("mlp");
    config["model_kwargs"] = json!({"hidden_sizes": [5], "output_size": 1, "bias": true});
    folder.config("logs", &config);
    folder
        .run("train -q logs.json --log-every-k-steps 2 --log-layers")
        .code(0);
    let shown = folder
        .run("plot logs layers --data --format svg,png")
        .code(0);
    assert_eq!(shown.stdout.lines().count(), 6);
    let runs = output::read(&folder.path("output/logs.json")).unwrap();
    let names = runs[0].summary["parameters"].as_array().unwrap();
    assert_eq!(names.len(), 4);
    let svg = folder.read("plots/logs/layers_relative_update_momo.svg");
    for name in names.iter().map(|name| name.as_str().unwrap()) {
        assert!(svg.contains(&format!(">{name}</text>")), "{svg}");
    }
    // A cell for each tensor and epoch, by hand: geometric means over three steps of two seeds.
    let csv = folder.read("plots/logs/layers_relative_update_sgd.csv");
    assert_eq!(csv.lines().count(), 1 + 4 * 3);
    let line = csv.lines().nth(1 + 3 + 1).unwrap();
    assert!(
        line.starts_with(&format!("{},1,", names[1].as_str().unwrap())),
        "{line}"
    );
    let sgd = runs.iter().filter(|run| run.id().starts_with("name=sgd"));
    let logged = |run: &output::Run, name: &str| {
        let log = run.layer_logs.iter().find(|log| log.0 == name).unwrap();
        log.1[3..6]
            .iter()
            .map(|step| step.1[1])
            .collect::<Vec<f64>>()
    };
    let ratios = sgd.flat_map(|run| {
        let [updates, weights] = ["update_norm", "weight_norm"].map(|name| logged(run, name));
        updates.into_iter().zip(weights).map(|(u, w)| u / w)
    });
    let ratios: Vec<f64> = ratios.collect();
    let mean = (ratios.iter().map(|x| x.ln()).sum::<f64>() / ratios.len() as f64).exp();
    let shown: f64 = line.split(',').nth(2).unwrap().parse().unwrap();
    assert!((shown / mean - 1.0).abs() < 1e-12, "{shown} {mean}");
    folder
        .run("plot logs layers --quantity angular-update --methods sgd")
        .code(0);
    assert!(folder.exists("plots/logs/layers_angular_update_sgd.svg"));
    let plain = trained("--log-every-k-steps 2");
    plain
        .run("plot logs layers")
        .code(2)
        .says(&["--log-layers"]);
}

#[test]
fn no_step_is_no_log() {
    let folder = Folder::new();
    folder.config("logs", &config());
    for k in ["0", "-1", "1.5", "every"] {
        let ran = folder
            .run(&format!("train logs.json --log-every-k-steps={k}"))
            .code(2);
        ran.says(&["--log-every-k-steps", k]);
    }
}

/// A JSON dict of Python's integers is one of strings here, in their order as numbers.
#[test]
fn whole_numbers_as_keys_are_sorted_as_numbers() {
    let sorted = |text: &str| -> Vec<String> {
        let text = stepback_native::results::json::dumps(&parse(text).unwrap(), false);
        match parse(&text).unwrap() {
            Json::Dict(members) => members.into_iter().map(|m| m.0.into_owned()).collect(),
            _ => panic!("no dict"),
        }
    };
    assert_eq!(sorted(r#"{"10": 1, "9": 1, "0": 1}"#), ["0", "9", "10"]);
    assert_eq!(sorted(r#"{"10": 1, "9": 1, "a": 1}"#), ["10", "9", "a"]);
    assert_eq!(sorted(r#"{"10": 1, "9": 1, "09": 1}"#), ["09", "10", "9"]);
    assert_eq!(sorted(r#"{"10": 1, "9": 1, "": 1}"#), ["", "10", "9"]);
}
