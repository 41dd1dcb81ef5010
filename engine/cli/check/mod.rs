//! `sidereal check`: is this export what it says, and does this engine compute what the training framework computed?
//!
//! All findings are collected: a fault in one part does not hide those of the others, as far as they can be looked at
//! without it. What the model does not read is a note, never a fault: Hugging Face directories are full of it.

mod goldens;
mod inspect;
mod report;
mod scenarios;
mod weights;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::catalog::Catalog;
use crate::cli::options::DeviceArgs;
use crate::cli::style::{self, Style};
use crate::cli::{Failure, units};
use crate::export::{CONFIG, ConfigReader, Export, ExportError, LevelTokens, MANIFEST, Manifest, Scenarios, Weights};
use crate::model::{self, Description};
use crate::schedule::{Limits, open_catalog};

use report::{Part, Report};

/// Check an export before it ships
///
/// Configuration, every tensor by name, shape and finiteness, token ids, manifest and catalogue; where the export has
/// golden/cases.jsonl, its cases are run and compared with what the training framework answered; where it has
/// golden/activations.safetensors too, the first operation that computes something else is named, with its cause if it is one
/// of the usual mistakes. Reports everything it finds; exits with 1 if anything is bad.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Export directory
    pub export: PathBuf,
    /// Catalogue to check instead of the export's own
    #[arg(long, value_name = "FILE")]
    pub catalog: Option<PathBuf>,
    /// Largest |delta| of a golden score [default: 1e-4 in f32, 0.15 in bf16]
    #[arg(long, value_name = "DELTA")]
    pub tolerance: Option<f32>,
    /// Leave the golden cases out
    #[arg(long)]
    pub skip_goldens: bool,
    /// List every tensor and every golden case
    #[arg(long, short)]
    pub verbose: bool,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
    /// What computes the golden cases.
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// Runs the command.
pub fn run(args: &CheckArgs) -> Result<(), Failure> {
    if args.tolerance.is_some_and(|tolerance| tolerance.is_nan() || tolerance < 0.0) {
        return Err(Failure::usage("--tolerance must be a number, at least 0"));
    }
    let mut report = Report::default();
    match Export::open(&args.export) {
        Ok(export) => check_export(&Arc::new(export), args, &mut report),
        // Not a fault of an export: there is none.
        Err(error @ (ExportError::NoSuchDirectory { .. } | ExportError::NotADirectory { .. })) => {
            return Err(error.into());
        }
        Err(error) => check_parts(&error, args, &mut report),
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        report.print_json(&args.export, &mut out)?;
    } else {
        report.print(&args.export, args.verbose, Style::stdout(), &mut out)?;
    }
    if report.bad_count() == 0 { Ok(()) } else { Err(Failure::already_said()) }
}

/// An export whose parts are each readable.
fn check_export(export: &Arc<Export>, args: &CheckArgs, report: &mut Report) {
    let described = model::family(export.checkpoint()).and_then(|family| family.description(export));
    let description = match described {
        Ok(description) => {
            report.good(Part::Config, summary(export, &description));
            Some(description)
        }
        Err(error) => {
            report.bad(Part::Config, error);
            None
        }
    };
    weights::check(export.weights(), description.as_ref(), report);
    check_manifest(export.manifest(), report);
    if let Some(description) = &description {
        check_tokens(export.manifest(), description, report);
    }
    check_tokenizer(export, description.as_ref(), report);
    let catalog = check_catalog(export, args, report);
    scenarios::check(export, args, catalog.as_ref(), report);
    if args.skip_goldens {
        report.note(Part::Goldens, "left out, as asked");
    } else {
        let cases = goldens::check(export, args, report);
        if let Some(cases) = cases {
            inspect::check(export, &cases, args, report);
        }
    }
}

/// An export of which some part is unreadable: looks at each by itself.
fn check_parts(error: &ExportError, args: &CheckArgs, report: &mut Report) {
    let mut told = false;
    let mut tell = |report: &mut Report, part, fault: ExportError| {
        told |= fault.to_string() == error.to_string();
        report.bad(part, fault);
    };
    match ConfigReader::open(&args.export.join(CONFIG)) {
        Ok(config) => match config.model_type() {
            Ok(model_type) => report.good(Part::Config, format!("readable, model_type {model_type}")),
            Err(fault) => tell(report, Part::Config, fault),
        },
        Err(fault) => tell(report, Part::Config, fault),
    }
    match Weights::open(&args.export) {
        Ok(weights) => weights::check(&weights, None, report),
        Err(fault) => tell(report, Part::Weights, fault),
    }
    match Manifest::open(&args.export.join(MANIFEST)) {
        Ok(manifest) => check_manifest(&manifest, report),
        Err(fault) => tell(report, Part::Manifest, fault),
    }
    if let Err(fault) = Scenarios::open(&args.export) {
        report.bad(Part::Scenarios, fault);
    }
    if !told {
        report.bad(Part::Config, error);
    }
    report.note(Part::Catalogue, "not looked at: correct the above first");
}

