//! Qwen3: decoder-only, grouped-query attention with per-head RMS norm of queries and keys, RoPE, SwiGLU.
//!
//! The prompt's KV fills the request's history pages chunk by chunk; the final norm of the last prompt token, kept by
//! slot, starts the search. In the last layer only that one row goes past attention's keys and values.

use crate::device::{
    BeamAttentionArgs, Device, DeviceError, Embedding, Epilogue, HeadNorm, HistoryAttentionArgs, KvPool, KvShape,
    KvTarget, Linear, LinearSource, Mask, OwnKeys, OwnShape, OwnSlab, Rope, RopeSource, Rows, Segment, SharedKeys,
    Tensor, TokenLane, Vector, WriteKvArgs,
};
use crate::export::{ConfigReader, Export};
use crate::model::blocks::{FeedForward, Widths, Workspace, activation, check_layers, epsilon, linear, norm};
use crate::model::{Capacity, CohortLanes, Description, Family, Model, ModelError, TensorSpec};

/// The family's entry in [`super::FAMILIES`].
pub const FAMILY: Family = Family { model_type: "qwen3", describe, load };

/// `config.json`, as far as it matters.
struct Config {
    vocabulary: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    inner: usize,
    layers: usize,
    eps: f32,
    activation: crate::device::Activation,
    rope_theta: f64,
    max_positions: usize,
    tied: bool,
}

impl Config {
    fn read(export: &Export) -> Result<Config, ModelError> {
        let config = export.config();
        let refuse = |key, value: String, advice| ModelError::Unsupported { family: "qwen3", key, value, advice };
        if config.flag_or("attention_bias", false)? {
            return Err(refuse("attention_bias", "true".into(), "Qwen3 checkpoints have none; check the export"));
        }
        if config.flag_or("use_sliding_window", false)? {
            return Err(refuse("use_sliding_window", "true".into(), "sliding-window attention is not served"));
        }
        let layers = config.count("num_hidden_layers")?;
        check_layers(export, "num_hidden_layers", layers)?;
        if let Some(types) = config.texts("layer_types")? {
            if types.len() != layers {
                let detail = format!("{} types for num_hidden_layers = {layers}", types.len());
                return Err(config.contradiction("layer_types", detail).into());
            }
            if let Some(other) = types.iter().find(|name| *name != "full_attention") {
                return Err(refuse("layer_types", format!("[.., {other:?}, ..]"), "only full_attention is served"));
            }
        }
        let heads = config.count("num_attention_heads")?;
        let hidden = config.count("hidden_size")?;
        let config = Config {
            vocabulary: config.count("vocab_size")?,
            hidden,
            heads,
            kv_heads: config.count_or("num_key_value_heads", heads)?,
            head_dim: config.count_or("head_dim", hidden / heads)?,
            inner: config.count("intermediate_size")?,
            layers,
            eps: epsilon(config, "rms_norm_eps")?,
            activation: activation("qwen3", "hidden_act", config.text_or("hidden_act", "silu")?)?,
            rope_theta: rope_theta(config)?,
            max_positions: config.count_or("max_position_embeddings", 32_768)?,
            tied: config.flag_or("tie_word_embeddings", false)?,
        };
        if !config.heads.is_multiple_of(config.kv_heads) {
            let advice = "num_attention_heads must be a multiple of it";
            return Err(refuse("num_key_value_heads", config.kv_heads.to_string(), advice));
        }
        if !config.head_dim.is_multiple_of(2) {
            return Err(refuse("head_dim", config.head_dim.to_string(), "RoPE needs an even number"));
        }
        Ok(config)
    }
}

/// RoPE's base. transformers 5.x nests RoPE's settings in `rope_parameters`, and takes from the top level what is not there;
/// 4.x has the base at top level and the rest in `rope_scaling`. Only unscaled RoPE over whole heads is served, the same in
/// all layers.
fn rope_theta(config: &ConfigReader) -> Result<f64, ModelError> {
    let nested = match (config.object("rope_parameters")?, config.object("rope_scaling")?) {
        (Some(_), Some(_)) => {
            return Err(config.contradiction("rope_scaling", "rope_parameters is there too; keep one of them").into());
        }
        (nested, None) | (None, nested) => nested,
    };
    for rope in nested.iter().chain([config]) {
        if rope.float_or("partial_rotary_factor", 1.0)? != 1.0 {
            return Err(rope.unsupported("partial_rotary_factor", "RoPE over whole heads (1.0) is served").into());
        }
    }
    if let Some(rope) = &nested {
        // 4.x wrote `type` before it was called `rope_type`.
        for key in ["rope_type", "type"] {
            if rope.text_or(key, "default")? != "default" {
                return Err(rope.unsupported(key, "only unscaled RoPE is served for this family").into());
            }
        }
        // Some families have a RoPE for each type of layer.
        for layers in ["full_attention", "sliding_attention"] {
            if rope.has(layers) {
                return Err(rope.unsupported(layers, "one RoPE for all layers is served").into());
            }
        }
    }
    let holder = nested.as_ref().filter(|rope| rope.has("rope_theta")).unwrap_or(config);
    let theta = holder.float_or("rope_theta", 10_000.0)?;
    if !(1.0..=f64::from(f32::MAX)).contains(&theta) {
        return Err(holder.unsupported("rope_theta", "a base of at least 1, within f32, is needed").into());
    }
    Ok(theta)
}

const TABLE: &str = "model.embed_tokens.weight";

