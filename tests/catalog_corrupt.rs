//! Damaged and hostile catalogue files: each is a specific error, and what does open answers without a panic.
//!
//! Offsets here are those of docs/catalog-format.md, written down a second time on purpose.

use std::ops::Range;
use std::path::Path;

use sidereal::catalog::{Catalog, CatalogBuilder, CatalogError, ItemIndex, NewItem, verify};

const ENTRY: usize = 32;
const TABLE: usize = 256;

fn sample() -> Vec<u8> {
    let mut builder = CatalogBuilder::new(&[4, 3, 5]).unwrap();
    builder.set_version("2026-11-24.1").unwrap();
    for id in 0..70u64 {
        let sid = [(id % 3) as u16, (id % 2) as u16, (id % 5) as u16];
        let (key, title) = (format!("k{id}"), format!("Größe {id}"));
        let (key, title) = (Some(key.as_str()).filter(|_| id % 4 != 0), Some(title.as_str()).filter(|_| id % 3 != 0));
        builder.add(NewItem { id: id * 10, sid: &sid, weight: (id % 7) as f32, key, title }).unwrap();
    }
    builder.finish().unwrap().bytes().to_vec()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn set_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn set_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn sections(bytes: &[u8]) -> usize {
    u32_at(bytes, 36) as usize
}

/// Where the section of this kind and level is.
fn section(bytes: &[u8], kind: u32, level: u32) -> Range<usize> {
    let entry = (0..sections(bytes))
        .map(|i| TABLE + i * ENTRY)
        .find(|&at| u32_at(bytes, at) == kind && u32_at(bytes, at + 4) == level)
        .expect("section");
    let start = u64_at(bytes, entry + 8) as usize;
    start..start + u64_at(bytes, entry + 16) as usize
}

/// Makes all checksums right again, as an adversary would. Leaves alone what no longer lies in the file.
fn reseal(bytes: &mut [u8]) {
    let header = u32_at(bytes, 40) as usize;
    if !(TABLE..=bytes.len()).contains(&header) {
        return;
    }
    for at in (TABLE..header.saturating_sub(ENTRY - 1)).step_by(ENTRY) {
        let start = u64_at(bytes, at + 8) as usize;
        let end = start.checked_add(u64_at(bytes, at + 16) as usize);
        if let Some(contents) = end.and_then(|end| bytes.get(start..end)) {
            let crc = crc32c::crc32c(contents);
            set_u32(bytes, at + 24, crc);
        }
    }
    set_u32(bytes, 12, 0);
    let crc = crc32c::crc32c(&bytes[..header]);
    set_u32(bytes, 12, crc);
}

/// Asks everything. The answers of a hostile file may be nonsense; they must come.
fn exercise(catalog: &Catalog) -> u64 {
    let mut sum = catalog.version().len() as u64;
    let levels = catalog.levels();
    let (mut sid, mut path) = (vec![0; levels], vec![0; levels]);
    for level in 0..levels {
        sum += u64::from(catalog.codes(level)) + catalog.first_child(level).len() as u64;
        for node in 0..catalog.nodes(level) as u32 {
            sum += catalog.leaf_range(level, node).len() as u64 + catalog.children(level, node).len() as u64;
        }
    }
    let mut bans = Vec::new();
    for leaf in 0..catalog.leaves() as u32 {
        catalog.sid_of_leaf(leaf, &mut sid);
        catalog.ancestors(leaf, &mut path);
        sum += u64::from(catalog.leaf_of_sid(&sid).unwrap_or(0));
        bans.extend_from_slice(catalog.items_of_leaf(leaf));
    }
    for item in (0..catalog.items() as u32).map(ItemIndex) {
        sum += u64::from(catalog.leaf_of(item)) + u64::from(catalog.item(catalog.id(item)).unwrap().0);
        sum += u64::from(catalog.weight(item).to_bits());
        sum += catalog.title(item).map_or(0, str::len) as u64;
        sum += catalog.key(item).and_then(|key| catalog.item_by_key(key)).map_or(0, |item| item.0) as u64;
    }
    sum += catalog.item_by_key("k7").map_or(0, |item| item.0) as u64;
    sum += catalog.banned_nodes(&mut bans, None).iter().map(Vec::len).sum::<usize>() as u64;
    sum + catalog.info().items + u64::from(catalog.verify().is_ok())
}

fn error_of(bytes: &[u8]) -> CatalogError {
    let error = Catalog::from_bytes(bytes).and_then(|catalog| catalog.verify());
    error.expect_err("must be refused")
}

#[test]
fn the_sample_is_good() {
    let bytes = sample();
    let catalog = Catalog::from_bytes(&bytes).unwrap();
    exercise(&catalog);
    let report = catalog.verify().unwrap();
    assert_eq!((report.items, report.sections), (70, sections(&bytes)));
    let mut again = bytes.clone();
    reseal(&mut again);
    assert_eq!(again, bytes, "the checksums are where the format says");
}

/// The worked example of docs/catalog-format.md.
#[test]
fn the_documented_example() {
    let mut builder = CatalogBuilder::new(&[3, 4]).unwrap();
    for (id, sid, weight) in [(50, [0, 1], 2.0), (7, [0, 3], 1.0), (90, [2, 0], 1.0), (12, [0, 1], 5.0)] {
        builder.add(NewItem { id, sid: &sid, weight, ..NewItem::default() }).unwrap();
    }
    let catalog = builder.finish().unwrap();
    let bytes = catalog.bytes();
    let u16s = |kind, level| bytemuck::cast_slice::<u8, u16>(&bytes[section(bytes, kind, level)]);
    let u32s = |kind, level| bytemuck::cast_slice::<u8, u32>(&bytes[section(bytes, kind, level)]);
    assert_eq!(u16s(1, 0), [0, 2]);
    assert_eq!(u32s(2, 0), [0, 2, 3]);
    assert_eq!(u16s(1, 1), [1, 3, 0]);
    assert_eq!(bytes[section(bytes, 3, 0)], [0b1101, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(u32s(4, 0), [0, 3]);
    assert_eq!(u32s(5, 0), [1, 2, 0, 3]);
    assert_eq!(bytemuck::cast_slice::<u8, u64>(&bytes[section(bytes, 6, 0)]), [7, 12, 50, 90]);
    assert_eq!(u32s(7, 0), [1, 0, 0, 2]);
    assert_eq!(u32s(8, 0), [1f32, 5.0, 2.0, 1.0].map(f32::to_bits));
    assert_eq!(sections(bytes), 9);
    assert!(catalog.version().starts_with("crc-"));

    let info = catalog.info();
    let levels: Vec<_> = info.levels.iter().map(|l| (l.codes, l.nodes, l.fan_out_mean, l.fan_out_max)).collect();
    assert_eq!(levels, [(3, 2, 2.0, 2), (4, 3, 1.5, 2)]);
    assert_eq!((info.collisions, info.items_sharing), (1, 2));
    assert_eq!((info.heaviest_leaf.leaf, info.heaviest_leaf.items), (0, 2));
    assert_eq!(info.heaviest_leaf.sid, [0, 1]);
    assert!(serde_json::to_string(&info).unwrap().contains("\"name\":\"first child of level 0\""));
}

#[test]
fn every_truncation_is_refused() {
    let bytes = sample();
    for length in 0..bytes.len() {
        let error = error_of(&bytes[..length]);
        assert!(matches!(error, CatalogError::Length { .. }), "{length}: {error}");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(matches!(error_of(&longer), CatalogError::Length { .. }));
}

#[test]
fn truncation_at_section_boundaries_with_a_matching_header_is_refused() {
    let bytes = sample();
    for i in 0..sections(&bytes) {
        let end = (u64_at(&bytes, TABLE + i * ENTRY + 8) + u64_at(&bytes, TABLE + i * ENTRY + 16)) as usize;
        for length in [end - 1, end, end + 1].into_iter().filter(|&length| length < bytes.len()) {
            let mut short = bytes[..length].to_vec();
            set_u64(&mut short, 16, length as u64);
            reseal(&mut short);
            let error = error_of(&short);
            assert!(matches!(error, CatalogError::SectionTable { .. }), "{length}: {error}");
        }
    }
}

#[test]
fn every_flipped_byte_is_found() {
    let bytes = sample();
    for at in 0..bytes.len() {
        for mask in [1, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= mask;
            match Catalog::from_bytes(&damaged) {
                // Only text and gaps are left to `verify`.
                Ok(catalog) => {
                    exercise(&catalog);
                    assert!(catalog.verify().is_err(), "byte {at} ^ {mask:02x} went unnoticed");
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
}

#[test]
fn every_flipped_byte_under_right_checksums_is_harmless() {
    let bytes = sample();
    let mut opened = 0;
    for at in 0..bytes.len() {
        for value in [bytes[at] ^ 1, bytes[at] ^ 0x80, !bytes[at], bytes[at].wrapping_add(1), 0] {
            let mut hostile = bytes.clone();
            hostile[at] = value;
            reseal(&mut hostile);
            if let Ok(catalog) = Catalog::from_bytes(&hostile) {
                exercise(&catalog);
                opened += 1;
            }
        }
    }
    assert!(opened > 0, "some changes (ids, weights, text) make another legal file");
}

/// One edit of the sample, resealed, and what the error must say.
struct Hostile {
    name: &'static str,
    edit: fn(&mut Vec<u8>),
    says: &'static str,
}

#[test]
fn hostile_files_are_named() {
    let cases = [
        Hostile { name: "magic", edit: |b| b[0] = b'S', says: "not a catalogue" },
        Hostile { name: "format", edit: |b| set_u32(b, 8, 2), says: "catalogue format 2" },
        Hostile { name: "no levels", edit: |b| set_u32(b, 32, 0), says: "`levels` is 0" },
        Hostile { name: "nine levels", edit: |b| set_u32(b, 32, 9), says: "`levels` is 9" },
        Hostile { name: "no items", edit: |b| set_u64(b, 24, 0), says: "`items` is 0" },
        Hostile { name: "many items", edit: |b| set_u64(b, 24, u64::MAX), says: "`items` is 18446744073709551615" },
        Hostile {
            name: "other items",
            edit: |b| set_u64(b, 24, 71),
            says: "section `key offsets`: 284 bytes, expected 72 x 4",
        },
        Hostile { name: "sections", edit: |b| set_u32(b, 36, u32::MAX), says: "`header_bytes`" },
        Hostile { name: "codes", edit: |b| set_u32(b, 48, 70_000), says: "`codes` is 70000" },
        Hostile { name: "nodes", edit: |b| set_u32(b, 52, 5), says: "`nodes` is 5" },
        Hostile { name: "unused level", edit: |b| set_u32(b, 48 + 8 * 7, 1), says: "only 3 levels" },
        Hostile { name: "version length", edit: |b| set_u32(b, 112, 1000), says: "`version`" },
        Hostile { name: "version text", edit: |b| b[120] = 0xff, says: "`version`" },
        Hostile { name: "version padding", edit: |b| b[247] = 1, says: "`version`" },
        Hostile { name: "reserved", edit: |b| b[44] = 1, says: "`reserved`" },
        Hostile { name: "kind", edit: |b| set_u32(b, TABLE, 99), says: "`section kind` is 99" },
        Hostile { name: "level", edit: |b| set_u32(b, TABLE + 4, 3), says: "level 3 of 3" },
        Hostile { name: "order", edit: |b| set_u32(b, TABLE + 4, 1), says: "out of order or given twice" },
        Hostile { name: "offset", edit: |b| set_u64(b, TABLE + 8, 64), says: "starts at byte 64" },
        Hostile { name: "far", edit: |b| set_u64(b, TABLE + ENTRY + 8, u64::MAX - 63), says: "starts at byte" },
        Hostile { name: "length", edit: |b| set_u64(b, TABLE + 16, u64::MAX), says: "leave the file" },
        Hostile { name: "short", edit: |b| set_u64(b, TABLE + 16, 2), says: "2 bytes, expected 3 x 2" },
        Hostile {
            name: "code",
            edit: |b| {
                let at = section(b, 1, 0).start + 4;
                b[at] = 4;
            },
            says: "section `node codes of level 0`, element 2: code 4 of 4",
        },
        Hostile {
            name: "siblings",
            edit: |b| {
                let at = section(b, 1, 1).start + 2;
                b[at] = 0;
            },
            says: "section `node codes of level 1`, element 1: code 0 does not ascend",
        },
        Hostile {
            name: "first child",
            edit: |b| {
                let at = section(b, 2, 0).start;
                set_u32(b, at, 1);
            },
            says: "section `first child of level 0`, element 0",
        },
        Hostile {
            name: "childless",
            edit: |b| {
                let at = section(b, 2, 1).start + 4;
                set_u32(b, at, 0);
            },
            says: "section `first child of level 1`, element 1: offset 0 after 0",
        },
        Hostile {
            name: "last child",
            edit: |b| {
                let at = section(b, 2, 1).end - 4;
                set_u32(b, at, u32::MAX);
            },
            says: "ends at 4294967295",
        },
        Hostile {
            name: "starts",
            edit: |b| {
                let at = section(b, 3, 0).start;
                b[at] &= 0xfe;
            },
            says: "the first slot must begin a leaf",
        },
        Hostile {
            name: "starts beyond",
            edit: |b| {
                let at = section(b, 3, 0).end - 1;
                b[at] = 0x80;
            },
            says: "bits beyond slot 69",
        },
        Hostile {
            name: "one start more",
            edit: |b| {
                let at = section(b, 3, 0).start;
                b[at] |= 2;
            },
            says: "section `leaf counts`, element 1",
        },
        Hostile {
            name: "leaf item",
            edit: |b| {
                let at = section(b, 5, 0).start + 8;
                set_u32(b, at, 70);
            },
            says: "section `leaf items`, element 2: item 70 of 70",
        },
        Hostile {
            name: "item twice",
            edit: |b| {
                let at = section(b, 5, 0).start;
                b.copy_within(at..at + 4, at + 4);
            },
            says: "section `leaf items`, element 1: item",
        },
        Hostile {
            name: "ids",
            edit: |b| {
                let at = section(b, 6, 0).start;
                set_u64(b, at, 10);
            },
            says: "section `item ids`, element 1: id 10 does not ascend from 10",
        },
        Hostile {
            name: "item leaf",
            edit: |b| {
                let at = section(b, 7, 0).start;
                set_u32(b, at, 30);
            },
            says: "section `item leaves`, element 0: leaf 30 of 30",
        },
        Hostile {
            name: "item in another leaf",
            edit: |b| {
                let at = section(b, 7, 0).start;
                set_u32(b, at, 29);
            },
            says: "names leaf 29",
        },
        Hostile {
            name: "weight",
            edit: |b| {
                let at = section(b, 8, 0).start;
                set_u32(b, at, f32::NAN.to_bits());
            },
            says: "section `item weights`, element 0: weight NaN",
        },
        Hostile {
            name: "weight order",
            edit: |b| {
                let first = section(b, 5, 0).start;
                let item = u32_at(b, first) as usize;
                let at = section(b, 8, 0).start + item * 4;
                set_u32(b, at, (-1f32).to_bits());
            },
            says: "weight descends",
        },
        Hostile {
            name: "key offsets",
            edit: |b| {
                let at = section(b, 9, 0).start + 8;
                set_u32(b, at, 1000);
            },
            says: "section `key offsets`, element 3",
        },
        Hostile {
            name: "key order",
            edit: |b| {
                let at = section(b, 11, 0).start;
                set_u32(b, at, 1000);
            },
            says: "section `key order`, element 0: item 1000 of 70",
        },
        Hostile {
            name: "keys out of order",
            edit: |b| {
                let at = section(b, 11, 0).start;
                b.copy_within(at..at + 4, at + 4);
            },
            says: "section `key order`, element 1: the key of item",
        },
        Hostile {
            name: "title offsets",
            edit: |b| {
                let at = section(b, 12, 0).end - 4;
                set_u32(b, at, 1_000_000);
            },
            says: "section `title offsets`",
        },
        Hostile {
            name: "title text",
            edit: |b| {
                let at = section(b, 13, 0).start + 2;
                b[at] = b'a';
            },
            says: "section `title text`, element 0: text of item 1 is not UTF-8",
        },
        Hostile {
            name: "gap",
            edit: |b| {
                let at = section(b, 1, 0).end;
                b[at] = 1;
            },
            says: "are not zero",
        },
    ];
    let bytes = sample();
    for case in cases {
        let mut hostile = bytes.clone();
        (case.edit)(&mut hostile);
        reseal(&mut hostile);
        if let Ok(catalog) = Catalog::from_bytes(&hostile) {
            exercise(&catalog);
        }
        let message = error_of(&hostile).to_string();
        assert!(message.contains(case.says), "{}: {message}", case.name);
    }
}

#[test]
fn what_is_not_a_catalogue_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.sid");
    assert!(verify(&missing).unwrap_err().to_string().contains("missing.sid"));
    assert!(verify(dir.path()).unwrap_err().to_string().contains("not a regular file"));
    for (name, contents) in [("empty.sid", ""), ("text.sid", "item,sid0,sid1\n1,2,3\n")] {
        let path = dir.path().join(name);
        std::fs::write(&path, contents).unwrap();
        let message = Catalog::open(&path).unwrap_err().to_string();
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn a_written_file_opens_and_nothing_is_left_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.sid");
    for round in 0..2u64 {
        let mut builder = CatalogBuilder::new(&[3, 3]).unwrap();
        builder.add(NewItem { id: round, sid: &[1, 2], ..NewItem::default() }).unwrap();
        let bytes = builder.write(&path).unwrap();
        assert_eq!(bytes, std::fs::metadata(&path).unwrap().len());
        let catalog = Catalog::open(&path).unwrap();
        assert_eq!(catalog.ids(), [round]);
        assert_eq!(catalog.path(), path);
        verify(&path).unwrap();
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let mut builder = CatalogBuilder::new(&[3, 3]).unwrap();
    builder.add(NewItem { id: 1, sid: &[1, 2], ..NewItem::default() }).unwrap();
    let nowhere = Path::new("no such directory").join("catalog.sid");
    assert!(builder.write(&nowhere).unwrap_err().to_string().contains("no such directory"));
}
