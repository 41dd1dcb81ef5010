//! The output head: not written yet.

use super::super::memory::Memory;
use crate::device::{DeviceError, Dtype, HeadSource};

/// A packed head on the card.
#[derive(Clone, Debug)]
pub(in crate::device::cuda) struct PackedHead {}

/// Packs a head.
pub(in crate::device::cuda) fn pack(_: &mut Memory, _: Dtype, _: &HeadSource) -> Result<PackedHead, DeviceError> {
    Err(DeviceError::Unavailable("head: not on the CUDA device yet".to_owned()))
}
