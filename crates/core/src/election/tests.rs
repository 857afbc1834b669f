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
