//! Operations on rows: norms against f64, embeddings, copies, and rows that an operation must leave alone.

use half::{bf16, f16};

use super::{assert_close, cohort_plan, devices, noise, read, slot_plan, write};
use crate::device::{
    Cohort, CohortRequest, Device, DeviceError, Dtype, NormArgs, Queue, Rows, SlotState, Span, Tensor, TokenBatch,
};
use crate::export::TensorView;

fn span(slot: u32, first_row: u32, rows: u32, last: bool) -> Span {
    Span { slot, first_row, rows, first_position: 0, last }
}

#[test]
fn norms_agree_with_f64_and_write_live_rows_only() {
    for mut device in devices(2) {
        let compute = device.facts().compute;
        for cols in [1, 7, 16, 33, 64, 1024, 1025] {
            let rows = 5;
            let weight = noise(3, cols);
            let vector = device.vector(&TensorView::owned("norm", vec![cols], weight.clone()), 0.5).unwrap();
            let x = device.buffer(rows, cols + 3, Dtype::F32).unwrap().columns(3, cols);
            let out = device.buffer(rows, cols, compute).unwrap();
            device.plan_slots(slot_plan(1)).unwrap();
            let lane = device.token_lane(rows, Queue::Prefill).unwrap();
            device.write_tokens(lane, &TokenBatch { tokens: vec![0; 4], spans: vec![span(0, 0, 4, true)] }).unwrap();
            for row in 0..rows {
                write(&mut device, x, row, &noise(row as u64 + 10, cols).iter().map(|x| x * 8.0).collect::<Vec<_>>());
            }
            device.norm(&NormArgs { rows: Rows::Tokens(lane), x, weight: vector, eps: 1e-6, out }).unwrap();
            for row in 0..4 {
                let input = read(&device, x, row);
                let mean = input.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / cols as f64;
                let factor = 1.0 / (mean + 1e-6).sqrt();
                let expected: Vec<f64> =
                    input.iter().zip(&weight).map(|(&x, &w)| f64::from(x) * factor * f64::from(w) * 0.5).collect();
                // Values are below 4: 8 bits of bf16 leave 2^-7.
                let tolerance = if compute == Dtype::F32 { 1e-5 } else { 0.5f64.powi(7) };
                assert_close(
                    &format!("{} {cols}", device.facts().name),
                    &read(&device, out, row),
                    &expected,
                    tolerance,
                );
            }
            assert_eq!(read(&device, out, 4), vec![0.0; cols]);
        }
    }
}

#[test]
fn a_norm_depends_on_its_row_alone() {
    for mut device in devices(2) {
        let cols = 200;
        let weight = device.vector(&TensorView::owned("norm", vec![cols], noise(3, cols)), 1.0).unwrap();
        let x = device.buffer(300, cols, Dtype::F32).unwrap();
        let out = device.buffer(300, cols, Dtype::F32).unwrap();
        device.plan_slots(slot_plan(1)).unwrap();
        let lane = device.token_lane(300, Queue::Prefill).unwrap();
        let mut run = |rows: u32| {
            let batch = TokenBatch { tokens: vec![0; rows as usize], spans: vec![span(0, 0, rows, true)] };
            device.write_tokens(lane, &batch).unwrap();
            for row in 0..rows as usize {
                // The row under test comes last.
                write(&mut device, x, row, &noise(rows as u64 - row as u64, cols));
            }
            device.norm(&NormArgs { rows: Rows::Tokens(lane), x, weight, eps: 1e-6, out }).unwrap();
            read(&device, out, rows as usize - 1)
        };
        assert_eq!(run(1), run(300));
    }
}

#[test]
fn embeddings_widen_every_type_and_refuse_tokens_beyond_the_table() {
    let mut device = devices(1).next().unwrap();
    let table =
        device.embedding(&TensorView::owned("shared", vec![6, 3], (0..18).map(|x| x as f32).collect())).unwrap();
    let out = device.buffer(4, 3, Dtype::F32).unwrap();
    device.plan_slots(slot_plan(2)).unwrap();
    let lane = device.token_lane(4, Queue::Prefill).unwrap();
    let mut batch = TokenBatch { tokens: vec![5, 0, 2], spans: vec![span(0, 0, 2, true), span(1, 2, 1, true)] };
    device.write_tokens(lane, &batch).unwrap();
    device.embed(Rows::Tokens(lane), table, out).unwrap();
    assert_eq!(read(&device, out, 0), [15.0, 16.0, 17.0]);
    assert_eq!(read(&device, out, 2), [6.0, 7.0, 8.0]);
    batch.tokens[1] = 6;
    device.write_tokens(lane, &batch).unwrap();
    let error = device.embed(Rows::Tokens(lane), table, out).unwrap_err();
    assert!(
        matches!(&error, DeviceError::Failed { op: "embed", reason } if reason == "row 1: token 6 of 6"),
        "{error}"
    );
    // A new cohort's root beams have no token yet; embedding them is legal and reads token 0.
    let cohorts = device.cohort_lane(cohort_plan(4, 2)).unwrap();
    let request = |first_row| CohortRequest { slot: 0, beams: 2, first_row, ..CohortRequest::default() };
    device.write_cohort(cohorts, &Cohort { requests: vec![request(0), request(2)] }).unwrap();
    device.embed(Rows::Beams(cohorts), table, out).unwrap();
    assert_eq!(read(&device, out, 2), [0.0, 1.0, 2.0]);
    assert_eq!((f16::from_f32(1.5).to_f32(), bf16::from_f32(1.5).to_f32()), (1.5, 1.5));
}

