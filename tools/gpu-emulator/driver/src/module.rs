//! Modules: PTX text in, kernels out. Device code for real hardware is refused as a driver refuses code for another card.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::Arc;

use gpu_emulator::ptx::{self, Kernel, Module};

use crate::attributes::{self, COMPUTE_CAPABILITY};
use crate::handle::Handle;
use crate::session::{Session, find, find_mut};
use crate::status::{CudaError, Outcome};

/// A loaded module.
pub struct LoadedModule {
    module: Arc<ptx::LoadedModule>,
    functions: BTreeMap<String, Handle>,
}

/// A kernel of a loaded module, with what the caller set on it.
#[derive(Clone)]
pub struct Function {
    /// The module's handle.
    pub module: Handle,
    /// The code.
    pub code: KernelCode,
    /// Its name, for `cuFuncGetName`.
    pub name: CString,
    /// Dynamic shared memory a launch may ask for.
    pub dynamic_shared_limit: usize,
    /// `CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT`, given back as set.
    pub carveout: i32,
}

/// A kernel's code, alive even after its module was unloaded.
#[derive(Clone)]
pub struct KernelCode {
    module: Arc<ptx::LoadedModule>,
    name: Arc<str>,
}

impl KernelCode {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kernel. It was found when the code was made and modules do not change.
    pub fn kernel(&self) -> Outcome<&Kernel> {
        self.module.kernel(&self.name).ok_or(CudaError::NotFound)
    }

    /// Threads a block may have.
    pub fn max_threads(&self) -> Outcome<usize> {
        Ok(attributes::MAX_THREADS_PER_BLOCK
            .min(self.kernel()?.max_threads().map_or(usize::MAX, |threads| threads as usize)))
    }
}

/// What an image given to `cuModuleLoadData` is, by its first bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Image {
    /// A cubin or fat binary: code for hardware.
    Binary,
    /// Text, perhaps PTX.
    Text,
    /// Neither.
    Garbage,
}

const ELF: [u8; 4] = [0x7f, b'E', b'L', b'F'];
const FATBIN: [u8; 4] = 0xba55_ed50_u32.to_le_bytes();
const FATBIN_WRAPPER: [u8; 4] = 0x4662_43b1_u32.to_le_bytes();

impl Image {
    /// Looks at the first four bytes, or fewer where text ends sooner.
    pub fn of(start: &[u8]) -> Image {
        if [ELF, FATBIN, FATBIN_WRAPPER].iter().any(|magic| start == magic) {
            return Image::Binary;
        }
        let is_text = |byte: &u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
        if !start.is_empty() && start.iter().all(is_text) { Image::Text } else { Image::Garbage }
    }
}

/// Why text was refused: the code to answer, and a line for the log.
pub struct Refusal {
    /// The code.
    pub error: CudaError,
    /// The line.
    pub why: String,
}

impl Session<'_> {
    /// Loads PTX text.
    pub fn load_ptx(&mut self, text: &str) -> Result<Handle, Refusal> {
        self.refuse_unsafe_call().map_err(|error| Refusal { error, why: "a stream of this thread captures".into() })?;
        check_version(text, self.process.driver_version)?;
        let module = Module::parse(text).map_err(|error| Refusal {
            error: CudaError::InvalidPtx,
            why: format!("the emulator refuses the PTX: {error}"),
        })?;
        let module = module
            .load(&mut self.context.memory)
            .map_err(|error| Refusal { error: CudaError::OutOfMemory, why: format!("module variables: {error}") })?;
        let handle = self.process.handles.take();
        self.context.modules.insert(handle, LoadedModule { module: Arc::new(module), functions: BTreeMap::new() });
        Ok(handle)
    }

    /// `cuModuleGetFunction`.
    pub fn function(&mut self, module: Handle, name: &str) -> Outcome<Handle> {
        let loaded = find_mut(&mut self.context.modules, module)?;
        if let Some(function) = loaded.functions.get(name) {
            return Ok(*function);
        }
        loaded.module.kernel(name).ok_or(CudaError::NotFound)?;
        let handle = self.process.handles.take();
        loaded.functions.insert(name.to_owned(), handle);
        let function = Function {
            module,
            code: KernelCode { module: loaded.module.clone(), name: name.into() },
            name: CString::new(name).map_err(|_| CudaError::NotFound)?,
            dynamic_shared_limit: attributes::SHARED_BYTES_PER_BLOCK,
            carveout: -1,
        };
        self.context.functions.insert(handle, function);
        Ok(handle)
    }

    /// `cuModuleGetGlobal`: a module variable, which copies and memsets may then use.
    pub fn variable(&mut self, module: Handle, name: &str) -> Outcome<(u64, u64)> {
        let loaded = find(&self.context.modules, module)?;
        let (address, bytes) = loaded.module.variable(name).ok_or(CudaError::NotFound)?;
        self.context.allocations.add_variable(address, bytes, module);
        Ok((address, bytes))
    }

    /// `cuModuleUnload`, after all work: some of it may be the module's.
    pub fn unload(&mut self, handle: Handle) -> Outcome<()> {
        self.refuse_unsafe_call()?;
        find(&self.context.modules, handle)?;
        self.run_all()?;
        self.context.functions.retain(|_, function| function.module != handle);
        self.context.allocations.remove_variables(handle);
        if let Some(LoadedModule { module, .. }) = self.context.modules.remove(&handle) {
            // Graphs may hold kernels of the module still; replaying those is the caller's mistake and faults.
            let module = Arc::unwrap_or_clone(module);
            module.unload(&mut self.context.memory).map_err(|_| CudaError::InvalidValue)?;
        }
        Ok(())
    }
}

