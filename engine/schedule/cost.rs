//! What requests cost on this device, learnt from what they took: enough to refuse at the door what cannot be on time.
//!
//! A launch costs a fixed part and a part for each unit of work, `a + b x`. Both are fitted online by least squares over
//! observations whose weight decays. The fit errs on the side of accepting: until enough was seen it says zero, and work
//! that is queued is assumed to be batched as well as it can be.

use std::time::Duration;

/// Weight that an observation keeps when the next one comes.
const DECAY: f64 = 0.95;
/// Nothing is refused on an estimate made from fewer observations than this.
const MIN_OBSERVATIONS: u32 = 8;

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
}

impl CostModel {
    /// For launches of at most `prefill_tokens` tokens and `cohort_rows` beam rows.
    pub fn new(prefill_tokens: usize, cohort_rows: usize) -> CostModel {
        CostModel { prefill: Line::default(), search: Line::default(), prefill_tokens, cohort_rows }
    }

    /// A prefill batch of `tokens` took `elapsed`.
    pub fn observe_prefill(&mut self, elapsed: Duration, tokens: usize) {
        self.prefill.observe(elapsed, tokens);
    }

    /// A cohort's search over `rows` beam rows took `elapsed`.
    pub fn observe_search(&mut self, elapsed: Duration, rows: usize) {
        self.search.observe(elapsed, rows);
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
    fn launches_of_one_size_are_proportional() {
        let cost = fitted(&[100], &[32]);
        let estimate = cost.estimate(200, 32).as_secs_f64();
        let expected = 2.0 * 1300e-6 + 2600e-6;
        assert!((estimate / expected - 1.0).abs() < 0.01, "{estimate} for {expected}");
    }
}
