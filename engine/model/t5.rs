//! T5 (v1.0, v1.1, and what is trained in its shape): bidirectional encoder with relative attention bias, causal decoder
//! with cross-attention, RMS norms, no attention scale, plain or gated feed-forward.
//!
//! The encoder's output is kept only as each decoder layer's cross-attention keys and values, in the request's history
//! pages. While the encoder runs, its own self-attention borrows layer 0 of those pages: they are overwritten by the
//! cross-attention KV of decoder layer 0 once the encoder is done.

use crate::device::{
    BeamAttentionArgs, Device, DeviceError, Embedding, Epilogue, HistoryAttentionArgs, KvPool, KvShape, KvTarget,
    Linear, LinearSource, Mask, OwnKeys, OwnShape, OwnSlab, RelativeBias, RelativeBiasSource, Rows, Segment,
    SharedKeys, Tensor, TokenLane, Vector, WriteKvArgs,
};
use crate::export::Checkpoint;
use crate::model::blocks::{FeedForward, Widths, Workspace, activation, check_layers, epsilon, linear, norm};
use crate::model::{Capacity, CohortLanes, Description, Family, Model, ModelError, TensorSpec};

/// The family's entry in [`super::FAMILIES`].
pub const FAMILY: Family = Family { model_type: "t5", describe, load };

/// `config.json`, as far as it matters.
struct Config {
    vocabulary: usize,
    hidden: usize,
    heads: usize,
    head_dim: usize,
    inner: usize,
    encoder_layers: usize,
    decoder_layers: usize,
    buckets: usize,
    max_distance: usize,
    eps: f32,
    gated: bool,
    activation: crate::device::Activation,
    scale_outputs: bool,
}

impl Config {
    fn read(checkpoint: &Checkpoint) -> Result<Config, ModelError> {
        let config = checkpoint.config();
        let encoder_layers = config.count("num_layers")?;
        // HF derives is_gated_act and dense_act_fn from feed_forward_proj, and 4.x files may lack them: it is the truth.
        let projection = config.text_or("feed_forward_proj", "relu")?;
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
            vocabulary: config.count("vocab_size")?,
            hidden: config.count("d_model")?,
            heads: config.count("num_heads")?,
            head_dim: config.count("d_kv")?,
            inner: config.count("d_ff")?,
            encoder_layers,
            decoder_layers,
            buckets: config.count_or("relative_attention_num_buckets", 32)?,
            max_distance: config.count_or("relative_attention_max_distance", 128)?,
            eps: epsilon(config, "layer_norm_epsilon")?,
            gated,
            activation: activation("t5", "feed_forward_proj", name)?,
            scale_outputs: config.flag_or("scale_decoder_outputs", tied)?,
        })
    }

    fn attention_width(&self) -> usize {
        self.heads * self.head_dim
    }
}

const ENCODER_BIAS: &str = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
const DECODER_BIAS: &str = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";

/// The shared table, or a tied copy of it when only that was saved.
fn table_name(checkpoint: &Checkpoint) -> &'static str {
    ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
        .into_iter()
        .find(|name| checkpoint.weights().contains(name))
        .unwrap_or("shared.weight")
}

fn describe(checkpoint: &Checkpoint) -> Result<Description, ModelError> {
    let config = Config::read(checkpoint)?;
    if config.buckets < 4 || config.max_distance <= config.buckets / 2 {
        return Err(ModelError::Unsupported {
            family: "t5",
            key: "relative_attention_num_buckets",
            value: format!("{} with relative_attention_max_distance {}", config.buckets, config.max_distance),
            advice: "at least 4 buckets and a distance beyond half of them are needed",
        });
    }
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
    for (side, layers) in [("encoder", config.encoder_layers), ("decoder", config.decoder_layers)] {
        expect(if side == "encoder" { ENCODER_BIAS } else { DECODER_BIAS }.into(), &[config.buckets, config.heads]);
        for layer in 0..layers {
            let block = format!("{side}.block.{layer}.layer");
            let attentions: &[&str] =
                if side == "encoder" { &["SelfAttention"] } else { &["SelfAttention", "EncDecAttention"] };
            for (index, attention) in attentions.iter().enumerate() {
                for projection in ["q", "k", "v"] {
                    expect(format!("{block}.{index}.{attention}.{projection}.weight"), &[width, hidden]);
                }
                expect(format!("{block}.{index}.{attention}.o.weight"), &[hidden, width]);
                expect(format!("{block}.{index}.layer_norm.weight"), &[hidden]);
            }
            let index = attentions.len();
            for name in input_projections(config.gated) {
                expect(format!("{block}.{index}.DenseReluDense.{name}.weight"), &[config.inner, hidden]);
            }
            expect(format!("{block}.{index}.DenseReluDense.wo.weight"), &[hidden, config.inner]);
            expect(format!("{block}.{index}.layer_norm.weight"), &[hidden]);
        }
        expect(format!("{side}.final_layer_norm.weight"), &[hidden]);
    }
    Ok(Description {
        encoder_decoder: true,
        hidden,
        vocabulary: config.vocabulary,
        kv_layers: config.decoder_layers,
        kv_heads: config.heads,
        head_dim: config.head_dim,
        max_positions: None,
        tensors,
        embeddings: table.into(),
        head: head.into(),
    })
}

