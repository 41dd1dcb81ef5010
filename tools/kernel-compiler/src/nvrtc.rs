//! NVRTC, loaded into this process: eight functions of a library that is found by path.
//!
//! The engine compiles through the same library at run time (`engine/device/cuda/nvrtc.rs`), by cudarc. A build script wants
//! neither cudarc's build time nor its search for the library by name.

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;

use libloading::Library;

use crate::{CompileError, Image, SourceFile, Target, Unit};

/// What makes NVRTC take the same text as `nvcc`. It has no `<stdint.h>`: `ptx.h` has the fixed-width types, which headers of
/// parameters need in whatever order a kernel includes them. And a lambda in a kernel is device code without saying so.
pub const OPTIONS: [&str; 3] = ["-std=c++17", "--pre-include=ptx.h", "--device-as-default-execution-space"];

type Program = *mut c_void;
type Status = c_int;
type Strings = *const *const c_char;
type SizeOf = unsafe extern "C" fn(Program, *mut usize) -> Status;
type CopyOf = unsafe extern "C" fn(Program, *mut c_char) -> Status;

/// The functions, as `nvrtc.h` declares them; valid while `_library` is loaded.
struct Api {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status,
    count_architectures: unsafe extern "C" fn(*mut c_int) -> Status,
    architectures: unsafe extern "C" fn(*mut c_int) -> Status,
    create: unsafe extern "C" fn(*mut Program, *const c_char, *const c_char, c_int, Strings, Strings) -> Status,
    compile: unsafe extern "C" fn(Program, c_int, Strings) -> Status,
    destroy: unsafe extern "C" fn(*mut Program) -> Status,
    log: (SizeOf, CopyOf),
    ptx: (SizeOf, CopyOf),
    cubin: (SizeOf, CopyOf),
    _library: Library,
}

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
        let version = api.read_version().map_err(|status| unusable(format!("nvrtcVersion failed with {status}")))?;
        let architectures = api
            .read_architectures()
            .map_err(|status| unusable(format!("nvrtcGetSupportedArchs failed with {status}")))?;
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
        let texts = Texts::new(unit.kernel, &unit.sources.headers)
            .map_err(|name| self.refused(unit, format!("{name} has a NUL byte in it")))?;
        let program =
            RunningProgram::create(&self.api, &texts).map_err(|status| failed("nvrtcCreateProgram", status))?;
        let status = program.compile(unit.target);
        let log = program.read(self.api.log).map_err(|status| failed("nvrtcGetProgramLog", status))?;
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
        if status != 0 {
            return Err(self.refused(unit, log));
        }
        let result = match unit.target {
            Target::Cubin(_) => self.api.cubin,
            Target::Ptx(_) => self.api.ptx,
        };
        let bytes = program.read(result).map_err(|status| failed("reading the image", status))?;
        Ok(Image { bytes, log })
    }

    fn refused(&self, unit: Unit, log: String) -> CompileError {
        CompileError::refused(self.name(), unit, log)
    }

    pub(crate) fn name(&self) -> String {
        format!("NVRTC {}.{}", self.version.0, self.version.1)
    }
}

impl Api {
    fn load(path: &Path) -> Result<Api, libloading::Error> {
        // NVRTC opens its builtins by bare name, and not every build of it knows to look beside itself: a library that is
        // already loaded is found by that name.
        for builtins in builtins_beside(path) {
            // SAFETY: NVIDIA's library has no initialiser that asks anything of its caller.
            std::mem::forget(unsafe { Library::new(builtins) }?);
        }
        // SAFETY: as above.
        let library = unsafe { Library::new(path) }?;
        // SAFETY: the names and types are those of nvrtc.h, unchanged since CUDA 11.2; the pointers are kept with the library.
        unsafe {
            Ok(Api {
                version: *library.get(b"nvrtcVersion\0")?,
                count_architectures: *library.get(b"nvrtcGetNumSupportedArchs\0")?,
                architectures: *library.get(b"nvrtcGetSupportedArchs\0")?,
                create: *library.get(b"nvrtcCreateProgram\0")?,
                compile: *library.get(b"nvrtcCompileProgram\0")?,
                destroy: *library.get(b"nvrtcDestroyProgram\0")?,
                log: (*library.get(b"nvrtcGetProgramLogSize\0")?, *library.get(b"nvrtcGetProgramLog\0")?),
                ptx: (*library.get(b"nvrtcGetPTXSize\0")?, *library.get(b"nvrtcGetPTX\0")?),
                cubin: (*library.get(b"nvrtcGetCUBINSize\0")?, *library.get(b"nvrtcGetCUBIN\0")?),
                _library: library,
            })
        }
    }

