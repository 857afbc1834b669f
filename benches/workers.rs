//! The floor of a benchmark works as wide as the operator does.

use std::sync::atomic::{AtomicUsize, Ordering};

/// `--concurrency`, by default.
pub const WORKERS: usize = 16;

/// Does it for each number, from as many threads as the operator has workers.
pub fn each(count: usize, act: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|threads| {
        for _ in 0..WORKERS {
            threads.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    act(number);
                }
            });
        }
    });
}
