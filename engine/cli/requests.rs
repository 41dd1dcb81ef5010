//! Requests and replies as JSON lines.
//!
//! Reading is strict: an unknown key, a key given twice or a value of the wrong type is an error that names the line, the
//! key and the column, because a misspelt `deny` that is silently ignored recommends what must not be recommended.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::request::{
    Answer, Entry, History, InstructionUsed, InstructionValue, Item, ItemRef, ItemRefs, Ranked, Request, StageTimings,
};
use crate::sampling::{LogProb, Sampling, SamplingKind};

/// What a line that leaves them out gets, unless it names a scenario.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// Beam width.
    pub beams: u32,
    /// Semantic IDs to return.
    pub top: u32,
}

/// A line that is not a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// The request's id, where the line has a readable one.
    pub id: Option<u64>,
    /// Which line and key, and what is wrong.
    pub message: String,
}

/// The keys of a request, in the order that messages list them.
const KEYS: [&str; 21] = [
    "id",
    "items",
    "keys",
    "tokens",
    "text",
    "beams",
    "top",
    "max_items_per_sid",
    "deny",
    "deny_history",
    "strict",
    "with_text",
    "deadline_ms",
    "view",
    "user",
    "scenario",
    "trigger",
    "instructions",
    "sample",
    "logprobs",
    "list",
];

/// A request line as it stands there.
#[derive(Debug, Default)]
struct Line {
    id: Option<u64>,
    items: Option<Vec<u64>>,
    keys: Option<Vec<String>>,
    tokens: Option<Vec<u32>>,
    text: Option<String>,
    beams: Option<u32>,
    top: Option<u32>,
    max_items_per_sid: Option<u32>,
    deny: Option<Denied>,
    deny_history: Option<bool>,
    strict: Option<bool>,
    with_text: Option<bool>,
    deadline_ms: Option<f64>,
    view: Option<String>,
    user: Option<String>,
    scenario: Option<u32>,
    trigger: Option<Trigger>,
    instructions: Option<BTreeMap<String, Instruction>>,
    sample: Option<Sample>,
    logprobs: Option<bool>,
    list: Option<u32>,
}

/// `sample`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sample {
    kind: Kind,
    seed: u64,
    #[serde(default = "one")]
    temperature: f32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Independent,
    Distinct,
}

fn one() -> f32 {
    1.0
}

impl From<Sample> for Sampling {
    fn from(Sample { kind, seed, temperature }: Sample) -> Sampling {
        let kind = match kind {
            Kind::Independent => SamplingKind::Independent,
            Kind::Distinct => SamplingKind::Distinct,
        };
        Sampling { kind, seed, temperature }
    }
}

/// `trigger`: an id or a key.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected an item id (a number) or an item key (a string)")]
enum Trigger {
    Id(u64),
    Key(String),
}

/// A value of `instructions`.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a list of numbers or an id")]
enum Instruction {
    Id(u32),
    Vector(Vec<f32>),
}

/// `deny`: ids or keys.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a list of item ids (numbers) or of item keys (strings), not both")]
enum Denied {
    Ids(Vec<u64>),
    Keys(Vec<String>),
}

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Line, D::Error> {
        deserializer.deserialize_map(LineVisitor)
    }
}

struct LineVisitor;