    fn read_version(&self) -> Result<(u32, u32), Status> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both point to integers.
        checked(unsafe { (self.version)(&mut major, &mut minor) })?;
        Ok((major.unsigned_abs(), minor.unsigned_abs()))
    }

    fn read_architectures(&self) -> Result<Vec<u32>, Status> {
        let mut count = 0;
        // SAFETY: points to an integer.
        checked(unsafe { (self.count_architectures)(&mut count) })?;
        let mut architectures = vec![0; count.unsigned_abs() as usize];
        // SAFETY: as many integers as the library said that it writes.
        checked(unsafe { (self.architectures)(architectures.as_mut_ptr()) })?;
        Ok(architectures.into_iter().map(c_int::unsigned_abs).collect())
    }
}

fn checked(status: Status) -> Result<(), Status> {
    if status == 0 { Ok(()) } else { Err(status) }
}

fn builtins_beside(path: &Path) -> Vec<PathBuf> {
    let siblings = path.parent().and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let is_builtins = |name: &str| name.starts_with("libnvrtc-builtins.so.");
    siblings.filter(|file| file.file_name().to_str().is_some_and(is_builtins)).map(|file| file.path()).collect()
}

/// A program's texts with a NUL at the end.
struct Texts {
    source: CString,
    name: CString,
    headers: Vec<CString>,
    header_names: Vec<CString>,
}

impl Texts {
    /// On error, the name of the file with a NUL in it.
    fn new(kernel: &SourceFile, headers: &[SourceFile]) -> Result<Texts, String> {
        let text = |file: &SourceFile| CString::new(&file.text[..]).map_err(|_| file.name.clone());
        let name = |file: &SourceFile| CString::new(&file.name[..]).map_err(|_| file.name.clone());
        Ok(Texts {
            source: text(kernel)?,
            name: name(kernel)?,
            headers: headers.iter().map(text).collect::<Result<_, _>>()?,
            header_names: headers.iter().map(name).collect::<Result<_, _>>()?,
        })
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).collect()
}

/// A program from its creation to its end.
struct RunningProgram<'a> {
    api: &'a Api,
    program: Program,
    _texts: &'a Texts,
}

impl<'a> RunningProgram<'a> {
    fn create(api: &'a Api, texts: &'a Texts) -> Result<RunningProgram<'a>, Status> {
        let (headers, names) = (pointers(&texts.headers), pointers(&texts.header_names));
        let count = c_int::try_from(headers.len()).expect("fewer headers than an int counts");
        let mut program = ptr::null_mut();
        let (source, name) = (texts.source.as_ptr(), texts.name.as_ptr());
        // SAFETY: strings end with NUL and outlive the program, which borrows them; there are `count` headers and names.
        checked(unsafe { (api.create)(&mut program, source, name, count, headers.as_ptr(), names.as_ptr()) })?;
        Ok(RunningProgram { api, program, _texts: texts })
    }

    fn compile(&self, target: Target) -> Status {
        let mut options: Vec<String> =
            OPTIONS.iter().chain(target.options()).map(|&option| option.to_owned()).collect();
        options.push(format!("--gpu-architecture={target}"));
        if matches!(target, Target::Cubin(_)) {
            options.push("--ptxas-options=-v".to_owned());
        }
        let options: Vec<CString> =
            options.into_iter().map(|option| CString::new(option).expect("our own text")).collect();
        let count = c_int::try_from(options.len()).expect("a handful");
        // SAFETY: the program is alive; `count` strings that end with NUL.
        unsafe { (self.api.compile)(self.program, count, pointers(&options).as_ptr()) }
    }

    fn read(&self, (size, copy): (SizeOf, CopyOf)) -> Result<Vec<u8>, Status> {
        let mut bytes = 0;
        // SAFETY: the program is alive; points to a size.
        checked(unsafe { size(self.program, &mut bytes) })?;
        let mut result = vec![0u8; bytes];
        // SAFETY: as many bytes as the library said that it writes.
        checked(unsafe { copy(self.program, result.as_mut_ptr().cast()) })?;
        Ok(result)
    }
}

impl Drop for RunningProgram<'_> {
    fn drop(&mut self) {
        // SAFETY: created by `create` and destroyed here alone. There is nothing to do about a failure.
        unsafe { (self.api.destroy)(&mut self.program) };
    }
}
