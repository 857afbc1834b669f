//! The input of a document: its Secrets, fetched live and within bounds. A fingerprint shows whether they
//! have changed.

use std::collections::{BTreeMap, HashSet};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;

use super::Reconciler;
use super::arrival::Bringing;
use super::budget::Grant;
use super::outcome::Stop;
use super::report::of_kubernetes;
use crate::kube::Fetched;
use crate::vault::encoded_len;
use domain::annotations::Entry;
use domain::desired::{Assembled, MOST_TOLD, Wanted, assemble, keep_picked};
use domain::problem::Problem;
use domain::source::Source;
use domain::value::{Content, Digest, Payload, Value};

/// Secrets of one document that are read concurrently.
const READS: usize = 8;
/// Bytes reserved for a read before its first byte arrives.
const FIRST: usize = 64 * 1024;
/// Bytes that a key takes while a document is built, in addition to the key's and the value's own bytes.
const PER_KEY: usize = 256;

/// A document that was built, and the memory budget that it takes.
pub(super) struct Made {
    pub assembled: Assembled,
    /// The resourceVersions of the Secrets that it is built from.
    pub versions: BTreeMap<String, String>,
    pub grant: Grant,
}

/// Why a document was not built.
enum Unmade {
    Problems(Vec<Problem>),
    /// The budget does not have this many bytes now.
    NoRoom(usize),
}

impl Reconciler {
    /// Builds a document from its Secrets. The returned grant is large enough to send the document.
    ///
    /// It holds a grant only while it reads. If the grant is too small, it returns the grant, and waits for
    /// as many bytes as it now knows it needs.
    pub(super) async fn make(&self, source: &Source, wanted: &Wanted) -> Result<Made, Stop> {
        let budget = &self.budget;
        let mut needs = FIRST;
        loop {
            let grant = budget.grant(&source.key.namespace, needs).await;
            match self.try_to_make(source, wanted, &grant).await {
                Ok((assembled, versions)) => {
                    grant.settle();
                    return Ok(Made {
                        assembled,
                        versions,
                        grant,
                    });
                }
                Err(Unmade::Problems(problems)) => return Err(Stop::Problems(problems)),
                Err(Unmade::NoRoom(size)) if size > budget.total() => {
                    let document = wanted.id.clone();
                    let limit = budget.total();
                    return Err(Problem::NoMemory {
                        document,
                        size,
                        limit,
                    }
                    .into());
                }
                Err(Unmade::NoRoom(size)) => needs = size.max(2 * needs),
            }
        }
    }

    async fn try_to_make(
        &self,
        source: &Source,
        wanted: &Wanted,
        grant: &Grant,
    ) -> Result<(Assembled, BTreeMap<String, String>), Unmade> {
        need(grant, 0)?;
        let limit = self.largest();
        let secrets = self.fetch(source, wanted, grant).await?;
        // A value that several entries use is copied for each.
        let sizes = wanted
            .entries
            .iter()
            .map(|entry| secrets.get(&entry.name).map_or(0, weight));
        let distinct: usize = secrets.values().map(weight).sum();
        let copies = sizes.sum::<usize>().saturating_sub(distinct).min(limit);
        need(grant, distinct + copies)?;
        let versions = secrets
            .iter()
            .map(|(name, payload)| (name.clone(), payload.resource_version.clone()))
            .collect();
        let assembled = assemble(wanted, &source.key.namespace, secrets, Some(limit));
        if let Assembled::Content { content, .. } = &assembled {
            need(grant, content_weight(content) + encoded_len(content))?;
        }
        Ok((assembled, versions))
    }

