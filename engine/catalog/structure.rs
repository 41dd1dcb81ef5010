//! The rules that elements of a catalogue's sections keep. `layout.rs` says which of them accessors rely on.
//!
//! Each check is a straight pass that only looks for the offender once it knows there is one, so that ten million items take
//! a fraction of a second.

use std::ops::Range;
use std::path::Path;

use super::CatalogError;
use super::format::{Section, SectionKind};
use super::layout::Layout;
use super::starts::{BITS_PER_BLOCK, WORDS_PER_BLOCK};

/// A file under examination: makes the errors.
pub(super) struct Examined<'a> {
    pub(super) path: &'a Path,
    pub(super) bytes: &'a [u8],
}

impl<'a> Examined<'a> {
    pub(super) fn header_error(
        &self,
        field: &'static str,
        value: impl ToString,
        rule: impl Into<String>,
    ) -> CatalogError {
        let (value, rule) = (value.to_string(), rule.into());
        CatalogError::Header { path: self.path.to_owned(), field, value, rule }
    }

    pub(super) fn length(&self, what: &'static str, needs: u64) -> CatalogError {
        CatalogError::Length { path: self.path.to_owned(), what, needs, has: self.bytes.len() as u64 }
    }

    pub(super) fn table(&self, section: Section, reason: impl Into<String>) -> CatalogError {
        CatalogError::SectionTable { path: self.path.to_owned(), section, reason: reason.into() }
    }

    pub(super) fn structure(&self, section: Section, index: usize, reason: impl Into<String>) -> CatalogError {
        CatalogError::Structure { path: self.path.to_owned(), section, index: index as u64, reason: reason.into() }
    }

    /// A section's elements; the error arm is for a buffer that is not aligned to 8 bytes, which no owner hands out.
    pub(super) fn elements<T: bytemuck::Pod>(
        &self,
        section: Section,
        range: &Range<usize>,
    ) -> Result<&'a [T], CatalogError> {
        let bytes = &self.bytes[range.clone()];
        bytemuck::try_cast_slice(bytes)
            .map_err(|error| self.table(section, format!("cannot be read in place: {error}")))
    }

    pub(super) fn trie(&self, layout: &Layout) -> Result<(), CatalogError> {
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

    pub(super) fn leaves(&self, layout: &Layout) -> Result<(), CatalogError> {
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

    pub(super) fn items(&self, layout: &Layout) -> Result<(), CatalogError> {
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
