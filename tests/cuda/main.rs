//! The CUDA device against the CPU device, operation by operation, through the trait that both implement.
//!
//! Runs on the stand-in driver of `tools/gpu-emulator` (the kernels' PTX, executed on the CPU with its checks on), or with
//! `SIDEREAL_TEST_DRIVER=real` on a card.

mod support;
