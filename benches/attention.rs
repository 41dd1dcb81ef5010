//! Attention in GFLOP/s and in percent of the multipliers' peak.
//!
//! `cargo bench --bench attention -- [--threads N] [--runs N] [FILTER...]` times every case whose name contains all filters;
//! a name is `shape/isa/dtype`. Without `--bench` (as in a test run) each case runs once, on a small shape. In both modes
//! some rows are checked against a plain evaluation in f64.
//!
//! With one thread, time is the thread's CPU time, so that a busy machine disturbs less; with more it is wall time.
//!
//! Useful work is 4 x head_dim FLOP for each visible (row, head, key); the softmax is not counted.

mod support;

use std::time::Instant;

use half::bf16;
use sidereal::device::cpu::attention::{
    BeamAttention, DistanceBias, HistoryAttention, OwnTokens, SharedPages, beam_attention, history_attention,
};
use sidereal::device::cpu::kv::{
    BeamSpan, ComputeRows, ComputeRowsMut, HeadNormWeights, KvDestination, KvPages, OwnKv, QueryRows, RopeTables,
    Strided, StridedMut, TokenSpan, WriteKv, write_kv,
};
use sidereal::device::cpu::{Isa, Pool};
use sidereal::device::{Dtype, KvShape, Mask, OwnShape};
use support::{cpu_seconds, peak};

/// What a case computes.
#[derive(Clone, Copy)]
enum Kind {
    /// A whole prompt; every token sees every token, with a relative bias.
    Encoder,
    /// A whole prompt, causal.
    Causal,
    /// Norm, rotation and KV write of a whole prompt's queries, keys and values.
    Write,
    /// So many beams against the prompt and three own tokens.
    Beams(usize),
}

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    kind: Kind,
    tokens: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

const PAGE: usize = 64;
/// The step being decoded: beams see steps 0, 1 and 2.
const STEP: usize = 2;

const fn case(name: &'static str, kind: Kind, tokens: usize, shape: [usize; 3]) -> Case {
    Case { name, kind, tokens, heads: shape[0], kv_heads: shape[1], head_dim: shape[2] }
}

const CASES: [Case; 12] = [
    case("encoder-1024-12x64", Kind::Encoder, 1024, [12, 12, 64]),
    case("encoder-4096-12x64", Kind::Encoder, 4096, [12, 12, 64]),
    case("causal-1024-16/8x128", Kind::Causal, 1024, [16, 8, 128]),
    case("causal-4096-16/8x128", Kind::Causal, 4096, [16, 8, 128]),
    case("causal-1024-8/4x64", Kind::Causal, 1024, [8, 4, 64]),
    case("beams-128-1024-12x64", Kind::Beams(128), 1024, [12, 12, 64]),
    case("beams-512-1024-12x64", Kind::Beams(512), 1024, [12, 12, 64]),
    case("beams-128-4096-12x64", Kind::Beams(128), 4096, [12, 12, 64]),
    case("beams-512-4096-16/8x128", Kind::Beams(512), 4096, [16, 8, 128]),
    case("beams-1-4096-12x64", Kind::Beams(1), 4096, [12, 12, 64]),
    case("write-1024-16/8x128", Kind::Write, 1024, [16, 8, 128]),
    case("write-1024-12x64", Kind::Write, 1024, [12, 12, 64]),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse::<usize>().ok()
    };
    let smoke = !arguments.iter().any(|argument| argument == "--bench");
    let threads = number("--threads").unwrap_or(1);
    let runs = if smoke { 1 } else { number("--runs").unwrap_or(7) };
    let mut filters = Vec::new();
    let mut skip = false;
    for argument in &arguments {
        match (std::mem::take(&mut skip), argument.as_str()) {
            (false, "--threads" | "--runs") => skip = true,
            (false, text) if !text.starts_with('-') => filters.push(text),
            _ => {}
        }
    }
    let pool = Pool::new(threads);
    if !smoke {
        println!("{threads} thread(s), median of {runs} runs (fastest in brackets)");
    }
    for case in CASES {
        for (isa, dtype) in kernels() {
            let name = format!("{}/{}/{}", case.name, isa.name(), dtype.name());
            if filters.iter().all(|filter| name.contains(filter)) {
                measure(&name, &shrink(case, smoke), isa, dtype, &pool, runs, smoke);
            }
        }
    }
}

