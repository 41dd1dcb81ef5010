//! What the kernel benches share: the machine's ceilings and a clock that other processes cannot stretch.

use sidereal::device::Dtype;
use sidereal::device::cpu::Isa;

/// GFLOP/s of one core of the machine the targets were measured on (Zen 4, 3.69 GHz), from loops on registers.
pub fn peak(isa: Isa, dtype: Dtype) -> f64 {
    match (isa, dtype) {
        (Isa::Avx512Bf16, Dtype::Bf16) => 236.0,
        _ => 118.0,
    }
}

/// Time that this thread has run. NaN where the system does not say.
pub fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|nanoseconds| nanoseconds.parse().ok()).map_or(f64::NAN, |ns: f64| ns / 1e9)
}