fn summary(export: &Export, description: &Description) -> String {
    let kind = if description.encoder_decoder { "encoder-decoder" } else { "decoder-only" };
    format!(
        "{} ({kind}), hidden {}, {} KV layers of {} heads of {}, vocabulary {}",
        export.model_type(),
        description.hidden,
        description.kv_layers,
        description.kv_heads,
        description.head_dim,
        units::show_count(description.vocabulary as u64)
    )
}

fn check_manifest(manifest: &Manifest, report: &mut Report) {
    let codes: Vec<String> = manifest.levels().iter().map(|level| level.codes().to_string()).collect();
    let prompt = if manifest.prompt().is_some() { "" } else { ", no prompt template (tokens only)" };
    report.good(
        Part::Manifest,
        format!("{}: levels of {} codes, {}{prompt}", manifest.label(), codes.join(", "), manifest.score()),
    );
}

/// Every group of token ids against the vocabulary, so that all groups at fault are named.
fn check_tokens(manifest: &Manifest, description: &Description, report: &mut Report) {
    let vocabulary = description.vocabulary;
    let mut groups: Vec<(String, Vec<u32>)> = Vec::new();
    for (number, level) in manifest.levels().iter().enumerate() {
        let form = match level.tokens() {
            LevelTokens::First(_) => "first",
            LevelTokens::List(_) => "list",
        };
        groups.push((format!("sid.levels[{number}].tokens.{form}"), level.token_list()));
    }
    if let Some(prompt) = manifest.prompt() {
        groups.push(("prompt.prefix".into(), prompt.prefix().to_vec()));
        groups.push(("prompt.item.prefix".into(), prompt.item_prefix().to_vec()));
        groups.push(("prompt.item.suffix".into(), prompt.item_suffix().to_vec()));
        groups.push(("prompt.suffix".into(), prompt.suffix().to_vec()));
    }
    groups.push(("end.tokens".into(), manifest.end().map_or_else(Vec::new, |end| end.tokens.clone())));
    groups.push(("decoder_prefix".into(), manifest.decoder_prefix().unwrap_or_default().to_vec()));
    let total: usize = groups.iter().map(|(_, tokens)| tokens.len()).sum();
    for (key, tokens) in &groups {
        let outside = tokens.iter().filter(|token| **token as usize >= vocabulary);
        if let Some(first) = outside.clone().next() {
            report.bad(
                Part::Tokens,
                format!(
                    "{}: `{key}` names {} outside the vocabulary of {vocabulary}, the first is {first}",
                    manifest.path().display(),
                    units::plural(outside.count(), "token")
                ),
            );
        }
    }
    let (prefix, longest) = (manifest.decoder_prompt_len(), Limits::default().max_decoder_prefix);
    if prefix > longest {
        report.bad(
            Part::Tokens,
            format!(
                "{}: `decoder_prefix` and `instructions` are {prefix} tokens; at most {longest} are served",
                manifest.path().display()
            ),
        );
    }
    if report.is_bad(Part::Tokens) {
        return;
    }
    match manifest.validate_against(vocabulary, description.encoder_decoder) {
        Ok(()) => report.good(Part::Tokens, format!("{} within the vocabulary", units::plural(total, "token id"))),
        Err(fault) => report.bad(Part::Tokens, fault),
    }
}

/// The tokenizer, where there is one: without it an export serves everything but text.
fn check_tokenizer(export: &Export, description: Option<&Description>, report: &mut Report) {
    let checked = export.tokenizer().and_then(|tokenizer| {
        if let (Some(tokenizer), Some(description)) = (&tokenizer, description) {
            tokenizer.validate_against(description.vocabulary)?;
        }
        Ok(tokenizer)
    });
    match checked {
        Ok(None) => {}
        Ok(Some(tokenizer)) => {
            report.good(Part::Tokenizer, format!("{}, all in the model", units::plural(tokenizer.tokens(), "token")));
        }
        Err(fault) => report.bad(Part::Tokenizer, fault),
    }
}

fn check_catalog(export: &Export, args: &CheckArgs, report: &mut Report) -> Option<Catalog> {
    let waiting = style::spinner("catalogue");
    let opened = open_catalog(export, args.catalog.as_deref());
    waiting.finish_and_clear();
    let catalog = match opened {
        Ok(catalog) => catalog,
        Err(fault) => {
            report.bad(Part::Catalogue, fault);
            return None;
        }
    };
    if let Err(fault) = catalog.verify() {
        report.bad(Part::Catalogue, fault);
    } else {
        let text = match (catalog.has_keys(), catalog.has_titles()) {
            (true, true) => ", keys and titles",
            (true, false) => ", keys",
            (false, true) => ", titles",
            (false, false) => "",
        };
        report.good(
            Part::Catalogue,
            format!(
                "{}: {}, {}{text}, codes within the levels",
                catalog.version(),
                units::plural(catalog.items(), "item"),
                units::plural(catalog.leaves(), "semantic ID")
            ),
        );
    }
    Some(catalog)
}
