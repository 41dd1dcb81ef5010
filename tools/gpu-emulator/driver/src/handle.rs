//! Handles: numbers that name contexts, streams, events, modules, functions and graphs.
//!
//! A number is never used twice in a process, so a handle kept after its object was destroyed is answered with an error where a
//! real driver might crash or, worse, find another object.

/// A handle, as the caller sees it in a pointer's bits.
pub type Handle = u64;

const FIRST: Handle = 0x1000;
const STEP: Handle = 0x10;

/// Gives out handles.
#[derive(Debug)]
pub struct Handles(Handle);

impl Default for Handles {
    fn default() -> Self {
        Handles(FIRST)
    }
}

impl Handles {
    /// A handle that no object has had.
    pub fn take(&mut self) -> Handle {
        let handle = self.0;
        self.0 += STEP;
        handle
    }
}
