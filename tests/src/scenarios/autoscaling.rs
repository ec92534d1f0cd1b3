//! Pull metrics, their merge with webhooks, and scheduled overrides, in a live world.

use std::time::Duration;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use muster_crds::legacy::{HorizontalRunnerAutoscalerSpec, MetricSpec};
use serde_json::json;

use crate::{
    github::{Family, Fault, FaultKind},
    world::World,
};

/// Name of the pool and its autoscaler.
const POOL: &str = "pool";
const MINUTE: Duration = Duration::from_mins(1);
/// A refused call is made again after three minutes (spec 02 §21).
const REFUSED: Duration = Duration::from_mins(4);
const JOBS: &str = "TotalNumberOfQueuedAndInProgressWorkflowRuns";
const BUSY: &str = "PercentageRunnersBusy";

/// A world whose autoscalers look every second, and whose idle runners go at once.
async fn world(name: &str, flags: &[&str]) -> Result<World> {
    let mut builder = World::builder(name)
        .github(|options| options.max_age = 1)
        .manager_flag("--sync-period=1s")
        .manager_flag("--queue-reconciliation-period=0")
        .manager_flag("--default-scale-down-delay=0s");
    for flag in flags {
        builder = builder.manager_flag(flag);
    }
    builder.start().await
}

async fn pool(world: &World, change: impl FnOnce(&mut HorizontalRunnerAutoscalerSpec)) -> Result<()> {
    world.deployment(POOL, |spec| spec.replicas = Some(0)).await?;
    world.autoscaler(POOL, POOL, change).await
}

/// The autoscaler asks only GitHub.
fn pulls(spec: &mut HorizontalRunnerAutoscalerSpec, metrics: &[&str]) {
    spec.scale_up_triggers = None;
    let metric = |name: &&str| MetricSpec {
        type_: Some((*name).to_owned()),
        repository_names: Some(vec!["demo".to_owned()]),
        ..MetricSpec::default()
    };
    spec.metrics = Some(metrics.iter().map(metric).collect());
}

async fn replicas(world: &World) -> Result<i64> {
    let deployment = world.get_deployment(POOL).await?;
    Ok(deployment.spec.replicas.unwrap_or(1))
}

async fn until_replicas(world: &World, wanted: i64, patience: Duration) -> Result<()> {
    let what = format!("the pool has {wanted} replicas");
    world
        .until(
            &what,
            patience,
            async |world| Ok(replicas(world).await? == wanted),
        )
        .await
}

/// Whether a condition of the autoscaler is `False` for this reason.
async fn complains(world: &World, type_: &str, reason: &str) -> Result<bool> {
    let status = world.get_autoscaler(POOL).await?.status.unwrap_or_default();
    let mut conditions = status.conditions.into_iter().flatten();
    Ok(conditions.any(|condition| {
        condition.type_ == type_ && condition.status == "False" && condition.reason == reason
    }))
}

/// What became of a burst of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// Jobs that were queued.
    pub jobs: usize,
    /// Jobs that ran to their end.
    pub done: usize,
    /// Pods that were made for them.
    pub pods: usize,
}

/// A burst of jobs that only `TotalNumberOfQueuedAndInProgressWorkflowRuns` tells of, or webhooks as well, merged in this way.
///
/// # Errors
/// When the jobs are not done, or something is left over, within a minute each.
pub async fn burst(name: &str, jobs: usize, webhooks: bool, merge: &str) -> Result<Burst> {
    let world = world(name, &[&format!("--demand-merge={merge}")]).await?;
    pool(&world, |spec| {
        let triggers = spec.scale_up_triggers.clone();
        pulls(spec, &[JOBS]);
        if webhooks {
            spec.scale_up_triggers = triggers;
        }
    })
    .await?;
    world.queue_jobs(jobs, Duration::from_secs(1));
    world.until_jobs_done(MINUTE).await?;
    world.until_nothing_left(MINUTE).await?;
    Ok(Burst {
        jobs,
        done: world.kubelet.counters().jobs_succeeded,
        pods: world.kubelet.counters().pods_created,
    })
}

/// A pool whose runners are all busy grows by steps to its maximum, and shrinks to its minimum when they are idle; beside it, the second metric
/// begins from nothing. Answers the numbers of replicas that were seen, in their order.
///
/// # Errors
/// When the pool does not get there within a minute.
pub async fn busy_share(name: &str, max: i64) -> Result<Vec<i64>> {
    let world = world(name, &[]).await?;
    pool(&world, |spec| {
        pulls(spec, &[BUSY, JOBS]);
        spec.max_replicas = Some(max);
    })
    .await?;
    until_replicas(&world, 0, MINUTE).await?;
    let mut seen = vec![0];
    let jobs = usize::try_from(max)? + 1;
    let handles: Vec<_> = (0..jobs)
        .map(|_| world.queue_job(Duration::from_mins(10)))
        .collect();
    while seen.last() != Some(&max) {
        let last = seen.last().copied().unwrap_or_default();
        world
            .until("the pool grows", MINUTE, async |world| {
                Ok(replicas(world).await? > last)
            })
            .await?;
        seen.push(replicas(&world).await?);
    }
    for job in handles {
        world.github.complete_job(job.id, "success");
    }
    until_replicas(&world, 0, MINUTE).await?;
    seen.push(0);
    Ok(seen)
}

