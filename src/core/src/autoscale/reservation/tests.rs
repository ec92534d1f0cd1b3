use jiff::{SignedDuration, Timestamp};
use muster_crds::legacy::CapacityReservation;
use muster_crds::time::MicroTime;
use proptest::prelude::*;
use serde_json::json;

use super::*;

mod appending;

const START: i64 = 1_795_000_000;
const DURATION: SignedDuration = SignedDuration::from_mins(30);

fn t(seconds: i64) -> Timestamp {
    Timestamp::from_second(START + seconds).unwrap()
}

fn key(job: u64) -> JobKey {
    JobKey::new(None, 7, job)
}

fn event(job: u64, action: JobAction) -> JobEvent {
    JobEvent {
        key: key(job),
        action,
        runner: None,
        created_at: Some(t(-60)),
    }
}

fn on(job: u64, action: JobAction, runner: &str) -> JobEvent {
    JobEvent {
        runner: Some(runner.into()),
        ..event(job, action)
    }
}

fn upstream(effective: i64) -> CapacityReservation {
    CapacityReservation {
        name: None,
        replicas: Some(1),
        effective_time: Some(MicroTime(t(effective))),
        expiration_time: Some(MicroTime(t(effective + 1800))),
    }
}

fn entry(name: &str, replicas: i64, effective: i64, expires: i64) -> CapacityReservation {
    CapacityReservation {
        name: Some(name.into()),
        replicas: Some(replicas),
        effective_time: Some(MicroTime(t(effective))),
        expiration_time: Some(MicroTime(t(expires))),
    }
}

fn names(ledger: &[CapacityReservation]) -> Vec<(String, i64)> {
    ledger
        .iter()
        .map(|entry| {
            (
                entry.name.clone().unwrap_or_default(),
                entry.replicas.unwrap_or(0),
            )
        })
        .collect()
}

fn run(ledger: &[CapacityReservation], events: &[JobEvent]) -> Vec<CapacityReservation> {
    events.iter().fold(ledger.to_vec(), |ledger, event| {
        apply(&ledger, event, DURATION, t(0))
    })
}

use JobAction::{Completed, InProgress, InProgressElsewhere, Queued};

#[test]
fn the_table_of_transitions() {
    let absent: &[JobEvent] = &[];
    let live = &[event(1, Queued)];
    let running = &[event(1, Queued), on(1, InProgress, "r-1")];
    let finished = &[event(1, Queued), event(1, Completed)];
    let table: &[(&[JobEvent], JobEvent, &str, i64)] = &[
        (absent, event(1, Queued), "7/1", 1),
        (absent, on(1, InProgress, "r-1"), "7/1@r-1", 1),
        (absent, on(1, InProgressElsewhere, "x-1"), "7/1", 0),
        (absent, event(1, Completed), "7/1", 0),
        (absent, on(1, Completed, "r-1"), "7/1@r-1", 0),
        (live, event(1, Queued), "7/1", 1),
        (live, on(1, InProgress, "r-1"), "7/1@r-1", 1),
        (live, on(1, InProgressElsewhere, "x-1"), "7/1", 0),
        (live, event(1, Completed), "7/1", 0),
        (live, on(1, Completed, "r-1"), "7/1@r-1", 0),
        (running, event(1, Queued), "7/1@r-1", 1),
        (running, on(1, InProgress, "r-1"), "7/1@r-1", 1),
        (running, on(1, Completed, "r-1"), "7/1@r-1", 0),
        (finished, event(1, Queued), "7/1", 0),
        (finished, on(1, InProgress, "r-1"), "7/1", 0),
        (finished, on(1, InProgressElsewhere, "r-1"), "7/1", 0),
        (finished, event(1, Completed), "7/1", 0),
    ];
    for (before, event, name, replicas) in table {
        let after = apply(&run(&[], before), event, DURATION, t(1));
        assert_eq!(
            names(&after),
            [((*name).to_owned(), *replicas)],
            "{before:?} + {event:?}"
        );
    }
}