impl<'de> Visitor<'de> for LineVisitor {
    type Value = Line;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a request, {\"id\": .., \"items\": [..], ..}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Line, A::Error> {
        let mut line = Line::default();
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            match &*key {
                "id" => take(&mut map, "id", &mut line.id)?,
                "items" => take(&mut map, "items", &mut line.items)?,
                "keys" => take(&mut map, "keys", &mut line.keys)?,
                "tokens" => take(&mut map, "tokens", &mut line.tokens)?,
                "text" => take(&mut map, "text", &mut line.text)?,
                "beams" => take(&mut map, "beams", &mut line.beams)?,
                "top" => take(&mut map, "top", &mut line.top)?,
                "max_items_per_sid" => take(&mut map, "max_items_per_sid", &mut line.max_items_per_sid)?,
                "deny" => take(&mut map, "deny", &mut line.deny)?,
                "deny_history" => take(&mut map, "deny_history", &mut line.deny_history)?,
                "strict" => take(&mut map, "strict", &mut line.strict)?,
                "with_text" => take(&mut map, "with_text", &mut line.with_text)?,
                "deadline_ms" => take(&mut map, "deadline_ms", &mut line.deadline_ms)?,
                "view" => take(&mut map, "view", &mut line.view)?,
                "user" => take(&mut map, "user", &mut line.user)?,
                "scenario" => take(&mut map, "scenario", &mut line.scenario)?,
                "trigger" => take(&mut map, "trigger", &mut line.trigger)?,
                "instructions" => take(&mut map, "instructions", &mut line.instructions)?,
                "sample" => take(&mut map, "sample", &mut line.sample)?,
                "logprobs" => take(&mut map, "logprobs", &mut line.logprobs)?,
                "list" => take(&mut map, "list", &mut line.list)?,
                unknown => {
                    return Err(A::Error::custom(format!("unknown key {unknown:?}; known are {}", KEYS.join(", "))));
                }
            }
        }
        Ok(line)
    }
}

/// Reads the value of `key` once. `null` counts as absent.
fn take<'de, A: MapAccess<'de>, T: Deserialize<'de>>(
    map: &mut A,
    key: &str,
    place: &mut Option<T>,
) -> Result<(), A::Error> {
    if place.is_some() {
        return Err(A::Error::custom(format!("key {key:?} is given twice")));
    }
    *place = map.next_value().map_err(|error| A::Error::custom(format!("key {key:?}: {error}")))?;
    Ok(())
}

/// Reads line number `number` (from 1).
///
/// # Errors
/// [`BadLine`] naming line, key and column.
pub fn parse(text: &str, number: usize, defaults: Defaults) -> Result<Request, BadLine> {
    let line: Line = serde_json::from_str(text).map_err(|error| {
        let place = format!(" at line {} column {}", error.line(), error.column());
        let told = error.to_string();
        let told = told.strip_suffix(&place).unwrap_or(&told);
        BadLine { id: find_id(text), message: format!("line {number}, column {}: {told}", error.column()) }
    })?;
    let id = line.id.unwrap_or(number as u64);
    build(line, id, defaults).map_err(|told| BadLine { id: Some(id), message: format!("line {number}: {told}") })
}

fn build(line: Line, id: u64, defaults: Defaults) -> Result<Request, String> {
    let history = match (line.items, line.keys, line.tokens, line.text) {
        (Some(ids), None, None, None) => History::Items(ItemRefs::Ids(ids)),
        (None, Some(keys), None, None) => History::Items(ItemRefs::Keys(keys)),
        (None, None, Some(tokens), None) => History::Tokens(tokens),
        (None, None, None, Some(text)) => History::Text(text),
        (None, None, None, None) => {
            return Err("no history; give \"items\", \"keys\", \"tokens\" or \"text\"".into());
        }
        _ => return Err("more than one of \"items\", \"keys\", \"tokens\" and \"text\"; give one".into()),
    };
    let deny = match (line.deny, &history) {
        (Some(Denied::Ids(ids)), History::Items(ItemRefs::Keys(_))) if !ids.is_empty() => {
            return Err("key \"deny\": holds ids while the history holds keys; one request speaks one kind".into());
        }
        (Some(Denied::Keys(_)), History::Items(ItemRefs::Ids(_))) => {
            return Err("key \"deny\": holds keys while the history holds ids; one request speaks one kind".into());
        }
        // An empty list reads as ids; it takes the history's kind.
        (Some(Denied::Ids(_)) | None, History::Items(ItemRefs::Keys(_))) => ItemRefs::Keys(Vec::new()),
        (Some(Denied::Ids(ids)), _) => ItemRefs::Ids(ids),
        (Some(Denied::Keys(keys)), _) => ItemRefs::Keys(keys),
        (None, _) => ItemRefs::Ids(Vec::new()),
    };
    let deadline = match line.deadline_ms {
        // A day is beyond every limit that an engine may have, and converts without a panic.
        Some(ms) if ms > 0.0 => Some(Duration::from_secs_f64((ms / 1e3).min(86_400.0))),
        Some(ms) => return Err(format!("key \"deadline_ms\": {ms} is not a time left; it must be above 0")),
        None => None,
    };
    // 0 stands for the scenario's own.
    let (beams, top) = match line.scenario {
        Some(_) => (line.beams.unwrap_or(0), line.top.unwrap_or(0)),
        None => {
            let beams = line.beams.unwrap_or(defaults.beams);
            (beams, line.top.unwrap_or(defaults.top.min(beams)))
        }
    };
    Ok(Request {
        id,
        history,
        beams,
        top,
        max_items_per_sid: line.max_items_per_sid,
        deny,
        deny_history: line.deny_history.unwrap_or(false),
        strict: line.strict.unwrap_or(false),
        with_text: line.with_text.unwrap_or(false),
        deadline,
        user: line.user,
        view: line.view,
        scenario: line.scenario,
        trigger: line.trigger.map(|trigger| match trigger {
            Trigger::Id(id) => ItemRef::Id(id),
            Trigger::Key(key) => ItemRef::Key(key),
        }),
        instructions: line.instructions.unwrap_or_default().into_iter().map(instruction).collect(),
        sampling: line.sample.map(Sampling::from),
        log_probs: line.logprobs.unwrap_or(false),
        list: line.list,
    })
}

