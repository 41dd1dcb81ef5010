//! What requests cost on this device, learnt from what they took: enough to refuse at the door what cannot be on time.
//!
//! A launch costs a fixed part and a part for each unit of work, `a + b x`. Both are fitted online by least squares over
//! observations whose weight decays. The fit errs on the side of accepting: until enough was seen it says zero, and work
//! that is queued is assumed to be batched as well as it can be.
//!
//! Launches of several requests take turns, so each of them takes longer than its own launches do: by how much is learnt
//! too ([`CostModel::estimate_among_others`]), and errs on the other side. It decides whether to begin what was accepted.
//!
//! A model that refuses learns nothing, so one that has gone wrong (the machine was suspended, the first runs were cold)
//! could refuse for ever. Refusals made while the device had nothing to do are therefore counted, and a few of them without
//! a new observation in between make the model forget everything.

use std::time::Duration;

/// Weight that an observation keeps when the next one comes.
const DECAY: f64 = 0.95;
/// Nothing is refused on an estimate made from fewer observations than this.
const MIN_OBSERVATIONS: u32 = 8;
/// Bound of how much others are believed to hold up a request.
const MAX_STRETCH: f64 = 100.0;
/// Refusals by an idle device, and nothing observed in between, after which the estimate is no longer believed.
const MAX_DOUBTS: u32 = 8;

/// `seconds = a + b * units`, fitted with decaying weights.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    weight: f64,
    units: f64,
    seconds: f64,
    units_squared: f64,
    units_seconds: f64,
    observations: u32,
}

impl Line {
    fn observe(&mut self, elapsed: Duration, units: usize) {
        let (x, y) = (units as f64, elapsed.as_secs_f64());
        self.weight = DECAY * self.weight + 1.0;
        self.units = DECAY * self.units + x;
        self.seconds = DECAY * self.seconds + y;
        self.units_squared = DECAY * self.units_squared + x * x;
        self.units_seconds = DECAY * self.units_seconds + x * y;
        self.observations = self.observations.saturating_add(1);
    }

    /// Seconds for `units` done in launches of at most `per_launch`.
    fn estimate(&self, units: usize, per_launch: usize) -> f64 {
        if self.observations < MIN_OBSERVATIONS || units == 0 {
            return 0.0;
        }
        let (mean_x, mean_y) = (self.units / self.weight, self.seconds / self.weight);
        let variance = self.units_squared / self.weight - mean_x * mean_x;
        let covariance = self.units_seconds / self.weight - mean_x * mean_y;
        // Launches of one size say nothing about the split: then all of it counts as proportional.
        let proportional = mean_y / mean_x.max(1.0);
        let slope = if variance > 1e-3 * mean_x * mean_x { covariance / variance } else { proportional };
        let slope = slope.clamp(0.0, proportional);
        let fixed = (mean_y - slope * mean_x).max(0.0);
        fixed * units.div_ceil(per_launch) as f64 + slope * units as f64
    }
}

/// Fitted online: prefill by tokens, search by beam rows.
#[derive(Clone, Copy, Debug)]
pub struct CostModel {
    prefill: Line,
    search: Line,
    prefill_tokens: usize,
    cohort_rows: usize,
    /// How many times its own device time a request takes from its first launch to its last, others' launches in between.
    stretch: f64,
    doubts: u32,
}

impl CostModel {
    /// For launches of at most `prefill_tokens` tokens and `cohort_rows` beam rows.
    pub fn new(prefill_tokens: usize, cohort_rows: usize) -> CostModel {
        CostModel {
            prefill: Line::default(),
            search: Line::default(),
            prefill_tokens,
            cohort_rows,
            stretch: 1.0,
            doubts: 0,
        }
    }

    /// A prefill batch of `tokens` took `elapsed`.
    pub fn observe_prefill(&mut self, elapsed: Duration, tokens: usize) {
        self.prefill.observe(elapsed, tokens);
        self.doubts = 0;
    }

    /// A cohort's search over `rows` beam rows took `elapsed`.
    pub fn observe_search(&mut self, elapsed: Duration, rows: usize) {
        self.search.observe(elapsed, rows);
        self.doubts = 0;
    }

