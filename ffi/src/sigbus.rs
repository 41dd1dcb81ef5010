//! SIGBUS: a mapped file that shrinks under the engine is the one fault that ends the process. The handler says which
//! file it was and exits with status 3. It uses only what is allowed in a signal handler: atomics, `write`, `_exit`.

use std::collections::BTreeSet;
use std::ffi::c_int;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// More mappings than this are served, but a SIGBUS in one beyond it is reported without the file's name.
const SLOTS: usize = 256;
/// Longest path that is reported whole.
const PATH_BYTES: usize = 1024;

struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    /// Path bytes that are never freed: a handler may read them at any time.
    path: AtomicPtr<u8>,
    path_len: AtomicUsize,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        path: AtomicPtr::new(std::ptr::null_mut()),
        path_len: AtomicUsize::new(0),
    }
}; SLOTS];
/// Paths that were ever registered, each kept once and for good; and who holds the lock may write to the table.
static PATHS: Mutex<BTreeSet<&'static [u8]>> = Mutex::new(BTreeSet::new());

/// Keeps one mapping known to the handler until it is dropped.
#[derive(Debug)]
pub(crate) struct Registration(usize);

pub(crate) fn register(path: &Path, start: usize, len: usize) -> Option<Registration> {
    let mut paths = PATHS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let index = TABLE.iter().position(|slot| slot.end.load(Ordering::Relaxed) == 0)?;
    let bytes = path.as_os_str().as_bytes();
    let bytes = &bytes[..bytes.len().min(PATH_BYTES)];
    // They stay allocated for good, since a handler on another thread may still be printing them: once a path, not once a
    // mapping, so that a file which is replaced and mapped again and again costs nothing.
    let known = paths.get(bytes).copied();
    let bytes = known.unwrap_or_else(|| {
        let kept: &'static [u8] = Box::leak(bytes.into());
        paths.insert(kept);
        kept
    });
    let slot = &TABLE[index];
    slot.path_len.store(bytes.len(), Ordering::Relaxed);
    slot.path.store(bytes.as_ptr().cast_mut(), Ordering::Relaxed);
    slot.start.store(start, Ordering::Relaxed);
    slot.end.store(start + len, Ordering::Release);
    Some(Registration(index))
}

impl Drop for Registration {
    fn drop(&mut self) {
        TABLE[self.0].end.store(0, Ordering::Release);
    }
}

extern "C" fn on_sigbus(_signal: c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo_t to a handler installed with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() } as usize;
    say(b"sidereal: a mapped file shrank while it was in use: ");
    let mut named = false;
    for slot in &TABLE {
        let end = slot.end.load(Ordering::Acquire);
        // The fault may be on the last, partial page: round up.
        if slot.start.load(Ordering::Relaxed) <= address && address < end.next_multiple_of(4096) {
            let (path, len) = (slot.path.load(Ordering::Relaxed), slot.path_len.load(Ordering::Relaxed));
            // SAFETY: path and len were stored together before `end` was published and the bytes are never freed.
            say(unsafe { std::slice::from_raw_parts(path, len) });
            named = true;
            break;
        }
    }
    if !named {
        say(b"(unknown mapping)");
    }
    say(b"\nsidereal: artefacts are immutable: replace them by rename, never edit them in place. Exiting.\n");
    // SAFETY: _exit is async-signal-safe and does not return.
    unsafe { libc::_exit(3) }
}

fn say(bytes: &[u8]) {
    // SAFETY: write(2) is async-signal-safe; the slice is valid for its length. A failed write changes nothing.
    let _ = unsafe { libc::write(2, bytes.as_ptr().cast(), bytes.len()) };
}

/// Installs the handler for the whole process. Call once at start-up, before files are mapped.
///
/// # Errors
/// What `sigaction` reports.
pub fn install_sigbus_handler() -> std::io::Result<()> {
    // SAFETY: all-zero is a valid sigaction to fill in; the handler has the three-argument signature that SA_SIGINFO
    // asks for and touches only async-signal-safe state.
    let status = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut())
    };
    if status == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every mapping once kept a copy of its path for good: three million openings of one catalogue, which a fuzzer makes in
    /// minutes, took 512 MB.
    #[test]
    fn a_path_that_is_mapped_again_is_kept_once() {
        let path = |registration: &Option<Registration>| {
            TABLE[registration.as_ref().expect("a free slot").0].path.load(Ordering::Relaxed)
        };
        let first = register(Path::new("/a/catalogue"), 1 << 40, 10);
        let again = register(Path::new("/a/catalogue"), 1 << 41, 10);
        let other = register(Path::new("/another/catalogue"), 1 << 42, 10);
        assert_eq!(path(&first), path(&again));
        assert_ne!(path(&first), path(&other));
    }
}
