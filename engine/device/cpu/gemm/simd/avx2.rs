//! AVX2 and FMA: 8 lanes, tiles of 6 rows (12 of the 16 registers hold sums).

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Sub};

use half::bf16;

use super::epilogue::{FinishArgs, finish};
use super::tile::{self, TileArgs, tile_of_rows};
use super::{Kernel, Product, Vector};

/// Kernel for f32.
pub(super) const F32: Kernel = kernel::<tile::F32<Ymm>>(f32_tile);
/// Kernel for bf16, widened to f32.
pub(super) const BF16: Kernel = kernel::<tile::Widened<Ymm>>(bf16_tile);

const fn kernel<P: Product>(tile: unsafe fn(usize, &TileArgs)) -> Kernel {
    Kernel { max_tile_rows: P::MAX_TILE_ROWS, input_words: P::INPUT_WORDS, tile, finish: finish_tile }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn f32_tile(rows: usize, args: &TileArgs) {
    // SAFETY: passed on from the caller.
    unsafe { tile_of_rows::<tile::F32<Ymm>>(rows, args) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn bf16_tile(rows: usize, args: &TileArgs) {
    // SAFETY: passed on from the caller.
    unsafe { tile_of_rows::<tile::Widened<Ymm>>(rows, args) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn finish_tile(args: &FinishArgs) {
    // SAFETY: passed on from the caller.
    unsafe { finish::<Ymm>(args) }
}

/// 8 lanes; proof of AVX2 and FMA.
#[derive(Clone, Copy)]
pub(super) struct Ymm(__m256);

macro_rules! operators {
    ($($operator:ident $method:ident $intrinsic:ident;)*) => {$(
        impl $operator for Ymm {
            type Output = Ymm;
            #[inline(always)]
            fn $method(self, other: Ymm) -> Ymm {
                // SAFETY: a value is proof of the instruction set.
                Ymm(unsafe { $intrinsic(self.0, other.0) })
            }
        }
    )*};
}

operators! {
    Add add _mm256_add_ps;
    Sub sub _mm256_sub_ps;
    Mul mul _mm256_mul_ps;
    Div div _mm256_div_ps;
}

impl Vector for Ymm {
    const LANES: usize = 8;
    const REGISTERS: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Ymm {
        // SAFETY: the caller vouches for the instruction set.
        Ymm(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Ymm {
        // SAFETY: passed on from the caller.
        Ymm(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_even(from: *const u32) -> Ymm {
        // SAFETY: passed on from the caller.
        unsafe { Ymm(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_loadu_si256(from.cast())))) }
    }

    #[inline(always)]
    unsafe fn load_odd(from: *const u32) -> Ymm {
        // SAFETY: passed on from the caller.
        unsafe {
            let words = _mm256_loadu_si256(from.cast());
            Ymm(_mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(0xffff_0000_u32 as i32))))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: passed on from the caller.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16) {
        // SAFETY: a value is proof of the instruction set; the caller vouches for 8 elements at `to`.
        unsafe {
            let bits = _mm256_castps_si256(self.0);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0));
            let words = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan));
            // Packing works within 128-bit lanes: halves 0 and 2 hold the result.
            let packed = _mm256_permute4x64_epi64::<0b10_00>(_mm256_packus_epi32(words, words));
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed));
        }
    }

    #[inline(always)]
    fn like(self, value: f32) -> Ymm {
        // SAFETY: a value is proof of the instruction set.
        unsafe { Ymm::splat(value) }
    }

    #[inline(always)]
    fn mul_add(self, b: Ymm, c: Ymm) -> Ymm {
        // SAFETY: a value is proof of the instruction set.
        Ymm(unsafe { _mm256_fmadd_ps(self.0, b.0, c.0) })
    }

    #[inline(always)]
    fn at_least(self, limit: f32) -> Ymm {
        // The instruction returns its second operand if either is NaN.
        // SAFETY: a value is proof of the instruction set.
        Ymm(unsafe { _mm256_max_ps(self.like(limit).0, self.0) })
    }

    #[inline(always)]
    fn at_most(self, limit: f32) -> Ymm {
        // SAFETY: a value is proof of the instruction set.
        Ymm(unsafe { _mm256_min_ps(self.like(limit).0, self.0) })
    }

    #[inline(always)]
    fn round(self) -> Ymm {
        // SAFETY: a value is proof of the instruction set.
        Ymm(unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }

    #[inline(always)]
    fn exp2_integer(self) -> Ymm {
        // SAFETY: a value is proof of the instruction set.
        unsafe {
            let biased = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
            Ymm(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased)))
        }
    }

    #[inline(always)]
    fn abs(self) -> Ymm {
        // SAFETY: a value is proof of the instruction set.
        Ymm(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
    }

    #[inline(always)]
    fn with_sign(self, sign: Ymm) -> Ymm {
        // SAFETY: a value is proof of the instruction set.
        Ymm(unsafe { _mm256_or_ps(self.0, _mm256_and_ps(_mm256_set1_ps(-0.0), sign.0)) })
    }

    #[inline(always)]
    fn select_above(self, limit: f32, yes: Ymm, no: Ymm) -> Ymm {
        // SAFETY: a value is proof of the instruction set.
        Ymm(unsafe { _mm256_blendv_ps(no.0, yes.0, _mm256_cmp_ps::<_CMP_GT_OQ>(self.0, self.like(limit).0)) })
    }
}
