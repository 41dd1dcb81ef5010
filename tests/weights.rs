//! Weights are replaced while requests are served: nobody is lost, every answer is that of one set of weights, and what cannot
//! be served is refused by name while the old ones serve on.

mod common;
mod export_fixture;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Seeded, engine, golden, prompt_request, small_limits};
use export_fixture::{Tensor, file, floats};
use sidereal::device::Dtype;
use sidereal::request::{Policy, Ranked, Request};
use sidereal::sampling::{Sampling, SamplingKind};
use sidereal::schedule::{Engine, ReplaceError, Stage, WeightsStatus};

const CALLERS: usize = 3;
const PROMPTS: u64 = 6;
const PATIENCE: Duration = Duration::from_secs(300);

/// The tensors of a golden export, each moved a little by a step of its own: another policy of the same shape.
fn tensors(export: &Path, step: u32) -> Vec<Tensor> {
    let bytes = fs::read(export.join("model.safetensors")).unwrap();
    let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let moved = |name: &str, view: &safetensors::tensor::TensorView<'_>| {
        assert_eq!(view.dtype(), safetensors::Dtype::F32, "these goldens are f32");
        let values = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        let values = values.enumerate().map(|(at, value)| value * (1.0 + step as f32 * 0.02 * (at % 7) as f32));
        export_fixture::tensor(name, "F32", view.shape(), floats(values))
    };
    read.tensors().iter().map(|(name, view)| moved(name, view)).collect()
}

/// The golden export as it is, with the weights of a step: what a server started with them serves.
fn export_of(name: &str, step: u32, at: &Path) -> PathBuf {
    let folder = at.join(format!("{name}-{step}"));
    fs::create_dir(&folder).unwrap();
    for part in ["config.json", "sidereal.json", "items.csv"] {
        fs::copy(golden(name).join(part), folder.join(part)).unwrap();
    }
    fs::write(folder.join("model.safetensors"), file(&tensors(&golden(name), step))).unwrap();
    folder
}

/// Searches, a sample with log-probabilities, and prompts of several pages and prefill batches.
fn request(number: u64) -> Request {
    let mut seeded = Seeded(number);
    let tokens = (0..20 + seeded.below(300)).map(|_| seeded.below(90) as u32).collect();
    let mut request = prompt_request(number, tokens, 4 + seeded.below(28) as u32);
    if number % 2 == 1 {
        request.sampling = Some(Sampling { kind: SamplingKind::Independent, seed: number, temperature: 1.0 });
        request.log_probs = true;
    }
    request
}

fn bits(results: &[Ranked]) -> Vec<(Vec<u16>, u32, Vec<[u32; 2]>)> {
    let pair = |of: &sidereal::sampling::LogProb| [of.behaviour.to_bits(), of.raw.to_bits()];
    results
        .iter()
        .map(|ranked| (ranked.sid.clone(), ranked.score.to_bits(), ranked.log_probs.iter().map(pair).collect()))
        .collect()
}

