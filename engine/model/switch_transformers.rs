//! Switch Transformers as Hugging Face has it: the shared encoder-decoder with T5's positions and norms, and in every few layers
//! experts, of which a token takes the likeliest, weighted by its probability.
//!
//! Training drops the tokens that exceed an expert's capacity. Here none is dropped: whether a token finds room would depend on
//! the others of its batch. `expert_capacity` and the router's other training keys are not read.

use crate::device::{Device, RouterOrder, Routing};
use crate::export::{Checkpoint, ConfigReader};
use crate::model::encoder_decoder::{self, Config, Experts, FeedForwardNames, Projections, Traits, check_experts};
use crate::model::{Capacity, Description, Family, Model, ModelError};

/// The family's entry in [`super::FAMILIES`].
pub const FAMILY: Family = Family { model_type: "switch_transformers", describe, load };

fn config(checkpoint: &Checkpoint) -> Result<Config, ModelError> {
    // Hugging Face scales the decoder's output exactly when the head is tied.
    let traits = Traits { family: "switch_transformers", activation: "dense_act_fn", scaled: None };
    let mut config = Config::read(checkpoint, traits)?;
    let reader = checkpoint.config();
    if config.gated {
        return Err(reader.unsupported("dense_act_fn", "experts of this family are not gated").into());
    }
    if reader.flag_or("router_bias", false)? {
        return Err(reader.unsupported("router_bias", "routers with a bias are not served").into());
    }
    let experts = reader.whole_or("num_experts", 8)?;
    check_experts(reader, "num_experts", experts)?;
    let encoder = sparse_layers(reader, "encoder", config.encoder_layers)?;
    let decoder = sparse_layers(reader, "decoder", config.decoder_layers)?;
    config.names = names;
    if encoder.iter().chain(&decoder).any(|sparse| *sparse) {
        config.experts = Some(Experts {
            count: experts,
            routing: Routing { top_k: 1, order: RouterOrder::SoftmaxThenTopK, renormalise: false, scale: 1.0 },
            inner: config.inner,
            shared: 0,
            shared_inner: config.inner,
            encoder,
            decoder,
        });
    }
    Ok(config)
}

/// Which layers have experts. A `*_sparse_step` in the file wins over the one that follows from `num_sparse_*_layers`, as it does
/// in Hugging Face's configuration; without sparse layers that step is the number of layers.
fn sparse_layers(reader: &ConfigReader, side: &str, layers: usize) -> Result<Vec<bool>, ModelError> {
    let sparse = reader.whole_or(&format!("num_sparse_{side}_layers"), 3)?;
    let step = layers.checked_div(sparse).unwrap_or(layers);
    let step = reader.whole_or(&format!("{side}_sparse_step"), step)?;
    Ok((0..layers).map(|layer| step == 1 || step > 1 && layer % step == 1).collect())
}

fn names(_: &Checkpoint, _: &Config, at: &str, experts: Option<&Experts>) -> FeedForwardNames {
    let plain = |at: String| Projections { input: vec![format!("{at}.wi.weight")], output: format!("{at}.wo.weight") };
    match experts {
        None => FeedForwardNames::Dense(plain(format!("{at}.mlp"))),
        Some(experts) => FeedForwardNames::Experts {
            router: format!("{at}.mlp.router.classifier.weight"),
            experts: (0..experts.count).map(|expert| plain(format!("{at}.mlp.experts.expert_{expert}"))).collect(),
            shared: Vec::new(),
        },
    }
}

fn describe(checkpoint: &Checkpoint) -> Result<Description, ModelError> {
    encoder_decoder::describe(&config(checkpoint)?, checkpoint)
}

fn load(checkpoint: &Checkpoint, device: &mut dyn Device, capacity: &Capacity) -> Result<Box<dyn Model>, ModelError> {
    encoder_decoder::load(&config(checkpoint)?, checkpoint, device, capacity)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn sparse_layers_are_those_of_hugging_face() {
        let sparse = |text: &str, layers: usize| {
            let reader = ConfigReader::parse(Path::new("config.json"), text).unwrap();
            let layers = sparse_layers(&reader, "decoder", layers).unwrap();
            (0..layers.len()).filter(|&layer| layers[layer]).collect::<Vec<_>>()
        };
        // What SwitchTransformersStack of transformers 5.23 builds.
        assert_eq!(sparse(r#"{"num_sparse_decoder_layers": 6}"#, 12), [1, 3, 5, 7, 9, 11]);
        assert_eq!(sparse(r#"{"num_sparse_decoder_layers": 4}"#, 12), [1, 4, 7, 10]);
        assert_eq!(sparse(r#"{"num_sparse_decoder_layers": 3}"#, 3), [0, 1, 2]);
        assert_eq!(sparse("{}", 12), [1, 5, 9]);
        // "0 sparse layers" is spelled by a step as long as the stack, whose layer 1 has experts all the same.
        assert_eq!(sparse(r#"{"num_sparse_decoder_layers": 0}"#, 4), [1]);
        assert_eq!(sparse(r#"{"num_sparse_decoder_layers": 9}"#, 4), [0; 0]);
        assert_eq!(sparse(r#"{"num_sparse_decoder_layers": 6, "decoder_sparse_step": 5}"#, 12), [1, 6, 11]);
    }
}
