//! The door and the threads, on a device that computes nothing and breaks when it is told to.

use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

use super::*;
use crate::catalog::Journal;
use crate::export::ScenarioBounds;
use crate::request::{Answer, History, Policy, Provenance};
use crate::schedule::core::simulation::fakes::export;
use crate::schedule::core::simulation::parts;
use crate::schedule::core::simulation::scenario::Scenario;
use crate::schedule::core::simulation::world::{Known, World, prompt};
use crate::schedule::host::Host;
use crate::schedule::replace::Prepare;
use crate::schedule::scenarios::ScenarioFollower;
use crate::schedule::snapshots::{Follower, Followers};
use crate::search::SearchPlan;

const REQUESTS: usize = 12;
const TOKENS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(20);

/// An engine whose device panics at its operation number `panic_at`.
fn engine(panic_at: Option<u64>) -> Engine {
    let mut scenario = Scenario::plain(0, 64, 64);
    scenario.temper.panic_at = panic_at;
    let world = World::shared(scenario.shape.clone(), scenario.temper.clone(), scenario.lanes, 0);
    world.lock().known = vec![Known { tokens: TOKENS, beams: 4, ..Known::default() }; REQUESTS];
    let (mut parts, to_swap) = parts(&scenario, &world);
    parts.clock = Box::new(Instant::now);
    let (manifest, catalog) = export(scenario.export);
    let bounds = Bounds {
        instructions: None,
        max_prompt_tokens: 64,
        max_beams: 16,
        max_history_items: 10,
        max_denied_items: 10,
        vocabulary: usize::MAX,
        max_text_bytes: 100,
        max_list_items: 1,
    };
    let everything = Snapshot::new(Arc::clone(catalog), Vec::new());
    let journal = Journal::at(Path::new("no journal.delist"));
    let (snapshot, journal) = Follower::catch_up(journal, everything).unwrap();
    let scenarios = ScenarioFollower::catch_up(Path::new("no export"), ScenarioBounds::default()).unwrap();
    let host = Host {
        manifest: manifest.clone(),
        snapshots: Snapshots::new(snapshot),
        tokenizer: None,
        bounds,
        plan: SearchPlan::new(manifest),
        provenance: Provenance::default(),
    };
    let facts = EngineFacts {
        provenance: Provenance::default(),
        threads: 1,
        levels: 3,
        items: catalog.items(),
        max_beams: 16,
        max_prompt_tokens: 64,
    };
    let prepare: Prepare = Box::new(|_, _| Err(LoadError::EmptyCatalog));
    let replacer = Replacer::new(Policy::default(), prepare, Arc::clone(&parts.opening), to_swap);
    let followers = Some(Followers { journal, scenarios });
    Engine::launch(Loaded { host, parts, followers, facts, replacer }, Limits::default(), None).unwrap()
}

fn request(id: usize) -> Request {
    Request::new(id as u64, History::Tokens(prompt(id, TOKENS)), 4, 1)
}

fn submit(engine: &Engine, id: usize, done: impl FnOnce(Answer) + Send + 'static) {
    engine.submit(request(id), Instant::now(), Arc::default(), Box::new(done));
}

/// Submits request `id`; its answers come out of the queue, which closes after the last.
fn ask(engine: &Engine, id: usize) -> Receiver<Answer> {
    let (send, receive) = bounded(2);
    submit(engine, id, move |answer| send.send(answer).unwrap());
    receive
}

/// The one answer there is.
fn only(answers: &Receiver<Answer>) -> Answer {
    let answer = answers.recv_timeout(PATIENCE).expect("an answer");
    assert!(answers.recv_timeout(PATIENCE).is_err_and(|error| error.is_disconnected()), "a second answer");
    answer
}

/// An engine whose threads have ended after a panic.
fn broken() -> Engine {
    let engine = engine(Some(1));
    only(&ask(&engine, 0)).unwrap_err();
    for thread in lock(&engine.threads).drain(..) {
        let _ = thread.join();
    }
    engine
}

#[test]
fn answers_come_from_the_device() {
    let engine = engine(None);
    let answers: Vec<_> = (0..REQUESTS).map(|id| ask(&engine, id)).collect();
    for (id, answers) in answers.iter().enumerate() {
        let answer = only(answers).unwrap();
        assert_eq!((answer.id, answer.results.len()), (id as u64, 1));
    }
    assert_eq!(engine.stats()["in_flight"], 0);
}

#[test]
fn a_panic_of_the_engine_thread_refuses_everybody() {
    for panic_at in 1..30 {
        let engine = engine(Some(panic_at));
        let answers: Vec<_> = (0..REQUESTS).map(|id| ask(&engine, id)).collect();
        for answers in &answers {
            if let Err(refusal) = only(answers) {
                assert_eq!(refusal.kind, RefusalKind::DeviceFailed, "{refusal}");
            }
        }
        engine.drain();
        assert_eq!(engine.stats()["in_flight"], 0);
    }
}

/// Once this was OVERLOADED, "the engine's queue is full": an invitation to try again for ever.
#[test]
fn a_stopped_engine_says_so_at_once() {
    let engine = broken();
    assert!(engine.has_given_up(), "whoever serves is told");
    assert_eq!(engine.stats()["ready"], false);
    let began = Instant::now();
    let refusal = only(&ask(&engine, 1)).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::DeviceFailed);
    assert!(refusal.message.contains("the engine stopped after a fault"), "{refusal}");
    assert!(began.elapsed() < Duration::from_secs(1));
    engine.drain();
    assert_eq!(only(&ask(&engine, 2)).unwrap_err().kind, RefusalKind::ShuttingDown);
}

/// The door was locked while it answered, so that a caller that tried again from its callback waited for itself.
#[test]
fn a_callback_may_submit_anew() {
    fn again(engine: Arc<Engine>, id: usize, told: Sender<Answer>) {
        submit(&Arc::clone(&engine), id, move |answer| match id {
            0 => told.send(answer).unwrap(),
            _ => again(engine, id - 1, told),
        });
    }
    for engine in [Arc::new(broken()), Arc::new(engine(None))] {
        let (send, receive) = bounded(1);
        std::thread::spawn(move || again(engine, 5, send));
        let _ = receive.recv_timeout(PATIENCE).expect("the sixth attempt is answered");
    }
}

/// A callback that held the last handle drained the engine from the engine's own thread, which waited for itself.
#[test]
fn a_callback_may_drop_the_last_handle() {
    let (send, receive) = bounded(1);
    let (go, wait) = bounded::<()>(1);
    let engine = Arc::new(engine(None));
    let last = Arc::clone(&engine);
    submit(&engine, 0, move |answer| {
        // Until the other handle is gone; only a test may wait here.
        let _ = wait.recv_timeout(PATIENCE);
        drop(last);
        send.send(answer).unwrap();
    });
    drop(engine);
    go.send(()).unwrap();
    assert!(receive.recv_timeout(PATIENCE).expect("the drop returns").is_ok());
}

#[test]
fn everybody_who_drains_waits_until_it_is_done() {
    let engine = Arc::new(engine(None));
    let answers: Vec<_> = (0..REQUESTS).map(|id| ask(&engine, id)).collect();
    let drains: Vec<_> = (0..3)
        .map(|_| {
            let engine = Arc::clone(&engine);
            std::thread::spawn(move || {
                engine.drain();
                engine.in_flight.load(Ordering::Acquire)
            })
        })
        .collect();
    for drain in drains {
        assert_eq!(drain.join().unwrap(), 0);
    }
    answers.iter().for_each(|answers| drop(only(answers).unwrap()));
}
