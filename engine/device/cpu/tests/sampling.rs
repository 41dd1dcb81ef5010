//! Samples against exact distributions, by enumeration: independent sequences, and distinct ones without replacement. Seeds
//! are fixed, so that a test that passes passes always; bounds are such that a right sampler fails one in 10,000 sets of
//! seeds or fewer.

use std::collections::BTreeMap;

use super::search::{Case, Trie, logits_of, trie_of};
use super::{cohort_plan, slot_plan, write};
use crate::device::cpu::{CpuDevice, Isa};
use crate::device::{
    Beam, Cohort, CohortLane, CohortRequest, Device, Dtype, ExpandArgs, Head, HeadSource, Tensor, TrieId,
};
use crate::export::TensorView;
use crate::sampling::{Sampling, SamplingKind};

/// A small trie of uneven shape: nine semantic IDs, of which one is banned, over three levels.
fn case() -> Case {
    let sids = [[0, 0, 0], [0, 0, 2], [0, 1, 1], [1, 0, 0], [1, 2, 0], [1, 2, 1], [1, 2, 3], [2, 1, 2], [3, 3, 3]];
    Case { codes: vec![4, 4, 4], sids: sids.into_iter().map(Vec::from).collect(), wishes: Vec::new(), quantum: 1024 }
}

const BANNED: [u16; 3] = [1, 2, 1];
const SEED_OF_LOGITS: u64 = 5;

/// Logits of a prefix, less spread out than a search's, so that nothing is too rare to count.
fn logits(case: &Case, prefix: &[u16]) -> Vec<f32> {
    logits_of(case, SEED_OF_LOGITS, prefix).iter().map(|x| x * 0.4).collect()
}

struct Rig {
    device: CpuDevice,
    lane: CohortLane,
    trie: Trie,
    handle: TrieId,
    head: Head,
    logits: Tensor,
    lognorm: Tensor,
    case: Case,
}

/// The head's normaliser in these tests, which raw log-probabilities subtract: any number would do.
const LOGNORM: f32 = 1.5;

impl Rig {
    fn new(rows: usize) -> Rig {
        let case = case();
        let mut device = CpuDevice::new(Isa::Scalar, Dtype::F32, 1).unwrap();
        let trie = trie_of(&case.codes, &case.sids);
        let level_tokens = (0..3).map(|level| (level * 4..level * 4 + 4).collect()).collect();
        let matrix = TensorView::owned("head", vec![12, 1], vec![0.0; 12]).into();
        let head = device.head_weight(&HeadSource { matrix, level_tokens, whole_vocabulary: false }).unwrap();
        device.plan_slots(slot_plan(4)).unwrap();
        Rig {
            lane: device.cohort_lane(cohort_plan(rows, 3)).unwrap(),
            handle: device.trie(&trie.catalog).unwrap(),
            logits: device.buffer(rows, 4, Dtype::F32).unwrap(),
            lognorm: device.buffer(rows, 1, Dtype::F32).unwrap(),
            trie,
            head,
            case,
            device,
        }
    }

    fn request(&self, beams: u32, first_row: u32, sampling: Option<Sampling>) -> CohortRequest {
        let banned_nodes = (0..3)
            .map(|level| {
                let nodes = (0..).zip(&self.trie.prefixes[level]);
                let alive =
                    |prefix: &[u16]| self.case.sids.iter().any(|sid| sid.starts_with(prefix) && sid[..] != BANNED);
                nodes.filter(|(_, prefix)| !alive(prefix)).map(|(node, _)| node).collect()
            })
            .collect();
        CohortRequest { beams, first_row, banned_nodes, sampling, log_probs: true, ..CohortRequest::default() }
    }

    fn run(&mut self, requests: Vec<CohortRequest>) -> Vec<Vec<Beam>> {
        self.device.write_cohort(self.lane, &Cohort { requests }).unwrap();
        for level in 0..3 {
            let cohort = &self.device.lanes.cohorts[0];
            let mut rows = Vec::new();
            for (index, request) in cohort.requests.iter().enumerate() {
                for row in request.live_rows() {
                    let node = cohort.now.node[row] as usize;
                    let prefix = if level == 0 { &[][..] } else { &self.trie.prefixes[level - 1][node] };
                    rows.push((if level == 0 { index } else { row }, logits(&self.case, prefix)));
                }
            }
            for (row, values) in rows {
                write(&mut self.device, self.logits, row, &values);
                write(&mut self.device, self.lognorm, row, &[LOGNORM]);
            }
            let Rig { lane, handle: trie, head, logits, lognorm, .. } = *self;
            let lognorm = Some(lognorm);
            self.device.expand_select(&ExpandArgs { lane, trie, head, item: 0, level, logits, lognorm }).unwrap();
        }
        self.device.read_beams(self.lane).unwrap()
    }

