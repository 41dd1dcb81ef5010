//! Attention of token rows over pages: every shape that has a path of its own, and each row alone against the row in a batch.

use sidereal::device::{
    Device, Dtype, HistoryAttentionArgs, KvPool, KvShape, KvTarget, Mask, Queue, RelativeBias, RelativeBiasSource,
    Rows, Segment, SlotPlan, SlotState, Span, TokenBatch, TokenLane, WriteKvArgs,
};

use crate::support::{TYPES, assert_close, assert_same, cuda, noise, oracle};

/// Rows that every lane and buffer has room for.
const ROOM: usize = 512;
/// What the output holds before; dead rows and other columns must keep it.
const BEFORE: f32 = 0.25;
/// Of the pool; keys are written to the second one.
const LAYERS: usize = 2;

/// Rows of a slot: how many, position of the first, valid tokens of the segment.
type Stretch = (u32, u32, u32);

#[derive(Clone, Debug)]
struct Case {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    page_tokens: usize,
    mask: Mask,
    /// Largest distance of a relative bias.
    reach: Option<usize>,
    segment: Segment,
    /// Only the last row of each stretch is asked for.
    last: bool,
    /// Columns before the views of query and out.
    skipped: usize,
    /// Multiplied into the queries.
    sharpness: f32,
    stretches: Vec<Stretch>,
}

impl Default for Case {
    fn default() -> Case {
        Case {
            heads: 2,
            kv_heads: 1,
            head_dim: 16,
            page_tokens: 16,
            mask: Mask::Causal,
            reach: None,
            segment: Segment::History,
            last: false,
            skipped: 0,
            sharpness: 1.0,
            stretches: vec![(7, 43, 50), (2, 0, 2)],
        }
    }
}

impl Case {
    fn columns(&self) -> usize {
        self.heads * self.head_dim
    }

    fn pages_of(&self, length: u32) -> usize {
        (length as usize).div_ceil(self.page_tokens)
    }

    fn pages(&self) -> usize {
        self.stretches.iter().map(|stretch| self.pages_of(stretch.2)).sum::<usize>() + 1
    }

    fn longest(&self) -> u32 {
        self.stretches.iter().map(|stretch| stretch.2).max().unwrap()
    }

    /// Where two correct answers may differ. Keys and values are below 1, so an output is; a score has `head_dim` terms,
    /// and the sums over keys have as many as there are. In f32 a sum of n such terms in another order differs by some
    /// sqrt(n) roundings of partial sums of size sqrt(n): n 2^-24. Twice that for the score, which an exponential turns
    /// into a relative error of weights. In bf16 the two outputs are rounded (half an ulp of numbers below 1, 2^-9, each),
    /// and our weights are rounded once before they meet the values: half a step of 2^-8 relative, averaged over keys.
    fn tolerance(&self, compute: Dtype) -> f32 {
        match compute {
            Dtype::F32 => {
                (2 * self.head_dim + self.longest() as usize) as f32 * 2f32.powi(-24) * self.sharpness.max(1.0)
            }
            Dtype::Bf16 => 3.0 * 2f32.powi(-9),
        }
    }
}

/// What rows and tokens hold is told by their position and their stretch's length, not by their place in a batch.
fn token_noise(stretch: Stretch, position: u32, what: u64, len: usize) -> Vec<f32> {
    noise(what << 40 | u64::from(stretch.2) << 20 | u64::from(position), len)
}

/// A case set up on a device.
struct Rig<'a> {
    device: &'a mut dyn Device,
    case: &'a Case,
    pool: KvPool,
    bias: Option<RelativeBias>,
    lane: TokenLane,
}

