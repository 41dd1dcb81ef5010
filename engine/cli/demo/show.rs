//! How the demo shows a user: what they rated, what is recommended, what they really rated next.

use std::io::Write;

use crate::catalog::Catalog;
use crate::cli::measure::User;
use crate::cli::style::{Style, fit};
use crate::cli::{Failure, units};
use crate::request::Recommendation;

/// Items of the history shown, newest first.
const RECENT: usize = 5;
/// Recommended items shown.
const SHOWN: usize = 10;
/// Columns of a title.
const TITLE: usize = 60;
/// What stands before a title that has no rank and no score.
const INDENT: &str = "                 ";

/// A user and what was recommended.
#[derive(Debug)]
pub struct Shown {
    /// The user.
    pub user: User,
    /// The answer.
    pub answer: Recommendation,
    /// Rank of the item taken, among those shown.
    pub rank: Option<usize>,
}

/// Picks `count` of the candidates, hits and misses in turn while both last, in the order they came.
pub fn pick(candidates: Vec<Shown>, count: usize) -> Vec<Shown> {
    let hits = candidates.iter().filter(|shown| shown.rank.is_some()).count();
    let misses = candidates.len() - hits;
    // Of five, three hits: the first of each turn is a hit. Whichever kind runs out leaves its room to the other.
    let wanted_hits = count.div_ceil(2).min(hits).max(count.saturating_sub(misses));
    let (mut hits, mut misses) = (wanted_hits, count.saturating_sub(wanted_hits));
    let mut take = |shown: &Shown| {
        let left = if shown.rank.is_some() { &mut hits } else { &mut misses };
        let taken = *left > 0;
        *left -= usize::from(taken);
        taken
    };
    candidates.into_iter().filter(|shown| take(shown)).collect()
}

/// Prints a user.
pub fn print(shown: &Shown, catalog: &Catalog, style: Style, out: &mut dyn Write) -> Result<(), Failure> {
    let Shown { user, answer, rank } = shown;
    let title = |id: u64| {
        let title = catalog.item(id).and_then(|item| catalog.title(item));
        title.map_or_else(|| format!("item {id}"), str::to_owned)
    };
    let films = format!("rated {}, the newest:", units::plural(user.history.len(), "film"));
    writeln!(out, "{}  {}", style.bold(&format!("user {}", user.name)), style.dim(&films))?;
    for id in user.history.iter().rev().take(RECENT) {
        writeln!(out, "{INDENT}{}", fit(&title(*id), TITLE).trim_end())?;
    }
    let next = user.target.map_or_else(|| "a film that is not in the catalogue".to_owned(), title);
    writeln!(out, "  {}", style.dim("and next:"))?;
    writeln!(out, "{INDENT}{}", style.bold(fit(&next, TITLE).trim_end()))?;
    writeln!(out, "  {}", style.dim("recommended without knowing that:"))?;
    let items = answer.results.iter().flat_map(|ranked| ranked.items.iter().map(|item| (ranked.score, item)));
    for (at, (score, item)) in items.take(SHOWN).enumerate() {
        let name = item.title.clone().unwrap_or_else(|| format!("item {}", item.id));
        let line = format!("  {:>4} {score:>8.3}  {}", at + 1, fit(&name, TITLE));
        if *rank == Some(at + 1) {
            writeln!(out, "{}", style.good(&format!("{line}  <- rated next")))?;
        } else {
            writeln!(out, "{}", line.trim_end())?;
        }
    }
    if rank.is_none() {
        writeln!(out, "{INDENT}{}", style.dim("(the next one is not among these)"))?;
    }
    writeln!(out)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Provenance, StageTimings};

    fn shown(number: usize, rank: Option<usize>) -> Shown {
        let answer = Recommendation {
            id: 0,
            results: Vec::new(),
            unknown_items: 0,
            prompt_tokens: 1,
            instructions: Vec::new(),
            provenance: Provenance::default(),
            timings: StageTimings::default(),
        };
        Shown { user: User { name: number.to_string(), history: vec![], target: None }, answer, rank }
    }

    #[test]
    fn picks_hits_and_misses_in_order() {
        let of = |ranks: &[Option<usize>], count| {
            let candidates = ranks.iter().enumerate().map(|(number, rank)| shown(number, *rank)).collect();
            pick(candidates, count).into_iter().map(|shown| shown.user.name).collect::<Vec<_>>().join(" ")
        };
        let (hit, miss) = (Some(2), None);
        assert_eq!(of(&[miss, hit, miss, miss, hit, hit, hit], 5), "0 1 2 4 5");
        assert_eq!(of(&[miss, miss, miss, hit], 3), "0 1 3");
        assert_eq!(of(&[hit, hit, hit], 2), "0 1");
        assert_eq!(of(&[miss, miss, miss], 2), "0 1");
        assert_eq!(of(&[hit], 5), "0");
        assert_eq!(of(&[hit, miss], 0), "");
    }
}
