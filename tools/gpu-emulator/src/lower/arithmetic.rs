//! Integer, float, bit and predicate arithmetic, comparisons and selections.

use super::{Form, Lowerer, Reason, class_of};
use crate::ir::{
    Alu, BitOp, BoolOp, Class, Compare, CountOp, FloatMode, FloatOp, FloatUnary, Half, HalfLanes, IntOp, Op, Operands,
    PermuteMode, Rounding, ShiftOp,
};
use crate::ptx::ast::{Operand, Type};

/// Modifiers of float arithmetic that change nothing here: rounding to nearest and degrees of approximation.
const NEAREST: [&str; 8] = ["rn", "approx", "full", "ftz", "sat", "relu", "NaN", "noftz"];
/// The same with directed rounding, for the 32-bit operations that have it.
const DIRECTED: [&str; 6] = ["rn", "rz", "rm", "rp", "ftz", "sat"];

impl Lowerer<'_> {
    pub(super) fn arithmetic(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<bool, Reason> {
        let done = match form.name {
            "add" | "sub" | "mul" | "min" | "max" | "div" | "rem" | "copysign" => self.binary(form, operands),
            "and" | "or" | "xor" => self.logic(form, operands),
            "mad" | "fma" => self.multiply_add(form, operands),
            "shl" | "shr" => self.shift(form, operands),
            "not" | "neg" | "abs" | "cnot" | "brev" => self.unary(form, operands),
            "popc" | "clz" | "bfind" => self.count(form, operands),
            "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => self.function_of(form, operands),
            "lop3" => self.lop3(form, operands),
            "shf" => {
                let alu = Alu::Funnel { left: form.has("l"), clamp: form.has("clamp") };
                self.typed(alu, operands, &[Type::B32; 4])
            }
            "prmt" => {
                let mode = permute_mode(form)?;
                self.typed(Alu::Permute(mode), operands, &[Type::B32; 4])
            }
            "bfe" => self.extract(form, operands),
            "bfi" => {
                let ty = form.ty()?;
                let alu = if ty.bytes() == 8 { Alu::Insert64 } else { Alu::Insert32 };
                self.typed(alu, operands, &[ty, ty, ty, Type::U32, Type::U32])
            }
            "dp4a" => {
                let signed = |i: usize| form.types.get(i).is_some_and(|t| t.is_signed());
                self.typed(Alu::Dot4 { a_signed: signed(0), b_signed: signed(1) }, operands, &[Type::B32; 4])
            }
            "setp" | "set" => self.compare(form, operands),
            "selp" => {
                let ty = form.ty()?;
                let alu = if ty.bytes() == 8 { Alu::Select64 } else { Alu::Select32 };
                self.typed(alu, operands, &[ty, ty, ty, Type::Pred])
            }
            "slct" => {
                let &[ty, by] = form.types.as_slice() else { return Err("slct wants two types".into()) };
                if ty.bytes() == 8 {
                    return Err("slct of 64-bit values is not implemented".into());
                }
                self.typed(Alu::SelectSign { float: by == Type::F32 }, operands, &[ty, ty, ty, by])
            }
            _ => return Ok(false),
        };
        done.map(|()| true)
    }

    /// Emits a lane-wise operation whose operands have these types, the destination first.
    pub(super) fn typed(&mut self, alu: Alu, operands: &[Operand], types: &[Type]) -> Result<(), Reason> {
        if operands.len() != types.len() {
            return Err(format!("{} operands where {} are expected", operands.len(), types.len()));
        }
        let destination = self.destination(&operands[0], class_of(types[0]))?;
        let sources = operands[1..]
            .iter()
            .zip(&types[1..])
            .map(|(operand, ty)| self.source(operand, *ty))
            .collect::<Result<Vec<_>, _>>()?;
        self.emit(Op::Alu(alu), &[destination], &sources);
        Ok(())
    }

    fn binary(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        let ty = form.ty()?;
        if ty.is_float() {
            let op = float_op(form)?;
            let exact = matches!(op, FloatOp::Add | FloatOp::Sub | FloatOp::Mul);
            form.allow(if exact && ty == Type::F32 { &DIRECTED } else { &NEAREST })?;
            let alu = match ty {
                Type::F32 => Alu::Float32(op, float_mode(form)),
                Type::F64 => Alu::Float64(op),
                _ => Alu::HalfOp(op, half_lanes(ty)?, float_mode(form)),
            };
            return self.typed(alu, operands, &[ty; 3]);
        }
        form.allow(&["lo", "hi", "wide"])?;
        if form.has("wide") {
            let signed = ty.is_signed();
            return match ty.bytes() {
                2 => self.typed(Alu::MulWide16 { signed }, operands, &[Type::B32, ty, ty]),
                4 => self.typed(Alu::MulWide32 { signed }, operands, &[Type::B64, ty, ty]),
                _ => Err("this width is not implemented".into()),
            };
        }
        let op = int_op(form, ty)?;
        let alu = match ty.bytes() {
            2 => Alu::Int16(op),
            4 => Alu::Int32(op),
            8 => Alu::Int64(op),
            _ => return Err("this width is not implemented".into()),
        };
        self.typed(alu, operands, &[ty; 3])
    }

    fn logic(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        let ty = form.ty()?;
        if ty == Type::Pred {
            return self.typed(Alu::PredicateOp(bool_op(form.name)?), operands, &[ty; 3]);
        }
        let op = match form.name {
            "and" => IntOp::And,
            "or" => IntOp::Or,
            _ => IntOp::Xor,
        };
        let alu = match ty.bytes() {
            8 => Alu::Int64(op),
            4 => Alu::Int32(op),
            _ => Alu::Int16(op),
        };
        self.typed(alu, operands, &[ty; 3])
    }

    fn multiply_add(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        let ty = form.ty()?;
        if ty.is_float() {
            form.allow(if ty == Type::F32 { &DIRECTED } else { &NEAREST })?;
            let alu = match ty {
                Type::F32 => Alu::Fma32(float_mode(form)),
                Type::F64 => Alu::Fma64,
                _ => Alu::HalfFma(half_lanes(ty)?, float_mode(form)),
            };
            return self.typed(alu, operands, &[ty; 4]);
        }
        form.allow(&["lo", "hi", "wide"])?;
        let signed = ty.is_signed();
        match (form.has("wide"), form.has("hi"), ty.bytes()) {
            (true, _, 2) => self.typed(Alu::MadWide16 { signed }, operands, &[Type::B32, ty, ty, Type::B32]),
            (true, _, 4) => self.typed(Alu::MadWide32 { signed }, operands, &[Type::B64, ty, ty, Type::B64]),
            (false, true, 4) => self.typed(Alu::MadHigh { signed }, operands, &[ty; 4]),
            (false, false, 2) => self.typed(Alu::Mad16, operands, &[ty; 4]),
            (false, false, 4) => self.typed(Alu::Mad32, operands, &[ty; 4]),
            (false, false, 8) => self.typed(Alu::Mad64, operands, &[ty; 4]),
            _ => Err("this width is not implemented".into()),
        }
    }

    fn shift(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        let ty = form.ty()?;
        let op = match (form.name, ty.is_signed()) {
            ("shl", _) => ShiftOp::Left,
            (_, true) => ShiftOp::RightS,
            (_, false) => ShiftOp::RightU,
        };
        let alu = match ty.bytes() {
            8 => Alu::Shift64(op),
            4 => Alu::Shift32(op),
            _ => Alu::Shift16(op),
        };
        self.typed(alu, operands, &[ty, ty, Type::U32])
    }

    fn unary(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        let ty = form.ty()?;
        form.allow(&["ftz"])?;
        if ty == Type::Pred && form.name == "not" {
            let destination = self.destination(self.at(operands, 0)?, Class::Predicate)?;
            let source = self.predicate(self.at(operands, 1)?)?.negate();
            self.emit(Op::Alu(Alu::PredicateCopy), &[destination], &[source]);
            return Ok(());
        }
        if ty.is_float() {
            let op = if form.name == "neg" { FloatUnary::Neg } else { FloatUnary::Abs };
            return self.float_unary(op, form, operands);
        }
        let op = match form.name {
            "not" => BitOp::Not,
            "neg" => BitOp::Neg,
            "abs" => BitOp::AbsS,
            "cnot" => BitOp::LogicalNot,
            _ => BitOp::Reverse,
        };
        let alu = match ty.bytes() {
            8 => Alu::Bits64(op),
            4 => Alu::Bits32(op),
            _ => Alu::Bits16(op),
        };
        self.typed(alu, operands, &[ty; 2])
    }

    fn float_unary(&mut self, op: FloatUnary, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        let ty = form.ty()?;
        let alu = match ty {
            Type::F32 => Alu::Unary32(op, float_mode(form)),
            Type::F64 => Alu::Unary64(op),
            _ => Alu::HalfUnary(op, half_lanes(ty)?, float_mode(form)),
        };
        self.typed(alu, operands, &[ty; 2])
    }

    fn function_of(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        form.allow(&["rn", "approx", "ftz"])?;
        let op = match form.name {
            "rcp" => FloatUnary::Reciprocal,
            "sqrt" => FloatUnary::Sqrt,
            "rsqrt" => FloatUnary::ReciprocalSqrt,
            "ex2" => FloatUnary::Exp2,
            "lg2" => FloatUnary::Log2,
            "sin" => FloatUnary::Sin,
            "cos" => FloatUnary::Cos,
            _ => FloatUnary::Tanh,
        };
        self.float_unary(op, form, operands)
    }

    fn count(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        let ty = form.ty()?;
        let op = match (form.name, ty.is_signed(), form.has("shiftamt")) {
            ("popc", ..) => CountOp::Ones,
            ("clz", ..) => CountOp::LeadingZeros,
            (_, false, false) => CountOp::FindU,
            (_, false, true) => CountOp::FindShiftU,
            (_, true, false) => CountOp::FindS,
            (_, true, true) => CountOp::FindShiftS,
        };
        let alu = if ty.bytes() == 8 { Alu::Count64(op) } else { Alu::Count32(op) };
        self.typed(alu, operands, &[Type::U32, ty])
    }

    fn lop3(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        if form.has("or") || form.has("and") {
            return Err("lop3 with a predicate result is not implemented".into());
        }
        let Some(Operand::Literal(crate::ptx::ast::Literal::Integer(table))) = operands.get(4) else {
            return Err("lop3 wants an immediate table".into());
        };
        self.typed(Alu::Logic3(*table as u8), &operands[..4], &[Type::B32; 4])
    }

    fn extract(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        let ty = form.ty()?;
        let signed = ty.is_signed();
        let alu = if ty.bytes() == 8 { Alu::Extract64 { signed } } else { Alu::Extract32 { signed } };
        self.typed(alu, operands, &[ty, ty, Type::U32, Type::U32])
    }

    fn compare(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        let ty = form.ty()?;
        let compare = form.modifiers.iter().find_map(|m| compare_of(m)).ok_or("an unknown comparison")?;
        // On integers the unordered forms do not exist; `ne` is then the plain one.
        let compare = if compare == Compare::Ne && !ty.is_float() { Compare::NeU } else { compare };
        let kind = compared(form, ty)?;
        let combine = form.modifiers.iter().find_map(|m| bool_op(m).ok());
        let mut sources = vec![self.source(self.at(operands, 1)?, ty)?, self.source(self.at(operands, 2)?, ty)?];
        if combine.is_some() {
            sources.push(self.predicate(self.at(operands, 3)?)?);
        }
        if form.name == "set" {
            let to = form.types.first().copied().unwrap_or(ty);
            let alu = Alu::CompareTo { compare, operands: kind, combine, float: to == Type::F32 };
            let destination = self.destination(self.at(operands, 0)?, class_of(to))?;
            self.emit(Op::Alu(alu), &[destination], &sources);
            return Ok(());
        }
        let destinations = match self.at(operands, 0)? {
            Operand::Pair(p, q) => {
                vec![self.destination(p, Class::Predicate)?, self.destination(q, Class::Predicate)?]
            }
            one => vec![self.destination(one, Class::Predicate)?],
        };
        self.emit(Op::Alu(Alu::Compare { compare, operands: kind, combine }), &destinations, &sources);
        Ok(())
    }
}

