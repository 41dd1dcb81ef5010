//! The little that the kernel needs from an instruction set ([`Vector`]) and from a stored type ([`Cells`]).

use std::marker::PhantomData;

/// f32 lanes of one instruction set.
///
/// # Safety
/// Every method requires that the machine has the instruction set; pointers are valid for the lanes they name, and need no
/// alignment. Methods are `inline(always)`: they become single instructions once they are inlined into an entry point that is
/// compiled for the instruction set.
pub(super) trait Vector {
    /// f32 lanes of a vector; divides 16.
    const LANES: usize;
    /// A vector.
    type F: Copy;

    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self::F;
    /// `LANES` f32.
    unsafe fn load(from: *const f32) -> Self::F;
    /// `LANES` bf16, widened.
    unsafe fn load_bf16(from: *const u16) -> Self::F;
    /// The lower bf16 of each of `LANES` cells, widened.
    unsafe fn load_low(from: *const u32) -> Self::F;
    /// The upper bf16 of each of `LANES` cells, widened.
    unsafe fn load_high(from: *const u32) -> Self::F;
    /// `LANES` f32.
    unsafe fn store(to: *mut f32, x: Self::F);
    /// `LANES` bf16, rounded to nearest even; NaN stays NaN.
    unsafe fn store_bf16(to: *mut u16, x: Self::F);
    /// a + b
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    /// a - b
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    /// a b
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// a / b
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// a b + c, rounded once
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// a > b ? a : b; so b where either is NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// Each lane's bits, moved up by 23: an integer in the low mantissa bits becomes an exponent.
    unsafe fn to_exponent(x: Self::F) -> Self::F;
    /// Lanes from `lanes` on become negative infinity.
    unsafe fn keep_first(x: Self::F, lanes: i32) -> Self::F;
    /// Largest lane.
    unsafe fn largest(x: Self::F) -> f32;
    /// Sum of the lanes, in a fixed order.
    unsafe fn sum(x: Self::F) -> f32;
}

/// How stored 32-bit cells enter a matrix product. A *step* multiplies one broadcast cell of each row with one cell of each
/// lane: one f32 element of the reduction, or two bf16 elements.
///
/// # Safety
/// As for [`Vector`].
pub(super) trait Cells {
    /// Lanes.
    type V: Vector;
    /// Terms of the exponential's polynomial: as many as the stored probabilities can show.
    const EXP_TERMS: usize;

    /// acc[r][v] += left[r] * right[v]
    unsafe fn step<const MR: usize, const NV: usize>(
        acc: &mut [[<Self::V as Vector>::F; NV]; MR],
        left: [*const u32; MR],
        right: [*const u32; NV],
    );
    /// Writes a cell of the left operand from the elements of one step (f32 uses the first).
    unsafe fn put_left(to: *mut u32, elements: [f32; 2]);
    /// Stores `LANES` probabilities at lane `at` of a row of left operands.
    unsafe fn put_probabilities(row: *mut u32, at: usize, x: <Self::V as Vector>::F);
}

/// f32 cells. bf16 blocks are widened to f32 before they get here: once for all rows of a tile.
pub(super) struct Plain<V>(PhantomData<V>);

impl<V: Vector> Cells for Plain<V> {
    type V = V;
    const EXP_TERMS: usize = 6;

