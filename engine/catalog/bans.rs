//! From banned items to trie nodes that a search must not enter.
//!
//! Exact in both directions: a node is returned if and only if every allowed item below it is banned, and there is one. Cost grows with the bans, not
//! with the catalogue: only parents of nodes that lost everything are looked at, one search each.

use super::gallop::last_not_above;
use super::{Allowed, Catalog, ItemIndex};

impl Catalog {
    /// For each level, the sorted nodes below which every allowed item is banned; without `allowed`, every item is allowed.
    /// Nodes without any allowed item are the mask's to keep out, and are not returned. `banned` is sorted and deduplicated on
    /// the way.
    ///
    /// # Panics
    /// If an item is not of this catalogue.
    pub fn banned_nodes(&self, banned: &mut Vec<ItemIndex>, allowed: Option<&Allowed>) -> Vec<Vec<u32>> {
        let levels = self.levels();
        let mut by_level = vec![Vec::new(); levels];
        banned.sort_unstable();
        banned.dedup();
        let is_allowed = |item: &&ItemIndex| allowed.is_none_or(|allowed| allowed.contains(**item));
        let mut leaves: Vec<u32> = banned.iter().filter(is_allowed).map(|&item| self.leaf_of(item)).collect();
        leaves.sort_unstable();
        let mut rest = &leaves[..];
        while let Some(&leaf) = rest.first() {
            let count = rest.iter().take_while(|&&other| other == leaf).count();
            if count == self.items_of_leaf(leaf).iter().filter(is_allowed).count() {
                by_level[levels - 1].push(leaf);
            }
            rest = &rest[count..];
        }
        for level in (0..levels - 1).rev() {
            let children_of = |first: u32, end: u32| match allowed {
                Some(allowed) => allowed.nodes().count(level + 1, first..end),
                None => (end - first) as usize,
            };
            by_level[level] = emptied_parents(&by_level[level + 1], self.first_child(level), children_of);
        }
        by_level
    }
}

/// Parents all of whose allowed children, as many as `children_of` says are in a range, are among the sorted `children`.
fn emptied_parents(children: &[u32], first_child: &[u32], children_of: impl Fn(u32, u32) -> usize) -> Vec<u32> {
    let mut parents = Vec::new();
    let mut rest = children;
    // Children ascend, so each parent is at or after the last one.
    let mut from = 0;
    while let Some(&child) = rest.first() {
        let parent = from + last_not_above(&first_child[from..], child);
        let (first, end) = (first_child[parent], first_child[parent + 1]);
        let count = rest.iter().take_while(|&&other| other < end).count();
        if count == children_of(first, end) {
            parents.push(parent as u32);
        }
        rest = &rest[count..];
        from = parent + 1;
    }
    parents
}
