//! The CUDA device: operation by operation against the CPU device through the trait that both implement, and whole, as a
//! server uses it.
//!
//! Runs on the stand-in driver of `tools/gpu-emulator` (the kernels' PTX, executed on the CPU with its checks on), or with
//! `SIDEREAL_TEST_DRIVER=real` on a card.

mod beam_attention;
#[path = "../cli_support/mod.rs"]
mod cli_support;
#[path = "../common/mod.rs"]
mod common;
mod engine;
mod expand_select;
mod experts;
mod faults;
mod head;
mod history_attention;
mod linear;
mod rows;
mod serve;
mod support;
mod write_kv;
