//! Loads and stores of all spaces, each lane checked: alignment, bounds, initialisation, races.

use super::registers::{Doubles, LANES, lanes};
use super::shared::{Trouble, Visit};
use super::warp::Warp;
use super::{Context, Stop};
use crate::fault::{Action, Fault, Limits, Memory, OtherBlock, OtherLane};
use crate::ir::{Access, Class, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, Slot, WINDOW_BYTES};
use crate::memory::race::{Other, Visitor};
use crate::ptx::ast::Space;

/// One lane's part of an access.
#[derive(Clone, Copy)]
pub(super) struct Touch {
    pub lane: usize,
    pub address: u64,
    pub bytes: usize,
    pub action: Action,
    pub atomic: bool,
}

fn in_window(address: u64, window: u64) -> bool {
    (window..window + WINDOW_BYTES).contains(&address)
}

impl Context<'_> {
    fn visitor(&self, atomic: bool) -> Visitor {
        Visitor { launch: self.memory.launches, block: self.number, atomic }
    }

    pub(super) fn misaligned(touch: Touch, memory: Memory) -> Stop {
        let Touch { lane, address, bytes, action, .. } = touch;
        Stop::new(lane, move |site| Fault::Misaligned { site, memory, action, address, bytes: bytes as u64 })
    }

    fn outside(touch: Touch, memory: Memory, limits: Limits) -> Stop {
        let Touch { lane, address, bytes, action, .. } = touch;
        Stop::new(lane, move |site| Fault::OutOfBounds { site, memory, action, address, bytes: bytes as u64, limits })
    }

    /// The allocation of a global access.
    #[inline]
    pub(super) fn locate(&mut self, touch: Touch) -> Result<usize, Stop> {
        let (address, bytes) = (touch.address, touch.bytes as u64);
        if let Some(allocation) = self.memory.allocation(self.hint)
            && address >= allocation.base
            && address.checked_add(bytes).is_some_and(|end| end <= allocation.end())
        {
            return Ok(self.hint);
        }
        match self.memory.find(address, bytes) {
            Some(index) => {
                self.hint = index;
                Ok(index)
            }
            None => {
                let limits = Limits::Allocation(self.memory.neighbour(address));
                Err(Self::outside(touch, Memory::Global, limits))
            }
        }
    }

    /// Checks a global access and answers where its bytes are: allocation and offset.
    #[inline]
    pub(super) fn touch_global(&mut self, warp: usize, touch: Touch) -> Result<(usize, usize), Stop> {
        if touch.address & (touch.bytes as u64 - 1) != 0 {
            return Err(Self::misaligned(touch, Memory::Global));
        }
        self.touch_global_bytes(warp, touch)
    }

    /// As [`Self::touch_global`], for a range of any size and alignment.
    #[inline]
    pub(super) fn touch_global_bytes(&mut self, warp: usize, touch: Touch) -> Result<(usize, usize), Stop> {
        let index = self.locate(touch)?;
        let visitor = self.visitor(touch.atomic || touch.action == Action::Atomic);
        let (order, number) = (&mut self.order, self.number);
        let allocation = self.memory.allocation_mut(index);
        let at = (touch.address - allocation.base) as usize;
        let range = at..at + touch.bytes;
        if touch.action != Action::Write && !allocation.written.all(range.clone()) {
            return Err(Warp::uninitialised(touch.lane, Memory::Global, touch.address, touch.bytes));
        }
        let excuse = |other| order.is_before(other, number);
        let race = match touch.action {
            Action::Read => allocation.races.read(range, visitor, excuse),
            Action::Write | Action::Atomic => {
                let race = allocation.races.write(range.clone(), visitor, excuse);
                allocation.written.set(range);
                race
            }
        };
        if touch.action == Action::Write {
            order.wrote(warp);
        }
        match race {
            None => Ok((index, at)),
            Some((offset, other)) => {
                let address = allocation.base + offset as u64;
                Err(self.global_race(touch, address, other))
            }
        }
    }

    #[cold]
    fn global_race(&self, touch: Touch, address: u64, other: Other) -> Stop {
        let [x, y, _] = self.config.grid;
        let other = OtherBlock(match other {
            Other::Block(n) => Some([n % x, n / x % y, n / x / y]),
            Other::Several => None,
        });
        let action = touch.action;
        Stop::new(touch.lane, move |site| Fault::GlobalRace { site, action, address, other })
    }

    /// Checks a shared access and answers the offset of its bytes.
    #[inline]
    pub(super) fn touch_shared(&mut self, warp: usize, touch: Touch) -> Result<usize, Stop> {
        if touch.address & (touch.bytes as u64 - 1) != 0 {
            return Err(Self::misaligned(touch, Memory::Shared));
        }
        let limit = self.shared.data.len() as u64;
        if touch.address.checked_add(touch.bytes as u64).is_none_or(|end| end > limit) {
            return Err(Self::outside(touch, Memory::Shared, Limits::Bytes(limit)));
        }
        let at = touch.address as usize;
        let visit = Visit { warp, lane: touch.lane, atomic: touch.atomic || touch.action == Action::Atomic };
        let found = match touch.action {
            Action::Read => self.shared.read(at, touch.bytes, visit),
            Action::Write => self.shared.write(at, touch.bytes, visit),
            // A read-modify-write is one atomic access; its read must find written bytes.
            Action::Atomic => {
                self.shared.written(at, touch.bytes).and_then(|()| self.shared.write(at, touch.bytes, visit))
            }
        };
        match found {
            Ok(()) => Ok(at),
            Err(trouble) => Err(shared_trouble(touch, trouble)),
        }
    }
}

