//! The program under test, as a child process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, LazyLock, Mutex};

use serde_json::json;

use super::gate::Gate;
use super::http::{Http, Reply};
use super::janitor::signal;
use super::proxy::Wires;
use super::scene::Scene;
use super::{check, eventually, free_port};

/// The program under test: Cargo builds it for every test and benchmark, two folders above theirs.
pub fn program() -> &'static str {
    static PROGRAM: LazyLock<String> = LazyLock::new(|| {
        let own = std::env::current_exe().unwrap();
        let folder = own.parent().and_then(Path::parent).expect("it lies in deps/");
        folder.join("vault-sync-operator").to_str().unwrap().to_owned()
    });
    &PROGRAM
}

/// How to start the operator: what every scene needs, changed by what a test is about.
pub struct Run<'a> {
    scene: &'a Scene,
    flags: BTreeMap<String, String>,
    env: BTreeMap<String, String>,
    single_dash: bool,
}

impl<'a> Run<'a> {
    pub(super) fn new(scene: &'a Scene) -> Self {
        let mut run = Self {
            scene,
            flags: BTreeMap::new(),
            env: BTreeMap::new(),
            single_dash: false,
        };
        let kubeconfig = run.kubeconfig(scene.kube_wire.port);
        for (name, value) in [
            ("vault-addr", format!("http://127.0.0.1:{}", scene.vault.port)),
            ("vault-role", scene.ns.clone()),
            ("vault-token-file", scene.dir.join("token").display().to_string()),
            ("kubeconfig", kubeconfig),
            ("watch-namespaces", scene.ns.clone()),
            ("metrics-bind-address", format!("127.0.0.1:{}", free_port())),
            ("health-probe-bind-address", format!("127.0.0.1:{}", free_port())),
            ("leader-elect", "false".to_owned()),
        ] {
            run.flags.insert(name.to_owned(), value);
        }
        run.env("POD_NAMESPACE", &scene.home)
            .env("POD_NAME", "operator-0")
    }

