//! `bench` of the built binary: against a server of its own and against one that runs, and what it says when it cannot.
//! Counts are asserted, times never are.

mod cli_support;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use cli_support::{Ran, command, finish, golden_arg, sidereal};
use serde_json::{Value, json};

/// Flags of a short run on a machine that may be busy with other tests.
const SHORT: &[&str] = &["--duration", "400ms", "--warmup", "100ms", "--connections", "2", "--max-lag", "60s"];
/// Small requests of an export's own items.
const SMALL: &[&str] = &["--mix", "3/8:0.5,5/16:0.5", "--top", "5", "--threads", "1", "--device", "cpu"];

fn bench(args: &[&[&str]]) -> Ran {
    sidereal(&[&["bench"], args.concat().as_slice()].concat())
}

/// `counts` add up to what was due.
fn assert_whole(run: &Value) {
    let counts = &run["counts"];
    let count = |name: &str| counts[name].as_u64().unwrap();
    let refused: u64 = counts["refused"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    let parts = count("answered") + refused + count("errors") + count("timeouts") + count("cut_off");
    assert_eq!(count("due"), parts, "{run}");
}

/// A `serve` that is killed if a test fails.
struct Serving(Child, String);

impl Serving {
    fn start(args: &[&str]) -> Serving {
        let export = golden_arg("t5-relu");
        let all = [&["serve", export.as_str(), "--json", "--threads", "1", "--device", "cpu"], args].concat();
        let mut child = command(&all).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let hello: Value = serde_json::from_str(&line).unwrap();
        let address = hello["listening"][0].as_str().unwrap().to_owned();
        Serving(child, address)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn measures_rates_on_a_server_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let html = dir.path().join("report.html");
    let export = golden_arg("t5-relu");
    let told = ["--rates", "40,80", "--json", "-", "--html", html.to_str().unwrap(), "--seed", "7"];
    let ran = bench(&[&[&export], &told, SHORT, SMALL]).exits(0);
    // The table is for people and leaves stdout to the JSON.
    assert!(ran.stderr.contains("verdict") && ran.stderr.contains("80/s"), "{}", ran.stderr);
    let report = ran.json();
    assert_eq!(report["setting"]["model"], "t5-relu@golden.1");
    assert!(report["setting"]["command"].as_str().unwrap().starts_with("sidereal bench "), "{report}");
    let runs = report["runs"].as_array().unwrap();
    assert_eq!((runs.len(), &runs[0]["rate"], &runs[1]["rate"]), (2, &json!(40.0), &json!(80.0)));
    for run in runs {
        assert_whole(run);
        assert!(run["counts"]["answered"].as_u64().unwrap() > 0, "{run}");
        assert_eq!(run["stages"][0]["of"], "all");
    }
    let page = std::fs::read_to_string(&html).unwrap();
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..roxmltree::ParsingOptions::default() };
    let page = roxmltree::Document::parse_with_options(&page, options).unwrap();
    assert_eq!(page.descendants().filter(|node| node.has_tag_name("figure")).count(), 4);
}

#[test]
fn a_seed_fixes_what_is_due() {
    let export = golden_arg("t5-relu");
    let due = |seed: &str| {
        let ran = bench(&[&[&export, "--rate", "200", "--json", "-", "--seed", seed], SHORT, SMALL]).exits(0);
        ran.json()["runs"][0]["counts"]["due"].as_u64().unwrap()
    };
    assert_eq!([due("3"), due("3")], [due("3"); 2]);
}

#[test]
fn drives_a_running_server_with_its_secret_and_real_histories() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let secret = write("secret", "a secret of some length\n");
    let users = write("users.jsonl", "{\"user\":1,\"items\":[12069,23326],\"target\":20768}\n{\"items\":[14084]}\n");
    let asked = write(
        "asked.jsonl",
        "{\"items\":[12069],\"beams\":4}\n{\"items\":[23326],\"beams\":8,\"deny_history\":true}\n",
    );
    let server = Serving::start(&["--listen", "127.0.0.1:0", "--secret-file", &secret]);
    let at = ["--address", server.1.as_str(), "--secret-file", &secret];
    let closed = bench(&[&at, &["--histories", &users, "--concurrency", "3", "--json", "-"], SHORT]).exits(0).json();
    assert_eq!(closed["runs"][0]["in_flight"], 3);
    assert_whole(&closed["runs"][0]);
    let replay = bench(&[&at, &["--requests", &asked, "--rate", "50", "--arrivals", "constant"], SHORT]).exits(0);
    let replay = replay.says("replay of 2 requests").says("constant arrivals");
    assert!(!replay.stdout.contains('\x1b') && !replay.stderr.contains('\x1b'), "no colour without a terminal");
    // The export tells the items of a server that runs elsewhere.
    let export = golden_arg("t5-relu");
    let local = ["--rate", "50", "--mix", "2/4,9t/4:0.5"];
    bench(&[&[&export], &at, &local, SHORT]).exits(0).says("of random items");
    bench(&[&["--address", &server.1, "--rate", "5", "--requests", &asked]]).exits(3).says("secret");
}

