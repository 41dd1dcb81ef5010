//! A thread's scratch memory, and the bias strips in it.

use std::cell::RefCell;

use super::tile::{ROWS, Tile};
use crate::device::cpu::kv::{Cells, GROUP, HeadLayout};

/// Keys of a block. Blocks start at multiples of this in absolute positions, whatever the chunking: softmax state is carried
/// from block to block. Longer blocks need fewer maxima and rescalings; shorter ones stay closer in cache.
pub(super) const BLOCK: usize = 256;

/// Groups of a block.
pub(super) const GROUPS: usize = BLOCK / GROUP;

/// Cells from one row of scores to the next: a block, and a cache line more so that rows do not compete for the same sets.
pub(super) const SCORE_STRIDE: usize = BLOCK + 16;

/// Rows of a panel: the height of a register tile.
pub(super) const PANEL: usize = 6;

/// Floats of one head's bias strip: every distance between a block's keys and a tile's rows.
const STRIP: usize = BLOCK + ROWS;

/// A thread's scratch, carved from one allocation. Each pointer is to its own array, 64-byte aligned.
pub(super) struct Workspace {
    /// Packed queries: panels of `[step][row]`.
    pub query: *mut u32,
    /// `[ROWS][width]` f32: outputs, not yet divided by the sums.
    pub out: *mut f32,
    /// `[ROWS][16]` f32: sums of probabilities, by lane.
    pub sum: *mut f32,
    /// `[ROWS]` f32: running maxima, times log2 e.
    pub max: *mut f32,
    /// `[PANEL][SCORE_STRIDE]`: scores, then probabilities in their place.
    pub scores: *mut u32,
    /// `[group][STRIP]` f32: bias by distance.
    pub bias: *mut f32,
    /// Copies of key groups whose tokens are not side by side in a page.
    pub keys: *mut u32,
    /// Copies of such value groups, and of a last group that is only partly valid.
    pub values: *mut u32,
    /// A block's keys, widened to f32, where products are not in the stored type.
    pub wide_keys: *mut u32,
    /// Likewise the values.
    pub wide_values: *mut u32,
    /// `[width]` f32: one query or result.
    pub row: *mut f32,
    /// `[own tokens, rounded up to 16]` f32: scores of own tokens.
    pub own: *mut f32,
}

thread_local! {
    /// Grows to the largest tile once; see [`with`].
    static SCRATCH: RefCell<Option<Cells>> = const { RefCell::new(None) };
}

/// Calls `call` with this thread's scratch, large enough for `tile` with products in `layout`. Its size depends on the shapes of heads and on the number
/// of own tokens, never on the number of rows or the length of the history.
pub(super) fn with(tile: &Tile<'_>, layout: HeadLayout, call: impl FnOnce(&Workspace)) {
    let stored = HeadLayout::new(tile.head_dim, tile.out.dtype);
    let wide_groups = if stored.dtype == layout.dtype { 0 } else { GROUPS };
    let lengths = [
        ROWS * layout.key_steps,
        ROWS * layout.width,
        ROWS * 16,
        ROWS,
        PANEL * SCORE_STRIDE,
        if tile.bias.is_some() { tile.group * STRIP } else { 0 },
        GROUPS * stored.key_cells(),
        GROUPS * stored.value_cells(),
        wide_groups * layout.key_cells(),
        wide_groups * layout.value_cells(),
        layout.width,
        tile.own.map_or(0, |own| (own.step + 1).next_multiple_of(16)),
    ]
    .map(|len| len.next_multiple_of(16));
    let total: usize = lengths.iter().sum();
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.as_ref().is_none_or(|cells| cells.bytes() < total * 4) {
            *scratch = Some(Cells::new(total, "attention scratch").expect("some hundred KiB of scratch"));
        }
        let cells = scratch.as_ref().expect("just allocated");
        let mut next = 0;
        let starts = lengths.map(|len| {
            next += len;
            cells.at(next - len)
        });
        let [query, out, sum, max, scores, bias, keys, values, wide_keys, wide_values, row, own] = starts;
        call(&Workspace {
            query,
            out: out.cast(),
            sum: sum.cast(),
            max: max.cast(),
            scores,
            bias: bias.cast(),
            keys,
            values,
            wide_keys,
            wide_values,
            row: row.cast(),
            own: own.cast(),
        });
    });
}

/// Writes every query head's bias by distance between the block's keys and the tile's rows, whose positions end at
/// `last_position`: entry i of a strip is for distance `start - last_position + i`.
///
/// # Safety
/// `work` fits the tile.
#[inline(always)]
pub(super) unsafe fn fill_bias(tile: &Tile<'_>, work: &Workspace, start: usize, last_position: usize) {
    let Some(bias) = tile.bias else { return };
    let entries = BLOCK + last_position - tile.position(0);
    let first = start as isize - last_position as isize;
    let max = bias.max_distance as isize;
    for head in 0..tile.group {
        let table = &bias.by_distance[(tile.kv_head * tile.group + head) * (2 * bias.max_distance + 1)..];
        let table = &table[..2 * bias.max_distance + 1];
        // SAFETY: a tile's rows span fewer than ROWS positions, so its strip has room.
        let strip = unsafe { std::slice::from_raw_parts_mut(work.bias.add(head * STRIP), entries) };
        // Three runs: before the table, within it, after it.
        let before = (-max - first).clamp(0, entries as isize) as usize;
        let within = (max + 1 - first).clamp(before as isize, entries as isize) as usize;
        strip[..before].fill(table[0]);
        if before < within {
            let at = (max + first + before as isize) as usize;
            strip[before..within].copy_from_slice(&table[at..at + within - before]);
        }
        strip[within..].fill(table[2 * bias.max_distance]);
    }
}

impl Workspace {
    /// The bias of virtual row `v` for the block's first key, where the tile's rows end at `last_position`.
    ///
    /// # Safety
    /// `fill_bias` wrote the strips.
    #[inline(always)]
    pub(super) unsafe fn bias_of(&self, tile: &Tile<'_>, v: usize, last_position: usize) -> *const f32 {
        // SAFETY: the row's position is at most the last one, and its strip holds a whole block from there.
        unsafe { self.bias.add((tile.first + v) % tile.group * STRIP + last_position - tile.position(v)) }
    }
}
