//! The engine as others see it: an export loaded on a device, and a door for requests.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};

use crate::catalog::Catalog;
use crate::export::{Export, Manifest};
use crate::model::{self, Capacity, CohortLanes, Description};
use crate::request::{Provenance, Recommendation, Refusal, RefusalKind, Request, StageTimings};
use crate::schedule::answer;
use crate::schedule::core::{Core, Finished, Geometry, Newcomer, Parts};
use crate::schedule::load::{DeviceChoice, LoadError, open_catalog};
use crate::schedule::resolve::{Bounds, check, resolve};
use crate::schedule::stats::Stats;
use crate::schedule::ticket::{Done, Ticket};
use crate::schedule::{EngineFacts, Limits};
use crate::search::{SearchPlan, Searcher};

/// A request on its way to be resolved.
struct Arrival {
    ticket: Ticket,
    request: Request,
}

/// What host work needs to know; shared by all host threads.
struct Host {
    manifest: Manifest,
    catalog: Arc<Catalog>,
    bounds: Bounds,
    plan: SearchPlan,
    provenance: Provenance,
}

/// An export, served. Dropping it drains: every accepted request is answered first.
pub struct Engine {
    facts: EngineFacts,
    limits: Limits,
    bounds: Bounds,
    in_flight: Arc<AtomicUsize>,
    draining: AtomicBool,
    /// `None` once draining: closing the queue is what lets the threads end.
    door: Mutex<Option<Sender<Arrival>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stats: Arc<Stats>,
    catalog: Arc<Catalog>,
}

/// What to serve and how.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Export directory.
    pub export: PathBuf,
    /// Catalogue to use instead of the export's own.
    pub catalog: Option<PathBuf>,
    /// Device, type and threads.
    pub device: DeviceChoice,
    /// Bounds.
    pub limits: Limits,
}

