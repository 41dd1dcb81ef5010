//! From banned items to trie nodes that a search must not enter.
//!
//! Exact in both directions: a node is returned if and only if every item below it is banned. Cost grows with the bans, not
//! with the catalogue: only ancestors of leaves that lost all their items are looked at.

use super::{Catalog, ItemIndex};

impl Catalog {
    /// For each level, the sorted nodes below which every item is banned. `banned` is sorted and deduplicated on the way.
    ///
    /// # Panics
    /// If an item is not of this catalogue.
    pub fn banned_nodes(&self, banned: &mut Vec<ItemIndex>) -> Vec<Vec<u32>> {
        let levels = self.levels();
        let mut by_level = vec![Vec::new(); levels];
        banned.sort_unstable();
        banned.dedup();
        let mut leaves: Vec<u32> = banned.iter().map(|&item| self.leaf_of(item)).collect();
        leaves.sort_unstable();
        by_level[levels - 1] = emptied(&leaves, |leaf| leaf, |leaf| self.items_of_leaf(leaf).len());
        for level in (0..levels - 1).rev() {
            by_level[level] = emptied(
                &by_level[level + 1],
                |child| self.parent(level + 1, child).unwrap_or_default(),
                |node| self.children(level, node).len(),
            );
        }
        by_level
    }
}

/// Groups sorted `members` by `group` (which keeps their order) and returns the groups that have all their `size` members.
fn emptied(members: &[u32], group: impl Fn(u32) -> u32, size: impl Fn(u32) -> usize) -> Vec<u32> {
    let mut full = Vec::new();
    let mut rest = members;
    while let Some(&first) = rest.first() {
        let id = group(first);
        let count = rest.iter().take_while(|&&member| group(member) == id).count();
        if count == size(id) {
            full.push(id);
        }
        rest = &rest[count..];
    }
    full
}
