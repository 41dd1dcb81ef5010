//! A small T5-like model over every operation: bidirectional encoder with bias, decoder prefixes of different lengths,
//! cross-attention, plain and gated feed-forwards, a scored end token; each beam's score against the f64 model.

use super::naive::{Matrix, Row, activate, add, attend, norm, round_row};
use super::search::trie_of;
use super::{cohort_plan, devices, noise, slot_plan};
use crate::device::cpu::CpuDevice;
use crate::device::{
    Activation, Beam, BeamAttentionArgs, Cohort, CohortLane, CohortRequest, Device, Dtype, Embedding, Epilogue,
    ExpandArgs, ForceArgs, Head, HeadArgs, HeadSource, HistoryAttentionArgs, KvPool, KvShape, KvTarget, Linear,
    LinearArgs, LinearSource, Mask, NormArgs, Normalizer, OwnKeys, OwnShape, OwnSlab, Queue, RelativeBias,
    RelativeBiasSource, Rows, Segment, SharedKeys, SlotState, Span, Target, Tensor, TokenBatch, TokenLane, TrieId,
    Vector, WriteKvArgs,
};
use crate::export::TensorView;

const HIDDEN: usize = 20;
const HEADS: usize = 3;
const DIM: usize = 7;
const WIDTH: usize = HEADS * DIM;
const INNER: usize = 33;
const DISTANCE: usize = 4;
const CODES: usize = 5;
const DEPTH: usize = 3;
const VOCABULARY: usize = 30;
const END: u32 = 1;
const EPS: f32 = 1e-6;
const ROWS: usize = 48;
/// Feed-forward of each decoder layer; the encoder has the tanh GELU.
const FORWARDS: [Epilogue; 2] = [Epilogue::Gate(Activation::GeluErf), Epilogue::Activate(Activation::Relu)];
const ENCODER_FORWARD: Epilogue = Epilogue::Activate(Activation::GeluTanh);

struct Attention {
    norm: Vec<f32>,
    query: Matrix,
    key: Matrix,
    value: Matrix,
    output: Matrix,
}

struct Forward {
    norm: Vec<f32>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
    kind: Epilogue,
}

struct Net {
    table: Matrix,
    encoder: (Attention, Forward),
    encoder_norm: Vec<f32>,
    encoder_bias: Vec<f32>,
    decoder: Vec<(Attention, Attention, Forward)>,
    decoder_norm: Vec<f32>,
    decoder_bias: Vec<f32>,
    head: Matrix,
}

fn scales(seed: u64, len: usize) -> Vec<f32> {
    noise(seed, len).iter().map(|x| 1.0 + 0.3 * x).collect()
}

fn net() -> Net {
    let attention = |seed: u64| Attention {
        norm: scales(seed, HIDDEN),
        query: Matrix::random(seed + 1, WIDTH, HIDDEN),
        key: Matrix::random(seed + 2, WIDTH, HIDDEN),
        value: Matrix::random(seed + 3, WIDTH, HIDDEN),
        output: Matrix::random(seed + 4, HIDDEN, WIDTH),
    };
    let forward = |seed: u64, kind| Forward {
        norm: scales(seed, HIDDEN),
        gate: Matrix::random(seed + 1, INNER, HIDDEN),
        up: Matrix::random(seed + 2, INNER, HIDDEN),
        down: Matrix::random(seed + 3, HIDDEN, INNER),
        kind,
    };
    let decoder = |(index, kind): (u64, _)| {
        (attention(index * 100), attention(index * 100 + 10), forward(index * 100 + 20, kind))
    };
    Net {
        table: Matrix::random(1, VOCABULARY, HIDDEN),
        encoder: (attention(50), forward(60, ENCODER_FORWARD)),
        encoder_norm: scales(2, HIDDEN),
        encoder_bias: noise(3, HEADS * (2 * DISTANCE + 1)),
        decoder: (1..).zip(FORWARDS).map(decoder).collect(),
        decoder_norm: scales(4, HIDDEN),
        decoder_bias: noise(5, HEADS * (2 * DISTANCE + 1)),
        head: Matrix::random(6, VOCABULARY, HIDDEN),
    }
}

fn token(level: usize, code: usize) -> u32 {
    (10 + level * CODES + (code * 2 + level) % CODES) as u32
}

fn normed(compute: Dtype, x: &[Row], weight: &[f32]) -> Vec<Row> {
    x.iter().map(|x| round_row(compute, norm(x, weight, f64::from(EPS)))).collect()
}

