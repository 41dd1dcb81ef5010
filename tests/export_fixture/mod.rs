//! Small exports in a temporary directory, good ones and the means to break them.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::path::Path;

use tempfile::TempDir;

pub const CONFIG: &str = r#"{"model_type": "t5", "d_model": 4}"#;

pub const MANIFEST: &str = r#"{
  "sidereal": 1, "name": "tiny", "version": "7",
  "sid": {"levels": [{"codes": 3, "tokens": {"first": 10}}, {"codes": 2, "tokens": {"list": [21, 20]}}]},
  "prompt": {"prefix": [1], "item": {"prefix": [5], "suffix": [6]}, "suffix": [2, 3], "max_items": 2},
  "decoder_prefix": [0],
  "end": {"tokens": [4], "scored": true},
  "score": "full_then_mask", "length_penalty": 0.5
}"#;

/// One tensor to be written.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

pub fn tensor(name: &str, dtype: &str, shape: &[usize], bytes: Vec<u8>) -> Tensor {
    Tensor { name: name.into(), dtype: dtype.into(), shape: shape.into(), bytes }
}

pub fn floats(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// A safetensors file with a header written by hand, so that it can lie.
pub fn raw_file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// A correct safetensors file.
pub fn file(tensors: &[Tensor]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for t in tensors {
        let begin = data.len();
        data.extend_from_slice(&t.bytes);
        entries.push(format!(
            r#""{}":{{"dtype":"{}","shape":{:?},"data_offsets":[{begin},{}]}}"#,
            t.name,
            t.dtype,
            t.shape,
            data.len()
        ));
    }
    raw_file(&format!("{{{}}}", entries.join(",")), &data)
}

/// A JSON string.
fn json(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

/// A directory that goes when dropped.
pub struct Fixture(TempDir);

impl Fixture {
    pub fn empty() -> Fixture {
        Fixture(tempfile::tempdir().unwrap())
    }

    /// config.json, sidereal.json, model.safetensors with an f32, a bf16 and an i64 tensor.
    pub fn good() -> Fixture {
        let fixture = Fixture::empty();
        fixture.write("config.json", CONFIG.as_bytes());
        fixture.write("sidereal.json", MANIFEST.as_bytes());
        fixture.weights(&[
            tensor("shared.weight", "F32", &[3, 4], floats((0..12).map(|i| i as f32))),
            tensor("half", "BF16", &[2], vec![0x80, 0x3f, 0x00, 0xc0]),
            tensor("steps", "I64", &[1], vec![0; 8]),
        ]);
        fixture
    }

    /// Tensors `a` ([2]) and `b` ([1]) in two shards.
    pub fn sharded() -> Fixture {
        let fixture = Fixture::good();
        std::fs::remove_file(fixture.dir().join("model.safetensors")).unwrap();
        fixture.write("model-00001-of-00002.safetensors", &file(&[tensor("a", "F32", &[2], floats([1.0, 2.0]))]));
        fixture.write("model-00002-of-00002.safetensors", &file(&[tensor("b", "F32", &[1], floats([3.0]))]));
        fixture.index(&[("a", "model-00001-of-00002.safetensors"), ("b", "model-00002-of-00002.safetensors")]);
        fixture
    }

    pub fn dir(&self) -> &Path {
        self.0.path()
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.dir().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Some file systems flush a file that is truncated and written anew; the fuzz tests write thousands.
        let _ = std::fs::remove_file(&path);
        std::fs::write(path, bytes).unwrap();
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.dir().join(name)).unwrap();
    }

    pub fn weights(&self, tensors: &[Tensor]) {
        self.write("model.safetensors", &file(tensors));
    }

    pub fn index(&self, map: &[(&str, &str)]) {
        let entries: Vec<String> = map.iter().map(|(name, file)| format!("{}: {}", json(name), json(file))).collect();
        let text = format!(r#"{{"metadata": {{"total_size": 12}}, "weight_map": {{{}}}}}"#, entries.join(", "));
        self.write("model.safetensors.index.json", text.as_bytes());
    }
}
