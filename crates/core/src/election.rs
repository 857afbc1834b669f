//! The decision logic of leader election: what one candidate does next, from what it has seen of the Lease.
//!
//! Other clocks are never trusted. A lease has lapsed when this process has not seen it change for as long as
//! its holder asked for. The caller passes the time, from a clock that only moves forward, as a duration
//! since any moment. The timestamps in the Lease are for people.

use std::time::Duration;

/// The durations of an election.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// How long the others wait after the last renewal that they see.
    pub lease: Duration,
    /// A holder that could not renew for this long stops, which is before the lease can lapse.
    pub renew_deadline: Duration,
    /// The time between two looks, and between two renewals.
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

/// The fields of the Lease that matter here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// Who holds it; empty: it was released.
    pub holder: String,
    /// How long its holder asked the others to wait.
    pub lease: Duration,
    /// Changes with every write of the object.
    pub version: String,
    /// How often it has changed hands.
    pub transitions: i32,
}

/// What was last seen, and since when it has looked like that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sighting {
    /// The Lease; `None`: there is none.
    pub view: Option<View>,
    /// When this process first saw it in this state.
    pub since: Duration,
}

impl Sighting {
    /// Takes a new look into account. The time of the sighting restarts with every change.
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
    /// Create the Lease: there is none.
    Create,
    /// Take it over: it was released, or it has lapsed.
    Take {
        /// What its count of transitions becomes.
        transitions: i32,
    },
    /// It is ours: renew it.
    Renew,
    /// Another process holds it: look again after this time.
    Wait(Duration),
}

/// Decides what `me` does `now`. Each process has its own identity, so a lease that carries `me` is ours.
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
    // Not later than the lease can lapse, and soon enough to notice a released lease.
    Decision::Wait(timing.retry.min(lapses.saturating_sub(now)))
}

/// Until when a holder may act after a renewal whose request was sent at `renewed`.
pub fn may_act_until(renewed: Duration, timing: &Timing) -> Duration {
    // The others count from when they see the renewal, which is never before it was sent.
    renewed.saturating_add(timing.renew_deadline.min(timing.lease))
}

/// The term of a leader: which Lease it holds, and how often that Lease had changed hands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Term {
    /// The Lease's UID. Terms of two Leases cannot be compared, because a Lease that is created again counts
    /// from 0.
    pub lease: String,
    /// The Lease's count of transitions.
    pub number: i32,
}

impl Term {
    /// As it is stored: `NUMBER/UID`.
    pub fn to_text(&self) -> String {
        format!("{}/{}", self.number, self.lease)
    }

    /// Reads what [`Term::to_text`] wrote; `None`: the text is something else.
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
