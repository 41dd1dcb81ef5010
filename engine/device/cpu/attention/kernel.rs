//! The vector kernel: scores, online softmax and weighted values of a tile, panel by panel.
//!
//! ```text
//! for each block of 256 keys (L2; 32 KiB of keys and as much of values at head_dim 64 in bf16)
//!   for each panel of 6 rows
//!     S[6][256]  = bias + Q K^T      register tiles of 6 rows x SIDE vectors of keys, reduced over head_dim
//!     m'         = max(m, S)         one horizontal maximum a row and block
//!     P          = exp(S - m')       in place; rounded to bf16 where products are bf16
//!     O          = O exp(m - m') + P V   register tiles of 6 rows x SIDE vectors of head_dim, reduced over keys
//! ```
//!
//! Work: 4 head_dim FLOP a score. A register tile reads 6 broadcast cells and SIDE vectors for 6 SIDE products, so it is bound
//! by the multipliers as long as a vector arrives from L2 every 6 products. The exponentials (about 12 operations a vector)
//! do not overlap with the products much: at head_dim 64 in bf16 they are a fifth of the time.
//!
//! Maxima are kept times log2 e, so that an exponential is one multiply-add and `exp2`, and so that the factor
//! between two maxima is exactly the ratio of the two scales that were used.

#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by row and vector throughout")]

use super::block::Block;
use super::tile::Tile;
use super::vector::{Cells, Vector, exp2};
use super::work::{BLOCK, PANEL, SCORE_STRIDE, fill_bias};
use crate::device::Dtype;
use crate::device::cpu::kv::{GROUP, HeadLayout};

pub(super) use super::work::Workspace;

/// log2 e.
const LOG2_E: f32 = std::f32::consts::LOG2_E;

/// Computes a tile. `SIDE` is the number of vectors in a register tile; `layout` is what `K` multiplies, which may be wider than
/// what the pages store.
///
/// # Safety
/// The machine has the instruction set of `K`, `K` fits the layout's type, and `work` fits the tile.
#[inline(always)]
pub(super) unsafe fn run<K: Cells, const SIDE: usize>(tile: &Tile<'_>, layout: HeadLayout, work: &Workspace) {
    // SAFETY: the caller's contract; every index below stays within the array that `work` has for it.
    unsafe {
        let stored = HeadLayout::new(tile.head_dim, tile.out.dtype);
        pack_queries::<K>(tile, layout, work);
        work.out.write_bytes(0, tile.count * layout.width);
        work.sum.write_bytes(0, tile.count * 16);
        std::slice::from_raw_parts_mut(work.max, tile.count).fill(f32::NEG_INFINITY);

        let last = tile.count - 1;
        let last_position = tile.position(last);
        for start in (0..tile.visible(last)).step_by(BLOCK) {
            let mut block = Block::new(tile, stored, work, start);
            if layout.dtype != stored.dtype {
                block.widen::<K::V>(stored, layout, work);
            }
            fill_bias(tile, work, start, last_position);
            for first in (0..tile.count).step_by(PANEL) {
                let panel = Panel { tile, layout, work, block: &block, first, last_position };
                match PANEL.min(tile.count - first) {
                    1 => panel.run::<K, 1, SIDE>(),
                    2 => panel.run::<K, 2, SIDE>(),
                    3 => panel.run::<K, 3, SIDE>(),
                    4 => panel.run::<K, 4, SIDE>(),
                    5 => panel.run::<K, 5, SIDE>(),
                    _ => panel.run::<K, 6, SIDE>(),
                }
            }
        }
        for v in 0..tile.count {
            super::own::finish::<K::V>(tile, layout, work, v);
        }
    }
}

/// Packs the tile's queries into panels, so that a register tile's broadcasts stand at fixed distances.
///
/// # Safety
/// As for [`run`].
#[inline(always)]
unsafe fn pack_queries<K: Cells>(tile: &Tile<'_>, layout: HeadLayout, work: &Workspace) {
    // SAFETY: `work` has room for `ROWS` queries and for one row of `width` elements, at least one a step.
    unsafe {
        let row = std::slice::from_raw_parts_mut(work.row, layout.width);
        row.fill(0.0);
        for v in 0..tile.count {
            tile.load_query(v, row);
            let first = v - v % PANEL;
            let rows = PANEL.min(tile.count - first);
            let panel = work.query.add(first * layout.key_steps);
            for step in 0..layout.key_steps {
                let elements = match layout.dtype {
                    Dtype::F32 => [row[step], 0.0],
                    Dtype::Bf16 => [row[2 * step], row[2 * step + 1]],
                };
                K::put_left(panel.add(step * rows + v - first), elements);
            }
        }
    }
}

