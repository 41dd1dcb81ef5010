//! Attention of beam rows over a shared segment and their own tokens: every shape that has a path of its own, and each request
//! and row alone against the same in a batch.

use std::sync::Arc;

use sidereal::catalog::{Catalog, CatalogBuilder, NewItem};
use sidereal::device::{
    BeamAttentionArgs, Cohort, CohortLane, CohortRequest, Device, Dtype, ExpandArgs, Head, HeadSource, KvPool, KvShape,
    KvTarget, OwnKeys, OwnShape, OwnSlab, Queue, RelativeBias, RelativeBiasSource, Rows, Segment, SharedKeys, SlotPlan,
    SlotState, Span, Tensor, TokenBatch, TrieId, WriteKvArgs,
};
use sidereal::export::TensorView;

use crate::support::{TYPES, assert_close, assert_same, cohort_plan, cuda, noise, oracle};

/// Beam rows that lanes and buffers have room for.
const ROOM: usize = 256;
/// Codes of the trie's first level; each further level has two.
const FIRST_CODES: u32 = 160;
/// What the output holds before; dead rows and other columns must keep it.
const BEFORE: f32 = 0.25;
/// Of pool and slab; the second one is attended to.
const LAYERS: usize = 2;

/// One request: its beam width, how many codes it may begin with, and the length of its shared segment. What it holds is told by
/// these three, not by its place in a cohort.
#[derive(Clone, Copy, Debug)]
struct Wish {
    beams: u32,
    first_codes: u32,
    length: u32,
}

impl Wish {
    fn of(beams: u32, length: u32) -> Wish {
        Wish { beams, first_codes: FIRST_CODES, length }
    }

    /// Live beams once `step` was chosen: children are two a beam after the first level.
    fn live(&self, step: usize) -> u32 {
        (0..step).fold(self.beams.min(self.first_codes), |live, _| self.beams.min(2 * live))
    }

    /// Numbers of the beam of `rank`. Which beams there are beside it does not change them.
    fn noise(&self, what: u64, rank: u32, len: usize) -> Vec<f32> {
        noise(what << 48 | u64::from(self.length) << 24 | u64::from(rank), len)
    }
}

#[derive(Clone, Debug)]
struct Case {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    page_tokens: usize,
    /// Largest distance of a relative bias.
    reach: Option<usize>,
    segment: Option<Segment>,
    /// The step that is attended from, with its own tokens; `None` is cross-attention.
    step: Option<usize>,
    /// Columns before the views of query and out.
    skipped: usize,
    /// Multiplied into the queries.
    sharpness: f32,
    wishes: Vec<Wish>,
}

impl Default for Case {
    fn default() -> Case {
        Case {
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            page_tokens: 16,
            reach: None,
            segment: Some(Segment::History),
            step: Some(1),
            skipped: 0,
            sharpness: 1.0,
            wishes: vec![Wish::of(5, 70), Wish { first_codes: 3, ..Wish::of(9, 33) }],
        }
    }
}

impl Case {
    fn columns(&self) -> usize {
        self.heads * self.head_dim
    }

    fn last_step(&self) -> usize {
        self.step.unwrap_or(0)
    }

    fn pages_of(&self, wish: &Wish) -> usize {
        (wish.length as usize).div_ceil(self.page_tokens)
    }

    fn pages(&self) -> usize {
        self.wishes.iter().map(|wish| self.pages_of(wish)).sum::<usize>() + 1
    }

    /// Where two correct answers may differ. Keys and values are below 1, so an output is; a score has `head_dim` terms,
    /// and the sums over keys have as many as there are. In f32 a sum of n such terms in another order differs by some
    /// sqrt(n) roundings of partial sums of size sqrt(n): n 2^-24. Twice that for the score, which an exponential turns
    /// into a relative error of weights. In bf16 the two outputs are rounded (half an ulp of numbers below 1, 2^-9, each),
    /// and our weights are rounded once before they meet the values: half a step of 2^-8 relative, averaged over keys.
    fn tolerance(&self, compute: Dtype) -> f32 {
        let keys = self.wishes.iter().map(|wish| wish.length as usize).max().unwrap() + self.last_step() + 1;
        match compute {
            Dtype::F32 => (2 * self.head_dim + keys) as f32 * 2f32.powi(-24) * self.sharpness.max(1.0),
            Dtype::Bf16 => 3.0 * 2f32.powi(-9),
        }
    }

