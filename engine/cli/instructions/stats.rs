//! `sidereal instructions stats`: a store in figures.

use std::io::Write;

use clap::Args;

use super::{StoreArgs, show_age};
use crate::cli::style::{self, Style};
use crate::cli::{Failure, units};

/// Say what a store holds; walks over all of it
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Versions that the table names.
const MOST_SHOWN: usize = 5;

/// Runs the command.
pub(super) fn run(args: &StatsArgs) -> Result<(), Failure> {
    let store = args.store.open()?;
    let waiting = style::spinner("counting");
    let gathered = store.stats();
    waiting.finish_and_clear();
    let stats = gathered?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let instructions: Vec<_> = stats
            .instructions
            .iter()
            .map(|((name, size), records)| serde_json::json!({ "name": name, "size": size, "records": records }))
            .collect();
        let versions: Vec<_> = stats
            .versions
            .counted
            .iter()
            .map(|(version, records)| serde_json::json!({ "version": version, "records": records }))
            .collect();
        let said = serde_json::json!({
            "store": store.location(), "records": stats.records, "scenario_records": stats.scenario_records,
            "bad": stats.bad, "value_bytes": stats.value_bytes, "file_bytes": stats.file_bytes,
            "map_bytes": stats.map_bytes, "oldest": stats.oldest_ms, "newest": stats.newest_ms,
            "instructions": instructions, "versions": versions,
            "records_of_other_versions": stats.versions.others,
        });
        writeln!(out, "{said}")?;
        return Ok(());
    }
    let style = Style::stdout();
    let mut row = |name: &str, value: String| writeln!(out, "  {} {value}", style.dim(&format!("{name:<14}")));
    row("store", store.location().to_owned())?;
    let scoped = units::show_count(stats.scenario_records);
    row("records", format!("{} ({scoped} for one scenario)", units::show_count(stats.records)))?;
    if stats.bad > 0 {
        row("bad", style.bad(&format!("{} values that cannot be read", units::show_count(stats.bad))))?;
    }
    row("values", units::show_bytes(stats.value_bytes as usize))?;
    if let (Some(file), Some(most)) = (stats.file_bytes, stats.map_bytes) {
        let [file, most] = [file, most].map(|bytes| units::show_bytes(bytes as usize));
        row("file", format!("{file} of at most {most}"))?;
    }
    for ((name, size), records) in &stats.instructions {
        row("instruction", format!("{name}: {} records of {size} elements", units::show_count(*records)))?;
    }
    if let (Some(oldest), Some(newest)) = (stats.oldest_ms, stats.newest_ms) {
        row("oldest", show_age(oldest))?;
        row("newest", show_age(newest))?;
    }
    let counted = &stats.versions.counted;
    for (version, records) in counted.iter().rev().take(MOST_SHOWN) {
        row("version", format!("{version}: {} records", units::show_count(*records)))?;
    }
    let hidden: u64 =
        counted.iter().rev().skip(MOST_SHOWN).map(|(_, records)| records).sum::<u64>() + stats.versions.others;
    if hidden > 0 {
        row("", format!("{} records of other versions", units::show_count(hidden)))?;
    }
    Ok(())
}
