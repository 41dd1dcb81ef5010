//! Limits, admission, batches and the engine loop.

mod limits;

pub use limits::Limits;
