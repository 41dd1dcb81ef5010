//! Teacher forcing: the log-probability that a decoder-only checkpoint gives each next token of a text.
//!
//! The numbers come from the operations that serve, not from a second forward pass. Every token of a text counts as the last
//! token of a prompt: a prefill batch has one span a row, each in a slot of its own, and all slots share the text's pages.
//! What then starts a search at level 0 gives the next token's logit, over the whole vocabulary. A text's batches follow one
//! another through the same pages, like the chunks of a long prompt.
//!
//! No manifest and no catalogue are needed: a Hugging Face directory can be judged before it becomes an export.

use std::path::Path;

use crate::device::{
    Cohort, CohortPlan, CohortRequest, Device, DeviceError, DeviceFacts, Dtype, Head, HeadArgs, HeadMatrix, HeadSource,
    Normalizer, Queue, Rows, SlotPlan, SlotState, Span, Target, Tensor, TokenBatch, TokenLane,
};
use crate::export::Checkpoint;
use crate::model::{self, Capacity, CohortLanes, Description, Model};
use crate::schedule::Limits;
use crate::schedule::load::{DeviceChoice, LoadError};

/// Tokens of a batch, each of them a slot.
const ROWS: usize = 64;

/// A loaded checkpoint with texts whose tokens it can score.
pub struct Teacher {
    device: Box<dyn Device>,
    model: Box<dyn Model>,
    lane: TokenLane,
    lanes: CohortLanes,
    head: Head,
    logits: Tensor,  // f32 [ROWS, vocabulary]
    lognorm: Tensor, // f32 [ROWS, 1]
    texts: Vec<Vec<u32>>,
}

impl Teacher {
    /// Opens the checkpoint in `dir` and the device, and plans memory for `texts`.
    ///
    /// # Errors
    /// The checkpoint or the device is bad, the model has an encoder, or a text has fewer than two tokens, more than the
    /// model has positions, or tokens outside the vocabulary.
    pub fn open(dir: &Path, choice: &DeviceChoice, texts: Vec<Vec<u32>>) -> Result<Teacher, LoadError> {
        let checkpoint = Checkpoint::open(dir)?;
        let family = model::family(&checkpoint)?;
        let description = (family.describe)(&checkpoint)?;
        description.expect_tensors(&checkpoint)?;
        let longest = check(checkpoint.model_type(), &description, &texts)?;

        let mut device = choice.clone().open()?;
        let page_tokens = Limits::default().page_tokens;
        // The last token of a text is scored and never fed back.
        let history_pages = (longest - 1).div_ceil(page_tokens);
        let capacity = Capacity {
            prefix_vectors: false,
            prefill_rows: ROWS,
            cohort_rows: ROWS,
            slots: ROWS,
            cohorts: 1,
            own_steps: 1,
            prompt_tokens: longest - 1,
            history_pages,
            page_tokens,
            prefix_tokens: 1,
        };
        let model = (family.load)(&checkpoint, device.as_mut(), &capacity)?;
        device.plan_slots(SlotPlan { slots: ROWS, history_pages, prefix_pages: 1 })?;
        let lane = device.token_lane(ROWS, Queue::Prefill)?;
        let cohort =
            device.cohort_lane(CohortPlan { rows: ROWS, steps: 1, requests: ROWS, banned_nodes: 0, lists: None })?;
        let prefix = device.token_lane(1, Queue::Search)?;
        let matrix = checkpoint.weights().tensor(&description.head)?;
        // All tokens are the codes of one level: a head whose order of summation depended on the texts would give a text other
        // bits in other company.
        let vocabulary = description.vocabulary;
        let level_tokens = vec![(0..vocabulary as u32).collect()];
        Ok(Teacher {
            head: device.head_weight(&HeadSource {
                matrix: HeadMatrix::Shared(matrix),
                level_tokens,
                whole_vocabulary: true,
            })?,
            logits: device.buffer(ROWS, vocabulary, Dtype::F32)?,
            lognorm: device.buffer(ROWS, 1, Dtype::F32)?,
            lanes: CohortLanes { index: 0, cohort, prefix },
            device,
            model,
            lane,
            texts,
        })
    }

