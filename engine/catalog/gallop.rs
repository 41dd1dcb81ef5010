//! Search in large ascending tables, for the way from a node to its parent.

/// Position of the last of the ascending `values` that is not above `wanted`; the first one is not.
///
/// Starts where `wanted` would be if values grew evenly and gallops from there: in a table of ten million a binary search
/// would miss the cache at every one of its first steps.
pub(super) fn last_not_above(values: &[u32], wanted: u32) -> usize {
    let (first, last) = (values[0], values[values.len() - 1]);
    if wanted >= last {
        return values.len() - 1;
    }
    let guess = u64::from(wanted - first) * (values.len() as u64 - 1) / u64::from(last - first);
    let (mut low, mut high) = (guess as usize, guess as usize);
    let mut step = 1;
    while values[low] > wanted {
        high = low;
        low = low.saturating_sub(step);
        step *= 2;
    }
    step = 1;
    while high < values.len() && values[high] <= wanted {
        low = high;
        high = (high + step).min(values.len());
        step *= 2;
    }
    low + values[low..high].partition_point(|&value| value <= wanted) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::last_not_above;

    proptest! {
        #[test]
        fn galloping_equals_a_scan(
            steps in proptest::collection::vec(prop_oneof![4 => 1u32..3, 1 => 1u32..100_000], 1..200),
            start in 0u32..10,
            past in 0u32..5,
        ) {
            let values: Vec<u32> = steps.iter().scan(start, |sum, step| { *sum += step; Some(*sum) }).collect();
            let probes = values.iter().flat_map(|&value| [value.saturating_sub(1), value, value + past]);
            for wanted in probes.filter(|&wanted| wanted >= values[0]) {
                prop_assert_eq!(last_not_above(&values, wanted), values.iter().rposition(|&v| v <= wanted).unwrap());
            }
        }
    }
}