fn project(compute: Dtype, matrix: &Matrix, x: &[Row]) -> Vec<Row> {
    x.iter().map(|x| round_row(compute, matrix.apply(compute, x))).collect()
}

fn bias_at(bias: &[f32], head: usize, query: usize, key: usize) -> f64 {
    let distance = (key as isize - query as isize).clamp(-(DISTANCE as isize), DISTANCE as isize);
    f64::from(bias[head * (2 * DISTANCE + 1) + (DISTANCE as isize + distance) as usize])
}

impl Attention {
    /// Adds the attention of every row of `x` over itself (`causal` or not, with bias) or over `memory`.
    fn apply(&self, compute: Dtype, x: &mut [Row], memory: Option<&[Row]>, bias: Option<&[f32]>, causal: bool) {
        let own = normed(compute, x, &self.norm);
        let source = memory.unwrap_or(&own);
        let queries = project(compute, &self.query, &own);
        let (keys, values) = (project(compute, &self.key, source), project(compute, &self.value, source));
        for (at, (x, query)) in x.iter_mut().zip(&queries).enumerate() {
            let visible = if causal { at + 1 } else { keys.len() };
            let added = |head, key| bias.map_or(0.0, |bias| bias_at(bias, head, at, key));
            let attended = attend(query, &keys[..visible], &values[..visible], DIM, added);
            add(x, &self.output.apply(compute, &round_row(compute, attended)));
        }
    }
}

impl Forward {
    fn apply(&self, compute: Dtype, x: &mut [Row]) {
        for x in x {
            let normed = round_row(compute, norm(x, &self.norm, f64::from(EPS)));
            let gate = self.gate.apply(compute, &normed);
            let inner = match self.kind {
                Epilogue::Gate(act) => {
                    let up = self.up.apply(compute, &normed);
                    gate.iter().zip(&up).map(|(gate, up)| activate(act, *gate) * up).collect()
                }
                Epilogue::Activate(act) => gate.iter().map(|gate| activate(act, *gate)).collect(),
                other => panic!("{other:?}"),
            };
            add(x, &self.down.apply(compute, &round_row(compute, inner)));
        }
    }
}

impl Net {
    fn embed(&self, tokens: &[u32]) -> Vec<Row> {
        tokens.iter().map(|&token| self.table.row(token as usize)).collect()
    }

    /// Log-probabilities of the vocabulary after `prefix`, given the prompt.
    fn evaluate(&self, compute: Dtype, prompt: &[u32], prefix: &[u32]) -> Row {
        let mut memory = self.embed(prompt);
        self.encoder.0.apply(compute, &mut memory, None, Some(&self.encoder_bias), false);
        self.encoder.1.apply(compute, &mut memory);
        let memory = normed(compute, &memory, &self.encoder_norm);
        let mut x = self.embed(prefix);
        for (own, cross, forward) in &self.decoder {
            own.apply(compute, &mut x, None, Some(&self.decoder_bias), true);
            cross.apply(compute, &mut x, Some(&memory), None, false);
            forward.apply(compute, &mut x);
        }
        let last = normed(compute, &x[x.len() - 1..], &self.decoder_norm);
        let logits = self.head.apply(compute, &last[0]);
        let sum = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        logits.iter().map(|logit| logit - sum).collect()
    }
}

/// An attention's weights on the device; `first` is q, k and v or, for cross-attention, q alone.
struct DeviceAttention {
    norm: Vector,
    first: Linear,
    key_value: Linear,
    output: Linear,
}

#[derive(Clone, Copy)]
struct DeviceForward {
    norm: Vector,
    input: Linear,
    down: Linear,
    kind: Epilogue,
}

struct Rig {
    device: CpuDevice,
    table: Embedding,
    encoder: (DeviceAttention, DeviceForward),
    encoder_norm: Vector,
    encoder_bias: RelativeBias,
    decoder: Vec<(DeviceAttention, DeviceAttention, DeviceForward)>,
    decoder_norm: Vector,
    decoder_bias: RelativeBias,
    head: Head,
    trie: TrieId,
    history: KvPool,
    prefix: KvPool,
    own: OwnSlab,
    prompts: TokenLane,
    prefixes: TokenLane,
    cohort: CohortLane,
    residual: Tensor,
    normed: Tensor,
    qkv: Tensor,
    query: Tensor,
    attended: Tensor,
    inner: Tensor,
    first: Tensor,
    logits: Tensor,
    lognorm: Tensor,
}