    /// What computes.
    pub fn device(&self) -> &DeviceFacts {
        self.device.facts()
    }

    /// The texts.
    pub fn texts(&self) -> &[Vec<u32>] {
        &self.texts
    }

    /// The log-probability of every token of text `index` but the first, given those before it.
    ///
    /// # Errors
    /// The device failed.
    pub fn log_probs(&mut self, index: usize) -> Result<Vec<f32>, DeviceError> {
        let inputs = self.texts[index].len() - 1;
        let mut log_probs = Vec::with_capacity(inputs);
        for first in (0..inputs).step_by(ROWS) {
            let rows = ROWS.min(inputs - first);
            self.prefill(index, first, rows)?;
            self.score(rows)?;
            let logits = self.device.read_buffer(self.logits, rows)?;
            let lognorm = self.device.read_buffer(self.lognorm, rows)?;
            let nexts = &self.texts[index][first + 1..][..rows];
            for ((logits, lognorm), next) in logits.chunks(self.logits.cols).zip(lognorm).zip(nexts) {
                log_probs.push(logits[*next as usize] - lognorm);
            }
        }
        Ok(log_probs)
    }

    /// Runs `rows` tokens of a text from `first` on through the model.
    fn prefill(&mut self, index: usize, first: usize, rows: usize) -> Result<(), DeviceError> {
        let device = self.device.as_mut();
        let history_len = (first + rows) as u32;
        let pages = history_len.div_ceil(Limits::default().page_tokens as u32);
        let state = SlotState { history_len, history_pages: (0..pages).collect(), ..SlotState::default() };
        let mut batch = TokenBatch { tokens: self.texts[index][first..][..rows].to_vec(), spans: Vec::new() };
        for (row, position) in (0..rows as u32).zip(first as u32..) {
            device.write_slot(row, &state)?;
            batch.spans.push(Span { slot: row, first_row: row, rows: 1, first_position: position, last: true });
        }
        device.write_tokens(self.lane, &batch)?;
        (0..self.model.prefill_stages()).try_for_each(|stage| self.model.prefill(device, self.lane, stage))
    }

    /// Computes the logits and the log-normaliser behind each row of the last batch.
    fn score(&mut self, rows: usize) -> Result<(), DeviceError> {
        let device = self.device.as_mut();
        let request = |row: u32| CohortRequest { slot: row, beams: 1, first_row: row, ..CohortRequest::default() };
        let cohort = self.lanes.cohort;
        device.write_cohort(cohort, &Cohort { requests: (0..rows as u32).map(request).collect() })?;
        let x = self.model.first_hidden(device, &self.lanes)?;
        device.head(&HeadArgs {
            rows: Rows::Requests(cohort),
            x,
            head: self.head,
            target: Target::Level(0),
            normalizer: Normalizer::Vocabulary,
            logits: self.logits,
            lognorm: self.lognorm,
        })
    }
}

/// Checks the texts against the model; the length of the longest.
fn check(model_type: &str, description: &Description, texts: &[Vec<u32>]) -> Result<usize, LoadError> {
    let refuse = |message: String| Err(LoadError::Unsupported(message));
    if description.encoder_decoder {
        return refuse(format!(
            "config.json: model_type {model_type:?} has an encoder; the tokens of a text are scored with decoder-only models"
        ));
    }
    let positions = description.max_positions.unwrap_or(usize::MAX);
    for (number, text) in (1..).zip(texts) {
        if text.len() < 2 {
            return refuse(format!("text {number} has fewer than two tokens: nothing to score"));
        }
        if text.len() > positions {
            let tokens = text.len();
            return refuse(format!(
                "text {number} has {tokens} tokens, and config.json max_position_embeddings = {positions}; cut it"
            ));
        }
        if let Some(token) = text.iter().find(|token| **token as usize >= description.vocabulary) {
            return refuse(format!(
                "text {number}: token {token} is outside the vocabulary of {}",
                description.vocabulary
            ));
        }
    }
    match texts.iter().map(Vec::len).max() {
        Some(longest) => Ok(longest),
        None => refuse("there is no text to score".to_owned()),
    }
}
