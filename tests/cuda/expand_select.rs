//! The search's steps: the best children of each request, level by level, are those that the CPU device finds, bit for bit.

use std::collections::BTreeSet;
use std::sync::Arc;

use sidereal::catalog::{Catalog, CatalogBuilder, NewItem, NodeMask};
use sidereal::device::{
    Beam, Cohort, CohortLane, CohortRequest, Device, Dtype, ExpandArgs, ForceArgs, Head, HeadSource, Normalizer, Queue,
    Rows, Tensor, TokenBatch, TokenLane, TrieId,
};
use sidereal::export::TensorView;
use sidereal::sampling::{Sampling, SamplingKind};

use crate::support::{cohort_plan, cuda, noise, oracle, slot_plan};

/// What the logits of a case look like.
#[derive(Clone, Copy, Debug)]
enum Logits {
    /// Multiples of one over this, so that some are equal.
    Quantised(f32),
    /// All the same: only ranks and codes decide.
    Equal,
    /// Every fifth is no number, infinite, or a zero of either sign.
    Special,
}

/// One request.
#[derive(Clone, Copy, Debug)]
struct Wish {
    beams: u32,
    /// Rows left unused before the request's own.
    gap: u32,
    /// One in this many nodes of each level is banned; 0 for none, 1 for all but those of level 0.
    banned: u64,
    /// Its mask, by slot (see `masks`).
    mask: Option<u32>,
    seed: u64,
    sampling: Option<Sampling>,
}

impl Wish {
    fn of(beams: u32) -> Wish {
        Wish { beams, gap: 0, banned: 0, mask: None, seed: u64::from(beams), sampling: None }
    }
}

/// A trie with what is asked of it.
struct Case {
    catalog: Arc<Catalog>,
    logits: Logits,
}

fn catalog(codes: &[u32], sids: &BTreeSet<Vec<u16>>) -> Arc<Catalog> {
    let mut builder = CatalogBuilder::new(codes).unwrap();
    for (id, sid) in (0..).zip(sids) {
        builder.add(NewItem { id, sid, ..NewItem::default() }).unwrap();
    }
    Arc::new(builder.finish().unwrap())
}

/// About `count` semantic IDs of uniform codes.
fn uniform(codes: &[u32], count: usize) -> Arc<Catalog> {
    let draws = noise(count as u64, count * codes.len());
    let code = |(&draw, &codes): (&f32, &u32)| ((draw + 1.0) / 2.0 * codes as f32) as u16;
    let sids = draws.chunks(codes.len()).map(|draws| draws.iter().zip(codes).map(code).collect()).collect();
    catalog(codes, &sids)
}

fn hash(seed: u64, word: u64) -> u64 {
    let mixed = (seed ^ word.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ mixed >> 29
}

/// Logits and log-normaliser of the beam of `rank`.
fn scores_of(logits: Logits, seed: u64, rank: usize, codes: usize) -> (Vec<f32>, f32) {
    let seed = hash(seed, rank as u64);
    let lognorm = 2.0 + (seed % 8) as f32 * 0.25;
    let value = |(code, draw): (usize, f32)| match logits {
        Logits::Quantised(steps) => (draw * 3.0 * steps).round() / steps,
        Logits::Equal => 0.5,
        Logits::Special if hash(seed, code as u64).is_multiple_of(5) => {
            [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0][hash(seed, code as u64) as usize / 5 % 5]
        }
        Logits::Special => draw,
    };
    let lognorm = if matches!(logits, Logits::Equal) { 2.0 } else { lognorm };
    (noise(seed, codes).into_iter().enumerate().map(value).collect(), lognorm)
}

fn banned_nodes(case: &Case, wish: &Wish) -> Vec<Vec<u32>> {
    let banned = |level: usize, node: u32| match wish.banned {
        0 => false,
        1 => level > 0,
        one_in => hash(wish.seed + level as u64, u64::from(node)).is_multiple_of(one_in),
    };
    let nodes = |level| (0..case.catalog.nodes(level) as u32).filter(|&node| banned(level, node)).collect();
    (0..case.catalog.levels()).map(nodes).collect()
}

/// Masks that allow everything, every third leaf, one leaf, nothing, and all leaves of the first half of the trie.
fn masks(catalog: &Catalog) -> [NodeMask; 5] {
    let leaves = catalog.leaves() as u32;
    let of = |allowed: &dyn Fn(&u32) -> bool| NodeMask::of_leaves(catalog, (0..leaves).filter(allowed));
    [
        of(&|_| true),
        of(&|leaf| hash(7, u64::from(*leaf)).is_multiple_of(3)),
        of(&|leaf| *leaf == leaves / 2),
        of(&|_| false),
        of(&|leaf| *leaf < leaves / 2),
    ]
}

/// A device with the case's trie and room for `rows` beams.
struct Search<D> {
    device: D,
    lane: CohortLane,
    prefix: TokenLane,
    trie: TrieId,
    head: Head,
    logits: Tensor,
    lognorm: Tensor,
    tokens: Tensor, // of each beam, as an embedding shows them
    table: sidereal::device::Embedding,
    rows: usize,
    normalizer: Normalizer,
}

/// A beam after a step: node, score's bits, token, key's bits, bits of each step's log-probabilities.
type State = (u32, u32, u32, Option<u32>, Vec<[u32; 2]>);

/// Beams of each request after a step.
type Step = Vec<Vec<State>>;

/// Bits, of which NaN has one.
fn bits(x: f32) -> u32 {
    if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }
}

