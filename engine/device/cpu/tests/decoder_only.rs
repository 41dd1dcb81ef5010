//! A small Qwen-like model over every operation: chunked prefill of several prompts, search, and each beam's score against
//! the f64 model run over prompt and SID alone.

use super::naive::{Matrix, Row, activate, add, attend, norm, rotate, round, round_row};
use super::search::trie_of;
use super::{cohort_plan, devices, noise, sets, slot_plan};
use crate::device::cpu::{CpuDevice, Isa};
use crate::device::{
    Activation, Beam, BeamAttentionArgs, Cohort, CohortLane, CohortRequest, Device, Dtype, Embedding, Epilogue,
    ExpandArgs, Head, HeadArgs, HeadNorm, HeadSource, HistoryAttentionArgs, KvPool, KvShape, KvTarget, Linear,
    LinearArgs, LinearSource, Mask, NormArgs, Normalizer, OwnKeys, OwnShape, OwnSlab, Queue, Rope, RopeSource, Rows,
    Segment, SharedKeys, SlotState, Span, Target, Tensor, TokenBatch, TokenLane, TrieId, Vector, WriteKvArgs,
};
use crate::export::TensorView;

const HIDDEN: usize = 24;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 10;
const INNER: usize = 40;
const LAYERS: usize = 2;
const CODES: usize = 6;
const DEPTH: usize = 3;
const VOCABULARY: usize = 50;
const PAGE: usize = 8;
const POSITIONS: usize = 64;
const EPS: f32 = 1e-6;
const CHUNK: usize = 7;

