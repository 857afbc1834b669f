//! The values that a pass hands from one step to the next, and its result for the controller.

use std::time::Duration;

use super::observe::Observation;
use domain::document::DocumentId;
use domain::index::{Memory, Remembered};
use domain::plan::Standing;
use domain::problem::{Problem, Warning};
use domain::queue::Depth;
use domain::source::SourceKey;

/// Something changed during the pass: observe again.
pub(super) struct Moved;

/// Why a document was not brought to Vault.
pub(super) enum Stop {
    /// Something changed during the pass: the whole pass starts again.
    Moved,
    /// It cannot be written now. The source's current content in Vault stays.
    Problems(Vec<Problem>),
    /// It belongs to another owner, whatever the ledger says.
    Conflict(Problem),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problems(vec![problem])
    }
}

/// The outcome for one document in a pass, or for the source as a whole.
#[derive(Default)]
pub(super) struct Outcome {
    /// `None`: the outcome is for the source as a whole.
    pub id: Option<DocumentId>,
    /// What prevented the wanted state.
    pub problems: Vec<Problem>,
    /// What did not prevent it, but users need to know.
    pub warnings: Vec<Warning>,
    /// What users may like to know.
    pub news: Vec<News>,
    /// How it affects the documents that are to be deleted. `None`: it is not wanted, or not now.
    pub standing: Option<Standing>,
    /// What Vault is known to hold of the document now.
    pub known: Option<Remembered>,
    /// Whether the object is known to have the finalizer.
    pub finalizer: bool,
    /// When to look at it again without a change.
    pub again: Option<Requeue>,
    /// Other sources that may want the document, or that had it.
    pub wake: Vec<SourceKey>,
}

/// What has happened to a document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum News {
    /// The source received it: created, adopted or taken over.
    Acquired,
    /// Another client had changed or deleted it in Vault; it is restored.
    DriftRepaired,
    /// It was deleted, because the source no longer asks for it.
    Cleaned,
    /// It may be left over in Vault, but nothing proves that it is ours.
    PossibleOrphan,
}

impl Outcome {
    /// A document that was not touched, with this standing.
    pub fn untouched(id: &DocumentId, standing: Standing, known: Option<Remembered>) -> Self {
        Self {
            id: Some(id.clone()),
            standing: Some(standing),
            known,
            ..Self::default()
        }
    }
}

impl From<Problem> for Outcome {
    /// A problem with the source as a whole.
    fn from(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
            ..Self::default()
        }
    }
}

/// The outcome of a pass.
pub(super) struct Findings {
    /// In order; the first one is for the source as a whole.
    pub outcomes: Vec<Outcome>,
    /// What the next pass starts from.
    pub memory: Memory,
    /// How many Secrets the source names, if known.
    pub discovered: Option<usize>,
    /// Whether the finalizer is on the object, as far as this pass knows.
    pub has_finalizer: bool,
    /// The number of problems that may mean that Vault is down, when its health was last checked.
    pub doubts: usize,
    /// Vault does not answer, not even the health check.
    pub vault_is_down: bool,
    /// The earliest look that was asked for.
    pub again: Option<Requeue>,
}

impl Findings {
    /// The findings of a pass that has done nothing yet.
    pub fn of(seen: &Observation<'_>) -> Self {
        Self {
            outcomes: vec![Outcome {
                problems: seen.problems.clone(),
                warnings: seen.warnings.clone(),
                ..Outcome::default()
            }],
            memory: seen.memory.clone(),
            discovered: None,
            has_finalizer: seen.source.as_ref().is_some_and(|source| source.finalizer),
            doubts: 0,
            vault_is_down: false,
            again: None,
        }
    }

    /// Adds the outcome for a document, and returns it. It is kept even if the work on the document is cut
    /// off.
    pub fn outcome(&mut self, id: &DocumentId) -> &mut Outcome {
        self.outcomes.push(Outcome {
            id: Some(id.clone()),
            ..Outcome::default()
        });
        let last = self.outcomes.len() - 1;
        &mut self.outcomes[last]
    }

    /// All problems, each with its document if it has one.
    pub fn problems(&self) -> impl Iterator<Item = (Option<&DocumentId>, &Problem)> {
        self.outcomes.iter().flat_map(|outcome| {
            outcome
                .problems
                .iter()
                .map(|problem| (outcome.id.as_ref(), problem))
        })
    }

    /// All warnings, each once.
    pub fn warnings(&self) -> Vec<&Warning> {
        let mut warnings = Vec::new();
        for warning in self.outcomes.iter().flat_map(|outcome| &outcome.warnings) {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        warnings
    }

    /// The documents with this news.
    pub fn documents_with(&self, news: News) -> Vec<DocumentId> {
        let such = self
            .outcomes
            .iter()
            .filter(|outcome| outcome.news.contains(&news));
        such.filter_map(|outcome| outcome.id.clone()).collect()
    }

    /// Asks for another look; the earliest one wins.
    pub fn look_again(&mut self, again: Requeue) {
        if self.again.is_none_or(|earlier| again.after < earlier.after) {
            self.again = Some(again);
        }
    }
}

/// The result of a reconcile, for the controller.
#[derive(Debug, Default)]
pub struct Turn {
    /// When to look again without a change.
    pub again: Option<Requeue>,
    /// Other sources that may want what this one has given up.
    pub wake: Vec<SourceKey>,
    /// Vault does not answer, not even the health check: retries are useless until it does.
    pub vault_down: bool,
}

/// When to look at a source again without a change, and how deep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Requeue {
    /// After this time.
    pub after: Duration,
    /// How deep.
    pub depth: Depth,
}

impl Requeue {
    /// Trusts what is remembered.
    pub fn trusting(after: Duration) -> Self {
        let depth = Depth::Trusting;
        Self { after, depth }
    }

    /// Reads Vault again.
    pub fn full(after: Duration) -> Self {
        let depth = Depth::Full;
        Self { after, depth }
    }
}
