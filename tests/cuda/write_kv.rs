//! Queries, keys and values on their way to attention: norm, rotation, scale and place, checked through what attention makes of
//! them.

use sidereal::device::{
    Cohort, CohortLane, CohortRequest, Device, Dtype, HeadNorm, HistoryAttentionArgs, KvPool, KvShape, KvTarget, Mask,
    OwnShape, Queue, Rope, RopeSource, Rows, Segment, SlotPlan, SlotState, Span, Tensor, TokenBatch, TokenLane,
    WriteKvArgs,
};
use sidereal::export::TensorView;

use crate::support::{TYPES, assert_close, assert_same, cohort_plan, cuda, noise, oracle};

/// Rows that every lane and buffer has room for.
const ROOM: usize = 64;
/// Positions of the RoPE tables.
const POSITIONS: usize = 64;
/// What outputs hold before; dead rows must keep it.
const BEFORE: f32 = 0.25;

#[derive(Clone, Copy, Debug)]
struct Case {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    normed: bool,
    rotated: bool,
    /// Columns before the queries.
    skipped: usize,
}

const PLAIN: Case = Case { heads: 4, kv_heads: 2, head_dim: 16, normed: false, rotated: false, skipped: 0 };

impl Case {
    fn query_columns(&self) -> usize {
        self.heads * self.head_dim
    }

    fn kv_columns(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Numbers are below 1.7 after the norm, below 3.4 with its weights, and a rotation adds two of them: 8 roundings of
    /// 2^-24 of their size in f32. In bf16 one rounding, which two nearly equal numbers may take in different directions: an
    /// ulp of numbers below 4, 2^-6. (Differences of attended values come from flips of keys and values, weighted; they
    /// are no larger.)
    fn tolerance(&self, compute: Dtype) -> f32 {
        match compute {
            Dtype::F32 => 8.0 * 4.0 * 2f32.powi(-24),
            Dtype::Bf16 => 2f32.powi(-6),
        }
    }
}

/// Weights and input on one device.
struct Rig<'a> {
    device: &'a mut dyn Device,
    case: Case,
    head_norm: Option<HeadNorm>,
    rope: Option<Rope>,
    /// Queries, keys and values side by side, as a projection leaves them.
    projected: Tensor,
    query_out: Tensor,
}

