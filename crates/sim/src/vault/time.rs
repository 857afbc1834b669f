//! Times and durations, as Vault writes and reads them.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde_json::Value;

fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// As in `created_time`: RFC 3339 with nanoseconds, without zeros at the end.
pub(super) fn rfc3339(time: SystemTime) -> String {
    timestamp(time).to_string()
}

/// As in the header `Date`.
pub(super) fn http_date(time: SystemTime) -> String {
    jiff::fmt::rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&timestamp(time))
        .unwrap_or_default()
}

/// Whole seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> i64 {
    timestamp(time).as_second()
}

/// The time without its fraction of a second.
pub(super) fn whole(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

/// A duration as Go prints it, such as `1h30m0s`.
pub(super) fn go_duration(seconds: i64) -> String {
    let sign = if seconds < 0 { "-" } else { "" };
    let left = seconds.unsigned_abs();
    let (hours, minutes, seconds) = (left / 3600, left / 60 % 60, left % 60);
    match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, _) => format!("{sign}{minutes}m{seconds}s"),
        _ => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

/// The same without the units that are zero at the end, as in Vault's warnings: `1h30m`.
pub(super) fn short_duration(seconds: u64) -> String {
    let text = go_duration(i64::try_from(seconds).unwrap_or(i64::MAX));
    let text = if seconds >= 60 {
        text.strip_suffix("m0s")
            .map_or(text.clone(), |rest| format!("{rest}m"))
    } else {
        text
    };
    if seconds >= 3600 {
        text.strip_suffix("h0m")
            .map_or(text.clone(), |rest| format!("{rest}h"))
    } else {
        text
    }
}

/// Seconds, from a number or from a text such as `90`, `1h30m` or `7d`.
pub(super) fn parse_duration(value: &Value) -> Result<i64, String> {
    match value {
        Value::Null => Ok(0),
        Value::Number(number) => Ok(number.as_i64().unwrap_or_default()),
        Value::String(text) => parse_text(text).ok_or_else(|| format!("time: invalid duration {text:?}")),
        _ => Err("could not parse duration from input".to_owned()),
    }
}

fn parse_text(text: &str) -> Option<i64> {
    if text.is_empty() {
        return Some(0);
    }
    if let Ok(seconds) = text.parse() {
        return Some(seconds);
    }
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    let mut total = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest[..digits].parse().ok()?;
        let unit = match rest.as_bytes()[digits] {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            _ => return None,
        };
        total += number * unit;
        rest = &rest[digits + 1..];
    }
    Some(sign * total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_as_in_go() {
        for (text, seconds, written, short) in [
            ("0s", 0, "0s", "0s"),
            ("90", 90, "1m30s", "1m30s"),
            ("1h30m", 5400, "1h30m0s", "1h30m"),
            ("2h", 7200, "2h0m0s", "2h"),
            ("1d", 86_400, "24h0m0s", "24h"),
            ("10m", 600, "10m0s", "10m"),
        ] {
            assert_eq!(parse_duration(&text.into()), Ok(seconds), "{text}");
            assert_eq!(go_duration(seconds), written);
            assert_eq!(short_duration(seconds.unsigned_abs()), short);
        }
        assert_eq!(parse_duration(&"-1s".into()), Ok(-1));
        assert!(parse_duration(&"x".into()).is_err());
    }

    #[test]
    fn a_time_has_no_zeros_at_its_end() {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_795_717_062, 135_654_830);
        assert_eq!(rfc3339(time), "2026-11-26T18:17:42.13565483Z");
        assert_eq!(http_date(time), "Thu, 26 Nov 2026 18:17:42 GMT");
    }
}
