//! From an export on disk to everything that the engine's threads own.

use std::sync::Arc;
use std::time::Instant;

use crate::catalog::{Journal, Snapshot, View};
use crate::export::Export;
use crate::model;
use crate::request::Provenance;
use crate::schedule::EngineFacts;
use crate::schedule::blueprint::Blueprint;
use crate::schedule::core::{Geometry, Parts};
use crate::schedule::engine::{Delistings, EngineConfig};
use crate::schedule::host::Host;
use crate::schedule::load::{LoadError, catalog_folder, open_catalog};
use crate::schedule::resolve::Bounds;
use crate::schedule::snapshots::{Follower, Snapshots};
use crate::search::SearchPlan;

/// What the threads own, and what is told about it.
pub(super) struct Loaded {
    pub host: Host,
    pub parts: Parts,
    /// Who follows the delisting journal, if anybody does.
    pub follower: Option<Follower>,
    pub facts: EngineFacts,
}

/// Loads the export and plans all memory.
pub(super) fn bring_up(config: &EngineConfig) -> Result<Loaded, LoadError> {
    let began = Instant::now();
    let limits = &config.limits;
    limits.validate().map_err(LoadError::Limits)?;
    let export = Export::open(&config.export)?;
    let manifest = export.manifest().clone();
    let prefix = manifest.decoder_prefix().unwrap_or(&[]).to_vec();
    let family = model::family(export.checkpoint())?;
    let description = family.description(&export)?;
    description.expect_tensors(export.checkpoint())?;
    manifest.validate_against(description.vocabulary, description.encoder_decoder)?;
    if prefix.len() > limits.max_decoder_prefix {
        return Err(LoadError::Limits(format!(
            "sidereal.json: decoder_prefix has {} tokens; the limit (max_decoder_prefix) is {}",
            prefix.len(),
            limits.max_decoder_prefix
        )));
    }
    let tokenizer = export.tokenizer()?;
    if let Some(tokenizer) = &tokenizer {
        tokenizer.validate_against(description.vocabulary)?;
    }
    let plan = SearchPlan::new(&manifest).with_lists(limits.max_list_items);
    let catalog = Arc::new(open_catalog(&export, config.catalog.as_deref())?);
    let folder = catalog_folder(&export, config.catalog.as_deref())?;
    let views = View::open_all(&folder, &catalog)?;
    if views.len() > limits.max_views {
        let (count, most) = (views.len(), limits.max_views);
        return Err(LoadError::Limits(format!("the catalogue has {count} views; the limit (max_views) is {most}")));
    }
    let masks = limits.mask_slots(views.len());
    let everything = Snapshot::new(Arc::clone(&catalog), views);
    let (snapshot, follower) = match config.delistings {
        Delistings::Followed => {
            let (snapshot, follower) = Follower::catch_up(Journal::beside(&folder), everything)?;
            (snapshot, Some(follower))
        }
        Delistings::Ignored => (everything, None),
    };
    let mut blueprint = Blueprint {
        export: Arc::new(export),
        family,
        plan: plan.clone(),
        catalog: Arc::clone(&catalog),
        masks,
        limits: limits.clone(),
        choice: config.device.clone(),
    };
    let (hardware, capacity) = blueprint.open(&description)?;

    let device = &hardware.device;
    let (weights, kv, rest) = device.planned_bytes();
    let device_facts = device.facts().clone();
    let provenance = Provenance {
        model: manifest.label(),
        catalog: snapshot.version(),
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
        views = snapshot.views().len(),
        delisted = snapshot.delisted(),
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
    let geometry = Geometry {
        whole_prompts: description.encoder_decoder,
        prefill_tokens: limits.max_prefill_tokens,
        cohort_rows: capacity.cohort_rows,
        slots: capacity.slots,
        page_tokens: capacity.page_tokens,
        history_pages: capacity.history_pages,
        decoder_prefix: prefix,
        masks,
    };
    let vocabulary = description.vocabulary;
    let parts = Parts {
        hardware,
        reopen: Box::new(move || Ok(blueprint.open(&description)?.0)),
        geometry,
        stats: Arc::default(),
        clock: Box::new(Instant::now),
    };
    let bounds = Bounds {
        max_prompt_tokens: capacity.prompt_tokens,
        max_beams: limits.max_beams,
        max_history_items: limits.max_history_items,
        max_denied_items: limits.max_denied_items,
        vocabulary,
        max_text_bytes: limits.max_text_bytes,
        max_list_items: limits.max_list_items,
    };
    let host = Host { manifest, snapshots: Snapshots::new(snapshot), tokenizer, bounds, plan, provenance };
    Ok(Loaded { host, parts, follower, facts })
}
