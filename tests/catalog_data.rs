//! Real catalogues, where the development data is at hand: `$SIDEREAL_DATA`, else `../shared/data`. Where it is not, each
//! test says so by name and runs on generated data of the same shape.

use std::io::Write;
use std::path::{Path, PathBuf};

use sidereal::catalog::{Catalog, CatalogInfo, SourceOptions, read_source};

fn data(file: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("SIDEREAL_DATA").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"));
    let path = folder.join(file);
    if path.is_file() {
        return Some(path);
    }
    // Straight to stderr: the test runner swallows what passing tests print.
    let _ = writeln!(std::io::stderr(), "{file} is not in {}: using generated data instead", folder.display());
    None
}

/// Reads, writes, maps, verifies, describes.
fn through_a_file(source: &Path, info: Option<PathBuf>) -> (Catalog, CatalogInfo) {
    let options = SourceOptions { info, ..SourceOptions::default() };
    let builder = read_source(source, &options, &mut |_, _| {}).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.sid");
    builder.write(&path).unwrap();
    let catalog = Catalog::open(&path).unwrap();
    catalog.verify().unwrap();
    let info = catalog.info();
    (catalog, info)
}

fn nodes(info: &CatalogInfo) -> Vec<u64> {
    info.levels.iter().map(|level| level.nodes).collect()
}

/// An index.json (and info.txt) of `items` items over `levels` x 16 codes, in no order.
fn generate_index(dir: &Path, items: u64, levels: usize) -> (PathBuf, PathBuf) {
    let mut entries = Vec::new();
    let mut lines = String::new();
    for item in (0..items).rev() {
        let mix = item.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let tokens: Vec<String> = (0..levels)
            .map(|level| format!("<{}_{}>", ["a", "b", "c", "d"][level], (mix >> (4 * level)) & 15))
            .collect();
        lines += &format!("{}\tItem {item}\t{item}\n", tokens.concat());
        entries.push(format!("\"{item}\": {}", serde_json::to_string(&tokens).unwrap()));
    }
    let (index, info) = (dir.join("generated.index.json"), dir.join("generated.info.txt"));
    std::fs::write(&index, format!("{{{}}}", entries.join(", "))).unwrap();
    std::fs::write(&info, lines).unwrap();
    (index, info)
}

#[test]
fn instruments() {
    let dir = tempfile::tempdir().unwrap();
    let Some(source) = data("instruments/Instruments.index.json") else {
        let (_, info) = through_a_file(&generate_index(dir.path(), 5000, 4).0, None);
        assert_eq!((info.items, info.levels.len()), (5000, 4));
        return;
    };
    let (catalog, info) = through_a_file(&source, None);
    assert_eq!((info.items, info.leaves, info.collisions), (9922, 9897, 25));
    assert_eq!(info.levels.iter().map(|level| level.codes).collect::<Vec<_>>(), [256; 4]);
    let mut sid = [0; 4];
    catalog.sid_of_leaf(catalog.leaf_of(catalog.item(0).unwrap()), &mut sid);
    assert_eq!(sid, [137, 112, 79, 200]);
}

#[test]
fn office_with_titles() {
    let dir = tempfile::tempdir().unwrap();
    let files = (data("office/Office_Products.index.json"), data("office/Office_Products.info.txt"));
    let (Some(source), Some(titles)) = files else {
        let (source, titles) = generate_index(dir.path(), 3000, 3);
        let (catalog, info) = through_a_file(&source, Some(titles));
        assert_eq!((info.items, info.titles), (3000, 3000));
        assert_eq!(catalog.title(catalog.item(17).unwrap()), Some("Item 17"));
        return;
    };
    let (catalog, info) = through_a_file(&source, Some(titles));
    assert_eq!((info.items, info.collisions, info.titles), (3459, 15, 3459));
    assert_eq!(catalog.title(catalog.item(2).unwrap()), Some("High Frequency Level 2 Word Wall Words"));
}

#[test]
fn npm_one_million() {
    let dir = tempfile::tempdir().unwrap();
    let Some(source) = data("npm-1m/codes.npy") else {
        // As skewed: the product of two uniform variables crowds small codes, so that leaves grow heavy.
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) % 256
        };
        let codes: Vec<u8> = (0..600_000).map(|_| (next() * next() / 256) as u8).collect();
        let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (200000, 3), }\n";
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&codes);
        let path = dir.path().join("generated.npy");
        std::fs::write(&path, bytes).unwrap();
        let (_, info) = through_a_file(&path, None);
        assert_eq!(info.items, 200_000);
        assert!(info.collisions > 0 && info.bytes_per_item <= 28.0);
        return;
    };
    let (catalog, info) = through_a_file(&source, None);
    assert_eq!(info.items, 1_000_000);
    assert_eq!(nodes(&info), [256, 49_005, 457_031]);
    assert_eq!((info.items_sharing, info.heaviest_leaf.items), (674_139, 11_151));
    assert!(info.bytes_per_item <= 28.0, "{}", info.bytes_per_item);
    // Banning all but one item of the heaviest leaf bans nothing; the last one bans the leaf.
    let mut bans = catalog.items_of_leaf(info.heaviest_leaf.leaf).to_vec();
    let last = bans.pop().unwrap();
    assert!(catalog.banned_nodes(&mut bans, None).iter().all(Vec::is_empty));
    bans.push(last);
    assert_eq!(catalog.banned_nodes(&mut bans, None)[2], [info.heaviest_leaf.leaf]);
}