#[test]
fn a_new_entry_is_stamped_later_than_every_other_and_expires_after_the_duration() {
    let ahead = entry("night shift", 3, 500, 3600);
    let ledger = apply_all(&[ahead], &[event(1, Queued), event(2, Queued)], DURATION, t(0));
    let effective: Vec<_> = ledger
        .iter()
        .map(|entry| entry.effective_time.unwrap().0)
        .collect();
    assert_eq!(effective[0], t(500));
    assert_eq!(
        effective[1].duration_since(t(500)),
        SignedDuration::from_micros(1)
    );
    assert_eq!(
        effective[2].duration_since(t(500)),
        SignedDuration::from_micros(2)
    );
    assert_eq!(ledger[1].expiration_time.unwrap().0, t(1800));
    let none = apply(&[], &event(1, Queued), SignedDuration::ZERO, t(0));
    assert_eq!(
        none[0].expiration_time.unwrap().0,
        t(600),
        "ten minutes where the trigger says nothing"
    );
}

#[test]
fn the_effective_time_never_changes_and_a_tombstone_keeps_it() {
    let queued = apply(&[], &event(1, Queued), DURATION, t(0));
    let running = apply(&queued, &on(1, InProgress, "r-1"), DURATION, t(10));
    let finished = apply(&running, &on(1, Completed, "r-1"), DURATION, t(20));
    for ledger in [&queued, &running, &finished] {
        assert_eq!(ledger[0].effective_time.unwrap().0, t(0));
    }
    assert_eq!(running[0].expiration_time.unwrap().0, t(1810), "seen alive");
    assert_eq!(
        finished[0].expiration_time.unwrap().0,
        t(3620),
        "remembered for an hour"
    );
    let born = apply(&[], &event(1, Completed), DURATION, t(20));
    assert_eq!(born[0].effective_time.unwrap().0, t(-60), "the job's own time");
    let unknown = JobEvent {
        created_at: None,
        ..event(1, Completed)
    };
    assert_eq!(
        apply(&[], &unknown, DURATION, t(20))[0].effective_time.unwrap().0,
        t(20)
    );
}

#[test]
fn a_repeated_queued_rearms_but_not_for_less_than_a_second() {
    let ledger = apply(&[], &event(1, Queued), DURATION, t(0));
    let soon = t(0).checked_add(SignedDuration::from_millis(900)).unwrap();
    assert_eq!(apply(&ledger, &event(1, Queued), DURATION, soon), ledger);
    let later = apply(&ledger, &event(1, Queued), DURATION, t(60));
    assert_eq!(later[0].expiration_time.unwrap().0, t(1860));
    let expired = apply(&ledger, &event(1, Queued), DURATION, t(4000));
    assert!(
        is_live(&expired[0], t(4000)),
        "an event proves more than the clock"
    );
    assert_eq!(expired.len(), 1);
}

#[test]
fn an_expired_tombstone_says_nothing_and_its_place_is_taken() {
    let finished = run(&[], &[event(1, Queued), event(1, Completed), event(2, Queued)]);
    let ledger = apply(&finished, &event(1, Queued), DURATION, t(3700));
    assert_eq!(names(&ledger), [("7/1".into(), 1), ("7/2".into(), 1)]);
    assert_eq!(ledger[0].effective_time.unwrap().0, t(3700));
}

