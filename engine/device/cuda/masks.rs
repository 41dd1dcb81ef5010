//! Mask slots on the card: which nodes of the trie a request may expand, a bit a node, written behind the searches that read
//! the slot before.

use std::sync::Arc;

use super::driver::Driver;
use super::memory::{Memory, Purpose};
use super::staging::Staging;
use crate::catalog::{Catalog, NodeMask};
use crate::device::{DeviceError, Queue, TrieId, check_mask};

/// Masks whose copies may be outstanding before the host waits.
const STAGED: usize = 2;

/// Words of the card in a word of the mask.
const WORDS: usize = size_of::<u64>() / size_of::<u32>();

/// All mask slots.
pub(super) struct Masks {
    trie: TrieId,
    slots: usize,
    address: u64,       // u32[slots][words]
    starts: Vec<usize>, // [levels + 1] first word of each level, then the words of a slot
    staging: Staging,
}

/// One level of all slots, as kernels find it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MaskTable {
    /// Address of slot 0's words of the level.
    pub(super) address: u64,
    /// Words between slots.
    pub(super) stride: u32,
}

impl Masks {
    pub(super) fn plan(
        driver: &Arc<Driver>,
        memory: &mut Memory,
        (trie, catalog): (TrieId, &Catalog),
        slots: usize,
    ) -> Result<Masks, DeviceError> {
        let starts: Vec<usize> = NodeMask::layout(catalog).iter().map(|start| start * WORDS).collect();
        let words = starts[catalog.levels()];
        let what = format!("{slots} masks of the trie's nodes");
        let address = memory.zeroed(Purpose::Workspace, what, slots * words * size_of::<u32>())?;
        Ok(Masks { trie, slots, address, starts, staging: Staging::plan(driver, STAGED, words)? })
    }

    pub(super) fn count(&self) -> usize {
        self.slots
    }

    /// Enqueues a slot's new mask.
    pub(super) fn write(&mut self, slot: u32, mask: &NodeMask) -> Result<(), DeviceError> {
        let words: &[u32] = bytemuck::cast_slice(mask.words());
        let planned = self.starts[self.starts.len() - 1];
        check_mask(mask, planned / WORDS, (slot, self.slots))?;
        let address = self.address + (slot as usize * planned * size_of::<u32>()) as u64;
        self.staging.send(Queue::Search, address, |staged| {
            staged[..planned].copy_from_slice(words);
            planned
        })
    }

    /// Where kernels find a level of a trie's masks.
    pub(super) fn table(&self, trie: TrieId, level: usize) -> MaskTable {
        assert_eq!(trie, self.trie, "masks are those of one trie");
        let address = self.address + (self.starts[level] * size_of::<u32>()) as u64;
        MaskTable { address, stride: self.starts[self.starts.len() - 1] as u32 }
    }
}
