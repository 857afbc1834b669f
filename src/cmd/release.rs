//! `release`: before an uninstall, removes everything that would wait for the operator.
//!
//! The steps: stop the operator, delete its documents if requested, remove its finalizers, delete the ledger
//! if requested, and delete the Lease. The order keeps a failure recoverable: while finalizers and ledger
//! exist, a restarted operator continues where the last one stopped.

use std::collections::BTreeSet;
use std::pin::pin;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease as LeaseObject;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::core::{PartialObjectMeta, Selector};
use kube::runtime::watcher::{self, watcher};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::cli::{Config, ReleaseArgs};
use crate::kube::{
    self as ours, Connect, Kube, WATCH_SECONDS, Workload, call, configure, http, resource, source,
};
use crate::lease::{self, Held, Lease};
use crate::ledger_io;
use crate::machine::{Aside, Clock};
use crate::run::{self, Duty, Error};
use domain::source::{Kind, Source};

/// Objects per page of a list.
const PAGE: u32 = 500;
/// Finalizers that are removed concurrently.
const AT_A_TIME: usize = 8;

/// Removes everything that would wait for the operator.
pub async fn release(config: Config, what: &ReleaseArgs) -> Result<(), Error> {
    let within = what.timeout;
    let all = tokio::time::timeout(within, Box::pin(let_go(config, what)));
    all.await.unwrap_or_else(|_| {
        Err(setup(format!(
            "not done within {}s (--timeout); what is left is still there, so run this again: without --delete-documents, if it is Vault that does not answer",
            within.as_secs()
        )))
    })
}

async fn let_go(mut config: Config, what: &ReleaseArgs) -> Result<(), Error> {
    let cluster = configure(config.kubeconfig.as_deref()).await?;
    let connect = http(cluster);
    let client = ours::client(connect.clone())?;
    if let Some(name) = &what.scale_down {
        scale_down(&client, &config.namespace, name).await?;
    }
    if what.delete_documents {
        // No client scrapes or probes this process.
        config.metrics_bind_address = None;
        config.health_probe_bind_address = None;
        run::run(config.clone(), Duty::ClearOut).await?;
    }
    let lease = lead(&client, connect, &config).await;
    take_finalizers_off(&client, &config).await?;
    if what.forget {
        forget(&client, &config.namespace).await?;
    }
    if let Some(lease) = lease {
        lease.release().await;
        let leases: Api<LeaseObject> = Api::namespaced(client, &config.namespace);
        let deleted = call(
            "delete the lease",
            leases.delete(lease::NAME, &DeleteParams::default()),
        )
        .await;
        deleted.map_err(setup)?;
    }
    Ok(())
}

fn setup(error: impl std::fmt::Display) -> Error {
    Error::Setup(error.to_string())
}

/// The part of a Deployment that selects its pods. The whole type would include the complete pod type.
#[derive(Deserialize)]
struct Scaled {
    spec: ScaledSpec,
}

#[derive(Deserialize)]
struct ScaledSpec {
    selector: LabelSelector,
}

/// Scales a Deployment to zero, and waits until all of its pods are gone.
async fn scale_down(client: &kube::Client, namespace: &str, name: &str) -> Result<(), Error> {
    let at = format!("/apis/apps/v1/namespaces/{namespace}/deployments/{name}");
    let what = format!("read Deployment {namespace}/{name}");
    let request = http::Request::get(&at).body(Vec::new()).map_err(setup)?;
    let deployment = match call(&what, client.request::<Scaled>(request)).await {
        Ok(deployment) => deployment,
        Err(crate::kube::Error::NotFound { .. }) => {
            tracing::info!(name, "there is no such Deployment; nothing to stop");
            return Ok(());
        }
        Err(error) => return Err(setup(error)),
    };
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let patch = Patch::Merge(serde_json::json!({"spec": {"replicas": 0}}));
    let params = PatchParams::default();
    let scaling = deployments.patch_scale(name, &params, &patch);
    call(&format!("scale Deployment {namespace}/{name} to zero"), scaling)
        .await
        .map_err(setup)?;
    let selector = Selector::try_from(deployment.spec.selector).map_err(setup)?;
    let pods: Api<PartialObjectMeta<Pod>> = Api::namespaced(client.clone(), namespace);
    let mut watching = pin!(watcher(
        pods,
        watcher::Config::default()
            .labels_from(&selector)
            .timeout(WATCH_SECONDS)
    ));
    let mut there = BTreeSet::new();
    let mut told = None;
    while let Some(event) = watching.next().await {
        let listed = match event {
            Ok(watcher::Event::Init) => {
                there.clear();
                false
            }
            Ok(watcher::Event::InitApply(pod)) => {
                there.extend(pod.metadata.name);
                false
            }
            Ok(watcher::Event::Apply(pod)) => {
                there.extend(pod.metadata.name);
                true
            }
            Ok(watcher::Event::Delete(pod)) => {
                there.remove(&pod.metadata.name.unwrap_or_default());
                true
            }
            Ok(watcher::Event::InitDone) => true,
            Err(error) => {
                return Err(setup(format!(
                    "cannot watch the pods of {namespace}/{name}: {error}"
                )));
            }
        };
        if listed && told.replace(there.len()) != Some(there.len()) {
            tracing::info!(pods = there.len(), "pods of the operator that are still there");
        }
        if listed && there.is_empty() {
            return Ok(());
        }
    }
    Err(setup(
        "the watch of the operator's pods has ended, which is a bug",
    ))
}

