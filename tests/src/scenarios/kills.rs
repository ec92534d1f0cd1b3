//! Processes that die at any moment: the same result after a restart, and a spare pod per kill at most.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    control_plane::ControlPlane,
    world::{Kind, VolumeFigures, World},
};

/// The pool and its autoscaler.
const POOL: &str = "pool";
/// What a wait may take before the world is broken.
const PATIENCE: Duration = Duration::from_mins(3);

/// What came out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Jobs that ran to their end.
    pub completed: u64,
    /// Pods that were ever made.
    pub pods: usize,
    /// Jobs that lost their runner.
    pub interrupted: usize,
    /// Pods that were told to end while their job ran.
    pub busy_deleted: usize,
    /// What became of the volumes; nothing in a world without.
    pub volumes: VolumeFigures,
}

/// Kills the manager and the webhook server at seeded moments while jobs run. The sender repeats what was not answered
/// 2xx.
pub async fn run(
    plane: Option<Arc<ControlPlane>>,
    kind: Kind,
    seed: u64,
    jobs: usize,
    kills: usize,
) -> Result<Figures> {
    let builder = World::builder("kills").kind(kind).seed(seed);
    let world = match plane {
        Some(plane) => builder.on(plane).start().await?,
        None => builder.start().await?,
    };
    world.pool(POOL, |_| {}).await?;
    // A kill may cost a spare runner, which the scale-down delay keeps for the next job: a short one here, so that it goes.
    world
        .autoscaler(POOL, POOL, |spec| {
            spec.scale_down_delay_seconds_after_scale_out = Some(3);
        })
        .await?;
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..jobs {
        let duration = Duration::from_millis(random.random_range(50..3_000));
        world.queue_job(duration);
    }
    for _ in 0..kills {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..2_000))).await;
        if random.random_bool(0.6) {
            world.kill_manager().await?;
            world.restart_manager().await?;
        } else {
            world.kill_webhook_server().await?;
            world.restart_webhook_server().await?;
        }
    }
    world.until_jobs_done(PATIENCE).await?;
    world.until_nothing_left(PATIENCE).await?;
    world.until_volumes_settle(PATIENCE).await?;
    let counters = world.kubelet.counters();
    Ok(Figures {
        completed: world.github.job_stats().completed,
        pods: counters.pods_created,
        interrupted: world.github.interrupted(),
        busy_deleted: counters.busy_deleted,
        volumes: world.volume_figures().await?,
    })
}
