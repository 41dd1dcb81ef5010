//! Compiles a kernel file's source by NVRTC, for a card that no embedded image suits, and keeps the result.
//!
//! NVRTC is a library that may be there or not; it is looked for when it is needed and never before. Machine code is made
//! where NVRTC knows the card: a driver takes that from any compiler of its own major version. For a newer card than NVRTC
//! knows it makes PTX of the newest one that it knows.

use std::borrow::Cow;
use std::ffi::{CString, c_char, c_int};
use std::fmt::Write as _;
use std::path::Path;
use std::ptr;

use cudarc::nvrtc::sys;
use sha2::{Digest, Sha256};

use super::image_cache::{self, Key};
use super::images::{Card, HEADERS, Header, Image, Module, Target};
use super::load::KernelError;

/// The same as for embedded images (`tools/kernel-compiler`).
pub const OPTIONS: [&str; 3] = ["-std=c++17", "--pre-include=ptx.h", "--device-as-default-execution-space"];
/// What kernels are written for at least.
const FIRST_CAPABILITY: u32 = 80;

/// The image of `module` for the card, out of `cache` or compiled into it. `refusals` is what was tried before, for the
/// message when there is no NVRTC.
///
/// # Errors
/// The card is too old, there is no NVRTC, or it cannot compile the source.
pub fn image(module: &Module, card: Card, cache: &Path, refusals: &str) -> Result<Image, KernelError> {
    if card.capability < FIRST_CAPABILITY {
        return Err(KernelError::OldCard { module: module.name, capability: card.capability });
    }
    let compiler = Compiler::find()
        .ok_or_else(|| KernelError::NoCompiler { module: module.name, refusals: refusals.to_owned() })?;
    let target = compiler.target(card.capability);
    let hash = compiler.hash(module, target);
    let bytes = image_cache::image_of(cache, Key { module: module.name, hash: &hash }, || {
        tracing::info!(module = module.name, %target, compiler = compiler.name(), "compiling a kernel");
        compiler.compile(module, target).map_err(|reason| KernelError::Compile {
            module: module.name,
            compiler: compiler.name(),
            target: target.to_string(),
            reason,
        })
    })?;
    Ok(Image { target, toolkit: compiler.major * 1000 + compiler.minor * 10, bytes: Cow::Owned(bytes) })
}

/// The NVRTC that is there.
struct Compiler {
    major: u32,
    minor: u32,
    architectures: Vec<u32>,
}

impl Compiler {
    fn find() -> Option<Compiler> {
        // SAFETY: loads libnvrtc, whose initialisers ask nothing of their caller.
        if !unsafe { sys::is_culib_present() } {
            return None;
        }
        let (mut major, mut minor, mut count) = (0, 0, 0);
        // SAFETY: the library is there; all three point to integers.
        let asked = unsafe { [sys::nvrtcVersion(&mut major, &mut minor), sys::nvrtcGetNumSupportedArchs(&mut count)] };
        let mut architectures = vec![0; usize::try_from(count).ok()?];
        // SAFETY: as many integers as NVRTC said that it writes.
        let listed = unsafe { sys::nvrtcGetSupportedArchs(architectures.as_mut_ptr()) };
        let all_good = [asked[0], asked[1], listed].iter().all(|status| status.result().is_ok());
        let architectures = architectures.into_iter().map(c_int::unsigned_abs).collect();
        all_good.then_some(Compiler { major: major.unsigned_abs(), minor: minor.unsigned_abs(), architectures })
    }

    fn name(&self) -> String {
        format!("NVRTC {}.{}", self.major, self.minor)
    }

    fn target(&self, capability: u32) -> Target {
        if self.architectures.contains(&capability) {
            return Target::Cubin(capability);
        }
        let known = self.architectures.iter().copied().filter(|&known| known <= capability);
        Target::Ptx(known.max().unwrap_or(FIRST_CAPABILITY))
    }

    /// Of all that goes into the image.
    fn hash(&self, module: &Module, target: Target) -> String {
        let (compiler, target) = (self.name(), target.to_string());
        let headers = HEADERS.iter().flat_map(|header| [header.name, header.text]);
        let parts = [&compiler, &target[..], module.name, module.source].into_iter().chain(OPTIONS).chain(headers);
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize()[..16].iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a string takes everything");
            text
        })
    }

    /// On error, what NVRTC said.
    fn compile(&self, module: &Module, target: Target) -> Result<Vec<u8>, String> {
        let program = Program::new(module, HEADERS)?;
        let options = OPTIONS.map(str::to_owned).into_iter().chain([format!("--gpu-architecture={target}")]);
        program.compile(&options.map(text).collect::<Result<Vec<CString>, String>>()?)?;
        match target {
            Target::Cubin(_) => program.read(sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN),
            Target::Ptx(_) => program.read(sys::nvrtcGetPTXSize, sys::nvrtcGetPTX),
        }
    }
}

