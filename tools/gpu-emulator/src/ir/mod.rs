//! What the machine executes: one flat list of operations a kernel, operands resolved to register slots.
//!
//! Immediates and special registers are slots too, filled before the kernel runs, so that every operation reads its operands in
//! the same way. Destinations come first in an operation's operand list.

mod alu;

pub(crate) use alu::*;

use crate::ptx::ast::{SourceLine, Space, Type};

/// Which register file a slot belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    /// 32 bits a lane; narrower values are kept zero-extended.
    Word,
    /// 64 bits a lane.
    Double,
    /// One bit a lane.
    Predicate,
}

/// A register of one class, for a predicate perhaps negated when read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot(u32);

impl Slot {
    const NEGATED: u32 = 1 << 29;

    pub(crate) fn new(class: Class, index: usize) -> Slot {
        assert!(index < Self::NEGATED as usize, "register files are bounded by the parser");
        Slot((class as u32) << 30 | index as u32)
    }

    pub(crate) fn negate(self) -> Slot {
        Slot(self.0 ^ Self::NEGATED)
    }

    pub(crate) fn is_negated(self) -> bool {
        self.0 & Self::NEGATED != 0
    }

    #[inline(always)]
    pub(crate) fn index(self) -> usize {
        (self.0 & (Self::NEGATED - 1)) as usize
    }

    pub(crate) fn class(self) -> Class {
        match self.0 >> 30 {
            0 => Class::Word,
            1 => Class::Double,
            _ => Class::Predicate,
        }
    }
}

/// A load or store: element size, how many elements, where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub space: Space,
    pub offset: i64,
    pub element_bytes: u8,
    pub count: u8,
    pub signed: bool,
    /// `volatile`, `relaxed`, `acquire`, `release`: ordered like an atomic by the race checks.
    pub atomic: bool,
}

impl Access {
    pub(crate) fn bytes(&self) -> usize {
        usize::from(self.element_bytes) * usize::from(self.count)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomicOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    CompareSwap,
    Increment,
    Decrement,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Atomic {
    pub op: AtomicOp,
    pub ty: Type,
    pub space: Space,
    pub offset: i64,
    /// `atom` has a destination, `red` has none.
    pub returns: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShuffleMode {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReduxOp {
    Add,
    And,
    Or,
    Xor,
    MinS,
    MinU,
    MaxS,
    MaxU,
}

/// Warp-wide operations. The last source is the member mask, except for the `.aligned` ones, which want every lane.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Collective {
    Shuffle { mode: ShuffleMode, reports: bool },
    Vote(VoteMode),
    MatchAny { double: bool },
    MatchAll { double: bool, reports: bool },
    Redux(ReduxOp),
    WarpSync,
    LoadMatrix { count: u8, transposed: bool, space: Space, offset: i64 },
    Mma(Mma),
}

impl Collective {
    pub(crate) fn is_aligned(&self) -> bool {
        matches!(self, Collective::LoadMatrix { .. } | Collective::Mma(_))
    }
}

/// Matrix shapes and element types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mma {
    /// m16n8k16, 16-bit floats; f32 or f16 accumulators.
    Half16 { format: Half, f16_result: bool },
    /// m16n8k8, 16-bit floats.
    Half8 { format: Half, f16_result: bool },
    /// m16n8k8, tf32.
    Tf32K8,
    /// m16n8k4, tf32.
    Tf32K4,
    /// m16n8k32 or m16n8k16, 8-bit integers.
    Int8 { k32: bool, a_signed: bool, b_signed: bool, saturate: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarrierKind {
    Sync,
    Arrive,
    ReduceCount,
    ReduceAnd,
    ReduceOr,
}

/// `bar` and `barrier`: sources are the id, then the thread count if given, then the predicate of a reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Barrier {
    pub kind: BarrierKind,
    pub counted: bool,
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    Alu(Alu),
    Branch(u32),
    BranchIndexed(Box<[u32]>),
    Exit,
    Trap,
    Nop,
    /// Faults when executed; says why.
    Unsupported(Box<str>),
    Load(Access),
    Store(Access),
    Atomic(Atomic),
    /// Sources: shared destination, global source, and the source size in bytes if `sized`.
    CopyAsync {
        bytes: u8,
        sized: bool,
        ignore: bool,
        shared_offset: i64,
        global_offset: i64,
    },
    CopyCommit,
    /// Waits until at most this many groups are under way.
    CopyWait(u32),
    /// Waits for everything, committed or not.
    CopyWaitAll,
    Collective(Collective),
    Barrier(Barrier),
    /// A fence of device or system scope, or of block scope.
    Fence {
        device: bool,
    },
    ActiveMask,
    Clock {
        double: bool,
    },
    /// A hint without effect; its address must be inside an allocation.
    Prefetch {
        offset: i64,
    },
    /// `isspacep`.
    IsSpace(Space),
}

/// An operation with its operands and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Instr {
    pub op: Op,
    pub guard: Option<Slot>,
    pub first: u32,
    pub operands: u8,
    pub destinations: u8,
    pub line: u32,
    pub source: SourceLine,
}

/// Values that a slot holds from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Preset {
    Word(u32),
    Double(u64),
    /// The address of a module variable, plus an offset.
    Global {
        variable: u32,
        offset: i64,
    },
    Thread(u8),
    BlockSize(u8),
    BlockIndex(u8),
    GridSize(u8),
    Lane,
    Warp,
    LaneMaskEq,
    LaneMaskLt,
    LaneMaskLe,
    LaneMaskGt,
    LaneMaskGe,
    DynamicShared,
    TotalShared,
    Zero,
    True,
}

/// A kernel's code, ready to run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Code {
    pub instrs: Vec<Instr>,
    pub pool: Vec<Slot>,
    pub words: usize,
    pub doubles: usize,
    pub predicates: usize,
    pub presets: Vec<(Slot, Preset)>,
    pub local_bytes: usize,
}

impl Code {
    #[inline(always)]
    pub(crate) fn operands(&self, instr: &Instr) -> &[Slot] {
        &self.pool[instr.first as usize..instr.first as usize + usize::from(instr.operands)]
    }
}

/// Generic address windows. Global memory lies far below.
pub(crate) const PARAM_WINDOW: u64 = 0x7d00_0000_0000;
pub(crate) const LOCAL_WINDOW: u64 = 0x7e00_0000_0000;
pub(crate) const SHARED_WINDOW: u64 = 0x7f00_0000_0000;
/// Bytes of each window: larger than any of these memories.
pub(crate) const WINDOW_BYTES: u64 = 1 << 32;
