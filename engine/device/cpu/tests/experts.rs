//! Mixture of experts against f64, and that a row's experts do not know who else chose them. Learned positions.

use super::naive::{Matrix, Row, activate, round, round_row};
use super::{CpuDevice, assert_close, cohort_plan, devices, noise, read, slot_plan, write};
use crate::device::{
    Activation, Cohort, CohortRequest, Device, DeviceError, Dtype, Epilogue, ExpertSource, ExpertsArgs, ExpertsPlan,
    ExpertsSource, Queue, RouterOrder, Routing, Rows, SlotState, Span, TokenBatch, TokenLane,
};
use crate::export::TensorView;

const BY_SOFTMAX: Routing = Routing { top_k: 2, order: RouterOrder::SoftmaxThenTopK, renormalise: false, scale: 1.0 };

/// A layer's weights.
struct Layer {
    routing: Routing,
    activation: Epilogue,
    router: Matrix,
    experts: Vec<(Vec<Matrix>, Matrix)>,
}

impl Layer {
    fn random((experts, hidden, inner): (usize, usize, usize), routing: Routing, activation: Epilogue) -> Layer {
        let inputs = if matches!(activation, Epilogue::Gate(_)) { 2 } else { 1 };
        let expert = |e: u64| {
            let input = (0..inputs).map(|i| Matrix::random(1000 + 10 * e + i, inner, hidden)).collect();
            (input, Matrix::random(5000 + e, hidden, inner))
        };
        let router = Matrix::random(77, experts, hidden);
        Layer { routing, activation, router, experts: (0..experts as u64).map(expert).collect() }
    }

    fn source(&self) -> ExpertsSource {
        let expert = |(input, output): &(Vec<Matrix>, Matrix)| ExpertSource {
            input: input.iter().map(Matrix::view).collect(),
            output: output.view(),
        };
        ExpertsSource {
            router: self.router.view(),
            routing: self.routing,
            experts: self.experts.iter().map(expert).collect(),
        }
    }

    fn plan(&self, rows: usize) -> ExpertsPlan {
        let (hidden, inner) = (self.router.cols, self.experts[0].1.cols);
        ExpertsPlan { rows, experts: self.router.rows, top_k: self.routing.top_k, hidden, inner }
    }

    /// What is added to a row whose normed input is `x`.
    fn naive(&self, compute: Dtype, x: &[f64]) -> Row {
        let logits = self.router.apply(Dtype::F32, x);
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        order.truncate(self.routing.top_k);
        let softmax = |among: &[usize], expert: usize| {
            logits[expert].exp() / among.iter().map(|&other| logits[other].exp()).sum::<f64>()
        };
        let everyone: Vec<usize> = (0..logits.len()).collect();
        let among = if self.routing.order == RouterOrder::SoftmaxThenTopK { &everyone } else { &order };
        let mut weights: Row = order.iter().map(|&expert| softmax(among, expert)).collect();
        let kept: f64 = weights.iter().sum();
        let factor = f64::from(self.routing.scale) / if self.routing.renormalise { kept } else { 1.0 };
        weights.iter_mut().for_each(|weight| *weight *= factor);
        let mut out = vec![0.0; x.len()];
        for (&expert, weight) in order.iter().zip(weights) {
            let (input, output) = &self.experts[expert];
            let products: Vec<Row> = input.iter().map(|matrix| matrix.apply(compute, x)).collect();
            let inner = (0..output.cols).map(|i| match self.activation {
                Epilogue::Gate(activation) => activate(activation, products[0][i]) * products[1][i],
                Epilogue::Activate(activation) => activate(activation, products[0][i]),
                other => panic!("{other:?}"),
            });
            let inner = round_row(compute, inner.collect());
            out.iter_mut().zip(output.apply(compute, &inner)).for_each(|(out, value)| *out += weight * value);
        }
        out
    }

    /// Runs the layer over `x` in one batch, on a residual stream that holds `row index` everywhere.
    fn run(&self, device: &mut CpuDevice, x: &[Vec<f32>]) -> Vec<Vec<f32>> {
        let compute = device.facts().compute;
        let hidden = self.router.cols;
        let experts = device.experts_weight(&self.source()).unwrap();
        let work = device.experts_work(self.plan(x.len() + 1)).unwrap();
        // Views within wider buffers, and a row more than is live.
        let input = device.buffer(x.len() + 1, hidden + 3, compute).unwrap().columns(2, hidden);
        let out = device.buffer(x.len() + 1, hidden + 5, Dtype::F32).unwrap().columns(4, hidden);
        let lane = token_lane(device, x.len());
        for (row, values) in x.iter().enumerate() {
            write(device, input, row, values);
            write(device, out, row, &vec![row as f32; hidden]);
        }
        let args = ExpertsArgs { rows: Rows::Tokens(lane), x: input, experts, work, activation: self.activation, out };
        device.experts(&args).unwrap();
        assert_eq!(read(device, out, x.len()), vec![0.0; hidden], "a row beyond the live ones");
        (0..x.len()).map(|row| read(device, out, row)).collect()
    }
}

