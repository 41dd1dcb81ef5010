//! Integer arithmetic on all lanes, and the helpers that read operands and blend results for every lane-wise operation.

use super::alu_bits;
use super::registers::{Doubles, Registers, Words, map1, map2, map3};
use crate::ir::{CountOp, IntOp, ShiftOp, Slot};

#[inline(always)]
pub(super) fn words1(o: &[Slot], r: &mut Registers, mask: u32, f: impl Fn(u32) -> u32) {
    let v = map1(r.word(o[1]), f);
    r.set_words(o[0], &v, mask);
}

#[inline(always)]
pub(super) fn words2(o: &[Slot], r: &mut Registers, mask: u32, f: impl Fn(u32, u32) -> u32) {
    let v = map2(r.word(o[1]), r.word(o[2]), f);
    r.set_words(o[0], &v, mask);
}

#[inline(always)]
pub(super) fn words3(o: &[Slot], r: &mut Registers, mask: u32, f: impl Fn(u32, u32, u32) -> u32) {
    let v = map3(r.word(o[1]), r.word(o[2]), r.word(o[3]), f);
    r.set_words(o[0], &v, mask);
}

#[inline(always)]
pub(super) fn doubles1(o: &[Slot], r: &mut Registers, mask: u32, f: impl Fn(u64) -> u64) {
    let v = map1(r.double(o[1]), f);
    r.set_doubles(o[0], &v, mask);
}

#[inline(always)]
pub(super) fn doubles2(o: &[Slot], r: &mut Registers, mask: u32, f: impl Fn(u64, u64) -> u64) {
    let v = map2(r.double(o[1]), r.double(o[2]), f);
    r.set_doubles(o[0], &v, mask);
}

#[inline(always)]
pub(super) fn widen2(o: &[Slot], r: &mut Registers, mask: u32, f: impl Fn(u32, u32) -> u64) {
    let v = map2(r.word(o[1]), r.word(o[2]), f);
    r.set_doubles(o[0], &v, mask);
}

#[inline(always)]
pub(super) fn high_s(a: u32, b: u32) -> u32 {
    ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32
}

#[inline(always)]
pub(super) fn high_u(a: u32, b: u32) -> u32 {
    ((u64::from(a) * u64::from(b)) >> 32) as u32
}

#[inline(always)]
pub(super) fn wide32_s(a: u32, b: u32) -> u64 {
    (i64::from(a as i32) * i64::from(b as i32)) as u64
}

#[inline(always)]
pub(super) fn wide32_u(a: u32, b: u32) -> u64 {
    u64::from(a) * u64::from(b)
}

#[inline(always)]
pub(super) fn wide16(a: u32, b: u32, signed: bool) -> u32 {
    if signed { (i32::from(a as i16) * i32::from(b as i16)) as u32 } else { (a & 0xffff) * (b & 0xffff) }
}

#[inline(always)]
pub(super) fn int32(op: IntOp, o: &[Slot], r: &mut Registers, mask: u32) {
    match op {
        IntOp::Add => words2(o, r, mask, u32::wrapping_add),
        IntOp::Sub => words2(o, r, mask, u32::wrapping_sub),
        IntOp::Mul => words2(o, r, mask, u32::wrapping_mul),
        IntOp::MulHighS => words2(o, r, mask, high_s),
        IntOp::MulHighU => words2(o, r, mask, high_u),
        IntOp::MinS => words2(o, r, mask, |a, b| (a as i32).min(b as i32) as u32),
        IntOp::MinU => words2(o, r, mask, u32::min),
        IntOp::MaxS => words2(o, r, mask, |a, b| (a as i32).max(b as i32) as u32),
        IntOp::MaxU => words2(o, r, mask, u32::max),
        IntOp::And => words2(o, r, mask, |a, b| a & b),
        IntOp::Or => words2(o, r, mask, |a, b| a | b),
        IntOp::Xor => words2(o, r, mask, |a, b| a ^ b),
        // Division by zero gives all ones on NVIDIA hardware, the remainder the dividend.
        IntOp::DivS => words2(o, r, mask, |a, b| if b == 0 { !0 } else { (a as i32).wrapping_div(b as i32) as u32 }),
        IntOp::DivU => words2(o, r, mask, |a, b| a.checked_div(b).unwrap_or(!0)),
        IntOp::RemS => words2(o, r, mask, |a, b| if b == 0 { a } else { (a as i32).wrapping_rem(b as i32) as u32 }),
        IntOp::RemU => words2(o, r, mask, |a, b| a.checked_rem(b).unwrap_or(a)),
    }
}

#[inline(always)]
pub(super) fn int64(op: IntOp, o: &[Slot], r: &mut Registers, mask: u32) {
    match op {
        IntOp::Add => doubles2(o, r, mask, u64::wrapping_add),
        IntOp::Sub => doubles2(o, r, mask, u64::wrapping_sub),
        IntOp::Mul => doubles2(o, r, mask, u64::wrapping_mul),
        IntOp::And => doubles2(o, r, mask, |a, b| a & b),
        IntOp::Or => doubles2(o, r, mask, |a, b| a | b),
        IntOp::Xor => doubles2(o, r, mask, |a, b| a ^ b),
        _ => doubles2(o, r, mask, |a, b| alu_bits::int64(op, a, b)),
    }
}

#[inline(always)]
pub(super) fn int16(op: IntOp, o: &[Slot], r: &mut Registers, mask: u32) {
    words2(o, r, mask, |a, b| alu_bits::int16(op, a, b));
}

#[inline(always)]
pub(super) fn shift32(op: ShiftOp, o: &[Slot], r: &mut Registers, mask: u32) {
    match op {
        ShiftOp::Left => words2(o, r, mask, |a, n| if n > 31 { 0 } else { a << (n & 31) }),
        ShiftOp::RightU => words2(o, r, mask, |a, n| if n > 31 { 0 } else { a >> (n & 31) }),
        ShiftOp::RightS => words2(o, r, mask, |a, n| (a as i32 >> n.min(31)) as u32),
    }
}

#[inline(always)]
pub(super) fn shift16(op: ShiftOp, o: &[Slot], r: &mut Registers, mask: u32) {
    match op {
        ShiftOp::Left => words2(o, r, mask, |a, n| if n > 15 { 0 } else { a << n & 0xffff }),
        ShiftOp::RightU => words2(o, r, mask, |a, n| if n > 15 { 0 } else { (a & 0xffff) >> n }),
        ShiftOp::RightS => words2(o, r, mask, |a, n| (i32::from(a as i16) >> n.min(15)) as u32 & 0xffff),
    }
}

#[inline(always)]
pub(super) fn shift64(op: ShiftOp, o: &[Slot], r: &mut Registers, mask: u32) {
    let (a, n): (&Doubles, &Words) = (r.double(o[1]), r.word(o[2]));
    let v = match op {
        ShiftOp::Left => map2(a, n, |a, n| if n > 63 { 0 } else { a << (n & 63) }),
        ShiftOp::RightU => map2(a, n, |a, n| if n > 63 { 0 } else { a >> (n & 63) }),
        ShiftOp::RightS => map2(a, n, |a, n| (a as i64 >> n.min(63)) as u64),
    };
    r.set_doubles(o[0], &v, mask);
}

#[inline(always)]
pub(super) fn count32(op: CountOp, a: u32) -> u32 {
    match op {
        CountOp::Ones => a.count_ones(),
        CountOp::LeadingZeros => a.leading_zeros(),
        _ => alu_bits::find(op, u64::from(a), 32),
    }
}
