//! Items and semantic IDs: the builder, the mapped trie, and lookups both ways.
//!
//! A [`Catalog`] is read in place, from a mapped file or from memory; its readers cannot tell which. Opening one checks
//! everything that a later access relies on, so lookups neither fail nor panic on account of the file. A catalogue never
//! changes: a new one replaces it whole.
//!
//! Absent here: which items are live, views and delisting (they change while a catalogue does not), and tokens (a manifest
//! maps codes to those).

mod arrange;
mod bans;
pub(crate) mod bits;
mod builder;
mod diff;
mod error;
mod format;
mod gallop;
mod info;
mod items;
mod layout;
mod mask;
mod source;
mod starts;
mod structure;
mod text;
mod verify;

use std::ops::Range;
use std::path::{Path, PathBuf};

use sidereal_ffi::MappedFile;

pub use builder::{CatalogBuilder, NewItem};
pub use diff::{CatalogDiff, DiffExamples, DiffSide, ItemChanges, MovedItem, PrefixOverlap, SidChanges, diff};
pub use error::{CatalogError, Place, Unit};
pub use format::{MAX_VERSION_BYTES, Section, SectionKind};
pub use info::{CatalogInfo, HeaviestLeaf, LevelInfo, SectionInfo, info};
use layout::Layout;
pub use mask::NodeMask;
pub use source::{Progress, SourceFormat, SourceOptions, read_source};
pub use verify::{Report, verify};

/// Fewest levels of a semantic ID.
pub const MIN_LEVELS: usize = 2;
/// Most levels of a semantic ID.
pub const MAX_LEVELS: usize = 8;
/// Most codes of a level.
pub const MAX_CODES: u32 = 1 << 16;
/// Most items of a catalogue: slots and their end fit 32 bits.
pub const MAX_ITEMS: u64 = u32::MAX as u64 - 1;

/// An item's position in a catalogue: items are numbered by ascending id. Means nothing to another catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct ItemIndex(pub u32);

/// A catalogue, mapped read-only.
///
/// The trie's nodes are numbered breadth-first per level: node ids at level `l` are `0 .. nodes(l)`, sorted by prefix, so
/// the children of a node are the contiguous range `first_child(l)[node] .. first_child(l)[node + 1]` of level `l + 1`, and
/// a child's position *is* its node id. The children of the root are all nodes of level 0. Nodes of the last level are
/// leaves; several items may share one.
///
/// Methods that take a level, node, leaf or [`ItemIndex`] panic when it is not one of this catalogue: such a number is a bug
/// of the caller, never of the file.
pub struct Catalog {
    owner: Owner,
    layout: Layout,
}

/// Who keeps the bytes.
enum Owner {
    Mapped(MappedFile),
    Memory { words: Box<[u64]>, bytes: usize, name: PathBuf },
}

impl Owner {
    fn bytes(&self) -> &[u8] {
        match self {
            Owner::Mapped(file) => file,
            Owner::Memory { words, bytes, .. } => &bytemuck::cast_slice(words)[..*bytes],
        }
    }
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog")
            .field("version", &self.version())
            .field("items", &self.items())
            .field("nodes", &self.layout.nodes)
            .finish_non_exhaustive()
    }
}

impl Catalog {
    /// Maps the file and checks its structure and the checksums of all sections but text.
    pub fn open(path: &Path) -> Result<Catalog, CatalogError> {
        let owner = Owner::Mapped(MappedFile::open(path)?);
        let layout = Layout::check(path, owner.bytes())?;
        Ok(Catalog { owner, layout })
    }

