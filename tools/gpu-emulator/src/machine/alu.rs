//! Lane-wise operations. Compiled twice, for AVX2 with FMA and for the baseline, and chosen at run time.

use super::alu_bits;
use super::alu_int::{
    count32, doubles1, high_s, high_u, int16, int32, int64, shift16, shift32, shift64, wide16, wide32_s, wide32_u,
    widen2, words1, words2, words3,
};
use super::registers::{Registers, Words, map1, map2, map3};
use crate::float;
use crate::ir::{
    Alu, BitOp, BoolOp, Compare, Convert, FloatMode, FloatOp, FloatUnary, Half, HalfLanes, Operands, Rounding, Slot,
};

/// Executes `op` on the lanes of `mask`.
pub(crate) fn execute(op: &Alu, o: &[Slot], r: &mut Registers, mask: u32) {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        // SAFETY: the processor has the features that the function is compiled for.
        unsafe { execute_avx2(op, o, r, mask) };
        return;
    }
    execute_on(op, o, r, mask);
}

/// Whether the fast versions may run.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn has_avx2() -> bool {
    static FOUND: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        std::is_x86_feature_detected!("avx2")
            && std::is_x86_feature_detected!("fma")
            && std::is_x86_feature_detected!("bmi1")
            && std::is_x86_feature_detected!("bmi2")
            && std::is_x86_feature_detected!("popcnt")
            && std::is_x86_feature_detected!("lzcnt")
    });
    *FOUND
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi1,bmi2,popcnt,lzcnt")]
unsafe fn execute_avx2(op: &Alu, o: &[Slot], r: &mut Registers, mask: u32) {
    execute_on(op, o, r, mask);
}

