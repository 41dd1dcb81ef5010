//! From the records of a run to its figures. Percentiles are of HDR histograms: microseconds, three digits.
//!
//! Invariant: `counts` add up to what was due. A request without an answer has no latency in the percentiles, but it has
//! missed every target: whether a run meets its SLO is a share of all requests that were due, never of those answered.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::records::{Cut, Outcome, Record, Records};
use super::stages::{StageRow, stage_rows};
use super::timeline::{Moment, timeline};

/// Longest latency that a histogram tells from longer ones: an hour.
const LONGEST_US: u64 = 3_600_000_000;
/// A generator's lag is beside the point below this.
const SMALL_LAG: Duration = Duration::from_millis(2);
/// And below this share of the latency that it is part of.
const SMALL_SHARE: f64 = 0.1;

/// What a run is judged by.
#[derive(Clone, Copy, Debug, Default)]
pub struct Target {
    /// Requests due before this are sent and not counted.
    pub warmup: Duration,
    /// How long requests were due.
    pub length: Duration,
    /// 99% of the requests shall be answered within this.
    pub slo: Option<Duration>,
    /// An answer is in time within this.
    pub deadline: Option<Duration>,
    /// Most lag that the generator may have at P99; `None`: a tenth of the latency's P99 or of the SLO,
    /// whichever is more, or 2 ms if that is more yet.
    pub max_lag: Option<Duration>,
}

/// How many requests ended how. All but `unsent` add up to `due`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Requests that were due after the warm-up.
    pub due: usize,
    /// Answered with results.
    pub answered: usize,
    /// Of those, within the deadline and the SLO, whichever were given.
    pub in_time: usize,
    /// Refused, by kind.
    pub refused: BTreeMap<&'static str, usize>,
    /// Lost with their connection.
    pub errors: usize,
    /// Without an answer for as long as one is waited for.
    pub timeouts: usize,
    /// In flight when the run was cut short.
    pub cut_off: usize,
    /// Not due yet when the run was cut short.
    pub unsent: usize,
    /// Due during the warm-up: sent, and counted nowhere else.
    pub warmup: usize,
}

impl Counts {
    /// Share of those due that were answered in time, in per cent; never rounded up to 100.
    pub fn in_time_percent(&self) -> String {
        format!("{:.2}", (self.in_time as f64 / self.due.max(1) as f64 * 1e4).floor() / 1e2)
    }

    /// Refused for any reason.
    pub fn refused(&self) -> usize {
        self.refused.values().sum()
    }
}

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90%.
    pub p90: f64,
    /// 95%.
    pub p95: f64,
    /// 99%.
    pub p99: f64,
    /// 99.9%.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// What was asked for, for people.
    pub name: String,
    /// Requests a second that were due, in an open loop.
    pub rate: Option<f64>,
    /// Requests in flight, in a closed loop.
    pub in_flight: Option<usize>,
    /// Of the schedule.
    pub seed: u64,
    /// Seconds that were measured, after the warm-up.
    pub seconds: f64,
    /// How many ended how.
    pub counts: Counts,
    /// Answers a second that came while it was measured.
    pub throughput: f64,
    /// Requests a second that were answered in time.
    pub goodput: f64,
    /// From the scheduled arrival, of those answered.
    pub latency_ms: Percentiles,
    /// Until a refusal.
    pub refusal_ms: Percentiles,
    /// From the scheduled arrival to when it was sent.
    pub lag_ms: Percentiles,
    /// Share of all that were due which the SLO's latency saw answered, and whether that is enough.
    pub slo: Option<SloVerdict>,
    /// Why the figures are not to be trusted, if so.
    pub invalid: Option<String>,
    /// One of the refusals.
    pub first_refusal: Option<String>,
    /// What broke a connection.
    pub first_failure: Option<String>,
    /// `(share, latency in milliseconds)`, ascending.
    pub curve: Vec<(f64, f64)>,
    /// Where the time went.
    pub stages: Vec<StageRow>,
    /// Over the run, warm-up included.
    pub timeline: Vec<Moment>,
}

/// Whether a run meets its SLO.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SloVerdict {
    /// The latency.
    pub p99_ms: f64,
    /// Share of the requests due that were answered within it.
    pub share: f64,
    /// Whether that is 99%, over a whole run.
    pub met: bool,
}

/// Who asked, for a run's head.
#[derive(Clone, Debug)]
pub struct Asked {
    /// For people.
    pub name: String,
    /// Open loop.
    pub rate: Option<f64>,
    /// Closed loop.
    pub in_flight: Option<usize>,
    /// Of the schedule.
    pub seed: u64,
}

