//! Counts for the summary of `GPU_EMULATOR_LOG=1`: which kernels and copies the time went to.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

#[derive(Clone, Copy, Debug, Default)]
struct KernelCount {
    launches: u64,
    warp_instructions: u64,
    time: Duration,
}

/// What was run so far.
#[derive(Debug, Default)]
pub struct Statistics {
    kernels: BTreeMap<String, KernelCount>,
    copies: BTreeMap<&'static str, (u64, u64)>,
}

impl Statistics {
    /// Counts a launch.
    pub fn count_kernel(&mut self, name: &str, warp_instructions: u64, time: Duration) {
        let count = match self.kernels.get_mut(name) {
            Some(count) => count,
            None => self.kernels.entry(name.to_owned()).or_default(),
        };
        count.launches += 1;
        count.warp_instructions += warp_instructions;
        count.time += time;
    }

    /// Counts a copy or memset.
    pub fn count_bytes(&mut self, what: &'static str, bytes: usize) {
        let count = self.copies.entry(what).or_default();
        count.0 += 1;
        count.1 += bytes as u64;
    }
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kernels: Vec<_> = self.kernels.iter().collect();
        kernels.sort_by_key(|(_, count)| std::cmp::Reverse(count.time));
        for (name, count) in kernels {
            let ms = count.time.as_secs_f64() * 1e3;
            writeln!(
                f,
                "{ms:>10.1} ms {:>8} launches {:>14} warp instructions  {name}",
                count.launches, count.warp_instructions
            )?;
        }
        for (what, (calls, bytes)) in &self.copies {
            writeln!(f, "{calls:>10} times {bytes:>14} bytes  {what}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_kernel_comes_first() {
        let mut statistics = Statistics::default();
        statistics.count_kernel("quick", 10, Duration::from_millis(1));
        statistics.count_kernel("slow", 20, Duration::from_millis(5));
        statistics.count_kernel("quick", 10, Duration::from_millis(1));
        statistics.count_bytes("fill", 64);
        let text = statistics.to_string();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!(lines[0], "5.0 ms        1 launches             20 warp instructions  slow");
        assert_eq!(lines[1], "2.0 ms        2 launches             20 warp instructions  quick");
        assert_eq!(lines[2], "1 times             64 bytes  fill");
    }
}
