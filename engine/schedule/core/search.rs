//! Searches: requests whose prompt is in the history KV become cohorts, and a cohort takes a step a turn.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::masks::Place;
use super::timing::{Lesson, Timing};
use super::{Core, Finished, Hardware, Running, sort_by_deadline};
use crate::device::{Beam, Cohort, CohortRequest, Device, DeviceError, Queue, Span, TokenBatch};

/// A cohort under way.
pub(super) struct Search {
    pub slots: Vec<u32>,
    cohort: Cohort,
    rows: usize,
    /// Semantic IDs of each list.
    items: usize,
    pub step: usize,
    pub timing: Timing,
}

/// The nodes that a request is searched within.
enum Within {
    /// All of them.
    Everything,
    /// Those of a mask, in this slot.
    Slot(u32),
    /// Those of a mask for which there is no place until another search has been read.
    Nowhere,
}

impl Search {
    /// Gives the members' bans back to them.
    pub fn return_bans(self, core: &mut Core) {
        for request in self.cohort.requests {
            // A member may have been refused meanwhile.
            if let Some(running) = &mut core.slots[request.slot as usize] {
                running.resolved.banned_nodes = request.banned_nodes;
            }
        }
    }
}

impl Core {
    /// Starts searches in free lanes, the most urgent first and as many together as a cohort holds. Those of one cohort take
    /// their steps together, so their lists are equally long: others are passed over and begin the next one.
    pub(super) fn form_cohorts(&mut self) {
        self.drop_hopeless(&self.ready.clone());
        sort_by_deadline(&mut self.ready, &self.slots);
        for lane in 0..self.searches.len() {
            if self.searches[lane].is_some() || self.ready.is_empty() {
                continue;
            }
            let mut cohort = Cohort::default();
            let mut slots = Vec::new();
            let (mut rows, mut at) = (0, 0);
            let items = self.running(self.ready[0]).resolved.items();
            while let Some(slot) = self.ready.get(at).copied() {
                if self.running(slot).resolved.items() != items {
                    at += 1;
                    continue;
                }
                let cohort_rows = self.geometry.cohort_rows;
                let beams = self.running(slot).resolved.beams as usize;
                if rows + beams > cohort_rows {
                    break;
                }
                let mask = match self.place_mask(slot, &cohort) {
                    Ok(Within::Everything) => None,
                    Ok(Within::Slot(mask)) => Some(mask),
                    Ok(Within::Nowhere) => break,
                    Err(error) => {
                        slots.push(slot);
                        self.fail(slots, &error);
                        return;
                    }
                };
                let resolved = &mut self.running(slot).resolved;
                cohort.requests.push(CohortRequest {
                    slot,
                    beams: beams as u32,
                    first_row: rows as u32,
                    banned_nodes: std::mem::take(&mut resolved.banned_nodes),
                    sampling: resolved.sampling,
                    log_probs: resolved.log_probs,
                    list: items as u32,
                    mask,
                });
                self.ready.remove(at);
                slots.push(slot);
                rows += beams;
            }
            if slots.is_empty() {
                return;
            }
            match self.write_cohort(lane, &cohort) {
                Ok(()) => {
                    self.searches[lane] =
                        Some(Search { slots, cohort, rows, items, step: 0, timing: Timing::default() })
                }
                Err(error) => {
                    self.fail(slots, &error);
                    return;
                }
            }
        }
    }

    /// Brings a request's mask to the device, beside those of the cohort that it joins and of the searches under way.
    fn place_mask(&mut self, slot: u32, cohort: &Cohort) -> Result<Within, DeviceError> {
        let Some(allowed) = &self.running(slot).resolved.allowed else { return Ok(Within::Everything) };
        let mask = Arc::clone(allowed.nodes());
        let searches = &self.searches;
        let is_read = |place: u32| {
            let under_way = searches.iter().flatten().flat_map(|search| &search.cohort.requests);
            under_way.chain(&cohort.requests).any(|request| request.mask == Some(place))
        };
        match self.masks.find(&mask, is_read) {
            None => Ok(Within::Nowhere),
            Some(Place::Held(place)) => Ok(Within::Slot(place)),
            Some(Place::Free(place)) => {
                if let Err(error) = self.hardware().device.write_mask(place, &mask) {
                    self.masks.forget();
                    return Err(error);
                }
                self.masks.put(place, mask);
                Ok(Within::Slot(place))
            }
        }
    }

