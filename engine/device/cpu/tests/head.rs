//! Logits and log-normalisers against f64, for level lists that overlap, repeat and leave tokens out.

use super::{assert_close, cohort_plan, devices, noise, read, rounded, slot_plan, write};
use crate::device::cpu::CpuDevice;
use crate::device::{
    Cohort, CohortRequest, Device, DeviceError, Dtype, Head, HeadArgs, HeadMatrix, HeadSource, Normalizer, Rows,
    Target, Tensor,
};
use crate::export::TensorView;

const HIDDEN: usize = 37;

struct Rig {
    device: CpuDevice,
    lane: crate::device::CohortLane,
    head: Head,
    x: Tensor,
    logits: Tensor,
    lognorm: Tensor,
}

fn weights(vocabulary: usize) -> Vec<f32> {
    noise(5, vocabulary * HIDDEN)
}

impl Rig {
    fn new(mut device: CpuDevice, rows: usize, vocabulary: usize, levels: &[Vec<u32>], whole: bool) -> Rig {
        let compute = device.facts().compute;
        let matrix = TensorView::owned("head", vec![vocabulary, HIDDEN], weights(vocabulary));
        let source = HeadSource { matrix: matrix.into(), level_tokens: levels.to_vec(), whole_vocabulary: whole };
        let head = device.head_weight(&source).unwrap();
        device.plan_slots(slot_plan(1)).unwrap();
        let lane = device.cohort_lane(cohort_plan(rows, 3)).unwrap();
        let widest = levels.iter().map(Vec::len).max().unwrap();
        Rig {
            lane,
            head,
            x: device.buffer(rows, HIDDEN, compute).unwrap(),
            logits: device.buffer(rows, widest + 2, Dtype::F32).unwrap().columns(2, widest),
            lognorm: device.buffer(rows, 1, Dtype::F32).unwrap(),
            device,
        }
    }

    /// Logits and log-normaliser of each row of `x`, all in one batch.
    fn run(&mut self, x: &[Vec<f32>], target: Target, normalizer: Normalizer) -> Vec<(Vec<f32>, f32)> {
        let request = |row| CohortRequest { slot: 0, beams: 1, first_row: row, ..CohortRequest::default() };
        let requests = (0..x.len() as u32).map(request).collect();
        self.device.write_cohort(self.lane, &Cohort { requests }).unwrap();
        for (row, x) in x.iter().enumerate() {
            write(&mut self.device, self.x, row, x);
        }
        let Rig { lane, head, x: input, logits, lognorm, .. } = *self;
        let rows = Rows::Requests(lane);
        self.device.head(&HeadArgs { rows, x: input, head, target, normalizer, logits, lognorm }).unwrap();
        let columns = self.device.weights.heads[head.0 as usize].columns(target);
        (0..x.len())
            .map(|row| (read(&self.device, logits, row)[..columns].to_vec(), read(&self.device, lognorm, row)[0]))
            .collect()
    }
}

fn logits_in_f64(compute: Dtype, x: &[f32], vocabulary: usize) -> Vec<f64> {
    let weights = weights(vocabulary);
    let product = |w: &f32, x: &f32| f64::from(rounded(compute, *w)) * f64::from(rounded(compute, *x));
    weights.chunks(HIDDEN).map(|row| row.iter().zip(x).map(|(w, x)| product(w, x)).sum()).collect()
}

fn log_sum_exp(x: impl Iterator<Item = f64> + Clone) -> f64 {
    let max = x.clone().fold(f64::NEG_INFINITY, f64::max);
    max + x.map(|x| (x - max).exp()).sum::<f64>().ln()
}

/// Checks every level and both normalisers on `rows` rows, and that each row alone gives the same bits.
fn check(vocabulary: usize, levels: &[Vec<u32>], rows: usize) {
    for device in devices(2) {
        let facts = device.facts().clone();
        let compute = facts.compute;
        let mut rig = Rig::new(device, rows, vocabulary, levels, true);
        let x: Vec<Vec<f32>> =
            (0..rows).map(|row| noise(row as u64 + 100, HIDDEN).iter().map(|x| 3.0 * x).collect()).collect();
        let mut vocabulary_norms: Vec<Vec<u32>> = Vec::new();
        for (level, tokens) in levels.iter().enumerate() {
            for normalizer in [Normalizer::Vocabulary, Normalizer::Level] {
                let together = rig.run(&x, Target::Level(level), normalizer);
                for (row, (logits, lognorm)) in together.iter().enumerate() {
                    let what = format!("{} {compute:?}, level {level}, {normalizer:?}, row {row}", facts.name);
                    let all = logits_in_f64(compute, &x[row], vocabulary);
                    let expected: Vec<f64> = tokens.iter().map(|&token| all[token as usize]).collect();
                    assert_close(&what, logits, &expected, 2e-5);
                    let norm = match normalizer {
                        Normalizer::Vocabulary => log_sum_exp(all.iter().copied()),
                        Normalizer::Level | Normalizer::Legal => log_sum_exp(expected.iter().copied()),
                    };
                    assert_close(&what, &[*lognorm], &[norm], 2e-5);
                    assert!(logits.iter().all(|logit| logit <= lognorm), "{what}: a log-probability above 0");
                    if row % 16 == 3 {
                        let alone = rig.run(&x[row..=row], Target::Level(level), normalizer);
                        assert_eq!(alone[0], together[row], "{what}, alone");
                    }
                }
                if normalizer == Normalizer::Vocabulary {
                    vocabulary_norms.push(together.iter().map(|row| row.1.to_bits()).collect());
                }
            }
        }
        assert!(vocabulary_norms.windows(2).all(|pair| pair[0] == pair[1]), "one normaliser whatever the level");
        for token in [0, vocabulary as u32 - 1, levels[0][0]] {
            let scored = rig.run(&x[..2.min(rows)], Target::Token(token), Normalizer::Vocabulary);
            let (logits, lognorm) = &scored[0];
            let all = logits_in_f64(compute, &x[0], vocabulary);
            assert_close(&format!("token {token}"), logits, &all[token as usize..=token as usize], 2e-5);
            assert_eq!(lognorm.to_bits(), vocabulary_norms[0][0]);
        }
    }
}