fn input_projections(gated: bool) -> &'static [&'static str] {
    if gated { &["wi_0", "wi_1"] } else { &["wi"] }
}

/// HF's `_relative_position_bucket`: which bucket key position minus query position falls into.
fn bucket(relative: i64, bidirectional: bool, buckets: usize, max_distance: usize) -> usize {
    let mut buckets = buckets as i64;
    let mut bucket = 0;
    let distance = if bidirectional {
        buckets /= 2;
        if relative > 0 {
            bucket += buckets;
        }
        relative.abs()
    } else {
        (-relative).max(0)
    };
    let exact = buckets / 2;
    let within = if distance < exact {
        distance
    } else {
        // f32 throughout, as PyTorch computes it.
        let ratio = (distance as f32 / exact as f32).ln() / (max_distance as f32 / exact as f32).ln();
        (exact + (ratio * (buckets - exact) as f32) as i64).min(buckets - 1)
    };
    (bucket + within) as usize
}

/// Bucketed weights `[buckets, heads]` spread out by distance. Beyond `max_distance` every distance shares a bucket, and
/// beyond `longest`, the longest sequence that is planned for, there is none.
fn bias_by_distance(weights: &[f32], config: &Config, bidirectional: bool, longest: usize) -> RelativeBiasSource {
    let (heads, max) = (config.heads, config.max_distance.min(longest));
    let mut by_distance = Vec::with_capacity(heads * (2 * max + 1));
    for head in 0..heads {
        for relative in -(max as i64)..=max as i64 {
            let bucket = bucket(relative, bidirectional, config.buckets, config.max_distance);
            by_distance.push(weights[bucket * heads + head]);
        }
    }
    RelativeBiasSource { heads, max_distance: max, by_distance }
}

struct SelfAttention {
    norm: Vector,
    qkv: Linear,
    output: Linear,
}

struct CrossAttention {
    norm: Vector,
    query: Linear,
    /// Keys and values of the encoder's output.
    kv: Linear,
    output: Linear,
}

struct EncoderLayer {
    attention: SelfAttention,
    feed_forward: FeedForward,
}

struct DecoderLayer {
    attention: SelfAttention,
    cross: CrossAttention,
    feed_forward: FeedForward,
}

struct T5 {
    eps: f32,
    width: usize,
    /// Decoder prefixes are input vectors.
    prefix_vectors: bool,
    table: Embedding,
    encoder: Vec<EncoderLayer>,
    encoder_norm: Vector,
    encoder_bias: RelativeBias,
    decoder: Vec<DecoderLayer>,
    /// Holds the output scale d^-0.5 where the export has one.
    decoder_norm: Vector,
    decoder_bias: RelativeBias,
    /// Cross-attention KV, `decoder layers` deep.
    history: KvPool,
    prefix: KvPool,
    /// One a cohort lane.
    own: Vec<OwnSlab>,
    prefill_work: Workspace,
    decode_work: Workspace,
    /// Rows of `decode_work.normed` that start the search, compacted.
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

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    device: &'a mut dyn Device,
    config: &'a Config,
}