#[test]
fn a_completed_for_an_unknown_key_consumes_upstreams_oldest_that_is_not_older_than_the_job() {
    let ledger = [
        upstream(-100),
        upstream(-30),
        upstream(-40),
        entry("mine", 2, -50, 3600),
    ];
    let after = apply(&ledger, &on(1, Completed, "r-1"), DURATION, t(0));
    assert_eq!(
        after[..3],
        [ledger[0].clone(), ledger[1].clone(), ledger[3].clone()]
    );
    assert_eq!(names(&after[3..]), [("7/1@r-1".into(), 0)]);
    assert_eq!(
        apply(&after, &on(1, Completed, "r-1"), DURATION, t(1)),
        after,
        "a repeated one consumes nothing"
    );

    for other in [
        event(1, Completed),
        JobEvent {
            created_at: None,
            ..on(1, Completed, "r-1")
        },
        on(1, InProgressElsewhere, "r-1"),
    ] {
        assert_eq!(apply(&ledger, &other, DURATION, t(0))[..4], ledger, "{other:?}");
    }
    let known = apply(&ledger, &event(1, Queued), DURATION, t(0));
    assert_eq!(
        apply(&known, &on(1, Completed, "r-1"), DURATION, t(0))[..4],
        ledger
    );
    assert_eq!(
        apply(&[upstream(-30)], &on(1, Completed, "r-1"), DURATION, t(3600)).len(),
        2,
        "expired: left alone"
    );
}

#[test]
fn who_runs_a_job_that_upstream_counted_is_noted_in_upstreams_entry() {
    let ledger = [upstream(-100), upstream(-30), upstream(-40)];
    let after = apply(&ledger, &on(1, InProgress, "r-1"), DURATION, t(0));
    assert_eq!(after.len(), 3, "nothing is added: {after:?}");
    assert_eq!(after[..2], ledger[..2]);
    let adopted = CapacityReservation {
        name: Some("7/1@r-1".to_owned()),
        expiration_time: Some(MicroTime(t(1800))),
        ..ledger[2].clone()
    };
    assert_eq!(after[2], adopted, "no runner is asked for");
    assert_eq!(
        apply(&after, &on(1, InProgress, "r-1"), DURATION, t(0)),
        after,
        "a repeated one takes none"
    );
    let finished = apply(&after, &on(1, Completed, "r-1"), DURATION, t(1));
    assert_eq!(finished[..2], ledger[..2], "its own entry is all that it takes");
    assert_eq!(names(&finished[2..]), [("7/1@r-1".into(), 0)]);

    // Neither without a name, nor one that is older than the job, nor one that has expired.
    for (event, now) in [
        (event(1, InProgress), t(0)),
        (
            JobEvent {
                created_at: Some(t(-10)),
                ..on(1, InProgress, "r-1")
            },
            t(0),
        ),
        (on(1, InProgress, "r-1"), t(3600)),
    ] {
        let after = apply(&ledger, &event, DURATION, now);
        assert_eq!((&after[..3], after.len()), (&ledger[..], 4), "{event:?}");
    }
    // Two jobs at once take two; a third has none left but its own.
    let jobs: Vec<_> = (1..=3)
        .map(|job| on(job, InProgress, &format!("r-{job}")))
        .collect();
    let mut book = Book::new(ledger.to_vec());
    let delta = book.fold(&jobs, DURATION, t(0));
    assert_eq!(
        delta.outcomes,
        [Outcome::Adopted, Outcome::Adopted, Outcome::Added]
    );
    let (added, gone) = book.commit(delta);
    assert_eq!((added.len(), gone.len()), (3, 0));
    assert!(jobs.iter().all(|job| book.holds(&job.key)));
    assert!(
        book.must_remove_for(&on(9, Completed, "r")),
        "one is left, although it is too old for these"
    );
    // In the order in which nobody waits for the other: a completed that came first has consumed the same one.
    for order in [[InProgress, Completed], [Completed, InProgress]] {
        let events = order.map(|action| on(1, action, "r-1"));
        let after = run(&ledger, &events);
        assert_eq!((demand(&after, t(0)), after.len()), (2, 3), "{order:?}");
    }
    // An expired tombstone of the job gives way.
    let ledger = [entry("7/1@r-0", 0, -4000, -10), upstream(-30)];
    let after = apply(&ledger, &on(1, InProgress, "r-1"), DURATION, t(0));
    assert_eq!(names(&after), [("7/1@r-1".into(), 1)]);
}

