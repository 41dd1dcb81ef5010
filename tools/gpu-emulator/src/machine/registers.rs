//! A warp's registers, one array of 32 lanes a register, and the helpers that apply a function to all lanes.
//!
//! Every operation computes all 32 lanes and blends the active ones in: straight loops over arrays, which the compiler vectorises.

use crate::ir::Slot;

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;

pub(crate) type Words = [u32; LANES];
pub(crate) type Doubles = [u64; LANES];

/// The three register files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registers {
    pub words: Vec<Words>,
    pub doubles: Vec<Doubles>,
    pub predicates: Vec<u32>,
}

impl Registers {
    #[inline(always)]
    pub(crate) fn word(&self, slot: Slot) -> &Words {
        &self.words[slot.index()]
    }

    #[inline(always)]
    pub(crate) fn double(&self, slot: Slot) -> &Doubles {
        &self.doubles[slot.index()]
    }

    /// A lane mask.
    #[inline(always)]
    pub(crate) fn predicate(&self, slot: Slot) -> u32 {
        let mask = self.predicates[slot.index()];
        if slot.is_negated() { !mask } else { mask }
    }

    #[inline(always)]
    pub(crate) fn set_words(&mut self, slot: Slot, value: &Words, mask: u32) {
        let register = &mut self.words[slot.index()];
        if mask == !0 {
            *register = *value;
        } else {
            for lane in 0..LANES {
                let keep = (mask >> lane & 1).wrapping_sub(1);
                register[lane] = register[lane] & keep | value[lane] & !keep;
            }
        }
    }

    #[inline(always)]
    pub(crate) fn set_doubles(&mut self, slot: Slot, value: &Doubles, mask: u32) {
        let register = &mut self.doubles[slot.index()];
        if mask == !0 {
            *register = *value;
        } else {
            for lane in 0..LANES {
                let keep = u64::from(mask >> lane & 1).wrapping_sub(1);
                register[lane] = register[lane] & keep | value[lane] & !keep;
            }
        }
    }

    #[inline(always)]
    pub(crate) fn set_predicate(&mut self, slot: Slot, value: u32, mask: u32) {
        let register = &mut self.predicates[slot.index()];
        *register = *register & !mask | value & mask;
    }

    /// A register of either integer class, widened.
    pub(crate) fn wide(&self, slot: Slot) -> Doubles {
        match slot.class() {
            crate::ir::Class::Double => *self.double(slot),
            crate::ir::Class::Word => self.word(slot).map(u64::from),
            crate::ir::Class::Predicate => {
                let mask = self.predicate(slot);
                std::array::from_fn(|lane| u64::from(mask >> lane & 1))
            }
        }
    }

    /// Writes a register of any class from 64-bit values.
    pub(crate) fn set_wide(&mut self, slot: Slot, value: &Doubles, mask: u32) {
        match slot.class() {
            crate::ir::Class::Double => self.set_doubles(slot, value, mask),
            crate::ir::Class::Word => self.set_words(slot, &value.map(|x| x as u32), mask),
            crate::ir::Class::Predicate => {
                let bits = value.iter().enumerate().fold(0, |m, (lane, &x)| m | u32::from(x != 0) << lane);
                self.set_predicate(slot, bits, mask);
            }
        }
    }
}

/// Applies `f` to all lanes of one operand.
#[inline(always)]
pub(crate) fn map1<A: Copy, R: Copy + Default>(a: &[A; LANES], f: impl Fn(A) -> R) -> [R; LANES] {
    let mut out = [R::default(); LANES];
    for lane in 0..LANES {
        out[lane] = f(a[lane]);
    }
    out
}

/// Applies `f` to all lanes of two operands.
#[inline(always)]
pub(crate) fn map2<A: Copy, B: Copy, R: Copy + Default>(
    a: &[A; LANES],
    b: &[B; LANES],
    f: impl Fn(A, B) -> R,
) -> [R; LANES] {
    let mut out = [R::default(); LANES];
    for lane in 0..LANES {
        out[lane] = f(a[lane], b[lane]);
    }
    out
}

/// Applies `f` to all lanes of three operands.
#[inline(always)]
pub(crate) fn map3<A: Copy, B: Copy, C: Copy, R: Copy + Default>(
    a: &[A; LANES],
    b: &[B; LANES],
    c: &[C; LANES],
    f: impl Fn(A, B, C) -> R,
) -> [R; LANES] {
    let mut out = [R::default(); LANES];
    for lane in 0..LANES {
        out[lane] = f(a[lane], b[lane], c[lane]);
    }
    out
}

/// The active lanes of a mask, lowest first.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let lane = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        Some(lane)
    })
}
