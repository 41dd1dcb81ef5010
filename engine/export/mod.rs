//! An export on disk: a Hugging Face directory (`config.json`, safetensors) and `sidereal.json`, checked as a whole before
//! anything is computed. docs/export-format.md describes every file.
//!
//! Weights are mapped and stay where they are. An error names the file, the key or tensor, what was expected, what was
//! found and what to do; no content of a file can cause a panic. This module knows no model family, no device and no
//! catalogue format: it says where the catalogue lies, and `catalog` reads it.

#![forbid(unsafe_code)]

mod activations;
mod checkpoint;
mod compare;
mod config;
mod error;
mod golden;
mod header;
mod instructions;
mod json;
mod manifest;
mod manifest_parse;
mod prompt;
mod scenarios;
mod source;
mod tensor;
mod tokenizer;
mod weights;

use std::path::Path;

pub use activations::{ACTIVATIONS, Activations};
pub use checkpoint::Checkpoint;
pub use compare::{Comparer, Comparison, Cuts, Difference, InnerLevels, LevelCut, ListEntry, compare_lists};
pub use config::ConfigReader;
pub use error::ExportError;
pub use golden::{Forced, GOLDEN_CASES, GoldenCase, read_goldens};
pub use instructions::{Instruction, InstructionSource, MAX_INSTRUCTIONS};
pub(crate) use header::{Entry as TensorPlace, read as tensor_places};
pub use manifest::{CODES, End, LEVELS, Level, LevelTokens, MANIFEST, Manifest, ScoreMode};
pub use prompt::PromptTemplate;
pub use scenarios::{InstructionRule, SCENARIOS, Scenario, ScenarioBounds, Scenarios};
pub use source::CatalogSource;
pub use tensor::{TensorView, WeightDtype, first_non_finite};
pub use tokenizer::{TOKENIZER, TextTokenizer};
pub use weights::{INDEX, SINGLE, TensorFacts, Weights};

/// File name of the model's configuration.
pub const CONFIG: &str = "config.json";

/// An opened export. Immutable: a new export is a new directory.
#[derive(Debug)]
pub struct Export {
    checkpoint: Checkpoint,
    manifest: Manifest,
}

impl Export {
    /// Opens the export in `dir`: reads configuration and manifest, maps the weights, checks each by itself. Whether they
    /// fit together is for the model family to say, which knows the tensors it needs.
    pub fn open(dir: impl AsRef<Path>) -> Result<Export, ExportError> {
        let checkpoint = Checkpoint::open(dir)?;
        let manifest = Manifest::open(&checkpoint.dir().join(MANIFEST))?;
        Ok(Export { checkpoint, manifest })
    }

    /// The same export with the weights at `path`, a safetensors file or a directory that holds them.
    ///
    /// # Errors
    /// As [`Checkpoint::with_weights`].
    pub fn with_weights(&self, path: &Path) -> Result<Export, ExportError> {
        Ok(Export { checkpoint: self.checkpoint.with_weights(path)?, manifest: self.manifest.clone() })
    }

    /// What a model family needs of it.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.checkpoint.dir()
    }

    /// `config.json`.
    pub fn config(&self) -> &ConfigReader {
        self.checkpoint.config()
    }

    /// `model_type` of `config.json`: the family.
    pub fn model_type(&self) -> &str {
        self.checkpoint.model_type()
    }

    /// `sidereal.json`.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The weights.
    pub fn weights(&self) -> &Weights {
        self.checkpoint.weights()
    }

    /// Where the catalogue is: `catalog` of the manifest, else `catalog.sid`, else a source beside it.
    pub fn catalog_path(&self) -> Result<CatalogSource, ExportError> {
        source::locate(self.dir(), &self.manifest)
    }

    /// `tokenizer.json`; `None` if there is no such file.
    pub fn tokenizer(&self) -> Result<Option<TextTokenizer>, ExportError> {
        TextTokenizer::open(self.dir())
    }

    /// `scenarios.json`; `None` if there is no such file.
    ///
    /// # Errors
    /// As [`Scenarios::open`].
    pub fn scenarios(&self) -> Result<Option<Scenarios>, ExportError> {
        Scenarios::open(self.dir())
    }

    /// The cases of `golden/cases.jsonl`, each checked against the manifest; `None` if there is no such file.
    pub fn goldens(&self) -> Result<Option<Vec<GoldenCase>>, ExportError> {
        let path = self.dir().join(GOLDEN_CASES);
        if json::regular_file_bytes(&path)?.is_none() {
            return Ok(None);
        }
        read_goldens(&path, &self.manifest).map(Some)
    }

    /// `golden/activations.safetensors`; `None` if there is no such file.
    pub fn activations(&self) -> Result<Option<Activations>, ExportError> {
        Activations::open(self.dir())
    }
}
