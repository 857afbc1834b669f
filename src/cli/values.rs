//! The types of flag values: each defines what is allowed.

use std::time::Duration;

use domain::document::{KvVersion, Mount};
use domain::names::is_label;
use domain::source::Kind;
use domain::text::excerpt;
use domain::{duration, words};

use crate::telemetry::{Format, Level};

/// Why a value is refused, and what is allowed. A value that may contain a password is not quoted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum BadValue {
    #[error("{0:?} is not allowed; use image-pull-secrets, csi, both with a comma, or nothing")]
    Extra(String),
    #[error("unknown kind {0:?}; allowed are {kinds}", kinds = Kind::ALL.map(Kind::as_str).join(", "))]
    Kind(String),
    #[error("use {}", Level::ALLOWED)]
    Level,
    #[error("use {}", Format::ALLOWED)]
    Format,
    #[error("{0:?} is not allowed; write PATH=1 or PATH=2, such as secret=2")]
    Mount(String),
    #[error("{0:?} cannot be a namespace: [a-z0-9]([-a-z0-9]*[a-z0-9])?, at most 63 characters")]
    Namespace(String),
    #[error("{0:?} is not allowed; use [a-z0-9]([-a-z0-9]*[a-z0-9])?, at most 63 characters")]
    ClusterName(String),
    #[error("{0:?} is not allowed; use the UID of a kube-system namespace")]
    ClusterId(String),
    #[error(
        "{0:?} is not allowed; use a path such as clusters/{{cluster}} of at most {LONGEST_PREFIX} bytes, or nothing"
    )]
    ClusterPrefix(String),
    #[error("{0}; use an address such as https://vault.example.com:8200")]
    Address(&'static str),
    #[error("this is no proxy's URL; use one such as http://proxy.example.com:3128")]
    Proxy,
    #[error("{0:?} is not allowed; use the path of an auth method, such as kubernetes")]
    AuthPath(String),
    #[error("a value is needed, this is empty")]
    Empty,
    #[error("{0:?} is not allowed; use :8080, HOST:8080, [::1]:8080, or 0 for off")]
    Bind(String),
    #[error("{0:?} is not allowed; use true or false (or 1, t, T, TRUE, True, 0, f, F, FALSE, False)")]
    Boolean(String),
    #[error("{0:?}: {1}")]
    Duration(String, duration::BadDuration),
    #[error("{value:?} is not allowed; use a duration from {} to {}", duration::display(*least), duration::display(*most))]
    DurationOutside {
        value: String,
        least: Duration,
        most: Duration,
    },
    #[error("{0:?} is not allowed; use 1 to 3600 seconds, or a duration such as 60s")]
    Seconds(String),
    #[error(
        "{0:?} is not allowed; use bytes, or a suffix B, KiB, MiB, GiB or TiB, such as 512KiB, and at most 1024TiB"
    )]
    Size(String),
    #[error("{value:?} is not allowed; use a whole number from {least} to {most}")]
    Whole { value: String, least: u32, most: u32 },
    /// For a value that can also be turned off.
    #[error("{0}; or off")]
    OrOff(Box<Self>),
}

impl BadValue {
    pub(super) fn or_off(self) -> Self {
        Self::OrOff(Box::new(self))
    }
}

/// Values of a flag that accepts a comma list and may be repeated: the values of one word.
#[derive(Clone, Debug)]
pub(super) struct List<T>(Vec<T>);

/// Parses a comma list. Spaces around items are ignored, and an empty list is allowed.
pub(super) fn list<T>(text: &str, item: impl Fn(&str) -> Result<T, BadValue>) -> Result<List<T>, BadValue> {
    if text.trim().is_empty() {
        return Ok(List(Vec::new()));
    }
    text.split(',')
        .map(|part| item(part.trim()))
        .collect::<Result<_, _>>()
        .map(List)
}

/// All words of a repeated flag, with each item once, in the order of first use.
pub(super) fn flatten<T: PartialEq>(lists: Vec<List<T>>) -> Vec<T> {
    let mut all = Vec::new();
    for item in lists.into_iter().flat_map(|list| list.0) {
        if !all.contains(&item) {
            all.push(item);
        }
    }
    all
}

