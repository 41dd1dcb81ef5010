//! The embedded store: an LMDB environment, one directory. Readers and the near-line writer, which is another process, never
//! wait for each other.

use std::path::Path;
use std::time::{Duration, Instant};

use sidereal_ffi::{Lmdb, LmdbError, LmdbOptions};

use super::backend::{Backend, Entries, Facts, Sink, Values};
use super::{RawKey, Reason, StoreConfig, StoreError};

/// The store's own entry, before every record: what tells a store from the LMDB environment of something else.
const OWN_KEY: &[u8] = &[0];
const OWN_VALUE: &[u8] = b"sidereal instructions 1";
/// Keys between two looks at the clock.
const KEYS_PER_LOOK: usize = 32;

/// An open environment that is a store.
#[derive(Debug)]
pub(super) struct LmdbStore {
    lmdb: Lmdb,
}

impl LmdbStore {
    /// Opens the store in the directory `path`; makes it where `config` says so.
    pub(super) fn open(path: &Path, config: &StoreConfig) -> Result<LmdbStore, StoreError> {
        let failed = |error| StoreError::lmdb(path, error);
        if config.create {
            std::fs::create_dir_all(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
        } else if !path.join("data.mdb").is_file() {
            return Err(StoreError::NoStore { path: path.to_owned() });
        }
        let options = LmdbOptions { map_bytes: config.map_bytes, max_readers: config.max_readers };
        let lmdb = Lmdb::open(path, &options).map_err(failed)?;
        let (entries, ours) = lmdb
            .read(|snapshot| Ok((snapshot.len()?, snapshot.get(OWN_KEY)? == Some(OWN_VALUE))))
            .and_then(|looked| looked)
            .map_err(failed)?;
        if entries > 0 && !ours {
            return Err(StoreError::NotAStore { path: path.to_owned() });
        }
        Ok(LmdbStore { lmdb })
    }

    fn failed(&self, error: LmdbError) -> StoreError {
        StoreError::lmdb(self.lmdb.path(), error)
    }
}

impl Backend for LmdbStore {
    fn fetch(&self, keys: &[RawKey<'_>], deadline: Instant, values: &mut Values<'_>) {
        let mut bytes = Vec::new();
        let read = self.lmdb.read(|snapshot| {
            for (number, key) in keys.iter().enumerate() {
                // A page that is not in memory comes from the disk.
                if number % KEYS_PER_LOOK == 0 && Instant::now() >= deadline {
                    return (number..keys.len()).for_each(|number| values(number, Err(Reason::Timeout)));
                }
                bytes.clear();
                key.write(&mut bytes);
                values(number, snapshot.get(&bytes).map_err(|error| Reason::Backend(error.to_string().into())));
            }
        });
        if let Err(error) = read {
            let reason = Reason::Backend(error.to_string().into());
            (0..keys.len()).for_each(|number| values(number, Err(reason.clone())));
        }
    }

    fn each(&self, entries: &mut Entries<'_>) -> Result<Facts, StoreError> {
        let scanned = self.lmdb.read(|snapshot| {
            snapshot.each(|key, value| {
                if let Some(key) = RawKey::read(key) {
                    entries(key, value, value.len());
                }
            })
        });
        scanned.and_then(|scanned| scanned).map_err(|error| self.failed(error))?;
        let file_bytes = self.lmdb.file_bytes().map_err(|error| self.failed(error))?;
        Ok(Facts { file_bytes: Some(file_bytes), map_bytes: Some(self.lmdb.map_bytes() as u64) })
    }

    fn sink(&self, ttl: Option<Duration>) -> Result<Box<dyn Sink + '_>, StoreError> {
        if ttl.is_some() {
            return Err(StoreError::NoTtl { path: self.lmdb.path().to_owned() });
        }
        Ok(Box::new(LmdbSink { store: self }))
    }
}

struct LmdbSink<'a> {
    store: &'a LmdbStore,
}

impl Sink for LmdbSink<'_> {
    /// One transaction: on disk when this returns, whatever happens to this process afterwards, and otherwise not at all.
    fn write(&mut self, records: &mut dyn Iterator<Item = (&[u8], &[u8])>) -> Result<(), StoreError> {
        let lmdb = &self.store.lmdb;
        let written = lmdb.write(|writer| {
            if writer.get(OWN_KEY)?.is_none() {
                writer.put(OWN_KEY, OWN_VALUE)?;
            }
            // Sorted batches behind everything else fill their pages.
            let mut last = writer.last_key()?.unwrap_or_default().to_vec();
            for (key, value) in records {
                if key > last.as_slice() {
                    writer.append(key, value)?;
                    last.clear();
                    last.extend_from_slice(key);
                } else {
                    writer.put(key, value)?;
                }
            }
            Ok::<(), LmdbError>(())
        });
        if matches!(written, Err(LmdbError::Full { .. })) {
            // A reader that died holds pages back: the next attempt may find room.
            lmdb.clear_stale_readers().map_err(|error| self.store.failed(error))?;
        }
        written.map_err(|error| self.store.failed(error))
    }
}
