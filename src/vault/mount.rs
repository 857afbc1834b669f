//! Which secrets engine a path belongs to, according to Vault. Keeps nothing: the caller decides what to
//! remember, and for how long.
//! <https://developer.hashicorp.com/vault/api-docs/system/internal-ui-mounts>

use serde::Deserialize;

use super::error::{Call, Error, ErrorKind};
use super::kv::Data;
use super::transport::{Plain, Reply};
use domain::document::{KvVersion, Mount};

/// What Vault says about a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MountAnswer {
    /// The path is in a KV secrets engine.
    Kv {
        /// The mount.
        mount: Mount,
        /// Changes when the mount is recreated. Empty: this Vault does not return it.
        accessor: String,
    },
    /// The path is in another secrets engine.
    NotKv {
        /// Where that engine is mounted, without leading and trailing slashes.
        mount: String,
        /// Its type, such as `transit`.
        kind: String,
    },
    /// Nothing is mounted there. Vault 1.21 does not say so: it answers 403, also to root, so that a missing
    /// mount is an error of kind `Denied`.
    None,
}

/// The request. The token needs any permission on any path in the mount that begins with `path`, or is a
/// prefix of it.
pub(super) fn question(path: &str) -> Plain<()> {
    Plain::get(format!("sys/internal/ui/mounts/{path}"))
}

/// Parses the reply.
pub(super) fn answer(call: &Call, reply: &Reply) -> Result<MountAnswer, Error> {
    #[derive(Deserialize)]
    struct ShownMount {
        path: String,
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        accessor: String,
        options: Option<MountOptions>,
    }
    #[derive(Deserialize)]
    struct MountOptions {
        version: Option<String>,
    }
    if reply.status == 404 {
        let error = reply.error(call);
        return if error.kind == ErrorKind::Bug {
            Err(error)
        } else {
            Ok(MountAnswer::None)
        };
    }
    let ShownMount {
        path,
        kind,
        accessor,
        options,
    } = reply.ok(call)?.parse::<Data<ShownMount>>(call)?.data;
    let path = path.trim_matches('/').to_owned();
    if !matches!(kind.as_str(), "kv" | "generic") {
        return Ok(MountAnswer::NotKv { mount: path, kind });
    }
    let version = match options.and_then(|options| options.version).as_deref() {
        None | Some("" | "1") => KvVersion::V1,
        Some("2") => KvVersion::V2,
        Some(_) => {
            return Err(Error::new(
                ErrorKind::Bug,
                call,
                "a version of the KV engine that is unknown here",
            ));
        }
    };
    Ok(MountAnswer::Kv {
        mount: Mount {
            path: path.into(),
            version,
        },
        accessor,
    })
}

#[cfg(test)]
mod tests {
    use super::super::error::Operation;
    use super::*;

    #[test]
    fn answers() {
        let ask = |status, body: &str| {
            let call = Call::new(Operation::Mount, "secret/app");
            answer(&call, &Reply::new(status, body)).map_err(|error| error.kind)
        };
        let shown = |path: &str, version, accessor: &str| {
            Ok(MountAnswer::Kv {
                mount: Mount {
                    path: path.into(),
                    version,
                },
                accessor: accessor.to_owned(),
            })
        };
        let kv = |path, version| shown(path, version, "");
        let v2 = r#"{"data":{"path":"team/kv/","type":"kv","accessor":"kv_1a2b","options":{"version":"2"},"config":{}}}"#;
        let not_kv = MountAnswer::NotKv {
            mount: "sys".to_owned(),
            kind: "system".to_owned(),
        };
        for (status, body, expected) in [
            (200, v2, shown("team/kv", KvVersion::V2, "kv_1a2b")),
            (
                200,
                r#"{"data":{"path":"kv1/","type":"kv","options":{"version":"1"}}}"#,
                kv("kv1", KvVersion::V1),
            ),
            (
                200,
                r#"{"data":{"path":"kv/","type":"kv","options":{}}}"#,
                kv("kv", KvVersion::V1),
            ),
            (
                200,
                r#"{"data":{"path":"old/","type":"generic","options":null}}"#,
                kv("old", KvVersion::V1),
            ),
            (
                200,
                r#"{"data":{"path":"sys/","type":"system","options":null}}"#,
                Ok(not_kv),
            ),
            (
                200,
                r#"{"data":{"path":"kv/","type":"kv","options":{"version":"3"}}}"#,
                Err(ErrorKind::Bug),
            ),
            (
                403,
                r#"{"errors":["preflight capability check returned 403"]}"#,
                Err(ErrorKind::Denied),
            ),
            (404, r#"{"errors":["unsupported path"]}"#, Ok(MountAnswer::None)),
            (404, "<html>", Err(ErrorKind::Bug)),
            (200, "<html>", Err(ErrorKind::Bug)),
        ] {
            assert_eq!(ask(status, body), expected, "{status} {body}");
        }
    }
}
