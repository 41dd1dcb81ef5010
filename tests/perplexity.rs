//! Teacher forcing: the log-probabilities of texts, by the operations that serve, against Hugging Face's of the same texts.

mod cli_support;
mod common;

use std::path::Path;

use cli_support::{Copy, sidereal};
use common::{golden, golden_names};
use sidereal::device::Dtype;
use sidereal::export::{Export, Forced, GoldenCase, ScoreMode};
use sidereal::schedule::{DeviceChoice, DeviceKind, Teacher};

fn cpu(dtype: Dtype) -> DeviceChoice {
    DeviceChoice { kind: DeviceKind::Cpu, dtype: Some(dtype), threads: Some(2), ..DeviceChoice::default() }
}

/// Golden cases whose forced log-probabilities are those of the whole vocabulary, of decoder-only exports.
fn exports() -> impl Iterator<Item = (String, Export)> {
    let exports = golden_names().into_iter().map(|name| (name.clone(), Export::open(golden(&name)).unwrap()));
    exports.filter(|(_, export)| {
        export.manifest().decoder_prefix().is_none() && export.manifest().score() == ScoreMode::FullThenMask
    })
}

/// The prompt, the semantic ID's tokens, and the scored end.
fn text(export: &Export, case: &GoldenCase, forced: &Forced) -> Vec<u32> {
    let manifest = export.manifest();
    let sid = forced.sid.iter().enumerate().map(|(level, &code)| manifest.level_tokens(level)[usize::from(code)]);
    case.tokens.iter().copied().chain(sid).chain(manifest.scored_end().iter().copied()).collect()
}

/// The last log-probabilities of every text, and the goldens': prompts of 1 to 600 tokens, so several batches.
#[test]
fn f32_equals_transformers() {
    let mut worst = 0.0f32;
    let mut seen = 0;
    for (name, export) in exports() {
        let cases = export.goldens().unwrap().unwrap();
        let forced: Vec<&Forced> = cases.iter().flat_map(|case| &case.forced).collect();
        let texts =
            cases.iter().flat_map(|case| case.forced.iter().map(|forced| text(&export, case, forced))).collect();
        let mut teacher = Teacher::open(&golden(&name), &cpu(Dtype::F32), texts).unwrap();
        for (index, forced) in forced.iter().enumerate() {
            let found = teacher.log_probs(index).unwrap();
            assert_eq!(found.len(), teacher.texts()[index].len() - 1);
            for (found, expected) in found[found.len() - forced.logprobs.len()..].iter().zip(&forced.logprobs) {
                let delta = (found - expected).abs();
                assert!(delta <= 1e-4, "{name}, text {index}: {found}, not {expected}");
                worst = worst.max(delta);
            }
            seen += 1;
        }
    }
    println!("{seen} texts, worst |delta| {worst:e}");
    assert!(seen >= 100, "only {seen} texts");
}

/// What a text scores does not depend on the texts around it, nor on the number of threads.
#[test]
fn texts_do_not_touch_each_other() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let seeded = |seed: u64, length: usize| {
            let mut seeded = common::Seeded(seed);
            (0..length).map(|_| seeded.below(100) as u32).collect::<Vec<u32>>()
        };
        let texts = vec![seeded(1, 200), seeded(2, 2), seeded(3, 65), seeded(4, 129)];
        let open = |texts, threads| {
            let choice = DeviceChoice { threads: Some(threads), ..cpu(dtype) };
            Teacher::open(&golden("llama-llama3"), &choice, texts).unwrap()
        };
        let mut together = open(texts.clone(), 2);
        for index in [3, 0, 1, 2, 0] {
            let bits = |log_probs: Vec<f32>| log_probs.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            let alone = bits(open(vec![texts[index].clone()], 1).log_probs(0).unwrap());
            assert_eq!(bits(together.log_probs(index).unwrap()), alone, "{dtype:?}, text {index}");
        }
    }
}

fn write(path: &Path, text: &str) -> String {
    std::fs::write(path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// `eval --perplexity` on a directory that has neither manifest nor catalogue.
#[test]
fn eval_measures_perplexity_of_a_plain_checkpoint() {
    let export = Copy::of("qwen2-gqa");
    std::fs::remove_file(export.path("sidereal.json")).unwrap();
    let texts = write(&export.path("texts.jsonl"), "{\"tokens\":[1,5,9,5]}\n\n{\"tokens\":[7,8]}\n");
    let flags = ["--device", "cpu", "--threads", "1"];
    let json = sidereal(&[&["eval", export.arg(), "--perplexity", &texts, "--json"], &flags[..]].concat());
    let json = json.exits(0).json();
    assert_eq!((&json["texts"], &json["tokens"]), (&2.into(), &4.into()));
    let mut teacher =
        Teacher::open(&golden("qwen2-gqa"), &cpu(Dtype::F32), vec![vec![1, 5, 9, 5], vec![7, 8]]).unwrap();
    let all = [teacher.log_probs(0).unwrap(), teacher.log_probs(1).unwrap()].concat();
    let loss = -all.iter().map(|&log_prob| f64::from(log_prob)).sum::<f64>() / 4.0;
    assert!((json["loss"].as_f64().unwrap() - loss).abs() < 1e-9, "{json}, not {loss}");
    assert!((json["perplexity"].as_f64().unwrap() - loss.exp()).abs() < 1e-6, "{json}");
    let table = sidereal(&[&["eval", export.arg(), "--perplexity", &texts], &flags[..]].concat());
    table.exits(0).says("perplexity").says("over 4 tokens of 2 texts");
}

#[test]
fn what_has_no_perplexity_is_named() {
    let export = Copy::of("qwen2-gqa");
    let texts = |text: &str| write(&export.path("texts.jsonl"), text);
    let eval = |texts: &str| sidereal(&["eval", export.arg(), "--perplexity", texts, "--device", "cpu"]);
    eval(&texts("{\"tokens\":[1,5,100000]}\n")).exits(1).says("text 1: token 100000 is outside the vocabulary of 128");
    eval(&texts("{\"tokens\":[1,2]}\n{\"tokens\":[1]}\n")).exits(1).says("text 2 has fewer than two tokens");
    eval(&texts("{\"tokens\":[1,2]}\n{\"token\":[1]}\n")).exits(1).says("texts.jsonl, line 2: ").says("`token`");
    eval(&texts("\n")).exits(1).says("no text");
    eval("nowhere.jsonl").exits(3).says("nowhere.jsonl: cannot be read");
    let long = format!("{{\"tokens\":{:?}}}", vec![1; 4097]);
    eval(&texts(&long)).exits(1).says("text 1 has 4097 tokens").says("max_position_embeddings = 4096");
    let t5 = cli_support::golden_arg("t5-relu");
    let texts = texts("{\"tokens\":[1,2]}\n");
    sidereal(&["eval", &t5, "--perplexity", &texts, "--device", "cpu"]).exits(1).says("\"t5\" has an encoder");
    sidereal(&["eval", export.arg(), "--perplexity", &texts, "--top", "3"]).exits(2).says("--top");
    sidereal(&["eval", export.arg()]).exits(2).says("--histories");
}
