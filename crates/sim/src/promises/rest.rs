//! What must hold when everything has come to rest: exactly the documents that are asked for, and nothing of ours
//! for what is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde_json::{Map, Value};

use super::{Promises, cluster_of};
use crate::kubernetes::{ApiServer, Resource};
use crate::people::{HOME, MOUNT, content};
use crate::plan::{Act, Hand, Plan};
use crate::vault::{Engine, Vault};

const FINALIZER: &str = "vault-sync.io/finalizer";

/// A source's wish for a document.
struct Wish {
    cluster: usize,
    /// Kind, namespace and name.
    source: String,
    /// What it should hold; `None`: a Secret is missing, so it stays as it is.
    content: Option<Value>,
}

impl Promises {
    /// What does not hold yet, if anything.
    pub fn unrest(
        &self,
        plan: &Plan,
        vault: &Vault,
        clusters: &[ApiServer],
        now: SystemTime,
    ) -> Option<String> {
        let mut wishes: BTreeMap<String, Vec<Wish>> = BTreeMap::new();
        for (cluster, server) in clusters.iter().enumerate() {
            if let Some(unrest) = finalizers(server) {
                return Some(unrest);
            }
            for (path, source, content) in wanted(server, plan.setup.isolation) {
                let wish = Wish {
                    cluster,
                    source,
                    content,
                };
                wishes.entry(path).or_default().push(wish);
            }
        }
        let v2 = vault
            .mount(MOUNT)
            .is_some_and(|mount| mount.engine == Engine::Kv2);
        for (path, wishes) in &wishes {
            // Who has it of those who want it is for others to check.
            if let [wish] = wishes.as_slice()
                && let Some(unrest) = self.unfulfilled(vault, path, wish, now, v2)
            {
                return Some(unrest);
            }
        }
        self.orphan(plan, vault, clusters, &wishes, now)
            .or_else(|| pending(plan, clusters, &wishes))
    }

    /// Why a wish is not fulfilled, though nothing stands in its way.
    fn unfulfilled(
        &self,
        vault: &Vault,
        path: &str,
        wish: &Wish,
        now: SystemTime,
        v2: bool,
    ) -> Option<String> {
        let content = wish.content.as_ref()?;
        let document = vault.document(MOUNT, path);
        let live = document.and_then(|document| document.live(now));
        if live == Some(content) {
            return None;
        }
        let known = self.documents.get(&(MOUNT.to_owned(), path.to_owned()));
        // A person had the last word, and nobody has looked since; or it is another's.
        if known.is_some_and(|known| known.by_person) || (!v2 && live.is_some()) {
            return None;
        }
        let author = document
            .and_then(|document| document.latest())
            .map(|latest| latest.author.as_str());
        let of_another = live.is_some() && author.and_then(cluster_of) != Some(wish.cluster);
        // Another tool's mark, or another cluster's claim, outlives the version.
        let marked = document.is_some_and(|document| {
            !document.custom_by.is_empty() && cluster_of(&document.custom_by) != Some(wish.cluster)
        });
        if of_another || marked {
            return None;
        }
        Some(format!("{path} should hold {content} and holds {live:?}"))
    }

    /// A document of ours that nobody wants.
    fn orphan(
        &self,
        plan: &Plan,
        vault: &Vault,
        clusters: &[ApiServer],
        wishes: &BTreeMap<String, Vec<Wish>>,
        now: SystemTime,
    ) -> Option<String> {
        // Who has not got all that it asks for loses nothing.
        let live = |path: &str| {
            vault
                .document(MOUNT, path)
                .and_then(|document| document.live(now))
        };
        let lacks = |(path, wish): (&String, &Wish)| {
            let has = wish.content.is_some() && live(path) == wish.content.as_ref();
            (!has).then(|| wish.source.clone())
        };
        let all = wishes
            .iter()
            .flat_map(|(path, wishes)| wishes.iter().map(move |wish| (path, wish)));
        let in_want: BTreeSet<String> = all.filter_map(lacks).collect();
        let kept = |path: &str| {
            let mut lines = clusters.iter().flat_map(lines);
            lines.any(|line| line["path"] == path && in_want.contains(&holder(&line)))
        };
        if plan.setup.deletion == "retain" || plan.acts.iter().any(|(_, act)| may_keep(act)) {
            return None;
        }
        let mount = vault.mount(MOUNT)?;
        for (path, document) in mount.documents() {
            let Some(latest) = document.latest().filter(|latest| latest.is_live(now)) else {
                continue;
            };
            let known = self.documents.get(&(MOUNT.to_owned(), path.to_owned()));
            let by_person = known.is_some_and(|known| known.by_person);
            if cluster_of(&latest.author).is_some() && !wishes.contains_key(path) && !by_person && !kept(path)
            {
                return Some(format!("{path} is left over, by {}", latest.author));
            }
        }
        None
    }
}

