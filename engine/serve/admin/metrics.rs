//! `/metrics`: the counters of engine, socket loop and process in Prometheus' text format.
//!
//! Nothing is counted here. A scrape reads the same atomics as STATS, so there is one truth. `docs/operations.md` has the
//! table of names; a test compares it with what comes out.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::Board;
use super::board::Moment;
use super::families::Families;
use super::process;
use crate::request::{RefusalKind, StageTimings};
use crate::schedule::EngineCounts;
use crate::serve::wire::FaultCode;
use crate::serve::{Counters, ServerFacts};

/// Reads a server's counters when it is scraped.
#[derive(Debug)]
pub(super) struct Metrics {
    board: Arc<Board>,
}

impl Metrics {
    pub(super) fn new(board: Arc<Board>) -> Metrics {
        Metrics { board }
    }
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Moment { facts, engine, counters } = self.board.moment();
        let mut out = Families::new(encoder);
        build(&mut out, &facts)?;
        let ready = u64::from(self.board.readiness().is_ok());
        out.gauge("sidereal_ready", "1 if requests should be sent here, as /readyz says", ready)?;
        requests(&mut out, &engine, &counters)?;
        stages(&mut out, &engine)?;
        work(&mut out, &engine)?;
        scenarios(&mut out, &engine)?;
        sockets(&mut out, &counters)?;
        process::encode(&mut out)
    }
}

fn build(out: &mut Families<'_>, facts: &ServerFacts) -> fmt::Result {
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("model", &facts.model),
        ("catalog", &facts.catalog),
        ("device", &facts.device),
        ("dtype", &facts.dtype),
    ];
    out.gauges("sidereal_build_info", "1; what is served, and by what", [(labels, 1)])
}

fn requests(out: &mut Families<'_>, engine: &EngineCounts, counters: &Counters) -> fmt::Result {
    let at_socket = |at: usize| counters.refused[at].load(Ordering::Relaxed);
    let refused = RefusalKind::ALL.iter().enumerate().flat_map(|(at, kind)| {
        [("engine", engine.refused[at]), ("socket", at_socket(at))]
            .map(|(layer, count)| ([("layer", layer), ("outcome", kind.name())], count))
    });
    out.counters(
        "sidereal_requests",
        "Requests by outcome, OK or the refusal's name, and by who decided: the engine, or the socket loop before it",
        std::iter::once(([("layer", "engine"), ("outcome", "OK")], engine.answered)).chain(refused),
    )?;
    out.gauge("sidereal_requests_in_flight", "Requests accepted and not answered", engine.in_flight)?;
    out.gauge("sidereal_requests_waiting", "Resolved requests that wait for a slot and pages", engine.waiting)?;
    out.gauge("sidereal_slots", "Requests that can hold KV pages at once", engine.slots)?;
    out.gauge("sidereal_slots_used", "Requests that hold KV pages", engine.running)?;
    out.gauge("sidereal_kv_pages", "Pages of history KV", engine.pages)?;
    let used = engine.pages.saturating_sub(engine.free_pages);
    out.gauge("sidereal_kv_pages_used", "Pages of history KV that requests hold", used)
}

fn stages(out: &mut Families<'_>, engine: &EngineCounts) -> fmt::Result {
    let stages = StageTimings::STAGES.iter().zip(&engine.stages).map(|(name, spent)| ([("stage", *name)], spent));
    let help = "Seconds that answered requests spent in each stage; total is from arrival to the engine's answer";
    out.histograms("sidereal_request_stage_seconds", help, stages)
}

fn work(out: &mut Families<'_>, engine: &EngineCounts) -> fmt::Result {
    out.histogram("sidereal_cohort_requests", "Requests that were searched together", &engine.cohort_requests)?;
    out.histogram("sidereal_cohort_rows", "Beam rows that were searched together", &engine.cohort_rows)?;
    out.counter("sidereal_prefill_tokens", "Prompt tokens prefilled", engine.prefill_tokens as f64)?;
    out.counter("sidereal_decoded_beams", "Beam rows decoded, each step counted", engine.decoded_beams as f64)?;
    out.counter("sidereal_device_losses", "Times the device was lost and opened again", engine.device_losses as f64)?;
    let version = [("version", engine.policy.version.as_str())];
    out.gauges(
        "sidereal_policy",
        "Number of the weights that newcomers are served by",
        [(version, engine.policy.number)],
    )?;
    out.counter("sidereal_weights_replaced", "Times other weights took over", engine.weights_replaced as f64)?;
    out.counter("sidereal_weights_failed", "Attempts to replace the weights that failed", engine.weights_failed as f64)
}

fn scenarios(out: &mut Families<'_>, engine: &EngineCounts) -> fmt::Result {
    out.gauge("sidereal_scenarios", "Scenarios in force", engine.scenarios)?;
    let reloads = [("applied", engine.scenarios_applied), ("refused", engine.scenarios_refused)];
    out.counters(
        "sidereal_scenario_reloads",
        "New scenario files, by whether they were taken or the former ones held",
        reloads.into_iter().map(|(outcome, count)| ([("outcome", outcome)], count)),
    )
}

fn sockets(out: &mut Families<'_>, counters: &Counters) -> fmt::Result {
    let open = counters.connections_open.load(Ordering::Relaxed);
    out.gauge("sidereal_connections_open", "Connections open", open)?;
    for (name, help, counter) in [
        ("connections_accepted", "Connections accepted", &counters.connections_accepted),
        ("connections_lost", "Connections that vanished with requests in flight", &counters.connections_lost),
        ("connections_unread", "Connections closed because replies were not read", &counters.connections_unread),
        ("accept_errors", "Times the system refused another connection", &counters.accept_errors),
        ("frames_received", "Frames received", &counters.frames_received),
        ("received_bytes", "Bytes read from connections", &counters.bytes_received),
        ("sent_bytes", "Bytes written to connections", &counters.bytes_sent),
        ("requests_accepted", "Requests handed to the engine", &counters.requests_accepted),
        ("answers_sent", "Answers of the engine sent on", &counters.answers_sent),
        ("answers_orphaned", "Answers of the engine whose connection had gone", &counters.answers_orphaned),
    ] {
        out.counter(&format!("sidereal_{name}"), help, counter.load(Ordering::Relaxed) as f64)?;
    }
    let faults = FaultCode::ALL.iter().zip(&counters.faults);
    let faults = faults.map(|(code, count)| ([("code", code.name())], count.load(Ordering::Relaxed)));
    out.counters("sidereal_faults", "Connections ended by an ERROR frame, by its code", faults)
}
