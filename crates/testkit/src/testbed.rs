//! A Kubernetes control plane and a Vault, as real as they come, on 127.0.0.1.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use serde_json::{Value, json};

use super::certs::Authority;
use super::chart::Chart;
use super::http::Http;
use super::janitor::{Janitor, signal};
use super::{check, eventually, free_port};

/// May do everything in Kubernetes.
const ADMIN_TOKEN: &str = "testbed-admin";

pub struct Testbed {
    /// Kubernetes, as its administrator.
    pub kube: Http,
    /// Vault, with the root token.
    pub vault: Http,
    /// The certificate of the API server, which is its own CA.
    pub ca: String,
    pub kube_port: u16,
    pub vault_port: u16,
    /// The same Vault over TLS; its certificate is [`Testbed::ca`].
    pub vault_tls_port: u16,
    /// The same again, for clients with a certificate of [`Testbed::clients`] alone.
    pub vault_mutual_port: u16,
    pub clients: Authority,
    pub dir: PathBuf,
    pub janitor: Janitor,
    pub admin_token: &'static str,
    /// May do everything in Vault.
    pub root_token: String,
    unseal_key: String,
    cluster_id: OnceLock<Value>,
    /// Where the programs of Kubernetes and Vault are.
    pub bin: PathBuf,
    /// Where etcd serves its clients.
    pub etcd_url: String,
    /// The programs that can be stopped and started again.
    pub kube_server: Program,
    pub etcd: Program,
    /// Vault's process, unless it is another testbed's.
    pub vault_process: Option<u32>,
}

/// A program of a testbed, and how it was started.
pub struct Program {
    name: &'static str,
    args: Vec<String>,
    child: Mutex<Child>,
}

impl Program {
    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.lock().unwrap().id()
    }
}

impl Testbed {
    /// The one that all tests of this process share. Nothing in it may be stopped or sealed.
    pub fn shared() -> Arc<Self> {
        static SHARED: OnceLock<Option<Arc<Testbed>>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| {
            std::panic::catch_unwind(|| Self::start(Storage::Memory))
                .ok()
                .map(Arc::new)
        });
        Arc::clone(
            shared
                .as_ref()
                .expect("the testbed comes up (the first test to fail says why it did not)"),
        )
    }

    /// One for a test that does things to Vault which others would feel.
    pub fn private() -> Arc<Self> {
        Arc::new(Self::start(Storage::Memory))
    }

    /// One whose Vault keeps its data in integrated storage, with that one's limits.
    pub fn with_integrated_storage() -> Arc<Self> {
        Arc::new(Self::start(Storage::Raft))
    }

    /// A second control plane beside the shared one, with the same Vault, for all tests of this process.
    pub fn another_cluster() -> Arc<Self> {
        static OTHER: OnceLock<Arc<Testbed>> = OnceLock::new();
        Arc::clone(OTHER.get_or_init(|| Self::sharing_vault_of(Self::shared())))
    }

    /// A control plane of its own, whose Vault is another testbed's. Vault does not know it yet.
    pub fn sharing_vault_of(other: Arc<Self>) -> Arc<Self> {
        Arc::new(Self::start(Storage::Of(other)))
    }

    fn start(storage: Storage) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let bin = binaries();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("vault-sync-it-{}-{number}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .expect("a folder of our own");
        let starting = Starting {
            janitor: Janitor::start(&dir),
            bin,
            dir,
            storage,
        };
        starting.run()
    }

    /// Ends a program by a signal, and waits until it has ended. An API server that is asked to end waits
    /// for its clients, up to a minute; once it says that it is not ready, it is asked again.
    pub fn stop(&self, program: &Program, sign: &str) {
        let mut child = program.child.lock().unwrap();
        signal(child.id(), sign);
        if sign == "TERM" && program.name == "kube-apiserver" {
            eventually("the API server is about to end", || {
                let reply = self.kube.try_send("GET", "/readyz", None);
                let ready = reply.is_ok_and(|reply| reply.status == 200);
                check(!ready, "it is ready")
            });
            signal(child.id(), sign);
        }
        eventually(format!("{} ends", program.name), || {
            let ended = child.try_wait().unwrap().is_some();
            check(ended, "it runs")
        });
        self.janitor.forget(child.id());
    }

    /// Starts it again as it was, and waits until Kubernetes answers.
    pub fn start_again(&self, program: &Program) {
        let mut child = program.child.lock().unwrap();
        *child = self_spawn(&self.janitor, &self.bin, &self.dir, program.name, &program.args);
        for path in ["/readyz", "/api/v1/namespaces/kube-system"] {
            await_reply(&self.dir, &mut child, &self.kube, path);
        }
    }

    pub fn seal(&self) {
        self.vault.send("PUT", "/v1/sys/seal", None).ok();
    }

    pub fn unseal(&self) {
        self.vault
            .send("PUT", "/v1/sys/unseal", Some(&json!({"key": self.unseal_key})))
            .ok();
        eventually("Vault is active", || {
            let reply = self.vault.get("/v1/sys/health");
            check(reply.status == 200, reply.text)
        });
    }

    /// What Kubernetes' audit log tells about a user: verb, resource and name, in order.
    pub fn audit(&self, user: &str) -> Vec<Audited> {
        let log = fs::read_to_string(self.dir.join("audit.log")).unwrap();
        log.lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|event| event["user"]["username"] == user)
            .map(|event| {
                let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                Audited {
                    verb: word(&event["verb"]),
                    resource: word(&event["objectRef"]["resource"]),
                    name: word(&event["objectRef"]["name"]),
                }
            })
            .collect()
    }
}

