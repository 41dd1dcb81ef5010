//! The engine loop: the one thread that owns all device state.
//!
//! Every turn takes in newcomers, enqueues one stage of the prefill batch, gives slots and pages to the most urgent, and
//! enqueues one step of each cohort. Prefill and decode are never mixed in one launch; nobody waits for another's whole
//! request. The thread never blocks on a socket, a file or a lock: it meets the host thread in bounded queues.
//!
//! Here is who is let in, who gets what, and who is dropped; [`prefill`] and [`search`] drive the device, [`recovery`] opens
//! it again when it is lost, [`weights`] puts another in its place.

mod masks;
mod prefill;
mod recovery;
mod search;
#[cfg(test)]
pub(in crate::schedule) mod simulation;
mod timing;
mod weights;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, select};

use crate::device::{Beam, Device, DeviceError, TokenLane};
use crate::kv::PageAllocator;
use crate::model::{CohortLanes, Model};
use crate::request::{Policy, Refusal, RefusalKind};
use crate::schedule::cost::CostModel;
use crate::schedule::load::LoadError;
use crate::schedule::resolve::Resolved;
use crate::schedule::stats::Stats;
use crate::schedule::ticket::Ticket;
use crate::search::Searcher;

use masks::MaskSlots;
use prefill::Prefill;
use search::Search;
use timing::{Lesson, Timing};
use weights::Pending;
pub(super) use weights::{Opening, Swap, Swapped};

/// A resolved request on its way to the device.
pub(super) struct Newcomer {
    pub ticket: Ticket,
    pub resolved: Resolved,
    pub resolve: Duration,
    /// When it was resolved: from then on it waits for the device.
    pub since: Instant,
}

/// A searched request on its way back.
pub(super) struct Finished {
    pub ticket: Ticket,
    pub resolved: Resolved,
    pub beams: Vec<Beam>,
    /// The weights that computed them.
    pub policy: Arc<Policy>,
    pub timings: Marks,
}

/// Durations of the stages so far. They follow each other without gaps.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Marks {
    pub resolve: Duration,
    pub queue: Duration,
    pub prefill: Duration,
    pub search: Duration,
}

/// Tells the time; the simulation has a clock of its own.
pub(super) type Clock = Box<dyn Fn() -> Instant + Send>;

/// A device and everything that lives on it.
pub(crate) struct Hardware {
    pub device: Box<dyn Device>,
    pub model: Box<dyn Model>,
    pub searcher: Searcher,
    pub prefill_lane: TokenLane,
    pub cohort_lanes: Vec<CohortLanes>,
}

/// Opens the device once more, as at start.
pub(super) type Reopen = Box<dyn FnMut() -> Result<Hardware, LoadError> + Send>;

/// What the loop is built from.
pub(super) struct Parts {
    pub hardware: Hardware,
    /// The weights on it.
    pub policy: Policy,
    pub reopen: Reopen,
    pub opening: Opening,
    /// Weights to come.
    pub swaps: Receiver<Swap>,
    pub geometry: Geometry,
    pub stats: Arc<Stats>,
    pub clock: Clock,
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
    /// Mask slots.
    pub masks: usize,
}

/// A request that holds a slot and pages.
struct Running {
    ticket: Ticket,
    resolved: Resolved,
    pages: Vec<u32>,
    /// Prompt tokens whose prefill has been enqueued.
    prefilled: usize,
    /// When the stage it is in began.
    since: Instant,
    marks: Marks,
}

