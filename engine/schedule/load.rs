//! What it takes to bring an export up: which device, which catalogue, and everything that can be wrong with them.

use std::path::{Path, PathBuf};

use crate::catalog::{Catalog, CatalogError, JournalError, SourceOptions, ViewError, read_source};
use crate::device::cpu::{CpuDevice, Isa};
use crate::device::cuda::{self, Cublaslt, CudaDevice};
use crate::device::{Device, DeviceError, Dtype};
use crate::export::{CatalogSource, Export, ExportError};
use crate::model::ModelError;
use crate::store::StoreError;

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The export is bad.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The model cannot be loaded.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The catalogue is bad.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A view is bad, or of another catalogue.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The delisting journal cannot be trusted.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The catalogue cannot be served.
    #[error("the catalogue has no items")]
    EmptyCatalog,
    /// The device is not there or too small.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The limits contradict each other or the export.
    #[error("{0}")]
    Limits(String),
    /// What is asked for is not to be had of this export.
    #[error("{0}")]
    Unsupported(String),
    /// The instruction store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system gave no thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// Which kind of device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceKind {
    /// The best there is.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA card, by its number.
    Cuda(u32),
}

/// Which device, in which type, with how many threads.
#[derive(Clone, Debug, Default)]
pub struct DeviceChoice {
    /// Kind.
    pub kind: DeviceKind,
    /// Compute type; `None` = f32.
    pub dtype: Option<Dtype>,
    /// Compute threads; `None` = one a core.
    pub threads: Option<usize>,
    /// Whether cuBLASLt computes a card's products.
    pub cublaslt: Cublaslt,
    /// Where what is made once for a machine is kept; `None` = the user's cache directory.
    pub cache: Option<PathBuf>,
}

impl DeviceChoice {
    /// Opens the device. `Auto` becomes the kind that was opened: what a lost device served must not go on, unsaid, on one
    /// that is slower and rounds otherwise.
    ///
    /// # Errors
    /// The device is not there, or too old. `Auto` takes the CPU then.
    pub fn open(&mut self) -> Result<Box<dyn Device>, DeviceError> {
        match self.kind {
            DeviceKind::Cpu if self.cublaslt == Cublaslt::On => Err(DeviceError::Unavailable(
                "--cublaslt on: cuBLASLt computes on a card, and the device is the CPU".to_owned(),
            )),
            DeviceKind::Cpu => self.open_cpu(),
            DeviceKind::Cuda(ordinal) => self.open_cuda(ordinal),
            DeviceKind::Auto => match cuda::cards().and_then(|_| self.open_cuda(0)) {
                Ok(device) => {
                    self.kind = DeviceKind::Cuda(0);
                    Ok(device)
                }
                Err(reason) if self.cublaslt == Cublaslt::On => Err(reason),
                Err(reason) => {
                    // A card that cannot be used is worth a look; a machine without one is not.
                    match cuda::cards() {
                        Ok(_) => tracing::warn!(%reason, "the card cannot be used: the CPU computes"),
                        Err(_) => tracing::info!(%reason, "no CUDA device: the CPU computes"),
                    }
                    self.kind = DeviceKind::Cpu;
                    self.open_cpu()
                }
            },
        }
    }

    fn dtype(&self) -> Dtype {
        self.dtype.unwrap_or(Dtype::F32)
    }

    fn open_cpu(&self) -> Result<Box<dyn Device>, DeviceError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = self.threads.unwrap_or(cores).max(1);
        Ok(Box::new(CpuDevice::new(Isa::choose()?, self.dtype(), threads)?))
    }

    fn open_cuda(&self, ordinal: u32) -> Result<Box<dyn Device>, DeviceError> {
        let cache = self.cache.clone().or_else(cache_directory).unwrap_or_else(std::env::temp_dir);
        Ok(Box::new(CudaDevice::open(ordinal, self.dtype(), &cache, self.cublaslt)?))
    }
}

/// The user's cache directory: `$XDG_CACHE_HOME/sidereal`, else `~/.cache/sidereal`.
fn cache_directory() -> Option<PathBuf> {
    let of = |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    Some(of("XDG_CACHE_HOME").or_else(|| Some(of("HOME")?.join(".cache")))?.join("sidereal"))
}

/// The folder of the catalogue named on the command line, or else of the export's: its views and its journal are there.
///
/// # Errors
/// The export has no catalogue.
pub fn catalog_folder(export: &Export, named: Option<&Path>) -> Result<PathBuf, LoadError> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => export.catalog_path()?.path().to_owned(),
    };
    Ok(path.parent().map(Path::to_owned).unwrap_or_default())
}

/// Opens the catalogue named on the command line, or else the export's; a source is built in memory.
pub fn open_catalog(export: &Export, named: Option<&Path>) -> Result<Catalog, LoadError> {
    let manifest = export.manifest();
    let source = match named {
        Some(path) if path.extension().is_some_and(|extension| extension == "sid") => {
            CatalogSource::Built(path.to_owned())
        }
        Some(path) => CatalogSource::Source(path.to_owned()),
        None => export.catalog_path()?,
    };
    let codes: Vec<u32> = manifest.levels().iter().map(|level| level.codes() as u32).collect();
    let catalog = match source {
        CatalogSource::Built(path) => Catalog::open(&path)?,
        CatalogSource::Source(path) => {
            let options = SourceOptions { codes: Some(codes), ..SourceOptions::default() };
            read_source(&path, &options, &mut |_, _| {})?.finish()?
        }
    };
    let highest: Vec<u16> =
        (0..catalog.levels()).map(|level| catalog.level_codes(level).iter().copied().max().unwrap_or(0)).collect();
    manifest.validate_catalog(&highest)?;
    if catalog.items() == 0 {
        return Err(LoadError::EmptyCatalog);
    }
    Ok(catalog)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_becomes_what_was_opened() {
        let mut choice = DeviceChoice { threads: Some(1), ..DeviceChoice::default() };
        let device = choice.open().unwrap();
        let is_cpu = device.facts().name.starts_with("cpu/");
        assert_eq!(choice.kind, if is_cpu { DeviceKind::Cpu } else { DeviceKind::Cuda(0) });
    }
}
