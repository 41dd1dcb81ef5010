//! The CPU device. (to be written)

pub mod gemm;
mod isa;
mod pool;

pub use isa::Isa;
pub use pool::Pool;
