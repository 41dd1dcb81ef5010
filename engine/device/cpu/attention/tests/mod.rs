//! One suite for every instruction set and both stored types: a sweep against a naive evaluation in f64, and bit-for-bit
//! independence of everything but a row's own inputs.

mod fixture;
mod invariance;
mod sweep;

use super::super::Isa;
use crate::device::Dtype;

/// Calls `check` for each instruction set of this machine and both types.
fn everywhere(check: impl Fn(Isa, Dtype)) {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            check(isa, dtype);
        }
    }
}
