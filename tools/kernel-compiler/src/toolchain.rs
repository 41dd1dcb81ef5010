//! Where a CUDA compiler may be.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::nvcc::Nvcc;
use crate::nvrtc::Nvrtc;
use crate::{CompileError, Compiler};

/// The set of `tools/cuda-toolchain` that shipped images come from.
pub const SHIPPED_SET: &str = "nvrtc-12.9";

/// What the search depends on.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// `SIDEREAL_CUDA`: a folder with a compiler, or `none`.
    pub chosen: Option<OsString>,
    /// Folders in which `tools/cuda-toolchain` may have put its sets.
    pub installed: Vec<PathBuf>,
    /// `PATH`.
    pub path: Option<OsString>,
    /// `CUDA_HOME`.
    pub cuda_home: Option<PathBuf>,
}

/// Why a compiler that was asked for is not there.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The folder of `SIDEREAL_CUDA` or a set's folder.
    #[error("{} has neither bin/nvcc nor libnvrtc.so in one of the places where toolkits and wheels have them", .0.display())]
    Empty(PathBuf),
    /// It is there and cannot be used.
    #[error(transparent)]
    Unusable(#[from] CompileError),
}

impl Surroundings {
    /// Those of this process, with the sets below `installed`.
    pub fn of_this_process(installed: Vec<PathBuf>) -> Surroundings {
        Surroundings {
            chosen: std::env::var_os("SIDEREAL_CUDA").filter(|value| !value.is_empty()),
            installed,
            path: std::env::var_os("PATH"),
            cuda_home: std::env::var_os("CUDA_HOME").map(PathBuf::from),
        }
    }
}

/// The first of: what `SIDEREAL_CUDA` names, the installed set that shipped images come from, `nvcc` on `PATH`, `nvcc` of
/// `CUDA_HOME`. There may be none.
///
/// # Errors
/// What was found first cannot be used: another compiler is not taken in its place.
pub fn find(surroundings: &Surroundings) -> Result<Option<Compiler>, FindError> {
    if let Some(chosen) = &surroundings.chosen {
        return if chosen == "none" { Ok(None) } else { open(Path::new(chosen)).map(Some) };
    }
    for folder in &surroundings.installed {
        let set = folder.join(SHIPPED_SET);
        if set.join(".complete").exists() {
            return open(&set).map(Some);
        }
    }
    let on_path = surroundings.path.iter().flat_map(std::env::split_paths).map(|folder| folder.join("nvcc"));
    let at_home = surroundings.cuda_home.iter().map(|home| home.join("bin/nvcc"));
    match on_path.chain(at_home).find(|program| program.is_file()) {
        Some(program) => Ok(Some(Compiler::Nvcc(Nvcc::open(&program)?))),
        None => Ok(None),
    }
}

/// The compiler in `folder`: a toolkit, or where pip put the wheels.
///
/// # Errors
/// There is none, or it cannot be used.
pub fn open(folder: &Path) -> Result<Compiler, FindError> {
    let wheels = children(&folder.join("nvidia"));
    let homes: Vec<&Path> = std::iter::once(folder).chain(wheels.iter().map(PathBuf::as_path)).collect();
    if let Some(program) = homes.iter().map(|home| home.join("bin/nvcc")).find(|program| program.is_file()) {
        return Ok(Compiler::Nvcc(Nvcc::open(&program)?));
    }
    let libraries = homes.iter().flat_map(|home| ["lib", "lib64"].map(|lib| home.join(lib)));
    match libraries.flat_map(|lib| children(&lib)).find(|file| is_nvrtc(file)) {
        Some(library) => Ok(Compiler::Nvrtc(Nvrtc::open(&library)?)),
        None => Err(FindError::Empty(folder.to_owned())),
    }
}

/// `libnvrtc.so`, or one that ends in a major version; not the alternative build beside it, nor the builtins.
fn is_nvrtc(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.strip_prefix("libnvrtc.so").is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// What is in `folder`, by name; nothing when it is not there.
fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut children: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    children.sort();
    children
}

/// The folder in which cargo builds, found from a build script's `OUT_DIR`: by the tag that cargo leaves in a target folder that
/// it has made, else by where cargo puts such folders (`target/debug/build/sidereal-0/out`).
pub fn target_folder(out: &Path) -> Option<&Path> {
    let tagged = out.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    tagged.or_else(|| out.ancestors().nth(4))
}

#[cfg(test)]
mod tests {
    use super::{FindError, Surroundings, find, is_nvrtc, target_folder};
    use std::path::Path;

    #[test]
    fn without_any_compiler_there_is_none() {
        let surroundings = Surroundings { path: Some("/nonexistent".into()), ..Surroundings::default() };
        assert!(find(&surroundings).unwrap().is_none());
    }

    #[test]
    fn none_means_none_even_beside_a_compiler() {
        let bin = tempfile::tempdir().unwrap();
        std::fs::write(bin.path().join("nvcc"), "").unwrap();
        let surroundings =
            Surroundings { chosen: Some("none".into()), path: Some(bin.path().into()), ..Surroundings::default() };
        assert!(find(&surroundings).unwrap().is_none());
    }

    #[test]
    fn a_chosen_folder_without_a_compiler_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let surroundings = Surroundings { chosen: Some(folder.path().into()), ..Surroundings::default() };
        let Err(FindError::Empty(named)) = find(&surroundings) else {
            panic!("a folder without compiler was accepted")
        };
        assert_eq!(named, folder.path());
    }

    #[test]
    fn the_library_is_told_from_its_neighbours() {
        for (name, is) in [
            ("libnvrtc.so", true),
            ("libnvrtc.so.12", true),
            ("libnvrtc.alt.so.12", false),
            ("libnvrtc-builtins.so.12.9", false),
        ] {
            assert_eq!(is_nvrtc(Path::new(name)), is, "{name}");
        }
    }

    #[test]
    fn the_target_folder_is_found_by_its_tag_or_by_its_place() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("CACHEDIR.TAG"), "").unwrap();
        let with_triple = folder.path().join("x86_64-unknown-linux-gnu/debug/build/sidereal-0/out");
        assert_eq!(target_folder(&with_triple), Some(folder.path()));
        assert_eq!(
            target_folder(Path::new("/nonexistent/debug/build/sidereal-0/out")),
            Some(Path::new("/nonexistent"))
        );
    }
}
