//! `sidereal.json`: what Hugging Face's files do not say. Which tokens spell a semantic ID, how a history becomes a
//! prompt, how scores are computed.
//!
//! A [`Manifest`] exists only if it agrees with itself; whether it agrees with the model is [`Manifest::validate_against`].
//! Parsing is in `manifest_parse.rs`, the format in docs/export-format.md.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::json;
use super::{ExportError, Instruction, PromptTemplate};

/// File name of the manifest.
pub const MANIFEST: &str = "sidereal.json";
/// How many levels a semantic ID may have.
pub const LEVELS: RangeInclusive<usize> = 2..=8;
/// How many codes a level may have.
pub const CODES: RangeInclusive<usize> = 1..=65_536;

/// How a level's log-probability is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScoreMode {
    /// Log-softmax over the whole vocabulary; illegal children are dropped without renormalising.
    FullThenMask,
    /// Softmax over the legal children.
    MaskThenNorm,
    /// Softmax over the level's codebook.
    LevelNorm,
    /// One head a level: softmax over its rows, the level's codebook.
    LevelHead,
}

impl ScoreMode {
    /// Every mode.
    pub const ALL: [ScoreMode; 4] =
        [ScoreMode::FullThenMask, ScoreMode::MaskThenNorm, ScoreMode::LevelNorm, ScoreMode::LevelHead];

    /// The name that files use.
    pub fn name(self) -> &'static str {
        match self {
            ScoreMode::FullThenMask => "full_then_mask",
            ScoreMode::MaskThenNorm => "mask_then_norm",
            ScoreMode::LevelNorm => "level_norm",
            ScoreMode::LevelHead => "level_head",
        }
    }

    /// The mode of that name.
    pub fn from_name(name: &str) -> Option<ScoreMode> {
        ScoreMode::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

impl std::fmt::Display for ScoreMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Which token spells each code of a level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LevelTokens {
    /// Token = first + code.
    First(u32),
    /// One token a code; as long as the level has codes, no token twice.
    List(Vec<u32>),
}

/// One level of a semantic ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    pub(super) codes: usize,
    pub(super) tokens: LevelTokens,
}

impl Level {
    /// Size of the codebook, 1 to 65,536.
    pub fn codes(&self) -> usize {
        self.codes
    }

    /// How codes map to tokens.
    pub fn tokens(&self) -> &LevelTokens {
        &self.tokens
    }

    /// The token of `code`, or `None` beyond the codebook.
    pub fn token(&self, code: u16) -> Option<u32> {
        let index = usize::from(code);
        match &self.tokens {
            // The parser has checked that first + codes - 1 fits.
            LevelTokens::First(first) => (index < self.codes).then(|| first + u32::from(code)),
            LevelTokens::List(list) => list.get(index).copied(),
        }
    }

    /// The token of every code: `[codes]`.
    pub fn token_list(&self) -> Vec<u32> {
        match &self.tokens {
            LevelTokens::First(first) => (*first..=u32::MAX).take(self.codes).collect(),
            LevelTokens::List(list) => list.clone(),
        }
    }
}

/// Tokens that follow the last level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// At least one.
    pub tokens: Vec<u32>,
    /// Whether their log-probabilities count, and they count in the length. Only under [`ScoreMode::FullThenMask`].
    pub scored: bool,
}

/// The manifest of an export.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) levels: Vec<Level>,
    pub(super) prompt: Option<PromptTemplate>,
    pub(super) decoder_prefix: Option<Vec<u32>>,
    pub(super) instructions: Vec<Instruction>,
    pub(super) end: Option<End>,
    pub(super) score: ScoreMode,
    pub(super) heads: Vec<String>, // [levels] under level_head, else none
    pub(super) length_penalty: f32,
    pub(super) catalog: Option<String>,
}

impl Manifest {
    /// Reads `path`.
    pub fn open(path: &Path) -> Result<Manifest, ExportError> {
        let advice = "write one beside config.json; docs/export-format.md says how and has examples";
        Manifest::parse(path, &json::read_text(path, json::MAX_JSON_BYTES, advice)?)
    }

