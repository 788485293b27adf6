//! The language model `llama`: a decoder with RMSNorm, rotary embedding and causal attention.

use super::{LARGEST, Model, Row, depth};
use crate::config::{Entry, Key, Kind, Values};
use crate::graph::{Param, Params, Role, Sample, Var};
use crate::nn::{Linear, RmsNorm};

struct Llama {
    embedding: Param,
    blocks: Vec<Block>,
    norm: RmsNorm,
    /// The embedding's weight if the two are tied.
    head: Param,
}

struct Block {
    attention_norm: RmsNorm,
    to_qkv: Linear,
    to_out: Linear,
    heads: usize,
    mlp_norm: RmsNorm,
    first: Linear,
    activation: Activation,
    second: Linear,
}

/// What stands between the two linear layers of a block's second half.
#[derive(Clone, Copy, PartialEq)]
enum Activation {
    Silu,
    /// The gated linear unit: SiLU of one half times the other.
    Swiglu,
    ReluSquared,
}

/// The base of the rotary embedding's angles.
const ROTARY: f32 = 500_000.0;

impl Model for Llama {
    /// `tokens` (N, T) become logits (N, T, vocabulary).
    fn forward<'t>(&self, tokens: Var<'t>) -> Var<'t> {
        let param = |range| tokens.tape.param(range);
        let embedded = param(self.embedding).token_embedding(tokens);
        let x = self
            .blocks
            .iter()
            .fold(embedded, |x, block| block.forward(x));
        self.norm.forward(x).linear(param(self.head), None)
    }
}

impl Block {
    fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        let qkv = self.to_qkv.forward(self.attention_norm.forward(x));
        let attention = qkv.causal_attention(self.heads, Some(ROTARY));
        let x = self.to_out.forward(attention).plus(x);
        let hidden = self.first.forward(self.mlp_norm.forward(x));
        let hidden = match self.activation {
            Activation::Silu => hidden.silu(),
            Activation::Swiglu => hidden.swiglu(),
            Activation::ReluSquared => hidden.relu_squared(),
        };
        self.second.forward(hidden).plus(x)
    }

    fn new(params: &mut Params, name: &str, dim: usize, config: &Config) -> Block {
        let named = |part: &str| format!("{name}.{part}");
        let linear = |params: &mut Params, part: &str, inputs, outputs| {
            Linear::new(params, &named(part), inputs, outputs, false)
        };
        let (hidden, activation) = (config.hidden, config.activation);
        let inner = if activation == Activation::Swiglu {
            2 * hidden
        } else {
            hidden
        };
        Block {
            to_qkv: linear(params, "attn.w_qkv", dim, dim.saturating_mul(3)),
            to_out: linear(params, "attn.w_out", dim, dim),
            heads: config.heads,
            attention_norm: RmsNorm::new(params, &named("attn_norm"), dim, config.eps),
            first: linear(params, "mlp.fc1", dim, inner),
            activation,
            second: linear(params, "mlp.fc2", hidden, dim),
            mlp_norm: RmsNorm::new(params, &named("mlp_norm"), dim, config.eps),
        }
    }
}

/// What all blocks have in common.
struct Config {
    heads: usize,
    hidden: usize,
    activation: Activation,
    eps: f32,
}

impl Config {
    fn new(dim: usize, values: &Values) -> Result<Config, String> {
        let heads = values.count("n_heads");
        if !dim.is_multiple_of(heads) {
            return Err(format!(
                "model_kwargs.n_heads is {heads}, but must divide dim, which is {dim}"
            ));
        }
        if !(dim / heads).is_multiple_of(2) {
            return Err(format!(
                "heads of width {} (dim / n_heads): the rotary embedding turns pairs, so it must be even",
                dim / heads
            ));
        }
        let expand = values.real("expand");
        let hidden = (expand * dim as f64) as u64;
        if hidden > LARGEST {
            return Err(format!("model_kwargs.expand is {expand}: too large"));
        }
        Ok(Config {
            heads,
            hidden: (hidden.max(1) as usize).next_multiple_of(256),
            activation: activation(values)?,
            eps: values.real("rmsorm_eps") as f32,
        })
    }
}

/// The activation by the key `mlp_class`, or by `mlp`, as its authors' configs say.
fn activation(values: &Values) -> Result<Activation, String> {
    let [class, alias] = ["mlp_class", "mlp"].map(|key| values.get(key));
    let name = match (class.as_str(), alias.as_str()) {
        (Some(class), Some(alias)) if class != alias => {
            return Err(format!(
                "model_kwargs.mlp_class is {class:?}, but mlp, another name of the same key, is {alias:?}"
            ));
        }
        (Some(name), _) | (None, Some(name)) => name,
        (None, None) => "mlp",
    };
    Ok(match name {
        "glu" => Activation::Swiglu,
        "mlp_relu_sq" => Activation::ReluSquared,
        _ => Activation::Silu,
    })
}

