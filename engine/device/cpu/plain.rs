//! Plain loops for matrix products, KV and attention: obviously right, not fast.

use std::ops::Range;

use half::bf16;

use super::Isa;
use super::lanes::{CohortState, TokenState};
use super::pool::Pool;
use super::store::Parts;
use crate::device::{
    Activation, DeviceError, Dtype, Epilogue, KvShape, Mask, OwnShape, RelativeBiasSource, RopeSource, Segment,
    SlotState,
};

/// A matrix to read: elements from the first on, rows `stride` apart.
#[derive(Clone, Copy)]
pub(super) enum MatrixRef<'a> {
    F32(&'a [f32], usize),
    Bf16(&'a [bf16], usize),
}

impl MatrixRef<'_> {
    pub(super) fn row(&self, row: usize, cols: usize) -> Vec<f32> {
        match self {
            MatrixRef::F32(data, stride) => data[row * stride..][..cols].to_vec(),
            MatrixRef::Bf16(data, stride) => data[row * stride..][..cols].iter().map(|x| x.to_f32()).collect(),
        }
    }
}

/// A matrix to write.
pub(super) enum MatrixMut<'a> {
    F32(&'a mut [f32], usize),
    Bf16(&'a mut [bf16], usize),
}

enum SharedMut<'a> {
    F32(Parts<'a, f32>, usize),
    Bf16(Parts<'a, bf16>, usize),
}

impl<'a> MatrixMut<'a> {
    pub(super) fn set_row(self, row: usize, values: &[f32]) {
        // SAFETY: one thread holds the matrix.
        unsafe { self.share().set_row(row, values.iter().copied(), false) }
    }

    fn share(self) -> SharedMut<'a> {
        match self {
            MatrixMut::F32(data, stride) => SharedMut::F32(Parts::new(data), stride),
            MatrixMut::Bf16(data, stride) => SharedMut::Bf16(Parts::new(data), stride),
        }
    }
}

impl SharedMut<'_> {
    /// # Safety
    /// Only one task writes `row`.
    unsafe fn set_row(&self, row: usize, values: impl ExactSizeIterator<Item = f32>, add: bool) {
        match self {
            SharedMut::F32(parts, stride) => {
                // SAFETY: the caller's promise.
                let out = unsafe { parts.range(row * stride..row * stride + values.len()) };
                out.iter_mut().zip(values).for_each(|(out, x)| *out = if add { *out + x } else { x });
            }
            SharedMut::Bf16(parts, stride) => {
                // SAFETY: the caller's promise.
                let out = unsafe { parts.range(row * stride..row * stride + values.len()) };
                out.iter_mut().zip(values).for_each(|(out, x)| *out = bf16::from_f32(x));
            }
        }
    }
}

fn rounded(value: f32, compute: Dtype) -> f32 {
    match compute {
        Dtype::F32 => value,
        Dtype::Bf16 => bf16::from_f32(value).to_f32(),
    }
}

/// A weight matrix.
pub(super) struct PackedMatrix {
    rows: usize,
    k: usize,
    data: Vec<f32>, // [rows, k]
}

impl PackedMatrix {
    pub(super) fn pack(
        _pool: &Pool,
        _isa: Isa,
        compute: Dtype,
        rows: usize,
        k: usize,
        _gated: bool,
        read_row: impl Fn(usize, &mut [f32]) + Sync,
    ) -> PackedMatrix {
        let mut data = vec![0.0; rows * k];
        for row in 0..rows {
            read_row(row, &mut data[row * k..][..k]);
        }
        data.iter_mut().for_each(|x| *x = rounded(*x, compute));
        PackedMatrix { rows, k, data }
    }

    pub(super) fn bytes(&self) -> usize {
        self.data.len() * 4
    }

    fn dot(&self, row: usize, x: &[f32]) -> f32 {
        let weight = &self.data[row * self.k..][..self.k];
        let mut sums = [0.0f32; 16];
        let (xs, ws) = (x.as_chunks::<16>(), weight.as_chunks::<16>());
        for (x, w) in xs.0.iter().zip(ws.0) {
            for lane in 0..16 {
                sums[lane] += x[lane] * w[lane];
            }
        }
        sums.iter().sum::<f32>() + xs.1.iter().zip(ws.1).map(|(x, w)| x * w).sum::<f32>()
    }
}

