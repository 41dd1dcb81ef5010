//! What the admin pages know: how far the server is, and whom to ask about the rest.
//!
//! It exists before there is an engine, so that a probe hears "starting" and not a refused connection.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::schedule::EngineCounts;
use crate::serve::{Counters, Server, ServerFacts, Service};

/// A server's state, as far as others may know it.
pub struct Board {
    began: Instant,
    served: OnceLock<Served>,
    draining: AtomicBool,
}

/// What answers requests.
struct Served {
    service: Arc<dyn Service>,
    counters: Arc<Counters>,
    facts: ServerFacts,
}

/// One moment of everything.
pub(super) struct Moment {
    pub(super) facts: ServerFacts,
    pub(super) engine: EngineCounts,
    pub(super) counters: Arc<Counters>,
}

impl Default for Board {
    fn default() -> Board {
        Board { began: Instant::now(), served: OnceLock::new(), draining: AtomicBool::new(false) }
    }
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").field("readiness", &self.readiness()).finish()
    }
}

impl Board {
    /// From now on `server` answers, with `service` behind it. Said once; a second time changes nothing.
    pub fn serving(&self, server: &Server, service: Arc<dyn Service>) {
        let (counters, facts) = (Arc::clone(server.counters()), service.facts());
        let _ = self.served.set(Served { service, counters, facts });
    }

    /// From now on new requests are refused.
    pub fn draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether requests should be sent here; if not, why.
    pub(super) fn readiness(&self) -> Result<(), &'static str> {
        if self.draining.load(Ordering::Acquire) {
            return Err("draining");
        }
        match self.served.get() {
            None => Err("starting"),
            Some(served) if served.service.counts().ready => Ok(()),
            Some(_) => Err("no device"),
        }
    }

    /// What answers requests, once there is something.
    pub(super) fn service(&self) -> Option<&Arc<dyn Service>> {
        self.served.get().map(|served| &served.service)
    }

    /// Since the board was made.
    pub(super) fn uptime(&self) -> Duration {
        self.began.elapsed()
    }

    /// Everything as it is now. Before there is an engine all of it is nothing.
    pub(super) fn moment(&self) -> Moment {
        match self.served.get() {
            None => Moment { facts: ServerFacts::default(), engine: EngineCounts::default(), counters: Arc::default() },
            Some(served) => Moment {
                facts: served.facts.clone(),
                engine: served.service.counts(),
                counters: Arc::clone(&served.counters),
            },
        }
    }
}
