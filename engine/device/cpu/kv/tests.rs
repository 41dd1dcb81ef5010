//! `write_kv` against a naive evaluation in f64, and the same bits from every instruction set and number of threads.

use half::bf16;

use super::*;
use crate::device::cpu::{Isa, Pool};

/// Repeatable values in -1 .. 1.
fn values(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Norm, rotation and scale of one head, in f64.
fn naive(x: &[f32], weight: Option<&[f32]>, angles: Option<(&[f32], &[f32])>, scale: f64) -> Vec<f64> {
    let mut x: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    let n = x.len();
    if let Some(weight) = weight {
        let factor = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / n as f64 + 1e-6).sqrt();
        x.iter_mut().zip(weight).for_each(|(x, &w)| *x *= factor * f64::from(w));
    }
    if let Some((cos, sin)) = angles {
        // rotate_half(x) = [-second half, first half]; cos and sin repeat for both halves.
        let rotated: Vec<f64> = (0..n).map(|d| if d < n / 2 { -x[d + n / 2] } else { x[d - n / 2] }).collect();
        for d in 0..n {
            x[d] = x[d] * f64::from(cos[d % (n / 2)]) + rotated[d] * f64::from(sin[d % (n / 2)]);
        }
    }
    x.iter().map(|x| x * scale).collect()
}

struct Case {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    with_norm: bool,
    with_rope: bool,
    dtype: Dtype,
}

const ROWS: usize = 45;
const SCALE: f32 = 0.125;

/// Writes `ROWS` rows to pages and returns (query_out, [position] -> (key, value)) beside the naive answers' inputs.
fn check(case: &Case, isa: Isa, threads: usize) -> (Vec<f32>, Vec<f32>) {
    let Case { heads, kv_heads, head_dim, with_norm, with_rope, dtype } = *case;
    let columns = (heads + 2 * kv_heads) * head_dim;
    let qkv = values(1, ROWS * columns);
    let (q_weight, k_weight) = (values(2, head_dim), values(3, head_dim));
    let (cos, sin) = (values(4, 100 * head_dim / 2), values(5, 100 * head_dim / 2));
    let stride = heads * head_dim + 5;
    let (mut out_f32, mut out_bf16) = (vec![0f32; ROWS * stride], vec![bf16::ZERO; ROWS * stride]);
    let shape = KvShape { layers: 2, kv_heads, head_dim, pages: 6, page_tokens: 20 };
    let mut pages = KvPages::new(shape, dtype).unwrap();
    let tables = [9, 3, 1, 4, 0];
    // Two spans, the second one before the first in row order and in the middle of a page.
    let spans = [
        TokenSpan { first_row: 30, rows: 15, first_position: 18, kv_len: 0, first_page: 3 },
        TokenSpan { first_row: 0, rows: 30, first_position: 5, kv_len: 0, first_page: 1 },
    ];
    let output = match dtype {
        Dtype::F32 => ComputeRowsMut::F32(StridedMut { data: &mut out_f32, stride }),
        Dtype::Bf16 => ComputeRowsMut::Bf16(StridedMut { data: &mut out_bf16, stride }),
    };
    let args = WriteKv {
        query: Some(QueryRows { input: Strided { data: &qkv, stride: columns }, output, heads, scale: SCALE }),
        key: Strided { data: &qkv[heads * head_dim..], stride: columns },
        value: Strided { data: &qkv[(heads + kv_heads) * head_dim..], stride: columns },
        head_norm: with_norm.then_some(HeadNormWeights { query: &q_weight, key: &k_weight, eps: 1e-6 }),
        rope: with_rope.then_some(RopeTables { cos: &cos, sin: &sin }),
        destination: KvDestination::Pages { kv: &mut pages, layer: 1, pages: &tables, spans: &spans },
    };
    write_kv(&Pool::new(threads), isa, args);

    let tolerance = if dtype == Dtype::F32 { 1e-5 } else { 2e-2 };
    let close = |got: &[f32], want: &[f64]| {
        let off = got.iter().zip(want).map(|(&got, &want)| (f64::from(got) - want).abs()).fold(0.0, f64::max);
        assert!(off <= tolerance, "{isa:?} {dtype:?} head_dim {head_dim} norm {with_norm} rope {with_rope}: {off}");
    };
    let out: Vec<f32> = match dtype {
        Dtype::F32 => out_f32,
        Dtype::Bf16 => out_bf16.iter().map(|x| x.to_f32()).collect(),
    };
    let mut stored = Vec::new();
    for span in spans {
        for i in 0..span.rows {
            let (row, position) = (&qkv[(span.first_row + i) * columns..][..columns], span.first_position + i);
            let half = head_dim / 2;
            let angles = with_rope.then_some((&cos[position * half..][..half], &sin[position * half..][..half]));
            for (head, x) in row[..heads * head_dim].chunks(head_dim).enumerate() {
                let got = &out[(span.first_row + i) * stride + head * head_dim..][..head_dim];
                close(got, &naive(x, with_norm.then_some(&q_weight), angles, f64::from(SCALE)));
            }
            let page = tables[span.first_page + position / 20];
            for head in 0..kv_heads {
                let (mut key, mut value) = (vec![0f32; head_dim], vec![0f32; head_dim]);
                // SAFETY: nobody writes the pool here.
                unsafe { pages.read_head(1, page, position % 20, head, &mut key, &mut value) };
                let x = &row[(heads + head) * head_dim..][..head_dim];
                close(&key, &naive(x, with_norm.then_some(&k_weight), angles, 1.0));
                close(&value, &naive(&row[(heads + kv_heads + head) * head_dim..][..head_dim], None, None, 1.0));
                stored.extend(key.into_iter().chain(value));
            }
        }
    }
    assert!(out.chunks(stride).all(|row| row[heads * head_dim..].iter().all(|&x| x == 0.0)), "wrote beyond the heads");
    (out, stored)
}

