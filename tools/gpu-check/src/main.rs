//! Proves and measures the CUDA device on a machine that has a card and nothing else.
//!
//! Commands: `facts`, `parity`, `bench`, `sanitize`; README.md says what each does. Exit codes: 0 good, 1 something that was
//! checked is bad, 2 usage, 3 there is no card or something is missing from the package.
//!
//! Nothing here changes a card's settings, and nothing is measured on the stand-in driver: a rehearsal says what it is.

mod bench;
mod card;
mod emulated;
mod error;
mod exporter;
mod facts;
mod parity;
mod probe;
mod process;
mod random;
mod report;
mod run;
mod sanitize;
mod setting;
mod statistics;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};

use crate::card::Card;
use crate::error::{CheckError, at};
use crate::report::{Report, Section, Verdict};
use crate::run::Run;
use crate::setting::{Setting, own_package, results_name};

/// Every command ends before eight minutes have passed, with a minute to spare for a part that has to be stopped.
const SECONDS: u64 = 420;

/// Proves and measures Sidereal's CUDA device on this machine's card
#[derive(Debug, Parser)]
#[command(name = "gpu-check", version)]
struct Cli {
    /// The unpacked package [default: the folder above this program's]
    #[arg(long, global = true, value_name = "DIR")]
    package: Option<PathBuf>,
    /// Where reports go [default: benches/results/gpu-CARD-DATE]
    #[arg(long, global = true, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where weights and logs go; kept if named [default: a folder of its own, removed at the end]
    #[arg(long, global = true, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Tiny shapes on the stand-in driver: shows that everything runs, measures nothing
    #[arg(long, global = true)]
    rehearse: bool,
    /// Seconds that the command may take
    #[arg(long, global = true, default_value_t = SECONDS, value_name = "N")]
    seconds: u64,
    #[command(subcommand)]
    command: Command,
}

/// What a command adds to its report.
type Work = fn(&mut Run) -> Result<(), CheckError>;

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// What machine this is
    Facts,
    /// Whether the card computes what it should: instructions, kernels, goldens, a server
    Parity,
    /// What kernels and requests reach, in percent of what the card can do
    Bench,
    /// The device tests under compute-sanitizer
    Sanitize,
    /// What this binary carries; exit code 1 if kernels or probes have no images
    Contents,
    /// One part of a command, as JSON on stdout
    #[command(hide = true)]
    Part {
        /// Which.
        name: String,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("gpu-check: {error}");
            ExitCode::from(3)
        }
    }
}

fn run(cli: &Cli) -> Result<bool, CheckError> {
    if matches!(cli.command, Command::Contents) {
        return Ok(contents());
    }
    let package = cli.package.clone().unwrap_or_else(own_package);
    let package = package.canonicalize().map_err(at(package))?;
    let own_scratch = std::env::temp_dir().join(format!("gpu-check-{}", std::process::id()));
    let scratch = cli.scratch.clone().unwrap_or_else(|| own_scratch.clone());
    std::fs::create_dir_all(&scratch).map_err(at(&scratch))?;
    let scratch = scratch.canonicalize().map_err(at(scratch))?;
    let deadline = Instant::now() + Duration::from_secs(cli.seconds);
    let setting = Setting { package, scratch, is_rehearsal: cli.rehearse, deadline };
    let outcome = match &cli.command {
        Command::Part { name } => part(&setting, name),
        command => report(cli, setting, command),
    };
    if cli.scratch.is_none() {
        // Whatever is left is in the system's temporary folder.
        let _ = std::fs::remove_dir_all(own_scratch);
    }
    outcome
}

/// What is embedded.
fn contents() -> bool {
    use sidereal::device::cuda::images;
    let kernels = images::MODULES.iter().filter(|module| !module.images.is_empty()).count();
    println!("kernels: {kernels} of {} files have images ({})", images::MODULES.len(), images::COMPILER);
    println!("probes: {} files have images ({})", probe::images::count(), probe::images::COMPILER);
    kernels == images::MODULES.len() && probe::images::count() > 0
}

/// Runs a whole command and writes its report.
fn report(cli: &Cli, setting: Setting, command: &Command) -> Result<bool, CheckError> {
    setting.load_driver()?;
    let card = Card::open()?;
    let provenance = setting.provenance(&card);
    let folder = cli.out.clone().unwrap_or_else(|| PathBuf::from("benches/results").join(results_name(&provenance)));
    let facts = facts::section(&card);
    // The parts have the card to themselves.
    drop(card);
    let (name, work): (_, Work) = match command {
        Command::Parity => ("parity", parity::run),
        Command::Bench => ("bench", bench::run),
        Command::Sanitize => ("sanitize", sanitize::run),
        Command::Facts | Command::Contents | Command::Part { .. } => ("facts", |_| Ok(())),
    };
    let report = Report { command: name, provenance, is_rehearsal: setting.is_rehearsal, sections: Vec::new() };
    let mut run = Run { setting, report, folder };
    run.section(|_| Ok(facts))?;
    work(&mut run)?;
    println!(
        "{}: {}",
        run.folder.join(format!("{name}.md")).display(),
        if run.report.is_good() { "good" } else { "BAD" }
    );
    Ok(run.report.is_good())
}

/// Runs one part and prints its section.
fn part(setting: &Setting, name: &str) -> Result<bool, CheckError> {
    let section = match name {
        "probes" => parity::probes(setting),
        "serve" => parity::serve::section(setting),
        "ceilings" => bench::ceilings::section(setting),
        "rows" => bench::kernels::rows(setting),
        "linear" => bench::kernels::linear(setting),
        "head" => bench::kernels::head(setting),
        "history-attention" => bench::kernels::history_attention(setting),
        "beam-attention" => bench::kernels::beam_attention(setting),
        "experts" => bench::experts::experts(setting),
        "expand-select" => bench::kernels::expand_select(setting),
        "qwen3" => bench::end_to_end::qwen3(setting),
        "onerec" => bench::end_to_end::onerec(setting),
        "t5" => bench::end_to_end::t5(setting),
        _ => Err(CheckError::Missing(format!("no part is called {name}"))),
    };
    let section = section.unwrap_or_else(|error| Section::ended(name, Verdict::Failed, error.to_string()));
    let text = serde_json::to_string(&section).map_err(|error| CheckError::Answer(error.to_string()))?;
    println!("{text}");
    Ok(section.verdict != Verdict::Failed)
}
