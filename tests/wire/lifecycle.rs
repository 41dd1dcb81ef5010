//! Start, authentication, Unix socket files, drain, and running out of descriptors.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use sidereal::client::{Client, ClientError, ClientOptions};
use sidereal::request::RefusalKind;
use sidereal::serve::wire::{FaultCode, Message};
use sidereal::serve::{Address, DrainReport, ServeError, Server, ServerConfig};

use crate::fake::*;

#[test]
fn drain_answers_everything_accepted_and_refuses_the_rest() {
    let engine = FakeEngine::holding();
    let server = start(config(), &engine);
    let mut clients: Vec<_> = (0..4).map(|_| connect(&server)).collect();
    let idle = RawPeer::greeted(&server);
    let mut raw = RawPeer::greeted(&server);
    for (at, client) in clients.iter_mut().enumerate() {
        (0..25).for_each(|id| client.send(&request(100 * at as u64 + id, 20)).unwrap());
    }
    raw.send(&Message::Recommend(request(1, 1)));
    let held = engine.take(101);
    thread::scope(|scope| {
        let drained = scope.spawn(|| server.drain(PATIENCE));
        assert_eq!(raw.receive(), Some(Message::Goodbye));
        raw.send(&Message::Recommend(request(2, 1)));
        match raw.receive() {
            Some(Message::Refusal { id: 2, refusal }) => assert_eq!(refusal.kind, RefusalKind::ShuttingDown),
            other => panic!("{other:?}"),
        }
        assert!(held.iter().all(|held| !held.is_cancelled()));
        held.into_iter().rev().for_each(Held::answer);
        assert_eq!(raw.receive_all(), [Message::Recommendation(answer_for(&request(1, 1)))]);
        drop(raw);
        for (at, client) in clients.iter_mut().enumerate() {
            let mut ids: Vec<_> = (0..25)
                .map(|_| client.receive().unwrap())
                .map(|(id, answer)| {
                    assert_eq!(answer.unwrap(), answer_for(&request(id, 20)));
                    id - 100 * at as u64
                })
                .collect();
            ids.sort_unstable();
            assert_eq!(ids, (0..25).collect::<Vec<_>>());
            assert!(client.server_leaves());
            assert!(matches!(client.receive(), Err(ClientError::Closed { .. })));
        }
        drop((clients, idle));
        assert_eq!(drained.join().unwrap(), DrainReport { unanswered: 0 });
    });
    assert!(Client::connect(&server.addresses()[0], &options()).is_err());
    server.join().unwrap();
}

/// Clients that do not go by themselves do not keep a drained server.
#[test]
fn drain_does_not_wait_for_peers_that_stay() {
    let server = start(config(), &FakeEngine::prompt());
    let silent = RawPeer::silent(&server);
    let mut greeted = RawPeer::greeted(&server);
    assert_eq!(server.drain(PATIENCE), DrainReport { unanswered: 0 });
    assert_eq!(greeted.receive_all(), [Message::Goodbye]);
    assert_eq!(server.drain(PATIENCE), DrainReport { unanswered: 0 }, "a second drain is done at once");
    drop(silent);
    server.join().unwrap();
}

#[test]
fn drain_gives_up_on_an_engine_that_does_not_answer() {
    let engine = FakeEngine::holding();
    let server = start(config(), &engine);
    let mut client = connect(&server);
    (0..3).for_each(|id| client.send(&request(id, 1)).unwrap());
    let held = engine.take(3);
    assert_eq!(server.drain(Duration::from_millis(30)), DrainReport { unanswered: 3 });
    assert!(held.iter().all(Held::is_cancelled));
    server.join().unwrap();
    held.into_iter().for_each(Held::answer); // Into the void, without harm.
}

#[test]
fn dropping_a_server_ends_it_and_cancels() {
    let engine = FakeEngine::holding();
    let server = start(config(), &engine);
    let mut client = connect(&server);
    client.send(&request(1, 1)).unwrap();
    let held = engine.take(1).remove(0);
    drop(server);
    assert!(held.is_cancelled());
    assert!(client.receive().is_err());
}

#[test]
fn a_secret_is_asked_for_and_proven() {
    let engine = FakeEngine::prompt();
    let server = start(ServerConfig { secret: Some(secret()), ..config() }, &engine);
    let address = &server.addresses()[0];
    let with = ClientOptions { secret: Some(secret()), ..options() };
    let mut client = Client::connect(address, &with).unwrap();
    client.recommend(&request(1, 1)).unwrap().unwrap();

    assert!(matches!(Client::connect(address, &options()), Err(ClientError::SecretRequired)));
    let wrong = sidereal::serve::wire::Secret::new("another secret, as long").unwrap();
    match Client::connect(address, &ClientOptions { secret: Some(wrong), ..options() }) {
        Err(ClientError::Fault(fault)) => assert_eq!(fault.code, FaultCode::AuthFailed),
        other => panic!("{:?}", other.err()),
    }

    // A recorded proof is worth nothing on the next connection.
    let mut proofs = Vec::new();
    for replayed in [false, true] {
        let mut peer = RawPeer::silent(&server);
        peer.send(&Message::Hello { client: None });
        let Some(Message::Challenge { nonce }) = peer.receive() else { panic!("no challenge") };
        proofs.push(secret().prove(&nonce));
        peer.send(&Message::Auth { proof: proofs[0] });
        match peer.receive() {
            Some(Message::HelloOk(_)) => assert!(!replayed),
            Some(Message::Error(fault)) => assert!(replayed && fault.code == FaultCode::AuthFailed),
            other => panic!("{other:?}"),
        }
    }

    // Nothing is served before the proof.
    let mut peer = RawPeer::silent(&server);
    peer.send(&Message::Hello { client: None });
    peer.send(&Message::Recommend(request(2, 1)));
    assert!(matches!(peer.receive(), Some(Message::Challenge { .. })));
    assert!(matches!(peer.receive(), Some(Message::Error(fault)) if fault.code == FaultCode::UnexpectedFrame));
}

