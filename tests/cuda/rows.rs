//! Operations on rows alone: embeddings, norms, copies between rows and slots.

use std::sync::Arc;

use half::{bf16, f16};
use sidereal::device::{
    Cohort, CohortRequest, Device, Dtype, NormArgs, Queue, Rows, SlotState, Span, Tensor, TokenBatch,
};
use sidereal::export::{TensorView, WeightDtype};
use sidereal_ffi::MappedFile;

use crate::support::{TYPES, assert_same, cohort_plan, cuda, noise, oracle, slot_plan};

fn span(slot: u32, first_row: u32, rows: u32, last: bool) -> Span {
    Span { slot, first_row, rows, first_position: 0, last }
}

/// A matrix as it lies in an export.
fn stored(dtype: WeightDtype, shape: [usize; 2]) -> TensorView {
    let values = noise(7, shape[0] * shape[1]);
    let bytes: Vec<u8> = match dtype {
        WeightDtype::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        WeightDtype::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        WeightDtype::Bf16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table");
    std::fs::write(&path, &bytes).unwrap();
    let file = Arc::new(MappedFile::open(&path).unwrap());
    TensorView::mapped("table".to_owned(), dtype, shape.to_vec(), file, 0..bytes.len())
}

/// Embeds `tokens`, and the root beams of a cohort, into views that begin at `first_col`; rows beyond are left alone.
fn embedded(device: &mut dyn Device, table: &TensorView, tokens: &[u32], first_col: usize) -> [Vec<f32>; 2] {
    let rows = tokens.len() + 5;
    let cols = table.cols();
    let table = device.embedding(table).unwrap();
    let mut out = || device.buffer(rows, first_col + cols, Dtype::F32).unwrap().columns(first_col, cols);
    let [of_tokens, of_beams] = [out(), out()];
    device.plan_slots(slot_plan(2, 1)).unwrap();
    let lane = device.token_lane(rows, Queue::Prefill).unwrap();
    let spans = vec![span(0, 0, tokens.len() as u32, true)];
    device.write_tokens(lane, &TokenBatch { tokens: tokens.to_vec(), spans }).unwrap();
    device.embed(Rows::Tokens(lane), table, of_tokens).unwrap();
    let cohorts = device.cohort_lane(cohort_plan(rows, 2)).unwrap();
    let request = CohortRequest { slot: 0, beams: 1, first_row: 0, ..CohortRequest::default() };
    device.write_cohort(cohorts, &Cohort { requests: vec![request] }).unwrap();
    device.embed(Rows::Beams(cohorts), table, of_beams).unwrap();
    [of_tokens, of_beams].map(|out| device.read_buffer(out, rows).unwrap())
}

#[test]
fn embeddings_of_every_type_and_width() {
    for dtype in [WeightDtype::F32, WeightDtype::F16, WeightDtype::Bf16] {
        for (cols, first_col) in [(1, 0), (7, 3), (64, 0), (64, 1), (100, 4), (258, 0), (1024, 0)] {
            let table = stored(dtype, [11, cols]);
            let tokens = [10, 0, 3, 3, 9, 1];
            let of_cuda = embedded(&mut cuda(Dtype::F32), &table, &tokens, first_col);
            let of_oracle = embedded(&mut oracle(Dtype::F32), &table, &tokens, first_col);
            for (actual, expected) in of_cuda.iter().zip(&of_oracle) {
                assert_same(&format!("{dtype:?} [{cols}] at {first_col}"), actual, expected);
            }
        }
    }
}

#[test]
fn a_token_beyond_the_table_reads_its_last_row() {
    let table = stored(WeightDtype::Bf16, [11, 64]);
    let mut device = cuda(Dtype::F32);
    let [rows, _] = embedded(&mut device, &table, &[11, u32::MAX, 10], 0);
    assert_same("11", &rows[..64], &rows[128..192]);
    assert_same("u32::MAX", &rows[64..128], &rows[128..192]);
}

/// A norm's case: `live` of `rows` rows, views that begin at `first_col`.
#[derive(Clone, Copy, Debug)]
struct NormCase {
    cols: usize,
    rows: usize,
    live: usize,
    first_col: usize,
    out: Dtype,
}

fn normed(device: &mut dyn Device, case: NormCase, values: &[f32]) -> Vec<f32> {
    let NormCase { cols, rows, live, first_col, out } = case;
    let weight = device.vector(&TensorView::owned("norm", vec![cols], noise(3, cols)), 0.5).unwrap();
    let x = device.buffer(rows, first_col + cols, Dtype::F32).unwrap().columns(first_col, cols);
    let out = device.buffer(rows, first_col + cols, out).unwrap().columns(first_col, cols);
    device.write_buffer(x, values).unwrap();
    device.plan_slots(slot_plan(1, 1)).unwrap();
    let lane = device.token_lane(rows, Queue::Prefill).unwrap();
    let spans = vec![span(0, 0, live as u32, true)];
    device.write_tokens(lane, &TokenBatch { tokens: vec![0; live], spans }).unwrap();
    device.norm(&NormArgs { rows: Rows::Tokens(lane), x, weight, eps: 1e-6, out }).unwrap();
    device.read_buffer(out, rows).unwrap()
}

#[test]
fn norms_agree_with_the_oracle() {
    for out in TYPES {
        for (cols, first_col) in [(1, 0), (7, 1), (16, 3), (33, 0), (64, 2), (256, 0), (1024, 0), (1025, 0), (4096, 0)]
        {
            let case = NormCase { cols, rows: 9, live: 5, first_col, out };
            let mut values: Vec<f32> = noise(cols as u64, case.rows * cols).iter().map(|x| x * 8.0).collect();
            values[5 * cols..].fill(f32::NAN);
            values[..cols].fill(0.0);
            let actual = normed(&mut cuda(out), case, &values);
            let expected = normed(&mut oracle(out), case, &values);
            // A sum of squares has no cancellation: left to right the oracle's error is within cols x 2^-24 of it, halved by
            // the root; the kernel's is far less. bf16 rounds what may lie on either side of a tie: one unit, 2^-7 at most.
            let relative = match out {
                Dtype::F32 => cols as f32 * 2f32.powi(-25) + 4.0 * f32::EPSILON,
                Dtype::Bf16 => 2f32.powi(-7),
            };
            for (index, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
                let error = (actual - expected).abs();
                assert!(error <= relative * expected.abs(), "{case:?}, {index}: {actual} and not {expected}");
            }
        }
    }
}

#[test]
fn a_norm_depends_on_its_row_alone() {
    for out in TYPES {
        let cols = 200;
        let case = |live| NormCase { cols, rows: live, live, first_col: 0, out };
        let values = noise(5, 37 * cols);
        let among = normed(&mut cuda(out), case(37), &values);
        for row in [0, 3, 36] {
            let range = row * cols..(row + 1) * cols;
            let alone = normed(&mut cuda(out), case(1), &values[range.clone()]);
            assert_same(&format!("row {row}"), &alone, &among[range]);
        }
    }
}

/// Rows `Last` of a batch to compact rows, to slots, and to the requests of a cohort.
fn travelled(device: &mut dyn Device, cols: usize, first_col: usize) -> [Vec<f32>; 3] {
    let compute = device.facts().compute;
    let mut plan = |rows, first_col| -> Tensor {
        device.buffer(rows, cols + first_col, compute).unwrap().columns(first_col, cols)
    };
    let (from, compact, slots, back) = (plan(16, first_col), plan(8, 0), plan(9, first_col), plan(8, 0));
    device.write_buffer(from, &noise(1, 16 * cols)).unwrap();
    device.plan_slots(slot_plan(9, 1)).unwrap();
    device.write_slot(4, &SlotState::default()).unwrap();
    let lane = device.token_lane(16, Queue::Prefill).unwrap();
    let spans = vec![span(4, 0, 2, true), span(1, 2, 1, false), span(2, 3, 3, true), span(8, 6, 1, true)];
    device.write_tokens(lane, &TokenBatch { tokens: vec![0; 7], spans }).unwrap();
    device.gather_last(lane, from, compact).unwrap();
    device.store_slots(lane, compact, slots).unwrap();
    let cohorts = device.cohort_lane(cohort_plan(8, 2)).unwrap();
    let request = |slot, first_row| CohortRequest { slot, beams: 2, first_row, ..CohortRequest::default() };
    let requests = vec![request(2, 0), request(8, 3), request(4, 5)];
    device.write_cohort(cohorts, &Cohort { requests }).unwrap();
    device.load_slots(cohorts, slots, back).unwrap();
    [(compact, 8), (slots, 9), (back, 8)].map(|(tensor, rows)| device.read_buffer(tensor, rows).unwrap())
}

#[test]
fn last_rows_travel_to_slots_and_back() {
    for compute in TYPES {
        for (cols, first_col) in [(4, 2), (3, 1), (1, 0), (64, 0), (72, 8), (1000, 0)] {
            let of_cuda = travelled(&mut cuda(compute), cols, first_col);
            let of_oracle = travelled(&mut oracle(compute), cols, first_col);
            for (actual, expected) in of_cuda.iter().zip(&of_oracle) {
                assert_same(&format!("{compute:?} [{cols}] at {first_col}"), actual, expected);
            }
        }
    }
}
