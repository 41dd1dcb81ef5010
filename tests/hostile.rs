//! Exports that lie, as the command line meets them: each ends with an exit code and one message that names what and where,
//! at once and in little memory.

mod cli_support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use cli_support::{Copy, Ran, command, finish, golden, golden_arg, sidereal, sidereal_with_input};
use serde_json::{Value, json};

/// Changes a JSON file of an export.
fn edit(export: &Copy, file: &str, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(export.path(file)).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(export.path(file), value.to_string()).unwrap();
}

/// Small limits, so that a start is quick.
const SMALL: [&str; 8] = ["--threads", "1", "--kv-bytes", "1MiB", "--max-prompt-tokens", "256", "--max-sequences", "2"];

fn recommend(export: &str, more: &[&str]) -> Ran {
    let input = "{\"id\":1,\"tokens\":[5,70,140,1],\"beams\":4,\"top\":4}\n";
    sidereal_with_input(&[&["recommend", export, "--requests", "-"], &SMALL[..], more].concat(), input)
}

fn assert_plain(ran: &Ran) {
    assert!(!ran.stderr.contains("panicked") && !ran.stderr.contains("allocation"), "{}", ran.stderr);
}

/// `check` and `recommend` both refuse, and both say `part`.
#[track_caller]
fn refused(golden: &str, file: &str, change: impl FnOnce(&mut Value), part: &str) {
    let export = Copy::of(golden);
    edit(&export, file, change);
    for ran in [sidereal(&["check", export.arg(), "--skip-goldens"]), recommend(export.arg(), &[])] {
        assert_plain(&ran);
        ran.exits(1).says(part);
    }
}

#[test]
fn absurd_counts_are_refused_before_they_cost_memory() {
    let huge = json!(1_000_000_000);
    let set = |key: &'static str| {
        let huge = huge.clone();
        move |config: &mut Value| config[key] = huge
    };
    refused("t5-relu", "config.json", set("num_layers"), "`num_layers`");
    refused("t5-relu", "config.json", set("num_decoder_layers"), "`num_decoder_layers`");
    refused("qwen3-gqa", "config.json", set("num_hidden_layers"), "`num_hidden_layers`");
    refused("t5-relu", "sidereal.json", |m| m["end"] = json!({"tokens": vec![1; 65], "scored": true}), "1 to 64 token");
    refused("t5-relu", "sidereal.json", |m| m["decoder_prefix"] = json!(vec![0; 17]), "17 tokens");
}

/// A distance beyond every prompt changes nothing but the buckets: no table of its length is made.
#[test]
fn a_huge_relative_distance_is_served() {
    let export = Copy::of("t5-relu");
    edit(&export, "config.json", |config| config["relative_attention_max_distance"] = json!(2_147_483_647));
    let ran = recommend(export.arg(), &[]);
    assert_plain(&ran);
    assert_eq!(ran.exits(0).json_lines()[0]["results"].as_array().unwrap().len(), 4);
}

#[test]
fn numbers_that_make_nonsense_of_every_score_are_refused() {
    for epsilon in [json!(-1.0), json!(1e300)] {
        refused("t5-relu", "config.json", |c| c["layer_norm_epsilon"] = epsilon.clone(), "layer_norm_epsilon");
        refused("qwen3-gqa", "config.json", |c| c["rms_norm_eps"] = epsilon, "rms_norm_eps");
    }
    for theta in [json!(0), json!(-5.0), json!(1e-300), json!(1e300)] {
        refused(
            "qwen3-gqa",
            "config.json",
            |c| c["rope_parameters"]["rope_theta"] = theta,
            "rope_parameters.rope_theta",
        );
    }
}

