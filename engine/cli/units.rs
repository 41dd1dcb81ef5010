//! Values as people write them on a command line: durations and byte counts.

use std::time::Duration;

/// `250ms`, `30s`, `2m`, `1h`; a bare number is seconds.
///
/// # Errors
/// What is wrong and what is expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let scale = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{unit:?} is not a unit of time; use us, ms, s, m or h, e.g. 30s")),
    };
    let number: f64 = number.parse().map_err(|_| "not a duration; write e.g. 250ms, 30s or 2m".to_owned())?;
    let seconds = number * scale;
    if !(0.0..=1e9).contains(&seconds) {
        return Err("out of range; durations are 0 to 30 years".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// `1073741824`, `512MiB`, `1GiB`, `2GB`.
///
/// # Errors
/// What is wrong and what is expected.
pub fn bytes(text: &str) -> Result<usize, String> {
    let (number, unit) = split(text);
    let scale: u64 = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" | "K" | "k" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        _ => return Err(format!("{unit:?} is not a unit of memory; use B, KiB, MiB, GiB, kB, MB or GB")),
    };
    let number: f64 = number.parse().map_err(|_| "not a byte count; write e.g. 512MiB or 1GiB".to_owned())?;
    let bytes = number * scale as f64;
    if !(0.0..9e15).contains(&bytes) {
        return Err("out of range".into());
    }
    Ok(bytes as usize)
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// A byte count for people.
pub fn show_bytes(bytes: usize) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            let digits = usize::from(unit != "B" && value < 100.0);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// A whole number with thousands separated.
pub fn show_count(count: impl TryInto<u64>) -> String {
    let digits = count.try_into().unwrap_or(u64::MAX).to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// `1 request`, `2 requests`.
pub fn plural(count: usize, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{} {one}s", show_count(count as u64)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations() {
        assert_eq!(duration("30").unwrap(), Duration::from_secs(30));
        assert_eq!(duration("30s").unwrap(), Duration::from_secs(30));
        assert_eq!(duration("1.5 s").unwrap(), Duration::from_millis(1500));
        assert_eq!(duration("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(duration("2m").unwrap(), Duration::from_secs(120));
        for bad in ["", "s", "-1s", "1 day", "1e400h", "99999999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_and_shows_bytes() {
        assert_eq!(bytes("17").unwrap(), 17);
        assert_eq!(bytes("1GiB").unwrap(), 1 << 30);
        assert_eq!(bytes("1.5 kB").unwrap(), 1500);
        for bad in ["", "GiB", "1 TiBi", "-4"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(show_bytes(17), "17 B");
        assert_eq!(show_bytes(7_900_000), "7.9 MB");
        assert_eq!(show_bytes(233_000), "233 kB");
    }

    #[test]
    fn separates_thousands() {
        assert_eq!(show_count(0u64), "0");
        assert_eq!(show_count(999u64), "999");
        assert_eq!(show_count(1000u64), "1,000");
        assert_eq!(show_count(1_234_567u64), "1,234,567");
        assert_eq!(plural(1, "tensor"), "1 tensor");
        assert_eq!(plural(2000, "tensor"), "2,000 tensors");
    }
}
