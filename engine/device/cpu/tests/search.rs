//! Head and selection together equal brute force, on tries that try to break them.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::{cohort_plan, sets, slot_plan, write};
use crate::catalog::{Catalog, CatalogBuilder, NewItem, NodeMask};
use crate::device::cpu::legal::Legal;
use crate::device::cpu::masked::Masked;
use crate::device::cpu::{CpuDevice, Isa};
use crate::device::{
    Beam, Cohort, CohortLane, CohortRequest, Device, Dtype, ExpandArgs, Head, HeadSource, Normalizer, TrieId,
};
use crate::export::TensorView;

/// A set of semantic IDs as a catalogue.
pub(super) struct Trie {
    pub(super) catalog: Arc<Catalog>,
    /// Prefix of each node of each level.
    pub(super) prefixes: Vec<Vec<Vec<u16>>>,
}

pub(super) fn trie_of(codes: &[u16], sids: &BTreeSet<Vec<u16>>) -> Trie {
    let codes: Vec<u32> = codes.iter().map(|&codes| u32::from(codes)).collect();
    let mut builder = CatalogBuilder::new(&codes).unwrap();
    for (id, sid) in (0..).zip(sids) {
        builder.add(NewItem { id, sid, ..NewItem::default() }).unwrap();
    }
    let of_length = |len| sids.iter().map(|sid| sid[..len].to_vec()).collect::<BTreeSet<_>>().into_iter().collect();
    let prefixes = (1..=codes.len()).map(of_length).collect();
    Trie { catalog: Arc::new(builder.finish().unwrap()), prefixes }
}

/// One request of a case.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) beams: u32,
    /// Rows left unused before the request's own.
    pub(super) gap: u32,
    pub(super) banned: Vec<Vec<u16>>,
    /// What its mask allows; everything if it has none.
    pub(super) allowed: Option<BTreeSet<Vec<u16>>>,
    pub(super) seed: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) codes: Vec<u16>,
    pub(super) sids: BTreeSet<Vec<u16>>,
    pub(super) wishes: Vec<Wish>,
    /// Logits are multiples of 1 / this, all equal at 0: a small number makes ties.
    pub(super) quantum: u32,
}

