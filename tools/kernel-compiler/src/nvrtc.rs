//! NVRTC, loaded into this process from a library that is found by path.
//!
//! The engine compiles through the same library at run time (`engine/device/cuda/nvrtc.rs`), by cudarc. A build script wants
//! neither cudarc's build time nor its search for the library by name.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use sidereal_dylib::{Api, Program, Status, Texts};

use crate::{CompileError, Image, SourceFile, Target, Unit};

/// What makes NVRTC take the same text as `nvcc`. It has no `<stdint.h>`: `ptx.h` has the fixed-width types, which headers of
/// parameters need in whatever order a kernel includes them. And a lambda in a kernel is device code without saying so.
pub const OPTIONS: [&str; 3] = ["-std=c++17", "--pre-include=ptx.h", "--device-as-default-execution-space"];

/// A loaded NVRTC. It may be used from several threads at once.
pub struct Nvrtc {
    api: Api,
    path: PathBuf,
    version: (u32, u32),
    identity: String,
    architectures: Vec<u32>,
}

impl Nvrtc {
    /// Loads the library at `path`.
    ///
    /// # Errors
    /// The loader refuses it, or it lacks a function.
    pub fn open(path: &Path) -> Result<Nvrtc, CompileError> {
        let unusable = |reason: String| CompileError::Library { path: path.to_owned(), reason };
        let api = Api::load(path).map_err(|error| unusable(error.to_string()))?;
        let version = api.version().map_err(|status| unusable(format!("nvrtcVersion failed with {status}")))?;
        let architectures =
            api.architectures().map_err(|status| unusable(format!("nvrtcGetSupportedArchs failed with {status}")))?;
        // NVRTC does not tell its patch version; the size of its file does.
        let bytes = std::fs::metadata(path).map_err(|source| CompileError::Io { path: path.to_owned(), source })?.len();
        let identity = format!("NVRTC {}.{} of {bytes} bytes", version.0, version.1);
        Ok(Nvrtc { api, path: path.to_owned(), version, identity, architectures })
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
        let failed = |what: &str, status: Status| CompileError::Library {
            path: self.path.clone(),
            reason: format!("{what} failed with {status} on {}", unit.kernel.name),
        };
        let texts = texts(unit.kernel, &unit.sources.headers)
            .map_err(|name| self.refused(unit, format!("{name} has a NUL byte in it")))?;
        let program = Program::create(&self.api, &texts).map_err(|status| failed("nvrtcCreateProgram", status))?;
        let status = program.compile(&options(unit.target));
        let log = program.log().map_err(|status| failed("nvrtcGetProgramLog", status))?;
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
        if status != 0 {
            return Err(self.refused(unit, log));
        }
        let bytes = match unit.target {
            Target::Cubin(_) => program.cubin(),
            Target::Ptx(_) => program.ptx(),
        };
        let bytes = bytes.map_err(|status| failed("reading the image", status))?;
        Ok(Image { bytes, log })
    }

    fn refused(&self, unit: Unit, log: String) -> CompileError {
        CompileError::refused(self.name(), unit, log)
    }

    pub(crate) fn name(&self) -> String {
        format!("NVRTC {}.{}", self.version.0, self.version.1)
    }
}

/// A kernel and its headers; on error, the name of the file with a NUL in it.
fn texts(kernel: &SourceFile, headers: &[SourceFile]) -> Result<Texts, String> {
    let text = |file: &SourceFile| CString::new(&file.text[..]).map_err(|_| file.name.clone());
    let name = |file: &SourceFile| CString::new(&file.name[..]).map_err(|_| file.name.clone());
    Ok(Texts {
        source: text(kernel)?,
        name: name(kernel)?,
        headers: headers.iter().map(text).collect::<Result<_, _>>()?,
        header_names: headers.iter().map(name).collect::<Result<_, _>>()?,
    })
}

fn options(target: Target) -> Vec<CString> {
    let mut options: Vec<String> = OPTIONS.iter().chain(target.options()).map(|&option| option.to_owned()).collect();
    options.push(format!("--gpu-architecture={target}"));
    if matches!(target, Target::Cubin(_)) {
        options.push("--ptxas-options=-v".to_owned());
    }
    options.into_iter().map(|option| CString::new(option).expect("our own text")).collect()
}
