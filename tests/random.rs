//! The generators against numbers that torch and numpy drew, and Philox against Random123's vectors.

use serde_json::{Map, Value};
use stepback_native::random::numpy::RandomState;
use stepback_native::random::philox;
use stepback_native::random::torch::Generator;

fn goldens() -> Value {
    serde_json::from_str(include_str!("../records/goldens/rng.json")).unwrap()
}

fn f64s(value: &Value) -> Vec<f64> {
    let items = value.as_array().expect("a list");
    items.iter().map(|v| v.as_f64().unwrap()).collect()
}

fn u64s(value: &Value) -> Vec<u64> {
    let items = value.as_array().expect("a list");
    items.iter().map(|v| v.as_u64().unwrap()).collect()
}

fn uniform(g: &mut Generator, n: usize, lo: f32, hi: f32) -> Vec<f32> {
    let mut out = vec![0.0; n];
    g.uniform(&mut out, lo, hi);
    out
}

fn normal(g: &mut Generator, n: usize, std: f32) -> Vec<f32> {
    let mut out = vec![0.0; n];
    g.normal(&mut out, 0.0, std);
    out
}

fn ulps(a: f32, b: f32) -> u32 {
    let ordered = |x: f32| {
        let bits = x.to_bits() as i32;
        if bits < 0 { i32::MIN - bits } else { bits }
    };
    ordered(a).abs_diff(ordered(b))
}

fn assert_ulps(case: &str, ours: &[f32], theirs: &Value, tolerance: u32) {
    let theirs = f64s(theirs);
    assert_eq!(ours.len(), theirs.len(), "{case}");
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        let off = ulps(*a, b as f32);
        assert!(off <= tolerance, "{case}[{i}]: {a} for {b}, {off} ulp");
    }
}

fn weighted(order: &[u32]) -> u64 {
    let terms = order.iter().enumerate();
    terms.map(|(i, v)| u64::from(*v) * (i as u64 % 1009)).sum()
}

/// One case of the goldens, from a generator that was just seeded.
fn torch_case(case: &str, expected: &Value, g: &mut Generator) {
    // Draws of uniforms are exact; normals go through a logarithm, a sine and a cosine.
    const NORMAL: u32 = 2;
    let size = |prefix: &str| -> Option<usize> { case.strip_prefix(prefix)?.parse().ok() };
    match case {
        "randint31_x8" => {
            let ours: Vec<u64> = (0..8).map(|_| g.randint(1 << 31)).collect();
            assert_eq!(ours, u64s(expected), "{case}");
        }
        "random64_x4" => {
            let ours: Vec<u64> = (0..4).map(|_| g.random64() as u64).collect();
            assert_eq!(ours, u64s(expected), "{case}");
        }
        "randint_0_9_x24" => {
            let ours: Vec<u64> = (0..24).map(|_| g.randint(9)).collect();
            assert_eq!(ours, u64s(expected), "{case}");
        }
        "rand1_x6" => {
            let ours: Vec<f32> = (0..6).map(|_| g.rand1()).collect();
            assert_ulps(case, &ours, expected, 0);
        }
        "randn_5_then_randn_3_then_rand_2" => {
            let mut ours = normal(g, 5, 1.0);
            ours.extend(normal(g, 3, 1.0));
            ours.extend(uniform(g, 2, 0.0, 1.0));
            assert_ulps(case, &ours, expected, NORMAL);
        }
        "randn_7_then_randn_32" => {
            let mut ours = normal(g, 7, 1.0);
            ours.extend(normal(g, 32, 1.0));
            assert_ulps(case, &ours, expected, NORMAL);
        }
        "normal_0_0p3_3x7" => assert_ulps(case, &normal(g, 21, 0.3), expected, NORMAL),
        "uniform_m0p2_0p2_3x7" => assert_ulps(case, &uniform(g, 21, -0.2, 0.2), expected, 0),
        "randperm_10" => {
            let ours: Vec<u64> = g.randperm(10).into_iter().map(u64::from).collect();
            assert_eq!(ours, u64s(expected), "{case}");
        }
        "randperm_60000_first32" => {
            let order = g.randperm(60_000);
            let ours: Vec<u64> = order[..32].iter().map(|v| u64::from(*v)).collect();
            assert_eq!(ours, u64s(expected), "{case}");
        }
        "randperm_60000_weighted" => {
            assert_eq!(weighted(&g.randperm(60_000)), expected.as_u64().unwrap());
        }
        // Layers draw the weight, then the bias, in +-1/sqrt(fan_in).
        "linear_5_3_bias" | "conv2d_3_4_3_bias" => {
            let (weight, bias, fan_in) = match case {
                "linear_5_3_bias" => (15, 3, 5.0f64),
                _ => (108, 4, 27.0),
            };
            let bound = (1.0 / fan_in.sqrt()) as f32;
            assert_ulps(case, &uniform(g, weight, -bound, bound), &expected[0], 0);
            assert_ulps(case, &uniform(g, bias, -bound, bound), &expected[1], 0);
        }
        _ => {
            if let Some(n) = size("randn_") {
                assert_ulps(case, &normal(g, n, 1.0), expected, NORMAL);
            } else if let Some(n) = size("rand_") {
                assert_ulps(case, &uniform(g, n, 0.0, 1.0), expected, 0);
            } else {
                panic!("no test for the golden case {case}");
            }
        }
    }
}

