//! Reads and judges a catalogue file: where its sections are, and that every later access stays in bounds.
//!
//! After [`Layout::check`] returns, these hold and accessors rely on them without looking again: every section lies in the
//! file, aligned, with the length that the counts demand; child offsets are strictly ascending and end at the next level's
//! node count; codes ascend within a node and stay below the level's bound; leaf starts agree with their counts; item and
//! leaf numbers are in range; ids ascend; text offsets ascend and end at the text's end. Checksums of everything but text
//! are compared as well, so that a bit flipped in a trie is found before it is served. Text is checked when it is read.
//!
//! Not checked here, because it needs random access to every item: that the two directions leaf -> items and item -> leaf
//! agree, and the order of items within a leaf. [`super::verify`] does.

use std::ops::Range;
use std::path::Path;

use super::format::{
    ALIGNMENT, ENTRY_BYTES, Entry, FIXED_HEADER_BYTES, FORMAT_VERSION, Header, MAGIC, Section, SectionKind,
    check_version, header_crc, read_u32,
};
use super::starts::{BITS_PER_BLOCK, WORDS_PER_BLOCK, counts_for, words_for};
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

/// A file under examination: makes the errors.
struct Examined<'a> {
    path: &'a Path,
    bytes: &'a [u8],
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

impl<'a> Examined<'a> {
    fn header_error(&self, field: &'static str, value: impl ToString, rule: impl Into<String>) -> CatalogError {
        let (value, rule) = (value.to_string(), rule.into());
        CatalogError::Header { path: self.path.to_owned(), field, value, rule }
    }

    fn length(&self, what: &'static str, needs: u64) -> CatalogError {
        CatalogError::Length { path: self.path.to_owned(), what, needs, has: self.bytes.len() as u64 }
    }

    fn table(&self, section: Section, reason: impl Into<String>) -> CatalogError {
        CatalogError::SectionTable { path: self.path.to_owned(), section, reason: reason.into() }
    }

    fn structure(&self, section: Section, index: usize, reason: impl Into<String>) -> CatalogError {
        CatalogError::Structure { path: self.path.to_owned(), section, index: index as u64, reason: reason.into() }
    }

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
    fn checksum(&self, section: Section, range: &Range<usize>, stored: u32) -> Result<(), CatalogError> {
        let computed = crc32c::crc32c(&self.bytes[range.clone()]);
        if computed == stored {
            return Ok(());
        }
        Err(CatalogError::SectionChecksum { path: self.path.to_owned(), section, stored, computed })
    }