pub(super) fn hash(seed: u64, words: &[u16]) -> u64 {
    words.iter().fold(seed ^ 0x9e37_79b9_7f4a_7c15, |state, &word| {
        let mixed = (state ^ u64::from(word)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ mixed >> 29
    })
}

/// The logits of a beam's next level: a function of its request and prefix.
pub(super) fn logits_of(case: &Case, seed: u64, prefix: &[u16]) -> Vec<f32> {
    let codes = case.codes[prefix.len()];
    let value = |code| {
        let mut words = prefix.to_vec();
        words.push(code);
        let random = hash(hash(seed, &words), &[code]) % 4096;
        let spread = random as f32 / 4096.0 * 6.0 - 3.0;
        if case.quantum == 0 { 0.0 } else { (spread * case.quantum as f32).round() / case.quantum as f32 }
    };
    (0..codes).map(value).collect()
}

pub(super) fn lognorm_of(logits: &[f32]) -> f32 {
    logits.iter().map(|&logit| f64::from(logit).exp()).sum::<f64>().ln() as f32
}

/// The normaliser over the legal children of `prefix`, whose places are those among all its children.
pub(super) fn legal_lognorm(case: &Case, allowed: &BTreeSet<Vec<u16>>, prefix: &[u16], logits: &[f32]) -> f32 {
    let codes_in = |sids: &BTreeSet<Vec<u16>>| -> BTreeSet<u16> {
        let below = sids.range(prefix.to_vec()..).take_while(|sid| sid.starts_with(prefix));
        below.map(|sid| sid[prefix.len()]).collect()
    };
    let codes: Vec<u16> = codes_in(&case.sids).into_iter().collect();
    let legal = codes_in(allowed);
    let banned: Vec<u32> =
        (0..).zip(&codes).filter(|(_, code)| !legal.contains(code)).map(|(place, _)| place).collect();
    let mut masked = Masked::default();
    masked.gather(Legal { banned: &banned, ..Legal::default() }, 0..codes.len() as u32, (&codes, logits));
    masked.max() + masked.log_sum(1.0)
}

/// The search as its definition says it: every child of every beam, sorted.
pub(super) fn brute_force(
    case: &Case,
    wish: &Wish,
    scores: impl Fn(&[u16]) -> (Vec<f32>, Option<f32>),
) -> Vec<(Vec<u16>, f32)> {
    let allowed = wish.allowed.as_ref().unwrap_or(&case.sids);
    let allowed = allowed.iter().filter(|sid| !wish.banned.contains(sid)).cloned().collect::<BTreeSet<_>>();
    let mut beams: Vec<(Vec<u16>, f32)> = vec![(Vec::new(), 0.0)];
    for level in 0..case.codes.len() {
        let mut children = Vec::new();
        for (rank, (prefix, score)) in beams.iter().enumerate() {
            let (logits, lognorm) = scores(prefix);
            let lognorm = lognorm.unwrap_or_else(|| legal_lognorm(case, &allowed, prefix, &logits));
            for (code, logit) in logits.iter().enumerate() {
                let mut child = prefix.clone();
                child.push(code as u16);
                // The first allowed item that is not before the prefix has it, or none has.
                if allowed.range(child.clone()..).next().is_some_and(|sid| sid[..=level] == child[..]) {
                    let score = score + (logit - lognorm);
                    children.push((if score.is_nan() { f32::NEG_INFINITY } else { score }, rank, child));
                }
            }
        }
        children.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap().then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
        children.truncate(wish.beams as usize);
        beams = children.into_iter().map(|(score, _, prefix)| (prefix, score)).collect();
    }
    beams
}

/// Nodes whose every leaf is banned or outside the mask, by level.
fn banned_nodes(trie: &Trie, case: &Case, wish: &Wish) -> Vec<Vec<u32>> {
    let is_out = |sid: &Vec<u16>| wish.allowed.as_ref().is_some_and(|allowed| !allowed.contains(sid));
    let is_dead = |sid: &Vec<u16>| wish.banned.contains(sid) || is_out(sid);
    let dead = |prefix: &Vec<u16>| case.sids.iter().filter(|sid| sid.starts_with(prefix)).all(is_dead);
    let of = |level: &Vec<Vec<u16>>| (0..).zip(level).filter(|(_, p)| dead(p)).map(|(node, _)| node).collect();
    trie.prefixes.iter().map(of).collect()
}

/// Writes the wishes as a cohort, each with a mask slot of its own.
pub(super) fn write_wishes(
    device: &mut CpuDevice,
    (lane, handle): (CohortLane, TrieId),
    (trie, case): (&Trie, &Case),
    wishes: &[Wish],
) {
    write_masks(device, handle, trie, wishes);
    device.write_cohort(lane, &cohort_of(trie, case, wishes)).unwrap();
}

/// Writes what each wish allows to a mask slot of its own.
pub(super) fn write_masks(device: &mut CpuDevice, handle: TrieId, trie: &Trie, wishes: &[Wish]) {
    device.plan_masks(handle, wishes.len()).unwrap();
    for (slot, wish) in (0..).zip(wishes) {
        let leaf = |sid: &Vec<u16>| trie.catalog.leaf_of_sid(sid).unwrap();
        if let Some(allowed) = &wish.allowed {
            let mask = NodeMask::of_leaves(&trie.catalog, allowed.iter().map(leaf));
            device.write_mask(slot, &Arc::new(mask)).unwrap();
        }
    }
}

pub(super) fn cohort_of(trie: &Trie, case: &Case, wishes: &[Wish]) -> Cohort {
    let mut next = 0;
    let mut request = |(slot, wish): (u32, &Wish)| {
        let first_row = next + wish.gap;
        next = first_row + wish.beams;
        CohortRequest {
            slot,
            beams: wish.beams,
            first_row,
            banned_nodes: banned_nodes(trie, case, wish),
            mask: wish.allowed.is_some().then_some(slot),
            ..CohortRequest::default()
        }
    };
    Cohort { requests: (0..).zip(wishes).map(&mut request).collect() }
}

/// An identity-free head that only names the tokens of each code.
pub(super) fn head_of(device: &mut CpuDevice, codes: &[u16]) -> Head {
    let mut first = 3;
    let level_tokens: Vec<Vec<u32>> = codes
        .iter()
        .map(|&codes| {
            first += u32::from(codes);
            (first - u32::from(codes)..first).rev().collect()
        })
        .collect();
    let matrix = TensorView::owned("head", vec![first as usize, 1], vec![0.0; first as usize]);
    device.head_weight(&HeadSource { matrix: matrix.into(), level_tokens, whole_vocabulary: false }).unwrap()
}

/// Runs the selection with given logits and checks the beam state on the way.
fn select(
    isa: Isa,
    threads: usize,
    case: &Case,
    (normalizer, wishes): (Normalizer, &[Wish]),
) -> Vec<Vec<(Vec<u16>, f32)>> {
    let trie = trie_of(&case.codes, &case.sids);
    let mut device = CpuDevice::new(isa, Dtype::F32, threads).unwrap();
    let rows = wishes.iter().map(|wish| wish.gap + wish.beams).sum::<u32>() as usize;
    let widest = usize::from(*case.codes.iter().max().unwrap());
    let logits = device.buffer(rows, widest + 1, Dtype::F32).unwrap().columns(1, widest);
    let lognorm = device.buffer(rows, 1, Dtype::F32).unwrap();
    device.plan_slots(slot_plan(wishes.len())).unwrap();
    let lane = device.cohort_lane(cohort_plan(rows, case.codes.len())).unwrap();
    let head = head_of(&mut device, &case.codes);
    let handle = device.trie(&trie.catalog).unwrap();
    write_wishes(&mut device, (lane, handle), (&trie, case), wishes);
    for level in 0..case.codes.len() {
        let before = device.lanes.cohorts[0].now.ancestors.clone();
        for (index, wish) in wishes.iter().enumerate() {
            let request = device.lanes.cohorts[0].requests[index];
            for row in request.live_rows() {
                let node = device.lanes.cohorts[0].now.node[row] as usize;
                let prefix = if level == 0 { &[][..] } else { &trie.prefixes[level - 1][node] };
                let values = logits_of(case, wish.seed, prefix);
                let at = if level == 0 { index } else { row };
                write(&mut device, logits, at, &values);
                write(&mut device, lognorm, at, &[lognorm_of(&values)]);
            }
        }
        let lognorm = (normalizer == Normalizer::Level).then_some(lognorm);
        device.expand_select(&ExpandArgs { lane, trie: handle, head, item: 0, level, logits, lognorm }).unwrap();
        let cohort = &device.lanes.cohorts[0];
        for request in &cohort.requests {
            for row in request.live_rows() {
                let (node, parent) = (cohort.now.node[row] as usize, cohort.now.parent[row] as usize);
                let code = trie.catalog.level_codes(level)[node];
                let tokens = &device.weights.heads[0].level_tokens[level];
                assert_eq!(cohort.now.token[row], tokens[usize::from(code)]);
                let ancestors = &cohort.now.ancestors[row * cohort.steps..][..=level];
                assert_eq!(ancestors[level] as usize, row);
                assert_eq!(ancestors[..level], before[parent * cohort.steps..][..level]);
                assert!(request.rows().contains(&parent));
            }
        }
    }
    let leaf = |beam: &Beam| (trie.prefixes[case.codes.len() - 1][beam.leaf as usize].clone(), beam.score);
    device.read_beams(lane).unwrap().iter().map(|beams| beams.iter().map(leaf).collect()).collect()
}

/// Both normalisers, each against brute force.
fn check(case: &Case) {
    for normalizer in [Normalizer::Level, Normalizer::Legal] {
        let list = |wish: &Wish| {
            brute_force(case, wish, |prefix| {
                let logits = logits_of(case, wish.seed, prefix);
                let lognorm = (normalizer == Normalizer::Level).then(|| lognorm_of(&logits));
                (logits, lognorm)
            })
        };
        let expected: Vec<_> = case.wishes.iter().map(list).collect();
        for (isa, threads) in [(Isa::Scalar, 1), (sets().last().unwrap(), 2)] {
            assert_eq!(select(isa, threads, case, (normalizer, &case.wishes)), expected, "{isa:?} {normalizer:?}");
            let alone = select(isa, threads, case, (normalizer, &case.wishes[..1]));
            assert_eq!(alone[0], expected[0], "{isa:?} {normalizer:?}, alone");
        }
    }
}

pub(super) fn cases() -> impl Strategy<Value = Case> {
    let codes = proptest::collection::vec(prop_oneof![1u16..4, 4u16..40], 2..5);
    let shape = (codes, 1usize..120, prop_oneof![Just(1u32), Just(4), Just(1024)], any::<u64>());
    let wish = (prop_oneof![1u32..4, 4u32..40], 0u32..3, (0.0f64..1.1, 0.0f64..2.0), any::<u64>());
    (shape, proptest::collection::vec(wish, 1..4)).prop_map(|((codes, items, quantum, seed), wishes)| {
        let sid = |item: u64| {
            let code = |(level, &codes): (usize, &u16)| {
                let random = hash(seed ^ item << 8, &[level as u16]) % 1000;
                // Squaring twice makes low codes much more frequent: skewed tries with wide nodes.
                ((random as f64 / 1000.0).powi(4) * f64::from(codes)) as u16
            };
            codes.iter().enumerate().map(code).collect::<Vec<u16>>()
        };
        let sids: BTreeSet<Vec<u16>> = (0..items as u64).map(sid).collect();
        let wishes = wishes
            .into_iter()
            .map(|(beams, gap, (share, part), seed)| {
                let banned = |sid: &&Vec<u16>| (hash(seed, sid) % 1000) as f64 / 1000.0 < share - 0.1;
                let inside = |sid: &&Vec<u16>| (hash(seed ^ 1, sid) % 1000) as f64 / 1000.0 < part - 0.1;
                let allowed = (part < 1.0).then(|| sids.iter().filter(inside).cloned().collect());
                Wish { beams, gap, banned: sids.iter().filter(banned).cloned().collect(), allowed, seed }
            })
            .collect();
        Case { codes, sids, wishes, quantum }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn selection_equals_brute_force(case in cases()) {
        check(&case);
    }
}

pub(super) fn case(codes: &[u16], sids: impl IntoIterator<Item = Vec<u16>>, wishes: Vec<Wish>, quantum: u32) -> Case {
    Case { codes: codes.to_vec(), sids: sids.into_iter().collect(), wishes, quantum }
}

pub(super) fn wish(beams: u32, banned: Vec<Vec<u16>>, seed: u64) -> Wish {
    Wish { beams, gap: 0, banned, allowed: None, seed }
}

#[test]
fn one_item_and_more_beams_than_items() {
    check(&case(&[4, 4, 4], [vec![3, 0, 2]], vec![wish(8, vec![], 1)], 1024));
    let sids = (0..5).map(|code| vec![code, 4 - code, 0]);
    check(&case(&[5, 5, 5], sids, vec![wish(64, vec![], 2), wish(1, vec![], 3)], 1024));
}

#[test]
fn ties_go_to_the_better_parent_and_then_the_smaller_code() {
    // One possible logit: every child of every beam ties with all others.
    let sids = (0..6).flat_map(|a| (0..6).map(move |b| vec![a, b, (a + b) % 6]));
    let mut case = case(&[6, 6, 6], sids, vec![wish(4, vec![], 7), wish(20, vec![], 8)], 1);
    case.quantum = 0;
    check(&case);
}

#[test]
fn a_request_with_everything_banned_dies_and_its_neighbours_live() {
    let sids: Vec<Vec<u16>> = (0..9).map(|code| vec![code / 3, code]).collect();
    let wishes = vec![wish(4, sids.clone(), 1), wish(4, vec![], 2), wish(4, sids[1..].to_vec(), 3)];
    check(&case(&[3, 9], sids, wishes, 4));
}

#[test]
fn masks_that_allow_nothing_one_leaf_and_everything() {
    let sids: Vec<Vec<u16>> = (0..120).map(|code| vec![code / 60, code / 4 % 15, code % 4]).collect();
    let only = |allowed: &[Vec<u16>]| Some(allowed.iter().cloned().collect());
    let wishes = vec![
        Wish { allowed: only(&[]), ..wish(4, vec![], 1) },
        Wish { allowed: only(&sids[77..78]), ..wish(9, vec![], 2) },
        Wish { allowed: only(&sids), ..wish(9, vec![], 3) },
        // All that is allowed is banned.
        Wish { allowed: only(&sids[40..44]), ..wish(9, sids[40..44].to_vec(), 4) },
        wish(9, vec![], 5),
    ];
    check(&case(&[2, 15, 4], sids, wishes, 64));
}

#[test]
fn wide_nodes_below_poor_beams() {
    // Every first code has all 3,000 children: the candidates are many times the beams, and most beams cannot matter.
    let sids = (0..40).flat_map(|a| (0..300).map(move |b| vec![a, b * 10]));
    for quantum in [1, 64] {
        check(&case(&[40, 3000], sids.clone(), vec![wish(33, vec![vec![0, 0]], 5)], quantum));
    }
}
