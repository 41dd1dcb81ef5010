//! Descriptors: what varies by request. Token lanes, and cohort lanes with their beam state.
//!
//! Everything here is sized when it is planned; writing a batch or a cohort copies into that space.

use std::ops::Range;
use std::sync::Arc;

use super::lists::Lists;
use super::slots::Slots;
use crate::catalog::NodeMask;
use crate::device::noise::Noise;
use crate::device::{Beam, Cohort, CohortPlan, DeviceError, MAX_LEVELS, Rows, Segment, Span, TokenBatch, check_dense};
use crate::sampling::{LogProb, Sampling, SamplingKind};

/// A token batch as operations read it.
#[derive(Debug, Default)]
pub(super) struct TokenState {
    capacity: usize,
    pub(super) tokens: Vec<u32>,         // [rows]
    pub(super) slots: Vec<u32>,          // [rows]
    pub(super) positions: Vec<u32>,      // [rows] position in the segment
    pub(super) spans: Vec<Span>,         // [spans]
    pub(super) last_rows: Vec<u32>,      // [spans with `last`] batch row
    pub(super) last_slots: Vec<u32>,     // [spans with `last`]
    pub(super) last_positions: Vec<u32>, // [spans with `last`]
    dense_cols: usize,
    dense: Vec<f32>, // [rows, columns of the vectors written]
}

impl TokenState {
    /// Room for `capacity` rows.
    pub(super) fn plan(capacity: usize) -> TokenState {
        let room = || Vec::with_capacity(capacity);
        TokenState {
            capacity,
            tokens: room(),
            slots: room(),
            positions: room(),
            spans: Vec::with_capacity(capacity),
            last_rows: room(),
            last_slots: room(),
            last_positions: room(),
            dense_cols: 0,
            dense: Vec::new(),
        }
    }

    /// Room for input vectors of `cols` elements.
    pub(super) fn plan_dense(&mut self, cols: usize) {
        self.dense_cols = cols;
        self.dense = Vec::with_capacity(self.capacity * cols);
    }

    /// Bytes planned.
    pub(super) fn bytes(&self) -> usize {
        self.capacity * (6 * size_of::<u32>() + size_of::<Span>() + self.dense_cols * size_of::<f32>())
    }

    /// Takes over the batch's input vectors.
    pub(super) fn write_dense(&mut self, values: &[f32]) -> Result<(), DeviceError> {
        check_dense(values.len(), self.tokens.len(), self.dense_cols)?;
        self.dense.clear();
        self.dense.extend_from_slice(values);
        Ok(())
    }

    /// The input vectors, row by row.
    pub(super) fn dense(&self) -> &[f32] {
        &self.dense
    }

    /// Takes over a batch.
    pub(super) fn write(&mut self, batch: &TokenBatch, slots: usize) -> Result<(), DeviceError> {
        batch.check((self.capacity, self.capacity), slots)?;
        for list in [&mut self.slots, &mut self.positions, &mut self.last_rows, &mut self.last_slots] {
            list.clear();
        }
        self.last_positions.clear();
        self.dense.clear();
        self.tokens.clear();
        self.tokens.extend_from_slice(&batch.tokens);
        self.spans.clear();
        self.spans.extend_from_slice(&batch.spans);
        for span in &batch.spans {
            self.slots.extend((0..span.rows).map(|_| span.slot));
            self.positions.extend((0..span.rows).map(|row| span.first_position + row));
            if span.last {
                self.last_rows.push(span.first_row + span.rows - 1);
                self.last_slots.push(span.slot);
                self.last_positions.push(span.first_position + span.rows - 1);
            }
        }
        Ok(())
    }
}

/// State of every beam row: what one step of the search reads and the next one holds.
#[derive(Debug, Default)]
pub(super) struct BeamRows {
    pub(super) node: Vec<u32>,      // [rows] node of the newest level
    pub(super) score: Vec<f32>,     // [rows]
    pub(super) log_prob: Vec<f32>,  // [rows] sum of behaviour log-probabilities, of distinct samples
    pub(super) key: Vec<f32>,       // [rows] perturbed log-probability, of distinct samples
    pub(super) token: Vec<u32>,     // [rows] newest token
    pub(super) parent: Vec<u32>,    // [rows] row of the previous step
    pub(super) ancestors: Vec<u32>, // [rows, steps] row at which the token of that step was decoded
}

impl BeamRows {
    fn plan(rows: usize, steps: usize) -> BeamRows {
        BeamRows {
            node: vec![0; rows],
            score: vec![0.0; rows],
            log_prob: vec![0.0; rows],
            key: vec![0.0; rows],
            token: vec![0; rows],
            parent: vec![0; rows],
            ancestors: vec![0; rows * steps],
        }
    }
}