#[test]
fn the_sequence_of_arc_4315_leaves_one() {
    let finished: Vec<_> = (1..=5)
        .flat_map(|job| [event(job, Queued), on(job, Completed, "r-1")])
        .collect();
    let ledger = run(&[], &finished);
    let mut events = vec![event(6, Queued)];
    events.extend((1..=5).map(|job| on(job, Completed, "r-1")));
    assert_eq!(demand(&run(&ledger, &events), t(0)), 1);
}

#[test]
fn two_entries_with_one_key_count_once_and_a_tombstone_wins() {
    let twice = [
        entry("7/1", 1, 0, 600),
        entry("7/1@r-1", 1, 1, 900),
        entry("7/2", 1, 2, 600),
    ];
    assert_eq!(demand(&twice, t(0)), 2);
    let finished = apply(&twice, &on(1, Completed, "r-1"), DURATION, t(0));
    assert_eq!(names(&finished), [("7/1@r-1".into(), 0), ("7/2".into(), 1)]);
    let mixed = [entry("7/1", 1, 0, 600), entry("7/1@r-1", 0, -5, 900)];
    assert_eq!(demand(&mixed, t(0)), 0);
    assert_eq!(
        apply(&mixed, &event(1, Queued), DURATION, t(100)),
        mixed,
        "finished is finished"
    );
    assert_eq!(compact(&mixed, t(0)), [entry("7/1@r-1", 0, -5, 900)]);
    assert_eq!(
        compact(&twice, t(0)),
        [entry("7/1@r-1", 1, 0, 900), entry("7/2", 1, 2, 600)]
    );
    let expired = [entry("7/1", 0, 0, 10), entry("7/1", 1, 0, 600)];
    assert_eq!(demand(&expired, t(20)), 1);
}

#[test]
fn what_is_the_users_is_never_changed() {
    let users = [
        entry("night shift", 5, -50, 3600),
        CapacityReservation {
            name: None,
            replicas: Some(2),
            ..upstream(-10)
        },
        CapacityReservation {
            effective_time: None,
            ..upstream(-10)
        },
        entry("push/72d3162e", 1, -10, 3600),
    ];
    let kinds: Vec<_> = users.iter().map(classify).collect();
    assert_eq!(
        kinds,
        [Kind::Foreign, Kind::Foreign, Kind::Foreign, Kind::Trigger]
    );
    let after = run(
        &users,
        &[event(1, Queued), on(2, Completed, "r"), on(1, Completed, "r")],
    );
    assert_eq!(after[..4], users);
    assert_eq!(demand(&after, t(0)), 9);
    assert_eq!(compact(&after, t(0)).len(), 6);
    assert!(compact(&users, t(3600)).is_empty(), "dropped when expired");
}

#[test]
fn compaction_orders_and_bounds() {
    let mut ledger = vec![
        entry("7/1", 0, 0, 100),
        entry("7/2", 1, 9, 900),
        entry("7/3", 0, 1, 50),
    ];
    ledger.push(CapacityReservation {
        expiration_time: None,
        ..entry("7/4", 1, 0, 0)
    });
    ledger.push(entry("7/5", 1, 3, 900));
    assert_eq!(
        names(&compact(&ledger, t(0))),
        [
            ("7/5".into(), 1),
            ("7/2".into(), 1),
            ("7/3".into(), 0),
            ("7/1".into(), 0)
        ]
    );
    let many: Vec<_> = (0..600)
        .map(|job| entry(&format!("7/{job}"), 0, 0, 1000 - job))
        .collect();
    let kept = compact(&many, t(0));
    assert_eq!(kept.len(), MAX_TOMBSTONES);
    assert!(
        kept.iter().all(|entry| entry.expiration_time.unwrap().0 > t(500)),
        "the oldest went"
    );
}

