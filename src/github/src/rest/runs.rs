//! Workflow runs and their jobs: what is in GitHub's queue (spec 02 §3.5, part 20 "Recovery").

use std::{fmt, sync::Arc};

use http::{Method, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    cache::Shelf,
    error::{Attempt, Error},
    lenient,
    observer::CallFamily,
    rest::{
        GitHub, RepositoryName,
        listing::{Item, Listing, Listings},
        path,
    },
    wire::Freshness,
};

/// The runs that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RunStatus {
    /// No job of theirs has begun.
    Queued,
    /// At least one job has begun; others may wait.
    InProgress,
}

impl RunStatus {
    /// Both, in the order in which upstream asks.
    pub const ALL: [Self; 2] = [Self::Queued, Self::InProgress];

    /// GitHub's name for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::InProgress => "in_progress",
        }
    }
}

impl fmt::Display for RunStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A run of a workflow.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct WorkflowRun {
    /// GitHub's id of the run; it stays the same when jobs are run again.
    pub id: u64,
    /// Which attempt this is, from 1; 0 where GitHub does not say.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub run_attempt: u64,
    /// `queued`, `in_progress`, `completed`, `waiting`, `pending`, `requested`, or something newer.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub status: String,
    /// When it was created.
    #[serde(default, deserialize_with = "lenient::instant")]
    pub created_at: Option<Timestamp>,
    /// When something about it changed last.
    #[serde(default, deserialize_with = "lenient::instant")]
    pub updated_at: Option<Timestamp>,
}

/// A job of a run, as the REST API describes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct WorkflowJob {
    /// GitHub's id of the job; a re-run has another one.
    pub id: u64,
    /// The run that it is part of.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub run_id: u64,
    /// `queued`, `in_progress`, `completed`, `waiting`, `pending`, or something newer.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub status: String,
    /// How it ended: `success`, `failure`, `cancelled`, `skipped`, …
    #[serde(default, deserialize_with = "lenient::or_none")]
    pub conclusion: Option<String>,
    /// What `runs-on` asks for.
    #[serde(default, deserialize_with = "lenient::or_default")]
    pub labels: Vec<String>,
    /// The runner that took it; `None` where none did (GitHub says null or 0).
    #[serde(default, deserialize_with = "lenient::id")]
    pub runner_id: Option<u64>,
    /// Name of the runner that took it.
    #[serde(default, deserialize_with = "lenient::name")]
    pub runner_name: Option<String>,
    /// When it was created; old servers do not say.
    #[serde(default, deserialize_with = "lenient::instant")]
    pub created_at: Option<Timestamp>,
    /// When it began; for a job that waits GitHub repeats `created_at` here.
    #[serde(default, deserialize_with = "lenient::instant")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, deserialize_with = "lenient::instant")]
    pub completed_at: Option<Timestamp>,
}

#[derive(Deserialize)]
struct RunsPage {
    workflow_runs: Vec<WorkflowRun>,
}

#[derive(Deserialize)]
struct JobsPage {
    jobs: Vec<WorkflowJob>,
}

impl Item for WorkflowRun {
    type Key = u64;

    fn key(&self) -> u64 {
        self.id
    }

    fn shelf(listings: &Listings) -> &Shelf<Listing<Self>> {
        &listings.runs
    }

    fn on_page(body: &[u8]) -> serde_json::Result<Vec<Self>> {
        serde_json::from_slice(body).map(|page: RunsPage| page.workflow_runs)
    }
}

impl Item for WorkflowJob {
    type Key = u64;

    fn key(&self) -> u64 {
        self.id
    }

    fn shelf(listings: &Listings) -> &Shelf<Listing<Self>> {
        &listings.jobs
    }

    fn on_page(body: &[u8]) -> serde_json::Result<Vec<Self>> {
        serde_json::from_slice(body).map(|page: JobsPage| page.jobs)
    }
}

impl GitHub {
    /// The repository's runs of this status, newest first, as old as GitHub's `Cache-Control` allows (a minute at most).
    ///
    /// GitHub lists 1,000 at most, so a run that is not there may exist all the same: absence proves nothing.
    ///
    /// # Errors
    /// [`Error`]; it is [`Error::NotFound`] when the repository is gone or hidden.
    pub async fn list_runs(
        &self,
        repository: &RepositoryName,
        status: RunStatus,
    ) -> Result<Arc<Vec<WorkflowRun>>, Error> {
        self.runs(repository, status, Freshness::Cached).await
    }

