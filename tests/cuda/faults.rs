//! Devices that are not there, too small, or fail while others wait: faults that only the stand-in driver can be told to make.
//! On a card leave this file out (`--skip faults::`).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use sidereal::client::{Client, ClientOptions};
use sidereal::request::{History, ItemRefs, RefusalKind, Request};

use crate::cli_support::{Ran, command, finish, golden_arg};
use crate::serve::{SMALL, demo_users, on_driver, run};
use crate::support::{DRIVER, folder_of, is_emulated};

/// A command on the stand-in driver.
fn faulty(args: &[&str]) -> Command {
    assert!(is_emulated(), "no fault can be injected into a real driver: leave these tests out with --skip faults::");
    on_driver(args)
}

/// A machine that has no driver.
#[test]
fn no_driver_is_one_clear_line() {
    let export = golden_arg("t5-relu");
    let requests = demo_users();
    let args = ["recommend", &export, "--device", "cuda", "--requests", requests.path().to_str().unwrap()];
    let empty = tempfile::tempdir().unwrap();
    let ran = run(command(&args).env("LD_LIBRARY_PATH", empty.path())).exits(3);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    ran.says("no CUDA driver (libcuda.so.1) on this machine; --device cpu needs none");
}

/// `recommend` for two requests on the emulated card, with the environment of a test.
fn recommend(options: &[&str], environment: &[(&str, &str)]) -> Ran {
    let mut requests = tempfile::NamedTempFile::new().unwrap();
    for id in 0..2 {
        let request = json!({"id": id, "items": [12069, 23326, 12069], "beams": 16, "top": 5});
        writeln!(requests, "{request}").unwrap();
    }
    let export = golden_arg("t5-relu");
    let args = ["recommend", &export, "--device", "cuda", "--requests", requests.path().to_str().unwrap()];
    let args: Vec<&str> = args.into_iter().chain(SMALL).chain(options.iter().copied()).collect();
    run(faulty(&args).envs(environment.iter().copied()))
}

/// The lists of a run that went well.
fn lists(ran: &Ran) -> Vec<Value> {
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let lists: Vec<Value> = ran.json_lines().iter().map(|line| line["results"].clone()).collect();
    assert!(lists.len() == 2 && lists.iter().all(|list| list.as_array().is_some_and(|list| list.len() == 5)));
    lists
}

/// A machine with a driver and without cuBLASLt.
#[test]
fn no_cublaslt_is_one_clear_line_or_none() {
    let driver = folder_of(DRIVER);
    let library_path = ("LD_LIBRARY_PATH", driver.to_str().unwrap());
    let ran = recommend(&["--cublaslt", "on"], &[library_path]).exits(3);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    ran.says("no cuBLASLt (libcublasLt.so.13 or .12) on this machine; --cublaslt off needs none");
    let auto = recommend(&["--cublaslt", "auto"], &[library_path, ("RUST_LOG", "info")]);
    assert_eq!(lists(&auto), lists(&recommend(&[], &[library_path])));
    let told = auto.stderr.lines().filter(|line| line.contains("no cuBLASLt (libcublasLt.so.13 or .12)"));
    assert_eq!(told.count(), 1, "{}", auto.stderr);
}

/// An algorithm that adds some rows in another order is passed over; where there is no other, the engine's kernels compute what
/// they compute without cuBLASLt.
#[test]
fn algorithms_that_mix_rows_are_not_taken() {
    let uneven =
        |number| recommend(&["--cublaslt", "on"], &[("GPU_EMULATOR_CUBLASLT_UNEVEN", number), ("RUST_LOG", "warn")]);
    let (none, some, all) = (uneven("0"), uneven("2"), uneven("3"));
    let fallen_back = "cuBLASLt keeps no row apart from its batch: the engine's own kernel computes";
    assert!(!none.stderr.contains(fallen_back), "{}", none.stderr);
    assert!(!some.stderr.contains(fallen_back), "{}", some.stderr);
    assert_eq!(lists(&some), lists(&none));
    assert!(all.stderr.contains(fallen_back), "{}", all.stderr);
    assert_eq!(lists(&all), lists(&recommend(&[], &[])));
}

#[test]
fn a_cublaslt_that_fails_at_start_says_so() {
    for (fault, call) in [("cublas:1", "cublasLtCreate"), ("cublas:2", "cublasLtMatmulAlgoGetHeuristic")] {
        let ran = recommend(&["--cublaslt", "on"], &[("GPU_EMULATOR_FAIL", fault)]).exits(3);
        assert!(ran.stderr.contains(call), "{fault}: {}", ran.stderr);
        assert!(ran.stderr.contains("CUBLAS_STATUS_INTERNAL_ERROR"), "{fault}: {}", ran.stderr);
    }
    let ran = recommend(&["--cublaslt", "on"], &[("GPU_EMULATOR_FAIL", "product:3")]).exits(3);
    ran.says("device lost in trial of cuBLASLt");
}

/// cuBLASLt needs a card.
#[test]
fn cublaslt_on_the_cpu_is_refused() {
    let export = golden_arg("t5-relu");
    let requests = demo_users();
    let path = requests.path().to_str().unwrap();
    let args = ["recommend", &export, "--device", "cpu", "--cublaslt", "on", "--requests", path];
    run(&mut command(&args)).exits(3).says("cuBLASLt computes on a card, and the device is the CPU");
}

