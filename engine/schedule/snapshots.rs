//! The snapshot that new requests are pinned to, and the thread that makes the next one from the delisting journal. The same thread
//! looks after the scenarios.
//!
//! The thread looks at the journal's length every [`EVERY`], reads what was appended, builds the next snapshot beside the
//! current one, and puts it in its place. It has nothing to do with the engine thread, which meets a new mask for the first time
//! with the first request that was resolved with it.

use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::catalog::{Journal, JournalError, Position, Snapshot};
use crate::schedule::engine::watched;
use crate::schedule::load::LoadError;
use crate::schedule::scenarios::ScenarioFollower;
use crate::schedule::stats::Stats;

/// How often the journal and the scenarios are looked at.
pub const EVERY: Duration = Duration::from_millis(100);

/// The newest snapshot.
#[derive(Debug)]
pub(super) struct Snapshots {
    newest: RwLock<Arc<Snapshot>>,
}

impl Snapshots {
    pub fn new(first: Snapshot) -> Arc<Snapshots> {
        Arc::new(Snapshots { newest: RwLock::new(Arc::new(first)) })
    }

    pub fn newest(&self) -> Arc<Snapshot> {
        Arc::clone(&self.newest.read().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    fn put(&self, next: Snapshot) {
        *self.newest.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Arc::new(next);
    }
}

/// A journal and how far its changes are in the newest snapshot.
#[derive(Debug)]
pub(super) struct Follower {
    journal: Journal,
    position: Position,
    /// What was wrong with the journal the last time, so that it is said once.
    trouble: Option<String>,
}

impl Follower {
    /// Reads the journal as it stands. Returns the snapshot that it makes of `snapshot`, and who follows it from there.
    ///
    /// # Errors
    /// The journal cannot be trusted: what is delisted is not known then, so nothing is served.
    pub fn catch_up(journal: Journal, snapshot: Snapshot) -> Result<(Snapshot, Follower), JournalError> {
        let tail = journal.read_from(Position::default())?;
        if tail.torn_bytes > 0 {
            let path = journal.path().display();
            tracing::warn!(%path, bytes = tail.torn_bytes, "the journal ends in a record that was cut short; it is ignored");
        }
        let position = tail.position;
        let snapshot = match tail.changes.is_empty() {
            true => snapshot,
            false => snapshot.after(&tail.changes, position.epoch),
        };
        Ok((snapshot, Follower { journal, position, trouble: None }))
    }

    /// Brings the newest snapshot up to the journal.
    fn look(&mut self, snapshots: &Snapshots) -> Result<(), JournalError> {
        if self.journal.is_at(self.position)? {
            return Ok(());
        }
        let began = Instant::now();
        let tail = self.journal.read_from(self.position)?;
        if tail.changes.is_empty() {
            return Ok(());
        }
        let next = snapshots.newest().after(&tail.changes, tail.position.epoch);
        let (epoch, delisted) = (next.epoch(), next.delisted());
        snapshots.put(next);
        self.position = tail.position;
        tracing::info!(epoch, delisted, took_us = began.elapsed().as_micros() as u64, "delisting journal applied");
        Ok(())
    }

    fn look_and_tell(&mut self, snapshots: &Snapshots) {
        // What was applied stays in force; the journal may be put right while this goes on.
        let trouble = self.look(snapshots).err().map(|error| error.to_string());
        if trouble != self.trouble {
            match &trouble {
                Some(error) => tracing::error!(error, "the delisting journal cannot be followed; its last state holds"),
                None => tracing::info!("the delisting journal is followed again"),
            }
            self.trouble = trouble;
        }
    }
}

/// Who follows the files that change while an export is served.
pub(super) struct Followers {
    pub journal: Follower,
    pub scenarios: ScenarioFollower,
}

/// The thread; dropping it ends it.
pub(super) struct Watcher {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Follows the files from now on.
    pub fn start(
        mut followers: Followers,
        snapshots: Arc<Snapshots>,
        stats: &Arc<Stats>,
    ) -> Result<Watcher, LoadError> {
        let (stop, stopped): (Sender<()>, Receiver<()>) = bounded(0);
        let counted = Arc::clone(stats);
        let body = move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(EVERY) {
                followers.journal.look_and_tell(&snapshots);
                followers.scenarios.look_and_tell(&counted);
            }
        };
        let thread = std::thread::Builder::new().name("sidereal-sidecars".into()).spawn(watched(stats, body));
        Ok(Watcher { stop: Some(stop), thread: Some(thread.map_err(LoadError::Thread)?) })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that follows the delisting journal and the scenarios panicked");
        }
    }
}
