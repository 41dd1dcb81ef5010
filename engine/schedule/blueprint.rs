//! What it takes to put a model on a device: at start, and once more when the device was lost.

use std::sync::Arc;

use crate::catalog::Catalog;
use crate::device::{CohortPlan, Device, HeadMatrix, Queue, SlotPlan};
use crate::export::Export;
use crate::model::{Capacity, CohortLanes, Description, Family};
use crate::schedule::Limits;
use crate::schedule::core::Hardware;
use crate::schedule::load::{DeviceChoice, LoadError};
use crate::search::{SearchPlan, Searcher};

/// A checked export and how to serve it.
#[derive(Clone)]
pub(crate) struct Blueprint {
    pub export: Arc<Export>,
    pub family: &'static Family,
    pub plan: SearchPlan,
    pub catalog: Arc<Catalog>,
    /// Mask slots.
    pub masks: usize,
    pub limits: Limits,
    pub choice: DeviceChoice,
}

impl Blueprint {
    /// Opens the device, uploads the weights and plans all memory.
    ///
    /// # Errors
    /// The device is not there or too small, or the limits leave no room for a prompt.
    pub fn open(&mut self, description: &Description) -> Result<(Hardware, Capacity), LoadError> {
        let device = self.choice.open()?;
        self.equip(device, description)
    }

    /// Puts the model on a device that was just opened.
    ///
    /// # Errors
    /// As [`Blueprint::open`].
    pub fn equip(
        &self,
        mut device: Box<dyn Device>,
        description: &Description,
    ) -> Result<(Hardware, Capacity), LoadError> {
        let Blueprint { export, limits, plan, .. } = self;
        let manifest = export.manifest();
        let capacity = Capacity {
            prefix_vectors: !manifest.instructions().is_empty(),
            ..plan_capacity(limits, description, plan, device.facts().compute.bytes())
        };
        if capacity.prompt_tokens == 0 {
            let message = "no position is left for a prompt: max_position_embeddings is too small";
            return Err(LoadError::Limits(message.into()));
        }
        let model = (self.family.load)(export.checkpoint(), device.as_mut(), &capacity)?;
        device.plan_slots(SlotPlan {
            slots: capacity.slots,
            history_pages: capacity.prompt_tokens.div_ceil(capacity.page_tokens),
            prefix_pages: 1,
        })?;
        let prefill_lane = device.token_lane(capacity.prefill_rows, Queue::Prefill)?;
        let requests = capacity.slots.min(capacity.cohort_rows);
        let cohort_plan = CohortPlan {
            rows: capacity.cohort_rows,
            steps: plan.max_steps(),
            requests,
            // A denied item bans at most one node a level.
            banned_nodes: requests * limits.max_denied_items * manifest.levels().len(),
            lists: plan.lists(),
        };
        let prefix = manifest.decoder_prefix().map_or(0, |_| capacity.prefix_tokens);
        let mut cohort_lanes = Vec::with_capacity(capacity.cohorts);
        for index in 0..capacity.cohorts {
            let cohort = device.cohort_lane(cohort_plan)?;
            let prefix = device.token_lane((capacity.slots * prefix).max(1), Queue::Search)?;
            if capacity.prefix_vectors {
                device.plan_dense(prefix, description.hidden)?;
            }
            cohort_lanes.push(CohortLanes { index, cohort, prefix });
        }
        let head = match manifest.heads() {
            [] => HeadMatrix::Shared(export.weights().tensor(&description.head)?),
            names => {
                let tensors = names.iter().map(|name| export.weights().tensor(name));
                HeadMatrix::PerLevel(tensors.collect::<Result<_, _>>()?)
            }
        };
        let rows = capacity.cohort_rows.max(capacity.slots);
        let searcher = Searcher::load(plan.clone(), manifest, head, &self.catalog, rows, device.as_mut())?;
        device.plan_masks(searcher.trie(), self.masks)?;
        Ok((Hardware { device, model, searcher, prefill_lane, cohort_lanes }, capacity))
    }
}

/// Plans capacity from limits, the model, and the search.
fn plan_capacity(limits: &Limits, description: &Description, plan: &SearchPlan, element_bytes: usize) -> Capacity {
    let own_steps = plan.own_steps();
    let prompt_tokens = match description.max_positions {
        // What is generated stands at the decoder's positions, not behind the prompt.
        Some(positions) if description.encoder_decoder => limits.max_prompt_tokens.min(positions),
        Some(positions) => limits.max_prompt_tokens.min(positions.saturating_sub(own_steps)),
        None => limits.max_prompt_tokens,
    };
    let page_bytes = limits.page_tokens * description.kv_bytes_per_token(element_bytes);
    Capacity {
        // An encoder cannot be cut by tokens, so its batch holds the longest prompt whole.
        prefill_rows: if description.encoder_decoder {
            limits.max_prefill_tokens.max(prompt_tokens)
        } else {
            limits.max_prefill_tokens
        },
        cohort_rows: limits.max_cohort_rows.max(limits.max_beams),
        slots: limits.max_sequences,
        cohorts: limits.max_cohorts,
        own_steps: own_steps.max(1),
        prompt_tokens,
        history_pages: limits.history_pages(prompt_tokens, page_bytes),
        page_tokens: limits.page_tokens,
        prefix_tokens: limits.max_decoder_prefix,
        prefix_vectors: false,
    }
}
