//! Mixture of experts against a naive one in f64: ties, experts that nobody chose, all rows on one, ragged shapes, and each row
//! alone against the row in a batch.

use half::bf16;
use sidereal::device::cuda::CudaDevice;
use sidereal::device::{
    Activation, Cohort, CohortRequest, Device, Dtype, Epilogue, ExpertSource, ExpertsArgs, ExpertsPlan, ExpertsSource,
    Queue, RouterOrder, Routing, Rows, Span, Tensor, TokenBatch, TokenLane,
};
use sidereal::export::TensorView;

use crate::support::{TYPES, assert_same, cohort_plan, cuda, noise, slot_plan};

/// Rows that lanes and buffers have room for.
const ROOM: usize = 200;
/// Columns before the views of x and of the residual stream.
const SKIPPED: usize = 8;

/// Which experts rows like.
#[derive(Clone, Copy, Debug)]
enum Taste {
    /// Any.
    Spread,
    /// This one most, the others by noise.
    Favourite(usize),
    /// Odd ones never, if there are others.
    Even,
    /// All alike: every logit is the same.
    Tied,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    experts: usize,
    hidden: usize,
    inner: usize,
    activation: Epilogue,
    routing: Routing,
    taste: Taste,
}

const fn routing(top_k: usize) -> Routing {
    Routing { top_k, order: RouterOrder::SoftmaxThenTopK, renormalise: true, scale: 1.0 }
}

const fn case(experts: usize, top_k: usize, (hidden, inner): (usize, usize)) -> Case {
    let activation = Epilogue::Gate(Activation::Silu);
    Case { experts, hidden, inner, activation, routing: routing(top_k), taste: Taste::Spread }
}

/// Row-major weights.
struct Layer {
    router: Vec<f32>,            // [experts, hidden]
    experts: Vec<[Vec<f32>; 3]>, // gate or the only input [inner, hidden], up [inner, hidden], output [hidden, inner]
}

impl Case {
    fn is_gated(&self) -> bool {
        matches!(self.activation, Epilogue::Gate(_))
    }

    /// A row's input. Its first column is 1: what the router holds there is an expert's own preference.
    fn x(&self, row: usize) -> Vec<f32> {
        let mut x = noise(100 + row as u64, self.hidden);
        x[0] = 1.0;
        x
    }

    /// Exact in bf16, so that oracle and card multiply the same numbers.
    fn layer(&self) -> Layer {
        let Case { experts, hidden, inner, .. } = *self;
        let matrix = |seed: u64, rows: usize, cols: usize| -> Vec<f32> {
            let scale = (3.0 / cols as f32).sqrt();
            noise(seed, rows * cols).iter().map(|w| bf16::from_f32(w * scale).to_f32()).collect()
        };
        let mut router: Vec<f32> = noise(7, experts * hidden).iter().map(|w| w * 2.0).collect();
        for (expert, row) in router.chunks_mut(hidden).enumerate() {
            match self.taste {
                Taste::Spread => {}
                Taste::Favourite(favourite) => row[0] = if expert == favourite { 1000.0 } else { row[0] },
                Taste::Even => row[0] = if expert % 2 == 1 { -1000.0 } else { row[0] },
                Taste::Tied => row.copy_from_slice(&noise(7, hidden)),
            }
        }
        let expert =
            |e: u64| [matrix(3 * e, inner, hidden), matrix(3 * e + 1, inner, hidden), matrix(3 * e + 2, hidden, inner)];
        Layer { router, experts: (20..20 + experts as u64).map(expert).collect() }
    }

    fn source(&self) -> ExpertsSource {
        let Case { experts, hidden, inner, .. } = *self;
        let layer = self.layer();
        let view =
            |name: &str, shape: [usize; 2], values: &[f32]| TensorView::owned(name, shape.to_vec(), values.to_vec());
        let expert = |[gate, up, output]: &[Vec<f32>; 3]| {
            let mut input = vec![view("wi_0", [inner, hidden], gate)];
            if self.is_gated() {
                input.push(view("wi_1", [inner, hidden], up));
            }
            ExpertSource { input, output: view("wo", [hidden, inner], output) }
        };
        ExpertsSource {
            router: view("router", [experts, hidden], &layer.router),
            routing: self.routing,
            experts: layer.experts.iter().map(expert).collect(),
        }
    }
}

fn activated(activation: Epilogue, x: f64) -> f64 {
    match activation {
        Epilogue::Activate(Activation::Relu) | Epilogue::Gate(Activation::Relu) => x.max(0.0),
        Epilogue::Activate(Activation::Silu) | Epilogue::Gate(Activation::Silu) => x / (1.0 + (-x).exp()),
        Epilogue::Activate(Activation::GeluTanh) | Epilogue::Gate(Activation::GeluTanh) => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
        other => panic!("{other:?} is not among the cases"),
    }
}

