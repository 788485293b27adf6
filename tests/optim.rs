//! Optimizers against thirty steps of each in PyTorch, schedules, and the table's consistency.

use serde_json::{Value, json};
use stepback_native::optim::schedule::{ENTRIES, Schedule};
use stepback_native::optim::{COMMON_KEYS, MAX_STATE, ROWS, Reports, State, row};

fn golden(name: &str) -> Vec<Value> {
    let path = format!("{}/records/goldens/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let mut file: Value = serde_json::from_str(&text).unwrap();
    let Value::Array(cases) = file["cases"].take() else {
        panic!("{name} holds no cases")
    };
    cases
}

/// A number of a golden file; non-finite ones are strings.
fn number(value: &Value) -> f64 {
    match value {
        Value::String(s) => s.parse().unwrap(),
        _ => value.as_f64().unwrap(),
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

/// The error of a path of vectors: the largest distance of two components, relative to the largest
/// component that the golden path has had up to there.
///
/// Rounding errors are made at the size that the weights have and stay when the path crosses zero, as
/// that of `momo-star` with lb -10 does (from 1.77 to 0.06 and back): relative to the size in each
/// step, the golden path itself is 2.3e-5 from what the formula gives in double.
fn path_error(ours: &[Vec<f64>], golden: &[Vec<f64>]) -> f64 {
    assert_eq!(ours.len(), golden.len());
    let (mut size, mut worst) = (f64::MIN_POSITIVE, 0.0f64);
    for (ours, golden) in ours.iter().zip(golden) {
        assert_eq!(ours.len(), golden.len());
        size = golden.iter().fold(size, |m, x| m.max(x.abs()));
        for (x, y) in ours.iter().zip(golden) {
            let error = if x == y { 0.0 } else { (x - y).abs() / size };
            worst = if error <= worst { worst } else { error };
        }
    }
    worst
}

/// The golden file's problem.
struct Field {
    w: Vec<f32>,
    g: Vec<f32>,
}

impl Field {
    const FIRST: usize = 6;

    fn new() -> Field {
        let p1 = (1..=6).map(|i| (i as f32).sin());
        let p2 = (1..=5).map(|i| (i as f32).cos());
        let w: Vec<f32> = p1.chain(p2).collect();
        let g = vec![0.0; w.len()];
        Field { w, g }
    }

    /// Computes the gradient at step k = 0, 1, ... and returns the loss.
    fn evaluate(&mut self, k: usize) -> f32 {
        for (i, (w, g)) in self.w.iter().zip(&mut self.g).enumerate() {
            let (a, i) = match i < Self::FIRST {
                true => (1.0, i),
                false => (3.0, i - Self::FIRST),
            };
            let wave = (1.3 * k as f64 + i as f64).sin();
            *g = a * w + 0.3 * wave as f32;
        }
        let square = |w: &[f32]| w.iter().map(|w| w * w).sum::<f32>();
        let (p1, p2) = self.w.split_at(Self::FIRST);
        let wave = 0.25 * (1.0 + (0.7 * k as f64).cos());
        0.5 * square(p1) + 1.5 * square(p2) + wave as f32
    }
}

#[test]
fn golden_paths() {
    let cases = golden("optimizers.json");
    assert_eq!(cases.len(), 32);
    for case in &cases {
        let opt = case["opt"].as_object().unwrap();
        let lr = opt.get("lr").map_or(1e-3, number);
        let mut field = Field::new();
        let mut state = State::new(opt, field.w.len()).unwrap();
        let (mut path, mut losses, mut sizes) = (vec![], vec![], vec![]);
        let points = case["trajectory"].as_array().unwrap();
        assert_eq!(points.len(), 30);
        for k in 0..points.len() {
            let loss = field.evaluate(k);
            state.step(lr, loss, &mut field.w, &field.g);
            path.push(field.w.iter().map(|&w| w.into()).collect());
            losses.push(vec![loss.into()]);
            sizes.push(vec![state.step_size()]);
        }
        let check = |what: &str, ours: &[Vec<f64>], golden: &[Vec<f64>]| {
            // t is a difference of larger numbers over a square: in the case named above the golden
            // one is 2.3e-5 from the formula.
            let tolerance = if what == "t" { 1e-4 } else { 1e-5 };
            let error = path_error(ours, golden);
            println!("{error:8.1e} {what} of {}", case["opt"]);
            assert!(error <= tolerance, "{error:.1e}: {what} of {}", case["opt"]);
        };
        let point = |p: &Value| [numbers(&p["p1"]), numbers(&p["p2"])].concat();
        let wrap = |values: Vec<f64>| values.into_iter().map(|x| vec![x]).collect::<Vec<_>>();
        check("w", &path, &points.iter().map(point).collect::<Vec<_>>());
        let golden_losses = points.iter().map(|p| number(&p["loss"])).collect();
        check("f", &losses, &wrap(golden_losses));
        let reports = state.reports();
        assert_eq!(
            reports != Reports::Nothing,
            case.get("step_size_list").is_some()
        );
        if reports != Reports::Nothing {
            check("t", &sizes, &wrap(numbers(&case["step_size_list"])));
        }
        assert_eq!(
            reports == Reports::StepSizeAndBound,
            case.get("fstar").is_some()
        );
        if reports == Reports::StepSizeAndBound {
            check(
                "lb",
                &[vec![state.lower_bound()]],
                &[vec![number(&case["fstar"])]],
            );
            check("h", &[vec![state.h()]], &[vec![number(&case["h"])]]);
        }
    }
}

#[test]
fn golden_schedules_to_the_last_bit() {
    let cases = golden("schedules.json");
    assert_eq!(cases.len(), 5);
    for case in &cases {
        let schedule = Schedule::parse(case["lr_schedule"].as_str().unwrap()).unwrap();
        let initial = number(&case["lr"]);
        for (epoch, lr) in numbers(&case["per_epoch"]).into_iter().enumerate() {
            assert_eq!(
                schedule.lr(initial, epoch as u64),
                lr,
                "{schedule:?}, {epoch}"
            );
        }
    }
}

#[test]
fn schedules_that_are_none() {
    for text in [
        "",
        "Constant",
        "exponential",
        "exponential_",
        "exponential_30",
        "exponential_0_0.5",
        "exponential_-1_0.5",
        "exponential_1.5_0.5",
        "exponential_2_0",
        "exponential_2_nan",
        "exponential_2_inf",
        "exponential_2_0.5_1",
        "linear ",
    ] {
        assert_eq!(Schedule::parse(text), None, "{text:?}");
    }
    assert_eq!(ENTRIES.len(), 4);
}

#[test]
fn table_is_consistent() {
    assert_eq!(ROWS.len(), 13);
    for row in ROWS {
        assert!(row.state.len() <= MAX_STATE);
        let known: Vec<_> = row.entry.keys.iter().chain(COMMON_KEYS).collect();
        for (i, key) in known.iter().enumerate() {
            assert!(
                known[..i].iter().all(|k| k.name != key.name),
                "{}",
                key.name
            );
            let default = serde_json::from_str(key.default.unwrap()).unwrap();
            assert!(
                key.kind.accepts(&default),
                "{} of {}",
                key.name,
                row.entry.name
            );
        }
    }
    let error = State::new(json!({"name": "sdg"}).as_object().unwrap(), 1)
        .err()
        .unwrap();
    assert!(error.message.contains("\"sdg\"") && error.message.contains("sgd-m"));
}

#[test]
fn momentum_keys_accept_what_pytorch_accepts() {
    let accepts = |name, key, value: Value| {
        let keys = row(name).unwrap().entry.keys;
        keys.iter()
            .find(|k| k.name == key)
            .unwrap()
            .kind
            .accepts(&value)
    };
    for (value, heavy_ball, nesterov) in [
        (json!(0), true, true),
        (json!(0.0), true, true),
        (json!(0.9), true, false),
        (json!("momentum"), true, false),
        (json!("Momentum"), false, false),
        (json!([0]), false, false),
    ] {
        assert_eq!(
            accepts("sgd-m", "dampening", value.clone()),
            heavy_ball,
            "{value}"
        );
        assert_eq!(
            accepts("sgd-nesterov", "dampening", value.clone()),
            nesterov,
            "{value}"
        );
    }
    assert!(accepts("sgd-m", "momentum", json!(0)));
    assert!(!accepts("sgd-nesterov", "momentum", json!(0)));
    assert!(!accepts("sgd-nesterov", "momentum", json!(1)));
}
