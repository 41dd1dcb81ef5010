//! From an export on disk to everything that the engine's threads own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam_channel::bounded;

use crate::catalog::{Journal, Snapshot, View};
use crate::export::{Export, ScenarioBounds};
use crate::model::{self, Capacity};
use crate::request::{Policy, Provenance};
use crate::schedule::EngineFacts;
use crate::schedule::blueprint::Blueprint;
use crate::schedule::core::{Geometry, Opening, Parts};
use crate::schedule::engine::{EngineConfig, Sidecars};
use crate::schedule::host::Host;
use crate::schedule::instructions::Instructions;
use crate::schedule::load::{LoadError, catalog_folder, open_catalog};
use crate::schedule::replace::{Prepare, Replacer};
use crate::schedule::resolve::Bounds;
use crate::schedule::scenarios::ScenarioFollower;
use crate::schedule::snapshots::{Follower, Followers, Snapshots};
use crate::search::SearchPlan;

/// What the threads own, and what is told about it.
pub(super) struct Loaded {
    pub host: Host,
    pub parts: Parts,
    /// Who follows the delisting journal and the scenarios, if anybody does.
    pub followers: Option<Followers>,
    pub facts: EngineFacts,
    pub replacer: Replacer,
}

/// Loads the export and plans all memory.
pub(super) fn bring_up(config: &EngineConfig) -> Result<Loaded, LoadError> {
    let began = Instant::now();
    let limits = &config.limits;
    limits.validate().map_err(LoadError::Limits)?;
    let export = Export::open(&config.export)?;
    let manifest = export.manifest().clone();
    // Instructions stand in rows whose tokens are not read.
    let mut prefix = manifest.decoder_prefix().unwrap_or(&[]).to_vec();
    prefix.resize(manifest.decoder_prompt_len(), 0);
    let family = model::family(export.checkpoint())?;
    let description = family.description(&export)?;
    description.expect_tensors(export.checkpoint())?;
    manifest.validate_against(description.vocabulary, description.encoder_decoder)?;
    if prefix.len() > limits.max_decoder_prefix {
        return Err(LoadError::Limits(format!(
            "sidereal.json: decoder_prefix and instructions are {} tokens; the limit (max_decoder_prefix) is {}",
            prefix.len(),
            limits.max_decoder_prefix
        )));
    }
    let instructions = Instructions::load(&export, &description)?.map(Arc::new);
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
    let (snapshot, followers) = match config.sidecars {
        Sidecars::Followed => {
            let scenarios = ScenarioBounds {
                views: everything.views().map(|(view, _)| view.name().to_owned()).collect(),
                instructions: manifest.instructions().iter().map(|listed| listed.name.clone()).collect(),
                max_beams: limits.max_beams,
                max_deadline: limits.max_deadline,
            };
            let scenarios = ScenarioFollower::catch_up(export.dir(), scenarios)?;
            let (snapshot, journal) = Follower::catch_up(Journal::beside(&folder), everything)?;
            (snapshot, Some(Followers { journal, scenarios }))
        }
        Sidecars::Ignored => (everything, None),
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
        policy: Policy { number: 0, version: manifest.version().to_owned() },
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
        scenarios = followers.as_ref().map_or(0, |followers| followers.scenarios.set().count()),
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
    let opening = Opening::default();
    let (to_swap, swaps) = bounded(1);
    let prepare = prepare(blueprint.clone(), capacity);
    let replacer = Replacer::new(provenance.policy.clone(), prepare, Arc::clone(&opening), to_swap);
    let parts = Parts {
        hardware,
        policy: provenance.policy.clone(),
        opening,
        swaps,
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
        instructions,
        max_list_items: limits.max_list_items,
    };
    let host = Host { manifest, snapshots: Snapshots::new(snapshot), tokenizer, bounds, plan, provenance };
    Ok(Loaded { host, parts, followers, facts, replacer })
}

/// Names of tensors that the host reads before a request reaches the device.
const OF_THE_HOST: [&str; 3] = ["instructions.", "history.", "retrieval."];

/// What a replacement does before it is the engine thread's: the model of `running` with other weights, checked as at start
/// and number by number, for a device of the same capacity.
fn prepare(running: Blueprint, planned: Capacity) -> Prepare {
    Box::new(move |path, ending| {
        let ours = running.export.weights();
        if let Some(name) = ours.names().find(|name| OF_THE_HOST.iter().any(|of_host| name.starts_with(of_host))) {
            return Err(LoadError::Unsupported(format!(
                "{}: tensor `{name}` is read by the host, which keeps the weights that it began with; restart the server to serve \
                 others",
                ours.path().display()
            )));
        }
        let export = Arc::new(running.export.with_weights(path)?);
        let description = running.family.description(&export)?;
        for tensor in &description.tensors {
            if ending.load(Ordering::Acquire) {
                return Err(LoadError::Unsupported("the server is draining".into()));
            }
            export.weights().expect_finite(&tensor.name, &tensor.shape)?;
        }
        let mut blueprint = Blueprint { export, ..running.clone() };
        Ok(Box::new(move || {
            let (hardware, capacity) = blueprint.open(&description)?;
            // Capacity is a matter of configuration and limits, which are the same.
            if capacity != planned {
                return Err(LoadError::Limits(format!(
                    "{capacity:?} is planned with these weights, {planned:?} serves"
                )));
            }
            Ok(hardware)
        }))
    })
}
