//! What the optimizers' formulas promise, for numbers that no golden path visits.

use crate::common::descent::{Descent, options};
use rayon::ThreadPoolBuilder;
use serde_json::{Map, Value, json};
use stepback_native::device::Target;
use stepback_native::optim::Stepper;

/// What the last step reported under a name; 0 if the method has no such report.
fn report(stepper: &mut Stepper, name: &str) -> f64 {
    stepper.report(name).unwrap().unwrap_or_default()
}

/// Weights after 20 steps on a few parameters.
fn path(name: &str, more: Value) -> Vec<f32> {
    Descent::new(name, more, 100).run(20).w
}

#[test]
fn sums_do_not_depend_on_the_threads() {
    // All that is left of <w, g> is the rounding of its sums, and t shows it.
    let n = 100_000;
    let size = |i: usize| (i as f32).sin() * 2.0f32.powi((7 * i % 60) as i32 - 30);
    let mirrored = |i: usize| if i < n / 2 { size(i) } else { -size(n - 1 - i) };
    let step_size = |threads, sign: f32| {
        let mut stepper = Stepper::new(
            &options("prox-sps", json!({"weight_decay": 1})),
            n,
            Target::CPU,
        )
        .unwrap();
        let mut w: Vec<f32> = (0..n).map(|i| sign * mirrored(i)).collect();
        let pool = ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap()
            .install(|| stepper.step(1.0, 0.0, &mut w, &vec![1.0; n]))
            .unwrap();
        report(&mut stepper, "step_size_list")
    };
    let one = [step_size(1, 1.0), step_size(1, -1.0)];
    assert!(one[0] > 0.0 || one[1] > 0.0, "no rounding to see: {one:?}");
    for threads in [2, 3] {
        assert_eq!([step_size(threads, 1.0), step_size(threads, -1.0)], one);
    }
}

#[test]
fn methods_that_coincide() {
    let lr = |more: Value| {
        let mut all = json!({"lr": 0.05});
        all.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        all
    };
    let decay = json!({"weight_decay": 0.1});
    let still = json!({"momentum": 0, "weight_decay": 0.1});
    assert_eq!(path("sgd-m", lr(still)), path("sgd", lr(decay.clone())));
    let word = path(
        "sgd-m",
        lr(json!({"momentum": 0.8, "dampening": "momentum"})),
    );
    assert_eq!(
        word,
        path("sgd-m", lr(json!({"momentum": 0.8, "dampening": 0.8})))
    );
    assert_ne!(word, path("sgd-m", lr(json!({"momentum": 0.8}))));
    assert_ne!(
        path("sgd-m", lr(json!({}))),
        path("sgd-nesterov", lr(json!({})))
    );
    assert_eq!(path("adam", lr(json!({}))), path("adamw", lr(json!({}))));
    assert_ne!(path("adam", lr(decay.clone())), path("adamw", lr(decay)));
    let product = path("momo-adam", lr(json!({"divide": false})));
    assert_eq!(path("momo-adam", lr(json!({}))), product);
    // Both are limited by lr in every step, and then the same as their model-free relatives.
    let tiny = json!({"lr": 1e-3, "lb": -1e9});
    assert_eq!(
        path("prox-sps", tiny.clone()),
        path("sgd", json!({"lr": 1e-3}))
    );
    let average = json!({"lr": 1e-3, "momentum": 0.9, "dampening": 0.9});
    assert_eq!(path("momo", tiny), path("sgd-m", average));
}

/// The movement of four parameters in one step from w, and t.
fn move_once(opt: &Map<String, Value>, loss: f32, w: [f32; 4], g: [f32; 4]) -> ([f32; 4], f64) {
    let mut stepper = Stepper::new(opt, 4, Target::CPU).unwrap();
    let lr = opt.get("lr").map_or(1e-3, |lr| lr.as_f64().unwrap());
    let mut moved = w;
    stepper.step(lr, loss, &mut moved, &g).unwrap();
    (
        std::array::from_fn(|i| moved[i] - w[i]),
        report(&mut stepper, "step_size_list"),
    )
}

