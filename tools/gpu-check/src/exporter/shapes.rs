//! The families' configurations and tensors, by a few numbers.

use serde_json::json;

use super::{Fill, Model, NewTensor};

/// Sizes of a transformer.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; T5 has as many as query heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Feed-forward width.
    pub inner: usize,
    /// Layers; of an encoder-decoder, of each of the two.
    pub layers: usize,
    /// Words before the codes.
    pub vocabulary: usize,
    /// Codes of all levels together.
    pub codes: usize,
}

fn ones(name: String, width: usize) -> NewTensor {
    NewTensor { name, shape: vec![width], fill: Fill::Ones }
}

/// A matrix that keeps its input's scale.
fn matrix(name: String, outputs: usize, inputs: usize) -> NewTensor {
    NewTensor { name, shape: vec![outputs, inputs], fill: Fill::Uniform((inputs as f32).powf(-0.5)) }
}

/// Qwen3, its head tied to its table.
pub fn qwen3(layout: Layout) -> Model {
    let Layout { hidden, heads, kv_heads, head_dim, inner, layers, vocabulary, codes } = layout;
    let rows = vocabulary + codes;
    let table = "model.embed_tokens.weight".to_owned();
    let mut tensors = vec![NewTensor { name: table, shape: vec![rows, hidden], fill: Fill::Uniform(0.02) }];
    for layer in 0..layers {
        let of = |name: &str| format!("model.layers.{layer}.{name}.weight");
        tensors.extend([
            ones(of("input_layernorm"), hidden),
            matrix(of("self_attn.q_proj"), heads * head_dim, hidden),
            matrix(of("self_attn.k_proj"), kv_heads * head_dim, hidden),
            matrix(of("self_attn.v_proj"), kv_heads * head_dim, hidden),
            matrix(of("self_attn.o_proj"), hidden, heads * head_dim),
            ones(of("self_attn.q_norm"), head_dim),
            ones(of("self_attn.k_norm"), head_dim),
            ones(of("post_attention_layernorm"), hidden),
            matrix(of("mlp.gate_proj"), inner, hidden),
            matrix(of("mlp.up_proj"), inner, hidden),
            matrix(of("mlp.down_proj"), hidden, inner),
        ]);
    }
    tensors.push(ones("model.norm.weight".to_owned(), hidden));
    let config = json!({
        "model_type": "qwen3",
        "vocab_size": rows,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "rope_theta": 1e6,
        "max_position_embeddings": 40_960,
        "tie_word_embeddings": true,
    });
    Model { config, tensors, first_code: vocabulary, is_encoder_decoder: false }
}

/// T5 with plain relu, its head tied to its table. Its attention has no scale of its own, so that its queries are small.
pub fn t5(layout: Layout) -> Model {
    let Layout { hidden, heads, head_dim, inner, layers, vocabulary, codes, .. } = layout;
    let (width, rows) = (heads * head_dim, vocabulary + codes);
    let mut tensors =
        vec![NewTensor { name: "shared.weight".to_owned(), shape: vec![rows, hidden], fill: Fill::Uniform(1.0) }];
    let small = ((hidden * head_dim) as f32).powf(-0.5);
    for (side, attentions) in [("encoder", &["SelfAttention"][..]), ("decoder", &["SelfAttention", "EncDecAttention"])]
    {
        tensors.push(NewTensor {
            name: format!("{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
            shape: vec![32, heads],
            fill: Fill::Uniform(0.1),
        });
        for layer in 0..layers {
            let block = format!("{side}.block.{layer}.layer");
            for (index, attention) in attentions.iter().enumerate() {
                let of = |name: &str| format!("{block}.{index}.{attention}.{name}.weight");
                tensors.extend([
                    NewTensor { fill: Fill::Uniform(small), ..matrix(of("q"), width, hidden) },
                    matrix(of("k"), width, hidden),
                    matrix(of("v"), width, hidden),
                    matrix(of("o"), hidden, width),
                    ones(format!("{block}.{index}.layer_norm.weight"), hidden),
                ]);
            }
            let index = attentions.len();
            tensors.extend([
                matrix(format!("{block}.{index}.DenseReluDense.wi.weight"), inner, hidden),
                matrix(format!("{block}.{index}.DenseReluDense.wo.weight"), hidden, inner),
                ones(format!("{block}.{index}.layer_norm.weight"), hidden),
            ]);
        }
        tensors.push(ones(format!("{side}.final_layer_norm.weight"), hidden));
    }
    let config = json!({
        "model_type": "t5",
        "vocab_size": rows,
        "d_model": hidden,
        "num_heads": heads,
        "d_kv": head_dim,
        "d_ff": inner,
        "num_layers": layers,
        "num_decoder_layers": layers,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "relu",
        "tie_word_embeddings": true,
    });
    Model { config, tensors, first_code: vocabulary, is_encoder_decoder: true }
}
