//! Where tokens, accessors and ids come from: a small generator, so that one seed gives one story.

use std::fmt::Write as _;

/// `SplitMix64`.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
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
