//! Matrix products with vector instructions: one micro-kernel, one epilogue and one set of functions, written over
//! [`Vector`] and instantiated for each instruction set.
//!
//! A *tile* is up to [`Product::MAX_TILE_ROWS`] rows of the input times one panel of the weight, over the whole of k in one
//! pass: every element has one accumulator, in a register, that adds its products in the order of k. That is what makes a
//! row's result independent of its neighbours: tiles of every height, and the one-row case, run the same chain.
//!
//! Weights stream from L2: at 14 rows a tile does 28 vector products for each 128 bytes it reads, about 4.6 bytes a cycle
//! of the 31 that L2 delivers, so no blocking of k is needed.

mod avx2;
mod avx512;
mod block;
mod epilogue;
mod math;
mod tile;

pub(super) use block::block;

use half::bf16;

use self::epilogue::FinishArgs;
use self::tile::TileArgs;
use crate::device::Dtype;
use crate::device::cpu::Isa;

/// f32 lanes of one register.
///
/// A value can only be made (`splat`, `load`) where the caller vouches for the instruction set. Everything that starts from
/// a value is therefore safe: the value is the proof.
pub(super) trait Vector:
    Copy
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
{
    /// Lanes; divides half a panel.
    const LANES: usize;
    /// Registers.
    const REGISTERS: usize;

    /// All lanes `value`.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn splat(value: f32) -> Self;
    /// Reads all lanes.
    ///
    /// # Safety
    /// The machine has the instruction set and `from` is readable for all lanes.
    unsafe fn load(from: *const f32) -> Self;
    /// Reads the even-k bf16 of each word, widened.
    ///
    /// # Safety
    /// As [`Vector::load`].
    unsafe fn load_even(from: *const u32) -> Self;
    /// Reads the odd-k bf16 of each word, widened.
    ///
    /// # Safety
    /// As [`Vector::load`].
    unsafe fn load_odd(from: *const u32) -> Self;
    /// Writes all lanes.
    ///
    /// # Safety
    /// `to` is writable for all lanes.
    unsafe fn store(self, to: *mut f32);
    /// Writes all lanes, rounded to the nearest bf16 (ties to even, NaN stays NaN).
    ///
    /// # Safety
    /// `to` is writable for all lanes.
    unsafe fn store_bf16(self, to: *mut bf16);

    /// All lanes `value`: a constant beside `self`.
    fn like(self, value: f32) -> Self;
    /// `self * b + c`, rounded once.
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// The larger of `self` and `limit`; NaN stays NaN.
    fn at_least(self, limit: f32) -> Self;
    /// The smaller of `self` and `limit`; NaN stays NaN.
    fn at_most(self, limit: f32) -> Self;
    /// The nearest integer, ties to even.
    fn round(self) -> Self;
    /// 2 to the power `self`, an integer between -126 and 127.
    fn exp2_integer(self) -> Self;
    /// Without the sign.
    fn abs(self) -> Self;
    /// With the sign of `sign`; `self` is not negative.
    fn with_sign(self, sign: Self) -> Self;
    /// `yes` where `self > limit`, else `no`.
    fn select_above(self, limit: f32, yes: Self, no: Self) -> Self;
}

/// How packed inputs meet packed weights.
pub(super) trait Product {
    /// Registers it works in.
    type Lanes: Vector;
    /// Input words for one unit of k.
    const INPUT_WORDS: usize;
    /// Most rows of a tile: two sums a row, and what else a step needs, fit the registers.
    const MAX_TILE_ROWS: usize;

    /// Adds one unit of k to a tile's accumulators. Row r's input word is `input[r * row_words]`.
    ///
    /// # Safety
    /// The machine has the instruction set; `input` is readable for `rows` rows, `weights` for the lanes and again
    /// [`HALF`](super::packed::HALF) words further on.
    unsafe fn accumulate<const ROWS: usize>(
        sums: &mut [[Self::Lanes; 2]; ROWS],
        input: *const u32,
        weights: *const u32,
    );
}

/// The entry points of one instruction set and element type.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    /// Most rows of a tile.
    max_tile_rows: usize,
    /// Input words for one unit of k: 2 where bf16 inputs are widened.
    input_words: usize,
    /// Products of a tile.
    tile: unsafe fn(usize, &TileArgs),
    /// Epilogue of a tile.
    finish: unsafe fn(&FinishArgs),
}

impl Kernel {
    /// The kernel of an instruction set, or `None` for the scalar one.
    ///
    /// # Panics
    /// If this machine lacks it.
    pub(super) fn choose(isa: Isa, dtype: Dtype) -> Option<Kernel> {
        // The detection is cached by the standard library: a load and a test.
        assert!(isa.is_available(), "this machine has no {}", isa.name());
        match (isa, dtype) {
            (Isa::Scalar, _) => None,
            (Isa::Avx2, Dtype::F32) => Some(avx2::F32),
            (Isa::Avx2, Dtype::Bf16) => Some(avx2::BF16),
            (Isa::Avx512 | Isa::Avx512Bf16, Dtype::F32) => Some(avx512::F32),
            (Isa::Avx512, Dtype::Bf16) => Some(avx512::BF16_WIDENED),
            (Isa::Avx512Bf16, Dtype::Bf16) => Some(avx512::BF16),
        }
    }
}
