//! Device memory: allocated while the device is planned, never afterwards, freed with the device.
//!
//! Every allocation says what it is for; when one does not fit, the error lists what was planned before it.

use std::fmt::Write;
use std::sync::Arc;

use cudarc::driver::{DriverError, sys};

use super::driver::{Driver, failed};
use crate::device::{DeviceError, Queue};

/// What memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    Weights,
    Kv,
    Workspace,
}

impl Purpose {
    const ALL: [Purpose; 3] = [Purpose::Weights, Purpose::Kv, Purpose::Workspace];

    fn name(self) -> &'static str {
        match self {
            Purpose::Weights => "weights",
            Purpose::Kv => "KV",
            Purpose::Workspace => "workspaces and descriptors",
        }
    }
}

struct Block {
    address: u64,
    bytes: usize,
    purpose: Purpose,
    what: String,
}

/// Everything that is allocated.
pub(super) struct Memory {
    driver: Arc<Driver>,
    blocks: Vec<Block>,
}

impl Memory {
    pub(super) fn new(driver: Arc<Driver>) -> Memory {
        Memory { driver, blocks: Vec::new() }
    }

    /// Zeroed memory.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] with a table of what needs what.
    pub(super) fn zeroed(&mut self, purpose: Purpose, what: String, bytes: usize) -> Result<u64, DeviceError> {
        let address = self.allocate(purpose, what, bytes)?;
        self.driver.zero(Queue::Prefill, address, bytes.max(1)).map_err(|error| failed("zero", error))?;
        self.driver.drain().map_err(|error| failed("zero", error))?;
        Ok(address)
    }

    /// Memory that holds `content`.
    pub(super) fn holding(&mut self, purpose: Purpose, what: String, content: &[u8]) -> Result<u64, DeviceError> {
        let address = self.allocate(purpose, what, content.len())?;
        if !content.is_empty() {
            self.driver.write(address, content).map_err(|error| failed("upload", error))?;
        }
        Ok(address)
    }

    /// Frees what is planned at an address and not used any more: nothing may be enqueued that uses it.
    pub(super) fn give_back(&mut self, address: u64) {
        let index = self.blocks.iter().position(|block| block.address == address).expect("an address of this plan");
        self.blocks.swap_remove(index);
        self.driver.free(address);
    }

    fn allocate(&mut self, purpose: Purpose, what: String, bytes: usize) -> Result<u64, DeviceError> {
        match self.driver.allocate(bytes) {
            Ok(address) => {
                self.blocks.push(Block { address, bytes, purpose, what });
                Ok(address)
            }
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                Err(DeviceError::OutOfMemory { what, bytes, reason: self.table() })
            }
            Err(error) => Err(failed("allocate", error)),
        }
    }

    /// Bytes for a purpose.
    pub(super) fn bytes(&self, purpose: Purpose) -> usize {
        self.blocks.iter().filter(|block| block.purpose == purpose).map(|block| block.bytes).sum()
    }

    /// What is planned so far, by purpose, each with its largest parts.
    fn table(&self) -> String {
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let mut text = match self.driver.memory() {
            Ok((free, total)) => format!("{:.1} of {:.1} MiB are free; planned so far:", mib(free), mib(total)),
            Err(_) => "planned so far:".to_owned(),
        };
        for purpose in Purpose::ALL {
            let mut parts: Vec<&Block> = self.blocks.iter().filter(|block| block.purpose == purpose).collect();
            parts.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.what.cmp(&b.what)));
            // Writing to a string does not fail.
            let _ = write!(text, "\n  {:>10.1} MiB  {}", mib(self.bytes(purpose)), purpose.name());
            for part in parts.iter().take(3) {
                let _ = write!(text, "\n    {:>8.1} MiB  {}", mib(part.bytes), part.what);
            }
        }
        text
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // A broken context cannot be drained; then nothing runs any more either.
        let _ = self.driver.drain();
        for block in &self.blocks {
            self.driver.free(block.address);
        }
    }
}
