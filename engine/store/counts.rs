//! What became of look-ups, as counters: plain atomics, read as one [`StoreCounts`].

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::{Found, Reason};

/// State of the circuit breaker in front of a remote store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BreakerState {
    /// The store is asked. An embedded store is always here.
    #[default]
    Closed,
    /// It failed too often: look-ups fail at once until a pause is over.
    Open,
    /// The pause is over: the next look-up decides.
    HalfOpen,
}

/// Counters since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounts {
    /// Keys looked up; the sum of the five that follow.
    pub lookups: u64,
    /// Found.
    pub hits: u64,
    /// Not there.
    pub missing: u64,
    /// Too old.
    pub expired: u64,
    /// There, and not usable.
    pub bad: u64,
    /// Not known in time, or not at all.
    pub failed: u64,
    /// Of the failed: the budget ran out.
    pub timeouts: u64,
    /// Times the breaker has opened.
    pub breaker_opened: u64,
    /// Where the breaker is now.
    pub breaker: BreakerState,
}

/// The counters themselves.
#[derive(Debug, Default)]
pub(super) struct Counters {
    hits: AtomicU64,
    missing: AtomicU64,
    expired: AtomicU64,
    bad: AtomicU64,
    failed: AtomicU64,
    timeouts: AtomicU64,
    breaker_opened: AtomicU64,
    breaker: AtomicU8,
}

impl Counters {
    /// Counts what one key was answered with.
    pub(super) fn count(&self, found: &Found) {
        let counter = match found {
            Found::Record(_) => &self.hits,
            Found::Missing => &self.missing,
            Found::Expired { .. } => &self.expired,
            Found::Bad { .. } => &self.bad,
            Found::Failed { reason } => {
                if *reason == Reason::Timeout {
                    self.timeouts.fetch_add(1, Ordering::Relaxed);
                }
                &self.failed
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes where the breaker is.
    pub(super) fn breaker(&self, state: BreakerState) {
        let number = match state {
            BreakerState::Closed => 0,
            BreakerState::Open => 1,
            BreakerState::HalfOpen => 2,
        };
        let before = self.breaker.swap(number, Ordering::Relaxed);
        if state == BreakerState::Open && before != number {
            self.breaker_opened.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn read(&self) -> StoreCounts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (hits, missing, expired) = (of(&self.hits), of(&self.missing), of(&self.expired));
        let (bad, failed) = (of(&self.bad), of(&self.failed));
        let breaker = match self.breaker.load(Ordering::Relaxed) {
            0 => BreakerState::Closed,
            1 => BreakerState::Open,
            _ => BreakerState::HalfOpen,
        };
        StoreCounts {
            lookups: hits + missing + expired + bad + failed,
            hits,
            missing,
            expired,
            bad,
            failed,
            timeouts: of(&self.timeouts),
            breaker_opened: of(&self.breaker_opened),
            breaker,
        }
    }
}