    /// The file it came from, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Name of the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Version of the model.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// `name@version`, as replies name the model.
    pub fn label(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    /// Levels of a semantic ID, 2 to 8.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// The prompt template; without one, only requests that bring tokens are served.
    pub fn prompt(&self) -> Option<&PromptTemplate> {
        self.prompt.as_ref()
    }

    /// What the decoder of an encoder-decoder begins with; `None` for a decoder-only model.
    pub fn decoder_prefix(&self) -> Option<&[u32]> {
        self.decoder_prefix.as_deref()
    }

    /// What follows the decoder's prefix, in order; empty if nothing does.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// Decoder inputs before the first generated token: its prefix and its instructions. 0 for a decoder-only model.
    pub fn decoder_prompt_len(&self) -> usize {
        self.decoder_prefix.as_ref().map_or(0, Vec::len) + self.instructions.len()
    }

    /// Trailing tokens.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Trailing tokens that count in the score; empty if there are none.
    pub fn scored_end(&self) -> &[u32] {
        self.end.as_ref().filter(|end| end.scored).map_or(&[], |end| &end.tokens)
    }

    /// How levels are scored.
    pub fn score(&self) -> ScoreMode {
        self.score
    }

    /// The tensor that is each level's head: `[levels]` under [`ScoreMode::LevelHead`], else none.
    pub fn heads(&self) -> &[String] {
        &self.heads
    }

    /// The exponent of the length that divides the sum; finite, at least 0. 0 leaves the plain sum.
    pub fn length_penalty(&self) -> f32 {
        self.length_penalty
    }

    /// What the penalty divides by: levels + scored end tokens.
    pub fn scored_length(&self) -> usize {
        self.levels.len() + self.scored_end().len()
    }

    /// The catalogue's file name, relative to the export, if the manifest names one.
    pub fn catalog(&self) -> Option<&str> {
        self.catalog.as_deref()
    }

    /// The token of every code of `level`: `[codes]`. Panics beyond the last level.
    pub fn level_tokens(&self, level: usize) -> Vec<u32> {
        self.levels[level].token_list()
    }

    /// The token of a code, or `None` beyond the levels or the codebook.
    pub fn token(&self, level: usize, code: u16) -> Option<u32> {
        self.levels.get(level)?.token(code)
    }

    /// Checks every token id against the model's vocabulary, and the decoder prefix against the kind of model.
    pub fn validate_against(&self, vocabulary: usize, encoder_decoder: bool) -> Result<(), ExportError> {
        for (number, level) in self.levels.iter().enumerate() {
            let at = format!("sid.levels[{number}].tokens");
            match &level.tokens {
                // Codes are at least 1 and the parser has checked that the sum fits.
                LevelTokens::First(first) => {
                    let last = first + (level.codes - 1) as u32;
                    self.check_token(vocabulary, last, || format!("{at}.first ({first} + {} codes)", level.codes))?;
                }
                LevelTokens::List(list) => self.check_tokens(vocabulary, list, &format!("{at}.list"))?,
            }
        }
        if let Some(prompt) = &self.prompt {
            self.check_tokens(vocabulary, prompt.prefix(), "prompt.prefix")?;
            self.check_tokens(vocabulary, prompt.item_prefix(), "prompt.item.prefix")?;
            self.check_tokens(vocabulary, prompt.item_suffix(), "prompt.item.suffix")?;
            self.check_tokens(vocabulary, prompt.suffix(), "prompt.suffix")?;
        }
        if let Some(end) = &self.end {
            self.check_tokens(vocabulary, &end.tokens, "end.tokens")?;
        }
        match (&self.decoder_prefix, encoder_decoder) {
            (Some(prefix), true) => self.check_tokens(vocabulary, prefix, "decoder_prefix"),
            (None, false) => Ok(()),
            (None, true) => Err(ExportError::MissingKey {
                path: self.path.clone(),
                key: "decoder_prefix".to_owned(),
                expected: "the tokens that the decoder of an encoder-decoder begins with, e.g. [0] for T5".to_owned(),
            }),
            (Some(_), false) => Err(ExportError::Contradiction {
                path: self.path.clone(),
                key: "decoder_prefix".to_owned(),
                detail: "the model is decoder-only; remove it, or put its tokens into `prompt.suffix`".to_owned(),
            }),
        }
    }

    /// Checks a catalogue against the levels: `highest[level]` is the highest code it uses there.
    pub fn validate_catalog(&self, highest: &[u16]) -> Result<(), ExportError> {
        self.check_sid(highest)
    }

    /// Checks one semantic ID.
    pub(super) fn check_sid(&self, sid: &[u16]) -> Result<(), ExportError> {
        let failed = |detail| Err(ExportError::SidOutOfRange { path: self.path.clone(), sid: sid.to_vec(), detail });
        if sid.len() != self.levels.len() {
            return failed(format!("it has {} levels, the export has {}", sid.len(), self.levels.len()));
        }
        match sid.iter().zip(&self.levels).position(|(&code, level)| usize::from(code) >= level.codes) {
            None => Ok(()),
            Some(at) => failed(format!("code {} of level {at} is beyond its {} codes", sid[at], self.levels[at].codes)),
        }
    }

    fn check_tokens(&self, vocabulary: usize, tokens: &[u32], key: &str) -> Result<(), ExportError> {
        tokens
            .iter()
            .enumerate()
            .try_for_each(|(i, &token)| self.check_token(vocabulary, token, || format!("{key}[{i}]")))
    }

    fn check_token(&self, vocabulary: usize, token: u32, key: impl FnOnce() -> String) -> Result<(), ExportError> {
        if (token as usize) < vocabulary {
            return Ok(());
        }
        Err(ExportError::TokenOutsideVocabulary { path: self.path.clone(), key: key(), token, vocabulary })
    }
}
