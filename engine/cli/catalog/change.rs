//! `sidereal catalog delist` and `relist`: a record more in the journal beside a catalogue.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::beside::{self, Names};
use crate::catalog::Journal;
use crate::cli::Failure;

/// Flags of `catalog delist` and `catalog relist`.
#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// Export directory, catalogue file, or the journal itself (.delist)
    pub target: PathBuf,
    /// Which items.
    #[command(flatten)]
    pub names: Names,
    /// Items are named by their keys
    #[arg(long)]
    pub keys: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What the record says of its items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Delist,
    Relist,
}

/// Appends the record. When this returns it is on disk.
pub(super) fn run(args: &ChangeArgs, kind: Kind) -> Result<(), Failure> {
    let names = args.names.read()?;
    let (journal, catalog) = if args.target.extension().is_some_and(|extension| extension == "delist") {
        (Journal::at(&args.target), None)
    } else {
        let (catalog, folder) = beside::open(&args.target)?;
        (Journal::beside(&folder), Some(catalog))
    };
    let mut ids = Vec::with_capacity(names.len());
    for name in &names {
        ids.push(match (args.keys, &catalog) {
            (false, _) => beside::id(name)?,
            (true, Some(catalog)) => match catalog.item_by_key(name) {
                Some(item) => catalog.id(item),
                None => return Err(Failure::bad(format!("key {name:?} is not in the catalogue; nothing was written"))),
            },
            (true, None) => return Err(Failure::usage("--keys needs an export or a catalogue, not a journal")),
        });
    }
    ids.sort_unstable();
    ids.dedup();
    let items = ids.len();
    let unknown = catalog.map(|catalog| ids.iter().filter(|id| catalog.item(**id).is_none()).count());
    let epoch = journal.append(kind == Kind::Delist, ids)?;
    let path = journal.path().display().to_string();
    let mut out = std::io::stdout().lock();
    if args.json {
        let told = serde_json::json!({ "journal": path, "epoch": epoch, "items": items, "unknown": unknown });
        writeln!(out, "{told}")?;
        return Ok(());
    }
    let done = if kind == Kind::Delist { "delisted" } else { "relisted" };
    writeln!(out, "{path}: epoch {epoch}, {items} items {done}")?;
    if let Some(unknown) = unknown.filter(|unknown| *unknown > 0) {
        writeln!(out, "{unknown} of them are not in this catalogue; the record holds for later ones")?;
    }
    Ok(())
}
