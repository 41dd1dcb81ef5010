//! Stream capture: calls become nodes of a graph, and calls that would wait are refused.
//!
//! The rules are the driver's: a refused call spoils the capture, streams join by waiting for an event of the capture, the capture
//! ends in the stream and (unless relaxed) the thread it began in, and all its streams must have been joined by then.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::thread::{self, ThreadId};

use crate::graph::{Graph, Node};
use crate::handle::Handle;
use crate::session::{Session, find_mut};
use crate::status::{CudaError, Outcome};
use crate::stream::Kind;
use crate::work::Work;

/// Whose unsafe calls a capture forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every thread's.
    Global,
    /// The capturing thread's.
    ThreadLocal,
    /// Nobody's.
    Relaxed,
}

impl Mode {
    /// The mode of `CUstreamCaptureMode`'s number.
    pub fn of(code: i32) -> Outcome<Mode> {
        [Mode::Global, Mode::ThreadLocal, Mode::Relaxed]
            .into_iter()
            .find(|mode| *mode as i32 == code)
            .ok_or(CudaError::InvalidValue)
    }
}

thread_local! {
    static INTERACTION: Cell<Mode> = const { Cell::new(Mode::Global) };
}

/// Sets which captures may forbid this thread's calls, and answers what was set.
pub fn exchange_mode(mode: Mode) -> Mode {
    INTERACTION.replace(mode)
}

/// What `cuStreamIsCapturing` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The stream runs work.
    None,
    /// The stream records it.
    Active,
    /// It did, and a refused call spoilt it.
    Invalidated,
}

/// A capture under way.
pub struct Capture {
    mode: Mode,
    thread: ThreadId,
    origin: Handle,
    spoilt: bool,
    nodes: Vec<Node>,
    /// The nodes that each stream's next node follows.
    frontiers: BTreeMap<Handle, Vec<usize>>,
}

impl Capture {
    fn new(origin: Handle, mode: Mode) -> Capture {
        let frontiers = BTreeMap::from([(origin, Vec::new())]);
        Capture { mode, thread: thread::current().id(), origin, spoilt: false, nodes: Vec::new(), frontiers }
    }

    /// Adds a node behind a stream's last.
    pub fn add(&mut self, stream: Handle, work: Work) {
        let frontier = self.frontiers.entry(stream).or_default();
        let after = std::mem::replace(frontier, vec![self.nodes.len()]);
        self.nodes.push(Node { work, after });
    }

    /// The nodes an event recorded in a stream now would mark.
    pub fn frontier(&self, stream: Handle) -> Vec<usize> {
        self.frontiers.get(&stream).cloned().unwrap_or_default()
    }

    /// Makes a stream's next node follow these too.
    pub fn follow(&mut self, stream: Handle, after: &[usize]) {
        let frontier = self.frontiers.entry(stream).or_default();
        frontier.extend(after);
        frontier.sort_unstable();
        frontier.dedup();
    }

    /// Whether every node comes before the origin's next one.
    fn joined(&self) -> bool {
        let mut before = vec![false; self.nodes.len()];
        let mut open = self.frontier(self.origin);
        while let Some(node) = open.pop() {
            if !std::mem::replace(&mut before[node], true) {
                open.extend(&self.nodes[node].after);
            }
        }
        before.into_iter().all(|before| before)
    }

    /// Whether it forbids unsafe calls of this thread.
    fn forbids_this_thread(&self) -> bool {
        let own = self.thread == thread::current().id() && self.mode != Mode::Relaxed;
        match INTERACTION.get() {
            Mode::Global => own || self.mode == Mode::Global,
            Mode::ThreadLocal => own,
            Mode::Relaxed => false,
        }
    }
}

