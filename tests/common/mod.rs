//! Shared by the end-to-end tests: golden exports, engines on them, seeded requests.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use sidereal::device::Dtype;
use sidereal::request::{History, Request};
use sidereal::schedule::{DeviceChoice, DeviceKind, Engine, EngineConfig, Limits};

/// The repository, or where `SIDEREAL_TEST_ROOT` says that `tests/goldens`, `demo` and `bin/sidereal` were carried to.
pub fn root() -> PathBuf {
    std::env::var_os("SIDEREAL_TEST_ROOT").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// Folder of a golden export.
pub fn golden(name: &str) -> PathBuf {
    root().join("tests/goldens").join(name)
}

/// Every golden export, by name.
pub fn golden_names() -> Vec<String> {
    let folder = golden("");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("sidereal.json").is_file())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 10, "the goldens are missing");
    names
}

/// The demo's export: trained weights, with goldens like the others.
pub fn demo_export() -> PathBuf {
    let path = root().join("demo/movielens/export");
    assert!(path.join("sidereal.json").is_file(), "{} is missing: it is part of the repository", path.display());
    path
}

/// Limits that fit the goldens: small, so that chunking, paging and cohorts all happen.
pub fn small_limits() -> Limits {
    Limits {
        max_prompt_tokens: 640,
        max_beams: 128,
        max_cohort_rows: 256,
        max_prefill_tokens: 256,
        max_sequences: 8,
        kv_bytes: 64 << 20,
        default_deadline: Duration::from_secs(600),
        ..Limits::default()
    }
}

/// An engine on the CPU.
pub fn engine(export: &Path, dtype: Dtype, threads: usize, limits: Limits) -> Engine {
    let choice =
        DeviceChoice { kind: DeviceKind::Cpu, dtype: Some(dtype), threads: Some(threads), ..DeviceChoice::default() };
    engine_on(choice, export, limits)
}

/// An engine on any device.
pub fn engine_on(device: DeviceChoice, export: &Path, limits: Limits) -> Engine {
    let config = EngineConfig { device, limits, ..EngineConfig::new(export) };
    Engine::start(&config).unwrap_or_else(|error| panic!("{}: {error}", export.display()))
}

/// A request for everything a beam search finds from a complete prompt.
pub fn prompt_request(id: u64, tokens: Vec<u32>, beams: u32) -> Request {
    Request::new(id, History::Tokens(tokens), beams, beams)
}

/// A small seeded generator (splitmix64), so that tests are the same everywhere.
pub struct Seeded(pub u64);

impl Seeded {
    /// Uniform below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}
