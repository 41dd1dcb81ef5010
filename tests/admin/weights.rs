//! The door for weights: who may use it, what it understands, and the whole way through the built binary.

use std::fs;
use std::net::SocketAddr;

use serde_json::{Value, json};
use sidereal::request::{History, ItemRefs, Request};
use sidereal::serve::{AdminConfig, AdminReach};

use crate::cli_support::golden_arg;
use crate::cli_support::serving::Serving;
use crate::exposition::Scrape;
use crate::support::{Response, Rig, eventually, exchange, get};

fn post(address: SocketAddr, headers: &str, body: &str) -> Response {
    let length = body.len();
    let head = format!("POST /weights HTTP/1.1\r\nHost: {address}\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
    exchange(address, head.as_bytes())
}

const JSON: &str = "Content-Type: application/json\r\n";

fn rig(reach: AdminReach, weights: bool) -> Rig {
    Rig::of(AdminConfig { reach, weights, ..AdminConfig::new("127.0.0.1:0".parse().unwrap()) })
}

#[test]
fn an_order_is_understood_or_refused() {
    let rig = rig(AdminReach::ThisMachine, true);
    let order = |path: &str, version: &str| json!({"path": path, "version": version}).to_string();
    let good = order("/a/b", "seven");
    assert_eq!(post(rig.address(), JSON, &good).status, 503, "there is no engine yet");
    assert_eq!(rig.get("/weights").status, 503);
    let _server = rig.serve();
    let answer = post(rig.address(), JSON, &good);
    assert_eq!(answer.status, 202, "{}", answer.body);
    let told: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(told, json!({"policy": {"number": 405, "version": "seven"}}));
    for (headers, body, status, text) in [
        ("", good.clone(), 415, "application/json"),
        ("Content-Type: text/plain\r\n", good.clone(), 415, "application/json"),
        ("Content-Type: application/x-www-form-urlencoded\r\n", "path=/a&version=b".into(), 415, "application/json"),
        ("Content-Type: application/json\r\nOrigin: http://elsewhere\r\n", good.clone(), 403, "browser"),
        ("Content-Type: application/json\r\nSec-Fetch-Site: cross-site\r\n", good.clone(), 403, "browser"),
        ("Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n", good.clone(), 400, "HTTP/1.1"),
        (JSON, String::new(), 400, "path"),
        (JSON, "[]".into(), 400, "path"),
        (JSON, json!({"path": "/a"}).to_string(), 400, "version"),
        (JSON, json!({"path": "/a", "version": 7}).to_string(), 400, "version"),
        (JSON, json!({"path": "/a", "version": "b", "force": true}).to_string(), 400, "version"),
        (JSON, "x".repeat(8193), 431, "too large"),
        (JSON, order("relative", "v"), 400, "relative"),
        (JSON, order("/busy", "v"), 409, "3 is under way"),
        (JSON, order("/draining", "v"), 503, "draining"),
    ] {
        let answer = post(rig.address(), headers, &body);
        assert!(answer.status == status && answer.body.contains(text), "{headers:?} {body:?}: {answer:?}");
    }
    let foreign = format!("POST /weights HTTP/1.1\r\nHost: elsewhere\r\n{JSON}Content-Length: 0\r\n\r\n");
    assert_eq!(exchange(rig.address(), foreign.as_bytes()).status, 403, "a name that is not this machine's");
}

/// It is closed unless somebody said otherwise, and to other machines in any case.
#[test]
fn the_door_is_closed_by_default() {
    let body = json!({"path": "/a", "version": "b"}).to_string();
    for (reach, weights) in [(AdminReach::ThisMachine, false), (AdminReach::Anybody, true)] {
        let rig = rig(reach, weights);
        let _server = rig.serve();
        let answer = post(rig.address(), JSON, &body);
        assert!(answer.status == 403 && answer.body.contains("--admin-weights"), "{answer:?}");
        assert_eq!(rig.get("/weights").status, 200, "whose weights serve may be known");
    }
}

/// The built binary: replies name the policy, a failure changes nothing, counters tell of both.
#[test]
fn a_server_changes_its_weights() {
    let server = Serving::start(&["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--admin-weights"]);
    let admin: SocketAddr = server.hello["admin"].as_str().unwrap().parse().unwrap();
    let mut client = server.connect(0, None);
    let mut ask = |id| {
        let history = History::Items(ItemRefs::Ids(vec![12069, 23326]));
        client.recommend(&Request::new(id, history, 16, 5)).unwrap().unwrap()
    };
    let first = ask(0);
    assert_eq!((first.provenance.policy.number, first.provenance.policy.version.as_str()), (0, "golden.1"));
    let status = || serde_json::from_str::<Value>(&get(admin, "/weights").body).unwrap();
    let replace = |path: &str| {
        let answer = post(admin, JSON, &json!({"path": path, "version": "step-1"}).to_string());
        assert_eq!(answer.status, 202, "{answer:?}");
        eventually("the replacement ends", || !status()["replacement"]["took_ms"].is_null());
        status()
    };
    let told = replace("/nowhere/at/all");
    assert_eq!((&told["serving"]["number"], &told["replacement"]["stage"]), (&json!(0), &json!("failed")));
    assert!(told["replacement"]["error"].as_str().unwrap().contains("/nowhere/at/all"), "{told}");
    assert_eq!(ask(1).provenance.policy, first.provenance.policy);

    // The same weights under another name: the answer is the same, and says whose it is.
    let folder = fs::canonicalize(golden_arg("t5-relu")).unwrap();
    let told = replace(folder.join("model.safetensors").to_str().unwrap());
    assert_eq!((&told["serving"]["number"], &told["replacement"]["stage"]), (&json!(2), &json!("serving")));
    let second = ask(2);
    assert_eq!((second.provenance.policy.number, second.provenance.policy.version.as_str()), (2, "step-1"));
    assert_eq!(second.results, first.results);
    let scrape = Scrape::parse(&get(admin, "/metrics").body);
    assert_eq!(scrape.value("sidereal_policy", &[("version", "step-1")]), 2.0);
    assert_eq!(scrape.value("sidereal_weights_replaced_total", &[]), 1.0);
    assert_eq!(scrape.value("sidereal_weights_failed_total", &[]), 1.0);
    assert!(get(admin, "/").body.contains("weights step-1 (replacement 2)"));
    drop(client);
    server.signal("TERM");
    server.finish().exits(0);
}
