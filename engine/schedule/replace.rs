//! Other weights for a running engine: checked and brought to a device by a thread of their own, then handed to the engine
//! thread, which puts them in the place of the old ([`crate::schedule::core`]'s `weights`).
//!
//! One replacement at a time. Until the engine thread has swapped, nothing that serves is touched: whatever is wrong with the
//! file is told to whoever asks, and the old weights serve on.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use serde_json::{Value, json};

use crate::device::DeviceError;
use crate::model::ModelError;
use crate::request::Policy;
use crate::schedule::core::{Opening, Reopen, Swap, Swapped};
use crate::schedule::load::LoadError;

/// Bytes of a version's name.
pub const MAX_VERSION_BYTES: usize = 256;

/// Checks the weights at a path, and returns what opens a device with them. The flag says that nobody waits any more.
pub(super) type Prepare = Box<dyn Fn(&Path, &AtomicBool) -> Result<Reopen, LoadError> + Send + Sync>;

/// Why a replacement was not begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplaceError {
    /// Another one is under way.
    #[error("replacement {number} is under way; ask for its end first")]
    Busy {
        /// Its number.
        number: u64,
    },
    /// The path or the name is of no use.
    #[error("{0}")]
    Asked(String),
    /// The engine is ending, or has no weights that could be replaced.
    #[error("{0}")]
    Unavailable(String),
}

/// How far a replacement is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The file is checked and brought to a device; the old weights serve.
    Loading,
    /// Nobody new is admitted until those who began with the old weights are served.
    Switching,
    /// It serves.
    Serving {
        /// How long nobody was admitted.
        pause: Duration,
        /// Whether the device was opened beside the old one, so that the pause was only that of the switch.
        beside: bool,
    },
    /// The old weights serve on.
    Failed {
        /// Why.
        error: String,
    },
}

/// One attempt to replace the weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// The policy it is to be.
    pub policy: Policy,
    /// Where the weights lie.
    pub path: PathBuf,
    /// How far it is.
    pub stage: Stage,
    /// From being asked for to its end, if that has come.
    pub took: Option<Duration>,
}

/// Whose weights serve, and what came of attempts to replace them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WeightsStatus {
    /// The weights that newcomers are served by.
    pub serving: Policy,
    /// Replacements that were done.
    pub replaced: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// The newest attempt.
    pub last: Option<Replacement>,
}

impl WeightsStatus {
    /// As a JSON object.
    pub fn to_json(&self) -> Value {
        let policy = |policy: &Policy| json!({"number": policy.number, "version": policy.version});
        let last = self.last.as_ref().map(|last| {
            let (stage, error, pause, beside) = match &last.stage {
                Stage::Loading => ("loading", None, None, None),
                Stage::Switching => ("switching", None, None, None),
                Stage::Serving { pause, beside } => ("serving", None, Some(pause), Some(beside)),
                Stage::Failed { error } => ("failed", Some(error), None, None),
            };
            json!({
                "policy": policy(&last.policy),
                "path": last.path.display().to_string(),
                "stage": stage,
                "error": error,
                "took_ms": last.took.map(|took| took.as_secs_f64() * 1e3),
                "pause_ms": pause.map(|pause| pause.as_secs_f64() * 1e3),
                "beside": beside,
            })
        });
        json!({
            "serving": policy(&self.serving), "replaced": self.replaced, "failed": self.failed, "replacement": last,
        })
    }
}

/// What the engine and the thread of a replacement share.
struct Shared {
    status: Mutex<WeightsStatus>,
    prepare: Prepare,
    opening: Opening,
    swaps: Sender<Swap>,
    ending: AtomicBool,
}

/// Replaces weights, one set after the other.
pub(super) struct Replacer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Replacer {
    /// Replaces `serving` through the engine thread's queue, which holds one swap.
    pub fn new(serving: Policy, prepare: Prepare, opening: Opening, swaps: Sender<Swap>) -> Replacer {
        let status = Mutex::new(WeightsStatus { serving, ..WeightsStatus::default() });
        let shared = Arc::new(Shared { status, prepare, opening, swaps, ending: AtomicBool::new(false) });
        Replacer { shared, thread: Mutex::new(None) }
    }

    pub fn status(&self) -> WeightsStatus {
        lock(&self.shared.status).clone()
    }

