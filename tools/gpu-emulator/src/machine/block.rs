//! One block: its warps take turns, its barriers bring them together.

use super::Context;
use super::clocks::{Knowledge, MAX_WARPS};
use super::registers::LANES;
use super::warp::{Pause, Warp};
use crate::fault::Fault;
use crate::ir::{Barrier, BarrierKind, Instr, Slot};

/// Barriers a block has.
const BARRIERS: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    Exited,
    /// At a barrier, by its number.
    Waiting(usize),
}

/// One named barrier between its first arrival and its completion.
#[derive(Clone, Default)]
struct Arrivals {
    /// Threads needed; zero while nobody is there.
    expected: u32,
    arrived: u32,
    /// Where each warp waits: warp, operation.
    waiting: Vec<(usize, u32)>,
    joined: Knowledge,
    /// Warps that arrived, waiting or not, one bit each.
    warps: u32,
    /// Threads with a true predicate, and threads counted.
    votes: u32,
    voters: u32,
}

pub(super) struct Block {
    warps: Vec<Warp>,
    states: Vec<State>,
    barriers: [Arrivals; BARRIERS],
    threads: u32,
}

impl Block {
    pub(super) fn new(context: &Context<'_>, threads: u32) -> Self {
        let count = (threads as usize).div_ceil(LANES);
        Block {
            warps: (0..count).map(|index| Warp::new(context, index, threads)).collect(),
            states: vec![State::Ready; count],
            barriers: std::array::from_fn(|_| Arrivals::default()),
            threads,
        }
    }

    /// Runs the context's current block from start to end.
    pub(super) fn run(&mut self, context: &mut Context<'_>) -> Result<(), Fault> {
        self.barriers.fill(Arrivals::default());
        self.states.fill(State::Ready);
        self.warps.iter_mut().for_each(|warp| warp.begin(context));
        loop {
            let mut progress = false;
            for index in 0..self.warps.len() {
                while self.states[index] == State::Ready {
                    progress = true;
                    match self.warps[index].run(context)? {
                        Pause::Turn => break,
                        Pause::Exited => self.states[index] = State::Exited,
                        Pause::Barrier { barrier, pc } => self.arrive(index, barrier, pc, context)?,
                    }
                }
            }
            if self.states.iter().all(|state| *state == State::Exited) {
                return Ok(());
            }
            if !progress {
                return Err(self.deadlock(context));
            }
        }
    }

    fn arrive(&mut self, index: usize, barrier: Barrier, pc: u32, context: &mut Context<'_>) -> Result<(), Fault> {
        let instr = &context.kernel.code.instrs[pc as usize];
        let operands = context.kernel.code.operands(instr);
        let sources = &operands[usize::from(instr.destinations)..];
        let diverges = |what: String| {
            let lane = self.warps[index].live.trailing_zeros() as usize;
            Err(Fault::DivergentBarrier { site: context.site(instr, index, lane), what })
        };
        let id = match self.uniform(index, sources[0]) {
            Some(id) if (id as usize) < BARRIERS => id as usize,
            _ => return diverges("the barrier number is not one of 0 to 15 for the whole warp".into()),
        };
        let warp = &self.warps[index];
        let present = warp.live.count_ones();
        if warp.live != warp.all {
            return diverges(format!("lanes {:#010x} have exited", warp.all & !warp.live));
        }
        let expected = if barrier.counted { self.uniform(index, sources[1]) } else { Some(self.threads) };
        let Some(expected) = expected.filter(|&n| n > 0 && (!barrier.counted || n % LANES as u32 == 0)) else {
            return diverges("the thread count is not a multiple of the warp size for the whole warp".into());
        };
        let arrivals = &self.barriers[id];
        if arrivals.expected != 0 && arrivals.expected != expected {
            return diverges(format!("barrier {id} is used with {} and with {expected} threads", arrivals.expected));
        }
        if arrivals.warps >> index & 1 == 1 {
            return diverges(format!("the warp arrives at barrier {id} twice before it completes"));
        }
        if let Some((other, at)) = arrivals.waiting.iter().find(|(_, at)| !barrier.counted && *at != pc) {
            let line = context.kernel.code.instrs[*at as usize].line;
            return diverges(format!("warp {other} waits at another barrier, PTX line {line}"));
        }
        let votes = sources.last().map_or(0, |slot| self.votes(index, *slot, barrier.kind));
        let knows = context.shared.clocks.publish(index);
        let arrivals = &mut self.barriers[id];
        arrivals.expected = expected;
        arrivals.warps |= 1 << index;
        // A barrier counts warps whole, whatever a last warp lacks.
        arrivals.arrived += if barrier.counted { LANES as u32 } else { present };
        arrivals.votes += votes;
        arrivals.voters += present;
        for (joined, mine) in arrivals.joined.iter_mut().zip(&knows) {
            *joined = (*joined).max(*mine);
        }
        if barrier.kind != BarrierKind::Arrive {
            arrivals.waiting.push((index, pc));
            self.states[index] = State::Waiting(id);
        }
        if arrivals.arrived >= expected {
            self.complete(id, context);
        }
        Ok(())
    }

