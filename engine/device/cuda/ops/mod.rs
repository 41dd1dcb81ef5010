//! One file an operation: which kernels it has, how its launch is shaped, what its parameters hold.
//!
//! A launcher checks handles and shapes (a wrong one is a bug in a model file and panics with the operation's name) and
//! enqueues; it computes nothing and waits for nothing.

pub(super) mod head;
pub(super) mod linear;
mod pending;

use super::driver::{Driver, Kernel};
use crate::device::{DeviceError, Dtype};

/// Memory between an operation's kernels, planned with the lanes and weights that decide its size.
#[derive(Default)]
pub(super) struct Scratch {}

/// Every operation's kernels for a compute type.
fn kernels(_: Dtype) -> Vec<Kernel> {
    Vec::new()
}

/// Loads the images that hold the kernels for `compute`.
pub(super) fn load_kernels(_: &mut Driver, compute: Dtype) -> Result<(), DeviceError> {
    for kernel in kernels(compute) {
        return Err(DeviceError::Unavailable(format!("no image of {}", kernel.name)));
    }
    Ok(())
}
