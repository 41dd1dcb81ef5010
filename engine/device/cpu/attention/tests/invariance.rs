//! A row's bits depend on its own query, keys and position: not on companions, chunks, threads, or who else is in a tile.

use super::everywhere;
use super::fixture::{Beams, Heads, History};
use crate::device::Mask;
use crate::device::cpu::kv::{BeamSpan, TokenSpan};

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

const HEADS: Heads = Heads { heads: 4, kv_heads: 2, head_dim: 24, page_tokens: 64 };

/// Cuts every span into pieces of at most `rows` rows, as a scheduler cuts a prompt. A causal chunk knows only the keys up to
/// its own end.
fn chunks(spans: &[TokenSpan], rows: usize, mask: Mask) -> Vec<TokenSpan> {
    let mut pieces = Vec::new();
    for span in spans {
        for first in (0..span.rows).step_by(rows) {
            let rows = rows.min(span.rows - first);
            let first_position = span.first_position + first;
            let kv_len = if mask == Mask::Causal { first_position + rows } else { span.kv_len };
            pieces.push(TokenSpan { first_row: span.first_row + first, rows, first_position, kv_len, ..*span });
        }
    }
    pieces
}

#[test]
fn history_rows_are_alone_in_the_world() {
    everywhere(|isa, dtype| {
        for mask in [Mask::Causal, Mask::Full] {
            let shapes = [(140, 0, 140), (1, 0, 1), (30, 270, 300), (64, 0, 64), (70, 530, 600)];
            let case = History::new(21, HEADS, dtype, &shapes, mask, Some(50));
            let together = bits(&case.run(isa, 1, &case.spans));
            for threads in 2..=4 {
                assert_eq!(together, bits(&case.run(isa, threads, &case.spans)), "{isa:?} {dtype:?} {threads} threads");
            }
            for rows in [1, 5, 6, 7, 64, 100] {
                let cut = chunks(&case.spans, rows, mask);
                assert_eq!(together, bits(&case.run(isa, 2, &cut)), "{isa:?} {dtype:?} {mask:?} chunks of {rows}");
            }
            for span in &case.spans {
                let alone = bits(&case.run(isa, 1, std::slice::from_ref(span)));
                let range = span.first_row * case.stride..(span.first_row + span.rows) * case.stride;
                assert_eq!(together[range.clone()], alone[range], "{isa:?} {dtype:?} {mask:?} alone");
            }
        }
    });
}

#[test]
fn beam_rows_are_alone_in_the_world() {
    everywhere(|isa, dtype| {
        let requests = [(130, 128, 333), (1, 1, 64), (20, 17, 5), (9, 9, 0)];
        let case = Beams::new(22, HEADS, dtype, &requests, true, Some(2), Some(30));
        let together = bits(&case.run(isa, 1, &case.spans));
        for threads in 2..=4 {
            assert_eq!(together, bits(&case.run(isa, threads, &case.spans)), "{isa:?} {dtype:?} {threads} threads");
        }
        for span in &case.spans {
            for first in (0..span.live).step_by(5) {
                let some = BeamSpan { first_row: span.first_row + first, live: 5.min(span.live - first), ..*span };
                let alone = bits(&case.run(isa, 1, &[some]));
                let range = some.first_row * case.stride..(some.first_row + some.live) * case.stride;
                assert_eq!(together[range.clone()], alone[range], "{isa:?} {dtype:?} beams {first}.. of {span:?}");
            }
        }
    });
}
