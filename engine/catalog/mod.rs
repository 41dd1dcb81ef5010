//! Items and semantic IDs: the builder, the mapped trie, and lookups both ways.

/// A catalogue, mapped read-only.
///
/// The trie's nodes are numbered breadth-first per level: node ids at level `l` are `0 .. nodes(l)`, sorted by prefix, so
/// the children of a node are the contiguous range `first_child(l)[node] .. first_child(l)[node + 1]` of level `l + 1`, and
/// a child's position *is* its node id. The children of the root are all nodes of level 0. Nodes of the last level are
/// leaves; several items may share one.
#[derive(Debug)]
pub struct Catalog {}

impl Catalog {
    /// Levels of every semantic ID (2 to 8).
    pub fn levels(&self) -> usize {
        0
    }

    /// Nodes at `level`.
    pub fn nodes(&self, level: usize) -> usize {
        self.level_codes(level).len()
    }

    /// Code of each node of `level`: `[nodes(level)]`.
    pub fn level_codes(&self, _level: usize) -> &[u16] {
        &[]
    }

    /// `[nodes(level) + 1]`: first child of each node of `level` (not the last level), then the end.
    pub fn first_child(&self, _level: usize) -> &[u32] {
        &[]
    }
}
