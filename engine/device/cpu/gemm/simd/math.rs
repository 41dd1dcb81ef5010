//! exp, erf and the activations, on all lanes.
//!
//! exp and erf are within 1 unit in the last place of f32 and the activations within a few (the tests compare them with
//! f64 over the whole range), except where the true value is below the smallest normal number.

use super::Vector;
use crate::device::Activation;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts: products of the first with an integer of 8 bits are exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// Polynomial, highest power first.
#[inline(always)]
fn polynomial<V: Vector, const N: usize>(x: V, coefficients: [f32; N]) -> V {
    let mut sum = x.like(coefficients[0]);
    for &coefficient in &coefficients[1..] {
        sum = sum.mul_add(x, x.like(coefficient));
    }
    sum
}

/// e to the power x. Infinity from 88.38 on; below -87.33 the smallest normal number.
#[inline(always)]
pub(super) fn exp<V: Vector>(x: V) -> V {
    // x = n ln 2 + r with |r| <= ln 2 / 2.
    let x = x.at_most(89.0).at_least(-87.33);
    let n = (x * x.like(LOG2_E)).round();
    let r = n.mul_add(x.like(-LN_2_HIGH), x);
    let r = n.mul_add(x.like(-LN_2_LOW), r);
    // Cephes' expf: e^r = 1 + r + r^2 p(r).
    let p = polynomial(r, [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5]);
    let one = x.like(1.0);
    p.mul_add(r * r, r).mul_add(one, one) * n.exp2_integer()
}

/// The error function (N. Juffa's coefficients).
#[inline(always)]
fn erf<V: Vector>(x: V) -> V {
    let t = x.abs();
    let s = x * x;
    // Near zero: x + x p(x^2).
    let p =
        polynomial(s, [-5.967_617e-4, 4.991_194e-3, -2.676_813_5e-2, 1.128_199_2e-1, -3.761_253_4e-1, 1.283_791_7e-1]);
    let near = p.mul_add(x, x);
    // Beyond: 1 - exp(-t + t q(t)).
    let high = x.like(-1.728_534_7e-5).mul_add(t, x.like(3.831_972e-4));
    let low = x.like(-3.883_964_4e-3).mul_add(t, x.like(2.425_462_2e-2));
    let q = high.mul_add(s, low);
    let q = q.mul_add(t, x.like(-1.067_778_8e-1));
    let q = q.mul_add(t, x.like(-6.348_467e-1));
    let q = q.mul_add(t, x.like(-1.287_175_1e-1));
    let far = x.like(1.0) - exp(q.mul_add(t, x.like(0.0) - t));
    t.select_above(0.927_734_4, far.with_sign(x), near)
}

/// A function of one value, chosen at compile time.
pub(super) trait Function {
    /// Its value on all lanes.
    fn apply<V: Vector>(x: V) -> V;
}

/// x
pub(super) struct Identity;
/// [`Activation::Relu`]
pub(super) struct Relu;
/// [`Activation::GeluTanh`]
pub(super) struct GeluTanh;
/// [`Activation::GeluErf`]
pub(super) struct GeluErf;
/// [`Activation::Silu`]
pub(super) struct Silu;

impl Function for Identity {
    #[inline(always)]
    fn apply<V: Vector>(x: V) -> V {
        x
    }
}

impl Function for Relu {
    #[inline(always)]
    fn apply<V: Vector>(x: V) -> V {
        x.at_least(0.0)
    }
}

impl Function for GeluTanh {
    #[inline(always)]
    fn apply<V: Vector>(x: V) -> V {
        // 0.5 (1 + tanh u) = 1 / (1 + exp(-2u)), which keeps its digits where tanh u is near -1.
        const SCALE: f32 = -1.595_769; // -2 sqrt(2 / pi)
        let u = (x * x).mul_add(x.like(SCALE * 0.044_715), x.like(SCALE)) * x;
        x / (x.like(1.0) + exp(u))
    }
}

impl Function for GeluErf {
    #[inline(always)]
    fn apply<V: Vector>(x: V) -> V {
        let half = x * x.like(0.5);
        erf(x * x.like(std::f32::consts::FRAC_1_SQRT_2)).mul_add(half, half)
    }
}

impl Function for Silu {
    #[inline(always)]
    fn apply<V: Vector>(x: V) -> V {
        x / (x.like(1.0) + exp(x.like(0.0) - x))
    }
}

/// Something to do with an activation that is known at compile time.
pub(super) trait WithFunction {
    /// Does it.
    ///
    /// # Safety
    /// The implementor's own.
    unsafe fn run<F: Function>(self);
}

/// Turns an activation into a type.
///
/// # Safety
/// That of `then`.
#[inline(always)]
pub(super) unsafe fn with_function(activation: Activation, then: impl WithFunction) {
    // SAFETY: passed on from the caller.
    unsafe {
        match activation {
            Activation::Relu => then.run::<Relu>(),
            Activation::GeluTanh => then.run::<GeluTanh>(),
            Activation::GeluErf => then.run::<GeluErf>(),
            Activation::Silu => then.run::<Silu>(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{avx2::Ymm, avx512::Zmm};
    use super::*;
    use crate::device::cpu::Isa;
    use crate::device::cpu::gemm::scalar;

    /// The largest error of `f` on `[from, to]` in units in the last place of the true value.
    fn worst<V: Vector>(from: f32, to: f32, f: impl Fn(V) -> V, exact: impl Fn(f64) -> f64) -> f64 {
        let steps = 200_000;
        let errors = (0..=steps).map(|i| {
            let x = from + (to - from) * (i as f32 / steps as f32);
            let mut got = [0.0f32; 16];
            // SAFETY: the caller has seen the instruction set; the buffer holds any vector.
            unsafe { f(V::splat(x)).store(got.as_mut_ptr()) };
            let want = exact(f64::from(x));
            let unit = f64::from((want as f32).abs().next_up()) - f64::from((want as f32).abs());
            (f64::from(got[0]) - want).abs() / unit
        });
        errors.fold(0.0, f64::max)
    }

    fn check<V: Vector>() {
        let exp_error = worst::<V>(-87.3, 88.3, exp, f64::exp);
        let erf_error = worst::<V>(-5.0, 5.0, erf, scalar::erf);
        assert!(exp_error < 1.0 && erf_error < 1.0, "exp {exp_error:.3}, erf {erf_error:.3}");
        assert_eq!(worst::<V>(89.0, 200.0, |x| x.like(1.0) / exp(x), |_| 0.0), 0.0);
    }

    #[test]
    fn exp_and_erf_are_accurate() {
        if Isa::Avx2.is_available() {
            check::<Ymm>();
        }
        if Isa::Avx512.is_available() {
            check::<Zmm>();
        }
    }
}