    /// Fetches the Secrets of a document, some at a time, and drops the keys that the document does not use.
    /// If the document cannot be built, returns why. The grant covers what it returns.
    async fn fetch(
        &self,
        source: &Source,
        wanted: &Wanted,
        grant: &Grant,
    ) -> Result<BTreeMap<String, Payload>, Unmade> {
        let limit = self.budget.largest();
        let mut secrets = BTreeMap::new();
        let mut missing = Vec::new();
        let mut size = 0;
        let mut named = HashSet::new();
        let mut entries: Vec<&Entry> = wanted.entries.iter().collect();
        entries.retain(|entry| named.insert(entry.name.as_str()));
        let mut entries = entries.into_iter().peekable();
        // In the order of the list, so that each pass reports the same problems.
        let mut reading = FuturesOrdered::new();
        loop {
            while reading.len() < READS && entries.peek().is_some() {
                // The first read needs neither more budget nor a permit, so that every document makes
                // progress.
                let permit = if reading.is_empty() {
                    None
                } else {
                    let Some(permit) = self.budget.spare_read() else {
                        break;
                    };
                    if !grant.grow(FIRST) {
                        break;
                    }
                    Some(permit)
                };
                let Some(entry) = entries.next() else { break };
                reading.push_back(async move {
                    let extra = permit.is_some();
                    let read = self.read(source, wanted, entry, grant).await;
                    if extra {
                        grant.shrink(FIRST);
                    }
                    drop(permit);
                    (entry, read)
                });
            }
            let Some((entry, read)) = reading.next().await else {
                break;
            };
            match read? {
                Some(payload) => {
                    size += payload.data.values().map(Value::len).sum::<usize>();
                    secrets.insert(entry.name.clone(), payload);
                }
                None if !entry.optional => missing.push(Problem::MissingSecret {
                    namespace: source.key.namespace.to_string(),
                    secret: entry.name.clone(),
                }),
                None => {}
            }
            if size > limit {
                return Err(Unmade::Problems(vec![Problem::TooLarge {
                    document: wanted.id.clone(),
                    size,
                    limit,
                }]));
            }
            // The document cannot be built, and a list may name hundreds of missing Secrets.
            if missing.len() >= MOST_TOLD {
                return Err(Unmade::Problems(missing));
            }
        }
        Ok(secrets)
    }

    /// Reads one Secret. `None`: it does not exist. The grant grows by what the document uses of it.
    async fn read(
        &self,
        source: &Source,
        wanted: &Wanted,
        entry: &Entry,
        grant: &Grant,
    ) -> Result<Option<Payload>, Unmade> {
        // The grant already covers the first bytes.
        let (mut used, mut charged) = (0_usize, 0_usize);
        let mut refused = 0;
        let mut charge = |bytes: usize| {
            used += bytes;
            let more = used.saturating_sub(charged + FIRST);
            if more > 0 && !grant.grow(more) {
                refused = more;
                return false;
            }
            charged += more;
            true
        };
        let namespace = &source.key.namespace;
        let fetched = self.kube.secret(namespace, &entry.name, &mut charge).await;
        let mut payload = match fetched {
            Ok(Fetched::Found(payload)) => Some(payload),
            Ok(Fetched::Absent) => None,
            Ok(Fetched::NoRoom) => return Err(Unmade::NoRoom(grant.used() + refused)),
            Err(error) => return Err(Unmade::Problems(vec![of_kubernetes(&error)])),
        };
        let version = payload.as_ref().map(|payload| payload.resource_version.as_str());
        self.index().learn_secret(namespace, &entry.name, version);
        if let Some(payload) = &mut payload {
            keep_picked(wanted, &entry.name, payload);
        }
        let keeps = payload.as_ref().map_or(0, weight);
        if keeps > charged && !grant.grow(keeps - charged) {
            return Err(Unmade::NoRoom(grant.used() + keeps - charged));
        }
        grant.shrink(charged.saturating_sub(keeps));
        Ok(payload)
    }

    /// Most bytes that a document may have.
    fn largest(&self) -> usize {
        let stated = self.settings.max_document_size.unwrap_or(usize::MAX);
        stated.min(self.budget.largest())
    }
}

impl Bringing<'_> {
    /// Fingerprint of what the source asks for, and of the Secrets that the document was built from.
    pub(super) fn inputs<'s>(&self, versions: impl Iterator<Item = (&'s str, &'s str)>) -> Digest {
        let wanted = self.wanted;
        let deletion = self.on.deletion(&self.pass.ask);
        let wish = format!("{:?}", (&wanted.entries, wanted.encoding, &wanted.id, deletion));
        let versions = versions.flat_map(|(name, version)| [name.as_bytes(), version.as_bytes()]);
        self.on
            .digester
            .fields([wish.as_bytes()].into_iter().chain(versions))
    }

    /// The same fingerprint from what the watch shows, if it has shown all of the Secrets.
    pub(super) fn inputs_by_watch(&self) -> Option<Digest> {
        let index = self.on.index();
        let names = self.wanted.entries.iter().map(|entry| entry.name.as_str());
        let versions = index.secret_versions(&self.source.key.namespace, names)?;
        Some(self.inputs(versions.into_iter()))
    }
}

/// Makes sure that the grant has this many bytes, in addition to those of the first read.
fn need(grant: &Grant, bytes: usize) -> Result<(), Unmade> {
    if grant.resize(FIRST + bytes) {
        Ok(())
    } else {
        Err(Unmade::NoRoom(FIRST + bytes))
    }
}

/// Bytes that a Secret takes in memory.
fn weight(payload: &Payload) -> usize {
    content_weight(&payload.data)
}

fn content_weight(content: &Content) -> usize {
    let bytes = |(key, value): (&String, &Value)| PER_KEY + key.len() + value.len();
    content.iter().map(bytes).sum()
}
