//! How a command ends when it does not end well: an exit code with a meaning, and one message.

use std::process::ExitCode;

use crate::catalog::{CatalogError, JournalError, ViewError};
use crate::client::ClientError;
use crate::export::ExportError;
use crate::model::ModelError;
use crate::schedule::LoadError;
use crate::serve::ServeError;
use crate::store::StoreError;
use crate::store::load::LoadError as StoreLoadError;

/// What an exit code means. 0 is "good" and needs no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The thing that was to be checked, read or served is bad.
    Bad = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The system refused something: a file, a port, memory, a device.
    Environment = 3,
}

/// Why a command stopped.
#[derive(Debug)]
pub struct Failure {
    /// Exit code.
    pub exit: Exit,
    /// What, where, and what to do; empty when everything has been said already.
    pub message: String,
}

impl Failure {
    /// The thing at hand is bad.
    pub fn bad(message: impl Into<String>) -> Failure {
        Failure { exit: Exit::Bad, message: message.into() }
    }

    /// The command line is wrong.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure { exit: Exit::Usage, message: message.into() }
    }

    /// The system refused something.
    pub fn environment(message: impl Into<String>) -> Failure {
        Failure { exit: Exit::Environment, message: message.into() }
    }

    /// The thing at hand is bad, and the output says why.
    pub fn already_said() -> Failure {
        Failure::bad(String::new())
    }

    /// A file that could not be read.
    pub fn read(path: &std::path::Path, error: &std::io::Error) -> Failure {
        Failure::environment(format!("{}: cannot be read: {error}", path.display()))
    }

    /// Prints the message and gives the exit code.
    pub fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            use std::io::Write;
            // Where even stderr is gone there is nobody left to tell.
            let _ = writeln!(std::io::stderr(), "sidereal: {}", self.message);
        }
        ExitCode::from(self.exit as u8)
    }
}

/// Output that nobody reads any more ends the command quietly; every other write failure says what it is.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::environment(String::new()),
            _ => Failure::environment(format!("cannot write the output: {error}")),
        }
    }
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Failure {
        let exit = match error {
            ExportError::NoSuchDirectory { .. }
            | ExportError::NotADirectory { .. }
            | ExportError::Read { .. }
            | ExportError::Map(_) => Exit::Environment,
            _ => Exit::Bad,
        };
        Failure { exit, message: error.to_string() }
    }
}

impl From<CatalogError> for Failure {
    fn from(error: CatalogError) -> Failure {
        let exit = match error {
            CatalogError::Io { .. } | CatalogError::Map(_) => Exit::Environment,
            _ => Exit::Bad,
        };
        Failure { exit, message: error.to_string() }
    }
}

impl From<ViewError> for Failure {
    fn from(error: ViewError) -> Failure {
        match error {
            ViewError::Write(error) => error.into(),
            ViewError::Io { .. } => Failure::environment(error.to_string()),
            error => Failure::bad(error.to_string()),
        }
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Failure {
        match error {
            JournalError::Io { .. } => Failure::environment(error.to_string()),
            error => Failure::bad(error.to_string()),
        }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Failure {
        match error {
            LoadError::Export(error) | LoadError::Model(ModelError::Export(error)) => error.into(),
            LoadError::Catalog(error) => error.into(),
            LoadError::View(error) => error.into(),
            LoadError::Journal(error) => error.into(),
            LoadError::Device(_) | LoadError::Thread(_) | LoadError::Model(ModelError::Device(_)) => {
                Failure::environment(error.to_string())
            }
            LoadError::Limits(_) | LoadError::EmptyCatalog | LoadError::Unsupported(_) | LoadError::Model(_) => {
                Failure::bad(error.to_string())
            }
        }
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Failure {
        Failure::environment(error.to_string())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure::environment(error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        match error {
            StoreError::NotAStore { .. } => Failure::bad(error.to_string()),
            StoreError::Address { .. } | StoreError::NoTtl { .. } | StoreError::Key(_) => {
                Failure::usage(error.to_string())
            }
            error => Failure::environment(error.to_string()),
        }
    }
}

impl From<StoreLoadError> for Failure {
    fn from(error: StoreLoadError) -> Failure {
        match error {
            StoreLoadError::Store(error) => error.into(),
            StoreLoadError::Header(error) => error.into(),
            StoreLoadError::Read { .. } | StoreLoadError::Map(_) => Failure::environment(error.to_string()),
            error => Failure::bad(error.to_string()),
        }
    }
}
