//! Taking documents away: of a source that is gone, and those that a source no longer wants.

use std::time::Duration;
use tokio::time::Instant;

use super::report::{of_kubernetes, of_ledger};
use super::{Moved, Requeue, Run};
use crate::mounts::Fault;
use crate::vault::{self, ErrorKind};
use domain::document::{Claim, DocumentId, KvVersion, Mount, Observed};
use domain::index::LastWord;
use domain::ledger::{LedgerEntry, State};
use domain::plan::{Contender, Departure, Removal, after, remove};
use domain::problem::{Problem, Retry};
use domain::settings::DeletionPolicy;
use domain::source::{Source, SourceKey};

/// After what time is looked again at documents that another source has at work.
const HELD_UP: Duration = Duration::from_secs(1);

/// A delete that is confirmed by looking again must end some time, whatever others do to it.
const LOOKS: u32 = 5;

impl Run<'_> {
    /// A source that is gone, is going, or has no path any more.
    pub(super) async fn departed(&mut self, source: Option<&Source>) -> Result<(), Moved> {
        self.memory.documents.clear();
        if self.gathered.held_up {
            if let Some(source) = source {
                self.release(source).await;
            }
            // Its documents go when the other source has done with them.
            self.look_again(Requeue::trusting(HELD_UP));
            return Ok(());
        }
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
            Some(left) => self.look_again(Requeue::trusting(left)),
            None => {}
        }
        Ok(())
    }

    /// How long an object's deletion may still wait for Vault; `None`: it is not being deleted.
    fn deadline(&self, source: &Source) -> Option<Duration> {
        Some(self.on.time_left(&source.key, &source.uid, source.deleting?))
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
                        since: self.on.clock.seconds(),
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
        let mount = match on.mounts.resolve(&id.to_string(), self.depth).await {
            Ok(mount) => mount,
            // Not even "no such mount" proves that nothing of ours is left: with another `VAULT_NAMESPACE`, or
            // while a mount is moved, every mount is missing. The delete stays pending.
            Err(Fault::Path(fault)) => return Err(fault.into()),
            Err(Fault::Vault(error)) => return Err(on.vault_failed(&error)),
        };
        let (mut left, mut purged) = (None, false);
        for _ in 0..LOOKS {
            // As of before the look: what could arrive after it was not seen by it, however long it took.
            let unsettled = on.unsettled_until(id);
            let seen = match left.take() {
                Some(seen) => seen,
                None => on.look(&mount, id).await?,
            };
            let claimant = seen.claim().map(|claim| &claim.holder);
            let claimant_watched = claimant.is_none_or(|key| on.index().watches(key));
            let claimant: Vec<&SourceKey> = claimant.filter(|_| claimant_watched).into_iter().collect();
            let successor = on
                .rivals(holder, &mount, id, &claimant)
                .into_iter()
                .min_by(|a, b| (a.created, &a.uid).cmp(&(b.created, &b.uid)));
            let removal = remove(&Departure {
                identity: &on.identity,
                entry,
                seen: &seen,
                version: mount.version,
                wanted: successor.is_some(),
                claimant_watched,
                deletion,
                unsettled: unsettled.is_some(),
                purged,
            });
            tracing::debug!(
                source = %holder, document = %id, decision = ?removal, version = seen.version(),
                ledger = entry.state.as_str(), "decided about a document that is no longer wanted",
            );
            match removal {
                Removal::HandOver => {
                    self.wake.extend(on.index().sharers(holder, id));
                    if let Some(successor) = successor {
                        self.hand_over(id, entry, deletion, successor);
                    }
                    return Ok(true);
                }
                Removal::Gone => return self.strike(id).await,
                Removal::Watch => {
                    self.watch(id, entry, deletion, unsettled);
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
                Removal::Release { version, retained } => {
                    self.release_claim(id, version, retained).await?;
                    if retained {
                        tracing::info!(document = %id, holder = %holder, "document retained and released");
                    }
                    return self.strike(id).await;
                }
                removal => {
                    self.delete(&mount, id, &removal, &seen).await?;
                    purged |= removal == Removal::Purge;
                    tracing::info!(document = %id, holder = %holder, policy = %deletion, "document deleted");
                    on.metrics.document_deleted(&holder.namespace);
                    self.report.cleaned(id);
                    // What could have arrived after the look, only another look tells.
                    left = unsettled.is_none().then(|| after(&removal, seen));
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

    /// The document goes on with another source. Should that one never come to write it, it takes it away when it
    /// goes itself.
    fn hand_over(
        &self,
        id: &DocumentId,
        entry: &LedgerEntry,
        deletion: DeletionPolicy,
        successor: Contender,
    ) {
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
        self.on.ledger.commit_later(vec![(id.clone(), Some(entry))]);
    }

    /// Nothing is there now, but a late write of ours could still arrive.
    fn watch(
        &mut self,
        id: &DocumentId,
        entry: &LedgerEntry,
        deletion: DeletionPolicy,
        until: Option<Instant>,
    ) {
        let state = match entry.state {
            // By it a late first write of ours is told from somebody else's.
            State::OutcomeUnknown => State::OutcomeUnknown,
            _ => State::Deleting,
        };
        let entry = LedgerEntry {
            state,
            deletion,
            ..entry.clone()
        };
        self.on.ledger.commit_later(vec![(id.clone(), Some(entry))]);
        let left = until.map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(Instant::now())
        });
        self.look_again(Requeue::full(left));
    }

    /// Marks our claim as released.
    async fn release_claim(&self, id: &DocumentId, version: u64, retained: bool) -> Result<(), Problem> {
        let on = self.on;
        on.ensure_leading()?;
        let open = on.open(id);
        match open.end(
            on.vault
                .patch_metadata(id, &Claim::release(version, retained))
                .await,
        ) {
            Ok(()) => Ok(()),
            // Without the right to release it, it was never claimed in earnest. And without a document there is
            // nothing to release.
            Err(error) if matches!(error.kind, ErrorKind::Denied | ErrorKind::NotFound) => Ok(()),
            Err(error) if error.status == Some(405) => Ok(()),
            Err(error) => Err(on.vault_failed(&error)),
        }
    }

    async fn delete(
        &self,
        mount: &Mount,
        id: &DocumentId,
        removal: &Removal,
        seen: &Observed,
    ) -> Result<(), Problem> {
        self.on.ensure_leading()?;
        let vault = &self.on.vault;
        let open = self.on.open(id);
        let result = match removal {
            Removal::Purge => vault.purge(id).await,
            Removal::DeleteVersion(version) => self.delete_version(mount, id, *version).await,
            _ => vault.delete_latest(mount, id).await,
        };
        match open.end(result) {
            Ok(()) => Ok(()),
            // It went meanwhile; the next look will tell.
            Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
            Err(error) => {
                if *removal == Removal::Purge
                    && error.kind == ErrorKind::Denied
                    && let Observed::Live { version, .. } = seen
                {
                    // The value goes out of use now; its history when the right to delete metadata is granted.
                    let open = self.on.open(id);
                    open.end(self.delete_version(mount, id, *version).await)
                        .map_err(|error| self.on.vault_failed(&error))?;
                    // What is written or undeleted there from now on is not ours to purge later.
                    if seen.claim().is_some() {
                        self.release_claim(id, *version, false).await?;
                    }
                }
                Err(self.on.vault_failed(&error))
            }
        }
    }

    async fn delete_version(&self, mount: &Mount, id: &DocumentId, version: u64) -> Result<(), vault::Error> {
        match self.on.vault.delete_version(id, version).await {
            // The predecessor's policy has no `delete/`: the latest version, right after a look.
            Err(error) if error.kind == ErrorKind::Denied && mount.version == KvVersion::V2 => {
                self.on.vault.delete_latest(mount, id).await
            }
            other => other,
        }
    }

    /// Takes a document out of the ledger, and tells those who may have waited for it.
    async fn strike(&mut self, id: &DocumentId) -> Result<bool, Problem> {
        let on = self.on;
        on.notes.late().remove(id);
        on.notes.claimless().forget(id);
        self.wake.extend(on.index().sharers(self.key(), id));
        self.wake.extend(on.shares.waiting(&self.key().namespace));
        on.ledger
            .commit(vec![(id.clone(), None)])
            .await
            .map_err(|error| of_ledger(&error))?;
        Ok(true)
    }
}
