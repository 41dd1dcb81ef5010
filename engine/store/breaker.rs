//! The circuit breaker in front of a remote store: when to leave it alone, and when to ask again. Time is an argument.

use std::time::{Duration, Instant};

use super::BreakerState;

/// When the breaker opens and for how long.
#[derive(Clone, Debug)]
pub struct BreakerConfig {
    /// Failed or slow calls in a row that open it.
    pub failures: u32,
    /// A call that takes longer counts as failed, though its answer is used.
    pub slow: Duration,
    /// How long it stays open at first; twice as long after every probe that fails.
    pub pause: Duration,
    /// The longest it stays open.
    pub max_pause: Duration,
}

impl Default for BreakerConfig {
    /// Five in a row, 50 ms, half a second to half a minute.
    fn default() -> BreakerConfig {
        BreakerConfig {
            failures: 5,
            slow: Duration::from_millis(50),
            pause: Duration::from_millis(500),
            max_pause: Duration::from_secs(30),
        }
    }
}

#[derive(Debug)]
enum State {
    Closed { failed: u32 },
    Open { until: Instant, pause: Duration },
    HalfOpen { pause: Duration },
}

/// The breaker of one store.
#[derive(Debug)]
pub(super) struct Breaker {
    config: BreakerConfig,
    state: State,
}

impl Breaker {
    pub(super) fn new(config: BreakerConfig) -> Breaker {
        Breaker { config, state: State::Closed { failed: 0 } }
    }

    /// Whether to make a call now. Who is told so makes it, and says how it [`went`](Breaker::went).
    pub(super) fn permits(&mut self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } | State::HalfOpen { .. } => true,
            State::Open { until, pause } if now >= until => {
                self.state = State::HalfOpen { pause };
                true
            }
            State::Open { .. } => false,
        }
    }

    /// How a call went that took until `now`.
    pub(super) fn went(&mut self, good: bool, took: Duration, now: Instant) {
        let BreakerConfig { failures, slow, pause, max_pause } = self.config;
        let opened = |pause: Duration| State::Open { until: now + pause, pause };
        self.state = match (&self.state, good && took <= slow) {
            (_, true) => State::Closed { failed: 0 },
            (State::Closed { failed }, false) if failed + 1 < failures => State::Closed { failed: failed + 1 },
            (State::Closed { .. }, false) => opened(pause),
            (State::HalfOpen { pause } | State::Open { pause, .. }, false) => opened((*pause * 2).min(max_pause)),
        };
    }

    pub(super) fn state(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_millis(1);
    const SLOW: Duration = Duration::from_millis(51);

    fn broken() -> (Breaker, Instant) {
        let now = Instant::now();
        let mut breaker = Breaker::new(BreakerConfig::default());
        for _ in 0..5 {
            assert!(breaker.permits(now));
            breaker.went(false, FAST, now);
        }
        (breaker, now)
    }

    #[test]
    fn opens_after_failures_in_a_row_only() {
        let now = Instant::now();
        let mut breaker = Breaker::new(BreakerConfig::default());
        for _ in 0..20 {
            (0..4).for_each(|_| breaker.went(false, FAST, now));
            assert_eq!(breaker.state(), BreakerState::Closed);
            breaker.went(true, FAST, now);
        }
        let (mut breaker, now) = broken();
        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(!breaker.permits(now + Duration::from_millis(499)));
    }

    #[test]
    fn slow_calls_count_as_failed() {
        let now = Instant::now();
        let mut breaker = Breaker::new(BreakerConfig::default());
        (0..5).for_each(|_| breaker.went(true, SLOW, now));
        assert_eq!(breaker.state(), BreakerState::Open);
    }

    #[test]
    fn a_probe_closes_it_or_doubles_the_pause() {
        let (mut breaker, mut now) = broken();
        for pause_ms in [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
            assert!(!breaker.permits(now + Duration::from_millis(pause_ms - 1)), "{pause_ms}");
            now += Duration::from_millis(pause_ms);
            assert!(breaker.permits(now));
            assert_eq!(breaker.state(), BreakerState::HalfOpen);
            breaker.went(false, FAST, now);
            assert_eq!(breaker.state(), BreakerState::Open);
        }
        now += Duration::from_secs(30);
        assert!(breaker.permits(now));
        breaker.went(true, FAST, now);
        assert_eq!(breaker.state(), BreakerState::Closed);
        // The next time begins with the short pause again.
        (0..5).for_each(|_| breaker.went(false, FAST, now));
        assert!(breaker.permits(now + Duration::from_millis(500)));
    }
}