    /// The value of a register if all live lanes agree.
    fn uniform(&self, index: usize, slot: Slot) -> Option<u32> {
        let warp = &self.warps[index];
        let values = warp.registers.word(slot);
        let first = values[warp.live.trailing_zeros() as usize];
        super::registers::lanes(warp.live).all(|lane| values[lane] == first).then_some(first)
    }

    fn votes(&self, index: usize, slot: Slot, kind: BarrierKind) -> u32 {
        match kind {
            BarrierKind::Sync | BarrierKind::Arrive => 0,
            _ => (self.warps[index].registers.predicate(slot) & self.warps[index].live).count_ones(),
        }
    }

    fn complete(&mut self, id: usize, context: &mut Context<'_>) {
        let arrivals = std::mem::take(&mut self.barriers[id]);
        for &(index, pc) in &arrivals.waiting {
            context.shared.clocks.acquire(index, &arrivals.joined);
            self.states[index] = State::Ready;
            let instr: &Instr = &context.kernel.code.instrs[pc as usize];
            self.warps[index].reduced(instr, context, (arrivals.votes, arrivals.voters));
        }
        if arrivals.waiting.len() == self.warps.len() && context.shared.clocks.is_worn() {
            context.shared.forget_order();
        }
    }

    /// Nobody can go on: somebody waits for warps that have exited or wait elsewhere.
    #[cold]
    fn deadlock(&self, context: &Context<'_>) -> Fault {
        let code = &context.kernel.code;
        let mut parts = Vec::new();
        let mut site = None;
        let mut uncounted = false;
        for (id, arrivals) in self.barriers.iter().enumerate().filter(|(_, a)| a.expected > 0) {
            let warps: Vec<usize> = arrivals.waiting.iter().map(|(warp, _)| *warp).collect();
            parts.push(format!("barrier {id}: {} of {} threads, warps {warps:?}", arrivals.arrived, arrivals.expected));
            if let Some(&(warp, pc)) = arrivals.waiting.first() {
                let instr = &code.instrs[pc as usize];
                uncounted |= matches!(instr.op, crate::ir::Op::Barrier(Barrier { counted: false, .. }));
                site.get_or_insert_with(|| context.site(instr, warp, 0));
            }
        }
        let exited: Vec<usize> = (0..self.warps.len()).filter(|&w| self.states[w] == State::Exited).collect();
        let what = format!("{}; exited warps {exited:?}", parts.join("; "));
        let site = site.unwrap_or_else(|| context.site(&code.instrs[0], 0, 0));
        if uncounted && !exited.is_empty() {
            Fault::DivergentBarrier { site, what }
        } else {
            Fault::Deadlock { site, what }
        }
    }
}

impl Warp {
    /// Stores the result of a barrier reduction.
    fn reduced(&mut self, instr: &Instr, context: &Context<'_>, counts: (u32, u32)) {
        let crate::ir::Op::Barrier(barrier) = &instr.op else { return };
        let (votes, voters) = counts;
        let destination = || context.kernel.code.operands(instr)[0];
        match barrier.kind {
            BarrierKind::Sync | BarrierKind::Arrive => {}
            BarrierKind::ReduceCount => self.registers.set_words(destination(), &[votes; LANES], self.live),
            BarrierKind::ReduceAnd => {
                let all = if votes == voters { !0 } else { 0 };
                self.registers.set_predicate(destination(), all, self.live);
            }
            BarrierKind::ReduceOr => {
                let any = if votes > 0 { !0 } else { 0 };
                self.registers.set_predicate(destination(), any, self.live);
            }
        }
    }
}

const _: () = assert!(MAX_WARPS * LANES >= 1024, "a block's warps must fit the clocks");
