//! Each kernel over its shapes: those of a Qwen3 of 1.7 B and of a T5 of 0.7 B, as the GPU bars name them.

use sidereal::device::cuda::{Cublaslt, has_cublaslt};
use sidereal::device::{
    Activation, BeamAttentionArgs, Device, Dtype, Epilogue, HeadArgs, HeadNorm, HeadSource, HistoryAttentionArgs,
    KvTarget, LinearArgs, LinearSource, Mask, NormArgs, Normalizer, OwnKeys, OwnShape, Queue, RelativeBiasSource,
    RopeSource, Rows, Segment, SharedKeys, Target, WriteKvArgs,
};
use sidereal::export::TensorView;

use super::rig::{self, Measurement, Rig, Search, matrix, noise, noisy, nothing};
use super::work::{self, BF16, F32, Heads, Work};
use crate::error::CheckError;
use crate::exporter::{Items, LEVELS};
use crate::report::Section;
use crate::setting::Setting;

/// More than any card's second-level cache: weights that are used in turn come from memory, as they do between layers.
const CACHE_BYTES: usize = 128 << 20;
const QWEN: Heads = Heads { query: 16, kv: 8, dim: 128 };
const T5: Heads = Heads { query: 16, kv: 16, dim: 64 };
const TINY: Heads = Heads { query: 2, kv: 1, dim: 32 };

/// Those of a real run, or the one or two of a rehearsal.
fn shapes<T: Clone>(setting: &Setting, full: &[T], rehearsed: &[T]) -> Vec<T> {
    if setting.is_rehearsal { rehearsed.to_vec() } else { full.to_vec() }
}

/// Rows from which on a batch is one of prompts.
const PROMPT_ROWS: usize = 2048;

/// A matrix product.
#[derive(Clone, Copy, Debug)]
struct Product {
    name: &'static str,
    inputs: usize,
    outputs: usize,
    epilogue: Epilogue,
}

/// `linear`.
pub fn linear(setting: &Setting) -> Result<Section, CheckError> {
    let gate = Epilogue::Gate(Activation::Silu);
    let full = [
        Product { name: "qkv", inputs: 2048, outputs: 4096, epilogue: Epilogue::Store },
        Product { name: "output", inputs: 2048, outputs: 2048, epilogue: Epilogue::Residual },
        Product { name: "gate, up", inputs: 2048, outputs: 12_288, epilogue: gate },
        Product { name: "down", inputs: 6144, outputs: 2048, epilogue: Epilogue::Residual },
    ];
    let tiny = [Product { name: "gate, up", inputs: 64, outputs: 128, epilogue: gate }];
    let mut rig = Rig::new(setting, "linear, Qwen3-1.7B")?;
    let by: &[Cublaslt] = if has_cublaslt() { &[Cublaslt::Off, Cublaslt::On] } else { &[Cublaslt::Off] };
    for rows in shapes(setting, &[1, 256, 1000, 2048, 8000], &[3]) {
        for product in shapes(setting, &full, &tiny) {
            for &cublaslt in by {
                let Product { name, inputs, outputs, .. } = product;
                let by = if cublaslt == Cublaslt::On { ", by cuBLASLt" } else { "" };
                let shape = format!("{name} [{rows}, {inputs}] x [{outputs}, {inputs}]{by}");
                rig.shape(&shape.clone(), |rig| one_product(rig, (rows, cublaslt), product, shape));
            }
        }
    }
    let mut section = rig.finish("kernels: linear");
    if by.len() == 1 {
        section.notes.push("No libcublasLt.so.13 or .12 on this machine: not measured beside it.".to_owned());
    }
    Ok(section)
}

