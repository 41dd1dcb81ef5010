//! From banned items to trie nodes that a search must not enter.
//!
//! Exact in both directions: a node is returned if and only if every item below it is banned. Cost grows with the bans, not
//! with the catalogue: only parents of nodes that lost everything are looked at, one search each.

use super::gallop::last_not_above;
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
        let mut rest = &leaves[..];
        while let Some(&leaf) = rest.first() {
            let count = rest.iter().take_while(|&&other| other == leaf).count();
            if count == self.items_of_leaf(leaf).len() {
                by_level[levels - 1].push(leaf);
            }
            rest = &rest[count..];
        }
        for level in (0..levels - 1).rev() {
            by_level[level] = emptied_parents(&by_level[level + 1], self.first_child(level));
        }
        by_level
    }
}

/// Parents all of whose children are among the sorted `children`.
fn emptied_parents(children: &[u32], first_child: &[u32]) -> Vec<u32> {
    let mut parents = Vec::new();
    let mut rest = children;
    // Children ascend, so each parent is at or after the last one.
    let mut from = 0;
    while let Some(&child) = rest.first() {
        let parent = from + last_not_above(&first_child[from..], child);
        let (first, end) = (first_child[parent], first_child[parent + 1]);
        let count = rest.iter().take_while(|&&other| other < end).count();
        if count == (end - first) as usize {
            parents.push(parent as u32);
        }
        rest = &rest[count..];
        from = parent + 1;
    }
    parents
}
