//! Records on their way into a store: keys and values in one buffer.

use std::ops::Range;

use super::BadRecord;

/// Encoded records, and those that could not be.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// Key and value of each record; a value follows its key.
    entries: Vec<Entry>,
    pub bad: Vec<BadRecord>,
}

#[derive(Clone, Debug)]
struct Entry {
    begin: usize,
    key_end: usize,
    end: usize,
}

impl Batch {
    /// Appends the record that `write` writes: the key, then the value, whose place it returns. A record that fails leaves
    /// nothing.
    pub fn add(&mut self, place: u64, write: impl FnOnce(&mut Vec<u8>) -> Result<usize, String>) {
        let begin = self.bytes.len();
        match write(&mut self.bytes) {
            Ok(key_end) => self.entries.push(Entry { begin, key_end, end: self.bytes.len() }),
            Err(reason) => {
                self.bytes.truncate(begin);
                self.bad.push(BadRecord { place, reason });
            }
        }
    }

    /// Appends the records of `other` in `range`.
    pub fn append(&mut self, other: &Batch, range: Range<usize>) {
        let Some(first) = other.entries.get(range.start) else { return };
        let taken = &other.entries[range];
        let from = first.begin;
        let to = taken.last().map_or(from, |last| last.end);
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes[from..to]);
        let moved = |at: usize| at - from + begin;
        self.entries.extend(taken.iter().map(|entry| Entry {
            begin: moved(entry.begin),
            key_end: moved(entry.key_end),
            end: moved(entry.end),
        }));
    }

    /// Sorts by key. Records of one key stay in their order, so that the last is written last.
    pub fn sort(&mut self) {
        let bytes = &self.bytes;
        let key = |entry: &Entry| &bytes[entry.begin..entry.key_end];
        if !self.entries.is_sorted_by(|a, b| key(a) <= key(b)) {
            self.entries.sort_by(|a, b| key(a).cmp(key(b)));
        }
    }

    /// Key and value of each record.
    pub fn records(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let bytes = &self.bytes;
        self.entries.iter().map(move |entry| (&bytes[entry.begin..entry.key_end], &bytes[entry.key_end..entry.end]))
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        self.bad.clear();
    }
}
