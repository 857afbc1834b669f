//! Durations as people write them in flags and annotations: the grammar of Go's `time.ParseDuration`
//! (<https://pkg.go.dev/time#ParseDuration>), without negative durations.

use std::fmt::Write as _;
use std::time::Duration;

/// Units and their length in nanoseconds. Longer names come first, so that `ms` is not read as `m`.
const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000), // U+00B5, the micro sign
    ("μs", 1_000), // U+03BC, the Greek letter
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Go stores a duration in 63 bits of nanoseconds: about 292 years.
const LONGEST: u128 = i64::MAX as u128;

/// How many digits of a fraction are read. Further digits only distinguish parts of a nanosecond.
const FRACTION_DIGITS: usize = 18;

/// Why a text is not a duration. The message says what is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadDuration {
    /// It does not follow the grammar.
    #[error("a duration is needed, such as 300ms, 90s, 1.5h or 1h30m (units: ns, us, ms, s, m, h)")]
    Grammar,
    /// A number has no unit.
    #[error("the duration lacks a unit; write for example 90s, 5m or 1h30m (units: ns, us, ms, s, m, h)")]
    Unit,
    /// It is below zero.
    #[error("the duration is negative; write 0 or more, such as 90s or 1h30m")]
    Negative,
    /// It is longer than Go can represent.
    #[error("the duration is too long; at most 2562047h (292 years) are allowed")]
    Long,
}

/// Reads a duration: `300ms`, `1.5h`, `1h30m`, `0`.
pub fn parse(text: &str) -> Result<Duration, BadDuration> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let nanos = if text == "0" { 0 } else { sum(text)? };
    if negative && nanos > 0 {
        return Err(BadDuration::Negative);
    }
    let nanos = u64::try_from(nanos).map_err(|_| BadDuration::Long)?;
    Ok(Duration::from_nanos(nanos))
}

fn sum(mut text: &str) -> Result<u128, BadDuration> {
    if text.is_empty() {
        return Err(BadDuration::Grammar);
    }
    let mut total = 0;
    while !text.is_empty() {
        let (whole, rest) = digits(text);
        let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), digits);
        if whole.is_empty() && fraction.is_empty() {
            return Err(BadDuration::Grammar);
        }
        let Some((name, unit)) = UNITS.into_iter().find(|(name, _)| rest.starts_with(name)) else {
            return Err(if rest.is_empty() {
                BadDuration::Unit
            } else {
                BadDuration::Grammar
            });
        };
        total += scaled(whole, unit)? + part(fraction, unit);
        if total > LONGEST {
            return Err(BadDuration::Long);
        }
        text = &rest[name.len()..];
    }
    Ok(total)
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn scaled(whole: &str, unit: u128) -> Result<u128, BadDuration> {
    if whole.is_empty() {
        return Ok(0);
    }
    // There are only digits, so the only possible error is too many of them.
    whole
        .parse::<u64>()
        .map(|whole| u128::from(whole) * unit)
        .map_err(|_| BadDuration::Long)
}

fn part(fraction: &str, unit: u128) -> u128 {
    let (value, power) = fraction
        .bytes()
        .take(FRACTION_DIGITS)
        .fold((0, 1), |(value, power): (u128, u128), digit| {
            (value * 10 + u128::from(digit - b'0'), power * 10)
        });
    value * unit / power
}

/// Writes a duration so that [`parse`] reads it again, in its largest whole units: `1h30m`, `250ms`.
pub fn display(duration: Duration) -> String {
    let mut nanos = duration.as_nanos();
    let mut text = String::new();
    for (name, unit) in UNITS.into_iter().rev().filter(|(name, _)| name.is_ascii()) {
        if nanos >= unit {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}{name}", nanos / unit);
            nanos %= unit;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanos) in [
            ("0", 0),
            ("-0", 0),
            ("0s", 0),
            ("5s", 5_000_000_000),
            ("+5s", 5_000_000_000),
            ("30s", 30_000_000_000),
            ("1478s", 1_478_000_000_000),
            ("5.0s", 5_000_000_000),
            ("5.6s", 5_600_000_000),
            ("5.s", 5_000_000_000),
            (".5s", 500_000_000),
            ("1.004s", 1_004_000_000),
            ("300ms", 300_000_000),
            ("10ns", 10),
            ("11us", 11_000),
            ("12µs", 12_000),
            ("12μs", 12_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("10.5s4m", 250_500_000_000),
            ("39h9m14.425s", 140_954_425_000_000),
            ("0.3333333333333333333h", 1_199_999_999_999),
            ("9223372036854775807ns", 9_223_372_036_854_775_807),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_says_what_would_be() {
        for (text, fault) in [
            ("", BadDuration::Grammar),
            ("-", BadDuration::Grammar),
            ("s", BadDuration::Grammar),
            (".", BadDuration::Grammar),
            (".s", BadDuration::Grammar),
            ("off", BadDuration::Grammar),
            ("1d", BadDuration::Grammar),
            ("1 s", BadDuration::Grammar),
            ("--5s", BadDuration::Grammar),
            ("3", BadDuration::Unit),
            ("1h5", BadDuration::Unit),
            ("-5s", BadDuration::Negative),
            ("9223372036854775808ns", BadDuration::Long),
            ("2562048h", BadDuration::Long),
            ("99999999999999999999s", BadDuration::Long),
        ] {
            assert_eq!(parse(text), Err(fault), "{text}");
        }
    }

    #[test]
    fn durations_are_written_in_whole_units() {
        assert_eq!(display(Duration::ZERO), "0s");
        assert_eq!(display(Duration::from_mins(90)), "1h30m");
        assert_eq!(display(Duration::from_millis(1250)), "1s250ms");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(nanos in 0..=9_223_372_036_854_775_807_u64) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse(&display(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in "[-+.0-9a-zµ]{0,24}") {
            let _ = parse(&text);
        }
    }
}
