//! The state of the fake and its transitions: jobs, runs, runners. Everything here runs under one short lock and
//! costs the same however many runners and jobs there are; HTTP, clocks and sending are elsewhere.

mod jobs;
mod runners;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::matcher::Matcher;
use super::model::{JobSpec, JobState, JobStats, RunnerRef, ScopeKey, Violation};
use super::payload::JobPayload;
use super::places::{Places, Run};
use crate::agent::Assignment;

/// A webhook event that happened; the sender makes deliveries of it.
#[derive(Debug)]
pub(crate) struct JobEvent {
    pub(crate) action: &'static str,
    pub(crate) job: JobPayload,
}

/// The settings that transitions depend on.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) offline_after: Duration,
    pub(crate) interrupted_after: Duration,
    pub(crate) queue_timeout: SignedDuration,
    pub(crate) shuffle_jobs: bool,
}

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: u64,
    pub(crate) run_id: u64,
    pub(crate) repository: u64,
    attempt: u32,
    spec: JobSpec,
    name: String,
    class: usize,
    pub(crate) state: JobState,
    /// Promised to a runner that has not taken it yet.
    reserved: bool,
    cancel_requested: bool,
    conclusion: Option<String>,
    runner: Option<RunnerRef>,
    created_at: Timestamp,
    queued_at: Option<Timestamp>,
    started_at: Option<Timestamp>,
    completed_at: Option<Timestamp>,
    interrupted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    Idle,
    /// A job is on its way to the runner's open poll.
    Reserved(u64),
    Busy(u64),
}

#[derive(Debug)]
struct Parked {
    ticket: u64,
    wake: oneshot::Sender<Wake>,
}

/// What ends a runner's poll early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// This job is the runner's, if it is still there to take it.
    Job(u64),
    /// The runner is not registered any more.
    Gone,
    /// GitHub is unreachable now.
    Dark,
    /// The runner polls elsewhere.
    Replaced,
}

#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) scope: ScopeKey,
    pub(crate) group: u64,
    pub(crate) labels: Vec<String>,
    pub(crate) ephemeral: bool,
    agent_token: String,
    class: usize,
    activity: Activity,
    parked: Option<Parked>,
    last_seen: Option<Instant>,
    job_deadline: Option<Instant>,
}

impl Runner {
    pub(crate) fn is_busy(&self) -> bool {
        self.activity != Activity::Idle
    }

    pub(crate) fn is_online(&self, at: Instant, offline_after: Duration) -> bool {
        self.is_busy()
            || self.parked.is_some()
            || self
                .last_seen
                .is_some_and(|seen| at.duration_since(seen) <= offline_after)
    }
}

/// Answer to a poll.
#[derive(Debug)]
pub(crate) enum Poll {
    Job(Assignment),
    /// Nothing yet: wait on the receiver, then call [`World::leave`] with the ticket.
    Wait {
        ticket: u64,
        wake: oneshot::Receiver<Wake>,
    },
    Gone,
    Unauthorized,
}

/// Answer to a registration.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Registration {
    Done { id: u64, agent_token: String },
    BadToken,
    NameTaken,
    UnknownGroup,
}

/// Answer to a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    Done,
    NotFound,
    Busy { name: String },
}

#[derive(Debug)]
struct RegistrationToken {
    scope: ScopeKey,
    expires_at: Timestamp,
}

/// Everything that the fake knows.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rules: Rules,
    pub(crate) places: Places,
    matcher: Matcher,
    rng: StdRng,
    pub(crate) runs: HashMap<u64, Run>,
    jobs: BTreeMap<u64, Job>,
    pub(crate) stats: JobStats,
    queued_since: BTreeSet<(Timestamp, u64)>,
    runners: HashMap<u64, Runner>,
    names: HashMap<(ScopeKey, String), u64>,
    by_scope: HashMap<ScopeKey, BTreeSet<u64>>,
    tokens: HashMap<String, RegistrationToken>,
    pub(crate) violations: Vec<Violation>,
    pub(crate) revision: u64,
    next_run: u64,
    next_job: u64,
    next_runner: u64,
    next_ticket: u64,
    outbox: mpsc::UnboundedSender<JobEvent>,
    /// Events that the sender has not dealt with.
    pending: Arc<AtomicU64>,
}

impl World {
    pub(crate) fn new(
        seed: u64,
        rules: Rules,
        outbox: mpsc::UnboundedSender<JobEvent>,
        pending: Arc<AtomicU64>,
    ) -> Self {
        Self {
            rules,
            places: Places::default(),
            matcher: Matcher::default(),
            rng: StdRng::seed_from_u64(seed),
            runs: HashMap::new(),
            jobs: BTreeMap::new(),
            stats: JobStats::default(),
            queued_since: BTreeSet::new(),
            runners: HashMap::new(),
            names: HashMap::new(),
            by_scope: HashMap::new(),
            tokens: HashMap::new(),
            violations: Vec::new(),
            revision: 0,
            next_run: 19_000_000_000,
            next_job: 54_000_000_000,
            next_runner: 100,
            next_ticket: 0,
            outbox,
            pending,
        }
    }
}

fn assignment(job: &Job) -> Assignment {
    Assignment {
        job_id: job.id,
        run_id: job.run_id,
        duration_ms: u64::try_from(job.spec.duration.as_millis()).unwrap_or(u64::MAX),
    }
}
