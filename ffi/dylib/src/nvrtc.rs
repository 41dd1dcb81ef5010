//! NVRTC's functions, and a program's way through them.

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::ptr;

use libloading::Library;

type Handle = *mut c_void;
/// What a function of NVRTC returns; 0 is success.
pub type Status = c_int;
type Strings = *const *const c_char;
type SizeOf = unsafe extern "C" fn(Handle, *mut usize) -> Status;
type CopyOf = unsafe extern "C" fn(Handle, *mut c_char) -> Status;

/// The functions, as `nvrtc.h` declares them; valid while `_library` is loaded. They may be called from several threads at once.
pub struct Api {
    read_version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status,
    count_architectures: unsafe extern "C" fn(*mut c_int) -> Status,
    read_architectures: unsafe extern "C" fn(*mut c_int) -> Status,
    create: unsafe extern "C" fn(*mut Handle, *const c_char, *const c_char, c_int, Strings, Strings) -> Status,
    compile: unsafe extern "C" fn(Handle, c_int, Strings) -> Status,
    destroy: unsafe extern "C" fn(*mut Handle) -> Status,
    log: (SizeOf, CopyOf),
    ptx: (SizeOf, CopyOf),
    cubin: (SizeOf, CopyOf),
    _library: Library,
}

impl Api {
    /// Loads the library at `path`.
    ///
    /// # Errors
    /// The loader refuses it, or it lacks a function.
    pub fn load(path: &Path) -> Result<Api, libloading::Error> {
        // NVRTC opens its builtins by bare name, and not every build of it knows to look beside itself: a library that is
        // already loaded is found by that name.
        for builtins in builtins_beside(path) {
            super::preload(&builtins)?;
        }
        // SAFETY: NVIDIA's library has no initialiser that asks anything of its caller.
        let library = unsafe { Library::new(path) }?;
        // SAFETY: the names and types are those of nvrtc.h, unchanged since CUDA 11.2; the pointers are kept with the library.
        unsafe {
            Ok(Api {
                read_version: *library.get(b"nvrtcVersion\0")?,
                count_architectures: *library.get(b"nvrtcGetNumSupportedArchs\0")?,
                read_architectures: *library.get(b"nvrtcGetSupportedArchs\0")?,
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

    /// (major, minor), or NVRTC's status.
    pub fn version(&self) -> Result<(u32, u32), Status> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both point to integers.
        checked(unsafe { (self.read_version)(&mut major, &mut minor) })?;
        Ok((major.unsigned_abs(), minor.unsigned_abs()))
    }

    /// Compute capabilities that it compiles for, or NVRTC's status.
    pub fn architectures(&self) -> Result<Vec<u32>, Status> {
        let mut count = 0;
        // SAFETY: points to an integer.
        checked(unsafe { (self.count_architectures)(&mut count) })?;
        let mut architectures = vec![0; count.unsigned_abs() as usize];
        // SAFETY: as many integers as the library said that it writes.
        checked(unsafe { (self.read_architectures)(architectures.as_mut_ptr()) })?;
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

/// A program's texts, each with a NUL at the end.
pub struct Texts {
    /// The program.
    pub source: CString,
    /// What its log calls it.
    pub name: CString,
    /// Texts of headers.
    pub headers: Vec<CString>,
    /// The names that they are included by, in the same order.
    pub header_names: Vec<CString>,
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).collect()
}

/// A program from its creation to its end.
pub struct Program<'a> {
    api: &'a Api,
    program: Handle,
    _texts: &'a Texts,
}

impl<'a> Program<'a> {
    /// Creates a program, or gives NVRTC's status.
    ///
    /// # Errors
    /// NVRTC refuses it.
    pub fn create(api: &'a Api, texts: &'a Texts) -> Result<Program<'a>, Status> {
        let (headers, names) = (pointers(&texts.headers), pointers(&texts.header_names));
        let count = c_int::try_from(headers.len()).expect("fewer headers than an int counts");
        let mut program = ptr::null_mut();
        let (source, name) = (texts.source.as_ptr(), texts.name.as_ptr());
        // SAFETY: strings end with NUL and outlive the program, which borrows them; there are `count` headers and names.
        checked(unsafe { (api.create)(&mut program, source, name, count, headers.as_ptr(), names.as_ptr()) })?;
        Ok(Program { api, program, _texts: texts })
    }

    /// Compiles it and returns NVRTC's status.
    pub fn compile(&self, options: &[CString]) -> Status {
        let count = c_int::try_from(options.len()).expect("a handful");
        // SAFETY: the program is alive; `count` strings that end with NUL.
        unsafe { (self.api.compile)(self.program, count, pointers(options).as_ptr()) }
    }

    /// The compiler's log, or NVRTC's status.
    pub fn log(&self) -> Result<Vec<u8>, Status> {
        self.read(self.api.log)
    }

    /// The PTX of a compiled program, or NVRTC's status.
    pub fn ptx(&self) -> Result<Vec<u8>, Status> {
        self.read(self.api.ptx)
    }

    /// The machine code of a compiled program, or NVRTC's status.
    pub fn cubin(&self) -> Result<Vec<u8>, Status> {
        self.read(self.api.cubin)
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

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: created by `create` and destroyed here alone. There is nothing to do about a failure.
        unsafe { (self.api.destroy)(&mut self.program) };
    }
}
