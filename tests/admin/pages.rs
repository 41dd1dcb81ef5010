//! What each page says, and when.

use serde_json::Value;
use sidereal::serve::{AdminConfig, AdminReach, ServeError};

use crate::exposition::Scrape;
use crate::support::{Rig, exchange};

/// Both probes and the gauge, through a server's whole life.
#[test]
fn readiness_follows_the_server() {
    let rig = Rig::start();
    let seen = || {
        let (ready, metrics) = (rig.get("/readyz"), Scrape::parse(&rig.get("/metrics").body));
        assert_eq!(rig.get("/healthz").status, 200, "the process lives");
        assert_eq!(metrics.value("sidereal_ready", &[]) == 1.0, ready.status == 200);
        (ready.status, ready.body)
    };
    assert_eq!(seen(), (503, "starting\n".into()));
    assert!(rig.get("/").body.contains("the engine is loading"));
    let server = rig.serve();
    assert_eq!(seen(), (200, "ready\n".into()));
    rig.engine.0.lock().unwrap().ready = false;
    assert_eq!(seen(), (503, "no device\n".into()));
    rig.engine.0.lock().unwrap().ready = true;
    assert_eq!(seen(), (200, "ready\n".into()));
    rig.board.draining();
    assert_eq!(seen(), (503, "draining\n".into()));
    drop(server);
    assert_eq!(seen(), (503, "draining\n".into()));
}

#[test]
fn pages_are_what_they_say() {
    let rig = Rig::start();
    let _server = rig.serve();
    let page = rig.get("/");
    assert_eq!(page.status, 200);
    assert!(page.headers.contains("Content-Type: text/html; charset=utf-8"), "{}", page.headers);
    for part in ["<!doctype html>", "a &quot;model&quot; &lt;b&gt;", "prefers-color-scheme:dark", "class=\"ready\""] {
        assert!(page.body.contains(part), "{part:?} not in {}", page.body);
    }
    for foreign in ["<script", "http://", "https://", "src="] {
        assert!(!page.body.contains(foreign), "{foreign:?}: the page needs something from elsewhere");
    }
    let stats = rig.get("/stats?pretty=1");
    assert!(stats.headers.contains("Content-Type: application/json"), "{}", stats.headers);
    let told: Value = serde_json::from_str(&stats.body).unwrap();
    assert_eq!((&told["state"], &told["engine"]["ready"]), (&"ready".into(), &true.into()));
    assert_eq!(told["server"]["connections_open"], 0);
    let metrics = rig.get("/metrics");
    assert!(metrics.headers.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8"), "{}", metrics.headers);
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("model", "a \"model\" <b>\\\n"),
        ("catalog", "7"),
        ("device", ""),
        ("dtype", ""),
    ];
    assert_eq!(Scrape::parse(&metrics.body).value("sidereal_build_info", &labels), 1.0);
    for header in ["Connection: close", "Cache-Control: no-store", "X-Content-Type-Options: nosniff"] {
        assert!(page.headers.contains(header), "{}", page.headers);
    }
}

#[test]
fn other_methods_and_paths_are_refused() {
    let rig = Rig::start();
    let address = rig.address();
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW"] {
        let head = format!("{method} /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody");
        let response = exchange(address, head.as_bytes());
        assert_eq!(response.status, 405, "{method}");
        assert!(response.headers.contains("Allow: GET, HEAD"), "{}", response.headers);
    }
    for path in ["/metric", "/metrics/", "//", "/%2e%2e/etc/passwd", "http://localhost/metrics", "*", "/\u{e9}"] {
        assert_eq!(exchange(address, format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()).status, 404, "{path}");
    }
    let head = exchange(address, b"HEAD /metrics HTTP/1.0\r\n\r\n");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(!head.headers.contains("Content-Length: 0"), "{}", head.headers);
}

/// A page of somewhere else can have a browser ask here by a name of its own, and would read the answer as its own.
#[test]
fn only_this_machines_names_are_answered() {
    let rig = Rig::start();
    let asked = |rig: &Rig, host: &str| {
        exchange(rig.address(), format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).status
    };
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]:80", "10.1.2.3", ""] {
        assert_eq!(asked(&rig, host), 200, "{host}");
    }
    for host in ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example"] {
        assert_eq!(asked(&rig, host), 403, "{host}");
    }
    let config = AdminConfig { reach: AdminReach::Anybody, ..AdminConfig::new("127.0.0.1:0".parse().unwrap()) };
    assert_eq!(asked(&Rig::of(config), "engine-7.example"), 200);
}

#[test]
fn beyond_loopback_only_when_that_is_said() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let config = AdminConfig::new(address.parse().unwrap());
        let error = sidereal::serve::Admin::start(&config, Default::default()).map(drop).unwrap_err();
        assert!(matches!(error, ServeError::AdminBeyondLoopback { .. }), "{error}");
        assert!(error.to_string().contains("--admin-open"), "{error}");
    }
    let config = AdminConfig { reach: AdminReach::Anybody, ..AdminConfig::new("0.0.0.0:0".parse().unwrap()) };
    drop(Rig::of(config));
}

#[test]
fn a_unix_socket_is_the_owners_alone() {
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let rig = Rig::of(AdminConfig::new(format!("unix:{}", path.display()).parse().unwrap()));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
    let mut told = String::new();
    stream.read_to_string(&mut told).unwrap();
    assert!(told.starts_with("HTTP/1.1 200 OK\r\n") && told.ends_with("\r\n\r\nok\n"), "{told}");
    drop(rig);
    assert!(!path.exists(), "the socket goes with its listener");
}

/// `docs/operations.md` lists exactly what comes out: name, type, and what it means.
#[test]
fn the_documentation_lists_every_metric() {
    let rig = Rig::start();
    let _server = rig.serve();
    let scrape = Scrape::parse(&rig.get("/metrics").body);
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ").collect();
        let [name, kind, help] = cells[..] else { return None };
        let (name, kind) = (name.split(['`', '{']).next()?, kind.split(' ').next()?);
        ["counter", "gauge", "histogram"].contains(&kind).then(|| format!("{name} {kind} {help}"))
    };
    let mut documented: Vec<String> = docs.lines().filter_map(row).collect();
    documented.sort();
    let mut real: Vec<String> =
        scrape.0.iter().map(|(name, family)| format!("{name} {} {}", family.kind, family.help)).collect();
    real.sort();
    assert!(real.len() > 30);
    assert_eq!(documented, real);
}