    /// A request of `tokens` and `rows` took `elapsed` from its first launch to its last.
    pub fn observe_request(&mut self, elapsed: Duration, tokens: usize, rows: usize) {
        let alone = self.estimate(tokens, rows).as_secs_f64();
        if alone > 0.0 {
            let ratio = (elapsed.as_secs_f64() / alone).clamp(1.0, MAX_STRETCH);
            // Up fast and down slowly: near the worst of late, because being a little late is being late.
            self.stretch += (ratio - self.stretch) * if ratio > self.stretch { 0.2 } else { 0.02 };
        }
    }

    /// Time from first launch to last of a request with `tokens` of prefill and `rows` beam rows left, among others.
    pub fn estimate_among_others(&self, tokens: usize, rows: usize) -> Duration {
        self.estimate(tokens, rows).mul_f64(self.stretch)
    }

    /// A request was refused on an estimate although the device had nothing to do.
    pub fn doubt(&mut self) {
        self.doubts += 1;
        if self.doubts >= MAX_DOUBTS {
            *self = CostModel::new(self.prefill_tokens, self.cohort_rows);
        }
    }

    /// Device time that `tokens` of prefill and `rows` beam rows will take.
    pub fn estimate(&self, tokens: usize, rows: usize) -> Duration {
        let seconds = self.prefill.estimate(tokens, self.prefill_tokens) + self.search.estimate(rows, self.cohort_rows);
        Duration::from_secs_f64(seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 300 us a prefill launch and 10 us a token; 1 ms a search and 50 us a row.
    fn fitted(tokens: &[usize], rows: &[usize]) -> CostModel {
        let mut cost = CostModel::new(1000, 512);
        for (tokens, rows) in tokens.iter().zip(rows).cycle().take(60) {
            cost.observe_prefill(Duration::from_micros(300 + 10 * *tokens as u64), *tokens);
            cost.observe_search(Duration::from_micros(1000 + 50 * *rows as u64), *rows);
        }
        cost
    }

    #[test]
    fn nothing_is_estimated_without_evidence() {
        let mut cost = CostModel::new(1000, 512);
        cost.observe_prefill(Duration::from_secs(1), 10);
        cost.observe_search(Duration::from_secs(1), 10);
        assert_eq!(cost.estimate(1000, 512), Duration::ZERO);
    }

    #[test]
    fn fixed_and_proportional_parts_are_told_apart() {
        // Short prompts only would make a long one look far too dear if the fixed part were spread over tokens.
        let cost = fitted(&[1, 2, 10, 40], &[1, 4, 32, 64]);
        let expected = 300e-6 * 2.0 + 10e-6 * 2000.0 + 1e-3 + 50e-6 * 128.0;
        let estimate = cost.estimate(2000, 128).as_secs_f64();
        assert!((estimate / expected - 1.0).abs() < 0.01, "{estimate} for {expected}");
    }

    #[test]
    fn an_estimate_that_only_refuses_is_forgotten() {
        let mut cost = fitted(&[100], &[32]);
        (1..MAX_DOUBTS).for_each(|_| cost.doubt());
        cost.observe_prefill(Duration::from_millis(1), 100);
        (1..MAX_DOUBTS).for_each(|_| cost.doubt());
        assert!(cost.estimate(100, 32) > Duration::ZERO, "evidence in between counts");
        cost.doubt();
        assert_eq!(cost.estimate(100, 32), Duration::ZERO);
    }

    #[test]
    fn being_held_up_is_learnt_fast_and_forgotten_slowly() {
        let mut cost = fitted(&[100], &[32]);
        let alone = cost.estimate(100, 32);
        assert_eq!(cost.estimate_among_others(100, 32), alone);
        (0..20).for_each(|_| cost.observe_request(alone * 3, 100, 32));
        let crowded = cost.estimate_among_others(100, 32);
        assert!(crowded > alone * 29 / 10 && crowded <= alone * 3, "{crowded:?} for 3 times {alone:?}");
        cost.observe_request(alone, 100, 32);
        assert!(cost.estimate_among_others(100, 32) > alone * 28 / 10);
        (0..300).for_each(|_| cost.observe_request(alone / 2, 100, 32));
        assert!(cost.estimate_among_others(100, 32) < alone * 102 / 100);
    }

    #[test]
    fn launches_of_one_size_are_proportional() {
        let cost = fitted(&[100], &[32]);
        let estimate = cost.estimate(200, 32).as_secs_f64();
        let expected = 2.0 * 1300e-6 + 2600e-6;
        assert!((estimate / expected - 1.0).abs() < 0.01, "{estimate} for {expected}");
    }
}
