//! Head and selection together, several requests in a cohort, against brute force over each prefix alone.

use proptest::prelude::*;

use super::search::{Case, Wish, brute_force, cases, hash, trie_of, write_wishes};
use super::{cohort_plan, noise, read, sets, slot_plan, write};
use crate::device::cpu::{CpuDevice, Isa};
use crate::device::{
    Beam, Cohort, CohortLane, CohortRequest, Device, Dtype, ExpandArgs, ForceArgs, Head, HeadArgs, HeadSource,
    Normalizer, Rows, Target, Tensor, TrieId,
};
use crate::export::TensorView;

const HIDDEN: usize = 24;
const END: u32 = 1;

struct Rig {
    device: CpuDevice,
    lane: CohortLane,
    head: Head,
    trie: TrieId,
    x: Tensor,
    logits: Tensor,
    lognorm: Tensor,
    normalizer: Normalizer,
}

type Device32 = (Isa, Dtype, usize);

impl Rig {
    fn new((isa, compute, threads): Device32, case: &Case, normalizer: Normalizer, rows: usize) -> Rig {
        let mut device = CpuDevice::new(isa, compute, threads).unwrap();
        let vocabulary = 5 + case.codes.iter().map(|&codes| usize::from(codes)).sum::<usize>();
        let mut next = 4;
        let mut tokens = |&codes: &u16| {
            next += u32::from(codes);
            (next - u32::from(codes)..next).rev().collect::<Vec<u32>>()
        };
        let level_tokens = case.codes.iter().map(&mut tokens).collect();
        let matrix = TensorView::owned("head", vec![vocabulary, HIDDEN], noise(77, vocabulary * HIDDEN));
        let whole_vocabulary = normalizer == Normalizer::Vocabulary;
        let head = device.head_weight(&HeadSource { matrix: matrix.into(), level_tokens, whole_vocabulary }).unwrap();
        device.plan_slots(slot_plan(8)).unwrap();
        let widest = usize::from(*case.codes.iter().max().unwrap());
        Rig {
            lane: device.cohort_lane(cohort_plan(rows, case.codes.len() + 1)).unwrap(),
            head,
            trie: device.trie(&trie_of(&case.codes, &case.sids).catalog).unwrap(),
            x: device.buffer(rows, HIDDEN, compute).unwrap(),
            logits: device.buffer(rows, widest, Dtype::F32).unwrap(),
            lognorm: device.buffer(rows, 1, Dtype::F32).unwrap(),
            normalizer,
            device,
        }
    }

    fn head(&mut self, rows: Rows, target: Target) {
        let Rig { head, x, logits, lognorm, normalizer, .. } = *self;
        self.device.head(&HeadArgs { rows, x, head, target, normalizer, logits, lognorm }).unwrap();
    }

    /// Scores of one hidden state in a device of its own.
    fn alone(&mut self, x: &[f32], target: Target) -> (Vec<f32>, Option<f32>) {
        let request = CohortRequest { slot: 0, beams: 1, first_row: 0, ..CohortRequest::default() };
        self.device.write_cohort(self.lane, &Cohort { requests: vec![request] }).unwrap();
        write(&mut self.device, self.x, 0, x);
        self.head(Rows::Requests(self.lane), target);
        let columns = self.device.weights.heads[0].columns(target);
        let lognorm = (self.normalizer != Normalizer::Legal).then(|| read(&self.device, self.lognorm, 0)[0]);
        (read(&self.device, self.logits, 0)[..columns].to_vec(), lognorm)
    }
}

/// The hidden state that a model would have after `prefix`.
fn hidden(seed: u64, prefix: &[u16]) -> Vec<f32> {
    noise(hash(seed, prefix), HIDDEN)
}

