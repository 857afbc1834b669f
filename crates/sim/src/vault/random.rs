//! Where tokens, accessors and ids come from: a small generator, so that one seed gives one story.

use std::fmt::Write as _;

/// Draws them.
pub(super) struct Random(fastrand::Rng);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    fn next(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// So many letters and digits.
    pub(super) fn letters(&mut self, count: usize) -> String {
        const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let letter = |_| char::from(LETTERS[usize::try_from(self.next() % 62).unwrap_or(0)]);
        (0..count).map(letter).collect()
    }

    /// An accessor of a mount of this type, such as `kv_2f28e192`.
    pub(super) fn mount_accessor(&mut self, kind: &str) -> String {
        format!("{kind}_{:08x}", self.next() >> 32)
    }

    /// 32 bytes, in hexadecimal.
    pub(super) fn key(&mut self) -> String {
        (0..4).fold(String::new(), |mut key, _| {
            let _ = write!(key, "{:016x}", self.next());
            key
        })
    }

    pub(super) fn uuid(&mut self) -> String {
        let (high, low) = (self.next(), self.next());
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xffff,
            low >> 48,
            low & 0xffff_ffff_ffff
        )
    }
}