struct Layer {
    norms: [Vec<f32>; 2],
    head_norms: [Vec<f32>; 2],
    query: Matrix,
    key: Matrix,
    value: Matrix,
    output: Matrix,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

struct Net {
    embedding: Matrix,
    layers: Vec<Layer>,
    last_norm: Vec<f32>,
    head: Matrix,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

fn scales(seed: u64, len: usize) -> Vec<f32> {
    noise(seed, len).iter().map(|x| 1.0 + 0.3 * x).collect()
}

fn net() -> Net {
    let layer = |l: u64| Layer {
        norms: [scales(l * 20, HIDDEN), scales(l * 20 + 1, HIDDEN)],
        head_norms: [scales(l * 20 + 2, DIM), scales(l * 20 + 3, DIM)],
        query: Matrix::random(l * 20 + 4, HEADS * DIM, HIDDEN),
        key: Matrix::random(l * 20 + 5, KV_HEADS * DIM, HIDDEN),
        value: Matrix::random(l * 20 + 6, KV_HEADS * DIM, HIDDEN),
        output: Matrix::random(l * 20 + 7, HIDDEN, HEADS * DIM),
        gate: Matrix::random(l * 20 + 8, INNER, HIDDEN),
        up: Matrix::random(l * 20 + 9, INNER, HIDDEN),
        down: Matrix::random(l * 20 + 10, HIDDEN, INNER),
    };
    let angle = |i: usize| (i / (DIM / 2)) as f32 * 0.5f32.powi((i % (DIM / 2)) as i32);
    Net {
        embedding: Matrix::random(1000, VOCABULARY, HIDDEN),
        layers: (1..=LAYERS as u64).map(layer).collect(),
        last_norm: scales(1001, HIDDEN),
        head: Matrix::random(1002, VOCABULARY, HIDDEN),
        cos: (0..POSITIONS * DIM / 2).map(|i| angle(i).cos()).collect(),
        sin: (0..POSITIONS * DIM / 2).map(|i| angle(i).sin()).collect(),
    }
}

/// Token of a code: levels in reverse order within the vocabulary, codes permuted.
fn token(level: usize, code: usize) -> u32 {
    (4 + (DEPTH - 1 - level) * CODES + (code * 5 + level) % CODES) as u32
}

impl Net {
    /// Log-probabilities of the vocabulary after `tokens`.
    fn evaluate(&self, compute: Dtype, tokens: &[u32]) -> Row {
        let mut x: Vec<Row> = tokens.iter().map(|&token| self.embedding.row(token as usize)).collect();
        for layer in &self.layers {
            let normed: Vec<Row> =
                x.iter().map(|x| round_row(compute, norm(x, &layer.norms[0], f64::from(EPS)))).collect();
            let heads = |matrix: &Matrix, weight: &[f32], position: usize| {
                let heads = matrix.apply(compute, &normed[position]);
                let mut heads: Row = heads.chunks(DIM).flat_map(|head| norm(head, weight, f64::from(EPS))).collect();
                rotate(&mut heads, DIM, position, &self.cos, &self.sin);
                heads
            };
            let scale = f64::from((DIM as f32).powf(-0.5));
            let keys: Vec<Row> = (0..tokens.len())
                .map(|position| round_row(compute, heads(&layer.key, &layer.head_norms[1], position)))
                .collect();
            let values: Vec<Row> = normed.iter().map(|x| round_row(compute, layer.value.apply(compute, x))).collect();
            for (position, x) in x.iter_mut().enumerate() {
                let query = heads(&layer.query, &layer.head_norms[0], position);
                let query: Row = query.iter().map(|q| round(compute, q * scale)).collect();
                let attended = attend(&query, &keys[..=position], &values[..=position], DIM, |_, _| 0.0);
                add(x, &layer.output.apply(compute, &round_row(compute, attended)));
                let normed = round_row(compute, norm(x, &layer.norms[1], f64::from(EPS)));
                let (gate, up) = (layer.gate.apply(compute, &normed), layer.up.apply(compute, &normed));
                let inner = gate.iter().zip(&up).map(|(g, u)| activate(Activation::Silu, *g) * u).collect();
                add(x, &layer.down.apply(compute, &round_row(compute, inner)));
            }
        }
        let normed = round_row(compute, norm(&x[x.len() - 1], &self.last_norm, f64::from(EPS)));
        let logits = self.head.apply(compute, &normed);
        let sum = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        logits.iter().map(|logit| logit - sum).collect()
    }
}

struct DeviceLayer {
    norms: [Vector; 2],
    head_norm: HeadNorm,
    qkv: Linear,
    output: Linear,
    input: Linear,
    down: Linear,
}

struct Rig {
    device: CpuDevice,
    embedding: Embedding,
    layers: Vec<DeviceLayer>,
    last_norm: Vector,
    head: Head,
    trie: TrieId,
    rope: Rope,
    pool: KvPool,
    own: OwnSlab,
    tokens: TokenLane,
    cohort: CohortLane,
    residual: Tensor,
    normed: Tensor,
    qkv: Tensor,
    query: Tensor,
    attended: Tensor,
    inner: Tensor,
    last: Tensor,
    by_slot: Tensor,
    logits: Tensor,
    lognorm: Tensor,
}

const BEAM_ROWS: usize = 24;

impl Rig {
    fn new(mut device: CpuDevice, net: &Net) -> Rig {
        let compute = device.facts().compute;
        let d = &mut device;
        let vector = |d: &mut CpuDevice, values: &[f32]| {
            d.vector(&TensorView::owned("vector", vec![values.len()], values.to_vec()), 1.0).unwrap()
        };
        let linear = |d: &mut CpuDevice, parts: &[&Matrix], gated| {
            let parts = parts.iter().map(|part| part.view()).collect();
            d.linear_weight(&LinearSource { parts, biases: Vec::new(), gated }).unwrap()
        };
        let layers = net.layers.iter().map(|layer| DeviceLayer {
            norms: [vector(d, &layer.norms[0]), vector(d, &layer.norms[1])],
            head_norm: HeadNorm {
                query: vector(d, &layer.head_norms[0]),
                key: vector(d, &layer.head_norms[1]),
                eps: EPS,
            },
            qkv: linear(d, &[&layer.query, &layer.key, &layer.value], false),
            output: linear(d, &[&layer.output], false),
            input: linear(d, &[&layer.gate, &layer.up], true),
            down: linear(d, &[&layer.down], false),
        });
        let layers: Vec<DeviceLayer> = layers.collect();
        let level_tokens = (0..DEPTH).map(|level| (0..CODES).map(|code| token(level, code)).collect()).collect();
        let kv = KvShape { layers: LAYERS, kv_heads: KV_HEADS, head_dim: DIM, pages: 20, page_tokens: PAGE };
        let slab = OwnShape {
            layers: LAYERS,
            heads: HEADS,
            kv_heads: KV_HEADS,
            head_dim: DIM,
            steps: DEPTH - 1,
            rows: BEAM_ROWS,
        };
        let sids = (0..CODES.pow(DEPTH as u32) as u32).map(|leaf| codes(leaf).map(|code| code as u16).to_vec());
        let catalog = trie_of(&[CODES as u16; DEPTH], &sids.collect()).catalog;
        d.plan_slots(slot_plan(4)).unwrap();
        let rows = BEAM_ROWS.max(32);
        let width = (HEADS + 2 * KV_HEADS) * DIM;
        Rig {
            embedding: d.embedding(&net.embedding.view()).unwrap(),
            layers,
            last_norm: vector(d, &net.last_norm),
            head: d
                .head_weight(&HeadSource { matrix: net.head.view().into(), level_tokens, whole_vocabulary: true })
                .unwrap(),
            trie: d.trie(&catalog).unwrap(),
            rope: d.rope(&RopeSource { positions: POSITIONS, cos: net.cos.clone(), sin: net.sin.clone() }).unwrap(),
            pool: d.kv_pool(kv).unwrap(),
            own: d.own_slab(slab).unwrap(),
            tokens: d.token_lane(rows, Queue::Prefill).unwrap(),
            cohort: d.cohort_lane(cohort_plan(BEAM_ROWS, DEPTH)).unwrap(),
            residual: d.buffer(rows, HIDDEN, Dtype::F32).unwrap(),
            normed: d.buffer(rows, HIDDEN, compute).unwrap(),
            qkv: d.buffer(rows, width, Dtype::F32).unwrap(),
            query: d.buffer(rows, HEADS * DIM, compute).unwrap(),
            attended: d.buffer(rows, HEADS * DIM, compute).unwrap(),
            inner: d.buffer(rows, INNER, compute).unwrap(),
            last: d.buffer(4, HIDDEN, compute).unwrap(),
            by_slot: d.buffer(4, HIDDEN, compute).unwrap(),
            logits: d.buffer(rows, CODES, Dtype::F32).unwrap(),
            lognorm: d.buffer(rows, 1, Dtype::F32).unwrap(),
            device,
        }
    }

