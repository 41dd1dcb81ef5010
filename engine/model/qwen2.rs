//! Qwen2 and Qwen2.5: the shared decoder, with biases of queries, keys and values in every checkpoint.

use crate::device::Device;
use crate::export::Checkpoint;
use crate::model::decoder::{self, Biases, Config, Traits};
use crate::model::{Capacity, Description, Family, Model, ModelError};

/// The family's entry in [`super::FAMILIES`].
pub const FAMILY: Family = Family { model_type: "qwen2", describe, load };

fn config(checkpoint: &Checkpoint) -> Result<Config, ModelError> {
    let biases = Biases { qkv: true, ..Biases::default() };
    let config = Config::read(checkpoint, Traits { family: "qwen2", max_positions: 32_768, head_norm: false, biases })?;
    decoder::refuse_sliding_window(checkpoint)?;
    Ok(config)
}

fn describe(checkpoint: &Checkpoint) -> Result<Description, ModelError> {
    Ok(config(checkpoint)?.describe(checkpoint))
}

fn load(checkpoint: &Checkpoint, device: &mut dyn Device, capacity: &Capacity) -> Result<Box<dyn Model>, ModelError> {
    decoder::load(&config(checkpoint)?, checkpoint, device, capacity)
}
