//! `sidereal bench`: load on a server, latency from the scheduled arrival, and the highest rate that meets an SLO.
//!
//! Exit 0: every run is valid, and an SLO that was asked for is met by at least one. 1: it is not, or a run is not valid.

mod drive;
mod inputs;
mod output;
mod target;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{ArgGroup, Args, ValueEnum};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::bench::machine::{self, Machine};
use crate::bench::mix::Mix;
use crate::bench::report::{Report, Setting};
use crate::bench::schedule::Arrivals;
use crate::cli::options::EngineArgs;
use crate::cli::{Failure, units};
use crate::serve::Address;
use crate::serve::wire::HelloOk;

use drive::Driver;
use output::Table;
use target::Served;

/// Measure latency under load, and the highest rate that keeps a P99
///
/// Drives the server at --address, or one of its own for EXPORT on a free loopback port, over the wire protocol. Requests
/// arrive on a schedule that the seed fixes before the run, and latency counts from there: a server that stalls is seen by
/// everybody who was due meanwhile. Give --rate, --rates or --concurrency; or --slo-p99-ms alone to search for the highest
/// rate that meets it. Exits with 1 if no run meets the SLO, or a run is not valid.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("served").required(true).multiple(true).args(["export", "address"])))]
#[command(group(ArgGroup::new("load").required(true).multiple(true).args(["rate", "rates", "concurrency", "slo_p99_ms"])))]
#[command(group(ArgGroup::new("shape").args(["rate", "rates", "concurrency"])))]
pub struct BenchArgs {
    /// Export directory: served by the bench itself; with --address only its catalogue is read, to draw items from
    pub export: Option<PathBuf>,
    /// A running server: HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<Address>,
    /// File with the secret that the server asks for
    #[arg(long, value_name = "FILE", requires = "address")]
    pub secret_file: Option<PathBuf>,
    /// When and how much.
    #[command(flatten)]
    pub load: LoadArgs,
    /// What is asked.
    #[command(flatten)]
    pub requests: RequestArgs,
    /// Write everything as JSON to a file, or - for stdout
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
    /// Write a report with plots: one HTML file that needs nothing else
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Device and limits of the bench's own server.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// How arrivals are spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ArrivalsName {
    /// Exponential gaps: independent users.
    #[default]
    Poisson,
    /// Equal gaps.
    Constant,
}

/// When requests arrive, and how long they are measured.
#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
pub struct LoadArgs {
    /// Requests a second, whatever the server does
    #[arg(long, value_name = "R", value_parser = positive)]
    pub rate: Option<f64>,
    /// One run for each of several rates
    #[arg(long, value_name = "R,R,..", value_delimiter = ',', value_parser = positive)]
    pub rates: Option<Vec<f64>>,
    /// Closed loop: so many requests in flight, each answer makes room for the next request
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub concurrency: Option<u32>,
    /// Answer 99% of all requests within this; alone: search for the highest rate that does
    #[arg(long, value_name = "MS", value_parser = positive)]
    pub slo_p99_ms: Option<f64>,
    /// Spread of the arrivals
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    pub arrivals: ArrivalsName,
    /// Fixes arrivals and requests
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// How long a run is measured
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = units::duration)]
    pub duration: Duration,
    /// How long requests are sent before anything counts
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = units::duration)]
    pub warmup: Duration,
    /// Search: requests of a probe at least; slow rates take longer than --duration
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(100..))]
    pub min_requests: u32,
    /// Search: ends when the rates that met and missed differ by this share
    #[arg(long, default_value_t = 0.05, value_name = "SHARE", value_parser = precision)]
    pub precision: f64,
    /// Connections; a server allows 256 requests in flight on each
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub connections: u16,
    /// How long answers are waited for after the last request
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = units::duration)]
    pub timeout: Duration,
    /// Lag of the generator at P99 that makes a run invalid [default: 10% of the latency's P99 or of the SLO,
    /// at least 2ms]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub max_lag: Option<Duration>,
}

