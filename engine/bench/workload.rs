//! The requests of a run. Request number `n` of a seed is always the same, whichever connection sends it and whenever.
//!
//! Either drawn from a [`Mix`] (histories of random items of a catalogue, or of users of a file), or replayed.

use std::sync::Arc;

use super::mix::{Length, Mix};
use super::random::Random;
use crate::catalog::{Catalog, ItemIndex};
use crate::export::Manifest;
use crate::request::{History, ItemRefs, Request};

/// Real histories, oldest item first. A file speaks one kind of item throughout.
#[derive(Clone, Debug, PartialEq)]
pub enum Users {
    /// Numeric ids.
    Ids(Vec<Vec<u64>>),
    /// String keys.
    Keys(Vec<Vec<String>>),
}

impl Users {
    /// Without those who have nothing.
    pub fn without_empty(self) -> Users {
        match self {
            Users::Ids(users) => Users::Ids(users.into_iter().filter(|user| !user.is_empty()).collect()),
            Users::Keys(users) => Users::Keys(users.into_iter().filter(|user| !user.is_empty()).collect()),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Users::Ids(users) => users.iter().all(Vec::is_empty),
            Users::Keys(users) => users.iter().all(Vec::is_empty),
        }
    }

    /// A random user's history: the newest `items` of it. One that is shorter is lengthened, on its old side, by those of
    /// the users after it.
    fn draw(&self, items: Option<usize>, random: &mut Random) -> ItemRefs {
        match self {
            Users::Ids(users) => ItemRefs::Ids(draw_history(users, items, random)),
            Users::Keys(users) => ItemRefs::Keys(draw_history(users, items, random)),
        }
    }
}

fn draw_history<T: Clone>(users: &[Vec<T>], items: Option<usize>, random: &mut Random) -> Vec<T> {
    let first = random.below(users.len());
    let Some(items) = items else { return users[first].clone() };
    // Not empty, as the workload has checked, so this ends.
    let newest_first = users.iter().cycle().skip(first).flat_map(|user| user.iter().rev());
    let mut history: Vec<T> = newest_first.take(items).cloned().collect();
    history.reverse();
    history
}

/// A catalogue to draw from, and how its export writes semantic IDs as tokens.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    catalog: Arc<Catalog>,
    /// Token of each code, by level.
    level_tokens: Vec<Vec<u32>>,
    /// Whether the export takes items at all.
    has_prompt: bool,
}

impl Vocabulary {
    /// Of an export and the catalogue that is served with it.
    pub fn new(catalog: Arc<Catalog>, manifest: &Manifest) -> Vocabulary {
        let level_tokens = (0..manifest.levels().len()).map(|level| manifest.level_tokens(level)).collect();
        Vocabulary { catalog, level_tokens, has_prompt: manifest.prompt().is_some() }
    }

    fn items(&self, count: usize, random: &mut Random) -> Vec<u64> {
        let ids = self.catalog.ids();
        (0..count).map(|_| ids[random.below(ids.len())]).collect()
    }

    /// Semantic IDs of random items, one after the other; the last `count` tokens of them.
    fn tokens(&self, count: usize, random: &mut Random) -> Vec<u32> {
        let mut sid = vec![0; self.catalog.levels()];
        let mut tokens = Vec::with_capacity(count + sid.len());
        while tokens.len() < count {
            let item = ItemIndex(random.below(self.catalog.items()) as u32);
            self.catalog.sid_of_leaf(self.catalog.leaf_of(item), &mut sid);
            tokens.extend(sid.iter().zip(&self.level_tokens).map(|(code, tokens)| tokens[usize::from(*code)]));
        }
        tokens.split_off(tokens.len() - count)
    }
}

/// What requests are drawn from.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// Histories of a file.
    pub users: Option<Users>,
    /// A catalogue.
    pub vocabulary: Option<Vocabulary>,
}

