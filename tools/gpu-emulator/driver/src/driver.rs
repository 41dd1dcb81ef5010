//! The driver of the process: contexts, which one each thread works in, and the one lock around it all.
//!
//! Calls run under the lock to their end, kernels included. That is the concurrency a single emulated device needs, and it makes a
//! run repeatable.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, PoisonError, TryLockError};

use crate::context::Context;
use crate::handle::Handle;
use crate::report::Reporter;
use crate::session::{Process, Session};
use crate::settings::Settings;
use crate::status::{CudaError, Outcome};

static DRIVER: LazyLock<Mutex<Driver>> = LazyLock::new(Mutex::default);

thread_local! {
    /// The contexts pushed by this thread; the last is current.
    static CURRENT: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// The primary context: one for all who ask.
#[derive(Default)]
struct Primary {
    context: Option<Handle>,
    users: u32,
    flags: u32,
}

/// Everything.
#[derive(Default)]
pub struct Driver {
    process: Process,
    settings: Option<Settings>,
    initialised: bool,
    contexts: BTreeMap<Handle, Context>,
    primary: Primary,
}

/// Runs a call under the lock. A host function called from a stream may not call the driver, and a bug of this library must not
/// unwind into the caller.
pub fn locked<T>(call: impl FnOnce(&mut Driver) -> Outcome<T>) -> Outcome<T> {
    if IN_CALLBACK.get() {
        return Err(CudaError::NotPermitted);
    }
    let mut driver = DRIVER.lock().unwrap_or_else(PoisonError::into_inner);
    let call = std::panic::AssertUnwindSafe(|| call(&mut driver));
    std::panic::catch_unwind(call).unwrap_or(Err(CudaError::Unknown))
}

/// Runs a call on the thread's current context.
pub fn in_context<T>(call: impl FnOnce(&mut Session<'_>) -> Outcome<T>) -> Outcome<T> {
    locked(|driver| {
        let mut session = driver.session()?;
        match session.context.failure {
            Some(error) => Err(error),
            None => call(&mut session),
        }
    })
}

/// Marks the thread as inside a host function.
pub fn calling_back(call: impl FnOnce()) {
    IN_CALLBACK.set(true);
    call();
    IN_CALLBACK.set(false);
}

/// The thread's current context, 0 if none.
pub fn current() -> Handle {
    CURRENT.with_borrow(|stack| stack.last().copied().unwrap_or(0))
}

/// Replaces the top of the thread's stack; 0 pops it.
pub fn replace_current(context: Handle) {
    CURRENT.with_borrow_mut(|stack| {
        stack.pop();
        if context != 0 {
            stack.push(context);
        }
    });
}

/// Pushes a context on the thread's stack.
pub fn push_current(context: Handle) {
    CURRENT.with_borrow_mut(|stack| stack.push(context));
}

/// Pops the thread's stack.
pub fn pop_current() -> Outcome<Handle> {
    CURRENT.with_borrow_mut(Vec::pop).ok_or(CudaError::InvalidContext)
}

/// Prints the summary. Called at the end of the process, when another thread may hold the lock for good.
pub fn print_summary() {
    let driver = match DRIVER.try_lock() {
        Ok(driver) => driver,
        Err(TryLockError::Poisoned(driver)) => driver.into_inner(),
        Err(TryLockError::WouldBlock) => return,
    };
    eprint!("gpu-emulator: summary of the process\n{}", driver.process.statistics);
    for (kind, calls) in driver.process.plan.counts().filter(|(_, calls)| *calls > 0) {
        eprintln!("{calls:>10} calls  {kind}");
    }
}

impl Driver {
    /// `cuInit`. True if a summary is wanted and this was the first call.
    pub fn initialise(&mut self) -> Outcome<bool> {
        let summary = self.read_settings()?.summary;
        Ok(!std::mem::replace(&mut self.initialised, true) && summary)
    }

    /// The driver's version, which may be asked for before `cuInit`.
    pub fn version(&mut self) -> Outcome<i32> {
        Ok(self.read_settings()?.driver_version)
    }

    /// The settings, once initialised.
    pub fn settings(&self) -> Outcome<&Settings> {
        self.settings.as_ref().filter(|_| self.initialised).ok_or(CudaError::NotInitialized)
    }

    /// Reads the environment, once.
    fn read_settings(&mut self) -> Outcome<&Settings> {
        if self.settings.is_none() {
            let settings = Settings::from_environment().map_err(|error| {
                eprintln!("gpu-emulator: {error}");
                CudaError::InvalidValue
            })?;
            self.process.driver_version = settings.driver_version;
            self.process.plan = settings.fault_plan.clone();
            self.process.reporter = Reporter::new(settings.report.clone());
            self.settings = Some(settings);
        }
        self.settings.as_ref().ok_or(CudaError::NotInitialized)
    }

    /// The device of an ordinal or handle: there is one, 0.
    pub fn device(&self, device: i32) -> Outcome<()> {
        self.settings()?;
        if device == 0 { Ok(()) } else { Err(CudaError::InvalidDevice) }
    }

    /// The current context, failed or not.
    pub fn session(&mut self) -> Outcome<Session<'_>> {
        self.settings()?;
        match current() {
            0 => Err(CudaError::InvalidContext),
            id => {
                let context = self.contexts.get_mut(&id).ok_or(CudaError::ContextIsDestroyed)?;
                Ok(Session { context, process: &mut self.process })
            }
        }
    }

    /// Whether a context exists.
    pub fn check_context(&self, context: Handle) -> Outcome<()> {
        self.settings()?;
        if self.contexts.contains_key(&context) { Ok(()) } else { Err(CudaError::InvalidContext) }
    }

    /// A new context.
    pub fn create_context(&mut self, flags: u32) -> Outcome<Handle> {
        let memory_bytes = self.settings()?.memory_bytes;
        let context = Context::new(&mut self.process.handles, memory_bytes, flags);
        let id = context.id;
        self.contexts.insert(id, context);
        Ok(id)
    }

    /// Ends a context with all that was made in it, whatever state it is in.
    pub fn destroy_context(&mut self, context: Handle) -> Outcome<()> {
        self.check_context(context)?;
        if self.primary.context == Some(context) {
            return Err(CudaError::InvalidContext);
        }
        self.remove(context);
        Ok(())
    }

    /// `cuDevicePrimaryCtxRetain`.
    pub fn retain_primary(&mut self) -> Outcome<Handle> {
        let context = match self.primary.context {
            Some(context) => context,
            None => self.create_context(self.primary.flags)?,
        };
        self.primary.context = Some(context);
        self.primary.users += 1;
        Ok(context)
    }

    /// `cuDevicePrimaryCtxRelease`: the last user's release destroys it.
    pub fn release_primary(&mut self) -> Outcome<()> {
        self.primary.users = self.primary.users.checked_sub(1).ok_or(CudaError::InvalidContext)?;
        if self.primary.users == 0 {
            self.reset_primary();
        }
        Ok(())
    }

    /// `cuDevicePrimaryCtxReset`: destroys it whoever uses it. The next retain makes a fresh one, under a new handle.
    pub fn reset_primary(&mut self) {
        if let Some(context) = self.primary.context.take() {
            self.remove(context);
        }
    }

    /// The primary context's flags, and whether it exists.
    pub fn primary_state(&self) -> (u32, bool) {
        (self.primary.flags, self.primary.context.is_some())
    }

    /// Flags of the next primary context, and of this one.
    pub fn set_primary_flags(&mut self, flags: u32) {
        self.primary.flags = flags;
        if let Some(context) = self.primary.context.and_then(|id| self.contexts.get_mut(&id)) {
            context.flags = flags;
        }
    }

    /// Ends a context: as a real driver, after its work is done, unless it is broken.
    fn remove(&mut self, id: Handle) {
        if let Some(mut context) = self.contexts.remove(&id) {
            let mut session = Session { context: &mut context, process: &mut self.process };
            if session.context.failure.is_none() {
                // A fault of this last work was told where faults are told; there is no context left to break.
                let _ = session.run_all();
            }
        }
        self.process.pinned.forget_context(id);
    }
}
