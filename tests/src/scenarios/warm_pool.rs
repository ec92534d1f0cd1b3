//! Runners that come and go in waves, in several zones: each wave works with the volumes of the one before (90 PAIN-14).

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};

use crate::{
    control_plane::ControlPlane,
    volumes::{BindingMode, ReclaimPolicy},
    world::{Kind, VolumeFigures, World},
};

/// The pool.
const POOL: &str = "pool";
/// What a wait may take before the world is broken.
const PATIENCE: Duration = Duration::from_mins(3);

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

/// Lets `size` runners come and go `waves` times, in three zones, and deletes the RunnerSet at the end. A volume can be
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
    let replicas = i32::try_from(size).context("so many runners")?;
    world.pool(POOL, |pool| pool.replicas = Some(0)).await?;
    for _ in 0..waves {
        world.scale_pool(POOL, replicas).await?;
        world
            .until("all runners are registered", PATIENCE, async |world| {
                Ok(world.github.runners().len() == size)
            })
            .await?;
        world.scale_pool(POOL, 0).await?;
        world.until_nothing_left(PATIENCE).await?;
    }
    world.until_volumes_settle(PATIENCE).await?;
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
