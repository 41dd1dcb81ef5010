//! Exports that lie, as the command line meets them: each ends with an exit code and one message that names what and where,
//! at once and in little memory.

mod cli_support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use cli_support::{Ran, command, finish, golden, golden_arg};

/// Runs a command that must end by itself within a generous time.
fn ends(args: &[&str]) -> Ran {
    let mut child = command(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > Duration::from_secs(30) {
            child.kill().unwrap();
            panic!("{args:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    finish(child)
}

/// A pipe without a writer stands where a file should: nobody waits for it.
#[test]
fn a_pipe_is_no_catalogue() {
    let dir = tempfile::tempdir().unwrap();
    let export = golden_arg("t5-relu");
    let out = dir.path().join("out.sid").to_str().unwrap().to_owned();
    for name in ["pipe.sid", "pipe.jsonl", "pipe.csv", "pipe"] {
        let pipe = dir.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let pipe = pipe.to_str().unwrap();
        ends(&["check", &export, "--skip-goldens", "--catalog", pipe]).exits(1).says("not a regular file").says(pipe);
        ends(&["serve", &export, "--listen", "127.0.0.1:0", "--catalog", pipe]).exits(3).says("not a regular file");
        ends(&["catalog", "build", "--from", pipe, "--out", &out]).exits(3).says("not a regular file").says(pipe);
        ends(&["catalog", "verify", pipe]).exits(3).says("not a regular file");
    }
}

#[test]
fn a_secret_without_an_end_is_refused() {
    let export = golden("t5-relu");
    ends(&["serve", export.to_str().unwrap(), "--listen", "127.0.0.1:0", "--secret-file", "/dev/zero"])
        .exits(3)
        .says("/dev/zero")
        .says("65536 bytes");
}
