//! What is set by environment variables alone: Vault's own, and those of Go's runtime.

use std::path::PathBuf;
use std::time::Duration;

use super::{Exit, Surroundings, go, values};

/// How to reach Vault, and as whom.
/// <https://developer.hashicorp.com/vault/docs/commands#environment-variables>
#[derive(Clone, PartialEq, Eq)]
pub struct VaultArgs {
    /// `--vault-addr`: `http://` or `https://`, without a slash at the end.
    pub address: String,
    /// `--vault-role`.
    pub role: String,
    /// `--vault-auth-path`, without `auth/` and without slashes at the ends.
    pub auth_path: String,
    /// `--vault-token-file`: the service account's token, read at each login.
    pub token_file: PathBuf,
    /// `VAULT_NAMESPACE`, without slashes at the ends.
    pub namespace: Option<String>,
    /// `VAULT_CACERT`: a file of PEM certificates.
    pub ca_cert: Option<PathBuf>,
    /// `VAULT_CACERT_BYTES`: PEM certificates themselves.
    pub ca_cert_bytes: Option<String>,
    /// `VAULT_CAPATH`: a directory of PEM files.
    pub ca_path: Option<PathBuf>,
    /// `VAULT_CLIENT_CERT`: a PEM file.
    pub client_cert: Option<PathBuf>,
    /// `VAULT_CLIENT_KEY`: a PEM file.
    pub client_key: Option<PathBuf>,
    /// `VAULT_SKIP_VERIFY`.
    pub skip_verify: bool,
    /// `VAULT_TLS_SERVER_NAME`.
    pub tls_server_name: Option<String>,
    /// `VAULT_CLIENT_TIMEOUT`; 60 s by default.
    pub timeout: Duration,
    /// `VAULT_MAX_RETRIES`; 2 by default.
    pub max_retries: u32,
    /// `VAULT_PROXY_ADDR`. It may hold a password.
    pub proxy: Option<String>,
}

/// Without the proxy's address: it may hold a password.
impl std::fmt::Debug for VaultArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VaultArgs")
            .field("address", &self.address)
            .field("role", &self.role)
            .field("auth_path", &self.auth_path)
            .field("token_file", &self.token_file)
            .field("namespace", &self.namespace)
            .field("skip_verify", &self.skip_verify)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// What the flags say of Vault.
pub(super) struct VaultFlags {
    pub(super) address: String,
    pub(super) role: String,
    pub(super) auth_path: String,
    pub(super) token_file: PathBuf,
}

impl VaultArgs {
    pub(super) fn read(flags: VaultFlags, from: &Surroundings) -> Result<Self, Exit> {
        let path = |name| from.text(name).map(|text| text.map(PathBuf::from));
        let args = Self {
            address: flags.address,
            role: flags.role,
            auth_path: flags.auth_path,
            token_file: flags.token_file,
            namespace: from
                .text("VAULT_NAMESPACE")?
                .map(|name| name.trim_matches('/').to_owned())
                .filter(|name| !name.is_empty()),
            ca_cert: path("VAULT_CACERT")?,
            ca_cert_bytes: from.text("VAULT_CACERT_BYTES")?,
            ca_path: path("VAULT_CAPATH")?,
            client_cert: path("VAULT_CLIENT_CERT")?,
            client_key: path("VAULT_CLIENT_KEY")?,
            skip_verify: read(from, "VAULT_SKIP_VERIFY", go::boolean)?.unwrap_or(false),
            tls_server_name: from.text("VAULT_TLS_SERVER_NAME")?,
            timeout: read(from, "VAULT_CLIENT_TIMEOUT", timeout)?.unwrap_or(Duration::from_mins(1)),
            max_retries: read(from, "VAULT_MAX_RETRIES", |text| values::whole(text, 0, 100))?.unwrap_or(2),
            proxy: read(from, "VAULT_PROXY_ADDR", proxy)?,
        };
        match (&args.client_cert, &args.client_key) {
            (Some(_), None) => Err(Exit::usage(
                "VAULT_CLIENT_CERT: it needs VAULT_CLIENT_KEY beside it",
            )),
            (None, Some(_)) => Err(Exit::usage(
                "VAULT_CLIENT_KEY: it needs VAULT_CLIENT_CERT beside it",
            )),
            _ => Ok(args),
        }
    }
}

/// What the predecessor's charts tell Go's runtime.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Runtime {
    /// `GOMAXPROCS`: worker threads; by default what the machine, or the cgroup, has.
    pub max_procs: usize,
    /// `GOMEMLIMIT` in bytes; `None`: off, as by default.
    pub memory_limit: Option<u64>,
}

impl Runtime {
    pub(super) fn read(from: &Surroundings) -> Result<Self, Exit> {
        let procs = read(from, "GOMAXPROCS", |text| values::whole(text, 1, 1024))?;
        let limit = |text: &str| match text {
            "off" => Ok(None),
            _ => values::size(text)
                .map(Some)
                .map_err(|fault| format!("{fault}; or off")),
        };
        Ok(Self {
            max_procs: match procs {
                Some(procs) => usize::try_from(procs).unwrap_or(usize::MAX),
                None => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            },
            memory_limit: read(from, "GOMEMLIMIT", limit)?.flatten(),
        })
    }
}

/// A variable's value, or a complaint that names it.
fn read<T>(
    from: &Surroundings,
    name: &str,
    value: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, Exit> {
    let fault = |fault| Exit::usage(format!("{name}: {fault}"));
    from.text(name)?
        .map(|text| value(&text).map_err(fault))
        .transpose()
}

/// Bare numbers are seconds, as for Vault's own clients.
fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => values::a_duration(text)?,
    };
    if timeout.is_zero() {
        return Err("0 would time out at once; use a duration such as 60s, or seconds".to_owned());
    }
    Ok(timeout)
}

/// The complaint does not quote it: it may hold a password.
fn proxy(text: &str) -> Result<String, String> {
    let uri = text.parse::<http::Uri>().ok();
    match uri
        .filter(|uri| uri.authority().is_some())
        .as_ref()
        .and_then(http::Uri::scheme_str)
    {
        Some("http" | "https") => Ok(text.to_owned()),
        _ => Err("this is no proxy's URL; use one such as http://proxy.example.com:3128".to_owned()),
    }
}
