//! The metrics endpoint among strangers: tokens that are no good, and clients that are no scrapers.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};

use testkit::{Http, Operator, Scene, check, connect_from, eventually};

const SCRAPE: &str = "GET /metrics HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n\r\n";
/// More than the endpoint takes, all in all.
const CROWD: usize = 300;

/// An operator whose metrics are for everybody.
fn open(scene: &Scene) -> Operator<'_> {
    let operator = scene.run().flag("enable-metrics-auth", "false").start();
    operator.ready();
    operator
}

fn address(operator: &Operator) -> SocketAddr {
    operator.metrics_address.parse().unwrap()
}

/// All that comes back for what is sent; empty, if the connection just ends.
fn says(operator: &Operator, sent: &[u8]) -> String {
    says_to(1, operator, sent)
}

/// The same, to a client at 127.0.0.x.
fn says_to(x: u8, operator: &Operator, sent: &[u8]) -> String {
    let mut stream = connect_from(x, address(operator));
    // A server that has had enough may end the connection in the midst of it.
    let _ = stream.write_all(sent);
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply);
    String::from_utf8_lossy(&reply).into_owned()
}

fn status(reply: &str) -> &str {
    reply.split(' ').nth(1).unwrap_or_default()
}

/// The real token with other claims, signed with the key that the API server signs with.
fn forged(real: &str, key: &Path, change: impl Fn(&mut Value)) -> String {
    let parts: Vec<&str> = real.split('.').collect();
    let claims = URL_SAFE_NO_PAD.decode(parts[1]).unwrap();
    let mut claims: Value = serde_json::from_slice(&claims).unwrap();
    change(&mut claims);
    let text = format!("{}.{}", parts[0], URL_SAFE_NO_PAD.encode(claims.to_string()));
    let pem = fs::read_to_string(key).unwrap();
    let lines = pem.lines().filter(|line| !line.starts_with("-----"));
    let key = STANDARD.decode(lines.collect::<String>()).unwrap();
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key, &random).unwrap();
    let signature = key.sign(&random, text.as_bytes()).unwrap();
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn scrape(operator: &Operator, token: &str) -> u16 {
    let bearer = format!("Bearer {token}");
    let base = format!("http://{}", operator.metrics_address);
    Http::new(base, &[("authorization", &bearer)], None)
        .get("/metrics")
        .status
}

#[test]
fn an_expired_token_and_one_that_is_not_valid_yet_are_refused() {
    let scene = Scene::new();
    scene.create_account("reader");
    scene.bind("reader", "it-metrics");
    let operator = scene.start();
    operator.ready();
    let real = scene.jwt("reader");
    let key = scene.bed.dir.join("tls.key");
    let shifted = |seconds: i64| {
        forged(&real, &key, |claims| {
            for name in ["exp", "iat", "nbf"] {
                claims[name] = json!(claims[name].as_i64().unwrap() + seconds);
            }
        })
    };
    assert_eq!(
        scrape(&operator, &shifted(-60)),
        200,
        "the forgery is as good as a real one"
    );
    assert_eq!(scrape(&operator, &shifted(-4 * 3600)), 401, "expired");
    assert_eq!(scrape(&operator, &shifted(4 * 3600)), 401, "not valid yet");
    let other = forged(&real, &key, |claims| claims["aud"] = json!(["elsewhere"]));
    assert_eq!(scrape(&operator, &other), 401, "for somebody else");
    let strange = scene
        .bed
        .clients
        .issue(&format!("{}-key", scene.ns), "DNS:nobody")
        .key;
    assert_eq!(
        scrape(&operator, &forged(&real, &strange, |_| {})),
        401,
        "signed by nobody"
    );
    let unsigned = real.rsplit_once('.').unwrap().0;
    assert_eq!(scrape(&operator, &format!("{unsigned}.")), 401, "not signed");
    assert_eq!(scrape(&operator, &real), 200);
}

