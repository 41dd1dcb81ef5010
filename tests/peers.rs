//! The real server on real sockets among peers that do anything: split and reorder what they send, ask twice, cancel, send
//! noise, read late or never, leave in the middle of a frame, reset, or fall silent behind GOODBYE. Beside them well-behaved
//! clients ask and compare. Held throughout: a request on a living connection gets exactly one reply, with its own id and
//! its own results; nobody gets a reply that was not asked for; the witnesses get every answer, bit for bit what the engine
//! says alone; and in the end no slot, page or request is left behind, and the server drains.
//!
//! A failure names its seed: `SIDEREAL_SEED=n cargo test --test peers` plays it again. `SIDEREAL_SIEGES=n` plays more seeds.

mod common;
#[path = "peers/peer.rs"]
mod peer;
#[path = "peers/script.rs"]
mod script;
#[path = "peers/socket.rs"]
mod socket;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Seeded, engine, golden, prompt_request, small_limits};
use sidereal::client::{Client, ClientOptions};
use sidereal::device::Dtype;
use sidereal::request::{Ranked, Request};
use sidereal::schedule::{Engine, Limits};
use sidereal::serve::{Address, DrainReport, Server, ServerConfig};

/// Longest wait for what must come, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(120);
/// Token ids of `t5-small-catalog`.
const VOCABULARY: u64 = 40;
/// Different requests that peers choose from.
const POOL: usize = 12;
/// Peers at the same time, and how often a new crowd comes.
const CROWD: usize = 14;
const CROWDS: usize = 3;
/// Sieges of a usual test run.
const SIEGES: u64 = 2;

/// A request and what the engine answers when it is alone.
struct Known {
    request: Request,
    results: Vec<Ranked>,
}

/// What all peers of a siege know.
struct Siege {
    pool: Vec<Known>,
    addresses: Vec<Address>,
}

impl Siege {
    /// The request that `id` stands for.
    fn known(&self, id: u64) -> &Known {
        &self.pool[(id % POOL as u64) as usize]
    }

    /// It, under that id.
    fn request(&self, id: u64) -> Request {
        Request { id, ..self.known(id).request.clone() }
    }
}

fn limits() -> Limits {
    Limits {
        // Room for what vanished peers have left behind: a witness is never refused.
        max_requests: 1024,
        max_sequences: 4,
        max_in_flight_per_connection: 10,
        max_frame_bytes: 64 << 10,
        // Nobody is ended by a clock here: on a busy machine that would end the orderly too. tests/wire/hostile.rs has those.
        stall_timeout: PATIENCE,
        idle_timeout: PATIENCE,
        ..small_limits()
    }
}

/// A well-behaved client: asks several things at once until it is told to stop, and misses nothing. How many it asked.
fn witness(siege: &Siege, address: &Address, stop: &AtomicBool) -> u64 {
    let options = ClientOptions { timeout: Some(PATIENCE), connect_timeout: PATIENCE, ..ClientOptions::default() };
    let mut client = Client::connect(address, &options).unwrap();
    let mut next = 0;
    while !stop.load(Ordering::Acquire) {
        let ids: Vec<u64> = (next..next + 3).collect();
        ids.iter().for_each(|id| client.send(&siege.request(*id)).unwrap());
        let mut answered: Vec<u64> = ids.iter().map(|_| checked(siege, client.receive().unwrap())).collect();
        answered.sort_unstable();
        assert_eq!(answered, ids, "each of the witness's requests is answered once");
        client.ping().unwrap();
        next += 3;
    }
    next
}

fn checked(siege: &Siege, (id, answer): (u64, sidereal::request::Answer)) -> u64 {
    let answer = answer.unwrap_or_else(|refusal| panic!("the witness was refused: {refusal}"));
    assert_eq!(answer.results, siege.known(id).results, "request {id} of the witness");
    id
}

/// Waits until nothing is in the engine, and says what is free then.
fn free_when_idle(engine: &Engine) -> u64 {
    let until = Instant::now() + PATIENCE;
    loop {
        let stats = engine.stats();
        if ["in_flight", "running", "waiting"].iter().all(|key| stats[*key] == 0) {
            return stats["free_pages"].as_u64().unwrap();
        }
        assert!(Instant::now() < until, "something is left in the engine: {stats}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn siege(seed: u64) {
    let mut seeded = Seeded(seed);
    let engine = Arc::new(engine(&golden("t5-small-catalog"), Dtype::F32, 1, limits()));
    let pool = (0..POOL as u64).map(|id| {
        let tokens = (0..1 + seeded.below(40)).map(|_| seeded.below(VOCABULARY) as u32).collect();
        let request = prompt_request(id, tokens, 1 + seeded.below(16) as u32);
        Known { results: engine.recommend(request.clone()).unwrap().results, request }
    });
    let pool = pool.collect();
    let free = free_when_idle(&engine);
    let folder = tempfile::tempdir().unwrap();
    let listen = vec!["127.0.0.1:0".parse().unwrap(), Address::Unix(folder.path().join("s.sock"))];
    let config = ServerConfig { limits: limits(), ..ServerConfig::new(listen) };
    let server = Server::start(config, engine.clone()).unwrap();
    let siege = Siege { pool, addresses: server.addresses().to_vec() };
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for address in &siege.addresses {
            let (siege, stop, asked) = (&siege, &stop, &asked);
            scope.spawn(move || asked.fetch_add(witness(siege, address, stop), Ordering::AcqRel));
        }
        // Whatever happens to a peer, the witnesses must stop for the scope to end.
        let besieged = catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..CROWDS {
                let seeds: Vec<u64> = (0..CROWD).map(|_| seeded.below(u64::MAX)).collect();
                thread::scope(|crowd| {
                    seeds.iter().for_each(|seed| drop(crowd.spawn(|| peer::misbehave(&siege, Seeded(*seed)))));
                });
            }
        }));
        stop.store(true, Ordering::Release);
        assert!(besieged.is_ok(), "a peer saw a promise broken; its thread says which");
    });
    assert!(asked.load(Ordering::Acquire) > 0, "the witnesses never got a turn");
    assert_eq!(free_when_idle(&engine), free, "pages are missing");
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!(server.drain(PATIENCE), DrainReport { unanswered: 0 });
    let counters = server.counters();
    assert_eq!(
        count(&counters.requests_accepted),
        count(&counters.answers_sent) + count(&counters.answers_orphaned),
        "{}",
        counters.to_json()
    );
    server.join().unwrap();
    engine.drain();
}

#[test]
fn nobody_is_harmed_by_anybody() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds: Vec<u64> = match number("SIDEREAL_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("SIDEREAL_SIEGES").unwrap_or(SIEGES)).collect(),
    };
    for seed in seeds {
        let told = catch_unwind(|| siege(seed));
        assert!(told.is_ok(), "SIDEREAL_SEED={seed} plays this siege again");
    }
}