impl<D: Device> Search<D> {
    fn plan(device: D, case: &Case, rows: usize) -> Search<D> {
        Search::normalized(device, case, rows, Normalizer::Level)
    }

    fn normalized(mut device: D, case: &Case, rows: usize, normalizer: Normalizer) -> Search<D> {
        let levels = case.catalog.levels();
        let codes: Vec<usize> = (0..levels).map(|level| case.catalog.codes(level) as usize).collect();
        let widest = *codes.iter().max().unwrap();
        // Tokens run against codes, so that neither is taken for the other.
        let list = |level: usize| (0..codes[level] as u32).map(|code| (widest as u32 - code) + 3).collect();
        let vocabulary = widest + 4;
        let matrix = TensorView::owned("head", vec![vocabulary, 1], vec![0.0; vocabulary]);
        let level_tokens = (0..levels).map(list).collect();
        let head =
            device.head_weight(&HeadSource { matrix: matrix.into(), level_tokens, whole_vocabulary: false }).unwrap();
        let names = TensorView::owned("tokens", vec![vocabulary, 1], (0..vocabulary).map(|id| id as f32).collect());
        let table = device.embedding(&names).unwrap();
        let logits = device.buffer(rows, widest + 1, Dtype::F32).unwrap().columns(1, widest);
        let lognorm = device.buffer(rows, 1, Dtype::F32).unwrap();
        let tokens = device.buffer(rows, 1, Dtype::F32).unwrap();
        device.plan_slots(slot_plan(rows.min(64), 1)).unwrap();
        // Two steps more than levels, for forced tokens.
        let mut plan = cohort_plan(rows, levels + 2);
        plan.banned_nodes = 1 << 17;
        let lane = device.cohort_lane(plan).unwrap();
        let prefix = device.token_lane(1, Queue::Search).unwrap();
        let trie = device.trie(&case.catalog).unwrap();
        let masks = masks(&case.catalog);
        device.plan_masks(trie, masks.len()).unwrap();
        for (slot, mask) in (0..).zip(masks) {
            device.write_mask(slot, &Arc::new(mask)).unwrap();
        }
        Search { device, lane, prefix, trie, head, logits, lognorm, tokens, table, rows, normalizer }
    }

    fn begin(&mut self, case: &Case, wishes: &[Wish]) -> Vec<u32> {
        let mut next = 0;
        let mut request = |(slot, wish): (u32, &Wish)| {
            let first_row = next + wish.gap;
            next = first_row + wish.beams;
            CohortRequest {
                slot,
                beams: wish.beams,
                first_row,
                banned_nodes: banned_nodes(case, wish),
                mask: wish.mask,
                sampling: wish.sampling,
                log_probs: true,
                list: 1,
            }
        };
        let requests: Vec<CohortRequest> = (0..).zip(wishes).map(&mut request).collect();
        let first_rows = requests.iter().map(|request| request.first_row).collect();
        self.device.write_tokens(self.prefix, &TokenBatch::default()).unwrap();
        self.device.write_cohort(self.lane, &Cohort { requests }).unwrap();
        first_rows
    }

