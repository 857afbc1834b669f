//! Replies that are no success: of standbys, of a sealed or busy Vault, and of servers that are broken.
//!
//! What only Vault Enterprise or a broken server says is said by the wire in Vault's place.

use serde_json::json;

use testkit::{Answer, Gate, Operator, Scene, check, eventually};

const LOGIN: &str = "POST /v1/auth/kubernetes/login";
/// No reply that is read is longer.
const REPLY_LIMIT: usize = 16 << 20;
/// What a connection on this machine can hold of what was sent and not read.
const ON_ITS_WAY: usize = 24 << 20;

fn logins(scene: &Scene) -> usize {
    let requests = scene.vault.requests();
    requests.iter().filter(|request| *request == LOGIN).count()
}

/// A Secret `db` that is synced, and has changed since `answer` is what comes of requests of that
/// method for its document.
fn changed<'a>(scene: &'a Scene, method: &str, answer: Answer) -> Operator<'a> {
    all_changed(scene, method, [("db", answer)])
}

/// The same for several, each with an answer of its own.
fn all_changed<'a, 'n>(
    scene: &'a Scene,
    method: &str,
    answers: impl IntoIterator<Item = (&'n str, Answer)>,
) -> Operator<'a> {
    let answers: Vec<_> = answers.into_iter().collect();
    for (name, _) in &answers {
        scene.own(name, "one");
    }
    let operator = scene.start();
    for (name, _) in &answers {
        scene.doc(name).becomes(json!({"k": "one"}));
    }
    scene.settle();
    for (name, answer) in answers {
        let words = format!("{method} /v1/secret/data/{}/{name}", scene.ns);
        scene.vault.answer(&words, answer);
        let looks = json!({"vault-sync.io/force-sync": "1"});
        let looks = if method == "GET" { looks } else { json!({}) };
        let change = json!({"metadata": {"annotations": looks}, "stringData": {"k": "two"}});
        scene.patch("Secret", name, change);
    }
    operator
}

#[test]
fn standbys_that_do_not_forward_and_a_sealed_vault_are_tried_again_until_they_do() {
    let scene = Scene::new();
    let lags = Answer::errors(412, &["required index state not present"]);
    let sealed = Answer::errors(503, &["Vault is sealed"]);
    let mut operator = all_changed(
        &scene,
        "POST",
        [
            ("lags", lags),
            ("recovers", Answer::errors(472, &[])),
            ("performs", Answer::errors(473, &[])),
            ("sealed", sealed),
        ],
    );
    let seen = [
        ("lags", "required index state"),
        ("recovers", "standby"),
        ("performs", "standby"),
        ("sealed", "sealed"),
    ];
    for (name, words) in seen {
        scene.event(name, "SyncFailed", &[words]);
    }
    scene.vault.answers(8);
    // Nobody else waits for them, and they are not lost.
    scene.settle();
    operator.probe("/livez", 200);
    assert!(operator.is_running());
    for (name, _) in seen {
        scene.doc(name).holds(json!({"k": "one"}));
    }
    scene.vault.behave();
    for (name, _) in seen {
        scene.doc(name).becomes(json!({"k": "two"})).is_at_version(2);
        scene.event(name, "Synced", &[]);
    }
    assert_eq!(logins(&scene), 1);
}

#[test]
fn reads_from_a_standby_that_lags_are_tried_again_until_it_has_caught_up() {
    let scene = Scene::new();
    let lags = Answer::errors(412, &["required index state not present"]);
    let _operator = changed(&scene, "GET", lags);
    scene.event("db", "SyncFailed", &["required index state"]);
    scene.vault.answers(3);
    scene.settle();
    scene.vault.behave();
    scene.doc("db").becomes(json!({"k": "two"})).is_at_version(2);
    assert_eq!(logins(&scene), 1);
}