fn activate(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Relu => x.max(0.0),
        Activation::GeluTanh => 0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh()),
        Activation::GeluErf => {
            // Abramowitz and Stegun 7.1.26: absolute error below 1.5e-7.
            let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
            let t = 1.0 / (1.0 + 0.327_591_1 * z);
            let poly = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];
            let erf = 1.0 - poly.iter().fold(0.0, |sum, c| (sum + c) * t) * (-z * z).exp();
            0.5 * x * (1.0 + erf.copysign(x))
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
    }
}

pub(super) fn gemm(
    pool: &Pool,
    _isa: Isa,
    x: MatrixRef,
    rows: usize,
    weight: &PackedMatrix,
    out: MatrixMut,
    epilogue: Epilogue,
) {
    let out = out.share();
    pool.run(rows, |row| {
        let x = x.row(row, weight.k);
        let dot = |column| weight.dot(column, &x);
        let half = weight.rows / 2;
        // SAFETY: task `row` is the only one that writes it.
        unsafe {
            match epilogue {
                Epilogue::Store => out.set_row(row, (0..weight.rows).map(dot), false),
                Epilogue::Residual => out.set_row(row, (0..weight.rows).map(dot), true),
                Epilogue::Activate(act) => out.set_row(row, (0..weight.rows).map(|c| activate(act, dot(c))), false),
                Epilogue::Gate(act) => {
                    out.set_row(row, (0..half).map(|c| activate(act, dot(c)) * dot(half + c)), false);
                }
            }
        }
    });
}

pub(super) fn gemm_block(
    _isa: Isa,
    x: MatrixRef,
    rows: Range<usize>,
    weight: &PackedMatrix,
    columns: Range<usize>,
    out: &mut [f32],
) {
    for (row, out) in rows.zip(out.chunks_exact_mut(columns.len())) {
        let x = x.row(row, weight.k);
        out.iter_mut().zip(columns.clone()).for_each(|(out, column)| *out = weight.dot(column, &x));
    }
}

