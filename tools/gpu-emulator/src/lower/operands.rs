//! Operands to slots.

use super::{Lowerer, Reason, Symbol, class_of};
use crate::ir::{Class, LOCAL_WINDOW, PARAM_WINDOW, Preset, Slot};
use crate::ptx::ast::{Literal, Operand, Space, Type};

/// An address operand: the register or preset that holds the base, the constant offset, and the space its symbol implies.
pub(super) struct Place {
    pub base: Slot,
    pub offset: i64,
    pub implied: Option<Space>,
}

impl Lowerer<'_> {
    /// The operand at an index, or why there is none.
    pub(super) fn at<'o>(&self, operands: &'o [Operand], index: usize) -> Result<&'o Operand, Reason> {
        operands.get(index).ok_or_else(|| format!("operand {index} is missing"))
    }

    /// A declared register of the class.
    pub(super) fn register(&mut self, name: &str, class: Class) -> Result<Slot, Reason> {
        match self.symbol(name) {
            Some(Symbol::Register(slot)) if slot.class() == class => Ok(slot),
            Some(Symbol::Register(_)) => Err(format!("the register '{name}' has another width here")),
            _ => Err(format!("'{name}' is not a register")),
        }
    }

    /// A register of whatever class it was declared with.
    fn any_register(&mut self, operand: &Operand) -> Option<Slot> {
        let Operand::Name(name) = operand else { return None };
        match self.symbol(name) {
            Some(Symbol::Register(slot)) => Some(slot),
            _ => None,
        }
    }

    /// A destination; `_` gets a register nobody reads.
    pub(super) fn destination(&mut self, operand: &Operand, class: Class) -> Result<Slot, Reason> {
        match operand {
            Operand::Blank => Ok(self.new_slot(class)),
            Operand::Name(name) => self.register(name, class),
            other => Err(format!("{other:?} as a destination")),
        }
    }

    /// A destination or source of a load or store, whose register may be wider than the type.
    pub(super) fn transfer(&mut self, operand: &Operand, ty: Type) -> Result<Slot, Reason> {
        match self.any_register(operand) {
            Some(slot) if slot.class() != Class::Predicate => Ok(slot),
            _ if matches!(operand, Operand::Blank) => Ok(self.new_slot(class_of(ty))),
            _ => self.source(operand, ty),
        }
    }

    /// A source of a type; immediates and special registers become presets.
    pub(super) fn source(&mut self, operand: &Operand, ty: Type) -> Result<Slot, Reason> {
        let class = class_of(ty);
        match operand {
            Operand::Literal(literal) => Ok(self.literal(*literal, ty)),
            Operand::Not(name) => Ok(self.register(name, Class::Predicate)?.negate()),
            Operand::Sum(name, offset) => self.symbol_value(name, *offset, class),
            Operand::Name(name) => match self.symbol(name) {
                Some(Symbol::Register(_)) => self.register(name, class),
                Some(_) => self.symbol_value(name, 0, class),
                None => self.special(name, class),
            },
            other => Err(format!("{other:?} as a source")),
        }
    }

    /// A source register of any class, as conversions take it.
    pub(super) fn any_source(&mut self, operand: &Operand, ty: Type) -> Result<Slot, Reason> {
        match self.any_register(operand) {
            Some(slot) => Ok(slot),
            None => self.source(operand, ty),
        }
    }

    /// A predicate, perhaps negated.
    pub(super) fn predicate(&mut self, operand: &Operand) -> Result<Slot, Reason> {
        self.source(operand, Type::Pred)
    }

    fn literal(&mut self, literal: Literal, ty: Type) -> Slot {
        let bits = match (literal, ty) {
            (Literal::Integer(value), _) => value as u64,
            (Literal::F32(bits), Type::F64) => f64::from(f32::from_bits(bits)).to_bits(),
            (Literal::F32(bits), _) => u64::from(bits),
            (Literal::F64(bits), Type::F32) => u64::from((f64::from_bits(bits) as f32).to_bits()),
            (Literal::F64(bits), _) => bits,
        };
        match class_of(ty) {
            Class::Double => self.preset(Class::Double, Preset::Double(bits)),
            Class::Word => {
                let keep = if ty.bytes() == 2 { 0xffff } else { 0xffff_ffff };
                self.preset(Class::Word, Preset::Word(bits as u32 & keep))
            }
            Class::Predicate if bits != 0 => self.preset(Class::Predicate, Preset::True),
            Class::Predicate => self.preset(Class::Predicate, Preset::Zero),
        }
    }

    /// The address a symbol stands for, as a value.
    fn symbol_value(&mut self, name: &str, offset: i64, class: Class) -> Result<Slot, Reason> {
        let fixed = match self.symbol(name) {
            Some(Symbol::Shared(at)) | Some(Symbol::Local(at)) => at,
            Some(Symbol::Param(at)) => PARAM_WINDOW + at,
            Some(Symbol::LocalParam(at)) => LOCAL_WINDOW + at,
            Some(Symbol::Global(variable)) => return Ok(self.preset(class, Preset::Global { variable, offset })),
            Some(Symbol::DynamicShared) if offset == 0 => return Ok(self.preset(class, Preset::DynamicShared)),
            _ => return Err(format!("'{name}' has no address")),
        };
        let value = fixed.wrapping_add(offset as u64);
        Ok(match class {
            Class::Double => self.preset(class, Preset::Double(value)),
            _ => self.preset(Class::Word, Preset::Word(value as u32)),
        })
    }

    fn special(&mut self, name: &str, class: Class) -> Result<Slot, Reason> {
        let axis = |prefix: &str| match name.strip_prefix(prefix)? {
            ".x" => Some(0),
            ".y" => Some(1),
            ".z" => Some(2),
            _ => None,
        };
        let preset = match name {
            "%laneid" => Preset::Lane,
            "%warpid" => Preset::Warp,
            "%lanemask_eq" => Preset::LaneMaskEq,
            "%lanemask_lt" => Preset::LaneMaskLt,
            "%lanemask_le" => Preset::LaneMaskLe,
            "%lanemask_gt" => Preset::LaneMaskGt,
            "%lanemask_ge" => Preset::LaneMaskGe,
            "%dynamic_smem_size" => Preset::DynamicShared,
            "%total_smem_size" => Preset::TotalShared,
            "%smid" | "%gridid" => Preset::Zero,
            _ => {
                if let Some(axis) = axis("%tid") {
                    Preset::Thread(axis)
                } else if let Some(axis) = axis("%ntid") {
                    Preset::BlockSize(axis)
                } else if let Some(axis) = axis("%ctaid") {
                    Preset::BlockIndex(axis)
                } else if let Some(axis) = axis("%nctaid") {
                    Preset::GridSize(axis)
                } else {
                    return Err(format!("the name '{name}' is not known"));
                }
            }
        };
        if name == "%dynamic_smem_size" {
            return Err("the special register '%dynamic_smem_size' is not implemented".into());
        }
        Ok(self.preset(class, preset))
    }

    /// An address operand.
    pub(super) fn place_of(&mut self, operand: &Operand) -> Result<Place, Reason> {
        let Operand::Address(base, offset) = operand else { return Err(format!("{operand:?} as an address")) };
        let offset = *offset;
        match base.as_ref() {
            Operand::Literal(Literal::Integer(at)) => {
                let base = self.preset(Class::Double, Preset::Double(*at as u64));
                Ok(Place { base, offset, implied: None })
            }
            Operand::Name(name) => match self.symbol(name) {
                Some(Symbol::Register(base)) => Ok(Place { base, offset, implied: None }),
                Some(Symbol::Param(at)) => Ok(self.fixed_place(at, offset, Some(Space::Param))),
                Some(Symbol::LocalParam(at)) => Ok(self.fixed_place(at, offset, Some(Space::Local))),
                Some(Symbol::Shared(at)) | Some(Symbol::Local(at)) => Ok(self.fixed_place(at, offset, None)),
                Some(Symbol::DynamicShared) => {
                    let base = self.preset(Class::Double, Preset::DynamicShared);
                    Ok(Place { base, offset, implied: None })
                }
                Some(Symbol::Global(variable)) => {
                    let base = self.preset(Class::Double, Preset::Global { variable, offset: 0 });
                    Ok(Place { base, offset, implied: None })
                }
                _ => Err(format!("the address '{name}' is not known")),
            },
            other => Err(format!("{other:?} as an address")),
        }
    }

    fn fixed_place(&mut self, at: u64, offset: i64, implied: Option<Space>) -> Place {
        Place { base: self.preset(Class::Double, Preset::Double(at)), offset, implied }
    }
}