#[test]
fn tombstone_and_rearm() {
    let ledger = run(&[], &[on(1, InProgress, "r-1"), event(2, Queued)]);
    assert_eq!(
        names(&tombstones(ledger.clone(), &[key(1)], t(5))),
        [("7/1@r-1".into(), 0), ("7/2".into(), 1)]
    );
    assert_eq!(tombstones(ledger.clone(), &[key(3)], t(5)), ledger);
    assert_eq!(
        rearm(&ledger[0], t(60), DURATION).expiration_time.unwrap().0,
        t(1860)
    );
    assert_eq!(rearm(&ledger[0], t(-60), DURATION), ledger[0], "never earlier");
}

#[test]
fn a_patch_of_additions_has_no_precondition_unless_the_list_is_absent() {
    let base = run(&[], &[event(1, Queued)]);
    let target = run(&base, &[event(2, Queued)]);
    let patch = diff_patch(Some(&base), &target, 4);
    assert_eq!(
        patch,
        [
            json!({"op": "add", "path": "/spec/capacityReservations/-", "value": serde_json::to_value(&target[1]).unwrap()})
        ]
    );
    let patch = diff_patch(None, &base, 4);
    assert_eq!(
        patch[0],
        json!({"op": "test", "path": "/metadata/generation", "value": 4})
    );
    assert_eq!(patch[1]["path"], "/spec/capacityReservations");
    assert!(diff_patch(None, &[], 4).is_empty());
    assert!(diff_patch(Some(&base), &base, 4).is_empty());
    let finished = run(&target, &[event(1, Completed), event(3, Queued)]);
    let patch = diff_patch(Some(&target), &finished, 4);
    let shape: Vec<_> = patch
        .iter()
        .map(|op| (op["op"].as_str().unwrap(), op["path"].as_str().unwrap()))
        .collect();
    assert_eq!(
        shape,
        [
            ("test", "/metadata/generation"),
            ("replace", "/spec/capacityReservations/0"),
            ("add", "/spec/capacityReservations/-")
        ]
    );
}

#[test]
fn a_full_ledger_lets_tombstones_go_first_then_refuses_new_jobs_while_completed_passes() {
    let ledger: Vec<_> = (0..20)
        .map(|job| entry(&format!("7/{job}"), i64::from(job >= 5), 0, 1000 + job))
        .chain([entry("7/99", 1, 0, -1)])
        .collect();
    let book = Book::new(ledger);
    let roomy = book.fold_within(&[event(100, Queued)], DURATION, t(0), book.bytes() + 1000);
    assert!(roomy.is_additive());
    let tight = book.fold_within(&[event(100, Queued)], DURATION, t(0), book.bytes() + 10);
    assert_eq!(tight.outcomes, [Outcome::Added]);
    assert_eq!(
        tight.removed.into_iter().collect::<Vec<_>>(),
        [20],
        "what has expired is enough"
    );
    let events = [
        event(100, Queued),
        event(101, Completed),
        event(6, Completed),
        event(7, Queued),
    ];
    let full = book.fold_within(&events, DURATION, t(0), book.bytes() / 2);
    assert_eq!(
        full.outcomes,
        [
            Outcome::Full,
            Outcome::Remembered,
            Outcome::Finished,
            Outcome::Updated
        ]
    );
    assert!(full.appended.is_empty());
    assert_eq!(full.removed.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 20]);
}

#[test]
fn pruning_keeps_the_order_and_drops_what_says_nothing() {
    let ledger = vec![
        entry("7/1", 1, 0, 600),
        entry("7/2", 1, 0, -1),
        entry("7/1", 0, 0, 600),
        entry("7/3", 1, 0, 600),
        entry("7/3", 1, 1, 700),
    ];
    let mut book = Book::new(ledger);
    let mut delta = book.fold(&[event(9, Queued)], DURATION, t(0));
    book.prune(&mut delta, t(0));
    let (added, gone) = book.commit(delta);
    assert_eq!((added, gone), (vec![key(9)], vec![key(2)]));
    assert_eq!(
        names(book.entries()),
        [("7/1".into(), 0), ("7/3".into(), 1), ("7/9".into(), 1)]
    );
}

