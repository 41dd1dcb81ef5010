//! Logits and log-normalisers, for levels that overlap, repeat and leave tokens out.

use sidereal::device::{
    Cohort, CohortLane, CohortRequest, Device, DeviceError, Dtype, Head, HeadArgs, HeadSource, Normalizer, Rows,
    Target, Tensor,
};
use sidereal::export::TensorView;

use crate::support::{TYPES, assert_close, assert_same, cohort_plan, cuda, noise, oracle, slot_plan};

const HIDDEN: usize = 37;
/// What outputs hold before.
const BEFORE: f32 = 0.25;

/// A head and its buffers on one device.
struct Rig<D> {
    device: D,
    room: usize,
    lane: CohortLane,
    head: Head,
    x: Tensor,
    logits: Tensor,
    lognorm: Tensor,
}

/// What one head operation computes.
#[derive(Clone, Copy, Debug)]
struct Question {
    target: Target,
    normalizer: Normalizer,
    /// The rows of one request's beams, or one row of each request.
    is_beams: bool,
}

impl<D: Device> Rig<D> {
    fn new(mut device: D, room: usize, vocabulary: usize, levels: &[Vec<u32>]) -> Rig<D> {
        let compute = device.facts().compute;
        let matrix = TensorView::owned("head", vec![vocabulary, HIDDEN], noise(5, vocabulary * HIDDEN));
        let source = HeadSource { matrix: matrix.into(), level_tokens: levels.to_vec(), whole_vocabulary: true };
        device.plan_slots(slot_plan(1, 1)).unwrap();
        // Scratch is planned whichever comes last.
        let lane = device.cohort_lane(cohort_plan(room, 3)).unwrap();
        let head = device.head_weight(&source).unwrap();
        let widest = levels.iter().map(Vec::len).max().unwrap();
        Rig {
            room,
            lane,
            head,
            x: device.buffer(room, HIDDEN, compute).unwrap(),
            logits: device.buffer(room, widest + 2, Dtype::F32).unwrap().columns(2, widest),
            lognorm: device.buffer(room, 1, Dtype::F32).unwrap(),
            device,
        }
    }

    /// Logits of `columns` columns and the log-normaliser of rows `first ..`; rows behind them hold NaN and must stay dead.
    fn run(&mut self, (first, rows, columns): (usize, usize, usize), question: Question) -> (Vec<f32>, Vec<f32>) {
        let Rig { room, lane, head, x: input, logits, lognorm, .. } = *self;
        let request = |row, beams| CohortRequest { slot: 0, beams, first_row: row, ..CohortRequest::default() };
        let requests = match question.is_beams {
            true => vec![request(0, rows as u32)],
            false => (0..rows as u32).map(|row| request(row, 1)).collect(),
        };
        self.device.write_cohort(lane, &Cohort { requests }).unwrap();
        let row = |row: usize| noise(100 + row as u64, HIDDEN).into_iter().map(|x| 3.0 * x);
        let mut x: Vec<f32> = (first..first + rows).flat_map(row).collect();
        x.resize(room * HIDDEN, f32::NAN);
        self.device.write_buffer(input, &x).unwrap();
        for out in [logits, lognorm] {
            self.device.write_buffer(out, &vec![BEFORE; room * out.cols]).unwrap();
        }
        let Question { target, normalizer, is_beams } = question;
        let rows_of = if is_beams { Rows::Beams(lane) } else { Rows::Requests(lane) };
        let args = HeadArgs { rows: rows_of, x: input, head, target, normalizer, logits, lognorm };
        self.device.head(&args).unwrap();
        let all = self.device.read_buffer(logits, room).unwrap();
        let norms = self.device.read_buffer(lognorm, room).unwrap();
        let mut wanted = Vec::new();
        for (row, values) in all.chunks(logits.cols).enumerate() {
            let (values, rest) = values.split_at(if row < rows { columns } else { 0 });
            assert!(rest.iter().all(|&x| x == BEFORE), "{question:?}, row {row}: wrote beside its logits");
            wanted.extend_from_slice(values);
        }
        assert!(norms[rows..].iter().all(|&x| x == BEFORE), "{question:?}: wrote beside its normalisers");
        (wanted, norms[..rows].to_vec())
    }
}

