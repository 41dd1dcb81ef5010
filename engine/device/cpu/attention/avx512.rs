//! AVX-512, with and without bf16 products: sixteen lanes, tiles of 6 rows by 4 vectors (24 of 32 registers accumulate).

use std::arch::x86_64::*;
use std::mem::transmute;

use super::kernel::{self, Workspace};
use super::tile::Tile;
use super::vector::{Cells, Plain, Vector};
use crate::device::cpu::kv::HeadLayout;

/// Sixteen lanes.
pub(super) struct Avx512;

/// bf16 pairs multiplied by `vdpbf16ps`. Probabilities are rounded to bf16; sums stay f32.
pub(super) struct Native;

/// Vectors side by side in a register tile.
const SIDE: usize = 4;

/// Computes a tile in f32, over f32 pages or widened bf16 pages.
///
/// # Safety
/// The machine has AVX-512 F, BW, DQ and VL; `work` fits the tile.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
pub(super) unsafe fn run(tile: &Tile<'_>, layout: HeadLayout, work: &Workspace) {
    // SAFETY: the caller's contract.
    unsafe { kernel::run::<Plain<Avx512>, SIDE>(tile, layout, work) }
}

/// Computes a tile over bf16 pages with bf16 products.
///
/// # Safety
/// As for [`run`], and the machine has AVX512_BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma")]
pub(super) unsafe fn run_native(tile: &Tile<'_>, layout: HeadLayout, work: &Workspace) {
    // SAFETY: the caller's contract.
    unsafe { kernel::run::<Native, SIDE>(tile, layout, work) }
}

/// A method body whose only precondition is the instruction set (and its pointers), which the trait's contract grants.
macro_rules! body {
    ($($code:tt)*) => {{
        // SAFETY: the contract of `Vector` and `Cells`.
        unsafe { $($code)* }
    }};
}

impl Vector for Avx512 {
    const LANES: usize = 16;
    type F = __m512;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        body!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        body!(_mm512_loadu_ps(from))
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> __m512 {
        body!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())))))
    }
    #[inline(always)]
    unsafe fn load_low(from: *const u32) -> __m512 {
        body!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_loadu_si512(from.cast()))))
    }
    #[inline(always)]
    unsafe fn load_high(from: *const u32) -> __m512 {
        body!(_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(from.cast()), _mm512_set1_epi32(-65536))))
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: __m512) {
        body!(_mm512_storeu_ps(to, x))
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, x: __m512) {
        body!({
            let bits = _mm512_castps_si512(x);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
            let upper = _mm512_srli_epi32::<16>(_mm512_mask_mov_epi32(rounded, nan, quiet));
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(upper));
        })
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        body!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        body!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        body!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        body!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        body!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        body!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    unsafe fn to_exponent(x: __m512) -> __m512 {
        body!(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(x))))
    }
    #[inline(always)]
    unsafe fn keep_first(x: __m512, lanes: i32) -> __m512 {
        let keep = ((1u32 << lanes.clamp(0, 16)) - 1) as __mmask16;
        body!(_mm512_mask_mov_ps(_mm512_set1_ps(f32::NEG_INFINITY), keep, x))
    }
    #[inline(always)]
    unsafe fn largest(x: __m512) -> f32 {
        body!({
            let x = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
            let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps::<1>(x, x)))
        })
    }
    #[inline(always)]
    unsafe fn sum(x: __m512) -> f32 {
        body!({
            let x = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
            let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
        })
    }
}

impl Cells for Native {
    type V = Avx512;
    const EXP_TERMS: usize = 4;

    #[inline(always)]
    unsafe fn step<const MR: usize, const NV: usize>(
        acc: &mut [[__m512; NV]; MR],
        left: [*const u32; MR],
        right: [*const u32; NV],
    ) {
        body!({
            let right = right.map(|cells| transmute::<__m512i, __m512bh>(_mm512_loadu_si512(cells.cast())));
            for r in 0..MR {
                let left = transmute::<__m512i, __m512bh>(_mm512_set1_epi32(left[r].cast::<i32>().read()));
                for v in 0..NV {
                    acc[r][v] = _mm512_dpbf16_ps(acc[r][v], left, right[v]);
                }
            }
        })
    }

    #[inline(always)]
    unsafe fn put_left(to: *mut u32, elements: [f32; 2]) {
        // The elements are bf16 already: their upper halves are exact.
        body!(to.write(elements[0].to_bits() >> 16 | elements[1].to_bits() & 0xffff_0000))
    }

    #[inline(always)]
    unsafe fn put_probabilities(row: *mut u32, at: usize, x: __m512) {
        body!(_mm256_storeu_si256(row.add(at / 2).cast(), transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x))))
    }
}