/// Refuses PTX newer than the driver, or for a newer card.
fn check_version(text: &str, driver_version: i32) -> Result<(), Refusal> {
    let version = directive(text, ".version").and_then(two_numbers);
    let Some(version) = version else {
        return Err(Refusal { error: CudaError::InvalidImage, why: "no .version directive: this is not PTX".into() });
    };
    let newest = newest_ptx(driver_version);
    if version > newest {
        let why = format!("PTX {}.{} is newer than this driver's {}.{}", version.0, version.1, newest.0, newest.1);
        return Err(Refusal { error: CudaError::UnsupportedPtxVersion, why });
    }
    let target = directive(text, ".target").unwrap_or("");
    let digits: String = target.trim_start_matches("sm_").chars().take_while(char::is_ascii_digit).collect();
    let (major, minor) = COMPUTE_CAPABILITY;
    match digits.parse::<i32>() {
        Ok(target) if target <= 10 * major + minor => Ok(()),
        _ => Err(Refusal {
            error: CudaError::NoBinaryForGpu,
            why: format!("target {target:?} is not for sm_{major}{minor}"),
        }),
    }
}

/// The word after a directive that opens a line.
fn directive<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(name))?;
    line.split(|c: char| c.is_whitespace() || c == ',').find(|word| !word.is_empty())
}

fn two_numbers(text: &str) -> Option<(i32, i32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The newest PTX version a driver takes, from the release notes of the PTX ISA.
fn newest_ptx(driver_version: i32) -> (i32, i32) {
    let minor = driver_version % 1000 / 10;
    match driver_version / 1000 {
        ..=11 => (7, minor.min(8)),
        12 => match minor {
            0..=5 => (8, minor),
            6 => (8, 5),
            7 => (8, 6),
            8 => (8, 7),
            _ => (8, 8),
        },
        major => (major - 4, minor),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str, driver: i32) -> Option<CudaError> {
        check_version(text, driver).err().map(|refusal| refusal.error)
    }

    #[test]
    fn ptx_newer_than_driver_or_card_is_refused() {
        let ptx = "// made by a compiler\n.version 8.8\n.target sm_80, debug\n.address_size 64\n";
        assert_eq!(refusal(ptx, 12_090), None);
        assert_eq!(refusal(ptx, 12_080), Some(CudaError::UnsupportedPtxVersion));
        assert_eq!(refusal(".version 9.0\n.target sm_80", 12_090), Some(CudaError::UnsupportedPtxVersion));
        assert_eq!(refusal(".version 9.0\n.target sm_75", 13_000), None);
        assert_eq!(refusal(".version 8.0\n.target sm_90a", 12_090), Some(CudaError::NoBinaryForGpu));
        assert_eq!(refusal("hello", 12_090), Some(CudaError::InvalidImage));
    }

    #[test]
    fn images_are_told_apart() {
        assert_eq!(Image::of(&ELF), Image::Binary);
        assert_eq!(Image::of(&[0x50, 0xed, 0x55, 0xba]), Image::Binary);
        assert_eq!(Image::of(b"//\n"), Image::Text);
        assert_eq!(Image::of(&[1, 2, 3, 4]), Image::Garbage);
        assert_eq!(Image::of(&[]), Image::Garbage);
    }
}