    /// Adds a flag, or changes one.
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.insert(name.to_owned(), value.to_owned());
        self
    }

    pub fn without_flag(mut self, name: &str) -> Self {
        self.flags.remove(name);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// On wires of its own, so that of two operators one can be cut off.
    pub fn via(self, kube: &Gate, vault: &Gate) -> Self {
        let kubeconfig = self.kubeconfig(kube.port);
        let vault = format!("http://127.0.0.1:{}", vault.port);
        self.flag("kubeconfig", &kubeconfig).flag("vault-addr", &vault)
    }

    /// On a wire to Kubernetes that can be read: it speaks HTTP to the [`Gate`], which leads to
    /// [`Wires`].
    pub fn over_http(self, kube: &Gate) -> Self {
        let kubeconfig = self.kubeconfig(kube.port);
        let config = fs::read_to_string(&kubeconfig).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
        config["clusters"][0]["cluster"] = json!({"server": format!("http://127.0.0.1:{}", kube.port)});
        fs::write(&kubeconfig, config.to_string()).unwrap();
        self.flag("kubeconfig", &kubeconfig)
    }

    /// On wires that understand HTTP.
    pub fn through(self, wires: &Wires) -> Self {
        let file = self.kubeconfig(wires.kube_port);
        let config = fs::read_to_string(&file).unwrap();
        // These wires have no TLS.
        fs::write(&file, config.replace("https://", "http://")).unwrap();
        let vault = format!("http://127.0.0.1:{}", wires.vault_port);
        self.flag("kubeconfig", &file).flag("vault-addr", &vault)
    }

    /// Trusting any certificate of Kubernetes': to a clock that is slow, the testbed's is of the future.
    pub fn trusting(self) -> Self {
        let file = self.flags["kubeconfig"].clone();
        let config = fs::read_to_string(&file).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
        let server = config["clusters"][0]["cluster"]["server"].clone();
        config["clusters"][0]["cluster"] = json!({"server": server, "insecure-skip-tls-verify": true});
        fs::write(&file, config.to_string()).unwrap();
        self
    }

    /// One of several that elect a leader.
    pub fn candidate(self, name: &str) -> Self {
        self.flag("leader-elect", "true").env("POD_NAME", name)
    }

    /// Writes flags as Go's do: one dash.
    pub fn single_dash(mut self) -> Self {
        self.single_dash = true;
        self
    }

    /// Runs another command of the program, with these flags, to its end: exit code, and what it printed.
    pub fn ended(self, words: &[&str]) -> (i32, String) {
        let flags = self.flags.iter().map(|(name, value)| format!("--{name}={value}"));
        let args: Vec<String> = words.iter().map(|word| (*word).to_owned()).chain(flags).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let env: Vec<(&str, &str)> = self.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        run_to_end(&args, &env)
    }

    pub fn start(self) -> Operator<'a> {
        let dash = if self.single_dash { "-" } else { "--" };
        let mut command = Command::new(program());
        command.env_clear().env("HOME", &self.scene.dir).envs(&self.env);
        command.args(
            self.flags
                .iter()
                .map(|(name, value)| format!("{dash}{name}={value}")),
        );
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self
            .scene
            .bed
            .janitor
            .spawn(&mut command)
            .expect("the operator starts");
        let lines = Arc::new(Mutex::new(Vec::new()));
        for stream in [
            Box::new(child.stdout.take().unwrap()) as Box<dyn std::io::Read + Send>,
            Box::new(child.stderr.take().unwrap()),
        ] {
            let lines = Arc::clone(&lines);
            std::thread::spawn(move || {
                for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                    lines
                        .lock()
                        .unwrap()
                        .push(String::from_utf8_lossy(&line).into_owned());
                }
            });
        }
        let server = |flag: &str, headers: &[(&str, &str)]| {
            Http::new(format!("http://{}", self.flags[flag]), headers, None)
        };
        let bearer = format!("Bearer {}", self.scene.bed.admin_token);
        Operator {
            health: server("health-probe-bind-address", &[]),
            metrics: server("metrics-bind-address", &[("authorization", &bearer)]),
            health_address: self.flags["health-probe-bind-address"].clone(),
            metrics_address: self.flags["metrics-bind-address"].clone(),
            child,
            lines,
            scene: self.scene,
        }
    }

    fn kubeconfig(&self, port: u16) -> String {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {
                "server": format!("https://127.0.0.1:{port}"),
                "certificate-authority": self.scene.bed.dir.join("tls.crt"),
            }}],
            "users": [{"name": "it", "user": {"tokenFile": self.scene.dir.join("token")}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": self.scene.home}}],
        });
        let file = if port == self.scene.kube_wire.port {
            "kubeconfig".to_owned()
        } else {
            format!("kubeconfig-{port}")
        };
        let file = self.scene.dir.join(file);
        fs::write(&file, config.to_string()).unwrap();
        file.display().to_string()
    }
}

/// Runs the program to its end: exit code (124: it did not end) and everything it printed.
pub fn run_to_end(args: &[&str], env: &[(&str, &str)]) -> (i32, String) {
    let output = Command::new("timeout")
        .args(["--signal=KILL", "20", program()])
        .env_clear()
        .envs(env.iter().copied())
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), text.into_owned())
}

pub struct Operator<'a> {
    /// Its health endpoints.
    pub health: Http,
    metrics: Http,
    /// Host and port of its metrics.
    pub health_address: String,
    pub metrics_address: String,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    scene: &'a Scene,
}