    fn sid(&self, beam: &Beam) -> Vec<u16> {
        self.trie.prefixes[2][beam.leaf as usize].clone()
    }
}

/// Exact log-probability of each level of every allowed semantic ID at a temperature.
fn exact(temperature: f64) -> BTreeMap<Vec<u16>, [f64; 3]> {
    let case = case();
    let allowed: Vec<&Vec<u16>> = case.sids.iter().filter(|sid| sid[..] != BANNED).collect();
    let level = |sid: &[u16], level: usize| {
        let values = logits(&case, &sid[..level]);
        let value = |code: u16| f64::from(values[usize::from(code)]) / temperature;
        let mut legal: Vec<u16> =
            allowed.iter().filter(|other| other[..level] == sid[..level]).map(|other| other[level]).collect();
        legal.dedup(); // `allowed` is sorted
        value(sid[level]) - legal.iter().map(|&code| value(code).exp()).sum::<f64>().ln()
    };
    allowed.iter().map(|sid| ((*sid).clone(), [0, 1, 2].map(|at| level(sid, at)))).collect()
}

fn probabilities(temperature: f64) -> BTreeMap<Vec<u16>, f64> {
    exact(temperature).into_iter().map(|(sid, levels)| (sid, levels.iter().sum::<f64>().exp())).collect()
}

fn sampling(kind: SamplingKind, seed: u64, temperature: f32) -> Sampling {
    Sampling { kind, seed, temperature }
}

/// Pearson's statistic of counts against expected counts.
fn chi_square<K: Ord>(counts: &BTreeMap<K, u32>, expected: &BTreeMap<K, f64>) -> f64 {
    assert!(counts.keys().all(|key| expected.contains_key(key)), "something impossible was drawn");
    assert!(expected.values().all(|&expected| expected >= 5.0), "a cell is too rare to count");
    let count = |key: &K| f64::from(counts.get(key).copied().unwrap_or_default());
    expected.iter().map(|(key, expected)| (count(key) - expected).powi(2) / expected).sum()
}

/// The value that chi-square of `freedom` exceeds once in 10,000 times (Wilson and Hilferty 1931).
fn chi_square_bound(freedom: usize) -> f64 {
    let k = freedom as f64;
    k * (1.0 - 2.0 / (9.0 * k) + 3.719 * (2.0 / (9.0 * k)).sqrt()).powi(3)
}

#[test]
fn the_exact_distributions_are_ones() {
    for temperature in [0.5, 1.0, 3.0] {
        assert!((probabilities(temperature).values().sum::<f64>() - 1.0).abs() < 1e-12);
    }
    assert_eq!(probabilities(1.0).len(), 8);
}

#[test]
fn independent_sequences_follow_the_tempered_distribution_over_legal_children() {
    const SEQUENCES: u32 = 200;
    for temperature in [0.5f32, 1.0, 3.0] {
        let mut rig = Rig::new(SEQUENCES as usize);
        let exact = probabilities(f64::from(temperature));
        let mut counts = BTreeMap::new();
        let runs = 100;
        for seed in 0..runs {
            let request = rig.request(SEQUENCES, 0, Some(sampling(SamplingKind::Independent, seed, temperature)));
            let beams = rig.run(vec![request]).remove(0);
            assert_eq!(beams.len(), SEQUENCES as usize);
            for beam in &beams {
                *counts.entry(rig.sid(beam)).or_default() += 1;
            }
        }
        let draws = f64::from(SEQUENCES) * runs as f64;
        let expected = exact.iter().map(|(sid, p)| (sid.clone(), p * draws)).collect();
        let statistic = chi_square(&counts, &expected);
        assert!(statistic < chi_square_bound(7), "temperature {temperature}: chi-square {statistic}, {counts:?}");
    }
}

