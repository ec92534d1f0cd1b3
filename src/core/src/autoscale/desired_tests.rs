use super::*;
use crate::autoscale::{
    metrics::{Source, Value},
    reservation::{JobAction, JobEvent, JobKey, apply},
};

fn t(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

const DURATION: SignedDuration = SignedDuration::from_mins(30);

fn event(job: u64, action: JobAction, runner: Option<&str>) -> JobEvent {
    JobEvent {
        key: JobKey::new(None, 1, job),
        action,
        runner: runner.map(str::to_owned),
        created_at: Some(t(-5)),
    }
}

/// A ledger after these events, one second apart from `t(0)`.
fn ledger(events: &[(u64, JobAction, Option<&str>)]) -> Vec<CapacityReservation> {
    events
        .iter()
        .zip(0..)
        .fold(Vec::new(), |ledger, ((job, action, runner), at)| {
            apply(&ledger, &event(*job, *action, *runner), DURATION, t(at))
        })
}

struct Case {
    ledger: Vec<CapacityReservation>,
    fates: BTreeMap<String, Fate>,
    ends: Vec<End>,
    min: i64,
    max: i64,
    target: TargetView,
    last_desired: Option<i64>,
    last_scale_out: Option<Timestamp>,
    pull: Pull,
    merge: DemandMerge,
    now: Timestamp,
}

impl Case {
    fn new(min: i64, max: i64) -> Self {
        Self {
            ledger: Vec::new(),
            fates: BTreeMap::new(),
            ends: Vec::new(),
            min,
            max,
            target: TargetView {
                ephemeral: true,
                ..TargetView::default()
            },
            last_desired: None,
            last_scale_out: None,
            pull: Pull::Off,
            merge: DemandMerge::Sum,
            now: t(60),
        }
    }
    fn jobs(mut self, events: &[(u64, JobAction, Option<&str>)]) -> Self {
        self.ledger = ledger(events);
        self
    }
    fn persistent(mut self) -> Self {
        self.target.ephemeral = false;
        self
    }
    fn fate(mut self, runner: &str, fate: Fate) -> Self {
        self.fates.insert(runner.into(), fate);
        self
    }
    fn end(mut self, runner: &str, sequence: u64) -> Self {
        self.ends.push(End {
            runner: runner.into(),
            at: t(59),
            sequence,
            is_charged: false,
        });
        self
    }
    fn decide(&self) -> Decision {
        let mut ends = self.ends.clone();
        charge(&mut ends, &self.ledger);
        decide(&Input {
            ledger: &self.ledger,
            fates: &self.fates,
            ends: &ends,
            min: self.min,
            max: self.max,
            pull: self.pull,
            merge: self.merge,
            target: self.target.clone(),
            last_desired: self.last_desired,
            last_scale_out: self.last_scale_out,
            delay: SignedDuration::from_mins(10),
            duration: DURATION,
            now: self.now,
        })
    }
    fn desired(&self) -> i64 {
        self.decide().desired
    }
}

use JobAction::{Completed, InProgress, Queued};

#[test]
fn bounds_and_reservations_as_in_the_vectors_of_upstream() {
    let queued: Vec<_> = (0..9).map(|job| (job, Queued, None)).collect();
    assert_eq!(Case::new(1, 5).desired(), 1);
    assert_eq!(Case::new(1, 5).jobs(&queued[..3]).desired(), 4);
    assert_eq!(Case::new(1, 5).jobs(&queued).desired(), 5);
    assert_eq!(Case::new(3, 2).desired(), 2, "min above max: max");
    let mut held = Case::new(0, 5).persistent();
    (held.last_desired, held.last_scale_out) = (Some(4), Some(t(60 - 120)));
    assert_eq!((held.desired(), held.decide().held_until), (4, Some(t(540))));
    held.last_scale_out = Some(t(60 - 660));
    assert_eq!(held.desired(), 0);
}

#[test]
fn an_ephemeral_target_follows_demand_at_once_in_both_directions() {
    let mut case = Case::new(0, 5).jobs(&[(1, Queued, None), (1, Completed, None)]);
    case.target.replicas = Some(1);
    (case.last_desired, case.last_scale_out) = (Some(1), Some(t(50)));
    let decision = case.decide();
    assert_eq!(decision.desired, 0);
    assert_eq!(
        decision.target.unwrap().retain_idle_until,
        Some(t(650)),
        "the delay retains what is idle"
    );
}

#[test]
fn a_runner_that_ended_is_taken_out_before_anybody_names_it() {
    let case = Case::new(0, 5)
        .jobs(&[(1, Queued, None), (2, Queued, None)])
        .end("r1", 1);
    assert_eq!((case.desired(), case.decide().uncharged), (1, 1));
    // The late in_progress names it: charged, and that entry's job is done.
    let named = Case::new(0, 5)
        .jobs(&[(1, Queued, None), (2, Queued, None), (1, InProgress, Some("r1"))])
        .end("r1", 1)
        .fate("r1", Fate::Ended { at: t(59) });
    assert_eq!(
        (named.desired(), named.decide().uncharged, named.decide().live),
        (1, 0, 1)
    );
    assert_eq!(
        named.decide().ledger,
        None,
        "the webhook may still write the tombstone"
    );
    let mut later = named;
    later.now = t(63);
    assert_eq!(
        later
            .decide()
            .ledger
            .unwrap()
            .iter()
            .filter(|entry| reservation::is_tombstone(entry))
            .count(),
        1
    );
    // Never below min.
    assert_eq!(Case::new(2, 5).end("r1", 1).desired(), 2);
}

#[test]
fn an_end_without_a_name_is_forgotten_after_ten_minutes() {
    let mut case = Case::new(0, 5).jobs(&[(1, Queued, None)]).end("r1", 1);
    case.now = t(59 + 599);
    assert_eq!(case.desired(), 0);
    case.now = t(59 + 600);
    assert_eq!(case.desired(), 1);
}

#[test]
fn a_runner_still_up_after_its_job_takes_no_other() {
    let case = Case::new(0, 5)
        .jobs(&[
            (1, Queued, None),
            (1, InProgress, Some("r1")),
            (1, Completed, Some("r1")),
            (2, Queued, None),
        ])
        .fate("r1", Fate::Alive);
    assert_eq!((case.decide().ending, case.desired()), (1, 2));
    let mut late = case;
    late.now = t(2 + 61);
    assert_eq!(late.desired(), 1, "for a minute at most");
}

#[test]
fn a_job_on_a_runner_that_is_not_ours_leaves_the_ledger() {
    let case = Case::new(0, 5)
        .jobs(&[(1, Queued, None), (1, InProgress, Some("other"))])
        .fate("other", Fate::Gone);
    let decision = case.decide();
    assert_eq!(decision.desired, 0);
    assert!(reservation::is_tombstone(&decision.ledger.unwrap()[0]));
    assert_eq!(
        Case::new(0, 5)
            .jobs(&[(1, InProgress, Some("unknown"))])
            .desired(),
        1,
        "an unknown fate changes nothing"
    );
}

#[test]
fn effective_time_moves_for_a_newer_job_a_raise_and_a_backlog_only() {
    let mut case = Case::new(0, 2).jobs(&[(1, Queued, None), (2, Queued, None), (3, Queued, None)]);
    let newest = case
        .ledger
        .iter()
        .filter_map(|entry| entry.effective_time)
        .max()
        .unwrap()
        .0;
    case.target.replicas = Some(1);
    assert_eq!(
        case.decide().target.unwrap().effective_time,
        Some(newest),
        "a newer job"
    );
    case.target = TargetView {
        replicas: Some(2),
        effective_time: Some(newest),
        alive: 2,
        ..case.target.clone()
    };
    assert_eq!(case.decide().target, None, "nothing new");
    // One of two ended, two still wanted: refill at once, also when nobody names the end.
    let mut backlog = Case {
        ends: vec![End {
            runner: "r1".into(),
            at: t(59),
            sequence: 4,
            is_charged: false,
        }],
        ..case
    };
    backlog.ledger = ledger(&[
        (1, Queued, None),
        (2, Queued, None),
        (3, Queued, None),
        (1, Completed, Some("r1")),
    ]);
    backlog.target.alive = 1;
    let patch = backlog.decide().target.unwrap();
    assert_eq!(
        (patch.replicas, patch.effective_time, patch.accounted),
        (2, Some(t(60)), 4)
    );
    backlog.target.accounted = 4;
    assert_eq!(backlog.decide().target, None, "once per end");
    backlog.target.served = backlog.target.effective_time;
    assert!(
        backlog.decide().target.is_some(),
        "a set that waits for us is told again"
    );
    // A raise without a job: the minimum.
    let raised = Case::new(3, 5).decide().target.unwrap();
    assert_eq!((raised.replicas, raised.effective_time), (3, Some(t(60))));
}

#[test]
fn effective_time_never_moves_back() {
    let mut case = Case::new(0, 5).jobs(&[(1, Queued, None), (2, Queued, None)]);
    case.target.effective_time = Some(t(1_000));
    case.target.replicas = Some(1);
    assert_eq!(
        case.decide().target.unwrap().effective_time,
        Some(t(1_000) + STEP)
    );
}

#[test]
fn only_a_rise_that_creates_starts_the_delay() {
    let mut case = Case::new(0, 5).jobs(&[(1, Queued, None)]);
    case.target.alive = 1;
    assert_eq!(
        case.decide().scaled_out_at,
        None,
        "the retained idle runner takes it"
    );
    case.target.alive = 0;
    assert_eq!(case.decide().scaled_out_at, Some(t(60)));
}

#[test]
fn jobs_beyond_max_and_running_jobs_do_not_expire() {
    let mut case = Case::new(0, 1)
        .jobs(&[(1, InProgress, Some("r1")), (2, Queued, None), (3, Queued, None)])
        .fate("r1", Fate::Alive);
    case.now = t(60 * 25);
    let decision = case.decide();
    let ledger = decision.ledger.unwrap();
    assert!(
        ledger
            .iter()
            .all(|entry| entry.expiration_time.unwrap().0 == t(60 * 25) + DURATION)
    );
    assert!(decision.next_due.unwrap() > t(60 * 25));
    // Within max, nothing proves that the queued job still exists: it expires.
    let mut within = Case::new(0, 5).jobs(&[(2, Queued, None)]);
    within.now = t(60 * 25);
    assert_eq!(
        (within.decide().ledger, within.decide().next_due),
        (None, Some(t(60 * 30)))
    );
    within.now = t(60 * 30);
    assert_eq!(within.desired(), 0);
    within.now = t(60 * 40);
    assert_eq!(
        within.decide().ledger,
        Some(vec![]),
        "dropped later, with one write"
    );
}

fn jobs(replicas: i64, as_of: Timestamp) -> Pull {
    pulled(replicas, Source::Jobs, as_of)
}

fn pulled(replicas: i64, source: Source, as_of: Timestamp) -> Pull {
    Pull::Known {
        value: Value {
            replicas,
            source,
            is_second: false,
        },
        as_of,
    }
}

#[test]
fn a_runner_that_ends_takes_its_job_out_of_the_metric_until_that_is_read_anew() {
    let mut case = Case::new(0, 10).end("a", 1);
    (case.target.replicas, case.target.alive, case.pull) = (Some(3), 2, jobs(3, t(30)));
    let decision = case.decide();
    assert_eq!(decision.desired, 2, "the end was seen at 59 s");
    assert_eq!(
        decision.target.unwrap().effective_time,
        None,
        "two are wanted and two are up: nobody is created"
    );
    case.pull = jobs(3, t(59));
    assert_eq!(case.desired(), 3, "three are left without it");
    // Beyond the maximum the backlog is served at once.
    case.pull = jobs(30, t(30));
    (case.target.replicas, case.target.alive) = (Some(10), 9);
    let decision = case.decide();
    assert_eq!(decision.desired, 10);
    assert_eq!(decision.target.unwrap().effective_time, Some(t(60)));
}

#[test]
fn a_job_that_is_done_counts_in_neither_the_metric_nor_the_ledger() {
    // Its runner is up still; the metric was read before.
    let done = [
        (1, Queued, None),
        (1, InProgress, Some("a")),
        (1, Completed, None),
    ];
    let mut case = Case::new(0, 10).jobs(&done).fate("a", Fate::Alive);
    case.now = t(10);
    (case.target.replicas, case.target.alive, case.pull) = (Some(1), 1, jobs(1, t(0)));
    for merge in [DemandMerge::Sum, DemandMerge::Max] {
        case.merge = merge;
        assert_eq!(case.desired(), 1, "{merge:?}: the one that is ending");
    }
    case.pull = jobs(1, t(5));
    assert_eq!(case.desired(), 2, "another job, and the one that is ending");
}

#[test]
fn a_share_of_runners_is_no_count_of_jobs() {
    let mut case = Case::new(0, 10).end("a", 1).end("b", 2);
    (case.target.replicas, case.target.alive) = (Some(6), 4);
    case.pull = pulled(6, Source::Busy, t(30));
    let decision = case.decide();
    assert_eq!(decision.desired, 6);
    assert!(
        decision.target.unwrap().effective_time.is_some(),
        "those that ended are replaced"
    );
}

#[test]
fn unknown_is_not_zero() {
    for ephemeral in [true, false] {
        let mut case = Case::new(1, 10).jobs(&[(1, Queued, None)]);
        (case.target.ephemeral, case.target.replicas) = (ephemeral, Some(7));
        (case.last_desired, case.last_scale_out) = (Some(7), Some(t(-10_000)));
        case.pull = Pull::Unknown { at_least: 0 };
        assert_eq!(case.desired(), 7, "kept");
        case.pull = Pull::Unknown { at_least: 8 };
        assert_eq!(case.desired(), 9, "what is known counts: 8 and a reservation");
        case.max = 5;
        assert_eq!(case.desired(), 5, "the maximum holds");
        case.target.replicas = None;
        case.pull = Pull::Unknown { at_least: 0 };
        assert_eq!(case.desired(), 2, "minimum and reservation");
        case.pull = jobs(0, t(59));
        assert_eq!(case.desired(), 2);
    }
}

#[test]
fn with_a_metric_added_a_running_jobs_reservation_ends_as_upstreams() {
    let running = [(1, Queued, None), (1, InProgress, Some("a"))];
    let mut case = Case::new(0, 10).jobs(&running).fate("a", Fate::Alive);
    case.now = t(1) + DURATION - SignedDuration::from_secs(10);
    for (pull, merge, rearmed) in [
        (Pull::Off, DemandMerge::Sum, true),
        (jobs(1, t(0)), DemandMerge::Sum, false),
        (jobs(1, t(0)), DemandMerge::Max, true),
        (Pull::Unknown { at_least: 0 }, DemandMerge::Sum, false),
    ] {
        (case.pull, case.merge) = (pull, merge);
        assert_eq!(case.decide().ledger.is_some(), rearmed, "{pull:?} {merge:?}");
    }
    // Those beyond the maximum are re-armed all the same.
    let mut case = Case::new(0, 1).jobs(&[(1, Queued, None), (2, Queued, None)]);
    (case.pull, case.now) = (jobs(2, t(0)), t(1) + DURATION - SignedDuration::from_secs(10));
    assert!(case.decide().ledger.is_some());
}

#[test]
fn a_number_that_only_follows_ended_runners_may_wait() {
    // Two jobs, two runners; one has ended with its job.
    let mut case = Case::new(0, 10)
        .jobs(&[(1, Queued, None), (2, Queued, None)])
        .end("r1", 1);
    case.target.replicas = Some(2);
    case.target.effective_time = Some(t(60));
    case.target.alive = 1;
    let decision = case.decide();
    assert_eq!(decision.target.as_ref().map(|patch| patch.replicas), Some(1));
    assert_eq!(decision.target_may_wait, Some(WITH_THE_NEXT_END));

    // The set would replace a runner whose end is accounted for already.
    case.target.accounted = 1;
    assert_eq!(case.decide().target_may_wait, None);
    case.target.accounted = 0;
    // A runner is to go.
    case.target.alive = 2;
    assert_eq!(case.decide().target_may_wait, None);
    // A persistent runner's number is the user's business at once.
    case.target.alive = 1;
    assert_eq!(case.persistent().decide().target_may_wait, None);

    // More are wanted.
    let mut more = Case::new(0, 10).jobs(&[(1, Queued, None), (2, Queued, None)]);
    more.target.replicas = Some(1);
    more.target.alive = 1;
    let decision = more.decide();
    assert_eq!(decision.target.as_ref().map(|patch| patch.replicas), Some(2));
    assert_eq!(decision.target_may_wait, None);
}

#[test]
fn an_effective_time_that_no_runner_waits_for_may_wait() {
    // One runner is all that may be up, and another job is queued.
    let mut case = Case::new(0, 1).jobs(&[(1, Queued, None), (2, Queued, None)]);
    case.target.replicas = Some(1);
    case.target.alive = 1;
    case.target.effective_time = Some(t(-60));
    let decision = case.decide();
    let patch = decision.target.unwrap();
    assert_eq!(patch.replicas, 1);
    assert!(patch.effective_time.is_some());
    assert_eq!(decision.target_may_wait, Some(AHEAD));

    // The set has served what it was asked: it would hold the next runner back.
    case.target.served = Some(t(-60));
    assert_eq!(case.decide().target_may_wait, None);
    case.target.served = Some(t(-90));
    assert_eq!(case.decide().target_may_wait, Some(AHEAD));
    // The runner is gone: another one is due.
    case.target.alive = 0;
    assert_eq!(case.decide().target_may_wait, None);
}

#[test]
fn an_end_stays_charged_to_its_job_when_the_entry_is_dropped() {
    let mut case = Case::new(0, 10)
        .jobs(&[(1, Completed, Some("r1")), (2, Queued, None)])
        .end("r1", 1)
        .end("r2", 2);
    charge(&mut case.ends, &case.ledger);
    assert_eq!(
        case.ends.iter().map(|end| end.is_charged).collect::<Vec<_>>(),
        [true, false]
    );
    // So many jobs have finished that the tombstone had to go.
    case.ledger = ledger(&[(2, Queued, None), (3, Queued, None)]);
    let decision = case.decide();
    assert_eq!((decision.live, decision.uncharged), (2, 1));
    assert_eq!(decision.desired, 1, "one of the two jobs may have been r2's");
}
