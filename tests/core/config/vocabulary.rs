//! Every name and key that the shipped configs and their README use.

use serde_json::Value;
use stepback_native::config::{Entry, Key, Kind, Vocabulary};

const fn key(name: &'static str, kind: Kind, default: Option<&'static str>) -> Key {
    Key {
        name,
        kind,
        default,
        about: "as its name says",
    }
}

const fn entry(name: &'static str, keys: &'static [Key]) -> Entry {
    Entry {
        name,
        about: "",
        paper: "",
        keys,
    }
}

const COMMON: &[Key] = &[
    key("lr", Kind::NonNegative, Some("1e-3")),
    key("weight_decay", Kind::NonNegative, Some("0")),
    key(
        "lr_schedule",
        Kind::Checked("constant, linear, sqrt or exponential_S_G", |value| {
            value.as_str().is_some_and(|name| {
                name.starts_with("exponential_") || SCHEDULES.iter().any(|entry| entry.name == name)
            })
        }),
        Some("\"constant\""),
    ),
];

const GROUP: &[Key] = &[
    key("match", Kind::Checked("a text", Value::is_string), None),
    key(
        "name",
        Kind::Checked("a name", Value::is_string),
        Some("\"\""),
    ),
    key("lr", Kind::NonNegative, Some("1e-3")),
    key("lr_factor", Kind::NonNegative, Some("1")),
    key("weight_decay", Kind::NonNegative, Some("0")),
];

const WARMUP: Key = key("warmup_steps", Kind::Real, Some("0"));
const SCHEDULES: &[Entry] = &[
    entry("constant", &[WARMUP]),
    entry("linear", &[WARMUP]),
    entry("sqrt", &[WARMUP]),
    entry("exponential_S_G", &[WARMUP]),
    entry(
        "wsd",
        &[WARMUP, key("cooldown", Kind::Fraction, Some("0.2"))],
    ),
    entry("step", &[WARMUP, key("milestones", Kind::Counts, None)]),
    entry("plateau", &[key("patience", Kind::Count, Some("10"))]),
];

const BETAS: Key = key("betas", Kind::FractionPair, Some("[0.9, 0.999]"));
const EPS: Key = key("eps", Kind::NonNegative, Some("1e-8"));
const LB: Key = key("lb", Kind::Real, Some("0"));
const SGD: &[Key] = &[
    key("momentum", Kind::Fraction, Some("0.9")),
    key(
        "dampening",
        Kind::Checked("a number or momentum", |value| {
            value.is_number() || value == "momentum"
        }),
        Some("0"),
    ),
];
const ADAM: &[Key] = &[BETAS, EPS];
const MOMO: &[Key] = &[
    key("beta", Kind::Fraction, Some("0.9")),
    LB,
    key("bias_correction", Kind::Flag, Some("false")),
];
const MOMO_ADAM: &[Key] = &[BETAS, EPS, LB, key("divide", Kind::Flag, Some("true"))];
const ADABOUND: &[Key] = &[BETAS, EPS, key("final_lr", Kind::Positive, Some("0.1"))];

const P: Key = key("p", Kind::Count, None);
const Q: Key = key("q", Kind::Count, None);
const SAMPLES: Key = key("n_samples", Kind::Count, None);
const NOISE: Key = key("noise", Kind::NonNegative, Some("0"));
const CONDITION: Key = key("condition_number", Kind::Positive, Some("1e-5"));
const MNIST: &[Key] = &[
    key("normalize", Kind::Flag, Some("true")),
    key("as_image", Kind::Flag, Some("true")),
];

const BIAS: Key = key("bias", Kind::Flag, Some("false"));
const LINEAR: &[Key] = &[key("output_size", Kind::Count, Some("1")), BIAS];
const MLP: &[Key] = &[
    key("output_size", Kind::Count, None),
    key("hidden_sizes", Kind::Counts, Some("[]")),
    BIAS,
    key("dropout", Kind::Flag, Some("false")),
];
const MATRIX_FAC: &[Key] = &[key("rank", Kind::Count, Some("null"))];
const MATRIX_COMPLETION: &[Key] = &[
    key("dim", Kind::CountPair, None),
    key("rank", Kind::Count, Some("10")),
];
const BATCH_NORM: &[Key] = &[key("batch_norm", Kind::Flag, Some("true"))];
const VIT: &[Key] = &[
    key("patch_size", Kind::Count, None),
    key("dim", Kind::Count, None),
    key("depth", Kind::Count, None),
    key("heads", Kind::Count, None),
    key("mlp_dim", Kind::Count, None),
    key("pool", Kind::Choice(&["cls", "mean"]), Some("\"cls\"")),
    key("dim_head", Kind::Count, Some("64")),
    key("dropout", Kind::Fraction, Some("0")),
    key("emb_dropout", Kind::Fraction, Some("0")),
];

/// Entries of all the names, with the same keys.
fn entries(names: &'static str, keys: &'static [Key]) -> Vec<Entry> {
    let names = names.split_whitespace();
    names.map(|name| entry(name, keys)).collect()
}

pub fn vocabulary() -> Vocabulary {
    Vocabulary {
        datasets: [
            entries("synthetic_linear", &[P, SAMPLES, NOISE, CONDITION]),
            entries("synthetic_matrix_fac", &[P, Q, SAMPLES, NOISE, CONDITION]),
            entries("mnist", MNIST),
            entries("cifar10 cifar100 imagenet32 imagenet sensor", &[]),
            entries("rcv1 mushrooms a1a ijcnn breast-cancer", &[]),
        ]
        .concat(),
        models: [
            entries("linear", LINEAR),
            entries("mlp", MLP),
            entries("matrix_fac", MATRIX_FAC),
            entries("matrix_completion", MATRIX_COMPLETION),
            entries("resnet20 resnet32 resnet44 resnet56", BATCH_NORM),
            entries("resnet110 resnet1202", BATCH_NORM),
            entries("vgg11 vgg13 vgg16 vgg19", BATCH_NORM),
            entries("vit", VIT),
            entries("resnet18-kuangliu resnet34-kuangliu resnet50-kuangliu", &[]),
            entries("resnet101-kuangliu resnet152-kuangliu swint", &[]),
            entries("resnet18-pytorch resnet50-pytorch", &[]),
        ]
        .concat(),
        optimizers: [
            entries("sgd", &[]),
            entries("sgd-m sgd-nesterov", SGD),
            entries("adam adamw adabelief", ADAM),
            entries("momo momo-star", MOMO),
            entries("momo-adam momo-adam-star", MOMO_ADAM),
            entries("prox-sps", &[LB]),
            entries("adabound", ADABOUND),
            entries("lion", &[BETAS]),
        ]
        .concat(),
        find_optimizer: |_, _| Ok(vocabulary().optimizers),
        optimizer_keys: COMMON,
        group_keys: GROUP,
        group_match: |text| match text {
            "(" => Err("an open group".into()),
            _ => Ok(()),
        },
        schedules: SCHEDULES,
        schedule: |name| {
            let name = name
                .strip_prefix("exponential_")
                .map_or(name, |_| "exponential_S_G");
            SCHEDULES.iter().find(|entry| entry.name == name)
        },
        losses: vec!["cross_entropy", "logistic", "squared"],
        scores: vec![
            "cross_entropy",
            "logistic",
            "squared",
            "cross_entropy_accuracy",
            "logistic_accuracy",
        ],
    }
}