/// Every level and both normalisers agree with the CPU's, and each row alone has the same bits as in the batch. Logits are sums
/// of 37 products below 3: partial sums below 16 round by 2^-20 at most, and far less on average.
fn check(vocabulary: usize, levels: &[Vec<u32>], rows: usize) {
    for compute in TYPES {
        let room = rows + 3;
        let mut card = Rig::new(cuda(compute), room, vocabulary, levels);
        let mut cpu = Rig::new(oracle(compute), room, vocabulary, levels);
        let mut vocabulary_norms: Option<Vec<f32>> = None;
        for (level, tokens) in levels.iter().enumerate() {
            for normalizer in [Normalizer::Vocabulary, Normalizer::Level] {
                let columns = tokens.len();
                let question = Question { target: Target::Level(level), normalizer, is_beams: false };
                let what = format!("{compute:?}, {vocabulary} tokens, {question:?}");
                let (logits, norms) = card.run((0, rows, columns), question);
                let expected = cpu.run((0, rows, columns), question);
                assert_close(&what, &logits, &expected.0, 2e-5);
                assert_close(&what, &norms, &expected.1, 2e-5);
                for (logits, norm) in logits.chunks(columns).zip(&norms) {
                    assert!(logits.iter().all(|logit| logit <= norm), "{what}: a log-probability above 0");
                }
                for row in [0, rows / 2, rows - 1] {
                    let alone = card.run((row, 1, columns), Question { is_beams: true, ..question });
                    assert_same(&format!("{what}, row {row} alone"), &alone.0, &logits[row * columns..][..columns]);
                    assert_same(&format!("{what}, row {row} alone"), &alone.1, &norms[row..=row]);
                }
                if normalizer == Normalizer::Vocabulary {
                    let first = vocabulary_norms.get_or_insert_with(|| norms.clone());
                    assert_same(&format!("{what}: one normaliser whatever the level"), &norms, first);
                }
            }
        }
        for token in [0, vocabulary as u32 - 1, levels[0][0]] {
            let normalizer = Normalizer::Vocabulary;
            let question = Question { target: Target::Token(token), normalizer, is_beams: false };
            let what = format!("{compute:?}, {vocabulary} tokens, {question:?}");
            let (logits, norms) = card.run((0, rows, 1), question);
            assert_close(&what, &logits, &cpu.run((0, rows, 1), question).0, 2e-5);
            assert_same(&what, &norms, vocabulary_norms.as_ref().unwrap());
            // A new cohort's beams are dead but for the first: the CPU leaves them out, the card computes them all the same.
            let beams = card.run((0, rows, 1), Question { is_beams: true, ..question });
            assert_same(&format!("{what}, as beams"), &beams.0, &logits);
            assert_same(&format!("{what}, as beams"), &beams.1, &norms);
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
fn rows_and_columns_of_several_tiles() {
    // On the stand-in's four multiprocessors 960 packed columns get the wide tile at 125 rows, and one row the middle one; the
    // second level alone gets the small one.
    check(900, &[(100..420).collect(), (420..440).collect()], 125);
    check(150, &[(20..60).collect()], 131);
}

#[test]
fn poisoned_hidden_states_stay_in_their_row() {
    for compute in TYPES {
        let mut rig = Rig::new(cuda(compute), 4, 60, &[(0..40).collect()]);
        let question = Question { target: Target::Level(0), normalizer: Normalizer::Vocabulary, is_beams: false };
        let good = rig.run((0, 3, 40), question);
        let Rig { lane, head, x, logits, lognorm, .. } = rig;
        let mut values = rig.device.read_buffer(x, 4).unwrap();
        values[HIDDEN..2 * HIDDEN].fill(f32::NAN);
        rig.device.write_buffer(x, &values).unwrap();
        let Question { target, normalizer, .. } = question;
        let args = HeadArgs { rows: Rows::Requests(lane), x, head, target, normalizer, logits, lognorm };
        rig.device.head(&args).unwrap();
        let norms = rig.device.read_buffer(lognorm, 3).unwrap();
        assert!(norms[1].is_nan());
        assert_same("the rows beside it", &[norms[0], norms[2]], &[good.1[0], good.1[2]]);
    }
}

#[test]
fn a_token_beyond_the_vocabulary_is_named() {
    let matrix = TensorView::owned("lm_head.weight", vec![10, 4], vec![0.0; 40]);
    let source = HeadSource { matrix: matrix.into(), level_tokens: vec![vec![1], vec![2, 10]], whole_vocabulary: true };
    let error = cuda(Dtype::F32).head_weight(&source).unwrap_err();
    assert!(matches!(&error, DeviceError::BadWeight { .. }));
    assert_eq!(error.to_string(), "weight lm_head.weight: level 1, code 1: token 10 of 10");
}
