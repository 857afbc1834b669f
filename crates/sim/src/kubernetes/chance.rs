//! What the server draws at random, from its seed alone.

/// Draws it.
pub(super) struct Chance(fastrand::Rng);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    fn draw(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// A uid, in the form of a random UUID.
    pub(super) fn uid(&mut self) -> String {
        let (high, low) = (self.draw(), self.draw());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xfff,
            0x8000 | (low >> 48) & 0x3fff,
            low & 0xffff_ffff_ffff,
        )
    }

    /// The end of a generated name.
    pub(super) fn suffix(&mut self) -> String {
        const SIGNS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        let mut word = self.draw();
        let mut sign = || {
            let count = SIGNS.len() as u64;
            let at = usize::try_from(word % count).unwrap_or_default();
            word /= count;
            char::from(SIGNS[at])
        };
        (0..5).map(|_| sign()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_draws_the_same_uids() {
        let (mut one, mut other) = (Chance::new(7), Chance::new(7));
        let uid = one.uid();
        assert_eq!(uid, other.uid());
        assert_ne!(uid, one.uid());
        assert_eq!(uid.len(), 36);
        assert_eq!(one.suffix().len(), 5);
    }
}
