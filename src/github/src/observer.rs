//! What an outside party may learn about calls: requests that went over the network, by family, and what the cache saved.
//!
//! Metrics live outside this crate. Rate-limit gauges belong only to [`LiveRequest::rate_limit`]: an answer from the cache
//! repeats the numbers of the request that filled it (part 92 §6 K, spec 02 Q38).

use std::{fmt, time::Duration};

use jiff::Timestamp;

/// A kind of call to GitHub; a closed set, fit for a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CallFamily {
    /// Exchange of a GitHub App's JWT for an installation token.
    InstallationToken,
    /// Creation of a registration token.
    RegistrationToken,
    /// One page of a scope's runners.
    ListRunners,
    /// Removal of one runner.
    RemoveRunner,
    /// One page of the runner groups that a repository may use.
    RunnerGroups,
    /// One page of a repository's workflow runs.
    ListRuns,
    /// One page of a run's jobs.
    ListJobs,
    /// One job, and where it is unknown a look at its repository.
    GetJob,
    /// One page of a hook's deliveries.
    ListDeliveries,
    /// One delivery with its payload.
    GetDelivery,
    /// One page of the hooks of a repository or an organization.
    ListHooks,
    /// One repository, for its name or its id.
    GetRepository,
    /// Where the log of a job is.
    JobLog,
    /// The log of a job itself, from wherever GitHub keeps it.
    DownloadLog,
}

impl CallFamily {
    /// All families, for metrics that want their series from the start.
    pub const ALL: [Self; 14] = [
        Self::InstallationToken,
        Self::RegistrationToken,
        Self::ListRunners,
        Self::RemoveRunner,
        Self::RunnerGroups,
        Self::ListRuns,
        Self::ListJobs,
        Self::GetJob,
        Self::ListDeliveries,
        Self::GetDelivery,
        Self::ListHooks,
        Self::GetRepository,
        Self::JobLog,
        Self::DownloadLog,
    ];

    /// The family's name as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InstallationToken => "installation_token",
            Self::RegistrationToken => "registration_token",
            Self::ListRunners => "list_runners",
            Self::RemoveRunner => "remove_runner",
            Self::RunnerGroups => "runner_groups",
            Self::ListRuns => "list_runs",
            Self::ListJobs => "list_jobs",
            Self::GetJob => "get_job",
            Self::ListDeliveries => "list_deliveries",
            Self::GetDelivery => "get_delivery",
            Self::ListHooks => "list_hooks",
            Self::GetRepository => "get_repository",
            Self::JobLog => "job_log",
            Self::DownloadLog => "download_log",
        }
    }
}

impl fmt::Display for CallFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// As whom a request is made. GitHub counts the two apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// The token, the user, or the installation of the GitHub App.
    Credential,
    /// The GitHub App itself, by its JWT: exchange for an installation token, and deliveries of the App's hook.
    App,
}

/// How a request that went over the network ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RequestOutcome {
    /// 2xx (or a redirect that was not followed).
    Ok,
    /// 304: what the cache holds is still current; free of charge against the primary rate limit.
    Revalidated,
    /// 4xx other than a rate limit.
    ClientError,
    /// A primary or secondary rate limit: 429, or the 403s of spec 02 §3.3.
    Throttled,
    /// 5xx.
    ServerError,
    /// No (complete) answer: refused, reset, timed out or too large.
    Network,
}

impl RequestOutcome {
    /// The outcome's name as a metric label (part 91 B6).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Revalidated => "revalidated",
            Self::ClientError => "client_error",
            Self::Throttled => "throttled",
            Self::ServerError => "server_error",
            Self::Network => "network",
        }
    }
}

impl fmt::Display for RequestOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// GitHub's account of a credential's budget, as one live answer stated it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests allowed per window (`x-ratelimit-limit`).
    pub limit: u64,
    /// Requests left in this window (`x-ratelimit-remaining`).
    pub remaining: u64,
    /// When the window ends (`x-ratelimit-reset`).
    pub reset_at: Option<Timestamp>,
    /// The budget's name (`x-ratelimit-resource`): `core`, `actions_runner_registration`, …
    pub resource: Option<String>,
}

/// One request that went over the network.
#[derive(Clone, Debug)]
pub struct LiveRequest {
    /// What it was for.
    pub family: CallFamily,
    /// As whom it was made: whose budget [`Self::rate_limit`] is.
    pub identity: Identity,
    /// How it ended.
    pub outcome: RequestOutcome,
    /// Status code, when there was an answer.
    pub status: Option<u16>,
    /// From the first byte sent (or the attempt to connect) to the last byte read.
    pub elapsed: Duration,
    /// The budget that the answer stated, if it did.
    pub rate_limit: Option<RateLimit>,
}

/// Receives what happens below and beside the cache. Called from within requests: it must not block.
pub trait Observer: fmt::Debug + Send + Sync {
    /// A request went over the network and has ended.
    fn request(&self, request: &LiveRequest);

    /// A call was answered from the cache without any request. (One that asked GitHub and got a 304 is
    /// [`RequestOutcome::Revalidated`] instead.)
    fn cache_hit(&self, _family: CallFamily) {}

    /// A call failed without any request, because GitHub's limit is known to be used up.
    fn held_back(&self, _family: CallFamily) {}
}

/// An observer that looks away.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn request(&self, _request: &LiveRequest) {}
}