const ORIGIN: [f32; 4] = [0.0; 4];
const SLOPE: [f32; 4] = [1.0, -2.0, 0.5, 4.0];

#[test]
fn first_step_of_the_sign_like() {
    let opt = options("lion", json!({"lr": 0.25}));
    let signs = [-0.25, 0.25, -0.25, -0.25];
    assert_eq!(move_once(&opt, 1.0, ORIGIN, SLOPE).0, signs);
    let opt = options("adam", json!({"lr": 0.25, "eps": 0}));
    for (x, y) in move_once(&opt, 1.0, ORIGIN, SLOPE).0.iter().zip(signs) {
        assert!((x - y).abs() < 1e-6);
    }
}

#[test]
fn lion_moves_every_coordinate_by_lr() {
    // Multiples of lr are exact, so that the movement is.
    let mut descent = Descent::new("lion", json!({"lr": 0.0625}), 1000);
    descent.w.fill(1.0);
    for _ in 0..10 {
        let before = descent.w.clone();
        descent = descent.run(1);
        let moves = descent.w.iter().zip(&before).map(|(x, y)| (x - y).abs());
        assert!(moves.into_iter().all(|m| m == 0.0625));
    }
}

#[test]
fn adaptive_steps_stay_below_lr_over_rho() {
    for (name, correct) in [
        ("prox-sps", None),
        ("momo", Some(false)),
        ("momo", Some(true)),
    ] {
        for (lr, loss) in [
            (0.1, 0.0),
            (0.1, 1e-3),
            (0.1, 1.0),
            (10.0, 1.0),
            (0.1, 1e30),
        ] {
            let mut opt = options(name, json!({"lr": lr}));
            opt.extend(correct.map(|flag| ("bias_correction".into(), flag.into())));
            let (moved, t) = move_once(&opt, loss, ORIGIN, SLOPE);
            // At the origin D and G vanish; F = rho f and d = rho g.
            let rho = if correct == Some(true) {
                1.0 - 0.9
            } else {
                1.0
            };
            let expected = f64::from(loss) / (rho * 21.25);
            assert!((t - expected).abs() <= 1e-6 * expected, "{opt:?} {t}");
            let tau = (lr / rho).min(t);
            for (m, g) in moved.iter().zip(SLOPE) {
                let expected = -(tau * rho) as f32 * g;
                assert!((m - expected).abs() <= 1e-6 * expected.abs(), "{opt:?} {m}");
            }
        }
    }
}

#[test]
fn no_gap_no_step() {
    let flat = |name, lb| options(name, json!({"lr": 0.5, "lb": lb}));
    for name in ["prox-sps", "momo", "momo-adam"] {
        let (moved, t) = move_once(&flat(name, 0.75), 0.75, ORIGIN, SLOPE);
        assert_eq!((moved, t), (ORIGIN, 0.0), "{name}");
        let (moved, t) = move_once(&flat(name, 0.75), 0.5, ORIGIN, SLOPE);
        assert_eq!((moved, t), (ORIGIN, 0.0), "{name}, loss below its bound");
    }
}

#[test]
fn lower_bounds_never_fall_below_the_given_one() {
    for name in ["momo-star", "momo-adam-star"] {
        let opt = options(name, json!({"lr": 100.0, "lb": 0.5}));
        let mut stepper = Stepper::new(&opt, 4, Target::CPU).unwrap();
        let mut bounds = vec![];
        for k in 0..30 {
            // At the origin D and G vanish, and the estimate lies between lb and the average loss.
            let loss = if k < 10 { 1.0 } else { 0.0 };
            stepper
                .step(100.0, loss, &mut ORIGIN.clone(), &SLOPE)
                .unwrap();
            bounds.push(report(&mut stepper, "fstar"));
            if (name, k) == ("momo-star", 10) {
                // F has fallen to 0.9, below lb: half of it would be too low, the given bound takes over.
                assert!(
                    (report(&mut stepper, "step_size_list") - (0.9 - 0.5) / 21.25).abs() < 1e-6
                );
            }
        }
        assert!((bounds[0] - 0.75).abs() < 1e-6, "{name} {bounds:?}");
        assert!(
            bounds[1..10].is_sorted() && (bounds[9] - 1.0).abs() < 1e-3,
            "{name} {bounds:?}"
        );
        assert!(bounds.iter().all(|&lb| lb >= 0.5), "{name} {bounds:?}");
        assert_eq!(bounds[29], 0.5, "{name} {bounds:?}");
    }
}

