//! A CUDA device that is a program: runs the PTX that nvcc and NVRTC emit for sm_80, on the CPU, with every check on.
//!
//! [`ptx::Module`] parses PTX, [`memory::GlobalMemory`] is the device's memory, [`machine::launch`] runs a kernel's whole grid and
//! answers with a [`Fault`] at the first out-of-bounds, misaligned, racing, uninitialised or ill-synchronised access.
//!
//! Invariant: what a kernel computes depends on its inputs alone; blocks and warps run in a fixed order.
//! It does not model time, caches, tensor-core rounding or weak memory order; see the README.

mod fault;
mod float;
mod ir;
mod lower;
pub mod machine;
pub mod memory;
pub mod product;
pub mod ptx;

pub use fault::{Action, Fault, Limits, Memory, OtherBlock, OtherLane, Site};
