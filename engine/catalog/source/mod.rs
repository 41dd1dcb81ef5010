//! Reads items from the files that people have: JSON lines, CSV, `index.json`, arrays of codes, packed integers, and binary
//! records of tokens.
//!
//! Every reader streams into a [`CatalogBuilder`] and says file, line and field of what it cannot use. Nothing is guessed
//! about an item: a field that is not known is an error, a wrong type is an error. Duplicates are found by the builder.

mod csv_rows;
mod index_json;
mod json_lines;
mod npy;
mod open_one_rec;
mod xllm;

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sidereal_ffi::open_regular;

use super::builder::NewItem;
use super::error::{Place, Unit};
use super::{CatalogBuilder, CatalogError};

/// Called now and then with (done, total) in units of the source; total 0 means unknown.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Formats of a catalogue's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceFormat {
    /// `{"item":1,"sid":[3,17,44],"weight":2.5,"key":"tt01","title":".."}` a line; all but `item` and `sid` optional.
    JsonLines,
    /// A header `item,sid0,sid1,..[,weight][,key][,title]` and a row an item.
    Csv,
    /// `{"0": ["<a_137>", "<b_112>", ..], ..}`: LETTER, MiniOneRec, LC-Rec.
    IndexJson,
    /// `[items, levels]` integers; an item's id is its row.
    Npy,
    /// `{"71868170501": [{"pid":5,"count":3,"count_after_downsample":1}, ..], ..}`: OpenOneRec's packed semantic IDs.
    OpenOneRec,
    /// xLLM's records: an i64 item id, then an i32 token a level.
    Xllm,
    /// xLLM's records with two strings between id and tokens.
    XllmExtended,
}

impl SourceFormat {
    /// Every format.
    pub const ALL: [SourceFormat; 7] = [
        SourceFormat::JsonLines,
        SourceFormat::Csv,
        SourceFormat::IndexJson,
        SourceFormat::Npy,
        SourceFormat::OpenOneRec,
        SourceFormat::Xllm,
        SourceFormat::XllmExtended,
    ];

    /// The name that the command line uses.
    pub fn name(self) -> &'static str {
        match self {
            SourceFormat::JsonLines => "jsonl",
            SourceFormat::Csv => "csv",
            SourceFormat::IndexJson => "index-json",
            SourceFormat::Npy => "npy",
            SourceFormat::OpenOneRec => "openonerec",
            SourceFormat::Xllm => "xllm",
            SourceFormat::XllmExtended => "xllm-extended",
        }
    }

    /// The format of this name.
    pub fn from_name(name: &str) -> Option<SourceFormat> {
        SourceFormat::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Tells the format of a file from its extension, else from its first bytes. xLLM's records bear no mark: they are
    /// never guessed.
    pub fn detect(path: &Path) -> Result<SourceFormat, CatalogError> {
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        match extension.as_deref() {
            Some("jsonl" | "ndjson") => return Ok(SourceFormat::JsonLines),
            Some("csv") => return Ok(SourceFormat::Csv),
            Some("npy") => return Ok(SourceFormat::Npy),
            _ => {}
        }
        let mut head = Vec::new();
        let file = open_regular(path).and_then(|file| file.take(1 << 16).read_to_end(&mut head));
        file.map_err(|source| CatalogError::Io { action: "read", path: path.to_owned(), source })?;
        let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head).trim_ascii_start();
        let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
        if head.starts_with(npy::MAGIC) {
            Ok(SourceFormat::Npy)
        } else if serde_json::from_slice::<serde_json::Value>(line).is_ok_and(|line| line.get("item").is_some()) {
            Ok(SourceFormat::JsonLines)
        } else if text.starts_with(b"{") {
            Ok(if open_one_rec::looks_like(text) { SourceFormat::OpenOneRec } else { SourceFormat::IndexJson })
        } else if line.split(|&byte| byte == b',').any(|column| column.trim_ascii() == b"item") {
            Ok(SourceFormat::Csv)
        } else {
            Err(CatalogError::UnknownFormat { path: path.to_owned() })
        }
    }
}

/// How to read a source.
#[derive(Clone, Debug, Default)]
pub struct SourceOptions {
    /// The format; `None` to tell from the file.
    pub format: Option<SourceFormat>,
    /// Codes of each level; `None` to take one more than the largest code.
    pub codes: Option<Vec<u32>>,
    /// MiniOneRec's `info.txt` (`<a_60><b_159>..`, tab, title, tab, item), for titles beside an `index.json`.
    pub info: Option<PathBuf>,
    /// Token of every code, level by level, as the manifest declares them. xLLM's records hold tokens and need it.
    pub tokens: Option<Vec<Vec<u32>>>,
}

