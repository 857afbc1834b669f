//! The ground that the tests stand on: real processes, thrown away afterwards.
//!
//! [`Testbed`] is a Kubernetes control plane and a Vault; one is shared by all tests of a run.
//! [`Scene`] is one test's own corner of it: namespaces, rights, a Vault role, and the wires to both,
//! which can be cut. [`Operator`] is the program under test, running in a scene; [`Wires`] are for it instead of the
//! scene's where a single request is to go wrong.
#![allow(
    clippy::missing_panics_doc,
    clippy::needless_pass_by_value,
    clippy::new_without_default,
    clippy::print_stderr,
    clippy::return_self_not_must_use,
    clippy::unwrap_used,
    missing_docs,
    reason = "the rules for tests: what is not as it should be panics"
)]

mod answer;
mod certs;
mod chart;
mod cluster;
mod cpu;
mod doc;
mod forward_proxy;
mod front;
mod gate;
mod http;
mod janitor;
mod operator;
mod port;
mod proxy;
mod scene;
mod testbed;

pub use answer::Answer;
pub use certs::Authority;
pub use chart::Chart;
pub use cluster::Cluster;
pub use cpu::{Used, cpu_time};
pub use doc::Doc;
pub use forward_proxy::ForwardProxy;
pub use front::Front;
pub use gate::Gate;
pub use http::{Http, connect_from};
pub use operator::{Operator, program, run_to_end};
pub use proxy::{Fault, Plan, Planned, Step, Wires};
pub use scene::{Scene, env_from, ours};
pub use testbed::Testbed;

use std::fmt::Display;
use std::net::TcpListener;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// The project's folder.
fn project() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// How long anything may take that has to happen. Generous, and longer than the shortest period of
/// re-checking: only a failure lasts this long.
const PATIENCE: Duration = Duration::from_secs(45);
const STEP: Duration = Duration::from_millis(10);

/// Waits until `probe` succeeds. Its error says what was seen instead; the last one is shown when
/// patience ends. The one place where tests wait.
#[track_caller]
pub fn eventually<T>(what: impl Display, probe: impl FnMut() -> Result<T, String>) -> T {
    within(PATIENCE, what, probe)
}

/// The same, for what takes longer.
#[track_caller]
pub fn within<T>(patience: Duration, what: impl Display, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let started = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(seen) if started.elapsed() > patience => {
                panic!("waited {patience:?} in vain for: {what}\nlast seen: {seen}")
            }
            Err(_) => std::thread::sleep(STEP),
        }
    }
}

/// Turns a condition into what [`eventually`] wants.
pub fn check(holds: bool, seen: impl Display) -> Result<(), String> {
    if holds { Ok(()) } else { Err(seen.to_string()) }
}

/// The number that an environment variable gives; `None`: it is not set.
pub fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text}: not a number")),
    )
}

/// To the terminal, also when the test passes: nobody would hear of it otherwise.
pub fn say(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Tests are plain functions; what the harness itself does with sockets runs here.
fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
        rustls::crypto::ring::default_provider()
            .install_default()
            .unwrap();
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
    });
    &RUNTIME
}

/// A port on 127.0.0.1 that nothing listens on, below those that the kernel hands out by itself.
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes side by side begin at different places.
    let start = u16::try_from(std::process::id() * 101 % u32::from(COUNT)).unwrap();
    for _ in 0..COUNT {
        let port = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port on 127.0.0.1");
}
