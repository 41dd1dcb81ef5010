//! A catalogue by the path of its file or of the export that it belongs to, the items that a command names, and what lies beside
//! a catalogue: views and the delisting journal.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use crate::catalog::{Catalog, ItemIndex, Journal, Position, Snapshot, View};
use crate::cli::Failure;
use crate::export::Export;
use crate::schedule::{catalog_folder, open_catalog};

/// Opens a catalogue file, or the catalogue of an export directory; also gives the folder that it is in.
pub(super) fn open(path: &Path) -> Result<(Arc<Catalog>, PathBuf), Failure> {
    if path.is_dir() {
        let export = Export::open(path)?;
        return Ok((Arc::new(open_catalog(&export, None)?), catalog_folder(&export, None)?));
    }
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    Ok((Arc::new(Catalog::open(path)?), folder))
}

/// Items, on the command line or in a file.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct Names {
    /// Item ids
    #[arg(long, value_delimiter = ',', value_name = "ID,ID,..")]
    pub items: Vec<String>,
    /// File of item ids, one a line
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
}

impl Names {
    /// Every name, in the order given.
    pub(super) fn read(&self) -> Result<Vec<String>, Failure> {
        let mut names = self.items.clone();
        if let Some(path) = &self.from {
            let text = std::fs::read_to_string(path).map_err(|error| Failure::read(path, &error))?;
            names.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
        }
        if names.is_empty() {
            return Err(Failure::bad("no items are named: give --items or a --from file that is not empty"));
        }
        Ok(names)
    }
}

/// A name as an item id.
pub(super) fn id(name: &str) -> Result<u64, Failure> {
    name.parse().map_err(|_| {
        Failure::bad(format!("{name:?} is no item id: a whole number from 0 to 2^64 - 1; for keys, say --keys"))
    })
}

/// The item of a name, which is a key or an id.
pub(super) fn item(catalog: &Catalog, name: &str, by_key: bool) -> Result<Option<ItemIndex>, Failure> {
    if by_key {
        return Ok(catalog.item_by_key(name));
    }
    Ok(catalog.item(id(name)?))
}

/// What lies beside a catalogue.
#[derive(Debug, Serialize)]
pub(super) struct Beside {
    pub views: Vec<ViewFacts>,
    pub journal: Option<JournalFacts>,
}

/// A view in figures.
#[derive(Debug, Serialize)]
pub(super) struct ViewFacts {
    pub name: String,
    pub items: usize,
    /// Those that are not delisted.
    pub live: usize,
}

/// A journal in figures.
#[derive(Debug, Serialize)]
pub(super) struct JournalFacts {
    pub file: String,
    pub epoch: u64,
    /// Ids that are delisted now, and those of them that the catalogue does not know.
    pub delisted: usize,
    pub unknown: usize,
    /// Bytes behind the last intact record.
    pub torn_bytes: u64,
}

/// Reads and checks everything beside a catalogue.
pub(super) fn look(catalog: &Arc<Catalog>, folder: &Path) -> Result<Beside, Failure> {
    let views = View::open_all(folder, catalog)?;
    let journal = Journal::beside(folder);
    let tail = journal.read_from(Position::default())?;
    let mut snapshot = Snapshot::new(Arc::clone(catalog), views);
    if !tail.changes.is_empty() {
        snapshot = snapshot.after(&tail.changes, tail.position.epoch);
    }
    let of_view = |(view, allowed): (&View, &crate::catalog::Allowed)| ViewFacts {
        name: view.name().to_owned(),
        items: view.count(),
        live: allowed.count(),
    };
    let live = snapshot.allowed(None).ok().flatten().map_or(catalog.items(), |allowed| allowed.count());
    let known = catalog.items() - live;
    let facts = journal.path().exists().then(|| JournalFacts {
        file: journal.path().display().to_string(),
        epoch: tail.position.epoch,
        delisted: snapshot.delisted(),
        unknown: snapshot.delisted() - known,
        torn_bytes: tail.torn_bytes,
    });
    Ok(Beside { views: snapshot.views().map(of_view).collect(), journal: facts })
}
