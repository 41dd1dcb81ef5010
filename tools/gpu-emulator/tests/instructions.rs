//! Single instructions against host results: each case is a line of PTX run by a warp on chosen inputs.

mod support;

use support::snippet::warp;

/// Values that meet every edge: powers of two, signs, float specials, random bits.
fn inputs(seed: u64) -> [[u32; 32]; 3] {
    let special = [
        0,
        1,
        2,
        31,
        32,
        33,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0x3f80_0000,
        0xbf80_0000,
        0x0000_0001,
        0x8000_0001,
        0x0040_0000,
        0x7f7f_ffff,
        0x3f80_8000,
        0x3f81_8000,
        0x4b00_0001,
    ];
    let mut random = support::Random(seed);
    std::array::from_fn(|_| {
        std::array::from_fn(|_| {
            let bits = random.bits();
            if bits >> 60 < 8 { special[(bits >> 8) as usize % special.len()] } else { (bits >> 16) as u32 }
        })
    })
}

/// Runs a body that sets %d over many inputs and compares every lane with `want`.
fn each(body: &str, want: impl Fn(u32, u32, u32) -> u32) {
    for seed in 1..40 {
        let input = inputs(seed * 0x9e37_79b9);
        let [got, _] = warp(body, input).unwrap_or_else(|fault| panic!("{body}: {fault}"));
        for lane in 0..32 {
            let [a, b, c] = input.map(|x| x[lane]);
            let want = want(a, b, c);
            assert_eq!(got[lane], want, "{body}: a {a:#x} b {b:#x} c {c:#x}, got {:#x} want {want:#x}", got[lane]);
        }
    }
}

/// As [`each`], for results in %d (low) and %e (high).
fn each_wide(body: &str, want: impl Fn(u32, u32, u32) -> u64) {
    for seed in 1..40 {
        let input = inputs(seed * 0x9e37_79b9);
        let [low, high] = warp(body, input).unwrap_or_else(|fault| panic!("{body}: {fault}"));
        for lane in 0..32 {
            let [a, b, c] = input.map(|x| x[lane]);
            let (got, want) = (u64::from(high[lane]) << 32 | u64::from(low[lane]), want(a, b, c));
            assert_eq!(got, want, "{body}: a {a:#x} b {b:#x} c {c:#x}, got {got:#x} want {want:#x}");
        }
    }
}

const NAN: u32 = 0x7fff_ffff;

fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

fn bits(x: f32) -> u32 {
    if x.is_nan() { NAN } else { x.to_bits() }
}

fn s(x: u32) -> i64 {
    i64::from(x as i32)
}