    /// What the device says to a cohort that it does not take.
    fn refusal(mut self, cohort: &Cohort) -> String {
        self.device.write_cohort(self.lane, cohort).unwrap_err().to_string()
    }

    /// Writes the live rows' scores; all others are NaN.
    fn write_scores(&mut self, columns: usize, rows: &[(usize, (Vec<f32>, f32))]) {
        let mut logits = vec![f32::NAN; self.rows * columns];
        let mut lognorm = vec![f32::NAN; self.rows];
        for (row, (values, norm)) in rows {
            logits[row * columns..][..columns].copy_from_slice(values);
            lognorm[*row] = *norm;
        }
        self.device.write_buffer(self.logits.columns(0, columns), &logits).unwrap();
        self.device.write_buffer(self.lognorm, &lognorm).unwrap();
    }

    fn read(&mut self, first_rows: &[u32]) -> Step {
        let beams = self.device.read_beams(self.lane).unwrap();
        self.device.embed(Rows::Beams(self.lane), self.table, self.tokens).unwrap();
        let tokens = self.device.read_buffer(self.tokens, self.rows).unwrap();
        let of = |(beams, &first): (&Vec<Beam>, &u32)| {
            let rows = tokens[first as usize..].iter();
            let state = |(beam, &token): (&Beam, &f32)| {
                let log_probs = beam.log_probs.iter().map(|of| [bits(of.behaviour), bits(of.raw)]).collect();
                (beam.leaf, beam.score.to_bits(), token as u32, beam.key.map(f32::to_bits), log_probs)
            };
            beams.iter().zip(rows).map(state).collect()
        };
        beams.iter().zip(first_rows).map(of).collect()
    }

    /// Searches all levels, then forces a scored and an unscored token.
    fn run(&mut self, case: &Case, wishes: &[Wish]) -> Vec<Step> {
        let first_rows = self.begin(case, wishes);
        let levels = case.catalog.levels();
        let mut steps: Vec<Step> = Vec::new();
        for step in 0..levels + 2 {
            let columns = if step < levels { case.catalog.codes(step) as usize } else { 1 };
            let mut rows = Vec::new();
            for (index, wish) in wishes.iter().enumerate() {
                let live = steps.last().map_or(1, |step| step[index].len());
                for rank in 0..live {
                    let row = if step == 0 { index } else { first_rows[index] as usize + rank };
                    rows.push((row, scores_of(case.logits, hash(wish.seed, step as u64), rank, columns)));
                }
            }
            self.write_scores(columns, &rows);
            self.step(step, levels);
            steps.push(self.read(&first_rows));
        }
        steps
    }

    /// Enqueues the first level of a cohort's search.
    fn enqueue_first_level(&mut self, case: &Case, wishes: &[Wish]) {
        self.begin(case, wishes);
        let columns = case.catalog.codes(0) as usize;
        let scores = |(row, wish): (usize, &Wish)| (row, scores_of(case.logits, hash(wish.seed, 0), 0, columns));
        let rows: Vec<_> = wishes.iter().enumerate().map(scores).collect();
        self.write_scores(columns, &rows);
        self.step(0, case.catalog.levels());
    }

    /// Enqueues a step as the engine does: recorded once, replayed after.
    fn step(&mut self, step: usize, levels: usize) {
        let Search { lane, prefix, trie, head, logits, lognorm, .. } = *self;
        let of_head = (self.normalizer != Normalizer::Legal).then_some(lognorm);
        let mut body = |device: &mut dyn Device| {
            if step < levels {
                device.expand_select(&ExpandArgs { lane, trie, head, item: 0, level: step, logits, lognorm: of_head })
            } else {
                let scored = (step == levels).then(|| (logits.columns(0, 1), lognorm));
                device.force_token(&ForceArgs { lane, token: 1 + (step - levels) as u32, step, scored })
            }
        };
        self.device.replay((lane, prefix), step, &mut body).unwrap();
    }
}