impl<'a> Rig<'a> {
    /// One slot a stretch, and one more that owned every page before and left NaN in it.
    fn new(device: &'a mut dyn Device, case: &'a Case) -> Rig<'a> {
        let (slots, pages) = (case.stretches.len() + 1, case.pages());
        let Case { kv_heads, head_dim, page_tokens, .. } = *case;
        let pool = device.kv_pool(KvShape { layers: LAYERS, kv_heads, head_dim, pages, page_tokens }).unwrap();
        let bias = case.reach.map(|max_distance| {
            let by_distance = noise(5, case.heads * (2 * max_distance + 1));
            device.relative_bias(&RelativeBiasSource { heads: case.heads, max_distance, by_distance }).unwrap()
        });
        device.plan_slots(SlotPlan { slots, history_pages: pages, prefix_pages: pages }).unwrap();
        let lane = device.token_lane(ROOM, Queue::Prefill).unwrap();
        let mut rig = Rig { device, case, pool, bias, lane };
        rig.fill_pages();
        rig
    }

    fn write_slot(&mut self, slot: u32, len: u32, pages: Vec<u32>) {
        let state = match self.case.segment {
            Segment::History => SlotState { history_len: len, history_pages: pages, ..SlotState::default() },
            Segment::Prefix => SlotState { prefix_len: len, prefix_pages: pages, ..SlotState::default() },
        };
        self.device.write_slot(slot, &state).unwrap();
    }

    fn fill_pages(&mut self) {
        let (case, pages) = (self.case, self.case.pages() as u32);
        let former = case.stretches.len() as u32;
        let all = pages * case.page_tokens as u32;
        self.write_slot(former, all, (0..pages).collect());
        self.write_keys(former, all, |_, len| vec![f32::NAN; len]);
        // Pages are dealt out from the last one down, so that neighbours in a table are none in memory.
        let mut next = pages;
        for (slot, &stretch) in case.stretches.iter().enumerate() {
            let table = (0..case.pages_of(stretch.2)).map(|_| {
                next -= 1;
                next
            });
            self.write_slot(slot as u32, stretch.2, table.collect());
            self.write_keys(slot as u32, stretch.2, |at, len| {
                let (position, what) = at;
                token_noise(stretch, position, what, len)
            });
        }
    }

    /// Writes keys and values of all of a slot's tokens; `value` gives them by (position, 1 for keys and 2 for values).
    fn write_keys(&mut self, slot: u32, tokens: u32, value: impl Fn((u32, u64), usize) -> Vec<f32>) {
        let columns = self.case.kv_heads * self.case.head_dim;
        let [key, value_rows] = [1, 2].map(|what| {
            let rows = (0..tokens).flat_map(|position| value((position, what), columns)).collect::<Vec<f32>>();
            let tensor = self.device.buffer(tokens.max(1) as usize, columns, Dtype::F32).unwrap();
            self.device.write_buffer(tensor, &rows).unwrap();
            tensor
        });
        if tokens == 0 {
            return;
        }
        let lane = self.device.token_lane(tokens as usize, Queue::Prefill).unwrap();
        let span = Span { slot, first_row: 0, rows: tokens, first_position: 0, last: false };
        let batch = TokenBatch { tokens: vec![0; tokens as usize], spans: vec![span] };
        self.device.write_tokens(lane, &batch).unwrap();
        let args = WriteKvArgs {
            rows: Rows::Tokens(lane),
            query: None,
            key,
            value: value_rows,
            query_out: None,
            query_scale: 1.0,
            head_norm: None,
            rope: None,
            target: KvTarget::Pages { pool: self.pool, segment: self.case.segment, layer: LAYERS - 1 },
        };
        self.device.write_kv(&args).unwrap();
    }

    /// Attention of the case's rows: `[rows, heads * head_dim]`. What must not be written is checked here.
    fn attend(&mut self) -> Vec<f32> {
        let (case, compute) = (self.case, self.device.facts().compute);
        let (mut first_row, mut spans, mut queries) = (0, Vec::new(), Vec::new());
        for (slot, &(rows, first_position, length)) in case.stretches.iter().enumerate() {
            spans.push(Span { slot: slot as u32, first_row, rows, first_position, last: case.last });
            first_row += rows;
            let asked = if case.last { rows - 1..rows } else { 0..rows };
            for i in asked {
                let query = token_noise((rows, first_position, length), first_position + i, 3, case.columns());
                queries.extend(query.iter().map(|x| x * case.sharpness));
            }
        }
        let batch = TokenBatch { tokens: vec![0; first_row as usize], spans };
        self.device.write_tokens(self.lane, &batch).unwrap();
        let rows = queries.len() / case.columns();

        // Dead rows and the columns beside the views hold NaN, which must reach no result.
        let whole = self.device.buffer(ROOM, case.skipped + case.columns() + 3, compute).unwrap();
        self.device.write_buffer(whole, &vec![f32::NAN; ROOM * whole.cols]).unwrap();
        let query = whole.columns(case.skipped, case.columns());
        self.device.write_buffer(query, &queries).unwrap();
        let whole = self.device.buffer(ROOM, case.skipped + case.columns() + 3, compute).unwrap();
        self.device.write_buffer(whole, &vec![BEFORE; ROOM * whole.cols]).unwrap();
        let args = HistoryAttentionArgs {
            rows: if case.last { Rows::Last(self.lane) } else { Rows::Tokens(self.lane) },
            query,
            pool: self.pool,
            segment: case.segment,
            layer: LAYERS - 1,
            mask: case.mask,
            bias: self.bias,
            out: whole.columns(case.skipped, case.columns()),
        };
        self.device.history_attention(&args).unwrap();

        let all = self.device.read_buffer(whole, ROOM).unwrap();
        let mut results = Vec::new();
        for (row, values) in all.chunks(whole.cols).enumerate() {
            let (before, rest) = values.split_at(case.skipped);
            let (result, behind) = rest.split_at(case.columns());
            let kept = before.iter().chain(behind).chain(if row < rows { &[] } else { result });
            assert!(kept.into_iter().all(|&x| x == BEFORE), "{case:?}: row {row} was written beside the results");
            if row < rows {
                results.extend_from_slice(result);
            }
        }
        results
    }
}

