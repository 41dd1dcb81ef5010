//! `serve` and `demo` of the built binary: a server that is drained under load, and the whole line over a socket.

mod cli_support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cli_support::serving::Serving;
use cli_support::{Copy, golden_arg, sidereal};
use serde_json::{Value, json};
use sidereal::client::{Client, ClientOptions};
use sidereal::request::{History, ItemRefs, RefusalKind, Request};

fn request(id: u64) -> Request {
    Request::new(id, History::Items(ItemRefs::Ids(vec![12069, 23326, 12069])), 64, 5)
}

/// Design section 3: a mapped file that shrinks is the one fault that ends the process, and it is named.
#[test]
fn a_mapped_file_that_shrinks_ends_the_process_by_name() {
    let export = Copy::of("t5-relu");
    let server = Serving::of(export.arg(), &["--listen", "127.0.0.1:0"]);
    let mut client = server.connect(0, None);
    assert!(client.recommend(&request(0)).unwrap().is_ok());
    std::fs::File::options().write(true).open(export.path("model.safetensors")).unwrap().set_len(0).unwrap();
    assert!(client.recommend(&request(1)).is_err(), "the embedding table is read where it is mapped");
    let ran = server.finish().exits(3);
    assert!(ran.stderr.contains("model.safetensors") && ran.stderr.contains("shrank"), "{}", ran.stderr);
}

/// A delisting takes effect while requests are under way: nobody is refused, no reply of the new epoch has the item, soon none at
/// all has, and a server that starts later knows it too.
#[test]
fn a_delisted_item_is_gone_while_the_server_runs() {
    let export = Copy::of("t5-relu");
    let server = Serving::of(export.arg(), &["--listen", "127.0.0.1:0"]);
    let mut client = server.connect(0, None);
    let first = client.recommend(&request(0)).unwrap().unwrap();
    let (item, version) = (first.results[0].items[0].id, first.provenance.catalog.clone());
    let has = |answer: &sidereal::request::Recommendation| {
        answer.results.iter().any(|ranked| ranked.items.iter().any(|found| found.id == item))
    };
    assert!(!version.contains("+e"));
    let stop = AtomicBool::new(false);
    let replies = std::thread::scope(|scope| {
        let load = || {
            let mut client = server.connect(0, None);
            let mut replies = Vec::new();
            (0..16).for_each(|id| client.send(&request(id)).unwrap());
            for id in 16.. {
                let (_, answer) = client.receive().unwrap();
                let answer = answer.expect("nobody is refused");
                replies.push((Instant::now(), answer.provenance.catalog.clone(), has(&answer)));
                if stop.load(Ordering::Acquire) {
                    break;
                }
                client.send(&request(id)).unwrap();
            }
            (0..15).for_each(|_| assert!(client.receive().unwrap().1.is_ok()));
            replies
        };
        let loads = [scope.spawn(load), scope.spawn(load)];
        std::thread::sleep(Duration::from_millis(300));
        sidereal(&["catalog", "delist", export.arg(), "--items", &item.to_string()]).exits(0).says("epoch 1");
        let acknowledged = Instant::now();
        let mut seen = acknowledged;
        for id in 1_000_000.. {
            let answer = client.recommend(&request(id)).unwrap().unwrap();
            seen = Instant::now();
            if answer.provenance.catalog == format!("{version}+e1") {
                break;
            }
            assert!(seen - acknowledged < Duration::from_secs(20), "the journal is not followed");
        }
        println!("first reply of epoch 1 {:?} after the append", seen - acknowledged);
        // Replies that were on their way have arrived by then.
        let settled = seen + Duration::from_secs(1);
        std::thread::sleep(settled + Duration::from_millis(300) - Instant::now());
        stop.store(true, Ordering::Release);
        let replies: Vec<_> = loads.into_iter().flat_map(|load| load.join().unwrap()).collect();
        let late: Vec<_> = replies.iter().filter(|reply| reply.0 > settled).collect();
        assert!(!late.is_empty() && late.iter().all(|reply| !reply.2), "delisted items in {} late replies", late.len());
        replies
    });
    assert!(replies.iter().any(|reply| reply.2), "the item was recommended before");
    assert!(replies.iter().all(|reply| !(reply.1.ends_with("+e1") && reply.2)));
    // In a history it still counts: nothing is unknown.
    let with_it = Request::new(2_000_000, History::Items(ItemRefs::Ids(vec![item])), 8, 1);
    assert_eq!(client.recommend(&with_it).unwrap().unwrap().unknown_items, 0);
    let stats: Value = serde_json::from_str(&client.stats().unwrap().engine).unwrap();
    assert_eq!((&stats["catalog"], &stats["delisted"]), (&json!(format!("{version}+e1")), &json!(1)));

    let again = Serving::of(export.arg(), &["--listen", "127.0.0.1:0"]);
    let answer = again.connect(0, None).recommend(&request(1)).unwrap().unwrap();
    assert!(!has(&answer) && answer.provenance.catalog.ends_with("+e1"));
    sidereal(&["catalog", "relist", export.arg(), "--items", &item.to_string()]).exits(0).says("epoch 2");
    let began = Instant::now();
    while !has(&client.recommend(&request(3_000_000)).unwrap().unwrap()) {
        assert!(began.elapsed() < Duration::from_secs(20), "the item does not come back");
    }
}

