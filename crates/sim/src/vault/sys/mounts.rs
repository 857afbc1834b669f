//! Mounting secrets engines, taking them away, and telling which are there.
//! <https://developer.hashicorp.com/vault/api-docs/system/mounts>

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::{Map, Value};

use super::super::journal::{Change, Deed};
use super::super::mount::{About, Engine, Mount};
use super::super::reply::{Envelope, Reply};
use super::super::request::{Call, Verb};
use super::super::{Archived, Caller, Vault, fields, split, time};
use super::told;

/// The paths that are Vault's own.
const OWN: [&str; 4] = ["auth", "sys", "cubbyhole", "identity"];
/// The secrets engines that this Vault knows beside KV.
const KNOWN: [&str; 9] = [
    "aws", "consul", "database", "nomad", "pki", "rabbitmq", "ssh", "totp", "transit",
];

impl Vault {
    /// `sys/internal/ui/mounts/<path>`: who may use anything below a mount may know of it. It is no use of a token.
    pub(in super::super) fn tell_mount(&mut self, now: SystemTime, path: &str, call: &Call) -> Reply {
        if path.is_empty() {
            return Reply::error(404, "unsupported path");
        }
        if call.verb != Verb::Read {
            return Reply::error(405, "unsupported operation");
        }
        let Some(id) = &call.token else {
            return Reply::error(403, "permission denied");
        };
        let Some(token) = self.tokens.get(id, now) else {
            return Reply::invalid_token();
        };
        let acl = self.acl(&token.policies);
        let path = format!("{}/", path.trim_matches('/'));
        let found = split(&self.mounts, path.trim_end_matches('/'));
        let mount = found.and_then(|(mount, _)| self.mounts.get(mount));
        match mount.filter(|mount| acl.knows_mount(&format!("{}/", mount.path))) {
            Some(mount) => Envelope {
                data: mount.ui_info(),
                ..Envelope::default()
            }
            .into(),
            None => Reply::error(
                403,
                format!(
                    "preflight capability check returned 403, please ensure client's policies grant access to path {path:?}"
                ),
            ),
        }
    }

    /// `sys/mounts`.
    pub(super) fn list_mounts(&self) -> Reply {
        let mounts = self.mounts.iter();
        let data: Map<String, Value> = mounts
            .map(|(path, mount)| (format!("{path}/"), mount.info()))
            .collect();
        told(data.into())
    }

    /// `sys/mounts/<path>` and `sys/mounts/<path>/tune`.
    pub(super) fn serve_mounts(
        &mut self,
        now: SystemTime,
        path: &str,
        verb: Verb,
        call: &Call,
        caller: &Caller,
    ) -> Reply {
        if let Some(path) = path.strip_suffix("/tune") {
            return match verb {
                Verb::Read => match self.mounts.get(path) {
                    Some(mount) => told(mount.tuning()),
                    None => Reply::error(400, format!("cannot fetch sysview for path \"{path}/\"")),
                },
                Verb::Update => self.tune(now, path, call, caller),
                _ => Reply::unsupported_operation(),
            };
        }
        match verb {
            Verb::Read => match self.mount_at(path) {
                Some((mount, _)) => told(mount.info()),
                None => Reply::error(400, format!("No secret engine mount at {path}/")),
            },
            Verb::Update => self.mount_engine(now, path, call, caller),
            Verb::Delete if is_own(path) => Reply::error(400, format!("cannot unmount \"{path}/\"")),
            Verb::Delete => {
                self.take_mount(now, &caller.who, path);
                Reply::done()
            }
            _ => Reply::unsupported_operation(),
        }
    }

    fn mount_engine(&mut self, now: SystemTime, path: &str, call: &Call, caller: &Caller) -> Reply {
        let (engine, about) = match wanted(&call.data) {
            Ok(wanted) => wanted,
            Err(why) => return Reply::error(400, why),
        };
        if is_own(path) {
            return Reply::error(400, format!("cannot mount \"{path}/\""));
        }
        if let Some(taken) = self.in_the_way_of(path) {
            return Reply::error(400, format!("path is already in use at {taken}/"));
        }
        match &engine {
            Engine::Other(kind) if !KNOWN.contains(&kind.as_str()) => {
                return Reply::error(400, format!("plugin not found in the catalog: {kind}"));
            }
            Engine::Kv1 | Engine::Kv2 | Engine::Other(_) => {}
        }
        self.put_mount(now, &caller.who, path, engine, about);
        Reply::done()
    }

