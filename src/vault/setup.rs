//! Builds an HTTP client from settings: address, TLS, proxy. Owns their rules and error messages; sends
//! nothing.
//!
//! Each setting means the same as the Vault CLI's environment variable.
//! <https://developer.hashicorp.com/vault/docs/commands#configure-environment-variables>

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{fmt, fs};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::HeaderValue;
use reqwest::{Certificate, Client, Identity, Proxy, Url, redirect};
use zeroize::Zeroizing;

/// A connection that was idle for this long is not used again.
const IDLE: Duration = Duration::from_secs(15);
/// How often the kernel probes the peer of an idle connection.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// A connection with bytes that stay unacknowledged for this long is broken.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// How to reach Vault, and how to log in.
#[derive(Clone, PartialEq, Eq)]
pub struct Access {
    /// `--vault-addr`: `http://` or `https://`, with a path if Vault is behind one.
    pub address: String,
    /// `--vault-role`: the role to log in as.
    pub role: String,
    /// `--vault-auth-path`: where the auth method is mounted, without `auth/` and outer slashes.
    pub auth_path: String,
    /// The projected service-account token, read again at each login.
    pub token_file: PathBuf,
    /// `VAULT_NAMESPACE`.
    pub namespace: Option<String>,
    /// `VAULT_CACERT`: a file with the PEM certificates to trust instead of the system's.
    pub ca_cert: Option<PathBuf>,
    /// `VAULT_CACERT_BYTES`: the same certificates, as the value itself.
    pub ca_cert_bytes: Option<String>,
    /// `VAULT_CAPATH`: the same certificates, as a folder of files.
    pub ca_path: Option<PathBuf>,
    /// `VAULT_CLIENT_CERT`: a PEM file.
    pub client_cert: Option<PathBuf>,
    /// `VAULT_CLIENT_KEY`: a PEM file.
    pub client_key: Option<PathBuf>,
    /// `VAULT_SKIP_VERIFY`: trusts any server.
    pub skip_verify: bool,
    /// `VAULT_TLS_SERVER_NAME`: the name that the server's certificate must have.
    pub tls_server_name: Option<String>,
    /// `VAULT_CLIENT_TIMEOUT`: for a whole request.
    pub timeout: Duration,
    /// `VAULT_MAX_RETRIES`: immediate retries of a read; the callers retry everything else.
    pub max_retries: u32,
    /// `--vault-max-rps`: calls per second, without logins and renewals. `None`: no limit.
    pub max_rps: Option<NonZeroU32>,
    /// `VAULT_PROXY_ADDR`. Without it, `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` apply.
    pub proxy: Option<String>,
}

/// Leaves out the proxy's address, which may contain a password.
impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
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

/// A setting that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The address is not valid.
    #[error(
        "--vault-addr (VAULT_ADDR) is no address ({0}): give http:// or https:// and a host, without user, query and fragment, such as https://vault.example:8200"
    )]
    Address(String),
    /// A file cannot be read.
    #[error("{variable} names {path}, which cannot be read: {source}")]
    Unreadable {
        /// The environment variable.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate is missing where one is required.
    #[error("{0} holds no PEM certificate: give at least one `-----BEGIN CERTIFICATE-----` block")]
    NoCertificate(&'static str),
    /// The client's certificate and key do not belong together.
    #[error(
        "VAULT_CLIENT_CERT and VAULT_CLIENT_KEY must name a PEM certificate and its key, both or neither"
    )]
    Identity,
    /// Another setting is unusable.
    #[error("{0} is not usable: {1}")]
    Value(&'static str, &'static str),
    /// The TLS library rejects the settings as a whole.
    #[error("cannot set TLS up: {0}; check VAULT_CACERT, VAULT_CAPATH and VAULT_CLIENT_CERT")]
    Tls(String),
}

