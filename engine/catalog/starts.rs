//! Where each leaf's items begin, as one bit an item.
//!
//! Items stand in leaf order; bit `s` is set when slot `s` is the first of its leaf. A running count every 512 bits makes
//! leaf -> first slot (*select*) a binary search and a few popcounts. A plain `u32` offset for each leaf would be simpler and
//! would cost 4 bytes an item instead of 0.13: with weights stored, that is the difference between 32 and 28 bytes an item.
//!
//! Does not check its slices: the view does that when a file is opened, the builder by construction.

/// 64-bit words between two running counts.
pub(super) const WORDS_PER_BLOCK: usize = 8;
/// Bits between two running counts.
pub(super) const BITS_PER_BLOCK: usize = WORDS_PER_BLOCK * 64;

/// Words for `items` bits.
pub(super) fn words_for(items: usize) -> usize {
    items.div_ceil(64)
}

/// Running counts for `items` bits: one before each block, and the total.
pub(super) fn counts_for(items: usize) -> usize {
    items.div_ceil(BITS_PER_BLOCK) + 1
}

/// Running counts of set bits before each block, then the total.
pub(super) fn running_counts(words: &[u64]) -> Vec<u32> {
    let mut counts = Vec::with_capacity(words.len().div_ceil(WORDS_PER_BLOCK) + 1);
    let mut total = 0;
    counts.push(0);
    for block in words.chunks(WORDS_PER_BLOCK) {
        total += block.iter().map(|word| word.count_ones()).sum::<u32>();
        counts.push(total);
    }
    counts
}

/// The bits and their running counts.
#[derive(Clone, Copy)]
pub(super) struct LeafStarts<'a> {
    /// `[items / 64]`
    pub(super) words: &'a [u64],
    /// `[items / 512 + 1]`
    pub(super) counts: &'a [u32],
    /// Valid bits.
    pub(super) items: usize,
}

impl LeafStarts<'_> {
    /// First slot of `leaf`, or the number of items for `leaf == leaves`.
    pub(super) fn first_slot(&self, leaf: u32) -> usize {
        if self.counts.last().is_none_or(|&leaves| leaf >= leaves) {
            return self.items;
        }
        // The last block whose running count is not above `leaf` holds the bit.
        let block = self.counts.partition_point(|&before| before <= leaf) - 1;
        let mut rest = leaf - self.counts[block];
        for (i, &word) in self.words[block * WORDS_PER_BLOCK..].iter().enumerate() {
            let ones = word.count_ones();
            if rest < ones {
                return (block * WORDS_PER_BLOCK + i) * 64 + select_in_word(word, rest);
            }
            rest -= ones;
        }
        self.items
    }

    /// First slot at or after `slot` that begins a leaf, or the number of items.
    pub(super) fn next_start(&self, slot: usize) -> usize {
        let mut index = slot / 64;
        let Some(&first) = self.words.get(index) else { return self.items };
        let mut word = first & (u64::MAX << (slot % 64));
        while word == 0 {
            index += 1;
            match self.words.get(index) {
                Some(&next) => word = next,
                None => return self.items,
            }
        }
        index * 64 + word.trailing_zeros() as usize
    }
}

/// Position of the set bit of rank `rank` (from 0) in a word that has more than `rank` of them.
fn select_in_word(mut word: u64, rank: u32) -> usize {
    for _ in 0..rank {
        word &= word - 1;
    }
    word.trailing_zeros() as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn select_equals_a_scan(sizes in proptest::collection::vec(prop_oneof![8 => 1usize..4, 1 => 1usize..1500], 1..400)) {
            let items: usize = sizes.iter().sum();
            let mut words = vec![0u64; words_for(items)];
            let mut starts = Vec::new();
            let mut slot = 0;
            for size in &sizes {
                words[slot / 64] |= 1 << (slot % 64);
                starts.push(slot);
                slot += size;
            }
            let counts = running_counts(&words);
            prop_assert_eq!(counts.len(), counts_for(items));
            let bits = LeafStarts { words: &words, counts: &counts, items };
            for (leaf, &start) in starts.iter().enumerate() {
                prop_assert_eq!(bits.first_slot(leaf as u32), start);
                prop_assert_eq!(bits.next_start(start + 1), starts.get(leaf + 1).copied().unwrap_or(items));
            }
            prop_assert_eq!(bits.first_slot(starts.len() as u32), items);
        }
    }
}
