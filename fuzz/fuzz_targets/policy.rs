//! Files of a path policy, and what is asked of them: namespace, path, file; a zero byte between them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use domain::hostile;

fuzz_target!(|data: &[u8]| {
    let mut texts = data.splitn(3, |&byte| byte == 0).map(String::from_utf8_lossy);
    let namespace = texts.next().unwrap_or_default();
    let own = texts.next().unwrap_or_default();
    hostile::policy(&texts.next().unwrap_or_default(), &namespace, "secret", &own);
});
