//! Warp collectives, atomics and matrix instructions against host results.

mod support;

use gpu_emulator::Fault;
use support::snippet::warp;
use support::{Random, from_bf16, to_bf16};

/// Random words for all three inputs.
fn words(seed: u64) -> [[u32; 32]; 3] {
    let mut random = Random(seed);
    std::array::from_fn(|_| std::array::from_fn(|_| (random.bits() >> 16) as u32))
}

fn run(body: &str, inputs: [[u32; 32]; 3]) -> [[u32; 32]; 2] {
    warp(body, inputs).unwrap_or_else(|fault| panic!("{body}: {fault}"))
}

/// Checks %d and %e of every lane.
fn check(body: &str, want: impl Fn([[u32; 32]; 3], usize) -> [u32; 2]) {
    let input = words(7);
    let [d, e] = run(body, input);
    for lane in 0..32 {
        assert_eq!([d[lane], e[lane]], want(input, lane), "{body}: lane {lane}");
    }
}

#[test]
fn shuffles() {
    let flag = "selp.b32 %e, 1, 0, %p0;";
    check(&format!("shfl.sync.bfly.b32 %d|%p0, %a, 5, 31, -1; {flag}"), |i, l| [i[0][l ^ 5], 1]);
    check(&format!("shfl.sync.up.b32 %d|%p0, %a, 3, 0, -1; {flag}"), |i, l| {
        if l >= 3 { [i[0][l - 3], 1] } else { [i[0][l], 0] }
    });
    check(&format!("shfl.sync.down.b32 %d|%p0, %a, 4, 31, -1; {flag}"), |i, l| {
        if l + 4 < 32 { [i[0][l + 4], 1] } else { [i[0][l], 0] }
    });
    check(&format!("shfl.sync.idx.b32 %d|%p0, %a, 9, 31, -1; {flag}"), |i, _| [i[0][9], 1]);
    // Segments of eight lanes: 0x1807 is the mask of `width = 8`.
    check(&format!("shfl.sync.down.b32 %d|%p0, %a, 4, 6175, -1; {flag}"), |i, l| {
        if l % 8 < 4 { [i[0][l + 4], 1] } else { [i[0][l], 0] }
    });
    check(&format!("shfl.sync.idx.b32 %d|%p0, %a, 3, 6175, -1; {flag}"), |i, l| [i[0][l / 8 * 8 + 3], 1]);
}

#[test]
fn votes_and_matches() {
    let odd = "and.b32 %t0, %a, 1; setp.eq.u32 %p0, %t0, 1;";
    let ballot = |i: [[u32; 32]; 3]| (0..32).fold(0, |m, l| m | (i[0][l] & 1) << l);
    check(&format!("{odd} vote.sync.ballot.b32 %d, %p0, -1;"), |i, _| [ballot(i), 0]);
    check(&format!("{odd} vote.sync.any.pred %p1, %p0, -1; selp.b32 %d, 1, 0, %p1;"), |_, _| [1, 0]);
    check(&format!("{odd} vote.sync.all.pred %p1, !%p0, -1; selp.b32 %d, 1, 0, %p1;"), |_, _| [0, 0]);
    check("setp.lt.u32 %p0, %lane, 99; vote.sync.uni.pred %p1, %p0, -1; selp.b32 %d, 1, 0, %p1;", |_, _| [1, 0]);
    check("and.b32 %t0, %a, 3; match.any.sync.b32 %d, %t0, -1;", |i, l| {
        [(0..32).fold(0, |m, k| m | u32::from(i[0][k] & 3 == i[0][l] & 3) << k), 0]
    });
    check("match.all.sync.b32 %d|%p0, %a, -1; selp.b32 %e, 1, 0, %p0;", |_, _| [0, 0]);
    check("mov.u32 %t0, 8; match.all.sync.b32 %d|%p0, %t0, -1; selp.b32 %e, 1, 0, %p0;", |_, _| [!0, 1]);
    check("redux.sync.add.s32 %d, %a, -1; redux.sync.min.s32 %e, %a, -1;", |i, _| {
        [i[0].iter().fold(0, |s, x| s.wrapping_add(*x)), i[0].iter().map(|x| *x as i32).min().unwrap() as u32]
    });
    check("redux.sync.xor.b32 %d, %a, -1; redux.sync.max.u32 %e, %a, -1;", |i, _| {
        [i[0].iter().fold(0, |s, x| s ^ x), *i[0].iter().max().unwrap()]
    });
}

