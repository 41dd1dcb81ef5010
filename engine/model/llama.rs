//! Llama (2, 3.x, SmolLM2 and what else is trained in its shape): the shared decoder, with biases where `attention_bias` and
//! `mlp_bias` say so.

use crate::device::Device;
use crate::export::Checkpoint;
use crate::model::decoder::{self, Biases, Config, Traits};
use crate::model::{Capacity, Description, Family, Model, ModelError};

/// The family's entry in [`super::FAMILIES`].
pub const FAMILY: Family = Family { model_type: "llama", describe, load };

fn config(checkpoint: &Checkpoint) -> Result<Config, ModelError> {
    let attention = checkpoint.config().flag_or("attention_bias", false)?;
    let feed_forward = checkpoint.config().flag_or("mlp_bias", false)?;
    let biases = Biases { qkv: attention, output: attention, feed_forward };
    Config::read(checkpoint, Traits { family: "llama", max_positions: 2048, head_norm: false, biases })
}

fn describe(checkpoint: &Checkpoint) -> Result<Description, ModelError> {
    Ok(config(checkpoint)?.describe(checkpoint))
}

fn load(checkpoint: &Checkpoint, device: &mut dyn Device, capacity: &Capacity) -> Result<Box<dyn Model>, ModelError> {
    decoder::load(&config(checkpoint)?, checkpoint, device, capacity)
}