/// Waits until the newest replacement has ended.
fn ended(engine: &Engine) -> WeightsStatus {
    let until = Instant::now() + PATIENCE;
    loop {
        let status = engine.weights();
        if status.last.as_ref().is_some_and(|last| last.took.is_some()) {
            return status;
        }
        assert!(Instant::now() < until, "a replacement never ends: {status:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn replaced(engine: &Engine, path: &Path, version: &str) -> u64 {
    let number = engine.replace_weights(path, version).unwrap();
    let status = ended(engine);
    let serving = Policy { number, version: version.into() };
    assert!(status.serving == serving && status.failed == 0, "{status:?}");
    assert!(matches!(status.last.unwrap().stage, Stage::Serving { beside: true, .. }));
    number
}

fn under_load(name: &str) {
    let scratch = tempfile::tempdir().unwrap();
    let exports: Vec<PathBuf> = (0..3).map(|step| export_of(name, step, scratch.path())).collect();
    // By version: what a server that started with these weights answers.
    let fresh = |export: &PathBuf| {
        let engine = engine(export, Dtype::F32, 1, small_limits());
        (0..PROMPTS).map(|number| bits(&engine.recommend(request(number)).unwrap().results)).collect::<Vec<_>>()
    };
    let expected: Vec<_> = exports.iter().map(fresh).collect();
    assert!(expected[0] != expected[1] && expected[1] != expected[2], "the policies differ");

    let engine = engine(&exports[0], Dtype::F32, 1, small_limits());
    let own = engine.facts().provenance.policy.clone();
    assert_eq!(own.number, 0);
    let done = AtomicBool::new(false);
    let seen: Vec<BTreeMap<u64, u64>> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS as u64)
            .map(|caller| {
                let (engine, expected, done, own) = (&engine, &expected, &done, &own);
                scope.spawn(move || {
                    let mut seen = BTreeMap::new();
                    for number in (0..PROMPTS).cycle().skip(caller as usize) {
                        if done.load(Ordering::Acquire) {
                            break;
                        }
                        let before = engine.weights().serving.number;
                        let answer = engine.recommend(request(number)).expect("nobody is refused");
                        let Policy { number: policy, version } = &answer.provenance.policy;
                        // A single caller: what served when it asked, or anything newer.
                        assert!(*policy >= before, "policy {policy} answered a request that came to {before}");
                        let step = match version.strip_prefix("step-") {
                            Some(step) => step.parse().unwrap(),
                            None => 0,
                        };
                        assert!(*policy > 0 || *version == own.version);
                        let expected: &Vec<Vec<_>> = &expected[step];
                        assert_eq!(bits(&answer.results), expected[number as usize], "request {number} by {version}");
                        *seen.entry(*policy).or_insert(0) += 1;
                    }
                    seen
                })
            })
            .collect();
        let answered = || engine.counts().answered;
        let served_for = |requests: u64| {
            let (from, until) = (answered(), Instant::now() + PATIENCE);
            while answered() < from + requests && !callers.iter().any(|caller| caller.is_finished()) {
                assert!(Instant::now() < until, "nothing is answered any more");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        for (number, step) in [(1, 1), (2, 2), (3, 0), (4, 1)] {
            served_for(2 * CALLERS as u64);
            // A file alone, and a whole export's folder.
            let file = if number % 2 == 0 { exports[step].clone() } else { exports[step].join("model.safetensors") };
            assert_eq!(replaced(&engine, &file, &format!("step-{step}")), number);
        }
        served_for(2 * CALLERS as u64);
        done.store(true, Ordering::Release);
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    for policy in 0..=4 {
        let answers: u64 = seen.iter().filter_map(|seen| seen.get(&policy)).sum();
        assert!(answers > 0, "nobody was answered by policy {policy}: {seen:?}");
    }
    engine.drain();
    let counts = engine.counts();
    assert!(counts.refused.iter().all(|refused| *refused == 0), "{:?}", counts.refused);
    assert_eq!((counts.weights_replaced, counts.policy.number, counts.in_flight), (4, 4, 0));
    assert!(matches!(engine.replace_weights(&exports[1], "late"), Err(ReplaceError::Unavailable(_))));
}

#[test]
fn an_encoder_decoder_changes_its_weights_under_load() {
    under_load("t5-relu");
}

#[test]
fn a_decoder_changes_its_weights_under_load() {
    under_load("qwen3-gqa");
}

/// What is wrong is told by name; nothing that serves is touched, and the next weights are welcome.
#[test]
fn wrong_weights_are_refused_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    let name = "t5-relu";
    let good = tensors(&golden(name), 1);
    let at = good.iter().position(|tensor| tensor.name == "encoder.block.0.layer.1.DenseReluDense.wi.weight").unwrap();
    let with = |change: &dyn Fn(&mut Vec<Tensor>)| {
        let mut tensors = good.clone();
        change(&mut tensors);
        file(&tensors)
    };
    let wrong: [(&str, Vec<u8>, &str); 7] = [
        ("empty", Vec::new(), "empty"),
        ("text", b"these are no weights, whatever they are called".to_vec(), "text"),
        ("cut", file(&good)[..5000].to_vec(), "cut"),
        ("missing", with(&|all| drop(all.remove(at))), "DenseReluDense.wi.weight"),
        ("shape", with(&|all| all[at].shape.reverse()), "DenseReluDense.wi.weight` must be"),
        ("nan", with(&|all| all[at].bytes[40..44].copy_from_slice(&f32::NAN.to_le_bytes())), "value 10 is not finite"),
        ("dtype", with(&|all| all[at].dtype = "I32".into()), "DenseReluDense.wi.weight"),
    ];
    assert_ne!(good[at].shape[0], good[at].shape[1], "the shape can be told from its reverse");
    let engine = engine(&golden(name), Dtype::F32, 1, small_limits());
    let before = bits(&engine.recommend(request(0)).unwrap().results);
    let serving = engine.weights().serving;
    let mut failed = 0;
    let mut check = |path: &Path, told: &str| {
        engine.replace_weights(path, "wrong").unwrap();
        failed += 1;
        let status = ended(&engine);
        assert_eq!((&status.serving, status.failed, status.replaced), (&serving, failed, 0));
        let Stage::Failed { error } = status.last.unwrap().stage else { panic!("{told}: it serves") };
        assert!(error.contains(told) && error.contains(path.to_str().unwrap()), "{told:?} not in {error:?}");
        assert_eq!(bits(&engine.recommend(request(0)).unwrap().results), before, "{told}");
    };
    for (what, bytes, told) in &wrong {
        let path = scratch.path().join(what);
        fs::write(&path, bytes).unwrap();
        check(&path, told);
    }
    check(&scratch.path().join("nothing-here"), "nothing-here");
    let folder = scratch.path().join("a-folder");
    fs::create_dir(&folder).unwrap();
    check(&folder, "a-folder");
    // Another model's.
    check(&golden("qwen3-gqa"), "qwen3-gqa");

    for (path, version, told) in [
        (Path::new("weights.safetensors"), "v", "not absolute"),
        (scratch.path(), "", "empty"),
        (scratch.path(), &"v".repeat(257), "257 bytes"),
        (scratch.path(), "two\nlines", "control characters"),
    ] {
        let error = engine.replace_weights(path, version).unwrap_err();
        assert!(matches!(&error, ReplaceError::Asked(text) if text.contains(told)), "{error}");
    }
    // A link is followed.
    let (path, link) = (scratch.path().join("good"), scratch.path().join("newest"));
    fs::write(&path, file(&good)).unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let number = engine.replace_weights(&link, "step-1").unwrap();
    let status = ended(&engine);
    assert_eq!((status.serving.number, status.replaced, status.failed), (number, 1, failed));
    assert_ne!(bits(&engine.recommend(request(0)).unwrap().results), before);
}
