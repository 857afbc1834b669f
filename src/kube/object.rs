//! Slim object types: only those fields from Kubernetes that the operator reads.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::ApiResource;
use kube::core::DynamicResourceScope;
use serde::Deserialize;

use domain::annotations::{self, FINALIZER, OnTemplate};
use domain::discovery::{PodSpec, references};
use domain::settings::Discover;
use domain::source::{Kind, Source, SourceKey};

/// A workload, reduced during parsing to metadata and references to Secrets.
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
    /// A CronJob has its template one level deeper.
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

/// A template's metadata, reduced to whether it has annotations of ours. They belong on the object itself.
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

    /// Our annotations on its pod template, or on a CronJob's job template.
    fn misplaced(&self) -> OnTemplate {
        let of = |meta: Option<&TemplateMeta>| meta.and_then(|meta| meta.annotations.clone());
        let pods = of(self.template().and_then(|template| template.metadata.as_ref()));
        let job = self.spec.as_ref().and_then(|spec| spec.job_template.as_ref());
        let jobs = of(job.and_then(|job| job.metadata.as_ref()));
        pods.unwrap_or_default().and(jobs.unwrap_or_default())
    }

    /// The source that this object is. `None`: Kubernetes left out a field that every object has.
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

/// The API resource of a kind.
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

/// Reduces an object's metadata to a source. Everything else is dropped, including an annotation that
/// contains the whole object.
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
}
