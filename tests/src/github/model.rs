//! Vocabulary of the fake: what tests ask for (jobs), what they see (views), and the keys that things are found
//! by. GitHub compares logins, repository names and labels without regard to case; keys are lower case.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::agent::RunnerScope;

/// Kind of account that owns a repository (`repository.owner.type` in webhooks).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OwnerType {
    /// An organization: its runners serve the repository as well.
    #[default]
    Organization,
    /// A person: only runners of the repository itself can serve it.
    User,
}

impl OwnerType {
    /// The word in webhooks and in the REST API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Organization => "Organization",
            Self::User => "User",
        }
    }
}

/// A workflow job to queue.
#[derive(Clone, Debug)]
pub struct JobSpec {
    /// Login of the repository's owner.
    pub owner: String,
    /// Name of the repository without its owner.
    pub repo: String,
    /// What the owner is; the first job of a repository settles it.
    pub owner_type: OwnerType,
    /// Slug of the enterprise that the owner belongs to, if any; the first job of a repository settles it.
    pub enterprise: Option<String>,
    /// `runs-on`.
    pub labels: Vec<String>,
    /// How long a runner works on it.
    pub duration: Duration,
    /// Name of the workflow.
    pub workflow: String,
    /// Name of the job; `None` makes one from its id.
    pub name: Option<String>,
    /// Adds the job to this run; `None` starts a run of its own.
    pub run_id: Option<u64>,
    /// Starts in `waiting` (a deployment that needs approval) until [`FakeGitHub::release_job`] queues it.
    ///
    /// [`FakeGitHub::release_job`]: super::FakeGitHub::release_job
    pub waiting: bool,
    /// Ends like this although its runner reports success, for example `failure`.
    pub conclusion: Option<String>,
    /// What its last step returns where it fails.
    pub exit_code: u32,
}

impl JobSpec {
    /// A job of one second in `owner/name` of an organization, with these `runs-on` labels.
    pub fn new<L: Into<String>>(repository: &str, labels: impl IntoIterator<Item = L>) -> Self {
        let (owner, repo) = repository.split_once('/').unwrap_or((repository, "repo"));
        Self {
            owner: owner.to_owned(),
            repo: repo.to_owned(),
            owner_type: OwnerType::Organization,
            enterprise: None,
            labels: labels.into_iter().map(Into::into).collect(),
            duration: Duration::from_secs(1),
            workflow: "ci".to_owned(),
            name: None,
            run_id: None,
            waiting: false,
            conclusion: None,
            exit_code: 1,
        }
    }

    /// Changes how long a runner works on it.
    #[must_use]
    pub fn duration(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// The repository belongs to a person, not to an organization.
    #[must_use]
    pub fn owned_by_user(mut self) -> Self {
        self.owner_type = OwnerType::User;
        self
    }

    /// The repository's owner belongs to this enterprise.
    #[must_use]
    pub fn enterprise(mut self, slug: &str) -> Self {
        self.enterprise = Some(slug.to_owned());
        self
    }

    /// Puts the job into an existing run.
    #[must_use]
    pub fn in_run(mut self, run_id: u64) -> Self {
        self.run_id = Some(run_id);
        self
    }

    /// Starts in `waiting`.
    #[must_use]
    pub fn waiting(mut self) -> Self {
        self.waiting = true;
        self
    }

    /// Fails because a command returns this.
    #[must_use]
    pub fn fails_with(mut self, exit_code: u32) -> Self {
        self.exit_code = exit_code;
        self.concludes("failure")
    }

    /// Ends with this conclusion although its runner reports success.
    #[must_use]
    pub fn concludes(mut self, conclusion: &str) -> Self {
        self.conclusion = Some(conclusion.to_owned());
        self
    }
}

/// Ids of a queued job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct JobHandle {
    /// `workflow_job.id`.
    pub id: u64,
    /// `workflow_job.run_id`.
    pub run_id: u64,
    /// `repository.id`.
    pub repository_id: u64,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Held back by a protection rule: not demand yet.
    Waiting,
    /// Wants a runner.
    Queued,
    /// A runner works on it.
    InProgress,
    /// Over; see the conclusion.
    Completed,
}

impl JobState {
    /// The word in webhooks and in the REST API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How many jobs are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JobStats {
    /// Held back.
    pub waiting: u64,
    /// Without a runner.
    pub queued: u64,
    /// With a runner.
    pub in_progress: u64,
    /// Over.
    pub completed: u64,
}

impl JobStats {
    /// Jobs that are not over yet.
    pub fn open(&self) -> u64 {
        self.waiting + self.queued + self.in_progress
    }