fn search(kind: Device32, case: &Case, normalizer: Normalizer, wishes: &[Wish]) -> Vec<Vec<(Vec<u16>, f32)>> {
    let rows = wishes.iter().map(|wish| wish.gap + wish.beams).sum::<u32>() as usize;
    let mut rig = Rig::new(kind, case, normalizer, rows);
    let known = trie_of(&case.codes, &case.sids);
    let depth = case.codes.len();
    write_wishes(&mut rig.device, (rig.lane, rig.trie), (&known, case), wishes);
    let scored_end = normalizer == Normalizer::Vocabulary;
    for level in 0..depth + usize::from(scored_end) {
        for (index, wish) in wishes.iter().enumerate() {
            for row in rig.device.lanes.cohorts[0].requests[index].live_rows() {
                let node = rig.device.lanes.cohorts[0].now.node[row] as usize;
                let prefix = if level == 0 { &[][..] } else { &known.prefixes[level - 1][node] };
                write(&mut rig.device, rig.x, if level == 0 { index } else { row }, &hidden(wish.seed, prefix));
            }
        }
        let (lane, trie, head, logits, lognorm) = (rig.lane, rig.trie, rig.head, rig.logits, rig.lognorm);
        let target = if level < depth { Target::Level(level) } else { Target::Token(END) };
        rig.head(if level == 0 { Rows::Requests(lane) } else { Rows::Beams(lane) }, target);
        if level < depth {
            let lognorm = (normalizer != Normalizer::Legal).then_some(lognorm);
            rig.device.expand_select(&ExpandArgs { lane, trie, head, item: 0, level, logits, lognorm }).unwrap();
        } else {
            let scored = Some((logits.columns(0, 1), lognorm));
            rig.device.force_token(&ForceArgs { lane, token: END, step: level, scored }).unwrap();
        }
    }
    let leaf = |beam: &Beam| (known.prefixes[depth - 1][beam.leaf as usize].clone(), beam.score);
    rig.device.read_beams(rig.lane).unwrap().iter().map(|beams| beams.iter().map(leaf).collect()).collect()
}

fn check(kind: Device32, case: &Case, normalizer: Normalizer) {
    let mut alone = Rig::new(kind, case, normalizer, 1);
    let mut expected: Vec<Vec<(Vec<u16>, f32)>> = Vec::new();
    for wish in &case.wishes {
        let scores = std::cell::RefCell::new(&mut alone);
        let mut beams = brute_force(case, wish, |prefix| {
            scores.borrow_mut().alone(&hidden(wish.seed, prefix), Target::Level(prefix.len()))
        });
        if normalizer == Normalizer::Vocabulary {
            for (sid, score) in &mut beams {
                let (logit, lognorm) = alone.alone(&hidden(wish.seed, sid), Target::Token(END));
                *score += logit[0] - lognorm.unwrap();
            }
            // Stable: equal scores stay in the order of their ranks.
            beams.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap());
        }
        expected.push(beams);
    }
    assert_eq!(search(kind, case, normalizer, &case.wishes), expected, "{kind:?}");
    let last = case.wishes.len() - 1;
    assert_eq!(search(kind, case, normalizer, &case.wishes[last..])[0], expected[last], "{kind:?}, alone");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn head_and_selection_equal_brute_force(case in cases(), threads in 1usize..3, bf16: bool) {
        let compute = if bf16 { Dtype::Bf16 } else { Dtype::F32 };
        for isa in sets() {
            for normalizer in [Normalizer::Vocabulary, Normalizer::Level, Normalizer::Legal] {
                check((isa, compute, threads), &case, normalizer);
            }
        }
    }
}

#[test]
fn a_poisoned_request_neither_panics_nor_touches_its_neighbour() {
    let case = Case {
        codes: vec![4, 4],
        sids: (0..16).map(|sid| vec![sid / 4, sid % 4]).collect(),
        wishes: vec![Wish { beams: 3, gap: 0, banned: Vec::new(), allowed: None, seed: 4 }; 2],
        quantum: 1,
    };
    let mut rig = Rig::new((Isa::Scalar, Dtype::F32, 1), &case, Normalizer::Level, 6);
    let known = trie_of(&case.codes, &case.sids);
    write_wishes(&mut rig.device, (rig.lane, rig.trie), (&known, &case), &case.wishes);
    for level in 0..2 {
        for row in 0..6 {
            let poisoned = row < if level == 0 { 1 } else { 3 };
            let x = if poisoned { vec![f32::NAN; HIDDEN] } else { noise(row as u64, HIDDEN) };
            write(&mut rig.device, rig.x, row, &x);
        }
        let (lane, trie, head, logits, lognorm) = (rig.lane, rig.trie, rig.head, rig.logits, rig.lognorm);
        rig.head(if level == 0 { Rows::Requests(lane) } else { Rows::Beams(lane) }, Target::Level(level));
        rig.device
            .expand_select(&ExpandArgs { lane, trie, head, item: 0, level, logits, lognorm: Some(lognorm) })
            .unwrap();
    }
    let beams = rig.device.read_beams(rig.lane).unwrap();
    // All of the poisoned request's scores are negative infinity, so ranks and codes alone decide.
    let expected: Vec<Beam> = (0..3).map(|leaf| Beam { leaf, score: f32::NEG_INFINITY, ..Beam::default() }).collect();
    assert_eq!(beams[0], expected);
    assert!(beams[1].iter().all(|beam| beam.score.is_finite()));
}
