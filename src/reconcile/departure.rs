//! Removes one document that its source no longer wants: look, decide, act, until nothing is left.

use std::time::Duration;

use tokio::time::Instant;

use super::Reconciler;
use super::outcome::{News, Outcome, Requeue};
use super::report::of_ledger;
use crate::mounts::Fault;
use crate::vault::{self, ErrorKind};
use domain::document::{Claim, DocumentId, KvVersion, Mount, Observed};
use domain::ledger::{LedgerEntry, State};
use domain::plan::{Contender, Departure, Removal, after, remove};
use domain::problem::{Problem, Retry};
use domain::queue::Depth;

/// Most looks per removal. The removal must end even if another client keeps writing the document.
const LOOKS: u32 = 5;

/// A document that its source gives up, in a pass over that source.
#[derive(Clone, Copy)]
pub(super) struct Leaving<'a> {
    pub on: &'a Reconciler,
    pub depth: Depth,
    pub id: &'a DocumentId,
    /// Its ledger entry, with the deletion policy that applies now.
    pub entry: &'a LedgerEntry,
}

/// Why a document could not be removed.
struct Stuck {
    problem: Problem,
    /// The version that was deleted nevertheless, if no claim can record that.
    deleted: u64,
}

impl From<Problem> for Stuck {
    fn from(problem: Problem) -> Self {
        Self { problem, deleted: 0 }
    }
}

/// What was seen of the document, and what to do about it.
struct Look {
    seen: Observed,
    /// Until when a write of ours may still reach Vault, as of before the look. The look cannot show a write
    /// that arrives after it, however long the look took.
    unsettled: Option<Instant>,
    removal: Removal,
    /// The source that wants the document now.
    successor: Option<Contender>,
}

