//! The flags as clap sees them, and how they become a [`Config`].
//!
//! Flags are global: they may come before or after the command's name.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser};

use super::environment::VaultFlags;
use super::values::{self, Bind, Extra, List, Period};
use super::{Command, Config, Exit, Runtime, Surroundings, go, refused};
use crate::telemetry::{Format, Level, Logs};
use domain::document::Mount;
use domain::settings::{Adopt, DeletionPolicy, Discover, NamespaceIsolation, PrefixStyle, Settings};
use domain::source::Kind;

const DEFAULT_PREFIX: &str = "clusters/{cluster}";
/// The file where the kubelet stores the pod's namespace.
const OWN_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
const HOSTNAME: &str = "/proc/sys/kernel/hostname";

/// Syncs the Kubernetes Secrets that workloads use into HashiCorp Vault
#[derive(Parser)]
#[command(
    name = "vault-sync-operator",
    version,
    args_override_self = true,
    disable_help_subcommand = true,
    after_help = "Vault's own variables: VAULT_NAMESPACE, VAULT_CACERT, VAULT_CACERT_BYTES, VAULT_CAPATH, VAULT_CLIENT_CERT, \
                  VAULT_CLIENT_KEY, VAULT_SKIP_VERIFY, VAULT_TLS_SERVER_NAME, VAULT_CLIENT_TIMEOUT (60s), \
                  VAULT_MAX_RETRIES (2), VAULT_PROXY_ADDR, HTTP_PROXY, HTTPS_PROXY, NO_PROXY.\n\
                  Runtime: GOMAXPROCS (worker threads), GOMEMLIMIT, RUST_LOG (log levels of this program), \
                  POD_NAME, POD_NAMESPACE, POD_UID.\n\n\
                  A flag wins over its variable; an empty variable counts as unset. \
                  Go's flag syntax is accepted: one dash or two, --flag=false."
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    #[command(flatten, next_help_heading = "Vault")]
    vault: VaultGroup,
    #[command(flatten, next_help_heading = "Cluster")]
    cluster: ClusterGroup,
    #[command(flatten, next_help_heading = "Paths and ownership")]
    ownership: OwnershipGroup,
    #[command(flatten, next_help_heading = "Deletion")]
    deletion: DeletionGroup,
    #[command(flatten, next_help_heading = "Kubernetes")]
    kubernetes: KubernetesGroup,
    #[command(flatten, next_help_heading = "Endpoints")]
    endpoints: EndpointGroup,
    #[command(flatten, next_help_heading = "Tuning")]
    tuning: TuningGroup,
    #[command(flatten, next_help_heading = "Logs")]
    logs: LogGroup,
}

#[derive(Args)]
struct VaultGroup {
    /// Address of Vault, http or https
    #[arg(long, value_name = "URL", default_value = "http://vault:8200", value_parser = values::vault_address)]
    vault_addr: String,
    /// Role to log in as
    #[arg(long, value_name = "ROLE", default_value = "vault-sync-operator", value_parser = values::some)]
    vault_role: String,
    /// Where the Kubernetes (or JWT) auth method is mounted
    #[arg(long, value_name = "PATH", default_value = "kubernetes", value_parser = values::auth_path)]
    vault_auth_path: String,
    /// File with the service account's token, read at each login
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount/token",
        value_parser = values::some
    )]
    vault_token_file: String,
    /// Maximum number of requests to Vault per second; 0: no limit
    #[arg(long, value_name = "N", default_value = "0", value_parser = |text: &str| values::whole(text, 0, 1_000_000))]
    vault_max_rps: u32,
    /// KV mounts with their version, so that Vault is not asked for it: PATH=1 or PATH=2 [repeatable, comma
    /// list]
    #[arg(long, value_name = "PATH=1|2", action = ArgAction::Append, value_parser = values::mounts)]
    mount: Vec<List<Mount>>,
}

