//! Chains of linear layers: `linear`, `mlp` and `matrix_fac`.

use super::{Model, Row, features};
use crate::config::{Entry, Key, Kind};
use crate::graph::{Role, Var};
use crate::nn::Linear;

/// Linear layers, with what stands between two of them.
struct Chain {
    layers: Vec<Linear>,
    relu: bool,
    dropout: f64,
}

impl Model for Chain {
    fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        let (last, hidden) = self.layers.split_last().expect("a layer");
        let x = hidden.iter().fold(x, |x, layer| {
            let x = layer.forward(x);
            let x = if self.relu { x.relu() } else { x };
            x.dropout(self.dropout)
        });
        last.forward(x)
    }
}

const OUTPUT_SIZE: Key = Key {
    name: "output_size",
    kind: Kind::Count,
    default: Some("1"),
    about: "number of outputs",
};

const BIAS: Key = Key {
    name: "bias",
    kind: Kind::Flag,
    default: Some("false"),
    about: "add a bias",
};

pub const LINEAR: Row = Row {
    entry: Entry {
        name: "linear",
        about: "one linear layer on flat samples",
        paper: "",
        keys: &[OUTPUT_SIZE, BIAS],
    },
    linear: true,
    example: r#"{"dataset": "synthetic_linear", "dataset_kwargs": {"p": 10, "n_samples": 50}}"#,
    build: |params, data, values| {
        let (inputs, outputs) = (features(data)?, values.count("output_size"));
        let layer = Linear::new(params, "0", inputs, outputs, values.flag("bias"));
        let layer = layer.marked(params, Role::Head);
        Ok(Box::new(Chain {
            layers: vec![layer],
            relu: false,
            dropout: 0.0,
        }))
    },
};

pub const MLP: Row = Row {
    entry: Entry {
        name: "mlp",
        about: "multilayer perceptron: linear layers with ReLU between them, on flat samples",
        paper: "",
        keys: &[
            Key {
                name: "output_size",
                kind: Kind::Count,
                default: None,
                about: "number of outputs",
            },
            Key {
                name: "hidden_sizes",
                kind: Kind::Counts,
                default: Some("[]"),
                about: "widths of the hidden layers",
            },
            BIAS,
            Key {
                name: "dropout",
                kind: Kind::Flag,
                default: Some("false"),
                about: "dropout with rate 0.5 after each ReLU",
            },
        ],
    },
    linear: false,
    example: r#"{"dataset": "mnist", "dataset_kwargs": {"as_image": false},
        "model_kwargs": {"output_size": 10, "hidden_sizes": [100, 100], "bias": true}}"#,
    build: |params, data, values| {
        let mut inputs = features(data)?;
        let (bias, dropout) = (values.flag("bias"), values.flag("dropout"));
        let mut sizes = values.counts("hidden_sizes");
        sizes.push(values.count("output_size"));
        // The layers between two linear ones count in PyTorch's names.
        let stride = if dropout { 3 } else { 2 };
        let mut layers = Vec::new();
        for (i, outputs) in sizes.into_iter().enumerate() {
            let name = (stride * i).to_string();
            layers.push(Linear::new(params, &name, inputs, outputs, bias));
            inputs = outputs;
        }
        let last = layers.last().expect("a layer");
        params.mark([last.weight], Role::Head);
        Ok(Box::new(Chain {
            layers,
            relu: true,
            dropout: if dropout { 0.5 } else { 0.0 },
        }))
    },
};

pub const MATRIX_FAC: Row = Row {
    entry: Entry {
        name: "matrix_fac",
        about: "product of two matrices: two linear layers without bias",
        paper: "",
        keys: &[Key {
            name: "rank",
            kind: Kind::Checked("an integer of 1 or more, or null", |v| {
                v.is_null() || Kind::Count.accepts(v)
            }),
            default: Some("null"),
            about: "inner dimension; null: the larger of the outer two",
        }],
    },
    linear: false,
    example: r#"{"dataset": "synthetic_matrix_fac", "dataset_kwargs": {"p": 6, "q": 10, "n_samples": 200},
        "model_kwargs": {"rank": 4}}"#,
    build: |params, data, values| {
        let inputs = features(data)?;
        let outputs = match (&data.target[..], data.classes) {
            ([n], None) => *n,
            _ => return Err("its targets must be flat vectors of numbers".into()),
        };
        let rank = values.get("rank").as_u64();
        let rank = rank.map_or(inputs.max(outputs), |r| r as usize);
        let layers = vec![
            Linear::new(params, "0", inputs, rank, false),
            Linear::new(params, "1", rank, outputs, false).marked(params, Role::Head),
        ];
        Ok(Box::new(Chain {
            layers,
            relu: false,
            dropout: 0.0,
        }))
    },
};
