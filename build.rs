//! Puts the CUDA kernels into the binary: as images when a CUDA compiler is found, and always as sources, which NVRTC compiles
//! at first use where there is no image for a card.
//!
//! `SIDEREAL_CUDA` names a folder with a compiler, or is `none`. Otherwise the compiler is what `tools/cuda-toolchain` installed,
//! `nvcc` on `PATH`, or that of `CUDA_HOME`. `SIDEREAL_CUDA_ARCHS` narrows what is embedded (`ptx`, `80,90`). Without a compiler
//! nothing is lost but the time that the first start on a card takes.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};

use kernel_compiler::table::{self, Entry};
use kernel_compiler::toolchain::{self, Surroundings};
use kernel_compiler::{Cache, Compiler, Sources, Target, Unit, compile_all};

fn main() {
    if let Err(error) = embed_kernels() {
        eprintln!("kernels: {error}\n(SIDEREAL_CUDA=none builds without a CUDA compiler)");
        std::process::exit(1);
    }
}

fn embed_kernels() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let target_folder = toolchain::target_folder(&out).unwrap_or(&out);
    let installed = target_folder.join("cuda-toolchain");
    watch(&installed)?;

    let sources = Sources::read(&root.join("kernels"))?;
    let surroundings = Surroundings::of_this_process(vec![installed, root.join("target/cuda-toolchain")]);
    let Some(compiler) = toolchain::find(&surroundings)? else {
        return Ok(table::write(&out, &sources, None, &[])?);
    };
    let targets = targets(&compiler)?;
    let units = Unit::all(&sources, &targets);
    let images = compile_all(&compiler, &Cache::below(target_folder)?, &units)?;
    let entries: Vec<Entry> = std::iter::zip(&units, &images)
        .map(|(unit, image)| Entry { kernel: unit.kernel, target: unit.target, image })
        .collect();
    Ok(table::write(&out, &sources, Some(&compiler), &entries)?)
}

/// Runs again when a kernel, a setting, or the installed toolchain changes. `PATH` is not watched: editors and terminals differ
/// in it, and each change of it would rebuild the engine.
fn watch(installed: &Path) -> std::io::Result<()> {
    // A folder that is not there counts as changed at every build.
    let stamps = installed.join("stamps");
    std::fs::create_dir_all(&stamps)?;
    println!("cargo::rerun-if-changed={}", stamps.display());
    println!("cargo::rerun-if-changed=kernels");
    for variable in ["SIDEREAL_CUDA", "SIDEREAL_CUDA_ARCHS", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    Ok(())
}

/// What is asked for, as far as the compiler knows it.
fn targets(compiler: &Compiler) -> Result<Vec<Target>, Box<dyn Error>> {
    let asked = match env::var("SIDEREAL_CUDA_ARCHS") {
        Ok(list) if !list.is_empty() => {
            Target::parse_list(&list).map_err(|error| format!("SIDEREAL_CUDA_ARCHS: {error}"))?
        }
        _ => Target::SHIPPED.to_vec(),
    };
    let (known, unknown): (Vec<Target>, Vec<Target>) = asked.into_iter().partition(|&target| compiler.supports(target));
    for target in unknown {
        println!("cargo::warning={} does not know {target}: no image for it is embedded", compiler.name());
    }
    Ok(known)
}
