//! Read-only file mappings.
//!
//! Export and catalogue files are immutable by contract: they are replaced by rename and never edited in place. A file
//! that shrinks under a mapping raises SIGBUS; [`crate::install_sigbus_handler`] turns that into a named exit.

use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::sigbus;

/// Why a file could not be mapped.
#[derive(Debug)]
pub struct MapError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    pub source: std::io::Error,
}

impl std::fmt::Display for MapError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot map {}: {}", self.path.display(), self.source)
    }
}

impl std::error::Error for MapError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Opens a regular file for reading. Opening a pipe would wait for its writer, so the kind is looked at first.
///
/// # Errors
/// What the system says, or that `path` is no regular file.
pub fn open_regular(path: &Path) -> std::io::Result<File> {
    let regular = |metadata: std::fs::Metadata| {
        if metadata.is_file() { Ok(()) } else { Err(std::io::Error::other("not a regular file")) }
    };
    regular(std::fs::metadata(path)?)?;
    let file = File::open(path)?;
    regular(file.metadata()?)?;
    Ok(file)
}

/// A whole file, mapped read-only and shared. Dereferences to its bytes; an empty file gives an empty slice.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    map: Option<Mmap>,
    registration: Option<sigbus::Registration>,
}

impl MappedFile {
    /// Maps the whole of `path`.
    pub fn open(path: &Path) -> Result<MappedFile, MapError> {
        let failed = |source| MapError { path: path.to_owned(), source };
        let file = open_regular(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.len() == 0 {
            return Ok(MappedFile { path: path.to_owned(), map: None, registration: None });
        }
        // SAFETY: the mapping is read-only and private to this process's view; artefacts are immutable by contract
        // (replaced by rename). A file truncated against the contract raises SIGBUS, which ends the process by name.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        let registration = sigbus::register(path, map.as_ptr() as usize, map.len());
        Ok(MappedFile { path: path.to_owned(), map: Some(map), registration })
    }

    /// The file this maps.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        // The handler must forget the range before the address can be reused by another mapping.
        drop(self.registration.take());
    }
}