#[test]
fn serves_and_drains_every_accepted_request() {
    let server = Serving::start(&["--listen", "127.0.0.1:0"]);
    assert_eq!(server.hello["model"], "t5-relu@golden.1");
    let mut client = server.connect(0, None);
    assert_eq!(client.hello().facts.model, "t5-relu@golden.1");
    assert_eq!(client.hello().facts.levels, [64, 64, 64]);
    let alone = client.recommend(&request(0)).unwrap().unwrap();
    assert_eq!(alone.results.len(), 5);

    // One answer shows that the server is at work on the rest; then it is told to stop.
    let asked = 60;
    for id in 1..=asked {
        client.send(&request(id)).unwrap();
    }
    let mut answers = vec![client.receive().unwrap()];
    server.signal("TERM");
    let began = Instant::now();
    while answers.len() < asked as usize {
        answers.push(client.receive().unwrap());
    }
    let mut ids: Vec<u64> = answers.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=asked).collect::<Vec<_>>(), "each request is answered once");
    let mut answered = 0;
    for (id, answer) in &answers {
        match answer {
            Ok(good) => {
                assert_eq!(good.results, alone.results, "request {id}");
                answered += 1;
            }
            // Read from the socket after the signal: refused by name, not dropped.
            Err(refusal) => assert_eq!(refusal.kind, RefusalKind::ShuttingDown, "request {id}: {refusal}"),
        }
    }
    assert!(answered >= 1, "{answered} answered");
    let ran = server.finish().exits(0);
    assert!(began.elapsed() < Duration::from_secs(30));
    // Logs are JSON lines on stderr.
    let logs: Vec<Value> = ran.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(logs.iter().any(|log| log["fields"]["message"] == "draining"), "{logs:?}");
}

#[test]
fn interrupt_drains_an_idle_server() {
    let server = Serving::start(&["--listen", "127.0.0.1:0"]);
    let mut client = server.connect(0, None);
    client.ping().unwrap();
    server.signal("INT");
    server.finish().exits(0);
}

#[test]
fn a_second_signal_ends_at_once() {
    let server = Serving::start(&["--listen", "127.0.0.1:0"]);
    let mut client = server.connect(0, None);
    // Work for much longer than this test takes.
    for id in 1..=1000 {
        client.send(&Request { beams: 512, ..request(id) }).unwrap();
    }
    let _ = client.receive().unwrap();
    server.signal("TERM");
    while !client.server_leaves() {
        let _ = client.receive().expect("the drain goes on answering");
    }
    let began = Instant::now();
    server.signal("TERM");
    let ran = server.finish();
    assert_eq!(ran.code, None, "ended by the signal: {}", ran.stderr);
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(ran.stderr.contains("second signal"), "{}", ran.stderr);
}

