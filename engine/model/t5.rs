//! T5 (v1.0, v1.1, and what is trained in its shape): the shared encoder-decoder with relative positions, no attention scale, and
//! a plain or gated feed-forward block in every layer.

use crate::device::Device;
use crate::export::Checkpoint;
use crate::model::encoder_decoder::{self, Config, Traits};
use crate::model::{Capacity, Description, Family, Model, ModelError};

/// The family's entry in [`super::FAMILIES`].
pub const FAMILY: Family = Family { model_type: "t5", describe, load };

fn config(checkpoint: &Checkpoint) -> Result<Config, ModelError> {
    let traits = Traits { family: "t5", activation: "feed_forward_proj", scaled: Some("scale_decoder_outputs") };
    Config::read(checkpoint, traits)
}

fn describe(checkpoint: &Checkpoint) -> Result<Description, ModelError> {
    encoder_decoder::describe(&config(checkpoint)?, checkpoint)
}

fn load(checkpoint: &Checkpoint, device: &mut dyn Device, capacity: &Capacity) -> Result<Box<dyn Model>, ModelError> {
    encoder_decoder::load(&config(checkpoint)?, checkpoint, device, capacity)
}
