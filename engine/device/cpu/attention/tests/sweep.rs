//! Every shape that once was, or might be, a special case, against the naive evaluation.

use super::everywhere;
use super::fixture::{Beams, Heads, History, RequestShape, SpanShape, distance};
use crate::device::cpu::Isa;
use crate::device::{Dtype, Mask};

/// Values lie in -1 .. 1: f32 sums are good to a few 1e-6; bf16 rounds probabilities and results to 8 bits.
fn tolerance(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::F32 => 1e-5,
        Dtype::Bf16 => 8e-3,
    }
}

fn heads(heads: usize, kv_heads: usize, head_dim: usize, page_tokens: usize) -> Heads {
    Heads { heads, kv_heads, head_dim, page_tokens }
}

/// Checks every row of a history attention, and that nothing else is written.
fn check_history(isa: Isa, dtype: Dtype, heads: Heads, spans: &[SpanShape], mask: Mask, max: Option<usize>) {
    let case = History::new(7, heads, dtype, spans, mask, max);
    let out = case.run(isa, 2, &case.spans);
    let columns = heads.columns();
    for (index, span) in case.spans.iter().enumerate() {
        for i in 0..span.rows {
            let row = &out[(span.first_row + i) * case.stride..][..case.stride];
            let off = distance(&row[..columns], &case.expected(index, i));
            let limit = tolerance(dtype);
            assert!(off <= limit, "{isa:?} {dtype:?} {heads:?} {span:?} {mask:?} bias {max:?} row {i}: off by {off}");
            assert!(row[columns..].iter().all(|x| x.is_nan()), "columns beyond the heads were written");
        }
    }
    assert!(out[..case.stride].iter().all(|x| x.is_nan()), "a row of no span was written");
}

/// Checks every live row of a beam attention, and that dead rows are left alone.
fn check_beams(
    isa: Isa,
    dtype: Dtype,
    heads: Heads,
    requests: &[RequestShape],
    (shared, step, max): (bool, Option<usize>, Option<usize>),
) {
    let case = Beams::new(11, heads, dtype, requests, shared, step, max);
    let out = case.run(isa, 2, &case.spans);
    for (index, (span, &(width, live, _))) in case.spans.iter().zip(requests).enumerate() {
        for i in 0..width {
            let row = &out[(span.first_row + i) * case.stride..][..heads.columns()];
            if i >= live {
                assert!(row.iter().all(|x| x.is_nan()), "a dead row was written");
                continue;
            }
            let off = distance(row, &case.expected(index, i));
            let limit = tolerance(dtype);
            assert!(
                off <= limit,
                "{isa:?} {dtype:?} {heads:?} {span:?} step {step:?} bias {max:?} row {i}: off by {off}"
            );
        }
    }
}

#[test]
fn ragged_spans_around_page_and_block_boundaries() {
    everywhere(|isa, dtype| {
        let lengths = [1, 2, 5, 15, 16, 17, 63, 64, 65, 127, 128, 129, 255, 256, 257, 300, 513];
        let causal: Vec<SpanShape> = lengths.iter().map(|&n| (n.min(9), n - n.min(9), n)).collect();
        let full: Vec<SpanShape> = lengths.iter().enumerate().map(|(i, &n)| (1 + i % 8, 0, n)).collect();
        check_history(isa, dtype, heads(2, 1, 16, 64), &causal, Mask::Causal, None);
        check_history(isa, dtype, heads(2, 1, 16, 64), &causal, Mask::Causal, Some(20));
        check_history(isa, dtype, heads(2, 2, 16, 64), &full, Mask::Full, Some(128));
    });
}

#[test]
fn whole_prompts_of_several_tiles() {
    everywhere(|isa, dtype| {
        check_history(isa, dtype, heads(2, 1, 32, 64), &[(150, 0, 150), (1, 0, 1), (97, 0, 97)], Mask::Causal, None);
        check_history(isa, dtype, heads(1, 1, 32, 64), &[(270, 0, 270), (40, 0, 40)], Mask::Full, Some(16));
    });
}