/// One request of a cohort.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestState {
    pub(super) slot: u32,
    pub(super) beams: u32,
    pub(super) first_row: u32,
    /// Live beams: rows `first_row ..  first_row + live`, best first.
    pub(super) live: u32,
    pub(super) sampling: Option<Sampling>,
    /// Its log-probabilities are read.
    pub(super) log_probs: bool,
    /// Mask slot.
    pub(super) mask: Option<u32>,
}

impl RequestState {
    /// Rows of the live beams.
    pub(super) fn live_rows(&self) -> Range<usize> {
        self.first_row as usize..(self.first_row + self.live) as usize
    }

    /// All rows that the request may use.
    pub(super) fn rows(&self) -> Range<usize> {
        self.first_row as usize..(self.first_row + self.beams) as usize
    }
}

/// A cohort and its beams.
#[derive(Debug, Default)]
pub(super) struct CohortState {
    plan: CohortPlan,
    pub(super) steps: usize,
    /// Tokens chosen so far: the step of the newest token is `chosen - 1`.
    pub(super) chosen: usize,
    pub(super) requests: Vec<RequestState>,    // [requests]
    pub(super) live_ranges: Vec<Range<usize>>, // live rows, neighbours joined
    pub(super) now: BeamRows,
    /// Where the next step's beams are built, then swapped with `now`.
    pub(super) next: BeamRows,
    pub(super) log_probs: Vec<LogProb>, // [rows, steps] of the token that was chosen for that row at that step
    pub(super) lists: Lists,
    banned: Vec<u32>,                 // node ids of all requests and levels
    ban_ends: Vec<[u32; MAX_LEVELS]>, // [requests][level] end in `banned`
}

impl CohortState {
    /// Room for a cohort.
    pub(super) fn plan(plan: CohortPlan) -> CohortState {
        let CohortPlan { rows, steps, requests, banned_nodes, lists } = plan;
        CohortState {
            plan,
            steps,
            requests: Vec::with_capacity(requests),
            live_ranges: Vec::with_capacity(requests),
            now: BeamRows::plan(rows, steps),
            next: BeamRows::plan(rows, steps),
            log_probs: vec![LogProb::default(); rows * steps],
            lists: Lists::plan(lists, rows),
            banned: Vec::with_capacity(banned_nodes),
            ban_ends: Vec::with_capacity(requests),
            ..CohortState::default()
        }
    }

    /// Bytes planned.
    pub(super) fn bytes(&self) -> usize {
        self.plan.rows
            * (2 * (6 + 2 * self.steps) * size_of::<u32>() + size_of::<RequestState>() + size_of::<Range<usize>>())
            + self.lists.bytes()
    }

    /// Takes over a cohort over (slots, masks) and puts one live beam at the root of each request.
    pub(super) fn write(&mut self, cohort: &Cohort, room: (usize, usize)) -> Result<(), DeviceError> {
        cohort.check(&self.plan, room)?;
        self.chosen = 0;
        self.lists.items = cohort.items();
        self.requests.clear();
        self.banned.clear();
        self.ban_ends.clear();
        for request in &cohort.requests {
            let CohortState { requests, now, .. } = self;
            requests.push(RequestState {
                slot: request.slot,
                beams: request.beams,
                first_row: request.first_row,
                live: 1,
                sampling: request.sampling,
                log_probs: request.log_probs,
                mask: request.mask,
            });
            let root = request.first_row as usize;
            (now.node[root], now.score[root], now.token[root], now.parent[root]) = (0, 0.0, 0, request.first_row);
            (now.log_prob[root], now.key[root]) = (0.0, request.sampling.as_ref().map_or(0.0, Noise::root));
            let mut ends = [0; MAX_LEVELS];
            for (level, end) in ends.iter_mut().enumerate() {
                self.banned.extend_from_slice(request.banned_nodes.get(level).map_or(&[], Vec::as_slice));
                *end = self.banned.len() as u32;
            }
            self.ban_ends.push(ends);
        }
        self.join_live_ranges();
        Ok(())
    }

    /// Sorted banned nodes of a request at `level`.
    pub(super) fn banned(&self, request: usize, level: usize) -> &[u32] {
        let end = self.ban_ends[request][level] as usize;
        let start = match (request, level) {
            (0, 0) => 0,
            (_, 0) => self.ban_ends[request - 1][MAX_LEVELS - 1] as usize,
            _ => self.ban_ends[request][level - 1] as usize,
        };
        &self.banned[start..end]
    }

