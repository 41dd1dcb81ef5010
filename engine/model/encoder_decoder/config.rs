//! What an encoder-decoder's `config.json` amounts to, and by which names its weights go. The families hand in what differs.

use crate::device::{Activation, ExpertsSource, Routing};
use crate::export::{Checkpoint, ConfigReader};
use crate::model::ModelError;
use crate::model::blocks::{activation, check_layers, epsilon};

/// Where families differ in how they spell the same things.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct Traits {
    /// `model_type`.
    pub family: &'static str,
    /// The key of the feed-forward's activation.
    pub activation: &'static str,
    /// The key that says whether the decoder's output is scaled; without one, it is when the head is tied.
    pub scaled: Option<&'static str>,
}

/// How tokens know where they stand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::model) enum Positions {
    /// Biases of self-attention by bucketed distance.
    Relative {
        /// Buckets.
        buckets: usize,
        /// Distance from which on all share a bucket.
        max_distance: usize,
    },
    /// Learned vectors, added to the inputs.
    Absolute {
        /// Positions.
        count: usize,
    },
}

/// Which layers have experts, and what kind.
#[derive(Clone, Debug)]
pub(in crate::model) struct Experts {
    /// Routed experts of a layer.
    pub count: usize,
    /// How tokens are routed.
    pub routing: Routing,
    /// Feed-forward width of a routed expert.
    pub inner: usize,
    /// Experts that every token has, unweighted.
    pub shared: usize,
    /// Feed-forward width of a shared expert.
    pub shared_inner: usize,
    /// Of each encoder layer, whether it has them.
    pub encoder: Vec<bool>,
    /// Of each decoder layer, whether it has them.
    pub decoder: Vec<bool>,
}

/// Names of a plain feed-forward block's matrices.
#[derive(Clone, Debug)]
pub(in crate::model) struct Projections {
    /// `[inner, hidden]`: gate and up projection of a gated block, else one.
    pub input: Vec<String>,
    /// `[hidden, inner]`.
    pub output: String,
}

/// Names of a layer's feed-forward weights.
#[derive(Clone, Debug)]
pub(in crate::model) enum FeedForwardNames {
    /// One block.
    Dense(Projections),
    /// Routed and shared experts.
    Experts {
        /// `[experts, hidden]`.
        router: String,
        /// In the order of the router's rows.
        experts: Vec<Projections>,
        /// Those that every token has.
        shared: Vec<Projections>,
    },
}

/// Names the feed-forward weights at `{side}.block.N.layer.I`; the experts are given where that layer has them.
pub(in crate::model) type Names = fn(&Checkpoint, &Config, &str, Option<&Experts>) -> FeedForwardNames;

/// The configuration, as far as it matters.
#[derive(Clone, Debug)]
pub(in crate::model) struct Config {
    pub family: &'static str,
    pub vocabulary: usize,
    pub hidden: usize,
    pub heads: usize,
    pub head_dim: usize,
    /// Feed-forward width of a layer without experts.
    pub inner: usize,
    pub encoder_layers: usize,
    pub decoder_layers: usize,
    pub positions: Positions,
    /// Multiplied into queries, of self- and cross-attention.
    pub query_scale: f32,
    pub eps: f32,
    pub gated: bool,
    pub activation: Activation,
    /// The decoder's output is multiplied by hidden^-0.5 before the head.
    pub scale_outputs: bool,
    pub experts: Option<Experts>,
    pub names: Names,
}

