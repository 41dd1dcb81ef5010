//! What NVRTC has compiled, kept on disk between starts.
//!
//! ```text
//! 0   8 bytes  magic "SIDKERN1"
//! 8   u32      CRC32C of the image, little-endian
//! 12           the image
//! ```
//!
//! A file is named after its module and a hash of all that goes into it, written under another name and renamed. One process
//! compiles a module at a time, the others wait for it. A damaged file is compiled again; a folder that cannot be written
//! costs the time to compile at every start, nothing else. Files of earlier versions stay until somebody empties the folder.

use std::fs::File;
use std::io;
use std::path::Path;

const MAGIC: &[u8; 8] = b"SIDKERN1";
const HEADER_BYTES: usize = 12;

/// The name of an entry: a module, and a hash over source, headers, options, target and compiler.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// Which module.
    pub module: &'a str,
    /// The hash, in hexadecimal.
    pub hash: &'a str,
}

/// The image under `key`, made by `compile` when it is not there.
///
/// # Errors
/// Those of `compile`. What goes wrong with the folder is logged.
pub fn image_of<E>(folder: &Path, key: Key, compile: impl FnOnce() -> Result<Vec<u8>, E>) -> Result<Vec<u8>, E> {
    let path = folder.join(format!("{}-{}.kernel", key.module, key.hash));
    if let Some(image) = read(&path) {
        return Ok(image);
    }
    // Held until the image is stored; the system lets go of it when the process ends, however that happens.
    let lock = match lock(folder, key.module) {
        Ok(lock) => Some(lock),
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "compiled kernels cannot be kept");
            None
        }
    };
    if lock.is_some()
        && let Some(image) = read(&path)
    {
        return Ok(image);
    }
    let image = compile()?;
    if lock.is_some()
        && let Err(error) = write(&path, &image)
    {
        tracing::warn!(path = %path.display(), %error, "a compiled kernel cannot be kept");
    }
    Ok(image)
}

fn lock(folder: &Path, module: &str) -> io::Result<File> {
    std::fs::create_dir_all(folder)?;
    let file = File::options().create(true).truncate(false).write(true).open(folder.join(format!("{module}.lock")))?;
    file.lock()?;
    Ok(file)
}

/// The image in the file at `path`, if it is there and whole.
fn read(path: &Path) -> Option<Vec<u8>> {
    let damaged = |reason: &str| {
        tracing::warn!(path = %path.display(), reason, "a compiled kernel is damaged and will be compiled again");
    };
    let mut bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            damaged(&error.to_string());
            return None;
        }
    };
    match checksum_in(&bytes) {
        None => damaged("it does not begin as such a file does"),
        Some(checksum) if checksum != crc32c::crc32c(&bytes[HEADER_BYTES..]) => damaged("its checksum is wrong"),
        Some(_) => {
            bytes.drain(..HEADER_BYTES);
            return Some(bytes);
        }
    }
    None
}

fn checksum_in(bytes: &[u8]) -> Option<u32> {
    let (checksum, _) = bytes.strip_prefix(MAGIC)?.split_first_chunk()?;
    Some(u32::from_le_bytes(*checksum))
}

fn write(path: &Path, image: &[u8]) -> io::Result<()> {
    let bytes = [&MAGIC[..], &crc32c::crc32c(image).to_le_bytes(), image].concat();
    // The lock makes this name ours; one that a killed process left behind is overwritten.
    let partial = path.with_extension("partial");
    std::fs::write(&partial, bytes)?;
    std::fs::rename(&partial, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const KEY: Key = Key { module: "norm", hash: "00" };

    fn compiled(image: &[u8]) -> Result<Vec<u8>, String> {
        Ok(image.to_owned())
    }

    fn not_compiled() -> Result<Vec<u8>, String> {
        Err("compiled again".to_owned())
    }

    #[test]
    fn compiles_once_and_reads_then() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("made/when/missing");
        assert_eq!(image_of(&cache, KEY, || compiled(b"image")).unwrap(), b"image");
        assert_eq!(image_of(&cache, KEY, not_compiled).unwrap(), b"image");
        assert!(image_of(&cache, Key { hash: "01", ..KEY }, not_compiled).is_err(), "another hash is another image");
    }

    #[test]
    fn any_damage_is_compiled_over() {
        let folder = tempfile::tempdir().unwrap();
        image_of(folder.path(), KEY, || compiled(b"image")).unwrap();
        let path = folder.path().join("norm-00.kernel");
        let whole = std::fs::read(&path).unwrap();
        let flips = (0..whole.len()).map(|at| {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            damaged
        });
        for damaged in flips.chain((0..whole.len()).map(|len| whole[..len].to_owned())) {
            std::fs::write(&path, &damaged).unwrap();
            assert!(image_of(folder.path(), KEY, not_compiled).is_err(), "{damaged:?} was taken for whole");
            assert_eq!(image_of(folder.path(), KEY, || compiled(b"image")).unwrap(), b"image");
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn a_folder_that_cannot_be_made_costs_nothing_but_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(image_of(&file, KEY, || compiled(b"image")).unwrap(), b"image");
    }

    #[test]
    fn one_compiles_and_the_others_wait_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let compilations = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let compile = || {
                        compilations.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        compiled(b"image")
                    };
                    assert_eq!(image_of(folder.path(), KEY, compile).unwrap(), b"image");
                });
            }
        });
        assert_eq!(compilations.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_failure_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(image_of(folder.path(), KEY, not_compiled).unwrap_err(), "compiled again");
        assert_eq!(image_of(folder.path(), KEY, || compiled(b"image")).unwrap(), b"image");
    }
}
