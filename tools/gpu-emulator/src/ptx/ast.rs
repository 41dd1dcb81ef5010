//! The shape of parsed PTX before anything is resolved: functions, variables, statements, operands.

/// Scalar types of PTX that sm_80 code uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub(crate) enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    Tf32,
    F32,
    F64,
}

impl Type {
    /// The type a modifier names (`u32` of `ld.u32`), if it names one.
    pub(crate) fn parse(name: &str) -> Option<Type> {
        Some(match name {
            "pred" => Type::Pred,
            "b8" => Type::B8,
            "b16" => Type::B16,
            "b32" => Type::B32,
            "b64" => Type::B64,
            "b128" => Type::B128,
            "u8" => Type::U8,
            "u16" => Type::U16,
            "u32" => Type::U32,
            "u64" => Type::U64,
            "s8" => Type::S8,
            "s16" => Type::S16,
            "s32" => Type::S32,
            "s64" => Type::S64,
            "f16" => Type::F16,
            "f16x2" => Type::F16x2,
            "bf16" => Type::Bf16,
            "bf16x2" => Type::Bf16x2,
            "tf32" => Type::Tf32,
            "f32" => Type::F32,
            "f64" => Type::F64,
            _ => return None,
        })
    }

    /// Bytes a value takes in memory.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Type::Pred | Type::B8 | Type::U8 | Type::S8 => 1,
            Type::B16 | Type::U16 | Type::S16 | Type::F16 | Type::Bf16 => 2,
            Type::B32 | Type::U32 | Type::S32 | Type::F32 | Type::F16x2 | Type::Bf16x2 | Type::Tf32 => 4,
            Type::B64 | Type::U64 | Type::S64 | Type::F64 => 8,
            Type::B128 => 16,
        }
    }

    pub(crate) fn is_signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2 | Type::Tf32 | Type::F32 | Type::F64)
    }
}

/// State spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
    Const,
}

/// Where an instruction stands in its `.cu` file: `.loc` numbers, zero when the PTX has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SourceLine {
    pub file: u32,
    pub line: u32,
}

/// A declared variable of any space.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub name: String,
    pub space: Space,
    pub align: usize,
    pub bytes: usize,
    /// `.extern`, or an array without a size: storage comes from the launch.
    pub external: bool,
    pub data: Vec<u8>,
}

/// A register declaration: one name, or `name<count>`.
#[derive(Clone, Debug)]
pub(crate) struct RegisterNames {
    pub name: String,
    pub count: Option<u32>,
}

/// A literal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Literal {
    Integer(i64),
    F32(u32),
    F64(u64),
}

/// An operand as written.
#[derive(Clone, Debug)]
pub(crate) enum Operand {
    Name(String),
    Not(String),
    Literal(Literal),
    Vector(Vec<Operand>),
    List(Vec<Operand>),
    Address(Box<Operand>, i64),
    /// `name+offset` without brackets, as `mov` takes it.
    Sum(String, i64),
    Pair(Box<Operand>, Box<Operand>),
    Blank,
}

/// One instruction.
#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    /// Predicate name and whether it is negated.
    pub guard: Option<(String, bool)>,
    pub opcode: String,
    pub operands: Vec<Operand>,
    pub line: u32,
    pub source: SourceLine,
}

/// One statement of a body.
#[derive(Clone, Debug)]
pub(crate) enum Statement {
    Open,
    Close,
    Label(String),
    Targets(Vec<String>),
    Registers(Type, Vec<RegisterNames>),
    Variable(Variable),
    Instruction(Instruction),
}

/// An `.entry` or `.func` with a body.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub name: String,
    pub is_kernel: bool,
    pub params: Vec<Variable>,
    pub returns: Vec<Variable>,
    pub max_threads: Option<u32>,
    pub body: Vec<Statement>,
}

/// A whole file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unit {
    pub functions: Vec<Function>,
    pub variables: Vec<Variable>,
    /// `.file` number and path.
    pub files: Vec<(u32, String)>,
}