    fn norm(&mut self, rows: Rows, weight: Vector) {
        let (x, out) = (self.residual, self.normed);
        self.device.norm(&NormArgs { rows, x, weight, eps: EPS, out }).unwrap();
    }

    fn linear(&mut self, rows: Rows, x: Tensor, weight: Linear, out: Tensor, epilogue: Epilogue) {
        self.device.linear(&LinearArgs { rows, x, weight, out, epilogue }).unwrap();
    }

    /// All layers over token rows or, at a step, beam rows.
    fn forward(&mut self, rows: Rows, step: usize) {
        let (pool, segment, slab) = (self.pool, Segment::History, self.own);
        self.device.embed(rows, self.embedding, self.residual).unwrap();
        for index in 0..LAYERS {
            let layer = &self.layers[index];
            let (norms, head_norm) = (layer.norms, Some(layer.head_norm));
            let (qkv, output, input, down) = (layer.qkv, layer.output, layer.input, layer.down);
            self.norm(rows, norms[0]);
            self.linear(rows, self.normed, qkv, self.qkv, Epilogue::Store);
            let (width, kv_width) = (HEADS * DIM, KV_HEADS * DIM);
            let beams = matches!(rows, Rows::Beams(_));
            let write = WriteKvArgs {
                rows,
                query: Some(self.qkv.columns(0, width)),
                key: self.qkv.columns(width, kv_width),
                value: self.qkv.columns(width + kv_width, kv_width),
                query_out: Some(self.query),
                query_scale: (DIM as f32).powf(-0.5),
                head_norm,
                rope: Some(self.rope),
                target: match beams {
                    true => KvTarget::Own { slab, layer: index, step },
                    false => KvTarget::Pages { pool, segment, layer: index },
                },
            };
            self.device.write_kv(&write).unwrap();
            let (query, out, layer, bias) = (self.query, self.attended, index, None);
            if let Rows::Beams(lane) = rows {
                let shared = Some(SharedKeys { pool, segment, layer });
                let own = Some(OwnKeys { slab, layer, step });
                self.device.beam_attention(&BeamAttentionArgs { lane, query, shared, own, bias, out }).unwrap();
            } else {
                let mask = Mask::Causal;
                let args = HistoryAttentionArgs { rows, query, pool, segment, layer, mask, bias, out };
                self.device.history_attention(&args).unwrap();
            }
            self.linear(rows, self.attended, output, self.residual, Epilogue::Residual);
            self.norm(rows, norms[1]);
            self.linear(rows, self.normed, input, self.inner, Epilogue::Gate(Activation::Silu));
            self.linear(rows, self.inner, down, self.residual, Epilogue::Residual);
        }
        self.norm(rows, self.last_norm);
    }

    /// Prompts in chunks, slot i holding prompt i on pages of its own.
    fn prefill(&mut self, prompts: &[Vec<u32>]) {
        let longest = prompts.iter().map(Vec::len).max().unwrap();
        for start in (0..longest).step_by(CHUNK) {
            let mut batch = TokenBatch::default();
            for (slot, prompt) in prompts.iter().enumerate().filter(|(_, prompt)| prompt.len() > start) {
                let end = prompt.len().min(start + CHUNK);
                // Odd pages backwards: a block table has no order.
                let pages = (0..end.div_ceil(PAGE) as u32).map(|page| 19 - slot as u32 - 3 * page).collect();
                let state = SlotState { history_len: end as u32, history_pages: pages, ..SlotState::default() };
                self.device.write_slot(slot as u32, &state).unwrap();
                batch.spans.push(Span {
                    slot: slot as u32,
                    first_row: batch.tokens.len() as u32,
                    rows: (end - start) as u32,
                    first_position: start as u32,
                    last: end == prompt.len(),
                });
                batch.tokens.extend_from_slice(&prompt[start..end]);
            }
            self.device.write_tokens(self.tokens, &batch).unwrap();
            self.forward(Rows::Tokens(self.tokens), 0);
            self.device.gather_last(self.tokens, self.normed, self.last).unwrap();
            self.device.store_slots(self.tokens, self.last, self.by_slot).unwrap();
        }
    }

