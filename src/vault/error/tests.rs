//! The classification table of replies, and what an error must not repeat.

use super::*;

fn answer(operation: Operation, status: u16, body: &str) -> Error {
    Error::answered(
        &Call::new(operation, "secret/app"),
        status,
        None,
        body.as_bytes(),
        false,
    )
}

#[test]
fn replies_have_kinds() {
    use ErrorKind::{
        Auth, Bug, Denied, Invalid, Mismatch, NotFound, Sealed, Throttled, TooLarge, Unreachable,
    };
    use Operation::{Health, Login, Read, Write};
    let errors = |text: &str| format!("{{\"errors\":[\"{text}\"]}}");
    for (operation, status, body, kind) in [
        (
            Write,
            400,
            errors("check-and-set parameter did not match the current version"),
            Mismatch,
        ),
        (
            Write,
            400,
            errors("check-and-set parameter required for this call"),
            Invalid,
        ),
        (
            Write,
            400,
            errors("Upgrading from non-versioned to versioned data. This backend"),
            Sealed,
        ),
        (Write, 400, errors("missing data fields"), Invalid),
        (Write, 413, String::new(), TooLarge),
        (
            Write,
            500,
            errors("JSON string value exceeds allowed length"),
            TooLarge,
        ),
        (
            Write,
            500,
            errors("put failed due to value being too large; got 2, max: 1"),
            TooLarge,
        ),
        (Write, 413, errors("http: request body too large"), TooLarge),
        (
            Write,
            403,
            errors("1 error occurred:\\n\\t* permission denied\\n\\n"),
            Denied,
        ),
        (
            Read,
            404,
            errors("no handler for route \\\"x\\\". route entry not found."),
            NotFound,
        ),
        (Read, 404, String::new(), Bug),
        (
            Read,
            404,
            r#"{"message":"no Route matched with those values"}"#.into(),
            Bug,
        ),
        (Read, 404, "<html>".into(), Bug),
        (Read, 405, errors("unsupported operation"), Invalid),
        (Read, 412, errors("required index state not present"), Sealed),
        (
            Read,
            429,
            errors("request path: rate limit quota exceeded"),
            Throttled,
        ),
        (Health, 429, "{\"standby\":true}".into(), Sealed),
        (Health, 472, String::new(), Sealed),
        (Health, 473, String::new(), Sealed),
        (Health, 501, String::new(), Sealed),
        (Health, 503, String::new(), Sealed),
        (Read, 503, errors("Vault is sealed"), Sealed),
        (Read, 500, errors("internal error"), Unreachable),
        (Read, 501, String::new(), Bug),
        (Read, 502, "<html>".into(), Unreachable),
        (Read, 504, String::new(), Unreachable),
        (Read, 307, String::new(), Bug),
        (Login, 400, errors("role \\\"x\\\" could not be found"), Auth),
        (Login, 403, errors("permission denied"), Auth),
        (Login, 404, errors("no handler for route"), Auth),
        (Login, 302, String::new(), Bug),
        (Login, 405, errors("unsupported operation"), Auth),
        (Login, 413, errors("request body too large"), Auth),
        (Login, 429, errors("rate limit quota exceeded"), Throttled),
        (Login, 503, errors("Vault is sealed"), Sealed),
    ] {
        assert_eq!(
            answer(operation, status, &body).kind,
            kind,
            "{operation:?} {status} {body}"
        );
    }
}

#[test]
fn only_an_answer_that_tells_settles_the_outcome() {
    let sealed = "{\"errors\":[\"Vault is sealed\"]}";
    for (operation, status, body, unknown) in [
        (Operation::Write, 500, "{\"errors\":[\"context canceled\"]}", true),
        (Operation::Write, 502, "", true),
        (Operation::Delete, 503, "upstream reset", true),
        (Operation::Write, 503, sealed, false),
        (Operation::Write, 403, "", false),
        (Operation::Write, 400, "", false),
        (Operation::Read, 500, "", false),
    ] {
        assert_eq!(
            answer(operation, status, body).outcome_unknown,
            unknown,
            "{status} {body}"
        );
    }
}

#[test]
fn an_error_is_one_bounded_line() {
    let denied = answer(
        Operation::Write,
        403,
        "{\"errors\":[\"2 errors occurred:\\n\\t* permission denied\\n\\t* invalid token\\n\\n\"]}",
    );
    assert_eq!(
        denied.to_string(),
        "Vault refused to write secret/app: permission denied, invalid token (403)"
    );
    let plain = answer(Operation::Write, 403, "");
    assert_eq!(
        plain.to_string(),
        "Vault refused to write secret/app: permission denied (403)"
    );
    let long = answer(
        Operation::Read,
        400,
        &format!("{{\"errors\":[\"a\\u001b\\r\\n{}\"]}}", "x".repeat(9000)),
    );
    assert_eq!(long.message.chars().count(), 300);
    assert!(long.message.starts_with("a xxx"));
    let lost = Error::new(
        ErrorKind::Unreachable,
        &Call::new(Operation::Read, "secret/app"),
        "refused",
    );
    assert_eq!(lost.to_string(), "cannot reach Vault to read secret/app: refused");
}

