//! The items that may be recommended, and the trie nodes that lead to them.

use std::sync::Arc;

use super::{Catalog, ItemIndex, NodeMask, bits};

/// A set of items of one catalogue, with the mask that searches it. Cheap to clone; a change makes a new one.
#[derive(Clone, Debug)]
pub struct Allowed {
    items: Arc<Vec<u64>>, // a bit an item
    nodes: Arc<NodeMask>,
    count: usize,
}

impl Allowed {
    /// The items of a bitmap.
    ///
    /// # Panics
    /// If the bitmap is not one of this catalogue's items.
    pub(super) fn of_items(catalog: &Catalog, items: Vec<u64>) -> Allowed {
        assert_eq!(items.len(), bits::words(catalog.items()), "a bit an item");
        let leaves = bits::ones(&items).map(|item| catalog.leaf_of(ItemIndex(item as u32)));
        let nodes = Arc::new(NodeMask::of_leaves(catalog, leaves));
        let count = bits::count(&items, 0..catalog.items());
        Allowed { items: Arc::new(items), nodes, count }
    }

    /// Every item.
    pub(super) fn everything(catalog: &Catalog) -> Allowed {
        let items = Arc::new(bits::full(catalog.items()));
        Allowed { items, nodes: Arc::new(NodeMask::all(catalog)), count: catalog.items() }
    }

    /// The same set after some items have come or gone. Costs a copy of both bitmaps and a walk up the trie a change, or as
    /// much as building it anew where much changes.
    pub(super) fn with(&self, catalog: &Catalog, changes: &[(ItemIndex, bool)]) -> Allowed {
        let differs = |&&(item, allowed): &&(ItemIndex, bool)| self.contains(item) != allowed;
        if !changes.iter().any(|change| differs(&change)) {
            return self.clone();
        }
        let mut items = Vec::clone(&self.items);
        for &(item, allowed) in changes {
            bits::put(&mut items, item.0 as usize, allowed);
        }
        // A walk up the trie misses the cache at every level; building reads the trie once from end to end.
        if changes.len() > catalog.items() / 64 {
            return Allowed::of_items(catalog, items);
        }
        let mut nodes = NodeMask::clone(&self.nodes);
        for (item, _) in changes {
            let leaf = catalog.leaf_of(*item);
            let allowed = catalog.items_of_leaf(leaf).iter().any(|item| bits::get(&items, item.0 as usize));
            nodes.set_leaf(catalog, leaf, allowed);
        }
        let count = bits::count(&items, 0..catalog.items());
        Allowed { items: Arc::new(items), nodes: Arc::new(nodes), count }
    }

    /// Whether the item is one of them.
    pub fn contains(&self, item: ItemIndex) -> bool {
        bits::get(&self.items, item.0 as usize)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The nodes that lead to them.
    pub fn nodes(&self) -> &Arc<NodeMask> {
        &self.nodes
    }
}