impl Session<'_> {
    /// The capture a stream is part of, if it is not spoilt.
    pub fn capture_of(&self, stream: Handle) -> Outcome<Option<Handle>> {
        match self.capture_status(stream) {
            (Status::Invalidated, _) => Err(CudaError::CaptureInvalidated),
            (_, capture) => Ok(capture),
        }
    }

    /// A capture by its handle.
    pub fn capture(&mut self, capture: Handle) -> Outcome<&mut Capture> {
        find_mut(&mut self.context.captures, capture)
    }

    /// Whether a stream captures, and the capture.
    pub fn capture_status(&self, stream: Handle) -> (Status, Option<Handle>) {
        let id = self.context.streams.get(&stream).and_then(|stream| stream.capture);
        match id.and_then(|id| self.context.captures.get(&id)) {
            None => (Status::None, None),
            Some(capture) if capture.spoilt => (Status::Invalidated, id),
            Some(_) => (Status::Active, id),
        }
    }

    /// `cuStreamBeginCapture`.
    pub fn begin_capture(&mut self, origin: Handle, mode: Mode) -> Outcome<()> {
        let stream = find_mut(&mut self.context.streams, origin)?;
        match (stream.kind, stream.capture) {
            (Kind::Legacy, _) => return Err(CudaError::CaptureUnsupported),
            (_, Some(_)) => return Err(CudaError::IllegalState),
            _ => {}
        }
        let capture = self.process.handles.take();
        stream.capture = Some(capture);
        self.context.captures.insert(capture, Capture::new(origin, mode));
        Ok(())
    }

    /// `cuStreamEndCapture`: the graph's handle. Whatever the outcome (but for the wrong stream or thread), the capture is over.
    pub fn end_capture(&mut self, stream: Handle) -> Outcome<Handle> {
        let id = find_mut(&mut self.context.streams, stream)?.capture.ok_or(CudaError::IllegalState)?;
        let capture = self.capture(id)?;
        if capture.origin != stream {
            capture.spoilt = true;
            return Err(CudaError::CaptureUnmatched);
        }
        if capture.mode != Mode::Relaxed && capture.thread != thread::current().id() {
            return Err(CudaError::CaptureWrongThread);
        }
        let capture = self.drop_capture(id).ok_or(CudaError::IllegalState)?;
        if capture.spoilt {
            return Err(CudaError::CaptureInvalidated);
        }
        if !capture.joined() {
            return Err(CudaError::CaptureUnjoined);
        }
        let graph = self.process.handles.take();
        self.context.graphs.insert(graph, Graph::new(capture.nodes));
        Ok(graph)
    }

    /// Makes a stream part of a capture (or keeps it there) behind an event's nodes.
    pub fn join_capture(&mut self, stream: Handle, capture: Handle, after: &[usize]) -> Outcome<()> {
        let member = find_mut(&mut self.context.streams, stream)?;
        match member.capture {
            _ if member.kind == Kind::Legacy => return Err(CudaError::CaptureImplicit),
            Some(own) if own != capture => {
                self.spoil_captures(|id, _| id == own || id == capture);
                return Err(CudaError::CaptureMerge);
            }
            _ => {}
        }
        let Some(target) = self.context.captures.get_mut(&capture) else { return Err(CudaError::CapturedEvent) };
        if target.spoilt {
            return Err(CudaError::CaptureInvalidated);
        }
        member.capture = Some(capture);
        target.follow(stream, after);
        Ok(())
    }

    /// Refuses a call that must not be made while this stream captures, and spoils its capture.
    pub fn refuse_while_capturing(&mut self, stream: Handle) -> Outcome<()> {
        let Some(capture) = self.context.streams.get(&stream).and_then(|stream| stream.capture) else { return Ok(()) };
        self.spoil_captures(|id, _| id == capture);
        Err(CudaError::CaptureUnsupported)
    }

    /// Refuses a call that waits for the whole context while anything captures.
    pub fn refuse_while_any_captures(&mut self) -> Outcome<()> {
        if self.spoil_captures(|_, _| true) { Err(CudaError::CaptureUnsupported) } else { Ok(()) }
    }

    /// Refuses a call that the driver calls unsafe under capture (synchronous allocation and the like).
    pub fn refuse_unsafe_call(&mut self) -> Outcome<()> {
        let forbidden = self.spoil_captures(|_, capture| capture.forbids_this_thread());
        if forbidden { Err(CudaError::CaptureUnsupported) } else { Ok(()) }
    }

    /// Refuses work in the legacy stream while a blocking stream captures, since it would have to wait for the capture.
    pub fn refuse_legacy_under_capture(&mut self, blocking: &[Handle]) -> Outcome<()> {
        let captures: Vec<_> = blocking.iter().filter_map(|stream| self.context.streams[stream].capture).collect();
        let any = self.spoil_captures(|id, _| captures.contains(&id));
        if any { Err(CudaError::CaptureImplicit) } else { Ok(()) }
    }

    /// Spoils the captures of a kind; true if there were any.
    pub fn spoil_captures(&mut self, mut which: impl FnMut(Handle, &Capture) -> bool) -> bool {
        let mut any = false;
        for (id, capture) in &mut self.context.captures {
            if which(*id, capture) {
                capture.spoilt = true;
                any = true;
            }
        }
        any
    }

    /// Ends a capture and frees its streams.
    pub fn drop_capture(&mut self, id: Handle) -> Option<Capture> {
        for stream in self.context.streams.values_mut().filter(|stream| stream.capture == Some(id)) {
            stream.capture = None;
        }
        self.context.captures.remove(&id)
    }

    /// What destroying a stream does to its capture: the origin ends it, any other spoils it.
    pub fn leave_capture(&mut self, stream: Handle) {
        let Some(id) = self.context.streams.get_mut(&stream).and_then(|stream| stream.capture.take()) else { return };
        if self.context.captures.get(&id).is_some_and(|capture| capture.origin == stream) {
            self.drop_capture(id);
        } else {
            self.spoil_captures(|other, _| other == id);
        }
    }
}