impl Operator<'_> {
    /// Waits until it says so itself.
    pub fn ready(&self) -> &Self {
        self.probe("/readyz", 200);
        self
    }

    /// Waits until an endpoint answers with a status.
    pub fn probe(&self, path: &str, status: u16) -> Reply {
        eventually(format!("{path} is {status}"), || {
            let reply = self.health.try_send("GET", path, None)?;
            if reply.status == status {
                Ok(reply)
            } else {
                Err(format!("{reply:?}"))
            }
        })
    }

    /// Everything that it has printed.
    pub fn log(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// Waits for a line with all of these words.
    pub fn says(&self, words: &[&str]) -> String {
        eventually(format!("a log line with {words:?}"), || {
            let lines = self.lines.lock().unwrap();
            let found = lines
                .iter()
                .find(|line| words.iter().all(|word| line.contains(word)));
            found
                .cloned()
                .ok_or_else(|| format!("{} other lines", lines.len()))
        })
    }

    pub fn metrics(&self) -> Metrics {
        let text = eventually("metrics", || {
            let reply = self.metrics.try_send("GET", "/metrics", None)?;
            check(reply.status == 200, format!("{reply:?}")).map(|()| reply.text)
        });
        Metrics(text)
    }

    /// Waits until a metric has at least a value.
    pub fn counts(&self, name: &str, labels: &[(&str, &str)], least: f64) {
        eventually(format!("{name}{labels:?} is {least}"), || {
            let metrics = self.metrics();
            let seen = metrics.value(name, labels);
            check(
                seen.is_some_and(|value| value >= least),
                format!("{seen:?} in\n{}", metrics.only(name)),
            )
        });
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How many files and sockets it has open.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .count()
    }

    /// The most memory of its own that it has had so far, in bytes: without the pages of the program's file,
    /// of which a debug build has many.
    pub fn peak_memory(&self) -> u64 {
        self.memory("VmHWM:") - self.memory("RssFile:")
    }

    /// The memory of its own that it has now, in bytes.
    pub fn anonymous_memory(&self) -> u64 {
        self.memory("RssAnon:")
    }

    /// All the memory that it has now, in bytes: the pages of the program's file too.
    pub fn resident_memory(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// <https://www.kernel.org/doc/html/latest/filesystems/proc.html>, `status`.
    fn memory(&self, what: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
        let kib = line.split_whitespace().next().unwrap();
        1024 * kib.parse::<u64>().unwrap()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        signal(self.child.id(), "TERM");
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(mut self) -> ExitStatus {
        self.terminate();
        eventually("the operator ends after SIGTERM", || {
            self.child.try_wait().unwrap().ok_or_else(|| "it runs".to_owned())
        })
    }

    /// Waits until it ends by itself.
    pub fn ends(&mut self) -> ExitStatus {
        eventually("the operator ends by itself", || {
            self.child.try_wait().unwrap().ok_or_else(|| "it runs".to_owned())
        })
    }

    /// Stops it where it stands, as a machine that is suspended does.
    pub fn suspend(&self) {
        signal(self.child.id(), "STOP");
    }

    /// It goes on, and knows nothing of the time between.
    pub fn resume(&self) {
        signal(self.child.id(), "CONT");
    }

    /// The end without a warning: what a crash is.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Operator<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.scene.bed.janitor.forget(self.child.id());
        if std::thread::panicking() {
            let lines = self.lines.lock().unwrap();
            eprintln!("---- the operator's last lines ({}) ----", self.scene.ns);
            for line in lines.iter().skip(lines.len().saturating_sub(60)) {
                eprintln!("{line}");
            }
        }
    }
}

/// A scrape.
pub struct Metrics(pub String);

impl Metrics {
    /// The sum of the samples of this name that carry these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: Vec<(String, String)> = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let found: Vec<f64> = self
            .samples()
            .filter(|(sample, has, _)| sample == name && wanted.iter().all(|label| has.contains(label)))
            .map(|(_, _, value)| value)
            .collect();
        if found.is_empty() {
            None
        } else {
            Some(found.iter().sum())
        }
    }

    /// The label names of a metric's samples.
    pub fn labels(&self, name: &str) -> BTreeSet<String> {
        self.samples()
            .filter(|(sample, ..)| sample == name)
            .flat_map(|(_, labels, _)| labels)
            .map(|(k, _)| k)
            .collect()
    }

    /// The values that a label has among a metric's samples.
    pub fn label_values(&self, name: &str, label: &str) -> BTreeSet<String> {
        self.samples()
            .filter(|(sample, ..)| sample == name)
            .flat_map(|(_, labels, _)| labels)
            .filter(|(k, _)| k == label)
            .map(|(_, v)| v)
            .collect()
    }

    /// The lines about one metric.
    pub fn only(&self, name: &str) -> String {
        self.0
            .lines()
            .filter(|line| line.starts_with(name))
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn samples(&self) -> impl Iterator<Item = (String, Vec<(String, String)>, f64)> {
        self.0
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let (series, value) = line.rsplit_once(' ')?;
                let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
                let labels = labels.strip_suffix('}')?.split("\",").filter_map(|label| {
                    let (key, value) = label.split_once("=\"")?;
                    Some((key.to_owned(), value.trim_end_matches('"').to_owned()))
                });
                Some((name.to_owned(), labels.collect(), value.parse().ok()?))
            })
    }
}