    /// A catalogue from a file's bytes in memory, for tests and tools; checked like a mapped one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Catalog, CatalogError> {
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Catalog::from_words(Path::new("catalogue in memory"), words, bytes.len())
    }

    fn from_words(name: &Path, words: Vec<u64>, bytes: usize) -> Result<Catalog, CatalogError> {
        let owner = Owner::Memory { words: words.into(), bytes, name: name.to_owned() };
        let layout = Layout::check(name, owner.bytes())?;
        Ok(Catalog { owner, layout })
    }

    /// The file this maps, or a name for what is in memory.
    pub fn path(&self) -> &Path {
        match &self.owner {
            Owner::Mapped(file) => file.path(),
            Owner::Memory { name, .. } => name,
        }
    }

    /// The file's bytes, for copying a catalogue whole.
    pub fn bytes(&self) -> &[u8] {
        self.owner.bytes()
    }

    /// Elements of a section. The layout was checked against these very bytes, so the cast holds.
    fn slice<T: bytemuck::Pod>(&self, range: &Range<usize>) -> &[T] {
        bytemuck::cast_slice(&self.owner.bytes()[range.clone()])
    }

    // -- The whole ----------------------------------------------------------------------------------------------------

    /// The name of this version of the catalogue.
    pub fn version(&self) -> &str {
        &self.layout.version
    }

    /// Levels of every semantic ID (2 to 8).
    pub fn levels(&self) -> usize {
        self.layout.codes.len()
    }

    /// Codes of `level`: every code is below this.
    pub fn codes(&self, level: usize) -> u32 {
        self.layout.codes[level]
    }

    /// Items.
    pub fn items(&self) -> usize {
        self.layout.items
    }

    /// Distinct semantic IDs.
    pub fn leaves(&self) -> usize {
        self.layout.nodes[self.levels() - 1]
    }

    /// True when items have weights (otherwise all are 0).
    pub fn has_weights(&self) -> bool {
        self.layout.item_weights.is_some()
    }

    /// True when at least one item has a string key.
    pub fn has_keys(&self) -> bool {
        self.layout.keys.is_some()
    }

    /// True when at least one item has a title.
    pub fn has_titles(&self) -> bool {
        self.layout.titles.is_some()
    }

    // -- The trie -------------------------------------------------------------------------------------------------------

    /// Nodes at `level`.
    pub fn nodes(&self, level: usize) -> usize {
        self.layout.nodes[level]
    }

    /// Code of each node of `level`: `[nodes(level)]`.
    pub fn level_codes(&self, level: usize) -> &[u16] {
        self.slice(&self.layout.node_codes[level])
    }

    /// `[nodes(level) + 1]`: first child of each node of `level` (not the last level), then the end. Empty at the last level.
    pub fn first_child(&self, level: usize) -> &[u32] {
        self.layout.first_child.get(level).map_or(&[], |range| self.slice(range))
    }

    /// Children of a node: nodes of level `level + 1`. Empty at the last level.
    pub fn children(&self, level: usize, node: u32) -> Range<u32> {
        let first = self.first_child(level);
        if first.is_empty() { 0..0 } else { first[node as usize]..first[node as usize + 1] }
    }

    /// The node of level `level - 1` above a node; `None` at level 0, whose parent is the root.
    pub fn parent(&self, level: usize, node: u32) -> Option<u32> {
        let above = level.checked_sub(1)?;
        assert!((node as usize) < self.nodes(level), "node {node} of {}", self.nodes(level));
        Some(gallop::last_not_above(self.first_child(above), node) as u32)
    }

    /// Leaves below a node.
    pub fn leaf_range(&self, level: usize, node: u32) -> Range<u32> {
        assert!((node as usize) < self.nodes(level), "node {node} of {}", self.nodes(level));
        let (mut start, mut end) = (node, node + 1);
        for level in level..self.levels() - 1 {
            let first = self.first_child(level);
            (start, end) = (first[start as usize], first[end as usize]);
        }
        start..end
    }

    /// The node of every level on the way to `leaf`, which itself is the last. `nodes` has one place a level.
    pub fn ancestors(&self, leaf: u32, nodes: &mut [u32]) {
        let levels = self.levels();
        assert_eq!(nodes.len(), levels, "one place a level");
        nodes[levels - 1] = leaf;
        for level in (1..levels).rev() {
            nodes[level - 1] = self.parent(level, nodes[level]).unwrap_or_default();
        }
    }

    /// Semantic ID of a leaf. `sid` has one place a level.
    pub fn sid_of_leaf(&self, leaf: u32, sid: &mut [u16]) {
        assert_eq!(sid.len(), self.levels(), "one place a level");
        let mut node = leaf;
        for level in (0..self.levels()).rev() {
            sid[level] = self.level_codes(level)[node as usize];
            node = self.parent(level, node).unwrap_or_default();
        }
    }

    /// The leaf of a semantic ID, if it is in the catalogue.
    pub fn leaf_of_sid(&self, sid: &[u16]) -> Option<u32> {
        if sid.len() != self.levels() {
            return None;
        }
        self.node_of_prefix(sid)
    }

    /// The node that a non-empty prefix of a semantic ID leads to (at level `prefix.len() - 1`), if there is one.
    pub fn node_of_prefix(&self, prefix: &[u16]) -> Option<u32> {
        if prefix.is_empty() || prefix.len() > self.levels() {
            return None;
        }
        let mut range = 0..self.nodes(0) as u32;
        let mut node = 0;
        for (level, code) in prefix.iter().enumerate() {
            let siblings = &self.level_codes(level)[range.start as usize..range.end as usize];
            node = range.start + siblings.binary_search(code).ok()? as u32;
            range = self.children(level, node);
        }
        Some(node)
    }
}