fn seeds(value: &Value) -> impl Iterator<Item = (u64, &Map<String, Value>)> {
    let seeds = value.as_object().unwrap().iter();
    seeds.map(|(seed, cases)| (seed.parse().unwrap(), cases.as_object().unwrap()))
}

#[test]
fn torch_generator_matches_torch() {
    let goldens = goldens();
    let mut cases_seen = 0;
    for (seed, cases) in seeds(&goldens["torch_cpu_generator"]) {
        for (case, expected) in cases {
            torch_case(case, expected, &mut Generator::new(seed));
            cases_seen += 1;
        }
    }
    assert!(cases_seen >= 60, "only {cases_seen} cases");
}

#[test]
fn only_the_low_half_of_a_torch_seed_counts() {
    let (mut a, mut b) = (Generator::new(7), Generator::new(7 | 9 << 32));
    assert_eq!(a.u64(), b.u64());
}

#[test]
fn large_ranges_use_two_words() {
    let (mut a, mut b) = (Generator::new(3), Generator::new(3));
    assert_eq!(a.randint(1 << 28), b.u64() % (1 << 28));
    assert_eq!(
        a.randint((1 << 28) - 1),
        u64::from(b.u32()) % ((1 << 28) - 1)
    );
}

#[test]
fn random_state_matches_numpy() {
    let goldens = goldens();
    let mut cases_seen = 0;
    for (seed, cases) in seeds(&goldens["numpy_randomstate"]) {
        for (case, expected) in cases {
            let mut r = RandomState::new(seed as u32);
            let ours = match case.as_str() {
                "rand_7" => r.rand_vec(7),
                "randn_7" => r.randn_vec(7),
                "randn3_rand2_randn2_rand1" => {
                    let mut all = r.randn_vec(3);
                    all.extend(r.rand_vec(2));
                    all.extend(r.randn_vec(2));
                    all.extend(r.rand_vec(1));
                    all
                }
                "permutation_20" => r.permutation(20).into_iter().map(f64::from).collect(),
                _ => panic!("no test for the golden case {case}"),
            };
            assert_eq!(ours, f64s(expected), "seed {seed}, {case}");
            cases_seen += 1;
        }
    }
    assert!(cases_seen >= 12, "only {cases_seen} cases");
}

/// The known answers of the Random123 distribution (`kat_vectors`).
#[test]
fn philox_matches_random123() {
    let zeros = philox::philox4x32_10(0, 0);
    assert_eq!(zeros, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    let ones = philox::philox4x32_10(u64::MAX, u128::MAX);
    assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    // Digits of pi, word 0 last in these literals.
    let key = 0x299f_31d0_a409_3822;
    let counter = 0x0370_7344_1319_8a2e_85a3_08d3_243f_6a88;
    let pi = philox::philox4x32_10(key, counter);
    assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
}

#[test]
fn philox_masks_depend_on_seed_step_and_index() {
    let mask = |seed, step| {
        (0..64)
            .map(|i| philox::at(seed, step, i))
            .collect::<Vec<_>>()
    };
    assert_eq!(mask(1, 2)[4..8], philox::block(1, 2, 1));
    for (first, len) in [
        (0, 1),
        (0, 64),
        (1, 63),
        (5, 131),
        (u64::from(u32::MAX) - 1, 30),
    ] {
        let mut filled = vec![0.0; len];
        philox::fill(1, 1 << 40, first, &mut filled, |word| word as f32);
        for (i, word) in filled.into_iter().enumerate() {
            assert_eq!(word, philox::at(1, 1 << 40, 4 * first + i as u64) as f32);
        }
    }
    assert_ne!(mask(1, 2), mask(1, 3));
    assert_ne!(mask(1, 2), mask(2, 2));
    let kept = (0..10_000)
        .filter(|i| philox::at(5, 6, *i) >= 1 << 31)
        .count();
    assert!(
        (4800..5200).contains(&kept),
        "{kept} of 10000 above one half"
    );
}
