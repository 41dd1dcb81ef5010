//! Round trips of the protocol over loopback: `cargo bench --bench protocol`. Without `--bench` (in the test run) a few of each.
//!
//! The engine behind the socket is the tests' fake one, so the figures are those of codec, socket loop and client.

#[path = "../tests/wire/fake.rs"]
#[allow(dead_code, reason = "shared with the protocol tests, which use all of it")]
mod fake;

use std::time::{Duration, Instant};

use sidereal::client::Client;
use sidereal::serve::wire::Message;
use sidereal::serve::{Address, ServerConfig};

use fake::*;

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[(times.len() as f64 * share) as usize].as_nanos() as f64 / 1000.0;
    let total: Duration = times.iter().sum();
    println!(
        "{what:<32} {:>9.0} a second, us: min {:.1}, P50 {:.1}, P99 {:.1}, P99.9 {:.1}",
        times.len() as f64 / total.as_secs_f64(),
        at(0.0),
        at(0.5),
        at(0.99),
        at(0.999)
    );
}

fn main() {
    let full = std::env::args().any(|argument| argument == "--bench");
    let count = |figure: usize| if full { figure } else { 10 };
    let directory = tempfile::tempdir().unwrap();
    let listen = vec!["127.0.0.1:0".parse().unwrap(), Address::Unix(directory.path().join("s.sock"))];
    let config = ServerConfig { listen, ..ServerConfig::new(vec![]) };
    let server = start(config, &FakeEngine::prompt());
    for address in server.addresses() {
        let name = if matches!(address, Address::Tcp(_)) { "TCP" } else { "Unix" };
        let mut client = Client::connect(address, &options()).unwrap();
        (0..count(2000)).for_each(|_| assert!(client.ping().is_ok()));
        let pings = (0..count(50_000)).map(|_| client.ping().unwrap()).collect();
        report(&format!("{name} PING, one at a time"), pings);
        let asked = request(1, 10);
        let requests = (0..count(20_000)).map(|_| {
            let start = Instant::now();
            client.recommend(&asked).unwrap().unwrap();
            start.elapsed()
        });
        report(&format!("{name} RECOMMEND, no model"), requests.collect());
    }
    let mut peer = RawPeer::greeted(&server);
    let batch: Vec<u8> = (0..64).flat_map(|id| Message::Ping { id }.to_bytes().unwrap()).collect();
    let start = Instant::now();
    let batches = count(5_000);
    for _ in 0..batches {
        peer.send_bytes(&batch);
        (0..64).for_each(|_| assert!(matches!(peer.receive(), Some(Message::Pong { .. }))));
    }
    println!(
        "TCP PING, 64 at a time            {:>9.0} a second",
        (64 * batches) as f64 / start.elapsed().as_secs_f64()
    );
}
