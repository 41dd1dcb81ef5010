//! What a bench prints and writes: a row a run, what they come to, and the files.

use std::io::Write;
use std::path::Path;

use super::BenchArgs;
use crate::bench::measure::Run;
use crate::bench::report::{Report, Setting, note, word};
use crate::bench::stages::SEGMENTS;
use crate::cli::Failure;
use crate::cli::style::Style;

/// The table, row by row as the runs end. With `--json -` stdout carries the JSON alone, and the table goes to stderr.
pub struct Table {
    out: Box<dyn Write>,
    style: Style,
}

impl Table {
    /// Prints what is measured, and the head.
    pub fn begin(setting: &Setting, json: Option<&Path>) -> Result<Table, Failure> {
        let mut table = if json.is_some_and(|path| path.as_os_str() == "-") {
            Table { out: Box::new(std::io::stderr()), style: Style::plain() }
        } else {
            Table { out: Box::new(std::io::stdout()), style: Style::stdout() }
        };
        let Setting { model, catalog, device, dtype, server, workload, arrivals, seed, connections, .. } = setting;
        let (out, style) = (&mut table.out, table.style);
        writeln!(out, "{}  catalogue {catalog}, {device}, {dtype}", style.bold(model))?;
        writeln!(out, "server {server}; {connections} connections")?;
        writeln!(out, "{workload}; {arrivals} arrivals, seed {seed}\n")?;
        let head = format!(
            "  {:<14} {:>7} {:>10} {:>8} {:>8} {:>8} {:>8} {:>8} {:>7} {:>7} {:>8}",
            "run", "due", "answers/s", "p50 ms", "p95 ms", "p99 ms", "in time", "refused", "lost", "lag ms", "verdict"
        );
        writeln!(out, "{}", style.dim(&head))?;
        Ok(table)
    }

    /// Prints a run.
    pub fn row(&mut self, run: &Run) -> Result<(), Failure> {
        let Run { counts, latency_ms, .. } = run;
        let in_time = counts.in_time_percent();
        // In flight at the end of a probe that was decided is not lost; the JSON has it apart.
        let lost = counts.errors + counts.timeouts;
        let word = match word(run) {
            told @ ("met" | "ok") => self.style.good(&format!("{told:>8}")),
            told => self.style.bad(&format!("{told:>8}")),
        };
        let cut = if counts.unsent > 0 && run.invalid.is_none() { "  (ended early)" } else { "" };
        writeln!(
            self.out,
            "  {:<14} {:>7} {:>10.1} {:>8.2} {:>8.2} {:>8.2} {in_time:>7}% {:>8} {lost:>7} {:>7.2} {word}{cut}",
            run.name,
            counts.due,
            run.throughput,
            latency_ms.p50,
            latency_ms.p95,
            latency_ms.p99,
            counts.refused(),
            run.lag_ms.p99,
        )?;
        Ok(())
    }

    /// Prints what the runs come to.
    pub fn end(&mut self, report: &Report) -> Result<(), Failure> {
        let (out, style) = (&mut self.out, self.style);
        writeln!(out)?;
        if let Some(main) = report.main_run()
            && let Some(all) = main.stages.first()
        {
            let parts = SEGMENTS.iter().zip(all.ms).map(|(name, ms)| format!("{name} {ms:.2}"));
            let parts: Vec<String> = parts.collect();
            writeln!(out, "  {} mean ms: {}", style.bold(&main.name), parts.join(", "))?;
        }
        for note in report.runs.iter().filter_map(note) {
            writeln!(out, "  {}", style.note(&note))?;
        }
        if let Some(finding) = report.finding() {
            writeln!(out, "  {}", style.bold(&finding))?;
        }
        out.flush()?;
        Ok(())
    }
}

/// Writes the files that were asked for.
pub fn write_files(args: &BenchArgs, report: &Report) -> Result<(), Failure> {
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(report)
            .map_err(|error| Failure::environment(format!("the report cannot be written as JSON: {error}")))?;
        write(path, &(text + "\n"))?;
    }
    args.html.as_deref().map_or(Ok(()), |path| write(path, &report.html()))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    if path.as_os_str() == "-" {
        std::io::stdout().write_all(text.as_bytes())?;
        return Ok(());
    }
    let failed = |error| Failure::environment(format!("{}: cannot be written: {error}", path.display()));
    std::fs::write(path, text).map_err(failed)
}

/// How this process was called, as a shell would read it.
pub fn command_line() -> String {
    let quoted = std::env::args().enumerate().map(|(at, argument)| {
        // Where the binary lies is nobody's affair.
        if at == 0 { "sidereal".to_owned() } else { quote(argument) }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

fn quote(argument: String) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:,=@+%".contains(c);
    if !argument.is_empty() && argument.chars().all(plain) {
        argument
    } else {
        format!("'{}'", argument.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_quoted_where_a_shell_needs_it() {
        for (argument, quoted) in [("--rate=5", "--rate=5"), ("a b", "'a b'"), ("", "''"), ("it's", "'it'\\''s'")] {
            assert_eq!(quote(argument.to_owned()), quoted);
        }
    }
}