/// KV pages of one segment kind: `[layer, page, token, kv_head, dim]`.
pub(super) struct KvPages {
    pub(super) shape: KvShape,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl KvPages {
    pub(super) fn new(shape: KvShape, _compute: Dtype) -> Result<KvPages, DeviceError> {
        let len = shape.layers * shape.pages * shape.page_tokens * shape.kv_heads * shape.head_dim;
        Ok(KvPages { shape, keys: vec![0.0; len], values: vec![0.0; len] })
    }

    pub(super) fn bytes(&self) -> usize {
        self.keys.len() * 8
    }

    fn place(&self, layer: usize, pages: &[u32], position: usize) -> Range<usize> {
        let shape = &self.shape;
        let page = pages[position / shape.page_tokens] as usize;
        assert!(page < shape.pages && layer < shape.layers, "page {page}, layer {layer} of {shape:?}");
        let token = (layer * shape.pages + page) * shape.page_tokens + position % shape.page_tokens;
        let width = shape.kv_heads * shape.head_dim;
        token * width..(token + 1) * width
    }
}

/// Own tokens: `[layer, step, row, kv_head, dim]`.
pub(super) struct OwnKv {
    pub(super) shape: OwnShape,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl OwnKv {
    pub(super) fn new(shape: OwnShape, _compute: Dtype) -> Result<OwnKv, DeviceError> {
        let len = shape.layers * shape.steps * shape.rows * shape.kv_heads * shape.head_dim;
        Ok(OwnKv { shape, keys: vec![0.0; len], values: vec![0.0; len] })
    }

    pub(super) fn bytes(&self) -> usize {
        self.keys.len() * 8
    }

    fn place(&self, layer: usize, step: usize, row: usize) -> Range<usize> {
        let shape = &self.shape;
        assert!(layer < shape.layers && step < shape.steps && row < shape.rows, "{layer} {step} {row} of {shape:?}");
        let width = shape.kv_heads * shape.head_dim;
        let token = (layer * shape.steps + step) * shape.rows + row;
        token * width..(token + 1) * width
    }
}

pub(super) fn pages_of(slot: &SlotState, segment: Segment) -> (&[u32], usize) {
    match segment {
        Segment::History => (&slot.history_pages, slot.history_len as usize),
        Segment::Prefix => (&slot.prefix_pages, slot.prefix_len as usize),
    }
}

/// What `write_kv` does to a row before it is written.
#[derive(Clone, Copy)]
pub(super) struct Prepare<'a> {
    pub(super) head_dim: usize,
    pub(super) compute: Dtype,
    pub(super) query_norm: Option<(&'a [f32], f32)>,
    pub(super) key_norm: Option<(&'a [f32], f32)>,
    pub(super) rope: Option<&'a RopeSource>,
    pub(super) query_scale: f32,
}

impl Prepare<'_> {
    pub(super) fn query(&self, row: &mut [f32], position: usize) {
        self.prepare(row, self.query_norm, position);
        row.iter_mut().for_each(|x| *x = rounded(*x * self.query_scale, self.compute));
    }

    pub(super) fn key(&self, row: &mut [f32], position: usize) {
        self.prepare(row, self.key_norm, position);
        row.iter_mut().for_each(|x| *x = rounded(*x, self.compute));
    }

    fn prepare(&self, row: &mut [f32], norm: Option<(&[f32], f32)>, position: usize) {
        for head in row.chunks_exact_mut(self.head_dim) {
            if let Some((weight, eps)) = norm {
                let squares: f32 = head.iter().map(|x| x * x).sum();
                let inverse = 1.0 / (squares / self.head_dim as f32 + eps).sqrt();
                head.iter_mut().zip(weight).for_each(|(x, w)| *x = *x * inverse * w);
            }
            if let Some(rope) = self.rope {
                let half = self.head_dim / 2;
                for i in 0..half {
                    let (cos, sin) = (rope.cos[position * half + i], rope.sin[position * half + i]);
                    let (a, b) = (head[i], head[half + i]);
                    (head[i], head[half + i]) = (a * cos - b * sin, b * cos + a * sin);
                }
            }
        }
    }
}

pub(super) fn write_page(kv: &mut KvPages, layer: usize, pages: &[u32], position: usize, key: &[f32], value: &[f32]) {
    let place = kv.place(layer, pages, position);
    kv.keys[place.clone()].copy_from_slice(key);
    kv.values[place].copy_from_slice(value);
}

pub(super) fn write_own(kv: &mut OwnKv, layer: usize, step: usize, row: usize, key: &[f32], value: &[f32]) {
    let place = kv.place(layer, step, row);
    kv.keys[place.clone()].copy_from_slice(key);
    kv.values[place].copy_from_slice(value);
}

pub(super) fn round_row(row: &mut [f32], compute: Dtype) {
    row.iter_mut().for_each(|x| *x = rounded(*x, compute));
}

type Entry<'a> = (&'a [f32], &'a [f32], isize);

fn attend(
    query: &[f32],
    kv_heads: usize,
    head_dim: usize,
    entries: &[Entry],
    bias: Option<&RelativeBiasSource>,
) -> Vec<f32> {
    let heads = query.len() / head_dim;
    let mut out = vec![0.0; query.len()];
    for head in 0..heads {
        let q = &query[head * head_dim..][..head_dim];
        let kv = head / (heads / kv_heads) * head_dim;
        let score = |(key, _, distance): &Entry| {
            let dot: f32 = q.iter().zip(&key[kv..kv + head_dim]).map(|(q, k)| q * k).sum();
            dot + bias.map_or(0.0, |bias| {
                let max = bias.max_distance as isize;
                let column = max + (*distance).clamp(-max, max);
                bias.by_distance[head * (2 * bias.max_distance + 1) + column as usize]
            })
        };
        let scores: Vec<f32> = entries.iter().map(score).collect();
        let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f32> = scores.iter().map(|score| (score - max).exp()).collect();
        let sum: f32 = weights.iter().sum();
        let out = &mut out[head * head_dim..][..head_dim];
        for (weight, (_, value, _)) in weights.iter().zip(entries) {
            out.iter_mut().zip(&value[kv..]).for_each(|(out, v)| *out += weight / sum * v);
        }
    }
    out
}

#[allow(clippy::too_many_arguments)]
pub(super) fn history_attention(
    pool: &Pool,
    rows: (&[u32], &[u32]),
    slots: &[SlotState],
    query: MatrixRef,
    heads_dim: usize,
    kv: (&KvPages, usize, Segment),
    mask: Mask,
    bias: Option<&RelativeBiasSource>,
    out: MatrixMut,
) {
    let out = out.share();
    let (pages_kv, layer, segment) = kv;
    let shape = pages_kv.shape;
    pool.run(rows.0.len(), |row| {
        let position = rows.1[row] as usize;
        let (pages, len) = pages_of(&slots[rows.0[row] as usize], segment);
        let keys = if mask == Mask::Causal { len.min(position + 1) } else { len };
        let entries: Vec<Entry> = (0..keys)
            .map(|key| {
                let place = pages_kv.place(layer, pages, key);
                (&pages_kv.keys[place.clone()], &pages_kv.values[place], key as isize - position as isize)
            })
            .collect();
        let values = attend(&query.row(row, heads_dim), shape.kv_heads, shape.head_dim, &entries, bias);
        // SAFETY: task `row` is the only one that writes it.
        unsafe { out.set_row(row, values.into_iter(), false) };
    });
}

#[allow(clippy::too_many_arguments)]
pub(super) fn beam_attention(
    pool: &Pool,
    cohort: &CohortState,
    slots: &[SlotState],
    query: MatrixRef,
    heads_dim: usize,
    shared: Option<(&KvPages, usize, Segment)>,
    own: Option<(&OwnKv, usize, usize)>,
    bias: Option<&RelativeBiasSource>,
    out: MatrixMut,
) {
    let out = out.share();
    for request in &cohort.requests {
        let slot = &slots[request.slot as usize];
        let first = request.first_row as usize;
        pool.run(request.live as usize, |index| {
            let row = first + index;
            let mut entries: Vec<Entry> = Vec::new();
            let (mut kv_heads, mut head_dim) = (0, 0);
            let len = shared.map_or(0, |(_, _, segment)| pages_of(slot, segment).1);
            let step = own.map_or(cohort.chosen.saturating_sub(1), |(_, _, step)| step);
            let position = (len + step) as isize;
            if let Some((kv, layer, segment)) = shared {
                (kv_heads, head_dim) = (kv.shape.kv_heads, kv.shape.head_dim);
                let (pages, len) = pages_of(slot, segment);
                entries.extend((0..len).map(|key| {
                    let place = kv.place(layer, pages, key);
                    (&kv.keys[place.clone()], &kv.values[place], key as isize - position)
                }));
            }
            if let Some((kv, layer, step)) = own {
                (kv_heads, head_dim) = (kv.shape.kv_heads, kv.shape.head_dim);
                entries.extend((0..=step).map(|own| {
                    let at = cohort.now.ancestors[row * cohort.steps + own] as usize;
                    let place = kv.place(layer, own, at);
                    (&kv.keys[place.clone()], &kv.values[place], (len + own) as isize - position)
                }));
            }
            let values = attend(&query.row(row, heads_dim), kv_heads, head_dim, &entries, bias);
            // SAFETY: task `row` is the only one that writes it.
            unsafe { out.set_row(row, values.into_iter(), false) };
        });
    }
}

/// A token row's slot and position, for operations over a whole batch or over its last rows.
pub(super) fn token_rows(state: &TokenState, last: bool) -> (&[u32], &[u32]) {
    if last { (&state.last_slots, &state.last_positions) } else { (&state.slots, &state.positions) }
}
