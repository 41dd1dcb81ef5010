//! The remote instruction store against a real `redis-server`: live, killed, stopped and started again.

mod cli_support;

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cli_support::sidereal;
use serde_json::{Value, json};
use sidereal::store::{
    BreakerConfig, BreakerState, Found, Key, LookupLimits, Lookups, Reason, RemoteConfig, Store, StoreConfig,
};
use tempfile::TempDir;

/// Nothing here takes so long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server of its own on a free port, without a disk.
struct Server {
    child: Child,
    port: u16,
    folder: TempDir,
}

impl Server {
    fn start() -> Server {
        // Somebody may take the port before the server does.
        for _ in 0..10 {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            let folder = TempDir::new().unwrap();
            if let Some(child) = Server::run(port, &folder) {
                return Server { child, port, folder };
            }
        }
        panic!("redis-server did not start on any of ten ports");
    }

    /// Runs the server; `None` if it ends instead of listening.
    fn run(port: u16, folder: &TempDir) -> Option<Child> {
        let port_text = port.to_string();
        let folder = folder.path().to_str().unwrap();
        let arguments =
            ["--port", &port_text, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder];
        let started = Command::new("redis-server").args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let mut child = started.unwrap_or_else(|error| {
            panic!("redis-server does not start ({error}); these tests need it: apt-get install redis-server")
        });
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if child.try_wait().unwrap().is_some() {
                return None;
            }
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Some(child);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
        None
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/2", self.port)
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap().success());
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on its port, empty.
    fn restart(&mut self) {
        self.child = Server::run(self.port, &self.folder).expect("the port is still free");
    }

    fn load(&self, records: &[Value], more: &[&str]) {
        let file = self.folder.path().join("records.jsonl");
        let text: String = records.iter().map(|record| format!("{record}\n")).collect();
        std::fs::write(&file, text).unwrap();
        let url = self.url();
        let args = ["instructions", "load", file.to_str().unwrap(), "--store", &url];
        sidereal(&[&args, more].concat()).exits(0);
    }