impl<'a> Rig<'a> {
    fn new(device: &'a mut dyn Device, case: Case) -> Rig<'a> {
        let compute = device.facts().compute;
        let n = case.head_dim;
        let mut weight = |seed| {
            let values = noise(seed, n).iter().map(|x| 1.0 + x).collect();
            device.vector(&TensorView::owned("norm", vec![n], values), 1.0).unwrap()
        };
        let head_norm = case.normed.then(|| HeadNorm { query: weight(1), key: weight(2), eps: 1e-5 });
        let rope = case.rotated.then(|| {
            let angles: Vec<f32> = noise(3, POSITIONS * (n / 2)).iter().map(|x| 3.0 * x).collect();
            let (cos, sin) = (angles.iter().map(|x| x.cos()).collect(), angles.iter().map(|x| x.sin()).collect());
            device.rope(&RopeSource { positions: POSITIONS, cos, sin }).unwrap()
        });
        let columns = case.skipped + case.query_columns() + 2 * case.kv_columns();
        let projected = device.buffer(ROOM, columns, Dtype::F32).unwrap();
        device.write_buffer(projected, &vec![f32::NAN; ROOM * columns]).unwrap();
        let query_out = device.buffer(ROOM, case.query_columns(), compute).unwrap();
        device.write_buffer(query_out, &vec![BEFORE; ROOM * query_out.cols]).unwrap();
        Rig { device, case, head_norm, rope, projected, query_out }
    }

    /// Fills the input of some rows: `seed` tells what a row holds, wherever it stands. Other rows hold NaN.
    fn fill(&mut self, seeds: &[u64]) {
        let columns = self.projected.cols;
        let rows: Vec<f32> = seeds.iter().flat_map(|&seed| noise(100 + seed, columns)).collect();
        self.device.write_buffer(self.projected, &rows).unwrap();
    }

    fn write(&mut self, rows: Rows, target: KvTarget, with_query: bool) {
        let Case { skipped, .. } = self.case;
        let (query, kv) = (self.case.query_columns(), self.case.kv_columns());
        let args = WriteKvArgs {
            rows,
            query: with_query.then(|| self.projected.columns(skipped, query)),
            key: self.projected.columns(skipped + query, kv),
            value: self.projected.columns(skipped + query + kv, kv),
            query_out: with_query.then_some(self.query_out),
            query_scale: 0.37,
            head_norm: self.head_norm,
            rope: self.rope,
            target,
        };
        self.device.write_kv(&args).unwrap();
    }

    /// The first `live` rows of the prepared queries; the others must be as they were.
    fn queries(&mut self, live: usize) -> Vec<f32> {
        let mut rows = self.device.read_buffer(self.query_out, ROOM).unwrap();
        let dead = rows.split_off(live * self.case.query_columns());
        assert!(dead.iter().all(|&x| x == BEFORE), "{:?}: a dead row was written", self.case);
        rows
    }
}

/// Spans of a batch: slot, position of the first row, rows.
const SPANS: [(u32, u32, u32); 3] = [(0, 5, 4), (2, 0, 1), (1, 12, 9)];
const PAGE_TOKENS: usize = 7;

/// Writes a batch to pages, and returns the queries and what attention makes of everything that was written.
fn through_pages(device: &mut dyn Device, case: Case, with_query: bool) -> (Vec<f32>, Vec<f32>) {
    let mut rig = Rig::new(device, case);
    let (pool, lane) = pages(&mut rig);
    let rows: u32 = SPANS.iter().map(|span| span.2).sum();
    rig.fill(&(0..u64::from(rows)).collect::<Vec<_>>());
    rig.device.write_tokens(lane, &batch(&SPANS)).unwrap();
    let target = KvTarget::Pages { pool, segment: Segment::History, layer: 1 };
    rig.write(Rows::Tokens(lane), target, with_query);
    let queries = rig.queries(if with_query { rows as usize } else { 0 });
    (queries, attend(&mut rig, (pool, lane), &SPANS))
}

fn batch(spans: &[(u32, u32, u32)]) -> TokenBatch {
    let mut first_row = 0;
    let spans = spans.iter().map(|&(slot, first_position, rows)| {
        let span = Span { slot, first_row, rows, first_position, last: false };
        first_row += rows;
        span
    });
    let spans: Vec<Span> = spans.collect();
    TokenBatch { tokens: vec![0; first_row as usize], spans }
}

/// A pool with a slot for each of three sequences, whose pages lie scattered.
fn pages(rig: &mut Rig<'_>) -> (KvPool, TokenLane) {
    let Case { kv_heads, head_dim, .. } = rig.case;
    let shape = KvShape { layers: 2, kv_heads, head_dim, pages: 12, page_tokens: PAGE_TOKENS };
    let pool = rig.device.kv_pool(shape).unwrap();
    rig.device.plan_slots(SlotPlan { slots: 3, history_pages: 4, prefix_pages: 1 }).unwrap();
    for (slot, history_pages) in [[9, 2, 7], [0, 11, 4], [5, 1, 8]].into_iter().enumerate() {
        let state = SlotState { history_len: 21, history_pages: history_pages.to_vec(), ..SlotState::default() };
        rig.device.write_slot(slot as u32, &state).unwrap();
    }
    (pool, rig.device.token_lane(ROOM, Queue::Prefill).unwrap())
}

/// Causal attention of queries of noise over what the spans wrote, everything before it being zero.
fn attend(rig: &mut Rig<'_>, (pool, lane): (KvPool, TokenLane), spans: &[(u32, u32, u32)]) -> Vec<f32> {
    let (compute, columns) = (rig.device.facts().compute, rig.case.query_columns());
    let rows: usize = spans.iter().map(|span| span.2 as usize).sum();
    let [query, out] = [0, 1].map(|_| rig.device.buffer(ROOM, columns, compute).unwrap());
    rig.device.write_buffer(query, &noise(9, rows * columns)).unwrap();
    rig.device.write_tokens(lane, &batch(spans)).unwrap();
    let args = HistoryAttentionArgs {
        rows: Rows::Tokens(lane),
        query,
        pool,
        segment: Segment::History,
        layer: 1,
        mask: Mask::Causal,
        bias: None,
        out,
    };
    rig.device.history_attention(&args).unwrap();
    rig.device.read_buffer(out, rows).unwrap()
}

fn check(case: Case, with_query: bool) {
    for compute in TYPES {
        let what = format!("{compute:?} {case:?}");
        let (queries, attended) = through_pages(&mut cuda(compute), case, with_query);
        let (expected, expected_attended) = through_pages(&mut oracle(compute), case, with_query);
        assert_close(&format!("{what}, queries"), &queries, &expected, case.tolerance(compute));
        // Scores sum `head_dim` products: as many differences as there are elements, each of either sign.
        let attended_tolerance = case.tolerance(compute) * (case.head_dim as f32).sqrt();
        assert_close(&format!("{what}, attended"), &attended, &expected_attended, attended_tolerance);
    }
}

#[test]
fn tokens_to_pages() {
    for head_dim in [8, 10, 12, 16, 64, 80, 128, 256] {
        for (normed, rotated) in [(false, false), (true, false), (false, true), (true, true)] {
            check(Case { head_dim, normed, rotated, ..PLAIN }, true);
        }
    }
}

/// An odd head has no second half to rotate with; and cross-attention writes keys and values alone.
#[test]
fn odd_heads_and_no_queries() {
    for head_dim in [1, 7, 33] {
        check(Case { head_dim, normed: true, ..PLAIN }, true);
    }
    check(Case { head_dim: 24, ..PLAIN }, false);
    check(Case { head_dim: 64, heads: 3, kv_heads: 3, normed: true, rotated: true, ..PLAIN }, false);
}

/// Views at odd columns are read element by element.
#[test]
fn views_at_any_column() {
    for skipped in [1, 2, 64] {
        check(Case { skipped, normed: true, rotated: true, ..PLAIN }, true);
    }
}

/// A head dim's padding is written as zeros: where NaN was written before in a wider head, nothing of it is left.
#[test]
fn former_contents_leave_no_trace() {
    for compute in TYPES {
        let case = Case { head_dim: 12, normed: true, ..PLAIN };
        let mut device = cuda(compute);
        let mut rig = Rig::new(&mut device, case);
        let (pool, lane) = pages(&mut rig);
        let target = KvTarget::Pages { pool, segment: Segment::History, layer: 1 };
        let whole = [(0, 0, 21)];
        rig.device.write_tokens(lane, &batch(&whole)).unwrap();
        rig.write(Rows::Tokens(lane), target, true); // the input is NaN throughout
        rig.fill(&(0..21).collect::<Vec<_>>());
        rig.write(Rows::Tokens(lane), target, true);
        let attended = attend(&mut rig, (pool, lane), &whole);
        assert!(attended.iter().all(|x| x.is_finite()), "{compute:?}: {attended:?}");
    }
}

/// Beam widths of a cohort with a gap between its requests: (slot, first row, beams).
const REQUESTS: [(u32, u32, u32); 2] = [(1, 0, 3), (0, 5, 2)];
const END: usize = 7;

fn cohort(rig: &mut Rig<'_>, requests: &[(u32, u32, u32)]) -> CohortLane {
    rig.device.plan_slots(SlotPlan { slots: 3, history_pages: 4, prefix_pages: 1 }).unwrap();
    for (slot, (history_len, prefix_len)) in [(9, 2), (20, 1), (0, 3)].into_iter().enumerate() {
        let state = SlotState { history_len, prefix_len, history_pages: vec![0; 3], prefix_pages: vec![0] };
        rig.device.write_slot(slot as u32, &state).unwrap();
    }
    let lane = rig.device.cohort_lane(cohort_plan(ROOM, 3)).unwrap();
    let request = |&(slot, first_row, beams): &(u32, u32, u32)| CohortRequest {
        slot,
        beams,
        first_row,
        ..CohortRequest::default()
    };
    rig.device.write_cohort(lane, &Cohort { requests: requests.iter().map(request).collect() }).unwrap();
    lane
}

/// The queries of live beams. A cohort begins with one of each request.
fn through_slab(device: &mut dyn Device, case: Case, (requests, seeds): (&[(u32, u32, u32)], &[u64])) -> Vec<f32> {
    let mut rig = Rig::new(device, case);
    let lane = cohort(&mut rig, requests);
    let Case { heads, kv_heads, head_dim, .. } = case;
    let slab = rig.device.own_slab(OwnShape { layers: 2, heads, kv_heads, head_dim, steps: 3, rows: ROOM }).unwrap();
    rig.fill(seeds);
    rig.write(Rows::Beams(lane), KvTarget::Own { slab, layer: 1, step: 2 }, true);
    let rows = rig.queries(END);
    let columns = case.query_columns();
    requests.iter().flat_map(|request| rows[request.1 as usize * columns..][..columns].to_vec()).collect()
}

#[test]
fn beams_stand_behind_history_and_prefix() {
    let seeds: Vec<u64> = (0..END as u64).collect();
    for case in [Case { normed: true, rotated: true, ..PLAIN }, Case { head_dim: 80, rotated: true, ..PLAIN }] {
        for compute in TYPES {
            let got = through_slab(&mut cuda(compute), case, (&REQUESTS, &seeds));
            let expected = through_slab(&mut oracle(compute), case, (&REQUESTS, &seeds));
            assert_close(&format!("{compute:?} {case:?}"), &got, &expected, case.tolerance(compute));
            // The second request alone, at another row.
            let alone = through_slab(&mut cuda(compute), case, (&[(0, 1, 2)], &[0, 5, 6]));
            assert_same(&format!("{compute:?} {case:?}"), &alone, &got[case.query_columns()..]);
        }
    }
}
