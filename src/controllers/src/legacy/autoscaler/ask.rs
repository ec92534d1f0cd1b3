//! One question to GitHub for an autoscaler's pull metrics: parallel, paged, through the shared cache (spec 02 §5.2).
//!
//! A call that fails makes the number unknown; what the other calls said is its lower bound. Nothing is counted as zero for want of an answer.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use muster_core::{
    autoscale::metrics::{
        Busy, BusyCounts, JobCounts, Metric, Repository, Run, Source, Value, count_runners, has_demand,
    },
    pods::PodView,
    target::{TargetId, TargetKind},
};
use muster_crds::keys;
use muster_github::{
    Error as GitHubError, ErrorClass, GitHub, RepositoryName, RunStatus, WorkflowJob, WorkflowRun,
};

use super::pull::Question;
use crate::{context::Context, error::Error};

/// Calls for one autoscaler at the same time.
const AT_ONCE: usize = 8;
/// A listing that was confirmed with GitHub within this time, or most of a sync period, is taken from the cache: autoscalers that ask for the same
/// share the calls.
const SHARED: Duration = Duration::from_secs(50);

/// What GitHub answered.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) value: Value,
    /// The answer is not older.
    pub(super) as_of: Timestamp,
    pub(super) runners: Option<(BusyCounts, i64)>,
    pub(super) jobs: Option<JobCounts>,
}

/// Why there is no answer, and what is known all the same.
#[derive(Debug)]
pub(super) struct Unanswered {
    pub(super) error: Error,
    pub(super) at_least: i64,
}

impl From<Error> for Unanswered {
    fn from(error: Error) -> Self {
        Self { error, at_least: 0 }
    }
}

/// When listings were confirmed with GitHub, by login and path.
#[derive(Debug, Default)]
pub(super) struct Confirmed(Mutex<HashMap<String, Timestamp>>);

impl Confirmed {
    /// When the listing was confirmed, if that was a moment ago.
    fn recent(&self, listing: &str, now: Timestamp, period: Duration) -> Option<Timestamp> {
        let shared = is_shared(now, (period * 4 / 5).min(SHARED));
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(listing).copied().filter(shared)
    }

    fn note(&self, listing: String, at: Timestamp) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = is_shared(at, SHARED);
        all.retain(|_, known| shared(known));
        all.insert(listing, at);
    }
}

fn is_shared(now: Timestamp, within: Duration) -> impl Fn(&Timestamp) -> bool {
    let within = SignedDuration::try_from(within).unwrap_or(SignedDuration::MAX);
    move |at| now.duration_since(*at) < within
}

/// Asks GitHub. `before` are the target's replicas.
pub(super) async fn ask(
    context: &Context,
    question: &Question,
    before: Option<i64>,
) -> Result<Answer, Unanswered> {
    let now = context.clock.now();
    let github = context
        .clients
        .for_secret(&question.target.namespace, question.secret.as_deref(), now)
        .await?;
    match &question.metrics.first {
        Metric::Jobs(repositories) => count_jobs(context, &github, question, repositories, false).await,
        Metric::Busy(busy) => {
            let answer = share(context, &github, question, busy, before).await?;
            match (
                question.metrics.after_first(answer.value.replicas),
                &question.metrics.second,
            ) {
                (None, Some(repositories)) => {
                    let jobs = count_jobs(context, &github, question, repositories, true).await?;
                    Ok(Answer {
                        runners: answer.runners,
                        ..jobs
                    })
                }
                _ => Ok(answer),
            }
        }
    }
}

async fn share(
    context: &Context,
    github: &GitHub,
    question: &Question,
    busy: &Busy,
    before: Option<i64>,
) -> Result<Answer, Error> {
    let now = context.clock.now();
    let listed = github.list_runners(&question.scope).await.map_err(Error::github(
        format!("list the runners of {}", question.scope),
        now,
    ))?;
    let (own, kept) = runners(context, &question.target);
    let counts = count_runners(
        &own.iter().map(String::as_str).collect(),
        listed.iter().map(|runner| (runner.name.as_str(), runner.busy)),
        &kept.iter().map(String::as_str).collect(),
    );
    let replicas = busy.suggest(&counts, before);
    Ok(Answer {
        value: Value {
            replicas,
            source: Source::Busy,
            is_second: false,
        },
        as_of: now,
        runners: Some((counts, replicas)),
        jobs: None,
    })
}