/// Whether this can be a reason that a document stays which nobody wants.
fn may_keep(act: &Act) -> bool {
    match act {
        // What is misspelt acts as `retain`, and so does what is paused when its source goes.
        Act::Annotate(_, name, value) => {
            matches!(*name, "paused" | "preserve-on-delete" | "paths") && value.is_some()
                || *name == "deletion-policy" && *value == Some("retain")
                || *name == "path" && value.is_some()
        }
        // What the ledger knew alone is lost with it.
        Act::LoseLedger(_) | Act::Remount(_) => true,
        // Another's mark makes it another's.
        Act::Hand(_, hand) => matches!(hand, Hand::Mark | Hand::Unmark),
        _ => false,
    }
}

/// A finalizer of ours on what is no source, or on what is being deleted.
fn finalizers(server: &ApiServer) -> Option<String> {
    for resource in [Resource::Deployments, Resource::Secrets] {
        for object in server.objects(resource) {
            let metadata = &object["metadata"];
            let finalizers = metadata["finalizers"].as_array();
            let ours = finalizers.is_some_and(|all| all.iter().any(|one| one == FINALIZER));
            let asks = !metadata["annotations"]["vault-sync.io/path"].is_null();
            if ours && (!asks || !metadata["deletionTimestamp"].is_null()) {
                return Some(format!(
                    "{} {}/{} has a finalizer",
                    resource.kind(),
                    metadata["namespace"],
                    metadata["name"]
                ));
            }
        }
    }
    None
}

/// The documents that a cluster's sources ask for, and what each should hold.
fn wanted(server: &ApiServer, isolation: &str) -> Vec<(String, String, Option<Value>)> {
    let mut wanted = Vec::new();
    for resource in [Resource::Deployments, Resource::Secrets] {
        for object in server.objects(resource) {
            let metadata = &object["metadata"];
            let annotations = &metadata["annotations"];
            let of = |name: &str| annotations[format!("vault-sync.io/{name}")].as_str();
            let Some(path) = of("path").and_then(|path| path.strip_prefix("secret/")) else {
                continue;
            };
            // What it asks for is not clear, or not to be done.
            if of("paused").is_some() || of("paths").is_some() || !metadata["deletionTimestamp"].is_null() {
                continue;
            }
            let namespace = metadata["namespace"].as_str().unwrap_or_default();
            let path = match isolation {
                "prefix" => format!("{namespace}/{path}"),
                "enforce" => continue,
                _ => path.to_owned(),
            };
            let name = metadata["name"].as_str().unwrap_or_default();
            let source = format!("{} {namespace}/{name}", resource.kind());
            if resource == Resource::Secrets {
                wanted.push((path, source, Some(content(object))));
                continue;
            }
            let secret = |name: &str| server.object(Resource::Secrets, namespace, name).map(content);
            let used = used(object);
            if of("secrets").is_some() {
                let mut whole = Map::new();
                let parts: Option<Vec<Value>> = used.iter().map(|name| secret(name)).collect();
                for part in parts.iter().flatten() {
                    whole.extend(part.as_object().cloned().unwrap_or_default());
                }
                wanted.push((path, source, parts.map(|_| whole.into())));
            } else {
                let each = used
                    .iter()
                    .map(|name| (format!("{path}/{name}"), source.clone(), secret(name)));
                wanted.extend(each);
            }
        }
    }
    wanted
}

/// The Secrets that a Deployment's pod uses.
fn used(deployment: &Value) -> Vec<String> {
    let from = &deployment["spec"]["template"]["spec"]["containers"][0]["envFrom"];
    let from = from.as_array().into_iter().flatten();
    from.filter_map(|one| Some(one["secretRef"]["name"].as_str()?.to_owned()))
        .collect()
}

/// The lines of a ledger.
fn lines(server: &ApiServer) -> Vec<Value> {
    let maps = server.objects(Resource::ConfigMaps);
    let ours = maps.filter(|map| map["metadata"]["namespace"] == HOME);
    let texts = ours.flat_map(|map| map["data"].as_object().into_iter().flatten());
    texts
        .filter_map(|(_, text)| serde_json::from_str(text.as_str()?).ok())
        .filter(|line: &Value| !line["state"].is_null())
        .collect()
}

/// The source that a line names.
fn holder(line: &Value) -> String {
    let of = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
    format!("{} {}/{}", of("kind"), of("namespace"), of("name"))
}

/// What a ledger still has to do, though nothing keeps its operator from it.
fn pending(plan: &Plan, clusters: &[ApiServer], wishes: &BTreeMap<String, Vec<Wish>>) -> Option<String> {
    clusters.iter().flat_map(lines).find_map(|line| {
        // Where metadata may not be deleted, a purge waits for ever. What is wanted waits for its Secret.
        let may_wait = plan.setup.claimless && line["deletion"] == "purge"
            || line["paused"] == true
            || wishes.contains_key(line["path"].as_str().unwrap_or_default());
        (line["state"] != "written" && !may_wait).then(|| format!("the ledger waits: {line}"))
    })
}
