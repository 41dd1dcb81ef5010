//! A transformer in f64, one sequence at a time, everything recomputed from the first token on: what the device's operations
//! must add up to. Values are rounded to the compute type where the device stores them in it.

use half::bf16;

use super::noise;
use crate::device::{Activation, Dtype};
use crate::export::TensorView;

pub(super) type Row = Vec<f64>;

/// A weight matrix `[rows, cols]`.
pub(super) struct Matrix {
    pub(super) rows: usize,
    pub(super) cols: usize,
    weights: Vec<f32>,
}

impl Matrix {
    /// Random weights that keep the size of what they multiply.
    pub(super) fn random(seed: u64, rows: usize, cols: usize) -> Matrix {
        let scale = (3.0 / cols as f32).sqrt();
        Matrix { rows, cols, weights: noise(seed, rows * cols).iter().map(|w| w * scale).collect() }
    }

    pub(super) fn zeros(rows: usize, cols: usize) -> Matrix {
        Matrix { rows, cols, weights: vec![0.0; rows * cols] }
    }

    pub(super) fn view(&self) -> TensorView {
        TensorView::owned("matrix", vec![self.rows, self.cols], self.weights.clone())
    }

    pub(super) fn row(&self, row: usize) -> Row {
        self.weights[row * self.cols..][..self.cols].iter().map(|&w| f64::from(w)).collect()
    }

    pub(super) fn apply(&self, compute: Dtype, x: &[f64]) -> Row {
        assert_eq!(x.len(), self.cols);
        let dot = |row: &[f32]| row.iter().zip(x).map(|(&w, &x)| round(compute, f64::from(w)) * x).sum();
        self.weights.chunks(self.cols).map(dot).collect()
    }
}

/// Rounds to the compute type.
pub(super) fn round(compute: Dtype, x: f64) -> f64 {
    match compute {
        Dtype::F32 => x,
        Dtype::Bf16 => bf16::from_f64(x).to_f64(),
    }
}

pub(super) fn round_row(compute: Dtype, x: Row) -> Row {
    x.into_iter().map(|x| round(compute, x)).collect()
}

pub(super) fn norm(x: &[f64], weight: &[f32], eps: f64) -> Row {
    let factor = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + eps).sqrt();
    x.iter().zip(weight).map(|(x, &w)| x * factor * f64::from(w)).collect()
}

pub(super) fn add(to: &mut [f64], x: &[f64]) {
    to.iter_mut().zip(x).for_each(|(to, x)| *to += x);
}

pub(super) fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Relu => x.max(0.0),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
        Activation::GeluErf => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        Activation::Silu => x / (1.0 + (-x).exp()),
    }
}

/// The error function by its Maclaurin series; exact enough for |x| < 5.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

/// Rotates each head by `position`, halves against each other.
pub(super) fn rotate(x: &mut [f64], head_dim: usize, position: usize, cos: &[f32], sin: &[f32]) {
    let half = head_dim / 2;
    for head in x.chunks_mut(head_dim) {
        for i in 0..half {
            let (cos, sin) = (f64::from(cos[position * half + i]), f64::from(sin[position * half + i]));
            let (a, b) = (head[i], head[half + i]);
            (head[i], head[half + i]) = (a * cos - b * sin, b * cos + a * sin);
        }
    }
}

/// Attention of one query row over all given keys; `bias(head, key)` is added to the scores.
pub(super) fn attend(
    query: &[f64],
    keys: &[Row],
    values: &[Row],
    head_dim: usize,
    bias: impl Fn(usize, usize) -> f64,
) -> Row {
    let (heads, kv_heads) = (query.len() / head_dim, keys[0].len() / head_dim);
    let mut out = Vec::new();
    for head in 0..heads {
        let query = &query[head * head_dim..][..head_dim];
        let place = head / (heads / kv_heads) * head_dim;
        let dot = |key: &Row| key[place..place + head_dim].iter().zip(query).map(|(k, q)| k * q).sum::<f64>();
        let scores: Row = keys.iter().enumerate().map(|(index, key)| dot(key) + bias(head, index)).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Row = scores.iter().map(|score| (score - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for d in place..place + head_dim {
            out.push(weights.iter().zip(values).map(|(weight, value)| weight * value[d]).sum::<f64>() / sum);
        }
    }
    out
}
