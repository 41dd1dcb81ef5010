//! Which nodes of a trie lead to an allowed item: what a device looks at before it expands a child.
//!
//! A bit a node, set when at least one leaf below it is allowed. Exact at every level, so a search never enters a prefix
//! that holds nothing for it. Costs an eighth of a byte a node (2.4 MB for ten million semantic IDs of 3 x 8192 codes).

use std::ops::Range;

use super::{Catalog, bits};

/// A bit a node of a catalogue's trie.
///
/// Levels lie one behind the other, each from a new word on. Read as little-endian `u32`s, words keep the order of their
/// bits, so that a device may take them for either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeMask {
    words: Vec<u64>,
    starts: Vec<usize>, // [levels + 1] first word of each level
}

impl NodeMask {
    /// First word of each level of a catalogue's masks, then the number of words.
    pub fn layout(catalog: &Catalog) -> Vec<usize> {
        let mut end = 0;
        let mut starts = vec![0];
        for level in 0..catalog.levels() {
            end += bits::words(catalog.nodes(level));
            starts.push(end);
        }
        starts
    }

    /// The mask that allows nothing.
    pub fn none(catalog: &Catalog) -> NodeMask {
        let starts = NodeMask::layout(catalog);
        NodeMask { words: vec![0; starts[catalog.levels()]], starts }
    }

    /// The mask that allows the given leaves.
    pub fn of_leaves(catalog: &Catalog, leaves: impl IntoIterator<Item = u32>) -> NodeMask {
        let mut mask = NodeMask::none(catalog);
        let last = catalog.levels() - 1;
        let (above, level) = mask.words.split_at_mut(mask.starts[last]);
        leaves.into_iter().for_each(|leaf| bits::put(level, leaf as usize, true));
        let mut below: &[u64] = level;
        let mut rest = above;
        for level in (0..last).rev() {
            let (above, here) = rest.split_at_mut(mask.starts[level]);
            let first = catalog.first_child(level);
            for (node, children) in first.windows(2).enumerate() {
                if bits::any(below, children[0] as usize..children[1] as usize) {
                    bits::put(here, node, true);
                }
            }
            (below, rest) = (here, above);
        }
        mask
    }

    /// Allows a leaf or not, and every node above it that this changes.
    pub fn set_leaf(&mut self, catalog: &Catalog, leaf: u32, allowed: bool) {
        let mut node = leaf;
        for level in (0..catalog.levels()).rev() {
            let value = match allowed || level == catalog.levels() - 1 {
                true => allowed,
                false => {
                    let children = catalog.children(level, node);
                    bits::any(self.level(level + 1), children.start as usize..children.end as usize)
                }
            };
            if self.contains(level, node) == value {
                return;
            }
            let place = self.starts[level]..self.starts[level + 1];
            bits::put(&mut self.words[place], node as usize, value);
            node = catalog.parent(level, node).unwrap_or_default();
        }
    }

    /// A level's words.
    pub fn level(&self, level: usize) -> &[u64] {
        &self.words[self.starts[level]..self.starts[level + 1]]
    }

    /// All words, level by level.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Whether the node leads to an allowed leaf.
    pub fn contains(&self, level: usize, node: u32) -> bool {
        bits::get(self.level(level), node as usize)
    }

    /// Nodes of the range that lead to an allowed leaf.
    pub fn count(&self, level: usize, nodes: Range<u32>) -> usize {
        bits::count(self.level(level), nodes.start as usize..nodes.end as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::{CatalogBuilder, NewItem};

    fn catalog(sids: &std::collections::BTreeSet<[u16; 3]>) -> Catalog {
        let mut builder = CatalogBuilder::new(&[4, 9, 80]).unwrap();
        for (id, sid) in (0..).zip(sids) {
            builder.add(NewItem { id, sid, ..NewItem::default() }).unwrap();
        }
        builder.finish().unwrap()
    }

    proptest! {
        /// A node is allowed if and only if a leaf below it is, whether the mask was built at once or changed leaf by leaf.
        #[test]
        fn nodes_follow_their_leaves(
            sids in proptest::collection::btree_set([0u16..4, 0u16..9, 0u16..80], 1..150),
            first in proptest::collection::vec(any::<bool>(), 150),
            then in proptest::collection::vec(any::<bool>(), 150),
        ) {
            let catalog = catalog(&sids);
            let leaves = catalog.leaves() as u32;
            let of = |allowed: &[bool]| NodeMask::of_leaves(&catalog, (0..leaves).filter(|&leaf| allowed[leaf as usize]));
            let mut mask = of(&first);
            for leaf in 0..leaves {
                mask.set_leaf(&catalog, leaf, then[leaf as usize]);
            }
            prop_assert_eq!(&mask, &of(&then));
            for level in 0..catalog.levels() {
                for node in 0..catalog.nodes(level) as u32 {
                    let expected = catalog.leaf_range(level, node).any(|leaf| then[leaf as usize]);
                    prop_assert_eq!(mask.contains(level, node), expected);
                }
                let all = 0..catalog.nodes(level) as u32;
                prop_assert_eq!(mask.count(level, all.clone()), all.filter(|&node| mask.contains(level, node)).count());
            }
        }
    }
}
