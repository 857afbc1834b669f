//! Replies of Vault's: a byte that names the status, and the body.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vault_sync_operator::vault::any_reply;

const STATUS: [u16; 12] = [200, 204, 301, 400, 403, 404, 412, 413, 429, 473, 500, 503];

fuzz_target!(|data: &[u8]| {
    let Some((&which, body)) = data.split_first() else {
        return;
    };
    any_reply::check(STATUS[usize::from(which) % STATUS.len()], body);
});