fn vector(device: &mut CpuDevice, values: &[f32]) -> Vector {
    device.vector(&TensorView::owned("vector", vec![values.len()], values.to_vec()), 1.0).unwrap()
}

fn linear(device: &mut CpuDevice, parts: &[&Matrix], gated: bool) -> Linear {
    let parts = parts.iter().map(|part| part.view()).collect();
    device.linear_weight(&LinearSource { parts, biases: Vec::new(), gated }).unwrap()
}

fn attention(device: &mut CpuDevice, of: &Attention, cross: bool) -> DeviceAttention {
    let first: &[&Matrix] = if cross { &[&of.query] } else { &[&of.query, &of.key, &of.value] };
    DeviceAttention {
        norm: vector(device, &of.norm),
        first: linear(device, first, false),
        key_value: linear(device, &[&of.key, &of.value], false),
        output: linear(device, &[&of.output], false),
    }
}

fn forward(device: &mut CpuDevice, of: &Forward) -> DeviceForward {
    let gated = matches!(of.kind, Epilogue::Gate(_));
    let parts: &[&Matrix] = if gated { &[&of.gate, &of.up] } else { &[&of.gate] };
    DeviceForward {
        norm: vector(device, &of.norm),
        input: linear(device, parts, gated),
        down: linear(device, &[&of.down], false),
        kind: of.kind,
    }
}

