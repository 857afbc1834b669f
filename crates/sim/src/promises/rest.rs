//! What must hold when everything has come to rest: exactly the documents that are asked for, and nothing of ours
//! for what is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use super::clusters::Holder;
use super::documents::may_end_early;
use super::{Promises, cluster_of};
use crate::kubernetes::{ApiServer, Resource};
use crate::people::{HOME, MOUNT, content};
use crate::plan::{Act, Hand, Plan, Wires};
use crate::vault::{Document, Engine, Vault};

pub(super) const FINALIZER: &str = "vault-sync.io/finalizer";
/// In a claim: its holder has left the document where it is.
pub(super) const RELEASED: &str = "vault-sync.io/released";

/// A process that runs, and what it shows.
pub struct Alive {
    /// Who it is.
    pub who: String,
    /// Which cluster it is in.
    pub cluster: usize,
    /// What `/metrics` would say.
    pub series: String,
}

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
    pub fn find_unmet(
        &self,
        plan: &Plan,
        vault: &Vault,
        clusters: &[ApiServer],
        alive: &[Alive],
        now: SystemTime,
    ) -> Option<String> {
        let mut wishes: BTreeMap<String, Vec<Wish>> = BTreeMap::new();
        for (cluster, server) in clusters.iter().enumerate() {
            // What still lives waits for it.
            let for_ever = self.purges_for_ever();
            if let Some(unrest) = finalizers(server, for_ever) {
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
                && !clusters
                    .iter()
                    .any(|server| is_held_in_error(server, vault, path))
                && let Some(unrest) = self.unfulfilled(vault, path, wish, now, v2)
            {
                return Some(unrest);
            }
        }
        self.orphan(plan, vault, clusters, &wishes, now)
            .or_else(|| pending(plan, clusters, &wishes))
            .or_else(|| {
                let stale = |process| stale_series(process, clusters);
                alive.iter().filter(|_| !self.purges_for_ever()).find_map(stale)
            })
            .or_else(|| self.tokens(vault, alive, now))
    }

    /// Whether a purge may wait for ever: where metadata may not be deleted.
    pub fn purges_for_ever(&self) -> bool {
        let asks = |act: &Act| matches!(act, Act::Annotate(_, "deletion-policy", Some("purge")));
        self.setup.claimless && (self.setup.deletion == "purge" || self.acts.iter().any(asks))
    }

    /// Whether a write may land after two timeouts: for that nobody waits.
    fn lands_too_late(&self) -> bool {
        let waits = Duration::from_secs(2 * u64::from(self.setup.timeout));
        let too_late = |act: &Act| matches!(act, Act::Weather(Wires::Vault, sky) if sky.slow.1 > waits);
        self.acts.iter().any(too_late)
    }

    /// A token of a process that has ended in order, or one too many: each login's answer has arrived, where no
    /// wire to Vault was bad, and none was waited for by a process that was killed.
    fn tokens(&self, vault: &Vault, alive: &[Alive], now: SystemTime) -> Option<String> {
        let lost = |act: &Act| {
            let bad_wire = matches!(act, Act::Weather(Wires::Vault, sky) if sky.loses() || sky.is_slow());
            bad_wire || matches!(act, Act::Kill(_) | Act::Seal | Act::Policy(_))
        };
        // Nor where a login takes longer than its answer is waited for.
        let impatient = self.setup.timeout < 10;
        if impatient || self.acts.iter().any(lost) {
            return None;
        }
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        for token in vault.tokens(now) {
            let who = self.logins.get(&token.accessor).map_or("", String::as_str);
            *count.entry(who).or_default() += 1;
        }
        count.into_iter().find_map(|(who, count)| {
            let most = usize::from(alive.iter().any(|process| process.who == who));
            (cluster_of(who).is_some() && count > most).then(|| format!("{who} has {count} tokens"))
        })
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
        if live == Some(content) || self.lands_too_late() {
            return None;
        }
        let known = self.documents.get(&(MOUNT.to_owned(), path.to_owned()));
        // A person had the last word, and nobody has looked since; or nothing tells whose it is.
        let shared = self.setup.clusters > 1 && (!v2 || self.setup.claimless);
        if known.is_some_and(|known| known.by_person) || shared || (!v2 && live.is_some()) {
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
        // What nobody has a title to is nobody's.
        let forgotten = live.is_some()
            && document.is_some_and(|document| document.custom.is_empty())
            && self.acts.iter().any(loses_the_ledger);
        // So is what its last holder has left there.
        let released = document.is_some_and(|document| document.custom.contains_key(RELEASED));
        let retained = live.is_some()
            && document.is_some_and(|document| document.custom.is_empty())
            && (self.setup.deletion == "retain" || self.acts.iter().any(may_keep));
        if of_another || marked || forgotten || released || retained {
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
        // Of several that ask for it, only one has it.
        let lacks = |(path, wish): (&String, &Wish)| {
            let alone = wishes.get(path).is_none_or(|wishes| wishes.len() == 1);
            let latest = vault.document(MOUNT, path).and_then(Document::latest);
            let ours = latest.and_then(|latest| cluster_of(&latest.author)) == Some(wish.cluster);
            let has = alone && ours && wish.content.is_some() && live(path) == wish.content.as_ref();
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
        // Without versions or claims, nothing proves that a write without an answer was ours.
        let unproven = (plan.setup.kv == 1 || plan.setup.claimless) && self.acts.iter().any(may_end_early);
        if unproven
            || self.lands_too_late()
            || plan.setup.deletion == "retain"
            || self.acts.iter().any(may_keep)
        {
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
        Act::LoseLedger(_) | Act::EditLedger(..) | Act::Remount(_) => true,
        // Another's mark makes it another's.
        Act::Hand(_, hand) => matches!(hand, Hand::Mark | Hand::Unmark | Hand::Manage),
        _ => false,
    }
}

/// Whether a document's holder is a source that nobody understands any more: it loses nothing.
fn is_held_in_error(server: &ApiServer, vault: &Vault, path: &str) -> bool {
    let mut lines = lines(server).into_iter().filter(|line| line["path"] == path);
    let claim = vault.document(MOUNT, path).map(|document| {
        let custom = document.custom.iter();
        let fields =
            custom.filter_map(|(key, value)| Some((key.strip_prefix("vault-sync.io/")?, value.as_str())));
        fields
            .map(|(key, value)| (key.to_owned(), value.into()))
            .collect::<Map<_, _>>()
            .into()
    });
    lines.any(|line| is_of_an_error(server, &line))
        || claim.is_some_and(|claim| is_of_an_error(server, &claim))
}

/// Whether a line's source is one that nobody understands any more.
fn is_of_an_error(server: &ApiServer, line: &Value) -> bool {
    let (resource, key) = source_of(line);
    let object = key
        .split_once('/')
        .and_then(|(namespace, name)| server.object(resource, namespace, name));
    object.is_some_and(|object| {
        let path = object["metadata"]["annotations"]["vault-sync.io/path"].as_str();
        path.is_some_and(|path| path.contains("..") || !is_clear(object))
    })
}

pub(super) fn loses_the_ledger(act: &Act) -> bool {
    matches!(act, Act::LoseLedger(_) | Act::EditLedger(..))
}

/// A series of a source that is gone.
fn stale_series(process: &Alive, clusters: &[ApiServer]) -> Option<String> {
    let server = clusters.get(process.cluster)?;
    let label = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!("{name}=\""))?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let is_source = |namespace: &str, name: &str| {
        let pending = lines(server)
            .into_iter()
            .any(|line| line["namespace"] == namespace && line["name"] == name);
        pending
            || [Resource::Deployments, Resource::Secrets]
                .iter()
                .any(|&resource| {
                    let object = server.object(resource, namespace, name);
                    let annotations = object.and_then(|object| object["metadata"]["annotations"].as_object());
                    annotations.is_some_and(|all| all.keys().any(|key| key.starts_with("vault-sync.io/")))
                })
    };
    process.series.lines().find_map(|line| {
        let (namespace, name) = (label(line, "namespace")?, label(line, "resource")?);
        (!is_source(&namespace, &name)).then(|| format!("{} still counts: {line}", process.who))
    })
}

/// A finalizer of ours on what is no source, or on what is being deleted.
fn finalizers(server: &ApiServer, for_ever: bool) -> Option<String> {
    for resource in [Resource::Deployments, Resource::Secrets] {
        for object in server.objects(resource) {
            let metadata = &object["metadata"];
            let finalizers = metadata["finalizers"].as_array();
            let ours = finalizers.is_some_and(|all| all.iter().any(|one| one == FINALIZER));
            let asks = !metadata["annotations"]["vault-sync.io/path"].is_null();
            let deleting = !metadata["deletionTimestamp"].is_null();
            if ours && (deleting || !asks && !for_ever) {
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

/// The documents that a cluster's sources ask for, who asks, and what each should hold.
fn wanted(server: &ApiServer, isolation: &str) -> Vec<(String, String, Option<Value>)> {
    let mut wanted = Vec::new();
    for resource in [Resource::Deployments, Resource::Secrets] {
        for object in server.objects(resource) {
            let metadata = &object["metadata"];
            let namespace = metadata["namespace"].as_str().unwrap_or_default();
            let name = metadata["name"].as_str().unwrap_or_default();
            let source = format!("{} {namespace}/{name}", resource.kind());
            let secret = |name: &str| server.object(Resource::Secrets, namespace, name).map(content);
            let is_clear = is_clear(object);
            for (path, secrets) in documents_of(resource, object, isolation) {
                let content = match secrets {
                    _ if !is_clear => None,
                    Asked::Own => Some(content(object)),
                    Asked::One(name) => secret(&name),
                    Asked::All(names) => {
                        let parts: Option<Vec<Value>> = names.iter().map(|name| secret(name)).collect();
                        parts.map(|parts| {
                            let fields = parts.into_iter().filter_map(|part| match part {
                                Value::Object(fields) => Some(fields),
                                _ => None,
                            });
                            fields.flatten().collect::<Map<_, _>>().into()
                        })
                    }
                };
                wanted.push((path, source.clone(), content));
            }
        }
    }
    wanted
}

/// Whose content a document is asked for with.
pub(super) enum Asked {
    /// The source's own.
    Own,
    /// One Secret's.
    One(String),
    /// That of all of these.
    All(Vec<String>),
}

/// Whether what an object asks for is to be done, and nothing in it is misspelt.
pub(super) fn is_clear(object: &Value) -> bool {
    let annotations = &object["metadata"]["annotations"];
    ["paused", "paths"]
        .iter()
        .all(|name| annotations[format!("vault-sync.io/{name}")].is_null())
}

/// The documents that an object asks for.
pub(super) fn documents_of(resource: Resource, object: &Value, isolation: &str) -> Vec<(String, Asked)> {
    let metadata = &object["metadata"];
    let annotations = &metadata["annotations"];
    let of = |name: &str| annotations[format!("vault-sync.io/{name}")].as_str();
    let Some(path) = of("path").and_then(|path| path.strip_prefix("secret/")) else {
        return Vec::new();
    };
    if !metadata["deletionTimestamp"].is_null() {
        return Vec::new();
    }
    let path = match isolation {
        "prefix" => format!("{}/{path}", metadata["namespace"].as_str().unwrap_or_default()),
        "enforce" => return Vec::new(),
        _ => path.to_owned(),
    };
    if resource == Resource::Secrets {
        return vec![(path, Asked::Own)];
    }
    let used = used(object);
    if of("secrets").is_some() {
        return vec![(path, Asked::All(used))];
    }
    used.into_iter()
        .map(|name| (format!("{path}/{name}"), Asked::One(name)))
        .collect()
}

/// The Secrets that a Deployment's pod uses.
fn used(deployment: &Value) -> Vec<String> {
    let from = &deployment["spec"]["template"]["spec"]["containers"][0]["envFrom"];
    let from = from.as_array().into_iter().flatten();
    from.filter_map(|one| Some(one["secretRef"]["name"].as_str()?.to_owned()))
        .collect()
}

/// The lines of a ledger.
pub(super) fn lines(server: &ApiServer) -> Vec<Value> {
    let maps = server.objects(Resource::ConfigMaps);
    let ours = maps.filter(|map| map["metadata"]["namespace"] == HOME);
    ours.flat_map(lines_of).collect()
}

/// The lines of one ConfigMap of a ledger.
pub(super) fn lines_of(map: &Value) -> impl Iterator<Item = Value> {
    let texts = map["data"].as_object().into_iter().flatten();
    texts
        .filter_map(|(_, text)| serde_json::from_str(text.as_str()?).ok())
        .filter(|line: &Value| !line["state"].is_null())
}

/// The source that a line names: its kind, and namespace and name.
pub(super) fn source_of(line: &Value) -> Holder {
    let of = |name: &str| line[name].as_str().unwrap_or_default();
    let resource = match of("kind") {
        "Secret" => Resource::Secrets,
        _ => Resource::Deployments,
    };
    (resource, format!("{}/{}", of("namespace"), of("name")))
}

/// The source that a line names, for people.
fn holder(line: &Value) -> String {
    let of = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
    format!("{} {}/{}", of("kind"), of("namespace"), of("name"))
}

/// What a ledger still has to do, though nothing keeps its operator from it.
fn pending(plan: &Plan, clusters: &[ApiServer], wishes: &BTreeMap<String, Vec<Wish>>) -> Option<String> {
    // Where metadata may not be deleted, a purge waits for ever. What is wanted waits for its Secret.
    let may_wait = |server: &ApiServer, line: &Value| {
        plan.setup.claimless && line["deletion"] == "purge"
            || line["paused"] == true
            || wishes.contains_key(line["path"].as_str().unwrap_or_default())
            || is_of_an_error(server, line)
    };
    clusters.iter().find_map(|server| {
        let mut waiting = lines(server).into_iter();
        let line = waiting.find(|line| line["state"] != "written" && !may_wait(server, line))?;
        Some(format!("the ledger waits: {line}"))
    })
}
