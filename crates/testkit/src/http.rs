//! A plain JSON client, for Kubernetes and Vault alike: tests see what is on the wire.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tokio::net::TcpSocket;

use super::runtime;

/// A server and the credentials for it.
#[derive(Clone)]
pub struct Http {
    base: String,
    client: reqwest::Client,
}

/// What a server answered.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub text: String,
}

impl Reply {
    /// The body as JSON; `Null` if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// The body of a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(self.status < 300, "status {}: {}", self.status, self.text);
        self.json()
    }
}

impl Http {
    /// `base` without a slash at the end; `headers` go with every request.
    pub fn new(base: String, headers: &[(&str, &str)], ca: Option<&str>) -> Self {
        let _in_runtime = runtime().enter();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(20))
            .redirect(reqwest::redirect::Policy::none())
            .default_headers(map);
        builder = match ca {
            Some(pem) => builder.tls_certs_only([reqwest::Certificate::from_pem(pem.as_bytes()).unwrap()]),
            None => builder.tls_certs_only([]),
        };
        Self {
            base,
            client: builder.build().unwrap(),
        }
    }

    /// Sends a request as it is; of its address, only path and query count.
    #[track_caller]
    pub fn relay(&self, request: &http::Request<Bytes>) -> Reply {
        runtime().block_on(async {
            let reply = self.forward(request).await;
            let status = reply.status().as_u16();
            let text = reply.text().await.unwrap();
            Reply { status, text }
        })
    }

    /// The same for a reply that does not end: its lines, up to the first one that is the last.
    #[track_caller]
    pub fn lines(&self, request: &http::Request<Bytes>, is_last: impl Fn(&str) -> bool) -> Vec<String> {
        runtime().block_on(async {
            let mut reply = self.forward(request).await;
            let (mut lines, mut rest) = (Vec::new(), Vec::new());
            while let Some(chunk) = reply.chunk().await.unwrap() {
                rest.extend_from_slice(&chunk);
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line = String::from_utf8(rest.drain(..=end).collect()).unwrap();
                    lines.push(line);
                    if is_last(&lines[lines.len() - 1]) {
                        return lines;
                    }
                }
            }
            lines
        })
    }

    async fn forward(&self, request: &http::Request<Bytes>) -> reqwest::Response {
        let address = format!("{}{}", self.base, request.uri());
        let forwarded = self
            .client
            .request(request.method().clone(), address)
            .headers(request.headers().clone())
            .body(request.body().clone());
        forwarded.send().await.unwrap()
    }

    /// The error says why there was no reply at all.
    pub fn try_send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Reply, String> {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let content_type = if method == reqwest::Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request
                .header("content-type", content_type)
                .body(body.to_string());
        }
        runtime().block_on(async {
            let reply = request.send().await.map_err(|e| format!("{e:?}"))?;
            let status = reply.status().as_u16();
            let text = reply.text().await.map_err(|e| format!("{e:?}"))?;
            Ok(Reply { status, text })
        })
    }

    #[track_caller]
    pub fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Reply {
        self.try_send(method, path, body)
            .unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, None)
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, Some(body))
    }

    #[track_caller]
    pub fn patch(&self, path: &str, body: &Value) -> Reply {
        self.send("PATCH", path, Some(body))
    }

    #[track_caller]
    pub fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, None)
    }
}

/// A plain connection to a server on this machine, from 127.0.0.x: servers tell peers apart by that.
pub fn connect_from(x: u8, to: SocketAddr) -> TcpStream {
    let stream = runtime().block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.bind(([127, 0, 0, x], 0).into())?;
        socket.connect(to).await?.into_std()
    });
    let stream = stream.unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}
