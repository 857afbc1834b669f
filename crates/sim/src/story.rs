//! What has happened, in order: who did what. Kept whole only where somebody wants to read it.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hasher as _};
use std::time::Duration;

/// The lines, and one number that stands for all of them.
pub struct Story {
    lines: Option<Vec<String>>,
    digest: DefaultHasher,
    told: u64,
}

impl Story {
    /// One that is kept, or of which only the digest is.
    pub fn new(kept: bool) -> Self {
        Self {
            lines: kept.then(Vec::new),
            digest: DefaultHasher::new(),
            told: 0,
        }
    }

    /// One line more.
    pub fn tell(&mut self, age: Duration, who: &str, what: impl FnOnce() -> String) {
        let what = what();
        self.digest.write(&age.as_nanos().to_le_bytes());
        self.digest.write(who.as_bytes());
        self.digest.write(what.as_bytes());
        self.told += 1;
        if let Some(lines) = &mut self.lines {
            let mut line = String::new();
            let _ = write!(line, "{:>11.6}  {who:<18} {what}", age.as_secs_f64());
            lines.push(line);
        }
    }

    /// A line for those who read, which does not count.
    pub fn remark(&mut self, age: Duration, what: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!(
                "{:>11.6}  log                {}",
                age.as_secs_f64(),
                what()
            ));
        }
    }

    /// All lines, if they were kept.
    pub fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }

    /// How many there are.
    pub fn told(&self) -> u64 {
        self.told
    }

    /// A number that two stories share only if they are the same.
    pub fn digest(&self) -> u64 {
        self.digest.finish()
    }
}
