//! The real scheduler under seeded traffic, on a device that checks instead of computing, by a clock of its own.
//!
//! A scenario is a function of its seed; a failure names the seed, and `SIDEREAL_SEED=n` runs that one alone.

pub mod fakes;
pub mod scenario;
mod tests;
pub mod world;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Core, Finished, Geometry, Hardware, Newcomer, Opening, Parts, Reopen, Swap, Swapped};
use crate::device::{CohortLane, TokenLane};
use crate::model::CohortLanes;
use crate::request::{Policy, Provenance, Recommendation, RefusalKind, StageTimings};
use crate::schedule::instructions::DecoderPrompt;
use crate::schedule::resolve::Resolved;
use crate::schedule::stats::Stats;
use crate::schedule::ticket::Ticket;
use fakes::{FakeDevice, FakeModel, LONGEST_LIST, searcher, snapshots};
use scenario::{PATIENT, Planned, PlannedSwap, Scenario};
use world::{Known, Shared, World, prompt};

fn hardware(scenario: &Scenario, world: &Shared, policy: u64) -> Hardware {
    let shape = &scenario.shape;
    let mut device = Box::new(FakeDevice::new(world.clone(), policy));
    let searcher = searcher(scenario.export, shape.cohort_rows, device.as_mut());
    Hardware {
        device,
        model: Box::new(FakeModel { world: world.clone(), policy, stages: shape.stages }),
        searcher,
        prefill_lane: TokenLane(0),
        cohort_lanes: (0..scenario.lanes)
            .map(|index| CohortLanes { index, cohort: CohortLane(index as u32), prefix: TokenLane(index as u32 + 1) })
            .collect(),
    }
}

/// Opens a fake device with the weights of a policy.
pub fn reopen(scenario: &Scenario, world: &Shared, policy: u64, stats: &Arc<Stats>) -> Reopen {
    let (scenario, world, told) = (scenario.clone(), world.clone(), Arc::clone(stats));
    Box::new(move || {
        assert!(!told.counts(0).ready, "whoever asks while there is no device is told so");
        world.lock().reopen(policy)?;
        Ok(hardware(&scenario, &world, policy))
    })
}

/// The loop's parts on a fake device, and where to send other weights.
pub fn parts(scenario: &Scenario, world: &Shared) -> (Parts, Sender<Swap>) {
    let shape = &scenario.shape;
    let clock = world.clone();
    let stats: Arc<Stats> = Arc::default();
    let (to_swap, swaps) = bounded(1);
    let parts = Parts {
        hardware: hardware(scenario, world, 0),
        policy: Policy::default(),
        reopen: reopen(scenario, world, 0, &stats),
        opening: Opening::default(),
        swaps,
        geometry: Geometry {
            whole_prompts: scenario.whole_prompts(),
            prefill_tokens: scenario.prefill_tokens,
            cohort_rows: shape.cohort_rows,
            slots: shape.slots,
            page_tokens: shape.page_tokens,
            history_pages: shape.history_pages,
            decoder_prefix: shape.prefix.clone(),
            masks: shape.masks,
        },
        stats,
        clock: Box::new(move || clock.lock().now()),
    };
    (parts, to_swap)
}

/// What a simulation came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub turns: u64,
    /// Requests answered with results, and by kind of refusal.
    pub answered: u64,
    pub refused: [u64; RefusalKind::ALL.len()],
    /// How often the device was lost and came back.
    pub reopened: u64,
    /// How often other weights took over, and how often they did not.
    pub swapped: u64,
    pub not_swapped: u64,
    pub trace: u64,
}

/// A request on its way through the simulation.
struct Asked {
    planned: Planned,
    cancel: Arc<AtomicBool>,
    /// When it was sent.
    sent: Option<Instant>,
    /// Turns begun since its caller or the clock had stopped it.
    turns_stopped: usize,
}

struct Simulation {
    scenario: Scenario,
    world: Shared,
    core: Core,
    to_core: Option<Sender<Newcomer>>,
    to_swap: Sender<Swap>,
    swaps_to_come: VecDeque<PlannedSwap>,
    /// Number of the newest weights that were asked for, and what became of them.
    swapping: Option<(u64, Receiver<Swapped>)>,
    /// Numbers of the weights that took over, with the time.
    served: Vec<(u64, Instant)>,
    not_swapped: u64,
    finished: Receiver<Finished>,
    in_flight: Arc<AtomicUsize>,
    asked: Vec<Asked>,
    to_come: VecDeque<usize>,
    /// Sent and unanswered.
    open: Vec<usize>,
    turns: u64,
}

