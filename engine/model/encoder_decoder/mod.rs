//! The encoder-decoder that several families share: bidirectional encoder, causal decoder with cross-attention, RMS norms before
//! each part of a layer, relative or learned positions, and a feed-forward block or experts in each layer.
//!
//! The encoder's output is kept only as each decoder layer's cross-attention keys and values, in the request's history
//! pages. While the encoder runs, its own self-attention borrows layer 0 of those pages: they are overwritten by the
//! cross-attention KV of decoder layer 0 once the encoder is done. What the keys of a `config.json` mean, and what the
//! feed-forward weights are called, is the families' business: they hand in a [`Config`].

mod bias;
mod config;
mod feed_forward;
mod load;

use crate::device::{
    BeamAttentionArgs, Device, DeviceError, Embedding, Epilogue, HistoryAttentionArgs, KvPool, KvTarget, Linear, Mask,
    OwnKeys, OwnSlab, RelativeBias, Rows, Segment, SharedKeys, Tensor, TokenLane, Vector, WriteKvArgs,
};
use crate::model::blocks::{Workspace, linear, norm};
use crate::model::{CohortLanes, Model};

pub(super) use self::config::{Config, Experts, FeedForwardNames, Positions, Projections, Traits, check_experts};
use self::feed_forward::{FeedForwardLayer, Room};
pub(super) use self::load::{describe, load};

struct SelfAttention {
    norm: Vector,
    qkv: Linear,
    output: Linear,
}

struct CrossAttention {
    /// Holds the scale of queries.
    norm: Vector,
    query: Linear,
    /// Keys and values of the encoder's output.
    kv: Linear,
    output: Linear,
}

struct EncoderLayer {
    attention: SelfAttention,
    feed_forward: FeedForwardLayer,
}

struct DecoderLayer {
    attention: SelfAttention,
    cross: CrossAttention,
    feed_forward: FeedForwardLayer,
}

/// How a side's tokens know where they stand: one of the two.
struct SideInputs {
    /// Of self-attention.
    bias: Option<RelativeBias>,
    /// Added to the inputs.
    positions: Option<Embedding>,
}

struct EncoderDecoder {
    eps: f32,
    width: usize,
    /// Multiplied into the queries of self-attention.
    query_scale: f32,
    /// Decoder prefixes are input vectors.
    prefix_vectors: bool,
    table: Embedding,
    encoder: Vec<EncoderLayer>,
    encoder_norm: Vector,
    encoder_inputs: SideInputs,
    decoder: Vec<DecoderLayer>,
    /// Holds the output scale d^-0.5 where the export has one.
    decoder_norm: Vector,
    decoder_inputs: SideInputs,
    /// Cross-attention KV, `decoder layers` deep.
    history: KvPool,
    prefix: KvPool,
    /// One a cohort lane.
    own: Vec<OwnSlab>,
    prefill_room: Room,
    decode_room: Room,
    /// Rows of the decoder's normed output that start the search, compacted.
    first: Tensor,
}

/// The two ways through the decoder.
#[derive(Clone, Copy)]
enum Flow {
    /// The cohort's decoder prefixes.
    Prefix(TokenLane),
    /// Each beam's newest token.
    Beams { lanes: CohortLanes, step: usize },
}

impl Flow {
    fn rows(self) -> Rows {
        match self {
            Flow::Prefix(lane) => Rows::Tokens(lane),
            Flow::Beams { lanes, .. } => Rows::Beams(lanes.cohort),
        }
    }
}

impl SideInputs {
    fn add_positions(&self, device: &mut dyn Device, rows: Rows, step: usize, to: Tensor) -> Result<(), DeviceError> {
        self.positions.map_or(Ok(()), |table| device.add_positions(rows, table, step, to))
    }
}

