//! AVX2 + FMA: eight lanes, tiles of 6 rows by 2 vectors (12 of 16 registers accumulate).

use std::arch::x86_64::*;

use super::kernel::{self, Workspace};
use super::tile::Tile;
use super::vector::{Plain, Vector};
use crate::device::cpu::kv::HeadLayout;

/// Eight lanes.
pub(super) struct Avx2;

/// Vectors side by side in a register tile.
const SIDE: usize = 2;

/// Computes a tile in f32, over f32 pages or widened bf16 pages.
///
/// # Safety
/// The machine has AVX2 and FMA; `work` fits the tile.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run(tile: &Tile<'_>, layout: HeadLayout, work: &Workspace) {
    // SAFETY: the caller's contract.
    unsafe { kernel::run::<Plain<Avx2>, SIDE>(tile, layout, work) }
}

/// A method body whose only precondition is the instruction set (and its pointers), which the trait's contract grants.
macro_rules! body {
    ($($code:tt)*) => {{
        // SAFETY: the contract of `Vector`.
        unsafe { $($code)* }
    }};
}

impl Vector for Avx2 {
    const LANES: usize = 8;
    type F = __m256;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        body!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        body!(_mm256_loadu_ps(from))
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> __m256 {
        body!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast())))))
    }
    #[inline(always)]
    unsafe fn load_low(from: *const u32) -> __m256 {
        body!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_loadu_si256(from.cast()))))
    }
    #[inline(always)]
    unsafe fn load_high(from: *const u32) -> __m256 {
        body!(_mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(from.cast()), _mm256_set1_epi32(-65536))))
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: __m256) {
        body!(_mm256_storeu_ps(to, x))
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, x: __m256) {
        body!({
            let bits = _mm256_castps_si256(x);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
            let upper = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan));
            // The pack works within 128-bit halves; the permutation brings its two useful quarters together.
            let packed = _mm256_permute4x64_epi64::<0b00_00_10_00>(_mm256_packus_epi32(upper, upper));
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed));
        })
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        body!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        body!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        body!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    unsafe fn div(a: __m256, b: __m256) -> __m256 {
        body!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        body!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        body!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    unsafe fn to_exponent(x: __m256) -> __m256 {
        body!(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(x))))
    }
    #[inline(always)]
    unsafe fn keep_first(x: __m256, lanes: i32) -> __m256 {
        body!({
            let index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let keep = _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), index);
            _mm256_blendv_ps(_mm256_set1_ps(f32::NEG_INFINITY), x, _mm256_castsi256_ps(keep))
        })
    }
    #[inline(always)]
    unsafe fn largest(x: __m256) -> f32 {
        body!({
            let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps::<1>(x, x)))
        })
    }
    #[inline(always)]
    unsafe fn sum(x: __m256) -> f32 {
        body!({
            let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
        })
    }
}