words! {
    /// What `--discover` adds.
    pub(super) enum Extra {
        ImagePullSecrets = "image-pull-secrets",
        Csi = "csi",
    }
}

pub(super) fn extras(text: &str) -> Result<List<Extra>, BadValue> {
    list(text, |word| {
        Extra::named(word).ok_or_else(|| BadValue::Extra(excerpt(word)))
    })
}

pub(super) fn kinds(text: &str) -> Result<List<Kind>, BadValue> {
    list(text, |word| {
        Kind::named(word).ok_or_else(|| BadValue::Kind(excerpt(word)))
    })
}

pub(super) fn level(text: &str) -> Result<Level, BadValue> {
    Level::named(text).ok_or(BadValue::Level)
}

pub(super) fn format(text: &str) -> Result<Format, BadValue> {
    Format::named(text).ok_or(BadValue::Format)
}

pub(super) fn mounts(text: &str) -> Result<List<Mount>, BadValue> {
    list(text, |word| {
        let fault = || BadValue::Mount(excerpt(word));
        let (path, version) = word.rsplit_once('=').ok_or_else(fault)?;
        let path = path.trim_matches('/');
        let version = match version {
            "1" => KvVersion::V1,
            "2" => KvVersion::V2,
            _ => return Err(fault()),
        };
        if path.is_empty() || path.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(fault());
        }
        Ok(Mount {
            path: path.into(),
            version,
        })
    })
}

/// Names of Kubernetes namespaces.
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-label-names>
pub(super) fn namespaces(text: &str) -> Result<List<String>, BadValue> {
    list(text, namespace)
}

pub(super) fn namespace(text: &str) -> Result<String, BadValue> {
    if is_label(text) {
        return Ok(text.to_owned());
    }
    Err(BadValue::Namespace(excerpt(text)))
}

/// `--cluster-name`; empty: none.
pub(super) fn cluster_name(text: &str) -> Result<String, BadValue> {
    if text.is_empty() || is_label(text) {
        return Ok(text.to_owned());
    }
    Err(BadValue::ClusterName(excerpt(text)))
}

/// UIDs of clusters' `kube-system` namespaces.
pub(super) fn cluster_ids(text: &str) -> Result<List<String>, BadValue> {
    list(text, |word| {
        if !word.is_empty() && word.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
            return Ok(word.to_owned());
        }
        Err(BadValue::ClusterId(excerpt(word)))
    })
}

/// Longest `--cluster-prefix`, in bytes: a document's path needs room after it.
const LONGEST_PREFIX: usize = 256;

/// `--cluster-prefix`, without leading and trailing slashes.
pub(super) fn cluster_prefix(text: &str) -> Result<String, BadValue> {
    let prefix = text.trim_matches('/');
    let good = |segment: &str| {
        let rest = segment.replace("{cluster}", "c");
        !matches!(rest.as_str(), "" | "." | "..")
            && rest
                .chars()
                .all(|c| c.is_ascii_graphic() && !matches!(c, '{' | '}' | '%' | '?' | '#' | '*'))
    };
    if prefix.len() <= LONGEST_PREFIX && (prefix.is_empty() || prefix.split('/').all(good)) {
        return Ok(prefix.to_owned());
    }
    Err(BadValue::ClusterPrefix(excerpt(text)))
}

/// `--vault-addr`. The error does not quote the value, which may contain a password.
pub(super) fn vault_address(text: &str) -> Result<String, BadValue> {
    let refuse = |why| Err(BadValue::Address(why));
    let Ok(uri) = text.parse::<http::Uri>() else {
        return refuse("this is not a URL");
    };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return refuse("the URL must begin with http:// or https://");
    }
    match uri.authority() {
        Some(authority) if authority.as_str().contains('@') => {
            refuse("the URL must not hold a user or a password")
        }
        Some(authority) if !has_usable_port(authority) => refuse("the URL's port must be from 1 to 65535"),
        Some(_) if uri.query().is_some() || text.contains('#') => refuse("the URL must end with its path"),
        Some(_) => Ok(text.trim_end_matches('/').to_owned()),
        None => refuse("the URL names no host"),
    }
}