#[inline(always)]
fn execute_on(op: &Alu, o: &[Slot], r: &mut Registers, mask: u32) {
    match *op {
        Alu::Int16(op) => int16(op, o, r, mask),
        Alu::Int32(op) => int32(op, o, r, mask),
        Alu::Int64(op) => int64(op, o, r, mask),
        Alu::Shift16(op) => shift16(op, o, r, mask),
        Alu::Shift32(op) => shift32(op, o, r, mask),
        Alu::Shift64(op) => shift64(op, o, r, mask),
        Alu::Mad16 => words3(o, r, mask, |a, b, c| a.wrapping_mul(b).wrapping_add(c) & 0xffff),
        Alu::Mad32 => words3(o, r, mask, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        Alu::Mad64 => {
            let v = map3(r.double(o[1]), r.double(o[2]), r.double(o[3]), |a, b, c| a.wrapping_mul(b).wrapping_add(c));
            r.set_doubles(o[0], &v, mask);
        }
        Alu::MadHigh { signed: true } => words3(o, r, mask, |a, b, c| high_s(a, b).wrapping_add(c)),
        Alu::MadHigh { signed: false } => words3(o, r, mask, |a, b, c| high_u(a, b).wrapping_add(c)),
        Alu::MulWide16 { signed } => words2(o, r, mask, |a, b| wide16(a, b, signed)),
        Alu::MadWide16 { signed } => words3(o, r, mask, |a, b, c| wide16(a, b, signed).wrapping_add(c)),
        Alu::MulWide32 { signed: true } => widen2(o, r, mask, wide32_s),
        Alu::MulWide32 { signed: false } => widen2(o, r, mask, wide32_u),
        Alu::MadWide32 { signed } => {
            let wide = if signed { wide32_s } else { wide32_u };
            let v = map3(r.word(o[1]), r.word(o[2]), r.double(o[3]), |a, b, c| wide(a, b).wrapping_add(c));
            r.set_doubles(o[0], &v, mask);
        }
        Alu::Bits16(op) => words1(o, r, mask, |a| alu_bits::bits32(op, a as i16 as u32) & 0xffff),
        Alu::Bits32(BitOp::Copy) => {
            let v = *r.word(o[1]);
            r.set_words(o[0], &v, mask);
        }
        Alu::Bits32(op) => words1(o, r, mask, |a| alu_bits::bits32(op, a)),
        Alu::Bits64(op) => doubles1(o, r, mask, |a| alu_bits::bits64(op, a)),
        Alu::Count32(op) => words1(o, r, mask, |a| count32(op, a)),
        Alu::Count64(op) => {
            let v = map1(r.double(o[1]), |a| alu_bits::count64(op, a));
            r.set_words(o[0], &v, mask);
        }
        Alu::Logic3(table) => logic3(table, o, r, mask),
        Alu::Funnel { left, clamp } => words3(o, r, mask, |a, b, c| alu_bits::funnel(a, b, c, left, clamp)),
        Alu::Permute(mode) => words3(o, r, mask, |a, b, c| alu_bits::permute(mode, a, b, c)),
        Alu::Extract32 { signed } => {
            words3(o, r, mask, |a, b, c| alu_bits::extract(a.into(), b, c, (32, signed)) as u32)
        }
        Alu::Extract64 { signed } => {
            let v =
                map3(r.double(o[1]), r.word(o[2]), r.word(o[3]), |a, b, c| alu_bits::extract(a, b, c, (64, signed)));
            r.set_doubles(o[0], &v, mask);
        }
        Alu::Insert32 => {
            let at = map2(r.word(o[3]), r.word(o[4]), |p, n| alu_bits::field(p, n, 32));
            let v = map3(r.word(o[1]), r.word(o[2]), &at, |a, b, (p, m)| (b as u64 & !m | (a as u64) << p & m) as u32);
            r.set_words(o[0], &v, mask);
        }
        Alu::Insert64 => {
            let at = map2(r.word(o[3]), r.word(o[4]), |p, n| alu_bits::field(p, n, 64));
            let v = map3(r.double(o[1]), r.double(o[2]), &at, |a, b, (p, m)| b & !m | a << p & m);
            r.set_doubles(o[0], &v, mask);
        }
        Alu::Dot4 { a_signed, b_signed } => {
            words3(o, r, mask, |a, b, c| alu_bits::dot4((a, a_signed), (b, b_signed), c));
        }
        Alu::Float32(op, mode) => float32(op, mode, o, r, mask),
        Alu::Fma32(mode) => fma32(mode, o, r, mask),
        Alu::Unary32(op, mode) => unary32(op, mode, o, r, mask),
        Alu::Float64(op) => {
            let v = map2(r.double(o[1]), r.double(o[2]), |a, b| {
                float::binary64(op, f64::from_bits(a), f64::from_bits(b)).to_bits()
            });
            r.set_doubles(o[0], &v, mask);
        }
        Alu::Fma64 => {
            let v = map3(r.double(o[1]), r.double(o[2]), r.double(o[3]), |a, b, c| {
                f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c)).to_bits()
            });
            r.set_doubles(o[0], &v, mask);
        }
        Alu::Unary64(op) => doubles1(o, r, mask, |a| float::unary64(op, f64::from_bits(a)).to_bits()),
        Alu::HalfOp(op, lanes, mode) => {
            words2(o, r, mask, |a, b| halves(lanes, mode, [a, b, 0], |x| alu_bits::half_binary(op, x[0], x[1])))
        }
        Alu::HalfFma(lanes, mode) => {
            words3(o, r, mask, |a, b, c| halves(lanes, mode, [a, b, c], |x| float::fma_exact(x[0], x[1], x[2])));
        }
        Alu::HalfUnary(op, lanes, mode) => words1(o, r, mask, |a| alu_bits::half_unary(op, lanes, mode, a)),
        Alu::ZeroExtend => {
            let v = map1(r.word(o[1]), u64::from);
            r.set_doubles(o[0], &v, mask);
        }
        Alu::SignExtend => {
            let v = map1(r.word(o[1]), |a| a as i32 as i64 as u64);
            r.set_doubles(o[0], &v, mask);
        }
        Alu::Truncate => {
            let v = map1(r.double(o[1]), |a| a as u32);
            r.set_words(o[0], &v, mask);
        }
        Alu::IntToF32 { signed: true } => words1(o, r, mask, |a| (a as i32 as f32).to_bits()),
        Alu::IntToF32 { signed: false } => words1(o, r, mask, |a| (a as f32).to_bits()),
        Alu::Bf16ToF32 => words1(o, r, mask, |a| float::canonical(f32::from_bits(a << 16)).to_bits()),
        Alu::F32ToBf16 => words1(o, r, mask, |a| u32::from(float::f32_to_bf16(f32::from_bits(a)))),
        Alu::Convert(how) => convert(&how, o, r, mask),
        Alu::ConvertPair { format, rounding, relu } => convert_pair((format, rounding, relu), o, r, mask),
        Alu::Pack64 => widen2(o, r, mask, |low, high| u64::from(low) | u64::from(high) << 32),
        Alu::Unpack64 => {
            let a = *r.double(o[2]);
            r.set_words(o[0], &map1(&a, |x| x as u32), mask);
            r.set_words(o[1], &map1(&a, |x| (x >> 32) as u32), mask);
        }
        Alu::Pack32 => words2(o, r, mask, |low, high| low & 0xffff | high << 16),
        Alu::Unpack32 => {
            let a = *r.word(o[2]);
            r.set_words(o[0], &map1(&a, |x| x & 0xffff), mask);
            r.set_words(o[1], &map1(&a, |x| x >> 16), mask);
        }
        Alu::Pack64x4 => {
            let low = map2(r.word(o[1]), r.word(o[2]), |a, b| a & 0xffff | b << 16);
            let high = map2(r.word(o[3]), r.word(o[4]), |a, b| a & 0xffff | b << 16);
            r.set_doubles(o[0], &map2(&low, &high, |a, b| u64::from(a) | u64::from(b) << 32), mask);
        }
        Alu::Unpack64x4 => {
            let a = *r.double(o[4]);
            for (part, destination) in o[..4].iter().enumerate() {
                r.set_words(*destination, &map1(&a, |x| (x >> (16 * part)) as u32 & 0xffff), mask);
            }
        }
        Alu::Compare { compare, operands, combine } => {
            let first = usize::from(o.len() > 3 + usize::from(combine.is_some()));
            let raw = comparison((compare, operands), &o[1 + first..], r);
            let with = combine.map(|op| (op, r.predicate(o[3 + first])));
            r.set_predicate(o[0], combined(raw, with), mask);
            if first == 1 {
                r.set_predicate(o[1], combined(!raw, with), mask);
            }
        }
        Alu::CompareTo { compare, operands, combine, float } => {
            let raw = comparison((compare, operands), &o[1..], r);
            let bits = combined(raw, combine.map(|op| (op, r.predicate(o[3]))));
            let on = if float { 1f32.to_bits() } else { !0 };
            let v: Words = std::array::from_fn(|lane| if bits >> lane & 1 == 1 { on } else { 0 });
            r.set_words(o[0], &v, mask);
        }
        Alu::Select32 => {
            let (mut v, yes) = (*r.word(o[2]), *r.word(o[1]));
            let p = r.predicate(o[3]);
            for lane in 0..v.len() {
                let keep = (p >> lane & 1).wrapping_sub(1);
                v[lane] = v[lane] & keep | yes[lane] & !keep;
            }
            r.set_words(o[0], &v, mask);
        }
        Alu::Select64 => {
            let (mut v, yes) = (*r.double(o[2]), *r.double(o[1]));
            let p = r.predicate(o[3]);
            for lane in 0..v.len() {
                let keep = u64::from(p >> lane & 1).wrapping_sub(1);
                v[lane] = v[lane] & keep | yes[lane] & !keep;
            }
            r.set_doubles(o[0], &v, mask);
        }
        Alu::SelectSign { float } => words3(o, r, mask, |a, b, c| {
            let first = if float { f32::from_bits(c) >= 0.0 } else { c as i32 >= 0 };
            if first { a } else { b }
        }),
        Alu::PredicateOp(op) => {
            let v = combined(r.predicate(o[1]), Some((op, r.predicate(o[2]))));
            r.set_predicate(o[0], v, mask);
        }
        Alu::PredicateCopy => {
            let v = r.predicate(o[1]);
            r.set_predicate(o[0], v, mask);
        }
    }
}

