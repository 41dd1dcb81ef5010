//! Operations on rows alone: embeddings, norms, copies between rows and slots.

use std::sync::Arc;

use half::{bf16, f16};
use sidereal::device::cuda::CudaDevice;
use sidereal::device::{
    Cohort, CohortLane, CohortRequest, Device, DeviceError, Dtype, NormArgs, Queue, Rows, SlotState, Span, Tensor,
    TokenBatch,
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

/// Two batches' input vectors, the second written while the first may still be enqueued, to views that begin at `first_col`.
fn input_vectors(device: &mut dyn Device, out: Dtype, (cols, first_col): (usize, usize)) -> [Vec<f32>; 2] {
    let rows = 9;
    device.plan_slots(slot_plan(2, 1)).unwrap();
    let lane = device.token_lane(rows, Queue::Search).unwrap();
    device.plan_dense(lane, cols + 1).unwrap();
    let mut plan = || device.buffer(rows, first_col + cols, out).unwrap().columns(first_col, cols);
    let outs = [plan(), plan()];
    for (out, live) in outs.into_iter().zip([9, 4]) {
        let spans = vec![span(0, 0, 3, true), span(1, 3, live - 3, true)];
        device.write_tokens(lane, &TokenBatch { tokens: vec![0; live as usize], spans }).unwrap();
        device.write_dense(lane, &noise(u64::from(live), live as usize * cols)).unwrap();
        device.embed_dense(lane, out).unwrap();
    }
    outs.map(|out| device.read_buffer(out, rows).unwrap())
}

#[test]
fn input_vectors_of_every_type_and_width() {
    for out in TYPES {
        for (cols, first_col) in [(1, 0), (7, 3), (64, 0), (64, 1), (100, 4), (258, 0), (1024, 0)] {
            let of_cuda = input_vectors(&mut cuda(out), out, (cols, first_col));
            let of_oracle = input_vectors(&mut oracle(out), out, (cols, first_col));
            for (actual, expected) in of_cuda.iter().zip(&of_oracle) {
                assert_same(&format!("{out:?} [{cols}] at {first_col}"), actual, expected);
            }
        }
    }
}

#[test]
fn input_vectors_that_do_not_fit_are_refused() {
    let (mut card, mut cpu) = (cuda(Dtype::F32), oracle(Dtype::F32));
    let devices: [&mut dyn Device; 2] = [&mut card, &mut cpu];
    let errors = devices.map(|device| {
        device.plan_slots(slot_plan(1, 1)).unwrap();
        let [without, lane] = [(); 2].map(|()| device.token_lane(4, Queue::Prefill).unwrap());
        device.plan_dense(lane, 5).unwrap();
        let batch = TokenBatch { tokens: vec![0; 3], spans: vec![span(0, 0, 3, true)] };
        device.write_tokens(lane, &batch).unwrap();
        device.write_tokens(without, &batch).unwrap();
        let mut errors: Vec<DeviceError> =
            [0, 4, 18].iter().map(|&bad| device.write_dense(lane, &vec![0.0; bad]).unwrap_err()).collect();
        errors.push(device.write_dense(without, &[0.0; 3]).unwrap_err());
        let out = device.buffer(4, 5, Dtype::F32).unwrap();
        device.write_dense(lane, &[0.0; 12]).unwrap();
        errors.push(device.embed_dense(lane, out).unwrap_err());
        // The vectors of another batch are not this one's.
        device.write_dense(lane, &[0.0; 15]).unwrap();
        device.write_tokens(lane, &batch).unwrap();
        errors.push(device.embed_dense(lane, out).unwrap_err());
        errors.push(device.embed_dense(without, out).unwrap_err());
        errors.iter().map(DeviceError::to_string).collect::<Vec<_>>()
    });
    assert_eq!(errors[0], errors[1]);
    assert!(errors[0][0].contains("0 values for 3 rows of 1 to 5 columns"), "{errors:?}");
    assert!(errors[0][4].contains("12 values for 3 rows of 5 columns"), "{errors:?}");
}

/// Slots with prefixes of so many tokens.
const PREFIXES: [u32; 4] = [5, 0, 2, 9];
/// Rows of each request: its slot, beam width and first row. Row 4 belongs to none.
const REQUESTS: [(u32, u32, u32); 3] = [(3, 4, 0), (0, 1, 5), (2, 3, 6)];

fn write_requests(device: &mut dyn Device, cohorts: CohortLane) {
    for (slot, prefix_len) in (0..).zip(PREFIXES) {
        device.write_slot(slot, &SlotState { prefix_len, ..SlotState::default() }).unwrap();
    }
    let request = |(slot, beams, first_row)| CohortRequest { slot, beams, first_row, ..CohortRequest::default() };
    device.write_cohort(cohorts, &Cohort { requests: REQUESTS.map(request).to_vec() }).unwrap();
}

#[test]
fn learned_positions_of_tokens_and_beams() {
    for dtype in [WeightDtype::F32, WeightDtype::F16, WeightDtype::Bf16] {
        for (cols, first_col) in [(1, 0), (7, 3), (64, 0), (64, 1), (100, 4), (258, 0)] {
            let what = format!("{dtype:?} [{cols}] at {first_col}");
            let stored = stored(dtype, [13, cols]);
            let values = stored.to_f32();
            let mut device = cuda(Dtype::F32);
            let table = device.embedding(&stored).unwrap();
            let mut plan = || device.buffer(10, first_col + cols, Dtype::F32).unwrap().columns(first_col, cols);
            let [of_tokens, of_beams] = [plan(), plan()];
            let before = noise(4, 10 * cols);
            device.write_buffer(of_tokens, &before).unwrap();
            device.write_buffer(of_beams, &before).unwrap();
            device.plan_slots(slot_plan(4, 1)).unwrap();
            let lane = device.token_lane(10, Queue::Prefill).unwrap();
            let spans = vec![span(1, 0, 2, true), Span { first_position: 7, ..span(3, 2, 4, false) }];
            device.write_tokens(lane, &TokenBatch { tokens: vec![0; 6], spans }).unwrap();
            device.add_positions(Rows::Tokens(lane), table, 0, of_tokens).unwrap();
            let cohorts = device.cohort_lane(cohort_plan(10, 4)).unwrap();
            write_requests(&mut device, cohorts);
            device.add_positions(Rows::Beams(cohorts), table, 3, of_beams).unwrap();

            let expect = |out: Tensor, positions: &[Option<usize>], device: &mut CudaDevice| {
                let mut expected = before.clone();
                for (row, position) in positions.iter().enumerate() {
                    let Some(position) = position else { continue };
                    for (to, from) in expected[row * cols..][..cols].iter_mut().zip(&values[position * cols..]) {
                        *to += from;
                    }
                }
                assert_same(&what, &device.read_buffer(out, 10).unwrap(), &expected);
            };
            let tokens = [0, 1, 7, 8, 9, 10].map(Some);
            expect(of_tokens, &tokens, &mut device);
            let beams = [12, 12, 12, 12].map(Some).into_iter().chain([None, Some(8), Some(5), Some(5), Some(5)]);
            expect(of_beams, &beams.collect::<Vec<_>>(), &mut device);
        }
    }
}

#[test]
fn recorded_vectors_and_positions_follow_their_batch() {
    let (cols, mut device) = (24, cuda(Dtype::F32));
    let stored = stored(WeightDtype::F32, [8, cols]);
    let values = stored.to_f32();
    let table = device.embedding(&stored).unwrap();
    let out = device.buffer(8, cols, Dtype::F32).unwrap();
    device.plan_slots(slot_plan(4, 1)).unwrap();
    let lane = device.token_lane(8, Queue::Search).unwrap();
    device.plan_dense(lane, cols).unwrap();
    let cohorts = device.cohort_lane(cohort_plan(9, 4)).unwrap();
    for (live, first_position) in [(5, 0), (8, 0), (3, 4)] {
        write_requests(&mut device, cohorts);
        let spans = vec![Span { first_position, ..span(0, 0, live, true) }];
        device.write_tokens(lane, &TokenBatch { tokens: vec![0; live as usize], spans }).unwrap();
        let vectors = noise(u64::from(live), live as usize * cols);
        device.write_dense(lane, &vectors).unwrap();
        device
            .replay((cohorts, lane), 0, &mut |device| {
                device.embed_dense(lane, out)?;
                device.add_positions(Rows::Tokens(lane), table, 0, out)
            })
            .unwrap();
        let positions = &values[first_position as usize * cols..][..vectors.len()];
        let expected: Vec<f32> = vectors.iter().zip(positions).map(|(vector, position)| vector + position).collect();
        assert_same(&format!("{live} rows"), &device.read_buffer(out, live as usize).unwrap(), &expected);
        device.read_beams(cohorts).unwrap();
    }
    assert_eq!(device.recorded_steps(), 1);
}
