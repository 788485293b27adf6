//! `compare` among methods, and `profile`: what is said where there is much or little to go by.

use serde_json::{Value, json};

use crate::common::program::Folder;

/// A run: method, learning rate, seed, and its scores by epoch.
type Run<'a> = (&'a str, f64, usize, &'a [f64]);

fn output(folder: &Folder, id: &str, runs: &[Run]) {
    let run = |(name, lr, seed, scores): &Run| {
        let epoch = |(epoch, score): (usize, &f64)| json!({"epoch": epoch, "train_loss": 1.0 - score, "val_score": score, "train_epoch_time": 0.5});
        let history: Vec<Value> = scores.iter().enumerate().map(epoch).collect();
        json!({
            "config": {"opt": {"name": name, "lr": lr}, "run_id": seed, "score_func": "logistic_accuracy"},
            "history": history, "summary": {"num_batches_per_epoch": 10},
        })
    };
    let runs: Vec<Value> = runs.iter().map(run).collect();
    folder.write(&format!("output/{id}.json"), Value::from(runs).to_string());
}

/// Two methods whose seeds vary far more than the methods differ, seed by seed.
fn in_step() -> Folder {
    let folder = Folder::new();
    let runs: [Run; 9] = [
        ("adam", 0.1, 0, &[0.5, 0.600]),
        ("adam", 0.1, 1, &[0.5, 0.700]),
        ("adam", 0.1, 2, &[0.5, 0.800]),
        ("momo", 0.1, 0, &[0.5, 0.611]),
        ("momo", 0.1, 1, &[0.5, 0.710]),
        ("momo", 0.1, 2, &[0.5, 0.809]),
        ("sgd", 0.1, 0, &[0.1, 0.101]),
        ("sgd", 0.1, 1, &[0.1, 0.100]),
        ("sgd", 0.1, 2, &[0.1, 0.099]),
    ];
    output(&folder, "x", &runs);
    folder
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn pairs_find_what_two_groups_hide() {
    let folder = in_step();
    let methods = "compare x --metric val_score --methods momo,adam";
    let conclusion = |more: &str| {
        let ran = folder.run(&format!("{methods} {more} --json")).code(0);
        let found = parsed(&ran.stdout)["experiments"][0].clone();
        assert_eq!(found["baseline"], "momo");
        found["conclusion"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        conclusion(""),
        "at alpha = 0.05, momo cannot be distinguished from adam"
    );
    assert_eq!(
        conclusion("--paired"),
        "at alpha = 0.05, momo is better than adam"
    );
    assert_eq!(
        conclusion("--paired --alpha 0.001"),
        "at alpha = 0.001, momo cannot be distinguished from adam"
    );
    // --paired alone compares all methods: two tests, so that p is twice as large as one of them alone.
    let p = |text: &str, place: usize, which: &str| {
        let found = parsed(text)["experiments"][0]["methods"][place]["test"].clone();
        found[which].as_f64().unwrap()
    };
    let all = folder
        .run("compare x --metric val_score --paired --json")
        .code(0)
        .stdout;
    let larger = f64::max(p(&all, 1, "p"), p(&all, 2, "p"));
    let smaller = f64::min(p(&all, 1, "p"), p(&all, 2, "p"));
    let corrected = f64::min(p(&all, 1, "p_holm"), p(&all, 2, "p_holm"));
    assert_eq!(corrected, 2.0 * smaller);
    assert!(larger >= smaller);
    let text = folder
        .run("compare x --metric val_score --paired")
        .code(0)
        .stdout;
    let said = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "Paired t-test, p corrected by Holm for 2 tests",
        "momo is better than adam, sgd",
        "95 % interval",
    ] {
        assert!(said.contains(part), "no {part:?}: {text}");
    }
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    let worse = folder
        .run("compare x --metric val_score --baseline sgd")
        .code(0)
        .stdout;
    let said = worse.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("sgd is worse than momo, adam"), "{worse}");
}

#[test]
fn intervals_come_from_resamples_if_told() {
    let folder = in_step();
    let interval = |more: &str| {
        let command = format!("compare x --metric val_score --methods momo,adam --json {more}");
        let found = parsed(&folder.run(&command).code(0).stdout);
        let all = found["experiments"][0]["methods"][0]["interval"].clone();
        [0, 1].map(|side| all[side].as_f64().unwrap())
    };
    let (t, resampled) = (interval(""), interval("--bootstrap 1000"));
    assert!(
        t[0] < resampled[0] && resampled[0] >= 0.611 && resampled[1] <= 0.809,
        "{t:?} {resampled:?}"
    );
    let wider = interval("--alpha 0.01");
    assert!(wider[0] < t[0] && wider[1] > t[1]);
}

