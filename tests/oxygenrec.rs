//! Parity with the reference model of OxygenREC (`tools/python/oxygenrec.py`): whole requests, with their instructions, through
//! the engine. tests/oxygenrec/README.md has the format of the goldens.

mod common;

use std::path::PathBuf;

use common::{engine, prompt_request, root, small_limits};
use serde_json::Value;
use sidereal::device::Dtype;
use sidereal::export::{Comparer, ListEntry};
use sidereal::request::{InstructionValue, ItemRef, Origin, Recommendation, Request};

const TOLERANCE: f32 = 1e-4;

fn export(name: &str) -> PathBuf {
    root().join("tests/oxygenrec").join(name)
}

/// The lines of an export's `golden/requests.jsonl`.
fn cases(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(export(name).join("golden/requests.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no whole number"))
}

fn vector(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

/// What a golden case asks.
fn request(case: &Value) -> Request {
    let asked = &case["request"];
    let tokens = asked["tokens"].as_array().unwrap().iter().map(|token| number(token) as u32).collect();
    let value = |value: &Value| match value {
        Value::Array(_) => InstructionValue::Vector(vector(value)),
        id => InstructionValue::Id(number(id) as u32),
    };
    let given = asked.get("instructions").and_then(Value::as_object);
    let mut instructions: Vec<(String, InstructionValue)> =
        given.into_iter().flatten().map(|(name, given)| (name.clone(), value(given))).collect();
    instructions.extend(asked.get("behaviour").map(|id| ("behaviour".to_owned(), value(id))));
    Request {
        scenario: asked.get("scenario").map(|id| number(id) as u32),
        trigger: asked.get("trigger").map(|item| ItemRef::Id(number(item))),
        instructions,
        ..prompt_request(number(&case["id"]), tokens, number(&case["beams"]) as u32)
    }
}

fn expected(case: &Value) -> Vec<ListEntry> {
    let entry = |result: &Value| ListEntry {
        sid: result["sid"].as_array().unwrap().iter().map(|code| number(code) as u16).collect(),
        score: result["score"].as_f64().unwrap() as f32,
    };
    case["results"].as_array().unwrap().iter().map(entry).collect()
}

/// Names of the instructions that fell back to their default.
fn defaulted(answer: &Recommendation) -> Vec<&str> {
    let missing = answer.instructions.iter().filter(|used| used.origin == Origin::Missing);
    missing.map(|used| used.name.as_str()).collect()
}

/// Every case of an export; the largest difference of a score.
fn check(name: &str) {
    let (engine, cases) = (engine(&export(name), Dtype::F32, 2, small_limits()), cases(name));
    assert!(!cases.is_empty(), "{name} has no goldens");
    let mut worst = 0.0f32;
    for case in &cases {
        let (id, expected) = (&case["id"], expected(case));
        let answer = engine.recommend(request(case)).unwrap_or_else(|refusal| panic!("{name}, case {id}: {refusal:?}"));
        let got: Vec<ListEntry> =
            answer.results.iter().map(|r| ListEntry { sid: r.sid.clone(), score: r.score }).collect();
        let comparer = Comparer { tolerance: TOLERANCE, full: Some(number(&case["beams"]) as usize), inner: None };
        let comparison = comparer.compare(&expected, &got);
        assert!(comparison.within(TOLERANCE), "{name}, case {id}: {comparison:?}\n{expected:?}\n{got:?}");
        // No order of a list hangs on less than the goldens' margin.
        assert!(expected.iter().map(|entry| &entry.sid).eq(got.iter().map(|entry| &entry.sid)), "{name}, case {id}");
        assert_eq!(Value::from(defaulted(&answer)), case["defaulted"], "{name}, case {id}");
        worst = worst.max(comparison.max_delta);
    }
    println!("{name}: {} requests, worst |delta| {worst:e}", cases.len());
}

#[test]
fn instructions_before_a_t5() {
    check("instructions-t5");
}

#[test]
fn instructions_before_experts() {
    check("instructions");
}
