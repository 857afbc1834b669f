//! Leader election, decided: what one candidate does next, from what it has seen of the Lease.
//!
//! Other clocks are never believed: a lease has lapsed when this process has not seen it change for
//! as long as its holder asked for, by the time that the caller hands in (from a clock that only
//! goes forward, as a length since any moment). The timestamps in the Lease are for people.

use std::time::Duration;

/// The lengths of time of an election.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// How long the others wait after the last renewal that they see.
    pub lease: Duration,
    /// A holder that could not renew for so long stops: before the lease can lapse.
    pub renew_deadline: Duration,
    /// Between two looks, and between two renewals.
    pub retry: Duration,
}

impl Default for Timing {
    /// The predecessor's: 15 s, 10 s, 2 s.
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// What the Lease says that matters here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// Who holds it; empty: it was given up.
    pub holder: String,
    /// How long its holder asked the others to wait.
    pub lease: Duration,
    /// Changes with every write of the object.
    pub version: String,
    /// How often it has changed hands.
    pub transitions: i32,
}

/// What was seen last, and since when it has looked like that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sighting {
    /// The Lease; `None`: there is none.
    pub view: Option<View>,
    /// When this process first saw it so.
    pub since: Duration,
}

impl Sighting {
    /// Takes a new look into account: the clock of the sighting starts again with every change.
    pub fn renew(earlier: Option<&Self>, view: Option<View>, now: Duration) -> Self {
        match earlier {
            Some(earlier) if earlier.view == view => earlier.clone(),
            _ => Self { view, since: now },
        }
    }
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Make the Lease: there is none.
    Create,
    /// Take it over: it was given up, or it has lapsed.
    Take {
        /// What its count of transitions becomes.
        transitions: i32,
    },
    /// It is ours: renew it.
    Renew,
    /// Somebody else holds it: look again after so long.
    Wait(Duration),
}

/// Decides what `me` does `now`. An identity is one process's, so a lease that carries `me` is ours.
pub fn decide(now: Duration, seen: &Sighting, me: &str, timing: &Timing) -> Decision {
    let Some(view) = &seen.view else {
        return Decision::Create;
    };
    if view.holder == me {
        return Decision::Renew;
    }
    let lapses = seen.since.saturating_add(view.lease);
    if view.holder.is_empty() || now >= lapses {
        return Decision::Take {
            transitions: view.transitions.saturating_add(1),
        };
    }
    // Not later than the lease can lapse, nor so late that one given up lies idle.
    Decision::Wait(timing.retry.min(lapses.saturating_sub(now)))
}

/// Until when a holder that last renewed by a request sent at `renewed` may act.
pub fn may_act_until(renewed: Duration, timing: &Timing) -> Duration {
    // The lease counts, for the others, from when they see the renewal: never before it was sent.
    renewed.saturating_add(timing.renew_deadline.min(timing.lease))
}

/// The term of a leader: which Lease it holds, and how often that had changed hands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Term {
    /// The Lease's UID. Terms of two Leases cannot be compared: one that is created anew counts from 0.
    pub lease: String,
    /// The Lease's count of transitions.
    pub number: i32,
}

impl Term {
    /// As it is stored: `NUMBER/UID`.
    pub fn to_text(&self) -> String {
        format!("{}/{}", self.number, self.lease)
    }

    /// Reads what [`Term::to_text`] wrote; `None`: it is something else.
    pub fn from_text(text: &str) -> Option<Self> {
        let (number, lease) = text.split_once('/')?;
        Some(Self {
            lease: lease.to_owned(),
            number: number.parse().ok()?,
        })
    }

    /// Whether the other term is known to have begun after this one.
    pub fn is_before(&self, other: &Self) -> bool {
        self.lease == other.lease && self.number < other.number
    }
}

#[cfg(test)]
mod tests;
