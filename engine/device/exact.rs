//! Exponential and logarithm made of additions, products and quotients that every device rounds alike and none fuses:
//! `kernels/include/exact.cuh` is the same, operation by operation, so that what is selected by such numbers has the same bits
//! on every device. Nothing here is fast; softmax and norms elsewhere have no need of it.

// As in kernels/include/exact.cuh.
const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer that sits in the low bits
const LN2_HIGH: f32 = 0.693_359_4; // 355 / 512: its products with small integers are exact
const LN2_LOW: f32 = -2.121_944_4e-4;

/// exp(r) - 1 for |r| <= ln 2 / 2, to within 2 units in the last place.
#[inline]
fn exp_m1(r: f32) -> f32 {
    let mut p = 1.987_569_2e-4_f32;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    p * r * r + r
}

/// 1 - exp(-x) for x >= 0, to within 3 units in the last place.
#[inline]
pub(super) fn one_minus_exp(x: f32) -> f32 {
    if x < 0.34 { -exp_m1(-x) } else { 1.0 - exp(-x) }
}

/// exp(x) for x <= 0, to within 2 units in the last place; 0 below -87.3, NaN of NaN.
#[inline]
pub(super) fn exp(x: f32) -> f32 {
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let mantissa = exp_m1(r) + 1.0;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32).wrapping_add(127) << 23;
    let value = mantissa * f32::from_bits(exponent as u32);
    if x < -87.3 { 0.0 } else { value }
}

/// ln(1 + f) for f from -0.5 to 0.5, to within 3 units in the last place.
#[inline]
pub(super) fn ln_1p(f: f32) -> f32 {
    // With s = f / (2 + f), ln(1 + f) = 2 (s + s^3 / 3 + s^5 / 5 + ...) = f - s (f - s^2 (2/3 + 2/5 s^2 + ...)).
    let s = f / (2.0 + f);
    let z = s * s;
    let mut p = 2.0 / 13.0;
    for c in [2.0 / 11.0, 2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0] {
        p = p * z + c;
    }
    f - s * (f - z * p)
}

/// ln(x) for x >= 0 that is not subnormal, to within 3 units in the last place; NaN of NaN.
#[inline]
pub(super) fn ln(x: f32) -> f32 {
    if x == 0.0 {
        return f32::NEG_INFINITY;
    }
    if x.is_nan() || x == f32::INFINITY {
        return x;
    }
    // x = 2^k m with m from sqrt(1/2) to sqrt(2).
    let bits = x.to_bits() as i32;
    let k = (bits - 0x3f35_04f3) >> 23;
    let m = f32::from_bits((bits - (k << 23)) as u32);
    let k = k as f32;
    (ln_1p(m - 1.0) + k * LN2_LOW) + k * LN2_HIGH
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(what: &str, x: f32, value: f32, exact: f64, units: f64) {
        let error = (f64::from(value) - exact).abs();
        assert!(error <= exact.abs() * units * 2f64.powi(-23) + 1e-38, "{what}({x}) = {value} and not {exact}");
    }

    #[test]
    fn exponentials_are_accurate() {
        for step in 0..200_000 {
            let x = -(step as f32) * 4.3e-4;
            close("exp", x, exp(x), f64::from(x).exp(), 2.0);
        }
        assert_eq!((exp(0.0), exp(-0.0), exp(f32::NEG_INFINITY), exp(-88.0)), (1.0, 1.0, 0.0, 0.0));
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn differences_from_one_are_accurate() {
        for step in 0..100_000 {
            let x = (step as f32 * 1e-4).powi(3);
            close("one_minus_exp", x, one_minus_exp(x), -f64::from(-x).exp_m1(), 3.0);
        }
        assert_eq!((one_minus_exp(0.0), one_minus_exp(f32::INFINITY)), (0.0, 1.0));
        assert!(one_minus_exp(f32::NAN).is_nan());
    }

    #[test]
    fn logarithms_are_accurate() {
        for step in 0..400_000u32 {
            let x = f32::from_bits(0x0080_0000 + step * 5300);
            close("ln", x, ln(x), f64::from(x).ln(), 3.0);
            let f = step as f32 / 400_000.0 - 0.5;
            close("ln_1p", f, ln_1p(f), f64::from(f).ln_1p(), 3.0);
        }
        close("ln_1p", -1e-10, ln_1p(-1e-10), -1e-10, 3.0);
        assert_eq!((ln(1.0), ln(0.0), ln(f32::INFINITY)), (0.0, f32::NEG_INFINITY, f32::INFINITY));
        assert!(ln(f32::NAN).is_nan());
    }
}