    /// Begins to replace the weights by those at `path`. Returns the number of the policy that they will be; how it ends is in
    /// the status.
    ///
    /// # Errors
    /// Another one is under way, the path is relative, the name is empty, too long or no text for a log, or the engine is
    /// ending.
    pub fn begin(&self, path: &Path, version: &str) -> Result<u64, ReplaceError> {
        check_version(version)?;
        if !path.is_absolute() {
            let path = path.display();
            return Err(ReplaceError::Asked(format!(
                "path: {path} is not absolute; whose directory it is in is not told"
            )));
        }
        let mut thread = lock(&self.thread);
        if self.shared.ending.load(Ordering::Acquire) {
            return Err(ReplaceError::Unavailable(DRAINING.into()));
        }
        let mut status = lock(&self.shared.status);
        let number = status.last.as_ref().map_or(0, |last| last.policy.number);
        if status.last.as_ref().is_some_and(|last| last.took.is_none()) {
            return Err(ReplaceError::Busy { number });
        }
        let (policy, shared) = (Policy { number: number + 1, version: version.into() }, Arc::clone(&self.shared));
        let asked = Replacement { policy: policy.clone(), path: path.into(), stage: Stage::Loading, took: None };
        let body = move || shared.replace(&asked);
        let replacement = Replacement { policy, path: path.into(), stage: Stage::Loading, took: None };
        let spawned = std::thread::Builder::new().name("sidereal-weights".into()).spawn(body);
        let spawned = spawned.map_err(|error| ReplaceError::Unavailable(format!("cannot start a thread: {error}")))?;
        status.last = Some(replacement);
        // The one before has told its end, so there is nothing to wait for.
        *thread = Some(spawned);
        Ok(number + 1)
    }

    /// Begins no more, gives up what is under way, and waits for that. The engine thread has ended.
    pub fn end(&self) {
        self.shared.ending.store(true, Ordering::Release);
        // Not while it is locked: who asks for the next one meanwhile must not wait.
        let thread = lock(&self.thread).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that replaces weights panicked");
        }
    }
}

impl Shared {
    /// The thread's body.
    fn replace(&self, asked: &Replacement) {
        let began = Instant::now();
        let ended = Ended { shared: self, began };
        let outcome = self.bring(asked);
        let Policy { number, version } = &asked.policy;
        let path = asked.path.display();
        match &outcome {
            Ok((pause, beside)) => {
                let (took_ms, pause_us) = (began.elapsed().as_millis() as u64, pause.as_micros() as u64);
                tracing::info!(number, version, %path, took_ms, pause_us, beside, "weights replaced");
            }
            Err(error) => {
                tracing::error!(number, version, %path, %error, "weights not replaced; the old ones serve on")
            }
        }
        ended.tell(outcome, &asked.policy);
    }

    /// Everything up to the engine thread's answer: how long it admitted nobody, and whether two devices were there at once.
    fn bring(&self, asked: &Replacement) -> Result<(Duration, bool), LoadError> {
        let mut reopen = (self.prepare)(&asked.path, &self.ending)?;
        let (told, answer) = bounded(1);
        let beside = {
            let _opening = lock(&self.opening);
            let hardware = match reopen() {
                Ok(hardware) => Some(hardware),
                Err(error) if may_fit_alone(&error) => {
                    tracing::warn!(%error, "no room for two models: the old one goes before the new one is loaded");
                    None
                }
                Err(error) => return Err(error),
            };
            let beside = hardware.is_some();
            lock(&self.status).last.iter_mut().for_each(|last| last.stage = Stage::Switching);
            let swap = Swap { policy: asked.policy.clone(), hardware, reopen, told };
            // The queue has room: it holds one, and there is one. Whoever drains has closed it.
            self.swaps.try_send(swap).map_err(|_| LoadError::Unsupported(DRAINING.into()))?;
            beside
        };
        let Swapped { leftover, pause, outcome } =
            answer.recv().map_err(|_| LoadError::Unsupported(DRAINING.into()))?;
        let switched = outcome.map(|()| (pause, beside));
        // Freeing gigabytes takes its time, which is nobody's here.
        drop(leftover);
        switched
    }
}

/// Says how a replacement ended, also when its thread panics: else none would ever be begun again.
struct Ended<'a> {
    shared: &'a Shared,
    began: Instant,
}

impl Ended<'_> {
    fn tell(&self, outcome: Result<(Duration, bool), LoadError>, policy: &Policy) {
        let mut status = lock(&self.shared.status);
        match &outcome {
            Ok(_) => (status.replaced, status.serving) = (status.replaced + 1, policy.clone()),
            Err(_) => status.failed += 1,
        }
        if let Some(last) = &mut status.last {
            last.took = Some(self.began.elapsed());
            last.stage = match outcome {
                Ok((pause, beside)) => Stage::Serving { pause, beside },
                Err(error) => Stage::Failed { error: error.to_string() },
            };
        }
    }
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = LoadError::Unsupported("the engine met a fault of its own; the server's log says which".into());
            self.tell(Err(error), &Policy::default());
        }
    }
}

/// Whether an error may be due to the old model alone, which holds what the new one needs.
fn may_fit_alone(error: &LoadError) -> bool {
    let (LoadError::Device(device) | LoadError::Model(ModelError::Device(device))) = error else { return false };
    matches!(device, DeviceError::OutOfMemory { .. })
}

fn check_version(version: &str) -> Result<(), ReplaceError> {
    let wrong: String = match version.len() {
        0 => "is empty; it names the weights in replies".into(),
        bytes if bytes > MAX_VERSION_BYTES => format!("is {bytes} bytes long; at most {MAX_VERSION_BYTES} are kept"),
        _ if version.chars().any(char::is_control) => "has control characters".into(),
        _ => return Ok(()),
    };
    Err(ReplaceError::Asked(format!("version: {wrong}")))
}

const DRAINING: &str = "the server is draining";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
