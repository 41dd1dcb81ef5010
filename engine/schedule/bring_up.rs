//! From an export on disk to everything that the engine's threads own.

use std::sync::Arc;
use std::time::Instant;

use crate::device::{CohortPlan, Queue, SlotPlan};
use crate::export::Export;
use crate::model::{self, Capacity, CohortLanes, Description};
use crate::request::Provenance;
use crate::schedule::core::{Geometry, Parts};
use crate::schedule::engine::EngineConfig;
use crate::schedule::host::Host;
use crate::schedule::load::{LoadError, open_catalog};
use crate::schedule::resolve::Bounds;
use crate::schedule::{EngineFacts, Limits};
use crate::search::{SearchPlan, Searcher};

/// What the threads own, and what is told about it.
pub(super) struct Loaded {
    pub host: Host,
    pub parts: Parts,
    pub facts: EngineFacts,
}

/// Loads the export and plans all memory.
pub(super) fn bring_up(config: &EngineConfig) -> Result<Loaded, LoadError> {
    let began = Instant::now();
    let limits = &config.limits;
    limits.validate().map_err(LoadError::Limits)?;
    let export = Export::open(&config.export)?;
    let manifest = export.manifest().clone();
    let prefix = manifest.decoder_prefix().unwrap_or(&[]);
    let family = model::family(&export)?;
    let description = (family.describe)(&export)?;
    for tensor in &description.tensors {
        export.weights().expect(&tensor.name, &tensor.shape)?;
    }
    manifest.validate_against(description.vocabulary, description.encoder_decoder)?;
    if prefix.len() > limits.max_decoder_prefix {
        return Err(LoadError::Limits(format!(
            "sidereal.json: decoder_prefix has {} tokens; the limit (max_decoder_prefix) is {}",
            prefix.len(),
            limits.max_decoder_prefix
        )));
    }
    let plan = SearchPlan::new(&manifest).map_err(LoadError::Unsupported)?;
    let catalog = Arc::new(open_catalog(&export, config.catalog.as_deref())?);
    let mut device = config.device.open()?;
    let capacity = plan_capacity(limits, &description, &plan, device.facts().compute.bytes());
    if capacity.prompt_tokens == 0 {
        return Err(LoadError::Limits("no position is left for a prompt: max_position_embeddings is too small".into()));
    }
    let model = (family.load)(&export, device.as_mut(), &capacity)?;
    device.plan_slots(SlotPlan {
        slots: capacity.slots,
        history_pages: capacity.prompt_tokens.div_ceil(capacity.page_tokens),
        prefix_pages: 1,
    })?;
    let prefill_lane = device.token_lane(capacity.prefill_rows, Queue::Prefill)?;
    let requests = capacity.slots.min(capacity.cohort_rows);
    let cohort_plan = CohortPlan {
        rows: capacity.cohort_rows,
        steps: plan.steps(),
        requests,
        // A denied item bans at most one node a level.
        banned_nodes: requests * limits.max_denied_items * manifest.levels().len(),
    };
    let mut cohort_lanes = Vec::with_capacity(capacity.cohorts);
    for index in 0..capacity.cohorts {
        let cohort = device.cohort_lane(cohort_plan)?;
        let prefix = device.token_lane((capacity.slots * prefix.len()).max(1), Queue::Search)?;
        cohort_lanes.push(CohortLanes { index, cohort, prefix });
    }
    let head = export.weights().tensor(&description.head)?;
    let rows = capacity.cohort_rows.max(capacity.slots);
    let searcher = Searcher::load(plan.clone(), &manifest, &head, &catalog, rows, device.as_mut())?;

    let (weights, kv, rest) = device.planned_bytes();
    let device_facts = device.facts().clone();
    let provenance = Provenance {
        model: manifest.label(),
        catalog: catalog.version().to_owned(),
        device: device_facts.name.clone(),
        dtype: device_facts.compute.name().to_owned(),
    };
    tracing::info!(
        model = provenance.model,
        catalog = provenance.catalog,
        device = provenance.device,
        dtype = provenance.dtype,
        threads = device_facts.threads,
        weight_bytes = weights,
        kv_bytes = kv,
        workspace_bytes = rest,
        took_ms = began.elapsed().as_millis() as u64,
        "loaded"
    );
    let facts = EngineFacts {
        provenance: provenance.clone(),
        threads: device_facts.threads,
        levels: manifest.levels().len(),
        items: catalog.items(),
        max_beams: limits.max_beams,
        max_prompt_tokens: capacity.prompt_tokens,
    };
    let parts = Parts {
        device,
        model,
        searcher,
        prefill_lane,
        cohort_lanes,
        geometry: Geometry {
            whole_prompts: description.encoder_decoder,
            prefill_tokens: limits.max_prefill_tokens,
            cohort_rows: capacity.cohort_rows,
            slots: capacity.slots,
            page_tokens: capacity.page_tokens,
            history_pages: capacity.history_pages,
            decoder_prefix: prefix.to_vec(),
        },
        stats: Arc::default(),
        clock: Box::new(Instant::now),
    };
    let bounds = Bounds {
        max_prompt_tokens: capacity.prompt_tokens,
        max_beams: limits.max_beams,
        max_history_items: limits.max_history_items,
        max_denied_items: limits.max_denied_items,
        vocabulary: description.vocabulary,
    };
    Ok(Loaded { host: Host { manifest, catalog, bounds, plan, provenance }, parts, facts })
}

/// Plans capacity from limits, the model, and the search.
fn plan_capacity(limits: &Limits, description: &Description, plan: &SearchPlan, element_bytes: usize) -> Capacity {
    let own_steps = plan.own_steps();
    let prompt_tokens = match description.max_positions {
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
    }
}
