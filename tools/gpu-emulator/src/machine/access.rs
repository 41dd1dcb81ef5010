//! Loads and stores of all spaces, every lane checked: alignment, bounds, initialisation, races.
//!
//! Lanes whose addresses follow each other are checked as one range. If the range fails, its lanes are checked one by one, so that
//! the fault names the right one.

use super::registers::{Doubles, LANES, lanes};
use super::shared::{LaneWords, Trouble, Visit};
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

/// Lanes of an access whose addresses follow each other, or are all the same.
struct Run {
    start: u64,
    end: u64,
    lanes: u32,
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

    pub(super) fn outside(touch: Touch, memory: Memory, limits: Limits) -> Stop {
        let Touch { lane, address, bytes, action, .. } = touch;
        Stop::new(lane, move |site| Fault::OutOfBounds { site, memory, action, address, bytes: bytes as u64, limits })
    }

    /// The allocation of a global access.
    #[inline]
    fn locate(&mut self, touch: Touch) -> Result<usize, Stop> {
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
            None => Err(Self::outside(touch, Memory::Global, Limits::Allocation(self.memory.neighbour(address)))),
        }
    }

    /// Checks an aligned global access and answers where its bytes are: allocation and offset.
    #[inline]
    pub(super) fn touch_global(&mut self, warp: usize, touch: Touch) -> Result<(usize, usize), Stop> {
        if touch.address & (touch.bytes as u64 - 1) != 0 {
            return Err(Self::misaligned(touch, Memory::Global));
        }
        self.touch_global_bytes(warp, touch)
    }

    /// As [`Self::touch_global`], for a range of any size and alignment.
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
    #[inline(always)]
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

