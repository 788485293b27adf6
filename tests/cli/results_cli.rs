//! The commands on results: what they write, and what they say about input that is bad.

use crate::common::files;
use std::fs;
use std::os::unix::fs::symlink;

use crate::common::program::{Folder, Ran, runs_in};
use serde_json::json;

/// The published outputs and records, in the places where the program looks for them.
fn published() -> Folder {
    let folder = Folder::new();
    for name in ["mnist_mlp-2", "test", "synthetic_small"] {
        let path = format!("records/reference/outputs/{name}.json");
        folder.write(
            &format!("output/{name}.json"),
            fs::read(files::path(&path)).unwrap(),
        );
    }
    for name in ["mnist_mlp", "imagenet32_resnet18"] {
        let path = format!("records/{name}.csv");
        folder.write(&path, fs::read(files::path(&path)).unwrap());
    }
    folder
}

/// One run of an output file: one loss and one score per epoch.
fn run(name: &str, lr: &str, seed: usize, losses: &[&str], scores: &[&str]) -> String {
    let epochs: Vec<String> = (losses.iter().zip(scores).enumerate())
        .map(|(e, (loss, score))| {
            format!(r#"{{"epoch": {e}, "train_loss": {loss}, "val_score": {score}, "train_epoch_time": 0.5}}"#)
        })
        .collect();
    let name = name.replace('"', "\\\"");
    format!(
        r#"{{"config": {{"dataset": "d", "loss_func": "l", "model": "m", "score_func": "x_accuracy",
            "opt": {{"lr": {lr}, "name": "{name}"}}, "run_id": {seed}}},
            "history": [{}], "summary": {{}}}}"#,
        epochs.join(", ")
    )
}

fn output(folder: &Folder, id: &str, runs: &[String]) {
    folder.write(
        &format!("output/{id}.json"),
        format!("[{}]", runs.join(",\n")),
    );
}

/// Every command that reads the experiment.
const READERS: [&str; 5] = [
    "record ID --out -",
    "table ID",
    "plot ID",
    "report ID",
    "compare ID",
];

fn all_refuse(folder: &Folder, id: &str, code: i32, fragments: &[&str]) {
    for command in READERS {
        let ran = folder.run(&command.replace("ID", id)).code(code);
        assert_eq!(ran.says(fragments).stdout, "", "{command}");
    }
    for name in ["plots", "report.html"] {
        assert!(!folder.exists(name), "{name} was written");
    }
}

#[test]
fn records_are_written_and_never_over_others() {
    let folder = published();
    let ran = folder.run("record test").code(0);
    assert_eq!(ran.stdout, "");
    assert!(
        ran.stderr.contains("12 settings, 10 epochs"),
        "{}",
        ran.stderr
    );
    let csv = folder.read("records/test.csv");
    assert_eq!(csv.lines().count(), 1 + 12 * 10);
    assert_eq!(folder.run("record test --out -").code(0).stdout, csv);

    let before = folder.read("records/mnist_mlp.csv");
    folder
        .run("record mnist_mlp")
        .code(73)
        .says(&["records/mnist_mlp.csv", "--overwrite"]);
    assert_eq!(folder.read("records/mnist_mlp.csv"), before);
    folder.run("record mnist_mlp --out new/mnist.csv").code(0);
    // The published outputs hold two of the record's methods, letter for letter.
    let rows: Vec<&str> = before.lines().collect();
    let ours = folder.read("new/mnist.csv");
    let ids: Vec<&str> = ours
        .lines()
        .skip(1)
        .map(|l| l.split(',').next().unwrap())
        .collect();
    assert_eq!(ids.len(), 160);
    let known = |id: &&str| rows.iter().any(|row| row.starts_with(&format!("{id},")));
    assert!(ids.iter().all(known));
    folder.run("record mnist_mlp --overwrite").code(0);
    assert_eq!(folder.read("records/mnist_mlp.csv"), ours);
}

#[test]
fn tables_come_in_four_formats() {
    let folder = published();
    let table = |arguments: &str| folder.run(&format!("table {arguments}")).code(0).stdout;
    let text = table("records/mnist_mlp.csv test");
    assert!(
        text.contains("97.97 ± 0.08 *") && text.contains("best of its experiment"),
        "{text}"
    );
    let markdown = table("records/mnist_mlp.csv --format markdown");
    assert!(
        markdown.starts_with("| experiment | adabelief |"),
        "{markdown}"
    );
    assert!(markdown.contains("**97.97 ± 0.08**"), "{markdown}");
    let latex = table("records/mnist_mlp.csv --format latex");
    assert!(latex.contains("\\textbf{97.97 $\\pm$ 0.08}"), "{latex}");
    // Two methods that end with the same score are both the best.
    let tied = table("test --format markdown");
    assert_eq!(tied.matches("**91.00 ± 4.24**").count(), 3, "{tied}");

    let columns = "score,setting,epochs,time,area,robustness";
    let csv = table(&format!(
        "mnist_mlp --columns {columns} --target 0.95 --format csv"
    ));
    let header = "experiment,method,score,setting,epochs to target,seconds to target,area,robustness (decades)";
    assert_eq!(csv.lines().next(), Some(header));
    assert_eq!(csv.lines().count(), 3, "{csv}");
    folder
        .run("table test --columns epochs")
        .code(2)
        .says(&["--target"]);
    // The last epoch of this run is not the average of the last five.
    let cut = table("test --cutoff 5 --format csv");
    assert_ne!(cut, table("test --format csv"));
    assert_ne!(cut, table("test --cutoff 5:7 --format csv"));
    let beyond = folder.run("table test --cutoff 500 --format csv").code(0);
    assert_eq!(beyond.stdout, table("test --format csv"));
    assert!(
        beyond.stderr.contains("before --cutoff 500"),
        "{}",
        beyond.stderr
    );
    folder
        .run("table test --cutoff 7:5")
        .code(2)
        .says(&["expected A:B with A at most B"]);
    table("test --out t/best.txt");
    assert_eq!(folder.read("t/best.txt"), table("test"));
}

