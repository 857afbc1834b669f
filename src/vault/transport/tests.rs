//! What is sent, what is tried again, and what comes back.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::super::setup::tests::settings;
use tokio::time::timeout;

use super::super::test_server::{Count, read, server, slow_server, told};
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

/// A tenure that ends after this time.
fn ends_after(time: Duration) -> TimeLeft {
    let end = Instant::now() + time;
    Arc::new(move || Some(end.saturating_duration_since(Instant::now())))
}

#[tokio::test]
async fn a_change_whose_turn_comes_after_the_tenure_does_not_leave() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let address = server(move |_| {
        counter.fetch_add(1, SeqCst);
        told(200, "{}")
    })
    .await;
    let mut settings = settings(&address);
    settings.max_rps = Some(1.try_into().unwrap());
    let transport = Transport::new(settings, Arc::new(Count::default())).unwrap();
    transport.change_while(ends_after(Duration::from_millis(500)));
    let (call, request) = write();
    assert!(transport.send(&call, &request, None).await.is_ok());
    // Its turn is a second after the first one's.
    let late = transport.send(&call, &request, None).await.err().unwrap();
    assert_eq!(
        late.to_string(),
        "cannot write secret/app: the lease has not been renewed in time"
    );
    assert_eq!((late.kind, late.outcome_unknown), (ErrorKind::NotLeading, false));
    assert_eq!(asked.load(SeqCst), 1);
    // Who does not lead may read.
    let read = transport.send(&read(), &Plain::get("x".to_owned()), None).await;
    assert!(read.is_ok());
}

#[tokio::test]
async fn a_change_is_not_waited_for_longer_than_the_tenure_lasts() {
    let address = slow_server(|_| told(200, "{}"), |_| std::future::pending()).await;
    let mut settings = settings(&address);
    settings.timeout = Duration::from_mins(10);
    let transport = Transport::new(settings, Arc::new(Count::default())).unwrap();
    transport.change_while(ends_after(Duration::from_millis(200)));
    let (call, request) = write();
    let sending = transport.send(&call, &request, None);
    let error = timeout(Duration::from_mins(1), sending)
        .await
        .unwrap()
        .err()
        .unwrap();
    assert_eq!(
        (error.kind, error.outcome_unknown),
        (ErrorKind::Unreachable, true)
    );
}

/// The first connection is silent. It is not used again, and a read is not lost with it.
#[tokio::test]
async fn a_read_on_a_silent_connection_goes_out_once_more_on_a_new_one() {
    let first = Arc::new(AtomicUsize::new(0));
    let counter = first.clone();
    let address = slow_server(
        |_| told(200, "{}"),
        move |_| {
            let silent = counter.fetch_add(1, SeqCst) == 0;
            async move {
                if silent {
                    std::future::pending::<()>().await;
                }
            }
        },
    )
    .await;
    let mut settings = settings(&address);
    settings.timeout = Duration::from_mins(10);
    let transport = Transport::new(settings, Arc::new(Count::default())).unwrap();
    let (call, endpoint) = (read(), Plain::get("x".to_owned()));
    let reading = transport.send(&call, &endpoint, None);
    let reply = timeout(Duration::from_mins(1), reading).await.unwrap().unwrap();
    assert_eq!((reply.status, first.load(SeqCst)), (200, 2));
}
