//! One level of the search: `expand_masked` normalises over legal children and draws from them where that is asked for, `expand_scan` looks at every child, `expand_finish` keeps the best and writes the next beams.

use sidereal_ffi::params::{ExpandParams, Legality, MaskedParams};

use super::super::CudaDevice;
use super::super::driver::{Kernel, Shape};
use super::super::memory::{Memory, Purpose};
use crate::device::{CohortPlan, DeviceError, ExpandArgs, Queue};

const MASKED: Kernel = Kernel { module: "expand_masked", name: "expand_masked", dynamic_shared: 0 };
const SCAN: Kernel = Kernel { module: "expand_select", name: "expand_scan", dynamic_shared: 0 };
const FINISH: Kernel = Kernel { module: "expand_select", name: "expand_finish", dynamic_shared: 0 };
pub(super) const KERNELS: [Kernel; 3] = [MASKED, SCAN, FINISH];

const MASKED_THREADS: u32 = 256;
const FINISH_THREADS: u32 = 1024;
/// Most warps of a block of `expand_scan`, each with a run of children.
const SCAN_WARPS: usize = 8;
// As in kernels/include/params/expand_select.h.
const GROUP: usize = 32;
const RUN: usize = 8 * GROUP;
const LISTED: usize = 10;
const CANDIDATES: usize = 40;
const ORDER: usize = 2;
// As in kernels/include/params/expand_masked.h.
const NORMS: usize = 4;

/// Memory between the two kernels, and for the order of a forced token's beams. All cohort lanes share it: their operations run
/// one after another on the search queue.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::device::cuda) struct Scratch {
    room: Room,
    norms: u64,      // f32[rows][NORMS]
    keys: u64,       // f32[rows][children of the widest node]
    draws: u64,      // u32[rows]
    parents: u64,    // u32[rows][4]
    groups: u64,     // u32[rows][groups of the widest node][2]
    run_keys: u64,   // u64[rows][runs of the widest node]
    run_counts: u64, // u32[requests]
    listed: u64,     // u64[rows][LISTED]
    candidates: u64, // u64[rows][CANDIDATES]
    /// u64[rows][ORDER]
    pub(super) order: u64,
}

/// What scratch memory is enough for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Room {
    rows: usize,
    requests: usize,
    /// Most children of one node.
    widest: usize,
}

impl Scratch {
    fn plan(memory: &mut Memory, room: Room) -> Result<Scratch, DeviceError> {
        let Room { rows, requests, widest } = room;
        let (groups, runs) = (widest.div_ceil(GROUP), widest.div_ceil(RUN));
        let (word, key) = (size_of::<u32>(), size_of::<u64>());
        let mut part = |what: &str, count: usize, bytes: usize| {
            let what = format!("search: {what}");
            match count.checked_mul(bytes) {
                Some(bytes) => memory.zeroed(Purpose::Workspace, what, bytes),
                None => {
                    let reason = "more than the address space".to_owned();
                    Err(DeviceError::OutOfMemory { what, bytes: usize::MAX, reason })
                }
            }
        };
        Ok(Scratch {
            room,
            norms: part("normalisers over legal children", rows, NORMS * word)?,
            keys: part("perturbed log-probabilities", rows, widest * word)?,
            draws: part("drawn children", rows, word)?,
            parents: part("beams as parents", rows, 4 * word)?,
            groups: part("groups of children", rows, groups * 2 * word)?,
            run_keys: part("runs of children", rows, runs * key)?,
            run_counts: part("runs of each request", requests, word)?,
            listed: part("groups to look into", rows, LISTED * key)?,
            candidates: part("candidates", rows, CANDIDATES * key)?,
            order: part("order of beams", rows, ORDER * key)?,
        })
    }
}

impl CudaDevice {
    /// Plans what the widest lane needs over the widest trie, once both are known.
    pub(in crate::device::cuda) fn plan_expand_scratch(&mut self) -> Result<(), DeviceError> {
        let widest = self.weights.tries.iter().flat_map(|trie| &trie.levels).map(|level| level.widest).max();
        let (Some(widest), false) = (widest, self.cohorts.is_empty()) else { return Ok(()) };
        let planned = self.scratch.expand.room;
        let most = |of: fn(&CohortPlan) -> usize| self.cohorts.iter().map(|lane| of(&lane.plan)).max().unwrap_or(0);
        let room = Room {
            rows: planned.rows.max(most(|plan| plan.rows)),
            requests: planned.requests.max(most(|plan| plan.requests)),
            widest: planned.widest.max(widest),
        };
        if room != planned {
            // What was planned before stays: recorded steps may name it.
            self.scratch.expand = Scratch::plan(&mut self.memory, room)?;
        }
        Ok(())
    }

