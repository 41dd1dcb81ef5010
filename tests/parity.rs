//! Parity with Hugging Face `transformers` (design section 6): every golden export and the demo's, which is trained, through
//! the whole engine.
//!
//! f32: every score within 1e-4 and identical lists, on every export.
//!
//! bf16: scores within 0.15 on entries of both lists and a mean list overlap of at least 95% on the exports made for it, whose
//! names end in `-bf16`, and on the demo's. The others have random weights with peaked attention, where rounding to bf16 alone
//! moves scores by up to 0.38: there the deltas are held to what rounding alone does, which transformers computed
//! (`golden/bf16.json`; the reasoning is in tests/goldens/README.md), and the overlap over all cases to 95%.

mod common;

use std::path::{Path, PathBuf};

use common::{demo_export, engine, golden, golden_names, prompt_request, small_limits};
use sidereal::device::Dtype;
use sidereal::export::{Comparer, Export, ListEntry};
use sidereal::request::Recommendation;

const DEMO: &str = "the demo";
const F32_TOLERANCE: f32 = 1e-4;
const BF16_TOLERANCE: f32 = 0.15;
const BF16_OVERLAP: f64 = 0.95;
/// What the deltas may be, in multiples of what rounding alone does. Every order of summation rounds other values to the other
/// side, so that an export's largest delta is a chance event, and its root mean square much less of one.
const BF16_MAX_RATIO: f32 = 1.5;
const BF16_RMS_RATIO: f32 = 1.25;

fn entries(answer: &Recommendation) -> Vec<ListEntry> {
    answer.results.iter().map(|r| ListEntry { sid: r.sid.clone(), score: r.score }).collect()
}

/// (name, folder) of every export with goldens: random weights by name, then the trained ones of the demo.
fn exports() -> Vec<(String, PathBuf)> {
    let random = golden_names().into_iter().map(|name| (name.clone(), golden(&name)));
    random.chain([(DEMO.to_owned(), demo_export())]).collect()
}

/// Runs every case of an export; calls `judge` with (case id, beams, expected, got).
fn run(path: &Path, dtype: Dtype, mut judge: impl FnMut(u64, usize, &[ListEntry], &[ListEntry])) {
    let cases = Export::open(path).unwrap().goldens().unwrap().expect("a golden export has cases");
    assert!(!cases.is_empty());
    let engine = engine(path, dtype, 2, small_limits());
    for case in cases {
        let answer = engine.recommend(prompt_request(case.id, case.tokens, case.beams as u32)).unwrap();
        judge(case.id, case.beams, &case.results, &entries(&answer));
    }
}

#[test]
fn f32_equals_transformers() {
    let mut worst = 0.0f32;
    for (name, path) in exports() {
        run(&path, Dtype::F32, |id, beams, expected, got| {
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

/// How bf16 lists differ from the golden f32 lists of one export.
#[derive(Debug, Default)]
struct Bf16Deltas {
    /// Of every entry in both lists.
    deltas: Vec<f32>,
    /// Summed over the cases.
    overlap: f64,
    cases: u32,
}

impl Bf16Deltas {
    fn measure(path: &Path) -> Bf16Deltas {
        let mut found = Bf16Deltas::default();
        run(path, Dtype::Bf16, |_, _, expected, got| {
            let before = found.deltas.len();
            for entry in expected {
                let other = got.iter().find(|other| other.sid == entry.sid);
                found.deltas.extend(other.map(|other| (entry.score - other.score).abs()));
            }
            found.overlap += (found.deltas.len() - before) as f64 / expected.len() as f64;
            found.cases += 1;
        });
        found
    }

    fn max(&self) -> f32 {
        self.deltas.iter().copied().fold(0.0, |max, delta| if max.is_nan() || delta <= max { max } else { delta })
    }

    fn rms(&self) -> f32 {
        (self.deltas.iter().map(|delta| delta * delta).sum::<f32>() / self.deltas.len() as f32).sqrt()
    }

    fn mean_overlap(&self) -> f64 {
        self.overlap / f64::from(self.cases)
    }
}

/// (largest, root mean square) |delta| that rounding alone causes, from `golden/bf16.json`.
fn rounding_alone(path: &Path) -> (f32, f32) {
    let text = std::fs::read_to_string(path.join("golden/bf16.json")).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let number = |key: &str| value["rounding"][key].as_f64().unwrap() as f32;
    (number("max"), number("rms"))
}

#[test]
fn bf16_keeps_the_contract() {
    let mut exports = exports();
    exports.retain(|(name, _)| name.ends_with("-bf16") || name == DEMO);
    assert!(exports.len() >= 3, "the exports of the bf16 contract are missing");
    for (name, path) in exports {
        let found = Bf16Deltas::measure(&path);
        println!("bf16: {name}: max |delta| {:.4}, mean overlap {:.4}", found.max(), found.mean_overlap());
        assert!(found.max() <= BF16_TOLERANCE, "{name}: |delta| {}", found.max());
        assert!(found.mean_overlap() >= BF16_OVERLAP, "{name}: mean list overlap {:.4}", found.mean_overlap());
    }
}

#[test]
fn bf16_differs_by_rounding_alone() {
    let (mut overlap, mut cases) = (0.0, 0);
    let mut faults = Vec::new();
    for (name, path) in exports() {
        let found = Bf16Deltas::measure(&path);
        let (max, rms) = rounding_alone(&path);
        let (max_ratio, rms_ratio) = (found.max() / max, found.rms() / rms);
        println!(
            "bf16: {name}: |delta| max {:.4}, rms {:.4}; {max_ratio:.2} and {rms_ratio:.2} times rounding alone; mean overlap {:.4}",
            found.max(),
            found.rms(),
            found.mean_overlap()
        );
        // Written so that NaN is a fault too.
        if !(max_ratio <= BF16_MAX_RATIO && rms_ratio <= BF16_RMS_RATIO) {
            faults.push(format!("{name}: {max_ratio} (max) and {rms_ratio} (rms) times what rounding alone does"));
        }
        overlap += found.overlap;
        cases += found.cases;
    }
    let mean = overlap / f64::from(cases);
    println!("bf16: mean overlap {mean:.4} over {cases} cases");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(mean >= BF16_OVERLAP, "mean list overlap {mean:.4}");
}