    /// First row of each request: one row is left free before each of them.
    fn first_rows(&self) -> Vec<u32> {
        let mut next = 0;
        let mut first_row = |wish: &Wish| {
            next += 1 + wish.beams;
            next - wish.beams
        };
        self.wishes.iter().map(&mut first_row).collect()
    }

    /// Row, request and rank of every live beam at `step`.
    fn live_rows(&self, step: usize) -> Vec<(usize, Wish, u32)> {
        let requests = self.first_rows().into_iter().zip(&self.wishes);
        let rows = |(first, wish): (u32, &Wish)| {
            let wish = *wish;
            (0..wish.live(step)).map(move |rank| ((first + rank) as usize, wish, rank))
        };
        requests.flat_map(rows).collect()
    }
}

/// Every semantic ID of `levels` levels.
fn catalog(levels: usize) -> Arc<Catalog> {
    let codes: Vec<u32> = (0..levels).map(|level| if level == 0 { FIRST_CODES } else { 2 }).collect();
    let mut builder = CatalogBuilder::new(&codes).unwrap();
    for id in 0..u64::from(codes.iter().product::<u32>()) {
        let mut rest = id;
        let code = |codes: &u32| {
            let code = rest % u64::from(*codes);
            rest /= u64::from(*codes);
            code as u16
        };
        let sid: Vec<u16> = codes.iter().map(code).collect();
        builder.add(NewItem { id, sid: &sid, ..NewItem::default() }).unwrap();
    }
    Arc::new(builder.finish().unwrap())
}

/// A case set up on a device.
struct Rig<'a> {
    device: &'a mut dyn Device,
    case: &'a Case,
    pool: KvPool,
    slab: OwnSlab,
    bias: Option<RelativeBias>,
    lane: CohortLane,
    trie: TrieId,
    head: Head,
    logits: Tensor,
    lognorm: Tensor,
}