/// Waits until no other process writes. `None`: leader election is off.
async fn lead(client: &kube::Client, connect: Connect, config: &Config) -> Option<Held> {
    if !config.leader_elect {
        return None;
    }
    let identity = lease::identity(&config.instance);
    let mut lease = Lease::new(client.clone(), &config.namespace, identity, Clock::system());
    lease
        .acquire(&CancellationToken::new(), |_| ())
        .await
        .then(|| lease.hold(connect, &Aside::thread()))
}

async fn take_finalizers_off(client: &kube::Client, config: &Config) -> Result<(), Error> {
    let kube = Kube::new(client.clone(), config.discover);
    let (mut done, mut failed) = (0_usize, 0_usize);
    for kind in Kind::ALL {
        for namespace in namespaces(config) {
            let held = match held(client, kind, namespace).await {
                Ok(held) => held,
                Err(error) => {
                    failed += 1;
                    tracing::error!(%error, hint = error.hint(), "these objects could not be looked through");
                    continue;
                }
            };
            let mut taking = pin!(
                stream::iter(held)
                    .map(|source| {
                        let kube = &kube;
                        async move { (kube.remove_finalizer(&source).await, source.key) }
                    })
                    .buffer_unordered(AT_A_TIME)
            );
            while let Some((taken, key)) = taking.next().await {
                match taken {
                    Ok(()) => {
                        done += 1;
                        tracing::info!(source = %key, done, "took the finalizer off");
                    }
                    Err(error) => {
                        failed += 1;
                        tracing::error!(source = %key, %error, hint = error.hint(), "the finalizer is still there");
                    }
                }
            }
        }
    }
    if failed > 0 {
        return Err(setup(format!(
            "{failed} finalizers or lists of objects could not be dealt with, see above; {done} finalizers are gone; run this again"
        )));
    }
    tracing::info!(done, "no object waits for the operator any more");
    Ok(())
}

/// Each watched namespace. `None`: all.
fn namespaces(config: &Config) -> Vec<Option<&str>> {
    match config.watch_namespaces.as_slice() {
        [] => vec![None],
        some => some.iter().map(|name| Some(name.as_str())).collect(),
    }
}

/// The objects of a kind that carry our finalizer.
async fn held(
    client: &kube::Client,
    kind: Kind,
    namespace: Option<&str>,
) -> Result<Vec<Source>, crate::kube::Error> {
    let what = format!("list {kind}s");
    let resource = resource(kind);
    let api: Api<PartialObjectMeta<Workload>> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let mut held = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = call(&what, api.list_metadata(&params)).await?;
        let sources = page
            .items
            .iter()
            .filter_map(|object| source(kind, &object.metadata, Vec::new()));
        held.extend(sources.filter(|source| source.finalizer));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(held),
        }
    }
}

/// Deletes the ledger.
async fn forget(client: &kube::Client, namespace: &str) -> Result<(), Error> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let found = call(
        "list the ledger",
        maps.list_metadata(&ListParams::default().labels(ledger_io::LABEL)),
    )
    .await;
    let names = found
        .map_err(setup)?
        .items
        .into_iter()
        .filter_map(|map| map.metadata.name);
    stream::iter(names.map(Ok))
        .try_for_each(|name| {
            let maps = &maps;
            async move {
                call(
                    &format!("delete ConfigMap {name}"),
                    maps.delete(&name, &DeleteParams::default()),
                )
                .await
                .map_err(setup)?;
                tracing::info!(configmap = name, "deleted a part of the ledger");
                Ok(())
            }
        })
        .await
}