#[cold]
pub(super) fn shared_trouble(touch: Touch, trouble: Trouble) -> Stop {
    let action = touch.action;
    match trouble {
        Trouble::Race { address, earlier, warp, lane } => Stop::new(touch.lane, move |site| Fault::SharedRace {
            site,
            action,
            address,
            earlier,
            warp,
            lane: OtherLane(lane),
        }),
        Trouble::Uninitialised { address } => Warp::uninitialised(touch.lane, Memory::Shared, address, touch.bytes),
        Trouble::InFlight { address } => Stop::new(touch.lane, move |site| Fault::UnwaitedCopy {
            site,
            what: match action {
                Action::Read => "read of a destination in flight",
                Action::Write | Action::Atomic => "write to a destination in flight",
            },
            address,
        }),
    }
}

impl Warp {
    /// The addresses of all lanes.
    #[inline(always)]
    pub(super) fn addresses(&self, base: Slot, offset: i64) -> Doubles {
        match base.class() {
            Class::Double => self.registers.double(base).map(|a| a.wrapping_add(offset as u64)),
            // Shared and local addresses may be 32 bits, and wrap there.
            _ => self.registers.word(base).map(|a| u64::from(a.wrapping_add(offset as u32))),
        }
    }

    /// The lanes whose addresses lie in each space, addresses relative to the space's start.
    fn by_space(&self, space: Space, addresses: &mut Doubles, mask: u32) -> [(Space, u32); 4] {
        let mut out = [(Space::Global, 0), (Space::Shared, 0), (Space::Local, 0), (Space::Param, 0)];
        match space {
            Space::Global | Space::Const => out[0].1 = mask,
            Space::Shared => out[1].1 = mask,
            Space::Local => out[2].1 = mask,
            Space::Param => out[3].1 = mask,
            Space::Generic => {
                for lane in lanes(mask) {
                    let windows = [0, SHARED_WINDOW, LOCAL_WINDOW, PARAM_WINDOW];
                    let which = (1..4).find(|&i| in_window(addresses[lane], windows[i])).unwrap_or(0);
                    addresses[lane] -= windows[which];
                    out[which].1 |= 1 << lane;
                }
            }
        }
        out
    }

    /// `isspacep` for all lanes.
    pub(super) fn is_space(&self, space: Space, slot: Slot) -> u32 {
        let addresses = self.registers.double(slot);
        let inside = |a: u64| match space {
            Space::Shared => in_window(a, SHARED_WINDOW),
            Space::Local => in_window(a, LOCAL_WINDOW),
            Space::Param => in_window(a, PARAM_WINDOW),
            Space::Const => false,
            _ => a < PARAM_WINDOW,
        };
        (0..LANES).fold(0, |bits, lane| bits | u32::from(inside(addresses[lane])) << lane)
    }

    pub(super) fn load(
        &mut self,
        access: &Access,
        o: &[Slot],
        mask: u32,
        context: &mut Context<'_>,
    ) -> Result<(), Stop> {
        let count = usize::from(access.count);
        let mut addresses = self.addresses(o[count], access.offset);
        let mut values = [[0u64; LANES]; 4];
        for (space, part) in self.by_space(access.space, &mut addresses, mask) {
            for lane in lanes(part) {
                let touch = Touch {
                    lane,
                    address: addresses[lane],
                    bytes: access.bytes(),
                    action: Action::Read,
                    atomic: access.atomic,
                };
                let bytes = self.bytes_of(space, touch, context)?;
                for (element, out) in values[..count].iter_mut().enumerate() {
                    out[lane] = value(&bytes[element * usize::from(access.element_bytes)..], access);
                }
            }
        }
        for (element, values) in values[..count].iter().enumerate() {
            self.registers.set_wide(o[element], values, mask);
        }
        Ok(())
    }

