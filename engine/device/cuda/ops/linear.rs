//! The matrix product with a packed weight: not written yet.

use super::super::memory::Memory;
use crate::device::{DeviceError, Dtype, LinearSource};

/// A packed weight on the card.
#[derive(Clone, Copy, Debug)]
pub(in crate::device::cuda) struct PackedLinear {}

/// Packs a weight.
pub(in crate::device::cuda) fn pack(_: &mut Memory, _: Dtype, _: &LinearSource) -> Result<PackedLinear, DeviceError> {
    Err(DeviceError::Unavailable("linear: not on the CUDA device yet".to_owned()))
}