    /// Gathers, for each live beam, the nodes of `level` that the first `item` semantic IDs of its list have used up.
    pub(super) fn gather_spent(&mut self, item: usize, level: usize) {
        if item == 0 {
            return;
        }
        for row in self.live_ranges.iter().cloned().flatten() {
            self.lists.gather(row, &self.now.ancestors[row * self.steps..][..self.steps], (item, level));
        }
    }

    /// Makes the beams built in `next` current.
    pub(super) fn advance(&mut self) {
        std::mem::swap(&mut self.now, &mut self.next);
        self.chosen += 1;
        self.join_live_ranges();
    }

    fn join_live_ranges(&mut self) {
        self.live_ranges.clear();
        for request in &self.requests {
            let rows = request.live_rows();
            match self.live_ranges.last_mut() {
                _ if rows.is_empty() => {}
                Some(range) if range.end == rows.start => range.end = rows.end,
                _ => self.live_ranges.push(rows),
            }
        }
    }

    /// Each request's live beams, best first.
    pub(super) fn beams(&self) -> Vec<Vec<Beam>> {
        let beams = |request: &RequestState| request.live_rows().map(|row| self.beam(request, row)).collect();
        self.requests.iter().map(beams).collect()
    }
}

impl CohortState {
    fn beam(&self, request: &RequestState, row: usize) -> Beam {
        let distinct = request.sampling.is_some_and(|sampling| sampling.kind == SamplingKind::Distinct);
        let steps = if request.log_probs { 0..self.chosen } else { 0..0 };
        let log_prob = |step: usize| {
            let decoded = self.now.ancestors[row * self.steps + step] as usize;
            self.log_probs[decoded * self.steps + step]
        };
        Beam {
            leaf: self.now.node[row],
            earlier: self.lists.earlier(&self.now.ancestors[row * self.steps..][..self.steps], self.chosen),
            score: self.now.score[row],
            key: distinct.then(|| self.now.key[row]),
            log_probs: steps.map(log_prob).collect(),
        }
    }
}

/// Every descriptor of the device.
#[derive(Default)]
pub(super) struct Lanes {
    pub(super) slots: Slots,
    pub(super) masks: Vec<Arc<NodeMask>>,
    pub(super) tokens: Vec<TokenState>,
    pub(super) cohorts: Vec<CohortState>,
}

impl Lanes {
    /// Bytes planned.
    pub(super) fn bytes(&self) -> usize {
        let tokens: usize = self.tokens.iter().map(TokenState::bytes).sum();
        let cohorts: usize = self.cohorts.iter().map(CohortState::bytes).sum();
        tokens + cohorts + self.slots.bytes()
    }

    /// The row ranges that an operation covers, in row order.
    pub(super) fn ranges(&self, rows: Rows) -> RowRanges<'_> {
        let count = match rows {
            Rows::Tokens(lane) => self.tokens[lane.0 as usize].tokens.len(),
            Rows::Last(lane) => self.tokens[lane.0 as usize].last_rows.len(),
            Rows::Requests(lane) => self.cohorts[lane.0 as usize].requests.len(),
            Rows::Beams(lane) => return RowRanges::Many(&self.cohorts[lane.0 as usize].live_ranges),
        };
        if count == 0 { RowRanges::Many(&[]) } else { RowRanges::One(0..count) }
    }

    /// Where a row's token stands: a token in its segment, a beam's `step`-th behind its request's decoder prefix.
    pub(super) fn position(&self, rows: Rows, row: usize, step: usize) -> usize {
        match rows {
            Rows::Tokens(lane) => self.tokens[lane.0 as usize].positions[row] as usize,
            Rows::Last(lane) => self.tokens[lane.0 as usize].last_positions[row] as usize,
            Rows::Beams(lane) => {
                let requests = &self.cohorts[lane.0 as usize].requests;
                let behind = requests.partition_point(|request| request.first_row as usize <= row);
                self.slots.tables(Segment::Prefix).len(requests[behind - 1].slot) + step
            }
            Rows::Requests(_) => panic!("{rows:?} have no positions"),
        }
    }
}

/// Row ranges, none of them empty.
pub(super) enum RowRanges<'a> {
    One(Range<usize>),
    Many(&'a [Range<usize>]),
}

impl std::ops::Deref for RowRanges<'_> {
    type Target = [Range<usize>];

    fn deref(&self) -> &[Range<usize>] {
        match self {
            RowRanges::One(range) => std::slice::from_ref(range),
            RowRanges::Many(ranges) => ranges,
        }
    }
}

