//! Device memory: what is allocated, and copies and fills as work.
//!
//! A call on addresses outside live allocations is refused at once, as a driver does for the calls it can check.

use std::collections::BTreeMap;

use crate::handle::Handle;
use crate::host::HostBuffer;
use crate::inject::Kind;
use crate::session::Session;
use crate::status::{CudaError, Outcome};
use crate::work::{Fill, HostSource, Work};

/// What a block of device memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// An allocation.
    Live,
    /// An allocation between `cuMemFreeAsync` and the stream's getting there: no call may use it.
    Leaving,
    /// A variable of a module.
    Variable(Handle),
}

struct Block {
    bytes: u64,
    used_as: Use,
}

/// Device memory that calls may name, by address.
#[derive(Default)]
pub struct Allocations {
    blocks: BTreeMap<u64, Block>,
}

impl Allocations {
    /// The usable block an address lies in: its start and bytes.
    pub fn around(&self, address: u64) -> Option<(u64, u64)> {
        let (start, block) = self.blocks.range(..=address).next_back()?;
        (block.used_as != Use::Leaving && address - start < block.bytes).then_some((*start, block.bytes))
    }

    /// Whether bytes lie in one usable block.
    pub fn contains(&self, address: u64, bytes: usize) -> bool {
        self.around(address).is_some_and(|(start, size)| bytes as u64 <= size - (address - start))
    }

    /// Makes a module's variable known.
    pub fn add_variable(&mut self, address: u64, bytes: u64, module: Handle) {
        self.blocks.insert(address, Block { bytes, used_as: Use::Variable(module) });
    }

    /// Forgets a module's variables.
    pub fn remove_variables(&mut self, module: Handle) {
        self.blocks.retain(|_, block| block.used_as != Use::Variable(module));
    }

    fn is_allocation(&self, address: u64) -> bool {
        self.blocks.get(&address).is_some_and(|block| block.used_as == Use::Live)
    }
}

impl Session<'_> {
    /// Allocates. When memory is short, frees that wait in streams are let happen first.
    pub fn allocate(&mut self, bytes: usize) -> Outcome<u64> {
        if bytes == 0 {
            return Err(CudaError::InvalidValue);
        }
        self.count_allocation(Kind::Alloc)?;
        let address = match self.context.memory.alloc(bytes as u64) {
            Ok(address) => address,
            Err(_) => {
                self.run_all()?;
                self.context.memory.alloc(bytes as u64).map_err(|_| CudaError::OutOfMemory)?
            }
        };
        self.context.allocations.blocks.insert(address, Block { bytes: bytes as u64, used_as: Use::Live });
        Ok(address)
    }

    /// `cuMemFree`: waits for everything, then frees.
    pub fn free(&mut self, address: u64) -> Outcome<()> {
        self.refuse_unsafe_call()?;
        if address == 0 {
            return Ok(());
        }
        self.check_start(address)?;
        self.run_all()?;
        self.release(address)
    }

    /// `cuMemFreeAsync`: frees when the stream gets there; from now on no call may use it.
    pub fn free_in_order(&mut self, address: u64, stream: Handle) -> Outcome<()> {
        if address == 0 {
            return Ok(());
        }
        self.check_start(address)?;
        if self.capture_of(stream)?.is_some() {
            self.refuse_while_capturing(stream)?;
        }
        if let Some(block) = self.context.allocations.blocks.get_mut(&address) {
            block.used_as = Use::Leaving;
        }
        self.submit(stream, Work::Free(address))
    }

    /// Ends an allocation.
    pub fn release(&mut self, address: u64) -> Outcome<()> {
        self.context.allocations.blocks.remove(&address);
        self.context.memory.free(address).map_err(|_| CudaError::InvalidValue)
    }

    /// A copy to the device. Pinned memory is read when the copy runs; any other is read now.
    pub fn upload(&mut self, to: u64, data: &[u8], stream: Handle) -> Outcome<()> {
        self.check_range(to, data.len())?;
        if data.is_empty() {
            return Ok(());
        }
        let from = match self.process.pinned.find(data.as_ptr() as usize, data.len()) {
            Some(range) => HostSource::Pinned(range),
            None => {
                self.refuse_while_capturing(stream)?;
                HostSource::Snapshot(data.into())
            }
        };
        self.submit_counted(Kind::HostToDevice, stream, Work::Upload { to, from })
    }

    /// A copy from the device. Into pinned memory it happens when the stream gets there, into any other before this returns.
    pub fn download(&mut self, mut to: HostBuffer<'_>, from: u64, stream: Handle) -> Outcome<()> {
        self.check_range(from, to.bytes())?;
        if to.bytes() == 0 {
            return Ok(());
        }
        if let Some(range) = self.process.pinned.find(to.address(), to.bytes()) {
            return self.submit_counted(Kind::DeviceToHost, stream, Work::Download { to: range, from });
        }
        self.refuse_while_capturing(stream)?;
        self.order_with_legacy(stream)?;
        if let Work::Spoiled(spoiled) = self.spoil(Kind::DeviceToHost, Work::Free(0))? {
            return Err(self.fail(spoiled.error, &spoiled.what));
        }
        self.run_to(self.tail(stream))?;
        let data = self.read_device(from, to.bytes())?;
        self.process.statistics.count_bytes("device to host", data.len());
        to.write(&data);
        Ok(())
    }

    /// A copy within the device.
    pub fn copy(&mut self, to: u64, from: u64, bytes: usize, stream: Handle) -> Outcome<()> {
        self.check_range(to, bytes)?;
        self.check_range(from, bytes)?;
        if bytes == 0 { Ok(()) } else { self.submit(stream, Work::Copy { to, from, bytes }) }
    }

    /// A memset.
    pub fn fill(&mut self, fill: Fill, stream: Handle) -> Outcome<()> {
        let bytes = fill.count.checked_mul(fill.width).ok_or(CudaError::InvalidValue)?;
        self.check_range(fill.address, bytes)?;
        if !fill.address.is_multiple_of(fill.width as u64) {
            return Err(CudaError::InvalidValue);
        }
        if bytes == 0 { Ok(()) } else { self.submit(stream, Work::Fill(fill)) }
    }

    /// Does what a call in a stream does, and waits for it, as calls without `Async` do in the legacy stream.
    pub fn blocking(&mut self, call: impl FnOnce(&mut Self, Handle) -> Outcome<()>) -> Outcome<()> {
        self.refuse_unsafe_call()?;
        let legacy = self.context.legacy;
        call(self, legacy)?;
        self.run_to(self.tail(legacy))
    }

    fn submit_counted(&mut self, kind: Kind, stream: Handle, work: Work) -> Outcome<()> {
        let captured = self.capture_of(stream)?.is_some();
        let work = if captured { work } else { self.spoil(kind, work)? };
        self.submit(stream, work)
    }

    fn check_range(&self, address: u64, bytes: usize) -> Outcome<()> {
        if bytes == 0 || self.context.allocations.contains(address, bytes) {
            Ok(())
        } else {
            Err(CudaError::InvalidValue)
        }
    }

    fn check_start(&self, address: u64) -> Outcome<()> {
        if self.context.allocations.is_allocation(address) { Ok(()) } else { Err(CudaError::InvalidValue) }
    }
}
