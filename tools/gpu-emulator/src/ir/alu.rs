//! Lane-wise operations and their modifiers.

use crate::ptx::ast::Type;

/// Two-operand integer operations; the suffix says how operands are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IntOp {
    Add,
    Sub,
    Mul,
    MulHighS,
    MulHighU,
    MinS,
    MinU,
    MaxS,
    MaxU,
    And,
    Or,
    Xor,
    DivS,
    DivU,
    RemS,
    RemU,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShiftOp {
    Left,
    RightS,
    RightU,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BitOp {
    Not,
    Neg,
    AbsS,
    Reverse,
    LogicalNot,
    Copy,
}

/// Operations whose result is a bit position or count, in a 32-bit register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CountOp {
    Ones,
    LeadingZeros,
    FindS,
    FindU,
    FindShiftS,
    FindShiftU,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatOp {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
    MinNan,
    MaxNan,
    CopySign,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatUnary {
    Abs,
    Neg,
    Reciprocal,
    Sqrt,
    ReciprocalSqrt,
    Exp2,
    Log2,
    Sin,
    Cos,
    Tanh,
}

/// Modifiers of 32-bit float arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FloatMode {
    /// Denormal inputs and results become zero of the same sign.
    pub flush: bool,
    /// The result is clamped to [0, 1], NaN becomes 0.
    pub saturate: bool,
    /// Negative results and, unlike `saturate`, nothing else become zero (half formats).
    pub relu: bool,
    pub rounding: Rounding,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    EqU,
    NeU,
    LtU,
    LeU,
    GtU,
    GeU,
    Num,
    Nan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BoolOp {
    And,
    Or,
    Xor,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rounding {
    #[default]
    Nearest,
    NearestAway,
    Zero,
    Down,
    Up,
}

/// A conversion between scalar types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Convert {
    pub to: Type,
    pub from: Type,
    pub rounding: Rounding,
    /// `rni`, `rzi`, ...: a float result is rounded to an integral value.
    pub integral: bool,
    pub saturate: bool,
    pub flush: bool,
    pub relu: bool,
}

/// 16-bit float formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    F16,
    Bf16,
}

/// One or two values of a 16-bit format in a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HalfLanes {
    pub format: Half,
    pub packed: bool,
}

/// How a comparison reads its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operands {
    Signed(u8),
    Unsigned(u8),
    F32 { flush: bool },
    F64,
    Half(Half),
}

/// Lane-wise operations: no lane sees another, nothing but registers changes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Alu {
    Int16(IntOp),
    Int32(IntOp),
    Int64(IntOp),
    Shift16(ShiftOp),
    Shift32(ShiftOp),
    Shift64(ShiftOp),
    Mad16,
    Mad32,
    Mad64,
    MadHigh {
        signed: bool,
    },
    MulWide16 {
        signed: bool,
    },
    MulWide32 {
        signed: bool,
    },
    MadWide16 {
        signed: bool,
    },
    MadWide32 {
        signed: bool,
    },
    Bits16(BitOp),
    Bits32(BitOp),
    Bits64(BitOp),
    Count32(CountOp),
    Count64(CountOp),
    Logic3(u8),
    Funnel {
        left: bool,
        clamp: bool,
    },
    Permute(PermuteMode),
    Extract32 {
        signed: bool,
    },
    Extract64 {
        signed: bool,
    },
    Insert32,
    Insert64,
    Dot4 {
        a_signed: bool,
        b_signed: bool,
    },
    Float32(FloatOp, FloatMode),
    Fma32(FloatMode),
    Unary32(FloatUnary, FloatMode),
    Float64(FloatOp),
    Fma64,
    Unary64(FloatUnary),
    HalfOp(FloatOp, HalfLanes, FloatMode),
    HalfFma(HalfLanes, FloatMode),
    HalfUnary(FloatUnary, HalfLanes, FloatMode),
    ZeroExtend,
    SignExtend,
    Truncate,
    IntToF32 {
        signed: bool,
    },
    Bf16ToF32,
    F32ToBf16,
    Convert(Convert),
    /// Two floats to a register of two halves; the first source is the upper one.
    ConvertPair {
        format: Half,
        rounding: Rounding,
        relu: bool,
    },
    Pack64,
    Unpack64,
    Pack32,
    Unpack32,
    /// Four 16-bit values to or from a 64-bit register.
    Pack64x4,
    Unpack64x4,
    Compare {
        compare: Compare,
        operands: Operands,
        combine: Option<BoolOp>,
    },
    /// As `Compare`, with an all-ones or 1.0 result in a register.
    CompareTo {
        compare: Compare,
        operands: Operands,
        combine: Option<BoolOp>,
        float: bool,
    },
    Select32,
    Select64,
    /// Selects by the sign of a 32-bit source (`slct`).
    SelectSign {
        float: bool,
    },
    PredicateOp(BoolOp),
    PredicateCopy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PermuteMode {
    Index,
    Forward4,
    Backward4,
    Replicate8,
    EdgeLeft,
    EdgeRight,
    Replicate16,
}
