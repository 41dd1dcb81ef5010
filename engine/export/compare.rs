//! When two ranked lists are the same, given that their scores were computed with slightly different arithmetic.
//!
//! Two searches over one catalogue, whose scores of any prefix differ by at most `t` (the tolerance), may rightly return
//! different lists: near a cut or a tie the order of two candidates is decided by rounding. *Two lists are identical if
//! every difference lies within `2t` of a cut or tie at some level.* Why `2t`, and what can be judged from which evidence:
//!
//! * **Order.** If `a` stands before `b` in one list and after it in the other, then `a >= b` in one arithmetic and
//!   `b >= a` in the other, so `expected(a) - expected(b) <= 2t`. Judged from final scores alone.
//! * **Final cut.** Let `cut` be the last score of a full list. The n-th largest of the same candidates moves by at most
//!   `t` when each moves by at most `t`: the two cuts are within `t`. If an expected entry is missing from the other list, its
//!   score there is at most that list's cut, hence its expected score lies within `2t` of both cuts; likewise for an extra
//!   entry. A list that is shorter than the beam width has no final cut: everything was kept, nothing may be missing.
//! * **Inner cuts.** At an inner level a prefix that the expected search kept may be dropped by the other if one that it
//!   dropped is at most `2t` worse, and the other way round, with all descendants, whose final scores may be anything; and the
//!   room they leave or take shifts the final cut for others. Final scores cannot show this. With [`InnerLevels`] (the
//!   expected search's cuts, and the scores of prefixes) it is judged: such an entry is explained, and once there is one,
//!   others may be missing if they fall below the *other* list's cut, or extra if they fall below the expected one (how far below
//!   cannot be judged: nobody recorded who was next in line).
//!   **Without that evidence such a difference is reported as a difference.** It also is in the rare case where the prefixes that
//!   changed places at an inner level left no descendant in either list but had shifted a later inner cut.
//!
//! Whether the scores of entries in both lists agree is a question of its own: [`Comparison::max_delta`].

use std::collections::HashMap;

/// One result: a semantic ID and its score.
#[derive(Clone, Debug, PartialEq)]
pub struct ListEntry {
    /// Code of each level.
    pub sid: Vec<u16>,
    /// Final score.
    pub score: f32,
}

/// Where the expected search cut at one inner level: sums of log-probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LevelCut {
    /// Of the worst prefix kept.
    pub lowest_kept: f32,
    /// Of the best prefix dropped.
    pub highest_dropped: f32,
}

/// What the expected search did at the levels before the last.
#[derive(Clone, Copy)]
pub struct InnerLevels<'a> {
    /// For each level but the last; `None` if nothing was cut there.
    pub cuts: &'a [Option<LevelCut>],
    /// Sum of log-probabilities of a prefix (1 to levels - 1 codes) in the very arithmetic of the cuts, if known.
    pub prefix_score: &'a dyn Fn(&[u16]) -> Option<f32>,
}

impl std::fmt::Debug for InnerLevels<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InnerLevels").field("cuts", &self.cuts).finish_non_exhaustive()
    }
}

/// How to compare. [`compare_lists`] is the short form.
#[derive(Clone, Copy, Debug)]
pub struct Comparer<'a> {
    /// How far the two computations of one score may be apart.
    pub tolerance: f32,
    /// Length at which a list is full (beam width, or `top`); `None` = the longer list's length.
    pub full: Option<usize>,
    /// Evidence of inner cuts.
    pub inner: Option<InnerLevels<'a>>,
}

/// The outcome.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Largest distance between the two scores of an entry that is in both lists; infinite if a score is not finite.
    pub max_delta: f32,
    /// No difference but those near a cut or tie. Says nothing of `max_delta`.
    pub identical: bool,
    /// The first difference that no cut or tie explains.
    pub first_difference: Option<Difference>,
    /// Entries in both lists, divided by the longer list's length; 1 if both are empty.
    pub overlap: f32,
}

impl Comparison {
    /// Identical lists, scores within `tolerance`.
    pub fn within(&self, tolerance: f32) -> bool {
        self.identical && self.max_delta <= tolerance
    }
}

