//! The index: which objects are sources, which Secrets they use, and which paths they want.
//!
//! For each source it keeps only what a reconcile needs before it fetches anything. It stores nothing about
//! Secrets that no source names.

mod bounds;
mod rivals;
mod state;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::RandomState;
use std::sync::Arc;

use super::annotations::Ask;
use super::desired::{Hint, Mistakes};
use super::settings::NamespaceIsolation;
use super::source::{Kind, Scope, Source, SourceKey};
use super::value::Digest;
use rivals::Resolved;
pub use state::{LastWord, Memory, Remembered, SourceState, Told};

/// A source as the watch last showed it.
#[derive(Clone, Debug)]
pub struct Tracked {
    /// Fingerprint of everything that affects decisions.
    fingerprint: Digest,
    /// UID of the object.
    pub uid: String,
    created: i64,
    annotated: bool,
    /// Whether some annotation cannot be read: then it is not fully known what the source asks for.
    unclear: bool,
    /// When its deletion began, in seconds since 1970. `None`: it is not being deleted.
    pub deleting: Option<i64>,
    /// Whether remembered versions may be trusted.
    pub trust: bool,
    /// Fingerprint of its `force-sync` annotation. A value other than the last one obeyed asks for a
    /// re-check.
    pub force: Option<u64>,
    /// What it says about deleting its documents, if it asks for any.
    last_word: Option<LastWord>,
    /// What it asks for. `None`: nothing; it is kept for another reason, such as our finalizer or documents
    /// in the ledger.
    pub hint: Option<Hint>,
    /// The mistakes that the object alone shows, if there are any.
    pub mistakes: Option<Box<Mistakes>>,
    /// How many documents count for it in its namespace.
    documents: usize,
    /// How many documents it asks for, if its namespace has no room for them. What it asks for is then not
    /// kept.
    pub refused: Option<usize>,
    /// Its documents in one mount, cached since [`Index::rivals`] first needed them.
    resolved: RefCell<Option<Arc<Resolved>>>,
}

/// What is known of a Secret that a source names.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
enum Sight {
    #[default]
    Unseen,
    Gone,
    /// It exists, with this resourceVersion.
    At(String),
}

/// A Secret's namespace and name.
type SecretName = (Arc<str>, Arc<str>);

#[derive(Default, Debug)]
struct SecretSlot {
    sight: Sight,
    users: Vec<SourceKey>,
}

/// The index.
#[derive(Debug)]
pub struct Index {
    isolation: NamespaceIsolation,
    scope: Scope,
    /// Parts of the scope that could not be listed yet: a kind, in one namespace or (`None`) in all.
    blind: Vec<(Kind, Option<String>)>,
    sources: HashMap<SourceKey, Tracked>,
    /// How many of them ask for nothing, by namespace.
    askless: HashMap<Arc<str>, usize>,
    /// What is remembered of each source. It outlives the object until the source's documents are gone.
    states: HashMap<SourceKey, SourceState>,
    /// By namespace and name.
    secrets: HashMap<SecretName, SecretSlot>,
    /// Sources by the hash of their [`Index::loose`] paths. A collision of hashes does no harm:
    /// [`Index::rivals`] compares the documents of all neighbours.
    neighbours: HashMap<u64, Vec<SourceKey>>,
    hasher: RandomState,
    /// The most documents that a namespace may ask for, and how many each namespace asks for.
    most: usize,
    documents: HashMap<String, usize>,
    /// Whether this process leads, and so reconciles. A standby keeps little of what is gone.
    leads: bool,
}

/// How many last words a standby keeps. Those of sources that are deleted just before it takes over may
/// matter.
const MOST_LAST_WORDS: usize = 1000;

impl Index {
    /// An empty index.
    pub fn new(isolation: NamespaceIsolation, scope: Scope) -> Self {
        Self {
            isolation,
            scope,
            blind: Vec::new(),
            sources: HashMap::new(),
            askless: HashMap::new(),
            states: HashMap::new(),
            secrets: HashMap::new(),
            neighbours: HashMap::new(),
            hasher: RandomState::new(),
            most: usize::MAX,
            documents: HashMap::new(),
            leads: false,
        }
    }

