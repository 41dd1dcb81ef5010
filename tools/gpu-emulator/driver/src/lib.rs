//! A stand-in for `libcuda.so.1`: the CUDA driver API on a machine without a GPU, with kernels run by `gpu-emulator`.
//!
//! A program that loads the driver at run time uses it unchanged, by `LD_LIBRARY_PATH` alone. Where the API leaves a choice, this
//! driver takes the one that shows mistakes: streams do nothing until somebody waits, pinned memory is read when a copy runs, handles
//! are never reused, errors stick. It does not model speed, peers, textures, managed memory or cooperative launches.
//!
//! `abi` holds the exported functions and is the only part that sees raw pointers, with `host`, which touches pinned memory. The
//! rest is safe code on `Session`: one call on one context.

mod abi;
mod attributes;
mod capture;
mod context;
mod driver;
mod event;
mod execute;
mod graph;
mod handle;
mod host;
mod inject;
mod launch;
mod memory;
mod module;
mod occupancy;
mod product;
mod queue;
mod report;
mod session;
mod settings;
mod statistics;
mod status;
mod stream;
mod work;
