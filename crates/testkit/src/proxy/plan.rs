//! Which step of a run gets which fault. All wires of a run share one counter.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;

/// What can go wrong with one step.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fault {
    /// The process is killed; the server never gets the request.
    KillBefore,
    /// The process is killed when the server has answered; it never hears the answer.
    KillAfter,
    /// The server does what it is asked; the connection breaks in place of the answer.
    LoseResponse,
    /// The connection breaks; the server never gets the request.
    Reset,
    /// The connection breaks, and the server gets the request a while later.
    Late,
    /// The process is killed, and the server gets the request when another one is at work.
    KillLate,
    /// 500 in the server's place.
    Fail,
    /// In the server's place, what it says when somebody else was faster.
    Conflict,
    /// 429 in the server's place, with a time to wait.
    Throttle,
    /// The watch's event, and all behind it, come late.
    Delay,
    /// The watch breaks, and the event is not seen before another one is opened. (One that is left
    /// out of a watch that goes on is nothing that an API server ever does.)
    Drop,
    /// The watch sends its last events once more.
    Replay,
    /// The watch is too old to go on, or to begin: 410.
    Expire,
}

impl Fault {
    pub const ALL: [Self; 13] = [
        Self::KillBefore,
        Self::KillAfter,
        Self::LoseResponse,
        Self::Reset,
        Self::Late,
        Self::KillLate,
        Self::Fail,
        Self::Conflict,
        Self::Throttle,
        Self::Delay,
        Self::Drop,
        Self::Replay,
        Self::Expire,
    ];

    /// As people name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::KillBefore => "kill-before",
            Self::KillAfter => "kill-after",
            Self::LoseResponse => "lose-response",
            Self::Reset => "reset",
            Self::Late => "late",
            Self::KillLate => "kill-late",
            Self::Fail => "500",
            Self::Conflict => "409",
            Self::Throttle => "429",
            Self::Delay => "delay",
            Self::Drop => "drop",
            Self::Replay => "replay",
            Self::Expire => "410",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }

    /// Whether such a thing can happen to such a step.
    pub fn fits(self, step: &Step) -> bool {
        match self {
            Self::KillBefore
            | Self::KillAfter
            | Self::LoseResponse
            | Self::Reset
            | Self::Fail
            | Self::Throttle => step.deed != Deed::Event,
            Self::Late | Self::KillLate => matches!(step.deed, Deed::Write | Deed::GuardedWrite),
            Self::Conflict => step.deed == Deed::GuardedWrite,
            Self::Delay | Self::Drop | Self::Replay => step.deed == Deed::Event,
            Self::Expire => matches!(step.deed, Deed::Event | Deed::Watch),
        }
    }

    /// Whether another fault does to this step what nobody can tell from this one: a read changes
    /// nothing, so that it does not matter whether the server got it.
    pub fn has_a_twin(self, step: &Step) -> bool {
        matches!(step.deed, Deed::Read | Deed::Watch) && matches!(self, Self::KillAfter | Self::LoseResponse)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Server {
    Kubernetes,
    Vault,
}

/// What a step does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    Read,
    Write,
    /// One that the server refuses when somebody else was faster.
    GuardedWrite,
    /// The opening of a watch.
    Watch,
    /// What comes through one.
    Event,
}

/// One request of the operator's work, or one event that reaches it.
#[derive(Clone, Debug)]
pub struct Step {
    pub deed: Deed,
    /// Method and path.
    pub line: String,
    /// How it is called, in every run: the same without the scene's names, such as
    /// `patch.deployments.app`; the second time `patch.deployments.app~2`.
    pub name: String,
}

impl Step {
    /// `None`: the request is no part of the work. Nobody's documents depend on it, and when it is
    /// made depends on the clock.
    pub fn of_request(server: Server, method: &str, path: &str) -> Option<Self> {
        let apart: &[&str] = match server {
            Server::Kubernetes => &["/leases", "/events", "/tokenreviews", "/subjectaccessreviews"],
            Server::Vault => &["/v1/auth/", "/v1/sys/health"],
        };
        if apart.iter().any(|part| path.contains(part)) {
            return None;
        }
        let deed = match (server, method) {
            (Server::Kubernetes, "GET") if path.contains("watch=") => Deed::Watch,
            (_, "GET") => Deed::Read,
            (Server::Kubernetes, _) => Deed::GuardedWrite,
            (Server::Vault, "POST" | "PUT") if path.contains("/data/") => Deed::GuardedWrite,
            (Server::Vault, _) => Deed::Write,
        };
        // What a watch asks for is long, and says nothing.
        let path = path.split('?').next().unwrap_or(path);
        let line = match deed {
            Deed::Watch => format!("WATCH {path}"),
            _ => format!("{method} {path}"),
        };
        Some(Self::new(deed, line))
    }

