//! Held-out users, and what their recommendations amount to: shared by `eval` and `demo`.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::catalog::Catalog;
use crate::cli::Failure;
use crate::cli::metrics::{Quality, Ranking, rank_of};
use crate::request::{Answer, Recommendation};

/// A user whose next item is known.
#[derive(Clone, Debug, PartialEq)]
pub struct User {
    /// For people.
    pub name: String,
    /// Item ids, oldest first.
    pub history: Vec<u64>,
    /// The item that came next; `None` when the catalogue does not know it, so that no recommendation can hit it.
    pub target: Option<u64>,
}

/// A number or a string: items by id or key, users by either.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a number or a string")]
enum Name {
    Number(u64),
    Text(String),
}

/// A line of a histories file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    user: Option<Name>,
    items: Option<Vec<u64>>,
    keys: Option<Vec<String>>,
    target: Name,
}

/// Reads `{"user":"17","items":[oldest, .., newest],"target":123}` lines, or `"keys"` and a string target.
///
/// # Errors
/// Naming file and line.
pub fn read_users(path: &Path, catalog: &Catalog, limit: Option<usize>) -> Result<Vec<User>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::read(path, &error))?;
    let mut users = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        if limit.is_some_and(|limit| users.len() >= limit) {
            break;
        }
        let failed = |told: String| Failure::bad(format!("{}, line {}: {told}", path.display(), number + 1));
        let line: Line = serde_json::from_str(line).map_err(|error| failed(without_place(&error)))?;
        users.push(user(line, number + 1, catalog).map_err(failed)?);
    }
    if users.is_empty() {
        return Err(Failure::bad(format!(
            "{}: no histories; one {{\"items\":[..],\"target\":..}} a line",
            path.display()
        )));
    }
    Ok(users)
}

/// An error in a text of one line, without "line 1".
pub fn without_place(error: &serde_json::Error) -> String {
    let told = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    format!("column {}: {}", error.column(), told.strip_suffix(&place).unwrap_or(&told))
}

fn user(line: Line, number: usize, catalog: &Catalog) -> Result<User, String> {
    let (history, target) = match (line.items, line.keys, line.target) {
        (Some(items), None, Name::Number(target)) => (items, catalog.item(target)),
        (None, Some(keys), Name::Text(target)) => {
            // Unknown keys are dropped, as the engine drops unknown ids.
            let known = keys.iter().filter_map(|key| catalog.item_by_key(key)).map(|item| catalog.id(item));
            (known.collect(), catalog.item_by_key(&target))
        }
        (Some(_), None, Name::Text(_)) => return Err("items are ids, but the target is a string".into()),
        (None, Some(_), Name::Number(_)) => return Err("items are keys, but the target is a number".into()),
        _ => return Err("give the history as either \"items\" (ids) or \"keys\" (strings)".into()),
    };
    let name = match line.user {
        Some(Name::Number(number)) => number.to_string(),
        Some(Name::Text(text)) => text,
        None => format!("line {number}"),
    };
    Ok(User { name, history, target: target.map(|item| catalog.id(item)) })
}

/// Reads `{"items":[best first]}`.
///
/// # Errors
/// Naming the file.
pub fn read_popularity(path: &Path) -> Result<Vec<u64>, Failure> {
    #[derive(Deserialize)]
    struct Popularity {
        items: Vec<u64>,
    }
    let text = std::fs::read_to_string(path).map_err(|error| Failure::read(path, &error))?;
    let read: Result<Popularity, _> = serde_json::from_str(&text);
    read.map(|popularity| popularity.items)
        .map_err(|error| Failure::bad(format!("{}: {error}; expected {{\"items\":[best, ..]}}", path.display())))
}

/// Why a recommendation must not have been given, if so: a semantic ID that does not exist, an item that is not its own, or
/// one that was denied.
pub fn find_illegal(answer: &Recommendation, catalog: &Catalog, denied: &HashSet<u64>) -> Option<String> {
    let mut seen = HashSet::new();
    for ranked in &answer.results {
        let Some(leaf) = catalog.leaf_of_sid(&ranked.sid) else {
            return Some(format!("semantic ID {:?} is not in the catalogue", ranked.sid));
        };
        if ranked.items.is_empty() {
            return Some(format!("semantic ID {:?} came without an item", ranked.sid));
        }
        for item in &ranked.items {
            let own = catalog.item(item.id).is_some_and(|found| catalog.leaf_of(found) == leaf);
            if !own {
                return Some(format!("item {} does not have semantic ID {:?}", item.id, ranked.sid));
            }
            if denied.contains(&item.id) {
                return Some(format!("item {} was denied", item.id));
            }
            if !seen.insert(item.id) {
                return Some(format!("item {} was recommended twice", item.id));
            }
        }
    }
    None
}

