//! A block's shared memory and the record of who touched each word when.
//!
//! A word remembers its last write and its reads, each with epoch, warp, lane and the bytes concerned. Reads by several warps in
//! one epoch share a record; reads by several warps in different epochs without order between them get a record a warp. An access
//! races if it conflicts with a remembered one that does not come before it by the block's [`Clocks`]. When an access replaces a
//! record of other bytes of the same word, the older bytes are forgotten: a race of sub-word accesses can be missed there, never
//! invented.

use super::clocks::{Clocks, Knowledge, MAX_EPOCH};
use crate::fault::Action;
use crate::memory::POISON;
use std::ops::Range;

/// Bytes in bits 0-3, "atomic" or for reads "several lanes" in bit 4, lane in 5-9, warp in 10-14, epoch above. Zero: none.
type Record = u32;

const FLAG: u32 = 1 << 4;
const LANE_SHIFT: u32 = 5;
const WARP_SHIFT: u32 = 10;
const EPOCH_SHIFT: u32 = 15;
/// A read record that stands for one record a warp.
const BY_WARP: Record = !0;
/// In `state`: an asynchronous copy is on its way to the word.
const IN_FLIGHT: u8 = 1 << 4;
/// All bytes of a word.
const WHOLE: u32 = 15;

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Reads {
    record: Record,
    /// The warps that read in the record's epoch, one bit each.
    warps: u32,
}

#[derive(Clone, Copy, Default)]
struct Word {
    write: Record,
    reads: Reads,
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
    /// `warps` records a word, used where a word's reads are `BY_WARP`; allocated when first needed.
    by_warp: Vec<Record>,
    warps: usize,
    pub clocks: Clocks,
}

/// Whole words that lanes access: `words` from each lane's address on.
pub(crate) struct LaneWords<'a> {
    pub addresses: &'a [u64; 32],
    pub words: usize,
    pub lanes: u32,
    pub warp: usize,
    pub atomic: bool,
}

/// Whether one warp's reads came before by barriers alone, whatever the lanes.
#[inline(always)]
fn past(knows: &Knowledge, reads: Reads) -> bool {
    reads.warps.is_power_of_two() && reads.record >> EPOCH_SHIFT <= knows[warp_of(reads.record)]
}

#[inline(always)]
fn warp_of(record: Record) -> usize {
    (record >> WARP_SHIFT & 31) as usize
}

