//! What a check found: every finding, for people and for machines.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::cli::Failure;
use crate::cli::style::Style;

/// Findings of one part and grade in a row that a table shows unless all are asked for.
const ALIKE: usize = 8;

/// How a finding counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// As it should be.
    Good,
    /// Worth knowing; nothing is wrong.
    Note,
    /// Wrong: the export must not be served.
    Bad,
}

/// The part of an export that a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// `config.json`.
    Config,
    /// The safetensors files.
    Weights,
    /// `sidereal.json`.
    Manifest,
    /// Token ids against the vocabulary.
    Tokens,
    /// `tokenizer.json`, where there is one.
    Tokenizer,
    /// The catalogue.
    Catalogue,
    /// `scenarios.json`, where there is one.
    Scenarios,
    /// `golden/cases.jsonl`.
    Goldens,
    /// `golden/activations.safetensors`.
    Activations,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Config => "config",
            Part::Weights => "weights",
            Part::Manifest => "manifest",
            Part::Tokens => "tokens",
            Part::Tokenizer => "tokenizer",
            Part::Catalogue => "catalogue",
            Part::Scenarios => "scenarios",
            Part::Goldens => "goldens",
            Part::Activations => "activations",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Which part.
    pub part: Part,
    /// How it counts.
    pub grade: Grade,
    /// What, where, and what to do.
    pub message: String,
}

/// A tensor of the weights.
#[derive(Clone, Debug, Serialize)]
pub struct TensorRow {
    /// Name.
    pub name: String,
    /// Element type as safetensors names it.
    pub dtype: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Whether the model reads it; unknown when the configuration could not be understood.
    pub read: Option<bool>,
    /// Position of the first value that is not finite.
    pub first_non_finite: Option<usize>,
}

/// How one golden case came out.
#[derive(Clone, Debug, Serialize)]
pub struct CaseRow {
    /// The case's id.
    pub id: u64,
    /// Largest distance between two scores of one semantic ID; `null` when the request was refused.
    pub max_delta: Option<f32>,
    /// Share of semantic IDs in both lists.
    pub overlap: f32,
    /// Why the case fails.
    pub difference: Option<String>,
}

/// All golden cases.
#[derive(Clone, Debug, Serialize)]
pub struct GoldenRows {
    /// Type computed in.
    pub dtype: String,
    /// Largest distance allowed.
    pub tolerance: f32,
    /// Largest distance seen.
    pub max_delta: f32,
    /// Mean share of semantic IDs in both lists.
    pub mean_overlap: f32,
    /// Every case.
    pub cases: Vec<CaseRow>,
}

/// Everything that a check found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// In the order they were made.
    pub findings: Vec<Finding>,
    /// Every tensor, by name.
    pub tensors: Vec<TensorRow>,
    /// Golden cases, if they were run.
    pub goldens: Option<GoldenRows>,
}

impl Report {
    /// Something is as it should be.
    pub fn good(&mut self, part: Part, message: impl Into<String>) {
        self.findings.push(Finding { part, grade: Grade::Good, message: message.into() });
    }

    /// Something is worth knowing.
    pub fn note(&mut self, part: Part, message: impl Into<String>) {
        self.findings.push(Finding { part, grade: Grade::Note, message: message.into() });
    }

    /// Something is wrong.
    pub fn bad(&mut self, part: Part, message: impl std::fmt::Display) {
        self.findings.push(Finding { part, grade: Grade::Bad, message: message.to_string() });
    }

    /// Whether anything of `part` is wrong.
    pub fn is_bad(&self, part: Part) -> bool {
        self.findings.iter().any(|finding| finding.part == part && finding.grade == Grade::Bad)
    }

    /// How many things are wrong.
    pub fn bad_count(&self) -> usize {
        self.findings.iter().filter(|finding| finding.grade == Grade::Bad).count()
    }

    /// The report as one JSON object.
    pub fn print_json(&self, export: &Path, out: &mut dyn Write) -> Result<(), Failure> {
        #[derive(Serialize)]
        struct Whole<'a> {
            export: String,
            good: bool,
            #[serde(flatten)]
            report: &'a Report,
        }
        let whole = Whole { export: export.display().to_string(), good: self.bad_count() == 0, report: self };
        writeln!(out, "{}", serde_json::to_string(&whole).unwrap_or_default())?;
        Ok(())
    }

    /// The report as a table; `every` lists each tensor and each case.
    pub fn print(&self, export: &Path, every: bool, style: Style, out: &mut dyn Write) -> Result<(), Failure> {
        writeln!(out, "{}\n", style.bold(&export.display().to_string()))?;
        let mut alike = 0;
        for (at, finding) in self.findings.iter().enumerate() {
            let before = at.checked_sub(1).map(|at| &self.findings[at]);
            let same = before.is_some_and(|before| (before.part, before.grade) == (finding.part, finding.grade));
            alike = if same { alike + 1 } else { 0 };
            if alike >= ALIKE && !every {
                let last = self.findings.get(at + 1);
                let ends = last.is_none_or(|next| (next.part, next.grade) != (finding.part, finding.grade));
                if ends {
                    let more = format!("and {} more like it; --verbose lists them", alike + 1 - ALIKE);
                    writeln!(out, "        {:<11} {}", "", style.dim(&more))?;
                }
                continue;
            }
            let grade = match finding.grade {
                Grade::Good => style.good("good"),
                Grade::Note => style.note("note"),
                Grade::Bad => style.bad("BAD "),
            };
            writeln!(out, "  {grade}  {:<11} {}", finding.part.name(), finding.message)?;
        }
        if every {
            self.print_tensors(style, out)?;
            self.print_cases(style, out)?;
        }
        let verdict = match self.bad_count() {
            0 => style.good("good"),
            1 => style.bad("1 thing is bad"),
            count => style.bad(&format!("{count} things are bad")),
        };
        writeln!(out, "\n{verdict}")?;
        Ok(())
    }

    fn print_tensors(&self, style: Style, out: &mut dyn Write) -> Result<(), Failure> {
        let width = self.tensors.iter().map(|tensor| tensor.name.chars().count()).max().unwrap_or(0);
        writeln!(out, "\n{}", style.bold("tensors"))?;
        for tensor in &self.tensors {
            let remark = match (tensor.first_non_finite, tensor.read) {
                (Some(at), _) => style.bad(&format!("  value {at} is not finite")),
                (None, Some(false)) => style.dim("  not read"),
                (None, _) => String::new(),
            };
            let shape = format!("{:?}", tensor.shape);
            writeln!(out, "  {:<width$}  {:<5} {shape:<16}{remark}", tensor.name, tensor.dtype)?;
        }
        Ok(())
    }

    fn print_cases(&self, style: Style, out: &mut dyn Write) -> Result<(), Failure> {
        let Some(goldens) = &self.goldens else { return Ok(()) };
        writeln!(out, "\n{}", style.bold("golden cases"))?;
        for case in &goldens.cases {
            let delta = case.max_delta.map_or_else(|| "-".to_owned(), |delta| format!("{delta:.1e}"));
            let outcome = match &case.difference {
                None => style.good("good"),
                Some(difference) => style.bad(difference),
            };
            let overlap = case.overlap * 100.0;
            writeln!(out, "  {:>6}  max |delta| {delta:>8}  overlap {overlap:5.1}%  {outcome}", case.id)?;
        }
        Ok(())
    }
}
