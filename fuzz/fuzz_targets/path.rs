//! Paths in mounts, and durations: a byte of choices, then the path, the mount and the leaf, a zero byte
//! between them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use domain::hostile;

fuzz_target!(|data: &[u8]| {
    let Some((&choices, rest)) = data.split_first() else {
        return;
    };
    let mut texts = rest.split(|&byte| byte == 0).map(String::from_utf8_lossy);
    let written = texts.next().unwrap_or_default();
    let mount = texts.next().unwrap_or_default();
    // What discovery adds is the name of a Secret, and checked as such.
    let leaf = texts.next().map(|_| "db");
    hostile::path(&written, leaf, mount.trim_matches('/'), choices);
    hostile::duration(&written);
});
