//! Device memory: allocations at virtual addresses, with a mark on every byte that says whether it was ever written.
//!
//! Invariants: allocations never overlap, a gap lies between any two, and an address is never handed out twice, so that a stale
//! or overrun pointer meets no live allocation. Contents start poisoned (0xff: NaN in every float format, -1 as an integer).
//! The host may read poison; a kernel that does is at fault.

mod bitmap;
pub(crate) mod race;

pub(crate) use bitmap::Bitmap;
use race::RaceShadow;
use std::collections::VecDeque;
use std::fmt;

/// Start of the first allocation.
const FIRST_ADDRESS: u64 = 0x2_0000_0000;
const ALIGNMENT: u64 = 512;
/// Unused bytes between allocations, before alignment.
const GAP: u64 = 4096;
/// Freed ranges remembered for messages.
const FREED_REMEMBERED: usize = 256;
pub(crate) const POISON: u8 = 0xff;

/// The allocation that an address is in or next to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// Its start.
    pub address: u64,
    /// Its size.
    pub bytes: u64,
    /// Whether it was freed.
    pub freed: bool,
}

/// `Nearest`, if there is any allocation, as the end of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour(pub Option<Nearest>);

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Nearest { address, bytes, freed }) = self.0 else { return f.write_str("there are no allocations") };
        let state = if freed { "freed" } else { "nearest" };
        write!(f, "{state} allocation: {bytes} bytes at {address:#x}, end {:#x}", address + bytes)
    }
}

/// What can go wrong between the host and device memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// An allocation does not fit.
    #[error("{bytes} bytes wanted, {used} of {capacity} in use")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: u64,
        /// Bytes in use.
        used: u64,
        /// Bytes there are.
        capacity: u64,
    },
    /// An allocation of no bytes.
    #[error("an allocation of 0 bytes")]
    Empty,
    /// An access that is not inside one allocation.
    #[error("{bytes} bytes at {address:#x} are not inside one allocation; {neighbour}")]
    OutOfBounds {
        /// Start of the access.
        address: u64,
        /// Size of the access.
        bytes: u64,
        /// What is near.
        neighbour: Neighbour,
    },
    /// A read of bytes that nobody wrote.
    #[error("{bytes} bytes at {address:#x} were not all written before they were read")]
    Unwritten {
        /// Start of the access.
        address: u64,
        /// Size of the access.
        bytes: u64,
    },
    /// Freeing an address that no live allocation starts at.
    #[error("no allocation starts at {address:#x}; {neighbour}")]
    NotAllocated {
        /// The address.
        address: u64,
        /// What is near.
        neighbour: Neighbour,
    },
    /// A fill pattern that is not 1, 2 or 4 bytes.
    #[error("a fill pattern of {bytes} bytes at {address:#x}; 1, 2 and 4 are possible")]
    Pattern {
        /// Where it was to go.
        address: u64,
        /// Its size.
        bytes: usize,
    },
}

/// One allocation.
pub(crate) struct Allocation {
    pub base: u64,
    pub data: Vec<u8>,
    /// One bit a byte: written at least once.
    pub written: Bitmap,
    pub races: RaceShadow,
}

impl Allocation {
    pub(crate) fn end(&self) -> u64 {
        self.base + self.data.len() as u64
    }
}

/// The device's global memory.
pub struct GlobalMemory {
    capacity: u64,
    used: u64,
    next: u64,
    /// Sorted by address: addresses only grow.
    allocations: Vec<Allocation>,
    freed: VecDeque<Nearest>,
    /// Counts launches, so that race marks of an older launch are told apart without clearing.
    pub(crate) launches: u32,
}

impl GlobalMemory {
    /// Memory of this size, all free.
    pub fn new(capacity_bytes: u64) -> Self {
        GlobalMemory {
            capacity: capacity_bytes,
            used: 0,
            next: FIRST_ADDRESS,
            allocations: Vec::new(),
            freed: VecDeque::new(),
            launches: 0,
        }
    }

    /// Bytes allocated.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Bytes there are.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Allocates exactly `bytes`, poisoned and marked as never written.
    pub fn alloc(&mut self, bytes: u64) -> Result<u64, MemoryError> {
        if bytes == 0 {
            return Err(MemoryError::Empty);
        }
        let full = MemoryError::OutOfMemory { bytes, used: self.used, capacity: self.capacity };
        if bytes > self.capacity - self.used {
            return Err(full);
        }
        let size = usize::try_from(bytes).map_err(|_| full.clone())?;
        let mut data = Vec::new();
        data.try_reserve_exact(size).map_err(|_| full)?;
        data.resize(size, POISON);
        let base = self.next;
        self.next = (base + bytes + GAP).next_multiple_of(ALIGNMENT);
        self.used += bytes;
        self.allocations.push(Allocation { base, data, written: Bitmap::new(size), races: RaceShadow::new(size) });
        Ok(base)
    }

