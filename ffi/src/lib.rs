//! The unsafe edge of the engine: what cannot be said in safe Rust about files and signals.
//!
//! Everything here has a safe interface. `unsafe` for SIMD and device code lives in `engine/device`.

mod lmdb;
mod map;
mod pages;
pub mod params;
mod sigbus;

pub use lmdb::{Lmdb, LmdbError, LmdbOptions, Snapshot, Writer};
pub use map::{MapError, MappedFile, open_regular};
pub use pages::Pages;
pub use sigbus::install_sigbus_handler;
