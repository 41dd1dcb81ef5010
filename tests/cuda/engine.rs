//! Whole requests on the CUDA device: parity with Hugging Face's goldens, batch invariance, replayed steps.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use sidereal::catalog::{Journal, View};
use sidereal::device::Dtype;
use sidereal::device::cuda::Cublaslt;
use sidereal::export::{Comparer, Export, GoldenCase, ListEntry};
use sidereal::request::{Recommendation, Request};
use sidereal::schedule::{DeviceChoice, DeviceKind, Engine, Limits, Teacher};

use crate::cli_support::Copy;
use crate::common::{Seeded, engine_on, golden, golden_names, prompt_request, small_limits};
use crate::support::{TYPES, driver, products, sweep};

/// Cases up to this size (tokens, beams): the kernels are executed instruction by instruction.
fn largest() -> (usize, usize) {
    if sweep() == 0 { (128, 32) } else { (640, 128) }
}

fn engine_with(cublaslt: Cublaslt, path: &Path, dtype: Dtype, limits: Limits) -> Engine {
    driver();
    let choice = DeviceChoice { kind: DeviceKind::Cuda(0), dtype: Some(dtype), cublaslt, ..DeviceChoice::default() };
    engine_on(choice, path, limits)
}

fn limits() -> Limits {
    let (_, widest) = largest();
    Limits { max_beams: widest, max_cohort_rows: 2 * widest, max_denied_items: 100, ..small_limits() }
}

fn entries(answer: &Recommendation) -> Vec<ListEntry> {
    answer.results.iter().map(|r| ListEntry { sid: r.sid.clone(), score: r.score }).collect()
}

fn cases(path: &Path) -> Vec<GoldenCase> {
    let all = Export::open(path).unwrap().goldens().unwrap().expect("a golden export has cases");
    let (longest, widest) = largest();
    all.into_iter().filter(|case| case.tokens.len() <= longest && case.beams <= widest).collect()
}

#[test]
fn f32_equals_transformers() {
    for &cublaslt in products() {
        let seen = f32_cases(cublaslt);
        assert!(seen >= 60, "only {seen} cases are small enough");
    }
}

/// Compares every small case and counts them.
fn f32_cases(cublaslt: Cublaslt) -> usize {
    let mut seen = 0;
    for name in golden_names() {
        let path = golden(&name);
        let engine = engine_with(cublaslt, &path, Dtype::F32, limits());
        for case in cases(&path) {
            let answer = engine.recommend(prompt_request(case.id, case.tokens, case.beams as u32)).unwrap();
            let got = entries(&answer);
            let comparer = Comparer { tolerance: 1e-4, full: Some(case.beams), inner: None };
            let comparison = comparer.compare(&case.results, &got);
            assert!(comparison.within(1e-4), "{name}, case {}: {comparison:?}", case.id);
            let sids = |list: &[ListEntry]| list.iter().map(|entry| entry.sid.clone()).collect::<Vec<_>>();
            assert_eq!(sids(&case.results), sids(&got), "{name}, case {}", case.id);
            seen += 1;
        }
    }
    seen
}

/// On the exports made for bf16 (tests/parity.rs says why the others cannot be held to it).
#[test]
fn bf16_equals_transformers() {
    let names: Vec<String> = golden_names().into_iter().filter(|name| name.ends_with("-bf16")).collect();
    assert!(names.len() >= 2, "{names:?}");
    for (name, cublaslt) in names.iter().flat_map(|name| products().iter().map(move |&on| (name, on))) {
        let path = golden(name);
        let engine = engine_with(cublaslt, &path, Dtype::Bf16, limits());
        let (mut overlap, mut count) = (0.0, 0);
        for case in cases(&path) {
            let answer = engine.recommend(prompt_request(case.id, case.tokens, case.beams as u32)).unwrap();
            let comparer = Comparer { tolerance: 0.15, full: Some(case.beams), inner: None };
            let comparison = comparer.compare(&case.results, &entries(&answer));
            assert!(comparison.max_delta <= 0.15, "{name} ({cublaslt:?}), case {}: {comparison:?}", case.id);
            (overlap, count) = (overlap + comparison.overlap, count + 1);
        }
        assert!(count > 0 && overlap / (count as f32) >= 0.95, "{name}: {overlap} over {count}");
    }
}

/// Teacher forcing, where many slots share a text's pages: two batches of one text, and a short one.
#[test]
fn texts_score_as_on_the_cpu() {
    driver();
    let mut seeded = Seeded(5);
    let mut text = |length| (0..length).map(|_| seeded.below(80) as u32).collect::<Vec<u32>>();
    let texts = vec![text(72), text(3)];
    let open = |kind| {
        let choice = DeviceChoice { kind, dtype: Some(Dtype::F32), threads: Some(1), ..DeviceChoice::default() };
        Teacher::open(&golden("qwen2-linear"), &choice, texts.clone()).unwrap()
    };
    let (mut card, mut cpu) = (open(DeviceKind::Cuda(0)), open(DeviceKind::Cpu));
    for index in [1, 0, 1] {
        let (found, expected) = (card.log_probs(index).unwrap(), cpu.log_probs(index).unwrap());
        assert_eq!(found.len(), texts[index].len() - 1);
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() <= 1e-4, "text {index}: {found}, not {expected}");
        }
    }
}

