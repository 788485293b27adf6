//! Suite `language`: the language model on made tokens, on a piece of Shakespeare's works, and on all of them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::goldens::Digest;
use super::histories::{OF_STEPS, golden_runs};
use super::made::RawFiles;
use super::networks::{losses_of_steps, same_names};
use super::runs::said;
use super::steps::{Made, order, steps};
use super::{Check, Context};
use crate::config::RunConfig;
use crate::cpu;
use crate::device::gpu::kernels::Step;
use crate::error::{Error, Result};
use crate::graph::{Mode, Params, Plan, Sample, Session, Tape, Targets, Tensor, Var};
use crate::models::{self, Model};

pub fn language(context: &Context) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    match context.goldens.read::<File>(BATCHES)? {
        None => checks.push(Check::skip("batches", format!("no {BATCHES}"))),
        Some(file) => {
            checks.extend(batches(context, &file)?);
            checks.extend(first_steps(context, &file.author_size)?);
        }
    }
    checks.extend(runs(context)?);
    checks.extend(published(context)?);
    Ok(said(checks))
}

const BATCHES: &str = "next_lm.json";
const RUNS: &str = "next_lm_run.json";
const PUBLISHED: &str = "next_lm_published.json";
const TEXT: &str = "shakespeare.json";

#[derive(Deserialize)]
struct File {
    cases: Vec<Case>,
    author_size: AuthorSize,
}

/// A small model: its initial weights, one batch forward and backward, and six steps on it of two methods.
#[derive(Deserialize)]
struct Case {
    model_kwargs: Map<String, Value>,
    batch: usize,
    /// Places of targets that are left out.
    ignored_targets: Vec<usize>,
    parameters: Vec<Digest>,
    next_rand_after_init: f64,
    model_norm: f64,
    loss: f64,
    accuracy: f64,
    logits: Digest,
    first_logits: Vec<f64>,
    last_logits: Vec<f64>,
    gradients: Vec<Digest>,
    sgd_lr0p5_losses: Vec<f64>,
    #[serde(rename = "adamw_lr0p003_wd0p1_b0p9_0p95_losses")]
    adamw_losses: Vec<f64>,
}

impl Case {
    fn count(&self, key: &str) -> usize {
        let value = self.model_kwargs.get(key).and_then(Value::as_u64);
        value.unwrap_or_default() as usize
    }

    fn tokens(&self) -> usize {
        self.batch * self.count("seq_len")
    }

    /// The tokens (7 i + i^2 / 5 + 3) mod vocabulary.
    fn inputs(&self) -> Vec<f32> {
        let vocabulary = self.count("vocab_size");
        let token = |i: usize| ((7 * i + i * i / 5 + 3) % vocabulary) as f32;
        (0..self.tokens()).map(token).collect()
    }

    /// The targets (11 i + i^2 / 3 + 1) mod vocabulary.
    fn targets(&self) -> Vec<f32> {
        let vocabulary = self.count("vocab_size");
        let target = |i: usize| match self.ignored_targets.contains(&i) {
            true => -1.0,
            false => ((11 * i + i * i / 3 + 1) % vocabulary) as f32,
        };
        (0..self.tokens()).map(target).collect()
    }

    fn build(&self) -> Result<(Params, Box<dyn Model>)> {
        let length = self.count("seq_len");
        let data = models::Data {
            sample: Sample::Tokens { length },
            target: vec![length],
            classes: Some(self.count("vocab_size")),
        };
        let row = models::row("llama").ok_or_else(|| Error::usage("no model llama"))?;
        let built = row.build_seeded(&data, &self.model_kwargs);
        built.map_err(|why| Error::usage(format!("llama: {why}")))
    }

    /// Loss, accuracy and logits.
    fn outputs<'t>(&self, model: &dyn Model, tape: &'t Tape<'t>) -> [Var<'t>; 3] {
        let shape = [self.batch, self.count("seq_len")];
        let (tokens, target) = (tape.input(&shape), tape.input(&shape));
        let logits = model.forward(tokens);
        let rows = self.tokens();
        [
            logits.cross_entropy_by_batch(target, rows),
            logits.class_accuracy(target, rows),
            logits,
        ]
    }
}

