//! Processes that die at any moment: the same result after a restart, and a spare pod per kill at most.

use std::time::Duration;

use muster_crds::legacy::HorizontalRunnerAutoscalerSpec;
use muster_tests::world::World;
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Kills the manager and the webhook server at seeded moments while jobs run. The sender repeats what was not answered 2xx.
async fn jobs_survive_kills(seed: u64, jobs: usize, kills: usize) {
    let world = World::builder("kills")
        .seed(seed)
        .github(|options| options.resend_until_2xx = true)
        .start()
        .await
        .unwrap();
    world.deployment("pool", |_| {}).await.unwrap();
    // A kill may cost a spare runner, which the scale-down delay keeps for the next job: a short one here, so that it goes.
    let delay = |spec: &mut HorizontalRunnerAutoscalerSpec| {
        spec.scale_down_delay_seconds_after_scale_out = Some(3);
    };
    world.autoscaler("pool", "pool", delay).await.unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    let durations: Vec<_> = (0..jobs)
        .map(|_| Duration::from_millis(random.random_range(50..3_000)))
        .collect();
    for duration in durations {
        world.queue_job(duration);
    }
    for _ in 0..kills {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..2_000))).await;
        if random.random_bool(0.6) {
            world.kill_manager().await.unwrap();
            world.restart_manager().await.unwrap();
        } else {
            world.kill_webhook_server().await.unwrap();
            world.restart_webhook_server().await.unwrap();
        }
    }
    world.until_jobs_done(Duration::from_mins(2)).await.unwrap();
    world.until_nothing_left(Duration::from_mins(2)).await.unwrap();
    let counters = world.kubelet.counters();
    let created = counters.pods_created;
    assert!(
        created <= jobs + kills,
        "seed {seed}: {created} pods for {jobs} jobs and {kills} kills"
    );
    assert_eq!(
        (counters.busy_deleted, world.github.interrupted()),
        (0, 0),
        "seed {seed}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_processes_leave_no_job_behind() {
    jobs_survive_kills(1, 25, 4).await;
}
