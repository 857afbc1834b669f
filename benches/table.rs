//! The table that a benchmark prints.

use std::fmt::Write as _;
use std::time::Duration;

/// So many of a hundred are not longer.
pub fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

/// A time as people read it.
pub fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// A row of times, beside their floor or peer.
pub fn row(name: &str, operator: Duration, floor: Duration) {
    let ratio = operator.as_secs_f64() / floor.as_secs_f64();
    report(name, &[&ms(operator), &ms(floor), &format!("{ratio:.2}")]);
}

/// A row of words.
#[expect(clippy::print_stdout, reason = "a table for people is what it is for")]
pub fn report(name: &str, cells: &[impl AsRef<str>]) {
    let mut line = format!("{name:<48}");
    for cell in cells {
        let _ = write!(line, " {:>12}", cell.as_ref());
    }
    println!("{line}");
}