fn text(text: impl Into<Vec<u8>>) -> Result<CString, String> {
    CString::new(text).map_err(|_| "the source has a NUL byte in it".to_owned())
}

fn checked(what: &str, status: sys::nvrtcResult) -> Result<(), String> {
    status.result().map_err(|error| format!("{what}: {error}"))
}

type SizeOf = unsafe fn(sys::nvrtcProgram, *mut usize) -> sys::nvrtcResult;
type CopyOf = unsafe fn(sys::nvrtcProgram, *mut c_char) -> sys::nvrtcResult;

/// A program from its creation to its end.
struct Program {
    program: sys::nvrtcProgram,
    /// The program may refer to them.
    _texts: Vec<CString>,
}

impl Program {
    fn new(module: &Module, headers: &[Header]) -> Result<Program, String> {
        let names = headers.iter().map(|header| text(header.name)).collect::<Result<Vec<_>, _>>()?;
        let mut texts = headers.iter().map(|header| text(header.text)).collect::<Result<Vec<_>, _>>()?;
        let (source, name) = (text(module.source)?, text(format!("{}.cu", module.name))?);
        let pointers = |strings: &[CString]| strings.iter().map(|string| string.as_ptr()).collect::<Vec<_>>();
        let (header_texts, header_names) = (pointers(&texts), pointers(&names));
        let count = c_int::try_from(headers.len()).map_err(|_| "too many headers".to_owned())?;
        let mut program = ptr::null_mut();
        // SAFETY: all strings end with NUL and live as long as the program; there are `count` headers and names.
        let status = unsafe {
            sys::nvrtcCreateProgram(
                &mut program,
                source.as_ptr(),
                name.as_ptr(),
                count,
                header_texts.as_ptr(),
                header_names.as_ptr(),
            )
        };
        checked("nvrtcCreateProgram", status)?;
        texts.extend(names.into_iter().chain([source, name]));
        Ok(Program { program, _texts: texts })
    }

    /// On error, the compiler's log.
    fn compile(&self, options: &[CString]) -> Result<(), String> {
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).map_err(|_| "too many options".to_owned())?;
        // SAFETY: the program is alive; `count` strings that end with NUL.
        let status = unsafe { sys::nvrtcCompileProgram(self.program, count, pointers.as_ptr()) };
        checked("nvrtcCompileProgram", status).map_err(|failure| match self.log() {
            Ok(log) if !log.is_empty() => log,
            _ => failure,
        })
    }

    fn log(&self) -> Result<String, String> {
        let log = self.read(sys::nvrtcGetProgramLogSize, sys::nvrtcGetProgramLog)?;
        Ok(String::from_utf8_lossy(&log).trim_matches(['\0', '\n']).to_owned())
    }

    fn read(&self, size: SizeOf, copy: CopyOf) -> Result<Vec<u8>, String> {
        let mut bytes = 0;
        // SAFETY: the program is alive; points to a size.
        checked("asking NVRTC for a size", unsafe { size(self.program, &mut bytes) })?;
        let mut result = vec![0u8; bytes];
        // SAFETY: as many bytes as NVRTC said that it writes.
        checked("reading from NVRTC", unsafe { copy(self.program, result.as_mut_ptr().cast()) })?;
        Ok(result)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: created by `new` and destroyed here alone. There is nothing to do about a failure.
        unsafe { sys::nvrtcDestroyProgram(&mut self.program) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nvrtc_12_4() -> Compiler {
        Compiler { major: 12, minor: 4, architectures: vec![50, 80, 86, 89, 90] }
    }

    #[test]
    fn a_known_card_gets_machine_code_and_a_newer_one_ptx() {
        assert_eq!(nvrtc_12_4().target(86), Target::Cubin(86));
        assert_eq!(nvrtc_12_4().target(120), Target::Ptx(90));
        assert_eq!(nvrtc_12_4().target(87), Target::Ptx(86));
    }

    #[test]
    fn everything_that_goes_in_changes_the_hash() {
        let module = |source| Module { name: "norm", source, images: &[] };
        let (compiler, target) = (nvrtc_12_4(), Target::Cubin(86));
        let hash = compiler.hash(&module("a"), target);
        assert_eq!(hash.len(), 32);
        assert_eq!(hash, compiler.hash(&module("a"), target));
        assert_ne!(hash, compiler.hash(&module("b"), target));
        assert_ne!(hash, compiler.hash(&module("a"), Target::Cubin(89)));
        assert_ne!(hash, Compiler { minor: 6, ..nvrtc_12_4() }.hash(&module("a"), target));
    }

    #[test]
    fn a_card_before_ampere_is_refused_by_name() {
        let module = Module { name: "norm", source: "", images: &[] };
        let error = image(&module, Card { capability: 75, driver: 13000 }, Path::new("/nonexistent"), "").unwrap_err();
        assert_eq!(
            error.to_string(),
            "kernels/norm.cu needs a card of compute capability 8.0 or later: this one has 7.5"
        );
    }
}
