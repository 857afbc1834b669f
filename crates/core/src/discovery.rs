//! Which Secrets a pod template uses.
//!
//! The types contain only the fields that can refer to a Secret, so that the rest of a template is dropped
//! while it is parsed. <https://kubernetes.io/docs/reference/generated/kubernetes-api/v1.33/#podspec-v1-core>

use std::collections::BTreeMap;

use serde::Deserialize;

use super::names::is_object_name;
use super::settings::Discover;
use super::source::Reference;

/// A pod's `spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    containers: Option<Vec<Container>>,
    /// These include sidecars, which are init containers that always restart.
    init_containers: Option<Vec<Container>>,
    volumes: Option<Vec<Volume>>,
    image_pull_secrets: Option<Vec<LocalReference>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    env: Option<Vec<EnvVar>>,
    env_from: Option<Vec<EnvFrom>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EnvVar {
    value_from: Option<ValueFrom>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ValueFrom {
    secret_key_ref: Option<LocalReference>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct EnvFrom {
    secret_ref: Option<LocalReference>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Volume {
    secret: Option<LocalReference>,
    projected: Option<Projected>,
    csi: Option<Csi>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Projected {
    sources: Option<Vec<Projection>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Projection {
    secret: Option<LocalReference>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Csi {
    node_publish_secret_ref: Option<LocalReference>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct LocalReference {
    /// Only a secret volume calls it `secretName`.
    #[serde(alias = "secretName")]
    name: String,
    optional: Option<bool>,
}

/// The Secrets that the template uses, by name. A Secret that is used twice is optional only if each use is.
pub fn references(pod: &PodSpec, discover: Discover) -> Vec<Reference> {
    let containers = || each(pod.containers.as_ref()).chain(each(pod.init_containers.as_ref()));
    let volumes = || each(pod.volumes.as_ref());
    let plain = containers()
        .flat_map(|c| each(c.env.as_ref()))
        .filter_map(|variable| variable.value_from.as_ref()?.secret_key_ref.as_ref())
        .chain(
            containers()
                .flat_map(|c| each(c.env_from.as_ref()))
                .filter_map(|from| from.secret_ref.as_ref()),
        )
        .chain(volumes().filter_map(|v| v.secret.as_ref()))
        .chain(
            volumes()
                .filter_map(|v| v.projected.as_ref())
                .flat_map(|p| each(p.sources.as_ref()))
                .filter_map(|source| source.secret.as_ref()),
        );
    let csi = volumes()
        .filter_map(|v| v.csi.as_ref()?.node_publish_secret_ref.as_ref())
        .filter(|_| discover.csi);
    let pull = each(pod.image_pull_secrets.as_ref()).filter(|_| discover.image_pull_secrets);

    let mut found: BTreeMap<&str, bool> = BTreeMap::new();
    for LocalReference { name, optional } in plain.chain(csi).chain(pull) {
        let optional = optional.unwrap_or(false);
        // The API accepts any text as a name here. No Secret can have an invalid name, and the name would
        // become part of a request's path.
        if is_object_name(name) {
            found
                .entry(name)
                .and_modify(|all| *all &= optional)
                .or_insert(optional);
        }
    }
    found
        .into_iter()
        .map(|(secret, optional)| Reference {
            secret: secret.to_owned(),
            optional,
        })
        .collect()
}

fn each<T>(list: Option<&Vec<T>>) -> impl Iterator<Item = &T> {
    list.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pod: &str, discover: Discover) -> Vec<(String, bool)> {
        let pod: PodSpec = serde_json::from_str(pod).unwrap();
        references(&pod, discover)
            .into_iter()
            .map(|r| (r.secret, r.optional))
            .collect()
    }

    const EVERYWHERE: &str = r#"{
        "containers": [{
            "name": "app", "image": "x",
            "env": [{"name": "A", "value": "plain"},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "env", "key": "k"}}},
                    {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "no", "key": "k"}}}],
            "envFrom": [{"secretRef": {"name": "env-from"}}, {"configMapRef": {"name": "no"}}]
        }],
        "initContainers": [
            {"env": [{"name": "D", "valueFrom": {"secretKeyRef": {"name": "init", "key": "k"}}}]},
            {"restartPolicy": "Always", "envFrom": [{"secretRef": {"name": "sidecar"}}]}
        ],
        "volumes": [
            {"name": "v", "secret": {"secretName": "volume"}},
            {"name": "p", "projected": {"sources": [{"secret": {"name": "projected"}}, {"configMap": {"name": "no"}}]}},
            {"name": "c", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "csi"}}},
            {"name": "e", "emptyDir": {}}
        ],
        "imagePullSecrets": [{"name": "pull"}]
    }"#;

    #[test]
    fn every_way_to_use_a_secret_is_seen() {
        let names: Vec<String> = found(EVERYWHERE, Discover::default())
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(
            names,
            ["env", "env-from", "init", "projected", "sidecar", "volume"]
        );
        let names: Vec<String> = found(
            EVERYWHERE,
            Discover {
                image_pull_secrets: true,
                csi: true,
            },
        )
        .into_iter()
        .map(|(n, _)| n)
        .collect();
        assert_eq!(
            names,
            [
                "csi",
                "env",
                "env-from",
                "init",
                "projected",
                "pull",
                "sidecar",
                "volume"
            ]
        );
    }

    #[test]
    fn optional_only_when_each_use_is() {
        let pod = r#"{"containers": [{"envFrom": [
            {"secretRef": {"name": "a", "optional": true}},
            {"secretRef": {"name": "b", "optional": true}},
            {"secretRef": {"name": "b"}}]}],
            "volumes": [{"secret": {"secretName": "c", "optional": true}},
                        {"projected": {"sources": [{"secret": {"name": "c", "optional": false}}]}}]}"#;
        assert_eq!(
            found(pod, Discover::default()),
            [
                ("a".to_owned(), true),
                ("b".to_owned(), false),
                ("c".to_owned(), false)
            ]
        );
    }

    #[test]
    fn nulls_and_nothing() {
        assert_eq!(found("{}", Discover::default()), []);
        assert_eq!(
            found(
                r#"{"containers": null, "volumes": [{"secret": {"secretName": ""}}]}"#,
                Discover::default()
            ),
            []
        );
    }

    #[test]
    fn what_cannot_be_the_name_of_a_secret_is_none() {
        let pod = r#"{"containers": [{"envFrom": [
            {"secretRef": {"name": "db"}},
            {"secretRef": {"name": "../../kube-system/secrets/x"}},
            {"secretRef": {"name": "%2e%2e/x"}},
            {"secretRef": {"name": "db?watch=true"}},
            {"secretRef": {"name": "a/b"}},
            {"secretRef": {"name": ""}}
        ]}]}"#;
        assert_eq!(found(pod, Discover::default()), [("db".to_owned(), false)]);
    }
}
