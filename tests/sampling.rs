//! Sampling and log-probabilities as a caller sees them, on exports of every score mode.

mod common;

use std::collections::BTreeSet;

use common::{engine, golden, prompt_request, small_limits};
use sidereal::device::Dtype;
use sidereal::request::{Ranked, RefusalKind, Request};
use sidereal::sampling::{Sampling, SamplingKind};
use sidereal::schedule::Engine;

/// An export of each score mode, with scored steps and length penalty.
const EXPORTS: [(&str, usize, f32); 6] = [
    ("qwen3-gqa", 3, 0.0),
    ("t5-end-penalty", 5, 1.0),
    ("t5-level-norm", 3, 0.0),
    ("qwen3-mask-norm", 4, 1.0),
    ("t5-mask-norm", 3, 0.0),
    ("qwen3-level-head", 3, 0.0),
];

fn open(name: &str) -> Engine {
    engine(&golden(name), Dtype::F32, 2, small_limits())
}

fn ask(engine: &Engine, sampling: Option<Sampling>, beams: u32) -> Vec<Ranked> {
    let request = Request { sampling, log_probs: true, ..prompt_request(1, vec![5, 9, 14, 7], beams) };
    engine.recommend(request).unwrap().results
}

fn kind(kind: SamplingKind, seed: u64) -> Option<Sampling> {
    Some(Sampling { kind, seed, temperature: 1.0 })
}

#[test]
fn raw_log_probabilities_add_up_to_scores() {
    for (name, steps, penalty) in EXPORTS {
        let engine = open(name);
        for sampling in [None, kind(SamplingKind::Independent, 3), kind(SamplingKind::Distinct, 4)] {
            let results = ask(&engine, sampling, 24);
            assert_eq!(results.len(), 24, "{name}");
            for ranked in &results {
                assert_eq!(ranked.log_probs.len(), steps, "{name}");
                let sum: f32 = ranked.log_probs.iter().map(|of| of.raw).sum();
                let score = sum / (steps as f32).powf(penalty);
                assert!((score - ranked.score).abs() < 1e-4, "{name} {sampling:?}: {score} and not {}", ranked.score);
                assert_eq!(ranked.key.is_some(), sampling.is_some_and(|s| s.kind == SamplingKind::Distinct));
                assert!(ranked.log_probs.iter().all(|of| of.raw <= 1e-6 && of.behaviour <= 1e-6));
            }
            if sampling.is_none() {
                assert!(results.iter().flat_map(|ranked| &ranked.log_probs).all(|of| of.raw == of.behaviour));
            }
        }
    }
}

/// Where the score mode itself normalises over legal children, drawing at temperature 1 is drawing from the scores.
#[test]
fn behaviour_is_raw_under_mask_then_norm_at_temperature_one() {
    for name in ["qwen3-mask-norm", "t5-mask-norm"] {
        for sampling in [kind(SamplingKind::Independent, 8), kind(SamplingKind::Distinct, 9)] {
            for of in ask(&open(name), sampling, 16).iter().flat_map(|ranked| &ranked.log_probs) {
                assert!((of.raw - of.behaviour).abs() < 1e-5, "{name}: {of:?}");
            }
        }
    }
}

#[test]
fn seeds_decide_and_distinct_samples_are_distinct() {
    let engine = open("qwen3-gqa");
    for of in SamplingKind::ALL {
        let first = ask(&engine, kind(of, 1), 32);
        assert_eq!(first, ask(&engine, kind(of, 1), 32), "{of:?}");
        assert_ne!(first, ask(&engine, kind(of, 2), 32), "{of:?}");
    }
    let distinct = ask(&engine, kind(SamplingKind::Distinct, 1), 32);
    assert_eq!(distinct.iter().map(|ranked| &ranked.sid).collect::<BTreeSet<_>>().len(), 32);
    assert!(distinct.is_sorted_by(|a, b| a.key >= b.key));
    // A cold sampler repeats itself; without replacement it cannot.
    let cold = |of| ask(&engine, Some(Sampling { kind: of, seed: 1, temperature: 0.01 }), 32);
    let best = ask(&engine, None, 1);
    assert!(cold(SamplingKind::Independent).windows(2).all(|pair| pair[0].sid == pair[1].sid));
    let sids: BTreeSet<Vec<u16>> = cold(SamplingKind::Distinct).into_iter().map(|ranked| ranked.sid).collect();
    assert_eq!(sids.len(), 32);
    assert!(!best.is_empty());
}

#[test]
fn denied_items_are_never_drawn() {
    let engine = open("qwen3-gqa");
    let denied: Vec<u64> =
        ask(&engine, None, 32).iter().flat_map(|ranked| ranked.items.iter().map(|item| item.id)).collect();
    for of in SamplingKind::ALL {
        let base = prompt_request(1, vec![5, 9, 14, 7], 64);
        let deny = sidereal::request::ItemRefs::Ids(denied.clone());
        let answer = engine.recommend(Request { sampling: kind(of, 6), deny, ..base }).unwrap();
        assert_eq!(answer.results.len(), 64);
        let drawn = answer.results.iter().flat_map(|ranked| &ranked.items);
        assert!(drawn.clone().count() > 0 && drawn.into_iter().all(|item| !denied.contains(&item.id)), "{of:?}");
    }
}

#[test]
fn a_temperature_out_of_bounds_is_refused_by_name() {
    let engine = open("qwen3-gqa");
    for temperature in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-3, 101.0] {
        let sampling = Some(Sampling { kind: SamplingKind::Distinct, seed: 1, temperature });
        let refusal = engine.recommend(Request { sampling, ..prompt_request(1, vec![5], 4) }).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::BadRequest);
        assert!(refusal.message.contains("it must be 0.01 to 100"), "{}", refusal.message);
    }
}