fn one_product(
    rig: &mut Rig,
    (rows, cublaslt): (usize, Cublaslt),
    product: Product,
    shape: String,
) -> Result<(), CheckError> {
    let Product { inputs, outputs, epilogue, .. } = product;
    let mut device = rig.device_with(cublaslt)?;
    // cuBLASLt's algorithm for prompts is another one than that for beams.
    let queue = if rows >= PROMPT_ROWS { Queue::Prefill } else { Queue::Search };
    let lane = rig::prompt_lane(&mut device, queue, rows)?;
    let copies = (CACHE_BYTES / (inputs * outputs * BF16)).clamp(1, 16);
    let is_gated = matches!(epilogue, Epilogue::Gate(_));
    let (parts, out_cols) = if is_gated { (2, outputs / 2) } else { (1, outputs) };
    let parts: Vec<TensorView> = (0..parts).map(|part| matrix(part, outputs / parts as usize, inputs)).collect();
    let weights = (0..copies)
        .map(|_| device.linear_weight(&LinearSource { parts: parts.clone(), biases: Vec::new(), gated: is_gated }))
        .collect::<Result<Vec<_>, _>>()?;
    let x = noisy(&mut device, rows, inputs, Dtype::Bf16)?;
    let (out_dtype, out_bytes) = match epilogue {
        Epilogue::Residual => (Dtype::F32, 2 * out_cols * F32),
        Epilogue::Store => (Dtype::F32, out_cols * F32),
        Epilogue::Activate(_) | Epilogue::Gate(_) => (Dtype::Bf16, out_cols * BF16),
    };
    let out = device.buffer(rows, out_cols, out_dtype)?;
    let mut body = |device: &mut dyn Device| {
        weights
            .iter()
            .try_for_each(|&weight| device.linear(&LinearArgs { rows: Rows::Tokens(lane), x, weight, out, epilogue }))
    };
    let work = work::linear(rows, inputs, outputs, out_bytes);
    let fallen_back = cublaslt == Cublaslt::On && device.cublaslt_weights().0 == 0;
    let shape = if fallen_back { format!("{shape}: it has no algorithm for this one") } else { shape };
    let row = Measurement { shape, work, runs: copies, prepare: &mut nothing, body: &mut body };
    rig.measure_on(queue, &mut device, row)
}

/// `head` with the whole vocabulary's normaliser.
pub fn head(setting: &Setting) -> Result<Section, CheckError> {
    let mut rig = Rig::new(setting, "head, logits of a level and the log-normaliser of the vocabulary")?;
    let full = [(1, 2048, 176_512, 8192), (256, 2048, 176_512, 8192), (2048, 2048, 176_512, 8192)];
    for (rows, hidden, vocabulary, codes) in shapes(setting, &full, &[(3, 64, 96, 16)]) {
        let shape = format!("[{rows}, {hidden}] x [{vocabulary}, {hidden}], {codes} codes");
        rig.shape(&shape.clone(), |rig| {
            let mut device = rig.device()?;
            rig::token_lane(&mut device, 1, 1)?;
            let lane = rig::beam_lane(&mut device, rows)?;
            let first = vocabulary - LEVELS * codes;
            let tokens = |level: usize| (0..codes).map(|code| (first + level * codes + code) as u32).collect();
            let source = HeadSource {
                matrix: matrix(1, vocabulary, hidden).into(),
                level_tokens: (0..LEVELS).map(tokens).collect(),
                whole_vocabulary: true,
            };
            let head = device.head_weight(&source)?;
            let x = noisy(&mut device, rows, hidden, Dtype::Bf16)?;
            let logits = device.buffer(rows, codes, Dtype::F32)?;
            let lognorm = device.buffer(rows, 1, Dtype::F32)?;
            let (rows_of, target, normalizer) = (Rows::Beams(lane), Target::Level(1), Normalizer::Vocabulary);
            let mut body = |device: &mut dyn Device| {
                device.head(&HeadArgs { rows: rows_of, x, head, target, normalizer, logits, lognorm })
            };
            let work = work::head(rows, hidden, vocabulary, codes);
            let row = Measurement { shape, work, runs: 1, prepare: &mut nothing, body: &mut body };
            rig.measure(&mut device, row)
        });
    }
    Ok(rig.finish("kernels: head"))
}