    /// Keeps what the sources of a namespace ask for only up to this many documents. This bounds memory. The
    /// limit is far above what a namespace may have in Vault.
    #[must_use]
    pub fn with_most_documents(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// The most documents that a namespace may ask for.
    pub fn most_documents(&self) -> usize {
        self.most
    }

    /// Records a source as the watch shows it. Returns the sources to reconcile: the source itself, if
    /// anything that affects decisions has changed, and those that may want what it has given up.
    pub fn observe(&mut self, source: &Source, ask: &Ask, fingerprint: Digest) -> Vec<SourceKey> {
        let old = self.sources.get(&source.key);
        if old.is_some_and(|old| {
            let room = |asks| self.fits(&source.key.namespace, old.documents, asks);
            old.fingerprint == fingerprint && !old.refused.is_some_and(room)
        }) {
            return Vec::new();
        }
        let mut hint = Hint::of(source, ask);
        // Documents that it already has still count, even if it asks for too many now.
        let own = old.map_or(0, |old| old.documents);
        let asks = hint.as_ref().map_or(0, Hint::documents);
        let refused = (!self.fits(&source.key.namespace, own, asks)).then_some(asks);
        if refused.is_some() {
            hint = Some(Hint::unknown());
        }
        let mut wake = vec![source.key.clone()];
        if let Some(state) = self.states.get_mut(&source.key) {
            state.last_word = None;
            state.stirred = true;
            match old {
                Some(old) if old.uid == source.uid && old.hint == hint => {}
                Some(old) if old.uid == source.uid => state.memory.wish_changed(),
                _ => state.memory = Memory::default(),
            }
        }
        // What is known of Secrets that it still names is kept.
        let sights = self.sights(&source.key);
        wake.extend(self.unlink(&source.key));
        let tracked = Tracked {
            fingerprint,
            uid: source.uid.clone(),
            created: source.created,
            annotated: ask.adopt,
            unclear: !ask.problems.is_empty(),
            mistakes: Mistakes::of(source, ask).some(),
            deleting: source.deleting,
            trust: ask.trust,
            force: ask.force,
            last_word: hint.as_ref().map(|_| LastWord {
                deletion: ask.deletion,
                paused: ask.paused,
            }),
            hint,
            documents: if refused.is_some() { own } else { asks },
            refused,
            resolved: RefCell::default(),
        };
        self.count(&source.key.namespace, own, tracked.documents);
        let given_up = tracked.documents < own;
        self.link(&source.key, tracked.hint.as_ref());
        for (secret, sight) in sights {
            if let Some(slot) = self.secrets.get_mut(&secret) {
                slot.sight = sight;
            }
        }
        let asks = tracked.hint.is_some();
        // A standby does not reconcile, so it would never remove an object that asks for nothing. It keeps
        // those with a misspelt annotation, because the next leader warns about them.
        let kept = self.leads || asks || source.finalizer || !ask.warnings.is_empty();
        let old = if kept {
            self.sources.insert(source.key.clone(), tracked)
        } else {
            self.sources.remove(&source.key)
        };
        self.count_askless(&source.key, old.as_ref(), kept && !asks);
        if given_up {
            wake.extend(self.next_in(&source.key.namespace));
        }
        wake
    }

    /// This process leads from now on. Only the `holders` have documents in the ledger, so all other sources
    /// need no last word, and what is remembered of them is dropped.
    pub fn lead(&mut self, holders: &HashSet<SourceKey>) {
        self.leads = true;
        self.states.retain(|key, _| holders.contains(key));
    }

    /// Records that a source is gone. Its state stays for the sake of its documents, with its last word; only
    /// its [`Memory`] is dropped. Returns the sources to reconcile: the source itself, because the ledger may
    /// still have documents of it, and those that may want what it leaves.
    pub fn forget(&mut self, key: &SourceKey) -> Vec<SourceKey> {
        let mut wake = self.unlink(key);
        let gone = self.sources.remove(key);
        self.count_askless(key, gone.as_ref(), false);
        if let Some(given_up) = gone
            .as_ref()
            .map(|gone| gone.documents)
            .filter(|given_up| *given_up > 0)
        {
            self.count(&key.namespace, given_up, 0);
            wake.extend(self.next_in(&key.namespace));
        }
        if let Some(state) = self.states.get_mut(key) {
            state.memory = Memory::default();
        }
        if let Some(word) = gone.and_then(|gone| gone.last_word) {
            if !self.leads && self.states.len() >= MOST_LAST_WORDS {
                let any = self.states.keys().next().cloned();
                any.map(|any| self.states.remove(&any));
            }
            self.state_mut(key).last_word = Some(word);
        }
        wake.push(key.clone());
        wake
    }

    /// Forgets everything about a source of which nothing is left. Returns what was remembered of it.
    pub fn bury(&mut self, key: &SourceKey) -> SourceState {
        self.forget(key);
        self.states.remove(key).unwrap_or_default()
    }

    /// What is remembered of a source.
    pub fn state(&self, key: &SourceKey) -> Option<&SourceState> {
        self.states.get(key)
    }

    /// The same, mutable. An entry is added if there is none.
    pub fn state_mut(&mut self, key: &SourceKey) -> &mut SourceState {
        self.states.entry(key.clone()).or_default()
    }

    /// Records a Secret's resourceVersion; `None`: it is gone. Returns the sources that name it, if this is a
    /// change.
    pub fn observe_secret(&mut self, namespace: &str, name: &str, version: Option<&str>) -> Vec<SourceKey> {
        let sight = version.map_or(Sight::Gone, |version| Sight::At(version.to_owned()));
        match self.secrets.get_mut(&(namespace.into(), name.into())) {
            Some(slot) if slot.sight != sight => {
                slot.sight = sight;
                for user in &slot.users {
                    if let Some(user) = self.states.get_mut(user) {
                        user.stirred = true;
                    }
                }
                slot.users.clone()
            }
            _ => Vec::new(),
        }
    }

    /// Records what a fetch showed of a Secret (`None`: it does not exist), if nothing is known of it yet.
    /// Otherwise only the watch may update it: that must count as a change, because it wakes the other
    /// sources that name the Secret.
    pub fn learn_secret(&mut self, namespace: &str, name: &str, version: Option<&str>) {
        if let Some(slot) = self.secrets.get_mut(&(namespace.into(), name.into()))
            && slot.sight == Sight::Unseen
        {
            slot.sight = version.map_or(Sight::Gone, |version| Sight::At(version.to_owned()));
        }
    }

    /// Whether a Secret that a source names is known not to exist.
    pub fn is_missing(&self, namespace: &str, name: &str) -> bool {
        self.secrets
            .get(&(namespace.into(), name.into()))
            .is_some_and(|slot| slot.sight == Sight::Gone)
    }

    /// The resourceVersions of these Secrets, if all are known.
    pub fn secret_versions<'a>(
        &'a self,
        namespace: &str,
        names: impl Iterator<Item = &'a str>,
    ) -> Option<BTreeMap<&'a str, &'a str>> {
        names
            .map(
                |name| match &self.secrets.get(&(namespace.into(), name.into()))?.sight {
                    Sight::At(version) => Some((name, version.as_str())),
                    Sight::Unseen | Sight::Gone => None,
                },
            )
            .collect()
    }

