//! The handle of a running server: start, drain, join.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use mio::{Poll, Waker};

use super::event_loop::{EventLoop, WAKE};
use super::inbox::{Inbox, Note};
use super::request_log::RequestLog;
use super::socket::Listener;
use super::{Address, Counters, ServeError, ServerConfig, Service};

/// How a drain ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainReport {
    /// Accepted requests that had no answer when the time was up; 0 is a clean end.
    pub unanswered: usize,
}

/// A running server. Dropping it ends it at once; [`drain`](Server::drain) ends it well.
pub struct Server {
    addresses: Vec<Address>,
    inbox: Inbox,
    counters: Arc<Counters>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Server {
    /// Binds every address and starts the I/O thread. Either all addresses listen or none does.
    pub fn start(config: ServerConfig, service: Arc<dyn Service>) -> Result<Server, ServeError> {
        config.check()?;
        let fail = |what| move |source| ServeError::Loop { what, source };
        let listeners = config
            .listen
            .iter()
            .map(|address| Listener::bind(address, config.unix_mode))
            .collect::<Result<Vec<_>, _>>()?;
        let addresses = listeners.iter().map(|listener| listener.address().clone()).collect();
        let poll = Poll::new().map_err(fail("creating a poll"))?;
        let waker = Waker::new(poll.registry(), WAKE).map_err(fail("creating a waker"))?;
        let (inbox, notes) = Inbox::new(waker);
        let counters = Arc::new(Counters::default());
        let (log, inbox_too, counters_too) = (RequestLog::new(config.slow_request), inbox.clone(), counters.clone());
        let io = EventLoop { poll, listeners, inbox: inbox_too, notes, config, service, counters: counters_too, log };
        let thread = std::thread::Builder::new().name("sidereal-io".into()).spawn(move || io.run());
        let thread = Some(thread.map_err(fail("starting the I/O thread"))?);
        Ok(Server { addresses, inbox, counters, thread })
    }

    /// Where it listens, in the order of the configuration, with the ports that were found.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// What it counts.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Stops accepting connections and requests (late ones are refused `SHUTTING_DOWN`), answers every request accepted
    /// before, sends what is queued, closes, and ends the I/O thread; gives up on the rest after `timeout`. Returns when
    /// that is done. The engine must keep answering meanwhile.
    pub fn drain(&self, timeout: Duration) -> DrainReport {
        let (done, report) = crossbeam_channel::bounded(1);
        self.inbox.send(Note::Drain { timeout, done });
        // An I/O thread that has ended already has nothing left to answer.
        report.recv().unwrap_or_default()
    }

    /// True once the I/O thread has ended: after a drain, or because the system failed it. [`join`](Server::join) says why.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the end: after a drain, or when the I/O thread fails.
    pub fn join(mut self) -> Result<(), ServeError> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(ServeError::Panicked),
            None => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.inbox.send(Note::Stop);
            if thread.join().is_err() {
                tracing::error!("the I/O thread panicked");
            }
        }
    }
}
