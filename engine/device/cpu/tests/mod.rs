//! The device's operations together, against evaluations in f64.

mod chain;
mod decoder_only;
mod encoder_decoder;
mod experts;
mod head;
mod lists;
mod naive;
mod rows;
mod sampling;
mod search;

use half::bf16;

use super::{CpuDevice, Isa};
use crate::device::{CohortPlan, Dtype, SlotPlan, Tensor};

/// Instruction sets of this machine.
fn sets() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// Every instruction set with both compute types.
fn devices(threads: usize) -> impl Iterator<Item = CpuDevice> {
    let both = move |isa| [Dtype::F32, Dtype::Bf16].map(|compute| CpuDevice::new(isa, compute, threads).unwrap());
    sets().flat_map(both)
}

/// Room for what these tests hold.
fn slot_plan(slots: usize) -> SlotPlan {
    SlotPlan { slots, history_pages: 16, prefix_pages: 1 }
}

/// Room for a cohort of any requests that fit `rows`.
fn cohort_plan(rows: usize, steps: usize) -> CohortPlan {
    CohortPlan { rows, steps, requests: rows, banned_nodes: 1 << 16, lists: None }
}

/// Overwrites a row's first columns.
fn write(device: &mut CpuDevice, tensor: Tensor, row: usize, values: &[f32]) {
    let view = tensor.columns(0, values.len());
    device.store.write("test", view).set_row(view, row, values);
}

/// A row, widened.
fn read(device: &CpuDevice, tensor: Tensor, row: usize) -> Vec<f32> {
    device.store.read("test", tensor).row(tensor, row)
}

/// What a value becomes in the compute type.
fn rounded(compute: Dtype, value: f32) -> f32 {
    match compute {
        Dtype::F32 => value,
        Dtype::Bf16 => bf16::from_f32(value).to_f32(),
    }
}

/// Numbers between -1 and 1, the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len + 4).map(|_| next()).skip(4).collect()
}

/// `len` numbers agree to within `tolerance`.
fn assert_close(what: &str, actual: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (index, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(actual) - expected).abs();
        assert!(error <= tolerance, "{what}: element {index} is {actual} and not {expected}");
    }
}
