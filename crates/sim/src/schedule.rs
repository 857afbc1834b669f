//! One world from its beginning to its end: what its plan says is done, then everything is mended and comes to rest.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::logs::Reader;
use crate::network::{Sky, Weather};
use crate::people::{HOME, People};
use crate::plan::{Act, Denied, NAMESPACES, Plan, SOURCES, Who};
use crate::pod::{Pod, Spec};
use crate::promises::{Broken, Promises};
use crate::story::Story;
use crate::world::World;

/// Rest comes within so long after everything is mended. What fails is tried again after two minutes at most, and
/// what was refused for its content after five.
const REST: Duration = Duration::from_mins(20);

/// What was denied is tried again within so long.
const TRIED_AGAIN: Duration = Duration::from_secs(400);

/// How often that is looked at. Some things happen within the first of these.
const STEP: Duration = Duration::from_secs(40);

/// How a world ended.
#[derive(Clone, Debug)]
pub struct End {
    /// A promise that was broken.
    pub broken: Option<Broken>,
    /// The lines of its story, if they were kept.
    pub story: Vec<String>,
    /// A number that stands for all of its story.
    pub digest: u64,
    /// How many lines that had.
    pub told: u64,
    /// How long it existed, by its own clock.
    pub age: Duration,
}

/// Lives a plan through. In a thread of its own, whose randomness is the plan's seed.
pub fn run(plan: &Plan, token_file: &str, keep_story: bool) -> End {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let Ok(runtime) = runtime else {
        return End {
            broken: Some(Broken {
                promise: "a runtime can be had".to_owned(),
                how: String::new(),
            }),
            story: Vec::new(),
            digest: 0,
            told: 0,
            age: Duration::ZERO,
        };
    };
    let logs = Reader::default();
    let living = live(plan, token_file, keep_story, &logs);
    if plan.setup.logs || keep_story {
        tracing::subscriber::with_default(logs.subscriber(), || runtime.block_on(living))
    } else {
        runtime.block_on(living)
    }
}

async fn live(plan: &Plan, token_file: &str, keep_story: bool, logs: &Reader) -> End {
    let setup = &plan.setup;
    let world = World::new(
        plan.seed,
        setup.clusters,
        Promises::new(plan),
        Story::new(keep_story),
    );
    logs.reads_for(&world);
    let mut people = People::new(&world, setup);
    let time = tokio::spawn(Arc::clone(&world).keep_time());
    let pods: Vec<Pod> = specs(plan, token_file)
        .into_iter()
        .map(|spec| Pod::start(&world, spec))
        .collect();
    let is_broken = || world.look().promises.first_broken().is_some();
    for (wait, act) in &plan.acts {
        sleep(*wait).await;
        if is_broken() {
            break;
        }
        people.act(act, &pods);
    }
    if !is_broken() {
        sleep(setup.calm).await;
        mend(&world, plan, &mut people, &pods);
        rest(&world, plan, &pods).await;
    }
    time.abort();
    let state = world.look();
    End {
        broken: state.promises.first_broken().cloned(),
        story: state.story.lines().to_vec(),
        digest: state.story.digest(),
        told: state.story.told(),
        age: world.age(),
    }
}

/// Everything is mended.
fn mend(world: &Arc<World>, plan: &Plan, people: &mut People, pods: &[Pod]) {
    world.tell("people", || "mend everything".to_owned());
    world.look().weather = Weather {
        kubernetes: Sky::default(),
        vault: Sky::default(),
        login: Duration::ZERO,
    };
    let now = world.now();
    world.look().promises.trouble.ends(now);
    for act in [Act::Unseal, Act::Policy(Denied::Nothing)] {
        people.act(&act, pods);
    }
    for cluster in 0..plan.setup.clusters {
        // Watches whose wire is silently dead end, as they do after a minute.
        people.act(&Act::CutWatches(cluster), pods);
        if !plan.setup.forced {
            continue;
        }
        for namespace in 0..NAMESPACES.len() {
            for name in 0..SOURCES.len() {
                let who = Who {
                    cluster,
                    namespace: u8::try_from(namespace).unwrap_or(0),
                    name: u8::try_from(name).unwrap_or(0),
                };
                people.act(&Act::Annotate(who, "force-sync", Some("the end")), pods);
            }
        }
    }
}

/// Waits until nothing is left to be done.
async fn rest(world: &Arc<World>, plan: &Plan, pods: &[Pod]) {
    let mut waited = Duration::ZERO;
    // What waits for ever is tried again all the same.
    let least = if world.look().promises.purges_for_ever() {
        TRIED_AGAIN
    } else {
        Duration::ZERO
    };
    loop {
        sleep(STEP).await;
        waited += STEP;
        let now = world.now();
        let alive: Vec<_> = pods.iter().filter_map(Pod::alive).collect();
        let mut state = world.look();
        if state.promises.first_broken().is_some() {
            return;
        }
        let unrest = state
            .promises
            .find_unmet(plan, &state.vault, &state.clusters, &alive, now);
        match unrest {
            None if waited >= least => return,
            Some(unrest) if waited >= REST => {
                state.promises.record_broken("everything comes to rest", &unrest);
                return;
            }
            _ => {}
        }
    }
}

/// The pods of all clusters.
fn specs(plan: &Plan, token_file: &str) -> Vec<Spec> {
    let setup = &plan.setup;
    let of_first = (0..setup.pods).map(|number| (0, number));
    let of_others = (1..setup.clusters).map(|cluster| (cluster, 0));
    let flags = [
        ("vault-addr", "http://vault.test:8200".to_owned()),
        ("vault-role", "vault-sync-operator".to_owned()),
        ("vault-token-file", token_file.to_owned()),
        ("namespace", HOME.to_owned()),
        ("leader-elect", setup.election.to_string()),
        ("adopt", setup.adopt.to_owned()),
        ("deletion-policy", setup.deletion.to_owned()),
        ("finalizers", setup.finalizers.to_string()),
        ("namespace-isolation", setup.isolation.to_owned()),
        ("metrics-bind-address", "0".to_owned()),
        ("health-probe-bind-address", "0".to_owned()),
    ];
    of_first
        .chain(of_others)
        .enumerate()
        .map(|(at, (cluster, number))| Spec {
            name: format!("op{cluster}-{number}"),
            cluster,
            flags: flags.to_vec(),
            skew: setup.skew[at],
            timeout: setup.timeout,
            probes: setup.probes,
        })
        .collect()
}
