//! What is stored, and each change that made it so.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;

use super::call::Verb;
use super::resource::Resource;

/// One change to one object.
#[derive(Clone, Debug)]
pub struct Change {
    /// The resourceVersion that it made.
    pub revision: u64,
    /// When it was made.
    pub time: SystemTime,
    /// By which call.
    pub verb: Verb,
    /// Who made it: the header `X-Sim-Actor` of the request, or its `User-Agent`.
    pub actor: Arc<str>,
    /// The kind of object.
    pub resource: Resource,
    /// Namespace and name, with a slash between them; only the name where there are no namespaces.
    pub key: Arc<str>,
    /// The object before it; `None`: it was created.
    pub before: Option<Arc<Value>>,
    /// The object after it. Of one that is gone, how it was at last, with the resourceVersion of its deletion.
    pub after: Arc<Value>,
    /// Whether the object is gone.
    pub is_deletion: bool,
}

impl Change {
    /// The object's namespace; empty where there are none.
    pub fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The object's name.
    pub fn name(&self) -> &str {
        self.key.split_once('/').map_or(&*self.key, |(_, name)| name)
    }

    /// The object's uid.
    pub fn uid(&self) -> &str {
        self.after["metadata"]["uid"].as_str().unwrap_or_default()
    }
}

/// Who changes something, when, and how.
#[derive(Clone, Debug)]
pub(super) struct Deed {
    pub(super) time: SystemTime,
    pub(super) verb: Verb,
    pub(super) actor: Arc<str>,
}

/// Objects by their keys, in the order in which etcd lists them.
pub(super) type Objects = BTreeMap<Arc<str>, Arc<Value>>;

/// The objects of all resources, and their history.
pub(super) struct Store {
    revision: u64,
    /// What happened until then is not told any more.
    compacted: u64,
    shelves: [Shelf; Resource::ALL.len()],
    journal: Vec<Change>,
    /// The writes of Events: resourceVersion, time and key. The oldest is the first to be forgotten.
    events: VecDeque<(u64, SystemTime, Arc<str>)>,
}

/// The objects of one resource.
#[derive(Default)]
struct Shelf {
    objects: Objects,
    /// Where in the journal its changes are.
    changes: Vec<usize>,
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            revision: 1,
            compacted: 0,
            shelves: std::array::from_fn(|_| Shelf::default()),
            journal: Vec::new(),
            events: VecDeque::new(),
        }
    }

    /// The resourceVersion of the newest change.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Until which resourceVersion history is gone.
    pub(super) fn compacted(&self) -> u64 {
        self.compacted
    }

    /// Forgets history until now. The journal stays.
    pub(super) fn compact(&mut self) {
        self.compacted = self.revision;
    }

    pub(super) fn journal(&self) -> &[Change] {
        &self.journal
    }

    pub(super) fn objects(&self, resource: Resource) -> &Objects {
        &self.shelves[resource as usize].objects
    }

    pub(super) fn get(&self, resource: Resource, key: &str) -> Option<&Arc<Value>> {
        self.objects(resource).get(key)
    }

    /// Stores an object under the next resourceVersion.
    pub(super) fn put(&mut self, resource: Resource, key: &str, mut object: Value, deed: Deed) -> &Change {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Arc::new(object);
        let objects = &mut self.shelves[resource as usize].objects;
        let key: Arc<str> = match objects.get_key_value(key) {
            Some((key, _)) => Arc::clone(key),
            None => key.into(),
        };
        if resource == Resource::Events {
            self.events
                .push_back((self.revision, deed.time, Arc::clone(&key)));
        }
        let before = objects.insert(Arc::clone(&key), Arc::clone(&object));
        self.record(resource, key, before, object, deed)
    }

    /// Takes an object away; `None`: there is none.
    pub(super) fn remove(&mut self, resource: Resource, key: &str, deed: Deed) -> Option<&Change> {
        let (key, before) = self.shelves[resource as usize].objects.remove_entry(key)?;
        self.revision += 1;
        let mut last = (*before).clone();
        last["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let change = self.record(resource, key, Some(before), Arc::new(last), deed);
        change.is_deletion = true;
        Some(change)
    }

    fn record(
        &mut self,
        resource: Resource,
        key: Arc<str>,
        before: Option<Arc<Value>>,
        after: Arc<Value>,
        deed: Deed,
    ) -> &mut Change {
        let at = self.journal.len();
        self.shelves[resource as usize].changes.push(at);
        self.journal.push(Change {
            revision: self.revision,
            time: deed.time,
            verb: deed.verb,
            actor: deed.actor,
            resource,
            key,
            before,
            after,
            is_deletion: false,
        });
        &mut self.journal[at]
    }

    /// The changes of a resource after a resourceVersion, the oldest first.
    pub(super) fn since(
        &self,
        resource: Resource,
        revision: u64,
    ) -> impl DoubleEndedIterator<Item = &Change> {
        let changes = &self.shelves[resource as usize].changes;
        let first = changes.partition_point(|&at| self.journal[at].revision <= revision);
        changes[first..].iter().map(|&at| &self.journal[at])
    }

    /// The Event that was written longest ago, and when.
    pub(super) fn oldest_event(&mut self) -> Option<(SystemTime, Arc<str>)> {
        while let Some((revision, time, key)) = self.events.front() {
            let version = self
                .get(Resource::Events, key)
                .map(|event| &event["metadata"]["resourceVersion"]);
            let is_this = |version: &Value| version.as_str() == Some(revision.to_string().as_str());
            if version.is_some_and(is_this) {
                return Some((*time, Arc::clone(key)));
            }
            self.events.pop_front();
        }
        None
    }

    /// The objects as they were at a resourceVersion.
    pub(super) fn snapshot(&self, resource: Resource, revision: u64) -> Objects {
        let mut objects = self.objects(resource).clone();
        for change in self.since(resource, revision).rev() {
            match &change.before {
                Some(before) => objects.insert(Arc::clone(&change.key), Arc::clone(before)),
                None => objects.remove(&change.key),
            };
        }
        objects
    }
}

