//! From JSON to [`Manifest`]: every key is known, every value has its type and range, and values agree with each other.
//!
//! `docs/sidereal.schema.json` says the same in JSON Schema, but for what a schema cannot say (those are
//! `Contradiction`s); a test mutates manifests and holds the two against each other.

use std::collections::HashSet;
use std::path::Path;

use super::json::{self, Node};
use super::manifest::{CODES, End, LEVELS, Level, LevelTokens, Manifest, ScoreMode};
use super::weights::is_inside;
use super::{ExportError, PromptTemplate, instructions};

const ROOT: [&str; 12] = [
    "sidereal",
    "name",
    "version",
    "sid",
    "prompt",
    "decoder_prefix",
    "instructions",
    "end",
    "score",
    "heads",
    "length_penalty",
    "catalog",
];
/// Longest name of a tensor.
const MAX_TENSOR_CHARS: usize = 1024;
/// Longest name or version: both travel in every reply.
const MAX_NAME_CHARS: usize = 128;
/// Beyond this, length ^ penalty only loses digits: 16 tokens to the 16th are 2^64.
const MAX_LENGTH_PENALTY: f64 = 16.0;

/// Most end tokens: each scored one is a step of every search, with memory of its own.
const MAX_END_TOKENS: usize = 64;
/// Longest `max_items`.
const MAX_ITEMS: u64 = 1 << 20;

impl Manifest {
    /// Parses `text`; `path` is named in errors.
    pub fn parse(path: &Path, text: &str) -> Result<Manifest, ExportError> {
        let value = json::parse(path, text)?;
        let root = Node::root(path, &value);
        // The version comes first: another version's unknown keys are not mistakes.
        if !value.is_object() {
            return Err(root.wrong("an object"));
        }
        let format = root.require("sidereal", "the format's version, 1")?;
        if format.value.as_u64() != Some(1) {
            return Err(format.wrong("the format's version, 1"));
        }
        root.object(&ROOT)?;
        let score_node = root.require("score", &score_expected())?;
        let score = score(&score_node)?;
        let levels = levels(&root.require("sid", "an object with `levels`")?)?;
        let instructions = root.get("instructions");
        if let Some(node) = instructions.as_ref().filter(|_| root.get("decoder_prefix").is_none()) {
            return Err(node.contradiction("instructions follow `decoder_prefix`, which is not there"));
        }
        Ok(Manifest {
            path: path.to_owned(),
            name: name(&root.require("name", "the model's name")?)?,
            version: name(&root.require("version", "the model's version, a string")?)?,
            heads: heads(root.get("heads").as_ref(), (&score_node, score), levels.len())?,
            levels,
            prompt: root.get("prompt").map(|node| prompt(&node)).transpose()?,
            decoder_prefix: root.get("decoder_prefix").map(|node| some_tokens(&node)).transpose()?,
            instructions: instructions.map_or(Ok(Vec::new()), |node| instructions::parse(&node))?,
            end: root.get("end").map(|node| end(&node, score)).transpose()?,
            score,
            length_penalty: root.get("length_penalty").map_or(Ok(0.0), |node| length_penalty(&node))?,
            catalog: root.get("catalog").map(|node| catalog(&node)).transpose()?,
        })
    }
}

/// A name as messages and replies carry it.
pub(super) fn name(node: &Node<'_>) -> Result<String, ExportError> {
    let expected = format!("a string of 1 to {MAX_NAME_CHARS} characters without control characters");
    let text = node.text(&expected)?;
    if !(1..=MAX_NAME_CHARS).contains(&text.chars().count()) || text.chars().any(char::is_control) {
        return Err(node.wrong(expected));
    }
    Ok(text.to_owned())
}

fn levels(sid: &Node<'_>) -> Result<Vec<Level>, ExportError> {
    sid.object(&["levels"])?;
    let expected = format!("a list of {} to {} levels", LEVELS.start(), LEVELS.end());
    let list = sid.require("levels", &expected)?;
    let elements = list.elements(&expected)?;
    if !LEVELS.contains(&elements.len()) {
        return Err(list.wrong(expected));
    }
    elements.iter().map(level).collect()
}

fn level(node: &Node<'_>) -> Result<Level, ExportError> {
    node.object(&["codes", "tokens"])?;
    let (low, high) = (*CODES.start() as u64, *CODES.end() as u64);
    let codes = node.require("codes", "the number of codes")?.whole(low, high, "the number of codes")? as usize;
    let expected = "an object with either `first` or `list`";
    let tokens = node.require("tokens", expected)?;
    tokens.object(&["first", "list"])?;
    let tokens = match (tokens.get("first"), tokens.get("list")) {
        (Some(node), None) => {
            let first = node.whole(0, u64::from(u32::MAX), "a token id")?;
            if first + codes as u64 - 1 > u64::from(u32::MAX) {
                return Err(
                    node.contradiction(format!("{first} + {codes} codes goes beyond the last token id {}", u32::MAX))
                );
            }
            LevelTokens::First(first as u32)
        }
        (None, Some(node)) => LevelTokens::List(token_list(&node, codes)?),
        _ => return Err(tokens.wrong(expected)),
    };
    Ok(Level { codes, tokens })
}