#[test]
fn comparisons_tell_what_differs() {
    let folder = published();
    let same = folder.run("compare mnist_mlp --strict").code(0);
    assert!(same.stderr.contains("32 of 32 agree"), "{}", same.stderr);
    assert_eq!(same.stdout.matches(" agrees ").count(), 32);

    let seeds = |last: [&str; 3]| -> Vec<String> {
        (last.iter().enumerate())
            .map(|(seed, score)| run("adam", "0.1", seed, &["1.0"], &[score]))
            .collect()
    };
    output(&folder, "theirs", &seeds(["0.80", "0.81", "0.82"]));
    folder.run("record theirs").code(0);
    output(&folder, "mine", &seeds(["0.85", "0.86", "0.87"]));
    let ran = folder.run("compare mine --against theirs").code(0);
    assert!(
        ran.stdout.contains("+5.00") && ran.stdout.contains("differs"),
        "{}",
        ran.stdout
    );
    folder.run("compare mine --against theirs --strict").code(1);
    folder
        .run("compare mine --against records/theirs.csv --metric train_loss --strict")
        .code(0);
    folder
        .run("compare mine --against theirs --metric loss")
        .code(2)
        .says(&["\"loss\"", "train_loss"]);
    folder
        .run("compare mine")
        .code(2)
        .says(&["records/mine.csv"]);
    // Nothing in common is no agreement.
    let longer = run("adam", "0.1", 0, &["1.0", "0.9"], &["0.5", "0.5"]);
    output(&folder, "long", &[longer]);
    let ran = folder.run("compare long --against theirs --strict").code(2);
    let text = "my runs (long) end with epoch 1, those of the record (theirs) with epoch 0";
    ran.says(&[text]);
    output(
        &folder,
        "other",
        &[run("sgd", "0.1", 0, &["1.0"], &["0.5"])],
    );
    let ran = folder
        .run("compare other --against theirs --strict")
        .code(1);
    assert!(
        ran.stderr.contains("nothing was compared"),
        "{}",
        ran.stderr
    );
    folder.run("compare other --against theirs").code(0);
    // A record is no output.
    folder
        .run("compare imagenet32_resnet18")
        .code(2)
        .says(&["no imagenet32_resnet18.json"]);
}

