//! What the checks report. A fault ends its launch.

use crate::memory::Neighbour;
use std::fmt;

/// Where a fault happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Kernel name.
    pub kernel: String,
    /// Block index.
    pub block: [u32; 3],
    /// Thread index in the block.
    pub thread: [u32; 3],
    /// Warp of the block.
    pub warp: u32,
    /// Lane of the warp.
    pub lane: u32,
    /// Line of the PTX text, counted from one.
    pub ptx_line: u32,
    /// The instruction as the PTX has it.
    pub instruction: String,
    /// `file.cu:line`, if the PTX was made with line information.
    pub source: Option<String>,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(
            f,
            "{} block ({bx},{by},{bz}) thread ({tx},{ty},{tz}) warp {} lane {}, PTX line {}: {}",
            self.kernel, self.warp, self.lane, self.ptx_line, self.instruction
        )?;
        match &self.source {
            Some(source) => write!(f, " [{source}]"),
            None => Ok(()),
        }
    }
}

/// What a memory access was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A load or the source of a copy.
    Read,
    /// A store or the destination of a copy.
    Write,
    /// A read-modify-write.
    Atomic,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Read => "read",
            Action::Write => "write",
            Action::Atomic => "atomic",
        })
    }
}

/// A memory the checks watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Device memory.
    Global,
    /// A block's shared memory.
    Shared,
    /// A thread's own memory.
    Local,
    /// Kernel parameters.
    Param,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Memory::Global => "global",
            Memory::Shared => "shared",
            Memory::Local => "local",
            Memory::Param => "parameter",
        })
    }
}

/// Why a launch ended early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// An access outside its memory or allocation.
    #[error("out of bounds: {memory} {action} of {bytes} bytes at {address:#x}; {limits}; {site}")]
    OutOfBounds {
        /// Where.
        site: Box<Site>,
        /// Which memory.
        memory: Memory,
        /// What kind of access.
        action: Action,
        /// Start of the access.
        address: u64,
        /// Size of the access.
        bytes: u64,
        /// What would have been allowed.
        limits: Limits,
    },
    /// An address that is not a multiple of the access size.
    #[error("misaligned: {memory} {action} of {bytes} bytes at {address:#x}; {site}")]
    Misaligned {
        /// Where.
        site: Box<Site>,
        /// Which memory.
        memory: Memory,
        /// What kind of access.
        action: Action,
        /// Start of the access.
        address: u64,
        /// Size of the access.
        bytes: u64,
    },
    /// Two threads of a block use the same shared bytes without synchronisation, at least one writing.
    #[error("race on shared memory: {action} at {address:#x} against the {earlier} by warp {warp}{lane}; {site}")]
    SharedRace {
        /// Where the second access is.
        site: Box<Site>,
        /// The second access.
        action: Action,
        /// The word.
        address: u64,
        /// The first access.
        earlier: Action,
        /// Warp of the first access.
        warp: u32,
        /// Lane of the first access, if one.
        lane: OtherLane,
    },
    /// Two blocks of a launch use the same global bytes, at least one writing.
    #[error("race between blocks on global memory: {action} at {address:#x} against {other}; {site}")]
    GlobalRace {
        /// Where the second access is.
        site: Box<Site>,
        /// The second access.
        action: Action,
        /// The word.
        address: u64,
        /// The other block.
        other: OtherBlock,
    },
    /// A read of bytes nobody wrote.
    #[error("uninitialised: {memory} read of {bytes} bytes at {address:#x}; {site}")]
    Uninitialised {
        /// Where.
        site: Box<Site>,
        /// Which memory.
        memory: Memory,
        /// Start of the access.
        address: u64,
        /// Size of the access.
        bytes: u64,
    },
    /// A use of shared bytes that an asynchronous copy may still be writing, or an exit before such a copy was waited for.
    #[error("cp.async not waited for: {what} at {address:#x}; {site}")]
    UnwaitedCopy {
        /// Where.
        site: Box<Site>,
        /// What met the copy.
        what: &'static str,
        /// The destination in shared memory.
        address: u64,
    },
    /// Warps wait for each other and nobody can go on.
    #[error("deadlock: {what}; {site}")]
    Deadlock {
        /// One of the waiting threads.
        site: Box<Site>,
        /// Who waits for what.
        what: String,
    },
    /// A barrier that not all threads reach together.
    #[error("divergent barrier: {what}; {site}")]
    DivergentBarrier {
        /// Where.
        site: Box<Site>,
        /// What is wrong.
        what: String,
    },
    /// A warp collective with lanes that are missing or do not agree.
    #[error("warp collective: {what}; {site}")]
    BadCollective {
        /// Where.
        site: Box<Site>,
        /// What is wrong.
        what: String,
    },
    /// An instruction that this crate does not implement.
    #[error("not supported: {reason}; {site}")]
    Unsupported {
        /// Where.
        site: Box<Site>,
        /// Why.
        reason: String,
    },
    /// The kernel executed `trap` or a failed `assert`.
    #[error("trap; {site}")]
    Trap {
        /// Where.
        site: Box<Site>,
    },
    /// A block executed more instructions than any honest one would.
    #[error("runaway: {instructions} warp instructions in one block; {site}")]
    Runaway {
        /// Where it was stopped.
        site: Box<Site>,
        /// How many were executed.
        instructions: u64,
    },
    /// A launch the hardware would refuse, or code before its module was loaded.
    #[error("launch of {kernel}: {what}")]
    BadLaunch {
        /// Kernel name.
        kernel: String,
        /// What is wrong.
        what: String,
    },
}

/// What an access out of bounds should have stayed within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limits {
    /// The closest allocation.
    Allocation(Neighbour),
    /// The size of a memory whose addresses start at zero.
    Bytes(u64),
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limits::Allocation(neighbour) => neighbour.fmt(f),
            Limits::Bytes(bytes) => write!(f, "it has {bytes} bytes"),
        }
    }
}

/// The lane of an earlier access, unless it was several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherLane(pub Option<u32>);

impl fmt::Display for OtherLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(lane) => write!(f, " lane {lane}"),
            None => f.write_str(", several lanes"),
        }
    }
}

/// The block of an earlier access, unless it was several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherBlock(pub Option<[u32; 3]>);

impl fmt::Display for OtherBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some([x, y, z]) => write!(f, "block ({x},{y},{z})"),
            None => f.write_str("several other blocks"),
        }
    }
}