    /// A mount that lies at, above or below a path.
    fn in_the_way_of(&self, path: &str) -> Option<&str> {
        let within = |outer: &str, inner: &str| {
            inner
                .strip_prefix(outer)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let mut mounts = self.mounts.keys();
        mounts
            .find(|mount| within(mount, path) || within(path, mount))
            .map(String::as_str)
    }

    /// Mounts a secrets engine.
    pub(in super::super) fn put_mount(
        &mut self,
        now: SystemTime,
        who: &str,
        path: &str,
        engine: Engine,
        about: About,
    ) {
        let mount = Mount::new(path, engine, about, &mut self.random);
        self.record_mount(now, who, Deed::Mount, &mount);
        self.mounts.insert(path.to_owned(), mount);
    }

    /// Takes a mount away, and keeps its documents in the archive.
    pub(in super::super) fn take_mount(&mut self, now: SystemTime, who: &str, path: &str) {
        let Some(mut mount) = self.mounts.remove(path) else {
            return;
        };
        self.record_mount(now, who, Deed::Unmount, &mount);
        for (path, document) in std::mem::take(&mut mount.documents) {
            self.archive.push(Archived {
                at: now,
                who: who.to_owned(),
                mount: mount.path.clone(),
                accessor: mount.accessor.clone(),
                path,
                document,
            });
        }
    }

    pub(super) fn record_mount(&mut self, now: SystemTime, who: &str, deed: Deed, mount: &Mount) {
        self.journal.push(Change {
            at: now,
            who: who.to_owned(),
            deed,
            mount: mount.path.clone(),
            accessor: mount.accessor.clone(),
            path: String::new(),
        });
    }
}

fn is_own(path: &str) -> bool {
    let first = path.split('/').next().unwrap_or_default();
    OWN.contains(&first)
}

/// The engine that a request asks for.
fn wanted(data: &Map<String, Value>) -> Result<(Engine, About), String> {
    let kind = data.get("type").and_then(Value::as_str).unwrap_or_default();
    let mut about = About {
        description: data
            .get("description")
            .map(|text| fields::text(text).unwrap_or_default())
            .unwrap_or_default(),
        options: options(data),
        ..About::default()
    };
    if let Some(Value::Object(config)) = data.get("config") {
        about.default_lease = config.get("default_lease_ttl").map(seconds).unwrap_or_default();
        about.max_lease = config.get("max_lease_ttl").map(seconds).unwrap_or_default();
    }
    let engine = match kind {
        "" => return Err("backend type must be specified as a string".to_owned()),
        "kv-v1" | "kv-v2" => {
            let version = &kind[4..];
            about.options.insert("version".to_owned(), version.to_owned());
            if version == "1" { Engine::Kv1 } else { Engine::Kv2 }
        }
        "kv" | "generic" => match about.options.get("version").map(String::as_str) {
            None | Some("" | "1") => Engine::Kv1,
            Some("2") => Engine::Kv2,
            Some(_) => return Err(format!("nil backend of type {kind:?} returned from factory")),
        },
        other => Engine::Other(other.to_owned()),
    };
    Ok((engine, about))
}

pub(super) fn options(data: &Map<String, Value>) -> BTreeMap<String, String> {
    let Some(Value::Object(options)) = data.get("options") else {
        return BTreeMap::new();
    };
    let text = |value: &Value| fields::text(value).unwrap_or_default();
    options
        .iter()
        .map(|(name, value)| (name.clone(), text(value)))
        .collect()
}

pub(super) fn seconds(value: &Value) -> u64 {
    time::parse_duration(value)
        .unwrap_or_default()
        .try_into()
        .unwrap_or_default()
}