fn describe(export: &Export) -> Result<Description, ModelError> {
    let config = Config::read(export)?;
    let (hidden, query, kv) = (config.hidden, config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let mut tensors = Vec::new();
    let mut expect = |name: String, shape: &[usize]| tensors.push(TensorSpec { name, shape: shape.to_vec() });
    expect(TABLE.into(), &[config.vocabulary, hidden]);
    let head = if !config.tied || export.weights().contains("lm_head.weight") { "lm_head.weight" } else { TABLE };
    if head != TABLE {
        expect(head.into(), &[config.vocabulary, hidden]);
    }
    for layer in 0..config.layers {
        let of = |name: &str| format!("model.layers.{layer}.{name}.weight");
        expect(of("input_layernorm"), &[hidden]);
        expect(of("self_attn.q_proj"), &[query, hidden]);
        expect(of("self_attn.k_proj"), &[kv, hidden]);
        expect(of("self_attn.v_proj"), &[kv, hidden]);
        expect(of("self_attn.o_proj"), &[hidden, query]);
        expect(of("self_attn.q_norm"), &[config.head_dim]);
        expect(of("self_attn.k_norm"), &[config.head_dim]);
        expect(of("post_attention_layernorm"), &[hidden]);
        expect(of("mlp.gate_proj"), &[config.inner, hidden]);
        expect(of("mlp.up_proj"), &[config.inner, hidden]);
        expect(of("mlp.down_proj"), &[hidden, config.inner]);
    }
    expect("model.norm.weight".into(), &[hidden]);
    Ok(Description {
        encoder_decoder: false,
        hidden,
        vocabulary: config.vocabulary,
        kv_layers: config.layers,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        max_positions: Some(config.max_positions),
        tensors,
        head: head.into(),
    })
}

/// HF's default RoPE: frequency i is theta^(-2i / head_dim), angles in f32.
fn rope_tables(positions: usize, head_dim: usize, theta: f64) -> RopeSource {
    let half = head_dim / 2;
    let frequencies: Vec<f32> =
        (0..half).map(|i| 1.0 / (theta as f32).powf((2 * i) as f32 / head_dim as f32)).collect();
    let angles = (0..positions).flat_map(|position| frequencies.iter().map(move |f| position as f32 * f));
    let (mut cos, mut sin) = (Vec::with_capacity(positions * half), Vec::with_capacity(positions * half));
    for angle in angles {
        cos.push(angle.cos());
        sin.push(angle.sin());
    }
    RopeSource { positions, cos, sin }
}

struct Layer {
    norm: Vector,
    qkv: Linear,
    head_norm: HeadNorm,
    output: Linear,
    feed_forward: FeedForward,
}

struct Qwen3 {
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

fn load(export: &Export, device: &mut dyn Device, capacity: &Capacity) -> Result<Box<dyn Model>, ModelError> {
    let config = Config::read(export)?;
    let positions = capacity.prompt_tokens + capacity.own_steps;
    if positions > config.max_positions {
        return Err(ModelError::Capacity(format!(
            "prompts of {} tokens and {} generated ones need {positions} positions; config.json has \
             max_position_embeddings = {}",
            capacity.prompt_tokens, capacity.own_steps, config.max_positions
        )));
    }
    let (kv_heads, head_dim) = (config.kv_heads, config.head_dim);
    let (query_width, kv_width) = (config.heads * head_dim, kv_heads * head_dim);
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

    let weights = export.weights();
    let mut layers = Vec::with_capacity(config.layers);
    for layer in 0..config.layers {
        let of = |name: &str| weights.tensor(&format!("model.layers.{layer}.{name}.weight"));
        let qkv = vec![of("self_attn.q_proj")?, of("self_attn.k_proj")?, of("self_attn.v_proj")?];
        let gate_up = vec![of("mlp.gate_proj")?, of("mlp.up_proj")?];
        layers.push(Layer {
            norm: device.vector(&of("input_layernorm")?, 1.0)?,
            qkv: device.linear_weight(&LinearSource { parts: qkv, biases: Vec::new(), gated: false })?,
            head_norm: HeadNorm {
                query: device.vector(&of("self_attn.q_norm")?, 1.0)?,
                key: device.vector(&of("self_attn.k_norm")?, 1.0)?,
                eps: config.eps,
            },
            output: device.linear_weight(&LinearSource {
                parts: vec![of("self_attn.o_proj")?],
                biases: Vec::new(),
                gated: false,
            })?,
            feed_forward: FeedForward {
                norm: device.vector(&of("post_attention_layernorm")?, 1.0)?,
                eps: config.eps,
                input: device.linear_weight(&LinearSource { parts: gate_up, biases: Vec::new(), gated: true })?,
                activation: Epilogue::Gate(config.activation),
                output: device.linear_weight(&LinearSource {
                    parts: vec![of("mlp.down_proj")?],
                    biases: Vec::new(),
                    gated: false,
                })?,
            },
        });
    }
    Ok(Box::new(Qwen3 {
        eps: config.eps,
        query_width,
        kv_width,
        query_scale: (head_dim as f32).powf(-0.5),
        table: device.embedding(&weights.tensor(TABLE)?)?,
        layers,
        final_norm: device.vector(&weights.tensor("model.norm.weight")?, 1.0)?,
        rope: device.rope(&rope_tables(positions, head_dim, config.rope_theta))?,
        history,
        own,
        prefill_work,
        last_work,
        decode_work,
        handoff,
        first,
    }))
}

impl Qwen3 {
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
            head_norm: Some(weights.head_norm),
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

impl Model for Qwen3 {
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
