//! The CPU device. (to be written)

pub mod gemm;
pub mod attention;
mod isa;
pub mod kv;
mod pool;

pub use isa::Isa;
pub use pool::Pool;
