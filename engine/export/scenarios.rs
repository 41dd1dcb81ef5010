//! `scenarios.json`: named bundles of what a request may leave open, so that callers send a number and operators decide what it
//! means. docs/export-format.md has the keys, `docs/scenarios.schema.json` the same in JSON Schema.
//!
//! [`Scenarios`] agree with themselves; whether what is served has what they name is [`Scenarios::validate_against`]. Who reads the
//! file again while it serves is `schedule`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::ExportError;
use super::json::{self, Node};
use super::manifest_parse::name;

/// File name of the scenarios.
pub const SCENARIOS: &str = "scenarios.json";

/// Longest file. It is read again while requests are served, and parsed it takes several times its length.
const MAX_BYTES: u64 = 4 << 20;
/// Most scenarios of a file.
const MAX_SCENARIOS: usize = 4096;
/// Longest deadline in milliseconds: a day, beyond every limit that makes sense.
const MAX_DEADLINE_MS: f64 = 86_400_000.0;
/// Shortest deadline in milliseconds: what the wire's unit, a microsecond, can say.
const MIN_DEADLINE_MS: f64 = 0.001;
/// Scenarios that a refusal lists.
const LISTED: usize = 16;

const KEYS: [&str; 8] = ["id", "name", "view", "beams", "top", "max_items_per_sid", "deadline_ms", "instructions"];

/// What happens to a request that lacks what an instruction of the decoder is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InstructionRule {
    /// It is refused.
    Required,
    /// The instruction's default vector is used, and the reply says so.
    Default,
}

impl InstructionRule {
    /// The name that files use.
    pub fn name(self) -> &'static str {
        match self {
            InstructionRule::Required => "required",
            InstructionRule::Default => "default",
        }
    }
}

/// One bundle: what a request that names it gets where it says nothing itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// What requests name it by.
    pub id: u32,
    /// What people call it.
    pub name: Option<String>,
    /// Candidate pool.
    pub view: Option<String>,
    /// Beam width, at least 1.
    pub beams: Option<u32>,
    /// Semantic IDs to return, at least 1 and at most `beams` where both are given.
    pub top: Option<u32>,
    /// At most this many items of each semantic ID, at least 1.
    pub max_items_per_sid: Option<u32>,
    /// Time that a request has from its arrival.
    pub deadline: Option<Duration>,
    /// By the name of an instruction of the decoder: what its absence means. An instruction that is not named here uses its default.
    pub instructions: BTreeMap<String, InstructionRule>,
}

impl std::fmt::Display for Scenario {
    /// `3 ("home")`, or the id alone.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} ({name:?})", self.id),
            None => write!(f, "{}", self.id),
        }
    }
}

/// What scenarios must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScenarioBounds {
    /// Names of the catalogue's views.
    pub views: Vec<String>,
    /// Names of the decoder's instructions.
    pub instructions: Vec<String>,
    /// Widest beam served.
    pub max_beams: usize,
    /// Longest deadline served.
    pub max_deadline: Duration,
}

/// All scenarios of an export, in the order of the file.
#[derive(Clone, Debug)]
pub struct Scenarios {
    path: PathBuf,
    list: Vec<Arc<Scenario>>,
    by_id: HashMap<u32, usize>,
}

