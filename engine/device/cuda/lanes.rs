//! Lanes on the card: token batches, and cohorts with their beam state. `kernels/README.md` draws what lies where.
//!
//! A lane is one block of words at fixed offsets, so that a write is one copy and addresses never change. The host keeps the
//! *extent* of what it last wrote, rounded up to a bucket: grids are launched for the bucket, and equal buckets share a
//! recorded graph.

use std::sync::Arc;

use sidereal_ffi::params::{RequestEntry, SAMPLING_DISTINCT, SAMPLING_INDEPENDENT, SAMPLING_NONE};

use super::dense::Dense;
use super::driver::Driver;
use super::memory::{Memory, Purpose};
use super::ops::split_bucket;
use super::slots::Slots;
use super::staging::Staging;
use crate::device::noise::Noise;
use crate::device::{
    Cohort, CohortPlan, CohortRequest, DeviceError, MAX_LEVELS, Queue, Segment, TokenBatch, check_dense,
};
use crate::sampling::{LogProb, Sampling, SamplingKind};

/// Query rows of an attention tile; `QUERY_TILE_ROWS` of `kernels/include/params/common.h`.
pub(super) const QUERY_TILE_ROWS: usize = 64;
/// Token batches whose copies may be outstanding before the host waits.
pub(super) const STAGED_BATCHES: usize = 2;

/// Rounds a count up to a bucket within a capacity.
fn bucket(count: usize, capacity: usize) -> usize {
    count.next_power_of_two().max(8).min(capacity)
}

/// Hands out word offsets.
#[derive(Default)]
struct Layout {
    words: usize,
}

impl Layout {
    /// The offset of `count` words, aligned to 16 bytes.
    fn add(&mut self, count: usize) -> usize {
        let offset = self.words.next_multiple_of(4);
        self.words = offset + count;
        offset
    }
}

/// How much a token lane holds, in buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TokenExtent {
    pub(super) rows: usize,
    pub(super) lasts: usize,
    pub(super) tiles: usize,
}

/// Addresses of a token lane's parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenView {
    /// u32: rows
    pub(super) rows: u64,
    /// u32: spans that are last
    pub(super) lasts: u64,
    /// u32: tiles over all rows
    pub(super) tile_count: u64,
    pub(super) tokens: u64,       // u32[rows]
    pub(super) row_slot: u64,     // u32[rows]
    pub(super) row_position: u64, // u32[rows]
    pub(super) last_row: u64,     // u32[lasts]
    pub(super) last_slot: u64,    // u32[lasts]
    pub(super) tiles: u64,        // QueryTile[tiles]
    pub(super) last_tiles: u64,   // QueryTile[lasts]
}

struct TokenOffsets {
    counts: usize,
    last_row: usize,
    last_slot: usize,
    tiles: usize,
    last_tiles: usize,
    tokens: usize,
    row_slot: usize,
    row_position: usize,
    words: usize,
}

/// A lane for token batches.
pub(super) struct Tokens {
    pub(super) queue: Queue,
    pub(super) extent: TokenExtent,
    pub(super) capacity: TokenExtent,
    /// Rows of the batch that was last written.
    pub(super) written: usize,
    /// Input vectors beside the tokens, if they are planned.
    pub(super) dense: Option<Dense>,
    address: u64,
    offsets: TokenOffsets,
    staging: Staging,
}

impl Tokens {
    /// Room for `rows` rows in at most one span a slot.
    pub(super) fn plan(
        driver: &Arc<Driver>,
        memory: &mut Memory,
        (rows, slots): (usize, usize),
        queue: Queue,
    ) -> Result<Tokens, DeviceError> {
        let lasts = slots.min(rows);
        let tiles = rows / QUERY_TILE_ROWS + lasts;
        let mut layout = Layout::default();
        let mut offsets = TokenOffsets {
            counts: layout.add(4),
            last_row: layout.add(lasts),
            last_slot: layout.add(lasts),
            tiles: layout.add(4 * tiles),
            last_tiles: layout.add(4 * lasts),
            tokens: layout.add(rows),
            row_slot: layout.add(rows),
            row_position: layout.add(rows),
            words: 0,
        };
        offsets.words = layout.words;
        Ok(Tokens {
            queue,
            extent: TokenExtent::default(),
            capacity: TokenExtent { rows, lasts, tiles },
            written: 0,
            dense: None,
            address: memory.zeroed(Purpose::Workspace, format!("token lane of {rows} rows"), offsets.words * 4)?,
            staging: Staging::plan(driver, STAGED_BATCHES, offsets.words)?,
            offsets,
        })
    }

