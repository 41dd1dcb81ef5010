//! Warp collectives: who must be there, and what each computes.

use super::registers::{LANES, Words, lanes};
use super::warp::Warp;
use super::{Context, Stop};
use crate::ir::{Collective, ReduxOp, ShuffleMode, Slot, VoteMode};

impl Warp {
    /// Executes the collective for lanes that are all `here`, if everybody it needs is; answers who took part.
    pub(super) fn collective(
        &mut self,
        op: &Collective,
        o: &[Slot],
        here: u32,
        context: &mut Context<'_>,
    ) -> Result<u32, Stop> {
        let first = here.trailing_zeros() as usize;
        let need = if op.is_aligned() { !0 } else { self.registers.word(o[o.len() - 1])[first] };
        if need >> first & 1 == 0 {
            return Err(Stop::collective(first, format!("the member mask {need:#010x} lacks the executing lane")));
        }
        if need & !self.live != 0 {
            let gone = need & !self.live;
            return Err(Stop::collective(
                first,
                format!("it names lanes {gone:#010x}, which have exited or never were"),
            ));
        }
        if here & need != need {
            return Ok(0);
        }
        if !op.is_aligned() {
            let masks = self.registers.word(o[o.len() - 1]);
            if let Some(other) = lanes(need).find(|&lane| masks[lane] != need) {
                let what = format!("lanes {first} and {other} name {need:#010x} and {:#010x}", masks[other]);
                return Err(Stop::collective(first, what));
            }
        }
        self.apply(op, o, need, context)?;
        self.sync(op, need, context);
        Ok(need)
    }

    fn apply(&mut self, op: &Collective, o: &[Slot], mask: u32, context: &mut Context<'_>) -> Result<(), Stop> {
        match op {
            Collective::Shuffle { mode, reports } => return self.shuffle(*mode, *reports, o, mask),
            Collective::Vote(mode) => self.vote(*mode, o, mask),
            Collective::MatchAny { double } => {
                let values = self.keys(*double, o[1]);
                let same = |lane: usize| lanes(mask).filter(|&l| values[l] == values[lane]).fold(0, |m, l| m | 1 << l);
                let out: Words = std::array::from_fn(|lane| if mask >> lane & 1 == 1 { same(lane) } else { 0 });
                self.registers.set_words(o[0], &out, mask);
            }
            Collective::MatchAll { double, reports } => {
                let values = self.keys(*double, o[1 + usize::from(*reports)]);
                let first = values[mask.trailing_zeros() as usize];
                let all = lanes(mask).all(|lane| values[lane] == first);
                self.registers.set_words(o[0], &[if all { mask } else { 0 }; LANES], mask);
                if *reports {
                    self.registers.set_predicate(o[1], if all { !0 } else { 0 }, mask);
                }
            }
            Collective::Redux(op) => {
                let values = self.registers.word(o[1]);
                let total = lanes(mask).map(|lane| values[lane]).reduce(|a, b| reduce(*op, a, b)).unwrap_or(0);
                self.registers.set_words(o[0], &[total; LANES], mask);
            }
            Collective::WarpSync => {}
            Collective::LoadMatrix { .. } => return self.load_matrix(op, o, context),
            Collective::Mma(mma) => self.mma(*mma, o),
        }
        Ok(())
    }

    fn keys(&self, double: bool, slot: Slot) -> [u64; LANES] {
        if double { *self.registers.double(slot) } else { self.registers.word(slot).map(u64::from) }
    }

    fn shuffle(&mut self, mode: ShuffleMode, reports: bool, o: &[Slot], mask: u32) -> Result<(), Stop> {
        let sources = &o[1 + usize::from(reports)..];
        let values = *self.registers.word(sources[0]);
        let (by, clamps) = (*self.registers.word(sources[1]), *self.registers.word(sources[2]));
        let mut out = values;
        let mut inside = 0u32;
        for lane in lanes(mask) {
            let (source, ok) = shuffle_source(mode, lane as i32, by[lane], clamps[lane]);
            if mask >> source & 1 == 0 {
                let what = format!("lane {lane} reads lane {source}, which does not take part ({mask:#010x})");
                return Err(Stop::collective(lane, what));
            }
            out[lane] = values[source];
            inside |= u32::from(ok) << lane;
        }
        self.registers.set_words(o[0], &out, mask);
        if reports {
            self.registers.set_predicate(o[1], inside, mask);
        }
        Ok(())
    }

    fn vote(&mut self, mode: VoteMode, o: &[Slot], mask: u32) {
        let yes = self.registers.predicate(o[1]) & mask;
        let bits = |on: bool| if on { !0 } else { 0 };
        match mode {
            VoteMode::Ballot => self.registers.set_words(o[0], &[yes; LANES], mask),
            VoteMode::All => self.registers.set_predicate(o[0], bits(yes == mask), mask),
            VoteMode::Any => self.registers.set_predicate(o[0], bits(yes != 0), mask),
            VoteMode::Uniform => self.registers.set_predicate(o[0], bits(yes == mask || yes == 0), mask),
        }
    }
}

/// The lane a shuffle reads, and whether that is inside the segment; outside, a lane reads itself.
fn shuffle_source(mode: ShuffleMode, lane: i32, by: u32, clamp: u32) -> (usize, bool) {
    let (by, bound, segment) = ((by & 31) as i32, (clamp & 31) as i32, (clamp >> 8 & 31) as i32);
    let last = lane & segment | bound & !segment;
    let (source, ok) = match mode {
        ShuffleMode::Up => (lane - by, lane - by >= last),
        ShuffleMode::Down => (lane + by, lane + by <= last),
        ShuffleMode::Butterfly => (lane ^ by, lane ^ by <= last),
        ShuffleMode::Index => {
            let source = lane & segment | by & !segment;
            (source, source <= last)
        }
    };
    (if ok { source as usize } else { lane as usize }, ok)
}

fn reduce(op: ReduxOp, a: u32, b: u32) -> u32 {
    match op {
        ReduxOp::Add => a.wrapping_add(b),
        ReduxOp::And => a & b,
        ReduxOp::Or => a | b,
        ReduxOp::Xor => a ^ b,
        ReduxOp::MinS => (a as i32).min(b as i32) as u32,
        ReduxOp::MinU => a.min(b),
        ReduxOp::MaxS => (a as i32).max(b as i32) as u32,
        ReduxOp::MaxU => a.max(b),
    }
}