/// A difference that no cut or tie explains. Ranks are from 0.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Difference {
    /// A score is infinite or not a number.
    #[error("{list} result {rank} {sid:?} has the score {score}")]
    NotFinite {
        /// `expected` or `got`.
        list: &'static str,
        /// Place.
        rank: usize,
        /// The entry.
        sid: Vec<u16>,
        /// Its score.
        score: f32,
    },
    /// A list holds an entry twice.
    #[error("{list} result {rank} {sid:?} is already in the list")]
    Repeated {
        /// `expected` or `got`.
        list: &'static str,
        /// Place of the second.
        rank: usize,
        /// The entry.
        sid: Vec<u16>,
    },
    /// A list is not sorted by its own scores.
    #[error("{list} result {rank} has the score {score}, higher than {before} before it")]
    Unsorted {
        /// `expected` or `got`.
        list: &'static str,
        /// Place of the higher score.
        rank: usize,
        /// That score.
        score: f32,
        /// The score before it.
        before: f32,
    },
    /// An expected entry is absent, and not by a close decision.
    #[error("expected result {rank} {sid:?} (score {score}) is missing; {cuts}")]
    Missing {
        /// Place in the expected list.
        rank: usize,
        /// The entry.
        sid: Vec<u16>,
        /// Its expected score.
        score: f32,
        /// Where the two lists end.
        cuts: Cuts,
    },
    /// An entry that is not expected, and not by a close decision.
    #[error("result {rank} {sid:?} (score {score}) is not expected; {cuts}")]
    Extra {
        /// Place in the list got.
        rank: usize,
        /// The entry.
        sid: Vec<u16>,
        /// Its score.
        score: f32,
        /// Where the two lists end.
        cuts: Cuts,
    },
    /// Two entries in the wrong order, further apart than a tie.
    #[error("{first:?} comes before {second:?}, which is expected to be {gap} better")]
    Order {
        /// The entry that comes first.
        first: Vec<u16>,
        /// The better one.
        second: Vec<u16>,
        /// Difference of their expected scores.
        gap: f32,
    },
    /// One list is longer, and no cut explains it.
    #[error("{got} results instead of {expected}")]
    Length {
        /// Length expected.
        expected: usize,
        /// Length got.
        got: usize,
    },
}

/// The last scores of two lists; `None` for one that is not full, so that nothing was cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cuts {
    /// Of the expected list.
    pub expected: Option<f32>,
    /// Of the list got.
    pub got: Option<f32>,
}

impl std::fmt::Display for Cuts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let show = |cut: Option<f32>| cut.map_or_else(|| "with the catalogue".to_owned(), |cut| format!("at {cut}"));
        write!(f, "the expected list ends {}, the list got {}", show(self.expected), show(self.got))
    }
}

/// Compares two lists by their final scores alone; the longer list's length counts as full.
pub fn compare_lists(expected: &[ListEntry], got: &[ListEntry], tolerance: f32) -> Comparison {
    Comparer { tolerance, full: None, inner: None }.compare(expected, got)
}

