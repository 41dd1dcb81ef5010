//! A thread's scratch memory, and a block of keys as the kernel walks it.

use std::cell::RefCell;

use super::tile::{ROWS, Tile};
use crate::device::Dtype;
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
    /// Packed queries: panels of `[step][row][left cells]`.
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
    /// `[width]` f32: one query or result.
    pub row: *mut f32,
    /// `[own tokens, rounded up to 16]` f32: scores of own tokens.
    pub own: *mut f32,
}

thread_local! {
    /// Grows to the largest tile once; see [`with`].
    static SCRATCH: RefCell<Option<Cells>> = const { RefCell::new(None) };
}

/// Calls `call` with this thread's scratch, large enough for `tile`. Its size depends on the shapes of heads and on the number
/// of own tokens, never on the number of rows or the length of the history.
pub(super) fn with(tile: &Tile<'_>, layout: HeadLayout, call: impl FnOnce(&Workspace)) {
    let lengths = [
        ROWS * layout.key_steps * 2,
        ROWS * layout.width,
        ROWS * 16,
        ROWS,
        PANEL * SCORE_STRIDE,
        if tile.bias.is_some() { tile.group * STRIP } else { 0 },
        GROUPS * layout.key_cells(),
        GROUPS * layout.value_cells(),
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
        let [query, out, sum, max, scores, bias, keys, values, row, own] = starts;
        call(&Workspace {
            query,
            out: out.cast(),
            sum: sum.cast(),
            max: max.cast(),
            scores,
            bias: bias.cast(),
            keys,
            values,
            row: row.cast(),
            own: own.cast(),
        });
    });
}

/// Up to `BLOCK` keys at consecutive positions: where each group of 16 is.
pub(super) struct Block {
    /// Position of the first key.
    pub start: usize,
    /// Valid keys.
    pub len: usize,
    /// Key groups. All entries may be read: those beyond `len` repeat the first group, and their scores are masked.
    pub keys: [*const u32; GROUPS],
    /// Value groups; those up to `len` may be read, and hold zeros beyond it.
    pub values: [*const u32; GROUPS],
}

impl Block {
    /// The block from position `start`.
    ///
    /// # Safety
    /// `work` fits the tile, and nobody writes the tile's pages.
    #[inline(always)]
    pub(super) unsafe fn new(tile: &Tile<'_>, layout: HeadLayout, work: &Workspace, start: usize) -> Block {
        let shared = tile.shared.expect("a tile with shared keys has pages");
        let page_tokens = shared.kv.shape().page_tokens;
        let len = BLOCK.min(tile.shared_len - start);
        let groups = len.div_ceil(GROUP);
        let place = |position: usize| (shared.pages[position / page_tokens], position % page_tokens);
        let mut block = Block { start, len, keys: [std::ptr::null(); GROUPS], values: [std::ptr::null(); GROUPS] };
        // SAFETY: groups lie within their page, whose extent `KvPages` knows; scratch has room for a block.
        unsafe {
            for g in 0..groups {
                let (copied_keys, copied_values) =
                    (work.keys.add(g * layout.key_cells()), work.values.add(g * layout.value_cells()));
                let valid = GROUP.min(len - g * GROUP);
                if page_tokens.is_multiple_of(GROUP) {
                    let (page, offset) = place(start + g * GROUP);
                    let (keys, values) = (
                        shared.kv.keys(shared.layer, page, tile.kv_head),
                        shared.kv.values(shared.layer, page, tile.kv_head),
                    );
                    block.keys[g] = keys.add(offset / GROUP * layout.key_cells());
                    block.values[g] = values.add(offset / GROUP * layout.value_cells());
                    if valid < GROUP {
                        copy_first_values(layout, block.values[g], valid, copied_values);
                        block.values[g] = copied_values;
                    }
                } else {
                    copied_values.write_bytes(0, layout.value_cells());
                    for lane in 0..valid {
                        let (page, offset) = place(start + g * GROUP + lane);
                        let group = offset / GROUP;
                        let keys = shared.kv.keys(shared.layer, page, tile.kv_head).add(group * layout.key_cells());
                        let values =
                            shared.kv.values(shared.layer, page, tile.kv_head).add(group * layout.value_cells());
                        for step in 0..layout.key_steps {
                            let cell = keys.add(step * GROUP + offset % GROUP).read();
                            copied_keys.add(step * GROUP + lane).write(cell);
                        }
                        copy_value(layout, values, offset % GROUP, copied_values, lane);
                    }
                    (block.keys[g], block.values[g]) = (copied_keys, copied_values);
                }
            }
        }
        let first = block.keys[0];
        block.keys[groups..].fill(first);
        block
    }
}

/// Copies the first `valid` tokens of a value group and zeroes the rest: a zero probability must not meet what the page's
/// previous owner left there, which may be NaN.
///
/// # Safety
/// Both are value groups.
#[inline(always)]
unsafe fn copy_first_values(layout: HeadLayout, from: *const u32, valid: usize, to: *mut u32) {
    let width = layout.width;
    // SAFETY: `valid` tokens are at most a group.
    unsafe {
        match layout.dtype {
            Dtype::F32 => {
                to.copy_from_nonoverlapping(from, valid * width);
                to.add(valid * width).write_bytes(0, layout.value_cells() - valid * width);
            }
            Dtype::Bf16 => {
                let pairs = valid / 2;
                to.copy_from_nonoverlapping(from, pairs * width);
                to.add(pairs * width).write_bytes(0, layout.value_cells() - pairs * width);
                if valid % 2 == 1 {
                    for cell in pairs * width..(pairs + 1) * width {
                        to.add(cell).write(from.add(cell).read() & 0xffff);
                    }
                }
            }
        }
    }
}

/// Copies one token's values from one group to a lane of another.
///
/// # Safety
/// Both are value groups; lanes are below 16.
#[inline(always)]
unsafe fn copy_value(layout: HeadLayout, from: *const u32, from_lane: usize, to: *mut u32, to_lane: usize) {
    let width = layout.width;
    // SAFETY: a lane's row, or its half of a row of pairs, lies within the group.
    unsafe {
        match layout.dtype {
            Dtype::F32 => to.add(to_lane * width).copy_from_nonoverlapping(from.add(from_lane * width), width),
            Dtype::Bf16 => {
                let from = from.add(from_lane / 2 * width).cast::<u16>().add(from_lane % 2);
                let to = to.add(to_lane / 2 * width).cast::<u16>().add(to_lane % 2);
                for d in 0..width {
                    to.add(2 * d).write(from.add(2 * d).read());
                }
            }
        }
    }
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