/// Neighbouring sequences of one request are pairs of independent draws.
#[test]
fn sequences_of_one_request_do_not_depend_on_each_other() {
    let mut rig = Rig::new(2);
    let exact = probabilities(1.0);
    let mut counts = BTreeMap::new();
    let runs = 30_000;
    for seed in 0..runs {
        let request = rig.request(2, 0, Some(sampling(SamplingKind::Independent, 1 << 33 | seed, 1.0)));
        let beams = rig.run(vec![request]).remove(0);
        *counts.entry([rig.sid(&beams[0]), rig.sid(&beams[1])]).or_default() += 1;
    }
    let pair = |a: (&Vec<u16>, &f64), b: (&Vec<u16>, &f64)| ([a.0.clone(), b.0.clone()], a.1 * b.1 * runs as f64);
    let expected: BTreeMap<_, f64> = exact.iter().flat_map(|a| exact.iter().map(move |b| pair(a, b))).collect();
    let statistic = chi_square(&counts, &expected);
    assert!(statistic < chi_square_bound(63), "chi-square {statistic}");
}

/// Ordered samples of two: the second is drawn from what the first left, renormalised (Plackett and Luce).
#[test]
fn distinct_samples_are_sequential_draws_without_replacement() {
    for temperature in [1.0f32, 2.0] {
        let mut rig = Rig::new(2);
        let exact = probabilities(f64::from(temperature));
        let mut counts = BTreeMap::new();
        let runs = 40_000;
        for seed in 0..runs {
            let request = rig.request(2, 0, Some(sampling(SamplingKind::Distinct, seed, temperature)));
            let beams = rig.run(vec![request]).remove(0);
            *counts.entry([rig.sid(&beams[0]), rig.sid(&beams[1])]).or_default() += 1;
        }
        let mut expected = BTreeMap::new();
        for (first, p) in &exact {
            for (second, q) in exact.iter().filter(|(second, _)| *second != first) {
                expected.insert([first.clone(), second.clone()], p * q / (1.0 - p) * runs as f64);
            }
        }
        let statistic = chi_square(&counts, &expected);
        assert!(statistic < chi_square_bound(55), "temperature {temperature}: chi-square {statistic}");
    }
}

/// Probability that a semantic ID is among `k` distinct samples, over all ordered samples.
fn inclusion(exact: &BTreeMap<Vec<u16>, f64>, k: usize) -> BTreeMap<Vec<u16>, f64> {
    fn extend(exact: &[(Vec<u16>, f64)], taken: &mut Vec<usize>, (p, left): (f64, f64), k: usize, out: &mut [f64]) {
        if taken.len() == k {
            taken.iter().for_each(|&at| out[at] += p);
            return;
        }
        for at in 0..exact.len() {
            if !taken.contains(&at) {
                taken.push(at);
                extend(exact, taken, (p * exact[at].1 / left, left - exact[at].1), k, out);
                taken.pop();
            }
        }
    }
    let list: Vec<(Vec<u16>, f64)> = exact.iter().map(|(sid, p)| (sid.clone(), *p)).collect();
    let mut out = vec![0.0; list.len()];
    extend(&list, &mut Vec::new(), (1.0, 1.0), k, &mut out);
    list.into_iter().zip(out).map(|((sid, _), p)| (sid, p)).collect()
}