#[test]
fn integers() {
    each("add.s32 %d, %a, %b;", |a, b, _| a.wrapping_add(b));
    each("sub.s32 %d, %a, -5;", |a, _, _| a.wrapping_add(5));
    each("mul.lo.s32 %d, %a, %b;", |a, b, _| a.wrapping_mul(b));
    each("mul.hi.s32 %d, %a, %b;", |a, b, _| ((s(a) * s(b)) >> 32) as u32);
    each("mul.hi.u32 %d, %a, %b;", |a, b, _| ((u64::from(a) * u64::from(b)) >> 32) as u32);
    each("mad.lo.s32 %d, %a, %b, %c;", |a, b, c| a.wrapping_mul(b).wrapping_add(c));
    each("mad.hi.u32 %d, %a, %b, %c;", |a, b, c| (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c));
    each("min.s32 %d, %a, %b;", |a, b, _| (a as i32).min(b as i32) as u32);
    each("max.u32 %d, %a, %b;", |a, b, _| a.max(b));
    each("div.s32 %d, %a, %b;", |a, b, _| if b == 0 { !0 } else { (a as i32).wrapping_div(b as i32) as u32 });
    each("rem.u32 %d, %a, %b;", |a, b, _| a.checked_rem(b).unwrap_or(a));
    each("abs.s32 %d, %a;", |a, _, _| (a as i32).wrapping_abs() as u32);
    each("neg.s32 %d, %a;", |a, _, _| a.wrapping_neg());
    each("shl.b32 %d, %a, %b;", |a, b, _| a.checked_shl(b).unwrap_or(0));
    each("shr.s32 %d, %a, %b;", |a, b, _| (a as i32 >> b.min(31)) as u32);
    each("shr.u32 %d, %a, %b;", |a, b, _| a.checked_shr(b).unwrap_or(0));
    each("popc.b32 %d, %a;", |a, _, _| a.count_ones());
    each("clz.b32 %d, %a;", |a, _, _| a.leading_zeros());
    each("brev.b32 %d, %a;", |a, _, _| a.reverse_bits());
    each("bfind.u32 %d, %a;", |a, _, _| a.checked_ilog2().unwrap_or(!0));
    each("bfind.shiftamt.u32 %d, %a;", |a, _, _| if a == 0 { !0 } else { a.leading_zeros() });
    each("bfind.s32 %d, %a;", |a, _, _| (if (a as i32) < 0 { !a } else { a }).checked_ilog2().unwrap_or(!0));
    each("bfe.u32 %d, %a, 5, 7;", |a, _, _| a >> 5 & 127);
    each("bfe.s32 %d, %a, 20, 9;", |a, _, _| ((a << 3) as i32 >> 23) as u32);
    each("bfe.s32 %d, %a, 28, 9;", |a, _, _| (a as i32 >> 28) as u32);
    each("bfi.b32 %d, %a, %b, 4, 8;", |a, b, _| b & !0xff0 | (a & 0xff) << 4);
    each("slct.s32.s32 %d, %a, %b, %c;", |a, b, c| if c as i32 >= 0 { a } else { b });
    each("dp4a.s32.s32 %d, %a, %b, %c;", |a, b, c| {
        let byte = |x: u32, i: usize| i32::from(x.to_le_bytes()[i] as i8);
        (0..4).fold(c, |sum, i| sum.wrapping_add((byte(a, i) * byte(b, i)) as u32))
    });
    each_wide("mul.wide.s32 %l0, %a, %b; mov.b64 {%d, %e}, %l0;", |a, b, _| (s(a) * s(b)) as u64);
    each_wide("mad.wide.u32 %l0, %a, %b, %lb; mov.b64 {%d, %e}, %l0;", |a, b, c| {
        (u64::from(a) * u64::from(b)).wrapping_add(u64::from(c) << 32 | u64::from(b))
    });
    each_wide("mul.hi.u64 %l0, %la, %lb; mov.b64 {%d, %e}, %l0;", |a, b, c| {
        let (x, y) = (u128::from(b) << 32 | u128::from(a), u128::from(c) << 32 | u128::from(b));
        ((x * y) >> 64) as u64
    });
    each_wide("shr.s64 %l0, %la, %c; mov.b64 {%d, %e}, %l0;", |a, b, c| {
        ((u64::from(b) << 32 | u64::from(a)) as i64 >> c.min(63)) as u64
    });
}

#[test]
fn sixteen_bits() {
    let two = "cvt.u16.u32 %h0, %a; cvt.u16.u32 %h1, %b;";
    let back = "cvt.u32.u16 %d, %h2;";
    each(&format!("{two} add.s16 %h2, %h0, %h1; {back}"), |a, b, _| a.wrapping_add(b) & 0xffff);
    each(&format!("{two} min.s16 %h2, %h0, %h1; {back}"), |a, b, _| u32::from((a as i16).min(b as i16) as u16));
    each(&format!("{two} mul.wide.s16 %d, %h0, %h1;"), |a, b, _| (i32::from(a as i16) * i32::from(b as i16)) as u32);
    each("cvt.s16.s8 %h0, %a; cvt.s32.s16 %d, %h0;", |a, _, _| a as i8 as u32);
    each("cvt.u32.u8 %d, %a;", |a, _, _| a & 0xff);
    each("mov.b32 {%h0, %h1}, %a; mov.b32 %d, {%h1, %h0};", |a, _, _| a.rotate_left(16));
    each("cvt.u16.u32 %h0, %a; setp.lt.s16 %p0, %h0, 0; selp.u32 %d, 1, 0, %p0;", |a, _, _| u32::from((a as i16) < 0));
}