/// The base URL of all requests: the address with `v1` at its end.
pub(super) fn base(settings: &Access) -> Result<Url, SetupError> {
    let bad = |why: &str| SetupError::Address(why.to_owned());
    // Errors do not repeat the address: if it has a user, it may have a password.
    let mut url = Url::parse(settings.address.trim()).map_err(|e| bad(&e.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad("its scheme is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().or(url.fragment()).is_some() {
        return Err(bad("it has a user, a query or a fragment"));
    }
    if let Some(name) = alias(settings, &url) {
        let refused = SetupError::Value("VAULT_TLS_SERVER_NAME", "give a DNS name");
        if url.set_host(Some(name)).is_err() || url.domain().is_none() {
            return Err(refused);
        }
    }
    url.path_segments_mut()
        .map_err(|()| bad("it has no host"))?
        .pop_if_empty()
        .push("v1");
    Ok(url)
}

/// The namespace as a header.
pub(super) fn namespace(settings: &Access) -> Result<Option<HeaderValue>, SetupError> {
    let name = settings.namespace.as_deref().unwrap_or_default();
    if name.trim_matches('/').is_empty() {
        return Ok(None);
    }
    let unfit = SetupError::Value("VAULT_NAMESPACE", "give the path of a namespace, such as team/a");
    let odd = |segment: &str| matches!(segment, "" | "." | "..") || segment.contains(char::is_whitespace);
    if name.trim_matches('/').split('/').any(odd) {
        return Err(unfit);
    }
    HeaderValue::from_str(name).map(Some).map_err(|_| unfit)
}

/// Builds the client. The process's default TLS provider must be installed first.
pub(super) fn client(settings: &Access) -> Result<Client, SetupError> {
    if settings.timeout.is_zero() {
        return Err(SetupError::Value(
            "VAULT_CLIENT_TIMEOUT",
            "give a time above zero, such as 60s",
        ));
    }
    let url = Url::parse(settings.address.trim()).map_err(|e| SetupError::Address(e.to_string()))?;
    let mut builder = Client::builder()
        .user_agent(concat!("vault-sync-operator/", env!("CARGO_PKG_VERSION")))
        .timeout(settings.timeout)
        .connect_timeout(settings.timeout.min(Duration::from_secs(10)))
        .redirect(redirect::Policy::custom(follow))
        .retry(reqwest::retry::never())
        .http1_only()
        .tcp_nodelay(true)
        // The peer may be gone without notice. Readiness probes, every ten seconds, keep one connection in
        // use.
        .pool_idle_timeout(IDLE)
        .tcp_keepalive(KEEPALIVE)
        .tcp_keepalive_interval(KEEPALIVE)
        .tcp_keepalive_retries(3)
        .tcp_user_timeout(UNACKNOWLEDGED)
        .pool_max_idle_per_host(16)
        .tls_danger_accept_invalid_certs(settings.skip_verify);
    if let Some(roots) = roots(settings)? {
        builder = builder.tls_certs_only(roots);
    } else if url.scheme() == "http" {
        builder = builder.tls_certs_only([]); // an image without the system's roots must not fail here
    }
    if let Some(identity) = identity(settings)? {
        builder = builder.identity(identity);
    }
    if let Some(proxy) = &settings.proxy {
        // The library's own words could repeat a password.
        let proxy = Proxy::all(proxy).map_err(|_| SetupError::Value("VAULT_PROXY_ADDR", "give a URL"))?;
        builder = builder.proxy(proxy);
    }
    if let (Some(name), Some(host)) = (alias(settings, &url), url.host_str()) {
        let host = host.trim_matches(['[', ']']).to_owned();
        builder = builder.dns_resolver(Arc::new(Alias {
            name: name.to_lowercase(),
            host,
        }));
    }
    builder.build().map_err(|e| SetupError::Tls(innermost(&e)))
}

/// The last modification times of the files that the settings name.
pub(super) fn stamp(settings: &Access) -> Vec<Option<SystemTime>> {
    let files = [
        &settings.ca_cert,
        &settings.ca_path,
        &settings.client_cert,
        &settings.client_key,
    ];
    // A folder's own time does not change when one of its files does.
    let folder = settings.ca_path.as_ref().map(|folder| shown(folder));
    let mut inside = folder.and_then(Result::ok).unwrap_or_default();
    inside.sort();
    let changed = |path: &PathBuf| fs::metadata(path).and_then(|data| data.modified()).ok();
    files.into_iter().flatten().chain(&inside).map(changed).collect()
}

/// The last of an error's causes, which is the most specific one.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// The cause of a broken connection, in words for users. For TLS at the wrong port, it says what to do.
pub(super) fn in_words(error: &dyn std::error::Error) -> String {
    let innermost = innermost(error);
    if innermost.contains("InvalidContentType") {
        return "the port does not speak TLS: give http:// in --vault-addr (VAULT_ADDR), or the port that speaks TLS"
            .to_owned();
    }
    innermost
}

/// Standbys answer 307 or 308. Any other redirect turns a write into a read, so it is not followed. A
/// redirect that would send the token unencrypted is not followed either.
fn follow(attempt: redirect::Attempt) -> redirect::Action {
    let downgrade = attempt.url().scheme() != "https"
        && attempt
            .previous()
            .last()
            .is_some_and(|before| before.scheme() == "https");
    let standby = matches!(attempt.status().as_u16(), 307 | 308);
    if standby && !downgrade && attempt.previous().len() <= 2 {
        attempt.follow()
    } else {
        attempt.stop()
    }
}

/// The certificates to trust instead of the system's: from the first of three settings that is set.
fn roots(settings: &Access) -> Result<Option<Vec<Certificate>>, SetupError> {
    let (variable, pem) = if let Some(path) = &settings.ca_cert {
        ("VAULT_CACERT", read("VAULT_CACERT", path)?)
    } else if let Some(bytes) = settings.ca_cert_bytes.as_ref().filter(|bytes| !bytes.is_empty()) {
        ("VAULT_CACERT_BYTES", bytes.clone().into_bytes())
    } else if let Some(folder) = &settings.ca_path {
        ("VAULT_CAPATH", read_folder(folder)?)
    } else {
        return Ok(None);
    };
    let certificates = Certificate::from_pem_bundle(&pem).unwrap_or_default();
    if certificates.is_empty() {
        return Err(SetupError::NoCertificate(variable));
    }
    Ok(Some(certificates))
}

/// The contents of all files in a folder, concatenated.
fn read_folder(folder: &Path) -> Result<Vec<u8>, SetupError> {
    let variable = "VAULT_CAPATH";
    let files = shown(folder).map_err(|source| SetupError::Unreadable {
        variable,
        path: folder.to_owned(),
        source,
    })?;
    let mut pem = Vec::new();
    for file in files {
        pem.append(&mut read(variable, &file)?);
        pem.push(b'\n');
    }
    Ok(pem)
}

/// The files of a folder without hidden ones, which Kubernetes creates in a mounted ConfigMap.
fn shown(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if !hidden && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}

fn identity(settings: &Access) -> Result<Option<Identity>, SetupError> {
    let (cert, key) = match (&settings.client_cert, &settings.client_key) {
        (None, None) => return Ok(None),
        (Some(cert), Some(key)) => (cert, key),
        _ => return Err(SetupError::Identity),
    };
    let mut pem = Zeroizing::new(read("VAULT_CLIENT_KEY", key)?);
    pem.push(b'\n');
    pem.extend(read("VAULT_CLIENT_CERT", cert)?);
    Identity::from_pem(&pem)
        .map(Some)
        .map_err(|_| SetupError::Identity)
}

fn read(variable: &'static str, path: &Path) -> Result<Vec<u8>, SetupError> {
    fs::read(path).map_err(|source| SetupError::Unreadable {
        variable,
        path: path.to_owned(),
        source,
    })
}

/// The name that the server's certificate must have, if it differs from the address.
fn alias<'a>(settings: &'a Access, url: &Url) -> Option<&'a str> {
    settings
        .tls_server_name
        .as_deref()
        .filter(|name| url.scheme() == "https" && !name.is_empty())
}

