//! What a scenario fills, and which file is in force.

use std::time::Duration;

use super::*;
use crate::request::History;

fn dir_with(text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(SCENARIOS), text).unwrap();
    dir
}

fn follower(dir: &Path) -> ScenarioFollower {
    let bounds = ScenarioBounds {
        views: vec!["home".into()],
        instructions: Vec::new(),
        max_beams: 64,
        max_deadline: Duration::from_secs(1),
    };
    ScenarioFollower::catch_up(dir, bounds).unwrap()
}

const FULL: &str = r#"{"scenarios": [
    {"id": 1, "name": "home", "view": "home", "beams": 32, "top": 10, "max_items_per_sid": 2, "deadline_ms": 50},
    {"id": 2}
]}"#;

fn request(scenario: u32, beams: u32, top: u32) -> Request {
    Request { scenario: Some(scenario), ..Request::new(7, History::Tokens(vec![1]), beams, top) }
}

#[test]
fn a_scenario_fills_what_is_left_open() {
    let dir = dir_with(FULL);
    let follower = follower(dir.path());
    let filled = |mut request: Request| {
        let scenario = follower.set().fill(&mut request, &[]).unwrap();
        (request, scenario.map(|scenario| scenario.id))
    };
    let home = Request {
        view: Some("home".into()),
        max_items_per_sid: Some(2),
        deadline: Some(Duration::from_millis(50)),
        ..request(1, 32, 10)
    };
    assert_eq!(filled(request(1, 0, 0)), (home.clone(), Some(1)));
    // What the request says itself stays.
    let own = Request {
        view: Some("search".into()),
        max_items_per_sid: Some(5),
        deadline: Some(Duration::from_secs(3)),
        ..request(1, 64, 40)
    };
    assert_eq!(filled(own.clone()), (own, Some(1)));
    // The scenario's top gives way to the request's narrower beams, the request's own top does not.
    assert_eq!(filled(request(1, 4, 0)), (Request { beams: 4, top: 4, ..home.clone() }, Some(1)));
    assert_eq!(filled(request(1, 0, 60)), (Request { top: 60, ..home }, Some(1)));
    assert_eq!(filled(request(2, 0, 0)), (request(2, 0, 0), Some(2)));
    let plain = Request::new(7, History::Tokens(vec![1]), 0, 0);
    assert_eq!(filled(plain.clone()), (plain, None));
}

#[test]
fn a_scenario_that_is_not_there_is_refused_with_what_is() {
    let told = |set: &ScenarioSet| {
        let refusal = set.fill(&mut request(3, 0, 0), &[]).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Unsupported);
        refusal.message
    };
    assert_eq!(told(&ScenarioSet::default()), "scenario 3: this export has no scenarios");
    let dir = dir_with(FULL);
    assert_eq!(told(follower(dir.path()).set()), "scenario 3: this export has 1 (\"home\"), 2");
}

/// Looks as often as a file needs to settle, and says what came of it: (applied, refused, beams of scenario 1).
fn look(follower: &mut ScenarioFollower, stats: &Stats) -> (u64, u64, u32) {
    (0..3).for_each(|_| follower.look_and_tell(stats));
    let mut request = request(1, 0, 0);
    let _ = follower.set().fill(&mut request, &[]);
    let counts = stats.counts(0);
    (counts.scenarios_applied, counts.scenarios_refused, request.beams)
}

#[test]
fn a_new_file_is_taken_whole_or_not_at_all() {
    let dir = dir_with(FULL);
    let path = dir.path().join(SCENARIOS);
    let (mut follower, stats) = (follower(dir.path()), Stats::default());
    assert_eq!(look(&mut follower, &stats), (0, 0, 32));
    let beams = |beams: u32| FULL.replace("\"beams\": 32", &format!("\"beams\": {beams}"));
    // As `mv` does it: another inode.
    std::fs::write(dir.path().join("new"), beams(16)).unwrap();
    std::fs::rename(dir.path().join("new"), &path).unwrap();
    assert_eq!(look(&mut follower, &stats), (1, 0, 16));
    // Not JSON, then a view that is not served, and each is refused once.
    std::fs::write(&path, &FULL[..FULL.len() - 1]).unwrap();
    assert_eq!(look(&mut follower, &stats), (1, 1, 16));
    assert_eq!(look(&mut follower, &stats), (1, 1, 16));
    std::fs::write(&path, beams(9).replace("\"view\": \"home\"", "\"view\": \"start\"")).unwrap();
    assert_eq!(look(&mut follower, &stats), (1, 2, 16));
    // Each text has a length of its own: here two writes may fall into one tick of the file system's clock.
    std::fs::write(&path, beams(100)).unwrap();
    assert_eq!(look(&mut follower, &stats), (1, 3, 16));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(look(&mut follower, &stats), (1, 4, 16));
    std::fs::write(&path, beams(64)).unwrap();
    assert_eq!(look(&mut follower, &stats), (2, 4, 64));
    std::fs::write(&path, r#"{"scenarios": []}"#).unwrap();
    assert_eq!(look(&mut follower, &stats), (3, 4, 0));
    assert_eq!(follower.set().count(), 0);
}

#[test]
fn a_file_is_left_alone_until_it_has_settled() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SCENARIOS);
    let (mut follower, stats) = (follower(dir.path()), Stats::default());
    // There was none at start. Half of it is written between two looks, the rest before the next one.
    std::fs::write(&path, &FULL[..20]).unwrap();
    follower.look_and_tell(&stats);
    std::fs::write(&path, FULL).unwrap();
    follower.look_and_tell(&stats);
    assert_eq!(follower.set().count(), 0);
    follower.look_and_tell(&stats);
    assert_eq!((follower.set().count(), stats.counts(0).scenarios_refused), (2, 0));
    // A file that comes and goes between looks is not missed.
    std::fs::remove_file(&path).unwrap();
    follower.look_and_tell(&stats);
    std::fs::write(&path, r#"{"scenarios": [{"id": 1, "beams": 5}]}"#).unwrap();
    assert_eq!(look(&mut follower, &stats), (2, 0, 5));
}
