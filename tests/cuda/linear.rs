//! Products with packed weights: every epilogue, ragged shapes, and each row alone against the row in a batch.

use sidereal::device::cuda::Cublaslt;
use sidereal::device::{
    Activation, Device, Dtype, Epilogue, LinearArgs, LinearSource, Queue, Rows, Span, Tensor, TokenBatch, TokenLane,
};
use sidereal::export::TensorView;

use crate::support::{TYPES, assert_same, cuda, cuda_with, is_emulated, noise, oracle, products, slot_plan};

/// Rows that most lanes and buffers have room for.
const ROOM: usize = 260;
/// What an output holds before: other columns must keep it, dead rows too where no library computes them, and residuals are added
/// to it.
const BEFORE: f32 = 0.25;

#[derive(Clone, Copy, Debug)]
struct Case {
    /// Rows of the weight; of a gated one, gate and up projection together.
    n: usize,
    k: usize,
    epilogue: Epilogue,
    out: Dtype,
    /// Whether the weight has a bias.
    biased: bool,
    /// Columns before the views of x and out.
    skipped: (usize, usize),
    /// Rows that lane and buffers have room for.
    room: usize,
}

impl Case {
    fn columns(&self) -> usize {
        if self.is_gated() { self.n / 2 } else { self.n }
    }

    fn is_gated(&self) -> bool {
        matches!(self.epilogue, Epilogue::Gate(_))
    }

    /// Whether cuBLASLt can be fed from the weight's rows.
    fn has_whole_rows(&self, compute: Dtype) -> bool {
        (self.k * compute.bytes()).is_multiple_of(16)
    }
}

const fn case(n: usize, k: usize, epilogue: Epilogue, out: Dtype) -> Case {
    Case { n, k, epilogue, out, biased: false, skipped: (0, 0), room: ROOM }
}

/// One weight with its buffers on one device.
struct Rig<D> {
    device: D,
    case: Case,
    lane: TokenLane,
    args: LinearArgs,
    /// Dead rows of the output may change.
    computes_dead_rows: bool,
    x: Tensor,
    out: Tensor, // the whole buffer
}

impl<D: Device> Rig<D> {
    fn new(mut device: D, case: Case) -> Rig<D> {
        let compute = device.facts().compute;
        let Case { n, k, epilogue, out, biased, skipped, room } = case;
        let scale = (3.0 / k as f32).sqrt();
        let weights: Vec<f32> = noise(3, n * k).iter().map(|w| w * scale).collect();
        let part = |rows: std::ops::Range<usize>| {
            TensorView::owned("part", vec![rows.len(), k], weights[rows.start * k..rows.end * k].to_vec())
        };
        let bias = noise(4, n);
        let bias = |rows: std::ops::Range<usize>| TensorView::owned("bias", vec![rows.len()], bias[rows].to_vec());
        let cut = if case.is_gated() { n / 2 } else { n / 3 };
        let parts = vec![part(0..cut), part(cut..n)];
        let biases = if biased { vec![bias(0..cut), bias(cut..n)] } else { Vec::new() };
        let weight = device.linear_weight(&LinearSource { parts, biases, gated: case.is_gated() }).unwrap();
        device.plan_slots(slot_plan(1, 1)).unwrap();
        let lane = device.token_lane(room, Queue::Prefill).unwrap();
        // Columns behind x belong to something else.
        let x = device.buffer(room, skipped.0 + k + 5, compute).unwrap();
        device.write_buffer(x, &vec![f32::NAN; room * x.cols]).unwrap();
        let whole = device.buffer(room, skipped.1 + case.columns() + 3, out).unwrap();
        let (x, out) = (x.columns(skipped.0, k), whole.columns(skipped.1, case.columns()));
        let args = LinearArgs { rows: Rows::Tokens(lane), x, weight, out, epilogue };
        Rig { device, case, lane, args, computes_dead_rows: false, x, out: whole }
    }