#[test]
fn a_token_ends_with_its_service_account() {
    let scene = Scene::new();
    scene.create_account("reader");
    scene.bind("reader", "it-metrics");
    let operator = scene.start();
    operator.ready();
    let token = scene.jwt("reader");
    let account = format!("/api/v1/namespaces/{}/serviceaccounts/reader", scene.home);
    scene.bed.kube.delete(&account).ok();
    // The API server itself may need a moment.
    eventually("the token of an account that is gone is refused", || {
        let seen = scrape(&operator, &token);
        check(seen == 401, seen)
    });
}

#[test]
fn hundreds_of_idle_connections_are_bounded_and_keep_nobody_else_out() {
    let scene = Scene::new();
    let mut operator = open(&scene);
    let before = operator.open_files();
    let crowd: Vec<TcpStream> = (0..CROWD).map(|_| connect_from(2, address(&operator))).collect();
    for _ in 0..10 {
        assert_eq!(status(&says_to(3, &operator, SCRAPE.as_bytes())), "200");
        // The oldest idle connection of its own makes room for it.
        assert_eq!(status(&says_to(2, &operator, SCRAPE.as_bytes())), "200");
        operator.probe("/livez", 200);
    }
    let most = operator.open_files();
    assert!(most <= before + 16 + 8, "{before} files before, {most} now");
    drop(crowd);
    eventually("the files are closed", || {
        let now = operator.open_files();
        check(now <= before + 4, format!("{before} files before, {now} now"))
    });
    assert!(operator.is_running());
}

#[test]
fn a_crowd_of_many_addresses_is_bounded_too_and_does_not_touch_the_health_endpoints() {
    let scene = Scene::new();
    let operator = open(&scene);
    let before = operator.open_files();
    let crowd: Vec<TcpStream> = (0..CROWD)
        .map(|i| connect_from(10 + u8::try_from(i % 100).unwrap(), address(&operator)))
        .collect();
    // The oldest idle connection goes, whosever it is.
    assert_eq!(status(&says_to(3, &operator, SCRAPE.as_bytes())), "200");
    for path in ["/livez", "/healthz", "/readyz"] {
        assert_eq!(operator.health.get(path).status, 200);
    }
    let most = operator.open_files();
    assert!(most <= before + 64 + 8, "{before} files before, {most} now");
    drop(crowd);
    eventually("a scrape is answered", || {
        let reply = says_to(3, &operator, SCRAPE.as_bytes());
        check(status(&reply) == "200", reply)
    });
}

/// Whoever asks for readiness from the kubelet's own address, as Pods of the host's network do.
#[test]
fn probes_that_wait_for_a_hung_vault_keep_livez_out_for_nobody() {
    let scene = Scene::new();
    let operator = open(&scene);
    scene.vault.stall();
    let health: SocketAddr = operator.health_address.parse().unwrap();
    let mut crowd: Vec<TcpStream> = (0..16).map(|_| connect_from(1, health)).collect();
    for stream in &mut crowd {
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: operator\r\n\r\n")
            .unwrap();
    }
    for _ in 0..5 {
        let mut kubelet = connect_from(1, health);
        let probe = b"GET /livez HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n\r\n";
        kubelet.write_all(probe).unwrap();
        let mut reply = String::new();
        kubelet.read_to_string(&mut reply).unwrap();
        assert_eq!(status(&reply), "200", "{reply}");
    }
    scene.vault.flow();
}

#[test]
fn a_head_that_comes_byte_by_byte_loses_its_place() {
    let scene = Scene::new();
    let operator = open(&scene);
    let mut slow: Vec<TcpStream> = (0..16).map(|_| connect_from(2, address(&operator))).collect();
    let mut bytes = "GET /metrics HTTP/1.1\r\nX: ".bytes();
    eventually("all sixteen are cut off", || {
        // Each of them seems to be busy all the time.
        let byte = bytes.next().unwrap_or(b'x');
        slow.retain_mut(|stream| stream.write_all(&[byte]).is_ok());
        check(slow.is_empty(), format!("{} are not", slow.len()))
    });
    assert_eq!(status(&says_to(2, &operator, SCRAPE.as_bytes())), "200");
}

