//! Logins: one at a time, none for a true denial, none after the end.

use std::sync::Mutex as Lock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use super::super::setup::tests::settings;
use super::super::test_server::{Asked, Count, Told, read, server, told};
use super::super::transport::Plain;
use super::*;

const DENIED: &str = r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#;
const DEAD: &str = r#"{"errors":["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"]}"#;

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
            _ => told(200, r#"{"sealed":false}"#),
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
        assert!(bed.session.check(Instant::now()).await.is_ok());
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
async fn a_vault_that_was_away_is_asked_by_one_for_all() {
    let (away, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (is_away, counter) = (away.clone(), asked.clone());
    let bed = bed("away", move |asked| {
        counter.fetch_add(1, SeqCst);
        match asked.line.as_str() {
            _ if is_away.load(SeqCst) => told(503, r#"{"errors":["Vault is sealed"]}"#),
            "POST /v1/auth/kubernetes/login" => granted(1, 3600),
            _ => told(200, r#"{"sealed":false}"#),
        }
    })
    .await;
    assert_eq!(bed.calls(3).await, [Ok(200); 3]);
    away.store(true, SeqCst);
    assert!(bed.session.health(Instant::now()).await.is_err());
    asked.store(0, SeqCst);
    assert_eq!(bed.calls(500).await, [Err(ErrorKind::Sealed); 500]);
    assert_eq!(asked.load(SeqCst), 0, "the answer rests");
    let error = bed.session.check(Instant::now()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "Vault failed to tell its health: Vault is sealed (503)"
    );
    away.store(false, SeqCst);
    bed.session.up().await;
    assert_eq!(bed.calls(3).await, [Ok(200); 3]);
    assert_eq!(asked.load(SeqCst), 4, "one probe, three calls");
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
    let error = bed.session.check(Instant::now()).await.unwrap_err();
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
    assert_eq!(
        after.to_string(),
        "cannot log in at auth/kubernetes/login: the session has ended"
    );
}

/// A standby that answers in its cluster's name, and what it says of its active node.
#[tokio::test]
async fn a_standby_is_well_only_if_there_is_somebody_to_forward_to() {
    let leader = |address: &str| {
        told(
            200,
            &format!(r#"{{"ha_enabled":true,"leader_address":"{address}"}}"#),
        )
    };
    let none = r#"{"errors":["local node not active but active cluster node not found"]}"#;
    let away = "Vault failed to tell its health: a standby, and its cluster has no active node (200)";
    for (name, standby, answer, said) in [
        ("active", false, leader(""), None),
        ("led", true, leader("https://10.0.0.1:8200"), None),
        ("unled", true, leader(""), Some(away)),
        (
            "broken",
            true,
            told(500, none),
            Some("local node not active but active cluster node not found (500)"),
        ),
        // What stands in between says nothing about Vault; nor does a quota.
        ("forbidden", true, told(403, DENIED), None),
        ("unknown", true, told(404, "<html>"), None),
        ("page", true, told(200, "<html>"), None),
        (
            "limited",
            true,
            told(429, r#"{"errors":["request path limited"]}"#),
            None,
        ),
    ] {
        let bed = bed(&format!("standby-{name}"), move |asked| {
            match asked.line.as_str() {
                "POST /v1/auth/kubernetes/login" => granted(1, 3600),
                "GET /v1/sys/leader" => {
                    assert_eq!((&asked.token, &asked.namespace), (&None, &None));
                    answer.clone()
                }
                _ => told(200, &format!(r#"{{"sealed":false,"standby":{standby}}}"#)),
            }
        })
        .await;
        let health = bed.session.health(Instant::now()).await;
        match said {
            None => assert_eq!(health, Ok(()), "{name}"),
            Some(said) => {
                let error = health.unwrap_err();
                assert!(
                    error.kind.is_down() && error.to_string().ends_with(said),
                    "{name}: {error}"
                );
            }
        }
        bed.end().await;
    }
}
