//! Sources of a catalogue: what each format says is read, and what is wrong is named by file, line and field.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use sidereal::catalog::{Catalog, CatalogError, SourceFormat, SourceOptions, read_source};

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Dir {
        Dir(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, contents).unwrap();
        path
    }
}

fn read(path: &Path, options: &SourceOptions) -> Result<Catalog, CatalogError> {
    read_source(path, options, &mut |_, _| {})?.finish()
}

/// The message for a bad source, which must name the file; `says` must be in it.
fn refused(name: &str, contents: impl AsRef<[u8]>, codes: Option<&[u32]>, says: &str) {
    let dir = Dir::new();
    let path = dir.file(name, contents);
    let options = SourceOptions { codes: codes.map(<[u32]>::to_vec), ..SourceOptions::default() };
    let message = read(&path, &options).expect_err(says).to_string();
    assert!(message.contains(says), "expected `{says}` in: {message}");
    assert!(message.contains(name), "expected the file in: {message}");
}

fn item_of(catalog: &Catalog, id: u64) -> (Vec<u16>, f32, Option<&str>, Option<&str>) {
    let item = catalog.item(id).expect("item");
    let mut sid = vec![0; catalog.levels()];
    catalog.sid_of_leaf(catalog.leaf_of(item), &mut sid);
    (sid, catalog.weight(item), catalog.key(item), catalog.title(item))
}

/// What every format below says, as far as it can.
fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

#[test]
fn json_lines() {
    let dir = Dir::new();
    let text = concat!(
        "\u{feff}{\"item\":18446744073709551615,\"sid\":[3,17,44],\"weight\":2.5,\"key\":\"tt01\",\"title\":\"A \\\"quoted\\\" é\"}\r\n",
        "\n",
        "{\"sid\":[3,17,45],\"item\":0,\"weight\":null,\"title\":null}\n",
        "{\"item\":5,\"sid\":[3,17,44],\"weight\":3}",
    );
    let mut reports = Vec::new();
    let path = dir.file("items.jsonl", text);
    let builder =
        read_source(&path, &SourceOptions::default(), &mut |done, total| reports.push((done, total))).unwrap();
    assert_eq!(reports.last(), Some(&(text.len() as u64, text.len() as u64)));
    let catalog = builder.finish().unwrap();
    assert_eq!(item_of(&catalog, u64::MAX), (vec![3, 17, 44], 2.5, Some("tt01"), Some("A \"quoted\" é")));
    assert_eq!(item_of(&catalog, 0), (vec![3, 17, 45], 0.0, None, None));
    let shared: Vec<u64> = catalog.items_of_leaf(0).iter().map(|&item| catalog.id(item)).collect();
    assert_eq!(shared, [5, u64::MAX]);
    assert_eq!((0..3).map(|level| catalog.codes(level)).collect::<Vec<_>>(), [4, 18, 46], "one more than the largest");
}

#[test]
fn csv() {
    let dir = Dir::new();
    let text = "title,sid1,item,sid0,weight,key\n\"A, \"\"b\"\"\nsecond line\",2,7,1,0.5,k7\n,3,8,1,,\n";
    let catalog = read(&dir.file("items.csv", text), &SourceOptions::default()).unwrap();
    assert_eq!(item_of(&catalog, 7), (vec![1, 2], 0.5, Some("k7"), Some("A, \"b\"\nsecond line")));
    assert_eq!(item_of(&catalog, 8), (vec![1, 3], 0.0, None, None));
}