#[test]
fn eps_stands_where_the_formula_has_it() {
    // From the origin, the first step of Adam and of a MoMo-Adam that lr limits is lr g / (|g| + eps).
    let expected = SLOPE.map(|g| -0.25 * g / (g.abs() + 1.0));
    for name in ["adam", "adamw", "momo-adam", "momo-adam-star"] {
        let (moved, t) = move_once(
            &options(name, json!({"lr": 0.25, "eps": 1})),
            50.0,
            ORIGIN,
            SLOPE,
        );
        assert_close(moved, expected, name);
        if name == "momo-adam" {
            // rho f / <d, d / S> with d = rho g
            let norm: f32 = SLOPE.iter().map(|g| g * g / (g.abs() + 1.0)).sum();
            assert!((t - 50.0 / (0.1 * f64::from(norm))).abs() < 1e-5 * t, "{t}");
        }
    }
    // AdaBound's comes before the correction: lr sqrt(bc2) / (sqrt(bc2) |g| + eps).
    let opt = options(
        "adabound",
        json!({"lr": 0.25, "eps": 1, "betas": [0, 0.999]}),
    );
    let root = 0.001f32.sqrt();
    let expected = SLOPE.map(|g| -0.25 * root * g / (root * g.abs() + 1.0));
    assert_close(move_once(&opt, 0.0, ORIGIN, SLOPE).0, expected, "adabound");
    // AdaBelief's is all that its v holds where d = g: v = eps (1 - beta2^k) / (1 - beta2).
    let tenth = |eps: f32| {
        let more = json!({"lr": 1, "eps": eps, "betas": [0, 0.999]});
        let mut stepper = Stepper::new(&options("adabelief", more), 4, Target::CPU).unwrap();
        let mut w = ORIGIN;
        for _ in 0..10 {
            w = ORIGIN;
            stepper.step(1.0, 0.0, &mut w, &SLOPE).unwrap();
        }
        w
    };
    let root = ((1.0 - 0.999f32.powi(10)) / 0.001).sqrt();
    let ratio = (2.0 * root + 4.0) / (root + 1.0);
    assert_close(tenth(1.0), tenth(4.0).map(|w| w * ratio), "adabelief");
}

fn assert_close(ours: [f32; 4], expected: [f32; 4], what: &str) {
    for (x, y) in ours.iter().zip(expected) {
        assert!(
            (x - y).abs() <= 1e-5 * y.abs(),
            "{what}: {ours:?}, not {expected:?}"
        );
    }
}

#[test]
fn adabound_keeps_its_bounds() {
    // At k = 1 the bounds are nearly 0 and a thousand times final_lr; late they are close to final_lr.
    let opt = options(
        "adabound",
        json!({"lr": 1.0, "final_lr": 0.5, "betas": [0, 0.999]}),
    );
    let mut stepper = Stepper::new(&opt, 4, Target::CPU).unwrap();
    let mut w = ORIGIN;
    for k in 1..=100_000 {
        w = ORIGIN;
        stepper
            .step(1.0, 0.0, &mut w, &[1e-3, -1e3, 1.0, 1e-9])
            .unwrap();
        for (w, g) in w.iter().zip([1e-3f32, -1e3, 1.0, 1e-9]) {
            let size = f64::from(-w / g);
            let (low, high) = (
                0.5 - 0.5 / (1e-3 * f64::from(k) + 1.0),
                0.5 + 500.0 / f64::from(k),
            );
            assert!(
                size >= low * (1.0 - 1e-6) && size <= high * (1.0 + 1e-6),
                "{k} {size}"
            );
        }
    }
    assert!(
        (w[1] / 1e3 - 0.5).abs() < 0.01,
        "the bounds have closed in: {w:?}"
    );
    // final_lr follows the schedule: at half the initial lr the bounds are half as high.
    w = ORIGIN;
    stepper
        .step(0.5, 0.0, &mut w, &[0.0, 0.0, 1.0, 0.0])
        .unwrap();
    assert!((w[2] + 0.25).abs() < 0.01, "{w:?}");
}

