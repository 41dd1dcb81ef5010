//! AVX-512, with and without bf16 products: 16 lanes, tiles of 14 rows (28 of the 32 registers hold sums).

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Sub};

use half::bf16;

use super::epilogue::{FinishArgs, finish};
use super::tile::{self, CHUNK, TileArgs, tile_of_rows};
use super::{Kernel, Product, Vector};
use crate::device::cpu::gemm::packed::HALF;

/// Kernel for f32.
pub(super) const F32: Kernel = kernel::<tile::F32<Zmm>>(f32_tile);
/// Kernel for bf16, widened to f32.
pub(super) const BF16_WIDENED: Kernel = kernel::<tile::Widened<Zmm>>(widened_tile);
/// Kernel for bf16 with `vdpbf16ps`.
pub(super) const BF16: Kernel = kernel::<PairDot>(bf16_tile);

const fn kernel<P: Product>(tile: unsafe fn(usize, &TileArgs)) -> Kernel {
    Kernel { max_tile_rows: P::MAX_TILE_ROWS, input_words: P::INPUT_WORDS, tile, finish: finish_tile }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn f32_tile(rows: usize, args: &TileArgs) {
    // SAFETY: passed on from the caller.
    unsafe { tile_of_rows::<tile::F32<Zmm>>(rows, args) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn widened_tile(rows: usize, args: &TileArgs) {
    // SAFETY: passed on from the caller.
    unsafe { tile_of_rows::<tile::Widened<Zmm>>(rows, args) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn bf16_tile(rows: usize, args: &TileArgs) {
    // SAFETY: passed on from the caller.
    unsafe { tile_of_rows::<PairDot>(rows, args) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn finish_tile(args: &FinishArgs) {
    // SAFETY: passed on from the caller.
    unsafe { finish::<Zmm>(args) }
}

/// Pairs of bf16 with `vdpbf16ps`, which rounds after each of the two products and takes denormals for zero.
struct PairDot;

impl Product for PairDot {
    type Lanes = Zmm;
    const INPUT_WORDS: usize = 1;
    // As for f32.
    const MAX_TILE_ROWS: usize = 14;

    #[inline(always)]
    unsafe fn accumulate<const ROWS: usize>(sums: &mut [[Zmm; 2]; ROWS], input: *const u32, weights: *const u32) {
        // SAFETY: the caller vouches for the instruction set and for `ROWS` rows of input and two vectors of weights.
        // 512 bits are 512 bits: the transmutes only rename them.
        unsafe {
            let pairs = |words: __m512i| std::mem::transmute::<__m512i, __m512bh>(words);
            let low = pairs(_mm512_loadu_si512(weights.cast()));
            let high = pairs(_mm512_loadu_si512(weights.add(HALF).cast()));
            for (row, sums) in sums.iter_mut().enumerate() {
                let x = pairs(_mm512_set1_epi32(input.add(row * CHUNK).read().cast_signed()));
                *sums = [Zmm(_mm512_dpbf16_ps(sums[0].0, x, low)), Zmm(_mm512_dpbf16_ps(sums[1].0, x, high))];
            }
        }
    }
}

/// 16 lanes; proof of AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy)]
pub(super) struct Zmm(__m512);

macro_rules! operators {
    ($($operator:ident $method:ident $intrinsic:ident;)*) => {$(
        impl $operator for Zmm {
            type Output = Zmm;
            #[inline(always)]
            fn $method(self, other: Zmm) -> Zmm {
                // SAFETY: a value is proof of the instruction set.
                Zmm(unsafe { $intrinsic(self.0, other.0) })
            }
        }
    )*};
}

operators! {
    Add add _mm512_add_ps;
    Sub sub _mm512_sub_ps;
    Mul mul _mm512_mul_ps;
    Div div _mm512_div_ps;
}

impl Vector for Zmm {
    const LANES: usize = 16;
    const REGISTERS: usize = 32;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Zmm {
        // SAFETY: the caller vouches for the instruction set.
        Zmm(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Zmm {
        // SAFETY: passed on from the caller.
        Zmm(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_even(from: *const u32) -> Zmm {
        // SAFETY: passed on from the caller.
        unsafe { Zmm(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_loadu_si512(from.cast())))) }
    }

    #[inline(always)]
    unsafe fn load_odd(from: *const u32) -> Zmm {
        // SAFETY: passed on from the caller.
        unsafe {
            let words = _mm512_loadu_si512(from.cast());
            Zmm(_mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(0xffff_0000_u32 as i32))))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: passed on from the caller.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        // SAFETY: a value is proof of the instruction set; the caller vouches for 16 elements at `to`.
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            let quieted = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x0040_0000));
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(quieted)));
        }
    }

    #[inline(always)]
    fn like(self, value: f32) -> Zmm {
        // SAFETY: a value is proof of the instruction set.
        unsafe { Zmm::splat(value) }
    }

    #[inline(always)]
    fn mul_add(self, b: Zmm, c: Zmm) -> Zmm {
        // SAFETY: a value is proof of the instruction set.
        Zmm(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
    }

    #[inline(always)]
    fn at_least(self, limit: f32) -> Zmm {
        // The instruction returns its second operand if either is NaN.
        // SAFETY: a value is proof of the instruction set.
        Zmm(unsafe { _mm512_max_ps(self.like(limit).0, self.0) })
    }

    #[inline(always)]
    fn at_most(self, limit: f32) -> Zmm {
        // SAFETY: a value is proof of the instruction set.
        Zmm(unsafe { _mm512_min_ps(self.like(limit).0, self.0) })
    }

    #[inline(always)]
    fn round(self) -> Zmm {
        // SAFETY: a value is proof of the instruction set.
        Zmm(unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }

    #[inline(always)]
    fn exp2_integer(self) -> Zmm {
        // SAFETY: a value is proof of the instruction set.
        unsafe {
            let biased = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            Zmm(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(biased)))
        }
    }

    #[inline(always)]
    fn abs(self) -> Zmm {
        // SAFETY: a value is proof of the instruction set.
        Zmm(unsafe { _mm512_andnot_ps(_mm512_set1_ps(-0.0), self.0) })
    }

    #[inline(always)]
    fn with_sign(self, sign: Zmm) -> Zmm {
        // SAFETY: a value is proof of the instruction set.
        Zmm(unsafe { _mm512_or_ps(self.0, _mm512_and_ps(_mm512_set1_ps(-0.0), sign.0)) })
    }

    #[inline(always)]
    fn select_above(self, limit: f32, yes: Zmm, no: Zmm) -> Zmm {
        // SAFETY: a value is proof of the instruction set.
        unsafe {
            let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self.0, self.like(limit).0);
            Zmm(_mm512_mask_blend_ps(above, no.0, yes.0))
        }
    }
}