fn instruction((name, value): (String, Instruction)) -> (String, InstructionValue) {
    match value {
        Instruction::Id(id) => (name, InstructionValue::Id(id)),
        Instruction::Vector(vector) => (name, InstructionValue::Vector(vector)),
    }
}

/// The id of a line that is wrong elsewhere, so that its error can be matched to it.
fn find_id(text: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct OnlyId {
        id: Option<u64>,
        #[serde(flatten)]
        _rest: BTreeMap<String, IgnoredAny>,
    }
    serde_json::from_str::<OnlyId>(text).ok()?.id
}

/// A reply line.
#[derive(Serialize)]
#[serde(untagged)]
enum Reply<'a> {
    Answer {
        id: u64,
        results: Vec<ResultJson<'a>>,
        unknown_items: u32,
        prompt_tokens: u32,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        instructions: Vec<InstructionJson<'a>>,
        model: &'a str,
        catalog: &'a str,
        device: &'a str,
        dtype: &'a str,
        policy: PolicyJson<'a>,
        timings: TimingsJson,
    },
    Error {
        id: Option<u64>,
        error: ErrorJson<'a>,
    },
}

/// A semantic ID, or a list of them.
#[derive(Serialize)]
struct ResultJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<&'a [u16]>,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Vec<ItemJson<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<Vec<EntryJson<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<f32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logprobs: Vec<LogProbJson>,
}

#[derive(Serialize)]
struct InstructionJson<'a> {
    name: &'a str,
    origin: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
}

impl<'a> From<&'a InstructionUsed> for InstructionJson<'a> {
    fn from(used: &'a InstructionUsed) -> InstructionJson<'a> {
        InstructionJson { name: &used.name, origin: used.origin.name(), version: used.version }
    }
}

#[derive(Serialize)]
struct EntryJson<'a> {
    sid: &'a [u16],
    items: Vec<ItemJson<'a>>,
}

#[derive(Serialize)]
struct LogProbJson {
    behaviour: f32,
    raw: f32,
}

/// A number, or an object when text was asked for.
#[derive(Serialize)]
#[serde(untagged)]
enum ItemJson<'a> {
    Id(u64),
    Text {
        id: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<&'a str>,
    },
}

#[derive(Serialize)]
struct PolicyJson<'a> {
    number: u64,
    version: &'a str,
}

#[derive(Serialize)]
struct ErrorJson<'a> {
    kind: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct TimingsJson {
    resolve_us: u32,
    queue_us: u32,
    prefill_us: u32,
    search_us: u32,
    expand_us: u32,
    total_us: u32,
}

impl From<StageTimings> for TimingsJson {
    fn from(t: StageTimings) -> TimingsJson {
        let StageTimings { resolve_us, queue_us, prefill_us, search_us, expand_us, total_us } = t;
        TimingsJson { resolve_us, queue_us, prefill_us, search_us, expand_us, total_us }
    }
}

