//! Shared libraries that are found by path. Safe interfaces over unsafe calls; the engine itself does not depend on this.

mod nvrtc;

use std::path::Path;

pub use libloading::Error;
pub use nvrtc::{Api, Program, Status, Texts};

/// Loads a library for the rest of the process and makes its symbols global: whoever asks for it later, by the name that it
/// gives itself, finds it.
///
/// # Errors
/// The loader refuses it.
#[cfg(unix)]
pub fn preload(path: &Path) -> Result<(), Error> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: callers name libraries of ours or of CUDA, whose initialisers ask nothing of their caller.
    std::mem::forget(unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }?);
    Ok(())
}
