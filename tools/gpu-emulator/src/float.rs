//! Float formats and conversions as PTX defines them: rounding to small formats, NaN and denormal rules.
//!
//! A NaN result is always the canonical one of its format, as on the hardware. `approx` functions are computed exactly and
//! rounded once; the hardware's last-bit errors are not modelled.

use crate::ir::{Compare, Convert, FloatOp, FloatUnary, Half, Rounding};
use crate::ptx::ast::Type;

const F32_NAN: u32 = 0x7fff_ffff;

/// Tests bits, not `is_nan`: of a float comparison the compiler knows that any NaN may stand for any other.
#[inline(always)]
pub(crate) fn canonical(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { F32_NAN } else { bits })
}

/// Denormals to zero of the same sign, if asked.
#[inline(always)]
pub(crate) fn flush(x: f32, on: bool) -> f32 {
    let bits = x.to_bits();
    if on && bits & 0x7f80_0000 == 0 { f32::from_bits(bits & 0x8000_0000) } else { x }
}

#[inline(always)]
pub(crate) fn saturate(x: f32, on: bool) -> f32 {
    if !on {
        x
    } else if x > 0.0 {
        if x < 1.0 { x } else { 1.0 }
    } else {
        0.0
    }
}

/// `min`/`max` order -0 below +0; without `.NaN` a NaN operand loses.
#[inline(always)]
fn min32(a: f32, b: f32) -> f32 {
    let first = b.is_nan() || a < b || (a == b && a.is_sign_negative());
    if first { a } else { b }
}

#[inline(always)]
fn max32(a: f32, b: f32) -> f32 {
    let first = b.is_nan() || a > b || (a == b && a.is_sign_positive());
    if first { a } else { b }
}

#[inline(always)]
pub(crate) fn binary32(op: FloatOp, a: f32, b: f32) -> f32 {
    canonical(match op {
        FloatOp::Add => a + b,
        FloatOp::Sub => a - b,
        FloatOp::Mul => a * b,
        FloatOp::Div => a / b,
        FloatOp::Min => min32(a, b),
        FloatOp::Max => max32(a, b),
        FloatOp::MinNan => {
            if a.is_nan() || b.is_nan() {
                f32::NAN
            } else {
                min32(a, b)
            }
        }
        FloatOp::MaxNan => {
            if a.is_nan() || b.is_nan() {
                f32::NAN
            } else {
                max32(a, b)
            }
        }
        FloatOp::CopySign => return f32::from_bits(b.to_bits() & 0x7fff_ffff | a.to_bits() & 0x8000_0000),
    })
}

pub(crate) fn binary64(op: FloatOp, a: f64, b: f64) -> f64 {
    match op {
        FloatOp::Add => a + b,
        FloatOp::Sub => a - b,
        FloatOp::Mul => a * b,
        FloatOp::Div => a / b,
        FloatOp::Min if a == b => {
            if a.is_sign_negative() {
                a
            } else {
                b
            }
        }
        FloatOp::Max if a == b => {
            if a.is_sign_positive() {
                a
            } else {
                b
            }
        }
        FloatOp::Min => a.min(b),
        FloatOp::Max => a.max(b),
        FloatOp::MinNan | FloatOp::MaxNan if a.is_nan() || b.is_nan() => f64::NAN,
        FloatOp::MinNan => binary64(FloatOp::Min, a, b),
        FloatOp::MaxNan => binary64(FloatOp::Max, a, b),
        FloatOp::CopySign => b.abs().copysign(a),
    }
}

#[inline(always)]
pub(crate) fn unary32(op: FloatUnary, x: f32) -> f32 {
    match op {
        FloatUnary::Abs => f32::from_bits(x.to_bits() & 0x7fff_ffff),
        FloatUnary::Neg => f32::from_bits(x.to_bits() ^ 0x8000_0000),
        FloatUnary::Reciprocal => canonical(1.0 / x),
        FloatUnary::Sqrt => canonical(x.sqrt()),
        FloatUnary::ReciprocalSqrt => canonical((1.0 / f64::from(x).sqrt()) as f32),
        FloatUnary::Exp2 => canonical(x.exp2()),
        FloatUnary::Log2 => canonical(x.log2()),
        FloatUnary::Sin => canonical(x.sin()),
        FloatUnary::Cos => canonical(x.cos()),
        FloatUnary::Tanh => canonical(x.tanh()),
    }
}

