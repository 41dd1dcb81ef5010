//! The host thread: what a request needs before the device and after it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select_biased};

use crate::export::{InstructionRule, Manifest, Scenario, TextTokenizer};
use crate::request::{
    InstructionUsed, Origin, Policy, Provenance, Recommendation, Refusal, RefusalKind, Request, StageTimings,
};
use crate::schedule::answer;
use crate::schedule::core::{Finished, Newcomer};
use crate::schedule::resolve::{Bounds, resolve};
use crate::schedule::snapshots::Snapshots;
use crate::schedule::text;
use crate::schedule::ticket::Ticket;
use crate::search::SearchPlan;

/// A request on its way to be resolved.
pub(super) struct Arrival {
    pub ticket: Ticket,
    pub request: Request,
    /// The bundle that filled it.
    pub scenario: Option<Arc<Scenario>>,
}

/// What host work needs to know.
pub(super) struct Host {
    pub manifest: Manifest,
    pub snapshots: Arc<Snapshots>,
    pub tokenizer: Option<TextTokenizer>,
    pub bounds: Bounds,
    pub plan: SearchPlan,
    pub provenance: Provenance,
}

/// Resolves arrivals and turns finished searches into answers, until both queues are closed. Answers come first: they are
/// late sooner, and there are never more of them than of arrivals.
pub(super) fn serve_host(
    host: &Host,
    arrivals: Receiver<Arrival>,
    to_core: Sender<Newcomer>,
    finished: Receiver<Finished>,
) {
    let mut to_core = Some(to_core);
    let mut arrivals = arrivals;
    loop {
        select_biased! {
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
    let Arrival { ticket, request, scenario } = arrival;
    if let Some(refusal) = ticket.stopped(began, "before it was resolved") {
        return ticket.answer(Err(refusal));
    }
    let request = match &host.tokenizer {
        Some(tokenizer) => text::tokenized(request, tokenizer, &host.bounds),
        None => Ok(request),
    };
    match request.and_then(|request| {
        let looked = |_: &str| (Origin::Missing, None);
        let resolved = resolve(request, &host.manifest, &host.snapshots.newest(), &host.bounds, &looked)?;
        scenario.map_or(Ok(()), |scenario| require(&scenario, &resolved.decoder_prompt.used))?;
        Ok(resolved)
    }) {
        // A send fails only when the engine thread is gone; the dropped ticket answers.
        Ok(resolved) => {
            drop(to_core.send(Newcomer { ticket, resolved, resolve: began.elapsed(), since: Instant::now() }))
        }
        Err(refusal) => ticket.answer(Err(refusal)),
    }
}

/// Refuses a request whose scenario does not make do with an instruction's default.
fn require(scenario: &Scenario, used: &[InstructionUsed]) -> Result<(), Refusal> {
    let required = |name: &str| scenario.instructions.get(name) == Some(&InstructionRule::Required);
    match used.iter().find(|used| required(&used.name) && !matches!(used.origin, Origin::Given | Origin::Stored)) {
        None => Ok(()),
        Some(InstructionUsed { name, origin, .. }) => {
            let message = format!("instruction {name:?} is {}; scenario {scenario} requires it", origin.name());
            Err(Refusal::new(RefusalKind::BadRequest, message))
        }
    }
}

fn finish(host: &Host, finished: Finished) {
    let began = Instant::now();
    let Finished { ticket, resolved, beams, policy, timings } = finished;
    if let Some(refusal) = ticket.stopped(began, "when its search ended") {
        return ticket.answer(Err(refusal));
    }
    // A healthy log-softmax is finite. What is not must not pass for a ranking: it would be the trie's first entries.
    if let Some(beam) = beams.iter().find(|beam| !beam.score.is_finite()) {
        let message = format!(
            "the model gave a score of {}: its weights hold or produce numbers that are not finite; `sidereal check` the \
             export",
            beam.score
        );
        return ticket.refuse(RefusalKind::DeviceFailed, message);
    }
    let results = answer::results(&beams, &resolved, &host.plan, &host.snapshots.newest());
    let microseconds = |duration: Duration| u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
    let recommendation = Recommendation {
        id: resolved.id,
        results,
        unknown_items: resolved.unknown_items,
        prompt_tokens: resolved.tokens.len() as u32,
        instructions: resolved.decoder_prompt.used,
        provenance: Provenance {
            catalog: resolved.snapshot.version(),
            policy: Policy::clone(&policy),
            ..host.provenance.clone()
        },
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
