//! `bench`: what the kernels and the engine reach on this card, in percent of what the card can do, beside the best published.
//!
//! First the ceilings, then each kernel over its shapes by the card's clock, then requests end to end by the host's. Each group
//! is a part in a process of its own. What takes longest comes last, so that it is what a short time drops.

pub mod ceilings;
pub mod end_to_end;
pub mod experts;
pub mod kernels;
mod rig;
mod work;

use crate::error::CheckError;
use crate::run::Run;

/// Groups in the order in which they run, with the most seconds that each may take.
const PARTS: [(&str, u64); 11] = [
    ("ceilings", 60),
    ("rows", 40),
    ("beam-attention", 60),
    ("history-attention", 60),
    ("linear", 120),
    ("head", 90),
    ("experts", 60),
    ("qwen3", 200),
    ("expand-select", 90),
    ("t5", 90),
    ("onerec", 90),
];

/// Runs all of it.
pub fn run(run: &mut Run) -> Result<(), CheckError> {
    PARTS.into_iter().try_for_each(|(name, seconds)| run.part(name, seconds))
}