#[test]
fn what_cannot_be_tested_is_said() {
    let folder = Folder::new();
    let runs: [Run; 7] = [
        ("adam", 0.1, 0, &[0.6]),
        ("adam", 0.1, 1, &[0.7]),
        ("momo", 0.1, 5, &[0.8]),
        ("momo", 0.1, 6, &[0.9]),
        ("sgd", 0.1, 0, &[0.5]),
        ("twin", 0.1, 5, &[0.8]),
        ("twin", 0.1, 6, &[0.9]),
    ];
    output(&folder, "x", &runs);
    let command = "compare x --metric val_score --baseline momo";
    folder
        .run(&format!("{command} --methods adam --paired"))
        .code(2)
        .says(&["no seeds in common", "--paired"]);
    let some = folder.run(&format!("{command} --paired")).code(0).stdout;
    assert_eq!(some.matches("no common seeds").count(), 2, "{some}");
    assert!(some.contains("equal"), "{some}");
    let said = some.split_whitespace().collect::<Vec<_>>().join(" ");
    let conclusion = "Conclusion: at alpha = 0.05, momo cannot be distinguished from twin; not tested: adam, sgd.";
    assert!(said.contains(conclusion), "{some}");
    let ran = folder.run(command).code(0);
    assert!(
        ran.stderr.contains("one seed has no interval"),
        "{}",
        ran.stderr
    );
    assert!(ran.stdout.contains("one seed"), "{}", ran.stdout);
    // A record has no single runs.
    folder.run("record x --out x.csv").code(0);
    let ran = folder
        .run("compare x.csv --metric val_score --methods all")
        .code(0);
    assert!(
        ran.stderr.contains("a record holds means"),
        "{}",
        ran.stderr
    );
    let said = ran.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        said.contains("Conclusion: nothing could be tested."),
        "{said}"
    );
    folder
        .run("compare x --methods lion")
        .code(2)
        .says(&["\"lion\"", "adam, momo, sgd, twin"]);
    folder
        .run("compare x --baseline lion")
        .code(2)
        .says(&["\"lion\""]);
    for bad in [
        "--alpha 0",
        "--alpha 1",
        "--alpha x",
        "--bootstrap 0",
        "--target 0.5 --sigma 0",
        "--sigma 1",
    ] {
        folder.run(&format!("compare x {bad}")).code(2);
    }
}

#[test]
fn outputs_are_tested_setting_by_setting() {
    let folder = in_step();
    let runs: [Run; 3] = [
        ("adam", 0.1, 0, &[0.5, 0.590]),
        ("adam", 0.1, 1, &[0.5, 0.691]),
        ("adam", 0.1, 2, &[0.5, 0.789]),
    ];
    output(&folder, "old", &runs);
    let command = "compare x --against output/old.json --metric val_score --paired";
    let ran = folder.run(command).code(0);
    assert!(ran.stdout.contains("adam, lr=0.1"), "{}", ran.stdout);
    let said = "paired t-test: 1 of 1 differences are significant at alpha = 0.05";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    let json = parsed(&folder.run(&format!("{command} --json")).code(0).stdout);
    let difference = json["rows"][0]["test"]["difference"].as_f64().unwrap();
    assert!((difference - 0.01).abs() < 1e-12, "{json}");
    assert_eq!(json["rows"][0]["agrees"], true);
}

