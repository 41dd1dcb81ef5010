//! Peers that do not speak HTTP, or never stop, or never start: each costs its own socket.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use sidereal::serve::AdminConfig;

use crate::support::{Response, Rig, connect, exchange, raw, rest};

/// Pages whose patience a test can wait for.
fn hasty() -> Rig {
    let patience = Duration::from_millis(300);
    Rig::of(AdminConfig { patience, ..AdminConfig::new("127.0.0.1:0".parse().unwrap()) })
}

#[test]
fn garbage_is_told_so() {
    let rig = Rig::start();
    let address = rig.address();
    for garbage in [
        "\0\0\0\0\0\0\0\0",
        "SIDR\u{1}",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "\u{16}\u{3}\u{1}",
    ] {
        assert_eq!(exchange(address, garbage.as_bytes()).status, 400, "{garbage:?}");
    }
    let mut header = b"GET / HTTP/1.1\r\nX: ".to_vec();
    header.resize(9000, b'a');
    assert_eq!(exchange(address, &header).status, 431);
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a:b\r\n".repeat(65));
    assert_eq!(exchange(address, many.as_bytes()).status, 431);
    assert_eq!(rig.get("/healthz").status, 200);
}

/// The response must survive what the peer sends meanwhile, and the peer must end.
#[test]
fn a_flood_behind_a_request_changes_nothing() {
    let rig = Rig::start();
    for (method, answer) in [("PUT", b"HTTP/1.1 405"), ("POST", b"HTTP/1.1 431")] {
        let mut stream = connect(rig.address());
        let asked = format!("{method} /healthz HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n");
        stream.write_all(asked.as_bytes()).unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, answer, "{method}");
        // More than it reads: sooner or later the connection is closed under the flood.
        let began = Instant::now();
        while stream.write_all(&[b'x'; 4096]).is_ok() {
            assert!(began.elapsed() < Duration::from_secs(10), "the flood is taken for ever");
        }
    }
}

#[test]
fn pipelined_requests_get_one_answer() {
    let rig = Rig::start();
    let all = raw(rig.address(), &b"GET /healthz HTTP/1.1\r\n\r\n".repeat(5), false);
    let response = Response::parse(&all);
    assert_eq!((response.status, response.body.as_str()), (200, "ok\n"), "one answer, and the connection ends");
}

#[test]
fn a_peer_may_close_its_half() {
    let rig = Rig::start();
    let response = Response::parse(&raw(rig.address(), b"GET /healthz HTTP/1.1\r\n\r\n", true));
    assert_eq!((response.status, response.body.as_str()), (200, "ok\n"));
    assert_eq!(Response::parse(&raw(rig.address(), b"GET /healthz HTT", true)).status, 400);
    assert_eq!(raw(rig.address(), b"", true), b"", "who says nothing is told nothing");
}

#[test]
fn bytes_may_come_one_by_one_but_not_for_ever() {
    let rig = hasty();
    let mut stream = connect(rig.address());
    for byte in b"GET /healthz HTTP/1.1\r\nA: b\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(Response::parse(&rest(&mut stream)).status, 200);

    let mut stream = connect(rig.address());
    let began = Instant::now();
    stream.set_nonblocking(true).unwrap();
    let mut told = Vec::new();
    loop {
        // Every byte is progress, and still the time is over.
        let _ = stream.write(b"G");
        let mut bytes = [0; 512];
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => told.extend_from_slice(&bytes[..count]),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
        assert!(began.elapsed() < Duration::from_secs(10), "a trickle is listened to for ever");
    }
    assert_eq!(Response::parse(&told).status, 408);
    assert!(began.elapsed() >= Duration::from_millis(300));
}

/// More connections than there are places, each with half a head: the honest are served all the while.
#[test]
fn slow_heads_hold_no_place() {
    let rig = Rig::start();
    let mut crowd: Vec<TcpStream> = Vec::new();
    for round in 0..5 {
        for _ in 0..50 {
            let mut stream = connect(rig.address());
            stream.write_all(b"GET /metrics HTTP/1.1\r\nX-").unwrap();
            crowd.push(stream);
        }
        let began = Instant::now();
        assert_eq!(rig.get("/readyz").status, 503, "round {round}");
        assert_eq!(rig.get("/metrics").status, 200);
        assert!(began.elapsed() < Duration::from_secs(2), "round {round}: {:?}", began.elapsed());
    }
    // The oldest had to go, without an answer; the youngest is still waited for.
    let mut oldest = crowd.remove(0);
    assert!(matches!(oldest.read(&mut [0; 16]), Ok(0) | Err(_)));
    let mut youngest = crowd.pop().unwrap();
    youngest.write_all(b"a: b\r\n\r\n").unwrap();
    assert_eq!(Response::parse(&rest(&mut youngest)).status, 200);
}

#[test]
fn who_does_not_read_is_dropped() {
    let rig = hasty();
    let mut silent: Vec<TcpStream> = (0..40).map(|_| connect(rig.address())).collect();
    for stream in &mut silent {
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    }
    assert_eq!(rig.get("/healthz").status, 200);
    std::thread::sleep(Duration::from_millis(1200));
    for stream in &mut silent {
        // Whatever was sent is there, and behind it an end.
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        assert!(all.starts_with(b"HTTP/1.1 200"));
    }
}

/// Seeded noise, whole, cut and closed at random: the pages outlive it.
#[test]
fn noise_is_survived() {
    let rig = hasty();
    let mut state = 0x5EED_u64;
    let mut below = |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    let whole = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n";
    for round in 0..300 {
        let mut bytes = whole.to_vec();
        for _ in 0..below(4) {
            let at = below(bytes.len() as u64) as usize;
            bytes[at] = below(256) as u8;
        }
        bytes.truncate(1 + below(bytes.len() as u64) as usize);
        let mut stream = connect(rig.address());
        let _ = stream.write_all(&bytes);
        if below(2) == 0 {
            let _ = stream.shutdown(Shutdown::Write);
            let mut all = Vec::new();
            let _ = stream.read_to_end(&mut all);
            if !all.is_empty() {
                let status = Response::parse(&all).status;
                assert!([200, 400, 403, 404, 405].contains(&status), "round {round}: {status}");
            }
        }
    }
    assert_eq!(rig.get("/healthz").status, 200);
}
