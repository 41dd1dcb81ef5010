//! `catalog diff`'s comparison: a small example by hand, and every count against sets and maps over random catalogues.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sidereal::catalog::{Catalog, CatalogBuilder, ItemIndex, MovedItem, NewItem, PrefixOverlap, diff};

type Row = (Vec<u16>, f32);
type Rows = BTreeMap<u64, Row>;

fn build(codes: &[u32], rows: &Rows) -> Catalog {
    let mut builder = CatalogBuilder::new(codes).unwrap();
    for (&id, (sid, weight)) in rows {
        builder.add(NewItem { id, sid, weight: *weight, ..NewItem::default() }).unwrap();
    }
    builder.finish().unwrap()
}

fn rows(rows: &[(u64, [u16; 2], f32)]) -> Rows {
    rows.iter().map(|&(id, sid, weight)| (id, (sid.to_vec(), weight))).collect()
}

#[test]
fn says_what_changed() {
    let a = build(&[4, 4], &rows(&[(1, [0, 1], 2.0), (2, [0, 1], 1.0), (3, [0, 2], 0.0), (4, [3, 3], 0.0)]));
    let b = build(&[4, 4], &rows(&[(1, [0, 1], 2.0), (2, [0, 1], 3.0), (3, [1, 0], 0.0), (5, [3, 2], 0.0)]));
    let told = diff(&a, &b, 5);
    assert!(!told.same);
    let items = &told.items;
    assert_eq!((items.shared, items.added, items.removed, items.moved, items.weight_changed), (3, 1, 1, 1, 1));
    let sids = &told.sids;
    assert_eq!((sids.shared, sids.added, sids.removed, sids.reordered), (1, 2, 2, 1));
    let overlap = |a, b, shared| PrefixOverlap { a, b, shared };
    assert_eq!(told.prefixes, [overlap(2, 3, 2), overlap(3, 3, 1)]);
    assert_eq!(told.examples.moved, [MovedItem { item: 3, from: vec![0, 2], to: vec![1, 0] }]);
    assert_eq!((&told.examples.added[..], &told.examples.removed[..]), (&[5][..], &[4][..]));
    assert_eq!((&told.examples.weight_changed[..], &told.examples.reordered[..]), (&[2][..], &[vec![0, 1]][..]));
    assert!(diff(&a, &b, 0).examples.moved.is_empty());
    assert!(diff(&a, &a, 5).same);
}

#[test]
fn texts_codes_and_levels_count() {
    let with = |key, title| {
        let mut builder = CatalogBuilder::new(&[4, 4]).unwrap();
        builder.add(NewItem { id: 1, sid: &[0, 1], key, title, ..NewItem::default() }).unwrap();
        builder.finish().unwrap()
    };
    let plain = with(None, None);
    let keyed = diff(&plain, &with(Some("k"), None), 5);
    assert_eq!((keyed.same, keyed.items.key_changed, keyed.items.title_changed), (false, 1, 0));
    let titled = diff(&with(None, Some("x")), &with(None, Some("y")), 5);
    assert_eq!((titled.same, titled.items.key_changed, titled.items.title_changed), (false, 0, 1));
    let wider = build(&[4, 5], &rows(&[(1, [0, 1], 0.0)]));
    assert!(!diff(&plain, &wider, 5).same, "another codebook");
    // Semantic IDs of another length share prefixes and nothing else.
    let longer = build(&[4, 4, 4], &BTreeMap::from([(1, (vec![0, 1, 2], 0.0))]));
    let told = diff(&plain, &longer, 5);
    assert_eq!((told.items.shared, told.items.moved, told.sids.shared, told.sids.added), (1, 1, 0, 1));
    assert_eq!(told.prefixes, [PrefixOverlap { a: 1, b: 1, shared: 1 }; 2]);
}

/// Items in the order of each semantic ID.
fn orders(catalog: &Catalog, rows: &Rows) -> BTreeMap<Vec<u16>, Vec<u64>> {
    let ids = |leaf| catalog.items_of_leaf(leaf).iter().map(|&item: &ItemIndex| catalog.id(item)).collect();
    rows.values().map(|(sid, _)| (sid.clone(), ids(catalog.leaf_of_sid(sid).unwrap()))).collect()
}

fn prefixes(rows: &Rows, level: usize) -> BTreeSet<Vec<u16>> {
    rows.values().map(|(sid, _)| sid[..=level].to_vec()).collect()
}

fn some_rows() -> impl Strategy<Value = Rows> {
    let row = (proptest::collection::vec(0u16..3, 3), (0u8..3).prop_map(f32::from));
    proptest::collection::btree_map(0u64..40, row, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn equals_sets_and_maps(before in some_rows(), after in some_rows()) {
        let (a, b) = (build(&[3; 3], &before), build(&[3; 3], &after));
        let told = diff(&a, &b, 1000);
        let shared: Vec<u64> = before.keys().filter(|id| after.contains_key(id)).copied().collect();
        let only = |these: &Rows, those: &Rows| -> Vec<u64> {
            these.keys().filter(|id| !those.contains_key(id)).copied().collect()
        };
        let changed = |differs: fn(&Row, &Row) -> bool| -> Vec<u64> {
            shared.iter().filter(|id| differs(&before[id], &after[id])).copied().collect()
        };
        let moved = changed(|a, b| a.0 != b.0);
        prop_assert_eq!(told.items.shared, shared.len() as u64);
        prop_assert_eq!(&told.examples.added, &only(&after, &before));
        prop_assert_eq!(&told.examples.removed, &only(&before, &after));
        prop_assert_eq!(told.examples.moved.iter().map(|moved| moved.item).collect::<Vec<_>>(), moved.clone());
        prop_assert_eq!(&told.examples.weight_changed, &changed(|a, b| a.1 != b.1));
        for (level, overlap) in told.prefixes.iter().enumerate() {
            let (first, second) = (prefixes(&before, level), prefixes(&after, level));
            let both = first.intersection(&second).count();
            prop_assert_eq!((overlap.a, overlap.b, overlap.shared), (first.len() as u64, second.len() as u64, both as u64));
        }
        let (first, second) = (orders(&a, &before), orders(&b, &after));
        let stays = |ids: &[u64]| -> Vec<u64> {
            ids.iter().filter(|id| shared.contains(id) && !moved.contains(id)).copied().collect()
        };
        let reordered: Vec<Vec<u16>> = first
            .iter()
            .filter(|(sid, ids)| second.get(*sid).is_some_and(|other| stays(ids) != stays(other)))
            .map(|(sid, _)| sid.clone())
            .collect();
        prop_assert_eq!(&told.examples.reordered, &reordered);
        prop_assert_eq!(told.same, before == after);
        prop_assert!(diff(&a, &build(&[3; 3], &before), 9).same);
    }
}