    /// What is known of a source.
    pub fn get(&self, key: &SourceKey) -> Option<&Tracked> {
        self.sources.get(key)
    }

    /// A reconcile of the source begins. It takes into account all changes until now.
    pub fn begin(&mut self, key: &SourceKey) {
        if self.sources.contains_key(key) {
            self.state_mut(key).stirred = false;
        }
    }

    /// Stores what a reconcile has learnt, if the source is still the same object.
    pub fn remember(&mut self, key: &SourceKey, uid: &str, memory: Memory) {
        if self.sources.get(key).is_some_and(|tracked| tracked.uid == uid) {
            self.state_mut(key).memory = memory;
        }
    }

    /// All sources, so that a relist can find out which are gone.
    pub fn keys(&self) -> impl Iterator<Item = &SourceKey> {
        self.sources.keys()
    }

    /// All Secrets that sources name and that were seen, for the same purpose.
    pub fn known_secrets(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.secrets
            .iter()
            .filter(|(_, slot)| matches!(slot.sight, Sight::At(_)))
            .map(|((ns, name), _)| (ns, name))
    }

    /// How many sources there are.
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Whether a source is in the scope that this operator watches.
    pub fn is_in_scope(&self, key: &SourceKey) -> bool {
        self.scope.contains(key)
    }