/// One request to the API server.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Audited {
    pub verb: String,
    pub resource: String,
    pub name: String,
}

/// Where the programs are: `TESTBED_BIN`, or what `hack/testbed/build` says.
fn binaries() -> PathBuf {
    if let Some(dir) = std::env::var_os("TESTBED_BIN") {
        return dir.into();
    }
    let build = super::project().join("hack/testbed/build");
    let output = Command::new(&build)
        .stderr(Stdio::inherit())
        .output()
        .expect("hack/testbed/build runs");
    assert!(output.status.success(), "{} failed", build.display());
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .last()
        .expect("it prints a folder")
        .into()
}

/// Where Vault keeps its data.
enum Storage {
    Memory,
    Raft,
    /// In the Vault of another testbed.
    Of(Arc<Testbed>),
}

/// A Vault that runs.
struct Running {
    ports: [u16; 3],
    root_token: String,
    unseal_key: String,
}

/// A testbed half way up.
struct Starting {
    dir: PathBuf,
    bin: PathBuf,
    janitor: Janitor,
    storage: Storage,
}

impl Starting {
    fn run(self) -> Testbed {
        let [etcd_port, peer_port, kube_port] = std::array::from_fn(|_| free_port());
        let ca = self.certificate();
        let clients = Authority::new(self.dir.join("clients"));
        let etcd = format!("http://127.0.0.1:{etcd_port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let mut etcd_program = self.program(
            "etcd",
            vec![
                "--name=testbed".into(),
                format!("--data-dir={}", self.path("etcd")),
                "--unsafe-no-fsync".into(),
                "--log-level=warn".into(),
                format!("--listen-client-urls={etcd}"),
                format!("--advertise-client-urls={etcd}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster=testbed={peer}"),
            ],
        );
        let spawned = self.spawn_vault(&clients);
        let kube = Http::new(
            format!("https://127.0.0.1:{kube_port}"),
            &[("authorization", &format!("Bearer {ADMIN_TOKEN}"))],
            Some(&ca),
        );
        let mut kube_server = self.apiserver(kube_port, &etcd);

        let vault_process = spawned.as_ref().map(|(process, _)| process.id());
        let Running {
            ports: [vault_port, vault_tls_port, vault_mutual_port],
            root_token,
            unseal_key,
        } = self.initialise(spawned);
        let vault = Http::new(
            format!("http://127.0.0.1:{vault_port}"),
            &[("x-vault-token", &root_token)],
            None,
        );
        for (path, program) in [
            ("/readyz", &mut kube_server),
            ("/api/v1/namespaces/kube-system", &mut etcd_program),
        ] {
            await_reply(&self.dir, program.child.get_mut().unwrap(), &kube, path);
        }
        let bed = Testbed {
            kube,
            vault,
            ca,
            kube_port,
            vault_port,
            vault_tls_port,
            vault_mutual_port,
            clients,
            dir: self.dir.clone(),
            janitor: self.janitor,
            admin_token: ADMIN_TOKEN,
            root_token,
            unseal_key,
            cluster_id: OnceLock::new(),
            bin: self.bin.clone(),
            etcd_url: etcd,
            kube_server,
            etcd: etcd_program,
            vault_process,
        };
        let manager = self_spawn(
            &bed.janitor,
            &self.bin,
            &bed.dir,
            "kube-controller-manager",
            &manager_flags(&bed),
        );
        drop(manager);
        bed.create_roles();
        if !matches!(self.storage, Storage::Of(_)) {
            bed.unseal();
            bed.mount_engines();
            bed.connect_vault(&self.bin);
        }
        bed
    }