fn is_activation(value: &serde_json::Value) -> bool {
    value.is_null() || Kind::Choice(&["mlp", "glu", "mlp_relu_sq"]).accepts(value)
}

const MLP: Kind = Kind::Checked("one of mlp, glu, mlp_relu_sq, or null", is_activation);

/// Draws all weights again as language models are: normal, and smaller for those that are added to the stream.
fn redraw(params: &mut Params, embedding: Param, blocks: &[Block], head: Param) {
    const STD: f32 = 0.02;
    let weights = |b: &Block| [b.to_qkv, b.to_out, b.first, b.second].map(|layer| layer.weight);
    let blocks_weights = blocks.iter().flat_map(weights);
    for weight in [embedding].into_iter().chain(blocks_weights).chain([head]) {
        params.redraw_normal(weight, STD);
    }
    let std = (f64::from(STD) / (2.0 * blocks.len() as f64).sqrt()) as f32;
    for block in blocks {
        params.redraw_normal(block.to_out.weight, std);
        params.redraw_normal(block.second.weight, std);
    }
}

pub const LLAMA: Row = Row {
    entry: Entry {
        name: "llama",
        about: "language model: a decoder with RMSNorm, rotary embedding and causal attention, without biases",
        paper: "Touvron et al. 2023, https://arxiv.org/abs/2302.13971",
        keys: &[
            Key {
                name: "vocab_size",
                kind: Kind::Count,
                default: None,
                about: "number of codes that a token may have; at least the data set's",
            },
            Key {
                name: "dim",
                kind: Kind::Count,
                default: None,
                about: "width of the tokens",
            },
            Key {
                name: "expand",
                kind: Kind::Positive,
                default: None,
                about: "hidden width of the feed-forward layers as a multiple of dim, rounded up to a multiple of 256",
            },
            Key {
                name: "n_layers",
                kind: Kind::Count,
                default: None,
                about: "number of blocks",
            },
            Key {
                name: "n_heads",
                kind: Kind::Count,
                default: None,
                about: "attention heads; their width dim / n_heads is even",
            },
            Key {
                name: "seq_len",
                kind: Kind::Count,
                default: None,
                about: "tokens of a window of the text",
            },
            Key {
                name: "mlp_class",
                kind: MLP,
                default: Some("null"),
                about: "feed-forward layers: SiLU (mlp, the default), a gated linear unit with SiLU (glu), or the square of ReLU (mlp_relu_sq)",
            },
            Key {
                name: "mlp",
                kind: MLP,
                default: Some("null"),
                about: "another name of mlp_class",
            },
            Key {
                name: "rmsorm_eps",
                kind: Kind::NonNegative,
                default: Some("1e-6"),
                about: "added to the mean square in RMSNorm",
            },
            Key {
                name: "tie_embeddings",
                kind: Kind::Flag,
                default: Some("false"),
                about: "the last layer's weight is the embedding's",
            },
        ],
    },
    linear: false,
    example: r#"{"dataset": "shakespeare", "model_kwargs": {"vocab_size": 92, "dim": 384, "expand": 4, "n_layers": 6,
        "n_heads": 6, "seq_len": 256}}"#,
    build: |params, data, values| {
        let (Sample::Tokens { .. }, Some(codes)) = (data.sample, data.classes) else {
            return Err("it takes texts: data set shakespeare or text".into());
        };
        let (vocabulary, dim) = (values.count("vocab_size"), values.count("dim"));
        if vocabulary < codes {
            return Err(format!(
                "model_kwargs.vocab_size is {vocabulary}, but the text has codes up to {}: at least {codes} are needed",
                codes - 1
            ));
        }
        let config = Config::new(dim, values)?;
        let embedding = params.normal("embed_tokens.weight", &[vocabulary, dim], 1.0);
        let layers = depth("n_layers", values.count("n_layers"))?;
        let blocks: Vec<Block> = (0..layers)
            .map(|i| Block::new(params, &format!("layers.{i}"), dim, &config))
            .collect();
        let norm = RmsNorm::new(params, "out_norm", dim, config.eps);
        let mut head = Linear::new(params, "lm_head", dim, vocabulary, false).weight;
        params.mark([embedding], Role::Embedding);
        params.mark([head], Role::Head);
        redraw(params, embedding, &blocks, head);
        if values.flag("tie_embeddings") {
            params.discard_last();
            head = embedding;
        }
        Ok(Box::new(Llama {
            embedding,
            blocks,
            norm,
            head,
        }))
    },
};
