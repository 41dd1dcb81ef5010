//! `sanitize`: the device tests under compute-sanitizer.
//!
//! Machines without it, and cards on which it does not run (some virtual ones), are no fault of the kernels: they are reported
//! as not supported.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::error::CheckError;
use crate::parity::device_tests::{self, PROGRAM};
use crate::process;
use crate::report::{Section, Table, Verdict};
use crate::run::Run;
use crate::setting::Setting;

/// Tools, and what each is told beside its name. Calls that answer with an error are no finding: the engine looks at every answer,
/// and asks for some, such as that an event has not been passed yet.
const TOOLS: [(&str, &[&str]); 4] = [
    ("memcheck", &["--leak-check", "no", "--report-api-errors", "no"]),
    ("racecheck", &[]),
    ("initcheck", &[]),
    ("synccheck", &[]),
];
/// Its exit code when it finds something, unlike any of the tests' own.
const FOUND: i32 = 86;
/// Processes at a time: the card is shared, and most of the time goes into starting.
const AT_A_TIME: usize = 4;
/// Tests whose shapes would take minutes under a sanitizer: their names say so.
const LEFT_OUT: &[&str] = &["large", "sweep_all", "every_shape"];

/// Where it is: on PATH, in CUDA_HOME, or where toolkits are installed.
fn find(setting: &Setting) -> Option<PathBuf> {
    if setting.is_rehearsal {
        // A stand-in for it, too.
        return Some(setting.package.join("rehearsal/compute-sanitizer")).filter(|path| path.is_file());
    }
    let name = "compute-sanitizer";
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join(name)).collect::<Vec<_>>();
    let homes = std::env::var_os("CUDA_HOME").map(PathBuf::from).into_iter().chain([PathBuf::from("/usr/local/cuda")]);
    let at_home = homes.flat_map(|home| [home.join("bin").join(name), home.join("compute-sanitizer").join(name)]);
    on_path.into_iter().chain(at_home).find(|path| path.is_file())
}

/// Runs all tools.
pub fn run(run: &mut Run) -> Result<(), CheckError> {
    let Some(program) = find(&run.setting) else {
        let told = "compute-sanitizer is neither on PATH nor in CUDA_HOME: not supported here";
        println!("{told}");
        return run.section(|_| Ok(Section::ended("compute-sanitizer", Verdict::NotSupported, told)));
    };
    for (index, (tool, options)) in TOOLS.into_iter().enumerate() {
        let share = run.setting.left() / (TOOLS.len() - index) as u32;
        run.section(|setting| section(setting, &program, (tool, options), share))?;
    }
    Ok(())
}

/// One tool over every test: a process for each file of tests, some at a time. One that does not end takes no other with it.
fn section(
    setting: &Setting,
    program: &Path,
    tool: (&'static str, &[&str]),
    share: Duration,
) -> Result<Section, CheckError> {
    let deadline = Instant::now() + share;
    let filters: &[&str] = if setting.is_rehearsal { device_tests::REHEARSED } else { &[] };
    let names = device_tests::list(setting, filters)?;
    let mut files: Vec<String> =
        names.iter().filter_map(|name| Some(format!("{}::", name.split_once("::")?.0))).collect();
    files.sort();
    files.dedup();
    let next = Mutex::new(files.iter());
    let found = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                // Bound first: the queue is locked for no longer than it takes to take one.
                while let Some(file) = { lock(&next).next() } {
                    let outcome = one_file(setting, program, tool, (file, deadline));
                    lock(&found).push((file.clone(), outcome));
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let mut section = Section::new(format!("compute-sanitizer {}", tool.0), Verdict::Passed);
    let mut table = Table::new(tool.0, &["file of tests", "tests passed", "outcome", "told"]);
    for (file, outcome) in found {
        let Outcome { verdict, passed, told } = outcome?;
        table.rows.push(vec![json!(file.trim_end_matches(':')), json!(passed), json!(verdict.words()), json!(told)]);
        section.verdict = worse(section.verdict, verdict);
    }
    if table.rows.is_empty() {
        section.verdict = Verdict::NotMeasured;
    }
    section.tables.push(table);
    Ok(section)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The verdict over two: a finding counts most, then what was not looked at.
fn worse(a: Verdict, b: Verdict) -> Verdict {
    let order = [Verdict::Failed, Verdict::NotSupported, Verdict::NotMeasured];
    order.into_iter().find(|verdict| [a, b].contains(verdict)).unwrap_or(b)
}

struct Outcome {
    verdict: Verdict,
    passed: usize,
    told: String,
}

/// The tests of one file under one tool.
fn one_file(
    setting: &Setting,
    program: &Path,
    (tool, options): (&str, &[&str]),
    (file, deadline): (&str, Instant),
) -> Result<Outcome, CheckError> {
    if Instant::now() >= deadline {
        return Ok(Outcome { verdict: Verdict::NotMeasured, passed: 0, told: "out of time".to_owned() });
    }
    let mut command = setting.with_driver(Command::new(program));
    command.args(["--tool", tool, "--error-exitcode", &FOUND.to_string()]).args(options);
    command.arg(setting.program(PROGRAM)?).args([file, "--test-threads", "1"]);
    command.args(LEFT_OUT.iter().flat_map(|part| ["--skip", part]));
    let ran = process::run(&mut command, deadline)?;
    let output = format!("{}{}", ran.stdout, ran.stderr);
    let (verdict, told) = match () {
        () if output.contains("Device not supported") => (Verdict::NotSupported, findings(&output)),
        () if ran.timed_out => (Verdict::NotMeasured, "out of time".to_owned()),
        () if !output.contains("COMPUTE-SANITIZER") => (Verdict::NotSupported, ran.ending()),
        () if ran.is_good() => (Verdict::Passed, String::new()),
        () => (Verdict::Failed, findings(&output)),
    };
    Ok(Outcome { verdict, passed: device_tests::tally(&ran.stdout).passed, told })
}

/// The first lines that the tool marks as its own.
fn findings(output: &str) -> String {
    let marked = output.lines().filter_map(|line| line.strip_prefix("=========")).map(str::trim);
    let lines: Vec<&str> =
        marked.filter(|line| !line.is_empty() && !line.contains("COMPUTE-SANITIZER")).take(6).collect();
    lines.join("; ")
}
