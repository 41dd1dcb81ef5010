//! Sequence slots: lengths and block tables, and the spans that KV operations read them through.
//!
//! Block tables of a segment lie side by side in one array, a fixed stride apart, so that an operation over many slots gets
//! one slice and a start for each.

use super::kv::{BeamSpan, TokenSpan};
use super::lanes::{CohortState, TokenState};
use crate::device::{DeviceError, Segment, SlotPlan, SlotState};

/// One segment of every slot.
#[derive(Debug, Default)]
pub(super) struct Tables {
    lens: Vec<u32>,  // [slots] valid tokens
    held: Vec<u32>,  // [slots] pages in the table
    pages: Vec<u32>, // [slots, stride]
    stride: usize,
}

impl Tables {
    fn plan(slots: usize, stride: usize) -> Tables {
        Tables { lens: vec![0; slots], held: vec![0; slots], pages: vec![0; slots * stride], stride }
    }

    fn write(&mut self, slot: usize, len: u32, pages: &[u32]) -> Result<(), DeviceError> {
        if pages.len() > self.stride {
            let reason = format!("slot {slot}: {} pages in a table of {}", pages.len(), self.stride);
            return Err(DeviceError::Failed { op: "write_slot", reason });
        }
        self.lens[slot] = len;
        self.held[slot] = pages.len() as u32;
        self.pages[slot * self.stride..][..pages.len()].copy_from_slice(pages);
        Ok(())
    }

    /// Every slot's block table.
    pub(super) fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Valid tokens of a slot's segment.
    pub(super) fn len(&self, slot: u32) -> usize {
        self.lens[slot as usize] as usize
    }

    /// Where a slot's block table starts; it must reach `tokens` tokens.
    fn first_page(&self, slot: u32, tokens: usize, page_tokens: usize) -> usize {
        let held = self.held[slot as usize] as usize;
        assert!(tokens <= held * page_tokens, "slot {slot}: {tokens} tokens on {held} pages of {page_tokens}");
        slot as usize * self.stride
    }
}

/// All slots.
#[derive(Debug, Default)]
pub(super) struct Slots {
    history: Tables,
    prefix: Tables,
}

impl Slots {
    /// Empty slots.
    pub(super) fn plan(plan: SlotPlan) -> Slots {
        Slots {
            history: Tables::plan(plan.slots, plan.history_pages),
            prefix: Tables::plan(plan.slots, plan.prefix_pages),
        }
    }

    /// Number of slots.
    pub(super) fn count(&self) -> usize {
        self.history.lens.len()
    }

    /// Bytes planned.
    pub(super) fn bytes(&self) -> usize {
        [&self.history, &self.prefix].iter().map(|t| (t.lens.len() + t.held.len() + t.pages.len()) * 4).sum()
    }

    /// Copies a slot's lengths and block tables into place.
    pub(super) fn write(&mut self, slot: u32, state: &SlotState) -> Result<(), DeviceError> {
        if slot as usize >= self.count() {
            let reason = format!("slot {slot} of {}", self.count());
            return Err(DeviceError::Failed { op: "write_slot", reason });
        }
        self.history.write(slot as usize, state.history_len, &state.history_pages)?;
        self.prefix.write(slot as usize, state.prefix_len, &state.prefix_pages)
    }

    /// One segment of every slot.
    pub(super) fn tables(&self, segment: Segment) -> &Tables {
        match segment {
            Segment::History => &self.history,
            Segment::Prefix => &self.prefix,
        }
    }

    /// The spans of a batch: for writing to, or attention over, pages of `page_tokens`.
    pub(super) fn token_spans(
        &self,
        segment: Segment,
        page_tokens: usize,
        batch: &TokenState,
        spans: &mut Vec<TokenSpan>,
    ) {
        let tables = self.tables(segment);
        spans.clear();
        spans.extend(batch.spans.iter().map(|span| {
            let (first_position, rows) = (span.first_position as usize, span.rows as usize);
            let kv_len = tables.len(span.slot);
            let first_page = tables.first_page(span.slot, kv_len, page_tokens);
            TokenSpan { first_row: span.first_row as usize, rows, first_position, kv_len, first_page }
        }));
    }

    /// The compact last rows of a batch, a span each.
    pub(super) fn last_spans(
        &self,
        segment: Segment,
        page_tokens: usize,
        batch: &TokenState,
        spans: &mut Vec<TokenSpan>,
    ) {
        let tables = self.tables(segment);
        spans.clear();
        let rows = batch.last_slots.iter().zip(&batch.last_positions).enumerate();
        spans.extend(rows.map(|(first_row, (&slot, &position))| {
            let kv_len = tables.len(slot);
            let first_page = tables.first_page(slot, kv_len, page_tokens);
            TokenSpan { first_row, rows: 1, first_position: position as usize, kv_len, first_page }
        }));
    }

    /// The live beams of a cohort, a span a request. `shared` is the attended segment and its page size.
    pub(super) fn beam_spans(&self, shared: Option<(Segment, usize)>, cohort: &CohortState, spans: &mut Vec<BeamSpan>) {
        spans.clear();
        spans.extend(cohort.requests.iter().map(|request| {
            let slot = request.slot;
            let (shared_len, first_page) = shared.map_or((0, 0), |(segment, page_tokens)| {
                let tables = self.tables(segment);
                (tables.len(slot), tables.first_page(slot, tables.len(slot), page_tokens))
            });
            BeamSpan {
                first_row: request.first_row as usize,
                live: request.live as usize,
                shared_len,
                first_page,
                own_position: self.history.len(slot) + self.prefix.len(slot),
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_stay_apart() {
        let mut slots = Slots::plan(SlotPlan { slots: 3, history_pages: 33, prefix_pages: 0 });
        let state = |len: u32, page: u32| SlotState {
            history_len: len,
            history_pages: (page..page + len.div_ceil(16)).collect(),
            ..SlotState::default()
        };
        slots.write(0, &state(40, 100)).unwrap();
        slots.write(2, &state(16 * 33, 200)).unwrap();
        let tables = slots.tables(Segment::History);
        for (slot, len, page) in [(0, 40, 100), (2, 16 * 33, 200)] {
            let first = tables.first_page(slot, len, 16);
            let pages = &tables.pages()[first..][..len.div_ceil(16)];
            assert!(pages.iter().zip(page..).all(|(&held, page)| held == page), "slot {slot}: {pages:?}");
        }
        assert_eq!((tables.len(1), slots.tables(Segment::Prefix).len(0)), (0, 0));
        assert!(slots.write(3, &SlotState::default()).is_err());
        assert!(slots.write(1, &state(16 * 34, 300)).is_err(), "more pages than were planned");
    }

    #[test]
    #[should_panic(expected = "slot 0: 49 tokens on 3 pages of 16")]
    fn a_short_table_is_a_bug() {
        let mut slots = Slots::plan(SlotPlan { slots: 1, history_pages: 3, prefix_pages: 0 });
        let state = SlotState { history_len: 49, history_pages: vec![1, 2, 3], ..SlotState::default() };
        slots.write(0, &state).unwrap();
        slots.tables(Segment::History).first_page(0, 49, 16);
    }
}
