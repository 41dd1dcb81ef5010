//! Writes the images that a compiler makes of the kernels into a folder, for `SIDEREAL_KERNEL_IMAGES`; `tools/kernel-images`
//! runs it.
//!
//! `kernel-images KERNELS TARGET_FOLDER TOOLCHAIN OUT [TARGETS]`: TARGETS is a list such as `80,ptx`, and `ptx` when left out.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use kernel_compiler::{Cache, Sources, Target, Unit, compile_all, toolchain};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (folders, targets) = match words[..] {
        [kernels, target_folder, toolchain, out] => ([kernels, target_folder, toolchain, out], "ptx"),
        [kernels, target_folder, toolchain, out, targets] => ([kernels, target_folder, toolchain, out], targets),
        _ => {
            eprintln!("usage: kernel-images KERNELS TARGET_FOLDER TOOLCHAIN OUT [TARGETS]");
            return ExitCode::from(2);
        }
    };
    match write(folders.map(Path::new), targets) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kernel-images: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write([kernels, target_folder, toolchain, out]: [&Path; 4], targets: &str) -> Result<(), Box<dyn Error>> {
    let targets = Target::parse_list(targets)?;
    let sources = Sources::read(kernels)?;
    let compiler = toolchain::open(toolchain)?;
    let units = Unit::all(&sources, &targets);
    let images = compile_all(&compiler, &Cache::below(target_folder)?, &units)?;
    std::fs::create_dir_all(out)?;
    for (unit, image) in std::iter::zip(&units, &images) {
        let path = out.join(unit.target.file_name(unit.kernel.module()));
        // PTX is a text file for the eye and for ptxas; the engine adds the NUL again.
        let is_text = matches!(unit.target, Target::Ptx(_));
        let end = image.bytes.len() - usize::from(is_text && image.bytes.ends_with(&[0]));
        std::fs::write(path, &image.bytes[..end])?;
    }
    println!("{} images by {} in {}", images.len(), compiler.name(), out.display());
    Ok(())
}
