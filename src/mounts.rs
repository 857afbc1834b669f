//! Which mount holds a path. Vault is asked once; the answer is remembered, and requested again when in
//! doubt.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::vault::{self, ErrorKind, MountAnswer, Vault};
use domain::document::{KvVersion, Mount};
use domain::path::is_within;
use domain::problem::PathFault;
use domain::queue::Depth;
use parking_lot::Mutex;

/// A mount that was asked for more recently is not asked for again. A re-check of a thousand sources then
/// asks for their mount once.
const FRESH: Duration = Duration::from_mins(1);

/// Most mounts that are remembered; other mounts are asked for again. This also drops mounts that no longer
/// exist.
const MOST_REMEMBERED: usize = 1000;

/// Why the mount is unknown.
#[derive(Debug)]
pub enum Fault {
    /// Vault says that no KV mount holds this path.
    Path(PathFault),
    /// Vault did not answer the question.
    Vault(vault::Error),
}

/// The known mounts. Vault never nests mounts, so that at most one of them holds a path.
pub struct Mounts {
    vault: Vault,
    stated: Vec<Mount>,
    asked: Mutex<HashMap<Arc<str>, (Mount, Instant)>>,
    /// When a mount was last proven to be KV v2.
    vouched: Mutex<HashMap<Arc<str>, Instant>>,
    eras: Mutex<Eras>,
}

/// Which mount is at a path now, according to Vault: mounts at one path can replace each other.
#[derive(Default)]
struct Eras {
    last: u64,
    /// Vault's accessor of the mount, and our number for it.
    of: HashMap<Arc<str>, (String, u64)>,
}

impl Eras {
    fn note(&mut self, path: &Arc<str>, accessor: String) {
        if self.of.get(path).is_some_and(|(known, _)| *known == accessor) {
            return;
        }
        if self.of.len() >= MOST_REMEMBERED {
            // None of these numbers is used again.
            self.of.clear();
        }
        self.last += 1;
        self.of.insert(path.clone(), (accessor, self.last));
    }
}

impl Mounts {
    /// Starts with the mounts that `--mount` states.
    pub fn new(vault: Vault, stated: Vec<Mount>) -> Self {
        Self {
            vault,
            stated,
            asked: Mutex::default(),
            vouched: Mutex::default(),
            eras: Mutex::default(),
        }
    }

    /// Records a reply that only this KV version gives.
    pub fn vouch(&self, mount: &Mount) {
        if mount.version == KvVersion::V2 {
            self.vouched().insert(mount.path.clone(), Instant::now());
        }
    }

    /// Whether such a reply was recorded since then.
    pub fn is_vouched_for(&self, mount: &Mount, since: Instant) -> bool {
        self.vouched().get(&mount.path).is_some_and(|at| *at >= since)
    }

    /// A number that changes when the mount at this path is recreated: what was remembered of its documents
    /// is then outdated. 0: Vault was not asked.
    pub fn era(&self, path: &str) -> u64 {
        self.eras.lock().of.get(path).map_or(0, |(_, era)| *era)
    }

    /// The mount as Vault reports it now. A mount that a flag states is not asked for.
    pub async fn confirm(&self, mount: &Mount) -> Result<Mount, Fault> {
        if self.stated.contains(mount) {
            return Ok(mount.clone());
        }
        self.ask(&mount.path).await
    }

    /// The mount that holds `query`, if it is already known.
    pub fn known(&self, query: &str) -> Option<Mount> {
        let within = |mount: &&Mount| is_within(query, &mount.path);
        let stated = self.stated.iter().find(within).cloned();
        stated.or_else(|| self.lock().values().map(|(mount, _)| mount).find(within).cloned())
    }

    /// The mount that holds `query`. Asks Vault if the mount is unknown, or if the look is full and the
    /// answer is old.
    pub async fn resolve(&self, query: &str, depth: Depth) -> Result<Mount, Fault> {
        if let Some(mount) = self.known(query)
            && !(depth.is_full() && self.is_stale(&mount.path))
        {
            return Ok(mount);
        }
        self.ask(query).await
    }

    async fn ask(&self, query: &str) -> Result<Mount, Fault> {
        let answer = match self.vault.mount(query).await {
            Err(error) if error.kind == ErrorKind::Denied => {
                self.lock().retain(|path, _| !is_within(query, path));
                return Err(Fault::Path(PathFault::Hidden(query.to_owned())));
            }
            other => other.map_err(Fault::Vault)?,
        };
        match answer {
            MountAnswer::Kv { mount, accessor } => {
                self.eras.lock().note(&mount.path, accessor);
                let mut asked = self.lock();
                if asked.len() >= MOST_REMEMBERED && !asked.contains_key(&mount.path) {
                    let stalest = asked.iter().min_by_key(|(_, (_, asked))| *asked);
                    let stalest = stalest.map(|(path, _)| path.clone());
                    stalest.map(|path| asked.remove(&path));
                    self.vouched().clear();
                }
                asked.insert(mount.path.clone(), (mount.clone(), Instant::now()));
                drop(asked);
                self.vouch(&mount);
                Ok(mount)
            }
            MountAnswer::NotKv { mount, kind } => {
                self.lock().remove(mount.as_str());
                Err(Fault::Path(PathFault::NotKv { mount, kind }))
            }
            MountAnswer::None => {
                self.lock().retain(|path, _| !is_within(query, path));
                Err(Fault::Path(PathFault::NoMount(query.to_owned())))
            }
        }
    }

    /// Forgets a mount whose replies no longer fit.
    pub fn doubt(&self, path: &str) {
        self.lock().remove(path);
        self.vouched().remove(path);
    }

    /// Forgets all answers from Vault: it may be a different Vault by now.
    pub fn forget(&self) {
        self.lock().clear();
        self.vouched().clear();
    }

    fn is_stale(&self, path: &str) -> bool {
        self.lock()
            .get(path)
            .is_some_and(|(_, asked)| asked.elapsed() > FRESH)
    }

    fn vouched(&self) -> parking_lot::MutexGuard<'_, HashMap<Arc<str>, Instant>> {
        self.vouched.lock()
    }

    fn lock(&self) -> parking_lot::MutexGuard<'_, HashMap<Arc<str>, (Mount, Instant)>> {
        self.asked.lock()
    }
}
