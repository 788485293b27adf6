//! `optimizer check`, `show` and `try`.

use serde_json::{Value, json};

use crate::common::files;
use crate::common::program::{Folder, Ran};

const ADAM: &str = r#"
name = "mine"
[defaults]
betas = [0.9, 0.999]
eps = 1e-8
[state]
vectors = ["m", "v"]
scalars = {longest = 1}
[step]
code = """
m = betas[0]*m + (1 - betas[0])*g
v = betas[1]*v + (1 - betas[1])*g^2
u = m/(1 - betas[0]^k)/(sqrt(v/(1 - betas[1]^k)) + eps)
length = norm(u)
longest = max(longest, length)
w = w - lr*u
"""
[report]
names = ["longest"]
"#;

#[test]
fn checks_say_what_a_step_costs_and_all_mistakes_of_all_files() {
    let folder = Folder::new();
    folder.write("adam.toml", ADAM);
    let ran = folder.run("optimizer check adam.toml").code(0);
    let expected = [
        "adam.toml: OK, mine",
        "  keys    betas [0.9, 0.999], eps 1e-08",
        "  state   vector m, v; scalar longest",
        "  values  vector u; scalar length",
        "  reports longest",
        "  pass 1  4 vectors read, 3 written, 1 sum",
        "  moves   28 bytes per parameter and step",
        "  keeps   8 bytes per parameter, 8 once",
    ];
    assert_eq!(ran.stdout.lines().collect::<Vec<_>>(), expected);

    folder.write(
        "bad.toml",
        ADAM.replace("norm(u)", "nrom(u)").replace("lr*u", "lrr*u"),
    );
    folder.write("worse.toml", "name = ");
    let all = "bad.toml adam.toml worse.toml missing.toml";
    let ran = folder.run(&format!("optimizer check {all}")).code(2);
    assert_eq!(ran.stdout.lines().count(), expected.len());
    let ran = ran.says(&[
        "bad.toml:14:10: unknown function \"nrom\" (did you mean \"norm\"?)",
        "bad.toml:16:9: unknown name \"lrr\" (did you mean \"lr\"?)",
        "worse.toml:1:8: not TOML",
        "missing.toml: cannot read",
    ]);
    assert_eq!(ran.stderr.lines().count(), 4, "{}", ran.stderr);

    let ran = folder.run(&format!("optimizer check --json {all}")).code(2);
    let entries: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
    let errors = |i: usize| entries[i]["errors"].as_array().unwrap().len();
    assert_eq!([errors(0), errors(1), errors(2), errors(3)], [2, 0, 1, 1]);
    let pass =
        json!({"vectors_read": 4, "vectors_written": 3, "sums": 1, "bytes_per_parameter": 28});
    assert_eq!(entries[1]["passes"], json!([pass]));
    assert_eq!(
        entries[1]["state"],
        json!({"m": "vector", "v": "vector", "longest": "scalar"})
    );
    assert_eq!(
        entries[1]["values"],
        json!({"u": "vector", "length": "scalar"})
    );
    assert_eq!(entries[1]["state_bytes_per_parameter"], 8);
}

/// Makes what is shown of a method a file of one's own, `mine.toml`, and checks it.
fn check_mine(folder: &Folder, method: &str) -> Ran {
    let shown = folder.run(&format!("optimizer show {method}")).code(0);
    let [named, mine] = [method, "mine"].map(|name| format!("\"{name}\""));
    folder.write("mine.toml", shown.stdout.replace(&named, &mine));
    folder.run("optimizer check mine.toml").code(0)
}

#[test]
fn a_carried_file_is_a_start_for_ones_own() {
    let folder = Folder::new();
    let ran = check_mine(&folder, "ademamix");
    assert!(ran.stdout.starts_with("mine.toml: OK, mine\n"));
    // What hand-written ones do is shown too.
    let adam = folder.run("optimizer show adam").code(0).stdout;
    assert!(adam.contains("sqrt(1 - betas[1]^k)"), "{adam}");
    let unknown = folder.run("optimizer show ademamx").code(2);
    unknown.says(&["no file of optimizer \"ademamx\" (did you mean \"ademamix\"?)"]);
}

