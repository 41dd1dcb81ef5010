//! What `eval` and `demo` measure: ranking quality with one target a user, legality, and time.
//!
//! With a single relevant item, NDCG@K is 1 / log2(rank + 1) when the target is among the first K, else 0 (the ideal
//! ranking has it first, with gain 1), and HR@K is 1 or 0. Ranks are of *items*: results are expanded in order, the items
//! of a semantic ID in the order they are given.

use std::time::Duration;

use serde::Serialize;

/// How deep rankings are looked at.
pub const DEPTH: usize = 10;

/// Sums over users.
#[derive(Clone, Debug, Default)]
pub struct Ranking {
    users: usize,
    hits_at_1: usize,
    hits_at_5: usize,
    hits_at_10: usize,
    ndcg_at_10: f64,
}

/// Means over users.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quality {
    /// Users.
    pub users: usize,
    /// Share of users whose target stands first.
    #[serde(rename = "hr@1")]
    pub hr_at_1: f64,
    /// Share whose target is among the first 5 items.
    #[serde(rename = "hr@5")]
    pub hr_at_5: f64,
    /// Share whose target is among the first 10 items.
    #[serde(rename = "hr@10")]
    pub hr_at_10: f64,
    /// Mean of 1 / log2(rank + 1) over the first 10 items.
    #[serde(rename = "ndcg@10")]
    pub ndcg_at_10: f64,
}

impl Ranking {
    /// Counts a user whose target stands at `rank`, from 1; `None` when it is nowhere among the ranked items.
    pub fn count(&mut self, rank: Option<usize>) {
        self.users += 1;
        let Some(rank) = rank.filter(|rank| (1..=DEPTH).contains(rank)) else { return };
        self.hits_at_1 += usize::from(rank <= 1);
        self.hits_at_5 += usize::from(rank <= 5);
        self.hits_at_10 += 1;
        self.ndcg_at_10 += 1.0 / (rank as f64 + 1.0).log2();
    }

    /// Means.
    pub fn quality(&self) -> Quality {
        let users = self.users.max(1) as f64;
        Quality {
            users: self.users,
            hr_at_1: self.hits_at_1 as f64 / users,
            hr_at_5: self.hits_at_5 as f64 / users,
            hr_at_10: self.hits_at_10 as f64 / users,
            ndcg_at_10: self.ndcg_at_10 / users,
        }
    }
}

/// Rank of `target`, from 1, within the first [`DEPTH`] of `items`.
pub fn rank_of<T: PartialEq>(target: &T, items: impl IntoIterator<Item = T>) -> Option<usize> {
    items.into_iter().take(DEPTH).position(|item| item == *target).map(|at| at + 1)
}

/// Latencies and throughput of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// Requests answered.
    pub requests: usize,
    /// Wall-clock time of the run.
    pub seconds: f64,
    /// Requests a second.
    pub requests_per_second: f64,
    /// Median latency, as the caller sees it.
    pub latency_ms_p50: f64,
    /// 95th percentile.
    pub latency_ms_p95: f64,
    /// 99th percentile.
    pub latency_ms_p99: f64,
}

impl Speed {
    /// Summarises one latency a request, and the time that all of them took together.
    pub fn of(mut latencies: Vec<Duration>, elapsed: Duration) -> Speed {
        latencies.sort_unstable();
        let millis = |share| percentile(&latencies, share).as_secs_f64() * 1e3;
        let seconds = elapsed.as_secs_f64();
        Speed {
            requests: latencies.len(),
            seconds,
            requests_per_second: if seconds > 0.0 { latencies.len() as f64 / seconds } else { 0.0 },
            latency_ms_p50: millis(0.50),
            latency_ms_p95: millis(0.95),
            latency_ms_p99: millis(0.99),
        }
    }
}

/// The nearest-rank percentile of sorted values: the smallest that at least `share` of them do not exceed.
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_target_by_hand() {
        let mut ranking = Ranking::default();
        for rank in [Some(1), Some(3), Some(7), Some(10), Some(11), None, None, None] {
            ranking.count(rank);
        }
        let quality = ranking.quality();
        assert_eq!(quality.users, 8);
        assert_eq!(quality.hr_at_1, 1.0 / 8.0);
        assert_eq!(quality.hr_at_5, 2.0 / 8.0);
        assert_eq!(quality.hr_at_10, 4.0 / 8.0);
        // 1/log2(2) = 1, 1/log2(4) = 0.5, 1/log2(8) = 0.333.., 1/log2(11) = 0.28906482631788
        let by_hand = (1.0 + 0.5 + 1.0 / 3.0 + 0.289_064_826_317_88) / 8.0;
        assert!((quality.ndcg_at_10 - by_hand).abs() < 1e-12, "{}", quality.ndcg_at_10);
    }

    #[test]
    fn nobody_is_not_a_division_by_zero() {
        let quality = Ranking::default().quality();
        assert_eq!((quality.users, quality.hr_at_10, quality.ndcg_at_10), (0, 0.0, 0.0));
        let speed = Speed::of(Vec::new(), Duration::ZERO);
        assert_eq!((speed.requests, speed.latency_ms_p99, speed.requests_per_second), (0, 0.0, 0.0));
    }

    #[test]
    fn ranks_items_up_to_the_depth() {
        assert_eq!(rank_of(&5, [5, 6]), Some(1));
        assert_eq!(rank_of(&10, 1..=20), Some(10));
        assert_eq!(rank_of(&11, 1..=20), None);
        assert_eq!(rank_of(&1, []), None);
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let sorted: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&sorted, 0.50), Duration::from_millis(50));
        assert_eq!(percentile(&sorted, 0.95), Duration::from_millis(95));
        assert_eq!(percentile(&sorted, 0.99), Duration::from_millis(99));
        assert_eq!(percentile(&sorted[..1], 0.99), Duration::from_millis(1));
        assert_eq!(percentile(&sorted[..10], 0.95), Duration::from_millis(10));
        let speed = Speed::of(sorted.into_iter().rev().collect(), Duration::from_secs(2));
        assert_eq!((speed.latency_ms_p50, speed.requests_per_second), (50.0, 50.0));
    }
}