/// Takes the next run of lanes out of `rest`.
#[inline(always)]
fn next_run(addresses: &Doubles, bytes: u64, rest: &mut u32, repeats: bool) -> Run {
    let first = rest.trailing_zeros() as usize;
    let start = addresses[first];
    let mut run = Run { start, end: start.wrapping_add(bytes), lanes: 1 << first };
    let mut last = start;
    *rest &= *rest - 1;
    while *rest != 0 {
        let lane = rest.trailing_zeros() as usize;
        let address = addresses[lane];
        if address == run.end {
            run.end = run.end.wrapping_add(bytes);
        } else if !(repeats && address == last) {
            break;
        }
        last = address;
        run.lanes |= 1 << lane;
        *rest &= *rest - 1;
    }
    run
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

    /// Calls `part` for each space that lanes address, with the addresses relative to the space's start.
    #[inline(always)]
    fn by_space(
        space: Space,
        addresses: &mut Doubles,
        mask: u32,
        mut part: impl FnMut(Space, &Doubles, u32) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        if space != Space::Generic {
            return part(space, addresses, mask);
        }
        let windows = [(Space::Shared, SHARED_WINDOW), (Space::Local, LOCAL_WINDOW), (Space::Param, PARAM_WINDOW)];
        let mut rest = mask;
        for (space, window) in windows {
            let inside = lanes(rest).filter(|&l| in_window(addresses[l], window)).fold(0u32, |m, l| m | 1 << l);
            if inside != 0 {
                lanes(inside).for_each(|lane| addresses[lane] -= window);
                part(space, addresses, inside)?;
                rest &= !inside;
            }
        }
        if rest == 0 { Ok(()) } else { part(Space::Global, addresses, rest) }
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
        let touch = Touch { lane: 0, address: 0, bytes: access.bytes(), action: Action::Read, atomic: access.atomic };
        Self::by_space(access.space, &mut addresses, mask, |space, addresses, part| match space {
            Space::Shared => {
                self.touch_shared_lanes(touch, addresses, part, context)?;
                for lane in lanes(part) {
                    let at = addresses[lane] as usize;
                    self.take(access, &o[..count], lane, &context.shared.data[at..at + touch.bytes]);
                }
                Ok(())
            }
            Space::Local => {
                for lane in lanes(part) {
                    let at = self.touch_local(Touch { lane, address: addresses[lane], ..touch })?;
                    let mut bytes = [0; 32];
                    bytes[..touch.bytes].copy_from_slice(&self.local.data[at..at + touch.bytes]);
                    self.take(access, &o[..count], lane, &bytes[..touch.bytes]);
                }
                Ok(())
            }
            Space::Param => {
                for lane in lanes(part) {
                    let bytes = param_bytes(Touch { lane, address: addresses[lane], ..touch }, context.params)?;
                    self.take(access, &o[..count], lane, bytes);
                }
                Ok(())
            }
            _ => self.each_run(touch, addresses, part, context, |warp, run, data| {
                for lane in lanes(run.lanes) {
                    let at = (addresses[lane] - run.start) as usize;
                    warp.take(access, &o[..count], lane, &data[at..at + touch.bytes]);
                }
            }),
        })
    }

    /// Checks shared lanes, all at once if they access whole words inside the memory.
    #[inline(always)]
    fn touch_shared_lanes(
        &self,
        touch: Touch,
        addresses: &Doubles,
        part: u32,
        context: &mut Context<'_>,
    ) -> Result<(), Stop> {
        let last = (context.shared.data.len() as u64).checked_sub(touch.bytes as u64);
        let (mut any, mut highest) = (0, 0);
        for lane in lanes(part) {
            any |= addresses[lane];
            highest = highest.max(addresses[lane]);
        }
        let aligned = (touch.bytes | any as usize) & 3 == 0 && any & (touch.bytes as u64 - 1) == 0;
        if !aligned || last.is_none_or(|last| highest > last) {
            return lanes(part).try_for_each(|lane| {
                context.touch_shared(self.index, Touch { lane, address: addresses[lane], ..touch }).map(|_| ())
            });
        }
        let words = touch.bytes / 4;
        let access = LaneWords { addresses, words, lanes: part, warp: self.index, atomic: touch.atomic };
        let found = match touch.action {
            Action::Read => context.shared.read_lanes(&access),
            Action::Write | Action::Atomic => context.shared.write_lanes(&access),
        };
        found.map_err(|(lane, trouble)| shared_trouble(Touch { lane, address: addresses[lane], ..touch }, trouble))
    }

    /// Checks global lanes run by run and gives `f` the bytes of each.
    #[inline(always)]
    fn each_run(
        &mut self,
        touch: Touch,
        addresses: &Doubles,
        part: u32,
        context: &mut Context<'_>,
        f: impl Fn(&mut Warp, &Run, &mut [u8]),
    ) -> Result<(), Stop> {
        let mut rest = part;
        while rest != 0 {
            let run = next_run(addresses, touch.bytes as u64, &mut rest, touch.action == Action::Read);
            let lane = run.lanes.trailing_zeros() as usize;
            let bytes = run.end.wrapping_sub(run.start) as usize;
            let whole = Touch { lane, address: run.start, bytes, ..touch };
            let aligned = run.start & (touch.bytes as u64 - 1) == 0;
            let found = if aligned { context.touch_global_bytes(self.index, whole).ok() } else { None };
            let Some((index, at)) = found else {
                return Err(self.first_fault(touch, addresses, run.lanes, context));
            };
            f(self, &run, &mut context.memory.allocation_mut(index).data[at..at + bytes]);
        }
        Ok(())
    }

    /// A run failed: finds the lane to blame.
    #[cold]
    fn first_fault(&mut self, touch: Touch, addresses: &Doubles, run: u32, context: &mut Context<'_>) -> Stop {
        for lane in lanes(run) {
            let single = Touch { lane, address: addresses[lane], ..touch };
            if let Err(stop) = context.touch_global(self.index, single) {
                return stop;
            }
        }
        let lane = run.trailing_zeros() as usize;
        let limits = Limits::Allocation(context.memory.neighbour(addresses[lane]));
        Context::outside(Touch { lane, address: addresses[lane], ..touch }, Memory::Global, limits)
    }

    /// Stores one lane's loaded bytes into its registers.
    #[inline(always)]
    fn take(&mut self, access: &Access, o: &[Slot], lane: usize, bytes: &[u8]) {
        for (element, slot) in o.iter().enumerate() {
            let value = value(&bytes[element * usize::from(access.element_bytes)..], access);
            match slot.class() {
                Class::Double => self.registers.doubles[slot.index()][lane] = value,
                _ => self.registers.words[slot.index()][lane] = value as u32,
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
        let mut addresses = self.addresses(o[0], access.offset);
        let touch = Touch { lane: 0, address: 0, bytes: access.bytes(), action: Action::Write, atomic: access.atomic };
        Self::by_space(access.space, &mut addresses, mask, |space, addresses, part| match space {
            Space::Shared => {
                self.touch_shared_lanes(touch, addresses, part, context)?;
                for lane in lanes(part) {
                    let at = addresses[lane] as usize;
                    self.give(access, &o[1..], lane, &mut context.shared.data[at..at + touch.bytes]);
                }
                Ok(())
            }
            Space::Local => {
                for lane in lanes(part) {
                    let at = self.touch_local(Touch { lane, address: addresses[lane], ..touch })?;
                    let mut bytes = [0; 32];
                    self.give(access, &o[1..], lane, &mut bytes[..touch.bytes]);
                    self.local.data[at..at + touch.bytes].copy_from_slice(&bytes[..touch.bytes]);
                }
                Ok(())
            }
            Space::Param => {
                let lane = part.trailing_zeros() as usize;
                let touch = Touch { lane, address: addresses[lane], ..touch };
                Err(Context::outside(touch, Memory::Param, Limits::Bytes(0)))
            }
            _ => self.each_run(touch, addresses, part, context, |warp, run, data| {
                for lane in lanes(run.lanes) {
                    let at = (addresses[lane] - run.start) as usize;
                    warp.give(access, &o[1..], lane, &mut data[at..at + touch.bytes]);
                }
            }),
        })
    }

    /// Nothing is fetched, but a hint outside every allocation is a wrong address.
    pub(super) fn prefetch(
        &mut self,
        base: Slot,
        offset: i64,
        mask: u32,
        context: &mut Context<'_>,
    ) -> Result<(), Stop> {
        let addresses = self.addresses(base, offset);
        lanes(mask).try_for_each(|lane| {
            let touch = Touch { lane, address: addresses[lane], bytes: 1, action: Action::Read, atomic: false };
            context.locate(touch).map(|_| ())
        })
    }

    /// Takes one lane's bytes to store from its registers.
    #[inline(always)]
    fn give(&self, access: &Access, o: &[Slot], lane: usize, bytes: &mut [u8]) {
        let size = usize::from(access.element_bytes);
        for (slot, out) in o.iter().zip(bytes.chunks_exact_mut(size)) {
            let value = match slot.class() {
                Class::Double => self.registers.doubles[slot.index()][lane],
                _ => u64::from(self.registers.words[slot.index()][lane]),
            };
            match out.len() {
                4 => out.copy_from_slice(&(value as u32).to_le_bytes()),
                8 => out.copy_from_slice(&value.to_le_bytes()),
                2 => out.copy_from_slice(&(value as u16).to_le_bytes()),
                _ => out[0] = value as u8,
            }
        }
    }
}

/// The bytes of the parameter block one lane reads.
fn param_bytes(touch: Touch, params: &[u8]) -> Result<&[u8], Stop> {
    let at = touch.address as usize;
    match params.get(at..at.saturating_add(touch.bytes)) {
        Some(bytes) if touch.address & (touch.bytes as u64 - 1) == 0 => Ok(bytes),
        Some(_) => Err(Context::misaligned(touch, Memory::Param)),
        None => Err(Context::outside(touch, Memory::Param, Limits::Bytes(params.len() as u64))),
    }
}

/// One element of a load, extended as its type says.
#[inline(always)]
fn value(bytes: &[u8], access: &Access) -> u64 {
    fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
        bytes.first_chunk().copied().unwrap_or([0; N])
    }
    match (access.element_bytes, access.signed) {
        (4, false) => u64::from(u32::from_le_bytes(first(bytes))),
        (4, true) => i32::from_le_bytes(first(bytes)) as u64,
        (2, false) => u64::from(u16::from_le_bytes(first(bytes))),
        (2, true) => i16::from_le_bytes(first(bytes)) as u64,
        (1, false) => u64::from(bytes[0]),
        (1, true) => bytes[0] as i8 as u64,
        _ => u64::from_le_bytes(first(bytes)),
    }
}
