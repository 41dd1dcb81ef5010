//! The built binary on a card: the demo's users get what the CPU gives them.

use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sidereal::device::cuda::Cublaslt;

use crate::cli_support::{Ran, command, finish, golden_arg};
use crate::support::{CUBLASLT, DRIVER, folder_of, is_emulated, products};

/// A command whose driver is the one that the tests run on.
pub fn on_driver(args: &[&str]) -> Command {
    let mut command = command(args);
    if is_emulated() {
        command.env("LD_LIBRARY_PATH", std::env::join_paths([DRIVER, CUBLASLT].map(folder_of)).unwrap());
    }
    command
}

pub fn run(command: &mut Command) -> Ran {
    finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// Memory plans that an emulated card fills in no time, and patience for it.
pub const SMALL: [&str; 14] = [
    "--max-sequences",
    "4",
    "--max-prompt-tokens",
    "512",
    "--kv-bytes",
    "1MiB",
    "--max-beams",
    "32",
    "--max-cohort-rows",
    "64",
    "--max-denied-items",
    "10",
    "--default-deadline",
    "500s",
];

/// The demo's first five users, as requests.
pub fn demo_users() -> tempfile::NamedTempFile {
    let demo = crate::common::demo_export();
    let users = std::fs::read_to_string(demo.parent().unwrap().join("users.jsonl")).unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for (id, line) in users.lines().take(5).enumerate() {
        let user: Value = serde_json::from_str(line).unwrap();
        serde_json::to_writer(&mut file, &json!({"id": id, "items": user["items"], "beams": 32, "top": 10})).unwrap();
        std::io::Write::write_all(&mut file, b"\n").unwrap();
    }
    file
}

#[test]
fn the_demos_users_get_what_the_cpu_gives_them() {
    let users = demo_users();
    let export = crate::common::demo_export();
    let answers = |device: &str, cublaslt: &str| {
        let args = ["recommend", export.to_str().unwrap(), "--device", device, "--cublaslt", cublaslt, "--requests"];
        let args: Vec<&str> = args.into_iter().chain([users.path().to_str().unwrap()]).chain(SMALL).collect();
        run(&mut on_driver(&args)).exits(0).json_lines()
    };
    let wanted = if products().contains(&Cublaslt::On) { "on" } else { "auto" };
    let (own, with_cublaslt, cpu) = (answers("cuda", "off"), answers("cuda", wanted), answers("cpu", "off"));
    assert_eq!((own.len(), with_cublaslt.len()), (5, 5));
    for (cuda, cpu) in own.iter().zip(&cpu).chain(with_cublaslt.iter().zip(&cpu)) {
        let (cuda, cpu) = (cuda["results"].as_array().unwrap(), cpu["results"].as_array().unwrap());
        assert!(cuda.len() == 10 && cpu.len() == 10);
        for (cuda, cpu) in cuda.iter().zip(cpu) {
            assert_eq!((&cuda["sid"], &cuda["items"]), (&cpu["sid"], &cpu["items"]));
            let delta = cuda["score"].as_f64().unwrap() - cpu["score"].as_f64().unwrap();
            assert!(delta.abs() <= 1e-4, "{cuda} and not {cpu}");
        }
    }
}

/// A card that the driver does not know.
#[test]
fn a_card_that_is_not_there_is_named() {
    let export = golden_arg("t5-relu");
    let requests = demo_users();
    let args = ["recommend", &export, "--device", "cuda:9", "--requests", requests.path().to_str().unwrap()];
    run(&mut on_driver(&args)).exits(3).says("no card 9");
}
