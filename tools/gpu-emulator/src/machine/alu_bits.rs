//! One lane of the bit-field, count, permute and half-precision operations.

use crate::float;
use crate::ir::{BitOp, CountOp, FloatMode, FloatOp, FloatUnary, Half, HalfLanes, IntOp, PermuteMode, Rounding};

#[inline(always)]
pub(crate) fn bits32(op: BitOp, a: u32) -> u32 {
    match op {
        BitOp::Not => !a,
        BitOp::Neg => a.wrapping_neg(),
        BitOp::AbsS => (a as i32).unsigned_abs(),
        BitOp::Reverse => a.reverse_bits(),
        BitOp::LogicalNot => u32::from(a == 0),
        BitOp::Copy => a,
    }
}

#[inline(always)]
pub(crate) fn bits64(op: BitOp, a: u64) -> u64 {
    match op {
        BitOp::Not => !a,
        BitOp::Neg => a.wrapping_neg(),
        BitOp::AbsS => (a as i64).unsigned_abs(),
        BitOp::Reverse => a.reverse_bits(),
        BitOp::LogicalNot => u64::from(a == 0),
        BitOp::Copy => a,
    }
}

pub(crate) fn int64(op: IntOp, a: u64, b: u64) -> u64 {
    let (x, y) = (a as i64, b as i64);
    match op {
        IntOp::Add => a.wrapping_add(b),
        IntOp::Sub => a.wrapping_sub(b),
        IntOp::Mul => a.wrapping_mul(b),
        IntOp::MulHighS => ((i128::from(x) * i128::from(y)) >> 64) as u64,
        IntOp::MulHighU => ((u128::from(a) * u128::from(b)) >> 64) as u64,
        IntOp::MinS => x.min(y) as u64,
        IntOp::MinU => a.min(b),
        IntOp::MaxS => x.max(y) as u64,
        IntOp::MaxU => a.max(b),
        IntOp::And => a & b,
        IntOp::Or => a | b,
        IntOp::Xor => a ^ b,
        IntOp::DivS => {
            if b == 0 {
                !0
            } else {
                x.wrapping_div(y) as u64
            }
        }
        IntOp::DivU => a.checked_div(b).unwrap_or(!0),
        IntOp::RemS => {
            if b == 0 {
                a
            } else {
                x.wrapping_rem(y) as u64
            }
        }
        IntOp::RemU => a.checked_rem(b).unwrap_or(a),
    }
}

pub(crate) fn int16(op: IntOp, a: u32, b: u32) -> u32 {
    let signed = matches!(op, IntOp::MulHighS | IntOp::MinS | IntOp::MaxS | IntOp::DivS | IntOp::RemS);
    let read = |x: u32| if signed { x as i16 as i64 as u64 } else { u64::from(x as u16) };
    let value = match op {
        IntOp::MulHighS | IntOp::MulHighU => read(a).wrapping_mul(read(b)) >> 16,
        _ => int64(op, read(a), read(b)),
    };
    value as u32 & 0xffff
}

#[inline(always)]
pub(crate) fn find(op: CountOp, a: u64, bits: u32) -> u32 {
    let signed = matches!(op, CountOp::FindS | CountOp::FindShiftS);
    let shift = 64 - bits;
    let a = if signed && a >> (bits - 1) & 1 == 1 { !a << shift >> shift } else { a };
    if a == 0 {
        return !0;
    }
    let above = (a << shift).leading_zeros();
    if matches!(op, CountOp::FindShiftS | CountOp::FindShiftU) { above } else { bits - 1 - above }
}

pub(crate) fn count64(op: CountOp, a: u64) -> u32 {
    match op {
        CountOp::Ones => a.count_ones(),
        CountOp::LeadingZeros => a.leading_zeros(),
        _ => find(op, a, 64),
    }
}

#[inline(always)]
pub(crate) fn funnel(low: u32, high: u32, by: u32, left: bool, clamp: bool) -> u32 {
    let n = if clamp { by.min(32) } else { by & 31 };
    let both = u64::from(high) << 32 | u64::from(low);
    if left { (both << n >> 32) as u32 } else { (both >> n) as u32 }
}

