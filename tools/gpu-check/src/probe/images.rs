//! The probes that this binary carries: machine code and PTX, made by the build script.

use std::borrow::Cow;

use sidereal::device::cuda::images::{Header, Image, Module, Target};

use crate::error::CheckError;

/// Makes `bytes` start where the driver may read whole words.
#[repr(C, align(16))]
#[allow(dead_code, reason = "a build without CUDA compiler has no image")]
struct Aligned<B: ?Sized>(B);

/// An image that the build script has written.
#[allow(unused_macros, reason = "a build without CUDA compiler has no image")]
macro_rules! image {
    ($target:expr, $toolkit:literal, $path:literal) => {{
        const BYTES: &Aligned<[u8]> = &Aligned(*include_bytes!($path));
        Image { target: $target, toolkit: $toolkit, bytes: Cow::Borrowed(&BYTES.0) }
    }};
}

mod table {
    #![allow(dead_code, unused_imports, reason = "the table also holds what only the engine needs")]
    use super::*;
    include!(concat!(env!("OUT_DIR"), "/kernel_images.rs"));
}

pub use table::COMPILER;

/// The module of `probes/<name>.cu`.
pub fn module(name: &str) -> Result<&'static Module, CheckError> {
    let module = table::MODULES.iter().find(|module| module.name == name);
    let module = module.ok_or_else(|| CheckError::Missing(format!("no probes/{name}.cu")))?;
    if module.images.is_empty() {
        let told =
            "this binary was built without a CUDA compiler and has no probes: run tools/cuda-toolchain, then pack";
        return Err(CheckError::Missing(told.to_owned()));
    }
    Ok(module)
}

/// How many modules have images.
pub fn count() -> usize {
    table::MODULES.iter().filter(|module| !module.images.is_empty()).count()
}

/// A module's PTX text.
pub fn ptx(module: &Module) -> Result<&str, CheckError> {
    let image = module.images.iter().find(|image| matches!(image.target, Target::Ptx(_)));
    let bytes = image.map(|image| &image.bytes[..]).unwrap_or_default();
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() => Ok(text.trim_end_matches('\0')),
        _ => Err(CheckError::Missing(format!("probes/{}.cu has no PTX in this binary", module.name))),
    }
}
