//! Trie-constrained beam search, enqueued step by step.
//!
//! A search has one step a level, for each semantic ID of a list, then one a *scored* end token. Every step enqueues the hidden
//! states, the head, and the selection; nothing waits. Scores follow the mode that the manifest declares (design: scores are
//! declared, never guessed). An end token that is not scored changes no result and is not computed.

use std::sync::Arc;

use crate::catalog::Catalog;
use crate::device::{
    Device, DeviceError, Dtype, ExpandArgs, ForceArgs, Head, HeadArgs, HeadMatrix, HeadSource, ListPlan, Normalizer,
    Rows, Target, Tensor, TrieId,
};
use crate::export::{Manifest, ScoreMode};
use crate::model::{CohortLanes, Model};

/// What of a search is fixed by the export.
#[derive(Clone, Debug)]
pub struct SearchPlan {
    levels: usize,
    /// Scored end tokens, in order.
    end: Vec<u32>,
    normalizer: Normalizer,
    /// A final score is divided by length^penalty.
    length_penalty: f32,
    /// Semantic IDs of the longest list.
    max_items: usize,
}

impl SearchPlan {
    /// Reads the plan from a manifest: searches for one semantic ID.
    pub fn new(manifest: &Manifest) -> SearchPlan {
        let normalizer = match manifest.score() {
            ScoreMode::FullThenMask => Normalizer::Vocabulary,
            ScoreMode::MaskThenNorm => Normalizer::Legal,
            ScoreMode::LevelNorm | ScoreMode::LevelHead => Normalizer::Level,
        };
        SearchPlan {
            levels: manifest.levels().len(),
            end: manifest.scored_end().to_vec(),
            normalizer,
            length_penalty: manifest.length_penalty(),
            max_items: 1,
        }
    }

    /// The same with room for lists of up to `max_items` semantic IDs.
    pub fn with_lists(self, max_items: usize) -> SearchPlan {
        SearchPlan { max_items: max_items.max(1), ..self }
    }

    /// Room for lists, if searches ever go on after their first semantic ID.
    pub fn lists(&self) -> Option<ListPlan> {
        (self.max_items > 1).then_some(ListPlan { items: self.max_items, levels: self.levels })
    }

    /// Steps of a search for lists of `items` semantic IDs.
    pub fn steps(&self, items: usize) -> usize {
        items * self.levels + self.end.len()
    }

    /// Steps of the longest search.
    pub fn max_steps(&self) -> usize {
        self.steps(self.max_items)
    }

    /// Generated tokens that the longest search feeds back to the model: all but the last.
    pub fn own_steps(&self) -> usize {
        self.max_steps() - 1
    }

    /// Whether logits of the whole vocabulary are ever needed.
    pub fn needs_vocabulary(&self) -> bool {
        self.normalizer == Normalizer::Vocabulary
    }

    /// The score of a finished list of `items` semantic IDs as replies give it; its length is all that was scored.
    pub fn final_score(&self, sum: f32, items: usize) -> f32 {
        match self.length_penalty {
            0.0 => sum,
            penalty => sum / (self.steps(items) as f32).powf(penalty),
        }
    }
}

/// A plan with its device-side parts.
#[derive(Debug)]
pub struct Searcher {
    plan: SearchPlan,
    head: Head,
    trie: TrieId,
    /// f32 `[rows, widest level]`.
    logits: Tensor,
    /// f32 `[rows, 1]`.
    lognorm: Tensor,
}

impl Searcher {
    /// Loads the head and the trie and plans buffers for `rows` rows.
    pub fn load(
        plan: SearchPlan,
        manifest: &Manifest,
        matrix: HeadMatrix,
        catalog: &Arc<Catalog>,
        rows: usize,
        device: &mut dyn Device,
    ) -> Result<Searcher, DeviceError> {
        let level_tokens: Vec<Vec<u32>> = (0..plan.levels).map(|level| manifest.level_tokens(level)).collect();
        let widest = level_tokens.iter().map(Vec::len).max().unwrap_or(1);
        let whole_vocabulary = plan.needs_vocabulary();
        let source = HeadSource { matrix, level_tokens, whole_vocabulary };
        Ok(Searcher {
            head: device.head_weight(&source)?,
            trie: device.trie(catalog)?,
            logits: device.buffer(rows, widest, Dtype::F32)?,
            lognorm: device.buffer(rows, 1, Dtype::F32)?,
            plan,
        })
    }

    /// The trie that is searched.
    pub fn trie(&self) -> TrieId {
        self.trie
    }

    /// The plan.
    pub fn plan(&self) -> &SearchPlan {
        &self.plan
    }

    /// Enqueues step `step` (from 0) of a cohort's search for lists of `items` semantic IDs.
    pub fn step(
        &self,
        device: &mut dyn Device,
        model: &mut dyn Model,
        lanes: &CohortLanes,
        (step, items): (usize, usize),
    ) -> Result<(), DeviceError> {
        let body = &mut |device: &mut dyn Device| self.enqueue(device, model, lanes, (step, items));
        device.replay((lanes.cohort, lanes.prefix), step, body)
    }

    /// Enqueues the logits of `level`'s codes, and their log-normaliser, behind the hidden states that start a search: one row a
    /// request, whatever its prompt ends with. For inspection.
    pub(crate) fn first_logits(
        &self,
        device: &mut dyn Device,
        model: &mut dyn Model,
        lanes: &CohortLanes,
        level: usize,
    ) -> Result<(), DeviceError> {
        let x = model.first_hidden(device, lanes)?;
        self.head(device, Rows::Requests(lanes.cohort), x, Target::Level(level))
    }

    fn head(&self, device: &mut dyn Device, rows: Rows, x: Tensor, target: Target) -> Result<(), DeviceError> {
        let (logits, lognorm, normalizer) = (self.logits, self.lognorm, self.plan.normalizer);
        device.head(&HeadArgs { rows, x, head: self.head, target, normalizer, logits, lognorm })
    }

    fn enqueue(
        &self,
        device: &mut dyn Device,
        model: &mut dyn Model,
        lanes: &CohortLanes,
        (step, items): (usize, usize),
    ) -> Result<(), DeviceError> {
        let lane = lanes.cohort;
        let (rows, x) = match step {
            0 => (Rows::Requests(lane), model.first_hidden(device, lanes)?),
            _ => (Rows::Beams(lane), model.next_hidden(device, lanes, step - 1)?),
        };
        let (logits, lognorm) = (self.logits, self.lognorm);
        let target = match step.checked_sub(items * self.plan.levels) {
            None => Target::Level(step % self.plan.levels),
            Some(index) => Target::Token(self.plan.end[index]),
        };
        self.head(device, rows, x, target)?;
        match target {
            Target::Level(level) => {
                let lognorm = (self.plan.normalizer != Normalizer::Legal).then_some(lognorm);
                let (trie, head, item) = (self.trie, self.head, step / self.plan.levels);
                device.expand_select(&ExpandArgs { lane, trie, head, item, level, logits, lognorm })
            }
            Target::Token(token) => {
                device.force_token(&ForceArgs { lane, token, step, scored: Some((logits, lognorm)) })
            }
        }
    }
}