    /// Frees the allocation that starts at `address`.
    pub fn free(&mut self, address: u64) -> Result<(), MemoryError> {
        match self.allocations.binary_search_by_key(&address, |a| a.base) {
            Ok(index) => {
                let gone = self.allocations.remove(index);
                let bytes = gone.data.len() as u64;
                self.used -= bytes;
                if self.freed.len() == FREED_REMEMBERED {
                    self.freed.pop_front();
                }
                self.freed.push_back(Nearest { address, bytes, freed: true });
                Ok(())
            }
            Err(_) => Err(MemoryError::NotAllocated { address, neighbour: self.neighbour(address) }),
        }
    }

    /// Whether all of the range lies inside one allocation.
    pub fn contains(&self, address: u64, bytes: u64) -> bool {
        self.find(address, bytes).is_some()
    }

    /// Copies device bytes to the host, poison included.
    pub fn read(&self, address: u64, to: &mut [u8]) -> Result<(), MemoryError> {
        let (index, range) = self.range(address, to.len() as u64)?;
        to.copy_from_slice(&self.allocations[index].data[range]);
        Ok(())
    }

    /// Copies device bytes that were written.
    pub fn read_written(&self, address: u64, to: &mut [u8]) -> Result<(), MemoryError> {
        let (index, range) = self.range(address, to.len() as u64)?;
        if !self.allocations[index].written.all(range.clone()) {
            return Err(MemoryError::Unwritten { address, bytes: to.len() as u64 });
        }
        to.copy_from_slice(&self.allocations[index].data[range]);
        Ok(())
    }

    /// Copies host bytes to the device and marks them written.
    pub fn write(&mut self, address: u64, from: &[u8]) -> Result<(), MemoryError> {
        let (index, range) = self.range(address, from.len() as u64)?;
        let allocation = &mut self.allocations[index];
        allocation.written.set(range.clone());
        allocation.data[range].copy_from_slice(from);
        Ok(())
    }

    /// Repeats a pattern of 1, 2 or 4 bytes `count` times and marks the bytes written.
    pub fn fill(&mut self, address: u64, pattern: &[u8], count: u64) -> Result<(), MemoryError> {
        if !matches!(pattern.len(), 1 | 2 | 4) {
            return Err(MemoryError::Pattern { address, bytes: pattern.len() });
        }
        let (index, range) = self.range(address, count.saturating_mul(pattern.len() as u64))?;
        let allocation = &mut self.allocations[index];
        allocation.written.set(range.clone());
        allocation.data[range].chunks_exact_mut(pattern.len()).for_each(|chunk| chunk.copy_from_slice(pattern));
        Ok(())
    }

    /// Copies within the device; unwritten bytes stay unwritten at the destination.
    pub fn copy(&mut self, to: u64, from: u64, bytes: u64) -> Result<(), MemoryError> {
        let (source, from) = self.range(from, bytes)?;
        let (target, to) = self.range(to, bytes)?;
        let data = self.allocations[source].data[from.clone()].to_vec();
        let marks = &self.allocations[source].written;
        let unwritten: Vec<usize> = if marks.all(from.clone()) {
            Vec::new()
        } else {
            from.clone().filter(|&at| !marks.get(at)).map(|at| at - from.start + to.start).collect()
        };
        let target = &mut self.allocations[target];
        target.written.set(to.clone());
        unwritten.into_iter().for_each(|at| target.written.reset(at));
        target.data[to].copy_from_slice(&data);
        Ok(())
    }

    /// The index of the allocation that holds all of the range.
    pub(crate) fn find(&self, address: u64, bytes: u64) -> Option<usize> {
        let index = self.allocations.partition_point(|a| a.base <= address).checked_sub(1)?;
        let end = address.checked_add(bytes)?;
        (end <= self.allocations[index].end()).then_some(index)
    }

    pub(crate) fn allocation(&self, index: usize) -> Option<&Allocation> {
        self.allocations.get(index)
    }

    pub(crate) fn allocation_mut(&mut self, index: usize) -> &mut Allocation {
        &mut self.allocations[index]
    }

    fn range(&self, address: u64, bytes: u64) -> Result<(usize, std::ops::Range<usize>), MemoryError> {
        let Some(index) = self.find(address, bytes) else {
            return Err(MemoryError::OutOfBounds { address, bytes, neighbour: self.neighbour(address) });
        };
        let start = (address - self.allocations[index].base) as usize;
        Ok((index, start..start + bytes as usize))
    }

    /// The allocation, live or lately freed, whose range is closest.
    pub(crate) fn neighbour(&self, address: u64) -> Neighbour {
        let live =
            self.allocations.iter().map(|a| Nearest { address: a.base, bytes: a.data.len() as u64, freed: false });
        let distance = |n: &Nearest| n.address.saturating_sub(address).max(address.saturating_sub(n.address + n.bytes));
        Neighbour(live.chain(self.freed.iter().copied()).min_by_key(distance))
    }
}