/// Semantic ID and score as bits.
fn section(answer: &Recommendation) -> Vec<(Vec<u16>, u32)> {
    answer.results.iter().map(|r| (r.sid.clone(), r.score.to_bits())).collect()
}

fn together(engine: &Engine, requests: &[Request]) -> Vec<Vec<(Vec<u16>, u32)>> {
    let (send, receive) = crossbeam_channel::bounded(requests.len());
    for (index, request) in requests.iter().enumerate() {
        let send = send.clone();
        let done = Box::new(move |answer| send.send((index, answer)).unwrap());
        engine.submit(request.clone(), Instant::now(), Arc::new(AtomicBool::new(false)), done);
    }
    let mut answers = vec![Vec::new(); requests.len()];
    for _ in 0..requests.len() {
        let (index, answer): (usize, sidereal::request::Answer) = receive.recv().unwrap();
        answers[index] = section(&answer.unwrap());
    }
    answers
}

fn requests(vocabulary: u64) -> Vec<Request> {
    let mut seeded = Seeded(11);
    [(1, 1), (65, 32), (17, 7), (64, 3), (100, 20), (33, 31)]
        .into_iter()
        .enumerate()
        .map(|(id, (length, beams))| {
            let tokens = (0..length).map(|_| seeded.below(vocabulary) as u32).collect();
            prompt_request(id as u64, tokens, beams)
        })
        .collect()
}

/// Batched, chunked differently, or replayed from a recorded step: the same bits as alone.
#[test]
fn batched_equals_alone() {
    for (name, vocabulary) in [("qwen3-gqa", 200), ("t5-gated", 80), ("llama-biases", 80)] {
        for (dtype, cublaslt) in TYPES.into_iter().flat_map(|dtype| products().iter().map(move |&on| (dtype, on))) {
            let requests = requests(vocabulary);
            let engine = engine_with(cublaslt, &golden(name), dtype, limits());
            let alone: Vec<_> =
                requests.iter().map(|request| section(&engine.recommend(request.clone()).unwrap())).collect();
            assert_eq!(together(&engine, &requests), alone, "{name} {} {cublaslt:?}: together", dtype.name());
            assert_eq!(together(&engine, &requests), alone, "{name} {} {cublaslt:?}: once more", dtype.name());
            let chunked = engine_with(cublaslt, &golden(name), dtype, Limits { max_prefill_tokens: 24, ..limits() });
            assert_eq!(together(&chunked, &requests), alone, "{name} {} {cublaslt:?}: in chunks", dtype.name());
        }
    }
}

/// Requests of several views together, before and after a delisting that comes while the engine runs, equal searches over
/// catalogues that were rebuilt from what is left.
#[test]
fn views_and_delistings_equal_a_rebuilt_catalogue() {
    for name in ["t5-small-catalog", "qwen3-level-norm"] {
        let export = Copy::of(name);
        let (items, folder) = (export.items(), export.path(""));
        let catalog = Arc::clone(engine_with(Cublaslt::Off, &folder, Dtype::F32, limits()).catalog());
        let of_view = |which: u64| items.iter().copied().filter(move |item| item % 3 == which).collect::<Vec<_>>();
        for (view, which) in [("first", 0), ("second", 1)] {
            let inside = of_view(which).into_iter().map(|item| catalog.item(item).unwrap());
            View::new(view, &catalog, inside).unwrap().write(&catalog, &View::path(&folder, view)).unwrap();
        }
        let engine = engine_with(Cublaslt::Off, &folder, Dtype::F32, limits());
        let plain = |id: u64| prompt_request(id, vec![3, 20, 5, 7], 16);
        let within = |id: u64, view: &str| Request { view: Some(view.into()), ..plain(id) };
        let asked = [plain(0), within(1, "first"), within(2, "second"), within(3, "first")];
        let gone: BTreeSet<u64> = items.iter().copied().step_by(4).collect();
        for delisted in [BTreeSet::new(), gone] {
            if !delisted.is_empty() {
                Journal::beside(&folder).append(true, delisted.iter().copied().collect()).unwrap();
                while engine.snapshot().epoch() == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
            }
            let pools = [items.clone(), of_view(0), of_view(1), of_view(0)];
            let expected: Vec<_> = (pools.into_iter())
                .map(|pool| {
                    let left = pool.into_iter().filter(|item| !delisted.contains(item)).collect();
                    let alone = Copy::with_items(name, &left);
                    section(
                        &engine_with(Cublaslt::Off, &alone.path(""), Dtype::F32, limits()).recommend(plain(9)).unwrap(),
                    )
                })
                .collect();
            assert_eq!(together(&engine, &asked), expected, "{name}, {} delisted", delisted.len());
        }
    }
}
