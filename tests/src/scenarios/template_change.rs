//! Another template while jobs run: the idle runners are replaced first, the busy ones after their jobs, and what the
//! old ones had in their volumes is there for the new ones.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;

use crate::{
    control_plane::ControlPlane,
    kubelet::PodTrace,
    world::{Kind, VolumeFigures, World},
};

/// The pool.
const POOL: &str = "pool";
/// What a wait may take before the world is broken.
const PATIENCE: Duration = Duration::from_mins(3);

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Runners that were busy and idle at the change.
    pub at_change: (usize, usize),
    /// From the change until the last idle runner of the old template was told to end.
    pub idle_told_after: Duration,
    /// Idle runners that were replaced before the first job had ended.
    pub idle_first: usize,
    /// Busy runners that were told to end before their job had ended.
    pub busy_too_early: usize,
    /// Jobs that lost their runner, and busy pods that were deleted.
    pub interrupted: usize,
    /// Runners of the old template at the end.
    pub old_left: usize,
    /// What became of the volumes; nothing in a world without.
    pub volumes: VolumeFigures,
    /// Volumes of the new runners that an old one had used.
    pub volumes_followed: usize,
}

/// Changes the template of a pool of `busy` runners whose jobs take `job`, and as many idle ones as `idle`.
pub async fn run(
    plane: Option<Arc<ControlPlane>>,
    kind: Kind,
    busy: usize,
    idle: usize,
    job: Duration,
) -> Result<Figures> {
    let builder = World::builder("template").kind(kind);
    let world = match plane {
        Some(plane) => builder.on(plane).start().await?,
        None => builder.start().await?,
    };
    let all = busy + idle;
    let replicas = i32::try_from(all).context("so many runners")?;
    world.pool(POOL, |pool| pool.replicas = Some(replicas)).await?;
    world
        .until("all runners are registered", PATIENCE, async |world| {
            Ok(world.github.runners().len() == all)
        })
        .await?;
    world.queue_jobs(busy, job);
    world
        .until("so many are busy", PATIENCE, async |world| {
            Ok(world.github.runners().iter().filter(|runner| runner.busy).count() == busy)
        })
        .await?;
    let names = |wanted: bool| -> BTreeSet<String> {
        let runners = world.github.runners().into_iter();
        runners
            .filter(|runner| runner.busy == wanted)
            .map(|runner| runner.name)
            .collect()
    };
    let (busy_ones, idle_ones) = (names(true), names(false));
    let changed = crate::kubelet::now();
    world.change_image(POOL, "runner:2").await?;

    let old: BTreeSet<String> = busy_ones.union(&idle_ones).cloned().collect();
    let is_replaced = async |world: &World| {
        let new = world
            .github
            .runners()
            .into_iter()
            .filter(|runner| !old.contains(&runner.name));
        let pods = world.pod_names().await?;
        Ok(new.count() == all && !pods.iter().any(|pod| old.contains(pod)))
    };
    world.until("all runners are new", PATIENCE, is_replaced).await?;
    world.until_volumes_settle(PATIENCE).await?;

    let traces = world.kubelet.pods();
    let of = |names: &BTreeSet<String>| -> Vec<PodTrace> {
        traces
            .iter()
            .filter(|trace| names.contains(&trace.name))
            .cloned()
            .collect()
    };
    let jobs = world.kubelet.jobs();
    let Some(first_end) = jobs.iter().map(|job| job.ended).min() else {
        bail!("no job has ended");
    };
    let told = |trace: &PodTrace| trace.deleted.unwrap_or(Timestamp::MAX);
    let last_idle = of(&idle_ones).iter().map(told).max().unwrap_or(changed);
    let too_early = of(&busy_ones).into_iter().filter(|trace| {
        let end = jobs.iter().find(|job| job.pod == trace.name).map(|job| job.ended);
        end.is_none_or(|end| told(trace) < end)
    });
    let new_names: BTreeSet<String> = world.pod_names().await?.into_iter().collect();
    let counters = world.kubelet.counters();
    Ok(Figures {
        at_change: (busy_ones.len(), idle_ones.len()),
        idle_told_after: last_idle.duration_since(changed).unsigned_abs(),
        idle_first: of(&idle_ones)
            .iter()
            .filter(|trace| told(trace) < first_end)
            .count(),
        busy_too_early: too_early.count(),
        interrupted: world.github.interrupted() + counters.busy_deleted,
        old_left: new_names.intersection(&old).count(),
        volumes: world.volume_figures().await?,
        volumes_followed: followed(&world, &old, &new_names),
    })
}

/// How many of the new pods have a volume that one of the old ones had.
fn followed(world: &World, old: &BTreeSet<String>, new: &BTreeSet<String>) -> usize {
    let mounts = world
        .storage
        .as_ref()
        .map(|storage| storage.mounts())
        .unwrap_or_default();
    let of_old: BTreeSet<&String> = mounts
        .iter()
        .filter(|mount| old.contains(&mount.pod_name))
        .map(|mount| &mount.volume)
        .collect();
    let of_new = mounts.iter().filter(|mount| new.contains(&mount.pod_name));
    of_new.filter(|mount| of_old.contains(&mount.volume)).count()
}
