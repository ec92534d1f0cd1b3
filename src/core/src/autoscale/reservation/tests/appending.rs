//! Second entries of a job instead of changes in place, and the entries of triggers.

use super::*;

fn append(book: &mut Book, events: &[JobEvent], now: Timestamp) -> Vec<Outcome> {
    let delta = book.fold_appending(events, DURATION, now);
    assert!(delta.is_additive());
    let outcomes = delta.outcomes.clone();
    book.commit(delta);
    outcomes
}

#[test]
fn a_tombstone_is_appended_and_wins_until_the_autoscaler_joins_the_two() {
    let mut book = Book::new(run(&[], &[event(1, Queued), event(2, Queued)]));
    assert_eq!(
        append(&mut book, &[on(1, Completed, "r-1")], t(5)),
        [Outcome::Finished]
    );
    assert_eq!(
        names(book.entries()),
        [("7/1".into(), 1), ("7/2".into(), 1), ("7/1@r-1".into(), 0)]
    );
    assert_eq!(demand(book.entries(), t(5)), 1);
    assert_eq!(
        append(&mut book, &[on(1, Completed, "r-1"), event(1, Queued)], t(6)),
        [Outcome::AlreadyFinished, Outcome::AlreadyFinished]
    );
    assert_eq!(book.entries().len(), 3);
    let (seen, doubles) = distinct(book.entries(), t(6));
    assert_eq!(
        (names(&seen), doubles),
        (vec![("7/2".into(), 1), ("7/1@r-1".into(), 0)], 1)
    );
    let joined = compact(book.entries(), t(6));
    assert_eq!(names(&joined), [("7/2".into(), 1), ("7/1@r-1".into(), 0)]);
    assert_eq!(joined[1].effective_time.unwrap().0, t(0), "the entry's own time");
    assert_eq!(distinct(&joined, t(6)), (joined, 0));
}

#[test]
fn a_runners_name_is_appended_once() {
    let mut book = Book::new(run(&[], &[event(1, Queued)]));
    let runs = on(1, InProgress, "r-1");
    assert_eq!(
        append(&mut book, std::slice::from_ref(&runs), t(5)),
        [Outcome::Updated]
    );
    assert_eq!(append(&mut book, &[runs], t(5)), [Outcome::Unchanged]);
    assert_eq!(names(book.entries()), [("7/1".into(), 1), ("7/1@r-1".into(), 1)]);
    assert_eq!(demand(book.entries(), t(5)), 1);
    assert_eq!(demand(book.entries(), t(1801)), 1, "the later expiry holds");
    for joined in [distinct(book.entries(), t(5)).0, compact(book.entries(), t(5))] {
        assert_eq!(names(&joined), [("7/1@r-1".into(), 1)]);
        assert_eq!(joined[0].expiration_time.unwrap().0, t(1805));
        assert_eq!(joined[0].effective_time.unwrap().0, t(0));
    }
}

#[test]
fn a_repeated_queued_is_appended_only_where_the_entry_would_end_much_sooner() {
    let mut book = Book::new(run(&[], &[event(1, Queued)]));
    append(&mut book, &[event(1, Queued)], t(5));
    append(&mut book, &[event(1, Queued)], t(899));
    assert_eq!(names(book.entries()), [("7/1".into(), 1)]);
    append(&mut book, &[event(1, Queued)], t(901));
    assert_eq!(names(book.entries()), [("7/1".into(), 1), ("7/1".into(), 1)]);
    assert_eq!(demand(book.entries(), t(2700)), 1, "the later expiry holds");
}

#[test]
fn what_has_to_remove_an_entry_is_known_beforehand() {
    let book = Book::new(vec![upstream(-10), entry("7/1", 1, 0, 600)]);
    assert!(book.must_remove_for(&on(9, Completed, "r")));
    assert!(book.must_remove_for(&on(9, InProgress, "r")));
    assert!(!book.must_remove_for(&on(1, Completed, "r")), "its own entry");
    assert!(!book.must_remove_for(&event(9, Completed)), "no runner had it");
    assert!(!book.must_remove_for(&event(9, Queued)));
    assert!(!Book::new(vec![entry("7/1", 1, 0, 600)]).must_remove_for(&on(9, Completed, "r")));
}

#[test]
fn a_view_of_single_entries_keeps_what_has_expired() {
    let ledger = [
        entry("7/1", 1, 0, 5),
        entry("7/1@r", 0, 0, 600),
        entry("7/2", 0, 0, 5),
        entry("7/2", 1, 9, 600),
        entry("7/3", 1, 1, 5),
        entry("7/3@r", 1, 1, 600),
        entry("mine", 2, 0, 5),
    ];
    let (seen, doubles) = distinct(&ledger, t(10));
    assert_eq!(
        names(&seen),
        [
            ("7/1@r".into(), 0),
            ("7/2".into(), 0),
            ("7/2".into(), 1),
            ("7/3@r".into(), 1),
            ("mine".into(), 2)
        ]
    );
    assert_eq!(doubles, 2);
    assert_eq!(demand(&seen, t(10)), demand(&ledger, t(10)));
}