fn rows_of(wishes: &[Wish]) -> usize {
    wishes.iter().map(|wish| (wish.gap + wish.beams) as usize).sum()
}

fn assert_equal(what: &str, actual: &[Step], expected: &[Step]) {
    for (step, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        for (request, (actual, expected)) in actual.iter().zip(expected).enumerate() {
            assert_eq!(actual.len(), expected.len(), "{what}: beams of request {request} after step {step}");
            let differs = (0..actual.len()).find(|&rank| actual[rank] != expected[rank]);
            if let Some(rank) = differs {
                let (actual, expected) = (&actual[rank], &expected[rank]);
                panic!("{what}: step {step}, request {request}, beam {rank}: {actual:?} and not {expected:?}");
            }
        }
    }
}

/// Both devices find the same, and a request finds the same alone as among others.
fn check(what: &str, case: &Case, wishes: &[Wish]) {
    check_by(Normalizer::Level, what, case, wishes);
}

fn check_by(normalizer: Normalizer, what: &str, case: &Case, wishes: &[Wish]) {
    let rows = rows_of(wishes);
    let expected = Search::normalized(oracle(Dtype::F32), case, rows, normalizer).run(case, wishes);
    let mut search = Search::normalized(cuda(Dtype::F32), case, rows, normalizer);
    assert_equal(what, &search.run(case, wishes), &expected);
    if wishes.len() > 1 {
        // The lane still holds what the search of all left there.
        let last = search.run(case, &wishes[wishes.len() - 1..]);
        for (step, (alone, among)) in last.iter().zip(&expected).enumerate() {
            assert_eq!(alone.last(), among.last(), "{what}: the last request alone, step {step}");
        }
    }
}

#[test]
fn every_beam_width_finds_what_the_oracle_finds() {
    let case = Case { catalog: uniform(&[48, 64, 32], 12_000), logits: Logits::Quantised(4096.0) };
    for beams in [1, 2, 31, 32, 33, 512, 1000, 1024] {
        check(&format!("{beams} beams"), &case, &[Wish::of(beams)]);
    }
}

#[test]
fn requests_of_different_widths_share_a_cohort() {
    let case = Case { catalog: uniform(&[16, 32, 8, 8], 5000), logits: Logits::Quantised(64.0) };
    let wish = |beams, gap, banned, seed| Wish { beams, gap, banned, mask: None, seed, sampling: None };
    let wishes = [wish(5, 0, 3, 1), wish(128, 2, 0, 2), wish(1, 0, 2, 3), wish(40, 1, 7, 4), wish(33, 0, 2, 5)];
    check("different widths", &case, &wishes);
}

#[test]
fn banned_requests_keep_nothing_and_stay_empty() {
    let case = Case { catalog: uniform(&[16, 16, 16], 900), logits: Logits::Quantised(64.0) };
    let all = Wish { banned: 1, ..Wish::of(20) };
    check("all banned", &case, &[Wish::of(9), all, Wish { banned: 2, ..Wish::of(31) }]);
    let mut search = Search::plan(cuda(Dtype::F32), &case, 20);
    let steps = search.run(&case, &[all]);
    assert_eq!(steps.iter().map(|step| step[0].len()).collect::<Vec<_>>(), [16, 0, 0, 0, 0]);
}

