//! Fills a store from a file: binary (safetensors) or JSON lines.
//!
//! ```text
//! this thread        workers, one a core           the writer's thread
//! cuts blocks  ──▶   parse, check, encode   ──▶    blocks in file order ─▶ a batch, sorted by key ─▶ one commit
//! ```
//!
//! A batch is committed whole or not at all, so that a load which is killed leaves every batch it has written and nothing
//! else. Of several records with one key the last in the file stays. What cannot be a record is told with its line and
//! counted; it never stops a load unless that is asked for. Memory is bounded by the blocks that are under way.

mod batch;
mod binary;
mod json_lines;
mod pipeline;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub use json_lines::check_line;
use sidereal_ffi::{MapError, open_regular};

use super::{Store, StoreError, unix_ms};
use crate::export::{ExportError, WeightDtype};

/// Formats of a file of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadFormat {
    /// Safetensors: `vectors`, `users`, `user_offsets` and what `docs/instruction-store.md` adds.
    Binary,
    /// `{"user":"..","scenario":1,"name":"..","version":5,"created_at":..,"vector":[..]}` a line; all but `user` and `vector`
    /// optional.
    JsonLines,
}

impl LoadFormat {
    /// Tells the format of a file from its extension, else from its first bytes.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn detect(path: &Path) -> Result<LoadFormat, LoadError> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("jsonl" | "ndjson") => return Ok(LoadFormat::JsonLines),
            Some("safetensors") => return Ok(LoadFormat::Binary),
            _ => {}
        }
        let mut head = [0; 9];
        let mut file = open_regular(path).map_err(|error| LoadError::read(path, error))?;
        let read = std::io::Read::read(&mut file, &mut head).map_err(|error| LoadError::read(path, error))?;
        // A safetensors file has the length of its header first, then the header's brace.
        Ok(if read == 9 && head[8] == b'{' && head[6..8] == [0, 0] {
            LoadFormat::Binary
        } else {
            LoadFormat::JsonLines
        })
    }
}

/// How to read a file and what to make of it.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The format; `None` to tell from the file.
    pub format: Option<LoadFormat>,
    /// Name of the instruction, where a record does not say.
    pub name: String,
    /// Version, where a record does not say.
    pub version: u64,
    /// When records were made, in milliseconds since 1970-01-01 UTC, where they do not say.
    pub created_at_ms: u64,
    /// What elements are stored as; `None`: as they are in a binary file, f16 from text.
    pub dtype: Option<WeightDtype>,
    /// Elements that every vector must have; `None` takes any number.
    pub size: Option<usize>,
    /// Most records of one commit.
    pub batch: usize,
    /// Whether the first bad record ends the load.
    pub strict: bool,
    /// When a remote store forgets the records again; `None`: never.
    pub ttl: Option<Duration>,
}

impl LoadOptions {
    /// Records of the instruction `name`, version 0, made now, in batches of 65,536.
    pub fn new(name: impl Into<String>) -> LoadOptions {
        LoadOptions {
            format: None,
            name: name.into(),
            version: 0,
            created_at_ms: unix_ms(SystemTime::now()),
            dtype: None,
            size: None,
            batch: 1 << 16,
            strict: false,
            ttl: None,
        }
    }
}

/// A record that could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRecord {
    /// Its line, counted from 1; for a binary file its row, counted from 0.
    pub place: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// What a load has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Records written; those with one key count each.
    pub records: u64,
    /// Records left out because they are bad.
    pub bad: u64,
    /// Commits.
    pub batches: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

/// Why a load ended early. Batches that were committed before stay.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It cannot be mapped.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A binary file's header is wrong.
    #[error(transparent)]
    Header(#[from] ExportError),
    /// A binary file does not have the tensors of records.
    #[error("{}: {reason}", path.display())]
    Tensors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A bad record, where none is to be left out.
    #[error("{}, {unit} {}: {}; {records} records of earlier batches are written", path.display(), bad.place, bad.reason)]
    Bad {
        /// The file.
        path: PathBuf,
        /// What places count: `line` or `row`.
        unit: &'static str,
        /// Where and what.
        bad: BadRecord,
        /// Records that were committed before.
        records: u64,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl LoadError {
    fn read(path: &Path, source: std::io::Error) -> LoadError {
        LoadError::Read { path: path.to_owned(), source }
    }
}

/// Who is told how a load goes.
pub trait Watcher {
    /// Called after each commit with what is done of what there is, in bytes of the file.
    fn progress(&mut self, done: u64, total: u64);

    /// Called for every record that is left out.
    fn bad(&mut self, unit: &'static str, bad: BadRecord);
}

/// Loads `path` into `store`.
///
/// # Errors
/// If the file cannot be read, the store cannot be written, or a record is bad and `options.strict`.
pub fn load(
    path: &Path,
    store: &Store,
    options: &LoadOptions,
    watcher: &mut dyn Watcher,
) -> Result<LoadReport, LoadError> {
    super::key::check_name(&options.name).map_err(StoreError::Key)?;
    let format = match options.format {
        Some(format) => format,
        None => LoadFormat::detect(path)?,
    };
    match format {
        LoadFormat::JsonLines => pipeline::run(json_lines::Lines::open(path, options)?, path, store, options, watcher),
        LoadFormat::Binary => pipeline::run(binary::Rows::open(path, options)?, path, store, options, watcher),
    }
}
