//! The device's operations together, against evaluations in f64.

mod search;

use super::Isa;

/// Instruction sets of this machine.
fn sets() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}
