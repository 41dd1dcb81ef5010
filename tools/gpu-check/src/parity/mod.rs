//! `parity`: does the card compute what the interpreter and the CPU device compute?
//!
//! In this order, each by itself, so that a fault of one does not hide the next: the wrappers of ptx.h, every kernel through the
//! device tests, the goldens through the engine, and a server that is asked alone and by many at once.

pub mod device_tests;
mod goldens;
pub mod serve;

use crate::emulated::Emulated;
use crate::error::CheckError;
use crate::probe::{self, cases};
use crate::report::{Section, Table, Verdict};
use crate::run::Run;
use crate::setting::Setting;
use serde_json::json;

/// Runs all of it.
pub fn run(run: &mut Run) -> Result<(), CheckError> {
    run.part("probes", 120)?;
    run.section(device_tests::section)?;
    run.section(goldens::section)?;
    run.part("serve", 120)
}

/// The wrappers, in this process.
pub fn probes(setting: &Setting) -> Result<Section, CheckError> {
    setting.load_driver()?;
    let mut card = crate::card::Card::open()?;
    let mut section = Section::new("wrappers of ptx.h: the card against the interpreter", Verdict::Passed);
    let mut table = Table::new("wrappers", &["wrapper", "words", "rule", "largest difference", "agrees"]);
    for case in cases::all() {
        let row = match probe::run(&case, &mut card, &mut Emulated) {
            Ok(outcome) => {
                let agrees = outcome.agrees;
                if !agrees {
                    section.verdict = Verdict::Failed;
                }
                vec![
                    json!(outcome.name),
                    json!(outcome.values),
                    json!(outcome.rule),
                    json!(outcome.difference),
                    json!(agrees),
                ]
            }
            Err(error) => {
                section.verdict = Verdict::Failed;
                vec![json!(case.name), json!(0), json!("-"), json!(error.to_string()), json!(false)]
            }
        };
        table.rows.push(row);
    }
    section.tables.push(table);
    Ok(section)
}
