//! A corpus of broken exports. Each must be refused with its own message, which names what is wrong and where.

mod export_fixture;

use export_fixture::{Fixture, MANIFEST, file, floats, raw_file, tensor};
use sidereal::export::{Export, ExportError};

/// Opens, or fails like `Export::open`.
fn open(fixture: &Fixture) -> Result<Export, ExportError> {
    Export::open(fixture.dir())
}

/// The message must contain every part.
fn check(what: &str, result: Result<(), ExportError>, parts: &[&str]) {
    let message = match result {
        Ok(()) => panic!("{what}: accepted"),
        Err(error) => error.to_string(),
    };
    for part in parts {
        assert!(message.contains(part), "{what}: {message:?} lacks {part:?}");
    }
    assert!(message.len() < 600, "{what}: a message is no dump: {message}");
}

/// Breaks a good export and opens it.
fn broken(what: &str, break_it: impl FnOnce(&Fixture), parts: &[&str]) {
    let fixture = Fixture::good();
    break_it(&fixture);
    check(what, open(&fixture).map(drop), parts);
}

/// Opens the sharded export, broken.
fn broken_shards(what: &str, break_it: impl FnOnce(&Fixture), parts: &[&str]) {
    let fixture = Fixture::sharded();
    break_it(&fixture);
    check(what, open(&fixture).map(drop), parts);
}

/// Replaces a piece of the manifest, once.
fn broken_manifest(from: &str, to: &str, parts: &[&str]) {
    assert!(MANIFEST.contains(from), "{from}");
    let write = |f: &Fixture| f.write("sidereal.json", MANIFEST.replacen(from, to, 1).as_bytes());
    broken(&format!("{from} -> {to}"), write, &[&["sidereal.json"], parts].concat());
}

/// A weights file with this header and data.
fn broken_header(what: &str, header: &str, data: &[u8], parts: &[&str]) {
    let write = |f: &Fixture| f.write("model.safetensors", &raw_file(header, data));
    broken(what, write, &[&["model.safetensors"], parts].concat());
}

#[test]
fn directories_that_are_no_exports() {
    let fixture = Fixture::good();
    let at = |name: &str| Export::open(fixture.dir().join(name)).map(drop);
    check("nothing there", at("nothing"), &["nothing: does not exist", "config.json"]);
    check("a file", at("config.json"), &["config.json: is not a directory"]);
    check("below a file", at("config.json/x"), &["config.json/x", "cannot be read"]);
    broken("no config", |f| f.remove("config.json"), &["config.json: file not found", "save_pretrained"]);
    broken("no manifest", |f| f.remove("sidereal.json"), &["sidereal.json: file not found", "docs/export-format.md"]);
    broken("no weights", |f| f.remove("model.safetensors"), &["model.safetensors: file not found"]);
    broken(
        "a directory for a file",
        |f| {
            f.remove("config.json");
            f.write("config.json/x", b"");
        },
        &["config.json: is not a regular file"],
    );
    broken(
        "both kinds of weights",
        |f| f.index(&[("a", "model.safetensors"), ("b", "model-00002-of-00002.safetensors")]),
        &["holds both model.safetensors and model.safetensors.index.json", "remove"],
    );
}

#[test]
fn weights_of_other_kinds_are_refused_by_name() {
    let cases = [
        ("pytorch_model.bin", "a PyTorch pickle", "safe_serialization=True"),
        ("pytorch_model.bin.index.json", "a PyTorch pickle", "safe_serialization=True"),
        ("adapter_config.json", "an unmerged LoRA adapter", "merge_and_unload"),
        ("model-Q4_K_M.gguf", "a GGUF file", "Hugging Face checkpoint"),
        ("epoch=3-step=100.ckpt", "a training checkpoint", "save_pretrained"),
        ("model-00001-of-00002.safetensors", "a shard without its index", "model.safetensors.index.json"),
        ("weights.safetensors", "under another name", "name it model.safetensors"),
    ];
    for (name, format, advice) in cases {
        let fixture = Fixture::empty();
        fixture.write(name, b"x");
        check(name, open(&fixture).map(drop), &[name, format, advice]);
    }
    // An adapter directory also holds safetensors; the adapter is what matters.
    let fixture = Fixture::empty();
    fixture.write("adapter_model.safetensors", b"x");
    fixture.write("adapter_config.json", b"{}");
    check("adapter", open(&fixture).map(drop), &["adapter_config.json", "unmerged LoRA"]);
}