#[test]
fn figures_are_written_in_every_format() {
    let folder = published();
    for (format, start) in [("svg", "<svg "), ("png", "\u{89}PNG"), ("pdf", "%PDF-")] {
        let ran = folder
            .run(&format!("plot test --format {format} --width 3.3"))
            .code(0);
        let paths: Vec<&str> = ran.stdout.lines().collect();
        assert_eq!(
            paths.len(),
            7,
            "two metrics, two figures each, and three of steps"
        );
        for path in paths {
            let bytes = fs::read(folder.path(path)).unwrap();
            let head: String = bytes.iter().take(5).map(|b| char::from(*b)).collect();
            assert!(
                head.starts_with(&start[..start.len().min(4)]),
                "{path}: {head}"
            );
        }
    }
    let one = folder
        .run("plot mnist_mlp curves --metric val_loss --methods adabound --top 2 --out-dir p");
    assert_eq!(one.code(0).stdout, "p/mnist_mlp/curves_val_loss.svg\n");
    let svg = folder.read("p/mnist_mlp/curves_val_loss.svg");
    assert!(svg.contains(">AdaBound, lr = 0.001</text>") && !svg.contains("AdaBelief"));
    // Records hold no steps: that is an error only where nothing else was asked for.
    let some = folder.run("plot records/mnist_mlp.csv").code(0);
    assert_eq!(some.stdout.lines().count(), 4);
    assert!(some.stderr.contains("no step sizes"), "{}", some.stderr);
    folder
        .run("plot records/mnist_mlp.csv steps")
        .code(2)
        .says(&["no step sizes"]);
    folder
        .run("plot test --width 1")
        .code(2)
        .says(&["from 2 to 40"]);
    let many = "plot test curves --format png,pdf --script --out-dir many --metric val_score";
    let many = folder.run(many).code(0);
    let names = ["png", "pdf", "csv", "py"].map(|e| format!("many/test/curves_val_score.{e}\n"));
    assert_eq!(many.stdout, names.concat());
    let panels = folder
        .run("plot test mnist_mlp stability --panels --out-dir two")
        .code(0);
    assert_eq!(
        panels.stdout,
        "two/test/stability_train_loss_val_score.svg\ntwo/mnist_mlp/stability_train_loss_val_score.svg\n"
    );
    let wrong = folder.run("plot mnist_mlp curvs").code(2);
    assert!(
        wrong
            .stderr
            .ends_with("did you mean the figure \"curves\"?\n"),
        "{}",
        wrong.stderr
    );
    folder
        .run("plot test --format bmp")
        .code(2)
        .says(&["svg, png, pdf"]);
    let profile = "plot mnist_mlp imagenet32_resnet18 profile --target 0.3 --target mnist_mlp=0.97";
    assert_eq!(
        folder.run(profile).code(0).stdout,
        "plots/profile_val_score.svg\n"
    );
    folder
        .run("plot mnist_mlp profile")
        .code(2)
        .says(&["no target for mnist_mlp"]);
    folder
        .run("plot records/mnist_mlp.csv time")
        .code(2)
        .says(&["how many seconds"]);
    let told = "plot test curves --cutoff 500 --out-dir cut --title= --ylim 0.1: --legend inside --theme print";
    let told = folder.run(told).code(0);
    assert!(
        told.stderr.contains("before --cutoff 500"),
        "{}",
        told.stderr
    );
    folder
        .run("plot test --target 1")
        .code(2)
        .says(&["`profile`"]);
    for (limits, why) in [
        ("5", "LOW:HIGH"),
        ("2:1", "LOW below HIGH"),
        ("a:", "expected a finite number"),
    ] {
        folder
            .run(&format!("plot test --ylim {limits}"))
            .code(2)
            .says(&[why]);
    }
    for bad in [
        "plot test --top 0",
        "plot test --sigma=-1",
        "plot test --sigma -1",
        "compare test --alpha -1",
        "plot test --height 50",
        "report test --target nan",
        "table test --columns time --target inf",
    ] {
        folder.run(bad).code(2).says(&["invalid value"]);
    }
    folder
        .run("table test --columns epochs --target -1")
        .code(0);
}

#[test]
fn names_do_not_reach_the_terminal_as_they_are() {
    let folder = Folder::new();
    let runs = |name: &str| {
        let config = json!({"opt": {"name": name, "lr": 0.1}, "run_id": 0});
        json!([{"config": config, "history": [{"epoch": 0, "train_loss": 1.0, "val_score": 0.5}]}])
    };
    let name = "=a\u{1b}[31m\nbreak|b\u{9b}";
    folder.write("output/x.json", runs(name).to_string());
    for (command, lines) in [
        ("table x --format text", 7),
        ("table x --format markdown", 5),
        ("table x --format latex", 12),
        ("table x --format csv", 2),
        ("output list output/x.json --width 100", 5),
        ("record x --out -", 2),
        ("output export output/x.json", 2),
        ("plot x curves", 2),
    ] {
        let ran = folder.run(command).code(0);
        let shown = ran.stdout.replace('\n', "");
        assert!(!shown.contains(char::is_control), "{command}: {shown:?}");
        assert!(
            !ran.stdout.contains(",=a") && !ran.stdout.starts_with("=a"),
            "{command}: {shown}"
        );
        assert_eq!(
            ran.stdout.lines().count(),
            lines,
            "{command}: {}",
            ran.stdout
        );
    }
    // What is read back is the name, as it was shown.
    folder.run("record x").code(0);
    let again = folder
        .run("table records/x.csv --format csv")
        .code(0)
        .stdout;
    assert_eq!(again, folder.run("table x --format csv").code(0).stdout);
    // File names, in errors as well.
    folder.write("output/y\u{1b}.json", runs("adam").to_string());
    folder.write("bad\u{1b}.json", "[");
    let plot = folder.run("plot y\u{1b} curves").code(0);
    assert!(plot.stdout.contains("plots/y\\u{1b}/"), "{}", plot.stdout);
    assert!(folder.exists("plots/y\u{1b}/curves_val_score.svg"));
    let error = folder
        .run("table bad\u{1b}.json")
        .code(65)
        .says(&["bad\\u{1b}.json"]);
    assert!(!error.stderr.contains('\u{1b}'), "{}", error.stderr);
}

#[test]
fn characters_without_a_glyph_are_told_once() {
    let folder = published();
    folder.write("实验.csv", folder.read("records/mnist_mlp.csv"));
    let png = folder
        .run("plot 实验.csv --format png --metric val_score")
        .code(0);
    assert_eq!(
        png.stderr.matches("lacks: 实 验").count(),
        1,
        "{}",
        png.stderr
    );
    let svg = folder.run("plot 实验.csv").code(0);
    assert!(!svg.stderr.contains("lacks"), "{}", svg.stderr);
}