#[test]
fn inclusion_probabilities_and_the_importance_weighted_estimate_are_exact() {
    const SAMPLES: u32 = 4;
    let mut rig = Rig::new(SAMPLES as usize);
    let (exact_levels, exact) = (exact(1.0), probabilities(1.0));
    let included = inclusion(&exact, SAMPLES as usize);
    assert!((included.values().sum::<f64>() - f64::from(SAMPLES)).abs() < 1e-9);
    // Any function of a semantic ID would do.
    let f = |sid: &[u16]| f64::from(sid[0]) * 2.0 - f64::from(sid[1]) + f64::from(sid[2] * sid[2]);
    let wanted: f64 = exact.iter().map(|(sid, p)| p * f(sid)).sum();
    let runs = 20_000;
    let (mut counts, mut sum, mut squares) = (BTreeMap::<Vec<u16>, u32>::new(), 0.0, 0.0);
    for seed in 0..runs {
        let request = rig.request(SAMPLES, 0, Some(sampling(SamplingKind::Distinct, 77 << 32 | seed, 1.0)));
        let beams = rig.run(vec![request]).remove(0);
        let keys: Vec<f64> = beams.iter().map(|beam| f64::from(beam.key.unwrap())).collect();
        assert!(keys.is_sorted_by(|a, b| a >= b));
        // Kool et al., section 4: the last key is the threshold, those above it are weighted by p / P(key above it).
        let threshold = keys[SAMPLES as usize - 1];
        let mut estimate = 0.0;
        for (rank, beam) in beams.iter().enumerate() {
            let sid = rig.sid(beam);
            let p: f64 = beam.log_probs.iter().map(|of| f64::from(of.behaviour)).sum();
            for (level, of) in beam.log_probs.iter().enumerate() {
                assert!((f64::from(of.behaviour) - exact_levels[&sid][level]).abs() < 1e-5, "{sid:?}, level {level}");
                let raw = logits(&rig.case, &sid[..level])[usize::from(sid[level])] - LOGNORM;
                assert_eq!(of.raw, raw);
            }
            assert!(
                (f64::from(beam.score) - beam.log_probs.iter().map(|of| f64::from(of.raw)).sum::<f64>()).abs() < 1e-5
            );
            if rank + 1 < SAMPLES as usize {
                estimate += p.exp() / (1.0 - (-(p - threshold).exp()).exp()) * f(&sid);
            }
            *counts.entry(sid).or_default() += 1;
        }
        sum += estimate;
        squares += estimate * estimate;
    }
    let n = runs as f64;
    for (sid, p) in &included {
        let (count, error) = (f64::from(counts[sid]), (n * p * (1.0 - p)).sqrt());
        assert!((count - n * p).abs() < 4.0 * error, "{sid:?} in {count} samples, expected {}", n * p);
    }
    let (mean, variance) = (sum / n, squares / n - (sum / n).powi(2));
    let error = (variance / n).sqrt();
    assert!((mean - wanted).abs() < 4.0 * error, "estimate {mean} +- {error} of {wanted}");
}

/// All of them, when there are no more: a permutation of the catalogue, whose keys are independent Gumbel variables.
#[test]
fn keys_are_gumbel_variables_around_log_probabilities() {
    let mut rig = Rig::new(16);
    let exact = probabilities(1.0);
    let runs = 4000;
    let mut sums: BTreeMap<Vec<u16>, (f64, f64)> = BTreeMap::new();
    for seed in 0..runs {
        let request = rig.request(16, 0, Some(sampling(SamplingKind::Distinct, seed, 1.0)));
        let beams = rig.run(vec![request]).remove(0);
        assert_eq!(beams.len(), exact.len(), "every allowed semantic ID, once");
        for beam in &beams {
            let sid = rig.sid(beam);
            let noise = f64::from(beam.key.unwrap()) - exact[&sid].ln();
            let of = sums.entry(sid).or_default();
            *of = (of.0 + noise, of.1 + noise * noise);
        }
    }
    let (euler, variance) = (0.577_215_664_9, std::f64::consts::PI.powi(2) / 6.0);
    for (sid, (sum, squares)) in sums {
        let n = runs as f64;
        let mean = sum / n;
        assert!((mean - euler).abs() < 4.0 * (variance / n).sqrt(), "{sid:?}: mean {mean}");
        // The fourth central moment of a Gumbel variable is 5.4 times the square of its variance.
        let spread = squares / n - mean * mean;
        assert!((spread - variance).abs() < 4.0 * variance * (4.4 / n).sqrt(), "{sid:?}: variance {spread}");
    }
}

#[test]
fn a_request_draws_the_same_alone_and_among_others() {
    let mut rig = Rig::new(64);
    let draws = |kind| Some(sampling(kind, 99, 0.7));
    let alone: Vec<Vec<Beam>> = [None, draws(SamplingKind::Independent), draws(SamplingKind::Distinct)]
        .into_iter()
        .map(|sampling| {
            let request = rig.request(6, 0, sampling);
            rig.run(vec![request]).remove(0)
        })
        .collect();
    let requests = vec![
        rig.request(6, 1, draws(SamplingKind::Distinct)),
        rig.request(9, 8, Some(sampling(SamplingKind::Independent, 98, 0.7))),
        rig.request(6, 20, draws(SamplingKind::Independent)),
        rig.request(6, 30, None),
    ];
    let among = rig.run(requests);
    assert_eq!([&among[3], &among[2], &among[0]], [&alone[0], &alone[1], &alone[2]]);
    assert!(alone[0].iter().all(|beam| beam.key.is_none() && beam.log_probs.iter().all(|of| of.behaviour == of.raw)));
}
