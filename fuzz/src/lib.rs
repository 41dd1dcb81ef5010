//! What each fuzz target does with its bytes. The targets themselves (`fuzz_targets/`) are one line each, and
//! `tests/corpus.rs` of the engine sends the committed corpus through the same functions without a fuzzer.
//!
//! A function ends quietly whatever the bytes are: wrong input is an error value. It panics where a promise is broken, so
//! that a fuzzer finds broken promises and not only crashes.

mod catalog;
mod client;
mod instruction;
mod manifest;
mod scratch;
mod weights;
mod wire;

/// A target by its name.
pub type Target = (&'static str, fn(&[u8]));

/// Every target; each has a folder of this name below `corpus/`.
pub const TARGETS: &[Target] = &[
    ("frame", wire::frame),
    ("client_frame", client::client_frame),
    ("manifest", manifest::manifest),
    ("safetensors", weights::safetensors),
    ("catalog", catalog::catalog),
    ("catalog_source", catalog::catalog_source),
    ("instruction", instruction::instruction),
];

/// Runs the target `name`.
///
/// # Panics
/// If there is no such target, or the input breaks a promise.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of this name");
    target(data);
}