#[test]
fn masks_and_bans_together() {
    let case = Case { catalog: uniform(&[16, 32, 40], 5000), logits: Logits::Quantised(64.0) };
    let wish = |(mask, banned): (Option<u32>, u64)| Wish { mask, banned, ..Wish::of(33) };
    let wishes =
        [(Some(0), 0), (None, 0), (Some(1), 0), (Some(1), 3), (Some(2), 0), (Some(3), 0), (Some(4), 2)].map(wish);
    check("masks", &case, &wishes);
    let mut search = Search::plan(cuda(Dtype::F32), &case, rows_of(&wishes));
    let leaves = search.run(&case, &wishes).swap_remove(2);
    let masks = masks(&case.catalog);
    for (wish, beams) in wishes.iter().zip(&leaves) {
        let allowed = |beam: &State| wish.mask.is_none_or(|slot| masks[slot as usize].contains(2, beam.0));
        assert!(beams.iter().all(allowed), "{wish:?}");
    }
    assert_eq!(leaves.iter().map(Vec::len).collect::<Vec<_>>(), [33, 33, 33, 33, 1, 0, 33]);
}

/// A slot may be written while searches that read what it held are still enqueued.
#[test]
fn a_slot_written_again_serves_the_next_cohort_only() {
    let case = Case { catalog: uniform(&[16, 32, 8], 3000), logits: Logits::Quantised(64.0) };
    let [all, third, ..] = masks(&case.catalog).map(Arc::new);
    let wishes = [Wish { mask: Some(0), ..Wish::of(40) }];
    let mut oracle = Search::plan(oracle(Dtype::F32), &case, 40);
    let mut search = Search::plan(cuda(Dtype::F32), &case, 40);
    let found = [&all, &third, &all].map(|mask| {
        oracle.device.write_mask(0, mask).unwrap();
        search.device.write_mask(0, mask).unwrap();
        let expected = oracle.run(&case, &wishes);
        assert_equal("written again", &search.run(&case, &wishes), &expected);
        expected
    });
    assert_ne!(found[0], found[1]);
    // Overwritten behind a search that nobody has read yet.
    search.device.write_mask(0, &third).unwrap();
    search.enqueue_first_level(&case, &wishes);
    search.device.write_mask(0, &all).unwrap();
    let beams = search.device.read_beams(search.lane).unwrap();
    let first: Vec<u32> = beams[0].iter().map(|beam| beam.leaf).collect();
    assert_eq!(first, found[1][0][0].iter().map(|beam| beam.0).collect::<Vec<_>>());
    assert_eq!(search.device.recorded_steps(), 5);
}

#[test]
fn a_mask_that_is_not_planned_is_refused() {
    let case = Case { catalog: uniform(&[4, 4], 10), logits: Logits::Equal };
    let other = Arc::new(NodeMask::none(&uniform(&[200, 4], 700)));
    let request = CohortRequest { slot: 0, beams: 1, mask: Some(5), ..CohortRequest::default() };
    let cohort = Cohort { requests: vec![request] };
    let mut of_cuda = Search::plan(cuda(Dtype::F32), &case, 4);
    let mut of_oracle = Search::plan(oracle(Dtype::F32), &case, 4);
    for (slot, reason) in [(0, "words"), (5, "slot 5 of 5")] {
        let errors = [of_oracle.device.write_mask(slot, &other), of_cuda.device.write_mask(slot, &other)];
        let [a, b] = errors.map(|error| error.unwrap_err().to_string());
        assert_eq!(a, b);
        assert!(a.contains(reason), "{a}");
    }
    let refusals = [of_oracle.refusal(&cohort), of_cuda.refusal(&cohort)];
    assert_eq!(refusals[0], refusals[1]);
    assert!(refusals[0].contains("mask slot 5 of 5"), "{}", refusals[0]);
}

#[test]
fn ties_are_broken_by_rank_and_code() {
    let catalog = uniform(&[32, 64, 16], 9000);
    for logits in [Logits::Equal, Logits::Quantised(0.5)] {
        let case = Case { catalog: Arc::clone(&catalog), logits };
        check(&format!("{logits:?}"), &case, &[Wish::of(300), Wish { banned: 4, ..Wish::of(64) }]);
    }
}

/// Among equal runs of children, a best child may stand behind the place that a bound names: it is kept all the same.
#[test]
fn ties_in_neighbouring_runs() {
    let sids = (0..3800u16).map(|id| vec![id % 2, id / 2]).collect();
    let case = Case { catalog: catalog(&[2, 2048], &sids), logits: Logits::Quantised(32.0) };
    for beams in [1, 2, 3] {
        let wishes: Vec<Wish> = (0..40).map(|seed| Wish { seed, ..Wish::of(beams) }).collect();
        check(&format!("{beams} beams of equal runs"), &case, &wishes);
    }
}

