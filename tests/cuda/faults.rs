//! Devices that are not there, too small, or fail while others wait: faults that only the stand-in driver can be told to make.
//! On a card leave this file out (`--skip faults::`).

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use sidereal::client::{Client, ClientOptions};
use sidereal::request::{History, ItemRefs, RefusalKind, Request};

use crate::cli_support::{Ran, command, finish, golden_arg};
use crate::serve::{SMALL, demo_users, on_driver, run};
use crate::support::is_emulated;

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

/// A server on the emulated card with faults to come.
struct Faulty {
    child: Option<Child>,
    client: Client,
}

impl Faulty {
    fn start(faults: &str) -> Faulty {
        let export = golden_arg("t5-relu");
        let args = ["serve", &export, "--json", "--listen", "127.0.0.1:0", "--device", "cuda"];
        let mut command = faulty(&args.into_iter().chain(SMALL).collect::<Vec<_>>());
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
        Faulty { child: Some(child), client: Client::connect(&address, &ClientOptions::default()).unwrap() }
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
    for fault in ["launch:100", "htod:55", "graph:5", "dtoh:5"] {
        let mut server = Faulty::start(fault);
        let outcomes: Vec<_> = (0..6).map(|id| server.ask(id)).collect();
        let failed: Vec<_> = outcomes.iter().flatten().collect();
        let [(kind, message)] = failed[..] else { panic!("{fault}: {outcomes:?}") };
        assert_eq!(*kind, RefusalKind::DeviceFailed, "{message}");
        assert!(message.contains("device lost in "), "{fault}: {message}");
        assert_eq!(outcomes[5], None, "{fault}: the last one is served by the new device");
        let stats = server.stats();
        assert_eq!((&stats["device_losses"], &stats["ready"]), (&json!(1), &json!(true)), "{fault}");
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
