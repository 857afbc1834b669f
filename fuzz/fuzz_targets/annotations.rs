//! Annotations: a byte that names each, and its text; a zero byte between them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use domain::hostile;

const KNOWN: [&str; 11] = [
    "secrets",
    "path",
    "reconcile",
    "force-sync",
    "encoding",
    "paused",
    "adopt",
    "preserve-on-delete",
    "deletion-policy",
    "rotation-check",
    "secret-versions",
];

fuzz_target!(|data: &[u8]| {
    let parts = data.split(|&byte| byte == 0).filter_map(|part| {
        let (&which, text) = part.split_first()?;
        let name = KNOWN[usize::from(which) % KNOWN.len()];
        Some((name.to_owned(), String::from_utf8_lossy(text).into_owned()))
    });
    hostile::annotations(parts.collect(), data.len() / 8);
});