/// Names, as GitHub knows them, of the target's runners, and of those whose removal GitHub refused.
fn runners(context: &Context, target: &TargetId) -> (BTreeSet<String>, BTreeSet<String>) {
    let (label, namespace) = (target.kind.label(), &target.namespace);
    let pods = context.caches.pods.in_namespace(namespace);
    let pods = pods
        .iter()
        .filter(|pod| pod.labels().get(label) == Some(&target.name));
    let mut own = BTreeSet::new();
    let mut kept = BTreeSet::new();
    for pod in pods {
        let name = PodView::of(pod).runner_name;
        let failure = pod.annotations().get(keys::ANNOTATION_UNREGISTRATION_FAILURE);
        if failure.is_some_and(|message| !message.is_empty()) {
            kept.insert(name.clone());
        }
        own.insert(name);
    }
    if target.kind == TargetKind::Deployment {
        let runners = context.caches.runners.in_namespace(namespace);
        let without_pod = runners.iter().map(|runner| runner.name_any()).filter(|name| {
            let runner = context.caches.runners.get(namespace, name);
            runner.is_some_and(|runner| runner.labels().get(label) == Some(&target.name))
                && context.caches.pods.get(namespace, name).is_none()
        });
        own.extend(without_pod);
    }
    (own, kept)
}

/// What could be read, and the first thing that could not.
struct Read<T> {
    found: Vec<T>,
    trouble: Option<Failed>,
}

/// What was asked, and why there is no answer.
type Failed = (String, GitHubError);
/// Runs of a repository, and since when that is so.
type Runs<'a> = (&'a RepositoryName, Arc<Vec<WorkflowRun>>, Timestamp);
/// Jobs of a run, and since when that is so.
type Jobs<'a> = ((&'a RepositoryName, u64), Arc<Vec<WorkflowJob>>, Timestamp);

/// Asks GitHub for runs and jobs.
struct Desk<'a> {
    context: &'a Context,
    github: &'a GitHub,
    /// Tells logins apart.
    login: String,
}

impl Desk<'_> {
    async fn runs<'n>(&self, name: &'n RepositoryName, status: RunStatus) -> Result<Runs<'n>, Failed> {
        let (listing, now) = (
            format!("{} {name} {status}", self.login),
            self.context.clock.now(),
        );
        let confirmed = &self.context.samples.confirmed;
        let recent = confirmed.recent(&listing, now, self.context.settings.sync_period);
        let runs = match recent {
            Some(_) => self.github.list_runs(name, status).await,
            None => self.github.list_runs_fresh(name, status).await,
        };
        let runs = runs.map_err(|error| (format!("list the {status} runs of {name}"), error))?;
        if recent.is_none() {
            confirmed.note(listing, now);
        }
        Ok((name, runs, recent.unwrap_or(now)))
    }

    async fn jobs<'n>(&self, name: &'n RepositoryName, run: u64) -> Result<Jobs<'n>, Failed> {
        let (listing, now) = (format!("{} {name} {run}", self.login), self.context.clock.now());
        let confirmed = &self.context.samples.confirmed;
        let recent = confirmed.recent(&listing, now, self.context.settings.sync_period);
        let jobs = match recent {
            Some(_) => self.github.list_jobs(name, run).await,
            None => self.github.list_jobs_fresh(name, run).await,
        };
        let jobs = match jobs {
            // The run was listed a moment ago: it was deleted meanwhile.
            Err(error) if error.class() == ErrorClass::NotFound => Arc::default(),
            jobs => jobs.map_err(|error| (format!("list the jobs of run {run} of {name}"), error))?,
        };
        if recent.is_none() {
            confirmed.note(listing, now);
        }
        Ok(((name, run), jobs, recent.unwrap_or(now)))
    }
}