/// Kernels of this machine; the plain path is not timed.
fn kernels() -> Vec<(Isa, Dtype)> {
    let all = [
        (Isa::Avx2, Dtype::F32),
        (Isa::Avx2, Dtype::Bf16),
        (Isa::Avx512, Dtype::F32),
        (Isa::Avx512, Dtype::Bf16),
        (Isa::Avx512Bf16, Dtype::Bf16),
    ];
    all.into_iter().filter(|(isa, _)| isa.is_available()).collect()
}

fn shrink(case: Case, smoke: bool) -> Case {
    if !smoke {
        return case;
    }
    let kind = if let Kind::Beams(beams) = case.kind { Kind::Beams(beams.min(13)) } else { case.kind };
    Case { tokens: 150, kind, ..case }
}

/// Inputs and results of a case.
struct Data {
    kv: KvPages,
    pages: Vec<u32>,
    own: OwnKv,
    ancestors: Vec<u32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    own_keys: Vec<f32>,
    own_values: Vec<f32>,
    bias: Vec<f32>,
    query: Vec<f32>,
    query_bf16: Vec<bf16>,
    out: Vec<f32>,
    out_bf16: Vec<bf16>,
    rows: usize,
}

const MAX_DISTANCE: usize = 128;

impl Data {
    fn new(case: &Case, dtype: Dtype) -> Data {
        let mut state = 1u64;
        let mut fill = |n: usize, scale: f32| -> Vec<f32> {
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let x = ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale;
                if dtype == Dtype::Bf16 { bf16::from_f32(x).to_f32() } else { x }
            };
            (0..n).map(|_| next()).collect()
        };
        let &Case { tokens, heads, kv_heads, head_dim, .. } = case;
        let rows = if let Kind::Beams(beams) = case.kind { beams } else { tokens };
        let row = kv_heads * head_dim;
        let pages = tokens.div_ceil(PAGE);
        let shape = KvShape { layers: 1, kv_heads, head_dim, pages, page_tokens: PAGE };
        let mut kv = KvPages::new(shape, dtype).expect("memory for the benchmark");
        let table: Vec<u32> = (0..pages as u32).rev().collect();
        let (keys, values) = (fill(tokens * row, 1.0), fill(tokens * row, 1.0));
        for t in 0..tokens {
            let (key, value) = (&keys[t * row..][..row], &values[t * row..][..row]);
            kv.write(0, table[t / PAGE], t % PAGE, key, value);
        }
        let own_rows = if matches!(case.kind, Kind::Beams(_)) { rows } else { 1 };
        let shape = OwnShape { layers: 1, heads, kv_heads, head_dim, steps: STEP + 1, rows: own_rows };
        let mut own = OwnKv::new(shape, dtype).expect("memory for the benchmark");
        let (own_keys, own_values) = (fill((STEP + 1) * own_rows * row, 1.0), fill((STEP + 1) * own_rows * row, 1.0));
        for s in 0..=STEP {
            for r in 0..own_rows {
                let at = (s * own_rows + r) * row;
                own.write(0, s, r, &own_keys[at..][..row], &own_values[at..][..row]);
            }
        }
        let ancestors = (0..own_rows * (STEP + 1)).map(|i| (i * 7 % own_rows) as u32).collect();
        let query = fill(rows * heads * head_dim, 2.0 / (head_dim as f32).sqrt());
        let query_bf16 = query.iter().map(|&x| bf16::from_f32(x)).collect();
        let bias = fill(heads * (2 * MAX_DISTANCE + 1), 1.0);
        let (out, out_bf16) = (vec![0.0; query.len()], vec![bf16::ZERO; query.len()]);
        Data {
            kv,
            pages: table,
            own,
            ancestors,
            keys,
            values,
            own_keys,
            own_values,
            bias,
            query,
            query_bf16,
            out,
            out_bf16,
            rows,
        }
    }

    /// Queries stand in for their own inputs: `Write` reads f32 rows and writes the compute type.
    fn write(&mut self, case: &Case, isa: Isa, dtype: Dtype, pool: &Pool) {
        let &Case { heads, kv_heads, head_dim, .. } = case;
        let stride = heads * head_dim;
        let mut spare = std::mem::take(&mut self.out);
        let output = match dtype {
            Dtype::F32 => ComputeRowsMut::F32(StridedMut { data: &mut spare, stride }),
            Dtype::Bf16 => ComputeRowsMut::Bf16(StridedMut { data: &mut self.out_bf16, stride }),
        };
        let (cos, sin) = (&self.keys[..case.tokens * head_dim / 2], &self.values[..case.tokens * head_dim / 2]);
        let weight = &self.bias[..head_dim];
        let spans = [TokenSpan { rows: case.tokens, kv_len: case.tokens, ..TokenSpan::default() }];
        let args = WriteKv {
            query: Some(QueryRows { input: Strided { data: &self.query, stride }, output, heads, scale: 0.125 }),
            key: Strided { data: &self.keys, stride: kv_heads * head_dim },
            value: Strided { data: &self.values, stride: kv_heads * head_dim },
            head_norm: Some(HeadNormWeights { query: weight, key: weight, eps: 1e-6 }),
            rope: Some(RopeTables { cos, sin }),
            destination: KvDestination::Pages { kv: &mut self.kv, layer: 0, pages: &self.pages, spans: &spans },
        };
        write_kv(pool, isa, args);
        self.out = spare;
    }

    fn run(&mut self, case: &Case, isa: Isa, dtype: Dtype, pool: &Pool) {
        if matches!(case.kind, Kind::Write) {
            return self.write(case, isa, dtype, pool);
        }
        let stride = case.heads * case.head_dim;
        let (query, out) = match dtype {
            Dtype::F32 => (
                ComputeRows::F32(Strided { data: &self.query, stride }),
                ComputeRowsMut::F32(StridedMut { data: &mut self.out, stride }),
            ),
            Dtype::Bf16 => (
                ComputeRows::Bf16(Strided { data: &self.query_bf16, stride }),
                ComputeRowsMut::Bf16(StridedMut { data: &mut self.out_bf16, stride }),
            ),
        };
        let bias = DistanceBias { by_distance: &self.bias, max_distance: MAX_DISTANCE };
        let (kv, pages, heads) = (&self.kv, &*self.pages, case.heads);
        match case.kind {
            Kind::Encoder | Kind::Causal => {
                let spans = [TokenSpan {
                    first_row: 0,
                    rows: self.rows,
                    first_position: 0,
                    kv_len: case.tokens,
                    first_page: 0,
                }];
                let encoder = matches!(case.kind, Kind::Encoder);
                let mask = if encoder { Mask::Full } else { Mask::Causal };
                let bias = encoder.then_some(bias);
                let args = HistoryAttention { kv, layer: 0, pages, spans: &spans, heads, mask, bias, query, out };
                history_attention(pool, isa, args);
            }
            Kind::Beams(_) => {
                let spans = [BeamSpan { live: self.rows, shared_len: case.tokens, ..BeamSpan::default() }];
                let own =
                    OwnTokens { kv: &self.own, layer: 0, step: STEP, ancestors: &self.ancestors, max_steps: STEP + 1 };
                let shared = Some(SharedPages { kv, layer: 0, pages });
                let args = BeamAttention { shared, own: Some(own), spans: &spans, heads, bias: None, query, out };
                beam_attention(pool, isa, args);
            }
            Kind::Write => unreachable!("handled above"),
        }
    }

    /// Largest difference of some rows and heads to a plain evaluation.
    fn error(&self, case: &Case, dtype: Dtype) -> f64 {
        let &Case { tokens, heads, kv_heads, head_dim, .. } = case;
        let columns = kv_heads * head_dim;
        let mut worst = 0f64;
        for sample in 0..12 {
            let (row, head) = (sample * 89 % self.rows, sample * 5 % heads);
            let part = head / (heads / kv_heads) * head_dim;
            let query = &self.query[(row * heads + head) * head_dim..][..head_dim];
            let visible = if matches!(case.kind, Kind::Causal) { row + 1 } else { tokens };
            let mut keys: Vec<(&[f32], &[f32], f64)> = (0..visible)
                .map(|t| {
                    let distance = (t as isize - row as isize).clamp(-(MAX_DISTANCE as isize), MAX_DISTANCE as isize);
                    let column = (MAX_DISTANCE as isize + distance) as usize;
                    let encoder = matches!(case.kind, Kind::Encoder);
                    let bias = if encoder { self.bias[head * (2 * MAX_DISTANCE + 1) + column] } else { 0.0 };
                    let at = t * columns + part;
                    (&self.keys[at..][..head_dim], &self.values[at..][..head_dim], f64::from(bias))
                })
                .collect();
            if matches!(case.kind, Kind::Beams(_)) {
                for s in 0..=STEP {
                    let from = if s == STEP { row } else { self.ancestors[row * (STEP + 1) + s] as usize };
                    let at = (s * self.rows + from) * columns + part;
                    keys.push((&self.own_keys[at..][..head_dim], &self.own_values[at..][..head_dim], 0.0));
                }
            }
            let dot = |key: &[f32]| key.iter().zip(query).map(|(&k, &q)| f64::from(k) * f64::from(q)).sum::<f64>();
            let weights: Vec<f64> = keys.iter().map(|(key, _, bias)| (dot(key) + bias).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for d in 0..head_dim {
                let want: f64 = keys.iter().zip(&weights).map(|(key, w)| w / sum * f64::from(key.1[d])).sum();
                let at = (row * heads + head) * head_dim + d;
                let got = if dtype == Dtype::F32 { self.out[at] } else { self.out_bf16[at].to_f32() };
                worst = worst.max((f64::from(got) - want).abs());
            }
        }
        worst
    }
}

