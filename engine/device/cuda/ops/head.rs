//! The output head: its products are not written yet.

use super::super::memory::Memory;
use super::super::weights::{TokenList, token_lists};
use crate::device::{DeviceError, Dtype, HeadSource};

/// A packed head on the card.
#[derive(Clone, Debug)]
pub(in crate::device::cuda) struct PackedHead {
    /// Of each level.
    pub(in crate::device::cuda) level_tokens: Vec<TokenList>,
}

/// Packs a head.
pub(in crate::device::cuda) fn pack(
    memory: &mut Memory,
    _: Dtype,
    source: &HeadSource,
) -> Result<PackedHead, DeviceError> {
    Ok(PackedHead { level_tokens: token_lists(memory, &source.level_tokens)? })
}