impl Config {
    /// Reads the keys that all of these families have: those of T5, whose values the others then change.
    ///
    /// # Errors
    /// Naming what is missing, contradicts the weights, or is not served.
    pub fn read(checkpoint: &Checkpoint, traits: Traits) -> Result<Config, ModelError> {
        let config = checkpoint.config();
        let encoder_layers = config.count("num_layers")?;
        // HF derives is_gated_act and dense_act_fn from feed_forward_proj, and 4.x files may lack them: it is the truth.
        let projection = config.text_or(traits.activation, "relu")?;
        let (gated, name) = match projection.strip_prefix("gated-") {
            // HF: "gated-gelu" has meant the tanh approximation since v1.1.
            Some("gelu") => (true, "gelu_new"),
            Some(name) => (true, name),
            None => (false, projection),
        };
        let tied = config.flag_or("tie_word_embeddings", true)?;
        let decoder_layers = config.count_or("num_decoder_layers", encoder_layers)?;
        check_layers(checkpoint, "num_layers", encoder_layers)?;
        check_layers(checkpoint, "num_decoder_layers", decoder_layers)?;
        Ok(Config {
            family: traits.family,
            vocabulary: config.count("vocab_size")?,
            hidden: config.count("d_model")?,
            heads: config.count("num_heads")?,
            head_dim: config.count("d_kv")?,
            inner: config.count("d_ff")?,
            encoder_layers,
            decoder_layers,
            positions: Positions::Relative {
                buckets: config.count_or("relative_attention_num_buckets", 32)?,
                max_distance: config.count_or("relative_attention_max_distance", 128)?,
            },
            query_scale: 1.0,
            eps: epsilon(config, "layer_norm_epsilon")?,
            gated,
            activation: activation(traits.family, traits.activation, name)?,
            scale_outputs: match traits.scaled {
                Some(key) => config.flag_or(key, tied)?,
                None => tied,
            },
            experts: None,
            names: hugging_face,
        })
    }

    /// Columns of queries, and of keys, and of values.
    pub fn attention_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Names of a layer's feed-forward weights, and the prefix of its norm.
    pub fn feed_forward(&self, checkpoint: &Checkpoint, side: Side, layer: usize) -> (String, FeedForwardNames) {
        let at = format!("{}.{}", side.block(layer), side.feed_forward());
        let experts = self.experts.as_ref().filter(|experts| experts.of(side)[layer]);
        let names = (self.names)(checkpoint, self, &at, experts);
        (at, names)
    }

    /// Layers of a side.
    pub fn layers(&self, side: Side) -> usize {
        match side {
            Side::Encoder => self.encoder_layers,
            Side::Decoder => self.decoder_layers,
        }
    }
}

impl Experts {
    /// Of each layer of a side, whether it has experts.
    pub fn of(&self, side: Side) -> &[bool] {
        match side {
            Side::Encoder => &self.encoder,
            Side::Decoder => &self.decoder,
        }
    }
}

/// Half of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Side {
    Encoder,
    Decoder,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Side::Encoder => "encoder",
            Side::Decoder => "decoder",
        }
    }

    /// Prefix of a layer's parts, which are numbered.
    pub fn block(self, layer: usize) -> String {
        format!("{}.block.{layer}.layer", self.name())
    }

    /// Attentions of a layer, in order.
    pub fn attentions(self) -> &'static [&'static str] {
        match self {
            Side::Encoder => &["SelfAttention"],
            Side::Decoder => &["SelfAttention", "EncDecAttention"],
        }
    }

    /// Number of the feed-forward part.
    pub fn feed_forward(self) -> usize {
        self.attentions().len()
    }

    /// `[buckets, heads]` of relative positions.
    pub fn bias(self) -> String {
        format!("{}.0.SelfAttention.relative_attention_bias.weight", self.block(0))
    }

    /// `[positions, hidden]` of learned positions.
    pub fn positions(self) -> String {
        format!("{}.embed_positions.weight", self.name())
    }
}

/// The names of Hugging Face's T5.
fn hugging_face(_: &Checkpoint, config: &Config, at: &str, _: Option<&Experts>) -> FeedForwardNames {
    let name = |part: &str| format!("{at}.DenseReluDense.{part}.weight");
    let input = if config.gated { vec![name("wi_0"), name("wi_1")] } else { vec![name("wi")] };
    FeedForwardNames::Dense(Projections { input, output: name("wo") })
}

/// Refuses a number of experts that no device serves.
///
/// # Errors
/// Naming the key.
pub(in crate::model) fn check_experts(config: &ConfigReader, key: &str, experts: usize) -> Result<(), ModelError> {
    if ExpertsSource::EXPERTS.contains(&experts) {
        return Ok(());
    }
    Err(config.unsupported(key, "layers of 2 to 64 experts are served").into())
}
