//! Compiles the probes as the engine's build script compiles kernels: with the same compiler, headers and settings.
//!
//! A probe is carried as PTX, which the emulator runs too, and as machine code for the drivers that take no PTX of this
//! compiler. Without a compiler the binary has no probes, and `gpu-check contents` says so.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};

use kernel_compiler::table::{self, Entry};
use kernel_compiler::toolchain::{self, Surroundings};
use kernel_compiler::{Cache, Sources, Target, Unit, compile_all};

/// Machine code for Ampere, Ada and Hopper; PTX for the emulator and for what comes later.
const TARGETS: [Target; 3] = [Target::Cubin(80), Target::Cubin(90), Target::PTX];

fn main() {
    if let Err(error) = embed_probes() {
        eprintln!("probes: {error}\n(SIDEREAL_CUDA=none builds without a CUDA compiler)");
        std::process::exit(1);
    }
}

fn embed_probes() -> Result<(), Box<dyn Error>> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let root = here.ancestors().nth(2).ok_or("no workspace above tools/gpu-check")?.to_owned();
    let target_folder = toolchain::target_folder(&out).unwrap_or(&out);
    let installed = target_folder.join("cuda-toolchain");
    watch(&root, &installed)?;
    let sources = sources(&root, &here.join("probes"), &out.join("probes"))?;
    let surroundings = Surroundings::of_this_process(vec![installed, root.join("target/cuda-toolchain")]);
    let Some(compiler) = toolchain::find(&surroundings)? else {
        return Ok(table::write(&out, &sources, None, &[])?);
    };
    let targets = TARGETS.into_iter().filter(|&target| compiler.supports(target));
    let units: Vec<Unit> = targets
        .flat_map(|target| sources.kernels.iter().map(move |kernel| (kernel, target)))
        .map(|(kernel, target)| Unit { sources: &sources, kernel, target })
        .collect();
    let images = compile_all(&compiler, &Cache::below(target_folder)?, &units)?;
    let entries: Vec<Entry> = std::iter::zip(&units, &images)
        .map(|(unit, image)| Entry { kernel: unit.kernel, target: unit.target, image })
        .collect();
    Ok(table::write(&out, &sources, Some(&compiler), &entries)?)
}

/// Runs again when a probe, a header, a setting, or the installed toolchain changes.
fn watch(root: &Path, installed: &Path) -> std::io::Result<()> {
    let stamps = installed.join("stamps");
    std::fs::create_dir_all(&stamps)?;
    for path in [stamps, root.join("kernels/include"), root.join("tools/gpu-check/probes")] {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    for variable in ["SIDEREAL_CUDA", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    Ok(())
}

/// The probes with the headers of the kernels and their own, in one folder, as compilers want them.
fn sources(root: &Path, probes: &Path, folder: &Path) -> std::io::Result<Sources> {
    if folder.is_dir() {
        std::fs::remove_dir_all(folder)?;
    }
    let include = folder.join("include");
    for entry in std::fs::read_dir(probes)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        let place = if path.extension().is_some_and(|extension| extension == "h") { &include } else { folder };
        std::fs::create_dir_all(place)?;
        std::fs::copy(&path, place.join(name))?;
    }
    let read = Sources::read(&root.join("kernels"))?;
    for header in read.headers {
        let path = include.join(&header.name);
        std::fs::create_dir_all(path.parent().unwrap_or(&include))?;
        std::fs::write(path, header.text)?;
    }
    Sources::read(folder)
}
