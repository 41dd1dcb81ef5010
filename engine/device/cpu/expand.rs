//! Steps of the beam state: expansion through the trie, and forced tokens.
//!
//! A step reads the lane's current beams and builds the next ones beside them; then the two are swapped. After step s, row r
//! of the state knows the row at which each of its tokens was (or will be) decoded: `ancestors[r][t]` for t < s comes from
//! its parent, `ancestors[r][s]` is r itself. No KV moves.

use std::ops::Range;
use std::sync::Arc;

use super::Isa;
use super::lanes::{BeamRows, CohortState, RequestState};
use super::legal::Legal;
use super::pool::Pool;
use super::select::{Candidates, Expansion, Parent, child_node, settled};
use super::store::Parts;
use crate::catalog::{Catalog, NodeMask};
use crate::device::DeviceError;
use crate::sampling::{LogProb, SamplingKind};

/// Rows of a buffer.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a> {
    pub(super) data: &'a [f32],
    pub(super) stride: usize,
}

/// Logits and log-normalisers as a step reads them.
#[derive(Clone, Copy)]
pub(super) struct Scores<'a> {
    pub(super) logits: Columns<'a>,
    /// None where the step normalises over legal children.
    pub(super) lognorm: Option<Columns<'a>>,
}

impl<'a> Scores<'a> {
    fn row(&self, row: usize, columns: usize) -> (&'a [f32], Option<f32>) {
        let logits = &self.logits.data[row * self.logits.stride..][..columns];
        (logits, self.lognorm.map(|lognorm| lognorm.data[row * lognorm.stride]))
    }
}

/// One level of the search.
pub(super) struct Step<'a> {
    pub(super) isa: Isa,
    pub(super) pool: &'a Pool,
    /// Its trie is read where it is mapped.
    pub(super) catalog: &'a Catalog,
    /// By mask slot.
    pub(super) masks: &'a [Arc<NodeMask>],
    /// Token of each code of the level.
    pub(super) tokens: &'a [u32],
    /// Which semantic ID of the lists.
    pub(super) item: usize,
    pub(super) level: usize,
    pub(super) scores: Scores<'a>,
}

impl Step<'_> {
    /// Tokens chosen before.
    fn index(&self) -> usize {
        self.item * self.catalog.levels() + self.level
    }

    /// What decides which nodes of `level` a beam of a request may expand.
    fn legal<'a>(&'a self, cohort: &'a CohortState, request: usize, level: usize, spent: &'a [u32]) -> Legal<'a> {
        let mask = cohort.requests[request].mask.map(|slot| self.masks[slot as usize].level(level));
        Legal { mask, banned: cohort.banned(request, level), spent }
    }
}

/// Chooses the next level's beams of every request. `scratch` grows to one entry a request.
///
/// # Errors
/// If the catalogue has codes that the head has no token for.
pub(super) fn expand_select(
    step: &Step,
    cohort: &mut CohortState,
    scratch: &mut Vec<Candidates>,
) -> Result<(), DeviceError> {
    let codes = step.catalog.codes(step.level) as usize;
    if codes > step.tokens.len() {
        let reason = format!("level {}: {codes} codes in the catalogue, {} tokens", step.level, step.tokens.len());
        return Err(DeviceError::Failed { op: "expand_select", reason });
    }
    let index = step.index();
    assert_eq!(index, cohort.chosen, "expand_select: step {index} after {} tokens", cohort.chosen);
    assert!(index < cohort.steps, "expand_select: step {index} of a lane of {} steps", cohort.steps);
    assert!(step.item < cohort.lists.items, "expand_select: item {} of lists of {}", step.item, cohort.lists.items);
    cohort.gather_spent(step.item, step.level);
    let requests = cohort.requests.len();
    if scratch.len() < requests {
        scratch.resize_with(requests, Candidates::default);
    }
    {
        let all = Parts::new(&mut scratch[..requests]);
        let cohort = &*cohort;
        step.pool.run(requests, |index| {
            // SAFETY: task `index` is the only one that takes entry `index`.
            let candidates = &mut unsafe { all.range(index..index + 1) }[0];
            select(step, cohort, index, candidates);
        });
    }
    for (index, candidates) in scratch[..requests].iter().enumerate() {
        write_beams(step, cohort, index, candidates);
    }
    cohort.advance();
    if step.level + 1 == step.catalog.levels() && step.item + 1 < cohort.lists.items {
        spend(step, cohort);
    }
    Ok(())
}

/// Notes what each beam's list has used up with the semantic ID that it has just got: its leaf, and each node above with nothing
/// left below it.
fn spend(step: &Step, cohort: &mut CohortState) {
    let mut lists = std::mem::take(&mut cohort.lists);
    for (index, request) in cohort.requests.iter().enumerate() {
        for row in request.live_rows() {
            let ancestors = &cohort.now.ancestors[row * cohort.steps..][..cohort.steps];
            let mut node = cohort.now.node[row];
            lists.begin_item(row, step.item);
            for level in (0..step.catalog.levels()).rev() {
                lists.set(row, (step.item, level), node);
                let Some(above) = step.catalog.parent(level, node) else { break };
                let siblings = step.catalog.children(level - 1, above);
                let spent = lists.spent_of(ancestors, step.item + 1, level);
                if step.legal(cohort, index, level, spent).runs(siblings).next().is_some() {
                    break;
                }
                node = above;
            }
        }
    }
    cohort.lists = lists;
}

