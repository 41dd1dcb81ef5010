//! Medians and spreads.

/// What repeats amount to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The middle.
    pub median: f64,
    /// A tenth lies below.
    pub p10: f64,
    /// A tenth lies above.
    pub p90: f64,
    /// One in a hundred lies above.
    pub p99: f64,
}

impl Summary {
    /// Of at least one number.
    pub fn of(numbers: impl IntoIterator<Item = f64>) -> Option<Summary> {
        let mut sorted: Vec<f64> = numbers.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |part: f64| {
            let place = part * last as f64;
            let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        Some(Summary { median: at(0.5), p10: at(0.1), p90: at(0.9), p99: at(0.99) })
    }

    /// From the lowest to the highest tenth, in percent of the median.
    pub fn spread_pct(&self) -> f64 {
        100.0 * (self.p90 - self.p10) / self.median
    }
}

#[cfg(test)]
mod tests {
    use super::Summary;

    #[test]
    fn quantiles_lie_between_neighbours() {
        let summary = Summary::of((0..=10).rev().map(f64::from)).unwrap();
        assert_eq!((summary.median, summary.p10, summary.p90), (5.0, 1.0, 9.0));
        assert_eq!(summary.spread_pct(), 160.0);
        assert_eq!(Summary::of([1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(Summary::of([]), None);
    }
}
