//! The Python client's own tests, run against a live server of ours: on TCP without a secret, on a Unix socket with one.

use std::path::Path;
use std::process::Command;

use sidereal::serve::{Address, ServerConfig};

use crate::fake::*;

#[test]
fn the_python_client_passes_its_tests() {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/python");
    let recent = ["-c", "import sys; sys.exit(sys.version_info < (3, 10))"];
    if !Command::new("python3").args(recent).status().is_ok_and(|status| status.success()) {
        println!("skipped: no python3 of version 3.10 or later");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let listen = vec![Address::Unix(directory.path().join("s.sock"))];
    let open = start(config(), &FakeEngine::prompt());
    let guarded = start(ServerConfig { secret: Some(secret()), listen, ..config() }, &FakeEngine::prompt());
    let every = "test_sidereal_client";
    let live = "test_sidereal_client.LiveServer";
    for (server, secret, tests) in [(&open, None, every), (&guarded, Some("a secret of the tests"), live)] {
        let mut command = Command::new("python3");
        command.args(["-B", "-m", "unittest", tests]).current_dir(&tools);
        command.env("SIDEREAL_ADDRESS", server.addresses()[0].to_string());
        if let Some(secret) = secret {
            command.env("SIDEREAL_SECRET", secret);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("skipped"), "{said}");
    }
}
