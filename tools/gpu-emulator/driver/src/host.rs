//! Pinned host memory and host functions: the memory of the program that uses this library.
//!
//! Pinned memory is read and written when a copy runs, not when it is asked for, so a staging buffer that is used again too early
//! shows as a wrong result. The invariant: a region is in the table only while its memory is there; allocated regions are owned by
//! the table, registered ones are promised by the caller of `register`.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::mem::MaybeUninit;

use crate::handle::Handle;
use crate::status::{CudaError, Outcome};

/// Real drivers pin whole pages.
const PAGE_BYTES: usize = 4096;

/// Bytes of a region that was pinned when the range was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinnedRange {
    address: usize,
    bytes: usize,
}

impl PinnedRange {
    /// Length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

struct Region {
    bytes: usize,
    context: Handle,
    flags: u32,
    /// How the region was allocated; `None` if it is the caller's, registered.
    layout: Option<Layout>,
}

/// All pinned regions of the process, by address.
#[derive(Default)]
pub struct PinnedMemory {
    regions: BTreeMap<usize, Region>,
}

impl PinnedMemory {
    /// Allocates page-aligned memory that belongs to a context.
    pub fn allocate(&mut self, bytes: usize, context: Handle, flags: u32) -> Outcome<usize> {
        let layout = Layout::from_size_align(bytes, PAGE_BYTES).map_err(|_| CudaError::OutOfMemory)?;
        if bytes == 0 {
            return Err(CudaError::InvalidValue);
        }
        // SAFETY: the layout is not of size zero.
        let address = unsafe { alloc_zeroed(layout) } as usize;
        if address == 0 {
            return Err(CudaError::OutOfMemory);
        }
        self.regions.insert(address, Region { bytes, context, flags, layout: Some(layout) });
        Ok(address)
    }

    /// Frees what `allocate` gave to the same context.
    pub fn free(&mut self, address: usize, context: Handle) -> Outcome<()> {
        let region = self.regions.get(&address).filter(|region| region.context == context);
        let layout = region.and_then(|region| region.layout).ok_or(CudaError::InvalidValue)?;
        self.regions.remove(&address);
        // SAFETY: the table held this address with the layout it was allocated with, and holds it no more.
        unsafe { dealloc(address as *mut u8, layout) };
        Ok(())
    }

    /// Pins the caller's memory.
    ///
    /// # Safety
    /// The memory must stay readable and writable until it is unregistered.
    pub unsafe fn register(&mut self, address: usize, bytes: usize, owner: (Handle, u32)) -> Outcome<()> {
        let end = address.checked_add(bytes).filter(|_| address != 0 && bytes != 0).ok_or(CudaError::InvalidValue)?;
        let overlaps =
            self.regions.range(..end).next_back().is_some_and(|(start, region)| start + region.bytes > address);
        if overlaps {
            return Err(CudaError::HostMemoryAlreadyRegistered);
        }
        let (context, flags) = owner;
        self.regions.insert(address, Region { bytes, context, flags, layout: None });
        Ok(())
    }

    /// Ends a registration.
    pub fn unregister(&mut self, address: usize) -> Outcome<()> {
        match self.regions.get(&address) {
            Some(region) if region.layout.is_none() => self.regions.remove(&address),
            _ => return Err(CudaError::HostMemoryNotRegistered),
        };
        Ok(())
    }

    /// Forgets a destroyed context's regions. Their memory is leaked: the program may still hold references to it, and a stale use
    /// should be an error from the next call, not a crash far away.
    pub fn forget_context(&mut self, context: Handle) {
        self.regions.retain(|_, region| region.context != context);
    }

    /// The range at an address if all of it is pinned.
    pub fn find(&self, address: usize, bytes: usize) -> Option<PinnedRange> {
        let (start, region) = self.regions.range(..=address).next_back()?;
        (address - start + bytes <= region.bytes).then_some(PinnedRange { address, bytes })
    }

    /// The flags a region was made with.
    pub fn flags(&self, address: usize) -> Option<u32> {
        let (start, region) = self.regions.range(..=address).next_back()?;
        (address - start < region.bytes).then_some(region.flags)
    }

