//! What can go wrong outside of what is checked.

use std::path::PathBuf;

use sidereal::catalog::CatalogError;
use sidereal::device::DeviceError;
use sidereal::export::ExportError;
use sidereal::schedule::LoadError;
use sidereal_card::DriverError;

/// Why a check could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There is no driver or no card.
    #[error("{0}")]
    NoCard(String),
    /// The driver refused a call.
    #[error("{what}: {error:?}")]
    Driver {
        /// Which call.
        what: String,
        /// What it said.
        error: DriverError,
    },
    /// The engine's device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The engine did not start.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// An export that was made here cannot be read.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// A catalogue cannot be made.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The emulator stopped.
    #[error("emulator: {0}")]
    Emulator(String),
    /// A file.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something that has to be there is not.
    #[error("{0}")]
    Missing(String),
    /// An answer that is none.
    #[error("{0}")]
    Answer(String),
}

/// For `map_err`: names the file.
pub fn at(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> CheckError {
    let path = path.into();
    move |source| CheckError::Io { path, source }
}

/// For `map_err`: names the call.
pub fn calling(what: impl Into<String>) -> impl FnOnce(DriverError) -> CheckError {
    let what = what.into();
    move |error| CheckError::Driver { what, error }
}
