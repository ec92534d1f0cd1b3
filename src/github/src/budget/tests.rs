//! Tables and properties of budgets.

use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use CallFamily::{InstallationToken, ListDeliveries, ListRunners, RegistrationToken, RemoveRunner};
use Identity::{App, Credential};

fn t(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn ask(family: CallFamily) -> Ask<'static> {
    Ask {
        identity: Credential,
        family,
        lane: Lane::of(family),
        question: "a question",
    }
}

fn in_lane(lane: Lane, question: &str) -> Ask<'_> {
    Ask {
        lane,
        question,
        ..ask(ListRunners)
    }
}

fn seen(resource: &str, limit: u64, remaining: u64, reset_at: Timestamp) -> Outcome {
    let seen = Seen {
        limit,
        remaining,
        reset_at,
    };
    Outcome {
        seen: Some((resource.to_owned(), seen)),
        is_free: false,
    }
}

/// A call that was answered with these headers.
fn answer(budget: &mut Budget, ask: &Ask<'_>, outcome: Outcome, now: Timestamp) {
    let ticket = budget.admit(ask, now).unwrap();
    budget.settle(ticket, outcome, now);
}

/// A budget whose only answer so far said this of `core`.
fn core(limit: u64, remaining: u64, reset_at: Timestamp) -> Budget {
    let mut budget = Budget::default();
    answer(
        &mut budget,
        &ask(ListRunners),
        seen("core", limit, remaining, reset_at),
        t(0),
    );
    budget
}

fn used_up(until: Timestamp) -> Wait {
    Wait {
        until,
        why: Why::Limit(LimitKind::Primary),
    }
}

#[test]
fn a_used_up_bucket_holds_its_own_calls_until_the_reset() {
    let mut budget = core(5000, 0, t(100));
    assert_eq!(budget.wait(&ask(RegistrationToken), t(1)), None);
    let outcome = seen("actions_runner_registration", 10_000, 9, t(100));
    answer(&mut budget, &ask(RegistrationToken), outcome, t(0));
    assert_eq!(budget.wait(&ask(ListRunners), t(99)), Some(used_up(t(100))));
    assert_eq!(budget.wait(&ask(RemoveRunner), t(99)), Some(used_up(t(100))));
    assert_eq!(budget.wait(&ask(RegistrationToken), t(99)), None);
    let app = Ask {
        identity: App,
        ..ask(InstallationToken)
    };
    assert_eq!(budget.wait(&app, t(99)), None);
    assert_eq!(budget.wait(&ask(ListRunners), t(100)), None);
}

#[test]
fn the_apps_own_bucket_is_not_the_installations() {
    let mut budget = Budget::default();
    let app = |family| Ask {
        identity: App,
        ..ask(family)
    };
    answer(
        &mut budget,
        &app(InstallationToken),
        seen("core", 5000, 0, t(100)),
        t(0),
    );
    answer(
        &mut budget,
        &ask(ListRunners),
        seen("core", 5000, 4999, t(100)),
        t(0),
    );
    assert_eq!(budget.wait(&ask(ListRunners), t(1)), None);
    assert_eq!(budget.wait(&app(InstallationToken), t(1)), Some(used_up(t(100))));
    assert_eq!(
        budget.wait(&app(ListDeliveries), t(1)),
        Some(Wait {
            until: t(100),
            ..used_up(t(100))
        })
    );
}