pub(crate) fn unary64(op: FloatUnary, x: f64) -> f64 {
    match op {
        FloatUnary::Abs => x.abs(),
        FloatUnary::Neg => -x,
        FloatUnary::Reciprocal => 1.0 / x,
        FloatUnary::Sqrt => x.sqrt(),
        FloatUnary::ReciprocalSqrt => 1.0 / x.sqrt(),
        FloatUnary::Exp2 => x.exp2(),
        FloatUnary::Log2 => x.log2(),
        FloatUnary::Sin => x.sin(),
        FloatUnary::Cos => x.cos(),
        FloatUnary::Tanh => x.tanh(),
    }
}

/// `a + b` in f64 rounded to odd: a later rounding to at most 24 bits is then the single rounding of the exact sum.
pub(crate) fn add_to_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    if !sum.is_finite() {
        return sum;
    }
    let part = sum - a;
    let error = (a - (sum - part)) + (b - part);
    let bits = sum.to_bits();
    if error == 0.0 || bits & 1 == 1 {
        return sum;
    }
    // The sum was rounded to an even mantissa: step towards the discarded error.
    let away = (error > 0.0) == (sum > 0.0);
    f64::from_bits(if away { bits + 1 } else { bits - 1 })
}

/// `a * b + c` of half-format values, exact until the caller's rounding.
pub(crate) fn fma_exact(a: f64, b: f64, c: f64) -> f64 {
    add_to_odd(a * b, c)
}

/// `fma.rz`, `.rm`, `.rp`: the exact product, a sum rounded to odd, then the rounding asked for.
pub(crate) fn fma32_rounded(x: [f32; 3], rounding: Rounding) -> f32 {
    let [product, c] = [f64::from(x[0]) * f64::from(x[1]), f64::from(x[2])];
    let sum = fma_exact(f64::from(x[0]), f64::from(x[1]), c);
    // Opposite terms that cancel give -0 when rounding down.
    let cancels = sum == 0.0 && product.is_sign_negative() != c.is_sign_negative();
    let sum = if cancels && rounding == Rounding::Down { -0.0 } else { sum };
    f32::from_bits(f64_to_f32(sum, rounding))
}

/// Addition, subtraction and multiplication with directed rounding; other operations have none.
pub(crate) fn binary32_rounded(op: FloatOp, a: f32, b: f32, rounding: Rounding) -> f32 {
    match (op, rounding) {
        (FloatOp::Add, Rounding::Zero | Rounding::Down | Rounding::Up) => fma32_rounded([a, 1.0, b], rounding),
        (FloatOp::Sub, Rounding::Zero | Rounding::Down | Rounding::Up) => fma32_rounded([a, 1.0, -b], rounding),
        (FloatOp::Mul, Rounding::Zero | Rounding::Down | Rounding::Up) => {
            f32::from_bits(f64_to_f32(f64::from(a) * f64::from(b), rounding))
        }
        _ => binary32(op, a, b),
    }
}

#[inline(always)]
pub(crate) fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Round to nearest even, written so that loops over lanes vectorise.
#[inline(always)]
pub(crate) fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    (if x.is_nan() { 0x7fff } else { rounded }) as u16
}

#[inline(always)]
pub(crate) fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits >> 15) << 31;
    let magnitude = u32::from(bits & 0x7fff);
    let value = if magnitude >= 0x7c00 {
        f32::from_bits(0x7f80_0000 | (magnitude & 0x3ff) << 13)
    } else {
        // The exponent is rebiased by a multiplication, which also makes denormals right.
        f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23)
    };
    canonical(f32::from_bits(value.to_bits() | sign))
}

