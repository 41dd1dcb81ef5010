//! Runs the built `sidereal` binary, and makes copies of golden exports to break.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod serving;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// What a command did.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// stdout as one JSON value.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }

    /// stdout as JSON lines.
    pub fn json_lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Asserts the exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Ran {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Asserts that stderr or stdout says something.
    #[track_caller]
    pub fn says(self, part: &str) -> Ran {
        assert!(
            self.stdout.contains(part) || self.stderr.contains(part),
            "{part:?} not in:\n{}{}",
            self.stdout,
            self.stderr
        );
        self
    }
}

/// A command of the binary, without the caller's environment of colours and logs.
pub fn command(args: &[&str]) -> Command {
    // Carried to another machine, the tests have the binary beside them.
    let carried = std::env::var_os("SIDEREAL_TEST_ROOT").map(|root| Path::new(&root).join("bin/sidereal"));
    let mut command = Command::new(carried.unwrap_or_else(|| env!("CARGO_BIN_EXE_sidereal").into()));
    command.args(args).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// Runs the binary to its end.
pub fn sidereal(args: &[&str]) -> Ran {
    sidereal_with_input(args, "")
}

/// Runs the binary to its end with `input` on stdin.
pub fn sidereal_with_input(args: &[&str], input: &str) -> Ran {
    let mut child = command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // A command that does not read its input closes the pipe.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    finish(child)
}

/// Waits for a child.
pub fn finish(child: Child) -> Ran {
    let output = child.wait_with_output().expect("the binary ends");
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// A golden export.
pub fn golden(name: &str) -> PathBuf {
    let root = std::env::var_os("SIDEREAL_TEST_ROOT").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    root.join("tests/goldens").join(name)
}

/// A golden export's path as text.
pub fn golden_arg(name: &str) -> String {
    golden(name).to_str().expect("UTF-8").to_owned()
}

/// A copy of a golden export that may be broken.
pub struct Copy {
    dir: tempfile::TempDir,
}

impl Copy {
    pub fn of(name: &str) -> Copy {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(&golden(name), dir.path());
        Copy { dir }
    }

    /// A copy that has the items in `keep` and no others.
    pub fn with_items(name: &str, keep: &BTreeSet<u64>) -> Copy {
        let copy = Copy::of(name);
        let text = std::fs::read_to_string(copy.path("items.csv")).unwrap();
        let stays = |line: &&str| line.split(',').next().unwrap().parse().is_ok_and(|item| keep.contains(&item));
        let lines: Vec<&str> = text.lines().take(1).chain(text.lines().skip(1).filter(stays)).collect();
        std::fs::write(copy.path("items.csv"), lines.join("\n") + "\n").unwrap();
        copy
    }

    /// Item ids, in the order of their source.
    pub fn items(&self) -> Vec<u64> {
        let text = std::fs::read_to_string(self.path("items.csv")).unwrap();
        text.lines().skip(1).map(|line| line.split(',').next().unwrap().parse().unwrap()).collect()
    }

    pub fn arg(&self) -> &str {
        self.dir.path().to_str().expect("UTF-8")
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// Replaces text in a file, which must be there.
    pub fn replace(&self, file: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path(file)).unwrap();
        assert!(text.contains(from), "{file} has no {from:?}");
        std::fs::write(self.path(file), text.replacen(from, to, 1)).unwrap();
    }

    /// Changes the bytes of a file.
    pub fn edit(&self, file: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(self.path(file)).unwrap();
        edit(&mut bytes);
        std::fs::write(self.path(file), bytes).unwrap();
    }
}

/// Copies a folder with everything in it.
pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}
