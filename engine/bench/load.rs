//! One run: connections, a thread that sends and a thread that receives on each, and a record of every request.
//!
//! Open loop: arrivals come from a schedule, and whatever the server does, request `n` is due at its instant. It is sent as
//! soon as its connection is free from then on, and its latency counts from the instant itself, so a server that stalls for a
//! second is seen by everybody who was due in that second. Closed loop: as many requests in flight as asked for, each
//! answer makes room for the next request, and latency counts from there.
//!
//! Invariant: every request that was due is in [`Records`] once, with what became of it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::connection::{Lane, Talk};
use super::records::{Cut, Records};
use super::workload::Workload;
use crate::client::{Client, ClientError, ClientOptions};
use crate::serve::Address;

/// From the last connection to the first arrival: every thread is waiting by then.
const LEAD: Duration = Duration::from_millis(30);
/// How often somebody looks whether to stop.
pub(super) const WATCH: Duration = Duration::from_millis(25);

/// The server under load, and over how many connections.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it listens.
    pub address: Address,
    /// How to connect.
    pub options: ClientOptions,
    /// Connections; requests take turns.
    pub connections: usize,
}

/// Who asks, and when.
#[derive(Clone, Debug)]
pub enum Demand {
    /// Arrivals from the start of the run, ascending.
    Open(Vec<Duration>),
    /// So many requests in flight, for so long.
    Closed {
        /// Requests in flight, at least 1.
        in_flight: usize,
        /// How long requests are sent.
        length: Duration,
    },
}

/// When a run has told what it was asked for, and may end early.
#[derive(Clone, Copy, Debug)]
pub struct GiveUp {
    /// A request that takes longer has missed, as has one that is refused.
    pub latency: Duration,
    /// End once more requests than this have missed.
    pub misses: usize,
    /// Requests due before this do not count.
    pub warmup: Duration,
}

/// One run.
pub struct Load<'a> {
    /// Against whom.
    pub target: &'a Target,
    /// Of which requests.
    pub workload: &'a Workload,
    /// Number of the first of them.
    pub first: u64,
    /// When.
    pub demand: &'a Demand,
    /// Time that a request has, from its scheduled arrival.
    pub deadline: Option<Duration>,
    /// How long an answer is waited for after the last request.
    pub timeout: Duration,
    /// When to end early.
    pub give_up: Option<GiveUp>,
    /// Set by who has seen enough: sending ends, and what is in flight is waited for briefly.
    pub stop: &'a AtomicBool,
}

/// What the threads of a run share.
pub(super) struct Shared {
    pub start: Instant,
    pub stop: AtomicBool,
    /// Nobody waits for what is in flight.
    pub abandon: AtomicBool,
    pub settled: AtomicUsize,
    pub missed: AtomicUsize,
}

impl Load<'_> {
    /// Runs, and calls `progress` now and then with the number of requests that are settled.
    ///
    /// # Errors
    /// The connections did not come about. What breaks later is in the records.
    pub fn run(&self, mut progress: impl FnMut(usize)) -> Result<Records, ClientError> {
        let clients = self.connect()?;
        let connections = clients.len();
        let shared = Shared {
            start: Instant::now() + LEAD,
            stop: AtomicBool::new(false),
            abandon: AtomicBool::new(false),
            settled: AtomicUsize::new(0),
            missed: AtomicUsize::new(0),
        };
        let mut cut = None;
        let talks: Vec<Talk> = std::thread::scope(|scope| {
            let lanes = clients.into_iter().enumerate().map(|(number, client)| {
                let lane = Lane { load: self, shared: &shared, number, connections };
                scope.spawn(move || lane.run(client))
            });
            let lanes: Vec<_> = lanes.collect();
            while !lanes.iter().all(|lane| lane.is_finished()) {
                std::thread::sleep(WATCH);
                cut = cut.or_else(|| self.cut(&shared));
                progress(shared.settled.load(Ordering::Relaxed));
            }
            // A lane panics only where this program is wrong.
            lanes.into_iter().map(|lane| lane.join().expect("a lane of the generator panicked")).collect()
        });
        Ok(Records::merge(talks, cut))
    }

    /// Whether the run ends early, and why; tells the threads.
    fn cut(&self, shared: &Shared) -> Option<Cut> {
        let enough = |give_up: GiveUp| shared.missed.load(Ordering::Relaxed) > give_up.misses;
        let cut = if self.stop.load(Ordering::Relaxed) {
            Cut::Interrupted
        } else if self.give_up.is_some_and(enough) {
            shared.abandon.store(true, Ordering::Relaxed);
            Cut::Decided
        } else {
            return None;
        };
        shared.stop.store(true, Ordering::Relaxed);
        Some(cut)
    }

    fn connect(&self) -> Result<Vec<Client>, ClientError> {
        let Target { address, options, connections } = self.target;
        let connect = || Client::connect(address, options);
        let mut clients = vec![connect()?];
        let allowed = clients[0].hello().bounds.max_in_flight.max(1) as usize;
        let connections = match self.demand {
            Demand::Open(_) => (*connections).max(1),
            // Never more in flight on a connection than the server allows; none without anything to do.
            Demand::Closed { in_flight, .. } => (*connections).clamp(in_flight.div_ceil(allowed), (*in_flight).max(1)),
        };
        while clients.len() < connections {
            clients.push(connect()?);
        }
        Ok(clients)
    }
}

#[cfg(test)]
mod tests;
