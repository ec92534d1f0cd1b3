//! The jobs that GitHub lists against the ledgers: what is missing, what leaks, what is alive.
//!
//! A look at a repository goes `begin` (which runs to read) → `read` for each of them → `judge` (what to change, whom to ask for) →
//! `read`, `found` or `absent` for the answers → `judge` again. What webhooks may still be about to say is left alone for a moment, the
//! grace. Every call but `judge` takes in an answer; a call that failed is not reported here and changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use muster_crds::legacy::CapacityReservation;

use crate::autoscale::reservation::{self, JobAction, JobEvent, JobKey, Kind};
use crate::routing::{
    AutoscalerId, AutoscalerView, Index, JobFacts, NotConsidered, Reason, Routing, Visibility,
    WorkflowAction, route_in,
};

/// GitHub cancels a job that has waited for so long.
pub const QUEUE_LIMIT: SignedDuration = SignedDuration::from_hours(24);

/// 404s after which a job counts as gone, while its repository answers.
const ABSENT: u32 = 2;

/// A difference to a job that is older than so many graces is no webhook under way.
const SURE: i32 = 10;

/// A workflow run as GitHub lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedRun {
    /// Id.
    pub id: u64,
    /// `queued`, `in_progress`, …
    pub status: String,
    /// Counts re-runs.
    pub attempt: u64,
    /// Changes with the run.
    pub updated_at: Option<Timestamp>,
}

/// How far a job is, by GitHub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum JobState {
    /// It wants a runner.
    Queued,
    /// A runner has it.
    InProgress,
    /// It is over.
    Completed,
    /// It waits for something else than a runner.
    #[default]
    Other,
}

impl JobState {
    /// Reads `status`.
    pub fn parse(status: &str) -> Self {
        match status {
            "queued" => Self::Queued,
            "in_progress" => Self::InProgress,
            "completed" => Self::Completed,
            _ => Self::Other,
        }
    }
}

/// A job as GitHub lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedJob {
    /// Identity.
    pub key: JobKey,
    /// How far it is.
    pub state: JobState,
    /// Labels that it asks for.
    pub labels: Vec<String>,
    /// Name of the runner that has or had it.
    pub runner: Option<String>,
    /// When GitHub created it.
    pub created_at: Option<Timestamp>,
}

/// The repository that is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// Host of the GitHub server where it is not github.com.
    pub host: Option<String>,
    /// Id.
    pub id: u64,
    /// Login of the owner.
    pub owner: String,
    /// The owner is a person.
    pub owner_is_user: bool,
    /// Name without the owner.
    pub name: String,
}

/// An autoscaler and its ledger.
#[derive(Clone, Debug)]
pub struct LedgerView<'a> {
    /// What routing knows of it.
    pub view: Arc<AutoscalerView>,
    /// `spec.capacityReservations`.
    pub entries: &'a [CapacityReservation],
    /// A pull metric that counts the same jobs is added: entries end after their time, as upstream's do (spec 20, "expiry").
    pub is_added: bool,
}

/// How patient a look is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For how long a difference may be a webhook that is still under way.
    pub grace: SignedDuration,
    /// After this long the jobs of a run count as unknown again.
    pub forget: SignedDuration,
}

/// What [`Memory::judge`] goes by.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Where.
    pub repository: &'a Repository,
    /// All autoscalers with their ledgers, as of after the lists were read.
    pub ledgers: &'a [LedgerView<'a>],
    /// The same autoscalers for matching, without the jobs that they hold.
    pub index: &'a Index,
    /// The groups that the repository may use.
    pub visibility: Visibility<'a>,
    /// How patient to be.
    pub patience: Patience,
    /// The time.
    pub now: Timestamp,
}

/// Why a ledger is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Why {
    /// A job that wants or has a runner of the target counted nowhere.
    Missing,
    /// A job counted that is over.
    Finished,
    /// A job counted that GitHub does not know any more.
    Gone,
    /// A job counted that GitHub cancels for having waited too long.
    TooLong,
    /// Another autoscaler matches now.
    Moved,
    /// Nobody had said who runs it.
    Named,
    /// It is alive, and its entry was about to expire.
    Alive,
}

impl Why {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Finished => "finished",
            Self::Gone => "gone",
            Self::TooLong => "too_long",
            Self::Moved => "moved",
            Self::Named => "named",
            Self::Alive => "alive",
        }
    }

    /// The kind of drift that it is, if webhooks were lost for it.
    pub fn drift(self) -> Option<&'static str> {
        match self {
            Self::Missing => Some("missing"),
            Self::Finished | Self::Gone | Self::TooLong => Some("leaked"),
            Self::Moved | Self::Named | Self::Alive => None,
        }
    }
}

