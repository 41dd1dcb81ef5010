//! Counters that the engine keeps, read by STATS without stopping anybody.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::json;

use crate::request::{Answer, RefusalKind};

/// All counters since start, and a few gauges.
#[derive(Debug, Default)]
pub struct Stats {
    /// Requests answered with results.
    pub answered: AtomicU64,
    /// Requests refused, by [`RefusalKind`] in wire order.
    pub refused: [AtomicU64; RefusalKind::ALL.len()],
    /// Prompt tokens prefilled.
    pub prefill_tokens: AtomicU64,
    /// Cohorts searched.
    pub cohorts: AtomicU64,
    /// Requests in them.
    pub cohort_requests: AtomicU64,
    /// Gauge: requests without a slot.
    pub waiting: AtomicU64,
    /// Gauge: requests that hold a slot.
    pub running: AtomicU64,
    /// Gauge: free pages of the history pool.
    pub free_pages: AtomicU64,
    /// How often the device was lost and opened again.
    pub device_losses: AtomicU64,
    /// The device was lost for good, or a thread panicked: every request is refused `DEVICE_FAILED`.
    pub given_up: AtomicBool,
}

impl Stats {
    /// Counts an answer.
    pub fn count(&self, answer: &Answer) {
        match answer {
            Ok(_) => self.answered.fetch_add(1, Ordering::Relaxed),
            Err(refusal) => self.refused[refusal.kind as usize - 1].fetch_add(1, Ordering::Relaxed),
        };
    }

    /// Everything as JSON.
    pub fn to_json(&self, in_flight: usize) -> serde_json::Value {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let refused: serde_json::Map<_, _> = RefusalKind::ALL
            .iter()
            .map(|kind| (kind.name().into(), read(&self.refused[*kind as usize - 1]).into()))
            .collect();
        json!({
            "answered": read(&self.answered),
            "refused": refused,
            "in_flight": in_flight,
            "waiting": read(&self.waiting),
            "running": read(&self.running),
            "free_pages": read(&self.free_pages),
            "prefill_tokens": read(&self.prefill_tokens),
            "cohorts": read(&self.cohorts),
            "cohort_requests": read(&self.cohort_requests),
            "device_losses": read(&self.device_losses),
            "ready": !self.given_up.load(Ordering::Acquire),
        })
    }
}