    /// What decides which children of a level are legal.
    fn legality(&self, args: &ExpandArgs) -> Legality {
        let view = self.cohort_lane_of(args.lane).view();
        let masks = self.masks.as_ref().map_or_else(Default::default, |masks| masks.table(args.trie, args.level));
        Legality {
            ban_ends: view.ban_ends,
            ban_nodes: view.ban_nodes,
            masks: masks.address,
            mask_stride: masks.stride,
            level: args.level as u32,
        }
    }

    pub(in crate::device::cuda) fn run_expand_select(&mut self, args: &ExpandArgs) -> Result<(), DeviceError> {
        let op = "expand_select";
        let lane = self.cohort_lane_of(args.lane);
        let level = &self.weights.tries[args.trie.0 as usize].levels[args.level];
        let tokens = self.weights.heads[args.head.0 as usize].level_tokens[args.level];
        assert!(args.level < lane.plan.steps, "{op}: level {} of a lane of {} steps", args.level, lane.plan.steps);
        let (codes, known) = (level.code_count, tokens.count);
        if codes > known {
            let reason = format!("level {}: {codes} codes in the catalogue, {known} tokens", args.level);
            return Err(DeviceError::Failed { op, reason });
        }
        // At level 0 logits rows are request rows, and so are blocks.
        let rows = if args.level == 0 { lane.extent.requests } else { lane.extent.rows };
        assert!(args.logits.cols >= known, "{op}: {} logit columns for {known} codes", args.logits.cols);
        let (view, scratch) = (lane.view(), self.scratch.expand);
        let (logits, logits_stride) = (self.place(op, args.logits, rows, args.logits.cols), args.logits.stride as u32);
        let (lognorm, lognorm_stride) = match args.lognorm {
            Some(lognorm) => (self.place(op, lognorm, rows, 1), lognorm.stride as u32),
            None => (scratch.norms, NORMS as u32),
        };
        let masked = MaskedParams {
            now: lane.now().into(),
            requests: view.requests,
            row_request: view.row_request,
            counts: view.requests_count,
            legal: self.legality(args),
            codes: level.codes,
            first_child: level.first_child,
            logits,
            norms: scratch.norms,
            keys: scratch.keys,
            draws: scratch.draws,
            logits_stride,
            key_stride: scratch.room.widest as u32,
            level: args.level as u32,
            normalizes: u32::from(args.lognorm.is_none()),
        };
        let params = ExpandParams {
            now: lane.now().into(),
            next: lane.next().into(),
            requests: view.requests,
            row_request: view.row_request,
            counts: view.requests_count,
            legal: self.legality(args),
            codes: level.codes,
            first_child: level.first_child,
            tokens: tokens.address,
            logits,
            lognorm,
            norms: scratch.norms,
            keys: scratch.keys,
            draws: scratch.draws,
            log_probs: view.log_probs,
            parents: scratch.parents,
            groups: scratch.groups,
            run_keys: scratch.run_keys,
            run_counts: scratch.run_counts,
            listed: scratch.listed,
            candidates: scratch.candidates,
            order: scratch.order,
            group_stride: scratch.room.widest.div_ceil(GROUP) as u32,
            run_stride: scratch.room.widest.div_ceil(RUN) as u32,
            logits_stride,
            lognorm_stride,
            key_stride: scratch.room.widest as u32,
            level: args.level as u32,
            rows: lane.plan.rows as u32,
            reserved: 0,
        };
        let runs = level.widest.div_ceil(RUN);
        let shape = |grid: [usize; 2], threads| {
            let [x, y] = grid.map(|count| count as u32);
            Shape { queue: Queue::Search, grid: [x, y, 1], threads, dynamic_shared: 0 }
        };
        if args.lognorm.is_none() || lane.extent.sampled {
            self.launch(&MASKED, shape([lane.extent.rows, 1], MASKED_THREADS), masked)?;
        }
        let warps = runs.clamp(1, SCAN_WARPS);
        self.launch(&SCAN, shape([rows, runs.div_ceil(warps)], 32 * warps as u32), params)?;
        self.launch(&FINISH, shape([lane.extent.requests, 1], FINISH_THREADS), params)
    }
}