#[test]
fn page_sizes() {
    everywhere(|isa, dtype| {
        for page_tokens in [1, 3, 8, 16, 24, 32, 48, 64, 100, 128, 256] {
            let spans = [(7, 93, 100), (3, 0, 3), (5, 268, 273)];
            check_history(isa, dtype, heads(2, 1, 24, page_tokens), &spans, Mask::Causal, Some(9));
            check_beams(isa, dtype, heads(2, 1, 8, page_tokens), &[(3, 3, 70), (2, 1, 5)], (true, Some(1), None));
        }
    });
}

#[test]
fn head_dims() {
    everywhere(|isa, dtype| {
        for head_dim in [1, 2, 7, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 96, 112, 128, 136, 192, 256] {
            check_history(isa, dtype, heads(2, 1, head_dim, 16), &[(8, 12, 20)], Mask::Causal, Some(4));
            check_beams(isa, dtype, heads(2, 2, head_dim, 16), &[(7, 7, 19)], (true, Some(2), Some(3)));
        }
    });
}

#[test]
fn grouped_heads() {
    everywhere(|isa, dtype| {
        for (h, kv_heads) in [(1, 1), (6, 2), (8, 4), (7, 1), (16, 8)] {
            check_history(isa, dtype, heads(h, kv_heads, 16, 16), &[(13, 20, 40), (2, 0, 2)], Mask::Causal, Some(6));
            check_beams(isa, dtype, heads(h, kv_heads, 16, 16), &[(5, 5, 33), (14, 13, 64)], (true, Some(1), Some(6)));
        }
    });
}

#[test]
fn beam_counts_prefixes_and_steps() {
    everywhere(|isa, dtype| {
        for step in [None, Some(0), Some(1), Some(2), Some(3), Some(9)] {
            for max in [None, Some(2), Some(40)] {
                let max = max.filter(|_| step.is_some());
                for live in [1, 2, 5, 6, 7, 13] {
                    check_beams(isa, dtype, heads(2, 1, 16, 64), &[(live + 1, live, 65), (2, 2, 1)], (true, step, max));
                }
                check_beams(isa, dtype, heads(2, 2, 8, 64), &[(4, 3, 5), (1, 1, 1)], (true, step, max));
            }
        }
        for shared in [false, true] {
            check_beams(isa, dtype, heads(2, 1, 16, 64), &[(3, 3, 0), (2, 2, 0)], (shared, Some(2), Some(2)));
        }
        check_beams(isa, dtype, heads(3, 1, 32, 64), &[(100, 100, 300)], (true, Some(2), None));
    });
}

#[test]
fn a_row_that_sees_nothing_is_zero() {
    everywhere(|isa, dtype| {
        let case = History::new(3, heads(2, 1, 16, 16), dtype, &[(3, 0, 0)], Mask::Full, None);
        let out = case.run(isa, 1, &case.spans);
        for i in 1..4 {
            assert!(out[i * case.stride..][..32].iter().all(|&x| x == 0.0));
        }
    });
}

/// Scores far apart: probabilities underflow, maxima move from block to block, and nothing turns into NaN.
#[test]
fn extreme_scores() {
    everywhere(|isa, dtype| {
        let mut case = History::new(5, heads(1, 1, 16, 16), dtype, &[(6, 595, 601)], Mask::Causal, None);
        for (index, x) in case.query.iter_mut().enumerate() {
            *x *= [1.0, 64.0, 1024.0, 65536.0, 0.0, 1e-30][index / case.stride % 6];
        }
        let out = case.run(isa, 1, &case.spans);
        for i in 0..6 {
            let row = &out[(1 + i) * case.stride..][..16];
            let off = distance(row, &case.expected(0, i));
            // Huge scores make the softmax a maximum, and rounding of the scores may pick between near ties.
            assert!(row.iter().all(|x| x.is_finite() && x.abs() <= 1.0 + 1e-6), "{isa:?} {dtype:?} row {i}: {row:?}");
            assert!(off <= 10.0 * tolerance(dtype) || i >= 1 && off < 2e-2, "{isa:?} {dtype:?} row {i}: off by {off}");
        }
    });
}
