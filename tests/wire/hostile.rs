//! Peers that break the rules: each loses its own socket at most, and the well-behaved client beside it notices nothing.

use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use sidereal::client::{Client, ClientError};
use sidereal::request::{History, RefusalKind, Request};
use sidereal::serve::wire::*;
use sidereal::serve::{MAX_HANDSHAKE_BYTES, ServerConfig};

use crate::fake::*;

fn fault(message: Option<Message>) -> Fault {
    match message {
        Some(Message::Error(fault)) => fault,
        other => panic!("expected ERROR, found {other:?}"),
    }
}

fn answers(client: &mut Client, id: u64) {
    let asked = request(id, 3);
    assert_eq!(client.recommend(&asked).unwrap().unwrap(), answer_for(&asked));
}

/// The committed malformed frames against a live server: those that break the framing end their connection with ERROR, a
/// malformed RECOMMEND is refused and the connection goes on, any other malformed frame ends its connection.
#[test]
fn malformed_frames_cost_the_request_or_the_connection() {
    let server = start(config(), &FakeEngine::prompt());
    let mut beside = connect(&server);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire/vectors/malformed.json");
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut refused = 0;
    for vector in file["vectors"].as_array().unwrap() {
        let (name, error) = (vector["name"].as_str().unwrap(), vector["error"].as_str().unwrap());
        let bytes = crate::vectors::unhex(&vector["hex"]);
        let mut peer = RawPeer::greeted(&server);
        peer.send_bytes(&bytes);
        if error == "Truncated" {
            peer.stream.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(peer.receive(), None, "{name}");
        } else if vector["breaks_framing"] == true || bytes[5] != Kind::Recommend as u8 {
            assert_eq!(fault(peer.receive()).message, vector["text"], "{name}");
            assert_eq!(peer.receive(), None, "{name}");
        } else {
            match peer.receive() {
                Some(Message::Refusal { id: 7, refusal }) => assert_eq!(refusal.message, vector["text"], "{name}"),
                other => panic!("{name}: {other:?}"),
            }
            peer.send(&Message::Recommend(request(8, 1)));
            assert!(matches!(peer.receive(), Some(Message::Recommendation(_))), "{name}");
            refused += 1;
        }
        answers(&mut beside, 1);
    }
    assert!(refused >= 15, "{refused}");
}

