//! Logins: one at a time, none for a true denial, none after the end.

use std::sync::Mutex as Lock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use tokio::sync::Notify;

use super::super::setup::tests::settings;
use super::super::test_server::{Asked, Count, Told, read, server, slow_server, told};
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
    bed_at(name, &server(tell).await)
}

fn bed_at(name: &str, address: &str) -> Bed {
    let file = std::env::temp_dir().join(format!("vault-session-{name}-{}", std::process::id()));
    std::fs::write(&file, "eyJh.eyJz.c2ln\n").unwrap();
    let mut settings = settings(address);
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
        // However young it is.
        assert_eq!(bed.calls(30).await, [Ok(200); 30]);
        assert_eq!(bed.logins(), 2);
        assert!(bed.session.check(Instant::now()).await.is_ok());
        bed.end().await;
    }
}

#[tokio::test]
async fn a_token_that_has_looked_itself_up_and_may_not_any_more_is_dead_however_often() {
    let (login, dead) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let until = dead.clone();
    let bed = bed("openbao", move |asked| match asked.line.as_str() {
        "POST /v1/auth/kubernetes/login" => granted(login.fetch_add(1, SeqCst) + 1, 3600),
        "GET /v1/sys/health?standbyok=true&perfstandbyok=true" => told(200, r#"{"sealed":false}"#),
        _ => {
            let token = asked.token.as_deref().unwrap_or_default();
            let number: usize = token.trim_start_matches('t').parse().unwrap();
            if number <= until.load(SeqCst) {
                told(403, DENIED)
            } else {
                told(200, "{}")
            }
        }
    })
    .await;
    bed.session.ready().await;
    for deaths in 1..4 {
        bed.session.check(Instant::now()).await.unwrap();
        dead.store(deaths, SeqCst);
        assert_eq!(bed.calls(5).await, [Ok(200); 5]);
        assert_eq!(bed.logins(), deaths + 1);
    }
    bed.end().await;
}

/// A role without the policy `default`, at a Vault that gives no reason for a refusal.
#[tokio::test]
async fn a_token_that_may_not_look_itself_up_is_a_good_one() {
    let (login, revoked) = (AtomicUsize::new(0), Arc::new(Lock::new(Vec::new())));
    let seen = revoked.clone();
    let bed = bed("blind", move |asked| match asked.line.as_str() {
        "POST /v1/auth/kubernetes/login" => granted(login.fetch_add(1, SeqCst) + 1, 3600),
        "GET /v1/secret/data/app" | "GET /v1/auth/token/lookup-self" => told(403, DENIED),
        "GET /v1/sys/internal/ui/mounts/secret/app" => told(200, "{}"),
        "POST /v1/auth/token/revoke-self" => {
            seen.lock().unwrap().push(asked.token.clone().unwrap());
            told(204, "")
        }
        line if line.starts_with("GET /v1/sys/internal/ui/mounts/") => told(403, DENIED),
        _ => told(200, r#"{"sealed":false}"#),
    })
    .await;
    bed.session.ready().await;
    for _ in 0..20 {
        assert_eq!(bed.session.check(Instant::now()).await, Ok(()));
    }
    // The mount's answer shows that the token is good, so the path is denied.
    assert_eq!(bed.calls(20).await, [Ok(403); 20]);
    assert_eq!(bed.logins(), 1);
    // Where it has no right in the whole mount, a second token tells, and then no third.
    let foreign = Call::new(Operation::Read, "other/app");
    for _ in 0..20 {
        let endpoint = Plain::get("secret/data/app".to_owned());
        let reply = bed.session.call(&foreign, &endpoint).await.unwrap();
        assert_eq!(reply.status, 403);
    }
    assert_eq!(bed.logins(), 2);
    // The first one was good, and is given back.
    assert_eq!(*revoked.lock().unwrap(), ["t1"]);
    bed.end().await;
    assert_eq!(*revoked.lock().unwrap(), ["t1", "t2"]);
}

/// A server that takes as long for a second login as the test wants; what lets it answer, how often it was
/// asked for a login, and the tokens that were revoked.
async fn slow_logins(from: usize) -> (String, Arc<Notify>, Arc<AtomicUsize>, Arc<Lock<Vec<String>>>) {
    let (go, asked_for) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let revoked = Arc::new(Lock::new(Vec::new()));
    let (gate, logins, seen) = (go.clone(), asked_for.clone(), revoked.clone());
    let number = asked_for.clone();
    let address = slow_server(
        move |asked| match asked.line.as_str() {
            "POST /v1/auth/kubernetes/login" => granted(logins.fetch_add(1, SeqCst) + 1, 3600),
            "POST /v1/auth/token/revoke-self" => {
                seen.lock().unwrap().push(asked.token.clone().unwrap());
                told(204, "")
            }
            _ if asked.token.as_deref() == Some("t1") => told(403, DEAD),
            _ => told(200, r#"{"sealed":false}"#),
        },
        move |asked| {
            let slow = asked.line.ends_with("/login") && number.load(SeqCst) >= from;
            let gate = gate.clone();
            async move {
                if slow {
                    gate.notified().await;
                }
            }
        },
    )
    .await;
    (address, go, asked_for, revoked)
}

#[tokio::test]
async fn a_caller_that_gives_up_does_not_cut_off_the_login() {
    let (address, go, asked_for, _) = slow_logins(2).await;
    let bed = bed_at("impatient", &address);
    bed.session.ready().await;
    for _ in 0..10 {
        let check = bed.session.check(Instant::now());
        assert!(timeout(Duration::from_millis(50), check).await.is_err());
    }
    assert_eq!(asked_for.load(SeqCst), 2, "one for each token");
    go.notify_one();
    assert_eq!(bed.calls(3).await, [Ok(200); 3]);
    assert_eq!(asked_for.load(SeqCst), 2);
    bed.end().await;
}

#[tokio::test]
async fn a_login_that_is_under_way_at_the_end_is_finished_and_revoked() {
    let (address, go, asked_for, revoked) = slow_logins(1).await;
    let bed = bed_at("last", &address);
    while asked_for.load(SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    bed.stop.cancel();
    tokio::task::yield_now().await;
    go.notify_one();
    bed.end().await;
    assert_eq!(*revoked.lock().unwrap(), ["t1"]);
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

/// Something revokes each login, or a role gives tokens for one use each: `token_num_uses`.
#[tokio::test]
async fn a_token_that_dies_as_soon_as_it_is_used_is_an_error_of_the_login_and_starts_no_storm() {
    let login = AtomicUsize::new(0);
    let bed = bed("mayfly", move |asked| match asked.line.as_str() {
        "POST /v1/auth/kubernetes/login" => granted(login.fetch_add(1, SeqCst) + 1, 3600),
        "GET /v1/secret/data/app" => told(403, DEAD),
        _ => told(200, r#"{"sealed":false}"#),
    })
    .await;
    bed.session.ready().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let calls = async {
        loop {
            assert_eq!(bed.calls(5).await, [Err(ErrorKind::Auth); 5]);
            asked.fetch_add(1, SeqCst);
        }
    };
    let _ = timeout(Duration::from_secs(3), calls).await;
    assert!(asked.load(SeqCst) >= 1);
    // The first are had at once, and each of those after them waits for twice as long.
    assert!((2..=8).contains(&bed.logins()), "{}", bed.logins());
    bed.end().await;
}

#[tokio::test]
async fn a_lease_that_never_ends_in_anybodys_time_is_kept() {
    let login = AtomicUsize::new(0);
    let bed = bed("ages", move |asked| match asked.line.as_str() {
        "POST /v1/auth/kubernetes/login" => granted(login.fetch_add(1, SeqCst) + 1, u64::MAX),
        _ => told(200, r#"{"sealed":false}"#),
    })
    .await;
    assert_eq!(bed.calls(3).await, [Ok(200); 3]);
    tokio::task::yield_now().await;
    assert_eq!(bed.calls(3).await, [Ok(200); 3]);
    assert_eq!(bed.logins(), 1);
    bed.end().await;
}
