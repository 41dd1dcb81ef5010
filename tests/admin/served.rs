//! The built binary under known traffic: what a scrape says is what was sent.

use std::net::SocketAddr;
use std::time::Duration;

use sidereal::request::{History, ItemRefs, Recommendation, RefusalKind, Request};
use sidereal::serve::wire::{FrameReader, Message};

use crate::cli_support::serving::Serving;
use crate::cli_support::{golden_arg, sidereal};
use crate::exposition::Scrape;
use crate::support::{PATIENCE, eventually, get};

const ARGS: [&str; 4] = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];

fn admin(server: &Serving) -> SocketAddr {
    server.hello["admin"].as_str().unwrap().parse().unwrap()
}

fn scrape(server: &Serving) -> Scrape {
    Scrape::parse(&get(admin(server), "/metrics").body)
}

fn items(id: u64, items: &[u64], beams: u32) -> Request {
    Request::new(id, History::Items(ItemRefs::Ids(items.to_vec())), beams, 5)
}

#[test]
fn a_scrape_says_what_was_sent() {
    let server = Serving::start(&[&ARGS[..], &["--max-in-flight-per-connection", "4"]].concat());
    let before = scrape(&server);
    assert_eq!(before.value("sidereal_requests_total", &[("layer", "engine"), ("outcome", "OK")]), 0.0);
    assert_eq!(before.value("sidereal_ready", &[]), 1.0);

    let mut client = server.connect(0, None);
    let beams = [64, 16, 7];
    let good: Vec<Recommendation> = (0..)
        .zip(beams)
        .map(|(id, beams)| client.recommend(&items(id, &[12069, 23326, 12069], beams)).unwrap().unwrap())
        .collect();
    let refused = |answer: Result<Recommendation, sidereal::request::Refusal>| answer.unwrap_err().kind;
    let late = Request { deadline: Some(Duration::ZERO), ..items(10, &[12069], 8) };
    assert_eq!(refused(client.recommend(&late).unwrap()), RefusalKind::Deadline);
    let strict = Request { strict: true, ..items(11, &[1], 8) };
    assert_eq!(refused(client.recommend(&strict).unwrap()), RefusalKind::UnknownItem);
    for id in 20..23 {
        assert_eq!(refused(client.recommend(&items(id, &[12069], 0)).unwrap()), RefusalKind::BadRequest);
    }
    // A burst on one connection over its limit: the socket loop refuses what is too many, before the engine.
    for _ in 0..6 {
        client.send(&items(30, &[12069], 64)).unwrap();
    }
    let burst: Vec<_> = (0..6).map(|_| client.receive().unwrap().1).collect();
    let twice = burst.iter().filter(|answer| answer.is_err()).count();
    assert!(twice > 0, "one id in flight twice is refused");
    // A stranger.
    let address: SocketAddr = server.hello["listening"][0].as_str().unwrap().parse().unwrap();
    let mut stranger = crate::support::connect(address);
    std::io::Write::write_all(&mut stranger, b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut frames = FrameReader::new(1 << 20);
    frames.push(&crate::support::rest(&mut stranger));
    assert!(matches!(Message::decode(&frames.next_frame().unwrap().unwrap()), Ok(Message::Error(_))));

    let after = scrape(&server);
    after.follows(&before);
    let outcome = |layer, outcome| after.value("sidereal_requests_total", &[("layer", layer), ("outcome", outcome)]);
    let ok = outcome("engine", "OK");
    assert_eq!(ok, (3 + 6 - twice) as f64);
    assert_eq!(outcome("engine", "DEADLINE"), 1.0);
    assert_eq!(outcome("engine", "UNKNOWN_ITEM"), 1.0);
    assert_eq!(outcome("engine", "BAD_REQUEST"), 3.0);
    assert_eq!(outcome("socket", "BAD_REQUEST"), twice as f64);
    let all: f64 = after.0["sidereal_requests_total"].samples.iter().map(|sample| sample.value).sum();
    assert_eq!(all, 3.0 + 2.0 + 3.0 + 6.0, "every request has one outcome");

    let stages = ["resolve", "queue", "prefill", "search", "expand", "total"];
    for stage in stages {
        assert_eq!(after.value("sidereal_request_stage_seconds_count", &[("stage", stage)]), ok, "{stage}");
    }
    let answers = || good.iter().chain(burst.iter().flatten());
    let total: u64 = answers().map(|answer| u64::from(answer.timings.total_us)).sum();
    let told = after.value("sidereal_request_stage_seconds_sum", &[("stage", "total")]);
    assert!((told - total as f64 / 1e6).abs() < 1e-9, "{told} s and not {total} us");
    let tokens: u32 = answers().map(|answer| answer.prompt_tokens).sum();
    assert_eq!(after.value("sidereal_prefill_tokens_total", &[]), f64::from(tokens));
    let rows = f64::from(beams.iter().sum::<u32>()) + 64.0 * (6 - twice) as f64;
    assert_eq!(after.value("sidereal_cohort_rows_sum", &[]), rows);
    assert_eq!(after.value("sidereal_decoded_beams_total", &[]), 3.0 * rows, "three levels, a step each");
    assert_eq!(after.value("sidereal_cohort_requests_sum", &[]), ok);
    for idle in ["sidereal_requests_in_flight", "sidereal_requests_waiting", "sidereal_device_losses_total"] {
        assert_eq!(after.value(idle, &[]), 0.0, "{idle}");
    }
    eventually("slots and pages are free", || {
        let now = scrape(&server);
        now.value("sidereal_slots_used", &[]) + now.value("sidereal_kv_pages_used", &[]) == 0.0
    });
    assert!(after.value("sidereal_slots", &[]) == 64.0 && after.value("sidereal_kv_pages", &[]) > 0.0);
    assert_eq!(after.value("sidereal_connections_accepted_total", &[]), 2.0);
    assert_eq!(after.value("sidereal_faults_total", &[("code", "BAD_FRAME")]), 1.0);
    assert!(after.value("sidereal_sent_bytes_total", &[]) > after.value("sidereal_received_bytes_total", &[]) / 10.0);
    assert!(after.value("process_resident_memory_bytes", &[]) > 1e6);

    // STATS and the pages read the same counters.
    let stats: serde_json::Value = serde_json::from_str(&client.stats().unwrap().engine).unwrap();
    assert_eq!(stats["answered"].as_f64(), Some(ok));
    assert_eq!(stats["stages"]["total"]["sum_us"], total);
    let page: serde_json::Value = serde_json::from_str(&get(admin(&server), "/stats").body).unwrap();
    assert_eq!(page["engine"], stats);
    assert_eq!((&page["state"], &page["model"]), (&"ready".into(), &"t5-relu@golden.1".into()));
    drop(client);
    server.signal("TERM");
    server.finish().exits(0);
}

/// Whoever balances load sees the drain at once, and the pages stay until the end.
#[test]
fn a_drain_is_seen() {
    let server = Serving::start(&ARGS);
    assert_eq!(get(admin(&server), "/readyz").status, 200);
    let mut client = server.connect(0, None);
    for id in 0..200 {
        client.send(&items(id, &[12069, 23326], 512)).unwrap();
    }
    let _ = client.receive().unwrap();
    server.signal("TERM");
    eventually("the drain is seen", || get(admin(&server), "/readyz").status == 503);
    assert_eq!(get(admin(&server), "/readyz").body, "draining\n");
    assert_eq!(get(admin(&server), "/healthz").status, 200);
    assert_eq!(scrape(&server).value("sidereal_ready", &[]), 0.0);
    for _ in 1..200 {
        let _ = client.receive().unwrap();
    }
    let address = admin(&server);
    server.finish().exits(0);
    assert!(std::net::TcpStream::connect_timeout(&address, PATIENCE).is_err(), "the pages end with the process");
}

#[test]
fn what_cannot_be_shown_is_said() {
    let export = golden_arg("t5-relu");
    let serve =
        |args: &[&str]| sidereal(&[&["serve", &export, "--threads", "1", "--listen", "127.0.0.1:0"], args].concat());
    serve(&["--admin", "0.0.0.0:0"]).exits(3).says("--admin-open").says("0.0.0.0:0");
    serve(&["--admin", "nonsense"]).exits(2).says("HOST:PORT");
    serve(&["--admin-open"]).exits(2).says("--admin");
    serve(&["--slow-request", "soon"]).exits(2).says("30s");
    serve(&["--log-level", "sidereal=loud"]).exits(2).says("--log-level");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    serve(&["--admin", &taken]).exits(3).says(&taken);
}
