//! What the beams' lists have used up, so that no semantic ID comes twice in one.
//!
//! When a beam has got a semantic ID of its list, its leaf is *spent* for it, and so is every node above of which each child
//! that the request may expand is spent: there is nothing left below for this list. Only these nodes can have become so, which
//! makes the rule exact with a few looks a semantic ID. They are kept at the row where the last token of that semantic ID is
//! decoded, and found again through the ancestor table: reordering beams copies none of it.

use crate::device::ListPlan;

/// In place of a node that is not spent: behind every node, so that it stays at the end of what is sorted.
const NONE: u32 = u32::MAX;

/// Lists of a cohort's beams.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// Semantic IDs of each list of the cohort; at least 1.
    pub(super) items: usize,
    levels: usize,
    /// Semantic IDs before the last of the longest list that is planned for.
    kept: usize,
    spent: Vec<u32>,    // [rows, kept, levels] by the row at which the semantic ID ended
    gathered: Vec<u32>, // [rows, kept] of the level being expanded, by row of the beam, each row sorted
    scratch: Vec<u32>,  // [at most kept]
}

impl Lists {
    /// Room for lists of `rows` beams.
    pub(super) fn plan(plan: Option<ListPlan>, rows: usize) -> Lists {
        let ListPlan { items, levels } = plan.unwrap_or(ListPlan { items: 1, levels: 0 });
        let kept = items - 1;
        Lists {
            items: 1,
            levels,
            kept,
            spent: vec![NONE; rows * kept * levels],
            gathered: vec![NONE; rows * kept],
            scratch: Vec::with_capacity(kept),
        }
    }

    /// Bytes planned.
    pub(super) fn bytes(&self) -> usize {
        (self.spent.len() + self.gathered.len() + self.kept) * size_of::<u32>()
    }

    /// The row at which semantic ID `item` of a beam with these ancestors ended.
    fn ended(&self, ancestors: &[u32], item: usize) -> usize {
        ancestors[(item + 1) * self.levels - 1] as usize
    }

    fn at(&self, row: usize, (item, level): (usize, usize)) -> usize {
        (row * self.kept + item) * self.levels + level
    }

    /// Nothing is spent by semantic ID `item`, which ends at `row`.
    pub(super) fn begin_item(&mut self, row: usize, item: usize) {
        let start = self.at(row, (item, 0));
        self.spent[start..start + self.levels].fill(NONE);
    }

    /// Notes that `node` of (semantic ID, level) is spent for the beam at whose row the semantic ID ends.
    pub(super) fn set(&mut self, row: usize, place: (usize, usize), node: u32) {
        let at = self.at(row, place);
        self.spent[at] = node;
    }

    /// Nodes of `level` that the first `items` semantic IDs of a beam have used up, sorted.
    pub(super) fn spent_of(&mut self, ancestors: &[u32], items: usize, level: usize) -> &[u32] {
        self.scratch.clear();
        for item in 0..items {
            let node = self.spent[self.at(self.ended(ancestors, item), (item, level))];
            self.scratch.push(node);
        }
        self.scratch.sort_unstable();
        &self.scratch
    }

    /// Makes [`gathered`](Lists::gathered) of a row what its first `items` semantic IDs have used up of `level`.
    pub(super) fn gather(&mut self, row: usize, ancestors: &[u32], (items, level): (usize, usize)) {
        let kept = self.kept;
        self.spent_of(ancestors, items, level);
        self.gathered[row * kept..][..items].copy_from_slice(&self.scratch);
    }

    /// What was gathered for a row.
    pub(super) fn gathered(&self, row: usize, items: usize) -> &[u32] {
        &self.gathered[row * self.kept..][..items]
    }

    /// Leaves of a beam's list before the semantic ID whose token was the last of `chosen`.
    pub(super) fn earlier(&self, ancestors: &[u32], chosen: usize) -> Vec<u32> {
        let leaf = |item| self.spent[self.at(self.ended(ancestors, item), (item, self.levels - 1))];
        let ended = chosen.saturating_sub(1).checked_div(self.levels).unwrap_or(0);
        (0..ended.min(self.items.saturating_sub(1))).map(leaf).collect()
    }
}
