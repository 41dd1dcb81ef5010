//! The decoder-only transformer that several families share: grouped-query attention with RoPE, optionally RMS norm of queries
//! and keys by head, SwiGLU, RMS norms before each half of a layer, and biases where a family has them.
//!
//! The prompt's KV fills the request's history pages chunk by chunk; the final norm of the last prompt token, kept by
//! slot, starts the search. In the last layer only that one row goes past attention's keys and values. What the keys of a
//! `config.json` mean is the families' business: they hand in [`Traits`].

mod config;
mod rope;

use crate::device::{
    BeamAttentionArgs, Device, DeviceError, Embedding, Epilogue, HeadNorm, HistoryAttentionArgs, KvPool, KvShape,
    KvTarget, Linear, LinearSource, Mask, OwnKeys, OwnShape, OwnSlab, Rope, Rows, Segment, SharedKeys, Tensor,
    TokenLane, Vector, WriteKvArgs,
};
use crate::export::{Checkpoint, ExportError, TensorView};
use crate::model::blocks::{FeedForward, Widths, Workspace, linear, norm};
use crate::model::{Capacity, CohortLanes, Model, ModelError};

pub(super) use self::config::{Biases, Config, Traits, refuse_sliding_window};
use self::config::{FINAL_NORM, Matrix, TABLE, tensor_name};

struct Layer {
    norm: Vector,
    qkv: Linear,
    head_norm: Option<HeadNorm>,
    output: Linear,
    feed_forward: FeedForward,
}

struct Decoder {
    eps: f32,
    query_width: usize,
    kv_width: usize,
    query_scale: f32,
    table: Embedding,
    layers: Vec<Layer>,
    final_norm: Vector,
    rope: Rope,
    history: KvPool,
    /// One a cohort lane.
    own: Vec<OwnSlab>,
    prefill_work: Workspace,
    /// The last rows of a prefill batch, compacted, for the last layer.
    last_work: Workspace,
    decode_work: Workspace,
    /// `[slots, hidden]`: final norm of each slot's last prompt token.
    handoff: Tensor,
    /// `[slots, hidden]`: the same, by cohort request.
    first: Tensor,
}

/// Loads a checkpoint's weights and plans its workspaces.
///
/// # Errors
/// The checkpoint lacks something, the device is too small, or prompts are to be longer than the model's positions.
pub(super) fn load(
    config: &Config,
    checkpoint: &Checkpoint,
    device: &mut dyn Device,
    capacity: &Capacity,
) -> Result<Box<dyn Model>, ModelError> {
    let positions = capacity.prompt_tokens + capacity.own_steps;
    if positions > config.max_positions {
        return Err(ModelError::Capacity(format!(
            "prompts of {} tokens and {} generated ones need {positions} positions; config.json has \
             max_position_embeddings = {}",
            capacity.prompt_tokens, capacity.own_steps, config.max_positions
        )));
    }
    let (kv_heads, head_dim) = (config.kv_heads, config.head_dim);
    let (query_width, kv_width) = (config.query_width(), config.kv_width());
    let history = device.kv_pool(KvShape {
        layers: config.layers,
        kv_heads,
        head_dim,
        pages: capacity.history_pages,
        page_tokens: capacity.page_tokens,
    })?;
    let own_shape = OwnShape {
        layers: config.layers,
        heads: config.heads,
        kv_heads,
        head_dim,
        steps: capacity.own_steps,
        rows: capacity.cohort_rows,
    };
    let own = (0..capacity.cohorts).map(|_| device.own_slab(own_shape)).collect::<Result<_, _>>()?;
    let widths =
        Widths { hidden: config.hidden, qkv: query_width + 2 * kv_width, query: query_width, inner: config.inner };
    let prefill_work = Workspace::plan(device, capacity.prefill_rows, widths)?;
    let last_work = Workspace::plan(device, capacity.slots, widths)?;
    let decode_work = Workspace::plan(device, capacity.cohort_rows, widths)?;
    let compute = device.facts().compute;
    let handoff = device.buffer(capacity.slots, config.hidden, compute)?;
    let first = device.buffer(capacity.slots, config.hidden, compute)?;
    let layers =
        (0..config.layers).map(|layer| load_layer(config, checkpoint, device, layer)).collect::<Result<_, _>>()?;
    Ok(Box::new(Decoder {
        eps: config.eps,
        query_width,
        kv_width,
        query_scale: (head_dim as f32).powf(-0.5),
        table: device.embedding(&checkpoint.weights().tensor(TABLE)?)?,
        layers,
        final_norm: device.vector(&checkpoint.weights().tensor(FINAL_NORM)?, 1.0)?,
        rope: device.rope(&config.rope.tables(positions, head_dim))?,
        history,
        own,
        prefill_work,
        last_work,
        decode_work,
        handoff,
        first,
    }))
}