    /// Whether a source would be seen if it existed.
    pub fn watches(&self, key: &SourceKey) -> bool {
        let blind = |(kind, namespace): &(Kind, Option<String>)| {
            *kind == key.kind
                && namespace
                    .as_ref()
                    .is_none_or(|namespace| **namespace == *key.namespace)
        };
        self.scope.contains(key) && !self.blind.iter().any(blind)
    }

    /// Records whether a part of the scope can be listed.
    pub fn see(&mut self, kind: Kind, namespace: Option<&str>, sees: bool) {
        self.blind
            .retain(|(k, n)| (*k, n.as_deref()) != (kind, namespace));
        if !sees {
            self.blind.push((kind, namespace.map(str::to_owned)));
        }
    }

    fn link(&mut self, key: &SourceKey, hint: Option<&Hint>) {
        let Some(hint) = hint else { return };
        for named in &hint.secrets {
            let users = &mut self
                .secrets
                .entry((key.namespace.clone(), named.secret.as_str().into()))
                .or_default()
                .users;
            add(users, key);
        }
        for loose in self.loose_paths(key, hint) {
            let keys = self.neighbours.entry(loose).or_default();
            add(keys, key);
        }
    }

    /// What is known of the Secrets that a source names.
    fn sights(&self, key: &SourceKey) -> Vec<(SecretName, Sight)> {
        let hint = self.sources.get(key).and_then(|tracked| tracked.hint.as_ref());
        hint.into_iter()
            .flat_map(|hint| &hint.secrets)
            .filter_map(|named| {
                let secret = (key.namespace.clone(), named.secret.as_str().into());
                let sight = self.secrets.get(&secret)?.sight.clone();
                Some((secret, sight))
            })
            .collect()
    }

    /// Removes the source from the maps. Returns the sources that share a path with it.
    fn unlink(&mut self, key: &SourceKey) -> Vec<SourceKey> {
        let Some(hint) = self.sources.get(key).and_then(|tracked| tracked.hint.clone()) else {
            return Vec::new();
        };
        for named in &hint.secrets {
            let slot = (key.namespace.clone(), named.secret.as_str().into());
            if let Some(users) = self.secrets.get_mut(&slot).map(|slot| &mut slot.users) {
                users.retain(|user| user != key);
                if users.is_empty() {
                    self.secrets.remove(&slot);
                }
            }
        }
        // A set, so that each source is returned once, however many paths it shares.
        let mut sharers = HashSet::new();
        for loose in self.loose_paths(key, &hint) {
            if let Some(keys) = self.neighbours.get_mut(&loose) {
                keys.retain(|other| other != key);
                for other in keys
                    .iter()
                    .filter(|other| !sharers.contains(*other))
                    .cloned()
                    .collect::<Vec<_>>()
                {
                    sharers.insert(other);
                }
                if keys.is_empty() {
                    self.neighbours.remove(&loose);
                }
            }
        }
        let mut sharers: Vec<_> = sharers.into_iter().collect();
        sharers.sort();
        sharers
    }
}

/// Adds a source to a list that usually has only one.
fn add(keys: &mut Vec<SourceKey>, key: &SourceKey) {
    if keys.is_empty() {
        keys.reserve_exact(1);
    }
    if !keys.contains(key) {
        keys.push(key.clone());
    }
}

#[cfg(test)]
mod tests;