#[test]
fn health_tells_standbys_and_a_sealed_vault_from_one_that_works() {
    let scene = Scene::new();
    let mut operator = scene.start();
    operator.ready();
    for (status, word) in [
        (429, "standby"),
        (472, "standby"),
        (473, "standby"),
        (501, "not initialised"),
        (503, "sealed"),
    ] {
        scene.vault.answer(
            "GET /v1/sys/health",
            Answer::new(status, &[], r#"{"sealed": false}"#),
        );
        let reply = operator.probe("/healthz", 500);
        assert!(reply.text.contains(word), "{status}: {reply:?}");
        operator.probe("/readyz", 500);
        operator.probe("/livez", 200);
        scene.vault.behave();
        operator.probe("/healthz", 200);
    }
    assert!(operator.is_running());
    assert_eq!(logins(&scene), 1);
}

#[test]
fn a_login_at_a_standby_or_a_sealed_vault_is_tried_again() {
    let scene = Scene::new();
    scene.own("db", "one");
    scene
        .vault
        .answer(LOGIN, Answer::errors(503, &["Vault is sealed"]));
    let operator = scene.start();
    scene.vault.answers(2);
    operator.says(&["login to Vault failed", "sealed"]);
    operator.probe("/livez", 200);
    scene.vault.answer(LOGIN, Answer::errors(473, &[]));
    scene.vault.answers(1);
    scene.vault.behave();
    scene.doc("db").becomes(json!({"k": "one"})).is_at_version(1);
}

#[test]
fn a_login_is_not_tried_again_before_vault_says_so() {
    let scene = Scene::new();
    scene.own("db", "one");
    let busy = Answer::new(429, &[("Retry-After", "2")], r#"{"errors": ["busy"]}"#);
    scene.vault.answer(LOGIN, busy);
    let _operator = scene.start();
    scene.vault.answers(2);
    let pauses = scene.vault.pauses();
    assert!(pauses.iter().all(|pause| pause.as_secs() >= 2), "{pauses:?}");
    scene.vault.behave();
    scene.doc("db").becomes(json!({"k": "one"}));
}

#[test]
fn a_document_is_not_asked_for_again_before_vault_says_so() {
    for status in [429, 503] {
        let scene = Scene::new();
        let busy = Answer::new(status, &[("Retry-After", "3")], r#"{"errors": ["busy"]}"#);
        // Whatever the method.
        let _operator = changed(&scene, "", busy);
        scene.vault.answers(3);
        let pauses = scene.vault.pauses();
        assert!(
            pauses.iter().all(|pause| pause.as_secs() >= 3),
            "{status}: {pauses:?}"
        );
        // Nobody else waits.
        scene.settle();
        scene.vault.behave();
        scene.doc("db").becomes(json!({"k": "two"})).is_at_version(2);
        assert_eq!(logins(&scene), 1);
    }
}

#[test]
fn a_standby_that_redirects_is_followed_with_the_token_and_the_body() {
    for status in [307, 308] {
        let scene = Scene::new();
        let active = Gate::to(scene.bed.vault_port);
        let operator = changed(&scene, "GET", redirect(&scene, status, &active));
        scene.doc("db").becomes(json!({"k": "two"}));
        eventually("a read by way of the active node", || {
            let heard = active.heard().join("\n");
            check(heard.contains("GET /v1/secret/data/"), heard)
        });
        operator.stop();

        let path = format!("POST /v1/secret/data/{}/db", scene.ns);
        scene.vault.answer(&path, redirect(&scene, status, &active));
        scene.set_key("db", "k", "three");
        let _operator = scene.start();
        scene.doc("db").becomes(json!({"k": "three"})).is_at_version(3);
        assert_eq!(
            active
                .requests()
                .iter()
                .filter(|request| **request == path)
                .count(),
            1,
            "the write went there once: {:?}",
            active.requests()
        );
    }
}

/// A standby's redirect of requests for `db`.
fn redirect(scene: &Scene, status: u16, to: &Gate) -> Answer {
    let location = format!("http://127.0.0.1:{}/v1/secret/data/{}/db", to.port, scene.ns);
    Answer::new(status, &[("Location", &location)], "")
}

#[test]
fn a_redirect_that_goes_round_ends() {
    let scene = Scene::new();
    let answer = redirect(&scene, 307, &scene.vault);
    let _operator = changed(&scene, "POST", answer);
    scene.event("db", "SyncFailed", &["redirect"]);
    assert!(scene.vault.answered() <= 8, "{} requests", scene.vault.answered());
    scene.settle();
    scene.doc("db").holds(json!({"k": "one"}));
    // Somebody corrects it, and the Secret changes once more.
    scene.vault.behave();
    scene.set_key("db", "k", "three");
    scene.doc("db").becomes(json!({"k": "three"})).is_at_version(2);
}

#[test]
fn a_path_that_a_rate_limit_throttles_ends_well_and_delays_nobody() {
    let scene = Scene::new();
    scene.own("db", "one");
    let _operator = scene.start();
    scene.doc("db").becomes(json!({"k": "one"}));
    scene.settle();
    let quota = format!("/v1/sys/quotas/rate-limit/{}", scene.ns);
    let limit = |rate: u32, block: &str| {
        let path = format!("secret/data/{}/db", scene.ns);
        let body = json!({"path": path, "rate": rate, "interval": "1s", "block_interval": block});
        scene.bed.vault.post(&quota, &body).ok();
    };
    limit(1, "1h");
    // This machine has had its share.
    let path = format!("/v1/secret/data/{}/db", scene.ns);
    eventually("this machine is blocked", || {
        let reply = scene.bed.vault.get(&path);
        check(reply.status == 429, reply.text)
    });
    scene.set_key("db", "k", "two");
    scene.event("db", "SyncFailed", &["rate limit quota exceeded", "429"]);
    // Its metadata are another path, and others are not under the quota.
    scene.doc("db").is_at_version(1);
    scene.settle();
    // The block ends.
    scene.bed.vault.delete(&quota).ok();
    scene.doc("db").becomes(json!({"k": "two"})).is_at_version(2);
    assert_eq!(logins(&scene), 1);
}

/// What a broken server may answer, under a name, and the words by which people find out.
fn broken() -> Vec<(&'static str, Answer, &'static str)> {
    let json_head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let begun = r#"{"data": {"data": {"k""#;
    vec![
        (
            "html-page",
            Answer::new(200, &[("Content-Type", "text/html")], "<html>Welcome</html>"),
            "does not fit",
        ),
        ("nothing-at-all", Answer::new(200, &[], ""), "does not fit"),
        (
            "another-shape",
            Answer::new(200, &[], r#"{"data": [1, 2]}"#),
            "does not fit",
        ),
        ("ends-early", Answer::new(200, &[], begun), "does not fit"),
        (
            "nested",
            Answer::new(200, &[], &r#"{"data":"#.repeat(100_000)),
            "does not fit",
        ),
        (
            "too-little",
            Answer::raw(&format!("{json_head}Content-Length: 4000\r\n\r\n{begun}")).and_hangs_up(),
            "cannot reach Vault",
        ),
        (
            "too-much",
            Answer::raw(&format!("{json_head}Content-Length: 3\r\n\r\n{begun}")).and_hangs_up(),
            "does not fit",
        ),
        (
            "no-length",
            Answer::raw(&format!("{json_head}Content-Length: many\r\n\r\n{begun}")).and_hangs_up(),
            "cannot reach Vault",
        ),
        (
            "no-http",
            Answer::raw("220 mail.example ESMTP\r\n").and_hangs_up(),
            "cannot reach Vault",
        ),
        (
            "html-error",
            Answer::new(404, &[("Content-Type", "text/html")], "<html>No such page</html>"),
            "does not fit",
        ),
    ]
}

#[test]
fn a_read_that_is_answered_by_nonsense_says_so_and_loses_nothing() {
    nonsense("GET");
}

#[test]
fn a_write_that_is_answered_by_nonsense_says_so_and_is_made_up_for() {
    nonsense("POST");
}

fn nonsense(method: &str) {
    let scene = Scene::new();
    let answers = broken().into_iter().map(|(name, answer, _)| (name, answer));
    let mut operator = all_changed(&scene, method, answers);
    for (name, _, words) in broken() {
        scene.event(name, "SyncFailed", &[words]);
    }
    scene.settle();
    operator.probe("/livez", 200);
    assert!(operator.is_running());
    assert!(!operator.log().contains("panicked"), "{}", operator.log());
    for (name, ..) in broken() {
        scene.doc(name).holds(json!({"k": "one"}));
    }
    scene.vault.behave();
    for (name, ..) in broken() {
        scene.doc(name).becomes(json!({"k": "two"})).is_at_version(2);
    }
    assert_eq!(logins(&scene), 1);
}

#[test]
fn a_login_that_is_answered_by_nonsense_is_tried_again() {
    let scene = Scene::new();
    scene.own("db", "one");
    let granted = |token: &str, seconds: i64| {
        let auth = json!({"client_token": token, "lease_duration": seconds, "renewable": true});
        json!({"auth": auth}).to_string()
    };
    let bodies = ["<html>".to_owned(), granted("", 3600), granted("a\nb", 3600)];
    let answer = |body: &str| scene.vault.answer(LOGIN, Answer::new(200, &[], body));
    answer("");
    let mut operator = scene.start();
    for body in bodies {
        answer(&body);
        scene.vault.answers(1);
    }
    operator.says(&["login to Vault failed", "does not fit"]);
    assert!(operator.is_running());
    scene.vault.behave();
    scene.doc("db").becomes(json!({"k": "one"})).is_at_version(1);
}

#[test]
fn a_reply_that_trickles_is_given_up_after_the_client_timeout() {
    let scene = Scene::new();
    scene.own("db", "one");
    let operator = scene.run().env("VAULT_CLIENT_TIMEOUT", "1s").start();
    scene.doc("db").becomes(json!({"k": "one"}));
    let trickle = Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{").and_trickles();
    scene
        .vault
        .answer(&format!("GET /v1/secret/data/{}/db", scene.ns), trickle);
    scene.annotate("Secret", "db", &[("force-sync", Some("1"))]);
    scene.set_key("db", "k", "two");
    scene.event("db", "SyncFailed", &["timed out"]);
    scene.settle();
    operator.probe("/livez", 200);
    scene.vault.behave();
    scene.doc("db").becomes(json!({"k": "two"})).is_at_version(2);
}

#[test]
fn a_reply_without_end_is_cut_off_whatever_length_it_claims() {
    for (head, words, most) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n{",
            "longer than 16 MiB",
            REPLY_LIMIT,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n{",
            "longer than 16 MiB",
            REPLY_LIMIT,
        ),
        (
            "HTTP/1.1 500 Oh\r\nContent-Length: 100000000000\r\n\r\n{",
            "500",
            0,
        ),
    ] {
        let scene = Scene::new();
        let operator = changed(&scene, "GET", Answer::raw(head).and_floods());
        scene.event("db", "SyncFailed", &[words]);
        let each = scene.vault.flooded() / scene.vault.answered();
        // The rest is what the kernel holds on its way.
        assert!(each < most + ON_ITS_WAY, "{each} bytes were taken each time");
        scene.settle();
        operator.probe("/livez", 200);
        scene.vault.behave();
        scene.doc("db").becomes(json!({"k": "two"})).is_at_version(2);
    }
}

fn resident(operator: &Operator) -> f64 {
    let metrics = operator.metrics();
    metrics
        .value("process_resident_memory_bytes", &[])
        .expect("its memory")
}

#[test]
fn many_replies_without_end_at_a_time_stay_within_memory() {
    let scene = Scene::new();
    for i in 0..32 {
        scene.own(&format!("s{i}"), "one");
    }
    let operator = scene.start();
    for i in 0..32 {
        scene.doc(&format!("s{i}")).becomes(json!({"k": "one"}));
    }
    let before = resident(&operator);
    let flood =
        Answer::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n{").and_floods();
    scene
        .vault
        .answer(&format!("GET /v1/secret/data/{}/s", scene.ns), flood);
    for i in 0..32 {
        scene.annotate("Secret", &format!("s{i}"), &[("force-sync", Some("1"))]);
    }
    let mut most = 0.0_f64;
    eventually("each was answered, and some twice", || {
        most = most.max(resident(&operator));
        check(scene.vault.answered() >= 40, scene.vault.answered())
    });
    // Sixteen that are worked on at a time would be 256 MiB, and what growing takes.
    let growth = most - before;
    assert!(growth < 128e6, "it grew by {growth} bytes");
    scene.vault.behave();
    for i in 0..32 {
        scene.set_key(&format!("s{i}"), "k", "two");
        scene.doc(&format!("s{i}")).becomes(json!({"k": "two"}));
    }
}
