//! Runs against a server with a pretend engine, over real sockets. Latencies are asserted from below only: a busy machine
//! makes everything slower.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Sender, bounded};

use super::*;
use crate::bench::measure::{self, Asked, Run};
use crate::bench::records::Outcome;
use crate::bench::schedule::{Arrivals, ScheduleSpec};
use crate::request::{Answer, History, Provenance, Recommendation, Refusal, RefusalKind, Request, StageTimings};
use crate::serve::{Server, ServerConfig, ServerFacts, Service};

const MS: fn(u64) -> Duration = Duration::from_millis;
/// Longer than any test.
const LONG: Duration = Duration::from_secs(60);

type Done = Box<dyn FnOnce(Answer) + Send>;
/// What the engine does with its request number `n`: answer (`Some`), or never (`None`).
type Behaviour = Box<dyn Fn(u64) -> Option<Result<(), RefusalKind>> + Send>;

/// Answers one request after the other, on a thread of its own.
struct Serial {
    queue: Sender<(Request, Done)>,
    seen: Arc<Mutex<Vec<Request>>>,
    waiting: Arc<AtomicU64>,
    most_waiting: AtomicU64,
}

impl Serial {
    fn start(behaviour: Behaviour) -> (Server, Arc<Serial>, Target) {
        let (queue, requests) = bounded::<(Request, Done)>(100_000);
        let waiting = Arc::new(AtomicU64::new(0));
        let answered = Arc::clone(&waiting);
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for (number, (request, done)) in requests.into_iter().enumerate() {
                let answer = behaviour(number as u64);
                answered.fetch_sub(1, Ordering::SeqCst);
                match answer {
                    Some(Ok(())) => done(Ok(answer_to(&request))),
                    Some(Err(kind)) => done(Err(Refusal::new(kind, "so the test wants it"))),
                    None => silent.push(done),
                }
            }
        });
        let engine = Arc::new(Serial { queue, seen: Arc::default(), waiting, most_waiting: AtomicU64::new(0) });
        let mut config = ServerConfig::new(vec!["127.0.0.1:0".parse().unwrap()]);
        config.limits.max_in_flight_per_connection = 10_000;
        let server = Server::start(config, Arc::clone(&engine) as Arc<dyn Service>).unwrap();
        let target =
            Target { address: server.addresses()[0].clone(), options: ClientOptions::default(), connections: 3 };
        (server, engine, target)
    }

    fn seen_beams(&self) -> Vec<u32> {
        self.seen.lock().unwrap().iter().map(|request| request.beams).collect()
    }
}

impl Service for Serial {
    fn submit(&self, request: Request, _arrived: Instant, _cancel: Arc<AtomicBool>, done: Done) {
        self.seen.lock().unwrap().push(request.clone());
        let waiting = self.waiting.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_waiting.fetch_max(waiting, Ordering::SeqCst);
        self.queue.try_send((request, done)).expect("the queue holds what a test sends");
    }

    fn stats(&self) -> String {
        String::new()
    }

    fn facts(&self) -> ServerFacts {
        ServerFacts::default()
    }
}

fn answer_to(request: &Request) -> Recommendation {
    Recommendation {
        id: request.id,
        results: Vec::new(),
        unknown_items: 0,
        prompt_tokens: 1,
        instructions: Vec::new(),
        provenance: Provenance::default(),
        timings: StageTimings::default(),
    }
}

/// Requests that are told apart by their beams.
fn workload(count: u32) -> Workload {
    let request = |beams| Request::new(0, History::Tokens(vec![1]), beams, 1);
    Workload::replayed((1..=count).map(request).collect()).unwrap()
}

fn constant(rate: f64, length: Duration) -> Demand {
    Demand::Open(ScheduleSpec { arrivals: Arrivals::Constant, rate, length, seed: 1 }.arrivals())
}

/// A run of `demand`, with nothing else asked for.
fn load<'a>(target: &'a Target, workload: &'a Workload, demand: &'a Demand, stop: &'a AtomicBool) -> Load<'a> {
    Load { target, workload, first: 0, demand, deadline: None, timeout: LONG, give_up: None, stop }
}

