//! Runs an export's golden cases through the engine and compares lists and scores.

use crate::cli::check::CheckArgs;
use crate::cli::check::report::{CaseRow, GoldenRows, Part, Report};
use crate::cli::{style, units, window};
use crate::device::Dtype;
use crate::export::{Comparer, Export, GoldenCase, ListEntry};
use crate::request::{Answer, History, Request};
use crate::schedule::{Engine, EngineConfig, Sidecars};

/// Cases in flight: enough to exercise batching, which must change nothing.
const IN_FLIGHT: usize = 8;
/// Largest |delta| in f32: design, "Numbers".
const F32_TOLERANCE: f32 = 1e-4;
/// Largest |delta| in bf16.
const BF16_TOLERANCE: f32 = 0.15;
/// Smallest mean overlap of lists in bf16, where cuts fall elsewhere.
const BF16_OVERLAP: f32 = 0.95;

/// Runs the cases, if there are any. Returns those that were run.
pub fn check(export: &Export, args: &CheckArgs, report: &mut Report) -> Option<Vec<GoldenCase>> {
    let cases = match export.goldens() {
        Ok(Some(cases)) if !cases.is_empty() => cases,
        Ok(_) => {
            report.note(Part::Goldens, "no golden/cases.jsonl: nothing says what this model should answer");
            return None;
        }
        Err(fault) => {
            report.bad(Part::Goldens, fault);
            return None;
        }
    };
    if report.bad_count() > 0 {
        report.note(Part::Goldens, "not run: correct the above first");
        return None;
    }
    let engine = match Engine::start(&config(args, &cases)) {
        Ok(engine) => engine,
        Err(fault) => {
            report.bad(Part::Goldens, fault);
            return None;
        }
    };
    let choice = args.device.choice();
    let dtype = choice.dtype.unwrap_or(Dtype::F32);
    let tolerance = args.tolerance.unwrap_or(match dtype {
        Dtype::F32 => F32_TOLERANCE,
        Dtype::Bf16 => BF16_TOLERANCE,
    });
    let bar = style::progress(cases.len(), "goldens");
    let mut rows = Vec::with_capacity(cases.len());
    let requests = cases.iter().map(|case| {
        let beams = u32::try_from(case.beams).unwrap_or(u32::MAX);
        Request::new(case.id, History::Tokens(case.tokens.clone()), beams, beams)
    });
    let ran: Result<(), std::convert::Infallible> =
        window::run_in_order(&engine, IN_FLIGHT, requests, |at, answer, _| {
            bar.inc(1);
            rows.push(compare(&cases[at], &answer, tolerance, dtype));
            Ok(())
        });
    bar.finish_and_clear();
    let Ok(()) = ran;
    summarise(rows, tolerance, dtype, &engine.facts().provenance.device, report);
    Some(cases)
}

/// Limits just large enough for the cases, so that checking a large export plans no more memory than it must.
fn config(args: &CheckArgs, cases: &[GoldenCase]) -> EngineConfig {
    let mut config = EngineConfig::new(&args.export);
    config.catalog.clone_from(&args.catalog);
    config.device = args.device.choice();
    config.sidecars = Sidecars::Ignored;
    let limits = &mut config.limits;
    limits.max_beams = cases.iter().map(|case| case.beams).max().unwrap_or(1);
    limits.max_prompt_tokens = cases.iter().map(|case| case.tokens.len()).max().unwrap_or(1);
    limits.max_sequences = IN_FLIGHT;
    limits.default_deadline = limits.max_deadline;
    config
}

fn compare(case: &GoldenCase, answer: &Answer, tolerance: f32, dtype: Dtype) -> CaseRow {
    let answer = match answer {
        Ok(answer) => answer,
        Err(refusal) => {
            let difference = Some(format!("the engine answered {refusal}"));
            return CaseRow { id: case.id, max_delta: None, overlap: 0.0, difference };
        }
    };
    let got: Vec<ListEntry> =
        answer.results.iter().map(|ranked| ListEntry { sid: ranked.sid.clone(), score: ranked.score }).collect();
    let comparison = Comparer { tolerance, full: Some(case.beams), inner: None }.compare(&case.results, &got);
    let difference = if comparison.max_delta.is_nan() || comparison.max_delta > tolerance {
        Some(format!("a score is {:.1e} off, {tolerance:.1e} is allowed", comparison.max_delta))
    } else {
        // In bf16 inner cuts fall elsewhere and final scores cannot tell; there the mean overlap counts instead.
        comparison.first_difference.filter(|_| dtype == Dtype::F32).map(|difference| difference.to_string())
    };
    CaseRow { id: case.id, max_delta: Some(comparison.max_delta), overlap: comparison.overlap, difference }
}

fn summarise(rows: Vec<CaseRow>, tolerance: f32, dtype: Dtype, device: &str, report: &mut Report) {
    let max_delta = rows.iter().filter_map(|row| row.max_delta).fold(0.0, f32::max);
    let mean_overlap = rows.iter().map(|row| row.overlap).sum::<f32>() / rows.len().max(1) as f32;
    let failed = rows.iter().filter(|row| row.difference.is_some()).count();
    for row in &rows {
        if let Some(difference) = &row.difference {
            report.bad(Part::Goldens, format!("case {}: {difference}", row.id));
        }
    }
    if dtype == Dtype::Bf16 && mean_overlap < BF16_OVERLAP {
        let (mean, least) = (mean_overlap * 100.0, BF16_OVERLAP * 100.0);
        report
            .bad(Part::Goldens, format!("mean overlap of lists is {mean:.1}%; at least {least}% is expected in bf16"));
    }
    let cases = units::plural(rows.len(), "case");
    let told = format!(
        "{} of {cases} agree on {device} in {}: max |delta| {max_delta:.1e} (allowed {tolerance:.1e}), overlap {:.1}%",
        rows.len() - failed,
        dtype.name(),
        mean_overlap * 100.0
    );
    if report.is_bad(Part::Goldens) {
        report.note(Part::Goldens, told);
    } else {
        report.good(Part::Goldens, told);
    }
    report.goldens = Some(GoldenRows { dtype: dtype.name().into(), tolerance, max_delta, mean_overlap, cases: rows });
}