/// Resolves the certificate's name to the address's host. The URLs contain that name, so all of TLS uses it;
/// a proxy is asked for that name too.
struct Alias {
    name: String,
    host: String,
}

impl Resolve for Alias {
    fn resolve(&self, name: Name) -> Resolving {
        let host = if name.as_str() == self.name {
            self.host.clone()
        } else {
            name.as_str().to_owned()
        };
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((host, 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn settings(address: &str) -> Access {
        // Another test may have been first; there is one provider in the tree.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Access {
            address: address.to_owned(),
            role: "vault-sync-operator".to_owned(),
            auth_path: "kubernetes".to_owned(),
            token_file: PathBuf::from("/nowhere/token"),
            namespace: None,
            ca_cert: None,
            ca_cert_bytes: None,
            ca_path: None,
            client_cert: None,
            client_key: None,
            skip_verify: false,
            tls_server_name: None,
            timeout: Duration::from_secs(5),
            max_retries: 2,
            proxy: None,
            max_rps: None,
        }
    }

    #[test]
    fn addresses() {
        for (address, expected) in [
            ("http://vault:8200", "http://vault:8200/v1"),
            ("http://vault:8200/", "http://vault:8200/v1"),
            ("https://gate.example/vault/", "https://gate.example/vault/v1"),
            ("https://[::1]:8200", "https://[::1]:8200/v1"),
        ] {
            assert_eq!(base(&settings(address)).unwrap().as_str(), expected);
        }
        for address in [
            "vault:8200",
            "",
            "unix:///vault.sock",
            "https://me:hunter2@vault",
            "http://v/?x",
            "http://v/#x",
        ] {
            let error = base(&settings(address)).unwrap_err().to_string();
            assert!(error.starts_with("--vault-addr (VAULT_ADDR)"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn namespaces() {
        let header = |name: Option<&str>| {
            namespace(&Access {
                namespace: name.map(str::to_owned),
                ..settings("http://vault:8200")
            })
        };
        for (name, sent) in [
            (None, None),
            (Some(""), None),
            (Some("/"), None),
            (Some("team-a"), Some("team-a")),
            (Some("team/a/"), Some("team/a/")),
        ] {
            assert_eq!(
                header(name).unwrap().as_ref().map(HeaderValue::as_bytes),
                sent.map(str::as_bytes)
            );
        }
        for name in ["../x", "a/./b", "a//b", "team a", "a\nb"] {
            let error = header(Some(name)).unwrap_err().to_string();
            assert!(
                error.contains("VAULT_NAMESPACE") && error.contains("such as team/a"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_certificates_name_is_in_the_urls() {
        let mut named = settings("https://10.0.0.1:8200");
        named.tls_server_name = Some("vault.example".to_owned());
        assert_eq!(base(&named).unwrap().as_str(), "https://vault.example:8200/v1");
        assert!(client(&named).is_ok());
        named.tls_server_name = Some("10.0.0.2".to_owned());
        assert!(
            base(&named)
                .unwrap_err()
                .to_string()
                .starts_with("VAULT_TLS_SERVER_NAME")
        );
        named.address = "http://10.0.0.1:8200".to_owned();
        assert_eq!(base(&named).unwrap().as_str(), "http://10.0.0.1:8200/v1");
    }

    #[test]
    fn complaints_name_the_variable() {
        let complaint = |change: fn(&mut Access)| {
            let mut settings = settings("http://vault:8200");
            change(&mut settings);
            client(&settings).unwrap_err().to_string()
        };
        for (change, begins) in [
            (
                (|s| s.ca_cert = Some("/nowhere/ca.pem".into())) as fn(&mut Access),
                "VAULT_CACERT names /nowhere/ca.pem",
            ),
            (
                |s| s.ca_cert_bytes = Some("no certificate".into()),
                "VAULT_CACERT_BYTES holds no PEM",
            ),
            (
                |s| s.ca_path = Some("/nowhere".into()),
                "VAULT_CAPATH names /nowhere",
            ),
            (
                |s| s.client_cert = Some("/nowhere/c.pem".into()),
                "VAULT_CLIENT_CERT and VAULT_CLIENT_KEY",
            ),
            (|s| s.timeout = Duration::ZERO, "VAULT_CLIENT_TIMEOUT"),
            (|s| s.proxy = Some("::".into()), "VAULT_PROXY_ADDR"),
        ] {
            let error = complaint(change);
            assert!(error.starts_with(begins), "{error}");
        }
    }
}