/// Some rows of a tile against one block.
struct Panel<'a> {
    tile: &'a Tile<'a>,
    layout: HeadLayout,
    work: &'a Workspace,
    block: &'a Block,
    /// First virtual row.
    first: usize,
    /// Position of the tile's last row, to which bias strips are aligned.
    last_position: usize,
}

impl Panel<'_> {
    /// # Safety
    /// As for [`run`].
    #[inline(always)]
    unsafe fn run<K: Cells, const MR: usize, const SIDE: usize>(&self) {
        let mut visible = [0i32; MR];
        for (r, visible) in visible.iter_mut().enumerate() {
            let keys = self.tile.visible(self.first + r).saturating_sub(self.block.start);
            *visible = keys.min(self.block.len) as i32;
        }
        // Rows of a panel stand in order of position.
        let most = visible[MR - 1] as usize;
        if most == 0 {
            return;
        }
        // SAFETY: the caller's contract.
        unsafe {
            let max = self.scores::<K, MR, SIDE>(&visible, most);
            let factors = self.softmax::<K, MR>(max, most.div_ceil(GROUP));
            self.values::<K, MR, SIDE>(&factors, most.div_ceil(GROUP));
        }
    }

    /// S = bias + Q K^T with masked keys at negative infinity, and the maxima by lane.
    ///
    /// # Safety
    /// As for [`run`].
    #[inline(always)]
    unsafe fn scores<K: Cells, const MR: usize, const SIDE: usize>(
        &self,
        visible: &[i32; MR],
        most: usize,
    ) -> [<K::V as Vector>::F; MR] {
        // SAFETY: the caller's contract.
        unsafe {
            let query = self.work.query.add(self.first * self.layout.key_steps).cast_const();
            let mut max = [K::V::splat(f32::NEG_INFINITY); MR];
            let mut bias = [std::ptr::null::<f32>(); MR];
            if self.tile.bias.is_some() {
                for (r, bias) in bias.iter_mut().enumerate() {
                    *bias = self.work.bias_of(self.tile, self.first + r, self.last_position);
                }
            }
            let lanes = SIDE * K::V::LANES;
            // Rows of a panel stand in order of position: the first one sees the fewest keys.
            let unmasked = visible[0] as usize / lanes * lanes;
            for at in (0..most).step_by(lanes) {
                let mut keys = [std::ptr::null::<u32>(); SIDE];
                for (v, keys) in keys.iter_mut().enumerate() {
                    let lane = at + v * K::V::LANES;
                    *keys = self.block.keys[lane / GROUP].add(lane % GROUP);
                }
                let mut acc = [[K::V::splat(0.0); SIDE]; MR];
                if self.tile.bias.is_some() {
                    for r in 0..MR {
                        for v in 0..SIDE {
                            acc[r][v] = K::V::load(bias[r].add(at + v * K::V::LANES));
                        }
                    }
                }
                for step in 0..self.layout.key_steps {
                    let mut left = [query; MR];
                    for (r, left) in left.iter_mut().enumerate() {
                        *left = query.add(step * MR + r);
                    }
                    K::step::<MR, SIDE>(&mut acc, left, keys.map(|keys| keys.add(step * GROUP)));
                }
                let scores = self.work.scores.add(at).cast::<f32>();
                for r in 0..MR {
                    for v in 0..SIDE {
                        K::V::store(scores.add(r * SCORE_STRIDE + v * K::V::LANES), acc[r][v]);
                    }
                }
                if at < unmasked {
                    for r in 0..MR {
                        for v in 0..SIDE {
                            max[r] = K::V::max(max[r], acc[r][v]);
                        }
                    }
                } else {
                    // Masking goes through memory, so that the register tile above is never indexed by a variable.
                    for r in 0..MR {
                        for v in 0..SIDE {
                            let score = scores.add(r * SCORE_STRIDE + v * K::V::LANES);
                            let seen = visible[r] - (at + v * K::V::LANES) as i32;
                            let masked = K::V::keep_first(K::V::load(score), seen);
                            K::V::store(score, masked);
                            max[r] = K::V::max(max[r], masked);
                        }
                    }
                }
            }
            max
        }
    }

    /// P = exp(S - max), in place; updates maxima and sums. Returns the factors of the outputs so far.
    ///
    /// # Safety
    /// As for [`run`].
    #[inline(always)]
    unsafe fn softmax<K: Cells, const MR: usize>(
        &self,
        block_max: [<K::V as Vector>::F; MR],
        groups: usize,
    ) -> [f32; MR] {
        // SAFETY: the caller's contract.
        unsafe {
            let mut factors = [f32::NEG_INFINITY; 16];
            for r in 0..MR {
                let old = self.work.max.add(self.first + r);
                let new = (K::V::largest(block_max[r]) * LOG2_E).max(*old);
                factors[r] = *old - new;
                *old = new;
            }
            let exponentials = exp2::<K::V, 6>(K::V::load(factors.as_ptr()));
            K::V::store(factors.as_mut_ptr(), exponentials);
            for r in 0..MR {
                let row = self.work.scores.add(r * SCORE_STRIDE);
                let offset = K::V::splat(-*self.work.max.add(self.first + r));
                let sums = self.work.sum.add((self.first + r) * 16);
                let mut sum = K::V::mul(K::V::load(sums), K::V::splat(factors[r]));
                for at in (0..groups * GROUP).step_by(K::V::LANES) {
                    let score = K::V::load(row.add(at).cast());
                    let t = K::V::fma(score, K::V::splat(LOG2_E), offset);
                    let p = if K::EXP_TERMS == 4 { exp2::<K::V, 4>(t) } else { exp2::<K::V, 6>(t) };
                    sum = K::V::add(sum, p);
                    K::put_probabilities(row, at, p);
                }
                K::V::store(sums, sum);
            }
            let mut first = [0f32; MR];
            first.copy_from_slice(&factors[..MR]);
            first
        }
    }

    /// O = O factor + P V.
    ///
    /// # Safety
    /// As for [`run`].
    #[inline(always)]
    unsafe fn values<K: Cells, const MR: usize, const SIDE: usize>(&self, factors: &[f32; MR], groups: usize) {
        let vectors = self.layout.width / K::V::LANES;
        for first in (0..vectors).step_by(SIDE) {
            // SAFETY: the caller's contract.
            unsafe {
                match SIDE.min(vectors - first) {
                    1 => self.value_columns::<K, MR, 1>(factors, groups, first),
                    2 => self.value_columns::<K, MR, 2>(factors, groups, first),
                    3 => self.value_columns::<K, MR, 3>(factors, groups, first),
                    _ => self.value_columns::<K, MR, 4>(factors, groups, first),
                }
            }
        }
    }

    /// `NV` vectors of the output's columns, from vector `first`.
    ///
    /// # Safety
    /// As for [`run`].
    #[inline(always)]
    unsafe fn value_columns<K: Cells, const MR: usize, const NV: usize>(
        &self,
        factors: &[f32; MR],
        groups: usize,
        first: usize,
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            let (width, steps) = (self.layout.width, self.layout.value_steps);
            let column = first * K::V::LANES;
            let out = self.work.out.add(self.first * width + column);
            let mut acc = [[K::V::splat(0.0); NV]; MR];
            for r in 0..MR {
                for v in 0..NV {
                    let old = K::V::load(out.add(r * width + v * K::V::LANES));
                    acc[r][v] = K::V::mul(old, K::V::splat(factors[r]));
                }
            }
            let mut left = self.work.scores.cast_const();
            for group in 0..groups {
                let mut right = self.block.values[group].add(column);
                for _ in 0..steps {
                    let mut lefts = [left; MR];
                    for (r, row) in lefts.iter_mut().enumerate() {
                        *row = left.add(r * SCORE_STRIDE);
                    }
                    let mut rights = [right; NV];
                    for (v, vector) in rights.iter_mut().enumerate() {
                        *vector = right.add(v * K::V::LANES);
                    }
                    K::step::<MR, NV>(&mut acc, lefts, rights);
                    left = left.add(1);
                    right = right.add(width);
                }
            }
            for r in 0..MR {
                for v in 0..NV {
                    K::V::store(out.add(r * width + v * K::V::LANES), acc[r][v]);
                }
            }
        }
    }
}