    #[inline(always)]
    unsafe fn step<const MR: usize, const NV: usize>(
        acc: &mut [[V::F; NV]; MR],
        left: [*const u32; MR],
        right: [*const u32; NV],
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            let right = right.map(|cells| V::load(cells.cast()));
            for r in 0..MR {
                let left = V::splat(left[r].cast::<f32>().read());
                for v in 0..NV {
                    acc[r][v] = V::fma(left, right[v], acc[r][v]);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn put_left(to: *mut u32, elements: [f32; 2]) {
        // SAFETY: the caller's contract.
        unsafe { to.cast::<f32>().write(elements[0]) };
    }

    #[inline(always)]
    unsafe fn put_probabilities(row: *mut u32, at: usize, x: V::F) {
        // SAFETY: the caller's contract.
        unsafe { V::store(row.cast::<f32>().add(at), x) };
    }
}

/// 2^t for t <= 1, within 1 ulp (6 terms) or 4e-6 relative (4 terms). Exactly 1 at 0, and exactly 0 from -127 down and for
/// NaN: a masked score adds nothing, and a row that has seen no key yet keeps a zero sum.
///
/// t = n + f with |f| <= 1/2: adding 1.5 * 2^23 + 127 rounds t to an integer and leaves n + 127 in the low bits, ready to be an
/// exponent. At n = -127 that exponent is 0, and the factor is zero.
///
/// # Safety
/// As for [`Vector`].
#[inline(always)]
pub(super) unsafe fn exp2<V: Vector, const TERMS: usize>(t: V::F) -> V::F {
    const ROUND: f32 = 12_582_912.0 + 127.0;
    // Minimax polynomials of relative error on [-1/2, 1/2] with a constant term of 1, highest power first.
    const FOUR: [f32; 4] = [0.009_592_245, 0.055_947_203, 0.240_239_26, 0.693_119_4];
    const SIX: [f32; 6] =
        [0.000_153_297_28, 0.001_340_135_5, 0.009_618_511, 0.055_503_264, 0.240_226_48, std::f32::consts::LN_2];
    let terms: &[f32] = if TERMS == 4 { &FOUR } else { &SIX };
    // SAFETY: the caller's contract.
    unsafe {
        let t = V::max(t, V::splat(-127.0));
        let rounded = V::add(t, V::splat(ROUND));
        let f = V::sub(t, V::sub(rounded, V::splat(ROUND)));
        let mut p = V::splat(terms[0]);
        for &term in &terms[1..] {
            p = V::fma(p, f, V::splat(term));
        }
        p = V::fma(p, f, V::splat(1.0));
        V::mul(p, V::to_exponent(rounded))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{avx2::Avx2, avx512::Avx512};
    use super::*;
    use crate::device::cpu::Isa;

    /// `exp2` of one value in every lane; all lanes must agree.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn all_lanes<V: Vector, const TERMS: usize>(t: f32) -> f32 {
        let mut lanes = [0f32; 16];
        // SAFETY: the caller's contract; a vector has at most 16 lanes.
        unsafe { V::store(lanes.as_mut_ptr(), exp2::<V, TERMS>(V::splat(t))) };
        assert!(lanes[..V::LANES].iter().all(|x| x.to_bits() == lanes[0].to_bits()));
        lanes[0]
    }

    fn check<V: Vector>(isa: Isa) {
        if !isa.is_available() {
            return;
        }
        // SAFETY: the instruction set is available.
        let six = |t| unsafe { all_lanes::<V, 6>(t) };
        // SAFETY: as above.
        let four = |t| unsafe { all_lanes::<V, 4>(t) };
        for masked in [f32::NEG_INFINITY, f32::NAN, -1e30, -200.0, -127.0] {
            assert_eq!((six(masked).to_bits(), four(masked).to_bits()), (0, 0), "2^{masked}");
        }
        for n in 0..=126 {
            assert_eq!(six(-n as f32), 2f32.powi(-n), "powers of two are exact");
        }
        for i in -1000..=126_000 {
            let t = -i as f32 / 1000.0;
            let exact = f64::from(t).exp2();
            assert!((f64::from(six(t)) / exact - 1.0).abs() < 1.5e-7, "2^{t}");
            assert!((f64::from(four(t)) / exact - 1.0).abs() < 5e-6, "2^{t}");
        }
    }

    #[test]
    fn exp2_is_exact_where_it_must_be_and_close_elsewhere() {
        check::<Avx2>(Isa::Avx2);
        check::<Avx512>(Isa::Avx512);
    }
}