/// The small models.
fn batches(context: &Context, file: &File) -> Result<Vec<Check>> {
    // Nine digits are given.
    let mut draws = Check::new("the draw behind the initial weights", 1e-9);
    let mut weights = Check::new("initial weights", 1e-6);
    let mut logits = Check::new("logits, losses and accuracies of a batch", 1e-4);
    let mut gradients = Check::new("gradients of a batch", 1e-3);
    let mut losses = Check::new("losses of six steps", 1e-4);
    for case in &file.cases {
        let name = Value::Object(case.model_kwargs.clone()).to_string();
        let (mut params, model) = case.build()?;
        for check in [
            &mut draws,
            &mut weights,
            &mut logits,
            &mut gradients,
            &mut losses,
        ] {
            check.cases += 1;
        }
        let of = |name: &str| params.tensors.iter().find(|t| t.name == name);
        same_names(&mut weights, params.tensors.iter(), &case.parameters, &name);
        for digest in &case.parameters {
            if let Some(tensor) = of(&digest.name) {
                let at = format!("{name} {}", digest.name);
                weights.compare_digest(tensor.of(&params.values), digest, &at);
            }
        }
        let norm = cpu::dot(&params.values, &params.values).sqrt();
        weights.compare(norm, case.model_norm, norm, || format!("{name} norm"));

        let plan = Plan::record(&params, Mode::Train, context.target.device, |tape| {
            let outputs = case.outputs(model.as_ref(), tape);
            Targets {
                backward: Some(outputs[0]),
                outputs: outputs.into(),
            }
        });
        let mut session = Session::new(&params, vec![plan], context.target)?;
        let (tokens, targets) = (case.inputs(), case.targets());
        let operands = [&tokens[..], &targets[..]];
        let outputs = session.run(0, &operands, Step::default())?;
        let [loss, accuracy] = [0, 1].map(|i| f64::from(outputs[i][0]));
        logits.compare(loss, case.loss, case.loss, || format!("{name} loss"));
        logits.compare(accuracy, case.accuracy, 1.0, || format!("{name} accuracy"));
        logits.compare_digest(&outputs[2], &case.logits, &format!("{name} logits"));
        let row = case.first_logits.len();
        let largest = |row: &[f64]| row.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        let last = outputs[2].len() - row;
        for (start, theirs) in [(0, &case.first_logits), (last, &case.last_logits)] {
            let ours = outputs[2][start..start + row].iter();
            let ours: Vec<f64> = ours.map(|x| f64::from(*x)).collect();
            let scale = largest(theirs);
            logits.compare_all_by(&ours, theirs, |_| scale, &format!("{name} logits"));
        }
        let grads = session.grads()?;
        for digest in &case.gradients {
            if let Some(tensor) = of(&digest.name) {
                let at = format!("{name} gradient of {}", digest.name);
                gradients.compare_digest(tensor.of(&grads), digest, &at);
            }
        }
        let adamw =
            json!({"name": "adamw", "lr": 0.003, "weight_decay": 0.1, "betas": [0.9, 0.95]});
        for (opt, theirs) in [
            (json!({"name": "sgd", "lr": 0.5}), &case.sgd_lr0p5_losses),
            (adamw, &case.adamw_losses),
        ] {
            let ours = losses_of_steps(&opt, 6, &mut session, &operands, &params)?;
            losses.compare_all(&ours, theirs, &format!("{name} {opt}"));
        }
        let next = f64::from(params.generator.rand1());
        draws.compare(next, case.next_rand_after_init, 1.0, || name);
    }
    Ok(vec![draws, weights, logits, gradients, losses])
}

/// Two steps at the authors' size, on the first batch of the whole text.
#[derive(Deserialize)]
struct AuthorSize {
    model_kwargs: Map<String, Value>,
    run_id: u64,
    windows: Vec<u32>,
    parameter_count: usize,
    steps: Vec<StepOfAuthors>,
}

#[derive(Deserialize)]
struct StepOfAuthors {
    loss: f64,
    grad_norm: f64,
    #[serde(default)]
    gradient_norms: BTreeMap<String, f64>,
}

fn first_steps(context: &Context, theirs: &AuthorSize) -> Result<Vec<Check>> {
    let mut losses = Check::new("losses of two steps at the authors' size", 1e-4);
    let mut gradients = Check::new("their norms of gradients", 1e-3);
    let opt = json!({"name": "adamw", "lr": 1e-3, "weight_decay": 0.1, "betas": [0.9, 0.95]});
    let config = config(
        &theirs.model_kwargs,
        opt,
        theirs.windows.len(),
        1,
        theirs.run_id,
    )?;
    let data = match context.library().load(&config) {
        Ok(data) => data,
        Err(e) => {
            losses.skip_for(e)?;
            return Ok(vec![losses]);
        }
    };
    losses.cases += 1;
    gradients.cases += 1;
    let first = order(&config, &data)[..config.batch_size].to_vec();
    if first != theirs.windows {
        losses.fail(format!("windows {first:?} for {:?}", theirs.windows));
    }
    let samples = theirs.windows.repeat(theirs.steps.len());
    steps(&config, &data, &samples, context.target, |made| {
        let (Made { step, loss, .. }, tensors) = (&made, &made.params.tensors);
        let golden = &theirs.steps[*step];
        let at = || format!("step {step}");
        losses.compare(*loss, golden.loss, golden.loss, at);
        let norm = cpu::dot(made.gradient, made.gradient).sqrt();
        gradients.compare(norm, golden.grad_norm, golden.grad_norm, at);
        for (name, theirs) in &golden.gradient_norms {
            let tensor = tensors.iter().find(|tensor: &&Tensor| tensor.name == *name);
            let part = tensor.map_or(&[][..], |tensor| tensor.of(made.gradient));
            let ours = cpu::dot(part, part).sqrt();
            gradients.compare(ours, *theirs, *theirs, || format!("step {step} {name}"));
        }
        if made.params.values.len() != theirs.parameter_count {
            losses.fail(format!("{} parameters", made.params.values.len()));
        }
    })?;
    Ok(vec![losses, gradients])
}

