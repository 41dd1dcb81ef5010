//! Scenarios from a file to answers: what a bundle fills equals what a request says itself, whoever is in the cohort, and a running
//! server takes a new file.

mod cli_support;
mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use cli_support::serving::Serving;
use cli_support::{Copy, sidereal, sidereal_with_input};
use common::{Seeded, engine, small_limits};
use serde_json::{Value, json};
use sidereal::catalog::View;
use sidereal::client::Client;
use sidereal::device::Dtype;
use sidereal::request::{Answer, History, ItemRefs, Ranked, Refusal, RefusalKind, Request};
use sidereal::schedule::{Engine, Limits};

const EXPORT: &str = "t5-relu";
/// The vocabulary begins with so many tokens of every export.
const TOKENS: u64 = 30;
const PATIENCE: Duration = Duration::from_secs(60);

/// An export with the views `half` and `few` and these scenarios. Items of the views come back too.
fn export_with(scenarios: &Value) -> (Copy, [BTreeSet<u64>; 2]) {
    let export = Copy::of(EXPORT);
    let items = export.items();
    let folder = export.path("");
    let catalog = Arc::clone(engine(&folder, Dtype::F32, 1, small_limits()).catalog());
    let pools = [("half", 2), ("few", 5)].map(|(name, one_in)| {
        let inside: BTreeSet<u64> = items.iter().copied().step_by(one_in).collect();
        let view = View::new(name, &catalog, inside.iter().map(|id| catalog.item(*id).unwrap())).unwrap();
        view.write(&catalog, &View::path(&folder, name)).unwrap();
        inside
    });
    replace(&export, scenarios);
    (export, pools)
}

/// Puts a new file in the place of the old one, as an operator does.
fn replace(export: &Copy, scenarios: &Value) {
    std::fs::write(export.path("scenarios.json.new"), scenarios.to_string()).unwrap();
    std::fs::rename(export.path("scenarios.json.new"), export.path("scenarios.json")).unwrap();
}

fn bundles() -> Value {
    json!({"scenarios": [
        {"id": 1, "name": "home", "view": "half", "beams": 48, "top": 20, "max_items_per_sid": 1},
        {"id": 2, "view": "few", "beams": 8, "top": 8, "deadline_ms": 60000},
        {"id": 3, "name": "wide", "beams": 128, "top": 100},
        {"id": 4, "name": "only a view", "view": "few"}
    ]})
}

/// The same request twice: by its scenario, and with everything said.
fn pair(id: u64, chance: &mut Seeded) -> [Request; 2] {
    let tokens: Vec<u32> = (0..1 + chance.below(40)).map(|_| chance.below(TOKENS) as u32).collect();
    let plain = |beams, top| Request::new(id, History::Tokens(tokens.clone()), beams, top);
    let of = |scenario, beams, top| Request { scenario: Some(scenario), ..plain(beams, top) };
    let view = |name: &str| Some(name.to_owned());
    match id % 7 {
        0 => [of(1, 0, 0), Request { view: view("half"), max_items_per_sid: Some(1), ..plain(48, 20) }],
        1 => [of(2, 0, 0), Request { view: view("few"), ..plain(8, 8) }],
        2 => [of(3, 0, 0), plain(128, 100)],
        // What the request says itself wins.
        3 => [of(1, 32, 0), Request { view: view("half"), max_items_per_sid: Some(1), ..plain(32, 20) }],
        4 => [of(1, 5, 0), Request { view: view("half"), max_items_per_sid: Some(1), ..plain(5, 5) }],
        5 => [
            Request { view: view("few"), max_items_per_sid: Some(3), ..of(1, 0, 7) },
            Request { view: view("few"), max_items_per_sid: Some(3), ..plain(48, 7) },
        ],
        _ => [of(4, 16, 4), Request { view: view("few"), ..plain(16, 4) }],
    }
}

/// Scores as bits.
fn exact(results: &[Ranked]) -> Vec<(Vec<u16>, u32, Vec<u64>)> {
    let ids = |ranked: &Ranked| ranked.items.iter().map(|item| item.id).collect();
    results.iter().map(|ranked| (ranked.sid.clone(), ranked.score.to_bits(), ids(ranked))).collect()
}

