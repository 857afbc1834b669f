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
mod tests {
    use super::*;

    const ME: &str = "op-0_a1";

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn view(holder: &str, lease: u64, version: &str) -> View {
        View {
            holder: holder.into(),
            lease: secs(lease),
            version: version.into(),
            transitions: 4,
        }
    }

    #[test]
    fn each_sight_has_its_answer() {
        let take = Decision::Take { transitions: 5 };
        for (what, now, view, since, expected) in [
            ("there is no Lease", 100, None, 100, Decision::Create),
            ("ours", 100, Some(view(ME, 15, "1")), 90, Decision::Renew),
            (
                "ours, and long unrenewed",
                500,
                Some(view(ME, 15, "1")),
                90,
                Decision::Renew,
            ),
            (
                "another's, just seen",
                100,
                Some(view("op-1_b2", 15, "1")),
                100,
                Decision::Wait(secs(2)),
            ),
            (
                "another's, about to lapse",
                114,
                Some(view("op-1_b2", 15, "1")),
                100,
                Decision::Wait(secs(1)),
            ),
            (
                "another's, lapsed",
                115,
                Some(view("op-1_b2", 15, "1")),
                100,
                take,
            ),
            (
                "another's, that asked for longer",
                115,
                Some(view("op-1_b2", 60, "1")),
                100,
                Decision::Wait(secs(2)),
            ),
            ("given up", 100, Some(view("", 1, "1")), 100, take),
            (
                "given up in the predecessor's way",
                100,
                Some(view("", 15, "1")),
                100,
                take,
            ),
            (
                "our own name, another process",
                100,
                Some(view("op-0_c3", 15, "1")),
                100,
                Decision::Wait(secs(2)),
            ),
        ] {
            let seen = Sighting {
                view,
                since: secs(since),
            };
            assert_eq!(
                decide(secs(now), &seen, ME, &Timing::default()),
                expected,
                "{what}"
            );
        }
    }

    #[test]
    fn only_a_change_starts_the_clock_again() {
        let first = Sighting::renew(None, Some(view("a", 15, "1")), secs(10));
        assert_eq!(first.since, secs(10));
        let same = Sighting::renew(Some(&first), Some(view("a", 15, "1")), secs(20));
        assert_eq!(same.since, secs(10));
        let renewed = Sighting::renew(Some(&same), Some(view("a", 15, "2")), secs(21));
        assert_eq!(renewed.since, secs(21));
        let gone = Sighting::renew(Some(&renewed), None, secs(22));
        assert_eq!(gone.since, secs(22));
    }

    #[test]
    fn a_holder_stops_before_another_can_begin() {
        let timing = Timing::default();
        let stop = may_act_until(secs(100), &timing);
        assert_eq!(stop, secs(110));
        // The earliest moment at which another could have seen that renewal is when it was sent.
        let seen = Sighting {
            view: Some(view(ME, 15, "1")),
            since: secs(100),
        };
        assert!(matches!(
            decide(stop, &seen, "op-1_b2", &timing),
            Decision::Wait(_)
        ));
        assert!(matches!(
            decide(secs(115), &seen, "op-1_b2", &timing),
            Decision::Take { .. }
        ));
    }

    #[test]
    fn terms_of_one_lease_have_an_order() {
        let term = |lease: &str, number| Term {
            lease: lease.into(),
            number,
        };
        for (one, other, before) in [
            (term("u-1", 4), term("u-1", 5), true),
            (term("u-1", 9), term("u-1", 10), true),
            (term("u-1", 5), term("u-1", 5), false),
            (term("u-1", 5), term("u-1", 4), false),
            // The Lease was deleted and created anew meanwhile.
            (term("u-1", 5), term("u-2", 0), false),
            (term("u-2", 0), term("u-1", 5), false),
        ] {
            assert_eq!(one.is_before(&other), before, "{one:?} {other:?}");
        }
        assert_eq!(term("u-1", 5).to_text(), "5/u-1");
        assert_eq!(Term::from_text("5/u-1"), Some(term("u-1", 5)));
        for text in ["", "5", "x/u-1", "op-0_a1"] {
            assert_eq!(Term::from_text(text), None, "{text}");
        }
    }

    #[test]
    fn a_count_at_its_end_stays_there() {
        let mut seen = Sighting {
            view: Some(view("", 1, "1")),
            since: secs(0),
        };
        if let Some(view) = &mut seen.view {
            view.transitions = i32::MAX;
        }
        assert_eq!(
            decide(secs(0), &seen, ME, &Timing::default()),
            Decision::Take {
                transitions: i32::MAX
            }
        );
    }
}
