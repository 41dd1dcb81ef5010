//! What can stand in a stream's queue or in a graph.
//!
//! A piece of work owns all it needs except device memory and pinned host memory, which are looked at when it runs: exactly what a
//! real device would see.

use std::sync::Arc;

use gpu_emulator::product::Product;

use crate::handle::Handle;
use crate::host::{HostCall, PinnedRange};
use crate::launch::Launch;
use crate::status::CudaError;

/// A place in a stream: after its first `ticket` pieces of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The stream.
    pub stream: Handle,
    /// Pieces of work before this place, counted since the stream was made.
    pub ticket: u64,
}

/// Where a copy to the device reads.
#[derive(Clone)]
pub enum HostSource {
    /// Pageable memory, copied when the call was made.
    Snapshot(Arc<[u8]>),
    /// Pinned memory, read when the copy runs.
    Pinned(PinnedRange),
}

impl HostSource {
    /// Bytes to copy.
    pub fn bytes(&self) -> usize {
        match self {
            HostSource::Snapshot(data) => data.len(),
            HostSource::Pinned(range) => range.bytes(),
        }
    }
}

/// A value repeated over device memory.
#[derive(Clone, Copy, Debug)]
pub struct Fill {
    /// First byte.
    pub address: u64,
    /// The value's bytes, little endian, of which `width` count.
    pub value: [u8; 4],
    /// Bytes of the value: 1, 2 or 4.
    pub width: usize,
    /// Repetitions.
    pub count: usize,
}

/// An error a fault plan asked for, in place of the work it spoils.
#[derive(Clone, Debug)]
pub struct Spoiled {
    /// What the context fails with.
    pub error: CudaError,
    /// Which call it was, for the report.
    pub what: Arc<str>,
}

/// One piece of work.
#[derive(Clone)]
pub enum Work {
    /// A kernel.
    Launch(Launch),
    /// A product of the stand-in cuBLASLt.
    Product(Box<Product>),
    /// Host to device.
    Upload {
        /// Device address.
        to: u64,
        /// Host bytes.
        from: HostSource,
    },
    /// Device to pinned host memory.
    Download {
        /// Pinned host bytes.
        to: PinnedRange,
        /// Device address.
        from: u64,
    },
    /// Device to device.
    Copy {
        /// Device address.
        to: u64,
        /// Device address.
        from: u64,
        /// Bytes.
        bytes: usize,
    },
    /// A memset.
    Fill(Fill),
    /// The end of an allocation freed in stream order.
    Free(u64),
    /// An event's place in the stream.
    Record(Handle),
    /// Nothing after this runs before that place is reached.
    Wait(Position),
    /// A function of the host program.
    Host(HostCall),
    /// A graph's work, in an order its edges allow.
    Graph(Arc<[Work]>),
    /// An injected fault.
    Spoiled(Spoiled),
}
