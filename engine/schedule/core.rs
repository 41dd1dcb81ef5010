//! The engine loop: the one thread that owns all device state.
//!
//! Every turn takes in newcomers, gives slots and pages to the most urgent, enqueues one stage of the prefill batch, and
//! one step of each cohort. Prefill and decode are never mixed in one launch; nobody waits for another's whole request.
//! The thread never blocks on a socket, a file or a lock: it meets the host threads in bounded queues.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::device::{Beam, Cohort, CohortRequest, Device, DeviceError, SlotState, Span, TokenBatch, TokenLane};
use crate::kv::PageAllocator;
use crate::model::{CohortLanes, Model};
use crate::request::RefusalKind;
use crate::schedule::cost::CostModel;
use crate::schedule::resolve::Resolved;
use crate::schedule::stats::Stats;
use crate::schedule::ticket::Ticket;
use crate::search::Searcher;

/// A resolved request on its way to the device.
pub(super) struct Newcomer {
    pub ticket: Ticket,
    pub resolved: Resolved,
    pub resolve: Duration,
}

/// A searched request on its way back.
pub(super) struct Finished {
    pub ticket: Ticket,
    pub resolved: Resolved,
    pub beams: Vec<Beam>,
    pub timings: Marks,
}

/// Durations of the stages so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Marks {
    pub resolve: Duration,
    pub queue: Duration,
    pub prefill: Duration,
    pub search: Duration,
}

/// What the loop is built from.
pub(super) struct Parts {
    pub device: Box<dyn Device>,
    pub model: Box<dyn Model>,
    pub searcher: Searcher,
    pub prefill_lane: TokenLane,
    pub cohort_lanes: Vec<CohortLanes>,
    pub geometry: Geometry,
    pub stats: Arc<Stats>,
}

/// The numbers the loop schedules by.
#[derive(Clone, Debug)]
pub(super) struct Geometry {
    /// Whole prompts only: a bidirectional encoder cannot be cut by tokens.
    pub whole_prompts: bool,
    /// Rows of a prefill batch that is filled up with more than one prompt.
    pub prefill_tokens: usize,
    pub cohort_rows: usize,
    pub slots: usize,
    pub page_tokens: usize,
    pub history_pages: usize,
    pub decoder_prefix: Vec<u32>,
}

/// A request that holds a slot and pages.
struct Running {
    ticket: Ticket,
    resolved: Resolved,
    pages: Vec<u32>,
    /// Prompt tokens whose prefill has been enqueued.
    prefilled: usize,
    entered: Instant,
    /// When the stage it is in began.
    since: Instant,
    marks: Marks,
}

struct Prefill {
    /// Slots of the batch; those whose prompt it completes are flagged.
    members: Vec<(u32, bool)>,
    tokens: usize,
    stage: usize,
    spent: Duration,
}

struct Search {
    slots: Vec<u32>,
    rows: usize,
    step: usize,
    spent: Duration,
}

/// The loop's state.
pub(super) struct Core {
    parts: Parts,
    incoming: Receiver<Newcomer>,
    outgoing: Sender<Finished>,
    /// Requests without a slot, most urgent first; the number breaks ties by arrival.
    waiting: BTreeMap<(Instant, u64), (Newcomer, Instant)>,
    arrivals: u64,
    slots: Vec<Option<Running>>,
    free_slots: Vec<u32>,
    pages: PageAllocator,
    /// Slots with prompt tokens left, in order of admission.
    prefilling: Vec<u32>,
    prefill: Option<Prefill>,
    /// Slots that wait for a cohort.
    ready: Vec<u32>,
    searches: Vec<Option<Search>>,
    cost: CostModel,
    closed: bool,
}

impl Core {
    pub fn new(parts: Parts, incoming: Receiver<Newcomer>, outgoing: Sender<Finished>) -> Core {
        let slots = parts.geometry.slots;
        let slot_count = u32::try_from(slots).expect("slots are few");
        Core {
            incoming,
            outgoing,
            waiting: BTreeMap::new(),
            arrivals: 0,
            slots: (0..slots).map(|_| None).collect(),
            free_slots: (0..slot_count).rev().collect(),
            pages: PageAllocator::new(parts.geometry.history_pages),
            prefilling: Vec::with_capacity(slots),
            prefill: None,
            ready: Vec::with_capacity(slots),
            searches: parts.cohort_lanes.iter().map(|_| None).collect(),
            cost: CostModel::new(parts.geometry.prefill_tokens, parts.geometry.cohort_rows),
            closed: false,
            parts,
        }
    }

