//! What is asked: from flags and files to a workload.

use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::BenchArgs;
use super::target::Served;
use crate::bench::mix::{Length, Mix};
use crate::bench::schedule::MAX_REQUESTS;
use crate::bench::workload::{Pool, Users, Workload, WorkloadError};
use crate::cli::Failure;
use crate::cli::measure::without_place;
use crate::cli::requests::{self, Defaults};
use crate::request::Request;

/// Beam width where none is asked for, as everywhere on this command line.
const BEAMS: u32 = 50;
/// Items of a history where nothing is said.
const ITEMS: usize = 64;

/// What the flags' own parsers cannot see.
pub fn check(args: &BenchArgs) -> Result<(), Failure> {
    let load = &args.load;
    if load.duration.is_zero() {
        return Err(Failure::usage("--duration is 0; nothing would be measured"));
    }
    if args.json.as_deref().is_some_and(|json| Some(json) == args.html.as_deref()) {
        return Err(Failure::usage("--json and --html name the same file"));
    }
    let highest = load.rate.into_iter().chain(load.rates.iter().flatten().copied()).fold(0.0, f64::max);
    let requests = highest * (load.duration + load.warmup).as_secs_f64();
    if requests > MAX_REQUESTS as f64 {
        return Err(Failure::usage(format!(
            "{highest} requests/s for {:?} are {requests:.0} requests; at most {MAX_REQUESTS} are kept: make --duration \
             shorter",
            load.duration + load.warmup
        )));
    }
    Ok(())
}

/// The requests of the run.
pub fn workload(args: &BenchArgs, served: &Served) -> Result<Workload, Failure> {
    let wanted = &args.requests;
    if let Some(path) = &wanted.requests {
        return Workload::replayed(read_requests(path)?).map_err(failure);
    }
    let users = wanted.histories.as_deref().map(read_users).transpose()?;
    let usual = if users.is_some() { Length::Whole } else { Length::Items(ITEMS) };
    let mix = wanted.mix.clone().unwrap_or_else(|| Mix::of(usual, BEAMS));
    let pool = Pool { users, vocabulary: served.vocabulary.clone() };
    Workload::drawn(mix, pool, wanted.top, args.load.seed).map_err(failure)
}

fn failure(error: WorkloadError) -> Failure {
    match error {
        WorkloadError::EmptyHistories | WorkloadError::NoRequests => Failure::bad(error.to_string()),
        _ => Failure::usage(error.to_string()),
    }
}

fn read_requests(path: &Path) -> Result<Vec<Request>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| Failure::read(path, &error))?;
    let defaults = Defaults { beams: BEAMS, top: 10 };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = lines.map(|(at, line)| requests::parse(line.trim(), at + 1, defaults));
    read.collect::<Result<_, _>>().map_err(|bad| Failure::bad(format!("{}, {}", path.display(), bad.message)))
}

/// A line of a histories file; who it was and what came next does not matter here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HistoryLine {
    #[serde(rename = "user")]
    _user: Option<IgnoredAny>,
    items: Option<Vec<u64>>,
    keys: Option<Vec<String>>,
    #[serde(rename = "target")]
    _target: Option<IgnoredAny>,
}

/// Histories that have something in them.
fn read_users(path: &Path) -> Result<Users, Failure> {
    let (mut ids, mut keys) = (Vec::new(), Vec::new());
    let text = std::fs::read_to_string(path).map_err(|error| Failure::read(path, &error))?;
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let failed = |told: String| Failure::bad(format!("{}, line {}: {told}", path.display(), at + 1));
        let line: HistoryLine = serde_json::from_str(line).map_err(|error| failed(without_place(&error)))?;
        match (line.items, line.keys) {
            (Some(history), None) => ids.push(history),
            (None, Some(history)) => keys.push(history),
            _ => return Err(failed("give the history as either \"items\" (ids) or \"keys\" (strings)".into())),
        }
    }
    if !ids.is_empty() && !keys.is_empty() {
        let told = format!("{}: some histories are ids and some are keys; one run speaks one kind", path.display());
        return Err(Failure::bad(told));
    }
    let users = if keys.is_empty() { Users::Ids(ids) } else { Users::Keys(keys) };
    Ok(users.without_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{History, ItemRefs};
    use std::time::Duration;

    fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.jsonl");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn requests_are_those_of_recommend() {
        let (_dir, path) = file("{\"tokens\":[1],\"deadline_ms\":5}\n\n{\"items\":[2],\"beams\":3}\n");
        let read = read_requests(&path).unwrap();
        assert_eq!((read[0].beams, read[0].deadline), (50, Some(Duration::from_millis(5))));
        assert_eq!((&read[1].history, read[1].beams), (&History::Items(ItemRefs::Ids(vec![2])), 3));
        let (_dir, path) = file("{\"tokens\":[1]}\n\n{\"itmes\":[2]}\n");
        let told = read_requests(&path).unwrap_err().message;
        assert!(told.contains("line 3") && told.contains("itmes"), "{told}");
    }

    #[test]
    fn histories_are_those_of_eval_and_of_one_kind() {
        let (_dir, path) = file("{\"user\":1,\"items\":[1,2],\"target\":4}\n{\"items\":[]}\n{\"items\":[3]}\n");
        assert_eq!(read_users(&path).unwrap(), Users::Ids(vec![vec![1, 2], vec![3]]));
        let (_dir, path) = file("{\"items\":[1]}\n{\"keys\":[\"a\"]}\n");
        assert!(read_users(&path).unwrap_err().message.contains("one kind"));
        let (_dir, path) = file("{\"items\":[1],\"keys\":[\"a\"]}\n");
        assert!(read_users(&path).unwrap_err().message.contains("line 1"));
    }
}
