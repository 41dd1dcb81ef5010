//! How other threads reach the I/O thread: a queue and a wake-up.
//!
//! The queue needs no bound of its own: it holds at most one answer for each request in flight, which the limits bound, and
//! a command or two. A burst of answers costs one wake-up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use mio::Waker;

use super::server::DrainReport;
use crate::request::{Answer, Refusal, RefusalKind};

/// What the I/O thread is told.
pub(super) enum Note {
    /// The engine answered.
    Answer {
        /// Which connection asked.
        connection: usize,
        /// Which request.
        id: u64,
        /// The answer.
        answer: Answer,
    },
    /// Finish what was accepted and end.
    Drain {
        /// Within this time.
        timeout: Duration,
        /// Told when it is done.
        done: Sender<DrainReport>,
    },
    /// End at once.
    Stop,
}

/// The sending end; cheap to clone.
#[derive(Clone)]
pub(super) struct Inbox {
    notes: Sender<Note>,
    waker: Arc<Waker>,
    /// True from the first note until the I/O thread looks: no further wake-up is needed.
    woken: Arc<AtomicBool>,
}

impl Inbox {
    /// An inbox that wakes through `waker`, and its receiving end.
    pub(super) fn new(waker: Waker) -> (Inbox, Receiver<Note>) {
        let (notes, receiver) = unbounded();
        (Inbox { notes, waker: Arc::new(waker), woken: Arc::default() }, receiver)
    }

    /// Leaves a note. After the I/O thread has ended it goes nowhere.
    pub(super) fn send(&self, note: Note) {
        if self.notes.send(note).is_ok()
            && !self.woken.swap(true, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(%error, "cannot wake the I/O thread");
        }
    }

    /// Called by the I/O thread before it takes notes: notes from here on wake it again.
    pub(super) fn looked(&self) {
        self.woken.swap(false, Ordering::AcqRel);
    }
}

/// The duty to answer one request. If the engine drops it unanswered, the caller is told so: nobody waits for nothing.
pub(super) struct ReplySlot {
    pub(super) inbox: Inbox,
    pub(super) connection: usize,
    pub(super) id: u64,
    pub(super) answered: bool,
}

impl ReplySlot {
    /// Answers the request.
    pub(super) fn answer(mut self, answer: Answer) {
        self.send(answer);
    }

    fn send(&mut self, answer: Answer) {
        self.answered = true;
        self.inbox.send(Note::Answer { connection: self.connection, id: self.id, answer });
    }
}

impl Drop for ReplySlot {
    fn drop(&mut self) {
        if !self.answered {
            self.send(Err(Refusal::new(RefusalKind::DeviceFailed, "the engine dropped the request without an answer")));
        }
    }
}
