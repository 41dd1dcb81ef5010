//! Relative positions: T5's buckets, spread out by distance.

use crate::device::RelativeBiasSource;

/// HF's `_relative_position_bucket`: which bucket key position minus query position falls into.
fn bucket(relative: i64, bidirectional: bool, buckets: usize, max_distance: usize) -> usize {
    let mut buckets = buckets as i64;
    let mut bucket = 0;
    let distance = if bidirectional {
        buckets /= 2;
        if relative > 0 {
            bucket += buckets;
        }
        relative.abs()
    } else {
        (-relative).max(0)
    };
    let exact = buckets / 2;
    let within = if distance < exact {
        distance
    } else {
        // f32 throughout, as PyTorch computes it.
        let ratio = (distance as f32 / exact as f32).ln() / (max_distance as f32 / exact as f32).ln();
        (exact + (ratio * (buckets - exact) as f32) as i64).min(buckets - 1)
    };
    (bucket + within) as usize
}

/// A side's relative attention bias.
pub(super) struct Buckets {
    pub heads: usize,
    pub buckets: usize,
    /// Beyond this every distance shares a bucket.
    pub max_distance: usize,
    /// Keys may stand behind the query.
    pub bidirectional: bool,
}

impl Buckets {
    /// Weights `[buckets, heads]` spread out by distance. Beyond `longest`, the longest sequence that is planned for, there is
    /// none.
    pub fn by_distance(&self, weights: &[f32], longest: usize) -> RelativeBiasSource {
        let (heads, max) = (self.heads, self.max_distance.min(longest));
        let mut by_distance = Vec::with_capacity(heads * (2 * max + 1));
        for head in 0..heads {
            for relative in -(max as i64)..=max as i64 {
                let bucket = bucket(relative, self.bidirectional, self.buckets, self.max_distance);
                by_distance.push(weights[bucket * heads + head]);
            }
        }
        RelativeBiasSource { heads, max_distance: max, by_distance }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_hugging_face() {
        // From transformers' T5Attention._relative_position_bucket with 32 buckets and distance 128.
        let bidirectional: Vec<usize> =
            [-200, -128, -100, -20, -8, -7, -1, 0, 1, 7, 8, 20, 100, 128].map(|r| bucket(r, true, 32, 128)).to_vec();
        assert_eq!(bidirectional, [15, 15, 15, 10, 8, 7, 1, 0, 17, 23, 24, 26, 31, 31]);
        let causal: Vec<usize> = [-200, -64, -20, -16, -15, -1, 0, 5].map(|r| bucket(r, false, 32, 128)).to_vec();
        assert_eq!(causal, [31, 26, 17, 16, 15, 1, 0, 0]);
    }

    #[test]
    fn a_bias_table_ends_with_the_longest_sequence() {
        let side = |max_distance, bidirectional| Buckets { heads: 2, buckets: 32, max_distance, bidirectional };
        let weights: Vec<f32> = (0..64u8).map(f32::from).collect();
        let whole = side(128, true).by_distance(&weights, 500);
        assert_eq!((whole.max_distance, whole.by_distance.len()), (128, 2 * 257));
        let cut = side(128, true).by_distance(&weights, 40);
        assert_eq!(cut.max_distance, 40);
        assert_eq!(cut.by_distance[..81], whole.by_distance[128 - 40..=128 + 40]);
        assert_eq!(cut.by_distance[81..], whole.by_distance[257 + 128 - 40..=257 + 128 + 40]);
        // A distance that nobody can reach costs no memory.
        assert_eq!(side((1 << 31) - 1, false).by_distance(&weights, 40).by_distance.len(), 2 * 81);
    }
}