#[test]
fn refusals_of_unknown_required_sections_say_unsupported() {
    let server = start(config(), &FakeEngine::prompt());
    let mut peer = RawPeer::greeted(&server);
    let mut payload = Message::Recommend(request(7, 1)).to_bytes().unwrap().split_off(HEADER_BYTES);
    payload.extend([0xbc, 0x7a, 1, 0, 0, 0, 0, 0]);
    let header = Header {
        kind: Kind::Recommend as u8,
        flags: 0,
        id: 7,
        length: payload.len() as u32,
        payload_crc: crc32c::crc32c(&payload),
    };
    peer.send_bytes(&[&header.encode()[..], &payload].concat());
    match peer.receive() {
        Some(Message::Refusal { id: 7, refusal }) => {
            assert_eq!(refusal.kind, RefusalKind::Unsupported);
            assert!(refusal.message.contains("0x7abc"), "{refusal}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn bytes_one_by_one_are_a_request() {
    let server = start(config(), &FakeEngine::prompt());
    let mut peer = RawPeer::silent(&server);
    let bytes = [Message::Hello { client: None }, Message::Recommend(request(9, 2)), Message::Ping { id: 3 }]
        .iter()
        .flat_map(|message| message.to_bytes().unwrap())
        .collect::<Vec<_>>();
    for byte in bytes {
        peer.send_bytes(&[byte]);
        thread::yield_now();
    }
    assert!(matches!(peer.receive(), Some(Message::HelloOk(_))));
    let mut rest = [peer.receive().unwrap(), peer.receive().unwrap()];
    rest.sort_by_key(|message| message.kind() as u8);
    assert_eq!(rest[0], Message::Recommendation(answer_for(&request(9, 2))));
    assert_eq!(rest[1], Message::Pong { id: 3 });
}

#[test]
fn half_a_frame_and_silence_is_a_stall() {
    let server = start(hasty(), &FakeEngine::prompt());
    let mut beside = connect(&server);
    let mut header_only = RawPeer::greeted(&server);
    let mut half_header = RawPeer::greeted(&server);
    let bytes = Message::Recommend(request(1, 1)).to_bytes().unwrap();
    header_only.send_bytes(&bytes[..HEADER_BYTES]);
    half_header.send_bytes(&bytes[..HEADER_BYTES / 2]);
    let start = Instant::now();
    answers(&mut beside, 1);
    for peer in [&mut header_only, &mut half_header] {
        assert_eq!(fault(peer.receive()).code, FaultCode::Stalled);
        assert_eq!(peer.receive(), None);
    }
    assert!(start.elapsed() >= Duration::from_millis(200));
    answers(&mut beside, 2);
}

#[test]
fn a_peer_that_never_says_hello_is_a_stall() {
    let server = start(hasty(), &FakeEngine::prompt());
    let mut peer = RawPeer::silent(&server);
    assert_eq!(fault(peer.receive()).code, FaultCode::Stalled);
    assert_eq!(peer.receive(), None);
}

#[test]
fn an_idle_peer_is_let_go_and_one_that_waits_for_its_answer_is_not() {
    let mut config = config();
    config.limits.idle_timeout = Duration::from_millis(100);
    let engine = FakeEngine::holding();
    let server = start(config, &engine);
    let mut waits = RawPeer::greeted(&server);
    waits.send(&Message::Recommend(request(1, 1)));
    let held = engine.take(1).remove(0);
    let mut idles = RawPeer::greeted(&server);
    assert_eq!(fault(idles.receive()).code, FaultCode::Idle);
    assert_eq!(idles.receive(), None);
    assert!(!held.is_cancelled());
    held.answer();
    assert!(matches!(waits.receive(), Some(Message::Recommendation(_))));
}

/// Asks for megabytes of replies and reads none of them: the server stops reading from it, then closes it.
#[test]
fn a_peer_that_does_not_read_holds_a_bounded_queue_and_only_its_own_socket() {
    let server = start(hasty(), &FakeEngine::prompt());
    let mut beside = connect(&server);
    let mut peer = RawPeer::greeted(&server);
    let bytes = Message::Recommend(request(1, 5_000)).to_bytes().unwrap(); // Some 130 kB of reply each.
    peer.stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut sent = 0;
    while peer.stream.write_all(&bytes).is_ok() {
        sent += 1;
        if sent % 1000 == 0 {
            answers(&mut beside, sent);
        }
    }
    eventually("the peer is closed", || server.counters().connections_unread.load(Ordering::Relaxed) == 1);
    let accepted = server.counters().requests_accepted.load(Ordering::Relaxed);
    // Socket buffers hold a few megabytes of replies and a quarter of one is queued here; the rest was never read.
    assert!(accepted < 1000 && accepted < sent, "{accepted} of {sent} accepted");
    answers(&mut beside, 1);
}

/// A peer that reads late but in time loses nothing.
#[test]
fn a_peer_that_reads_late_gets_everything() {
    let server = start(config(), &FakeEngine::prompt());
    let (mut sender, mut receiver) = connect(&server).split();
    let writer = thread::spawn(move || (0..300).for_each(|id| sender.send(&request(id, 2_000)).unwrap()));
    thread::sleep(Duration::from_millis(50)); // Until socket buffers and queue are full.
    let mut seen = [false; 300];
    for _ in 0..300 {
        let (id, answer) = receiver.receive().unwrap();
        assert_eq!(answer.unwrap(), answer_for(&request(id, 2_000)));
        assert!(!std::mem::replace(&mut seen[id as usize], true));
    }
    writer.join().unwrap();
}

#[test]
fn a_frame_at_the_limit_is_read_and_one_over_it_is_not() {
    let mut config = config();
    config.limits.max_frame_bytes = 64 << 10;
    let server = start(config, &FakeEngine::prompt());
    let of = |payload: usize| {
        let tokens = (payload - 20 - 8) / 4;
        let message = Message::Recommend(Request::new(1, History::Tokens(vec![0; tokens]), 1, 1));
        let bytes = message.to_bytes().unwrap();
        assert_eq!(bytes.len() - HEADER_BYTES, payload);
        bytes
    };
    let mut peer = RawPeer::greeted(&server);
    peer.send_bytes(&of(64 << 10));
    assert!(matches!(peer.receive(), Some(Message::Recommendation(_))));
    peer.send_bytes(&of((64 << 10) + 4));
    let fault = fault(peer.receive());
    assert_eq!(fault.code, FaultCode::FrameTooLarge);
    assert_eq!(fault.message, "header offset 16: payload of 65540 bytes, expected at most 65536");
    assert_eq!(peer.receive(), None);
}

/// The limit on a client's frames once held before the handshake too: a thousand strangers who knew no secret could have the
/// server keep four megabytes of HELLO each, for as long as the stall timeout let them.
#[test]
fn a_stranger_is_not_kept_in_memory() {
    let server = start(ServerConfig { secret: Some(secret()), ..config() }, &FakeEngine::prompt());
    let header = |kind: Kind, length| Header { kind: kind as u8, flags: 0, id: 0, length, payload_crc: 0 }.encode();
    let most = MAX_HANDSHAKE_BYTES as u32;
    let mut hello = RawPeer::silent(&server);
    hello.send_bytes(&header(Kind::Hello, most + 1));
    let told = fault(hello.receive());
    assert_eq!(told.code, FaultCode::FrameTooLarge);
    assert_eq!(told.message, "header offset 16: payload of 4097 bytes, expected at most 4096");
    let mut auth = RawPeer::silent(&server);
    auth.send(&Message::Hello { client: Some("x".repeat(MAX_HANDSHAKE_BYTES - SECTION_HEADER_BYTES)) });
    assert!(matches!(auth.receive(), Some(Message::Challenge { .. })));
    auth.send_bytes(&header(Kind::Auth, most + 1));
    assert_eq!(fault(auth.receive()).code, FaultCode::FrameTooLarge);
}

/// What follows HELLO at once is a friend's, where there is no secret, and has the whole limit.
#[test]
fn a_long_request_may_come_right_behind_hello() {
    let server = start(config(), &FakeEngine::prompt());
    let mut peer = RawPeer::silent(&server);
    let long = Request::new(5, History::Tokens(vec![1; 100_000]), 1, 1);
    let hello = Message::Hello { client: None }.to_bytes().unwrap();
    peer.send_bytes(&[hello, Message::Recommend(long).to_bytes().unwrap()].concat());
    assert!(matches!(peer.receive(), Some(Message::HelloOk(_))));
    assert!(matches!(peer.receive(), Some(Message::Recommendation(answer)) if answer.id == 5));
}

#[test]
fn frames_out_of_turn_end_the_connection() {
    let server = start(config(), &FakeEngine::prompt());
    let mut early = RawPeer::silent(&server);
    early.send(&Message::Recommend(request(1, 1)));
    assert_eq!(fault(early.receive()).message, "unexpected RECOMMEND frame, expected HELLO");
    let mut twice = RawPeer::greeted(&server);
    twice.send(&Message::Hello { client: None });
    assert_eq!(fault(twice.receive()).code, FaultCode::UnexpectedFrame);
    let mut impostor = RawPeer::greeted(&server);
    impostor.send(&Message::Pong { id: 1 });
    assert_eq!(fault(impostor.receive()).message, "unexpected PONG frame, expected a client's frame");
}

#[test]
fn connections_beyond_the_limit_are_told_so() {
    let mut config = config();
    config.limits.max_connections = 2;
    let server = start(config, &FakeEngine::prompt());
    let mut first = connect(&server);
    let second = connect(&server);
    for _ in 0..3 {
        match Client::connect(&server.addresses()[0], &options()) {
            Err(ClientError::Fault(fault)) => assert_eq!(fault.code, FaultCode::TooManyConnections),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("a third connection"),
        }
    }
    answers(&mut first, 1);
    drop(second);
    eventually("room for another", || Client::connect(&server.addresses()[0], &options()).is_ok());
    answers(&mut first, 2);
}

/// Streams of valid frames, damaged frames and noise, cut anywhere: the server answers or ends each, and never ends itself.
#[test]
fn noise_never_harms_a_neighbour() {
    let server = start(config(), &FakeEngine::prompt());
    let mut beside = connect(&server);
    let mut state = 0x9e37_79b9_7f4a_7c15u64; // xorshift, so that a failure repeats.
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize % below
    };
    for round in 0..100 {
        let mut peer = RawPeer::silent(&server);
        let mut bytes = Message::Hello { client: Some("noise".into()) }.to_bytes().unwrap();
        for id in 0..random(8) as u64 {
            match random(4) {
                0 => bytes.extend((0..random(60)).map(|_| random(256) as u8)),
                1 => bytes.extend(Message::Ping { id }.to_bytes().unwrap()),
                _ => bytes.extend(Message::Recommend(request(id, 1 + random(50) as u32)).to_bytes().unwrap()),
            }
        }
        for _ in 0..random(3) {
            let at = random(bytes.len());
            bytes[at] ^= 1 << random(8);
        }
        for piece in bytes.chunks(1 + random(64)) {
            if peer.stream.write_all(piece).is_err() {
                break; // Ended already, rightly.
            }
        }
        if random(2) == 0 {
            let _ = peer.stream.shutdown(std::net::Shutdown::Write);
            let _ = peer.stream.read_to_end(&mut Vec::new());
        }
        answers(&mut beside, round);
    }
}
