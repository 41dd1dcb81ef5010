//! Memory of KV pools: zeroed, aligned, fixed in size, and written from several threads at disjoint places.

use std::ptr::NonNull;

use sidereal_ffi::Pages;

use crate::device::DeviceError;

/// A fixed array of 32-bit cells: one f32, or two bf16 side by side.
///
/// Reads and writes go through raw pointers. Whoever calls [`Cells::at`] answers for keeping threads apart.
pub(in crate::device::cpu) struct Cells {
    /// Into `_pages`.
    pointer: NonNull<u32>,
    len: usize,
    /// Owns the memory; in huge pages where it is large, and taking none where it was never written.
    _pages: Pages,
}

// SAFETY: the cells are plain integers, owned by this value alone.
unsafe impl Send for Cells {}
// SAFETY: through `&self` one only gets raw pointers; the unsafe code that uses them keeps writers apart.
unsafe impl Sync for Cells {}

impl Cells {
    /// `len` zeroed cells. `what` names them in the error.
    pub(in crate::device::cpu) fn new(len: usize, what: &str) -> Result<Cells, DeviceError> {
        let refused = |reason: &str| DeviceError::OutOfMemory {
            what: what.to_owned(),
            bytes: len.saturating_mul(4),
            reason: reason.to_owned(),
        };
        let bytes = len.checked_mul(4).ok_or_else(|| refused("more than the address space"))?;
        let mut pages = Pages::zeroed(bytes).map_err(|error| refused(&error.to_string()))?;
        let pointer = NonNull::new(pages.as_mut_ptr().cast()).expect("a mapping is never at address 0");
        Ok(Cells { pointer, len, _pages: pages })
    }

    /// Bytes held.
    pub(in crate::device::cpu) fn bytes(&self) -> usize {
        self.len * 4
    }

    /// Address of cell `index`, which may be one past the end.
    #[inline]
    pub(in crate::device::cpu) fn at(&self, index: usize) -> *mut u32 {
        assert!(index <= self.len, "cell {index} of {}", self.len);
        // SAFETY: the index was just checked against the allocation.
        unsafe { self.pointer.as_ptr().add(index) }
    }
}
