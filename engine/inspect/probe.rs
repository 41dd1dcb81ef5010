//! One prompt through the serving path, operation by operation: prefill, and the logits that start a search.

use std::sync::Arc;

use super::Means;
use super::tracer::{Event, Trace, Tracer};
use crate::device::{Cohort, CohortRequest, DeviceError, SlotState, Span, TokenBatch};
use crate::export::Export;
use crate::model;
use crate::schedule::{Blueprint, DeviceChoice, Hardware, Instructions, Limits, LoadError, open_catalog};
use crate::search::SearchPlan;

/// A model on a device that records.
pub(super) struct Probe {
    hardware: Hardware,
    trace: Trace,
    decoder_prefix: Vec<u32>,
    instructions: Option<Instructions>,
    page_tokens: usize,
}

impl Probe {
    /// Loads the export for one prompt of at most `longest` tokens. What is inspected is the export, so it is computed in f32.
    ///
    /// # Errors
    /// As starting an engine.
    pub fn open(export: &Arc<Export>, means: Means<'_>, longest: usize) -> Result<Probe, LoadError> {
        let family = model::family(export.checkpoint())?;
        let description = family.description(export)?;
        let manifest = export.manifest();
        let mut decoder_prefix = manifest.decoder_prefix().unwrap_or_default().to_vec();
        decoder_prefix.resize(manifest.decoder_prompt_len(), 0);
        let instructions = Instructions::load(export, &description)?;
        let limits = Limits {
            max_sequences: 1,
            max_cohorts: 1,
            max_beams: 1,
            max_cohort_rows: 1,
            max_prompt_tokens: longest,
            max_prefill_tokens: longest,
            // Codes that are given follow the prefix.
            max_decoder_prefix: decoder_prefix.len() + manifest.levels().len(),
            ..Limits::default()
        };
        let blueprint = Blueprint {
            export: Arc::clone(export),
            family,
            plan: SearchPlan::new(manifest),
            catalog: Arc::new(open_catalog(export, means.catalog)?),
            // Nothing that is inspected is masked.
            masks: 1,
            limits,
            choice: DeviceChoice { dtype: None, ..means.device.clone() },
        };
        let (tracer, trace) = Tracer::new(blueprint.choice.clone().open()?);
        let (hardware, capacity) = blueprint.equip(Box::new(tracer), &description)?;
        if capacity.prompt_tokens < longest {
            let most = capacity.prompt_tokens;
            return Err(LoadError::Limits(format!(
                "a golden prompt of {longest} tokens: the model reads at most {most}"
            )));
        }
        Ok(Probe { hardware, trace, decoder_prefix, instructions, page_tokens: capacity.page_tokens })
    }

    /// Runs `prompt`, then `given`: tokens of the first levels, after which the next level's logits are computed. Returns what
    /// was done, in order.
    ///
    /// # Errors
    /// The device's.
    pub fn run(&mut self, prompt: &[u32], given: &[u32]) -> Result<Vec<Event>, DeviceError> {
        let (mut prompt, mut prefix) = (prompt.to_vec(), self.decoder_prefix.clone());
        if prefix.is_empty() { &mut prompt } else { &mut prefix }.extend_from_slice(given);
        let Hardware { device, model, searcher, prefill_lane, cohort_lanes } = &mut self.hardware;
        let (device, lanes) = (device.as_mut(), cohort_lanes[0]);
        device.write_slot(
            0,
            &SlotState {
                history_len: prompt.len() as u32,
                history_pages: (0..prompt.len().div_ceil(self.page_tokens) as u32).collect(),
                prefix_len: prefix.len() as u32,
                prefix_pages: if prefix.is_empty() { Vec::new() } else { vec![0] },
            },
        )?;
        device.write_tokens(*prefill_lane, &whole(&prompt))?;
        for stage in 0..model.prefill_stages() {
            model.prefill(device, *prefill_lane, stage)?;
        }
        if !prefix.is_empty() {
            device.write_tokens(lanes.prefix, &whole(&prefix))?;
            if let Some(instructions) = &self.instructions {
                device.write_dense(lanes.prefix, &instructions.default_vectors(given))?;
            }
        }
        let request = CohortRequest { beams: 1, ..CohortRequest::default() };
        device.write_cohort(lanes.cohort, &Cohort { requests: vec![request] })?;
        searcher.first_logits(device, model.as_mut(), &lanes, given.len())?;
        Ok(self.trace.lock().map(|mut events| std::mem::take(&mut *events)).unwrap_or_default())
    }
}

/// A batch of one sequence.
fn whole(tokens: &[u32]) -> TokenBatch {
    let span = Span { slot: 0, first_row: 0, rows: tokens.len() as u32, first_position: 0, last: true };
    TokenBatch { tokens: tokens.to_vec(), spans: vec![span] }
}