/// Items of an answer in order: results best first, the items of each as given.
pub fn ranked_items(answer: &Recommendation) -> impl Iterator<Item = u64> + '_ {
    answer.results.iter().flat_map(|ranked| ranked.items.iter().map(|item| item.id))
}

/// Counts users one by one.
#[derive(Debug)]
pub struct Measure<'a> {
    catalog: &'a Catalog,
    popularity: Option<&'a [u64]>,
    deny_history: bool,
    engine: Ranking,
    baseline: Ranking,
    latencies: Vec<Duration>,
    legality: Legality,
    refused: Vec<String>,
    unknown_targets: usize,
}

/// Whether everything recommended was allowed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Legality {
    /// Answers looked at.
    pub answers: usize,
    /// Items in them.
    pub items: usize,
    /// Answers with something illegal in them.
    pub illegal: usize,
    /// The first such thing.
    pub first: Option<String>,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Of the engine; a refused user counts as a miss.
    pub quality: Quality,
    /// Of recommending what is popular, under the same bans.
    pub popularity: Option<Quality>,
    /// Whether everything recommended was allowed.
    pub legality: Legality,
    /// One latency an answer.
    pub latencies: Vec<Duration>,
    /// Requests refused, and what the first refusal said.
    pub refused: usize,
    /// The first refusal.
    pub first_refusal: Option<String>,
    /// Users whose target is not in the catalogue.
    pub unknown_targets: usize,
}

impl<'a> Measure<'a> {
    /// A measure of requests that have `deny_history` set or not.
    pub fn new(catalog: &'a Catalog, popularity: Option<&'a [u64]>, deny_history: bool) -> Measure<'a> {
        Measure {
            catalog,
            popularity,
            deny_history,
            engine: Ranking::default(),
            baseline: Ranking::default(),
            latencies: Vec::new(),
            legality: Legality::default(),
            refused: Vec::new(),
            unknown_targets: 0,
        }
    }

    /// Counts `user`, who was given `answer` after `latency`. Returns the rank of the target, from 1.
    pub fn count(&mut self, user: &User, answer: &Answer, latency: Duration) -> Option<usize> {
        let denied: HashSet<u64> =
            if self.deny_history { user.history.iter().copied().collect() } else { HashSet::new() };
        self.unknown_targets += usize::from(user.target.is_none());
        if let Some(popular) = self.popularity {
            let allowed = popular.iter().copied().filter(|item| !denied.contains(item));
            self.baseline.count(user.target.and_then(|target| rank_of(&target, allowed)));
        }
        let rank = match answer {
            Ok(answer) => {
                self.latencies.push(latency);
                self.legality.answers += 1;
                self.legality.items += ranked_items(answer).count();
                if let Some(told) = find_illegal(answer, self.catalog, &denied) {
                    self.legality.illegal += 1;
                    self.legality.first.get_or_insert_with(|| format!("user {}: {told}", user.name));
                }
                user.target.and_then(|target| rank_of(&target, ranked_items(answer)))
            }
            Err(refusal) => {
                self.refused.push(format!("user {}: {refusal}", user.name));
                None
            }
        };
        self.engine.count(rank);
        rank
    }

    /// Sums up.
    pub fn finish(self) -> Outcome {
        Outcome {
            quality: self.engine.quality(),
            popularity: self.popularity.map(|_| self.baseline.quality()),
            legality: self.legality,
            latencies: self.latencies,
            refused: self.refused.len(),
            first_refusal: self.refused.into_iter().next(),
            unknown_targets: self.unknown_targets,
        }
    }
}

