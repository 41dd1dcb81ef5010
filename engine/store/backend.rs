//! What a store asks of the place where its records are.

use std::time::{Duration, Instant};

use super::{RawKey, Reason, StoreError};

/// Told the number of a key and its value, `None` where there is none; once for every key.
pub(super) type Values<'a> = dyn FnMut(usize, Result<Option<&[u8]>, Reason>) + 'a;
/// Told every record: key, its value or the beginning of it with at least the header, and the value's bytes.
pub(super) type Entries<'a> = dyn FnMut(RawKey<'_>, &[u8], usize) + 'a;

/// A place where records are.
pub(super) trait Backend: Send + Sync + std::fmt::Debug {
    /// Fetches the values of `keys`, all at once where that is possible, and gives up at `deadline` as well as it can.
    fn fetch(&self, keys: &[RawKey<'_>], deadline: Instant, values: &mut Values<'_>);

    /// Goes through every record.
    fn each(&self, entries: &mut Entries<'_>) -> Result<Facts, StoreError>;

    /// Opens it for writing; records vanish `ttl` later, where that is supported.
    fn sink(&self, ttl: Option<Duration>) -> Result<Box<dyn Sink + '_>, StoreError>;
}

/// What a place knows of itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    /// Bytes of its file.
    pub file_bytes: Option<u64>,
    /// Most bytes the file may have.
    pub map_bytes: Option<u64>,
}

/// A place that is written to.
pub(super) trait Sink {
    /// Writes records, `(key bytes, value)`, in place of what was there. An embedded store writes all of them or none.
    fn write(&mut self, records: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> Result<(), StoreError>;
}
