//! Checks what must hold for any reply, for tests with random input and for the fuzzer. Panics if it does not
//! hold.
#![allow(clippy::missing_panics_doc, reason = "panicking is how this tells")]

use super::error::{Call, Error, Operation, one_line, quotes, says_dead_token, says_nothing_here};
use super::transport::Reply;
use super::{kv, mount};
use domain::document::{KvVersion, Observed};

/// Upper bound for a line that users read, in bytes.
const READABLE: usize = 2000;

fn told(error: &Error) {
    let line = error.to_string();
    assert!(!line.trim().is_empty() && line.len() <= READABLE, "{line:?}");
    assert!(!line.chars().any(char::is_control), "{line:?}");
    assert!(!error.kind.hint().is_empty() && !error.kind.labels().0.is_empty());
}

/// Takes any reply for the answer to each request: it must be parsed, or rejected with an error message.
pub fn check(status: u16, body: &[u8]) {
    let reply = Reply::new(status, body);
    let call = |operation| Call::new(operation, "secret/app");
    for version in [KvVersion::V1, KvVersion::V2] {
        match kv::observed(version, &call(Operation::Read), &reply) {
            Ok(Observed::Absent) => assert_eq!(status, 404),
            Ok(Observed::Deleted { .. }) => assert!(status == 404 || (200..300).contains(&status)),
            Ok(Observed::Live { .. }) => assert!((200..300).contains(&status) || status == 404),
            Err(error) => told(&error),
        }
        match kv::written(version, &call(Operation::Write), &reply) {
            Ok(_) => assert!((200..300).contains(&status)),
            Err(error) => told(&error),
        }
    }
    if let Err(error) = mount::answer(&call(Operation::Mount), &reply) {
        told(&error);
    }
    for operation in [
        Operation::Login,
        Operation::Health,
        Operation::Mark,
        Operation::Purge,
    ] {
        told(&reply.error(&call(operation)));
    }
    // Any result is fine; these calls must only return.
    let _ = says_dead_token(body) || says_nothing_here(status, body) || quotes(body, body);
    let line = one_line(&String::from_utf8_lossy(body));
    assert!(line.chars().count() <= 300 && !line.chars().any(char::is_control));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// Real ones.
    const REPLIES: [&str; 9] = [
        r#"{"request_id":"1","lease_id":"","renewable":false,"lease_duration":0,"data":{"data":{"k":"v"},"metadata":{"created_time":"2026-11-24T11:26:56.466879633Z","custom_metadata":{"managed-by":"vault-sync-operator","vault-sync.io/cluster-id":"67073e4d","vault-sync.io/kind":"Deployment","vault-sync.io/name":"web","vault-sync.io/namespace":"shop"},"deletion_time":"","destroyed":false,"version":1}},"wrap_info":null,"warnings":null,"auth":null}"#,
        r#"{"data":{"data":null,"metadata":{"created_time":"2026-11-24T11:26:56Z","custom_metadata":null,"deletion_time":"2026-11-24T11:26:57Z","destroyed":false,"version":2}}}"#,
        r#"{"data":{"k":"v","n":1,"l":[{}],"o":{"a":null}},"lease_duration":2764800}"#,
        r#"{"data":{"created_time":"2026-11-24T11:26:56Z","custom_metadata":null,"deletion_time":"","destroyed":false,"version":12}}"#,
        r#"{"data":{"path":"team/kv/","type":"kv","options":{"version":"2"},"config":{}}}"#,
        r#"{"errors":[]}"#,
        r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#,
        r#"{"errors":["check-and-set parameter did not match the current version"]}"#,
        r#"{"data":null,"warnings":["Invalid path for a versioned K/V secrets engine"]}"#,
    ];

    fn body() -> impl Strategy<Value = Vec<u8>> {
        let edit = (any::<prop::sample::Index>(), 0..4_u8, any::<u8>());
        let edited = (
            prop::sample::select(REPLIES.to_vec()),
            prop::collection::vec(edit, 0..5),
        );
        let edited = edited.prop_map(|(real, edits)| {
            let mut body = real.as_bytes().to_vec();
            for (at, how, byte) in edits {
                let at = at.index(body.len());
                match how {
                    0 => body[at] = byte,
                    1 => body.insert(at, byte),
                    2 => body.extend_from_within(at..),
                    _ => body.truncate(at.max(1)),
                }
            }
            body
        });
        // A part of one in the place of a part of another: the right words, of the wrong type.
        let part = || {
            (
                prop::sample::select(REPLIES.to_vec()),
                any::<prop::sample::Index>(),
            )
        };
        let crossed = (part(), part()).prop_map(|((left, a), (right, b))| {
            let (a, b) = (a.index(left.len()), b.index(right.len()));
            [&left.as_bytes()[..a], &right.as_bytes()[b..]].concat()
        });
        prop_oneof![3 => edited, 2 => crossed, 1 => prop::collection::vec(any::<u8>(), 0..300)]
    }

    proptest! {
        #[test]
        fn any_reply_is_read_or_refused_in_words(
            status in prop_oneof![prop::sample::select(vec![200, 204, 400, 403, 404, 412, 429, 473, 500, 503]), 100..600_u16],
            body in body(),
        ) {
            super::check(status, &body);
        }
    }

    #[test]
    fn every_beginning_of_a_real_reply_is_survived() {
        for real in REPLIES {
            for end in 0..=real.len() {
                for status in [200, 400, 404] {
                    super::check(status, &real.as_bytes()[..end]);
                }
            }
        }
    }

    #[test]
    fn nests_and_great_numbers_are_survived() {
        for unit in ["[", "{\"data\":", "{\"errors\":[", "9", "\"", "\\u0000"] {
            super::check(200, unit.repeat(100_000).as_bytes());
            super::check(404, format!("{{\"data\":{}", unit.repeat(100_000)).as_bytes());
        }
        let version = r#"{"data":{"data":{},"metadata":{"created_time":"2026-11-24T11:26:56Z","version":18446744073709551616}}}"#;
        super::check(200, version.as_bytes());
    }
}
