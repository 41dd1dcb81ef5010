//! What can go wrong with a store as a whole. What goes wrong with one look-up is in [`super::Found`].

use std::path::{Path, PathBuf};

use sidereal_ffi::LmdbError;

use super::KeyError;

/// Why a store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no store.
    #[error("{}: no instruction store; `sidereal instructions load` makes one", path.display())]
    NoStore {
        /// Where none is.
        path: PathBuf,
    },
    /// An LMDB environment of something else.
    #[error("{}: an LMDB environment, but not an instruction store of Sidereal", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
    },
    /// The map has no room left.
    #[error("{}: the store is full at {map_bytes} bytes; give more with --map-size", path.display())]
    Full {
        /// The directory.
        path: PathBuf,
        /// The size of the map.
        map_bytes: usize,
    },
    /// A lifetime for records that nobody removes.
    #[error("{}: records of a store in a directory stay until they are replaced; a lifetime is for Redis", path.display())]
    NoTtl {
        /// The directory.
        path: PathBuf,
    },
    /// The system refused a file operation.
    #[error("{}: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// LMDB refused.
    #[error("{}: {said}", path.display())]
    Lmdb {
        /// The directory.
        path: PathBuf,
        /// What it said.
        said: String,
    },
    /// The address of a remote store cannot be used.
    #[error("{url}: {reason}")]
    Address {
        /// The address, without its password.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Redis refused, or could not be reached.
    #[error("{server}: {reason}")]
    Redis {
        /// Which server.
        server: String,
        /// What went wrong.
        reason: String,
    },
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// Something that cannot be a key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl StoreError {
    pub(super) fn lmdb(path: &Path, error: LmdbError) -> StoreError {
        let path = path.to_owned();
        match error {
            LmdbError::Full { map_bytes } => StoreError::Full { path, map_bytes },
            LmdbError::Io(source) => StoreError::Io { path, source },
            other => StoreError::Lmdb { path, said: other.to_string() },
        }
    }
}