#[test]
fn an_older_answer_gives_nothing_back_but_a_new_window_does() {
    let mut budget = core(5000, 0, t(100));
    let late = |budget: &mut Budget, remaining, reset_at, now| {
        budget.see(
            (Credential, ListRunners),
            "core".into(),
            Seen {
                limit: 5000,
                remaining,
                reset_at,
            },
            now,
        );
    };
    late(&mut budget, 3, t(100), t(1));
    assert!(
        budget.wait(&ask(ListRunners), t(2)).is_some(),
        "within the window it only shrinks"
    );
    late(&mut budget, 3, t(103), t(1));
    assert!(
        budget.wait(&ask(ListRunners), t(2)).is_some(),
        "whose end may be stated a little later"
    );
    late(&mut budget, 4999, t(3700), t(3));
    assert_eq!(budget.wait(&ask(ListRunners), t(4)), None);
    late(&mut budget, 0, t(103), t(5));
    assert_eq!(
        budget.wait(&ask(ListRunners), t(6)),
        None,
        "an answer of the window before"
    );
    late(&mut budget, 0, t(3700), t(7));
    assert!(budget.wait(&ask(ListRunners), t(8)).is_some());
    // A full window is assumed at its end, and an answer that still tells of the old one is believed only while that lasts.
    assert_eq!(budget.wait(&ask(ListRunners), t(3700)), None);
    late(&mut budget, 0, t(3700), t(3701));
    assert_eq!(budget.wait(&ask(ListRunners), t(3702)), None);
    late(&mut budget, 0, t(3704), t(3702));
    assert_eq!(budget.wait(&ask(ListRunners), t(3703)), Some(used_up(t(3704))));
}

#[test]
fn a_changed_limit_is_believed() {
    let mut budget = core(5000, 0, t(3600));
    let raised = Seen {
        limit: 15_000,
        remaining: 14_000,
        reset_at: t(3600),
    };
    budget.see((Credential, ListRunners), "core".into(), raised, t(1));
    assert_eq!(budget.wait(&ask(ListRunners), t(1)), None);
}

#[test]
fn a_secondary_limit_holds_everything_until_its_end() {
    let mut budget = Budget::default();
    budget.refused(LimitKind::Secondary, Some(t(60)));
    budget.refused(LimitKind::Secondary, Some(t(30)));
    let blocked = Wait {
        until: t(60),
        why: Why::Limit(LimitKind::Secondary),
    };
    for family in [ListRunners, RegistrationToken, RemoveRunner] {
        assert_eq!(budget.wait(&ask(family), t(59)), Some(blocked));
        assert_eq!(budget.wait(&ask(family), t(60)), None);
    }
    assert_eq!(budget.counts().secondary, 2);
}

#[test]
fn each_lane_has_its_floor() {
    // limit, left of it, seconds to the reset; and who may ask: cosmetic, reconcile, critical.
    let table = [
        (500, 500, 3600, [true, true, true]),
        (500, 450, 3600, [false, true, true]),
        (500, 401, 3600, [false, true, true]),
        (500, 400, 3600, [false, false, true]),
        (500, 251, 1800, [false, true, true]),
        (500, 250, 1800, [false, false, true]),
        (500, 289, 1800, [true, true, true]),
        (500, 288, 1800, [false, true, true]),
        (500, 102, 1, [true, true, true]),
        (500, 101, 1, [false, false, true]),
        (500, 1, 3600, [false, false, true]),
        (500, 0, 3600, [false, false, false]),
        (60, 49, 3600, [false, true, true]),
        (1, 1, 3600, [false, false, true]),
    ];
    for (limit, remaining, left, may) in table {
        let budget = core(limit, remaining, t(left));
        let open = Lane::ALL.map(|lane| budget.wait(&in_lane(lane, "x"), t(0)).is_none());
        assert_eq!(open, may, "{remaining} of {limit}, {left} s before the reset");
    }
}

#[test]
fn a_paced_call_is_told_the_very_moment() {
    let budget = core(500, 400, t(3600));
    let wait = budget.wait(&in_lane(Lane::Reconcile, "x"), t(0)).unwrap();
    // One call of the 300 that are spread over an hour.
    assert_eq!((wait.until, wait.why), (t(12), Why::Hold(Hold::Reserve)));
    assert!(budget.wait(&in_lane(Lane::Reconcile, "x"), t(11)).is_some());
    assert_eq!(budget.wait(&in_lane(Lane::Reconcile, "x"), wait.until), None);
    // What is kept for critical calls comes free with the next window only.
    let budget = core(500, 100, t(3600));
    assert_eq!(
        budget.wait(&in_lane(Lane::Reconcile, "x"), t(0)).unwrap().until,
        t(3600)
    );
}