#[derive(Args)]
#[expect(clippy::struct_field_names, reason = "the fields are named as the flags are")]
struct ClusterGroup {
    /// Name of this cluster; claims and the default prefix of paths contain it
    #[arg(long, value_name = "NAME", value_parser = values::cluster_name)]
    cluster_name: Option<String>,
    /// Prefix of paths, with {cluster} for the cluster's name; the default applies only with a name; empty:
    /// no prefix
    #[arg(long, value_name = "TEMPLATE", default_value = DEFAULT_PREFIX, value_parser = values::cluster_prefix)]
    cluster_prefix: String,
    /// Where the prefix goes in a path: inside-mount or before-mount
    #[arg(long, value_name = "STYLE", default_value_t = PrefixStyle::InsideMount)]
    cluster_prefix_style: PrefixStyle,
}

#[derive(Args)]
struct OwnershipGroup {
    /// How namespaces are isolated: off, enforce or prefix
    #[arg(long, value_name = "HOW", default_value_t = NamespaceIsolation::Off)]
    namespace_isolation: NamespaceIsolation,
    /// YAML file with rules: which namespaces may write to which paths
    #[arg(long, value_name = "FILE", value_parser = str::parse::<String>)]
    path_policy: Option<String>,
    /// Which existing documents may be taken over: never, equal, annotated or all
    #[arg(long, value_name = "WHICH", default_value_t = Adopt::Never)]
    adopt: Adopt,
    /// UIDs of the kube-system namespaces of clusters whose claims count as this cluster's own [repeatable,
    /// comma list]
    #[arg(long, value_name = "UID", action = ArgAction::Append, value_parser = values::cluster_ids)]
    adopt_cluster_id: Vec<List<String>>,
    /// Maximum size of a document, such as 512KiB; 0: Vault's own limit
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = values::size)]
    max_document_size: u64,
    /// Maximum number of documents of all sources in a namespace, 1 to 1000000
    #[arg(long, value_name = "N", default_value = "5000", value_parser = |text: &str| values::whole(text, 1, 1_000_000))]
    max_documents_per_namespace: u32,
}

#[derive(Args)]
struct DeletionGroup {
    /// What happens to documents that no source asks for any more: soft, purge or retain
    #[arg(long, value_name = "HOW", default_value_t = DeletionPolicy::Soft)]
    deletion_policy: DeletionPolicy,
    /// Maximum time that a deleted source waits for the deletion of its documents
    #[arg(long, value_name = "DURATION", default_value = "30s",
          value_parser = |text: &str| values::within(text, Duration::ZERO, Duration::from_hours(24)))]
    cleanup_timeout: Duration,
    /// Whether sources carry a finalizer
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true",
          default_missing_value = "true", action = ArgAction::Set, value_parser = go::boolean)]
    finalizers: bool,
}

#[derive(Args)]
struct KubernetesGroup {
    /// Kubeconfig file; without it: KUBECONFIG, the pod's service account, or ~/.kube/config
    #[arg(long, value_name = "FILE", value_parser = str::parse::<String>)]
    kubeconfig: Option<String>,
    /// The operator's own namespace, with the Lease and the ledger [default: POD_NAMESPACE, the service
    /// account's, or default]
    #[arg(long, value_name = "NAME", value_parser = values::namespace)]
    namespace: Option<String>,
    /// Namespaces to watch [repeatable, comma list] [default: all]
    #[arg(long, value_name = "NAMES", action = ArgAction::Append, value_parser = values::namespaces)]
    watch_namespaces: Vec<List<String>>,
    /// Kinds of sources: Deployment, Secret, StatefulSet, DaemonSet, CronJob [repeatable, comma list]
    #[arg(long, value_name = "KINDS", action = ArgAction::Append, default_value = "Deployment,Secret",
          value_parser = values::kinds)]
    kinds: Vec<List<Kind>>,
    /// What else auto-discovery reads: image-pull-secrets, csi [repeatable, comma list]
    #[arg(long, value_name = "WHAT", action = ArgAction::Append, value_parser = values::extras)]
    discover: Vec<List<Extra>>,
    /// Elect one leader among the replicas
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", action = ArgAction::Set, value_parser = go::boolean)]
    leader_elect: bool,
}

