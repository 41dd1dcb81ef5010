//! What a decoder-only model's `config.json` says, as far as it matters, and the tensors that follow from it.

use super::rope::RopeConfig;
use crate::device::Activation;
use crate::export::Checkpoint;
use crate::model::blocks::{activation, check_layers, epsilon};
use crate::model::{Description, ModelError, TensorSpec};

/// What a family fixes, or reads from keys of its own.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct Traits {
    /// `model_type`, for messages.
    pub family: &'static str,
    /// Positions when `config.json` does not say.
    pub max_positions: usize,
    /// Whether queries and keys are normed by head.
    pub head_norm: bool,
    /// Which projections have biases.
    pub biases: Biases,
}

/// Which projections have biases.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::model) struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// Attention's output.
    pub output: bool,
    /// Gate, up and down projection.
    pub feed_forward: bool,
}

/// `config.json` and what the family adds.
pub(in crate::model) struct Config {
    traits: Traits,
    pub(super) vocabulary: usize,
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) inner: usize,
    pub(super) layers: usize,
    pub(super) eps: f32,
    pub(super) activation: Activation,
    pub(super) rope: RopeConfig,
    pub(super) max_positions: usize,
    tied: bool,
}

/// A layer's matrix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix {
    pub name: &'static str,
    pub rows: usize,
    pub cols: usize,
    pub biased: bool,
}

impl Config {
    /// Reads the configuration.
    ///
    /// # Errors
    /// Naming what is missing, contradicts the weights, or is not served.
    pub fn read(checkpoint: &Checkpoint, traits: Traits) -> Result<Config, ModelError> {
        let config = checkpoint.config();
        if config.has("quantization_config") {
            let advice = "save the checkpoint's weights as f32, f16 or bf16, and remove the key";
            return Err(config.unsupported("quantization_config", advice).into());
        }
        let layers = config.count("num_hidden_layers")?;
        check_layers(checkpoint, "num_hidden_layers", layers)?;
        let heads = config.count("num_attention_heads")?;
        let hidden = config.count("hidden_size")?;
        let max_positions = config.count_or("max_position_embeddings", traits.max_positions)?;
        let config = Config {
            traits,
            vocabulary: config.count("vocab_size")?,
            hidden,
            heads,
            kv_heads: config.count_or("num_key_value_heads", heads)?,
            head_dim: config.count_or("head_dim", hidden / heads)?,
            inner: config.count("intermediate_size")?,
            layers,
            eps: epsilon(config, "rms_norm_eps")?,
            activation: activation(traits.family, "hidden_act", config.text_or("hidden_act", "silu")?)?,
            rope: RopeConfig::read(config, max_positions)?,
            max_positions,
            tied: config.flag_or("tie_word_embeddings", false)?,
        };
        config.check_heads()?;
        config.check_what_is_not_read(checkpoint)?;
        Ok(config)
    }

    fn check_heads(&self) -> Result<(), ModelError> {
        let family = self.traits.family;
        let refuse =
            |key, value: usize, advice| Err(ModelError::Unsupported { family, key, value: value.to_string(), advice });
        if !self.heads.is_multiple_of(self.kv_heads) {
            return refuse("num_key_value_heads", self.kv_heads, "num_attention_heads must be a multiple of it");
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            return refuse("head_dim", self.head_dim, "RoPE needs an even number");
        }
        Ok(())
    }

    /// A bias or head norm in the weights that the configuration denies would change every score and go unsaid.
    fn check_what_is_not_read(&self, checkpoint: &Checkpoint) -> Result<(), ModelError> {
        let of_first = |name: &str, kind: &str| tensor_name(0, name, kind);
        let biases = self.matrices().into_iter().filter(|matrix| !matrix.biased);
        let names = biases.map(|matrix| of_first(matrix.name, "bias"));
        let norm = (!self.traits.head_norm).then(|| of_first("self_attn.q_norm", "weight"));
        match names.chain(norm).find(|name| checkpoint.weights().contains(name)) {
            None => Ok(()),
            Some(name) => {
                let detail = format!(
                    "{} as configured has no `{name}`, but the weights do; set what the checkpoint was trained with \
                     (model_type, attention_bias, mlp_bias), or drop the tensors if they are all zero",
                    self.traits.family
                );
                Err(checkpoint.config().contradiction("model_type", detail).into())
            }
        }
    }

