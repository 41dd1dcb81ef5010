//! One interface over the two compilers, and the parallel loop over all that is to be compiled.

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::nvcc::{self, Nvcc};
use crate::nvrtc::{self, Nvrtc};
use crate::{Cache, Hash, SourceFile, Sources, Target};

/// A compiler that was found.
pub enum Compiler {
    /// NVRTC, loaded into this process.
    Nvrtc(Nvrtc),
    /// `nvcc`, run as a program.
    Nvcc(Nvcc),
}

/// One compilation: a kernel file for a target.
#[derive(Clone, Copy)]
pub struct Unit<'a> {
    /// Where the headers are.
    pub sources: &'a Sources,
    /// The file.
    pub kernel: &'a SourceFile,
    /// What for.
    pub target: Target,
}

impl<'a> Unit<'a> {
    /// Every kernel of `sources` for every one of `targets`.
    pub fn all(sources: &'a Sources, targets: &[Target]) -> Vec<Unit<'a>> {
        let of = |kernel| targets.iter().map(move |&target| Unit { sources, kernel, target });
        sources.kernels.iter().flat_map(of).collect()
    }
}

/// What a compilation makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The image. PTX ends with a NUL, as drivers want it.
    pub bytes: Vec<u8>,
    /// What the compiler said; of machine code that includes the resources of every kernel (`ptxas -v`).
    pub log: String,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The library is there and cannot be used.
    #[error("{path} cannot be used: {reason}", path = path.display())]
    Library {
        /// The library.
        path: PathBuf,
        /// What the loader or the library said.
        reason: String,
    },
    /// The program could not be run, or a file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The program or file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The source is wrong.
    #[error("{compiler} cannot compile {kernel} for {target}:\n{log}")]
    Source {
        /// Which compiler.
        compiler: String,
        /// Which file.
        kernel: String,
        /// For what.
        target: Target,
        /// What it said.
        log: String,
    },
}

impl Compiler {
    /// `NVRTC 12.9`, `nvcc 13.0`.
    pub fn name(&self) -> String {
        match self {
            Compiler::Nvrtc(nvrtc) => nvrtc.name(),
            Compiler::Nvcc(nvcc) => nvcc.name(),
        }
    }

    /// Its CUDA version.
    pub fn version(&self) -> (u32, u32) {
        match self {
            Compiler::Nvrtc(nvrtc) => nvrtc.version(),
            Compiler::Nvcc(nvcc) => nvcc.version(),
        }
    }

    /// Whether it knows `target`: an older compiler does not know the newest cards.
    pub fn supports(&self, target: Target) -> bool {
        let known = match self {
            Compiler::Nvrtc(nvrtc) => nvrtc.architectures(),
            Compiler::Nvcc(nvcc) => nvcc.architectures(),
        };
        known.contains(&target.capability())
    }

    /// What tells two builds of the compiler apart.
    fn identity(&self) -> &str {
        match self {
            Compiler::Nvrtc(nvrtc) => nvrtc.identity(),
            Compiler::Nvcc(nvcc) => nvcc.identity(),
        }
    }

    fn options(&self) -> &'static [&'static str] {
        match self {
            Compiler::Nvrtc(_) => &nvrtc::OPTIONS,
            Compiler::Nvcc(_) => &nvcc::OPTIONS,
        }
    }

    /// Compiles without looking at the cache.
    ///
    /// # Errors
    /// The compiler cannot be used, or refuses the source.
    pub fn compile(&self, unit: Unit) -> Result<Image, CompileError> {
        let mut image = match self {
            Compiler::Nvrtc(nvrtc) => nvrtc.compile(unit),
            Compiler::Nvcc(nvcc) => nvcc.compile(unit),
        }?;
        if matches!(unit.target, Target::Ptx(_)) && image.bytes.last() != Some(&0) {
            image.bytes.push(0);
        }
        Ok(image)
    }

    /// The name of this compilation in the cache.
    pub(crate) fn key(&self, unit: Unit) -> Hash {
        // The layout of cache entries; raised when they change.
        let hash =
            unit.sources.hash_of(unit.kernel).with("layout 1").with(self.identity()).with(unit.target.to_string());
        self.options().iter().chain(unit.target.options()).fold(hash, |hash, option| hash.with(option))
    }
}

impl CompileError {
    pub(crate) fn refused(compiler: String, unit: Unit, log: String) -> CompileError {
        CompileError::Source { compiler, kernel: unit.kernel.name.clone(), target: unit.target, log }
    }
}

/// Compiles every unit over all cores, and returns the images in the units' order.
///
/// # Errors
/// The first unit that fails, in that order.
pub fn compile_all(compiler: &Compiler, cache: &Cache, units: &[Unit]) -> Result<Vec<Image>, CompileError> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(units.len());
    let next = AtomicUsize::new(0);
    let images = Mutex::new(Vec::with_capacity(units.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(unit) = units.get(index) else { break };
                    let image = cache.image(compiler, *unit);
                    images.lock().expect("no thread panics while it holds this").push((index, image));
                }
            });
        }
    });
    let mut images = images.into_inner().expect("no thread panics while it holds this");
    images.sort_by_key(|(index, _)| *index);
    images.into_iter().map(|(_, image)| image).collect()
}
