//! What a document is made of: its Secrets, fetched live and within bounds, and the fingerprint by which
//! is told that they are still the same.

use std::collections::BTreeMap;

use super::Run;
use super::report::of_kubernetes;
use crate::domain::desired::{MOST_TOLD, Wanted, keep_picked};
use crate::domain::problem::Problem;
use crate::domain::source::Source;
use crate::domain::value::{Digest, Payload, Value};

impl Run<'_> {
    /// Fetches the Secrets of a document, and drops what it does not take of them; or says why that is
    /// useless.
    pub(super) async fn fetch(
        &self,
        source: &Source,
        wanted: &Wanted,
        limit: usize,
    ) -> Result<BTreeMap<String, Payload>, Vec<Problem>> {
        let mut secrets = BTreeMap::new();
        let mut missing = Vec::new();
        let mut size = 0;
        for entry in &wanted.entries {
            if secrets.contains_key(&entry.name) {
                continue;
            }
            let fetched = self.on.kube.secret(&source.key.namespace, &entry.name).await;
            let mut payload = fetched.map_err(|error| vec![of_kubernetes(&error)])?;
            let version = payload.as_ref().map(|payload| payload.resource_version.as_str());
            self.on
                .index()
                .learn_secret(&source.key.namespace, &entry.name, version);
            if let Some(payload) = &mut payload {
                keep_picked(wanted, &entry.name, payload);
                size += payload.data.values().map(Value::len).sum::<usize>();
            }
            if size > limit {
                return Err(vec![Problem::TooLarge {
                    document: wanted.id.clone(),
                    size,
                    limit,
                }]);
            }
            if payload.is_none() && !entry.optional {
                missing.push(Problem::MissingSecret {
                    namespace: source.key.namespace.clone(),
                    secret: entry.name.clone(),
                });
            }
            // Nothing comes of it, and a list may name hundreds that do not exist.
            if missing.len() >= MOST_TOLD {
                return Err(missing);
            }
            secrets.extend(payload.map(|payload| (entry.name.clone(), payload)));
        }
        Ok(secrets)
    }

    /// Bytes that a document may have at most.
    pub(super) fn largest(&self) -> usize {
        let stated = self.on.settings.max_document_size.unwrap_or(usize::MAX);
        stated.min(self.on.budget.largest())
    }

    /// Fingerprint of a wish and of the Secrets that it was fulfilled from.
    pub(super) fn inputs<'s>(
        &self,
        wanted: &Wanted,
        versions: impl Iterator<Item = (&'s str, &'s str)>,
    ) -> Digest {
        let wish = format!(
            "{:?}",
            (
                &wanted.entries,
                wanted.encoding,
                &wanted.id,
                self.deletion(&self.gathered.ask)
            )
        );
        let versions: Vec<_> = versions.collect();
        let fields = versions
            .iter()
            .flat_map(|(name, version)| [name.as_bytes(), version.as_bytes()]);
        self.on
            .digester
            .fields([wish.as_bytes()].into_iter().chain(fields))
    }

    /// The same from what the watch shows, if it has shown all of them.
    pub(super) fn inputs_by_watch(&self, source: &Source, wanted: &Wanted) -> Option<Digest> {
        let index = self.on.index();
        let names = wanted.entries.iter().map(|entry| entry.name.as_str());
        let versions = index.secret_versions(&source.key.namespace, names)?;
        Some(self.inputs(wanted, versions.into_iter()))
    }
}
