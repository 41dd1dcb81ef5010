//! The micro-kernel: a tile of up to 14 x 32 sums in registers.
//!
//! ```text
//! sums = bias;  for unit of k:  2 vector loads of the weight; for each row: 1 broadcast of the input, 2 products
//! ```
//!
//! The input is packed so that each tile reads one stream: `[chunk of 16 units][row][16 units]`. Its rows are whole cache
//! lines, so packing copies lines, rows never collide in a cache set, and every address is a constant away from one
//! register.
//!
//! On Zen 4 this runs at 88-94% of the registers' peak from 128 rows on, weights cold. Prefetching the weight by hand made
//! one row a fifth slower and 32 rows a few percent, and 128 rows no faster: the hardware follows one stream well.

use std::marker::PhantomData;

use super::{Product, Vector};
use crate::device::cpu::gemm::packed::{HALF, PANEL};

/// Units of k that stand together in a packed input row.
pub(super) const CHUNK: usize = 16;

/// One tile's operands.
pub(super) struct TileArgs {
    /// Packed input rows: `[chunk][row][CHUNK]` units.
    pub(super) input: *const u32,
    /// A panel: `[units][PANEL]` words.
    pub(super) weights: *const u32,
    /// What the sums of the panel's columns start from: `[PANEL]`.
    pub(super) bias: *const f32,
    /// Units of k.
    pub(super) units: usize,
    /// Where the sums go: `[row][PANEL]`.
    pub(super) out: *mut f32,
    /// Elements between rows of `out`.
    pub(super) out_stride: usize,
}

/// Computes a tile of `ROWS` rows.
///
/// # Safety
/// The machine has the product's instruction set; the operands cover `ROWS` rows, `units` units and [`PANEL`] columns.
#[inline(always)]
unsafe fn tile<P: Product, const ROWS: usize>(args: &TileArgs) {
    let mut first = 0;
    while first < HALF {
        // SAFETY: the caller vouches for the instruction set and for the operands' extents; `first + LANES <= HALF`, so
        // both vectors of each row lie within the panel's columns.
        unsafe {
            let bias = args.bias.add(first);
            let mut sums = [[P::Lanes::load(bias), P::Lanes::load(bias.add(HALF))]; ROWS];
            let mut input = args.input;
            let mut weights = args.weights.add(first);
            let mut left = args.units;
            while left > 0 {
                let units = left.min(CHUNK);
                for unit in 0..units {
                    P::accumulate(&mut sums, input.add(unit * P::INPUT_WORDS), weights);
                    weights = weights.add(PANEL);
                }
                input = input.add(ROWS * CHUNK * P::INPUT_WORDS);
                left -= units;
            }
            for (row, [low, high]) in sums.into_iter().enumerate() {
                low.store(args.out.add(row * args.out_stride + first));
                high.store(args.out.add(row * args.out_stride + HALF + first));
            }
        }
        first += P::Lanes::LANES;
    }
}

/// Computes a tile of `rows` rows, at most [`Product::MAX_TILE_ROWS`].
///
/// # Safety
/// As [`tile`].
#[inline(always)]
pub(super) unsafe fn tile_of_rows<P: Product>(rows: usize, args: &TileArgs) {
    macro_rules! heights {
        ($($height:literal)*) => {
            match rows {
                $(
                    // SAFETY: passed on from the caller.
                    $height if $height <= P::MAX_TILE_ROWS => unsafe { tile::<P, $height>(args) },
                )*
                _ => unreachable!("a tile of {rows} rows"),
            }
        };
    }
    heights!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

/// f32 inputs and weights.
pub(super) struct F32<V>(PhantomData<V>);

impl<V: Vector> Product for F32<V> {
    type Lanes = V;
    const INPUT_WORDS: usize = 1;
    // Two registers for the weight and one for the input.
    const MAX_TILE_ROWS: usize = (V::REGISTERS - 3) / 2;

    #[inline(always)]
    unsafe fn accumulate<const ROWS: usize>(sums: &mut [[V; 2]; ROWS], input: *const u32, weights: *const u32) {
        // SAFETY: the caller vouches for the instruction set and for `ROWS` rows of input and two vectors of weights.
        unsafe {
            let low = V::load(weights.cast());
            let high = V::load(weights.add(HALF).cast());
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = V::splat(input.cast::<f32>().add(row * CHUNK).read());
                *sums = [x.mul_add(low, sums[0]), x.mul_add(high, sums[1])];
            }
        }
    }
}

/// bf16 weights, widened as they are read; inputs were widened when they were packed. For machines without bf16 products.
pub(super) struct Widened<V>(PhantomData<V>);

impl<V: Vector> Product for Widened<V> {
    type Lanes = V;
    const INPUT_WORDS: usize = 2;
    // Two registers more than f32, for the words between their even and odd halves: one sum that spills costs a third.
    const MAX_TILE_ROWS: usize = (V::REGISTERS - 5) / 2;

    #[inline(always)]
    unsafe fn accumulate<const ROWS: usize>(sums: &mut [[V; 2]; ROWS], input: *const u32, weights: *const u32) {
        // SAFETY: the caller vouches for the instruction set and for `ROWS` rows of input and two vectors of weights.
        unsafe {
            let (low, high) = (V::load_even(weights), V::load_even(weights.add(HALF)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = V::splat(input.cast::<f32>().add(row * 2 * CHUNK).read());
                *sums = [x.mul_add(low, sums[0]), x.mul_add(high, sums[1])];
            }
            let (low, high) = (V::load_odd(weights), V::load_odd(weights.add(HALF)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = V::splat(input.cast::<f32>().add(row * 2 * CHUNK + 1).read());
                *sums = [x.mul_add(low, sums[0]), x.mul_add(high, sums[1])];
            }
        }
    }
}
