//! The promise that every accepted request is answered exactly once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use crate::request::{Answer, Refusal, RefusalKind};

/// Called with the answer, from any thread: it must not wait for anything, since the thread may be the engine's.
pub type Done = Box<dyn FnOnce(Answer) + Send>;

/// One accepted request's claim to an answer. Dropping it unanswered refuses the request, so that no path through the
/// engine, a panic included, can lose one.
pub struct Ticket {
    done: Option<Done>,
    cancel: Arc<AtomicBool>,
    in_flight: Arc<AtomicUsize>,
    /// When the request arrived.
    pub arrived: Instant,
    /// When its answer becomes worthless.
    pub deadline: Instant,
}

impl Ticket {
    /// Takes over a request that has been counted in `in_flight`.
    pub fn new(
        done: Done,
        cancel: Arc<AtomicBool>,
        in_flight: Arc<AtomicUsize>,
        arrived: Instant,
        deadline: Instant,
    ) -> Ticket {
        Ticket { done: Some(done), cancel, in_flight, arrived, deadline }
    }

    /// Whether the caller has given up.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Answers the request.
    pub fn answer(mut self, answer: Answer) {
        self.settle(answer);
    }

    /// Answers with a refusal.
    pub fn refuse(self, kind: RefusalKind, message: impl Into<String>) {
        self.answer(Err(Refusal::new(kind, message)));
    }

    /// What stops a request that is otherwise fine: its caller, or the clock.
    pub fn stopped(&self, now: Instant, stage: &str) -> Option<Refusal> {
        if self.is_cancelled() {
            return Some(Refusal::new(RefusalKind::Cancelled, format!("cancelled {stage}")));
        }
        let late = now.checked_duration_since(self.deadline)?;
        let allowed = self.deadline - self.arrived;
        Some(Refusal::new(
            RefusalKind::Deadline,
            format!("deadline of {} us passed {} us ago, {stage}", allowed.as_micros(), late.as_micros()),
        ))
    }

    fn settle(&mut self, answer: Answer) {
        if let Some(done) = self.done.take() {
            self.in_flight.fetch_sub(1, Ordering::AcqRel);
            // The callback is the caller's code and this may be the engine thread: its panic must not stop the others.
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| done(answer))).is_err() {
                tracing::error!("a caller's callback panicked; its answer is lost");
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.settle(Err(Refusal::new(RefusalKind::DeviceFailed, "the engine lost this request; see the server's log")));
    }
}
