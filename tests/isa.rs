//! Asked by `./test`: does this machine have the instruction set that `SIDEREAL_ISA` names?

use sidereal::device::cpu::Isa;

#[test]
fn forced_instruction_set_is_available() {
    let isa = Isa::choose().expect("SIDEREAL_ISA names an instruction set of this machine");
    if let Ok(name) = std::env::var("SIDEREAL_ISA") {
        assert_eq!(isa.name(), name);
    }
}
