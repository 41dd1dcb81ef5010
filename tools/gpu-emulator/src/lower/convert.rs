//! `mov`, `cvt` and `cvta`.

use super::{Form, Lowerer, Reason, class_of};
use crate::ir::{Alu, BitOp, Class, Convert, Half, IntOp, LOCAL_WINDOW, Op, Preset, Rounding, SHARED_WINDOW};
use crate::ptx::ast::{Operand, Type};

impl Lowerer<'_> {
    pub(super) fn conversion(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<bool, Reason> {
        match form.name {
            "mov" => self.mov(form, operands)?,
            "cvta" => self.cvta(form, operands)?,
            "cvt" => self.cvt(form, operands)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn mov(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        let ty = form.ty()?;
        let (to, from) = (self.at(operands, 0)?, self.at(operands, 1)?);
        if let Operand::Name(name) = from
            && let "%clock" | "%clock64" | "%clock_hi" | "%globaltimer" | "%globaltimer_lo" = name.as_str()
        {
            let destination = self.destination(to, class_of(ty))?;
            self.emit(Op::Clock { double: ty.bytes() == 8 }, &[destination], &[]);
            return Ok(());
        }
        match (to, from) {
            (Operand::Vector(parts), from) => self.unpack(ty, parts, from),
            (to, Operand::Vector(parts)) => self.pack(ty, to, parts),
            _ => {
                let alu = match class_of(ty) {
                    Class::Predicate => Alu::PredicateCopy,
                    Class::Word => Alu::Bits32(BitOp::Copy),
                    Class::Double => Alu::Bits64(BitOp::Copy),
                };
                self.typed(alu, operands, &[ty; 2])
            }
        }
    }

    fn pack(&mut self, ty: Type, to: &Operand, parts: &[Operand]) -> Result<(), Reason> {
        let destination = self.destination(to, class_of(ty))?;
        let (alu, part) = match (ty.bytes(), parts.len()) {
            (8, 2) => (Alu::Pack64, Type::B32),
            (8, 4) => (Alu::Pack64x4, Type::B16),
            (4, 2) => (Alu::Pack32, Type::B16),
            _ => return Err("packing these widths is not implemented".into()),
        };
        let sources = parts.iter().map(|p| self.source(p, part)).collect::<Result<Vec<_>, _>>()?;
        self.emit(Op::Alu(alu), &[destination], &sources);
        Ok(())
    }

    fn unpack(&mut self, ty: Type, parts: &[Operand], from: &Operand) -> Result<(), Reason> {
        let source = self.source(from, ty)?;
        let alu = match (ty.bytes(), parts.len()) {
            (8, 2) => Alu::Unpack64,
            (8, 4) => Alu::Unpack64x4,
            (4, 2) => Alu::Unpack32,
            _ => return Err("unpacking these widths is not implemented".into()),
        };
        let destinations = parts.iter().map(|p| self.destination(p, Class::Word)).collect::<Result<Vec<_>, _>>()?;
        self.emit(Op::Alu(alu), &destinations, &[source]);
        Ok(())
    }

    /// Generic addresses are the windows plus the address in the space; global, constant and parameter addresses are generic.
    fn cvta(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        let window = if form.has("shared") || form.has("shared::cta") {
            SHARED_WINDOW
        } else if form.has("local") {
            LOCAL_WINDOW
        } else {
            0
        };
        let destination = self.destination(self.at(operands, 0)?, Class::Double)?;
        let source = self.source(self.at(operands, 1)?, Type::U64)?;
        let window = self.preset(Class::Double, Preset::Double(window));
        let op = if form.has("to") { IntOp::Sub } else { IntOp::Add };
        self.emit(Op::Alu(Alu::Int64(op)), &[destination], &[source, window]);
        Ok(())
    }

    fn cvt(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        let (rounding, integral) = rounding_of(form)?;
        let &[to, from] = form.types.as_slice() else { return Err("cvt wants two types".into()) };
        if let Type::Bf16x2 | Type::F16x2 = to {
            let format = if to == Type::Bf16x2 { Half::Bf16 } else { Half::F16 };
            let alu = Alu::ConvertPair { format, rounding, relu: form.has("relu") };
            return self.typed(alu, operands, &[to, Type::F32, Type::F32]);
        }
        let how = Convert {
            to,
            from,
            rounding,
            integral,
            saturate: form.has("sat"),
            flush: form.has("ftz"),
            relu: form.has("relu"),
        };
        let destination = match self.at(operands, 0)? {
            Operand::Name(_) => self.transfer(self.at(operands, 0)?, to)?,
            other => self.destination(other, class_of(to))?,
        };
        let source = self.any_source(self.at(operands, 1)?, from)?;
        let alu = quick(&how, destination.class(), source.class()).unwrap_or(Alu::Convert(how));
        self.emit(Op::Alu(alu), &[destination], &[source]);
        Ok(())
    }
}

/// The operation for a conversion that has one of its own.
fn quick(how: &Convert, to: Class, from: Class) -> Option<Alu> {
    if how.saturate || how.relu || how.flush {
        return None;
    }
    Some(match (how.to, how.from, to, from) {
        (Type::U64 | Type::S64, Type::U32, Class::Double, Class::Word) => Alu::ZeroExtend,
        (Type::U64 | Type::S64, Type::S32, Class::Double, Class::Word) => Alu::SignExtend,
        (Type::U32 | Type::S32, Type::U64 | Type::S64, Class::Word, Class::Double) => Alu::Truncate,
        (Type::F32, Type::S32, Class::Word, Class::Word) if how.rounding == Rounding::Nearest => {
            Alu::IntToF32 { signed: true }
        }
        (Type::F32, Type::U32, Class::Word, Class::Word) if how.rounding == Rounding::Nearest => {
            Alu::IntToF32 { signed: false }
        }
        (Type::F32, Type::Bf16, Class::Word, Class::Word) => Alu::Bf16ToF32,
        (Type::Bf16, Type::F32, Class::Word, Class::Word) if how.rounding == Rounding::Nearest => Alu::F32ToBf16,
        _ => return None,
    })
}

/// The rounding modifier and whether it asks for an integral value.
fn rounding_of(form: &Form<'_>) -> Result<(Rounding, bool), Reason> {
    let mut found = (Rounding::Nearest, false);
    for modifier in form.modifiers.iter().filter(|m| Type::parse(m).is_none()) {
        found = match *modifier {
            "rn" => (Rounding::Nearest, false),
            "rz" => (Rounding::Zero, false),
            "rm" => (Rounding::Down, false),
            "rp" => (Rounding::Up, false),
            "rna" => (Rounding::NearestAway, false),
            "rni" => (Rounding::Nearest, true),
            "rzi" => (Rounding::Zero, true),
            "rmi" => (Rounding::Down, true),
            "rpi" => (Rounding::Up, true),
            "sat" | "ftz" | "relu" => found,
            other => return Err(format!("the modifier '.{other}' is not implemented here")),
        };
    }
    Ok(found)
}