impl Comparer<'_> {
    /// Compares `got` with `expected`, both best first.
    pub fn compare(&self, expected: &[ListEntry], got: &[ListEntry]) -> Comparison {
        let expected_ranks = ranks(expected);
        let got_ranks = ranks(got);
        let mut max_delta = 0.0f32;
        let mut common = 0usize;
        for entry in expected {
            if let Some(&rank) = got_ranks.get(&*entry.sid) {
                common += 1;
                let delta = (entry.score - got[rank].score).abs();
                // `max` would drop a NaN.
                max_delta = if delta.is_nan() { f32::INFINITY } else { max_delta.max(delta) };
            }
        }
        let longer = expected.len().max(got.len());
        let overlap = if longer == 0 { 1.0 } else { common as f32 / longer as f32 };
        let first_difference = malformed("expected", expected, &expected_ranks)
            .or_else(|| malformed("got", got, &got_ranks))
            .or_else(|| self.membership(expected, got, &expected_ranks, &got_ranks))
            .or_else(|| self.order(expected, got, &expected_ranks));
        Comparison { max_delta, identical: first_difference.is_none(), first_difference, overlap }
    }

    fn membership(
        &self,
        expected: &[ListEntry],
        got: &[ListEntry],
        expected_ranks: &HashMap<&[u16], usize>,
        got_ranks: &HashMap<&[u16], usize>,
    ) -> Option<Difference> {
        let slack = 2.0 * self.tolerance;
        let full = self.full.unwrap_or(expected.len().max(got.len()));
        let cuts = Cuts { expected: cut(expected, full), got: cut(got, full) };
        let missing: Vec<usize> =
            (0..expected.len()).filter(|&rank| !got_ranks.contains_key(&*expected[rank].sid)).collect();
        let extra: Vec<usize> = (0..got.len()).filter(|&rank| !expected_ranks.contains_key(&*got[rank].sid)).collect();
        // Once a prefix near an inner cut is seen to have changed sides, entries may also be pushed below the other list's
        // cut, or move up into room that was left.
        // A kept prefix is near the cut if one dropped was nearly as good, a dropped one if one kept was nearly as bad.
        let dropped_inside = |entry: &ListEntry| self.near_inner_cut(&entry.sid, |p, cut| p - cut.highest_dropped);
        let kept_inside = |entry: &ListEntry| self.near_inner_cut(&entry.sid, |p, cut| cut.lowest_kept - p);
        let shifted = missing.iter().any(|&rank| dropped_inside(&expected[rank]))
            || extra.iter().any(|&rank| kept_inside(&got[rank]));
        let at_final_cut = |entry: &ListEntry| {
            let near = |cut: Option<f32>| cut.is_some_and(|cut| (entry.score - cut).abs() <= slack);
            near(cuts.expected) && near(cuts.got)
        };
        let displaced = |entry: &ListEntry, other_cut: Option<f32>| {
            shifted && other_cut.is_some_and(|cut| entry.score <= cut + slack)
        };
        let lost = missing.iter().find(|&&rank| {
            let entry = &expected[rank];
            !(at_final_cut(entry) || displaced(entry, cuts.got) || dropped_inside(entry))
        });
        let stray = extra.iter().find(|&&rank| {
            let entry = &got[rank];
            !(at_final_cut(entry) || displaced(entry, cuts.expected) || kept_inside(entry))
        });
        let lost = lost.map(|&rank| {
            let ListEntry { sid, score } = expected[rank].clone();
            (rank, Difference::Missing { rank, sid, score, cuts })
        });
        let stray = stray.map(|&rank| {
            let ListEntry { sid, score } = got[rank].clone();
            (rank, Difference::Extra { rank, sid, score, cuts })
        });
        let first = [lost, stray].into_iter().flatten().min_by_key(|(rank, _)| *rank).map(|(_, difference)| difference);
        let length = || Difference::Length { expected: expected.len(), got: got.len() };
        first.or_else(|| (expected.len() != got.len() && !shifted).then(length))
    }

    /// Whether, at some inner level, the prefix of `sid` was at a `distance` of at most twice the tolerance
    /// from changing sides. A negative distance means that it is on the other side already.
    fn near_inner_cut(&self, sid: &[u16], distance: impl Fn(f32, LevelCut) -> f32) -> bool {
        let Some(inner) = self.inner else { return false };
        inner.cuts.iter().enumerate().take(sid.len().saturating_sub(1)).any(|(level, cut)| {
            let score = (inner.prefix_score)(&sid[..=level]);
            matches!((*cut, score), (Some(cut), Some(score)) if (0.0..=2.0 * self.tolerance).contains(&distance(score, cut)))
        })
    }

    /// From the back, the best expected score so far belongs to an entry that comes later; no entry before it may be expected
    /// to be worse by more than a tie.
    fn order(
        &self,
        expected: &[ListEntry],
        got: &[ListEntry],
        expected_ranks: &HashMap<&[u16], usize>,
    ) -> Option<Difference> {
        let mut best_later: Option<&ListEntry> = None;
        let mut found = None;
        for entry in got.iter().rev().filter_map(|entry| expected_ranks.get(&*entry.sid)).map(|&rank| &expected[rank]) {
            match best_later {
                Some(better) if better.score - entry.score > 2.0 * self.tolerance => {
                    let gap = better.score - entry.score;
                    found = Some(Difference::Order { first: entry.sid.clone(), second: better.sid.clone(), gap });
                }
                Some(better) if better.score >= entry.score => {}
                _ => best_later = Some(entry),
            }
        }
        found
    }
}

/// The score of the last entry of a full list: what a candidate had to beat. Below a list that is not full, nothing was cut.
fn cut(list: &[ListEntry], full: usize) -> Option<f32> {
    list.last().filter(|_| list.len() >= full).map(|last| last.score)
}

fn ranks(list: &[ListEntry]) -> HashMap<&[u16], usize> {
    // Reversed, so that the first of equal entries stays.
    list.iter().enumerate().rev().map(|(rank, entry)| (&*entry.sid, rank)).collect()
}

/// What makes a list no list.
fn malformed(list: &'static str, entries: &[ListEntry], ranks: &HashMap<&[u16], usize>) -> Option<Difference> {
    entries.iter().enumerate().find_map(|(rank, entry)| {
        let ListEntry { sid, score } = entry;
        if !score.is_finite() {
            return Some(Difference::NotFinite { list, rank, sid: sid.clone(), score: *score });
        }
        if ranks.get(&**sid) != Some(&rank) {
            return Some(Difference::Repeated { list, rank, sid: sid.clone() });
        }
        let before = entries[rank.saturating_sub(1)].score;
        (before < *score).then_some(Difference::Unsorted { list, rank, score: *score, before })
    })
}

#[cfg(test)]
mod tests;
