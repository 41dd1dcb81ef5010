//! From rows in any order to the arrays of a catalogue file.
//!
//! Items are numbered by ascending id. Their semantic IDs are packed into one integer each, so that sorting by
//! (semantic ID, weight descending, item) is a sort of plain tuples; one pass over the sorted rows then emits all levels of
//! the trie. Keys and titles follow the items' order.

use super::builder::CatalogBuilder;
use super::error::Place;
use super::format::{Content, Plan, Section, SectionKind};
use super::starts::{running_counts, words_for};
use super::text::TextColumn;
use super::{CatalogError, MAX_ITEMS};

/// Every array of a catalogue file.
pub(super) struct Arranged {
    version: Option<String>,
    /// `[levels]`
    codes: Vec<u32>,
    trie: Trie,
    /// `[items]`
    ids: Vec<u64>,
    /// `[items]`, or empty.
    weights: Vec<f32>,
    keys: Option<Keys>,
    titles: Option<Texts>,
}

/// The trie and what hangs on its leaves.
struct Trie {
    /// Per level: `[nodes]`
    node_codes: Vec<Vec<u16>>,
    /// Per level but the last: `[nodes + 1]`
    first_child: Vec<Vec<u32>>,
    /// `[items / 64]`
    starts: Vec<u64>,
    /// `[items / 512 + 1]`
    counts: Vec<u32>,
    /// `[items]`
    leaf_items: Vec<u32>,
    /// `[items]`
    item_leaves: Vec<u32>,
}

struct Texts {
    /// `[items + 1]`
    offsets: Vec<u32>,
    bytes: Vec<u8>,
}

struct Keys {
    texts: Texts,
    /// `[items with a key]`
    order: Vec<u32>,
}

impl Arranged {
    /// Numbers, sorts and checks everything that was added.
    pub(super) fn new(mut builder: CatalogBuilder) -> Result<Arranged, CatalogError> {
        if builder.is_empty() {
            return Err(CatalogError::Empty { source_name: "the catalogue builder".into() });
        }
        let codes = builder.codes();
        let rows = sort_by_id(&mut builder)?;
        let weights = reorder(&builder.weights, rows.as_deref(), builder.ids.len());
        let bits: Vec<u32> = codes.iter().map(|&codes| u32::BITS - (codes - 1).leading_zeros()).collect();
        let sids = Sids { flat: &builder.sids, bits: &bits, rows: rows.as_deref() };
        let trie = match bits.iter().sum::<u32>() {
            0..=64 => build_trie::<u64>(&sids, &weights),
            _ => build_trie::<u128>(&sids, &weights),
        };
        let place = |item: u32| builder.place_of(row_of(rows.as_deref(), item as usize));
        let items = builder.ids.len();
        let keys = (!builder.keys.is_empty())
            .then(|| Keys::new(Texts::new("key", &builder.keys, rows.as_deref(), items)?, place))
            .transpose()?;
        let titles = (!builder.titles.is_empty())
            .then(|| Texts::new("title", &builder.titles, rows.as_deref(), items))
            .transpose()?;
        Ok(Arranged { version: builder.version, codes, trie, ids: builder.ids, weights, keys, titles })
    }

