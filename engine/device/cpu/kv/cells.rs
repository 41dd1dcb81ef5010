//! Memory of KV pools: zeroed, aligned, fixed in size, and written from several threads at disjoint places.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use crate::device::DeviceError;

/// Alignment of the whole allocation: a page of memory, so that rows of 64 bytes never straddle cache lines.
const ALIGN: usize = 4096;

/// A fixed array of 32-bit cells: one f32, or two bf16 side by side.
///
/// Reads and writes go through raw pointers. Whoever calls [`Cells::at`] answers for keeping threads apart.
pub(in crate::device::cpu) struct Cells {
    pointer: NonNull<u32>,
    len: usize,
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
        let layout = Cells::layout(len).ok_or_else(|| refused("more than the address space"))?;
        // SAFETY: the layout is not empty (`Cells::layout`).
        let pointer = NonNull::new(unsafe { alloc_zeroed(layout) }.cast::<u32>());
        let pointer = pointer.ok_or_else(|| refused("the allocator has no such block"))?;
        Ok(Cells { pointer, len })
    }

    /// Never empty, so that the allocator may be asked.
    fn layout(len: usize) -> Option<Layout> {
        Layout::from_size_align(len.max(1).checked_mul(4)?, ALIGN).ok()
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

impl Drop for Cells {
    fn drop(&mut self) {
        let layout = Cells::layout(self.len).expect("the layout that `new` allocated");
        // SAFETY: allocated by `new` with the same layout, and freed once.
        unsafe { dealloc(self.pointer.as_ptr().cast(), layout) };
    }
}