    /// The range's bytes now, or `None` if it is pinned no more.
    pub fn read(&self, range: PinnedRange) -> Option<Vec<u8>> {
        self.find(range.address, range.bytes)?;
        let mut data = Vec::with_capacity(range.bytes);
        // SAFETY: the table holds the region, so its memory is there; the vector has room for `bytes`, which the copy fills. The
        // program may write the memory meanwhile, as it may under a real device: bytes are then torn, nothing else.
        unsafe {
            std::ptr::copy_nonoverlapping(range.address as *const u8, data.as_mut_ptr(), range.bytes);
            data.set_len(range.bytes);
        }
        Some(data)
    }

    /// Writes a range, or answers `None` if it is pinned no more.
    pub fn write(&self, range: PinnedRange, data: &[u8]) -> Option<()> {
        self.find(range.address, range.bytes)?;
        let bytes = data.len().min(range.bytes);
        // SAFETY: the table holds the region, so its memory is there for `range.bytes`; `data` is memory of this library.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), range.address as *mut u8, bytes) };
        Some(())
    }
}

/// A destination in the caller's memory, for the length of one call; it need not be initialised.
pub struct HostBuffer<'a>(pub &'a mut [MaybeUninit<u8>]);

impl HostBuffer<'_> {
    /// Where it is.
    pub fn address(&self) -> usize {
        self.0.as_ptr() as usize
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    /// Fills it.
    pub fn write(&mut self, data: &[u8]) {
        for (to, from) in self.0.iter_mut().zip(data) {
            to.write(*from);
        }
    }
}

/// A function of the program with its argument, called when the stream reaches it.
#[derive(Clone, Copy)]
pub struct HostCall {
    function: unsafe extern "C" fn(*mut c_void),
    argument: *mut c_void,
}

// SAFETY: CUDA calls such functions on a thread of its own choosing; whoever enqueued one promised that it may be.
unsafe impl Send for HostCall {}
// SAFETY: the value is only copied and called; see above.
unsafe impl Sync for HostCall {}

impl HostCall {
    /// Keeps a function for later.
    ///
    /// # Safety
    /// The function must be callable with this argument from any thread until the work has run.
    pub unsafe fn new(function: unsafe extern "C" fn(*mut c_void), argument: *mut c_void) -> HostCall {
        HostCall { function, argument }
    }

    /// Calls it.
    pub fn run(&self) {
        // SAFETY: promised by the caller of `new`.
        unsafe { (self.function)(self.argument) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pinned_ranges_are_found() {
        let mut pinned = PinnedMemory::default();
        let address = pinned.allocate(64, 1, 0).unwrap();
        assert_eq!(pinned.find(address + 60, 4).map(|range| range.bytes()), Some(4));
        assert_eq!(pinned.find(address + 60, 5), None);
        assert_eq!(pinned.find(address - 1, 1), None);
        pinned.write(pinned.find(address, 2).unwrap(), &[7, 8]).unwrap();
        assert_eq!(pinned.read(pinned.find(address, 3).unwrap()).unwrap(), [7, 8, 0]);
        assert_eq!(pinned.free(address, 2), Err(CudaError::InvalidValue), "another context's memory");
        pinned.free(address, 1).unwrap();
        assert_eq!(pinned.find(address, 1), None);
    }

    #[test]
    fn registrations_do_not_overlap() {
        let data = vec![0_u8; 256];
        let at = data.as_ptr() as usize;
        let mut pinned = PinnedMemory::default();
        // SAFETY: `data` outlives the registrations.
        unsafe {
            pinned.register(at, 128, (1, 0)).unwrap();
            assert_eq!(pinned.register(at + 127, 8, (1, 0)), Err(CudaError::HostMemoryAlreadyRegistered));
            pinned.register(at + 128, 128, (1, 0)).unwrap();
        }
        pinned.unregister(at).unwrap();
        assert_eq!(pinned.unregister(at), Err(CudaError::HostMemoryNotRegistered));
        assert_eq!(pinned.free(at + 128, 1), Err(CudaError::InvalidValue), "registered memory is not ours to free");
    }
}
