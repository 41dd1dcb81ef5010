//! The exported functions, under the names and with the arguments of `cuda.h`.
//!
//! Each one turns C arguments into Rust ones and makes one call. Handles are numbers in a pointer's place. What a parameter means is
//! in NVIDIA's driver API documentation; what this driver does differently stands beside the code that does it.
#![allow(non_snake_case)]

mod context;
mod cublaslt;
mod device;
mod graph;
mod launch;
mod memory;
mod module;
mod occupancy;
mod pinned;
mod pointers;
mod pool;
mod stream;
mod unsupported;

use crate::status::Outcome;

/// `CUresult`.
type Code = i32;

/// The code of an outcome.
fn answer(outcome: Outcome<()>) -> Code {
    outcome.map_or_else(|error| error as Code, |()| 0)
}
