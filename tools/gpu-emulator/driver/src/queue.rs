//! Lazy streams: work runs when somebody waits for it, and no sooner.
//!
//! The order is the strictest a real device may choose: nothing happens in another stream unless a wait asks for it, so missing
//! synchronisation shows as a wrong result every time instead of once a week. Waits between streams point only backwards in the
//! order of calls, so running one stream after another to the place waited for always ends.

use crate::handle::Handle;
use crate::session::Session;
use crate::status::{CudaError, Outcome};
use crate::stream::Kind;
use crate::work::{Position, Work};

/// Queries that are answered "not ready" before each makes a piece of work run.
const IDLE_POLLS: u32 = 3;

/// Snapshots a stream may hold before it is run to free them; a real driver's staging memory is bounded too.
const STAGED_BYTES: usize = 64 << 20;

/// What a stream needs to come nearer to a place.
enum Next {
    Reached,
    Blocked(Position),
    Run(Work),
}

impl Session<'_> {
    /// Puts work into a stream, or into the capture the stream is part of.
    pub fn submit(&mut self, stream: Handle, work: Work) -> Outcome<()> {
        if let Some(capture) = self.capture_of(stream)? {
            self.capture(capture)?.add(stream, work);
            return Ok(());
        }
        self.order_with_legacy(stream)?;
        self.push(stream, work);
        self.bound_staging(stream)
    }

    /// The place behind all work of a stream.
    pub fn tail(&self, stream: Handle) -> Position {
        let ticket = self.context.streams.get(&stream).map_or(0, |stream| stream.tail());
        Position { stream, ticket }
    }

    /// Whether a place was reached. A stream that is gone has run all its work.
    pub fn reached(&self, place: Position) -> bool {
        self.context.streams.get(&place.stream).is_none_or(|stream| stream.done >= place.ticket)
    }

    /// Runs what must run before a place is reached.
    pub fn run_to(&mut self, place: Position) -> Outcome<()> {
        while !self.step(place)? {}
        Ok(())
    }

    /// Runs everything.
    pub fn run_all(&mut self) -> Outcome<()> {
        let streams: Vec<Handle> = self.context.streams.keys().copied().collect();
        for stream in streams {
            self.run_to(self.tail(stream))?;
        }
        self.context.streams.retain(|_, stream| !stream.destroyed);
        Ok(())
    }

    /// Answers a query for a place: not ready, and after some such answers each query runs one piece of work, so that a program that
    /// polls comes to an end without having waited.
    pub fn poll(&mut self, place: Position, polls: u32) -> Outcome<()> {
        if polls > IDLE_POLLS {
            self.step(place)?;
        }
        if self.reached(place) { Ok(()) } else { Err(CudaError::NotReady) }
    }

    /// Puts work into a stream's queue as it is, and answers the place behind it.
    pub fn push(&mut self, handle: Handle, work: Work) -> Position {
        if let Some(stream) = self.context.streams.get_mut(&handle) {
            if let Work::Upload { from, .. } = &work {
                stream.staged_bytes += from.bytes();
            }
            stream.waiting.push_back(work);
        }
        self.tail(handle)
    }

    /// The legacy stream waits for all blocking ones, and each of them for it.
    pub fn order_with_legacy(&mut self, handle: Handle) -> Outcome<()> {
        let Some(kind) = self.context.streams.get(&handle).map(|stream| stream.kind) else {
            return Err(CudaError::InvalidHandle);
        };
        let others: Vec<Handle> = match kind {
            Kind::NonBlocking => return Ok(()),
            Kind::Blocking => vec![self.context.legacy],
            Kind::Legacy => self.context.streams_of(Kind::Blocking).collect(),
        };
        if kind == Kind::Legacy {
            self.refuse_legacy_under_capture(&others)?;
        }
        for other in others {
            let place = self.tail(other);
            if !self.reached(place) {
                self.push(handle, Work::Wait(place));
            }
        }
        Ok(())
    }

    fn bound_staging(&mut self, stream: Handle) -> Outcome<()> {
        let staged = self.context.streams.get(&stream).map_or(0, |stream| stream.staged_bytes);
        if staged > STAGED_BYTES { self.run_to(self.tail(stream)) } else { Ok(()) }
    }

    /// Comes one piece of work nearer to a place; true once it is reached.
    fn step(&mut self, place: Position) -> Outcome<bool> {
        let mut target = place;
        loop {
            match self.next(target) {
                Next::Blocked(on) => target = on,
                Next::Run(work) => {
                    self.run(work, target.stream)?;
                    return Ok(self.reached(place));
                }
                Next::Reached if target == place => return Ok(true),
                Next::Reached => target = place,
            }
        }
    }

    fn next(&mut self, place: Position) -> Next {
        let reached = self.reached(place);
        let front = self.context.streams.get(&place.stream).and_then(|stream| stream.waiting.front());
        match front {
            _ if reached => return Next::Reached,
            Some(Work::Wait(on)) if !self.reached(*on) => return Next::Blocked(*on),
            _ => {}
        }
        let stream = self.context.streams.get_mut(&place.stream);
        stream.and_then(|stream| stream.advance()).map_or(Next::Reached, Next::Run)
    }
}