    pub(crate) fn slot(&mut self, state: JobState) -> &mut u64 {
        match state {
            JobState::Waiting => &mut self.waiting,
            JobState::Queued => &mut self.queued,
            JobState::InProgress => &mut self.in_progress,
            JobState::Completed => &mut self.completed,
        }
    }
}

/// The runner that a job got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunnerRef {
    /// `runner_id` in webhooks.
    pub id: u64,
    /// `runner_name` in webhooks.
    pub name: String,
    /// `runner_group_id` in webhooks.
    pub group_id: u64,
    /// `runner_group_name` in webhooks.
    pub group_name: String,
}

/// A job as it stands now. Times are GitHub's own clock, with microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct JobView {
    /// `workflow_job.id`.
    pub id: u64,
    /// `workflow_job.run_id`.
    pub run_id: u64,
    /// Attempt of the run that this job belongs to, from 1.
    pub run_attempt: u32,
    /// `repository.id`.
    pub repository_id: u64,
    /// `owner/name`.
    pub repository: String,
    /// Name of the job.
    pub name: String,
    /// `runs-on`.
    pub labels: Vec<String>,
    /// Where it stands.
    pub state: JobState,
    /// How it ended, once completed.
    pub conclusion: Option<String>,
    /// Who runs or ran it.
    pub runner: Option<RunnerRef>,
    /// When it came into being.
    pub created_at: Timestamp,
    /// When it began to wait for a runner.
    pub queued_at: Option<Timestamp>,
    /// When a runner took it.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub completed_at: Option<Timestamp>,
    /// Its runner vanished while it ran.
    pub interrupted: bool,
}

/// A registered runner as it stands now.
#[derive(Clone, Debug, Serialize)]
pub struct RunnerView {
    /// Id in the REST API.
    pub id: u64,
    /// Unique within the scope.
    pub name: String,
    /// `repos/o/r`, `orgs/o` or `enterprises/e`.
    pub scope: String,
    /// Its agent speaks to GitHub.
    pub online: bool,
    /// It has a job.
    pub busy: bool,
    /// Takes one job only.
    pub ephemeral: bool,
    /// Labels, the system ones included.
    pub labels: Vec<String>,
    /// Runner group id; 1 is the default group.
    pub group_id: u64,
    /// The job it works on.
    pub job_id: Option<u64>,
}

/// Something that must not happen with a correct controller.
#[derive(Clone, Debug, Serialize)]
pub struct Violation {
    /// What kind.
    pub kind: ViolationKind,
    /// A sentence for people.
    pub detail: String,
    /// When, by GitHub's clock.
    pub at: Timestamp,
}

/// Kinds of violations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ViolationKind {
    /// A runner vanished while it had a job: the job fails.
    Interrupted,
    /// An agent reported the end of a job that it did not have.
    WrongJobCompleted,
    /// A credential was used for an owner that it is not for.
    ForeignCredential,
}

/// Scope of a runner, folded to lower case for comparison.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ScopeKey {
    /// `owner/name`.
    Repository(String),
    /// Login.
    Organization(String),
    /// Slug.
    Enterprise(String),
}

impl ScopeKey {
    pub(crate) fn of(scope: &RunnerScope) -> Self {
        match scope {
            RunnerScope::Repository(name) => Self::Repository(name.to_lowercase()),
            RunnerScope::Organization(login) => Self::Organization(login.to_lowercase()),
            RunnerScope::Enterprise(slug) => Self::Enterprise(slug.to_lowercase()),
        }
    }

    pub(crate) fn api_path(&self) -> String {
        match self {
            Self::Repository(name) => format!("repos/{name}"),
            Self::Organization(login) => format!("orgs/{login}"),
            Self::Enterprise(slug) => format!("enterprises/{slug}"),
        }
    }
}

/// A number that is the same in every run for the same name, above 32 bits as young ids on github.com are
/// about to be. FNV-1a.
pub(crate) fn stable_id(kind: &str, name: &str) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in kind.bytes().chain([b'/']).chain(name.to_lowercase().into_bytes()) {
        hash ^= u64::from(byte);
        hash = hash.wrapping_mul(0x0100_0000_01b3);
    }
    5_000_000_000 + hash % 900_000_000_000
}

/// A length as JSON number.
pub(crate) fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// Folded labels, sorted, without repetition and without `self-hosted`.
pub(crate) fn fold_labels<S: AsRef<str>>(labels: &[S]) -> Vec<String> {
    let mut folded: Vec<String> = labels
        .iter()
        .map(|label| label.as_ref().to_lowercase())
        .filter(|label| label != "self-hosted")
        .collect();
    folded.sort_unstable();
    folded.dedup();
    folded
}