    /// The file that these arrays make.
    pub(super) fn plan(&self) -> Result<Plan<'_>, CatalogError> {
        let mut sections: Vec<(Section, &[u8])> = Vec::new();
        for (level, codes) in self.trie.node_codes.iter().enumerate() {
            sections.push((Section::at(SectionKind::NodeCodes, level), bytemuck::cast_slice(codes)));
        }
        for (level, first) in self.trie.first_child.iter().enumerate() {
            sections.push((Section::at(SectionKind::FirstChild, level), bytemuck::cast_slice(first)));
        }
        let mut push = |kind, bytes| sections.push((Section::of(kind), bytes));
        push(SectionKind::LeafStarts, bytemuck::cast_slice(&self.trie.starts));
        push(SectionKind::LeafCounts, bytemuck::cast_slice(&self.trie.counts));
        push(SectionKind::LeafItems, bytemuck::cast_slice(&self.trie.leaf_items));
        push(SectionKind::ItemIds, bytemuck::cast_slice(&self.ids));
        push(SectionKind::ItemLeaves, bytemuck::cast_slice(&self.trie.item_leaves));
        if !self.weights.is_empty() {
            push(SectionKind::ItemWeights, bytemuck::cast_slice(&self.weights));
        }
        if let Some(keys) = &self.keys {
            push(SectionKind::KeyOffsets, bytemuck::cast_slice(&keys.texts.offsets));
            push(SectionKind::KeyText, &keys.texts.bytes);
            push(SectionKind::KeyOrder, bytemuck::cast_slice(&keys.order));
        }
        if let Some(titles) = &self.titles {
            push(SectionKind::TitleOffsets, bytemuck::cast_slice(&titles.offsets));
            push(SectionKind::TitleText, &titles.bytes);
        }
        let nodes = self.trie.node_codes.iter().map(|codes| codes.len() as u32);
        Plan::new(Content {
            version: self.version.as_deref(),
            items: self.ids.len() as u64,
            levels: self.codes.iter().copied().zip(nodes).collect(),
            sections,
        })
    }
}

/// Sorts the builder's ids and returns the row of each item, or `None` when they were in order already.
fn sort_by_id(builder: &mut CatalogBuilder) -> Result<Option<Vec<u32>>, CatalogError> {
    if builder.ids.is_sorted_by(|a, b| a < b) {
        return Ok(None);
    }
    let mut order: Vec<(u64, u32)> = builder.ids.iter().copied().zip(0u32..).collect();
    order.sort_unstable();
    if let Some(pair) = order.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let place = |entry: (u64, u32)| builder.place_of(entry.1 as usize);
        return Err(CatalogError::DuplicateItem { item: pair[0].0, first: place(pair[0]), second: place(pair[1]) });
    }
    for (id, entry) in builder.ids.iter_mut().zip(&order) {
        *id = entry.0;
    }
    Ok(Some(order.into_iter().map(|entry| entry.1).collect()))
}

fn row_of(rows: Option<&[u32]>, item: usize) -> usize {
    rows.map_or(item, |rows| rows[item] as usize)
}

/// Weights by item; an empty column stays empty, a short one is padded with zeros.
fn reorder(by_row: &[f32], rows: Option<&[u32]>, items: usize) -> Vec<f32> {
    if by_row.is_empty() {
        return Vec::new();
    }
    (0..items).map(|item| by_row.get(row_of(rows, item)).copied().unwrap_or(0.0)).collect()
}

/// The semantic IDs as rows hold them.
struct Sids<'a> {
    /// `[rows, levels]`
    flat: &'a [u16],
    /// Bits of each level's codes.
    bits: &'a [u32],
    rows: Option<&'a [u32]>,
}

/// An integer that holds a packed semantic ID, first level in the highest bits.
trait Packed: Copy + Ord {
    const ZERO: Self;
    fn shift_in(self, code: u16, bits: u32) -> Self;
    fn shift_out(self, shift: u32, bits: u32) -> u16;
}

macro_rules! packed {
    ($($int:ty),*) => {$(
        impl Packed for $int {
            const ZERO: Self = 0;
            fn shift_in(self, code: u16, bits: u32) -> Self {
                (self << bits) | Self::from(code)
            }
            fn shift_out(self, shift: u32, bits: u32) -> u16 {
                // A level of one code has no bits and may sit at the very top, where the shift would overflow.
                if bits == 0 { 0 } else { ((self >> shift) & ((1 << bits) - 1)) as u16 }
            }
        }
    )*};
}
packed!(u64, u128);

/// Maps weights to integers that ascend as weights descend.
fn descending(weight: f32) -> u32 {
    let bits = weight.to_bits();
    let ascending = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    !ascending
}

