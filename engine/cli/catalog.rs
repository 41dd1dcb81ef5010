//! `sidereal catalog`: build, look at, compare and verify catalogue files and what lies beside them.

mod beside;
mod change;
mod diff;
mod view;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use crate::catalog::{Catalog, MAX_CODES, SourceFormat, SourceOptions, read_source};
use crate::cli::catalog::beside::{Beside, JournalFacts};
use crate::cli::style::{self, Style};
use crate::cli::{Failure, units};
use crate::export::{Level, Manifest};

/// Build, inspect, compare and verify catalogues of items
#[derive(Debug, Args)]
pub struct CatalogArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with a catalogue.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Build a catalogue file from a list of items
    Build(BuildArgs),
    /// Say what a catalogue holds, with its views and delistings
    Info(FileArgs),
    /// Say what changed between two catalogue files; exit code 1 if anything did
    Diff(diff::DiffArgs),
    /// Check every byte of a catalogue, its views and its delisting journal
    Verify(FileArgs),
    View(view::ViewArgs),
    /// Stop recommending items; servers follow within a fraction of a second
    Delist(change::ChangeArgs),
    /// Recommend delisted items again
    Relist(change::ChangeArgs),
}

/// Format of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatName {
    /// {"item":1,"sid":[3,17,44],"weight":2.5,"key":"tt01","title":".."} a line
    Jsonl,
    /// A header item,sid0,sid1,..[,weight][,key][,title] and a row an item
    Csv,
    /// {"0":["<a_137>","<b_112>",..],..} of LETTER, MiniOneRec, LC-Rec
    #[value(alias = "index-json")]
    Index,
    /// An array [items, levels] of integers; an item's id is its row
    Npy,
    /// {"71868170501":[{"pid":5,"count":3},..],..}, packed semantic IDs of OpenOneRec (sid2pid.json, sid2iid.json)
    #[value(name = "openonerec")]
    OpenOneRec,
    /// Records of xLLM: an i64 item id, then an i32 token a level; needs --manifest
    Xllm,
    /// The same with the strings did and type between id and tokens
    XllmExtended,
}

impl From<FormatName> for SourceFormat {
    fn from(name: FormatName) -> SourceFormat {
        match name {
            FormatName::Jsonl => SourceFormat::JsonLines,
            FormatName::Csv => SourceFormat::Csv,
            FormatName::Index => SourceFormat::IndexJson,
            FormatName::Npy => SourceFormat::Npy,
            FormatName::OpenOneRec => SourceFormat::OpenOneRec,
            FormatName::Xllm => SourceFormat::Xllm,
            FormatName::XllmExtended => SourceFormat::XllmExtended,
        }
    }
}

/// Flags of `catalog build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// List of items
    #[arg(long, value_name = "FILE")]
    pub from: PathBuf,
    /// Catalogue file to write; replaced whole or not at all
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Format of the list [default: told from the file]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Option<FormatName>,
    /// Codes of each level, e.g. 256,256,256 [default: one more than the largest code seen]
    #[arg(long, value_delimiter = ',', value_name = "N,N,..", value_parser = clap::value_parser!(u32).range(1..=MAX_CODES as i64))]
    pub codes: Option<Vec<u32>>,
    /// Manifest of the export: gives the codes of each level, and for xllm the token of each
    #[arg(long, value_name = "FILE", conflicts_with = "codes")]
    pub manifest: Option<PathBuf>,
    /// Titles beside an index: MiniOneRec's info.txt
    #[arg(long, value_name = "FILE")]
    pub info: Option<PathBuf>,
    /// Name of this version, as replies carry it [default: a checksum of the content]
    #[arg(long, value_name = "NAME")]
    pub version: Option<String>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// A catalogue file.