/// `history_attention`: causal over grouped heads, and an encoder's with its bias.
pub fn history_attention(setting: &Setting) -> Result<Section, CheckError> {
    let mut rig = Rig::new(setting, "history attention, one layer")?;
    let full = [
        (QWEN, 1, 1000, Mask::Causal),
        (QWEN, 8, 1000, Mask::Causal),
        (QWEN, 1, 5000, Mask::Causal),
        (T5, 1, 1000, Mask::Full),
        (T5, 8, 1000, Mask::Full),
    ];
    for (heads, sequences, tokens, mask) in shapes(setting, &full, &[(TINY, 1, 20, Mask::Causal)]) {
        let Heads { query, kv, dim } = heads;
        let shape = format!("{sequences} x {tokens} tokens, {query}/{kv} heads of {dim}, {mask:?}");
        rig.shape(&shape.clone(), |rig| {
            let mut device = rig.device()?;
            let lane = rig::token_lane(&mut device, sequences, tokens)?;
            let pool = rig::history(&mut device, (lane, sequences, tokens), heads, 1)?;
            let q = noisy(&mut device, sequences * tokens, query * dim, Dtype::Bf16)?;
            let out = device.buffer(sequences * tokens, query * dim, Dtype::Bf16)?;
            let by_distance = noise(3, query * 257, 1.0);
            let bias = match mask {
                Mask::Causal => None,
                Mask::Full => {
                    Some(device.relative_bias(&RelativeBiasSource { heads: query, max_distance: 128, by_distance })?)
                }
            };
            let (rows, segment) = (Rows::Tokens(lane), Segment::History);
            let args = HistoryAttentionArgs { rows, query: q, pool, segment, layer: 0, mask, bias, out };
            let mut body = |device: &mut dyn Device| device.history_attention(&args);
            let work = work::history_attention(heads, tokens, mask == Mask::Causal).times(sequences);
            let row = Measurement { shape, work, runs: 1, prepare: &mut nothing, body: &mut body };
            rig.measure(&mut device, row)
        });
    }
    Ok(rig.finish("kernels: history attention"))
}

/// A decode attention.
#[derive(Clone, Copy, Debug)]
struct Decode {
    heads: Heads,
    requests: usize,
    beams: usize,
    history: usize,
    layers: usize,
    /// Decode steps: at step s, s + 1 own tokens are read.
    steps: usize,
}

/// `beam_attention`: one layer at the second step, then all layers and steps of a request, as the bar counts.
pub fn beam_attention(setting: &Setting) -> Result<Section, CheckError> {
    let mut rig =
        Rig::new(setting, "beam attention (bar: all layers and steps of ctx 1000, batch 4, 256 beams in 1,200 us)")?;
    let one = |requests, history| Decode { heads: QWEN, requests, beams: 256, history, layers: 1, steps: 1 };
    let whole = Decode { layers: 28, steps: 2, ..one(4, 1000) };
    let tiny = Decode { heads: TINY, requests: 1, beams: 4, history: 20, layers: 1, steps: 1 };
    let full = [one(1, 1000), one(4, 1000), one(8, 1000), one(1, 5000), one(8, 5000), whole];
    for decode in shapes(setting, &full, &[tiny]) {
        let Decode { requests, beams, history, layers, steps, .. } = decode;
        let shape = format!("{requests} requests, {beams} beams, {history} tokens, {layers} layers, {steps} steps");
        rig.shape(&shape.clone(), |rig| one_decode(rig, decode, shape));
    }
    Ok(rig.finish("kernels: beam attention"))
}