    /// Runs until the incoming queue is closed and every request is answered.
    pub fn run(mut self) {
        loop {
            self.receive();
            if self.closed && self.is_idle() {
                break;
            }
            self.drop_stopped();
            self.admit();
            self.advance_prefill();
            self.form_cohorts();
            self.advance_searches();
            self.publish();
        }
        assert_eq!(self.pages.available(), self.pages.total(), "every page is back when the last request is answered");
        assert_eq!(self.free_slots.len(), self.slots.len(), "every slot is back when the last request is answered");
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.free_slots.len() == self.slots.len()
    }

    fn receive(&mut self) {
        if self.is_idle() && !self.closed {
            // Nothing to do: sleep until somebody comes. The timeout only bounds how stale the statistics get.
            match self.incoming.recv_timeout(Duration::from_secs(1)) {
                Ok(newcomer) => self.take_in(newcomer),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.closed = true,
            }
        }
        while !self.closed {
            match self.incoming.try_recv() {
                Ok(newcomer) => self.take_in(newcomer),
                Err(crossbeam_channel::TryRecvError::Empty) => break,
                Err(crossbeam_channel::TryRecvError::Disconnected) => self.closed = true,
            }
        }
    }

    /// Queues a newcomer, or refuses it when what is ahead of it leaves too little time.
    fn take_in(&mut self, newcomer: Newcomer) {
        let now = Instant::now();
        if let Some(refusal) = newcomer.ticket.stopped(now, "before it was queued") {
            return newcomer.ticket.answer(Err(refusal));
        }
        let (mut tokens, mut rows) = (newcomer.resolved.tokens.len(), newcomer.resolved.beams as usize);
        let ahead = self.waiting.range(..(newcomer.ticket.deadline, u64::MAX)).map(|(_, (other, _))| &other.resolved);
        let running = self.slots.iter().flatten();
        for (more_tokens, more_rows) in ahead
            .map(|other| (other.tokens.len(), other.beams as usize))
            .chain(running.map(|r| (r.resolved.tokens.len() - r.prefilled, r.resolved.beams as usize)))
        {
            tokens += more_tokens;
            rows += more_rows;
        }
        let needed = self.cost.estimate(tokens, rows);
        let left = newcomer.ticket.deadline.saturating_duration_since(now);
        if needed > left {
            let message = format!(
                "about {} us of work ahead and its own, {} us left: it would be late",
                needed.as_micros(),
                left.as_micros()
            );
            return newcomer.ticket.refuse(RefusalKind::Deadline, message);
        }
        self.arrivals += 1;
        self.waiting.insert((newcomer.ticket.deadline, self.arrivals), (newcomer, now));
    }

    /// Answers requests whose caller or clock has stopped them, wherever they can still be taken out.
    fn drop_stopped(&mut self) {
        let now = Instant::now();
        let stopped: Vec<_> = self
            .waiting
            .iter()
            .filter_map(|(key, (newcomer, _))| Some((*key, newcomer.ticket.stopped(now, "while it waited")?)))
            .collect();
        for (key, refusal) in stopped {
            let (newcomer, _) = self.waiting.remove(&key).expect("the key was just seen");
            newcomer.ticket.answer(Err(refusal));
        }
        // A slot that is in the running prefill batch stays until the batch is through.
        let busy: Vec<u32> =
            self.prefill.iter().flat_map(|batch| batch.members.iter().map(|member| member.0)).collect();
        let mut leaving = Vec::new();
        for slot in self.prefilling.iter().chain(&self.ready).filter(|slot| !busy.contains(slot)) {
            let running = self.slots[*slot as usize].as_ref().expect("a listed slot is taken");
            if let Some(refusal) = running.ticket.stopped(now, "before its search") {
                leaving.push((*slot, refusal));
            }
        }
        for (slot, refusal) in leaving {
            self.prefilling.retain(|other| *other != slot);
            self.ready.retain(|other| *other != slot);
            self.release(slot).ticket.answer(Err(refusal));
        }
    }

    /// Frees a slot and its pages.
    fn release(&mut self, slot: u32) -> Running {
        let mut running = self.slots[slot as usize].take().expect("a released slot is taken");
        self.pages.release(std::mem::take(&mut running.pages));
        self.free_slots.push(slot);
        running
    }