fn together(engine: &Engine, requests: &[Request]) -> Vec<Answer> {
    let (send, receive) = crossbeam_channel::bounded(requests.len());
    for (at, request) in requests.iter().enumerate() {
        let send = send.clone();
        let done = Box::new(move |answer| send.send((at, answer)).unwrap());
        engine.submit(request.clone(), Instant::now(), Arc::new(AtomicBool::new(false)), done);
    }
    let mut answers: Vec<(usize, Answer)> = requests.iter().map(|_| receive.recv().unwrap()).collect();
    answers.sort_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// One cohort takes requests of any scenario: what comes back is, bit for bit, what each gets alone with everything said.
#[test]
fn requests_of_different_scenarios_share_a_cohort() {
    let (export, [half, few]) = export_with(&bundles());
    let limits =
        Limits { max_cohorts: 1, max_cohort_rows: 512, max_prefill_tokens: 1024, max_sequences: 32, ..small_limits() };
    let serving = engine(&export.path(""), Dtype::F32, 1, limits);
    let mut chance = Seeded(7);
    let pairs: Vec<[Request; 2]> = (0..28).map(|id| pair(id, &mut chance)).collect();
    let expected: Vec<_> =
        pairs.iter().map(|[_, said]| exact(&serving.recommend(said.clone()).unwrap().results)).collect();
    let short: Vec<Request> = pairs.iter().map(|[short, _]| short.clone()).collect();
    // Who meets whom is a matter of time. With fewer cohorts than the seven kinds of requests, kinds were in one cohort.
    let mut cohorts = Vec::new();
    while cohorts.last().is_none_or(|cohorts| *cohorts >= 7) {
        assert!(cohorts.len() < 50, "kinds of requests are not searched together: {cohorts:?} cohorts");
        let before = serving.counts();
        for (at, answer) in together(&serving, &short).iter().enumerate() {
            let results = &answer.as_ref().unwrap().results;
            assert_eq!(exact(results), expected[at], "request {at}");
            assert!(!results.is_empty(), "request {at}");
            let pool = [Some(&half), Some(&few), None, Some(&half), Some(&half), Some(&few), Some(&few)][at % 7];
            let items = || results.iter().flat_map(|ranked| &ranked.items);
            assert!(pool.is_none_or(|pool| items().all(|item| pool.contains(&item.id))), "request {at}");
        }
        let after = serving.counts();
        assert_eq!(after.cohort_requests.sum - before.cohort_requests.sum, 28);
        cohorts.push(after.cohort_requests.count() - before.cohort_requests.count());
    }
}

fn refusal(engine: &Engine, request: Request) -> Refusal {
    engine.recommend(request).unwrap_err()
}

#[test]
fn refusals_name_the_scenario() {
    let (export, _) = export_with(&bundles());
    let serving = engine(&export.path(""), Dtype::F32, 1, small_limits());
    let ask = |scenario, beams, top| Request { scenario, ..Request::new(1, History::Tokens(vec![1]), beams, top) };
    let (bad, unsupported) = (RefusalKind::BadRequest, RefusalKind::Unsupported);
    for (request, kind, told) in [
        (ask(None, 0, 0), bad, "beams is 0; at least 1 is needed"),
        (ask(Some(4), 0, 0), bad, "with scenario 4 (\"only a view\"): beams is 0; at least 1 is needed"),
        (ask(Some(4), 8, 0), bad, "with scenario 4 (\"only a view\"): top is 0; it must be 1 to beams (8)"),
        (ask(Some(2), 0, 9), bad, "with scenario 2: top is 9; it must be 1 to beams (8)"),
        (
            ask(Some(9), 8, 8),
            unsupported,
            "scenario 9: this export has 1 (\"home\"), 2, 3 (\"wide\"), 4 (\"only a view\")",
        ),
    ] {
        assert_eq!(refusal(&serving, request), Refusal::new(kind, told));
    }
    let plain = engine(&common::golden(EXPORT), Dtype::F32, 1, small_limits());
    let told = "scenario 1: this export has no scenarios";
    assert_eq!(refusal(&plain, ask(Some(1), 8, 8)), Refusal::new(unsupported, told));
}

/// `recommend` and `check`: a good file is used, a bad one keeps the export from loading, and both say where it is wrong.
#[test]
fn the_command_line_takes_scenarios_and_says_what_is_wrong() {
    let (export, _) = export_with(&bundles());
    let ask = |line: Value| {
        let args = ["recommend", export.arg(), "--requests", "-", "--threads", "1"];
        sidereal_with_input(&args, &format!("{line}\n"))
    };
    let results = |line: Value| ask(line).exits(0).json_lines().remove(0)["results"].clone();
    let said = results(json!({"items": [12069], "beams": 8, "top": 8, "view": "few"}));
    assert_eq!(said.as_array().unwrap().len(), 8);
    assert_eq!(results(json!({"items": [12069], "scenario": 2})), said);
    assert_eq!(
        results(json!({"items": [12069], "scenario": 2, "top": 3})).as_array().unwrap()[..],
        said.as_array().unwrap()[..3]
    );
    ask(json!({"items": [12069], "scenario": 7})).exits(1).says("scenario 7: this export has 1").says("UNSUPPORTED");

    let check = || sidereal(&["check", export.arg(), "--skip-goldens", "--threads", "1"]);
    check().exits(0).says("4 scenarios, within the default limits");
    replace(&export, &json!({"scenarios": [{"id": 1, "beams": 2000}]}));
    check().exits(0).says("only higher limits serve them").says("scenarios[0].beams");
    ask(json!({"items": [12069], "beams": 8})).exits(1).says("scenarios.json").says("the limit (max_beams) is 1024");
    for (scenario, told) in [
        (json!({"id": 1, "view": "hlf"}), "view \"hlf\": this export has few, half"),
        (json!({"id": 1, "beam": 8}), "unknown key `scenarios[0].beam`; did you mean `beams`?"),
        (json!({"id": 1, "instructions": {"hint": "required"}}), "this export has no instructions"),
    ] {
        replace(&export, &json!({"scenarios": [scenario]}));
        let told = told.replace('"', "\\\"");
        sidereal(&["check", export.arg(), "--skip-goldens", "--threads", "1", "--json"]).exits(1).says(&told);
        ask(json!({"items": [12069], "beams": 8})).exits(1).says("scenarios.json");
    }
}

/// Asks until `done` likes the answer.
fn until(client: &mut Client, request: &Request, done: impl Fn(&Answer) -> bool) {
    let began = Instant::now();
    loop {
        let answer = client.recommend(request).unwrap();
        if done(&answer) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "the file is not taken; last answer {answer:?}");
    }
}

