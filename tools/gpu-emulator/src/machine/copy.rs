//! `cp.async`: the source is read when the copy is issued, the destination changes when the issuing lane waits for it.

use super::access::{Touch, shared_trouble};
use super::registers::lanes;
use super::shared::Visit;
use super::warp::{Flight, Warp};
use super::{Context, Stop};
use crate::fault::{Action, Fault, Limits, Memory};
use crate::ir::{Op, SHARED_WINDOW, Slot, WINDOW_BYTES};

impl Warp {
    pub(super) fn copy_start(&mut self, op: &Op, o: &[Slot], mask: u32, context: &mut Context<'_>) -> Result<(), Stop> {
        let Op::CopyAsync { bytes, sized, ignore, shared_offset, global_offset } = *op else { return Ok(()) };
        let bytes = usize::from(bytes);
        let to = self.addresses(o[0], shared_offset);
        let from = self.addresses(o[1], global_offset);
        let sizes = sized.then(|| *self.registers.word(o[2]));
        let ignored = if ignore { self.registers.predicate(o[2]) } else { 0 };
        let limit = context.shared.data.len() as u64;
        for lane in lanes(mask) {
            let window = SHARED_WINDOW..SHARED_WINDOW + WINDOW_BYTES;
            let address = if window.contains(&to[lane]) { to[lane] - SHARED_WINDOW } else { to[lane] };
            let target = Touch { lane, address, bytes, action: Action::Write, atomic: false };
            let wanted = sizes.map_or(bytes, |sizes| sizes[lane] as usize);
            let wanted = if ignored >> lane & 1 == 1 { 0 } else { wanted };
            let mut data = [0; 16];
            if wanted > 0 {
                let source = Touch { lane, address: from[lane], bytes, action: Action::Read, atomic: false };
                if source.address & (bytes as u64 - 1) != 0 {
                    return Err(Context::misaligned(source, Memory::Global));
                }
                if wanted > bytes {
                    let reason = format!("a source size of {wanted} for a copy of {bytes} bytes");
                    return Err(Stop::new(lane, move |site| Fault::Unsupported { site, reason }));
                }
                let (index, at) = context.touch_global_bytes(self.index, Touch { bytes: wanted, ..source })?;
                data[..wanted].copy_from_slice(&context.memory.allocation_mut(index).data[at..at + wanted]);
            }
            if address & (bytes as u64 - 1) != 0 {
                return Err(Context::misaligned(target, Memory::Shared));
            }
            if address.saturating_add(bytes as u64) > limit {
                let (action, bytes) = (Action::Write, bytes as u64);
                return Err(Stop::new(lane, move |site| Fault::OutOfBounds {
                    site,
                    memory: Memory::Shared,
                    action,
                    address,
                    bytes,
                    limits: Limits::Bytes(limit),
                }));
            }
            let visit = Visit { warp: self.index, lane, atomic: false };
            let departed = context.shared.depart(address as usize, bytes, visit);
            departed.map_err(|trouble| shared_trouble(target, trouble))?;
            self.flights.push(Flight { lane, group: self.committed[lane], to: address as usize, bytes, data });
        }
        Ok(())
    }

    /// Lands the copies of all but the lane's last `pending` committed groups; without a number, everything.
    pub(super) fn copy_wait(&mut self, pending: Option<u32>, mask: u32, context: &mut Context<'_>) {
        let mut kept = Vec::with_capacity(self.flights.len());
        for flight in std::mem::take(&mut self.flights) {
            let done = self.committed[flight.lane].saturating_sub(pending.unwrap_or(0));
            if mask >> flight.lane & 1 == 0 || (pending.is_some() && flight.group >= done) {
                kept.push(flight);
                continue;
            }
            let visit = Visit { warp: self.index, lane: flight.lane, atomic: false };
            context.shared.land(flight.to, &flight.data[..flight.bytes], visit);
        }
        self.flights = kept;
    }
}
