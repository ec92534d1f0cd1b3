//! One look at one repository: list, compare, ask, mend.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use muster_core::{
    autoscale::{
        recovery::{
            hot::RepositoryRef,
            queue::{Ask, Facts, JobState, ListedJob, ListedRun, Memory, Plan, Repository},
        },
        reservation::JobKey,
    },
    routing::{ListedGroup, Visibility, VisibleGroups},
};
use muster_github::{Error as GitHubError, ErrorClass, GitHub, RepositoryName, RunStatus, Urls, WorkflowJob};
use muster_runtime::telemetry::chain;
use tokio::{sync::Semaphore, time::Instant};

use super::{
    pools::{Credential, Pools},
    write::write,
};
use crate::context::Context;

/// A repository's name is asked for anew after this long.
const NAME_LIFETIME: Duration = Duration::from_hours(1);
/// Runs whose jobs are read in one look, and jobs that are asked for; the others wait for the next.
const MOST_READS: usize = 500;
const MOST_ASKS: usize = 200;
/// Calls about one repository at the same time.
const AT_ONCE: usize = 4;
/// Turns of asking in one look: the answers to one turn can raise no question that the next does not settle.
const TURNS: usize = 3;
/// Graces that one look waits for; what differs still is the next one's.
const MOST_WAITS: usize = 3;

/// How the last look ended.
#[derive(Clone, Debug, Default)]
pub(super) enum Outcome {
    /// There was none.
    #[default]
    NotYet,
    /// All was read.
    Ok,
    /// GitHub does not show the repository's runs.
    Refused {
        /// `PascalCase`, for the condition.
        reason: &'static str,
    },
    /// GitHub wants fewer calls.
    Throttled {
        /// For how long.
        wait: Duration,
    },
    /// Something could not be read, or there is no login.
    Failed,
}

impl Outcome {
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::NotYet => "interrupted",
            Self::Ok => "ok",
            Self::Refused { .. } => "refused",
            Self::Throttled { .. } => "throttled",
            Self::Failed => "failed",
        }
    }

    fn of(error: &GitHubError, now: Timestamp) -> Self {
        match error.class() {
            ErrorClass::Forbidden => Self::Refused {
                reason: "GitHubForbidden",
            },
            ErrorClass::NotFound => Self::Refused {
                reason: "GitHubNotFound",
            },
            ErrorClass::Unauthorized => Self::Refused {
                reason: "GitHubUnauthorized",
            },
            ErrorClass::Throttled { until } => Self::Throttled {
                wait: until
                    .and_then(|until| Duration::try_from(until.duration_since(now)).ok())
                    .unwrap_or(Duration::from_mins(1)),
            },
            ErrorClass::Unavailable | ErrorClass::Rejected | ErrorClass::Bug => Self::Failed,
        }
    }
}

/// What is known of one repository between looks.
#[derive(Debug, Default)]
pub(super) struct Room {
    pub(super) outcome: Outcome,
    memory: Memory,
    repository: Option<(Repository, Instant)>,
}

impl Room {
    /// The repository by id, once it is known.
    pub(super) fn id(&self) -> Option<RepositoryRef> {
        let (repository, _) = self.repository.as_ref()?;
        Some(RepositoryRef::Id {
            host: repository.host.clone(),
            id: repository.id,
        })
    }

    /// What people call it.
    pub(super) fn title(&self, place: &RepositoryRef) -> String {
        match (&self.repository, place) {
            (Some((repository, _)), _) => format!("{}/{}", repository.owner, repository.name),
            (None, RepositoryRef::Name(name)) => name.clone(),
            (None, RepositoryRef::Id { id, .. }) => format!("the repository with the id {id}"),
        }
    }
}

/// Looks at a repository with the first login that may; `slots` bounds the looks that make calls.
pub(super) async fn look(
    context: Arc<Context>,
    place: RepositoryRef,
    credentials: BTreeSet<Credential>,
    mut room: Room,
    slots: Arc<Semaphore>,
) -> Room {
    room.outcome = Outcome::Failed;
    for credential in credentials {
        let now = context.clock.now();
        let (namespace, secret) = match &credential.0 {
            Some((namespace, secret)) => (namespace.as_str(), Some(secret.as_str())),
            None => ("", None),
        };
        let github = match context.clients.for_secret(namespace, secret, now).await {
            Ok(github) => github,
            Err(error) => {
                tracing::debug!(error = %chain(&error), "A login for queue reconciliation cannot be used.");
                continue;
            }
        };
        if matches!(&place, RepositoryRef::Id { host, .. } if *host != server(github.urls())) {
            continue;
        }
        room.outcome = match look_as(&context, &github, &place, &mut room, &slots).await {
            Ok(()) => Outcome::Ok,
            Err(error) => {
                let outcome = Outcome::of(&error, context.clock.now());
                tracing::debug!(repository = room.title(&place), error = %chain(&error), "GitHub's queue could not be read.");
                outcome
            }
        };
        if !matches!(room.outcome, Outcome::Refused { .. }) {
            break;
        }
    }
    room
}