/// The loop's state.
pub(super) struct Core {
    /// `None` while the device is opened again, and for good when that did not help.
    hardware: Option<Hardware>,
    /// The weights on it.
    policy: Arc<Policy>,
    reopen: Reopen,
    opening: Opening,
    swaps: Receiver<Swap>,
    /// Weights that wait for those with a slot: nobody else gets one.
    swap: Option<Pending>,
    /// When the device was last opened again.
    back_at: Option<Instant>,
    geometry: Geometry,
    stats: Arc<Stats>,
    clock: Clock,
    incoming: Receiver<Newcomer>,
    outgoing: Sender<Finished>,
    /// Requests without a slot, most urgent first; the number breaks ties by arrival.
    waiting: BTreeMap<(Instant, u64), Newcomer>,
    arrivals: u64,
    slots: Vec<Option<Running>>,
    free_slots: Vec<u32>,
    pages: PageAllocator,
    /// Slots with prompt tokens left.
    prefilling: Vec<u32>,
    prefill: Option<Prefill>,
    /// Slots that wait for a cohort.
    ready: Vec<u32>,
    searches: Vec<Option<Search>>,
    masks: MaskSlots,
    cost: CostModel,
    /// Of batches and cohorts that are through or given up, until the device has told.
    timings: Vec<(Timing, Lesson)>,
    closed: bool,
}

impl Core {
    pub fn new(parts: Parts, incoming: Receiver<Newcomer>, outgoing: Sender<Finished>) -> Core {
        let Parts { hardware, policy, reopen, opening, swaps, geometry, stats, clock } = parts;
        let slots = geometry.slots;
        let slot_count = u32::try_from(slots).expect("slots are few");
        stats.slots.store(slots as u64, Ordering::Relaxed);
        stats.pages.store(geometry.history_pages as u64, Ordering::Relaxed);
        stats.free_pages.store(geometry.history_pages as u64, Ordering::Relaxed);
        Core {
            incoming,
            outgoing,
            waiting: BTreeMap::new(),
            arrivals: 0,
            slots: (0..slots).map(|_| None).collect(),
            free_slots: (0..slot_count).rev().collect(),
            pages: PageAllocator::new(geometry.history_pages),
            prefilling: Vec::with_capacity(slots),
            prefill: None,
            ready: Vec::with_capacity(slots),
            searches: hardware.cohort_lanes.iter().map(|_| None).collect(),
            cost: CostModel::new(geometry.prefill_tokens, geometry.cohort_rows),
            timings: Vec::new(),
            masks: MaskSlots::new(geometry.masks),
            closed: false,
            hardware: Some(hardware),
            policy: Arc::new(policy),
            reopen,
            opening,
            swaps,
            swap: None,
            back_at: None,
            geometry,
            stats,
            clock,
        }
    }

    /// Runs until the incoming queue is closed and every request is answered.
    pub fn run(mut self) {
        while !self.is_done() {
            if self.is_idle() {
                self.sleep();
            }
            self.turn();
        }
        assert_eq!(self.pages.available(), self.pages.total(), "every page is back when the last request is answered");
        assert_eq!(self.free_slots.len(), self.slots.len(), "every slot is back when the last request is answered");
    }

    /// One round of everything. What is under way comes first, then dropping, then what is new: so nothing is begun for a
    /// request that nobody waits for any more.
    fn turn(&mut self) {
        self.receive();
        self.advance_prefill();
        self.drop_stopped();
        self.replace_weights();
        self.admit();
        self.begin_prefill();
        self.form_cohorts();
        self.advance_searches();
        self.learn();
        self.publish();
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.free_slots.len() == self.slots.len()
    }

    fn is_done(&self) -> bool {
        self.closed && self.is_idle()
    }

    fn now(&self) -> Instant {
        (self.clock)()
    }

    /// Nothing to do: sleeps until somebody comes. The timeout only bounds how stale the statistics get.
    fn sleep(&mut self) {
        select! {
            recv(self.incoming) -> newcomer => match newcomer {
                Ok(newcomer) => self.take_in(newcomer),
                Err(_) => self.closed = true,
            },
            recv(self.swaps) -> swap => match swap {
                Ok(swap) => self.expect_swap(swap),
                // Nobody will ever replace anything: a closed queue must not keep this thread awake.
                Err(_) => self.swaps = crossbeam_channel::never(),
            },
            default(Duration::from_secs(1)) => {}
        }
    }

