//! What a checkpoint must hold, and loading it.

use crate::device::{Device, KvShape, Linear, LinearSource, OwnShape, RelativeBias, Vector};
use crate::export::{Checkpoint, TensorView};
use crate::model::blocks::{Widths, Workspace};
use crate::model::{Capacity, Description, Model, ModelError, TensorSpec};

use super::bias::Buckets;
use super::config::{Config, FeedForwardNames, Positions, Projections, Side};
use super::feed_forward::{FeedForwardLayer, Room, plan_experts};
use super::{CrossAttention, DecoderLayer, EncoderDecoder, EncoderLayer, SelfAttention, SideInputs};

/// The shared table, or a tied copy of it when only that was saved.
fn table_name(checkpoint: &Checkpoint) -> &'static str {
    ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
        .into_iter()
        .find(|name| checkpoint.weights().contains(name))
        .unwrap_or("shared.weight")
}

/// What a checkpoint of this configuration must hold.
///
/// # Errors
/// Relative positions that cannot be.
pub(in crate::model) fn describe(config: &Config, checkpoint: &Checkpoint) -> Result<Description, ModelError> {
    let (hidden, width) = (config.hidden, config.attention_width());
    let mut tensors = Vec::new();
    let mut expect = |name: String, shape: &[usize]| tensors.push(TensorSpec { name, shape: shape.to_vec() });
    let table = table_name(checkpoint);
    expect(table.into(), &[config.vocabulary, hidden]);
    // HF decides by the file: a head that is there is used whatever tie_word_embeddings says.
    let head = if checkpoint.weights().contains("lm_head.weight") { "lm_head.weight" } else { table };
    if head != table {
        expect(head.into(), &[config.vocabulary, hidden]);
    }
    for side in [Side::Encoder, Side::Decoder] {
        match config.positions {
            Positions::Relative { buckets, max_distance } => {
                check_buckets(config.family, buckets, max_distance)?;
                expect(side.bias(), &[buckets, config.heads]);
            }
            Positions::Absolute { count } => expect(side.positions(), &[count, hidden]),
        }
        for layer in 0..config.layers(side) {
            let block = side.block(layer);
            for (index, attention) in side.attentions().iter().enumerate() {
                for projection in ["q", "k", "v"] {
                    expect(format!("{block}.{index}.{attention}.{projection}.weight"), &[width, hidden]);
                }
                expect(format!("{block}.{index}.{attention}.o.weight"), &[hidden, width]);
                expect(format!("{block}.{index}.layer_norm.weight"), &[hidden]);
            }
            let (at, names) = config.feed_forward(checkpoint, side, layer);
            let mut block = |names: Projections, inner: usize| {
                names.input.into_iter().for_each(|name| expect(name, &[inner, hidden]));
                expect(names.output, &[hidden, inner]);
            };
            match (names, &config.experts) {
                (FeedForwardNames::Experts { router, experts, shared }, Some(kind)) => {
                    experts.into_iter().for_each(|names| block(names, kind.inner));
                    shared.into_iter().for_each(|names| block(names, kind.shared_inner));
                    expect(router, &[kind.count, hidden]);
                }
                (FeedForwardNames::Dense(names), _) => block(names, config.inner),
                (FeedForwardNames::Experts { .. }, None) => unreachable!("names of experts follow from experts"),
            }
            expect(format!("{at}.layer_norm.weight"), &[hidden]);
        }
        expect(format!("{}.final_layer_norm.weight", side.name()), &[hidden]);
    }
    Ok(Description {
        encoder_decoder: true,
        hidden,
        vocabulary: config.vocabulary,
        kv_layers: config.decoder_layers,
        kv_heads: config.heads,
        head_dim: config.head_dim,
        max_positions: match config.positions {
            Positions::Relative { .. } => None,
            Positions::Absolute { count } => Some(count),
        },
        tensors,
        embeddings: table.into(),
        head: head.into(),
    })
}

fn check_buckets(family: &'static str, buckets: usize, max_distance: usize) -> Result<(), ModelError> {
    if buckets >= 4 && max_distance > buckets / 2 {
        return Ok(());
    }
    Err(ModelError::Unsupported {
        family,
        key: "relative_attention_num_buckets",
        value: format!("{buckets} with relative_attention_max_distance {max_distance}"),
        advice: "at least 4 buckets and a distance beyond half of them are needed",
    })
}

/// Brings tensors to the device.
pub(super) struct Loader<'a> {
    pub checkpoint: &'a Checkpoint,
    pub device: &'a mut dyn Device,
    pub config: &'a Config,
}