fn dot(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, &b)| a * f64::from(b)).sum()
}

/// The experts of a row with their weights, best first; of equal logits the lower one first.
fn chosen(case: &Case, layer: &Layer, x: &[f64]) -> Vec<(usize, f64)> {
    let Routing { top_k, order, renormalise, scale } = case.routing;
    let logits: Vec<f64> = layer.router.chunks(case.hidden).map(|row| dot(x, row)).collect();
    let mut by_logit: Vec<usize> = (0..case.experts).collect();
    by_logit.sort_by(|&a, &b| logits[b].total_cmp(&logits[a])); // stable: the lower first
    if let [.., last, next] = by_logit[..(top_k + 1).min(case.experts)] {
        let gap = logits[last] - logits[next];
        let tied =
            layer.router[last * case.hidden..][..case.hidden] == layer.router[next * case.hidden..][..case.hidden];
        assert!(top_k == case.experts || tied || gap > 1e-4, "{case:?}: which expert is chosen hangs on rounding");
    }
    let exponential = |expert: usize| (logits[expert] - logits[by_logit[0]]).exp();
    let total: f64 = match order {
        RouterOrder::SoftmaxThenTopK => (0..case.experts).map(exponential).sum(),
        RouterOrder::TopKThenSoftmax => by_logit[..top_k].iter().copied().map(exponential).sum(),
    };
    let kept: f64 = by_logit[..top_k].iter().copied().map(exponential).sum::<f64>() / total;
    let divisor = if renormalise { kept } else { 1.0 };
    by_logit[..top_k].iter().map(|&expert| (expert, exponential(expert) / total / divisor * f64::from(scale))).collect()
}

/// What is added to a row, and how far a device that computes in `compute` may be from it. Its sums of n products stay below 4, so
/// that each addition rounds by at most 2^-23; of activations and gates the derivatives are below 8 together. A bf16 inner value
/// may round to its neighbour: 2^-7 of it. Weights follow their logits' errors.
fn expected(case: &Case, layer: &Layer, compute: Dtype, row: usize) -> Vec<(f64, f64)> {
    let is_bf16 = compute == Dtype::Bf16;
    let narrow = |x: f64| if is_bf16 { f64::from(bf16::from_f32(x as f32)) } else { x };
    let x: Vec<f64> = case.x(row).iter().map(|&x| narrow(f64::from(x))).collect();
    let unit = 2f64.powi(-23);
    let mut out = vec![(0.0, 0.0); case.hidden];
    for (expert, weight) in chosen(case, layer, &x) {
        let [gate, up, output] = &layer.experts[expert];
        let inner: Vec<f64> = (0..case.inner)
            .map(|i| {
                let row = |matrix: &[f32]| dot(&x, &matrix[i * case.hidden..][..case.hidden]);
                let value = activated(case.activation, row(gate));
                narrow(if case.is_gated() { value * row(up) } else { value })
            })
            .collect();
        let sums = 8.0 * (case.hidden as f64 * unit + 1e-6);
        for (out, output) in out.iter_mut().zip(output.chunks(case.inner)) {
            let value = dot(&inner, output);
            let rounding: f64 = inner
                .iter()
                .zip(output)
                .map(|(inner, w)| f64::from(w.abs()) * (sums + if is_bf16 { inner.abs() * 2f64.powi(-7) } else { 0.0 }))
                .sum();
            // Logits of 1,000 carry a rounding of 2^-14 in each of their last additions.
            let of_weight = 2.0 * (case.hidden as f64 * unit * 8.0 + 2f64.powi(-13));
            out.0 += weight * value;
            out.1 += weight.abs() * (rounding + case.inner as f64 * unit + value.abs() * of_weight);
        }
    }
    out
}

/// A layer with its buffers on the card.
struct Rig {
    device: CudaDevice,
    case: Case,
    lane: TokenLane,
    args: ExpertsArgs,
    x: Tensor,   // the whole buffer
    out: Tensor, // the whole buffer
}

impl Rig {
    fn new(compute: Dtype, case: Case) -> Rig {
        let mut device = cuda(compute);
        let Case { experts, hidden, inner, activation, routing, .. } = case;
        let layer = device.experts_weight(&case.source()).unwrap();
        // Room for wider layers too.
        let plan = ExpertsPlan {
            rows: ROOM,
            experts: experts + 1,
            top_k: routing.top_k + 1,
            hidden: hidden + 3,
            inner: inner + 70,
        };
        let work = device.experts_work(plan).unwrap();
        device.plan_slots(slot_plan(1, 1)).unwrap();
        let lane = device.token_lane(ROOM, Queue::Search).unwrap();
        let x = device.buffer(ROOM, SKIPPED + hidden + 5, compute).unwrap();
        device.write_buffer(x, &vec![f32::NAN; ROOM * x.cols]).unwrap();
        let out = device.buffer(ROOM, SKIPPED + hidden + 3, Dtype::F32).unwrap();
        let args = ExpertsArgs {
            rows: Rows::Tokens(lane),
            x: x.columns(SKIPPED, hidden),
            experts: layer,
            work,
            activation,
            out: out.columns(SKIPPED, hidden),
        };
        Rig { device, case, lane, args, x, out }
    }

