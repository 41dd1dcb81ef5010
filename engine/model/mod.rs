//! Model families, each in one file, written once against [`crate::device::Device`].
//!
//! A family says what a checkpoint of its kind must contain ([`Family::describe`]), loads it ([`Family::load`]), and then
//! enqueues three things: prefill of a token batch, the hidden states that start a search, and the hidden states of one
//! decode step. It never learns what a request, a trie or a score is: heads and selection are `search`'s.
//!
//! Adding a family is one file and one line in [`FAMILIES`]. Families of one build share `decoder` or `encoder_decoder`: their
//! files say what `config.json` means.

mod blocks;
mod decoder;
mod encoder_decoder;
mod llama;
mod oxygenrec;
mod qwen2;
mod qwen3;
mod switch_transformers;
mod t5;

use crate::device::{CohortLane, Device, DeviceError, Tensor, TokenLane};
use crate::export::{Checkpoint, Export, ExportError};

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The checkpoint is not what its family needs.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The device cannot hold it.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// No family serves this `model_type`.
    #[error("config.json: model_type {model_type:?} is not served; served are {served}")]
    UnknownFamily {
        /// What the configuration says.
        model_type: String,
        /// What there is.
        served: String,
    },
    /// The configuration asks for something this family does not do.
    #[error("config.json: {key} = {value} is not served by family {family}: {advice}")]
    Unsupported {
        /// Family.
        family: &'static str,
        /// Key in `config.json`.
        key: &'static str,
        /// Its value.
        value: String,
        /// What to do.
        advice: &'static str,
    },
    /// The limits exceed what the model can do, or the reverse.
    #[error("{0}")]
    Capacity(String),
}

/// A tensor that a checkpoint must hold.
#[derive(Clone, Debug)]
pub struct TensorSpec {
    /// Name.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
}

/// What a checkpoint's configuration amounts to.
#[derive(Clone, Debug)]
pub struct Description {
    /// True when histories go through a bidirectional encoder and the decoder has a prefix of its own.
    pub encoder_decoder: bool,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Rows of the embedding table.
    pub vocabulary: usize,
    /// Layers that keep history KV.
    pub kv_layers: usize,
    /// Key/value heads of those layers.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Positions the model was made for, where it has such a bound.
    pub max_positions: Option<usize>,
    /// Every tensor that is read.
    pub tensors: Vec<TensorSpec>,
    /// Name of the embedding table `[vocabulary, hidden]`.
    pub embeddings: String,
    /// Name of the tensor that is the output head, unless the manifest names one a level.
    pub head: String,
}

impl Description {
    /// Bytes of history KV a token takes when elements take `element_bytes`.
    pub fn kv_bytes_per_token(&self, element_bytes: usize) -> usize {
        2 * self.kv_layers * self.kv_heads * self.head_dim * element_bytes
    }

    /// Checks that every tensor is there, in its shape.
    ///
    /// # Errors
    /// Naming the first that is not.
    pub fn expect_tensors(&self, checkpoint: &Checkpoint) -> Result<(), ExportError> {
        self.tensors.iter().try_for_each(|tensor| checkpoint.weights().expect(&tensor.name, &tensor.shape).map(drop))
    }
}

/// What to plan device memory for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Rows of a prefill batch.
    pub prefill_rows: usize,
    /// Beam rows of a cohort.
    pub cohort_rows: usize,
    /// Requests of a cohort, and sequence slots.
    pub slots: usize,
    /// Cohort lanes.
    pub cohorts: usize,
    /// Generated tokens that are fed back.
    pub own_steps: usize,
    /// Prompt tokens of the longest history.
    pub prompt_tokens: usize,
    /// Pages of the history pool.
    pub history_pages: usize,
    /// Tokens in a page.
    pub page_tokens: usize,
    /// Tokens in a decoder prefix.
    pub prefix_tokens: usize,
    /// Decoder prefixes arrive as vectors of the model's width, not as tokens.
    pub prefix_vectors: bool,
}

/// The lanes of one cohort.
#[derive(Clone, Copy, Debug)]
pub struct CohortLanes {
    /// 0 .. `Capacity::cohorts`.
    pub index: usize,
    /// Beam state.
    pub cohort: CohortLane,
    /// Decoder-prefix tokens of the cohort's requests, in request order; every span is `last`.
    pub prefix: TokenLane,
}

/// A loaded model. Methods only enqueue device operations.
pub trait Model: Send {
    /// Stages of a prefill; other work may be enqueued between them, but not another prefill.
    fn prefill_stages(&self) -> usize;

    /// Enqueues stage `stage` of the prefill of `lane`'s batch.
    fn prefill(&mut self, device: &mut dyn Device, lane: TokenLane, stage: usize) -> Result<(), DeviceError>;

    /// Enqueues what yields the hidden states for level 0, `[requests, hidden]` in the compute type, final norm applied.
    fn first_hidden(&mut self, device: &mut dyn Device, lanes: &CohortLanes) -> Result<Tensor, DeviceError>;

    /// Enqueues the decoding of every beam's newest token, which is its `step`-th (from 0): `[beam rows, hidden]`.
    fn next_hidden(&mut self, device: &mut dyn Device, lanes: &CohortLanes, step: usize)
    -> Result<Tensor, DeviceError>;
}

/// Loads a family's model.
pub type Load = fn(&Checkpoint, &mut dyn Device, &Capacity) -> Result<Box<dyn Model>, ModelError>;

/// One model family.
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// Reads the configuration and says what the checkpoint must hold; touches no weight data.
    pub describe: fn(&Checkpoint) -> Result<Description, ModelError>,
    /// Loads weights onto the device and plans the workspaces.
    pub load: Load,
}

impl Family {
    /// What the export's configuration amounts to, with the heads that its manifest names in place of the family's own.
    ///
    /// # Errors
    /// As the family's `describe`.
    pub fn description(&self, export: &Export) -> Result<Description, ModelError> {
        let mut description = (self.describe)(export.checkpoint())?;
        let manifest = export.manifest();
        if !manifest.heads().is_empty() {
            description.tensors.retain(|spec| spec.name != OWN_HEAD);
        }
        for (name, level) in manifest.heads().iter().zip(manifest.levels()) {
            let shape = vec![level.codes(), description.hidden];
            description.tensors.push(TensorSpec { name: name.clone(), shape });
        }
        Ok(description)
    }
}

/// The head of every family that does not use its embedding table.
const OWN_HEAD: &str = "lm_head.weight";

/// Every family that is served.
pub const FAMILIES: &[Family] =
    &[llama::FAMILY, oxygenrec::FAMILY, qwen2::FAMILY, qwen3::FAMILY, switch_transformers::FAMILY, t5::FAMILY];

/// The family of a checkpoint.
///
/// # Errors
/// [`ModelError::UnknownFamily`] naming those there are.
pub fn family(checkpoint: &Checkpoint) -> Result<&'static Family, ModelError> {
    let model_type = checkpoint.model_type();
    FAMILIES.iter().find(|family| family.model_type == model_type).ok_or_else(|| ModelError::UnknownFamily {
        model_type: model_type.to_owned(),
        served: FAMILIES.iter().map(|family| family.model_type).collect::<Vec<_>>().join(", "),
    })
}