/// Writes a request's next beams.
fn write_beams(step: &Step, cohort: &mut CohortState, index: usize, candidates: &Candidates) {
    let CohortState { requests, now, next, steps, log_probs, .. } = cohort;
    let request = &mut requests[index];
    let (first, at) = (request.first_row as usize, step.index());
    for (rank, child) in candidates.chosen.iter().enumerate() {
        let (row, parent) = (first + rank, first + child.parent_rank);
        let children = children(step.catalog, step.level, now.node[parent]);
        next.node[row] = child_node(step.catalog.level_codes(step.level), children, child.code);
        next.token[row] = step.tokens[usize::from(child.code)];
        let logits = step.scores.row(if at == 0 { index } else { parent }, step.tokens.len()).0;
        let log_prob = candidates.log_prob(child, request.sampling, logits[usize::from(child.code)]);
        log_probs[row * *steps + at] = log_prob;
        match request.sampling.map(|sampling| sampling.kind) {
            None => next.score[row] = child.key,
            Some(kind) => {
                next.score[row] = settled(now.score[parent] + log_prob.raw);
                if kind == SamplingKind::Distinct {
                    (next.key[row], next.log_prob[row]) = (child.key, now.log_prob[parent] + log_prob.behaviour);
                }
            }
        }
        inherit(next, now, row, parent, at, *steps);
    }
    request.live = candidates.chosen.len() as u32;
    clear_dead(next, request);
}

fn select(step: &Step, cohort: &CohortState, index: usize, candidates: &mut Candidates) {
    let request = &cohort.requests[index];
    let expansion = Expansion {
        codes: step.catalog.level_codes(step.level),
        step: step.index() as u32,
        beams: request.beams as usize,
        sampling: request.sampling,
        isa: step.isa,
    };
    let parents = request.live_rows().map(|row| {
        let logits_row = if expansion.step == 0 { index } else { row };
        let (logits, lognorm) = step.scores.row(logits_row, step.tokens.len());
        let now = &cohort.now;
        let children = children(step.catalog, step.level, now.node[row]);
        let (score, log_prob, key) = (now.score[row], now.log_prob[row], now.key[row]);
        let legal = step.legal(cohort, index, step.level, cohort.lists.gathered(row, step.item));
        Parent { score, log_prob, key, children, legal, logits, lognorm }
    });
    candidates.select(&expansion, parents);
}

/// Nodes of `level` below `node` of the level before; below the root at level 0.
fn children(catalog: &Catalog, level: usize, node: u32) -> Range<u32> {
    match level.checked_sub(1) {
        None => 0..catalog.nodes(0) as u32,
        Some(above) => catalog.children(above, node),
    }
}

fn inherit(next: &mut BeamRows, now: &BeamRows, row: usize, parent: usize, step: usize, steps: usize) {
    next.parent[row] = parent as u32;
    let ancestors = &mut next.ancestors[row * steps..][..steps];
    ancestors[..step].copy_from_slice(&now.ancestors[parent * steps..][..step]);
    ancestors[step] = row as u32;
}

/// Dead rows mean nothing, but what they hold stays in range.
fn clear_dead(next: &mut BeamRows, request: &RequestState) {
    let dead = request.live_rows().end..request.rows().end;
    next.node[dead.clone()].fill(0);
    next.score[dead.clone()].fill(0.0);
    next.token[dead.clone()].fill(0);
    next.parent[dead].fill(request.first_row);
}

/// Appends `token` to every live beam; with scores (`[rows, 1]`), adds its log-probability and re-orders.
pub(super) fn force_token(cohort: &mut CohortState, token: u32, step: usize, scores: Option<Scores>) {
    assert_eq!(step, cohort.chosen, "force_token: step {step} after {} tokens", cohort.chosen);
    assert!(step < cohort.steps, "force_token: step {step} of a lane of {} steps", cohort.steps);
    let CohortState { requests, now, next, steps, log_probs, .. } = cohort;
    let raw = |row: usize| {
        scores.map_or(0.0, |scores| {
            let (logit, lognorm) = scores.row(row, 1);
            logit[0] - lognorm.unwrap_or_default()
        })
    };
    for request in requests.iter() {
        let rows = request.live_rows();
        let sampled = request.sampling.is_some();
        for row in rows.clone() {
            now.score[row] = settled(now.score[row] + raw(row));
            now.parent[row] = row as u32;
        }
        if scores.is_some() && !sampled {
            let score = &now.score;
            now.parent[rows.clone()]
                .sort_unstable_by(|&a, &b| score[b as usize].total_cmp(&score[a as usize]).then(a.cmp(&b)));
        }
        for row in rows {
            let parent = now.parent[row] as usize;
            (next.node[row], next.score[row], next.token[row]) = (now.node[parent], now.score[parent], token);
            (next.key[row], next.log_prob[row]) = (now.key[parent], now.log_prob[parent]);
            let raw = raw(parent);
            log_probs[row * *steps + step] = LogProb { behaviour: if sampled { 0.0 } else { raw }, raw };
            inherit(next, now, row, parent, step, *steps);
        }
        clear_dead(next, request);
    }
    cohort.advance();
}