fn float_mode(form: &Form<'_>) -> FloatMode {
    let rounding = match () {
        () if form.has("rz") => Rounding::Zero,
        () if form.has("rm") => Rounding::Down,
        () if form.has("rp") => Rounding::Up,
        () => Rounding::Nearest,
    };
    FloatMode { flush: form.has("ftz"), saturate: form.has("sat"), relu: form.has("relu"), rounding }
}

fn half_lanes(ty: Type) -> Result<HalfLanes, Reason> {
    Ok(match ty {
        Type::F16 => HalfLanes { format: Half::F16, packed: false },
        Type::F16x2 => HalfLanes { format: Half::F16, packed: true },
        Type::Bf16 => HalfLanes { format: Half::Bf16, packed: false },
        Type::Bf16x2 => HalfLanes { format: Half::Bf16, packed: true },
        other => return Err(format!("arithmetic on {other:?} is not implemented")),
    })
}

fn float_op(form: &Form<'_>) -> Result<FloatOp, Reason> {
    Ok(match (form.name, form.has("NaN")) {
        ("add", _) => FloatOp::Add,
        ("sub", _) => FloatOp::Sub,
        ("mul", _) => FloatOp::Mul,
        ("div", _) => FloatOp::Div,
        ("min", false) => FloatOp::Min,
        ("max", false) => FloatOp::Max,
        ("min", true) => FloatOp::MinNan,
        ("max", true) => FloatOp::MaxNan,
        ("copysign", _) => FloatOp::CopySign,
        _ => return Err("this float operation is not implemented".into()),
    })
}

