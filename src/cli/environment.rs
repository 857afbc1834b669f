//! Settings that only environment variables set: Vault's own, and those of Go's runtime.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use super::values::{self, BadValue};
use super::{Exit, Surroundings, go};
use crate::vault::Access;
use domain::text::excerpt;

/// The flags about Vault.
pub(super) struct VaultFlags {
    pub(super) address: String,
    pub(super) role: String,
    pub(super) auth_path: String,
    pub(super) token_file: PathBuf,
    pub(super) max_rps: Option<NonZeroU32>,
}

impl VaultFlags {
    /// Adds Vault's own variables, with the meaning that the Vault CLI gives them.
    /// <https://developer.hashicorp.com/vault/docs/commands#environment-variables>
    pub(super) fn with_variables(self, from: &Surroundings) -> Result<Access, Exit> {
        let path = |name| from.text(name).map(|text| text.map(PathBuf::from));
        let settings = Access {
            address: self.address,
            role: self.role,
            auth_path: self.auth_path,
            token_file: self.token_file,
            max_rps: self.max_rps,
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
        match (&settings.client_cert, &settings.client_key) {
            (Some(_), None) => Err(Exit::usage(
                "VAULT_CLIENT_CERT: it needs VAULT_CLIENT_KEY beside it",
            )),
            (None, Some(_)) => Err(Exit::usage(
                "VAULT_CLIENT_KEY: it needs VAULT_CLIENT_CERT beside it",
            )),
            _ => Ok(settings),
        }
    }
}

/// The variables of Go's runtime that the predecessor's charts set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Runtime {
    /// `GOMAXPROCS`: worker threads. By default, as many as the machine or the cgroup has processors.
    pub max_procs: usize,
    /// `GOMEMLIMIT` in bytes. `None`: off, the default.
    pub memory_limit: Option<u64>,
}

impl Runtime {
    pub(super) fn read(from: &Surroundings) -> Result<Self, Exit> {
        let procs = read(from, "GOMAXPROCS", |text| values::whole(text, 1, 1024))?;
        let limit = |text: &str| match text {
            "off" => Ok(None),
            _ => values::size(text).map(Some).map_err(BadValue::or_off),
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

/// A variable's value, or an error that names the variable.
fn read<T>(
    from: &Surroundings,
    name: &str,
    value: impl Fn(&str) -> Result<T, BadValue>,
) -> Result<Option<T>, Exit> {
    let fault = |fault| Exit::usage(format!("{name}: {fault}"));
    from.text(name)?
        .map(|text| value(&text).map_err(fault))
        .transpose()
}

/// A bare number is in seconds, as for Vault's own clients. A call that is cut off may take effect up to two
/// timeouts later, and its document waits for that. The limit is therefore an hour.
fn timeout(text: &str) -> Result<Duration, BadValue> {
    let is_number = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    let stated = if is_number {
        format!("{text}s")
    } else {
        text.to_owned()
    };
    let longest = Duration::from_hours(1);
    values::within(&stated, Duration::from_millis(1), longest).map_err(|fault| {
        if is_number {
            BadValue::Seconds(excerpt(text))
        } else {
            fault
        }
    })
}

/// The error does not quote the value, which may contain a password.
fn proxy(text: &str) -> Result<String, BadValue> {
    let uri = text.parse::<http::Uri>().ok();
    match uri
        .filter(|uri| uri.authority().is_some_and(values::has_usable_port))
        .as_ref()
        .and_then(http::Uri::scheme_str)
    {
        Some("http" | "https") => Ok(text.to_owned()),
        _ => Err(BadValue::Proxy),
    }
}
