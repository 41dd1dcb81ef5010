//! What requests cost on this device, learnt from what they took: enough to refuse at the door what cannot be on time.

use std::time::Duration;

/// Weight of a new observation.
const LEARNING_RATE: f64 = 0.1;
/// Nothing is refused on an estimate made from fewer observations than this.
const MIN_OBSERVATIONS: u32 = 8;

/// An average that forgets.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    microseconds: f64,
    observations: u32,
}

impl Rate {
    fn observe(&mut self, elapsed: Duration, units: usize) {
        let sample = elapsed.as_secs_f64() * 1e6 / units.max(1) as f64;
        let weight = if self.observations == 0 { 1.0 } else { LEARNING_RATE };
        self.microseconds += weight * (sample - self.microseconds);
        self.observations = self.observations.saturating_add(1);
    }
}

/// Fitted online: microseconds a prompt token and microseconds a beam row of a whole search.
#[derive(Clone, Copy, Debug, Default)]
pub struct CostModel {
    token: Rate,
    row: Rate,
}

impl CostModel {
    /// A prefill of `tokens` took `elapsed`.
    pub fn observe_prefill(&mut self, elapsed: Duration, tokens: usize) {
        self.token.observe(elapsed, tokens);
    }

    /// A search over `rows` beam rows took `elapsed`.
    pub fn observe_search(&mut self, elapsed: Duration, rows: usize) {
        self.row.observe(elapsed, rows);
    }

    /// Device time that `tokens` of prefill and `rows` beam rows will take; zero until enough was seen.
    pub fn estimate(&self, tokens: usize, rows: usize) -> Duration {
        if self.token.observations < MIN_OBSERVATIONS || self.row.observations < MIN_OBSERVATIONS {
            return Duration::ZERO;
        }
        let microseconds = self.token.microseconds * tokens as f64 + self.row.microseconds * rows as f64;
        Duration::from_micros(microseconds as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_follow_what_was_seen_and_wait_for_evidence() {
        let mut cost = CostModel::default();
        cost.observe_prefill(Duration::from_millis(10), 1000);
        cost.observe_search(Duration::from_millis(5), 100);
        assert_eq!(cost.estimate(1000, 100), Duration::ZERO);
        for _ in 0..20 {
            cost.observe_prefill(Duration::from_millis(10), 1000);
            cost.observe_search(Duration::from_millis(5), 100);
        }
        let estimate = cost.estimate(2000, 200);
        assert!((estimate.as_secs_f64() - 0.030).abs() < 0.001, "{estimate:?}");
    }
}
