//! Requests and answers over real sockets: order, pipelining, cancellation, one reply each.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use sidereal::client::{Client, ClientError};
use sidereal::request::{RefusalKind, Request};
use sidereal::serve::ServerConfig;
use sidereal::serve::wire::Message;

use crate::fake::*;

#[test]
fn answers_come_in_the_order_of_the_engine() {
    let engine = FakeEngine::holding();
    let server = start(config(), &engine);
    let mut client = connect(&server);
    for id in [5, 6, 7] {
        client.send(&request(id, 2)).unwrap();
    }
    let mut held = engine.take(3);
    held.sort_by_key(|held| [7, 5, 6].iter().position(|id| *id == held.id()));
    held.remove(1).refuse(RefusalKind::Deadline);
    held.into_iter().for_each(Held::answer);

    let (id, answer) = client.receive().unwrap();
    assert_eq!((id, answer.unwrap_err().kind), (5, RefusalKind::Deadline));
    for expected in [7, 6] {
        let (id, answer) = client.receive().unwrap();
        assert_eq!(id, expected);
        assert_eq!(answer.unwrap(), answer_for(&request(expected, 2)));
    }
}

#[test]
fn the_engine_sees_what_the_client_asked() {
    let engine = FakeEngine::holding();
    let server = start(config(), &engine);
    let mut client = connect(&server);
    let asked = Request {
        deadline: Some(Duration::from_micros(1_234_567)),
        user: Some("someone".into()),
        max_items_per_sid: Some(1),
        deny_history: true,
        ..request(u64::MAX, 3)
    };
    client.send(&asked).unwrap();
    assert_eq!(engine.take(1)[0].request, asked);
}

