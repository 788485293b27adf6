//! Output files: JSON as Python writes it, byte for byte.

use crate::common::files;
use proptest::prelude::*;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use stepback_native::results::json::{self, Json};
use stepback_native::results::output;
use stepback_native::results::progress::Watch;

#[test]
fn published_outputs_are_rewritten_byte_for_byte() {
    for name in [
        "test",
        "synthetic_small",
        "mnist_mlp-2",
        "cifar10_resnet20-4",
    ] {
        let text = std::fs::read_to_string(files::path(&format!(
            "records/reference/outputs/{name}.json"
        )))
        .unwrap();
        let value = json::parse(&text).unwrap();
        assert!(
            json::dumps(&value, false) == text,
            "{name} changed by rewriting"
        );
    }
}

/// A finished output is read to be counted, without what its runs hold.
#[test]
fn what_is_counted_is_what_is_read() {
    let published = files::path("records/reference/outputs/test.json");
    let whole = std::fs::read_to_string(&published).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.json");
    let counted = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let status = Watch::default().status(&path);
        status.map(|status| status.done).map_err(|e| e.message)
    };
    let runs = output::read(&published).unwrap().len();
    assert!(runs > 1);
    assert_eq!(counted(&whole), Ok(runs));
    assert_eq!(counted("[]"), Ok(0));
    let end = whole.len() / 2;
    for text in [
        &whole[..end],
        "",
        "{}",
        "[{\"a\": [1, 2.5e]}]",
        "[{\"a\": [1, 2,]}]",
        "[{\"a\" 1}]",
        "[{\"a\": \"\\x\"}]",
        "[] []",
        &"[".repeat(1000),
    ] {
        let error = counted(text).unwrap_err();
        assert_eq!(error, output::read(&path).unwrap_err().message, "{text}");
    }
}

