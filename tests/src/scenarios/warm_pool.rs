//! Runners that come and go in waves, in several zones: each wave works with the volumes of the one before (90 PAIN-14).

use std::{sync::Arc, time::Duration};

use anyhow::Result;

use crate::{
    control_plane::ControlPlane,
    volumes::{BindingMode, ReclaimPolicy},
    world::{Kind, VolumeFigures, World},
};

/// The pool.
const POOL: &str = "pool";
/// What a wait may take before the world is broken.
const PATIENCE: Duration = Duration::from_mins(3);
/// How long a job takes: long enough for all runners of a wave to be there at once.
const JOB: Duration = Duration::from_secs(5);

/// What came out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Pods that ran.
    pub runners: usize,
    /// The most pods at one moment.
    pub most_at_once: usize,
    /// What became of the volumes.
    pub volumes: VolumeFigures,
    /// Volumes there were when the RunnerSet was deleted and everything had settled.
    pub left: usize,
}

/// Lets `size` jobs come at once, `waves` times, in three zones, and deletes the RunnerSet at the end. A volume can be
/// used in the zone alone that it was made in.
pub async fn run(
    plane: Option<Arc<ControlPlane>>,
    binding: BindingMode,
    size: usize,
    waves: usize,
) -> Result<Figures> {
    let builder = World::builder("warm")
        .kind(Kind::RunnerSet)
        .storage(binding, ReclaimPolicy::Delete)
        .zones(&["a", "b", "c"]);
    let world = match plane {
        Some(plane) => builder.on(plane).start().await?,
        None => builder.start().await?,
    };
    world.pool(POOL, |pool| pool.replicas = Some(0)).await?;
    world.autoscaler(POOL, POOL, |_| {}).await?;
    for _ in 0..waves {
        world.queue_jobs(size, JOB);
        world.until_jobs_done(PATIENCE).await?;
        world.until_nothing_left(PATIENCE).await?;
        // What the next wave finds is then a matter of who may use what, and not of how busy the machine is.
        world.until_volumes_settle(PATIENCE).await?;
    }
    let volumes = world.volume_figures().await?;
    world.delete_pool(POOL).await?;
    let storage = world.storage()?;
    let none = async |_: &World| Ok(storage.volumes().is_empty());
    world
        .until("the volumes go with their RunnerSet", PATIENCE, none)
        .await?;
    let counters = world.kubelet.counters();
    Ok(Figures {
        runners: counters.pods_created,
        most_at_once: counters.highest_alive,
        volumes,
        left: storage.volumes().len(),
    })
}