    /// Gives slots and pages to the most urgent. A request that does not fit waits, and nobody less urgent overtakes it.
    fn admit(&mut self) {
        while let Some(entry) = self.waiting.first_entry() {
            let needed = entry.get().0.resolved.tokens.len().div_ceil(self.parts.geometry.page_tokens);
            if self.free_slots.is_empty() {
                return;
            }
            let Some(pages) = self.pages.reserve(needed) else { return };
            let slot = self.free_slots.pop().expect("one was just seen");
            let (newcomer, entered) = entry.remove();
            let now = Instant::now();
            let marks = Marks { resolve: newcomer.resolve, ..Marks::default() };
            let Newcomer { ticket, resolved, .. } = newcomer;
            self.slots[slot as usize] =
                Some(Running { ticket, resolved, pages, prefilled: 0, entered, since: now, marks });
            self.prefilling.push(slot);
        }
    }

    fn advance_prefill(&mut self) {
        if self.prefill.is_none() {
            self.start_prefill();
        }
        let Some(mut batch) = self.prefill.take() else { return };
        let began = Instant::now();
        let Parts { device, model, prefill_lane, .. } = &mut self.parts;
        if let Err(error) = model.prefill(device.as_mut(), *prefill_lane, batch.stage) {
            return self.fail(batch.members.iter().map(|member| member.0).collect(), &error);
        }
        batch.stage += 1;
        batch.spent += began.elapsed();
        if batch.stage < self.parts.model.prefill_stages() {
            self.prefill = Some(batch);
            return;
        }
        self.cost.observe_prefill(batch.spent, batch.tokens);
        self.parts.stats.prefill_tokens.fetch_add(batch.tokens as u64, Ordering::Relaxed);
        let now = Instant::now();
        for (slot, complete) in batch.members {
            if complete {
                self.prefilling.retain(|other| *other != slot);
                self.ready.push(slot);
                let running = self.running(slot);
                running.marks.prefill = now - running.since;
                running.since = now;
            }
        }
    }

    fn running(&mut self, slot: u32) -> &mut Running {
        self.slots[slot as usize].as_mut().expect("a scheduled slot is taken")
    }

    /// Fills the prefill lane with the most urgent prompts, whole or by chunks.
    fn start_prefill(&mut self) {
        let slots = &self.slots;
        self.prefilling.sort_by_key(|slot| slots[*slot as usize].as_ref().map(|running| running.ticket.deadline));
        let geometry = &self.parts.geometry;
        let (whole, budget) = (geometry.whole_prompts, geometry.prefill_tokens);
        let mut batch = TokenBatch::default();
        let mut members = Vec::new();
        let began = Instant::now();
        for index in 0..self.prefilling.len() {
            let slot = self.prefilling[index];
            let room = budget.saturating_sub(batch.tokens.len());
            let running = self.slots[slot as usize].as_mut().expect("a prefilling slot is taken");
            let left = running.resolved.tokens.len() - running.prefilled;
            // The first prompt always goes in: the lane holds the longest one whole.
            let rows = if whole && (left <= room || batch.tokens.is_empty()) { left } else { left.min(room) };
            if rows == 0 || (whole && rows < left) {
                break;
            }
            let first = running.prefilled;
            let complete = rows == left;
            batch.spans.push(Span {
                slot,
                first_row: batch.tokens.len() as u32,
                rows: rows as u32,
                first_position: first as u32,
                last: complete,
            });
            batch.tokens.extend_from_slice(&running.resolved.tokens[first..first + rows]);
            if first == 0 {
                running.marks.queue = began - running.entered;
                running.since = began;
            }
            running.prefilled += rows;
            members.push((slot, complete));
        }
        if members.is_empty() {
            return;
        }
        let tokens = batch.tokens.len();
        match self.write_prefill(&batch) {
            Ok(()) => self.prefill = Some(Prefill { members, tokens, stage: 0, spent: began.elapsed() }),
            Err(error) => self.fail(members.into_iter().map(|member| member.0).collect(), &error),
        }
    }

    fn write_prefill(&mut self, batch: &TokenBatch) -> Result<(), DeviceError> {
        let prefix_len = self.parts.geometry.decoder_prefix.len() as u32;
        for span in &batch.spans {
            let running = self.slots[span.slot as usize].as_ref().expect("a prefilling slot is taken");
            let state = SlotState {
                history_len: span.first_position + span.rows,
                history_pages: running.pages.clone(),
                prefix_len,
                // One page a slot, planned for the longest prefix.
                prefix_pages: if prefix_len == 0 { Vec::new() } else { vec![span.slot] },
            };
            self.parts.device.write_slot(span.slot, &state)?;
        }
        self.parts.device.write_tokens(self.parts.prefill_lane, batch)
    }