#[inline(always)]
fn logic3(table: u8, o: &[Slot], r: &mut Registers, mask: u32) {
    let (a, b, c) = (r.word(o[1]), r.word(o[2]), r.word(o[3]));
    let mut v: Words = [0; 32];
    for row in (0..8).filter(|row| table >> row & 1 == 1) {
        let pick = |x: u32, bit: u32| if row & bit != 0 { x } else { !x };
        let part = map3(a, b, c, |a, b, c| pick(a, 4) & pick(b, 2) & pick(c, 1));
        v = map2(&v, &part, |v, p| v | p);
    }
    r.set_words(o[0], &v, mask);
}

#[inline(always)]
fn float32(op: FloatOp, mode: FloatMode, o: &[Slot], r: &mut Registers, mask: u32) {
    if mode != FloatMode::default() {
        return words2(o, r, mask, |a, b| {
            let (a, b) = (float::flush(f32::from_bits(a), mode.flush), float::flush(f32::from_bits(b), mode.flush));
            let v = float::flush(float::binary32_rounded(op, a, b, mode.rounding), mode.flush);
            float::saturate(v, mode.saturate).to_bits()
        });
    }
    macro_rules! plain {
        ($op:expr) => {
            words2(o, r, mask, |a, b| float::binary32($op, f32::from_bits(a), f32::from_bits(b)).to_bits())
        };
    }
    match op {
        FloatOp::Add => plain!(FloatOp::Add),
        FloatOp::Sub => plain!(FloatOp::Sub),
        FloatOp::Mul => plain!(FloatOp::Mul),
        FloatOp::Max => plain!(FloatOp::Max),
        FloatOp::Min => plain!(FloatOp::Min),
        FloatOp::Div => plain!(FloatOp::Div),
        _ => plain!(op),
    }
}

