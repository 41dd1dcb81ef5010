//! Seeded inputs, the operations on them, and the naive answer.

use half::bf16;

use super::super::{BeamAttention, DistanceBias, HistoryAttention, OwnTokens, SharedPages};
use super::super::{beam_attention, history_attention};
use crate::device::cpu::kv::{BeamSpan, ComputeRows, ComputeRowsMut, KvPages, OwnKv, Strided, StridedMut, TokenSpan};
use crate::device::cpu::{Isa, Pool};
use crate::device::{Dtype, KvShape, Mask, OwnShape};

/// A small generator (SplitMix64): tests need repeatable values, not good ones.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Uniform in -1 .. 1.
    pub fn value(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// A value as the device stores it.
pub fn stored(dtype: Dtype, x: f32) -> f32 {
    match dtype {
        Dtype::F32 => x,
        Dtype::Bf16 => bf16::from_f32(x).to_f32(),
    }
}

/// A matrix in the compute type. Columns beyond the used ones and rows that nothing writes keep their first value.
#[derive(Clone)]
pub enum Matrix {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

impl Matrix {
    pub fn new(dtype: Dtype, values: &[f32]) -> Matrix {
        match dtype {
            Dtype::F32 => Matrix::F32(values.to_vec()),
            Dtype::Bf16 => Matrix::Bf16(values.iter().map(|&x| bf16::from_f32(x)).collect()),
        }
    }

    pub fn rows(&self, stride: usize) -> ComputeRows<'_> {
        match self {
            Matrix::F32(data) => ComputeRows::F32(Strided { data, stride }),
            Matrix::Bf16(data) => ComputeRows::Bf16(Strided { data, stride }),
        }
    }

    pub fn rows_mut(&mut self, stride: usize) -> ComputeRowsMut<'_> {
        match self {
            Matrix::F32(data) => ComputeRowsMut::F32(StridedMut { data, stride }),
            Matrix::Bf16(data) => ComputeRowsMut::Bf16(StridedMut { data, stride }),
        }
    }

    pub fn values(&self) -> Vec<f32> {
        match self {
            Matrix::F32(data) => data.clone(),
            Matrix::Bf16(data) => data.iter().map(|x| x.to_f32()).collect(),
        }
    }
}

/// Heads and pages of a test.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub page_tokens: usize,
}

impl Heads {
    pub fn columns(&self) -> usize {
        self.heads * self.head_dim
    }
}

/// Keys and values of sequences, with the pool that holds them: scattered pages, NaN wherever no valid token is.
pub struct Sequences {
    pub kv: KvPages,
    pub layer: usize,
    pub pages: Vec<u32>,
    pub first_page: Vec<usize>,
    /// For each sequence and token: key and value of all KV heads, as stored.
    pub tokens: Vec<Vec<(Vec<f32>, Vec<f32>)>>,
}

impl Sequences {
    pub fn new(random: &mut Random, heads: Heads, dtype: Dtype, lengths: &[usize]) -> Sequences {
        let tables: Vec<usize> = lengths.iter().map(|&len| len.div_ceil(heads.page_tokens)).collect();
        let count = tables.iter().sum::<usize>() + 3;
        let Heads { kv_heads, head_dim, page_tokens, .. } = heads;
        let shape = KvShape { layers: 2, kv_heads, head_dim, pages: count, page_tokens };
        let (layer, row) = (1, kv_heads * head_dim);
        let mut kv = KvPages::new(shape, dtype).expect("a small pool");
        for page in 0..count as u32 {
            for offset in 0..page_tokens {
                for layer in 0..2 {
                    kv.write(layer, page, offset, &vec![f32::NAN; row], &vec![f32::NAN; row]);
                }
            }
        }
        let mut free: Vec<u32> = (0..count as u32).collect();
        random.shuffle(&mut free);
        let (mut pages, mut first_page, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
        for (&len, &table) in lengths.iter().zip(&tables) {
            first_page.push(pages.len());
            pages.extend(free.drain(..table));
            let table = &pages[pages.len() - table..];
            tokens.push(
                (0..len)
                    .map(|position| {
                        let key: Vec<f32> = (0..row).map(|_| stored(dtype, random.value())).collect();
                        let value: Vec<f32> = (0..row).map(|_| stored(dtype, random.value())).collect();
                        kv.write(layer, table[position / page_tokens], position % page_tokens, &key, &value);
                        (key, value)
                    })
                    .collect(),
            );
        }
        Sequences { kv, layer, pages, first_page, tokens }
    }
}

/// A bias table, `[heads, 2 * max_distance + 1]`.
pub struct Bias {
    pub table: Vec<f32>,
    pub max_distance: usize,
}

impl Bias {
    pub fn new(random: &mut Random, heads: usize, max_distance: usize) -> Bias {
        let table = random.values(heads * (2 * max_distance + 1)).iter().map(|x| 3.0 * x).collect();
        Bias { table, max_distance }
    }

