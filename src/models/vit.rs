//! The vision transformer `vit`.

use super::{Model, Row, depth, images_of_cifar};
use crate::config::{Entry, Key, Kind};
use crate::graph::{Param, Params, Role, Var};
use crate::nn::{FeedForward, LayerNorm, Linear};

struct Vit {
    patch: usize,
    patch_norm: LayerNorm,
    embedding: Linear,
    embedding_norm: LayerNorm,
    position: Param,
    class: Param,
    dropout: f64,
    blocks: Vec<(Attention, FeedForward)>,
    pool: Pool,
    norm: LayerNorm,
    head: Linear,
}

/// What of the last block's tokens is classified.
#[derive(Clone, Copy, PartialEq)]
enum Pool {
    Class,
    Mean,
}

/// The attention half of a block.
struct Attention {
    norm: LayerNorm,
    to_qkv: Linear,
    /// Absent where one head has the tokens' width.
    to_out: Option<Linear>,
    heads: usize,
    dropout: f64,
}

impl Attention {
    fn new(
        params: &mut Params,
        name: &str,
        dim: usize,
        (heads, head_dim): (usize, usize),
        dropout: f64,
    ) -> Attention {
        let inner = heads.saturating_mul(head_dim);
        let norm = LayerNorm::new(params, &format!("{name}.norm"), dim);
        let to_qkv = Linear::new(
            params,
            &format!("{name}.fn.to_qkv"),
            dim,
            inner.saturating_mul(3),
            false,
        );
        let projects = heads > 1 || head_dim != dim;
        let to_out = format!("{name}.fn.to_out.0");
        let to_out = projects.then(|| Linear::new(params, &to_out, inner, dim, true));
        Attention {
            norm,
            to_qkv,
            to_out,
            heads,
            dropout,
        }
    }

    /// Of all tokens, or of the class token alone: what follows then need not be done for the others.
    fn forward<'t>(&self, x: Var<'t>, class_only: bool) -> Var<'t> {
        let qkv = self.to_qkv.forward(self.norm.forward(x));
        let mut y = qkv.attention(self.heads, None, self.dropout);
        let mut shortcut = x;
        if class_only {
            (y, shortcut) = (y.select_token(0), x.select_token(0));
        }
        if let Some(to_out) = self.to_out {
            y = to_out.forward(y).dropout(self.dropout);
        }
        y.plus(shortcut)
    }
}

impl Model for Vit {
    fn forward<'t>(&self, x: Var<'t>) -> Var<'t> {
        let param = |range| x.tape.param(range);
        let patches = self.patch_norm.forward(x.patches(self.patch));
        let patches = self.embedding_norm.forward(self.embedding.forward(patches));
        let tokens = patches.embed_tokens(param(self.class), param(self.position));
        let mut x = tokens.dropout(self.dropout);
        for (i, (attention, feed_forward)) in self.blocks.iter().enumerate() {
            let last = i + 1 == self.blocks.len();
            x = attention.forward(x, last && self.pool == Pool::Class);
            x = feed_forward.forward(x);
        }
        if self.pool == Pool::Mean {
            x = x.average_pool();
        }
        self.head.forward(self.norm.forward(x))
    }
}

pub const VIT: Row = Row {
    entry: Entry {
        name: "vit",
        about: "vision transformer on 32x32 images",
        paper: "Dosovitskiy et al. 2021, https://arxiv.org/abs/2010.11929",
        keys: &[
            Key {
                name: "patch_size",
                kind: Kind::Count,
                default: Some("16"),
                about: "side of a patch in pixels; it divides 32",
            },
            Key {
                name: "dim",
                kind: Kind::Count,
                default: Some("1024"),
                about: "width of the tokens",
            },
            Key {
                name: "depth",
                kind: Kind::Count,
                default: Some("6"),
                about: "number of blocks",
            },
            Key {
                name: "heads",
                kind: Kind::Count,
                default: Some("16"),
                about: "attention heads",
            },
            Key {
                name: "mlp_dim",
                kind: Kind::Count,
                default: Some("2048"),
                about: "hidden width of the feed-forward layers",
            },
            Key {
                name: "pool",
                kind: Kind::Choice(&["cls", "mean"]),
                default: Some("\"cls\""),
                about: "what is classified: the class token, or the mean over the tokens",
            },
            Key {
                name: "dim_head",
                kind: Kind::Count,
                default: Some("64"),
                about: "width of a head",
            },
            Key {
                name: "dropout",
                kind: Kind::Fraction,
                default: Some("0"),
                about: "rate of dropout in the blocks",
            },
            Key {
                name: "emb_dropout",
                kind: Kind::Fraction,
                default: Some("0"),
                about: "rate of dropout after the position embedding",
            },
        ],
    },
    linear: false,
    example: r#"{"dataset": "cifar10", "model_kwargs": {"patch_size": 4, "dim": 512, "heads": 8, "mlp_dim": 512}}"#,
    build: |params, data, values| {
        let classes = images_of_cifar(data)?;
        let patch = values.count("patch_size");
        if !32usize.is_multiple_of(patch) {
            return Err(format!(
                "model_kwargs.patch_size is {patch}, but patches must divide an image's side of 32 pixels"
            ));
        }
        let (dim, dropout) = (values.count("dim"), values.real("dropout"));
        let heads = (values.count("heads"), values.count("dim_head"));
        let (tokens, pixels) = ((32 / patch).pow(2) + 1, 3 * patch * patch);
        // Listed first, drawn after the patch embedding.
        let position = params.constant("pos_embedding", &[1, tokens, dim], 0.0);
        let class = params.constant("cls_token", &[1, 1, dim], 0.0);
        let embedding = |i: usize| format!("to_patch_embedding.{i}");
        let patch_norm = LayerNorm::new(params, &embedding(1), pixels);
        let linear =
            Linear::new(params, &embedding(2), pixels, dim, true).marked(params, Role::Embedding);
        let embedding_norm = LayerNorm::new(params, &embedding(3), dim);
        params.redraw_normal(position, 1.0);
        params.redraw_normal(class, 1.0);
        params.mark([position, class], Role::Embedding);
        let mut blocks = Vec::new();
        for i in 0..depth("depth", values.count("depth"))? {
            let half = |half: usize| format!("transformer.layers.{i}.{half}");
            let attention = Attention::new(params, &half(0), dim, heads, dropout);
            let hidden = values.count("mlp_dim");
            let mlp = FeedForward::new(params, &half(1), dim, hidden, Some(dropout));
            blocks.push((attention, mlp));
        }
        Ok(Box::new(Vit {
            patch,
            patch_norm,
            embedding: linear,
            embedding_norm,
            position,
            class,
            dropout: values.real("emb_dropout"),
            blocks,
            pool: match values.text("pool").as_str() {
                "mean" => Pool::Mean,
                _ => Pool::Class,
            },
            norm: LayerNorm::new(params, "mlp_head.0", dim),
            head: Linear::new(params, "mlp_head.1", dim, classes, true).marked(params, Role::Head),
        }))
    },
};
