//! Creating, changing and deleting objects.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::call::{Call, PatchKind};
use super::chance::Chance;
use super::resource::{Endpoint, Resource};
use super::status::{self, Failure};
use super::store::{Change, Deed, Store};
use super::{patch, shape, show, validate};

/// A write that succeeded.
pub(super) struct Done {
    /// The status of the reply.
    pub(super) code: u16,
    /// The text of the reply.
    pub(super) text: Vec<u8>,
}

/// The server's parts that a write changes.
pub(super) struct Write<'a> {
    pub(super) store: &'a mut Store,
    pub(super) chance: &'a mut Chance,
    pub(super) now: SystemTime,
}

impl Write<'_> {
    /// Creates the object in the request's body.
    pub(super) fn create(&mut self, call: &Call) -> Result<Done, Failure> {
        let object = shape::read(call.endpoint, call.body)?;
        self.create_object(call, object)
    }

    fn create_object(&mut self, call: &Call, mut object: Value) -> Result<Done, Failure> {
        put_in_namespace(call, &mut object)?;
        let metadata = &mut object["metadata"];
        if metadata["name"].as_str().is_none_or(str::is_empty) && !metadata["generateName"].is_null() {
            let prefix = metadata["generateName"].as_str().unwrap_or_default();
            metadata["name"] = format!("{prefix}{}", self.chance.suffix()).into();
        }
        let name = metadata["name"].as_str().unwrap_or_default().to_owned();
        self.admit(call, &name)?;
        self.begin(call.endpoint, &mut object);
        let faults = validate::object(call.endpoint, &object);
        if !faults.is_empty() {
            return Err(Failure::invalid(call.endpoint, &name, &faults));
        }
        if !object["metadata"]["resourceVersion"].is_null() {
            return Err(Failure::internal(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        let key = call.key(&name);
        if let Some(there) = self.store.get(call.resource(), &key) {
            let is_being_deleted = !there["metadata"]["deletionTimestamp"].is_null();
            return Err(Failure::already_exists(call.endpoint, &name, is_being_deleted));
        }
        let created = self.put(call, &key, object);
        Ok(shown(201, call, created))
    }

    /// Whether the namespace takes new objects.
    fn admit(&self, call: &Call, name: &str) -> Result<(), Failure> {
        let Some(namespace) = call.namespace else {
            return Ok(());
        };
        let Some(found) = self.store.get(Resource::Namespaces, namespace) else {
            return Err(Failure::not_found(namespaces(), namespace));
        };
        if found["status"]["phase"] == "Terminating" {
            return Err(Failure::terminating(call.endpoint, namespace, name));
        }
        Ok(())
    }

    /// Gives a new object what each object has.
    fn begin(&mut self, endpoint: Endpoint, object: &mut Value) {
        if endpoint.resource.has_generation() {
            object["metadata"]["generation"] = 1.into();
        }
        if endpoint.resource == Resource::Namespaces {
            let name = object["metadata"]["name"].clone();
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
        }
        if let Value::Object(metadata) = &mut object["metadata"] {
            metadata.remove("deletionTimestamp");
            metadata.remove("deletionGracePeriodSeconds");
            metadata.insert("uid".to_owned(), self.chance.uid().into());
            metadata.insert("creationTimestamp".to_owned(), self.timestamp());
        }
    }

    /// Replaces an object by the one in the request's body.
    pub(super) fn update(&mut self, call: &Call) -> Result<Done, Failure> {
        let mut object = shape::read(call.endpoint, call.body)?;
        check_name(call, &object)?;
        put_in_namespace(call, &mut object)?;
        let old = self.store.get(call.resource(), &call.key(call.name)).cloned();
        if old.is_none() && !call.resource().is_created_by_update() {
            return Err(Failure::not_found(call.endpoint, call.name));
        }
        check_uid(call, &object, old.as_deref().unwrap_or(&Value::Null))?;
        let Some(old) = old else {
            check_version(&object["metadata"]["resourceVersion"])?;
            if let Value::Object(metadata) = &mut object["metadata"] {
                metadata.remove("resourceVersion");
            }
            return self.create_object(call, object);
        };
        self.replace(call, &old, object)
    }

    /// Changes an object by the patch in the request's body.
    pub(super) fn patch(&mut self, call: &Call, kind: PatchKind) -> Result<Done, Failure> {
        let patch: Value = serde_json::from_slice(call.body)
            .map_err(|error| Failure::bad_request(format!("error decoding patch: {error}")))?;
        let old = self.store.get(call.resource(), &call.key(call.name)).cloned();
        let old = old.ok_or_else(|| Failure::not_found(call.endpoint, call.name))?;
        let mut object = if call.endpoint.shows_new_events() {
            super::event::from_core(&old)
        } else {
            (*old).clone()
        };
        patch::apply(kind, &mut object, &patch)?;
        let unusable = |failure: Failure| Failure::unusable_patch(failure.message());
        let mut object = shape::normal(call.endpoint, object).map_err(unusable)?;
        check_name(call, &object)?;
        put_in_namespace(call, &mut object)?;
        self.replace(call, &old, object)
    }

    fn replace(&mut self, call: &Call, old: &Value, mut object: Value) -> Result<Done, Failure> {
        let resource = call.resource();
        let old_metadata = &old["metadata"];
        let metadata = &mut object["metadata"];
        check_version(&metadata["resourceVersion"])?;
        if metadata["resourceVersion"].is_null() {
            if !resource.is_updated_unconditionally() {
                return Err(Failure::version_required(call.endpoint, call.name));
            }
        } else if metadata["resourceVersion"] != old_metadata["resourceVersion"] {
            return Err(Failure::modified(call.endpoint, call.name));
        }
        for field in ["resourceVersion", "creationTimestamp", "generation"] {
            take_over(metadata, old_metadata, field);
        }
        if !old_metadata["deletionTimestamp"].is_null() {
            take_over(metadata, old_metadata, "deletionTimestamp");
        }
        for field in ["uid", "deletionGracePeriodSeconds"] {
            if metadata[field].is_null() {
                take_over(metadata, old_metadata, field);
            }
        }
        take_over_parts(resource, &mut object, old);
        let faults = validate::change(call.endpoint, &object, old);
        if !faults.is_empty() {
            return Err(Failure::invalid(call.endpoint, call.name, &faults));
        }
        let key = call.key(call.name);
        let is_free = object["metadata"]["finalizers"].is_null() && resource != Resource::Namespaces;
        if is_free && !old_metadata["deletionTimestamp"].is_null() {
            self.store.remove(resource, &key, self.deed(call));
            return Ok(shown(200, call, &object));
        }
        if object == *old {
            return Ok(shown(200, call, &object));
        }
        let changed = self.put(call, &key, object);
        Ok(shown(200, call, changed))
    }

    /// Deletes an object, or marks it as one that waits for its finalizers.
    pub(super) fn delete(&mut self, call: &Call) -> Result<Done, Failure> {
        let key = call.key(call.name);
        let old = self.store.get(call.resource(), &key).cloned();
        let old = old.ok_or_else(|| Failure::not_found(call.endpoint, call.name))?;
        check_preconditions(call, &old)?;
        if call.resource() == Resource::Namespaces {
            return self.terminate(call, &old);
        }
        if let Some(marked) = self.delete_or_mark(call.resource(), &key, self.deed(call)) {
            return Ok(shown(200, call, &marked));
        }
        let text = status::deleted(call.endpoint, call.name, &old["metadata"]["uid"]).to_string();
        Ok(Done {
            code: 200,
            text: text.into_bytes(),
        })
    }

    /// Deletes an object. One that waits for its finalizers is given back, marked.
    pub(super) fn delete_or_mark(&mut self, resource: Resource, key: &str, deed: Deed) -> Option<Value> {
        let old = self.store.get(resource, key)?;
        let metadata = &old["metadata"];
        if metadata["finalizers"].is_null() {
            self.store.remove(resource, key, deed);
            return None;
        }
        let mut marked = (**old).clone();
        if !metadata["deletionTimestamp"].is_null() {
            return Some(marked);
        }
        let metadata = &mut marked["metadata"];
        metadata["deletionTimestamp"] = self.timestamp();
        metadata["deletionGracePeriodSeconds"] = 0.into();
        if let Some(generation) = metadata["generation"].as_u64() {
            metadata["generation"] = (generation + 1).into();
        }
        let change = self.store.put(resource, key, marked, deed);
        Some((*change.after).clone())
    }

    /// Begins the end of a namespace.
    fn terminate(&mut self, call: &Call, old: &Value) -> Result<Done, Failure> {
        if matches!(call.name, "default" | "kube-system" | "kube-public") {
            return Err(Failure::forbidden(
                call.endpoint,
                call.name,
                "this namespace may not be deleted",
            ));
        }
        if !old["metadata"]["deletionTimestamp"].is_null() {
            return Ok(shown(200, call, old));
        }
        let mut marked = old.clone();
        marked["metadata"]["deletionTimestamp"] = self.timestamp();
        marked["status"]["phase"] = "Terminating".into();
        let marked = self.put(call, call.name, marked);
        Ok(shown(200, call, marked))
    }

    /// Stores an object, and counts the changes to its spec.
    fn put(&mut self, call: &Call, key: &str, mut object: Value) -> &Value {
        let resource = call.resource();
        if resource.has_generation()
            && let Some(old) = self.store.get(resource, key)
            && is_counted(resource, &object, old)
        {
            let generation = old["metadata"]["generation"].as_u64().unwrap_or(0);
            object["metadata"]["generation"] = (generation + 1).into();
        }
        let deed = self.deed(call);
        &self.store.put(resource, key, object, deed).after
    }

    fn deed(&self, call: &Call) -> Deed {
        Deed {
            time: self.now,
            verb: call.verb,
            actor: call.actor.into(),
        }
    }

    fn timestamp(&self) -> Value {
        let since = self.now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        Timestamp::from_second(seconds)
            .unwrap_or(Timestamp::MAX)
            .to_string()
            .into()
    }
}

/// What an update cannot change, since the real server takes it from the stored object.
fn take_over_parts(resource: Resource, object: &mut Value, old: &Value) {
    match resource {
        Resource::Namespaces => {
            take_over(object, old, "status");
            take_over(object, old, "spec");
        }
        Resource::Deployments
        | Resource::StatefulSets
        | Resource::DaemonSets
        | Resource::CronJobs
        | Resource::Pods => take_over(object, old, "status"),
        _ => {}
    }
}

/// Whether a change makes a new generation. A change to a Deployment's annotations does.
fn is_counted(resource: Resource, new: &Value, old: &Value) -> bool {
    let has_new_annotations = new["metadata"]["annotations"] != old["metadata"]["annotations"];
    new["spec"] != old["spec"] || resource == Resource::Deployments && has_new_annotations
}

fn take_over(object: &mut Value, old: &Value, field: &str) {
    match &old[field] {
        Value::Null => {
            if let Value::Object(map) = object {
                map.remove(field);
            }
        }
        value => object[field] = value.clone(),
    }
}

fn namespaces() -> Endpoint {
    Endpoint {
        resource: Resource::Namespaces,
        group: "",
        api_version: "v1",
    }
}

/// Gives an object the namespace of its path.
fn put_in_namespace(call: &Call, object: &mut Value) -> Result<(), Failure> {
    let metadata = &mut object["metadata"];
    match (metadata["namespace"].as_str(), call.namespace) {
        (Some(own), Some(asked)) if own != asked => Err(Failure::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )),
        (_, Some(namespace)) => {
            metadata["namespace"] = namespace.into();
            Ok(())
        }
        _ => Ok(()),
    }
}

fn check_name(call: &Call, object: &Value) -> Result<(), Failure> {
    match object["metadata"]["name"].as_str() {
        Some(name) if name == call.name => Ok(()),
        Some(name) => Err(Failure::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.name
        ))),
        None => Err(Failure::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            call.name
        ))),
    }
}

