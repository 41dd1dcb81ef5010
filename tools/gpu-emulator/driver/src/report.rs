//! Tells people and tests about faults: a paragraph on standard error, a line in the file of `GPU_EMULATOR_REPORT`.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use gpu_emulator::Fault;

use crate::status::CudaError;

/// Where faults go.
#[derive(Default)]
pub struct Reporter {
    file: Option<PathBuf>,
}

impl Reporter {
    /// A reporter that also appends to a file.
    pub fn new(file: Option<PathBuf>) -> Reporter {
        Reporter { file }
    }

    /// Tells of one fault.
    pub fn tell(&self, error: CudaError, what: &str) {
        eprintln!("gpu-emulator: {error}: {what}");
        let Some(path) = &self.file else { return };
        let line = format!("{error}: {}\n", what.replace('\n', " | "));
        let written = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = written {
            eprintln!("gpu-emulator: {}: cannot append the fault: {error}", path.display());
        }
    }
}

/// The code a card would answer for a fault of a kernel. Faults that a card does not notice (races, unwritten memory) end a launch
/// here all the same.
pub fn error_of(fault: &Fault) -> CudaError {
    match fault {
        Fault::OutOfBounds { .. } => CudaError::IllegalAddress,
        Fault::Misaligned { .. } => CudaError::MisalignedAddress,
        Fault::Deadlock { .. } | Fault::Runaway { .. } => CudaError::LaunchTimeout,
        Fault::Unsupported { .. } => CudaError::IllegalInstruction,
        Fault::BadLaunch { .. } => CudaError::LaunchOutOfResources,
        Fault::SharedRace { .. }
        | Fault::GlobalRace { .. }
        | Fault::Uninitialised { .. }
        | Fault::UnwaitedCopy { .. }
        | Fault::DivergentBarrier { .. }
        | Fault::BadCollective { .. }
        | Fault::Trap { .. } => CudaError::LaunchFailed,
    }
}