fn int_op(form: &Form<'_>, ty: Type) -> Result<IntOp, Reason> {
    Ok(match (form.name, ty.is_signed()) {
        ("add", _) => IntOp::Add,
        ("sub", _) => IntOp::Sub,
        ("mul", true) if form.has("hi") => IntOp::MulHighS,
        ("mul", false) if form.has("hi") => IntOp::MulHighU,
        ("mul", _) => IntOp::Mul,
        ("min", true) => IntOp::MinS,
        ("min", false) => IntOp::MinU,
        ("max", true) => IntOp::MaxS,
        ("max", false) => IntOp::MaxU,
        ("div", true) => IntOp::DivS,
        ("div", false) => IntOp::DivU,
        ("rem", true) => IntOp::RemS,
        ("rem", false) => IntOp::RemU,
        _ => return Err("this integer operation is not implemented".into()),
    })
}

fn bool_op(name: &str) -> Result<BoolOp, Reason> {
    Ok(match name {
        "and" => BoolOp::And,
        "or" => BoolOp::Or,
        "xor" => BoolOp::Xor,
        _ => return Err(format!("'{name}' is not a logic operation")),
    })
}

fn compare_of(name: &str) -> Option<Compare> {
    Some(match name {
        "eq" => Compare::Eq,
        "ne" => Compare::Ne,
        "lt" | "lo" => Compare::Lt,
        "le" | "ls" => Compare::Le,
        "gt" | "hi" => Compare::Gt,
        "ge" | "hs" => Compare::Ge,
        "equ" => Compare::EqU,
        "neu" => Compare::NeU,
        "ltu" => Compare::LtU,
        "leu" => Compare::LeU,
        "gtu" => Compare::GtU,
        "geu" => Compare::GeU,
        "num" => Compare::Num,
        "nan" => Compare::Nan,
        _ => return None,
    })
}

fn compared(form: &Form<'_>, ty: Type) -> Result<Operands, Reason> {
    Ok(match ty {
        Type::F32 => Operands::F32 { flush: form.has("ftz") },
        Type::F64 => Operands::F64,
        Type::F16 => Operands::Half(Half::F16),
        Type::Bf16 => Operands::Half(Half::Bf16),
        other if other.is_float() => return Err(format!("comparing {other:?} is not implemented")),
        other if other.is_signed() => Operands::Signed(other.bytes() as u8),
        other => Operands::Unsigned(other.bytes() as u8),
    })
}

fn permute_mode(form: &Form<'_>) -> Result<PermuteMode, Reason> {
    Ok(match form.modifiers.iter().find(|m| Type::parse(m).is_none()) {
        None => PermuteMode::Index,
        Some(&"f4e") => PermuteMode::Forward4,
        Some(&"b4e") => PermuteMode::Backward4,
        Some(&"rc8") => PermuteMode::Replicate8,
        Some(&"ecl") => PermuteMode::EdgeLeft,
        Some(&"ecr") => PermuteMode::EdgeRight,
        Some(&"rc16") => PermuteMode::Replicate16,
        Some(other) => return Err(format!("the permute mode '{other}' is not known")),
    })
}
