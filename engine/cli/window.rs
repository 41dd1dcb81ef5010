//! Many requests in flight, answers in the order they were asked for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use crate::request::{Answer, Refusal, RefusalKind, Request};
use crate::schedule::Engine;

/// An answer that is on its way.
#[derive(Debug)]
pub struct Pending(Receiver<(Answer, Duration)>);

impl Pending {
    /// Submits `request` at once.
    pub fn submit(engine: &Engine, request: Request) -> Pending {
        let (send, receive) = bounded(1);
        let began = Instant::now();
        let done = Box::new(move |answer| {
            // Whoever no longer waits needs no answer.
            let _ = send.send((answer, began.elapsed()));
        });
        engine.submit(request, began, Arc::new(AtomicBool::new(false)), done);
        Pending(receive)
    }

    /// Waits for the answer and the time it took.
    pub fn wait(self) -> (Answer, Duration) {
        self.0.recv().unwrap_or_else(|_| {
            (Err(Refusal::new(RefusalKind::DeviceFailed, "the engine stopped without an answer")), Duration::ZERO)
        })
    }
}

/// Keeps up to `width` requests in flight and hands each answer to `each`, in the order of `requests`, with the request's
/// position and latency.
pub fn run_in_order<E>(
    engine: &Engine,
    width: usize,
    requests: impl IntoIterator<Item = Request>,
    mut each: impl FnMut(usize, Answer, Duration) -> Result<(), E>,
) -> Result<(), E> {
    let mut flying = VecDeque::with_capacity(width);
    let mut answered = 0;
    let mut take = |pending: Pending| {
        let (answer, latency) = pending.wait();
        let at = answered;
        answered += 1;
        each(at, answer, latency)
    };
    for request in requests {
        if flying.len() >= width.max(1)
            && let Some(oldest) = flying.pop_front()
        {
            take(oldest)?;
        }
        flying.push_back(Pending::submit(engine, request));
    }
    flying.into_iter().try_for_each(take)
}
