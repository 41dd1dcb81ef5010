//! Compiles `kernels/*.cu`: for `build.rs`, which embeds the images, and for the compile gate, which judges them.
//!
//! A `.cu` file is a module and compiles to one image a [`Target`]: machine code (cubin) of one architecture, or PTX, which
//! a driver compiles for whatever card it has. The compiler is NVRTC or `nvcc`, whichever [`toolchain::find`] finds; there
//! may be none. Every compilation goes through the [`Cache`], keyed by all that goes in, so that debug and release builds,
//! tests and the gate compile a file once.
//!
//! Invariant: an image depends on nothing but sources, headers, options and compiler. Nothing here needs a GPU or a driver,
//! and nothing here is linked into the engine.

mod cache;
mod compiler;

pub mod gate;
mod hash;
mod nvcc;
mod nvrtc;
pub mod ptx;
mod sources;
pub mod table;
mod target;
pub mod toolchain;

pub use cache::Cache;
pub use compiler::{CompileError, Compiler, Image, Unit, compile_all};
pub use hash::Hash;
pub use nvrtc::OPTIONS as NVRTC_OPTIONS;
pub use sources::{SourceFile, Sources};
pub use target::{BadTarget, Target};