impl Simulation {
    fn new(scenario: Scenario) -> Simulation {
        let world =
            World::shared(scenario.shape.clone(), scenario.temper.clone(), scenario.lanes, scenario.seed ^ 0xFA17);
        let (to_core, incoming) = bounded(scenario.requests.len());
        let (outgoing, finished) = bounded(scenario.requests.len());
        let known = |planned: &Planned| {
            let allowed = snapshots(scenario.export)[planned.snapshot].allowed(None);
            let mask = allowed.ok().flatten().map(|allowed| Arc::clone(allowed.nodes()));
            let items = planned.list.unwrap_or(1) as usize;
            Known { tokens: planned.tokens, beams: planned.beams, items, mask, ..Known::default() }
        };
        world.lock().known = scenario.requests.iter().map(known).collect();
        let asked = |planned: &Planned| Asked {
            planned: planned.clone(),
            cancel: Arc::default(),
            sent: None,
            turns_stopped: 0,
        };
        let (parts, to_swap) = parts(&scenario, &world);
        let start = world.lock().now();
        Simulation {
            core: Core::new(parts, incoming, outgoing),
            to_core: Some(to_core),
            to_swap,
            swaps_to_come: scenario.swaps.iter().cloned().collect(),
            swapping: None,
            served: vec![(0, start)],
            not_swapped: 0,
            finished,
            in_flight: Arc::default(),
            asked: scenario.requests.iter().map(asked).collect(),
            to_come: (0..scenario.requests.len()).collect(),
            open: Vec::new(),
            turns: 0,
            world,
            scenario,
        }
    }

    /// Runs until everybody is answered.
    fn run(mut self) -> Outcome {
        while !self.core.is_done() {
            self.let_happen();
            if !self.core.is_idle() || !self.core.incoming.is_empty() {
                self.turn();
            } else if let Some(next) = self.next_arrival() {
                self.world.lock().wait_until(next);
            } else {
                self.to_core = None;
                self.turn();
            }
        }
        let outcome = self.judge();
        assert_eq!(self.in_flight.load(Ordering::Relaxed), 0);
        assert_eq!(self.core.pages.available(), self.core.pages.total(), "pages are lost");
        outcome
    }

    fn time(&self, after_start: Duration) -> Instant {
        self.world.lock().start() + after_start
    }

    fn next_arrival(&self) -> Option<Instant> {
        self.to_core.as_ref()?;
        self.to_come.front().map(|id| self.time(self.asked[*id].planned.at))
    }

    /// What callers do by now: they ask, they cancel, and at some point the door closes.
    fn let_happen(&mut self) {
        let now = self.world.lock().now();
        if self.scenario.close_at.is_some_and(|at| self.time(at) <= now) {
            self.to_core = None;
        }
        while let (Some(to_core), Some(id)) = (&self.to_core, self.to_come.front().copied()) {
            let at = self.time(self.asked[id].planned.at);
            if at > now {
                break;
            }
            self.to_come.pop_front();
            let asked = &mut self.asked[id];
            asked.sent = Some(now);
            self.open.push(id);
            self.in_flight.fetch_add(1, Ordering::Relaxed);
            let world = self.world.clone();
            let ticket = Ticket::new(
                Box::new(move |answer| world.lock().answered(id, &answer)),
                Arc::clone(&asked.cancel),
                Arc::clone(&self.in_flight),
                at,
                at + asked.planned.allowed,
            );
            let snapshot = &snapshots(self.scenario.export)[asked.planned.snapshot];
            let resolved = Resolved {
                id: id as u64,
                tokens: prompt(id, asked.planned.tokens),
                decoder_prompt: DecoderPrompt::default(),
                beams: asked.planned.beams as u32,
                top: 1,
                max_items_per_sid: None,
                with_text: false,
                sampling: None,
                log_probs: false,
                list: asked.planned.list,
                denied: Vec::new(),
                banned_nodes: vec![vec![id as u32]],
                allowed: snapshot.allowed(None).unwrap().cloned(),
                snapshot: Arc::clone(snapshot),
                unknown_items: 0,
            };
            to_core.try_send(Newcomer { ticket, resolved, resolve: Duration::ZERO, since: now }).unwrap();
        }
        self.let_swap(now);
        for id in &self.open {
            let asked = &mut self.asked[*id];
            if asked.planned.cancel_at.is_some_and(|at| self.world.lock().start() + at <= now) {
                asked.cancel.store(true, Ordering::Relaxed);
            }
            let stopped = asked.cancel.load(Ordering::Relaxed)
                || self.world.lock().start() + asked.planned.at + asked.planned.allowed <= now;
            asked.turns_stopped += usize::from(stopped);
        }
    }