/// Whether an address has a valid port, or none.
pub(super) fn has_usable_port(authority: &http::uri::Authority) -> bool {
    let (_, port) = match authority.as_str().rsplit_once(':') {
        // A colon inside brackets belongs to an IPv6 address.
        Some((_, port)) if port.ends_with(']') => return true,
        Some(split) => split,
        None => return true,
    };
    port.bytes().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Where the auth method is mounted, without leading and trailing slashes (`kubernetes`, `clusters/a`).
pub(super) fn auth_path(text: &str) -> Result<String, BadValue> {
    let path = text.trim_matches('/');
    let path = path.strip_prefix("auth/").unwrap_or(path);
    let good = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment
                .chars()
                .all(|c| c.is_ascii_graphic() && !"%?#".contains(c))
    };
    if path.split('/').all(good) {
        return Ok(path.to_owned());
    }
    Err(BadValue::AuthPath(excerpt(text)))
}

/// Text that must not be empty.
pub(super) fn some(text: &str) -> Result<String, BadValue> {
    if text.trim().is_empty() {
        return Err(BadValue::Empty);
    }
    Ok(text.to_owned())
}

/// An address to listen on. `None`: disabled.
#[derive(Clone, Debug)]
pub(super) struct Bind(pub(super) Option<String>);

pub(super) fn bind(text: &str) -> Result<Bind, BadValue> {
    if text == "0" {
        return Ok(Bind(None));
    }
    let fault = || BadValue::Bind(excerpt(text));
    let (host, port) = text.rsplit_once(':').ok_or_else(fault)?;
    let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let good = match in_brackets {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-')),
    };
    let digits = !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit());
    if !good || !digits || port.parse::<u16>().is_err() {
        return Err(fault());
    }
    Ok(Bind(Some(text.to_owned())))
}

pub(super) fn a_duration(text: &str) -> Result<Duration, BadValue> {
    duration::parse(text).map_err(|fault| BadValue::Duration(excerpt(text), fault))
}

/// A duration in a range, with an error for values outside.
pub(super) fn within(text: &str, least: Duration, most: Duration) -> Result<Duration, BadValue> {
    let duration = a_duration(text)?;
    if (least..=most).contains(&duration) {
        return Ok(duration);
    }
    Err(BadValue::DurationOutside {
        value: excerpt(text),
        least,
        most,
    })
}

/// A period that can be turned off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Period(pub(super) Option<Duration>);

/// Under a second, Vault would get a storm of requests. Instead of a period over a year, use off.
pub(super) fn period(text: &str) -> Result<Period, BadValue> {
    if text == "off" || a_duration(text).is_ok_and(|period| period.is_zero()) {
        return Ok(Period(None));
    }
    within(text, Duration::from_secs(1), Duration::from_hours(8760))
        .map(|period| Period(Some(period)))
        .map_err(BadValue::or_off)
}

/// A size in bytes, in the format of Go's runtime. <https://pkg.go.dev/runtime#hdr-Environment_Variables>
pub(super) fn size(text: &str) -> Result<u64, BadValue> {
    const UNITS: [(&str, u32); 5] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40), ("B", 0)];
    let (number, shift) = UNITS
        .into_iter()
        .find_map(|(name, shift)| Some((text.strip_suffix(name)?, shift)))
        .unwrap_or((text, 0));
    Some(number)
        .filter(|number| number.bytes().all(|c| c.is_ascii_digit()))
        .and_then(|number| number.parse::<u64>().ok())
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|&bytes| bytes <= 1 << 50)
        .ok_or_else(|| BadValue::Size(excerpt(text)))
}

/// A whole number in a range, with an error for values outside.
pub(super) fn whole(text: &str, least: u32, most: u32) -> Result<u32, BadValue> {
    Some(text)
        .filter(|text| text.bytes().all(|c| c.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| BadValue::Whole {
            value: excerpt(text),
            least,
            most,
        })
}
