use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::metrics::Metrics;

/// Knows three tokens, and counts how often it is asked.
#[derive(Clone, Default)]
struct Fake(Arc<AtomicUsize>);

impl Reviewer for Fake {
    type Error = &'static str;

    async fn review(&self, token: &str) -> Result<Verdict, &'static str> {
        self.0.fetch_add(1, Ordering::SeqCst);
        match token {
            "good" => Ok(Verdict::Allowed),
            "weak" => Ok(Verdict::Forbidden),
            "odd" => Err("the API server is away"),
            _ => Ok(Verdict::Unauthenticated),
        }
    }
}

struct Health {
    vault: Result<(), Unhealthy>,
    token: Result<(), Unhealthy>,
    kubernetes: Result<(), Unhealthy>,
    told: Mutex<Vec<Result<(), Unhealthy>>>,
}

impl Checks for Health {
    async fn vault(&self) -> Result<(), Unhealthy> {
        self.vault.clone()
    }
    async fn token(&self) -> Result<(), Unhealthy> {
        self.token.clone()
    }
    fn kubernetes(&self) -> Result<(), Unhealthy> {
        self.kubernetes.clone()
    }
    fn told(&self, ready: Result<(), Unhealthy>) {
        self.told.lock().unwrap().push(ready);
    }
}

/// Sends one request and reads its answer: the status, and the whole text.
async fn ask(at: std::net::SocketAddr, request: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
    let request = format!("{request}\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (status, text)
}

async fn metrics_server(reviewer: Option<Fake>) -> (std::net::SocketAddr, CancellationToken) {
    let listener = bind("--metrics-bind-address", "127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let mut registry = Registry::default();
    Metrics::register(&mut registry);
    let stop = CancellationToken::new();
    tokio::spawn(serve_metrics(
        listener,
        Arc::new(registry),
        reviewer,
        stop.clone(),
    ));
    (at, stop)
}

#[tokio::test]
async fn metrics_are_served_to_whom_the_cluster_allows() {
    let fake = Fake::default();
    let (at, _) = metrics_server(Some(fake.clone())).await;
    for (request, status) in [
        ("GET /metrics HTTP/1.1", 401),
        ("GET /metrics HTTP/1.1\r\nAuthorization: Bearer bad", 401),
        ("GET /metrics HTTP/1.1\r\nAuthorization: Bearer weak", 403),
        ("GET /metrics HTTP/1.1\r\nAuthorization: Bearer odd", 500),
        ("GET /metrics HTTP/1.1\r\nAuthorization: Bearer good", 200),
        ("GET /metrics HTTP/1.1\r\nAuthorization: Bearer good", 200),
        ("POST /metrics HTTP/1.1\r\nAuthorization: Bearer good", 405),
        ("GET / HTTP/1.1", 404),
    ] {
        let (got, text) = ask(at, request).await;
        assert_eq!(got, status, "{request}: {text}");
    }
    // The second good one was remembered; nothing else was.
    assert_eq!(fake.0.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn without_a_reviewer_everybody_may_scrape() {
    let (at, _) = metrics_server(None).await;
    let (status, text) = ask(at, "GET /metrics HTTP/1.1").await;
    assert_eq!(status, 200);
    assert!(
        text.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
        "{text}"
    );
    assert!(text.contains("vault_sync_operator_leader 0\n") && text.ends_with("# EOF\n"));
}

#[tokio::test]
async fn health_names_the_check_that_failed() {
    let good = || Ok(());
    let bad = || Err(Unhealthy::new("sealed\n"));
    for (vault, token, path, status, body) in [
        (good(), good(), "/livez", 200, "ok"),
        (good(), good(), "/healthz", 200, "ok"),
        (good(), good(), "/readyz", 200, "ok"),
        (
            good(),
            good(),
            "/readyz?verbose",
            200,
            "[+]vault ok\n[+]token ok\n[+]kubernetes ok\nreadyz check passed\n",
        ),
        (bad(), bad(), "/livez", 200, "ok"),
        (
            bad(),
            good(),
            "/healthz",
            500,
            "[-]vault failed: sealed \nhealthz check failed\n",
        ),
        (good(), bad(), "/healthz", 200, "ok"),
        (
            good(),
            bad(),
            "/readyz?verbose=1",
            500,
            "[+]vault ok\n[-]token failed: sealed \n[+]kubernetes ok\nreadyz check failed\n",
        ),
        (good(), good(), "/metrics", 404, "not found\n"),
    ] {
        let health = Health {
            vault,
            token,
            kubernetes: good(),
            told: Mutex::default(),
        };
        let response = health::answer(&path.parse().unwrap(), &health).await;
        assert_eq!(response.status(), status, "{path}");
        let text = http_body_util::BodyExt::collect(response.into_body())
            .await
            .unwrap()
            .to_bytes();
        assert_eq!(text, body, "{path}");
    }
}

#[tokio::test]
async fn a_look_at_readiness_is_told_with_its_first_reason() {
    let denied = || Err(Unhealthy::new("watching Secrets: denied"));
    let health = Health {
        vault: Ok(()),
        token: Err(Unhealthy::new("no role")),
        kubernetes: denied(),
        told: Mutex::default(),
    };
    for path in ["/livez", "/healthz", "/readyz"] {
        health::answer(&path.parse().unwrap(), &health).await;
    }
    let health = Health {
        token: Ok(()),
        ..health
    };
    health::answer(&"/readyz".parse().unwrap(), &health).await;
    let health = Health {
        kubernetes: Ok(()),
        ..health
    };
    health::answer(&"/readyz".parse().unwrap(), &health).await;
    assert_eq!(
        *health.told.lock().unwrap(),
        [
            Err(Unhealthy::new("token: no role")),
            Err(Unhealthy::new("kubernetes: watching Secrets: denied")),
            Ok(())
        ]
    );
}

/// A connection from another address of this machine, 127.0.0.x.
async fn connect_from(x: u8, at: std::net::SocketAddr) -> tokio::net::TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, x], 0).into()).unwrap();
    socket.connect(at).await.unwrap()
}

