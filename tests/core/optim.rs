//! Schedules' names and the table of optimizers. Their numbers are in the suites of `verify`, see verify.rs.

use serde_json::{Value, json};
use stepback_native::device::{Device, Machine, Target};
use stepback_native::graph::{Params, Role};
use stepback_native::optim::schedule::{ENTRIES, Schedule, named};
use stepback_native::optim::{COMMON_KEYS, Match, Optimizer, ROWS, Stepper, row};
use stepback_native::random::torch::Generator;

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
        assert!(named(text).is_none(), "{text:?}");
    }
    assert!(named("exponential_S_G").is_none());
    let names: Vec<&str> = ENTRIES.iter().map(|entry| entry.name).collect();
    assert_eq!(names.len(), 9);
    for name in names.into_iter().filter(|name| *name != "exponential_S_G") {
        assert_eq!(named(name).unwrap().name, name);
    }
    assert_eq!(named("exponential_2_0.5").unwrap().name, "exponential_S_G");
}

fn schedule(more: Value, epochs: usize, steps: usize) -> Schedule {
    let mut opt = json!({"name": "sgd", "lr": 0.5});
    let map = opt.as_object_mut().unwrap();
    map.extend(more.as_object().unwrap().clone());
    Schedule::new(map, epochs, steps).unwrap()
}

/// All learning rates of a run, epoch by epoch.
fn rates(more: Value, epochs: usize, steps: usize) -> Vec<Vec<f64>> {
    let mut schedule = schedule(more, epochs, steps);
    let epoch = |_| schedule.next_epoch().iter().map(|rate| rate.lr).collect();
    (0..epochs).map(epoch).collect()
}

#[test]
fn ticks_are_epochs_or_steps() {
    let wsd =
        |stepwise| json!({"lr_schedule": "wsd", "stepwise_schedule": stepwise, "cooldown": 0.5});
    assert_eq!(
        rates(wsd(false), 4, 2),
        [[0.5; 2], [0.5; 2], [0.5; 2], [0.25; 2]]
    );
    let steps = [[0.5, 0.5], [0.5, 0.5], [0.5, 0.375], [0.25, 0.125]];
    assert_eq!(rates(wsd(true), 4, 2), steps);
    let warm = json!({"warmup_steps": 3, "stepwise_schedule": true});
    let warm = rates(warm, 2, 2);
    assert!(warm[0][0] < 1e-9 && (warm[0][1] - 0.5 / 3.0).abs() < 1e-9);
    assert!((warm[1][0] - 1.0 / 3.0).abs() < 1e-9 && warm[1][1] == 0.5);
}

#[test]
fn as_given_is_what_nothing_was_computed_of() {
    let given = |more: Value| -> Vec<bool> {
        let mut schedule = schedule(more, 4, 1);
        (0..4).map(|_| schedule.next_epoch()[0].as_given).collect()
    };
    assert_eq!(given(json!({})), [true; 4]);
    assert_eq!(
        given(json!({"warmup_steps": 2})),
        [false, false, true, true]
    );
    let drops = "exponential_2_1.0";
    assert_eq!(
        given(json!({"lr_schedule": drops})),
        [true, true, false, false]
    );
    assert_eq!(
        given(json!({"lr_schedule": drops, "warmup_steps": 1})),
        [false; 4]
    );
    assert_eq!(given(json!({"lr_schedule": "linear"})), [false; 4]);
}