fn config(
    model_kwargs: &Map<String, Value>,
    opt: Value,
    batch_size: usize,
    max_epoch: usize,
    run_id: u64,
) -> Result<RunConfig> {
    let config = json!({
        "dataset": "shakespeare",
        "model": "llama",
        "model_kwargs": model_kwargs,
        "loss_func": "sequence_cross_entropy",
        "score_func": "sequence_cross_entropy_accuracy",
        "opt": opt,
        "batch_size": batch_size,
        "max_epoch": max_epoch,
        "run_id": run_id,
    });
    let config = config.as_object().and_then(RunConfig::from_json);
    config.ok_or_else(|| Error::usage("not a config of this version"))
}

/// The first characters of Shakespeare's works.
#[derive(Deserialize)]
struct Piece {
    text: String,
}

/// Steps that are compared of runs with large steps: one part in 1e7 in the initial weights grows to 1e-4 soon after.
const WILD: [(&str, usize); 3] = [("sgd", 10), ("ngn", 5), ("prox-sps", 5)];

/// Whole runs on a piece of the text.
fn runs(context: &Context) -> Result<Vec<Check>> {
    let (Some(runs), Some(piece)) = (
        golden_runs(&context.goldens, RUNS)?,
        context.goldens.read::<Piece>(TEXT)?,
    ) else {
        return Ok(vec![Check::skip(
            "whole runs",
            format!("no {RUNS} or no {TEXT}"),
        )]);
    };
    let text = ("shakespeare/input.txt".into(), piece.text.into_bytes());
    let made = RawFiles::new([text])?;
    let library = made.library();
    let mut whole = Check::new("whole runs", 1e-4);
    let mut early = Check::new("first steps of wild runs", 1e-4);
    let mut late = Check::new("losses at the end of wild runs", 1e-1);
    for theirs in runs {
        let ours = theirs.ours(&library, context.target)?;
        let (name, numbers) = (theirs.name(), &ours.numbers);
        let method = theirs.config["opt"]["name"].as_str().unwrap_or_default();
        let Some((_, steps)) = WILD.iter().find(|(wild, _)| *wild == method) else {
            whole.compare_numbers(&name, numbers, &theirs.history, 0.0, |_| true);
            continue;
        };
        early.compare_numbers(&name, numbers, &theirs.history, 0.0, |n| {
            n.series.ends_with(OF_STEPS) && n.time.0 < *steps
        });
        let last = theirs.config["max_epoch"].as_u64().unwrap_or(1) as usize - 1;
        late.compare_numbers(&name, numbers, &theirs.history, 0.0, |n| {
            n.time.0 == last && n.series.ends_with("_loss")
        });
    }
    Ok(vec![whole, early, late])
}

#[derive(Deserialize)]
struct Published {
    sgd_first_steps: Vec<PublishedSteps>,
}

#[derive(Deserialize)]
struct PublishedSteps {
    lr: f64,
    run_id: u64,
    #[serde(default)]
    loss: Vec<f64>,
    grad_norm: Vec<f64>,
}

/// Steps of the authors' runs that are compared. Each takes 16,384 tokens; behind ten or so SGD is chaotic.
const STEPS: usize = 2;

/// The authors' own first steps with SGD, on a GPU.
fn published(context: &Context) -> Result<Vec<Check>> {
    let Some(file) = context.goldens.read::<Published>(PUBLISHED)? else {
        return Ok(vec![Check::skip(
            "published steps",
            format!("no {PUBLISHED}"),
        )]);
    };
    let mut check = Check::new("published steps: losses and norms of gradients", 1e-3);
    let kwargs = json!({"vocab_size": 92, "dim": 384, "expand": 4, "n_layers": 6, "n_heads": 6, "seq_len": 256});
    let kwargs = kwargs.as_object().expect("an object");
    for theirs in &file.sgd_first_steps {
        let opt = json!({"name": "sgd", "lr": theirs.lr, "lr_schedule": "wsd", "warmup_steps": 50,
            "stepwise_schedule": true});
        let config = config(kwargs, opt, 64, 15, theirs.run_id)?;
        let data = match context.library().load(&config) {
            Ok(data) => data,
            Err(e) => {
                check.skip_for(e)?;
                break;
            }
        };
        check.cases += 1;
        let samples = &order(&config, &data)[..STEPS * config.batch_size];
        steps(&config, &data, samples, context.target, |made| {
            let at = || format!("lr {} run {} step {}", theirs.lr, theirs.run_id, made.step);
            if let Some(loss) = theirs.loss.get(made.step) {
                check.compare(made.loss, *loss, *loss, || at() + " loss");
            }
            let norm = cpu::dot(made.gradient, made.gradient).sqrt();
            let golden = theirs.grad_norm[made.step];
            check.compare(norm, golden, golden, || at() + " norm");
        })?;
    }
    Ok(vec![check])
}
