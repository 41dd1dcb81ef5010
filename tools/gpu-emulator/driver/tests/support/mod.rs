//! What the driver's tests share: the library loaded as cudarc finds it, a context of one's own, child processes with an environment.
#![allow(dead_code)] // each test file uses a part

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DriverError, LaunchConfig, result, sys};
use cudarc::nvrtc::Ptx;
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

pub use sys::CUresult as Code;

/// The kernels of `fixtures/kernels.cu`.
pub const PTX: &str = include_str!("../fixtures/kernels.ptx");

/// The built library, beside the test binary.
fn library_path() -> PathBuf {
    std::env::current_exe().unwrap().with_file_name("libemulated_cuda.so")
}

/// Loads the library, so that its soname is there when cudarc asks for it.
fn load() {
    static LOADED: OnceLock<Library> = OnceLock::new();
    LOADED.get_or_init(|| {
        let library = library_path();
        // SAFETY: the library is this package's; loading it runs no code with requirements.
        unsafe { Library::open(Some(library), RTLD_NOW | RTLD_GLOBAL) }.unwrap()
    });
}

/// The device, for one test at a time: the primary context is one for the whole process.
pub struct Device {
    pub context: Arc<CudaContext>,
    _turn: MutexGuard<'static, ()>,
}

static TURN: Mutex<()> = Mutex::new(());

impl Device {
    /// A fresh primary context.
    pub fn new() -> Device {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        load();
        reset();
        let context = CudaContext::new(0).unwrap();
        assert!(context.name().unwrap().starts_with("gpu-emulator"), "another driver was loaded");
        // SAFETY: these tests order their streams themselves.
        unsafe { context.disable_event_tracking() };
        Device { context, _turn: turn }
    }

    /// A stream that does not wait for the default stream.
    pub fn stream(&self) -> Arc<CudaStream> {
        self.context.new_stream().unwrap()
    }

    /// A kernel of the fixture.
    pub fn kernel(&self, name: &str) -> CudaFunction {
        self.context.load_module(Ptx::from_src(PTX)).unwrap().load_function(name).unwrap()
    }
}

/// Destroys the primary context, whatever state it is in.
pub fn reset() {
    // SAFETY: nothing of the context is used afterwards.
    unsafe {
        sys::cuInit(0).result().unwrap();
        sys::cuDevicePrimaryCtxReset_v2(0).result().unwrap();
    }
}

/// A launch of one row of blocks.
pub fn row(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}

/// The code an error carries.
pub fn code<T>(outcome: Result<T, DriverError>) -> Option<Code> {
    outcome.err().map(|error| error.0)
}

/// Pinned host memory of so many words.
pub struct Pinned(pub *mut u32, pub usize);

impl Pinned {
    pub fn new(words: usize) -> Pinned {
        // SAFETY: freed once, on drop.
        Pinned(unsafe { result::malloc_host(words * 4, 0) }.unwrap().cast(), words)
    }

    pub fn words(&mut self) -> &mut [u32] {
        // SAFETY: the driver allocated so many words, zeroed, and writes them only inside calls of this thread.
        unsafe { std::slice::from_raw_parts_mut(self.0, self.1) }
    }

    pub fn set(&mut self, value: u32) {
        self.words().fill(value);
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`. A context that is broken refuses, and keeps the memory.
        let _ = unsafe { result::free_host(self.0.cast()) };
    }
}

/// Runs a test again in a process with an environment of its own, where `body` runs, and answers what the process wrote.
pub fn in_child(test: &str, environment: &[(&str, &str)], body: impl FnOnce()) -> Option<Output> {
    const CHILD: &str = "GPU_EMULATOR_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        body();
        return None;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).env(CHILD, "1").envs(environment.iter().copied());
    let output = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && stdout.contains("1 passed"),
        "{stdout}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(output)
}

/// Standard error of a child.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