impl Loader<'_> {
    fn linear(&mut self, names: &[String], gated: bool) -> Result<Linear, ModelError> {
        let parts = names.iter().map(|name| self.checkpoint.weights().tensor(name)).collect::<Result<_, _>>()?;
        Ok(self.device.linear_weight(&LinearSource { parts, biases: Vec::new(), gated })?)
    }

    fn vector(&mut self, name: &str, scale: f32) -> Result<Vector, ModelError> {
        Ok(self.device.vector(&self.checkpoint.weights().tensor(name)?, scale)?)
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
            norm: self.vector(&format!("{block}.1.layer_norm.weight"), 1.0)?,
            query: self.linear(&[of("q")], false)?,
            kv: self.linear(&["k", "v"].map(of), false)?,
            output: self.linear(&[of("o")], false)?,
        })
    }

    fn feed_forward(&mut self, block: &str, index: usize) -> Result<FeedForward, ModelError> {
        let of = |name: &str| format!("{block}.{index}.DenseReluDense.{name}.weight");
        let (gated, act) = (self.config.gated, self.config.activation);
        let inputs: Vec<String> = input_projections(gated).iter().map(|name| of(name)).collect();
        Ok(FeedForward {
            norm: self.vector(&format!("{block}.{index}.layer_norm.weight"), 1.0)?,
            eps: self.config.eps,
            input: self.linear(&inputs, gated)?,
            activation: if gated { Epilogue::Gate(act) } else { Epilogue::Activate(act) },
            output: self.linear(&[of("wo")], false)?,
        })
    }

    fn bias(&mut self, name: &str, bidirectional: bool, longest: usize) -> Result<RelativeBias, ModelError> {
        let weights = self.checkpoint.weights().tensor(name)?.to_f32();
        Ok(self.device.relative_bias(&bias_by_distance(&weights, self.config, bidirectional, longest))?)
    }
}

fn load(checkpoint: &Checkpoint, device: &mut dyn Device, capacity: &Capacity) -> Result<Box<dyn Model>, ModelError> {
    let config = Config::read(checkpoint)?;
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
    let widths = Widths { hidden: config.hidden, qkv: 3 * width, query: width, inner: config.inner };
    let prefill_work = Workspace::plan(device, capacity.prefill_rows, widths)?;
    let decode_rows = capacity.cohort_rows.max(capacity.slots * capacity.prefix_tokens);
    let decode_work = Workspace::plan(device, decode_rows, widths)?;
    let compute = device.facts().compute;
    let first = device.buffer(capacity.slots, config.hidden, compute)?;

    let table = device.embedding(&checkpoint.weights().tensor(table_name(checkpoint))?)?;
    let mut loader = Loader { checkpoint, device, config: &config };
    let encoder = (0..config.encoder_layers)
        .map(|layer| {
            let block = format!("encoder.block.{layer}.layer");
            Ok(EncoderLayer {
                attention: loader.self_attention(&block)?,
                feed_forward: loader.feed_forward(&block, 1)?,
            })
        })
        .collect::<Result<Vec<_>, ModelError>>()?;
    let decoder = (0..config.decoder_layers)
        .map(|layer| {
            let block = format!("decoder.block.{layer}.layer");
            Ok(DecoderLayer {
                attention: loader.self_attention(&block)?,
                cross: loader.cross_attention(&block)?,
                feed_forward: loader.feed_forward(&block, 2)?,
            })
        })
        .collect::<Result<Vec<_>, ModelError>>()?;
    // HF multiplies the normed output by d^-0.5 before a tied head; folded into the norm's weight here.
    let scale = if config.scale_outputs { (config.hidden as f32).powf(-0.5) } else { 1.0 };
    Ok(Box::new(T5 {
        eps: config.eps,
        width,
        prefix_vectors: capacity.prefix_vectors,
        table,
        encoder,
        encoder_norm: loader.vector("encoder.final_layer_norm.weight", 1.0)?,
        encoder_bias: loader.bias(ENCODER_BIAS, true, capacity.prompt_tokens)?,
        decoder,
        decoder_norm: loader.vector("decoder.final_layer_norm.weight", scale)?,
        decoder_bias: loader.bias(DECODER_BIAS, false, capacity.prefix_tokens + capacity.own_steps)?,
        history,
        prefix,
        own,
        prefill_work,
        decode_work,
        first,
    }))
}