/// A change of one ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose.
    pub autoscaler: AutoscalerId,
    /// What to fold into it.
    pub event: JobEvent,
    /// Why.
    pub why: Why,
}

/// Whom to ask for next.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ask {
    /// The jobs of a run that is not listed any more.
    Run(u64),
    /// One job.
    Job(JobKey),
}

/// What follows from a look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Changes of ledgers.
    pub changes: Vec<Change>,
    /// What must be asked before more can be said.
    pub ask: Vec<Ask>,
    /// When to judge again, with fresh ledgers but without new lists: a grace ends.
    pub due: Option<Timestamp>,
    /// The groups that the repository may use must be asked for.
    pub needs_groups: bool,
}

#[derive(Clone, Debug)]
struct KnownRun {
    seen: ListedRun,
    read_at: Timestamp,
    is_listed: bool,
    /// The look that read its jobs.
    look: u64,
    jobs: Vec<ListedJob>,
}

/// What was asked about one job.
#[derive(Clone, Debug)]
struct Single {
    /// The look that asked.
    look: u64,
    absent: u32,
    job: Option<ListedJob>,
}

/// What is remembered of one repository between looks.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    looks: u64,
    look_at: Timestamp,
    runs: BTreeMap<u64, KnownRun>,
    singles: BTreeMap<JobKey, Single>,
    /// Since when a job and the ledgers have differed.
    since: BTreeMap<JobKey, Timestamp>,
}

