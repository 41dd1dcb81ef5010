//! The compile gate as a command; `tools/kernel-gate` runs it with the compilers that it needs.
//!
//! `kernel-gate [--json|--faults] KERNELS TARGET_FOLDER TOOLCHAIN...`: judges the kernels in the folder KERNELS as the compiler
//! in each folder TOOLCHAIN makes them, and prints all of them, or with `--faults` those that do not pass. Exits with 0 when all pass, 1 when one does not, 2 when it is called wrongly and 3 when a
//! compiler cannot be used.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kernel_compiler::gate::{self, Row};
use kernel_compiler::{Cache, Sources, Target, toolchain};

fn main() -> ExitCode {
    let (flags, folders): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|word| word.starts_with('-'));
    let [kernels, target_folder, toolchains @ ..] = &folders[..] else { return usage() };
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let report: fn(&[Row]) -> String = match flags[..] {
        [] => gate::table,
        ["--json"] => gate::json,
        ["--faults"] => faults,
        _ => return usage(),
    };
    let toolchains: Vec<PathBuf> = toolchains.iter().map(PathBuf::from).collect();
    let rows = match judge(Path::new(kernels), Path::new(target_folder), &toolchains) {
        Ok(rows) => rows,
        Err(error) => {
            eprintln!("kernel-gate: {error}");
            return ExitCode::from(if error.is::<gate::GateError>() { 1 } else { 3 });
        }
    };
    println!("{}", report(&rows));
    let failed = rows.iter().filter(|row| !row.faults.is_empty()).count();
    eprintln!(
        "kernel-gate: {} kernels judged (each architecture and compiler counts), {failed} do not pass",
        rows.len()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn faults(rows: &[Row]) -> String {
    let failed: Vec<Row> = rows.iter().filter(|row| !row.faults.is_empty()).cloned().collect();
    if failed.is_empty() { "every kernel is within its budget".to_owned() } else { gate::table(&failed) }
}

fn usage() -> ExitCode {
    eprintln!("usage: kernel-gate [--json|--faults] KERNELS TARGET_FOLDER TOOLCHAIN...");
    ExitCode::from(2)
}

fn judge(kernels: &Path, target_folder: &Path, toolchains: &[PathBuf]) -> Result<Vec<Row>, Box<dyn std::error::Error>> {
    let sources = Sources::read(kernels)?;
    let cache = Cache::below(target_folder)?;
    let machine_code = Target::SHIPPED.into_iter().filter(|target| matches!(target, Target::Cubin(_)));
    let targets: Vec<Target> = machine_code.collect();
    let mut rows = Vec::new();
    for folder in toolchains {
        rows.extend(gate::judge(&sources, &toolchain::open(folder)?, &cache, &targets)?);
    }
    rows.sort_by(|a, b| (&a.module, &a.kernel, a.target).cmp(&(&b.module, &b.kernel, b.target)));
    Ok(rows)
}
