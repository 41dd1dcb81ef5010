//! The scenarios that requests may name: the set in force, what it makes of a request, and who reads the file again when it is replaced.
//!
//! A request meets the set once, at the door, so that one set decides all of it. A new file takes the place of the former set whole or
//! not at all: what is wrong with it is logged once, and the former set holds.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLock};

use crate::export::{ExportError, SCENARIOS, Scenario, ScenarioBounds, Scenarios};
use crate::request::{Refusal, RefusalKind, Request};
use crate::schedule::stats::Stats;

/// The scenarios in force; `None` = the export has no file of them.
#[derive(Debug, Default)]
pub(super) struct ScenarioSet {
    newest: RwLock<Option<Arc<Scenarios>>>,
}

impl ScenarioSet {
    fn newest(&self) -> Option<Arc<Scenarios>> {
        self.newest.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    fn put(&self, next: Scenarios) {
        *self.newest.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(Arc::new(next));
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.newest().map_or(0, |scenarios| scenarios.list().len())
    }

    /// Fills what the request leaves open from the scenario that it names, which is returned; what the request says itself stays. A
    /// scenario's `top` gives way to narrower beams that the request asks for. Where no file says what scenarios there are, those
    /// that the model's decoder has an instruction for may be named too: `known`.
    ///
    /// # Errors
    /// There is no such scenario.
    pub fn fill(&self, request: &mut Request, known: &[u32]) -> Result<Option<Arc<Scenario>>, Refusal> {
        let Some(id) = request.scenario else { return Ok(None) };
        let scenarios = self.newest();
        if scenarios.is_none() && !known.is_empty() {
            if known.contains(&id) {
                return Ok(None);
            }
            let message = format!("scenario {id} is not one of the {} that this export's decoder knows", known.len());
            return Err(Refusal::new(RefusalKind::Unsupported, message));
        }
        let Some(scenario) = scenarios.as_ref().and_then(|scenarios| scenarios.get(id)) else {
            let there = scenarios.map_or_else(|| "no scenarios".to_owned(), |scenarios| scenarios.to_string());
            let message = format!("scenario {id}: this export has {there}");
            return Err(Refusal::new(RefusalKind::Unsupported, message));
        };
        if request.beams == 0 {
            request.beams = scenario.beams.unwrap_or(0);
        }
        if request.top == 0 {
            request.top = scenario.top.map_or(0, |top| top.min(request.beams));
        }
        request.max_items_per_sid = request.max_items_per_sid.or(scenario.max_items_per_sid);
        request.deadline = request.deadline.or(scenario.deadline);
        if request.view.is_none() {
            request.view.clone_from(&scenario.view);
        }
        Ok(Some(Arc::clone(scenario)))
    }
}

/// What tells one state of a file from the next without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stamp {
    Absent,
    /// The system does not say: reading it will tell why.
    Unreadable,
    /// Device, inode, length, and when content and inode changed last, in seconds and nanoseconds.
    File([u64; 3], [i64; 4]),
}

impl Stamp {
    fn of(path: &Path) -> Stamp {
        match std::fs::metadata(path) {
            Ok(file) => Stamp::File(
                [file.dev(), file.ino(), file.len()],
                [file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()],
            ),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Stamp::Absent,
            Err(_) => Stamp::Unreadable,
        }
    }
}

/// Reads the file again when it is replaced.
#[derive(Debug)]
pub(super) struct ScenarioFollower {
    export: PathBuf,
    path: PathBuf,
    bounds: ScenarioBounds,
    set: Arc<ScenarioSet>,
    /// The file that was read last, whatever came of it.
    read: Stamp,
    /// The file as the last look found it.
    seen: Stamp,
}

impl ScenarioFollower {
    /// Reads the scenarios of the export in `dir` as they stand.
    ///
    /// # Errors
    /// The file is bad, or names what is not served.
    pub fn catch_up(dir: &Path, bounds: ScenarioBounds) -> Result<ScenarioFollower, ExportError> {
        let path = dir.join(SCENARIOS);
        // Before the file is read: what is written from here on is seen as another one.
        let read = Stamp::of(&path);
        let set = Arc::new(ScenarioSet::default());
        if let Some(scenarios) = load(dir, &bounds)? {
            set.put(scenarios);
        }
        Ok(ScenarioFollower { export: dir.to_owned(), path, bounds, set, read, seen: read })
    }

    /// What requests are filled from.
    pub fn set(&self) -> &Arc<ScenarioSet> {
        &self.set
    }

    /// Takes up a new file that two looks in a row found the same: one that is being written is left alone until it is done, and
    /// whatever is written after it was read has another time.
    pub fn look_and_tell(&mut self, stats: &Stats) {
        let now = Stamp::of(&self.path);
        let settled = now == std::mem::replace(&mut self.seen, now);
        if !settled || now == self.read {
            return;
        }
        self.read = now;
        let path = self.path.display();
        let refused = match load(&self.export, &self.bounds) {
            Ok(Some(scenarios)) => {
                tracing::info!(%path, scenarios = scenarios.list().len(), "scenarios applied");
                self.set.put(scenarios);
                stats.scenarios_applied.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Ok(None) => "the file is gone; to have no scenarios, write an empty list".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(%path, error = refused, "the new scenarios are not taken; the former ones hold");
        stats.scenarios_refused.fetch_add(1, Ordering::Relaxed);
    }
}

fn load(export: &Path, bounds: &ScenarioBounds) -> Result<Option<Scenarios>, ExportError> {
    let scenarios = Scenarios::open(export)?;
    if let Some(scenarios) = &scenarios {
        scenarios.validate_against(bounds)?;
    }
    Ok(scenarios)
}

#[cfg(test)]
mod tests;
