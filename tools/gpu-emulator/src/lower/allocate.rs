//! Few register slots for many virtual registers.
//!
//! PTX names every value anew: a kernel that needs a hundred registers declares thousands, and a register here is a whole cache line
//! or two. Values whose lives do not overlap share a slot: liveness over the flow graph, then a linear scan over intervals. Lanes
//! that have parted do not disturb this, because every lane has its own part of a slot.

use crate::ir::{Class, Code, Op, Slot};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

const CLASSES: [Class; 3] = [Class::Word, Class::Double, Class::Predicate];

/// Renames all registers of `code` but the presets, which live throughout.
pub(super) fn allocate(code: &mut Code) {
    let numbers = Numbers::new(code);
    let blocks = blocks(code);
    let lives = lives(code, &numbers, &blocks);
    let mut order: Vec<usize> = (0..lives.len()).filter(|&v| lives[v].1 != 0).collect();
    order.sort_by_key(|&v| lives[v].0);
    let mut names: HashMap<Slot, Slot> = HashMap::new();
    let mut sizes = [0usize; 3];
    let mut place = |slot: Slot, free: Option<usize>| {
        let size = &mut sizes[slot.class() as usize];
        let index = free.unwrap_or(*size);
        *size = (*size).max(index + 1);
        names.insert(slot, Slot::new(slot.class(), index));
        index
    };
    for (slot, _) in &code.presets {
        place(*slot, None);
    }
    let mut free: [BinaryHeap<Reverse<usize>>; 3] = Default::default();
    let mut busy: [BinaryHeap<Reverse<(u32, usize)>>; 3] = Default::default();
    for value in order {
        let slot = numbers.slot(value);
        let class = slot.class() as usize;
        while let Some(&Reverse((end, index))) = busy[class].peek()
            && end < lives[value].0
        {
            busy[class].pop();
            free[class].push(Reverse(index));
        }
        let index = place(slot, free[class].pop().map(|Reverse(index)| index));
        busy[class].push(Reverse((lives[value].1, index)));
    }
    rename(code, &names);
    [code.words, code.doubles, code.predicates] = sizes;
}

fn rename(code: &mut Code, names: &HashMap<Slot, Slot>) {
    let renamed = |slot: &mut Slot| {
        let negated = slot.is_negated();
        let plain = if negated { slot.negate() } else { *slot };
        // Only an operand of code that is never reached has no name.
        let name = names.get(&plain).copied().unwrap_or(Slot::new(plain.class(), 0));
        *slot = if negated { name.negate() } else { name };
    };
    code.pool.iter_mut().for_each(renamed);
    code.instrs.iter_mut().filter_map(|instr| instr.guard.as_mut()).for_each(renamed);
    code.presets.iter_mut().map(|(slot, _)| slot).for_each(renamed);
}

/// Numbers for the registers of all classes together.
struct Numbers {
    starts: [usize; 3],
    count: usize,
}

impl Numbers {
    fn new(code: &Code) -> Self {
        let starts = [0, code.words, code.words + code.doubles];
        Numbers { starts, count: starts[2] + code.predicates }
    }

    fn of(&self, slot: Slot) -> usize {
        self.starts[slot.class() as usize] + slot.index()
    }

    fn slot(&self, number: usize) -> Slot {
        let class = (0..3).rev().find(|&class| number >= self.starts[class]).unwrap_or(0);
        Slot::new(CLASSES[class], number - self.starts[class])
    }
}

/// A run of operations that control enters at the start only.
struct Block {
    start: usize,
    end: usize,
    next: Vec<usize>,
}

