//! What must hold, whatever happens. It is checked after each change (by who wrote which version), every two seconds,
//! and at the end, when everything has come to rest. `world`, `logs` and `schedule` record what only they can see.

mod clusters;
mod documents;
mod rest;
mod trouble;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::kubernetes::ApiServer;
use crate::plan::{Act, Plan, Setup};
use crate::story::Story;
use crate::vault::{Deed, Vault};
use clusters::Clusters;
use documents::Known;

pub use rest::Alive;
pub use trouble::Trouble;

/// Looks after the promises.
pub struct Promises {
    setup: Setup,
    /// All that is going to be done.
    acts: Vec<Act>,
    /// Whether some source may ask for adoption at some time.
    somebody_adopts: bool,
    /// What of Vault's journal has been seen.
    seen: usize,
    /// What of each API server's journal has been seen.
    read: Vec<usize>,
    /// The documents as they are now: from their creation until they are purged.
    documents: BTreeMap<(String, String), Known>,
    clusters: Clusters,
    /// Who got each token, by its accessor.
    logins: BTreeMap<String, String>,
    /// When something was wrong last.
    pub trouble: Trouble,
    broken: Option<Broken>,
}

/// A promise that is broken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// Which.
    pub promise: String,
    /// By what.
    pub how: String,
}

/// The cluster whose operator this is; `None`: somebody else.
fn cluster_of(who: &str) -> Option<usize> {
    who.strip_prefix("op")?.split('-').next()?.parse().ok()
}

impl Promises {
    /// For a world with this plan.
    pub fn new(plan: &Plan) -> Self {
        let adopts = |act: &Act| match act {
            Act::Apply(_, wanted) => wanted.adopt,
            Act::Annotate(_, name, value) => *name == "adopt" && value.is_some(),
            _ => false,
        };
        Self {
            somebody_adopts: plan.acts.iter().any(|(_, act)| adopts(act)),
            setup: plan.setup.clone(),
            acts: plan.acts.iter().map(|(_, act)| act.clone()).collect(),
            seen: 0,
            read: vec![0; plan.setup.clusters],
            documents: BTreeMap::new(),
            clusters: Clusters::default(),
            logins: BTreeMap::new(),
            trouble: Trouble::default(),
            broken: None,
        }
    }

    /// The first promise that was broken.
    pub fn first_broken(&self) -> Option<&Broken> {
        self.broken.as_ref()
    }

    /// This one is broken. The first counts.
    pub fn record_broken(&mut self, promise: &str, how: &str) {
        self.broken.get_or_insert_with(|| Broken {
            promise: promise.to_owned(),
            how: how.to_owned(),
        });
    }

    /// Checks what is new.
    pub fn check(
        &mut self,
        vault: &Vault,
        clusters: &[ApiServer],
        story: &mut Story,
        age: Duration,
        now: SystemTime,
    ) {
        while let Some(change) = vault.journal().get(self.seen) {
            self.seen += 1;
            story.tell(age, &change.who, || {
                format!("  -> {:?} {}/{}", change.deed, change.mount, change.path)
            });
            if change.deed == Deed::Login {
                self.logins.insert(change.path.clone(), change.who.clone());
            }
            self.check_change(vault, change, now);
        }
        for (at, cluster) in clusters.iter().enumerate() {
            let news = &cluster.journal()[self.read[at]..];
            self.read[at] = cluster.journal().len();
            for change in news {
                self.check_object(at, change);
            }
        }
    }
}

/// Whether this text is anywhere in it.
fn holds(value: &Value, text: &str) -> bool {
    match value {
        Value::String(found) => found.contains(text),
        Value::Array(items) => items.iter().any(|item| holds(item, text)),
        Value::Object(fields) => fields
            .iter()
            .any(|(name, field)| name.contains(text) || holds(field, text)),
        _ => false,
    }
}