impl EncoderDecoder {
    /// Projects, and writes this layer's keys and values to `target`; leaves the queries in `work.query`.
    fn project_self(
        &self,
        device: &mut dyn Device,
        rows: Rows,
        attention: &SelfAttention,
        work: &Workspace,
        target: KvTarget,
    ) -> Result<(), DeviceError> {
        norm(device, rows, work.residual, attention.norm, self.eps, work.normed)?;
        linear(device, rows, work.normed, attention.qkv, work.qkv, Epilogue::Store)?;
        device.write_kv(&WriteKvArgs {
            rows,
            query: Some(work.qkv.columns(0, self.width)),
            key: work.qkv.columns(self.width, self.width),
            value: work.qkv.columns(2 * self.width, self.width),
            query_out: Some(work.query),
            query_scale: self.query_scale,
            head_norm: None,
            rope: None,
            target,
        })
    }

    fn encoder_layer(&self, device: &mut dyn Device, lane: TokenLane, layer: usize) -> Result<(), DeviceError> {
        let (rows, work, weights) = (Rows::Tokens(lane), &self.prefill_room.work, &self.encoder[layer]);
        let (pool, segment) = (self.history, Segment::History);
        let borrowed = KvTarget::Pages { pool, segment, layer: 0 };
        self.project_self(device, rows, &weights.attention, work, borrowed)?;
        device.history_attention(&HistoryAttentionArgs {
            rows,
            query: work.query,
            pool,
            segment,
            layer: 0,
            mask: Mask::Full,
            bias: self.encoder_inputs.bias,
            out: work.attended,
        })?;
        linear(device, rows, work.attended, weights.attention.output, work.residual, Epilogue::Residual)?;
        weights.feed_forward.run(device, rows, &self.prefill_room)
    }

    /// The encoder's output becomes every decoder layer's cross-attention KV.
    fn finish_encoder(&self, device: &mut dyn Device, lane: TokenLane) -> Result<(), DeviceError> {
        let (rows, work) = (Rows::Tokens(lane), &self.prefill_room.work);
        norm(device, rows, work.residual, self.encoder_norm, self.eps, work.normed)?;
        let kv = work.qkv.columns(0, 2 * self.width);
        for (layer, weights) in self.decoder.iter().enumerate() {
            linear(device, rows, work.normed, weights.cross.kv, kv, Epilogue::Store)?;
            device.write_kv(&WriteKvArgs {
                rows,
                query: None,
                key: kv.columns(0, self.width),
                value: kv.columns(self.width, self.width),
                query_out: None,
                query_scale: 1.0,
                head_norm: None,
                rope: None,
                target: KvTarget::Pages { pool: self.history, segment: Segment::History, layer },
            })?;
        }
        Ok(())
    }

    fn decoder_self_attention(&self, device: &mut dyn Device, flow: Flow, layer: usize) -> Result<(), DeviceError> {
        let (work, weights) = (&self.decode_room.work, &self.decoder[layer].attention);
        let (pool, segment, bias) = (self.prefix, Segment::Prefix, self.decoder_inputs.bias);
        let (query, out) = (work.query, work.attended);
        match flow {
            Flow::Prefix(lane) => {
                let rows = Rows::Tokens(lane);
                self.project_self(device, rows, weights, work, KvTarget::Pages { pool, segment, layer })?;
                let mask = Mask::Causal;
                device.history_attention(&HistoryAttentionArgs { rows, query, pool, segment, layer, mask, bias, out })
            }
            Flow::Beams { lanes, step } => {
                let slab = self.own[lanes.index];
                self.project_self(device, flow.rows(), weights, work, KvTarget::Own { slab, layer, step })?;
                device.beam_attention(&BeamAttentionArgs {
                    lane: lanes.cohort,
                    query,
                    shared: Some(SharedKeys { pool, segment, layer }),
                    own: Some(OwnKeys { slab, layer, step }),
                    bias,
                    out,
                })
            }
        }
    }

