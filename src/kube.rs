//! Kubernetes, as far as the operator needs it: the client, slim object types, and the few calls.
//!
//! Reads are live, never from a cache. Writes are patches that name nothing but what is ours:
//! the finalizer, and the predecessor's annotation, which we take away.

mod wire;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{AsyncBufReadExt as _, pin_mut};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ApiResource, Patch, PatchParams};
use kube::core::{DynamicResourceScope, PartialObjectMeta};
use kube::{Client, Resource};
use serde::Deserialize;
use zeroize::Zeroizing;

use domain::annotations::{self, FINALIZER, OnTemplate, PREFIX, SECRET_VERSIONS};
use domain::discovery::{PodSpec, references};
use domain::problem::Retry;
use domain::settings::Discover;
use domain::source::{Kind, Source, SourceKey};
use domain::value::{Payload, Value};

pub use wire::{Connect, Left, Life, WATCH_SECONDS, http, limited, listening};

/// Longer than any call should take, shorter than anybody's patience.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// How often a change is tried again at once when somebody else has changed the object meanwhile.
const ATTEMPTS: u32 = 5;

/// A call to Kubernetes that did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object does not have the shape any more in which it was read.
    #[error("{0}: the object has changed meanwhile")]
    Conflict(String),
    /// The object does not exist, or the namespace that it should be in.
    #[error("{what}: it does not exist: {message}")]
    NotFound {
        /// What was tried.
        what: String,
        /// The API server's words, which name what is missing.
        message: String,
    },
    /// We may not do that.
    #[error("{what}: Kubernetes denied it: {message}")]
    Denied {
        /// What was tried.
        what: String,
        /// The API server's words.
        message: String,
    },
    /// The API server refused it, or gave an answer that fits nothing.
    #[error("{what}: Kubernetes refused it: {message}")]
    Refused {
        /// What was tried.
        what: String,
        /// The API server's words.
        message: String,
    },
    /// No answer, or one that says to come back later.
    #[error("{what}: Kubernetes does not answer: {message}")]
    Unavailable {
        /// What was tried.
        what: String,
        /// What happened instead.
        message: String,
    },
}

impl Error {
    /// Names what was tried, and sorts out whether trying again may help.
    pub fn of(what: impl Into<String>, error: kube::Error) -> Self {
        let what = what.into();
        match error {
            kube::Error::Api(status) => {
                let message = status.message.clone();
                match status.code {
                    404 => Self::NotFound { what, message },
                    409 => Self::Conflict(what),
                    401 | 403 => Self::Denied { what, message },
                    429 | 500..=599 => Self::Unavailable { what, message },
                    _ => Self::Refused { what, message },
                }
            }
            // A parser's words may quote what it could not read.
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => Self::Refused {
                what,
                message: "the reply could not be read".into(),
            },
            other => Self::Unavailable {
                what,
                message: in_words(&other),
            },
        }
    }

    /// When the call is tried again. A right that is missing counts with what passes by itself: nothing tells us
    /// when it is given, and an API server that has just started denies everything.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Conflict(_) | Self::NotFound { .. } | Self::Unavailable { .. } | Self::Denied { .. } => {
                Retry::Backoff
            }
            Self::Refused { .. } => Retry::Slowly,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Conflict(_) | Self::Unavailable { .. } => "it is tried again",
            Self::NotFound { .. } => "create what is missing, or correct the name; it is tried again",
            Self::Denied { .. } => "check the operator's Roles in this namespace; it is tried again",
            Self::Refused { .. } => "see the message of the API server",
        }
    }
}

/// Runs a call within its time.
pub async fn call<T>(what: &str, call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
    call_within(CALL_TIMEOUT, what, call).await
}

/// Runs a call within so long.
pub async fn call_within<T>(
    limit: Duration,
    what: &str,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result.map_err(|error| Error::of(what, error)),
        Err(_) => Err(Error::Unavailable {
            what: what.to_owned(),
            message: format!("no answer in {limit:?}"),
        }),
    }
}

/// The last of an error's causes, which says most. Two of them only a TLS library understands.
fn in_words(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    let text = error.to_string();
    if text.contains("InvalidContentType") {
        return format!("{text}; its port does not speak TLS: check the server's address in the kubeconfig");
    }
    text
}