    /// Takes in who has come by now and no more: a flood of newcomers must not hold up what is under way.
    fn receive(&mut self) {
        for _ in 0..=self.incoming.len() {
            match self.incoming.try_recv() {
                Ok(newcomer) => self.take_in(newcomer),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.closed = true;
                    return;
                }
            }
        }
    }

    /// Queues a newcomer, or refuses it when what is ahead of it leaves too little time.
    fn take_in(&mut self, newcomer: Newcomer) {
        let now = self.now();
        if let Some(refusal) = newcomer.ticket.stopped(now, "before it was queued") {
            return newcomer.ticket.answer(Err(refusal));
        }
        let (tokens, beams) = (newcomer.resolved.tokens.len(), newcomer.resolved.beams as usize);
        if self.hardware.is_none() {
            return newcomer.ticket.refuse(RefusalKind::DeviceFailed, recovery::GIVEN_UP);
        }
        let Geometry { cohort_rows, history_pages, .. } = self.geometry;
        // The door's bounds keep such requests out; one that got here would stop the queue for ever.
        if tokens == 0 || self.pages_for(tokens) > history_pages || beams > cohort_rows {
            let message =
                format!("{tokens} tokens and {beams} beams never fit {history_pages} pages, {cohort_rows} rows");
            return newcomer.ticket.refuse(RefusalKind::TooLong, message);
        }
        let deadline = newcomer.ticket.deadline;
        let ahead = self.work_ahead(deadline);
        let rows = newcomer.resolved.search_rows();
        let in_turn = self.cost.estimate(ahead.0 + tokens, ahead.1 + rows);
        let needed = in_turn.max(self.cost.estimate_among_others(tokens, rows));
        if let Some(refusal) = would_be_late(deadline.saturating_duration_since(now), needed) {
            if self.is_idle() {
                self.cost.doubt();
            }
            return newcomer.ticket.answer(Err(refusal));
        }
        self.arrivals += 1;
        self.waiting.insert((deadline, self.arrivals), newcomer);
    }

    /// Prompt tokens and beam rows that will be computed before a request of this deadline is through: what is more urgent,
    /// and searches, which nobody overtakes.
    fn work_ahead(&self, deadline: Instant) -> (usize, usize) {
        let waiting = self.waiting.range(..(deadline, u64::MAX)).map(|(_, other)| (&other.resolved, 0));
        let running = self.slots.iter().flatten().map(|running| (running, running.resolved.tokens.len()));
        let running = running
            .filter(|(running, tokens)| running.ticket.deadline <= deadline || running.prefilled == *tokens)
            .map(|(running, _)| (&running.resolved, running.prefilled));
        waiting.chain(running).fold((0, 0), |(tokens, rows), (resolved, prefilled)| {
            (tokens + resolved.tokens.len() - prefilled, rows + resolved.search_rows())
        })
    }

    fn pages_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.geometry.page_tokens)
    }

    /// Answers requests whose caller or clock has stopped them, wherever they can still be taken out. A batch or a cohort
    /// goes on while anybody in it still waits; what serves nobody is given up.
    fn drop_stopped(&mut self) {
        let now = self.now();
        let stopped: Vec<_> = self
            .waiting
            .iter()
            .filter_map(|(key, newcomer)| Some((*key, newcomer.ticket.stopped(now, "while it waited")?)))
            .collect();
        for (key, refusal) in stopped {
            let newcomer = self.waiting.remove(&key).expect("the key was just seen");
            newcomer.ticket.answer(Err(refusal));
        }
        let slots = &self.slots;
        let is_wanted = |slot: u32| {
            let running = slots[slot as usize].as_ref().expect("a scheduled slot is taken");
            running.ticket.stopped(now, "").is_none()
        };
        let given_up = self.prefill.take_if(|batch| !batch.members.iter().any(|member| is_wanted(member.0)));
        self.timings.extend(given_up.map(|batch| (batch.timing, Lesson::Nothing)));
        for search in &mut self.searches {
            let given_up = search.take_if(|search| !search.slots.iter().any(|slot| is_wanted(*slot)));
            self.timings.extend(given_up.map(|search| (search.timing, Lesson::Nothing)));
        }
        let mut busy = vec![false; self.slots.len()];
        let batch = self.prefill.iter().flat_map(|batch| batch.members.iter().map(|member| member.0));
        for slot in batch.chain(self.searches.iter().flatten().flat_map(|search| search.slots.iter().copied())) {
            busy[slot as usize] = true;
        }
        for slot in (0..busy.len()).filter(|slot| !busy[*slot]) {
            let running = self.slots[slot].as_ref();
            if let Some(refusal) = running.and_then(|running| running.ticket.stopped(now, "before its search was done"))
            {
                self.release(slot as u32).ticket.answer(Err(refusal));
            }
        }
    }

    /// Frees a slot and its pages.
    fn release(&mut self, slot: u32) -> Running {
        let mut running = self.slots[slot as usize].take().expect("a released slot is taken");
        self.prefilling.retain(|other| *other != slot);
        self.ready.retain(|other| *other != slot);
        self.pages.release(std::mem::take(&mut running.pages));
        self.free_slots.push(slot);
        running
    }

    /// Gives slots and pages to the most urgent. A request that does not fit waits, and nobody less urgent overtakes it. While
    /// other weights are to come, everybody waits for them.
    fn admit(&mut self) {
        if self.swap.is_some() {
            return;
        }
        while let Some((key, newcomer)) = self.waiting.first_key_value() {
            let (key, tokens) = (*key, newcomer.resolved.tokens.len());
            if self.free_slots.is_empty() {
                return;
            }
            let Some(pages) = self.pages.reserve(self.pages_for(tokens)) else { return };
            let slot = self.free_slots.pop().expect("one was just seen");
            let Newcomer { ticket, resolved, resolve, since } = self.waiting.remove(&key).expect("one was just seen");
            let marks = Marks { resolve, ..Marks::default() };
            self.slots[slot as usize] = Some(Running { ticket, resolved, pages, prefilled: 0, since, marks });
            self.prefilling.push(slot);
        }
    }

    fn running(&mut self, slot: u32) -> &mut Running {
        self.slots[slot as usize].as_mut().expect("a scheduled slot is taken")
    }

    /// Refuses those in `slots` that can only be late by now, before the device spends time on them that others could use.
    /// Admission errs on the side of accepting, and more urgent requests may have come since.
    fn drop_hopeless(&mut self, slots: &[u32]) {
        let now = self.now();
        for &slot in slots {
            let Running { ticket, resolved, prefilled, .. } = self.running(slot);
            let (left, tokens) = (ticket.deadline.saturating_duration_since(now), resolved.tokens.len() - *prefilled);
            let rows = resolved.search_rows();
            let needed = self.cost.estimate_among_others(tokens, rows);
            if let Some(refusal) = would_be_late(left, needed) {
                if self.waiting.is_empty() && self.free_slots.len() + 1 == self.slots.len() {
                    self.cost.doubt();
                }
                self.release(slot).ticket.answer(Err(refusal));
            }
        }
    }

    /// The device while anything runs on it.
    fn hardware(&mut self) -> &mut Hardware {
        self.hardware.as_mut().expect("nothing is scheduled without a device")
    }

    /// Refuses the requests of a batch that the device failed.
    fn fail(&mut self, slots: Vec<u32>, error: &DeviceError) {
        tracing::error!(%error, requests = slots.len(), "the device failed a batch");
        for slot in slots {
            self.release(slot).ticket.refuse(RefusalKind::DeviceFailed, error.to_string());
        }
        if matches!(error, DeviceError::Lost { .. }) {
            self.recover();
        }
    }

    fn publish(&self) {
        let stats = &self.stats;
        stats.waiting.store(self.waiting.len() as u64, Ordering::Relaxed);
        stats.running.store((self.slots.len() - self.free_slots.len()) as u64, Ordering::Relaxed);
        stats.free_pages.store(self.pages.available() as u64, Ordering::Relaxed);
    }
}

/// Sorts slots by urgency; equal deadlines stay in order.
fn sort_by_deadline(list: &mut [u32], slots: &[Option<Running>]) {
    list.sort_by_key(|slot| slots[*slot as usize].as_ref().map(|running| running.ticket.deadline));
}

fn would_be_late(left: Duration, needed: Duration) -> Option<Refusal> {
    let message =
        || format!("about {} us are needed, {} us left: it would be late", needed.as_micros(), left.as_micros());
    (needed > left).then(|| Refusal::new(RefusalKind::Deadline, message()))
}