impl<'a> Rig<'a> {
    /// One slot a request, and one more that owned every page before and left NaN in it.
    fn new(device: &'a mut dyn Device, case: &'a Case) -> Rig<'a> {
        let (slots, pages, steps) = (case.wishes.len() + 1, case.pages(), case.last_step() + 1);
        let Case { heads, kv_heads, head_dim, page_tokens, .. } = *case;
        let pool = device.kv_pool(KvShape { layers: LAYERS, kv_heads, head_dim, pages, page_tokens }).unwrap();
        let shape = OwnShape { layers: LAYERS, heads, kv_heads, head_dim, steps, rows: ROOM };
        let slab = device.own_slab(shape).unwrap();
        let bias = case.reach.map(|max_distance| {
            let by_distance = noise(5, heads * (2 * max_distance + 1));
            device.relative_bias(&RelativeBiasSource { heads, max_distance, by_distance }).unwrap()
        });
        device.plan_slots(SlotPlan { slots, history_pages: pages, prefix_pages: pages }).unwrap();
        let lane = device.cohort_lane(cohort_plan(ROOM, steps)).unwrap();
        let levels = steps.max(2); // a trie has no fewer
        let trie = device.trie(&catalog(levels)).unwrap();
        let vocabulary = FIRST_CODES as usize;
        let matrix = TensorView::owned("head", vec![vocabulary, 1], vec![0.0; vocabulary]);
        let level_tokens = (0..levels).map(|level| (0..if level == 0 { FIRST_CODES } else { 2 }).collect()).collect();
        let head =
            device.head_weight(&HeadSource { matrix: matrix.into(), level_tokens, whole_vocabulary: false }).unwrap();
        let logits = device.buffer(ROOM, vocabulary, Dtype::F32).unwrap();
        let lognorm = device.buffer(ROOM, 1, Dtype::F32).unwrap();
        let mut rig = Rig { device, case, pool, slab, bias, lane, trie, head, logits, lognorm };
        rig.fill_pages();
        rig.search();
        rig
    }

    fn segment(&self) -> Segment {
        self.case.segment.unwrap_or(Segment::History)
    }

    fn write_slot(&mut self, slot: u32, len: u32, pages: Vec<u32>) {
        let state = match self.segment() {
            Segment::History => SlotState { history_len: len, history_pages: pages, ..SlotState::default() },
            Segment::Prefix => SlotState { prefix_len: len, prefix_pages: pages, ..SlotState::default() },
        };
        self.device.write_slot(slot, &state).unwrap();
    }

    fn fill_pages(&mut self) {
        let (case, pages) = (self.case, self.case.pages() as u32);
        let (former, all) = (case.wishes.len() as u32, pages * case.page_tokens as u32);
        let len = case.kv_heads * case.head_dim;
        self.write_slot(former, all, (0..pages).collect());
        self.write_shared(former, all, |_, _| vec![f32::NAN; len]);
        // Pages are dealt out from the last one down, so that neighbours in a table are none in memory.
        let mut next = pages;
        for (slot, wish) in (0..).zip(&case.wishes) {
            let table = (0..case.pages_of(wish)).map(|_| {
                next -= 1;
                next
            });
            self.write_slot(slot, wish.length, table.collect());
            self.write_shared(slot, wish.length, |what, position| wish.noise(what, position, len));
        }
    }

    /// A buffer of f32 rows that hold `values`, NaN behind.
    fn rows(&mut self, values: &[f32], cols: usize) -> Tensor {
        let rows = (values.len() / cols).max(ROOM);
        let tensor = self.device.buffer(rows, cols, Dtype::F32).unwrap();
        let mut all = vec![f32::NAN; rows * cols];
        all[..values.len()].copy_from_slice(values);
        self.device.write_buffer(tensor, &all).unwrap();
        tensor
    }

    fn write_kv(&mut self, rows: Rows, (key, value): (Tensor, Tensor), target: KvTarget) {
        let args = WriteKvArgs {
            rows,
            query: None,
            key,
            value,
            query_out: None,
            query_scale: 1.0,
            head_norm: None,
            rope: None,
            target,
        };
        self.device.write_kv(&args).unwrap();
    }

    /// Writes keys (1) and values (2) of all of a slot's tokens.
    fn write_shared(&mut self, slot: u32, tokens: u32, of: impl Fn(u64, u32) -> Vec<f32>) {
        if tokens == 0 {
            return;
        }
        let cols = self.case.kv_heads * self.case.head_dim;
        let [key, value] = [1, 2].map(|what| {
            let values: Vec<f32> = (0..tokens).flat_map(|position| of(what, position)).collect();
            self.rows(&values, cols)
        });
        let lane = self.device.token_lane(tokens as usize, Queue::Search).unwrap();
        let span = Span { slot, first_row: 0, rows: tokens, first_position: 0, last: false };
        self.device.write_tokens(lane, &TokenBatch { tokens: vec![0; tokens as usize], spans: vec![span] }).unwrap();
        let target = KvTarget::Pages { pool: self.pool, segment: self.segment(), layer: LAYERS - 1 };
        self.write_kv(Rows::Tokens(lane), (key, value), target);
    }

    /// Chooses the case's steps, and writes the own tokens of each.
    fn search(&mut self) {
        let case = self.case;
        let request = |(slot, (wish, first_row)): (u32, (&Wish, u32))| CohortRequest {
            slot,
            beams: wish.beams,
            first_row,
            banned_nodes: vec![(wish.first_codes..FIRST_CODES).collect()],
            ..CohortRequest::default()
        };
        let requests = (0..).zip(case.wishes.iter().zip(case.first_rows())).map(request).collect();
        self.device.write_cohort(self.lane, &Cohort { requests }).unwrap();
        for step in 0..=case.last_step() {
            self.choose(step);
            let cols = case.kv_heads * case.head_dim;
            let [key, value] = [3, 4].map(|what| {
                let mut all = vec![f32::NAN; ROOM * cols];
                for (row, wish, rank) in case.live_rows(step) {
                    all[row * cols..][..cols].copy_from_slice(&wish.noise(what + 8 * step as u64, rank, cols));
                }
                self.rows(&all, cols)
            });
            let target = KvTarget::Own { slab: self.slab, layer: LAYERS - 1, step };
            self.write_kv(Rows::Beams(self.lane), (key, value), target);
        }
    }

    /// One step of search: ranks get mixed, some beams die, others have two children.
    fn choose(&mut self, level: usize) {
        let (case, cols) = (self.case, self.logits.cols);
        let rows: Vec<(usize, Wish, u32)> = match level {
            0 => case.wishes.iter().enumerate().map(|(row, wish)| (row, *wish, 0)).collect(),
            _ => case.live_rows(level - 1),
        };
        let mut logits = vec![f32::NAN; ROOM * cols];
        for (row, wish, rank) in rows {
            logits[row * cols..][..cols].copy_from_slice(&wish.noise(6 + 8 * level as u64, rank, cols));
        }
        self.device.write_buffer(self.logits, &logits).unwrap();
        self.device.write_buffer(self.lognorm, &[2.0; ROOM]).unwrap();
        let Rig { lane, trie, head, logits, lognorm, .. } = *self;
        self.device
            .expand_select(&ExpandArgs { lane, trie, head, item: 0, level, logits, lognorm: Some(lognorm) })
            .unwrap();
    }

    /// Attention of the live beams: `[beams, heads * head_dim]`. What must not be written is checked here.
    fn attend(&mut self) -> Vec<f32> {
        let (case, compute) = (self.case, self.device.facts().compute);
        let live = case.live_rows(case.last_step());
        let columns = case.columns();
        let mut queries = vec![f32::NAN; ROOM * columns];
        for &(row, wish, rank) in &live {
            let query: Vec<f32> = wish.noise(5, rank, columns).iter().map(|x| x * case.sharpness).collect();
            queries[row * columns..][..columns].copy_from_slice(&query);
        }
        // Dead rows and the columns beside the views hold NaN, which must reach no result.
        let whole = self.device.buffer(ROOM, case.skipped + columns + 3, compute).unwrap();
        self.device.write_buffer(whole, &vec![f32::NAN; ROOM * whole.cols]).unwrap();
        let query = whole.columns(case.skipped, columns);
        self.device.write_buffer(query, &queries).unwrap();
        let whole = self.device.buffer(ROOM, case.skipped + columns + 3, compute).unwrap();
        self.device.write_buffer(whole, &vec![BEFORE; ROOM * whole.cols]).unwrap();
        let Rig { lane, pool, slab, bias, .. } = *self;
        let args = BeamAttentionArgs {
            lane,
            query,
            shared: case.segment.map(|segment| SharedKeys { pool, segment, layer: LAYERS - 1 }),
            own: case.step.map(|step| OwnKeys { slab, layer: LAYERS - 1, step }),
            bias,
            out: whole.columns(case.skipped, columns),
        };
        self.device.beam_attention(&args).unwrap();

        let all = self.device.read_buffer(whole, ROOM).unwrap();
        let mut results = Vec::new();
        for (row, values) in all.chunks(whole.cols).enumerate() {
            let (before, rest) = values.split_at(case.skipped);
            let (result, behind) = rest.split_at(columns);
            let is_live = live.iter().any(|&(live, ..)| live == row);
            let kept = before.iter().chain(behind).chain(if is_live { &[] } else { result });
            assert!(kept.into_iter().all(|&x| x == BEFORE), "{case:?}: row {row} was written beside the results");
            if is_live {
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
    for head_dim in [1, 8, 12, 33, 64, 80, 128, 256] {
        check(&Case { head_dim, ..Case::default() });
    }
}

#[test]
fn pages_of_any_size() {
    for page_tokens in [1, 7, 16, 64] {
        let wishes = vec![Wish::of(3, 64), Wish::of(1, 65), Wish::of(2, 1), Wish::of(4, 128), Wish::of(2, 63)];
        check(&Case { page_tokens, wishes, ..Case::default() });
    }
}

/// Lengths at the borders of splits and of blocks of keys; two splits and more; the history of 2,100 has longer ones. One
/// request alone does not fill the card: its splits are computed apart and merged, those of several requests one after another.
#[test]
fn splits_of_any_number() {
    for lengths in [&[255, 256, 257][..], &[512, 513, 1], &[1000, 320, 2100], &[2100], &[513], &[700]] {
        let wishes = lengths.iter().map(|&length| Wish::of(3, length)).collect();
        check(&Case { heads: 2, kv_heads: 1, page_tokens: 64, wishes, ..Case::default() });
    }
}

/// Tiles that are full, begun, and of one row; at every width with larger tiles.
#[test]
fn beams_of_any_number() {
    for head_dim in [16, 64, 128] {
        let wishes = vec![Wish::of(70, 40), Wish::of(1, 300), Wish { first_codes: 20, ..Wish::of(90, 66) }];
        check(&Case { heads: 2, kv_heads: 1, head_dim, wishes, ..Case::default() });
    }
}

#[test]
fn heads_that_share_keys() {
    for (heads, kv_heads) in [(1, 1), (6, 2), (3, 1), (3, 3), (5, 1)] {
        check(&Case { heads, kv_heads, wishes: vec![Wish::of(23, 30), Wish::of(2, 5)], ..Case::default() });
    }
}

#[test]
fn biases_by_distance() {
    for (segment, reach) in [(Segment::Prefix, 128), (Segment::History, 20), (Segment::Prefix, 1)] {
        for (kv_heads, head_dim, step) in [(4, 64, 0), (2, 16, 2), (4, 128, 1)] {
            let wishes = vec![Wish::of(20, 3), Wish::of(4, 70), Wish::of(1, 1)];
            let (segment, reach, step) = (Some(segment), Some(reach), Some(step));
            check(&Case { kv_heads, head_dim, segment, reach, step, wishes, ..Case::default() });
        }
    }
}

#[test]
fn own_tokens_of_any_step() {
    for step in [0, 1, 2, 4] {
        let wishes = vec![Wish::of(20, 40), Wish { first_codes: 2, ..Wish::of(11, 20) }];
        check(&Case { step: Some(step), wishes, ..Case::default() });
    }
    check(&Case { segment: None, step: Some(3), ..Case::default() });
}

#[test]
fn cross_attention() {
    for head_dim in [16, 64] {
        check(&Case { head_dim, step: None, wishes: vec![Wish::of(20, 300), Wish::of(3, 17)], ..Case::default() });
    }
}

/// Views that start anywhere and heads that are no whole chunks are read and written element by element.
#[test]
fn views_at_any_column() {
    for (skipped, head_dim) in [(8, 24), (3, 24), (64, 20)] {
        check(&Case { head_dim, skipped, ..Case::default() });
    }
}

#[test]
fn a_row_that_sees_nothing_is_zero() {
    for compute in TYPES {
        let wishes = vec![Wish::of(3, 0), Wish::of(2, 9)];
        let case = Case { step: None, wishes, ..Case::default() };
        let got = on_cuda(compute, &case);
        assert_same(&format!("{compute:?}"), &got[..3 * case.columns()], &vec![0.0; 3 * case.columns()]);
    }
    check(&Case { wishes: vec![Wish::of(3, 0), Wish::of(2, 9)], ..Case::default() });
}

/// Scores far apart: most weights vanish, maxima move from split to split, and nothing turns into NaN.
#[test]
fn scores_far_apart() {
    let case = Case { sharpness: 65_536.0, wishes: vec![Wish::of(3, 600)], ..Case::default() };
    for compute in TYPES {
        let got = on_cuda(compute, &case);
        assert!(got.iter().all(|x| x.abs() <= 1.0), "{compute:?}: {got:?}");
    }
}

/// The bits of a request do not depend on the others of its cohort, nor on the bucket that a launch is for, which decides tiles
/// and whether splits are computed apart; and those of a beam not on the beams beside it.
#[test]
fn requests_and_rows_alone_and_in_batches() {
    for (compute, head_dim) in [(Dtype::F32, 32), (Dtype::Bf16, 32), (Dtype::Bf16, 64), (Dtype::Bf16, 128)] {
        for (step, reach) in [(Some(0), None), (Some(2), Some(20)), (None, None)] {
            let of = |wishes: Vec<Wish>| {
                let case =
                    Case { heads: 2, kv_heads: 1, head_dim, step, reach, page_tokens: 7, wishes, ..Case::default() };
                on_cuda(compute, &case)
            };
            let what = format!("{compute:?}, heads of {head_dim}, step {step:?}");
            let columns = 2 * head_dim;
            let (small, large) = (Wish::of(5, 600), Wish::of(70, 270));
            let all = of(vec![Wish::of(9, 1100), small, large]);
            let (before, rest) = all.split_at(9 * columns);
            let (of_small, of_large) = rest.split_at(5 * columns);
            assert_eq!(before.len(), 9 * columns);
            assert_same(&format!("{what}: five beams"), &of(vec![small]), of_small);
            assert_same(&format!("{what}: 70 beams"), &of(vec![large, Wish::of(1, 3)])[..70 * columns], of_large);
            if step.is_none_or(|step| step == 0) {
                let one = of(vec![Wish { beams: 1, ..large }]);
                assert_same(&format!("{what}: one beam"), &one, &of_large[..columns]);
            }
        }
    }
}