    /// A section's elements; the error arm is for a buffer that is not aligned to 8 bytes, which no owner hands out.
    fn elements<T: bytemuck::Pod>(&self, section: Section, range: &Range<usize>) -> Result<&'a [T], CatalogError> {
        let bytes = &self.bytes[range.clone()];
        bytemuck::try_cast_slice(bytes)
            .map_err(|error| self.table(section, format!("cannot be read in place: {error}")))
    }

    fn trie(&self, layout: &Layout) -> Result<(), CatalogError> {
        let levels = layout.codes.len();
        for level in 0..levels {
            let section = Section::at(SectionKind::NodeCodes, level);
            let codes: &[u16] = self.elements(section, &layout.node_codes[level])?;
            let bound = layout.codes[level];
            if codes.iter().max().is_some_and(|&code| u32::from(code) >= bound) {
                let at = codes.iter().position(|&code| u32::from(code) >= bound).unwrap_or(0);
                return Err(self.structure(section, at, format!("code {} of {bound}", codes[at])));
            }
            if level == 0 {
                self.siblings(section, codes, 0..codes.len())?;
                continue;
            }
            let parents = Section::at(SectionKind::FirstChild, level - 1);
            let first: &[u32] = self.elements(parents, &layout.first_child[level - 1])?;
            self.offsets(parents, first, codes.len(), 1)?;
            for pair in first.windows(2) {
                self.siblings(section, codes, pair[0] as usize..pair[1] as usize)?;
            }
        }
        Ok(())
    }

    /// Codes of siblings ascend strictly.
    fn siblings(&self, section: Section, codes: &[u16], range: Range<usize>) -> Result<(), CatalogError> {
        let first = range.start;
        match codes[range].windows(2).position(|pair| pair[0] >= pair[1]) {
            None => Ok(()),
            Some(i) => {
                let (at, code) = (first + i + 1, codes[first + i + 1]);
                Err(self.structure(
                    section,
                    at,
                    format!("code {code} does not ascend from its sibling's {}", codes[at - 1]),
                ))
            }
        }
    }

    /// Offsets start at 0, grow by at least `step`, and end at `end`.
    fn offsets(&self, section: Section, offsets: &[u32], end: usize, step: u32) -> Result<(), CatalogError> {
        if offsets[0] != 0 {
            return Err(self.structure(section, 0, format!("offset {}, expected 0", offsets[0])));
        }
        let grows = |pair: &[u32]| u64::from(pair[0]) + u64::from(step) <= u64::from(pair[1]);
        if let Some(i) = offsets.windows(2).position(|pair| !grows(pair)) {
            let reason = format!("offset {} after {}: each is at least {step} more", offsets[i + 1], offsets[i]);
            return Err(self.structure(section, i + 1, reason));
        }
        let last = offsets.len() - 1;
        if offsets[last] as usize != end {
            return Err(self.structure(section, last, format!("ends at {}, expected {end}", offsets[last])));
        }
        Ok(())
    }

    fn leaves(&self, layout: &Layout) -> Result<(), CatalogError> {
        let items = layout.items;
        let leaves = layout.nodes[layout.nodes.len() - 1];
        let section = Section::of(SectionKind::LeafStarts);
        let words: &[u64] = self.elements(section, &layout.leaf_starts)?;
        if words[0] & 1 == 0 {
            return Err(self.structure(section, 0, "the first slot must begin a leaf"));
        }
        let last = words.len() - 1;
        if !items.is_multiple_of(64) && words[last] >> (items % 64) != 0 {
            return Err(self.structure(section, last, format!("bits beyond slot {} are set", items - 1)));
        }
        let section = Section::of(SectionKind::LeafCounts);
        let counts: &[u32] = self.elements(section, &layout.leaf_counts)?;
        let mut total = 0;
        for (i, &count) in counts.iter().enumerate() {
            if count != total {
                let reason = format!("{count}, but {total} leaves begin before slot {}", i * BITS_PER_BLOCK);
                return Err(self.structure(section, i, reason));
            }
            let block = words.iter().skip(i * WORDS_PER_BLOCK).take(WORDS_PER_BLOCK);
            total += block.map(|word| word.count_ones()).sum::<u32>();
        }
        if total as usize != leaves {
            let reason = format!("{total} leaves begin, the last level has {leaves} nodes");
            return Err(self.structure(section, counts.len() - 1, reason));
        }
        self.below(Section::of(SectionKind::LeafItems), &layout.leaf_items, items, "item")?;
        self.below(Section::of(SectionKind::ItemLeaves), &layout.item_leaves, leaves, "leaf")
    }

    /// Every element is below `bound`.
    fn below(&self, section: Section, range: &Range<usize>, bound: usize, what: &str) -> Result<(), CatalogError> {
        let values: &[u32] = self.elements(section, range)?;
        if values.iter().max().is_none_or(|&most| (most as usize) < bound) {
            return Ok(());
        }
        let at = values.iter().position(|&value| value as usize >= bound).unwrap_or(0);
        Err(self.structure(section, at, format!("{what} {} of {bound}", values[at])))
    }

    fn items(&self, layout: &Layout) -> Result<(), CatalogError> {
        let section = Section::of(SectionKind::ItemIds);
        let ids: &[u64] = self.elements(section, &layout.item_ids)?;
        if let Some(i) = ids.windows(2).position(|pair| pair[0] >= pair[1]) {
            let reason = format!("id {} does not ascend from {}", ids[i + 1], ids[i]);
            return Err(self.structure(section, i + 1, reason));
        }
        if let Some(titles) = &layout.titles {
            let section = Section::of(SectionKind::TitleOffsets);
            self.offsets(section, self.elements(section, &titles.offsets)?, titles.text.len(), 0)?;
        }
        let Some(keys) = &layout.keys else { return Ok(()) };
        let section = Section::of(SectionKind::KeyOffsets);
        let offsets: &[u32] = self.elements(section, &keys.texts.offsets)?;
        self.offsets(section, offsets, keys.texts.text.len(), 0)?;
        let keyed = offsets.windows(2).filter(|pair| pair[0] < pair[1]).count();
        let section = Section::of(SectionKind::KeyOrder);
        if keys.order.len() != keyed * 4 {
            return Err(self.table(section, format!("{} bytes, expected {keyed} x 4", keys.order.len())));
        }
        self.below(section, &keys.order, layout.items, "item")
    }
}