    /// Columns of queries.
    pub(super) fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Columns of keys, and of values.
    pub(super) fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Whether queries and keys are normed by head.
    pub(super) fn head_norm(&self) -> bool {
        self.traits.head_norm
    }

    /// Each layer's matrices: query, key, value, output, gate, up, down.
    pub(super) fn matrices(&self) -> [Matrix; 7] {
        let Biases { qkv, output, feed_forward } = self.traits.biases;
        let (hidden, query, kv, inner) = (self.hidden, self.query_width(), self.kv_width(), self.inner);
        let matrix = |name, (rows, cols), biased| Matrix { name, rows, cols, biased };
        [
            matrix("self_attn.q_proj", (query, hidden), qkv),
            matrix("self_attn.k_proj", (kv, hidden), qkv),
            matrix("self_attn.v_proj", (kv, hidden), qkv),
            matrix("self_attn.o_proj", (hidden, query), output),
            matrix("mlp.gate_proj", (inner, hidden), feed_forward),
            matrix("mlp.up_proj", (inner, hidden), feed_forward),
            matrix("mlp.down_proj", (hidden, inner), feed_forward),
        ]
    }

    /// What the checkpoint must hold.
    pub fn describe(&self, checkpoint: &Checkpoint) -> Description {
        let hidden = self.hidden;
        let mut tensors = Vec::new();
        let mut expect = |name: String, shape: &[usize]| tensors.push(TensorSpec { name, shape: shape.to_vec() });
        expect(TABLE.into(), &[self.vocabulary, hidden]);
        let head = if !self.tied || checkpoint.weights().contains(HEAD) { HEAD } else { TABLE };
        if head != TABLE {
            expect(head.into(), &[self.vocabulary, hidden]);
        }
        for layer in 0..self.layers {
            expect(tensor_name(layer, "input_layernorm", "weight"), &[hidden]);
            expect(tensor_name(layer, "post_attention_layernorm", "weight"), &[hidden]);
            for norm in ["self_attn.q_norm", "self_attn.k_norm"].into_iter().filter(|_| self.head_norm()) {
                expect(tensor_name(layer, norm, "weight"), &[self.head_dim]);
            }
            for matrix in self.matrices() {
                expect(tensor_name(layer, matrix.name, "weight"), &[matrix.rows, matrix.cols]);
                if matrix.biased {
                    expect(tensor_name(layer, matrix.name, "bias"), &[matrix.rows]);
                }
            }
        }
        expect(FINAL_NORM.into(), &[hidden]);
        Description {
            encoder_decoder: false,
            hidden,
            vocabulary: self.vocabulary,
            kv_layers: self.layers,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            max_positions: Some(self.max_positions),
            tensors,
            embeddings: TABLE.into(),
            head: head.into(),
        }
    }
}

pub(super) const TABLE: &str = "model.embed_tokens.weight";
pub(super) const FINAL_NORM: &str = "model.norm.weight";
const HEAD: &str = "lm_head.weight";

/// The tensor of a layer's part; `kind` is `weight` or `bias`.
pub(super) fn tensor_name(layer: usize, part: &str, kind: &str) -> String {
    format!("model.layers.{layer}.{part}.{kind}")
}

/// Refuses sliding-window attention in the keys of Qwen's configurations.
///
/// # Errors
/// Naming the key.
pub(in crate::model) fn refuse_sliding_window(checkpoint: &Checkpoint) -> Result<(), ModelError> {
    let config = checkpoint.config();
    if config.flag_or("use_sliding_window", false)? {
        return Err(config.unsupported("use_sliding_window", "sliding-window attention is not served").into());
    }
    if let Some(types) = config.texts("layer_types")? {
        let layers = config.count("num_hidden_layers")?;
        if types.len() != layers {
            let detail = format!("{} types for num_hidden_layers = {layers}", types.len());
            return Err(config.contradiction("layer_types", detail).into());
        }
        if types.iter().any(|name| name != "full_attention") {
            return Err(config.unsupported("layer_types", "only full_attention is served").into());
        }
    }
    Ok(())
}