/// A lane with one span of `rows` tokens.
fn token_lane(device: &mut CpuDevice, rows: usize) -> TokenLane {
    device.plan_slots(slot_plan(1)).unwrap();
    let lane = device.token_lane(rows, Queue::Prefill).unwrap();
    let span = Span { slot: 0, first_row: 0, rows: rows as u32, first_position: 0, last: true };
    device.write_tokens(lane, &TokenBatch { tokens: vec![0; rows], spans: vec![span] }).unwrap();
    lane
}

fn inputs(rows: usize, hidden: usize) -> Vec<Vec<f32>> {
    (0..rows as u64).map(|row| noise(row + 31, hidden)).collect()
}

#[test]
fn experts_agree_with_f64() {
    let gate = Epilogue::Gate(Activation::Silu);
    let plain = Epilogue::Activate(Activation::Relu);
    let topk = Routing { order: RouterOrder::TopKThenSoftmax, ..BY_SOFTMAX };
    let cases = [
        ((2, 16, 8), Routing { top_k: 1, ..BY_SOFTMAX }, plain, 5),
        ((24, 64, 40), Routing { renormalise: true, ..BY_SOFTMAX }, gate, 33),
        ((8, 37, 19), Routing { scale: 2.5, ..topk }, Epilogue::Gate(Activation::GeluTanh), 70),
        ((5, 32, 33), Routing { top_k: 5, ..BY_SOFTMAX }, Epilogue::Activate(Activation::GeluErf), 3),
        ((64, 33, 16), Routing { top_k: 4, scale: 0.5, renormalise: true, ..BY_SOFTMAX }, plain, 130),
    ];
    for mut device in devices(2) {
        let compute = device.facts().compute;
        for (sizes, routing, activation, rows) in cases {
            let layer = Layer::random(sizes, routing, activation);
            let x = inputs(rows, sizes.1);
            let out = layer.run(&mut device, &x);
            for (row, x) in x.iter().enumerate() {
                let x: Row = x.iter().map(|&x| round(compute, f64::from(x))).collect();
                let mut expected = layer.naive(compute, &x);
                expected.iter_mut().for_each(|value| *value += row as f64);
                // f32 sums beside a residual of up to 130. bf16: an inner value that lies between two bf16 may go to either
                // side, 2^-8 of a value of about 1 with weights of about 1.
                let tolerance = if compute == Dtype::F32 { 5e-5 } else { 0.02 };
                let what = format!("{} {compute:?} {sizes:?}, row {row}", device.facts().name);
                assert_close(&what, &out[row], &expected, tolerance);
            }
        }
    }
}

#[test]
fn a_rows_experts_do_not_know_who_else_chose_them() {
    for mut device in devices(2) {
        let routing = Routing { renormalise: true, ..BY_SOFTMAX };
        let layer = Layer::random((6, 72, 48), routing, Epilogue::Gate(Activation::Silu));
        // More rows than a block holds; the first again at the end, and in a crowd that all goes to its experts.
        let mut x = inputs(1100, 72);
        x.push(x[0].clone());
        let together = layer.run(&mut device, &x);
        let less = |row: usize| together[row].iter().map(|value| value - row as f32).collect::<Vec<_>>();
        let alone = layer.run(&mut device, &x[..1]);
        assert_eq!(alone[0], together[0], "{}", device.facts().name);
        let crowd = layer.run(&mut device, &vec![x[0].clone(); 65]);
        assert_eq!(crowd[0], together[0], "{}", device.facts().name);
        // The same sum beside another residual: equal up to how far that is from exact.
        assert_close("last", &less(1100), &less(0).iter().map(|&v| f64::from(v)).collect::<Vec<_>>(), 3e-4);
        for rows in [2, 3, 13, 14, 15, 29, 64] {
            assert_eq!(layer.run(&mut device, &x[..rows])[..], together[..rows], "{} {rows}", device.facts().name);
        }
    }
}

#[test]
fn ties_and_numbers_that_are_none_stay_with_their_row() {
    for mut device in devices(2) {
        let mut layer = Layer::random((4, 24, 16), BY_SOFTMAX, Epilogue::Activate(Activation::Relu));
        let mut x = inputs(9, 24);
        let clean = layer.run(&mut device, &x);
        x[3][5] = f32::NAN;
        x[6] = vec![f32::INFINITY; 24];
        let out = layer.run(&mut device, &x);
        for row in [0, 1, 2, 4, 5, 7, 8] {
            assert_eq!(out[row], clean[row], "{}, row {row}", device.facts().name);
        }
        assert!(out[3].iter().all(|value| value.is_nan()));
        // Every logit is 0: experts 0 and 1, a quarter each; experts 2 and 3 have no rows.
        layer.router = Matrix::zeros(4, 24);
        let x = inputs(5, 24);
        let compute = device.facts().compute;
        for (row, out) in layer.run(&mut device, &x).iter().enumerate() {
            let x: Row = x[row].iter().map(|&x| round(compute, f64::from(x))).collect();
            let expected: Row = layer.naive(compute, &x).iter().map(|value| value + row as f64).collect();
            assert_close("tie", out, &expected, if compute == Dtype::F32 { 1e-5 } else { 0.02 });
        }
    }
}