impl EngineConfig {
    /// The export at `path` on the default device within default limits.
    pub fn new(path: &Path) -> EngineConfig {
        EngineConfig {
            export: path.to_owned(),
            catalog: None,
            device: DeviceChoice::default(),
            limits: Limits::default(),
        }
    }
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

impl Engine {
    /// Loads the export, plans all memory, and starts the threads.
    ///
    /// # Errors
    /// [`LoadError`]: what is wrong with the export, the catalogue, the device or the limits.
    pub fn start(config: &EngineConfig) -> Result<Engine, LoadError> {
        let began = Instant::now();
        let limits = config.limits.clone();
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
        let capacity = plan_capacity(&limits, &description, &plan, device.facts().compute.bytes());
        if capacity.prompt_tokens == 0 {
            return Err(LoadError::Limits(
                "no position is left for a prompt: max_position_embeddings is too small".into(),
            ));
        }
        let model = (family.load)(&export, device.as_mut(), &capacity)?;
        device.plan_slots(capacity.slots)?;
        let prefill_lane = device.token_lane(capacity.prefill_rows)?;
        let mut cohort_lanes = Vec::with_capacity(capacity.cohorts);
        for index in 0..capacity.cohorts {
            let cohort = device.cohort_lane(capacity.cohort_rows, plan.steps())?;
            let prefix = device.token_lane((capacity.slots * prefix.len()).max(1))?;
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
        let bounds = Bounds {
            max_prompt_tokens: capacity.prompt_tokens,
            max_beams: limits.max_beams,
            max_denied_items: limits.max_denied_items,
            vocabulary: description.vocabulary,
        };
        let stats = Arc::new(Stats::default());
        let host = Arc::new(Host {
            manifest: manifest.clone(),
            catalog: Arc::clone(&catalog),
            bounds: bounds.clone(),
            plan,
            provenance: provenance.clone(),
        });
        // Every queue holds all requests that may be in flight, so no send ever blocks.
        let (door, arrivals) = bounded(limits.max_requests);
        let (to_core, newcomers) = bounded(limits.max_requests);
        let (to_host, finished) = bounded(limits.max_requests);
        let core = Core::new(
            Parts {
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
                stats: Arc::clone(&stats),
                clock: Box::new(Instant::now),
            },
            newcomers,
            to_host,
        );
        let threads = vec![
            spawn("sidereal-engine", move || core.run())?,
            spawn("sidereal-host", move || serve_host(&host, arrivals, to_core, finished))?,
        ];
        let facts = EngineFacts {
            provenance,
            threads: device_facts.threads,
            levels: manifest.levels().len(),
            items: catalog.items(),
            max_beams: bounds.max_beams,
            max_prompt_tokens: bounds.max_prompt_tokens,
            planned_bytes: (weights, kv, rest),
        };
        Ok(Engine {
            facts,
            limits,
            bounds,
            in_flight: Arc::new(AtomicUsize::new(0)),
            draining: AtomicBool::new(false),
            door: Mutex::new(Some(door)),
            threads: Mutex::new(threads),
            stats,
            catalog,
        })
    }

    /// What is being served, and on what.
    pub fn facts(&self) -> &EngineFacts {
        &self.facts
    }

    /// The catalogue.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The limits it was planned from.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Counters as JSON.
    pub fn stats(&self) -> serde_json::Value {
        self.stats.to_json(self.in_flight.load(Ordering::Relaxed))
    }

    /// Takes a request. `done` is called exactly once, from any thread, possibly before this returns. Never blocks.
    pub fn submit(&self, request: Request, arrived: Instant, cancel: Arc<AtomicBool>, done: Done) {
        let refuse = |done: Done, refusal: Refusal| {
            let answer = Err(refusal);
            self.stats.count(&answer);
            done(answer);
        };
        if self.draining.load(Ordering::Acquire) {
            return refuse(done, Refusal::new(RefusalKind::ShuttingDown, "the server is draining"));
        }
        if let Err(refusal) = check(&request, &self.bounds) {
            return refuse(done, refusal);
        }
        let allowed = request.deadline.unwrap_or(self.limits.default_deadline).min(self.limits.max_deadline);
        let running = self.in_flight.fetch_add(1, Ordering::AcqRel);
        if running >= self.limits.max_requests {
            self.in_flight.fetch_sub(1, Ordering::AcqRel);
            let message = format!("{running} requests are in flight; the limit is {}", self.limits.max_requests);
            return refuse(done, Refusal::new(RefusalKind::Overloaded, message));
        }
        let stats = Arc::clone(&self.stats);
        let counted: Done = Box::new(move |answer| {
            stats.count(&answer);
            done(answer);
        });
        let ticket = Ticket::new(counted, cancel, Arc::clone(&self.in_flight), arrived, arrived + allowed);
        let door = self.door.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match door.as_ref() {
            // A full or closed queue gives the arrival back; its ticket answers when it is dropped.
            Some(door) => {
                if let Err(error) = door.try_send(Arrival { ticket, request }) {
                    let Arrival { ticket, .. } = error.into_inner();
                    ticket.refuse(RefusalKind::Overloaded, "the engine's queue is full");
                }
            }
            None => ticket.refuse(RefusalKind::ShuttingDown, "the server is draining"),
        }
    }

    /// Submits and waits.
    pub fn recommend(&self, request: Request) -> crate::request::Answer {
        let (send, receive) = bounded(1);
        let done: Done = Box::new(move |answer| {
            let _ = send.send(answer);
        });
        self.submit(request, Instant::now(), Arc::new(AtomicBool::new(false)), done);
        receive.recv().unwrap_or_else(|_| Err(Refusal::new(RefusalKind::DeviceFailed, "the engine stopped")))
    }

    /// Refuses new requests, answers every accepted one, and ends the threads.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        drop(self.door.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take());
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("an engine thread panicked; its requests were refused");
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.drain();
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, LoadError> {
    std::thread::Builder::new().name(name.into()).spawn(body).map_err(LoadError::Thread)
}

/// The host thread: resolves arrivals and turns finished searches into answers, until both queues are closed.
fn serve_host(host: &Host, arrivals: Receiver<Arrival>, to_core: Sender<Newcomer>, finished: Receiver<Finished>) {
    let mut to_core = Some(to_core);
    let mut arrivals = arrivals;
    loop {
        select! {
            recv(finished) -> message => match message {
                Ok(finished) => finish(host, finished),
                // The engine thread has ended. What it had not taken up is refused as its tickets drop.
                Err(_) => return,
            },
            recv(arrivals) -> message => match message {
                Ok(arrival) => {
                    if let Some(to_core) = &to_core {
                        bring_in(host, arrival, to_core);
                    }
                }
                Err(_) => {
                    // Draining: closing the engine's queue lets it end once it has answered everybody.
                    to_core = None;
                    arrivals = crossbeam_channel::never();
                }
            },
        }
    }
}

fn bring_in(host: &Host, arrival: Arrival, to_core: &Sender<Newcomer>) {
    let began = Instant::now();
    let Arrival { ticket, request } = arrival;
    if let Some(refusal) = ticket.stopped(began, "before it was resolved") {
        return ticket.answer(Err(refusal));
    }
    match resolve(request, &host.manifest, &host.catalog, &host.bounds) {
        // A send fails only when the engine thread is gone; the dropped ticket answers.
        Ok(resolved) => {
            drop(to_core.send(Newcomer { ticket, resolved, resolve: began.elapsed(), since: Instant::now() }))
        }
        Err(refusal) => ticket.answer(Err(refusal)),
    }
}

fn finish(host: &Host, finished: Finished) {
    let began = Instant::now();
    let Finished { ticket, resolved, beams, timings } = finished;
    if let Some(refusal) = ticket.stopped(began, "when its search ended") {
        return ticket.answer(Err(refusal));
    }
    let results = answer::results(&beams, &resolved, &host.plan, &host.catalog);
    let microseconds = |duration: Duration| u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
    let recommendation = Recommendation {
        id: resolved.id,
        results,
        unknown_items: resolved.unknown_items,
        prompt_tokens: resolved.tokens.len() as u32,
        provenance: host.provenance.clone(),
        timings: StageTimings {
            resolve_us: microseconds(timings.resolve),
            queue_us: microseconds(timings.queue),
            prefill_us: microseconds(timings.prefill),
            search_us: microseconds(timings.search),
            expand_us: microseconds(began.elapsed()),
            total_us: microseconds(ticket.arrived.elapsed()),
        },
    };
    ticket.answer(Ok(recommendation));
}