    fn cross_attention(&self, device: &mut dyn Device, flow: Flow, layer: usize) -> Result<(), DeviceError> {
        let (rows, work, weights) = (flow.rows(), &self.decode_room.work, &self.decoder[layer].cross);
        norm(device, rows, work.residual, weights.norm, self.eps, work.normed)?;
        linear(device, rows, work.normed, weights.query, work.query, Epilogue::Store)?;
        let (pool, segment) = (self.history, Segment::History);
        let (query, out) = (work.query, work.attended);
        match flow {
            Flow::Prefix(_) => device.history_attention(&HistoryAttentionArgs {
                rows,
                query,
                pool,
                segment,
                layer,
                mask: Mask::Full,
                bias: None,
                out,
            })?,
            Flow::Beams { lanes, .. } => device.beam_attention(&BeamAttentionArgs {
                lane: lanes.cohort,
                query,
                shared: Some(SharedKeys { pool, segment, layer }),
                own: None,
                bias: None,
                out,
            })?,
        }
        linear(device, rows, work.attended, weights.output, work.residual, Epilogue::Residual)
    }

    /// The encoder's inputs: a prompt's tokens.
    fn embed_prompt(&self, device: &mut dyn Device, lane: TokenLane) -> Result<(), DeviceError> {
        let (rows, to) = (Rows::Tokens(lane), self.prefill_room.work.residual);
        device.embed(rows, self.table, to)?;
        self.encoder_inputs.add_positions(device, rows, 0, to)
    }

    /// The decoder's inputs: the tokens or the vectors of its prefix, or each beam's newest token.
    fn embed_flow(&self, device: &mut dyn Device, flow: Flow) -> Result<(), DeviceError> {
        let (rows, to) = (flow.rows(), self.decode_room.work.residual);
        match flow {
            Flow::Prefix(lane) if self.prefix_vectors => device.embed_dense(lane, to)?,
            _ => device.embed(rows, self.table, to)?,
        }
        let step = match flow {
            Flow::Prefix(_) => 0,
            Flow::Beams { step, .. } => step,
        };
        self.decoder_inputs.add_positions(device, rows, step, to)
    }

    /// Runs the decoder; the normed output is in `decode_room.work.normed`.
    fn decode(&self, device: &mut dyn Device, flow: Flow) -> Result<(), DeviceError> {
        let (rows, work) = (flow.rows(), &self.decode_room.work);
        self.embed_flow(device, flow)?;
        for (layer, weights) in self.decoder.iter().enumerate() {
            self.decoder_self_attention(device, flow, layer)?;
            linear(device, rows, work.attended, weights.attention.output, work.residual, Epilogue::Residual)?;
            self.cross_attention(device, flow, layer)?;
            weights.feed_forward.run(device, rows, &self.decode_room)?;
        }
        norm(device, rows, work.residual, self.decoder_norm, self.eps, work.normed)
    }
}

impl Model for EncoderDecoder {
    fn prefill_stages(&self) -> usize {
        self.encoder.len() + 1
    }

    fn prefill(&mut self, device: &mut dyn Device, lane: TokenLane, stage: usize) -> Result<(), DeviceError> {
        if stage == 0 {
            self.embed_prompt(device, lane)?;
        }
        if stage < self.encoder.len() {
            self.encoder_layer(device, lane, stage)
        } else {
            self.finish_encoder(device, lane)
        }
    }

    fn first_hidden(&mut self, device: &mut dyn Device, lanes: &CohortLanes) -> Result<Tensor, DeviceError> {
        self.decode(device, Flow::Prefix(lanes.prefix))?;
        device.gather_last(lanes.prefix, self.decode_room.work.normed, self.first)?;
        Ok(self.first)
    }

    fn next_hidden(
        &mut self,
        device: &mut dyn Device,
        lanes: &CohortLanes,
        step: usize,
    ) -> Result<Tensor, DeviceError> {
        self.decode(device, Flow::Beams { lanes: *lanes, step })?;
        Ok(self.decode_room.work.normed)
    }
}