    /// The product of the rows `first ..` of the inputs, `rows` of them; the rest of the output must stay as it was.
    fn run(&mut self, first: usize, rows: usize) -> Vec<f32> {
        let Rig { device, case, .. } = self;
        let room = case.room;
        device.write_buffer(self.out, &vec![BEFORE; room * self.out.cols]).unwrap();
        let mut x: Vec<f32> = (first..first + rows).flat_map(|row| noise(100 + row as u64, case.k)).collect();
        x.resize(room * case.k, f32::NAN);
        device.write_buffer(self.x, &x).unwrap();
        let spans = match rows {
            0 => Vec::new(),
            _ => vec![Span { slot: 0, first_row: 0, rows: rows as u32, first_position: 0, last: true }],
        };
        device.write_tokens(self.lane, &TokenBatch { tokens: vec![0; rows], spans }).unwrap();
        device.linear(&self.args).unwrap();
        let whole = device.read_buffer(self.out, room).unwrap();
        let (columns, before) = (case.columns(), case.skipped.1);
        let mut product = Vec::with_capacity(rows * columns);
        for (row, values) in whole.chunks(self.out.cols).enumerate() {
            let (head, tail) = values.split_at(before);
            let is_computed = row < rows || self.computes_dead_rows;
            let (values, tail) = tail.split_at(if is_computed { columns } else { 0 });
            assert!(head.iter().chain(tail).all(|&x| x == BEFORE), "{case:?}, row {row}: wrote beside its output");
            if row < rows {
                product.extend_from_slice(values);
            }
        }
        product
    }
}

/// Both devices agree. Sums: partial sums stay below 4 (rows of x and W are noise whose products sum to about 1), so each of k
/// additions on each device rounds by at most 2^-23; activations add some 1e-6. A bf16 output may round to the neighbouring
/// value: one unit in the last of 8 bits.
fn agree(case: Case, actual: &[f32], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len(), "{case:?}");
    let sums = 2.0 * case.k as f32 * 2f32.powi(-23) + 2e-6;
    for (index, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
        let rounding = if case.out == Dtype::Bf16 { expected.abs() * 2f32.powi(-7) } else { 0.0 };
        let error = (actual - expected).abs();
        assert!(error <= sums + rounding, "{case:?}: element {index} is {actual} and not {expected}");
    }
}

/// Rows of a batch equal the CPU's, and each row alone, and in batches for which other tiles are chosen, has the same bits.
fn check(case: Case, counts: &[usize]) {
    for (compute, cublaslt) in TYPES.into_iter().flat_map(|compute| products().iter().map(move |&on| (compute, on))) {
        let mut card = Rig::new(cuda_with(compute, cublaslt), case);
        let plain = usize::from(cublaslt == Cublaslt::On && case.has_whole_rows(compute) && !case.biased);
        // A card's library may have no algorithm for a shape.
        assert!(!is_emulated() || card.device.cublaslt_weights() == (plain, 1), "{compute:?} {case:?}");
        card.computes_dead_rows = card.device.cublaslt_weights().0 > 0;
        let mut cpu = Rig::new(oracle(compute), case);
        let most = *counts.last().unwrap();
        let all = card.run(0, most);
        agree(case, &all, &cpu.run(0, most));
        for &rows in counts {
            let some = card.run(0, rows);
            assert_same(&format!("{compute:?} {case:?} {cublaslt:?}, {rows} rows"), &some, &all[..some.len()]);
        }
        for row in [1, most / 2, most - 1] {
            let alone = card.run(row, 1);
            let there = &all[row * case.columns()..][..case.columns()];
            assert_same(&format!("{compute:?} {case:?} {cublaslt:?}, row {row} alone"), &alone, there);
        }
    }
}

#[test]
fn every_epilogue() {
    use Activation::{GeluErf, GeluTanh, Relu, Silu};
    for out in TYPES {
        check(case(70, 48, Epilogue::Store, out), &[1, 7, 20]);
        for activation in [Relu, GeluTanh, GeluErf, Silu] {
            check(case(40, 40, Epilogue::Activate(activation), out), &[3, 9]);
            check(case(74, 24, Epilogue::Gate(activation), out), &[3, 9]);
        }
    }
    check(case(45, 96, Epilogue::Residual, Dtype::F32), &[2, 33]);
}

