//! Mounts: which secrets engine answers a path, and what Vault tells of it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::document::{Document, Settings};
use super::random::Random;

/// The longest lease, and the usual one, in seconds.
pub(super) const LEASE: u64 = 2_764_800;

/// What is mounted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Engine {
    /// KV, version 1.
    Kv1,
    /// KV, version 2.
    Kv2,
    /// Another one, such as `transit`, of which no more is known than that it is there.
    Other(String),
}

/// A mounted secrets engine. Made anew at the same path, it is another one: its accessor and its UUID differ.
pub struct Mount {
    /// Where it is mounted, without slashes at the ends.
    pub path: String,
    /// What is mounted.
    pub engine: Engine,
    /// By which Vault names this mount.
    pub accessor: String,
    pub(super) uuid: String,
    pub(super) about: About,
    pub(super) settings: Settings,
    pub(super) documents: BTreeMap<String, Document>,
    /// It is on its way from version 1 to version 2, and does not answer.
    pub(super) upgrading: bool,
}

/// What the one who mounts it may say of it.
#[derive(Clone, Default)]
pub(super) struct About {
    pub(super) description: String,
    pub(super) options: BTreeMap<String, String>,
    pub(super) default_lease: u64,
    pub(super) max_lease: u64,
}

impl Mount {
    pub(super) fn new(path: &str, engine: Engine, about: About, random: &mut Random) -> Self {
        let kind = kind(&engine);
        Self {
            path: path.to_owned(),
            accessor: random.mount_accessor(kind),
            uuid: random.uuid(),
            engine,
            about,
            settings: Settings::default(),
            documents: BTreeMap::new(),
            upgrading: false,
        }
    }

    /// Its documents, in the order of their paths.
    pub fn documents(&self) -> impl Iterator<Item = (&str, &Document)> {
        self.documents
            .iter()
            .map(|(path, document)| (path.as_str(), document))
    }

    /// The names below a path that ends with a slash, or of all.
    pub(super) fn names(&self, below: &str) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for path in self.documents.range(below.to_owned()..).map(|(path, _)| path) {
            let Some(rest) = path.strip_prefix(below) else {
                break;
            };
            let name = match rest.split_once('/') {
                Some((folder, _)) => format!("{folder}/"),
                None => rest.to_owned(),
            };
            if names.last() != Some(&name) {
                names.push(name);
            }
        }
        names.sort();
        names.dedup();
        names
    }

    /// How `sys/mounts` tells of it.
    pub(super) fn info(&self) -> Value {
        self.shown(self.about.default_lease, self.about.max_lease)
    }

    /// How `sys/internal/ui/mounts` tells of it.
    pub(super) fn ui_info(&self) -> Value {
        let mut info = self.shown(self.default_lease(), self.max_lease());
        info["path"] = format!("{}/", self.path).into();
        info
    }

    /// How `sys/mounts/<path>/tune` tells of it.
    pub(super) fn tuning(&self) -> Value {
        let mut tuning = json!({
            "default_lease_ttl": self.default_lease(),
            "max_lease_ttl": self.max_lease(),
            "description": self.about.description,
            "force_no_cache": false,
        });
        if !self.about.options.is_empty() {
            tuning["options"] = json!(self.about.options);
        }
        tuning
    }

    pub(super) fn default_lease(&self) -> u64 {
        or_usual(self.about.default_lease)
    }

    fn max_lease(&self) -> u64 {
        or_usual(self.about.max_lease)
    }

    fn shown(&self, default_lease: u64, max_lease: u64) -> Value {
        let running = match self.engine {
            Engine::Kv1 | Engine::Kv2 => "v0.25.0+builtin",
            Engine::Other(_) => "v1.21.0+builtin.vault",
        };
        let mut info = json!({
            "accessor": self.accessor,
            "config": {
                "default_lease_ttl": default_lease,
                "force_no_cache": false,
                "max_lease_ttl": max_lease,
            },
            "description": self.about.description,
            "external_entropy_access": false,
            "local": false,
            "options": self.about.options,
            "plugin_version": "",
            "running_plugin_version": running,
            "running_sha256": "",
            "seal_wrap": false,
            "type": kind(&self.engine),
            "uuid": self.uuid,
        });
        match self.built_in_headers() {
            None => info["deprecation_status"] = "supported".into(),
            Some(headers) => {
                info["options"] = Value::Null;
                info["local"] = (kind(&self.engine) == "cubbyhole").into();
                info["seal_wrap"] = (kind(&self.engine) == "system").into();
                if !headers.is_empty() {
                    info["config"]["passthrough_request_headers"] = json!(headers);
                }
            }
        }
        info
    }

    /// Which headers an engine is shown that is a part of Vault itself; `None`: it is not.
    fn built_in_headers(&self) -> Option<&'static [&'static str]> {
        match kind(&self.engine) {
            "system" => Some(&["Accept"]),
            "identity" => Some(&["Authorization"]),
            "cubbyhole" => Some(&[]),
            _ => None,
        }
    }
}

fn kind(engine: &Engine) -> &str {
    match engine {
        Engine::Kv1 | Engine::Kv2 => "kv",
        Engine::Other(kind) => kind,
    }
}

fn or_usual(lease: u64) -> u64 {
    if lease == 0 { LEASE } else { lease }
}

/// The mounts that each Vault has from the start.
pub(super) fn built_in(random: &mut Random) -> BTreeMap<String, Mount> {
    [
        ("cubbyhole", "cubbyhole", "per-token private secret storage"),
        ("identity", "identity", "identity store"),
        (
            "sys",
            "system",
            "system endpoints used for control, policy and debugging",
        ),
    ]
    .map(|(path, kind, description)| {
        let about = About {
            description: description.to_owned(),
            ..About::default()
        };
        let mount = Mount::new(path, Engine::Other(kind.to_owned()), about, random);
        (path.to_owned(), mount)
    })
    .into()
}