fn count(records: &Records, of: impl Fn(&Outcome) -> bool) -> usize {
    records.requests.iter().filter(|record| of(&record.outcome)).count()
}

fn is_answer(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Answered(_))
}

/// The story of coordinated omission: a server stalls for a second, a generator that waits for it sends nothing meanwhile,
/// and the report has one bad request where two hundred callers were kept waiting.
#[test]
fn a_stall_is_seen_by_everybody_who_was_due_in_it() {
    let (stalled, stall) = (100, MS(1000));
    let (_server, _, mut target) = Serial::start(Box::new(move |number| {
        if number == stalled {
            std::thread::sleep(stall);
        }
        Some(Ok(()))
    }));
    // One connection: the requests arrive in order, so that the hundredth is the one that was due at 0.5 s.
    target.connections = 1;
    let demand = constant(200.0, MS(2000));
    let workload = workload(1);
    let stop = AtomicBool::new(false);
    let records = load(&target, &workload, &demand, &stop).run(|_| {}).unwrap();
    assert_eq!((records.requests.len(), count(&records, is_answer)), (400, 400));
    let begin = records.requests[stalled as usize].due;
    for record in records.requests.iter().filter(|record| record.due >= begin && record.due < begin + stall) {
        assert!(record.latency >= begin + stall - record.due, "due at {:?}: {:?}", record.due, record.latency);
    }
    // A quarter of all was due in the stall's first half, a twentieth in its first tenth. The histogram has three digits.
    let judged = measure::Target { length: MS(2000), ..measure::Target::default() };
    let asked = Asked { name: "stall".into(), rate: Some(200.0), in_flight: None, seed: 1 };
    let latency = Run::measure(asked, &records, &judged).latency_ms;
    assert!(latency.p90 >= 499.0 && latency.p99 >= 899.0 && latency.max >= 999.0, "{latency:?}");
}

#[test]
fn every_request_is_sent_once_and_every_answer_is_counted() {
    let refuse = |number: u64| Some(if number.is_multiple_of(3) { Err(RefusalKind::Overloaded) } else { Ok(()) });
    let (_server, engine, target) = Serial::start(Box::new(refuse));
    let (demand, workload, stop) = (constant(1000.0, MS(300)), workload(300), AtomicBool::new(false));
    let mut told = Vec::new();
    let records = load(&target, &workload, &demand, &stop).run(|settled| told.push(settled)).unwrap();
    let beams = engine.seen_beams();
    assert_eq!((beams.len(), beams.iter().collect::<BTreeSet<_>>().len()), (300, 300));
    assert_eq!((records.requests.len(), records.unsent, records.cut), (300, 0, None));
    assert_eq!((count(&records, is_answer), count(&records, |outcome| !is_answer(outcome))), (200, 100));
    assert!(records.first_refusal.as_deref().is_some_and(|told| told.contains("OVERLOADED")), "{records:?}");
    assert!(told.is_sorted() && records.requests.is_sorted_by_key(|record| record.due));
}

#[test]
fn silence_is_a_timeout_and_no_loss() {
    let (_server, _, target) = Serial::start(Box::new(|number| (number != 7).then_some(Ok(()))));
    let (demand, workload, stop) = (constant(500.0, MS(100)), workload(1), AtomicBool::new(false));
    let run = Load { timeout: MS(200), ..load(&target, &workload, &demand, &stop) };
    let records = run.run(|_| {}).unwrap();
    // Under load an answer may be late too, but the silent request is among those without.
    assert_eq!(records.requests.len(), 50);
    let timed_out = count(&records, |outcome| *outcome == Outcome::TimedOut);
    assert!(timed_out >= 1 && timed_out + count(&records, is_answer) == 50, "{records:?}");
    let silent = records.requests.iter().find(|record| record.outcome == Outcome::TimedOut).unwrap();
    assert!(silent.latency >= MS(200));
}