impl Rig {
    fn new(mut device: CpuDevice, net: &Net) -> Rig {
        let compute = device.facts().compute;
        let d = &mut device;
        let layers = net.decoder.len();
        let kv = |pages, page_tokens| KvShape { layers, kv_heads: HEADS, head_dim: DIM, pages, page_tokens };
        let slab = OwnShape { layers, heads: HEADS, kv_heads: HEADS, head_dim: DIM, steps: DEPTH, rows: ROWS };
        let level_tokens = (0..DEPTH).map(|level| (0..CODES).map(|code| token(level, code)).collect()).collect();
        let sids = (0..CODES.pow(DEPTH as u32) as u32).map(|leaf| codes(leaf).map(|code| code as u16).to_vec());
        let catalog = trie_of(&[CODES as u16; DEPTH], &sids.collect()).catalog;
        let bias = |d: &mut CpuDevice, by_distance: &[f32]| {
            let by_distance = by_distance.to_vec();
            d.relative_bias(&RelativeBiasSource { heads: HEADS, max_distance: DISTANCE, by_distance }).unwrap()
        };
        d.plan_slots(slot_plan(3)).unwrap();
        Rig {
            table: d.embedding(&net.table.view()).unwrap(),
            encoder: (attention(d, &net.encoder.0, false), forward(d, &net.encoder.1)),
            encoder_norm: vector(d, &net.encoder_norm),
            encoder_bias: bias(d, &net.encoder_bias),
            decoder: net
                .decoder
                .iter()
                .map(|(own, cross, ffn)| (attention(d, own, false), attention(d, cross, true), forward(d, ffn)))
                .collect(),
            decoder_norm: vector(d, &net.decoder_norm),
            decoder_bias: bias(d, &net.decoder_bias),
            head: d
                .head_weight(&HeadSource { matrix: net.head.view().into(), level_tokens, whole_vocabulary: true })
                .unwrap(),
            trie: d.trie(&catalog).unwrap(),
            history: d.kv_pool(kv(9, 16)).unwrap(),
            prefix: d.kv_pool(kv(3, 4)).unwrap(),
            own: d.own_slab(slab).unwrap(),
            prompts: d.token_lane(ROWS, Queue::Prefill).unwrap(),
            prefixes: d.token_lane(ROWS, Queue::Search).unwrap(),
            cohort: d.cohort_lane(cohort_plan(ROWS, DEPTH + 1)).unwrap(),
            residual: d.buffer(ROWS, HIDDEN, Dtype::F32).unwrap(),
            normed: d.buffer(ROWS, HIDDEN, compute).unwrap(),
            qkv: d.buffer(ROWS, 3 * WIDTH, Dtype::F32).unwrap(),
            query: d.buffer(ROWS, WIDTH, compute).unwrap(),
            attended: d.buffer(ROWS, WIDTH, compute).unwrap(),
            inner: d.buffer(ROWS, INNER, compute).unwrap(),
            first: d.buffer(3, HIDDEN, compute).unwrap(),
            logits: d.buffer(ROWS, CODES, Dtype::F32).unwrap(),
            lognorm: d.buffer(ROWS, 1, Dtype::F32).unwrap(),
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

    fn write_kv(&mut self, rows: Rows, with_query: bool, target: KvTarget) {
        let first = if with_query { WIDTH } else { 0 };
        let args = WriteKvArgs {
            rows,
            query: with_query.then(|| self.qkv.columns(0, WIDTH)),
            key: self.qkv.columns(first, WIDTH),
            value: self.qkv.columns(first + WIDTH, WIDTH),
            query_out: with_query.then_some(self.query),
            query_scale: 1.0,
            head_norm: None,
            rope: None,
            target,
        };
        self.device.write_kv(&args).unwrap();
    }

    fn feed_forward(&mut self, rows: Rows, of: DeviceForward) {
        self.norm(rows, of.norm);
        self.linear(rows, self.normed, of.input, self.inner, of.kind);
        self.linear(rows, self.inner, of.down, self.residual, Epilogue::Residual);
    }

    fn tokens(&mut self, lane: TokenLane, sequences: &[Vec<u32>]) {
        let mut batch = TokenBatch::default();
        for (slot, tokens) in (0..).zip(sequences) {
            let (first_row, rows) = (batch.tokens.len() as u32, tokens.len() as u32);
            batch.spans.push(Span { slot, first_row, rows, first_position: 0, last: true });
            batch.tokens.extend_from_slice(tokens);
        }
        self.device.write_tokens(lane, &batch).unwrap();
    }

    fn encode(&mut self, net: &Net, prompts: &[Vec<u32>], prefixes: &[Vec<u32>]) {
        for (slot, (prompt, prefix)) in prompts.iter().zip(prefixes).enumerate() {
            let state = SlotState {
                history_len: prompt.len() as u32,
                history_pages: (0..3).map(|page| (slot + 3 * page) as u32).collect(),
                prefix_len: prefix.len() as u32,
                prefix_pages: vec![2 - slot as u32],
            };
            self.device.write_slot(slot as u32, &state).unwrap();
        }
        self.tokens(self.prompts, prompts);
        let (rows, pool, segment) = (Rows::Tokens(self.prompts), self.history, Segment::History);
        self.device.embed(rows, self.table, self.residual).unwrap();
        let DeviceAttention { norm, first, output, .. } = self.encoder.0;
        self.norm(rows, norm);
        self.linear(rows, self.normed, first, self.qkv, Epilogue::Store);
        self.write_kv(rows, true, KvTarget::Pages { pool, segment, layer: 0 });
        let (query, out, bias) = (self.query, self.attended, Some(self.encoder_bias));
        let args = HistoryAttentionArgs { rows, query, pool, segment, layer: 0, mask: Mask::Full, bias, out };
        self.device.history_attention(&args).unwrap();
        self.linear(rows, out, output, self.residual, Epilogue::Residual);
        self.feed_forward(rows, self.encoder.1);
        self.norm(rows, self.encoder_norm);
        for layer in 0..net.decoder.len() {
            let key_value = self.decoder[layer].1.key_value;
            self.linear(rows, self.normed, key_value, self.qkv.columns(0, 2 * WIDTH), Epilogue::Store);
            self.write_kv(rows, false, KvTarget::Pages { pool, segment, layer });
        }
    }

    /// Attention of prefix rows, or of beam rows at `step`, over the prefix (and own tokens) or over the history.
    fn attend(&mut self, rows: Rows, step: usize, layer: usize, segment: Segment) {
        let cross = segment == Segment::History;
        let (pool, bias) = if cross { (self.history, None) } else { (self.prefix, Some(self.decoder_bias)) };
        let (query, out, slab) = (self.query, self.attended, self.own);
        if let Rows::Beams(lane) = rows {
            let shared = Some(SharedKeys { pool, segment, layer });
            let own = (!cross).then_some(OwnKeys { slab, layer, step });
            self.device.beam_attention(&BeamAttentionArgs { lane, query, shared, own, bias, out }).unwrap();
        } else {
            let mask = if cross { Mask::Full } else { Mask::Causal };
            let args = HistoryAttentionArgs { rows, query, pool, segment, layer, mask, bias, out };
            self.device.history_attention(&args).unwrap();
        }
    }

    fn decode(&mut self, rows: Rows, step: usize) {
        self.device.embed(rows, self.table, self.residual).unwrap();
        for layer in 0..self.decoder.len() {
            let (own, cross, ffn) = &self.decoder[layer];
            let (own, cross) = ((own.norm, own.first, own.output), (cross.norm, cross.first, cross.output));
            let ffn = *ffn;
            self.norm(rows, own.0);
            self.linear(rows, self.normed, own.1, self.qkv, Epilogue::Store);
            let target = match rows {
                Rows::Beams(_) => KvTarget::Own { slab: self.own, layer, step },
                _ => KvTarget::Pages { pool: self.prefix, segment: Segment::Prefix, layer },
            };
            self.write_kv(rows, true, target);
            self.attend(rows, step, layer, Segment::Prefix);
            self.linear(rows, self.attended, own.2, self.residual, Epilogue::Residual);
            self.norm(rows, cross.0);
            self.linear(rows, self.normed, cross.1, self.query, Epilogue::Store);
            self.attend(rows, step, layer, Segment::History);
            self.linear(rows, self.attended, cross.2, self.residual, Epilogue::Residual);
            self.feed_forward(rows, ffn);
        }
        self.norm(rows, self.decoder_norm);
    }

    fn search(&mut self, prefixes: &[Vec<u32>], beams: u32) -> Vec<Vec<Beam>> {
        self.tokens(self.prefixes, prefixes);
        let request = |slot| CohortRequest { slot, beams, first_row: slot * beams, ..CohortRequest::default() };
        let requests = (0..prefixes.len() as u32).map(request).collect();
        self.device.write_cohort(self.cohort, &Cohort { requests }).unwrap();
        let (lane, head, trie, logits, lognorm) = (self.cohort, self.head, self.trie, self.logits, self.lognorm);
        for step in 0..=DEPTH {
            let (rows, x) = if step == 0 {
                self.decode(Rows::Tokens(self.prefixes), 0);
                self.device.gather_last(self.prefixes, self.normed, self.first).unwrap();
                (Rows::Requests(lane), self.first)
            } else {
                self.decode(Rows::Beams(lane), step - 1);
                (Rows::Beams(lane), self.normed)
            };
            let target = if step < DEPTH { Target::Level(step) } else { Target::Token(END) };
            let normalizer = Normalizer::Vocabulary;
            self.device.head(&HeadArgs { rows, x, head, target, normalizer, logits, lognorm }).unwrap();
            if step < DEPTH {
                self.device
                    .expand_select(&ExpandArgs {
                        lane,
                        trie,
                        head,
                        item: 0,
                        level: step,
                        logits,
                        lognorm: Some(lognorm),
                    })
                    .unwrap();
            } else {
                let scored = Some((logits, lognorm));
                self.device.force_token(&ForceArgs { lane, token: END, step, scored }).unwrap();
            }
        }
        self.device.read_beams(lane).unwrap()
    }
}

fn codes(leaf: u32) -> [usize; DEPTH] {
    let leaf = leaf as usize;
    [leaf / CODES / CODES, leaf / CODES % CODES, leaf % CODES]
}

#[test]
fn scores_are_the_f64_models() {
    let net = net();
    let prompt = |(seed, len)| noise(seed, len).iter().map(|x| ((x + 1.0) * 14.9) as u32).collect::<Vec<u32>>();
    let prompts = [(1, 1), (2, 17), (3, 30)].map(prompt);
    let prefixes = [vec![0], vec![0, 7, 8, 9], vec![0, 5]];
    for device in devices(2) {
        let facts = device.facts().clone();
        let mut rig = Rig::new(device, &net);
        rig.encode(&net, &prompts, &prefixes);
        let beams = rig.search(&prefixes, 9);
        let tolerance = if facts.compute == Dtype::F32 { 2e-5 } else { 0.15 };
        for ((prompt, prefix), beams) in prompts.iter().zip(&prefixes).zip(&beams) {
            assert_eq!(beams.len(), 9);
            assert!(beams.windows(2).all(|pair| pair[0].score >= pair[1].score));
            for beam in beams {
                let (mut tokens, mut score) = (prefix.clone(), 0.0);
                let path = (0..).zip(codes(beam.leaf)).map(|(level, code)| token(level, code));
                for token in path.chain([END]) {
                    score += net.evaluate(facts.compute, prompt, &tokens)[token as usize];
                    tokens.push(token);
                }
                let error = (f64::from(beam.score) - score).abs();
                assert!(error < tolerance, "{} {}: {beam:?}, {score}", facts.name, facts.compute.name());
            }
        }
    }
}
