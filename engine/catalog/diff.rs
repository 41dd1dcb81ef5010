//! What changed between two catalogues: items, their semantic IDs, weights, texts, and how much of the tries they share.
//!
//! Both are sorted, items by id and the nodes of a level by prefix, so that every comparison is a merge. The memory is four
//! bytes for each node of one level, node above it, and item of the first catalogue; examples are capped. Which of two
//! different catalogues is right is not this module's business.

use std::path::PathBuf;

use serde::Serialize;

use super::{Catalog, ItemIndex};

/// No counterpart in the other catalogue.
const NONE: u32 = u32::MAX;

/// How two catalogues, the first and the second, differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CatalogDiff {
    /// Whether they say the same; their versions may have different names.
    pub same: bool,
    /// The first.
    pub a: DiffSide,
    /// The second.
    pub b: DiffSide,
    /// Changes of items.
    pub items: ItemChanges,
    /// Changes of semantic IDs.
    pub sids: SidChanges,
    /// Prefixes in common at every level that both have.
    pub prefixes: Vec<PrefixOverlap>,
    /// The first changes of each kind, by ascending id or semantic ID.
    pub examples: DiffExamples,
}

/// One of the two catalogues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiffSide {
    /// The file.
    pub path: PathBuf,
    /// Its version's name.
    pub version: String,
    /// Codes of each level.
    pub codes: Vec<u32>,
    /// Items.
    pub items: u64,
    /// Distinct semantic IDs.
    pub semantic_ids: u64,
}

/// Counts of items.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ItemChanges {
    /// In both.
    pub shared: u64,
    /// In the second only.
    pub added: u64,
    /// In the first only.
    pub removed: u64,
    /// In both, under different semantic IDs.
    pub moved: u64,
    /// In both, with different weights.
    pub weight_changed: u64,
    /// In both, with different keys.
    pub key_changed: u64,
    /// In both, with different titles.
    pub title_changed: u64,
}

/// Counts of semantic IDs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SidChanges {
    /// In both.
    pub shared: u64,
    /// In the second only.
    pub added: u64,
    /// In the first only.
    pub removed: u64,
    /// In both, but the items that both have under it stand in another order.
    pub reordered: u64,
}

/// Prefixes that end at one level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PrefixOverlap {
    /// In the first.
    pub a: u64,
    /// In the second.
    pub b: u64,
    /// In both.
    pub shared: u64,
}

/// An item under another semantic ID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MovedItem {
    /// Its id.
    pub item: u64,
    /// Its semantic ID in the first catalogue.
    pub from: Vec<u16>,
    /// Its semantic ID in the second.
    pub to: Vec<u16>,
}

/// The first few changes of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiffExamples {
    /// Items in the second only.
    pub added: Vec<u64>,
    /// Items in the first only.
    pub removed: Vec<u64>,
    /// Items under another semantic ID.
    pub moved: Vec<MovedItem>,
    /// Items with another weight.
    pub weight_changed: Vec<u64>,
    /// Semantic IDs whose items stand in another order.
    pub reordered: Vec<Vec<u16>>,
}

/// Compares two catalogues; at most `examples` of each kind of change are told.
pub fn diff(a: &Catalog, b: &Catalog, examples: usize) -> CatalogDiff {
    let (prefixes, leaves) = match_prefixes(a, b);
    let comparison = Comparison { a, b, leaves, examples };
    let mut told = DiffExamples::default();
    let (items, counterparts) = comparison.items(&mut told);
    let mut sids = comparison.sids();
    sids.reordered = comparison.reordered(&counterparts, &mut told);
    let (a, b) = (DiffSide::of(a), DiffSide::of(b));
    let alike = ItemChanges { shared: a.items, ..ItemChanges::default() };
    let same = a.codes == b.codes && items == alike && sids.added + sids.removed + sids.reordered == 0;
    CatalogDiff { same, a, b, items, sids, prefixes, examples: told }
}

impl DiffSide {
    fn of(catalog: &Catalog) -> DiffSide {
        DiffSide {
            path: catalog.path().to_owned(),
            version: catalog.version().to_owned(),
            codes: (0..catalog.levels()).map(|level| catalog.codes(level)).collect(),
            items: catalog.items() as u64,
            semantic_ids: catalog.leaves() as u64,
        }
    }
}

/// The overlap of every common level, and of each leaf of `a` the leaf of `b` with the same semantic ID, or [`NONE`].
fn match_prefixes(a: &Catalog, b: &Catalog) -> (Vec<PrefixOverlap>, Vec<u32>) {
    let mut overlaps = Vec::new();
    // Above level 0 there is one root in each.
    let mut above = vec![0];
    for level in 0..a.levels().min(b.levels()) {
        let mut here = vec![NONE; a.nodes(level)];
        for (parent, &other) in above.iter().enumerate().filter(|&(_, &other)| other != NONE) {
            match_siblings(a, b, Siblings { level, parent: parent as u32, other }, &mut here);
        }
        let shared = here.iter().filter(|&&other| other != NONE).count() as u64;
        overlaps.push(PrefixOverlap { a: a.nodes(level) as u64, b: b.nodes(level) as u64, shared });
        above = here;
    }
    // Semantic IDs of different lengths are never the same.
    let leaves = if a.levels() == b.levels() { above } else { vec![NONE; a.leaves()] };
    (overlaps, leaves)
}

