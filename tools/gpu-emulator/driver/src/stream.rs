//! Streams and events as data: a queue of work, and marks in it.
//!
//! A stream does nothing by itself. `queue.rs` runs it when somebody waits.

use std::collections::VecDeque;
use std::time::Instant;

use crate::handle::Handle;
use crate::work::{Position, Work};

/// How a stream stands to the legacy default stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The legacy default stream: waits for all blocking streams, and they for it.
    Legacy,
    /// Ordered with the legacy stream.
    Blocking,
    /// Independent of it.
    NonBlocking,
}

/// One stream.
pub struct Stream {
    /// How it stands to the legacy stream.
    pub kind: Kind,
    /// Kept for `cuStreamGetPriority` alone: there is nothing to be first at.
    pub priority: i32,
    /// Work not yet run.
    pub waiting: VecDeque<Work>,
    /// Pieces of work run.
    pub done: u64,
    /// Snapshots of pageable memory in the queue, in bytes, since it was last empty.
    pub staged_bytes: usize,
    /// Queries answered "not ready" since the stream was last seen empty.
    pub polls: u32,
    /// The capture it is part of.
    pub capture: Option<Handle>,
    /// Destroyed by the caller; its work still runs.
    pub destroyed: bool,
}

impl Stream {
    /// An empty stream.
    pub fn new(kind: Kind, priority: i32) -> Stream {
        let waiting = VecDeque::new();
        Stream { kind, priority, waiting, done: 0, staged_bytes: 0, polls: 0, capture: None, destroyed: false }
    }

    /// The ticket behind all work so far.
    pub fn tail(&self) -> u64 {
        self.done + self.waiting.len() as u64
    }

    /// Takes the next piece of work as run.
    pub fn advance(&mut self) -> Option<Work> {
        let work = self.waiting.pop_front()?;
        self.done += 1;
        if self.waiting.is_empty() {
            self.staged_bytes = 0;
        }
        Some(work)
    }

    /// Forgets what has not run, as run.
    pub fn abandon(&mut self) {
        while self.advance().is_some() {}
    }
}

/// What an event marks.
#[derive(Clone, Debug)]
pub enum Mark {
    /// Nothing: as complete as an event can be.
    Nothing,
    /// A place in a stream.
    Place {
        /// The place.
        position: Position,
        /// When the stream reached it.
        reached: Option<Instant>,
    },
    /// Nodes of a capture.
    Captured {
        /// The capture.
        capture: Handle,
        /// The nodes the mark follows.
        after: Vec<usize>,
    },
}

/// One event.
pub struct Event {
    /// Whether it keeps the time.
    pub timed: bool,
    /// Where it was recorded last.
    pub mark: Mark,
    /// Queries answered "not ready" since it was recorded.
    pub polls: u32,
}
