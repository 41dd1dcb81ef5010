//! Reads a catalogue file's header and section table: where everything is, and that every later access stays in bounds.
//!
//! After [`Layout::check`] returns, these hold and accessors rely on them without looking again: every section lies in the
//! file, aligned, with the length that the counts demand; child offsets are strictly ascending and end at the next level's
//! node count; codes ascend within a node and stay below the level's bound; leaf starts agree with their counts; item and
//! leaf numbers are in range; ids ascend; text offsets ascend and end at the text's end. Checksums of everything but text
//! are compared as well, so that a bit flipped in a trie is found before it is served. Text is checked when it is read.
//! The rules that elements of sections keep are in `structure.rs`.
//!
//! Not checked here, because it needs random access to every item: that the two directions leaf -> items and item -> leaf
//! agree, and the order of items within a leaf. [`super::verify`] does.

use std::ops::Range;
use std::path::Path;

use super::format::{
    ALIGNMENT, ENTRY_BYTES, Entry, FIXED_HEADER_BYTES, FORMAT_VERSION, Header, MAGIC, Section, SectionKind,
    check_version, header_crc, read_u32,
};
use super::starts::{counts_for, words_for};
use super::structure::Examined;
use super::{CatalogError, MAX_CODES, MAX_ITEMS, MAX_LEVELS, MIN_LEVELS};

/// Where everything is. Ranges are in bytes of the file.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) version: String,
    pub(super) items: usize,
    /// `[levels]`
    pub(super) codes: Vec<u32>,
    /// `[levels]`
    pub(super) nodes: Vec<usize>,
    /// `[levels]`
    pub(super) node_codes: Vec<Range<usize>>,
    /// `[levels - 1]`
    pub(super) first_child: Vec<Range<usize>>,
    pub(super) leaf_starts: Range<usize>,
    pub(super) leaf_counts: Range<usize>,
    pub(super) leaf_items: Range<usize>,
    pub(super) item_ids: Range<usize>,
    pub(super) item_leaves: Range<usize>,
    pub(super) item_weights: Option<Range<usize>>,
    pub(super) keys: Option<KeyRanges>,
    pub(super) titles: Option<TextRanges>,
    /// Every section as stored, in file order.
    pub(super) sections: Vec<(Section, Range<usize>, u32)>,
}

/// Where a text column is.
#[derive(Clone, Debug)]
pub(super) struct TextRanges {
    pub(super) offsets: Range<usize>,
    pub(super) text: Range<usize>,
}

/// Where keys and their order are.
#[derive(Clone, Debug)]
pub(super) struct KeyRanges {
    pub(super) texts: TextRanges,
    pub(super) order: Range<usize>,
}

impl Layout {
    /// Examines a file.
    pub(super) fn check(path: &Path, bytes: &[u8]) -> Result<Layout, CatalogError> {
        let file = Examined { path, bytes };
        let header = file.header()?;
        let sections = file.sections(&header)?;
        let layout = file.arrange(&header, sections)?;
        for (section, range, stored) in &layout.sections {
            if !section.kind.is_text() {
                file.checksum(*section, range, *stored)?;
            }
        }
        file.trie(&layout)?;
        file.leaves(&layout)?;
        file.items(&layout)?;
        Ok(layout)
    }
}

