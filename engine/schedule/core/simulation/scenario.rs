//! What a simulation runs: a shape, a temper and requests, all from one seed.

use std::time::Duration;

use super::fakes::{EXPORTS, LONGEST_LIST, export, snapshots};
use super::world::{Seeded, Shape, Temper};

/// One request to come.
#[derive(Clone, Debug)]
pub struct Planned {
    pub at: Duration,
    pub tokens: usize,
    pub beams: usize,
    /// Semantic IDs of the lists that it asks for; without, it asks for none.
    pub list: Option<u32>,
    pub allowed: Duration,
    pub cancel_at: Option<Duration>,
    /// Number of the snapshot that it is resolved with.
    pub snapshot: usize,
}

/// Other weights to come.
#[derive(Clone, Debug)]
pub struct PlannedSwap {
    pub at: Duration,
    /// With a second device, or in the place of the first.
    pub beside: bool,
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub export: usize,
    pub shape: Shape,
    pub temper: Temper,
    pub prefill_tokens: usize,
    pub lanes: usize,
    /// In order of arrival.
    pub requests: Vec<Planned>,
    /// In order; each begins when the one before has ended.
    pub swaps: Vec<PlannedSwap>,
    /// From then on nobody else is let in.
    pub close_at: Option<Duration>,
}

/// A deadline that no scenario reaches.
pub const PATIENT: Duration = Duration::from_secs(5000);

impl Scenario {
    /// The scenario of a seed.
    pub fn seeded(seed: u64) -> Scenario {
        let mut chance = Seeded(seed);
        let chance = &mut chance;
        let which = chance.below(EXPORTS.len() as u64) as usize;
        let longest = chance.pick(&[1usize, 3, 17, 64, 200]);
        let page_tokens = chance.pick(&[1, 4, 16, 64]);
        let prefill_tokens = chance.pick(&[1, 7, 32, 256]).max(longest / 16);
        let max_beams = chance.pick(&[1, 4, 16]);
        let slots = chance.pick(&[1, 2, 3, 8]);
        let pages = longest.div_ceil(page_tokens);
        let mut scenario = Scenario {
            seed,
            lanes: chance.pick(&[1, 2, 3]),
            prefill_tokens,
            temper: Temper {
                launch_ns: chance.pick(&[1_000, 100_000]),
                token_ns: 1_000,
                row_ns: 500,
                slow_ops: chance.pick(&[0, 0, 0, 10, 60]),
                faults: chance.pick(&[0, 0, 0, 50, 500]),
                losses: chance.pick(&[0, 20, 100]),
                lose_at: Vec::new(),
                punctual: chance.below(2) == 0,
                panic_at: None,
                open_ns: 0,
            },
            ..Scenario::plain(which, longest, prefill_tokens)
        };
        let shape = &mut scenario.shape;
        shape.page_tokens = page_tokens;
        shape.slots = slots;
        shape.history_pages = pages + chance.below((pages * (slots - 1) + 1) as u64) as usize;
        shape.cohort_rows = max_beams + chance.below(3 * max_beams as u64 + 1) as usize;
        shape.stages = chance.pick(&[1, 2, 5]);
        let gap_ns = chance.pick(&[0, 50_000, 1_000_000]);
        let mut at = Duration::ZERO;
        for _ in 0..=chance.below(40) {
            at += Duration::from_nanos(chance.below(gap_ns + 1));
            let micros = chance.pick(&[0, 300, 3_000, 30_000, 10_000_000, PATIENT.as_micros() as u64]);
            let (mut tokens, mut beams) =
                (1 + chance.below(longest as u64) as usize, 1 + chance.below(max_beams as u64) as usize);
            match chance.below(200) {
                0 => tokens = shape.history_pages * page_tokens + 1,
                1 => beams = shape.cohort_rows + 1,
                2 => tokens = 0,
                _ => {}
            }
            let cancel_at = (chance.below(6) == 0).then(|| at + Duration::from_micros(chance.below(5_000)));
            let allowed = Duration::from_micros(micros);
            scenario.requests.push(Planned { at, tokens, beams, list: None, allowed, cancel_at, snapshot: 0 });
        }
        // Delistings come while requests are under way, more of them than there are slots for.
        let (mut newest, swaps) = (0, chance.below(3));
        for planned in &mut scenario.requests {
            newest += usize::from(chance.below(6) < swaps);
            planned.snapshot = newest.min(snapshots(which).len() - 1);
        }
        scenario.shape.masks = chance.pick(&[1, 2, 4]);
        if chance.below(3) == 0 {
            let ats = (0..=chance.below(3)).map(|_| at.mul_f64(chance.below(130) as f64 / 100.0));
            let mut ats: Vec<Duration> = ats.collect();
            ats.sort();
            scenario.swaps = ats.into_iter().map(|at| PlannedSwap { at, beside: chance.below(2) == 0 }).collect();
        }
        scenario.close_at = (chance.below(4) == 0).then(|| at.mul_f64(chance.below(100) as f64 / 100.0));
        // Some traffic asks for lists, of several lengths at the same time.
        let share = chance.pick(&[0, 0, 2, 4]);
        for planned in &mut scenario.requests {
            planned.list = (chance.below(4) < share).then(|| 1 + chance.below(LONGEST_LIST as u64) as u32);
        }
        scenario
    }

    /// Room for prompts of `longest` tokens, and nobody in it.
    pub fn plain(which: usize, longest: usize, prefill_tokens: usize) -> Scenario {
        let (manifest, _) = export(which);
        let prefix = manifest.decoder_prefix().unwrap_or(&[]).to_vec();
        Scenario {
            seed: 0,
            export: which,
            shape: Shape {
                prefill_rows: if prefix.is_empty() { prefill_tokens } else { prefill_tokens.max(longest) },
                cohort_rows: 16,
                slots: 4,
                page_tokens: 16,
                history_pages: 4 * longest.div_ceil(16),
                masks: 2,
                prefix,
                stages: 2,
                levels: manifest.levels().len(),
                end: manifest.scored_end().len(),
            },
            temper: Temper { launch_ns: 100_000, token_ns: 1_000, row_ns: 500, ..Temper::default() },
            prefill_tokens,
            lanes: 2,
            requests: Vec::new(),
            swaps: Vec::new(),
            close_at: None,
        }
    }

    /// An encoder's prompts go in whole; exports with a decoder prefix have one.
    pub fn whole_prompts(&self) -> bool {
        !self.shape.prefix.is_empty()
    }
}