impl Outcome {
    /// The failure that an illegal or missing answer makes of a run.
    pub fn verdict(&self) -> Result<(), Failure> {
        if self.legality.illegal > 0 {
            let first = self.legality.first.as_deref().unwrap_or_default();
            return Err(Failure::bad(format!("{} answers were illegal; the first: {first}", self.legality.illegal)));
        }
        if self.refused > 0 {
            let first = self.first_refusal.as_deref().unwrap_or_default();
            return Err(Failure::bad(format!("{} requests were refused; the first: {first}", self.refused)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{CatalogBuilder, NewItem};
    use crate::request::{Item, Provenance, Ranked, Refusal, RefusalKind, StageTimings};

    /// Items 1 and 2 share [0, 0]; 3 is [0, 1]; 4 is [1, 0] with the key "four".
    fn catalog() -> Catalog {
        let mut builder = CatalogBuilder::new(&[2, 2]).unwrap();
        for (id, sid, key) in [(1, [0, 0], None), (2, [0, 0], None), (3, [0, 1], None), (4, [1, 0], Some("four"))] {
            builder.add(NewItem { id, sid: &sid, key, ..NewItem::default() }).unwrap();
        }
        builder.finish().unwrap()
    }

    fn answer(results: &[(&[u16], &[u64])]) -> Recommendation {
        let item = |id: &u64| Item { id: *id, key: None, title: None };
        Recommendation {
            id: 0,
            results: results
                .iter()
                .map(|(sid, items)| Ranked {
                    sid: sid.to_vec(),
                    score: -1.0,
                    items: items.iter().map(item).collect(),
                    ..Ranked::default()
                })
                .collect(),
            unknown_items: 0,
            prompt_tokens: 1,
            instructions: Vec::new(),
            provenance: Provenance::default(),
            timings: StageTimings::default(),
        }
    }

    #[test]
    fn finds_every_kind_of_illegal_answer() {
        let catalog = catalog();
        let denied = HashSet::from([3]);
        let told = |results: &[(&[u16], &[u64])]| find_illegal(&answer(results), &catalog, &denied);
        assert_eq!(told(&[(&[0, 0], &[1, 2]), (&[1, 0], &[4])]), None);
        assert!(told(&[(&[1, 1], &[4])]).unwrap().contains("not in the catalogue"));
        assert!(told(&[(&[0, 0, 0], &[4])]).unwrap().contains("not in the catalogue"));
        assert!(told(&[(&[0, 0], &[4])]).unwrap().contains("does not have"));
        assert!(told(&[(&[0, 0], &[9])]).unwrap().contains("does not have"));
        assert!(told(&[(&[0, 1], &[3])]).unwrap().contains("denied"));
        assert!(told(&[(&[1, 0], &[])]).unwrap().contains("without an item"));
        assert!(told(&[(&[0, 0], &[1]), (&[0, 0], &[1])]).unwrap().contains("twice"));
    }

    #[test]
    fn counts_ranks_over_expanded_items_and_bans_both_rankings_alike() {
        let catalog = catalog();
        let user = |target, history: &[u64]| User { name: "u".into(), history: history.to_vec(), target };
        let popularity = [3, 1, 4];
        let mut measure = Measure::new(&catalog, Some(&popularity), true);
        let given = Ok(answer(&[(&[0, 0], &[1, 2]), (&[1, 0], &[4])]));
        assert_eq!(measure.count(&user(Some(4), &[3]), &given, Duration::from_millis(1)), Some(3));
        assert_eq!(measure.count(&user(None, &[3]), &given, Duration::from_millis(1)), None);
        let refused = Err(Refusal::new(RefusalKind::Deadline, "late"));
        assert_eq!(measure.count(&user(Some(4), &[3]), &refused, Duration::ZERO), None);
        let outcome = measure.finish();
        assert_eq!((outcome.quality.users, outcome.unknown_targets, outcome.refused), (3, 1, 1));
        assert_eq!(outcome.quality.hr_at_10, 1.0 / 3.0);
        // Without item 3 the target stands second among the popular ones, for two of three users.
        let popular = outcome.popularity.unwrap();
        assert!((popular.ndcg_at_10 - 2.0 / 3.0_f64.log2() / 3.0).abs() < 1e-12);
        assert_eq!((outcome.legality.answers, outcome.legality.items, outcome.legality.illegal), (2, 6, 0));
        assert_eq!(outcome.latencies.len(), 2);
        assert!(outcome.verdict().unwrap_err().message.contains("DEADLINE: late"));
    }

    #[test]
    fn reads_histories_by_id_and_by_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users.jsonl");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read_users(&path, &catalog(), None).map_err(|failure| failure.message)
        };
        let users = read(concat!(
            "{\"user\":\"17\",\"items\":[1,99],\"target\":4}\n\n",
            "{\"keys\":[\"four\",\"x\"],\"target\":\"none\"}\n",
        ));
        let expected = [
            User { name: "17".into(), history: vec![1, 99], target: Some(4) },
            User { name: "line 3".into(), history: vec![4], target: None },
        ];
        assert_eq!(users.unwrap(), expected);
        for (text, part) in [
            ("", "no histories"),
            ("{}", "line 1: column 2: missing field `target`"),
            ("{\"items\":[1],\"target\":\"four\"}", "line 1: items are ids"),
            ("{\"items\":[1],\"taget\":4}", "unknown field `taget`"),
            ("{\"target\":4}", "either"),
        ] {
            let message = read(text).unwrap_err();
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
    }
}