#[test]
fn every_epilogue_with_a_bias() {
    use Activation::{GeluTanh, Silu};
    let biased = |n, k, epilogue, out| Case { biased: true, ..case(n, k, epilogue, out) };
    for out in TYPES {
        check(biased(70, 48, Epilogue::Store, out), &[1, 7, 20]);
        check(biased(40, 40, Epilogue::Activate(GeluTanh), out), &[3, 9]);
        check(biased(74, 24, Epilogue::Gate(Silu), out), &[3, 9]);
    }
    for n in [3, 32, 45, 130] {
        check(biased(n, 33, Epilogue::Residual, Dtype::F32), &[2, 33]);
    }
    // Each of the tiles, as below.
    check(biased(500, 24, Epilogue::Store, Dtype::F32), &[1, 64, 65, 260]);
    check(biased(400, 24, Epilogue::Gate(Silu), Dtype::Bf16), &[1, 65, 257]);
}

#[test]
fn ragged_shapes() {
    for (n, k) in [(3, 1), (31, 12), (33, 63), (64, 64), (65, 65), (130, 129), (257, 8)] {
        for out in TYPES {
            check(case(n, k, Epilogue::Store, out), &[2, 5]);
        }
    }
}

#[test]
fn rows_at_the_edges_of_tiles() {
    // On the stand-in's four multiprocessors 512 packed columns get the wide tile at 260 rows and the middle one below 65; 256
    // get the middle tile at 260 rows and the small one below 65.
    check(case(512, 40, Epilogue::Store, Dtype::F32), &[1, 63, 64, 65, 128, 129, 260]);
    check(case(256, 72, Epilogue::Residual, Dtype::F32), &[1, 64, 260]);
    check(case(400, 24, Epilogue::Gate(Activation::Silu), Dtype::Bf16), &[1, 64, 65, 257]);
}

/// More rows than one of cuBLASLt's calls has.
#[test]
fn buckets_of_several_calls() {
    for epilogue in [Epilogue::Residual, Epilogue::Gate(Activation::Silu)] {
        check(Case { room: 2100, ..case(16, 8, epilogue, Dtype::F32) }, &[2047, 2100]);
    }
}

#[test]
fn views_of_wider_buffers() {
    for (skipped, epilogue) in [((8, 1), Epilogue::Residual), ((64, 4), Epilogue::Store), ((16, 2), Epilogue::Residual)]
    {
        let case = Case { skipped, ..case(50, 48, epilogue, Dtype::F32) };
        check(case, &[1, 11]);
    }
    check(Case { skipped: (0, 3), ..case(72, 24, Epilogue::Gate(Activation::Relu), Dtype::Bf16) }, &[4, 10]);
}

#[test]
fn no_rows_write_nothing() {
    for compute in TYPES {
        assert!(Rig::new(cuda(compute), case(40, 24, Epilogue::Store, Dtype::F32)).run(0, 0).is_empty());
    }
}

#[test]
#[should_panic(expected = "linear: x begins at column 3 of its buffer; a multiple of 8 is needed")]
fn an_unaligned_input_is_a_bug() {
    let case = Case { skipped: (3, 0), ..case(8, 8, Epilogue::Store, Dtype::F32) };
    Rig::new(cuda(Dtype::Bf16), case).run(0, 1);
}

#[test]
fn a_gate_without_its_up_projection_is_named() {
    let part = |rows| TensorView::owned("wi_0.weight", vec![rows, 4], vec![0.0; rows * 4]);
    let source = LinearSource { parts: vec![part(3), part(2)], biases: Vec::new(), gated: true };
    let error = cuda(Dtype::F32).linear_weight(&source).unwrap_err();
    assert_eq!(error.to_string(), "weight wi_0.weight: a gate comes with one up projection of its own shape");
}

#[test]
fn a_bias_of_another_length_is_named() {
    let parts = vec![TensorView::owned("q.weight", vec![3, 4], vec![0.0; 12])];
    let biases = vec![TensorView::owned("q.bias", vec![2], vec![0.0; 2])];
    let source = LinearSource { parts, biases, gated: false };
    for error in [cuda(Dtype::F32).linear_weight(&source), oracle(Dtype::F32).linear_weight(&source)] {
        assert_eq!(error.unwrap_err().to_string(), "weight q.bias: [2] for the 3 rows of q.weight");
    }
}