fn build_trie<K: Packed>(sids: &Sids<'_>, weights: &[f32]) -> Trie {
    let levels = sids.bits.len();
    let items = sids.flat.len() / levels;
    let pack = |item: usize| {
        let row = row_of(sids.rows, item);
        let codes = &sids.flat[row * levels..][..levels];
        codes.iter().zip(sids.bits).fold(K::ZERO, |packed, (&code, &bits)| packed.shift_in(code, bits))
    };
    let weight = |item: usize| weights.get(item).map_or(0, |&weight| descending(weight));
    let mut sorted: Vec<(K, u32, u32)> = (0..items).map(|item| (pack(item), weight(item), item as u32)).collect();
    sorted.sort_unstable();

    let mut shifts = vec![0; levels];
    for level in (0..levels - 1).rev() {
        shifts[level] = shifts[level + 1] + sids.bits[level + 1];
    }
    let code = |packed: K, level: usize| packed.shift_out(shifts[level], sids.bits[level]);
    let mut node_codes = vec![Vec::new(); levels];
    let mut first_child = vec![Vec::new(); levels - 1];
    let mut starts = vec![0u64; words_for(items)];
    let mut leaf_items = Vec::with_capacity(items);
    let mut item_leaves = vec![0u32; items];
    let mut previous = None;
    for (slot, &(packed, _, item)) in sorted.iter().enumerate() {
        if previous != Some(packed) {
            let differs = |&level: &usize| previous.is_none_or(|p| code(p, level) != code(packed, level));
            let first = (0..levels).find(differs).unwrap_or(0);
            for level in first..levels {
                node_codes[level].push(code(packed, level));
                if level + 1 < levels {
                    first_child[level].push(node_codes[level + 1].len() as u32);
                }
            }
            starts[slot / 64] |= 1 << (slot % 64);
            previous = Some(packed);
        }
        leaf_items.push(item);
        item_leaves[item as usize] = node_codes[levels - 1].len() as u32 - 1;
    }
    for level in 0..levels - 1 {
        first_child[level].push(node_codes[level + 1].len() as u32);
    }
    let counts = running_counts(&starts);
    Trie { node_codes, first_child, starts, counts, leaf_items, item_leaves }
}

impl Texts {
    fn new(what: &'static str, column: &TextColumn, rows: Option<&[u32]>, items: usize) -> Result<Texts, CatalogError> {
        let count = column.total_bytes() as u64;
        if count > u64::from(u32::MAX) {
            let what = if what == "key" { "bytes of keys" } else { "bytes of titles" };
            return Err(CatalogError::TooMany { what, count, limit: u32::MAX.into() });
        }
        let mut offsets = Vec::with_capacity(items + 1);
        let mut bytes = Vec::with_capacity(column.total_bytes());
        for item in 0..items {
            offsets.push(bytes.len() as u32);
            bytes.extend_from_slice(column.get(row_of(rows, item)));
        }
        offsets.push(bytes.len() as u32);
        Ok(Texts { offsets, bytes })
    }

    fn get(&self, item: u32) -> &[u8] {
        let item = item as usize;
        &self.bytes[self.offsets[item] as usize..self.offsets[item + 1] as usize]
    }
}

impl Keys {
    /// Sorts the keys and refuses two of the same; `place` tells where an item came from.
    fn new(texts: Texts, place: impl Fn(u32) -> Place) -> Result<Keys, CatalogError> {
        let items = texts.offsets.len() as u32 - 1;
        debug_assert!(u64::from(items) <= MAX_ITEMS);
        let mut order: Vec<u32> = (0..items).filter(|&item| !texts.get(item).is_empty()).collect();
        order.sort_unstable_by(|&a, &b| texts.get(a).cmp(texts.get(b)));
        if let Some(pair) = order.windows(2).find(|pair| texts.get(pair[0]) == texts.get(pair[1])) {
            let (a, b) = (place(pair[0]), place(pair[1]));
            let (first, second) = if a.number <= b.number { (a, b) } else { (b, a) };
            let key = String::from_utf8_lossy(texts.get(pair[0])).into_owned();
            return Err(CatalogError::DuplicateKey { key, first, second });
        }
        Ok(Keys { texts, order })
    }
}