    fn search(&mut self, slots: &[u32], beams: &[u32]) -> Vec<Vec<Beam>> {
        let mut first_row = 0;
        let mut request = |(&slot, &beams): (&u32, &u32)| {
            first_row += beams;
            CohortRequest { slot, beams, first_row: first_row - beams, ..CohortRequest::default() }
        };
        let requests = slots.iter().zip(beams).map(&mut request).collect();
        self.device.write_cohort(self.cohort, &Cohort { requests }).unwrap();
        let (lane, head, trie, logits, lognorm) = (self.cohort, self.head, self.trie, self.logits, self.lognorm);
        for level in 0..DEPTH {
            let (rows, x) = if level == 0 {
                self.device.load_slots(lane, self.by_slot, self.last).unwrap();
                (Rows::Requests(lane), self.last)
            } else {
                self.forward(Rows::Beams(lane), level - 1);
                (Rows::Beams(lane), self.normed)
            };
            let (target, normalizer) = (Target::Level(level), Normalizer::Vocabulary);
            self.device.head(&HeadArgs { rows, x, head, target, normalizer, logits, lognorm }).unwrap();
            self.device
                .expand_select(&ExpandArgs { lane, trie, head, item: 0, level, logits, lognorm: Some(lognorm) })
                .unwrap();
        }
        self.device.read_beams(lane).unwrap()
    }
}

fn prompts() -> Vec<Vec<u32>> {
    let prompt = |(seed, len): (u64, usize)| {
        noise(seed, len).iter().map(|x| ((x + 1.0) * 0.5 * (VOCABULARY - 1) as f32) as u32).collect()
    };
    [(1, 21), (2, 5), (3, 16)].map(prompt).to_vec()
}

fn codes(leaf: u32) -> [usize; DEPTH] {
    let leaf = leaf as usize;
    [leaf / CODES / CODES, leaf / CODES % CODES, leaf % CODES]
}

#[test]
fn scores_are_the_f64_models() {
    let net = net();
    let prompts = prompts();
    for device in devices(2) {
        let facts = device.facts().clone();
        let mut rig = Rig::new(device, &net);
        rig.prefill(&prompts);
        let beams = rig.search(&[0, 1, 2], &[5, 12, 7]);
        let tolerance = if facts.compute == Dtype::F32 { 2e-5 } else { 0.1 };
        for (prompt, beams) in prompts.iter().zip(&beams) {
            assert!(beams.windows(2).all(|pair| pair[0].score >= pair[1].score));
            for beam in beams {
                let mut tokens = prompt.clone();
                let mut score = 0.0;
                for (level, code) in codes(beam.leaf).into_iter().enumerate() {
                    score += net.evaluate(facts.compute, &tokens)[token(level, code) as usize];
                    tokens.push(token(level, code));
                }
                let error = (f64::from(beam.score) - score).abs();
                assert!(error < tolerance, "{} {}: {beam:?}, {score}", facts.name, facts.compute.name());
            }
        }
        assert_eq!(beams.iter().map(Vec::len).collect::<Vec<_>>(), [5, 12, 7]);
    }
}

#[test]
fn together_and_alone_give_the_same_bits() {
    let net = net();
    let prompts = prompts();
    for isa in sets() {
        for compute in [Dtype::F32, Dtype::Bf16] {
            let new = |threads| Rig::new(CpuDevice::new(isa, compute, threads).unwrap(), &net);
            let mut rig = new(2);
            rig.prefill(&prompts);
            let together = rig.search(&[2, 0, 1], &[5, 12, 7]);
            for (index, slot) in [2, 0, 1].into_iter().enumerate() {
                let mut alone = new(1);
                alone.prefill(&prompts[slot..=slot]);
                let beams = [5, 12, 7][index];
                assert_eq!(alone.search(&[0], &[beams])[0], together[index], "{isa:?} {compute:?}, prompt {slot}");
            }
        }
    }
}

#[test]
fn instruction_sets_agree_on_the_list() {
    let net = net();
    let mut lists: Vec<(Isa, Vec<u32>)> = Vec::new();
    for isa in sets() {
        let mut rig = Rig::new(CpuDevice::new(isa, Dtype::F32, 1).unwrap(), &net);
        rig.prefill(&prompts());
        lists.push((isa, rig.search(&[0], &[16])[0].iter().map(|beam| beam.leaf).collect()));
    }
    assert!(lists.windows(2).all(|pair| pair[0].1 == pair[1].1), "{lists:?}");
}
