//! What was asked of the fake, by family of calls: tests assert how many calls a controller makes.

use std::collections::BTreeMap;

use serde::Serialize;

/// Families of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "the names say it; as_str gives the words used in counters"
)]
pub enum Family {
    RegistrationToken,
    RemoveToken,
    ListRunners,
    GetRunner,
    RemoveRunner,
    InstallationToken,
    GetRepository,
    ListRuns,
    GetRun,
    ListJobs,
    GetJob,
    JobLog,
    /// A log itself, from where GitHub keeps it: no call of the API.
    LogFile,
    RunnerGroups,
    Hooks,
    Deliveries,
    Redeliver,
    RateLimit,
    Other,
    AgentRegister,
    AgentPoll,
    AgentComplete,
    AgentAbandon,
    AgentRemove,
}

impl Family {
    /// The key in [`FakeGitHub::counters`](super::FakeGitHub::counters).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RegistrationToken => "registration_token",
            Self::RemoveToken => "remove_token",
            Self::ListRunners => "list_runners",
            Self::GetRunner => "get_runner",
            Self::RemoveRunner => "remove_runner",
            Self::InstallationToken => "installation_token",
            Self::GetRepository => "get_repository",
            Self::ListRuns => "list_runs",
            Self::GetRun => "get_run",
            Self::ListJobs => "list_jobs",
            Self::GetJob => "get_job",
            Self::JobLog => "job_log",
            Self::LogFile => "log_file",
            Self::RunnerGroups => "runner_groups",
            Self::Hooks => "hooks",
            Self::Deliveries => "deliveries",
            Self::Redeliver => "redeliver",
            Self::RateLimit => "rate_limit",
            Self::Other => "other",
            Self::AgentRegister => "agent_register",
            Self::AgentPoll => "agent_poll",
            Self::AgentComplete => "agent_complete",
            Self::AgentAbandon => "agent_abandon",
            Self::AgentRemove => "agent_remove",
        }
    }

    /// Is it a call of the REST API, with a credential?
    pub fn is_api(self) -> bool {
        !self.is_agent() && self != Self::LogFile
    }

    /// Is it a call of a runner, not of the REST API?
    pub fn is_agent(self) -> bool {
        matches!(
            self,
            Self::AgentRegister
                | Self::AgentPoll
                | Self::AgentComplete
                | Self::AgentAbandon
                | Self::AgentRemove
        )
    }
}

/// Calls of one family, by their outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CallCount {
    /// All requests that arrived.
    pub total: u64,
    /// Answered 2xx with content of their own.
    pub full: u64,
    /// Answered 304: they cost no rate limit.
    pub not_modified: u64,
    /// Answered 4xx, faults included.
    pub client_error: u64,
    /// Of those, answered 422: the removal of a busy runner.
    pub refused: u64,
    /// Answered 5xx, faults included.
    pub server_error: u64,
    /// Cut off without an answer.
    pub reset: u64,
}

/// Counts by family and by minute since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    totals: BTreeMap<Family, CallCount>,
    minutes: BTreeMap<Family, Vec<u64>>,
}

impl Counters {
    /// Notes one call. `status` is `None` when the connection was cut.
    pub(crate) fn note(&mut self, family: Family, status: Option<u16>, minute: usize) {
        let count = self.totals.entry(family).or_default();
        count.total += 1;
        match status {
            None => count.reset += 1,
            Some(304) => count.not_modified += 1,
            Some(status @ 400..=499) => {
                count.client_error += 1;
                count.refused += u64::from(status == 422);
            }
            Some(500..) => count.server_error += 1,
            Some(_) => count.full += 1,
        }
        let minutes = self.minutes.entry(family).or_default();
        if minutes.len() <= minute {
            minutes.resize(minute + 1, 0);
        }
        if let Some(slot) = minutes.get_mut(minute) {
            *slot += 1;
        }
    }

    pub(crate) fn totals(&self) -> BTreeMap<String, u64> {
        self.totals
            .iter()
            .map(|(family, count)| (family.as_str().to_owned(), count.total))
            .collect()
    }

    pub(crate) fn of(&self, family: Family) -> CallCount {
        self.totals.get(&family).copied().unwrap_or_default()
    }

    pub(crate) fn per_minute(&self, family: Family) -> Vec<u64> {
        self.minutes.get(&family).cloned().unwrap_or_default()
    }

    pub(crate) fn clear(&mut self) {
        self.totals.clear();
        self.minutes.clear();
    }
}