    fn path(&self, name: &str) -> String {
        self.dir
            .join(name)
            .to_str()
            .expect("temp paths are UTF-8")
            .to_owned()
    }

    fn spawn(&self, program: &str, args: &[String]) -> Child {
        self_spawn(&self.janitor, &self.bin, &self.dir, program, args)
    }

    /// One certificate, of X.509 v3, serves as its own CA; its key signs ServiceAccount tokens too.
    fn certificate(&self) -> String {
        let output = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "30",
            ])
            .args(["-subj", "/CN=testbed", "-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-keyout", &self.path("tls.key"), "-out", &self.path("tls.crt")])
            .output()
            .expect("openssl runs");
        assert!(
            output.status.success(),
            "openssl: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        fs::read_to_string(self.dir.join("tls.crt")).unwrap()
    }

    fn program(&self, name: &'static str, args: Vec<String>) -> Program {
        let child = Mutex::new(self.spawn(name, &args));
        Program { name, args, child }
    }

    fn apiserver(&self, port: u16, etcd: &str) -> Program {
        fs::write(
            self.dir.join("tokens.csv"),
            format!("{ADMIN_TOKEN},admin,admin,system:masters\n"),
        )
        .unwrap();
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
            "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}],
        });
        fs::write(self.dir.join("audit-policy.json"), policy.to_string()).unwrap();
        let (key, certificate) = (self.path("tls.key"), self.path("tls.crt"));
        self.program(
            "kube-apiserver",
            vec![
                format!("--etcd-servers={etcd}"),
                "--bind-address=127.0.0.1".into(),
                "--advertise-address=127.0.0.1".into(),
                format!("--secure-port={port}"),
                // It would refuse a loopback address.
                "--endpoint-reconciler-type=none".into(),
                format!("--tls-cert-file={certificate}"),
                format!("--tls-private-key-file={key}"),
                format!("--token-auth-file={}", self.path("tokens.csv")),
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
                format!("--service-account-signing-key-file={key}"),
                format!("--service-account-key-file={certificate}"),
                "--service-cluster-ip-range=10.96.0.0/16".into(),
                "--authorization-mode=RBAC".into(),
                format!("--audit-policy-file={}", self.path("audit-policy.json")),
                format!("--audit-log-path={}", self.path("audit.log")),
            ],
        )
    }

    /// Its process and its ports, unless it is another testbed's.
    fn spawn_vault(&self, clients: &Authority) -> Option<(Child, [u16; 3])> {
        let ports @ [port, tls_port, mutual_port] = std::array::from_fn(|_| free_port());
        let storage = match self.storage {
            Storage::Of(_) => return None,
            Storage::Memory => json!({"inmem": {}}),
            Storage::Raft => {
                fs::create_dir(self.dir.join("raft")).unwrap();
                json!({"raft": {"path": self.path("raft"), "node_id": "testbed"}})
            }
        };
        let config = json!({
            "disable_mlock": true,
            "plugin_directory": self.bin,
            "api_addr": format!("http://127.0.0.1:{port}"),
            "cluster_addr": format!("https://127.0.0.1:{}", free_port()),
            "listener": [
                {"tcp": {"address": format!("127.0.0.1:{port}"), "tls_disable": true,
                    "cluster_address": format!("127.0.0.1:{}", free_port())}},
                {"tcp": {"address": format!("127.0.0.1:{tls_port}"),
                    "cluster_address": format!("127.0.0.1:{}", free_port()),
                    "tls_cert_file": self.path("tls.crt"), "tls_key_file": self.path("tls.key")}},
                {"tcp": {"address": format!("127.0.0.1:{mutual_port}"),
                    "cluster_address": format!("127.0.0.1:{}", free_port()),
                    "tls_cert_file": self.path("tls.crt"), "tls_key_file": self.path("tls.key"),
                    "tls_require_and_verify_client_cert": true, "tls_client_ca_file": clients.cert()}},
            ],
            "storage": storage,
        });
        fs::write(self.dir.join("vault.json"), config.to_string()).unwrap();
        let process = self.spawn(
            "vault",
            &["server".into(), format!("-config={}", self.path("vault.json"))],
        );
        Some((process, ports))
    }

    fn initialise(&self, spawned: Option<(Child, [u16; 3])>) -> Running {
        let Some((mut process, ports)) = spawned else {
            let Storage::Of(other) = &self.storage else {
                unreachable!("only another's Vault is not spawned");
            };
            return Running {
                ports: [other.vault_port, other.vault_tls_port, other.vault_mutual_port],
                root_token: other.root_token.clone(),
                unseal_key: other.unseal_key.clone(),
            };
        };
        let vault = Http::new(format!("http://127.0.0.1:{}", ports[0]), &[], None);
        await_reply(&self.dir, &mut process, &vault, "/v1/sys/seal-status");
        let made = vault
            .send(
                "PUT",
                "/v1/sys/init",
                Some(&json!({"secret_shares": 1, "secret_threshold": 1})),
            )
            .ok();
        let word = |value: &Value| value.as_str().expect("a text").to_owned();
        Running {
            ports,
            root_token: word(&made["root_token"]),
            unseal_key: word(&made["keys_base64"][0]),
        }
    }
}