#[derive(Args)]
struct EndpointGroup {
    /// Address that serves /metrics; 0: disabled
    #[arg(long, value_name = "ADDRESS", default_value = ":8080", value_parser = values::bind)]
    metrics_bind_address: Bind,
    /// Address that serves /healthz, /readyz and /livez; 0: disabled
    #[arg(long, value_name = "ADDRESS", default_value = ":8081", value_parser = values::bind)]
    health_probe_bind_address: Bind,
    /// Require a token that Kubernetes authorizes to read /metrics
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value = "true",
          default_missing_value = "true", action = ArgAction::Set, value_parser = go::boolean)]
    enable_metrics_auth: bool,
}

#[derive(Args)]
struct TuningGroup {
    /// Sources reconciled at a time, 1 to 512
    #[arg(long, value_name = "N", default_value = "16", value_parser = |text: &str| values::whole(text, 1, 512))]
    concurrency: u32,
    /// How often each source is compared with Vault; 0 or off: only on request
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = values::period)]
    resync_interval: Period,
    /// How long running work may take to finish after a signal
    #[arg(long, value_name = "DURATION", default_value = "20s",
          value_parser = |text: &str| values::within(text, Duration::ZERO, Duration::from_hours(24)))]
    shutdown_grace: Duration,
    /// How often the Event of a lasting problem is repeated. Kubernetes drops Events after an hour. For tests
    #[arg(long, value_name = "DURATION", default_value = "50m", hide = true,
          value_parser = |text: &str| values::within(text, Duration::from_secs(1), Duration::from_hours(24)))]
    repeat_events: Duration,
}

#[derive(Args)]
struct LogGroup {
    /// Log format: json or text
    #[arg(long, value_name = "FORMAT", default_value_t = Format::Json, value_parser = values::format)]
    log_format: Format,
    /// Lowest log level: error, warn, info, debug or trace; RUST_LOG takes precedence
    #[arg(long, value_name = "LEVEL", default_value_t = Level::Info, value_parser = values::level)]
    log_level: Level,
}

/// The environment variable of a flag.
pub(super) fn variable(flag: &str) -> String {
    match flag {
        "vault-addr" => "VAULT_ADDR".to_owned(),
        _ => format!("VAULT_SYNC_{}", flag.to_ascii_uppercase().replace('-', "_")),
    }
}

/// Adds each flag's variable to its help. clap's own `env` is not used. It reads the process's environment as
/// soon as the flags are described, and treats an empty variable as a value.
pub(super) fn with_variables(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| {
        let Some(variable) = arg.get_long().map(variable) else {
            return arg;
        };
        let help = format!(
            "{} [env: {variable}]",
            arg.get_help().cloned().unwrap_or_default()
        );
        // `VALUE` may begin with a dash: its own type then refuses it with a better error.
        let hyphens = arg.get_action().takes_values();
        arg.help(help).global(true).allow_hyphen_values(hyphens)
    })
}

/// Whether a flag takes the next word as its value, as all except booleans do.
pub(super) fn takes_value(command: &clap::Command, flag: &str) -> bool {
    let mut args = command.get_arguments();
    args.any(|arg| {
        arg.get_long() == Some(flag) && arg.get_action().takes_values() && !arg.is_require_equals_set()
    })
}