fn measure(name: &str, case: &Case, isa: Isa, dtype: Dtype, pool: &Pool, runs: usize, smoke: bool) {
    let mut data = Data::new(case, dtype);
    data.run(case, isa, dtype, pool);
    if matches!(case.kind, Kind::Write) {
        return measure_write(name, case, (isa, dtype), data, pool, runs, smoke);
    }
    let error = data.error(case, dtype);
    let limit = if dtype == Dtype::F32 { 1e-5 } else { 4e-3 };
    assert!(error <= limit, "{name}: off by {error:.1e}, more than {limit:.1e}");
    if smoke {
        println!("{name}: off by {error:.1e}");
        return;
    }
    let pairs = match case.kind {
        Kind::Encoder => case.tokens * case.tokens,
        Kind::Causal => case.tokens * (case.tokens + 1) / 2,
        Kind::Beams(beams) => beams * (case.tokens + STEP + 1),
        Kind::Write => unreachable!("measured elsewhere"),
    };
    let flops = (4 * pairs * case.heads * case.head_dim) as f64;
    // Short operations are repeated, so that a run takes some milliseconds.
    let repeats = (2e9 / flops).ceil() as usize;
    let mut seconds: Vec<f64> = Vec::new();
    for _ in 0..runs {
        let start = Clock::start(pool);
        for _ in 0..repeats {
            data.run(case, isa, dtype, pool);
        }
        seconds.push(start.seconds() / repeats as f64);
    }
    seconds.sort_by(f64::total_cmp);
    let rate = |seconds: f64| flops / seconds / 1e9;
    let (median, best) = (rate(seconds[runs / 2]), rate(seconds[0]));
    let peak = peak(isa, dtype) * pool.threads() as f64;
    println!(
        "{name:<44} {:9.3} ms  {median:6.1} GFLOP/s  {:4.1}% of {peak:.0}   [{best:.1}, {:.1}%]   off by {error:.0e}",
        seconds[runs / 2] * 1e3,
        100.0 * median / peak,
        100.0 * best / peak,
    );
}