#[test]
fn muon_as_a_file_is_shown_checked_and_tried() {
    let folder = Folder::new();
    let ran = check_mine(&folder, "muon");
    let expected = [
        "  state   vector b",
        "  values  vector u; one per tensor longer",
        "  pass 1  2 vectors read, 1 written, 1 sum",
        "  pass 2  2 vectors read, 1 written",
        "  pass 3  2 vectors read, 1 written",
        "  moves   36 bytes per parameter and step, and 1 orthogonalization",
        "  keeps   4 bytes per parameter",
    ];
    let lines: Vec<&str> = ran.stdout.lines().skip(2).collect();
    assert_eq!(lines, expected);
    // Where the steps are longer than the way to the minimum, rounding decides on the next one.
    let few = "--lr 0.03 --steps 10 --set ns_steps=4";
    let ours = losses(&folder, &format!("mine.toml {few}"));
    let theirs = losses(&folder, &format!("muon {few}"));
    let pairs = ours[0].iter().zip(&theirs[0]);
    assert!(
        pairs.clone().all(|(x, y)| (x / y - 1.0).abs() < 1e-4),
        "{ours:?} {theirs:?}"
    );
    assert!(ours[0][1] < 30.0, "{ours:?}");
    let ran = folder
        .run("optimizer try mine.toml --set ns_steps=0.5")
        .code(2);
    ran.says(&["mine: the steps of orthogonalize are no whole number from 1 to 100"]);
}

/// Values that are needed after further gradients have a place each.
#[test]
fn a_step_has_room_for_64_vectors() {
    let folder = Folder::new();
    let gradients = |n: usize| {
        let values = (1..n).map(|i| format!("v{i} = gradient(w + v{})\n", i - 1));
        let all: Vec<String> = (0..n).map(|i| format!("v{i}")).collect();
        let (values, all) = (values.collect::<String>(), all.join(" + "));
        format!(
            "name = 'x'\n[step]\ncode = '''\nv0 = gradient(w + g)\n{values}w = w - lr*({all})\n'''\n"
        )
    };
    folder.write("few.toml", gradients(20));
    folder.run("optimizer check few.toml").code(0);
    folder.run("optimizer try few.toml --lr 0.001").code(0);
    folder.write("many.toml", gradients(66));
    for command in ["check many.toml", "try many.toml"] {
        let ran = folder.run(&format!("optimizer {command}")).code(2);
        ran.says(&["x: a step has 133 vectors at once, and 64 are the most"]);
    }
}

/// The losses that `optimizer try` ends with, by learning rate: of the quadratic and of Rosenbrock's function.
fn losses(folder: &Folder, arguments: &str) -> Vec<[f64; 3]> {
    let ran = folder.run(&format!("optimizer try {arguments}")).code(0);
    let rows = ran.stdout.lines().skip(2).map(|line| {
        let numbers = line.split_whitespace().map(str::parse::<f64>);
        numbers.collect::<Result<Vec<_>, _>>().ok()?.try_into().ok()
    });
    rows.map_while(|row| row).collect()
}