#[test]
fn beyond_loopback_a_secret_is_needed() {
    let listen = vec!["127.0.0.1:0".parse().unwrap(), "0.0.0.0:0".parse().unwrap()];
    let open = ServerConfig { listen, ..config() };
    match Server::start(open.clone(), FakeEngine::prompt()) {
        Err(error @ ServeError::SecretRequired { .. }) => {
            assert!(error.to_string().starts_with("0.0.0.0:0 is reachable from other machines"), "{error}");
        }
        other => panic!("{:?}", other.err()),
    }
    let server = start(ServerConfig { secret: Some(secret()), ..open }, &FakeEngine::prompt());
    assert_eq!(server.addresses().len(), 2);
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let nowhere = ServerConfig { listen: vec![], ..config() };
    assert!(matches!(Server::start(nowhere, FakeEngine::prompt()), Err(ServeError::NoAddress)));
    let mut none = config();
    none.limits.max_connections = 0;
    let error = Server::start(none, FakeEngine::prompt()).err().unwrap();
    assert_eq!(error.to_string(), "limit max_connections is 0, expected 1 to 4294967295");
    let server = start(config(), &FakeEngine::prompt());
    let taken = ServerConfig { listen: server.addresses().to_vec(), ..config() };
    let error = Server::start(taken, FakeEngine::prompt()).err().unwrap();
    assert!(error.to_string().contains(&server.addresses()[0].to_string()), "{error}");
}

#[test]
fn unix_socket_files_are_guarded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s.sock");
    let at = |path: &std::path::Path| ServerConfig { listen: vec![Address::Unix(path.into())], ..config() };
    drop(UnixListener::bind(&path).unwrap()); // Left behind by a server that was killed.
    assert!(path.exists());
    let server = start(at(&path), &FakeEngine::prompt());
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    connect(&server).recommend(&request(1, 1)).unwrap().unwrap();

    match Server::start(at(&path), FakeEngine::prompt()) {
        Err(ServeError::SocketInUse { path: named }) => assert_eq!(named, path),
        other => panic!("{:?}", other.err()),
    }
    connect(&server).ping().unwrap();
    server.drain(PATIENCE);
    assert!(!path.exists(), "the socket file stayed");

    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(Server::start(at(&path), FakeEngine::prompt()), Err(ServeError::NotASocket { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    let missing = directory.path().join("missing/s.sock");
    assert!(matches!(Server::start(at(&missing), FakeEngine::prompt()), Err(ServeError::Listen { .. })));
    let names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["s.sock"], "temporary files stayed");
}

/// A server that took its place keeps its file when the first one leaves.
#[test]
fn a_socket_file_of_another_server_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s.sock");
    let config = ServerConfig { listen: vec![Address::Unix(path.clone())], ..config() };
    let first = start(config.clone(), &FakeEngine::prompt());
    std::fs::remove_file(&path).unwrap();
    let second = start(config, &FakeEngine::prompt());
    drop(first);
    connect(&second).ping().unwrap();
}

/// Runs itself again with few descriptors: connections beyond them wait, those open are served, and when some close the
/// waiting ones get their turn.
#[test]
fn running_out_of_descriptors_is_survived() {
    if std::env::var_os("SIDEREAL_FEW_DESCRIPTORS").is_none() {
        let child = std::process::Command::new("sh")
            .args(["-c", "ulimit -n 48 && exec \"$0\" --exact lifecycle::running_out_of_descriptors_is_survived"])
            .arg(std::env::current_exe().unwrap())
            .env("SIDEREAL_FEW_DESCRIPTORS", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut config = config();
    config.listen.push(Address::Unix(directory.path().join("s.sock")));
    let server = start(config, &FakeEngine::prompt());
    let mut first = connect(&server);
    // Client and server ends share the descriptors; leave the clients none to spare for the server's ends.
    let Address::Tcp(address) = server.addresses()[0].clone() else { panic!("TCP first") };
    let mut crowd = Vec::new();
    // One is put by for the last client: a quick server has taken everybody before, and must find none for that one.
    let put_by = std::fs::File::open("/dev/null").unwrap();
    while let Ok(stream) = std::net::TcpStream::connect(address) {
        crowd.push(stream);
    }
    drop(put_by);
    crowd.extend(std::net::TcpStream::connect(address));
    assert!(crowd.len() >= 8, "{}", crowd.len());
    eventually("accepting fails", || server.counters().accept_errors.load(Ordering::Relaxed) > 0);
    let before = server.counters().accept_errors.load(Ordering::Relaxed);
    first.recommend(&request(1, 1)).unwrap().unwrap();
    thread::sleep(Duration::from_millis(50));
    let failures = server.counters().accept_errors.load(Ordering::Relaxed) - before;
    assert!(failures < 20, "accepting spins: {failures} failures in 50 ms");
    drop(crowd);
    eventually("a new connection is served", || {
        Client::connect(&server.addresses()[0], &options()).is_ok_and(|mut client| client.ping().is_ok())
    });
    first.recommend(&request(2, 1)).unwrap().unwrap();
}
