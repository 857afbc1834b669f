//! A simulated Kubernetes API server: as much of it as the operator, and the people around it, use.
//!
//! A request and the time go in, a reply comes out. It starts no thread, reads no clock, and draws uids and generated
//! names from its seed. Where it differs from the real server on purpose is written in
//! `tests/it/simulated_kubernetes.rs`, which compares the two.

mod call;
mod chance;
mod event;
mod list;
mod patch;
mod resource;
mod selector;
mod shape;
mod show;
mod status;
mod store;
mod validate;
mod watch;
mod write;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

pub use call::{PatchKind, Verb};
pub use resource::Resource;
pub use store::Change;

use call::Call;
use chance::Chance;
use status::Failure;
use store::{Deed, Store, within};
use watch::Watches;
use write::Write;

/// What the API server answers.
pub enum Answer {
    /// A reply that is complete.
    Whole(Response<Bytes>),
    /// A watch: status 200, and then lines of JSON, one for each event, until the channel closes.
    Watch(UnboundedReceiver<Bytes>),
}

/// The API server and what it stores.
pub struct ApiServer {
    store: Store,
    watches: Watches,
    chance: Chance,
}

/// The name under which the server itself changes something.
const SERVER: &str = "kubernetes";

/// How long an Event is kept.
const EVENTS_LAST: Duration = Duration::from_hours(1);