#[test]
fn levels_apart_with_permuted_tokens() {
    let levels = [(3..43).rev().collect(), (50..90).step_by(2).collect(), vec![45]];
    check(101, &levels, 20);
}

#[test]
fn levels_that_share_and_repeat_tokens_count_each_once() {
    let list: Vec<u32> = (10..30).collect();
    let levels = [list.clone(), list, (20..60).chain(20..25).collect(), vec![7, 7, 7]];
    check(70, &levels, 4);
}

#[test]
fn a_vocabulary_that_the_levels_cover() {
    check(12, &[(0..8).collect(), (4..12).collect()], 3);
}

#[test]
fn blocks_of_rows_and_columns() {
    let levels = [(100..1300).collect(), (1300..1340).collect()];
    check(2100, &levels, 131);
}

#[test]
fn a_head_without_the_vocabulary_has_its_levels_only() {
    for device in devices(1) {
        let mut rig = Rig::new(device, 2, 500, &[(0..20).collect(), (20..30).collect()], false);
        assert!(rig.device.planned_bytes().0 < 500 * HIDDEN * 2);
        let x = [noise(1, HIDDEN), noise(2, HIDDEN)];
        assert_eq!(rig.run(&x, Target::Level(1), Normalizer::Level)[1].0.len(), 10);
    }
}

#[test]
fn a_head_of_a_matrix_a_level() {
    let codes = [70usize, 3, 600];
    let matrix = |(level, &codes): (usize, &usize)| {
        TensorView::owned("head", vec![codes, HIDDEN], noise(30 + level as u64, codes * HIDDEN))
    };
    for device in devices(2) {
        let compute = device.facts().compute;
        // All levels speak the same tokens, which must not make them one.
        let level_tokens: Vec<Vec<u32>> = codes.iter().map(|&codes| (0..codes as u32).collect()).collect();
        let mut rig = Rig::new(device, 5, 700, &level_tokens, false);
        let matrices = HeadMatrix::PerLevel(codes.iter().enumerate().map(matrix).collect());
        let source = HeadSource { matrix: matrices, level_tokens, whole_vocabulary: false };
        rig.head = rig.device.head_weight(&source).unwrap();
        let x: Vec<Vec<f32>> = (0..5).map(|row| noise(row + 100, HIDDEN)).collect();
        for (level, &codes) in codes.iter().enumerate() {
            let weights = noise(30 + level as u64, codes * HIDDEN);
            for (row, (logits, lognorm)) in rig.run(&x, Target::Level(level), Normalizer::Level).iter().enumerate() {
                let product = |w: &[f32]| {
                    let terms = w.iter().zip(&x[row]);
                    terms.map(|(&w, &x)| f64::from(rounded(compute, w)) * f64::from(rounded(compute, x))).sum()
                };
                let expected: Vec<f64> = weights.chunks(HIDDEN).map(product).collect();
                assert_close(&format!("level {level}, row {row}"), logits, &expected, 2e-5);
                assert_close("normaliser", &[*lognorm], &[log_sum_exp(expected.iter().copied())], 2e-5);
            }
        }
    }
}

#[test]
fn a_matrix_of_another_shape_than_its_level_is_named() {
    let mut device = devices(1).next().unwrap();
    let matrix = |name: &str, rows| TensorView::owned(name, vec![rows, 4], vec![0.0; rows * 4]);
    let matrices = HeadMatrix::PerLevel(vec![matrix("heads.0", 2), matrix("heads.1", 3)]);
    let level_tokens = vec![vec![1, 2], vec![3, 4]];
    let error =
        device.head_weight(&HeadSource { matrix: matrices, level_tokens, whole_vocabulary: false }).unwrap_err();
    assert_eq!(error.to_string(), "weight heads.1: the head of level 1 is [2, 4], not [3, 4]");
}

#[test]
fn a_token_beyond_the_vocabulary_is_named() {
    let mut device = devices(1).next().unwrap();
    let matrix = TensorView::owned("lm_head.weight", vec![10, 4], vec![0.0; 40]);
    let source = HeadSource { matrix: matrix.into(), level_tokens: vec![vec![1], vec![2, 10]], whole_vocabulary: true };
    let error = device.head_weight(&source).unwrap_err();
    assert!(matches!(&error, DeviceError::BadWeight { .. }));
    assert_eq!(error.to_string(), "weight lm_head.weight: level 1, code 1: token 10 of 10");
}

#[test]
fn poisoned_hidden_states_stay_in_their_row() {
    for device in devices(2) {
        let mut rig = Rig::new(device, 3, 60, &[(0..40).collect()], true);
        let good = noise(1, HIDDEN);
        let x = [good.clone(), vec![f32::NAN; HIDDEN], good];
        let out = rig.run(&x, Target::Level(0), Normalizer::Vocabulary);
        assert!(out[1].1.is_nan());
        assert_eq!(out[0], out[2]);
        assert!(out[0].1.is_finite());
    }
}
