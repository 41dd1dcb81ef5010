//! The engine's threads under callers who submit, cancel and drain at random: one answer each, and nothing is left behind.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Seeded, engine, golden, prompt_request, small_limits};
use sidereal::device::Dtype;
use sidereal::request::{Answer, History, ItemRefs, RefusalKind, Request};
use sidereal::schedule::{Engine, Limits};

const CALLERS: u64 = 8;
const REQUESTS: u64 = 120;

/// What callers share.
struct Shared {
    engine: Engine,
    vocabulary: u64,
    answers: Vec<AtomicUsize>,
    served: AtomicUsize,
    answered: AtomicUsize,
}

fn plausible(answer: &Answer, cancelled: bool, deadline: Option<Duration>) -> bool {
    match answer {
        Ok(recommendation) => !recommendation.results.is_empty(),
        Err(refusal) => match refusal.kind {
            RefusalKind::Cancelled => cancelled,
            RefusalKind::Deadline => deadline.is_some(),
            RefusalKind::ShuttingDown | RefusalKind::Overloaded => true,
            _ => false,
        },
    }
}

/// One caller: submits without waiting for answers, and cancels some of what it asked for.
fn call(shared: &Arc<Shared>, caller: u64) {
    let mut seeded = Seeded(caller);
    let mut cancels: Vec<Arc<AtomicBool>> = Vec::new();
    for number in 0..REQUESTS {
        let id = (caller * REQUESTS + number) as usize;
        let tokens = (0..1 + seeded.below(150)).map(|_| seeded.below(shared.vocabulary) as u32).collect();
        let mut request = prompt_request(id as u64, tokens, 1 + seeded.below(32) as u32);
        let deadlines = [None, None, Some(0), Some(2), Some(50)];
        request.deadline = deadlines[seeded.below(5) as usize].map(Duration::from_millis);
        let (deadline, cancel, theirs) = (request.deadline, Arc::new(AtomicBool::new(false)), Arc::clone(shared));
        let flag = Arc::clone(&cancel);
        let done = Box::new(move |answer: Answer| {
            // Counted only where it is plausible: what is missing in the end is seen by the test.
            if plausible(&answer, flag.load(Ordering::Acquire), deadline) {
                theirs.answers[id].fetch_add(1, Ordering::AcqRel);
            }
            theirs.served.fetch_add(usize::from(answer.is_ok()), Ordering::AcqRel);
            theirs.answered.fetch_add(1, Ordering::AcqRel);
        });
        shared.engine.submit(request, Instant::now(), Arc::clone(&cancel), done);
        cancels.push(cancel);
        if seeded.below(5) == 0 {
            cancels[seeded.below(cancels.len() as u64) as usize].store(true, Ordering::Release);
        }
        if seeded.below(8) == 0 {
            std::thread::sleep(Duration::from_micros(seeded.below(3000)));
        }
    }
}

fn check(name: &str, vocabulary: u64, limits: Limits, drain_after: usize) {
    let shared = Arc::new(Shared {
        engine: engine(&golden(name), Dtype::F32, 1, limits),
        vocabulary,
        answers: (0..CALLERS * REQUESTS).map(|_| AtomicUsize::new(0)).collect(),
        served: AtomicUsize::new(0),
        answered: AtomicUsize::new(0),
    });
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let shared = &shared;
            scope.spawn(move || call(shared, caller));
        }
        scope.spawn(|| {
            while shared.answered.load(Ordering::Acquire) < drain_after {
                std::thread::sleep(Duration::from_millis(1));
            }
            shared.engine.drain();
        });
    });
    shared.engine.drain();
    let answers: Vec<usize> = shared.answers.iter().map(|count| count.load(Ordering::Acquire)).collect();
    let wrong: Vec<usize> = (0..answers.len()).filter(|id| answers[*id] != 1).collect();
    assert!(wrong.is_empty(), "{name}: not one plausible answer: {wrong:?}; {}", shared.engine.stats());
    let stats = shared.engine.stats();
    assert_eq!((&stats["in_flight"], &stats["running"], &stats["waiting"]), (&0.into(), &0.into(), &0.into()));
    assert!(shared.served.load(Ordering::Acquire) > 0, "{stats}");
    let late = shared.engine.recommend(prompt_request(0, vec![1], 1)).unwrap_err();
    assert_eq!(late.kind, RefusalKind::ShuttingDown);
}

#[test]
fn callers_cancel_and_an_operator_drains() {
    let tight = Limits { max_requests: 40, max_sequences: 3, max_cohorts: 1, max_prefill_tokens: 48, ..small_limits() };
    check("t5-small-catalog", 30, small_limits(), 400);
    check("t5-end-scored", 80, tight.clone(), 600);
    check("qwen3-gqa", 190, Limits { page_tokens: 16, ..tight }, 500);
    check("qwen3-gqa", 190, small_limits(), 900);
}

/// Nothing is left to recommend: an empty list, not an error, and the others in the cohort do not notice.
#[test]
fn a_request_may_deny_the_whole_catalogue() {
    let engine = engine(&golden("t5-small-catalog"), Dtype::F32, 1, small_limits());
    let request = prompt_request(1, vec![3, 20, 5], 8);
    let usual = engine.recommend(request.clone()).unwrap().results;
    assert!(!usual.is_empty());
    let every: Vec<u64> = (0..engine.catalog().leaves() as u32)
        .flat_map(|leaf| engine.catalog().items_of_leaf(leaf).to_vec())
        .map(|item| engine.catalog().id(item))
        .collect();
    let (send, receive) = crossbeam_channel::bounded(2);
    for request in [Request { deny: ItemRefs::Ids(every), ..request.clone() }, Request { id: 2, ..request }] {
        let send = send.clone();
        let done = Box::new(move |answer| send.send(answer).unwrap());
        engine.submit(request, Instant::now(), Arc::default(), done);
    }
    for _ in 0..2 {
        let answer = receive.recv().unwrap().unwrap();
        assert_eq!(answer.results, if answer.id == 1 { Vec::new() } else { usual.clone() });
    }
}

/// A deadline as far off as can be asked for is as far as the limits allow, and a past one is refused.
#[test]
fn deadlines_may_be_absurd() {
    let engine = engine(&golden("t5-small-catalog"), Dtype::F32, 1, small_limits());
    let request = |deadline| Request { deadline: Some(deadline), ..Request::new(1, History::Tokens(vec![3]), 4, 4) };
    assert!(engine.recommend(request(Duration::MAX)).is_ok());
    assert_eq!(engine.recommend(request(Duration::ZERO)).unwrap_err().kind, RefusalKind::Deadline);
}
