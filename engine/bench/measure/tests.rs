//! Figures by hand.

use super::*;
use crate::request::{RefusalKind, StageTimings};

const MS: fn(u64) -> Duration = Duration::from_millis;

fn record(due: u64, latency: u64, outcome: Outcome) -> Record {
    Record { due: MS(due), lag: Duration::ZERO, latency: MS(latency), outcome }
}

fn answered(due: u64, latency: u64) -> Record {
    record(due, latency, Outcome::Answered(StageTimings::default()))
}

fn measure(requests: Vec<Record>, cut: Option<Cut>, target: Target) -> Run {
    let asked = Asked { name: "test".into(), rate: Some(1.0), in_flight: None, seed: 1 };
    let length = target.length;
    Run::measure(asked, &Records { requests, cut, length, ..Records::default() }, &target)
}

fn target() -> Target {
    Target { warmup: MS(1000), length: MS(2000), ..Target::default() }
}

#[test]
fn every_request_is_counted_once() {
    let requests = vec![
        answered(999, 5_000),
        answered(1000, 10),
        answered(1100, 60),
        answered(1200, 5_000),
        record(1300, 1, Outcome::Refused(RefusalKind::Overloaded)),
        record(1400, 1, Outcome::Refused(RefusalKind::Deadline)),
        record(1500, 1, Outcome::Refused(RefusalKind::Deadline)),
        record(1600, 1, Outcome::Failed),
        record(1700, 1, Outcome::TimedOut),
        record(1800, 1, Outcome::CutOff),
    ];
    let target = Target { slo: Some(MS(100)), deadline: Some(MS(50)), ..target() };
    let run = measure(requests, None, target);
    let counts = &run.counts;
    let parts = counts.answered + counts.refused() + counts.errors + counts.timeouts + counts.cut_off;
    assert_eq!((counts.due, parts, counts.warmup), (9, 9, 1));
    assert_eq!((counts.answered, counts.in_time), (3, 1));
    assert_eq!(counts.refused, BTreeMap::from([("OVERLOADED", 1), ("DEADLINE", 2)]));
    // Two answers came while it was measured; one was in time.
    assert_eq!((run.seconds, run.throughput, run.goodput), (1.0, 2.0, 1.0));
    let slo = run.slo.unwrap();
    assert!((slo.share - 2.0 / 9.0).abs() < 1e-12 && !slo.met);
}

#[test]
fn percentiles_have_three_digits() {
    let run = measure((0..1000).map(|at| answered(1000, at + 1)).collect(), None, target());
    let Percentiles { p50, p99, p999, max, mean, .. } = run.latency_ms;
    for (value, expected) in [(p50, 500.0), (p99, 990.0), (p999, 999.0), (max, 1000.0), (mean, 500.5)] {
        assert!((value / expected - 1.0f64).abs() < 2e-3, "{value} for {expected}");
    }
    // Thirty points for three nines; the last share is that of one in a thousand.
    assert_eq!(run.curve.len(), 31);
    assert!((run.curve[30].0 - 0.999).abs() < 1e-9 && run.curve.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1));
}

/// Refusals are quick: were they left out, shedding nearly everything would look like meeting the target.
#[test]
fn what_is_refused_has_missed_the_slo() {
    let slo = Target { slo: Some(MS(100)), ..target() };
    let refused = |count: u64| {
        (0..count)
            .map(|_| record(1000, 1, Outcome::Refused(RefusalKind::Deadline)))
            .chain((count..1000).map(|_| answered(1000, 9)))
    };
    assert!(measure(refused(10).collect(), None, slo).is_good());
    let run = measure(refused(11).collect(), None, slo);
    assert!(!run.is_good() && run.latency_ms.p99 < 10.0);
    assert!(!measure(refused(0).collect(), Some(Cut::Decided), slo).is_good(), "cut short");
}

#[test]
fn a_generator_that_could_not_keep_up_makes_a_run_invalid() {
    let lagging = |lag_ms: u64, latency: u64| {
        let requests = (0..100).map(|_| Record { lag: MS(lag_ms), ..answered(1500, latency) }).collect();
        measure(requests, None, target()).invalid
    };
    assert_eq!(lagging(1, 3), None, "2 ms are always allowed");
    assert_eq!(lagging(9, 100), None, "a tenth of the latency is allowed");
    assert!(lagging(11, 100).unwrap().contains("11.0"));
    let slo = Target { slo: Some(MS(100)), ..target() };
    let requests = (0..100).map(|_| Record { lag: MS(9), ..answered(1500, 20) }).collect();
    assert_eq!(measure(requests, None, slo).invalid, None, "a tenth of the SLO is allowed");
    let strict = Target { max_lag: Some(MS(5)), ..target() };
    let requests = (0..100).map(|_| Record { lag: MS(9), ..answered(1500, 100) }).collect();
    assert!(measure(requests, None, strict).invalid.unwrap().contains("5.00 ms are allowed"));
}

#[test]
fn an_empty_run_is_invalid_and_divides_nothing_by_nothing() {
    let run = measure(vec![answered(0, 1)], None, target());
    assert!(run.invalid.is_some_and(|told| told.contains("--duration")));
    assert_eq!((run.latency_ms, run.curve.len(), run.stages.len()), (Percentiles::default(), 0, 0));
    let interrupted = measure(vec![answered(1000, 1)], Some(Cut::Interrupted), target());
    assert!(interrupted.invalid.is_some_and(|told| told.contains("interrupted")));
}
