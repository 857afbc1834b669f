//! How much the operators ask of the servers where there are many sources, or many clusters: counted in calls, by
//! the world's own clock, on wires that lose nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::people::{HOME, MOUNT, ROLE, kubernetes, put, set_role};
use crate::plan::Plan;
use crate::pod::{Pod, Spec};
use crate::promises::Promises;
use crate::story::Story;
use crate::vault::{Capability, Document, Engine, Mount};
use crate::world::{State, World};

/// So many sources are in each namespace.
const IN_A_NAMESPACE: usize = 200;

/// Longest time until everything is in sync.
const PATIENCE: Duration = Duration::from_hours(2);

/// How long nobody does anything.
const IDLE: Duration = Duration::from_mins(10);

/// Longer than a restart takes.
const AFTER_A_RESTART: Duration = Duration::from_mins(5);

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// The clusters that share the Vault.
    pub clusters: usize,
    /// The sources of each: Deployments that use one Secret of their own.
    pub sources: usize,
}

/// The calls of one phase, and how long it took by the world's clock.
struct Phase {
    name: &'static str,
    took: Duration,
    calls: BTreeMap<String, u64>,
    /// The longest queue of any operator, as its own gauge said once a second.
    queue: u64,
}

/// Lives through a first sync, a rotation, some quiet, a restart and the end of all sources; says what each took.
pub fn measure(scale: Scale, token_file: &str) -> Result<String, std::io::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    Ok(runtime.block_on(live(scale, token_file)))
}

async fn live(scale: Scale, token_file: &str) -> String {
    let mut plan = Plan::of(1);
    plan.acts.clear();
    plan.setup.clusters = scale.clusters;
    let world = World::new(1, scale.clusters, Promises::new(&plan), Story::new(false));
    world.act(|state, now| set_up(state, now, scale));
    let time = tokio::spawn(Arc::clone(&world).keep_time());
    let mut phases = Vec::new();
    world.look().tally = Some(BTreeMap::new());

    let pods: Vec<Pod> = (0..scale.clusters)
        .map(|cluster| Pod::start(&world, spec(scale, cluster, token_file)))
        .collect();
    let all = scale.clusters * scale.sources;
    let (took, queue) = until(&world, &pods, |state| documents(state) == all).await;
    sleep(Duration::from_secs(20)).await;
    phases.push(phase(&world, "first sync", took, queue));

    world.act(|state, now| {
        for cluster in 0..scale.clusters {
            secret(state, now, cluster, 0, "two");
        }
    });
    let rotated = |state: &State| {
        let cluster = |cluster| document(state, scale, cluster, 0) == Some(&json!({"k": "two"}));
        (0..scale.clusters).all(cluster)
    };
    let (took, queue) = until(&world, &pods, rotated).await;
    sleep(Duration::from_secs(20)).await;
    phases.push(phase(&world, "one rotation in each cluster", took, queue));

    sleep(IDLE).await;
    phases.push(phase(&world, "ten quiet minutes", IDLE, 0));

    for pod in &pods {
        pod.stop();
    }
    let after = Instant::now() + AFTER_A_RESTART;
    let (took, queue) = until(&world, &pods, |_| Instant::now() >= after).await;
    phases.push(phase(&world, "a restart, and five minutes", took, queue));

    world.act(|state, now| {
        for cluster in 0..scale.clusters {
            for source in 0..scale.sources {
                kubernetes(
                    state,
                    now,
                    cluster,
                    "DELETE",
                    &deployment_at(source),
                    &Value::Null,
                );
            }
        }
    });
    let (took, queue) = until(&world, &pods, |state| documents(state) == 0).await;
    sleep(Duration::from_secs(20)).await;
    phases.push(phase(&world, "the end of all sources", took, queue));
    time.abort();
    report(scale, &phases)
}

fn report(scale: Scale, phases: &[Phase]) -> String {
    let all = scale.clusters * scale.sources;
    let mut text = String::new();
    for phase in phases {
        let total: u64 = phase.calls.values().sum();
        let _ = writeln!(
            text,
            "{}: {:.1} s, {total} calls, {:.2} for each of {all} documents, at most {} in a queue",
            phase.name,
            phase.took.as_secs_f64(),
            per(total, all),
            phase.queue
        );
        for (what, count) in &phase.calls {
            let _ = writeln!(text, "  {count:>8}  {:>7.3}  {what}", per(*count, all));
        }
    }
    text
}

fn per(count: u64, all: usize) -> f64 {
    let number = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    number(count) / number(u64::try_from(all).unwrap_or(u64::MAX)).max(1.0)
}