fn item(item: &Item, with_text: bool) -> ItemJson<'_> {
    if with_text {
        ItemJson::Text { id: item.id, key: item.key.as_deref(), title: item.title.as_deref() }
    } else {
        ItemJson::Id(item.id)
    }
}

fn result<'a>(ranked: &'a Ranked, with_text: bool) -> ResultJson<'a> {
    let items_json = |items: &'a [Item]| items.iter().map(|each| item(each, with_text)).collect::<Vec<_>>();
    let log_prob = |of: &LogProb| LogProbJson { behaviour: of.behaviour, raw: of.raw };
    let logprobs = ranked.log_probs.iter().map(log_prob).collect();
    let (score, key) = (ranked.score, ranked.key);
    if ranked.list.is_empty() {
        let (sid, items) = (Some(&ranked.sid[..]), Some(items_json(&ranked.items)));
        return ResultJson { sid, score, items, list: None, key, logprobs };
    }
    let entry = |entry: &'a Entry| EntryJson { sid: &entry.sid, items: items_json(&entry.items) };
    let list = Some(ranked.list.iter().map(entry).collect());
    ResultJson { sid: None, score, items: None, list, key, logprobs }
}

/// The answer to request `id` as a line, without the newline. `with_text` as the request had it.
pub fn answer_line(id: u64, answer: &Answer, with_text: bool) -> String {
    let reply = match answer {
        Ok(good) => Reply::Answer {
            id,
            results: good.results.iter().map(|ranked| result(ranked, with_text)).collect(),
            unknown_items: good.unknown_items,
            prompt_tokens: good.prompt_tokens,
            instructions: good.instructions.iter().map(InstructionJson::from).collect(),
            model: &good.provenance.model,
            catalog: &good.provenance.catalog,
            device: &good.provenance.device,
            dtype: &good.provenance.dtype,
            policy: PolicyJson { number: good.provenance.policy.number, version: &good.provenance.policy.version },
            timings: good.timings.into(),
        },
        Err(refusal) => {
            Reply::Error { id: Some(id), error: ErrorJson { kind: refusal.kind.name(), message: &refusal.message } }
        }
    };
    to_line(&reply)
}

/// A bad line's error as a line.
pub fn bad_line(bad: &BadLine) -> String {
    to_line(&Reply::Error { id: bad.id, error: ErrorJson { kind: "BAD_REQUEST", message: &bad.message } })
}

