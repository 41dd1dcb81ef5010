//! A block of keys as the kernel walks it: where its groups are, straight in the pages if that is possible.
//!
//! A page is a whole number of groups when `page_tokens` is a multiple of 16; then only a last, partly valid value group is
//! copied (and zeroed behind the last token). Other page sizes work too, through copies. bf16 blocks are widened to f32 for
//! instruction sets without bf16 products.

use super::tile::Tile;
use super::vector::Vector;
use super::work::{BLOCK, GROUPS, Workspace};
use crate::device::Dtype;
use crate::device::cpu::kv::{GROUP, HeadLayout};

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

    /// Replaces bf16 groups by copies in f32: a step of pairs becomes two steps. Paid once for all rows of a tile.
    ///
    /// # Safety
    /// The machine has the instruction set of `V`; groups are `stored`, `layout` is the same head in f32, and `work` fits.
    #[inline(always)]
    pub(super) unsafe fn widen<V: Vector>(&mut self, stored: HeadLayout, layout: HeadLayout, work: &Workspace) {
        let groups = self.len.div_ceil(GROUP);
        // SAFETY: the caller's contract; both layouts have the same `width`, and twice as many steps in f32.
        unsafe {
            for g in 0..groups {
                let keys = work.wide_keys.add(g * layout.key_cells());
                let values = work.wide_values.add(g * layout.value_cells());
                widen_rows::<V>(self.keys[g], stored.key_steps, GROUP, keys);
                widen_rows::<V>(self.values[g], stored.value_steps, layout.width, values);
                (self.keys[g], self.values[g]) = (keys, values);
            }
        }
        let first = self.keys[0];
        self.keys[groups..].fill(first);
    }
}

/// Each row of `cells` pairs becomes two rows of f32, the lower halves first.
///
/// # Safety
/// As for [`Vector`]; `cells` is a multiple of 16.
#[inline(always)]
unsafe fn widen_rows<V: Vector>(from: *const u32, rows: usize, cells: usize, to: *mut u32) {
    // SAFETY: the caller's contract.
    unsafe {
        for row in 0..rows {
            let (from, to) = (from.add(row * cells), to.add(2 * row * cells).cast::<f32>());
            for at in (0..cells).step_by(V::LANES) {
                V::store(to.add(at), V::load_low(from.add(at)));
                V::store(to.add(cells + at), V::load_high(from.add(at)));
            }
        }
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
