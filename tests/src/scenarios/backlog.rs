//! More jobs than runners may be, some of them longer than their entries live: nobody is forgotten, and no runner is missing for long.

use std::time::Duration;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};

use crate::{
    github::{JobView, WebhookChaos},
    kubelet::PodTrace,
    world::World,
};

use super::recovery::{self, NEITHER};

const MINUTE: Duration = Duration::from_mins(1);

/// A backlog.
#[derive(Clone, Debug)]
pub struct Backlog {
    /// Jobs, all queued at once.
    pub jobs: usize,
    /// How many of them are long, spread over the others.
    pub long: usize,
    /// How long those take.
    pub long_for: Duration,
    /// How long the others take.
    pub short_for: Duration,
    /// `scaleUpTriggers[].duration`: an entry's life without a sign of life.
    pub duration: String,
    /// Runners at a time.
    pub max: usize,
    /// A pod's start takes this long at most.
    pub pod_start: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct BacklogFigures {
    /// Jobs that ran to their end.
    pub done: usize,
    /// From the first job's queueing to the last one's end.
    pub took: Duration,
    /// The longest that a job waited for its runner.
    pub waited: Duration,
    /// After a runner's end, the longest until as many were pending or running again as there was work for.
    pub refill: Duration,
    /// The longest that fewer were running than may be, while jobs waited.
    pub below: Duration,
    /// The longest from a pod's creation to its running.
    pub pod_start: Duration,
    /// The most runners that were pending or running at a time.
    pub highest: usize,
    /// Runners that were deleted at work, and jobs that lost their runner.
    pub harmed: usize,
}

/// Queues them and waits until all is over. No recovery runs: the intake and the autoscaler are alone.
pub async fn backlog(name: &str, backlog: &Backlog) -> Result<BacklogFigures> {
    let world = recovery::builder(name, NEITHER, MINUTE, WebhookChaos::default())
        .kubelet(|options| options.start_delay = backlog.pod_start / 2..=backlog.pod_start)
        .start()
        .await?;
    world.deployment("pool", |_| {}).await?;
    world
        .autoscaler("pool", "pool", |spec| {
            spec.max_replicas = i64::try_from(backlog.max).ok();
            for trigger in spec.scale_up_triggers.iter_mut().flatten() {
                trigger.duration = Some(backlog.duration.clone());
            }
        })
        .await?;
    recovery::until_ready(&world).await?;
    let every = backlog.jobs / backlog.long.max(1);
    for number in 0..backlog.jobs {
        let is_long = number % every.max(1) == 0 && number / every.max(1) < backlog.long;
        world.queue_job(if is_long {
            backlog.long_for
        } else {
            backlog.short_for
        });
    }
    let work =
        backlog.long_for * u32::try_from(backlog.long)? + backlog.short_for * u32::try_from(backlog.jobs)?;
    world.until_jobs_done(work + 2 * MINUTE).await?;
    world.until_nothing_left(MINUTE).await?;
    Ok(look_back(&world, backlog.max))
}

fn look_back(world: &World, max: usize) -> BacklogFigures {
    let (jobs, pods) = (world.github.jobs(), world.kubelet.pods());
    let history = History {
        jobs: &jobs,
        pods: &pods,
        max,
    };
    let first = jobs.iter().filter_map(|job| job.queued_at).min();
    let last = jobs.iter().filter_map(|job| job.completed_at).max();
    let between = |from: Option<Timestamp>, to: Option<Timestamp>| match (from, to) {
        (Some(from), Some(to)) => positive(to.duration_since(from)),
        _ => Duration::MAX,
    };
    let longest = |times: &mut dyn Iterator<Item = Duration>| times.max().unwrap_or_default();
    let counters = world.kubelet.counters();
    BacklogFigures {
        done: counters.jobs_succeeded,
        took: between(first, last),
        waited: longest(&mut jobs.iter().map(|job| between(job.queued_at, job.started_at))),
        refill: history.refill(),
        below: history.below(),
        pod_start: longest(
            &mut pods
                .iter()
                .filter(|pod| pod.running.is_some())
                .map(|pod| between(Some(pod.created), pod.running)),
        ),
        highest: history.highest(),
        harmed: counters.busy_deleted + world.github.interrupted(),
    }
}

fn positive(time: SignedDuration) -> Duration {
    Duration::try_from(time).unwrap_or_default()
}

/// What happened, to be asked about any moment.
struct History<'a> {
    jobs: &'a [JobView],
    pods: &'a [PodTrace],
    max: usize,
}

