//! Lists of semantic IDs equal brute force: no semantic ID twice, nothing lost that could still be had.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::search::{
    Case, Wish, case, cases, cohort_of, head_of, legal_lognorm, logits_of, lognorm_of, trie_of, wish, write_masks,
};
use super::{cohort_plan, sets, slot_plan, write};
use crate::device::cpu::{CpuDevice, Isa};
use crate::device::{CohortPlan, Device, Dtype, ExpandArgs, ListPlan, Normalizer};

/// A list of semantic IDs, one behind the other.
type List = Vec<u16>;

/// Logits of the next level of a beam: a function of all its tokens.
fn logits_after(case: &Case, seed: u64, tokens: &[u16]) -> Vec<f32> {
    let whole = tokens.len() / case.codes.len() * case.codes.len();
    let seed = tokens[..whole].iter().fold(seed, |seed, &token| seed.wrapping_mul(31).wrapping_add(u64::from(token)));
    logits_of(case, seed, &tokens[whole..])
}

/// What `wish` may still be given behind `tokens`: what is allowed and not in the list.
fn left(case: &Case, wish: &Wish, tokens: &[u16]) -> BTreeSet<Vec<u16>> {
    let levels = case.codes.len();
    let has = |sid: &Vec<u16>| tokens.chunks_exact(levels).any(|other| other == &sid[..]);
    let allowed = wish.allowed.as_ref().unwrap_or(&case.sids);
    allowed.iter().filter(|sid| !wish.banned.contains(sid) && !has(sid)).cloned().collect()
}

/// The search as its definition says it: every child of every beam from which the list can be gone on with, sorted.
fn brute_force(case: &Case, wish: &Wish, items: usize, normalizer: Normalizer) -> Vec<(List, f32)> {
    let levels = case.codes.len();
    let mut beams: Vec<(List, f32)> = vec![(Vec::new(), 0.0)];
    for step in 0..items * levels {
        let mut children = Vec::new();
        for (rank, (tokens, score)) in beams.iter().enumerate() {
            let (left, prefix) = (left(case, wish, tokens), &tokens[step / levels * levels..]);
            let logits = logits_after(case, wish.seed, tokens);
            let lognorm = match normalizer {
                Normalizer::Legal => legal_lognorm(case, &left, prefix, &logits),
                _ => lognorm_of(&logits),
            };
            for (code, logit) in (0..).zip(&logits) {
                let child = [prefix, &[code]].concat();
                if left.range(child.clone()..).next().is_some_and(|sid| sid.starts_with(&child)) {
                    children.push((score + (logit - lognorm), rank, [&tokens[..], &[code]].concat()));
                }
            }
        }
        children.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap().then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
        children.truncate(wish.beams as usize);
        beams = children.into_iter().map(|(score, _, tokens)| (tokens, score)).collect();
    }
    beams
}

/// Runs the selection with given logits, following each beam's tokens by its parents alone.
fn select(
    (isa, threads): (Isa, usize),
    case: &Case,
    (items, most): (usize, usize),
    (normalizer, wishes): (Normalizer, &[Wish]),
) -> Vec<Vec<(List, f32)>> {
    let (trie, levels) = (trie_of(&case.codes, &case.sids), case.codes.len());
    let mut device = CpuDevice::new(isa, Dtype::F32, threads).unwrap();
    let rows = wishes.iter().map(|wish| wish.gap + wish.beams).sum::<u32>() as usize;
    let widest = usize::from(*case.codes.iter().max().unwrap());
    let logits = device.buffer(rows, widest, Dtype::F32).unwrap();
    let lognorm = device.buffer(rows, 1, Dtype::F32).unwrap();
    device.plan_slots(slot_plan(wishes.len())).unwrap();
    let lists = Some(ListPlan { items: most, levels });
    let lane = device.cohort_lane(CohortPlan { lists, ..cohort_plan(rows, most * levels) }).unwrap();
    let head = head_of(&mut device, &case.codes);
    let handle = device.trie(&trie.catalog).unwrap();
    write_masks(&mut device, handle, &trie, wishes);
    let mut cohort = cohort_of(&trie, case, wishes);
    cohort.requests.iter_mut().for_each(|request| request.list = items as u32);
    device.write_cohort(lane, &cohort).unwrap();
    let mut tokens: Vec<List> = vec![Vec::new(); rows];
    for step in 0..items * levels {
        for (index, wish) in wishes.iter().enumerate() {
            for row in device.lanes.cohorts[0].requests[index].live_rows() {
                let values = logits_after(case, wish.seed, &tokens[row]);
                let at = if step == 0 { index } else { row };
                write(&mut device, logits, at, &values);
                write(&mut device, lognorm, at, &[lognorm_of(&values)]);
            }
        }
        let (item, level) = (step / levels, step % levels);
        let lognorm = (normalizer == Normalizer::Level).then_some(lognorm);
        device.expand_select(&ExpandArgs { lane, trie: handle, head, item, level, logits, lognorm }).unwrap();
        let cohort = &device.lanes.cohorts[0];
        let before = tokens.clone();
        for row in cohort.requests.iter().flat_map(|request| request.live_rows()) {
            let code = trie.catalog.level_codes(level)[cohort.now.node[row] as usize];
            tokens[row] = [&before[cohort.now.parent[row] as usize][..], &[code]].concat();
        }
    }
    let beams = device.read_beams(lane).unwrap();
    let sid = |leaf: u32| trie.prefixes[levels - 1][leaf as usize].clone();
    let found = beams.iter().zip(&cohort.requests).map(|(beams, request)| {
        let list = |(beam, row): (&crate::device::Beam, u32)| {
            let list: List = beam.earlier.iter().chain([&beam.leaf]).flat_map(|&leaf| sid(leaf)).collect();
            assert_eq!(list, tokens[row as usize], "the list that is read is the one that was searched");
            (list, beam.score)
        };
        beams.iter().zip(request.first_row..).map(list).collect()
    });
    found.collect()
}