/// Why there is no client of Kubernetes.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig that was named cannot be read.
    #[error("--kubeconfig: cannot read {}: {error}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        error: kube::config::KubeconfigError,
    },
    /// It names no cluster that can be used.
    #[error("--kubeconfig: {}: {error}", file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        error: kube::config::KubeconfigError,
    },
    /// The pod's service account cannot be used.
    #[error(transparent)]
    InCluster(#[from] kube::config::InClusterError),
    /// Nothing says where the cluster is.
    #[error("no cluster found: neither KUBECONFIG, nor a pod's service account, nor ~/.kube/config: {0}")]
    NoCluster(#[from] kube::config::InferConfigError),
    /// What was found makes no client.
    #[error("cannot build a Kubernetes client: {0}")]
    Client(#[from] kube::Error),
}

/// A client for the cluster of [`configure`].
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    client(http(configure(kubeconfig).await?))
}

/// A client on the current runtime. Each of its waits on the wire ends.
pub fn client(connect: Connect) -> Result<Client, ConnectError> {
    Ok(wire::client(connect)?)
}

/// Finds the cluster: the given kubeconfig, `KUBECONFIG`, in-cluster, `~/.kube/config`.
pub async fn configure(kubeconfig: Option<&Path>) -> Result<kube::Config, ConnectError> {
    let Some(file) = kubeconfig else {
        return Ok(
            if std::env::var_os("KUBECONFIG").is_none() && kube::Config::incluster().is_ok() {
                kube::Config::incluster()?
            } else {
                kube::Config::infer().await?
            },
        );
    };
    let read = kube::config::Kubeconfig::read_from(file).map_err(|error| ConnectError::Unreadable {
        file: file.to_owned(),
        error,
    })?;
    kube::Config::from_custom_kubeconfig(read, &kube::config::KubeConfigOptions::default())
        .await
        .map_err(|error| ConnectError::Unusable {
            file: file.to_owned(),
            error,
        })
}

/// A workload, reduced while it is parsed to metadata and what refers to Secrets.
#[derive(Clone, Debug, Deserialize)]
pub struct Workload {
    /// The object's metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    spec: Option<WorkloadSpec>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WorkloadSpec {
    template: Option<Template>,
    /// A CronJob has its template one storey deeper.
    job_template: Option<JobTemplate>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct JobTemplate {
    metadata: Option<TemplateMeta>,
    spec: Option<JobSpec>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct JobSpec {
    template: Option<Template>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Template {
    metadata: Option<TemplateMeta>,
    spec: Option<PodSpec>,
}

/// Of a template's metadata only whether annotations of ours are there, which belong to the object itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct TemplateMeta {
    annotations: Option<OnTemplate>,
}

impl Workload {
    fn template(&self) -> Option<&Template> {
        let spec = self.spec.as_ref()?;
        match &spec.job_template {
            Some(job) => job.spec.as_ref()?.template.as_ref(),
            None => spec.template.as_ref(),
        }
    }

    /// The annotations of ours on its pod template, or on a CronJob's template of Jobs.
    fn misplaced(&self) -> OnTemplate {
        let of = |meta: Option<&TemplateMeta>| meta.and_then(|meta| meta.annotations.clone());
        let pods = of(self.template().and_then(|template| template.metadata.as_ref()));
        let job = self.spec.as_ref().and_then(|spec| spec.job_template.as_ref());
        let jobs = of(job.and_then(|job| job.metadata.as_ref()));
        pods.unwrap_or_default().and(jobs.unwrap_or_default())
    }

    /// The source that it is; `None` when Kubernetes left out what every object has.
    pub fn source(&self, kind: Kind, discover: Discover) -> Option<Source> {
        let found = self
            .template()
            .and_then(|template| template.spec.as_ref())
            .map(|pod| references(pod, discover))
            .unwrap_or_default();
        let source = source(kind, &self.metadata, found)?;
        let own = self.metadata.annotations.iter().flatten();
        Some(Source {
            annotations: annotations::keep(own, &self.misplaced()),
            ..source
        })
    }
}

impl Resource for Workload {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(dt: &ApiResource) -> std::borrow::Cow<'_, str> {
        dt.kind.as_str().into()
    }
    fn group(dt: &ApiResource) -> std::borrow::Cow<'_, str> {
        dt.group.as_str().into()
    }
    fn version(dt: &ApiResource) -> std::borrow::Cow<'_, str> {
        dt.version.as_str().into()
    }
    fn plural(dt: &ApiResource) -> std::borrow::Cow<'_, str> {
        dt.plural.as_str().into()
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// What the API calls a kind.
pub fn resource(kind: Kind) -> ApiResource {
    let (group, version, plural) = match kind {
        Kind::Deployment => ("apps", "v1", "deployments"),
        Kind::StatefulSet => ("apps", "v1", "statefulsets"),
        Kind::DaemonSet => ("apps", "v1", "daemonsets"),
        Kind::CronJob => ("batch", "v1", "cronjobs"),
        Kind::Secret => ("", "v1", "secrets"),
    };
    let gvk = kube::core::GroupVersionKind::gvk(group, version, kind.as_str());
    ApiResource::from_gvk_with_plural(&gvk, plural)
}

/// Reduces an object's metadata to a source. Everything else, an annotation that carries the whole
/// object among it, ends here.
pub fn source(kind: Kind, meta: &ObjectMeta, references: Vec<domain::source::Reference>) -> Option<Source> {
    let seconds = |time: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time| time.0.as_second();
    Some(Source {
        key: SourceKey {
            kind,
            namespace: meta.namespace.as_deref()?.into(),
            name: meta.name.as_deref()?.into(),
        },
        uid: meta.uid.clone()?,
        created: meta.creation_timestamp.as_ref().map_or(0, seconds),
        deleting: meta.deletion_timestamp.as_ref().map(seconds),
        finalizer: meta
            .finalizers
            .iter()
            .flatten()
            .any(|finalizer| finalizer == FINALIZER),
        annotations: annotations::keep(meta.annotations.iter().flatten(), &OnTemplate::default()),
        references,
    })
}

/// A Secret as it is fetched: its data straight into the redacting type.
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

/// What a Secret is when it is fetched.
pub enum Fetched {
    /// It does not exist.
    Absent,
    /// Its data.
    Found(Payload),
    /// There is not enough memory for it now.
    NoRoom,
}

/// The calls.
#[derive(Clone)]
pub struct Kube {
    client: Client,
    discover: Discover,
}

impl Kube {
    /// Calls through this client.
    pub fn new(client: Client, discover: Discover) -> Self {
        Self { client, discover }
    }

    /// The client itself, for what has an API of its own.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What discovery looks for.
    pub fn discover(&self) -> Discover {
        self.discover
    }

    /// UID of the `kube-system` namespace: what makes a cluster the same cluster.
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

    /// A source as it is now; `None`: it does not exist.
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

    /// A Secret's data as they are now. `charge` hears how many bytes of memory are needed more, before they are
    /// taken; its answer says whether there are so many.
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
        // A parser's words may quote what it could not read.
        let wire: SecretWire =
            serde_json::from_slice(&text).map_err(|_| refused("the reply could not be read".into()))?;
        Ok(Fetched::Found(Payload {
            resource_version: wire.metadata.resource_version,
            data: wire.data.unwrap_or_default(),
        }))
    }

    /// The text of a reply; `None`: there is no room for it. It is charged twice, since what is parsed from it
    /// is held beside it, and for each key and value.
    async fn text(
        &self,
        request: http::Request<Vec<u8>>,
        charge: &mut (dyn FnMut(usize) -> bool + Send),
    ) -> Result<Option<Zeroizing<Vec<u8>>>, kube::Error> {
        /// A key and its value, with four quotes between them, take about four times as much.
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

    /// Puts our finalizer on a source, and takes the predecessor's annotation away. A strategic merge
    /// adds to the list whatever else is in it; the UID makes sure that it is the same object.
    /// <https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/>
    pub async fn add_finalizer(&self, source: &Source) -> Result<(), Error> {
        let mut metadata = serde_json::json!({ "uid": source.uid, "finalizers": [FINALIZER] });
        if source.annotations.contains_key(SECRET_VERSIONS) {
            metadata["annotations"] = predecessors_annotation();
        }
        self.patch(source, "put the finalizer on", metadata).await
    }

    /// Takes the predecessor's annotation away.
    pub async fn drop_predecessors_annotation(&self, source: &Source) -> Result<(), Error> {
        let metadata = serde_json::json!({ "uid": source.uid, "annotations": predecessors_annotation() });
        self.patch(source, "take the predecessor's annotation off", metadata)
            .await
    }

    /// Takes our finalizer off. An object that is gone meanwhile needs it no more.
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
            // The same is said of one that somebody else edits all the time.
            match self.source(&source.key).await? {
                Some(now) if now.uid == source.uid && now.finalizer => {}
                _ => return Ok(()),
            }
            if tried == ATTEMPTS {
                return Err(conflict);
            }
        }
    }

    async fn patch(&self, source: &Source, what: &str, metadata: serde_json::Value) -> Result<(), Error> {
        let what = format!("{what} {}", source.key);
        let patch = Patch::Strategic(serde_json::json!({ "metadata": metadata }));
        let params = PatchParams {
            field_manager: Some("vault-sync-operator".into()),
            ..PatchParams::default()
        };
        let api = self.metadata_api(&source.key);
        // The reply has only metadata; a workload's whole status is of no use here.
        call(&what, api.patch_metadata(&source.key.name, &params, &patch))
            .await
            .map(drop)
    }
}

