use stepback_native::config::{Experiment, Filter, RunConfig, select};
use stepback_native::error::{Kind, Result};

use super::{dict, parse};

fn sweep() -> Experiment {
    let opts = r#"[
        {"name": "sgd", "lr": [0.1, 1]},
        {"name": "momo", "lr": [0.1, 10], "bias_correction": true}
    ]"#;
    parse(&dict(&[("opt", opts), ("n_runs", "2")])).unwrap()
}

fn selected(filters: &[&str]) -> Result<Vec<String>> {
    let filters: Result<Vec<Filter>> = filters.iter().map(|text| Filter::parse(text)).collect();
    let mut experiment = sweep();
    select(&mut experiment, &filters?, "e.json")?;
    Ok(experiment.runs.iter().map(RunConfig::label).collect())
}

#[test]
fn filters_on_one_key_are_alternatives_and_on_several_conditions() {
    for (filters, count) in [
        (&[][..], 8),
        (&["name=sgd"], 4),
        (&["lr=1e-1"], 4),
        (&["lr=1.0"], 2),
        (&[" lr = 1 "], 2),
        (&["opt.lr=1"], 2),
        (&["name=\"momo\""], 4),
        (&["run_id=0"], 4),
        (&["dataset_kwargs.p=3"], 8),
        (&["bias_correction=true"], 4),
        (&["lr=1", "lr=10"], 4),
        (&["lr=1", "lr=10", "name=momo"], 2),
        (&["name=momo", "lr=0.1", "run_id=1"], 1),
    ] {
        assert_eq!(selected(filters).unwrap().len(), count, "{filters:?}");
    }
    assert_eq!(
        selected(&["lr=1", "run_id=1"]).unwrap(),
        ["name=sgd:lr=1:run_id=1"]
    );
}

#[test]
#[rustfmt::skip]
fn filters_that_choose_nothing_say_what_there_is() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["lr=0.3"], &["e.json: lr=0.3: no run has this value (the runs have 0.1, 1, 10)"]),
        (&["bias_correction=false"], &["no run has this value (the runs have true)"]),
        (&["lrr=1"], &["e.json: lrr=1: no run has this key (did you mean \"lr\"?)"]),
        (&["colour=1"], &["(known: name, lr, ", "batch_size", "dataset_kwargs.p", "bias_correction"]),
        (&["datset_kwargs.p=3"], &["no run has this key (did you mean \"dataset_kwargs.p\"?)"]),
        (&["name=sgd", "lr=10"], &["e.json: no run has all of name=sgd, lr=10 together"]),
        (&["a=1", "lr=2"], &["a=1: no run has this key", "\ne.json: lr=2: no run has this value"]),
        (&["lr"], &["KEY=VALUE"]),
        (&["=1"], &["KEY=VALUE"]),
        (&[" =1"], &["KEY=VALUE"]),
        (&[""], &["KEY=VALUE"]),
    ];
    for (filters, fragments) in cases {
        let error = selected(filters).expect_err("nothing matches");
        assert_eq!(error.kind, Kind::Usage);
        for fragment in *fragments {
            assert!(error.message.contains(fragment), "no {fragment:?} in\n{error}");
        }
    }
}

#[test]
fn a_failed_selection_leaves_the_runs_alone() {
    let mut experiment = sweep();
    let nothing = [Filter::parse("lr=7").unwrap()];
    assert!(select(&mut experiment, &nothing, "e.json").is_err());
    assert_eq!(experiment.runs.len(), 8);
}
