//! The model's half of an export: a Hugging Face directory as training leaves it.

use std::path::{Path, PathBuf};

use super::{CONFIG, ConfigReader, ExportError, Weights};

/// `config.json` and the weights, without manifest or catalogue: what a model family needs.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: ConfigReader,
    model_type: String,
    weights: Weights,
}

impl Checkpoint {
    /// Opens the directory `dir`: reads the configuration, maps the weights, checks each by itself.
    pub fn open(dir: impl AsRef<Path>) -> Result<Checkpoint, ExportError> {
        let dir = dir.as_ref();
        match std::fs::metadata(dir) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(ExportError::NotADirectory { path: dir.to_owned() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ExportError::NoSuchDirectory { path: dir.to_owned() });
            }
            Err(source) => return Err(ExportError::Read { path: dir.to_owned(), source }),
        }
        // Weights first: a directory of another kind (an adapter, a GGUF file) lacks the other files too, and to be told so
        // helps more than to be told that config.json is missing.
        let weights = Weights::open(dir)?;
        let config = ConfigReader::open(&dir.join(CONFIG))?;
        let model_type = config.model_type()?.to_owned();
        Ok(Checkpoint { dir: dir.to_owned(), config, model_type, weights })
    }

    /// The same model with other weights: of a safetensors file, whatever its name, or of a directory that holds them as an
    /// export does.
    ///
    /// # Errors
    /// Nothing is there, or no safetensors weights. Whether they are this model's is for its family to say.
    pub fn with_weights(&self, path: &Path) -> Result<Checkpoint, ExportError> {
        let weights = if path.is_dir() { Weights::open(path)? } else { Weights::open_single(path.to_owned())? };
        let (config, model_type) = (self.config.clone(), self.model_type.clone());
        Ok(Checkpoint { dir: self.dir.clone(), config, model_type, weights })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `config.json`.
    pub fn config(&self) -> &ConfigReader {
        &self.config
    }

    /// `model_type` of `config.json`: the family.
    pub fn model_type(&self) -> &str {
        &self.model_type
    }

    /// The weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }
}