impl Leaving<'_> {
    /// Removes the document by its policy, and records the outcome. Returns whether nothing is left to wait
    /// for.
    pub(super) async fn depart(&self, outcome: &mut Outcome) -> bool {
        match self.take_away(outcome).await {
            Ok(()) => true,
            Err(Stuck { problem, deleted }) => {
                // If it is unknown whether the document was ever created, its ledger state stays: it decides
                // what happens once Vault can be asked.
                if self.entry.state == State::Written || deleted != 0 {
                    self.enter(LedgerEntry {
                        state: State::Deleting,
                        since: self.on.clock.seconds(),
                        base: deleted,
                        ..self.entry.clone()
                    });
                }
                outcome.problems.push(problem);
                false
            }
        }
    }

    async fn take_away(&self, outcome: &mut Outcome) -> Result<(), Stuck> {
        let (on, id, holder) = (self.on, self.id, &self.entry.holder);
        let mount = self.mount().await?;
        let (mut left, mut purged) = (None, false);
        for _ in 0..LOOKS {
            let Look {
                seen,
                unsettled,
                removal,
                successor,
            } = self.look(&mount, left.take(), purged).await?;
            match removal {
                Removal::HandOver => {
                    outcome.wake.extend(on.index().sharers(holder, id));
                    if let Some(successor) = successor {
                        self.hand_over(successor);
                    }
                    return Ok(());
                }
                Removal::Watch => {
                    self.watch(unsettled, outcome);
                    return Ok(());
                }
                Removal::Gone => return Ok(self.strike(outcome).await?),
                Removal::Disown => {
                    tracing::info!(document = %id, %holder, "the document is another's by now; it stays");
                    return Ok(self.strike(outcome).await?);
                }
                Removal::Orphan => {
                    tracing::warn!(document = %id, %holder, "the document may have been ours, and nothing proves it; it stays");
                    outcome.news.push(News::PossibleOrphan);
                    return Ok(self.strike(outcome).await?);
                }
                Removal::Release { version, retained } => {
                    self.release_claim(version, retained).await?;
                    if retained {
                        tracing::info!(document = %id, %holder, "document retained and released");
                    }
                    return Ok(self.strike(outcome).await?);
                }
                Removal::DeleteVersion(_) | Removal::Purge | Removal::Delete => {
                    self.delete(&mount, &removal, &seen).await?;
                    purged |= removal == Removal::Purge;
                    tracing::info!(document = %id, %holder, policy = %self.entry.deletion, "document deleted");
                    on.metrics.document_deleted(&holder.namespace);
                    outcome.news.push(News::Cleaned);
                    // Only another look shows a write that arrived after this one.
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
        }
        .into())
    }

    /// A missing mount does not prove that nothing of ours is left. With another `VAULT_NAMESPACE`, or while
    /// a mount is being moved, every mount is missing. The delete stays pending.
    async fn mount(&self) -> Result<Mount, Problem> {
        let mount = self.on.mounts.resolve(&self.id.to_string(), self.depth).await;
        mount.map_err(|fault| match fault {
            Fault::Path(fault) => fault.into(),
            Fault::Vault(error) => self.on.vault_failed(&error),
        })
    }

    /// Looks at the document, unless what is `left` of it is known, and decides.
    async fn look(&self, mount: &Mount, left: Option<Observed>, purged: bool) -> Result<Look, Problem> {
        let (on, entry) = (self.on, self.entry);
        let unsettled = on.unsettled_until(self.id);
        let seen = match left {
            Some(seen) => seen,
            None => on.look(mount, self.id).await?,
        };
        let claimant = seen.claim().map(|claim| &claim.holder);
        let claimant_watched = claimant.is_none_or(|key| on.index().watches(key));
        let claimant: Vec<_> = claimant.filter(|_| claimant_watched).into_iter().collect();
        let rivals = on.rivals(&entry.holder, mount, self.id, &claimant);
        let successor = rivals
            .into_iter()
            .min_by(|a, b| (a.created, &a.uid).cmp(&(b.created, &b.uid)));
        let removal = remove(&Departure {
            identity: &on.identity,
            entry,
            seen: &seen,
            version: mount.version,
            wanted: successor.is_some(),
            claimant_watched,
            deletion: entry.deletion,
            unsettled: unsettled.is_some(),
            purged,
        });
        tracing::debug!(
            source = %entry.holder, document = %self.id, decision = ?removal, version = seen.version(),
            ledger = entry.state.as_str(), "decided about a document that is no longer wanted",
        );
        Ok(Look {
            seen,
            unsettled,
            removal,
            successor,
        })
    }

    /// Hands the document over to another source. If that source never writes it, the document is removed
    /// with that source.
    fn hand_over(&self, successor: Contender) {
        let state = match self.entry.state {
            State::Written => State::Deleting,
            other => other,
        };
        self.enter(LedgerEntry {
            holder: successor.key,
            uid: successor.uid,
            state,
            ..self.entry.clone()
        });
    }

    /// The document does not exist now, but a late write of ours could still arrive.
    fn watch(&self, until: Option<Instant>, outcome: &mut Outcome) {
        let state = match self.entry.state {
            // This state tells a late first write of ours from another client's write.
            State::OutcomeUnknown => State::OutcomeUnknown,
            _ => State::Deleting,
        };
        self.enter(LedgerEntry {
            state,
            ..self.entry.clone()
        });
        let left = until.map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(Instant::now())
        });
        outcome.again = Some(Requeue::full(left));
    }

    /// Marks our claim as released.
    async fn release_claim(&self, version: u64, retained: bool) -> Result<(), Problem> {
        let (on, id) = (self.on, self.id);
        on.ensure_leading()?;
        let release = Claim::release(version, retained);
        let open = on.open(id);
        match open.end(on.vault.patch_metadata(id, &release).await) {
            Ok(()) => Ok(()),
            // Without the permission to release it, no claim was put on. Without a document, there is no
            // claim to release.
            Err(error) if matches!(error.kind, ErrorKind::Denied | ErrorKind::NotFound) => Ok(()),
            Err(error) if error.status == Some(405) => Ok(()),
            Err(error) => Err(on.vault_failed(&error)),
        }
    }

    async fn delete(&self, mount: &Mount, removal: &Removal, seen: &Observed) -> Result<(), Stuck> {
        let (on, id) = (self.on, self.id);
        on.ensure_leading()?;
        let open = on.open(id);
        let result = match removal {
            Removal::Purge => on.vault.purge(id).await,
            Removal::DeleteVersion(version) => self.delete_version(mount, *version).await,
            _ => on.vault.delete_latest(mount, id).await,
        };
        let error = match open.end(result) {
            Ok(()) => return Ok(()),
            // The document is already gone; the next look shows that.
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(()),
            Err(error) => error,
        };
        let deleted = match seen {
            Observed::Live { version, .. }
                if *removal == Removal::Purge && error.kind == ErrorKind::Denied =>
            {
                self.take_out_of_use(mount, *version, seen.claim().is_some())
                    .await?
            }
            _ => 0,
        };
        Err(Stuck {
            problem: on.vault_failed(&error),
            deleted,
        })
    }

    /// If a purge is denied, deletes the current version now, and purges the history once the permission to
    /// delete metadata is granted. Content that is written or undeleted from now on is not ours to purge. The
    /// claim records that, or else the ledger has to record the version that was given up.
    async fn take_out_of_use(&self, mount: &Mount, version: u64, claimed: bool) -> Result<u64, Problem> {
        let open = self.on.open(self.id);
        open.end(self.delete_version(mount, version).await)
            .map_err(|error| self.on.vault_failed(&error))?;
        if !claimed {
            return Ok(version);
        }
        self.release_claim(version, false).await?;
        Ok(0)
    }

    async fn delete_version(&self, mount: &Mount, version: u64) -> Result<(), vault::Error> {
        match self.on.vault.delete_version(self.id, version).await {
            // The predecessor's policy has no `delete/`. The latest version is deleted instead, immediately
            // after a look.
            Err(error) if error.kind == ErrorKind::Denied && mount.version == KvVersion::V2 => {
                self.on.vault.delete_latest(mount, self.id).await
            }
            other => other,
        }
    }

    /// Removes the document from the ledger, and wakes the sources that may have waited for it.
    async fn strike(&self, outcome: &mut Outcome) -> Result<(), Problem> {
        let (on, id, holder) = (self.on, self.id, &self.entry.holder);
        on.notes.late.forget(id);
        on.notes.claims.lock().forget(id);
        outcome.wake.extend(on.index().sharers(holder, id));
        outcome.wake.extend(on.quotas.waiting(&holder.namespace));
        on.commit(holder, vec![(id.clone(), None)])
            .await
            .map_err(|error| of_ledger(&error))
    }

    fn enter(&self, entry: LedgerEntry) {
        self.on.ledger.commit_later(vec![(self.id.clone(), Some(entry))]);
    }
}