#[derive(Debug, Args)]
pub struct FileArgs {
    /// Catalogue file or export directory
    pub file: PathBuf,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(args: &CatalogArgs) -> Result<(), Failure> {
    match &args.action {
        Action::Build(args) => build(args),
        Action::Info(args) => {
            let (catalog, folder) = beside::open(&args.file)?;
            let beside = beside::look(&catalog, &folder)?;
            Facts { beside: Some(beside), ..Facts::of(&catalog, &args.file) }.print(None, args.json)
        }
        Action::Diff(args) => diff::run(args),
        Action::Verify(args) => verify(args),
        Action::View(args) => view::run(args),
        Action::Delist(args) => change::run(args, change::Kind::Delist),
        Action::Relist(args) => change::run(args, change::Kind::Relist),
    }
}

fn build(args: &BuildArgs) -> Result<(), Failure> {
    let began = Instant::now();
    let manifest = args.manifest.as_deref().map(Manifest::open).transpose()?;
    let levels = manifest.as_ref().map(Manifest::levels);
    let options = SourceOptions {
        format: args.format.map(SourceFormat::from),
        codes: args.codes.clone().or(levels.map(|levels| levels.iter().map(|level| level.codes() as u32).collect())),
        info: args.info.clone(),
        tokens: levels.map(|levels| levels.iter().map(Level::token_list).collect()),
    };
    let bar = style::progress(0, "reading");
    let mut progress = |done: u64, total: u64| {
        bar.set_length(total.max(done));
        bar.set_position(done);
    };
    let read = read_source(&args.from, &options, &mut progress);
    bar.finish_and_clear();
    let mut builder = read?;
    if let Some(version) = &args.version {
        builder.set_version(version)?;
    }
    let waiting = style::spinner("writing");
    let written = builder.write(&args.out);
    waiting.finish_and_clear();
    written?;
    // Opened again: what is reported is what is on disk.
    let catalog = Catalog::open(&args.out)?;
    Facts::of(&catalog, &args.out).print(Some(began.elapsed().as_secs_f64()), args.json)
}

fn verify(args: &FileArgs) -> Result<(), Failure> {
    let waiting = style::spinner("verifying");
    let faults = match beside::open(&args.file) {
        Ok((catalog, folder)) => {
            let mut faults: Vec<String> = catalog.verify().err().iter().map(ToString::to_string).collect();
            match beside::look(&catalog, &folder) {
                Ok(beside) => faults.extend(beside.journal.and_then(torn)),
                Err(failure) => faults.push(failure.message),
            }
            faults
        }
        Err(failure) => {
            if failure.exit != crate::cli::Exit::Bad {
                waiting.finish_and_clear();
                return Err(failure);
            }
            vec![failure.message]
        }
    };
    waiting.finish_and_clear();
    let mut out = std::io::stdout().lock();
    let style = Style::stdout();
    if args.json {
        let told = serde_json::json!({
            "file": args.file.display().to_string(), "good": faults.is_empty(), "faults": faults,
        });
        writeln!(out, "{told}")?;
    } else if faults.is_empty() {
        writeln!(out, "{}: {}", args.file.display(), style.good("good"))?;
    }
    for fault in faults.iter().filter(|_| !args.json) {
        writeln!(out, "{}  {fault}", style.bad("BAD"))?;
    }
    if faults.is_empty() { Ok(()) } else { Err(Failure::already_said()) }
}

/// What is wrong with a journal that can be read.
fn torn(journal: beside::JournalFacts) -> Option<String> {
    let JournalFacts { file, epoch, torn_bytes, .. } = journal;
    (torn_bytes > 0).then(|| {
        format!(
            "{file}: {torn_bytes} bytes behind record {epoch} are of a write that was cut short; it was never acknowledged, \
             readers ignore it, and the next `catalog delist` or `relist` removes it"
        )
    })
}

/// What a catalogue file holds.
#[derive(Debug, Serialize)]
struct Facts {
    file: String,
    version: String,
    bytes: usize,
    bytes_per_item: f64,
    trie_bytes: usize,
    items: usize,
    semantic_ids: usize,
    /// Items whose semantic ID is shared with another.
    sharing_items: usize,
    largest_leaf: usize,
    levels: Vec<LevelFacts>,
    weights: bool,
    keys: bool,
    titles: bool,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    beside: Option<Beside>,
}

#[derive(Debug, Serialize)]
struct LevelFacts {
    codes: u32,
    nodes: usize,
}

impl Facts {
    fn of(catalog: &Catalog, file: &Path) -> Facts {
        let levels = 0..catalog.levels();
        let mut sharing_items = 0;
        let mut largest_leaf = 0;
        for leaf in 0..catalog.leaves() {
            let items = catalog.items_of_leaf(leaf as u32).len();
            largest_leaf = largest_leaf.max(items);
            sharing_items += if items > 1 { items } else { 0 };
        }
        let bytes = catalog.bytes().len();
        Facts {
            file: file.display().to_string(),
            version: catalog.version().to_owned(),
            bytes,
            bytes_per_item: bytes as f64 / catalog.items().max(1) as f64,
            trie_bytes: levels
                .clone()
                .map(|level| size_of_val(catalog.level_codes(level)) + size_of_val(catalog.first_child(level)))
                .sum(),
            items: catalog.items(),
            semantic_ids: catalog.leaves(),
            sharing_items,
            largest_leaf,
            levels: levels
                .map(|level| LevelFacts { codes: catalog.codes(level), nodes: catalog.nodes(level) })
                .collect(),
            weights: catalog.has_weights(),
            keys: catalog.has_keys(),
            titles: catalog.has_titles(),
            beside: None,
        }
    }

