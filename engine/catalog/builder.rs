//! Collects items and turns them into a catalogue, in memory or in a file.
//!
//! Items may come in any order. What is wrong with one item is said when it is added; what takes all of them to see
//! (duplicates) is said by `finish` or `write`, with both places. The builder keeps a few flat arrays, no object per item.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use super::arrange::Arranged;
use super::error::{Place, Unit};
use super::format::check_version;
use super::temporary::TemporaryFile;
use super::text::TextColumn;
use super::{Catalog, CatalogError, MAX_CODES, MAX_ITEMS, MAX_LEVELS, MIN_LEVELS};

/// One item to add.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewItem<'a> {
    /// The caller's number for it.
    pub id: u64,
    /// One code a level.
    pub sid: &'a [u16],
    /// Items that share a semantic ID are listed by weight, descending, then by id. 0 where unknown.
    pub weight: f32,
    /// The caller's name for it, unique. Empty is the same as none.
    pub key: Option<&'a str>,
    /// For people. Empty is the same as none.
    pub title: Option<&'a str>,
}

/// Collects items for a [`Catalog`].
///
/// ```
/// use sidereal::catalog::{CatalogBuilder, NewItem};
///
/// let mut builder = CatalogBuilder::new(&[4, 4, 4]).unwrap();
/// builder.add(NewItem { id: 7, sid: &[0, 1, 2], ..NewItem::default() }).unwrap();
/// builder.add(NewItem { id: 3, sid: &[0, 1, 3], weight: 2.0, ..NewItem::default() }).unwrap();
/// let catalog = builder.finish().unwrap();
/// let leaf = catalog.leaf_of_sid(&[0, 1, 2]).unwrap();
/// assert_eq!(catalog.id(catalog.items_of_leaf(leaf)[0]), 7);
/// ```
#[derive(Debug)]
pub struct CatalogBuilder {
    /// Declared codes of each level; `None` while they are to be inferred.
    pub(super) declared: Option<Vec<u32>>,
    /// 0 until known.
    pub(super) levels: usize,
    pub(super) version: Option<String>,
    /// `[items]`
    pub(super) ids: Vec<u64>,
    /// `[items, levels]`
    pub(super) sids: Vec<u16>,
    /// `[items]`, or empty while every weight is 0.
    pub(super) weights: Vec<f32>,
    pub(super) keys: TextColumn,
    pub(super) titles: TextColumn,
    /// Largest code seen at each level.
    largest: [u16; MAX_LEVELS],
    places: Vec<PlaceRun>,
}

/// Rows that came from consecutive places of one source.
#[derive(Clone, Debug)]
struct PlaceRun {
    first_row: usize,
    first: Place,
}

impl CatalogBuilder {
    /// A builder for semantic IDs of `codes.len()` levels, `codes[l]` codes at level `l`.
    pub fn new(codes: &[u32]) -> Result<CatalogBuilder, CatalogError> {
        check_levels(codes.len())?;
        if let Some(level) = codes.iter().position(|codes| !(1..=MAX_CODES).contains(codes)) {
            return Err(CatalogError::CodeCount { level, codes: codes[level] });
        }
        let mut builder = CatalogBuilder::inferring();
        builder.levels = codes.len();
        builder.declared = Some(codes.to_vec());
        Ok(builder)
    }

    /// A builder that takes the number of levels from the first item, and each level's codes from the largest code seen.
    pub fn inferring() -> CatalogBuilder {
        CatalogBuilder {
            declared: None,
            levels: 0,
            version: None,
            ids: Vec::new(),
            sids: Vec::new(),
            weights: Vec::new(),
            keys: TextColumn::default(),
            titles: TextColumn::default(),
            largest: [0; MAX_LEVELS],
            places: Vec::new(),
        }
    }

    /// Names this version of the catalogue; replies carry the name. Without one, a checksum of the content is used.
    pub fn set_version(&mut self, version: &str) -> Result<(), CatalogError> {
        self.version = Some(check_version(version)?.to_owned());
        Ok(())
    }

    /// Items added so far.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True before the first item.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Makes room for `items` more items.
    pub fn reserve(&mut self, items: usize) {
        self.ids.reserve(items);
        self.sids.reserve(items.saturating_mul(self.levels));
    }

    /// Adds one item.
    pub fn add(&mut self, item: NewItem<'_>) -> Result<(), CatalogError> {
        let source = match self.places.last() {
            Some(run) if run.first.unit == Unit::Call => Arc::clone(&run.first.source),
            _ => Arc::from("catalogue builder"),
        };
        let number = self.ids.len() as u64 + 1;
        self.add_from(&Place { source, unit: Unit::Call, number }, item)
    }

