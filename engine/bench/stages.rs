//! Where the time of the answered requests went: the stages that replies carry, what came before (the generator's lag), and
//! the rest, which is the wire, the sockets and the client.

use std::time::Duration;

use serde::Serialize;

use super::records::{Outcome, Record};

/// Names of the segments, in the order of a request's life but for the last, which is what is left.
pub const SEGMENTS: [&str; 7] = ["late sending", "resolve", "queue", "prefill", "search", "expand", "wire + client"];

/// Mean times of a group of requests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StageRow {
    /// Which requests.
    pub of: &'static str,
    /// How many.
    pub requests: usize,
    /// Milliseconds by segment, in the order of [`SEGMENTS`]. They add up to the group's mean latency.
    pub ms: [f64; SEGMENTS.len()],
}

/// All requests, then groups of them by latency.
pub fn stage_rows(records: &[Record]) -> Vec<StageRow> {
    let mut answered: Vec<&Record> =
        records.iter().filter(|record| matches!(record.outcome, Outcome::Answered(_))).collect();
    answered.sort_by_key(|record| record.latency);
    let count = answered.len();
    let groups = [
        ("all", 0..count),
        ("fastest half", 0..count.div_ceil(2)),
        ("slowest 10%", count - count / 10..count),
        ("slowest 1%", count - count / 100..count),
    ];
    let rows = groups.into_iter().map(|(of, range)| row(of, &answered[range]));
    rows.filter(|row| row.requests > 0).collect()
}

fn row(of: &'static str, records: &[&Record]) -> StageRow {
    let mut ms = [0.0; SEGMENTS.len()];
    for record in records {
        for (sum, part) in ms.iter_mut().zip(segments(record)) {
            *sum += part.as_secs_f64() * 1e3 / records.len() as f64;
        }
    }
    StageRow { of, requests: records.len(), ms }
}

fn segments(record: &Record) -> [Duration; SEGMENTS.len()] {
    let Outcome::Answered(told) = record.outcome else { return [Duration::ZERO; SEGMENTS.len()] };
    let stages = [told.resolve_us, told.queue_us, told.prefill_us, told.search_us, told.expand_us];
    let [resolve, queue, prefill, search, expand] = stages.map(|us| Duration::from_micros(us.into()));
    let known = record.lag + resolve + queue + prefill + search + expand;
    [record.lag, resolve, queue, prefill, search, expand, record.latency.saturating_sub(known)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{RefusalKind, StageTimings};

    fn record(latency_ms: u64, search_us: u32) -> Record {
        let timings = StageTimings { search_us, total_us: search_us, ..StageTimings::default() };
        let lag = Duration::from_millis(1);
        Record {
            due: Duration::ZERO,
            lag,
            latency: Duration::from_millis(latency_ms),
            outcome: Outcome::Answered(timings),
        }
    }

    #[test]
    fn segments_add_up_to_the_latency() {
        let mut records: Vec<Record> = (1..=100).map(|ms| record(ms + 1, (ms * 900) as u32)).collect();
        records.push(Record { outcome: Outcome::Refused(RefusalKind::Deadline), ..records[0] });
        let rows = stage_rows(&records);
        let shape: Vec<_> = rows.iter().map(|row| (row.of, row.requests)).collect();
        assert_eq!(shape, [("all", 100), ("fastest half", 50), ("slowest 10%", 10), ("slowest 1%", 1)]);
        let sum: f64 = rows[0].ms.iter().sum();
        assert!((sum - 51.5).abs() < 1e-9, "{sum}");
        assert!((rows[3].ms[4] - 90.0).abs() < 1e-9 && (rows[3].ms[6] - 10.0).abs() < 1e-9, "{:?}", rows[3]);
        assert!(stage_rows(&[]).is_empty());
    }
}
