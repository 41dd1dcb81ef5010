//! Logs go to stderr, so that stdout stays for answers.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::cli::Failure;

/// Shape of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging at `default_level` unless RUST_LOG says otherwise.
///
/// # Errors
/// When RUST_LOG does not parse.
pub fn start(format: LogFormat, default_level: &str) -> Result<(), Failure> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => EnvFilter::try_new(&filter).map_err(|error| {
            Failure::usage(format!("RUST_LOG={filter:?}: {error}; write e.g. RUST_LOG=info or RUST_LOG=sidereal=debug"))
        })?,
        _ => EnvFilter::new(default_level),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = match format {
        LogFormat::Text => {
            let colour = std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
            builder.with_ansi(colour).try_init()
        }
        LogFormat::Json => builder.json().try_init(),
    };
    // Only a program that embeds this module can have installed a logger before; that one stays.
    drop(installed);
    Ok(())
}
