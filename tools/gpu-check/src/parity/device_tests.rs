//! The device tests of `tests/cuda`: every operation on the card against the CPU device.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::error::CheckError;
use crate::process::{self, Ran};
use crate::report::{Section, Table, Verdict};
use crate::setting::Setting;

/// The tests' program.
pub const PROGRAM: &str = "cuda-tests";
/// Tests at a time: each opens a device of its own.
const THREADS: &str = "4";
/// Most failed tests that are run again by themselves.
const AGAIN: usize = 30;
/// For a test that is run by itself.
const ALONE: Duration = Duration::from_secs(60);
/// Tests that inject faults into the stand-in driver.
pub const EMULATED_ALONE: [&str; 2] = ["--skip", "faults::"];
/// What a rehearsal leaves out would take minutes on the emulator.
pub const REHEARSED: &[&str] = &["rows::"];

/// What libtest printed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed, by name.
    pub failed: Vec<String>,
    /// Whether the run came to its end.
    pub is_whole: bool,
}

/// Reads libtest's output.
pub fn tally(output: &str) -> Tally {
    let mut tally = Tally::default();
    for line in output.lines() {
        if let Some((name, outcome)) = line.strip_prefix("test ").and_then(|line| line.rsplit_once(" ... ")) {
            match outcome.trim() {
                "ok" => tally.passed += 1,
                "FAILED" => tally.failed.push(name.to_owned()),
                _ => {}
            }
        }
        tally.is_whole |= line.starts_with("test result:");
    }
    tally
}

/// Names of the tests whose names hold one of `filters`; all without any.
pub fn list(setting: &Setting, filters: &[&str]) -> Result<Vec<String>, CheckError> {
    let mut command = setting.command(PROGRAM)?;
    let ran = process::run(
        command.args(filters).args(EMULATED_ALONE).args(["--list", "--format", "terse"]),
        setting.deadline,
    )?;
    if !ran.is_good() {
        return Err(CheckError::Answer(format!("{PROGRAM} --list: {}", ran.ending())));
    }
    Ok(ran.stdout.lines().filter_map(|line| Some(line.strip_suffix(": test")?.to_owned())).collect())
}

/// Runs the tests.
pub fn section(setting: &Setting) -> Result<Section, CheckError> {
    let mut section = Section::new("kernels: every operation on the card against the CPU device", Verdict::Passed);
    let filters: &[&str] = if setting.is_rehearsal { REHEARSED } else { &[] };
    let names = list(setting, filters)?;
    if names.is_empty() {
        return Ok(Section::ended(section.name, Verdict::Failed, "bin/cuda-tests has no such tests"));
    }
    if setting.is_rehearsal {
        section.notes.push(format!("rehearsal: tests named {} alone", filters.join(", ")));
    }
    let deadline = Instant::now() + setting.left().mul_f64(0.7);
    let ran = process::run(
        setting.command(PROGRAM)?.args(filters).args(EMULATED_ALONE).args(["--test-threads", THREADS]),
        deadline,
    )?;
    let found = tally(&ran.stdout);
    section.notes.push(format!("{} of {} tests passed", found.passed, names.len()));
    if found.passed < names.len() || !ran.is_good() {
        section.verdict = Verdict::Failed;
        section.notes.push(format!("the run ended with {}", ran.ending()));
        if let Some(log) = keep_log(setting, &ran) {
            section.notes.push(format!("its output is in {}", log.display()));
        }
        section.tables.push(again(setting, &found.failed)?);
    }
    Ok(section)
}

/// One fault breaks the context for the tests beside it: who is at fault shows when each runs by itself.
fn again(setting: &Setting, failed: &[String]) -> Result<Table, CheckError> {
    let mut table = Table::new("tests that failed, each again by itself", &["test", "passes alone", "told"]);
    for name in failed.iter().take(AGAIN) {
        let deadline = setting.deadline.min(Instant::now() + ALONE);
        let ran = process::run(setting.command(PROGRAM)?.args([&name[..], "--exact"]), deadline)?;
        let told = ran.stdout.lines().find(|line| line.contains("panicked at")).map(|line| {
            let after = ran.stdout.lines().skip_while(|other| *other != line).nth(1).unwrap_or_default();
            format!("{line} {after}")
        });
        table.rows.push(vec![json!(name), json!(ran.is_good()), json!(told.unwrap_or_else(|| ran.ending()))]);
    }
    Ok(table)
}

fn keep_log(setting: &Setting, ran: &Ran) -> Option<std::path::PathBuf> {
    let path = Path::new(&setting.scratch).join("cuda-tests.log");
    std::fs::write(&path, format!("{}\n{}", ran.stdout, ran.stderr)).ok()?;
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::tally;

    #[test]
    fn libtest_is_read() {
        let output = "running 3 tests\ntest norm::a ... ok\ntest norm::b ... FAILED\ntest c - should panic ... ok\n\n\
                      test result: FAILED. 2 passed; 1 failed; 0 ignored\n";
        let found = tally(output);
        assert_eq!((found.passed, found.failed, found.is_whole), (2, vec!["norm::b".to_owned()], true));
        assert!(!tally("running 3 tests\ntest a ... ok\n").is_whole);
    }
}
