//! What a command found, as JSON for machines and markdown for people.
//!
//! A report is written anew after each section, so that what was found is there even if the machine goes away. Every table names
//! card, driver, date and commit; what nobody measured says so.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{CheckError, at};

/// Stands where a figure would.
pub const NOT_MEASURED: &str = "not measured";

/// Stands over every report of a rehearsal.
pub const REHEARSAL: &str = "rehearsal on the emulator: no figure here is a measurement";

/// How a section ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything that was checked is right.
    Passed,
    /// Something is wrong.
    Failed,
    /// Figures, no judgement.
    Measured,
    /// Nothing was done.
    NotMeasured,
    /// This machine cannot do it.
    NotSupported,
}

impl Verdict {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Failed => "FAILED",
            Verdict::Measured => "measured",
            Verdict::NotMeasured => NOT_MEASURED,
            Verdict::NotSupported => "not supported here",
        }
    }
}

/// Rows under headings; units stand in the headings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// Headings.
    pub columns: Vec<String>,
    /// Cells: numbers, text, or null for what was not measured.
    pub rows: Vec<Vec<Value>>,
}

impl Table {
    /// An empty table.
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Table {
        Table {
            title: title.into(),
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
            rows: Vec::new(),
        }
    }
}

/// One part of a report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Section {
    /// What was done.
    pub name: String,
    /// How it ended.
    pub verdict: Verdict,
    /// What there is to say.
    pub notes: Vec<String>,
    /// What was found.
    pub tables: Vec<Table>,
    /// Seconds that it took.
    pub took_s: f64,
}

impl Section {
    /// A section with nothing in it yet.
    pub fn new(name: impl Into<String>, verdict: Verdict) -> Section {
        Section { name: name.into(), verdict, notes: Vec::new(), tables: Vec::new(), took_s: 0.0 }
    }

    /// A section that ends at once.
    pub fn ended(name: impl Into<String>, verdict: Verdict, note: impl Into<String>) -> Section {
        Section { notes: vec![note.into()], ..Section::new(name, verdict) }
    }
}

/// Where and when something was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Provenance {
    /// The card's name.
    pub card: String,
    /// The driver, as CUDA counts.
    pub driver: String,
    /// Day.
    pub date: String,
    /// Of the sources that the binaries were made from.
    pub commit: String,
}

impl Provenance {
    fn line(&self) -> String {
        format!("{}, driver {}, {}, commit {}", self.card, self.driver, self.date, self.commit)
    }
}

/// A command's report.
#[derive(Clone, Debug)]
pub struct Report {
    /// The command.
    pub command: &'static str,
    /// Where and when.
    pub provenance: Provenance,
    /// Whether this is a rehearsal.
    pub is_rehearsal: bool,
    /// What was found so far.
    pub sections: Vec<Section>,
}

impl Report {
    /// Whether nothing failed.
    pub fn is_good(&self) -> bool {
        self.sections.iter().all(|section| section.verdict != Verdict::Failed)
    }

    /// Writes `<command>.json` and `<command>.md`.
    pub fn write(&self, folder: &Path) -> Result<(), CheckError> {
        std::fs::create_dir_all(folder).map_err(at(folder))?;
        let json = serde_json::to_string_pretty(&self.json()).map_err(|error| CheckError::Answer(error.to_string()))?;
        for (ending, text) in [("json", json + "\n"), ("md", self.markdown())] {
            let path = folder.join(format!("{}.{ending}", self.command));
            std::fs::write(&path, text).map_err(at(&path))?;
        }
        Ok(())
    }

    fn json(&self) -> Value {
        let sections: Vec<Value> = self.sections.iter().map(section_json).collect();
        json!({
            "command": self.command,
            "label": self.is_rehearsal.then_some(REHEARSAL),
            "provenance": self.provenance,
            "good": self.is_good(),
            "sections": sections,
        })
    }

