//! Loads, stores, atomics, asynchronous copies, fences.

use super::{Form, Lowerer, Reason, class_of};
use crate::ir::{Access, Atomic, AtomicOp, Class, Op, Preset, Slot};
use crate::ptx::ast::{Literal, Operand, Space, Type};

impl Lowerer<'_> {
    pub(super) fn memory(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<bool, Reason> {
        match form.name {
            "ld" | "ldu" => self.load(form, operands)?,
            "st" => self.store(form, operands)?,
            "atom" | "red" => self.atomic(form, operands)?,
            "cp" if form.has("async") => self.copy_async(form, operands)?,
            "fence" | "membar" => {
                let block = form.has("cta") && !form.has("gl") && !form.has("sys");
                self.emit(Op::Fence { device: !block }, &[], &[]);
            }
            "isspacep" => {
                let space = form.modifiers.first().and_then(|m| space_of(m)).ok_or("an unknown space")?;
                let destination = self.destination(self.at(operands, 0)?, Class::Predicate)?;
                let source = self.source(self.at(operands, 1)?, Type::U64)?;
                self.emit(Op::IsSpace(space), &[destination], &[source]);
            }
            "prefetch" | "prefetchu" if !form.has("local") && !form.has("tensormap") => {
                let (base, offset) = self.base_of(self.at(operands, 0)?)?;
                self.emit(Op::Prefetch { offset }, &[], &[base]);
            }
            "prefetch" | "applypriority" => self.emit(Op::Nop, &[], &[]),
            "createpolicy" => {
                let destination = self.destination(self.at(operands, 0)?, Class::Double)?;
                let zero = self.preset(Class::Double, Preset::Double(0));
                let alu = crate::ir::Alu::Bits64(crate::ir::BitOp::Copy);
                self.emit(Op::Alu(alu), &[destination], &[zero]);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn access(&self, form: &Form<'_>, ty: Type, parts: usize) -> Result<Access, Reason> {
        if !matches!(parts, 1 | 2 | 4) || ty.bytes() > 8 || ty == Type::Pred {
            return Err(format!("{parts} elements of {ty:?} are not implemented"));
        }
        Ok(Access {
            space: form.modifiers.iter().find_map(|m| space_of(m)).unwrap_or(Space::Generic),
            offset: 0,
            element_bytes: ty.bytes() as u8,
            count: parts as u8,
            signed: ty.is_signed(),
            atomic: ["volatile", "relaxed", "acquire", "release"].iter().any(|m| form.has(m)),
        })
    }

    fn load(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        let ty = form.ty()?;
        let single = [self.at(operands, 0)?.clone()];
        let parts: &[Operand] = if let Operand::Vector(parts) = &single[0] { parts } else { &single };
        let access = self.access(form, ty, parts.len())?;
        let destinations = parts.iter().map(|p| self.transfer(p, ty)).collect::<Result<Vec<_>, _>>()?;
        let place = self.place_of(self.at(operands, 1)?)?;
        let access = placed(access, place.offset, place.implied);
        self.emit(Op::Load(access), &destinations, &[place.base]);
        Ok(())
    }

    fn store(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        let ty = form.ty()?;
        let single = [self.at(operands, 1)?.clone()];
        let parts: &[Operand] = if let Operand::Vector(parts) = &single[0] { parts } else { &single };
        let access = self.access(form, ty, parts.len())?;
        let place = self.place_of(self.at(operands, 0)?)?;
        let mut sources = vec![place.base];
        for part in parts {
            sources.push(self.transfer(part, ty)?);
        }
        self.emit(Op::Store(placed(access, place.offset, place.implied)), &[], &sources);
        Ok(())
    }

    fn atomic(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        let ty = form.ty()?;
        let returns = form.name == "atom";
        let op = form.modifiers.iter().find_map(|m| atomic_of(m)).ok_or("an unknown atomic operation")?;
        if ty.bytes() == 16 || (form.has("v2") || form.has("v4")) {
            return Err("atomics of this width are not implemented".into());
        }
        let first = usize::from(returns);
        let destination = if returns { Some(self.destination(self.at(operands, 0)?, class_of(ty))?) } else { None };
        let place = self.place_of(self.at(operands, first)?)?;
        let mut sources = vec![place.base, self.source(self.at(operands, first + 1)?, ty)?];
        if op == AtomicOp::CompareSwap {
            sources.push(self.source(self.at(operands, first + 2)?, ty)?);
        }
        let space = form.modifiers.iter().find_map(|m| space_of(m)).unwrap_or(Space::Generic);
        let atomic = Atomic { op, ty, space, offset: place.offset, returns };
        self.emit(Op::Atomic(atomic), destination.as_slice(), &sources);
        Ok(())
    }

    fn copy_async(&mut self, form: &Form<'_>, operands: &[Operand]) -> Result<(), Reason> {
        if form.has("commit_group") {
            self.emit(Op::CopyCommit, &[], &[]);
        } else if form.has("wait_group") {
            let Operand::Literal(Literal::Integer(count)) = self.at(operands, 0)? else {
                return Err("cp.async.wait_group wants an immediate".into());
            };
            self.emit(Op::CopyWait(*count as u32), &[], &[]);
        } else if form.has("wait_all") {
            self.emit(Op::CopyWaitAll, &[], &[]);
        } else if (form.has("ca") || form.has("cg")) && !form.has("bulk") {
            self.copy_start(operands)?;
        } else {
            return Err("this form of cp.async is not implemented".into());
        }
        Ok(())
    }

    fn copy_start(&mut self, operands: &[Operand]) -> Result<(), Reason> {
        let to = self.place_of(self.at(operands, 0)?)?;
        let from = self.place_of(self.at(operands, 1)?)?;
        let Operand::Literal(Literal::Integer(bytes @ (4 | 8 | 16))) = self.at(operands, 2)? else {
            return Err("cp.async wants 4, 8 or 16 bytes".into());
        };
        let mut sources = vec![to.base, from.base];
        let (mut sized, mut ignore) = (false, false);
        if let Some(third) = operands.get(3) {
            // A fourth operand is a source size or the ignore-src predicate; behind a cache policy there is no size.
            match self.predicate(third) {
                Ok(slot) if !matches!(third, Operand::Literal(_)) => {
                    ignore = true;
                    sources.push(slot);
                }
                _ => {
                    if let Ok(size) = self.source(third, Type::U32) {
                        sized = true;
                        sources.push(size);
                    }
                }
            }
        }
        let op =
            Op::CopyAsync { bytes: *bytes as u8, sized, ignore, shared_offset: to.offset, global_offset: from.offset };
        self.emit(op, &[], &sources);
        Ok(())
    }

    /// The slot of an address that is `base + offset` in a register of its own, as matrix loads want it.
    pub(super) fn base_of(&mut self, operand: &Operand) -> Result<(Slot, i64), Reason> {
        let place = self.place_of(operand)?;
        Ok((place.base, place.offset))
    }
}

/// A parameter symbol says more than `.param` does: a called function's parameters live in local memory.
fn placed(access: Access, offset: i64, implied: Option<Space>) -> Access {
    let space = match (access.space, implied) {
        (Space::Param, Some(space)) => space,
        (Space::Param, None) => Space::Generic,
        (space, _) => space,
    };
    Access { offset, space, ..access }
}

pub(super) fn space_of(modifier: &str) -> Option<Space> {
    Some(match modifier {
        "global" => Space::Global,
        "shared" | "shared::cta" => Space::Shared,
        "local" => Space::Local,
        "param" | "param::entry" | "param::func" => Space::Param,
        "const" => Space::Const,
        _ => return None,
    })
}

fn atomic_of(modifier: &str) -> Option<AtomicOp> {
    Some(match modifier {
        "add" => AtomicOp::Add,
        "min" => AtomicOp::Min,
        "max" => AtomicOp::Max,
        "and" => AtomicOp::And,
        "or" => AtomicOp::Or,
        "xor" => AtomicOp::Xor,
        "exch" => AtomicOp::Exchange,
        "cas" => AtomicOp::CompareSwap,
        "inc" => AtomicOp::Increment,
        "dec" => AtomicOp::Decrement,
        _ => return None,
    })
}
