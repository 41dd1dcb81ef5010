//! One warp: lanes grouped by where they stand, the lowest program counter first, so that branches come together again.

use super::registers::{Doubles, LANES, Registers, lanes};
use super::{Context, Stop, alu};
use crate::fault::{Fault, Memory};
use crate::ir::{Barrier, Collective, Instr, Op, Slot};
use crate::memory::{Bitmap, POISON};

/// Instructions a warp executes before the others get a turn, so that a warp may wait for another's flag.
const TURN: u64 = 1 << 16;
/// More warp instructions in one block than any honest kernel needs here.
const RUNAWAY: u64 = 1 << 31;

/// Lanes at the same place.
#[derive(Clone, Copy, Debug)]
struct Group {
    pc: u32,
    mask: u32,
    /// They stand before a collective and wait for other lanes.
    waits: bool,
}

/// An asynchronous copy under way.
pub(super) struct Flight {
    pub lane: usize,
    /// The lane's group it belongs to, counted from zero.
    pub group: u32,
    pub to: usize,
    pub bytes: usize,
    pub data: [u8; 16],
}

/// Why a warp stops for now.
pub(super) enum Pause {
    Turn,
    Exited,
    /// At the barrier of the instruction before the warp's place.
    Barrier {
        barrier: Barrier,
        pc: u32,
    },
}

/// Each thread's own memory.
pub(super) struct Local {
    pub bytes: usize,
    pub data: Vec<u8>,
    pub written: Bitmap,
}

pub(super) struct Warp {
    pub index: usize,
    pub registers: Registers,
    pub local: Local,
    pub flights: Vec<Flight>,
    /// Groups each lane has committed.
    pub committed: [u32; LANES],
    /// Lanes that exist.
    pub all: u32,
    pub live: u32,
    groups: Vec<Group>,
}

impl Warp {
    pub(super) fn new(context: &Context<'_>, index: usize, threads: u32) -> Self {
        let code = &context.kernel.code;
        let here = threads - (index * LANES) as u32;
        let registers = Registers {
            words: vec![[0; LANES]; code.words],
            doubles: vec![[0; LANES]; code.doubles],
            predicates: vec![0; code.predicates],
        };
        let bytes = code.local_bytes;
        let local = Local { bytes, data: vec![POISON; bytes * LANES], written: Bitmap::new(bytes * LANES) };
        Warp {
            index,
            registers,
            local,
            flights: Vec::new(),
            committed: [0; LANES],
            all: if here >= 32 { !0 } else { (1 << here) - 1 },
            live: 0,
            groups: Vec::new(),
        }
    }

    /// Back to the kernel's first instruction, for the context's current block.
    pub(super) fn begin(&mut self, context: &Context<'_>) {
        for (slot, preset) in &context.kernel.code.presets {
            let value: Doubles = std::array::from_fn(|lane| context.preset(*preset, self.index, lane));
            self.registers.set_wide(*slot, &value, !0);
        }
        self.local.data.fill(POISON);
        self.local.written.clear();
        self.flights.clear();
        self.committed = [0; LANES];
        self.live = self.all;
        self.groups = vec![Group { pc: 0, mask: self.all, waits: false }];
    }

    /// Takes the runnable lanes with the lowest program counter, and the counter where others join.
    fn select(&mut self) -> Option<(u32, u32, u32)> {
        let pc = self.groups.iter().filter(|g| !g.waits).map(|g| g.pc).min()?;
        let mask = self.groups.iter().filter(|g| !g.waits && g.pc == pc).fold(0, |m, g| m | g.mask);
        self.groups.retain(|g| g.waits || g.pc != pc);
        let next = self.groups.iter().filter(|g| !g.waits).map(|g| g.pc).min().unwrap_or(u32::MAX);
        Some((pc, mask, next))
    }

    fn park(&mut self, pc: u32, mask: u32, waits: bool) {
        if mask != 0 {
            self.groups.push(Group { pc, mask, waits });
        }
    }