/// The first line of the answer to what such an address sends. Who says nothing hears surely why it is refused.
async fn hears(x: u8, at: std::net::SocketAddr, request: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = connect_from(x, at).await;
    let _ = stream.write_all(request.as_bytes()).await;
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text).await;
    let text = String::from_utf8_lossy(&text);
    text.lines().next().unwrap_or_default().to_owned()
}

/// Whether the server has closed a connection on which nothing was sent.
async fn is_closed(stream: &mut tokio::net::TcpStream) -> bool {
    use tokio::io::AsyncReadExt as _;
    matches!(stream.read(&mut [0]).await, Ok(0) | Err(_))
}

#[tokio::test]
async fn connections_are_bounded_for_each_peer_and_for_all() {
    const SCRAPE: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let (at, stop) = metrics_server(None).await;
    let mut idle = Vec::new();
    for _ in 0..server::MOST_OF_ONE_PEER {
        idle.push(connect_from(2, at).await);
    }
    assert_eq!(hears(2, at, SCRAPE).await, "HTTP/1.1 200 OK");
    assert!(is_closed(&mut idle[0]).await, "its own oldest ends for it");
    for x in 3..7 {
        for _ in 0..server::MOST_OF_ONE_PEER {
            idle.push(connect_from(x, at).await);
        }
    }
    assert_eq!(hears(7, at, SCRAPE).await, "HTTP/1.1 200 OK");
    for stream in &mut idle[1..16] {
        assert!(is_closed(stream).await, "the oldest of all end for it");
    }
    stop.cancel();
}

/// Strangers connect from six addresses, send half a request each, and do it again as soon as they can.
#[tokio::test]
async fn half_open_requests_of_strangers_keep_no_probe_out() {
    use tokio::io::AsyncWriteExt as _;
    const PROBE: &str = "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let listener = bind("--health-probe-bind-address", "127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let health = Health {
        vault: Ok(()),
        token: Ok(()),
        kubernetes: Ok(()),
        told: Mutex::default(),
    };
    let stop = CancellationToken::new();
    tokio::spawn(serve_health(listener, Arc::new(health), stop.clone()));
    let mut half_open = Vec::new();
    for round in 0..30 {
        for x in 2..8 {
            for _ in 0..(if round == 0 { 16 } else { 1 }) {
                let mut stream = connect_from(x, at).await;
                stream.write_all(b"GET /livez HTTP/1.1\r\nHost:").await.unwrap();
                half_open.push(stream);
            }
        }
        assert_eq!(hears(9, at, PROBE).await, "HTTP/1.1 200 OK", "probe {round}");
    }
    stop.cancel();
}

#[tokio::test]
async fn heads_are_bounded() {
    let (at, _) = metrics_server(None).await;
    let (status, _) = ask(at, &format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(20_000))).await;
    assert_eq!(status, 431);
}

#[tokio::test]
async fn an_address_in_use_names_its_flag() {
    let listener = bind("--metrics-bind-address", "127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().to_string();
    let error = bind("--health-probe-bind-address", &at)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with(&format!("--health-probe-bind-address: cannot listen at {at}: ")),
        "{error}"
    );
    let any = bind("--metrics-bind-address", ":0").await.unwrap();
    assert!(any.local_addr().unwrap().ip().is_unspecified());
}