/// Both normalisers against brute force, in one batch, alone, and in a lane that has room for more.
fn check(case: &Case, items: usize) {
    for normalizer in [Normalizer::Level, Normalizer::Legal] {
        let expected: Vec<_> = case.wishes.iter().map(|wish| brute_force(case, wish, items, normalizer)).collect();
        for (list, _) in expected.iter().flatten() {
            let distinct: BTreeSet<&[u16]> = list.chunks_exact(case.codes.len()).collect();
            assert_eq!(distinct.len(), items, "the oracle itself repeats nothing");
        }
        for run in [(Isa::Scalar, 1), (sets().last().unwrap(), 2)] {
            let found = select(run, case, (items, items), (normalizer, &case.wishes));
            assert_eq!(found, expected, "{run:?} {normalizer:?}");
            let alone = select(run, case, (items, items + 2), (normalizer, &case.wishes[..1]));
            assert_eq!(alone[0], expected[0], "{run:?} {normalizer:?}, alone");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn lists_equal_brute_force(case in cases(), items in 1usize..5) {
        check(&case, items);
    }
}

/// All lists of `items` different ones of `sids`.
fn arrangements(sids: &[Vec<u16>], items: usize) -> Vec<List> {
    if items == 0 {
        return vec![Vec::new()];
    }
    let ends = |list: &List| {
        let has = |sid: &Vec<u16>| list.chunks_exact(sid.len()).any(|other| other == &sid[..]);
        sids.iter().filter(|sid| !has(sid)).map(|sid| [&list[..], sid].concat()).collect::<Vec<_>>()
    };
    arrangements(sids, items - 1).iter().flat_map(ends).collect()
}

#[test]
fn a_beam_as_wide_as_there_are_lists_finds_all_of_them() {
    // Below code 0 of the first level is one leaf, below 1 two, below 2 two that share a second code.
    let sids = [[0, 1, 0], [1, 0, 0], [1, 1, 1], [2, 0, 0], [2, 0, 1]].map(Vec::from);
    let wishes = vec![wish(120, vec![], 4), wish(120, vec![sids[1].clone()], 5)];
    let case = case(&[3, 2, 2], sids.clone(), wishes, 1024);
    for items in 1..=5 {
        check(&case, items);
        for (wish, allowed) in case.wishes.iter().zip([5usize, 4]) {
            let found = select((Isa::Scalar, 1), &case, (items, 5), (Normalizer::Legal, std::slice::from_ref(wish)));
            let found: BTreeSet<List> = found[0].iter().map(|(list, _)| list.clone()).collect();
            let left: Vec<_> = sids.iter().filter(|sid| !wish.banned.contains(sid)).cloned().collect();
            let every = arrangements(&left, items);
            assert_eq!(every.len(), (0..items).map(|taken| allowed.saturating_sub(taken)).product::<usize>());
            assert_eq!(found, every.into_iter().collect(), "{items} of {allowed}");
        }
    }
}

#[test]
fn a_catalogue_that_runs_out_gives_no_list_and_its_neighbour_gets_its_own() {
    let sids: Vec<Vec<u16>> = (0..6).map(|code| vec![code / 2, code]).collect();
    let only = |allowed: &[Vec<u16>]| Some(allowed.iter().cloned().collect());
    let wishes = vec![
        Wish { allowed: only(&sids[..2]), ..wish(8, vec![], 1) },
        wish(8, vec![], 2),
        // Three are left of its view: exactly enough.
        Wish { allowed: only(&sids[1..5]), ..wish(8, vec![sids[2].clone()], 3) },
        wish(8, sids.clone(), 4),
    ];
    let case = case(&[3, 6], sids, wishes, 64);
    check(&case, 3);
    let found = select((Isa::Scalar, 1), &case, (3, 3), (Normalizer::Level, &case.wishes));
    let counts: Vec<usize> = found.iter().map(Vec::len).collect();
    assert_eq!(counts, [0, 8, 6, 0], "two leaves are no list of three; three are six lists");
}

#[test]
fn lists_of_two_lengths_or_longer_than_planned_are_refused() {
    let mut device = CpuDevice::new(Isa::Scalar, Dtype::F32, 1).unwrap();
    device.plan_slots(slot_plan(2)).unwrap();
    let plan = |items| CohortPlan { lists: Some(ListPlan { items, levels: 2 }), ..cohort_plan(8, 6) };
    assert!(device.cohort_lane(plan(0)).is_err() && device.cohort_lane(plan(33)).is_err());
    let lane = device.cohort_lane(plan(3)).unwrap();
    let trie = trie_of(&[1, 1], &BTreeSet::from([vec![0, 0]]));
    let case = case(&[1, 1], [vec![0, 0]], vec![], 1);
    let cohort = |lists: [u32; 2]| {
        let mut cohort = cohort_of(&trie, &case, &[wish(1, vec![], 1), wish(1, vec![], 1)]);
        cohort.requests.iter_mut().zip(lists).for_each(|(request, list)| request.list = list);
        cohort
    };
    assert!(device.write_cohort(lane, &cohort([3, 3])).is_ok());
    // 0 and 1 are the same.
    assert!(device.write_cohort(lane, &cohort([0, 1])).is_ok());
    for (lists, told) in
        [([3, 2], "a list of 2 beside one of 3"), ([4, 4], "a list of 4 beside one of 4 in a lane of 3")]
    {
        let error = device.write_cohort(lane, &cohort(lists)).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}
