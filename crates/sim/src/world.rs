//! The world: a Vault, the clusters that share it, the weather between them, and what has happened.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::kubernetes::ApiServer;
use crate::network::Weather;
use crate::promises::Promises;
use crate::story::Story;
use crate::vault::Vault;

/// The time at which every world begins, in seconds since 1970: a Monday morning in 2026.
const BEGINNING: u64 = 1_767_600_000;

/// Longest time that a call may be waited for. The operator promises 90 seconds.
const LONGEST_CALL: Duration = Duration::from_secs(95);

/// Shared by everybody who lives in it.
pub struct World {
    began: Instant,
    state: Mutex<State>,
}

/// What it is made of.
pub struct State {
    /// The API server of each cluster.
    pub clusters: Vec<ApiServer>,
    /// The Vault that they share.
    pub vault: Vault,
    /// How the wires fare.
    pub weather: Weather,
    /// Where everything comes from that happens by chance on the wires.
    pub chance: fastrand::Rng,
    /// What has happened.
    pub story: Story,
    /// What must hold.
    pub promises: Promises,
    /// How often each kind of call was made, where somebody counts.
    pub tally: Option<BTreeMap<String, u64>>,
    calls: BTreeMap<u64, Call>,
    last_call: u64,
}

/// A call that somebody waits for.
struct Call {
    what: String,
    began: Instant,
}

impl World {
    /// A new one with so many clusters. Begins when it is made.
    pub fn new(seed: u64, clusters: usize, promises: Promises, story: Story) -> Arc<Self> {
        let mut chance = fastrand::Rng::with_seed(seed);
        let state = State {
            clusters: (0..clusters).map(|_| ApiServer::new(chance.u64(..))).collect(),
            vault: Vault::new(chance.u64(..)),
            weather: Weather::default(),
            chance,
            story,
            promises,
            tally: None,
            calls: BTreeMap::new(),
            last_call: 0,
        };
        Arc::new(Self {
            began: Instant::now(),
            state: Mutex::new(state),
        })
    }

    /// How long it has existed.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// The true time, which each machine's clock shows more or less well.
    pub fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(BEGINNING) + self.age()
    }

    /// Looks at all of it. Never across an `await`.
    pub fn look(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The same, unless somebody does.
    pub fn try_look(&self) -> Option<MutexGuard<'_, State>> {
        self.state.try_lock()
    }

    /// Something is done to a server: the promises are looked after.
    pub fn act<R>(&self, deed: impl FnOnce(&mut State, SystemTime) -> R) -> R {
        let now = self.now();
        let mut state = self.look();
        let result = deed(&mut state, now);
        state.look_after(self.age(), now);
        result
    }

    /// What goes by the clock.
    pub async fn keep_time(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            self.act(|state, now| {
                for cluster in &mut state.clusters {
                    cluster.tick(now);
                }
                state.complain_of_long_calls();
                state.promises.check_waits(&state.clusters, now);
            });
        }
    }

    /// Writes a line of the story.
    pub fn tell(&self, who: &str, what: impl FnOnce() -> String) {
        let age = self.age();
        self.look().story.tell(age, who, what);
    }
}

impl State {
    /// Hands what is new in Vault to those who check.
    fn look_after(&mut self, age: Duration, now: SystemTime) {
        self.promises
            .check(&self.vault, &self.clusters, &mut self.story, age, now);
    }

    pub(crate) fn call_begins(&mut self, what: String) -> u64 {
        if let Some(tally) = &mut self.tally {
            *tally.entry(kind_of(&what)).or_default() += 1;
        }
        self.last_call += 1;
        let began = Instant::now();
        self.calls.insert(self.last_call, Call { what, began });
        self.last_call
    }

    pub(crate) fn call_ends(&mut self, number: u64) {
        self.calls.remove(&number);
    }

    fn complain_of_long_calls(&mut self) {
        let long = self
            .calls
            .values()
            .find(|call| call.began.elapsed() > LONGEST_CALL);
        if let Some(call) = long {
            let what = format!("{} is waited for since {:?}", call.what, call.began.elapsed());
            self.promises.record_broken("every call is bounded", &what);
        }
    }
}

/// A call without the names in it: `op0-0#1: GET /api/v1/namespaces/shop/secrets/db` is `GET secrets`.
fn kind_of(what: &str) -> String {
    let call = what.split_once(": ").map_or(what, |(_, call)| call);
    let (call, query) = call.split_once('?').unwrap_or((call, ""));
    let (method, path) = call.rsplit_once(' ').unwrap_or((call, ""));
    let mut words = path.split('/').filter(|word| !word.is_empty());
    let what = if call.starts_with("vault ") {
        let words: Vec<_> = words.skip(1).take(2).collect();
        words.join("/")
    } else {
        let resource = match words.clone().position(|word| word == "namespaces") {
            Some(at) => words.nth(at + 2),
            None => words.next_back(),
        };
        resource.unwrap_or("namespaces").to_owned()
    };
    let watch = if query.contains("watch=true") {
        " (watch)"
    } else {
        ""
    };
    format!("{method} {what}{watch}")
}