fn one_decode(rig: &mut Rig, decode: Decode, shape: String) -> Result<(), CheckError> {
    let Decode { heads, requests, beams, history, layers, steps } = decode;
    let (mut device, rows) = (rig.device()?, requests * beams);
    let tokens = rig::token_lane(&mut device, requests, history)?;
    let pool = rig::history(&mut device, (tokens, requests, history), heads, layers)?;
    let catalog = rig::catalog(Items { codes: 512.max(beams), count: 20_000.min(400 * beams) })?;
    let search = Search::plan(&mut device, (requests, beams), &catalog)?;
    let own = OwnShape { layers, heads: heads.query, kv_heads: heads.kv, head_dim: heads.dim, steps: LEVELS, rows };
    let slab = device.own_slab(own)?;
    let width = heads.kv * heads.dim;
    let key = noisy(&mut device, rows, width, Dtype::F32)?;
    let value = noisy(&mut device, rows, width, Dtype::F32)?;
    search.begin(&mut device)?;
    for step in 0..2 {
        search.step(&mut device, step)?;
        for layer in 0..layers {
            device.write_kv(&WriteKvArgs {
                rows: Rows::Beams(search.lane),
                query: None,
                key,
                value,
                query_out: None,
                query_scale: 1.0,
                head_norm: None,
                rope: None,
                target: KvTarget::Own { slab, layer, step },
            })?;
        }
    }
    let query = noisy(&mut device, rows, heads.query * heads.dim, Dtype::Bf16)?;
    let out = device.buffer(rows, heads.query * heads.dim, Dtype::Bf16)?;
    // A single step is the second one; of two, both.
    let first = 2 - steps;
    let calls = || (first..2).flat_map(|step| (0..layers).map(move |layer| (step, layer)));
    let mut body = |device: &mut dyn Device| {
        calls().try_for_each(|(step, layer)| {
            let shared = Some(SharedKeys { pool, segment: Segment::History, layer });
            let own = Some(OwnKeys { slab, layer, step });
            device.beam_attention(&BeamAttentionArgs { lane: search.lane, query, shared, own, bias: None, out })
        })
    };
    let each = |(step, _)| work::beam_attention(heads, history, beams, step + 1).times(requests);
    let work = Work::sum(calls().map(each));
    rig.measure(&mut device, Measurement { shape, work, runs: 1, prepare: &mut nothing, body: &mut body })
}

/// `expand_select` over ten million semantic IDs.
pub fn expand_select(setting: &Setting) -> Result<Section, CheckError> {
    let mut rig = Rig::new(setting, "trie expand and select (bar: 30 us a step; STATIC masks alone in 33 us)")?;
    let items =
        if setting.is_rehearsal { Items { codes: 64, count: 500 } } else { Items { codes: 8192, count: 10_000_000 } };
    let catalog = rig::catalog(items)?;
    for (requests, beams) in shapes(setting, &[(1, 512), (1, 128), (8, 256)], &[(1, 4)]) {
        for levels in [0..1, 1..2, 2..3, 0..3] {
            let steps = format!("levels {} to {}", levels.start + 1, levels.end);
            let shape = format!("{steps}, {requests} requests of {beams} beams, {} SIDs", catalog.leaves());
            rig.shape(&shape.clone(), |rig| {
                let mut device = rig.device()?;
                rig::token_lane(&mut device, requests, 1)?;
                let search = Search::plan(&mut device, (requests, beams), &catalog)?;
                // Children are those of the average node; random semantic IDs differ little from it.
                let step = |level: usize| {
                    let (live, above) = if level == 0 {
                        (1, 1)
                    } else {
                        (beams.min(catalog.nodes(level - 1)), catalog.nodes(level - 1))
                    };
                    work::expand_select(live, live * catalog.nodes(level) / above, beams).times(requests)
                };
                let work = Work::sum(levels.clone().map(step));
                let mut prepare = |device: &mut dyn Device| {
                    search.begin(device)?;
                    (0..levels.start).try_for_each(|level| search.step(device, level))
                };
                let mut body =
                    |device: &mut dyn Device| levels.clone().try_for_each(|level| search.step(device, level));
                let row = Measurement { shape, work, runs: levels.len(), prepare: &mut prepare, body: &mut body };
                let each = Work { flops: 0.0, bytes: work.bytes / levels.len() as f64 };
                rig.measure(&mut device, Measurement { work: each, ..row })?;
                match search.live_beams(&mut device)? {
                    0 => Err(CheckError::Answer("no beam is left".to_owned())),
                    _ => Ok(()),
                }
            });
        }
    }
    Ok(rig.finish("kernels: expand and select"))
}