#[test]
fn files_that_only_look_like_safetensors() {
    let with = |bytes: &'static [u8]| move |f: &Fixture| f.write("model.safetensors", bytes);
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    broken("LFS pointer", with(lfs), &["model.safetensors", "a Git LFS pointer", "git lfs pull"]);
    broken("pickle", with(b"PK\x03\x04rest-of-the-zip"), &["model.safetensors", "zip archive", "safe_serialization"]);
    broken("gguf", with(b"GGUF\x03\0\0\0rest"), &["model.safetensors", "a GGUF file"]);
    broken(
        "empty",
        with(b""),
        &["model.safetensors: is cut short", "the header's length needs 8 bytes, the file has 0"],
    );
    broken("seven bytes", with(b"\x10\0\0\0\0\0\0"), &["needs 8 bytes, the file has 7"]);
    broken("huge header", with(b"\xff\xff\xff\xff\0\0\0\0{}"), &["header of 4294967295 bytes", "100000000"]);
    broken("endless header", with(b"\xff\xff\xff\xff\xff\xff\xff\xff{}"), &["header of 18446744073709551615 bytes"]);
    broken("short header", with(b"\x10\0\0\0\0\0\0\0{}"), &["the header needs 24 bytes, the file has 10"]);
    broken("not UTF-8", with(b"\x02\0\0\0\0\0\0\0\xff\xfe"), &["bad safetensors header", "not UTF-8"]);
    broken_header("not JSON", "{\"a\":", b"", &["bad safetensors header: not JSON", "line 1"]);
    broken_header("a list", "[]", b"", &["bad safetensors header"]);
}

#[test]
fn headers_that_lie() {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"w.x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let two = |first: &str, second: &str| {
        format!(
            r#"{{"w.x":{{"dtype":"F32","shape":[2],"data_offsets":{first}}},"w.y":{{"dtype":"F32","shape":[2],"data_offsets":{second}}}}}"#
        )
    };
    let overlap = ["tensor `w.y` begins at data byte 4, inside tensor `w.x` that ends at 8"];
    broken_header("overlap", &two("[0,8]", "[4,12]"), &[0; 12], &overlap);
    broken_header("gap", &two("[0,8]", "[12,20]"), &[0; 20], &["4 bytes before tensor `w.y` (at data byte 8)"]);
    broken_header(
        "late start",
        &one("F32", "[1]", "[4,8]"),
        &[0; 8],
        &["4 bytes before tensor `w.x` (at data byte 0)"],
    );
    broken_header(
        "cut data",
        &one("F32", "[2]", "[0,8]"),
        &[0; 7],
        &["is cut short: tensor `w.x` needs", "copy or download"],
    );
    broken_header("more data", &one("F32", "[2]", "[0,8]"), &[0; 11], &["3 bytes follow the last tensor `w.x`"]);
    broken_header("no tensor but data", "{}", &[0; 3], &["3 bytes follow the last tensor"]);
    broken_header("size", &one("F32", "[3]", "[0,8]"), &[0; 8], &["tensor `w.x`", "[3] of F32 needs 12 bytes, has 8"]);
    broken_header(
        "backwards",
        &one("F32", "[2]", "[8,0]"),
        &[0; 8],
        &["tensor `w.x`", "ends at data byte 0, before its begin at 8"],
    );
    let huge = "[4294967296,4294967296,2]";
    broken_header(
        "overflow",
        &one("F32", huge, "[0,8]"),
        &[0; 8],
        &["tensor `w.x`", "[4294967296, 4294967296, 2] overflows"],
    );
    // The product is 0, but the product of the columns is not.
    let hidden = "[0,4294967296,4294967296]";
    broken_header("hidden overflow", &one("F32", hidden, "[0,0]"), &[], &["tensor `w.x`", "overflows"]);
    let far = "[0,18446744073709551615]";
    broken_header(
        "far end",
        &one("F32", "[2]", far),
        &[0; 8],
        &["tensor `w.x`", "needs 8 bytes, has 18446744073709551615"],
    );
    broken_header("type", &one("F99", "[2]", "[0,8]"), &[0; 8], &["bad safetensors header", "F99"]);
    broken_header("negative", &one("F32", "[-2]", "[0,8]"), &[0; 8], &["bad safetensors header"]);
    broken_header("no shape", r#"{"w":{"dtype":"F32","data_offsets":[0,8]}}"#, &[0; 8], &["bad safetensors header"]);
    let twice = r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    broken_header("twice", twice, &[0; 8], &["bad safetensors header", "\"w\" appears twice"]);
}

