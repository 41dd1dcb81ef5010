//! `sidereal instructions`: fill and look at a store of instructions.

mod get;
mod load;
mod stats;

use clap::{Args, Subcommand};

use crate::cli::{Failure, units};
use crate::store::{Store, StoreConfig};

/// Fill and inspect the store of near-line instructions
#[derive(Debug, Args)]
pub struct InstructionsArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with a store.
#[derive(Debug, Subcommand)]
pub enum Action {
    Load(load::LoadArgs),
    Get(get::GetArgs),
    Stats(stats::StatsArgs),
}

/// Which store.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// The store: a directory, or redis://HOST:PORT/DB
    #[arg(long, value_name = "DIR|URL")]
    pub store: String,
    /// Most bytes that a store in a directory may grow to
    #[arg(long, value_name = "BYTES", value_parser = units::bytes, default_value = "64GiB")]
    pub map_size: usize,
}

impl StoreArgs {
    fn config(&self, create: bool) -> StoreConfig {
        StoreConfig { create, map_bytes: self.map_size, ..StoreConfig::new(&self.store) }
    }

    fn open(&self) -> Result<Store, Failure> {
        Ok(Store::open(&self.config(false))?)
    }
}

/// Runs the command.
pub fn run(args: &InstructionsArgs) -> Result<(), Failure> {
    match &args.action {
        Action::Load(args) => load::run(args),
        Action::Get(args) => get::run(args),
        Action::Stats(args) => stats::run(args),
    }
}

/// How long ago a time in milliseconds since 1970 was, for people.
fn show_age(created_at_ms: u64) -> String {
    let now_ms = crate::store::unix_ms(std::time::SystemTime::now());
    let (word, ms) = match now_ms.checked_sub(created_at_ms) {
        Some(ms) => ("ago", ms),
        None => ("ahead", created_at_ms - now_ms),
    };
    let seconds = ms / 1000;
    match seconds {
        0..120 => format!("{}.{} s {word}", seconds, ms % 1000 / 100),
        120..7200 => format!("{} min {word}", seconds / 60),
        7200..172_800 => format!("{} h {word}", seconds / 3600),
        _ => format!("{} days {word}", units::show_count(seconds / 86_400)),
    }
}