    /// What whoever replaces weights does by now: one set after the other.
    fn let_swap(&mut self, now: Instant) {
        let due = self.swaps_to_come.front().is_some_and(|swap| self.time(swap.at) <= now);
        if self.swapping.is_some() || !due {
            return;
        }
        let PlannedSwap { beside, .. } = self.swaps_to_come.pop_front().expect("one was just seen");
        let number = (self.scenario.swaps.len() - self.swaps_to_come.len()) as u64;
        let (told, answer) = bounded(1);
        let hardware = beside.then(|| hardware(&self.scenario, &self.world, number));
        let reopen = reopen(&self.scenario, &self.world, number, &self.core.stats);
        let policy = Policy { number, version: number.to_string() };
        self.to_swap.try_send(Swap { policy, hardware, reopen, told }).expect("there is room for one");
        self.swapping = Some((number, answer));
    }

    /// Hears what became of weights that were to take over.
    fn hear_of_swap(&mut self) {
        let Some((number, answer)) = &self.swapping else { return };
        let Ok(Swapped { outcome, .. }) = answer.try_recv() else { return };
        match outcome {
            Ok(()) => self.served.push((*number, self.world.lock().now())),
            Err(_) => self.not_swapped += 1,
        }
        self.swapping = None;
    }

    fn turn(&mut self) {
        let ids = |core: &Core| -> Vec<u64> { core.slots.iter().flatten().map(|r| r.resolved.id).collect() };
        let (before, was_idle, ops) = (ids(&self.core), self.core.is_idle(), self.world.lock().ops);
        self.turns += 1;
        self.core.turn();
        self.hear_of_swap();
        self.audit(&before);
        while let Ok(finished) = self.finished.try_recv() {
            self.hand_back(finished);
        }
        let open = self.open.len();
        let world = self.world.lock();
        self.open.retain(|id| world.known[*id].answers.is_empty());
        assert!(was_idle || world.ops > ops || self.open.len() < open, "a turn did nothing while somebody waited");
        // Only a batch or a cohort that serves others keeps on with somebody who has stopped waiting.
        let shape = &self.scenario.shape;
        let most = shape.stages.max(LONGEST_LIST * shape.levels + shape.end + 3) + 1;
        for id in &self.open {
            assert!(self.asked[*id].turns_stopped <= most, "request {id} is kept although nobody waits for it");
        }
    }

    /// What the host thread does.
    fn hand_back(&self, finished: Finished) {
        let Finished { ticket, resolved, beams, policy, timings } = finished;
        let now = self.world.lock().now();
        let id = resolved.id as usize;
        assert_eq!(beams.iter().map(|beam| beam.leaf as usize).collect::<Vec<_>>(), [id], "beams of somebody else");
        let read = self.world.lock().known[id].read.expect("a finished search was read");
        assert_eq!(self.world.lock().known[id].policy, Some(policy.number), "the answer names other weights");
        let marked = timings.queue + timings.prefill + timings.search;
        assert!(ticket.arrived + marked <= read && marked > timings.search, "{timings:?}");
        let sent = self.asked[id].sent.expect("who is answered has asked");
        assert!(sent + marked >= read, "time between stages: {timings:?}");
        if let Some(refusal) = ticket.stopped(now, "when its search ended") {
            return ticket.answer(Err(refusal));
        }
        ticket.answer(Ok(Recommendation {
            id: resolved.id,
            results: Vec::new(),
            unknown_items: 0,
            prompt_tokens: resolved.tokens.len() as u32,
            instructions: Vec::new(),
            provenance: Provenance::default(),
            timings: StageTimings::default(),
        }));
    }