    /// The report for people.
    pub fn markdown(&self) -> String {
        let mut text = format!("# gpu-check {}\n\n{}\n", self.command, self.provenance.line());
        if self.is_rehearsal {
            text += &format!("\n**{REHEARSAL}**\n");
        }
        for section in &self.sections {
            // Writing to a string does not fail.
            let _ = writeln!(text, "\n## {}: {} ({:.1} s)", section.name, section.verdict.words(), section.took_s);
            for note in &section.notes {
                let _ = writeln!(text, "\n{}", note.trim_end());
            }
            for table in &section.tables {
                self.table(table, &mut text);
            }
        }
        text
    }

    fn table(&self, table: &Table, text: &mut String) {
        let label = if self.is_rehearsal { format!("; {REHEARSAL}") } else { String::new() };
        let _ = writeln!(text, "\n**{}** ({}{label})\n", table.title, self.provenance.line());
        let _ = writeln!(text, "| {} |", table.columns.join(" | "));
        let _ = writeln!(text, "|{}", "---|".repeat(table.columns.len()));
        for row in &table.rows {
            let cells: Vec<String> = row.iter().map(cell).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
    }
}

/// Rows as objects, so that a machine finds a figure by its heading.
fn section_json(section: &Section) -> Value {
    let tables: Vec<Value> = section
        .tables
        .iter()
        .map(|table| {
            let rows: Vec<Value> = table
                .rows
                .iter()
                .map(|row| Value::Object(table.columns.iter().cloned().zip(row.iter().cloned()).collect()))
                .collect();
            json!({ "title": table.title, "columns": table.columns, "rows": rows })
        })
        .collect();
    json!({
        "name": section.name,
        "verdict": section.verdict,
        "notes": section.notes,
        "took_s": section.took_s,
        "tables": tables,
    })
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => NOT_MEASURED.to_owned(),
        Value::String(text) => text.replace('|', "\\|").replace('\n', " "),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "**no**".to_owned(),
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), significant),
        other => other.to_string(),
    }
}

/// Four significant digits.
fn significant(x: f64) -> String {
    if x == 0.0 || x.fract() == 0.0 && x.abs() < 1e6 {
        return format!("{x:.0}");
    }
    let digits = 3 - x.abs().log10().floor() as i32;
    match digits {
        0..=7 => format!("{x:.*}", digits as usize),
        _ if x.abs() < 1.0 => format!("{x:.3e}"),
        _ => format!("{x:.0}"),
    }
}

/// The date of a time since 1970, as `2026-11-24`.
pub fn date(seconds: u64) -> String {
    // Days to a civil date, by eras of 400 years that begin in March.
    let days = (seconds / 86_400) as i64 + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        for (seconds, expected) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_795_478_400, "2026-11-24"),
            (4_107_542_399, "2100-02-28"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }

    #[test]
    fn numbers_have_four_digits() {
        for (number, expected) in [
            (0.0, "0"),
            (12.0, "12"),
            (1.23456, "1.235"),
            (123.456, "123.5"),
            (98_765.4, "98765"),
            (0.000_012_34, "1.234e-5"),
        ] {
            assert_eq!(significant(number), expected);
        }
    }

    #[test]
    fn a_table_names_where_it_comes_from_and_what_is_missing() {
        let mut table = Table::new("kernels", &["kernel", "median_us"]);
        table.rows.push(vec![json!("norm"), json!(1.5)]);
        table.rows.push(vec![json!("head"), Value::Null]);
        let provenance =
            Provenance { card: "H100".into(), driver: "13.0".into(), date: "2026-11-24".into(), commit: "abc".into() };
        let section = Section { tables: vec![table], ..Section::new("rows", Verdict::Measured) };
        let report = Report { command: "bench", provenance, is_rehearsal: true, sections: vec![section] };
        let text = report.markdown();
        assert!(text.contains("**kernels** (H100, driver 13.0, 2026-11-24, commit abc; rehearsal"), "{text}");
        assert!(text.contains("| head | not measured |"), "{text}");
        assert_eq!(report.json()["sections"][0]["tables"][0]["rows"][0]["median_us"], 1.5);
        let folder = tempfile::tempdir().unwrap();
        report.write(folder.path()).unwrap();
        assert!(folder.path().join("bench.json").is_file() && folder.path().join("bench.md").is_file());
    }
}