fn on_cuda(compute: Dtype, case: &Case) -> Vec<f32> {
    Rig::new(&mut cuda(compute), case).attend()
}

/// Compares both devices, in both types.
fn check(case: &Case) {
    for compute in TYPES {
        let expected = Rig::new(&mut oracle(compute), case).attend();
        assert_close(&format!("{compute:?} {case:?}"), &on_cuda(compute, case), &expected, case.tolerance(compute));
    }
}

#[test]
fn heads_of_any_width() {
    for head_dim in [1, 8, 12, 16, 33, 64, 80, 128, 256] {
        check(&Case {
            head_dim,
            reach: Some(4),
            stretches: vec![(8, 12, 20), (1, 0, 1), (19, 81, 100)],
            ..Case::default()
        });
    }
}

#[test]
fn pages_of_any_size() {
    for page_tokens in [1, 7, 16, 64] {
        let stretches = vec![(7, 43, 50), (2, 0, 2), (3, 61, 64), (1, 64, 65), (5, 16, 21)];
        check(&Case { page_tokens, stretches, ..Case::default() });
    }
}

#[test]
fn masks_and_biases_over_several_tiles() {
    for mask in [Mask::Causal, Mask::Full] {
        for reach in [None, Some(128), Some(20)] {
            let stretches = vec![(70, 0, 70), (1, 64, 65), (9, 119, 128), (9, 120, 129), (66, 31, 97)];
            check(&Case { head_dim: 32, page_tokens: 64, mask, reach, stretches, ..Case::default() });
        }
    }
}