#[test]
fn logic_and_permutes() {
    for table in [0x00u8, 0x80, 0xe8, 0x96, 0x1b, 0xff] {
        each(&format!("lop3.b32 %d, %a, %b, %c, {table};"), |a, b, c| {
            (0..32).fold(0, |out, i| {
                let row = (a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1;
                out | (u32::from(table) >> row & 1) << i
            })
        });
    }
    let both = |a: u32, b: u32| u64::from(b) << 32 | u64::from(a);
    each("shf.l.wrap.b32 %d, %a, %b, %c;", |a, b, c| ((both(a, b) << (c & 31)) >> 32) as u32);
    each("shf.r.wrap.b32 %d, %a, %b, %c;", |a, b, c| (both(a, b) >> (c & 31)) as u32);
    each("shf.r.clamp.b32 %d, %a, %b, %c;", |a, b, c| (both(a, b) >> c.min(32)) as u32);
    each("prmt.b32 %d, %a, %b, %c;", |a, b, c| {
        let bytes = both(a, b).to_le_bytes();
        u32::from_le_bytes(std::array::from_fn(|i| {
            let pick = c >> (4 * i) & 15;
            let byte = bytes[pick as usize & 7];
            if pick & 8 != 0 { (byte as i8 >> 7) as u8 } else { byte }
        }))
    });
    each("prmt.b32 %d, %a, %b, 21520;", |a, b, _| a & 0xffff | b << 16);
    each("setp.ge.u32 %p0, %a, %b; @%p0 mov.u32 %d, 7; @!%p0 mov.u32 %d, 9;", |a, b, _| if a >= b { 7 } else { 9 });
    each("setp.lt.s32 %p0|%p1, %a, %b; selp.b32 %d, 1, 2, %p1;", |a, b, _| if a as i32 >= b as i32 { 1 } else { 2 });
    each("setp.eq.s32 %p0, %a, %b; setp.lt.or.s32 %p1, %a, %c, !%p0; selp.b32 %d, 1, 0, %p1;", |a, b, c| {
        u32::from((a as i32) < c as i32 || a != b)
    });
    each("set.gt.u32.s32 %d, %a, %b;", |a, b, _| if a as i32 > b as i32 { !0 } else { 0 });
}

#[test]
fn floats() {
    each("add.f32 %d, %a, %b;", |a, b, _| bits(f(a) + f(b)));
    each("mul.rn.f32 %d, %a, %b;", |a, b, _| bits(f(a) * f(b)));
    each("fma.rn.f32 %d, %a, %b, %c;", |a, b, c| bits(f(a).mul_add(f(b), f(c))));
    each("div.rn.f32 %d, %a, %b;", |a, b, _| bits(f(a) / f(b)));
    each("sqrt.rn.f32 %d, %a;", |a, _, _| bits(f(a).sqrt()));
    each("rcp.rn.f32 %d, %a;", |a, _, _| bits(1.0 / f(a)));
    each("neg.f32 %d, %a;", |a, _, _| a ^ 0x8000_0000);
    each("abs.f32 %d, %a;", |a, _, _| a & 0x7fff_ffff);
    each("add.sat.f32 %d, %a, %b;", |a, b, _| {
        let sum = f(a) + f(b);
        if sum > 0.0 { bits(sum.min(1.0)) } else { 0 }
    });
    // Without .NaN the number wins, with it the NaN; -0 is below +0.
    let total = |x: f32, y: f32| if x == y { x.is_sign_negative() } else { x < y };
    each("max.f32 %d, %a, %b;", |a, b, _| match (f(a).is_nan(), f(b).is_nan()) {
        (true, true) => NAN,
        (true, false) => b,
        (false, true) => a,
        _ => {
            if total(f(a), f(b)) {
                b
            } else {
                a
            }
        }
    });
    each("min.NaN.f32 %d, %a, %b;", |a, b, _| match f(a).is_nan() || f(b).is_nan() {
        true => NAN,
        false => {
            if total(f(a), f(b)) {
                a
            } else {
                b
            }
        }
    });
    let zeroed = |x: u32| if x & 0x7f80_0000 == 0 { x & 0x8000_0000 } else { x };
    each("mul.ftz.f32 %d, %a, %b;", |a, b, _| zeroed(bits(f(zeroed(a)) * f(zeroed(b)))));
    each("setp.ltu.f32 %p0, %a, %b; selp.b32 %d, 1, 0, %p0;", |a, b, _| {
        u32::from(f(a) < f(b) || f(a).is_nan() || f(b).is_nan())
    });
    each("setp.ne.f32 %p0, %a, %b; selp.b32 %d, 1, 0, %p0;", |a, b, _| u32::from(f(a) < f(b) || f(a) > f(b)));
    each("setp.neu.f32 %p0, %a, %b; selp.b32 %d, 1, 0, %p0;", |a, b, _| u32::from(f(a) != f(b)));
    each("ex2.approx.ftz.f32 %d, 0f40400000;", |_, _, _| 8f32.to_bits());
    each("lg2.approx.f32 %d, 0f41000000;", |_, _, _| 3f32.to_bits());
    each_wide(
        "cvt.f64.f32 %fd0, %a; cvt.f64.f32 %fd1, %b; add.f64 %fd2, %fd0, %fd1; cvt.rn.f32.f64 %d, %fd2;",
        |a, b, _| u64::from(bits((f64::from(f(a)) + f64::from(f(b))) as f32)),
    );
}

#[test]
fn conversions() {
    let bf16 = |x: u32| match f(x).is_nan() {
        true => 0x7fff,
        false => (x.wrapping_add(0x7fff + (x >> 16 & 1))) >> 16,
    };
    each("cvt.rn.bf16.f32 %h0, %a; cvt.u32.u16 %d, %h0;", |a, _, _| bf16(a));
    each("cvt.rz.bf16.f32 %h0, %a; cvt.u32.u16 %d, %h0;", |a, _, _| if f(a).is_nan() { 0x7fff } else { a >> 16 });
    each("cvt.rn.bf16x2.f32 %d, %a, %b;", |a, b, _| bf16(a) << 16 | bf16(b));
    each("cvt.rn.relu.bf16x2.f32 %d, %a, %b;", |a, b, _| {
        let relu = |x: u32| if f(x) > 0.0 || f(x).is_nan() { bf16(x) } else { 0 };
        relu(a) << 16 | relu(b)
    });
    each("mov.b32 {%h0, %h1}, %a; cvt.f32.bf16 %d, %h1;", |a, _, _| bits(f(a & 0xffff_0000)));
    each("cvt.rzi.s32.f32 %d, %a;", |a, _, _| f(a) as i32 as u32);
    each("cvt.rzi.u32.f32 %d, %a;", |a, _, _| f(a) as u32);
    each("cvt.rni.s32.f32 %d, %a;", |a, _, _| f(a).round_ties_even() as i32 as u32);
    each("cvt.rmi.f32.f32 %d, %a;", |a, _, _| bits(f(a).floor()));
    each("cvt.rn.f32.s32 %d, %a;", |a, _, _| (a as i32 as f32).to_bits());
    each("cvt.rn.f32.u32 %d, %a;", |a, _, _| (a as f32).to_bits());
    each("cvt.rz.f32.u32 %d, %a;", |a, _, _| {
        let near = a as f32;
        if f64::from(near) > f64::from(a) { near.to_bits() - 1 } else { near.to_bits() }
    });
    each("cvt.sat.u8.s32 %d, %a;", |a, _, _| (a as i32).clamp(0, 255) as u32);
    each_wide("cvt.s64.s32 %l0, %a; mov.b64 {%d, %e}, %l0;", |a, _, _| s(a) as u64);
    each_wide("cvt.rzi.s64.f32 %l0, %a; mov.b64 {%d, %e}, %l0;", |a, _, _| {
        if f(a).is_nan() { 1 << 63 } else { f(a) as i64 as u64 }
    });
    // Through f16 and back is the identity on every f16, and rounding to it is to nearest even.
    each("mov.b32 {%h0, %h1}, %a; cvt.f32.f16 %d, %h0; cvt.rn.f16.f32 %h2, %d; cvt.u32.u16 %d, %h2;", |a, _, _| {
        let half = a & 0xffff;
        if half & 0x7fff > 0x7c00 { 0x7fff } else { half }
    });
    for (value, half) in [
        (1.0f32, 0x3c00),
        (65_504.0, 0x7bff),
        (65_520.0, 0x7c00),
        (65_519.0, 0x7bff),
        (5.960_464_5e-8, 0x0001),
        (2.980_232_2e-8, 0x0000),
        (2.980_233e-8, 0x0001),
        (1.000_488_3, 0x3c00),
        (1.001_464_8, 0x3c02),
        (-0.0, 0x8000),
    ] {
        each(&format!("cvt.rn.f16.f32 %h0, 0f{:08x}; cvt.u32.u16 %d, %h0;", value.to_bits()), |_, _, _| half);
    }
}

#[test]
fn packed_halves() {
    let wide = |x: u32| f64::from(f(x << 16));
    // bf16 fma rounds once: the sum of products of 8-bit significands is compared in exact rational steps through f64 pairs.
    each("fma.rn.bf16x2 %d, %a, %b, %c;", |a, b, c| {
        let one = |shift: u32| {
            let [x, y, z] = [a, b, c].map(|v| wide(v >> shift & 0xffff));
            round_bf16_exactly(x * y, z)
        };
        one(16) << 16 | one(0)
    });
    each("max.bf16x2 %d, %a, %b;", |a, b, _| {
        let one = |shift: u32| {
            let (x, y) = (a >> shift & 0xffff, b >> shift & 0xffff);
            match (wide(x).is_nan(), wide(y).is_nan()) {
                (true, true) => 0x7fff,
                (true, false) => y,
                (false, true) => x,
                _ if wide(x) == wide(y) => {
                    if x >> 15 == 0 {
                        x
                    } else {
                        y
                    }
                }
                _ => {
                    if wide(x) > wide(y) {
                        x
                    } else {
                        y
                    }
                }
            }
        };
        one(16) << 16 | one(0)
    });
    each("neg.bf16x2 %d, %a;", |a, _, _| a ^ 0x8000_8000);
}

/// The exact `p + z` rounded to bf16, by comparing with the middle between neighbours.
fn round_bf16_exactly(p: f64, z: f64) -> u32 {
    let sum = p + z;
    if sum.is_nan() {
        return 0x7fff;
    }
    if sum.is_infinite() {
        return if sum > 0.0 { 0x7f80 } else { 0xff80 };
    }
    if sum == 0.0 {
        return u32::from(sum.is_sign_negative()) << 15;
    }
    // The exact error of the f64 sum decides where it is itself a tie.
    let part = sum - p;
    let error = (p - (sum - part)) + (z - part);
    let magnitude = sum.abs();
    let error = if sum < 0.0 { -error } else { error };
    let value = |bits: u32| if bits == 0x7f80 { 2f64.powi(128) } else { f64::from(f(bits << 16)) };
    let (mut low, mut high) = (0u32, 0x7f80u32);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if value(middle) <= magnitude { low = middle } else { high = middle }
    }
    let tie = (value(low) + value(high)) / 2.0;
    let up = magnitude > tie || magnitude == tie && (error > 0.0 || error == 0.0 && low & 1 == 1);
    u32::from(sum < 0.0) << 15 | if up { high } else { low }
}
