//! Happens-before between blocks of one launch: fences and atomics, as the "last block finishes" pattern uses them.
//!
//! An atomic on a word passes on what its block did before, if every warp that wrote global memory has executed a device-wide
//! fence since. A later block that does an atomic on the same word is then ordered behind it.

use crate::memory::race::Other;
use std::collections::{HashMap, HashSet};

/// What blocks released through which words, and what the running block knows.
#[derive(Default)]
pub(crate) struct BlockOrder {
    released: HashMap<u64, HashSet<u32>>,
    known: HashSet<u32>,
    /// Warps that wrote global memory after their last device fence, one bit each.
    unfenced: u32,
    fenced: bool,
}

impl BlockOrder {
    pub(crate) fn begin(&mut self) {
        self.known.clear();
        self.unfenced = 0;
        self.fenced = false;
    }

    #[inline(always)]
    pub(crate) fn wrote(&mut self, warp: usize) {
        self.unfenced |= 1 << warp;
    }

    pub(crate) fn fence(&mut self, warp: usize) {
        self.unfenced &= !(1 << warp);
        self.fenced = true;
    }

    /// An atomic of `block` on the word at `address`.
    pub(crate) fn atomic(&mut self, block: u32, address: u64) {
        if let Some(released) = self.released.get(&address) {
            self.known.extend(released);
        }
        if self.fenced && self.unfenced == 0 {
            let released = self.released.entry(address).or_default();
            released.insert(block);
            released.extend(&self.known);
        }
    }

    /// Whether an access of `other` came before what block number `block` does now.
    pub(crate) fn is_before(&self, other: Other, block: u32) -> bool {
        match other {
            Other::Block(other) => self.known.contains(&other),
            // Blocks run in order, so "several" can only be earlier ones.
            Other::Several => self.known.len() as u32 >= block,
        }
    }
}