fn trigger(name: &str, replicas: i64) -> LedgerEvent {
    LedgerEvent::Trigger(TriggerEvent {
        name: name.to_owned(),
        replicas,
        duration: SignedDuration::from_mins(5),
    })
}

#[test]
fn a_trigger_adds_one_entry_of_its_amount_per_delivery() {
    let mut book = Book::new(run(&[], &[event(1, Queued)]));
    let events = [
        trigger("push/72d3162e-cc78", 3),
        trigger("push/72d3162e-cc78", 3),
        LedgerEvent::from(event(2, Queued)),
    ];
    let delta = book.fold(&events, DURATION, t(5));
    assert_eq!(
        delta.outcomes,
        [Outcome::Added, Outcome::Unchanged, Outcome::Added]
    );
    assert!(delta.is_additive());
    book.commit(delta);
    assert_eq!(
        names(book.entries()),
        [
            ("7/1".into(), 1),
            ("push/72d3162e-cc78".into(), 3),
            ("7/2".into(), 1)
        ]
    );
    let added = &book.entries()[1];
    assert_eq!(added.expiration_time.unwrap().0, t(305), "its trigger's duration");
    assert!(added.effective_time < book.entries()[2].effective_time);
    assert_eq!(demand(book.entries(), t(5)), 5);
    assert_eq!(demand(book.entries(), t(305)), 2, "it only expires");
    let again = Book::new(book.entries().to_vec()).fold(&events[..1], DURATION, t(400));
    assert_eq!(
        again.outcomes,
        [Outcome::Unchanged],
        "counted once, though it has expired"
    );
    let full = book.fold_within(&[trigger("push/other", 1)], DURATION, t(5), 10);
    assert_eq!((full.outcomes, full.appended), (vec![Outcome::Full], vec![]));
}

#[test]
fn two_replicas_that_add_one_delivery_count_once() {
    let twice = [entry("push/a", 3, 0, 600), entry("push/a", 3, 1, 601)];
    assert_eq!(demand(&twice, t(0)), 3);
    assert_eq!(compact(&twice, t(0)), [entry("push/a", 3, 0, 601)]);
    assert_eq!(distinct(&twice, t(0)).1, 1);
}

#[test]
fn names_of_triggers_entries() {
    let name = |event, delivery: &str| TriggerEvent::name_of(event, delivery);
    assert_eq!(name("push", "72d3-A_.1").as_deref(), Some("push/72d3-A_.1"));
    let long = "x".repeat(65);
    for (event, delivery) in [
        ("push", ""),
        ("push", "a/b"),
        ("push", "a b"),
        ("push", &long),
        ("watch", "a"),
    ] {
        assert_eq!(name(event, delivery), None, "{event} {delivery}");
    }
    assert_eq!(classify(&entry("check_run/a", 1, 0, 1)), Kind::Trigger);
}

proptest! {
    #![proptest_config(cases())]

    /// Several intakes, each with a ledger as old as it may be, append what they see; whatever the interleaving,
    /// the autoscaler reads the same jobs as if one had changed them in place.
    #[test]
    fn appending_with_old_ledgers_ends_in_the_same_jobs(
        (jobs, canonical, shuffled) in schedule(),
        turns in proptest::collection::vec((0..3_usize, any::<bool>(), any::<bool>()), 60),
    ) {
        let in_place = run(&[], &canonical);
        let mut object: Vec<CapacityReservation> = Vec::new();
        let mut known = vec![Book::default(); 3];
        for ((event, second), (who, fresh, append)) in shuffled.iter().zip(0..).zip(turns.iter().cycle()) {
            if *fresh || !append {
                known[*who] = Book::new(object.clone());
            }
            let delta = if *append {
                known[*who].fold_appending(std::slice::from_ref(event), DURATION, t(second))
            } else {
                known[*who].fold(std::slice::from_ref(event), DURATION, t(second))
            };
            if *append {
                object.extend(delta.appended.iter().cloned());
                known[*who].commit(delta);
            } else {
                known[*who].commit(delta);
                object = known[*who].entries().to_vec();
            }
        }
        let now = t(100);
        prop_assert_eq!(essence(&compact(&object, now)), essence(&in_place));
        prop_assert_eq!(essence(&distinct(&object, now).0), essence(&in_place));
        let wanted = jobs.iter().zip(1..).filter(|(job, id)| job.is_demand(*id)).count();
        prop_assert_eq!(demand(&object, now), i64::try_from(wanted).unwrap());
        // Nothing that is repeated adds anything.
        let book = Book::new(object);
        prop_assert!(book.fold_appending(&shuffled, DURATION, t(0)).is_empty());
    }
}