#[test]
fn reports_hold_all_experiments() {
    let folder = published();
    let ran = folder
        .run("report test records/mnist_mlp.csv --target 0.8")
        .code(0);
    assert_eq!(ran.stdout, "report.html\n");
    let html = folder.read("report.html");
    for part in [
        "Report: test, mnist_mlp",
        "epochs to target",
        "name=momo-adam:lr=",
    ] {
        assert!(html.contains(part), "no {part}");
    }
    folder.write(
        "configs/own.json",
        fs::read(files::path("configs/test.json")).unwrap(),
    );
    folder
        .run("train -q configs/own.json --only name=adam")
        .code(0);
    assert_eq!(
        folder
            .read("output/own.json")
            .matches("\"precision\": \"fp32\"")
            .count(),
        6
    );
    folder.run("report own --out own.html").code(0);
    assert_eq!(
        folder.read("own.html").matches("\"cpu\",\"fp32\"").count(),
        6
    );
    folder.run("report test --out r/x.html").code(0);
    assert!(!folder.read("r/x.html").contains("epochs to target"));
}

#[test]
fn output_files_are_listed_merged_filtered_and_exported() {
    let folder = published();
    let list = folder
        .run("output list output/test.json --format csv")
        .code(0)
        .stdout;
    assert_eq!(list.lines().count(), 1 + 24);
    assert!(
        list.starts_with("run,run_id,epochs,train_loss,val_score,seconds,note\n"),
        "{list}"
    );
    let lost = folder
        .run("output list output/synthetic_small.json")
        .code(0)
        .stdout;
    assert_eq!(lost.matches("diverged in epoch").count(), 6);

    folder
        .run("output filter output/test.json --keep name=momo --out d/momo.json")
        .code(0);
    let rest = "output filter output/test.json --drop name=momo --out d/rest.json";
    let ran = folder.run(rest).code(0);
    assert_eq!(ran.stderr, "18 runs kept, 6 dropped\n");
    folder
        .run(rest)
        .code(73)
        .says(&["d/rest.json", "--overwrite"]);
    folder.run(&format!("{rest} --overwrite")).code(0);
    let ran = folder.run("output merge d --out all.json").code(0);
    assert_eq!(ran.stderr, "24 runs of 2 files\n");
    assert_eq!(runs_in(&folder.read("all.json")), 24);
    folder
        .run("output merge d d/momo.json")
        .code(65)
        .says(&["d/momo.json", "there already"]);
    folder
        .run("output merge d output/mnist_mlp-2.json")
        .code(65)
        .says(&["do not mix"]);
    folder
        .run("output merge nothing")
        .code(2)
        .says(&["nothing"]);
    fs::create_dir(folder.path("empty")).unwrap();
    folder
        .run("output merge empty")
        .code(2)
        .says(&["empty", "no output"]);

    let csv = folder.run("output export d/momo.json").code(0).stdout;
    assert_eq!(csv.lines().count(), 1 + 6 * 10);
    assert!(csv.starts_with("id,run_id,epoch,") && csv.contains("train_epoch_time"));
    let short = "output filter output/test.json --drop-history step_size_list";
    assert!(!folder.run(short).code(0).stdout.contains("step_size_list"));
    folder
        .run("output filter output/test.json --keep nme=momo --out none.json")
        .code(2)
        .says(&["nme=momo: no run has this key (did you mean \"name\"?)"]);
    assert!(!folder.exists("none.json"));
    folder
        .run("output filter output/test.json --keep lr")
        .code(2)
        .says(&["KEY=VALUE"]);
}

/// Nothing of the kind, and nothing behind.
#[test]
fn an_id_without_output_is_answered_with_what_is_there() {
    let folder = published();
    all_refuse(
        &folder,
        "tset",
        2,
        &["tset", "mnist_mlp-2, synthetic_small, test"],
    );
    let empty = Folder::new();
    empty
        .run("table x")
        .code(2)
        .says(&["output has nothing", "records has nothing"]);
    empty.run("record x").code(2).says(&["there is nothing"]);
    empty
        .run("table x.json")
        .code(2)
        .says(&["x.json: no such file"]);
    empty
        .run("output list x.json")
        .code(2)
        .says(&["x.json: no such file"]);
}

#[test]
fn files_that_are_no_outputs_are_named() {
    let folder = Folder::new();
    for (text, what) in [
        ("text", "line 1 column 1"),
        (
            "{}",
            "expected '[' and the list of runs; is it a config? its experiment is called x",
        ),
        ("[3]", "not a run"),
        ("[{\"config\": {}}]", "not a run"),
        ("[]", "no runs"),
        ("id,epoch\n", "line 1"),
    ] {
        folder.write("output/x.json", text);
        all_refuse(&folder, "x", 65, &["x", what]);
    }
    folder.write("output/x.json", b"[\"\xff\"]");
    all_refuse(&folder, "x", 65, &["x.json: not UTF-8"]);
    folder.write("x.csv", "a,b\n1,2\n");
    folder
        .run("table x.csv")
        .code(65)
        .says(&["x.csv: not a record"]);
    fs::create_dir(folder.path("output/y.json")).unwrap();
    all_refuse(&folder, "y", 74, &["y.json"]);
}

