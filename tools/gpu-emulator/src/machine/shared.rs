//! A block's shared memory and the record of who touched each word when.
//!
//! A word remembers its last write and its last read (or one read a warp, when several warps read without order between them),
//! each with warp, lane, epoch and the bytes concerned. An access races if it conflicts with a remembered one that does not come
//! before it by the block's [`Clocks`]. When an access replaces a record of other bytes of the same word, the older bytes are
//! forgotten: a race of sub-word accesses can be missed there, never invented.

use super::clocks::{Clocks, MAX_EPOCH};
use crate::fault::Action;
use crate::memory::POISON;

/// Bytes in bits 0-3, "atomic" or for reads "several lanes" in bit 4, lane in 5-9, warp in 10-14, epoch above. Zero: none.
type Record = u32;

const FLAG: u32 = 1 << 4;
/// A read record that stands for one record a warp.
const BY_WARP: Record = !0;
/// In `state`: an asynchronous copy is on its way to the word.
const IN_FLIGHT: u8 = 1 << 4;

#[derive(Clone, Copy, Default)]
struct Word {
    write: Record,
    read: Record,
}

/// Who accesses and how.
#[derive(Clone, Copy)]
pub(crate) struct Visit {
    pub warp: usize,
    pub lane: usize,
    pub atomic: bool,
}

/// Why an access is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    Race { address: u64, earlier: Action, warp: u32, lane: Option<u32> },
    Uninitialised { address: u64 },
    InFlight { address: u64 },
}

/// Shared memory of one block.
pub(crate) struct Shared {
    pub data: Vec<u8>,
    words: Vec<Word>,
    /// Written bytes in bits 0-3, `IN_FLIGHT`.
    state: Vec<u8>,
    /// `warps` records a word, used where `read` is `BY_WARP`; allocated when first needed.
    by_warp: Vec<Record>,
    warps: usize,
    pub clocks: Clocks,
}

impl Shared {
    pub(crate) fn new(bytes: usize, warps: usize) -> Self {
        let words = bytes.div_ceil(4);
        Shared {
            data: vec![POISON; bytes],
            words: vec![Word::default(); words],
            state: vec![0; words],
            by_warp: Vec::new(),
            warps,
            clocks: Clocks::new(warps),
        }
    }

    /// Back to the state a block starts with.
    pub(crate) fn reset(&mut self) {
        self.data.fill(POISON);
        self.words.fill(Word::default());
        self.state.fill(0);
        self.clocks = Clocks::new(self.warps);
    }

    /// Starts the clocks anew when every earlier access is ordered before every later one.
    pub(crate) fn forget_order(&mut self) {
        self.words.fill(Word::default());
        self.clocks = Clocks::new(self.warps);
    }

    #[inline(always)]
    fn record(&self, visit: Visit, bytes: u32) -> Record {
        let epoch = self.clocks.epoch(visit.warp).min(MAX_EPOCH - 1);
        epoch << 15 | (visit.warp as u32) << 10 | (visit.lane as u32) << 5 | bytes
    }

    #[inline(always)]
    fn before(&self, record: Record, visit: Visit, flag_is_several: bool) -> bool {
        let several = flag_is_several && record & FLAG != 0;
        let lane = if several { None } else { Some((record >> 5 & 31) as usize) };
        self.clocks.ordered(((record >> 10 & 31) as usize, lane, record >> 15), (visit.warp, visit.lane))
    }

    fn race(&self, at: usize, earlier: Action, record: Record) -> Trouble {
        let several = earlier == Action::Read && record & FLAG != 0;
        Trouble::Race {
            address: at as u64,
            earlier: if earlier == Action::Write && record & FLAG != 0 { Action::Atomic } else { earlier },
            warp: record >> 10 & 31,
            lane: (!several).then_some(record >> 5 & 31),
        }
    }

    /// Checks and records a read inside the memory.
    #[inline]
    pub(crate) fn read(&mut self, at: usize, bytes: usize, visit: Visit) -> Result<(), Trouble> {
        for_words(at, bytes, |word, mask| self.read_word(word, mask, visit))
    }

    #[inline(always)]
    fn read_word(&mut self, word: usize, mask: u32, visit: Visit) -> Result<(), Trouble> {
        let state = self.state[word];
        if u32::from(state & IN_FLIGHT) != 0 {
            return Err(Trouble::InFlight { address: word as u64 * 4 });
        }
        let Word { write, read } = self.words[word];
        if write & mask != 0 && !(visit.atomic && write & FLAG != 0) && !self.before(write, visit, false) {
            return Err(self.race(word * 4, Action::Write, write));
        }
        if u32::from(state) & mask != mask {
            return Err(Trouble::Uninitialised { address: word as u64 * 4 });
        }
        let mine = self.record(visit, mask);
        if read == mine {
            return Ok(());
        }
        if read == BY_WARP {
            let slot = word * self.warps + visit.warp;
            self.by_warp[slot] = self.merged(self.by_warp[slot], mine, visit);
        } else if read == 0 || read >> 10 & 31 == visit.warp as u32 || self.before(read, visit, true) {
            self.words[word].read = self.merged(read, mine, visit);
        } else {
            self.spread(word, read, mine, visit);
        }
        Ok(())
    }