#[test]
fn those_who_wait_are_served_in_their_order_each_at_its_time() {
    let mut budget = core(500, 400, t(3600));
    let mut until = |question| {
        budget
            .admit(&in_lane(Lane::Reconcile, question), t(0))
            .unwrap_err()
            .until
    };
    assert_eq!(
        [until("a"), until("b"), until("c"), until("b")],
        [t(12), t(24), t(36), t(24)]
    );
    let goes =
        |budget: &Budget, question, at| budget.wait(&in_lane(Lane::Reconcile, question), t(at)).is_none();
    assert!(goes(&budget, "a", 12) && !goes(&budget, "b", 12) && !goes(&budget, "c", 12));
    assert!(!goes(&budget, "d", 12), "who comes later is served later");
    assert!(
        budget.wait(&in_lane(Lane::Critical, "d"), t(12)).is_none(),
        "or is more urgent"
    );
    answer(
        &mut budget,
        &in_lane(Lane::Reconcile, "a"),
        seen("core", 500, 399, t(3600)),
        t(12),
    );
    assert!(!goes(&budget, "c", 24) && goes(&budget, "b", 24));
    // Who does not come back in time loses the place.
    assert!(goes(&budget, "c", 40));
}

#[test]
fn calls_under_way_count_until_their_answer_says_otherwise() {
    let mut budget = core(500, 2, t(3600));
    let tickets: Vec<Ticket> = (0..2)
        .map(|_| budget.admit(&ask(RemoveRunner), t(0)).unwrap())
        .collect();
    let wait = budget.admit(&ask(RemoveRunner), t(0)).unwrap_err();
    assert_eq!(
        (wait.until, wait.why),
        (t(1), Why::Hold(Hold::Reserve)),
        "they may turn out to be free"
    );
    for ticket in tickets {
        budget.settle(
            ticket,
            Outcome {
                seen: None,
                is_free: true,
            },
            t(0),
        );
    }
    let ticket = budget.admit(&ask(RemoveRunner), t(0)).unwrap();
    budget.settle(ticket, Outcome::default(), t(0));
    let lost = budget.admit(&ask(RemoveRunner), t(0)).unwrap();
    budget.settle(lost, Outcome::default(), t(0));
    assert_eq!(
        budget.wait(&ask(RemoveRunner), t(0)),
        Some(used_up(t(3600))),
        "an answer that got lost counts"
    );
}

#[test]
fn a_server_that_states_no_limits_has_none() {
    let mut budget = Budget::default();
    for _ in 0..5_000 {
        answer(&mut budget, &ask(RemoveRunner), Outcome::default(), t(0));
    }
    assert_eq!(budget.windows(t(0)), []);
    assert_eq!(budget.wait(&in_lane(Lane::Cosmetic, "x"), t(0)), None);
}

#[test]
fn a_cap_counts_what_we_ask_ourselves() {
    let mut budget = Budget::new(Some(10));
    for at in 0..10 {
        answer(&mut budget, &ask(RemoveRunner), Outcome::default(), t(at));
    }
    let wait = budget.wait(&ask(RemoveRunner), t(10)).unwrap();
    assert_eq!((wait.until, wait.why), (t(3600), Why::Hold(Hold::Cap)));
    let login = Ask {
        identity: App,
        ..ask(InstallationToken)
    };
    assert_eq!(budget.wait(&login, t(10)), None, "logging in is another account");
    assert_eq!(budget.wait(&ask(RemoveRunner), t(3600)), None);
    let free = Outcome {
        seen: None,
        is_free: true,
    };
    for _ in 0..100 {
        answer(&mut budget, &ask(RemoveRunner), free.clone(), t(3600));
    }
    assert_eq!(budget.left(Credential, RemoveRunner, t(3601)), 1000);
}

#[test]
fn a_minute_bears_900_points() {
    let mut budget = core(100_000, 99_999, t(3600));
    let mut removals = 0;
    while budget.admit(&ask(RemoveRunner), t(1)).is_ok() {
        removals += 1;
    }
    assert_eq!(
        removals, 179,
        "five points each, beside the one of the first call"
    );
    let wait = budget.wait(&ask(RemoveRunner), t(1)).unwrap();
    assert_eq!((wait.until, wait.why), (t(60), Why::Hold(Hold::Burst)));
    assert!(budget.wait(&ask(ListRunners), t(59)).is_some());
    assert_eq!(budget.wait(&ask(RemoveRunner), t(61)), None);
}

