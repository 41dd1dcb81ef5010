//! Both devices side by side, and the numbers that tests feed them.

use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use sidereal::device::cpu::{CpuDevice, Isa};
use sidereal::device::cuda::{Cublaslt, CudaDevice, has_cublaslt};
use sidereal::device::{CohortPlan, Dtype, SlotPlan};

/// Whether the tests run on the stand-in driver.
pub fn is_emulated() -> bool {
    match std::env::var("SIDEREAL_TEST_DRIVER").as_deref() {
        Ok("real") => false,
        Ok("emulated") | Err(_) => true,
        Ok(other) => panic!("SIDEREAL_TEST_DRIVER={other}: real or emulated"),
    }
}

/// The stand-in libraries, each with the name that programs look for.
pub const DRIVER: (&str, &str) = ("libemulated_cuda.so", "libcuda.so.1");
pub const CUBLASLT: (&str, &str) = ("libemulated_cublaslt.so", "libcublasLt.so.13");

/// Loads the driver that the tests run on, and its cuBLASLt: once they are loaded, the engine's search finds them by their sonames.
pub fn driver() {
    static LOADED: OnceLock<()> = OnceLock::new();
    if is_emulated() {
        LOADED.get_or_init(|| {
            for path in [DRIVER, CUBLASLT].map(|(library, _)| beside(library)) {
                sidereal_dylib::preload(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            }
        });
    }
}

/// A stand-in library, beside this test's binary, where cargo puts a library that a test depends on.
fn beside(library: &str) -> PathBuf {
    let path = std::env::current_exe().unwrap().with_file_name(library);
    assert!(path.exists(), "{} is missing: cargo builds it with the tests", path.display());
    path
}

/// A folder in which a program finds a stand-in library by the name that it looks for, and nothing else.
pub fn folder_of((library, name): (&str, &str)) -> PathBuf {
    static MADE: Mutex<()> = Mutex::new(());
    let _one_at_a_time = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let library = beside(library);
    let folder = library.with_file_name(format!("emulated-{name}"));
    std::fs::create_dir_all(&folder).unwrap();
    match std::os::unix::fs::symlink(&library, folder.join(name)) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => panic!("{}: {error}", folder.display()),
        _ => folder,
    }
}

/// The CUDA device.
pub fn cuda(compute: Dtype) -> CudaDevice {
    cuda_with(compute, Cublaslt::Off)
}

/// The CUDA device, with cuBLASLt or without.
pub fn cuda_with(compute: Dtype, cublaslt: Cublaslt) -> CudaDevice {
    driver();
    CudaDevice::open(0, compute, &std::env::temp_dir(), cublaslt).unwrap()
}

/// What computes products where these tests run: a card's machine may have no cuBLASLt.
pub fn products() -> &'static [Cublaslt] {
    driver();
    if has_cublaslt() { &[Cublaslt::Off, Cublaslt::On] } else { &[Cublaslt::Off] }
}

/// The oracle: the plain scalar CPU device.
pub fn oracle(compute: Dtype) -> CpuDevice {
    CpuDevice::new(Isa::Scalar, compute, 1).unwrap()
}

/// Both compute types.
pub const TYPES: [Dtype; 2] = [Dtype::F32, Dtype::Bf16];

/// Room for short tests.
pub fn slot_plan(slots: usize, history_pages: usize) -> SlotPlan {
    SlotPlan { slots, history_pages, prefix_pages: 2 }
}

/// Room for any requests that fit `rows`.
pub fn cohort_plan(rows: usize, steps: usize) -> CohortPlan {
    CohortPlan { rows, steps, requests: rows, banned_nodes: 1 << 12, lists: None }
}

/// Number of a nightly sweep (`tools/nightly`): other numbers, and every golden case; 0 is the test run.
pub fn sweep() -> u64 {
    std::env::var("SIDEREAL_SWEEP").map_or(0, |number| number.parse().expect("SIDEREAL_SWEEP is a number"))
}

/// Numbers between -1 and 1, the same for the same seed and sweep.
pub fn noise(seed: u64, len: usize) -> Vec<f32> {
    let seed = seed ^ sweep() << 32;
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len + 4).map(|_| next()).skip(4).collect()
}

/// Numbers agree to within `tolerance`, absolutely; the worst one is named.
pub fn assert_close(what: &str, actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (index, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
        let error = (actual - expected).abs();
        assert!(error <= tolerance, "{what}: element {index} is {actual} and not {expected}");
    }
}

/// Numbers are the same, bit for bit.
pub fn assert_same(what: &str, actual: &[f32], expected: &[f32]) {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(actual), bits(expected), "{what}");
}