    fn write_cohort(&mut self, lane: usize, cohort: &Cohort) -> Result<(), DeviceError> {
        let Core { hardware, geometry, slots, .. } = self;
        let Hardware { device, cohort_lanes, .. } =
            hardware.as_mut().expect("requests are ready, so there is a device");
        let lanes = cohort_lanes[lane];
        let prefix = &geometry.decoder_prefix;
        if !prefix.is_empty() {
            let mut batch = TokenBatch::default();
            let mut vectors = Vec::new();
            for request in &cohort.requests {
                batch.spans.push(Span {
                    slot: request.slot,
                    first_row: batch.tokens.len() as u32,
                    rows: prefix.len() as u32,
                    first_position: 0,
                    last: true,
                });
                batch.tokens.extend_from_slice(prefix);
                if let Some(running) = &slots[request.slot as usize] {
                    vectors.extend_from_slice(&running.resolved.decoder_prompt.vectors);
                }
            }
            device.write_tokens(lanes.prefix, &batch)?;
            if !vectors.is_empty() {
                device.write_dense(lanes.prefix, &vectors)?;
            }
        }
        device.write_cohort(lanes.cohort, cohort)
    }

    /// One step of each cohort; those that are through are read, as soon as their beams have come, and sent back.
    pub(super) fn advance_searches(&mut self) {
        let mut enqueued = self.prefill.is_some();
        for lane in 0..self.searches.len() {
            let Some(mut search) = self.searches[lane].take() else { continue };
            let outcome = self.advance_search(lane, &mut search);
            match outcome {
                Ok(stepped) => enqueued |= stepped,
                Err(error) => {
                    self.fail(search.slots, &error);
                    continue;
                }
            }
            self.searches[lane] = Some(search);
        }
        for lane in 0..self.searches.len() {
            match self.read_search(lane, enqueued) {
                Ok(false) => {}
                Ok(true) => enqueued = true,
                Err(error) => {
                    let search = self.searches[lane].take().expect("only a search that is there is read");
                    self.fail(search.slots, &error);
                }
            }
        }
    }

    /// Enqueues the next step of a search, and with the last one the way back of its beams. False if there is none left.
    fn advance_search(&mut self, lane: usize, search: &mut Search) -> Result<bool, DeviceError> {
        let Hardware { device, model, searcher, cohort_lanes, .. } = self.hardware();
        let (lanes, steps) = (cohort_lanes[lane], searcher.plan().steps(search.items));
        if search.step == steps {
            return Ok(false);
        }
        let enqueue =
            |device: &mut dyn Device| searcher.step(device, model.as_mut(), &lanes, (search.step, search.items));
        search.timing.enclose(device.as_mut(), Queue::Search, enqueue)?;
        search.step += 1;
        if search.step == steps {
            device.collect_beams(lanes.cohort)?;
        }
        self.stats.decoded_beams.fetch_add(search.rows as u64, Ordering::Relaxed);
        Ok(true)
    }

    /// Reads a lane's search if it is through. While there is other work to enqueue, only what has come already: with nothing
    /// left to enqueue, waiting is the one thing to do. True if it was read.
    fn read_search(&mut self, lane: usize, busy: bool) -> Result<bool, DeviceError> {
        let Some((step, items)) = self.searches[lane].as_ref().map(|search| (search.step, search.items)) else {
            return Ok(false);
        };
        let Hardware { device, searcher, cohort_lanes, .. } = self.hardware();
        let cohort = cohort_lanes[lane].cohort;
        if step < searcher.plan().steps(items) || (busy && !device.beams_are_here(cohort)?) {
            return Ok(false);
        }
        let beams = device.read_beams(cohort)?;
        let search = self.searches[lane].take().expect("it was just seen");
        self.finish(search, beams);
        Ok(true)
    }

    fn finish(&mut self, search: Search, beams: Vec<Vec<Beam>>) {
        assert_eq!(beams.len(), search.slots.len(), "a device returns the beams of every request of a cohort");
        self.timings.push((search.timing, Lesson::Search(search.rows * search.items)));
        self.learn();
        let stats = &self.stats;
        stats.cohort_rows.observe(search.rows as u64);
        stats.cohort_requests.observe(search.slots.len() as u64);
        let now = self.now();
        for (slot, beams) in search.slots.into_iter().zip(beams) {
            let Running { ticket, resolved, since, mut marks, .. } = self.release(slot);
            marks.search = now - since;
            let (tokens, rows) = (resolved.tokens.len(), resolved.search_rows());
            self.cost.observe_request(marks.prefill + marks.search, tokens, rows);
            // The queue holds every request in flight, so this never blocks; it fails only when the host thread is gone,
            // and then the dropped ticket answers.
            let policy = Arc::clone(&self.policy);
            let _ = self.outgoing.send(Finished { ticket, resolved, beams, policy, timings: marks });
        }
    }
}
