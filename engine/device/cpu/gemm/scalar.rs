//! The plain path: the oracle. One sum an element, from its bias on in the order of k, a product and an addition each; then the epilogue as
//! its definition reads.

use std::ops::Range;

use half::bf16;

use super::output::Elements;
use super::packed::{HALF, PANEL};
use super::{Elems, Job};
use crate::device::{Activation, Epilogue};

/// Computes a block of the product.
///
/// # Safety
/// The job's output covers the block, and no other thread touches that part of it.
pub(super) unsafe fn block(job: &Job<'_>, rows: Range<usize>, columns: Range<usize>) {
    let width = job.packed.panel_columns();
    for panel in columns.start / width..columns.end.div_ceil(width) {
        let first = columns.start.max(panel * width);
        let last = columns.end.min((panel + 1) * width);
        for row in rows.clone() {
            let sums = panel_sums(job, row, panel);
            for column in first..last {
                let sum = sums[column - panel * width];
                let up = sums.get(HALF + column - panel * width);
                // SAFETY: the caller vouches for this element.
                unsafe {
                    match job.out.at(row, column).0 {
                        Elements::F32(out) => *out = finish(job.epilogue, sum, up, *out),
                        Elements::Bf16(out) => *out = bf16::from_f32(finish(job.epilogue, sum, up, 0.0)),
                    }
                }
            }
        }
    }
}

/// One row's products with the columns of a panel.
fn panel_sums(job: &Job<'_>, row: usize, panel: usize) -> [f32; PANEL] {
    let mut sums = *job.packed.panel_bias(panel);
    let first = row * job.x.stride;
    let (units, _) = job.packed.panel(panel).as_chunks::<PANEL>();
    match job.x.data {
        Elems::F32(data) => {
            for (&x, unit) in data[first..][..job.packed.k()].iter().zip(units) {
                for (sum, &word) in sums.iter_mut().zip(unit) {
                    *sum += x * f32::from_bits(word);
                }
            }
        }
        Elems::Bf16(data) => {
            for (pair, unit) in data[first..][..job.packed.k()].chunks(2).zip(units) {
                for (sum, &word) in sums.iter_mut().zip(unit) {
                    let [even, odd]: [bf16; 2] = bytemuck::cast(word);
                    *sum += pair[0].to_f32() * even.to_f32();
                    if let Some(x) = pair.get(1) {
                        *sum += x.to_f32() * odd.to_f32();
                    }
                }
            }
        }
    }
    sums
}

fn finish(epilogue: Epilogue, sum: f32, up: Option<&f32>, before: f32) -> f32 {
    match epilogue {
        Epilogue::Store => sum,
        Epilogue::Residual => before + sum,
        Epilogue::Activate(activation) => activate(activation, sum),
        Epilogue::Gate(activation) => activate(activation, sum) * up.expect("a gated panel has two halves"),
    }
}

/// An activation, as its definition reads.
pub(crate) fn activate(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        Activation::GeluTanh => {
            let u = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + u.tanh())
        }
        Activation::GeluErf => {
            (0.5 * f64::from(x) * (1.0 + erf(f64::from(x) * std::f64::consts::FRAC_1_SQRT_2))) as f32
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
    }
}

/// The error function in f64: its Maclaurin series, and the continued fraction of erfc where that converges faster.
pub(super) fn erf(x: f64) -> f64 {
    let t = x.abs();
    if t.is_nan() {
        return x;
    }
    let value = if t < 2.5 {
        let mut term = t;
        let mut sum = t;
        for n in 1..100 {
            term *= -t * t / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let fraction = (1..80).rev().fold(t, |below, n| t + f64::from(n) / 2.0 / below);
        1.0 - (-t * t).exp() / std::f64::consts::PI.sqrt() / fraction
    };
    value.copysign(x)
}
