//! What kernels take: one struct each, passed by value, in the layout that `kernels/include/params.h` gives it.
//!
//! The structs are generated from that header, which the kernels include, and their sizes and offsets are asserted when this
//! is compiled. That a compiled kernel's parameter has the struct's size is tested over every kernel's PTX
//! (`tests/cuda_images.rs`). Addresses of device memory are `u64`; nothing here follows them.

#[allow(missing_docs, reason = "the header's comments are kept where it has any")]
mod generated;

pub use generated::*;

/// A struct that a kernel takes by value.
///
/// # Safety
/// The layout is that of the C struct of this name: a launch copies `size_of::<Self>()` bytes from it.
pub unsafe trait KernelParams: Copy {
    /// The struct's name in C.
    const NAME: &'static str;
}
