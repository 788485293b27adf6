//! Matrix completion: an entry is the inner product of two embeddings plus two biases.

use super::{Model, Row};
use crate::config::{Entry, Key, Kind};
use crate::graph::{Param, Role, Sample, Var};
use crate::nn::Linear;

struct MatrixCompletion {
    u: Linear,
    v: Linear,
    bias_u: Param,
    bias_v: Param,
}

impl Model for MatrixCompletion {
    /// `x` (N, 2) holds the row and the column of each entry.
    fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        let embed = |param, column| x.tape.param(param).embedding(x, column);
        let inner = embed(self.u.weight, 0).row_dot(embed(self.v.weight, 1));
        let bias = embed(self.bias_u, 0).plus(embed(self.bias_v, 1));
        inner.plus(bias)
    }
}

pub const MATRIX_COMPLETION: Row = Row {
    entry: Entry {
        name: "matrix_completion",
        about: "<U e_i, V e_j> + bias_U[i] + bias_V[j] for the entry (i, j)",
        paper: "",
        keys: &[
            Key {
                name: "dim",
                kind: Kind::CountPair,
                default: None,
                about: "numbers of rows and columns of the matrix",
            },
            Key {
                name: "rank",
                kind: Kind::Count,
                default: Some("10"),
                about: "length of the embeddings",
            },
        ],
    },
    linear: false,
    example: r#"{"dataset": "sensor", "model_kwargs": {"dim": [130, 720], "rank": 24}}"#,
    build: |params, data, values| {
        let Sample::IndexPair {
            bounds: [rows, columns],
        } = data.sample
        else {
            return Err("its samples must be pairs (row, column)".into());
        };
        let (dim, rank) = (values.counts("dim"), values.count("rank"));
        if dim[0] < rows || dim[1] < columns {
            return Err(format!(
                "model_kwargs.dim is {dim:?}, but the samples reach into a matrix of [{rows}, {columns}]"
            ));
        }
        let u = Linear::new(params, "U", dim[0], rank, false).marked(params, Role::Embedding);
        let v = Linear::new(params, "V", dim[1], rank, false).marked(params, Role::Embedding);
        let bias_u = params.normal("bias_U", &[dim[0]], 1.0);
        let bias_v = params.normal("bias_V", &[dim[1]], 1.0);
        params.mark([bias_u, bias_v], Role::Bias);
        Ok(Box::new(MatrixCompletion {
            u,
            v,
            bias_u,
            bias_v,
        }))
    },
};