impl Examined<'_> {
    /// Magic, version, checksum, counts.
    fn header(&self) -> Result<Header, CatalogError> {
        let bytes = self.bytes;
        if !bytes.starts_with(&MAGIC) {
            let found = bytes[..bytes.len().min(MAGIC.len())].to_vec();
            if MAGIC.starts_with(&found) {
                return Err(self.length("the header", FIXED_HEADER_BYTES as u64));
            }
            return Err(CatalogError::NotACatalog { path: self.path.to_owned(), found });
        }
        if bytes.len() < FIXED_HEADER_BYTES {
            return Err(self.length("the header", FIXED_HEADER_BYTES as u64));
        }
        let found = read_u32(bytes, 8);
        if found != FORMAT_VERSION {
            let path = self.path.to_owned();
            return Err(CatalogError::FormatVersion { path, found, supported: FORMAT_VERSION });
        }
        let header = Header::read(bytes);
        let table_bytes = u64::from(header.sections) * ENTRY_BYTES as u64;
        let expected = FIXED_HEADER_BYTES as u64 + table_bytes;
        if u64::from(header.header_bytes) != expected {
            let rule = format!("{} sections need {expected}", header.sections);
            return Err(self.header_error("header_bytes", header.header_bytes, rule));
        }
        if (bytes.len() as u64) < expected {
            return Err(self.length("the section table", expected));
        }
        let (stored, computed) = (read_u32(bytes, 12), header_crc(&bytes[..expected as usize]));
        if stored != computed {
            return Err(CatalogError::HeaderChecksum { path: self.path.to_owned(), stored, computed });
        }
        if header.file_bytes != bytes.len() as u64 {
            return Err(self.length("the whole catalogue", header.file_bytes));
        }
        if let Some(at) = Header::reserved_in_use(bytes) {
            return Err(self.header_error("reserved", read_u32(bytes, at), format!("bytes {at}.. must be zero")));
        }
        self.counts(&header)?;
        Ok(header)
    }

    fn counts(&self, header: &Header) -> Result<(), CatalogError> {
        let levels = header.levels as usize;
        if !(MIN_LEVELS..=MAX_LEVELS).contains(&levels) {
            return Err(self.header_error("levels", levels, format!("{MIN_LEVELS} to {MAX_LEVELS}")));
        }
        if !(1..=MAX_ITEMS).contains(&header.items) {
            return Err(self.header_error("items", header.items, format!("1 to {MAX_ITEMS}")));
        }
        let mut least = 1;
        for level in 0..levels {
            let (codes, nodes) = (header.codes[level], header.nodes[level]);
            if !(1..=MAX_CODES).contains(&codes) {
                return Err(self.header_error("codes", codes, format!("level {level}: 1 to {MAX_CODES}")));
            }
            let parents = if level == 0 { 1 } else { u64::from(header.nodes[level - 1]) };
            let most = (parents * u64::from(codes)).min(header.items);
            if !(least..=most).contains(&u64::from(nodes)) {
                return Err(self.header_error("nodes", nodes, format!("level {level}: {least} to {most}")));
            }
            least = nodes.into();
        }
        if (levels..MAX_LEVELS).any(|level| header.codes[level] != 0 || header.nodes[level] != 0) {
            return Err(self.header_error("codes", "not zero", format!("only {levels} levels are in use")));
        }
        Ok(())
    }

    /// The section table: known kinds in order, aligned, one after another, inside the file.
    fn sections(&self, header: &Header) -> Result<Vec<(Section, Range<usize>, u32)>, CatalogError> {
        let table = &self.bytes[FIXED_HEADER_BYTES..header.header_bytes as usize];
        let mut sections: Vec<(Section, Range<usize>, u32)> = Vec::new();
        let mut end = u64::from(header.header_bytes);
        for (i, entry) in table.chunks_exact(ENTRY_BYTES).map(Entry::read).enumerate() {
            let Some(section) = entry.section() else {
                return Err(self.header_error("section kind", entry.kind, format!("entry {i}: 1 to 13")));
            };
            let levels = match section.kind {
                SectionKind::NodeCodes => header.levels,
                SectionKind::FirstChild => header.levels - 1,
                _ => 1,
            };
            if section.level >= levels {
                return Err(self.table(section, format!("level {} of {levels}", section.level)));
            }
            if sections.last().is_some_and(|(last, ..)| *last >= section) {
                return Err(self.table(section, "out of order or given twice"));
            }
            if entry.reserved != 0 {
                return Err(self.table(section, "reserved bytes are not zero"));
            }
            let offset = end.next_multiple_of(ALIGNMENT);
            if entry.offset != offset {
                return Err(self.table(section, format!("starts at byte {}, expected at {offset}", entry.offset)));
            }
            let has = self.bytes.len() as u64;
            end = match offset.checked_add(entry.bytes) {
                Some(end) if end <= has => end,
                _ => {
                    let reason = format!("{} bytes at {offset} leave the file of {has}", entry.bytes);
                    return Err(self.table(section, reason));
                }
            };
            sections.push((section, offset as usize..end as usize, entry.crc));
        }
        if end != self.bytes.len() as u64 {
            return Err(self.length("the sections together", end));
        }
        Ok(sections)
    }

    /// Gives every section its place and checks its length against the counts.
    fn arrange(&self, header: &Header, sections: Vec<(Section, Range<usize>, u32)>) -> Result<Layout, CatalogError> {
        let levels = header.levels as usize;
        let items = header.items as usize;
        let nodes: Vec<usize> = header.nodes[..levels].iter().map(|&nodes| nodes as usize).collect();
        let find = |section| sections.iter().find(|(found, ..)| *found == section).map(|(_, range, _)| range.clone());
        let optional = |section, elements: usize, width: usize| match find(section) {
            Some(range) if range.len() as u64 != elements as u64 * width as u64 => {
                Err(self.table(section, format!("{} bytes, expected {elements} x {width}", range.len())))
            }
            found => Ok(found),
        };
        let required = |section, elements, width| {
            optional(section, elements, width)?.ok_or_else(|| self.table(section, "missing"))
        };
        let text = |offsets, text| -> Result<Option<TextRanges>, CatalogError> {
            let (offsets, text) = (Section::of(offsets), Section::of(text));
            match (optional(offsets, items + 1, 4)?, find(text)) {
                (Some(offsets), Some(text)) => Ok(Some(TextRanges { offsets, text })),
                (None, None) => Ok(None),
                (Some(_), None) => Err(self.table(text, "missing, though its offsets are there")),
                (None, Some(_)) => Err(self.table(offsets, "missing, though its text is there")),
            }
        };
        let order = Section::of(SectionKind::KeyOrder);
        let keys = match (text(SectionKind::KeyOffsets, SectionKind::KeyText)?, find(order)) {
            (Some(texts), Some(order)) => Some(KeyRanges { texts, order }),
            (None, None) => None,
            (Some(_), None) => return Err(self.table(order, "missing, though keys are there")),
            (None, Some(_)) => return Err(self.table(order, "there, though keys are missing")),
        };
        let version = header.version.get(..header.version_bytes as usize).and_then(|v| std::str::from_utf8(v).ok());
        let padding = header.version.iter().skip(header.version_bytes as usize);
        let version = match version.filter(|version| check_version(version).is_ok()) {
            Some(version) if padding.into_iter().all(|&byte| byte == 0) => version.to_owned(),
            _ => {
                let value = String::from_utf8_lossy(&header.version).escape_debug().to_string();
                return Err(self.header_error("version", value, "1 to 128 bytes of UTF-8, then zeros"));
            }
        };
        Ok(Layout {
            version,
            items,
            codes: header.codes[..levels].to_vec(),
            node_codes: (0..levels)
                .map(|level| required(Section::at(SectionKind::NodeCodes, level), nodes[level], 2))
                .collect::<Result<_, _>>()?,
            first_child: (0..levels - 1)
                .map(|level| required(Section::at(SectionKind::FirstChild, level), nodes[level] + 1, 4))
                .collect::<Result<_, _>>()?,
            leaf_starts: required(Section::of(SectionKind::LeafStarts), words_for(items), 8)?,
            leaf_counts: required(Section::of(SectionKind::LeafCounts), counts_for(items), 4)?,
            leaf_items: required(Section::of(SectionKind::LeafItems), items, 4)?,
            item_ids: required(Section::of(SectionKind::ItemIds), items, 8)?,
            item_leaves: required(Section::of(SectionKind::ItemLeaves), items, 4)?,
            item_weights: optional(Section::of(SectionKind::ItemWeights), items, 4)?,
            keys,
            titles: text(SectionKind::TitleOffsets, SectionKind::TitleText)?,
            nodes,
            sections,
        })
    }

    /// Compares a section with its checksum.
    pub(super) fn checksum(&self, section: Section, range: &Range<usize>, stored: u32) -> Result<(), CatalogError> {
        let computed = crc32c::crc32c(&self.bytes[range.clone()]);
        if computed == stored {
            return Ok(());
        }
        Err(CatalogError::SectionChecksum { path: self.path.to_owned(), section, stored, computed })
    }
}
