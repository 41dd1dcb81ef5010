//! A context: device memory and all objects made in it.
//!
//! A context that failed stays failed. Its objects can still be destroyed with it, nothing else.

use std::collections::BTreeMap;
use std::thread::{self, ThreadId};

use gpu_emulator::memory::GlobalMemory;

use crate::capture::Capture;
use crate::graph::{Executable, Graph};
use crate::handle::{Handle, Handles};
use crate::memory::Allocations;
use crate::module::{Function, LoadedModule};
use crate::status::{CudaError, Outcome};
use crate::stream::{Event, Kind, Stream};

/// `CU_STREAM_LEGACY`.
const LEGACY: u64 = 1;
/// `CU_STREAM_PER_THREAD`.
const PER_THREAD: u64 = 2;

/// One context.
pub struct Context {
    /// Its handle.
    pub id: Handle,
    /// The bytes of the device.
    pub memory: GlobalMemory,
    /// What of them is allocated.
    pub allocations: Allocations,
    /// Streams by handle, in the order they were made.
    pub streams: BTreeMap<Handle, Stream>,
    /// The legacy default stream.
    pub legacy: Handle,
    /// Events by handle.
    pub events: BTreeMap<Handle, Event>,
    /// Modules by handle.
    pub modules: BTreeMap<Handle, LoadedModule>,
    /// Kernels by handle.
    pub functions: BTreeMap<Handle, Function>,
    /// Graphs by handle.
    pub graphs: BTreeMap<Handle, Graph>,
    /// Instantiated graphs by handle.
    pub executables: BTreeMap<Handle, Executable>,
    /// Captures under way.
    pub captures: BTreeMap<Handle, Capture>,
    /// The error that broke the context.
    pub failure: Option<CudaError>,
    /// `cuCtxSetFlags`, given back as it was set.
    pub flags: u32,
    /// `cuCtxSetLimit`, given back as they were set.
    pub limits: BTreeMap<u32, usize>,
    per_thread: Vec<(ThreadId, Handle)>,
}

impl Context {
    /// A context with its default stream and empty memory.
    pub fn new(handles: &mut Handles, memory_bytes: u64, flags: u32) -> Context {
        let legacy = handles.take();
        Context {
            id: handles.take(),
            memory: GlobalMemory::new(memory_bytes),
            allocations: Allocations::default(),
            streams: BTreeMap::from([(legacy, Stream::new(Kind::Legacy, 0))]),
            legacy,
            events: BTreeMap::new(),
            modules: BTreeMap::new(),
            functions: BTreeMap::new(),
            graphs: BTreeMap::new(),
            executables: BTreeMap::new(),
            captures: BTreeMap::new(),
            failure: None,
            flags,
            limits: BTreeMap::new(),
            per_thread: Vec::new(),
        }
    }

    /// The stream a caller means, which may be one of the three that always exist.
    pub fn stream(&mut self, handles: &mut Handles, raw: Handle) -> Outcome<Handle> {
        match raw {
            0 | LEGACY => Ok(self.legacy),
            PER_THREAD => Ok(self.per_thread_stream(handles)),
            _ => match self.streams.get(&raw) {
                Some(stream) if !stream.destroyed && stream.kind != Kind::Legacy => Ok(raw),
                _ => Err(CudaError::InvalidHandle),
            },
        }
    }

    /// Streams of a kind.
    pub fn streams_of(&self, kind: Kind) -> impl Iterator<Item = Handle> + '_ {
        self.streams.iter().filter(move |(_, stream)| stream.kind == kind).map(|(handle, _)| *handle)
    }

    /// Breaks the context.
    pub fn fail(&mut self, error: CudaError) {
        self.failure.get_or_insert(error);
        self.streams.values_mut().for_each(Stream::abandon);
    }

    fn per_thread_stream(&mut self, handles: &mut Handles) -> Handle {
        let thread = thread::current().id();
        if let Some((_, stream)) = self.per_thread.iter().find(|(owner, _)| *owner == thread) {
            return *stream;
        }
        let handle = handles.take();
        self.streams.insert(handle, Stream::new(Kind::Blocking, 0));
        self.per_thread.push((thread, handle));
        handle
    }
}