    /// The store with a breaker that opens after three failures, for a moment.
    fn store(&self) -> Store {
        let breaker = BreakerConfig {
            failures: 3,
            // A loaded machine answers late without being broken.
            slow: PATIENCE,
            pause: Duration::from_millis(20),
            max_pause: Duration::from_millis(100),
        };
        let remote = RemoteConfig { breaker, connect_timeout: PATIENCE, response_timeout: PATIENCE };
        Store::open(&StoreConfig { remote, ..StoreConfig::new(self.url()) }).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn key(user: &str) -> Key {
    Key::new("reasoning", user).unwrap()
}

fn vector(found: &Found) -> Option<&[f32]> {
    if let Found::Record(record) = found { Some(&record.vector) } else { None }
}

/// Asks until the answer is as wanted.
fn until(mut ask: impl FnMut() -> Found, wanted: impl Fn(&Found) -> bool) -> Found {
    let began = Instant::now();
    loop {
        let found = ask();
        if wanted(&found) {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "still {found:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn loads_finds_and_counts_in_redis() {
    let server = Server::start();
    let mut records: Vec<Value> =
        (0..2000).map(|number| json!({"user": format!("u:{number}"), "vector": [number, 0.5], "version": 3})).collect();
    records.push(json!({"user": "u:7", "scenario": 4, "vector": [70.0, 0.5]}));
    server.load(&records, &[]);
    let url = server.url();
    let get = |more: &[&str]| sidereal(&[&["instructions", "get", "--store", &url, "--json"], more].concat());
    assert_eq!(get(&["u:7"]).exits(0).json()["vector"], json!([7.0, 0.5]));
    assert_eq!(get(&["u:7", "--scenario", "4"]).exits(0).json()["vector"], json!([70.0, 0.5]));
    assert_eq!(get(&["u:7", "--scenario", "5"]).exits(0).json()["vector"], json!([7.0, 0.5]));
    assert_eq!(get(&["nobody"]).exits(1).json()["outcome"], "missing");
    let stats = sidereal(&["instructions", "stats", "--store", &url, "--json"]).exits(0).json();
    assert_eq!((&stats["records"], &stats["scenario_records"], &stats["bad"]), (&json!(2001), &json!(1), &json!(0)));
    assert_eq!(stats["store"], json!(url));

    // Many keys are one round trip, with each answer in its place.
    let keys: Vec<Key> = (0..2100).map(|number| key(&format!("u:{number}")).for_scenario(4)).collect();
    let store = server.store();
    for (number, found) in store.lookup(&keys, PATIENCE).iter().enumerate() {
        match number {
            7 => assert_eq!(vector(found), Some(&[70.0, 0.5][..])),
            0..2000 => assert_eq!(vector(found), Some(&[number as f32, 0.5][..])),
            _ => assert_eq!(*found, Found::Missing),
        }
    }
    let counts = store.counts();
    assert_eq!((counts.hits, counts.missing, counts.breaker), (2000, 100, BreakerState::Closed));
}

#[test]
fn keys_are_the_documented_text_and_may_run_out() {
    let server = Server::start();
    server.load(&[json!({"user": "u:1", "scenario": 9, "vector": [1, 2]}), json!({"user": "é", "vector": [1]})], &[]);
    server.load(&[json!({"user": "brief", "vector": [1]})], &["--ttl", "1h"]);
    let mut connection = redis::Client::open(server.url()).unwrap().get_connection().unwrap();
    let ttl = |key: &str, connection: &mut redis::Connection| -> i64 {
        redis::cmd("PTTL").arg(key).query(connection).unwrap()
    };
    // -1: there, and for ever. -2: not there.
    assert_eq!(ttl("sidereal:1:reasoning:9:u:1", &mut connection), -1);
    assert_eq!(ttl("sidereal:1:reasoning:-:é", &mut connection), -1);
    let left = ttl("sidereal:1:reasoning:-:brief", &mut connection);
    assert!((1..=3_600_000).contains(&left), "{left}");
    // What others put there is no record.
    let set = |key: &str, value: &str, connection: &mut redis::Connection| {
        redis::cmd("SET").arg(key).arg(value).exec(connection).unwrap();
    };
    set("sidereal:1:reasoning:-:foreign", "hello", &mut connection);
    set("theirs", "hello", &mut connection);
    assert!(matches!(server.store().lookup(&[key("foreign")], PATIENCE)[..], [Found::Bad { .. }]));
    let stats = server.store().stats().unwrap();
    assert_eq!((stats.records, stats.bad), (3, 1));
}

#[test]
fn a_server_that_dies_is_left_alone_and_found_again() {
    let mut server = Server::start();
    server.load(&[json!({"user": "u", "vector": [1, 2]})], &[]);
    let store = server.store();
    let ask = || store.lookup(&[key("u")], PATIENCE).pop().unwrap();
    assert_eq!(vector(&ask()), Some(&[1.0, 2.0][..]));
    server.kill();
    // Each look-up fails by itself; the third in a row opens the breaker.
    for number in 0..3 {
        let found = ask();
        assert!(matches!(found, Found::Failed { reason: Reason::Backend(_) }), "{number}: {found:?}");
    }
    assert_eq!((store.counts().breaker, store.counts().breaker_opened), (BreakerState::Open, 1));
    until(ask, |found| *found == Found::Failed { reason: Reason::BreakerOpen });
    // Probes fail while it is gone.
    until(ask, |found| matches!(found, Found::Failed { reason: Reason::Backend(_) }));
    server.restart();
    assert_eq!(until(ask, |found| !matches!(found, Found::Failed { .. })), Found::Missing, "it has started empty");
    assert_eq!(store.counts().breaker, BreakerState::Closed);
    server.load(&[json!({"user": "u", "vector": [3, 4]})], &[]);
    assert_eq!(vector(&ask()), Some(&[3.0, 4.0][..]));
}

/// A stopped server accepts connections and bytes, and says nothing: no call fails but by its time.
#[test]
fn a_server_that_hangs_costs_each_look_up_its_budget_and_no_more() {
    let server = Server::start();
    server.load(&[json!({"user": "u", "vector": [1, 2]})], &[]);
    let store = Arc::new(server.store());
    let lookups = Lookups::start(Arc::clone(&store), &LookupLimits::default()).unwrap();
    let ask = |budget: Duration| lookups.lookup(vec![key("u")], budget).pop().unwrap();
    assert_eq!(vector(&ask(PATIENCE)), Some(&[1.0, 2.0][..]));
    server.signal("STOP");
    // One with an hour is with the worker, waiting for an answer; those behind it still get theirs in time.
    let (sender, late) = crossbeam_channel::bounded(1);
    lookups.submit(vec![key("u")], Duration::from_secs(3600), move |found| sender.send(found).unwrap());
    for _ in 0..5 {
        assert_eq!(ask(Duration::from_millis(20)), Found::Failed { reason: Reason::Timeout });
    }
    assert!(late.is_empty());
    server.signal("CONT");
    assert_eq!(vector(&late.recv_timeout(PATIENCE).unwrap()[0]), Some(&[1.0, 2.0][..]));
    assert_eq!(vector(&until(|| ask(PATIENCE), |found| vector(found).is_some())), Some(&[1.0, 2.0][..]));

    // With short budgets alone the breaker opens: nobody waits for a server that hangs. Afterwards it is found again.
    server.signal("STOP");
    let opened =
        until(|| ask(Duration::from_millis(20)), |found| *found == Found::Failed { reason: Reason::BreakerOpen });
    assert_eq!(opened, Found::Failed { reason: Reason::BreakerOpen });
    assert!(store.counts().breaker_opened >= 1 && store.counts().timeouts >= 5);
    server.signal("CONT");
    until(|| ask(PATIENCE), |found| vector(found).is_some());
    assert_eq!(store.counts().breaker, BreakerState::Closed);
}

#[test]
fn a_load_into_a_server_that_is_not_there_says_so() {
    let mut server = Server::start();
    server.kill();
    let file = server.folder.path().join("records.jsonl");
    std::fs::write(&file, "{\"user\":\"u\",\"vector\":[1]}\n").unwrap();
    let url = server.url();
    sidereal(&["instructions", "load", file.to_str().unwrap(), "--store", &url]).exits(3).says(&url);
    sidereal(&["instructions", "get", "--store", &url, "u"]).exits(3).says(&url);
}
