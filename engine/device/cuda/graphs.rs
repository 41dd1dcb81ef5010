//! Recorded steps: what a cohort's step enqueues, captured once for each bucket and replayed after.

use super::driver::Recording;
use super::lanes::{CohortExtent, TokenExtent};

/// Recordings that are kept; the one that was not used for longest makes room.
const KEPT: usize = 256;

/// What a recording depends on besides its lanes' contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// (cohort lane, its prefix lane)
    pub(super) lanes: (u32, u32),
    pub(super) step: usize,
    pub(super) cohort: CohortExtent,
    pub(super) prefix: TokenExtent,
}

struct Entry {
    key: Key,
    recording: Recording,
    used: u64,
}

/// The recordings of a device.
#[derive(Default)]
pub(super) struct Graphs {
    entries: Vec<Entry>,
    clock: u64,
}

impl Graphs {
    /// The recording for `key`, if there is one.
    pub(super) fn find(&mut self, key: &Key) -> Option<&Recording> {
        self.clock += 1;
        let entry = self.entries.iter_mut().find(|entry| entry.key == *key)?;
        entry.used = self.clock;
        Some(&entry.recording)
    }

    /// Keeps a recording.
    pub(super) fn keep(&mut self, key: Key, recording: Recording) {
        if self.entries.len() == KEPT {
            let oldest = self.entries.iter().enumerate().min_by_key(|(_, entry)| entry.used).map(|(index, _)| index);
            self.entries.swap_remove(oldest.expect("there are entries"));
        }
        self.entries.push(Entry { key, recording, used: self.clock });
    }

    /// How many recordings there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