#[test]
fn steps_are_tried_on_two_functions() {
    let folder = Folder::new();
    let file = |name: &str, code: &str, more: &str| {
        let text = format!("name = \"x\"\n[defaults]\nrho = 1\n[step]\ncode = '{code}'\n{more}");
        folder.write(name, text);
    };
    file("sgd.toml", "w = w - lr*rho*g", "");
    let [[lr, quadratic, rosenbrock]] = losses(&folder, "sgd.toml --lr 0.015")[..] else {
        panic!("one learning rate")
    };
    let terms = [(1.0, 1.0), (4.0, -0.9), (25.0, 0.8), (100.0, 0.7)];
    let terms = terms.map(|(c, x): (f64, f64)| c / 2.0 * (x * (1.0 - 0.015 * c).powi(100)).powi(2));
    let expected: f64 = terms.iter().sum();
    assert!(
        (quadratic / expected - 1.0).abs() < 1e-4,
        "{quadratic} {expected}"
    );
    assert!(lr == 0.015 && rosenbrock.is_nan(), "{rosenbrock}");

    let all = losses(&folder, "sgd.toml");
    assert_eq!(all.len(), 11);
    assert!(all.windows(2).all(|pair| pair[0][0] < pair[1][0]));
    // A key takes the learning rate's place.
    let [[_, half, _]] = losses(&folder, "sgd.toml --lr 0.03 --set rho=0.5")[..] else {
        panic!("one learning rate")
    };
    assert!((half / expected - 1.0).abs() < 1e-4, "{half} {expected}");
    // Nothing is worse than no number.
    file(
        "log.toml",
        "w = where(lr < 0.005, log(0 - k), w - lr*rho*g)",
        "",
    );
    let ran = folder.run("optimizer try log.toml").code(0);
    assert!(
        ran.stdout.contains("quadratic, lr 0.01: "),
        "{}",
        ran.stdout
    );
    // The gradient at the weights once more is the gradient.
    file("second.toml", "w = w - lr*rho*gradient(w + 0*g)", "");
    assert_eq!(
        losses(&folder, "second.toml --lr 0.01")[0][1],
        losses(&folder, "sgd.toml --lr 0.01")[0][1]
    );
    // Other weights are evaluated: those of the start.
    file(
        "start.toml",
        "w = w - lr*rho*g",
        "[evaluate]\ncode = 'w = w0'",
    );
    assert_eq!(
        losses(&folder, "start.toml --lr 0.01"),
        [[0.01, 34.62, 24.2]]
    );

    // Whatever has the rest of a model has nothing to do.
    let apply = "[apply]\nto = \"matrix\"\nrest = \"adamw\"";
    file("matrices.toml", "w = w - lr*rho*g", apply);
    let of_matrices = losses(&folder, "matrices.toml --lr 0.015");
    assert_eq!(of_matrices[0][..2], [0.015, quadratic]);
    let ran = folder.run("optimizer try matrices.toml --lr 0.015").code(0);
    let said = "adamw, which has the rest of a model, does nothing here";
    assert!(ran.stdout.contains(said), "{}", ran.stdout);

    for (arguments, said) in [
        (
            "sgd.toml --set roh=1",
            "--set roh=1: sgd.toml has no such key (did you mean \"rho\"?)",
        ),
        (
            "sgd.toml --set rho=big",
            "--set rho=big: expected a finite number",
        ),
        ("sgd.toml --set rho", "--set rho: no KEY=VALUE"),
        ("adm", "unknown optimizer \"adm\" (did you mean \"adam\"?)"),
        (
            "sgd.toml --out path.gif",
            "path.gif: not the name of a figure",
        ),
        ("gsd.toml", "(did you mean sgd.toml?)"),
        (
            "matrices.toml --set aux_lr=1",
            "--set aux_lr=1: matrices.toml has no such key",
        ),
        (
            "sophia-g",
            "sophia-g: it draws labels from a model's output",
        ),
    ] {
        folder
            .run(&format!("optimizer try {arguments}"))
            .code(2)
            .says(&[said]);
    }
}

#[test]
fn paths_are_drawn() {
    let folder = Folder::new();
    let ran = folder
        .run("optimizer try adam --lr 0.1 --steps 30 --out path.svg")
        .code(0);
    let drawn: Vec<&str> = ran
        .stdout
        .lines()
        .filter(|line| line.starts_with('│'))
        .collect();
    assert_eq!(drawn.len(), 40);
    assert!(drawn.iter().all(|line| line.chars().count() == 66));
    for picture in drawn.chunks(20) {
        for letter in ["o", "x", "+"] {
            assert!(
                picture.iter().any(|line| line.contains(letter)),
                "{}",
                ran.stdout
            );
        }
        let dots = picture
            .iter()
            .flat_map(|line| line.chars())
            .filter(|c| ('\u{2801}'..='\u{28ff}').contains(c));
        assert!(dots.count() > 5, "{}", ran.stdout);
    }
    assert!(folder.read("path.svg").contains("Rosenbrock, lr 0.1"));
}

