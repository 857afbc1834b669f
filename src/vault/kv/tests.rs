//! Bodies that are sent, literally, and what replies are read as.

use super::super::error::Operation;
use super::*;
use domain::document::Claim;
use domain::source::{Kind, SourceKey};
use rustify::endpoint::Endpoint as _;

fn mount(version: KvVersion) -> Mount {
    let path = "secret".into();
    Mount { path, version }
}

fn content(pairs: &[(&str, &str)]) -> Content {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), Value::from(*value)))
        .collect()
}

fn see(version: KvVersion, status: u16, body: &str) -> Result<Observed<Found>, Error> {
    observed(
        version,
        &Call::new(Operation::Read, "secret/app"),
        &Reply::new(status, body),
    )
}

fn sent(request: &Plain<impl Serialize + Send + Sync>) -> String {
    String::from_utf8(request.body().unwrap().unwrap()).unwrap()
}

#[test]
fn writes_are_literal_json() {
    let id = DocumentId::new("secret", "team/app");
    let content = content(&[("a\"b", "line\nquote\" back\\ \u{1} é 🔑"), ("z", "")]);
    let request = write(&mount(KvVersion::V2), &id, &content, Cas::Version(3));
    assert_eq!(request.path(), "secret/data/team/app");
    assert_eq!(
        sent(&request),
        r#"{"options":{"cas":3},"data":{"a\"b":"line\nquote\" back\\ \u0001 é 🔑","z":""}}"#
    );
    assert!(sent(&write(&mount(KvVersion::V2), &id, &content, Cas::None)).starts_with(r#"{"data":{"#));
    let request = write(&mount(KvVersion::V1), &id, &content, Cas::None);
    assert_eq!(request.path(), "secret/team/app");
    assert_eq!(
        sent(&request),
        r#"{"a\"b":"line\nquote\" back\\ \u0001 é 🔑","z":""}"#
    );
}

#[test]
fn binary_is_refused_and_not_shown() {
    let content = Content::from([("k".to_owned(), Value::new(vec![0xff, b'h', b'u', b'n']))]);
    let id = DocumentId::new("secret", "app");
    assert_eq!(
        check(&Call::new(Operation::Write, "secret/app"), &content)
            .unwrap_err()
            .to_string(),
        "cannot write secret/app: a value is not text"
    );
    assert!(
        write(&mount(KvVersion::V2), &id, &content, Cas::None)
            .body()
            .is_err()
    );
}

#[test]
fn patches_take_keys_away_with_null() {
    let request = patch(&DocumentId::new("secret", "app"), &Claim::release(3, true))
        .body()
        .unwrap()
        .unwrap();
    assert_eq!(
        request,
        br#"{"custom_metadata":{"vault-sync.io/released":"true","vault-sync.io/released-version":"3"}}"#
    );
    let change = MetadataPatch::from([("cluster", None), ("name", Some("web".to_owned()))]);
    let request = patch(&DocumentId::new("secret", "app"), &change);
    assert_eq!(request.path(), "secret/metadata/app");
    assert_eq!(
        sent(&request),
        r#"{"custom_metadata":{"cluster":null,"name":"web"}}"#
    );
}

#[test]
fn a_live_document_is_read_whole() {
    let body = r#"{"request_id":"x","data":{"data":{"a":"1\n\"","n":1,"f":1.5,"b":true,"z":null,"l":[1,"x"],"m":{"k":"v"}},
        "metadata":{"created_time":"2026-11-24T10:44:29.003343387Z","custom_metadata":{"managed-by":"vault-sync-operator",
        "vault-sync.io/cluster-id":"u","vault-sync.io/namespace":"shop","vault-sync.io/kind":"Secret",
        "vault-sync.io/name":"db","vault-sync.io/adopted":"true","name":"a user's own"},"deletion_time":"","destroyed":false,"version":2}}}"#;
    let Ok(Observed::Live {
        version: 2,
        created: 1_795_517_069,
        content,
        mark,
    }) = see(KvVersion::V2, 200, body)
    else {
        panic!("not live at version 2")
    };
    assert!(content["a"] == Some(Value::from("1\n\"")));
    assert_eq!(content.len(), 7);
    assert!(content.iter().all(|(key, value)| key == "a" || value.is_none()));
    let holder = SourceKey {
        kind: Kind::Secret,
        namespace: "shop".into(),
        name: "db".into(),
    };
    assert_eq!(
        mark,
        Mark::Claimed(Claim {
            cluster: None,
            cluster_id: "u".into(),
            holder,
            adopted: true,
        })
    );
}