fn load_layer(
    config: &Config,
    checkpoint: &Checkpoint,
    device: &mut dyn Device,
    layer: usize,
) -> Result<Layer, ModelError> {
    let tensor = |part: &str, kind: &str| checkpoint.weights().tensor(&tensor_name(layer, part, kind));
    let source = |matrices: &[Matrix]| -> Result<LinearSource, ExportError> {
        let all = |matrices: &mut dyn Iterator<Item = &Matrix>, kind: &str| {
            matrices.map(|matrix| tensor(matrix.name, kind)).collect::<Result<Vec<TensorView>, _>>()
        };
        Ok(LinearSource {
            parts: all(&mut matrices.iter(), "weight")?,
            biases: all(&mut matrices.iter().filter(|matrix| matrix.biased), "bias")?,
            gated: false,
        })
    };
    let [query, key, value, output, gate, up, down] = config.matrices();
    let head_norm = match config.head_norm() {
        false => None,
        true => Some(HeadNorm {
            query: device.vector(&tensor("self_attn.q_norm", "weight")?, 1.0)?,
            key: device.vector(&tensor("self_attn.k_norm", "weight")?, 1.0)?,
            eps: config.eps,
        }),
    };
    Ok(Layer {
        norm: device.vector(&tensor("input_layernorm", "weight")?, 1.0)?,
        qkv: device.linear_weight(&source(&[query, key, value])?)?,
        head_norm,
        output: device.linear_weight(&source(&[output])?)?,
        feed_forward: FeedForward {
            norm: device.vector(&tensor("post_attention_layernorm", "weight")?, 1.0)?,
            eps: config.eps,
            input: device.linear_weight(&LinearSource { gated: true, ..source(&[gate, up])? })?,
            activation: Epilogue::Gate(config.activation),
            output: device.linear_weight(&source(&[down])?)?,
        },
    })
}

impl Decoder {
    /// Projects, and writes this layer's keys and values to `target`; leaves the queries in `work.query`.
    fn project(
        &self,
        device: &mut dyn Device,
        rows: Rows,
        layer: usize,
        work: &Workspace,
        target: KvTarget,
    ) -> Result<(), DeviceError> {
        let weights = &self.layers[layer];
        norm(device, rows, work.residual, weights.norm, self.eps, work.normed)?;
        linear(device, rows, work.normed, weights.qkv, work.qkv, Epilogue::Store)?;
        device.write_kv(&WriteKvArgs {
            rows,
            query: Some(work.qkv.columns(0, self.query_width)),
            key: work.qkv.columns(self.query_width, self.kv_width),
            value: work.qkv.columns(self.query_width + self.kv_width, self.kv_width),
            query_out: Some(work.query),
            query_scale: self.query_scale,
            head_norm: weights.head_norm,
            rope: Some(self.rope),
            target,
        })
    }

    /// Output projection and feed-forward.
    fn finish_layer(
        &self,
        device: &mut dyn Device,
        rows: Rows,
        layer: usize,
        work: &Workspace,
    ) -> Result<(), DeviceError> {
        linear(device, rows, work.attended, self.layers[layer].output, work.residual, Epilogue::Residual)?;
        self.layers[layer].feed_forward.run(device, rows, work)
    }

    fn attend_history(
        &self,
        device: &mut dyn Device,
        rows: Rows,
        layer: usize,
        work: &Workspace,
    ) -> Result<(), DeviceError> {
        device.history_attention(&HistoryAttentionArgs {
            rows,
            query: work.query,
            pool: self.history,
            segment: Segment::History,
            layer,
            mask: Mask::Causal,
            bias: None,
            out: work.attended,
        })
    }
}

impl Model for Decoder {
    fn prefill_stages(&self) -> usize {
        self.layers.len()
    }

    fn prefill(&mut self, device: &mut dyn Device, lane: TokenLane, stage: usize) -> Result<(), DeviceError> {
        let (rows, work) = (Rows::Tokens(lane), &self.prefill_work);
        if stage == 0 {
            device.embed(rows, self.table, work.residual)?;
        }
        let target = KvTarget::Pages { pool: self.history, segment: Segment::History, layer: stage };
        self.project(device, rows, stage, work, target)?;
        if stage + 1 < self.layers.len() {
            self.attend_history(device, rows, stage, work)?;
            return self.finish_layer(device, rows, stage, work);
        }
        let (rows, last) = (Rows::Last(lane), &self.last_work);
        device.gather_last(lane, work.residual, last.residual)?;
        device.gather_last(lane, work.query, last.query)?;
        self.attend_history(device, rows, stage, last)?;
        self.finish_layer(device, rows, stage, last)?;
        norm(device, rows, last.residual, self.final_norm, self.eps, last.normed)?;
        device.store_slots(lane, last.normed, self.handoff)
    }

    fn first_hidden(&mut self, device: &mut dyn Device, lanes: &CohortLanes) -> Result<Tensor, DeviceError> {
        device.load_slots(lanes.cohort, self.handoff, self.first)?;
        Ok(self.first)
    }

    fn next_hidden(
        &mut self,
        device: &mut dyn Device,
        lanes: &CohortLanes,
        step: usize,
    ) -> Result<Tensor, DeviceError> {
        let (rows, work, slab) = (Rows::Beams(lanes.cohort), &self.decode_work, self.own[lanes.index]);
        device.embed(rows, self.table, work.residual)?;
        for layer in 0..self.layers.len() {
            self.project(device, rows, layer, work, KvTarget::Own { slab, layer, step })?;
            device.beam_attention(&BeamAttentionArgs {
                lane: lanes.cohort,
                query: work.query,
                shared: Some(SharedKeys { pool: self.history, segment: Segment::History, layer }),
                own: Some(OwnKeys { slab, layer, step }),
                bias: None,
                out: work.attended,
            })?;
            self.finish_layer(device, rows, layer, work)?;
        }
        norm(device, rows, work.residual, self.final_norm, self.eps, work.normed)?;
        Ok(work.normed)
    }
}
