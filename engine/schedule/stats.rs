//! Counters that the engine keeps, read by STATS and by `/metrics` without stopping anybody.
//!
//! Plain atomics: a request costs a few additions. [`EngineCounts`] is what readers get, and the only place where they are read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Map, Value, json};

use crate::request::{Answer, Policy, RefusalKind, StageTimings};
use crate::schedule::histogram::{Histogram, HistogramSnapshot, REQUEST_BOUNDS, ROW_BOUNDS, STAGE_BOUNDS_US};

/// All counters since start, and a few gauges.
#[derive(Debug)]
pub struct Stats {
    /// Requests answered with results.
    answered: AtomicU64,
    /// Requests refused, by [`RefusalKind`] in wire order.
    refused: [AtomicU64; RefusalKind::ALL.len()],
    /// Microseconds that answered requests spent in each of [`StageTimings::STAGES`].
    stages: [Histogram; StageTimings::STAGES.len()],
    /// Beam rows of each cohort that was searched.
    pub cohort_rows: Histogram,
    /// Requests of each cohort that was searched.
    pub cohort_requests: Histogram,
    /// Prompt tokens prefilled.
    pub prefill_tokens: AtomicU64,
    /// Beam rows decoded, one a step.
    pub decoded_beams: AtomicU64,
    /// Gauge: requests without a slot.
    pub waiting: AtomicU64,
    /// Gauge: requests that hold a slot.
    pub running: AtomicU64,
    /// Slots in all.
    pub slots: AtomicU64,
    /// Gauge: free pages of the history pool.
    pub free_pages: AtomicU64,
    /// Pages of the history pool.
    pub pages: AtomicU64,
    /// How often the device was lost and opened again.
    pub device_losses: AtomicU64,
    /// New scenario files taken since start.
    pub scenarios_applied: AtomicU64,
    /// New scenario files that were bad or gone, so that the former ones held.
    pub scenarios_refused: AtomicU64,
    /// The device was lost and is being opened again: requests wait.
    pub reopening: AtomicBool,
    /// The device was lost for good, or a thread panicked: every request is refused `DEVICE_FAILED`.
    pub given_up: AtomicBool,
}

impl Default for Stats {
    fn default() -> Stats {
        Stats {
            answered: AtomicU64::default(),
            refused: Default::default(),
            stages: std::array::from_fn(|_| Histogram::new(STAGE_BOUNDS_US)),
            cohort_rows: Histogram::new(ROW_BOUNDS),
            cohort_requests: Histogram::new(REQUEST_BOUNDS),
            prefill_tokens: AtomicU64::default(),
            decoded_beams: AtomicU64::default(),
            waiting: AtomicU64::default(),
            running: AtomicU64::default(),
            slots: AtomicU64::default(),
            free_pages: AtomicU64::default(),
            pages: AtomicU64::default(),
            device_losses: AtomicU64::default(),
            scenarios_applied: AtomicU64::default(),
            scenarios_refused: AtomicU64::default(),
            reopening: AtomicBool::default(),
            given_up: AtomicBool::default(),
        }
    }
}

