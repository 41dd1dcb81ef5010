//! Everything that can be checked about a catalogue file, for the command line and for after a copy.
//!
//! Opening a file already compares the checksums of all sections but text and the rules that accessors rely on. Here also:
//! text checksums and encoding, gaps, and that the directions leaf -> items, item -> leaf and key -> item agree.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::format::{FIXED_HEADER_BYTES, Section, SectionKind};
use super::structure::Examined;
use super::{Catalog, CatalogError, ItemIndex};

/// What was verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The file.
    pub path: PathBuf,
    /// The catalogue's version.
    pub version: String,
    /// Bytes read.
    pub bytes: u64,
    /// Sections whose checksums were compared.
    pub sections: usize,
    /// Items looked at.
    pub items: usize,
    /// Leaves looked at.
    pub leaves: usize,
}

/// Checks a catalogue file completely. The first thing that is wrong is the error.
pub fn verify(path: &Path) -> Result<Report, CatalogError> {
    Catalog::open(path)?.verify()
}

impl Catalog {
    /// Checks this catalogue completely. The first thing that is wrong is the error.
    pub fn verify(&self) -> Result<Report, CatalogError> {
        let file = Examined { path: self.path(), bytes: self.bytes() };
        let sections = &self.layout.sections;
        let mut end = FIXED_HEADER_BYTES + super::format::ENTRY_BYTES * sections.len();
        for (section, range, stored) in sections {
            if self.bytes()[end..range.start].iter().any(|&byte| byte != 0) {
                return Err(file.table(*section, format!("bytes {end} to {} before it are not zero", range.start)));
            }
            end = range.end;
            file.checksum(*section, range, *stored)?;
        }
        self.verify_leaves(&file)?;
        self.verify_keys(&file)?;
        self.verify_text(&file)?;
        Ok(Report {
            path: self.path().to_owned(),
            version: self.version().to_owned(),
            bytes: self.bytes().len() as u64,
            sections: sections.len(),
            items: self.items(),
            leaves: self.leaves(),
        })
    }

    /// Every item stands in exactly the leaf it names, and a leaf's items are in weight order.
    fn verify_leaves(&self, file: &Examined<'_>) -> Result<(), CatalogError> {
        for item in (0..self.items() as u32).map(ItemIndex) {
            let weight = self.weight(item);
            if !weight.is_finite() {
                let section = Section::of(SectionKind::ItemWeights);
                return Err(file.structure(section, item.0 as usize, format!("weight {weight} is not finite")));
            }
        }
        // Each slot's item names the slot's leaf, and no leaf has an item twice (its order is strict): with as many slots
        // as items, every item has exactly one slot.
        let section = Section::of(SectionKind::LeafItems);
        let mut slot = 0;
        for (leaf, items) in self.each_leaf() {
            for (i, &item) in items.iter().enumerate() {
                let named = self.leaf_of(item);
                if named != leaf {
                    let reason = format!("item {} stands in leaf {leaf} but names leaf {named}", item.0);
                    return Err(file.structure(section, slot + i, reason));
                }
                if i > 0 && !self.stands_before(items[i - 1], item) {
                    let (before, after) = (items[i - 1].0, item.0);
                    let reason = format!(
                        "item {after} of leaf {leaf} must not follow item {before}: weight descends, then id ascends"
                    );
                    return Err(file.structure(section, slot + i, reason));
                }
            }
            slot += items.len();
        }
        Ok(())
    }

    fn stands_before(&self, a: ItemIndex, b: ItemIndex) -> bool {
        let (weight_a, weight_b) = (self.weight(a), self.weight(b));
        weight_a > weight_b || (weight_a == weight_b && a < b)
    }

    /// Keys ascend strictly in their order; with as many entries as keys (checked on opening), all are found.
    fn verify_keys(&self, file: &Examined<'_>) -> Result<(), CatalogError> {
        let Some(keys) = &self.layout.keys else { return Ok(()) };
        let section = Section::of(SectionKind::KeyOrder);
        let order = self.key_order();
        for (i, &item) in order.iter().enumerate() {
            let key = self.text_bytes(&keys.texts, item);
            if key.is_empty() {
                return Err(file.structure(section, i, format!("item {} has no key", item.0)));
            }
            if i > 0 && self.text_bytes(&keys.texts, order[i - 1]) >= key {
                let reason = format!("the key of item {} does not ascend from that of item {}", item.0, order[i - 1].0);
                return Err(file.structure(section, i, reason));
            }
        }
        Ok(())
    }

    fn verify_text(&self, file: &Examined<'_>) -> Result<(), CatalogError> {
        let keys = self.layout.keys.as_ref().map(|keys| (SectionKind::KeyText, &keys.texts));
        let titles = self.layout.titles.as_ref().map(|titles| (SectionKind::TitleText, titles));
        for (kind, ranges) in keys.into_iter().chain(titles) {
            for item in (0..self.items() as u32).map(ItemIndex) {
                let bytes = self.text_bytes(ranges, item);
                if let Err(error) = std::str::from_utf8(bytes) {
                    // Counted from the section's start, where a hex dump is looked at.
                    let at = bytes.as_ptr() as usize - self.bytes()[ranges.text.clone()].as_ptr() as usize;
                    let reason = format!("text of item {} is not UTF-8: {error}", item.0);
                    return Err(file.structure(Section::of(kind), at, reason));
                }
            }
        }
        Ok(())
    }
}
