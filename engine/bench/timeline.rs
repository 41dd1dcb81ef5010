//! A run from its beginning to its end, in slices of equal length: what was due in each and how long it took, and what came
//! back in it.

use std::time::Duration;

use serde::Serialize;

use super::records::{Outcome, Record};

/// Most slices: what a plot has room for.
const SLICES: f64 = 60.0;
/// Shortest slice, in seconds.
const SHORTEST: f64 = 0.01;

/// A slice of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Moment {
    /// Its beginning, in seconds from the start.
    pub at: f64,
    /// Its length in seconds.
    pub seconds: f64,
    /// Requests that were due in it.
    pub due: usize,
    /// Of those, how many got no results.
    pub unanswered: usize,
    /// Answers that came in it, whenever they were due.
    pub completions: usize,
    /// Median latency in milliseconds of those that were due in it and answered.
    pub p50_ms: Option<f64>,
    /// 99th percentile of the same.
    pub p99_ms: Option<f64>,
}

/// Slices of a run of `length`. Answers that came later than that are in none, as completions.
pub fn timeline(records: &[Record], length: Duration) -> Vec<Moment> {
    let length = length.as_secs_f64();
    if length <= 0.0 {
        return Vec::new();
    }
    let seconds = round_up(length / SLICES).max(SHORTEST);
    let count = (length / seconds).ceil() as usize;
    let slice = |at: Duration| ((at.as_secs_f64() / seconds) as usize).min(count - 1);
    let mut moments: Vec<Moment> =
        (0..count).map(|at| Moment { at: at as f64 * seconds, seconds, ..Moment::default() }).collect();
    let mut latencies = vec![Vec::new(); count];
    for record in records {
        let due = slice(record.due);
        moments[due].due += 1;
        if !matches!(record.outcome, Outcome::Answered(_)) {
            moments[due].unanswered += 1;
            continue;
        }
        latencies[due].push(record.latency);
        let end = record.due + record.latency;
        if end.as_secs_f64() < length {
            moments[slice(end)].completions += 1;
        }
    }
    for (moment, mut latencies) in moments.iter_mut().zip(latencies) {
        latencies.sort_unstable();
        moment.p50_ms = percentile(&latencies, 0.5);
        moment.p99_ms = percentile(&latencies, 0.99);
    }
    moments
}

/// 1, 2 or 5 times a power of ten, not below `value`.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|step| step * power).into_iter().find(|&step| step >= value * 0.999).unwrap_or(value)
}

/// By nearest rank: a slice has too few requests for a histogram.
fn percentile(sorted: &[Duration], share: f64) -> Option<f64> {
    let rank = ((share * sorted.len() as f64).ceil() as usize).max(1);
    sorted.get(rank - 1).map(|latency| latency.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::StageTimings;

    #[test]
    fn slices_hold_every_request_once() {
        let record = |due: u64, latency: u64, outcome| Record {
            due: Duration::from_millis(due),
            lag: Duration::ZERO,
            latency: Duration::from_millis(latency),
            outcome,
        };
        let answered = Outcome::Answered(StageTimings::default());
        let records = [
            record(0, 10, answered),
            record(150, 2_000, answered),
            record(160, 5, Outcome::TimedOut),
            record(5_999, 900, answered),
        ];
        let moments = timeline(&records, Duration::from_secs(6));
        assert_eq!((moments.len(), moments[0].seconds), (60, 0.1));
        assert_eq!(moments.iter().map(|moment| moment.due).sum::<usize>(), 4);
        assert_eq!((moments[1].due, moments[1].unanswered, moments[1].p50_ms), (2, 1, Some(2000.0)));
        // The last answer came after the end.
        assert_eq!((moments[21].completions, moments.iter().map(|m| m.completions).sum::<usize>()), (1, 2));
        assert!(timeline(&records, Duration::ZERO).is_empty());
    }

    #[test]
    fn slices_have_round_lengths() {
        for (length, expected) in [(0.1, 0.1), (0.11, 0.2), (0.3, 0.5), (7.0, 10.0), (1e-9, 1e-9)] {
            assert!((round_up(length) / expected - 1.0).abs() < 1e-9, "{length}: {}", round_up(length));
        }
    }
}
