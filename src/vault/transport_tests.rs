//! What is sent, what is tried again, and what comes back.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::super::setup::tests::settings;
use super::super::test_server::{Count, read, server, told};
use super::*;

fn transport(address: &str) -> Transport {
    let mut settings = settings(address);
    settings.namespace = Some("team".to_owned());
    Transport::new(settings, Arc::new(Count::default())).unwrap()
}

fn write() -> (Call, Plain<&'static str>) {
    let request = Plain::new(RequestMethod::POST, "secret/data/app".to_owned(), "hunter2");
    (Call::new(Operation::Write, "secret/app"), request)
}

#[tokio::test]
async fn requests_carry_what_they_must_and_no_more() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let address = server(move |asked| {
        let (token, namespace) = (asked.token.clone(), asked.namespace.clone());
        log.lock()
            .unwrap()
            .push((asked.line.clone(), token, namespace, asked.body.clone()));
        told(200, "{}")
    })
    .await;
    let transport = transport(&address);
    let token = HeaderValue::from_static("hvs.abc");
    let path = "secret/data/a b/ü%41?#+\\x".to_owned();
    transport
        .send(&read(), &Plain::get(path), Some(&token))
        .await
        .unwrap();
    let health = Call::new(Operation::Health, "");
    transport
        .send(&health, &Plain::get("\t/sys/health".to_owned()), None)
        .await
        .unwrap();
    let (call, request) = write();
    transport.send(&call, &request, Some(&token)).await.unwrap();
    let (token, team) = (Some("hvs.abc".to_owned()), Some("team".to_owned()));
    let expected = [
        (
            "GET /v1/secret/data/a%20b/%C3%BC%2541%3F%23+%5Cx",
            token.clone(),
            team.clone(),
            "",
        ),
        ("GET /v1/sys/health", None, None, ""),
        ("POST /v1/secret/data/app", token, team, "\"hunter2\""),
    ];
    let expected = expected.map(|(line, token, team, body)| (line.to_owned(), token, team, body.to_owned()));
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[tokio::test]
async fn paths_that_a_url_would_change_are_not_sent() {
    let transport = transport("http://127.0.0.1:1");
    for path in [
        "secret/data/../x",
        "secret/data/./x",
        "secret/data//x",
        "secret/data/",
        "",
    ] {
        let error = transport
            .send(&read(), &Plain::get(path.to_owned()), None)
            .await
            .err()
            .unwrap();
        assert_eq!(error.kind, ErrorKind::Invalid, "{path}");
    }
}

#[tokio::test]
async fn only_reads_are_tried_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let address = server(move |_| {
        counter.fetch_add(1, SeqCst);
        told(502, "bad gateway")
    })
    .await;
    let transport = transport(&address);
    let reply = transport
        .send(&read(), &Plain::get("secret/data/app".to_owned()), None)
        .await
        .unwrap();
    assert_eq!((reply.status, asked.swap(0, SeqCst)), (502, 3));
    let (call, request) = write();
    let reply = transport.send(&call, &request, None).await.unwrap();
    assert_eq!((reply.status, asked.swap(0, SeqCst)), (502, 1));
    assert!(reply.error(&call).outcome_unknown);
}

#[tokio::test]
async fn a_lost_connection_leaves_the_outcome_open() {
    let address = server(|_| None).await;
    let (call, request) = write();
    let lost = transport(&address)
        .send(&call, &request, None)
        .await
        .err()
        .unwrap();
    assert_eq!((lost.kind, lost.outcome_unknown), (ErrorKind::Unreachable, true));
    assert!(!format!("{lost} {lost:?}").contains("hunter2"), "{lost}");
    let refused = transport("http://127.0.0.1:1")
        .send(&call, &request, None)
        .await
        .err()
        .unwrap();
    assert_eq!(
        (refused.kind, refused.outcome_unknown),
        (ErrorKind::Unreachable, false)
    );
    let read = transport(&address)
        .send(&read(), &Plain::get("x".to_owned()), None)
        .await
        .err()
        .unwrap();
    assert!(!read.outcome_unknown);
}

#[tokio::test]
async fn a_standbys_redirect_is_followed_and_others_are_not() {
    let address = server(|asked| match asked.line.as_str() {
        "POST /v1/secret/data/app" => Some((307, vec![("location", "/v1/active".to_owned())], String::new())),
        "POST /v1/active" => told(200, &asked.body),
        "POST /v1/moved" => Some((302, vec![("location", "/v1/active".to_owned())], String::new())),
        _ => told(200, "turned into a read"),
    })
    .await;
    let transport = transport(&address);
    let (call, request) = write();
    let reply = transport.send(&call, &request, None).await.unwrap();
    assert_eq!(
        (reply.status, reply.body.as_slice()),
        (200, b"\"hunter2\"".as_slice())
    );
    let request = Plain::new(RequestMethod::POST, "moved".to_owned(), "hunter2");
    let reply = transport.send(&call, &request, None).await.unwrap();
    assert_eq!((reply.status, reply.error(&call).kind), (302, ErrorKind::Bug));
}

#[tokio::test]
async fn replies_are_bounded_and_waits_are_heard() {
    let address = server(|asked| match asked.line.as_str() {
        "GET /v1/long" => told(200, &"x".repeat((16 << 20) + 1)),
        _ => Some((429, vec![("retry-after", "7".to_owned())], String::new())),
    })
    .await;
    let transport = transport(&address);
    let error = transport
        .send(&read(), &Plain::get("long".to_owned()), None)
        .await
        .err()
        .unwrap();
    assert_eq!((error.kind, error.status), (ErrorKind::Bug, Some(200)));
    let reply = transport
        .send(&read(), &Plain::get("busy".to_owned()), None)
        .await
        .unwrap();
    assert_eq!(reply.error(&read()).retry_after, Some(Duration::from_secs(7)));
}