    /// What a residual stream holds before: the same in every row, so that a row may be compared at any place.
    fn before(&self) -> Vec<f32> {
        noise(9, self.out.cols).repeat(ROOM)
    }

    /// Writes the given rows of the case as a batch.
    fn write(&mut self, rows: &[usize]) {
        let before = self.before();
        self.device.write_buffer(self.out, &before).unwrap();
        let mut x: Vec<f32> = rows.iter().flat_map(|&row| self.case.x(row)).collect();
        x.resize(ROOM * self.case.hidden, f32::NAN);
        self.device.write_buffer(self.x.columns(SKIPPED, self.case.hidden), &x).unwrap();
        let span = Span { slot: 0, first_row: 0, rows: rows.len() as u32, first_position: 0, last: true };
        let spans = if rows.is_empty() { Vec::new() } else { vec![span] };
        self.device.write_tokens(self.lane, &TokenBatch { tokens: vec![0; rows.len()], spans }).unwrap();
    }

    /// The residual stream of the batch's rows, whose other columns and rows must be as they were.
    fn read(&mut self, rows: usize) -> Vec<f32> {
        let (hidden, cols) = (self.case.hidden, self.out.cols);
        let (before, after) = (self.before(), self.device.read_buffer(self.out, ROOM).unwrap());
        let mut out = Vec::with_capacity(rows * hidden);
        for (row, (before, after)) in before.chunks(cols).zip(after.chunks(cols)).enumerate() {
            let changed = if row < rows { SKIPPED..SKIPPED + hidden } else { 0..0 };
            for (column, (before, after)) in before.iter().zip(after).enumerate() {
                let is_kept = changed.contains(&column) || before.to_bits() == after.to_bits();
                assert!(is_kept, "{:?}: row {row}, column {column} is not of the output", self.case);
            }
            out.extend_from_slice(&after[changed]);
        }
        out
    }

    fn run(&mut self, rows: &[usize]) -> Vec<f32> {
        self.write(rows);
        self.device.experts(&self.args).unwrap();
        self.read(rows.len())
    }
}

/// Rows of a batch equal the oracle's, and each has the same bits alone, in other company, and at another place.
fn check(case: Case, rows: usize) {
    let layer = case.layer();
    for compute in TYPES {
        let mut rig = Rig::new(compute, case);
        let order: Vec<usize> = (0..rows).collect();
        let all = rig.run(&order);
        let before = rig.before();
        for row in 0..rows {
            let before = &before[row * rig.out.cols + SKIPPED..][..case.hidden];
            let actual = &all[row * case.hidden..][..case.hidden];
            let expected = expected(&case, &layer, compute, row);
            for (column, ((&before, &actual), (added, bound))) in before.iter().zip(actual).zip(expected).enumerate() {
                let wanted = f64::from(before) + added;
                let error = (f64::from(actual) - wanted).abs();
                assert!(
                    error <= bound + 1e-6,
                    "{compute:?} {case:?}: row {row}, column {column} is {actual} and not {wanted}"
                );
            }
        }
        // Whatever the company and the place, a row keeps its bits.
        let half: Vec<usize> = order.iter().rev().step_by(2).copied().collect();
        let last = rows - 1;
        let among_its_like = [vec![last; last / 2], vec![0], vec![last; last / 2]].concat();
        for batch in [half, among_its_like, vec![0], vec![rows / 2], vec![last]] {
            let some = rig.run(&batch);
            for (row, some) in batch.iter().zip(some.chunks(case.hidden)) {
                let there = &all[row * case.hidden..][..case.hidden];
                assert_same(&format!("{compute:?} {case:?}: row {row} in a batch of {}", batch.len()), some, there);
            }
        }
    }
}

#[test]
fn numbers_of_experts_and_choices() {
    let shape = (40, 24);
    for (experts, top_k, rows) in [(2, 1, 9), (2, 2, 9), (3, 2, 70), (8, 2, 150), (8, 4, 33), (33, 2, 20), (64, 4, 40)]
    {
        check(case(experts, top_k, shape), rows);
    }
    check(case(64, 64, (16, 8)), 5);
}

