//! Compiled images on disk, below cargo's target folder, so that nothing is compiled twice.
//!
//! An entry is two files named by the hash of all that goes in: `HASH.image`, and `HASH.log` with what the compiler said.
//! The image is written last and by rename, so that an entry whose image is there is whole. Nothing is evicted:
//! `cargo clean` does that.

use std::io;
use std::path::{Path, PathBuf};

use crate::{CompileError, Compiler, Image, Unit};

/// A folder of images.
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Opens the cache below `target`, the folder in which cargo builds.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn below(target: &Path) -> Result<Cache, CompileError> {
        let folder = target.join("kernel-cache");
        std::fs::create_dir_all(&folder).map_err(|source| CompileError::Io { path: folder.clone(), source })?;
        Ok(Cache { folder })
    }

    /// The image of `unit`, compiled if it is not there yet.
    ///
    /// # Errors
    /// The compiler's, or that the image cannot be stored.
    pub fn image(&self, compiler: &Compiler, unit: Unit) -> Result<Image, CompileError> {
        let key = compiler.key(unit).to_string();
        if let Some(image) = self.read(&key) {
            return Ok(image);
        }
        let image = compiler.compile(unit)?;
        self.write(&key, &image).map_err(|source| CompileError::Io { path: self.folder.join(&key), source })?;
        Ok(image)
    }

    fn read(&self, key: &str) -> Option<Image> {
        let bytes = std::fs::read(self.folder.join(format!("{key}.image"))).ok()?;
        let log = std::fs::read_to_string(self.folder.join(format!("{key}.log"))).ok()?;
        Some(Image { bytes, log })
    }

    fn write(&self, key: &str, image: &Image) -> io::Result<()> {
        self.replace(&format!("{key}.log"), image.log.as_bytes())?;
        self.replace(&format!("{key}.image"), &image.bytes)
    }

    /// Writers of the same entry do not disturb each other: each has a name of its own until the rename.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let partial = self.folder.join(format!("{name}.{}.{:?}", std::process::id(), std::thread::current().id()));
        std::fs::write(&partial, bytes)?;
        std::fs::rename(&partial, self.folder.join(name))
    }
}