#[test]
fn replies_that_nobody_reads_pile_up_nowhere() {
    let scene = Scene::new();
    let operator = open(&scene);
    let resident = || {
        operator
            .metrics()
            .value("process_resident_memory_bytes", &[])
            .unwrap()
    };
    let before = resident();
    let request = b"GET /metrics HTTP/1.1\r\nHost: operator\r\n\r\n";
    let flood: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = connect_from(2, address(&operator));
            stream
                .set_write_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            // Until the server stops taking any more.
            for _ in 0..200_000 {
                if stream.write_all(request).is_err() {
                    return stream;
                }
            }
            panic!("it took them all");
        })
        .collect();
    let growth = resident() - before;
    assert!(growth < 12e6, "it grew by {growth} bytes");
    assert_eq!(status(&says_to(3, &operator, SCRAPE.as_bytes())), "200");
    drop(flood);
    // Also those that were just waited for are no reason not to end.
    let _reading = connect_from(2, address(&operator));
    assert_eq!(operator.stop().code(), Some(0));
}

#[test]
fn what_is_no_scrape_is_refused_in_words() {
    let scene = Scene::new();
    let mut operator = open(&scene);
    let long = "x".repeat(20_000);
    let huge = "x".repeat(2_000_000);
    let many = "X: y\r\n".repeat(2_000);
    for (what, sent, wanted) in [
        ("HTTP/1.1", SCRAPE.to_owned(), "200"),
        ("HTTP/1.0", "GET /metrics HTTP/1.0\r\n\r\n".into(), "200"),
        (
            "a long header",
            format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n"),
            "431",
        ),
        (
            "many headers",
            format!("GET /metrics HTTP/1.1\r\n{many}\r\n"),
            "431",
        ),
        (
            "a long address",
            format!("GET /metrics?{long} HTTP/1.1\r\n\r\n"),
            "431",
        ),
        ("no HTTP", "EHLO operator\r\n\r\n".into(), "400"),
        ("bytes", "\0\u{1}\u{2}\r\n\r\n".into(), "400"),
        ("another version", "GET /metrics HTTP/3.0\r\n\r\n".into(), "400"),
        ("POST", SCRAPE.replace("GET", "POST"), "405"),
        ("DELETE", SCRAPE.replace("GET", "DELETE"), "405"),
        (
            "CONNECT",
            "CONNECT vault:8200 HTTP/1.1\r\nConnection: close\r\n\r\n".into(),
            "405",
        ),
        ("TRACE", SCRAPE.replace("GET", "TRACE"), "405"),
        (
            "another path",
            SCRAPE.replace("/metrics", "/metrics/../secrets"),
            "404",
        ),
        (
            "a whole URL",
            SCRAPE.replace("/metrics", "http://elsewhere/"),
            "404",
        ),
        (
            "two lengths",
            "POST /metrics HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx".into(),
            "400",
        ),
        (
            "a body without end",
            format!(
                "POST /metrics HTTP/1.1\r\nConnection: close\r\nContent-Length: 100000000000\r\n\r\n{huge}"
            ),
            "405",
        ),
    ] {
        let reply = says(&operator, sent.as_bytes());
        // A server that stops reading may lose its last words on the way.
        let cut_off = reply.is_empty() && sent.len() > 16_000;
        assert!(cut_off || status(&reply) == wanted, "{what}: {reply}");
        assert!(
            wanted == "200" || !reply.contains("vault_sync_operator_"),
            "{what}: {reply}"
        );
    }
    // Who speaks HTTP/2 without asking would not understand a word.
    assert_eq!(says(&operator, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "");
    // Each of a row of requests gets its own answer.
    let row = format!(
        "{}{SCRAPE}",
        SCRAPE.replace("Connection: close\r\n", "").repeat(2)
    );
    let replies = says(&operator, row.as_bytes());
    assert_eq!(replies.matches("HTTP/1.1 200 OK").count(), 3);
    assert_eq!(replies.matches("# EOF").count(), 3);
    assert!(operator.is_running());
    assert!(!operator.log().contains("panicked"), "{}", operator.log());
}