impl Stats {
    /// Counts an answer.
    pub fn count(&self, answer: &Answer) {
        match answer {
            Ok(recommendation) => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                let spent = recommendation.timings.by_stage();
                self.stages.iter().zip(spent).for_each(|(stage, (_, spent_us))| stage.observe(u64::from(spent_us)));
            }
            Err(refusal) => {
                self.refused[refusal.kind as usize - 1].fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Everything, as it is now.
    pub fn counts(&self, in_flight: usize) -> EngineCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        EngineCounts {
            answered: read(&self.answered),
            refused: std::array::from_fn(|at| read(&self.refused[at])),
            stages: std::array::from_fn(|at| self.stages[at].snapshot()),
            cohort_rows: self.cohort_rows.snapshot(),
            cohort_requests: self.cohort_requests.snapshot(),
            prefill_tokens: read(&self.prefill_tokens),
            decoded_beams: read(&self.decoded_beams),
            in_flight: in_flight as u64,
            waiting: read(&self.waiting),
            running: read(&self.running),
            slots: read(&self.slots),
            free_pages: read(&self.free_pages),
            pages: read(&self.pages),
            device_losses: read(&self.device_losses),
            scenarios_applied: read(&self.scenarios_applied),
            scenarios_refused: read(&self.scenarios_refused),
            ready: !self.given_up.load(Ordering::Acquire) && !self.reopening.load(Ordering::Acquire),
            ..EngineCounts::default()
        }
    }
}

/// What the engine had counted at some moment, and what the newest snapshot of the catalogue and the scenarios tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineCounts {
    /// Requests answered with results.
    pub answered: u64,
    /// Requests refused, in the order of [`RefusalKind::ALL`].
    pub refused: [u64; RefusalKind::ALL.len()],
    /// Microseconds of answered requests, in the order of [`StageTimings::STAGES`].
    pub stages: [HistogramSnapshot; StageTimings::STAGES.len()],
    /// Beam rows a cohort.
    pub cohort_rows: HistogramSnapshot,
    /// Requests a cohort.
    pub cohort_requests: HistogramSnapshot,
    /// Prompt tokens prefilled.
    pub prefill_tokens: u64,
    /// Beam rows decoded, one a step.
    pub decoded_beams: u64,
    /// Requests accepted and not answered.
    pub in_flight: u64,
    /// Those without a slot.
    pub waiting: u64,
    /// Those with one.
    pub running: u64,
    /// Slots in all.
    pub slots: u64,
    /// Free pages of the history pool.
    pub free_pages: u64,
    /// Pages of the history pool.
    pub pages: u64,
    /// How often the device was lost and opened again.
    pub device_losses: u64,
    /// There is a device, and requests are served.
    pub ready: bool,
    /// Version of the catalogue's newest snapshot.
    pub catalog: String,
    /// Items that are delisted in it.
    pub delisted: u64,
    /// Scenarios in force.
    pub scenarios: u64,
    /// New scenario files taken since start.
    pub scenarios_applied: u64,
    /// New scenario files that were bad or gone, so that the former ones held.
    pub scenarios_refused: u64,
    /// The weights that newcomers are served by.
    pub policy: Policy,
    /// How often weights were replaced.
    pub weights_replaced: u64,
    /// Attempts to replace them that failed.
    pub weights_failed: u64,
}

impl EngineCounts {
    /// As a JSON object.
    pub fn to_json(&self) -> Value {
        let refused: Map<_, _> =
            RefusalKind::ALL.iter().zip(self.refused).map(|(kind, count)| (kind.name().into(), count.into())).collect();
        let stages: Map<_, _> = StageTimings::STAGES
            .iter()
            .zip(&self.stages)
            .map(|(name, spent)| ((*name).into(), json!({"count": spent.count(), "sum_us": spent.sum})))
            .collect();
        json!({
            "answered": self.answered,
            "refused": refused,
            "in_flight": self.in_flight,
            "waiting": self.waiting,
            "running": self.running,
            "slots": self.slots,
            "free_pages": self.free_pages,
            "pages": self.pages,
            "prefill_tokens": self.prefill_tokens,
            "decoded_beams": self.decoded_beams,
            "cohorts": self.cohort_requests.count(),
            "cohort_requests": self.cohort_requests.sum,
            "cohort_rows": self.cohort_rows.sum,
            "stages": stages,
            "device_losses": self.device_losses,
            "ready": self.ready,
            "catalog": self.catalog,
            "delisted": self.delisted,
            "scenarios": self.scenarios,
            "scenario_reloads": {"applied": self.scenarios_applied, "refused": self.scenarios_refused},
            "policy": {"number": self.policy.number, "version": self.policy.version},
            "weights_replaced": self.weights_replaced,
            "weights_failed": self.weights_failed,
        })
    }
}
