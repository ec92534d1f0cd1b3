//! A cluster that ARC ran: its objects are recognised by what they say, not by its template hash, none is made anew, and ARC
//! could come back at any moment.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use muster_crds::legacy::HorizontalRunnerAutoscaler;
use serde_json::json;

use crate::{control_plane::ControlPlane, world::World};

use super::arc;

const MINUTE: Duration = Duration::from_mins(1);
const PATIENCE: Duration = Duration::from_mins(2);

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct TakeOver {
    /// Pods that ARC left behind.
    pub pods: usize,
    /// Of those, pods that were not there any more after the take-over, and pods that are new.
    pub recreated: usize,
    /// What ARC could not work with while Muster ran, and after the last runner that Muster made.
    pub objections: Vec<String>,
    /// Whether the templates that ARC compares are as they were.
    pub templates_unchanged: bool,
    /// From the start of the webhook server, which stands in for the moment at which ARC's stopped, until it took webhooks.
    pub webhook_gap: Duration,
    /// From the manager's start until it had looked at everything.
    pub taken_over_after: Duration,
    /// From the scale-down until the idle runners were gone.
    pub idle_gone_after: Duration,
    /// Jobs that ended well.
    pub completed: usize,
    /// Jobs that lost their runner, and busy pods that were deleted.
    pub interrupted: usize,
    /// Pods in all, those of ARC included.
    pub pods_created: usize,
}

/// ARC leaves `busy` busy and `idle` idle runners; `job` is how long the jobs take.
pub async fn take_over(
    plane: Option<Arc<ControlPlane>>,
    busy: usize,
    idle: usize,
    job: Duration,
) -> Result<TakeOver> {
    let world = match plane {
        Some(plane) => World::builder("take-over").on(plane).start().await?,
        None => World::new("take-over").await?,
    };
    let before = leave(&world, busy, idle, job).await?;
    let templates = arc::templates(&world).await?;
    let mut figures = TakeOver {
        pods: before.len(),
        ..TakeOver::default()
    };

    let started = Instant::now();
    let begun = world.github.now();
    world.restart_webhook_server().await?;
    figures.webhook_gap = started.elapsed();
    world.restart_manager().await?;
    world
        .until("the manager has looked at them", PATIENCE, async |world| {
            settled(world, busy + idle, begun).await
        })
        .await?;
    figures.taken_over_after = started.elapsed();
    let after = uids(&world).await?;
    figures.recreated = before.symmetric_difference(&after).count();
    figures.objections = arc::objections(&world).await?;

    // One runner more, of Muster's making, beside those of ARC's.
    set_min(&world, idle + 1).await?;
    let more = async |world: &World| Ok(world.github.runners().len() == busy + idle + 1);
    world.until("one runner more", MINUTE, more).await?;
    let phased = async |world: &World| {
        let runners = world.runners().await?;
        let ready = |runner: &&muster_crds::legacy::Runner| {
            runner
                .status
                .as_ref()
                .is_some_and(|status| status.ready == Some(true))
        };
        Ok(runners.iter().filter(ready).count() == busy + idle + 1)
    };
    world.until("its Runner says so", MINUTE, phased).await?;
    figures.objections.extend(arc::objections(&world).await?);
    figures.templates_unchanged = arc::templates(&world).await? == templates;

    scale_down(&world, busy, &mut figures).await?;
    world
        .github
        .set_hook_active(world.hook.context("the world has no hook")?, true);
    world.until_jobs_done(PATIENCE + job).await?;
    world.until_nothing_left(PATIENCE).await?;
    let counters = world.kubelet.counters();
    figures.completed = counters.jobs_succeeded;
    figures.interrupted = counters.busy_deleted + world.github.interrupted();
    figures.pods_created = counters.pods_created;
    Ok(figures)
}

/// The world as ARC leaves it, and its processes stopped; the UIDs of its pods.
pub(super) async fn leave(
    world: &World,
    busy: usize,
    idle: usize,
    job: Duration,
) -> Result<BTreeSet<String>> {
    world.kill_manager().await?;
    world.kill_webhook_server().await?;
    let hook = world.hook.context("the world has no hook")?;
    // ARC's webhook server has heard of these jobs.
    world.github.set_hook_active(hook, false);
    world.queue_jobs(busy, job);
    arc::pool(world, busy + idle, busy).await?;
    let all =
        async |world: &World| Ok(world.github.runners().len() == busy + idle && running_jobs(world) == busy);
    world.until("ARC's runners are there", PATIENCE, all).await?;
    arc::note_ids(world).await?;
    uids(world).await
}

pub(super) fn running_jobs(world: &World) -> usize {
    usize::try_from(world.github.job_stats().in_progress).unwrap_or(usize::MAX)
}

pub(super) async fn uids(world: &World) -> Result<BTreeSet<String>> {
    Ok(world.pods().await?.iter().filter_map(Pod::uid).collect())
}

/// The autoscaler and the RunnerDeployment were written by this manager, and say what ARC's said.
pub(super) async fn settled(world: &World, runners: usize, since: Timestamp) -> Result<bool> {
    let runners = i64::try_from(runners)?;
    let deployment = world.get_deployment(arc::POOL).await?;
    let autoscaler = world.get_autoscaler(arc::POOL).await?;
    let full = deployment
        .status
        .is_some_and(|status| status.available_replicas == Some(runners));
    let wanted = deployment.spec.replicas == Some(runners);
    let desired = autoscaler
        .status
        .as_ref()
        .is_some_and(|status| status.desired_replicas == Some(runners));
    let metrics = world.metrics("manager").await?;
    let looked = [
        "horizontalrunnerautoscaler-controller",
        "runnerreplicaset-controller",
        "runner-controller",
        "runnerpod-controller",
    ]
    .iter()
    .all(|controller| {
        metrics.lines().any(|line| {
            line.starts_with("controller_runtime_reconcile_total")
                && line.contains(controller)
                && !line.ends_with(" 0")
        })
    });
    // A moment to do what it should not.
    let waited = world.github.now().duration_since(since).as_secs() >= 5;
    Ok(full && wanted && desired && looked && waited)
}

async fn set_min(world: &World, min: usize) -> Result<()> {
    let patch = Patch::Merge(json!({"spec": {"minReplicas": min}}));
    let api = world.api::<HorizontalRunnerAutoscaler>();
    let patched = api.patch(arc::POOL, &PatchParams::default(), &patch).await;
    patched.map(drop).context("could not change the autoscaler")
}

/// Only the jobs are wanted any more: the idle runners go, the busy ones stay.
async fn scale_down(world: &World, busy: usize, figures: &mut TakeOver) -> Result<()> {
    set_min(world, 0).await?;
    let begun = Instant::now();
    let gone = async |world: &World| Ok(world.pods().await?.len() <= busy);
    world.until("the idle runners are gone", PATIENCE, gone).await?;
    figures.idle_gone_after = begun.elapsed();
    let running = running_jobs(world);
    if running != busy {
        figures
            .objections
            .push(format!("after the scale-down {running} of {busy} jobs run"));
    }
    Ok(())
}
