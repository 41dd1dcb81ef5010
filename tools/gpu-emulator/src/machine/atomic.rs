//! `atom` and `red`, lane after lane in order.

use super::access::Touch;
use super::registers::{LANES, lanes};
use super::warp::Warp;
use super::{Context, Stop};
use crate::fault::Action;
use crate::float;
use crate::ir::{Atomic, AtomicOp, FloatOp, Half, Rounding, SHARED_WINDOW, Slot, WINDOW_BYTES};
use crate::ptx::ast::{Space, Type};

impl Warp {
    pub(super) fn atomic(
        &mut self,
        atomic: &Atomic,
        o: &[Slot],
        mask: u32,
        context: &mut Context<'_>,
    ) -> Result<(), Stop> {
        let first = usize::from(atomic.returns);
        let addresses = self.addresses(o[first], atomic.offset);
        let operand = self.registers.wide(o[first + 1]);
        let swap = o.get(first + 2).map(|slot| self.registers.wide(*slot));
        let size = atomic.ty.bytes();
        let mut old = [0u64; LANES];
        for lane in lanes(mask) {
            let mut touch = Touch { lane, address: addresses[lane], bytes: size, action: Action::Atomic, atomic: true };
            let window = SHARED_WINDOW..SHARED_WINDOW + WINDOW_BYTES;
            let shared = match atomic.space {
                Space::Shared => true,
                Space::Generic if window.contains(&touch.address) => {
                    touch.address -= SHARED_WINDOW;
                    true
                }
                _ => false,
            };
            let bytes = if shared {
                let at = context.touch_shared(self.index, touch)?;
                &mut context.shared.data[at..at + size]
            } else {
                context.order.atomic(context.number, touch.address);
                let (index, at) = context.touch_global(self.index, touch)?;
                &mut context.memory.allocation_mut(index).data[at..at + size]
            };
            let mut wide = [0; 8];
            wide[..size].copy_from_slice(bytes);
            old[lane] = u64::from_le_bytes(wide);
            let new = updated(atomic, old[lane], operand[lane], swap.map_or(0, |s| s[lane]));
            bytes.copy_from_slice(&new.to_le_bytes()[..size]);
        }
        if atomic.returns {
            self.registers.set_wide(o[0], &old, mask);
        }
        Ok(())
    }
}

fn updated(atomic: &Atomic, old: u64, x: u64, swap: u64) -> u64 {
    if atomic.ty.is_float() && !matches!(atomic.op, AtomicOp::Exchange | AtomicOp::CompareSwap) {
        return float_updated(atomic, old, x);
    }
    let (signed_old, signed_x) = (float::widen(old, atomic.ty), float::widen(x, atomic.ty));
    match atomic.op {
        AtomicOp::Add => old.wrapping_add(x),
        AtomicOp::Min => signed_old.min(signed_x) as u64,
        AtomicOp::Max => signed_old.max(signed_x) as u64,
        AtomicOp::And => old & x,
        AtomicOp::Or => old | x,
        AtomicOp::Xor => old ^ x,
        AtomicOp::Exchange => x,
        AtomicOp::CompareSwap => {
            if signed_old == signed_x {
                swap
            } else {
                old
            }
        }
        AtomicOp::Increment => {
            if old >= x {
                0
            } else {
                old + 1
            }
        }
        AtomicOp::Decrement => {
            if old == 0 || old > x {
                x
            } else {
                old - 1
            }
        }
    }
}

fn float_updated(atomic: &Atomic, old: u64, x: u64) -> u64 {
    let op = match atomic.op {
        AtomicOp::Min => FloatOp::Min,
        AtomicOp::Max => FloatOp::Max,
        _ => FloatOp::Add,
    };
    let half = |format: Half, shift: u32| {
        let (a, b) =
            (float::half_to_f64(format, (old >> shift) as u16), float::half_to_f64(format, (x >> shift) as u16));
        let sum = if op == FloatOp::Add { float::add_to_odd(a, b) } else { float::binary64(op, a, b) };
        u64::from(float::f64_to_half(format, sum, Rounding::Nearest)) << shift
    };
    match atomic.ty {
        Type::F64 => float::binary64(op, f64::from_bits(old), f64::from_bits(x)).to_bits(),
        Type::F16 => half(Half::F16, 0),
        Type::Bf16 => half(Half::Bf16, 0),
        Type::F16x2 => half(Half::F16, 0) | half(Half::F16, 16),
        Type::Bf16x2 => half(Half::Bf16, 0) | half(Half::Bf16, 16),
        _ => u64::from(float::binary32(op, f32::from_bits(old as u32), f32::from_bits(x as u32)).to_bits()),
    }
}
