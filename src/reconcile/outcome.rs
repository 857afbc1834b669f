//! The values that a pass hands from one step to the next, and what it leaves for the controller.

use std::time::Duration;

use super::observe::Observation;
use domain::document::DocumentId;
use domain::index::{Memory, Remembered};
use domain::plan::Standing;
use domain::problem::{Problem, Warning};
use domain::queue::Depth;
use domain::source::SourceKey;

/// Something moved while we looked: observe again.
pub(super) struct Moved;

/// Why a document was not brought to Vault.
pub(super) enum Stop {
    /// Something moved while we looked: the whole pass begins again.
    Moved,
    /// It cannot be brought there now. What stands there for the source stays.
    Problems(Vec<Problem>),
    /// It is somebody else's, whatever the ledger says of it.
    Conflict(Problem),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problems(vec![problem])
    }
}

/// What has come of one document in a pass, or of the source as a whole.
#[derive(Default)]
pub(super) struct Outcome {
    /// `None`: it is the source's.
    pub id: Option<DocumentId>,
    /// What kept it from being as it should be.
    pub problems: Vec<Problem>,
    /// What did not, and its people should know.
    pub warnings: Vec<Warning>,
    /// What its people may like to know.
    pub news: Vec<News>,
    /// How it counts for those that are to go; `None`: it is not wanted, or not now.
    pub standing: Option<Standing>,
    /// What Vault is known to hold of it now.
    pub known: Option<Remembered>,
    /// Whether the finalizer was made sure of for it.
    pub finalizer: bool,
    /// When it is to be looked at again by itself.
    pub again: Option<Requeue>,
    /// Other sources that may want it, or had it.
    pub wake: Vec<SourceKey>,
}

/// What has happened to a document.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum News {
    /// It came to the source: created, adopted or taken over.
    Acquired,
    /// Somebody had changed or deleted it in Vault; it is restored.
    DriftRepaired,
    /// It was deleted, since the source no longer asks for it.
    Cleaned,
    /// It may be left over, and nothing proves that it is ours.
    PossibleOrphan,
}

impl Outcome {
    /// A document that was not touched, and counts like this.
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
    /// The source has this problem as a whole.
    fn from(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
            ..Self::default()
        }
    }
}

/// What has come of a pass.
pub(super) struct Findings {
    /// In their order; the first one is the source's.
    pub outcomes: Vec<Outcome>,
    /// What the next pass starts from.
    pub memory: Memory,
    /// How many Secrets the source names, when that is known.
    pub discovered: Option<usize>,
    /// Whether the finalizer is on the object, as far as this pass knows.
    pub has_finalizer: bool,
    /// How many problems may have meant that Vault is down, when that was asked last.
    pub doubts: usize,
    /// Vault does not answer, not even whether it is up.
    pub vault_is_down: bool,
    /// The earliest time for which something asked.
    pub again: Option<Requeue>,
}

impl Findings {
    /// Nothing was done yet.
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

    /// Where to note what comes of a document. It is here also when what is done is cut off.
    pub fn outcome(&mut self, id: &DocumentId) -> &mut Outcome {
        self.outcomes.push(Outcome {
            id: Some(id.clone()),
            ..Outcome::default()
        });
        let last = self.outcomes.len() - 1;
        &mut self.outcomes[last]
    }

    /// All problems, each with its document if it is one document's.
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

    /// The documents of which there are these news.
    pub fn documents_with(&self, news: News) -> Vec<DocumentId> {
        let such = self
            .outcomes
            .iter()
            .filter(|outcome| outcome.news.contains(&news));
        such.filter_map(|outcome| outcome.id.clone()).collect()
    }

    /// Asks for another look.
    pub fn look_again(&mut self, again: Requeue) {
        if self.again.is_none_or(|earlier| again.after < earlier.after) {
            self.again = Some(again);
        }
    }
}

/// What a reconcile leaves for the controller.
#[derive(Debug, Default)]
pub struct Turn {
    /// When to look again by itself.
    pub again: Option<Requeue>,
    /// Other sources that may want what this one has given up.
    pub wake: Vec<SourceKey>,
    /// Vault does not answer, not even whether it is up: there is no use in trying before it does.
    pub vault_down: bool,
}

/// When a source is to be looked at again by itself, and how deep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Requeue {
    /// After this time.
    pub after: Duration,
    /// How deep.
    pub depth: Depth,
}

impl Requeue {
    /// Trusting what is remembered.
    pub fn trusting(after: Duration) -> Self {
        let depth = Depth::Trusting;
        Self { after, depth }
    }

    /// Reading Vault again.
    pub fn full(after: Duration) -> Self {
        let depth = Depth::Full;
        Self { after, depth }
    }
}
