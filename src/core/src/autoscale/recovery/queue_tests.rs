//! Tables and properties of [`super::queue`].

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use muster_crds::legacy::CapacityReservation;
use muster_crds::time::MicroTime;
use proptest::prelude::*;

use super::queue::*;
use crate::autoscale::reservation::{self, JobKey};
use crate::routing::{AutoscalerId, AutoscalerView, Index, NotConsidered, Visibility};

const PATIENCE: Patience = Patience {
    grace: SignedDuration::from_secs(3),
    forget: SignedDuration::from_mins(5),
};
const DURATION: SignedDuration = SignedDuration::from_mins(10);

fn t(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn repository() -> Repository {
    Repository {
        host: None,
        id: 7,
        owner: "acme".to_owned(),
        owner_is_user: false,
        name: "api".to_owned(),
    }
}

fn view(name: &str, key: &str, labels: &[&str]) -> AutoscalerView {
    AutoscalerView {
        id: AutoscalerId::new("ci", name),
        uid: name.to_owned(),
        created_at: Some(t(0)),
        keys: vec![key.to_owned()],
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        target_name: Some(name.to_owned()),
        duration: DURATION,
        not_considered: None,
        is_available: true,
        event_triggers: Vec::new(),
    }
}

fn live(job: u64, runner: Option<&str>, at: i64) -> CapacityReservation {
    CapacityReservation {
        name: Some(key(job).entry_name(runner)),
        replicas: Some(1),
        effective_time: Some(MicroTime(t(at))),
        expiration_time: Some(MicroTime(t(at) + DURATION)),
    }
}

fn tombstone(job: u64, runner: Option<&str>, at: i64) -> CapacityReservation {
    CapacityReservation {
        replicas: Some(0),
        expiration_time: Some(MicroTime(t(at) + reservation::TOMBSTONE_LIFETIME)),
        ..live(job, runner, at)
    }
}

fn key(job: u64) -> JobKey {
    JobKey::new(None, 7, job)
}

fn job(id: u64, state: JobState, runner: Option<&str>) -> ListedJob {
    ListedJob {
        key: key(id),
        state,
        labels: vec!["self-hosted".to_owned(), "linux".to_owned()],
        runner: runner.map(str::to_owned),
        created_at: None,
    }
}

fn run(id: u64, status: &str, updated: i64) -> ListedRun {
    ListedRun {
        id,
        status: status.to_owned(),
        attempt: 1,
        updated_at: Some(t(updated)),
    }
}

/// Autoscalers with their ledgers, and one repository's memory.
#[derive(Default)]
struct Pools {
    all: Vec<(AutoscalerView, Vec<CapacityReservation>)>,
    memory: Memory,
    is_added: bool,
}

impl Pools {
    fn new(pools: impl IntoIterator<Item = (AutoscalerView, Vec<CapacityReservation>)>) -> Self {
        Self {
            all: pools.into_iter().collect(),
            ..Self::default()
        }
    }

    fn one(ledger: Vec<CapacityReservation>) -> Self {
        Self::new([(view("linux", "acme", &["linux"]), ledger)])
    }

    fn with<T>(
        &mut self,
        now: Timestamp,
        work: impl FnOnce(&mut Memory, &[LedgerView<'_>], &Facts<'_>) -> T,
    ) -> T {
        let mut index = Index::default();
        let ledgers: Vec<LedgerView<'_>> = self
            .all
            .iter()
            .map(|(view, entries)| {
                index.upsert(view.clone());
                LedgerView {
                    view: Arc::new(view.clone()),
                    entries,
                    is_added: self.is_added,
                }
            })
            .collect();
        let repository = repository();
        let facts = Facts {
            repository: &repository,
            ledgers: &ledgers,
            index: &index,
            visibility: Visibility::Unchecked,
            patience: PATIENCE,
            now,
        };
        work(&mut self.memory, &ledgers, &facts)
    }

    fn begin(&mut self, runs: &[ListedRun], at: i64) -> Vec<u64> {
        self.with(t(at), |memory, ledgers, _| {
            memory.begin(runs, ledgers, PATIENCE, t(at))
        })
    }

    fn judge(&mut self, at: i64) -> Plan {
        self.with(t(at), |memory, _, facts| memory.judge(facts))
    }

    /// A look at runs of one job each.
    fn look(&mut self, jobs: &[ListedJob], at: i64) -> Plan {
        let runs: Vec<ListedRun> = jobs
            .iter()
            .map(|job| {
                let status = match job.state {
                    JobState::Queued => "queued",
                    _ => "in_progress",
                };
                run(job.key.job_id() + 100, status, at)
            })
            .collect();
        for read in self.begin(&runs, at) {
            let jobs: Vec<ListedJob> = jobs
                .iter()
                .filter(|job| job.key.job_id() + 100 == read)
                .cloned()
                .collect();
            self.memory.read(read, jobs, t(at));
        }
        self.judge(at)
    }

    fn apply(&mut self, plan: &Plan, at: i64) {
        for (view, ledger) in &mut self.all {
            let changes: Vec<&Change> = plan
                .changes
                .iter()
                .filter(|change| change.autoscaler == view.id)
                .collect();
            *ledger = fold(ledger, &changes, view.duration, t(at)).0;
        }
    }

    fn demand(&self, at: i64) -> Vec<i64> {
        self.all
            .iter()
            .map(|(_, ledger)| reservation::demand(ledger, t(at)))
            .collect()
    }
}

fn summary(plan: &Plan) -> Vec<(&str, u64, Why)> {
    plan.changes
        .iter()
        .map(|change| {
            (
                change.autoscaler.name.as_str(),
                change.event.key.job_id(),
                change.why,
            )
        })
        .collect()
}

#[test]
fn a_job_that_nobody_counts_becomes_demand_after_the_grace() {
    let mut pools = Pools::one(vec![]);
    let plan = pools.look(&[job(1, JobState::Queued, None)], 0);
    assert_eq!(
        (summary(&plan), plan.due),
        (vec![], Some(t(3))),
        "the webhook may be under way"
    );
    let plan = pools.judge(3);
    assert_eq!(summary(&plan), [("linux", 1, Why::Missing)]);
    pools.apply(&plan, 3);
    assert_eq!(pools.demand(3), [1]);
    assert_eq!(pools.judge(4), Plan::default());
}

#[test]
fn a_job_that_was_created_long_ago_needs_no_grace() {
    let mut pools = Pools::one(vec![]);
    let mut old = job(1, JobState::Queued, None);
    old.created_at = Some(t(-30));
    assert_eq!(
        summary(&pools.look(&[old.clone()], 0)),
        [("linux", 1, Why::Missing)]
    );
    // And one that GitHub is about to cancel is no demand.
    let mut pools = Pools::one(vec![live(1, None, 0)]);
    old.created_at = Some(t(0) - QUEUE_LIMIT);
    assert_eq!(summary(&pools.look(&[old], 1)), [("linux", 1, Why::TooLong)]);
}

#[test]
fn what_is_counted_finished_or_foreign_is_left_alone() {
    for (ledger, listed) in [
        (vec![live(1, None, 0)], job(1, JobState::Queued, None)),
        (vec![tombstone(1, None, 0)], job(1, JobState::Queued, None)),
        (
            vec![tombstone(1, Some("linux-x"), 0)],
            job(1, JobState::InProgress, Some("linux-x")),
        ),
        (
            vec![live(1, Some("linux-x"), 0)],
            job(1, JobState::InProgress, Some("linux-x")),
        ),
        (vec![], job(1, JobState::InProgress, Some("hosted-1"))),
        (vec![], job(1, JobState::Other, None)),
        (
            vec![],
            ListedJob {
                labels: vec!["windows".to_owned()],
                ..job(1, JobState::Queued, None)
            },
        ),
    ] {
        let mut pools = Pools::one(ledger.clone());
        pools.look(std::slice::from_ref(&listed), 10);
        assert_eq!(pools.judge(20), Plan::default(), "{ledger:?} {listed:?}");
    }
}

#[test]
fn who_runs_a_job_is_recorded_and_our_runners_jobs_count() {
    let running = job(1, JobState::InProgress, Some("linux-abc-x"));
    for (ledger, why) in [(vec![live(1, None, 0)], Why::Named), (vec![], Why::Missing)] {
        let mut pools = Pools::one(ledger);
        assert_eq!(summary(&pools.look(std::slice::from_ref(&running), 10)), []);
        let plan = pools.judge(13);
        assert_eq!(summary(&plan), [("linux", 1, why)]);
        pools.apply(&plan, 13);
        assert_eq!(pools.all[0].1[0].name.as_deref(), Some("7/1@linux-abc-x"));
        assert_eq!(pools.judge(14), Plan::default());
    }
}

#[test]
fn a_job_that_is_over_stops_counting() {
    let mut pools = Pools::one(vec![live(1, None, 0)]);
    pools.look(&[job(1, JobState::Queued, None)], 10);
    // Its run is not listed any more.
    assert_eq!(pools.look(&[], 70).due, Some(t(73)));
    let plan = pools.judge(73);
    assert_eq!(
        (summary(&plan), plan.ask.as_slice()),
        (vec![], &[Ask::Run(101)][..])
    );
    pools
        .memory
        .read(101, vec![job(1, JobState::Completed, Some("linux-x"))], t(73));
    let plan = pools.judge(73);
    assert_eq!(summary(&plan), [("linux", 1, Why::Finished)]);
    pools.apply(&plan, 73);
    assert_eq!(pools.demand(73), [0]);
    assert_eq!(pools.all[0].1[0].name.as_deref(), Some("7/1@linux-x"));
    assert_eq!(pools.judge(74), Plan::default());
}

#[test]
fn an_entry_whose_run_nobody_saw_is_asked_for_by_itself() {
    let mut pools = Pools::one(vec![live(1, None, 0)]);
    pools.look(&[], 10);
    assert_eq!(pools.judge(13).ask, [Ask::Job(key(1))]);
    pools.memory.found(job(1, JobState::InProgress, Some("linux-x")));
    let plan = pools.judge(13);
    assert_eq!(
        summary(&plan),
        [("linux", 1, Why::Named)],
        "and nobody is asked twice in a look"
    );
    assert_eq!(plan.ask, []);
}

#[test]
fn gone_means_not_found_in_two_looks() {
    let mut pools = Pools::one(vec![live(1, None, 0)]);
    pools.look(&[], 10);
    assert_eq!(pools.judge(13).ask, [Ask::Job(key(1))]);
    pools.memory.absent(&key(1));
    pools.memory.absent(&key(1));
    assert_eq!((summary(&pools.judge(13)), pools.judge(14).ask), (vec![], vec![]));
    assert_eq!(pools.look(&[], 70).ask, [Ask::Job(key(1))]);
    pools.memory.absent(&key(1));
    assert_eq!(summary(&pools.judge(70)), [("linux", 1, Why::Gone)]);
    // An answer in between starts the count anew.
    let mut pools = Pools::one(vec![live(1, None, 0)]);
    for (at, absent) in [(10, true), (70, false), (130, true)] {
        pools.look(&[], at);
        pools.judge(at + 3);
        if absent {
            pools.memory.absent(&key(1));
        } else {
            pools.memory.found(job(1, JobState::Queued, None));
        }
        assert_eq!(summary(&pools.judge(at + 3)), []);
    }
}

#[test]
fn runs_that_could_not_be_read_prove_nothing() {
    let mut pools = Pools::one(vec![live(1, None, 0)]);
    assert_eq!(pools.begin(&[run(5, "queued", 1)], 10), [5]);
    assert_eq!(summary(&pools.judge(10)), []);
    assert_eq!(pools.judge(20).ask, [], "run 5 may have it");
    assert_eq!(
        pools.begin(&[run(5, "queued", 1)], 70),
        [5],
        "and is read in the next look"
    );
}

#[test]
fn what_came_while_the_lists_were_read_is_not_doubted() {
    let mut pools = Pools::one(vec![live(1, None, 9), live(2, None, 1)]);
    pools.look(&[], 10);
    assert_eq!(pools.judge(20).ask, [Ask::Job(key(2))]);
}

#[test]
fn only_runs_with_unknown_jobs_are_read() {
    let mut pools = Pools::one(vec![live(1, None, 0), live(2, None, 0)]);
    let jobs = vec![job(1, JobState::Queued, None), job(2, JobState::Queued, None)];
    assert_eq!(pools.begin(&[run(5, "queued", 1)], 10), [5]);
    pools.memory.read(5, jobs, t(10));
    assert_eq!(
        pools.begin(&[run(5, "queued", 1)], 70),
        Vec::<u64>::new(),
        "nothing has changed"
    );
    // The webhook has told that a job started: jobs appear when others end.
    pools.all[0].1[0].name = Some("7/1@linux-x".to_owned());
    assert_eq!(pools.begin(&[run(5, "in_progress", 80)], 130), Vec::<u64>::new());
    assert_eq!(pools.begin(&[run(5, "in_progress", 80)], 140), Vec::<u64>::new());
    // A job ended, and others may have been queued.
    pools.all[0].1[0] = tombstone(1, Some("linux-x"), 0);
    assert_eq!(pools.begin(&[run(5, "in_progress", 150)], 190), [5]);
    pools.memory.read(5, vec![job(2, JobState::Queued, None)], t(190));
    // A change that webhooks do not explain, a new attempt, and old knowledge.
    assert_eq!(pools.begin(&[run(5, "in_progress", 200)], 250), [5]);
    pools.memory.read(5, vec![job(2, JobState::Queued, None)], t(250));
    let rerun = ListedRun {
        attempt: 2,
        ..run(5, "in_progress", 200)
    };
    assert_eq!(pools.begin(std::slice::from_ref(&rerun), 260), [5]);
    pools.memory.read(5, vec![job(2, JobState::Queued, None)], t(260));
    assert_eq!(pools.begin(std::slice::from_ref(&rerun), 560), [5]);
}

/// The jobs of a run appear one after the other, and the run looks the same before and after.
#[test]
fn a_run_whose_known_jobs_are_over_is_read_again() {
    let mut pools = Pools::one(vec![live(1, None, 0)]);
    let listed = [run(5, "queued", 1)];
    for (known, again) in [
        (vec![], true),
        (vec![job(1, JobState::Completed, None)], true),
        (vec![job(1, JobState::Other, None)], false),
        (vec![job(1, JobState::Queued, None)], false),
    ] {
        pools.begin(&listed, 10);
        pools.memory.read(5, known.clone(), t(10));
        assert_eq!(!pools.begin(&listed, 70).is_empty(), again, "{known:?}");
        pools.memory.read(5, Vec::new(), t(70));
    }
}

#[test]
fn where_a_metric_is_added_entries_end_as_upstreams() {
    let created = |id, state, runner, at| ListedJob {
        created_at: Some(t(at)),
        ..job(id, state, runner)
    };
    let mut pools = Pools::one(vec![live(1, None, 0), live(2, Some("linux-a"), 0)]);
    pools.is_added = true;
    let queued = created(1, JobState::Queued, None, 0);
    let running = created(2, JobState::InProgress, Some("linux-a"), 0);
    let plan = pools.look(&[queued.clone(), running.clone()], 500);
    assert_eq!(summary(&plan), [], "nothing is re-armed");
    // Their entries are gone: the metric counts them alone. One whose webhook was lost is made up for while its entry would live.
    let mut pools = Pools::one(Vec::new());
    pools.is_added = true;
    let lost = created(3, JobState::Queued, None, 580);
    let plan = pools.look(&[queued, running, lost], 620);
    assert_eq!(summary(&plan), [("linux", 3, Why::Missing)]);
}

#[test]
fn entries_of_living_jobs_are_rearmed_when_half_of_their_life_is_over() {
    for (state, runner) in [(JobState::Queued, None), (JobState::InProgress, Some("linux-x"))] {
        let mut pools = Pools::one(vec![live(1, runner, 0)]);
        assert_eq!(summary(&pools.look(&[job(1, state, runner)], 299)), []);
        let plan = pools.judge(300);
        assert_eq!(summary(&plan), [("linux", 1, Why::Alive)]);
        pools.apply(&plan, 300);
        assert_eq!(
            pools.all[0].1[0].expiration_time,
            Some(MicroTime(t(300) + DURATION))
        );
        // Also when it has expired meanwhile.
        let mut pools = Pools::one(vec![live(1, runner, 0)]);
        let plan = pools.look(&[job(1, state, runner)], 700);
        assert_eq!(summary(&plan), [("linux", 1, Why::Alive)]);
        pools.apply(&plan, 700);
        assert_eq!(pools.demand(700), [1]);
    }
}

#[test]
fn a_job_moves_to_the_autoscaler_that_matches_now() {
    let mut pools = Pools::new([
        (view("old", "acme", &["arm64"]), vec![live(1, None, 0)]),
        (view("new", "acme", &["linux"]), vec![]),
    ]);
    let queued = job(1, JobState::Queued, None);
    let plan = pools.look(std::slice::from_ref(&queued), 10);
    assert_eq!(summary(&plan), [("new", 1, Why::Moved)]);
    pools.apply(&plan, 10);
    assert_eq!(pools.demand(10), [1, 1]);
    let plan = pools.look(std::slice::from_ref(&queued), 70);
    assert_eq!(summary(&plan), [("old", 1, Why::Moved)]);
    pools.apply(&plan, 70);
    assert_eq!(pools.demand(70), [0, 1]);
    assert_eq!(pools.look(std::slice::from_ref(&queued), 130), Plan::default());
    // A better match is no reason to move a job whose runner is on its way, and nobody is no better than somebody.
    for other in [
        view("new", "acme/api", &["linux"]),
        view("new", "other", &["linux"]),
    ] {
        let holder = view("old", "acme", &["linux", "large"]);
        let mut pools = Pools::new([(holder, vec![live(1, None, 0)]), (other, vec![])]);
        assert_eq!(pools.look(std::slice::from_ref(&queued), 10), Plan::default());
    }
    let mut broken = view("old", "acme", &["linux"]);
    broken.not_considered = Some(NotConsidered::NoTrigger);
    let mut pools = Pools::new([(broken, vec![live(1, None, 0)])]);
    assert_eq!(pools.look(std::slice::from_ref(&queued), 10), Plan::default());
}

#[test]
fn a_repository_of_an_enterprise_is_known_by_its_jobs() {
    let enterprise = view("big", "enterprises/bigco", &["linux"]);
    let mut pools = Pools::new([(enterprise.clone(), vec![])]);
    pools.look(&[job(2, JobState::Queued, None)], 10);
    assert_eq!(
        summary(&pools.judge(20)),
        [],
        "nothing says whose the repository is"
    );
    let mut pools = Pools::new([(enterprise, vec![tombstone(1, None, 0)])]);
    pools.look(&[job(2, JobState::Queued, None)], 10);
    assert_eq!(summary(&pools.judge(20)), [("big", 2, Why::Missing)]);
}

/// What happens to a job at GitHub, and what the webhooks of it do.
#[derive(Clone, Debug)]
struct Life {
    queued: i64,
    started: i64,
    ended: i64,
    told: [bool; 3],
}

fn life() -> impl Strategy<Value = Life> {
    (0_i64..300, 0_i64..120, 1_i64..120, any::<[bool; 3]>()).prop_map(|(queued, wait, run, told)| Life {
        queued,
        started: queued + wait,
        ended: queued + wait + run,
        told,
    })
}

proptest! {
    /// Whatever webhooks are lost: one period and the grace after a job is queued it counts for as long as it is not over, and two
    /// periods after its end it does not; and lists that fail change nothing.
    #[test]
    fn ledgers_follow_the_queue(
        lives in proptest::collection::vec(life(), 1..12),
        failing in proptest::collection::btree_set(0_i64..12, 0..4),
    ) {
        const PERIOD: i64 = 60;
        let mut pools = Pools::one(vec![]);
        let state = |life: &Life, at: i64| {
            if at < life.queued { None }
            else if at < life.started { Some(JobState::Queued) }
            else if at < life.ended { Some(JobState::InProgress) }
            else { Some(JobState::Completed) }
        };
        let listed = |index: usize, life: &Life, at: i64| {
            let id = u64::try_from(index).unwrap() + 1;
            let state = state(life, at)?;
            Some(job(id, state, (state != JobState::Queued).then_some("linux-x")))
        };
        for at in 0..800 {
            for (index, life) in lives.iter().enumerate() {
                let id = u64::try_from(index).unwrap() + 1;
                for (told, (when, action)) in life.told.iter().zip([
                    (life.queued, reservation::JobAction::Queued),
                    (life.started, reservation::JobAction::InProgress),
                    (life.ended, reservation::JobAction::Completed),
                ]) {
                    if *told && when == at {
                        let event = reservation::JobEvent {
                            key: key(id),
                            action,
                            runner: (action != reservation::JobAction::Queued).then(|| "linux-x".to_owned()),
                            created_at: Some(t(life.queued)),
                        };
                        pools.all[0].1 = reservation::apply(&pools.all[0].1, &event, DURATION, t(at));
                    }
                }
            }
            let fails = failing.contains(&(at / PERIOD));
            let before = pools.all[0].1.clone();
            if at % PERIOD == 0 && !fails {
                let jobs: Vec<ListedJob> = lives
                    .iter()
                    .enumerate()
                    .filter_map(|(index, life)| listed(index, life, at))
                    .filter(|job| job.state != JobState::Completed)
                    .collect();
                let plan = pools.look(&jobs, at);
                pools.apply(&plan, at);
            } else if at % PERIOD == 3 && !fails {
                let asked = pools.judge(at).ask;
                for ask in asked {
                    let id = match ask { Ask::Run(run) => run - 100, Ask::Job(key) => key.job_id() };
                    let index = usize::try_from(id).unwrap() - 1;
                    if let Some(job) = listed(index, &lives[index], at) {
                        pools.memory.found(job);
                    }
                }
                let plan = pools.judge(at);
                pools.apply(&plan, at);
            } else {
                prop_assert_eq!(&before, &pools.all[0].1);
            }
            if failing.is_empty() {
                for (index, life) in lives.iter().enumerate() {
                    let id = u64::try_from(index).unwrap() + 1;
                    let counts = reservation::live(&pools.all[0].1, t(at))
                        .iter()
                        .any(|entry| entry.name.as_deref().is_some_and(|name| name.split('@').next() == Some(&key(id).to_string())));
                    if at > life.queued + PERIOD + 3 && at < life.ended {
                        prop_assert!(counts, "job {id} at {at}: {life:?}");
                    }
                    if at > life.ended + 2 * PERIOD + 3 {
                        prop_assert!(!counts, "job {id} at {at}: {life:?}");
                    }
                }
            }
        }
    }
}
