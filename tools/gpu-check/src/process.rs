//! Other programs, with an end: what does not come back in time is stopped, with everything that it started.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::CheckError;

/// How often a running program is looked at.
const WATCH: Duration = Duration::from_millis(10);

/// What a program did.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
    /// Whether it was stopped here.
    pub timed_out: bool,
}

impl Ran {
    /// Whether it ended well.
    pub fn is_good(&self) -> bool {
        self.code == Some(0) && !self.timed_out
    }

    /// How it ended, with the end of what it complained of.
    pub fn ending(&self) -> String {
        let how = match (self.timed_out, self.code) {
            (true, _) => "stopped: out of time".to_owned(),
            (false, Some(code)) => format!("exit code {code}"),
            (false, None) => "ended by a signal".to_owned(),
        };
        let lines: Vec<&str> = self.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
        let tail = lines[lines.len().saturating_sub(8)..].join("\n");
        if tail.is_empty() { how } else { format!("{how}: {tail}") }
    }
}

/// Starts a program in a process group of its own.
pub fn start(command: &mut Command) -> Result<Child, CheckError> {
    let name = command.get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|source| CheckError::Io { path: name.into(), source })
}

/// Sends a signal, named as `kill` names it, to a program and all that it started.
pub fn signal_group(child: &Child, signal: &str) {
    // The shell's own `kill`: small systems have no program of that name. A group that is gone needs no signal.
    let _ = Command::new("sh")
        .args(["-c", "kill -s \"$1\" -- \"-$2\"", "sh", signal, &child.id().to_string()])
        .stderr(Stdio::null())
        .status();
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // A pipe that breaks ends the text.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits for a program that was started, at most until `deadline`.
pub fn finish(mut child: Child, deadline: Instant) -> Result<Ran, CheckError> {
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let failed = |source| CheckError::Io { path: "a program that was started".into(), source };
    let mut timed_out = false;
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if Instant::now() < deadline => std::thread::sleep(WATCH),
            None => {
                timed_out = true;
                signal_group(&child, "KILL");
                // Whatever became of the signal, this wait is to end.
                let _ = child.kill();
                break child.wait().map_err(failed)?;
            }
        }
    };
    let text = |reader: JoinHandle<String>| reader.join().unwrap_or_default();
    Ok(Ran { code: status.code(), stdout: text(stdout), stderr: text(stderr), timed_out })
}

/// Runs a program to its end, or to `deadline`.
pub fn run(command: &mut Command, deadline: Instant) -> Result<Ran, CheckError> {
    finish(start(command)?, deadline)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_stopped_with_its_children() {
        let began = Instant::now();
        let ran =
            run(Command::new("sh").args(["-c", "echo begun; sleep 60; echo over"]), began + Duration::from_millis(300));
        let ran = ran.unwrap();
        assert!(ran.timed_out && !ran.is_good() && ran.stdout == "begun\n");
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn what_a_program_says_is_kept() {
        let ran = run(
            Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]),
            Instant::now() + Duration::from_secs(60),
        );
        let ran = ran.unwrap();
        assert_eq!((ran.code, &ran.stdout[..]), (Some(3), "out\n"));
        assert_eq!(ran.ending(), "exit code 3: err");
    }
}
