//! Taking documents away: of a source that is gone, and those that a source no longer wants.

use std::time::{Duration, Instant};

use super::report::{of_kubernetes, of_ledger};
use super::{Moved, Run, now};
use crate::domain::document::{Claim, DocumentId, KvVersion, Mount};
use crate::domain::index::LastWord;
use crate::domain::ledger::{LedgerEntry, State};
use crate::domain::plan::{Departure, Removal, remove};
use crate::domain::problem::{PathFault, Problem, Retry};
use crate::domain::settings::DeletionPolicy;
use crate::domain::source::{Source, SourceKey};
use crate::mounts::Fault;
use crate::vault::ErrorKind;

/// A delete that is confirmed by looking again must end some time, whatever others do to it.
const LOOKS: u32 = 5;

impl Run<'_> {
    /// A source that is gone, is going, or has no path any more.
    pub(super) async fn departed(&mut self, source: Option<&Source>) -> Result<(), Moved> {
        self.memory.documents.clear();
        let ask = self.gathered.ask.clone();
        for warning in ask.warnings.iter().filter(|_| source.is_some()) {
            self.report.warning(warning.clone());
        }
        let deadline = source.and_then(|source| self.deadline(source));
        let overdue = deadline == Some(Duration::ZERO);
        if overdue && let Some(source) = source {
            // The deletes are tried all the same; they hold nobody up any more.
            self.release(source).await;
        }
        if let (Some(source), Some(left)) = (source, deadline) {
            // Within the time that its deletion has; after that it goes, ledger or no ledger.
            let _ = tokio::time::timeout(left, self.reclaim(source, &ask)).await;
        }
        // What it says now, or said last as far as the watch has shown; else the ledger remembers.
        let word = match source {
            Some(_) => ask.path.is_some().then_some(LastWord {
                deletion: ask.deletion,
                paused: ask.paused,
            }),
            None => self.on.index().last_word(self.key()),
        };
        let retained = ask.paused || ask.deletion == Some(DeletionPolicy::Retain);
        let wishes = self.on.ledger.of(self.key()).into_iter().map(|(id, entry)| {
            let deletion = match word {
                _ if retained => DeletionPolicy::Retain,
                Some(LastWord { paused: true, .. }) => DeletionPolicy::Retain,
                Some(LastWord { deletion, .. }) => deletion.unwrap_or(self.on.settings.deletion),
                None if source.is_none() && entry.paused => DeletionPolicy::Retain,
                None => entry.deletion,
            };
            (id, LedgerEntry { deletion, ..entry })
        });
        let entries: Vec<_> = wishes.collect();
        // The source takes its last word with it, and what follows may not come to its end.
        let last_word = entries
            .iter()
            .map(|(id, entry)| (id.clone(), Some(entry.clone())));
        self.on.ledger.commit_later(last_word.collect());
        let clearing = async {
            let mut done = true;
            for (id, entry) in &entries {
                done &= self.depart(id, entry, entry.deletion, entry.holder.clone()).await;
                self.look_whether_vault_is_down().await;
                if self.vault_is_down {
                    return false;
                }
            }
            done
        };
        let done = match deadline.filter(|_| !overdue) {
            Some(left) => tokio::time::timeout(left, clearing).await.unwrap_or(false),
            None => clearing.await,
        };
        let Some(source) = source else { return Ok(()) };
        match self.deadline(source) {
            _ if done => self.release(source).await,
            Some(Duration::ZERO) => self.release(source).await,
            Some(left) => self.look_again(left, false),
            None => {}
        }
        Ok(())
    }

    /// How long an object's deletion may still wait for Vault; `None`: it is not being deleted. The time
    /// counts from its deletion by the API server's clock; should that differ from ours, from when we first
    /// saw it, so that nobody waits longer.
    fn deadline(&self, source: &Source) -> Option<Duration> {
        let begun = source.deleting?;
        let by_clocks = Duration::from_secs(u64::try_from(now() - begun).unwrap_or(0));
        let waited = by_clocks.max(self.on.notes.seen_deleting(source));
        Some(self.on.cleanup_timeout.saturating_sub(waited))
    }

    /// Takes the finalizer off, where it is.
    async fn release(&mut self, source: &Source) {
        if !self.has_finalizer {
            return;
        }
        match self.on.kube.remove_finalizer(source).await {
            Ok(()) => self.has_finalizer = false,
            Err(error) => self.report.problem(None, of_kubernetes(&error)),
        }
    }

    /// Takes one document away by its policy. Whether nothing is left to wait for.
    pub(super) async fn depart(
        &mut self,
        id: &DocumentId,
        entry: &LedgerEntry,
        deletion: DeletionPolicy,
        holder: SourceKey,
    ) -> bool {
        match self.take_away(id, entry, deletion, &holder).await {
            Ok(done) => done,
            Err(problem) => {
                // One of which we do not know whether it was ever created stays marked so: by that
                // it is judged once Vault can be asked.
                if entry.state == State::Written {
                    let entry = LedgerEntry {
                        state: State::Deleting,
                        since: now(),
                        deletion,
                        ..entry.clone()
                    };
                    self.on.ledger.commit_later(vec![(id.clone(), Some(entry))]);
                }
                self.report.problem(Some(id), problem);
                false
            }
        }
    }

    async fn take_away(
        &mut self,
        id: &DocumentId,
        entry: &LedgerEntry,
        deletion: DeletionPolicy,
        holder: &SourceKey,
    ) -> Result<bool, Problem> {
        let on = self.on;
        let mount = match on.mounts.resolve(&id.to_string(), self.recheck).await {
            Ok(mount) => mount,
            // The whole mount is gone, or something else stands in its place: nothing of ours is left.
            Err(Fault::Path(PathFault::NoMount(_) | PathFault::NotKv { .. })) => {
                return self.strike(id).await;
            }
            Err(Fault::Path(fault)) => return Err(fault.into()),
            Err(Fault::Vault(error)) => return Err(on.vault_failed(&error)),
        };
        for _ in 0..LOOKS {
            let seen = on.look(&mount, id).await?;
            let claimant = seen.claim().map(|claim| &claim.holder);
            let claimant_watched = claimant.is_none_or(|key| on.index().watches(key));
            let claimant: Vec<&SourceKey> = claimant.filter(|_| claimant_watched).into_iter().collect();
            let successor = on
                .rivals(holder, &mount, id, &claimant)
                .into_iter()
                .min_by(|a, b| (a.created, &a.uid).cmp(&(b.created, &b.uid)));
            let unsettled = on.unsettled_until(id);
            let removal = remove(&Departure {
                identity: &on.identity,
                entry,
                seen: &seen,
                version: mount.version,
                wanted: successor.is_some(),
                claimant_watched,
                deletion,
                unsettled: unsettled.is_some(),
            });
            match removal {
                Removal::HandOver => {
                    self.wake.extend(on.index().sharers(holder, id));
                    if let Some(successor) = successor {
                        // Should it never come to write it, it takes it away when it goes itself.
                        let state = match entry.state {
                            State::Written => State::Deleting,
                            other => other,
                        };
                        let entry = LedgerEntry {
                            holder: successor.key,
                            uid: successor.uid,
                            state,
                            deletion,
                            ..entry.clone()
                        };
                        on.ledger.commit_later(vec![(id.clone(), Some(entry))]);
                    }
                    return Ok(true);
                }
                Removal::Gone => return self.strike(id).await,
                Removal::Watch => {
                    let entry = LedgerEntry {
                        state: State::Deleting,
                        deletion,
                        ..entry.clone()
                    };
                    on.ledger.commit_later(vec![(id.clone(), Some(entry))]);
                    let left = unsettled.map_or(Duration::ZERO, |until| {
                        until.saturating_duration_since(Instant::now())
                    });
                    self.look_again(left, true);
                    return Ok(true);
                }
                Removal::Disown => {
                    tracing::info!(document = %id, holder = %holder, "the document is another's by now; it stays");
                    return self.strike(id).await;
                }
                Removal::Orphan => {
                    tracing::warn!(document = %id, holder = %holder, "the document may have been ours, and nothing proves it; it stays");
                    self.report.orphan(id);
                    return self.strike(id).await;
                }
                Removal::Release => {
                    on.ensure_leading()?;
                    let open = on.open(id);
                    match open.end(on.vault.patch_metadata(id, &Claim::release()).await) {
                        Ok(()) => {}
                        // Without the right to release it, it was never claimed in earnest.
                        Err(error) if error.kind == ErrorKind::Denied => {}
                        Err(error) => return Err(on.vault_failed(&error)),
                    }
                    tracing::info!(document = %id, holder = %holder, "document retained and released");
                    return self.strike(id).await;
                }
                removal => {
                    self.delete(&mount, id, &removal).await?;
                    tracing::info!(document = %id, holder = %holder, policy = %deletion, "document deleted");
                    on.metrics.document_deleted(&holder.namespace);
                    self.report.cleaned(id);
                }
            }
        }
        Err(Problem::Vault {
            message: format!("{id} is written again by somebody as often as it is deleted"),
            hint: "find out who else writes it; it is tried again".into(),
            retry: Retry::Backoff,
            after: None,
            down: false,
        })
    }

    async fn delete(&self, mount: &Mount, id: &DocumentId, removal: &Removal) -> Result<(), Problem> {
        self.on.ensure_leading()?;
        let vault = &self.on.vault;
        let open = self.on.open(id);
        let result = match removal {
            Removal::Purge => vault.purge(id).await,
            Removal::DeleteVersion(version) => match vault.delete_version(id, *version).await {
                // The predecessor's policy has no `delete/`: the latest version, right after a look.
                Err(error) if error.kind == ErrorKind::Denied && mount.version == KvVersion::V2 => {
                    vault.delete_latest(mount, id).await
                }
                other => other,
            },
            _ => vault.delete_latest(mount, id).await,
        };
        match open.end(result) {
            Ok(()) => Ok(()),
            // It went meanwhile; the next look will tell.
            Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.on.vault_failed(&error)),
        }
    }

    /// Takes a document out of the ledger, and tells those who may have waited for it.
    async fn strike(&mut self, id: &DocumentId) -> Result<bool, Problem> {
        let on = self.on;
        on.notes.late().remove(id);
        self.wake.extend(on.index().sharers(self.key(), id));
        on.ledger
            .commit(vec![(id.clone(), None)])
            .await
            .map_err(|error| of_ledger(&error))?;
        Ok(true)
    }
}
