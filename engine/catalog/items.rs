//! Items of a catalogue: ids, keys, titles, and the way between them and leaves.

use super::layout::TextRanges;
use super::starts::LeafStarts;
use super::{Catalog, ItemIndex};

impl Catalog {
    fn starts(&self) -> LeafStarts<'_> {
        LeafStarts {
            words: self.slice(&self.layout.leaf_starts),
            counts: self.slice(&self.layout.leaf_counts),
            items: self.layout.items,
        }
    }

    /// Items that share a semantic ID, by weight descending, then by id. Never empty.
    pub fn items_of_leaf(&self, leaf: u32) -> &[ItemIndex] {
        assert!((leaf as usize) < self.leaves(), "leaf {leaf} of {}", self.leaves());
        let starts = self.starts();
        let first = starts.first_slot(leaf);
        &self.slice(&self.layout.leaf_items)[first..starts.next_start(first + 1)]
    }

    /// Every leaf with its items, in leaf order; cheaper than asking leaf by leaf.
    pub fn each_leaf(&self) -> impl Iterator<Item = (u32, &[ItemIndex])> {
        let starts = self.starts();
        let items: &[ItemIndex] = self.slice(&self.layout.leaf_items);
        let mut first = 0;
        (0..self.leaves() as u32).map(move |leaf| {
            let end = starts.next_start(first + 1);
            let here = &items[first..end];
            first = end;
            (leaf, here)
        })
    }

    /// The item with this id.
    pub fn item(&self, id: u64) -> Option<ItemIndex> {
        self.slice::<u64>(&self.layout.item_ids).binary_search(&id).ok().map(|index| ItemIndex(index as u32))
    }

    /// The item with this string key.
    pub fn item_by_key(&self, key: &str) -> Option<ItemIndex> {
        let keys = self.layout.keys.as_ref()?;
        let order = self.key_order();
        let found = order.binary_search_by(|&item| self.text_bytes(&keys.texts, item).cmp(key.as_bytes()));
        found.ok().map(|at| order[at])
    }

    /// Leaf of an item.
    pub fn leaf_of(&self, item: ItemIndex) -> u32 {
        self.slice::<u32>(&self.layout.item_leaves)[item.0 as usize]
    }

    /// Id of an item.
    pub fn id(&self, item: ItemIndex) -> u64 {
        self.ids()[item.0 as usize]
    }

    /// Every item's id, ascending: `[items()]`, by [`ItemIndex`].
    pub fn ids(&self) -> &[u64] {
        self.slice(&self.layout.item_ids)
    }

    /// Weight of an item, 0 where the catalogue has none.
    pub fn weight(&self, item: ItemIndex) -> f32 {
        match &self.layout.item_weights {
            Some(range) => self.slice::<f32>(range)[item.0 as usize],
            None => 0.0,
        }
    }

    /// String key of an item. Text that is not UTF-8 (a damaged file: [`Catalog::verify`] says where) reads as absent.
    pub fn key(&self, item: ItemIndex) -> Option<&str> {
        self.text(&self.layout.keys.as_ref()?.texts, item)
    }

    /// Title of an item. Text that is not UTF-8 (a damaged file: [`Catalog::verify`] says where) reads as absent.
    pub fn title(&self, item: ItemIndex) -> Option<&str> {
        self.text(self.layout.titles.as_ref()?, item)
    }

    /// Items that have a key, in the order of their keys' bytes.
    pub(super) fn key_order(&self) -> &[ItemIndex] {
        self.layout.keys.as_ref().map_or(&[], |keys| self.slice(&keys.order))
    }

    fn text(&self, ranges: &TextRanges, item: ItemIndex) -> Option<&str> {
        std::str::from_utf8(self.text_bytes(ranges, item)).ok().filter(|text| !text.is_empty())
    }

    pub(super) fn text_bytes(&self, ranges: &TextRanges, item: ItemIndex) -> &[u8] {
        let offsets: &[u32] = self.slice(&ranges.offsets);
        let item = item.0 as usize;
        &self.owner.bytes()[ranges.text.clone()][offsets[item] as usize..offsets[item + 1] as usize]
    }
}
