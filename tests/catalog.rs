//! Catalogues against a naive map: every lookup in both directions, bans against brute force, over shapes that tries take.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sidereal::catalog::{Catalog, CatalogBuilder, ItemIndex, NewItem};

#[derive(Clone, Debug)]
struct Item {
    id: u64,
    sid: Vec<u16>,
    weight: f32,
    key: Option<String>,
    title: Option<String>,
}

fn build(codes: &[u32], items: &[Item]) -> Catalog {
    let mut builder = CatalogBuilder::new(codes).unwrap();
    for item in items {
        builder
            .add(NewItem {
                id: item.id,
                sid: &item.sid,
                weight: item.weight,
                key: item.key.as_deref(),
                title: item.title.as_deref(),
            })
            .unwrap();
    }
    builder.finish().unwrap()
}

/// Everything a catalogue answers, compared with plain maps of the items.
fn check(codes: &[u32], items: &[Item]) {
    let catalog = build(codes, items);
    let levels = codes.len();
    assert_eq!(catalog.levels(), levels);
    assert_eq!(catalog.items(), items.len());

    let mut by_sid: BTreeMap<&[u16], Vec<&Item>> = BTreeMap::new();
    for item in items {
        by_sid.entry(&item.sid).or_default().push(item);
    }
    assert_eq!(catalog.leaves(), by_sid.len());
    for (leaf, (sid, members)) in by_sid.iter_mut().enumerate() {
        let leaf = leaf as u32;
        members.sort_by(|a, b| b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id)));
        let ids: Vec<u64> = catalog.items_of_leaf(leaf).iter().map(|&item| catalog.id(item)).collect();
        assert_eq!(ids, members.iter().map(|item| item.id).collect::<Vec<_>>());
        let mut found = vec![0; levels];
        catalog.sid_of_leaf(leaf, &mut found);
        assert_eq!(&found, sid);
        assert_eq!(catalog.leaf_of_sid(sid), Some(leaf));
        let mut path = vec![0; levels];
        catalog.ancestors(leaf, &mut path);
        for (level, &node) in path.iter().enumerate() {
            assert_eq!(catalog.level_codes(level)[node as usize], sid[level]);
            assert_eq!(catalog.node_of_prefix(&sid[..=level]), Some(node));
            assert!(catalog.leaf_range(level, node).contains(&leaf));
            assert_eq!(catalog.parent(level, node), level.checked_sub(1).map(|above| path[above]));
        }
    }
    for level in 0..levels {
        assert_eq!(catalog.codes(level), codes[level]);
        let prefixes: BTreeSet<&[u16]> = by_sid.keys().map(|sid| &sid[..=level]).collect();
        assert_eq!(catalog.nodes(level), prefixes.len());
        let first = catalog.first_child(level);
        assert_eq!(first.len(), if level + 1 < levels { prefixes.len() + 1 } else { 0 });
        for (node, prefix) in prefixes.iter().enumerate() {
            assert_eq!(catalog.level_codes(level)[node], prefix[level]);
            let below: Vec<u32> =
                (0..).zip(by_sid.keys()).filter(|(_, sid)| sid.starts_with(prefix)).map(|x| x.0).collect();
            assert_eq!(catalog.leaf_range(level, node as u32).collect::<Vec<_>>(), below);
        }
    }
    for item in items {
        let index = catalog.item(item.id).unwrap();
        assert_eq!(catalog.id(index), item.id);
        assert_eq!(catalog.weight(index), item.weight);
        assert_eq!(catalog.key(index), item.key.as_deref());
        assert_eq!(catalog.title(index), item.title.as_deref());
        assert_eq!(catalog.leaf_of_sid(&item.sid), Some(catalog.leaf_of(index)));
        if let Some(key) = &item.key {
            assert_eq!(catalog.item_by_key(key), Some(index));
        }
    }
    let known: BTreeSet<u64> = items.iter().map(|item| item.id).collect();
    for id in items.iter().flat_map(|item| [item.id.wrapping_add(1), item.id.wrapping_sub(1)]) {
        assert_eq!(catalog.item(id).is_some(), known.contains(&id));
    }
    assert_eq!(catalog.item_by_key("no such key"), None);
    assert_eq!(catalog.item_by_key(""), None);
    assert_eq!(catalog.leaf_of_sid(&vec![0; levels + 1]), None);
    assert_eq!(catalog.leaf_of_sid(&[]), None);
}

