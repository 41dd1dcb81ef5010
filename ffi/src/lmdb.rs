//! An LMDB environment with one table of byte strings, behind a safe interface.
//!
//! LMDB maps its file into memory, and its C interface asks two things that the compiler cannot check: that nobody but LMDB
//! changes the file, and that the map is not resized while a transaction of this process is open. The first is the operator's
//! part, as with exports and catalogues. The second is kept here: transactions live inside calls of [`Lmdb::read`] and
//! [`Lmdb::write`], which hold a lock for reading; a resize holds it for writing.
//!
//! Readers and the writer, in this process or in others, never wait for each other; writers take turns.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions, MdbError, PutFlags, RoTxn, RwTxn, WithTls};

/// Why LMDB refused.
#[derive(Debug)]
pub enum LmdbError {
    /// The map has no room for what was to be written.
    Full {
        /// Its size.
        map_bytes: usize,
    },
    /// Every reader slot is taken by a live reader.
    ReadersFull {
        /// How many there are.
        readers: u32,
    },
    /// This process has the environment open already.
    AlreadyOpen,
    /// The system refused.
    Io(std::io::Error),
    /// Everything else, in LMDB's words.
    Other(String),
}

impl std::fmt::Display for LmdbError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LmdbError::Full { map_bytes } => write!(f, "the map of {map_bytes} bytes is full"),
            LmdbError::ReadersFull { readers } => write!(f, "all {readers} reader slots are taken"),
            LmdbError::AlreadyOpen => f.write_str("this process has it open already"),
            LmdbError::Io(error) => error.fmt(f),
            LmdbError::Other(said) => f.write_str(said),
        }
    }
}

impl std::error::Error for LmdbError {}

/// How to open an environment.
#[derive(Clone, Debug)]
pub struct LmdbOptions {
    /// Most bytes the file may grow to; rounded up to whole pages. Address space alone until it is written.
    pub map_bytes: usize,
    /// Reader slots, of all processes together.
    pub max_readers: u32,
}

/// One open environment. A process may have each path open once.
#[derive(Debug)]
pub struct Lmdb {
    env: Env<WithTls>,
    path: PathBuf,
    max_readers: u32,
    /// Held for reading while a transaction is open, for writing while the map is resized.
    resizing: RwLock<()>,
}

type Table<'e> = Database<'e, Bytes, Bytes>;

impl Lmdb {
    /// Opens the environment in the directory `path`, which exists; its files are made if they are not there.
    ///
    /// # Errors
    /// [`LmdbError::AlreadyOpen`], or what LMDB says.
    pub fn open(path: &Path, options: &LmdbOptions) -> Result<Lmdb, LmdbError> {
        let map_bytes = options.map_bytes.checked_next_multiple_of(1 << 16).unwrap_or(options.map_bytes);
        let mut open = EnvOpenOptions::new();
        open.map_size(map_bytes).max_readers(options.max_readers);
        // SAFETY: no flags are set, so LMDB keeps its own locks and syncs every commit. That nobody but LMDB changes the files
        // below `path` is the operator's part, as for every file that the engine maps.
        let env = unsafe { open.open(path) }.map_err(|error| told(error, map_bytes, options.max_readers))?;
        let lmdb = Lmdb { env, path: path.to_owned(), max_readers: options.max_readers, resizing: RwLock::new(()) };
        lmdb.clear_stale_readers()?;
        Ok(lmdb)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Most bytes the file may have.
    pub fn map_bytes(&self) -> usize {
        self.env.info().map_size
    }

    /// Bytes of the file now.
    ///
    /// # Errors
    /// What the system says.
    pub fn file_bytes(&self) -> Result<u64, LmdbError> {
        self.env.real_disk_size().map_err(|error| self.told(error))
    }

    /// Frees the slots of readers whose process is gone; such a slot keeps old pages from being used again.
    ///
    /// # Errors
    /// What LMDB says.
    pub fn clear_stale_readers(&self) -> Result<usize, LmdbError> {
        self.env.clear_stale_readers().map_err(|error| self.told(error))
    }

    /// Calls `act` with a snapshot of the table: what was committed when the call began. Not to be nested on one thread.
    ///
    /// # Errors
    /// What LMDB says where the snapshot could not be taken.
    pub fn read<T>(&self, act: impl FnOnce(&Snapshot<'_>) -> T) -> Result<T, LmdbError> {
        let mut act = Some(act);
        loop {
            let held = self.held();
            let begun = self.table().and_then(|table| Ok((table, self.env.read_txn()?)));
            match begun {
                Ok((table, txn)) => {
                    let act = act.take().expect("called once: the loop ends here");
                    return Ok(act(&Snapshot { lmdb: self, table, txn }));
                }
                Err(heed::Error::Mdb(MdbError::MapResized)) => {
                    drop(held);
                    self.adopt_size()?;
                }
                Err(error) => return Err(self.told(error)),
            }
        }
    }

    /// Calls `act` with the table open for writing, and commits what it did unless it fails. Waits for other writers. When this
    /// returns well, all of it is on disk; otherwise nothing of it is.
    ///
    /// # Errors
    /// What `act` says, or LMDB.
    pub fn write<T, E: From<LmdbError>>(&self, act: impl FnOnce(&mut Writer<'_>) -> Result<T, E>) -> Result<T, E> {
        let mut act = Some(act);
        loop {
            let held = self.held();
            let begun = self.table().and_then(|table| Ok((table, self.env.write_txn()?)));
            match begun {
                Ok((table, txn)) => {
                    let act = act.take().expect("called once: the loop ends here");
                    let mut writer = Writer { lmdb: self, table, txn };
                    let done = act(&mut writer)?;
                    writer.txn.commit().map_err(|error| self.told(error))?;
                    return Ok(done);
                }
                Err(heed::Error::Mdb(MdbError::MapResized)) => {
                    drop(held);
                    self.adopt_size()?;
                }
                Err(error) => return Err(self.told(error).into()),
            }
        }
    }

    fn held(&self) -> RwLockReadGuard<'_, ()> {
        self.resizing.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> heed::Result<Table<'_>> {
        let txn = self.env.read_txn()?;
        let opened = self.env.open_databases_and_commit(txn, |open, txn| {
            open.open_database::<Bytes, Bytes>(txn, None).map(CommitOrAbort::<_, ()>::Commit)
        })?;
        // The unnamed table is part of every environment.
        opened.commit().flatten().ok_or(heed::Error::Mdb(MdbError::Invalid))
    }

    /// Takes over the larger map of another process that has written beyond ours.
    fn adopt_size(&self) -> Result<(), LmdbError> {
        let _alone = self.resizing.write().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: transactions of this environment exist in `read` and `write` only, under the lock that is held for writing
        // here: none is open. 0 asks for the size that is on disk.
        unsafe { self.env.resize(0) }.map_err(|error| self.told(error))
    }

    fn told(&self, error: heed::Error) -> LmdbError {
        told(error, self.map_bytes(), self.max_readers)
    }
}

fn told(error: heed::Error, map_bytes: usize, readers: u32) -> LmdbError {
    match error {
        heed::Error::Mdb(MdbError::MapFull) => LmdbError::Full { map_bytes },
        heed::Error::Mdb(MdbError::ReadersFull) => LmdbError::ReadersFull { readers },
        heed::Error::EnvAlreadyOpened => LmdbError::AlreadyOpen,
        heed::Error::Io(error) => LmdbError::Io(error),
        other => LmdbError::Other(other.to_string()),
    }
}

/// The table as it was at one moment.
pub struct Snapshot<'e> {
    lmdb: &'e Lmdb,
    table: Table<'e>,
    txn: RoTxn<'e, WithTls>,
}

impl Snapshot<'_> {
    /// The value of `key`.
    ///
    /// # Errors
    /// What LMDB says.
    pub fn get(&self, key: &[u8]) -> Result<Option<&[u8]>, LmdbError> {
        self.table.get(&self.txn, key).map_err(|error| self.lmdb.told(error))
    }

