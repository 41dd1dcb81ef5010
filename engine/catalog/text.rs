//! Optional strings of items while a catalogue is being built, in one blob.
//!
//! Nothing is stored until the first string arrives. An empty string means "none". Not a mapped structure: the view reads
//! the serialized offsets and blob itself.

/// A column of optional strings, one a row.
#[derive(Clone, Debug, Default)]
pub(super) struct TextColumn {
    /// End of each row's text in `bytes`; rows beyond have none.
    ends: Vec<usize>,
    bytes: Vec<u8>,
}

impl TextColumn {
    /// Sets the text of `row`; rows must come in ascending order.
    pub(super) fn push(&mut self, row: usize, text: &str) {
        debug_assert!(row >= self.ends.len(), "rows come in order");
        self.ends.resize(row, self.bytes.len());
        self.bytes.extend_from_slice(text.as_bytes());
        self.ends.push(self.bytes.len());
    }

    /// True when no row has text.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes of all texts together.
    pub(super) fn total_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Text of `row`, empty when it has none.
    pub(super) fn get(&self, row: usize) -> &[u8] {
        match self.ends.get(row) {
            Some(&end) => &self.bytes[if row == 0 { 0 } else { self.ends[row - 1] }..end],
            None => &[],
        }
    }
}