/// Half the warp works alone, then all come together again.
#[test]
fn parts_of_a_warp() {
    let body = "setp.lt.u32 %p0, %lane, 16; @!%p0 bra HIGH;\n\
        redux.sync.add.s32 %d, %a, 65535; activemask.b32 %e; bra JOIN;\n\
        HIGH: redux.sync.add.s32 %d, %b, -65536; activemask.b32 %e;\n\
        JOIN: vote.sync.ballot.b32 %t0, %p0, -1; add.s32 %d, %d, %t0;";
    check(body, |i, l| {
        let sum = if l < 16 { &i[0][..16] } else { &i[1][16..] }.iter().fold(0u32, |s, x| s.wrapping_add(*x));
        [sum.wrapping_add(0xffff), if l < 16 { 0xffff } else { 0xffff_0000 }]
    });
}

#[test]
fn collectives_at_fault() {
    for body in [
        "shfl.sync.idx.b32 %d, %a, 9, 31, 255;",
        "setp.lt.u32 %p0, %lane, 16; @!%p0 bra J; shfl.sync.bfly.b32 %d, %a, 1, 31, -1; J:",
        "setp.lt.u32 %p0, %lane, 16; @!%p0 ret; shfl.sync.idx.b32 %d, %a, 20, 31, -1;",
        "setp.lt.u32 %p0, %lane, 16; selp.b32 %t0, -1, -2, %p0; vote.sync.any.pred %p1, %p0, %t0;",
    ] {
        match warp(body, words(3)) {
            Err(Fault::BadCollective { site, .. }) => assert_eq!(site.kernel, "k"),
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn atomics() {
    let start = "st.shared.u32 [tile], 5; bar.warp.sync -1;";
    let end = "bar.warp.sync -1; ld.shared.u32 %e, [tile];";
    check(&format!("setp.eq.u32 %p0, %lane, 0; @%p0 {start} atom.shared.add.u32 %d, [tile], 2; {end}"), |_, l| {
        [5 + 2 * l as u32, 69]
    });
    let zero = "setp.eq.u32 %p0, %lane, 0; @%p0 st.shared.u32 [tile], 0; bar.warp.sync -1;";
    check(&format!("{zero} atom.shared.max.u32 %t0, [tile], %a; {end}"), |i, _| [0, *i[0].iter().max().unwrap()]);
    check(&format!("{zero} atom.shared.inc.u32 %d, [tile], 9; {end}"), |_, l| [l as u32 % 10, 2]);
    check(&format!("{zero} atom.shared.cas.b32 %d, [tile], 0, 77; {end}"), |_, l| [if l == 0 { 0 } else { 77 }, 77]);
    check(&format!("{zero} red.shared.or.b32 [tile], %a; {end}"), |i, _| [0, i[0].iter().fold(0, |m, x| m | x)]);
    check(&format!("{zero} atom.shared.add.f32 %t0, [tile], 0f3F800000; {end}"), |_, _| [0, 32f32.to_bits()]);
    check(&format!("{zero} atom.shared.exch.b32 %d, [tile], %lane; {end}"), |_, l| [l.saturating_sub(1) as u32, 31]);
}

/// Each lane stores a row's chunk; `ldmatrix` gives lane `l` row `l / 4`, columns `l % 4 * 2` and the next.
#[test]
fn matrix_loads() {
    let store = "mov.u32 %t0, tile; mad.lo.u32 %t1, %lane, 16, %t0; mul.lo.u32 %t2, %lane, 65537;\n\
        mad.lo.u32 %t2, %t2, 16, 65536; add.u32 %t3, %t2, 131074; add.u32 %t4, %t3, 131074; add.u32 %t5, %t4, 131074;\n\
        st.shared.v4.b32 [%t1], {%t2, %t3, %t4, %t5}; bar.warp.sync -1;";
    // Element (row, column) is row * 16 + column.
    let pair = |r: usize, c: usize, s: usize, d: usize| (r * 16 + c) as u32 | ((s * 16 + d) as u32) << 16;
    check(&format!("{store} ldmatrix.sync.aligned.m8n8.x2.shared.b16 {{%d, %e}}, [%t1];"), |_, l| {
        let (row, column) = (l / 4, l % 4 * 2);
        [pair(row, column, row, column + 1), pair(row + 8, column, row + 8, column + 1)]
    });
    check(&format!("{store} ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {{%t6, %t7, %d, %e}}, [%t1];"), |_, l| {
        let (column, row) = (l / 4, l % 4 * 2);
        [pair(row + 16, column, row + 17, column), pair(row + 24, column, row + 25, column)]
    });
}

/// d = a * b + c for m16n8k16 bf16, fragments built lane by lane as the PTX ISA draws them.
#[test]
fn matrix_products() {
    let mut random = Random(11);
    let mut value = || from_bf16(to_bf16(random.float()));
    let a: Vec<f32> = (0..256).map(|_| value()).collect();
    let b: Vec<f32> = (0..128).map(|_| value()).collect();
    let c: Vec<f32> = (0..128).map(|_| value()).collect();
    let pack = |low: f32, high: f32| u32::from(to_bf16(low)) | u32::from(to_bf16(high)) << 16;
    let at = |m: &[f32], width: usize, row: usize, column: usize| m[row * width + column];
    let setters: String = (0..32)
        .map(|lane| {
            let (g, t) = (lane / 4, lane % 4 * 2);
            let a_part = |i: usize| {
                let (row, k) = (g + i % 2 * 8, t + i / 2 * 8);
                pack(at(&a, 16, row, k), at(&a, 16, row, k + 1))
            };
            let b_part = |i: usize| pack(at(&b, 8, t + i * 8, g), at(&b, 8, t + i * 8 + 1, g));
            let c_part = |i: usize| at(&c, 8, g + i / 2 * 8, t + i % 2).to_bits();
            let values = [0, 1, 2, 3].map(a_part).into_iter().chain([0, 1].map(b_part)).chain([0, 1, 2, 3].map(c_part));
            let moves: String = values.enumerate().map(|(r, v)| format!("@%p0 mov.b32 %t{r}, {v};\n")).collect();
            format!("setp.eq.u32 %p0, %lane, {lane};\n{moves}")
        })
        .collect();
    let mma = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%t10,%t11,%t12,%t13}, {%t0,%t1,%t2,%t3}, {%t4,%t5}, \
        {%t6,%t7,%t8,%t9};";
    let product = |row: usize, column: usize| {
        (0..16).fold(at(&c, 8, row, column), |sum, k| sum + at(&a, 16, row, k) * at(&b, 8, k, column))
    };
    for (registers, rows) in [("mov.b32 %d, %t10; mov.b32 %e, %t11;", 0), ("mov.b32 %d, %t12; mov.b32 %e, %t13;", 8)] {
        check(&format!("{setters}{mma}{registers}"), |_, lane| {
            [product(lane / 4 + rows, lane % 4 * 2).to_bits(), product(lane / 4 + rows, lane % 4 * 2 + 1).to_bits()]
        });
    }
}

/// With one-hot operands every other shape shows where its elements are.
#[test]
fn other_matrix_shapes() {
    // All of a and b are one: each element of d is k.
    let ones = |pattern: u32| format!("mov.b32 %t0, {pattern}; mov.b32 %t1, 0;");
    for (form, pattern, a, b, want) in [
        ("m16n8k8.row.col.f32.bf16.bf16.f32", 0x3f80_3f80u32, 2, 1, 8f32.to_bits()),
        ("m16n8k16.row.col.f32.f16.f16.f32", 0x3c00_3c00, 4, 2, 16f32.to_bits()),
        ("m16n8k8.row.col.f32.tf32.tf32.f32", 0x3f80_0000, 4, 2, 8f32.to_bits()),
        ("m16n8k4.row.col.f32.tf32.tf32.f32", 0x3f80_0000, 2, 1, 4f32.to_bits()),
        ("m16n8k32.row.col.s32.s8.s8.s32", 0x0101_0101, 4, 2, 32),
        ("m16n8k16.row.col.s32.u8.s8.s32", 0x0101_0101, 2, 1, 16),
    ] {
        let list = |n: usize| vec!["%t0"; n].join(",");
        let body = format!(
            "{} mma.sync.aligned.{form} {{%t4,%t5,%d,%e}}, {{{}}}, {{{}}}, {{%t1,%t1,%t1,%t1}};",
            ones(pattern),
            list(a),
            list(b)
        );
        check(&body, |_, _| [want, want]);
    }
}
