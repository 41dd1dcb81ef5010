//! House rules that a machine can check. Each failure names the place and what to do instead.

use std::path::{Path, PathBuf};

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// (path from the repository's root, line number, code without its comment) of every line of Rust but the generated ones.
fn lines() -> Vec<(String, usize, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["engine", "ffi", "benches", "tests", "tools", "fuzz/src", "fuzz/fuzz_targets"] {
        rust_files(&root.join(folder), &mut files);
    }
    files.retain(|file| !file.ends_with("params/generated.rs") && !file.ends_with("tests/tidy.rs"));
    files.sort();
    let mut lines = Vec::new();
    for file in files {
        let name = file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        for (index, line) in std::fs::read_to_string(&file).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap().to_owned();
            lines.push((name.clone(), index + 1, code, line.to_owned()));
        }
    }
    assert!(lines.len() > 1000, "the tree was not found");
    lines
}

fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let edge = |c: Option<char>| c.is_none_or(|c| !(c.is_alphanumeric() || c == '_'));
        edge(code[..at].chars().next_back()) && edge(code[at + word.len()..].chars().next())
    })
}

#[test]
fn unsafe_lives_at_the_edge_and_says_why() {
    let lines = lines();
    let mut faults = Vec::new();
    for (index, (file, number, code, _)) in lines.iter().enumerate() {
        if !has_word(code, "unsafe") {
            continue;
        }
        if !["ffi/", "engine/device/", "tools/gpu-emulator/"].iter().any(|place| file.starts_with(place)) {
            faults.push(format!("{file}:{number}: unsafe outside ffi/, engine/device/ and tools/gpu-emulator/"));
        }
        let opens_block = code.contains("unsafe {") || code.contains("unsafe impl");
        let explained = lines[index.saturating_sub(6)..=index]
            .iter()
            .any(|(other, _, _, line)| other == file && (line.contains("SAFETY:") || line.contains("# Safety")));
        if opens_block && !explained {
            faults.push(format!("{file}:{number}: an unsafe block without a SAFETY: line just above"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn banned_calls_have_a_replacement() {
    // (what, where it is banned, where it is allowed, what to use instead)
    let rules: &[(&str, &str, &[&str], &str)] = &[
        ("println!", "engine/", &["engine/cli/", "engine/main.rs", "engine/device/"], "use tracing"),
        ("eprintln!", "engine/", &["engine/cli/", "engine/main.rs"], "use tracing"),
        ("process::exit", "engine/", &["engine/main.rs", "engine/cli/"], "return an error to main"),
        ("thread::sleep", "engine/schedule/", &[], "wait on a queue or a deadline"),
        // The inbox holds one note a request in flight, and the I/O thread itself may leave one: it must never block.
        (
            "unbounded(",
            "engine/",
            &["engine/serve/inbox.rs"],
            "use crossbeam_channel::bounded with a limit from Limits",
        ),
        ("HashMap", "engine/device/", &[], "use indices: iteration order must not reach a result"),
    ];
    let mut faults = Vec::new();
    for (file, number, code, _) in lines() {
        for (call, folder, allowed, instead) in rules {
            if code.contains(call) && file.starts_with(folder) && !allowed.iter().any(|place| file.starts_with(place)) {
                faults.push(format!("{file}:{number}: {call} is banned here: {instead}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_module_says_what_it_is_for() {
    let mut faults = Vec::new();
    for (file, number, _, line) in lines() {
        if number == 1 && !line.starts_with("//!") {
            faults.push(format!("{file}: does not open with //! (purpose, invariant, what it does not do)"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
