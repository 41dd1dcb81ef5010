//! Sequence slots on the card: lengths and block tables, staged and copied in queue order.

use std::sync::Arc;

use super::driver::Driver;
use super::memory::{Memory, Purpose};
use super::staging::Staging;
use crate::device::{DeviceError, Queue, Segment, SlotPlan, SlotState};

/// Copies of slot entries that may be outstanding before the host waits.
const STAGED: usize = 64;

/// All slots. An entry is `[history_len, prefix_len, history pages.., prefix pages..]`, so that one copy writes a slot.
pub(super) struct Slots {
    plan: SlotPlan,
    address: u64,           // u32[slots][words]
    lengths: Vec<[u32; 2]>, // [slots] as last written: (history, prefix)
    staging: Staging,
}

/// Where a segment's lengths and tables lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct SegmentTable {
    /// Address of slot 0's length.
    pub(super) lengths: u64,
    /// Address of slot 0's block table.
    pub(super) pages: u64,
    /// Words between slots, for both.
    pub(super) stride: u32,
}

impl Slots {
    pub(super) fn plan(driver: &Arc<Driver>, memory: &mut Memory, plan: SlotPlan) -> Result<Slots, DeviceError> {
        let words = words(&plan);
        Ok(Slots {
            plan,
            address: memory.zeroed(Purpose::Workspace, "block tables".to_owned(), plan.slots * words * 4)?,
            lengths: vec![[0; 2]; plan.slots],
            staging: Staging::plan(driver, STAGED, words)?,
        })
    }

    pub(super) fn count(&self) -> usize {
        self.plan.slots
    }

    /// Valid tokens of a slot's segment, as last written.
    pub(super) fn len(&self, slot: u32, segment: Segment) -> usize {
        self.lengths[slot as usize][segment as usize] as usize
    }

    /// Enqueues a slot's new lengths and tables.
    pub(super) fn write(&mut self, slot: u32, state: &SlotState) -> Result<(), DeviceError> {
        let bad = |reason| Err(DeviceError::Failed { op: "write_slot", reason });
        let SlotPlan { slots, history_pages, prefix_pages } = self.plan;
        if slot as usize >= slots {
            return bad(format!("slot {slot} of {slots}"));
        }
        if state.history_pages.len() > history_pages || state.prefix_pages.len() > prefix_pages {
            let (history, prefix) = (state.history_pages.len(), state.prefix_pages.len());
            return bad(format!("slot {slot}: {history}, {prefix} pages in tables of {history_pages}, {prefix_pages}"));
        }
        self.lengths[slot as usize] = [state.history_len, state.prefix_len];
        let words = words(&self.plan);
        let address = self.address + (slot as usize * words * 4) as u64;
        self.staging.send(Queue::Prefill, address, |entry| {
            entry[..2].copy_from_slice(&[state.history_len, state.prefix_len]);
            entry[2..][..state.history_pages.len()].copy_from_slice(&state.history_pages);
            entry[2 + history_pages..][..state.prefix_pages.len()].copy_from_slice(&state.prefix_pages);
            words
        })
    }

    /// Where kernels find a segment.
    pub(super) fn table(&self, segment: Segment) -> SegmentTable {
        let (length, pages) = match segment {
            Segment::History => (0, 2),
            Segment::Prefix => (1, 2 + self.plan.history_pages),
        };
        SegmentTable {
            lengths: self.address + 4 * length,
            pages: self.address + 4 * pages as u64,
            stride: words(&self.plan) as u32,
        }
    }
}

fn words(plan: &SlotPlan) -> usize {
    2 + plan.history_pages + plan.prefix_pages
}