impl Memory {
    /// Begins a look with the runs that are queued or in progress; the answer are those whose jobs must be read: they are new, have
    /// changed in a way that webhooks did not tell of, or were read long ago.
    pub fn begin(
        &mut self,
        listed: &[ListedRun],
        ledgers: &[LedgerView<'_>],
        patience: Patience,
        now: Timestamp,
    ) -> Vec<u64> {
        self.looks += 1;
        self.look_at = now;
        for run in self.runs.values_mut() {
            run.is_listed = false;
        }
        let book = Entries::of_all(ledgers, now);
        let mut unknown = BTreeSet::new();
        for run in listed {
            let Some(known) = self.runs.get_mut(&run.id) else {
                unknown.insert(run.id);
                self.runs.insert(
                    run.id,
                    KnownRun {
                        seen: ListedRun::default(),
                        read_at: Timestamp::MIN,
                        is_listed: true,
                        look: 0,
                        jobs: Vec::new(),
                    },
                );
                continue;
            };
            // A run can stand in both lists when it starts in between.
            let twice = known.is_listed;
            known.is_listed = true;
            let is_old = known.read_at == Timestamp::MIN
                || known.has_more()
                || now.duration_since(known.read_at) >= patience.forget;
            if is_old {
                unknown.insert(run.id);
            } else if known.seen != *run && !twice {
                if known.is_start_that_is_told(run, &book) {
                    known.start(&book);
                    known.seen = run.clone();
                } else {
                    unknown.insert(run.id);
                }
            }
        }
        for run in listed.iter().filter(|run| unknown.contains(&run.id)) {
            if let Some(known) = self.runs.get_mut(&run.id) {
                known.seen = run.clone();
                known.read_at = Timestamp::MIN;
            }
        }
        unknown.into_iter().collect()
    }

    /// Takes in the jobs of a run.
    pub fn read(&mut self, run: u64, jobs: Vec<ListedJob>, now: Timestamp) {
        for job in &jobs {
            self.singles.remove(&job.key);
        }
        let known = self.runs.entry(run).or_insert_with(|| KnownRun {
            seen: ListedRun::default(),
            read_at: now,
            is_listed: false,
            look: 0,
            jobs: Vec::new(),
        });
        known.look = self.looks;
        known.read_at = now;
        known.jobs = jobs;
    }

    /// Takes in one job that was asked for.
    pub fn found(&mut self, job: ListedJob) {
        let look = self.looks;
        self.singles.insert(
            job.key.clone(),
            Single {
                look,
                absent: 0,
                job: Some(job),
            },
        );
    }

    /// Takes in that GitHub does not know a job, while it answers for its repository.
    pub fn absent(&mut self, key: &JobKey) {
        let look = self.looks;
        let single = self.singles.entry(key.clone()).or_insert_with(|| Single {
            look,
            absent: 0,
            job: None,
        });
        if single.absent == 0 || single.look != look {
            single.absent += 1;
        }
        (single.look, single.job) = (look, None);
    }

    /// Takes in that GitHub does not know a run any more.
    pub fn run_absent(&mut self, run: u64) {
        if let Some(known) = self.runs.remove(&run) {
            for job in known.jobs {
                self.absent(&job.key);
            }
        }
    }

    /// Compares what was read with the ledgers.
    pub fn judge(&mut self, facts: &Facts<'_>) -> Plan {
        let mut judge = Judge {
            facts,
            entries: Entries::of(facts),
            enterprise: enterprise(facts),
            before: std::mem::take(&mut self.since),
            since: BTreeMap::new(),
            plan: Plan::default(),
        };
        let mut known = HashSet::new();
        for run in self.runs.values().filter(|run| run.read_at != Timestamp::MIN) {
            for job in &run.jobs {
                // What a run that is not listed any more said before is no news, except that a job is over.
                if run.is_listed || run.look == self.looks || job.state == JobState::Completed {
                    known.insert(&job.key);
                    judge.job(job);
                }
            }
        }
        for (key, single) in &self.singles {
            if let Some(job) = &single.job
                && single.look == self.looks
                && known.insert(key)
            {
                judge.job(job);
            }
        }
        let mut runs_of = HashMap::new();
        for (id, run) in self.runs.iter().filter(|(_, run)| !run.is_listed) {
            runs_of.extend(run.jobs.iter().map(|job| (&job.key, *id)));
        }
        let unread: bool = self
            .runs
            .values()
            .any(|run| run.is_listed && run.read_at == Timestamp::MIN);
        // What came into a ledger while the lists were read cannot be in them.
        let listable = self
            .look_at
            .checked_sub(facts.patience.grace)
            .unwrap_or(Timestamp::MIN);
        let unseen: Vec<JobKey> = judge
            .entries
            .live_before(listable)
            .filter(|key| !known.contains(key))
            .cloned()
            .collect();
        for key in unseen {
            let single = self.singles.get(&key);
            if single.is_some_and(|single| single.absent >= ABSENT) {
                judge.bury(&key, Why::Gone, JobAction::InProgressElsewhere, None);
            } else if unread || single.is_some_and(|single| single.look == self.looks) {
                // A run that could not be read may have it; and nobody is asked twice in one look.
                judge.differs(&key, None);
            } else if judge.differs(&key, None) {
                judge.plan.ask.push(match runs_of.get(&key) {
                    Some(run) => Ask::Run(*run),
                    None => Ask::Job(key),
                });
            }
        }
        judge.plan.ask.sort_unstable();
        judge.plan.ask.dedup();
        let Judge {
            since, plan, entries, ..
        } = judge;
        self.since = since;
        self.singles.retain(|key, _| entries.has_live(key));
        self.runs
            .retain(|_, run| run.is_listed || run.jobs.iter().any(|job| entries.has_live(&job.key)));
        plan
    }
}

impl KnownRun {
    /// The run has changed, and all that happened is that jobs have got runners, of which webhooks have told: no job of it is new, because
    /// jobs appear when others end.
    fn is_start_that_is_told(&self, now: &ListedRun, entries: &Entries<'_>) -> bool {
        let mut started = false;
        self.seen.attempt == now.attempt
            && !self.jobs.is_empty()
            && self.jobs.iter().all(|job| match job.state {
                JobState::Completed => true,
                JobState::Queued | JobState::InProgress => {
                    started |= job.state == JobState::Queued && entries.runner_of(&job.key).is_some();
                    entries.has_live(&job.key)
                }
                JobState::Other => false,
            })
            && started
    }

    /// The run goes on, and none of the jobs that were read says why: GitHub makes the jobs of a run one after the other.
    fn has_more(&self) -> bool {
        self.jobs.iter().all(|job| job.state == JobState::Completed)
    }

    fn start(&mut self, entries: &Entries<'_>) {
        for job in self.jobs.iter_mut().filter(|job| job.state == JobState::Queued) {
            if let Some(runner) = entries.runner_of(&job.key) {
                job.state = JobState::InProgress;
                job.runner = Some(runner.to_owned());
            }
        }
    }
}

/// One entry of a job.
#[derive(Clone, Copy, Debug)]
struct Entry<'a> {
    ledger: usize,
    is_tombstone: bool,
    runner: Option<&'a str>,
    effective: Option<Timestamp>,
    expires: Option<Timestamp>,
}

