//! Queues the jobs, kills processes where that is asked for, and waits until every job is over or nothing moves.

use std::time::{Duration, Instant};

use anyhow::Result;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio_util::sync::CancellationToken;

use crate::{github::JobStats, terminal::Terminal, world::World};

use super::{Options, display};

/// How often what is waited for is looked at without a sign from GitHub.
const LOOK: Duration = Duration::from_millis(100);

/// What happened beside the jobs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Played {
    /// Kills.
    pub(super) kills: usize,
}

/// Returns when every job is completed, or when none has made a step for [`Options::patience`].
pub(super) async fn play(world: &World, options: &Options, terminal: Terminal) -> Result<Played> {
    let over = CancellationToken::new();
    let kills = tokio::sync::watch::Sender::new(0);
    let work = async {
        let worked = work(world, options).await;
        over.cancel();
        worked
    };
    let killing = async {
        let killed = kill(world, options, &kills, &over).await;
        if killed.is_err() {
            over.cancel();
        }
        killed
    };
    let showing = display::show(world, options, terminal, &kills, &over);
    let (worked, killed, ()) = tokio::join!(work, killing, showing);
    worked?;
    killed?;
    Ok(Played {
        kills: *kills.borrow(),
    })
}

async fn work(world: &World, options: &Options) -> Result<()> {
    let jobs = options.job_count();
    let wave = if options.sequential {
        1
    } else {
        options.wave_size()
    };
    let mut queued = 0;
    while queued < jobs {
        let now = wave.min(jobs - queued);
        world.queue_jobs(now, options.job_seconds);
        queued += now;
        // A burst of waves overlaps; in a sequence nothing does.
        let open_at_most = match (options.sequential, queued == jobs) {
            (_, true) | (true, _) => 0,
            (false, false) => now / 2,
        };
        if !moves_until(world, options, open_at_most).await? {
            break;
        }
    }
    Ok(())
}

/// Waits until at most so many jobs are open. False when nothing has moved for too long.
async fn moves_until(world: &World, options: &Options, open_at_most: usize) -> Result<bool> {
    let open_at_most = u64::try_from(open_at_most).unwrap_or(u64::MAX);
    let patience = options.patience + options.job_seconds;
    let mut changes = world.github.changes();
    let (mut last, mut moved) = (JobStats::default(), Instant::now());
    loop {
        let stats = world.github.job_stats();
        if stats.open() <= open_at_most {
            return Ok(true);
        }
        if stats != last {
            (last, moved) = (stats, Instant::now());
        }
        if moved.elapsed() > patience {
            return Ok(false);
        }
        world.check_alive().await?;
        // Either a change or the time is a reason to look again.
        drop(tokio::time::timeout(LOOK, changes.changed()).await);
    }
}

/// Kills and restarts processes until the jobs are over; what was begun is brought to its end.
async fn kill(
    world: &World,
    options: &Options,
    kills: &tokio::sync::watch::Sender<usize>,
    over: &CancellationToken,
) -> Result<()> {
    let Some(every) = options.kill_every else {
        return Ok(());
    };
    let mut random = StdRng::seed_from_u64(options.seed);
    loop {
        let pause = every.mul_f64(random.random_range(0.2..1.8));
        let (manager, down) = (random.random_bool(0.6), random.random_range(0..400));
        if over
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_none()
        {
            return Ok(());
        }
        kills.send_modify(|kills| *kills += 1);
        if manager {
            world.kill_manager().await?;
        } else {
            world.kill_webhook_server().await?;
        }
        tokio::time::sleep(Duration::from_millis(down)).await;
        if manager {
            world.restart_manager().await?;
        } else {
            world.restart_webhook_server().await?;
        }
    }
}