async fn look_as(
    context: &Context,
    github: &GitHub,
    place: &RepositoryRef,
    room: &mut Room,
    slots: &Semaphore,
) -> Result<(), GitHubError> {
    let permit = slots.acquire().await;
    let patience = context.settings.reconciliation.patience();
    let repository = resolve(github, place, room).await?;
    let name = RepositoryName {
        owner: repository.owner.clone(),
        name: repository.name.clone(),
    };
    let queued = github.list_runs_fresh(&name, RunStatus::Queued).await?;
    let running = github.list_runs_fresh(&name, RunStatus::InProgress).await?;
    let listed: Vec<ListedRun> = queued
        .iter()
        .chain(running.iter())
        .map(|run| ListedRun {
            id: run.id,
            status: run.status.clone(),
            attempt: run.run_attempt,
            updated_at: run.updated_at,
        })
        .collect();
    let now = context.clock.now();
    let unknown = {
        let pools = Pools::gather(context);
        room.memory.begin(&listed, &pools.ledgers(), patience, now)
    };
    let asks = unknown.into_iter().take(MOST_READS).map(Ask::Run).collect();
    let mut trouble = read(context, github, (&repository, &name), &mut room.memory, asks).await;
    drop(permit);

    let mut groups = None;
    let (mut turns, mut waits) = (0, 0);
    loop {
        let pools = Pools::gather(context);
        let mut plan = judge(context, &repository, &pools, room, groups.as_ref());
        if plan.needs_groups {
            groups = visible_groups(github, &repository).await?;
            if groups.is_some() {
                plan = judge(context, &repository, &pools, room, groups.as_ref());
            }
        }
        mend(context, &pools, &plan).await;
        if !plan.ask.is_empty() && turns < TURNS && trouble.is_none() {
            turns += 1;
            let _permit = slots.acquire().await;
            let asks = plan.ask.into_iter().take(MOST_ASKS).collect();
            trouble = read(context, github, (&repository, &name), &mut room.memory, asks).await;
            continue;
        }
        let Some(due) = plan.due.filter(|_| waits < MOST_WAITS) else {
            break;
        };
        waits += 1;
        // Webhooks that are under way arrive meanwhile.
        let wait = due.duration_since(context.clock.now());
        tokio::time::sleep(Duration::try_from(wait).unwrap_or_default() + Duration::from_millis(1)).await;
    }
    trouble.map_or(Ok(()), Err)
}

fn judge(
    context: &Context,
    repository: &Repository,
    pools: &Pools,
    room: &mut Room,
    groups: Option<&Groups>,
) -> Plan {
    let (ledgers, index) = (pools.ledgers(), pools.index());
    room.memory.judge(&Facts {
        repository,
        ledgers: &ledgers,
        index: &index,
        visibility: match groups {
            None => Visibility::Unknown,
            Some(Groups::Unchecked) => Visibility::Unchecked,
            Some(Groups::Visible(groups)) => Visibility::Known(groups),
        },
        patience: context.settings.reconciliation.patience(),
        now: context.clock.now(),
    })
}

async fn mend(context: &Context, pools: &Pools, plan: &Plan) {
    if plan.changes.is_empty() {
        return;
    }
    for why in write(context, pools, &plan.changes).await {
        context.metrics.queue.changed(why.as_str());
        if let Some(kind) = why.drift() {
            context.metrics.queue.drifted(kind);
        }
    }
}