#[inline(always)]
fn lane_of(record: Record) -> usize {
    (record >> LANE_SHIFT & 31) as usize
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
        self.state.fill(0);
        self.forget_order();
    }

    /// Starts the clocks anew when every earlier access is ordered before every later one.
    pub(crate) fn forget_order(&mut self) {
        self.words.fill(Word::default());
        self.clocks = Clocks::new(self.warps);
    }

    #[inline(always)]
    fn record(&self, visit: Visit, bytes: u32) -> Record {
        let epoch = self.clocks.epoch(visit.warp).min(MAX_EPOCH - 1);
        epoch << EPOCH_SHIFT | (visit.warp as u32) << WARP_SHIFT | (visit.lane as u32) << LANE_SHIFT | bytes
    }

    /// Whether a write comes before this access.
    #[inline(always)]
    fn write_before(&self, record: Record, visit: Visit) -> bool {
        self.clocks.ordered((warp_of(record), Some(lane_of(record)), record >> EPOCH_SHIFT), (visit.warp, visit.lane))
    }

    /// Whether one warp's read comes before this access.
    #[inline(always)]
    fn read_before(&self, record: Record, visit: Visit) -> bool {
        let lane = if record & FLAG != 0 { None } else { Some(lane_of(record)) };
        self.clocks.ordered((warp_of(record), lane, record >> EPOCH_SHIFT), (visit.warp, visit.lane))
    }

    /// The first of a word's reads, none `BY_WARP`, that does not come before this access.
    #[inline(always)]
    fn unordered_read(&self, reads: Reads, visit: Visit) -> Option<Record> {
        if reads.warps.is_power_of_two() {
            return (!self.read_before(reads.record, visit)).then_some(reads.record);
        }
        super::registers::lanes(reads.warps)
            .map(|warp| reads.record & !(31 << WARP_SHIFT) | (warp as u32) << WARP_SHIFT)
            .find(|&record| !self.read_before(record, visit))
    }

    #[cold]
    fn race(&self, word: usize, earlier: Action, record: Record) -> Trouble {
        let several = earlier == Action::Read && record & FLAG != 0;
        Trouble::Race {
            address: word as u64 * 4,
            earlier: if earlier == Action::Write && record & FLAG != 0 { Action::Atomic } else { earlier },
            warp: warp_of(record) as u32,
            lane: (!several).then_some(lane_of(record) as u32),
        }
    }

    /// Checks and records a read inside the memory.
    #[inline(always)]
    pub(crate) fn read(&mut self, at: usize, bytes: usize, visit: Visit) -> Result<(), Trouble> {
        if (at | bytes) & 3 == 0 {
            return self.read_words(at / 4..(at + bytes) / 4, WHOLE, visit);
        }
        for_words(at, bytes, |word, mask| self.read_words(word..word + 1, mask, visit))
    }

    /// Whole words; what was found out for one word is used again while the next one's records are the same.
    #[inline(always)]
    fn read_words(&mut self, words: Range<usize>, mask: u32, visit: Visit) -> Result<(), Trouble> {
        let mine = self.record(visit, mask);
        let mut harmless = 0;
        let mut step = (Reads::default(), Reads { record: mine, warps: 1 << visit.warp });
        for word in words {
            let state = u32::from(self.state[word]);
            let Word { write, reads } = self.words[word];
            if write != harmless {
                if write & mask != 0 && !(visit.atomic && write & FLAG != 0) && !self.write_before(write, visit) {
                    return Err(self.race(word, Action::Write, write));
                }
                harmless = write;
            }
            if state & mask != mask || state & u32::from(IN_FLIGHT) != 0 {
                return Err(self.unreadable(word));
            }
            if reads != step.0 {
                step = (reads, self.after_read(word, reads, mine, visit));
            }
            self.words[word].reads = step.1;
            if step.1.record == BY_WARP {
                self.note_by_warp(word, mine, visit);
            }
        }
        Ok(())
    }

    #[inline(never)]
    fn read_rest(&mut self, words: Range<usize>, visit: Visit) -> Result<(), Trouble> {
        self.read_words(words, WHOLE, visit)
    }

    #[inline(never)]
    fn write_rest(&mut self, words: Range<usize>, visit: Visit) -> Result<(), Trouble> {
        self.write_words(words, WHOLE, visit)
    }

    /// Reads of whole words by many lanes, all inside the memory; the lane to blame if one is at fault.
    #[inline(always)]
    pub(crate) fn read_lanes(&mut self, access: &LaneWords<'_>) -> Result<(), (usize, Trouble)> {
        let knows = *self.clocks.knows(access.warp);
        let first = Visit { warp: access.warp, lane: 0, atomic: access.atomic };
        let base = self.record(first, WHOLE);
        for lane in super::registers::lanes(access.lanes) {
            let alone = Reads { record: base | (lane as u32) << LANE_SHIFT, warps: 1 << access.warp };
            let at = access.addresses[lane] as usize / 4;
            let states = &self.state[at..at + access.words];
            for (word, (entry, state)) in (at..).zip(self.words[at..at + access.words].iter_mut().zip(states)) {
                let Word { write, reads } = *entry;
                let replaces = reads == Reads::default() || reads == alone || past(&knows, reads);
                if *state == WHOLE as u8 && write >> EPOCH_SHIFT <= knows[warp_of(write)] && replaces {
                    entry.reads = alone;
                } else {
                    // From here on the lane's words take the longer way.
                    self.read_rest(word..at + access.words, Visit { lane, ..first }).map_err(|t| (lane, t))?;
                    break;
                }
            }
        }
        Ok(())
    }

    /// As [`Self::read_lanes`], for writes.
    #[inline(always)]
    pub(crate) fn write_lanes(&mut self, access: &LaneWords<'_>) -> Result<(), (usize, Trouble)> {
        let knows = *self.clocks.knows(access.warp);
        let first = Visit { warp: access.warp, lane: 0, atomic: access.atomic };
        let base = self.record(first, WHOLE) | if access.atomic { FLAG } else { 0 };
        for lane in super::registers::lanes(access.lanes) {
            let mine = Word { write: base | (lane as u32) << LANE_SHIFT, reads: Reads::default() };
            let at = access.addresses[lane] as usize / 4;
            let states = &mut self.state[at..at + access.words];
            for (word, (entry, state)) in (at..).zip(self.words[at..at + access.words].iter_mut().zip(states)) {
                let Word { write, reads } = *entry;
                let free = reads == Reads::default() || past(&knows, reads);
                if *state & IN_FLIGHT == 0 && write >> EPOCH_SHIFT <= knows[warp_of(write)] && free {
                    *entry = mine;
                    *state = WHOLE as u8;
                } else {
                    self.write_rest(word..at + access.words, Visit { lane, ..first }).map_err(|t| (lane, t))?;
                    break;
                }
            }
        }
        Ok(())
    }

    #[cold]
    fn unreadable(&self, word: usize) -> Trouble {
        let address = word as u64 * 4;
        if self.state[word] & IN_FLIGHT != 0 {
            Trouble::InFlight { address }
        } else {
            Trouble::Uninitialised { address }
        }
    }

    /// A word's reads with this one among them.
    #[inline(always)]
    fn after_read(&mut self, word: usize, reads: Reads, mine: Record, visit: Visit) -> Reads {
        let alone = Reads { record: mine, warps: 1 << visit.warp };
        let old = reads.record;
        if old == 0 {
            return alone;
        }
        if old == BY_WARP {
            return reads;
        }
        if old >> EPOCH_SHIFT == mine >> EPOCH_SHIFT {
            if reads.warps == alone.warps {
                return Reads { record: merged(old, mine), ..alone };
            }
            let bytes = old & mine & WHOLE;
            if bytes == 0 {
                return alone;
            }
            return Reads { record: mine & !WHOLE | FLAG | bytes, warps: reads.warps | alone.warps };
        }
        if self.unordered_read(reads, visit).is_none() {
            return alone;
        }
        self.spread(word, reads);
        Reads { record: BY_WARP, warps: !0 }
    }

    /// Gives each warp that read a word a record of its own.
    #[cold]
    fn spread(&mut self, word: usize, reads: Reads) {
        if self.by_warp.is_empty() {
            self.by_warp = vec![0; self.words.len() * self.warps];
        }
        let slots = &mut self.by_warp[word * self.warps..(word + 1) * self.warps];
        slots.fill(0);
        for warp in super::registers::lanes(reads.warps) {
            slots[warp] = reads.record & !(31 << WARP_SHIFT) | (warp as u32) << WARP_SHIFT;
        }
    }

    #[cold]
    fn note_by_warp(&mut self, word: usize, mine: Record, visit: Visit) {
        let slot = word * self.warps + visit.warp;
        let old = self.by_warp[slot];
        let replaces = old == 0 || old >> EPOCH_SHIFT != mine >> EPOCH_SHIFT && self.read_before(old, visit);
        self.by_warp[slot] = if replaces { mine } else { merged(old, mine) };
    }

    /// Whether all bytes were written, as an atomic's read part wants them.
    pub(crate) fn written(&self, at: usize, bytes: usize) -> Result<(), Trouble> {
        for_words(at, bytes, |word, mask| {
            let state = u32::from(self.state[word]);
            if state & (mask | u32::from(IN_FLIGHT)) == mask { Ok(()) } else { Err(self.unreadable(word)) }
        })
    }

    /// Checks and records a write or an atomic inside the memory.
    #[inline(always)]
    pub(crate) fn write(&mut self, at: usize, bytes: usize, visit: Visit) -> Result<(), Trouble> {
        if (at | bytes) & 3 == 0 {
            return self.write_words(at / 4..(at + bytes) / 4, WHOLE, visit);
        }
        for_words(at, bytes, |word, mask| self.write_words(word..word + 1, mask, visit))
    }

    #[inline(always)]
    fn write_words(&mut self, words: Range<usize>, mask: u32, visit: Visit) -> Result<(), Trouble> {
        let mine = self.record(visit, mask) | if visit.atomic { FLAG } else { 0 };
        let (mut harmless, mut past) = (0, Reads::default());
        for word in words {
            if self.state[word] & IN_FLIGHT != 0 {
                return Err(self.unreadable(word));
            }
            let Word { write, reads } = self.words[word];
            if write != harmless {
                if write & mask != 0 && !(visit.atomic && write & FLAG != 0) && !self.write_before(write, visit) {
                    return Err(self.race(word, Action::Write, write));
                }
                harmless = write;
            }
            if reads != past {
                self.against_reads(word, mask, visit)?;
                if reads.record != BY_WARP {
                    past = reads;
                }
            }
            let entry = &mut self.words[word];
            let same = write >> LANE_SHIFT == mine >> LANE_SHIFT;
            entry.write = if same { mine & (write | !FLAG) | write & WHOLE } else { mine };
            if reads.record == BY_WARP || reads.record & WHOLE & !mask == 0 {
                entry.reads = Reads::default();
            }
            self.state[word] |= mask as u8;
        }
        Ok(())
    }

    #[inline(always)]
    fn against_reads(&self, word: usize, mask: u32, visit: Visit) -> Result<(), Trouble> {
        let reads = self.words[word].reads;
        let found = if reads.record == BY_WARP {
            let records = &self.by_warp[word * self.warps..(word + 1) * self.warps];
            records.iter().copied().find(|&r| r & mask & WHOLE != 0 && !self.read_before(r, visit))
        } else if reads.record & mask & WHOLE == 0 {
            None
        } else {
            self.unordered_read(reads, visit)
        };
        found.map_or(Ok(()), |record| Err(self.race(word, Action::Read, record)))
    }

    /// An asynchronous copy sets out: the destination is unusable until it lands.
    pub(crate) fn depart(&mut self, at: usize, bytes: usize, visit: Visit) -> Result<(), Trouble> {
        self.write(at, bytes, visit)?;
        self.data[at..at + bytes].fill(POISON);
        self.state[at / 4..(at + bytes) / 4].fill(IN_FLIGHT);
        Ok(())
    }

    /// The copy was waited for: the bytes are there, written by the waiting lane now.
    pub(crate) fn land(&mut self, at: usize, data: &[u8], visit: Visit) {
        let words = at / 4..(at + data.len()) / 4;
        let mine = self.record(visit, WHOLE);
        self.data[at..at + data.len()].copy_from_slice(data);
        self.state[words.clone()].fill(WHOLE as u8);
        self.words[words].fill(Word { write: mine, reads: Reads::default() });
    }
}

/// The record of two reads of one warp in one epoch.
#[inline(always)]
fn merged(old: Record, mine: Record) -> Record {
    let bytes = old & mine & WHOLE;
    if old >> LANE_SHIFT == mine >> LANE_SHIFT && old & FLAG == 0 {
        mine | old & WHOLE
    } else if bytes == 0 {
        mine
    } else {
        mine & !(31 << LANE_SHIFT | WHOLE) | FLAG | bytes
    }
}

/// Calls `f` with each word of a range and the bytes of it as a mask.
#[inline(always)]
fn for_words(at: usize, bytes: usize, mut f: impl FnMut(usize, u32) -> Result<(), Trouble>) -> Result<(), Trouble> {
    let (mut at, end) = (at, at + bytes);
    while at < end {
        let next = end.min((at / 4 + 1) * 4);
        f(at / 4, ((1 << (next - at)) - 1) << (at % 4))?;
        at = next;
    }
    Ok(())
}
