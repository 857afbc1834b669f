//! `doctor`: whether an operator with these flags, here, could do its work; one line for each thing that is tried.
//!
//! It logs in as the operator does, and does with a document of its own what the operator does with others'.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::{Api, PostParams};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::cli::{Config, Doctor};
use crate::domain::document::{Cas, Claim, DocumentId, KvVersion, Mount, Observed};
use crate::domain::path;
use crate::domain::source::{Kind, SourceKey};
use crate::domain::value::{Content, Value, same};
use crate::kube::{Kube, call, connect, resource};
use crate::mounts::{Fault, Mounts};
use crate::run::Error;
use crate::vault::{self, ErrorKind, Observer, Vault};

/// No answer takes longer that is worth waiting for.
const WITHIN: Duration = Duration::from_secs(20);

/// Tries everything, and fails if anything does.
pub async fn doctor(config: Config, what: &Doctor) -> Result<(), Error> {
    let mut findings = Findings::default();
    let client = match connect(config.kubeconfig.as_deref()).await {
        Ok(client) => client,
        Err(error) => {
            findings.bad("Kubernetes", error);
            return findings.end();
        }
    };
    let cluster = in_kubernetes(&config, &client, &mut findings).await;
    let vault = Vault::new(config.vault.clone(), Arc::new(Unseen))
        .map_err(|error| Error::Setup(error.to_string()))?;
    let stop = CancellationToken::new();
    let session = tokio::spawn({
        let (vault, stop) = (vault.clone(), stop.clone());
        async move { vault.maintain(stop).await }
    });
    if log_in(&config, &vault, &mut findings).await
        && let Some(written) = &what.probe
        && let Err(fault) = probe(
            &config,
            &vault,
            written,
            cluster.unwrap_or_default(),
            &mut findings,
        )
        .await
    {
        findings.bad(&fault.0, fault.1);
    }
    // The token is revoked.
    stop.cancel();
    let _ = session.await;
    findings.end()
}

/// What was tried, and what came of it.
#[derive(Default)]
struct Findings {
    good: usize,
    bad: usize,
}

impl Findings {
    fn good(&mut self, what: &str) {
        self.good += 1;
        say(&format!("ok    {what}"));
    }

    fn bad(&mut self, what: &str, why: impl Display) {
        self.bad += 1;
        say(&format!("FAIL  {what}: {why}"));
    }

    fn end(self) -> Result<(), Error> {
        match self.bad {
            0 => Ok(()),
            bad => Err(Error::Setup(format!(
                "{bad} of {} checks failed, see above",
                self.good + bad
            ))),
        }
    }
}

/// One that stops reading us need not be told.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

struct Unseen;

impl Observer for Unseen {
    fn auth_attempt(&self, _success: bool) {}
    fn up(&self, _up: bool) {}
}

/// Looks whether each call that the operator makes is allowed; returns the cluster's id.
async fn in_kubernetes(config: &Config, client: &kube::Client, findings: &mut Findings) -> Option<String> {
    let cluster = Kube::new(client.clone(), config.discover).cluster_id().await;
    match &cluster {
        Ok(id) => findings.good(&format!("Kubernetes answers; this cluster's id is {id}")),
        Err(error) => findings.bad("Kubernetes", format!("{error} — {}", error.hint())),
    }
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let (mut asked, mut missing) = (0_usize, Vec::new());
    for right in rights(config) {
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(right.clone()),
                ..Default::default()
            },
            ..Default::default()
        };
        match call(
            "ask for our rights",
            reviews.create(&PostParams::default(), &review),
        )
        .await
        {
            Ok(answer) if answer.status.as_ref().is_some_and(|status| status.allowed) => asked += 1,
            Ok(_) => missing.push(in_words(&right)),
            Err(error) => {
                findings.bad("rights in Kubernetes", error);
                return cluster.ok();
            }
        }
    }
    if missing.is_empty() {
        findings.good(&format!("rights in Kubernetes: all {asked} that are needed"));
    } else {
        let list = missing.join(", ");
        findings.bad(
            "rights in Kubernetes",
            format!("the ServiceAccount may not {list} — add that to its Roles"),
        );
    }
    cluster.ok()
}

/// The calls that the operator makes with these flags.
fn rights(config: &Config) -> Vec<ResourceAttributes> {
    let mut rights = Vec::new();
    let mut need =
        |verbs: &[&str], group: &str, resource: &str, namespace: Option<&str>, name: Option<&str>| {
            rights.extend(verbs.iter().map(|verb| ResourceAttributes {
                verb: Some((*verb).to_owned()),
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                namespace: namespace.map(ToOwned::to_owned),
                name: name.map(ToOwned::to_owned),
                ..Default::default()
            }));
        };
    let namespaces: Vec<Option<&str>> = match config.watch_namespaces.as_slice() {
        [] => vec![None],
        some => some.iter().map(|name| Some(name.as_str())).collect(),
    };
    let mut kinds = config.kinds.clone();
    if !kinds.contains(&Kind::Secret) {
        kinds.push(Kind::Secret);
    }
    for namespace in namespaces {
        for kind in &kinds {
            let resource = resource(*kind);
            need(
                &["get", "list", "watch"],
                &resource.group,
                &resource.plural,
                namespace,
                None,
            );
            if config.settings.finalizers && config.kinds.contains(kind) {
                need(&["patch"], &resource.group, &resource.plural, namespace, None);
            }
        }
        need(&["create"], "events.k8s.io", "events", namespace, None);
    }
    let home = Some(config.namespace.as_str());
    need(&["get", "list", "create", "patch"], "", "configmaps", home, None);
    if config.leader_elect {
        const LEASES: (&str, &str) = ("coordination.k8s.io", "leases");
        need(&["create"], LEASES.0, LEASES.1, home, None);
        need(
            &["get", "list", "watch", "update"],
            LEASES.0,
            LEASES.1,
            home,
            Some(crate::lease::NAME),
        );
    }
    if config.enable_metrics_auth && config.metrics_bind_address.is_some() {
        need(&["create"], "authentication.k8s.io", "tokenreviews", None, None);
        need(
            &["create"],
            "authorization.k8s.io",
            "subjectaccessreviews",
            None,
            None,
        );
    }
    rights
}