/// In the background, with its output in a file of its name, and an environment of its own.
fn self_spawn(janitor: &Janitor, bin: &Path, dir: &Path, program: &str, args: &[String]) -> Child {
    let mut file = File::options();
    let log = file
        .create(true)
        .append(true)
        .open(dir.join(format!("{program}.log")))
        .unwrap();
    let mut command = Command::new(bin.join(program));
    command.args(args).env_clear().env("HOME", dir).env("TMPDIR", dir);
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    janitor
        .spawn(&mut command)
        .unwrap_or_else(|e| panic!("{}: {e}", bin.join(program).display()))
}

/// Waits for a success; a process that ends instead is shown with the end of its log.
fn await_reply(dir: &Path, process: &mut Child, server: &Http, path: &str) {
    eventually(path, || {
        if let Some(status) = process.try_wait().unwrap() {
            let mut logs = String::new();
            for program in ["etcd", "kube-apiserver", "vault"] {
                let log = fs::read_to_string(dir.join(format!("{program}.log"))).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(8).collect();
                for line in tail.iter().rev() {
                    let _ = writeln!(logs, "{program}: {line}");
                }
            }
            panic!("a program of the testbed ended by itself ({status}):\n{logs}");
        }
        let reply = server.try_send("GET", path, None)?;
        check(reply.status == 200, format!("{} {}", reply.status, reply.text))
    });
}

/// Only what takes namespaces away is needed of it.
fn manager_flags(bed: &Testbed) -> [String; 4] {
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": {
            "server": format!("https://127.0.0.1:{}", bed.kube_port),
            "certificate-authority": bed.dir.join("tls.crt"),
        }}],
        "users": [{"name": "it", "user": {"token": ADMIN_TOKEN}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    });
    let file = bed.dir.join("admin.kubeconfig");
    fs::write(&file, kubeconfig.to_string()).unwrap();
    [
        format!("--kubeconfig={}", file.display()),
        "--leader-elect=false".into(),
        "--secure-port=0".into(),
        "--controllers=namespace-controller".into(),
    ]
}

impl Testbed {
    fn mount_engines(&self) {
        for (path, version) in [
            ("secret", "2"),
            ("team/kv", "2"),
            ("strict", "2"),
            ("kv1", "1"),
            ("clusters", "1"),
        ] {
            let engine = json!({"type": "kv", "options": {"version": version}});
            self.vault.post(&format!("/v1/sys/mounts/{path}"), &engine).ok();
        }
        // A v2 engine is not ready at once.
        for path in ["secret", "team/kv", "strict"] {
            eventually(format!("{path} takes writes"), || {
                let cas_required = json!({"cas_required": path == "strict"});
                let reply = self.vault.post(&format!("/v1/{path}/config"), &cas_required);
                check(reply.status < 300, reply.text)
            });
        }
        self.vault
            .post("/v1/sys/mounts/transit", &json!({"type": "transit"}))
            .ok();
    }

