//! Row reductions in a fixed order: sum of squares, maximum, sum of exponentials.
//!
//! The scalar forms are the oracle: plain loops, left to right. The vector forms keep 16 partial sums (element i goes to sum
//! i mod 16) and fold them by halves, so AVX2 and AVX-512 give the same bits, and a row's result depends on nothing but the
//! row. NaN: a maximum ignores it, a sum keeps it.

use super::Isa;

const LANES: usize = 16;

/// Defines `pub(super) fn name(isa, args) -> f32` that runs `plain` on the scalar set and `striped`, compiled for the set's
/// instructions, on the others.
macro_rules! by_isa {
    ($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) = $plain:ident, $striped:ident) => {
        $(#[$doc])*
        pub(super) fn $name(isa: Isa, $($arg: $type),*) -> f32 {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) -> f32 {
                    $striped($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $type),*) -> f32 {
                    $striped($($arg),*)
                }
                match isa {
                    Isa::Scalar => $plain($($arg),*),
                    // SAFETY: `CpuDevice::new` accepts only an available set, so this machine has AVX2 and FMA.
                    Isa::Avx2 => unsafe { avx2($($arg),*) },
                    // SAFETY: as above, for AVX-512 F, BW, DQ and VL.
                    Isa::Avx512 | Isa::Avx512Bf16 => unsafe { avx512($($arg),*) },
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            {
                let _ = isa;
                $plain($($arg),*)
            }
        }
    };
}

by_isa! {
    /// Sum of x^2.
    sum_squares(x: &[f32]) = sum_squares_plain, sum_squares_striped
}
by_isa! {
    /// Largest element, negative infinity of none.
    max(x: &[f32]) = max_plain, max_striped
}
by_isa! {
    /// Sum of exp(x - shift).
    sum_exp(x: &[f32], shift: f32) = sum_exp_plain, sum_exp_striped
}
by_isa! {
    /// Sum of weight * exp(x - shift).
    sum_weighted_exp(x: &[f32], weight: &[f32], shift: f32) = sum_weighted_exp_plain, sum_weighted_exp_striped
}

/// (maximum, sum of exponentials less the maximum): the two numbers that a log-sum-exp is merged from. Elements of negative
/// infinity do not count; of none that counts, the sum is 0.
pub(super) fn exp_parts(isa: Isa, x: &[f32]) -> (f32, f32) {
    let max = max(isa, x);
    let sum = if max == f32::NEG_INFINITY && !x.iter().any(|x| x.is_nan()) { 0.0 } else { sum_exp(isa, x, max) };
    (max, sum)
}

/// Log-sum-exp of parts, merged in index order. At least every maximum, since the largest part's sum is at least 1.
pub(super) fn merge_parts(isa: Isa, maxima: &[f32], sums: &[f32]) -> f32 {
    let max = max(isa, maxima);
    if max == f32::NEG_INFINITY && sums.iter().all(|&sum| sum == 0.0) {
        return f32::NEG_INFINITY;
    }
    max + sum_weighted_exp(isa, maxima, sums, max).ln()
}

fn sum_squares_plain(x: &[f32]) -> f32 {
    x.iter().map(|x| x * x).sum()
}

fn max_plain(x: &[f32]) -> f32 {
    x.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

fn sum_exp_plain(x: &[f32], shift: f32) -> f32 {
    x.iter().map(|x| (x - shift).exp()).sum()
}

fn sum_weighted_exp_plain(x: &[f32], weight: &[f32], shift: f32) -> f32 {
    // A weight of zero is a part in which nothing counts, whatever its maximum.
    x.iter().zip(weight).map(|(x, &weight)| if weight == 0.0 { 0.0 } else { weight * (x - shift).exp() }).sum()
}

/// Runs `each(lane, partial, element)` over 16 stripes of `x` and folds the stripes with `fold`.
#[inline(always)]
fn striped(x: &[f32], zero: f32, each: impl Fn(f32, f32) -> f32, fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut partial = [zero; LANES];
    let (blocks, tail) = x.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            partial[lane] = each(partial[lane], block[lane]);
        }
    }
    for (partial, &x) in partial.iter_mut().zip(tail) {
        *partial = each(*partial, x);
    }
    fold_halves(partial, fold)
}

#[inline(always)]
fn fold_halves(mut partial: [f32; LANES], fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            partial[lane] = fold(partial[lane], partial[lane + half]);
        }
        half /= 2;
    }
    partial[0]
}

#[inline(always)]
fn sum_squares_striped(x: &[f32]) -> f32 {
    striped(x, 0.0, |sum, x| x.mul_add(x, sum), |a, b| a + b)
}

#[inline(always)]
fn max_striped(x: &[f32]) -> f32 {
    // A comparison, not f32::max: it is one instruction, and a NaN element never wins it.
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    striped(x, f32::NEG_INFINITY, larger, larger)
}

#[inline(always)]
fn sum_exp_striped(x: &[f32], shift: f32) -> f32 {
    striped(x, 0.0, |sum, x| sum + exp(x - shift), |a, b| a + b)
}