/// What a family does not compute is refused, never computed as something else.
#[test]
fn what_a_decoder_does_not_serve_is_refused_by_name() {
    let rope = |value: Value| ("rope_parameters", value);
    let both = [
        ("partial_rotary_factor", json!(0.25), "partial_rotary_factor"),
        ("rope_scaling", json!({"type": "linear", "factor": 2.0}), "`rope_scaling`: rope_parameters is there too"),
        ("quantization_config", json!({"quant_method": "gptq"}), "`quantization_config`"),
        ("head_dim", json!(7), "head_dim = 7"),
    ];
    let ropes = [
        (rope(json!({"rope_theta": 1e4, "rope_type": "yarn", "factor": 4.0})), "rope_parameters.rope_type"),
        (rope(json!({"rope_theta": 1e4, "type": "dynamic", "factor": 4.0})), "rope_parameters.type"),
        (rope(json!({"rope_theta": 1e4, "type": "linear"})), "rope_parameters.factor"),
        (rope(json!({"rope_theta": 1e4, "partial_rotary_factor": 0.5})), "partial_rotary_factor"),
        (rope(json!({"full_attention": {"rope_theta": 1e6}})), "rope_parameters.full_attention"),
    ];
    for name in ["qwen2-gqa", "qwen3-gqa", "llama-llama3"] {
        let ropes = ropes.iter().map(|((key, value), part)| (*key, value.clone(), *part));
        for (key, value, part) in ropes.chain(both.clone()) {
            refused(name, "config.json", |config| config[key] = value, part);
        }
    }
    for name in ["qwen2-gqa", "qwen3-gqa"] {
        for (key, value, part) in [
            ("layer_types", json!(["full_attention", "sliding_attention"]), "`layer_types`"),
            ("layer_types", json!(["full_attention"]), "`layer_types`: 1 types for num_hidden_layers = 2"),
            ("use_sliding_window", json!(true), "`use_sliding_window`"),
        ] {
            refused(name, "config.json", |config| config[key] = value, part);
        }
    }
}

/// Weights of one family under the name of another would load, and every score would be wrong.
#[test]
fn biases_and_norms_that_the_configuration_denies_are_named() {
    let set = |key: &'static str, value: Value| move |config: &mut Value| config[key] = value;
    let bias = "`model.layers.0.self_attn.q_proj.bias`";
    refused("qwen2-gqa", "config.json", set("model_type", json!("llama")), bias);
    refused("qwen2-gqa", "config.json", set("model_type", json!("qwen3")), bias);
    refused("qwen3-gqa", "config.json", set("model_type", json!("llama")), "`model.layers.0.self_attn.q_norm.weight`");
    refused("llama-biases", "config.json", set("attention_bias", json!(false)), bias);
    refused("llama-biases", "config.json", set("mlp_bias", json!(false)), "`model.layers.0.mlp.gate_proj.bias`");
    refused("llama-llama3", "config.json", set("attention_bias", json!(true)), bias.trim_matches('`'));
}

/// transformers 5.x takes the base from the top level where `rope_parameters` has none.
#[test]
fn the_rope_base_may_stand_at_top_level() {
    let results = |change: &dyn Fn(&mut Value)| {
        let export = Copy::of("qwen3-gqa");
        edit(&export, "config.json", change);
        recommend(export.arg(), &[]).exits(0).json_lines()[0]["results"].clone()
    };
    let nested = results(&|config| config["rope_parameters"]["rope_theta"] = json!(3.0));
    let split = results(&|config| {
        config["rope_parameters"] = json!({"rope_type": "default"});
        config["rope_theta"] = json!(3.0);
    });
    let old = results(&|config| {
        config["rope_parameters"] = json!(null);
        config["rope_theta"] = json!(3.0);
    });
    assert_eq!(nested, split);
    assert_eq!(nested, old);
    assert_ne!(nested, results(&|_| {}));
}

