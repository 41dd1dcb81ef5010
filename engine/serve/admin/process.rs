//! What the system says about this process, under the names that Prometheus' clients share. From `/proc`, so on Linux alone;
//! elsewhere these families are missing.

use std::fmt;
use std::fs;

use super::families::Families;

/// One look at `/proc/self`.
#[derive(Debug, Default, PartialEq)]
struct Process {
    cpu_seconds: f64,
    threads: u64,
    start_seconds: u64,
    resident_bytes: u64,
    virtual_bytes: u64,
    open_files: u64,
    max_files: u64,
}

/// Writes what can be found out.
pub(super) fn encode(out: &mut Families<'_>) -> fmt::Result {
    let Some(process) = look() else { return Ok(()) };
    out.counter("process_cpu_seconds", "Processor seconds, user and system", process.cpu_seconds)?;
    for (name, help, value) in [
        ("process_resident_memory_bytes", "Resident memory, mapped files included", process.resident_bytes),
        ("process_virtual_memory_bytes", "Address space", process.virtual_bytes),
        ("process_open_fds", "Open file descriptors", process.open_files),
        ("process_max_fds", "File descriptors that the system allows", process.max_files),
        ("process_threads", "Threads", process.threads),
        ("process_start_time_seconds", "When the process started, since 1970", process.start_seconds),
    ] {
        out.gauge(name, help, value)?;
    }
    Ok(())
}

fn look() -> Option<Process> {
    let read = |file| fs::read_to_string(file).ok();
    let mut process = Process { open_files: fs::read_dir("/proc/self/fd").ok()?.count() as u64, ..Process::default() };
    let ticks = rustix::param::clock_ticks_per_second();
    read_stat(&read("/proc/self/stat")?, boot_time(&read("/proc/stat")?)?, ticks, &mut process)?;
    let statm = read("/proc/self/statm")?;
    let mut pages = statm.split(' ').map_while(|pages| pages.parse::<u64>().ok());
    let page = rustix::param::page_size() as u64;
    process.virtual_bytes = pages.next()? * page;
    process.resident_bytes = pages.next()? * page;
    let limits = read("/proc/self/limits")?;
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    // "unlimited" is a number too large to matter.
    process.max_files = files.split_whitespace().next()?.parse().unwrap_or(u64::MAX);
    Some(process)
}

/// Seconds since 1970 at which the system started, of `/proc/stat`.
fn boot_time(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// Fills in what `/proc/self/stat` knows.
fn read_stat(stat: &str, boot: u64, ticks: u64, process: &mut Process) -> Option<()> {
    // The second field is the program's name, in brackets, and may hold anything, brackets included.
    let (_, rest) = stat.rsplit_once(") ")?;
    // From field 3 on.
    let fields: Vec<&str> = rest.split(' ').collect();
    let field = |number: usize| fields.get(number - 3)?.trim().parse::<u64>().ok();
    process.cpu_seconds = (field(14)? + field(15)?) as f64 / ticks as f64;
    process.threads = field(20)?;
    process.start_seconds = boot + field(22)? / ticks;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_moves_no_field() {
        let stat = "71 (a) b (c) S 1 71 71 0 -1 4194560 8 0 0 0 250 50 0 0 20 0 9 0 700 1 2\n";
        let mut process = Process::default();
        read_stat(stat, 1000, 100, &mut process).unwrap();
        assert_eq!(process, Process { cpu_seconds: 3.0, threads: 9, start_seconds: 1007, ..Process::default() });
        assert_eq!(read_stat("71 (a) S 1", 0, 100, &mut process), None);
        assert_eq!(boot_time("cpu 1 2\nbtime 1700\nx"), Some(1700));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_seen() {
        let process = look().unwrap();
        assert!(process.threads >= 1 && process.open_files >= 3 && process.max_files >= process.open_files);
        assert!(process.resident_bytes > 1 << 20 && process.virtual_bytes >= process.resident_bytes, "{process:?}");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(process.start_seconds <= now + 1 && process.start_seconds + 86_400 > now, "{process:?} at {now}");
    }
}