#[test]
fn bodies_that_are_no_error_replies_are_not_repeated() {
    let echo = answer(
        Operation::Write,
        502,
        "X-Vault-Token: hvs.abc {\"data\":{\"k\":\"hunter2\"}}",
    );
    assert_eq!(
        echo.to_string(),
        "Vault failed to write secret/app: no reason given (502)"
    );
    assert!(!format!("{echo:?}").contains("hunter2"));
}

#[test]
fn nothing_here_and_dead_tokens_are_told_apart_from_the_rest() {
    assert!(says_nothing_here(404, b"{\"errors\":[]}"));
    assert!(!says_nothing_here(
        404,
        b"{\"errors\":[\"no handler for route\"]}"
    ));
    assert!(!says_nothing_here(
        404,
        b"{\"data\":null,\"warnings\":[\"Invalid path for a versioned\"]}"
    ));
    assert!(!says_nothing_here(404, b""));
    assert!(says_dead_token(
        b"{\"errors\":[\"2 errors occurred:\\n\\t* invalid token\\n\\n\"]}"
    ));
    assert!(!says_dead_token(
        b"{\"errors\":[\"1 error occurred:\\n\\t* permission denied\\n\\n\"]}"
    ));
}

#[test]
fn what_quotes_the_request_is_told_from_what_does_not() {
    let said = |text: &str| serde_json::json!({"errors": [text]}).to_string();
    let request = br#"{"data":{"password":"hunter2","pem":"-----BEGIN\\nMIIB"},"options":{"cas":3}}"#;
    for (text, quoted) in [
        (r#"bad value "hunter2""#, true),
        ("bad request: {password:hunter2 pem:-----BEGIN", true),
        ("permission denied", false),
        ("check-and-set parameter did not match the current version", false),
        (
            "put failed due to value being too large; got 1229110 bytes, max: 1048576 bytes",
            false,
        ),
    ] {
        assert_eq!(quotes(said(text).as_bytes(), request), quoted, "{text}");
    }
    assert!(!quotes(said("anything").as_bytes(), b""));
    assert!(
        !quotes(b"<html>hunter2 password", b"hunter2 password"),
        "it is not repeated at all"
    );
    // What would be cut off is not repeated either.
    let long = said(&format!("{}{}", "x".repeat(295), "hunter2 password"));
    assert!(!quotes(long.as_bytes(), b"hunter2 password"));
}

#[test]
fn a_server_that_speaks_tls_is_told_from_others() {
    for (status, body, message) in [
        (
            400,
            "Client sent an HTTP request to an HTTPS server.\n",
            "the port speaks TLS: give https:// in --vault-addr (VAULT_ADDR)",
        ),
        (
            400,
            "<center>The plain HTTP request was sent to HTTPS port</center>",
            "the port speaks TLS: give https:// in --vault-addr (VAULT_ADDR)",
        ),
        (400, "<html>", "no reason given"),
    ] {
        let call = Call::new(Operation::Health, "");
        let error = Error::answered(&call, status, None, body.as_bytes(), false);
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Bug, message));
    }
}

#[test]
fn each_kind_has_its_rule() {
    use ErrorKind::{
        Auth, Bug, Denied, Invalid, Mismatch, NotFound, NotLeading, Sealed, Throttled, TooLarge, Unreachable,
    };
    for (kind, label, error_type, retry, down) in [
        (
            Unreachable,
            "unreachable",
            "connection_failed",
            Retry::Backoff,
            true,
        ),
        (Sealed, "sealed", "connection_failed", Retry::Backoff, true),
        (Throttled, "throttled", "unknown", Retry::Backoff, false),
        (Denied, "denied", "permission_denied", Retry::Slowly, false),
        (Auth, "auth", "auth_failed", Retry::Backoff, false),
        (Invalid, "invalid", "unknown", Retry::OnChange, false),
        (TooLarge, "too_large", "unknown", Retry::OnChange, false),
        (Mismatch, "mismatch", "unknown", Retry::AtOnce, false),
        (NotFound, "not_found", "invalid_path", Retry::Slowly, false),
        (Bug, "bug", "unknown", Retry::Backoff, false),
        (NotLeading, "not_leading", "unknown", Retry::Backoff, false),
    ] {
        assert_eq!(kind.labels(), (label, error_type));
        assert_eq!((kind.retry(), kind.is_down()), (retry, down), "{kind:?}");
        assert!(!kind.hint().is_empty());
    }
}