    /// Entries.
    ///
    /// # Errors
    /// What LMDB says.
    pub fn len(&self) -> Result<u64, LmdbError> {
        self.table.len(&self.txn).map_err(|error| self.lmdb.told(error))
    }

    /// Whether there are none.
    ///
    /// # Errors
    /// What LMDB says.
    pub fn is_empty(&self) -> Result<bool, LmdbError> {
        Ok(self.len()? == 0)
    }

    /// Every key and value, in the order of the keys.
    ///
    /// # Errors
    /// What LMDB says, at the first entry that it is said of.
    pub fn each(&self, mut act: impl FnMut(&[u8], &[u8])) -> Result<(), LmdbError> {
        for entry in self.table.iter(&self.txn).map_err(|error| self.lmdb.told(error))? {
            let (key, value) = entry.map_err(|error| self.lmdb.told(error))?;
            act(key, value);
        }
        Ok(())
    }
}

/// The table, open for writing.
pub struct Writer<'e> {
    lmdb: &'e Lmdb,
    table: Table<'e>,
    txn: RwTxn<'e>,
}

impl Writer<'_> {
    /// The largest key.
    ///
    /// # Errors
    /// What LMDB says.
    pub fn last_key(&self) -> Result<Option<&[u8]>, LmdbError> {
        Ok(self.table.last(&self.txn).map_err(|error| self.lmdb.told(error))?.map(|(key, _)| key))
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// What LMDB says.
    pub fn get(&self, key: &[u8]) -> Result<Option<&[u8]>, LmdbError> {
        self.table.get(&self.txn, key).map_err(|error| self.lmdb.told(error))
    }

    /// Writes `value` under `key`, in place of what was there.
    ///
    /// # Errors
    /// [`LmdbError::Full`], or what LMDB says.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), LmdbError> {
        self.table.put(&mut self.txn, key, value).map_err(|error| self.lmdb.told(error))
    }

    /// Writes `value` under `key`, which is behind every key of the table: pages are filled, where [`Writer::put`] leaves them
    /// half full.
    ///
    /// # Errors
    /// [`LmdbError::Full`], or what LMDB says; a key that is not behind all others is refused.
    pub fn append(&mut self, key: &[u8], value: &[u8]) -> Result<(), LmdbError> {
        let put = self.table.put_with_flags(&mut self.txn, PutFlags::APPEND, key, value);
        put.map_err(|error| self.lmdb.told(error))
    }
}