    /// Room for input vectors of `cols` elements.
    pub(super) fn plan_dense(
        &mut self,
        driver: &Arc<Driver>,
        memory: &mut Memory,
        cols: usize,
    ) -> Result<(), DeviceError> {
        self.dense = Some(Dense::plan(driver, memory, (self.capacity.rows, cols))?);
        Ok(())
    }

    /// Enqueues the input vectors of the batch that was last written.
    pub(super) fn write_dense(&mut self, values: &[f32]) -> Result<(), DeviceError> {
        let room = self.dense.as_ref().map_or(0, |dense| dense.cols);
        check_dense(values.len(), self.written, room)?;
        self.dense.as_mut().expect("without them there is no room").write(self.queue, values)
    }

    /// Enqueues a batch's descriptor.
    pub(super) fn write(&mut self, batch: &TokenBatch, slots: usize) -> Result<(), DeviceError> {
        let TokenExtent { rows: capacity, lasts: most_spans, .. } = self.capacity;
        batch.check((capacity, most_spans), slots)?;
        let rows = batch.tokens.len();
        let (offsets, mut lasts, mut tiles) = (&self.offsets, 0, 0);
        self.staging.send(self.queue, self.address, |words| {
            words[offsets.tokens..][..rows].copy_from_slice(&batch.tokens);
            for span in &batch.spans {
                let (first_row, count) = (span.first_row as usize, span.rows as usize);
                words[offsets.row_slot + first_row..][..count].fill(span.slot);
                for (position, row) in (span.first_position..).zip(first_row..first_row + count) {
                    words[offsets.row_position + row] = position;
                }
                for start in (0..span.rows).step_by(QUERY_TILE_ROWS) {
                    let count = (span.rows - start).min(QUERY_TILE_ROWS as u32);
                    let tile = [span.first_row + start, count, span.slot, span.first_position + start];
                    words[offsets.tiles + 4 * tiles..][..4].copy_from_slice(&tile);
                    tiles += 1;
                }
                if span.last {
                    words[offsets.last_row + lasts] = span.first_row + span.rows - 1;
                    words[offsets.last_slot + lasts] = span.slot;
                    let tile = [lasts as u32, 1, span.slot, span.first_position + span.rows - 1];
                    words[offsets.last_tiles + 4 * lasts..][..4].copy_from_slice(&tile);
                    lasts += 1;
                }
            }
            let counts = [rows, lasts, tiles, lasts].map(|count| count as u32);
            words[offsets.counts..][..4].copy_from_slice(&counts);
            offsets.words
        })?;
        self.written = rows;
        if let Some(dense) = &mut self.dense {
            dense.forget();
        }
        self.extent = TokenExtent {
            rows: bucket(rows, capacity),
            lasts: bucket(lasts, most_spans),
            tiles: bucket(tiles, self.capacity.tiles),
        };
        Ok(())
    }

    /// Where the parts are.
    pub(super) fn view(&self) -> TokenView {
        let at = |offset: usize| self.address + 4 * offset as u64;
        TokenView {
            rows: at(self.offsets.counts),
            lasts: at(self.offsets.counts + 1),
            tile_count: at(self.offsets.counts + 2),
            tokens: at(self.offsets.tokens),
            row_slot: at(self.offsets.row_slot),
            row_position: at(self.offsets.row_position),
            last_row: at(self.offsets.last_row),
            last_slot: at(self.offsets.last_slot),
            tiles: at(self.offsets.tiles),
            last_tiles: at(self.offsets.last_tiles),
        }
    }
}

/// How much a cohort lane holds, in buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CohortExtent {
    pub(super) requests: usize,
    /// End of the last request's rows.
    pub(super) rows: usize,
    /// Widest request.
    pub(super) beams: usize,
    /// Whether a request is sampled: steps then have a kernel more.
    pub(super) sampled: bool,
    /// Splits of the longest history and prefix of its slots.
    pub(super) splits: [usize; 2],
}

