//! The engine as others see it: an export loaded on a device, and a door for requests.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{JoinHandle, ThreadId};
use std::time::Instant;

use crossbeam_channel::{Sender, TrySendError, bounded};

use crate::catalog::{Catalog, Snapshot};
use crate::export::Scenario;
use crate::request::{Refusal, RefusalKind, Request};
use crate::schedule::bring_up::{Loaded, bring_up};
use crate::schedule::core::Core;
use crate::schedule::host::{Arrival, serve_host};
use crate::schedule::load::{DeviceChoice, LoadError};
use crate::schedule::replace::{ReplaceError, Replacer, WeightsStatus};
use crate::schedule::resolve::{Bounds, check};
use crate::schedule::scenarios::ScenarioSet;
use crate::schedule::snapshots::{Snapshots, Watcher};
use crate::schedule::stats::{EngineCounts, Stats};
use crate::schedule::ticket::{Done, Ticket};
use crate::schedule::{EngineFacts, Limits};

/// An export, served. Dropping it drains: every accepted request is answered first.
pub struct Engine {
    facts: EngineFacts,
    limits: Limits,
    bounds: Bounds,
    in_flight: Arc<AtomicUsize>,
    draining: AtomicBool,
    /// `None` once draining: closing the queue is what lets the threads end.
    door: Mutex<Option<Sender<Arrival>>>,
    own_threads: Vec<ThreadId>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stats: Arc<Stats>,
    catalog: Arc<Catalog>,
    snapshots: Arc<Snapshots>,
    scenarios: Arc<ScenarioSet>,
    replacer: Replacer,
    /// Follows the delisting journal and the scenarios until the engine is dropped.
    _watcher: Option<Watcher>,
}

/// What an engine makes of the files that may change while an export is served: the delisting journal and the scenarios.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sidecars {
    /// They are in force, from the moment they are written.
    #[default]
    Followed,
    /// The whole catalogue counts, and there are no scenarios: goldens were made so.
    Ignored,
}

/// What to serve and how.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Export directory.
    pub export: PathBuf,
    /// Catalogue to use instead of the export's own.
    pub catalog: Option<PathBuf>,
    /// Device, type and threads.
    pub device: DeviceChoice,
    /// Bounds.
    pub limits: Limits,
    /// The delisting journal and the scenarios.
    pub sidecars: Sidecars,
}

impl EngineConfig {
    /// The export at `path` on the default device within default limits.
    pub fn new(path: &Path) -> EngineConfig {
        EngineConfig {
            export: path.to_owned(),
            catalog: None,
            device: DeviceChoice::default(),
            limits: Limits::default(),
            sidecars: Sidecars::default(),
        }
    }
}

impl Engine {
    /// Loads the export, plans all memory, and starts the threads.
    ///
    /// # Errors
    /// [`LoadError`]: what is wrong with the export, the catalogue, the device or the limits.
    pub fn start(config: &EngineConfig) -> Result<Engine, LoadError> {
        Engine::launch(bring_up(config)?, config.limits.clone())
    }

    /// Starts the threads.
    fn launch(loaded: Loaded, limits: Limits) -> Result<Engine, LoadError> {
        let Loaded { host, parts, followers, facts, replacer } = loaded;
        let (bounds, stats) = (host.bounds.clone(), Arc::clone(&parts.stats));
        let snapshots = Arc::clone(&host.snapshots);
        let catalog = Arc::clone(snapshots.newest().catalog());
        let scenarios = followers.as_ref().map_or_else(Arc::default, |followers| Arc::clone(followers.scenarios.set()));
        let watcher =
            followers.map(|followers| Watcher::start(followers, Arc::clone(&snapshots), &stats)).transpose()?;
        // A request is in one queue at a time, and each queue holds all that may be in flight: no send ever blocks.
        let (door, arrivals) = bounded(limits.max_requests);
        let (to_core, newcomers) = bounded(limits.max_requests);
        let (to_host, finished) = bounded(limits.max_requests);
        let core = Core::new(parts, newcomers, to_host);
        let threads = vec![
            spawn("sidereal-engine", watched(&stats, move || core.run()))?,
            spawn("sidereal-host", watched(&stats, move || serve_host(&host, arrivals, to_core, finished)))?,
        ];
        Ok(Engine {
            facts,
            limits,
            bounds,
            in_flight: Arc::new(AtomicUsize::new(0)),
            draining: AtomicBool::new(false),
            door: Mutex::new(Some(door)),
            own_threads: threads.iter().map(|thread| thread.thread().id()).collect(),
            threads: Mutex::new(threads),
            stats,
            catalog,
            snapshots,
            scenarios,
            replacer,
            _watcher: watcher,
        })
    }

    /// What is being served, and on what.
    pub fn facts(&self) -> &EngineFacts {
        &self.facts
    }