/// One past the last row of `ranges`.
pub(super) fn end_of(ranges: &[Range<usize>]) -> usize {
    ranges.last().map_or(0, |range| range.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{CohortLane, CohortRequest, TokenLane};

    fn span(slot: u32, first_row: u32, rows: u32, first_position: u32, last: bool) -> Span {
        Span { slot, first_row, rows, first_position, last }
    }

    #[test]
    fn a_batch_becomes_rows() {
        let mut state = TokenState::plan(8);
        let spans = vec![span(2, 0, 3, 5, true), span(0, 3, 1, 0, false), span(1, 4, 2, 0, true)];
        state.write(&TokenBatch { tokens: vec![1, 2, 3, 4, 5, 6], spans }, 3).unwrap();
        assert_eq!(state.slots, [2, 2, 2, 0, 1, 1]);
        assert_eq!(state.positions, [5, 6, 7, 0, 0, 1]);
        assert_eq!((&state.last_rows[..], &state.last_slots[..]), (&[2, 5][..], &[2, 1][..]));
        assert_eq!(state.last_positions, [7, 1]);
    }

    #[test]
    fn a_batch_that_does_not_fit_its_spans_is_refused() {
        let mut state = TokenState::plan(4);
        for (tokens, spans) in [
            (vec![0; 5], vec![span(0, 0, 5, 0, true)]),
            (vec![0; 3], vec![span(0, 0, 2, 0, true)]),
            (vec![0; 3], vec![span(0, 0, 1, 0, true), span(0, 2, 1, 0, true)]),
            (vec![0; 3], vec![span(9, 0, 3, 0, true)]),
        ] {
            assert!(state.write(&TokenBatch { tokens, spans }, 2).is_err());
        }
    }

    #[test]
    fn a_cohort_keeps_each_requests_bans_apart() {
        let request =
            |first_row, banned_nodes| CohortRequest { beams: 2, first_row, banned_nodes, ..CohortRequest::default() };
        let mut state = CohortState::plan(CohortPlan { rows: 8, steps: 3, requests: 4, banned_nodes: 16, lists: None });
        let requests =
            vec![request(0, vec![vec![1, 4], vec![], vec![9]]), request(2, vec![]), request(6, vec![vec![], vec![3]])];
        state.write(&Cohort { requests }, (1, 0)).unwrap();
        assert_eq!(state.banned(0, 0), [1, 4]);
        assert_eq!(state.banned(0, 2), [9]);
        assert!(state.banned(1, 0).is_empty() && state.banned(1, 2).is_empty() && state.banned(2, 0).is_empty());
        assert_eq!(state.banned(2, 1), [3]);
        assert_eq!(state.live_ranges, [0..1, 2..3, 6..7]);
        state.requests.iter_mut().for_each(|request| request.live = 2);
        state.join_live_ranges();
        assert_eq!(state.live_ranges, [0..4, 6..8]);
        for requests in [vec![request(7, vec![])], vec![request(0, vec![]), request(1, vec![])]] {
            assert!(state.write(&Cohort { requests }, (1, 0)).is_err());
        }
        assert!(state.write(&Cohort { requests: vec![request(0, vec![vec![4, 1]])] }, (1, 0)).is_err());
        let masked = CohortRequest { mask: Some(1), ..request(0, vec![]) };
        assert!(state.write(&Cohort { requests: vec![masked.clone()] }, (1, 1)).is_err());
        assert!(state.write(&Cohort { requests: vec![masked] }, (1, 2)).is_ok());
    }

    #[test]
    fn lanes_say_which_rows_are_live() {
        let mut lanes = Lanes::default();
        lanes.tokens.push(TokenState::plan(4));
        lanes.cohorts.push(CohortState::plan(CohortPlan {
            rows: 4,
            steps: 2,
            requests: 4,
            banned_nodes: 16,
            lists: None,
        }));
        assert!(lanes.ranges(Rows::Tokens(TokenLane(0))).is_empty());
        let batch = TokenBatch { tokens: vec![0; 4], spans: vec![span(0, 0, 2, 0, true), span(1, 2, 2, 0, false)] };
        lanes.tokens[0].write(&batch, 2).unwrap();
        assert_eq!(lanes.ranges(Rows::Tokens(TokenLane(0))).first(), Some(&(0..4)));
        assert_eq!(lanes.ranges(Rows::Last(TokenLane(0))).first(), Some(&(0..1)));
        assert!(lanes.ranges(Rows::Beams(CohortLane(0))).is_empty());
    }
}