    /// Checks the loop's own books after a turn. `before` are those who had a slot when it began.
    fn audit(&self, before: &[u64]) {
        let core = &self.core;
        let running = || core.slots.iter().flatten();
        let mut pages: Vec<u32> = running().flat_map(|running| running.pages.iter().copied()).collect();
        assert_eq!(pages.len() + core.pages.available(), core.pages.total(), "pages are lost or held twice");
        pages.sort_unstable();
        assert!(pages.windows(2).all(|pair| pair[0] != pair[1]), "a page has two owners");
        let searched = || core.searches.iter().flatten().flat_map(|search| &search.slots);
        let mut listed: Vec<u32> = core.prefilling.iter().chain(&core.ready).chain(searched()).copied().collect();
        listed.sort_unstable();
        let taken: Vec<u32> =
            (0..core.slots.len() as u32).filter(|slot| core.slots[*slot as usize].is_some()).collect();
        assert_eq!(listed, taken, "every taken slot is in exactly one stage");
        assert_eq!(taken.len() + core.free_slots.len(), core.slots.len(), "slots are lost");
        let told = core.stats.counts(0);
        assert_eq!(told.ready, core.hardware.is_some(), "readiness is that of the device");
        assert_eq!((told.slots, told.running), (core.slots.len() as u64, taken.len() as u64));
        assert_eq!((told.pages - told.free_pages) as usize, pages.len());

        // What was under way is for somebody who still waited when the turn began.
        let wanted = |slot: &u32| {
            let id = core.slots[*slot as usize].as_ref().unwrap().resolved.id;
            self.asked[id as usize].turns_stopped == 0
        };
        for search in core.searches.iter().flatten() {
            assert!(search.slots.iter().any(wanted), "a search goes on for nobody");
        }
        if let Some(batch) = &core.prefill {
            assert!(batch.members.iter().any(|member| wanted(&member.0)), "a prefill goes on for nobody");
        }

        // The most urgent go first, into slots, prefill and cohorts.
        let deadline = |slot: &u32| core.slots[*slot as usize].as_ref().unwrap().ticket.deadline;
        let admitted = running().filter(|running| !before.contains(&running.resolved.id));
        let waiting = core.waiting.keys().next().map(|key| key.0);
        assert_in_order("slots", admitted.map(|running| running.ticket.deadline).max(), waiting);
        if let Some(batch) = core.prefill.as_ref().filter(|batch| batch.stage == 0) {
            let inside = |slot: &u32| batch.members.iter().any(|member| member.0 == *slot);
            let left = core.prefilling.iter().filter(|slot| !inside(slot)).map(deadline).min();
            assert_in_order("prefill", batch.members.iter().map(|member| deadline(&member.0)).max(), left);
        }
        for search in core.searches.iter().flatten().filter(|search| search.step == 1) {
            // Of those whose lists are as long: others could not have joined.
            let items = |slot: &u32| core.slots[*slot as usize].as_ref().unwrap().resolved.items();
            let left = core.ready.iter().filter(|slot| items(slot) == items(&search.slots[0]));
            assert_in_order("cohorts", search.slots.iter().map(deadline).max(), left.map(deadline).min());
        }
    }

    /// Every request that was sent has one answer, and a reason for it.
    fn judge(&self) -> Outcome {
        let world = self.world.lock();
        let mut outcome =
            Outcome { turns: self.turns, reopened: world.reopened, trace: world.trace, ..Outcome::default() };
        (outcome.swapped, outcome.not_swapped) = (self.served.len() as u64 - 1, self.not_swapped);
        for (id, (asked, known)) in self.asked.iter().zip(&world.known).enumerate() {
            assert_eq!(known.answers.len(), usize::from(asked.sent.is_some()), "request {id}: {:?}", known.answers);
            let Some((kind, message, when)) = known.answers.first() else { continue };
            let deadline = world.start() + asked.planned.at + asked.planned.allowed;
            let cancelled = asked.cancel.load(Ordering::Relaxed);
            let Scenario { shape, .. } = &self.scenario;
            let fits = asked.planned.beams <= shape.cohort_rows
                && (1..=shape.history_pages * shape.page_tokens).contains(&asked.planned.tokens);
            match kind {
                None => {
                    assert!(known.read.is_some() && *when < deadline && !cancelled);
                    let sent = asked.sent.expect("who is answered has asked");
                    let newest = self.served.iter().rfind(|(_, since)| *since <= sent).expect("there is a first").0;
                    let last = self.served.iter().rfind(|(_, since)| since <= when).expect("there is a first").0;
                    let its = known.policy.expect("who is answered was computed");
                    assert!((newest..=last).contains(&its), "request {id}: weights {its}, {newest} to {last} served");
                }
                Some(RefusalKind::Cancelled) => assert!(cancelled),
                Some(RefusalKind::Deadline) if message.contains("would be late") => {
                    assert!(asked.planned.allowed < PATIENT, "{message}");
                }
                Some(RefusalKind::Deadline) => assert!(*when >= deadline, "{message}"),
                Some(RefusalKind::DeviceFailed) => assert!(world.faults > 0, "{message}"),
                Some(RefusalKind::TooLong) => assert!(!fits, "{message}"),
                other => panic!("request {id} was refused for no reason: {other:?} {message}"),
            }
            match kind {
                None => outcome.answered += 1,
                Some(kind) => outcome.refused[*kind as usize - 1] += 1,
            }
        }
        outcome
    }
}

fn assert_in_order(what: &str, chosen: Option<Instant>, left: Option<Instant>) {
    if let (Some(chosen), Some(left)) = (chosen, left) {
        assert!(chosen <= left, "{what}: somebody more urgent was left out");
    }
}