#[test]
fn searches_for_the_highest_rate() {
    let export = golden_arg("t5-relu");
    let search = [
        "--slo-p99-ms",
        "1500",
        "--duration",
        "200ms",
        "--warmup",
        "0s",
        "--min-requests",
        "100",
        "--precision",
        "0.5",
        "--json",
        "-",
        "--max-lag",
        "60s",
    ];
    let ran = bench(&[&[&export], &search, SMALL]);
    let report = ran.json();
    let found = &report["search"];
    assert_eq!(ran.code, Some(if found["confirmed"] == true { 0 } else { 1 }), "{}", ran.stderr);
    let runs = report["runs"].as_array().unwrap();
    // The calibration, and every probe.
    assert_eq!(runs.len() as u64, 1 + found["probes"].as_u64().unwrap());
    runs.iter().for_each(assert_whole);
    if let Some(rate) = found["rate"].as_f64() {
        let met = runs.iter().filter(|run| run["rate"] == rate && run["slo"]["met"] == true).count();
        assert!(met >= if found["confirmed"] == true { 2 } else { 1 }, "{report}");
    }
}

#[test]
fn an_slo_that_is_not_met_exits_with_1() {
    let export = golden_arg("t5-relu");
    let ran = bench(&[&[&export, "--rate", "40", "--slo-p99-ms", "0.001"], SHORT, SMALL]).exits(1);
    ran.says("missed").says("0.001 ms");
    // Nobody keeps up within a nanosecond: the run is not valid, and says by how much.
    let strict = ["--rate", "40", "--duration", "400ms", "--warmup", "100ms", "--max-lag", "0s"];
    bench(&[&[&export], &strict, SMALL]).exits(1).says("could not keep up").says("not valid");
}

#[test]
fn an_interrupt_prints_what_was_measured() {
    let export = golden_arg("t5-relu");
    let args = [&["bench", &export, "--rate", "50", "--duration", "100s", "--warmup", "0s"], SMALL].concat();
    let mut child = command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    // The head is printed when the load starts.
    let mut line = String::new();
    while !line.contains("verdict") {
        line.clear();
        assert!(stdout.read_line(&mut line).unwrap() > 0, "the bench ended: {}", finish(child).stderr);
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap().success());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    let ran = finish(child).exits(1).says("interrupted");
    assert!(rest.contains("50/s") && rest.contains("mean ms"), "{rest}{}", ran.stderr);
}

#[test]
fn says_what_is_wrong_with_the_flags() {
    let export = golden_arg("t5-relu");
    let wrong = |args: &[&str]| bench(&[args]).exits(2);
    wrong(&["--rate", "5"]).says("--address");
    wrong(&[&export]).says("--rate").says("--slo-p99-ms");
    wrong(&[&export, "--rate", "0"]).says("0.001");
    wrong(&[&export, "--rate", "5", "--concurrency", "5"]).says("cannot be used with");
    wrong(&[&export, "--rate", "5", "--mix", "12"]).says("256/32:0.7");
    wrong(&[&export, "--rate", "5", "--duration", "0s"]).says("--duration is 0");
    wrong(&[&export, "--rate", "1e9", "--duration", "10s"]).says("--duration shorter");
    wrong(&[&export, "--rate", "5", "--requests", "x", "--mix", "1/1"]).says("cannot be used with");
    wrong(&[&export, "--rate", "5", "--mix", "all/4", "--threads", "1"]).says("--histories");
    wrong(&[&export, "--rate", "5", "--json", "x", "--html", "x"]).says("same file");
    wrong(&[&export, "--rate", "5", "--secret-file", "x"]).says("--address");
    let server = Serving::start(&["--listen", "127.0.0.1:0"]);
    wrong(&["--address", &server.1, "--rate", "5"]).says("--histories or --requests");
}

#[test]
fn says_what_the_machine_or_the_server_refuses() {
    let export = golden_arg("t5-relu");
    bench(&[&["/no/such/export", "--rate", "5"]]).exits(3).says("/no/such/export");
    bench(&[&[&export, "--rate", "5", "--requests", "/no/such/file", "--threads", "1"]]).exits(3).says("/no/such/file");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    drop(taken);
    bench(&[&[&export, "--address", &address, "--rate", "5"]]).exits(3).says("cannot connect").says(&address);
    // What the server will never take is said before the load starts.
    let ran = bench(&[&[&export, "--rate", "5", "--mix", "2/5000", "--threads", "1"]]).exits(1);
    ran.says("refuses a request of 5000 beams").says("BAD_REQUEST");
    let nowhere = bench(&[&[&export, "--rate", "50", "--html", "/no/such/dir/x.html"], SHORT, SMALL]).exits(3);
    nowhere.says("/no/such/dir/x.html").says("50/s");
}