impl T5 {
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
            query_scale: 1.0,
            head_norm: None,
            rope: None,
            target,
        })
    }

    fn encoder_layer(&self, device: &mut dyn Device, lane: TokenLane, layer: usize) -> Result<(), DeviceError> {
        let (rows, work, weights) = (Rows::Tokens(lane), &self.prefill_work, &self.encoder[layer]);
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
            bias: Some(self.encoder_bias),
            out: work.attended,
        })?;
        linear(device, rows, work.attended, weights.attention.output, work.residual, Epilogue::Residual)?;
        weights.feed_forward.run(device, rows, work)
    }

    /// The encoder's output becomes every decoder layer's cross-attention KV.
    fn finish_encoder(&self, device: &mut dyn Device, lane: TokenLane) -> Result<(), DeviceError> {
        let (rows, work) = (Rows::Tokens(lane), &self.prefill_work);
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
        let (work, weights) = (&self.decode_work, &self.decoder[layer].attention);
        let (pool, segment, bias) = (self.prefix, Segment::Prefix, Some(self.decoder_bias));
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
        let (rows, work, weights) = (flow.rows(), &self.decode_work, &self.decoder[layer].cross);
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

    /// Runs the decoder; the normed output is in `decode_work.normed`.
    fn decode(&self, device: &mut dyn Device, flow: Flow) -> Result<(), DeviceError> {
        let (rows, work) = (flow.rows(), &self.decode_work);
        match flow {
            Flow::Prefix(lane) if self.prefix_vectors => device.embed_dense(lane, work.residual)?,
            _ => device.embed(rows, self.table, work.residual)?,
        }
        for (layer, weights) in self.decoder.iter().enumerate() {
            self.decoder_self_attention(device, flow, layer)?;
            linear(device, rows, work.attended, weights.attention.output, work.residual, Epilogue::Residual)?;
            self.cross_attention(device, flow, layer)?;
            weights.feed_forward.run(device, rows, work)?;
        }
        norm(device, rows, work.residual, self.decoder_norm, self.eps, work.normed)
    }
}

impl Model for T5 {
    fn prefill_stages(&self) -> usize {
        self.encoder.len() + 1
    }

    fn prefill(&mut self, device: &mut dyn Device, lane: TokenLane, stage: usize) -> Result<(), DeviceError> {
        if stage == 0 {
            device.embed(Rows::Tokens(lane), self.table, self.prefill_work.residual)?;
        }
        if stage < self.encoder.len() {
            self.encoder_layer(device, lane, stage)
        } else {
            self.finish_encoder(device, lane)
        }
    }

    fn first_hidden(&mut self, device: &mut dyn Device, lanes: &CohortLanes) -> Result<Tensor, DeviceError> {
        self.decode(device, Flow::Prefix(lanes.prefix))?;
        device.gather_last(lanes.prefix, self.decode_work.normed, self.first)?;
        Ok(self.first)
    }

    fn next_hidden(
        &mut self,
        device: &mut dyn Device,
        lanes: &CohortLanes,
        step: usize,
    ) -> Result<Tensor, DeviceError> {
        self.decode(device, Flow::Beams { lanes: *lanes, step })?;
        Ok(self.decode_work.normed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_hugging_face() {
        // From transformers' T5Attention._relative_position_bucket with 32 buckets and distance 128.
        let bidirectional: Vec<usize> =
            [-200, -128, -100, -20, -8, -7, -1, 0, 1, 7, 8, 20, 100, 128].map(|r| bucket(r, true, 32, 128)).to_vec();
        assert_eq!(bidirectional, [15, 15, 15, 10, 8, 7, 1, 0, 17, 23, 24, 26, 31, 31]);
        let causal: Vec<usize> = [-200, -64, -20, -16, -15, -1, 0, 5].map(|r| bucket(r, false, 32, 128)).to_vec();
        assert_eq!(causal, [31, 26, 17, 16, 15, 1, 0, 0]);
    }

    #[test]
    fn a_bias_table_ends_with_the_longest_sequence() {
        let config = |max_distance| Config {
            vocabulary: 1,
            hidden: 1,
            heads: 2,
            head_dim: 1,
            inner: 1,
            encoder_layers: 1,
            decoder_layers: 1,
            buckets: 32,
            max_distance,
            eps: 0.0,
            gated: false,
            activation: crate::device::Activation::Relu,
            scale_outputs: true,
        };
        let weights: Vec<f32> = (0..64u8).map(f32::from).collect();
        let whole = bias_by_distance(&weights, &config(128), true, 500);
        assert_eq!((whole.max_distance, whole.by_distance.len()), (128, 2 * 257));
        let cut = bias_by_distance(&weights, &config(128), true, 40);
        assert_eq!(cut.max_distance, 40);
        assert_eq!(cut.by_distance[..81], whole.by_distance[128 - 40..=128 + 40]);
        assert_eq!(cut.by_distance[81..], whole.by_distance[257 + 128 - 40..=257 + 128 + 40]);
        // A distance that nobody can reach costs no memory.
        assert_eq!(bias_by_distance(&weights, &config((1 << 31) - 1), false, 40).by_distance.len(), 2 * 81);
    }
}