#[inline(always)]
fn fma32(mode: FloatMode, o: &[Slot], r: &mut Registers, mask: u32) {
    let f = f32::from_bits;
    if mode == FloatMode::default() {
        return words3(o, r, mask, |a, b, c| float::canonical(f(a).mul_add(f(b), f(c))).to_bits());
    }
    words3(o, r, mask, |a, b, c| {
        let z = |x| float::flush(f(x), mode.flush);
        let v = match mode.rounding {
            Rounding::Nearest => float::canonical(z(a).mul_add(z(b), z(c))),
            rounding => float::fma32_rounded([z(a), z(b), z(c)], rounding),
        };
        let v = float::flush(v, mode.flush);
        float::saturate(v, mode.saturate).to_bits()
    });
}

#[inline(always)]
fn unary32(op: FloatUnary, mode: FloatMode, o: &[Slot], r: &mut Registers, mask: u32) {
    macro_rules! one {
        ($op:expr) => {
            words1(o, r, mask, |a| {
                float::flush(float::unary32($op, float::flush(f32::from_bits(a), mode.flush)), mode.flush).to_bits()
            })
        };
    }
    match op {
        FloatUnary::Neg => one!(FloatUnary::Neg),
        FloatUnary::Abs => one!(FloatUnary::Abs),
        FloatUnary::Sqrt => one!(FloatUnary::Sqrt),
        FloatUnary::Reciprocal => one!(FloatUnary::Reciprocal),
        _ => one!(op),
    }
}

/// Applies `f` to each half of the operands and rounds to nearest.
#[inline(always)]
fn halves(lanes: HalfLanes, mode: FloatMode, a: [u32; 3], f: impl Fn([f64; 3]) -> f64) -> u32 {
    let part = |shift: u32| {
        let x = a.map(|bits| float::half_to_f64(lanes.format, (bits >> shift) as u16));
        u32::from(alu_bits::half_result(lanes.format, mode, f(x)))
    };
    if lanes.packed { part(0) | part(16) << 16 } else { part(0) }
}

