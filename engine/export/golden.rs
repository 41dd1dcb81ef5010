//! `golden/cases.jsonl`: prompts and what the training framework answered to them, one JSON object a line.

use std::collections::HashSet;
use std::path::Path;

use super::compare::ListEntry;
use super::json::{self, Node};
use super::{ExportError, Manifest, ScoreMode};

/// Where the cases are, relative to the export.
pub const GOLDEN_CASES: &str = "golden/cases.jsonl";

/// Longest file of cases. Each line is also bound by the limit of a JSON file.
const MAX_BYTES: u64 = 256 << 20;

/// Most tokens and beams of a case: the engine that runs the cases plans memory for the largest.
const MAX_TOKENS: usize = 1 << 16;
const MAX_BEAMS: u64 = 1 << 16;

/// One case.
#[derive(Clone, Debug, PartialEq)]
pub struct GoldenCase {
    /// Unique in the file.
    pub id: u64,
    /// The complete prompt; nothing is to be added.
    pub tokens: Vec<u32>,
    /// Beam width.
    pub beams: usize,
    /// Equals the manifest's.
    pub score: ScoreMode,
    /// Best first, without repetition; at most `beams`.
    pub results: Vec<ListEntry>,
    /// Teacher-forced semantic IDs; may be empty.
    pub forced: Vec<Forced>,
    /// What computed the results, e.g. `hf_generate`.
    pub reference: Option<String>,
}

/// Log-probabilities of one given semantic ID: they place a failure at a level.
#[derive(Clone, Debug, PartialEq)]
pub struct Forced {
    /// Code of each level.
    pub sid: Vec<u16>,
    /// Of each level, then of each scored end token; before any length penalty.
    pub logprobs: Vec<f32>,
}

/// Reads `path`, each case checked against `manifest`. Empty lines are skipped.
pub fn read_goldens(path: &Path, manifest: &Manifest) -> Result<Vec<GoldenCase>, ExportError> {
    let text = json::read_text(path, MAX_BYTES, "goldens are made by tools/python/make_goldens.py")?;
    let mut cases = Vec::new();
    let mut ids = HashSet::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let failed = |detail: String| ExportError::Golden { path: path.to_owned(), line: number + 1, detail };
        if line.len() as u64 > json::MAX_JSON_BYTES {
            return Err(failed(format!("is {} bytes long, at most {} are read", line.len(), json::MAX_JSON_BYTES)));
        }
        let value = json::parse_strict(line).map_err(|error| failed(format!("is not valid JSON: {error}")))?;
        // An empty path leaves only the field in front of the message.
        let case = case(&Node::root(Path::new(""), &value), manifest)
            .map_err(|error| failed(error.to_string().trim_start_matches(": ").to_owned()))?;
        if !ids.insert(case.id) {
            return Err(failed(format!("`id`: an earlier line has the id {} too", case.id)));
        }
        cases.push(case);
    }
    Ok(cases)
}

fn case(node: &Node<'_>, manifest: &Manifest) -> Result<GoldenCase, ExportError> {
    node.object(&["id", "tokens", "beams", "score", "results", "forced", "reference"])?;
    let tokens_node = node.require("tokens", "the prompt's token ids")?;
    let tokens = tokens_node.tokens()?;
    if !(1..=MAX_TOKENS).contains(&tokens.len()) {
        return Err(tokens_node.wrong(format!("a list of 1 to {MAX_TOKENS} token ids")));
    }
    let score = node.require("score", "the score mode")?;
    let mode = ScoreMode::from_name(score.text("the score mode")?).filter(|mode| *mode == manifest.score());
    let mode = mode.ok_or_else(|| score.wrong(format!("{:?}, as in the manifest", manifest.score().name())))?;
    let beams = node.require("beams", "the beam width")?.whole(1, MAX_BEAMS, "the beam width")? as usize;
    Ok(GoldenCase {
        id: node.require("id", "a number")?.whole(0, u64::MAX, "the case's number")?,
        tokens,
        beams,
        score: mode,
        results: results(&node.require("results", "a list of results")?, beams, manifest)?,
        forced: match node.get("forced") {
            None => Vec::new(),
            Some(list) => {
                let elements = list.elements("a list of {sid, logprobs}")?;
                elements.iter().map(|element| forced(element, manifest)).collect::<Result<_, _>>()?
            }
        },
        reference: node.get("reference").map(|node| node.text("a string").map(str::to_owned)).transpose()?,
    })
}

fn results(node: &Node<'_>, beams: usize, manifest: &Manifest) -> Result<Vec<ListEntry>, ExportError> {
    let elements = node.elements("a list of {sid, score}")?;
    if elements.len() > beams {
        return Err(node.wrong(format!("a list of at most `beams` = {beams} results")));
    }
    let mut list: Vec<ListEntry> = Vec::with_capacity(elements.len());
    let mut seen = HashSet::with_capacity(elements.len());
    for element in &elements {
        element.object(&["sid", "score"])?;
        let sid = sid(element, manifest)?;
        if !seen.insert(sid.clone()) {
            return Err(element.contradiction(format!("semantic ID {sid:?} is already in the list")));
        }
        let score_node = element.require("score", "a number")?;
        let score = float(&score_node)?;
        if list.last().is_some_and(|previous| previous.score < score) {
            return Err(
                score_node.contradiction(format!("{score} is higher than the result before it; best come first"))
            );
        }
        list.push(ListEntry { sid, score });
    }
    Ok(list)
}

