//! Catalogue files, and the sources that catalogues are built from.

use sidereal::catalog::{Catalog, CatalogBuilder, ItemIndex, SourceFormat, SourceOptions, read_source, verify};

use super::scratch;

/// Nodes of a level whose whole neighbourhood is looked at.
const MOST_NODES: u32 = 512;

/// A `catalog.sid` as it is, and with its checksums repaired.
pub fn catalog(data: &[u8]) {
    check_bytes(data);
    check_bytes(&repaired(data));
    // The mapped file takes the same way.
    let path = scratch::write(&scratch::folder("catalog"), "catalog.sid", data);
    assert_eq!(Catalog::open(&path).is_ok(), Catalog::from_bytes(data).is_ok());
    let _ = verify(&path).map_err(|error| error.to_string());
}

/// Reads a source in the format that the first byte names, and builds it.
pub fn catalog_source(data: &[u8]) {
    let Some((&choice, text)) = data.split_first() else { return };
    // Numbers beyond the formats leave it to be told from the bytes.
    let format = SourceFormat::ALL.get(usize::from(choice % 16)).copied();
    let folder = scratch::folder("source");
    // The name says nothing either.
    let path = scratch::write(&folder, "items", text);
    let codes = (choice >= 128).then(|| vec![4, 300]);
    // Records of xLLM hold tokens; these are bytes, so that a fuzzer hits them.
    let tokens = Some(vec![(0..64).collect(), (64..128).collect()]);
    let options = SourceOptions { format, codes, info: None, tokens };
    let builder = match read_source(&path, &options, &mut |_, _| {}) {
        Ok(builder) => builder,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    check_built(builder);
}

/// What a builder accepted is refused as a whole, or a catalogue without a flaw.
fn check_built(builder: CatalogBuilder) {
    let items = builder.len();
    match builder.finish() {
        Ok(catalog) => {
            assert_eq!(catalog.items(), items);
            catalog.verify().expect("what we build is right");
            use_all(&catalog);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn check_bytes(bytes: &[u8]) {
    let catalog = match Catalog::from_bytes(bytes) {
        Ok(catalog) => catalog,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    use_all(&catalog);
    if catalog.verify().is_ok() {
        check_directions(&catalog);
    }
    let _ = catalog.info();
}

/// Every look-up that serving makes: none may leave its bounds.
fn use_all(catalog: &Catalog) {
    let levels = catalog.levels();
    for level in 0..levels {
        let nodes = catalog.nodes(level) as u32;
        assert!(catalog.level_codes(level).iter().all(|&code| u32::from(code) < catalog.codes(level)));
        for node in 0..nodes.min(MOST_NODES) {
            let children = catalog.children(level, node);
            if level + 1 < levels {
                assert!(children.start < children.end && children.end as usize <= catalog.nodes(level + 1));
                assert_eq!(catalog.parent(level + 1, children.start), Some(node));
                assert_eq!(catalog.parent(level + 1, children.end - 1), Some(node));
            }
            let leaves = catalog.leaf_range(level, node);
            assert!(leaves.start < leaves.end && leaves.end as usize <= catalog.leaves());
        }
    }
    let mut sid = vec![0; levels];
    let mut nodes = vec![0; levels];
    for leaf in 0..(catalog.leaves() as u32).min(MOST_NODES) {
        catalog.sid_of_leaf(leaf, &mut sid);
        assert_eq!(catalog.leaf_of_sid(&sid), Some(leaf));
        catalog.ancestors(leaf, &mut nodes);
        assert!(!catalog.items_of_leaf(leaf).is_empty());
    }
    assert_eq!(catalog.each_leaf().map(|(_, items)| items.len()).sum::<usize>(), catalog.items());
    let mut every: Vec<ItemIndex> = (0..catalog.items() as u32).map(ItemIndex).collect();
    for &item in every.iter().take(MOST_NODES as usize) {
        assert_eq!(catalog.item(catalog.id(item)), Some(item));
        assert!((catalog.leaf_of(item) as usize) < catalog.leaves());
        let _ = (catalog.weight(item), catalog.title(item));
        let _ = catalog.key(item).map(|key| catalog.item_by_key(key));
    }
    let _ = (catalog.item(0), catalog.item(u64::MAX), catalog.item_by_key("no such key"), catalog.leaf_of_sid(&[0; 9]));
    let mut half: Vec<ItemIndex> = every.iter().copied().step_by(2).collect();
    assert_eq!(catalog.banned_nodes(&mut half, None).len(), levels);
    let banned = catalog.banned_nodes(&mut every, None);
    assert!(banned.iter().zip(0..).all(|(nodes, level)| nodes.len() <= catalog.nodes(level)));
}

/// In a verified catalogue the ways from leaf to item, from item to leaf and from key to item agree.
fn check_directions(catalog: &Catalog) {
    for (leaf, items) in catalog.each_leaf() {
        assert!(items.iter().all(|&item| catalog.leaf_of(item) == leaf));
    }
    let mut every: Vec<ItemIndex> = (0..catalog.items() as u32).map(ItemIndex).collect();
    for &item in &every {
        if let Some(key) = catalog.key(item) {
            assert_eq!(catalog.item_by_key(key), Some(item));
        }
    }
    // With every item banned, no node is left.
    let banned = catalog.banned_nodes(&mut every, None);
    assert!(banned.iter().zip(0..).all(|(nodes, level)| nodes.len() == catalog.nodes(level)));
}

/// The file with its own length, section lengths kept, and checksums that fit.
fn repaired(data: &[u8]) -> Vec<u8> {
    const FIXED: usize = 256;
    const ENTRY: usize = 32;
    let mut file = data.to_vec();
    if file.len() < FIXED {
        return file;
    }
    let word = |file: &[u8], at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes"));
    let long = |file: &[u8], at: usize| u64::from_le_bytes(file[at..at + 8].try_into().expect("eight bytes"));
    let bytes = file.len() as u64;
    file[16..24].copy_from_slice(&bytes.to_le_bytes());
    let sections = (word(&file, 36) as usize).min((file.len() - FIXED) / ENTRY);
    for entry in (0..sections).map(|section| FIXED + ENTRY * section) {
        let (offset, length) = (long(&file, entry + 8), long(&file, entry + 16));
        let range = usize::try_from(offset).ok().zip(usize::try_from(offset.saturating_add(length)).ok());
        if let Some(content) = range.and_then(|(start, end)| file.get(start..end)) {
            let crc = crc32c::crc32c(content);
            file[entry + 24..entry + 28].copy_from_slice(&crc.to_le_bytes());
        }
    }
    let header = FIXED + ENTRY * sections;
    file[12..16].fill(0);
    let crc = crc32c::crc32c(&file[..header]);
    file[12..16].copy_from_slice(&crc.to_le_bytes());
    file
}