#[test]
fn index_json_with_titles() {
    let dir = Dir::new();
    let index = r#"{"0": ["<a_137>", "<b_112>"], "7": ["<a_24>", "<b_225>"]}"#;
    let path = dir.file("x.index.json", index);
    let info = dir.file("x.info.txt", "<a_137><b_112>\tA title\twith a tab\t0\n<a_24><b_225>\tOther\t7\n");
    let options = SourceOptions { info: Some(info), ..SourceOptions::default() };
    let catalog = read(&path, &options).unwrap();
    assert_eq!(item_of(&catalog, 0), (vec![137, 112], 0.0, None, Some("A title\twith a tab")));
    assert_eq!(item_of(&catalog, 7), (vec![24, 225], 0.0, None, Some("Other")));
    let numbers = read(&dir.file("n.json", r#"{"3": [1, 2]}"#), &SourceOptions::default()).unwrap();
    assert_eq!(item_of(&numbers, 3).0, [1, 2]);
}

#[test]
fn npy_of_every_integer_type() {
    let dir = Dir::new();
    let sids: [[u16; 2]; 3] = [[1, 2], [0, 250], [1, 2]];
    for descr in ["|u1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8"] {
        let width: usize = descr[2..].parse().unwrap();
        let data: Vec<u8> =
            sids.as_flattened().iter().flat_map(|&code| u64::from(code).to_le_bytes()[..width].to_vec()).collect();
        let catalog = read(&dir.file("codes.npy", npy(descr, "(3, 2)", &data)), &SourceOptions::default()).unwrap();
        for (row, sid) in sids.iter().enumerate() {
            assert_eq!(item_of(&catalog, row as u64).0, sid, "{descr}");
        }
    }
}

/// Keys as OpenOneRec packs them: (c0 * 8192 + c1) * 8192 + c2.
#[test]
fn open_one_rec() {
    let dir = Dir::new();
    let packed = (1071u64 * 8192 + 8191) * 8192 + 5;
    let text = format!(
        r#"{{"{packed}": [{{"pid": 9, "count": 7, "count_after_downsample": 2}}, {{"pid": 4, "count": 70}}],
            "0": [{{"iid": 18446744073709551615}}], "1": []}}"#
    );
    let path = dir.file("sid2pid.json", &text);
    let mut reports = Vec::new();
    let builder =
        read_source(&path, &SourceOptions::default(), &mut |done, total| reports.push((done, total))).unwrap();
    assert_eq!(reports.last(), Some(&(text.len() as u64, text.len() as u64)));
    let catalog = builder.finish().unwrap();
    assert_eq!((0..3).map(|level| catalog.codes(level)).collect::<Vec<_>>(), [8192; 3], "the packing's own");
    assert_eq!(item_of(&catalog, 9), (vec![1071, 8191, 5], 7.0, None, None));
    assert_eq!(item_of(&catalog, u64::MAX), (vec![0, 0, 0], 0.0, None, None));
    let shared: Vec<u64> = catalog.items_of_leaf(1).iter().map(|&item| catalog.id(item)).collect();
    assert_eq!(shared, [4, 9], "the more popular first");
    // Other codebooks, each level of its own size: (1 * 10 + 7) * 100 + 42.
    let options = SourceOptions { codes: Some(vec![4, 10, 100]), ..SourceOptions::default() };
    let catalog = read(&dir.file("s.json", r#"{"1742": [{"pid": 1}]}"#), &options).unwrap();
    assert_eq!(item_of(&catalog, 1).0, [1, 7, 42]);
}

#[test]
fn bad_open_one_rec() {
    let bad = |text: &str, says: &str| refused("sid2pid.json", text, None, says);
    let good = r#""5": [{"pid": 1, "count": 1}]"#;
    bad(&format!(r#"{{{good}, "x": [{{"pid": 2}}]}}"#), "record 2, field `key \"x\"`: expected a packed semantic ID");
    bad(&format!(r#"{{{good}, "-1": [{{"pid": 2}}]}}"#), "field `key \"-1\"`");
    bad(
        &format!(r#"{{{good}, "549755813888": [{{"pid": 2}}]}}"#),
        "too large to pack codes of levels [8192, 8192, 8192]",
    );
    bad(&format!("{{{good},\n \"6\": [{{\"pid\": -2}}]}}"), "line 2: column");
    bad(&format!(r#"{{{good}, "6": [{{"pid": 2, "pidd": 3}}]}}"#), "unknown field `pidd`");
    bad(&format!(r#"{{{good}, "6": [{{"count": 2}}]}}"#), "missing field `pid`");
    bad(&format!(r#"{{{good}, "6": [{{"pid": 2, "iid": 2}}]}}"#), "duplicate field `pid`");
    bad(&format!(r#"{{{good}, "6": {{"pid": 2}}}}"#), "a list of items such as");
    bad(&format!(r#"{{{good}, "6": [{{"pid": 1}}]}}"#), "record 1, and");
    bad(&format!("{{{good}"), "line 1: column");
    bad(&format!("{{{good}}} x"), "trailing characters");
    refused("sid2pid.json", format!("{{{good}}}"), Some(&[2, 2]), "record 1, field `key \"5\"`: too large");
}

/// Three levels whose tokens are in no order; codes 0, 1, 2 of each.
fn tokens() -> Option<Vec<Vec<u32>>> {
    Some(vec![vec![12, 11, 10], vec![20, 21, 22], vec![30, 32, 31]])
}

fn xllm(id: i64, strings: Option<(&str, &str)>, tokens: [i32; 3]) -> Vec<u8> {
    let mut bytes = id.to_le_bytes().to_vec();
    for text in strings.iter().flat_map(|(did, kind)| [did, kind]) {
        bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
    bytes
}

#[test]
fn xllm_records() {
    let dir = Dir::new();
    let options = |format| SourceOptions { format: Some(format), tokens: tokens(), ..SourceOptions::default() };
    let bytes = [xllm(7, None, [12, 21, 31]), xllm(i64::MAX, None, [10, 20, 30])].concat();
    assert_eq!(bytes.len(), 40);
    let catalog = read(&dir.file("content.bin", bytes), &options(SourceFormat::Xllm)).unwrap();
    assert_eq!(item_of(&catalog, 7), (vec![0, 1, 2], 0.0, None, None));
    assert_eq!(item_of(&catalog, i64::MAX as u64).0, [2, 0, 0]);
    let bytes = [xllm(7, Some(("doc-é", "video")), [12, 21, 31]), xllm(8, Some(("", "")), [10, 20, 30])].concat();
    let catalog = read(&dir.file("content.bin", bytes), &options(SourceFormat::XllmExtended)).unwrap();
    assert_eq!(item_of(&catalog, 7), (vec![0, 1, 2], 0.0, Some("doc-é"), None));
    assert_eq!(item_of(&catalog, 8), (vec![2, 0, 0], 0.0, None, None));
}

#[test]
fn bad_xllm_records() {
    let dir = Dir::new();
    let bad = |format, bytes: &[u8], tokens: Option<Vec<Vec<u32>>>, says: &str| {
        let options = SourceOptions { format: Some(format), tokens, ..SourceOptions::default() };
        let message = read(&dir.file("content.bin", bytes), &options).expect_err(says).to_string();
        assert!(message.contains(says) && message.contains("content.bin"), "expected `{says}` in: {message}");
    };
    let good = xllm(7, None, [12, 21, 31]);
    let after = |bytes: &[u8]| [&good[..], bytes].concat();
    let plain = |bytes: &[u8], says: &str| bad(SourceFormat::Xllm, bytes, tokens(), says);
    bad(SourceFormat::Xllm, &good, None, "--manifest");
    plain(&after(&xllm(-3, None, [12, 21, 31])), "record 2, field `item id`: byte offset 20: -3 is negative");
    plain(
        &after(&xllm(8, None, [12, 99, 31])),
        "field `token 1`: byte offset 32: item 8: token 99 spells no code of level 1",
    );
    plain(&after(&xllm(8, None, [-1, 21, 31])), "field `token 0`: byte offset 28: item 8: token -1");
    plain(
        &after(&xllm(8, None, [12, 21, 31])[..19]),
        "field `token 2`: byte offset 36: 4 bytes are needed, the file ends after 3",
    );
    plain(&after(&[0; 3]), "field `item id`: byte offset 20: 8 bytes are needed");
    plain(&after(&good), "item 7 is given twice: ");
    plain(&[], "has no items");
    let extended = |bytes: &[u8], says: &str| bad(SourceFormat::XllmExtended, bytes, tokens(), says);
    let record = xllm(7, Some(("did", "kind")), [12, 21, 31]);
    let with = |at: usize, value: &[u8]| {
        let mut record = record.clone();
        record[at..at + value.len()].copy_from_slice(value);
        record
    };
    extended(&with(8, &u32::MAX.to_le_bytes()), "field `did`: byte offset 8: 4294967295 bytes long, at most 1048576");
    extended(&with(8, &1000u32.to_le_bytes()), "field `did`: byte offset 12: 1000 bytes are needed");
    extended(&with(12, b"\xff"), "field `did`: byte offset 12: not UTF-8");
    extended(&with(19, b"\xff"), "field `type`: byte offset 19: not UTF-8");
    // The one form read as the other.
    extended(
        &[good.clone(), good.clone()].concat(),
        "field `did`: byte offset 12: a control character; are these records of the other form?",
    );
    plain(&record, "field `token 0`: byte offset 8");
}

#[test]
fn formats_are_told_from_name_or_content() {
    let dir = Dir::new();
    for (name, contents, format) in [
        ("a.jsonl", "whatever", SourceFormat::JsonLines),
        ("a.CSV", "whatever", SourceFormat::Csv),
        ("a", "{\"item\":1,\"sid\":[1,2]}\n{\"item\":2,\"sid\":[1,2]}\n", SourceFormat::JsonLines),
        ("b.json", "{\"item\":1,\"sid\":[1,2]}\n", SourceFormat::JsonLines),
        ("c.json", "{\"0\": [\"<a_1>\",\n\"<b_1>\"]}", SourceFormat::IndexJson),
        ("d.txt", "item,sid0,sid1\n", SourceFormat::Csv),
        ("sid2pid.json", "{\"5\":\n [ {\"pid\": 1}]}", SourceFormat::OpenOneRec),
    ] {
        assert_eq!(SourceFormat::detect(&dir.file(name, contents)).unwrap(), format, "{name}");
    }
    let data = npy("|u1", "(1, 2)", &[1, 2]);
    assert_eq!(SourceFormat::detect(&dir.file("e", data)).unwrap(), SourceFormat::Npy);
    let error = SourceFormat::detect(&dir.file("f", "hello")).unwrap_err().to_string();
    assert!(error.contains("cannot tell the format"), "{error}");
    for format in SourceFormat::ALL {
        assert_eq!(SourceFormat::from_name(format.name()), Some(format));
    }
    let forced = SourceOptions { format: Some(SourceFormat::Csv), ..SourceOptions::default() };
    assert!(read(&dir.file("g.jsonl", "item,sid0,sid1\n1,2,3\n"), &forced).is_ok());
}

#[test]
fn bad_json_lines() {
    let good = "{\"item\":1,\"sid\":[1,2]}\n";
    let bad = |line: &str, says: &str| refused("x.jsonl", format!("{good}\n{line}\n"), None, says);
    bad("{\"item\":2,", "line 3: column 10: not JSON");
    bad("[2]", "line 3: expected an object");
    bad("{\"sid\":[1,2]}", "line 3, field `item`: missing");
    bad("{\"item\":2}", "line 3, field `sid`: missing");
    bad("{\"item\":\"tt1\",\"sid\":[1,2]}", "line 3, field `item`: \"tt1\": expected a whole number");
    bad("{\"item\":-1,\"sid\":[1,2]}", "field `item`: -1");
    bad("{\"item\":2.5,\"sid\":[1,2]}", "field `item`: 2.5");
    bad("{\"item\":2,\"sid\":7}", "field `sid`: 7: expected a list");
    bad("{\"item\":2,\"sid\":[1,-2]}", "field `sid[1]`: -2");
    bad("{\"item\":2,\"sid\":[1]}", "line 3: item 2 has 1 codes, the catalogue has 2 levels");
    bad("{\"item\":2,\"sid\":[1,2,3,4,5,6,7,8,9]}", "line 3: item 2 has 9 codes");
    bad("{\"item\":2,\"sid\":[1,65536]}", "line 3: item 2, level 1: code 65536 is out of range");
    bad("{\"item\":2,\"sid\":[1,2],\"weight\":\"3\"}", "field `weight`: \"3\": expected a number");
    bad("{\"item\":2,\"sid\":[1,2],\"weight\":1e39}", "line 3: item 2 has weight 1000");
    bad("{\"item\":2,\"sid\":[1,2],\"key\":3}", "field `key`: 3: expected a string");
    bad("{\"item\":2,\"sid\":[1,2],\"wieght\":3}", "field `wieght`: unknown");
    bad("{\"item\":2,\"item\":3,\"sid\":[1,2]}", "duplicate field `item`");
    bad("{\"item\":1,\"sid\":[1,2]}", "item 1 is given twice: ");
    refused("x.jsonl", "{\"item\":1,\"sid\":[1]}", None, "line 1: item 1 has 1 codes; 2 to 8 are supported");
    refused("x.jsonl", "\n\n", None, "has no items");
    refused("x.jsonl", format!("{good}{}", "x".repeat(1 << 21)), None, "line 2: longer than 1048576 bytes");
    refused("x.jsonl", b"{\"item\":1,\"sid\":[1,2],\"title\":\"\xff\"}", None, "line 1: column");
    refused("x.jsonl", good, Some(&[9, 2]), "line 1: item 1, level 1: code 2 is out of range, the level has 2 codes");
    refused("x.jsonl", good, Some(&[9, 9, 9]), "item 1 has 2 codes, the catalogue has 3 levels");
}

#[test]
fn duplicates_name_both_places() {
    let dir = Dir::new();
    let line = |item: u64, key: &str| format!("{{\"item\":{item},\"sid\":[1,2],\"key\":\"{key}\"}}\n");
    let path = dir.file("d.jsonl", line(9, "a") + "\n" + &line(3, "b") + &line(4, "c") + &line(9, "d"));
    let message = read(&path, &SourceOptions::default()).unwrap_err().to_string();
    assert!(message.contains("item 9 is given twice"), "{message}");
    assert!(message.contains("line 1, and") && message.contains("line 5;"), "{message}");
    let path = dir.file("k.jsonl", line(9, "z") + &line(3, "b") + "\n" + &line(1, "z"));
    let message = read(&path, &SourceOptions::default()).unwrap_err().to_string();
    assert!(message.contains("key \"z\" is given twice"), "{message}");
    assert!(message.contains("line 1, and") && message.contains("line 4;"), "{message}");
}

#[test]
fn bad_csv() {
    let bad = |text: &str, says: &str| refused("x.csv", text, None, says);
    bad("sid0,sid1\n1,2\n", "line 1, field `item`: this column is missing");
    bad("item,weight\n1,2\n", "line 1, field `sid0`: this column is missing");
    bad("item,sid0,sid2\n1,2,3\n", "line 1, field `sid2`: there, though column sid1 is missing");
    bad("item,sid0,sid1,sid1\n1,2,3,4\n", "line 1, field `sid1`: this column is there twice");
    bad("item,sid0,sid1,sid8\n1,2,3,4\n", "line 1, field `sid8`: unknown column");
    bad("item,sid0,sid1\n1,2,3\n1,x,3\n", "line 3, field `sid0`: \"x\": expected a whole number");
    bad("item,sid0,sid1\n1,2,3\n4,5\n", "line 3: 2 columns, the header has 3");
    bad("item,sid0,sid1,weight\n1,2,3,heavy\n", "line 2, field `weight`: \"heavy\": expected a number");
    bad("item,sid0,sid1,weight\n1,2,3,inf\n", "line 2: item 1 has weight inf");
    bad("item,sid0,sid1\n1,2,3\n2,2,3\n1,2,3\n", "line 2, and");
    bad("item,sid0,sid1\n1,2,70000\n", "line 2: item 1, level 1: code 70000 is out of range");
    bad("item,sid0,sid1\n", "has no items");
    refused("x.csv", b"item,sid0,sid1,title\n1,2,3,\xff\n", None, "line 2: not UTF-8");
}

#[test]
fn bad_index_json() {
    let bad = |text: &str, says: &str| refused("x.json", text, None, says);
    bad(r#"{"0": ["<a_1>", "<b_2>"], "x": ["<a_1>", "<b_2>"]}"#, "entry 2, field `item`: item \"x\"");
    bad(r#"{"0": "<a_1>"}"#, "entry 1, field `item 0`: expected a list of tokens");
    bad(r#"{"0": ["<a_1>", "<b_>"]}"#, "entry 1, field `item 0, level 1`: \"<b_>\": expected a token");
    bad(r#"{"0": ["<a_1>", "<b_2>"], "1": ["<b_1>", "<a_2>"]}"#, "entry 2, field `item 1, level 0`: token <b_1>");
    bad(r#"{"0": ["<a_1>", "<b_2>"], "1": ["<a_1>"]}"#, "entry 2: item 1 has 1 codes");
    bad(r#"{"0": ["<a_1>", "<b_2>"], "0": ["<a_1>", "<b_3>"]}"#, "item 0 is given twice: ");
    bad("{\"0\": [\"<a_1>\",\n \"<b_2>\"", "line 2: column");
    bad("{}", "has no items");
    bad(r#"{"0": ["<a_1>", "<b_99999999999999999999>"]}"#, "expected a token");
}

#[test]
fn bad_info() {
    let dir = Dir::new();
    let path = dir.file("x.index.json", r#"{"0": ["<a_1>", "<b_2>"]}"#);
    for (text, says) in [
        ("<a_1><b_2> title 0\n", "line 1: expected tokens, tab, title, tab, item"),
        ("<a_1><b_2>\tT\tzero\n", "line 1, field `item`: \"zero\""),
        ("<a_1><b_3>\tT\t0\n", "line 1, field `tokens`: item 0 is <a_1><b_3> here and <a_1><b_2> in"),
        ("<a_1><b_2>\tT\t0\n<a_1><b_2>\tT\t5\n", "line 2, field `item`: item 5 is not in"),
        ("<a_1><b_2>\tT\t0\n<a_1><b_2>\tT\t0\n", "item 0 is given twice"),
    ] {
        let options = SourceOptions { info: Some(dir.file("info.txt", text)), ..SourceOptions::default() };
        let message = read(&path, &options).expect_err(says).to_string();
        assert!(message.contains(says) && message.contains("info.txt"), "{message}");
    }
}

#[test]
fn bad_npy() {
    let bad = |contents: Vec<u8>, says: &str| refused("x.npy", contents, None, says);
    bad(b"\x93NUM".to_vec(), "ends within its header");
    bad(b"\x93NUMPY\x09\x00\x00\x00".to_vec(), ".npy version 9");
    bad(b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(), "header of 4294967295 bytes");
    bad(b"PK\x03\x04not an array".to_vec(), "not a .npy file");
    bad(npy("<f4", "(1, 2)", &[0; 8]), "field `descr`: <f4");
    bad(npy(">u2", "(1, 2)", &[0; 4]), "field `descr`: >u2");
    bad(npy("|u1", "(2, 9)", &[0; 18]), "field `shape`: (2, 9): 2 to 8 levels");
    bad(npy("|u1", "(2,)", &[0; 2]), "field `shape`: (2,)");
    bad(npy("|u1", "(2, 2)", &[0; 3]), "does not fit the file");
    bad(npy("|u1", "(18446744073709551615, 2)", &[0; 3]), "does not fit the file");
    bad(npy("<i4", "(1, 2)", &[1, 0, 0, 0, 255, 255, 255, 255]), "row 0, field `level 1`: code -1 is negative");
    bad(npy("<u4", "(1, 2)", &[1, 0, 0, 0, 0, 0, 1, 0]), "row 0: item 0, level 1: code 65536");
    bad(npy("|u1", "(0, 2)", &[]), "has no items");
    let fortran = String::from_utf8_lossy(&npy("|u1", "(1, 2)", &[1, 2])[10..]).replace("False", "True ");
    let mut bytes = npy("|u1", "(1, 2)", &[1, 2])[..10].to_vec();
    bytes.extend_from_slice(fortran.as_bytes());
    bad(bytes, "field `fortran_order`");
}

#[test]
fn missing_files_are_named() {
    let message = read(Path::new("no/such/items.jsonl"), &SourceOptions::default()).unwrap_err().to_string();
    assert!(message.contains("no/such/items.jsonl"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever bytes a source holds, reading it gives a catalogue or an error.
    #[test]
    fn damaged_sources_never_panic(
        which in 0usize..7,
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let (format, mut bytes) = match which {
            0 => (SourceFormat::JsonLines, b"{\"item\":1,\"sid\":[1,2],\"weight\":2.5}\n{\"item\":2,\"sid\":[3,4],\"key\":\"k\"}\n".to_vec()),
            1 => (SourceFormat::Csv, b"item,sid0,sid1,weight,title\n1,2,3,0.5,\"a, b\"\n2,3,4,,c\n".to_vec()),
            2 => (SourceFormat::IndexJson, br#"{"0": ["<a_1>", "<b_2>"], "7": ["<a_24>", "<b_225>"]}"#.to_vec()),
            3 => (SourceFormat::OpenOneRec, br#"{"5": [{"pid": 1, "count": 3}, {"pid": 2}], "72": [{"iid": 3}]}"#.to_vec()),
            4 => (SourceFormat::Xllm, [xllm(1, None, [12, 21, 31]), xllm(2, None, [10, 20, 30])].concat()),
            5 => (SourceFormat::XllmExtended, [xllm(1, Some(("a", "b")), [12, 21, 31]), xllm(2, Some(("", "")), [10, 20, 30])].concat()),
            _ => (SourceFormat::Npy, npy("<i4", "(2, 2)", &[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0])),
        };
        for (at, value) in &edits {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let dir = Dir::new();
        let path = dir.file("source", &bytes);
        for format in [None, Some(format)] {
            match read(&path, &SourceOptions { format, tokens: tokens(), ..SourceOptions::default() }) {
                Ok(catalog) => prop_assert!(catalog.verify().is_ok()),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }
}