impl Cli {
    /// Converts to plain data. Checks what no single flag's type can check.
    pub(super) fn into_config<'a>(
        self,
        from: &Surroundings,
        origin: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Config, Exit> {
        let refuse = |flag: &str, reason: &str| Err(refused(flag, reason, origin(flag)));
        let cluster_name = self.cluster.cluster_name.unwrap_or_default();
        let template = self.cluster.cluster_prefix;
        let cluster_prefix = match (cluster_name.is_empty(), template.contains("{cluster}")) {
            (false, _) => template.replace("{cluster}", &cluster_name),
            (true, false) => template,
            (true, true) if template == DEFAULT_PREFIX => String::new(),
            // Not starting is better than silently omitting the prefix that a user asked for.
            (true, true) => {
                return refuse(
                    "cluster-prefix",
                    "{cluster} stands in it, and --cluster-name is not set",
                );
            }
        };
        let mounts = values::flatten(self.vault.mount);
        for (i, mount) in mounts.iter().enumerate() {
            if mounts[..i].iter().any(|other| other.path == mount.path) {
                return refuse(
                    "mount",
                    &format!("{:?} is given both as version 1 and as version 2", mount.path),
                );
            }
        }
        let kinds = values::flatten(self.kubernetes.kinds);
        if kinds.is_empty() {
            return refuse(
                "kinds",
                "name at least one of Deployment, Secret, StatefulSet, DaemonSet, CronJob",
            );
        }
        let extras = values::flatten(self.kubernetes.discover);
        let max_document_size = match self.ownership.max_document_size {
            0 => None,
            bytes => Some(usize::try_from(bytes).unwrap_or(usize::MAX)),
        };
        let namespace = match self.kubernetes.namespace {
            Some(namespace) => namespace,
            None => own_namespace(from)?,
        };
        let flags = VaultFlags {
            address: self.vault.vault_addr,
            role: self.vault.vault_role,
            auth_path: self.vault.vault_auth_path,
            token_file: self.vault.vault_token_file.into(),
            max_rps: NonZeroU32::new(self.vault.vault_max_rps),
        };
        let logs = Logs::new(
            self.logs.log_format,
            self.logs.log_level,
            from.text("RUST_LOG")?.as_deref(),
        );
        Ok(Config {
            vault: flags.with_variables(from)?,
            settings: Settings {
                cluster_name,
                cluster_prefix,
                prefix_style: self.cluster.cluster_prefix_style,
                isolation: self.ownership.namespace_isolation,
                adopt: self.ownership.adopt,
                adopt_cluster_ids: values::flatten(self.ownership.adopt_cluster_id),
                deletion: self.deletion.deletion_policy,
                max_document_size,
                finalizers: self.deletion.finalizers,
                mounts,
            },
            path_policy: file(self.ownership.path_policy),
            discover: Discover {
                image_pull_secrets: extras.contains(&Extra::ImagePullSecrets),
                csi: extras.contains(&Extra::Csi),
            },
            max_documents: usize::try_from(self.ownership.max_documents_per_namespace).unwrap_or(usize::MAX),
            cleanup_timeout: self.deletion.cleanup_timeout,
            resync_interval: self.tuning.resync_interval.0,
            kinds,
            watch_namespaces: values::flatten(self.kubernetes.watch_namespaces),
            concurrency: usize::try_from(self.tuning.concurrency).unwrap_or(1),
            kubeconfig: file(self.kubernetes.kubeconfig),
            namespace,
            instance: instance(from)?,
            pod_uid: from.text("POD_UID")?,
            leader_elect: self.kubernetes.leader_elect,
            metrics_bind_address: self.endpoints.metrics_bind_address.0,
            enable_metrics_auth: self.endpoints.enable_metrics_auth,
            health_probe_bind_address: self.endpoints.health_probe_bind_address.0,
            shutdown_grace: self.tuning.shutdown_grace,
            repeat_events: self.tuning.repeat_events,
            logs: logs.map_err(|fault| Exit::usage(format!("RUST_LOG: {fault}")))?,
            runtime: Runtime::read(from)?,
        })
    }
}

/// A file's name. Charts write an empty name for none.
fn file(name: Option<String>) -> Option<PathBuf> {
    name.filter(|name| !name.is_empty()).map(PathBuf::from)
}

fn own_namespace(from: &Surroundings) -> Result<String, Exit> {
    if let Some(text) = from.text("POD_NAMESPACE")? {
        return values::namespace(&text).map_err(|fault| Exit::usage(format!("POD_NAMESPACE: {fault}")));
    }
    let text = (from.file)(OWN_NAMESPACE).map(|text| text.trim().to_owned());
    Ok(text
        .filter(|text| !text.is_empty())
        .unwrap_or_else(|| "default".to_owned()))
}

fn instance(from: &Surroundings) -> Result<String, Exit> {
    if let Some(name) = from.text("POD_NAME")? {
        return Ok(name);
    }
    let name = (from.file)(HOSTNAME).map(|text| text.trim().to_owned());
    Ok(name
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "vault-sync-operator".to_owned()))
}
