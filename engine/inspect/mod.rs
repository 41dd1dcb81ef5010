//! Where an export parts from what it was made of, and why: its goldens beside the serving path, operation by operation.
//!
//! [`bisect`] needs recorded activations and names the first operation that differs. [`token_order`] needs only golden cases with
//! teacher-forced log-probabilities and finds codes that are spelled by the wrong tokens. Both compute one prompt at a time
//! through the same models and devices that serve; text is never looked at.

mod bisect;
mod matrix;
mod probe;
mod suspects;
mod tokens;
mod tracer;

use std::path::Path;
use std::sync::Arc;

pub use bisect::{Bisection, Divergence};

use crate::device::DeviceError;
use crate::export::{Activations, Export, ExportError, GoldenCase};
use crate::model;
use crate::schedule::{DeviceChoice, LoadError};
use bisect::Walk;
use probe::Probe;

/// Why an export could not be inspected.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It does not load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A recorded tensor is bad.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The activations name a case that is not there.
    #[error("{path}: golden case {case} was recorded, which golden/cases.jsonl does not have")]
    NoSuchCase {
        /// The activations.
        path: std::path::PathBuf,
        /// The case.
        case: u64,
    },
}

/// What computes, and over which catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Means<'a> {
    /// The catalogue, if it is not the export's own.
    pub catalog: Option<&'a Path>,
    /// The device; it computes in f32.
    pub device: &'a DeviceChoice,
}

/// Walks the recorded case to the first operation that computes something else.
///
/// # Errors
/// The export does not load, or what was recorded does not fit it.
pub fn bisect(
    export: &Arc<Export>,
    activations: &Activations,
    cases: &[GoldenCase],
    means: Means<'_>,
) -> Result<Bisection, InspectError> {
    let case = activations.case();
    let golden = cases.iter().find(|golden| golden.id == case);
    let golden = golden.ok_or_else(|| InspectError::NoSuchCase { path: activations.path().to_owned(), case })?;
    let description =
        model::family(export.checkpoint()).and_then(|family| family.description(export)).map_err(LoadError::from)?;
    let events = Probe::open(export, means, golden.tokens.len())?.run(&golden.tokens, &[])?;
    let mut walk = Walk {
        export,
        activations,
        head: &description.head,
        head_dim: description.head_dim,
        found: Bisection { case, agreed: 0, largest: 0.0, divergence: None },
    };
    walk.run(&events)?;
    Ok(walk.found)
}

/// What is wrong with the tokens that spell codes, if the cases' teacher-forced log-probabilities tell.
///
/// # Errors
/// The export does not load, or the device failed.
pub fn token_order(
    export: &Arc<Export>,
    cases: &[GoldenCase],
    means: Means<'_>,
) -> Result<Option<String>, InspectError> {
    tokens::order(export, cases, means)
}