    pub fn borrow(&self) -> DistanceBias<'_> {
        DistanceBias { by_distance: &self.table, max_distance: self.max_distance }
    }

    fn at(&self, head: usize, distance: i64) -> f64 {
        let max = self.max_distance as i64;
        f64::from(self.table[head * (2 * self.max_distance + 1) + (max + distance.clamp(-max, max)) as usize])
    }
}

/// One key as the naive evaluation sees it: key, value, distance from the query.
type Key<'a> = (&'a [f32], &'a [f32], i64);

/// Softmax attention of one row and head, in f64.
pub fn naive(query: &[f32], keys: &[Key<'_>], bias: Option<(&Bias, usize)>) -> Vec<f64> {
    let scores: Vec<f64> = keys
        .iter()
        .map(|(key, _, distance)| {
            let dot: f64 = key.iter().zip(query).map(|(&k, &q)| f64::from(k) * f64::from(q)).sum();
            dot + bias.map_or(0.0, |(bias, head)| bias.at(head, *distance))
        })
        .collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let probabilities: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
    let sum: f64 = probabilities.iter().sum();
    (0..query.len())
        .map(|d| probabilities.iter().zip(keys).map(|(p, (_, value, _))| p / sum * f64::from(value[d])).sum())
        .collect()
}

/// Token rows against their sequences.
pub struct History {
    pub heads: Heads,
    pub dtype: Dtype,
    pub sequences: Sequences,
    pub spans: Vec<TokenSpan>,
    pub mask: Mask,
    pub bias: Option<Bias>,
    pub query: Vec<f32>,
    pub stride: usize,
}

/// One span of a [`History`]: rows, first position, valid keys.
pub type SpanShape = (usize, usize, usize);

impl History {
    pub fn new(seed: u64, heads: Heads, dtype: Dtype, shapes: &[SpanShape], mask: Mask, max: Option<usize>) -> History {
        let mut random = Random(seed);
        let lengths: Vec<usize> = shapes.iter().map(|shape| shape.2).collect();
        let sequences = Sequences::new(&mut random, heads, dtype, &lengths);
        let mut first_row = 1;
        let spans = shapes.iter().zip(&sequences.first_page).map(|(&(rows, first_position, kv_len), &first_page)| {
            let span = TokenSpan { first_row, rows, first_position, kv_len, first_page };
            first_row += rows;
            span
        });
        let spans: Vec<TokenSpan> = spans.collect();
        let stride = heads.columns() + 3;
        let query = (0..first_row * stride).map(|_| stored(dtype, 2.0 * random.value())).collect();
        let bias = max.map(|max| Bias::new(&mut random, heads.heads, max));
        History { heads, dtype, sequences, spans, mask, bias, query, stride }
    }

    pub fn run(&self, isa: Isa, threads: usize, spans: &[TokenSpan]) -> Vec<f32> {
        let query = Matrix::new(self.dtype, &self.query);
        let mut out = Matrix::new(self.dtype, &vec![f32::NAN; self.query.len()]);
        let args = HistoryAttention {
            kv: &self.sequences.kv,
            layer: self.sequences.layer,
            pages: &self.sequences.pages,
            spans,
            heads: self.heads.heads,
            mask: self.mask,
            bias: self.bias.as_ref().map(Bias::borrow),
            query: query.rows(self.stride),
            out: out.rows_mut(self.stride),
        };
        history_attention(&Pool::new(threads), isa, args);
        out.values()
    }

    /// The naive answer of row `i` of span `span`, `[heads * head_dim]`.
    pub fn expected(&self, span: usize, i: usize) -> Vec<f64> {
        let Heads { heads, kv_heads, head_dim, .. } = self.heads;
        let TokenSpan { first_row, first_position, kv_len, .. } = self.spans[span];
        let position = first_position + i;
        let visible = if self.mask == Mask::Causal { kv_len.min(position + 1) } else { kv_len };
        let row = &self.query[(first_row + i) * self.stride..];
        (0..heads)
            .flat_map(|head| {
                let part = head / (heads / kv_heads) * head_dim;
                let keys: Vec<Key<'_>> = self.sequences.tokens[span][..visible]
                    .iter()
                    .enumerate()
                    .map(|(at, (key, value))| {
                        (&key[part..][..head_dim], &value[part..][..head_dim], at as i64 - position as i64)
                    })
                    .collect();
                naive(&row[head * head_dim..][..head_dim], &keys, self.bias.as_ref().map(|bias| (bias, head)))
            })
            .collect()
    }
}

/// Beam rows against shared pages and own tokens.
pub struct Beams {
    pub heads: Heads,
    pub dtype: Dtype,
    pub shared: Option<Sequences>,
    pub own: Option<Own>,
    pub spans: Vec<BeamSpan>,
    pub bias: Option<Bias>,
    pub query: Vec<f32>,
    pub stride: usize,
}

/// Own tokens of a [`Beams`].
pub struct Own {
    kv: OwnKv,
    layer: usize,
    step: usize,
    max_steps: usize,
    pub ancestors: Vec<u32>,
    /// `[step][row]`: key and value.
    tokens: Vec<Vec<(Vec<f32>, Vec<f32>)>>,
}

/// One request of a [`Beams`]: beam width, live beams, shared tokens.
pub type RequestShape = (usize, usize, usize);

impl Beams {
    pub fn new(
        seed: u64,
        heads: Heads,
        dtype: Dtype,
        requests: &[RequestShape],
        shared: bool,
        step: Option<usize>,
        max: Option<usize>,
    ) -> Beams {
        let mut random = Random(seed);
        let lengths: Vec<usize> = requests.iter().map(|request| request.2).collect();
        let shared = shared.then(|| Sequences::new(&mut random, heads, dtype, &lengths));
        let mut rows = 0;
        let spans = requests.iter().enumerate().map(|(index, &(width, live, shared_len))| {
            let first_page = shared.as_ref().map_or(0, |shared| shared.first_page[index]);
            let span = BeamSpan { first_row: rows, live, shared_len, first_page, own_position: 0 };
            rows += width;
            span
        });
        let spans: Vec<BeamSpan> = spans.collect();
        let own = step.map(|step| Own::new(&mut random, heads, dtype, requests, step));
        let stride = heads.columns() + 1;
        let query = (0..rows * stride).map(|_| stored(dtype, 2.0 * random.value())).collect();
        let bias = max.map(|max| Bias::new(&mut random, heads.heads, max));
        Beams { heads, dtype, shared, own, spans, bias, query, stride }
    }

    pub fn run(&self, isa: Isa, threads: usize, spans: &[BeamSpan]) -> Vec<f32> {
        let query = Matrix::new(self.dtype, &self.query);
        let mut out = Matrix::new(self.dtype, &vec![f32::NAN; self.query.len()]);
        let args = BeamAttention {
            shared: self.shared.as_ref().map(|s| SharedPages { kv: &s.kv, layer: s.layer, pages: &s.pages }),
            own: self.own.as_ref().map(|own| OwnTokens {
                kv: &own.kv,
                layer: own.layer,
                step: own.step,
                ancestors: &own.ancestors,
                max_steps: own.max_steps,
            }),
            spans,
            heads: self.heads.heads,
            bias: self.bias.as_ref().map(Bias::borrow),
            query: query.rows(self.stride),
            out: out.rows_mut(self.stride),
        };
        beam_attention(&Pool::new(threads), isa, args);
        out.values()
    }

    /// The naive answer of beam `i` of request `request`, `[heads * head_dim]`.
    pub fn expected(&self, request: usize, i: usize) -> Vec<f64> {
        let Heads { heads, kv_heads, head_dim, .. } = self.heads;
        let span = self.spans[request];
        let row = span.first_row + i;
        let step = self.own.as_ref().map_or(0, |own| own.step);
        let position = (span.shared_len + step) as i64;
        (0..heads)
            .flat_map(|head| {
                let part = head / (heads / kv_heads) * head_dim;
                let mut keys: Vec<Key<'_>> = Vec::new();
                if let Some(shared) = &self.shared {
                    for (at, (key, value)) in shared.tokens[request].iter().enumerate() {
                        keys.push((&key[part..][..head_dim], &value[part..][..head_dim], at as i64 - position));
                    }
                }
                if let Some(own) = &self.own {
                    for s in 0..=step {
                        let from = if s == step { row } else { own.ancestors[row * own.max_steps + s] as usize };
                        let (key, value) = &own.tokens[s][from];
                        keys.push((&key[part..][..head_dim], &value[part..][..head_dim], s as i64 - step as i64));
                    }
                }
                let query = &self.query[row * self.stride + head * head_dim..][..head_dim];
                naive(query, &keys, self.bias.as_ref().map(|bias| (bias, head)))
            })
            .collect()
    }
}

impl Own {
    fn new(random: &mut Random, heads: Heads, dtype: Dtype, requests: &[RequestShape], step: usize) -> Own {
        let Heads { kv_heads, head_dim, .. } = heads;
        let rows: usize = requests.iter().map(|request| request.0).sum();
        let (layer, max_steps, columns) = (1, step + 2, kv_heads * head_dim);
        let shape = OwnShape { layers: 2, heads: kv_heads, kv_heads, head_dim, steps: max_steps, rows };
        let mut kv = OwnKv::new(shape, dtype).expect("a small slab");
        let mut tokens = Vec::new();
        for s in 0..max_steps {
            let mut of_step = Vec::new();
            for row in 0..rows {
                let draw = |random: &mut Random| -> Vec<f32> {
                    (0..columns).map(|_| if s > step { f32::NAN } else { stored(dtype, random.value()) }).collect()
                };
                let (key, value) = (draw(random), draw(random));
                kv.write(layer, s, row, &key, &value);
                of_step.push((key, value));
            }
            tokens.push(of_step);
        }
        // Any row of the same request may be an ancestor; entries from `step` on must not be read.
        let mut ancestors = Vec::new();
        let mut first_row = 0;
        for &(width, _, _) in requests {
            for _ in 0..width {
                ancestors.extend(
                    (0..max_steps).map(|s| if s < step { (first_row + random.below(width)) as u32 } else { u32::MAX }),
                );
            }
            first_row += width;
        }
        Own { kv, layer, step, max_steps, ancestors, tokens }
    }
}

/// Largest difference between a result row and the naive answer.
pub fn distance(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    got.iter()
        .zip(expected)
        .map(|(&got, &want)| if got.is_finite() { (f64::from(got) - want).abs() } else { f64::INFINITY })
        .fold(0.0, f64::max)
}