fn forced(node: &Node<'_>, manifest: &Manifest) -> Result<Forced, ExportError> {
    node.object(&["sid", "logprobs"])?;
    let sid = sid(node, manifest)?;
    let expected = format!("a list of {} numbers: the levels, then the scored end tokens", manifest.scored_length());
    let list = node.require("logprobs", &expected)?;
    let elements = list.elements(&expected)?;
    if elements.len() != manifest.scored_length() {
        return Err(list.wrong(expected));
    }
    Ok(Forced { sid, logprobs: elements.iter().map(float).collect::<Result<_, _>>()? })
}

fn sid(node: &Node<'_>, manifest: &Manifest) -> Result<Vec<u16>, ExportError> {
    let expected = "a list of one code a level";
    let list = node.require("sid", expected)?;
    let codes = list.elements(expected)?;
    // At most 65,535, so the cast cannot cut.
    let read = codes.iter().map(|code| code.whole(0, u64::from(u16::MAX), "a code").map(|code| code as u16));
    let sid: Vec<u16> = read.collect::<Result<_, _>>()?;
    match manifest.check_sid(&sid) {
        Ok(()) => Ok(sid),
        Err(ExportError::SidOutOfRange { detail, .. }) => Err(list.contradiction(detail)),
        Err(error) => Err(error),
    }
}

fn float(node: &Node<'_>) -> Result<f32, ExportError> {
    let number = node.value.as_f64().map(|number| number as f32).filter(|number| number.is_finite());
    number.ok_or_else(|| node.wrong("a finite number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"{"sidereal": 1, "name": "m", "version": "1", "score": "full_then_mask",
        "sid": {"levels": [{"codes": 4, "tokens": {"first": 10}}, {"codes": 4, "tokens": {"first": 20}}]},
        "end": {"tokens": [1], "scored": true}}"#;

    fn read(lines: &str) -> Result<Vec<GoldenCase>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cases.jsonl");
        std::fs::write(&path, lines).unwrap();
        let manifest = Manifest::parse(Path::new("sidereal.json"), MANIFEST).unwrap();
        read_goldens(&path, &manifest).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_cases_with_and_without_the_optional_parts() {
        let cases = read(concat!(
            r#"{"id":1,"tokens":[5,6],"beams":2,"score":"full_then_mask","results":[{"sid":[1,2],"score":-1.5},{"sid":[3,0],"score":-2}],"#,
            r#""forced":[{"sid":[1,2],"logprobs":[-0.5,-0.5,-0.5]}],"reference":"hf_generate"}"#,
            "\n\n",
            r#"{"id":2,"tokens":[5],"beams":1,"score":"full_then_mask","results":[]}"#,
        ))
        .unwrap();
        assert_eq!(cases.len(), 2);
        assert_eq!(cases[0].results[1], ListEntry { sid: vec![3, 0], score: -2.0 });
        assert_eq!(cases[0].forced[0].logprobs, [-0.5; 3]);
        assert_eq!((cases[1].reference.as_deref(), cases[1].forced.len()), (None, 0));
    }

    #[test]
    fn errors_name_line_and_field() {
        let good = r#"{"id":1,"tokens":[5],"beams":2,"score":"full_then_mask","results":[{"sid":[1,2],"score":-1}]}"#;
        assert!(read(good).is_ok());
        let endless: &str = &format!("\"tokens\":[5{}]", ",5".repeat(MAX_TOKENS));
        let cases = [
            ("\"tokens\":[5]", "\"tokens\":[]", "`tokens`"),
            ("\"tokens\":[5]", endless, "1 to 65536 token ids"),
            ("\"beams\":2", "\"beams\":65537", "`beams`"),
            ("\"tokens\":[5]", "\"tokens\":[5,-1]", "`tokens[1]`"),
            ("\"beams\":2", "\"beams\":0", "`beams`"),
            ("\"beams\":2,", "", "`beams` is missing"),
            ("full_then_mask", "level_norm", "\"full_then_mask\", as in the manifest"),
            ("[1,2]", "[1,4]", "`results[0].sid`: code 4 of level 1 is beyond its 4 codes"),
            ("[1,2]", "[1]", "`results[0].sid`: it has 1 levels, the export has 2"),
            ("[1,2]", "[1,70000]", "`results[0].sid[1]`"),
            ("\"score\":-1", "\"score\":1e300", "`results[0].score` must be a finite number"),
            ("\"score\":-1", "\"socre\":-1", "unknown key `results[0].socre`; did you mean `score`?"),
            ("-1}]", "-1},{\"sid\":[1,2],\"score\":-2}]", "`results[1]`: semantic ID [1, 2] is already"),
            ("-1}]", "-1},{\"sid\":[1,3],\"score\":-0.5}]", "`results[1].score`: -0.5 is higher"),
            (
                "-1}]",
                "-1}],\"forced\":[{\"sid\":[0,0],\"logprobs\":[-1,-2]}]",
                "`forced[0].logprobs` must be a list of 3",
            ),
            ("-1}]", "-1},{\"sid\":[1,3],\"score\":-2},{\"sid\":[0,3],\"score\":-3}]", "at most `beams` = 2"),
            ("}]}", "}]", "is not valid JSON"),
        ];
        for (from, to, expected) in cases {
            let other = good.replace("\"id\":1", "\"id\":2").replacen(from, to, 1);
            let message = read(&format!("{good}\n{other}")).unwrap_err();
            assert!(
                message.contains("cases.jsonl:2: ") && message.contains(expected),
                "{message:?} lacks {expected:?}"
            );
        }
        let message = read(&format!("{good}\n{good}")).unwrap_err();
        assert!(message.contains("cases.jsonl:2: `id`"), "{message}");
    }
}
