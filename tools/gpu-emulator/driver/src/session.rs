//! One API call at work: the current context, and what belongs to the whole process.
//!
//! The files beside this one add methods to `Session` by subject: queues, events, captures, graphs, memory, modules, launches.

use std::collections::BTreeMap;

use crate::context::Context;
use crate::handle::{Handle, Handles};
use crate::host::PinnedMemory;
use crate::inject::{FaultPlan, Kind, Timing};
use crate::report::Reporter;
use crate::statistics::Statistics;
use crate::status::{CudaError, Outcome};
use crate::work::{Spoiled, Work};

/// What belongs to the process and outlives contexts.
#[derive(Default)]
pub struct Process {
    /// Numbers for objects.
    pub handles: Handles,
    /// Pinned host memory.
    pub pinned: PinnedMemory,
    /// Injected faults.
    pub plan: FaultPlan,
    /// Counts for the summary.
    pub statistics: Statistics,
    /// Where faults are told.
    pub reporter: Reporter,
    /// The driver's version, which decides what PTX is taken.
    pub driver_version: i32,
}

/// A call on a context that has not failed.
pub struct Session<'a> {
    /// The current context.
    pub context: &'a mut Context,
    /// The process.
    pub process: &'a mut Process,
}

impl Session<'_> {
    /// Breaks the context: the error stays until it is destroyed, and no queued work runs any more.
    pub fn fail(&mut self, error: CudaError, what: &str) -> CudaError {
        self.process.reporter.tell(error, what);
        self.context.fail(error);
        error
    }

    /// Work of a call the fault plan may spoil: the work, or a fault in its place, or the error now.
    pub fn spoil(&mut self, kind: Kind, work: Work) -> Outcome<Work> {
        let Some((number, timing)) = self.process.plan.count(kind) else { return Ok(work) };
        let copies = matches!(kind, Kind::HostToDevice | Kind::DeviceToHost);
        let error = if copies { CudaError::IllegalAddress } else { CudaError::LaunchFailed };
        let what = format!("injected fault: {} {number} of this process", kind.name());
        match timing {
            Timing::WhenRun => Ok(Work::Spoiled(Spoiled { error, what: what.into() })),
            Timing::AtCall => Err(self.fail(error, &what)),
        }
    }

    /// Counts a wait, which the fault plan may make fail.
    pub fn count_wait(&mut self) -> Outcome<()> {
        match self.process.plan.count(Kind::Sync) {
            Some((number, _)) => {
                Err(self.fail(CudaError::LaunchFailed, &format!("injected fault: sync {number} of this process")))
            }
            None => Ok(()),
        }
    }

    /// Counts an allocation, which the fault plan may refuse; the context goes on.
    pub fn count_allocation(&mut self, kind: Kind) -> Outcome<()> {
        if self.process.plan.count(kind).is_some() { Err(CudaError::OutOfMemory) } else { Ok(()) }
    }
}

/// Finds an object by its handle.
pub fn find<T>(objects: &BTreeMap<Handle, T>, handle: Handle) -> Outcome<&T> {
    objects.get(&handle).ok_or(CudaError::InvalidHandle)
}

/// Finds an object by its handle, to change it.
pub fn find_mut<T>(objects: &mut BTreeMap<Handle, T>, handle: Handle) -> Outcome<&mut T> {
    objects.get_mut(&handle).ok_or(CudaError::InvalidHandle)
}
