//! Finished beams on their way to the host: what is copied, where it lands, and how it reads.

use super::driver::failed;
use super::lanes::Cohorts;
use super::{Beam, CohortLane, CohortPlan, CudaDevice, DeviceError, Queue};
use crate::sampling::LogProb;

/// Words that a lane's beams take at most: node, score, key a row, live a request, then ancestors, and log-probabilities, of
/// each step and row.
pub(super) fn words(plan: &CohortPlan) -> usize {
    (3 + 3 * plan.steps) * plan.rows + plan.requests
}

/// Where the parts begin.
struct Parts {
    rows: usize,
    live: usize,
    keys: usize,
    ancestors: usize,
    log_probs: usize,
    end: usize,
}

impl Parts {
    /// Of the rows in use; tables keep their capacity.
    fn of(cohort: &Cohorts) -> Parts {
        let (rows, table) = (cohort.extent.rows, cohort.chosen * cohort.plan.rows);
        let live = 2 * rows;
        let keys = live + cohort.requests.len();
        let ancestors = keys + rows;
        Parts { rows, live, keys, ancestors, log_probs: ancestors + table, end: ancestors + 3 * table }
    }
}

impl CudaDevice {
    pub(super) fn run_collect_beams(&mut self, lane: CohortLane) -> Result<(), DeviceError> {
        let index = lane.0 as usize;
        let (cohort, results) = (&self.cohorts[index], &mut self.results[index]);
        let (state, parts, (keys, log_probs)) = (cohort.now(), Parts::of(cohort), cohort.wants());
        let copies = [
            (true, state.node, 0..parts.rows),
            (true, state.score, parts.rows..parts.live),
            (true, state.live, parts.live..parts.keys),
            (keys, state.key, parts.keys..parts.ancestors),
            (log_probs, state.ancestors, parts.ancestors..parts.log_probs),
            (log_probs, cohort.view().log_probs, parts.log_probs..parts.end),
        ];
        let collect = || {
            for (wanted, address, place) in copies {
                if wanted && !place.is_empty() {
                    // SAFETY: the pinned words live as long as the device, and are read after their marker has passed.
                    unsafe { self.driver.enqueue_read(Queue::Search, address, &mut results.words[place]) }?;
                }
            }
            self.driver.mark(Queue::Search, &results.arrived)
        };
        collect().map_err(|error| failed("collect_beams", error))?;
        results.collected = true;
        Ok(())
    }
}

/// Each request's beams, from the words that have arrived.
pub(super) fn found(cohort: &Cohorts, words: &[u32]) -> Vec<Vec<Beam>> {
    let (parts, capacity) = (Parts::of(cohort), cohort.plan.rows);
    let float = |at: usize| f32::from_bits(words[at]);
    let log_prob = |row: usize, step: usize| {
        let decoded = words[parts.ancestors + step * capacity + row] as usize;
        let at = parts.log_probs + 2 * (step * capacity + decoded);
        LogProb { behaviour: float(at), raw: float(at + 1) }
    };
    let requests = cohort.requests.iter().enumerate();
    requests
        .map(|(index, request)| {
            let steps = if request.log_probs { cohort.chosen } else { 0 };
            let beam = |row: usize| Beam {
                leaf: words[row],
                earlier: Vec::new(),
                score: float(parts.rows + row),
                key: request.distinct.then(|| float(parts.keys + row)),
                log_probs: (0..steps).map(|step| log_prob(row, step)).collect(),
            };
            let first = request.first_row as usize;
            (first..first + words[parts.live + index] as usize).map(beam).collect()
        })
        .collect()
}