    /// The bytes one lane reads.
    #[inline(always)]
    fn bytes_of<'c>(&'c mut self, space: Space, touch: Touch, context: &'c mut Context<'_>) -> Result<&'c [u8], Stop> {
        match space {
            Space::Shared => {
                let at = context.touch_shared(self.index, touch)?;
                Ok(&context.shared.data[at..at + touch.bytes])
            }
            Space::Local => {
                let at = self.touch_local(touch)?;
                Ok(&self.local.data[at..at + touch.bytes])
            }
            Space::Param => {
                let at = touch.address as usize;
                match context.params.get(at..at.saturating_add(touch.bytes)) {
                    Some(bytes) if touch.address & (touch.bytes as u64 - 1) == 0 => Ok(bytes),
                    Some(_) => Err(Context::misaligned(touch, Memory::Param)),
                    None => {
                        let limits = Limits::Bytes(context.params.len() as u64);
                        Err(Context::outside(touch, Memory::Param, limits))
                    }
                }
            }
            _ => {
                let (index, at) = context.touch_global(self.index, touch)?;
                Ok(&context.memory.allocation_mut(index).data[at..at + touch.bytes])
            }
        }
    }

    fn touch_local(&mut self, touch: Touch) -> Result<usize, Stop> {
        if touch.address & (touch.bytes as u64 - 1) != 0 {
            return Err(Context::misaligned(touch, Memory::Local));
        }
        if touch.address.saturating_add(touch.bytes as u64) > self.local.bytes as u64 {
            return Err(Context::outside(touch, Memory::Local, Limits::Bytes(self.local.bytes as u64)));
        }
        let at = touch.lane * self.local.bytes + touch.address as usize;
        let range = at..at + touch.bytes;
        if touch.action == Action::Write {
            self.local.written.set(range);
        } else if !self.local.written.all(range) {
            return Err(Self::uninitialised(touch.lane, Memory::Local, touch.address, touch.bytes));
        }
        Ok(at)
    }

    pub(super) fn store(
        &mut self,
        access: &Access,
        o: &[Slot],
        mask: u32,
        context: &mut Context<'_>,
    ) -> Result<(), Stop> {
        let count = usize::from(access.count);
        let mut addresses = self.addresses(o[0], access.offset);
        let mut values = [[0u64; LANES]; 4];
        for (element, out) in values[..count].iter_mut().enumerate() {
            *out = self.registers.wide(o[1 + element]);
        }
        let size = usize::from(access.element_bytes);
        for (space, part) in self.by_space(access.space, &mut addresses, mask) {
            for lane in lanes(part) {
                let touch = Touch {
                    lane,
                    address: addresses[lane],
                    bytes: access.bytes(),
                    action: Action::Write,
                    atomic: access.atomic,
                };
                let mut bytes = [0u8; 32];
                for (element, value) in values[..count].iter().enumerate() {
                    bytes[element * size..(element + 1) * size].copy_from_slice(&value[lane].to_le_bytes()[..size]);
                }
                self.put(space, touch, &bytes[..access.bytes()], context)?;
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn put(&mut self, space: Space, touch: Touch, bytes: &[u8], context: &mut Context<'_>) -> Result<(), Stop> {
        match space {
            Space::Shared => {
                let at = context.touch_shared(self.index, touch)?;
                context.shared.data[at..at + bytes.len()].copy_from_slice(bytes);
            }
            Space::Local => {
                let at = self.touch_local(touch)?;
                self.local.data[at..at + bytes.len()].copy_from_slice(bytes);
            }
            Space::Param => return Err(Context::outside(touch, Memory::Param, Limits::Bytes(0))),
            _ => {
                let (index, at) = context.touch_global(self.index, touch)?;
                context.memory.allocation_mut(index).data[at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
        Ok(())
    }
}

/// One element of a load, extended as its type says.
#[inline(always)]
fn value(bytes: &[u8], access: &Access) -> u64 {
    match (access.element_bytes, access.signed) {
        (1, false) => u64::from(bytes[0]),
        (1, true) => bytes[0] as i8 as u64,
        (2, false) => u64::from(u16::from_le_bytes([bytes[0], bytes[1]])),
        (2, true) => i16::from_le_bytes([bytes[0], bytes[1]]) as u64,
        (4, false) => u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
        (4, true) => i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as u64,
        _ => u64::from_le_bytes(std::array::from_fn(|i| bytes[i])),
    }
}
