//! Searches: requests whose prompt is in the history KV become cohorts, and a cohort takes a step a turn.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Core, Finished, Hardware, Running, sort_by_deadline};
use crate::device::{Beam, Cohort, CohortRequest, DeviceError, Span, TokenBatch};

/// A cohort under way.
pub(super) struct Search {
    pub slots: Vec<u32>,
    cohort: Cohort,
    rows: usize,
    pub step: usize,
    spent: Duration,
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
    /// Starts searches in free lanes, the most urgent first and as many together as a cohort holds.
    pub(super) fn form_cohorts(&mut self) {
        self.drop_hopeless(&self.ready.clone());
        sort_by_deadline(&mut self.ready, &self.slots);
        for lane in 0..self.searches.len() {
            if self.searches[lane].is_some() || self.ready.is_empty() {
                continue;
            }
            let mut cohort = Cohort::default();
            let mut slots = Vec::new();
            let mut rows = 0;
            while let Some(slot) = self.ready.first().copied() {
                let cohort_rows = self.geometry.cohort_rows;
                let resolved = &mut self.running(slot).resolved;
                let beams = resolved.beams as usize;
                if rows + beams > cohort_rows {
                    break;
                }
                cohort.requests.push(CohortRequest {
                    slot,
                    beams: beams as u32,
                    first_row: rows as u32,
                    banned_nodes: std::mem::take(&mut resolved.banned_nodes),
                });
                self.ready.remove(0);
                slots.push(slot);
                rows += beams;
            }
            match self.write_cohort(lane, &cohort) {
                Ok(()) => self.searches[lane] = Some(Search { slots, cohort, rows, step: 0, spent: Duration::ZERO }),
                Err(error) => {
                    self.fail(slots, &error);
                    return;
                }
            }
        }
    }

    fn write_cohort(&mut self, lane: usize, cohort: &Cohort) -> Result<(), DeviceError> {
        let Core { hardware, geometry, .. } = self;
        let Hardware { device, cohort_lanes, .. } =
            hardware.as_mut().expect("requests are ready, so there is a device");
        let lanes = cohort_lanes[lane];
        let prefix = &geometry.decoder_prefix;
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
            device.write_tokens(lanes.prefix, &batch)?;
        }
        device.write_cohort(lanes.cohort, cohort)
    }

    /// One step of each cohort; those that are through are read and sent back.
    pub(super) fn advance_searches(&mut self) {
        for lane in 0..self.searches.len() {
            let Some(mut search) = self.searches[lane].take() else { continue };
            let began = self.now();
            let Hardware { device, model, searcher, cohort_lanes, .. } = self.hardware();
            let lanes = cohort_lanes[lane];
            let mut outcome = searcher.step(device.as_mut(), model.as_mut(), &lanes, search.step).map(|()| None);
            search.step += 1;
            if outcome.is_ok() && search.step == searcher.plan().steps() {
                outcome = device.read_beams(lanes.cohort).map(Some);
            }
            search.spent += self.now() - began;
            match outcome {
                Ok(None) => self.searches[lane] = Some(search),
                Ok(Some(beams)) => self.finish(search, beams),
                Err(error) => self.fail(search.slots, &error),
            }
        }
    }

    fn finish(&mut self, search: Search, beams: Vec<Vec<Beam>>) {
        assert_eq!(beams.len(), search.slots.len(), "a device returns the beams of every request of a cohort");
        self.cost.observe_search(search.spent, search.rows);
        let stats = &self.stats;
        stats.cohorts.fetch_add(1, Ordering::Relaxed);
        stats.cohort_requests.fetch_add(search.slots.len() as u64, Ordering::Relaxed);
        let now = self.now();
        for (slot, beams) in search.slots.into_iter().zip(beams) {
            let Running { ticket, resolved, since, mut marks, .. } = self.release(slot);
            marks.search = now - since;
            let (tokens, beams_wide) = (resolved.tokens.len(), resolved.beams as usize);
            self.cost.observe_request(marks.prefill + marks.search, tokens, beams_wide);
            // The queue holds every request in flight, so this never blocks; it fails only when the host thread is gone,
            // and then the dropped ticket answers.
            let _ = self.outgoing.send(Finished { ticket, resolved, beams, timings: marks });
        }
    }
}
