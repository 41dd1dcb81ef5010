//! What `catalog info` tells: the shape of the trie, how items crowd its leaves, and where the bytes go.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::format::{FORMAT_VERSION, SectionKind};
use super::{Catalog, CatalogError, ItemIndex};

/// A catalogue in figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CatalogInfo {
    /// The file.
    pub path: PathBuf,
    /// The catalogue's version.
    pub version: String,
    /// Version of the file format.
    pub format_version: u32,
    /// Size of the file.
    pub file_bytes: u64,
    /// Size of node codes and first children, all levels.
    pub trie_bytes: u64,
    /// Size of keys and titles with their offsets and order.
    pub text_bytes: u64,
    /// File bytes without text, by items.
    pub bytes_per_item: f64,
    /// Items.
    pub items: u64,
    /// Distinct semantic IDs.
    pub leaves: u64,
    /// Items beyond the first of each semantic ID.
    pub collisions: u64,
    /// Items that share their semantic ID with another.
    pub items_sharing: u64,
    /// The semantic ID with the most items; the first of several.
    pub heaviest_leaf: HeaviestLeaf,
    /// Items with a key.
    pub keys: u64,
    /// Items with a title.
    pub titles: u64,
    /// Whether items have weights.
    pub weights: bool,
    /// Per level.
    pub levels: Vec<LevelInfo>,
    /// In file order.
    pub sections: Vec<SectionInfo>,
}

/// One level of the trie.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LevelInfo {
    /// Codes that the level may use.
    pub codes: u32,
    /// Nodes: distinct prefixes that end here.
    pub nodes: u64,
    /// Mean children of the nodes above (of the root for level 0).
    pub fan_out_mean: f64,
    /// Most children of a node above.
    pub fan_out_max: u64,
}

/// The leaf with the most items.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeaviestLeaf {
    /// Node id at the last level.
    pub leaf: u32,
    /// Its semantic ID.
    pub sid: Vec<u16>,
    /// How many items share it.
    pub items: u64,
}

/// One section of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SectionInfo {
    /// Name in docs/catalog-format.md.
    pub name: String,
    /// First byte.
    pub offset: u64,
    /// Size.
    pub bytes: u64,
}

/// Opens a catalogue file and describes it.
pub fn info(path: &Path) -> Result<CatalogInfo, CatalogError> {
    Ok(Catalog::open(path)?.info())
}

impl Catalog {
    /// Describes this catalogue.
    pub fn info(&self) -> CatalogInfo {
        let (items, leaves) = (self.items() as u64, self.leaves() as u64);
        let mut heaviest = (0, 0);
        let mut items_sharing = 0;
        for (leaf, members) in self.each_leaf() {
            let here = members.len() as u64;
            if here > heaviest.1 {
                heaviest = (leaf, here);
            }
            if here > 1 {
                items_sharing += here;
            }
        }
        let mut sid = vec![0; self.levels()];
        self.sid_of_leaf(heaviest.0, &mut sid);
        let bytes_of = |wanted: fn(SectionKind) -> bool| -> u64 {
            let sections = self.layout.sections.iter().filter(|(section, ..)| wanted(section.kind));
            sections.map(|(_, range, _)| range.len() as u64).sum()
        };
        let text_bytes = bytes_of(|kind| kind >= SectionKind::KeyOffsets);
        let file_bytes = self.bytes().len() as u64;
        let with_text = |text: fn(&Catalog, ItemIndex) -> Option<&str>| {
            (0..self.items() as u32).filter(|&item| text(self, ItemIndex(item)).is_some()).count() as u64
        };
        CatalogInfo {
            path: self.path().to_owned(),
            version: self.version().to_owned(),
            format_version: FORMAT_VERSION,
            file_bytes,
            trie_bytes: bytes_of(SectionKind::by_level),
            text_bytes,
            bytes_per_item: (file_bytes - text_bytes) as f64 / items as f64,
            items,
            leaves,
            collisions: items - leaves,
            items_sharing,
            heaviest_leaf: HeaviestLeaf { leaf: heaviest.0, sid, items: heaviest.1 },
            keys: self.key_order().len() as u64,
            titles: if self.has_titles() { with_text(Catalog::title) } else { 0 },
            weights: self.has_weights(),
            levels: (0..self.levels()).map(|level| self.level_info(level)).collect(),
            sections: self
                .layout
                .sections
                .iter()
                .map(|(section, range, _)| SectionInfo {
                    name: section.to_string(),
                    offset: range.start as u64,
                    bytes: range.len() as u64,
                })
                .collect(),
        }
    }

    fn level_info(&self, level: usize) -> LevelInfo {
        let nodes = self.nodes(level) as u64;
        let (parents, fan_out_max) = match level.checked_sub(1) {
            None => (1, nodes),
            Some(above) => {
                let widths = self.first_child(above).windows(2).map(|pair| u64::from(pair[1] - pair[0]));
                (self.nodes(above) as u64, widths.max().unwrap_or(0))
            }
        };
        LevelInfo { codes: self.codes(level), nodes, fan_out_mean: nodes as f64 / parents as f64, fan_out_max }
    }
}
