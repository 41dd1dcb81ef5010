//! OxygenREC and its like (OneRec-V1): the shared encoder-decoder with experts in the decoder, relative or learned positions, and
//! optionally shared experts.
//!
//! Feed-forward blocks go by the names of Hugging Face's T5, or by those of OneRec checkpoints as xLLM reads them; a file decides by
//! the names that it has. What may stand in a file and change results, but is not computed, is refused by name.

use crate::device::{Device, RouterOrder, Routing};
use crate::export::{Checkpoint, ConfigReader};
use crate::model::encoder_decoder::{
    self, Config, Experts, FeedForwardNames, Positions, Projections, Traits, check_experts,
};
use crate::model::{Capacity, Description, Family, Model, ModelError};

/// The family's entry in [`super::FAMILIES`].
pub const FAMILY: Family = Family { model_type: "oxygenrec", describe, load };

/// What the matrices of a plain feed-forward block are called: gate, up (or the only input), down.
type Spelling = [&'static str; 3];
const ONEREC: Spelling = ["gate_proj", "wi", "wo"];
const LLAMA: Spelling = ["gate_proj", "up_proj", "down_proj"];
const MIXTRAL: Spelling = ["w1", "w3", "w2"];

fn config(checkpoint: &Checkpoint) -> Result<Config, ModelError> {
    let traits = Traits { family: "oxygenrec", activation: "feed_forward_proj", scaled: Some("scale_decoder_outputs") };
    let mut config = Config::read(checkpoint, traits)?;
    let reader = checkpoint.config();
    config.positions = match reader.text_or("position_embeddings", "relative")? {
        "relative" => config.positions,
        "absolute" => Positions::Absolute { count: reader.count("n_positions")? },
        _ => return Err(reader.unsupported("position_embeddings", "relative and absolute are known").into()),
    };
    if reader.flag_or("attention_scale", false)? {
        config.query_scale = (config.head_dim as f32).powf(-0.5);
    }
    config.names = names;
    config.experts = experts(reader, &config)?;
    Ok(config)
}

/// The keys of experts.
fn experts(reader: &ConfigReader, config: &Config) -> Result<Option<Experts>, ModelError> {
    let count = reader.whole_or("num_experts", 0)?;
    if count == 0 {
        for key in ["decoder_moe_layers", "encoder_moe_layers"] {
            if reader.wholes(key)?.is_some_and(|layers| !layers.is_empty()) {
                return Err(reader.contradiction(key, "names layers, but num_experts is 0").into());
            }
        }
        return Ok(None);
    }
    check_experts(reader, "num_experts", count)?;
    let top_k = reader.count("num_experts_per_tok")?;
    if top_k > count {
        let detail = format!("{top_k} experts of a token, but num_experts = {count}");
        return Err(reader.contradiction("num_experts_per_tok", detail).into());
    }
    let order = match reader.text_or("router_order", "softmax_topk")? {
        "softmax_topk" => RouterOrder::SoftmaxThenTopK,
        "topk_softmax" => RouterOrder::TopKThenSoftmax,
        _ => return Err(reader.unsupported("router_order", "softmax_topk and topk_softmax are known").into()),
    };
    let scale = reader.float_or("routed_scaling_factor", 1.0)?;
    if !(scale > 0.0 && scale <= f64::from(f32::MAX)) {
        return Err(reader.unsupported("routed_scaling_factor", "a number above 0 is needed").into());
    }
    let inner = reader.count_or("moe_intermediate_size", config.inner)?;
    let shared = reader.whole_or("n_shared_experts", 0)?;
    if shared > MOST_SHARED {
        return Err(reader.unsupported("n_shared_experts", format!("at most {MOST_SHARED} are served")).into());
    }
    let routing = Routing { top_k, order, renormalise: reader.flag_or("norm_topk_prob", true)?, scale: scale as f32 };
    let experts = Experts {
        count,
        routing,
        inner,
        shared,
        shared_inner: reader.count_or("shared_expert_intermediate_size", inner)?,
        encoder: layers(reader, "encoder_moe_layers", config.encoder_layers, false)?,
        decoder: layers(reader, "decoder_moe_layers", config.decoder_layers, true)?,
    };
    if !experts.encoder.iter().chain(&experts.decoder).any(|with| *with) {
        return Err(reader.contradiction("num_experts", format!("{count} experts, but no layer has them")).into());
    }
    Ok(Some(experts))
}

/// Most shared experts of a layer: each is a block of its own in every step.
const MOST_SHARED: usize = 16;

/// Which of `count` layers have experts: those listed, or all or none of them.
fn layers(reader: &ConfigReader, key: &str, count: usize, default: bool) -> Result<Vec<bool>, ModelError> {
    let Some(listed) = reader.wholes(key)? else { return Ok(vec![default; count]) };
    let mut with = vec![false; count];
    for layer in listed {
        match with.get_mut(layer) {
            None => {
                let detail = format!("layer {layer}, but there are {count}, counted from 0");
                return Err(reader.contradiction(key, detail).into());
            }
            Some(true) => return Err(reader.contradiction(key, format!("layer {layer} stands there twice")).into()),
            Some(layer) => *layer = true,
        }
    }
    Ok(with)
}

fn projections(at: &str, [gate, up, down]: Spelling, gated: bool) -> Projections {
    let name = |part: &str| format!("{at}.{part}.weight");
    let input = if gated { vec![name(gate), name(up)] } else { vec![name(up)] };
    Projections { input, output: name(down) }
}

fn names(checkpoint: &Checkpoint, config: &Config, at: &str, experts: Option<&Experts>) -> FeedForwardNames {
    let (gated, holds) = (config.gated, |name: &str| checkpoint.weights().contains(name));
    // Of several ways to spell a block, the one of which the file has most; the first one if it has none.
    let spelled = |ways: &[(String, Spelling)]| {
        let ways = ways.iter().map(|(at, spelling)| projections(at, *spelling, gated));
        let known = |way: &Projections| way.input.iter().chain([&way.output]).filter(|name| holds(name)).count();
        ways.reduce(|best, way| if known(&way) > known(&best) { way } else { best }).expect("there is a way")
    };
    let Some(experts) = experts else {
        let (t5, onerec) = (format!("{at}.DenseReluDense"), format!("{at}.ffn"));
        let hugging_face = if gated { ["wi_0", "wi_1", "wo"] } else { ONEREC };
        return FeedForwardNames::Dense(spelled(&[(t5.clone(), hugging_face), (onerec, ONEREC), (t5, ONEREC)]));
    };
    let at = format!("{at}.ffn");
    let block = |at: String| [ONEREC, LLAMA, MIXTRAL].map(|spelling| (at.clone(), spelling));
    let mut shared: Vec<Projections> =
        (0..experts.shared).map(|s| spelled(&block(format!("{at}.shared_experts.{s}")))).collect();
    if let [only] = &mut shared[..] {
        // A single one may stand without a number.
        if !holds(&only.output) {
            let unnumbered = spelled(&block(format!("{at}.shared_experts")));
            if holds(&unnumbered.output) {
                *only = unnumbered;
            }
        }
    }
    let routers = [format!("{at}.router.weight"), format!("{at}.gate.weight")];
    FeedForwardNames::Experts {
        router: routers.iter().find(|name| holds(name)).unwrap_or(&routers[0]).clone(),
        experts: (0..experts.count).map(|e| spelled(&block(format!("{at}.experts.{e}")))).collect(),
        shared,
    }
}

/// Refuses weights that would change results and are not read.
fn refuse_unread(checkpoint: &Checkpoint, config: &Config) -> Result<(), ModelError> {
    let unread = |name: &str| {
        let learned = name.ends_with("coder.embed_positions.weight");
        let relative = name.ends_with(".0.layer.0.SelfAttention.relative_attention_bias.weight");
        match config.positions {
            Positions::Relative { .. } if learned => Some("position_embeddings"),
            Positions::Absolute { .. } if relative => Some("position_embeddings"),
            _ if name.contains(".ffn.shared_expert.gate.") || name.contains(".ffn.shared_expert_gate.") => {
                Some("n_shared_experts")
            }
            _ if name.ends_with(".ffn.router.bias") || name.ends_with(".ffn.gate.bias") => Some("num_experts"),
            _ => None,
        }
    };
    match checkpoint.weights().names().find_map(|name| Some((name, unread(name)?))) {
        None => Ok(()),
        Some((name, key)) => {
            let detail = format!(
                "the weights hold `{name}`, which a model configured like this does not use: set what the checkpoint was \
                 trained with"
            );
            Err(checkpoint.config().contradiction(key, detail).into())
        }
    }
}

fn describe(checkpoint: &Checkpoint) -> Result<Description, ModelError> {
    let config = config(checkpoint)?;
    refuse_unread(checkpoint, &config)?;
    encoder_decoder::describe(&config, checkpoint)
}

fn load(checkpoint: &Checkpoint, device: &mut dyn Device, capacity: &Capacity) -> Result<Box<dyn Model>, ModelError> {
    encoder_decoder::load(&config(checkpoint)?, checkpoint, device, capacity)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A directory with this configuration and tensors of one element.
    fn checkpoint(keys: &Value, tensors: &[&str]) -> (tempfile::TempDir, Checkpoint) {
        let folder = tempfile::tempdir().unwrap();
        let mut config = json!({
            "model_type": "oxygenrec", "vocab_size": 10, "d_model": 6, "d_kv": 4, "d_ff": 5, "num_heads": 2, "num_layers": 1,
            "num_decoder_layers": 2, "feed_forward_proj": "gated-silu",
        });
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        // As many tensors as there are layers, at least.
        let names: Vec<&str> = tensors.iter().copied().chain(["a", "b", "c"]).collect();
        let entry = |(at, name): (usize, &&str)| {
            format!(r#""{name}":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}}"#, 4 * at, 4 * at + 4)
        };
        let header = format!("{{{}}}", names.iter().enumerate().map(entry).collect::<Vec<_>>().join(","));
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend(vec![0; 4 * names.len()]);
        std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        (folder, checkpoint)
    }

    fn described(keys: &Value, tensors: &[&str]) -> Vec<(String, Vec<usize>)> {
        let (_folder, checkpoint) = checkpoint(keys, tensors);
        let description = describe(&checkpoint).unwrap();
        let mut found: Vec<_> = description.tensors.into_iter().map(|spec| (spec.name, spec.shape)).collect();
        found.sort();
        found
    }

    /// Names and shapes that begin with `at`, without it and without `.weight`.
    fn below(tensors: &[(String, Vec<usize>)], at: &str) -> Vec<(String, Vec<usize>)> {
        let rest = tensors.iter().filter_map(|(name, shape)| Some((name.strip_prefix(at)?, shape)));
        rest.map(|(name, shape)| (name.trim_end_matches(".weight").to_owned(), shape.clone())).collect()
    }

    fn specs(tensors: &[(&str, [usize; 2])]) -> Vec<(String, Vec<usize>)> {
        tensors.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect()
    }

    #[test]
    fn every_tensor_is_described() {
        let keys = json!({
            "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 3, "n_shared_experts": 1,
            "shared_expert_intermediate_size": 7, "decoder_moe_layers": [1],
        });
        let found = described(&keys, &[]);
        let experts = [
            ("experts.0.gate_proj", [3, 6]),
            ("experts.0.wi", [3, 6]),
            ("experts.0.wo", [6, 3]),
            ("experts.1.gate_proj", [3, 6]),
            ("experts.1.wi", [3, 6]),
            ("experts.1.wo", [6, 3]),
            ("router", [2, 6]),
            ("shared_experts.0.gate_proj", [7, 6]),
            ("shared_experts.0.wi", [7, 6]),
            ("shared_experts.0.wo", [6, 7]),
        ];
        assert_eq!(below(&found, "decoder.block.1.layer.2.ffn."), specs(&experts));
        let dense = specs(&[("wi_0", [5, 6]), ("wi_1", [5, 6]), ("wo", [6, 5])]);
        assert_eq!(below(&found, "decoder.block.0.layer.2.DenseReluDense."), dense);
        assert_eq!(below(&found, "encoder.block.0.layer.1.DenseReluDense."), dense);
        // 3 layers' attentions (5 tensors each, cross-attention too), their feed-forwards, biases, norms of both sides, table.
        assert_eq!(found.len(), 5 * 5 + (10 + 1) + 2 * (3 + 1) + 2 + 2 + 1);
        let positions = described(&json!({"position_embeddings": "absolute", "n_positions": 9}), &[]);
        assert_eq!(below(&positions, "encoder.embed_positions"), specs(&[("", [9, 6])]));
        assert!(positions.iter().all(|(name, _)| !name.contains("relative_attention_bias")));
    }

    #[test]
    fn a_file_decides_how_blocks_are_spelled() {
        let expert = |found: &[(String, Vec<usize>)], at: &str| {
            below(found, &format!("decoder.block.0.layer.2.ffn.{at}"))
                .into_iter()
                .map(|(name, _)| name)
                .collect::<Vec<_>>()
        };
        let keys = json!({"num_experts": 2, "num_experts_per_tok": 1, "n_shared_experts": 1});
        let at = "decoder.block.0.layer.2.ffn";
        let names = [
            format!("{at}.gate.weight"),
            format!("{at}.experts.0.w1.weight"),
            format!("{at}.experts.0.w2.weight"),
            format!("{at}.experts.0.w3.weight"),
            format!("{at}.experts.1.up_proj.weight"),
            format!("{at}.experts.1.down_proj.weight"),
            format!("{at}.shared_experts.down_proj.weight"),
            format!("{at}.shared_experts.up_proj.weight"),
        ];
        let found = described(&keys, &names.each_ref().map(String::as_str));
        assert_eq!(expert(&found, "experts.0."), ["w1", "w2", "w3"]);
        // What is missing is looked for by the names that the rest has.
        assert_eq!(expert(&found, "experts.1."), ["down_proj", "gate_proj", "up_proj"]);
        assert_eq!(expert(&found, "shared_experts."), ["down_proj", "gate_proj", "up_proj"]);
        assert_eq!(expert(&found, "gate"), [""]);
        let dense = |name: &str| {
            let found = described(&json!({}), &[&format!("encoder.block.0.layer.1.{name}.weight")]);
            let names = below(&found, "encoder.block.0.layer.1.").into_iter().map(|(name, _)| name);
            names.filter(|name| name != "layer_norm").collect::<Vec<_>>().join(" ")
        };
        assert_eq!(dense("ffn.wo"), "ffn.gate_proj ffn.wi ffn.wo");
        assert_eq!(dense("DenseReluDense.wo"), "DenseReluDense.wi_0 DenseReluDense.wi_1 DenseReluDense.wo");
        let gate = dense("DenseReluDense.gate_proj");
        assert_eq!(gate, "DenseReluDense.gate_proj DenseReluDense.wi DenseReluDense.wo");
    }

    #[test]
    fn what_cannot_be_is_named() {
        let refused = |keys: Value, tensors: &[&str], parts: &[&str]| {
            let (_folder, checkpoint) = checkpoint(&keys, tensors);
            let message = describe(&checkpoint).unwrap_err().to_string();
            parts.iter().for_each(|part| assert!(message.contains(part), "{message:?} lacks {part:?}"));
        };
        let with = |key: &str, value: Value| {
            let mut keys = json!({"num_experts": 4, "num_experts_per_tok": 2});
            keys[key] = value;
            keys
        };
        for count in [1, 65, 2_000_000_000] {
            refused(with("num_experts", json!(count)), &[], &["`num_experts`", "2 to 64"]);
        }
        refused(with("num_experts_per_tok", json!(5)), &[], &["`num_experts_per_tok`: 5 experts", "num_experts = 4"]);
        refused(with("num_experts_per_tok", json!(0)), &[], &["`num_experts_per_tok`", "found 0"]);
        refused(with("num_experts_per_tok", Value::Null), &[], &["`num_experts_per_tok` is missing"]);
        refused(with("router_order", json!("sinkhorn")), &[], &["`router_order`", "topk_softmax"]);
        for scale in [json!(0), json!(-1.0), json!(1e300)] {
            refused(with("routed_scaling_factor", scale), &[], &["`routed_scaling_factor`"]);
        }
        refused(with("decoder_moe_layers", json!([0, 2])), &[], &["`decoder_moe_layers`: layer 2, but there are 2"]);
        refused(with("encoder_moe_layers", json!([0, 0])), &[], &["`encoder_moe_layers`: layer 0 stands there twice"]);
        refused(with("decoder_moe_layers", json!([])), &[], &["`num_experts`: 4 experts, but no layer has them"]);
        refused(with("n_shared_experts", json!(17)), &[], &["`n_shared_experts`", "at most 16"]);
        refused(json!({"decoder_moe_layers": [1]}), &[], &["`decoder_moe_layers`: names layers, but num_experts is 0"]);
        refused(json!({"position_embeddings": "rotary"}), &[], &["`position_embeddings`", "absolute"]);
        refused(json!({"position_embeddings": "absolute"}), &[], &["`n_positions` is missing"]);
        let bias = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
        let absolute = json!({"position_embeddings": "absolute", "n_positions": 9});
        refused(absolute, &[bias], &["`position_embeddings`", bias]);
        let learned = "encoder.embed_positions.weight";
        refused(json!({}), &[learned], &["`position_embeddings`", learned]);
        let gate = "decoder.block.0.layer.2.ffn.shared_expert.gate.weight";
        refused(with("n_shared_experts", json!(1)), &[gate], &["`n_shared_experts`", gate]);
        refused(json!({"feed_forward_proj": "gated-softplus"}), &[], &["family oxygenrec", "softplus"]);
    }
}
