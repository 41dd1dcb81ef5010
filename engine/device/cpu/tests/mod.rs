//! The device's operations together, against evaluations in f64.

mod chain;
mod decoder_only;
mod encoder_decoder;
mod head;
mod naive;
mod rows;
mod search;

use half::bf16;

use super::{CpuDevice, Isa};
use crate::device::{Dtype, Tensor};

/// Instruction sets of this machine.
fn sets() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// Every instruction set with both compute types.
fn devices(threads: usize) -> impl Iterator<Item = CpuDevice> {
    let both = move |isa| [Dtype::F32, Dtype::Bf16].map(|compute| CpuDevice::new(isa, compute, threads).unwrap());
    sets().flat_map(both)
}

/// Overwrites a row's first columns.
fn write(device: &mut CpuDevice, tensor: Tensor, row: usize, values: &[f32]) {
    let mut buffer = device.store.write("test", tensor);
    let place = row * tensor.stride..row * tensor.stride + values.len();
    match tensor.dtype {
        Dtype::F32 => buffer.elements_mut::<f32>(tensor)[place].copy_from_slice(values),
        Dtype::Bf16 => {
            let out = &mut buffer.elements_mut::<bf16>(tensor)[place];
            out.iter_mut().zip(values).for_each(|(out, &x)| *out = bf16::from_f32(x));
        }
    }
}

/// A row, widened.
fn read(device: &CpuDevice, tensor: Tensor, row: usize) -> Vec<f32> {
    let buffer = device.store.read("test", tensor);
    let place = row * tensor.stride..row * tensor.stride + tensor.cols;
    match tensor.dtype {
        Dtype::F32 => buffer.elements::<f32>(tensor)[place].to_vec(),
        Dtype::Bf16 => buffer.elements::<bf16>(tensor)[place].iter().map(|x| x.to_f32()).collect(),
    }
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