/// A thousand requests in one go, answered from four threads in another order: each exactly once, each its own.
#[test]
fn a_thousand_pipelined_requests_get_one_answer_each() {
    let engine = FakeEngine::holding();
    let server = start(config(), &engine);
    let (mut sender, mut receiver) = connect(&server).split();
    thread::scope(|scope| {
        scope.spawn(move || (0..1000).for_each(|id| sender.send(&request(id, 10)).unwrap()));
        let workers: Vec<_> = (0..4u64)
            .map(|worker| {
                let engine = engine.clone();
                scope.spawn(move || {
                    for round in 0..10 {
                        let mut held = engine.take(25);
                        held.rotate_left((worker * 7 + round) as usize % 25);
                        for one in held.into_iter().rev() {
                            match one.id() % 10 {
                                3 => one.refuse(RefusalKind::Overloaded),
                                _ => one.answer(),
                            }
                        }
                    }
                })
            })
            .collect();
        let mut seen = HashMap::new();
        for _ in 0..1000 {
            let (id, answer) = receiver.receive().unwrap();
            match answer {
                Ok(answer) => assert_eq!(answer, answer_for(&request(id, 10))),
                Err(refusal) => assert_eq!((id % 10, refusal.kind), (3, RefusalKind::Overloaded)),
            }
            assert!(seen.insert(id, ()).is_none(), "request {id} answered twice");
        }
        assert_eq!(seen.len(), 1000);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
    assert_eq!(server.counters().answers_sent.load(Ordering::Relaxed), 1000);
}

#[test]
fn every_address_is_served_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sidereal.sock");
    let listen = vec![
        "127.0.0.1:0".parse().unwrap(),
        sidereal::serve::Address::Unix(path.clone()),
        "127.0.0.1:0".parse().unwrap(),
    ];
    let engine = FakeEngine::prompt();
    let server = start(ServerConfig { listen, ..config() }, &engine);
    for (at, address) in server.addresses().iter().enumerate() {
        let mut client = Client::connect(address, &options()).unwrap();
        let asked = request(at as u64, 4);
        assert_eq!(client.recommend(&asked).unwrap().unwrap(), answer_for(&asked));
        assert_eq!(client.hello().facts.model, "fake@1");
        assert_eq!(client.hello().bounds.max_frame_bytes, 4 << 20);
        client.ping().unwrap();
        let stats = client.stats().unwrap();
        assert_eq!(stats.engine, "{\"fake\":true}");
        let counted: serde_json::Value = serde_json::from_str(&stats.server).unwrap();
        assert_eq!(counted["requests_accepted"], at + 1);
    }
    drop(server);
    assert!(!path.exists(), "the socket file stayed");
}

/// `done` called from inside `submit`.
#[test]
fn an_early_refusal_is_an_answer() {
    let server = start(config(), &FakeEngine::prompt());
    let mut client = connect(&server);
    let refusal = client.recommend(&Request { beams: 0, ..request(1, 1) }).unwrap().unwrap_err();
    assert_eq!(refusal.to_string(), "BAD_REQUEST: beams is 0, expected at least 1");
}

#[test]
fn a_request_that_the_engine_drops_is_answered_all_the_same() {
    let engine = FakeEngine::holding();
    let server = start(config(), &engine);
    let mut client = connect(&server);
    client.send(&request(1, 1)).unwrap();
    drop(engine.take(1));
    let (id, answer) = client.receive().unwrap();
    assert_eq!((id, answer.unwrap_err().kind), (1, RefusalKind::DeviceFailed));
}

#[test]
fn cancel_reaches_the_engine_and_the_answer_comes_once() {
    let engine = FakeEngine::holding();
    let server = start(config(), &engine);
    let mut client = connect(&server);
    client.send(&request(1, 1)).unwrap();
    client.send(&request(2, 1)).unwrap();
    let mut held = engine.take(2);
    client.cancel(1).unwrap();
    client.cancel(99).unwrap(); // Never asked: nothing happens.
    eventually("the cancel flag", || held[0].is_cancelled());
    assert!(!held[1].is_cancelled());
    held.remove(0).refuse(RefusalKind::Cancelled);
    held.remove(0).answer();
    assert_eq!(client.receive().unwrap().1.unwrap_err().kind, RefusalKind::Cancelled);
    assert_eq!(client.receive().unwrap().0, 2);
    client.cancel(1).unwrap(); // Answered already: nothing happens.
    client.ping().unwrap();
    assert_eq!(server.counters().answers_sent.load(Ordering::Relaxed), 2);
}

#[test]
fn too_many_in_flight_and_twice_the_same_id_are_refused() {
    let mut config = config();
    config.limits.max_in_flight_per_connection = 2;
    let engine = FakeEngine::holding();
    let server = start(config, &engine);
    let mut client = connect(&server);
    client.send(&request(1, 1)).unwrap();
    client.send(&request(1, 1)).unwrap();
    client.send(&request(2, 1)).unwrap();
    client.send(&request(3, 1)).unwrap();
    let (id, answer) = client.receive().unwrap();
    assert_eq!(id, 1);
    assert_eq!(answer.unwrap_err().to_string(), "BAD_REQUEST: request id 1 is already in flight on this connection");
    let (id, answer) = client.receive().unwrap();
    assert_eq!(id, 3);
    assert_eq!(answer.unwrap_err().to_string(), "OVERLOADED: 2 requests are in flight on this connection, its limit");
    // Another connection has its own count, and an answered request makes room.
    let mut other = connect(&server);
    other.send(&request(1, 1)).unwrap();
    engine.take(3).into_iter().for_each(Held::answer);
    assert_eq!(other.receive().unwrap().0, 1);
    client.receive().unwrap().1.unwrap();
    client.receive().unwrap().1.unwrap();
    client.send(&request(3, 1)).unwrap();
    engine.take(1).remove(0).answer();
    client.receive().unwrap().1.unwrap();
}

#[test]
fn a_disconnect_cancels_what_is_in_flight_and_nobody_else_notices() {
    let engine = FakeEngine::holding();
    let server = start(config(), &engine);
    let mut stays = connect(&server);
    let mut goes = connect(&server);
    stays.send(&request(1, 1)).unwrap();
    let first = engine.take(1).remove(0);
    for id in 0..10 {
        goes.send(&request(id, 1)).unwrap();
    }
    let orphans = engine.take(10);
    drop(goes);
    eventually("ten cancel flags", || orphans.iter().all(Held::is_cancelled));
    assert!(!first.is_cancelled());
    orphans.into_iter().for_each(Held::answer);
    first.answer();
    assert_eq!(stays.receive().unwrap().0, 1);
    eventually("orphans counted", || server.counters().answers_orphaned.load(Ordering::Relaxed) == 10);
    assert_eq!(server.counters().connections_lost.load(Ordering::Relaxed), 1);
}

/// After GOODBYE the end of the peer's side is no disconnect.
#[test]
fn goodbye_keeps_what_is_in_flight() {
    let engine = FakeEngine::holding();
    let server = start(config(), &engine);
    let mut peer = RawPeer::greeted(&server);
    peer.send(&Message::Recommend(request(1, 1)));
    peer.send(&Message::Goodbye);
    peer.send(&Message::Recommend(request(2, 1)));
    peer.stream.shutdown(std::net::Shutdown::Write).unwrap();
    let held = engine.take(1).remove(0);
    match peer.receive() {
        Some(Message::Refusal { id: 2, refusal }) => assert_eq!(refusal.kind, RefusalKind::BadRequest),
        other => panic!("{other:?}"),
    }
    assert!(!held.is_cancelled());
    held.answer();
    assert_eq!(peer.receive_all(), [Message::Recommendation(answer_for(&request(1, 1)))]);
}

/// The same behind more replies than queue and socket hold: GOODBYE and the end of the stream wait, unread, and lose nothing.
#[test]
fn goodbye_behind_a_full_queue_keeps_what_is_in_flight() {
    let server = start(config(), &FakeEngine::prompt());
    let mut peer = RawPeer::greeted(&server);
    let mut bytes = Message::Stats { id: 1 }.to_bytes().unwrap().repeat(20_000);
    bytes.extend(Message::Recommend(request(2, 1)).to_bytes().unwrap());
    bytes.extend(Message::Goodbye.to_bytes().unwrap());
    peer.send_bytes(&bytes);
    peer.stream.shutdown(std::net::Shutdown::Write).unwrap();
    thread::sleep(Duration::from_millis(50)); // Until everything is full.
    let replies = peer.receive_all();
    assert_eq!(replies.len(), 20_001);
    assert_eq!(replies.last(), Some(&Message::Recommendation(answer_for(&request(2, 1)))));
}

#[test]
fn a_client_that_times_out_can_go_on() {
    let engine = FakeEngine::holding();
    let server = start(config(), &engine);
    let (mut sender, mut receiver) = connect(&server).split();
    sender.send(&request(1, 100)).unwrap();
    receiver.set_timeout(Some(Duration::from_millis(20)));
    match receiver.receive() {
        Err(ClientError::Timeout { expected, .. }) => assert_eq!(expected, "an answer"),
        other => panic!("{other:?}"),
    }
    engine.take(1).remove(0).answer();
    receiver.set_timeout(None);
    assert_eq!(receiver.receive().unwrap().0, 1);
}

#[test]
fn answers_that_overtake_a_ping_are_kept() {
    let engine = FakeEngine::holding();
    let server = start(config(), &engine);
    let mut client = connect(&server);
    client.send(&request(1, 1)).unwrap();
    client.send(&request(2, 1)).unwrap();
    engine.take(2).into_iter().for_each(Held::answer);
    client.ping().unwrap();
    client.stats().unwrap();
    assert_eq!(client.receive().unwrap().0, 1);
    assert_eq!(client.receive().unwrap().0, 2);
}