/// Reads all items of a source.
pub fn read_source(
    path: &Path,
    options: &SourceOptions,
    progress: Progress<'_>,
) -> Result<CatalogBuilder, CatalogError> {
    let format = match options.format {
        Some(format) => format,
        None => SourceFormat::detect(path)?,
    };
    if let Some(info) = &options.info
        && format != SourceFormat::IndexJson
    {
        let place = Place { source: name_of(info), unit: Unit::Line, number: 1 };
        let reason = format!("titles from info.txt go with index-json; {} is {}", path.display(), format.name());
        return Err(CatalogError::Malformed { place, field: None, reason });
    }
    let failed = |source| CatalogError::Io { action: "read", path: path.to_owned(), source };
    let file = open_regular(path).map_err(failed)?;
    let total = file.metadata().map_err(failed)?.len();
    let builder = match &options.codes {
        Some(codes) => CatalogBuilder::new(codes)?,
        None => CatalogBuilder::inferring(),
    };
    let mut input = Input { path, source: name_of(path), total, builder, progress };
    let reader = BufReader::with_capacity(1 << 18, file);
    match format {
        SourceFormat::JsonLines => json_lines::read(&mut input, reader)?,
        SourceFormat::Csv => csv_rows::read(&mut input, reader)?,
        SourceFormat::IndexJson => index_json::read(&mut input, reader, options.info.as_deref())?,
        SourceFormat::Npy => npy::read(&mut input, reader)?,
        SourceFormat::OpenOneRec => open_one_rec::read(&mut input, reader)?,
        SourceFormat::Xllm => xllm::read(&mut input, reader, &options.tokens, xllm::Strings::Absent)?,
        SourceFormat::XllmExtended => xllm::read(&mut input, reader, &options.tokens, xllm::Strings::Present)?,
    }
    if input.builder.is_empty() {
        return Err(CatalogError::Empty { source_name: path.display().to_string() });
    }
    Ok(input.builder)
}

fn name_of(path: &Path) -> Arc<str> {
    Arc::from(path.display().to_string())
}

/// A source being read.
struct Input<'a> {
    path: &'a Path,
    source: Arc<str>,
    /// Bytes of the file.
    total: u64,
    builder: CatalogBuilder,
    progress: Progress<'a>,
}

/// An item as sources give it: numbers not narrowed yet.
struct RawItem<'a> {
    id: u64,
    sid: &'a [u64],
    weight: Option<f64>,
    key: Option<&'a str>,
    title: Option<&'a str>,
}

impl Input<'_> {
    fn place(&self, unit: Unit, number: u64) -> Place {
        Place { source: Arc::clone(&self.source), unit, number }
    }

    fn io(&self, source: std::io::Error) -> CatalogError {
        CatalogError::Io { action: "read", path: self.path.to_owned(), source }
    }

    /// Narrows an item's numbers and adds it.
    fn add(&mut self, place: &Place, item: &RawItem<'_>) -> Result<(), CatalogError> {
        let mut sid = [0u16; super::MAX_LEVELS];
        let levels = item.sid.len();
        if levels > sid.len() {
            if self.builder.levels == 0 {
                return Err(CatalogError::SidLevels { place: place.clone(), item: item.id, found: levels });
            }
            let (found, expected) = (levels, self.builder.levels);
            return Err(CatalogError::SidLength { place: place.clone(), item: item.id, found, expected });
        }
        for (level, (narrow, &code)) in sid.iter_mut().zip(item.sid).enumerate() {
            let fits = u16::try_from(code);
            *narrow = fits.map_err(|_| self.builder.code_error(place, item.id, level, code))?;
        }
        let weight = item.weight.unwrap_or(0.0);
        if !(weight as f32).is_finite() {
            return Err(CatalogError::Weight { place: place.clone(), item: item.id, weight });
        }
        let (key, title) = (item.key, item.title);
        self.builder.add_from(place, NewItem { id: item.id, sid: &sid[..levels], weight: weight as f32, key, title })
    }
}

fn malformed(place: &Place, field: Option<&str>, reason: impl Into<String>) -> CatalogError {
    CatalogError::Malformed { place: place.clone(), field: field.map(str::to_owned), reason: reason.into() }
}