#[test]
fn a_file_that_is_being_written_is_not_read_as_whole() {
    let folder = published();
    let whole = folder.read("output/test.json");
    folder.write("output/test.json", &whole[..whole.len() / 2]);
    all_refuse(&folder, "test", 65, &["test.json: line", "being written"]);
    for command in [
        "output list",
        "output merge",
        "output filter",
        "output export",
    ] {
        let ran = folder.run(&format!("{command} output/test.json")).code(65);
        assert_eq!(ran.says(&["test.json: line", "being written"]).stdout, "");
    }
    // What a save is writing has another name until it is whole.
    folder.write("output/test.json", &whole);
    folder.write("output/.tmp-test-AbCdEf", &whole[..99]);
    folder.run("record test --out -").code(0);
    folder.run("output merge output/test.json").code(0);
}

#[test]
fn runs_that_do_not_fit_together_are_named() {
    let folder = Folder::new();
    let long = run("adam", "0.1", 0, &["1", "2"], &["0.5", "0.5"]);
    let short = run("adam", "0.1", 1, &["1"], &["0.5"]);
    output(&folder, "x", &[long.clone(), short]);
    let note = "x: 1 of 1 settings have seeds of different lengths and end with the shortest: name=adam:lr=0.1";
    for arguments in ["table x", "record x --out -"] {
        let ran = folder.run(arguments).code(0);
        assert!(ran.stderr.contains(note), "{}", ran.stderr);
        let cut = folder.run(&format!("{arguments} --common-epochs")).code(0);
        assert!(!cut.stderr.contains("lengths"), "{}", cut.stderr);
    }
    folder
        .run("table x --keep lr=0.3")
        .code(2)
        .says(&["lr=0.3: no run has this value (the runs have 0.1)"]);
    output(&folder, "x", std::slice::from_ref(&long));
    output(&folder, "x-1", &[long]);
    let named = [
        "the same run twice",
        "name=adam:lr=0.1",
        "x.json",
        "x-1.json",
    ];
    all_refuse(&folder, "x", 65, &named);
    // One that has more than the rest can be filtered out, as the message says.
    folder.run("output list output/x.json").code(0);
}

/// A run with these keys of its config in place of others.
fn run_with(config: &str, seed: usize, losses: &[&str], scores: &[&str]) -> String {
    let whole = run("adam", "0.1", seed, losses, scores);
    whole.replacen("{\"config\": {", &format!("{{\"config\": {{{config}, "), 1)
}

#[test]
fn what_differs_besides_the_optimizer_is_part_of_the_setting() {
    let folder = Folder::new();
    let mut runs = Vec::new();
    for (size, score) in [("8", "0.9"), ("16", "0.8")] {
        let config = format!("\"batch_size\": {size}");
        runs.push(run_with(&config, 0, &["1", "0.5"], &["0.5", score]));
        runs.push(run_with(&config, 1, &["1", "0.5"], &["0.5", score]));
    }
    output(&folder, "x", &runs);
    let table = folder
        .run("table x --columns score,setting --format csv")
        .code(0)
        .stdout;
    let header = "experiment,method,score,setting\n";
    let row = "x,adam,90.00 ± 0.00,\"lr=0.1, batch_size=8\"\n";
    assert_eq!(table, format!("{header}{row}"));
    let csv = folder.run("record x --out records/x.csv").code(0);
    assert!(
        csv.stderr
            .contains("2 settings, 2 epochs, seeds of each: 2"),
        "{}",
        csv.stderr
    );
    let csv = folder.read("records/x.csv");
    let rows: Vec<&str> = csv.lines().collect();
    assert_eq!(
        rows[0],
        "id,epoch,train_loss,val_score,train_loss_std,val_score_std,name,lr,batch_size"
    );
    assert_eq!(
        rows[2],
        "name=adam:lr=0.1:batch_size=16,1,0.5,0.8,0.0,0.0,adam,0.1,16"
    );
    folder.run("plot x").code(0);
    let svg = folder.read("plots/x/stability_val_score.svg");
    for label in [
        ">Adam, batch size = 8</text>",
        ">Adam, batch size = 16</text>",
    ] {
        assert!(svg.contains(label), "no {label}");
    }
    folder.run("report x").code(0);
    assert!(
        folder
            .read("report.html")
            .contains("\"line\":\"batch_size=16\"")
    );
    let compared = folder.run("compare x --strict").code(0);
    assert!(
        compared.stderr.contains("4 of 4 agree"),
        "{}",
        compared.stderr
    );
    // Another output is compared by all that was chosen, even where nothing differs within it.
    output(&folder, "y", &runs[2..]);
    let compared = folder.run("compare x --against output/y.json").code(0);
    assert!(
        compared
            .stderr
            .contains("1 settings only in the output, 0 only"),
        "{}",
        compared.stderr
    );
    // What does not differ is no part of a label.
    let table = folder
        .run("table y --columns setting --format csv")
        .code(0)
        .stdout;
    assert_eq!(table, "experiment,method,setting\ny,adam,lr=0.1\n");
}