fn in_words(right: &ResourceAttributes) -> String {
    let word = |part: &Option<String>| part.clone().unwrap_or_default();
    let mut words = format!("{} {}", word(&right.verb), word(&right.resource));
    if let Some(namespace) = &right.namespace {
        words = format!("{words} in {namespace}");
    }
    words
}

async fn log_in(config: &Config, vault: &Vault, findings: &mut Findings) -> bool {
    let address = &config.vault.address;
    if let Err(error) = vault.health(Instant::now()).await {
        findings.bad(&format!("Vault at {address}"), in_hints(&error));
        return false;
    }
    findings.good(&format!("Vault at {address} answers and is unsealed"));
    let login = format!(
        "login as role {:?} of auth/{}",
        config.vault.role, config.vault.auth_path
    );
    // A session that cannot log in goes on trying; here the first answer decides.
    match timeout(WITHIN, vault.first_login()).await {
        Ok(Ok(())) => {
            findings.good(&login);
            true
        }
        Ok(Err(error)) => {
            findings.bad(&login, in_hints(&error));
            false
        }
        Err(_) => {
            findings.bad(&login, format!("no answer in {}s", WITHIN.as_secs()));
            false
        }
    }
}

fn in_hints(error: &vault::Error) -> String {
    format!("{error} — {}", error.kind.hint())
}

/// What was tried, and why it failed.
struct Failure(String, String);

/// Writes, marks, reads and deletes a document that nobody else has.
async fn probe(
    config: &Config,
    vault: &Vault,
    written: &str,
    cluster_id: String,
    findings: &mut Findings,
) -> Result<(), Failure> {
    let of_path = |fault: &dyn Display| Failure(format!("path {written:?}"), fault.to_string());
    path::check(written).map_err(|fault| of_path(&fault))?;
    let mounts = Mounts::new(vault.clone(), config.settings.mounts.clone());
    let mount = mounts
        .resolve(&path::mount_query(written, &config.settings), true)
        .await
        .map_err(|fault| match fault {
            Fault::Vault(error) => Failure(format!("mount of {written:?}"), in_hints(&error)),
            Fault::Path(fault) => of_path(&fault),
        })?;
    let place = path::resolve(written, None, &config.namespace, &mount, &config.settings)
        .map_err(|fault| of_path(&fault))?;
    let version = match mount.version {
        KvVersion::V1 => 1,
        KvVersion::V2 => 2,
    };
    findings.good(&format!(
        "mount {}/ is KV version {version}; the document is {}",
        mount.path, place.id
    ));
    let failed = |doing: &str| {
        let what = format!("{doing} {}", place.id);
        move |error: vault::Error| Failure(what, in_hints(&error))
    };

    let cas = match vault.read(&mount, &place.id).await.map_err(failed("read"))? {
        Observed::Live { .. } => {
            let why = "it exists; name another with --probe, one that does not";
            return Err(Failure(format!("document {}", place.id), why.to_owned()));
        }
        _ if mount.version == KvVersion::V1 => Cas::None,
        Observed::Absent => Cas::Version(0),
        Observed::Deleted { version, .. } => Cas::Version(version),
    };
    let content: Content = BTreeMap::from([(
        "written-by".to_owned(),
        Value::new(b"vault-sync-operator doctor".to_vec()),
    )]);
    let version = vault
        .write(&mount, &place.id, &content, cas)
        .await
        .map_err(failed("write"))?;
    findings.good("write");
    if mount.version == KvVersion::V2 {
        let claim = Claim {
            adopted: false,
            cluster: Some(config.settings.cluster_name.clone()).filter(|name| !name.is_empty()),
            cluster_id,
            holder: SourceKey {
                kind: Kind::Secret,
                namespace: config.namespace.clone(),
                name: "vault-sync-operator-doctor".to_owned(),
            },
        };
        match vault.patch_metadata(&place.id, &claim.patch()).await {
            Ok(()) => findings.good("claim"),
            Err(error) => findings.bad(
                "claim",
                format!("{error} — without rights on metadata/ documents carry no claims, see the README under \"Whose a document is\""),
            ),
        }
    }
    match vault.read(&mount, &place.id).await.map_err(failed("read"))? {
        Observed::Live { held, .. } if same(&held, &content) => findings.good("read"),
        _ => findings.bad("read", "it is not what was written; does somebody else write it?"),
    }
    remove(vault, &mount, &place.id, version)
        .await
        .map_err(failed("delete"))?;
    findings.good("delete");
    Ok(())
}

/// For good where that is allowed: a probe should leave nothing.
async fn remove(vault: &Vault, mount: &Mount, id: &DocumentId, version: u64) -> Result<(), vault::Error> {
    if mount.version == KvVersion::V1 {
        return vault.delete_latest(mount, id).await;
    }
    match vault.purge(id).await {
        Err(error) if error.kind == ErrorKind::Denied => vault.delete_version(id, version).await,
        other => other,
    }
}