/// `Write` is bound by memory: GB/s of what it must read and write. Its answers are checked by the library's tests.
fn measure_write(
    name: &str,
    case: &Case,
    (isa, dtype): (Isa, Dtype),
    mut data: Data,
    pool: &Pool,
    runs: usize,
    smoke: bool,
) {
    let bytes = case.tokens * (case.heads + 2 * case.kv_heads) * case.head_dim * (4 + dtype.bytes());
    let mut seconds = Vec::new();
    for _ in 0..runs {
        let start = Clock::start(pool);
        for _ in 0..10 {
            data.run(case, isa, dtype, pool);
        }
        seconds.push(start.seconds() / 10.0);
    }
    seconds.sort_by(f64::total_cmp);
    if !smoke {
        let rate = |seconds: f64| bytes as f64 / seconds / 1e9;
        let median = seconds[runs / 2];
        println!("{name:<44} {:9.3} ms  {:6.1} GB/s   [{:.1}]", median * 1e3, rate(median), rate(seconds[0]));
    }
}

/// Wall time, or the calling thread's CPU time where it does all the work.
enum Clock {
    Wall(Instant),
    Thread(f64),
}

impl Clock {
    fn start(pool: &Pool) -> Clock {
        match cpu_seconds() {
            now if pool.threads() == 1 && now.is_finite() => Clock::Thread(now),
            _ => Clock::Wall(Instant::now()),
        }
    }

    fn seconds(&self) -> f64 {
        match self {
            Clock::Wall(start) => start.elapsed().as_secs_f64(),
            Clock::Thread(start) => cpu_seconds() - start,
        }
    }
}