fn convert(how: &Convert, o: &[Slot], r: &mut Registers, mask: u32) {
    let v = map1(&r.wide(o[1]), |a| float::convert(a, how));
    // A narrow result in a 32-bit register stays zero-extended only if its type is 16 bits or unsigned.
    let v = if how.to.bytes() == 2 { v.map(|x| x & 0xffff) } else { v };
    r.set_wide(o[0], &v, mask);
}

#[inline(always)]
fn convert_pair(how: (Half, Rounding, bool), o: &[Slot], r: &mut Registers, mask: u32) {
    let (format, rounding, relu) = how;
    if how == (Half::Bf16, Rounding::Nearest, false) {
        return words2(o, r, mask, |high, low| {
            let one = |bits| u32::from(float::f32_to_bf16(f32::from_bits(bits)));
            one(high) << 16 | one(low)
        });
    }
    words2(o, r, mask, |high, low| {
        let one = |bits| {
            let x = f64::from(f32::from_bits(bits));
            u32::from(float::f64_to_half(format, if relu && x <= 0.0 { 0.0 } else { x }, rounding))
        };
        one(high) << 16 | one(low)
    });
}

/// The raw comparison of the two operands, one bit a lane.
#[inline(always)]
fn comparison(how: (Compare, Operands), o: &[Slot], r: &Registers) -> u32 {
    let (compare, operands) = how;
    macro_rules! each {
        ($a:expr, $b:expr, $read:expr) => {
            each_compare!(compare, $a, $b, $read)
        };
    }
    macro_rules! each_compare {
        ($how:expr, $a:expr, $b:expr, $read:expr) => {{
            let read = $read;
            match $how {
                Compare::Eq => gather($a, $b, |x, y| read(x) == read(y)),
                Compare::Lt => gather($a, $b, |x, y| read(x) < read(y)),
                Compare::Le => gather($a, $b, |x, y| read(x) <= read(y)),
                Compare::Gt => gather($a, $b, |x, y| read(x) > read(y)),
                Compare::Ge => gather($a, $b, |x, y| read(x) >= read(y)),
                Compare::NeU => gather($a, $b, |x, y| read(x) != read(y)),
                other => gather($a, $b, |x, y| float::compare(other, read(x), read(y))),
            }
        }};
    }
    match operands {
        Operands::Signed(4) => each!(r.word(o[0]), r.word(o[1]), |x: u32| x as i32),
        Operands::Unsigned(4) => each!(r.word(o[0]), r.word(o[1]), |x: u32| x),
        Operands::Signed(8) => each!(r.double(o[0]), r.double(o[1]), |x: u64| x as i64),
        Operands::Unsigned(8) => each!(r.double(o[0]), r.double(o[1]), |x: u64| x),
        Operands::Signed(_) => each!(r.word(o[0]), r.word(o[1]), |x: u32| x as i16),
        Operands::Unsigned(_) => each!(r.word(o[0]), r.word(o[1]), |x: u32| x as u16),
        Operands::F32 { flush: false } => each!(r.word(o[0]), r.word(o[1]), f32::from_bits),
        Operands::F32 { flush: true } => {
            each!(r.word(o[0]), r.word(o[1]), |x: u32| float::flush(f32::from_bits(x), true))
        }
        Operands::F64 => each!(r.double(o[0]), r.double(o[1]), f64::from_bits),
        Operands::Half(format) => {
            each!(r.word(o[0]), r.word(o[1]), |x: u32| float::half_to_f64(format, x as u16))
        }
    }
}

#[inline(always)]
fn gather<A: Copy>(a: &[A; 32], b: &[A; 32], f: impl Fn(A, A) -> bool) -> u32 {
    let mut bits = [0u32; 32];
    for lane in 0..32 {
        bits[lane] = u32::from(f(a[lane], b[lane])) << lane;
    }
    bits.iter().fold(0, |all, bit| all | bit)
}

#[inline(always)]
fn combined(raw: u32, with: Option<(BoolOp, u32)>) -> u32 {
    match with {
        None => raw,
        Some((BoolOp::And, p)) => raw & p,
        Some((BoolOp::Or, p)) => raw | p,
        Some((BoolOp::Xor, p)) => raw ^ p,
    }
}