/// What matters of a ledger: the jobs and how far they are.
fn essence(ledger: &[CapacityReservation]) -> Vec<(String, i64)> {
    let mut names = names(ledger);
    names.sort();
    names
}

/// The events of one job in their canonical order.
#[derive(Clone, Debug)]
struct Job {
    queued: bool,
    runner: Option<u8>,
    in_progress: bool,
    completed: bool,
}

impl Job {
    fn events(&self, id: u64) -> Vec<JobEvent> {
        let runner = self.runner.map(|n| format!("set-abcde-{n}"));
        let mut events = Vec::new();
        if self.queued {
            events.push(event(id, Queued));
        }
        if let (true, Some(runner)) = (self.in_progress, &runner) {
            events.push(on(id, InProgress, runner));
        }
        if self.completed {
            events.push(JobEvent {
                runner: runner.clone(),
                ..event(id, Completed)
            });
        }
        events
    }

    fn is_demand(&self, id: u64) -> bool {
        !self.completed && !self.events(id).is_empty()
    }
}

fn job() -> impl Strategy<Value = Job> {
    (
        any::<bool>(),
        proptest::option::of(0..5_u8),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(queued, runner, in_progress, completed)| Job {
            queued,
            runner,
            in_progress,
            completed,
        })
}

/// Jobs, their events in canonical order, and the same events shuffled with repetitions; a re-run of the
/// failed jobs has new ids and comes with the old jobs' `completed` once more.
fn schedule() -> impl Strategy<Value = (Vec<Job>, Vec<JobEvent>, Vec<JobEvent>)> {
    (proptest::collection::vec(job(), 1..8), any::<bool>())
        .prop_flat_map(|(mut jobs, rerun)| {
            let first = jobs.len();
            if rerun {
                jobs.extend(jobs.clone());
            }
            let number = |index: usize| u64::try_from(index).unwrap() + 1;
            let canonical: Vec<JobEvent> = jobs
                .iter()
                .enumerate()
                .flat_map(|(index, job)| job.events(number(index)))
                .collect();
            let resent: Vec<JobEvent> = jobs[..first]
                .iter()
                .enumerate()
                .flat_map(|(index, job)| job.events(number(index)))
                .filter(|event| rerun && event.action == Completed)
                .collect();
            let repeats = proptest::collection::vec(any::<proptest::sample::Index>(), 0..10);
            (Just(jobs), Just(canonical), Just(resent), repeats)
        })
        .prop_flat_map(|(jobs, canonical, resent, repeats)| {
            let mut all = canonical.clone();
            all.extend(resent);
            if !canonical.is_empty() {
                all.extend(repeats.iter().map(|index| index.get(&canonical).clone()));
            }
            (Just(jobs), Just(canonical), Just(all).prop_shuffle())
        })
}