/// Runs a command that must end by itself within a generous time.
fn ends(args: &[&str]) -> Ran {
    let mut child = command(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > Duration::from_secs(30) {
            child.kill().unwrap();
            panic!("{args:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    finish(child)
}

/// A pipe without a writer stands where a file should: nobody waits for it.
#[test]
fn a_pipe_is_no_catalogue() {
    let dir = tempfile::tempdir().unwrap();
    let export = golden_arg("t5-relu");
    let out = dir.path().join("out.sid").to_str().unwrap().to_owned();
    for name in ["pipe.sid", "pipe.jsonl", "pipe.csv", "pipe"] {
        let pipe = dir.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let pipe = pipe.to_str().unwrap();
        ends(&["check", &export, "--skip-goldens", "--catalog", pipe]).exits(1).says("not a regular file").says(pipe);
        ends(&["serve", &export, "--listen", "127.0.0.1:0", "--catalog", pipe]).exits(3).says("not a regular file");
        ends(&["catalog", "build", "--from", pipe, "--out", &out]).exits(3).says("not a regular file").says(pipe);
        ends(&["catalog", "verify", pipe]).exits(3).says("not a regular file");
    }
}

#[test]
fn a_secret_without_an_end_is_refused() {
    let export = golden("t5-relu");
    ends(&["serve", export.to_str().unwrap(), "--listen", "127.0.0.1:0", "--secret-file", "/dev/zero"])
        .exits(3)
        .says("/dev/zero")
        .says("65536 bytes");
}

/// Overwrites f32 elements of a tensor of `model.safetensors`, from `first` on.
fn poison(export: &Copy, tensor: &str, first: usize, count: usize) {
    let path = export.path("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header_end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..header_end]).unwrap();
    let begin = header_end + header[tensor]["data_offsets"][0].as_u64().unwrap() as usize + 4 * first;
    for element in bytes[begin..][..4 * count].chunks_exact_mut(4) {
        element.copy_from_slice(&f32::NAN.to_le_bytes());
    }
    std::fs::write(&path, bytes).unwrap();
}

/// A NaN in the weights must not come out as a ranking of the trie's first entries.
#[test]
fn scores_that_are_not_finite_are_no_answer() {
    let export = Copy::of("t5-relu");
    poison(&export, "decoder.final_layer_norm.weight", 0, 1);
    let ran = recommend(export.arg(), &[]);
    assert_plain(&ran);
    assert!(ran.stdout.contains("DEVICE_FAILED") && ran.stdout.contains("not finite"), "{}", ran.stdout);
    ran.exits(1);
}

/// A request whose prompt meets a NaN fails alone: those in its batch, and those that get its pages next, are unharmed.
#[test]
fn a_nan_stays_with_the_request_that_met_it() {
    let export = Copy::of("t5-gated");
    let manifest: Value = serde_json::from_slice(&std::fs::read(export.path("sidereal.json")).unwrap()).unwrap();
    let used = manifest["sid"]["levels"].to_string() + &manifest["decoder_prefix"].to_string();
    let used: Vec<u32> = used.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
    // An untied export: this row of the table is read for this token of a prompt only.
    let bad = (0..80).rev().find(|token| !used.contains(token)).unwrap();
    let good = (0..80).find(|token| used.contains(token)).unwrap();
    let line =
        |id: usize, token: u32| format!("{{\"id\":{id},\"tokens\":[{good},{token},{good}],\"beams\":8,\"top\":8}}\n");
    let input: String = (0..24).map(|id| line(id, if id % 3 == 0 { bad } else { good })).collect();
    let run = || sidereal_with_input(&[&["recommend", export.arg(), "--requests", "-"], &SMALL[..]].concat(), &input);
    let results = |ran: &Ran| -> Vec<Value> {
        let lines = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .map(
                |reply| {
                    if reply["error"].is_null() { reply["results"].clone() } else { reply["error"]["kind"].clone() }
                },
            )
            .collect()
    };
    let clean = results(&run());
    poison(&export, "shared.weight", 32 * bad as usize, 32);
    let poisoned = results(&run());
    assert_eq!((clean.len(), poisoned.len()), (24, 24));
    for (id, (clean, poisoned)) in clean.iter().zip(&poisoned).enumerate() {
        assert!(clean.is_array(), "{clean}");
        if id % 3 == 0 {
            assert_eq!(*poisoned, json!("DEVICE_FAILED"), "request {id}");
        } else {
            assert_eq!(clean, poisoned, "request {id}");
        }
    }
}