/// Addresses of one of a lane's two beam states.
#[derive(Clone, Copy, Debug)]
pub(super) struct StateView {
    pub(super) node: u64,      // u32[rows]
    pub(super) score: u64,     // f32[rows]
    pub(super) token: u64,     // u32[rows]
    pub(super) live: u64,      // u32[requests]
    pub(super) ancestors: u64, // u32[steps][rows]
    pub(super) log_prob: u64,  // f32[rows]
    pub(super) key: u64,       // f32[rows]
}

/// Addresses of a cohort lane's parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct CohortView {
    /// u32: requests
    pub(super) requests_count: u64,
    /// u32: end of the last row
    pub(super) rows: u64,
    pub(super) requests: u64,    // RequestEntry[requests]
    pub(super) row_request: u64, // u32[rows]
    pub(super) ban_ends: u64,    // u32[requests][MAX_LEVELS + 1]
    pub(super) ban_nodes: u64,   // u32[]
    pub(super) log_probs: u64,   // f32[steps][rows][2]
}

struct CohortOffsets {
    counts: usize,
    requests: usize,
    row_request: usize,
    ban_ends: usize,
    ban_nodes: usize,
    words: usize,
}

/// What the host has to know of a request that is in a lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct InLane {
    pub(super) first_row: u32,
    pub(super) slot: u32,
    /// Beams are distinct samples, whose keys are read.
    pub(super) distinct: bool,
    /// Log-probabilities are read.
    pub(super) log_probs: bool,
}

/// Words of a `RequestEntry`.
const ENTRY: usize = size_of::<RequestEntry>() / size_of::<u32>();

/// A lane for cohorts.
pub(super) struct Cohorts {
    pub(super) plan: CohortPlan,
    pub(super) extent: CohortExtent,
    /// Tokens chosen so far; the state before step `chosen` is `states[chosen % 2]`.
    pub(super) chosen: usize,
    /// Written and not yet read: its enqueued operations still read its slots.
    pub(super) outstanding: bool,
    pub(super) requests: Vec<InLane>,
    address: u64,
    log_probs: u64,
    offsets: CohortOffsets,
    states: [StateView; 2],
    staging: Staging,
}

impl Cohorts {
    pub(super) fn plan(driver: &Arc<Driver>, memory: &mut Memory, plan: CohortPlan) -> Result<Cohorts, DeviceError> {
        let CohortPlan { rows, steps, requests, banned_nodes, lists } = plan;
        if lists.is_some_and(|lists| lists.items > 1) {
            return Err(DeviceError::Unavailable("lists of semantic IDs are not served on CUDA yet".into()));
        }
        let mut layout = Layout::default();
        let mut offsets = CohortOffsets {
            counts: layout.add(4),
            requests: layout.add(ENTRY * requests),
            row_request: layout.add(rows),
            ban_ends: layout.add(requests * (MAX_LEVELS + 1)),
            ban_nodes: layout.add(banned_nodes),
            words: 0,
        };
        offsets.words = layout.words;
        let what = format!("cohort lane of {rows} rows");
        let address = memory.zeroed(Purpose::Workspace, what.clone(), offsets.words * 4)?;
        let mut state = || {
            let mut layout = Layout::default();
            let parts = [rows, rows, rows, requests, steps * rows, rows, rows].map(|count| layout.add(count));
            let base = memory.zeroed(Purpose::Workspace, format!("beam state, {what}"), layout.words * 4)?;
            let [node, score, token, live, ancestors, log_prob, key] = parts.map(|offset| base + 4 * offset as u64);
            Ok(StateView { node, score, token, live, ancestors, log_prob, key })
        };
        let states = [state()?, state()?];
        let bytes = steps * rows * size_of::<LogProb>();
        let log_probs = memory.zeroed(Purpose::Workspace, format!("log-probabilities, {what}"), bytes)?;
        Ok(Cohorts {
            plan,
            extent: CohortExtent::default(),
            chosen: 0,
            outstanding: false,
            requests: Vec::with_capacity(requests),
            address,
            log_probs,
            staging: Staging::plan(driver, 1, offsets.words)?,
            offsets,
            states,
        })
    }

    /// Whether a request's keys, and whether its log-probabilities, are read with the beams.
    pub(super) fn wants(&self) -> (bool, bool) {
        let any = |of: fn(&InLane) -> bool| self.requests.iter().any(of);
        (any(|request| request.distinct), any(|request| request.log_probs))
    }