/// One token a code. The same token at two levels is legal (some models share a codebook), twice at one level is not:
/// it could not be told which code was meant.
fn token_list(node: &Node<'_>, codes: usize) -> Result<Vec<u32>, ExportError> {
    let list = node.tokens()?;
    if list.len() != codes {
        return Err(node.contradiction(format!("lists {} tokens, but the level has {codes} codes", list.len())));
    }
    let mut seen = HashSet::with_capacity(list.len());
    if let Some(second) = list.iter().position(|token| !seen.insert(*token)) {
        let first = list.iter().position(|token| *token == list[second]).unwrap_or(0);
        return Err(node.contradiction(format!("token {} stands for code {first} and code {second}", list[second])));
    }
    Ok(list)
}

fn prompt(node: &Node<'_>) -> Result<PromptTemplate, ExportError> {
    node.object(&["prefix", "item", "suffix", "max_items"])?;
    let optional = |node: Option<Node<'_>>| node.map_or(Ok(Vec::new()), |node| node.tokens());
    let item = node.get("item");
    let (item_prefix, item_suffix) = match &item {
        None => (Vec::new(), Vec::new()),
        Some(item) => {
            item.object(&["prefix", "suffix"])?;
            (optional(item.get("prefix"))?, optional(item.get("suffix"))?)
        }
    };
    let max_items =
        node.get("max_items").map(|node| node.whole(1, MAX_ITEMS, "the most items in a prompt")).transpose()?;
    Ok(PromptTemplate {
        prefix: optional(node.get("prefix"))?,
        item_prefix,
        item_suffix,
        suffix: optional(node.get("suffix"))?,
        max_items: max_items.map(|items| items as usize),
    })
}

fn some_tokens(node: &Node<'_>) -> Result<Vec<u32>, ExportError> {
    let tokens = node.tokens()?;
    if tokens.is_empty() {
        return Err(node.wrong("a list of at least one token id"));
    }
    Ok(tokens)
}

fn end(node: &Node<'_>, score: ScoreMode) -> Result<End, ExportError> {
    node.object(&["tokens", "scored"])?;
    let list = node.require("tokens", "a list of at least one token id")?;
    let tokens = some_tokens(&list)?;
    if tokens.len() > MAX_END_TOKENS {
        return Err(list.wrong(format!("a list of 1 to {MAX_END_TOKENS} token ids")));
    }
    let scored = match node.get("scored") {
        None => false,
        Some(scored) => {
            let value = scored.value.as_bool().ok_or_else(|| scored.wrong("true or false"))?;
            if value && score != ScoreMode::FullThenMask {
                return Err(scored.contradiction(format!(
                    "end tokens can be scored only under `full_then_mask`, the manifest says `score`: \"{score}\""
                )));
            }
            value
        }
    };
    Ok(End { tokens, scored })
}

/// One tensor a level, exactly where levels have heads of their own.
fn heads(
    node: Option<&Node<'_>>,
    (score_node, score): (&Node<'_>, ScoreMode),
    levels: usize,
) -> Result<Vec<String>, ExportError> {
    let Some(node) = node else {
        return match score {
            ScoreMode::LevelHead => Err(score_node.contradiction(format!(
                "\"{score}\" needs `heads`: the names of {levels} tensors [codes, hidden], one a level"
            ))),
            _ => Ok(Vec::new()),
        };
    };
    let expected = format!("a list of {} to {} names of tensors", LEVELS.start(), LEVELS.end());
    let elements = node.elements(&expected)?;
    if !LEVELS.contains(&elements.len()) {
        return Err(node.wrong(expected));
    }
    let name = |element: &Node<'_>| {
        let expected = format!("the name of a tensor, 1 to {MAX_TENSOR_CHARS} characters");
        let text = element.text(&expected)?;
        match (1..=MAX_TENSOR_CHARS).contains(&text.chars().count()) {
            true => Ok(text.to_owned()),
            false => Err(element.wrong(expected)),
        }
    };
    let names = elements.iter().map(name).collect::<Result<Vec<_>, _>>()?;
    if score != ScoreMode::LevelHead {
        return Err(node.contradiction(format!("only `level_head` has heads, the manifest says `score`: \"{score}\"")));
    }
    if names.len() != levels {
        return Err(node.contradiction(format!("names {} heads, but there are {levels} levels", names.len())));
    }
    Ok(names)
}

fn score_expected() -> String {
    let names: Vec<String> = ScoreMode::ALL.iter().map(|mode| format!("{:?}", mode.name())).collect();
    format!("one of {}", names.join(", "))
}

fn score(node: &Node<'_>) -> Result<ScoreMode, ExportError> {
    let text = node.text(&score_expected())?;
    ScoreMode::from_name(text).ok_or_else(|| match json::nearest(text, ScoreMode::ALL.iter().map(|mode| mode.name())) {
        Some(near) => node.wrong(format!("{} (did you mean \"{near}\"?)", score_expected())),
        None => node.wrong(score_expected()),
    })
}

fn length_penalty(node: &Node<'_>) -> Result<f32, ExportError> {
    match node.value.as_f64() {
        // `abs` turns -0.0 into 0.0.
        Some(number) if (0.0..=MAX_LENGTH_PENALTY).contains(&number) => Ok(number.abs() as f32),
        _ => Err(node.wrong(format!("a number from 0 to {MAX_LENGTH_PENALTY}; 0 means the plain sum"))),
    }
}

fn catalog(node: &Node<'_>) -> Result<String, ExportError> {
    let expected = "the name of a file inside the export, e.g. \"catalog.sid\"";
    match node.text(expected)? {
        "" => Err(node.wrong(expected)),
        file if !is_inside(file) => Err(node.contradiction(format!("{file:?} is not a plain path inside the export"))),
        file => Ok(file.to_owned()),
    }
}