/// What a hostile file puts into a message neither floods nor steers the terminal.
#[test]
fn messages_are_short_and_plain() {
    let long = "w".repeat(100_000);
    let header = format!(r#"{{"{long}\n":{{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}}}"#);
    broken_header("long name", &header, &[0; 4], &["wwww...", "needs 8 bytes"]);
    let escape = r#"{"\u001b[31m\n":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#;
    broken_header("escape", escape, &[0; 4], &[r"tensor `\u{1b}[31m\n`"]);
    broken_manifest("\"name\"", &format!("\"{long}\": 1, \"name\""), &["unknown key `wwww"]);
    broken_manifest("\"tiny\"", &format!("\"{long}\""), &["`name`", "www\"..."]);
}

#[test]
fn shards_that_do_not_fit_their_index() {
    let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let index = "model.safetensors.index.json";
    broken_shards("absent shard", |f| f.remove(two), &[index, two, "(for tensor `b`)", "absent"]);
    broken_shards("cut shard", |f| f.write(two, &[8, 0, 0]), &[two, "is cut short"]);
    broken_shards(
        "absent tensor",
        |f| f.index(&[("a", one), ("b", two), ("c", one)]),
        &[index, "tensor `c` is in", one],
    );
    broken_shards("wrong shard", |f| f.index(&[("a", one), ("b", one)]), &[index, "tensor `b` is in", one]);
    broken_shards(
        "unlisted tensor",
        |f| f.write(two, &file(&[tensor("b", "F32", &[1], floats([3.0])), tensor("z", "F32", &[1], floats([3.0]))])),
        &[index, two, "holds tensor `z`", "does not list"],
    );
    broken_shards(
        "tensor in two shards",
        |f| f.write(two, &file(&[tensor("a", "F32", &[1], floats([3.0])), tensor("b", "F32", &[1], floats([3.0]))])),
        &[index, "tensor `a` is in two shards", one, two],
    );
    broken_shards("tensor twice", |f| f.index(&[("a", one), ("a", two)]), &[index, "\"a\" appears twice"]);
    for path in ["../x.safetensors", "/etc/passwd", "a/../../x", "..", "", "a\\..\\x", "x\0y", "."] {
        let part = ["plain path inside the export", "tensor `a`", index];
        broken_shards(path, |f| f.index(&[("a", path), ("b", two)]), &part);
    }
    let write = |text: &'static str| move |f: &Fixture| f.write(index, text.as_bytes());
    broken_shards("no weight_map", write("{}"), &[index, "`weight_map` is missing"]);
    broken_shards("weight_map list", write(r#"{"weight_map": []}"#), &[index, "`weight_map` must be an object"]);
    broken_shards("weight_map empty", write(r#"{"weight_map": {}}"#), &[index, "at least one tensor"]);
    broken_shards(
        "number",
        write(r#"{"weight_map": {"a": 1}}"#),
        &[index, "`weight_map.a` must be a file name, found 1"],
    );
    broken_shards("not JSON", write("{"), &[index, "is not valid JSON"]);
    broken_shards("a list", write("[]"), &[index, "must be an object with `weight_map`"]);
}

#[test]
fn configurations() {
    let with = |text: &'static [u8]| move |f: &Fixture| f.write("config.json", text);
    broken("not JSON", with(b"{\"model_type\": t5}"), &["config.json: is not valid JSON", "line 1 column 17"]);
    broken("not UTF-8", with(b"{\"\xff\": 1}"), &["config.json: is not UTF-8", "byte 2"]);
    broken("a list", with(b"[1]"), &["config.json", "must be an object, found an array of 1"]);
    broken("no type", with(b"{}"), &["config.json: `model_type` is missing"]);
    broken("type", with(b"{\"model_type\": 5}"), &["config.json: `model_type` must be a string, found 5"]);
    broken("twice", with(b"{\"d\": 1, \"d\": 2}"), &["config.json", "\"d\" appears twice"]);
    let bloat = |f: &Fixture| std::fs::File::create(f.dir().join("config.json")).unwrap().set_len(40 << 20).unwrap();
    broken("bloated", bloat, &["config.json: is 41943040 bytes long", "at most 33554432"]);
}

#[test]
fn manifests_with_wrong_keys_and_types() {
    broken_manifest("\"sidereal\": 1", "\"sidereal\": 2", &["`sidereal` must be the format's version, 1, found 2"]);
    broken_manifest("\"sidereal\": 1, ", "", &["`sidereal` is missing"]);
    broken_manifest("\"length_penalty\"", "\"lenght_penalty\"", &["unknown key `lenght_penalty`", "`length_penalty`"]);
    broken_manifest("\"length_penalty\"", "\"temperature\"", &["unknown key `temperature`", "known here: `sidereal`"]);
    broken_manifest("\"codes\": 2", "\"code\": 2", &["unknown key `sid.levels[1].code`", "did you mean `codes`"]);
    broken_manifest("\"list\"", "\"lists\"", &["unknown key `sid.levels[1].tokens.lists`", "did you mean `list`"]);
    broken_manifest("\"item\": {\"prefix\"", "\"item\": {\"prefx\"", &["`prompt.item.prefx`", "`prefix`"]);
    broken_manifest("\"tokens\": [4]", "\"token\": [4]", &["unknown key `end.token`", "`tokens`"]);
    broken_manifest("\"tiny\"", "7", &["`name` must be a string", "found 7"]);
    broken_manifest("\"tiny\"", "\"\"", &["`name` must be a string of 1 to 128"]);
    broken_manifest("\"tiny\"", "\"a\\nb\"", &["`name`", "control characters"]);
    broken_manifest("\"7\"", "7", &["`version` must be a string", "found 7"]);
    broken_manifest(
        "\"first\": 10",
        "\"first\": -1",
        &["`sid.levels[0].tokens.first`", "from 0 to 4294967295", "found -1"],
    );
    broken_manifest("\"first\": 10", "\"first\": 1e3", &["`sid.levels[0].tokens.first`", "found 1000.0"]);
    broken_manifest("[21, 20]", "[21, \"20\"]", &["`sid.levels[1].tokens.list[1]` must be a token id", "found \"20\""]);
    broken_manifest("\"codes\": 3", "\"codes\": 0", &["`sid.levels[0].codes`", "from 1 to 65536", "found 0"]);
    broken_manifest("\"codes\": 3", "\"codes\": 65537", &["`sid.levels[0].codes`", "found 65537"]);
    broken_manifest("\"scored\": true", "\"scored\": 1", &["`end.scored` must be true or false, found 1"]);
    broken_manifest("\"tokens\": [4]", "\"tokens\": []", &["`end.tokens` must be a list of at least one token id"]);
    broken_manifest("\"decoder_prefix\": [0]", "\"decoder_prefix\": []", &["`decoder_prefix`", "at least one"]);
    broken_manifest(
        "\"decoder_prefix\": [0]",
        "\"decoder_prefix\": 0",
        &["`decoder_prefix` must be a list of token ids, found 0"],
    );
    broken_manifest(
        "\"full_then_mask\"",
        "\"full_then_msk\"",
        &["`score`", "\"level_head\"", "did you mean \"full_then_mask\"?"],
    );
    broken_manifest(
        "\"full_then_mask\"",
        "\"softmax\"",
        &["`score` must be one of \"full_then_mask\"", "found \"softmax\""],
    );
    broken_manifest("\"score\": \"full_then_mask\",", "", &["`score` is missing"]);
    broken_manifest("0.5", "-0.5", &["`length_penalty` must be a number from 0 to 16", "found -0.5"]);
    broken_manifest("0.5", "1e300", &["`length_penalty`"]);
    broken_manifest("0.5", "1e999", &["is not valid JSON", "out of range"]);
    broken_manifest("0.5", "NaN", &["is not valid JSON"]);
    broken_manifest("0.5", "null", &["`length_penalty`", "found null"]);
    broken_manifest("\"max_items\": 2", "\"max_items\": 0", &["`prompt.max_items`", "found 0"]);
    broken_manifest("\"version\": \"7\"", "\"version\": \"7\", \"name\": \"x\"", &["\"name\" appears twice"]);
}

#[test]
fn manifests_that_contradict_themselves() {
    broken_manifest(
        ", {\"codes\": 2, \"tokens\": {\"list\": [21, 20]}}",
        "",
        &["`sid.levels` must be a list of 2 to 8 levels, found an array of 1"],
    );
    let nine = ["{\"codes\": 1, \"tokens\": {\"first\": 1}}"; 9].join(",");
    let levels = "{\"codes\": 3, \"tokens\": {\"first\": 10}}, {\"codes\": 2, \"tokens\": {\"list\": [21, 20]}}";
    broken_manifest(levels, &nine, &["`sid.levels`", "found an array of 9"]);
    broken_manifest("[21, 20]", "[21, 20, 19]", &["`sid.levels[1].tokens.list`", "lists 3 tokens", "2 codes"]);
    broken_manifest("[21, 20]", "[21, 21]", &["`sid.levels[1].tokens.list`", "token 21 stands for code 0 and code 1"]);
    broken_manifest(
        "\"first\": 10",
        "\"first\": 4294967294",
        &["`sid.levels[0].tokens.first`", "4294967294 + 3 codes"],
    );
    broken_manifest(
        "{\"first\": 10}",
        "{\"first\": 10, \"list\": [1, 2, 3]}",
        &["`sid.levels[0].tokens`", "either `first` or `list`"],
    );
    broken_manifest("{\"first\": 10}", "{}", &["`sid.levels[0].tokens`", "either `first` or `list`"]);
    broken_manifest(
        "\"full_then_mask\"",
        "\"level_norm\"",
        &["`end.scored`", "only under `full_then_mask`", "\"level_norm\""],
    );
    broken_manifest(
        "\"name\"",
        "\"catalog\": \"../catalog.sid\", \"name\"",
        &["`catalog`", "\"../catalog.sid\" is not a plain path inside"],
    );
    broken_manifest("\"name\"", "\"catalog\": \"/catalog.sid\", \"name\"", &["`catalog`", "inside the export"]);
    broken_manifest("\"name\"", "\"catalog\": \"\", \"name\"", &["`catalog`", "inside the export"]);
}

#[test]
fn manifests_that_contradict_the_model() {
    let against = |from: &str, to: &str, vocabulary: usize, encoder_decoder: bool, parts: &[&str]| {
        let fixture = Fixture::good();
        assert!(MANIFEST.contains(from), "{from}");
        fixture.write("sidereal.json", MANIFEST.replacen(from, to, 1).as_bytes());
        let export = open(&fixture).unwrap();
        let result = export.manifest().validate_against(vocabulary, encoder_decoder);
        check(&format!("{from} -> {to}"), result, &[&["sidereal.json"], parts].concat());
    };
    against("x", "x", 22, false, &["`decoder_prefix`", "decoder-only", "remove it"]);
    against("\"decoder_prefix\": [0],", "", 22, true, &["`decoder_prefix` is missing", "[0] for T5"]);
    against("x", "x", 21, true, &["`sid.levels[1].tokens.list[0]` names token 21", "21 tokens (0 to 20)"]);
    against("x", "x", 12, true, &["`sid.levels[0].tokens.first (10 + 3 codes)` names token 12"]);
    against("\"prefix\": [1]", "\"prefix\": [1, 99]", 22, true, &["`prompt.prefix[1]` names token 99"]);
    against("\"suffix\": [6]", "\"suffix\": [99]", 22, true, &["`prompt.item.suffix[0]` names token 99"]);
    against("\"decoder_prefix\": [0]", "\"decoder_prefix\": [99]", 22, true, &["`decoder_prefix[0]` names token 99"]);
    against("\"tokens\": [4]", "\"tokens\": [99]", 22, true, &["`end.tokens[0]` names token 99"]);
    let export = open(&Fixture::good()).unwrap();
    export.manifest().validate_against(22, true).unwrap();
    let catalog = |highest: &[u16]| export.manifest().validate_catalog(highest);
    catalog(&[2, 1]).unwrap();
    check("codes", catalog(&[2, 2]), &["sidereal.json", "code 2 of level 1 is beyond its 2 codes"]);
    check("levels", catalog(&[2, 1, 0]), &["sidereal.json", "it has 3 levels, the export has 2"]);
}

#[test]
fn tensors_that_are_not_what_was_asked_for() {
    let fixture = Fixture::good();
    let export = open(&fixture).unwrap();
    let weights = export.weights();
    let file = "model.safetensors";
    let missing = weights.tensor("shared.weigth").map(drop);
    check("slip", missing, &[file, "no tensor `shared.weigth`", "nearest name is `shared.weight`"]);
    let missing = weights.tensor("model.embed_tokens").map(drop);
    check("nothing near", missing, &[file, "no tensor `model.embed_tokens`", "holds 3 tensors, the first is `half`"]);
    let long = weights.tensor(&"x".repeat(300)).map(drop);
    check("long", long, &[file, "holds 3 tensors"]);
    let shape = weights.expect("shared.weight", &[4, 3]).map(drop);
    check("shape", shape, &[file, "`shared.weight` must be [4, 3]", "found [3, 4]"]);
    let shape = weights.expect("shared.weight", &[12]).map(drop);
    check("shape", shape, &["`shared.weight` must be [12]"]);
    for result in [weights.tensor("steps").map(drop), weights.optional("steps").map(drop)] {
        check("type", result, &[file, "tensor `steps` holds I64", "F32, F16 or BF16"]);
    }
    fixture.write(file, &raw_file("{}", b""));
    let empty = open(&fixture).unwrap().weights().tensor("x").map(drop);
    check("empty", empty, &[file, "holds no tensors"]);
}

#[test]
fn catalogues_that_cannot_be_found() {
    let fixture = Fixture::good();
    let locate = || open(&fixture).unwrap().catalog_path().map(drop);
    check("none", locate(), &["no catalogue", "sidereal catalog build --from ITEMS --out", "catalog.sid"]);
    fixture.write("A.index.json", b"{}");
    fixture.write("B.index.json", b"{}");
    check("two", locate(), &["A.index.json and", "B.index.json could be", "`catalog` in sidereal.json"]);
    let name = |file: &str| {
        let text = MANIFEST.replacen("\"name\"", &format!("\"catalog\": \"{file}\", \"name\""), 1);
        fixture.write("sidereal.json", text.as_bytes());
    };
    name("shop.sid");
    check("absent", locate(), &["shop.sid", "does not exist", "sidereal catalog build"]);
    fixture.write("shop.parquet", b"");
    name("shop.parquet");
    check("kind", locate(), &["shop.parquet", "must name a .sid, .jsonl, .csv or .json file"]);
}

#[test]
fn goldens_name_their_line() {
    let fixture = Fixture::good();
    fixture.write("golden/cases.jsonl", b"\n{\"id\": 1}\n");
    let goldens = open(&fixture).unwrap().goldens().map(drop);
    check("golden", goldens, &["golden/cases.jsonl:2: `tokens` is missing"]);
}

/// A pipe in place of a file would block the one who opens it, for ever.
#[cfg(unix)]
#[test]
fn a_pipe_is_refused_without_opening_it() {
    for name in ["model.safetensors", "sidereal.json", "config.json"] {
        broken(
            name,
            |f| {
                f.remove(name);
                let made = std::process::Command::new("mkfifo").arg(f.dir().join(name)).status().unwrap();
                assert!(made.success());
            },
            &[name, "is not a regular file"],
        );
    }
}

/// Hugging Face's cache keeps files elsewhere and links to them.
#[cfg(unix)]
#[test]
fn symbolic_links_are_followed() {
    let (fixture, elsewhere) = (Fixture::sharded(), Fixture::empty());
    let shard = "model-00002-of-00002.safetensors";
    std::fs::rename(fixture.dir().join(shard), elsewhere.dir().join("blob")).unwrap();
    std::os::unix::fs::symlink(elsewhere.dir().join("blob"), fixture.dir().join(shard)).unwrap();
    open(&fixture).unwrap();
    elsewhere.remove("blob");
    check("dangling", open(&fixture).map(drop), &[shard, "absent"]);
}
