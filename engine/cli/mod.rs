//! The command line: one file a subcommand, and what they share.
//!
//! Exit codes mean the same everywhere: 0 good, 1 the checked thing is bad, 2 usage, 3 environment. stdout carries
//! answers, stderr everything else. Nothing here knows a tensor; commands talk to [`crate::schedule::Engine`] or, like
//! anybody else, through [`crate::client`].

mod bench;
mod catalog;
mod check;
mod demo;
mod eval;
mod failure;
mod instructions;
mod logging;
mod measure;
mod metrics;
mod options;
mod perplexity;
mod recommend;
mod requests;
mod serve;
mod style;
mod summary;
mod units;
mod window;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

pub use failure::{Exit, Failure};
use logging::{Delivery, LogArgs};

const AFTER_HELP: &str = "\
Exit codes: 0 good, 1 the checked thing is bad, 2 usage, 3 environment.
Logs go to stderr; --log-level or RUST_LOG says which, e.g. --log-level debug.

Start with `sidereal demo`.";

/// Serves generative recommenders: a long user history goes in, semantic IDs of real items come out.
#[derive(Debug, Parser)]
#[command(name = "sidereal", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Serve(serve::ServeArgs),
    Recommend(recommend::RecommendArgs),
    Check(check::CheckArgs),
    Eval(eval::EvalArgs),
    Bench(Box<bench::BenchArgs>),
    Catalog(catalog::CatalogArgs),
    Instructions(instructions::InstructionsArgs),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout and are good; usage errors go to stderr and give 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let Some(command) = cli.command else {
        let _ = Cli::command().print_help();
        return ExitCode::SUCCESS;
    };
    let ended = run(&command, &cli.log);
    logging::finish();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: &Command, log: &LogArgs) -> Result<(), Failure> {
    // Whoever serves reads its log; whoever asks one question reads the answer.
    let (level, delivery) = match command {
        Command::Serve(_) => ("info", Delivery::Background),
        _ => ("warn", Delivery::Direct),
    };
    logging::start(log, level, delivery)?;
    sidereal_ffi::install_sigbus_handler()
        .map_err(|error| Failure::environment(format!("cannot install the SIGBUS handler: {error}")))?;
    match command {
        Command::Demo(args) => demo::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Recommend(args) => recommend::run(args),
        Command::Check(args) => check::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Catalog(args) => catalog::run(args),
        Command::Instructions(args) => instructions::run(args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
