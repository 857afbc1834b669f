//! Where this program's processes get their randomness: from their world's seed.
//!
//! The standard library asks the C library's `getrandom` for the keys of each thread's hash maps, and tokio takes
//! from those which branch of a `select!` it looks at first. A program may bring a `getrandom` of its own, and then
//! both follow the seed. Nothing here needs randomness that nobody can guess.
#![expect(unsafe_code, reason = "the C library's function is replaced")]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static STATE: AtomicU64 = AtomicU64::new(0);

/// From now on everything follows this seed.
pub fn follow(seed: u64) {
    STATE.store(seed, Relaxed);
}

/// The next number of the sequence that is called `SplitMix64`.
/// <https://doi.org/10.1145/2714064.2660195>
fn next() -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut mixed = STATE.fetch_add(STEP, Relaxed).wrapping_add(STEP);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// In the place of the C library's.
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    for at in 0..length {
        // SAFETY: whoever calls it owns `length` bytes there.
        unsafe { buffer.add(at).write(next().to_le_bytes()[0]) };
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}
