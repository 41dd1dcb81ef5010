//! `sidereal catalog view`: a file that names some items of a catalogue as a pool for requests.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::beside::{self, Names};
use crate::catalog::View;
use crate::cli::Failure;

/// Candidate pools that requests name
#[derive(Debug, Args)]
pub struct ViewArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: ViewAction,
}

/// What to do with views.
#[derive(Debug, Subcommand)]
pub enum ViewAction {
    /// Write the view of a list of items
    Build(BuildArgs),
}

/// Flags of `catalog view build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// Export directory or catalogue file that the view is of
    #[arg(long, value_name = "PATH")]
    pub catalog: PathBuf,
    /// What requests call it
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// Which items.
    #[command(flatten)]
    pub names: Names,
    /// Items are named by their keys
    #[arg(long)]
    pub keys: bool,
    /// Leave out items that the catalogue does not know
    #[arg(long)]
    pub skip_unknown: bool,
    /// File to write; replaced whole or not at all [default: views/NAME.view beside the catalogue]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub(super) fn run(args: &ViewArgs) -> Result<(), Failure> {
    let ViewAction::Build(args) = &args.action;
    let (catalog, folder) = beside::open(&args.catalog)?;
    let (mut items, mut unknown) = (Vec::new(), Vec::new());
    for name in args.names.read()? {
        match beside::item(&catalog, &name, args.keys)? {
            Some(item) => items.push(item),
            None => unknown.push(name),
        }
    }
    if let (Some(first), false) = (unknown.first(), args.skip_unknown) {
        let count = unknown.len();
        let message =
            format!("{count} items are not in the catalogue, the first is {first:?}; --skip-unknown leaves them out");
        return Err(Failure::bad(message));
    }
    let view = View::new(&args.name, &catalog, items)?;
    let path = args.out.clone().unwrap_or_else(|| View::path(&folder, &args.name));
    view.write(&catalog, &path)?;
    // Opened again: what is reported is what is on disk.
    let view = View::open(&path, &catalog)?;
    let (items, of, path) = (view.count(), catalog.items(), path.display().to_string());
    let mut out = std::io::stdout().lock();
    if args.json {
        let told = serde_json::json!({
            "file": path, "name": view.name(), "items": items, "of": of, "unknown": unknown.len(), "catalog": catalog.version(),
        });
        writeln!(out, "{told}")?;
    } else {
        writeln!(out, "{path}: view {:?}, {items} of {of} items", view.name())?;
    }
    Ok(())
}