    /// Prints the facts, and the seconds that building took.
    fn print(&self, built_s: Option<f64>, json: bool) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        if json {
            let mut told = serde_json::to_value(self).unwrap_or_default();
            if let (Some(seconds), Some(object)) = (built_s, told.as_object_mut()) {
                object.insert("seconds".into(), seconds.into());
            }
            writeln!(out, "{told}")?;
            return Ok(());
        }
        let style = Style::stdout();
        let mut row = |name: &str, value: String| writeln!(out, "  {} {value}", style.dim(&format!("{name:<14}")));
        row("file", self.file.clone())?;
        row("version", self.version.clone())?;
        row("size", format!("{} ({:.1} bytes an item)", units::show_bytes(self.bytes), self.bytes_per_item))?;
        row("trie", units::show_bytes(self.trie_bytes))?;
        row("items", units::show_count(self.items as u64))?;
        let shared = format!(
            "{} ({} items share theirs, at most {} one)",
            units::show_count(self.semantic_ids as u64),
            units::show_count(self.sharing_items as u64),
            units::show_count(self.largest_leaf as u64)
        );
        row("semantic IDs", shared)?;
        for (number, level) in self.levels.iter().enumerate() {
            let nodes = units::show_count(level.nodes as u64);
            row(&format!("level {number}"), format!("{nodes} nodes of {} codes", level.codes))?;
        }
        let has = [(self.weights, "weights"), (self.keys, "keys"), (self.titles, "titles")];
        let has: Vec<&str> = has.into_iter().filter_map(|(has, name)| has.then_some(name)).collect();
        row("carries", if has.is_empty() { "ids only".into() } else { has.join(", ") })?;
        if let Some(Beside { views, journal }) = &self.beside {
            for view in views {
                let (items, live) = (units::show_count(view.items as u64), units::show_count(view.live as u64));
                row(&format!("view {}", view.name), format!("{items} items, {live} of them live"))?;
            }
            if let Some(journal) = journal {
                let JournalFacts { epoch, delisted, unknown, torn_bytes, .. } = journal;
                let torn =
                    if *torn_bytes > 0 { format!(", {torn_bytes} bytes of a torn record") } else { String::new() };
                row("delisted", format!("{delisted} items ({unknown} not in this catalogue), epoch {epoch}{torn}"))?;
            }
        }
        if let Some(seconds) = built_s {
            row("built in", format!("{seconds:.2} s"))?;
        }
        Ok(())
    }
}
