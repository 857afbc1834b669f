//! `doctor`: checks whether an operator with these flags could work here, and prints one line per check.
//!
//! It logs in as the operator does, and writes, reads and deletes its own document. It touches no other
//! document: a user's document at that path stays as it is, deleted or not.

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

use crate::cli::{Config, DoctorArgs};
use crate::kube::{Kube, call, connect, resource};
use crate::mounts::{Fault, Mounts};
use crate::run::Error;
use crate::vault::{self, ErrorKind, Observer, Vault};
use domain::document::{Cas, Claim, DocumentId, KvVersion, Mark, Mount, Observed};
use domain::path;
use domain::queue::Depth;
use domain::source::{Kind, SourceKey};
use domain::value::{Content, Found, Value, same};

/// Longest wait for an answer.
const WITHIN: Duration = Duration::from_secs(20);

/// The key and the value that only `doctor` writes.
const MARK: (&str, &str) = ("written-by", "vault-sync-operator doctor");

/// Runs all checks, and fails if one of them fails.
pub async fn doctor(config: Config, what: &DoctorArgs) -> Result<(), Error> {
    let mut findings = Diagnosis::default();
    let client = match connect(config.kubeconfig.as_deref()).await {
        Ok(client) => client,
        Err(error) => {
            findings.bad("Kubernetes", error);
            return findings.end();
        }
    };
    let cluster = in_kubernetes(&config, &client, &mut findings).await;
    let vault = vault::http(&config.vault)
        .and_then(|wire| Vault::new(config.vault.clone(), wire, Arc::new(Unobserved)))
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
    // Stopping the session revokes the token.
    stop.cancel();
    let _ = session.await;
    findings.end()
}

/// The number of successful and failed checks.
#[derive(Default)]
struct Diagnosis {
    good: usize,
    bad: usize,
}

impl Diagnosis {
    fn good(&mut self, what: &str) {
        self.good += 1;
        say(&format!("ok    {what}"));
    }

    fn bad(&mut self, what: &str, why: impl Display) {
        self.bad += 1;
        say(&format!("FAIL  {what}: {why}"));
    }