pub(crate) fn half_to_f64(format: Half, bits: u16) -> f64 {
    f64::from(match format {
        Half::F16 => f16_to_f32(bits),
        Half::Bf16 => bf16_to_f32(bits),
    })
}

/// Rounds to a half format.
pub(crate) fn f64_to_half(format: Half, x: f64, rounding: Rounding) -> u16 {
    match format {
        Half::F16 => round_to(x, Layout { mantissa: 10, exponent: 5 }, rounding) as u16,
        Half::Bf16 => round_to(x, Layout { mantissa: 7, exponent: 8 }, rounding) as u16,
    }
}

/// Field widths of an IEEE-like format.
#[derive(Clone, Copy)]
struct Layout {
    mantissa: u32,
    exponent: u32,
}

/// Rounds an f64 to a smaller format; returns its bits. Overflow goes to infinity or the largest value as the rounding says.
fn round_to(x: f64, layout: Layout, rounding: Rounding) -> u32 {
    let Layout { mantissa, exponent } = layout;
    let infinity = ((1u32 << exponent) - 1) << mantissa;
    let sign = u32::from(x.is_sign_negative()) << (mantissa + exponent);
    if x.is_nan() {
        return infinity | ((1 << mantissa) - 1);
    }
    if x.is_infinite() {
        return sign | infinity;
    }
    let bias = (1i32 << (exponent - 1)) - 1;
    let bits = x.to_bits() & !(1 << 63);
    if bits == 0 {
        return sign;
    }
    let raw = (bits >> 52) as i32;
    // A denormal f64 is below half of every smaller format's least denormal; a tiny normal number rounds alike.
    let (significand, power) = if raw == 0 { (1 << 52, -1022) } else { (bits & ((1 << 52) - 1) | 1 << 52, raw - 1023) };
    let least = 1 - bias;
    let drop = (52 - mantissa as i32 + (least - power).max(0)).min(63) as u32;
    let (kept, rest, half) = (significand >> drop, significand & ((1 << drop) - 1), 1u64 << (drop - 1));
    let up = match rounding {
        Rounding::Nearest => rest > half || (rest == half && kept & 1 == 1),
        Rounding::NearestAway => rest >= half,
        Rounding::Zero => false,
        Rounding::Down => rest != 0 && sign != 0,
        Rounding::Up => rest != 0 && sign == 0,
    };
    // A carry out of the mantissa moves into the exponent by itself.
    let base = if power < least { 0 } else { ((power - least) as u64) << mantissa };
    let result = base + kept + u64::from(up);
    if result < u64::from(infinity) {
        return sign | result as u32;
    }
    let stays_finite = match rounding {
        Rounding::Nearest | Rounding::NearestAway => false,
        Rounding::Zero => true,
        Rounding::Down => sign == 0,
        Rounding::Up => sign != 0,
    };
    sign | if stays_finite { infinity - 1 } else { infinity }
}

fn f64_to_f32(x: f64, rounding: Rounding) -> u32 {
    if x.is_nan() {
        return F32_NAN;
    }
    match rounding {
        Rounding::Nearest => (x as f32).to_bits(),
        _ => round_to(x, Layout { mantissa: 23, exponent: 8 }, rounding),
    }
}

/// tf32 keeps ten mantissa bits in a 32-bit register.
fn f32_to_tf32(x: f32, rounding: Rounding) -> u32 {
    round_to(f64::from(x), Layout { mantissa: 10, exponent: 8 }, rounding) << 13
}

fn integral(x: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Nearest => x.round_ties_even(),
        Rounding::NearestAway => x.round(),
        Rounding::Zero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
    }
}

/// One value through `cvt`; bits in, bits out.
pub(crate) fn convert(bits: u64, how: &Convert) -> u64 {
    match (how.from.is_float(), how.to.is_float()) {
        (false, false) => integer_to_integer(bits, how),
        (false, true) => integer_to_float(widen(bits, how.from), how),
        (true, false) => float_to_integer(float_value(bits, how), how.to, how.rounding),
        (true, true) => float_to_float(float_value(bits, how), how),
    }
}