#[test]
fn pages_match_the_naive_evaluation_and_every_isa_agrees() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for head_dim in [8, 16, 24, 64, 72, 128] {
            for (with_norm, with_rope) in [(false, false), (true, false), (false, true), (true, true)] {
                let case = Case { heads: 4, kv_heads: 2, head_dim, with_norm, with_rope, dtype };
                let plain = check(&case, Isa::Scalar, 1);
                for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                    assert_eq!(plain, check(&case, isa, 3), "{isa:?}");
                }
            }
        }
    }
}

#[test]
fn own_rows_are_rotated_to_their_step_and_dead_rows_are_left_alone() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let (head_dim, step) = (16, 2);
        let shape = OwnShape { layers: 2, heads: 1, kv_heads: 1, head_dim, steps: 3, rows: 40 };
        let mut slab = OwnKv::new(shape, Dtype::F32).unwrap();
        let (key, value) = (values(1, 40 * head_dim), values(2, 40 * head_dim));
        let (cos, sin) = (values(4, 100 * head_dim / 2), values(5, 100 * head_dim / 2));
        let spans = [
            BeamSpan { first_row: 0, live: 3, own_position: 7, ..BeamSpan::default() },
            BeamSpan { first_row: 10, live: 30, own_position: 50, ..BeamSpan::default() },
        ];
        let args = WriteKv {
            query: None,
            key: Strided { data: &key, stride: head_dim },
            value: Strided { data: &value, stride: head_dim },
            head_norm: None,
            rope: Some(RopeTables { cos: &cos, sin: &sin }),
            destination: KvDestination::Own { kv: &mut slab, layer: 1, step, spans: &spans },
        };
        write_kv(&Pool::new(2), isa, args);
        for row in 0..40 {
            let span = spans.iter().find(|span| (span.first_row..span.first_row + span.live).contains(&row));
            let mut got = vec![0f32; head_dim];
            // SAFETY: nobody writes the slab here.
            unsafe { slab.read_head(1, step, row, 0, 0, &mut got) };
            match span {
                None => assert!(got.iter().all(|&x| x == 0.0), "a dead row was written"),
                Some(span) => {
                    let at = (span.own_position + step) * head_dim / 2;
                    let angles = (&cos[at..][..head_dim / 2], &sin[at..][..head_dim / 2]);
                    let want = naive(&key[row * head_dim..][..head_dim], None, Some(angles), 1.0);
                    assert!(got.iter().zip(&want).all(|(&got, want)| (f64::from(got) - want).abs() < 1e-5));
                }
            }
        }
    }
}