#[test]
fn beams_between_live_ones_are_left_alone() {
    for mut device in devices(2) {
        let compute = device.facts().compute;
        let layer = Layer::random((4, 16, 8), BY_SOFTMAX, Epilogue::Activate(Activation::Relu));
        let (experts, work) =
            (device.experts_weight(&layer.source()).unwrap(), device.experts_work(layer.plan(6)).unwrap());
        let x = device.buffer(6, 16, compute).unwrap();
        let out = device.buffer(6, 16, Dtype::F32).unwrap();
        (0..6).for_each(|row| write(&mut device, x, row, &noise(31, 16)));
        device.plan_slots(slot_plan(2)).unwrap();
        let cohorts = device.cohort_lane(cohort_plan(6, 2)).unwrap();
        let request = |slot, first_row| CohortRequest { slot, beams: 3, first_row, ..CohortRequest::default() };
        device.write_cohort(cohorts, &Cohort { requests: vec![request(0, 0), request(1, 3)] }).unwrap();
        let rows = Rows::Beams(cohorts);
        device.experts(&ExpertsArgs { rows, x, experts, work, activation: layer.activation, out }).unwrap();
        assert_eq!(read(&device, out, 0), read(&device, out, 3));
        assert!(read(&device, out, 0).iter().any(|&value| value != 0.0));
        for row in [1, 2, 4, 5] {
            assert_eq!(read(&device, out, row), [0.0; 16]);
        }
    }
}

#[test]
fn experts_that_do_not_fit_are_named() {
    let mut device = devices(1).next().unwrap();
    let layer = |top_k| Layer::random((3, 8, 4), Routing { top_k, ..BY_SOFTMAX }, Epilogue::Activate(Activation::Relu));
    let mut refused = |change: fn(&mut ExpertsSource), top_k: usize| {
        let mut source = layer(top_k).source();
        change(&mut source);
        match device.experts_weight(&source).unwrap_err() {
            DeviceError::BadWeight { reason, .. } => reason,
            other => panic!("{other}"),
        }
    };
    assert_eq!(refused(|_| (), 4), "4 experts of a row, out of 3");
    assert_eq!(refused(|_| (), 0), "0 experts of a row, out of 3");
    assert_eq!(refused(|source| drop(source.experts.pop()), 1), "3 rows for 2 experts; a layer has 2 to 64");
    let reason = refused(|source| source.experts[2].output = source.experts[2].input[0].clone(), 1);
    assert_eq!(reason, "an expert's output is [8, 4], not [4, 8]");
    let reason = refused(|source| source.experts[1].input = vec![source.experts[1].output.clone()], 1);
    assert_eq!(reason, "an expert's input is [4, 8], not [8, 4]");
}

#[test]
fn learned_positions_are_those_of_segments_and_steps() {
    for mut device in devices(2) {
        let values: Vec<f32> = (0..20).map(|value| value as f32).collect();
        let table = device.embedding(&TensorView::owned("positions", vec![10, 2], values)).unwrap();
        let out = device.buffer(8, 2, Dtype::F32).unwrap();
        (0..8).for_each(|row| write(&mut device, out, row, &[100.0; 2]));
        device.plan_slots(slot_plan(2)).unwrap();
        for (slot, prefix_len) in [(0, 2), (1, 5)] {
            let state = SlotState { prefix_len, prefix_pages: vec![slot], ..SlotState::default() };
            device.write_slot(slot, &state).unwrap();
        }
        let lane = device.token_lane(4, Queue::Prefill).unwrap();
        let span = |first_row, rows, first_position| Span { slot: 0, first_row, rows, first_position, last: true };
        let mut batch = TokenBatch { tokens: vec![0; 3], spans: vec![span(0, 2, 7), span(2, 1, 0)] };
        device.write_tokens(lane, &batch).unwrap();
        device.add_positions(Rows::Tokens(lane), table, 0, out).unwrap();
        let first: Vec<f32> = (0..4).map(|row| read(&device, out, row)[0]).collect();
        assert_eq!(first, [114.0, 116.0, 100.0, 100.0]);
        batch.spans[0].first_position = 9;
        device.write_tokens(lane, &batch).unwrap();
        let error = device.add_positions(Rows::Tokens(lane), table, 0, out).unwrap_err();
        assert!(error.to_string().contains("row 1: position 10 of 10"), "{error}");
        let cohorts = device.cohort_lane(cohort_plan(8, 2)).unwrap();
        let request = |slot, first_row| CohortRequest { slot, beams: 3, first_row, ..CohortRequest::default() };
        device.write_cohort(cohorts, &Cohort { requests: vec![request(1, 0), request(0, 4)] }).unwrap();
        (0..8).for_each(|row| write(&mut device, out, row, &[0.0; 2]));
        device.add_positions(Rows::Beams(cohorts), table, 1, out).unwrap();
        let second: Vec<f32> = (0..8).map(|row| read(&device, out, row)[1]).collect();
        assert_eq!(second, [13.0, 0.0, 0.0, 0.0, 7.0, 0.0, 0.0, 0.0]);
    }
}
