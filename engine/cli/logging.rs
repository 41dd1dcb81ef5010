//! Logs go to stderr, so that stdout stays for answers.
//!
//! A server's lines go through a bounded queue to a thread of their own: when nobody reads stderr, lines are lost and requests
//! are not. Whoever ends the process calls [`finish`] first, so that the last lines get out.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

use clap::{Args, ValueEnum};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::cli::Failure;

/// Lines that may wait for stderr to take them.
const WAITING_LINES: usize = 4096;

/// Shape of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged, and how.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Logs")]
pub struct LogArgs {
    /// Shape of log lines
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or by module, e.g. warn,sidereal::schedule=debug [default: RUST_LOG,
    /// else info when serving and warn otherwise]
    #[arg(long, global = true, value_name = "FILTER")]
    pub log_level: Option<String>,
}

/// How lines get to stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// At once, by whoever logs.
    Direct,
    /// Through the queue.
    Background,
}

/// Flushes the queue when it is dropped.
static WORKER: Mutex<Option<WorkerGuard>> = Mutex::new(None);

/// Starts logging at `default_level` unless the arguments or RUST_LOG say otherwise.
///
/// # Errors
/// When what they say does not parse.
pub fn start(args: &LogArgs, default_level: &str, delivery: Delivery) -> Result<(), Failure> {
    let filter = filter(args, default_level)?;
    let writer = match delivery {
        Delivery::Direct => BoxMakeWriter::new(std::io::stderr),
        Delivery::Background => {
            let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING_LINES);
            let (writer, worker) = builder.thread_name("sidereal-log").finish(std::io::stderr());
            *WORKER.lock().unwrap_or_else(PoisonError::into_inner) = Some(worker);
            BoxMakeWriter::new(writer)
        }
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let installed = match args.log_format {
        LogFormat::Text => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            builder.with_ansi(colour).try_init()
        }
        LogFormat::Json => builder.json().try_init(),
    };
    // Only a program that embeds this module can have installed a logger before; that one stays.
    drop(installed);
    Ok(())
}

/// Writes what still waits, within a second. What is logged afterwards may be lost.
pub fn finish() {
    drop(WORKER.lock().unwrap_or_else(PoisonError::into_inner).take());
}

fn filter(args: &LogArgs, default_level: &str) -> Result<EnvFilter, Failure> {
    let (source, told) = match (&args.log_level, std::env::var("RUST_LOG")) {
        (Some(told), _) => ("--log-level ", told.clone()),
        (None, Ok(told)) if !told.is_empty() => ("RUST_LOG=", told),
        _ => return Ok(EnvFilter::new(default_level)),
    };
    EnvFilter::try_new(&told).map_err(|error| {
        Failure::usage(format!("{source}{told:?}: {error}; write e.g. {source}info or {source}warn,sidereal=debug"))
    })
}