fn to_line(reply: &Reply<'_>) -> String {
    // Numbers, strings and lists always serialise; a non-finite score becomes null.
    serde_json::to_string(reply).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: Defaults = Defaults { beams: 50, top: 10 };

    fn message(text: &str) -> String {
        parse(text, 3, DEFAULTS).unwrap_err().message
    }

    #[test]
    fn reads_every_key() {
        let text = r#"{"id":7,"items":[1,18446744073709551615],"beams":128,"top":5,"deny":[3],"deny_history":true,
            "strict":true,"max_items_per_sid":2,"view":"v","user":"u","scenario":3,"with_text":true,"deadline_ms":1.5,
            "sample":{"kind":"distinct","seed":18446744073709551615,"temperature":0.5},"logprobs":true,"list":4}"#;
        let request = parse(text, 1, DEFAULTS).unwrap();
        let expected = Request {
            max_items_per_sid: Some(2),
            deny: ItemRefs::Ids(vec![3]),
            deny_history: true,
            strict: true,
            with_text: true,
            deadline: Some(Duration::from_micros(1500)),
            user: Some("u".into()),
            view: Some("v".into()),
            scenario: Some(3),
            sampling: Some(Sampling { kind: SamplingKind::Distinct, seed: u64::MAX, temperature: 0.5 }),
            log_probs: true,
            list: Some(4),
            ..Request::new(7, History::Items(ItemRefs::Ids(vec![1, u64::MAX])), 128, 5)
        };
        assert_eq!(request, expected);
    }

    #[test]
    fn fills_in_what_is_left_out() {
        let request = parse(r#"{"tokens":[5],"beams":4,"user":null}"#, 9, DEFAULTS).unwrap();
        assert_eq!(request, Request::new(9, History::Tokens(vec![5]), 4, 4));
        let request = parse(r#"{"text":"\u00e9 <a_1>\n","beams":4}"#, 9, DEFAULTS).unwrap();
        assert_eq!(request, Request::new(9, History::Text("\u{e9} <a_1>\n".into()), 4, 4));
        let request = parse(r#"{"keys":["a"],"deny":[]}"#, 9, DEFAULTS).unwrap();
        assert_eq!(request.deny, ItemRefs::Keys(vec![]));
        assert_eq!((request.beams, request.top), (50, 10));
        for (text, beams, top) in [("", 0, 0), (r#","beams":7"#, 7, 0), (r#","top":3"#, 0, 3)] {
            let request = parse(&format!(r#"{{"tokens":[5],"scenario":0{text}}}"#), 9, DEFAULTS).unwrap();
            assert_eq!((request.scenario, request.beams, request.top), (Some(0), beams, top));
        }
    }

    #[test]
    fn names_line_key_and_column() {
        let cases = [
            (r#"{"id":1,"itmes":[1]}"#, "unknown key \"itmes\"; known are id, items"),
            (r#"{"id":1,"items":["a"]}"#, "key \"items\": invalid type: string \"a\", expected u64"),
            (r#"{"id":1,"items":[-1]}"#, "key \"items\": invalid value: integer `-1`"),
            (r#"{"id":1,"tokens":[4294967296]}"#, "key \"tokens\": invalid value"),
            (r#"{"id":1,"items":[1],"beams":"8"}"#, "key \"beams\": invalid type: string \"8\", expected u32"),
            (r#"{"id":1,"items":[1],"deny":[1,"a"]}"#, "key \"deny\": expected a list of item ids (numbers)"),
            (r#"{"id":1,"items":[1],"items":[2]}"#, "key \"items\" is given twice"),
            (r#"{"id":1}"#, "line 3: no history"),
            (r#"{"id":1,"items":[1],"tokens":[1]}"#, "line 3: more than one of"),
            (r#"{"id":1,"tokens":[1],"text":"a"}"#, "line 3: more than one of"),
            (r#"{"id":1,"text":["a"]}"#, "key \"text\": invalid type: sequence, expected a string"),
            (r#"{"id":1,"items":[1],"deny":["a"]}"#, "holds keys while the history holds ids"),
            (r#"{"id":1,"keys":["a"],"deny":[1]}"#, "holds ids while the history holds keys"),
            (r#"{"id":1,"items":[1],"sample":{"kind":"best","seed":1}}"#, "key \"sample\": unknown variant `best`"),
            (r#"{"id":1,"items":[1],"sample":{"kind":"distinct"}}"#, "key \"sample\": missing field `seed`"),
            (r#"{"id":1,"items":[1],"sample":{"kind":"distinct","seed":1,"temp":2}}"#, "unknown field `temp`"),
            (r#"{"id":1,"items":[1],"deadline_ms":0}"#, "deadline_ms"),
            ("[1]", "invalid type: sequence, expected a request"),
            (r#"{"id":1,"items":[1]"#, "EOF while parsing an object"),
            ("nonsense", "expected ident"),
        ];
        for (text, part) in cases {
            let message = message(text);
            // Columns are the JSON parser's affair; that there is one is ours.
            assert!(message.starts_with("line 3"), "{text}: {message:?} names no line");
            assert!(message.contains(part), "{text}: {message:?} lacks {part:?}");
            assert!(!message.contains("at line 1"), "{text}: {message:?} names a second line");
        }
    }

    #[test]
    fn a_bad_line_keeps_its_id() {
        assert_eq!(parse(r#"{"id":8,"itmes":[1]}"#, 3, DEFAULTS).unwrap_err().id, Some(8));
        assert_eq!(parse(r#"{"id":"x","items":[1]}"#, 3, DEFAULTS).unwrap_err().id, None);
        assert_eq!(
            bad_line(&BadLine { id: None, message: "line 3: \"x\"".into() }),
            r#"{"id":null,"error":{"kind":"BAD_REQUEST","message":"line 3: \"x\""}}"#
        );
    }
}
