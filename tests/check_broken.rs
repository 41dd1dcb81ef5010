//! A corpus of exports that load and serve, and are wrong: each is a good one with a mistake that exporters really make.
//! `sidereal check` must find every one, name the first operation that differs, and say what the mistake is.

mod cli_support;

use std::collections::BTreeMap;

use cli_support::{Copy, sidereal};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};

const QWEN: &str = "qwen3-gqa";
const T5: &str = "t5-relu";
const GATED: &str = "t5-gated";

/// f32 weights of a copy, to be changed and written back.
struct Weights<'a> {
    copy: &'a Copy,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Weights<'_> {
    fn of(copy: &Copy) -> Weights<'_> {
        let bytes = std::fs::read(copy.path("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let values = |bytes: &[u8]| bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let tensors = tensors
            .iter()
            .map(|(name, tensor)| {
                assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
                (name.to_owned(), (tensor.shape().to_vec(), values(tensor.data())))
            })
            .collect();
        Weights { copy, tensors }
    }

    fn values(&mut self, name: &str) -> &mut Vec<f32> {
        &mut self.tensors.get_mut(name).unwrap_or_else(|| panic!("no {name}")).1
    }

    fn rows(&self, name: &str) -> usize {
        self.tensors[name].0[0]
    }

    /// Row i becomes what was row `from(i)`.
    fn reorder(&mut self, name: &str, from: impl Fn(usize) -> usize) {
        let (shape, values) = &self.tensors[name];
        let cols = values.len() / shape[0];
        let moved = (0..shape[0]).flat_map(|row| values[from(row) * cols..][..cols].to_vec()).collect();
        *self.values(name) = moved;
    }

    fn scale(&mut self, name: &str, factor: f32) {
        self.values(name).iter_mut().for_each(|value| *value *= factor);
    }

    fn swap(&mut self, a: &str, b: &str) {
        assert_eq!(self.tensors[a].0, self.tensors[b].0);
        let first = std::mem::take(self.values(a));
        let second = std::mem::replace(self.values(b), first);
        *self.values(a) = second;
    }

    fn transpose(&mut self, name: &str) {
        let n = self.rows(name);
        let values = self.values(name).clone();
        *self.values(name) = (0..n * n).map(|at| values[at % n * n + at / n]).collect();
    }
}

impl Drop for Weights<'_> {
    fn drop(&mut self) {
        let bytes: BTreeMap<_, (Vec<usize>, Vec<u8>)> = std::mem::take(&mut self.tensors)
            .into_iter()
            .map(|(name, (shape, values))| (name, (shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())))
            .collect();
        let views =
            bytes.iter().map(|(name, (shape, data))| (name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
        safetensors::serialize_to_file(views, None, &self.copy.path("model.safetensors")).unwrap();
    }
}

/// Breaks a copy of an export; the finding of the part `part` that is bad must hold all of `told`.
#[track_caller]
fn broken(export: &str, part: &str, break_it: impl FnOnce(&Copy), told: &[&str]) {
    let copy = Copy::of(export);
    break_it(&copy);
    let report = sidereal(&["check", copy.arg(), "--json", "--threads", "1"]).exits(1).json();
    let findings = report["findings"].as_array().unwrap();
    let bad = |finding: &&Value| finding["part"] == part && finding["grade"] == "bad";
    let messages: Vec<&str> = findings.iter().filter(bad).map(|finding| finding["message"].as_str().unwrap()).collect();
    let found = messages.iter().any(|message| told.iter().all(|part| message.contains(part)));
    assert!(found, "{told:?} is not in {messages:#?} of {findings:#?}");
}

/// A mistake in the weights, seen in the activations.
#[track_caller]
fn weights(export: &str, break_it: impl FnOnce(&mut Weights<'_>), told: &[&str]) {
    broken(export, "activations", |copy| break_it(&mut Weights::of(copy)), told);
}

/// A changed value in config.json, seen in the activations.
#[track_caller]
fn config(export: &str, pointer: &str, value: Value, told: &[&str]) {
    broken(export, "activations", |copy| edit_json(copy, "config.json", pointer, value), told);
}

fn edit_json(copy: &Copy, file: &str, pointer: &str, value: Value) {
    let mut parsed: Value = serde_json::from_slice(&std::fs::read(copy.path(file)).unwrap()).unwrap();
    *parsed.pointer_mut(pointer).unwrap_or_else(|| panic!("{file} has no {pointer}")) = value;
    std::fs::write(copy.path(file), serde_json::to_vec(&parsed).unwrap()).unwrap();
}

/// The tokens of a level, changed; seen in the golden cases' log-probabilities.
#[track_caller]
fn tokens(export: &str, level: usize, value: Value, told: &[&str]) {
    let pointer = format!("/sid/levels/{level}/tokens");
    broken(export, "tokens", |copy| edit_json(copy, "sidereal.json", &pointer, value), told);
}

fn layer(layer: usize, name: &str) -> String {
    format!("model.layers.{layer}.{name}.weight")
}

/// Row of a head of `dim` in the order of neighbours -> its row in the order of halves.
fn halves(row: usize, dim: usize) -> usize {
    row / dim * dim + (row % dim % 2) * (dim / 2) + row % dim / 2
}

#[test]
fn good_exports_agree_in_every_activation() {
    for (export, activations) in [(QWEN, 25), (T5, 50), (GATED, 65)] {
        let report = sidereal(&["check", &cli_support::golden_arg(export), "--json", "--threads", "1"]).exits(0).json();
        let findings = report["findings"].as_array().unwrap();
        let finding = findings.iter().find(|finding| finding["part"] == "activations").unwrap();
        let message = finding["message"].as_str().unwrap();
        let agreed: usize = message.split_whitespace().nth(2).unwrap().parse().unwrap();
        assert!(agreed >= activations, "{export}: {message}");
    }
}

#[test]
fn rows_in_the_order_of_another_rope() {
    let q = &layer(0, "self_attn.q_proj");
    let told = ["model.layers.0.self_attn.q_proj/out", "(linear)", "interleaved", "Meta's and GGUF"];
    weights(QWEN, |w| w.reorder(q, |row| halves(row, 16)), &told);
    let k = &layer(1, "self_attn.k_proj");
    let told = ["model.layers.1.self_attn.k_proj/out", "interleaved"];
    weights(QWEN, |w| w.reorder(k, |row| halves(row, 16)), &told);
    let pairs = |row: usize| row / 16 * 16 + (row % 16 % 8) * 2 + row % 16 / 8;
    weights(QWEN, |w| w.reorder(q, pairs), &["self_attn.q_proj/out", "un-permuted twice"]);
}

#[test]
fn weights_that_were_turned_or_moved() {
    let q = "encoder.block.0.layer.0.SelfAttention.q.weight";
    weights(T5, |w| w.transpose(q), &["encoder.block.0.layer.0.SelfAttention.q/out", "stored transposed"]);
    let o = "decoder.block.1.layer.1.EncDecAttention.o.weight";
    weights(T5, |w| w.transpose(o), &["decoder.block.1.layer.1.EncDecAttention.o/out", "stored transposed"]);
    let v = &layer(0, "self_attn.v_proj");
    let told = ["self_attn.v_proj/out", "32 of 32 rows", "row 0 is stored as row 16"];
    weights(QWEN, |w| w.reorder(v, |row| (row + 16) % 32), &told);
    let k = &layer(0, "self_attn.k_proj");
    weights(
        QWEN,
        |w| w.swap(k, v),
        &["self_attn.k_proj/out", "is what `model.layers.0.self_attn.v_proj.weight` gives"],
    );
    let (gate, up) = (&layer(1, "mlp.gate_proj"), &layer(1, "mlp.up_proj"));
    weights(
        QWEN,
        |w| w.swap(gate, up),
        &["layers.1.mlp.gate_proj/out", "is what `model.layers.1.mlp.up_proj.weight` gives"],
    );
    let of = |layer: usize| format!("encoder.block.{layer}.layer.0.SelfAttention.k.weight");
    weights(
        GATED,
        |w| w.swap(&of(1), &of(2)),
        &["encoder.block.1.layer.0.SelfAttention.k/out", "encoder.block.2.layer.0"],
    );
    let cross = |name: &str| format!("decoder.block.0.layer.1.EncDecAttention.{name}.weight");
    let told = ["decoder.block.0.layer.1.EncDecAttention.k/out", "EncDecAttention.v.weight` gives"];
    weights(T5, |w| w.swap(&cross("k"), &cross("v")), &told);
}

#[test]
fn weights_that_were_scaled_rounded_or_cut() {
    let q = &layer(0, "self_attn.q_proj");
    weights(QWEN, |w| w.scale(q, 0.25), &["q_proj/out", "multiply it by 4", "sqrt(head_dim)", "scale was folded in"]);
    let down = &layer(1, "mlp.down_proj");
    let round =
        |w: &mut Weights<'_>| w.values(down).iter_mut().for_each(|value| *value = (*value * 64.0).round() / 64.0);
    weights(QWEN, round, &["layers.1.mlp.down_proj/out", "values are close", "quantised"]);
    let o = &layer(0, "self_attn.o_proj");
    let cut = |w: &mut Weights<'_>| w.values(o)[3 * 64..9 * 64].fill(0.0);
    weights(QWEN, cut, &["self_attn.o_proj/out", "6 of 48 rows", "between rows 3 and 8"]);
    let noise = |w: &mut Weights<'_>| {
        let values = w.values(o);
        (0..values.len()).for_each(|at| values[at] += ((at * 7919) % 101) as f32 / 50.0 - 1.0);
    };
    weights(QWEN, noise, &["self_attn.o_proj/out", "not the weight that the framework had"]);
}

#[test]
fn norms_of_another_kind() {
    let (first, second) = (&layer(0, "input_layernorm"), &layer(0, "post_attention_layernorm"));
    let told =
        ["layers.0.input_layernorm/out", "(norm)", "is what `model.layers.0.post_attention_layernorm.weight` gives"];
    weights(QWEN, |w| w.swap(first, second), &told);
    let centre = |w: &mut Weights<'_>| w.values(first).iter_mut().for_each(|value| *value -= 1.0);
    weights(QWEN, centre, &["layers.0.input_layernorm/out", "adds 1 to the weight"]);
    weights(QWEN, |w| w.scale("model.norm.weight", 0.5), &["model.norm/out", "multiply it by 2"]);
    let (q, k) = (&layer(0, "self_attn.q_norm"), &layer(0, "self_attn.k_norm"));
    weights(QWEN, |w| w.swap(q, k), &["layers.0.self_attn.q_norm/out", "self_attn.k_norm.weight` gives"]);
    config(QWEN, "/rms_norm_eps", json!(0.3), &["input_layernorm/out", "epsilon 3e-1", "it is as expected"]);
}

#[test]
fn settings_of_another_model() {
    config(
        QWEN,
        "/rope_parameters/rope_theta",
        json!(1e6),
        &["self_attn.o_proj/in", "(attention)", "base of 10000", "1000000"],
    );
    config(QWEN, "/hidden_act", json!("gelu"), &["mlp.down_proj/in", "(activation)", "asks for gelu", "with silu"]);
    config(
        GATED,
        "/feed_forward_proj",
        json!("gated-silu"),
        &["DenseReluDense.wo/in", "asks for silu", "with gelu_new"],
    );
    config(
        T5,
        "/scale_decoder_outputs",
        json!(false),
        &["head/in", "(head)", "1/sqrt(hidden)", "scale_decoder_outputs"],
    );
    config(GATED, "/tie_word_embeddings", json!(true), &["head/in", "sqrt(hidden)"]);
}

#[test]
fn tables_of_another_model() {
    let of = |stack: &str| format!("{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
    let told = ["encoder.block.0.layer.0.SelfAttention.o/in", "(attention)", "relative bias", "the table is wrong"];
    weights(T5, |w| w.swap(&of("encoder"), &of("decoder")), &told);
    weights(GATED, |w| w.scale(&of("encoder"), 0.0), &["SelfAttention.o/in", "the table is wrong"]);
    let told = ["model.embed_tokens/out", "(embedding)", "rows of the table are out of order"];
    weights(QWEN, |w| w.reorder("model.embed_tokens.weight", |row| (row + 199) % 200), &told);
    let root = 48f32.sqrt();
    weights(QWEN, |w| w.scale("model.embed_tokens.weight", root.recip()), &["embed_tokens/out", "= sqrt(hidden)"]);
    let head = |w: &mut Weights<'_>| w.reorder("lm_head.weight", |row| if row < 64 { row ^ 1 } else { row });
    weights(GATED, head, &["head/out", "(head)", "rows of the head are permuted"]);
    weights(GATED, |w| w.scale("lm_head.weight", 3.0), &["head/out", "multiply them by 0.33"]);
}

#[test]
fn tokens_that_spell_other_codes() {
    let shifted = ["sid.levels[1].tokens", "every code is spelled by the token of another", "-1 further"];
    tokens(QWEN, 1, json!({"first": 68}), &shifted);
    let mut names: Vec<(String, u32)> = (0..64).map(|code| (format!("{code}>"), code)).collect();
    names.sort();
    let lexical: Vec<u32> = names.iter().map(|(_, code)| 3 + code).collect();
    tokens(QWEN, 0, json!({"list": lexical}), &["sid.levels[0].tokens", "lexical order"]);
    let mut places = vec![0; 64];
    names.iter().zip(131..).for_each(|((_, code), token)| places[*code as usize] = token);
    tokens(QWEN, 2, json!({"list": places}), &["sid.levels[2].tokens", "lexical order"]);
    let reversed: Vec<u32> = (3..67).rev().collect();
    tokens(T5, 0, json!({"list": reversed}), &["sid.levels[0].tokens", "codes are permuted", "is spelled by token"]);
    tokens(T5, 0, json!({"first": 67}), &["sid.levels[0].tokens", "another level's"]);
}

/// Recordings that do not fit the export, or are none, are findings too.
#[test]
fn activations_of_something_else() {
    let file = "golden/activations.safetensors";
    let other = |copy: &Copy| assert!(std::fs::copy(cli_support::golden(T5).join(file), copy.path(file)).is_ok());
    // Both have `shared/out`, of one width: what differs are the values.
    broken(GATED, "activations", other, &["case 4", "`shared/out`"]);
    let cut = |copy: &Copy| copy.edit(file, |bytes| bytes.truncate(1000));
    broken(QWEN, "activations", cut, &["activations.safetensors", "cut short"]);
    let renamed = |copy: &Copy| {
        copy.edit(file, |bytes| {
            let at = bytes.windows(5).position(|window| window == b"case4").unwrap();
            bytes[at + 4] = b'5';
        })
    };
    broken(QWEN, "activations", renamed, &["same `case<id>/`", "activations.py"]);
    let wider = |copy: &Copy| {
        let bytes = 4u32.to_le_bytes().repeat(7 * 50);
        let view = TensorView::new(Dtype::F32, vec![7, 50], &bytes).unwrap();
        safetensors::serialize_to_file([("case4/model.embed_tokens/out", view)], None, &copy.path(file)).unwrap();
    };
    broken(QWEN, "activations", wider, &["`model.embed_tokens/out` is 50 wide", "computes 48"]);
}