#[test]
fn results_of_different_problems_are_ranked_apart() {
    let folder = Folder::new();
    let other = |run: String| run.replace("x_accuracy", "squared");
    let runs = [
        run("adam", "0.1", 0, &["1", "0.5"], &["0.5", "0.6"]),
        run("sgd", "0.1", 0, &["1", "0.5"], &["0.5", "0.7"]),
        other(run("sgd", "0.1", 1, &["1", "0.5"], &["7", "8"])),
        other(run("adam", "0.1", 1, &["1", "0.5"], &["7", "9"])),
    ];
    output(&folder, "x", &runs);
    let rows = "experiment,adam,sgd\n\
                x (score_func=squared),9.00,8.00\n\
                x (score_func=x_accuracy),60.00,70.00\n";
    assert_eq!(folder.run("table x --format csv").code(0).stdout, rows);
    let text = folder.run("table x").code(0).stdout;
    assert!(
        text.contains("70.00 *") && text.contains("8.00 *"),
        "{text}"
    );
    // A record keeps them apart, too.
    folder.run("record x --out r.csv").code(0);
    let again = folder.run("table r.csv --format csv").code(0).stdout;
    assert_eq!(again.replace("r (", "x ("), rows);
    folder.run("plot x curves --metric val_score").code(0);
    for part in ["score_func=squared", "score_func=x_accuracy"] {
        assert!(
            folder.exists(&format!("plots/x/{part}/curves_val_score.svg")),
            "{part}"
        );
    }
    folder.run("report x").code(0);
    assert!(
        folder
            .read("report.html")
            .contains("x (score_func=squared)")
    );
    output(&folder, "y", &runs[2..]);
    output(&folder, "z", &runs[..2]);
    let merged = folder
        .run("output merge output/y.json output/z.json")
        .code(65);
    merged.says(&[
        "z.json",
        "score_func=x_accuracy instead of squared",
        "do not mix",
    ]);
}

#[test]
fn a_look_is_not_ranked_beside_whole_runs() {
    let folder = Folder::new();
    let runs = [
        run_with("\"max_epoch\": 1", 0, &["1"], &["0.9"]),
        run_with("\"max_epoch\": 2", 0, &["1", "0.5"], &["0.9", "0.6"]),
    ];
    output(&folder, "x", &runs);
    let ran = folder.run("table x --format csv").code(0);
    assert_eq!(ran.stdout, "experiment,adam\nx,60.00\n");
    let note = "x: 1 of 2 settings are left out, which end before epoch 1\n";
    assert_eq!(ran.stderr, note);
    for command in ["record x --out records/x.csv", "plot x", "report x"] {
        folder.run(command).code(0);
    }
    let csv = folder.read("records/x.csv");
    assert_eq!(csv.lines().count(), 1 + 1 + 2);
    assert!(csv.contains("name=adam:lr=0.1:max_epoch=1,0,"), "{csv}");
    assert_eq!(
        folder
            .run("table records/x.csv --format csv")
            .code(0)
            .stdout,
        ran.stdout
    );
    // A record of the whole runs alone does not say max_epoch.
    output(&folder, "whole", &runs[1..]);
    folder.run("record whole").code(0);
    let ran = folder.run("compare x --against whole --strict").code(0);
    assert!(ran.stderr.contains("2 of 2 agree"), "{}", ran.stderr);
}

#[test]
fn what_diverged_never_wins() {
    let folder = Folder::new();
    let runs = [
        run("sgd", "0.1", 0, &["NaN", "NaN"], &["1.0", "1.0"]),
        run("sgd", "1", 0, &["1", "0.5"], &["0.5", "0.6"]),
        run("lost", "1", 0, &["1", "Infinity"], &["0.5", "0.99"]),
    ];
    output(&folder, "x", &runs);
    let text = folder
        .run("table x --columns score,setting --format markdown")
        .code(0)
        .stdout;
    assert!(text.contains("| sgd | **60.00** |"), "{text}");
    assert!(text.contains("| lost | 99.00 (diverged) |"), "{text}");
    assert!(text.contains("setting lr=1."), "{text}");
    folder.run("plot x curves --metric val_score").code(0);
    let svg = folder.read("plots/x/curves_val_score.svg");
    for label in [">SGD, lr = 1</text>", ">lost, lr = 1 (diverged)</text>"] {
        assert!(svg.contains(label), "no {label}");
    }
}

#[test]
fn methods_without_the_metric_are_left_out() {
    let folder = published();
    let table = folder
        .run("table synthetic_small --score fstar --format csv")
        .code(0)
        .stdout;
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(
        rows[0],
        "experiment,adam,momo,momo-adam,momo-adam-star,momo-star,sgd-m"
    );
    let cells: Vec<&str> = rows[1].split(',').collect();
    assert_eq!([cells[1], cells[2], cells[3], cells[6]], [""; 4], "{table}");
    assert!(cells[4..6].iter().all(|cell| cell.contains('±')), "{table}");
    folder.run("record synthetic_small --out s.csv").code(0);
    let again = folder
        .run("table s.csv --score fstar --format csv")
        .code(0)
        .stdout;
    assert_eq!(again.replace("s,,", "synthetic_small,,"), table);
}