#[inline(always)]
pub(crate) fn permute(mode: PermuteMode, a: u32, b: u32, c: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let select = c & 3;
    (0..4).fold(0, |out, i| {
        let pick = match mode {
            PermuteMode::Index => c >> (4 * i) & 15,
            PermuteMode::Forward4 => select + i,
            PermuteMode::Backward4 => (select + 8 - i) & 7,
            PermuteMode::Replicate8 => select,
            PermuteMode::EdgeLeft => select.max(i),
            PermuteMode::EdgeRight => select.min(i),
            PermuteMode::Replicate16 => (c & 1) * 2 + (i & 1),
        };
        let byte = (bytes >> (8 * (pick & 7))) as u32 & 0xff;
        // The selector's top bit replicates the byte's sign.
        let sign_only = mode == PermuteMode::Index && pick & 8 != 0;
        let byte = if sign_only { (byte >> 7) * 0xff } else { byte };
        out | byte << (8 * i)
    })
}

/// Position (below the width) and mask of a bit field.
#[inline(always)]
pub(crate) fn field(position: u32, length: u32, bits: u32) -> (u32, u64) {
    let (position, length) = (position & 0xff, length & 0xff);
    if position >= bits || length == 0 {
        return (0, 0);
    }
    let ones = if length >= 64 { !0 } else { (1u64 << length) - 1 };
    (position, ones << position)
}

/// `bfe`: bits above the word are copies of its sign when signed, as is the field's own upper part.
pub(crate) fn extract(a: u64, position: u32, length: u32, of: (u32, bool)) -> u64 {
    let (bits, signed) = of;
    let (position, length) = (position & 0xff, length & 0xff);
    let wide = if !signed {
        i128::from(a)
    } else if bits == 32 {
        i128::from(a as i32)
    } else {
        i128::from(a as i64)
    };
    if length == 0 {
        return 0;
    }
    let shifted = wide >> position.min(127);
    if length >= 64 {
        return shifted as u64;
    }
    let value = shifted as u64 & ((1 << length) - 1);
    let sign_at = (position + length - 1).min(bits - 1);
    let negative = signed && a >> sign_at & 1 == 1;
    if negative { value | !0 << length } else { value }
}

pub(crate) fn dot4(a: (u32, bool), b: (u32, bool), c: u32) -> u32 {
    let byte = |(x, signed): (u32, bool), i: u32| {
        let v = (x >> (8 * i)) as u8;
        if signed { i32::from(v as i8) } else { i32::from(v) }
    };
    (0..4).fold(c, |sum, i| sum.wrapping_add((byte(a, i) * byte(b, i)) as u32))
}

pub(crate) fn half_binary(op: FloatOp, a: f64, b: f64) -> f64 {
    match op {
        FloatOp::Add => float::add_to_odd(a, b),
        FloatOp::Sub => float::add_to_odd(a, -b),
        _ => float::binary64(op, a, b),
    }
}

pub(crate) fn half_result(format: Half, mode: FloatMode, x: f64) -> u16 {
    let x = if mode.saturate { if x > 0.0 { x.min(1.0) } else { 0.0 } } else { x };
    let x = if mode.relu && x <= 0.0 { 0.0 } else { x };
    float::f64_to_half(format, x, Rounding::Nearest)
}

pub(crate) fn half_unary(op: FloatUnary, lanes: HalfLanes, mode: FloatMode, a: u32) -> u32 {
    let width = if lanes.packed { 0xffff_ffff } else { 0xffff };
    match op {
        FloatUnary::Neg => (a ^ 0x8000_8000) & width,
        FloatUnary::Abs => a & 0x7fff_7fff & width,
        _ => {
            let part = |shift: u32| {
                let x = float::unary64(op, float::half_to_f64(lanes.format, (a >> shift) as u16));
                u32::from(half_result(lanes.format, mode, x))
            };
            if lanes.packed { part(0) | part(16) << 16 } else { part(0) }
        }
    }
}