#[test]
fn runs_that_are_too_short_are_refused() {
    let refused = |more: Value| schedule(more, 5, 10).check().err().map(|e| e.message);
    let fits = [
        json!({"warmup_steps": 5}),
        json!({"warmup_steps": 50, "stepwise_schedule": true}),
        json!({"lr_schedule": "wsd", "warmup_steps": 3, "cooldown": 0.4}),
        json!({"lr_schedule": "wsd", "cooldown": 1.0}),
    ];
    for fits in fits {
        assert_eq!(refused(fits), None);
    }
    for (more, words) in [
        (json!({"warmup_steps": 6}), ["6 epochs", "has 5"]),
        (
            json!({"warmup_steps": 51, "stepwise_schedule": true}),
            ["51 steps", "has 50"],
        ),
        (
            json!({"lr_schedule": "wsd", "warmup_steps": 4, "cooldown": 0.4}),
            ["4 epochs and a cooldown of 2", "has 5"],
        ),
    ] {
        let message = refused(more).unwrap();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
}

#[test]
fn table_is_consistent() {
    assert_eq!(ROWS.len(), 17);
    for row in ROWS {
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
    let error = Stepper::new(json!({"name": "sdg"}).as_object().unwrap(), 1, Target::CPU)
        .err()
        .unwrap();
    assert!(error.message.contains("\"sdg\"") && error.message.contains("did you mean \"sgd\""));
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
    for (value, heavy_ball, nesterov) in [
        (json!(-0.1), false, false),
        (json!(0), true, false),
        (json!(1), true, true),
        (json!(2.5), true, true),
    ] {
        assert_eq!(accepts("sgd-m", "momentum", value.clone()), heavy_ball);
        assert_eq!(accepts("sgd-nesterov", "momentum", value), nesterov);
    }
}

/// A convolution, a norm, two layers.
fn parameters() -> Params {
    let mut params = Params::new(Generator::new(0));
    params.constant("conv.weight", &[4, 3, 3, 3], 1.0);
    let norm = ["norm.weight", "norm.bias"].map(|name| params.constant(name, &[4], 2.0));
    params.mark(norm, Role::Norm);
    params.constant("fc1.weight", &[5, 4], 3.0);
    let bias = params.constant("fc1.bias", &[5], 4.0);
    params.mark([bias], Role::Bias);
    let head = params.constant("fc2.weight", &[2, 5], 5.0);
    params.mark([head], Role::Head);
    params
}

#[test]
fn matches() {
    let params = parameters();
    let taken = |text: &str| -> Vec<&str> {
        let matches = Match::parse(text).unwrap();
        let tensors = params.tensors.iter().filter(|tensor| matches.takes(tensor));
        tensors.map(|tensor| &tensor.name[..]).collect()
    };
    assert_eq!(taken("bias"), ["fc1.bias"]);
    assert_eq!(taken("role==norm"), ["norm.weight", "norm.bias"]);
    assert_eq!(taken("(bias)"), ["norm.bias", "fc1.bias"]);
    assert_eq!(taken("hidden"), ["conv.weight", "fc1.weight"]);
    assert_eq!(taken("role==head"), ["fc2.weight"]);
    assert_eq!(taken("ndim==2"), ["fc1.weight", "fc2.weight"]);
    assert_eq!(taken("ndim>=3"), ["conv.weight"]);
    assert_eq!(taken("ndim<=1"), taken("ndim==1"));
    assert_eq!(taken(r"^fc\d\.w"), taken("ndim==2"));
    assert_eq!(taken(r"^\w{4}\.bias$"), ["norm.bias"]);
    for (text, words) in [
        (
            "conv(.weight",
            &["unclosed group", "at character 5, \"(.weight\""][..],
        ),
        ("a|*", &["at character 3, \"*\""]),
        ("é[a", &["unclosed character class at character 2"]),
        ("fc\\", &["incomplete escape", "at character 3"]),
        (r"(?=x)", &["look-around", "at character 1"]),
        (r"\p{Nonsense}", &["at character 1"]),
        (
            "role==nrom",
            &["unknown role \"nrom\" (did you mean \"norm\"?)"],
        ),
        (
            "role==weights",
            &["known: hidden, bias, norm, embedding, head"],
        ),
        ("ndim=1", &["(expected ndim==N, ndim>=N or ndim<=N)"]),
        ("ndim>=two", &["wrong condition"]),
    ] {
        let error = Match::parse(text).unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
}

#[test]
fn parameters_are_laid_out_group_by_group() {
    let mut params = parameters();
    let opt = json!({"name": "momo", "lr": 1});
    let groups = json!([{"match": "norm"}, {"match": "bias", "name": "lion"}, {"match": "head"}]);
    let groups: Vec<_> = serde_json::from_value(groups).unwrap();
    let optimizer = Optimizer::new(opt.as_object().unwrap(), &groups).unwrap();
    let order = optimizer.order(&params.tensors).unwrap();
    // All of momo lies together, in the order in which its groups step, the rest last.
    assert_eq!(order, [1, 2, 5, 0, 3, 4]);
    let before = params.tensors.clone();
    params.arrange(&order);
    let values = [2.0, 2.0, 5.0, 1.0, 3.0, 4.0];
    let mut start = 0;
    for (i, value) in order.iter().zip(values) {
        let tensor = &params.tensors[*i];
        assert_eq!(
            (&tensor.name, tensor.range.start),
            (&before[*i].name, start)
        );
        assert!(tensor.of(&params.values).iter().all(|x| *x == value));
        start += tensor.range.len;
    }
    let alone = Optimizer::new(opt.as_object().unwrap(), &[]).unwrap();
    assert_eq!(alone.order(&before).unwrap(), [0, 1, 2, 3, 4, 5]);
}

/// Names of each group's parameters, those that no group takes last.
fn members(opt: &Value, groups: Value, params: &Params) -> Result<Vec<Vec<String>>, String> {
    let groups: Vec<_> = serde_json::from_value(groups).unwrap();
    let optimizer = Optimizer::new(opt.as_object().unwrap(), &groups).map_err(|e| e.message)?;
    let members = optimizer.members(&params.tensors).map_err(|e| e.message)?;
    let name = |i: usize| params.tensors[i].name.clone();
    let names = members.into_iter();
    Ok(names
        .map(|group| group.into_iter().map(name).collect())
        .collect())
}

#[test]
fn methods_for_matrices_leave_the_rest_to_another() {
    let mut params = parameters();
    let patches = params.constant("patches", &[3, 4], 6.0);
    params.mark([patches], Role::Embedding);
    let muon = json!({"name": "muon", "lr": 0.02});
    let of = |groups| members(&muon, groups, &params);
    let (matrices, others) = (
        ["conv.weight", "fc1.weight"],
        [
            "norm.weight",
            "norm.bias",
            "fc1.bias",
            "fc2.weight",
            "patches",
        ],
    );
    assert_eq!(of(json!([])).unwrap(), [&others[..], &matrices[..]]);
    // The config's groups come first, and may give it a matrix that it would leave.
    let groups = of(json!([{"match": "conv", "name": "adamw"}, {"match": "head"}])).unwrap();
    let others: Vec<&str> = others
        .into_iter()
        .filter(|name| *name != "fc2.weight")
        .collect();
    assert_eq!(
        groups,
        [
            &["conv.weight"][..],
            &["fc2.weight"],
            &others,
            &["fc1.weight"]
        ]
    );
    let vector = of(json!([{"match": "^fc1"}])).unwrap_err();
    assert!(
        vector.contains("groups[0]: muon is for matrices, and fc1.bias is none"),
        "{vector}"
    );
    assert!(vector.contains("\"adamw\""), "{vector}");
    let nothing = of(json!([{"match": "ndim>=2", "name": "adamw"}])).unwrap_err();
    assert!(nothing.contains("leave no parameter to muon"), "{nothing}");
    let mut linear = Params::new(Generator::new(0));
    let head = linear.constant("weight", &[2, 5], 5.0);
    linear.mark([head], Role::Head);
    let none = members(&muon, json!([]), &linear).unwrap_err();
    assert!(none.contains("the model has none"), "{none}");
}

/// What begins with `aux_` is the other method's, whether the method or the config gives it a group; a group's own keys win.
#[test]
fn the_rest_has_the_keys_that_are_for_it() {
    let path = |opt: Value, groups: Value| {
        let mut params = parameters();
        let groups: Vec<_> = serde_json::from_value(groups).unwrap();
        let optimizer = Optimizer::new(opt.as_object().unwrap(), &groups).unwrap();
        params.arrange(&optimizer.order(&params.tensors).unwrap());
        let machine = Machine::open(Device::Cpu).unwrap();
        let mut stepper = Stepper::on(machine, optimizer, &params.tensors, Target::CPU).unwrap();
        let mut w = params.values.clone();
        for lr in [0.02, 0.01] {
            let g: Vec<f32> = w.iter().map(|w| w - 0.5).collect();
            stepper.step(lr, 1.0, &mut w, &g).unwrap();
        }
        let bias = params
            .tensors
            .iter()
            .find(|tensor| tensor.name == "fc1.bias");
        bias.unwrap().of(&w).to_vec()
    };
    let keys = json!({"lr": 0.003, "weight_decay": 0.5, "betas": [0.5, 0.6], "eps": 0.1});
    let mut muon = json!({"name": "muon", "lr": 0.02});
    let mut aux = muon.clone();
    for (key, value) in keys.as_object().unwrap() {
        aux[format!("aux_{key}")] = value.clone();
    }
    let mut adamw = keys.clone();
    adamw["match"] = "bias".into();
    adamw["name"] = "adamw".into();
    let expected = path(muon.clone(), json!([adamw]));
    assert_eq!(path(aux.clone(), json!([])), expected);
    let named = json!({"match": "bias", "name": "adamw"});
    assert_eq!(path(aux.clone(), json!([named])), expected);
    // The schedule's factor is muon's, the rate its own.
    muon["aux_lr"] = 0.001.into();
    assert_ne!(
        path(muon.clone(), json!([])),
        path(
            json!({"name": "muon", "lr": 0.02, "aux_lr": 0.002}),
            json!([])
        )
    );
    let twice = json!({"match": "bias", "name": "adamw", "lr_factor": 2});
    assert_eq!(
        path(muon, json!([twice])),
        path(
            json!({"name": "muon", "lr": 0.02, "aux_lr": 0.002}),
            json!([])
        )
    );
}
