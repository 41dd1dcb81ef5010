//! A store in figures: a walk over every record.

use std::collections::BTreeMap;

use super::backend::Backend;
use super::{Header, StoreError};

/// Versions that are told apart; the rest are counted together.
const MOST_VERSIONS: usize = 64;

/// What a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Records that can be read.
    pub records: u64,
    /// Of these: for one scenario.
    pub scenario_records: u64,
    /// Values whose header cannot be read.
    pub bad: u64,
    /// Bytes of all values.
    pub value_bytes: u64,
    /// Bytes of the file, if there is one.
    pub file_bytes: Option<u64>,
    /// Most bytes the file may have.
    pub map_bytes: Option<u64>,
    /// When the oldest record was made, in milliseconds since 1970-01-01 UTC.
    pub oldest_ms: Option<u64>,
    /// When the newest was made.
    pub newest_ms: Option<u64>,
    /// Records by name of the instruction and elements.
    pub instructions: BTreeMap<(String, usize), u64>,
    /// Records by version.
    pub versions: VersionStats,
}

/// Records by version: the first so many that were met, and how many records are of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionStats {
    /// Version and records.
    pub counted: BTreeMap<u64, u64>,
    /// Records of versions beyond these.
    pub others: u64,
}

impl VersionStats {
    fn count(&mut self, version: u64) {
        if self.counted.len() >= MOST_VERSIONS && !self.counted.contains_key(&version) {
            self.others += 1;
        } else {
            *self.counted.entry(version).or_default() += 1;
        }
    }
}

/// Walks over all of `backend`.
pub(super) fn gather(backend: &dyn Backend) -> Result<StoreStats, StoreError> {
    let mut stats = StoreStats::default();
    let facts = backend.each(&mut |key, value, bytes| {
        stats.value_bytes += bytes as u64;
        let Ok(header) = Header::read(value) else {
            stats.bad += 1;
            return;
        };
        stats.records += 1;
        stats.scenario_records += u64::from(key.scenario.is_some());
        let made = header.created_at_ms;
        stats.oldest_ms = Some(stats.oldest_ms.map_or(made, |oldest| oldest.min(made)));
        stats.newest_ms = Some(stats.newest_ms.map_or(made, |newest| newest.max(made)));
        // Names and sizes are few: a store serves the instructions of a few exports. Strangers' could be many, so they have
        // a limit too.
        let instruction = (key.name.to_owned(), header.size);
        if stats.instructions.len() < MOST_VERSIONS || stats.instructions.contains_key(&instruction) {
            *stats.instructions.entry(instruction).or_default() += 1;
        }
        stats.versions.count(header.version);
    })?;
    stats.file_bytes = facts.file_bytes;
    stats.map_bytes = facts.map_bytes;
    Ok(stats)
}