#[test]
fn not_a_number_takes_the_full_step() {
    let sgd = move_once(&options("sgd", json!({"lr": 0.5})), 0.0, ORIGIN, SLOPE).0;
    let momo = options("momo", json!({"lr": 0.5}));
    let (moved, t) = move_once(&momo, f32::NAN, ORIGIN, SLOPE);
    assert!(t.is_nan() && moved == sgd, "{moved:?}");
    // 0 / 0: no gradient and no gap.
    let (moved, t) = move_once(&momo, 0.0, [1.0; 4], ORIGIN);
    assert!(t.is_nan() && moved == ORIGIN, "{moved:?}");
    let star = options("momo-star", json!({"lr": 0.5}));
    let mut stepper = Stepper::new(&star, 4, Target::CPU).unwrap();
    let mut w = ORIGIN;
    stepper.step(0.5, f32::NAN, &mut w, &SLOPE).unwrap();
    assert!(
        w == sgd && report(&mut stepper, "h").is_nan() && report(&mut stepper, "fstar").is_nan()
    );
}

/// Its ratio is Python's max(0, ratio), which forgets a NaN; decay remains.
#[test]
fn prox_sps_stays_where_the_ratio_is_not_a_number() {
    let (ones, huge) = ([1.0; 4], [f32::MAX; 4]);
    for (weight_decay, left) in [(0.0, 1.0), (2.0, 0.5)] {
        let opt = options("prox-sps", json!({"lr": 0.5, "weight_decay": weight_decay}));
        for (what, loss, w, g) in [
            ("a loss that is none", f32::NAN, ones, SLOPE),
            ("0 / 0", 0.0, ones, ORIGIN),
            ("infinite / infinite", f32::INFINITY, ones, [1e25; 4]),
            ("0, or 1, times an infinite <w, g>", 1.0, huge, [1e25; 4]),
        ] {
            let mut stepper = Stepper::new(&opt, 4, Target::CPU).unwrap();
            let mut moved = w;
            stepper.step(0.5, loss, &mut moved, &g).unwrap();
            let t = report(&mut stepper, "step_size_list");
            assert_eq!(t.to_bits(), 0f64.to_bits(), "{what}");
            assert_eq!(moved, w.map(|w| left * w), "{what}");
        }
    }
}

/// PyTorch keeps no buffer then.
#[test]
fn nothing_is_dampened_without_momentum() {
    for dampening in [json!(0.5), json!(-1), json!("momentum")] {
        let more = json!({"momentum": 0, "dampening": dampening, "weight_decay": 0.1});
        assert_eq!(
            path("sgd-m", more),
            path("sgd", json!({"weight_decay": 0.1}))
        );
    }
}

#[test]
fn norms_overflow_in_single_precision() {
    // |g|^2 is infinite as a float32, though not as a double: t = 0, and nothing moves.
    let steep = SLOPE.map(|g| g * 1e25);
    for name in ["prox-sps", "momo"] {
        let (moved, t) = move_once(&options(name, json!({"lr": 0.5})), 1e30, ORIGIN, steep);
        assert_eq!((moved, t), (ORIGIN, 0.0), "{name}");
    }
    // An infinite loss over an infinite norm: NaN, the full step.
    let opt = options("momo", json!({"lr": 0.5}));
    let (moved, t) = move_once(&opt, f32::INFINITY, ORIGIN, steep);
    assert!(t.is_nan() && moved == steep.map(|g| -0.5 * g));
}

#[test]
fn signs_that_are_not_finite() {
    let g = [f32::NAN, f32::INFINITY, -0.0, 1.0];
    let opt = options("lion", json!({"lr": 0.5}));
    assert_eq!(move_once(&opt, 1.0, ORIGIN, g).0, [0.0, -0.5, 0.0, -0.5]);
}