    /// The rights that the chart gives, and its admission policy, for the operator of any scene.
    fn create_roles(&self) {
        let chart = Chart::render(
            &self.bin,
            &[
                "watchNamespaces={sources}",
                "finalizers=true",
                "uninstall.forget=true",
            ],
        );
        let granted = |kind, namespace, suffix| chart.object(kind, namespace, suffix)["rules"].clone();
        let delegator = self
            .kube
            .get("/apis/rbac.authorization.k8s.io/v1/clusterroles/system:auth-delegator")
            .ok()["rules"]
            .clone();
        let roles = [
            (
                "it-sources",
                granted("Role", Some("sources"), "operator-manager-role"),
            ),
            ("it-home", granted("Role", Some("home"), "operator-home-role")),
            (
                "it-cluster",
                granted("Role", Some("kube-system"), "cluster-id-role"),
            ),
            ("it-delegator", delegator),
            ("it-release", granted("Role", Some("sources"), "-release-role")),
            (
                "it-release-home",
                granted("Role", Some("home"), "-release-home-role"),
            ),
            ("it-metrics", granted("ClusterRole", None, "metrics-reader")),
        ];
        let admission = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic";
        for suffix in ["-operator", "-secret-read"] {
            let mut policy = chart.object("ValidatingAdmissionPolicy", None, suffix).clone();
            // Each scene has an operator, and sources, in namespaces of its own.
            if suffix == "-operator" {
                policy["spec"]["matchConditions"][0]["expression"] =
                    "request.userInfo.username.endsWith(':operator')".into();
            } else {
                policy["spec"]["matchConstraints"]["namespaceSelector"] = json!({});
            }
            self.kube.post(&format!("{admission}ies"), &policy).ok();
            let binding = chart.object("ValidatingAdmissionPolicyBinding", None, suffix);
            self.kube.post(&format!("{admission}ybindings"), binding).ok();
        }
        for (name, rules) in roles {
            let made = json!({"metadata": {"name": name}, "rules": rules});
            self.kube
                .post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &made)
                .ok();
        }
    }

    /// Lets Vault ask Kubernetes whose a token is.
    fn connect_vault(&self, bin: &Path) {
        let plugin = "vault-plugin-auth-kubernetes";
        let sum = Command::new("sha256sum")
            .arg(bin.join(plugin))
            .output()
            .expect("sha256sum runs");
        let sum = String::from_utf8(sum.stdout).unwrap();
        let sha256 = sum.split_whitespace().next().expect("a sum");
        self.vault
            .post(
                "/v1/sys/plugins/catalog/auth/kubernetes",
                &json!({"sha256": sha256, "command": plugin}),
            )
            .ok();
        let accounts = "/api/v1/namespaces/kube-system/serviceaccounts";
        self.kube
            .post(accounts, &json!({"metadata": {"name": "vault-reviewer"}}))
            .ok();
        self.kube
            .post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &json!({
                "metadata": {"name": "vault-reviewer"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:auth-delegator"},
                "subjects": [{"kind": "ServiceAccount", "name": "vault-reviewer", "namespace": "kube-system"}],
            }))
            .ok();
        self.mount_auth("kubernetes");
    }

    /// The auth method once more, at a path of its own; roles are not there yet.
    pub fn mount_auth(&self, path: &str) {
        self.vault
            .post(&format!("/v1/sys/auth/{path}"), &json!({"type": "kubernetes"}))
            .ok();
        let config = json!({
            "kubernetes_host": format!("https://127.0.0.1:{}", self.kube_port),
            "kubernetes_ca_cert": self.ca,
            "token_reviewer_jwt": self.service_account_token("kube-system", "vault-reviewer"),
        });
        self.vault.post(&format!("/v1/auth/{path}/config"), &config).ok();
    }

    /// By which claims name this cluster: the UID of its `kube-system`.
    pub fn cluster_id(&self) -> &Value {
        self.cluster_id.get_or_init(|| {
            let namespace = self.kube.get("/api/v1/namespaces/kube-system").ok();
            namespace["metadata"]["uid"].clone()
        })
    }

    pub fn service_account_token(&self, namespace: &str, name: &str) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let request = json!({"spec": {"expirationSeconds": 7200}});
        self.kube.post(&path, &request).ok()["status"]["token"]
            .as_str()
            .expect("a token")
            .to_owned()
    }
}