impl ApiServer {
    /// One with nothing in it but the namespaces that each cluster has.
    pub fn new(seed: u64) -> Self {
        let mut server = Self {
            store: Store::new(),
            watches: Watches::default(),
            chance: Chance::new(seed),
        };
        for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
            server.create_namespace(name);
        }
        server
    }

    fn create_namespace(&mut self, name: &str) {
        let body = json!({"metadata": {"name": name}}).to_string();
        let request = Request::post("/api/v1/namespaces").body(Bytes::from(body));
        if let Ok(request) = request {
            self.handle(SystemTime::UNIX_EPOCH, &request);
        }
    }

    /// Answers a request that arrives at this time.
    pub fn handle(&mut self, now: SystemTime, request: &Request<Bytes>) -> Answer {
        if request.uri().path() == "/version" {
            return show::reply(200, version().to_string().into_bytes());
        }
        self.answer(now, request)
            .unwrap_or_else(|failure| show::failure(&failure))
    }

    fn answer(&mut self, now: SystemTime, request: &Request<Bytes>) -> Result<Answer, Failure> {
        let call = &Call::read(request)?;
        match call.verb {
            Verb::Get => self.get(call),
            Verb::List => list::list(call, &self.store),
            Verb::Watch => self.watches.open(now, call, &self.store).map(Answer::Watch),
            Verb::Create => self.write(now, |write| write.create(call)),
            Verb::Update => self.write(now, |write| write.update(call)),
            Verb::Patch(kind) => self.write(now, |write| write.patch(call, kind)),
            Verb::Delete => self.write(now, |write| write.delete(call)),
            Verb::DeleteCollection => self.delete_all(now, call),
        }
    }

    fn get(&self, call: &Call) -> Result<Answer, Failure> {
        let found = self.store.get(call.resource(), &call.key(call.name));
        let found = found.ok_or_else(|| Failure::not_found(call.endpoint, call.name))?;
        Ok(show::reply(200, show::object(call.endpoint, call.wants, found)))
    }

    /// Writes, and tells the watches.
    fn write(
        &mut self,
        now: SystemTime,
        write: impl FnOnce(&mut Write) -> Result<write::Done, Failure>,
    ) -> Result<Answer, Failure> {
        let done = self.writing(now, write)?;
        Ok(show::reply(done.code, done.text))
    }

    fn writing<T>(&mut self, now: SystemTime, write: impl FnOnce(&mut Write) -> T) -> T {
        let before = self.store.journal().len();
        let result = write(&mut Write {
            store: &mut self.store,
            chance: &mut self.chance,
            now,
        });
        for change in write::changes_since(&self.store, before) {
            self.watches.tell(change);
        }
        result
    }

    /// Deletes what a list shows; the reply is that list.
    fn delete_all(&mut self, now: SystemTime, call: &Call) -> Result<Answer, Failure> {
        let listed = list::list(call, &self.store)?;
        let selector = selector::Selector::read(call.endpoint, &call.options)?;
        let objects = within(self.store.objects(call.resource()), call.namespace, "");
        let fitting = objects
            .filter(|(_, object)| selector.fits(object))
            .take(call.options.page());
        let keys: Vec<Arc<str>> = fitting.map(|(key, _)| Arc::clone(key)).collect();
        for key in keys {
            let deed = deed(now, call.verb, call.actor);
            self.writing(now, |write| write.delete_or_mark(call.resource(), &key, deed));
        }
        Ok(listed)
    }

    /// Does what the server does by the clock: ends the watches whose time is over, takes away what is in a
    /// namespace that is being deleted, and Events that are old.
    pub fn tick(&mut self, now: SystemTime) {
        self.empty_namespaces(now);
        self.drop_old_events(now);
        self.watches.tick(now, self.store.revision());
    }

    /// When [`ApiServer::tick`] has something to do for a watch next.
    pub fn next_tick(&self) -> Option<SystemTime> {
        self.watches.next()
    }

    fn empty_namespaces(&mut self, now: SystemTime) {
        let all = self.store.objects(Resource::Namespaces);
        let ending = all
            .iter()
            .filter(|(_, namespace)| namespace["status"]["phase"] == "Terminating");
        let ending: Vec<Arc<str>> = ending.map(|(name, _)| Arc::clone(name)).collect();
        for namespace in ending {
            let mut is_empty = true;
            for resource in Resource::ALL
                .into_iter()
                .filter(|resource| resource.is_namespaced())
            {
                let objects = within(self.store.objects(resource), Some(&namespace), "");
                let keys: Vec<Arc<str>> = objects.map(|(key, _)| Arc::clone(key)).collect();
                for key in keys {
                    let deed = deed(now, Verb::Delete, SERVER);
                    let waits = self.writing(now, |write| write.delete_or_mark(resource, &key, deed));
                    is_empty &= waits.is_none();
                }
            }
            if is_empty {
                let deed = deed(now, Verb::Delete, SERVER);
                self.writing(now, |write| {
                    write.store.remove(Resource::Namespaces, &namespace, deed);
                });
            }
        }
    }

    fn drop_old_events(&mut self, now: SystemTime) {
        while let Some((time, key)) = self.store.oldest_event()
            && now.duration_since(time).is_ok_and(|age| age > EVENTS_LAST)
        {
            let deed = deed(now, Verb::Delete, SERVER);
            self.writing(now, |write| {
                write.store.remove(Resource::Events, &key, deed);
            });
        }
    }

    /// Forgets history until now: watches and pages of lists that are older cannot go on.
    pub fn compact(&mut self) {
        self.store.compact();
    }

    /// Ends all watches, as a server does that restarts.
    pub fn cut_watches(&mut self) {
        self.watches.cut();
    }

    /// How many watches are open.
    pub fn open_watches(&self) -> usize {
        self.watches.count(None)
    }

    /// How many watches of a resource are open.
    pub fn open_watches_of(&self, resource: Resource) -> usize {
        self.watches.count(Some(resource))
    }

    /// Each change since the beginning, the oldest first.
    pub fn journal(&self) -> &[Change] {
        self.store.journal()
    }

    /// The resourceVersion of the newest change.
    pub fn revision(&self) -> u64 {
        self.store.revision()
    }

    /// An object as it is stored, without kind and apiVersion. `namespace` is empty for what has none.
    pub fn object(&self, resource: Resource, namespace: &str, name: &str) -> Option<&Value> {
        let found = if resource.is_namespaced() {
            self.store.get(resource, &format!("{namespace}/{name}"))
        } else {
            self.store.get(resource, name)
        };
        found.map(|object| &**object)
    }

    /// All objects of a resource, by namespace and name.
    pub fn objects(&self, resource: Resource) -> impl Iterator<Item = &Value> {
        self.store.objects(resource).values().map(|object| &**object)
    }
}

fn deed(time: SystemTime, verb: Verb, actor: &str) -> Deed {
    Deed {
        time,
        verb,
        actor: actor.into(),
    }
}

fn version() -> Value {
    json!({"major": "1", "minor": "37", "gitVersion": "v1.37.2", "platform": "linux/amd64"})
}

#[cfg(test)]
mod tests;