impl Run {
    /// The figures of `records`.
    pub fn measure(asked: Asked, records: &Records, target: &Target) -> Run {
        let measured: Vec<Record> =
            records.requests.iter().filter(|record| record.due >= target.warmup).copied().collect();
        let length = if records.cut.is_some() { records.length.min(target.length) } else { target.length };
        let seconds = length.saturating_sub(target.warmup).as_secs_f64();
        let per_second = |count: usize| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let counts = count(&measured, records, target);
        let answered = |record: &Record| matches!(record.outcome, Outcome::Answered(_));
        let latencies = histogram(measured.iter().filter(|record| answered(record)).map(|record| record.latency));
        let refusals = measured.iter().filter(|record| matches!(record.outcome, Outcome::Refused(_)));
        let lags = histogram(measured.iter().map(|record| record.lag));
        let came =
            |record: &&Record| answered(record) && (target.warmup..length).contains(&(record.due + record.latency));
        let slo = target.slo.map(|slo| verdict(&measured, records, slo));
        Run {
            name: asked.name,
            rate: asked.rate,
            in_flight: asked.in_flight,
            seed: asked.seed,
            seconds,
            throughput: per_second(records.requests.iter().filter(came).count()),
            goodput: per_second(counts.in_time),
            latency_ms: percentiles(&latencies),
            refusal_ms: percentiles(&histogram(refusals.map(|record| record.latency))),
            lag_ms: percentiles(&lags),
            slo,
            invalid: fault(&counts, (&latencies, &lags), records.cut, target),
            first_refusal: records.first_refusal.clone(),
            first_failure: records.first_failure.clone(),
            curve: curve(&latencies),
            stages: stage_rows(&measured),
            timeline: timeline(&records.requests, length),
            counts,
        }
    }

    /// Whether the run met its SLO and can be trusted.
    pub fn is_good(&self) -> bool {
        self.invalid.is_none() && self.slo.is_none_or(|slo| slo.met)
    }
}

fn count(measured: &[Record], records: &Records, target: &Target) -> Counts {
    let warmup = records.requests.len() - measured.len();
    let mut counts = Counts { due: measured.len(), unsent: records.unsent, warmup, ..Counts::default() };
    let limit = [target.slo, target.deadline].into_iter().flatten().min().unwrap_or(Duration::MAX);
    for record in measured {
        match record.outcome {
            Outcome::Answered(_) => {
                counts.answered += 1;
                counts.in_time += usize::from(record.latency <= limit);
            }
            Outcome::Refused(kind) => *counts.refused.entry(kind.name()).or_default() += 1,
            Outcome::Failed => counts.errors += 1,
            Outcome::TimedOut => counts.timeouts += 1,
            Outcome::CutOff => counts.cut_off += 1,
        }
    }
    counts
}

fn verdict(measured: &[Record], records: &Records, slo: Duration) -> SloVerdict {
    let good = |record: &&Record| matches!(record.outcome, Outcome::Answered(_)) && record.latency <= slo;
    let share = measured.iter().filter(good).count() as f64 / measured.len().max(1) as f64;
    // A run that was cut short has shown nothing but misses.
    let met = !measured.is_empty() && share >= 0.99 && records.cut.is_none();
    SloVerdict { p99_ms: slo.as_secs_f64() * 1e3, share, met }
}

/// Why a run's figures are not what they claim to be.
fn fault(
    counts: &Counts,
    (latencies, lags): (&Histogram<u64>, &Histogram<u64>),
    cut: Option<Cut>,
    target: &Target,
) -> Option<String> {
    if cut == Some(Cut::Interrupted) {
        return Some("interrupted before its end".to_owned());
    }
    if counts.due == 0 {
        return Some("no request was due after the warm-up: a longer --duration or a higher rate is needed".to_owned());
    }
    let latency = Duration::from_micros(latencies.value_at_quantile(0.99));
    // Lag is part of the latency: where it is small against the SLO, a run that meets the SLO meets it all the same.
    let judged = latency.max(target.slo.unwrap_or_default());
    let allowed = target.max_lag.unwrap_or(SMALL_LAG.max(judged.mul_f64(SMALL_SHARE)));
    let lag = Duration::from_micros(lags.value_at_quantile(0.99));
    (lag > allowed).then(|| {
        format!(
            "the generator could not keep up: 1% of the requests were sent {:.2} ms or more after they were due, and \
             {:.2} ms are allowed",
            lag.as_secs_f64() * 1e3,
            allowed.as_secs_f64() * 1e3
        )
    })
}

fn histogram(durations: impl Iterator<Item = Duration>) -> Histogram<u64> {
    // The bounds are constants that the crate takes.
    let mut histogram = Histogram::new_with_bounds(1, LONGEST_US, 3).expect("valid bounds");
    durations.for_each(|time| histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)));
    histogram
}

fn percentiles(histogram: &Histogram<u64>) -> Percentiles {
    if histogram.is_empty() {
        return Percentiles::default();
    }
    let at = |share| histogram.value_at_quantile(share) as f64 / 1e3;
    Percentiles {
        mean: histogram.mean() / 1e3,
        p50: at(0.5),
        p90: at(0.9),
        p95: at(0.95),
        p99: at(0.99),
        p999: at(0.999),
        max: histogram.max() as f64 / 1e3,
    }
}

/// Ten points for every nine, as far as there are requests to tell them apart.
fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let count = histogram.len() as f64;
    if count == 0.0 {
        return Vec::new();
    }
    let steps = (count.log10() * 10.0).floor() as usize;
    let shares = (0..=steps).map(|step| 1.0 - 10f64.powf(-(step as f64) / 10.0));
    shares.map(|share| (share, histogram.value_at_quantile(share) as f64 / 1e3)).collect()
}

#[cfg(test)]
mod tests;