/// Why no requests can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadError {
    /// Items are needed and none are known.
    #[error("a server does not tell its items: name the export for its catalogue, or give --histories or --requests")]
    NoItems,
    /// The export takes tokens only.
    #[error(
        "the export has no \"prompt\", so it takes no items: write lengths as tokens, e.g. --mix 256t/32, or give \
         --requests"
    )]
    NoPrompt,
    /// Tokens are made of a catalogue's semantic IDs.
    #[error("a length in tokens needs the export, for its catalogue and its token numbers: name it")]
    TokensNeedExport,
    /// Nobody's history is meant.
    #[error("a history of \"all\" is that of a user of --histories: give the file")]
    WholeNeedsHistories,
    /// Nothing to read.
    #[error("every history of the file is empty")]
    EmptyHistories,
    /// Nothing to replay.
    #[error("there are no requests to replay")]
    NoRequests,
}

#[derive(Debug)]
enum Source {
    Drawn { mix: Mix, pool: Pool, top: u32 },
    Replayed(Vec<Request>),
}

/// Where the requests of a run come from.
#[derive(Debug)]
pub struct Workload {
    source: Source,
    seed: u64,
}

impl Workload {
    /// Requests drawn from `mix` that ask for `top` results (fewer where the beam is narrower).
    ///
    /// # Errors
    /// The pool lacks what the mix needs.
    pub fn drawn(mix: Mix, pool: Pool, top: u32, seed: u64) -> Result<Workload, WorkloadError> {
        if pool.users.as_ref().is_some_and(Users::is_empty) {
            return Err(WorkloadError::EmptyHistories);
        }
        for part in mix.parts() {
            match (part.length, &pool.users, &pool.vocabulary) {
                (Length::Whole, None, _) => return Err(WorkloadError::WholeNeedsHistories),
                (Length::Tokens(_), _, None) => return Err(WorkloadError::TokensNeedExport),
                (Length::Items(_), None, None) => return Err(WorkloadError::NoItems),
                (Length::Items(_) | Length::Whole, _, Some(vocabulary)) if !vocabulary.has_prompt => {
                    return Err(WorkloadError::NoPrompt);
                }
                _ => {}
            }
        }
        Ok(Workload { source: Source::Drawn { mix, pool, top }, seed })
    }

    /// `requests`, in order, again and again.
    ///
    /// # Errors
    /// There are none.
    pub fn replayed(requests: Vec<Request>) -> Result<Workload, WorkloadError> {
        if requests.is_empty() {
            return Err(WorkloadError::NoRequests);
        }
        Ok(Workload { source: Source::Replayed(requests), seed: 0 })
    }

    /// Request number `index`, without an id.
    pub fn request(&self, index: u64) -> Request {
        match &self.source {
            Source::Replayed(requests) => requests[(index % requests.len() as u64) as usize].clone(),
            Source::Drawn { mix, pool, top } => {
                let mut random = Random::nth(self.seed, index);
                let part = mix.draw(&mut random);
                draw_request(part.length, part.beams, pool, *top, &mut random)
            }
        }
    }

    /// One request of each kind, to see whether a server takes them.
    pub fn examples(&self) -> Vec<Request> {
        match &self.source {
            Source::Replayed(requests) => requests.iter().take(1).cloned().collect(),
            Source::Drawn { mix, pool, top } => {
                let mut random = Random::new(self.seed);
                let parts = mix.parts().iter();
                parts.map(|part| draw_request(part.length, part.beams, pool, *top, &mut random)).collect()
            }
        }
    }

    /// For people.
    pub fn describe(&self) -> String {
        match &self.source {
            Source::Replayed(requests) => format!("replay of {} requests", requests.len()),
            Source::Drawn { mix, pool, top } => {
                let of = if pool.users.is_some() { "histories of the file" } else { "random items" };
                format!("mix {mix} of {of}, top {top}")
            }
        }
    }
}