/// The definition of a banned node, by looking at every item.
fn brute_force_bans(catalog: &Catalog, banned: &BTreeSet<ItemIndex>) -> Vec<Vec<u32>> {
    (0..catalog.levels())
        .map(|level| {
            let gone = |&node: &u32| {
                let mut leaves = catalog.leaf_range(level, node);
                leaves.all(|leaf| catalog.items_of_leaf(leaf).iter().all(|item| banned.contains(item)))
            };
            (0..catalog.nodes(level) as u32).filter(gone).collect()
        })
        .collect()
}

/// Catalogues of 2 to 8 levels: few codes make wide, shared tries; many make single-child ones; one code is a chain.
fn catalogues() -> impl Strategy<Value = (Vec<u32>, Vec<Item>)> {
    let codes = prop_oneof![Just(1u32), Just(2), Just(3), Just(7), Just(256), Just(65_536)];
    (proptest::collection::vec(codes, 2..=8), 1usize..60).prop_flat_map(|(codes, items)| {
        let sid: Vec<_> = codes
            .iter()
            .map(|&codes| prop_oneof![3 => 0..=(codes - 1).min(1) as u16, 1 => 0..=(codes - 1) as u16])
            .collect();
        let weight = prop_oneof![Just(0.0f32), Just(1.0), -3.0f32..3.0];
        let id = prop_oneof![0..200u64, Just(u64::MAX), any::<u64>()];
        let item = (id, sid, weight, proptest::option::of("[a-cé]{1,3}"), proptest::option::of("\\PC{1,8}"));
        (Just(codes), proptest::collection::vec(item, items)).prop_map(|(codes, items)| {
            let (mut ids, mut keys) = (BTreeSet::new(), BTreeSet::new());
            let items = items.into_iter().filter(|item| ids.insert(item.0));
            let items = items.map(|(id, sid, weight, key, title)| Item {
                id,
                sid,
                weight,
                key: key.filter(|key| keys.insert(key.clone())),
                title,
            });
            (codes, items.collect())
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn answers_like_a_map((codes, items) in catalogues()) {
        check(&codes, &items);
    }

    #[test]
    fn bans_equal_brute_force((codes, items) in catalogues(), keep in proptest::collection::vec(0u8..10, 60), cut in 0u8..11) {
        let catalog = build(&codes, &items);
        let banned: BTreeSet<ItemIndex> =
            (0..items.len()).filter(|&i| keep[i] < cut).map(|i| ItemIndex(i as u32)).collect();
        // Given in no order and twice.
        let mut given: Vec<ItemIndex> = banned.iter().rev().chain(&banned).copied().collect();
        prop_assert_eq!(catalog.banned_nodes(&mut given, None), brute_force_bans(&catalog, &banned));
    }
}

fn plain(id: u64, sid: &[u16]) -> Item {
    Item { id, sid: sid.to_vec(), weight: 0.0, key: None, title: None }
}

#[test]
fn one_item() {
    check(&[1, 1], &[plain(0, &[0, 0])]);
    check(&[65_536; 8], &[plain(u64::MAX, &[65_535; 8])]);
}

#[test]
fn every_item_shares_one_leaf() {
    let items: Vec<Item> = (0..3000).map(|id| Item { weight: (id % 7) as f32, ..plain(id, &[3, 1, 4]) }).collect();
    check(&[5, 5, 5], &items);
}

#[test]
fn a_wide_root_of_single_children() {
    let items: Vec<Item> = (0..2000u16).map(|i| plain(u64::from(i), &[i, i.wrapping_mul(7) % 100])).collect();
    check(&[65_536, 100], &items);
}

#[test]
fn rows_in_any_order_make_the_same_bytes() {
    let mut items: Vec<Item> = (0..500).map(|id| plain(id * 3, &[(id % 5) as u16, (id % 11) as u16])).collect();
    let forward = build(&[5, 11], &items).bytes().to_vec();
    items.reverse();
    assert_eq!(build(&[5, 11], &items).bytes(), forward);
}

#[test]
fn no_bans_ban_nothing_and_all_bans_ban_everything() {
    let items: Vec<Item> = (0..50).map(|id| plain(id, &[(id % 3) as u16, (id % 4) as u16])).collect();
    let catalog = build(&[3, 4], &items);
    assert_eq!(catalog.banned_nodes(&mut Vec::new(), None), vec![Vec::<u32>::new(); 2]);
    let mut all: Vec<ItemIndex> = (0..50).map(ItemIndex).collect();
    let everything: Vec<Vec<u32>> = (0..2).map(|level| (0..catalog.nodes(level) as u32).collect()).collect();
    assert_eq!(catalog.banned_nodes(&mut all, None), everything);
}

/// Snapshots are shared between I/O threads and the engine thread.
#[test]
fn a_catalogue_is_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>(_: &T) {}
    shared(&build(&[2, 2], &[plain(1, &[0, 1])]));
}
