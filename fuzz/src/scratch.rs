//! A folder in memory for targets whose entry point is a path. `tools/fuzz` points `TMPDIR` at one and removes it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The folder of this process and thread; made anew at its first use.
pub fn folder(name: &str) -> PathBuf {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    let root = ROOT.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let base = match std::env::var_os("TMPDIR") {
            None if memory.is_dir() => memory.to_owned(),
            _ => std::env::temp_dir(),
        };
        base.join(format!("sidereal-fuzz-{}", std::process::id()))
    });
    let folder = root.join(name);
    std::fs::create_dir_all(&folder).expect("a writable temporary folder");
    folder
}

/// Writes a file of [`folder`]. A fresh inode each time: a mapping of the last input may still be alive.
pub fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, bytes).expect("room for a small file");
    path
}