    /// Adds one item that stands at `place` of its source.
    pub(super) fn add_from(&mut self, place: &Place, item: NewItem<'_>) -> Result<(), CatalogError> {
        let NewItem { id, sid, weight, key, title } = item;
        if self.ids.len() as u64 >= MAX_ITEMS {
            return Err(CatalogError::TooMany { what: "items", count: self.ids.len() as u64 + 1, limit: MAX_ITEMS });
        }
        if self.levels == 0 {
            let found = sid.len();
            check_levels(found).map_err(|_| CatalogError::SidLevels { place: place.clone(), item: id, found })?;
            self.levels = found;
        }
        if sid.len() != self.levels {
            let (found, expected) = (sid.len(), self.levels);
            return Err(CatalogError::SidLength { place: place.clone(), item: id, found, expected });
        }
        if let Some(level) = self.level_out_of_range(sid) {
            return Err(self.code_error(place, id, level, sid[level].into()));
        }
        if !weight.is_finite() {
            return Err(CatalogError::Weight { place: place.clone(), item: id, weight: weight.into() });
        }
        let row = self.ids.len();
        for (largest, &code) in self.largest.iter_mut().zip(sid) {
            *largest = code.max(*largest);
        }
        self.ids.push(id);
        self.sids.extend_from_slice(sid);
        if weight != 0.0 || !self.weights.is_empty() {
            self.weights.resize(row, 0.0);
            // Adding zero turns -0 into 0, so that equal weights have equal bits.
            self.weights.push(weight + 0.0);
        }
        if let Some(key) = key.filter(|key| !key.is_empty()) {
            self.keys.push(row, key);
        }
        if let Some(title) = title.filter(|title| !title.is_empty()) {
            self.titles.push(row, title);
        }
        self.note_place(row, place);
        Ok(())
    }

    /// First level whose code is not below its bound.
    fn level_out_of_range(&self, sid: &[u16]) -> Option<usize> {
        let declared = self.declared.as_ref()?;
        sid.iter().zip(declared).position(|(&code, &codes)| u32::from(code) >= codes)
    }

    /// The error for a code of `level` that is too large; sources use it for codes that do not even fit 16 bits.
    pub(super) fn code_error(&self, place: &Place, item: u64, level: usize, code: u64) -> CatalogError {
        let codes = self.declared.as_ref().and_then(|codes| codes.get(level)).copied().unwrap_or(MAX_CODES);
        CatalogError::CodeOutOfRange { place: place.clone(), item, level, code, codes }
    }

    fn note_place(&mut self, row: usize, place: &Place) {
        let follows = self.places.last().is_some_and(|run| {
            run.first.unit == place.unit
                && run.first.number.checked_add((row - run.first_row) as u64) == Some(place.number)
                && run.first.source == place.source
        });
        if !follows {
            self.places.push(PlaceRun { first_row: row, first: place.clone() });
        }
    }

    /// Where the item of `row` came from.
    pub(super) fn place_of(&self, row: usize) -> Place {
        let run = &self.places[self.places.partition_point(|run| run.first_row <= row) - 1];
        Place { number: run.first.number + (row - run.first_row) as u64, ..run.first.clone() }
    }

    /// Codes of each level: declared, or one more than the largest seen.
    pub(super) fn codes(&self) -> Vec<u32> {
        match &self.declared {
            Some(codes) => codes.clone(),
            None => self.largest[..self.levels].iter().map(|&code| u32::from(code) + 1).collect(),
        }
    }

    /// Builds the catalogue in memory.
    pub fn finish(self) -> Result<Catalog, CatalogError> {
        let arranged = Arranged::new(self)?;
        let plan = arranged.plan()?;
        // Eight-byte words, so that the sections are aligned as they would be in a mapping.
        let mut words = vec![0u64; plan.file_bytes.div_ceil(8) as usize];
        let mut bytes: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut words)[..plan.file_bytes as usize];
        let path = Path::new("catalogue in memory");
        plan.write(&mut bytes).map_err(|source| CatalogError::Io {
            action: "serialize",
            path: path.to_owned(),
            source,
        })?;
        let file_bytes = plan.file_bytes as usize;
        drop(plan);
        Catalog::from_words(path, words, file_bytes)
    }

    /// Builds the catalogue and writes it to `path`, whole or not at all: a temporary file beside it is renamed over it once
    /// everything is on disk. Returns the bytes written.
    pub fn write(self, path: &Path) -> Result<u64, CatalogError> {
        let arranged = Arranged::new(self)?;
        let plan = arranged.plan()?;
        let temporary = TemporaryFile::beside(path)?;
        let mut out = BufWriter::with_capacity(1 << 20, &temporary.file);
        let failed = |source| CatalogError::Io { action: "write", path: temporary.path.clone(), source };
        plan.write(&mut out).map_err(failed)?;
        out.flush().map_err(failed)?;
        drop(out);
        temporary.file.sync_all().map_err(failed)?;
        temporary.rename_to(path)?;
        Ok(plan.file_bytes)
    }
}

fn check_levels(levels: usize) -> Result<(), CatalogError> {
    if (MIN_LEVELS..=MAX_LEVELS).contains(&levels) { Ok(()) } else { Err(CatalogError::Levels { levels }) }
}