#[test]
fn targets_are_reached_and_reached_for_sure() {
    let folder = Folder::new();
    let runs: [Run; 6] = [
        ("adam", 0.1, 0, &[0.50, 0.800, 0.90]),
        ("adam", 0.1, 1, &[0.52, 0.801, 0.92]),
        ("adam", 10.0, 0, &[0.1, 0.1, 0.95]),
        ("momo", 0.1, 0, &[0.50, 0.70, 0.82]),
        ("momo", 0.1, 1, &[0.52, 0.72, 0.84]),
        ("sgd", 0.1, 0, &[0.1, 0.1, 0.1]),
    ];
    output(&folder, "x", &runs);
    let methods = |more: &str| {
        let ran = folder
            .run(&format!("compare x --target 0.8 --json {more}"))
            .code(0);
        let found = parsed(&ran.stdout)["experiments"][0].clone();
        let methods = found["methods"].as_array().unwrap().clone();
        (found["sigma"].as_f64().unwrap(), methods)
    };
    let (sigma, found) = methods("");
    // Both settings with two seeds end 0.02 apart.
    assert!((sigma - 0.02 / f64::sqrt(2.0)).abs() < 1e-12, "{sigma}");
    let times = |key: &str| found.iter().map(|m| m[key].as_f64()).collect::<Vec<_>>();
    assert_eq!(times("first"), [Some(2.0), Some(3.0), None]);
    assert_eq!(times("significant"), [Some(3.0), None, None]);
    // At the second epoch momo is 0.0905 behind, and a difference varies as much as one run does.
    let behind = found[1]["behind"].as_f64().unwrap();
    assert!((behind - 0.0905 / sigma).abs() < 1e-9, "{behind}");
    let (_, sure) = methods("--sigma 0.0001 --clock steps");
    assert_eq!(sure[0]["first"], 20.0);
    assert_eq!(sure[0]["significant"], 20.0);
    let text = folder
        .run("compare x --target 0.8 --clock seconds")
        .code(0)
        .stdout;
    assert!(text.contains("1.00") && text.contains("never"), "{text}");
    let ran = folder.run("compare x --target 0.99").code(0);
    assert!(
        ran.stderr.contains("x: no method reaches 0.99"),
        "{}",
        ran.stderr
    );
    let ran = folder.run("compare x --target 0.8 --methods sgd").code(0);
    assert!(ran.stderr.contains("give --sigma"), "{}", ran.stderr);
}

#[test]
fn profiles_score_methods_over_experiments() {
    let folder = Folder::new();
    output(
        &folder,
        "a",
        &[("adam", 0.1, 0, &[0.5, 0.9]), ("sgd", 0.1, 0, &[0.1, 0.2])],
    );
    output(
        &folder,
        "b",
        &[("adam", 0.1, 0, &[0.5, 0.9]), ("sgd", 0.1, 0, &[0.9, 0.9])],
    );
    let command = "profile a b --target 0.8 --target b=0.85";
    let text = folder.run(command).code(0).stdout;
    let row = |method: &str| {
        let line = text.lines().find(|line| line.contains(method)).unwrap();
        line.trim_matches('│')
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    // Adam: the only one on a, and takes twice as long on b: (3 + 2)/3/2.
    assert_eq!(row("adam"), "adam 0.833 100 2.00 (1.00x) 2.00 (2.00x)");
    assert_eq!(row("sgd"), "sgd 0.500 50 missed 1.00 (1.00x)");
    assert!(text.contains("a 0.8, b 0.85"), "{text}");
    let json = parsed(&folder.run(&format!("{command} --json")).code(0).stdout);
    assert_eq!(json["methods"][1]["ratios"], json!([null, 1.0]));
    folder.run(&format!("{command} --out p.txt")).code(0);
    assert_eq!(folder.read("p.txt"), text);
    folder
        .run("profile a b --target a=0.8")
        .code(2)
        .says(&["no target for b"]);
    folder.run("profile a").code(2).says(&["--target"]);
}

#[test]
fn keys_have_columns() {
    let folder = in_step();
    let with = folder.run("record x --out with.csv").code(0);
    let without = folder.run("record x --no-ids --out without.csv").code(0);
    assert_eq!(with.stderr, without.stderr);
    let csv = folder.read("without.csv");
    assert!(
        csv.starts_with("epoch,") && csv.contains(",name,lr\n0,"),
        "{csv}"
    );
    let table = |file: &str| {
        folder
            .run(&format!("table {file} --format csv"))
            .code(0)
            .stdout
    };
    assert_eq!(
        table("with.csv").replace("with,", "without,"),
        table("without.csv")
    );
    let exported = folder
        .run("output export output/x.json --no-ids")
        .code(0)
        .stdout;
    let rows: Vec<&str> = exported.lines().collect();
    assert_eq!(
        rows[0],
        "run_id,epoch,train_loss,val_score,train_epoch_time,name,lr"
    );
    assert_eq!(rows[1], "0,0,0.5,0.5,0.5,adam,0.1");
    let listed = folder.run("output list output/x.json").code(0).stdout;
    assert!(listed.contains(" momo "), "{listed}");
    assert!(
        listed.contains("In all rows: epochs 2") && listed.contains("In no row: note"),
        "{listed}"
    );
    // `-` is stdout.
    let report = folder.run("report x --out -").code(0).stdout;
    assert!(report.starts_with("<!doctype html>") && report.ends_with("</html>\n"));
    assert!(!folder.exists("-") && !folder.exists("report.html"));
}
