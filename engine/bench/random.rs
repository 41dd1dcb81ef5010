//! A small seeded generator (splitmix64). Schedules and requests must come out the same from the same seed in every version,
//! which generators of crates do not promise. Not for secrets.

/// What splitmix64 adds to its state at every step.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of repeatable numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The stream number `index` of `seed`: request `index` is the same whoever draws it, in whatever order.
    pub fn nth(seed: u64, index: u64) -> Random {
        let mut mixed = Random(seed ^ index.wrapping_mul(GOLDEN_GAMMA));
        Random(mixed.next() ^ index)
    }

    /// The next 64 bits.
    #[expect(clippy::should_implement_trait, reason = "a stream without an end is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN_GAMMA);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in [0, 1), of 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number below `bound`, which is at least 1. The bias is below `bound` / 2^64.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// A draw from the exponential distribution of mean 1.
    pub fn exponential(&mut self) -> f64 {
        // 1 - u is in (0, 1]: the logarithm is finite.
        -(1.0 - self.unit()).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_splitmix64() {
        // The first outputs for seed 1234567, as published with the algorithm.
        let mut random = Random::new(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn numbered_streams_differ_and_repeat() {
        let first = |seed, index| Random::nth(seed, index).next();
        assert_eq!(first(7, 3), first(7, 3));
        let mut seen: Vec<u64> = (0..1000).map(|index| first(7, index)).chain((0..1000).map(|i| first(8, i))).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 2000);
    }

    #[test]
    fn bounded_numbers_fill_their_range_evenly() {
        let mut random = Random::new(1);
        let mut counts = [0u32; 7];
        (0..70_000).for_each(|_| counts[random.below(7)] += 1);
        // Standard deviation of a count is 93: five of them.
        assert!(counts.iter().all(|&count| count.abs_diff(10_000) < 465), "{counts:?}");
    }
}
