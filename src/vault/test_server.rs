//! For tests: a server in this process that answers by a function of the request. What the real
//! Vault answers is in the tests of `error` and `kv`, copied from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::Observer;
use super::error::{Call, Operation};

/// A request as it arrived.
pub(super) struct Asked {
    pub(super) line: String,
    pub(super) token: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) body: String,
}

/// Status, headers and body; `None` hangs up.
pub(super) type Told = Option<(u16, Vec<(&'static str, String)>, String)>;

#[expect(clippy::unnecessary_wraps, reason = "it is one of the answers")]
pub(super) fn told(status: u16, body: &str) -> Told {
    Some((status, vec![], body.to_owned()))
}

/// A server that answers by a function of the request; its address.
pub(super) async fn server(tell: impl Fn(&Asked) -> Told + Send + Sync + 'static) -> String {
    slow_server(tell, |_| std::future::ready(())).await
}

/// A server that waits for a future before it answers; its address.
pub(super) async fn slow_server<F: Future<Output = ()> + Send>(
    tell: impl Fn(&Asked) -> Told + Send + Sync + 'static,
    wait: impl Fn(&Asked) -> F + Send + Sync + 'static,
) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let tell = Arc::new((tell, wait));
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
                    let (tell, wait) = &*tell;
                    let answer = tell(&asked);
                    wait(&asked).await;
                    let (status, headers, body) = answer.ok_or(std::io::Error::other("hang up"))?;
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

/// Counts the logins.
#[derive(Default)]
pub(super) struct Count(pub(super) AtomicUsize);

impl Observer for Count {
    fn auth_attempt(&self, _: bool) {
        self.0.fetch_add(1, SeqCst);
    }
    fn up(&self, _: bool) {}
}

/// A read, as errors name it.
pub(super) fn read() -> Call {
    Call::new(Operation::Read, "secret/app")
}