/// GitHub fails while a pool has runners: they are kept, the condition says why; then GitHub answers again. Answers the fewest replicas that were seen
/// meanwhile.
///
/// # Errors
/// When the condition does not come, or does not go, within a minute.
pub async fn silence(name: &str, runners: usize, kind: FaultKind, reason: &str) -> Result<i64> {
    let world = world(name, &[]).await?;
    pool(&world, |spec| pulls(spec, &[JOBS])).await?;
    let jobs: Vec<_> = (0..runners)
        .map(|_| world.queue_job(Duration::from_mins(10)))
        .collect();
    until_replicas(&world, i64::try_from(runners)?, MINUTE).await?;
    let patience = if matches!(kind, FaultKind::Forbidden) {
        REFUSED
    } else {
        MINUTE
    };
    let fault = world.github.inject(Fault::on(Family::ListJobs, kind));
    world
        .until("the condition says so", MINUTE, async |world| {
            complains(world, "MetricsPulled", reason).await
        })
        .await?;
    let mut fewest = replicas(&world).await?;
    // The jobs are over, and nobody can know.
    for job in &jobs {
        world.github.complete_job(job.id, "success");
    }
    let end = tokio::time::Instant::now() + Duration::from_secs(3);
    while tokio::time::Instant::now() < end {
        fewest = fewest.min(replicas(&world).await?);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.github.clear_fault(fault);
    until_replicas(&world, 0, patience).await?;
    world
        .until("the condition is well again", MINUTE, async |world| {
            Ok(!complains(world, "MetricsPulled", reason).await?)
        })
        .await?;
    Ok(fewest)
}

/// `status.scheduledOverridesSummary`, once it is another than before.
async fn summary(world: &World, before: Option<&str>) -> Result<Option<String>> {
    let read = async |world: &World| -> Result<Option<String>> {
        let status = world.get_autoscaler(POOL).await?.status.unwrap_or_default();
        Ok(status.scheduled_overrides_summary)
    };
    let changes = async |world: &World| Ok(read(world).await?.as_deref() != before);
    world.until("the summary follows", MINUTE, changes).await?;
    read(world).await
}

/// The latest that an override may take effect: what a look, a write and a loaded machine cost, and far less than any period.
pub const LATEST: SignedDuration = SignedDuration::from_millis(1_500);

/// How an override came and went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// From the edge to the new replicas, at its start and at its end.
    pub late: [SignedDuration; 2],
    /// `status.scheduledOverridesSummary` before, during and after it.
    pub summaries: [Option<String>; 3],
    /// The summaries that upstream would print.
    pub expected: [Option<String>; 3],
    /// The override before it in the list, which is invalid, was said to be.
    pub said: bool,
}

impl Override {
    /// Whether both edges took effect, neither before its time nor late, and the status said what is right.
    pub fn is_good(&self) -> bool {
        let in_time = self.late.iter().all(|late| !late.is_negative() && *late < LATEST);
        in_time && self.summaries == self.expected && self.said
    }
}

/// An override of both bounds, once, in some seconds, for some seconds; an invalid one before it changes nothing. The sync period is a minute: nothing but
/// the edge itself wakes the autoscaler.
///
/// # Errors
/// When the replicas do not follow within a minute.
pub async fn schedule(name: &str) -> Result<Override> {
    let world = World::builder(name)
        .manager_flag("--sync-period=10m")
        .manager_flag("--default-scale-down-delay=0s")
        .start()
        .await?;
    let soon = world.github.now() + SignedDuration::from_secs(4);
    let begin = Timestamp::from_second(soon.as_second())?;
    let end = begin + SignedDuration::from_secs(4);
    let overrides = json!([
        {"startTime": end, "endTime": begin, "minReplicas": 50},
        {"startTime": begin, "endTime": end, "minReplicas": 9, "maxReplicas": 2},
    ]);
    pool(&world, |spec| {
        spec.max_replicas = Some(5);
        spec.scheduled_overrides = serde_json::from_value(overrides).ok();
    })
    .await?;
    until_replicas(&world, 0, MINUTE).await?;
    let before = summary(&world, None).await?;
    until_replicas(&world, 2, MINUTE).await?;
    let begun = world.github.now().duration_since(begin);
    let during = summary(&world, before.as_deref()).await?;
    let said = complains(&world, "ScheduleValid", "ScheduleInvalid").await?;
    until_replicas(&world, 0, MINUTE).await?;
    let ended = world.github.now().duration_since(end);
    let after = summary(&world, during.as_deref()).await?;
    let print = |bounds: &str, at: Timestamp| {
        let at = at.strftime("%Y-%m-%d %H:%M:%S +0000 UTC");
        Some(format!("{bounds} time={at}"))
    };
    Ok(Override {
        late: [begun, ended],
        summaries: [before, during, after],
        expected: [print("min=9 max=2", begin), print("min=0 max=5", end), None],
        said,
    })
}
