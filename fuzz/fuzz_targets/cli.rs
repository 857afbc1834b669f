//! Command lines and variables: words, a zero byte between them; those with a `$` in front are variables.
#![no_main]

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use libfuzzer_sys::fuzz_target;
use vault_sync_operator::cli::{Surroundings, parse};

fuzz_target!(|data: &[u8]| {
    let mut variables = HashMap::new();
    let mut args = vec![OsString::from("vault-sync-operator")];
    for word in data.split(|&byte| byte == 0) {
        let pair = word
            .strip_prefix(b"$")
            .map(|word| word.splitn(2, |&byte| byte == b'='));
        match pair {
            Some(mut pair) => {
                let name = String::from_utf8_lossy(pair.next().unwrap_or_default()).into_owned();
                let value = OsString::from_vec(pair.next().unwrap_or_default().to_vec());
                variables.insert(name, value);
            }
            None => args.push(OsString::from_vec(word.to_vec())),
        }
    }
    let variable = |name: &str| variables.get(name).cloned();
    let surroundings = Surroundings {
        variable: &variable,
        file: &|_| None,
    };
    if let Err(exit) = parse(args, &surroundings) {
        assert!(!exit.text.trim().is_empty());
        assert!(matches!(exit.code, 0 | 2));
    }
});
