//! A command's run: sections one after another, the report written after each.
//!
//! What may break the card's context runs in a process of its own, a *part*: this program again, which prints a section as JSON.
//! A part that crashes, hangs or loses the card fails by itself, and the next one starts with a fresh context.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::error::CheckError;
use crate::process;
use crate::report::{Report, Section, Verdict};
use crate::setting::Setting;

/// A command that is under way.
pub struct Run {
    /// Where it happens.
    pub setting: Setting,
    /// What was found so far.
    pub report: Report,
    /// Where the report goes.
    pub folder: PathBuf,
}

impl Run {
    /// Adds a section that is made in this process.
    pub fn section(&mut self, make: impl FnOnce(&Setting) -> Result<Section, CheckError>) -> Result<(), CheckError> {
        let began = Instant::now();
        let section = make(&self.setting)
            .unwrap_or_else(|error| Section::ended("could not be checked", Verdict::Failed, error.to_string()));
        self.add(Section { took_s: began.elapsed().as_secs_f64(), ..section })
    }

    /// Adds a section that is made in a process of its own, within `seconds` and the time that is left.
    pub fn part(&mut self, name: &str, seconds: u64) -> Result<(), CheckError> {
        let began = Instant::now();
        let limit = Duration::from_secs(seconds).min(self.setting.left());
        let section = if limit < Duration::from_secs(1) {
            Section::ended(name, Verdict::NotMeasured, "dropped: the time was used up by what came before")
        } else {
            self.run_part(name, limit).unwrap_or_else(|error| Section::ended(name, Verdict::Failed, error.to_string()))
        };
        self.add(Section { took_s: began.elapsed().as_secs_f64(), ..section })
    }

    fn run_part(&self, name: &str, limit: Duration) -> Result<Section, CheckError> {
        let program = std::env::current_exe().map_err(|source| CheckError::Io { path: "gpu-check".into(), source })?;
        let mut command = self.setting.with_driver(Command::new(program));
        command.arg("--package").arg(&self.setting.package).arg("--scratch").arg(&self.setting.scratch);
        if self.setting.is_rehearsal {
            command.arg("--rehearse");
        }
        // A part ends by itself in good time, so that what it has measured by then is not lost.
        command.args(["--seconds", &limit.mul_f64(0.9).as_secs().max(1).to_string(), "part", name]);
        let ran = process::run(&mut command, Instant::now() + limit)?;
        match serde_json::from_str(ran.stdout.lines().last().unwrap_or_default()) {
            Ok(section) => Ok(section),
            Err(_) => Ok(Section::ended(name, Verdict::Failed, ran.ending())),
        }
    }

    fn add(&mut self, section: Section) -> Result<(), CheckError> {
        eprintln!("{}: {} ({:.1} s)", section.name, section.verdict.words(), section.took_s);
        if section.verdict == Verdict::Failed {
            section.notes.iter().for_each(|note| eprintln!("    {}", note.replace('\n', "\n    ")));
        }
        self.report.sections.push(section);
        self.report.write(&self.folder)
    }
}