#[test]
fn last_rows_travel_to_slots_and_back() {
    for mut device in devices(1) {
        let compute = device.facts().compute;
        let from = device.buffer(6, 8, compute).unwrap().columns(2, 4);
        let compact = device.buffer(3, 4, compute).unwrap();
        let slots: Tensor = device.buffer(5, 4, compute).unwrap();
        let back = device.buffer(2, 4, compute).unwrap();
        device.plan_slots(slot_plan(5)).unwrap();
        device.write_slot(4, &SlotState::default()).unwrap();
        let lane = device.token_lane(6, Queue::Prefill).unwrap();
        let spans = vec![span(4, 0, 2, true), span(1, 2, 1, false), span(2, 3, 3, true)];
        device.write_tokens(lane, &TokenBatch { tokens: vec![0; 6], spans }).unwrap();
        (0..6).for_each(|row| write(&mut device, from, row, &[row as f32; 4]));
        device.gather_last(lane, from, compact).unwrap();
        device.store_slots(lane, compact, slots).unwrap();
        assert_eq!((0..5).map(|slot| read(&device, slots, slot)[3]).collect::<Vec<_>>(), [0.0, 0.0, 5.0, 0.0, 1.0]);
        let cohorts = device.cohort_lane(cohort_plan(8, 2)).unwrap();
        let request = |slot, first_row| CohortRequest { slot, beams: 4, first_row, ..CohortRequest::default() };
        device.write_cohort(cohorts, &Cohort { requests: vec![request(2, 0), request(4, 4)] }).unwrap();
        device.load_slots(cohorts, slots, back).unwrap();
        assert_eq!((0..2).map(|row| read(&device, back, row)[0]).collect::<Vec<_>>(), [5.0, 1.0]);
    }
}

#[test]
#[should_panic(expected = "norm: x is [4, 8], needed are at least 2 rows of 9 columns")]
fn a_wrong_shape_names_the_operation() {
    let mut device = devices(1).next().unwrap();
    let weight = device.vector(&TensorView::owned("norm", vec![9], vec![1.0; 9]), 1.0).unwrap();
    let x = device.buffer(4, 8, Dtype::F32).unwrap();
    device.plan_slots(slot_plan(1)).unwrap();
    let lane = device.token_lane(4, Queue::Prefill).unwrap();
    device.write_tokens(lane, &TokenBatch { tokens: vec![0; 2], spans: vec![span(0, 0, 2, true)] }).unwrap();
    let _ = device.norm(&NormArgs { rows: Rows::Tokens(lane), x, weight, eps: 1e-6, out: x });
}

#[test]
fn input_vectors_are_copied_beside_their_tokens() {
    for mut device in devices(2) {
        let compute = device.facts().compute;
        device.plan_slots(slot_plan(2)).unwrap();
        let lane = device.token_lane(4, Queue::Prefill).unwrap();
        device.plan_dense(lane, 5).unwrap();
        let batch = TokenBatch { tokens: vec![0; 3], spans: vec![span(0, 0, 2, true), span(1, 2, 1, true)] };
        device.write_tokens(lane, &batch).unwrap();
        let wide = device.buffer(4, 5, Dtype::F32).unwrap();
        let narrow = device.buffer(4, 6, compute).unwrap().columns(2, 3);
        for (out, cols) in [(wide, 5), (narrow, 3)] {
            let values: Vec<f32> = (0..3 * cols as u8).map(f32::from).collect();
            device.write_dense(lane, &values).unwrap();
            device.embed_dense(lane, out).unwrap();
            for row in 0..3 {
                let expected: Vec<f64> = values[row * cols..][..cols].iter().map(|&v| f64::from(v)).collect();
                assert_close("dense", &read(&device, out, row), &expected, 0.0);
            }
            assert_eq!(read(&device, out, 3), vec![0.0; cols]);
        }
        for bad in [0, 4, 18] {
            let error = device.write_dense(lane, &vec![0.0; bad]).unwrap_err();
            assert!(error.to_string().contains("3 rows of 1 to 5 columns"), "{error}");
        }
        // The vectors of another batch are not this one's.
        device.write_tokens(lane, &batch).unwrap();
        assert!(matches!(device.embed_dense(lane, wide), Err(DeviceError::Failed { op: "embed_dense", .. })));
    }
}