#[test]
fn scores_that_are_no_numbers_lose_and_zeros_have_no_sign() {
    let case = Case { catalog: uniform(&[32, 64, 16], 4000), logits: Logits::Special };
    for normalizer in [Normalizer::Level, Normalizer::Legal] {
        let what = format!("special numbers, {normalizer:?}");
        check_by(normalizer, &what, &case, &[Wish::of(200), Wish { banned: 3, ..Wish::of(33) }]);
    }
}

#[test]
fn a_wide_root_and_chains_of_single_children() {
    // As in a trie of ten million IDs over three levels of 8,192 codes: few of the last nodes have a sibling.
    let sids = (0..6000u16).map(|id| vec![id, id.wrapping_mul(7) % 8192, id % 3]).collect();
    let case = Case { catalog: catalog(&[8192, 8192, 3], &sids), logits: Logits::Quantised(4096.0) };
    check("chains", &case, &[Wish::of(257), Wish { banned: 2, ..Wish::of(70) }]);
    check_by(Normalizer::Legal, "normalised chains", &case, &[Wish::of(40), Wish { banned: 2, ..Wish::of(70) }]);
}

#[test]
fn one_node_may_have_most_of_the_children() {
    let mut sids: BTreeSet<Vec<u16>> = (0..9000u16).map(|code| vec![5, code.wrapping_mul(7)]).collect();
    sids.extend((0..12).map(|code| vec![code, 65_535 - code]));
    let case = Case { catalog: catalog(&[12, 65_536], &sids), logits: Logits::Quantised(1024.0) };
    check("skewed", &case, &[Wish { banned: 3, ..Wish::of(100) }, Wish::of(7)]);
}

#[test]
fn more_beams_than_shared_memory_sorts() {
    let case = Case { catalog: uniform(&[64, 80], 4000), logits: Logits::Quantised(512.0) };
    check("wide beams", &case, &[Wish::of(2500)]);
}

/// A parent's rank has 16 bits in a candidate's key.
#[test]
fn more_beams_than_ranks_are_refused() {
    let case = Case { catalog: uniform(&[4, 4], 10), logits: Logits::Equal };
    let request = CohortRequest { slot: 0, beams: 65_537, first_row: 0, ..CohortRequest::default() };
    let cohort = Cohort { requests: vec![request] };
    let of_oracle = Search::plan(oracle(Dtype::F32), &case, 65_537);
    let of_cuda = Search::plan(cuda(Dtype::F32), &case, 65_537);
    let refusals = [of_oracle.refusal(&cohort), of_cuda.refusal(&cohort)];
    assert_eq!(refusals[0], refusals[1]);
    assert!(refusals[0].contains("65537 beams"), "{}", refusals[0]);
}

#[test]
fn small_random_tries() {
    for seed in 0..12 {
        let draw = |word, range: u64| hash(hash(seed, word), 3) % range;
        let codes: Vec<u32> = (0..2 + draw(0, 3)).map(|level| 1 + draw(10 + level, 40) as u32).collect();
        let catalog = uniform(&codes, 1 + draw(1, 500) as usize);
        let case = Case { catalog, logits: Logits::Quantised([1.0, 16.0, 4096.0][draw(2, 3) as usize]) };
        let wish = |index| Wish {
            beams: 1 + draw(20 + index, 50) as u32,
            gap: draw(30 + index, 3) as u32,
            banned: [0, 2, 5, 1][draw(40 + index, 4) as usize],
            mask: [None, None, Some(0), Some(1), Some(1), Some(2), Some(3), Some(4)][draw(50 + index, 8) as usize],
            seed: seed * 100 + index,
            sampling: None,
        };
        let wishes: Vec<Wish> = (0..1 + draw(3, 4)).map(wish).collect();
        for normalizer in [Normalizer::Level, Normalizer::Legal] {
            check_by(normalizer, &format!("trie {seed}, {normalizer:?}"), &case, &wishes);
        }
    }
}

