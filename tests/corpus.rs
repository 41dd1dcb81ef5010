//! The fuzz targets without a fuzzer: the committed corpus, and the repository's own fixtures, through the same functions
//! that `tools/fuzz` drives. So every `cargo test` shows that what fuzzing once found stays fixed, on a stable compiler.
//!
//! `SIDEREAL_WRITE_SEEDS=FOLDER cargo test --test corpus` also writes the fixtures as inputs, a folder a target: what a corpus
//! is grown from.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::path::{Path, PathBuf};

use serde_json::Value;
use sidereal::catalog::{CatalogBuilder, NewItem, SourceFormat, SourceOptions, read_source};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files of a folder, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn the_committed_corpus_breaks_no_promise() {
    let mut bytes = 0;
    for (name, run) in targets::TARGETS {
        let inputs = files(&root().join("fuzz/corpus").join(name));
        assert!(inputs.len() >= 10, "{name} has {} inputs", inputs.len());
        for input in inputs {
            let data = std::fs::read(&input).unwrap();
            bytes += data.len();
            // The panic of a target does not know its input.
            let result = std::panic::catch_unwind(|| run(&data));
            assert!(result.is_ok(), "broken by {}", input.display());
        }
    }
    assert!(bytes < 1 << 20, "the corpus has {bytes} bytes: tools/fuzz minimise");
}

#[test]
fn our_own_fixtures_break_no_promise() {
    let out = std::env::var_os("SIDEREAL_WRITE_SEEDS").map(PathBuf::from);
    for (name, inputs) in [
        ("frame", frames(&["recommend", "reply", "control", "handshake", "malformed"], &[0, 30])),
        ("client_frame", frames(&["reply", "control", "handshake", "malformed"], &[0, 1, 3])),
        ("manifest", manifests()),
        ("safetensors", weights()),
        ("catalog", catalogs()),
        ("catalog_source", sources()),
    ] {
        assert!(inputs.len() >= 4, "{name}");
        for (number, input) in inputs.iter().enumerate() {
            targets::run(name, input);
            if let Some(out) = &out {
                std::fs::create_dir_all(out.join(name)).unwrap();
                std::fs::write(out.join(name).join(format!("seed-{number}")), input).unwrap();
            }
        }
    }
}

/// The vectors of the wire protocol, with each of `modes` as the first byte.
fn frames(files: &[&str], modes: &[u8]) -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    for file in files {
        let path = root().join("tests/wire/vectors").join(file).with_extension("json");
        let value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for vector in value["vectors"].as_array().unwrap() {
            let lines = vector["hex"].as_array().unwrap().iter().flat_map(|line| line.as_str().unwrap().chars());
            let digits: Vec<u8> = lines.filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
            let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
            inputs.extend(modes.iter().map(|mode| [&[*mode][..], &bytes].concat()));
        }
    }
    inputs
}

/// Manifest and configuration of every golden export.
fn manifests() -> Vec<Vec<u8>> {
    let exports = files(&root().join("tests/goldens")).into_iter().filter(|path| path.join("sidereal.json").is_file());
    let read = |path: PathBuf| std::fs::read(path).unwrap();
    exports.map(|path| [read(path.join("sidereal.json")), read(path.join("config.json"))].join(&0)).collect()
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0x3f; data]].concat()
}

/// Small files of every element type, alone and under an index.
fn weights() -> Vec<Vec<u8>> {
    let all = r#"{"__metadata__":{"format":"pt"},"a.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},
        "b":{"dtype":"BF16","shape":[2],"data_offsets":[16,20]},"c":{"dtype":"F16","shape":[0,3],"data_offsets":[20,20]},
        "d":{"dtype":"I64","shape":[],"data_offsets":[20,28]}}"#;
    let one = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let index = |name: &str, file: &str| {
        let index = format!(r#"{{"metadata":{{"total_size":4}},"weight_map":{{"{name}":"{file}"}}}}"#);
        [&safetensors(one, 4)[..], b"\xff\xfe\xff", index.as_bytes()].concat()
    };
    let golden = std::fs::read(root().join("tests/goldens/t5-relu/model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(*golden.first_chunk().unwrap()) as usize;
    vec![
        safetensors(all, 28),
        safetensors(one, 4),
        safetensors(one, 3),
        safetensors("{}", 0),
        golden[..header].to_vec(),
        index("a", "model.safetensors"),
        index("b", "model.safetensors"),
        index("a", "../model.safetensors"),
        index("a", "missing.safetensors"),
    ]
}

/// Catalogues of two to eight levels, with and without weights, keys and titles.
fn catalogs() -> Vec<Vec<u8>> {
    let mut built = vec![];
    for golden in ["t5-small-catalog", "t5-relu"] {
        let path = root().join("tests/goldens").join(golden).join("items.csv");
        let options = SourceOptions { format: Some(SourceFormat::Csv), ..SourceOptions::default() };
        built.push(read_source(&path, &options, &mut |_, _| {}).unwrap());
    }
    for (levels, keys) in [(2, true), (3, false), (8, true)] {
        let mut builder = CatalogBuilder::inferring();
        for id in 0..20u64 {
            let sid: Vec<u16> = (0..levels).map(|level| (id >> (level % 4)) as u16 % 7).collect();
            let text = format!("key {id}");
            let key = (keys && id % 3 != 0).then_some(text.as_str());
            builder.add(NewItem { id: id * id, sid: &sid, weight: (id % 5) as f32, key, title: key }).unwrap();
        }
        built.push(builder);
    }
    built.into_iter().map(|builder| builder.finish().unwrap().bytes().to_vec()).collect()
}

/// A small source of each format, told by name and to be told from its bytes.
fn sources() -> Vec<Vec<u8>> {
    let lines = "{\"item\":1,\"sid\":[3,17,44],\"weight\":2.5,\"key\":\"tt01\",\"title\":\"One\"}\n\n{\"item\":2,\"sid\":[3,17,45]}\n";
    let csv = "item,sid0,sid1,weight,key,title\n7,1,2,0.5,a,\"A, quoted\"\n9,1,3,,,\n";
    let index = r#"{"0": ["<a_137>", "<b_112>"], "5": ["<a_1>", "<b_299>"], "6": [1, 2]}"#;
    let mut header = b"{'descr': '<u2', 'fortran_order': False, 'shape': (2, 3), }".to_vec();
    header.resize(117, b' ');
    header.push(b'\n');
    let npy =
        [&b"\x93NUMPY\x01\x00"[..], &118u16.to_le_bytes(), &header, &[1, 0, 2, 0, 3, 0, 1, 0, 2, 0, 4, 0]].concat();
    let packed =
        r#"{"0": [{"pid": 5, "count": 3, "count_after_downsample": 1}], "71868170501": [{"iid": 6}, {"pid": 7}]}"#;
    let record = |id: i64, strings: &[u8]| [&id.to_le_bytes()[..], strings, &[5, 0, 0, 0, 70, 0, 0, 0]].concat();
    let strings = b"\x02\0\0\0ab\0\0\0\0";
    let (records, extended) = ([record(9, &[]), record(10, &[])].concat(), record(9, strings));
    let sources: [&[u8]; 7] =
        [lines.as_bytes(), csv.as_bytes(), index.as_bytes(), &npy, packed.as_bytes(), &records, &extended];
    let named = sources.iter().zip(0u8..).map(|(source, format)| [&[format][..], source].concat());
    named.chain(sources.iter().map(|source| [&[15][..], source].concat())).collect()
}