/// What requests look like.
#[derive(Debug, Args)]
#[command(next_help_heading = "Requests")]
pub struct RequestArgs {
    /// History/beams:weight, e.g. 256/32:0.7,1024/128:0.3; a history is items (256), tokens (256t) or a user's own (all)
    /// [default: 64/50, or all/50 with --histories]
    #[arg(long, value_name = "MIX")]
    pub mix: Option<Mix>,
    /// Semantic IDs asked for
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub top: u32,
    /// Histories to draw from instead of random items: {"items":[oldest,..]} or {"keys":[..]} a line, as `eval` reads them
    #[arg(long, value_name = "FILE")]
    pub histories: Option<PathBuf>,
    /// Requests to replay in order, as `recommend` reads them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["mix", "histories", "top"])]
    pub requests: Option<PathBuf>,
    /// Time that each request has, from its scheduled arrival [default: the server's, or that of a replayed request]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub deadline: Option<Duration>,
}

fn positive(text: &str) -> Result<f64, String> {
    text.trim().parse().ok().filter(|value| (1e-3..=1e9).contains(value)).ok_or("expected 0.001 to 1e9".to_owned())
}

fn precision(text: &str) -> Result<f64, String> {
    text.trim().parse().ok().filter(|value| (0.01..=1.0).contains(value)).ok_or("expected 0.01 to 1".to_owned())
}

impl From<ArrivalsName> for Arrivals {
    fn from(name: ArrivalsName) -> Arrivals {
        match name {
            ArrivalsName::Poisson => Arrivals::Poisson,
            ArrivalsName::Constant => Arrivals::Constant,
        }
    }
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    inputs::check(args)?;
    let started = machine::now();
    let stop = stop_on_interrupt()?;
    let served = Served::open(args)?;
    let workload = inputs::workload(args, &served)?;
    let hello = served.try_out(&workload)?;
    let setting = setting(args, &served, (&hello, workload.describe(), started));
    let mut table = Table::begin(&setting, args.json.as_deref())?;
    let mut driver = Driver::new(args, &served.target, &workload, &stop);
    let search = driver.run_all(&mut table);
    let runs = std::mem::take(&mut driver.runs);
    // What was measured before something failed is worth as much as before.
    let (search, failure) = match search {
        Ok(search) => (search, None),
        Err(failure) => (None, Some(failure)),
    };
    let report = Report::new(setting, search, runs);
    table.end(&report)?;
    output::write_files(args, &report)?;
    served.close()?;
    match failure {
        Some(failure) => Err(failure),
        None => verdict(args, &report, stop.load(Ordering::Relaxed)),
    }
}

/// Set by the first signal to end; the second one ends the process.
fn stop_on_interrupt() -> Result<Arc<AtomicBool>, Failure> {
    let failed = |error: std::io::Error| Failure::environment(format!("cannot watch for signals: {error}"));
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop)).map_err(failed)?;
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(failed)?;
    }
    Ok(stop)
}

fn setting(args: &BenchArgs, served: &Served, (hello, workload, started): (&HelloOk, String, String)) -> Setting {
    let facts = &hello.facts;
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    Setting {
        command: output::command_line(),
        started,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: Machine::this(),
        server: served.describe(),
        model: facts.model.clone(),
        catalog: facts.catalog.clone(),
        device: facts.device.clone(),
        dtype: facts.dtype.clone(),
        workload,
        arrivals: Arrivals::from(args.load.arrivals).name(),
        seed: args.load.seed,
        connections: served.target.connections,
        warmup_seconds: args.load.warmup.as_secs_f64(),
        deadline_ms: args.requests.deadline.map(millis),
        timeout_seconds: args.load.timeout.as_secs_f64(),
        slo_p99_ms: args.load.slo_p99_ms,
    }
}

fn verdict(args: &BenchArgs, report: &Report, interrupted: bool) -> Result<(), Failure> {
    if interrupted {
        return Err(Failure::bad("interrupted; the figures are those of what was measured until then"));
    }
    let Some(slo) = args.load.slo_p99_ms else {
        let invalid = report.runs.iter().filter(|run| run.invalid.is_some()).count();
        let runs = units::plural(report.runs.len(), "run");
        return if invalid == 0 { Ok(()) } else { Err(Failure::bad(format!("{invalid} of {runs} not valid"))) };
    };
    let met = match &report.search {
        Some(found) => found.confirmed,
        None => report.runs.iter().any(|run| run.is_good()),
    };
    let told = report.finding().unwrap_or_else(|| format!("no valid run answers 99% of its requests within {slo} ms"));
    if met { Ok(()) } else { Err(Failure::bad(told)) }
}