#[test]
fn a_file_gives_the_method_beside_it_other_defaults() {
    let folder = Folder::new();
    let file = |defaults: &str| {
        format!(
            "name = 'x'\n[defaults]\n{defaults}\n[step]\ncode = 'w = w - lr*g'\n[apply]\nto = 'matrix'\nrest = 'adamw'\n"
        )
    };
    folder.write("plain.toml", file(""));
    folder.write("other.toml", file("aux_lr = 0.5"));
    let config = json!({
        "dataset": "synthetic_linear", "dataset_kwargs": {"p": 10, "n_samples": 50}, "model": "mlp",
        "model_kwargs": {"hidden_sizes": [4, 4], "output_size": 1}, "loss_func": "squared", "score_func": "squared",
        "opt": [
            {"name": "other.toml", "lr": 0.1},
            {"name": "plain.toml", "lr": 0.1, "aux_lr": 0.5},
            {"name": "plain.toml", "lr": 0.1},
        ],
        "max_epoch": 1, "n_runs": 1,
    });
    folder.config("exp", &config);
    folder.run("train exp.json --offline").code(0);
    let output: Value = serde_json::from_str(&folder.read("output/exp.json")).unwrap();
    let loss = |run: usize| &output[run]["history"][0]["train_loss"];
    assert_eq!(loss(0), loss(1));
    assert_ne!(loss(0), loss(2));
}

#[test]
fn the_tutorials_say_what_happens() {
    let text = std::fs::read_to_string(files::path("docs/optimizers.md")).unwrap();
    let blocks = |kind: &str| -> Vec<String> {
        let begin = format!("```{kind}\n");
        let blocks = text.split(&begin).skip(1);
        let block = |rest: &str| rest.split_once("```").unwrap().0.to_owned();
        blocks.map(block).collect()
    };
    let says = |printed: &str| {
        let shown: String = printed
            .lines()
            .map(|line| format!("    {line}\n"))
            .collect();
        assert!(text.contains(&shown), "the tutorial does not show\n{shown}");
    };
    let folder = Folder::new();
    let [padam, average, muon] = &blocks("toml")[..] else {
        panic!("three files")
    };
    folder.write("mine/plain-muon.toml", muon);
    folder.run("optimizer check mine/plain-muon.toml").code(0);
    folder.write("mine/padam.toml", padam);
    folder.write("mine/sam-average.toml", average);
    for name in ["padam", "sam-average"] {
        let ran = folder.run(&format!("optimizer check mine/{name}.toml"));
        says(&ran.code(0).stdout);
    }
    let [config] = &blocks("json")[..] else {
        panic!("one config")
    };
    folder.write("padam.json", config);
    folder.run("config check padam.json").code(0);
    let adam = folder.run("optimizer show adam").code(0).stdout;
    let new = |line: &&str| !adam.contains(*line);
    let lines = padam
        .lines()
        .filter(|line| !line.starts_with("name") && !line.starts_with("about"));
    assert_eq!(lines.filter(new).count(), 2, "two lines are changed");

    let wrong = padam
        .replace("weight_decay*w", "weight_decy*w")
        .replace("= betas[0]*m", "= beta[0]*m")
        .replace("*d^2", "*d**2");
    folder.write("mine/padam.toml", wrong);
    let ran = folder.run("optimizer check mine/padam.toml").code(2);
    says(&ran.stderr);
}

/// A changed formula is another method; a changed comment is not.
#[test]
fn runs_are_told_apart_by_what_files_compute() {
    let folder = Folder::new();
    folder.write("mine/adam.toml", ADAM);
    let config = json!({
        "dataset": "synthetic_linear", "dataset_kwargs": {"p": 4, "n_samples": 20}, "model": "linear",
        "loss_func": "squared", "score_func": "squared", "max_epoch": 1, "batch_size": 10, "n_runs": 1,
        "opt": {"name": "mine/adam.toml", "lr": 0.1},
    });
    folder.write("c.json", config.to_string());
    let trained = |what: &str| {
        let ran = folder.run("train c.json --output-dir out").code(0);
        let says = format!("c: {what} in ");
        assert!(ran.stderr.contains(&says), "no {says:?}: {}", ran.stderr);
    };
    trained("1 run");
    trained("0 runs");
    folder.write(
        "mine/adam.toml",
        ADAM.replace("[state]", "# a comment\n[state]"),
    );
    trained("0 runs");
    folder.write("mine/adam.toml", ADAM.replace("1e-8", "1e-6"));
    trained("1 run");
    let output: Value = serde_json::from_str(&folder.read("out/c.json")).unwrap();
    let texts = output.as_array().unwrap().iter();
    let texts = texts.map(|run| run["summary"]["optimizer_texts"]["mine/adam.toml"].as_str());
    let with: Vec<bool> = texts.map(|text| text.unwrap().contains("1e-6")).collect();
    assert_eq!(with, [false, true]);
}
