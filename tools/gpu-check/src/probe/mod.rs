//! One small kernel for each wrapper of `kernels/include/ptx.h`, run on the card and on the interpreter, and compared.
//!
//! Where the PTX ISA defines every bit, every bit must agree. Approximations agree within the error that the ISA allows both.
//! A tensor core adds in an order, and with a rounding, that the ISA leaves open: for whole numbers, whose sums are exact in
//! any order, every bit must agree (so the fragments' layout is right); else the difference is measured, and bounded by the sum
//! of the products' magnitudes.

pub mod cases;
pub mod compare;
pub mod images;

use crate::error::CheckError;
use cases::Case;

/// What to launch.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    /// File in `probes/`, without its ending.
    pub module: &'static str,
    /// Which kernel of it.
    pub kernel: &'static str,
    /// Blocks.
    pub blocks: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// `count` of the parameters.
    pub count: u32,
}

/// Something that runs probes.
pub trait Machine {
    /// Runs one launch; outputs that are not written are 0xff.
    fn run(&mut self, launch: &Launch, input: &[u8], output_bytes: usize) -> Result<Vec<u8>, CheckError>;
}

/// How a probe came out.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The wrapper, and which inputs.
    pub name: &'static str,
    /// Numbers compared.
    pub values: usize,
    /// What agreement means here.
    pub rule: String,
    /// The largest difference, in the rule's terms.
    pub difference: String,
    /// Whether the rule holds.
    pub agrees: bool,
}

/// Runs one case on both.
pub fn run(case: &Case, card: &mut dyn Machine, reference: &mut dyn Machine) -> Result<Outcome, CheckError> {
    let expected = reference.run(&case.launch, &case.input, case.output_bytes)?;
    let actual = card.run(&case.launch, &case.input, case.output_bytes)?;
    Ok(compare::compare(case, &actual, &expected))
}
