//! One bit a byte of memory.

/// A fixed number of bits, all clear at first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bitmap(Vec<u64>);

impl Bitmap {
    pub(crate) fn new(bits: usize) -> Self {
        // One word more, so that a read across the last word's end stays inside.
        Bitmap(vec![0; bits.div_ceil(64) + 1])
    }

    pub(crate) fn clear(&mut self) {
        self.0.fill(0);
    }

    pub(crate) fn get(&self, at: usize) -> bool {
        self.0[at / 64] >> (at % 64) & 1 == 1
    }

    pub(crate) fn reset(&mut self, at: usize) {
        self.0[at / 64] &= !(1 << (at % 64));
    }

    /// Sets a range.
    #[inline]
    pub(crate) fn set(&mut self, range: std::ops::Range<usize>) {
        each_word(range, |word, mask| {
            self.0[word] |= mask;
            true
        });
    }

    /// Whether all of a range is set.
    #[inline]
    pub(crate) fn all(&self, range: std::ops::Range<usize>) -> bool {
        each_word(range, |word, mask| self.0[word] & mask == mask)
    }
}

/// Calls `f` with each word a range touches and the bits of it, until `f` says no.
#[inline]
fn each_word(range: std::ops::Range<usize>, mut f: impl FnMut(usize, u64) -> bool) -> bool {
    let (mut at, end) = (range.start, range.end);
    while at < end {
        let (word, low) = (at / 64, at % 64);
        let count = (64 - low).min(end - at);
        let ones = if count == 64 { !0 } else { (1u64 << count) - 1 };
        if !f(word, ones << low) {
            return false;
        }
        at += count;
    }
    true
}