#[test]
fn floats_are_spelled_as_python_spells_them() {
    // repr() of Python 3.11.
    let cases: &[(u64, &str)] = &[
        (0x0000000000000000, "0.0"),
        (0x8000000000000000, "-0.0"),
        (0x3ff0000000000000, "1.0"),
        (0xbff0000000000000, "-1.0"),
        (0x3fb999999999999a, "0.1"),
        (0x3f1a36e2eb1c432d, "0.0001"),
        (0x3ee4f8b588e368f1, "1e-05"),
        (0x3f1a36e2eb1c432d, "0.0001"),
        (0x3f202e4b6ce5dc68, "0.00012345"),
        (0x3f1a36d1bd105b06, "9.9999e-05"),
        (0x430c6bf526340000, "1000000000000000.0"),
        (0x4341c37937e08000, "1e+16"),
        (0x42dc12218377de66, "123456789012345.6"),
        (0x43118b54f22aeb03, "1234567890123456.8"),
        (0x4345ee2a2eb5a5c4, "1.2345678901234568e+16"),
        (0x4376345785d8a000, "1e+17"),
        (0x4480f0cf064dd592, "1e+22"),
        (0x44b52d02c7e14af6, "1e+23"),
        (0x0000000000000001, "5e-324"),
        (0x0010000000000000, "2.2250738585072014e-308"),
        (0x7fefffffffffffff, "1.7976931348623157e+308"),
        (0x54b249ad2594c37d, "1e+100"),
        (0x2b2bff2ee48e0530, "1e-100"),
        (0x40091eb851eb851f, "3.14"),
        (0x3fe5555555555555, "0.6666666666666666"),
        (0x3eb0c6f7a0b5ed8d, "1e-06"),
        (0x3fe292e45999999a, "0.5804311513900757"),
        (0x4340000000000000, "9007199254740992.0"),
        (0x444b1ae4d6e2ef50, "1e+21"),
        (0x4011666666666666, "4.35"),
        (0x3fd3333333333333, "0.3"),
        (0x3fd3333333333334, "0.30000000000000004"),
        (0x4059000000000000, "100.0"),
        (0x40f86a0000000000, "100000.0"),
        (0x3e7ad7f29abcaf48, "1e-07"),
        (0x3ee9cb8320b15070, "1.23e-05"),
        (0x91b7584a2265b1f5, "-2.522753946247637e-223"),
        (0xcd613e30d8f16adf, "-5.674664918136216e+64"),
        (0x1027c4d1c386bbc4, "7.654927133881691e-231"),
        (0x1e2feb89414c343c, "2.7715077941825975e-163"),
        (0xc2ce6f447ed4d57b, "-66926478731690.96"),
        (0x78e510617311d8a3, "2.2790121708605243e+274"),
        (0x612e7696a6cecc1b, "1.3383932992236106e+160"),
        (0x35bf992dc9e9c616, "8.445496795513092e-50"),
        (0x7ce42c8218072e8c, "4.026380313612261e+293"),
        (0xe4b06ce60741c7a8, "-1.039999246087972e+177"),
        (0x63ca828dd5f4b3b2, "5.122439992692798e+172"),
        (0x9b810e766ec9d286, "-3.367304008780077e-176"),
        (0xc4647159c324c985, "-3.0168212434893705e+21"),
        (0xb2221a58008a05a6, "-3.3573703852372156e-67"),
        // Ties between two shortest decimals, and powers of two.
        (0x3fe3eecf80000000, "0.6229016780853271"),
        (0x3fe7bcb800000000, "0.7417869567871094"),
        (0x40297239c0000000, "12.72309684753418"),
        (0x3f8ae421a0000000, "0.013130438514053822"),
        (0x4008d4a700000000, "3.1038341522216797"),
        (0x4024c46640000000, "10.38359260559082"),
        (0x400cd42d40000000, "3.6036019325256348"),
        (0x3fbcfb1000000000, "0.1132059097290039"),
        (0x3ffe053a00000000, "1.8762760162353516"),
        (0x40025db9e0000000, "2.295764684677124"),
        (0x3faadb9800000000, "0.05245661735534668"),
        (0x3fda1f2580000000, "0.4081510305404663"),
        (0x3ff0012800000000, "1.0002822875976562"),
        (0x4032c5f500000000, "18.773269653320312"),
        (0x3d30000000000000, "5.684341886080802e-14"),
        (0x4360000000000000, "3.602879701896397e+16"),
        (0x4580000000000000, "6.189700196426902e+26"),
        (0x3d30000000000000, "5.684341886080802e-14"),
        (0x43b0000000000000, "1.152921504606847e+18"),
    ];
    for &(bits, text) in cases {
        let x = f64::from_bits(bits);
        assert_eq!(json::repr(x), text);
        assert_eq!(json::dumps(&Json::Float(x), false), text);
    }
    // As short as Rust's, and the nearest of that length, the even one of two.
    let mut draws = Xoshiro256PlusPlus::seed_from_u64(1);
    for i in 0..100_000 {
        let bits: u64 = draws.random();
        let single = f64::from(f32::from_bits(bits as u32));
        let x = [f64::from_bits(bits), single, (bits >> 40) as f64 / 1e3][i % 3];
        if x.is_finite() {
            let rust = format!("{x:e}");
            let digits = |text: &str| text.split('e').next().unwrap().replace(['-', '.'], "");
            let nearest = format!("{x:.*e}", digits(&rust).len() - 1);
            let best = if nearest.parse() == Ok(x) {
                &nearest
            } else {
                &rust
            };
            let text = json::repr(x);
            assert_eq!(text.parse(), Ok(x));
            let counted = |text: &str| digits(text).trim_matches('0').to_owned();
            assert_eq!(counted(&text), counted(best), "{x:e}");
        }
    }
    let words = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    let spell = |f: &dyn Fn(f64) -> String| words.map(f).join(" ");
    assert_eq!(spell(&json::repr), "nan inf -inf");
    let dumps = |strict| move |x| json::dumps(&Json::Float(x), strict);
    assert_eq!(spell(&dumps(false)), "NaN Infinity -Infinity");
    assert_eq!(spell(&dumps(true)), "null null null");
}