    /// Starts searches for requests that have finished prefill, as many together as a cohort holds.
    fn form_cohorts(&mut self) {
        for lane in 0..self.searches.len() {
            if self.searches[lane].is_some() || self.ready.is_empty() {
                continue;
            }
            let mut cohort = Cohort::default();
            let mut slots = Vec::new();
            let mut rows = 0;
            while let Some(slot) = self.ready.first().copied() {
                let running = self.slots[slot as usize].as_mut().expect("a ready slot is taken");
                let beams = running.resolved.beams as usize;
                if rows + beams > self.parts.geometry.cohort_rows {
                    break;
                }
                self.ready.remove(0);
                cohort.requests.push(CohortRequest {
                    slot,
                    beams: beams as u32,
                    first_row: rows as u32,
                    banned_nodes: std::mem::take(&mut running.resolved.banned_nodes),
                });
                slots.push(slot);
                rows += beams;
            }
            match self.write_cohort(lane, &cohort) {
                Ok(()) => self.searches[lane] = Some(Search { slots, rows, step: 0, spent: Duration::ZERO }),
                Err(error) => self.fail(slots, &error),
            }
        }
    }

    fn write_cohort(&mut self, lane: usize, cohort: &Cohort) -> Result<(), DeviceError> {
        let lanes = self.parts.cohort_lanes[lane];
        let prefix = &self.parts.geometry.decoder_prefix;
        if !prefix.is_empty() {
            let mut batch = TokenBatch::default();
            for request in &cohort.requests {
                batch.spans.push(Span {
                    slot: request.slot,
                    first_row: batch.tokens.len() as u32,
                    rows: prefix.len() as u32,
                    first_position: 0,
                    last: true,
                });
                batch.tokens.extend_from_slice(prefix);
            }
            self.parts.device.write_tokens(lanes.prefix, &batch)?;
        }
        self.parts.device.write_cohort(lanes.cohort, cohort)
    }

    /// One step of each cohort; those that are through are read and sent back.
    fn advance_searches(&mut self) {
        for lane in 0..self.searches.len() {
            let Some(mut search) = self.searches[lane].take() else { continue };
            let began = Instant::now();
            let lanes = self.parts.cohort_lanes[lane];
            let Parts { device, model, searcher, .. } = &mut self.parts;
            let mut outcome = searcher.step(device.as_mut(), model.as_mut(), &lanes, search.step).map(|()| None);
            search.step += 1;
            if outcome.is_ok() && search.step == searcher.plan().steps() {
                outcome = device.read_beams(lanes.cohort).map(Some);
            }
            search.spent += began.elapsed();
            match outcome {
                Ok(None) => self.searches[lane] = Some(search),
                Ok(Some(beams)) => self.finish(search, beams),
                Err(error) => self.fail(search.slots, &error),
            }
        }
    }

    fn finish(&mut self, search: Search, beams: Vec<Vec<Beam>>) {
        self.cost.observe_search(search.spent, search.rows);
        let stats = &self.parts.stats;
        stats.cohorts.fetch_add(1, Ordering::Relaxed);
        stats.cohort_requests.fetch_add(search.slots.len() as u64, Ordering::Relaxed);
        let now = Instant::now();
        for (slot, beams) in search.slots.into_iter().zip(beams) {
            let Running { ticket, resolved, since, mut marks, .. } = self.release(slot);
            marks.search = now - since;
            // The queue holds every request in flight, so this never blocks; it fails only when the host threads are
            // gone, and then the dropped ticket answers.
            let _ = self.outgoing.send(Finished { ticket, resolved, beams, timings: marks });
        }
    }

    /// Refuses the requests of a batch that the device failed.
    fn fail(&mut self, slots: Vec<u32>, error: &DeviceError) {
        tracing::error!(%error, requests = slots.len(), "the device failed a batch");
        for slot in slots {
            self.prefilling.retain(|other| *other != slot);
            self.ready.retain(|other| *other != slot);
            self.release(slot).ticket.refuse(RefusalKind::DeviceFailed, error.to_string());
        }
    }

    fn publish(&self) {
        let stats = &self.parts.stats;
        stats.waiting.store(self.waiting.len() as u64, Ordering::Relaxed);
        stats.running.store((self.slots.len() - self.free_slots.len()) as u64, Ordering::Relaxed);
        stats.free_pages.store(self.pages.available() as u64, Ordering::Relaxed);
    }
}