#[test]
fn a_drain_that_takes_too_long_says_what_is_lost() {
    let server = Serving::start(&["--listen", "127.0.0.1:0", "--drain-timeout", "1ms"]);
    let mut client = server.connect(0, None);
    for id in 1..=500 {
        client.send(&Request { beams: 512, ..request(id) }).unwrap();
    }
    let _ = client.receive().unwrap();
    server.signal("TERM");
    server.finish().exits(3).says("accepted request").says("--drain-timeout");
}

#[test]
fn listens_on_unix_sockets_and_asks_for_the_secret() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "a secret of some length\n").unwrap();
    let socket = format!("unix:{}", dir.path().join("s.sock").display());
    let secret = secret.to_str().unwrap();
    let server = Serving::start(&["--listen", &socket, "--listen", "127.0.0.1:0", "--secret-file", secret]);
    assert_eq!(server.hello["listening"].as_array().unwrap().len(), 2);
    for at in 0..2 {
        let mut client = server.connect(at, Some(b"a secret of some length"));
        assert!(client.recommend(&request(7)).unwrap().is_ok());
    }
    let address = server.hello["listening"][0].as_str().unwrap().parse().unwrap();
    assert!(Client::connect(&address, &ClientOptions::default()).is_err(), "without the secret nobody gets in");
    server.signal("TERM");
    server.finish().exits(0);
}

#[test]
fn says_why_it_cannot_serve() {
    let export = golden_arg("t5-relu");
    let serve = |args: &[&str]| sidereal(&[&["serve", &export, "--threads", "1"], args].concat());
    serve(&["--listen", "nonsense"]).exits(2).says("nonsense").says("HOST:PORT");
    serve(&["--listen", "0.0.0.0:0"]).exits(3).says("shared secret");
    serve(&["--secret-file", "/no/such/file"]).exits(3).says("/no/such/file");
    serve(&["--max-beams", "0"]).exits(1).says("max_beams");
    serve(&["--drain-timeout", "soon"]).exits(2).says("30s");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    serve(&["--listen", &taken]).exits(3).says(&taken);
}

/// The demo's command on a small stand-in for its data: the golden export and users made up from its items.
#[test]
fn demo_runs_on_any_export_with_users() {
    let dir = tempfile::tempdir().unwrap();
    cli_support::copy_dir(Path::new(&golden_arg("t5-relu")), &dir.path().join("export"));
    let items = [12069u64, 23326, 20768, 14084, 14112, 17394];
    let users: String = (0..40)
        .map(|user| {
            let history: Vec<u64> = (0..4).map(|at| items[(user + at) % items.len()]).collect();
            format!(
                "{}\n",
                json!({"user": user.to_string(), "items": history, "target": items[(user + 4) % items.len()]})
            )
        })
        .collect();
    std::fs::write(dir.path().join("users.jsonl"), users).unwrap();
    std::fs::write(dir.path().join("popularity.json"), json!({"items": items}).to_string()).unwrap();
    let path = dir.path().to_str().unwrap();
    let ran = sidereal(&["demo", "--export", path, "--users", "3", "--threads", "1"]).exits(0);
    assert_eq!(ran.stdout.matches("and next:").count(), 3, "{}", ran.stdout);
    assert!(!ran.stdout.contains('\x1b'), "no colour without a terminal");
    let ran = ran.says("HR@10").says("popularity").says("100%").says("requests/s").says("Harper");
    drop(ran);
    let told = sidereal(&["demo", "--export", path, "--json", "--threads", "1"]).exits(0).json();
    assert_eq!((&told["quality"]["users"], &told["legality"]["illegal"]), (&json!(40), &json!(0)));
    assert_eq!(told["legality"]["answers"], 40);
    sidereal(&["demo", "--export", "/nowhere"]).exits(3).says("/nowhere").says("users.jsonl");
}

/// The real one, where the repository has its data.
#[test]
fn demo_smoke() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/movielens");
    assert!(demo.join("export").is_dir(), "{} is missing: it is part of the repository", demo.display());
    let told = sidereal(&["demo", "--json"]).exits(0).json();
    assert!(told["quality"]["users"].as_u64().unwrap() >= 500, "{told}");
    assert_eq!(told["legality"]["illegal"], 0);
    let at_10 = |who: &str| told[who]["hr@10"].as_f64().unwrap();
    assert!(at_10("quality") > at_10("popularity"), "{told}");
}
