//! The log of the built binary: JSON lines with the fields that the documentation names, and never more than a disk can take.

use std::time::{Duration, Instant};

use serde_json::Value;
use sidereal::request::{History, ItemRefs, Request};

use crate::cli_support::Ran;
use crate::cli_support::serving::Serving;

fn request(id: u64) -> Request {
    Request::new(id, History::Items(ItemRefs::Ids(vec![12069, 23326])), 8, 5)
}

/// Every line, with a message.
fn lines(ran: &Ran) -> Vec<Value> {
    let read = |line: &str| -> Value { serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")) };
    ran.stderr.lines().map(read).collect()
}

fn said<'l>(lines: &'l [Value], message: &str) -> Vec<&'l Value> {
    lines.iter().filter(|line| line["fields"]["message"] == message).map(|line| &line["fields"]).collect()
}

#[test]
fn lines_carry_their_fields() {
    let server = Serving::start(&["--listen", "127.0.0.1:0", "--slow-request", "0s"]);
    let mut client = server.connect(0, None);
    let user = "anna@example.org";
    let theirs = Request { user: Some(user.into()), ..request(7) };
    assert!(client.recommend(&theirs).unwrap().is_ok());
    let theirs = Request { beams: 0, user: Some(user.into()), ..request(8) };
    assert!(client.recommend(&theirs).unwrap().is_err());
    assert!(client.recommend(&request(9)).unwrap().is_ok());
    drop(client);
    server.signal("TERM");
    let ran = server.finish().exits(0);
    assert!(!ran.stderr.contains("anna"), "users are told by a pseudonym: {}", ran.stderr);
    let all = lines(&ran);
    for line in &all {
        for key in ["timestamp", "level", "target"] {
            assert!(line[key].is_string(), "{key} in {line}");
        }
    }
    let [slow, without_user] = said(&all, "slow request")[..] else { panic!("{all:?}") };
    for key in ["connection", "took_us", "prompt_tokens"] {
        assert!(slow[key].as_u64().is_some_and(|value| value > 0), "{key} in {slow}");
    }
    let stages = ["resolve_us", "queue_us", "prefill_us", "search_us", "expand_us"];
    let sum: u64 = stages.iter().map(|stage| slow[*stage].as_u64().unwrap()).sum();
    assert!(
        sum <= slow["total_us"].as_u64().unwrap() && slow["total_us"].as_u64() <= slow["took_us"].as_u64(),
        "{slow}"
    );
    assert_eq!((&slow["request"], &slow["beams"]), (&7.into(), &8.into()));
    assert!(slow["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{slow}");
    assert_eq!(without_user.get("user"), None);
    let [refused] = said(&all, "request refused")[..] else { panic!("{all:?}") };
    assert_eq!((&refused["request"], &refused["kind"]), (&8.into(), &"BAD_REQUEST".into()));
    assert!(refused["reason"].as_str().unwrap().contains("beams is 0"), "{refused}");
    assert_eq!(refused["connection"], slow["connection"]);
    let pseudonym = slow["user"].as_str().unwrap();
    assert!(pseudonym.len() == 16 && pseudonym.bytes().all(|byte| byte.is_ascii_hexdigit()), "{slow}");
    assert_eq!(refused["user"], slow["user"], "the same user is the same");
}

/// Thousands of bad requests are a few lines, and a number.
#[test]
fn a_flood_of_refusals_does_not_fill_the_log() {
    const BAD: u64 = 3000;
    let server = Serving::start(&["--listen", "127.0.0.1:0", "--stall-timeout", "400ms"]);
    let began = Instant::now();
    let mut client = server.connect(0, None);
    for id in 0..BAD {
        assert!(client.recommend(&Request { beams: 0, ..request(id) }).unwrap().is_err());
    }
    let seconds = began.elapsed().as_secs() + 1;
    // The next second tells what was left out of the last one.
    std::thread::sleep(Duration::from_millis(1300));
    drop(client);
    server.signal("TERM");
    let all = lines(&server.finish().exits(0));
    let told = said(&all, "request refused").len() as u64;
    assert!((10..=10 * (seconds + 1)).contains(&told), "{told} lines in {seconds} s");
    let left_out: u64 =
        said(&all, "lines were left out of the log").iter().map(|line| line["left_out"].as_u64().unwrap()).sum();
    assert_eq!(told + left_out, BAD, "nothing is forgotten");
}

/// A log that nobody reads loses lines. Once it would have stopped the thread that wrote to it.
#[test]
fn a_log_that_nobody_reads_stops_nobody() {
    // Far more than a pipe holds, at some 200 bytes a line.
    let server = Serving::start(&["--listen", "127.0.0.1:0", "--log-level", "debug"]);
    let mut client = server.connect(0, None);
    for id in 0..2000 {
        assert!(client.recommend(&Request { beams: 1, top: 1, ..request(id) }).unwrap().is_ok());
    }
}

#[test]
fn what_is_logged_can_be_chosen() {
    for (level, spoken) in [("error", false), ("warn,sidereal::schedule=info", true)] {
        let server = Serving::start(&["--listen", "127.0.0.1:0", "--log-level", level]);
        server.signal("TERM");
        let all = lines(&server.finish().exits(0));
        assert_eq!(!said(&all, "loaded").is_empty(), spoken, "{level}: {all:?}");
        assert!(said(&all, "draining").is_empty(), "{level}");
    }
}