#[test]
fn hidden_choices_and_uneven_seeds_are_shown() {
    let folder = Folder::new();
    let with = |schedule: &str, seed: usize, score: &str| {
        let run = run("adam", "0.1", seed, &["1", "0.5"], &["0.5", score]);
        run.replace(
            "\"lr\": 0.1",
            &format!("\"lr\": 0.1, \"lr_schedule\": \"{schedule}\""),
        )
    };
    let runs = [
        with("sqrt", 0, "0.6"),
        with("sqrt", 1, "0.6"),
        with("constant", 0, "0.7"),
    ];
    output(&folder, "x", &runs);
    folder.run("plot x --metric val_score").code(0);
    let svg = folder.read("plots/x/stability_val_score.svg");
    for label in [
        ">Adam, schedule = constant, 1 seed<",
        ">Adam, schedule = sqrt, 2 seeds<",
    ] {
        assert!(svg.contains(label), "no {label}: {svg}");
    }
    let svg = folder.read("plots/x/curves_val_score.svg");
    assert!(
        svg.contains(">Adam, lr = 0.1, schedule = constant, 1 seed<"),
        "{svg}"
    );
    let table = folder.run("table x --format csv").code(0).stdout;
    assert_eq!(table, "experiment,adam\nx,70.00 (1 seed)\n");
}

#[test]
fn records_may_list_their_epochs_in_any_order() {
    let folder = Folder::new();
    let header = "id,epoch,val_score,val_score_std,name,lr";
    let row = |epoch: usize, score: f64| format!("name=sgd:lr=0.1,{epoch},{score},,sgd,0.1");
    folder.write(
        "r.csv",
        [header, &row(1, 0.326), &row(0, 0.5797)].join("\n"),
    );
    let table = folder.run("table r.csv --format csv").code(0).stdout;
    assert_eq!(table, "experiment,sgd\nr,32.60\n");
    folder.write(
        "r.csv",
        [header, &row(0, 0.326), &row(0, 0.5797)].join("\n"),
    );
    let ran = folder.run("table r.csv").code(65);
    ran.says(&["r.csv", "name=sgd:lr=0.1 has epoch 0 twice"]);
}

#[test]
fn folders_that_cannot_be_read_are_errors() {
    let folder = Folder::new();
    // A link to itself: permissions would not keep root out.
    symlink("output", folder.path("output")).unwrap();
    for command in ["table x", "record x", "compare x", "plot x", "report x"] {
        folder
            .run(command)
            .code(74)
            .says(&["cannot read the folder output"]);
    }
}

#[test]
fn unknown_metrics_and_methods_are_answered_with_those_that_exist() {
    let folder = published();
    let all = ["\"acc\"", "grad_norm", "train_loss", "val_score"];
    for command in [
        "table test --score acc",
        "compare mnist_mlp --metric acc",
        "plot test --metric acc",
        "plot test --rank-by acc",
        "report test --score acc",
    ] {
        folder.run(command).code(2).says(&all);
    }
    let ran = folder.run("plot test --methods sgdm").code(2);
    ran.says(&["\"sgdm\"", "adam, momo, momo-adam, sgd-m"]);
}

#[test]
fn a_method_that_diverged_throughout_is_shown_as_such() {
    let folder = Folder::new();
    let (nan, low) = (["NaN", "NaN"], ["0.1", "0.1"]);
    let mut runs = vec![
        run("adam", "0.1", 0, &["1", "0.5"], &["0.5", "0.6"]),
        run("adam", "0.1", 1, &["1", "0.6"], &["0.5", "0.7"]),
    ];
    for seed in 0..2 {
        runs.push(run("lost", "0.1", seed, &nan, &nan));
        runs.push(run("guess", "10", seed, &["NaN", "Infinity"], &low));
    }
    output(&folder, "x", &runs);
    let csv = folder.run("record x --out -").code(0).stdout;
    let lost: Vec<&str> = csv.lines().filter(|line| line.contains("lost")).collect();
    assert_eq!(lost[0], "name=lost:lr=0.1,0,,,,,lost,0.1");
    let table = folder.run("table x --format csv").code(0).stdout;
    assert_eq!(
        table,
        "experiment,adam,guess,lost\nx,65.00 ± 7.07,10.00 ± 0.00 (diverged),diverged\n"
    );
    let ran = folder
        .run("table x --columns score,area,robustness --format csv")
        .code(0);
    assert!(ran.stdout.contains("x,lost,diverged,"), "{}", ran.stdout);
    folder.run("plot x --format png").code(0);
    folder.run("plot x").code(0);
    let curves = folder.read("plots/x/curves_train_loss.svg");
    assert!(
        curves.contains(">lost, lr = 0.1 (diverged)</text>"),
        "{curves}"
    );
    let stability = folder.read("plots/x/stability_val_score.svg");
    assert_eq!(stability.matches(">diverged</text>").count(), 1);
    folder.run("report x").code(0);
    assert!(
        !folder.read("report.html").contains("NaN"),
        "JSON has no NaN"
    );
    let list = folder.run("output list output/x.json").code(0).stdout;
    assert_eq!(list.matches("diverged in epoch 0").count(), 4);
    // Nothing but NaN at all.
    output(&folder, "x", &runs[2..3]);
    for command in [
        "record x --out -",
        "table x",
        "plot x --overwrite",
        "report x --overwrite",
    ] {
        folder.run(command).code(0);
    }
}

