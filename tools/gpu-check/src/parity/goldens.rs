//! The golden exports and the demo's, through the engine: what transformers computed against what the card computes.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::CheckError;
use crate::process;
use crate::report::{Section, Table, Verdict};
use crate::setting::Setting;

/// For one export in one type.
const EACH: Duration = Duration::from_secs(60);
/// The smallest, of each family, for a rehearsal.
const REHEARSED: &[&str] = &["t5-small-catalog"];

/// Checks every export in f32, and in bf16 those that keep bf16's contract.
pub fn section(setting: &Setting) -> Result<Section, CheckError> {
    let mut section = Section::new("goldens: what transformers answered", Verdict::Passed);
    let mut table = Table::new("goldens", &["export", "dtype", "good", "told"]);
    for (export, dtype) in exports(setting)? {
        let name = export.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if setting.left().is_zero() {
            table.rows.push(vec![json!(name), json!(dtype), Value::Null, json!("out of time")]);
            section.verdict = Verdict::Failed;
            continue;
        }
        let (good, told) = check(setting, &export, dtype)?;
        if !good {
            section.verdict = Verdict::Failed;
        }
        table.rows.push(vec![json!(name), json!(dtype), json!(good), json!(told)]);
    }
    section.tables.push(table);
    if setting.is_rehearsal {
        section.notes.push(format!("rehearsal: {} alone", REHEARSED.join(", ")));
    }
    Ok(section)
}

fn exports(setting: &Setting) -> Result<Vec<(PathBuf, &'static str)>, CheckError> {
    let mut exports = setting.goldens()?;
    exports.push(setting.demo());
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if setting.is_rehearsal {
        exports.retain(|path| REHEARSED.contains(&&name(path)[..]));
    }
    // Elsewhere rounding to bf16 alone exceeds the contract: their attention is peaked.
    let keeps_contract = |path: &PathBuf| name(path).ends_with("-bf16") || *path == setting.demo();
    let bf16: Vec<PathBuf> = exports.iter().filter(|path| keeps_contract(path)).cloned().collect();
    Ok(exports.into_iter().map(|path| (path, "f32")).chain(bf16.into_iter().map(|path| (path, "bf16"))).collect())
}

/// Whether an export is good, and what was said of its goldens.
fn check(setting: &Setting, export: &PathBuf, dtype: &str) -> Result<(bool, String), CheckError> {
    let deadline = setting.deadline.min(Instant::now() + EACH);
    let mut command = setting.command("sidereal")?;
    command.arg("check").arg(export).args(["--device", "cuda", "--dtype", dtype, "--json"]);
    let ran = process::run(&mut command, deadline)?;
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
    let told = |grade: &str| {
        let findings = answer["findings"].as_array().into_iter().flatten();
        let of_grade = findings.filter(|finding| finding["grade"] == grade);
        of_grade
            .filter(|finding| grade == "bad" || finding["part"] == "goldens")
            .filter_map(|finding| finding["message"].as_str().map(str::to_owned))
            .collect::<Vec<_>>()
            .join("; ")
    };
    match (answer["good"].as_bool(), ran.is_good()) {
        (Some(true), true) => Ok((true, told("good"))),
        (Some(_), _) => Ok((false, told("bad"))),
        (None, _) => Ok((false, ran.ending())),
    }
}