/// A server on the emulated card with faults to come.
struct Faulty {
    child: Option<Child>,
    client: Client,
    admin: SocketAddr,
}

impl Faulty {
    fn start(faults: &str) -> Faulty {
        Faulty::start_with(faults, "off")
    }

    fn start_with(faults: &str, cublaslt: &str) -> Faulty {
        let export = golden_arg("t5-relu");
        let args = ["serve", &export, "--json", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let args = args.into_iter().chain(["--device", "cuda", "--cublaslt", cublaslt]);
        let mut command = faulty(&args.chain(SMALL).collect::<Vec<_>>());
        command.env("GPU_EMULATOR_FAIL", faults).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            panic!("the server did not start: {}", finish(child).stderr);
        }
        let hello: Value = serde_json::from_str(&line).unwrap();
        assert!(hello["device"].as_str().unwrap().starts_with("cuda:0/"), "{hello}");
        let address = hello["listening"][0].as_str().unwrap().parse().unwrap();
        let client = Client::connect(&address, &ClientOptions::default()).unwrap();
        Faulty { child: Some(child), client, admin: hello["admin"].as_str().unwrap().parse().unwrap() }
    }

    /// What a probe of `/readyz` is told: the first line, and the reason.
    fn probe(&self) -> (String, String) {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.write_all(b"GET /readyz HTTP/1.1\r\n\r\n").unwrap();
        let mut told = String::new();
        stream.read_to_string(&mut told).unwrap();
        let (first, last) = (told.lines().next().unwrap(), told.lines().last().unwrap());
        (first.to_owned(), last.to_owned())
    }

    /// The refusal's kind and message, or nothing.
    fn ask(&mut self, id: u64) -> Option<(RefusalKind, String)> {
        let items = History::Items(ItemRefs::Ids(vec![12069, 23326, 12069]));
        let answer = self.client.recommend(&Request::new(id, items, 16, 5)).unwrap();
        answer.map(|good| assert_eq!(good.results.len(), 5)).err().map(|refusal| (refusal.kind, refusal.message))
    }

    fn stats(&mut self) -> Value {
        serde_json::from_str(&self.client.stats().unwrap().engine).unwrap()
    }

    fn finish(mut self) -> Ran {
        finish(self.child.take().unwrap())
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_device_lost_once_comes_back() {
    // A start with cuBLASLt tries its products 40 times (four shapes, two kinds of rows, five calls).
    for (fault, cublaslt) in [
        ("launch:100", "off"),
        ("htod:55", "off"),
        ("graph:5", "off"),
        ("dtoh:5", "off"),
        ("product:45", "on"),
        ("product:45!", "on"),
    ] {
        let mut server = Faulty::start_with(fault, cublaslt);
        let outcomes: Vec<_> = (0..6).map(|id| server.ask(id)).collect();
        let failed: Vec<_> = outcomes.iter().flatten().collect();
        let [(kind, message)] = failed[..] else { panic!("{fault}: {outcomes:?}") };
        assert_eq!(*kind, RefusalKind::DeviceFailed, "{message}");
        assert!(message.contains("device lost in "), "{fault}: {message}");
        assert_eq!(outcomes[5], None, "{fault}: the last one is served by the new device");
        let stats = server.stats();
        assert_eq!((&stats["device_losses"], &stats["ready"]), (&json!(1), &json!(true)), "{fault}");
        assert_eq!(server.probe(), ("HTTP/1.1 200 OK".into(), "ready".into()), "{fault}");
    }
}

/// Recordings take memory that is not planned; without any, steps run all the same.
#[test]
fn no_memory_for_recordings_loses_no_device() {
    for fault in ["instantiate:1*", "instantiate:3"] {
        let mut server = Faulty::start(fault);
        for id in 0..4 {
            assert_eq!(server.ask(id), None, "{fault}: request {id}");
        }
        assert_eq!(server.stats()["device_losses"], json!(0), "{fault}");
    }
}

#[test]
fn a_device_lost_twice_ends_the_server() {
    let mut server = Faulty::start("launch:1*");
    // The first two are on the device when it is lost; the third finds none.
    for id in 0..3 {
        let outcome = server.ask(id);
        assert!(matches!(outcome, Some((RefusalKind::DeviceFailed, _))), "request {id}: {outcome:?}");
    }
    assert_eq!(server.stats()["ready"], json!(false));
    let (status, reason) = server.probe();
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    // The server looks once a second whether it should end.
    assert!(["no device", "draining"].contains(&reason.as_str()), "{reason}");
    server.finish().exits(3).says("the device was lost and could not be brought back");
}

#[test]
fn a_model_that_does_not_fit_is_refused_with_a_table() {
    let export = golden_arg("t5-relu");
    let requests = demo_users();
    let args = ["recommend", &export, "--device", "cuda", "--requests", requests.path().to_str().unwrap()];
    let ran = run(faulty(&args).env("GPU_EMULATOR_MEMORY_BYTES", "20000000")).exits(3);
    for part in ["MiB are free; planned so far:", "weights", "KV", "workspaces and descriptors"] {
        assert!(ran.stderr.contains(part), "{part:?} not in {}", ran.stderr);
    }
    let ran = run(faulty(&args).env("GPU_EMULATOR_FAIL", "pinned:1")).exits(3);
    ran.says("page-locked on the host needs");
}