fn blocks(code: &Code) -> Vec<Block> {
    let count = code.instrs.len();
    let mut leads = vec![false; count + 1];
    leads[0] = true;
    for (at, instr) in code.instrs.iter().enumerate() {
        targets(&instr.op).iter().for_each(|&t| leads[(t as usize).min(count)] = true);
        leads[at + 1] |= ends_block(&instr.op);
    }
    let starts: Vec<usize> = (0..count).filter(|&at| leads[at]).collect();
    let block_at = |at: usize| starts.partition_point(|&start| start <= at) - 1;
    let make = |(index, &start): (usize, &usize)| {
        let end = starts.get(index + 1).copied().unwrap_or(count);
        let last = &code.instrs[end - 1];
        let goes_on = last.guard.is_some() || !ends_block(&last.op);
        let jumps = targets(&last.op).iter().map(|&t| t as usize);
        let next = jumps.chain(goes_on.then_some(end)).filter(|&t| t < count).map(block_at).collect();
        Block { start, end, next }
    };
    starts.iter().enumerate().map(make).collect()
}

fn targets(op: &Op) -> &[u32] {
    match op {
        Op::Branch(target) => std::slice::from_ref(target),
        Op::BranchIndexed(targets) => targets,
        _ => &[],
    }
}

fn ends_block(op: &Op) -> bool {
    matches!(op, Op::Branch(_) | Op::BranchIndexed(_) | Op::Exit)
}

/// A set of register numbers.
#[derive(Clone, PartialEq)]
struct Set(Vec<u64>);

impl Set {
    fn new(count: usize) -> Self {
        Set(vec![0; count.div_ceil(64)])
    }

    fn insert(&mut self, number: usize) {
        self.0[number / 64] |= 1 << (number % 64);
    }

    fn remove(&mut self, number: usize) {
        self.0[number / 64] &= !(1 << (number % 64));
    }

    fn join(&mut self, other: &Set) {
        self.0.iter_mut().zip(&other.0).for_each(|(mine, theirs)| *mine |= theirs);
    }

    fn for_each(&self, mut f: impl FnMut(usize)) {
        for (at, &word) in self.0.iter().enumerate() {
            let mut rest = word;
            while rest != 0 {
                f(at * 64 + rest.trailing_zeros() as usize);
                rest &= rest - 1;
            }
        }
    }
}

/// First and last place where each register is live; twice the operation's number, plus one for its results. Unused: (_, 0).
fn lives(code: &Code, numbers: &Numbers, blocks: &[Block]) -> Vec<(u32, u32)> {
    let entering = entering(code, numbers, blocks);
    let mut lives = vec![(u32::MAX, 0u32); numbers.count];
    let mut extend = |number: usize, at: usize| {
        let (first, last) = &mut lives[number];
        *first = (*first).min(at as u32);
        *last = (*last).max(at as u32);
    };
    for (block, live) in blocks.iter().zip(&entering) {
        live.for_each(|number| extend(number, 2 * block.start));
        for &next in &block.next {
            entering[next].for_each(|number| extend(number, 2 * block.end - 1));
        }
        for at in block.start..block.end {
            let instr = &code.instrs[at];
            let (results, sources) = code.operands(instr).split_at(usize::from(instr.destinations));
            results.iter().for_each(|slot| extend(numbers.of(*slot), 2 * at + 1));
            sources.iter().chain(&instr.guard).for_each(|slot| extend(numbers.of(*slot), 2 * at));
        }
    }
    for (slot, _) in &code.presets {
        lives[numbers.of(*slot)].1 = 0;
    }
    lives
}

/// The registers live at each block's start.
fn entering(code: &Code, numbers: &Numbers, blocks: &[Block]) -> Vec<Set> {
    let mut entering = vec![Set::new(numbers.count); blocks.len()];
    let mut changed = true;
    while changed {
        changed = false;
        for (index, block) in blocks.iter().enumerate().rev() {
            let mut live = Set::new(numbers.count);
            block.next.iter().for_each(|&next| live.join(&entering[next]));
            for instr in code.instrs[block.start..block.end].iter().rev() {
                let (results, sources) = code.operands(instr).split_at(usize::from(instr.destinations));
                if instr.guard.is_none() {
                    results.iter().for_each(|slot| live.remove(numbers.of(*slot)));
                }
                sources.iter().chain(&instr.guard).for_each(|slot| live.insert(numbers.of(*slot)));
            }
            if live != entering[index] {
                entering[index] = live;
                changed = true;
            }
        }
    }
    entering
}
