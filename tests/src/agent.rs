//! The wire protocol between the simulated runner agent and the fake GitHub.
//!
//! The real agent speaks to the Actions Service with a protocol of its own that no test needs in full. This
//! one keeps its shape: registration with a registration token, a long poll for one job, a report of its end,
//! and a removal with the registration token (`config.sh remove`). Every path hangs below the base URL that
//! the runner pod carries as `GITHUB_URL`, which ends in a slash.
//!
//! | call | credential | answers |
//! |---|---|---|
//! | `POST   _agent/register` [`Register`] | the token in the body | 201 [`Registered`], 401 token unknown or expired, 409 name taken |
//! | `GET    _agent/runners/{id}/job?wait=SECONDS` | `Bearer` agent token | 200 [`Assignment`], 204 none within the wait, 404 or 410 not registered any more |
//! | `POST   _agent/runners/{id}/complete` [`Completion`] | `Bearer` agent token | 204 (an ephemeral runner is gone afterwards) |
//! | `POST   _agent/runners/{id}/abandon` | `Bearer` agent token | 204; the agent was killed: a job of its fails, and it is offline |
//! | `DELETE _agent/runners/{id}` | `Bearer` registration token | 204 removed, 404 gone already, 422 a job is assigned |
//!
//! Rules that both sides rely on:
//! - A poll is repeatable: until the job is completed or abandoned, every poll of its runner gets the same
//!   [`Assignment`]. The server assigns a job when it answers a poll, or before; a runner counts as idle (and
//!   online) from its registration on, whether or not a poll is open at that moment.
//! - `complete` and `abandon` for a job that the server has closed already are answered 204 (or 404 when the
//!   runner is gone): the agent repeats them when the connection broke.
//! - Labels arrive as the agent sends them: the ones of the pod plus `self-hosted`, `Linux` and `X64`, which the
//!   real agent adds by itself. Comparing them without regard to case is the server's work.

use serde::{Deserialize, Serialize};

/// What follows the base URL in every path of the protocol.
pub const PREFIX: &str = "_agent";

/// Labels that the agent adds to those of the pod.
pub const SYSTEM_LABELS: [&str; 3] = ["self-hosted", "Linux", "X64"];

/// Where a runner registers, in the words of the runner image: the text after `GITHUB_URL`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunnerScope {
    /// `owner/name`.
    Repository(String),
    /// The login of an organization.
    Organization(String),
    /// The slug of an enterprise.
    Enterprise(String),
}

impl RunnerScope {
    /// The path of the REST API that the scope's runners hang below: `repos/o/r`, `orgs/o` or `enterprises/e`.
    pub fn api_path(&self) -> String {
        match self {
            Self::Repository(full_name) => format!("repos/{full_name}"),
            Self::Organization(login) => format!("orgs/{login}"),
            Self::Enterprise(slug) => format!("enterprises/{slug}"),
        }
    }
}

/// Body of a registration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Register {
    /// Where the runner registers: `{"repository": "o/r"}`, `{"organization": "o"}` or `{"enterprise": "e"}`.
    pub scope: RunnerScope,
    /// The registration token (`RUNNER_TOKEN`).
    pub token: String,
    /// The runner's name (`RUNNER_NAME`), unique within the scope.
    pub name: String,
    /// Labels, the system ones included.
    pub labels: Vec<String>,
    /// Runner group; `None` is the default group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Takes one job and is gone afterwards.
    pub ephemeral: bool,
}

/// Answer to a registration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Registered {
    /// The runner's id, as the REST API lists it.
    pub id: u64,
    /// Credential for this runner's further calls.
    pub agent_token: String,
}

/// A job given to a runner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// Id of the workflow job.
    pub job_id: u64,
    /// Id of its workflow run.
    pub run_id: u64,
    /// How long the job takes, in milliseconds.
    pub duration_ms: u64,
}

/// How a job ended, in GitHub's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Conclusion {
    /// Ran to its end.
    Success,
    /// A step failed, or the runner was lost.
    Failure,
    /// Cancelled, for example because the runner was told to stop.
    Cancelled,
}

impl Conclusion {
    /// The word in webhooks and in the REST API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Body of a completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// The job that ended.
    pub job_id: u64,
    /// How it ended.
    pub conclusion: Conclusion,
}