    /// The catalogue.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// What new requests are pinned to.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.newest()
    }

    /// The limits it was planned from.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether the device was lost for good, or a thread panicked: every request is refused, and whoever serves should end.
    pub fn has_given_up(&self) -> bool {
        self.stats.given_up.load(Ordering::Acquire)
    }

    /// Begins to replace the weights by those of the safetensors file, or directory of an export, at `path`, which replies will
    /// name `version`. Requests are served meanwhile, each by one set of weights alone: those that are being computed when the
    /// new weights are ready by the old ones, the others by the new. Never blocks; returns the number of the policy to be.
    /// How it ends is in [`weights`](Engine::weights).
    ///
    /// # Errors
    /// Another replacement is under way, `path` is relative, `version` is no name, or the engine is draining.
    pub fn replace_weights(&self, path: &Path, version: &str) -> Result<u64, ReplaceError> {
        self.replacer.begin(path, version)
    }

    /// Whose weights serve, and how far the newest replacement is.
    pub fn weights(&self) -> WeightsStatus {
        self.replacer.status()
    }

    /// What it has counted.
    pub fn counts(&self) -> EngineCounts {
        let snapshot = self.snapshots.newest();
        let weights = self.weights();
        EngineCounts {
            policy: weights.serving,
            weights_replaced: weights.replaced,
            weights_failed: weights.failed,
            catalog: snapshot.version().to_owned(),
            delisted: snapshot.delisted() as u64,
            scenarios: self.scenarios.count() as u64,
            ..self.stats.counts(self.in_flight.load(Ordering::Relaxed))
        }
    }

    /// The same as JSON.
    pub fn stats(&self) -> serde_json::Value {
        self.counts().to_json()
    }

    /// Takes a request. `done` is called exactly once, from any thread, possibly before this returns. Never blocks.
    pub fn submit(&self, mut request: Request, arrived: Instant, cancel: Arc<AtomicBool>, done: Done) {
        let refuse = |done: Done, refusal: Refusal| {
            let answer = Err(refusal);
            self.stats.count(&answer);
            done(answer);
        };
        if self.draining.load(Ordering::Acquire) {
            return refuse(done, Refusal::new(RefusalKind::ShuttingDown, DRAINING));
        }
        let known = self.bounds.instructions.as_ref().map_or(&[][..], |instructions| instructions.scenarios());
        let scenario = match self.scenarios.fill(&mut request, known) {
            Ok(scenario) => scenario,
            Err(refusal) => return refuse(done, refusal),
        };
        if let Err(refusal) = check(&request, &self.bounds) {
            return refuse(done, with_scenario(refusal, scenario.as_deref()));
        }
        let allowed = request.deadline.unwrap_or(self.limits.default_deadline).min(self.limits.max_deadline);
        let running = self.in_flight.fetch_add(1, Ordering::AcqRel);
        if running >= self.limits.max_requests {
            self.in_flight.fetch_sub(1, Ordering::AcqRel);
            let message = format!("{running} requests are in flight; the limit is {}", self.limits.max_requests);
            return refuse(done, Refusal::new(RefusalKind::Overloaded, message));
        }
        let stats = Arc::clone(&self.stats);
        let counted: Done = Box::new(move |answer| {
            stats.count(&answer);
            done(answer);
        });
        let ticket = Ticket::new(counted, cancel, Arc::clone(&self.in_flight), arrived, arrived + allowed);
        let arrival = Arrival { ticket, request, scenario };
        // The lock is free again before anybody is answered: the caller's code may submit anew from its callback.
        let sent = match lock(&self.door).as_ref() {
            Some(door) => door.try_send(arrival),
            None => Err(TrySendError::Disconnected(arrival)),
        };
        if let Err(error) = sent {
            let (kind, message) = if self.draining.load(Ordering::Acquire) {
                (RefusalKind::ShuttingDown, DRAINING)
            } else {
                (RefusalKind::DeviceFailed, "the engine stopped after a fault; see the server's log, then restart it")
            };
            error.into_inner().ticket.refuse(kind, message);
        }
    }

    /// Submits and waits.
    pub fn recommend(&self, request: Request) -> crate::request::Answer {
        let (send, receive) = bounded(1);
        let done: Done = Box::new(move |answer| {
            let _ = send.send(answer);
        });
        self.submit(request, Instant::now(), Arc::new(AtomicBool::new(false)), done);
        receive.recv().unwrap_or_else(|_| Err(Refusal::new(RefusalKind::DeviceFailed, "the engine stopped")))
    }

    /// Refuses new requests, answers every accepted one, and ends the threads. Waits for that, unless it is called from a
    /// request's callback: an engine thread cannot wait for itself.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        drop(lock(&self.door).take());
        if self.own_threads.contains(&std::thread::current().id()) {
            return;
        }
        // Kept locked: whoever drains at the same time returns when it is done, not before.
        let mut threads = lock(&self.threads);
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("an engine thread panicked; its requests were refused");
            }
        }
        self.replacer.end();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.drain();
    }
}

/// A refusal that may be about what the scenario gave, or did not give.
fn with_scenario(refusal: Refusal, scenario: Option<&Scenario>) -> Refusal {
    match scenario {
        Some(scenario) => Refusal::new(refusal.kind, format!("with scenario {scenario}: {}", refusal.message)),
        None => refusal,
    }
}

/// Sets [`Stats::given_up`] where it is dropped by a panic.
struct Watch(Arc<Stats>);

impl Drop for Watch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.given_up.store(true, Ordering::Release);
        }
    }
}

/// The body of a thread without which nobody is served.
pub(super) fn watched(stats: &Arc<Stats>, body: impl FnOnce() + Send + 'static) -> impl FnOnce() + Send + 'static {
    let watch = Watch(Arc::clone(stats));
    move || {
        let _watch = watch;
        body();
    }
}

const DRAINING: &str = "the server is draining";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, LoadError> {
    std::thread::Builder::new().name(name.into()).spawn(body).map_err(LoadError::Thread)
}

#[cfg(test)]
mod tests;