/// Children at `level` of two nodes with the same prefix.
struct Siblings {
    level: usize,
    parent: u32,
    other: u32,
}

/// Pairs the children with equal codes, which ascend on both sides.
fn match_siblings(a: &Catalog, b: &Catalog, siblings: Siblings, pairs: &mut [u32]) {
    let children = |catalog: &Catalog, node| match siblings.level.checked_sub(1) {
        None => 0..catalog.nodes(0) as u32,
        Some(above) => catalog.children(above, node),
    };
    let (a_codes, b_codes) = (a.level_codes(siblings.level), b.level_codes(siblings.level));
    let mut rest = children(b, siblings.other);
    for child in children(a, siblings.parent) {
        let code = a_codes[child as usize];
        while rest.start < rest.end && b_codes[rest.start as usize] < code {
            rest.start += 1;
        }
        if rest.start < rest.end && b_codes[rest.start as usize] == code {
            pairs[child as usize] = rest.start;
            rest.start += 1;
        }
    }
}

struct Comparison<'a> {
    a: &'a Catalog,
    b: &'a Catalog,
    /// `[leaves of a]`: the leaf of `b`, or [`NONE`].
    leaves: Vec<u32>,
    examples: usize,
}

impl Comparison<'_> {
    /// Counts, and `[items of a]`: the item of `b`, or [`NONE`].
    fn items(&self, told: &mut DiffExamples) -> (ItemChanges, Vec<u32>) {
        let (a_ids, b_ids) = (self.a.ids(), self.b.ids());
        let mut changes = ItemChanges::default();
        let mut counterparts = vec![NONE; a_ids.len()];
        let (mut left, mut right) = (0, 0);
        while left < a_ids.len() || right < b_ids.len() {
            let order = match (a_ids.get(left), b_ids.get(right)) {
                (Some(a), Some(b)) => a.cmp(b),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, _) => std::cmp::Ordering::Greater,
            };
            if order.is_lt() {
                changes.removed += 1;
                self.tell(&mut told.removed, || a_ids[left]);
            } else if order.is_gt() {
                changes.added += 1;
                self.tell(&mut told.added, || b_ids[right]);
            } else {
                counterparts[left] = right as u32;
                self.shared_item(ItemIndex(left as u32), ItemIndex(right as u32), &mut changes, told);
            }
            left += usize::from(order.is_le());
            right += usize::from(order.is_ge());
        }
        (changes, counterparts)
    }

    fn shared_item(&self, left: ItemIndex, right: ItemIndex, changes: &mut ItemChanges, told: &mut DiffExamples) {
        let (a, b) = (self.a, self.b);
        changes.shared += 1;
        let (from, to) = (a.leaf_of(left), b.leaf_of(right));
        if self.leaves[from as usize] != to {
            changes.moved += 1;
            self.tell(&mut told.moved, || MovedItem { item: a.id(left), from: sid(a, from), to: sid(b, to) });
        }
        if a.weight(left) != b.weight(right) {
            changes.weight_changed += 1;
            self.tell(&mut told.weight_changed, || a.id(left));
        }
        changes.key_changed += u64::from(a.key(left) != b.key(right));
        changes.title_changed += u64::from(a.title(left) != b.title(right));
    }

    fn sids(&self) -> SidChanges {
        let shared = self.leaves.iter().filter(|&&leaf| leaf != NONE).count() as u64;
        let [a, b] = [self.a, self.b].map(|catalog| catalog.leaves() as u64);
        SidChanges { shared, added: b - shared, removed: a - shared, reordered: 0 }
    }

    /// Semantic IDs of both whose common items stand in another order.
    fn reordered(&self, counterparts: &[u32], told: &mut DiffExamples) -> u64 {
        let mut reordered = 0;
        let (mut here, mut there) = (Vec::new(), Vec::new());
        for (leaf, items) in self.a.each_leaf().filter(|(_, items)| items.len() > 1) {
            let other = self.leaves[leaf as usize];
            if other == NONE {
                continue;
            }
            // Who stays is in both lists; who moved, came or went is counted as that.
            let stays = |&item: &u32| item != NONE && self.b.leaf_of(ItemIndex(item)) == other;
            here.clear();
            here.extend(items.iter().map(|item| counterparts[item.0 as usize]).filter(stays));
            if here.len() < 2 {
                continue;
            }
            there.clone_from(&here);
            there.sort_unstable();
            let second = self.b.items_of_leaf(other).iter().map(|item| item.0);
            if second.filter(|item| there.binary_search(item).is_ok()).ne(here.iter().copied()) {
                reordered += 1;
                self.tell(&mut told.reordered, || sid(self.a, leaf));
            }
        }
        reordered
    }

    fn tell<T>(&self, told: &mut Vec<T>, example: impl FnOnce() -> T) {
        if told.len() < self.examples {
            told.push(example());
        }
    }
}

fn sid(catalog: &Catalog, leaf: u32) -> Vec<u16> {
    let mut sid = vec![0; catalog.levels()];
    catalog.sid_of_leaf(leaf, &mut sid);
    sid
}