/// The entries of jobs, by key.
#[derive(Debug, Default)]
struct Entries<'a>(HashMap<JobKey, Vec<Entry<'a>>>);

impl<'a> Entries<'a> {
    fn of(facts: &Facts<'a>) -> Self {
        let (host, id) = (facts.repository.host.as_deref(), facts.repository.id);
        Self::filtered(facts.ledgers, facts.now, |key| {
            key.repository_id() == id && key.host() == host
        })
    }

    fn of_all(ledgers: &'a [LedgerView<'a>], now: Timestamp) -> Self {
        Self::filtered(ledgers, now, |_| true)
    }

    fn filtered(ledgers: &'a [LedgerView<'a>], now: Timestamp, wanted: impl Fn(&JobKey) -> bool) -> Self {
        let mut all = Self::default();
        for (ledger, view) in ledgers.iter().enumerate() {
            if view.view.not_considered == Some(NotConsidered::Deleting) {
                continue;
            }
            for entry in view.entries {
                let Kind::Job { key, runner } = reservation::classify(entry) else {
                    continue;
                };
                let is_tombstone = reservation::is_tombstone(entry);
                // A tombstone that has expired says nothing any more; an entry that has, that nobody proved its job alive.
                if !wanted(&key) || is_tombstone && reservation::is_expired(entry, now) {
                    continue;
                }
                let found = Entry {
                    ledger,
                    is_tombstone,
                    runner,
                    effective: entry.effective_time.map(|at| at.0),
                    expires: entry.expiration_time.map(|at| at.0),
                };
                let entries = all.0.entry(key).or_default();
                match entries.iter_mut().find(|other| other.ledger == ledger) {
                    Some(other) => {
                        other.is_tombstone |= is_tombstone;
                        other.runner = other.runner.or(runner);
                        other.expires = other.expires.max(found.expires);
                    }
                    None => entries.push(found),
                }
            }
        }
        all
    }

    fn get(&self, key: &JobKey) -> &[Entry<'a>] {
        self.0.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    fn is_live(entries: &[Entry<'_>]) -> bool {
        entries.iter().any(|entry| !entry.is_tombstone)
    }

    fn has_live(&self, key: &JobKey) -> bool {
        Self::is_live(self.get(key))
    }

    /// Jobs with live entries that are older than `time`.
    fn live_before(&self, time: Timestamp) -> impl Iterator<Item = &JobKey> {
        let is_old =
            move |entry: &Entry<'_>| !entry.is_tombstone && entry.effective.is_none_or(|at| at < time);
        self.0
            .iter()
            .filter(move |(_, entries)| entries.iter().any(is_old))
            .map(|(key, _)| key)
    }

    /// The runner that a live entry names.
    fn runner_of(&self, key: &JobKey) -> Option<&'a str> {
        let mut live = self.get(key).iter().filter(|entry| !entry.is_tombstone);
        live.find_map(|entry| entry.runner)
    }
}

/// The enterprise of the repository: lists do not name it, but an autoscaler of an enterprise holds its jobs only because a webhook did.
fn enterprise<'a>(facts: &Facts<'a>) -> Option<&'a str> {
    let (host, id) = (facts.repository.host.as_deref(), facts.repository.id);
    let has_job = |ledger: &LedgerView<'_>| {
        ledger.entries.iter().any(|entry| {
            matches!(reservation::classify(entry), Kind::Job { key, .. } if key.repository_id() == id && key.host() == host)
        })
    };
    facts.ledgers.iter().find_map(|ledger| {
        let slug = ledger
            .view
            .keys
            .iter()
            .find_map(|key| key.strip_prefix("enterprises/"))?;
        has_job(ledger).then(|| slug.split('/').next().unwrap_or(slug))
    })
}