    /// The operator works without it, but users should know the effect.
    fn warn(&mut self, what: &str, why: impl Display) {
        self.good += 1;
        say(&format!("WARN  {what}: {why}"));
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

/// If the reader has closed the output, the error does not matter.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

struct Unobserved;

impl Observer for Unobserved {
    fn auth_attempt(&self, _success: bool) {}
    fn up(&self, _up: bool) {}
}

/// Checks whether each call that the operator makes is allowed. Returns the cluster's ID.
async fn in_kubernetes(config: &Config, client: &kube::Client, findings: &mut Diagnosis) -> Option<String> {
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

async fn log_in(config: &Config, vault: &Vault, findings: &mut Diagnosis) -> bool {
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
    // A session that cannot log in keeps retrying; here the first answer decides.
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

/// What was attempted, and why it failed.
struct Failure(String, String);

/// Finds the document that the path names, and runs all checks with it.
async fn probe(
    config: &Config,
    vault: &Vault,
    written: &str,
    cluster_id: String,
    findings: &mut Diagnosis,
) -> Result<(), Failure> {
    let of_path = |fault: &dyn Display| Failure(format!("path {written:?}"), fault.to_string());
    path::check(written).map_err(|fault| of_path(&fault))?;
    let mounts = Mounts::new(vault.clone(), config.settings.mounts.clone());
    let mount = mounts
        .resolve(&path::mount_query(written, &config.settings), Depth::Full)
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
    let probe = Trial {
        vault,
        mount: &mount,
        id: &place.id,
        content: BTreeMap::from([(MARK.0.to_owned(), Value::new(MARK.1.as_bytes().to_vec()))]),
        config,
        cluster_id,
    };
    probe.run(findings).await
}

/// A document that only `doctor` writes.
///
/// On KV v2, it deletes only versions that hold the mark, by number. It writes only with check-and-set, at a
/// path that is free or its own. It never purges, because another client could write there just before. A
/// deleted version therefore stays in the history, and the next run must recognize it as its own. The claim
/// names that version. Without permissions on `metadata/`, the version before it holds the mark and is not
/// deleted.
struct Trial<'a> {
    vault: &'a Vault,
    mount: &'a Mount,
    id: &'a DocumentId,
    content: Content,
    config: &'a Config,
    cluster_id: String,
}

/// What the first write is based on.
struct Start {
    cas: Cas,
    /// A version of an earlier run that is not deleted.
    older: Option<u64>,
}

impl Trial<'_> {
    /// Writes, claims, reads and deletes the document.
    async fn run(&self, findings: &mut Diagnosis) -> Result<(), Failure> {
        let Start { cas, mut older } = self.start().await?;
        let mut version = self.write(cas).await?;
        findings.good("write");
        if self.mount.version == KvVersion::V2 && !self.mark(version, findings).await {
            // Without a claim, the version before the deleted one shows who owned it.
            if older != version.checked_sub(1) {
                match self.write(Cas::Version(version)).await {
                    Ok(next) => version = next,
                    Err(Failure(what, why)) => findings.bad(&what, why),
                }
            }
            older = None;
        }
        match self.read().await? {
            Observed::Live { content, .. } if self.is_mark(&content) => findings.good("read"),
            _ => findings.bad("read", "it is not what was written; does somebody else write it?"),
        }
        self.delete(version).await?;
        findings.good("delete");
        if let Some(older) = older {
            // If this is denied, the version stays below a deleted one, where no client reads it.
            let _ = self.vault.delete_version(self.id, older).await;
        }
        Ok(())
    }

    /// Puts the claim on the document, and returns whether that succeeded.
    async fn mark(&self, version: u64, findings: &mut Diagnosis) -> bool {
        let claimed = self
            .vault
            .patch_metadata(self.id, &self.claim(version).patch())
            .await;
        match &claimed {
            Ok(()) => findings.good("claim"),
            Err(error) if error.kind == ErrorKind::Denied => findings.warn(
                "claim",
                format!("{error} — without permissions on metadata/ the operator works, but documents carry no claims; see the README under \"Ownership\""),
            ),
            Err(error) => findings.bad("claim", in_hints(error)),
        }
        claimed.is_ok()
    }

    /// Makes sure that the path is free, or that its content is our own.
    async fn start(&self) -> Result<Start, Failure> {
        let left = || {
            say(&format!(
                "note  an earlier run left its document {}; this run removes it",
                self.id
            ));
        };
        let foreign = |why: &str| {
            Err(Failure(
                format!("document {}", self.id),
                format!("{why}; choose another path with --probe (in the chart: test.path)"),
            ))
        };
        let start = |version, older| match self.mount.version {
            KvVersion::V1 => Start {
                cas: Cas::None,
                older: None,
            },
            KvVersion::V2 => Start {
                cas: Cas::Version(version),
                older,
            },
        };
        match self.read().await? {
            Observed::Absent => Ok(start(0, None)),
            Observed::Live { version, content, .. } if self.is_mark(&content) => {
                left();
                Ok(start(version, Some(version)))
            }
            Observed::Live { .. } => foreign("it exists, and doctor did not write it; nothing was changed"),
            Observed::Deleted { version, mark } => match version.checked_sub(1) {
                _ if Self::names(&mark, version) => Ok(start(version, None)),
                Some(before) if before > 0 && self.holds_mark(before).await? => {
                    Ok(start(version, Some(before)))
                }
                _ => foreign(
                    "its latest version is deleted, and doctor did not write that one; nothing was changed, since it can be undeleted",
                ),
            },
        }
    }

    /// The claim of a run, which names the version that the run deletes.
    fn claim(&self, version: u64) -> Claim {
        Claim {
            cluster: Some(self.config.settings.cluster_name.clone()).filter(|name| !name.is_empty()),
            cluster_id: self.cluster_id.clone(),
            holder: SourceKey {
                kind: Kind::Secret,
                namespace: self.config.namespace.as_str().into(),
                name: holder(version).into(),
            },
            adopted: false,
        }
    }

    /// Whether a claim by a run of `doctor`, in any cluster, names this version.
    fn names(mark: &Mark, version: u64) -> bool {
        matches!(mark, Mark::Claimed(claim) if claim.holder.kind == Kind::Secret && *claim.holder.name == *holder(version))
    }

    fn is_mark(&self, content: &Found) -> bool {
        same(content, &self.content)
    }

    async fn holds_mark(&self, version: u64) -> Result<bool, Failure> {
        let seen = self.vault.read_version(self.id, version).await;
        let seen = seen.map_err(|error| self.failed("read", &error))?;
        Ok(matches!(seen, Observed::Live { content, .. } if self.is_mark(&content)))
    }

    async fn read(&self) -> Result<Observed<Found>, Failure> {
        let seen = self.vault.read(self.mount, self.id).await;
        seen.map_err(|error| self.failed("read", &error))
    }

    async fn write(&self, cas: Cas) -> Result<u64, Failure> {
        let written = self.vault.write(self.mount, self.id, &self.content, cas).await;
        written
            .map(|written| written.version)
            .map_err(|error| self.failed("write", &error))
    }

    /// Deletes the version that this run wrote. If the policy denies a delete by number, it does what the
    /// operator does then: it reads the latest version, and deletes it immediately if it is this one.
    async fn delete(&self, version: u64) -> Result<(), Failure> {
        if self.mount.version == KvVersion::V2 {
            match self.vault.delete_version(self.id, version).await {
                Err(error) if error.kind == ErrorKind::Denied => {}
                done => return done.map_err(|error| self.failed("delete", &error)),
            }
        }
        let latest = self.read().await?;
        let ours = matches!(&latest, Observed::Live { version: is, content, .. } if *is == version && self.is_mark(content));
        if !ours {
            let what = format!("delete {}", self.id);
            let why = "somebody else has written it; nothing was deleted; choose another path with --probe";
            return Err(Failure(what, why.to_owned()));
        }
        let deleted = self.vault.delete_latest(self.mount, self.id).await;
        deleted.map_err(|error| self.failed("delete", &error))
    }

    fn failed(&self, doing: &str, error: &vault::Error) -> Failure {
        Failure(format!("{doing} {}", self.id), in_hints(error))
    }
}

/// The name in a claim. It contains the version that the run deletes.
fn holder(version: u64) -> String {
    format!("vault-sync-operator-doctor.{version}")
}