/// Whether a resourceVersion is a number.
fn check_version(version: &Value) -> Result<(), Failure> {
    match version.as_str() {
        Some(text) if text.parse::<u64>().is_err() => Err(Failure::internal(&format!(
            "strconv.ParseUint: parsing {version}: invalid syntax"
        ))),
        _ => Ok(()),
    }
}

/// Whether the uid in an update, if there is one, is that of the stored object.
fn check_uid(call: &Call, new: &Value, old: &Value) -> Result<(), Failure> {
    let (new, old) = (&new["metadata"]["uid"], &old["metadata"]["uid"]);
    if new.is_null() || new == old {
        return Ok(());
    }
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: /registry/{}/{}, ResourceVersion: 0, AdditionalErrorMsg: \
         Precondition failed: UID in precondition: {}, UID in object meta: {}",
        call.resource().plural(),
        call.key(call.name),
        new.as_str().unwrap_or_default(),
        old.as_str().unwrap_or_default(),
    );
    Err(Failure::conflict(call.endpoint, call.name, &why))
}

fn check_preconditions(call: &Call, old: &Value) -> Result<(), Failure> {
    let options: Value = serde_json::from_slice(call.body).unwrap_or_default();
    let wanted = &options["preconditions"];
    let found = &old["metadata"];
    for (field, words, why) in [
        (
            "uid",
            "UID",
            "The object might have been deleted and then recreated",
        ),
        (
            "resourceVersion",
            "ResourceVersion",
            "The object might have been modified",
        ),
    ] {
        if wanted[field].is_null() || wanted[field] == found[field] {
            continue;
        }
        let why = format!(
            "the {words} in the precondition ({}) does not match the {words} in record ({}). {why}",
            wanted[field].as_str().unwrap_or_default(),
            found[field].as_str().unwrap_or_default(),
        );
        return Err(Failure::precondition(call.endpoint, call.name, &why));
    }
    Ok(())
}

fn shown(code: u16, call: &Call, object: &Value) -> Done {
    Done {
        code,
        text: show::object(call.endpoint, call.wants, object),
    }
}

/// The changes that a write made.
pub(super) fn changes_since(store: &Store, before: usize) -> &[Change] {
    &store.journal()[before..]
}