/// Whether the tombstones of a job are those of a move: somebody else holds it live, and nobody has run it.
fn is_move(entries: &[Entry<'_>]) -> bool {
    let mut tombstones = entries.iter().filter(|entry| entry.is_tombstone);
    Entries::is_live(entries) && tombstones.all(|entry| entry.runner.is_none())
}

struct Judge<'f, 'a> {
    facts: &'f Facts<'a>,
    entries: Entries<'a>,
    enterprise: Option<&'a str>,
    before: BTreeMap<JobKey, Timestamp>,
    since: BTreeMap<JobKey, Timestamp>,
    plan: Plan,
}

impl Judge<'_, '_> {
    fn job(&mut self, job: &ListedJob) {
        match job.state {
            JobState::Queued => self.queued(job),
            JobState::InProgress => self.in_progress(job),
            JobState::Completed => {
                if self.entries.has_live(&job.key) && self.differs(&job.key, None) {
                    self.bury(
                        &job.key,
                        Why::Finished,
                        JobAction::Completed,
                        job.runner.as_deref(),
                    );
                }
            }
            JobState::Other => {}
        }
    }

    fn queued(&mut self, job: &ListedJob) {
        let now = self.facts.now;
        let entries = self.entries.get(&job.key).to_vec();
        let too_long = job
            .created_at
            .is_some_and(|at| now.duration_since(at) > QUEUE_LIMIT);
        if too_long {
            self.bury(&job.key, Why::TooLong, JobAction::InProgressElsewhere, None);
            return;
        }
        // The list may be older than the webhook that ended it: a tombstone is final.
        if entries.iter().any(|entry| entry.is_tombstone) && !is_move(&entries) {
            return;
        }
        let mut live: Vec<Entry<'_>> = entries
            .iter()
            .copied()
            .filter(|entry| !entry.is_tombstone)
            .collect();
        if live.is_empty() {
            if let Some(winner) = self.winner(job)
                && !self.is_metrics(&winner.id, job)
                && self.differs(&job.key, job.created_at)
            {
                self.change(&winner.id, job, JobAction::Queued, Why::Missing);
            }
            return;
        }
        let (matching, others): (Vec<_>, Vec<_>) = live.drain(..).partition(|entry| self.matches(entry, job));
        if matching.is_empty() {
            // It counts twice until the next look has seen the new entry: better than not at all.
            if let Some(winner) = self.winner(job) {
                self.change(&winner.id, job, JobAction::Queued, Why::Moved);
            }
            return;
        }
        for entry in others {
            if let Some(id) = self.id(&entry) {
                self.change(&id, job, JobAction::InProgressElsewhere, Why::Moved);
            }
        }
        for entry in matching {
            self.rearm(&entry, job, JobAction::Queued);
        }
    }

    fn in_progress(&mut self, job: &ListedJob) {
        let entries = self.entries.get(&job.key).to_vec();
        let mut differs = Vec::new();
        for entry in entries.iter().filter(|entry| !entry.is_tombstone) {
            if job.runner.is_some() && entry.runner != job.runner.as_deref() {
                differs.extend(self.id(entry).map(|id| (id, Why::Named)));
            } else {
                self.rearm(entry, job, JobAction::InProgress);
            }
        }
        let facts = self.routing_facts(job, WorkflowAction::InProgress);
        if let Routing::To(chosen) = route_in(&facts, self.facts.index, Visibility::Unchecked) {
            let owners = chosen
                .into_iter()
                .filter(|chosen| chosen.reason == Reason::RunnerName);
            for owner in owners.map(|chosen| chosen.autoscaler.id.clone()) {
                let holds = entries
                    .iter()
                    .any(|entry| self.id(entry).as_ref() == Some(&owner));
                if !holds && !self.is_metrics(&owner, job) {
                    differs.push((owner, Why::Missing));
                }
            }
        }
        if !differs.is_empty() && self.differs(&job.key, None) {
            for (id, why) in differs {
                self.change(&id, job, JobAction::InProgress, why);
            }
        }
    }

    /// Whether a job and the ledgers have differed for longer than a webhook may take; else it is looked at again.
    fn differs(&mut self, key: &JobKey, created_at: Option<Timestamp>) -> bool {
        let (now, grace) = (self.facts.now, self.facts.patience.grace);
        let since = self.before.get(key).copied().unwrap_or(now);
        self.since.insert(key.clone(), since);
        let due = since.checked_add(grace).unwrap_or(Timestamp::MAX);
        let is_sure = created_at.is_some_and(|at| now.duration_since(at) >= grace * SURE);
        if due <= now || is_sure {
            return true;
        }
        self.plan.due = Some(self.plan.due.map_or(due, |known| known.min(due)));
        false
    }

    /// The autoscaler that a queued job is matched with by scope and labels.
    fn winner(&mut self, job: &ListedJob) -> Option<Arc<AutoscalerView>> {
        let facts = self.routing_facts(job, WorkflowAction::Queued);
        match route_in(&facts, self.facts.index, self.facts.visibility) {
            Routing::To(chosen) => chosen.into_iter().next().map(|chosen| chosen.autoscaler),
            Routing::NeedsGroups => {
                self.plan.needs_groups = true;
                None
            }
            Routing::Unmatched(_) | Routing::Ignored(_) => None,
        }
    }

    /// Whether the autoscaler that holds an entry would be matched if it was the only one. One whose match is not known keeps it.
    fn matches(&self, entry: &Entry<'_>, job: &ListedJob) -> bool {
        let Some(ledger) = self.facts.ledgers.get(entry.ledger) else {
            return false;
        };
        let mut alone = Index::default();
        alone.upsert(AutoscalerView::clone(&ledger.view));
        let facts = self.routing_facts(job, WorkflowAction::Queued);
        matches!(
            route_in(&facts, &alone, self.facts.visibility),
            Routing::To(_) | Routing::NeedsGroups
        )
    }

    fn routing_facts<'j>(&'j self, job: &'j ListedJob, action: WorkflowAction) -> JobFacts<'j> {
        let repository = self.facts.repository;
        JobFacts {
            key: job.key.clone(),
            action,
            owner: &repository.owner,
            owner_is_user: repository.owner_is_user,
            repository: &repository.name,
            enterprise: self.enterprise,
            labels: job.labels.iter().map(String::as_str).collect(),
            runner: job.runner.as_deref(),
            has_runner_id: job.runner.is_some(),
            conclusion: None,
        }
    }

    fn id(&self, entry: &Entry<'_>) -> Option<AutoscalerId> {
        self.facts
            .ledgers
            .get(entry.ledger)
            .map(|ledger| ledger.view.id.clone())
    }

    /// Whether only the autoscaler's metric counts the job any more: a webhook's entry for it would have ended by now.
    fn is_metrics(&self, autoscaler: &AutoscalerId, job: &ListedJob) -> bool {
        let mut ledgers = self.facts.ledgers.iter().filter(|ledger| ledger.is_added);
        ledgers.any(|ledger| {
            let ended = job
                .created_at
                .is_none_or(|at| self.facts.now.duration_since(at) >= ledger.view.duration);
            ledger.view.id == *autoscaler && ended
        })
    }

    /// Lets an entry live longer once half of its life is over.
    fn rearm(&mut self, entry: &Entry<'_>, job: &ListedJob, action: JobAction) {
        let Some(view) = self
            .facts
            .ledgers
            .get(entry.ledger)
            .filter(|ledger| !ledger.is_added)
            .map(|ledger| Arc::clone(&ledger.view))
        else {
            return;
        };
        let half = self
            .facts
            .now
            .checked_add(view.duration / 2)
            .unwrap_or(Timestamp::MAX);
        if entry.expires.is_none_or(|at| at <= half) {
            self.change(&view.id, job, action, Why::Alive);
        }
    }

    fn bury(&mut self, key: &JobKey, why: Why, action: JobAction, runner: Option<&str>) {
        for entry in self.entries.get(key).to_vec() {
            if let Some(autoscaler) = self.id(&entry).filter(|_| !entry.is_tombstone) {
                let event = JobEvent {
                    key: key.clone(),
                    action,
                    runner: runner.map(str::to_owned),
                    created_at: None,
                };
                self.plan.changes.push(Change {
                    autoscaler,
                    event,
                    why,
                });
            }
        }
    }

    fn change(&mut self, autoscaler: &AutoscalerId, job: &ListedJob, action: JobAction, why: Why) {
        self.plan.changes.push(Change {
            autoscaler: autoscaler.clone(),
            event: JobEvent {
                key: job.key.clone(),
                action,
                runner: job.runner.clone(),
                created_at: job.created_at,
            },
            why,
        });
    }
}

/// The ledger after changes that were decided from an older one: an end needs an entry that still counts. The second value says which of
/// the changes had an effect.
pub fn fold(
    ledger: &[CapacityReservation],
    changes: &[&Change],
    duration: SignedDuration,
    now: Timestamp,
) -> (Vec<CapacityReservation>, Vec<bool>) {
    let mut ledger = ledger.to_vec();
    let mut effects = Vec::with_capacity(changes.len());
    for change in changes {
        let is_end = matches!(
            change.event.action,
            JobAction::Completed | JobAction::InProgressElsewhere
        );
        let counts = || {
            ledger.iter().any(|entry| {
                !reservation::is_tombstone(entry)
                    && matches!(reservation::classify(entry), Kind::Job { key, .. } if key == change.event.key)
            })
        };
        if is_end && !counts() {
            effects.push(false);
            continue;
        }
        let after = reservation::apply(&ledger, &change.event, duration, now);
        effects.push(after != ledger);
        ledger = after;
    }
    (ledger, effects)
}