    /// As [`Self::list_runs`], as of now: every page is confirmed with GitHub even when the cached copy is fresh (an unchanged
    /// page answers 304 and costs nothing of the primary rate limit).
    ///
    /// # Errors
    /// As [`Self::list_runs`].
    pub async fn list_runs_fresh(
        &self,
        repository: &RepositoryName,
        status: RunStatus,
    ) -> Result<Arc<Vec<WorkflowRun>>, Error> {
        self.runs(repository, status, Freshness::Revalidated).await
    }

    /// The jobs of a run's latest attempt, as old as GitHub's `Cache-Control` allows (a minute at most).
    ///
    /// # Errors
    /// [`Error`]; it is [`Error::NotFound`] when the run or the repository is gone or hidden.
    pub async fn list_jobs(
        &self,
        repository: &RepositoryName,
        run_id: u64,
    ) -> Result<Arc<Vec<WorkflowJob>>, Error> {
        self.jobs(repository, run_id, Freshness::Cached).await
    }

    /// As [`Self::list_jobs`], as of now.
    ///
    /// # Errors
    /// As [`Self::list_jobs`].
    pub async fn list_jobs_fresh(
        &self,
        repository: &RepositoryName,
        run_id: u64,
    ) -> Result<Arc<Vec<WorkflowJob>>, Error> {
        self.jobs(repository, run_id, Freshness::Revalidated).await
    }

    /// The job as of now. `None` means that GitHub does not know it although it shows this credential the repository's runs: a
    /// 404 alone could also be a repository that is renamed, gone or hidden, and is an error then.
    ///
    /// # Errors
    /// [`Error`]; it is [`Error::NotFound`] when GitHub does not know the repository either.
    pub async fn get_job(
        &self,
        repository: &RepositoryName,
        job_id: u64,
    ) -> Result<Option<WorkflowJob>, Error> {
        let attempt = Attempt::new(
            CallFamily::GetJob,
            format!("look at job {job_id} of {repository}"),
        );
        let actions = path::of_repository(repository, &attempt)? + "/actions";
        let work = |one: Self| {
            let (actions, attempt) = (&actions, &attempt);
            async move {
                one.bounded(attempt, one.job_as_one(actions, job_id, attempt))
                    .await
            }
        };
        self.with_any(&actions, &attempt, |_| false, work).await
    }

    async fn job_as_one(
        &self,
        actions: &str,
        job_id: u64,
        attempt: &Attempt,
    ) -> Result<Option<WorkflowJob>, Error> {
        let path = format!("{actions}/jobs/{job_id}");
        let reply = self.ask(Method::GET, &path, attempt, Freshness::Uncached).await?;
        match reply.status {
            StatusCode::OK => serde_json::from_slice(&reply.body)
                .map(Some)
                .map_err(|source| Error::malformed(attempt, source)),
            StatusCode::NOT_FOUND => {
                // Runs, and not the repository itself: a credential may see that without seeing its workflows.
                let path = format!("{actions}/runs?per_page=1");
                let probe = self
                    .ask(Method::GET, &path, attempt, Freshness::Revalidated)
                    .await?;
                if probe.status == StatusCode::OK {
                    Ok(None)
                } else {
                    Err(self.refused(attempt, &probe))
                }
            }
            _ => Err(self.refused(attempt, &reply)),
        }
    }

    async fn runs(
        &self,
        repository: &RepositoryName,
        status: RunStatus,
        freshness: Freshness,
    ) -> Result<Arc<Vec<WorkflowRun>>, Error> {
        let attempt = Attempt::new(
            CallFamily::ListRuns,
            format!("list the {status} runs of {repository}"),
        );
        let repository = path::of_repository(repository, &attempt)?;
        let path = format!("{repository}/actions/runs?status={status}");
        self.list(&path, &attempt, freshness).await
    }

    async fn jobs(
        &self,
        repository: &RepositoryName,
        run_id: u64,
        freshness: Freshness,
    ) -> Result<Arc<Vec<WorkflowJob>>, Error> {
        let attempt = Attempt::new(
            CallFamily::ListJobs,
            format!("list the jobs of run {run_id} of {repository}"),
        );
        let repository = path::of_repository(repository, &attempt)?;
        let path = format!("{repository}/actions/runs/{run_id}/jobs");
        self.list(&path, &attempt, freshness).await
    }
}