/// What was counted since the last phase.
fn phase(world: &World, name: &'static str, took: Duration, queue: u64) -> Phase {
    let calls = world.look().tally.replace(BTreeMap::new()).unwrap_or_default();
    Phase {
        name,
        took,
        calls,
        queue,
    }
}

/// How long it takes until this is so, and the longest queue meanwhile.
async fn until(world: &World, pods: &[Pod], is_so: impl Fn(&State) -> bool) -> (Duration, u64) {
    let began = Instant::now();
    let mut queue = 0;
    for tenth in 1.. {
        if began.elapsed() >= PATIENCE || is_so(&world.look()) {
            break;
        }
        if tenth % 10 == 5 {
            queue = pods
                .iter()
                .filter_map(Pod::alive)
                .map(|pod| depth(&pod.series))
                .fold(queue, u64::max);
        }
        sleep(Duration::from_millis(100)).await;
    }
    (began.elapsed(), queue)
}

/// The depth of the queue.
fn depth(series: &str) -> u64 {
    let line = series
        .lines()
        .find_map(|line| line.strip_prefix("vault_sync_operator_queue_depth "));
    line.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn documents(state: &State) -> usize {
    let mount = state.vault.mount(MOUNT);
    let all = mount.into_iter().flat_map(Mount::documents);
    all.filter(|(_, document)| latest(document).is_some()).count()
}

/// What it holds, if it is not deleted.
fn latest(document: &Document) -> Option<&Value> {
    let latest = document.latest()?;
    latest.deleted.is_none().then_some(&latest.data)
}

fn document(state: &State, scale: Scale, cluster: usize, source: usize) -> Option<&Value> {
    let path = if scale.clusters > 1 {
        format!("clusters/c{cluster}/app{source}/s{source}")
    } else {
        format!("app{source}/s{source}")
    };
    latest(state.vault.document(MOUNT, &path)?)
}

fn set_up(state: &mut State, now: SystemTime, scale: Scale) {
    use Capability::{Create, Delete, List, Patch, Read, Update};
    state.vault.enable(now, MOUNT, Engine::Kv2);
    let all: &[Capability] = &[Create, Read, Update, Patch, List, Delete];
    state.vault.set_policy(now, ROLE, &[("secret/*", all)]);
    set_role(state, now);
    for cluster in 0..scale.clusters {
        let homes = (0..scale.sources).step_by(IN_A_NAMESPACE).map(namespace_of);
        for name in homes.chain([HOME.to_owned()]) {
            let body = json!({"metadata": {"name": name}});
            kubernetes(state, now, cluster, "POST", "/api/v1/namespaces", &body);
        }
        for source in 0..scale.sources {
            secret(state, now, cluster, source, "one");
            deployment(state, now, cluster, source);
        }
    }
}

fn namespace_of(source: usize) -> String {
    format!("team-{}", source / IN_A_NAMESPACE)
}

fn secret(state: &mut State, now: SystemTime, cluster: usize, source: usize, value: &str) {
    let at = format!("/api/v1/namespaces/{}/secrets/s{source}", namespace_of(source));
    let body = json!({"metadata": {"name": format!("s{source}")}, "stringData": {"k": value}});
    put(state, now, cluster, &at, &body);
}

fn deployment_at(source: usize) -> String {
    let namespace = namespace_of(source);
    format!("/apis/apps/v1/namespaces/{namespace}/deployments/app{source}")
}

fn deployment(state: &mut State, now: SystemTime, cluster: usize, source: usize) {
    let at = deployment_at(source);
    let name = format!("app{source}");
    let from = json!([{"secretRef": {"name": format!("s{source}")}}]);
    let body = json!({
        "metadata": {"name": name, "annotations": {"vault-sync.io/path": format!("{MOUNT}/{name}")}},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "main", "image": "none", "envFrom": from}]},
            },
        },
    });
    put(state, now, cluster, &at, &body);
}

fn spec(scale: Scale, cluster: usize, token_file: &str) -> Spec {
    let mut flags = vec![
        ("vault-addr", "http://vault.test:8200".to_owned()),
        ("vault-role", ROLE.to_owned()),
        ("vault-token-file", token_file.to_owned()),
        ("namespace", HOME.to_owned()),
        ("metrics-bind-address", "0".to_owned()),
        ("health-probe-bind-address", "0".to_owned()),
    ];
    if scale.clusters > 1 {
        flags.push(("cluster-name", format!("c{cluster}")));
    }
    Spec {
        name: format!("op{cluster}-0"),
        cluster,
        flags,
        skew: 0,
        timeout: 60,
        probes: false,
    }
}
