//! Operations on rows alone: embedding, RMS norm, copies between buffers.

use std::ops::Range;

use super::pool::Pool;
use super::store::{Element, Parts};
use super::{Isa, reduce};
use crate::export::TensorView;

/// Elements that are worth a task of their own.
const TASK_ELEMENTS: usize = 16 * 1024;

/// Runs `task(row)` for every row of `ranges`, in tasks of a useful size.
pub(super) fn for_each_row(pool: &Pool, ranges: &[Range<usize>], cols: usize, task: impl Fn(usize) + Sync) {
    let chunk = (TASK_ELEMENTS / cols.max(1)).max(1);
    for range in ranges {
        pool.run(range.len().div_ceil(chunk), |index| {
            let start = range.start + index * chunk;
            (start..(start + chunk).min(range.end)).for_each(&task);
        });
    }
}

/// A matrix to write: elements from the first on, rows `stride` apart.
pub(super) struct Out<'a, T> {
    pub(super) data: &'a mut [T],
    pub(super) stride: usize,
}

/// `out[row] = table[tokens[row]]`. The tokens are in range.
pub(super) fn embed(pool: &Pool, ranges: &[Range<usize>], table: &TensorView, tokens: &[u32], out: Out<f32>) {
    let (cols, stride) = (table.cols(), out.stride);
    let parts = Parts::new(out.data);
    for_each_row(pool, ranges, cols, |row| {
        // SAFETY: `for_each_row` visits a row once, and a row's columns lie within its stride.
        let values = unsafe { parts.range(row * stride..row * stride + cols) };
        table.read_row(tokens[row] as usize, values);
    });
}

/// `out[row] += table[position(row)]`. The positions are in range.
pub(super) fn add_positions(
    pool: &Pool,
    ranges: &[Range<usize>],
    table: &TensorView,
    position: impl Fn(usize) -> usize + Sync,
    out: Out<f32>,
) {
    let (cols, stride) = (table.cols(), out.stride);
    let parts = Parts::new(out.data);
    for_each_row(pool, ranges, cols, |row| {
        // SAFETY: `for_each_row` visits a row once, and a row's columns lie within its stride.
        let values = unsafe { parts.range(row * stride..row * stride + cols) };
        table.add_row(position(row), values);
    });
}

/// `out[row] = values[row]`: input vectors, `[rows, columns of the output]`.
pub(super) fn copy_dense<T: Element>(pool: &Pool, ranges: &[Range<usize>], values: &[f32], out: Out<T>) {
    let rows = ranges.last().map_or(0, |range| range.end);
    let (cols, stride) = (values.len() / rows.max(1), out.stride);
    let parts = Parts::new(out.data);
    for_each_row(pool, ranges, cols, |row| {
        // SAFETY: `for_each_row` visits a row once, and a row's columns lie within its stride.
        let target = unsafe { parts.range(row * stride..row * stride + cols) };
        for (to, from) in target.iter_mut().zip(&values[row * cols..][..cols]) {
            *to = T::from_f32(*from);
        }
    });
}

/// What an RMS norm reads.
#[derive(Clone, Copy)]
pub(super) struct Norm<'a> {
    pub(super) x: &'a [f32],
    pub(super) stride: usize,
    pub(super) weight: &'a [f32],
    pub(super) eps: f32,
}

/// `out = x * rsqrt(mean(x^2) + eps) * weight`.
pub(super) fn norm<T: Element>(isa: Isa, pool: &Pool, ranges: &[Range<usize>], norm: Norm, out: Out<T>) {
    let (cols, stride) = (norm.weight.len(), out.stride);
    let parts = Parts::new(out.data);
    for_each_row(pool, ranges, cols, |row| {
        let x = &norm.x[row * norm.stride..][..cols];
        // SAFETY: `for_each_row` visits a row once, and a row's columns lie within its stride.
        let values = unsafe { parts.range(row * stride..row * stride + cols) };
        norm_row(isa, x, norm.weight, norm.eps, values);
    });
}

fn norm_row<T: Element>(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [T]) {
    let inverse = 1.0 / (reduce::sum_squares(isa, x) / x.len() as f32 + eps).sqrt();
    for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
        *out = T::from_f32(x * inverse * weight);
    }
}
