//! The kernels' images and what stands in for them, against the real NVRTC 12.9 that `tools/cuda-toolchain` installs. No GPU.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kernel_compiler::{Cache, Sources, Target as CompiledFor, Unit, compile_all, ptx, toolchain};
use sidereal::device::cuda::images::{Card, Image, Module, Target};
use sidereal::device::cuda::load::{KernelError, Loader};
use sidereal::device::cuda::nvrtc;
use sidereal_ffi::params::PARAMETER_BYTES;

const A100: Card = Card { capability: 80, driver: 12080 };
/// Newer than any card that NVRTC 12.9 knows.
const LATER: Card = Card { capability: 130, driver: 13000 };
const SOURCE: &str = r#"
#include "ptx.h"
KERNEL(32) doubled(const __grid_constant__ uint64_t p) {
    pointer<bf16>(p)[threadIdx.x] = from_float<bf16>(2.0f * to_float(pointer<bf16>(p)[threadIdx.x]));
}"#;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

fn nvrtc_12_9() -> PathBuf {
    let set = target_folder().join("cuda-toolchain").join(toolchain::SHIPPED_SET);
    assert!(set.join(".complete").exists(), "run tools/cuda-toolchain: {} is missing", set.display());
    set
}

/// Makes the installed NVRTC the one that the engine finds: a library that is loaded already is found by its bare name.
fn preload_nvrtc() {
    static LOADED: OnceLock<()> = OnceLock::new();
    LOADED.get_or_init(|| {
        let path = nvrtc_12_9().join("nvidia/cuda_nvrtc/lib/libnvrtc.so.12");
        sidereal_dylib::preload(&path).expect("NVRTC 12.9 can be loaded");
    });
}

fn module(source: &'static str) -> Module {
    Module { name: "doubled", source, images: &[] }
}

/// The image that a driver of `card` would be given.
fn load(source: &'static str, card: Card, cache: &Path) -> Result<Image, KernelError> {
    preload_nvrtc();
    Loader::new(card, cache.to_owned()).load(&module(source), |image| Ok::<_, String>(image.clone()))
}

fn only_file(folder: &Path) -> PathBuf {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let kernels: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|kind| kind == "kernel")).collect();
    let [file] = &kernels[..] else { panic!("not one file: {kernels:?}") };
    file.clone()
}

#[test]
fn a_module_without_image_is_compiled_for_the_card() {
    let cache = tempfile::tempdir().unwrap();
    let image = load(SOURCE, A100, cache.path()).unwrap();
    assert_eq!(image.target, Target::Cubin(80));
    assert!(image.bytes.starts_with(b"\x7fELF"), "a cubin is an ELF file");
}

#[test]
fn a_card_newer_than_nvrtc_gets_ptx() {
    let cache = tempfile::tempdir().unwrap();
    let image = load(SOURCE, LATER, cache.path()).unwrap();
    assert!(matches!(image.target, Target::Ptx(capability) if capability < LATER.capability));
    let text = std::str::from_utf8(&image.bytes).unwrap();
    assert!(text.contains(".entry doubled") && text.ends_with('\0'));
}

#[test]
fn the_second_start_reads_what_the_first_has_compiled() {
    let cache = tempfile::tempdir().unwrap();
    let first = load(SOURCE, A100, cache.path()).unwrap();
    let file = only_file(cache.path());
    // Marked, so that reading it can be told from compiling it again.
    let written = std::fs::metadata(&file).unwrap().modified().unwrap();
    assert_eq!(load(SOURCE, A100, cache.path()).unwrap().bytes, first.bytes);
    assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), written);
}

#[test]
fn a_damaged_file_is_compiled_again() {
    let cache = tempfile::tempdir().unwrap();
    let first = load(SOURCE, A100, cache.path()).unwrap();
    let file = only_file(cache.path());
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&file, &bytes).unwrap();
    assert_eq!(load(SOURCE, A100, cache.path()).unwrap().bytes, first.bytes);
    assert_ne!(std::fs::read(&file).unwrap(), bytes, "the damaged file was left in place");
}

#[test]
fn a_source_that_is_wrong_is_named_with_its_line() {
    let cache = tempfile::tempdir().unwrap();
    let error = load("\nnonsense;", A100, cache.path()).unwrap_err().to_string();
    assert!(
        error.starts_with("kernels/doubled.cu: NVRTC 12.9 cannot compile it for sm_80: doubled.cu(2): error:"),
        "{error}"
    );
}

#[test]
fn what_the_driver_refuses_after_nvrtc_is_an_error() {
    preload_nvrtc();
    let cache = tempfile::tempdir().unwrap();
    let refused = Loader::new(A100, cache.path().to_owned()).load(&module(SOURCE), |_| Err::<(), _>("invalid image"));
    let error = refused.unwrap_err().to_string();
    assert_eq!(error, "kernels/doubled.cu: the driver takes none of its images: sm_80: invalid image");
}

#[test]
fn nvrtc_compiles_at_run_time_as_it_does_at_build_time() {
    assert_eq!(nvrtc::OPTIONS, kernel_compiler::NVRTC_OPTIONS);
}

/// The other half of the layout check: the header fixes the struct in Rust, and this fixes it in what was compiled.
#[test]
fn every_kernel_takes_the_struct_that_rust_launches_it_with() {
    let compiler = toolchain::open(&nvrtc_12_9()).unwrap();
    let sources = Sources::read(&root().join("kernels")).unwrap();
    let units = Unit::all(&sources, &[CompiledFor::PTX]);
    let images = compile_all(&compiler, &Cache::below(&target_folder()).unwrap(), &units).unwrap();
    let mut faults = Vec::new();
    for (unit, image) in std::iter::zip(&units, &images) {
        let structs = ptx::parameter_structs(&unit.kernel.text);
        for entry in ptx::entries(std::str::from_utf8(&image.bytes).unwrap()) {
            let named = structs.iter().find(|(kernel, _)| *kernel == entry.name).map(|(_, parameter)| *parameter);
            let bytes = PARAMETER_BYTES.iter().find(|(name, _)| Some(*name) == named).map(|(_, bytes)| *bytes);
            if bytes.is_none() || entry.parameters_bytes[..] != [bytes.unwrap_or(0)] {
                let (file, kernel, taken) = (&unit.kernel.name, &entry.name, &entry.parameters_bytes);
                faults.push(format!("{file}: {kernel} takes parameters of {taken:?} bytes: {named:?} has {bytes:?}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
