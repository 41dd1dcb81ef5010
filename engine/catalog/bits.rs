//! Bitmaps as slices of words: bit `i % 64` of word `i / 64` is number `i`.

use std::ops::Range;

/// Words that hold `bits` bits.
pub(crate) fn words(bits: usize) -> usize {
    bits.div_ceil(64)
}

/// Whether a bit is set.
pub(crate) fn get(words: &[u64], bit: usize) -> bool {
    words[bit / 64] >> (bit % 64) & 1 == 1
}

/// Sets a bit, or clears it.
pub(crate) fn put(words: &mut [u64], bit: usize, value: bool) {
    let (word, one) = (&mut words[bit / 64], 1 << (bit % 64));
    *word = if value { *word | one } else { *word & !one };
}

/// How many bits of the range are set.
pub(crate) fn count(words: &[u64], range: Range<usize>) -> usize {
    masked(words, range).map(|word| word.count_ones() as usize).sum()
}

/// Whether a bit of the range is set.
pub(crate) fn any(words: &[u64], range: Range<usize>) -> bool {
    masked(words, range).any(|word| word != 0)
}

/// The words that a range touches, without the bits outside it.
fn masked(words: &[u64], range: Range<usize>) -> impl Iterator<Item = u64> {
    let (first, last) = (range.start / 64, range.end.div_ceil(64));
    let here = if range.is_empty() { &[] } else { &words[first..last] };
    here.iter().enumerate().map(move |(at, &word)| {
        let base = (first + at) * 64;
        let low = range.start.saturating_sub(base);
        let high = (range.end - base).min(64);
        word & (u64::MAX << low) & (u64::MAX >> (64 - high))
    })
}

/// The first number from `from` on, below `end`, whose bit is `value`; `end` if there is none.
pub(crate) fn next(words: &[u64], value: bool, from: usize, end: usize) -> usize {
    if from >= end {
        return end;
    }
    let flip = if value { 0 } else { u64::MAX };
    let mut at = from / 64;
    let mut word = (words[at] ^ flip) & (u64::MAX << (from % 64));
    while word == 0 {
        at += 1;
        if at * 64 >= end {
            return end;
        }
        word = words[at] ^ flip;
    }
    (at * 64 + word.trailing_zeros() as usize).min(end)
}

/// Numbers whose bit is set, ascending.
pub(crate) fn ones(words: &[u64]) -> impl Iterator<Item = usize> + '_ {
    words.iter().enumerate().flat_map(|(at, &word)| {
        let mut rest = word;
        std::iter::from_fn(move || {
            let bit = rest.trailing_zeros() as usize;
            rest &= rest.checked_sub(1)?;
            Some(at * 64 + bit)
        })
    })
}

/// `bits` set bits, and none behind them.
pub(crate) fn full(bits: usize) -> Vec<u64> {
    let mut all = vec![u64::MAX; words(bits)];
    if let Some(last) = all.last_mut().filter(|_| !bits.is_multiple_of(64)) {
        *last = u64::MAX >> (64 - bits % 64);
    }
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any as random, prop_assert, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn words_agree_with_bits(bits in proptest::collection::vec(random::<bool>(), 1..300), a in 0usize..300, b in 0usize..300) {
            let mut map = vec![0; words(bits.len())];
            bits.iter().enumerate().for_each(|(at, &bit)| put(&mut map, at, bit));
            let range = a.min(b).min(bits.len())..a.max(b).min(bits.len());
            let here = &bits[range.clone()];
            prop_assert!(bits.iter().enumerate().all(|(at, &bit)| get(&map, at) == bit));
            prop_assert_eq!(count(&map, range.clone()), here.iter().filter(|bit| **bit).count());
            prop_assert_eq!(any(&map, range.clone()), here.contains(&true));
            for value in [false, true] {
                let first = here.iter().position(|&bit| bit == value).map_or(range.end, |at| range.start + at);
                prop_assert_eq!(next(&map, value, range.start, range.end), first);
            }
            let set: Vec<usize> = (0..bits.len()).filter(|&at| bits[at]).collect();
            prop_assert_eq!(ones(&map).collect::<Vec<_>>(), set);
            prop_assert_eq!(count(&full(bits.len()), 0..words(bits.len()) * 64), bits.len());
        }
    }
}