    /// Enqueues a cohort's descriptor over `slots` and `masks` mask slots. The beam state is reset by a kernel that the device
    /// launches behind it.
    pub(super) fn write(&mut self, cohort: &Cohort, slots: &Slots, masks: usize) -> Result<(), DeviceError> {
        cohort.check(&self.plan, (slots.count(), masks))?;
        let CohortPlan { rows: row_capacity, requests: request_capacity, .. } = self.plan;
        let end = cohort.requests.last().map_or(0, |request| request.first_row + request.beams) as usize;
        let offsets = &self.offsets;
        self.staging.send(Queue::Search, self.address, |words| {
            let counts = [cohort.requests.len() as u32, end as u32, 0, 0];
            words[offsets.counts..][..4].copy_from_slice(&counts);
            words[offsets.row_request..][..end].fill(u32::MAX);
            let mut ban = 0;
            for (index, request) in cohort.requests.iter().enumerate() {
                words[offsets.requests + ENTRY * index..][..ENTRY].copy_from_slice(&entry(request));
                words[offsets.row_request + request.first_row as usize..][..request.beams as usize].fill(index as u32);
                let ends = offsets.ban_ends + index * (MAX_LEVELS + 1);
                words[ends] = ban as u32;
                for level in 0..MAX_LEVELS {
                    let nodes = request.banned_nodes.get(level).map_or(&[][..], Vec::as_slice);
                    words[offsets.ban_nodes + ban..][..nodes.len()].copy_from_slice(nodes);
                    ban += nodes.len();
                    words[ends + 1 + level] = ban as u32;
                }
            }
            offsets.ban_nodes + ban
        })?;
        let longest =
            |segment| cohort.requests.iter().map(|request| slots.len(request.slot, segment)).max().unwrap_or(0);
        self.extent = CohortExtent {
            // From one on: operations decide by it whether a launch fills the card.
            requests: cohort.requests.len().next_power_of_two().min(request_capacity),
            rows: bucket(end, row_capacity),
            beams: bucket(
                cohort.requests.iter().map(|request| request.beams as usize).max().unwrap_or(0),
                row_capacity,
            ),
            sampled: cohort.requests.iter().any(|request| request.sampling.is_some()),
            splits: [Segment::History, Segment::Prefix].map(|segment| split_bucket(longest(segment))),
        };
        self.requests.clear();
        self.requests.extend(cohort.requests.iter().map(|request| InLane {
            first_row: request.first_row,
            slot: request.slot,
            distinct: request.sampling.is_some_and(|sampling| sampling.kind == SamplingKind::Distinct),
            log_probs: request.log_probs,
        }));
        (self.chosen, self.outstanding) = (0, true);
        Ok(())
    }

    /// Where the parts are.
    pub(super) fn view(&self) -> CohortView {
        let at = |offset: usize| self.address + 4 * offset as u64;
        CohortView {
            requests_count: at(self.offsets.counts),
            rows: at(self.offsets.counts + 1),
            requests: at(self.offsets.requests),
            row_request: at(self.offsets.row_request),
            ban_ends: at(self.offsets.ban_ends),
            ban_nodes: at(self.offsets.ban_nodes),
            log_probs: self.log_probs,
        }
    }

    /// The beams before the next step.
    pub(super) fn now(&self) -> StateView {
        self.states[self.chosen % 2]
    }

    /// Where the next step's beams go.
    pub(super) fn next(&self) -> StateView {
        self.states[(self.chosen + 1) % 2]
    }
}

/// A request as kernels read it: the words of a `RequestEntry`, in its order.
fn entry(request: &CohortRequest) -> [u32; ENTRY] {
    let of_kind = |kind| match kind {
        SamplingKind::Independent => SAMPLING_INDEPENDENT,
        SamplingKind::Distinct => SAMPLING_DISTINCT,
    };
    let [sampling, low, high, scale, root_key] = match &request.sampling {
        None => [SAMPLING_NONE, 0, 0, 0, 0],
        Some(sampling) => {
            let Sampling { kind, seed, .. } = *sampling;
            let [scale, root_key] = [sampling.scale(), Noise::root(sampling)].map(f32::to_bits);
            [of_kind(kind), seed as u32, (seed >> 32) as u32, scale, root_key]
        }
    };
    let mask = request.mask.map_or(0, |slot| slot + 1);
    [request.slot, request.beams, request.first_row, mask, sampling, low, high, scale, root_key, 0]
}