fn cases() -> ProptestConfig {
    ProptestConfig {
        cases: 10_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_order_and_repetition_ends_in_the_same_ledger((jobs, canonical, shuffled) in schedule(), split in 1..6_usize) {
        let one_by_one = run(&[], &canonical);
        let other = shuffled.iter().zip(0..).fold(Vec::new(), |ledger, (event, second)| {
            let after = apply(&ledger, event, DURATION, t(second));
            assert_eq!(apply(&after, event, DURATION, t(second)), after, "not idempotent");
            let live = demand(&after, t(second));
            assert!((0..=i64::try_from(jobs.len()).unwrap()).contains(&live));
            after
        });
        prop_assert_eq!(essence(&one_by_one), essence(&other));
        let batched = shuffled.chunks(split).fold(Vec::new(), |ledger, events| apply_all(&ledger, events, DURATION, t(0)));
        prop_assert_eq!(essence(&one_by_one), essence(&batched));
        let wanted = jobs.iter().zip(1..).filter(|(job, id)| job.is_demand(*id)).count();
        prop_assert_eq!(demand(&other, t(100)), i64::try_from(wanted).unwrap());
        prop_assert_eq!(essence(&compact(&other, t(100))), essence(&other));
        for pair in other.iter().filter(|entry| is_live(entry, t(100))).collect::<Vec<_>>().windows(2) {
            prop_assert!(pair[0].effective_time < pair[1].effective_time);
        }
    }

    #[test]
    fn a_patch_makes_the_target_of_the_base((base, target, generation) in ledgers()) {
        for (base, list_exists) in [(Some(&base[..]), true), (None, false)] {
            let mut document = json!({"metadata": {"generation": generation}, "spec": {"maxReplicas": 3}});
            if list_exists {
                document["spec"]["capacityReservations"] = serde_json::to_value(base).unwrap();
            }
            let operations = diff_patch(base, &target, generation);
            let additive = base.is_some_and(|base| target.starts_with(base));
            prop_assert_eq!(
                operations.iter().any(|operation| operation["op"] == "test"),
                !operations.is_empty() && !additive
            );
            let patch: json_patch::Patch = serde_json::from_value(operations.into()).unwrap();
            json_patch::patch(&mut document, &patch).unwrap();
            let result = document["spec"].get("capacityReservations").cloned().unwrap_or(json!([]));
            prop_assert_eq!(result, serde_json::to_value(&target).unwrap());
        }
    }

    #[test]
    fn a_books_patch_is_what_its_commit_does((_, first, second) in schedule(), prune in any::<bool>(), limit in 0..4000_usize) {
        let mut book = Book::new(run(&[upstream(-70), upstream(-10)], &first));
        let mut document = json!({"metadata": {"generation": 1}, "spec": {"capacityReservations": book.entries()}});
        let mut delta = book.fold_within(&second, DURATION, t(1), limit);
        if prune {
            book.prune(&mut delta, t(1));
        }
        prop_assert_eq!(delta.outcomes.len(), second.len());
        let patch: json_patch::Patch = serde_json::from_value(book.patch(&delta, true, 1).into()).unwrap();
        json_patch::patch(&mut document, &patch).unwrap();
        book.commit(delta);
        let entries = serde_json::to_value(book.entries()).unwrap();
        prop_assert_eq!(&document["spec"]["capacityReservations"], &entries);
        let fresh = Book::new(book.entries().to_vec());
        prop_assert_eq!(fresh.bytes(), book.bytes());
        let mut keys: Vec<_> = book.keys().cloned().collect();
        let mut again: Vec<_> = fresh.keys().cloned().collect();
        keys.sort();
        again.sort();
        prop_assert_eq!(keys, again);
    }
}

/// A ledger and another one that shares some of its entries, in any order.
fn ledgers() -> impl Strategy<Value = (Vec<CapacityReservation>, Vec<CapacityReservation>, i64)> {
    let one = (0..12_u64, 0..3_i64, 0..4_i64, 0..4_u8).prop_map(|(job, replicas, second, form)| match form {
        0 => upstream(second),
        1 => entry(&format!("user {job}"), replicas, second, 600),
        2 => entry(&key(job).entry_name(Some("r")), replicas.min(1), second, 600),
        _ => entry(&key(job).to_string(), replicas.min(1), second, 600),
    });
    (
        proptest::collection::vec(one.clone(), 0..30),
        proptest::collection::vec(one, 0..6),
        0..4_u8,
        1..99_i64,
    )
        .prop_flat_map(|(base, more, how, generation)| {
            let mut kept = base.clone();
            match how {
                0 => {}
                1 => kept.truncate(base.len() / 2),
                2 => kept = base.iter().step_by(2).cloned().collect(),
                _ => kept
                    .iter_mut()
                    .step_by(3)
                    .for_each(|entry| entry.replicas = Some(0)),
            }
            kept.extend(more);
            let target = if how == 0 {
                Just(kept).boxed()
            } else {
                prop_oneof![Just(kept.clone()), Just(kept).prop_shuffle()].boxed()
            };
            (Just(base), target, Just(generation))
        })
}
