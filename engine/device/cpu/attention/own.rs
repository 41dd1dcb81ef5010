//! The end of a row: its own tokens, merged with the shared part by (max, denominator, output), and the division.
//!
//! `(m, l, o)` of the pages and the own scores s meet at `m' = max(m, s)`: `o' = o 2^(m - m') + sum 2^(s - m') v`, and `l'`
//! likewise. A row without shared keys has `m = -inf`, whose factor is zero. Own tokens are few and each row has its own, so
//! there is no matrix product to be had: one dot product and one scaled addition a token.

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use super::tile::Tile;
use super::vector::{Vector, exp2};
use super::work::Workspace;
use crate::device::Dtype;
use crate::device::cpu::kv::HeadLayout;

/// Rows between the one that is being merged and the one whose own tokens are being fetched: about 100 ns of work.
const AHEAD: usize = 2;

/// Asks for the own tokens of virtual row `v`: ancestors are scattered, and each costs only some dozen instructions.
#[inline(always)]
fn prefetch_own(tile: &Tile<'_>, layout: HeadLayout, v: usize) {
    let Some(own) = tile.own.filter(|_| v < tile.count) else { return };
    let lines = (2 * layout.width * tile.out.dtype.bytes()).div_ceil(64);
    for s in 0..=own.step {
        let keys = own.kv.head(own.layer, s, tile.own_row(&own, v, s), 0, tile.kv_head);
        for line in 0..lines {
            // SAFETY: prefetching is defined for every address; these lie in the head's key and the value behind it.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(keys.cast::<i8>().wrapping_add(64 * line)) };
        }
    }
}

/// Adds virtual row `v`'s own tokens, divides, and stores the result.
///
/// # Safety
/// The machine has the instruction set of `V`, and `work` fits the tile and holds the row's shared part.
#[inline(always)]
pub(super) unsafe fn finish<V: Vector>(tile: &Tile<'_>, layout: HeadLayout, work: &Workspace, v: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        let out = work.out.add(v * layout.width);
        // Instruction sets with fewer lanes leave the rest of the 16 at zero.
        let mut sum = V::sum(V::load(work.sum.add(v * 16)));
        if tile.own.is_some() {
            sum = add_own::<V>(tile, layout, work, v, sum);
        }
        prefetch_own(tile, layout, v + AHEAD);
        // A row that saw no key has a zero sum and a zero output.
        let divisor = V::splat(if sum > 0.0 { sum } else { 1.0 });
        let zero = V::splat(0.0);
        let result = |at: usize| V::add(V::div(V::load(out.add(at)), divisor), zero);
        let to = tile.out.at(tile.row(v), tile.head(v) * tile.head_dim, tile.head_dim);
        let whole = tile.head_dim - tile.head_dim % V::LANES;
        for at in (0..whole).step_by(V::LANES) {
            match tile.out.dtype {
                Dtype::F32 => V::store(to.cast::<f32>().add(at), result(at)),
                Dtype::Bf16 => V::store_bf16(to.cast::<u16>().add(at), result(at)),
            }
        }
        if whole < tile.head_dim {
            // The last vector goes through a buffer: behind the head is another tile's memory.
            let mut rest = [0u32; 16];
            let (rest, count) = (rest.as_mut_ptr(), tile.head_dim - whole);
            match tile.out.dtype {
                Dtype::F32 => {
                    V::store(rest.cast(), result(whole));
                    to.cast::<u32>().add(whole).copy_from_nonoverlapping(rest, count);
                }
                Dtype::Bf16 => {
                    V::store_bf16(rest.cast(), result(whole));
                    to.cast::<u16>().add(whole).copy_from_nonoverlapping(rest.cast::<u16>(), count);
                }
            }
        }
    }
}

/// Merges the own tokens into the row's output. Returns the new sum.
///
/// # Safety
/// As for [`finish`], and the tile has own tokens.
#[inline(always)]
unsafe fn add_own<V: Vector>(tile: &Tile<'_>, layout: HeadLayout, work: &Workspace, v: usize, sum: f32) -> f32 {
    let own = tile.own.expect("the caller checked");
    // SAFETY: the caller's contract; a slab's heads are zero-padded to `width` elements, as are rows here.
    unsafe {
        let width = layout.width;
        let load = |cells: *const u32, at: usize| match tile.out.dtype {
            Dtype::F32 => V::load(cells.cast::<f32>().add(at)),
            Dtype::Bf16 => V::load_bf16(cells.cast::<u16>().add(at)),
        };
        let head = |s: usize, part: usize| {
            own.kv.head(own.layer, s, tile.own_row(&own, v, s), part, tile.kv_head).cast_const()
        };
        let tokens = own.step + 1;
        let query = std::slice::from_raw_parts_mut(work.row, width);
        query.fill(0.0);
        tile.load_query(v, query);

        // Scores, times log2 e; the rest of the last vector is masked.
        let scores = std::slice::from_raw_parts_mut(work.own, tokens.next_multiple_of(16));
        scores.fill(f32::NEG_INFINITY);
        let mut max = work.max.add(v).read();
        for (s, score) in scores[..tokens].iter_mut().enumerate() {
            let key = head(s, 0);
            let mut dot = V::splat(0.0);
            for at in (0..width).step_by(V::LANES) {
                dot = V::fma(V::load(work.row.add(at)), load(key, at), dot);
            }
            let bias = tile.bias.map_or(0.0, |bias| bias.at(tile.head(v), s as isize - own.step as isize));
            *score = (V::sum(dot) + bias) * std::f32::consts::LOG2_E;
            max = score.max(max);
        }

        let mut sums = V::splat(0.0);
        for at in (0..tokens).step_by(V::LANES) {
            let p = exp2::<V, 6>(V::sub(V::load(work.own.add(at)), V::splat(max)));
            V::store(work.own.add(at), p);
            sums = V::add(sums, p);
        }
        let mut factor = [f32::NEG_INFINITY; 16];
        factor[0] = work.max.add(v).read() - max;
        let factors = exp2::<V, 6>(V::load(factor.as_ptr()));
        V::store(factor.as_mut_ptr(), factors);
        let factor = factor[0];

        let out = work.out.add(v * width);
        for at in (0..width).step_by(V::LANES) {
            let mut acc = V::mul(V::load(out.add(at)), V::splat(factor));
            for s in 0..tokens {
                acc = V::fma(V::splat(work.own.add(s).read()), load(head(s, 1), at), acc);
            }
            V::store(out.add(at), acc);
        }
        sum * factor + V::sum(sums)
    }
}
