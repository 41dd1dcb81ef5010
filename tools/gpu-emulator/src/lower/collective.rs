//! Warp collectives and matrix instructions.

use super::memory::space_of;
use super::{Form, Lowerer, Reason, class_of};
use crate::ir::{Class, Collective, Half, Mma, Op, ReduxOp, ShuffleMode, Slot, VoteMode};
use crate::ptx::ast::{Operand, Space, Type};

impl Lowerer<'_> {
    pub(super) fn collective(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<bool, Reason> {
        match form.name {
            "shfl" => self.shuffle(form, operands)?,
            "vote" => self.vote(form, operands)?,
            "match" => self.matching(form, operands)?,
            "redux" => self.redux(form, operands)?,
            "bar" if form.has("warp") => {
                let mask = self.source(self.at(operands, 0)?, Type::B32)?;
                self.emit(Op::Collective(Collective::WarpSync), &[], &[mask]);
            }
            "activemask" => {
                let destination = self.destination(self.at(operands, 0)?, Class::Word)?;
                self.emit(Op::ActiveMask, &[destination], &[]);
            }
            "ldmatrix" => self.load_matrix(form, operands)?,
            "mma" => self.mma(form, operands)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// One destination, or a value and a predicate.
    fn reported(&mut self, operand: &Operand, class: Class) -> Result<Vec<Slot>, Reason> {
        Ok(match operand {
            Operand::Pair(value, flag) => {
                vec![self.destination(value, class)?, self.destination(flag, Class::Predicate)?]
            }
            one => vec![self.destination(one, class)?],
        })
    }

    fn words(&mut self, operands: &[Operand]) -> Result<Vec<Slot>, Reason> {
        operands.iter().map(|operand| self.source(operand, Type::B32)).collect()
    }

    fn shuffle(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        if !form.has("sync") {
            return Err("shfl without .sync is not implemented".into());
        }
        let mode = match form.modifiers.get(1) {
            Some(&"up") => ShuffleMode::Up,
            Some(&"down") => ShuffleMode::Down,
            Some(&"bfly") => ShuffleMode::Butterfly,
            Some(&"idx") => ShuffleMode::Index,
            _ => return Err("an unknown shuffle mode".into()),
        };
        let destinations = self.reported(self.at(operands, 0)?, Class::Word)?;
        self.at(operands, 4)?;
        let sources = self.words(&operands[1..])?;
        let op = Collective::Shuffle { mode, reports: destinations.len() == 2 };
        self.emit(Op::Collective(op), &destinations, &sources);
        Ok(())
    }

    fn vote(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        let (mode, class) = match form.modifiers.get(1) {
            Some(&"all") => (VoteMode::All, Class::Predicate),
            Some(&"any") => (VoteMode::Any, Class::Predicate),
            Some(&"uni") => (VoteMode::Uniform, Class::Predicate),
            Some(&"ballot") => (VoteMode::Ballot, Class::Word),
            _ => return Err("an unknown vote mode, or no .sync".into()),
        };
        let destination = self.destination(self.at(operands, 0)?, class)?;
        let vote = self.predicate(self.at(operands, 1)?)?;
        let mask = self.source(self.at(operands, 2)?, Type::B32)?;
        self.emit(Op::Collective(Collective::Vote(mode)), &[destination], &[vote, mask]);
        Ok(())
    }

    fn matching(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        let ty = form.ty()?;
        let double = ty.bytes() == 8;
        let destinations = self.reported(self.at(operands, 0)?, Class::Word)?;
        let value = self.source(self.at(operands, 1)?, ty)?;
        let mask = self.source(self.at(operands, 2)?, Type::B32)?;
        let op = if form.has("any") {
            Collective::MatchAny { double }
        } else {
            Collective::MatchAll { double, reports: destinations.len() == 2 }
        };
        self.emit(Op::Collective(op), &destinations, &[value, mask]);
        Ok(())
    }

    fn redux(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        let signed = form.ty()?.is_signed();
        let op = match (form.modifiers.get(1), signed) {
            (Some(&"add"), _) => ReduxOp::Add,
            (Some(&"and"), _) => ReduxOp::And,
            (Some(&"or"), _) => ReduxOp::Or,
            (Some(&"xor"), _) => ReduxOp::Xor,
            (Some(&"min"), true) => ReduxOp::MinS,
            (Some(&"min"), false) => ReduxOp::MinU,
            (Some(&"max"), true) => ReduxOp::MaxS,
            (Some(&"max"), false) => ReduxOp::MaxU,
            _ => return Err("an unknown reduction".into()),
        };
        let destination = self.destination(self.at(operands, 0)?, Class::Word)?;
        self.at(operands, 2)?;
        let sources = self.words(&operands[1..3])?;
        self.emit(Op::Collective(Collective::Redux(op)), &[destination], &sources);
        Ok(())
    }

    fn load_matrix(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        if !form.has("m8n8") || form.ty()?.bytes() != 2 {
            return Err("this shape of ldmatrix is not implemented".into());
        }
        let single = [self.at(operands, 0)?.clone()];
        let parts: &[Operand] = if let Operand::Vector(parts) = &single[0] { parts } else { &single };
        let destinations = parts.iter().map(|p| self.destination(p, Class::Word)).collect::<Result<Vec<_>, _>>()?;
        let (base, offset) = self.base_of(self.at(operands, 1)?)?;
        let space = form.modifiers.iter().find_map(|m| space_of(m)).unwrap_or(Space::Generic);
        let count = destinations.len() as u8;
        if !matches!(destinations.len(), 1 | 2 | 4) {
            return Err("ldmatrix wants 1, 2 or 4 registers".into());
        }
        let op = Collective::LoadMatrix { count, transposed: form.has("trans"), space, offset };
        self.emit(Op::Collective(op), &destinations, &[base]);
        Ok(())
    }

    fn mma(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        let (mma, lengths) = mma_of(form)?;
        let mut slots = Vec::new();
        for (operand, length) in operands.iter().zip(lengths) {
            let single = std::slice::from_ref(operand);
            let parts: &[Operand] = if let Operand::Vector(parts) = operand { parts } else { single };
            if parts.len() != length {
                return Err(format!("a fragment of {} registers where {length} are expected", parts.len()));
            }
            if slots.is_empty() {
                for part in parts {
                    slots.push(self.destination(part, class_of(Type::B32))?);
                }
            } else {
                slots.extend(self.words(parts)?);
            }
        }
        if slots.len() != lengths.iter().sum::<usize>() {
            return Err("mma wants four fragments".into());
        }
        let (destinations, sources) = slots.split_at(lengths[0]);
        self.emit(Op::Collective(Collective::Mma(mma)), destinations, sources);
        Ok(())
    }
}

/// The matrix operation and how many registers d, a, b and c take.
fn mma_of(form: &Form<'_>) -> Result<(Mma, [usize; 4]), Reason> {
    let &[d, a, b, c] = form.types.as_slice() else { return Err("mma wants four types".into()) };
    if !form.has("row") || !form.has("col") || d != c {
        return Err("this layout of mma is not implemented".into());
    }
    let shape = form.modifiers.iter().find(|m| m.starts_with('m') && m.contains('n')).copied().unwrap_or_default();
    let f16_result = d == Type::F16;
    let accumulators = if f16_result { 2 } else { 4 };
    let format = match a {
        Type::Bf16 => Some(Half::Bf16),
        Type::F16 => Some(Half::F16),
        _ => None,
    };
    let eight_bits = |ty| matches!(ty, Type::S8 | Type::U8);
    Ok(match (shape, format) {
        ("m16n8k16", Some(format)) if a == b => {
            (Mma::Half16 { format, f16_result }, [accumulators, 4, 2, accumulators])
        }
        ("m16n8k8", Some(format)) if a == b => (Mma::Half8 { format, f16_result }, [accumulators, 2, 1, accumulators]),
        ("m16n8k8", None) if a == Type::Tf32 && b == a => (Mma::Tf32K8, [4, 4, 2, 4]),
        ("m16n8k4", None) if a == Type::Tf32 && b == a => (Mma::Tf32K4, [4, 2, 1, 4]),
        ("m16n8k32" | "m16n8k16", None) if eight_bits(a) && eight_bits(b) && d == Type::S32 => {
            let k32 = shape == "m16n8k32";
            let saturate = form.has("satfinite");
            let mma = Mma::Int8 { k32, a_signed: a.is_signed(), b_signed: b.is_signed(), saturate };
            (mma, if k32 { [4, 4, 2, 4] } else { [4, 2, 1, 4] })
        }
        _ => return Err("this shape of mma is not implemented".into()),
    })
}
