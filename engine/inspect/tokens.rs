//! Codes that are spelled by the wrong tokens: lexical order instead of numerical, a shift, another permutation.
//!
//! A golden case says how likely each code of a given semantic ID is. If the model is right and the manifest's tokens are not, the
//! likelihood is there, at another code of the level.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::probe::Probe;
use super::tracer::Event;
use super::{InspectError, Means};
use crate::export::{Export, GoldenCase, ScoreMode};

/// Log-probabilities within this are one; neighbours in a level are rarely so close.
const CLOSE: f32 = 1e-3;
/// Positions looked at in a level before it is judged.
const ENOUGH: usize = 24;
/// Longest prompt of a case that is used.
const LONGEST: usize = 256;

/// A level whose codes are not where the manifest says.
pub(super) fn order(
    export: &Arc<Export>,
    cases: &[GoldenCase],
    means: Means<'_>,
) -> Result<Option<String>, InspectError> {
    let manifest = export.manifest();
    let told: Vec<(&GoldenCase, &crate::export::Forced)> = cases
        .iter()
        .filter(|case| case.tokens.len() <= LONGEST)
        .flat_map(|case| case.forced.iter().map(move |forced| (case, forced)))
        .take(ENOUGH)
        .collect();
    // Under the other modes a log-probability is relative to what is legal, or of a head of its own.
    let comparable = matches!(manifest.score(), ScoreMode::FullThenMask | ScoreMode::LevelNorm);
    let Some(longest) = told.iter().map(|(case, _)| case.tokens.len()).max().filter(|_| comparable) else {
        return Ok(None);
    };
    let levels = manifest.levels().len();
    let mut probe = Probe::open(export, means, longest + levels)?;
    for level in 0..levels {
        let tokens = manifest.level_tokens(level);
        let mut votes: BTreeMap<u16, Vec<u16>> = BTreeMap::new();
        for (case, forced) in &told {
            let given: Vec<u32> = (0..level).filter_map(|before| manifest.token(before, forced.sid[before])).collect();
            let events = probe.run(&case.tokens, &given)?;
            let Some(Event::Logits { logits, lognorm, .. }) = events.last() else { continue };
            let close =
                |code: &u16| (logits.row(0)[usize::from(*code)] - lognorm - forced.logprobs[level]).abs() <= CLOSE;
            let fitting: Vec<u16> = (0..tokens.len() as u16).filter(close).collect();
            // Of two cases about one code, what fits both.
            let vote = votes.entry(forced.sid[level]).or_insert_with(|| fitting.clone());
            vote.retain(|code| fitting.contains(code));
        }
        if votes.iter().all(|(code, fitting)| fitting.contains(code)) {
            continue;
        }
        return Ok(Some(judge(level, &tokens, &votes)));
    }
    Ok(None)
}

/// Names the mapping that the votes (code -> codes whose token fits) show.
fn judge(level: usize, tokens: &[u32], votes: &BTreeMap<u16, Vec<u16>>) -> String {
    let at = format!("sid.levels[{level}].tokens");
    let codes = tokens.len();
    if votes.values().any(Vec::is_empty) {
        return format!(
            "`{at}`: no token of the level has the log-probability of the golden's code: the tokens are another level's, or the \
             model is not the golden's"
        );
    }
    let explains = |mapping: &dyn Fn(usize) -> usize| {
        votes.iter().all(|(code, fitting)| fitting.contains(&(mapping(usize::from(*code)) as u16)))
    };
    let lexical = lexical_order(codes);
    if explains(&|code| lexical[code]) {
        return format!(
            "`{at}`: tokens are in lexical order, so that <a_10> precedes <a_2>: give a list in order of the codes"
        );
    }
    let mut inverse = vec![0; codes];
    lexical.iter().enumerate().for_each(|(code, place)| inverse[*place] = code);
    if explains(&|code| inverse[code]) {
        return format!(
            "`{at}`: tokens are listed in order of the codes, but the tokenizer numbered them in lexical order"
        );
    }
    if let Some(shift) = (1..codes).find(|shift| explains(&|code| (code + shift) % codes)) {
        let shift = if shift > codes / 2 { shift as i64 - codes as i64 } else { shift as i64 };
        return format!(
            "`{at}`: every code is spelled by the token of another, {shift:+} further: the first token is wrong"
        );
    }
    let (code, fitting) = votes.iter().find(|(code, fitting)| !fitting.contains(code)).expect("a vote differs");
    let (stated, fits) = (tokens[usize::from(*code)], tokens[usize::from(fitting[0])]);
    format!(
        "`{at}`: codes are permuted; the golden's code {code} is spelled by token {fits}, the manifest says {stated}"
    )
}

/// code -> its place when the codes' decimal names are sorted as text.
fn lexical_order(codes: usize) -> Vec<usize> {
    let mut names: Vec<(String, usize)> = (0..codes).map(|code| (format!("{code}>"), code)).collect();
    names.sort();
    let mut places = vec![0; codes];
    names.iter().enumerate().for_each(|(place, (_, code))| places[*code] = place);
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lexical_order_is_that_of_angle_brackets() {
        // <a_0> <a_10> <a_11> <a_1> <a_2> ...: '0' sorts before '>', so the longer name comes first.
        assert_eq!(lexical_order(12)[..4], [0, 3, 4, 5]);
        assert_eq!((lexical_order(12)[10], lexical_order(12)[11]), (1, 2));
    }
}
