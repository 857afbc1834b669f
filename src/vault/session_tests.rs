//! Requests, retries and logins against a server in this process that says what a table wants.
//! What the real Vault answers is in `error_tests` and `kv_tests`, copied from it.

use std::sync::Mutex as Lock;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use reqwest::header::HeaderValue;
use rustify::enums::RequestMethod;

use super::super::Observer;
use super::super::setup::tests::settings;
use super::super::transport::Plain;
use super::*;

/// A request as it arrived.
struct Asked {
    line: String,
    token: Option<String>,
    namespace: Option<String>,
    body: String,
}

/// Status, headers and body; `None` hangs up.
type Told = Option<(u16, Vec<(&'static str, String)>, String)>;

fn told(status: u16, body: &str) -> Told {
    Some((status, vec![], body.to_owned()))
}

const DENIED: &str = r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#;
const DEAD: &str = r#"{"errors":["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}"#;

/// A server that answers by a function of the request; its address.
async fn server(tell: impl Fn(&Asked) -> Told + Send + Sync + 'static) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let tell = Arc::new(tell);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tell = tell.clone();
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let tell = tell.clone();
                async move {
                    let header = |name: &str| Some(request.headers().get(name)?.to_str().ok()?.to_owned());
                    let mut asked = Asked {
                        line: format!("{} {}", request.method(), request.uri()),
                        token: header("x-vault-token"),
                        namespace: header("x-vault-namespace"),
                        body: String::new(),
                    };
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    asked.body = String::from_utf8(body.to_vec()).unwrap();
                    let (status, headers, body) = tell(&asked).ok_or(std::io::Error::other("hang up"))?;
                    let mut response = hyper::Response::builder().status(status);
                    for (name, value) in headers {
                        response = response.header(name, value);
                    }
                    Ok::<_, std::io::Error>(response.body(Full::new(Bytes::from(body))).unwrap())
                }
            });
            let connection = hyper::server::conn::http1::Builder::new();
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Observer for Count {
    fn auth_attempt(&self, _: bool) {
        self.0.fetch_add(1, SeqCst);
    }
    fn reachable(&self, _: bool) {}
}

fn transport(address: &str) -> Transport {
    let mut settings = settings(address);
    settings.namespace = Some("team".to_owned());
    Transport::new(settings, Arc::new(Count::default())).unwrap()
}

fn read() -> Call {
    Call::new(Operation::Read, "secret/app")
}

fn write() -> (Call, Plain<&'static str>) {
    let request = Plain::new(RequestMethod::POST, "secret/data/app".to_owned(), "hunter2");
    (Call::new(Operation::Write, "secret/app"), request)
}

#[tokio::test]
async fn requests_carry_what_they_must_and_no_more() {
    let seen = Arc::new(Lock::new(Vec::new()));
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
    assert_eq!((reply.status, reply.error(&call).kind), (302, ErrorKind::Invalid));
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

/// A session against a server, with a token file; how often it has logged in; what stops it.
struct Bed {
    session: Arc<Session>,
    logins: Arc<Count>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    file: std::path::PathBuf,
}

async fn bed(name: &str, tell: impl Fn(&Asked) -> Told + Send + Sync + 'static) -> Bed {
    let address = server(tell).await;
    let file = std::env::temp_dir().join(format!("vault-session-{name}-{}", std::process::id()));
    std::fs::write(&file, "eyJh.eyJz.c2ln\n").unwrap();
    let mut settings = settings(&address);
    settings.token_file = file.clone();
    let logins = Arc::new(Count::default());
    let session = Arc::new(Session::new(Transport::new(settings, logins.clone()).unwrap()));
    let stop = CancellationToken::new();
    let task = tokio::spawn({
        let (session, stop) = (session.clone(), stop.clone());
        async move { session.maintain(stop).await }
    });
    Bed {
        session,
        logins,
        stop,
        task,
        file,
    }
}

impl Bed {
    /// So many calls at once; the statuses of their replies, or the kinds of their errors.
    async fn calls(&self, calls: usize) -> Vec<Result<u16, ErrorKind>> {
        let mut running = tokio::task::JoinSet::new();
        for _ in 0..calls {
            let session = self.session.clone();
            running.spawn(async move {
                let reply = session
                    .call(&read(), &Plain::get("secret/data/app".to_owned()))
                    .await;
                reply.map(|reply| reply.status).map_err(|error| error.kind)
            });
        }
        running.join_all().await
    }

    /// Makes the token older than what counts as young.
    fn age(&self) {
        let token = self.session.current().unwrap();
        let lease = Lease {
            since: token.lease.since.checked_sub(YOUNG).unwrap(),
            ..token.lease
        };
        let older = Token {
            header: token.header.clone(),
            generation: token.generation,
            lease,
        };
        self.session
            .state
            .send_modify(|state| state.token = Some(Arc::new(older)));
    }

    fn logins(&self) -> usize {
        self.logins.0.load(SeqCst)
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
        std::fs::remove_file(self.file).unwrap();
    }
}

fn granted(token: usize, ttl: u64) -> Told {
    told(
        200,
        &format!(r#"{{"auth":{{"client_token":"t{token}","lease_duration":{ttl},"renewable":true}}}}"#),
    )
}

#[tokio::test]
async fn dead_tokens_are_replaced_by_one_login() {
    // A Vault that says of a dead token what it says of a denied path, and one that says more.
    for (name, refusal) in [("old", DENIED), ("new", DEAD)] {
        let login = AtomicUsize::new(0);
        let bed = bed(name, move |asked| match asked.line.as_str() {
            "POST /v1/auth/kubernetes/login" => {
                assert_eq!(
                    asked.body,
                    r#"{"role":"vault-sync-operator","jwt":"eyJh.eyJz.c2ln"}"#
                );
                granted(login.fetch_add(1, SeqCst) + 1, 3600)
            }
            _ if asked.token.as_deref() == Some("t1") => told(403, refusal),
            _ => told(200, "{}"),
        })
        .await;
        bed.session.ready().await;
        if refusal == DENIED {
            // Without a word about the token, a young one counts as good.
            assert_eq!(bed.calls(3).await, [Ok(403); 3]);
            assert_eq!(bed.logins(), 1);
            bed.age();
        }
        assert_eq!(bed.calls(30).await, [Ok(200); 30]);
        assert_eq!(bed.logins(), 2);
        assert!(bed.session.check().await.is_ok());
        bed.end().await;
    }
}

#[tokio::test]
async fn true_denials_never_log_in() {
    let lookups = Arc::new(AtomicUsize::new(0));
    let counter = lookups.clone();
    let bed = bed("denied", move |asked| match asked.line.as_str() {
        "POST /v1/auth/kubernetes/login" => granted(1, 3600),
        "GET /v1/auth/token/lookup-self" => {
            counter.fetch_add(1, SeqCst);
            told(200, "{}")
        }
        _ => told(403, DENIED),
    })
    .await;
    assert_eq!(bed.calls(50).await, [Ok(403); 50]);
    assert_eq!(bed.logins(), 1);
    assert!(
        lookups.load(SeqCst) < 10,
        "{lookups:?} lookups for refusals that came together"
    );
    bed.end().await;
}

#[tokio::test]
async fn a_refused_login_is_not_asked_for_by_every_call() {
    let bed = bed("refused", |_| {
        told(400, r#"{"errors":["cannot parse eyJh.eyJz.c2ln"]}"#)
    })
    .await;
    assert_eq!(bed.calls(50).await, [Err(ErrorKind::Auth); 50]);
    assert!(bed.logins() <= 2, "{}", bed.logins());
    let error = bed.session.check().await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("eyJ"), "{error}");
    bed.end().await;
}

#[tokio::test]
async fn the_end_revokes_and_refuses() {
    let revoked = Arc::new(Lock::new(None));
    let seen = revoked.clone();
    let bed = bed("end", move |asked| match asked.line.as_str() {
        "POST /v1/auth/kubernetes/login" => granted(1, 0),
        "POST /v1/auth/token/revoke-self" => {
            *seen.lock().unwrap() = asked.token.clone();
            told(204, "")
        }
        _ => told(200, "{}"),
    })
    .await;
    assert_eq!(bed.calls(1).await, [Ok(200)]);
    let session = bed.session.clone();
    bed.end().await;
    assert_eq!(*revoked.lock().unwrap(), Some("t1".to_owned()));
    let after = session
        .call(&read(), &Plain::get("x".to_owned()))
        .await
        .err()
        .unwrap();
    assert_eq!(after.to_string(), "cannot log in at: the session has ended");
}