    fn new(deed: Deed, line: String) -> Self {
        Self {
            deed,
            line,
            name: String::new(),
        }
    }

    /// Names it, given the name of the scene and what was before.
    fn numbered(self, scene: &str, earlier: &[Self]) -> Self {
        const EVERYWHERE: [&str; 6] = ["", "api", "apis", "apps", "v1", "namespaces"];
        let home = format!("{scene}-operator");
        let words = self.line.split([' ', '/']);
        let telling = words.filter(|word| !EVERYWHERE.contains(word) && *word != scene && *word != home);
        let mut name = telling.collect::<Vec<_>>().join(".").to_lowercase();
        let times = 1 + earlier.iter().filter(|step| step.line == self.line).count();
        if times > 1 {
            let _ = write!(name, "~{times}");
        }
        Self { name, ..self }
    }

    /// `None`: it tells nothing but how far the watch has come.
    pub fn of_event(event: &Value, watched: &str) -> Option<Self> {
        let (kind, metadata) = (&event["type"], &event["object"]["metadata"]);
        let kind = match kind.as_str() {
            Some("BOOKMARK") if metadata["annotations"]["k8s.io/initial-events-end"] == "true" => "LISTED",
            Some("BOOKMARK") | None => return None,
            Some(kind) => kind,
        };
        let (what, name) = (
            watched.rsplit('/').next()?,
            metadata["name"].as_str().unwrap_or_default(),
        );
        Some(Self::new(Deed::Event, format!("event {kind} {what} {name}")))
    }
}

/// The step that a fault has struck.
#[derive(Clone, Debug)]
pub struct Struck {
    pub line: String,
    pub at: Instant,
}

/// What a run is to meet: a fault, and the name of the step that gets it. The order of steps is not
/// quite the same in every run; a name is the same request.
pub type Planned = (String, Fault);

/// The counter, and the one fault of a run.
pub struct Plan {
    scene: String,
    fault: Option<Planned>,
    inner: Mutex<Inner>,
    /// Requests whose first line contains these words wait.
    gate: watch::Sender<Option<String>>,
    waiting: AtomicUsize,
}

struct Inner {
    counting: bool,
    steps: Vec<Step>,
    struck: Option<Struck>,
    last: Instant,
}

impl Plan {
    /// Counts nothing yet.
    pub fn new(scene: &str, fault: Option<Planned>) -> Self {
        let inner = Inner {
            counting: false,
            steps: Vec::new(),
            struck: None,
            last: Instant::now(),
        };
        Self {
            scene: scene.to_owned(),
            fault,
            inner: Mutex::new(inner),
            gate: watch::Sender::new(None),
            waiting: AtomicUsize::new(0),
        }
    }

    /// From now on, requests wait whose method and path contain these words.
    pub fn hold(&self, words: &str) {
        self.gate.send_replace(Some(words.to_owned()));
    }

    /// Lets all requests through that wait.
    pub fn let_go(&self) {
        self.gate.send_replace(None);
    }

    /// How many requests wait now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Returns when the request may go on.
    pub(super) async fn pass(&self, line: &str) {
        let may_pass = |words: &Option<String>| words.as_ref().is_none_or(|words| !line.contains(words));
        let mut gate = self.gate.subscribe();
        if may_pass(&gate.borrow_and_update()) {
            return;
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        // The gate cannot be closed: the plan owns its sender.
        let _ = gate.wait_for(may_pass).await;
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// From here on steps count.
    pub fn begin(&self) {
        self.inner().counting = true;
    }

    pub fn steps(&self) -> Vec<Step> {
        self.inner().steps.clone()
    }

    pub fn struck(&self) -> Option<Struck> {
        self.inner().struck.clone()
    }

    /// For how long there has been no step.
    pub fn quiet(&self) -> Duration {
        self.inner().last.elapsed()
    }

    /// The fault that this step gets.
    pub(super) fn step(&self, step: Step) -> Option<Fault> {
        let mut inner = self.inner();
        inner.last = Instant::now();
        if !inner.counting {
            return None;
        }
        let step = step.numbered(&self.scene, &inner.steps);
        let (name, line) = (step.name.clone(), step.line.clone());
        inner.steps.push(step);
        let (_, fault) = self.fault.as_ref().filter(|(planned, _)| *planned == name)?;
        inner.struck = Some(Struck {
            line,
            at: Instant::now(),
        });
        Some(*fault)
    }

    /// A step that takes its time has come to its end.
    pub(super) fn end_of_step(&self) {
        self.inner().last = Instant::now();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }
}