#[test]
fn requests_of_a_broken_connection_are_errors() {
    let (server, engine, target) = Serial::start(Box::new(|_| Some(Ok(()))));
    let (demand, workload, stop) = (constant(300.0, MS(1000)), workload(1), AtomicBool::new(false));
    let records = std::thread::scope(|scope| {
        let run = scope.spawn(|| load(&target, &workload, &demand, &stop).run(|_| {}).unwrap());
        while engine.seen.lock().unwrap().len() < 20 {
            std::thread::sleep(MS(1));
        }
        drop(server);
        run.join().unwrap()
    });
    let failed = count(&records, |outcome| *outcome == Outcome::Failed);
    assert_eq!((records.requests.len(), records.unsent), (300, 0));
    assert!(failed >= 1 && failed + count(&records, is_answer) == 300, "{failed} failed");
    assert!(records.first_failure.is_some());
}

#[test]
fn a_closed_loop_has_no_more_in_flight_than_asked_for() {
    let slow = |_| {
        std::thread::sleep(MS(1));
        Some(Ok(()))
    };
    let (_server, engine, target) = Serial::start(Box::new(slow));
    let (workload, stop) = (workload(1_000_000), AtomicBool::new(false));
    for in_flight in [1, 7] {
        engine.most_waiting.store(0, Ordering::SeqCst);
        let demand = Demand::Closed { in_flight, length: MS(200) };
        let records = load(&target, &workload, &demand, &stop).run(|_| {}).unwrap();
        assert!(records.requests.len() > in_flight && count(&records, is_answer) == records.requests.len());
        assert!(engine.most_waiting.load(Ordering::SeqCst) <= in_flight as u64);
    }
}

#[test]
fn a_run_that_can_only_miss_ends_early_and_says_so() {
    let (_server, _, target) = Serial::start(Box::new(|_| Some(Err(RefusalKind::Deadline))));
    let (demand, workload, stop) = (constant(200.0, LONG), workload(1), AtomicBool::new(false));
    let give_up = GiveUp { latency: LONG, misses: 5, warmup: MS(50) };
    let run = Load { give_up: Some(give_up), ..load(&target, &workload, &demand, &stop) };
    let records = run.run(|_| {}).unwrap();
    assert_eq!((records.cut, records.requests.len() + records.unsent), (Some(Cut::Decided), 12_000));
    assert!(records.unsent > 0 && records.requests.len() >= 6);
}

#[test]
fn an_interrupt_keeps_what_was_measured() {
    let (_server, engine, target) = Serial::start(Box::new(|_| Some(Ok(()))));
    let (demand, workload, stop) = (constant(200.0, LONG), workload(1), AtomicBool::new(false));
    let records = std::thread::scope(|scope| {
        let run = scope.spawn(|| load(&target, &workload, &demand, &stop).run(|_| {}).unwrap());
        while engine.seen.lock().unwrap().len() < 20 {
            std::thread::sleep(MS(1));
        }
        stop.store(true, Ordering::Relaxed);
        run.join().unwrap()
    });
    assert_eq!((records.cut, records.requests.len() + records.unsent), (Some(Cut::Interrupted), 12_000));
    assert!(count(&records, is_answer) >= 20);
}

/// A deadline counts from the scheduled arrival: a request that leaves late has less of it.
#[test]
fn a_deadline_never_grows_by_late_sending() {
    let (_server, engine, target) = Serial::start(Box::new(|_| Some(Ok(()))));
    let (demand, workload, stop) = (constant(500.0, MS(100)), workload(1), AtomicBool::new(false));
    let run = Load { deadline: Some(MS(400)), ..load(&target, &workload, &demand, &stop) };
    run.run(|_| {}).unwrap();
    let seen = engine.seen.lock().unwrap();
    assert!(seen.len() == 50 && seen.iter().all(|request| request.deadline.is_some_and(|left| left <= MS(400))));
}

#[test]
fn nobody_there_is_an_error() {
    let (server, _, target) = Serial::start(Box::new(|_| Some(Ok(()))));
    drop(server);
    let (demand, workload, stop) = (constant(1.0, MS(10)), workload(1), AtomicBool::new(false));
    let error = load(&target, &workload, &demand, &stop).run(|_| {}).unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");
}
