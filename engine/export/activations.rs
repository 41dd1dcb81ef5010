//! `golden/activations.safetensors`: what every module of the training framework's model computed for the prompt of one golden
//! case. Names are `case<id>/<weight without .weight>/<in|out>`; docs/export-format.md has the format.

use std::path::{Path, PathBuf};

use super::{ExportError, TensorView, Weights, json};

/// Where the activations are, relative to the export.
pub const ACTIVATIONS: &str = "golden/activations.safetensors";

/// Recorded activations; mapped, read when asked for.
#[derive(Debug)]
pub struct Activations {
    path: PathBuf,
    tensors: Weights,
    case: u64,
}

impl Activations {
    /// Maps the file of the export in `dir`; `None` if there is none.
    ///
    /// # Errors
    /// It is no safetensors file, or a name does not begin with one and the same `case<id>/`.
    pub fn open(dir: &Path) -> Result<Option<Activations>, ExportError> {
        let path = dir.join(ACTIVATIONS);
        if json::regular_file_bytes(&path)?.is_none() {
            return Ok(None);
        }
        let tensors = Weights::open_single(path.clone())?;
        let number = |name: &str| name.strip_prefix("case")?.split_once('/')?.0.parse().ok();
        let cases: Vec<Option<u64>> = tensors.names().map(number).collect();
        match cases.first().copied().flatten() {
            Some(case) if cases.iter().all(|other| *other == Some(case)) => {
                Ok(Some(Activations { path, tensors, case }))
            }
            _ => {
                Err(ExportError::Activations { path, detail: "every name must begin with the same `case<id>/`".into() })
            }
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Id of the golden case whose prompt was read.
    pub fn case(&self) -> u64 {
        self.case
    }

    /// `[tokens, width]` of `name`, e.g. `model.norm/out`; `None` if it was not recorded.
    ///
    /// # Errors
    /// It has an element type that is not read, or is no matrix.
    pub fn get(&self, name: &str) -> Result<Option<TensorView>, ExportError> {
        let tensor = self.tensors.optional(&format!("case{}/{name}", self.case))?;
        match tensor {
            Some(tensor) if tensor.shape().len() != 2 || tensor.cols() == 0 || tensor.rows() == 0 => {
                let detail = format!("`{}` has shape {:?}; [tokens, width] is expected", tensor.name(), tensor.shape());
                Err(ExportError::Activations { path: self.path.clone(), detail })
            }
            tensor => Ok(tensor),
        }
    }

    /// Names of what was recorded, without the case.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.names().filter_map(|name| Some(name.split_once('/')?.1))
    }
}
