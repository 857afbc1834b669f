//! The two wires of one operator, to Kubernetes and to Vault, which understand HTTP: at a step of a
//! [`Plan`] they do what is planned instead of what they should.

mod plan;
mod watch;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::janitor::signal;
use super::runtime;
use super::testbed::Testbed;
pub use plan::{Deed, Fault, Plan, Planned, Server, Step};

/// How late a late request is: less than a client's timeout, after which nobody waits for it, and
/// enough for the operator to try again, or for another one to start.
const LATE: Duration = Duration::from_millis(800);

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The wires of one process, from its start to its end.
pub struct Wires {
    pub kube_port: u16,
    pub vault_port: u16,
    process: Arc<Process>,
    tasks: Vec<AbortHandle>,
}

/// Who is at the near end.
struct Process {
    plan: Arc<Plan>,
    id: AtomicU32,
    /// It is being killed: nothing more of it comes through.
    dead: AtomicBool,
}

impl Wires {
    pub fn new(bed: &Testbed, plan: &Arc<Plan>) -> Self {
        let process = Arc::new(Process {
            plan: Arc::clone(plan),
            id: AtomicU32::new(0),
            dead: AtomicBool::new(false),
        });
        let mut tasks = Vec::new();
        let mut open = |server, base: String| {
            let wire = Wire {
                server,
                base,
                client: client(&bed.ca),
                process: Arc::clone(&process),
            };
            let listener = runtime().block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
            let port = listener.local_addr().unwrap().port();
            let task = runtime().spawn(serve(listener, Arc::new(wire)));
            tasks.push(task.abort_handle());
            port
        };
        Self {
            kube_port: open(Server::Kubernetes, format!("https://127.0.0.1:{}", bed.kube_port)),
            vault_port: open(Server::Vault, format!("http://127.0.0.1:{}", bed.vault_port)),
            process,
            tasks,
        }
    }

    /// Tells whom a fault that kills is to kill.
    pub fn belong_to(&self, process: u32) {
        self.process.id.store(process, Ordering::SeqCst);
    }

    /// Whether the process has been killed by the plan.
    pub fn have_killed(&self) -> bool {
        self.process.dead.load(Ordering::SeqCst)
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Process {
    async fn kill(self: &Arc<Self>) {
        self.dead.store(true, Ordering::SeqCst);
        let process = Arc::clone(self);
        let kill = move || {
            // It may be at its very first request, and its number not known yet.
            while process.id.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            signal(process.id.load(Ordering::SeqCst), "KILL");
        };
        tokio::task::spawn_blocking(kill).await.expect("it can be killed");
    }
}

/// One wire.
struct Wire {
    server: Server,
    base: String,
    client: reqwest::Client,
    process: Arc<Process>,
}

fn client(ca: &str) -> reqwest::Client {
    let _in_runtime = runtime().enter();
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .tls_certs_only([reqwest::Certificate::from_pem(ca.as_bytes()).unwrap()])
        .build()
        .unwrap()
}

async fn serve(listener: TcpListener, wire: Arc<Wire>) {
    // Dropped, and all connections with it, when the wires are.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(converse(stream, Arc::clone(&wire)));
        while connections.try_join_next().is_some() {}
    }
}

async fn converse(stream: TcpStream, wire: Arc<Wire>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| Arc::clone(&wire).handle(request));
    // An error of the service ends the connection without an answer: that is what most faults are.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn broken(_: impl Sized) -> io::Error {
    io::Error::other("the connection breaks")
}

impl Wire {
    async fn handle(self: Arc<Self>, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(broken)?.to_bytes();
        if self.process.dead.load(Ordering::SeqCst) {
            return Err(broken(()));
        }
        let path = head
            .uri
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned();
        let step = Step::of_request(self.server, head.method.as_str(), &path);
        let watch = step.as_ref().is_some_and(|step| step.deed == Deed::Watch);
        let plan = Arc::clone(&self.process.plan);
        plan.pass(&format!("{} {path}", head.method)).await;
        let counts = step.is_some();
        let fault = step.and_then(|step| plan.step(step));
        let method = head.method.clone();
        let forward = Arc::clone(&self).forward(head, path, body, watch);
        let answer = match fault {
            None => forward.await,
            Some(Fault::KillBefore) => {
                self.process.kill().await;
                Err(broken(()))
            }
            Some(fault @ (Fault::Late | Fault::KillLate)) => {
                tokio::spawn(async move {
                    tokio::time::sleep(LATE).await;
                    let _ = forward.await;
                });
                if fault == Fault::KillLate {
                    self.process.kill().await;
                }
                Err(broken(()))
            }
            Some(fault @ (Fault::KillAfter | Fault::LoseResponse)) => {
                // However long the operator waits: the server does it.
                let done = tokio::spawn(forward).await;
                if fault == Fault::KillAfter {
                    self.process.kill().await;
                }
                done.map_err(broken)?.and_then(|_| Err(broken(())))
            }
            Some(Fault::Reset) => Err(broken(())),
            Some(fault) => Ok(refusal(self.server, method.as_str(), fault)),
        };
        if counts {
            plan.end_of_step();
        }
        answer
    }

    async fn forward(
        self: Arc<Self>,
        head: http::request::Parts,
        path: String,
        body: Bytes,
        watch: bool,
    ) -> io::Result<Response<Body>> {
        let mut headers = head.headers;
        // What concerns one connection only. Replies come as they are, so that events can be told apart.
        for name in [
            "host",
            "connection",
            "content-length",
            "transfer-encoding",
            "accept-encoding",
        ] {
            headers.remove(name);
        }
        let request = self.client.request(head.method, format!("{}{path}", self.base));
        let reply = request.headers(headers).body(body).send().await.map_err(broken)?;
        let mut answer = Response::builder().status(reply.status());
        for name in ["content-type", "retry-after"] {
            if let Some(value) = reply.headers().get(name) {
                answer = answer.header(name, value);
            }
        }
        let body = if watch && reply.status().is_success() {
            watch::passed_on(reply, path, Arc::clone(&self.process))
        } else {
            whole(reply.bytes().await.map_err(broken)?)
        };
        answer.body(body).map_err(broken)
    }
}

fn whole(body: Bytes) -> Body {
    Full::new(body)
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// The answer that a server gives when it cannot, or will not. Vault's word for a conflict is 400.
fn refusal(server: Server, method: &str, fault: Fault) -> Response<Body> {
    let (status, reason, message) = match fault {
        Fault::Throttle => (
            429,
            "TooManyRequests",
            "the server has received too many requests",
        ),
        Fault::Expire => (410, "Expired", "too old resource version: 1 (2)"),
        Fault::Conflict if server == Server::Vault => (
            400,
            "",
            "check-and-set parameter did not match the current version",
        ),
        Fault::Conflict if method == "POST" => (409, "AlreadyExists", "object already exists"),
        Fault::Conflict => (
            409,
            "Conflict",
            "the object has been modified; please apply your changes to the latest version and try again",
        ),
        _ => (500, "InternalError", "internal error"),
    };
    let body = match server {
        Server::Kubernetes => status_object(status, reason, message),
        Server::Vault => json!({"errors": [message]}),
    };
    let mut answer = Response::builder()
        .status(status)
        .header("content-type", "application/json");
    if fault == Fault::Throttle {
        answer = answer.header("retry-after", "1");
    }
    answer
        .body(whole(body.to_string().into()))
        .expect("it is well-formed")
}

fn status_object(code: u16, reason: &str, message: &str) -> serde_json::Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}
