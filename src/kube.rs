//! The parts of Kubernetes that the operator needs: the client, slim object types, and the few calls.
//!
//! Reads are live, never from a cache. Writes are patches that name only our own fields: the finalizer, and
//! the predecessor's annotation, which we remove.

mod bounded;
mod connect;
mod error;
mod object;

use std::collections::BTreeMap;

use futures_util::{AsyncBufReadExt as _, pin_mut};
use k8s_openapi::api::core::v1::Namespace;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use serde::Deserialize;
use zeroize::Zeroizing;

use domain::annotations::{FINALIZER, PREFIX, SECRET_VERSIONS};
use domain::settings::Discover;
use domain::source::{Kind, Source, SourceKey};
use domain::value::{Payload, Value};

pub use bounded::{Connect, LastHeard, WATCH_SECONDS, http, limited, listening};
pub use connect::{ConnectError, client, configure, connect};
pub use error::{Error, call, call_within};
pub use object::{Workload, resource, source};

/// How many times a change is attempted if another client keeps changing the object.
const ATTEMPTS: u32 = 5;

/// A Secret as it is fetched: its data is parsed directly into the redacting type.
#[derive(Deserialize)]
struct SecretWire {
    metadata: SecretMeta,
    #[serde(default)]
    data: Option<BTreeMap<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretMeta {
    resource_version: String,
}

/// The result of fetching a Secret.
pub enum Fetched {
    /// It does not exist.
    Absent,
    /// Its data.
    Found(Payload),
    /// The memory budget has no room for it now.
    NoRoom,
}

/// The calls to Kubernetes.
#[derive(Clone)]
pub struct Kube {
    client: Client,
    discover: Discover,
}

impl Kube {
    /// Creates the calls with this client.
    pub fn new(client: Client, discover: Discover) -> Self {
        Self { client, discover }
    }

    /// The client itself, for code that has its own API.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What discovery looks for.
    pub fn discover(&self) -> Discover {
        self.discover
    }

    /// The UID of the `kube-system` namespace, which identifies the cluster.
    pub async fn cluster_id(&self) -> Result<String, Error> {
        const WHAT: &str = "read the UID of namespace kube-system";
        let api: Api<Namespace> = Api::all(self.client.clone());
        let namespace = call(WHAT, api.get_metadata("kube-system")).await?;
        namespace.metadata.uid.ok_or_else(|| Error::Refused {
            what: WHAT.into(),
            message: "it has none".into(),
        })
    }

    fn metadata_api(&self, key: &SourceKey) -> Api<PartialObjectMeta<Workload>> {
        Api::namespaced_with(self.client.clone(), &key.namespace, &resource(key.kind))
    }

    /// A source as it is now. `None`: it does not exist.
    pub async fn source(&self, key: &SourceKey) -> Result<Option<Source>, Error> {
        let what = format!("read {key}");
        let source = if key.kind == Kind::Secret {
            let object = call(&what, self.metadata_api(key).get_metadata_opt(&key.name)).await?;
            object.map(|object| source(key.kind, &object.metadata, Vec::new()))
        } else {
            let api: Api<Workload> =
                Api::namespaced_with(self.client.clone(), &key.namespace, &resource(key.kind));
            let object = call(&what, api.get_opt(&key.name)).await?;
            object.map(|object| object.source(key.kind, self.discover))
        };
        match source {
            None => Ok(None),
            Some(Some(source)) => Ok(Some(source)),
            Some(None) => Err(Error::Refused {
                what,
                message: "the object has no name or UID".into(),
            }),
        }
    }

    /// A Secret's current data. `charge` is called with the number of additional bytes before they are
    /// allocated. It returns whether the memory budget has room for them.
    pub async fn secret(
        &self,
        namespace: &str,
        name: &str,
        charge: &mut (dyn FnMut(usize) -> bool + Send),
    ) -> Result<Fetched, Error> {
        let what = format!("read Secret {namespace}/{name}");
        let refused = |message: String| Error::Refused {
            what: what.clone(),
            message,
        };
        let request = http::Request::get(format!("/api/v1/namespaces/{namespace}/secrets/{name}"))
            .body(Vec::new())
            .map_err(|error| refused(error.to_string()))?;
        let text = match call(&what, self.text(request, charge)).await {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(Fetched::NoRoom),
            Err(Error::NotFound { .. }) => return Ok(Fetched::Absent),
            Err(error) => return Err(error),
        };
        // A parser's error may quote the content that it could not read.
        let wire: SecretWire =
            serde_json::from_slice(&text).map_err(|_| refused("the reply could not be read".into()))?;
        Ok(Fetched::Found(Payload {
            resource_version: wire.metadata.resource_version,
            data: wire.data.unwrap_or_default(),
        }))
    }

