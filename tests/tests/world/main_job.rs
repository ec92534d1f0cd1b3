//! The main job: a webhook comes in, runners come up, jobs finish, runners go.

use std::time::Duration;

use muster_tests::world::{Kind, World};

const MINUTE: Duration = Duration::from_mins(1);

/// A world with one pool and its autoscaler.
async fn pool(name: &str, kind: Kind) -> World {
    let world = World::builder(name).kind(kind).start().await.unwrap();
    world.pool("pool", |_| {}).await.unwrap();
    world.autoscaler("pool", "pool", |_| {}).await.unwrap();
    world
}

async fn assert_cost(world: &World, jobs: usize, spare: usize) {
    let counters = world.kubelet.counters();
    let created = counters.pods_created;
    assert!(created <= jobs + spare, "{created} pods for {jobs} jobs");
    assert_eq!(counters.busy_deleted, 0, "no busy runner was deleted");
    assert_eq!(world.github.interrupted(), 0, "no job was interrupted");
    world.until_volumes_settle(MINUTE).await.unwrap();
    let volumes = world.volume_figures().await.unwrap();
    assert!(volumes.is_good(), "{}", volumes.line());
}

async fn a_burst_of_jobs_costs_a_pod_each_and_leaves_nothing(kind: Kind) {
    let world = pool("burst", kind).await;
    world.queue_jobs(20, Duration::from_millis(500));
    world.until_jobs_done(MINUTE).await.unwrap();
    world.until_nothing_left(MINUTE).await.unwrap();
    assert_cost(&world, 20, 0).await;
}

async fn jobs_one_after_the_other_cost_a_pod_each(kind: Kind) {
    let world = pool("sequential", kind).await;
    for _ in 0..8 {
        world.queue_job(Duration::from_millis(50));
        world.until_jobs_done(MINUTE).await.unwrap();
    }
    world.until_nothing_left(MINUTE).await.unwrap();
    assert_cost(&world, 8, 0).await;
}

async fn a_backlog_beyond_max_is_worked_off_and_runners_are_refilled_at_once(kind: Kind) {
    let world = World::builder("backlog").kind(kind).start().await.unwrap();
    world.pool("pool", |_| {}).await.unwrap();
    world
        .autoscaler("pool", "pool", |spec| spec.max_replicas = Some(3))
        .await
        .unwrap();
    world.queue_jobs(15, Duration::from_millis(200));
    world.until_jobs_done(MINUTE).await.unwrap();
    world.until_nothing_left(MINUTE).await.unwrap();
    assert_cost(&world, 15, 0).await;
    // No more than three at a time.
    let runs = world.kubelet.jobs();
    for run in &runs {
        let beside = runs
            .iter()
            .filter(|other| other.started <= run.started && run.started < other.ended)
            .count();
        assert!(beside <= 3, "{beside} jobs at once");
    }
}

async fn jobs_that_run_elsewhere_and_cancelled_jobs_leave_the_ledger(kind: Kind) {
    let world = pool("elsewhere", kind).await;
    world
        .pool("pool", |pool| pool.config.docker_enabled = Some(false))
        .await
        .unwrap();
    // Nobody starts here: the runners hang before they register.
    world.kubelet.inject(muster_tests::kubelet::FaultRule::new(
        muster_tests::kubelet::Fault::NeverRegisters,
    ));
    let taken = world.queue_job(Duration::from_secs(1));
    let cancelled = world.queue_job(Duration::from_secs(1));
    world
        .until("both are wanted", MINUTE, async |world: &World| {
            Ok(world.pool_state("pool").await?.desired == Some(2))
        })
        .await
        .unwrap();
    assert!(world.github.start_elsewhere(taken.id, "somebody-elses-runner"));
    assert!(world.github.cancel_job(cancelled.id));
    world
        .until("none is wanted", MINUTE, async |world: &World| {
            Ok(world.pool_state("pool").await?.desired == Some(0))
        })
        .await
        .unwrap();
}

async fn github_in_the_dark_keeps_what_is_there(kind: Kind) {
    let world = pool("dark", kind).await;
    world.queue_job(Duration::from_secs(2));
    world
        .until("the job runs", MINUTE, async |world: &World| {
            Ok(world.github.job_stats().in_progress == 1)
        })
        .await
        .unwrap();
    let status = muster_tests::github::FaultKind::Status(503);
    let fault = world.github.inject(muster_tests::github::Fault::on(
        muster_tests::github::Family::RegistrationToken,
        status,
    ));
    world.queue_job(Duration::from_millis(50));
    world.until_jobs_done(MINUTE).await.unwrap();
    world.github.clear_fault(fault);
    world.until_nothing_left(MINUTE).await.unwrap();
    assert_cost(&world, 2, 0).await;
}

async fn list_calls_do_not_grow_with_the_number_of_runners(kind: Kind) {
    let world = World::builder("list-calls").kind(kind).start().await.unwrap();
    world.pool("pool", |pool| pool.replicas = Some(30)).await.unwrap();
    world.until_known(30, MINUTE).await.unwrap();
    let calls = world
        .github
        .counters()
        .get("list_runners")
        .copied()
        .unwrap_or_default();
    assert!(calls <= 2, "{calls} list calls for 30 runners of one scope");
}

over_both_kinds!(
    a_burst_of_jobs_costs_a_pod_each_and_leaves_nothing,
    jobs_one_after_the_other_cost_a_pod_each,
    a_backlog_beyond_max_is_worked_off_and_runners_are_refilled_at_once,
    jobs_that_run_elsewhere_and_cancelled_jobs_leave_the_ledger,
    github_in_the_dark_keeps_what_is_there,
    list_calls_do_not_grow_with_the_number_of_runners,
);