/// The objects of a namespace (`None`: all) from a key on.
pub(super) fn within<'a>(
    objects: &'a Objects,
    namespace: Option<&str>,
    from: &str,
) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<Value>)> {
    let prefix = namespace
        .map(|namespace| format!("{namespace}/"))
        .unwrap_or_default();
    let from = if from < prefix.as_str() { &prefix } else { from };
    objects
        .range::<str, _>((Bound::Included(from), Bound::Unbounded))
        .take_while(move |(key, _)| key.starts_with(&prefix))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deed() -> Deed {
        Deed {
            time: SystemTime::UNIX_EPOCH,
            verb: Verb::Create,
            actor: "somebody".into(),
        }
    }

    fn keys(objects: &Objects) -> Vec<&str> {
        objects.keys().map(|key| &**key).collect()
    }

    #[test]
    fn a_snapshot_shows_what_was() {
        let mut store = Store::new();
        let secret = |value: &str| json!({"metadata": {}, "data": {"k": value}});
        store.put(Resource::Secrets, "a/x", secret("1"), deed());
        let first = store.revision();
        store.put(Resource::Secrets, "a/x", secret("2"), deed());
        store.put(Resource::Secrets, "a/y", secret("3"), deed());
        store.remove(Resource::Secrets, "a/x", deed());
        assert_eq!(keys(store.objects(Resource::Secrets)), ["a/y"]);
        let then = store.snapshot(Resource::Secrets, first);
        assert_eq!(keys(&then), ["a/x"]);
        assert_eq!(then["a/x"]["data"]["k"], "1");
    }

    #[test]
    fn keys_are_in_the_order_of_etcd() {
        let mut store = Store::new();
        for key in ["a/x", "a-b/x", "a/y", "b/x"] {
            store.put(Resource::Secrets, key, json!({"metadata": {}}), deed());
        }
        let objects = store.objects(Resource::Secrets);
        assert_eq!(keys(objects), ["a-b/x", "a/x", "a/y", "b/x"]);
        let some: Vec<_> = within(objects, Some("a"), "a/y").map(|(key, _)| &**key).collect();
        assert_eq!(some, ["a/y"]);
    }
}