/// A running server takes a new file, keeps the former set over a bad one and over none, and counts and logs each.
#[test]
fn a_running_server_takes_a_new_file() {
    let export = Copy::of(EXPORT);
    let server = Serving::of(export.arg(), &["--listen", "127.0.0.1:0"]);
    let mut client = server.connect(0, None);
    let request =
        Request { scenario: Some(1), ..Request::new(1, History::Items(ItemRefs::Ids(vec![12069, 23326])), 0, 0) };
    let told = client.recommend(&request).unwrap().unwrap_err().message;
    assert_eq!(told, "scenario 1: this export has no scenarios");
    let gives = |count: usize| move |answer: &Answer| answer.as_ref().is_ok_and(|good| good.results.len() == count);
    let stats = |client: &mut Client| -> Value { serde_json::from_str(&client.stats().unwrap().engine).unwrap() };
    let wait = |client: &mut Client, applied: u64, refused: u64| {
        let began = Instant::now();
        while stats(client)["scenario_reloads"] != json!({"applied": applied, "refused": refused}) {
            assert!(began.elapsed() < PATIENCE, "{}", stats(client));
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let of = |top: u32| json!({"scenarios": [{"id": 1, "beams": 16, "top": top}]});

    replace(&export, &of(7));
    until(&mut client, &request, gives(7));
    // Somebody else is asking all the while: one set or the other, and nobody is refused.
    let stop = AtomicBool::new(false);
    let seen: BTreeSet<usize> = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut client = server.connect(0, None);
            let mut seen = BTreeSet::new();
            while !stop.load(std::sync::atomic::Ordering::Acquire) {
                seen.insert(client.recommend(&request).unwrap().expect("nobody is refused").results.len());
            }
            seen
        });
        replace(&export, &of(11));
        until(&mut client, &request, gives(11));
        wait(&mut client, 2, 0);
        replace(&export, &json!({"scenarios": [{"id": 1, "beams": 16, "top": 17}]}));
        wait(&mut client, 2, 1);
        std::fs::remove_file(export.path("scenarios.json")).unwrap();
        wait(&mut client, 2, 2);
        stop.store(true, std::sync::atomic::Ordering::Release);
        load.join().unwrap()
    });
    assert!(seen.is_subset(&BTreeSet::from([7, 11])), "{seen:?}");
    until(&mut client, &request, gives(11));
    assert_eq!(stats(&mut client)["scenarios"], 1);
    replace(&export, &json!({"scenarios": []}));
    until(&mut client, &request, Result::is_err);
    let gone = client.recommend(&request).unwrap().unwrap_err();
    assert_eq!((gone.kind, gone.message), (RefusalKind::Unsupported, told));
    wait(&mut client, 3, 2);

    server.signal("TERM");
    let ran = server.finish().exits(0);
    let logs: Vec<Value> = ran.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let errors = |message: &str| -> Vec<String> {
        let of = logs.iter().filter(|log| log["fields"]["message"] == message);
        of.map(|log| log["fields"]["error"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(errors("scenarios applied").len(), 3);
    let refused = errors("the new scenarios are not taken; the former ones hold");
    assert_eq!(refused.len(), 2, "each is told once: {refused:?}");
    assert!(refused[0].contains("`scenarios[0].top`: is 17; it must be at most beams (16)"), "{refused:?}");
    assert!(refused[1].contains("the file is gone"), "{refused:?}");
}