    /// Runs until the warp must wait for others.
    pub(super) fn run(&mut self, context: &mut Context<'_>) -> Result<Pause, Fault> {
        let kernel = context.kernel;
        let code = kernel.code.as_ref();
        let until = context.report.warp_instructions + TURN;
        'select: loop {
            let Some((mut pc, mut mask, next)) = self.select() else {
                return if self.groups.is_empty() { Ok(Pause::Exited) } else { Err(self.stuck(context)) };
            };
            loop {
                let instr = &code.instrs[pc as usize];
                let active = match instr.guard {
                    None => mask,
                    Some(slot) => mask & self.registers.predicate(slot),
                };
                context.report.warp_instructions += 1;
                context.report.thread_instructions += u64::from(active.count_ones());
                let o = code.operands(instr);
                match &instr.op {
                    Op::Alu(op) => {
                        if active != 0 {
                            alu::execute(op, o, &mut self.registers, active);
                        }
                    }
                    Op::Branch(target) => {
                        if active == mask {
                            pc = *target;
                        } else {
                            self.park(*target, active, false);
                            self.park(pc + 1, mask & !active, false);
                            continue 'select;
                        }
                        if context.report.warp_instructions > until {
                            self.park(pc, mask, false);
                            return self.turn(context, instr);
                        }
                        if pc >= next {
                            self.park(pc, mask, false);
                            continue 'select;
                        }
                        continue;
                    }
                    Op::BranchIndexed(targets) => {
                        self.branch_indexed(targets, o, active, context, instr)?;
                        self.park(pc + 1, mask & !active, false);
                        continue 'select;
                    }
                    Op::Exit => {
                        self.leave(active).map_err(|stop| self.fault(context, instr, stop))?;
                        mask &= !active;
                        if mask == 0 {
                            continue 'select;
                        }
                    }
                    Op::Barrier(barrier) => {
                        if active != 0 {
                            let waiting = self.absorb(pc);
                            let here = active | waiting;
                            if here != self.live || active != mask {
                                self.park(pc, here, true);
                                self.park(pc + 1, mask & !active, false);
                                continue 'select;
                            }
                            self.park(pc + 1, here, false);
                            return Ok(Pause::Barrier { barrier: *barrier, pc });
                        }
                    }
                    Op::Collective(op) => {
                        if active != 0 {
                            let here = active | self.absorb(pc);
                            let ready = self.collective(op, o, here, context);
                            let done = ready.map_err(|stop| self.fault(context, instr, stop))?;
                            if done != mask {
                                self.park(pc + 1, done | mask & !active, false);
                                // Those left over name other lanes, which may be among them or may have to come yet.
                                self.park(pc, here & !done, done == 0);
                                continue 'select;
                            }
                        }
                    }
                    op => {
                        if active != 0 {
                            self.memory(op, instr, o, active, context)
                                .map_err(|stop| self.fault(context, instr, stop))?;
                        }
                    }
                }
                pc += 1;
                if pc >= next {
                    self.park(pc, mask, false);
                    continue 'select;
                }
            }
        }
    }

    /// Takes the lanes that already wait at this place.
    fn absorb(&mut self, pc: u32) -> u32 {
        if self.groups.is_empty() {
            return 0;
        }
        let waiting = self.groups.iter().filter(|g| g.waits && g.pc == pc).fold(0, |m, g| m | g.mask);
        self.groups.retain(|g| !(g.waits && g.pc == pc));
        waiting
    }

    fn turn(&self, context: &Context<'_>, instr: &Instr) -> Result<Pause, Fault> {
        let instructions = context.report.warp_instructions;
        if instructions - context.begun < RUNAWAY {
            return Ok(Pause::Turn);
        }
        let lane = self.live.trailing_zeros() as usize;
        let instructions = instructions - context.begun;
        Err(Fault::Runaway { site: context.site(instr, self.index, lane), instructions })
    }

    fn fault(&self, context: &Context<'_>, instr: &Instr, stop: Stop) -> Fault {
        (stop.fault)(context.site(instr, self.index, stop.lane))
    }

    /// Lanes wait at collectives for lanes that wait elsewhere or are gone.
    #[cold]
    fn stuck(&self, context: &Context<'_>) -> Fault {
        let code = &context.kernel.code;
        let group = self.groups[0];
        let instr = &code.instrs[group.pc as usize];
        let lane = group.mask.trailing_zeros() as usize;
        let site = context.site(instr, self.index, lane);
        let places: Vec<String> = self
            .groups
            .iter()
            .map(|g| format!("lanes {:#010x} at PTX line {}", g.mask, code.instrs[g.pc as usize].line))
            .collect();
        let places = places.join(", ");
        if self.groups.iter().all(|g| matches!(code.instrs[g.pc as usize].op, Op::Barrier(_))) {
            return Fault::DivergentBarrier { site, what: format!("the warp's lanes do not come together: {places}") };
        }
        Fault::BadCollective {
            site,
            what: format!("it waits for lanes that never come; {places}, live {:#010x}", self.live),
        }
    }

    fn branch_indexed(
        &mut self,
        targets: &[u32],
        o: &[Slot],
        active: u32,
        context: &Context<'_>,
        instr: &Instr,
    ) -> Result<(), Fault> {
        let index = *self.registers.word(o[0]);
        for lane in lanes(active) {
            let Some(&target) = targets.get(index[lane] as usize) else {
                let what = format!("branch index {} of {} targets", index[lane], targets.len());
                let site = context.site(instr, self.index, lane);
                return Err(Fault::Unsupported { site, reason: what });
            };
            self.park(target, 1 << lane, false);
        }
        Ok(())
    }

    fn leave(&mut self, leaving: u32) -> Result<(), Stop> {
        if let Some(flight) = self.flights.iter().find(|f| leaving >> f.lane & 1 == 1) {
            let address = flight.to as u64;
            return Err(Stop::new(flight.lane, move |site| Fault::UnwaitedCopy {
                site,
                what: "exit before the copy was waited for",
                address,
            }));
        }
        self.live &= !leaving;
        // Those who wait, perhaps for these lanes, look again.
        self.groups.iter_mut().for_each(|group| group.waits = false);
        Ok(())
    }

    /// Everything that is neither lane-wise nor control flow nor a collective.
    fn memory(&mut self, op: &Op, instr: &Instr, o: &[Slot], mask: u32, context: &mut Context<'_>) -> Result<(), Stop> {
        match op {
            Op::Load(access) => self.load(access, o, mask, context),
            Op::Store(access) => self.store(access, o, mask, context),
            Op::Atomic(atomic) => self.atomic(atomic, o, mask, context),
            Op::CopyAsync { .. } => self.copy_start(op, o, mask, context),
            Op::CopyCommit => {
                lanes(mask).for_each(|lane| self.committed[lane] += 1);
                Ok(())
            }
            Op::CopyWait(groups) => {
                self.copy_wait(Some(*groups), mask, context);
                Ok(())
            }
            Op::CopyWaitAll => {
                self.copy_wait(None, mask, context);
                Ok(())
            }
            Op::Prefetch { offset } => self.prefetch(o[0], *offset, mask, context),
            Op::Fence { device } => {
                if *device {
                    context.order.fence(self.index);
                }
                Ok(())
            }
            Op::ActiveMask => {
                self.registers.set_words(o[0], &[mask; LANES], mask);
                Ok(())
            }
            Op::Clock { .. } => {
                let now = context.report.warp_instructions;
                self.registers.set_wide(o[0], &[now; LANES], mask);
                Ok(())
            }
            Op::IsSpace(space) => {
                let bits = self.is_space(*space, o[1]);
                self.registers.set_predicate(o[0], bits, mask);
                Ok(())
            }
            Op::Nop => Ok(()),
            Op::Trap => Err(Stop::new(mask.trailing_zeros() as usize, |site| Fault::Trap { site })),
            Op::Unsupported(reason) => {
                let reason = reason.to_string();
                Err(Stop::new(mask.trailing_zeros() as usize, |site| Fault::Unsupported { site, reason }))
            }
            Op::Alu(_) | Op::Branch(_) | Op::BranchIndexed(_) | Op::Exit | Op::Barrier(_) | Op::Collective(_) => {
                unreachable!("line {}: the run loop has these", instr.line)
            }
        }
    }

    /// Whether a collective is one that orders memory among its lanes.
    pub(super) fn sync(&self, op: &Collective, members: u32, context: &mut Context<'_>) {
        if matches!(op, Collective::WarpSync) {
            context.shared.clocks.sync_lanes(self.index, members, self.live);
        }
    }

    pub(super) fn uninitialised(lane: usize, memory: Memory, address: u64, bytes: usize) -> Stop {
        Stop::new(lane, move |site| Fault::Uninitialised { site, memory, address, bytes: bytes as u64 })
    }
}