#[test]
fn a_document_that_is_not_live_says_how() {
    let deleted = r#"{"data":{"data":null,"metadata":{"created_time":"2026-11-24T10:44:29Z","custom_metadata":null,
        "deletion_time":"2026-11-24T10:44:29.05Z","destroyed":false,"version":7}},"warnings":null}"#;
    let unseen = r#"{"data":{"data":null,"metadata":{"created_time":"2026-11-24T10:44:29Z","version":7}}}"#;
    let is =
        |wanted: &Observed<Found>, got: Result<Observed<Found>, Error>| got.is_ok_and(|got| got == *wanted);
    assert!(is(
        &Observed::Deleted {
            version: 7,
            mark: Mark::Unclaimed
        },
        see(KvVersion::V2, 404, deleted)
    ));
    assert!(is(
        &Observed::Deleted {
            version: 7,
            mark: Mark::Unreadable
        },
        see(KvVersion::V2, 404, unseen)
    ));
    assert!(is(&Observed::Absent, see(KvVersion::V2, 404, r#"{"errors":[]}"#)));
    assert!(is(&Observed::Absent, see(KvVersion::V1, 404, r#"{"errors":[]}"#)));
    let live = r#"{"data":{"a":"1"},"lease_duration":2764800}"#;
    let content = Found::from([("a".to_owned(), Some(Value::from("1")))]);
    let seen = Observed::Live {
        version: 0,
        created: 0,
        content,
        mark: Mark::Unreadable,
    };
    assert!(is(&seen, see(KvVersion::V1, 200, live)));
}

#[test]
fn absence_is_never_guessed() {
    let kind = |version, status, body| see(version, status, body).err().map(|error| error.kind);
    for (version, status, body, expected) in [
        (
            KvVersion::V2,
            404,
            r#"{"errors":["no handler for route"]}"#,
            ErrorKind::NotFound,
        ),
        (KvVersion::V2, 404, "<html>", ErrorKind::Bug),
        (KvVersion::V2, 404, "", ErrorKind::Bug),
        (
            KvVersion::V1,
            404,
            r#"{"data":null,"warnings":["Invalid path for a versioned"]}"#,
            ErrorKind::NotFound,
        ),
        (
            KvVersion::V2,
            200,
            r#"{"data":{"data":{"a":"1"},"options":{"cas":0}}}"#,
            ErrorKind::Bug,
        ),
        (KvVersion::V2, 200, "<html>", ErrorKind::Bug),
        (KvVersion::V1, 200, "", ErrorKind::Bug),
        (
            KvVersion::V2,
            403,
            r#"{"errors":["permission denied"]}"#,
            ErrorKind::Denied,
        ),
    ] {
        assert_eq!(kind(version, status, body), Some(expected), "{status} {body}");
    }
}

#[test]
fn a_reply_that_does_not_fit_is_not_quoted() {
    let error = see(KvVersion::V1, 200, r#"{"data":"hunter2"}"#).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Bug);
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
}

#[test]
fn a_write_tells_its_version_and_the_mark() {
    let call = Call::new(Operation::Write, "secret/app");
    let made = |version, status, body| written(version, &call, &Reply::new(status, body));
    let of = |version, mark| Ok(Written { version, mark });
    let unmarked = r#"{"data":{"version":12,"custom_metadata":null}}"#;
    assert_eq!(made(KvVersion::V2, 200, unmarked), of(12, Mark::Unclaimed));
    let foreign = r#"{"data":{"version":2,"custom_metadata":{"managed-by":"terraform"}}}"#;
    assert_eq!(
        made(KvVersion::V2, 200, foreign),
        of(2, Mark::Foreign("terraform".to_owned()))
    );
    let hidden = r#"{"data":{"version":3}}"#;
    assert_eq!(made(KvVersion::V2, 200, hidden), of(3, Mark::Unreadable));
    assert_eq!(made(KvVersion::V1, 204, ""), of(0, Mark::Unreadable));
    let misfit = made(KvVersion::V2, 204, "").unwrap_err();
    assert_eq!((misfit.kind, misfit.outcome_unknown), (ErrorKind::Bug, true));
}
