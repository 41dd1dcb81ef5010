//! The CPU device. (to be written)

mod isa;
mod pool;

pub use isa::Isa;
pub use pool::Pool;