#[test]
fn every_rule_of_a_router() {
    for order in [RouterOrder::SoftmaxThenTopK, RouterOrder::TopKThenSoftmax] {
        for (renormalise, scale) in [(false, 1.0), (true, 1.0), (false, 2.5), (true, 0.5)] {
            for top_k in [1, 3] {
                let routing = Routing { top_k, order, renormalise, scale };
                check(Case { routing, ..case(6, top_k, (24, 16)) }, 7);
            }
        }
    }
}

#[test]
fn every_activation_over_ragged_shapes() {
    use Activation::{GeluTanh, Relu, Silu};
    for activation in [Relu, GeluTanh, Silu] {
        let shapes = [((33, 65), Epilogue::Activate(activation)), ((130, 20), Epilogue::Gate(activation))];
        for (shape, epilogue) in shapes {
            check(Case { activation: epilogue, ..case(4, 2, shape) }, 11);
        }
    }
    // Columns of several blocks, and one that is no multiple of anything.
    check(case(3, 1, (200, 77)), 8);
    check(case(3, 2, (64, 256)), 8);
    check(case(2, 1, (1, 1)), 3);
}

#[test]
fn rows_that_like_the_same_experts() {
    for top_k in [1, 2] {
        for taste in [Taste::Favourite(0), Taste::Favourite(4), Taste::Even] {
            check(Case { taste, ..case(5, top_k, (24, 40)) }, 131);
        }
    }
}

#[test]
fn of_equal_logits_the_lower_expert_wins() {
    for (experts, top_k) in [(2, 1), (5, 2), (40, 3), (64, 4)] {
        check(Case { taste: Taste::Tied, ..case(experts, top_k, (24, 16)) }, 10);
    }
}

#[test]
fn rows_at_the_edges_of_tiles() {
    for rows in [63, 64, 65, 128, 129, ROOM] {
        let mut of_one = case(2, 1, (16, 8));
        of_one.taste = Taste::Favourite(1);
        check(of_one, rows);
    }
}

#[test]
fn no_rows_write_nothing() {
    for compute in TYPES {
        assert!(Rig::new(compute, case(3, 2, (16, 8))).run(&[]).is_empty());
    }
}

/// Counts, choices and tiles are the batch's, not those of the recording.
#[test]
fn a_recorded_step_follows_its_batch() {
    for compute in TYPES {
        let case = case(6, 2, (24, 16));
        let mut rig = Rig::new(compute, case);
        let cohorts = rig.device.cohort_lane(cohort_plan(8, 2)).unwrap();
        for rows in [0..8, 20..25, 3..11] {
            let rows: Vec<usize> = rows.collect();
            let expected = rig.run(&rows);
            rig.write(&rows);
            let request = CohortRequest { beams: 1, ..CohortRequest::default() };
            rig.device.write_cohort(cohorts, &Cohort { requests: vec![request] }).unwrap();
            let args = rig.args;
            rig.device.replay((cohorts, rig.lane), 0, &mut |device| device.experts(&args)).unwrap();
            rig.device.read_beams(cohorts).unwrap();
            assert_same(&format!("{compute:?}, {} rows", rows.len()), &rig.read(rows.len()), &expected);
        }
        assert_eq!(rig.device.recorded_steps(), 1);
    }
}

/// What is NaN comes last in the order, and the weights are no numbers.
#[test]
fn a_row_without_numbers_stays_within_its_row() {
    for compute in TYPES {
        let case = case(4, 2, (24, 16));
        let mut rig = Rig::new(compute, case);
        let expected = rig.run(&[0, 1, 2]);
        rig.write(&[0, 1, 2]);
        let mut x: Vec<f32> = (0..3).flat_map(|row| case.x(row)).collect();
        x[case.hidden..2 * case.hidden].fill(f32::NAN);
        rig.device.write_buffer(rig.args.x, &x).unwrap();
        rig.device.experts(&rig.args).unwrap();
        let actual = rig.read(3);
        for (row, (actual, expected)) in actual.chunks(case.hidden).zip(expected.chunks(case.hidden)).enumerate() {
            match row {
                1 => assert!(actual.iter().all(|x| x.is_nan()), "{actual:?}"),
                _ => assert_same(&format!("{compute:?}, row {row}"), actual, expected),
            }
        }
    }
}

#[test]
#[should_panic(expected = "experts: Activate(Relu)")]
fn an_activation_for_other_experts_is_a_bug() {
    let mut rig = Rig::new(Dtype::F32, case(3, 2, (16, 8)));
    rig.args.activation = Epilogue::Activate(Activation::Relu);
    rig.run(&[0]);
}

#[test]
fn experts_that_do_not_fit_their_router_are_named() {
    let mut source = case(3, 2, (16, 8)).source();
    source.experts.pop();
    let error = cuda(Dtype::F32).experts_weight(&source).unwrap_err();
    assert_eq!(error.to_string(), "weight router: 3 rows for 2 experts; a layer has 2 to 64");
}