impl History<'_> {
    fn open(&self, at: Timestamp) -> usize {
        let is_open = |job: &&JobView| {
            job.queued_at.is_some_and(|queued| queued <= at) && job.completed_at.is_none_or(|end| end > at)
        };
        self.jobs.iter().filter(is_open).count()
    }

    fn waiting(&self, at: Timestamp) -> bool {
        self.jobs.iter().any(|job| {
            job.queued_at.is_some_and(|queued| queued <= at) && job.started_at.is_none_or(|start| start > at)
        })
    }

    /// Pods whose runner has not ended, from `since(pod)` on.
    fn up(&self, at: Timestamp, since: impl Fn(&PodTrace) -> Option<Timestamp>) -> usize {
        let is_up = |pod: &&PodTrace| {
            since(pod).is_some_and(|since| since <= at) && pod.ended.or(pod.gone).is_none_or(|end| end > at)
        };
        self.pods.iter().filter(is_up).count()
    }

    fn highest(&self) -> usize {
        let at_creations = self
            .pods
            .iter()
            .map(|pod| self.up(pod.created, |pod| Some(pod.created)));
        at_creations.max().unwrap_or_default()
    }

    /// For each end, the time until pending and running runners are as many again as there is work for.
    fn refill(&self) -> Duration {
        let mut longest = Duration::ZERO;
        for end in self.pods.iter().filter_map(|pod| pod.ended) {
            let wanted = |at| self.max.min(self.open(at));
            let is_full = |at: &Timestamp| self.up(*at, |pod| Some(pod.created)) >= wanted(*at);
            // It fills up when a pod is made, or when there is no more work.
            let made = self.pods.iter().map(|pod| pod.created);
            let over = self.jobs.iter().filter_map(|job| job.completed_at);
            let full = made
                .chain(over)
                .chain([end])
                .filter(|at| *at >= end)
                .filter(is_full)
                .min();
            longest = longest.max(full.map_or(Duration::MAX, |full| positive(full.duration_since(end))));
        }
        longest
    }

    /// The longest time with fewer running pods than may be while jobs wait, once there were so many for the first time.
    fn below(&self) -> Duration {
        let mut moments: Vec<Timestamp> = self
            .pods
            .iter()
            .flat_map(|pod| [pod.running, pod.ended])
            .chain(
                self.jobs
                    .iter()
                    .flat_map(|job| [job.queued_at, job.started_at, job.completed_at]),
            )
            .flatten()
            .collect();
        moments.sort_unstable();
        let (mut since, mut longest, mut begun) = (None, Duration::ZERO, false);
        for at in moments {
            let is_full = self.up(at, |pod| pod.running) >= self.max;
            begun |= is_full;
            if let Some(since) = since {
                longest = longest.max(positive(at.duration_since(since)));
            }
            if is_full || !begun || !self.waiting(at) {
                since = None;
            } else {
                since.get_or_insert(at);
            }
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::github::JobState;

    fn t(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    fn job(id: u64, started: i64, completed: i64) -> JobView {
        JobView {
            id,
            run_id: id,
            run_attempt: 1,
            repository_id: 1,
            repository: "a/b".to_owned(),
            name: String::new(),
            labels: Vec::new(),
            state: JobState::Completed,
            conclusion: None,
            runner: None,
            created_at: t(0),
            queued_at: Some(t(0)),
            started_at: Some(t(started)),
            completed_at: Some(t(completed)),
            interrupted: false,
        }
    }

    fn pod(created: i64, running: i64, ended: i64) -> PodTrace {
        PodTrace {
            uid: String::new(),
            name: String::new(),
            namespace: String::new(),
            created: t(created),
            running: Some(t(running)),
            registered: None,
            job_started: None,
            ended: Some(t(ended)),
            deleted: None,
            gone: None,
            jobs: 1,
        }
    }

    #[test]
    fn gaps_are_found() {
        let jobs = [
            job(1, 100, 5_000),
            job(2, 100, 1_000),
            job(3, 4_500, 6_000),
            job(4, 5_900, 7_000),
        ];
        let pods = [
            pod(10, 90, 5_010),
            pod(10, 90, 1_010),
            pod(3_000, 4_400, 6_010),
            pod(5_200, 5_800, 7_010),
        ];
        let history = History {
            jobs: &jobs,
            pods: &pods,
            max: 2,
        };
        // The second runner ended at 1.01 s, the next one was made at 3 s and ran at 4.4 s.
        assert_eq!(history.refill(), Duration::from_millis(1_990));
        assert_eq!(history.below(), Duration::from_millis(3_390));
        assert_eq!(history.highest(), 2);
    }
}