impl Scenarios {
    /// Reads the file beside the manifest in `dir`; `None` if there is no such file.
    ///
    /// # Errors
    /// The file cannot be read, is too long, or is not what docs/export-format.md says.
    pub fn open(dir: &Path) -> Result<Option<Scenarios>, ExportError> {
        let path = dir.join(SCENARIOS);
        match json::read_text(&path, MAX_BYTES, "") {
            Ok(text) => Scenarios::parse(&path, &text).map(Some),
            Err(ExportError::MissingFile { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Parses `text`; `path` is named in errors.
    ///
    /// # Errors
    /// Not JSON, an unknown key, a value of the wrong type or out of range, an id twice, `top` above `beams`.
    pub fn parse(path: &Path, text: &str) -> Result<Scenarios, ExportError> {
        let value = json::parse(path, text)?;
        let root = Node::root(path, &value);
        root.object(&["scenarios"])?;
        let expected = format!("a list of at most {MAX_SCENARIOS} scenarios");
        let node = root.require("scenarios", &expected)?;
        let elements = node.elements(&expected)?;
        if elements.len() > MAX_SCENARIOS {
            return Err(node.wrong(expected));
        }
        let (mut list, mut by_id) = (Vec::with_capacity(elements.len()), HashMap::with_capacity(elements.len()));
        for (at, element) in elements.iter().enumerate() {
            let scenario = scenario(element)?;
            if let Some(first) = by_id.insert(scenario.id, at) {
                let id = element.require("id", "the scenario's id")?;
                return Err(id.contradiction(format!("{} is the id of scenarios[{first}] already", scenario.id)));
            }
            list.push(Arc::new(scenario));
        }
        Ok(Scenarios { path: path.to_owned(), list, by_id })
    }

    /// The scenario of that id.
    pub fn get(&self, id: u32) -> Option<&Arc<Scenario>> {
        self.by_id.get(&id).map(|at| &self.list[*at])
    }

    /// All of them, in the order of the file.
    pub fn list(&self) -> &[Arc<Scenario>] {
        &self.list
    }

    /// Whether what is served has what the scenarios name.
    ///
    /// # Errors
    /// A view or an instruction that there is not, a beam width or a deadline above the limits: with the scenario's place in the file.
    pub fn validate_against(&self, bounds: &ScenarioBounds) -> Result<(), ExportError> {
        self.list.iter().enumerate().try_for_each(|(at, scenario)| self.validate(at, scenario, bounds))
    }

    fn validate(&self, at: usize, scenario: &Scenario, bounds: &ScenarioBounds) -> Result<(), ExportError> {
        let wrong = |key: &str, detail: String| {
            let key = format!("scenarios[{at}].{key}");
            Err(ExportError::Contradiction { path: self.path.clone(), key, detail })
        };
        let (most, longest) = (bounds.max_beams, bounds.max_deadline);
        if let Some(view) = scenario.view.as_ref().filter(|view| !bounds.views.contains(view)) {
            let there = if bounds.views.is_empty() { "no views".to_owned() } else { bounds.views.join(", ") };
            return wrong("view", format!("view {view:?}: this export has {there}"));
        }
        if let Some(beams) = scenario.beams.filter(|beams| *beams as usize > most) {
            return wrong("beams", format!("is {beams}; the limit (max_beams) is {most}"));
        }
        if let Some(top) = scenario.top.filter(|top| *top as usize > most) {
            return wrong("top", format!("is {top}; the limit (max_beams) is {most}"));
        }
        if let Some(deadline) = scenario.deadline.filter(|deadline| *deadline > longest) {
            let (asked, most) = (deadline.as_secs_f64() * 1e3, longest.as_secs_f64() * 1e3);
            return wrong("deadline_ms", format!("is {asked}; the limit (max_deadline) is {most} ms"));
        }
        let known = || bounds.instructions.iter().map(String::as_str);
        match scenario.instructions.keys().find(|name| !known().any(|known| known == name.as_str())) {
            None => Ok(()),
            Some(name) => {
                let advice = match json::nearest(name, known()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if bounds.instructions.is_empty() => "this export has no instructions".to_owned(),
                    None => format!("this export has {}", json::list_of(&known().collect::<Vec<_>>())),
                };
                let key = format!("scenarios[{at}].instructions.{name}");
                Err(ExportError::UnknownKey { path: self.path.clone(), key, advice })
            }
        }
    }
}

impl std::fmt::Display for Scenarios {
    /// What there is, for a refusal: `1 ("home"), 2`, and how many more.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.list.is_empty() {
            return f.write_str("no scenarios");
        }
        for (at, scenario) in self.list.iter().take(LISTED).enumerate() {
            write!(f, "{}{scenario}", if at == 0 { "" } else { ", " })?;
        }
        match self.list.len().saturating_sub(LISTED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

fn scenario(node: &Node<'_>) -> Result<Scenario, ExportError> {
    node.object(&KEYS)?;
    let most = u64::from(u32::MAX);
    let count = |key: &str, what: &str| -> Result<Option<u32>, ExportError> {
        // Within u32 by its bounds.
        node.get(key).map(|value| value.whole(1, most, what).map(|number| number as u32)).transpose()
    };
    let id = node.require("id", &format!("the scenario's id, a whole number from 0 to {most}"))?;
    let (beams, top) = (count("beams", "a beam width")?, count("top", "how many semantic IDs to return")?);
    if let (Some(beams), Some(top), Some(at)) = (beams, top, node.get("top"))
        && top > beams
    {
        return Err(at.contradiction(format!("is {top}; it must be at most beams ({beams})")));
    }
    Ok(Scenario {
        id: id.whole(0, most, "the scenario's id")? as u32,
        name: node.get("name").map(|value| name(&value)).transpose()?,
        view: node.get("view").map(|value| name(&value)).transpose()?,
        beams,
        top,
        max_items_per_sid: count("max_items_per_sid", "how many items of a semantic ID to return")?,
        deadline: node.get("deadline_ms").map(|value| deadline(&value)).transpose()?,
        instructions: node.get("instructions").map_or(Ok(BTreeMap::new()), |value| instructions(&value))?,
    })
}

fn deadline(node: &Node<'_>) -> Result<Duration, ExportError> {
    match node.value.as_f64() {
        Some(ms) if (MIN_DEADLINE_MS..=MAX_DEADLINE_MS).contains(&ms) => Ok(Duration::from_secs_f64(ms / 1e3)),
        _ => Err(node.wrong(format!("milliseconds, a number from {MIN_DEADLINE_MS} to {MAX_DEADLINE_MS}"))),
    }
}

fn instructions(node: &Node<'_>) -> Result<BTreeMap<String, InstructionRule>, ExportError> {
    let rules = [InstructionRule::Required, InstructionRule::Default];
    let Some(map) = node.value.as_object() else {
        return Err(node.wrong("an object: by the name of an instruction, `required` or `default`"));
    };
    let rule = |key: &String| {
        let value = node.require(key, "`required` or `default`")?;
        let rule = rules.into_iter().find(|rule| value.value.as_str() == Some(rule.name()));
        Ok((key.clone(), rule.ok_or_else(|| value.wrong("`required` or `default`"))?))
    };
    map.keys().map(rule).collect()
}

#[cfg(test)]
mod tests;
