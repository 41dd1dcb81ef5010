//! Events and waits: marks in streams, and the calls that make work run.

use crate::handle::Handle;
use crate::session::{Session, find, find_mut};
use crate::status::{CudaError, Outcome};
use crate::stream::{Event, Kind, Mark, Stream};
use crate::work::{Position, Work};

impl Session<'_> {
    /// `cuStreamCreate`.
    pub fn create_stream(&mut self, kind: Kind, priority: i32) -> Handle {
        let handle = self.process.handles.take();
        self.context.streams.insert(handle, Stream::new(kind, priority));
        handle
    }

    /// `cuStreamDestroy`: the handle is gone at once, the work still runs.
    pub fn destroy_stream(&mut self, stream: Handle) -> Outcome<()> {
        if find(&self.context.streams, stream)?.kind == Kind::Legacy {
            return Err(CudaError::InvalidHandle);
        }
        self.leave_capture(stream);
        find_mut(&mut self.context.streams, stream)?.destroyed = true;
        Ok(())
    }

    /// `cuStreamSynchronize`.
    pub fn wait_for_stream(&mut self, stream: Handle) -> Outcome<()> {
        self.refuse_while_capturing(stream)?;
        self.count_wait()?;
        self.order_with_legacy(stream)?;
        self.run_to(self.tail(stream))
    }

    /// `cuStreamQuery`.
    pub fn query_stream(&mut self, handle: Handle) -> Outcome<()> {
        self.refuse_while_capturing(handle)?;
        let place = self.tail(handle);
        let stream = find_mut(&mut self.context.streams, handle)?;
        stream.polls += 1;
        let polls = stream.polls;
        self.poll(place, polls)?;
        find_mut(&mut self.context.streams, handle)?.polls = 0;
        Ok(())
    }

    /// `cuCtxSynchronize`.
    pub fn wait_for_all(&mut self) -> Outcome<()> {
        self.refuse_while_any_captures()?;
        self.count_wait()?;
        self.run_all()
    }

    /// `cuEventCreate`.
    pub fn create_event(&mut self, timed: bool) -> Handle {
        let handle = self.process.handles.take();
        self.context.events.insert(handle, Event { timed, mark: Mark::Nothing, polls: 0 });
        handle
    }

    /// `cuEventRecord`.
    pub fn record_event(&mut self, handle: Handle, stream: Handle) -> Outcome<()> {
        find(&self.context.events, handle)?;
        let mark = match self.capture_of(stream)? {
            Some(capture) => Mark::Captured { capture, after: self.capture(capture)?.frontier(stream) },
            None => {
                self.order_with_legacy(stream)?;
                Mark::Place { position: self.push(stream, Work::Record(handle)), reached: None }
            }
        };
        let event = find_mut(&mut self.context.events, handle)?;
        event.mark = mark;
        event.polls = 0;
        Ok(())
    }

    /// `cuStreamWaitEvent`.
    pub fn wait_for_event(&mut self, stream: Handle, event: Handle) -> Outcome<()> {
        let mark = find(&self.context.events, event)?.mark.clone();
        let capture = self.capture_of(stream)?;
        match (mark, capture) {
            (Mark::Captured { capture, after }, _) => self.join_capture(stream, capture, &after),
            (_, Some(capture)) => {
                self.spoil_captures(|id, _| id == capture);
                Err(CudaError::CaptureIsolation)
            }
            (Mark::Place { position, .. }, None) if !self.reached(position) => {
                self.submit(stream, Work::Wait(position))
            }
            _ => Ok(()),
        }
    }

    /// `cuEventSynchronize`.
    pub fn synchronize_event(&mut self, event: Handle) -> Outcome<()> {
        let place = self.place_of(event)?;
        self.count_wait()?;
        place.map_or(Ok(()), |place| self.run_to(place))
    }

    /// `cuEventQuery`.
    pub fn query_event(&mut self, handle: Handle) -> Outcome<()> {
        let place = self.place_of(handle)?;
        self.refuse_unsafe_call()?;
        let Some(place) = place else { return Ok(()) };
        let event = find_mut(&mut self.context.events, handle)?;
        event.polls += 1;
        let polls = event.polls;
        self.poll(place, polls)
    }

    /// `cuEventElapsedTime`, in milliseconds of this machine's clock.
    pub fn elapsed_ms(&mut self, from: Handle, to: Handle) -> Outcome<f32> {
        let mut times = Vec::with_capacity(2);
        for handle in [from, to] {
            let event = find(&self.context.events, handle)?;
            match event.mark {
                Mark::Place { reached: Some(time), .. } if event.timed => times.push(time),
                Mark::Place { .. } if event.timed => return Err(CudaError::NotReady),
                Mark::Captured { .. } => return Err(CudaError::CapturedEvent),
                _ => return Err(CudaError::InvalidHandle),
            }
        }
        let forward = times[1].saturating_duration_since(times[0]).as_secs_f32();
        let backward = times[0].saturating_duration_since(times[1]).as_secs_f32();
        Ok((forward - backward) * 1e3)
    }

    fn place_of(&mut self, event: Handle) -> Outcome<Option<Position>> {
        match find(&self.context.events, event)?.mark {
            Mark::Nothing => Ok(None),
            Mark::Place { position, .. } => Ok(Some(position)),
            Mark::Captured { capture, .. } => {
                self.spoil_captures(|id, _| id == capture);
                Err(CudaError::CapturedEvent)
            }
        }
    }
}
