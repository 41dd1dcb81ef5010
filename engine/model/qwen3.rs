//! Qwen3: the shared decoder, with RMS norm of queries and keys by head; biases of attention where `attention_bias` says so.

use crate::device::Device;
use crate::export::Checkpoint;
use crate::model::decoder::{self, Biases, Config, Traits};
use crate::model::{Capacity, Description, Family, Model, ModelError};

/// The family's entry in [`super::FAMILIES`].
pub const FAMILY: Family = Family { model_type: "qwen3", describe, load };

fn config(checkpoint: &Checkpoint) -> Result<Config, ModelError> {
    let attention = checkpoint.config().flag_or("attention_bias", false)?;
    let biases = Biases { qkv: attention, output: attention, feed_forward: false };
    let config = Config::read(checkpoint, Traits { family: "qwen3", max_positions: 32_768, head_norm: true, biases })?;
    decoder::refuse_sliding_window(checkpoint)?;
    Ok(config)
}

fn describe(checkpoint: &Checkpoint) -> Result<Description, ModelError> {
    Ok(config(checkpoint)?.describe(checkpoint))
}

fn load(checkpoint: &Checkpoint, device: &mut dyn Device, capacity: &Capacity) -> Result<Box<dyn Model>, ModelError> {
    decoder::load(&config(checkpoint)?, checkpoint, device, capacity)
}