/// Reads what is asked for into the memory, several at a time; the first failure is returned, and after a refusal nothing more is asked.
async fn read(
    context: &Context,
    github: &GitHub,
    (repository, name): (&Repository, &RepositoryName),
    memory: &mut Memory,
    asks: Vec<Ask>,
) -> Option<GitHubError> {
    enum Answer {
        Jobs(Arc<Vec<WorkflowJob>>),
        Job(Option<WorkflowJob>),
    }
    let mut answers = stream::iter(asks)
        .map(async |ask| {
            let answer = match &ask {
                Ask::Run(run) => github.list_jobs_fresh(name, *run).await.map(Answer::Jobs),
                Ask::Job(key) => github.get_job(name, key.job_id()).await.map(Answer::Job),
            };
            (ask, answer)
        })
        .buffer_unordered(AT_ONCE);
    let mut trouble = None;
    while let Some((ask, answer)) = answers.next().await {
        let now = context.clock.now();
        match (ask, answer) {
            (Ask::Run(run), Ok(Answer::Jobs(jobs))) => {
                let jobs = jobs.iter().map(|job| listed(repository, job)).collect();
                memory.read(run, jobs, now);
            }
            (Ask::Job(_), Ok(Answer::Job(Some(job)))) => memory.found(listed(repository, &job)),
            (Ask::Job(key), Ok(Answer::Job(None))) => memory.absent(&key),
            (Ask::Run(run), Err(error)) if matches!(error.class(), ErrorClass::NotFound) => {
                memory.run_absent(run);
            }
            (_, Err(error)) => {
                let is_final = !matches!(error.class(), ErrorClass::Unavailable);
                trouble.get_or_insert(error);
                if is_final {
                    break;
                }
            }
            (Ask::Run(_), Ok(Answer::Job(_))) | (Ask::Job(_), Ok(Answer::Jobs(_))) => {}
        }
    }
    trouble
}

fn listed(repository: &Repository, job: &WorkflowJob) -> ListedJob {
    ListedJob {
        key: JobKey::new(repository.host.as_deref(), repository.id, job.id),
        state: JobState::parse(&job.status),
        labels: job.labels.clone(),
        runner: job.runner_name.clone(),
        created_at: job.created_at,
    }
}

/// Name and owner of the repository as of the last hour.
async fn resolve(github: &GitHub, place: &RepositoryRef, room: &mut Room) -> Result<Repository, GitHubError> {
    if let Some((repository, at)) = &room.repository
        && at.elapsed() < NAME_LIFETIME
    {
        return Ok(repository.clone());
    }
    let found = match place {
        RepositoryRef::Id { id, .. } => github.repository_by_id(*id).await?,
        RepositoryRef::Name(name) => {
            let (owner, name) = name.split_once('/').unwrap_or((name, ""));
            let name = RepositoryName {
                owner: owner.to_owned(),
                name: name.to_owned(),
            };
            github.repository(&name).await?
        }
    };
    let repository = Repository {
        host: server(github.urls()),
        id: found.id,
        owner_is_user: found.owner.kind == "User",
        owner: found.owner.login,
        name: found.name,
    };
    room.repository = Some((repository.clone(), Instant::now()));
    Ok(repository)
}

/// Host of the server as keys of jobs have it: none for github.com.
fn server(urls: &Urls) -> Option<String> {
    if !urls.is_enterprise {
        return None;
    }
    let (_, rest) = urls.runner.split_once("://")?;
    let host = rest.split('/').next().unwrap_or(rest);
    JobKey::new(Some(host), 0, 0).host().map(str::to_owned)
}

enum Groups {
    /// Nobody says which groups the repository may use: all count as visible, as for the intake.
    Unchecked,
    Visible(VisibleGroups),
}

/// The runner groups that the repository may use; none when GitHub did not answer.
async fn visible_groups(github: &GitHub, repository: &Repository) -> Result<Option<Groups>, GitHubError> {
    if repository.owner_is_user {
        return Ok(Some(Groups::Unchecked));
    }
    match github
        .visible_runner_groups(&repository.owner, &repository.name)
        .await
    {
        Ok(groups) => Ok(Some(Groups::Visible(VisibleGroups::of(groups.iter().map(
            |group| ListedGroup {
                name: &group.name,
                is_default: group.default,
                is_inherited: group.inherited,
            },
        ))))),
        Err(error) => match error.class() {
            ErrorClass::Forbidden | ErrorClass::NotFound => Ok(Some(Groups::Unchecked)),
            ErrorClass::Unavailable => Ok(None),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use muster_github::UrlSettings;

    use super::*;

    #[test]
    fn keys_of_an_enterprise_server_have_its_host() {
        let urls = |enterprise: Option<&str>| {
            Urls::resolve(&UrlSettings {
                enterprise: enterprise.map(str::to_owned),
                ..UrlSettings::default()
            })
            .unwrap()
        };
        assert_eq!(server(&urls(None)), None);
        let ghes = urls(Some("https://GHES.example.com"));
        assert_eq!(server(&ghes).as_deref(), Some("ghes.example.com"));
    }
}