async fn count_jobs(
    context: &Context,
    github: &GitHub,
    question: &Question,
    repositories: &[Repository],
    is_second: bool,
) -> Result<Answer, Unanswered> {
    let desk = Desk {
        context,
        github,
        login: question.secret.as_deref().map_or_else(
            || "process".to_owned(),
            |name| format!("{}/{name}", question.target.namespace),
        ),
    };
    let names: Vec<RepositoryName> = repositories
        .iter()
        .map(|repository| RepositoryName {
            owner: repository.owner.clone(),
            name: repository.name.clone(),
        })
        .collect();
    let mut calls = Vec::new();
    for name in &names {
        for status in RunStatus::ALL {
            calls.push(desk.runs(name, status));
        }
    }
    let runs = gather(calls).await;

    let mut jobs = Read {
        found: Vec::new(),
        trouble: None,
    };
    if !runs.trouble.as_ref().is_some_and(|(_, error)| is_final(error)) {
        let mut calls = Vec::new();
        for (name, run) in with_demand(&runs.found) {
            calls.push(desk.jobs(name, run));
        }
        jobs = gather(calls).await;
    }

    let counts = count(question, &names, &runs.found, &jobs.found);
    if let Some((what, error)) = runs.trouble.or(jobs.trouble) {
        return Err(Unanswered {
            error: Error::github(what, context.clock.now())(error),
            at_least: counts.demand(),
        });
    }
    let times = runs.found.iter().map(|(_, _, at)| *at);
    let as_of = times.chain(jobs.found.iter().map(|(_, _, at)| *at)).min();
    Ok(Answer {
        value: Value {
            replicas: counts.demand(),
            source: Source::Jobs,
            is_second,
        },
        as_of: as_of.unwrap_or_else(|| context.clock.now()),
        runners: None,
        jobs: Some(counts),
    })
}

/// The runs whose jobs matter, each once: one may stand in both lists.
fn with_demand<'a>(runs: &[Runs<'a>]) -> BTreeSet<(&'a RepositoryName, u64)> {
    let mut wanted = BTreeSet::new();
    for (name, runs, _) in runs {
        let runs = runs.iter().filter(|run| run.id != 0 && has_demand(&run.status));
        wanted.extend(runs.map(|run| (*name, run.id)));
    }
    wanted
}

fn count(question: &Question, names: &[RepositoryName], runs: &[Runs<'_>], jobs: &[Jobs<'_>]) -> JobCounts {
    let jobs: HashMap<_, _> = jobs.iter().map(|(run, jobs, _)| (*run, jobs)).collect();
    let mut counts = JobCounts::default();
    for name in names {
        let of_name = runs.iter().filter(|(of, _, _)| *of == name);
        let listed = of_name.flat_map(|(_, runs, _)| runs.iter()).map(|run| Run {
            id: run.id,
            status: &run.status,
            jobs: jobs
                .get(&(name, run.id))
                .into_iter()
                .flat_map(|jobs| jobs.iter())
                .map(|job| (job.status.as_str(), job.labels.as_slice()))
                .collect(),
        });
        counts.add(listed, &question.labels);
    }
    counts
}

/// A refusal that concerns every call of the login.
fn is_final(error: &GitHubError) -> bool {
    matches!(
        error.class(),
        ErrorClass::Unauthorized | ErrorClass::Throttled { .. }
    )
}

/// Makes calls, several at a time. After a refusal that concerns them all nothing more is asked.
async fn gather<T>(calls: Vec<impl Future<Output = Result<T, Failed>>>) -> Read<T> {
    let mut answers = stream::iter(calls).buffer_unordered(AT_ONCE);
    let mut read = Read {
        found: Vec::new(),
        trouble: None,
    };
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(found) => read.found.push(found),
            Err((what, error)) => {
                let stop = is_final(&error);
                read.trouble.get_or_insert((what, error));
                if stop {
                    break;
                }
            }
        }
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn what_another_autoscaler_has_just_confirmed_is_shared() {
        let confirmed = Confirmed::default();
        let (minute, short) = (Duration::from_mins(1), Duration::from_secs(5));
        confirmed.note("a".to_owned(), t(0));
        for (at, period, shared) in [
            (0, minute, true),
            (40, minute, true),
            (50, minute, false),
            (3, short, true),
            (4, short, false), // every look of one autoscaler asks anew
        ] {
            assert_eq!(
                confirmed.recent("a", t(at), period).is_some(),
                shared,
                "{at} {period:?}"
            );
        }
        assert_eq!(confirmed.recent("b", t(0), minute), None);
        confirmed.note("b".to_owned(), t(60));
        assert_eq!(confirmed.0.lock().unwrap().len(), 1, "old ones are forgotten");
    }
}