fn predecessors_annotation() -> serde_json::Value {
    serde_json::json!({ format!("{PREFIX}{SECRET_VERSIONS}"): null })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_annotations_only_what_is_read_is_kept() {
        let meta: ObjectMeta = serde_json::from_value(serde_json::json!({
            "namespace": "shop", "name": "db", "uid": "u-1",
            "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": "the whole object",
                "vault-sync.io/path": "secret/app",
                "vault-sync.io/pth": "x",
                "vault-sync.io/": "x",
                "path": "x",
            },
        }))
        .unwrap();
        let source = source(Kind::Secret, &meta, Vec::new()).unwrap();
        assert_eq!(
            source.annotations.into_iter().collect::<Vec<_>>(),
            [
                (String::new(), String::new()),
                ("path".to_owned(), "secret/app".to_owned()),
                ("pth".to_owned(), String::new())
            ]
        );
    }

    #[test]
    fn annotations_of_ours_on_a_template_are_seen_by_name() {
        let annotations = |name: &str| serde_json::json!({"annotations": {name: "secret/app", "other": "x"}});
        let of = |kind: Kind, spec: serde_json::Value| {
            let workload: Workload = serde_json::from_value(serde_json::json!({
                "metadata": {"namespace": "shop", "name": "web", "uid": "u-1"}, "spec": spec,
            }))
            .unwrap();
            let source = workload.source(kind, Discover::default()).unwrap();
            source.annotations.into_keys().collect::<Vec<_>>()
        };
        let template = serde_json::json!({"metadata": annotations("vault-sync.io/path")});
        assert_eq!(
            of(Kind::Deployment, serde_json::json!({"template": template})),
            ["template/path"]
        );
        let jobs = serde_json::json!({"metadata": annotations("vault-sync.io/secrets"), "spec": {"template": template}});
        assert_eq!(
            of(Kind::CronJob, serde_json::json!({"jobTemplate": jobs})),
            ["template/path", "template/secrets"]
        );
        let none = serde_json::json!({"template": {"metadata": {"annotations": null}}});
        assert_eq!(of(Kind::Deployment, none), [] as [&str; 0]);
    }

    #[test]
    fn a_right_that_is_missing_may_come_and_a_refusal_stays() {
        let error = |code: u16| {
            let status =
                serde_json::json!({"status": "Failure", "code": code, "message": "m", "reason": "r"});
            Error::of(
                "read it",
                kube::Error::Api(serde_json::from_value(status).unwrap()),
            )
        };
        for (code, retry) in [
            (401, Retry::Backoff),
            (403, Retry::Backoff),
            (404, Retry::Backoff),
            (409, Retry::Backoff),
            (429, Retry::Backoff),
            (500, Retry::Backoff),
            (422, Retry::Slowly),
        ] {
            assert_eq!(error(code).retry(), retry, "{code}");
        }
    }
}