#[test]
fn values_are_laid_out_as_python_lays_them_out() {
    // print(json.dumps(json.loads(text), indent=4, sort_keys=True)) of Python 3.11.
    let text = r#" {"b": [], "a": {}, "é": [1, 1.0, -0, -0.0, 1e-5, 1E3, 12345678901234567890123],
        "A": {"z": null, "y": [true, false]}, "a": "\u00e9\ud83d\ude00\t\/\"\\\u007f\u0001\b\f"} "#;
    let python = r#"{
    "A": {
        "y": [
            true,
            false
        ],
        "z": null
    },
    "a": "\u00e9\ud83d\ude00\t/\"\\\u007f\u0001\b\f",
    "b": [],
    "\u00e9": [
        1,
        1.0,
        0,
        -0.0,
        1e-05,
        1000.0,
        12345678901234567890123
    ]
}"#;
    let value = json::parse(text).unwrap();
    assert_eq!(json::dumps(&value, false), python);
    assert_eq!(
        value.get("a"),
        Some(&Json::Str("é😀\t/\"\\\u{7f}\u{1}\u{8}\u{c}".into()))
    );
}

#[test]
fn errors_name_line_and_column() {
    let deep = "[".repeat(100_000);
    let cases = [
        (
            "",
            "line 1 column 1: the text ends where a value should stand",
        ),
        (
            "{\"a\": 1,\n \"é\": nan}",
            "line 2 column 7: expected a value",
        ),
        ("[1, 2", "line 1 column 6: the text ends before ']'"),
        ("[1 2]", "line 1 column 4: expected ',' or ']'"),
        ("[1,]", "line 1 column 4: expected a value"),
        ("{\"a\" 1}", "line 1 column 6: expected ':' after the key"),
        ("{a: 1}", "line 1 column 2: expected a key in double quotes"),
        ("[] []", "line 1 column 4: text after the end of the value"),
        ("01", "line 1 column 1: not a number"),
        ("-", "line 1 column 1: not a number"),
        ("1.", "line 1 column 3: expected digits after the point"),
        ("1e+", "line 1 column 4: expected digits in the exponent"),
        (
            "\"a\nb\"",
            "line 1 column 3: a control character inside a string",
        ),
        ("\"abc", "line 1 column 5: the text ends inside a string"),
        ("\"\\x\"", "line 1 column 2: an unknown escape"),
        (
            "\"\\u12\"",
            "line 1 column 2: expected four hexadecimal digits after \\u",
        ),
        ("\"\\ud800\"", "line 1 column 8: half of a surrogate pair"),
        ("\u{feff}[]", "a byte order mark (BOM): save without it"),
        (&deep, "line 1 column 130: nested more than 128 deep"),
    ];
    for (text, message) in cases {
        let error = json::parse(text).unwrap_err().to_string();
        assert!(error.ends_with(message), "{error:?} is not {message:?}");
    }
}

proptest! {
    #[test]
    fn any_float_survives(bits: u64) {
        let x = f64::from_bits(bits);
        let text = json::dumps(&Json::Float(x), false);
        let Ok(Json::Float(again)) = json::parse(&text) else { panic!("{text} is not a float") };
        prop_assert!(again.to_bits() == x.to_bits() || (again.is_nan() && x.is_nan()));
    }

    #[test]
    fn any_string_survives(s: String) {
        let text = json::dumps(&Json::Str(s.as_str().into()), false);
        prop_assert!(text.is_ascii());
        prop_assert_eq!(json::parse(&text).unwrap(), Json::Str(s.as_str().into()));
    }

    #[test]
    fn any_text_is_read_or_refused(text in r#"[\[\]{}",:0-9eE.+\\ua-fNI \n-]{0,40}"#) {
        if let Ok(value) = json::parse(&text) {
            let once = json::dumps(&value, false);
            prop_assert_eq!(&json::dumps(&json::parse(&once).unwrap(), false), &once);
        }
    }
}