    /// The text of a reply. `None`: there is no room for it. Its bytes are charged twice, because the parsed
    /// content exists beside the text; each key and value is charged too.
    async fn text(
        &self,
        request: http::Request<Vec<u8>>,
        charge: &mut (dyn FnMut(usize) -> bool + Send),
    ) -> Result<Option<Zeroizing<Vec<u8>>>, kube::Error> {
        /// A key and its value have four quotes, and take about four times this many bytes.
        const PER_QUOTE: usize = 64;
        let reply = self.client.request_stream(request).await?;
        pin_mut!(reply);
        let mut text = Zeroizing::new(Vec::new());
        loop {
            let chunk = reply
                .fill_buf()
                .await
                .map_err(|error| kube::Error::Service(error.into()))?;
            if chunk.is_empty() {
                return Ok(Some(text));
            }
            let quotes = chunk.split(|&byte| byte == b'"').count();
            if !charge(2 * chunk.len() + PER_QUOTE * quotes) {
                return Ok(None);
            }
            text.extend_from_slice(chunk);
            let read = chunk.len();
            reply.consume_unpin(read);
        }
    }

    /// Adds our finalizer to a source, and removes the predecessor's annotation. A strategic merge keeps the
    /// other finalizers. The UID makes sure that it is the same object.
    /// <https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/>
    pub async fn add_finalizer(&self, source: &Source) -> Result<(), Error> {
        let mut metadata = serde_json::json!({ "uid": source.uid, "finalizers": [FINALIZER] });
        if source.annotations.contains_key(SECRET_VERSIONS) {
            metadata["annotations"] = predecessors_annotation();
        }
        self.patch(source, "put the finalizer on", metadata).await
    }

    /// Removes the predecessor's annotation.
    pub async fn drop_predecessors_annotation(&self, source: &Source) -> Result<(), Error> {
        let metadata = serde_json::json!({ "uid": source.uid, "annotations": predecessors_annotation() });
        self.patch(source, "take the predecessor's annotation off", metadata)
            .await
    }

    /// Removes our finalizer. An object that is gone by then does not need it.
    pub async fn remove_finalizer(&self, source: &Source) -> Result<(), Error> {
        let metadata =
            serde_json::json!({ "uid": source.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER] });
        let mut tried = 0;
        loop {
            tried += 1;
            let patched = self
                .patch(source, "take the finalizer off", metadata.clone())
                .await;
            let conflict = match patched {
                Err(conflict @ Error::Conflict(_)) => conflict,
                Ok(()) | Err(Error::NotFound { .. }) => return Ok(()),
                Err(error) => return Err(error),
            };
            // The API server also answers "conflict" if another client keeps editing the object.
            match self.source(&source.key).await? {
                Some(now) if now.uid == source.uid && now.finalizer => {}
                _ => return Ok(()),
            }
            if tried == ATTEMPTS {
                return Err(conflict);
            }
        }
    }

    /// Patches the metadata of exactly this object. A recreated object with the same name is a conflict. The
    /// API server reports a different UID like any change to an immutable field.
    async fn patch(&self, source: &Source, what: &str, metadata: serde_json::Value) -> Result<(), Error> {
        let what = format!("{what} {}", source.key);
        let patch = Patch::Strategic(serde_json::json!({ "metadata": metadata }));
        let params = PatchParams {
            field_manager: Some("vault-sync-operator".into()),
            ..PatchParams::default()
        };
        let api = self.metadata_api(&source.key);
        // The reply contains only metadata: a workload's whole status is not needed here.
        let patched = call(&what, api.patch_metadata(&source.key.name, &params, &patch)).await;
        match patched {
            Err(refused @ Error::Refused { .. }) => match self.source(&source.key).await? {
                Some(now) if now.uid == source.uid => Err(refused),
                _ => Err(Error::Conflict(what)),
            },
            patched => patched.map(drop),
        }
    }
}

fn predecessors_annotation() -> serde_json::Value {
    serde_json::json!({ format!("{PREFIX}{SECRET_VERSIONS}"): null })
}