/// The kernels that are bound by memory: norms, embeddings, writing of keys and values.
pub fn rows(setting: &Setting) -> Result<Section, CheckError> {
    let mut rig = Rig::new(setting, "row-wise kernels, Qwen3-1.7B")?;
    // One row is next to no work: what a recording of a single kernel takes at least, in every row that is one.
    let full = [(1, 2048, QWEN), (256, 2048, QWEN), (2048, 2048, QWEN)];
    for (rows, width, heads) in shapes(setting, &full, &[(3, 64, TINY)]) {
        rig.shape(&format!("norm [{rows}, {width}]"), |rig| norm(rig, rows, width));
        rig.shape(&format!("embed [{rows}, {width}]"), |rig| embed(rig, rows, width));
        rig.shape(&format!("write_kv, {rows} rows"), |rig| write_kv(rig, rows, heads));
    }
    Ok(rig.finish("kernels: rows"))
}

fn norm(rig: &mut Rig, rows: usize, width: usize) -> Result<(), CheckError> {
    let mut device = rig.device()?;
    let lane = rig::token_lane(&mut device, 1, rows)?;
    let weight = device.vector(&TensorView::owned("noise", vec![width], noise(1, width, 1.0)), 1.0)?;
    let x = noisy(&mut device, rows, width, Dtype::F32)?;
    let out = device.buffer(rows, width, Dtype::Bf16)?;
    let mut body =
        |device: &mut dyn Device| device.norm(&NormArgs { rows: Rows::Tokens(lane), x, weight, eps: 1e-6, out });
    let shape = format!("norm [{rows}, {width}] f32 to bf16");
    let row = Measurement { shape, work: work::norm(rows, width), runs: 1, prepare: &mut nothing, body: &mut body };
    rig.measure(&mut device, row)
}

fn embed(rig: &mut Rig, rows: usize, width: usize) -> Result<(), CheckError> {
    let mut device = rig.device()?;
    let lane = rig::token_lane(&mut device, 1, rows)?;
    let table = device.embedding(&matrix(1, 64, width))?;
    let out = device.buffer(rows, width, Dtype::F32)?;
    let mut body = |device: &mut dyn Device| device.embed(Rows::Tokens(lane), table, out);
    let shape = format!("embed [{rows}, {width}], a table of 64 rows");
    let row = Measurement { shape, work: work::embed(rows, width), runs: 1, prepare: &mut nothing, body: &mut body };
    rig.measure(&mut device, row)
}

fn write_kv(rig: &mut Rig, rows: usize, heads: Heads) -> Result<(), CheckError> {
    let Heads { query, kv, dim } = heads;
    let mut device = rig.device()?;
    let lane = rig::token_lane(&mut device, 1, rows)?;
    let pool = rig::history(&mut device, (lane, 1, rows), heads, 1)?;
    let vector = TensorView::owned("noise", vec![dim], noise(1, dim, 1.0));
    let head_norm = HeadNorm { query: device.vector(&vector, 1.0)?, key: device.vector(&vector, 1.0)?, eps: 1e-6 };
    let angles = noise(2, rows * dim / 2, 3.0);
    let cos = angles.iter().map(|angle| angle.cos()).collect();
    let sin = angles.iter().map(|angle| angle.sin()).collect();
    let rope = device.rope(&RopeSource { positions: rows, cos, sin })?;
    let qkv = noisy(&mut device, rows, (query + 2 * kv) * dim, Dtype::F32)?;
    let query_out = device.buffer(rows, query * dim, Dtype::Bf16)?;
    let args = WriteKvArgs {
        rows: Rows::Tokens(lane),
        query: Some(qkv.columns(0, query * dim)),
        key: qkv.columns(query * dim, kv * dim),
        value: qkv.columns((query + kv) * dim, kv * dim),
        query_out: Some(query_out),
        query_scale: 1.0,
        head_norm: Some(head_norm),
        rope: Some(rope),
        target: KvTarget::Pages { pool, segment: Segment::History, layer: 0 },
    };
    let mut body = |device: &mut dyn Device| device.write_kv(&args);
    let shape = format!("write_kv, {rows} rows of {query}/{kv} heads of {dim}, normed and rotated");
    let row = Measurement { shape, work: work::write_kv(heads, rows), runs: 1, prepare: &mut nothing, body: &mut body };
    rig.measure(&mut device, row)
}
