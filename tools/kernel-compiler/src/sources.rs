//! The kernels' folder as text: one `.cu` a module, headers under `include/`.

use std::io;
use std::path::{Path, PathBuf};

use crate::Hash;

/// Plain C headers, which bindgen reads too, and those of CUDA C++.
const HEADERS: [&str; 2] = ["h", "cuh"];

/// A file of the kernels' folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// `norm.cu`; of a header its path below `include/`, which is how kernels include it: `params/common.h`.
    pub name: String,
    /// Its whole text.
    pub text: String,
}

impl SourceFile {
    /// The module's name: the file's, without `.cu`.
    pub fn module(&self) -> &str {
        self.name.strip_suffix(".cu").unwrap_or(&self.name)
    }
}

/// Everything that compiles into the images, sorted by name.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Where it was read from.
    pub folder: PathBuf,
    /// The `.cu` files.
    pub kernels: Vec<SourceFile>,
    /// The headers.
    pub headers: Vec<SourceFile>,
}

impl Sources {
    /// Reads `folder`.
    ///
    /// # Errors
    /// A file that cannot be read, or is not text, by name.
    pub fn read(folder: &Path) -> io::Result<Sources> {
        let kernels = read_files(folder, folder, &["cu"])?;
        let include = folder.join("include");
        let headers = if include.is_dir() { read_files(&include, &include, &HEADERS)? } else { Vec::new() };
        let sources = Sources { folder: folder.to_owned(), kernels, headers };
        sources.check_includes()?;
        Ok(sources)
    }

    /// NVRTC gets headers by name and not from a folder, so that a name relative to the including header, which `nvcc` takes,
    /// would fail on the first card without an image.
    fn check_includes(&self) -> io::Result<()> {
        for file in self.kernels.iter().chain(&self.headers) {
            for (index, line) in file.text.lines().enumerate() {
                let Some(name) = line.trim_start().strip_prefix("#include \"").and_then(|rest| rest.split('"').next())
                else {
                    continue;
                };
                if !self.headers.iter().any(|header| header.name == name) {
                    return Err(io::Error::other(format!(
                        "{}:{}: \"{name}\" is no header of kernels/include: headers are included by their path below it",
                        file.name,
                        index + 1
                    )));
                }
            }
        }
        Ok(())
    }

    /// A hash over the headers and one kernel: what an image of that kernel is made from.
    pub fn hash_of(&self, kernel: &SourceFile) -> Hash {
        let headers = self.headers.iter().fold(Hash::new(), |hash, file| hash.with(&file.name).with(&file.text));
        headers.with(&kernel.name).with(&kernel.text)
    }
}

/// Files below `folder` with one of these extensions, named relative to `root`. Only headers lie in sub-folders.
fn read_files(root: &Path, folder: &Path, extensions: &[&str]) -> io::Result<Vec<SourceFile>> {
    let named = |path: &Path, error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| named(folder, error))? {
        let path = entry?.path();
        if path.is_dir() && extensions == HEADERS {
            files.extend(read_files(root, &path, extensions)?);
        } else if path.extension().is_some_and(|extension| extensions.iter().any(|&wanted| extension == wanted)) {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            files.push(SourceFile { name, text: std::fs::read_to_string(&path).map_err(|error| named(&path, error))? });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::Sources;

    #[test]
    fn headers_are_named_as_they_are_included() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("include/params")).unwrap();
        for file in ["b.cu", "a.cu", "README.md", "include/ptx.h", "include/sort.cuh", "include/params/a.h"] {
            std::fs::write(folder.path().join(file), file).unwrap();
        }
        let sources = Sources::read(folder.path()).unwrap();
        assert_eq!(sources.kernels.iter().map(|file| file.module()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(
            sources.headers.iter().map(|file| &file.name[..]).collect::<Vec<_>>(),
            ["params/a.h", "ptx.h", "sort.cuh"]
        );
        assert_ne!(sources.hash_of(&sources.kernels[0]), sources.hash_of(&sources.kernels[1]));
    }
    #[test]
    fn an_include_relative_to_its_header_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("include/params")).unwrap();
        std::fs::write(folder.path().join("include/params/gemm.h"), "").unwrap();
        std::fs::write(folder.path().join("include/params/linear.h"), "#pragma once\n#include \"gemm.h\"\n").unwrap();
        let error = Sources::read(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with("params/linear.h:2: \"gemm.h\" is no header of kernels/include"), "{error}");
        std::fs::write(folder.path().join("include/params/linear.h"), "#include \"params/gemm.h\"\n").unwrap();
        Sources::read(folder.path()).unwrap();
    }
}