#[test]
fn one_seed_has_no_spread() {
    let folder = Folder::new();
    output(
        &folder,
        "x",
        &[run("adam", "0.1", 0, &["1", "0.5"], &["0.5", "0.625"])],
    );
    let csv = folder.run("record x --out -").code(0).stdout;
    assert_eq!(
        csv,
        "id,epoch,train_loss,val_score,train_loss_std,val_score_std,name,lr\n\
         name=adam:lr=0.1,0,1.0,0.5,,,adam,0.1\n\
         name=adam:lr=0.1,1,0.5,0.625,,,adam,0.1\n"
    );
    let table = folder.run("table x --format csv").code(0).stdout;
    assert_eq!(table, "experiment,adam\nx,62.50\n");
    folder.run("plot x curves --metric val_score").code(0);
    let svg = folder.read("plots/x/curves_val_score.svg");
    assert!(
        !svg.contains("fill-opacity=\"0.15\""),
        "a band around one seed"
    );
    assert!(svg.contains(">one seed</text>"));
    // Against a record with a spread, the spread counts for both.
    folder.write(
        "records/x.csv",
        "id,epoch,val_score,val_score_std,name,lr\n\
         name=adam:lr=0.1,0,0.5,0.01,adam,0.1\nname=adam:lr=0.1,1,0.6,0.01,adam,0.1\n",
    );
    let ran = folder.run("compare x --metric val_score --strict").code(0);
    assert!(ran.stdout.contains("+2.50"), "{}", ran.stdout);
    // Two single seeds have no spread: their relative difference is taken.
    folder.run("record x --out y.csv").code(0);
    let whole = folder.read("y.csv");
    for (score, shown, code) in [("0.63", "-0.79 %", 0), ("0.7", "-10.71 %", 1)] {
        folder.write("y.csv", whole.replace("0.625", score));
        let ran = folder
            .run("compare x --against y.csv --metric val_score --strict")
            .code(code);
        assert!(ran.stdout.contains(shown), "{}", ran.stdout);
        let said = "1 of 1 have one seed on both sides";
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
    }
    folder.run("report x").code(0);
}

#[test]
fn names_are_escaped_in_every_format() {
    let folder = Folder::new();
    let evil = "</script><b a=\"1\">&|_%";
    output(
        &folder,
        "x",
        &[run(evil, "0.1", 0, &["1", "0.5"], &["0.5", "0.6"])],
    );
    folder.run("plot x curves").code(0);
    let svg = folder.read("plots/x/curves_val_score.svg");
    assert!(
        svg.contains("&lt;/script&gt;&lt;b a=&quot;1&quot;&gt;&amp;|_%"),
        "{svg}"
    );
    folder.run("report x").code(0);
    let html = folder.read("report.html");
    assert!(html.contains("\\u003c/script>\\u003cb a="));
    assert_eq!(html.matches("</script>").count(), 2, "of the page itself");
    let table = |format: &str| {
        folder
            .run(&format!("table x --format {format}"))
            .code(0)
            .stdout
    };
    assert!(
        table("markdown").contains("\\<b a=\"1\">\\&\\|"),
        "{}",
        table("markdown")
    );
    assert!(
        table("latex").contains("\\&\\textbar{}\\_\\%"),
        "{}",
        table("latex")
    );
    assert!(
        table("csv").contains("\"</script><b a=\"\"1\"\">&|_%\""),
        "{}",
        table("csv")
    );
    let csv = folder.run("record x --out r.csv").code(0);
    assert_eq!(csv.stdout, "");
    // What was quoted is read back.
    let again = folder.run("table r.csv --format csv").code(0).stdout;
    assert_eq!(again.replace("\nr,", "\nx,"), table("csv"));
    // An id goes into names of files and titles.
    fs::copy(
        folder.path("output/x.json"),
        folder.path("output/a<b>&.json"),
    )
    .unwrap();
    let odd = |command: &str, rest: &str| -> Ran {
        let mut command = folder.command(command);
        command.arg("a<b>&").args(rest.split_whitespace());
        Ran::from(command.output().unwrap()).code(0)
    };
    odd("plot", "curves --overwrite");
    assert!(
        folder
            .read("plots/a<b>&/curves_val_score.svg")
            .contains(">a&lt;b&gt;&amp;</text>")
    );
    odd("report", "--overwrite");
    assert!(
        folder
            .read("report.html")
            .contains("<title>Report: a&lt;b&gt;&amp;</title>")
    );
}

#[test]
fn destinations_that_cannot_be_written_are_named() {
    let folder = published();
    folder.write("file", "text");
    for command in [
        "record test --out PLACE",
        "table test --out PLACE",
        "plot test --out-dir PLACE",
        "report test --out PLACE",
        "output merge output/test.json --out PLACE",
        "output filter output/test.json --out PLACE",
        "output export output/test.json --out PLACE",
    ] {
        for place in ["file/below", "/proc/none/x"] {
            let ran = folder.run(&command.replace("PLACE", place)).code(73);
            ran.says(&["cannot write", place]);
        }
    }
    // A folder of that name is in the way.
    folder
        .run("table test --out output")
        .code(73)
        .says(&["output"]);
    assert_eq!(folder.read("file"), "text");
    let entries = fs::read_dir(folder.path("")).unwrap().count();
    assert_eq!(entries, 3, "output, records and file");
}
