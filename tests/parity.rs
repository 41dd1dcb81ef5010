//! Parity with Hugging Face `transformers` (design section 6): every golden export, through the whole engine.
//!
//! f32: every score within 1e-4 and identical lists. bf16: scores within 0.15 on entries of both lists, and a mean list
//! overlap of at least 95%.

mod common;

use common::{engine, golden, golden_names, prompt_request, small_limits};
use sidereal::device::Dtype;
use sidereal::export::{Comparer, Export, ListEntry};
use sidereal::request::Recommendation;

const F32_TOLERANCE: f32 = 1e-4;
const BF16_TOLERANCE: f32 = 0.15;
const BF16_OVERLAP: f64 = 0.95;

fn entries(answer: &Recommendation) -> Vec<ListEntry> {
    answer.results.iter().map(|r| ListEntry { sid: r.sid.clone(), score: r.score }).collect()
}

/// Runs every case of an export; calls `judge` with (case id, beams, expected, got).
fn run(name: &str, dtype: Dtype, mut judge: impl FnMut(u64, usize, &[ListEntry], &[ListEntry])) {
    let path = golden(name);
    let cases = Export::open(&path).unwrap().goldens().unwrap().expect("a golden export has cases");
    assert!(!cases.is_empty());
    let engine = engine(&path, dtype, 2, small_limits());
    for case in cases {
        let answer = engine.recommend(prompt_request(case.id, case.tokens, case.beams as u32)).unwrap();
        judge(case.id, case.beams, &case.results, &entries(&answer));
    }
}

#[test]
fn f32_equals_transformers() {
    let mut worst = 0.0f32;
    for name in golden_names() {
        run(&name, Dtype::F32, |id, beams, expected, got| {
            let comparer = Comparer { tolerance: F32_TOLERANCE, full: Some(beams), inner: None };
            let comparison = comparer.compare(expected, got);
            assert!(comparison.within(F32_TOLERANCE), "{name}, case {id}: {comparison:?}\n{expected:?}\n{got:?}");
            // The goldens were chosen so that nothing lies near a cut or a tie: the order must be the very same.
            let sids = |list: &[ListEntry]| list.iter().map(|entry| entry.sid.clone()).collect::<Vec<_>>();
            assert_eq!(sids(expected), sids(got), "{name}, case {id}");
            worst = worst.max(comparison.max_delta);
        });
    }
    println!("f32: worst |delta| {worst:e}");
}

#[test]
fn bf16_stays_close_to_transformers_f32() {
    let (mut overlap, mut cases) = (0.0, 0);
    let mut faults = Vec::new();
    for name in golden_names() {
        let (mut worst, mut sum, mut count) = (0.0f32, 0.0, 0);
        run(&name, Dtype::Bf16, |_, _, expected, got| {
            let mut shared = 0;
            for entry in expected {
                if let Some(other) = got.iter().find(|other| other.sid == entry.sid) {
                    worst = worst.max((entry.score - other.score).abs());
                    shared += 1;
                }
            }
            sum += f64::from(shared) / expected.len() as f64;
            count += 1;
        });
        println!("bf16: {name}: worst |delta| {worst:.4}, mean overlap {:.4}", sum / f64::from(count));
        if worst > BF16_TOLERANCE {
            faults.push(format!("{name}: |delta| {worst}"));
        }
        overlap += sum;
        cases += count;
    }
    let mean = overlap / f64::from(cases);
    println!("bf16: mean overlap {mean:.4} over {cases} cases");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(mean >= BF16_OVERLAP, "mean list overlap {mean:.4}");
}
