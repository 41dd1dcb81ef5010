//! The manifest's `instructions`: what stands in the decoder's prompt to the right of its prefix, and where each comes from.

use std::collections::HashSet;

use super::ExportError;
use super::json::Node;
use super::manifest_parse::name;

/// Most instructions of a decoder prompt.
pub const MAX_INSTRUCTIONS: usize = 8;
/// Most ids of a table.
const MAX_IDS: usize = 1 << 20;
/// Longest vector.
const MAX_SIZE: u64 = 1 << 16;

/// One instruction: a vector of the decoder's width.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What requests and replies call it; its tensors are `instructions.NAME.*`.
    pub name: String,
    /// Where it comes from.
    pub source: InstructionSource,
}

/// Where an instruction comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstructionSource {
    /// The request's scenario, and its trigger item where there is one.
    Scenario {
        /// The scenario of each row of the table.
        ids: Vec<u32>,
        /// Whether a trigger item is fused into it.
        trigger: bool,
    },
    /// A vector written near-line for a user.
    Store {
        /// Elements.
        size: usize,
    },
    /// A vector in the request.
    Vector {
        /// Elements.
        size: usize,
    },
    /// An id in the request.
    Id {
        /// The id of each row of the table.
        ids: Vec<u32>,
    },
}

impl Instruction {
    /// The name of one of its tensors.
    pub fn tensor(&self, part: &str) -> String {
        format!("instructions.{}.{part}", self.name)
    }
}

const SOURCES: &str = "one of \"scenario\", \"store\", \"request\", \"behaviour\"";

/// Reads the list.
pub(super) fn parse(node: &Node<'_>) -> Result<Vec<Instruction>, ExportError> {
    let expected = format!("a list of 1 to {MAX_INSTRUCTIONS} instructions");
    let elements = node.elements(&expected)?;
    if !(1..=MAX_INSTRUCTIONS).contains(&elements.len()) {
        return Err(node.wrong(expected));
    }
    let list = elements.iter().map(instruction).collect::<Result<Vec<_>, _>>()?;
    let mut seen = HashSet::new();
    if let Some(twice) = list.iter().find(|instruction| !seen.insert(instruction.name.as_str())) {
        return Err(node.contradiction(format!("two instructions are called {:?}", twice.name)));
    }
    let scenarios = |instruction: &&Instruction| matches!(instruction.source, InstructionSource::Scenario { .. });
    if list.iter().filter(scenarios).count() > 1 {
        return Err(node.contradiction("two instructions have the source \"scenario\""));
    }
    Ok(list)
}

fn instruction(node: &Node<'_>) -> Result<Instruction, ExportError> {
    node.object(&["name", "source", "size", "ids", "trigger"])?;
    let name = name(&node.require("name", "the instruction's name")?)?;
    let source = node.require("source", SOURCES)?;
    let trigger = match node.get("trigger") {
        None => None,
        Some(flag) => Some((flag.value.as_bool().ok_or_else(|| flag.wrong("true or false"))?, flag)),
    };
    let size = node.get("size").map(|node| node.whole(1, MAX_SIZE, "the number of elements")).transpose()?;
    let ids = node.get("ids").map(|node| ids(&node)).transpose()?;
    let given = |what: &str| node.contradiction(format!("the source {} {what}", source.value));
    let parsed = match (source.text(SOURCES)?, size.map(|size| size as usize), ids) {
        ("scenario", None, Some(ids)) => {
            InstructionSource::Scenario { ids, trigger: trigger.as_ref().is_some_and(|(flag, _)| *flag) }
        }
        ("behaviour", None, Some(ids)) | ("request", None, Some(ids)) => InstructionSource::Id { ids },
        ("scenario" | "behaviour", ..) => return Err(given("needs `ids` and no `size`")),
        ("store", Some(size), None) => InstructionSource::Store { size },
        ("store", ..) => return Err(given("needs `size` and no `ids`")),
        ("request", Some(size), None) => InstructionSource::Vector { size },
        ("request", ..) => return Err(given("needs either `size` or `ids`")),
        _ => return Err(source.wrong(SOURCES)),
    };
    match (&parsed, trigger) {
        (InstructionSource::Scenario { .. }, _) | (_, None) => {}
        (_, Some((_, flag))) => return Err(flag.contradiction("only the source \"scenario\" has a trigger")),
    }
    Ok(Instruction { name, source: parsed })
}

fn ids(node: &Node<'_>) -> Result<Vec<u32>, ExportError> {
    let expected = format!("a list of 1 to {MAX_IDS} ids");
    let elements = node.elements(&expected)?;
    if !(1..=MAX_IDS).contains(&elements.len()) {
        return Err(node.wrong(expected));
    }
    let mut seen = HashSet::with_capacity(elements.len());
    elements
        .iter()
        .map(|element| {
            let id = element.whole(0, u64::from(u32::MAX), "an id")? as u32;
            match seen.insert(id) {
                true => Ok(id),
                false => Err(element.contradiction(format!("the id {id} stands here twice"))),
            }
        })
        .collect()
}