#[test]
fn a_recorded_step_serves_the_next_cohort() {
    let case = Case { catalog: uniform(&[16, 32, 8], 3000), logits: Logits::Quantised(64.0) };
    let mut search = Search::plan(cuda(Dtype::F32), &case, 96);
    let mut expected = Search::plan(oracle(Dtype::F32), &case, 96);
    for seed in 0..3 {
        let wishes = [Wish { seed, banned: seed, ..Wish::of(33) }, Wish { seed: seed + 9, ..Wish::of(40) }];
        assert_equal("replayed", &search.run(&case, &wishes), &expected.run(&case, &wishes));
        assert_eq!(search.device.recorded_steps(), 5);
    }
}

fn sampled(wish: Wish, kind: SamplingKind, temperature: f32) -> Wish {
    Wish { sampling: Some(Sampling { kind, seed: wish.seed << 30 ^ 0x1234_5678_9abc, temperature }), ..wish }
}

/// Both kinds beside beam searches in one cohort: the same nodes, keys, scores and log-probabilities, bit for bit.
#[test]
fn samples_are_what_the_oracle_draws() {
    let catalog = uniform(&[40, 300, 16], 9000);
    let (independent, distinct) = (SamplingKind::Independent, SamplingKind::Distinct);
    for logits in [Logits::Quantised(4096.0), Logits::Special, Logits::Equal] {
        let case = Case { catalog: Arc::clone(&catalog), logits };
        let wishes = [
            sampled(Wish::of(33), distinct, 1.0),
            Wish { gap: 2, banned: 3, ..Wish::of(20) },
            sampled(Wish { gap: 1, banned: 3, mask: Some(0), ..Wish::of(65) }, independent, 0.5),
            sampled(Wish { banned: 2, mask: Some(1), ..Wish::of(300) }, distinct, 3.0),
            sampled(Wish::of(1), independent, 1.0),
        ];
        for normalizer in [Normalizer::Level, Normalizer::Legal] {
            check_by(normalizer, &format!("samples, {logits:?}, {normalizer:?}"), &case, &wishes);
        }
    }
}

#[test]
fn more_sequences_than_threads_and_wide_roots() {
    let sids = (0..6000u16).map(|id| vec![id, id.wrapping_mul(7) % 8192]).collect();
    let case = Case { catalog: catalog(&[8192, 8192], &sids), logits: Logits::Quantised(4096.0) };
    let wishes =
        [sampled(Wish::of(40), SamplingKind::Independent, 2.0), sampled(Wish::of(130), SamplingKind::Distinct, 0.1)];
    check("wide roots", &case, &wishes);
    let case = Case { catalog: uniform(&[4, 8], 30), logits: Logits::Quantised(64.0) };
    let wishes = [
        sampled(Wish { banned: 5, ..Wish::of(1500) }, SamplingKind::Independent, 1.0),
        sampled(Wish { banned: 1, ..Wish::of(9) }, SamplingKind::Independent, 1.0),
        sampled(Wish { banned: 1, ..Wish::of(9) }, SamplingKind::Distinct, 1.0),
    ];
    check("sequences that end", &case, &wishes);
}

/// A cohort with samples has a recording of its own.
#[test]
fn cohorts_with_and_without_samples_follow_each_other() {
    let case = Case { catalog: uniform(&[16, 32, 8], 3000), logits: Logits::Quantised(64.0) };
    let mut search = Search::plan(cuda(Dtype::F32), &case, 96);
    let mut expected = Search::plan(oracle(Dtype::F32), &case, 96);
    for seed in 0..6 {
        let wish = Wish { seed, ..Wish::of(33) };
        let kind = SamplingKind::ALL[seed as usize / 2 % 2];
        let wishes =
            [if seed % 2 == 0 { sampled(wish, kind, 1.0) } else { wish }, Wish { seed: seed + 9, ..Wish::of(40) }];
        assert_equal("by turns", &search.run(&case, &wishes), &expected.run(&case, &wishes));
    }
    assert_eq!(search.device.recorded_steps(), 10);
}