    /// The record that stands for an older read and this one, of the same warp or already ordered.
    #[inline(always)]
    fn merged(&self, old: Record, mine: Record, visit: Visit) -> Record {
        if old >> 5 == mine >> 5 && old & FLAG == 0 {
            return mine | old & 15;
        }
        if old & mine & 15 == 0 || self.before(old, visit, true) {
            return mine;
        }
        mine & !(31 << 5 | 15) | FLAG | old & mine & 15
    }

    #[cold]
    fn spread(&mut self, word: usize, old: Record, mine: Record, visit: Visit) {
        if self.by_warp.is_empty() {
            self.by_warp = vec![0; self.words.len() * self.warps];
        }
        let slots = &mut self.by_warp[word * self.warps..(word + 1) * self.warps];
        slots.fill(0);
        slots[(old >> 10 & 31) as usize] = old;
        slots[visit.warp] = mine;
        self.words[word].read = BY_WARP;
    }

    /// Whether all bytes were written, as an atomic's read part wants them.
    pub(crate) fn written(&self, at: usize, bytes: usize) -> Result<(), Trouble> {
        for_words(at, bytes, |word, mask| match u32::from(self.state[word]) {
            state if state & u32::from(IN_FLIGHT) != 0 => Err(Trouble::InFlight { address: word as u64 * 4 }),
            state if state & mask != mask => Err(Trouble::Uninitialised { address: word as u64 * 4 }),
            _ => Ok(()),
        })
    }

    /// Checks and records a write or an atomic inside the memory.
    #[inline]
    pub(crate) fn write(&mut self, at: usize, bytes: usize, visit: Visit) -> Result<(), Trouble> {
        for_words(at, bytes, |word, mask| self.write_word(word, mask, visit))
    }

    #[inline(always)]
    fn write_word(&mut self, word: usize, mask: u32, visit: Visit) -> Result<(), Trouble> {
        if self.state[word] & IN_FLIGHT != 0 {
            return Err(Trouble::InFlight { address: word as u64 * 4 });
        }
        let Word { write, read } = self.words[word];
        if write & mask != 0 && !(visit.atomic && write & FLAG != 0) && !self.before(write, visit, false) {
            return Err(self.race(word * 4, Action::Write, write));
        }
        if read != 0 {
            self.against_reads(word, mask, visit)?;
        }
        let mine = self.record(visit, mask) | if visit.atomic { FLAG } else { 0 };
        let same = write >> 5 == mine >> 5;
        let entry = &mut self.words[word];
        entry.write = if same { mine & (write | !FLAG) | write & 15 } else { mine };
        if read == BY_WARP || read & 15 & !mask == 0 {
            entry.read = 0;
        }
        self.state[word] |= mask as u8;
        Ok(())
    }

    #[inline(always)]
    fn against_reads(&self, word: usize, mask: u32, visit: Visit) -> Result<(), Trouble> {
        let read = self.words[word].read;
        if read != BY_WARP {
            let apart = read & mask & 15 == 0;
            return if apart || self.before(read, visit, true) {
                Ok(())
            } else {
                Err(self.race(word * 4, Action::Read, read))
            };
        }
        let records = &self.by_warp[word * self.warps..(word + 1) * self.warps];
        match records.iter().find(|&&r| r & mask & 15 != 0 && !self.before(r, visit, true)) {
            Some(&record) => Err(self.race(word * 4, Action::Read, record)),
            None => Ok(()),
        }
    }

    /// An asynchronous copy sets out: the destination is unusable until it lands.
    pub(crate) fn depart(&mut self, at: usize, bytes: usize, visit: Visit) -> Result<(), Trouble> {
        self.write(at, bytes, visit)?;
        self.data[at..at + bytes].fill(POISON);
        for_words(at, bytes, |word, _| {
            self.state[word] = IN_FLIGHT;
            Ok(())
        })
    }

    /// The copy was waited for: the bytes are there, written by the waiting lane now.
    pub(crate) fn land(&mut self, at: usize, data: &[u8], visit: Visit) -> Result<(), Trouble> {
        for_words(at, data.len(), |word, _| {
            self.state[word] = 0;
            Ok(())
        })?;
        self.data[at..at + data.len()].copy_from_slice(data);
        self.write(at, data.len(), visit)
    }
}

/// Calls `f` with each word of a range and the bytes of it as a mask.
#[inline(always)]
fn for_words(at: usize, bytes: usize, mut f: impl FnMut(usize, u32) -> Result<(), Trouble>) -> Result<(), Trouble> {
    if (at | bytes) & 3 == 0 {
        return (at / 4..(at + bytes) / 4).try_for_each(|word| f(word, 15));
    }
    let (mut at, end) = (at, at + bytes);
    while at < end {
        let next = end.min((at / 4 + 1) * 4);
        f(at / 4, ((1 << (next - at)) - 1) << (at % 4))?;
        at = next;
    }
    Ok(())
}