#[inline(always)]
fn sum_weighted_exp_striped(x: &[f32], weight: &[f32], shift: f32) -> f32 {
    let mut partial = [0.0; LANES];
    let term = |x: f32, weight: f32| if weight == 0.0 { 0.0 } else { weight * exp(x - shift) };
    let (blocks, tail) = x.as_chunks::<LANES>();
    let (weight_blocks, weight_tail) = weight.as_chunks::<LANES>();
    for (block, weights) in blocks.iter().zip(weight_blocks) {
        for lane in 0..LANES {
            partial[lane] += term(block[lane], weights[lane]);
        }
    }
    for ((partial, &x), &weight) in partial.iter_mut().zip(tail).zip(weight_tail) {
        *partial += term(x, weight);
    }
    fold_halves(partial, |a, b| a + b)
}

/// exp(x) for x <= about 88, to within 2 units in the last place; 0 below -87.3, 1 exactly at 0, NaN of NaN.
///
/// exp(x) = 2^n exp(r) with n = round(x / ln 2) and |r| <= ln 2 / 2; exp(r) is Cephes' degree-6 polynomial. The ln 2 is split
/// in two so that n ln 2 is exact in its leading part.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer that sits in the low bits
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
    let mut p = 1.987_569_2e-4_f32;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p.mul_add(r, c);
    }
    let mantissa = (p * r).mul_add(r, r) + 1.0;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32).wrapping_add(127) << 23;
    let value = mantissa * f32::from_bits(exponent as u32);
    if x < -87.3 { 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 * 20.0 - 10.0
        };
        (0..len).map(|_| next()).collect()
    }

    fn sets() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available())
    }

    #[test]
    fn reductions_agree_with_f64() {
        for isa in sets() {
            for len in [0, 1, 5, 15, 16, 17, 31, 64, 1000, 1024, 2049] {
                let x = row(len, len as u32 + 1);
                // Left to right, the error of a sum grows with its length; striped, it hardly does.
                let tolerance = if isa == Isa::Scalar { 1e-5 } else { 1e-6 };
                let squares: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
                assert!((f64::from(sum_squares(isa, &x)) - squares).abs() <= tolerance * squares, "{isa:?} {len}");
                let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                assert_eq!(max(isa, &x), largest, "{isa:?} {len}");
                if len > 0 {
                    let exps: f64 = x.iter().map(|&x| f64::from(x - largest).exp()).sum();
                    assert!((f64::from(sum_exp(isa, &x, largest)) - exps).abs() <= tolerance * exps, "{isa:?} {len}");
                }
            }
        }
    }

    #[test]
    fn vector_sets_agree_bit_for_bit() {
        let x = row(1003, 9);
        let bits: Vec<(u32, u32)> = sets()
            .filter(|&isa| isa != Isa::Scalar)
            .map(|isa| (sum_squares(isa, &x).to_bits(), sum_exp(isa, &x, 10.0).to_bits()))
            .collect();
        assert!(bits.windows(2).all(|pair| pair[0] == pair[1]), "{bits:?}");
    }

    #[test]
    fn the_exponential_is_accurate_where_it_is_used() {
        for step in 0..100_000 {
            let x = -(step as f32) * 1e-3;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs();
            assert!(error <= exact * 2.5e-7 + 1.3e-38, "exp({x}) = {} and not {exact}", exp(x));
        }
        assert_eq!((exp(0.0), exp(f32::NEG_INFINITY)), (1.0, 0.0));
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn parts_merge_to_the_whole() {
        for isa in sets() {
            let x = row(700, 3);
            let exact = x.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
            let mut parts: Vec<(f32, f32)> = x.chunks(64).map(|part| exp_parts(isa, part)).collect();
            parts.insert(3, exp_parts(isa, &[f32::NEG_INFINITY; 20]));
            let (maxima, sums): (Vec<f32>, Vec<f32>) = parts.into_iter().unzip();
            let merged = merge_parts(isa, &maxima, &sums);
            assert!((f64::from(merged) - exact).abs() < 2e-6, "{isa:?}: {merged} and not {exact}");
            assert!(merged >= max(isa, &x));
            // A part that counts nothing changes no bit.
            let without = |v: &[f32]| v.iter().enumerate().filter(|p| p.0 != 3).map(|p| *p.1).collect::<Vec<_>>();
            let plain = merge_parts(Isa::Scalar, &without(&maxima), &without(&sums));
            assert!((merged - plain).abs() < 2e-6);
        }
    }

    #[test]
    fn degenerate_rows_do_not_panic() {
        for isa in sets() {
            let (max, sum) = exp_parts(isa, &[f32::NEG_INFINITY; 3]);
            assert_eq!((max, sum), (f32::NEG_INFINITY, 0.0));
            assert_eq!(merge_parts(isa, &[max], &[sum]), f32::NEG_INFINITY);
            assert_eq!(merge_parts(isa, &[], &[]), f32::NEG_INFINITY);
            let (max, sum) = exp_parts(isa, &[1.0, f32::NAN]);
            assert!(merge_parts(isa, &[max], &[sum]).is_nan());
            let (max, sum) = exp_parts(isa, &[f32::NAN]);
            assert!(merge_parts(isa, &[max], &[sum]).is_nan());
        }
    }
}
