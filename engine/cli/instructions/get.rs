//! `sidereal instructions get`: one record of a store.

use std::io::Write;
use std::time::Duration;

use clap::Args;

use super::{StoreArgs, show_age};
use crate::cli::style::Style;
use crate::cli::{Failure, units};
use crate::store::{Found, Key};

/// Print a user's record; exit code 1 if there is none that can be used
#[derive(Debug, Args)]
pub struct GetArgs {
    /// The user
    pub user: String,
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// The scenario; a user without a record for it has one for every scenario, or none
    #[arg(long, value_name = "N")]
    pub scenario: Option<u32>,
    /// Name of the instruction
    #[arg(long, value_name = "NAME", default_value = "reasoning")]
    pub name: String,
    /// How old the record may be, e.g. 15m [default: any age]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub max_age: Option<Duration>,
    /// How long to wait for the store
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "5s")]
    pub timeout: Duration,
    /// Print one JSON object, with the whole vector
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub(super) fn run(args: &GetArgs) -> Result<(), Failure> {
    let key = Key::new(&*args.name, &*args.user).map_err(|error| Failure::usage(error.to_string()))?;
    let key = match args.scenario {
        Some(scenario) => key.for_scenario(scenario),
        None => key,
    };
    let config = crate::store::StoreConfig { max_age: args.max_age, ..args.store.config(false) };
    let store = crate::store::Store::open(&config)?;
    let found = store.lookup(&[key], args.timeout).pop().unwrap_or(Found::Missing);
    let mut out = std::io::stdout().lock();
    let (outcome, reason) = match &found {
        Found::Record(_) => ("record", String::new()),
        Found::Missing => ("missing", "no record".to_owned()),
        Found::Expired { age } => ("expired", format!("made {:.1} s ago, which is too long", age.as_secs_f64())),
        Found::Bad { reason } => ("bad", reason.to_string()),
        Found::Failed { reason } => ("failed", reason.to_string()),
    };
    if args.json {
        let mut said = serde_json::json!({ "user": args.user, "name": args.name, "outcome": outcome });
        if let Found::Record(record) = &found {
            said["scenario"] = record.scenario.into();
            said["version"] = record.version.into();
            said["created_at"] = record.created_at_ms.into();
            said["vector"] = record.vector.clone().into();
        } else {
            said["reason"] = reason.into();
        }
        writeln!(out, "{said}")?;
    } else if let Found::Record(record) = &found {
        let style = Style::stdout();
        let mut row = |name: &str, value: String| writeln!(out, "  {} {value}", style.dim(&format!("{name:<14}")));
        row("user", format!("{:?}", args.user))?;
        row("scenario", record.scenario.map_or("every".into(), |scenario| scenario.to_string()))?;
        row("version", record.version.to_string())?;
        row("made", format!("{} ({} ms)", show_age(record.created_at_ms), record.created_at_ms))?;
        let norm = record.vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        let first: Vec<String> = record.vector.iter().take(8).map(|value| format!("{value:.4}")).collect();
        let rest = if record.vector.len() > 8 { ", .." } else { "" };
        row("vector", format!("{} elements, norm {norm:.4}: {}{rest}", record.vector.len(), first.join(", ")))?;
    } else if let Found::Failed { .. } = found {
        return Err(Failure::environment(format!("{}: {reason}", store.location())));
    } else {
        writeln!(out, "{:?}: {}", args.user, Style::stdout().bad(&reason))?;
    }
    match found {
        Found::Record(_) => Ok(()),
        Found::Failed { .. } => Err(Failure::environment(String::new())),
        _ => Err(Failure::already_said()),
    }
}