#[test]
fn what_is_left_is_told_in_parts_of_the_limit() {
    let budget = core(500, 250, t(3600));
    assert_eq!(budget.left(Credential, ListRunners, t(1)), 500);
    assert_eq!(budget.left(Credential, ListRunners, t(3600)), 1000);
    assert_eq!(budget.left(Credential, RegistrationToken, t(1)), 1001, "unknown");
}

/// GitHub's side of one bucket: charges calls, refuses beyond the limit, begins a new hour with the first call after the last.
#[derive(Debug)]
struct Server {
    limit: u64,
    used: u64,
    reset_at: Timestamp,
    refused: u64,
}

impl Server {
    fn answer(&mut self, free: bool, now: Timestamp) -> Outcome {
        if self.reset_at <= now {
            self.used = 0;
            self.reset_at = now + SignedDuration::from_hours(1);
        }
        if self.used == self.limit {
            self.refused += 1;
        } else if !free {
            self.used += 1;
        }
        let seen = Seen {
            limit: self.limit,
            remaining: self.limit - self.used,
            reset_at: self.reset_at,
        };
        Outcome {
            seen: Some(("core".to_owned(), seen)),
            is_free: free,
        }
    }
}

proptest! {
    /// Whatever is asked, in whatever order the answers come: GitHub never has to refuse, a wait ends at the time that was told, and
    /// what is urgent waits for used-up windows only.
    #[test]
    fn the_limit_is_never_exceeded(
        limit in 20_u64..400,
        steps in prop::collection::vec((0..3_usize, 0..6_usize, any::<bool>(), 0_i64..90_000, any::<bool>()), 1..400),
    ) {
        let mut budget = Budget::default();
        let mut server = Server { limit, used: 0, reset_at: t(0), refused: 0 };
        let questions = ["a", "b", "c", "d", "e", "f"];
        let mut now = t(0);
        let first = budget.admit(&ask(ListRunners), now).unwrap();
        let outcome = server.answer(false, now);
        budget.settle(first, outcome, now);
        let mut under_way: Vec<(Ticket, Outcome)> = Vec::new();
        for (lane, question, free, pause, lands) in steps {
            now += SignedDuration::from_millis(pause);
            let ask = in_lane(Lane::ALL[lane], questions[question]);
            match budget.admit(&ask, now) {
                Ok(ticket) => {
                    let outcome = server.answer(free, now);
                    under_way.push((ticket, outcome));
                }
                Err(wait) => {
                    prop_assert!(wait.until > now, "{wait:?} at {now}");
                    if ask.lane == Lane::Critical {
                        let left = limit - server.used;
                        prop_assert!(left <= u64::try_from(under_way.len()).unwrap(), "{wait:?} with {left} left");
                    }
                    // With nobody before it and nothing under way it may go at that very time.
                    if under_way.is_empty() && budget.ahead(&ask, wait.until) == 0 {
                        let again = budget.wait(&ask, wait.until);
                        prop_assert!(again.is_none(), "{wait:?}, then {again:?}");
                    }
                }
            }
            if lands {
                for (ticket, outcome) in under_way.drain(..).rev() {
                    budget.settle(ticket, outcome, now);
                }
            }
            prop_assert_eq!(server.refused, 0);
        }
    }

    /// A reconcile lane with endless demand gets its part of every hour, and leaves the reserve alone.
    #[test]
    fn pacing_gives_a_lane_its_part_and_keeps_the_reserve(limit in 20_u64..2_000) {
        let mut budget = Budget::default();
        let mut server = Server { limit, used: 0, reset_at: t(0), refused: 0 };
        let (mut now, mut made) = (t(0), 0);
        while now < t(3600) {
            let ask = in_lane(Lane::Reconcile, "x");
            match budget.admit(&ask, now) {
                Ok(ticket) => {
                    let outcome = server.answer(false, now);
                    budget.settle(ticket, outcome, now);
                    made += 1;
                }
                Err(wait) => now = wait.until,
            }
        }
        prop_assert_eq!(server.refused, 0);
        let kept = limit - made;
        prop_assert!(kept == limit / 5 || kept == limit / 5 + 1, "{kept} of {limit}: the last one opens with the next hour");
    }
}