impl Loader<'_> {
    pub fn tensor(&self, name: &str) -> Result<TensorView, ModelError> {
        Ok(self.checkpoint.weights().tensor(name)?)
    }

    fn linear(&mut self, names: &[String], gated: bool) -> Result<Linear, ModelError> {
        let parts = names.iter().map(|name| self.tensor(name)).collect::<Result<_, _>>()?;
        Ok(self.device.linear_weight(&LinearSource { parts, biases: Vec::new(), gated })?)
    }

    pub fn vector(&mut self, name: &str, scale: f32) -> Result<Vector, ModelError> {
        Ok(self.device.vector(&self.tensor(name)?, scale)?)
    }

    /// Input and output of a plain feed-forward block.
    pub fn block(&mut self, names: &Projections) -> Result<(Linear, Linear), ModelError> {
        let input = self.linear(&names.input, self.config.gated)?;
        Ok((input, self.linear(std::slice::from_ref(&names.output), false)?))
    }

    fn self_attention(&mut self, block: &str) -> Result<SelfAttention, ModelError> {
        let of = |projection| format!("{block}.0.SelfAttention.{projection}.weight");
        Ok(SelfAttention {
            norm: self.vector(&format!("{block}.0.layer_norm.weight"), 1.0)?,
            qkv: self.linear(&["q", "k", "v"].map(of), false)?,
            output: self.linear(&[of("o")], false)?,
        })
    }

    fn cross_attention(&mut self, block: &str) -> Result<CrossAttention, ModelError> {
        let of = |projection| format!("{block}.1.EncDecAttention.{projection}.weight");
        Ok(CrossAttention {
            // Queries alone read this norm: its weight carries their scale.
            norm: self.vector(&format!("{block}.1.layer_norm.weight"), self.config.query_scale)?,
            query: self.linear(&[of("q")], false)?,
            kv: self.linear(&["k", "v"].map(of), false)?,
            output: self.linear(&[of("o")], false)?,
        })
    }

    /// What tells a side's tokens where they stand; `longest` is its longest sequence.
    fn inputs(&mut self, side: Side, longest: usize) -> Result<SideInputs, ModelError> {
        match self.config.positions {
            Positions::Relative { buckets, max_distance } => {
                let weights = self.tensor(&side.bias())?.to_f32();
                let bidirectional = side == Side::Encoder;
                let buckets = Buckets { heads: self.config.heads, buckets, max_distance, bidirectional };
                let bias: RelativeBias = self.device.relative_bias(&buckets.by_distance(&weights, longest))?;
                Ok(SideInputs { bias: Some(bias), positions: None })
            }
            Positions::Absolute { count } if longest > count => Err(ModelError::Capacity(format!(
                "the {}'s sequences of {longest} tokens need as many positions; config.json has n_positions = {count}",
                side.name()
            ))),
            Positions::Absolute { .. } => {
                let table = self.tensor(&side.positions())?;
                Ok(SideInputs { bias: None, positions: Some(self.device.embedding(&table)?) })
            }
        }
    }
}

/// Loads a checkpoint's weights and plans its workspaces.
///
/// # Errors
/// The checkpoint lacks something, the device is too small, or sequences are to be longer than the model's positions.
pub(in crate::model) fn load(
    config: &Config,
    checkpoint: &Checkpoint,
    device: &mut dyn Device,
    capacity: &Capacity,
) -> Result<Box<dyn Model>, ModelError> {
    let (width, layers) = (config.attention_width(), config.decoder_layers);
    let kv =
        |pages, page_tokens| KvShape { layers, kv_heads: config.heads, head_dim: config.head_dim, pages, page_tokens };
    let history = device.kv_pool(kv(capacity.history_pages, capacity.page_tokens))?;
    let prefix = device.kv_pool(kv(capacity.slots, capacity.prefix_tokens))?;
    let own = (0..capacity.cohorts)
        .map(|_| {
            device.own_slab(OwnShape {
                layers,
                heads: config.heads,
                kv_heads: config.heads,
                head_dim: config.head_dim,
                steps: capacity.own_steps,
                rows: capacity.cohort_rows,
            })
        })
        .collect::<Result<_, _>>()?;
    let shared_inner = config.experts.as_ref().filter(|experts| experts.shared > 0).map_or(0, |e| e.shared_inner);
    let widths = Widths { hidden: config.hidden, qkv: 3 * width, query: width, inner: config.inner.max(shared_inner) };
    let decode_rows = capacity.cohort_rows.max(capacity.slots * capacity.prefix_tokens);
    let mut room = |side, rows| -> Result<Room, ModelError> {
        let work = Workspace::plan(device, rows, widths)?;
        Ok(Room { work, experts: plan_experts(device, config, side, rows)? })
    };
    let prefill_room = room(Side::Encoder, capacity.prefill_rows)?;
    let decode_room = room(Side::Decoder, decode_rows)?;
    let compute = device.facts().compute;
    let first = device.buffer(capacity.slots, config.hidden, compute)?;

    let table = device.embedding(&checkpoint.weights().tensor(table_name(checkpoint))?)?;
    let mut loader = Loader { checkpoint, device, config };
    let encoder = (0..config.encoder_layers)
        .map(|layer| {
            Ok(EncoderLayer {
                attention: loader.self_attention(&Side::Encoder.block(layer))?,
                feed_forward: FeedForwardLayer::load(&mut loader, Side::Encoder, layer)?,
            })
        })
        .collect::<Result<Vec<_>, ModelError>>()?;
    let decoder = (0..config.decoder_layers)
        .map(|layer| {
            let block = Side::Decoder.block(layer);
            Ok(DecoderLayer {
                attention: loader.self_attention(&block)?,
                cross: loader.cross_attention(&block)?,
                feed_forward: FeedForwardLayer::load(&mut loader, Side::Decoder, layer)?,
            })
        })
        .collect::<Result<Vec<_>, ModelError>>()?;
    // HF multiplies the normed output by d^-0.5 before a tied head; folded into the norm's weight here.
    let scale = if config.scale_outputs { (config.hidden as f32).powf(-0.5) } else { 1.0 };
    Ok(Box::new(EncoderDecoder {
        prefix_vectors: capacity.prefix_vectors,
        eps: config.eps,
        width,
        query_scale: config.query_scale,
        table,
        encoder,
        encoder_norm: loader.vector("encoder.final_layer_norm.weight", 1.0)?,
        encoder_inputs: loader.inputs(Side::Encoder, capacity.prompt_tokens)?,
        decoder,
        decoder_norm: loader.vector("decoder.final_layer_norm.weight", scale)?,
        decoder_inputs: loader.inputs(Side::Decoder, capacity.prefix_tokens + capacity.own_steps)?,
        history,
        prefix,
        own,
        prefill_room,
        decode_room,
        first,
    }))
}
