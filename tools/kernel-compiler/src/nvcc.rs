//! `nvcc`, run as a program.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{CompileError, Image, Target, Unit};

/// Kernels call fast intrinsics by name, so there is no fast-math switch.
pub(crate) const OPTIONS: [&str; 1] = ["-std=c++17"];

/// An `nvcc` that answers.
pub struct Nvcc {
    path: PathBuf,
    version: (u32, u32),
    identity: String,
    architectures: Vec<u32>,
}

impl Nvcc {
    /// Asks the program at `path` what it is.
    ///
    /// # Errors
    /// It cannot be run, or does not answer as `nvcc` does.
    pub fn open(path: &Path) -> Result<Nvcc, CompileError> {
        // It will be run in the kernels' folder.
        let absolute =
            std::path::absolute(path).map_err(|source| CompileError::Io { path: path.to_owned(), source })?;
        let path = &absolute;
        let identity = answer(path, "--version")?;
        let version = version_in(&identity).ok_or_else(|| CompileError::Library {
            path: path.to_owned(),
            reason: "--version does not name a CUDA release".to_owned(),
        })?;
        let architectures = architectures_in(&answer(path, "--list-gpu-code")?);
        Ok(Nvcc { path: absolute, version, identity, architectures })
    }

    pub(crate) fn name(&self) -> String {
        format!("nvcc {}.{}", self.version.0, self.version.1)
    }

    pub(crate) fn version(&self) -> (u32, u32) {
        self.version
    }

    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    pub(crate) fn architectures(&self) -> &[u32] {
        &self.architectures
    }

    pub(crate) fn compile(&self, unit: Unit) -> Result<Image, CompileError> {
        let result = scratch_file();
        let output = self.run(unit, &result)?;
        let log = text(&output);
        if !output.status.success() {
            return Err(CompileError::refused(self.name(), unit, log));
        }
        let bytes = std::fs::read(&result).map_err(|source| CompileError::Io { path: result.clone(), source })?;
        // A file left behind in the system's temporary folder does no harm.
        let _ = std::fs::remove_file(&result);
        Ok(Image { bytes, log })
    }

    fn run(&self, unit: Unit, result: &Path) -> Result<Output, CompileError> {
        let folder = &unit.sources.folder;
        let mut command = Command::new(&self.path);
        match unit.target {
            Target::Cubin(sm) => {
                command.args(["-cubin", "-gencode", &format!("arch=compute_{sm},code=sm_{sm}"), "-Xptxas", "-v"])
            }
            Target::Ptx(compute) => command.args(["-ptx", "-arch", &format!("compute_{compute}")]),
        };
        // Relative names, so that line information is the same on every machine.
        command
            .args(OPTIONS)
            .args(unit.target.options())
            .args(["-I", "include", "-o"])
            .arg(result)
            .arg(&unit.kernel.name)
            .current_dir(folder);
        command.output().map_err(|source| CompileError::Io { path: self.path.clone(), source })
    }
}

/// What `nvcc` prints when asked with `option`.
fn answer(path: &Path, option: &str) -> Result<String, CompileError> {
    let output =
        Command::new(path).arg(option).output().map_err(|source| CompileError::Io { path: path.to_owned(), source })?;
    if output.status.success() {
        Ok(text(&output))
    } else {
        Err(CompileError::Library { path: path.to_owned(), reason: format!("{option} failed: {}", text(&output)) })
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `Cuda compilation tools, release 13.0, V13.0.88`
fn version_in(answer: &str) -> Option<(u32, u32)> {
    let (_, release) = answer.split_once("release ")?;
    let (major, minor) = release.split(',').next()?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// One `sm_80` a line; those of one card alone (`sm_90a`) are left out.
fn architectures_in(answer: &str) -> Vec<u32> {
    answer.lines().filter_map(|line| line.trim().strip_prefix("sm_")?.parse().ok()).collect()
}

/// A name in the system's temporary folder that no other thread or process uses.
fn scratch_file() -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("sidereal-kernel-{}-{number}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::{architectures_in, version_in};

    #[test]
    fn answers_are_read() {
        assert_eq!(version_in("nvcc: NVIDIA\nCuda compilation tools, release 13.0, V13.0.88\n"), Some((13, 0)));
        assert_eq!(version_in("gcc 12"), None);
        assert_eq!(architectures_in("sm_75\nsm_80\nsm_90a\n"), [75, 80]);
    }
}
