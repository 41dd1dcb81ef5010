//! Histograms with fixed buckets: what every thread may count into without a lock or an allocation.
//!
//! A bucket counts what it holds alone; sums over buckets are the reader's work. So the count of a snapshot is always that of
//! its buckets, whoever counts meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds of a stage's buckets in microseconds: 100 us to 10 s.
pub const STAGE_BOUNDS_US: &[u64] = &[
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];
/// Upper bounds for the beam rows of a cohort.
pub const ROW_BOUNDS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];
/// Upper bounds for the requests of a cohort.
pub const REQUEST_BOUNDS: &[u64] = &[1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];

/// Counts by bucket, and the sum of what was counted.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds, ascending, each part of its bucket.
    bounds: &'static [u64],
    /// One a bound, and one for what is above all of them.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// Empty, with these buckets.
    pub fn new(bounds: &'static [u64]) -> Histogram {
        Histogram { bounds, counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }

    /// Counts a value.
    pub fn observe(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// What has been counted by now.
    pub fn snapshot(&self) -> HistogramSnapshot {
        HistogramSnapshot {
            bounds: self.bounds,
            counts: self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            sum: self.sum.load(Ordering::Relaxed),
        }
    }
}

/// What a histogram held at some moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// Upper bounds of the buckets, ascending.
    pub bounds: &'static [u64],
    /// Values in each bucket alone; the last is above every bound.
    pub counts: Vec<u64>,
    /// Sum of the values.
    pub sum: u64,
}

impl HistogramSnapshot {
    /// Values counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The bound below which a share of the values lies; `None` when there is no value, or it lies above every bound.
    pub fn bound_of(&self, share: f64) -> Option<u64> {
        let wanted = (self.count() as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        self.bounds.iter().zip(&self.counts).find_map(|(bound, count)| {
            seen += count;
            (seen >= wanted).then_some(*bound)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::new(&[10, 20, 40]);
        for value in [0, 10, 11, 20, 40, 41, 1_000_000] {
            histogram.observe(value);
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.counts, [2, 2, 1, 2]);
        assert_eq!((snapshot.count(), snapshot.sum), (7, 1_000_122));
    }

    #[test]
    fn a_share_of_the_values_lies_below_its_bound() {
        let histogram = Histogram::new(&[10, 20, 40]);
        assert_eq!(histogram.snapshot().bound_of(0.5), None);
        (0..9).for_each(|_| histogram.observe(5));
        histogram.observe(30);
        let snapshot = histogram.snapshot();
        assert_eq!(
            (snapshot.bound_of(0.0), snapshot.bound_of(0.9), snapshot.bound_of(0.91)),
            (Some(10), Some(10), Some(40))
        );
        histogram.observe(41);
        assert_eq!(histogram.snapshot().bound_of(1.0), None);
    }

    #[test]
    fn bounds_ascend() {
        for bounds in [STAGE_BOUNDS_US, ROW_BOUNDS, REQUEST_BOUNDS] {
            assert!(bounds.is_sorted_by(|a, b| a < b), "{bounds:?}");
        }
    }
}