/// Reads an integer of a type from register bits.
pub(crate) fn widen(bits: u64, ty: Type) -> i128 {
    match (ty.bytes(), ty.is_signed()) {
        (1, true) => i128::from(bits as i8),
        (1, false) => i128::from(bits as u8),
        (2, true) => i128::from(bits as i16),
        (2, false) => i128::from(bits as u16),
        (4, true) => i128::from(bits as i32),
        (4, false) => i128::from(bits as u32),
        (_, true) => i128::from(bits as i64),
        (_, false) => i128::from(bits),
    }
}

fn integer_range(ty: Type) -> (i128, i128) {
    let bits = 8 * ty.bytes() as u32;
    if ty.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

fn integer_to_integer(bits: u64, how: &Convert) -> u64 {
    let value = widen(bits, how.from);
    let (low, high) = integer_range(how.to);
    // A signed result is sign-extended: the destination register may be wider than the type.
    let value = if how.saturate { value.clamp(low, high) } else { value };
    widen(value as u64, how.to) as u64
}

fn float_value(bits: u64, how: &Convert) -> f64 {
    match how.from {
        Type::F16 => half_to_f64(Half::F16, bits as u16),
        Type::Bf16 => half_to_f64(Half::Bf16, bits as u16),
        Type::F64 => f64::from_bits(bits),
        _ => f64::from(flush(f32::from_bits(bits as u32), how.flush)),
    }
}

fn integer_to_float(value: i128, how: &Convert) -> u64 {
    match how.to {
        Type::F64 => (value as f64).to_bits(),
        Type::F32 if how.rounding == Rounding::Nearest => u64::from((value as f32).to_bits()),
        _ => float_bits(value as f64, how),
    }
}

/// Out of range is clamped; NaN is zero, or for 64-bit types the lowest value.
fn float_to_integer(x: f64, to: Type, rounding: Rounding) -> u64 {
    if x.is_nan() {
        return if to.bytes() == 8 { 1 << 63 } else { 0 };
    }
    let (low, high) = integer_range(to);
    (integral(x, rounding) as i128).clamp(low, high) as u64
}

fn float_to_float(x: f64, how: &Convert) -> u64 {
    let mut x = if how.integral { integral(x, how.rounding) } else { x };
    if how.saturate {
        x = if x > 0.0 { x.min(1.0) } else { 0.0 };
    }
    if how.relu && x <= 0.0 {
        x = 0.0;
    }
    float_bits(x, how)
}

fn float_bits(x: f64, how: &Convert) -> u64 {
    match how.to {
        Type::F64 => x.to_bits(),
        Type::F16 => u64::from(f64_to_half(Half::F16, x, how.rounding)),
        Type::Bf16 => u64::from(f64_to_half(Half::Bf16, x, how.rounding)),
        Type::Tf32 => u64::from(f32_to_tf32(x as f32, how.rounding)),
        _ => u64::from(flush(f32::from_bits(f64_to_f32(x, how.rounding)), how.flush).to_bits()),
    }
}

/// `setp` on floats: the `U` forms are true for NaN, the others false.
#[inline(always)]
pub(crate) fn compare<T: PartialOrd>(how: Compare, a: T, b: T) -> bool {
    let unordered = a.partial_cmp(&b).is_none();
    match how {
        Compare::Eq => a == b,
        Compare::Ne => a != b && !unordered,
        Compare::Lt => a < b,
        Compare::Le => a <= b,
        Compare::Gt => a > b,
        Compare::Ge => a >= b,
        Compare::EqU => a == b || unordered,
        Compare::NeU => a != b,
        Compare::LtU => a < b || unordered,
        Compare::LeU => a <= b || unordered,
        Compare::GtU => a > b || unordered,
        Compare::GeU => a >= b || unordered,
        Compare::Num => !unordered,
        Compare::Nan => unordered,
    }
}