fn draw_request(length: Length, beams: u32, pool: &Pool, top: u32, random: &mut Random) -> Request {
    let history = match (length, &pool.users, &pool.vocabulary) {
        (Length::Items(items), Some(users), _) => History::Items(users.draw(Some(items), random)),
        (Length::Whole, Some(users), _) => History::Items(users.draw(None, random)),
        (Length::Items(items), None, Some(from)) => History::Items(ItemRefs::Ids(from.items(items, random))),
        (Length::Tokens(tokens), _, Some(from)) => History::Tokens(from.tokens(tokens, random)),
        // The constructor has seen to it that the pool has what the mix needs.
        (Length::Items(_) | Length::Whole, None, _) | (Length::Tokens(_), _, None) => History::Tokens(Vec::new()),
    };
    let mut request = Request::new(0, history, beams, top.min(beams));
    // A request speaks one kind of item throughout.
    if let History::Items(ItemRefs::Keys(_)) = request.history {
        request.deny = ItemRefs::Keys(Vec::new());
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> Users {
        Users::Ids(vec![vec![1, 2, 3], vec![], vec![4, 5]])
    }

    fn drawn(mix: &str, pool: Pool) -> Result<Workload, WorkloadError> {
        Workload::drawn(mix.parse().unwrap(), pool, 10, 9)
    }

    #[test]
    fn requests_repeat_and_differ() {
        let pool = Pool { users: Some(users()), vocabulary: None };
        let workload = drawn("2/4:1,5/16:1", pool).unwrap();
        let requests: Vec<Request> = (0..50).map(|index| workload.request(index)).collect();
        assert_eq!(requests, (0..50).map(|index| workload.request(index)).collect::<Vec<_>>());
        for request in &requests {
            let History::Items(items) = &request.history else { panic!("{request:?}") };
            let expected = if request.beams == 4 { (2, 4) } else { (5, 10) };
            assert_eq!((items.len(), request.top), expected);
        }
        assert!(requests.iter().any(|request| *request != requests[0]));
        let examples = workload.examples();
        assert_eq!(examples.iter().map(|request| request.beams).collect::<Vec<_>>(), [4, 16]);
    }

    #[test]
    fn a_short_history_is_lengthened_on_its_old_side() {
        let Users::Ids(users) = users() else { unreachable!() };
        let mut seen = Vec::new();
        for seed in 0..64 {
            seen.push(draw_history(&users, Some(4), &mut Random::new(seed)));
        }
        seen.sort_unstable();
        seen.dedup();
        // User 0 goes on with 2 (user 1 has none), users 1 and 2 with 0.
        assert_eq!(seen, [vec![2, 3, 4, 5], vec![5, 1, 2, 3]]);
    }

    #[test]
    fn replays_in_order_without_end() {
        let request = |beams| Request::new(0, History::Tokens(vec![1]), beams, 1);
        let workload = Workload::replayed(vec![request(1), request(2)]).unwrap();
        let beams: Vec<u32> = (0..5).map(|index| workload.request(index).beams).collect();
        assert_eq!(beams, [1, 2, 1, 2, 1]);
        assert_eq!(Workload::replayed(vec![]).unwrap_err(), WorkloadError::NoRequests);
    }

    #[test]
    fn says_what_is_missing() {
        let of_users = || Pool { users: Some(users()), vocabulary: None };
        assert_eq!(drawn("5/1", Pool::default()).unwrap_err(), WorkloadError::NoItems);
        assert_eq!(drawn("all/1", Pool::default()).unwrap_err(), WorkloadError::WholeNeedsHistories);
        assert_eq!(drawn("5/1,5t/1", of_users()).unwrap_err(), WorkloadError::TokensNeedExport);
        let nobody = Pool { users: Some(Users::Keys(vec![vec![]])), vocabulary: None };
        assert_eq!(drawn("all/1", nobody).unwrap_err(), WorkloadError::EmptyHistories);
        assert!(drawn("all/1", of_users()).is_ok());
    }
}