/// Even groups go through blocks of two heads, at every stored width.
#[test]
fn heads_that_share_keys() {
    for (heads, kv_heads) in [(1, 1), (4, 2), (6, 2), (3, 1), (4, 1)] {
        check(&Case { heads, kv_heads, stretches: vec![(33, 20, 53), (17, 0, 17)], ..Case::default() });
    }
    for head_dim in [64, 128, 256] {
        check(&Case { head_dim, stretches: vec![(40, 10, 50), (3, 0, 3)], ..Case::default() });
    }
}

#[test]
fn last_rows_alone() {
    for head_dim in [12, 64] {
        let stretches = vec![(5, 195, 200), (1, 5, 6), (70, 0, 70)];
        check(&Case { heads: 4, kv_heads: 2, head_dim, last: true, stretches, ..Case::default() });
    }
}

/// Views that start anywhere and heads that are no whole chunks are read and written element by element.
#[test]
fn views_at_any_column() {
    for (skipped, head_dim) in [(8, 24), (3, 24), (64, 20)] {
        check(&Case { heads: 4, kv_heads: 2, head_dim, skipped, stretches: vec![(20, 3, 23)], ..Case::default() });
    }
}

#[test]
fn the_prefix_segment() {
    let stretches = vec![(3, 0, 3), (1, 0, 1), (9, 2, 11)];
    check(&Case { segment: Segment::Prefix, page_tokens: 12, stretches, ..Case::default() });
}

#[test]
fn a_row_that_sees_nothing_is_zero() {
    for head_dim in [16, 128] {
        let case = Case { head_dim, mask: Mask::Full, stretches: vec![(3, 0, 0), (2, 0, 2)], ..Case::default() };
        for compute in TYPES {
            let got = on_cuda(compute, &case);
            assert_same(&format!("{compute:?}"), &got[..3 * case.columns()], &vec![0.0; 3 * case.columns()]);
        }
        check(&case);
    }
}

/// Scores far apart: most weights vanish, maxima move from tile to tile, and nothing turns into NaN. What is left may be a
/// near tie that rounding of the scores decides, so only sizes are compared.
#[test]
fn scores_far_apart() {
    let stretches = vec![(6, 195, 201)];
    let case = Case { sharpness: 65_536.0, stretches, ..Case::default() };
    for compute in TYPES {
        let got = on_cuda(compute, &case);
        assert!(got.iter().all(|x| x.abs() <= 1.0), "{compute:?}: {got:?}");
        assert!(got.chunks(case.head_dim).all(|head| head.iter().any(|x| x.abs() > 0.1)), "{compute:?}: {got:?}");
    }
    check(&Case { sharpness: 16.0, stretches: vec![(6, 95, 101)], ..Case::default() });
}

/// A row's bits do not depend on the chunk that it comes in, on its neighbours, or on where in a tile it stands.
#[test]
fn rows_alone_and_in_batches() {
    for (heads, reach, mask) in [(2, None, Mask::Causal), (2, Some(20), Mask::Causal), (3, Some(20), Mask::Full)] {
        for (compute, head_dim) in [(Dtype::F32, 32), (Dtype::Bf16, 32), (Dtype::Bf16, 128)] {
            let of = |stretches: Vec<Stretch>| {
                let case = Case { heads, reach, mask, head_dim, page_tokens: 7, stretches, ..Case::default() };
                on_cuda(compute, &case)
            };
            let row = |rows: &[f32], index: usize, count: usize| {
                rows[index * heads * head_dim..][..count * heads * head_dim].to_vec()
            };
            let what = format!("{compute:?}, {heads} heads of {head_dim}, bias {reach:?}, {mask:?}");
            let whole = of(vec![(150, 0, 150)]);
            let chunk = of(vec![(9, 0, 9), (37, 70, 150), (3, 11, 14)]);
            assert_same(&format!("{what}: a chunk"), &row(&chunk, 9, 37), &row(&whole, 70, 37));
            for position in [0, 31, 63, 64, 149] {
                let alone = of(vec![(1, position, 150)]);
                assert_same(&format!("{what}: row {position}"), &alone, &row(&whole, position as usize, 1));
            }
        }
    }
}
